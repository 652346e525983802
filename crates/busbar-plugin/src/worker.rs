//! What every worker of a plug-in has: its bounds, its log, its counters, and the work it is given.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use busbar_event::{Class, Error, Micros};
use futures::channel::oneshot;
use parking_lot::RwLock;
use serde::Serialize;

use crate::answers::PluginAnswers;
use crate::events::GivenEvents;
use crate::host::{PluginHost, TableRequest};
use crate::log::{LogLevel, PluginLog};

/// What the workers of a plug-in share.
pub(crate) struct PluginShared {
    pub name: Arc<str>,
    pub bounds: WorkerBounds,
    pub log: PluginLog,
    pub workers: Vec<WorkerCounts>,
    tables: Vec<String>,
    host: RwLock<Arc<dyn PluginHost>>,
    clock: Arc<dyn Fn() -> Micros + Send + Sync>,
}

/// What is known of a worker.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerStatus {
    /// The number of its process; none for one within the node.
    pub process: Option<u32>,
    /// Memory that it takes, in bytes; 0 as long as it has done nothing.
    pub memory: u64,
    /// How often it has been started.
    pub starts: u64,
    /// How often it has died.
    pub deaths: u64,
}

/// WorkerBounds of each worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerBounds {
    /// For one batch.
    pub timeout: Duration,
    /// In bytes.
    pub memory: u64,
    /// Bytes of an answer.
    pub output: usize,
}

#[derive(Default)]
pub(crate) struct WorkerCounts {
    process: AtomicU32,
    memory: AtomicU64,
    starts: AtomicU64,
    deaths: AtomicU64,
    /// The events that it works on are given to try something.
    is_on_trial: AtomicBool,
}

/// Events for one worker, and where the answer goes.
pub(crate) struct WorkerJob {
    pub events: GivenEvents,
    pub reply: oneshot::Sender<Result<Worked, Error>>,
}

/// Told when a worker is ready, or why it does not start.
pub(crate) type Probe = oneshot::Sender<Result<(), Error>>;

/// What came of a job.
#[derive(Debug, Default)]
pub struct Worked {
    /// What the program answered.
    pub answers: PluginAnswers,
    /// Events on which the worker died: the first, how many, and how.
    pub lost: Vec<(usize, usize, Error)>,
}

impl PluginShared {
    pub fn new(
        name: &str,
        bounds: WorkerBounds,
        workers: usize,
        tables: Vec<String>,
        host: Arc<dyn PluginHost>,
        clock: Arc<dyn Fn() -> Micros + Send + Sync>,
    ) -> PluginShared {
        PluginShared {
            name: name.into(),
            bounds,
            log: PluginLog::default(),
            workers: (0..workers).map(|_| WorkerCounts::default()).collect(),
            tables,
            host: RwLock::new(host),
            clock,
        }
    }

    /// Lets someone else answer requests from now on; the one before is given back.
    pub fn set_host(&self, host: Arc<dyn PluginHost>) -> Arc<dyn PluginHost> {
        std::mem::replace(&mut *self.host.write(), host)
    }

    pub fn log(&self, worker: usize, level: LogLevel, text: &str) {
        self.log.write((self.clock)(), worker, level, text);
    }

    /// What the program says. Of events that are given to try something nothing is kept.
    pub fn said(&self, worker: usize, level: LogLevel, text: &str) {
        if !self.workers[worker].is_on_trial.load(Ordering::Relaxed) {
            self.log(worker, level, text);
        }
    }

    /// A line that the program has written to standard error.
    pub fn log_line(&self, worker: usize, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        if !line.trim().is_empty() {
            self.said(worker, LogLevel::Info, line.trim_end());
        }
    }

    /// Rows that the program asks for.
    pub fn rows(&self, request: &TableRequest<'_>) -> Result<String, Error> {
        if !self.tables.contains(&request.table) {
            return Err(Error::new(Class::Permanent, "plugin.table-not-listed")
                .with("plugin", &self.name)
                .with("table", &request.table));
        }
        let host = Arc::clone(&self.host.read());
        host.rows(request)
    }
}

impl WorkerCounts {
    /// Notes whether it works on events that are given to try something.
    pub fn note_trial(&self, is_on_trial: bool) {
        self.is_on_trial.store(is_on_trial, Ordering::Relaxed);
    }

    pub fn status(&self) -> WorkerStatus {
        let number = |number: &AtomicU64| number.load(Ordering::Relaxed);
        WorkerStatus {
            process: Some(self.process.load(Ordering::Relaxed)).filter(|id| *id > 0),
            memory: number(&self.memory),
            starts: number(&self.starts),
            deaths: number(&self.deaths),
        }
    }

    pub fn note_start(&self, process: u32) {
        self.process.store(process, Ordering::Relaxed);
        self.starts.fetch_add(1, Ordering::Relaxed);
    }

    pub fn note_death(&self) {
        self.deaths.fetch_add(1, Ordering::Relaxed);
    }

    pub fn note_memory(&self, bytes: u64) {
        self.memory.store(bytes, Ordering::Relaxed);
    }
}
