//! What clients send once they are connected: publishes, acknowledgements, requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use busbar_bus::{Event, Refused, Status};
use busbar_event::{ARRIVAL, Micros};
use busbar_mqtt::ack::{encode_ack, encode_run};
use busbar_mqtt::control::{Control, Disconnect};
use busbar_mqtt::{
    Ack, AckKind, Publish, PublishProperties, Reason, Refusal, Result, Version, encode,
};

use crate::conn::{AckState, Held, OwnedEvent, Phase};
use crate::limits::PERMISSION_CACHE_TOPICS_MAX;
use crate::message::{flags, tags_of};
use crate::state::{Received, Session, Stored};
use busbar_gateway::ConnId;
use busbar_gateway::event_log::EventLog;
use busbar_gateway::reserved::is_reserved;

use super::Core;

impl<S: EventLog> Core<S> {
    pub(super) fn control(&mut self, id: ConnId, control: Control, now: Micros) -> Result<()> {
        match control {
            Control::Connect(connect) => self.connect(id, connect, now),
            Control::Subscribe(subscribe) => {
                self.check_live(id)?;
                self.subscribe(id, subscribe)
            }
            Control::Unsubscribe(unsubscribe) => {
                self.check_live(id)?;
                self.unsubscribe(id, unsubscribe)
            }
            Control::PingRequest => {
                self.check_live(id)?;
                if let Some(conn) = self.conn(id) {
                    conn.out.append(None, encode::pingresp);
                }
                self.wake(id);
                Ok(())
            }
            Control::Disconnect(disconnect) => self.goodbye(id, disconnect),
            Control::Auth(_) => Err(Refusal::protocol(
                "AUTH without an agreed authentication method",
            )),
        }
    }

    fn goodbye(&mut self, id: ConnId, disconnect: Disconnect) -> Result<()> {
        let max = self.shared.limits.session_expiry_s_max;
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        if let (Some(s), Some(session)) = (disconnect.session_expiry_s, conn.session.as_mut()) {
            if session.expiry_s == 0 && s > 0 {
                return Err(Refusal::protocol(
                    "a session that was to end cannot be made to stay",
                ));
            }
            session.expiry_s = s.min(max);
        }
        conn.said_goodbye = disconnect.reason == Reason::SUCCESS;
        conn.phase = Phase::Closing;
        conn.partial = Vec::new();
        self.wake(id);
        Ok(())
    }

    /// A PUBLISH. The hot path: a plain one with a topic seen before costs a comparison, a copy of
    /// its payload into the batch and a count in the acknowledgement queue.
    #[inline]
    pub(super) fn publish(&mut self, id: ConnId, p: &Publish<'_>, now: Micros) -> Result<()> {
        let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
            return Ok(());
        };
        if conn.pace_us > 0 {
            conn.paced_until = conn.paced_until.max(now) + conn.pace_us;
        }
        let mut properties = PublishProperties::default();
        if !p.properties.is_empty() {
            properties = p.parse_properties()?;
            if properties.subscription_id.is_some() {
                return Err(Refusal::protocol("subscription identifier from a client"));
            }
        }
        let same = conn.last_topic.as_bytes() == p.topic && !p.topic.is_empty();
        if !same || properties.alias.is_some() {
            let limit = self.shared.limits.topic_alias_maximum;
            self.topic_of(id, p, &properties, limit)?;
        }
        let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
            return Ok(());
        };
        if p.qos > 0 {
            let state = match p.qos {
                2 => match self.repeated(id, p.packet_id) {
                    Repeated::New => None,
                    Repeated::Stored => Some(AckState::Done(Reason::SUCCESS)),
                    Repeated::Doubt => Some(AckState::Doubt(p.packet_id)),
                },
                _ => None,
            };
            if let Some(state) = state {
                let Some(conn) = self.conn(id) else {
                    return Ok(());
                };
                conn.push_ack(state, p.packet_id, AckKind::Pubrec);
                self.acks_wait(id);
                return Ok(());
            }
            let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
                return Ok(());
            };
            if conn.receiving >= conn.receive_max {
                return Err(Refusal::new(
                    Reason::RECEIVE_MAXIMUM_EXCEEDED,
                    "more publishes in flight than the receive maximum",
                ));
            }
            conn.receiving += 1;
            return self.publish_acknowledged(id, p, &properties, now);
        }
        if !conn.unrestricted && !self.may_publish(id) {
            self.publish_refused(id, 1, Reason::NOT_AUTHORIZED.name(), now);
            return Ok(());
        }
        if properties.text_payload && std::str::from_utf8(p.payload).is_err() {
            return Err(Refusal::new(
                Reason::PAYLOAD_FORMAT_INVALID,
                "payload is not UTF-8",
            ));
        }
        match self.push(id, p, &properties, now) {
            Ok(_) => Ok(()),
            Err(refused) => {
                self.publish_refused(id, 1, refused.error().code(), now);
                if refused == Refused::PayloadTooLarge {
                    // QoS 0 has no acknowledgement, and the payload will not fit next time either.
                    return Err(Refusal::new(
                        Reason::PACKET_TOO_LARGE,
                        "payload is larger than allowed",
                    ));
                }
                match reason_of(refused) {
                    // QoS 0: dropped and counted when there is no room.
                    Verdict::Ack(_) => Ok(()),
                    Verdict::Close(refusal) => Err(refusal),
                }
            }
        }
    }

    fn publish_acknowledged(
        &mut self,
        id: ConnId,
        p: &Publish<'_>,
        properties: &PublishProperties<'_>,
        now: Micros,
    ) -> Result<()> {
        let kind = if p.qos == 1 {
            AckKind::Puback
        } else {
            AckKind::Pubrec
        };
        let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
            return Ok(());
        };
        let mut refused = None;
        if is_reserved(&conn.last_topic) || !conn.unrestricted && !self.may_publish(id) {
            refused = Some(Reason::NOT_AUTHORIZED);
        } else if properties.text_payload && std::str::from_utf8(p.payload).is_err() {
            refused = Some(Reason::PAYLOAD_FORMAT_INVALID);
        }
        let state = match refused {
            Some(reason) => AckState::Done(reason),
            None if p.qos == 2 => self.accept_qos2(id, p, properties, now)?,
            None => match self.push(id, p, properties, now) {
                Ok(ticket) => AckState::Ticket(ticket),
                Err(refused) => match reason_of(refused) {
                    Verdict::Ack(reason) => AckState::Done(reason),
                    Verdict::Close(refusal) => return Err(refusal),
                },
            },
        };
        let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
            return Ok(());
        };
        conn.push_ack(state, p.packet_id, kind);
        if !conn.acking {
            conn.acking = true;
            self.conns.acking.push(id);
        }
        Ok(())
    }

    /// Determines the topic of a publish, checks it and stores it in `last_topic`.
    fn topic_of(
        &mut self,
        id: ConnId,
        p: &Publish<'_>,
        properties: &PublishProperties<'_>,
        aliases_max: u16,
    ) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        let alias = match properties.alias {
            Some(alias) if alias > aliases_max => {
                return Err(Refusal::new(
                    Reason::TOPIC_ALIAS_INVALID,
                    "topic alias is above the maximum",
                ));
            }
            alias => alias.map(|a| usize::from(a) - 1),
        };
        if p.topic.is_empty() {
            let known = alias
                .and_then(|a| conn.aliases_in.get(a))
                .and_then(Option::as_deref);
            return match (known, conn.version) {
                (Some(topic), _) => {
                    conn.last_topic.clear();
                    conn.last_topic.push_str(topic);
                    Ok(())
                }
                (None, Version::V5) => Err(Refusal::protocol(
                    "empty topic without an alias that was set",
                )),
                (None, Version::V311) => {
                    Err(Refusal::new(Reason::TOPIC_NAME_INVALID, "topic is empty"))
                }
            };
        }
        let topic = p.topic_text()?;
        let session = conn.session.as_ref();
        let (client, user) = session.map_or(("", ""), |s| (&*s.client, &*s.user));
        let Ok(topic) = shared.limits.topics.inward(topic, client, user) else {
            return Err(Refusal::new(
                Reason::TOPIC_NAME_INVALID,
                "topic is not a topic name",
            ));
        };
        let topic = &*topic;
        conn.last_topic.clear();
        conn.last_topic.push_str(topic);
        if let Some(at) = alias {
            if conn.aliases_in.len() <= at {
                conn.aliases_in.resize(at + 1, None);
            }
            conn.aliases_in[at] = Some(topic.into());
        }
        Ok(())
    }

    fn may_publish(&mut self, id: ConnId) -> bool {
        let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
            return false;
        };
        if let Some(allowed) = conn.permissions.get(conn.last_topic.as_str()) {
            return *allowed;
        }
        let stream = self.log.stream_of(&conn.last_topic);
        let allowed = !is_reserved(&conn.last_topic)
            && conn
                .identity
                .as_ref()
                .is_some_and(|i| i.may_publish(&conn.last_topic, &stream));
        if conn.permissions.len() >= PERMISSION_CACHE_TOPICS_MAX {
            conn.permissions.clear();
        }
        conn.permissions
            .insert(conn.last_topic.as_str().into(), allowed);
        allowed
    }

    /// Hands a publish to the log.
    #[inline]
    fn push(
        &mut self,
        id: ConnId,
        p: &Publish<'_>,
        properties: &PublishProperties<'_>,
        now: Micros,
    ) -> std::result::Result<S::Ticket, Refused> {
        let mut reserved = false;
        self.tags.clear();
        if !p.properties.is_empty() {
            reserved = tags_of(p, properties, now, &mut self.tags);
        }
        let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
            return Err(Refused::Overloaded);
        };
        if is_reserved(&conn.last_topic) {
            return Err(Refused::Overloaded);
        }
        let tags: Vec<(&str, &str)> = self
            .tags
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        let event = Event {
            topic: &conn.last_topic,
            key: None,
            time: ARRIVAL,
            client: conn.session.as_ref().map(|s| &*s.client),
            flags: flags(p.qos, p.retain, properties.text_payload, reserved),
            tags: &tags,
            payload: p.payload,
        };
        let ticket = self.log.publish(&event, None)?;
        conn.last_ticket = Some(ticket);
        self.unflushed = true;
        self.tally.publishes += 1;
        self.tally.payload_bytes += p.payload.len() as u64;
        Ok(ticket)
    }

    /// A QoS 2 publish: remembered by its packet identifier. For a session that survives, the
    /// identifier is on disk before the event is handed to the log, and the event's frame carries
    /// the session's sequence number: after a crash the two together tell what was received.
    fn accept_qos2(
        &mut self,
        id: ConnId,
        p: &Publish<'_>,
        properties: &PublishProperties<'_>,
        now: Micros,
    ) -> Result<AckState<S::Ticket>> {
        let Some(gate) = self.gate(id) else {
            let state = match self.push(id, p, properties, now) {
                Ok(ticket) => AckState::Ticket(ticket),
                Err(refused) => match reason_of(refused) {
                    Verdict::Ack(reason) => return Ok(AckState::Done(reason)),
                    Verdict::Close(refusal) => return Err(refusal),
                },
            };
            if let Some(session) = self.conn(id).and_then(|c| c.session.as_mut()) {
                let received = Received {
                    seq: 0,
                    partition: "".into(),
                    stored: Stored::Yes,
                };
                session.received.insert(p.packet_id, received);
            }
            return Ok(state);
        };
        let mut tags = Vec::new();
        let reserved = tags_of(p, properties, now, &mut tags);
        let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
            return Ok(AckState::Done(Reason::UNSPECIFIED_ERROR));
        };
        let Some(session) = conn.session.as_mut() else {
            return Ok(AckState::Done(Reason::UNSPECIFIED_ERROR));
        };
        session.qos2_seq += 1;
        let seq = session.qos2_seq;
        let event = OwnedEvent {
            topic: conn.last_topic.clone(),
            flags: flags(2, p.retain, properties.text_payload, reserved),
            tags,
            payload: p.payload.to_vec(),
            time: ARRIVAL,
        };
        let partition = event.lend(&session.client, |e| self.log.place(e));
        session.received.insert(
            p.packet_id,
            Received {
                seq,
                partition,
                stored: Stored::Yes,
            },
        );
        conn.held_bytes += event.bytes();
        conn.held.push_back(Held { gate, seq, event });
        Ok(AckState::Held(seq))
    }

    /// Publishes what waited for journal batch `done`.
    pub(super) fn publish_held(&mut self, id: ConnId, done: u64, _now: Micros) {
        loop {
            let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
                return;
            };
            if conn.held.front().is_none_or(|h| h.gate > done) {
                break;
            }
            let (Some(held), Some(session)) = (conn.held.pop_front(), conn.session.as_ref()) else {
                break;
            };
            conn.held_bytes -= held.event.bytes();
            let producer = session.producer();
            let log = &mut self.log;
            let result = held.event.lend(&session.client, |e| {
                log.publish(e, Some((producer, held.seq)))
            });
            self.unflushed = true;
            let state = match result {
                Ok(ticket) => {
                    conn.last_ticket = Some(ticket);
                    AckState::Ticket(ticket)
                }
                Err(refused) => match reason_of(refused) {
                    Verdict::Ack(reason) => AckState::Done(reason),
                    Verdict::Close(refusal) => AckState::Done(refusal.reason),
                },
            };
            if let Some(run) = conn
                .acks
                .iter_mut()
                .find(|r| r.state == AckState::Held(held.seq))
            {
                run.state = state;
            }
            self.tally.publishes += 1;
            self.tally.payload_bytes += held.event.payload.len() as u64;
        }
        self.acks_wait(id);
    }

    /// Whether a QoS 2 publish with this identifier was received before.
    fn repeated(&mut self, id: ConnId, packet_id: u16) -> Repeated {
        let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
            return Repeated::New;
        };
        let Some(session) = conn.session.as_mut() else {
            return Repeated::New;
        };
        let Some(received) = session.received.get(&packet_id) else {
            return Repeated::New;
        };
        if received.stored == Stored::Yes {
            return Repeated::Stored;
        }
        // Failures are checked first: the position in the log passes a failed publish when a later one is
        // stored.
        if self.shared.was_lost(session.producer(), received.seq) {
            session.received.remove(&packet_id);
            return Repeated::New;
        }
        let at = self
            .log
            .producer_position(&received.partition, session.producer());
        if at.is_none_or(|at| at < received.seq) {
            return Repeated::Doubt;
        }
        if let Some(received) = session.received.get_mut(&packet_id) {
            received.stored = Stored::Yes;
        }
        Repeated::Stored
    }

    /// Which publishes of a session that was read from disk are stored. Asked before the session publishes
    /// again: from then on its position in the log is past what was lost too.
    pub(super) fn ask_log(&self, session: &mut Session) {
        let producer = Arc::clone(session.producer());
        session.received.retain(|_, received| {
            if received.stored != Stored::AskLog {
                return true;
            }
            received.stored = Stored::Yes;
            let at = self.log.producer_position(&received.partition, &producer);
            at.is_some_and(|at| at >= received.seq)
        });
    }

    fn acks_wait(&mut self, id: ConnId) {
        if let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize)
            && !conn.acking
        {
            conn.acking = true;
            self.conns.acking.push(id);
        }
    }

    /// Sends the acknowledgements of committed publishes, in order.
    pub(super) fn release_acks(&mut self, now: Micros) {
        let mut waiting = std::mem::take(&mut self.conns.acking);
        waiting.retain(|id| self.release_acks_of(*id, now));
        waiting.append(&mut self.conns.acking);
        self.conns.acking = waiting;
    }

    fn release_acks_of(&mut self, id: ConnId, now: Micros) -> bool {
        let (mut wrote, mut failed) = (false, None);
        loop {
            let Some(conn) = self.conn(id) else {
                return false;
            };
            if let Some(AckState::Doubt(packet_id)) = conn.acks.front().map(|run| &run.state) {
                let packet_id = *packet_id;
                match self.repeated(id, packet_id) {
                    Repeated::Doubt => break,
                    Repeated::Stored => {}
                    // The client has to send it again, which it does after a reconnect.
                    Repeated::New => {
                        failed = Some(Reason::QUOTA_EXCEEDED);
                        break;
                    }
                }
                if let Some(run) = self.conn(id).and_then(|c| c.acks.front_mut()) {
                    run.state = AckState::Done(Reason::SUCCESS);
                }
            }
            let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
                return false;
            };
            let Some(run) = conn.acks.front() else { break };
            let mut why = None;
            let reason = match &run.state {
                AckState::Done(reason) => *reason,
                AckState::Held(_) | AckState::Doubt(_) => break,
                AckState::Ticket(ticket) => match self.log.status(*ticket) {
                    Status::Pending => break,
                    Status::Committed => Reason::SUCCESS,
                    Status::Failed(failure) => {
                        why = Some(failure.error().code());
                        Reason::QUOTA_EXCEEDED
                    }
                },
            };
            let (first, count, kind) = (run.first, run.count, run.kind);
            conn.acks.pop_front();
            if reason.is_failure() {
                self.publish_refused(id, count, why.unwrap_or(reason.name()), now);
                let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
                    return false;
                };
                if kind == AckKind::Pubrec
                    && let Some(session) = conn.session.as_mut()
                {
                    (0..count).for_each(|i| {
                        session.received.remove(&(first.wrapping_add(i as u16)));
                    });
                }
                if conn.version == Version::V311 {
                    failed = Some(reason);
                    break;
                }
            }
            let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
                return false;
            };
            if kind == AckKind::Puback || reason.is_failure() {
                conn.receiving = conn.receiving.saturating_sub(count);
            }
            let (version, text) = (conn.version, conn.words_for(reason));
            conn.out.count_packets(u64::from(count) - 1);
            conn.out.append(None, |out| match reason {
                Reason::SUCCESS => encode_run(kind, first, count, out),
                reason => {
                    for i in 0..count {
                        let packet_id = first.wrapping_add(i as u16);
                        encode_ack(
                            version,
                            Ack {
                                kind,
                                packet_id,
                                reason,
                            },
                            text,
                            out,
                        );
                    }
                }
            });
            wrote = true;
        }
        let Some(conn) = self.conn(id) else {
            return false;
        };
        let waits = !conn.acks.is_empty();
        conn.acking = waits;
        if wrote {
            self.wake(id);
        }
        if let Some(reason) = failed {
            self.disconnect(id, reason, "a publish could not be stored");
            return false;
        }
        waits
    }

    /// Counts publishes that were refused, and logs a few of them. The topic is that of the client's last
    /// publish.
    #[cold]
    fn publish_refused(&self, id: ConnId, count: u32, reason: &str, now: Micros) {
        self.shared
            .counters
            .publishes_refused
            .fetch_add(u64::from(count), Ordering::Relaxed);
        if let Some(left_out) = self.shared.refused_publishes.admit(now)
            && let Some(Some(conn)) = self.conns.slots.get(id.slot as usize)
        {
            let client = conn.session.as_ref().map(|s| &*s.client);
            let user = conn.identity.as_ref().map(|i| i.user());
            let topic = conn.last_topic.as_str();
            tracing::warn!(
                client,
                user,
                topic,
                reason,
                left_out,
                "an MQTT publish was refused"
            );
        }
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP from the client.
    pub(super) fn ack(&mut self, id: ConnId, ack: Ack, _now: Micros) -> Result<()> {
        match ack.kind {
            AckKind::Puback => {
                if self
                    .flight(id, ack.packet_id)
                    .is_some_and(|(qos, _)| qos == 1)
                {
                    self.acknowledged(id, ack.packet_id);
                }
                Ok(())
            }
            AckKind::Pubrec => self.pubrec(id, ack),
            AckKind::Pubcomp => {
                if self.flight(id, ack.packet_id) == Some((2, true)) {
                    self.acknowledged(id, ack.packet_id);
                }
                Ok(())
            }
            AckKind::Pubrel => self.pubrel(id, ack),
        }
    }

    fn pubrec(&mut self, id: ConnId, ack: Ack) -> Result<()> {
        let known = self
            .flight(id, ack.packet_id)
            .is_some_and(|(qos, _)| qos == 2);
        if known && ack.reason.is_failure() {
            self.acknowledged(id, ack.packet_id);
            return Ok(());
        }
        let reason = match known {
            true => Reason::SUCCESS,
            false => Reason::PACKET_IDENTIFIER_NOT_FOUND,
        };
        if !known && ack.reason.is_failure() {
            return Ok(());
        }
        let gate = if known { self.gate(id) } else { None };
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        if let Some(flight) = conn
            .session
            .as_mut()
            .and_then(|s| s.in_flight.get_mut(&ack.packet_id))
            .filter(|_| known)
        {
            flight.released = true;
        }
        let (version, text) = (conn.version, conn.words_for(reason));
        let pubrel = Ack {
            kind: AckKind::Pubrel,
            packet_id: ack.packet_id,
            reason,
        };
        conn.out
            .append(gate, |out| encode_ack(version, pubrel, text, out));
        self.wake(id);
        Ok(())
    }

    fn pubrel(&mut self, id: ConnId, ack: Ack) -> Result<()> {
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        let known = conn
            .session
            .as_mut()
            .is_some_and(|s| s.received.remove(&ack.packet_id).is_some());
        // The identifier must be free on disk too before the client may use it again.
        let gate = if known { self.gate(id) } else { None };
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        let reason = match known {
            true => Reason::SUCCESS,
            false => Reason::PACKET_IDENTIFIER_NOT_FOUND,
        };
        if known {
            conn.receiving = conn.receiving.saturating_sub(1);
        }
        let (version, text) = (conn.version, conn.words_for(reason));
        let pubcomp = Ack {
            kind: AckKind::Pubcomp,
            packet_id: ack.packet_id,
            reason,
        };
        conn.out
            .append(gate, |out| encode_ack(version, pubcomp, text, out));
        self.wake(id);
        Ok(())
    }

    fn flight(&mut self, id: ConnId, packet_id: u16) -> Option<(u8, bool)> {
        let flight = self.conn(id)?.session.as_ref()?.in_flight.get(&packet_id)?;
        Some((flight.qos, flight.released))
    }

    /// A message was acknowledged: its identifier is free and there is room for another.
    fn acknowledged(&mut self, id: ConnId, packet_id: u16) {
        let Some(conn) = self.conn(id) else { return };
        let Some(session) = conn.session.as_mut() else {
            return;
        };
        let Some(flight) = session.remove_in_flight(packet_id) else {
            return;
        };
        let was_full = conn.sent >= conn.window;
        conn.sent = conn.sent.saturating_sub(1);
        let wants_more = was_full
            || !conn.lag.is_empty()
            || !conn.retained.is_empty()
            || !conn.resend.is_empty();
        if let (Some(text), crate::state::Source::Log(partition, offset)) =
            (&flight.group, &flight.source)
        {
            self.group_done(&Arc::clone(text), &Arc::clone(partition), *offset);
        }
        if wants_more {
            self.pump(id);
        }
        self.journal_lazily(id);
    }
}

enum Repeated {
    /// No, or it was lost and is sent again as it should be.
    New,
    /// It is stored.
    Stored,
    /// It is still on its way to the disk.
    Doubt,
}

enum Verdict {
    Ack(Reason),
    Close(Refusal),
}

fn reason_of(refused: Refused) -> Verdict {
    match refused {
        Refused::Topic => Verdict::Close(Refusal::new(
            Reason::TOPIC_NAME_INVALID,
            "topic is not a topic name",
        )),
        // The packet was within its limit, so the acknowledgement carries the refusal.
        Refused::PayloadTooLarge | Refused::RetainedFull | Refused::Overloaded => {
            Verdict::Ack(Reason::QUOTA_EXCEEDED)
        }
        _ => Verdict::Ack(Reason::IMPLEMENTATION_SPECIFIC_ERROR),
    }
}
