//! A worker that is an interpreter of JavaScript within the process, on a thread of its own.

mod answer;
mod bytecode;
mod compile;
mod modules;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use busbar_event::{Class, Error};
use rquickjs::prelude::Func;
use rquickjs::{
    Array, CatchResultExt, CaughtError, Context, Ctx, Exception, Function, Persistent, Runtime,
};

use self::answer::{AnswerReader, NotRead};
pub(crate) use self::bytecode::ENDING as BYTECODE_ENDING;
pub(crate) use self::compile::compile;
use self::modules::ScriptModules;
use crate::answers::PluginAnswers;
use crate::events::GivenEvents;
use crate::frame::ScriptFailure;
use crate::host::TableRequest;
use crate::limits::{DEATHS_IN_A_ROW_MAX, SCRIPT_STACK_BYTES, SCRIPT_THREAD_STACK_BYTES};
use crate::log::LogLevel;
use crate::machine::WorkerDeath;
use crate::package::Package;
use crate::worker::{PluginShared, Probe, Worked, WorkerJob};

/// An interpreter, as those see it who have work for it.
pub(crate) struct ScriptWorker {
    orders: Sender<ScriptOrder>,
}

enum ScriptOrder {
    Work(WorkerJob),
    Probe(Probe),
    Stop,
}

impl ScriptWorker {
    /// Starts the thread.
    pub fn start(
        index: usize,
        shared: Arc<PluginShared>,
        package: &Package,
    ) -> Result<ScriptWorker, Error> {
        let (orders, received) = channel();
        let package = package.clone();
        std::thread::Builder::new()
            .name(format!("plugin-{index}"))
            .stack_size(SCRIPT_THREAD_STACK_BYTES)
            .spawn(move || run(index, &shared, &package, &received))
            .map_err(|cause| {
                Error::new(Class::Transient, "plugin.not-started")
                    .with("program", "javascript")
                    .caused_by(cause)
            })?;
        Ok(ScriptWorker { orders })
    }

    // An order to a thread that has ended is dropped, and whoever waits for it is told so.

    pub fn work(&self, job: WorkerJob) {
        let _ = self.orders.send(ScriptOrder::Work(job));
    }

    pub fn probe(&self, probe: Probe) {
        let _ = self.orders.send(ScriptOrder::Probe(probe));
    }

    pub fn stop(&self) {
        let _ = self.orders.send(ScriptOrder::Stop);
    }
}

fn run(
    index: usize,
    shared: &Arc<PluginShared>,
    package: &Package,
    orders: &Receiver<ScriptOrder>,
) {
    let mut engine = None;
    while let Ok(order) = orders.recv() {
        let loaded = match engine.take() {
            Some(engine) => Ok(engine),
            None => Interpreter::load(index, shared, package),
        };
        match order {
            ScriptOrder::Stop => return,
            ScriptOrder::Probe(probe) => {
                let error = |death: &WorkerDeath| death.error(Class::Configuration, &shared.name);
                let _ = probe.send(loaded.as_ref().map(|_| ()).map_err(error));
                engine = loaded.ok();
            }
            ScriptOrder::Work(job) => match loaded {
                Ok(loaded) => {
                    let mut worked = Worked::default();
                    shared.workers[index].note_trial(job.events.is_trial());
                    engine = loaded.work(index, shared, package, &job, &mut worked);
                    let _ = job.reply.send(Ok(worked));
                }
                Err(death) => {
                    let error = death.error(Class::Transient, &shared.name);
                    let _ = job.reply.send(Err(error));
                }
            },
        }
    }
}

/// An interpreter with the program loaded.
struct Interpreter {
    // In the order in which they must be dropped.
    process: Persistent<Function<'static>>,
    run: Persistent<Function<'static>>,
    text: Persistent<Function<'static>>,
    answers: RefCell<AnswerReader>,
    context: Context,
    runtime: Runtime,
    deadline: Rc<Cell<Option<Instant>>>,
}

impl Interpreter {
    fn load(
        index: usize,
        shared: &Arc<PluginShared>,
        package: &Package,
    ) -> Result<Interpreter, WorkerDeath> {
        let internal = |error: rquickjs::Error| failure(error.to_string());
        let modules = ScriptModules::of(&shared.name, package);
        let modules = modules.map_err(|error| failure(error.to_string()))?;
        let runtime = Runtime::new().map_err(internal)?;
        let bounds = shared.bounds;
        runtime.set_memory_limit(usize::try_from(bounds.memory).unwrap_or(usize::MAX));
        runtime.set_max_stack_size(SCRIPT_STACK_BYTES);
        let deadline = Rc::new(Cell::new(Some(Instant::now() + bounds.timeout)));
        let checked = Rc::clone(&deadline);
        runtime.set_interrupt_handler(Some(Box::new(move || {
            checked.get().is_some_and(|at| Instant::now() >= at)
        })));
        modules.serve(&runtime);
        let context = Context::full(&runtime).map_err(internal)?;
        let loaded = context.with(|ctx| {
            let loaded = load(&ctx, index, shared, package, &modules);
            loaded
                .catch(&ctx)
                .map_err(|error| death(&ctx, error, shared, &deadline))
        });
        let (process, run, text) = loaded?;
        let answers = context.with(|ctx| AnswerReader::new(&ctx, bounds.output));
        let answers = RefCell::new(answers.map_err(internal)?);
        deadline.set(None);
        shared.workers[index].note_start(0);
        Ok(Interpreter {
            process,
            run,
            text,
            answers,
            context,
            runtime,
            deadline,
        })
    }

    /// Works on a job. A batch on which the script dies is tried once more, event by event, and an event on which it
    /// dies again is lost. None where it could not be started again.
    fn work(
        self,
        index: usize,
        shared: &Arc<PluginShared>,
        package: &Package,
        job: &WorkerJob,
        worked: &mut Worked,
    ) -> Option<Interpreter> {
        let mut engine = Some(self);
        let mut deaths = 0;
        let again = |engine: &mut Option<Interpreter>, death: &WorkerDeath| {
            shared.workers[index].note_death();
            let error = death.error(Class::Permanent, &shared.name);
            shared.log(index, LogLevel::Error, &error.to_string());
            // The old one may hold what it has allocated.
            drop(engine.take());
            *engine = Interpreter::load(index, shared, package).ok();
            error
        };
        for (first, count) in job.events.parts() {
            let tried = attempt(engine.as_ref(), job, first, count, shared, worked);
            let Err(death) = tried else { continue };
            again(&mut engine, &death);
            for event in first..first + count {
                if deaths >= DEATHS_IN_A_ROW_MAX {
                    let error = death.error(Class::Permanent, &shared.name);
                    worked.lost.push((event, first + count - event, error));
                    deaths = 0;
                    break;
                }
                match attempt(engine.as_ref(), job, event, 1, shared, worked) {
                    Ok(()) => deaths = 0,
                    Err(death) => {
                        deaths += 1;
                        let error = again(&mut engine, &death);
                        worked.lost.push((event, 1, error));
                    }
                }
            }
        }
        if let Some(engine) = &engine {
            let used = engine.runtime.memory_usage().malloc_size;
            shared.workers[index].note_memory(u64::try_from(used).unwrap_or(0));
        }
        engine
    }

    /// Has the script work on events of a job.
    fn call(
        &self,
        events: &GivenEvents,
        (first, count): (usize, usize),
        answers: &mut PluginAnswers,
        shared: &PluginShared,
    ) -> Result<(), WorkerDeath> {
        self.deadline
            .set(Some(Instant::now() + shared.bounds.timeout));
        let called = self.context.with(|ctx| {
            let mut call = || -> Result<(), NotRead> {
                let process = self.process.clone().restore(&ctx)?;
                let run = self.run.clone().restore(&ctx)?;
                let text = self.text.clone().restore(&ctx)?;
                let given = GivenColumns::new(events, first, count);
                let results: Array<'_> = run.call((
                    process,
                    given.topics,
                    given.keys,
                    given.times,
                    given.tags,
                    given.payloads,
                    given.others,
                ))?;
                let mut reader = self.answers.borrow_mut();
                reader.read(&ctx, &results, &text, events, (first, count), answers)
            };
            call().map_err(|error| match error {
                NotRead::Death(death) => death,
                NotRead::Script(error) => {
                    let error = CaughtError::from_error(&ctx, error);
                    death(&ctx, error, shared, &self.deadline)
                }
            })
        });
        self.deadline.set(None);
        called
    }
}

/// Events in columns, which a script makes its objects of: that costs half of reading them as objects.
struct GivenColumns<'a> {
    topics: Vec<&'a str>,
    keys: Vec<Option<&'a str>>,
    times: Vec<f64>,
    /// A list of objects in JSON; none if no event has any.
    tags: Option<String>,
    /// A list of values in JSON; null for an event that is among the others.
    payloads: String,
    /// Members of the events whose payloads are no JSON, by their places, in JSON; none if there are none.
    others: Option<String>,
}

impl<'a> GivenColumns<'a> {
    fn new(events: &'a GivenEvents, first: usize, count: usize) -> GivenColumns<'a> {
        let mut given = GivenColumns {
            topics: Vec::with_capacity(count),
            keys: Vec::with_capacity(count),
            times: Vec::with_capacity(count),
            tags: None,
            payloads: String::new(),
            others: None,
        };
        for at in first..first + count {
            let event = events.parts_of(at);
            given.topics.push(event.topic);
            given.keys.push(event.key);
            given.times.push(event.time as f64);
        }
        if events.has_tags(first, count) {
            let mut tags = vec![b'['];
            for at in first..first + count {
                if at > first {
                    tags.push(b',');
                }
                events.write_tags(at, &mut tags);
            }
            tags.push(b']');
            given.tags = Some(lossless(tags));
        }
        let mut payloads = Vec::new();
        let others = events.write_payloads(first, count, &mut payloads);
        given.payloads = lossless(payloads);
        given.others = others.map(lossless);
        given
    }
}

/// All of it was written as text or has been read as JSON.
fn lossless(json: Vec<u8>) -> String {
    String::from_utf8(json)
        .unwrap_or_else(|bytes| String::from_utf8_lossy(bytes.as_bytes()).into_owned())
}

/// Has a part of a job worked on.
fn attempt(
    engine: Option<&Interpreter>,
    job: &WorkerJob,
    first: usize,
    count: usize,
    shared: &PluginShared,
    worked: &mut Worked,
) -> Result<(), WorkerDeath> {
    let Some(engine) = engine else {
        return Err(failure("it does not start any more".into()));
    };
    engine.call(&job.events, (first, count), &mut worked.answers, shared)
}

/// Checks the file with bytecode, if the plug-in runs one.
///
/// # Errors
/// `plugin.bytecode-engine`, `plugin.bytecode-damaged`.
pub(crate) fn check(name: &str, package: &Package) -> Result<(), Error> {
    ScriptModules::of(name, package).map(|_| ())
}

/// The script's function, and those of the kit that run it and write its results.
type Loaded = (
    Persistent<Function<'static>>,
    Persistent<Function<'static>>,
    Persistent<Function<'static>>,
);

fn load<'js>(
    ctx: &Ctx<'js>,
    index: usize,
    shared: &Arc<PluginShared>,
    package: &Package,
    modules: &ScriptModules,
) -> rquickjs::Result<Loaded> {
    let globals = ctx.globals();
    let (known, settings) = (Arc::clone(shared), package.spec.settings.clone());
    globals.set(
        "__busbar_host",
        Func::from(move |ctx: Ctx<'js>, what: String, text: String| {
            host(&ctx, index, &known, &settings, &what, &text)
        }),
    )?;
    ctx.eval::<(), _>(include_str!("../sdk/javascript/busbar.js"))?;
    let run: Function<'js> = globals.get("__busbar_run")?;
    let text: Function<'js> = globals.get("__busbar_text")?;
    let main = package.spec.main();
    let (module, done) = modules.run(ctx)?;
    done.finish::<()>()?;
    let exports = module.namespace()?;
    let process = ["default", "process"].into_iter().find_map(|name| {
        let value: Option<Function<'js>> = exports.get(name).ok();
        value
    });
    let Some(process) = process else {
        let message = format!("{main} exports no function, neither as default nor as process");
        return Err(Exception::throw_message(ctx, &message));
    };
    Ok((
        Persistent::save(ctx, process),
        Persistent::save(ctx, run),
        Persistent::save(ctx, text),
    ))
}

/// What the script asks of its node.
fn host<'js>(
    ctx: &Ctx<'js>,
    index: usize,
    shared: &PluginShared,
    settings: &std::collections::BTreeMap<String, serde_json::Value>,
    what: &str,
    text: &str,
) -> rquickjs::Result<String> {
    #[derive(serde::Deserialize)]
    struct LogRequest {
        level: LogLevel,
        message: String,
    }
    let answered = match what {
        "settings" => serde_json::to_string(settings).map_err(|error| error.to_string()),
        "log" => serde_json::from_str::<LogRequest>(text)
            .map(|line| {
                shared.said(index, line.level, &line.message);
                String::new()
            })
            .map_err(|error| error.to_string()),
        _ => serde_json::from_str::<TableRequest<'_>>(text)
            .map_err(|error| error.to_string())
            .and_then(|request| shared.rows(&request).map_err(|error| error.to_string())),
    };
    answered.map_err(|message| Exception::throw_message(ctx, &message))
}

/// Why the script did not come to its end.
fn death<'js>(
    ctx: &Ctx<'js>,
    error: CaughtError<'js>,
    shared: &PluginShared,
    deadline: &Cell<Option<Instant>>,
) -> WorkerDeath {
    let late = deadline.get().is_some_and(|at| Instant::now() >= at);
    // What follows must not be interrupted.
    deadline.set(None);
    if late {
        return WorkerDeath::Timeout(shared.bounds.timeout);
    }
    let value = match error {
        CaughtError::Exception(exception) => exception.into_value(),
        CaughtError::Value(value) => value,
        CaughtError::Error(error) => return failure(error.to_string()),
    };
    if value.is_null() || value.is_undefined() {
        // There was no memory for an error.
        return WorkerDeath::Memory(shared.bounds.memory);
    }
    let told = ctx
        .globals()
        .get("__busbar_failure")
        .and_then(|tell: Function<'js>| {
            let told: String = tell.call((value,))?;
            Ok(told)
        });
    let told = told
        .ok()
        .and_then(|told| serde_json::from_str::<ScriptFailure>(&told).ok());
    match told {
        Some(failure) if failure.message.contains("out of memory") => {
            WorkerDeath::Memory(shared.bounds.memory)
        }
        Some(failure) => WorkerDeath::NotLoaded(failure),
        None => WorkerDeath::Memory(shared.bounds.memory),
    }
}

fn failure(message: String) -> WorkerDeath {
    WorkerDeath::NotLoaded(ScriptFailure {
        message,
        file: None,
        line: None,
    })
}
