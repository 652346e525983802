//! Orchestrations within a node: their database, what starts their instances, and who is told when one is stuck.

mod letters;
mod readers;
mod schedules;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use busbar_bus::Bus;
use busbar_catalog::{OrchestrationSpec, Project};
use busbar_event::{Batch, BatchBuilder, Class, Error, Flags, Row};
use busbar_flow::{LetterTaker, ReadFor, Runtime};
use busbar_orchestrate::{
    DiskStore, Executor, ExecutorOptions, InstanceStatus, Notices, PartFailure, RulesCompiler,
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use letters::{LetterDesk, RunningOrchestrations};

/// The orchestrations of a node.
pub(crate) struct Orchestrations {
    bus: Bus,
    runtime: Runtime,
    folder: PathBuf,
    /// Opened with the first project that has orchestrations, or where there is a database already.
    executor: OnceCell<Executor>,
    specs: Mutex<BTreeMap<String, OrchestrationSpec>>,
    /// What starts instances.
    tasks: Mutex<Vec<JoinHandle<()>>>,
    desk: Arc<LetterDesk>,
}

/// What an orchestration makes of an event.
pub(crate) struct TracedStart {
    /// The orchestration.
    pub(crate) orchestration: String,
    /// The part in which instances wait for the event; none where it starts an instance.
    pub(crate) part: Option<String>,
    /// The business key of the instance that it starts, or that was there.
    pub(crate) key: Option<String>,
    /// What says which instances it is for, where they wait for it.
    pub(crate) by: Option<String>,
    /// What the instance is at; none where there is none any more.
    pub(crate) status: Option<InstanceStatus>,
    /// Why the event does not fit.
    pub(crate) error: Option<Error>,
}

impl Orchestrations {
    pub(crate) fn new(bus: Bus, runtime: Runtime, folder: PathBuf) -> Orchestrations {
        let desk = Arc::<LetterDesk>::default();
        runtime.set_letter_taker(Arc::clone(&desk) as Arc<dyn LetterTaker>);
        Orchestrations {
            desk,
            bus,
            runtime,
            folder,
            executor: OnceCell::new(),
            specs: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    /// Takes over the orchestrations of a project.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) async fn apply(&self, project: &Project) -> Result<(), Error> {
        let is_needed = !project.orchestrations.is_empty() || self.folder.exists();
        if !is_needed && self.executor.get().is_none() {
            return Ok(());
        }
        let compiler = self.runtime.orchestrations(project).await?;
        let executor = self
            .executor
            .get_or_try_init(|| self.open(compiler.clone()))
            .await?;
        let specs = project.orchestrations.iter();
        let specs: BTreeMap<String, OrchestrationSpec> = specs
            .map(|(name, parsed)| (name.clone(), parsed.spec.clone()))
            .collect();
        self.end_tasks().await;
        executor.deploy(specs.clone(), compiler.clone()).await?;
        let mut tasks =
            readers::start(&self.bus, executor, &self.runtime, &specs, &compiler).await?;
        tasks.extend(schedules::start(&self.bus, executor, &specs)?);
        *self.tasks.lock() = tasks;
        self.desk.set(RunningOrchestrations {
            executor: executor.clone(),
            specs: specs.clone(),
            compiler,
        });
        *self.specs.lock() = specs;
        // Letters of orchestrations could not be taken before.
        self.runtime.finish_redrives().await;
        Ok(())
    }

    async fn open(&self, compiler: Arc<dyn RulesCompiler>) -> Result<Executor, Error> {
        let folder = self.folder.clone();
        let opened = tokio::task::spawn_blocking(move || DiskStore::open(&folder)).await;
        let stopping = |_| Error::new(Class::Transient, "server.stopping");
        let options = ExecutorOptions {
            store: Arc::new(opened.map_err(stopping)??),
            clock: Arc::clone(self.bus.clock()),
            notices: Arc::new(AlarmEvents(self.bus.clone())),
        };
        Executor::start(options, compiler)
    }

    /// What runs instances.
    ///
    /// # Errors
    /// When there are no orchestrations, so that `name` is none.
    pub(crate) fn executor(&self, name: &str) -> Result<&Executor, Error> {
        self.executor.get().ok_or_else(|| {
            let error = Error::new(Class::Permanent, "orchestrate.unknown");
            error.with("name", busbar_event::quote(name))
        })
    }

    /// The orchestrations that run.
    pub(crate) fn specs(&self) -> BTreeMap<String, OrchestrationSpec> {
        self.specs.lock().clone()
    }

    /// What the orchestrations as they run make of an event of a stream. What is known of none of them is its error.
    ///
    /// # Errors
    /// The readers of the stream cannot be made.
    pub(crate) fn trace(&self, stream: &str, event: &Batch) -> Result<Vec<TracedStart>, Error> {
        let Some(running) = self.desk.running() else {
            return Ok(Vec::new());
        };
        let readers = readers::readers(&running.specs, &running.compiler, stream)?;
        let mut all = Vec::new();
        for (orchestration, mut reader) in readers {
            let part = match &reader.read_for {
                ReadFor::Start => None,
                ReadFor::Part(part) => Some(part.clone()),
            };
            let of = |key, by, status, error| TracedStart {
                orchestration: orchestration.clone(),
                part: part.clone(),
                key,
                by,
                status,
                error,
            };
            let read = match reader.read(event) {
                Ok(read) => read,
                Err(error) => {
                    all.push(of(None, None, None, Some(error)));
                    continue;
                }
            };
            for event in read.taken {
                if part.is_some() {
                    all.push(of(None, Some(event.by), None, None));
                    continue;
                }
                let key = match reader.key(&event.values) {
                    Ok(key) => key,
                    Err(error) => {
                        all.push(of(None, None, None, Some(error)));
                        continue;
                    }
                };
                // The key is known also where the store cannot be read.
                all.push(match running.executor.instance(&orchestration, &key) {
                    Ok(instance) => of(Some(key), None, instance.map(|found| found.status), None),
                    Err(error) => of(Some(key), None, None, Some(error)),
                });
            }
            let unfit = read.unfit.into_iter();
            all.extend(unfit.map(|(_, error)| of(None, None, None, Some(error))));
        }
        Ok(all)
    }

    /// Instances by orchestration and status.
    pub(crate) fn counts(&self) -> BTreeMap<(String, InstanceStatus), u64> {
        let executor = self.executor.get();
        executor.map(Executor::counts).unwrap_or_default()
    }

    async fn end_tasks(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
            // Whether it was aborted or had ended is the same.
            let _ = task.await;
        }
    }

    /// Ends what runs instances; they go on after the next start.
    pub(crate) async fn shut_down(&self) {
        self.end_tasks().await;
        if let Some(executor) = self.executor.get().cloned() {
            let _ = tokio::task::spawn_blocking(move || executor.stop()).await;
        }
    }
}

/// Publishes an event for each instance that is stuck, on the topic `orchestrations/NAME/stuck`.
struct AlarmEvents(Bus);

impl Notices for AlarmEvents {
    fn stuck(
        &self,
        (name, key): (&str, &str),
        place: &str,
        undo: bool,
        failure: Option<&PartFailure>,
    ) {
        let message = failure.map(|failure| failure.message.clone());
        tracing::error!(
            orchestration = name,
            key,
            place,
            undo,
            message,
            "an instance cannot go on before a person has decided"
        );
        let payload = json!({
            "orchestration": name,
            "key": key,
            "part": place,
            "compensation": undo,
            "code": failure.map(|failure| failure.code.clone()),
            "message": message,
        });
        let mut builder = BatchBuilder::new();
        let topic = builder.topic_id(&format!("orchestrations/{name}/stuck"));
        builder.push(Row {
            topic,
            key: Some(key),
            time: self.0.clock().now_micros(),
            client: None,
            flags: Flags::default(),
            tags: &[],
            payload: payload.to_string().as_bytes(),
        });
        let appended = self.0.append(builder.finish(), None);
        let name = name.to_owned();
        // The thread of the executor belongs to no runtime.
        std::thread::Builder::new()
            .name("orchestrate-alarm".to_owned())
            .spawn(move || {
                if let Err(error) = futures::executor::block_on(appended) {
                    tracing::error!(orchestration = name, %error, "the alarm of an instance is not kept as an event");
                }
            })
            .map_or_else(|error| tracing::error!(%error, "no thread for an alarm"), drop);
    }
}
