//! Sessions with a database that are used again, no more than so many.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use busbar_event::{Class, Error};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limits::POOL_IDLE_MAX;

/// Sessions with one database.
pub struct SessionPool<L> {
    name: Arc<str>,
    size: usize,
    wait: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<(L, Instant)>>,
    opened: AtomicU64,
    failed: AtomicU64,
}

/// A session that is in use. Dropped without [`Pooled::give_back`], it is closed.
pub struct Pooled<L> {
    /// The session.
    pub session: L,
    /// It was opened for this use, so that a failure is not one of its age.
    pub is_new: bool,
    pool: Arc<SessionPool<L>>,
    _permit: OwnedSemaphorePermit,
}

/// What is used of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PoolUse {
    /// The most sessions that there can be.
    pub size: usize,
    /// Sessions in use.
    pub used: usize,
    /// Sessions that wait to be used again.
    pub idle: usize,
    /// Sessions that were opened since the start.
    pub opened: u64,
    /// Sessions that could not be opened since the start.
    pub failed: u64,
}

impl<L> SessionPool<L> {
    /// A pool of at most `size` sessions of a connection, for which a statement waits so long.
    pub fn new(name: &str, size: usize, wait: Duration) -> Arc<SessionPool<L>> {
        Arc::new(SessionPool {
            name: name.into(),
            size,
            wait,
            permits: Arc::new(Semaphore::new(size)),
            idle: Mutex::default(),
            opened: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// A session: one that was used before, or a new one that `open` makes.
    ///
    /// # Errors
    /// *Transient*: all sessions have been in use for as long as a statement waits. What `open` says.
    pub async fn take<F: Future<Output = Result<L, Error>>>(
        self: &Arc<Self>,
        open: impl FnOnce() -> F,
    ) -> Result<Pooled<L>, Error> {
        let busy = || {
            Error::new(Class::Transient, "database.pool-busy")
                .with("connection", &self.name)
                .with("sessions", self.size)
                .with("seconds", self.wait.as_secs())
        };
        let permit = timeout(self.wait, Arc::clone(&self.permits).acquire_owned()).await;
        let permit = permit.map_err(|_| busy())?.map_err(|_| busy())?;
        let used_before = {
            let mut idle = self.idle.lock();
            idle.retain(|(_, since)| since.elapsed() < POOL_IDLE_MAX);
            idle.pop()
        };
        let (session, is_new) = match used_before {
            Some((session, _)) => (session, false),
            None => {
                let opened = open().await;
                let count = if opened.is_ok() {
                    &self.opened
                } else {
                    &self.failed
                };
                count.fetch_add(1, Ordering::Relaxed);
                (opened?, true)
            }
        };
        Ok(Pooled {
            session,
            is_new,
            pool: Arc::clone(self),
            _permit: permit,
        })
    }

    /// Closes all sessions that are not in use: after one of them was lost, the others probably are, too.
    pub fn forget(&self) {
        self.idle.lock().clear();
    }

    /// What is used of it.
    pub fn used(&self) -> PoolUse {
        PoolUse {
            size: self.size,
            used: self.size.saturating_sub(self.permits.available_permits()),
            idle: self.idle.lock().len(),
            opened: self.opened.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

impl<L> Pooled<L> {
    /// What is wrong with a statement that leaves a transaction open. With the session its changes go.
    pub fn left_open(&self) -> Error {
        Error::new(Class::Configuration, "database.transaction-open")
            .with("connection", &self.pool.name)
    }

    /// Lets others use the session.
    pub fn give_back(self) {
        self.pool.idle.lock().push((self.session, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sessions_are_used_again_and_no_more_than_so_many_are_open() {
        let pool: Arc<SessionPool<u32>> = SessionPool::new("pg", 2, Duration::from_millis(50));
        let number = std::sync::atomic::AtomicU32::new(0);
        let open = || async { Ok(number.fetch_add(1, Ordering::Relaxed)) };
        let one = pool.take(open).await.unwrap();
        let two = pool.take(open).await.unwrap();
        assert_eq!((one.session, two.session, one.is_new), (0, 1, true));
        assert_eq!((pool.used().used, pool.used().idle), (2, 0));
        let busy = pool.take(open).await.err().expect("no third");
        assert_eq!(
            (busy.code(), busy.class()),
            ("database.pool-busy", Class::Transient)
        );
        one.give_back();
        // One that failed is closed.
        drop(two);
        let again = pool.take(open).await.unwrap();
        assert_eq!((again.session, again.is_new), (0, false));
        let other = pool.take(open).await.unwrap();
        assert_eq!(other.session, 2);
        again.give_back();
        other.give_back();
        pool.forget();
        assert_eq!(pool.used().idle, 0);
        let refused = || async { Err(Error::new(Class::Transient, "postgres.closed")) };
        assert!(pool.take(refused).await.is_err());
        let used = pool.used();
        assert_eq!((used.used, used.opened, used.failed), (0, 3, 1));
    }
}
