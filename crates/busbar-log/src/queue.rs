//! The queue in front of the commit thread.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::LogError;
use crate::limits::{QUEUE_APPENDS_MAX, QUEUE_BYTES_MAX};

/// What waits for the commit thread. Bounded: beyond it appends are refused.
pub(crate) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    work: Condvar,
}

struct Waiting<T> {
    items: Vec<T>,
    bytes: usize,
    /// The commit thread sleeps and wants to be woken.
    asleep: bool,
    /// No append is taken any more.
    closed: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue {
            waiting: Mutex::new(Waiting {
                items: Vec::new(),
                bytes: 0,
                asleep: false,
                closed: false,
            }),
            work: Condvar::new(),
        }
    }
}

impl<T> Queue<T> {
    /// Takes all that waits; false when nothing does.
    pub fn take(&self, into: &mut VecDeque<T>) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.items.is_empty() {
            return false;
        }
        into.extend(waiting.items.drain(..));
        waiting.bytes = 0;
        true
    }

    /// Adds an append, or gives it back with the reason.
    pub fn push_append(&self, item: T, bytes: usize) -> Result<(), (T, LogError)> {
        let mut waiting = self.waiting.lock();
        let refused = if waiting.closed {
            Some(LogError::Closed)
        } else if waiting.bytes + bytes > QUEUE_BYTES_MAX
            || waiting.items.len() >= QUEUE_APPENDS_MAX
        {
            Some(LogError::Busy {
                waiting_bytes: waiting.bytes,
            })
        } else {
            None
        };
        if let Some(error) = refused {
            return Err((item, error));
        }
        waiting.bytes += bytes;
        waiting.items.push(item);
        self.wake(waiting);
        Ok(())
    }

    /// Adds other work.
    pub fn push(&self, item: T) {
        let mut waiting = self.waiting.lock();
        if !waiting.closed {
            waiting.items.push(item);
            self.wake(waiting);
        }
    }

    fn wake(&self, mut waiting: parking_lot::MutexGuard<'_, Waiting<T>>) {
        let asleep = std::mem::take(&mut waiting.asleep);
        drop(waiting);
        if asleep {
            self.work.notify_one();
        }
    }

    /// Sleeps until there is work or `wait` has passed.
    pub fn sleep(&self, wait: Option<Duration>) {
        let mut waiting = self.waiting.lock();
        if !waiting.items.is_empty() {
            return;
        }
        waiting.asleep = true;
        match wait {
            Some(wait) => {
                self.work.wait_for(&mut waiting, wait);
            }
            None => self.work.wait(&mut waiting),
        }
        waiting.asleep = false;
    }

    /// Whether no append is taken any more.
    pub fn is_closed(&self) -> bool {
        self.waiting.lock().closed
    }

    /// Takes no appends any more; returns what waits.
    pub fn close(&self) -> Vec<T> {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.bytes = 0;
        std::mem::take(&mut waiting.items)
    }
}
