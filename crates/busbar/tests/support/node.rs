//! A node as a child process, on a project and a data folder of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ports::free_port;

const READY_MAX: Duration = Duration::from_secs(120);

/// A project on disk and the node that runs it; the node is killed when dropped.
pub struct Node {
    pub amqp: SocketAddr,
    pub mqtt: SocketAddr,
    pub http: SocketAddr,
    /// For a gateway that the project declares.
    pub gateway: SocketAddr,
    /// For another one.
    pub gateway2: SocketAddr,
    /// Name and password for requests, once there are users.
    pub login: Option<(&'static str, &'static str)>,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Node {
    /// Writes the project's files; nothing runs yet.
    pub fn new(files: &[(&str, &str)]) -> Node {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let node = Node {
            amqp: free_address(),
            mqtt: free_address(),
            http: free_address(),
            gateway: free_address(),
            gateway2: free_address(),
            login: None,
            folder,
            child: None,
        };
        fs::create_dir_all(node.project()).expect("a project folder");
        node.write("busbar.toml", "");
        for (name, text) in files {
            node.write(name, text);
        }
        node
    }

    pub fn project(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Writes one file of the project.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.project().join(name);
        fs::create_dir_all(path.parent().expect("a file in the project")).expect("a folder");
        fs::write(path, text).expect("a file of the project");
    }

    /// The program with this node's settings in its environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_busbar"));
        command
            .env("BUSBAR_DATA_DIR", self.data())
            .env("BUSBAR_AMQP_LISTEN", self.amqp.to_string())
            .env("BUSBAR_HTTP_LISTEN", self.http.to_string())
            .env("BUSBAR_MQTT_LISTEN", self.mqtt.to_string())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    /// Starts the node and waits until it is ready.
    pub fn start(&mut self) {
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("output"))
            .expect("a file for the output");
        let mut command = self.command();
        command.arg("run").arg(self.project());
        command
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output);
        self.child = Some(command.spawn().expect("the program starts"));
        let begun = Instant::now();
        loop {
            if self.get("/readyz").is_ok() {
                return;
            }
            let child = self.child.as_mut().expect("a child");
            if let Some(status) = child.try_wait().expect("a child to wait for") {
                panic!("the node ended with {status}:\n{}", self.output());
            }
            assert!(
                begun.elapsed() < READY_MAX,
                "the node is not ready:\n{}",
                self.output()
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Kills the node with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child to kill");
            child.wait().expect("a child to wait for");
        }
    }

    /// Bytes of memory that the node holds.
    pub fn memory_bytes(&self) -> u64 {
        let id = self.child.as_ref().expect("a child").id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
        kilobytes
            .and_then(|n| n.parse::<u64>().ok())
            .expect("its memory")
            * 1024
    }

    /// Posts JSON, which must be taken; the login is a name and a password.
    pub fn post_json(&self, path: &str, login: Option<(&str, &str)>, body: &Value) {
        let url = format!("http://{}{path}", self.http);
        let mut request = agent().post(&url);
        if let Some((user, password)) = login {
            request = request.header("authorization", basic(user, password));
        }
        request
            .send_json(body)
            .unwrap_or_else(|why| panic!("POST {path}: {why}"));
    }

    /// Posts a text, which must be taken; the answer.
    pub fn post_text(&self, path: &str, content_type: &str, text: &str) -> String {
        let request = agent().post(format!("http://{}{path}", self.http));
        let answer = request.header("content-type", content_type).send(text);
        let mut answer =
            answer.unwrap_or_else(|why| panic!("POST {path}: {why}\n{}", self.output()));
        let text = answer.body_mut().read_to_string();
        text.unwrap_or_else(|why| panic!("POST {path}: {why}"))
    }

    /// Deletes something that is there.
    pub fn delete(&self, path: &str, (user, password): (&str, &str)) {
        let request = agent()
            .delete(format!("http://{}{path}", self.http))
            .header("authorization", basic(user, password));
        request
            .call()
            .unwrap_or_else(|why| panic!("DELETE {path}: {why}"));
    }

    /// Everything that the node has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.path().join("output")).unwrap_or_default()
    }

    pub fn get(&self, path: &str) -> Result<String, ureq::Error> {
        let agent = agent();
        agent
            .get(format!("http://{}{path}", self.http))
            .call()?
            .body_mut()
            .read_to_string()
    }

    pub fn get_json(&self, path: &str) -> Value {
        let text = self
            .get(path)
            .unwrap_or_else(|why| panic!("GET {path}: {why}"));
        serde_json::from_str(&text).unwrap_or_else(|why| panic!("GET {path}: {why}: {text}"))
    }

    /// The rows of a query.
    pub fn sql(&self, sql: &str) -> Vec<Vec<Value>> {
        let mut request = agent().post(format!("http://{}/api/v1/sql", self.http));
        if let Some((user, password)) = self.login {
            request = request.header("authorization", basic(user, password));
        }
        let mut answer = request
            .send_json(json!({ "sql": sql, "limit": 10_000 }))
            .unwrap_or_else(|why| panic!("{sql}: {why}\n{}", self.output()));
        let mut answer: Value = answer
            .body_mut()
            .with_config()
            .limit(1 << 30)
            .read_json()
            .unwrap_or_else(|why| panic!("{sql}: {why}"));
        assert_ne!(
            answer["truncated"],
            json!(true),
            "{sql}: the answer is cut off"
        );
        serde_json::from_value(answer["rows"].take()).expect("rows of an answer")
    }

    /// The one number that a query gives.
    pub fn count(&self, sql: &str) -> u64 {
        self.sql(sql)[0][0]
            .as_u64()
            .unwrap_or_else(|| panic!("{sql} gives no number"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {text}")
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(READY_MAX))
        .build()
        .into()
}

/// An address on loopback that nothing listens on.
pub fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// Whether anything accepts connections there.
pub fn listens(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

/// A file below a folder, for damaging it.
pub fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}
