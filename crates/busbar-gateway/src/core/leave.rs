//! How connections end: sockets that close, take-over, wills, and sessions whose time is over.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use busbar_bus::Status;
use busbar_event::Micros;
use busbar_mqtt::control::Will;
use busbar_mqtt::{AckKind, Reason};

use crate::conn::{AckState, Conn, ConnId, Eviction, Phase};
use crate::message::event_of_will;
use crate::registry::Due;
use crate::spine::Spine;
use crate::state::{Session, Source, Stored};

use super::{Core, Effect, Message};

/// A session that is put away once its last journal batch was handed over, so that whoever resumes
/// it on another core cannot be overtaken on disk.
pub(super) struct Leaving {
    conn: ConnId,
    after: u64,
    session: Box<Session>,
    will_at: Option<Micros>,
    wanted: Option<Eviction>,
}

/// A QoS 2 publish that is on its way to the disk although its connection is lost.
pub(super) struct Trailing<T> {
    ticket: T,
    client: Arc<str>,
    seq: u64,
}

impl<S: Spine> Core<S> {
    /// Learns what became of publishes whose connections were lost.
    pub(super) fn settle_trailing(&mut self) {
        let (spine, shared) = (&self.spine, &self.shared);
        self.trailing.retain(|t| match spine.status(t.ticket) {
            Status::Pending => true,
            Status::Committed => false,
            Status::Failed(_) => {
                shared.note_lost(&t.client, t.seq);
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
            self.orphans.push((id, wanted));
        }
        if let Some(session) = self.detach(id, now, Ending::Closed) {
            self.put_away(id, session, now);
        }
        self.give_room_back(id);
        if let Some(slot) = self.conns.get_mut(id.slot as usize) {
            if let Some(conn) = slot {
                self.tally.packets_out += conn.out.take_packets();
            }
            *slot = None;
            self.free.push(id.slot);
            self.shared.close_connection();
        }
    }

    /// Takes the session off its connection. `None` when it ends with it.
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
        session.positions = positions;
        let trailing = settle_received(conn, &mut session);
        conn.held.clear();
        conn.held_bytes = 0;
        conn.acks.clear();
        self.trailing.extend(trailing);
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
            self.shared.forget(&session.client, self.number, id);
        }
        None
    }

    /// Keeps a session without a connection.
    pub(super) fn put_away(&mut self, id: ConnId, mut session: Box<Session>, now: Micros) {
        session.recorded = true;
        let ended = *session.ended.get_or_insert(now);
        self.journal.put(&session);
        let will_at = session.will_at(ended);
        self.leaving.push(Leaving {
            conn: id,
            after: self.journal.next(),
            session,
            will_at,
            wanted: None,
        });
    }

    /// Puts away what has been handed to the journal.
    pub(super) fn settle_leaving(&mut self, now: Micros) {
        let submitted = self.journal.next();
        let mut at = 0;
        while at < self.leaving.len() {
            if self.leaving[at].after >= submitted {
                at += 1;
                continue;
            }
            let Leaving {
                conn,
                session,
                will_at,
                wanted,
                ..
            } = self.leaving.swap_remove(at);
            if let Some(eviction) = wanted {
                self.hand_to(eviction, session, now);
                continue;
            }
            let expires_at = session.expires_at(session.ended.unwrap_or(now));
            if let Some(session) = self
                .shared
                .keep(conn, self.number, session, will_at, expires_at)
            {
                // Somebody claimed it meanwhile and will ask.
                self.stash.push((conn, session));
            }
        }
    }

    pub(super) fn evict(
        &mut self,
        client: Arc<str>,
        holder: ConnId,
        eviction: Eviction,
        now: Micros,
    ) {
        if let Some(leaving) = self.leaving.iter_mut().find(|l| l.conn == holder) {
            leaving.wanted = Some(eviction);
            return;
        }
        if let Some(at) = self.stash.iter().position(|(conn, _)| *conn == holder) {
            let (_, session) = self.stash.swap_remove(at);
            return self.hand_to(eviction, session, now);
        }
        if let Some(orphan) = self.orphans.iter_mut().find(|(conn, _)| *conn == holder) {
            orphan.1 = Some(eviction);
            return;
        }
        match self.conn(holder).map(|c| &mut c.phase) {
            Some(Phase::Claiming(_, wanted)) => *wanted = Some(eviction),
            Some(_) => {
                let session = match self
                    .conn(holder)
                    .and_then(|c| c.session.as_ref())
                    .is_some_and(|s| s.client == client)
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

    /// The session of a connection that claimed it and went away before it came.
    pub(super) fn orphaned(&mut self, id: ConnId, session: Option<Box<Session>>, now: Micros) {
        let wanted = match self.orphans.iter().position(|(conn, _)| *conn == id) {
            Some(at) => self.orphans.swap_remove(at).1,
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

    /// A session that is over without a connection.
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

    /// Deletes the record of a session that ended and gives back what it was dealt.
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

    /// Wills and sessions of absent clients whose time has come.
    pub(super) fn absent_due(&mut self, now: Micros) {
        let shared = Arc::clone(&self.shared);
        let ghosts = &mut self.ghosts;
        let due = shared.due(now, self.number, || {
            *ghosts = ghosts.wrapping_add(1);
            ConnId {
                slot: u32::MAX,
                generation: *ghosts,
            }
        });
        for due in due {
            match due {
                Due::Over(session) => self.end_session(session, now),
                Due::Will(ghost, mut session) => {
                    let will = session.will.take();
                    self.publish_will(&session.client, will, now);
                    self.put_away(ghost, session, now);
                }
            }
        }
    }

    pub(super) fn publish_will(&mut self, client: &str, will: Option<Will>, now: Micros) {
        let Some(will) = will else { return };
        let event = event_of_will(&will, now);
        let spine = &mut self.spine;
        if let Err(refused) = event.lend(client, |e| spine.publish(e, None)) {
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

/// QoS 2 publishes whose commit was not awaited: held ones were not published and are forgotten; of
/// the others it is learnt later what became of them.
fn settle_received<T: Copy>(conn: &Conn<T>, session: &mut Session) -> Vec<Trailing<T>> {
    let mut trailing = Vec::new();
    for run in conn.acks.iter().filter(|r| r.kind == AckKind::Pubrec) {
        for i in 0..run.count {
            let packet_id = run.first.wrapping_add(i as u16);
            match run.state {
                AckState::Held(_) => {
                    session.received.remove(&packet_id);
                }
                AckState::Ticket(ticket) => {
                    if let Some(received) = session.received.get_mut(&packet_id) {
                        received.stored = Stored::OnItsWay;
                        let client = Arc::clone(&session.client);
                        trailing.push(Trailing {
                            ticket,
                            client,
                            seq: received.seq,
                        });
                    }
                }
                AckState::Doubt(_) | AckState::Done(_) => {}
            }
        }
    }
    trailing
}
