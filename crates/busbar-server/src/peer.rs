//! Peers: how many connections each has and how fast it asks.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::limits::{CONNECTIONS_PER_PEER_MAX, PEERS_MAX, REQUESTS_PER_PEER_PER_SECOND_MAX};

/// All peers that are connected or were a moment ago.
#[derive(Default)]
pub(crate) struct Peers {
    peers: Mutex<HashMap<IpAddr, Arc<Peer>>>,
}

/// One address.
pub(crate) struct Peer {
    connections: AtomicUsize,
    bucket: Mutex<Bucket>,
    /// Events it may still publish; below zero after a request that went over. Full to begin with.
    events: Mutex<Option<Bucket>>,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// A connection that counts, as long as it lives.
#[derive(Clone)]
pub(crate) struct Link(Arc<Held>);

struct Held {
    peer: Arc<Peer>,
    address: SocketAddr,
    tls: bool,
}

/// Whether a new connection is within the bounds.
pub(crate) enum PeerAdmission {
    /// It is.
    Within(Link),
    /// Its peer has more connections than it may have.
    Beyond(Link),
    /// There are too many peers.
    TooManyPeers,
}

impl Peers {
    /// Counts a connection, for as long as its link lives.
    pub(crate) fn connect(&self, address: SocketAddr, tls: bool) -> PeerAdmission {
        let peer = {
            let mut peers = self.peers.lock();
            if peers.len() >= PEERS_MAX {
                // Who is neither connected nor in debt need not be remembered.
                peers.retain(|_, peer| Arc::strong_count(peer) > 1);
                if peers.len() >= PEERS_MAX {
                    return PeerAdmission::TooManyPeers;
                }
            }
            peers
                .entry(address.ip().to_canonical())
                .or_insert_with(|| Arc::new(Peer::new()))
                .clone()
        };
        let before = peer.connections.fetch_add(1, Ordering::AcqRel);
        let link = Link(Arc::new(Held { peer, address, tls }));
        match before < CONNECTIONS_PER_PEER_MAX {
            true => PeerAdmission::Within(link),
            false => PeerAdmission::Beyond(link),
        }
    }
}

impl Peer {
    fn new() -> Peer {
        Peer {
            connections: AtomicUsize::new(0),
            bucket: Mutex::new(Bucket {
                tokens: f64::from(REQUESTS_PER_PEER_PER_SECOND_MAX),
                filled: Instant::now(),
            }),
            events: Mutex::default(),
        }
    }
}

impl Link {
    /// Who is at the other end.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// True when nobody can listen in.
    pub(crate) fn is_tls(&self) -> bool {
        self.0.tls
    }

    /// True when the other end is this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.0.address.ip().to_canonical().is_loopback()
    }

    /// Counts a request; false when this peer asks too fast.
    pub(crate) fn admit(&self) -> bool {
        let now = Instant::now();
        let mut bucket = self.0.peer.bucket.lock();
        let rate = f64::from(REQUESTS_PER_PEER_PER_SECOND_MAX);
        let earned = now.duration_since(bucket.filled).as_secs_f64() * rate;
        bucket.tokens = (bucket.tokens + earned).min(rate);
        bucket.filled = now;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }
}

impl Link {
    /// Counts `events` to be published, of which `per_second_max` are allowed (zero is no limit).
    /// A request that finds something left is taken whole; the ones after it wait for as long as it
    /// went over.
    ///
    /// # Errors
    /// The seconds after which to try again.
    pub(crate) fn admit_events(&self, events: usize, per_second_max: u32) -> Result<(), u64> {
        self.admit_events_at(events, per_second_max, Instant::now())
    }

    fn admit_events_at(&self, events: usize, per_second_max: u32, now: Instant) -> Result<(), u64> {
        if per_second_max == 0 {
            return Ok(());
        }
        let rate = f64::from(per_second_max);
        let mut bucket = self.0.peer.events.lock();
        let bucket = bucket.get_or_insert(Bucket {
            tokens: rate,
            filled: now,
        });
        let earned = now.saturating_duration_since(bucket.filled).as_secs_f64() * rate;
        bucket.tokens = (bucket.tokens + earned).min(rate);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            // At least one second, and never more than a person would call a number.
            return Err(((1.0 - bucket.tokens) / rate).ceil().clamp(1.0, 86_400.0) as u64);
        }
        bucket.tokens -= events as f64;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.peer.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(peers: &Peers, address: SocketAddr) -> Option<Link> {
        match peers.connect(address, false) {
            PeerAdmission::Within(link) => Some(link),
            _ => None,
        }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn connections_of_a_peer_are_counted_and_given_back() {
        let peers = Peers::default();
        let links: Vec<_> = (0..CONNECTIONS_PER_PEER_MAX)
            .map(|_| within(&peers, address("10.0.0.1:1")).unwrap())
            .collect();
        assert!(within(&peers, address("10.0.0.1:2")).is_none());
        assert!(within(&peers, address("[::ffff:10.0.0.1]:2")).is_none());
        assert!(within(&peers, address("10.0.0.2:2")).is_some());
        drop(links);
        assert!(within(&peers, address("10.0.0.1:2")).is_some());
    }

    #[test]
    fn a_flood_is_refused_for_a_moment() {
        let link = within(&Peers::default(), address("127.0.0.1:1")).unwrap();
        assert!(link.is_loopback() && !link.is_tls());
        let admitted = (0..REQUESTS_PER_PEER_PER_SECOND_MAX * 2)
            .filter(|_| link.admit())
            .count();
        assert!(admitted >= REQUESTS_PER_PEER_PER_SECOND_MAX as usize);
        assert!(admitted < REQUESTS_PER_PEER_PER_SECOND_MAX as usize * 2);
    }

    #[test]
    fn who_publishes_too_fast_waits_for_as_long_as_it_went_over() {
        let link = within(&Peers::default(), address("127.0.0.1:1")).unwrap();
        let begin = Instant::now();
        let at = |seconds| begin + std::time::Duration::from_secs(seconds);
        assert_eq!(link.admit_events_at(1_000_000, 0, at(0)), Ok(()));
        assert_eq!(link.admit_events_at(60, 100, at(0)), Ok(()));
        assert_eq!(link.admit_events_at(1_040, 100, at(0)), Ok(()));
        assert_eq!(link.admit_events_at(1, 100, at(0)), Err(11));
        assert_eq!(link.admit_events_at(1, 100, at(9)), Err(2));
        assert_eq!(link.admit_events_at(100, 100, at(11)), Ok(()));
        assert_eq!(link.admit_events_at(1, 100, at(11)), Err(1));
    }
}
