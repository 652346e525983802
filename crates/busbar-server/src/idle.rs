//! Connections that wait for a request. When there is no room for a new connection, the one that has waited
//! longest is closed, so that idle connections cannot keep others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// All open connections.
pub(crate) struct OpenConnections {
    began: Instant,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<OpenConnection>>>,
}

struct OpenConnection {
    peer: IpAddr,
    /// Microseconds since the beginning at which it began to wait for a request, or [`BUSY`], or [`CLOSED`].
    waits_since: AtomicU64,
    close: Notify,
}

/// A request is being answered.
const BUSY: u64 = u64::MAX;
/// It is being closed.
const CLOSED: u64 = u64::MAX - 1;

/// A connection's entry, for as long as this lives.
pub(crate) struct ConnectionPlace {
    all: Arc<OpenConnections>,
    number: u64,
    connection: Arc<OpenConnection>,
}

/// A request that is being answered, for as long as this lives.
pub(crate) struct Busy {
    all: Arc<OpenConnections>,
    connection: Arc<OpenConnection>,
}

impl Default for OpenConnections {
    fn default() -> OpenConnections {
        OpenConnections {
            began: Instant::now(),
            next: AtomicU64::new(0),
            open: Mutex::default(),
        }
    }
}

impl OpenConnections {
    /// Adds a connection that waits for its first request.
    pub(crate) fn add(self: &Arc<OpenConnections>, peer: IpAddr) -> ConnectionPlace {
        let connection = Arc::new(OpenConnection {
            peer,
            waits_since: AtomicU64::new(self.now()),
            close: Notify::new(),
        });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(number, connection.clone());
        ConnectionPlace {
            all: self.clone(),
            number,
            connection,
        }
    }

    /// Closes the connection that has waited longest for a request, of `peer` if given. False when none waits.
    pub(crate) fn close_one(&self, peer: Option<IpAddr>) -> bool {
        let open = self.open.lock();
        loop {
            let oldest = open
                .values()
                .filter(|c| peer.is_none_or(|peer| c.peer == peer))
                .map(|c| (c.waits_since.load(Ordering::Acquire), c))
                .filter(|(since, _)| *since < CLOSED)
                .min_by_key(|(since, _)| *since);
            let Some((since, connection)) = oldest else {
                return false;
            };
            let waits = &connection.waits_since;
            if waits
                .compare_exchange(since, CLOSED, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                connection.close.notify_one();
                return true;
            }
        }
    }

    fn now(&self) -> u64 {
        (self.began.elapsed().as_micros() as u64).min(CLOSED - 1)
    }
}

impl ConnectionPlace {
    /// A request begins; `None` when the connection is being closed.
    pub(crate) fn begin(&self) -> Option<Busy> {
        let waits = &self.connection.waits_since;
        let since = waits.load(Ordering::Acquire);
        (since != CLOSED
            && waits
                .compare_exchange(since, BUSY, Ordering::AcqRel, Ordering::Acquire)
                .is_ok())
        .then(|| Busy {
            all: self.all.clone(),
            connection: self.connection.clone(),
        })
    }

    /// Waits until the connection has to be closed.
    pub(crate) async fn closed(&self) {
        self.connection.close.notified().await;
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.all.open.lock().remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let now = self.all.now();
        self.connection.waits_since.store(now, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_connection_that_waits_longest_is_closed_and_a_busy_one_never() {
        let all = Arc::new(OpenConnections::default());
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let places = [all.add(a), all.add(a), all.add(b), all.add(b)];
        for (at, place) in places.iter().enumerate() {
            place
                .connection
                .waits_since
                .store(at as u64 + 1, Ordering::Release);
        }
        let busy = places[0].begin().unwrap();
        // The oldest of its peer, and not twice.
        assert!(all.close_one(Some(b)));
        places[2].closed().await;
        assert!(places[2].begin().is_none());
        // The oldest of all that wait: the first one is busy.
        assert!(all.close_one(None));
        places[1].closed().await;
        assert!(all.close_one(None));
        places[3].closed().await;
        assert!(!all.close_one(None));
        drop(busy);
        assert!(all.close_one(None));
        places[0].closed().await;
        drop(places);
        assert!(all.open.lock().is_empty());
    }
}
