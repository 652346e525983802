//! Real peers on loopback: a small HTTP server, and mosquitto.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::ports::free_port;
use crate::world::{PATIENCE, rest};

/// What an HTTP server was sent.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// What was answered.
    pub status: u16,
}

impl Request {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Status, extra headers and body for a request; `None` closes the connection without a word.
pub type Answer = Option<(u16, &'static str, Vec<u8>)>;
type Answering = Box<dyn FnMut(&Request) -> Answer + Send>;

/// An HTTP server whose answers a test decides.
pub struct Web {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    requests: Mutex<Vec<Request>>,
    answer: Mutex<Answering>,
    connections: Mutex<usize>,
    closed: AtomicBool,
}

impl Web {
    pub fn new() -> Web {
        Web::on(free_port())
    }

    pub fn on(port: u16) -> Web {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let state = Arc::new(State {
            requests: Mutex::default(),
            answer: Mutex::new(Box::new(|_| Some((200, "", b"taken".to_vec())))),
            connections: Mutex::new(0),
            closed: AtomicBool::new(false),
        });
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.closed.load(Ordering::SeqCst) {
                    return;
                }
                *serving.connections.lock() += 1;
                let state = Arc::clone(&serving);
                std::thread::spawn(move || state.serve(stream));
            }
        });
        Web { port, state }
    }

    pub fn answer(&self, answer: impl FnMut(&Request) -> Answer + Send + 'static) {
        *self.state.answer.lock() = Box::new(answer);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().clone()
    }

    /// How often somebody connected.
    pub fn connections(&self) -> usize {
        *self.state.connections.lock()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl State {
    fn serve(&self, stream: TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut out = stream.try_clone().ok()?;
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
            let mut words = line.split_whitespace();
            let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
            let mut headers = BTreeMap::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok()?;
                let Some((name, value)) = line.trim_end().split_once(':') else {
                    break;
                };
                headers.insert(name.to_lowercase(), value.trim().to_owned());
            }
            let length = headers.get("content-length").and_then(|n| n.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            reader.read_exact(&mut body).ok()?;
            if self.closed.load(Ordering::SeqCst) {
                return None;
            }
            let mut request = Request {
                method,
                path,
                headers,
                body,
                status: 0,
            };
            let answer = (self.answer.lock())(&request);
            request.status = answer.as_ref().map_or(0, |(status, ..)| *status);
            self.requests.lock().push(request);
            let (status, more, body) = answer?;
            let head = format!(
                "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n{more}\r\n",
                body.len()
            );
            out.write_all(head.as_bytes()).ok()?;
            out.write_all(&body).ok()?;
        }
    }
}

/// A mosquitto on a port and in a folder of its own, ended with this.
pub struct Broker {
    pub port: u16,
    folder: tempfile::TempDir,
    process: Option<Child>,
}

/// Where Debian puts it.
const MOSQUITTO: &str = "/usr/sbin/mosquitto";

impl Broker {
    pub fn new() -> Broker {
        Broker::with("allow_anonymous true\n")
    }

    /// One with more lines in its configuration.
    pub fn with(more: &str) -> Broker {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let path = folder.path().display();
        let text = format!(
            "listener {port} 127.0.0.1\nuser root\npersistence true\npersistence_location {path}/\n\
             max_queued_messages 0\nlog_dest file {path}/log\n{more}"
        );
        std::fs::write(folder.path().join("conf"), text).expect("a configuration");
        let mut broker = Broker {
            port,
            folder,
            process: None,
        };
        broker.start();
        broker
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn start(&mut self) {
        let process = Command::new(MOSQUITTO)
            .arg("-c")
            .arg(self.path("conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(process.expect("mosquitto is needed: apt-get install mosquitto"));
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "mosquitto does not listen");
            rest(20);
        }
    }

    /// Ends it; what it holds for its sessions it keeps.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let id = process.id().to_string();
            let _ = Command::new("kill").args(["-TERM", &id]).status();
            process.wait().expect("mosquitto ends");
        }
    }

    /// Publishes lines with mosquitto's own client; returns when they are acknowledged.
    pub fn publish(&self, topic: &str, qos: u8, more: &[&str], lines: &[String]) {
        let mut sender = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-t", topic])
            .args(["-q", &qos.to_string(), "-V", "mqttv5", "-l"])
            .args(more)
            .stdin(Stdio::piped())
            .spawn()
            .expect("mosquitto_pub is needed: apt-get install mosquitto-clients");
        let mut text = lines.join("\n");
        text.push('\n');
        let mut stdin = sender.stdin.take().expect("its input");
        stdin.write_all(text.as_bytes()).expect("written");
        drop(stdin);
        assert!(sender.wait().expect("it ends").success());
    }

    /// Listens with mosquitto's own client, in a session that outlives the broker.
    pub fn listen(&self, filter: &str, format: &str) -> Listener {
        Listener::new(self.port, filter, format)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A subscriber whose lines are read as they come.
pub struct Listener {
    process: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    fn new(port: u16, filter: &str, format: &str) -> Listener {
        let mut process = Command::new("stdbuf")
            .args([
                "-oL",
                "mosquitto_sub",
                "-h",
                "127.0.0.1",
                "-p",
                &port.to_string(),
            ])
            .args(["-t", filter, "-q", "2", "-V", "mqttv5", "-F", format, "-d"])
            .args(["-i", "listener", "-c", "-x", "3600"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto_sub is needed: apt-get install mosquitto-clients");
        let out = BufReader::new(process.stdout.take().expect("its output"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let subscribed = Arc::new(AtomicBool::new(false));
        let (taken, told) = (Arc::clone(&lines), Arc::clone(&subscribed));
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if line.starts_with("Subscribed") {
                    told.store(true, Ordering::SeqCst);
                } else if !line.starts_with("Client ") {
                    taken.lock().push(line);
                }
            }
        });
        let until = Instant::now() + PATIENCE;
        while !subscribed.load(Ordering::SeqCst) {
            assert!(Instant::now() < until, "mosquitto_sub does not subscribe");
            rest(10);
        }
        Listener { process, lines }
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    /// The lines once there are so many, and a moment later.
    pub fn wait(&self, count: usize) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        while self.lines.lock().len() < count {
            assert!(
                Instant::now() < until,
                "{} of {count} lines",
                self.lines.lock().len()
            );
            rest(10);
        }
        std::thread::park_timeout(Duration::from_millis(100));
        self.lines()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
