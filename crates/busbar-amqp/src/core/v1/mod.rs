//! Sessions of AMQP 1.0: how a connection begins and ends, and what arrives on it.
//!
//! They stand on the same queues and exchanges as the channels of 0-9-1. A receiver is a consumer of a queue; for
//! a topic that is a queue of its own, which lasts as long as the link or, for a durable subscription, until the
//! subscription is ended.

mod attach;
mod link;
mod send;
mod session;
mod transfer;

use std::sync::Arc;

use busbar_event::Micros;
use busbar_gateway::{ClientOrigin, ConnId, Credentials, Effect, EventLog};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::limits::{
    FRAME_BYTES_MAX, V1_CHANNEL_MAX, V1_FRAME_BYTES_MIN, V1_NAME_BYTES_MAX, VHOST_BYTES_MAX,
};
use crate::v1::fault::{self, FaultScope, V1Fault};
use crate::v1::performative::OpenFields;
use crate::v1::{Performative, SASL_HEADER, TypedReader, V1_HEADER, V1Frame, encode, split};

use super::Broker;
use super::connection::ConnStage;
pub(super) use link::takes_more;
pub(super) use session::V1Session;

/// What a connection of AMQP 1.0 has beside what every connection has.
pub struct V1Conn<T> {
    /// The name of the client.
    pub container: Arc<str>,
    /// The largest frame that the client takes, in bytes.
    pub frame_bytes_max: usize,
    /// The highest channel that the client takes.
    pub channel_max: u16,
    /// How often the client has to hear something, in microseconds; zero for never.
    pub beat_us: Micros,
    /// Whether the client logged in by SASL.
    pub sasl: bool,
    /// Whether `open` was sent.
    pub opened: bool,
    /// Bytes of messages of which more is to come.
    pub partial_bytes: usize,
    /// Sessions by the channel of the client, which is that of the server too.
    pub sessions: HashMap<u16, V1Session<T>, RandomState>,
}

impl<T> Default for V1Conn<T> {
    fn default() -> V1Conn<T> {
        V1Conn {
            container: Arc::from(""),
            frame_bytes_max: V1_FRAME_BYTES_MIN as usize,
            channel_max: V1_CHANNEL_MAX,
            beat_us: 0,
            sasl: false,
            opened: false,
            partial_bytes: 0,
            sessions: HashMap::default(),
        }
    }
}

/// The outcome of SASL for a login that is wrong.
const SASL_REFUSED: u8 = 1;
/// The outcome of SASL for a client that may try again later.
const SASL_LATER: u8 = 4;

/// The name of the virtual host that a client means by the name of the server: `vhost:NAME`, as for RabbitMQ.
fn vhost_of(hostname: Option<&str>) -> &str {
    let named = hostname.and_then(|name| name.strip_prefix("vhost:"));
    named
        .filter(|name| name.len() <= VHOST_BYTES_MAX)
        .unwrap_or("/")
}

impl<S: EventLog> Broker<S> {
    pub(super) fn v1(&mut self, id: ConnId) -> Option<&mut V1Conn<S::Ticket>> {
        self.conn(id)?.v1.as_deref_mut()
    }

    pub(super) fn v1_session(
        &mut self,
        id: ConnId,
        channel: u16,
    ) -> Option<&mut V1Session<S::Ticket>> {
        self.v1(id)?.sessions.get_mut(&channel)
    }

    /// The client wants to log in by SASL.
    pub(super) fn v1_begin_sasl(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        conn.v1 = Some(Box::new(V1Conn {
            sasl: true,
            ..V1Conn::default()
        }));
        conn.stage = ConnStage::Start;
        let names: &[&str] = match conn.origin.user {
            Some(_) => &["PLAIN", "EXTERNAL", "ANONYMOUS"],
            None => &["PLAIN", "ANONYMOUS"],
        };
        self.send(id, |out| {
            out.extend_from_slice(SASL_HEADER);
            encode::sasl_mechanisms(names, out);
        });
    }

    /// The client has logged in, or goes without.
    pub(super) fn v1_begin(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        let logs_in = conn.v1.is_none();
        conn.v1.get_or_insert_default();
        conn.stage = ConnStage::Open;
        conn.out
            .append(None, |out| out.extend_from_slice(V1_HEADER));
        if logs_in {
            conn.mechanism = "ANONYMOUS";
            self.v1_log_in(id, None, None);
        }
        self.wake(id);
    }

    fn v1_log_in(&mut self, id: ConnId, username: Option<String>, password: Option<Vec<u8>>) {
        let Some(conn) = self.conn(id) else { return };
        let origin = match conn.mechanism {
            // Only who asks for it is taken for the user of a certificate.
            "EXTERNAL" => conn.origin.clone(),
            _ => ClientOrigin {
                user: None,
                ..conn.origin.clone()
            },
        };
        conn.stage = ConnStage::Login;
        conn.waits = true;
        let credentials = Credentials {
            client_id: String::new(),
            username,
            password,
            origin,
        };
        self.effects.push(Effect::Authenticate(id, credentials));
    }

    /// The login was checked.
    pub(super) fn v1_authenticated(&mut self, id: ConnId, taken: bool, now: Micros) {
        let Some(conn) = self.conn(id) else { return };
        let by_sasl = conn.v1.as_deref().is_some_and(|v1| v1.sasl);
        match (taken, by_sasl) {
            (true, true) => {
                conn.stage = ConnStage::Header;
                self.send(id, |out| encode::sasl_outcome(0, out));
            }
            (true, false) => conn.stage = ConnStage::Open,
            (false, true) => {
                self.counters.logins_refused.add(1);
                self.v1_refuse_login(id, SASL_REFUSED, now);
            }
            (false, false) => {
                self.counters.logins_refused.add(1);
                let fault = V1Fault::connection(fault::UNAUTHORIZED, "a login is needed");
                self.v1_close(id, &fault, now);
            }
        }
    }

    /// Handles a frame at the front of `bytes`; returns how many bytes it took, `None` when it has to wait.
    pub(super) fn v1_input(&mut self, id: ConnId, bytes: &[u8], now: Micros) -> Option<usize> {
        let (frame, len) = match split(bytes, FRAME_BYTES_MAX as usize) {
            Ok(Some(whole)) => whole,
            Ok(None) => return None,
            Err(fault) => {
                self.v1_fail(id, 0, fault, now);
                return Some(bytes.len());
            }
        };
        match self.v1_frame(id, frame, now) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(fault) => self.v1_fail(id, frame.channel, fault, now),
        }
        Some(len)
    }

    /// Handles a frame; false when it has to wait.
    fn v1_frame(&mut self, id: ConnId, frame: V1Frame<'_>, now: Micros) -> Result<bool, V1Fault> {
        let Some(conn) = self.conn(id) else {
            return Ok(true);
        };
        let of_sasl = conn.stage == ConnStage::Start;
        if frame.kind != u8::from(of_sasl) {
            return Err(V1Fault::framing(format!(
                "a frame of type {} may not be sent now",
                frame.kind
            )));
        }
        if frame.body.is_empty() {
            return Ok(true);
        }
        let mut r = TypedReader::new(frame.body);
        let read = Performative::read(&mut r);
        if conn.stage == ConnStage::Closing {
            if matches!(read, Ok(Performative::Close)) {
                self.finish(id);
            }
            return Ok(true);
        }
        let (performative, payload) = (read?, r.rest());
        match (conn.stage, performative) {
            (ConnStage::Start, Performative::SaslInit(mechanism, response)) => {
                self.v1_sasl_init(id, mechanism, response, now);
                Ok(true)
            }
            (ConnStage::Open, Performative::Open(open)) => {
                self.v1_open(id, &open)?;
                Ok(true)
            }
            (ConnStage::Live | ConnStage::Open, Performative::Close) => {
                self.close_channels(id, now);
                let answer = self.v1(id).is_some_and(|v1| v1.opened);
                if answer {
                    self.send(id, |out| encode::close(None, out));
                }
                self.finish(id);
                Ok(true)
            }
            (ConnStage::Live, Performative::Open(_) | Performative::SaslInit(..)) => Err(
                V1Fault::connection(fault::ILLEGAL_STATE, "the connection is open already"),
            ),
            (ConnStage::Live, performative) => {
                self.v1_of_session(id, frame.channel, performative, payload, now)
            }
            _ => Err(V1Fault::connection(
                fault::ILLEGAL_STATE,
                "the connection is not open",
            )),
        }
    }

    fn v1_refuse_login(&mut self, id: ConnId, code: u8, now: Micros) {
        let reason = match code {
            SASL_LATER => "the node has as many connections as it may have",
            _ => "the login was refused",
        };
        self.log_ending(id, reason, now);
        self.send(id, |out| encode::sasl_outcome(code, out));
        self.finish(id);
        if let Some(conn) = self.conn(id) {
            conn.refused = true;
        }
    }

    fn v1_sasl_init(&mut self, id: ConnId, mechanism: &str, response: &[u8], now: Micros) {
        let Some(conn) = self.conn(id) else { return };
        if conn.surplus {
            self.counters.refusals.add(1);
            return self.v1_refuse_login(id, SASL_LATER, now);
        }
        let login = match mechanism {
            "PLAIN" => {
                super::auth::plain(response).map(|(user, password)| (Some(user), Some(password)))
            }
            "ANONYMOUS" => Some((None, None)),
            "EXTERNAL" if conn.origin.user.is_some() => Some((None, None)),
            _ => None,
        };
        conn.mechanism = match mechanism {
            "PLAIN" => "PLAIN",
            "EXTERNAL" => "EXTERNAL",
            _ => "ANONYMOUS",
        };
        match login {
            Some((user, password)) => self.v1_log_in(id, user, password),
            None => {
                self.counters.logins_refused.add(1);
                self.v1_refuse_login(id, SASL_REFUSED, now);
            }
        }
    }

    fn v1_open(&mut self, id: ConnId, open: &OpenFields<'_>) -> Result<(), V1Fault> {
        let surplus = self.conn(id).is_some_and(|conn| conn.surplus);
        if surplus {
            let text = "the node has as many connections as it may have";
            return Err(V1Fault::connection(fault::RESOURCE_LIMIT, text));
        }
        if open.frame_bytes_max < V1_FRAME_BYTES_MIN {
            return Err(V1Fault::connection(
                fault::FRAME_SIZE_TOO_SMALL,
                format!(
                    "max-frame-size is {}, at least {V1_FRAME_BYTES_MIN} is needed",
                    open.frame_bytes_max
                ),
            ));
        }
        if open.container.len() > V1_NAME_BYTES_MAX || open.container.contains('\0') {
            return Err(V1Fault::connection(
                fault::INVALID_FIELD,
                format!("container-id has a NUL, or more than {V1_NAME_BYTES_MAX} bytes"),
            ));
        }
        let vhost = vhost_of(open.hostname);
        let host = self.host_named(vhost).map_err(|_| {
            V1Fault::connection(
                fault::NOT_FOUND,
                format!("there is no virtual host '{vhost}'"),
            )
        })?;
        let heartbeat_s = self.limits.heartbeat_s;
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        conn.host = host;
        conn.stage = ConnStage::Live;
        conn.heartbeat_us = Micros::from(heartbeat_s) * 1_000_000;
        conn.client = Some(open.container.into());
        if let Some(v1) = conn.v1.as_deref_mut() {
            v1.container = open.container.into();
            v1.frame_bytes_max = open.frame_bytes_max.min(FRAME_BYTES_MAX) as usize;
            v1.channel_max = open.channel_max.min(V1_CHANNEL_MAX);
            v1.beat_us = open.idle_ms.map_or(0, |ms| Micros::from(ms) * 1000 / 2);
        }
        self.v1_send_open(id);
        Ok(())
    }

    fn v1_send_open(&mut self, id: ConnId) {
        let heartbeat_s = self.limits.heartbeat_s;
        let Some(v1) = self.v1(id) else { return };
        if std::mem::replace(&mut v1.opened, true) {
            return;
        }
        self.send(id, |out| {
            encode::performative(0x10, 0, out, |l| {
                l.text("busbar").null().uint(FRAME_BYTES_MAX);
                l.value(&crate::v1::TypedValue::Ushort(V1_CHANNEL_MAX));
                match heartbeat_s {
                    0 => l.null(),
                    s => l.uint(u32::from(s) * 1000),
                };
                l.null().null().symbols(&["ANONYMOUS-RELAY"]).null();
                l.field(|out| {
                    let mut map = encode::ListWriter::begin_map(out);
                    map.symbol("product").text("Busbar");
                    map.symbol("version").text(env!("CARGO_PKG_VERSION"));
                    map.end();
                });
            });
        });
    }

    /// Ends what a fault says: the link, the session or the connection.
    pub(super) fn v1_fail(&mut self, id: ConnId, channel: u16, fault: V1Fault, now: Micros) {
        match fault.scope {
            FaultScope::Connection => self.v1_close(id, &fault, now),
            FaultScope::Session => self.v1_end(id, channel, &fault, now),
            FaultScope::Link(handle) => self.v1_detach(id, channel, handle, &fault, now),
        }
    }

    /// Sends `close` with an error, and awaits its answer for a while.
    pub(super) fn v1_close(&mut self, id: ConnId, fault: &V1Fault, now: Micros) {
        self.close_channels(id, now);
        let Some(conn) = self.conn(id) else { return };
        if matches!(conn.stage, ConnStage::Closing | ConnStage::Done) {
            return;
        }
        let before = std::mem::replace(&mut conn.stage, ConnStage::Closing);
        conn.refused = true;
        conn.opened = now;
        conn.waits = false;
        self.log_ending(id, &format!("{}: {}", fault.condition, fault.text), now);
        self.counters.refusals.add(1);
        if matches!(before, ConnStage::Header | ConnStage::Start) {
            return self.finish(id);
        }
        self.v1_send_open(id);
        self.send(id, |out| encode::close(Some(fault), out));
    }

    /// Sends a sign of life when the client would take the silence for an end.
    pub(super) fn v1_beat(&mut self, id: ConnId, now: Micros) {
        let Some(conn) = self.conn(id) else { return };
        let beat_us = conn.v1.as_deref().map_or(0, |v1| v1.beat_us);
        // Ticks do not come at the very moment: a quarter of the time is left.
        if beat_us > 0 && now - conn.wrote_at >= beat_us / 2 && conn.out.is_empty() {
            conn.out.append(None, encode::empty_frame);
            self.wake(id);
        }
    }

    /// Gives back what the sessions of a connection hold.
    pub(super) fn v1_release(&mut self, id: ConnId, now: Micros) {
        let Some(v1) = self.v1(id) else { return };
        let channels: Vec<u16> = v1.sessions.keys().copied().collect();
        for channel in channels {
            self.v1_release_session(id, channel, now);
            if let Some(v1) = self.v1(id) {
                v1.sessions.remove(&channel);
            }
        }
    }
}
