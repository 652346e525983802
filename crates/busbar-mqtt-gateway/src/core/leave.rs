//! The end of connections: closed sockets, take-over, wills, and expired sessions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use busbar_bus::Status;
use busbar_event::Micros;
use busbar_mqtt::control::Will;
use busbar_mqtt::{AckKind, Reason};

use crate::conn::{AckState, Conn, Eviction, Phase};
use crate::message::event_of_will;
use crate::registry::Due;
use crate::state::{Session, SessionId, Source, Stored};
use busbar_gateway::ConnId;
use busbar_gateway::event_log::EventLog;

use super::{Core, Effect, Message};

/// Protocol on their way between connections, and publishes of closed connections that are not committed yet.
pub(super) struct Handover<T> {
    /// QoS 2 publishes of closed connections that are not committed yet.
    lost_publishes: Vec<LostPublish<T>>,
    /// Protocol that are stored once their journal batch was handed over.
    pub leaving: Vec<Leaving>,
    /// Protocol that another connection has claimed and will ask for.
    claimed_sessions: Vec<(ConnId, Box<Session>)>,
    /// Connections that closed while they claimed a session, and the connection that claims it from them.
    abandoned_claims: Vec<(ConnId, Option<Eviction>)>,
    /// Number of the last placeholder: a connection identifier that holds a session while its will is
    /// published.
    placeholder: u32,
}

impl<T> Default for Handover<T> {
    fn default() -> Handover<T> {
        Handover {
            lost_publishes: Vec::new(),
            leaving: Vec::new(),
            claimed_sessions: Vec::new(),
            abandoned_claims: Vec::new(),
            placeholder: 0,
        }
    }
}

/// A session that is stored once its last journal batch was handed over, so that a connection which resumes
/// it on another core writes its record later.
pub(super) struct Leaving {
    conn: ConnId,
    after: u64,
    session: Box<Session>,
    will_at: Option<Micros>,
    wanted: Option<Eviction>,
}

/// A QoS 2 publish that is not committed yet and whose connection is closed.
pub(super) struct LostPublish<T> {
    ticket: T,
    producer: Arc<str>,
    seq: u64,
}

impl<S: EventLog> Core<S> {
    /// Checks which publishes of closed connections were committed.
    pub(super) fn settle_lost_publishes(&mut self) {
        let (log, shared) = (&self.log, &self.shared);
        self.handover
            .lost_publishes
            .retain(|t| match log.status(t.ticket) {
                Status::Pending => true,
                Status::Committed => false,
                Status::Failed(_) => {
                    shared.note_lost(&t.producer, t.seq);
                    false
                }
            });
    }

    /// The socket is closed.
    pub fn gone(&mut self, id: ConnId, now: Micros) {
        let Some(conn) = self.conn(id) else { return };
        let phase = std::mem::replace(&mut conn.phase, Phase::Closing);
        if let Phase::Claiming(connect, wanted) = phase {
            drop(connect);
            self.handover.abandoned_claims.push((id, wanted));
        }
        if let Some(session) = self.detach(id, now, Ending::Closed) {
            self.put_away(id, session, now);
        }
        self.give_room_back(id);
        if let Some(mut conn) = self.conns.remove(id) {
            self.tally.packets_out += conn.out.take_packets();
            self.shared.admissions.close_connection();
        }
    }

    /// Takes the session from its connection. `None` when the session ends with the connection.
    fn detach(&mut self, id: ConnId, now: Micros, ending: Ending) -> Option<Box<Session>> {
        self.conn(id)?.session.as_ref()?;
        let positions = self.positions_of(id);
        let clean = matches!(ending, Ending::TakenOver { clean: true });
        let stays = !clean
            && self
                .conn(id)?
                .session
                .as_ref()
                .is_some_and(|s| s.is_persistent());
        self.part_all(id, !stays);
        let conn = self.conn(id)?;
        let said_goodbye = conn.said_goodbye;
        conn.must_journal = false;
        conn.lazy_journal = false;
        conn.out.drop_staged();
        let mut session = conn.session.take()?;
        session.set_positions(positions);
        let lost_publishes = settle_received(conn, &mut session);
        conn.held.clear();
        conn.held_bytes = 0;
        conn.acks.clear();
        self.handover.lost_publishes.extend(lost_publishes);
        if said_goodbye {
            session.will = None;
        }
        if let Some(will) = &session.will {
            let waits = stays && will.delay_s > 0;
            if !waits {
                let will = session.will.take();
                self.publish_will(&session.client, will, now);
            } else if matches!(ending, Ending::TakenOver { .. }) {
                // The client is back before the delay is over.
                session.will = None;
            }
        }
        if stays {
            return Some(session);
        }
        self.end_records(&session);
        if matches!(ending, Ending::Closed) {
            self.shared.forget(&session.id(), self.number, id);
        }
        None
    }

    /// Keeps a session without a connection.
    pub(super) fn put_away(&mut self, id: ConnId, mut session: Box<Session>, now: Micros) {
        session.recorded = true;
        let ended = *session.ended.get_or_insert(now);
        self.journal.put(&session);
        let will_at = session.will_at(ended);
        self.handover.leaving.push(Leaving {
            conn: id,
            after: self.journal.next(),
            session,
            will_at,
            wanted: None,
        });
    }

    /// Stores sessions whose journal batch was handed over.
    pub(super) fn settle_leaving(&mut self, now: Micros) {
        let submitted = self.journal.next();
        let mut at = 0;
        while at < self.handover.leaving.len() {
            if self.handover.leaving[at].after >= submitted {
                at += 1;
                continue;
            }
            let Leaving {
                conn,
                session,
                will_at,
                wanted,
                ..
            } = self.handover.leaving.swap_remove(at);
            if let Some(eviction) = wanted {
                self.hand_to(eviction, session, now);
                continue;
            }
            let expires_at = session.expires_at(session.ended.unwrap_or(now));
            if let Some(session) = self
                .shared
                .keep(conn, self.number, session, will_at, expires_at)
            {
                // Another connection claimed it meanwhile and will ask for it.
                self.handover.claimed_sessions.push((conn, session));
            }
        }
    }

    pub(super) fn evict(
        &mut self,
        wanted: SessionId,
        holder: ConnId,
        eviction: Eviction,
        now: Micros,
    ) {
        if let Some(leaving) = self.handover.leaving.iter_mut().find(|l| l.conn == holder) {
            leaving.wanted = Some(eviction);
            return;
        }
        if let Some(at) = self
            .handover
            .claimed_sessions
            .iter()
            .position(|(conn, _)| *conn == holder)
        {
            let (_, session) = self.handover.claimed_sessions.swap_remove(at);
            return self.hand_to(eviction, session, now);
        }
        if let Some(orphan) = self
            .handover
            .abandoned_claims
            .iter_mut()
            .find(|(conn, _)| *conn == holder)
        {
            orphan.1 = Some(eviction);
            return;
        }
        match self.conn(holder).map(|c| &mut c.phase) {
            Some(Phase::Claiming(_, waiting)) => *waiting = Some(eviction),
            Some(_) => {
                let session = match self
                    .conn(holder)
                    .and_then(|c| c.session.as_ref())
                    .is_some_and(|s| s.id() == wanted)
                {
                    true => {
                        let clean = eviction.clean;
                        self.disconnect(
                            holder,
                            Reason::SESSION_TAKEN_OVER,
                            "another connection uses this client identifier",
                        );
                        self.detach(holder, now, Ending::TakenOver { clean })
                    }
                    false => None,
                };
                self.effects.push(Effect::Post(
                    eviction.core,
                    Message::Claimed(eviction.conn, session),
                ));
            }
            None => self.effects.push(Effect::Post(
                eviction.core,
                Message::Claimed(eviction.conn, None),
            )),
        }
    }

    /// A session arrived for a connection that closed while it claimed the session.
    pub(super) fn claim_abandoned(
        &mut self,
        id: ConnId,
        session: Option<Box<Session>>,
        now: Micros,
    ) {
        let wanted = match self
            .handover
            .abandoned_claims
            .iter()
            .position(|(conn, _)| *conn == id)
        {
            Some(at) => self.handover.abandoned_claims.swap_remove(at).1,
            None => None,
        };
        match (session, wanted) {
            (Some(session), Some(eviction)) => self.hand_to(eviction, session, now),
            (Some(session), None) => self.put_away(id, session, now),
            (None, Some(eviction)) => self.effects.push(Effect::Post(
                eviction.core,
                Message::Claimed(eviction.conn, None),
            )),
            (None, None) => {}
        }
    }

    fn hand_to(&mut self, eviction: Eviction, mut session: Box<Session>, now: Micros) {
        let session = match eviction.clean {
            true => {
                self.end_session(session, now);
                None
            }
            false => {
                if session.will.as_ref().is_some_and(|w| w.delay_s > 0) {
                    session.will = None;
                }
                Some(session)
            }
        };
        self.effects.push(Effect::Post(
            eviction.core,
            Message::Claimed(eviction.conn, session),
        ));
    }

    /// Ends a session that has no connection.
    pub(super) fn end_session(&mut self, mut session: Box<Session>, now: Micros) {
        let will = session.will.take();
        self.publish_will(&session.client, will, now);
        let shared: Vec<Arc<str>> = session
            .live_subs()
            .filter(|(_, s)| s.share.is_some())
            .map(|(_, s)| Arc::clone(&s.text))
            .collect();
        self.end_records(&session);
        for text in shared {
            self.end_membership(&text);
            self.wake_group(&text);
        }
    }

    /// Deletes the record of a session that ended, and returns its unacknowledged rows to their groups.
    fn end_records(&mut self, session: &Session) {
        self.shared
            .subscriptions
            .fetch_sub(session.by_text.len(), Ordering::Relaxed);
        if session.recorded {
            self.journal.delete(session);
        }
        let mut flying: Vec<_> = session
            .in_flight
            .values()
            .filter(|f| f.group.is_some() && !f.released)
            .collect();
        flying.sort_unstable_by_key(|f| f.order);
        for flight in flying {
            if let (Some(text), Source::Log(partition, offset)) = (&flight.group, &flight.source)
                && let Some(group) = self.shared.existing_group(text)
                && let Some(number) = self.number_of(partition)
            {
                group.lock().give_back(number, *offset);
                self.wake_group(text);
            }
        }
    }

    /// Publishes due wills and ends expired sessions of clients that are not connected.
    pub(super) fn absent_due(&mut self, now: Micros) {
        let shared = Arc::clone(&self.shared);
        let placeholder = &mut self.handover.placeholder;
        let due = shared.due(now, self.number, || {
            *placeholder = placeholder.wrapping_add(1);
            ConnId {
                slot: u32::MAX,
                generation: *placeholder,
            }
        });
        for due in due {
            match due {
                Due::Over(session) => self.end_session(session, now),
                Due::Will(placeholder, mut session) => {
                    let will = session.will.take();
                    self.publish_will(&session.client, will, now);
                    self.put_away(placeholder, session, now);
                }
            }
        }
    }

    pub(super) fn publish_will(&mut self, client: &str, will: Option<Will>, now: Micros) {
        let Some(will) = will else { return };
        let event = event_of_will(&will, now);
        let log = &mut self.log;
        if let Err(refused) = event.lend(client, |e| log.publish(e, None)) {
            tracing::warn!(client, %refused, "a will could not be published");
        }
        self.unflushed = true;
    }
}

/// How a connection ended.
enum Ending {
    Closed,
    TakenOver { clean: bool },
}

/// QoS 2 publishes that were not acknowledged when the connection closed: those still held are dropped, the
/// others are checked when they have been committed.
fn settle_received<T: Copy>(conn: &Conn<T>, session: &mut Session) -> Vec<LostPublish<T>> {
    let mut lost_publishes = Vec::new();
    for run in conn.acks.iter().filter(|r| r.kind == AckKind::Pubrec) {
        for i in 0..run.count {
            let packet_id = run.first.wrapping_add(i as u16);
            match run.state {
                AckState::Held(_) => {
                    session.received.remove(&packet_id);
                }
                AckState::Ticket(ticket) => {
                    let producer = Arc::clone(session.producer());
                    if let Some(received) = session.received.get_mut(&packet_id) {
                        received.stored = Stored::OnItsWay;
                        lost_publishes.push(LostPublish {
                            ticket,
                            producer,
                            seq: received.seq,
                        });
                    }
                }
                AckState::Doubt(_) | AckState::Done(_) => {}
            }
        }
    }
    lost_publishes
}
