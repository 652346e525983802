//! Protocol on disk: what must be durable before bytes leave, and what may follow lazily.
//!
//! A batch that must be written (a QoS 2 assignment, a subscription, a released identifier) gates
//! the bytes that depend on it. Low-water marks of QoS 1 follow within [`LAZY_JOURNAL_US`]: after a
//! crash some messages come twice, none is lost.

use std::collections::VecDeque;
use std::sync::Arc;

use busbar_event::Micros;
use busbar_log::Change;
use busbar_mqtt::Reason;
use bytes::Bytes;

use crate::conn::Conn;
use crate::limits::LAZY_JOURNAL_US;
use crate::state::{Positions, Session, SessionId};
use busbar_gateway::ConnId;
use busbar_gateway::event_log::EventLog;

use super::{Core, Effect};

/// Changes that wait for the end of the turn.
pub(super) struct Journal {
    next: u64,
    changes: Vec<Change>,
    must: Vec<ConnId>,
    /// Connections whose bytes wait for a batch that was handed over.
    gated: VecDeque<(u64, Vec<ConnId>)>,
    lazy: Vec<ConnId>,
    lazy_at: Micros,
    lazy_due: bool,
}

impl Default for Journal {
    fn default() -> Journal {
        Journal {
            next: 1,
            changes: Vec::new(),
            must: Vec::new(),
            gated: VecDeque::new(),
            lazy: Vec::new(),
            lazy_at: 0,
            lazy_due: false,
        }
    }
}

impl Journal {
    pub(super) fn is_due(&self) -> bool {
        !self.must.is_empty() || !self.changes.is_empty() || self.lazy_due
    }

    pub(super) fn lazy_is_due(&mut self, now: Micros) {
        if !self.lazy.is_empty() && now - self.lazy_at >= LAZY_JOURNAL_US {
            self.lazy_at = now;
            self.lazy_due = true;
        }
    }

    pub(super) fn lazy_now(&mut self) {
        self.lazy_due = true;
    }

    /// Number of the batch that will be handed over next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// See [`Core::gate`].
    pub(super) fn gate<T>(&mut self, conn: &mut Conn<T>) -> Option<u64> {
        let session = conn.session.as_mut()?;
        if !session.is_persistent() {
            return None;
        }
        if !conn.must_journal {
            conn.must_journal = true;
            self.must.push(conn.id);
        }
        Some(self.next)
    }

    /// See [`Core::journal_lazily`].
    #[inline]
    pub(super) fn lazily<T>(&mut self, conn: &mut Conn<T>) {
        if !conn.lazy_journal && conn.session.as_ref().is_some_and(|s| s.is_persistent()) {
            conn.lazy_journal = true;
            self.lazy.push(conn.id);
        }
    }

    pub(super) fn put(&mut self, session: &Session) {
        self.changes
            .push(Change::Put(session_key(session), session.encode().into()));
    }

    pub(super) fn delete(&mut self, session: &Session) {
        self.changes.push(Change::Delete(session_key(session)));
    }

    /// Has the bytes of a connection wait for the next batch, whose changes are there already; its
    /// number.
    pub(super) fn gate_on_next(&mut self, id: ConnId) -> u64 {
        self.must.push(id);
        self.next
    }

    pub(super) fn delete_group(&mut self, text: &str) {
        self.changes.push(Change::Delete(group_key(text)));
    }
}

/// Key of a session's record: the client's identifier, the user if it has one, neither of which holds a
/// NUL, and when the session began.
pub fn session_key(session: &Session) -> Bytes {
    let Session {
        user, client, born, ..
    } = session;
    let key = match (&**user, born) {
        ("", 0) => format!("s/{client}"),
        ("", born) => format!("s/{client}\0{born:016x}"),
        (user, born) => format!("s/{client}\0{user}\0{born:016x}"),
    };
    key.into_bytes().into()
}

/// Name and beginning of the session whose record has this key. Records of the first version have no
/// beginning, and those of sessions without a user no user.
pub fn parse_session_key(key: &[u8]) -> Option<(SessionId, Micros)> {
    let name = std::str::from_utf8(key).ok()?.strip_prefix("s/")?;
    let (client, rest) = name.split_once('\0').unwrap_or((name, "0"));
    let (user, born) = rest.split_once('\0').unwrap_or(("", rest));
    let id = SessionId {
        user: user.into(),
        client: client.into(),
    };
    Some((id, Micros::from_str_radix(born, 16).ok()?))
}

/// Key of a shared subscription's record.
pub fn group_key(text: &str) -> Bytes {
    format!("g/{text}").into_bytes().into()
}

impl<S: EventLog> Core<S> {
    /// The session of `id` must be journalled with the next batch; the number of that batch, for
    /// bytes that depend on it. `None` when the session does not outlive its connection.
    pub(super) fn gate(&mut self, id: ConnId) -> Option<u64> {
        let conn = match self.conns.slots.get_mut(id.slot as usize) {
            Some(Some(conn)) if conn.id == id => conn,
            _ => return None,
        };
        self.journal.gate(conn)
    }

    /// The session of `id` changed in a way that may be written later.
    pub(super) fn journal_lazily(&mut self, id: ConnId) {
        if let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize)
            && conn.id == id
        {
            self.journal.lazily(conn);
        }
    }

    pub(super) fn journal_due(&mut self, _now: Micros) {
        let mut due = std::mem::take(&mut self.journal.must);
        if !due.is_empty() {
            self.journal
                .gated
                .push_back((self.journal.next, due.clone()));
        }
        if std::mem::take(&mut self.journal.lazy_due) {
            due.append(&mut self.journal.lazy);
        }
        for id in due {
            let positions = self.positions_of(id);
            let Some(conn) = self.conn(id) else { continue };
            if !(conn.must_journal || conn.lazy_journal) {
                continue;
            }
            conn.must_journal = false;
            conn.lazy_journal = false;
            let Some(session) = conn.session.as_mut().filter(|s| s.is_persistent()) else {
                continue;
            };
            session.set_positions(positions);
            session.recorded = true;
            let (key, record) = (session_key(session), session.encode());
            self.journal.changes.push(Change::Put(key, record.into()));
        }
        if self.journal.changes.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut self.journal.changes);
        self.effects
            .push(Effect::Journal(self.journal.next, changes));
        self.journal.next += 1;
    }

    /// A journal batch is durable, or has failed.
    pub fn journalled(&mut self, seq: u64, ok: bool, now: Micros) {
        let mut waiting = Vec::new();
        while let Some((_, ids)) = self.journal.gated.pop_front_if(|(batch, _)| *batch <= seq) {
            waiting.extend(ids);
        }
        for id in waiting {
            let Some(conn) = self.conn(id) else {
                continue;
            };
            let held = conn.held.front().is_some_and(|h| h.gate <= seq);
            if !held && !conn.out.waits_for(seq) {
                continue;
            }
            if !ok && conn.session.as_ref().is_some_and(|s| s.is_persistent()) {
                self.disconnect(id, Reason::QUOTA_EXCEEDED, "the session cannot be kept");
                continue;
            }
            // A session that ends with its connection is served even so: what could not be written is
            // its will, which is now as safe as the node itself.
            conn.out.release(seq);
            conn.connack_gate.take_if(|gate| *gate <= seq);
            self.wake(id);
            if held {
                self.publish_held(id, seq, now);
            }
        }
    }

    /// Where the session of `id` continues after a restart.
    pub(super) fn positions_of(&mut self, id: ConnId) -> Positions {
        let mut all = Positions::default();
        let Some(Some(conn)) = self.conns.slots.get(id.slot as usize) else {
            return all;
        };
        for reader in self.delivery.readers.iter().flatten() {
            let partition = reader.info.number;
            let at = conn.lag_in(partition).unwrap_or(reader.live);
            let from = conn
                .from
                .iter()
                .find(|f| f.0 == partition)
                .map_or(0, |f| f.1);
            all.insert(Arc::clone(&reader.info.name), at.max(from));
        }
        all
    }

    pub(super) fn journal_groups(&mut self, now: Micros) {
        if now - self.groups.journalled_at >= LAZY_JOURNAL_US {
            self.groups.journalled_at = now;
            self.journal_groups_now();
        }
    }

    pub(super) fn journal_groups_now(&mut self) {
        for local in &mut self.groups.local {
            let record = local.group.lock().encode();
            if local.saved != record {
                let change = Change::Put(group_key(&local.text), record.clone().into());
                local.saved = record;
                self.journal.changes.push(change);
            }
        }
    }
}
