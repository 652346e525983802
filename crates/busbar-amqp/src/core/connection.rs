//! A connection: how it begins, how it ends, and what channel 0 says.

use std::sync::Arc;

use busbar_event::Micros;
use busbar_gateway::{ClientOrigin, ConnId, EventLog, Identity, Outbox};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::codec::frame::PROTOCOL_HEADER;
use crate::codec::method::id;
use crate::codec::table::cut;
use crate::codec::{ClientMethod, FieldTable, FieldValue, encode};
use crate::fault::AmqpFault;
use crate::graph::{QueueIndex, VirtualHost};
use crate::limits::{
    BLOCKED_AFTER_US, CHANNELS_MAX, CLOSE_WAIT_US, FRAME_BYTES_MAX, FRAME_BYTES_MIN, VHOSTS_MAX,
};
use crate::mapping::prefix_of;
use crate::v1::V1Fault;
use crate::v1::fault::RESOURCE_LIMIT;

use super::Broker;
use super::channel::Channel;
use super::v1::V1Conn;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnStage {
    /// The protocol header is awaited.
    Header,
    /// `start-ok` is awaited.
    Start,
    /// The login is being checked.
    Login,
    /// `tune-ok` is awaited.
    Tune,
    /// `open` is awaited.
    Open,
    /// Channels may be used.
    Live,
    /// The server has sent `close` and awaits `close-ok`.
    Closing,
    /// To be closed when its output is written.
    Done,
}

/// A connection.
pub struct AmqpConn<T> {
    pub id: ConnId,
    pub origin: ClientOrigin,
    pub stage: ConnStage,
    pub out: Outbox,
    pub partial: Vec<u8>,
    pub frame_bytes_max: usize,
    pub heartbeat_us: Micros,
    pub heard: Micros,
    /// When something was last written, as far as ticks tell.
    pub wrote_at: Micros,
    pub wrote: bool,
    pub opened: Micros,
    /// Beyond the number of connections: refused as soon as it has said what it speaks.
    pub surplus: bool,
    /// The client may still be sending.
    pub refused: bool,
    pub identity: Option<Arc<dyn Identity>>,
    pub unrestricted: bool,
    pub permissions: HashMap<Box<str>, bool, RandomState>,
    /// The name that the client gave the connection.
    pub client: Option<Arc<str>>,
    pub mechanism: &'static str,
    pub channels_max: u16,
    pub takes_cancel: bool,
    pub takes_blocked: bool,
    pub takes_login_close: bool,
    pub told_blocked: bool,
    pub host: usize,
    pub channels: HashMap<u16, Channel<T>, RandomState>,
    pub exclusive: Vec<QueueIndex>,
    /// What it has if it speaks AMQP 1.0.
    pub v1: Option<Box<V1Conn<T>>>,
    /// Its input waits.
    pub waits: bool,
    /// A consumer was passed over because too much output waits.
    pub throttled: bool,
    pub woken: bool,
}

impl<T> AmqpConn<T> {
    pub fn new(id: ConnId, origin: ClientOrigin, surplus: bool, now: Micros) -> AmqpConn<T> {
        AmqpConn {
            id,
            origin,
            stage: ConnStage::Header,
            out: Outbox::default(),
            partial: Vec::new(),
            frame_bytes_max: FRAME_BYTES_MAX as usize,
            heartbeat_us: 0,
            heard: now,
            wrote_at: now,
            wrote: false,
            opened: now,
            surplus,
            refused: false,
            identity: None,
            unrestricted: false,
            permissions: HashMap::default(),
            client: None,
            mechanism: "PLAIN",
            channels_max: CHANNELS_MAX,
            takes_cancel: false,
            takes_blocked: false,
            takes_login_close: false,
            told_blocked: false,
            host: 0,
            channels: HashMap::default(),
            exclusive: Vec::new(),
            v1: None,
            waits: false,
            throttled: false,
            woken: false,
        }
    }

    /// The name of the user who logged in.
    pub fn user(&self) -> &str {
        self.identity
            .as_ref()
            .map_or("", |identity| identity.user())
    }
}

impl<S: EventLog> Broker<S> {
    /// The client speaks something else: it is told what is spoken here.
    pub(super) fn refuse_header(&mut self, id: ConnId, now: Micros) {
        self.log_ending(id, "the client does not speak AMQP", now);
        self.counters.refusals.add(1);
        self.send(id, |out| out.extend_from_slice(PROTOCOL_HEADER));
        self.finish(id);
        if let Some(conn) = self.conn(id) {
            conn.refused = true;
        }
    }

    pub(super) fn start(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        conn.stage = ConnStage::Start;
        let mechanisms = match conn.origin.user {
            Some(_) => "PLAIN AMQPLAIN EXTERNAL",
            None => "PLAIN AMQPLAIN",
        };
        self.send(id, |out| {
            encode::start(mechanisms, env!("CARGO_PKG_VERSION"), out)
        });
    }

    pub(super) fn connection_method(
        &mut self,
        id: ConnId,
        method: ClientMethod<'_>,
        now: Micros,
    ) -> Result<(), AmqpFault> {
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        match (conn.stage, method) {
            (_, ClientMethod::Close) => {
                self.close_channels(id, now);
                self.answer_close(id);
                Ok(())
            }
            (_, ClientMethod::CloseOk) => {
                self.finish(id);
                Ok(())
            }
            (
                ConnStage::Start,
                ClientMethod::StartOk {
                    properties,
                    mechanism,
                    response,
                },
            ) => {
                conn.read_capabilities(properties);
                self.log_in(id, mechanism, response)
            }
            (
                ConnStage::Tune,
                ClientMethod::TuneOk {
                    channel_max,
                    frame_max,
                    heartbeat,
                },
            ) => {
                if frame_max != 0 && frame_max < FRAME_BYTES_MIN {
                    return Err(AmqpFault::not_allowed(format!(
                        "negotiated frame_max = {frame_max} is lower than the minimum allowed value ({FRAME_BYTES_MIN})"
                    )));
                }
                if frame_max > FRAME_BYTES_MAX || channel_max > CHANNELS_MAX {
                    return Err(AmqpFault::not_allowed(
                        "negotiated frame_max or channel_max is higher than what was offered",
                    ));
                }
                conn.frame_bytes_max = match frame_max {
                    0 => FRAME_BYTES_MAX as usize,
                    n => n as usize,
                };
                conn.channels_max = match channel_max {
                    0 => CHANNELS_MAX,
                    n => n,
                };
                conn.heartbeat_us = Micros::from(heartbeat) * 1_000_000;
                conn.stage = ConnStage::Open;
                Ok(())
            }
            (ConnStage::Open, ClientMethod::Open { vhost }) => {
                let vhost = vhost.to_owned();
                let host = self.host_named(&vhost)?;
                if let Some(conn) = self.conn(id) {
                    conn.host = host;
                    conn.stage = ConnStage::Live;
                    conn.out.append(None, |out| {
                        encode::named(id::CONNECTION_OPEN_OK, 0, "", out)
                    });
                }
                self.wake(id);
                Ok(())
            }
            (ConnStage::Live, ClientMethod::UpdateSecret) => {
                Err(AmqpFault::not_implemented("connection.update-secret"))
            }
            _ => Err(AmqpFault::command_invalid("the method may not be sent now")),
        }
    }

    /// The virtual host of that name; made when it is used for the first time.
    pub(super) fn host_named(&mut self, vhost: &str) -> Result<usize, AmqpFault> {
        let unknown = || AmqpFault::not_allowed(format!("vhost {vhost} not found"));
        let prefix = prefix_of(vhost).ok_or_else(unknown)?;
        if let Some(host) = self.host_of_prefix.get(&prefix) {
            return Ok(*host);
        }
        if self.hosts.len() >= VHOSTS_MAX {
            return Err(unknown());
        }
        let host = self.hosts.len();
        self.hosts.push(VirtualHost::new(vhost, prefix.clone()));
        self.host_of_prefix.insert(prefix, host);
        Ok(host)
    }

    /// Closes a channel, or the connection, because of a fault.
    pub(super) fn fail(&mut self, id: ConnId, number: u16, fault: AmqpFault, now: Micros) {
        if self.channel(id, number).is_some_and(|c| c.closing) && !fault.closes_connection {
            return;
        }
        let has_channel = self.channel(id, number).is_some();
        match fault.closes_connection || !has_channel {
            true => self.close_connection(id, &fault, now),
            false => {
                self.release_channel(id, number, now);
                if let Some(channel) = self.channel(id, number) {
                    channel.closing = true;
                }
                let text = fault.text();
                self.send(id, |out| {
                    encode::close(number, fault.code, &text, fault.method, out)
                });
            }
        }
    }

    /// Sends `close`, and awaits its answer for a while.
    pub(super) fn close_connection(&mut self, id: ConnId, fault: &AmqpFault, now: Micros) {
        self.close_channels(id, now);
        let Some(conn) = self.conn(id) else { return };
        if conn.v1.is_some() {
            return self.v1_close(id, &V1Fault::from_code(fault), now);
        }
        if matches!(conn.stage, ConnStage::Closing | ConnStage::Done) {
            return;
        }
        let before = std::mem::replace(&mut conn.stage, ConnStage::Closing);
        conn.refused = true;
        conn.opened = now;
        conn.waits = false;
        let text = cut(&fault.text(), 255).to_owned();
        self.log_ending(id, &text, now);
        let Some(conn) = self.conn(id) else { return };
        if before != ConnStage::Header {
            conn.out.append(None, |out| {
                encode::close(0, fault.code, &text, fault.method, out)
            });
        }
        self.counters.refusals.add(1);
        self.wake(id);
    }

    pub(super) fn answer_close(&mut self, id: ConnId) {
        self.send(id, |out| encode::bare(id::CONNECTION_CLOSE_OK, 0, out));
        self.finish(id);
    }

    /// Has the socket closed when its output is written.
    pub(super) fn finish(&mut self, id: ConnId) {
        if let Some(conn) = self.conn(id) {
            conn.stage = ConnStage::Done;
            conn.waits = false;
            self.wake(id);
        }
    }

    /// The socket is closed.
    pub fn gone(&mut self, id: ConnId, now: Micros) {
        self.close_channels(id, now);
        let Some(_) = self.conn(id) else { return };
        let slot = id.slot as usize;
        self.conns[slot] = None;
        self.generations[slot] = self.generations[slot].wrapping_add(1);
        self.free.push(id.slot);
        self.admissions.close_connection();
    }

    pub(super) fn close_channels(&mut self, id: ConnId, now: Micros) {
        self.v1_release(id, now);
        let Some(conn) = self.conn(id) else { return };
        let numbers: Vec<u16> = conn.channels.keys().copied().collect();
        let exclusive = std::mem::take(&mut conn.exclusive);
        for number in numbers {
            self.release_channel(id, number, now);
            if let Some(conn) = self.conn(id) {
                conn.channels.remove(&number);
            }
        }
        for index in exclusive {
            if self.queue(index).is_some_and(|q| q.owner == Some(id)) {
                self.delete_queue(index, now);
            }
        }
    }

    /// Handles what depends on time.
    pub fn tick(&mut self, now: Micros) {
        self.refresh_partitions();
        self.tick_queues(now);
        self.measure_output();
        let blocked = self.is_blocked(now);
        let handshake_us = self.limits.handshake_us;
        for slot in 0..self.conns.len() {
            let Some(conn) = self.conns[slot].as_deref_mut() else {
                continue;
            };
            let id = conn.id;
            conn.out.trim();
            if std::mem::take(&mut conn.wrote) {
                conn.wrote_at = now;
            }
            match conn.stage {
                ConnStage::Live => {}
                ConnStage::Done if conn.out.is_empty() => {
                    self.wake(id);
                    continue;
                }
                ConnStage::Closing | ConnStage::Done if now - conn.opened > CLOSE_WAIT_US => {
                    conn.out = Outbox::default();
                    self.finish(id);
                    continue;
                }
                ConnStage::Closing | ConnStage::Done => continue,
                _ if now - conn.opened > handshake_us => {
                    self.log_ending(id, "the client did not open the connection in time", now);
                    self.counters.refusals.add(1);
                    self.finish(id);
                    continue;
                }
                _ => continue,
            }
            if conn
                .identity
                .as_ref()
                .is_some_and(|identity| !identity.is_current())
            {
                self.close_connection(id, &AmqpFault::login_ended(), now);
                continue;
            }
            if conn.heartbeat_us > 0 {
                if now - conn.heard > 2 * conn.heartbeat_us && conn.out.is_empty()
                    || now - conn.heard > 3 * conn.heartbeat_us
                {
                    if conn.v1.is_some() {
                        let text = "nothing was heard for longer than idle-time-out";
                        let fault = V1Fault::connection(RESOURCE_LIMIT, text);
                        self.v1_close(id, &fault, now);
                        continue;
                    }
                    self.log_ending(id, "nothing was heard in time", now);
                    self.counters.refusals.add(1);
                    self.close_channels(id, now);
                    self.finish(id);
                    continue;
                }
                if conn.v1.is_none()
                    && now - conn.wrote_at >= conn.heartbeat_us / 2
                    && conn.out.is_empty()
                {
                    conn.out.append(None, encode::heartbeat);
                    self.wake(id);
                }
            }
            self.v1_beat(id, now);
            let Some(conn) = self.conn(id) else { continue };
            if conn.takes_blocked && conn.told_blocked != blocked {
                conn.told_blocked = blocked;
                conn.out.append(None, |out| match blocked {
                    true => encode::named(
                        id::CONNECTION_BLOCKED,
                        0,
                        "the disk is slower than publishers",
                        out,
                    ),
                    false => encode::bare(id::CONNECTION_UNBLOCKED, 0, out),
                });
                self.wake(id);
            }
        }
    }

    /// Reckons how much may wait for each client, so that many who are slow cost no more than a few.
    fn measure_output(&mut self) {
        let waiting = self.conns.iter().flatten().map(|conn| conn.out.len()).sum();
        if !self.output_budget.recount(waiting) {
            return;
        }
        let throttled = self.conns.iter().flatten().filter(|conn| conn.throttled);
        let ids: Vec<ConnId> = throttled.map(|conn| conn.id).collect();
        for id in ids {
            self.activate_consumed(id);
        }
    }

    fn is_blocked(&mut self, now: Micros) -> bool {
        if self.log.writable() {
            self.stopped_since = None;
            return false;
        }
        now - *self.stopped_since.get_or_insert(now) >= BLOCKED_AFTER_US
    }

    /// The gateway stops: all clients are told, and the queues journalled.
    pub fn shut_down(&mut self, now: Micros) {
        self.stopping = true;
        let all: Vec<ConnId> = self.conns.iter().flatten().map(|conn| conn.id).collect();
        for id in all {
            let fault = AmqpFault::forced("the node is shutting down");
            self.close_connection(id, &fault, now);
            self.finish(id);
        }
        self.journal_all(now);
    }
}

impl<T> AmqpConn<T> {
    fn read_capabilities(&mut self, properties: FieldTable<'_>) {
        if let Some(name) = properties.get("connection_name").and_then(|v| v.as_text()) {
            self.client = Some(cut(name, 255).into());
        }
        let Some(FieldValue::Table(capabilities)) = properties.get("capabilities") else {
            return;
        };
        let has = |name| capabilities.get(name) == Some(FieldValue::Bool(true));
        self.takes_cancel = has("consumer_cancel_notify");
        self.takes_blocked = has("connection.blocked");
        self.takes_login_close = has("authentication_failure_close");
    }
}
