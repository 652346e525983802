//! The process that loads the drivers, shared by all that use one connection, and started again when it has ended.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use busbar_connector::Backoff;
use busbar_event::{Class, Error};
use parking_lot::Mutex;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::failure::{JdbcDoing, JdbcFailed, told};
use super::frame::{JdbcFrame, JdbcLines, JdbcSaid};
use super::java;
use super::limits::{
    GRACE, HEARTBEAT_EVERY, LOG_LINE_BYTES_MAX, PROTOCOL_VERSION, READ_BYTES, SILENCE_MAX,
    STABLE_AFTER, START_MAX, STOP_MAX,
};

/// What a worker is started with.
#[derive(Clone, PartialEq, Eq)]
pub struct JdbcLogin {
    /// The folder that paths in the URL are relative to.
    pub folder: PathBuf,
    pub drivers: Vec<PathBuf>,
    pub class: Option<String>,
    pub url: String,
    pub user: String,
    pub password: Option<String>,
    pub properties: BTreeMap<String, String>,
    /// Of the worker's objects, in bytes.
    pub memory: u64,
    /// Of a statement.
    pub timeout: Duration,
    pub sessions: usize,
}

/// A worker, as those see it who need sessions.
pub struct JdbcWorker {
    pub login: JdbcLogin,
    free: Arc<Semaphore>,
    running: tokio::sync::Mutex<JdbcRunning>,
}

struct JdbcRunning {
    process: Option<Arc<JdbcProcess>>,
    since: Instant,
    backoff: Backoff,
    not_before: Instant,
}

/// A process that runs. It is told to end when nobody holds it any more.
pub struct JdbcProcess {
    shared: Arc<JdbcShared>,
    frames: mpsc::UnboundedSender<Vec<u8>>,
    next: AtomicU64,
}

struct JdbcShared {
    secrets: Vec<String>,
    url: String,
    user: String,
    pending: Mutex<JdbcWaiting>,
    /// Told when the process is to be killed; the reason is in `pending`.
    kill: Notify,
    /// What it wrote last to its log.
    last_line: Mutex<String>,
}

#[derive(Default)]
struct JdbcWaiting {
    /// Those who wait for an answer. Whoever gave up is still here, so that the answer is not taken for rubbish.
    waiting: HashMap<u64, oneshot::Sender<Result<Box<RawValue>, JdbcSaid>>>,
    ready: Option<oneshot::Sender<Result<(), Error>>>,
    over: Option<Error>,
}

impl JdbcWorker {
    pub fn new(login: JdbcLogin) -> JdbcWorker {
        JdbcWorker {
            free: Arc::new(Semaphore::new(login.sessions)),
            running: tokio::sync::Mutex::new(JdbcRunning {
                process: None,
                since: Instant::now(),
                backoff: Backoff::new(u64::from(std::process::id())),
                not_before: Instant::now(),
            }),
            login,
        }
    }

    /// What errors of a request say of it.
    pub fn doing<'a>(&'a self, table: &'a str, rights: &'a str) -> JdbcDoing<'a> {
        JdbcDoing {
            url: &self.login.url,
            user: &self.login.user,
            table,
            rights,
        }
    }

    /// Room for one more connection to the database, and the process that opens it.
    ///
    /// # Errors
    /// *Transient*: all are in use, or the process does not start now. *Configuration*: it cannot start.
    pub async fn place(&self) -> Result<(OwnedSemaphorePermit, Arc<JdbcProcess>), Error> {
        let free = Arc::clone(&self.free).acquire_owned();
        let Ok(Ok(permit)) = tokio::time::timeout(self.login.timeout, free).await else {
            return Err(Error::new(Class::Transient, "jdbc.sessions")
                .with("url", &self.login.url)
                .with("most", self.login.sessions));
        };
        Ok((permit, self.process().await?))
    }

    async fn process(&self) -> Result<Arc<JdbcProcess>, Error> {
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
        match JdbcProcess::start(&self.login).await {
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

impl JdbcProcess {
    async fn start(login: &JdbcLogin) -> Result<Arc<JdbcProcess>, Error> {
        let found = tokio::task::spawn_blocking(|| Ok((java::find("java")?, java::classes()?)));
        let (java, classes) = found.await.map_err(|why| {
            Error::new(Class::Transient, "jdbc.not-started")
                .with("program", "java")
                .caused_by(why)
        })??;
        let failed = |why: std::io::Error| {
            Error::new(Class::Transient, "jdbc.not-started")
                .with("program", java.display())
                .caused_by(why)
        };
        let (ours, theirs) = pair().map_err(failed)?;
        let (log, theirs_log) = pair().map_err(failed)?;
        let child = spawn(login, &java, &classes, theirs, theirs_log).map_err(failed)?;
        let (ready, started) = oneshot::channel();
        let secrets = login.password.iter().chain(login.properties.values());
        let shared = Arc::new(JdbcShared {
            secrets: secrets.filter(|text| text.len() > 3).cloned().collect(),
            url: login.url.clone(),
            user: login.user.clone(),
            pending: Mutex::new(JdbcWaiting {
                ready: Some(ready),
                ..JdbcWaiting::default()
            }),
            kill: Notify::new(),
            last_line: Mutex::default(),
        });
        // Bounded by those who send: a session has one request under way, and a worker that does not answer pings is ended.
        let (frames, outgoing) = mpsc::unbounded_channel();
        // Before anything else can be sent: a ping that came first would be taken for it.
        let mut start = json!({
            "type": "start", "protocol": PROTOCOL_VERSION, "drivers": login.drivers, "class": login.class, "url": login.url,
            "user": Some(&login.user).filter(|user| !user.is_empty()), "password": login.password, "properties": login.properties,
        })
        .to_string()
        .into_bytes();
        start.push(b'\n');
        // The receiver is here.
        let _ = frames.send(start);
        let (read, write) = ours.into_split();
        tokio::spawn(Arc::clone(&shared).log(log));
        tokio::spawn(Arc::clone(&shared).send(write, outgoing));
        tokio::spawn(Arc::clone(&shared).read(read, child, frames.downgrade()));
        let process = JdbcProcess {
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
                let error = Error::new(Class::Transient, "jdbc.start-slow");
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

    /// Tells that a session is not used any more.
    pub fn close(&self, session: u64) {
        self.send(format!(r#"{{"type":"close","session":{session}}}"#).into_bytes());
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
    ) -> Result<Box<RawValue>, JdbcFailed> {
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
            Ok(Ok(Err(said))) => Err(JdbcFailed::Said(said)),
            Ok(Err(_)) => Err(self.shared.reason().into()),
            Err(_) => {
                let error = Error::new(Class::Transient, "jdbc.hangs");
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
struct JdbcOver(Arc<JdbcShared>);

impl Drop for JdbcOver {
    fn drop(&mut self) {
        let mut pending = self.0.pending.lock();
        let stopped = || Error::new(Class::Transient, "jdbc.stopped");
        pending.over.get_or_insert_with(stopped);
        pending.waiting.clear();
        pending.ready = None;
    }
}

fn rubbish() -> Error {
    Error::new(Class::Transient, "jdbc.rubbish")
}

fn pair() -> std::io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// Starts Java. Whatever is secret goes through its input, for everybody can read the words of its command line.
fn spawn(
    login: &JdbcLogin,
    java: &Path,
    classes: &Path,
    socket: OwnedFd,
    log: OwnedFd,
) -> std::io::Result<Child> {
    let mebibytes = login.memory >> 20;
    let mut command = Command::new(java);
    command
        .arg(format!("-Xmx{mebibytes}m"))
        .arg(format!("-XX:MaxDirectMemorySize={}m", mebibytes / 4 + 16))
        .args(["-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"])
        // Its output is for frames.
        .arg("-XX:+DisplayVMOutputToStderr")
        .args(["-Duser.timezone=UTC", "-Dfile.encoding=UTF-8"])
        // Else Derby writes a file into the project's folder.
        .arg("-Dderby.stream.error.field=java.lang.System.err")
        .arg("-cp")
        .arg(classes)
        .arg("busbar.JdbcWorker")
        .current_dir(&login.folder)
        .env_clear()
        .env("LANG", "C.UTF-8");
    for name in ["PATH", "HOME", "JAVA_HOME", "LD_LIBRARY_PATH", "TNS_ADMIN"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .stdin(Stdio::from(socket.try_clone()?))
        .stdout(Stdio::from(socket))
        .stderr(Stdio::from(log))
        .spawn()
}

impl JdbcShared {
    fn kill(&self, reason: Error) {
        self.pending.lock().over.get_or_insert(reason);
        self.kill.notify_one();
    }

    /// Why it has ended.
    fn reason(&self) -> Error {
        self.pending.lock().over.clone().unwrap_or_else(rubbish)
    }

    fn hide(&self, text: &mut String) {
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                *text = text.replace(secret.as_str(), crate::secret::HIDDEN);
            }
        }
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
        let mut text = String::from_utf8_lossy(line).trim().to_owned();
        line.clear();
        self.hide(&mut text);
        if !text.is_empty() {
            tracing::debug!(url = self.url, "JDBC worker: {text}");
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
        self.kill(Error::new(Class::Transient, "jdbc.stopped"));
    }

    async fn read(
        self: Arc<Self>,
        mut from: OwnedReadHalf,
        mut child: Child,
        frames: mpsc::WeakUnboundedSender<Vec<u8>>,
    ) {
        // The task is dropped when its runtime ends; whoever waits on another one has to hear of it.
        let _over = JdbcOver(Arc::clone(&self));
        let mut lines = JdbcLines::default();
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
                        let error = Error::new(Class::Transient, "jdbc.silent");
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
            Error::new(Class::Transient, "jdbc.ended")
                .with("status", status)
                .with("line", if last.is_empty() { "-" } else { &last })
        };
        let mut pending = self.pending.lock();
        pending
            .over
            .get_or_insert_with(|| reason.unwrap_or_else(ended));
    }

    /// Takes the frames that are whole.
    fn take(&self, lines: &mut JdbcLines) -> Result<(), Error> {
        while let Some(line) = lines.next_line().map_err(|()| rubbish())? {
            match JdbcFrame::read(&line) {
                Some(JdbcFrame::Answer { id, result }) => {
                    let waiting = self.pending.lock().waiting.remove(&id);
                    // An answer to nothing, or the second one.
                    let Some(waiting) = waiting else {
                        return Err(rubbish());
                    };
                    let answer = result.map(RawValue::to_owned).map_err(|mut said| {
                        self.hide(&mut said.said);
                        said
                    });
                    // Whoever has given up does not want it any more.
                    let _ = waiting.send(answer);
                }
                Some(JdbcFrame::Pong) => {}
                Some(JdbcFrame::Ready { protocol }) => {
                    let ready = self.pending.lock().ready.take();
                    match ready {
                        Some(ready) if protocol == PROTOCOL_VERSION => drop(ready.send(Ok(()))),
                        _ => return Err(rubbish()),
                    }
                }
                Some(JdbcFrame::Failed(mut said)) => {
                    self.hide(&mut said.said);
                    let doing = JdbcDoing {
                        url: &self.url,
                        user: &self.user,
                        table: "",
                        rights: "",
                    };
                    return Err(told(&said, doing));
                }
                None => return Err(rubbish()),
            }
        }
        Ok(())
    }
}
