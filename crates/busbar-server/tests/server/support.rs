//! A node in this process, and clients for it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use busbar_access::Cost;
use busbar_catalog::{Bundle, Config, Project};
use busbar_server::{Node, NodeOptions, Redeployed, StartError};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_tungstenite::tungstenite::{self, Message as Frame, WebSocket};
use tungstenite::client::IntoClientRequest as _;

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct World {
    pub runtime: Runtime,
    pub folder: tempfile::TempDir,
    node: Option<Node>,
    pub http: SocketAddr,
    pub mqtt: SocketAddr,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }

    /// The code of the error.
    pub fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

pub fn bundle(files: &[(&str, &str)]) -> Bundle {
    let files = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect();
    Bundle { files }
}

pub fn project(files: &[(&str, &str)]) -> Project {
    let (project, diagnostics) = Project::parse(bundle(files));
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    project
}

pub fn config() -> Config {
    let mut config = Config::default();
    config.http.listen = "127.0.0.1:0".into();
    config.mqtt.listen = "127.0.0.1:0".into();
    config.amqp.listen = "127.0.0.1:0".into();
    config
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

pub fn start(
    runtime: &Runtime,
    folder: &std::path::Path,
    config: Config,
    project: Option<Project>,
) -> Result<Node, StartError> {
    runtime.block_on(Node::start(NodeOptions {
        config,
        folder: folder.to_owned(),
        project: project.map(|project| Ok(project.bundle)),
        password_cost: Cost::Least,
    }))
}

impl World {
    pub fn new(files: &[(&str, &str)]) -> World {
        World::with(config(), files)
    }

    pub fn with(config: Config, files: &[(&str, &str)]) -> World {
        let runtime = runtime();
        let folder = tempfile::tempdir().unwrap();
        let node = start(&runtime, folder.path(), config, Some(project(files))).unwrap();
        let http = node.http_address().unwrap();
        let mqtt = mqtt_address(&node);
        World {
            runtime,
            folder,
            node: Some(node),
            http,
            mqtt,
        }
    }

    /// Stops the node in order.
    pub fn stop(&mut self) {
        if let Some(node) = self.node.take() {
            self.runtime.block_on(node.shutdown());
        }
    }

    /// Stops and starts; without a project the newest version goes on.
    pub fn restart(&mut self) {
        self.stop();
        let node = start(&self.runtime, self.folder.path(), config(), None).unwrap();
        self.use_node(node);
    }

    /// Stops and starts with other files in the project's folder.
    pub fn restart_with(&mut self, files: &[(&str, &str)]) -> Result<(), StartError> {
        self.stop();
        let options = NodeOptions {
            config: config(),
            folder: self.folder.path().to_owned(),
            project: Some(Ok(bundle(files))),
            password_cost: Cost::Least,
        };
        let node = self.runtime.block_on(Node::start(options))?;
        self.use_node(node);
        Ok(())
    }

    fn use_node(&mut self, node: Node) {
        self.http = node.http_address().unwrap();
        self.mqtt = mqtt_address(&node);
        self.node = Some(node);
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// Saves files in the project's folder.
    pub fn save(&self, files: &[(&str, &str)]) -> Result<Redeployed, StartError> {
        self.runtime
            .block_on(self.node().save(Ok(bundle(files)), "saved"))
    }

    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut stream = self.send(method, path, headers, body);
        let mut raw = Vec::new();
        // A server that has answered may close before it has read everything we sent.
        let _ = stream.read_to_end(&mut raw);
        let raw = String::from_utf8_lossy(&raw).into_owned();
        let (head, body) = raw
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("{method} {path}: no answer: {raw:?}"));
        let mut lines = head.lines();
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Answer {
            status,
            headers,
            body: body.to_owned(),
        }
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            head.push_str(&format!("host: {}\r\n", self.http));
        }
        if !headers.iter().any(|(name, _)| *name == "content-length") {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(body);
        stream
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    pub fn get_json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "GET {path}: {answer:?}");
        answer.json()
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        let json = ("content-type", "application/json");
        self.request("POST", path, &[json], body.to_string().as_bytes())
    }

    pub fn post_text(&self, path: &str, kind: &str, body: &str) -> Answer {
        self.request("POST", path, &[("content-type", kind)], body.as_bytes())
    }

    /// Publishes one event and expects it to be stored.
    pub fn publish(&self, topic: &str, payload: Value) {
        let answer = self.post(
            "/api/v1/events",
            &serde_json::json!({ "topic": topic, "payload": payload }),
        );
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["accepted"], 1);
    }

    /// Server-sent events.
    pub fn listen(&self, path: &str, headers: &[(&str, &str)]) -> Sse {
        let mut reader = BufReader::new(self.send("GET", path, headers, b""));
        let mut status = String::new();
        reader.read_line(&mut status).unwrap();
        assert!(status.contains(" 200 "), "{path}: {status}");
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
        }
        Sse { reader }
    }

    /// Asks until the answer is as wanted.
    pub fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let value = self.get_json(path);
            if wanted(&value) {
                return value;
            }
            assert!(begun.elapsed() < PATIENCE, "GET {path} stays {value:#}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    pub fn sql(&self, sql: &str) -> Value {
        let answer = self.post("/api/v1/sql", &serde_json::json!({ "sql": sql }));
        assert_eq!(answer.status, 200, "{sql}: {answer:?}");
        answer.json()["rows"].clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One server-sent event.
#[derive(Debug, Default)]
pub struct Message {
    pub kind: String,
    pub id: String,
    pub data: String,
}

impl Message {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

pub struct Sse {
    reader: BufReader<TcpStream>,
}

impl Sse {
    /// The id that comes without an event: where one that takes over would begin.
    pub fn greeting(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.reader.read_line(&mut line).unwrap(), 0, "it ended");
            if let Some(id) = line.strip_prefix("id: ") {
                return id.trim_end().to_owned();
            }
        }
    }

    /// The next event; `None` when the stream has ended. Chunk sizes stand on lines of their own.
    pub fn next(&mut self) -> Option<Message> {
        let mut message = Message::default();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            let line = line.trim_end_matches(['\r', '\n']);
            if let Some(kind) = line.strip_prefix("event: ") {
                message.kind = kind.into();
            } else if let Some(id) = line.strip_prefix("id: ") {
                message.id = id.into();
            } else if let Some(data) = line.strip_prefix("data: ") {
                message.data = data.into();
            } else if line.is_empty() && !message.data.is_empty() {
                return Some(message);
            }
        }
    }
}

/// A WebSocket that speaks the API's frames.
pub struct Socket(pub WebSocket<TcpStream>);

impl Socket {
    pub fn open(world: &World, headers: &[(&'static str, &str)]) -> Result<Socket, String> {
        let stream = TcpStream::connect(world.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = format!("ws://{}/api/v1/ws", world.http)
            .into_client_request()
            .unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        tungstenite::client(request, stream)
            .map(|(socket, _)| Socket(socket))
            .map_err(|why| why.to_string())
    }

    pub fn send(&mut self, frame: Value) {
        self.0.send(Frame::text(frame.to_string())).unwrap();
    }

    pub fn next(&mut self) -> Value {
        loop {
            match self.0.read().unwrap() {
                Frame::Text(text) => return serde_json::from_str(&text).unwrap(),
                Frame::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Where a node speaks MQTT over plain TCP.
fn mqtt_address(node: &Node) -> SocketAddr {
    let all = node.gateways();
    let found = all.iter().find(|(_, a)| a.scheme == "mqtt");
    found.expect("MQTT listens").1.address
}
