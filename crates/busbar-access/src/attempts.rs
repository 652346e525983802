//! Failed logins, counted per user and per peer, forgiven with time.

use std::collections::HashMap;
use std::net::IpAddr;

use busbar_event::{Class, Error};

use crate::limits::{
    FAILURE_ENTRIES_MAX, FAILURE_FORGIVEN_SECONDS, FAILURES_PER_PEER_MAX,
    FAILURES_PER_USER_AND_PEER_MAX, FAILURES_PER_USER_MAX,
};

/// Counts failed logins by password. Each decision takes three counters into account: the pair of user and
/// peer (strict: stops guessing), the peer (stops trying many users) and the user (loose: stops guessing
/// from many peers, without giving strangers an easy way to lock somebody out).
///
/// An attempt is counted as pending from [`Attempts::begin`] until its outcome is known, so that guesses
/// made at the same time cannot exceed a bound together.
#[derive(Default)]
pub(crate) struct Attempts {
    entries: HashMap<Counted, Failures>,
    /// Attempts whose outcome is not known yet. Bounded by the hashes computed at the same time.
    pending: HashMap<Counted, u32>,
    /// When expired entries were last removed, so that a full map is not searched each time.
    swept: i64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Counted {
    Pair(Box<str>, Peer),
    Peer(Peer),
    User(Box<str>),
}

/// An address, or the network half of an IPv6 address: one customer holds all of the other half.
type Peer = Option<IpAddr>;

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    since_seconds: i64,
}

impl Failures {
    fn left(self, now: i64) -> u32 {
        let forgiven = (now - self.since_seconds).max(0) / FAILURE_FORGIVEN_SECONDS;
        self.count
            .saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }
}

/// Whether an attempt may be made now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It may; it is pending until [`Attempts::failed`] or [`Attempts::settle`].
    Yes,
    /// Only if a pending attempt turns out well: ask again when one has settled.
    Wait,
}

impl Attempts {
    /// Refuses an attempt that must wait because of earlier failures.
    ///
    /// # Errors
    /// `access.too-many-attempts`, with the seconds to wait.
    pub(crate) fn check(&self, user: &str, peer: Option<IpAddr>, now: i64) -> Result<(), Error> {
        match self.wait(user, peer, now) {
            Some(seconds) => {
                Err(Error::new(Class::Transient, "access.too-many-attempts")
                    .with("seconds", seconds))
            }
            None => Ok(()),
        }
    }

    /// Begins an attempt, unless pending ones may still use up what is left.
    ///
    /// # Errors
    /// As [`Attempts::check`].
    pub(crate) fn begin(
        &mut self,
        user: &str,
        peer: Option<IpAddr>,
        now: i64,
    ) -> Result<Begun, Error> {
        self.check(user, peer, now)?;
        let keys = counted(user, peer);
        let exceeds = keys.iter().any(|(key, max)| {
            let failures = self.entries.get(key).map_or(0, |known| known.left(now));
            failures + self.pending.get(key).copied().unwrap_or(0) >= *max
        });
        if exceeds {
            return Ok(Begun::Wait);
        }
        for (key, _) in keys {
            *self.pending.entry(key).or_default() += 1;
        }
        Ok(Begun::Yes)
    }

    /// Ends a pending attempt that was not a failure.
    pub(crate) fn settle(&mut self, user: &str, peer: Option<IpAddr>) {
        for (key, _) in counted(user, peer) {
            if let Some(count) = self.pending.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.pending.remove(&key);
                }
            }
        }
    }

    /// Seconds to wait before the next attempt; `None` when it may be made now.
    fn wait(&self, user: &str, peer: Option<IpAddr>, now: i64) -> Option<i64> {
        counted(user, peer)
            .into_iter()
            .filter_map(|(key, max)| {
                let failures = *self.entries.get(&key)?;
                let over = failures.left(now).checked_sub(max)?;
                Some((i64::from(over) + 1) * FAILURE_FORGIVEN_SECONDS)
            })
            .max()
    }

    /// Counts a failure. Returns true when it reached a bound: the next attempt has to wait.
    pub(crate) fn failed(&mut self, user: &str, peer: Option<IpAddr>, now: i64) -> bool {
        if self.entries.len() + 3 > FAILURE_ENTRIES_MAX && self.swept != now {
            self.swept = now;
            self.entries.retain(|_, failures| failures.left(now) > 0);
        }
        for (key, _) in counted(user, peer) {
            if let Some(failures) = self.entries.get_mut(&key) {
                *failures = Failures {
                    count: failures.left(now).saturating_add(1),
                    since_seconds: now,
                };
            } else if self.entries.len() < FAILURE_ENTRIES_MAX {
                // A full map means that somebody tries very many names: the entry of the peer, made at
                // its first failure, still counts.
                self.entries.insert(
                    key,
                    Failures {
                        count: 1,
                        since_seconds: now,
                    },
                );
            }
        }
        self.wait(user, peer, now).is_some()
    }

    /// Forgets the failures of this user from this peer.
    pub(crate) fn succeeded(&mut self, user: &str, peer: Option<IpAddr>) {
        self.entries
            .remove(&Counted::Pair(user.into(), network(peer)));
    }
}

fn counted(user: &str, peer: Option<IpAddr>) -> [(Counted, u32); 3] {
    let peer = network(peer);
    [
        (
            Counted::Pair(user.into(), peer),
            FAILURES_PER_USER_AND_PEER_MAX,
        ),
        (Counted::Peer(peer), FAILURES_PER_PEER_MAX),
        (Counted::User(user.into()), FAILURES_PER_USER_MAX),
    ]
}

fn network(peer: Option<IpAddr>) -> Peer {
    peer.map(|ip| match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));

    #[test]
    fn a_guesser_waits_and_is_forgiven() {
        let mut attempts = Attempts::default();
        for _ in 0..FAILURES_PER_USER_AND_PEER_MAX {
            assert_eq!(attempts.wait("ann", PEER, 0), None);
            attempts.failed("ann", PEER, 0);
        }
        assert_eq!(
            attempts.wait("ann", PEER, 0),
            Some(FAILURE_FORGIVEN_SECONDS)
        );
        assert_eq!(attempts.wait("ann", Some([10, 0, 0, 2].into()), 0), None);
        assert_eq!(attempts.wait("bob", PEER, 0), None);
        assert_eq!(attempts.wait("ann", PEER, FAILURE_FORGIVEN_SECONDS), None);
    }

    #[test]
    fn success_forgets_the_pair_but_not_the_peer() {
        let mut attempts = Attempts::default();
        for n in 0..FAILURES_PER_PEER_MAX {
            attempts.failed(&format!("user{n}"), PEER, 0);
        }
        assert!(attempts.wait("user0", PEER, 0).is_some());
        attempts.succeeded("user0", PEER);
        assert!(attempts.wait("user0", PEER, 0).is_some());
    }

    #[test]
    fn attempts_that_are_pending_use_up_what_is_left() {
        let mut attempts = Attempts::default();
        for _ in 1..FAILURES_PER_USER_AND_PEER_MAX {
            attempts.failed("ann", PEER, 0);
        }
        assert_eq!(attempts.begin("ann", PEER, 0).unwrap(), Begun::Yes);
        assert_eq!(attempts.begin("ann", PEER, 0).unwrap(), Begun::Wait);
        assert_eq!(attempts.begin("bob", PEER, 0).unwrap(), Begun::Yes);
        // It fails: the one that waited is refused.
        attempts.settle("ann", PEER);
        assert!(attempts.failed("ann", PEER, 0), "the bound is reached");
        assert!(attempts.begin("ann", PEER, 0).is_err());
        // It succeeds: the one that waited may go on.
        let later = FAILURE_FORGIVEN_SECONDS;
        assert_eq!(attempts.begin("ann", PEER, later).unwrap(), Begun::Yes);
        assert_eq!(attempts.begin("ann", PEER, later).unwrap(), Begun::Wait);
        attempts.settle("ann", PEER);
        attempts.succeeded("ann", PEER);
        assert_eq!(attempts.begin("ann", PEER, later).unwrap(), Begun::Yes);
        attempts.settle("ann", PEER);
        attempts.settle("bob", PEER);
        assert!(attempts.pending.is_empty());
    }

    #[test]
    fn one_ipv6_network_is_one_peer() {
        let a = network(Some("2001:db8::1".parse().unwrap()));
        let b = network(Some("2001:db8::2:3".parse().unwrap()));
        assert_eq!(a, b);
        assert_eq!(
            network(Some("::ffff:10.0.0.1".parse().unwrap())),
            network(PEER)
        );
    }

    #[test]
    fn the_map_is_bounded() {
        let mut attempts = Attempts::default();
        for n in 0..FAILURE_ENTRIES_MAX as u32 {
            attempts.failed(&n.to_string(), Some(std::net::Ipv4Addr::from(n).into()), 0);
        }
        assert!(attempts.entries.len() <= FAILURE_ENTRIES_MAX);
    }
}
