//! CONNECT: authentication, finding the session, and CONNACK.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use busbar_event::Micros;
use busbar_mqtt::control::Connect;
use busbar_mqtt::encode::ConnAck;
use busbar_mqtt::{Reason, Refusal, Result, Version};

use crate::conn::{Eviction, Lag, Phase};
use crate::limits::{CLIENT_ID_BYTES_MAX, IN_FLIGHT_OUT_MAX};
use crate::registry::Claim;
use crate::state::{Session, SessionId, Source};
use busbar_gateway::ConnId;
use busbar_gateway::event_log::EventLog;
use busbar_gateway::reserved::is_reserved;
use busbar_gateway::{Credentials, Denied, Identity, Reach};

use super::{Core, Effect, Message, Numbers};

impl<S: EventLog> Core<S> {
    pub(super) fn connect(
        &mut self,
        id: ConnId,
        mut connect: Box<Connect>,
        now: Micros,
    ) -> Result<()> {
        let number = self.number;
        let shared = Arc::clone(&self.shared);
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        conn.version = connect.version;
        conn.packet_out_max = connect
            .maximum_packet_size
            .map_or(usize::MAX, |n| n as usize);
        let refusal = if shared.admissions.is_stopping() {
            Some((Reason::SERVER_SHUTTING_DOWN, "the server stops"))
        } else if conn.surplus {
            Some((Reason::QUOTA_EXCEEDED, "too many connections"))
        } else if !conn.skip_rate_limit && !shared.admissions.within_rate(now) {
            Some((
                Reason::CONNECTION_RATE_EXCEEDED,
                "too many connections in this second",
            ))
        } else if connect.auth_method.is_some() {
            Some((
                Reason::BAD_AUTHENTICATION_METHOD,
                "no such authentication method",
            ))
        } else if connect.client_id.len() > CLIENT_ID_BYTES_MAX {
            Some((
                Reason::CLIENT_IDENTIFIER_NOT_VALID,
                "the client identifier is too long",
            ))
        } else {
            None
        };
        if let Some((reason, detail)) = refusal {
            self.refuse_connect(id, &connect.client_id, reason, detail);
            return Ok(());
        }
        if connect.client_id.is_empty() {
            // Unique, not secret: core, slot and generation within this process, and the time across
            // processes.
            connect.client_id =
                format!("auto-{now:x}-{number:x}-{:x}-{:x}", id.slot, id.generation);
            conn.assigned = Some(connect.client_id.clone());
        }
        let credentials = Credentials {
            client_id: connect.client_id.clone(),
            username: connect.username.take(),
            password: connect.password.take(),
            origin: conn.origin.clone(),
        };
        conn.phase = Phase::Authenticating(connect);
        self.effects.push(Effect::Authenticate(id, credentials));
        Ok(())
    }

    /// The result of authentication.
    pub fn authenticated(
        &mut self,
        id: ConnId,
        result: std::result::Result<Arc<dyn Identity>, Denied>,
        now: Micros,
    ) {
        let number = self.number;
        let shared = Arc::clone(&self.shared);
        let log = &self.log;
        let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize).filter(|c| {
            c.as_ref()
                .is_some_and(|c| c.id == id && matches!(c.phase, Phase::Authenticating(_)))
        }) else {
            return;
        };
        let Phase::Authenticating(connect) = std::mem::replace(&mut conn.phase, Phase::Connect)
        else {
            return;
        };
        let identity = match result {
            Ok(identity) => identity,
            Err(denied) => {
                let reason = reason_of(denied);
                shared
                    .counters
                    .logins_refused
                    .fetch_add(1, Ordering::Relaxed);
                if let Some(left_out) = shared.refused_logins.admit(now) {
                    let peer = conn.origin.address.map(tracing::field::display);
                    let client = connect.client_id.as_str();
                    let reason = reason.name();
                    tracing::warn!(client, peer, reason, left_out, "an MQTT login was refused");
                }
                return self.answer_refused(id, reason, reason.name());
            }
        };
        if let Some(will) = &connect.will {
            let stream = log.stream_of(&will.topic);
            if busbar_event::topic::check(&will.topic).is_err() || is_reserved(&will.topic) {
                let client = &connect.client_id;
                return self.refuse_connect(id, client, Reason::TOPIC_NAME_INVALID, "will topic");
            }
            if !identity.may_publish(&will.topic, &stream) {
                let client = &connect.client_id;
                return self.refuse_connect(id, client, Reason::NOT_AUTHORIZED, "will topic");
            }
        }
        conn.unrestricted = identity.is_unrestricted();
        let session = SessionId {
            user: identity.user().into(),
            client: connect.client_id.as_str().into(),
        };
        conn.identity = Some(identity);
        let clean = connect.clean_start;
        match shared.claim(&session, number, id, now) {
            Claim::Full => {
                let client = &session.client;
                self.refuse_connect(id, client, Reason::QUOTA_EXCEEDED, "too many sessions");
            }
            Claim::New => self.attach(id, connect, None, now),
            Claim::Over(session) => {
                self.end_session(session, now);
                self.attach(id, connect, None, now);
            }
            Claim::Resume { session, .. } if clean => {
                self.end_session(session, now);
                self.attach(id, connect, None, now);
            }
            Claim::Resume {
                mut session,
                will_due,
            } => {
                let will = session.will.take().filter(|_| will_due);
                self.publish_will(&session.client, will, now);
                self.attach(id, connect, Some(session), now);
            }
            Claim::Ask(core, holder) => {
                conn.phase = Phase::Claiming(connect, None);
                let eviction = Eviction {
                    core: number,
                    conn: id,
                    clean,
                };
                self.effects.push(Effect::Post(
                    core,
                    Message::Evict {
                        session,
                        conn: holder,
                        eviction,
                    },
                ));
            }
        }
    }

    /// The session arrived from its former connection.
    pub(super) fn claimed(&mut self, id: ConnId, session: Option<Box<Session>>, now: Micros) {
        let claiming = self
            .conn(id)
            .is_some_and(|c| matches!(c.phase, Phase::Claiming(..)));
        if !claiming {
            // The connection closed meanwhile.
            return self.claim_abandoned(id, session, now);
        }
        let Some(conn) = self.conn(id) else { return };
        let Phase::Claiming(connect, wanted) = std::mem::replace(&mut conn.phase, Phase::Connect)
        else {
            return;
        };
        self.attach(id, connect, session, now);
        if let Some(eviction) = wanted {
            let Some(session) = self
                .conn(id)
                .and_then(|c| c.session.as_ref())
                .map(|s| s.id())
            else {
                return;
            };
            self.evict(session, id, eviction, now);
        }
    }

    fn attach(
        &mut self,
        id: ConnId,
        connect: Box<Connect>,
        session: Option<Box<Session>>,
        now: Micros,
    ) {
        self.freshen();
        let limits = self.shared.limits.clone();
        let present = session.is_some();
        let user: Arc<str> = match self.conn(id).and_then(|c| c.identity.as_ref()) {
            Some(identity) => identity.user().into(),
            None => "".into(),
        };
        let mut session = session.unwrap_or_else(|| {
            let client = connect.client_id.as_str().into();
            let user = Arc::clone(&user);
            Box::new(Session::new(SessionId { user, client }, now))
        });
        self.ask_log(&mut session);
        if session.user != user {
            // The session is from before the node had users. One journal batch deletes its record and writes
            // it under the new key.
            if session.recorded {
                self.journal.delete(&session);
            }
            session.set_user(user);
        }
        let recorded = session.recorded;
        session.ended = None;
        session.expiry_s = connect.session_expiry_s.min(limits.session_expiry_s_max);
        session.will = connect.will;
        let keep_alive_s = match limits.keep_alive_s_max {
            0 => connect.keep_alive_s,
            max if connect.keep_alive_s == 0 => max,
            max => connect.keep_alive_s.min(max),
        };
        let numbers: Numbers = self
            .delivery
            .readers
            .iter()
            .flatten()
            .map(|f| (Arc::clone(&f.info.name), f.info.number))
            .collect();
        let (mut lag, mut from, mut qos0_from) = (Vec::new(), Vec::new(), Vec::new());
        if present {
            for reader in self.delivery.readers.iter().flatten() {
                let partition = reader.info.number;
                let saved = session
                    .positions
                    .get(&reader.info.name)
                    .copied()
                    .unwrap_or(0);
                let wanted = session
                    .live_subs()
                    .any(|(_, sub)| sub.share.is_none() && reader.info.may_match(&sub.filter));
                from.push((partition, saved));
                qos0_from.push((partition, self.log.end(partition)));
                if wanted && saved < reader.live {
                    lag.push(Lag {
                        partition,
                        at: saved,
                    });
                }
            }
        }
        // Messages of a partition that no longer exists cannot be sent again.
        session.in_flight.retain(|_, f| match &f.source {
            Source::Log(partition, _) => numbers.contains_key(partition),
            Source::Own(_) => true,
        });
        let mut resend: Vec<(u64, u16)> = session
            .in_flight
            .iter()
            .map(|(packet, f)| (f.order, *packet))
            .collect();
        resend.sort_unstable();
        let expiry_s = session.expiry_s;
        let Some(conn) = self.conn(id) else { return };
        conn.heard = now;
        conn.pace_us = match limits.publishes_per_second_max {
            0 => 0,
            n => (1_000_000 / i64::from(n)).max(1),
        };
        conn.silence_us = i64::from(keep_alive_s) * 1_500_000;
        conn.window = usize::from(connect.receive_maximum).min(IN_FLIGHT_OUT_MAX);
        if connect.version == Version::V5 {
            conn.receive_max = u32::from(limits.receive_maximum);
        }
        conn.problem_info = connect.request_problem_info;
        conn.aliases_out_max = connect
            .topic_alias_maximum
            .min(limits.topic_alias_out_maximum);
        conn.maybe_sent = session
            .maybe_sent
            .iter()
            .filter_map(|(name, end)| Some((*numbers.get(name)?, *end)))
            .collect();
        conn.lag = lag;
        conn.from = from;
        conn.qos0_from = qos0_from;
        conn.resend = resend.into_iter().map(|(_, packet)| packet).collect();
        conn.sent = 0;
        let identity = conn.identity.clone();
        for sub in session.subs.iter_mut().flatten() {
            sub.reach = identity
                .as_ref()
                .map_or(Reach::None, |i| i.may_subscribe(&sub.filter));
        }
        conn.session = Some(session);
        conn.phase = Phase::Live;
        let version = connect.version;
        let assigned = conn.assigned.take();
        self.join_all(id);
        let gate = match self.gate(id) {
            Some(batch) => Some(batch),
            None => self.record_passing(id, recorded),
        };
        let ack = ConnAck {
            session_present: present,
            reason: Reason::SUCCESS,
            session_expiry_s: (version == Version::V5 && expiry_s != connect.session_expiry_s)
                .then_some(expiry_s),
            receive_maximum: limits.receive_maximum,
            maximum_packet_size: Some(limits.packet_bytes_max),
            topic_alias_maximum: limits.topic_alias_maximum,
            assigned_client_id: assigned.as_deref(),
            server_keep_alive_s: (keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
            response_info: None,
            reason_string: None,
        };
        let Some(conn) = self.conn(id) else { return };
        if ack.packet_len(version) > conn.packet_out_max {
            // The client was never connected, so its will is not published.
            conn.said_goodbye = true;
            let detail = "the client takes no packet as large as its CONNACK";
            self.log_ending(id, None, Reason::PACKET_TOO_LARGE, detail, None);
            return self.answer_refused(id, Reason::PACKET_TOO_LARGE, "");
        }
        conn.connack_gate = gate;
        conn.began_session = !present;
        conn.out.append(gate, |out| ack.encode(version, out));
        self.wake(id);
        self.pump(id);
        self.resume_input(id, now);
    }

    /// Writes the record of a session that ends with its connection, if it has a will: after a crash the will
    /// is published when the node starts. Returns the journal batch that CONNACK waits for.
    fn record_passing(&mut self, id: ConnId, recorded: bool) -> Option<u64> {
        let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
            return None;
        };
        let session = conn.session.as_mut()?;
        if session.will.is_some() {
            session.recorded = true;
            self.journal.put(session);
            return Some(self.journal.gate_on_next(id));
        }
        if recorded {
            session.recorded = false;
            self.journal.delete(session);
        }
        None
    }

    pub(super) fn check_live(&mut self, id: ConnId) -> Result<()> {
        match self.conn(id).is_some_and(|c| c.is_live()) {
            true => Ok(()),
            false => Err(Refusal::protocol("the first packet is not CONNECT")),
        }
    }
}

/// What a refused login is in MQTT.
fn reason_of(denied: Denied) -> Reason {
    match denied {
        Denied::NoCredentials => Reason::NOT_AUTHORIZED,
        Denied::BadCredentials => Reason::BAD_USER_NAME_OR_PASSWORD,
        Denied::TryLater => Reason::SERVER_BUSY,
        Denied::Failed => Reason::UNSPECIFIED_ERROR,
    }
}
