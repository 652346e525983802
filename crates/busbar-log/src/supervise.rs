//! Threads and tasks that must run for as long as the node does, and which of them have ended.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits::ENDED_MAX;

/// Records which supervised threads and tasks have ended although they should run. Clones share the
/// record.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    ended: Arc<Mutex<Vec<EndedThread>>>,
}

/// A thread or task that has ended although it should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedThread {
    /// Its name.
    pub name: String,
    /// Whether a panic ended it.
    pub panicked: bool,
}

/// Held by a thread or task while it runs. Unless [`Watched::finish`] is called, dropping it records that
/// the thread or task has ended.
#[must_use = "a thread or task is supervised only while it holds this"]
#[derive(Debug)]
pub struct Watched {
    supervisor: Supervisor,
    name: String,
    task: bool,
    finished: bool,
}

impl Supervisor {
    /// Supervises the thread or task that holds what is returned.
    pub fn watch(&self, name: impl Into<String>) -> Watched {
        Watched {
            supervisor: self.clone(),
            name: name.into(),
            task: false,
            finished: false,
        }
    }

    /// Supervises a task of an asynchronous runtime: only a panic is recorded, since a runtime that stops drops
    /// its tasks.
    pub fn watch_task(&self, name: impl Into<String>) -> Watched {
        let mut watched = self.watch(name);
        watched.task = true;
        watched
    }

    /// What has ended although it should run, first in first.
    pub fn ended(&self) -> Vec<EndedThread> {
        self.ended.lock().clone()
    }
}

impl Watched {
    /// The thread or task ends because it was asked to.
    pub fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let panicked = std::thread::panicking();
        if self.finished || (self.task && !panicked) {
            return;
        }
        tracing::error!(
            thread = self.name,
            panicked,
            "a thread that the node needs has ended; restart the node"
        );
        let mut ended = self.supervisor.ended.lock();
        if ended.len() < ENDED_MAX {
            ended.push(EndedThread {
                name: std::mem::take(&mut self.name),
                panicked,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panics_or_returns_early_is_recorded_and_what_finishes_is_not() {
        let supervisor = Supervisor::default();
        let panics = supervisor.watch("panics");
        let returns = supervisor.watch("returns");
        let finishes = supervisor.watch("finishes");
        let threads = [
            std::thread::spawn(move || {
                let _watched = panics;
                panic!("on purpose");
            }),
            std::thread::spawn(move || drop(returns)),
            std::thread::spawn(move || finishes.finish()),
        ];
        for thread in threads {
            let _ = thread.join();
        }
        let mut ended = supervisor.ended();
        ended.sort_by(|a, b| a.name.cmp(&b.name));
        let expected = [("panics", true), ("returns", false)];
        let expected = expected.map(|(name, panicked)| EndedThread {
            name: name.into(),
            panicked,
        });
        assert_eq!(ended, expected);
    }
}
