//! What the cores share: who is connected where, sessions whose clients are away, shared
//! subscriptions, counters and bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use busbar_event::Micros;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::counters::{Census, Counters};
use crate::group::Group;
use crate::limits::{LOST_NOTES_MAX, Limits};
use crate::state::{Session, SessionId};
use crate::sys::SysSnapshot;
use busbar_gateway::{Admissions, ConnId, Throttle};

/// What the cores share. Each lock is held for a look-up or a move, never while waiting; no two of
/// them are held at once.
pub struct Shared {
    /// Bounds.
    pub limits: Limits,
    /// Counters.
    pub counters: Counters,
    /// Bounds on connections, and how many there are.
    pub admissions: Arc<Admissions>,
    /// Subscriptions of all sessions, connected or not.
    pub subscriptions: AtomicUsize,
    /// When the node started, in microseconds.
    pub started: AtomicI64,
    sys_snapshot: Mutex<Option<Arc<SysSnapshot>>>,
    clients: Mutex<HashMap<SessionId, SessionPlace, RandomState>>,
    groups: Mutex<HashMap<Arc<str>, Arc<Mutex<Group>>, RandomState>>,
    /// Bounds what is logged about refused logins.
    pub refused_logins: Throttle,
    /// Bounds what is logged about refused publishes.
    pub refused_publishes: Throttle,
    /// Bounds what is logged about connections that the gateway ends.
    pub ended_connections: Throttle,
    /// QoS 2 publishes that failed after their connection was lost: the session's producer and sequence
    /// number.
    lost: Mutex<Vec<(Arc<str>, u64)>>,
    next_expiry: AtomicI64,
}

enum SessionPlace {
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
    /// A session whose client was away.
    Resume {
        /// The session, with its will if that was not sent yet.
        session: Box<Session>,
        /// The time of the will has come.
        will_due: bool,
    },
    /// A session whose client was away for too long: it is over.
    Over(Box<Session>),
    /// The client is connected there: ask for its session.
    Ask(usize, ConnId),
    /// Too many sessions.
    Full,
}

/// What is due of a session whose client is away.
pub enum Due {
    /// Its will is to be sent; the session stays, and is held by this connection until it is kept
    /// again.
    Will(ConnId, Box<Session>),
    /// The session is over.
    Over(Box<Session>),
}

impl Shared {
    /// With bounds.
    pub fn new(limits: Limits) -> Shared {
        let admissions = Admissions::new(limits.connections_max, limits.connections_per_second_max);
        Shared {
            admissions: Arc::new(admissions),
            limits,
            counters: Counters::default(),
            subscriptions: AtomicUsize::new(0),
            started: AtomicI64::new(0),
            sys_snapshot: Mutex::default(),
            clients: Mutex::default(),
            groups: Mutex::default(),
            refused_logins: Throttle::default(),
            refused_publishes: Throttle::default(),
            ended_connections: Throttle::default(),
            lost: Mutex::default(),
            next_expiry: AtomicI64::new(Micros::MAX),
        }
    }

    /// Counts who is there.
    fn census(&self) -> Census {
        let groups = self.groups();
        let shared_subscriptions = groups.iter().map(|g| g.lock().sessions).sum();
        let clients = self.clients.lock();
        let is_online = |w: &&SessionPlace| matches!(w, SessionPlace::Online { .. });
        let connected = clients.values().filter(is_online).count();
        Census {
            connected,
            away: clients.len() - connected,
            shared_subscriptions,
            connected_most: self.admissions.most(),
            subscriptions: self.subscriptions.load(Ordering::Relaxed),
            started: self.started.load(Ordering::Relaxed),
        }
    }

    /// What `$SYS` tells, not older than an interval.
    pub fn sys_snapshot(&self, retained: usize, now: Micros) -> Arc<SysSnapshot> {
        let known = self.sys_snapshot.lock().clone();
        let interval = self.limits.sys_interval_us;
        if let Some(sys_snapshot) = known
            && (0..interval).contains(&(now - sys_snapshot.made))
        {
            return sys_snapshot;
        }
        let census = self.census();
        let made = Arc::new(SysSnapshot::make(&self.counters, &census, retained, now));
        *self.sys_snapshot.lock() = Some(Arc::clone(&made));
        made
    }

    /// Notes that a QoS 2 publish failed after its connection was lost.
    pub fn note_lost(&self, producer: &Arc<str>, seq: u64) {
        let mut lost = self.lost.lock();
        if lost.len() >= LOST_NOTES_MAX {
            lost.remove(0);
        }
        lost.push((Arc::clone(producer), seq));
    }

    /// Whether that was noted; it is forgotten then.
    pub fn was_lost(&self, producer: &str, seq: u64) -> bool {
        let mut lost = self.lost.lock();
        match lost.iter().position(|(p, s)| **p == *producer && *s == seq) {
            Some(at) => {
                lost.swap_remove(at);
                true
            }
            None => false,
        }
    }

    /// Protocol now, connected or not.
    pub fn sessions(&self) -> usize {
        self.clients.lock().len()
    }

    /// Registers `conn` as the connection of session `id` and says where the session is. A session from
    /// before the node had users becomes that of the first user who connects with its client identifier.
    pub fn claim(&self, id: &SessionId, core: usize, conn: ConnId, now: Micros) -> Claim {
        let mut clients = self.clients.lock();
        if !clients.contains_key(id) {
            let unowned = id.unowned();
            match clients.get(&unowned) {
                Some(SessionPlace::Away { .. }) => {
                    if let Some(away) = clients.remove(&unowned) {
                        clients.insert(id.clone(), away);
                    }
                }
                _ if clients.len() >= self.limits.sessions_max => return Claim::Full,
                _ => {}
            }
        }
        match clients.insert(id.clone(), SessionPlace::Online { core, conn }) {
            None => Claim::New,
            Some(SessionPlace::Away {
                session,
                expires_at: Some(at),
                ..
            }) if at <= now => Claim::Over(session),
            Some(SessionPlace::Away {
                session, will_at, ..
            }) => Claim::Resume {
                session,
                will_due: will_at.is_some_and(|at| at <= now),
            },
            Some(SessionPlace::Online { core, conn }) => Claim::Ask(core, conn),
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
        match clients.get(&session.id()) {
            Some(SessionPlace::Online { core: c, conn: n }) if (*c, *n) != (core, conn) => {
                Some(session)
            }
            _ => {
                let next = will_at
                    .unwrap_or(Micros::MAX)
                    .min(expires_at.unwrap_or(Micros::MAX));
                self.next_expiry.fetch_min(next, Ordering::AcqRel);
                clients.insert(
                    session.id(),
                    SessionPlace::Away {
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
        self.subscriptions
            .fetch_add(session.by_text.len(), Ordering::Relaxed);
        self.clients.lock().insert(
            session.id(),
            SessionPlace::Away {
                session,
                will_at,
                expires_at,
            },
        );
    }

    /// Forgets a session that ended with its connection.
    pub fn forget(&self, id: &SessionId, core: usize, conn: ConnId) {
        let mut clients = self.clients.lock();
        if let Some(SessionPlace::Online { core: c, conn: n }) = clients.get(id)
            && (*c, *n) == (core, conn)
        {
            clients.remove(id);
        }
    }

    /// What is due by now of sessions whose clients are away: those whose will has to be sent come
    /// as held by a connection of `core` that `placeholder` names, so that whoever claims one meanwhile
    /// asks there; those whose time is over are removed. What was due first comes first.
    pub fn due(
        &self,
        now: Micros,
        core: usize,
        mut placeholder: impl FnMut() -> ConnId,
    ) -> Vec<Due> {
        if now < self.next_expiry.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut clients = self.clients.lock();
        let (mut over, mut wills) = (Vec::new(), Vec::new());
        let mut next = Micros::MAX;
        for (client, where_) in clients.iter() {
            let SessionPlace::Away {
                will_at,
                expires_at,
                ..
            } = where_
            else {
                continue;
            };
            if let Some(at) = expires_at.filter(|at| *at <= now) {
                over.push((at, client.clone()));
                continue;
            }
            if let Some(at) = will_at.filter(|at| *at <= now) {
                wills.push((at, client.clone()));
                continue;
            }
            next = next
                .min(expires_at.unwrap_or(Micros::MAX))
                .min(will_at.unwrap_or(Micros::MAX));
        }
        let mut due = Vec::with_capacity(over.len() + wills.len());
        over.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        wills.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        for (_, client) in over {
            if let Some(SessionPlace::Away { session, .. }) = clients.remove(&client) {
                due.push(Due::Over(session));
            }
        }
        for (_, client) in wills {
            let conn = placeholder();
            let held = SessionPlace::Online { core, conn };
            if let Some(SessionPlace::Away { session, .. }) = clients.insert(client, held) {
                due.push(Due::Will(conn, session));
            }
        }
        self.next_expiry.store(next, Ordering::Release);
        due
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
