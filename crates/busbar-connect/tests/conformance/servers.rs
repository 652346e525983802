//! Real database servers, started once for all tests of the program by `scripts/servers`, each test with a database of
//! its own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::ports::free_port;
use crate::world::{PATIENCE, eventually, rest};

/// A server that runs.
pub struct DatabaseServer {
    what: &'static str,
    pub port: u16,
    pub folder: PathBuf,
}

static DATABASES: AtomicU32 = AtomicU32::new(0);

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/servers")
}

/// Ends with this process, and so do the servers; what they kept is of no use after it.
fn start(what: &'static str) -> DatabaseServer {
    start_with(what, &[])
}

/// The same, with files in its folder.
fn start_with(what: &'static str, files: &[(&str, &[u8])]) -> DatabaseServer {
    server_that_starts(|| start_at(what, "install", free_port(), files))
}

/// The first that starts: a port that was free may have been taken before the server took it, so each try chooses
/// another.
pub fn server_that_starts<T>(mut start: impl FnMut() -> Result<T, String>) -> T {
    let mut whys = Vec::new();
    for _ in 0..5 {
        match start() {
            Ok(server) => return server,
            Err(why) => whys.push(why),
        }
    }
    panic!("no server starts: {whys:.4000?}")
}

/// A Kafka at this port, with files in its folder; what it says where it ends instead.
pub fn start_kafka(port: u16, files: &[(&str, &[u8])]) -> Result<DatabaseServer, String> {
    start_at("kafka", "install-kafka", port, files)
}

fn start_at(
    what: &'static str,
    install: &str,
    port: u16,
    files: &[(&str, &[u8])],
) -> Result<DatabaseServer, String> {
    let installed = Command::new(script()).arg(install).status();
    assert!(
        installed.expect("scripts/servers runs").success(),
        "no {what} here"
    );
    let folder = tempfile::Builder::new().prefix("busbar-server-").tempdir();
    let server = DatabaseServer {
        what,
        port,
        folder: folder.expect("a folder").keep(),
    };
    for (name, text) in files {
        std::fs::write(server.folder.join(name), text).expect("written");
    }
    server.try_start()?;
    Ok(server)
}

impl DatabaseServer {
    /// Starts it again and waits until it answers.
    pub fn start(&self) {
        server_that_starts(|| self.try_start());
    }

    /// Starts it and waits until it answers; what it wrote last where it ends instead.
    fn try_start(&self) -> Result<(), String> {
        let mut script = Command::new(script())
            .args([
                self.what,
                &self.folder.display().to_string(),
                &self.port.to_string(),
            ])
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .spawn()
            .expect("scripts/servers starts");
        eventually("the server", || {
            let ended = script.try_wait().expect("the script is ours");
            if let Some(status) = ended {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                let last = log.lines().rev().filter(|line| !line.starts_with('\t'));
                let last: Vec<_> = last.take(8).collect();
                return Ok(Err(format!("{} ended, {status}: {last:?}", self.what)));
            }
            let answered = match self.what {
                "postgres" => self.client("postgres", "select 1"),
                // Its client ends in good order also where nobody answers.
                "redis" => self
                    .client("", "PING")
                    .and_then(|answer| match answer.as_str() {
                        "PONG" => Ok(answer),
                        _ if answer.contains("NOAUTH") => Ok(answer),
                        _ => Err(answer),
                    }),
                "kafka" => crate::kafka_server::answers(self.port),
                "moto" => self.get("/moto-api/"),
                "clickhouse" => self.get("/ping"),
                "mongodb" | "mongodb-set" => self.client("admin", "c.admin.command('ping')"),
                "sqlserver" => TcpStream::connect(("127.0.0.1", self.port))
                    .map(|_| String::new())
                    .map_err(|why| why.to_string()),
                "cassandra" => crate::cassandra_server::answers(self.port),
                "hapi" => self.get("/fhir/metadata"),
                "elasticsearch" => self.get("/_cluster/health?wait_for_status=yellow&timeout=1s"),
                "hbase" => crate::hbase_server::answers(self.port),
                _ => self.client("", "select 1"),
            };
            answered.map(|_| Ok(()))
        })
    }

    /// What it answers to a request, where it answers well.
    fn get(&self, path: &str) -> Result<String, String> {
        self.request("GET", path, "")
    }

    /// The same with another method and a body.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Result<String, String> {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                self.port,
                body.len()
            );
            stream.write_all(request.as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer: Result<String, std::io::Error> = ask();
        let answer = answer.map_err(|why| why.to_string())?;
        match answer.starts_with("HTTP/1.1 2") {
            true => Ok(answer),
            false => Err(answer),
        }
    }

    /// Whether its process is there.
    pub fn runs(&self) -> bool {
        self.process().is_ok_and(|process| process.exists())
    }

    fn process(&self) -> Result<PathBuf, String> {
        let pid = std::fs::read_to_string(self.folder.join("server.pid"));
        let pid = pid.map_err(|why| format!("server.pid: {why}"))?;
        match pid.trim() {
            "" => Err("server.pid is empty".to_owned()),
            pid => Ok(Path::new("/proc").join(pid)),
        }
    }

    /// The TCP ports on which its process listens.
    pub fn listens(&self) -> Result<Vec<u16>, String> {
        let process = self.process()?;
        // Gone while it is looked at: it listens to nothing.
        let sockets = std::fs::read_dir(process.join("fd")).into_iter().flatten();
        let sockets: Vec<_> = sockets
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .collect();
        let mut ports = Vec::new();
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            // A kernel without IPv6 has no second table.
            let table = std::fs::read_to_string(table).unwrap_or_default();
            for line in table.lines().skip(1) {
                let columns: Vec<_> = line.split_whitespace().collect();
                // Local address, state (0A listens) and inode.
                let [_, local, _, "0A", _, _, _, _, _, inode, ..] = columns[..] else {
                    continue;
                };
                let port = local.rsplit(':').next().unwrap_or_default();
                let port = u16::from_str_radix(port, 16);
                if sockets.contains(&PathBuf::from(format!("socket:[{inode}]"))) {
                    ports.extend(port.ok());
                }
            }
        }
        Ok(ports)
    }

    /// Kills it as a crash does, and waits until it is gone.
    pub fn kill(&self) {
        let pid = std::fs::read_to_string(self.folder.join("server.pid")).expect("it runs");
        let signal = if self.what == "postgres" {
            "-QUIT"
        } else {
            "-KILL"
        };
        let _ = Command::new("kill").args([signal, pid.trim()]).status();
        eventually("its end", || {
            match Path::new(&format!("/proc/{}", pid.trim())).exists() {
                true => Err("it runs".to_owned()),
                false => Ok(()),
            }
        });
        // The script sees it, too.
        rest(700);
    }

    /// Runs statements; what is wrong with them as the client says it.
    pub fn client(&self, database: &str, sql: &str) -> Result<String, String> {
        let port = self.port.to_string();
        let sql = match self.what {
            "mysql8" => with_sequences(sql),
            _ => sql.to_owned(),
        };
        let mut command = match self.what {
            "postgres" => {
                let mut command = Command::new("psql");
                command.args([
                    "-X",
                    "-q",
                    "-A",
                    "-t",
                    "-v",
                    "ON_ERROR_STOP=1",
                    "-h",
                    "127.0.0.1",
                    "-p",
                    &port,
                ]);
                command
                    .args(["-U", "postgres", "-d", database, "-f", "-"])
                    .env("PGPASSWORD", "secret");
                command
            }
            "redis" => {
                let mut command = Command::new("redis-cli");
                command.args(["-e", "--raw", "-p", &port]);
                command
            }
            "mongodb" | "mongodb-set" => {
                let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
                let cache = cache.unwrap_or_else(|| {
                    PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache")
                });
                let python = cache.join("busbar/mongodb-1.47.0/python/bin/python");
                let mut command = Command::new(python);
                let begin = "import sys, bson, datetime, json, pymongo\n\
                             user = open(sys.argv[3]).read().split() if len(sys.argv) > 3 else [None, None]\n\
                             c = pymongo.MongoClient('127.0.0.1', int(sys.argv[1]), directConnection=True, username=user[0], password=user[1])\n\
                             db = c[sys.argv[2]]\n\
                             exec(sys.stdin.read())";
                command.args(["-c", begin, &port, database]);
                let user = self.folder.join("user");
                if user.exists() {
                    command.arg(user);
                }
                command
            }
            _ => {
                let mut command = Command::new("mariadb");
                command.args([
                    "--no-defaults",
                    "-N",
                    "-B",
                    "--default-character-set=utf8mb4",
                    "-h",
                    "127.0.0.1",
                    "-P",
                    &port,
                ]);
                command.args(["-u", "root", database]);
                command
            }
        };
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("the client starts");
        let written = child
            .stdin
            .take()
            .expect("its input")
            .write_all(sql.as_bytes());
        let output = child.wait_with_output().expect("it ends");
        match output.status.success() && written.is_ok() {
            true => Ok(String::from_utf8_lossy(&output.stdout)
                .trim_end_matches('\n')
                .to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Runs statements; panics with what is wrong.
    pub fn run(&self, database: &str, sql: &str) -> String {
        self.client(database, sql)
            .unwrap_or_else(|why| panic!("{why}: {sql:.500}"))
    }

    /// A name that no other test has.
    pub fn name(&self) -> String {
        format!("t{}", DATABASES.fetch_add(1, Ordering::SeqCst))
    }

    /// A new database with these statements run in it.
    pub fn database(&self, sql: &str) -> String {
        let name = self.name();
        let first = if self.what == "postgres" {
            "postgres"
        } else {
            ""
        };
        self.run(first, &format!("create database {name}"));
        self.run(&name, sql);
        name
    }
}

/// MySQL has none of MariaDB's tables `seq_1_to_N`: a query that gives the same rows.
fn with_sequences(sql: &str) -> String {
    let mut parts = sql.split("seq_1_to_");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let (last, rest) = part.split_at(digits);
        text.push_str(&format!(
            "(with recursive s (seq) as (select 1 union all select seq + 1 from s where seq < {last}) select seq from s) s{rest}"
        ));
    }
    match text.len() == sql.len() {
        true => text,
        false => format!("set cte_max_recursion_depth = 1000000; {text}"),
    }
}

/// One of a test's own goes with its data; those of all tests go with the process.
impl Drop for DatabaseServer {
    fn drop(&mut self) {
        if let Ok(pid) = std::fs::read_to_string(self.folder.join("server.pid")) {
            let _ = Command::new("kill")
                .args(["-KILL", pid.trim()])
                .stderr(Stdio::null())
                .status();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The PostgreSQL of all tests.
pub fn postgres() -> &'static DatabaseServer {
    static SERVER: OnceLock<DatabaseServer> = OnceLock::new();
    SERVER.get_or_init(|| start("postgres"))
}

/// The MariaDB of all tests; a MySQL 8 where `BUSBAR_MYSQL` is `mysql8`.
pub fn mariadb() -> &'static DatabaseServer {
    static SERVER: OnceLock<DatabaseServer> = OnceLock::new();
    SERVER.get_or_init(own_mariadb)
}

/// Whether `mariadb` is a MySQL 8.
pub fn is_mysql8() -> bool {
    std::env::var("BUSBAR_MYSQL").is_ok_and(|what| what == "mysql8")
}

/// The Redis of all tests.
pub fn redis() -> &'static DatabaseServer {
    static SERVER: OnceLock<DatabaseServer> = OnceLock::new();
    SERVER.get_or_init(|| start("redis"))
}

/// A stand-in for S3 that others wrote.
pub fn moto() -> DatabaseServer {
    server_that_starts(|| start_at("moto", "install-moto", free_port(), &[]))
}

/// The engine of ClickHouse in a process of Python.
pub fn clickhouse() -> DatabaseServer {
    let install = "install-clickhouse";
    server_that_starts(|| start_at("clickhouse", install, free_port(), &[]))
}

/// A stand-in for SQL Server that others wrote, of the test that asks for it; building it takes minutes.
pub fn sqlserver() -> DatabaseServer {
    server_that_starts(|| start_at("sqlserver", "install-sqlserver", free_port(), &[]))
}

/// A Cassandra with files in its folder. Takes half a minute.
pub fn cassandra(files: &[(&str, &[u8])]) -> DatabaseServer {
    let install = "install-cassandra";
    server_that_starts(|| start_at("cassandra", install, free_port(), files))
}

/// An Elasticsearch. Takes half a minute.
pub fn elasticsearch() -> DatabaseServer {
    let install = "install-elasticsearch";
    server_that_starts(|| start_at("elasticsearch", install, free_port(), &[]))
}

/// HAPI's server of FHIR. Takes some seconds.
pub fn hapi() -> DatabaseServer {
    server_that_starts(|| start_at("hapi", "install-hapi", free_port(), &[]))
}

/// A server that speaks MongoDB's protocol and stands alone, which others wrote.
pub fn mongodb() -> &'static DatabaseServer {
    static SERVER: OnceLock<DatabaseServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        server_that_starts(|| start_at("mongodb", "install-mongodb", free_port(), &[]))
    })
}

/// The replica set of all tests, of the tests' own.
pub fn mongodb_set() -> &'static DatabaseServer {
    static SERVER: OnceLock<DatabaseServer> = OnceLock::new();
    SERVER.get_or_init(|| own_mongodb_set(&[]))
}

/// One of its own, for a test that makes it fail or needs a user.
pub fn own_mongodb_set(files: &[(&str, &[u8])]) -> DatabaseServer {
    server_that_starts(|| start_at("mongodb-set", "install-mongodb", free_port(), files))
}

/// The HBase of all tests. Takes half a minute.
pub fn hbase() -> &'static DatabaseServer {
    static SERVER: OnceLock<DatabaseServer> = OnceLock::new();
    let install = "install-hbase";
    SERVER.get_or_init(|| server_that_starts(|| start_at("hbase", install, free_port(), &[])))
}

/// One of its own, for a test that kills it or needs other settings, with files in its folder.
pub fn own_redis(files: &[(&str, &[u8])]) -> DatabaseServer {
    start_with("redis", files)
}

/// One of its own, for a test that kills it.
pub fn own_mariadb() -> DatabaseServer {
    match is_mysql8() {
        true => server_that_starts(|| start_at("mysql8", "install-mysql8", free_port(), &[])),
        false => start("mariadb"),
    }
}

/// One of its own, for a test that kills it.
pub fn own_postgres() -> DatabaseServer {
    start("postgres")
}

/// A port whose connections are those of a server, until they are cut.
pub struct Cut {
    pub port: u16,
    to: u16,
    state: Mutex<Arc<Open>>,
}

#[derive(Default)]
struct Open {
    closed: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Cut {
    pub fn before(to: u16) -> Cut {
        Cut::between(free_port(), to)
    }

    /// The same at this port.
    pub fn between(port: u16, to: u16) -> Cut {
        let cut = Cut {
            port,
            to,
            state: Mutex::default(),
        };
        cut.join();
        cut
    }

    /// Lets connections through again.
    pub fn join(&self) {
        let open = Arc::new(Open::default());
        *self.state.lock() = Arc::clone(&open);
        let listener = eventually("the port", || {
            TcpListener::bind(("127.0.0.1", self.port)).map_err(|why| why.to_string())
        });
        let to = SocketAddr::from(([127, 0, 0, 1], self.to));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if open.closed.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(server) = TcpStream::connect(to) else {
                    continue;
                };
                for (mut from, mut into) in [
                    (
                        client.try_clone().expect("a socket"),
                        server.try_clone().expect("a socket"),
                    ),
                    (server, client),
                ] {
                    open.streams
                        .lock()
                        .push(from.try_clone().expect("a socket"));
                    std::thread::spawn(move || {
                        let mut bytes = vec![0; 64 << 10];
                        while let Ok(read @ 1..) = from.read(&mut bytes) {
                            if into.write_all(&bytes[..read]).is_err() {
                                break;
                            }
                        }
                        let _ = into.shutdown(Shutdown::Both);
                    });
                }
            }
        });
    }

    /// Cuts all connections and takes no others.
    pub fn cut(&self) {
        let open = Arc::clone(&self.state.lock());
        open.closed.store(true, Ordering::SeqCst);
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        eventually("the end of the port", || {
            match TcpListener::bind(("127.0.0.1", self.port)) {
                Ok(_) => Ok(()),
                Err(why) => Err(why.to_string()),
            }
        });
        for stream in open.streams.lock().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
