//! Failed logins, counted per user and per peer, forgiven with time.

use std::collections::HashMap;
use std::net::IpAddr;

use busbar_event::{Class, Error};

use crate::limits::{
    FAILURE_ENTRIES_MAX, FAILURE_FORGIVEN_SECONDS, FAILURES_PER_PEER_MAX,
    FAILURES_PER_USER_AND_PEER_MAX, FAILURES_PER_USER_MAX,
};

/// Counts failures. Three counters take part in each decision: the pair of user and peer (strict:
/// stops guessing), the peer (stops trying many users) and the user (loose: stops guessing from
/// many peers, without handing a stranger an easy way to lock somebody out).
#[derive(Default)]
pub(crate) struct Attempts {
    entries: HashMap<Counted, Failures>,
    /// When forgiven entries were last thrown out, so that a full map is not searched each time.
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

impl Attempts {
    /// Refuses an attempt that has to wait.
    pub(crate) fn check(&self, user: &str, peer: Option<IpAddr>, now: i64) -> Result<(), Error> {
        match self.wait(user, peer, now) {
            Some(seconds) => {
                Err(Error::new(Class::Transient, "access.too-many-attempts")
                    .with("seconds", seconds))
            }
            None => Ok(()),
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

    /// Counts a failure.
    pub(crate) fn failed(&mut self, user: &str, peer: Option<IpAddr>, now: i64) {
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
                // When even live entries fill the map somebody tries very many names: the entry
                // of the peer, made at its first failure, still holds.
                self.entries.insert(
                    key,
                    Failures {
                        count: 1,
                        since_seconds: now,
                    },
                );
            }
        }
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
