//! The Kafka of all tests, and librdkafka as the other side of connections.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::servers::{Cut, DatabaseServer, server_that_starts, start_kafka};
use crate::world::eventually;

/// Listeners of the server that are reached through a [`Cut`].
const CUTS: usize = 26;

/// A server that runs.
pub struct KafkaTestServer {
    pub server: DatabaseServer,
    /// Wants a user: `plain` or `scram`, whose password is `secret`.
    pub sasl: u16,
    /// The port with TLS, if it has one.
    pub tls: u16,
    cuts: Mutex<Vec<Cut>>,
}

/// Ports that no outgoing connection takes while the server starts, others with each call.
pub fn ports(count: usize) -> Vec<u16> {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let from = 16_000 + ((std::process::id() + call * 37) % 160) as u16 * 100;
    let free = (from..32_700)
        .chain(12_000..from)
        .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.take(count).collect()
}

impl KafkaTestServer {
    /// One with files in its folder: `keystore.pem` and `ca.pem`, where it is to have a port with TLS, which wants a
    /// certificate of its clients.
    pub fn new(cuts: usize, files: &[(&str, &[u8])]) -> KafkaTestServer {
        server_that_starts(|| KafkaTestServer::start(cuts, files, ""))
    }

    fn start(
        cuts: usize,
        files: &[(&str, &[u8])],
        settings: &str,
    ) -> Result<KafkaTestServer, String> {
        let mut ports = ports(3 + 2 * cuts).into_iter();
        let mut port = || ports.next().expect("a port");
        let (plain, sasl, tls) = (port(), port(), port());
        let mut listeners = format!(
            "PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:CONTROLLER-PORT"
        );
        let mut advertised = format!("PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl}");
        let mut protocols =
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT".to_owned();
        let mut more = String::new();
        if !files.is_empty() {
            listeners += &format!(",TLS://127.0.0.1:{tls}");
            advertised += &format!(",TLS://localhost:{tls}");
            protocols += ",TLS:SSL";
            let name = "listener.name.tls.ssl";
            more = format!(
                "{name}.keystore.type=PEM\n{name}.keystore.location=keystore.pem\n\
                 {name}.truststore.type=PEM\n{name}.truststore.location=ca.pem\n{name}.client.auth=required"
            );
        }
        let mut opened = vec![plain, sasl];
        if !files.is_empty() {
            opened.push(tls);
        }
        let cuts = (0..cuts).map(|number| {
            let (own, shown) = (port(), port());
            opened.push(own);
            // At once, so that nobody else takes the port.
            let cut = Cut::between(shown, own);
            listeners += &format!(",CUT{number}://127.0.0.1:{own}");
            advertised += &format!(",CUT{number}://127.0.0.1:{shown}");
            protocols += &format!(",CUT{number}:PLAINTEXT");
            cut
        });
        let cuts: Vec<_> = cuts.collect();
        let login = "org.apache.kafka.common.security";
        let settings = format!(
            "listeners={listeners}\nadvertised.listeners={advertised}\nlistener.security.protocol.map={protocols}\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n{settings}\
             listener.name.sasl.plain.sasl.jaas.config={login}.plain.PlainLoginModule required user_plain=\"secret\";\n\
             listener.name.sasl.scram-sha-256.sasl.jaas.config={login}.scram.ScramLoginModule required;\n\
             listener.name.sasl.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;\n{more}\n"
        );
        let mut all = vec![("kafka.properties", settings.as_bytes())];
        all.extend_from_slice(files);
        let server = start_kafka(plain, &all)?;
        // It opens one after the other, and ends where somebody else has one.
        eventually("the ports", || {
            let listens = server.listens()?;
            match opened.iter().find(|port| !listens.contains(port)) {
                None => Ok(Ok(())),
                Some(port) if !server.runs() => Ok(Err(format!("it ended without {port}"))),
                Some(port) => Err(format!("{port} is not open")),
            }
        })?;
        Ok(KafkaTestServer {
            server,
            sasl,
            tls,
            cuts: Mutex::new(cuts),
        })
    }

    /// Where it is.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.server.port)
    }

    /// A way to it that can be cut.
    pub fn cut(&self) -> Cut {
        self.cuts.lock().pop().expect("a listener is left")
    }

    /// A peer of its own.
    pub fn peer(&self) -> KafkaPeer {
        KafkaPeer::new(&self.address())
    }

    /// A new topic, by a name that no other test has.
    pub fn topic(&self, peer: &KafkaPeer, partitions: u32, config: &Value) -> String {
        let topic = self.server.name();
        peer.ask(
            json!({"do": "create", "topic": topic, "partitions": partitions, "config": config}),
        );
        topic
    }
}

/// Whether the server at this port answers, as a connection sees it.
pub fn answers(port: u16) -> Result<String, String> {
    let text = format!("kafka: {{ brokers: ['127.0.0.1:{port}'], read: {{ topics: [t] }} }}\n");
    let registry = busbar_connect::registry();
    let connector = registry.get("kafka").expect("registered");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let spec = crate::world::spec(&text);
    let survey = connector.survey(&spec, Path::new("/").into(), false);
    match runtime.block_on(survey) {
        Ok(survey) => Ok(survey.server),
        Err(why) => Err(why.to_string()),
    }
}

/// The Kafka of all tests.
pub fn kafka() -> &'static KafkaTestServer {
    static SERVER: OnceLock<KafkaTestServer> = OnceLock::new();
    // Records may be written into a transaction that the coordinator does not know: how a lost end is made by hand.
    let settings = "transaction.partition.verification.enable=false\n";
    let start = || KafkaTestServer::start(CUTS, &[], settings);
    SERVER.get_or_init(|| server_that_starts(start))
}

/// librdkafka in a process of its own.
pub struct KafkaPeer(Mutex<(Child, ChildStdin, BufReader<ChildStdout>)>);

impl KafkaPeer {
    pub fn new(address: &str) -> KafkaPeer {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| {
            PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache")
        });
        let mut child = Command::new(cache.join("busbar/kafka-4.4.0/python/bin/python"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka_peer.py"))
            .arg(address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the peer starts");
        let (input, output) = (child.stdin.take(), child.stdout.take());
        KafkaPeer(Mutex::new((
            child,
            input.expect("its input"),
            BufReader::new(output.expect("its output")),
        )))
    }

    /// What is answered, or what is wrong.
    pub fn try_ask(&self, asked: Value) -> Result<Value, String> {
        let (_, input, output) = &mut *self.0.lock();
        writeln!(input, "{asked}").expect("the peer listens");
        let mut line = String::new();
        output.read_line(&mut line).expect("the peer answers");
        let mut answer: Value = serde_json::from_str(&line).expect("JSON");
        match answer["wrong"].as_str() {
            Some(wrong) => Err(wrong.to_owned()),
            None => Ok(answer["ok"].take()),
        }
    }

    /// What is answered; panics with what is wrong.
    pub fn ask(&self, asked: Value) -> Value {
        let shown = format!("{asked:.300}");
        self.try_ask(asked)
            .unwrap_or_else(|wrong| panic!("{wrong}: {shown}"))
    }

    /// The committed values of a topic with one partition, in order.
    pub fn values(&self, topic: &str) -> Vec<String> {
        let rows = self.ask(json!({"do": "rows", "topic": topic}));
        let rows = rows.as_array().expect("rows").iter();
        rows.map(|row| row[3].as_str().unwrap_or("null").to_owned())
            .collect()
    }
}

impl Drop for KafkaPeer {
    fn drop(&mut self) {
        let (child, ..) = &mut *self.0.lock();
        // It may have ended.
        let _ = child.kill();
        let _ = child.wait();
    }
}
