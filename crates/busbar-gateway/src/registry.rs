//! What the cores share: who is connected where, sessions whose clients are away, shared
//! subscriptions, counters and bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use busbar_event::Micros;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::conn::ConnId;
use crate::group::Group;
use crate::limits::{LOST_NOTES_MAX, Limits};
use crate::state::Session;

/// What the cores share. Each lock is held for a look-up or a move, never while waiting; no two of
/// them are held at once.
pub struct Shared {
    /// Bounds.
    pub limits: Limits,
    /// Counters.
    pub counters: Counters,
    clients: Mutex<HashMap<Arc<str>, Whereabouts, RandomState>>,
    groups: Mutex<HashMap<Arc<str>, Arc<Mutex<Group>>, RandomState>>,
    /// QoS 2 publishes that failed after their connection was lost: client and sequence number.
    lost: Mutex<Vec<(Arc<str>, u64)>>,
    connections: AtomicUsize,
    rate: Mutex<(Micros, u32)>,
    stopping: AtomicBool,
    next_expiry: AtomicI64,
}

/// Counters of the gateway.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections refused or closed for a fault of the client.
    pub refusals: AtomicU64,
    /// PUBLISH packets in.
    pub publishes_in: AtomicU64,
    /// Bytes of payload in.
    pub bytes_in: AtomicU64,
    /// PUBLISH packets out.
    pub publishes_out: AtomicU64,
    /// Events not sent because they were too large for the client.
    pub too_large: AtomicU64,
    /// Events not sent because they had expired.
    pub expired: AtomicU64,
    /// Publishes refused.
    pub publishes_refused: AtomicU64,
}

enum Whereabouts {
    Online {
        core: usize,
        conn: ConnId,
    },
    Away {
        session: Box<Session>,
        will_at: Option<Micros>,
        expires_at: Option<Micros>,
    },
}

/// What a newcomer finds.
pub enum Claim {
    /// No such session.
    New,
    /// A session whose client was away, with a will that is still due.
    Resume(Box<Session>),
    /// The client is connected there: ask for its session.
    Ask(usize, ConnId),
    /// Too many sessions.
    Full,
}

impl Shared {
    /// With bounds.
    pub fn new(limits: Limits) -> Shared {
        Shared {
            limits,
            counters: Counters::default(),
            clients: Mutex::default(),
            groups: Mutex::default(),
            lost: Mutex::default(),
            connections: AtomicUsize::new(0),
            rate: Mutex::new((0, 0)),
            stopping: AtomicBool::new(false),
            next_expiry: AtomicI64::new(Micros::MAX),
        }
    }

    /// Counts a new connection; false when there are too many.
    pub fn open_connection(&self) -> bool {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        if before >= self.limits.connections_max {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Notes that a QoS 2 publish failed after its connection was lost.
    pub fn note_lost(&self, client: &Arc<str>, seq: u64) {
        let mut lost = self.lost.lock();
        if lost.len() >= LOST_NOTES_MAX {
            lost.remove(0);
        }
        lost.push((Arc::clone(client), seq));
    }

    /// Whether that was noted; it is forgotten then.
    pub fn was_lost(&self, client: &str, seq: u64) -> bool {
        let mut lost = self.lost.lock();
        match lost.iter().position(|(c, s)| **c == *client && *s == seq) {
            Some(at) => {
                lost.swap_remove(at);
                true
            }
            None => false,
        }
    }

    /// Counts a connection that is gone.
    pub fn close_connection(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Sessions now, connected or not.
    pub fn sessions(&self) -> usize {
        self.clients.lock().len()
    }

    /// Whether one more connection fits into this second.
    pub fn within_rate(&self, now: Micros) -> bool {
        let mut rate = self.rate.lock();
        let second = now.div_euclid(1_000_000);
        if rate.0 != second {
            *rate = (second, 0);
        }
        rate.1 += 1;
        rate.1 <= self.limits.connections_per_second_max
    }

    /// From now on new connections are refused.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether the gateway stops.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Registers `conn` as the connection of `client` and says where its session is.
    pub fn claim(&self, client: &Arc<str>, core: usize, conn: ConnId) -> Claim {
        let mut clients = self.clients.lock();
        if !clients.contains_key(client) && clients.len() >= self.limits.sessions_max {
            return Claim::Full;
        }
        match clients.insert(Arc::clone(client), Whereabouts::Online { core, conn }) {
            None => Claim::New,
            Some(Whereabouts::Away { session, .. }) => Claim::Resume(session),
            Some(Whereabouts::Online { core, conn }) => Claim::Ask(core, conn),
        }
    }

    /// Keeps the session of a client that went away, unless a newcomer has claimed it meanwhile:
    /// then it is given back, to be sent there.
    pub fn keep(
        &self,
        conn: ConnId,
        core: usize,
        session: Box<Session>,
        will_at: Option<Micros>,
        expires_at: Option<Micros>,
    ) -> Option<Box<Session>> {
        let mut clients = self.clients.lock();
        match clients.get(&session.client) {
            Some(Whereabouts::Online { core: c, conn: n }) if (*c, *n) != (core, conn) => {
                Some(session)
            }
            _ => {
                let next = will_at
                    .unwrap_or(Micros::MAX)
                    .min(expires_at.unwrap_or(Micros::MAX));
                self.next_expiry.fetch_min(next, Ordering::AcqRel);
                let client = Arc::clone(&session.client);
                clients.insert(
                    client,
                    Whereabouts::Away {
                        session,
                        will_at,
                        expires_at,
                    },
                );
                None
            }
        }
    }

    /// Enters a session read from disk, whose client is away.
    pub fn restore(
        &self,
        session: Box<Session>,
        will_at: Option<Micros>,
        expires_at: Option<Micros>,
    ) {
        let next = will_at
            .unwrap_or(Micros::MAX)
            .min(expires_at.unwrap_or(Micros::MAX));
        self.next_expiry.fetch_min(next, Ordering::AcqRel);
        let client = Arc::clone(&session.client);
        self.clients.lock().insert(
            client,
            Whereabouts::Away {
                session,
                will_at,
                expires_at,
            },
        );
    }

    /// Forgets a client whose session ended with its connection.
    pub fn forget(&self, client: &Arc<str>, core: usize, conn: ConnId) {
        let mut clients = self.clients.lock();
        if let Some(Whereabouts::Online { core: c, conn: n }) = clients.get(client)
            && (*c, *n) == (core, conn)
        {
            clients.remove(client);
        }
    }

    /// Sessions of absent clients whose will is due (`false`: it is taken out, the session stays)
    /// or whose time is over (`true`: the session is removed).
    pub fn due(&self, now: Micros) -> Vec<(Box<Session>, bool)> {
        if now < self.next_expiry.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut clients = self.clients.lock();
        let mut over = Vec::new();
        let mut due = Vec::new();
        let mut next = Micros::MAX;
        for (client, where_) in clients.iter_mut() {
            let Whereabouts::Away {
                session,
                will_at,
                expires_at,
            } = where_
            else {
                continue;
            };
            if expires_at.is_some_and(|at| at <= now) {
                over.push(Arc::clone(client));
                continue;
            }
            if will_at.is_some_and(|at| at <= now) {
                *will_at = None;
                let mut ghost = Session::new(Arc::clone(client));
                ghost.will = session.will.take();
                due.push((Box::new(ghost), false));
            }
            next = next
                .min(expires_at.unwrap_or(Micros::MAX))
                .min(will_at.unwrap_or(Micros::MAX));
        }
        for client in over {
            if let Some(Whereabouts::Away { session, .. }) = clients.remove(&client) {
                due.push((session, true));
            }
        }
        self.next_expiry.store(next, Ordering::Release);
        due
    }

    /// The record of an absent client's session, after its will was taken.
    pub fn record_of(&self, client: &Arc<str>) -> Option<Vec<u8>> {
        match self.clients.lock().get(client) {
            Some(Whereabouts::Away { session, .. }) => Some(session.encode()),
            _ => None,
        }
    }

    /// The group of a shared subscription, made by `make` when there is none.
    pub fn group(&self, text: &Arc<str>, make: impl FnOnce() -> Group) -> Arc<Mutex<Group>> {
        let mut groups = self.groups.lock();
        let group = groups
            .entry(Arc::clone(text))
            .or_insert_with(|| Arc::new(Mutex::new(make())));
        Arc::clone(group)
    }

    /// The group of a shared subscription, if there is one.
    pub fn existing_group(&self, text: &str) -> Option<Arc<Mutex<Group>>> {
        self.groups.lock().get(text).cloned()
    }

    /// All groups.
    pub fn groups(&self) -> Vec<Arc<Mutex<Group>>> {
        self.groups.lock().values().cloned().collect()
    }

    /// Forgets a group without sessions.
    pub fn drop_group(&self, text: &str) {
        self.groups.lock().remove(text);
    }
}
