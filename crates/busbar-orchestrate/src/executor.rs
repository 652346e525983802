//! The thread that commits what the engine has changed and then issues what instances wait for.
//!
//! Commands that have gathered meanwhile share one commit. Nothing is issued, and nobody gets an answer, before the commit
//! has returned: what a service sees is always on the disk.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use busbar_catalog::OrchestrationSpec;
use busbar_event::{Class, Error};
use busbar_log::Clock;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::command::{CommandReply, InstanceCommand, Issue, RulesCompiler, Started};
use crate::engine::InstanceEngine;
use crate::instance::{HistoryRecord, Instance, InstanceStatus, PartFailure, ValueMap};
use crate::limits::{
    CALLS_UNDER_WAY_MAX, COMMANDS_IN_COMMIT_MAX, COMMANDS_MAX, COMMIT_RETRY_MILLIS,
    FORGET_EVERY_MICROS,
};
use crate::machine::{Happening, PersonOrder};
use crate::store::{self, InstanceFilter, InstanceStore};

/// What is told to those outside, once it is on the disk.
pub trait Notices: Send + Sync {
    /// An instance cannot go on before a person has decided. Told again after a restart.
    fn stuck(&self, instance: (&str, &str), place: &str, undo: bool, failure: Option<&PartFailure>);
}

/// What an executor is made of.
pub struct ExecutorOptions {
    /// Where instances are kept.
    pub store: Arc<dyn InstanceStore>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Who is told.
    pub notices: Arc<dyn Notices>,
}

/// Runs instances. Clones share it.
#[derive(Clone)]
pub struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn InstanceStore>,
    send: mpsc::Sender<Message>,
    under_way: Arc<AtomicUsize>,
    counts: Mutex<BTreeMap<(String, InstanceStatus), u64>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

enum Message {
    Commands(
        Vec<InstanceCommand>,
        Option<oneshot::Sender<Vec<CommandReply>>>,
    ),
    Ended(String, String, EndWaiter),
    Deploy(
        BTreeMap<String, OrchestrationSpec>,
        Arc<dyn RulesCompiler>,
        oneshot::Sender<Result<(), Error>>,
    ),
    Stop,
}

/// Somebody who waits for an instance to end.
struct EndWaiter {
    reply: oneshot::Sender<Instance>,
    /// Also while it cannot go on before a person has decided.
    or_stuck: bool,
}

impl EndWaiter {
    fn is_for(&self, instance: &Instance) -> bool {
        let status = instance.status;
        status.has_ended() || (self.or_stuck && status == InstanceStatus::Stuck)
    }
}

impl Executor {
    /// Starts the thread. It does nothing before the first [`Executor::deploy`].
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        options: ExecutorOptions,
        compiler: Arc<dyn RulesCompiler>,
    ) -> Result<Executor, Error> {
        let (send, receive) = mpsc::channel(COMMANDS_MAX);
        let shared = Arc::new(Shared {
            store: Arc::clone(&options.store),
            send: send.clone(),
            under_way: Arc::default(),
            counts: Mutex::default(),
            thread: Mutex::default(),
        });
        let work = Work {
            engine: InstanceEngine::new(Arc::clone(&options.store), compiler),
            options,
            // Those who hold the executor end the thread, not the thread itself.
            shared: Arc::downgrade(&shared),
            send: send.downgrade(),
            under_way: Arc::clone(&shared.under_way),
            timers: BinaryHeap::new(),
            ended: HashMap::new(),
            forgets_at: 0,
            runtime: Handle::current(),
        };
        let thread = std::thread::Builder::new().name("orchestrate".to_owned());
        let thread = thread
            .spawn(move || work.run(receive))
            .map_err(|error| Error::new(Class::Transient, "orchestrate.thread").caused_by(error))?;
        *shared.thread.lock() = Some(thread);
        Ok(Executor { shared })
    }

    /// Takes over the orchestrations of a project; the first time, instances that have not ended go on.
    ///
    /// # Errors
    /// What does not fit, and what the disk says.
    pub async fn deploy(
        &self,
        specs: BTreeMap<String, OrchestrationSpec>,
        compiler: Arc<dyn RulesCompiler>,
    ) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Deploy(specs, compiler, reply)).await?;
        answer.await.map_err(|_| stopped())?
    }

    /// Begins an instance, or finds the one that has the key. It is on the disk when this returns.
    ///
    /// # Errors
    /// Input that does not fit, and orchestrations that there are not.
    pub async fn begin(&self, name: &str, input: ValueMap) -> Result<Started, Error> {
        let name = name.to_owned();
        match self.one(InstanceCommand::Start { name, input }).await? {
            CommandReply::Started(started) => Ok(started),
            CommandReply::Refused(error) => Err(error),
            CommandReply::Done => Err(stopped()),
        }
    }

    /// The instance once it has ended.
    ///
    /// # Errors
    /// When the node stops.
    pub async fn ended(&self, name: &str, key: &str) -> Result<Instance, Error> {
        self.waited(name, key, false).await
    }

    /// The instance once it has ended, or cannot go on before a person has decided.
    ///
    /// # Errors
    /// When the node stops.
    pub async fn settled(&self, name: &str, key: &str) -> Result<Instance, Error> {
        self.waited(name, key, true).await
    }

    async fn waited(&self, name: &str, key: &str, or_stuck: bool) -> Result<Instance, Error> {
        let (reply, answer) = oneshot::channel();
        let waiter = EndWaiter { reply, or_stuck };
        let message = Message::Ended(name.to_owned(), key.to_owned(), waiter);
        self.send(message).await?;
        answer.await.map_err(|_| stopped())
    }

    /// Gives an order of a person to an instance.
    ///
    /// # Errors
    /// Orders that do not fit what the instance is at.
    pub async fn order(
        &self,
        name: &str,
        key: &str,
        order: PersonOrder,
        by: &str,
    ) -> Result<(), Error> {
        self.happens(name, key, Happening::Order(order, by.to_owned()))
            .await
    }

    /// Lets something happen to an instance.
    ///
    /// # Errors
    /// What does not fit what the instance is at.
    pub async fn happens(&self, name: &str, key: &str, what: Happening) -> Result<(), Error> {
        let (name, key) = (name.to_owned(), key.to_owned());
        match self
            .one(InstanceCommand::Happens { name, key, what })
            .await?
        {
            CommandReply::Refused(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Carries out commands in one commit.
    ///
    /// # Errors
    /// When the node stops.
    pub async fn carry_out(
        &self,
        commands: Vec<InstanceCommand>,
    ) -> Result<Vec<CommandReply>, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Commands(commands, Some(reply))).await?;
        answer.await.map_err(|_| stopped())
    }

    async fn one(&self, command: InstanceCommand) -> Result<CommandReply, Error> {
        let replies = self.carry_out(vec![command]).await?;
        replies.into_iter().next().ok_or_else(stopped)
    }

    async fn send(&self, message: Message) -> Result<(), Error> {
        let sent = self.shared.send.send(message).await;
        sent.map_err(|_| stopped())
    }

    /// Whether so many calls are under way that starts had better wait.
    pub fn is_busy(&self) -> bool {
        self.shared.under_way.load(Ordering::Relaxed) >= CALLS_UNDER_WAY_MAX
    }

    /// An instance as it is on the disk.
    ///
    /// # Errors
    /// What the disk says.
    pub fn instance(&self, name: &str, key: &str) -> Result<Option<Instance>, Error> {
        store::read(&*self.shared.store, &store::instance_key(name, key))
    }

    /// Instances of an orchestration, the newest first, and the place to go on from if there are more.
    ///
    /// # Errors
    /// What the disk says.
    pub fn list(
        &self,
        name: &str,
        filter: &InstanceFilter,
    ) -> Result<(Vec<Instance>, Option<Vec<u8>>), Error> {
        store::list(&*self.shared.store, name, filter)
    }

    /// What the file of an orchestration said in a version.
    ///
    /// # Errors
    /// What the disk says.
    pub fn version(&self, name: &str, number: u64) -> Result<Option<OrchestrationSpec>, Error> {
        store::read(&*self.shared.store, &store::version_key(name, number))
    }

    /// The history of an instance from a record on.
    ///
    /// # Errors
    /// What the disk says.
    pub fn history(
        &self,
        name: &str,
        key: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, Error> {
        store::history(&*self.shared.store, (name, key), from, limit)
    }

    /// How far a reader is.
    ///
    /// # Errors
    /// What the disk says.
    pub fn position(&self, reader: &str) -> Result<Option<u64>, Error> {
        let value = self.shared.store.get(&store::position_key(reader))?;
        Ok(value.and_then(|value| Some(u64::from_be_bytes(value.try_into().ok()?))))
    }

    /// Instances by orchestration and status: those that have not ended, and those that have since the process began.
    pub fn counts(&self) -> BTreeMap<(String, InstanceStatus), u64> {
        self.shared.counts.lock().clone()
    }

    /// Ends the thread. Calls under way are given up; they are made again after the next start. Blocks.
    pub fn stop(&self) {
        let thread = self.shared.thread.lock().take();
        let Some(thread) = thread else { return };
        let mut stop = Message::Stop;
        while let Err(mpsc::error::TrySendError::Full(again)) = self.shared.send.try_send(stop) {
            stop = again;
            std::thread::park_timeout(Duration::from_millis(5));
        }
        if thread.join().is_err() {
            tracing::error!("the thread of orchestrations has ended with a panic");
        }
    }
}

fn stopped() -> Error {
    Error::new(Class::Transient, "orchestrate.stopped")
}

/// What the thread works with.
struct Work {
    engine: InstanceEngine,
    options: ExecutorOptions,
    shared: std::sync::Weak<Shared>,
    send: mpsc::WeakSender<Message>,
    under_way: Arc<AtomicUsize>,
    timers: BinaryHeap<Reverse<(i64, String, String)>>,
    /// Who waits for the end of an instance.
    ended: HashMap<(String, String), Vec<EndWaiter>>,
    forgets_at: i64,
    runtime: Handle,
}

type Answers = Vec<(oneshot::Sender<Vec<CommandReply>>, Vec<CommandReply>)>;

impl Work {
    fn run(mut self, mut receive: mpsc::Receiver<Message>) {
        let mut is_deployed = false;
        loop {
            let wait = self.wait_micros(is_deployed);
            let next = self.runtime.block_on(async {
                let wait = Duration::from_micros(wait);
                tokio::time::timeout(wait, receive.recv()).await
            });
            let now = self.options.clock.now_micros();
            let mut answers: Answers = Vec::new();
            let (mut deployed, mut commands) = (Vec::new(), 0);
            let mut next = match next {
                Ok(None) => return,
                Ok(Some(message)) => Some(message),
                Err(_) => None,
            };
            while let Some(message) = next.take() {
                match message {
                    Message::Stop => {
                        // What came before it has been promised to nobody yet.
                        self.commit(now);
                        return;
                    }
                    Message::Commands(all, reply) => {
                        commands += all.len();
                        let replies = all
                            .into_iter()
                            .map(|command| self.engine.apply(command, now));
                        let replies: Vec<CommandReply> = replies.collect();
                        answers.extend(reply.map(|reply| (reply, replies)));
                    }
                    Message::Ended(name, key, waiter) => self.wait_for_end(name, key, waiter),
                    Message::Deploy(specs, compiler, reply) => {
                        self.commit(now);
                        let done = self.engine.deploy(&specs, compiler, now);
                        is_deployed |= done.is_ok();
                        deployed.push((reply, done));
                    }
                }
                if commands < COMMANDS_IN_COMMIT_MAX {
                    next = receive.try_recv().ok();
                }
            }
            if is_deployed {
                self.due(now);
                self.engine.take_postponed(now);
            }
            self.commit(now);
            for (reply, done) in deployed {
                let _ = reply.send(done);
            }
            for (reply, replies) in answers {
                let _ = reply.send(replies);
            }
        }
    }

    /// Time until something is due, in microseconds.
    fn wait_micros(&self, is_deployed: bool) -> u64 {
        let now = self.options.clock.now_micros();
        let mut until = now.saturating_add(FORGET_EVERY_MICROS);
        if let Some(Reverse((at, ..))) = self.timers.peek()
            && is_deployed
        {
            until = until.min(*at);
        }
        u64::try_from(until - now).unwrap_or_default()
    }

    fn due(&mut self, now: i64) {
        let mut woken = 0;
        while let Some(Reverse((at, ..))) = self.timers.peek()
            && *at <= now
            && woken < COMMANDS_IN_COMMIT_MAX
        {
            let Some(Reverse((_, name, key))) = self.timers.pop() else {
                break;
            };
            woken += 1;
            let what = Happening::Time;
            if let CommandReply::Refused(error) = self
                .engine
                .apply(InstanceCommand::Happens { name, key, what }, now)
            {
                tracing::debug!(%error, "a timer of an instance that is not there");
            }
        }
        if self.forgets_at <= now {
            match self.engine.forget(now) {
                Ok(true) => {}
                Ok(false) => self.forgets_at = now.saturating_add(FORGET_EVERY_MICROS),
                Err(error) => {
                    self.forgets_at = now.saturating_add(FORGET_EVERY_MICROS);
                    tracing::error!(%error, "instances whose time is over are not removed");
                }
            }
        }
    }

    fn wait_for_end(&mut self, name: String, key: String, waiter: EndWaiter) {
        let there =
            store::read::<Instance>(&*self.options.store, &store::instance_key(&name, &key));
        match there {
            Ok(Some(instance)) if waiter.is_for(&instance) => drop(waiter.reply.send(instance)),
            _ => {
                let waiters = self.ended.entry((name, key)).or_default();
                waiters.retain(|waiter| !waiter.reply.is_closed());
                waiters.push(waiter);
            }
        }
    }

    /// Answers those who wait for what an instance has come to.
    fn answer(&mut self, instance: &Instance) {
        let at = (instance.name.clone(), instance.key.clone());
        let waiters = self.ended.remove(&at).unwrap_or_default();
        let (answered, rest): (Vec<_>, Vec<_>) = waiters
            .into_iter()
            .partition(|waiter| waiter.is_for(instance));
        for waiter in answered {
            let _ = waiter.reply.send(instance.clone());
        }
        if !rest.is_empty() {
            self.ended.insert(at, rest);
        }
    }

    /// Writes what has changed, for as long as it takes, then issues what follows from it.
    fn commit(&mut self, now: i64) {
        let changes = self.engine.take_changes();
        let issues = self.engine.take_issues();
        if !changes.is_empty() {
            while let Err(error) = self.options.store.commit(&changes) {
                tracing::error!(%error, "what happened to instances cannot be written; they wait");
                std::thread::park_timeout(Duration::from_millis(COMMIT_RETRY_MILLIS));
                if self.shared.strong_count() == 0 {
                    return;
                }
            }
            if let Some(shared) = self.shared.upgrade() {
                *shared.counts.lock() = self.engine.counts();
            }
        }
        for issue in issues {
            self.issue(issue, now);
        }
    }

    fn issue(&mut self, issue: Issue, _now: i64) {
        match issue {
            Issue::Timer(at, name, key) => self.timers.push(Reverse((at, name, key))),
            Issue::Alarm {
                instance: (name, key),
                place,
                undo,
                failure,
            } => {
                let notices = &self.options.notices;
                notices.stuck((&name, &key), &place, undo, failure.as_ref());
                if self.ended.contains_key(&(name.clone(), key.clone()))
                    && let Ok(Some(instance)) =
                        store::read(&*self.options.store, &store::instance_key(&name, &key))
                {
                    self.answer(&instance);
                }
            }
            Issue::Ended(instance) => self.answer(&instance),
            Issue::Call {
                instance: (name, key),
                place,
                part,
                undo,
                number: (number, tries),
                request,
                rules,
            } => {
                let (send, under_way) = (self.send.clone(), Arc::clone(&self.under_way));
                under_way.fetch_add(1, Ordering::Relaxed);
                self.runtime.spawn(async move {
                    let outcome = rules.call(part, undo, &request).await;
                    under_way.fetch_sub(1, Ordering::Relaxed);
                    let what = Happening::Called {
                        place,
                        undo,
                        number,
                        tries,
                        outcome,
                    };
                    let command = InstanceCommand::Happens { name, key, what };
                    if let Some(send) = send.upgrade() {
                        // Refused only when the node stops; then the call is made again.
                        let _ = send.send(Message::Commands(vec![command], None)).await;
                    }
                });
            }
        }
    }
}
