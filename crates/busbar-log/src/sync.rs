//! A few threads that sync files beside the commit thread.
//!
//! When a group has touched several files, their syncs run at the same time, and the file system
//! puts them into one journal commit.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc;

use parking_lot::{Condvar, Mutex};

use crate::disk::File;
use crate::limits::SYNC_THREADS_MAX;

type Job = Box<dyn FnOnce() + Send>;

/// Syncs files, several at a time.
pub(crate) struct Syncers {
    /// Whether threads may be used; otherwise all is done in place, in order.
    threads: bool,
    shared: Arc<Shared>,
    started: usize,
}

#[derive(Default)]
struct Shared {
    jobs: Mutex<Jobs>,
    work: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    ended: bool,
}

impl Syncers {
    pub fn new(threads: bool) -> Syncers {
        Syncers {
            threads,
            shared: Arc::default(),
            started: 0,
        }
    }

    /// Syncs all files that are given, and waits. A place without one succeeds.
    pub fn sync(&mut self, files: &[Option<Arc<dyn File>>]) -> Vec<io::Result<()>> {
        let count = files.iter().flatten().count();
        if count < 2 || !self.threads || !self.start(count - 1) {
            let sync = |file: &Option<Arc<dyn File>>| file.as_ref().map_or(Ok(()), |f| f.sync());
            return files.iter().map(sync).collect();
        }
        let mut results: Vec<io::Result<()>> = Vec::new();
        results.resize_with(files.len(), || Ok(()));
        let (send, receive) = mpsc::channel();
        let mut given = files
            .iter()
            .enumerate()
            .filter_map(|(i, f)| Some((i, f.clone()?)));
        let own = given.next();
        for (i, file) in given {
            let send = send.clone();
            self.give(Box::new(move || {
                let _ = send.send((i, file.sync()));
            }));
        }
        drop(send);
        if let Some((i, file)) = own {
            results[i] = file.sync();
        }
        let mut heard = 1;
        for (i, result) in receive {
            results[i] = result;
            heard += 1;
        }
        if heard < count {
            // A thread that ended without an answer: what it should have synced is in doubt.
            return files
                .iter()
                .map(|file| match file {
                    Some(_) => Err(io::Error::other("a syncing thread ended")),
                    None => Ok(()),
                })
                .collect();
        }
        results
    }

    /// Syncs a file and calls `then`, which must be quick, without waiting.
    pub fn later(
        &mut self,
        file: Arc<dyn File>,
        then: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        let job = move || then(file.sync());
        if self.threads && self.start(1) {
            self.give(Box::new(job));
        } else {
            job();
        }
    }

    fn give(&self, job: Job) {
        self.shared.jobs.lock().waiting.push_back(job);
        self.shared.work.notify_one();
    }

    /// Sees to it that there are up to `count` threads; `false` if there is none.
    fn start(&mut self, count: usize) -> bool {
        while self.started < count.min(SYNC_THREADS_MAX) {
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new()
                .name("log-sync".to_owned())
                .spawn(move || shared.run());
            if thread.is_err() {
                break;
            }
            self.started += 1;
        }
        self.started > 0
    }
}

impl Drop for Syncers {
    fn drop(&mut self) {
        self.shared.jobs.lock().ended = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut jobs = self.jobs.lock();
            let job = loop {
                if let Some(job) = jobs.waiting.pop_front() {
                    break job;
                }
                if jobs.ended {
                    return;
                }
                self.work.wait(&mut jobs);
            };
            drop(jobs);
            job();
        }
    }
}
