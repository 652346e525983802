//! A running plug-in: its workers, its log and its counters.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::SchemaRef;
use busbar_event::{Class, Error, Micros};
use futures::channel::oneshot;
use futures::executor::block_on;
use serde::Serialize;

use crate::columns::EventColumns;
use crate::events::{EventForm, GivenEvents};
use crate::host::PluginHost;
use crate::language::{Launch, prepare};
use crate::limits::{OUTPUT_BYTES_MAX, PROTOCOL_VERSION};
use crate::log::LogLine;
use crate::package::Package;
use crate::process::ProcessWorker;
use crate::worker::{PluginShared, Probe, Worked, WorkerBounds, WorkerJob, WorkerStatus};

/// A running plug-in. Its workers end when it is dropped, after they have done what they were given.
pub struct Plugin {
    package: Package,
    hash: u64,
    columns: Option<SchemaRef>,
    shared: Arc<PluginShared>,
    workers: Vec<PluginWorker>,
    root: PathBuf,
    given: AtomicU64,
    made: AtomicU64,
    failed: AtomicU64,
}

enum PluginWorker {
    #[cfg(feature = "javascript")]
    Script(crate::javascript::ScriptWorker),
    Process(ProcessWorker),
}

/// What is known of a running plug-in.
#[derive(Clone, Debug, Serialize)]
pub struct PluginStatus {
    /// Events that it was given.
    pub given: u64,
    /// Events that it has made.
    pub made: u64,
    /// Events that failed.
    pub failed: u64,
    /// Log lines that were dropped because there were too many within a second.
    pub lines_dropped: u64,
    /// Its workers.
    pub workers: Vec<WorkerStatus>,
}

/// Events that a worker was given.
pub struct PendingWork<'a> {
    plugin: &'a Plugin,
    is_trial: bool,
    answer: oneshot::Receiver<Result<Worked, Error>>,
}

impl PendingWork<'_> {
    /// What came of them.
    ///
    /// # Errors
    /// Why the worker cannot work now; what is wrong with single events is in what it answers.
    pub async fn worked(self) -> Result<Worked, Error> {
        let plugin = self.plugin;
        let worked = self
            .answer
            .await
            .unwrap_or_else(|_| Err(plugin.stopped()))?;
        if self.is_trial {
            return Ok(worked);
        }
        let lost: usize = worked.lost.iter().map(|(_, count, _)| count).sum();
        let failed = worked.answers.failed().count() + lost;
        let made = worked.answers.len() as u64;
        plugin.made.fetch_add(made, Ordering::Relaxed);
        plugin.failed.fetch_add(failed as u64, Ordering::Relaxed);
        Ok(worked)
    }
}

impl Plugin {
    /// Starts a plug-in without running its tests. Blocks.
    ///
    /// # Errors
    /// Why it does not compile or load.
    pub fn load(
        name: &str,
        package: &Package,
        root: &Path,
        host: Arc<dyn PluginHost>,
        clock: Arc<dyn Fn() -> Micros + Send + Sync>,
    ) -> Result<Plugin, Error> {
        let spec = &package.spec;
        spec.check()
            .map_err(|(_, error)| error.with("plugin", name))?;
        let columns = spec.columns.as_ref().map(|columns| columns.schema());
        let bounds = WorkerBounds {
            timeout: spec.timeout.as_duration(),
            memory: spec.memory.as_bytes(),
            output: spec.output.as_bytes().min(OUTPUT_BYTES_MAX) as usize,
        };
        let (workers, tables) = (spec.workers.into(), spec.tables.clone());
        let shared = Arc::new(PluginShared::new(
            name, bounds, workers, tables, host, clock,
        ));
        let mut plugin = Plugin {
            package: package.clone(),
            hash: package.hash(),
            columns: columns.transpose()?,
            shared,
            workers: Vec::new(),
            root: root.to_owned(),
            given: AtomicU64::new(0),
            made: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        let launch = prepare(name, package, root)?;
        #[cfg(feature = "javascript")]
        if spec.language == crate::PluginLanguage::Javascript {
            crate::javascript::check(name, package)?;
        }
        for index in 0..usize::from(spec.workers) {
            let worker = plugin.worker(index, &launch)?;
            plugin.workers.push(worker);
        }
        for worker in &plugin.workers {
            let (probe, told) = oneshot::channel();
            worker.probe(probe);
            block_on(told).unwrap_or_else(|_| Err(plugin.stopped()))?;
        }
        Ok(plugin)
    }

    fn worker(&self, index: usize, launch: &Launch) -> Result<PluginWorker, Error> {
        let shared = Arc::clone(&self.shared);
        if self.package.spec.language == crate::PluginLanguage::Javascript {
            #[cfg(feature = "javascript")]
            return crate::javascript::ScriptWorker::start(index, shared, &self.package)
                .map(PluginWorker::Script);
            #[cfg(not(feature = "javascript"))]
            return Err(Error::new(Class::Configuration, "plugin.no-javascript"));
        }
        let arrow = self.package.spec.arrow.as_ref();
        let mut start = serde_json::json!({
            "type": "start",
            "protocol": PROTOCOL_VERSION,
            "plugin": &*self.shared.name,
            "main": self.package.spec.main(),
            "settings": self.package.spec.settings,
        });
        if arrow.is_some() {
            start["arrow"] = true.into();
        }
        let frame = format!("{start}\n").into_bytes();
        let columns = arrow.map(EventColumns::new).transpose()?;
        ProcessWorker::start(index, shared, launch.clone(), frame, columns)
            .map(PluginWorker::Process)
    }

    /// The plug-in's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What it was started from.
    pub fn package(&self) -> &Package {
        &self.package
    }

    /// [`Package::hash`] of what it was started from.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The columns of the payloads that it makes, where its file names them.
    pub fn columns(&self) -> Option<&SchemaRef> {
        self.columns.as_ref()
    }

    /// Number of its workers.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// No events yet, in the form in which its workers take them.
    pub fn events(&self) -> GivenEvents {
        GivenEvents::new(match self.package.spec.arrow {
            Some(_) => EventForm::Arrow,
            None => EventForm::Json,
        })
    }

    /// Gives a worker events, which it works on behind those that it was given before.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn give(&self, worker: usize, events: GivenEvents) -> PendingWork<'_> {
        let is_trial = events.is_trial();
        if !is_trial {
            self.given.fetch_add(events.len() as u64, Ordering::Relaxed);
        }
        let (reply, answer) = oneshot::channel();
        self.workers[worker].work(WorkerJob { events, reply });
        PendingWork {
            plugin: self,
            is_trial,
            answer,
        }
    }

    /// The log lines behind number `after`, oldest first.
    pub fn log(&self, after: u64) -> Vec<LogLine> {
        self.shared.log.lines(after)
    }

    /// Counters and workers.
    pub fn status(&self) -> PluginStatus {
        let number = |number: &AtomicU64| number.load(Ordering::Relaxed);
        PluginStatus {
            given: number(&self.given),
            made: number(&self.made),
            failed: number(&self.failed),
            lines_dropped: self.shared.log.dropped(),
            workers: self
                .shared
                .workers
                .iter()
                .map(|worker| worker.status())
                .collect(),
        }
    }

    /// Counts from nothing again.
    pub(crate) fn forget_counts(&self) {
        for count in [&self.given, &self.made, &self.failed] {
            count.store(0, Ordering::Relaxed);
        }
    }

    /// Lets someone else answer its requests from now on; the one before is given back.
    pub(crate) fn set_host(&self, host: Arc<dyn PluginHost>) -> Arc<dyn PluginHost> {
        self.shared.set_host(host)
    }

    fn stopped(&self) -> Error {
        Error::new(Class::Transient, "plugin.stopped").with("plugin", self.name())
    }
}

impl PluginWorker {
    fn work(&self, job: WorkerJob) {
        match self {
            #[cfg(feature = "javascript")]
            PluginWorker::Script(worker) => worker.work(job),
            PluginWorker::Process(worker) => worker.work(job),
        }
    }

    fn probe(&self, probe: Probe) {
        match self {
            #[cfg(feature = "javascript")]
            PluginWorker::Script(worker) => worker.probe(probe),
            PluginWorker::Process(worker) => worker.probe(probe),
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        for worker in &self.workers {
            match worker {
                #[cfg(feature = "javascript")]
                PluginWorker::Script(worker) => worker.stop(),
                PluginWorker::Process(worker) => worker.stop(),
            }
        }
        // A worker that still runs has read its program; what it opens later is gone.
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.shared.name)
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}
