//! The process that loads the drivers, shared by all that use one connection, and started again when it has ended.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use busbar_connector::Backoff;
use busbar_event::{Class, Error};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::failure::{DriverDoing, DriverFailed, told};
use super::frame::{DriverFrame, DriverLines, DriverSaid};
use super::hidden::Secrets;
use super::limits::{
    GRACE, HEARTBEAT_EVERY, LOG_LINE_BYTES_MAX, PROTOCOL_VERSION, READ_BYTES, SILENCE_MAX,
    STABLE_AFTER, START_MAX, STOP_MAX,
};

/// What a worker is started with.
#[derive(Clone)]
pub struct DriverLogin {
    /// The folder that paths in the address are relative to.
    pub folder: PathBuf,
    /// The database's address, as errors show it.
    pub url: String,
    pub user: String,
    /// What the database is called, where the address says so.
    pub product: Option<String>,
    /// What the worker is told first: an object of JSON.
    pub start: serde_json::Value,
    /// What no message may show.
    pub secrets: Vec<String>,
    /// The code of the error where no driver takes the address.
    pub none: &'static str,
    /// Finds the program and says how it is started. Blocks.
    pub program: fn(&DriverLogin) -> Result<Command, Error>,
    /// The worker answers through the socket at its input, and its output is a log, because drivers print.
    pub answers_at_input: bool,
    /// Of the worker, in bytes.
    pub memory: u64,
    /// Of a statement.
    pub timeout: Duration,
    pub sessions: usize,
}

impl PartialEq for DriverLogin {
    fn eq(&self, other: &DriverLogin) -> bool {
        // The rest follows from these.
        self.folder == other.folder
            && self.start == other.start
            && (self.memory, self.timeout, self.sessions)
                == (other.memory, other.timeout, other.sessions)
    }
}

/// A worker, as those see it who need sessions.
pub struct DriverWorker {
    pub login: DriverLogin,
    free: Arc<Semaphore>,
    running: tokio::sync::Mutex<DriverRunning>,
}

struct DriverRunning {
    process: Option<Arc<DriverProcess>>,
    since: Instant,
    backoff: Backoff,
    not_before: Instant,
}

/// A process that runs. It is told to end when nobody holds it any more.
pub struct DriverProcess {
    shared: Arc<DriverShared>,
    frames: mpsc::UnboundedSender<Vec<u8>>,
    next: AtomicU64,
}

struct DriverShared {
    secrets: Secrets,
    url: String,
    user: String,
    none: &'static str,
    pending: Mutex<DriverWaiting>,
    /// Told when the process is to be killed; the reason is in `pending`.
    kill: Notify,
    /// What it wrote last to its log.
    last_line: Mutex<String>,
}

#[derive(Default)]
struct DriverWaiting {
    /// Those who wait for an answer. Whoever gave up is still here, so that the answer is not taken for rubbish.
    waiting: HashMap<u64, oneshot::Sender<Result<Box<RawValue>, DriverSaid>>>,
    ready: Option<oneshot::Sender<Result<(), Error>>>,
    over: Option<Error>,
}

impl DriverWorker {
    pub fn new(login: DriverLogin) -> DriverWorker {
        DriverWorker {
            free: Arc::new(Semaphore::new(login.sessions)),
            running: tokio::sync::Mutex::new(DriverRunning {
                process: None,
                since: Instant::now(),
                backoff: Backoff::new(u64::from(std::process::id())),
                not_before: Instant::now(),
            }),
            login,
        }
    }

    /// What errors of a request say of it.
    pub fn doing<'a>(&'a self, table: &'a str, rights: &'a str) -> DriverDoing<'a> {
        DriverDoing {
            url: &self.login.url,
            user: &self.login.user,
            table,
            rights,
            none: self.login.none,
        }
    }

    /// Room for one more connection to the database, and the process that opens it.
    ///
    /// # Errors
    /// *Transient*: all are in use, or the process does not start now. *Configuration*: it cannot start.
    pub async fn place(&self) -> Result<(OwnedSemaphorePermit, Arc<DriverProcess>), Error> {
        let free = Arc::clone(&self.free).acquire_owned();
        let Ok(Ok(permit)) = tokio::time::timeout(self.login.timeout, free).await else {
            return Err(Error::new(Class::Transient, "driver.sessions")
                .with("url", &self.login.url)
                .with("most", self.login.sessions));
        };
        Ok((permit, self.process().await?))
    }

    async fn process(&self) -> Result<Arc<DriverProcess>, Error> {
        let mut running = self.running.lock().await;
        if let Some(process) = &running.process {
            if !process.is_over() {
                return Ok(Arc::clone(process));
            }
            match running.since.elapsed() > STABLE_AFTER {
                true => running.backoff.reset(),
                false => running.not_before = Instant::now() + running.backoff.pause(),
            }
            running.process = None;
        }
        tokio::time::sleep_until(running.not_before).await;
        match DriverProcess::start(&self.login).await {
            Ok(process) => {
                running.since = Instant::now();
                running.process = Some(Arc::clone(&process));
                Ok(process)
            }
            Err(error) => {
                running.not_before = Instant::now() + running.backoff.pause();
                Err(error)
            }
        }
    }
}

impl DriverProcess {
    async fn start(login: &DriverLogin) -> Result<Arc<DriverProcess>, Error> {
        let of = login.clone();
        let found = tokio::task::spawn_blocking(move || (of.program)(&of));
        let mut command = found.await.map_err(|why| {
            let error = Error::new(Class::Transient, "driver.not-started");
            error.with("program", "-").caused_by(why)
        })??;
        let program = command.get_program().to_owned();
        let failed = |why: std::io::Error| {
            Error::new(Class::Transient, "driver.not-started")
                .with("program", program.display())
                .caused_by(why)
        };
        let (ours, theirs) = pair().map_err(failed)?;
        let (log, theirs_log) = pair().map_err(failed)?;
        let child = spawn(&mut command, login, theirs, theirs_log).map_err(failed)?;
        let (ready, started) = oneshot::channel();
        let shared = Arc::new(DriverShared {
            secrets: Secrets::of(&login.secrets),
            none: login.none,
            url: login.url.clone(),
            user: login.user.clone(),
            pending: Mutex::new(DriverWaiting {
                ready: Some(ready),
                ..DriverWaiting::default()
            }),
            kill: Notify::new(),
            last_line: Mutex::default(),
        });
        // Bounded by those who send: a session has one request under way, and a worker that does not answer pings is ended.
        let (frames, outgoing) = mpsc::unbounded_channel();
        // Before anything else can be sent: a ping that came first would be taken for it.
        let head = format!(r#"{{"type":"start","protocol":{PROTOCOL_VERSION},"#);
        let mut start = head.into_bytes();
        start.extend_from_slice(
            login
                .start
                .to_string()
                .as_bytes()
                .get(1..)
                .unwrap_or_default(),
        );
        start.push(b'\n');
        // The receiver is here.
        let _ = frames.send(start);
        let (read, write) = ours.into_split();
        tokio::spawn(Arc::clone(&shared).log(log));
        tokio::spawn(Arc::clone(&shared).send(write, outgoing));
        tokio::spawn(Arc::clone(&shared).read(read, child, frames.downgrade()));
        let process = DriverProcess {
            shared,
            frames,
            next: AtomicU64::new(1),
        };
        let ended = || process.shared.reason();
        match tokio::time::timeout(START_MAX, started).await {
            Ok(Ok(Ok(()))) => Ok(Arc::new(process)),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(ended()),
            Err(_) => {
                let error = Error::new(Class::Transient, "driver.start-slow");
                process
                    .shared
                    .kill(error.with("seconds", START_MAX.as_secs()));
                Err(ended())
            }
        }
    }

    pub fn is_over(&self) -> bool {
        self.shared.pending.lock().over.is_some()
    }

    /// A number that no other session has.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn send(&self, mut frame: Vec<u8>) {
        frame.push(b'\n');
        // Where the process has ended, whoever waits for its answer is told.
        let _ = self.frames.send(frame);
    }

    /// Tells that a session is not used any more, and whether its connection may be used for another one.
    pub fn close(&self, session: u64, again: bool) {
        let frame = format!(r#"{{"type":"close","session":{session},"again":{again}}}"#);
        self.send(frame.into_bytes());
    }

    /// Has a session do something; the request is an object of JSON, and the answer is one.
    ///
    /// # Errors
    /// What the database says, or that the process is lost: it is killed when it takes longer than the time of a statement
    /// and some more.
    pub async fn ask(
        &self,
        session: u64,
        request: &[u8],
        timeout: Duration,
    ) -> Result<Box<RawValue>, DriverFailed> {
        let id = self.number();
        let (told, answer) = oneshot::channel();
        {
            let mut pending = self.shared.pending.lock();
            if let Some(over) = &pending.over {
                return Err(over.clone().into());
            }
            pending.waiting.insert(id, told);
        }
        let millis = timeout.as_millis();
        let head =
            format!(r#"{{"type":"ask","id":{id},"session":{session},"deadline_ms":{millis},"#);
        let mut frame = head.into_bytes();
        frame.extend_from_slice(request.get(1..).unwrap_or_default());
        self.send(frame);
        match tokio::time::timeout(timeout + GRACE, answer).await {
            Ok(Ok(Ok(result))) => Ok(result),
            Ok(Ok(Err(said))) => Err(DriverFailed::Said(said)),
            Ok(Err(_)) => Err(self.shared.reason().into()),
            Err(_) => {
                let error = Error::new(Class::Transient, "driver.hangs");
                self.shared.kill(
                    error
                        .with("url", &self.shared.url)
                        .with("seconds", (timeout + GRACE).as_secs()),
                );
                Err(self.shared.reason().into())
            }
        }
    }

    /// Ends it because of an answer that cannot be true.
    pub fn rubbish(&self) -> Error {
        self.shared.kill(rubbish());
        self.shared.reason()
    }
}

/// When it goes, whoever waits for the process sees why it has ended.
struct DriverOver(Arc<DriverShared>);

impl Drop for DriverOver {
    fn drop(&mut self) {
        let mut pending = self.0.pending.lock();
        let stopped = || Error::new(Class::Transient, "driver.stopped");
        pending.over.get_or_insert_with(stopped);
        pending.waiting.clear();
        pending.ready = None;
    }
}

fn rubbish() -> Error {
    Error::new(Class::Transient, "driver.rubbish")
}

fn pair() -> std::io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// Starts the program. Whatever is secret goes through its input, for everybody can read the words of its command line.
fn spawn(
    command: &mut Command,
    login: &DriverLogin,
    socket: OwnedFd,
    log: OwnedFd,
) -> std::io::Result<Child> {
    command
        .current_dir(&login.folder)
        .env_clear()
        .env("LANG", "C.UTF-8")
        .env("TZ", "UTC");
    for name in INHERITED {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let output = match login.answers_at_input {
        true => log.try_clone()?,
        false => socket.try_clone()?,
    };
    command
        .stdin(Stdio::from(socket))
        .stdout(Stdio::from(output))
        .stderr(Stdio::from(log))
        .spawn()
}

/// Variables of the node that drivers look at.
const INHERITED: [&str; 8] = [
    "PATH",
    "HOME",
    "JAVA_HOME",
    "LD_LIBRARY_PATH",
    "TNS_ADMIN",
    "ORACLE_HOME",
    "ODBCINI",
    "ODBCSYSINI",
];

impl DriverShared {
    fn kill(&self, reason: Error) {
        self.pending.lock().over.get_or_insert(reason);
        self.kill.notify_one();
    }

    /// Why it has ended.
    fn reason(&self) -> Error {
        self.pending.lock().over.clone().unwrap_or_else(rubbish)
    }

    async fn log(self: Arc<Self>, mut from: UnixStream) {
        let (mut line, mut bytes) = (Vec::new(), vec![0; 4096]);
        loop {
            let read = from.read(&mut bytes).await.unwrap_or(0);
            for byte in &bytes[..read] {
                if *byte != b'\n' && line.len() < LOG_LINE_BYTES_MAX {
                    line.push(*byte);
                }
                if *byte == b'\n' {
                    self.note(&mut line);
                }
            }
            if read == 0 {
                return self.note(&mut line);
            }
        }
    }

    fn note(&self, line: &mut Vec<u8>) {
        let text = self.secrets.line(line);
        line.clear();
        if !text.is_empty() {
            tracing::debug!(url = self.url, "driver worker: {text}");
            *self.last_line.lock() = text;
        }
    }

    async fn send(
        self: Arc<Self>,
        mut to: OwnedWriteHalf,
        mut frames: mpsc::UnboundedReceiver<Vec<u8>>,
    ) {
        while let Some(frame) = frames.recv().await {
            if to.write_all(&frame).await.is_err() {
                return;
            }
        }
        // Its input ends, and so does the process, in good order.
        let _ = to.shutdown().await;
        tokio::time::sleep(STOP_MAX).await;
        self.kill(Error::new(Class::Transient, "driver.stopped"));
    }

    async fn read(
        self: Arc<Self>,
        mut from: OwnedReadHalf,
        mut child: Child,
        frames: mpsc::WeakUnboundedSender<Vec<u8>>,
    ) {
        // The task is dropped when its runtime ends; whoever waits on another one has to hear of it.
        let _over = DriverOver(Arc::clone(&self));
        let mut lines = DriverLines::default();
        let mut heartbeat = tokio::time::interval(HEARTBEAT_EVERY);
        let mut heard = Instant::now();
        let reason = loop {
            lines.buffer().reserve(READ_BYTES);
            tokio::select! {
                read = from.read_buf(lines.buffer()) => match read {
                    Ok(1..) => heard = Instant::now(),
                    Ok(0) | Err(_) => break None,
                },
                () = self.kill.notified() => break None,
                _ = heartbeat.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        let error = Error::new(Class::Transient, "driver.silent");
                        break Some(error.with("seconds", SILENCE_MAX.as_secs()));
                    }
                    if let Some(frames) = frames.upgrade() {
                        let _ = frames.send(b"{\"type\":\"ping\"}\n".to_vec());
                    }
                    continue;
                }
            }
            if let Err(reason) = self.take(&mut lines) {
                break Some(reason);
            }
        };
        let _ = child.kill();
        let status = tokio::task::spawn_blocking(move || child.wait()).await;
        // What it wrote last may still be on the way.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let status = match status {
            Ok(Ok(status)) => status.to_string(),
            _ => "-".to_owned(),
        };
        let last = self.last_line.lock().clone();
        let ended = || {
            Error::new(Class::Transient, "driver.ended")
                .with("status", status)
                .with("line", if last.is_empty() { "-" } else { &last })
        };
        let mut pending = self.pending.lock();
        pending
            .over
            .get_or_insert_with(|| reason.unwrap_or_else(ended));
    }

    /// Takes the frames that are whole.
    fn take(&self, lines: &mut DriverLines) -> Result<(), Error> {
        while let Some(line) = lines.next_line().map_err(|()| rubbish())? {
            match DriverFrame::read(&line) {
                Some(DriverFrame::Answer { id, result }) => {
                    let waiting = self.pending.lock().waiting.remove(&id);
                    // An answer to nothing, or the second one.
                    let Some(waiting) = waiting else {
                        return Err(rubbish());
                    };
                    let answer = result.map(RawValue::to_owned).map_err(|mut said| {
                        said.said = self.secrets.said(&said.said);
                        said
                    });
                    // Whoever has given up does not want it any more.
                    let _ = waiting.send(answer);
                }
                Some(DriverFrame::Pong) => {}
                Some(DriverFrame::Ready { protocol }) => {
                    let ready = self.pending.lock().ready.take();
                    match ready {
                        Some(ready) if protocol == PROTOCOL_VERSION => drop(ready.send(Ok(()))),
                        _ => return Err(rubbish()),
                    }
                }
                Some(DriverFrame::Failed(mut said)) => {
                    said.said = self.secrets.said(&said.said);
                    let doing = DriverDoing {
                        url: &self.url,
                        user: &self.user,
                        table: "",
                        rights: "",
                        none: self.none,
                    };
                    return Err(told(&said, doing));
                }
                None => return Err(rubbish()),
            }
        }
        Ok(())
    }
}
