//! Over real sockets, on ports the system gives: TCP, TLS and WebSocket, acknowledgements after the
//! commit, a port in use, a restart, and logins.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busbar_bus::{Bus, BusOptions};
use busbar_event::Language;
use busbar_gateway::{Gateway as _, Open};
use busbar_log::{Log, LogOptions, OsDisk, SystemClock};
use busbar_mqtt::client::{ServerPacket, decode, encode_connect, encode_subscribe};
use busbar_mqtt::control::{Connect, SubscribeOptions};
use busbar_mqtt::{PublishOut, Reason, Split, Version, split};
use busbar_mqtt_gateway::{MqttGateway, MqttOptions, TlsConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a test waits for what has to come. Nothing takes as long; a machine may be slow or busy.
const PATIENCE: Duration = Duration::from_secs(120);

fn bus(dir: &Path) -> Bus {
    let log = Log::open(
        Arc::new(OsDisk),
        dir,
        LogOptions::default(),
        Arc::new(SystemClock),
    );
    Bus::open(log.expect("a log"), BusOptions::default()).expect("a bus")
}

fn start(bus: Bus, config: MqttOptions) -> MqttGateway {
    MqttGateway::start(bus, Arc::new(Open), config).expect("a gateway")
}

fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn hello(id: &str, expiry: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let connect = Connect {
        version: Version::V5,
        clean_start: false,
        keep_alive_s: 0,
        client_id: id.into(),
        username: None,
        password: None,
        will: None,
        session_expiry_s: expiry,
        receive_maximum: u16::MAX,
        maximum_packet_size: None,
        topic_alias_maximum: 0,
        request_response_info: false,
        request_problem_info: true,
        auth_method: None,
    };
    encode_connect(&connect, &mut bytes);
    bytes
}

fn subscribe(filter: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let options = SubscribeOptions {
        qos: 1,
        ..Default::default()
    };
    encode_subscribe(Version::V5, 1, None, &[(filter, options)], &mut bytes);
    bytes
}

fn publish(id: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packet = PublishOut {
        dup: false,
        qos: 1,
        retain: false,
        topic: b"t/1",
        packet_id: id,
        properties: &[],
        payload,
    };
    packet.encode(Version::V5, &mut bytes);
    bytes
}

/// What was said, in words: the last packets of a conversation.
fn words(bytes: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Ok(Split::Whole(frame)) = split(&bytes[at..], u32::MAX) {
        all.push(match decode(frame, Version::V5).expect("a packet") {
            ServerPacket::ConnAck(c) => format!("connack {:?} {}", c.reason, c.session_present),
            ServerPacket::Publish(p) => format!("publish {}", String::from_utf8_lossy(p.payload)),
            ServerPacket::Ack(a) => format!("puback {}", a.packet_id),
            ServerPacket::SubAck(..) => "suback".into(),
            other => format!("{other:?}"),
        });
        at += frame.len;
    }
    all
}

struct Client {
    socket: TcpStream,
    got: Vec<u8>,
}

impl Client {
    fn connect(addr: SocketAddr, id: &str, expiry: u32) -> Client {
        let socket = TcpStream::connect(addr).expect("connecting");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut client = Client {
            socket,
            got: Vec::new(),
        };
        client.say(&hello(id, expiry));
        client.hear(1);
        client
    }

    fn say(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("writing");
    }

    fn hear(&mut self, packets: usize) -> Vec<String> {
        let mut buffer = [0; 65536];
        while words(&self.got).len() < packets {
            let n = self.socket.read(&mut buffer).expect("reading");
            assert!(n > 0, "closed after {:?}", words(&self.got));
            self.got.extend_from_slice(&buffer[..n]);
        }
        words(&self.got)
    }
}

#[test]
fn sessions_and_events_survive_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = || MqttOptions {
        listen: vec![any_port()],
        cores: 2,
        ..Default::default()
    };
    let log = bus(dir.path());
    let handle = start(log.clone(), config());
    let addr = handle.local_addrs().tcp[0];
    let mut sub = Client::connect(addr, "sub", 1000);
    sub.say(&subscribe("t/#"));
    assert_eq!(sub.hear(2)[1], "suback");
    drop(sub);
    let mut publisher = Client::connect(addr, "pub", 0);
    let many: Vec<u8> = (1..=2000u16)
        .flat_map(|id| publish(id, format!("m{id}").as_bytes()))
        .collect();
    publisher.say(&many);
    let said = publisher.hear(2001);
    assert_eq!(said[2000], "puback 2000");
    assert!(handle.stats().publishes_in_total >= 2000);
    handle.shut_down();
    log.log().shutdown();
    drop(log);
    let handle = start(bus(dir.path()), config());
    let mut sub = Client::connect(handle.local_addrs().tcp[0], "sub", 1000);
    let said = sub.hear(2001);
    assert_eq!(said[0], format!("connack {:?} true", Reason::SUCCESS));
    let want: Vec<String> = (1..=2000).map(|n| format!("publish m{n}")).collect();
    assert_eq!(said[1..2001], want[..]);
    handle.shut_down();
}

#[test]
fn a_port_in_use_is_said_in_both_languages() {
    let dir = tempfile::tempdir().expect("a folder");
    let taken = std::net::TcpListener::bind(any_port()).expect("a port");
    let addr = taken.local_addr().expect("its address");
    let config = MqttOptions {
        listen: vec![addr],
        ..Default::default()
    };
    let error = MqttGateway::start(bus(dir.path()), Arc::new(Open), config)
        .err()
        .expect("refused");
    assert_eq!(error.code(), "gateway.port-in-use");
    for language in [Language::En, Language::Zh] {
        assert!(error.message(language).contains(&addr.port().to_string()));
    }
}

async fn talk(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    // In pieces: packets may span reads and frames.
    let bytes = [
        hello("t", 0),
        subscribe("t/#"),
        publish(7, &[b'x'; 100_000]),
    ]
    .concat();
    for piece in bytes.chunks(30_000) {
        stream.write_all(piece).await.expect("writing");
        stream.flush().await.expect("flushing");
    }
    let mut got = Vec::new();
    let mut buffer = vec![0; 65536];
    while words(&got).len() < 4 {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer));
        let n = read.await.expect("in time").expect("reading");
        assert!(n > 0, "closed");
        got.extend_from_slice(&buffer[..n]);
    }
    let said = words(&got);
    assert!(said.contains(&"puback 7".to_owned()), "{said:?}");
    assert!(
        said.iter()
            .any(|w| w.starts_with("publish xxx") && w.len() == 100_008)
    );
}

#[tokio::test]
async fn over_tls() {
    let dir = tempfile::tempdir().expect("a folder");
    let made =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).expect("writing");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("writing");
    let tls = TlsConfig {
        listen: any_port(),
        cert,
        key,
        client_ca: None,
    };
    let config = MqttOptions {
        tls: Some(tls),
        ..Default::default()
    };
    let handle = start(bus(&dir.path().join("data")), config);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let addr = handle.local_addrs().tls.expect("an address");
    let stream = tokio::net::TcpStream::connect(addr)
        .await
        .expect("connecting");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let mut stream = connector.connect(name, stream).await.expect("a handshake");
    talk(&mut stream).await;
    // Bytes that are not TLS.
    let mut plain = tokio::net::TcpStream::connect(addr)
        .await
        .expect("connecting");
    plain.write_all(&hello("x", 0)).await.expect("writing");
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(&[0x20]));
}

#[tokio::test]
async fn over_websocket_and_handed_over() {
    use futures::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    use tokio_tungstenite::tungstenite::{Bytes, Message};
    let dir = tempfile::tempdir().expect("a folder");
    let config = MqttOptions {
        websocket: Some(any_port()),
        ..Default::default()
    };
    let handle = start(bus(dir.path()), config);
    let addr = handle.local_addrs().websocket.expect("an address");
    let mut request = format!("ws://{addr}/mqtt")
        .into_client_request()
        .expect("a request");
    request
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", "mqtt".parse().expect("a header"));
    let stream = tokio::net::TcpStream::connect(addr)
        .await
        .expect("connecting");
    let (mut ws, answer) = tokio_tungstenite::client_async(request, stream)
        .await
        .expect("a handshake");
    assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], "mqtt");
    let bytes = [hello("w", 0), subscribe("t/#"), publish(7, b"over ws")].concat();
    for piece in bytes.chunks(5) {
        let message = Message::Binary(Bytes::copy_from_slice(piece));
        ws.send(message).await.expect("sending");
    }
    let mut got = Vec::new();
    while words(&got).len() < 4 {
        match ws.next().await.expect("a frame").expect("a good frame") {
            Message::Binary(bytes) => got.extend_from_slice(&bytes),
            other => panic!("{other:?}"),
        }
    }
    assert!(words(&got).contains(&"publish over ws".to_owned()));
    // Without the subprotocol there is no connection, and at another path there is none.
    for (path, protocol, status) in [("/mqtt", None, 400), ("/x", Some("mqtt"), 404)] {
        let stream = tokio::net::TcpStream::connect(addr)
            .await
            .expect("connecting");
        let mut request = format!("ws://{addr}{path}")
            .into_client_request()
            .expect("a request");
        if let Some(protocol) = protocol {
            let value = protocol.parse().expect("a header");
            request
                .headers_mut()
                .insert("Sec-WebSocket-Protocol", value);
        }
        match tokio_tungstenite::client_async(request, stream).await {
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                assert_eq!(answer.status(), status);
            }
            other => panic!("{:?}", other.map(|_| "a connection")),
        }
    }
    // A byte stream that somebody else accepted.
    let (mut ours, theirs) = tokio::io::duplex(4096);
    handle.hand_over(theirs, None);
    talk(&mut ours).await;
}

#[test]
fn logins_are_asked_for_as_soon_as_there_is_a_user() {
    use busbar_access::{Access, AccessOptions, MemoryBacking, NewUser, Role};
    let dir = tempfile::tempdir().expect("a folder");
    let access = Access::open(Arc::new(MemoryBacking::default()), AccessOptions::default());
    let access = Arc::new(access.expect("access"));
    let authorizer = Arc::new(busbar_gateway::AccessAuthorizer::new(Arc::clone(&access)));
    let config = MqttOptions {
        listen: vec![any_port()],
        ..Default::default()
    };
    let handle = MqttGateway::start(bus(dir.path()), authorizer, config).expect("a gateway");
    let addr = handle.local_addrs().tcp[0];
    let mut before = Client::connect(addr, "before", 0);
    let user = NewUser {
        name: "ada".into(),
        password: "correct horse battery".into(),
        role: Some(Role::Admin),
        rules: Default::default(),
    };
    access.add_user(user, false).expect("a user");
    // Who came in while there was none has to log in now.
    assert!(before.hear(2)[1].contains("Disconnect"));
    let nobody = Client::connect(addr, "nobody", 0);
    assert!(words(&nobody.got)[0].contains("not authorized"));
    let login = |password: &str| {
        let mut bytes = Vec::new();
        let connect = Connect {
            version: Version::V311,
            clean_start: true,
            keep_alive_s: 0,
            client_id: "ada".into(),
            username: Some("ada".into()),
            password: Some(password.into()),
            will: None,
            session_expiry_s: 0,
            receive_maximum: u16::MAX,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_info: false,
            request_problem_info: false,
            auth_method: None,
        };
        encode_connect(&connect, &mut bytes);
        let mut socket = TcpStream::connect(addr).expect("connecting");
        socket.write_all(&bytes).expect("writing");
        let mut answer = [0; 4];
        socket.read_exact(&mut answer).expect("an answer");
        answer[3]
    };
    assert_eq!(login("wrong"), 4);
    assert_eq!(login("correct horse battery"), 0);
}

/// A login whose look at the clock panics on the core's own thread once it is told to.
struct Panicking(Arc<std::sync::atomic::AtomicBool>);

impl busbar_gateway::Authorizer for Panicking {
    fn authenticate(
        &self,
        _: &busbar_gateway::Credentials,
    ) -> Result<Arc<dyn busbar_gateway::Identity>, busbar_gateway::Denied> {
        Ok(Arc::new(Panicking(Arc::clone(&self.0))))
    }
}

impl busbar_gateway::Identity for Panicking {
    fn user(&self) -> &str {
        "panics"
    }
    fn may_publish(&self, _: &str, _: &str) -> bool {
        true
    }
    fn may_subscribe(&self, _: &busbar_event::topic::Filter) -> busbar_gateway::Reach {
        busbar_gateway::Reach::All
    }
    fn may_receive(&self, _: &str, _: &str) -> bool {
        true
    }
    fn is_unrestricted(&self) -> bool {
        true
    }
    fn is_current(&self) -> bool {
        assert!(
            !self.0.load(std::sync::atomic::Ordering::Acquire),
            "on purpose"
        );
        true
    }
}

#[test]
fn a_core_thread_that_panics_is_named_and_gets_no_more_connections() {
    let dir = tempfile::tempdir().expect("a folder");
    let bus = bus(dir.path());
    let now = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let config = MqttOptions {
        listen: vec![any_port()],
        cores: 2,
        ..MqttOptions::default()
    };
    let handle = MqttGateway::start(bus.clone(), Arc::new(Panicking(Arc::clone(&now))), config);
    let handle = handle.expect("a gateway");
    let addr = handle.local_addrs().tcp[0];
    assert!(bus.log().supervisor().ended().is_empty());
    // The first connection goes to core 1, and core 0, which accepts, stays.
    let first = Client::connect(addr, "a", 0);
    now.store(true, std::sync::atomic::Ordering::Release);
    let begun = std::time::Instant::now();
    let ended = loop {
        let ended = bus.log().supervisor().ended();
        if !ended.is_empty() {
            break ended;
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::park_timeout(Duration::from_millis(10));
    };
    assert_eq!((&*ended[0].name, ended[0].panicked), ("mqtt-1", true));
    now.store(false, std::sync::atomic::Ordering::Release);
    drop(first);
    for client in ["b", "c", "d"] {
        let client = Client::connect(addr, client, 0);
        assert!(
            words(&client.got)[0].starts_with("connack"),
            "{:?}",
            words(&client.got)
        );
    }
    handle.shut_down();
}
