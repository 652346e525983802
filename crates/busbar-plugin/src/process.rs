//! A worker that is a process: what [`WorkerMachine`] decides, done by one thread for each worker.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_event::{Class, Error};
use parking_lot::Mutex;

use crate::columns::{EventColumns, JobColumns};
use crate::columns_answer::ColumnsAnswer;
use crate::frame::{FrameDecoder, ScriptFailure, WorkerFrame};
use crate::host::TableRequest;
use crate::language::Launch;
use crate::limits::{
    ERROR_BYTES_MAX, LOG_LINE_BYTES_MAX, MEMORY_CHECK_EVERY, PIPE_BYTES, READ_BYTES,
};
use crate::log::{LogLevel, cut};
use crate::machine::{WorkerDeath, WorkerEffect, WorkerMachine};
use crate::worker::{PluginShared, Probe, Worked, WorkerJob};

/// A worker process, as those see it who have work for it.
pub(crate) struct ProcessWorker {
    mailbox: Arc<Mailbox>,
    /// Makes Arrow columns of events, where the program asks for them: on the thread that has the work, so that the one of
    /// the worker is free to read its answers.
    columns: Option<Mutex<EventColumns>>,
}

struct Mailbox {
    orders: Mutex<VecDeque<WorkerOrder>>,
    /// A byte in it wakes the thread.
    bell: UnixStream,
}

enum WorkerOrder {
    Work(Box<OpenJob>),
    /// Told when it is ready, or why it does not start.
    Probe(Probe),
    Stop,
}

impl ProcessWorker {
    /// Starts the thread, and with it the process.
    pub fn start(
        index: usize,
        shared: Arc<PluginShared>,
        launch: Launch,
        start_frame: Vec<u8>,
        columns: Option<EventColumns>,
    ) -> Result<ProcessWorker, Error> {
        let failed = |cause: std::io::Error| {
            Error::new(Class::Transient, "plugin.not-started")
                .with("program", launch.program.display())
                .caused_by(cause)
        };
        let (bell, heard) = UnixStream::pair().map_err(failed)?;
        bell.set_nonblocking(true).map_err(failed)?;
        heard.set_nonblocking(true).map_err(failed)?;
        let mailbox = Arc::new(Mailbox {
            orders: Mutex::default(),
            bell,
        });
        let json = columns.as_ref().map(|columns| columns.json().to_vec());
        let supervisor = ProcessSupervisor {
            machine: WorkerMachine::new(shared.bounds.timeout),
            shared,
            index,
            launch: launch.clone(),
            start_frame,
            json,
            mailbox: Arc::clone(&mailbox),
            heard,
            began: Instant::now(),
            process: None,
            jobs: BTreeMap::new(),
            last_job: 0,
            probes: Vec::new(),
            buffer: vec![0; READ_BYTES],
        };
        std::thread::Builder::new()
            .name(format!("plugin-{index}"))
            .spawn(move || supervisor.run())
            .map_err(failed)?;
        Ok(ProcessWorker {
            mailbox,
            columns: columns.map(Mutex::new),
        })
    }

    pub fn work(&self, job: WorkerJob) {
        let mut worked = Worked::default();
        let mut columns = None;
        if let Some(maker) = &self.columns {
            match maker.lock().of(&job.events) {
                Ok((made, rejected)) => {
                    columns = Some(made);
                    let lost = rejected.into_iter();
                    worked.lost = lost.map(|(event, cause)| (event, 1, cause)).collect();
                }
                Err(error) => {
                    let _ = job.reply.send(Err(error));
                    return;
                }
            }
        }
        self.order(WorkerOrder::Work(Box::new(OpenJob {
            job,
            columns,
            worked,
        })));
    }

    pub fn probe(&self, probe: Probe) {
        self.order(WorkerOrder::Probe(probe));
    }

    /// Lets it finish what it was given, and ends it.
    pub fn stop(&self) {
        self.order(WorkerOrder::Stop);
    }

    fn order(&self, order: WorkerOrder) {
        self.mailbox.orders.lock().push_back(order);
        // A full pipe wakes it as well.
        let _ = (&self.mailbox.bell).write(&[1]);
    }
}

struct ProcessSupervisor {
    machine: WorkerMachine,
    shared: Arc<PluginShared>,
    index: usize,
    launch: Launch,
    start_frame: Vec<u8>,
    /// Names of the columns whose text is JSON, where the program takes Arrow columns.
    json: Option<Vec<String>>,
    mailbox: Arc<Mailbox>,
    heard: UnixStream,
    began: Instant,
    process: Option<RunningProcess>,
    jobs: BTreeMap<u64, OpenJob>,
    last_job: u64,
    probes: Vec<Probe>,
    buffer: Vec<u8>,
}

/// A job and what came of it so far.
struct OpenJob {
    job: WorkerJob,
    /// Its events, where the program takes them as Arrow columns.
    columns: Option<JobColumns>,
    worked: Worked,
}

/// An answer of which the Arrow columns follow.
struct AwaitedColumns {
    id: u64,
    bytes: u64,
    failed: Vec<(u32, ScriptFailure)>,
}

struct RunningProcess {
    child: Child,
    input: ChildStdin,
    output: Option<ChildStdout>,
    errors: Option<ChildStderr>,
    /// It takes batches in columns.
    columns: bool,
    /// Frames that the process has not taken yet, and how much of them it has.
    unsent: Vec<u8>,
    sent: usize,
    decoder: FrameDecoder,
    awaited: Option<AwaitedColumns>,
    /// The beginning of a line on standard error.
    line: Vec<u8>,
}

impl ProcessSupervisor {
    fn run(mut self) {
        let mut next_look = Instant::now();
        loop {
            self.take_orders();
            self.machine.tick(self.now());
            self.execute();
            if self.machine.is_over() {
                break;
            }
            if self.machine.is_working() && next_look <= Instant::now() {
                self.check_memory();
                next_look = Instant::now() + MEMORY_CHECK_EVERY;
                self.execute();
            }
            let mut wait = match self.machine.wake_at() {
                Some(at) => at.saturating_sub(self.now()),
                None => Duration::from_secs(3600),
            };
            if self.machine.is_working() {
                wait = wait.min(MEMORY_CHECK_EVERY);
            }
            self.wait(wait);
            self.read_and_write();
            self.execute();
        }
        self.end_process();
        self.shared.workers[self.index].note_memory(0);
        let stopped =
            || Error::new(Class::Transient, "plugin.stopped").with("plugin", &self.shared.name);
        for open in std::mem::take(&mut self.jobs).into_values() {
            let _ = open.job.reply.send(Err(stopped()));
        }
        for order in std::mem::take(&mut *self.mailbox.orders.lock()) {
            match order {
                WorkerOrder::Work(open) => drop(open.job.reply.send(Err(stopped()))),
                WorkerOrder::Probe(probe) => drop(probe.send(Err(stopped()))),
                WorkerOrder::Stop => {}
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn take_orders(&mut self) {
        while let Ok(1..) = (&self.heard).read(&mut [0; 64]) {}
        loop {
            let order = self.mailbox.orders.lock().pop_front();
            match order {
                None => return,
                Some(WorkerOrder::Work(open)) => {
                    self.last_job += 1;
                    let parts = open.job.events.parts();
                    self.jobs.insert(self.last_job, *open);
                    let now = self.now();
                    self.machine.submit(self.last_job, &parts, now);
                }
                Some(WorkerOrder::Probe(probe)) if self.machine.is_ready() => {
                    drop(probe.send(Ok(())))
                }
                Some(WorkerOrder::Probe(probe)) => self.probes.push(probe),
                Some(WorkerOrder::Stop) => {
                    let now = self.now();
                    self.machine.stop(now);
                }
            }
        }
    }

    /// Does what the machine decides until it decides nothing more.
    fn execute(&mut self) {
        loop {
            let effects = self.machine.effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.act(effect);
            }
        }
    }

    fn act(&mut self, effect: WorkerEffect) {
        match effect {
            WorkerEffect::Spawn => match self.spawn() {
                Ok(process) => self.process = Some(process),
                Err(error) => self.ended(WorkerDeath::NotStarted(error)),
            },
            WorkerEffect::Kill => {
                let death = self.end_process();
                if !self.machine.is_over() {
                    self.ended(death);
                }
            }
            WorkerEffect::Send {
                id,
                job,
                first,
                count,
            } => {
                let millis = self.shared.bounds.timeout.as_millis();
                if let (Some(process), Some(open)) = (&mut self.process, self.jobs.get(&job)) {
                    let (out, events) = (&mut process.unsent, &open.job.events);
                    let trial = if events.is_trial() {
                        "\"trial\":true,"
                    } else {
                        ""
                    };
                    let head =
                        format!(r#"{{"type":"batch","id":{id},"deadline_ms":{millis},{trial}"#);
                    out.extend_from_slice(head.as_bytes());
                    if let Some(columns) = &open.columns {
                        match columns.ipc(first, count) {
                            Ok(ipc) => {
                                let rest = format!("\"arrow_bytes\":{}}}\n", ipc.len());
                                out.extend_from_slice(rest.as_bytes());
                                out.extend_from_slice(&ipc);
                            }
                            Err(error) => {
                                self.machine.kill(WorkerDeath::NotStarted(error));
                                return;
                            }
                        }
                    } else if process.columns {
                        out.extend_from_slice(b"\"columns\":");
                        events.write_columns(first, count, out);
                        out.extend_from_slice(b"}\n");
                    } else {
                        out.extend_from_slice(b"\"events\":[");
                        events.write_objects(first, count, out);
                        out.extend_from_slice(b"]}\n");
                    }
                    process.write();
                }
            }
            WorkerEffect::Ping => self.say(b"{\"type\":\"ping\"}\n"),
            WorkerEffect::Stop => self.say(b"{\"type\":\"stop\"}\n"),
            WorkerEffect::Lost {
                job,
                first,
                count,
                death,
            } => {
                let error = death.error(Class::Permanent, &self.shared.name);
                if let Some(open) = self.jobs.get_mut(&job) {
                    open.worked.lost.push((first, count, error));
                }
            }
            WorkerEffect::Refused { job, death } => {
                if let Some(open) = self.jobs.remove(&job) {
                    let error = death.error(Class::Transient, &self.shared.name);
                    let _ = open.job.reply.send(Err(error));
                }
            }
            WorkerEffect::Done { job } => {
                if let Some(open) = self.jobs.remove(&job) {
                    let _ = open.job.reply.send(Ok(open.worked));
                }
            }
        }
    }

    fn say(&mut self, frame: &[u8]) {
        if let Some(process) = &mut self.process {
            process.unsent.extend_from_slice(frame);
            process.write();
        }
    }

    /// The process has ended, or did not start.
    fn ended(&mut self, death: WorkerDeath) {
        let was_ready = self.machine.is_ready();
        let now = self.now();
        let death = self.machine.ended(death, now);
        let name = &self.shared.name;
        let worker = &self.shared.workers[self.index];
        worker.note_memory(0);
        if self.machine.is_over() && matches!(death, WorkerDeath::Ended { .. }) {
            return;
        }
        worker.note_death();
        let error = death.error(Class::Configuration, name);
        self.shared
            .log(self.index, LogLevel::Error, &error.to_string());
        if !was_ready {
            for probe in self.probes.drain(..) {
                let _ = probe.send(Err(error.clone()));
            }
        }
    }

    fn spawn(&mut self) -> Result<RunningProcess, Error> {
        let launch = &self.launch;
        let mut command = Command::new(&launch.program);
        command
            .args(&launch.arguments)
            .current_dir(&launch.folder)
            .env_clear()
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .env("LANG", "C.UTF-8")
            .env("HOME", &launch.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        for name in ["PATH", "TZ", "JAVA_HOME", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let data = launch.bounds_data.then_some(self.shared.bounds.memory);
        // SAFETY: between fork and exec only system calls are made, which allocate nothing and take no lock.
        unsafe {
            command.pre_exec(move || bound(data));
        }
        let failed = |cause: std::io::Error| {
            Error::new(Class::Transient, "plugin.not-started")
                .with("program", launch.program.display())
                .caused_by(cause)
        };
        let mut child = command.spawn().map_err(failed)?;
        let taken = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = taken else {
            return Err(failed(ErrorKind::BrokenPipe.into()));
        };
        for fd in [input.as_raw_fd(), output.as_raw_fd(), errors.as_raw_fd()] {
            if let Err(cause) = set_nonblocking(fd) {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(cause));
            }
        }
        for fd in [input.as_raw_fd(), output.as_raw_fd()] {
            enlarge_pipe(fd);
        }
        self.shared.workers[self.index].note_start(child.id());
        let mut process = RunningProcess {
            child,
            input,
            output: Some(output),
            errors: Some(errors),
            columns: false,
            unsent: self.start_frame.clone(),
            sent: 0,
            decoder: FrameDecoder::new(self.shared.bounds.output),
            awaited: None,
            line: Vec::new(),
        };
        process.write();
        Ok(process)
    }

    /// Ends the process with all that it has started, and reads what it said last.
    fn end_process(&mut self) -> WorkerDeath {
        let Some(mut process) = self.process.take() else {
            return WorkerDeath::Ended {
                status: String::new(),
                last_line: None,
            };
        };
        if let Ok(group) = i32::try_from(process.child.id()) {
            // SAFETY: the child has not been waited for, so that its number, which is that of its group, is its own.
            unsafe {
                libc::kill(-group, libc::SIGKILL);
            }
        }
        let status = match process.child.wait() {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => String::new(),
            },
            Err(cause) => cause.to_string(),
        };
        self.read_errors(&mut process);
        WorkerDeath::Ended {
            status,
            last_line: self.shared.log.last_of(self.index),
        }
    }

    /// Waits until there is something to do.
    fn wait(&self, at_most: Duration) {
        let mut fds = vec![poll_for(self.heard.as_raw_fd(), libc::POLLIN)];
        if let Some(process) = &self.process {
            if process.sent < process.unsent.len() {
                fds.push(poll_for(process.input.as_raw_fd(), libc::POLLOUT));
            }
            let output = process.output.as_ref().map(AsRawFd::as_raw_fd);
            let errors = process.errors.as_ref().map(AsRawFd::as_raw_fd);
            let open = output.into_iter().chain(errors);
            fds.extend(open.map(|fd| poll_for(fd, libc::POLLIN)));
        }
        // A part of a millisecond is a whole one, so that it does not turn in circles until the time has come.
        let millis = at_most.as_micros().div_ceil(1000).min(3_600_000) as i32;
        // SAFETY: the array is valid for the call, and its length is given.
        unsafe {
            libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, millis);
        }
    }

    fn read_and_write(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        process.write();
        self.read_errors(&mut process);
        let mut open = true;
        // Not for ever: others on the mailbox wait too.
        for _ in 0..16 {
            let Some(output) = &mut process.output else {
                break;
            };
            match output.read(&mut self.buffer) {
                Ok(0) => open = false,
                Ok(bytes) => {
                    process.decoder.push(&self.buffer[..bytes]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => open = false,
            }
            break;
        }
        let mut decoder = std::mem::replace(&mut process.decoder, FrameDecoder::new(0));
        self.process = Some(process);
        let read = self.frames(&mut decoder);
        if let Some(process) = &mut self.process {
            process.decoder = decoder;
        }
        if let Err(error) = read {
            self.machine.kill(WorkerDeath::Rubbish(error));
        }
        self.execute();
        if !open && self.process.is_some() {
            let death = self.end_process();
            self.ended(death);
        }
    }

    /// Handles the frames that are complete.
    fn frames(&mut self, decoder: &mut FrameDecoder) -> Result<(), Error> {
        loop {
            let now = self.began.elapsed();
            let awaited = self
                .process
                .as_mut()
                .and_then(|process| process.awaited.take());
            if let Some(awaited) = awaited {
                let Some(ipc) = decoder.next_bytes(awaited.bytes)? else {
                    if let Some(process) = &mut self.process {
                        process.awaited = Some(awaited);
                    }
                    return Ok(());
                };
                self.columns(awaited, ipc, now)?;
                self.execute();
                if self.process.is_none() {
                    return Ok(());
                }
                continue;
            }
            let Some(line) = decoder.next_line()? else {
                return Ok(());
            };
            match WorkerFrame::read(line)? {
                WorkerFrame::Ready {
                    protocol,
                    credit,
                    columns,
                    arrow,
                } => {
                    if self.json.is_some() && !arrow {
                        return Err(Error::new(Class::Permanent, "plugin.no-arrow"));
                    }
                    if let Some(process) = &mut self.process {
                        process.columns = columns;
                    }
                    self.machine.ready(protocol, credit, now);
                    if self.machine.is_ready() {
                        for probe in self.probes.drain(..) {
                            let _ = probe.send(Ok(()));
                        }
                    }
                }
                WorkerFrame::Failed(failure) => self.machine.kill(WorkerDeath::NotLoaded(failure)),
                WorkerFrame::Lacks(library) => {
                    let library = cut(&library, ERROR_BYTES_MAX).to_owned();
                    self.machine.kill(WorkerDeath::Lacks(library));
                }
                WorkerFrame::Columns { id, bytes, failed } => {
                    if let Some(process) = &mut self.process {
                        process.awaited = Some(AwaitedColumns { id, bytes, failed });
                    }
                }
                WorkerFrame::Result { id, events } => {
                    if let Some((job, first, count)) = self.machine.expects(id) {
                        if let Some(open) = self.jobs.get_mut(&job) {
                            open.worked.answers.read(events, first, count)?;
                        }
                        self.machine.answered(now);
                    }
                }
                WorkerFrame::Payloads { id, payloads } => {
                    if let Some((job, first, count)) = self.machine.expects(id) {
                        if let Some(open) = self.jobs.get_mut(&job) {
                            let answers = &mut open.worked.answers;
                            answers.read_payloads(payloads, first, count)?;
                        }
                        self.machine.answered(now);
                    }
                }
                WorkerFrame::Log { level, message } => {
                    self.note_trial();
                    self.shared.said(self.index, level, &message);
                }
                WorkerFrame::Rows { id, request } => {
                    let answer =
                        match serde_json::from_str::<TableRequest<'_>>(request.get()) {
                            Ok(request) => self.shared.rows(&request),
                            Err(cause) => Err(Error::new(Class::Permanent, "plugin.bad-request")
                                .with("cause", cause)),
                        };
                    let frame = match answer {
                        Ok(rows) => format!("{{\"type\":\"rows\",\"id\":{id},\"rows\":{rows}}}\n"),
                        Err(error) => {
                            let error = serde_json::Value::from(error.to_string());
                            format!("{{\"type\":\"rows\",\"id\":{id},\"error\":{error}}}\n")
                        }
                    };
                    self.say(frame.as_bytes());
                }
                WorkerFrame::Pong => self.machine.pong(now),
            }
            self.execute();
            if self.process.is_none() {
                return Ok(());
            }
        }
    }

    /// Reads an answer in Arrow columns.
    fn columns(&mut self, answer: AwaitedColumns, ipc: &[u8], now: Duration) -> Result<(), Error> {
        let Some(json) = &self.json else {
            return Err(Error::new(Class::Permanent, "plugin.arrow-unasked"));
        };
        if let Some((job, first, count)) = self.machine.expects(answer.id) {
            if let Some(open) = self.jobs.get_mut(&job) {
                let answer = ColumnsAnswer {
                    ipc,
                    failed: answer.failed,
                    events: &open.job.events,
                    first,
                    count,
                    json,
                    bytes_max: self.shared.bounds.output,
                };
                let bad = answer.read(&mut open.worked.answers)?.into_iter();
                let lost = bad.map(|(event, cause)| (event, 1, cause));
                open.worked.lost.extend(lost);
            }
            self.machine.answered(now);
        }
        Ok(())
    }

    fn note_trial(&self) {
        let job = self.machine.works_on().and_then(|job| self.jobs.get(&job));
        let is_trial = job.is_some_and(|open| open.job.events.is_trial());
        self.shared.workers[self.index].note_trial(is_trial);
    }

    /// Lines on standard error go to the log.
    fn read_errors(&mut self, process: &mut RunningProcess) {
        self.note_trial();
        let mut open = true;
        while let Some(errors) = &mut process.errors {
            match errors.read(&mut self.buffer) {
                Ok(0) => open = false,
                Ok(bytes) => {
                    for byte in &self.buffer[..bytes] {
                        if *byte == b'\n' {
                            self.shared.log_line(self.index, &process.line);
                            process.line.clear();
                        } else if process.line.len() < LOG_LINE_BYTES_MAX {
                            process.line.push(*byte);
                        }
                    }
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => open = false,
            }
            break;
        }
        if !open {
            process.errors = None;
            self.shared.log_line(self.index, &process.line);
            process.line.clear();
        }
    }

    fn check_memory(&mut self) {
        let Some(process) = &self.process else { return };
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", process.child.id()));
        let pages = statm.ok().and_then(|text| {
            let resident = text.split(' ').nth(1)?;
            resident.parse::<u64>().ok()
        });
        let Some(pages) = pages else { return };
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let bytes = pages * u64::try_from(page).unwrap_or(4096);
        self.shared.workers[self.index].note_memory(bytes);
        let limit = self.shared.bounds.memory;
        if bytes > limit {
            self.machine.kill(WorkerDeath::Memory(limit));
        }
    }
}

impl RunningProcess {
    /// Writes what the process takes now.
    fn write(&mut self) {
        while self.sent < self.unsent.len() {
            match self.input.write(&self.unsent[self.sent..]) {
                Ok(0) => break,
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // It has ended, which the other end of its output tells.
                Err(_) => {
                    self.sent = self.unsent.len();
                }
            }
        }
        if self.sent == self.unsent.len() {
            self.unsent.clear();
            self.sent = 0;
        }
    }
}

fn poll_for(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd {
        fd,
        events,
        revents: 0,
    }
}

/// Lets a pipe hold a whole batch, so that neither side waits for the other in the middle of one. Where the system does not
/// allow it, the pipe stays as it is.
fn enlarge_pipe(fd: RawFd) {
    // SAFETY: sets the size of a pipe that is open.
    unsafe {
        libc::fcntl(fd, libc::F_SETPIPE_SZ, PIPE_BYTES);
    }
}

fn set_nonblocking(fd: RawFd) -> std::io::Result<()> {
    // SAFETY: sets a flag of a descriptor that is open.
    let set = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)
    };
    match set {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// WorkerBounds the process that is about to become a worker: it ends with its node, writes no core, and has at most so many
/// bytes of data.
fn bound(data: Option<u64>) -> std::io::Result<()> {
    let limit = |resource, bytes: u64| {
        let limit = libc::rlimit {
            rlim_cur: bytes,
            rlim_max: bytes,
        };
        // SAFETY: the structure is valid for the call.
        match unsafe { libc::setrlimit(resource, &limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    limit(libc::RLIMIT_CORE, 0)?;
    if let Some(bytes) = data {
        limit(libc::RLIMIT_DATA, bytes)?;
    }
    // SAFETY: sets which signal is sent when the thread that has started the process ends.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
