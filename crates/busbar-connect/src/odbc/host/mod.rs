//! The worker with the ODBC drivers: the node's own program, started anew, which loads the driver manager.
//!
//! Drivers are libraries in C. They may crash, leak or hang, which is why they are in no process with anything else: this one
//! may be ended at any time, and what it had not committed is rolled back by the database. It takes requests from the socket
//! at its input and answers there, a line of JSON each, as `driver::frame` says. Each session is one connection with a thread
//! of its own, and has one request at a time.

mod fault;
mod handle;
mod kind;
mod library;
mod limits;
mod moment;
mod parameters;
mod rows;
mod session;
mod tables;
mod write;

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::Deserialize;

use crate::driver::limits::PROTOCOL_VERSION;
use fault::OdbcFault;
use handle::{OdbcEnvironment, OdbcRunning};
use library::OdbcLibrary;
use limits::{END_MILLIS, OWN_BYTES, REQUEST_BYTES_MAX, STACK_BYTES};
use rows::json;
use session::{OdbcSession, OdbcTarget};

/// The argument by which the program becomes this worker.
pub const ODBC_HOST: &str = "odbc_host";

#[derive(Deserialize)]
struct OdbcStart {
    /// The driver manager's file.
    library: String,
    /// What the manager finds the driver and the database by, with the password.
    connection: String,
    /// What the database is called, where the address says so.
    product: Option<String>,
    /// Bytes of memory for the drivers.
    memory: u64,
    sessions: u64,
}

/// A frame of the node, as far as this thread reads it.
#[derive(Deserialize)]
struct OdbcHead<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default)]
    id: u64,
    #[serde(default)]
    session: u64,
    #[serde(default)]
    deadline_ms: u64,
    #[serde(borrow, rename = "do", default)]
    what: Cow<'a, str>,
}

/// What a session is asked for.
struct OdbcAsk {
    id: u64,
    what: String,
    frame: Vec<u8>,
    deadline: Duration,
}

/// A session's thread.
struct OdbcWorker {
    asks: mpsc::Sender<OdbcAsk>,
    running: Arc<OdbcRunning>,
    thread: JoinHandle<()>,
}

/// Runs the worker until the node ends it. The socket to the node is its input.
pub fn run_odbc_host() -> ExitCode {
    let Some(node) = node() else {
        return ExitCode::FAILURE;
    };
    let Ok(input) = node.try_clone() else {
        return ExitCode::FAILURE;
    };
    let mut input = BufReader::with_capacity(256 << 10, input);
    let node: OdbcNode = Arc::new(Mutex::new(node));
    let Some(first) = next_line(&mut input) else {
        return ExitCode::FAILURE;
    };
    let (environment, target) = match start(&first) {
        Ok(started) => started,
        Err(fault) => {
            let mut line = b"{\"type\":\"failed\",\"fault\":".to_vec();
            json(&fault, &mut line);
            send(&node, line);
            return ExitCode::SUCCESS;
        }
    };
    drop(first);
    send(
        &node,
        format!(r#"{{"type":"ready","protocol":{PROTOCOL_VERSION}"#).into_bytes(),
    );
    let mut sessions: HashMap<u64, OdbcWorker> = HashMap::new();
    while let Some(frame) = next_line(&mut input) {
        let Ok(head) = serde_json::from_slice::<OdbcHead<'_>>(&frame) else {
            break;
        };
        let (kind, number, what) = (head.kind.into_owned(), head.session, head.what.into_owned());
        let (id, deadline) = (head.id, Duration::from_millis(head.deadline_ms));
        match kind.as_str() {
            "ask" => {
                let worker = match sessions.entry(number) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(place) => match OdbcWorker::start(&environment, &target, &node) {
                        Some(worker) => place.insert(worker),
                        None => break,
                    },
                };
                // A thread that has ended has ended this process.
                let _ = worker.asks.send(OdbcAsk {
                    id,
                    what,
                    frame,
                    deadline,
                });
            }
            "close" => {
                if let Some(worker) = sessions.remove(&number) {
                    worker.running.cancel();
                }
            }
            "ping" => send(&node, b"{\"type\":\"pong\"".to_vec()),
            _ => {}
        }
    }
    // The node has gone, or wants this to end.
    end(sessions)
}

/// Ends sessions in good order, and the process in any case. Nothing that drivers run at the end of a process is run.
fn end(sessions: HashMap<u64, OdbcWorker>) -> ! {
    let until = Instant::now() + Duration::from_millis(END_MILLIS);
    let mut threads = Vec::new();
    for worker in sessions.into_values() {
        worker.running.cancel();
        threads.push(worker.thread);
    }
    while Instant::now() < until && threads.iter().any(|thread| !thread.is_finished()) {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    // SAFETY: the process ends without running anything else.
    unsafe { libc::_exit(0) }
}

/// Where answers go.
type OdbcNode = Arc<Mutex<UnixStream>>;

/// The socket at the process' input, which is nobody else's from now on: what drivers read is empty, and what they print goes
/// to the log.
fn node() -> Option<UnixStream> {
    let input: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
    let socket = UnixStream::from(input);
    socket.peer_addr().ok()?;
    let nothing = std::fs::File::open("/dev/null").ok()?;
    // SAFETY: all of these are open files of this process.
    let moved = unsafe { libc::dup2(nothing.as_raw_fd(), 0) >= 0 && libc::dup2(2, 1) >= 0 };
    moved.then_some(socket)
}

fn next_line(input: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let most = REQUEST_BYTES_MAX as u64 + 1;
    input
        .by_ref()
        .take(most)
        .read_until(b'\n', &mut line)
        .ok()?;
    (line.pop() == Some(b'\n')).then_some(line)
}

/// Sends a frame, an object of JSON without its end.
fn send(node: &OdbcNode, mut frame: Vec<u8>) {
    frame.extend_from_slice(b"}\n");
    if node.lock().write_all(&frame).is_err() {
        // The node has gone.
        // SAFETY: the process ends without running anything else.
        unsafe { libc::_exit(1) }
    }
}

/// Loads the driver manager, within the memory that there is for drivers.
fn start(frame: &[u8]) -> Result<(Arc<OdbcEnvironment>, Arc<OdbcTarget>), OdbcFault> {
    let start: OdbcStart =
        serde_json::from_slice(frame).map_err(|why| OdbcFault::new("worker", why.to_string()))?;
    let stacks = start
        .sessions
        .saturating_add(2)
        .saturating_mul(STACK_BYTES as u64);
    let memory = start
        .memory
        .saturating_add(stacks)
        .saturating_add(OWN_BYTES)
        .saturating_add(data_bytes());
    limit(libc::RLIMIT_DATA, memory);
    // The memory of a process that has crashed would be a file with the password.
    limit(libc::RLIMIT_CORE, 0);
    let name = CString::new(start.library.as_str())
        .map_err(|_| OdbcFault::new("library", start.library.replace('\0', "")))?;
    let library =
        OdbcLibrary::load(&name).map_err(|missing| OdbcFault::new("library", missing.library))?;
    let environment = Arc::new(OdbcEnvironment::new(library)?);
    let target = OdbcTarget {
        string: start.connection.encode_utf16().collect(),
        product: start.product.unwrap_or_default(),
    };
    Ok((environment, Arc::new(target)))
}

/// Data of this process: what the program's allocator has reserved for itself, which may be a gigabyte, is none of the drivers'.
fn data_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.map_or(0, |kilobytes| kilobytes.saturating_mul(1024))
}

fn limit(resource: libc::__rlimit_resource_t, most: u64) {
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: the limit is valid for the call. One that is higher than what the process has is refused, and that one stays.
    let _ = unsafe { libc::setrlimit(resource, &raw const limit) };
}

impl OdbcWorker {
    fn start(
        environment: &Arc<OdbcEnvironment>,
        target: &Arc<OdbcTarget>,
        node: &OdbcNode,
    ) -> Option<OdbcWorker> {
        let (asks, incoming) = mpsc::channel::<OdbcAsk>();
        let running = Arc::new(OdbcRunning::default());
        let (environment, target) = (Arc::clone(environment), Arc::clone(target));
        let (node, of_session) = (Arc::clone(node), Arc::clone(&running));
        let thread = Builder::new().stack_size(STACK_BYTES).spawn(move || {
            let _ends = OdbcEnd;
            let mut session = OdbcSession::new(environment, target, Arc::clone(&of_session));
            for ask in incoming {
                answer(&mut session, &ask, &of_session, &node);
            }
        });
        Some(OdbcWorker {
            asks,
            running,
            thread: thread.ok()?,
        })
    }
}

/// Ends the process with a thread that panics: nobody would answer what its session is asked for.
struct OdbcEnd;

impl Drop for OdbcEnd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // SAFETY: the process ends without running anything else.
            unsafe { libc::_exit(101) }
        }
    }
}

/// Does what a session is asked for, and answers.
fn answer(session: &mut OdbcSession, ask: &OdbcAsk, running: &Arc<OdbcRunning>, node: &OdbcNode) {
    let mut line = format!(r#"{{"type":"answer","id":{},"result":"#, ask.id).into_bytes();
    let head = line.len() - "\"result\":".len();
    running.begin();
    let seconds = usize::try_from(ask.deadline.as_secs())
        .unwrap_or(usize::MAX)
        .max(1);
    let deadline = OdbcDeadline::set(ask.deadline, running);
    let answered = session.answer(&ask.what, &ask.frame, seconds, &mut line);
    drop(deadline);
    if let Err(mut fault) = answered {
        if running.is_late() {
            fault = OdbcFault::new("timeout", fault.said);
        }
        line.truncate(head);
        line.extend_from_slice(b"\"fault\":");
        json(&fault, &mut line);
    }
    send(node, line);
}

/// A request's deadline, after which its statement is given up. It is over when it is dropped.
struct OdbcDeadline(u64);

/// Those that are set, by number, and the thread that waits for them.
#[derive(Default)]
struct OdbcClock {
    deadlines: Mutex<OdbcDeadlines>,
    changed: Condvar,
}

#[derive(Default)]
struct OdbcDeadlines {
    /// The last number.
    last: u64,
    all: HashMap<u64, (Instant, Arc<OdbcRunning>)>,
}

fn clock() -> &'static OdbcClock {
    static CLOCK: OnceLock<OdbcClock> = OnceLock::new();
    CLOCK.get_or_init(|| {
        // The node kills the process where this thread is missing.
        let _ = Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(|| clock().run());
        OdbcClock::default()
    })
}

impl OdbcClock {
    fn run(&self) {
        let mut deadlines = self.deadlines.lock();
        loop {
            let now = Instant::now();
            let late: Vec<u64> = deadlines
                .all
                .iter()
                .filter(|(_, (at, _))| *at <= now)
                .map(|(number, _)| *number)
                .collect();
            let late: Vec<_> = late
                .iter()
                .filter_map(|number| deadlines.all.remove(number))
                .collect();
            if !late.is_empty() {
                // Requests begin and end while drivers give statements up.
                parking_lot::MutexGuard::unlocked(&mut deadlines, || {
                    late.iter().for_each(|(_, running)| running.cancel_late());
                });
                continue;
            }
            let next = deadlines.all.values().map(|(at, _)| *at).min();
            match next {
                Some(at) => drop(self.changed.wait_until(&mut deadlines, at)),
                None => self.changed.wait(&mut deadlines),
            }
        }
    }
}

impl OdbcDeadline {
    fn set(after: Duration, running: &Arc<OdbcRunning>) -> OdbcDeadline {
        let clock = clock();
        let mut deadlines = clock.deadlines.lock();
        deadlines.last += 1;
        let number = deadlines.last;
        let at = Instant::now()
            .checked_add(after)
            .unwrap_or_else(Instant::now);
        deadlines.all.insert(number, (at, Arc::clone(running)));
        clock.changed.notify_one();
        OdbcDeadline(number)
    }
}

impl Drop for OdbcDeadline {
    fn drop(&mut self) {
        clock().deadlines.lock().all.remove(&self.0);
    }
}
