//! The processes that a benchmark measures: this binary on a data folder of its own, and peers.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::load;
use super::report::Row;

/// A server under test; ended, and its folder removed, when dropped.
pub struct Process {
    /// Where it speaks MQTT.
    pub mqtt: SocketAddr,
    /// Where it speaks AMQP 0-9-1.
    pub amqp: SocketAddr,
    /// Where it speaks HTTP.
    pub http: Option<SocketAddr>,
    child: Child,
    folder: PathBuf,
    /// Of RabbitMQ: the port of the name server that Erlang has started for it. Both have processes of their own.
    names: Option<u16>,
}

/// A server that does not answer within this time has failed to start.
pub const START_MAX: Duration = Duration::from_secs(30);
/// How long a server with processes of its own may take to stop.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Idle memory is read after this much idling.
const IDLE: Duration = Duration::from_secs(3);

impl Process {
    /// Starts this binary with a project, on free ports and an empty data folder.
    ///
    /// # Errors
    /// When it does not accept connections within [`START_MAX`]; says what it printed.
    pub fn busbar(project: &Path) -> Result<Process, String> {
        let program =
            std::env::current_exe().map_err(|why| format!("cannot find this program: {why}"))?;
        let (mqtt, http, amqp) = (free_address()?, free_address()?, free_address()?);
        let folder = fresh_folder("node")?;
        let mut command = Command::new(program);
        command
            .arg("run")
            .arg(project)
            .env("BUSBAR_DATA_DIR", folder.join("data"))
            .env("BUSBAR_AMQP_LISTEN", amqp.to_string())
            .env("BUSBAR_MQTT_LISTEN", mqtt.to_string())
            .env("BUSBAR_HTTP_LISTEN", http.to_string());
        let mut process = Process::start(command, mqtt, Some(http), folder)?;
        process.amqp = amqp;
        Ok(process)
    }

    /// Starts Mosquitto as Debian packages it, when it is installed.
    ///
    /// # Errors
    /// When it is installed but does not start.
    pub fn mosquitto() -> Result<Option<Process>, String> {
        let program = [
            "/usr/sbin/mosquitto",
            "/usr/local/sbin/mosquitto",
            "/usr/bin/mosquitto",
        ]
        .into_iter()
        .find(|path| Path::new(path).exists());
        let Some(program) = program else {
            eprintln!("mosquitto is not installed here, so it is not measured");
            return Ok(None);
        };
        let mqtt = free_address()?;
        let folder = fresh_folder("mosquitto")?;
        let settings = folder.join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n",
            mqtt.port()
        );
        std::fs::write(&settings, text)
            .map_err(|why| format!("cannot write {}: {why}", settings.display()))?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&settings);
        Process::start(command, mqtt, None, folder).map(Some)
    }

    /// Starts RabbitMQ as Debian packages it, when it is installed, on a port and a folder of its own.
    ///
    /// # Errors
    /// When it is installed but does not start.
    pub fn rabbitmq() -> Result<Option<Process>, String> {
        let program = Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
        if !program.exists() {
            eprintln!("rabbitmq-server is not installed here, so it is not measured");
            return Ok(None);
        }
        let (amqp, distribution, names) = (free_address()?, free_address()?, free_address()?);
        let folder = fresh_folder("rabbitmq")?;
        let plugins = folder.join("plugins");
        std::fs::write(&plugins, "[rabbitmq_amqp1_0].\n")
            .map_err(|why| format!("cannot write {}: {why}", plugins.display()))?;
        let mut command = Command::new(program);
        command
            .process_group(0)
            .env("HOME", &folder)
            .env("ERL_EPMD_PORT", names.port().to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env(
                "RABBITMQ_NODENAME",
                format!("bench{}@localhost", std::process::id()),
            )
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", amqp.port().to_string())
            .env("RABBITMQ_DIST_PORT", distribution.port().to_string())
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", plugins)
            .env("RABBITMQ_CONFIG_FILE", folder.join("none"));
        let up = |_: SocketAddr| super::amqp::answers(amqp);
        Process::start_when(command, amqp, None, folder, Some(names.port()), up).map(Some)
    }

    fn start(
        command: Command,
        mqtt: SocketAddr,
        http: Option<SocketAddr>,
        folder: PathBuf,
    ) -> Result<Process, String> {
        let is_up = |address| load::connect(address, "bench-probe").is_ok();
        Process::start_when(command, mqtt, http, folder, None, is_up)
    }

    fn start_when(
        mut command: Command,
        mqtt: SocketAddr,
        http: Option<SocketAddr>,
        folder: PathBuf,
        names: Option<u16>,
        is_up: impl Fn(SocketAddr) -> bool,
    ) -> Result<Process, String> {
        let output = folder.join("output");
        let file = std::fs::File::create(&output)
            .map_err(|why| format!("cannot write {}: {why}", output.display()))?;
        let errors = file
            .try_clone()
            .map_err(|why| format!("cannot write {}: {why}", output.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .map_err(|why| format!("cannot start {command:?}: {why}"))?;
        let mut process = Process {
            mqtt,
            amqp: mqtt,
            http,
            child,
            folder,
            names,
        };
        // Erlang takes its time.
        let start_max = if names.is_some() {
            4 * START_MAX
        } else {
            START_MAX
        };
        let begun = Instant::now();
        while !is_up(mqtt) {
            let ended = process.child.try_wait().ok().flatten();
            if ended.is_some() || begun.elapsed() > start_max {
                let said = std::fs::read_to_string(&output).unwrap_or_default();
                return Err(format!("the server did not start: {}", said.trim()));
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        Ok(process)
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn resident_bytes(&self) -> Option<u64> {
        resident_bytes_of(self.child.id())
    }
}

/// The memory that a process holds, in bytes.
pub fn resident_bytes_of(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib = line.split_whitespace().nth(1)?;
    kib.parse::<u64>().ok().map(|kib| kib * 1024)
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(names) = self.names {
            let group = format!("-{}", self.child.id());
            let _ = Command::new("kill").args(["-TERM", "--", &group]).status();
            let begun = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < STOP_MAX {
                std::thread::park_timeout(Duration::from_millis(50));
            }
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            let mut end_names = Command::new("epmd");
            end_names
                .env("ERL_EPMD_PORT", names.to_string())
                .arg("-kill");
            let _ = end_names
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A project without flows in a folder of its own.
pub fn bare_project() -> Result<PathBuf, String> {
    project(&[("busbar.toml", "")])
}

/// Start to first event accepted, and the memory that an idle node holds.
pub fn start_row() -> Result<Row, String> {
    let project = bare_project()?;
    let begun = Instant::now();
    let node = Process::busbar(&project)?;
    load::publish_one(node.mqtt, "bench/start").map_err(|why| format!("first event: {why}"))?;
    let started = begun.elapsed();
    std::thread::park_timeout(IDLE);
    let idle = node
        .resident_bytes()
        .ok_or("the memory of the node could not be read from /proc")?;
    Ok(Row {
        job: super::START,
        who: "busbar".to_owned(),
        connections: 1,
        events_per_second: None,
        latency_ms: None,
        events: 1,
        lost: 0,
        note: Some(format!(
            "first event on disk after {:.2} s; {:.0} MB idle",
            started.as_secs_f64(),
            idle as f64 / 1e6
        )),
    })
}

/// A project with these files, in a folder of its own.
pub fn project(files: &[(&str, &str)]) -> Result<PathBuf, String> {
    let folder = fresh_folder("project")?;
    for (name, text) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(&folder);
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|why| format!("cannot write {}: {why}", path.display()))?;
    }
    Ok(folder)
}

fn fresh_folder(kind: &str) -> Result<PathBuf, String> {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!(
        "busbar-bench-{}-{kind}-{number}",
        std::process::id()
    ));
    std::fs::create_dir_all(&folder)
        .map_err(|why| format!("cannot create {}: {why}", folder.display()))?;
    Ok(folder)
}

pub fn free_address() -> Result<SocketAddr, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|why| format!("no free port on loopback: {why}"))
}
