//! What is done with a worker: a machine of states without input and output.
//!
//! The machine is told what happens (a job came, the worker answered, it ended, time has passed) and answers with
//! [`WorkerEffect`]s, which `process` executes. Time is a [`Duration`] since any fixed moment.
//!
//! A worker answers batches in the order in which it was given them, so when it dies, the batch at fault is the first one
//! that it had not answered. That batch is tried once more, event by event; an event on which the worker dies again
//! has failed, and only that event.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use busbar_event::{Class, Error};

use crate::frame::ScriptFailure;
use crate::limits::{
    CREDIT_MAX, DEATHS_IN_A_ROW_MAX, HEARTBEAT_EVERY, PROTOCOL_VERSION, RESTART_FIRST,
    RESTART_LAST, START_TIMEOUT, STOP_TIMEOUT,
};

/// Decides what is done with one worker.
#[derive(Debug)]
pub struct WorkerMachine {
    timeout: Duration,
    state: MachineState,
    credit: usize,
    /// Parts of jobs that the worker has not been given yet, in order.
    waiting: VecDeque<JobPart>,
    /// Parts that it has been given and not answered, in order.
    flying: VecDeque<JobPart>,
    /// Events of each job that are neither answered nor failed.
    open: BTreeMap<u64, usize>,
    /// Deaths since the last answer.
    deaths: u32,
    last_id: u64,
    /// Why it was told to end at once.
    killed: Option<WorkerDeath>,
    stopping: bool,
    effects: Vec<WorkerEffect>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerEffect {
    /// Start the process.
    Spawn,
    /// End the process at once; then [`WorkerMachine::ended`].
    Kill,
    /// Give it events of a job.
    Send {
        /// The number of the batch.
        id: u64,
        /// The job.
        job: u64,
        /// The first event.
        first: usize,
        /// Number of events.
        count: usize,
    },
    /// Ask it whether it is still there.
    Ping,
    /// Tell it to end.
    Stop,
    /// These events of a job have failed, because the worker died on them.
    Lost {
        /// The job.
        job: u64,
        /// The first event.
        first: usize,
        /// Number of events.
        count: usize,
        /// How it died.
        death: WorkerDeath,
    },
    /// The job cannot be worked on now, because the worker does not start.
    Refused {
        /// The job.
        job: u64,
        /// Why.
        death: WorkerDeath,
    },
    /// All events of the job are answered or have failed.
    Done {
        /// The job.
        job: u64,
    },
}

/// How a worker came to its end.
#[derive(Clone, Debug)]
pub enum WorkerDeath {
    /// It ended by itself; with what it said last.
    Ended {
        /// The exit code or signal.
        status: String,
        /// The last line of its log.
        last_line: Option<String>,
    },
    /// It worked too long on a batch.
    Timeout(Duration),
    /// It took more memory than is allowed, in bytes.
    Memory(u64),
    /// It did not start in time.
    StartTimeout,
    /// It did not answer when it was asked whether it is there.
    Silent,
    /// It answered a batch that it was not asked about now.
    OutOfTurn,
    /// It speaks another version of the protocol.
    Protocol(u32),
    /// It sent what is not part of the protocol.
    Rubbish(Error),
    /// The program could not be loaded.
    NotLoaded(ScriptFailure),
    /// The program could not be loaded, because its language has no such library here.
    Lacks(String),
    /// The process could not be started.
    NotStarted(Error),
}

impl PartialEq for WorkerDeath {
    fn eq(&self, other: &WorkerDeath) -> bool {
        // Errors are compared by their words.
        format!("{self:?}") == format!("{other:?}")
    }
}

impl WorkerDeath {
    /// The death as an error that names the plug-in.
    pub(crate) fn error(&self, class: Class, plugin: &str) -> Error {
        let new = |code| Error::new(class, code).with("plugin", plugin);
        match self {
            WorkerDeath::Ended { status, last_line } => match last_line {
                Some(line) => new("plugin.died-saying")
                    .with("status", status)
                    .with("line", line),
                None => new("plugin.died").with("status", status),
            },
            WorkerDeath::Timeout(limit) => {
                let limit = i64::try_from(limit.as_micros()).unwrap_or(i64::MAX);
                new("plugin.timeout").with("limit", busbar_event::Span::from_micros(limit))
            }
            WorkerDeath::Memory(limit) => {
                new("plugin.memory").with("limit", busbar_event::Size::from_bytes(*limit))
            }
            WorkerDeath::StartTimeout => {
                new("plugin.start-timeout").with("seconds", START_TIMEOUT.as_secs())
            }
            WorkerDeath::Silent => new("plugin.silent"),
            WorkerDeath::OutOfTurn => new("plugin.out-of-turn"),
            WorkerDeath::Protocol(version) => new("plugin.protocol")
                .with("version", version)
                .with("known", PROTOCOL_VERSION),
            WorkerDeath::Rubbish(error) => new("plugin.broke-protocol").with_error("cause", error),
            WorkerDeath::NotLoaded(failure) => failure.error(class, plugin),
            WorkerDeath::Lacks(library) => new("plugin.no-library").with("library", library),
            WorkerDeath::NotStarted(error) => error.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum MachineState {
    /// There is no process until then.
    Down(Duration),
    /// It must be ready by then.
    Starting(Duration),
    /// Since when it has nothing to do, and since when it was asked whether it is there.
    Ready {
        idle: Duration,
        asked: Option<Duration>,
    },
    /// It must have ended by then.
    Stopping(Duration),
    /// It is being ended; whether it had not been ready yet.
    Dying {
        starting: bool,
    },
    Over,
}

#[derive(Clone, Debug)]
struct JobPart {
    id: u64,
    job: u64,
    first: usize,
    count: usize,
    /// It is tried for the second time.
    again: bool,
    /// Since when it is the first that is to be answered.
    since: Duration,
}

impl WorkerMachine {
    /// A machine for a worker that is to be started. `timeout` is how long it may work on one batch.
    pub fn new(timeout: Duration) -> WorkerMachine {
        WorkerMachine {
            timeout,
            state: MachineState::Down(Duration::ZERO),
            credit: 1,
            waiting: VecDeque::new(),
            flying: VecDeque::new(),
            open: BTreeMap::new(),
            deaths: 0,
            last_id: 0,
            killed: None,
            stopping: false,
            effects: Vec::new(),
        }
    }

    /// What is to be done now, in order.
    pub fn effects(&mut self) -> Vec<WorkerEffect> {
        std::mem::take(&mut self.effects)
    }

    /// When [`WorkerMachine::tick`] would do something; none: not before something else happens.
    pub fn wake_at(&self) -> Option<Duration> {
        match self.state {
            MachineState::Down(until)
            | MachineState::Starting(until)
            | MachineState::Stopping(until) => Some(until),
            MachineState::Ready { idle, asked } => Some(match (self.flying.front(), asked) {
                (Some(part), _) => part.since + self.timeout,
                (None, Some(asked)) => asked + self.timeout,
                (None, None) => idle + HEARTBEAT_EVERY,
            }),
            MachineState::Dying { .. } | MachineState::Over => None,
        }
    }

    /// Whether it is ready for work.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, MachineState::Ready { .. })
    }

    /// Whether it has a batch.
    pub fn is_working(&self) -> bool {
        !self.flying.is_empty()
    }

    /// Whether it was told to stop and has ended.
    pub fn is_over(&self) -> bool {
        self.state == MachineState::Over
    }

    /// A job, in parts that the worker takes at once: the first event and the number of events of each.
    pub fn submit(&mut self, job: u64, parts: &[(usize, usize)], now: Duration) {
        let count = parts.iter().map(|(_, count)| count).sum();
        if count == 0 {
            self.effects.push(WorkerEffect::Done { job });
            return;
        }
        self.open.insert(job, count);
        for &(first, count) in parts {
            self.waiting.push_back(JobPart {
                id: 0,
                job,
                first,
                count,
                again: false,
                since: now,
            });
        }
        self.pump(now);
    }

    /// Ends the worker as soon as it has done what it was given.
    pub fn stop(&mut self, now: Duration) {
        self.stopping = true;
        self.pump(now);
    }

    /// The worker says that it is ready.
    pub fn ready(&mut self, protocol: u32, credit: u32, now: Duration) {
        if protocol != PROTOCOL_VERSION {
            return self.kill(WorkerDeath::Protocol(protocol));
        }
        match self.state {
            MachineState::Starting(_) => {
                self.credit = credit.clamp(1, CREDIT_MAX) as usize;
                self.state = MachineState::Ready {
                    idle: now,
                    asked: None,
                };
                self.pump(now);
            }
            MachineState::Dying { .. } | MachineState::Over => {}
            _ => self.kill(WorkerDeath::OutOfTurn),
        }
    }

    /// Number of the job, first event and number of events that an answer with this number is about; none where the
    /// worker was not asked about it now, and is ended for that.
    pub fn expects(&mut self, id: u64) -> Option<(u64, usize, usize)> {
        if matches!(self.state, MachineState::Dying { .. }) {
            return None;
        }
        match self.flying.front() {
            Some(part) if part.id == id => Some((part.job, part.first, part.count)),
            _ => {
                self.kill(WorkerDeath::OutOfTurn);
                None
            }
        }
    }

    /// The job whose events the worker works on.
    pub fn works_on(&self) -> Option<u64> {
        self.flying.front().map(|part| part.job)
    }

    /// The answer that was expected is there.
    pub fn answered(&mut self, now: Duration) {
        let Some(part) = self.flying.pop_front() else {
            return;
        };
        self.deaths = 0;
        self.settle(part.job, part.count);
        match self.flying.front_mut() {
            Some(next) => next.since = now,
            None => {
                self.state = MachineState::Ready {
                    idle: now,
                    asked: None,
                }
            }
        }
        self.pump(now);
    }

    /// The worker is still there.
    pub fn pong(&mut self, now: Duration) {
        if let MachineState::Ready { idle, asked } = &mut self.state {
            (*idle, *asked) = (now, None);
        }
    }

    /// Ends the worker at once, for this reason.
    pub fn kill(&mut self, death: WorkerDeath) {
        let starting = match self.state {
            MachineState::Starting(_) => true,
            MachineState::Ready { .. } => false,
            _ => return,
        };
        self.killed = Some(death);
        self.state = MachineState::Dying { starting };
        self.effects.push(WorkerEffect::Kill);
    }

    /// The process has ended, or could not be started. PluginAnswers why.
    pub fn ended(&mut self, death: WorkerDeath, now: Duration) -> WorkerDeath {
        let death = self.killed.take().unwrap_or(death);
        let starting = matches!(
            self.state,
            MachineState::Starting(_) | MachineState::Dying { starting: true }
        );
        let asked_to = matches!(self.state, MachineState::Stopping(_));
        if self.state == MachineState::Over || asked_to {
            self.state = MachineState::Over;
            return death;
        }
        self.deaths = self.deaths.saturating_add(1);
        if starting {
            self.refuse_all(&death);
        } else {
            self.blame(&death);
        }
        let pause = RESTART_FIRST * 2u32.pow((self.deaths - 1).min(16));
        self.state = MachineState::Down(now + pause.min(RESTART_LAST));
        if self.stopping && (starting || self.waiting.is_empty()) {
            self.state = MachineState::Over;
        }
        death
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        if self.wake_at().is_none_or(|at| at > now) {
            return;
        }
        match self.state {
            MachineState::Down(_) => {
                self.state = MachineState::Starting(now + START_TIMEOUT);
                self.effects.push(WorkerEffect::Spawn);
            }
            MachineState::Starting(_) => self.kill(WorkerDeath::StartTimeout),
            MachineState::Ready { idle, asked } => match (self.is_working(), asked) {
                (true, _) => self.kill(WorkerDeath::Timeout(self.timeout)),
                (false, Some(_)) => self.kill(WorkerDeath::Silent),
                (false, None) => {
                    let asked = Some(now);
                    self.state = MachineState::Ready { idle, asked };
                    self.effects.push(WorkerEffect::Ping);
                }
            },
            MachineState::Stopping(_) => {
                self.effects.push(WorkerEffect::Kill);
                self.state = MachineState::Over;
            }
            MachineState::Dying { .. } | MachineState::Over => {}
        }
    }

    /// Gives the worker what it can take.
    fn pump(&mut self, now: Duration) {
        if self.stopping && matches!(self.state, MachineState::Down(_)) && self.waiting.is_empty() {
            self.state = MachineState::Over;
            return;
        }
        if !self.is_ready() {
            if self.stopping
                && self.waiting.is_empty()
                && matches!(self.state, MachineState::Starting(_))
            {
                self.effects.push(WorkerEffect::Kill);
                self.state = MachineState::Over;
            }
            return;
        }
        while self.flying.len() < self.credit
            && let Some(mut part) = self.waiting.pop_front()
        {
            self.last_id += 1;
            (part.id, part.since) = (self.last_id, now);
            self.effects.push(WorkerEffect::Send {
                id: part.id,
                job: part.job,
                first: part.first,
                count: part.count,
            });
            self.flying.push_back(part);
        }
        if self.stopping && self.flying.is_empty() {
            self.effects.push(WorkerEffect::Stop);
            self.state = MachineState::Stopping(now + STOP_TIMEOUT);
        }
    }

    /// The worker died at work: the first batch that it had not answered is at fault.
    fn blame(&mut self, death: &WorkerDeath) {
        let mut flying = std::mem::take(&mut self.flying);
        let blamed = flying.pop_front();
        for part in flying.into_iter().rev() {
            self.waiting.push_front(part);
        }
        let Some(part) = blamed else { return };
        if !part.again {
            for at in (0..part.count).rev() {
                self.waiting.push_front(JobPart {
                    first: part.first + at,
                    count: 1,
                    again: true,
                    ..part.clone()
                });
            }
            return;
        }
        self.lose(&part, death);
        if self.deaths < DEATHS_IN_A_ROW_MAX {
            return;
        }
        // It dies on whatever comes: the rest of that batch would hold the flow up for long.
        while let Some(next) = self.waiting.front()
            && (next.job, next.again) == (part.job, true)
            && let Some(next) = self.waiting.pop_front()
        {
            self.lose(&next, death);
        }
    }

    fn lose(&mut self, part: &JobPart, death: &WorkerDeath) {
        self.effects.push(WorkerEffect::Lost {
            job: part.job,
            first: part.first,
            count: part.count,
            death: death.clone(),
        });
        self.settle(part.job, part.count);
    }

    fn refuse_all(&mut self, death: &WorkerDeath) {
        self.waiting.clear();
        self.flying.clear();
        for job in std::mem::take(&mut self.open).into_keys() {
            let death = death.clone();
            self.effects.push(WorkerEffect::Refused { job, death });
        }
    }

    fn settle(&mut self, job: u64, count: usize) {
        if let Some(open) = self.open.get_mut(&job) {
            *open = open.saturating_sub(count);
            if *open == 0 {
                self.open.remove(&job);
                self.effects.push(WorkerEffect::Done { job });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ended() -> WorkerDeath {
        WorkerDeath::Ended {
            status: "9".into(),
            last_line: None,
        }
    }

    /// A machine whose worker is ready at second 0.
    fn ready(credit: u32) -> WorkerMachine {
        let mut machine = WorkerMachine::new(SECOND);
        machine.tick(Duration::ZERO);
        assert_eq!(machine.effects(), [WorkerEffect::Spawn]);
        machine.ready(PROTOCOL_VERSION, credit, Duration::ZERO);
        machine
    }

    fn send(id: u64, job: u64, first: usize, count: usize) -> WorkerEffect {
        WorkerEffect::Send {
            id,
            job,
            first,
            count,
        }
    }

    /// The worker dies now and is ready again as soon as it may.
    fn die(machine: &mut WorkerMachine) -> Duration {
        machine.ended(ended(), SECOND);
        let at = machine.wake_at().unwrap();
        machine.tick(at);
        machine.ready(PROTOCOL_VERSION, 1, at);
        at
    }

    #[test]
    fn batches_go_out_as_credit_allows_and_come_back_in_order() {
        let mut machine = ready(2);
        machine.submit(1, &[(0, 3)], SECOND);
        machine.submit(2, &[(0, 100), (100, 1)], SECOND);
        assert_eq!(machine.effects(), [send(1, 1, 0, 3), send(2, 2, 0, 100)]);
        assert_eq!(machine.expects(1), Some((1, 0, 3)));
        machine.answered(SECOND);
        assert_eq!(
            machine.effects(),
            [WorkerEffect::Done { job: 1 }, send(3, 2, 100, 1)]
        );
        assert_eq!(machine.expects(3), None, "batch 2 is next");
        assert_eq!(machine.effects(), [WorkerEffect::Kill]);
    }

    #[test]
    fn only_the_event_that_kills_the_worker_is_lost() {
        let mut machine = ready(1);
        machine.submit(1, &[(0, 3)], SECOND);
        machine.submit(2, &[(0, 1)], SECOND);
        assert_eq!(machine.effects(), [send(1, 1, 0, 3)]);
        die(&mut machine);
        assert_eq!(machine.effects(), [WorkerEffect::Spawn, send(2, 1, 0, 1)]);
        machine.answered(SECOND);
        assert_eq!(machine.effects(), [send(3, 1, 1, 1)]);
        die(&mut machine);
        let lost = |first, count| WorkerEffect::Lost {
            job: 1,
            first,
            count,
            death: ended(),
        };
        assert_eq!(
            machine.effects(),
            [lost(1, 1), WorkerEffect::Spawn, send(4, 1, 2, 1)]
        );
        machine.answered(SECOND);
        assert_eq!(
            machine.effects(),
            [WorkerEffect::Done { job: 1 }, send(5, 2, 0, 1)]
        );
    }

    #[test]
    fn batches_behind_the_one_at_fault_are_given_again() {
        let mut machine = ready(2);
        machine.submit(1, &[(0, 1)], SECOND);
        machine.submit(2, &[(0, 2)], SECOND);
        assert_eq!(machine.effects(), [send(1, 1, 0, 1), send(2, 2, 0, 2)]);
        die(&mut machine);
        assert_eq!(machine.effects(), [WorkerEffect::Spawn, send(3, 1, 0, 1)]);
        machine.answered(SECOND);
        assert_eq!(
            machine.effects(),
            [WorkerEffect::Done { job: 1 }, send(4, 2, 0, 2)]
        );
    }

    #[test]
    fn what_dies_on_everything_does_not_hold_the_flow_up() {
        let mut machine = ready(1);
        machine.submit(1, &[(0, 1000)], SECOND);
        machine.submit(2, &[(0, 1)], SECOND);
        let mut lost = 0;
        for _ in 0..1 + DEATHS_IN_A_ROW_MAX {
            die(&mut machine);
            for effect in machine.effects() {
                if let WorkerEffect::Lost { count, .. } = effect {
                    lost += count;
                }
            }
        }
        assert_eq!(lost, 1000);
        assert_eq!(machine.flying.front().map(|part| part.job), Some(2));
    }

    #[test]
    fn pauses_between_starts_grow_and_end_growing() {
        let mut machine = WorkerMachine::new(SECOND);
        let mut now = Duration::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            machine.tick(now);
            machine.ended(ended(), now);
            pauses.push(machine.wake_at().unwrap() - now);
            now = machine.wake_at().unwrap();
        }
        assert_eq!(pauses[..3], [1, 2, 4].map(|n| RESTART_FIRST * n));
        assert_eq!(pauses[11], RESTART_LAST);
    }

    #[test]
    fn a_job_is_refused_when_the_worker_does_not_start() {
        let mut machine = WorkerMachine::new(SECOND);
        machine.tick(Duration::ZERO);
        machine.submit(1, &[(0, 2)], Duration::ZERO);
        machine.effects();
        machine.tick(START_TIMEOUT);
        assert_eq!(machine.effects(), [WorkerEffect::Kill]);
        machine.ended(ended(), START_TIMEOUT);
        let refused = WorkerEffect::Refused {
            job: 1,
            death: WorkerDeath::StartTimeout,
        };
        assert_eq!(machine.effects(), [refused]);
    }

    #[test]
    fn a_batch_has_its_own_time_limit() {
        let mut machine = ready(2);
        machine.submit(1, &[(0, 1)], SECOND);
        machine.submit(2, &[(0, 1)], SECOND);
        machine.effects();
        assert_eq!(machine.wake_at(), Some(2 * SECOND));
        machine.answered(SECOND * 3 / 2);
        machine.effects();
        assert_eq!(machine.wake_at(), Some(SECOND * 5 / 2));
        machine.tick(2 * SECOND);
        assert_eq!(machine.effects(), []);
        machine.tick(SECOND * 5 / 2);
        assert_eq!(machine.effects(), [WorkerEffect::Kill]);
        machine.ended(ended(), 3 * SECOND);
        machine.tick(4 * SECOND);
        machine.ready(PROTOCOL_VERSION, 1, 4 * SECOND);
        machine.effects();
        machine.tick(5 * SECOND);
        machine.ended(ended(), 5 * SECOND);
        let lost = WorkerEffect::Lost {
            job: 2,
            first: 0,
            count: 1,
            death: WorkerDeath::Timeout(SECOND),
        };
        assert_eq!(
            machine.effects(),
            [WorkerEffect::Kill, lost, WorkerEffect::Done { job: 2 }]
        );
    }

    #[test]
    fn an_idle_worker_is_asked_whether_it_is_there() {
        let mut machine = ready(1);
        machine.tick(HEARTBEAT_EVERY);
        assert_eq!(machine.effects(), [WorkerEffect::Ping]);
        machine.pong(HEARTBEAT_EVERY);
        machine.tick(HEARTBEAT_EVERY + SECOND);
        assert_eq!(machine.effects(), []);
        machine.tick(2 * HEARTBEAT_EVERY);
        assert_eq!(machine.effects(), [WorkerEffect::Ping]);
        machine.tick(2 * HEARTBEAT_EVERY + SECOND);
        assert_eq!(machine.effects(), [WorkerEffect::Kill]);
    }

    #[test]
    fn it_stops_when_its_work_is_done() {
        let mut machine = ready(1);
        machine.submit(1, &[(0, 1)], SECOND);
        machine.submit(2, &[(0, 1)], SECOND);
        machine.stop(SECOND);
        machine.answered(SECOND);
        machine.answered(SECOND);
        let effects = machine.effects();
        assert_eq!(effects.last(), Some(&WorkerEffect::Stop));
        assert!(!machine.is_over());
        machine.ended(ended(), SECOND);
        assert!(machine.is_over());
        // One that does not start has nothing to finish.
        let mut machine = WorkerMachine::new(SECOND);
        machine.stop(SECOND);
        assert!(machine.is_over());
    }

    #[test]
    fn another_protocol_is_refused() {
        let mut machine = WorkerMachine::new(SECOND);
        machine.tick(Duration::ZERO);
        machine.submit(1, &[(0, 1)], SECOND);
        machine.ready(PROTOCOL_VERSION + 1, 1, Duration::ZERO);
        machine.ended(ended(), Duration::ZERO);
        let refused = WorkerEffect::Refused {
            job: 1,
            death: WorkerDeath::Protocol(PROTOCOL_VERSION + 1),
        };
        assert_eq!(
            machine.effects(),
            [WorkerEffect::Spawn, WorkerEffect::Kill, refused]
        );
    }
}
