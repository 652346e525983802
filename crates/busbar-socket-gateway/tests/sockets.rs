//! Over real sockets, on ports the system gives: each framing, UDP, TLS, logins, and what is bounded.

#![allow(missing_docs)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_access::{Access, AccessOptions, MemoryBacking, NewUser, Role};
use busbar_bus::{Bus, BusOptions};
use busbar_catalog::{Bundle, GatewaySpec, Project};
use busbar_gateway::{AccessAuthorizer, Authorizer, Gateway as _, GatewayCounts, Open};
use busbar_log::{Log, LogOptions, OsDisk, SystemClock};
use busbar_socket_gateway::{SocketGateway, SocketOptions};

/// How long a test waits for what has to come. Nothing takes as long; a machine may be slow or busy.
const PATIENCE: Duration = Duration::from_secs(120);

const OPTIONS: SocketOptions = SocketOptions {
    connections_max: 100,
    connections_per_second_max: 1000,
    publishes_per_second_max: 0,
    payload_bytes_max: 1 << 20,
};

struct World {
    dir: tempfile::TempDir,
    bus: Bus,
    gateway: SocketGateway,
}

fn spec(text: &str) -> GatewaySpec {
    let files = [("gateways/g.yaml".to_owned(), text.to_owned())].into();
    let (mut project, bad) = Project::parse(Bundle { files });
    assert!(bad.is_empty(), "{bad:?}");
    project.gateways.remove("g").expect("a gateway").spec
}

fn bus(dir: &Path) -> Bus {
    let (disk, clock) = (Arc::new(OsDisk), Arc::new(SystemClock));
    let log = Log::open(disk, dir, LogOptions::default(), clock);
    Bus::open(log.expect("a log"), BusOptions::default()).expect("a bus")
}

impl World {
    fn new(protocol: &str, rest: &str) -> World {
        World::with(protocol, rest, Arc::new(Open), |_| {})
    }

    /// `prepare` writes files that the gateway's file names.
    fn with(
        protocol: &str,
        rest: &str,
        authorizer: Arc<dyn Authorizer>,
        prepare: impl FnOnce(&Path),
    ) -> World {
        let dir = tempfile::tempdir().expect("a folder");
        prepare(dir.path());
        let bus = bus(&dir.path().join("data"));
        let spec = spec(&format!(
            "protocol: {protocol}\nlisten: 127.0.0.1:0\n{rest}\n"
        ));
        let prepared = SocketGateway::prepare("g", &spec, dir.path(), None).expect("a port");
        let gateway = SocketGateway::start(prepared, bus.clone(), authorizer, &OPTIONS);
        World {
            dir,
            bus,
            gateway: gateway.expect("a gateway"),
        }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.gateway.address()).expect("connecting");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }

    /// Topics and payloads of all events.
    fn events(&self) -> Vec<(String, Vec<u8>)> {
        let inbox = self.bus.stream("inbox").expect("the inbox");
        let partition = Arc::clone(&inbox.partitions()[0]);
        let (mut at, mut all) = (partition.start(), Vec::new());
        while at < partition.end() {
            for chunk in partition.read(at, 1 << 20).expect("a read") {
                for row in 0..chunk.batch.rows() {
                    all.push((
                        chunk.batch.topic(row).to_owned(),
                        chunk.batch.payloads().value(row).to_vec(),
                    ));
                    at += 1;
                }
            }
        }
        all
    }

    fn until(&self, what: &str, test: impl Fn(&GatewayCounts) -> bool) -> GatewayCounts {
        let begun = Instant::now();
        loop {
            let counts = self.gateway.counts();
            if test(&counts) {
                return counts;
            }
            assert!(begun.elapsed() < PATIENCE, "in vain: {what}: {counts:?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// What comes until the connection ends.
fn rest(mut socket: impl Read) -> String {
    let mut all = Vec::new();
    let _ = socket.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

fn event(topic: &str, payload: &[u8]) -> (String, Vec<u8>) {
    (topic.to_owned(), payload.to_vec())
}

#[test]
fn each_frame_is_answered_in_order_after_its_commit() {
    let world = World::new("tcp", "topic: gauge/${id}\nformat: json\nacknowledge: true");
    let mut socket = world.connect();
    socket
        .write_all(b"{\"id\":1}\r\n\n{\"id\":\"a/b\"}\n{\"no\":1}\n{\"id\":2}\nhalf")
        .expect("writing");
    // The sender that has said all still gets its answers.
    socket.shutdown(std::net::Shutdown::Write).expect("an end");
    let said = rest(&socket);
    assert_eq!(
        said,
        "ok\nerror gateway.frame-topic\nerror gateway.frame-json\nok\n"
    );
    let want = [
        event("gauge/1", b"{\"id\":1}"),
        event("gauge/2", b"{\"id\":2}"),
    ];
    assert_eq!(world.events(), want);
    let counts = world.until("the half frame is counted", |c| c.events_refused_total == 3);
    assert_eq!((counts.events_in_total, counts.connections_total), (2, 1));
}

#[test]
fn lengths_and_delimiters_frame_both_ways() {
    let world = World::new(
        "tcp",
        "topic: a\nframe: { length: { bytes: 2, order: little } }\nacknowledge: true",
    );
    let mut socket = world.connect();
    socket.write_all(b"\x02\0hi\x01\0\n").expect("writing");
    let mut answer = [0; 8];
    socket.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"\x02\0ok\x02\0ok");
    // A length of zero is no frame.
    socket.write_all(b"\0\0").expect("writing");
    assert_eq!(rest(&socket), "\x19\0error gateway.frame-empty");
    assert_eq!(world.events(), [event("a", b"hi"), event("a", b"\n")]);

    let world = World::new(
        "tcp",
        "topic: a\nframe: { delimiter: \"\\x03\" }\nacknowledge: true",
    );
    let mut socket = world.connect();
    socket.write_all(b"one\ntwo\x03").expect("writing");
    let mut answer = [0; 3];
    socket.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"ok\x03");
    assert_eq!(world.events(), [event("a", b"one\ntwo")]);
}

#[test]
fn lines_without_end_and_silence_are_closed() {
    let world = World::new("tcp", "topic: a\nframe_size: 1KiB\nidle: 300ms");
    let mut socket = world.connect();
    let _ = socket.write_all(&[b'x'; 1500]);
    assert_eq!(rest(&socket), "error gateway.frame-too-long\n");
    // Half a frame, empty frames, nothing at all.
    for bytes in [&b"half"[..], b"\n\n\n", b""] {
        let mut socket = world.connect();
        socket.write_all(bytes).expect("writing");
        assert_eq!(rest(&socket), "error gateway.idle\n");
    }
    world.until("all are closed", |c| {
        c.connections == 0 && c.refusals_total == 4
    });
    assert_eq!(world.events(), []);
}

#[test]
fn a_binary_topic_stands_before_the_payload() {
    let world = World::new(
        "tcp",
        "binary_topic: true\nframe: { length: { bytes: 1 } }\nacknowledge: true",
    );
    let topic = busbar_event::topic::to_binary("gauge/g1/rain");
    let mut frame = vec![topic.len() as u8 + 3, topic.len() as u8];
    frame.extend(&topic);
    frame.extend(b"12");
    let mut socket = world.connect();
    socket.write_all(&frame).expect("writing");
    let mut answer = [0; 3];
    socket.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"\x02ok");
    assert_eq!(world.events(), [event("gauge/g1/rain", b"12")]);
}

#[test]
fn a_datagram_is_an_event_or_holds_several() {
    let send = |world: &World, datagrams: &[&[u8]]| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for datagram in datagrams {
            socket
                .send_to(datagram, world.gateway.address())
                .expect("sending");
        }
    };
    let csv = "topic: gauge/${id}/${peer}\nformat: { csv: { columns: [id, mm] } }";
    let one = World::new("udp", csv);
    send(&one, &[b"g1,2", b"g2,3\n", b"g1", b""]);
    one.until("four datagrams", |c| {
        c.events_in_total == 2 && c.events_refused_total == 2
    });
    one.gateway.shut_down();
    let want = [
        event("gauge/g1/127.0.0.1", b"g1,2"),
        event("gauge/g2/127.0.0.1", b"g2,3"),
    ];
    assert_eq!(one.events(), want);

    let lines = World::new("udp", &format!("{csv}\nframe: line"));
    send(&lines, &[b"g1,2\n\ng2,3"]);
    lines.until("two lines", |c| c.events_in_total == 2);
    lines.gateway.shut_down();
    assert_eq!(lines.events(), want);
}

#[test]
fn a_new_version_goes_on_at_the_same_port() {
    let mut world = World::new("tcp", "topic: a\nacknowledge: true");
    let address = world.gateway.address();
    let taken = |listen: SocketAddr| {
        let spec = spec(&format!("protocol: tcp\nlisten: {listen}\ntopic: b"));
        SocketGateway::prepare("h", &spec, world.dir.path(), None)
    };
    let refused = taken(address).map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), "gateway.port-in-use");
    let spec = spec("protocol: tcp\nlisten: 127.0.0.1:0\ntopic: b\nacknowledge: true");
    let prepared = SocketGateway::prepare("g", &spec, world.dir.path(), Some(&world.gateway));
    let prepared = prepared.expect("the same port");
    let mut before = world.connect();
    before.write_all(b"1\n").expect("writing");
    before.read_exact(&mut [0; 3]).expect("an answer");
    world.gateway.shut_down();
    assert_eq!(rest(&before), "");
    // The port stays open in between.
    let mut between = world.connect();
    between.write_all(b"2\n").expect("writing");
    let started = SocketGateway::start(prepared, world.bus.clone(), Arc::new(Open), &OPTIONS);
    world.gateway = started.expect("a gateway");
    between.read_exact(&mut [0; 3]).expect("an answer");
    assert_eq!(world.gateway.address(), address);
    assert_eq!(world.events(), [event("a", b"1"), event("b", b"2")]);
}

fn users() -> (Arc<Access>, Arc<dyn Authorizer>) {
    let access = Access::open(Arc::new(MemoryBacking::default()), AccessOptions::default());
    let access = Arc::new(access.expect("access"));
    for (name, role) in [("ann", Role::Admin), ("gauges", Role::Operator)] {
        let user = NewUser {
            name: name.into(),
            password: "correct horse battery".into(),
            role: Some(role),
            rules: Default::default(),
        };
        access.add_user(user, false).expect("a user");
    }
    (Arc::clone(&access), Arc::new(AccessAuthorizer::new(access)))
}

#[test]
fn senders_log_in_by_frame_or_address() {
    let (access, authorizer) = users();
    let options = "topic: ${user}/a\nacknowledge: true\n";
    let by_frame = World::with(
        "tcp",
        &format!("{options}login: frame"),
        Arc::clone(&authorizer),
        |_| {},
    );
    for (login, said) in [
        ("gauges:correct horse battery\n", "ok\n"),
        ("gauges:wrong\n", "error gateway.login-refused\n"),
        ("bbt_nonsense\n", "error gateway.login-refused\n"),
        ("\n", ""),
    ] {
        let mut socket = by_frame.connect();
        socket.write_all(login.as_bytes()).expect("writing");
        let _ = socket.write_all(b"1\n");
        if said.is_empty() {
            // An empty frame is no login, so the event was taken for one.
            assert_eq!(rest(&socket), "error gateway.login-refused\n");
            continue;
        }
        let mut answer = vec![0; said.len()];
        socket.read_exact(&mut answer).expect("an answer");
        assert_eq!(String::from_utf8_lossy(&answer), said, "{login}");
    }
    assert_eq!(by_frame.events(), [event("gauges/a", b"1")]);
    assert_eq!(by_frame.gateway.counts().logins_refused_total, 3);

    let by_address = |allow: &str, protocol: &str| {
        let options = match protocol {
            "tcp" => options,
            _ => "topic: ${user}/a\n",
        };
        World::with(
            protocol,
            &format!("{options}login: {{ user: gauges }}\nallow: [{allow}]"),
            Arc::clone(&authorizer),
            |_| {},
        )
    };
    let world = by_address("127.0.0.0/8", "tcp");
    let mut socket = world.connect();
    socket.write_all(b"1\n").expect("writing");
    socket.read_exact(&mut [0; 3]).expect("an answer");
    let stranger = by_address("10.0.0.0/8", "tcp");
    let mut refused = stranger.connect();
    let _ = refused.write_all(b"1\n");
    assert_eq!((rest(&refused), stranger.events()), (String::new(), vec![]));

    let datagrams = by_address("127.0.0.1", "udp");
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let send = || {
        sender
            .send_to(b"1", datagrams.gateway.address())
            .expect("sending")
    };
    send();
    datagrams.until("a datagram", |c| c.events_in_total == 1);
    // Who is removed sends nothing more.
    access.remove_user("gauges").expect("a user");
    assert_eq!(rest(&socket), "error gateway.login-over\n");
    datagrams.until("a refusal", |c| {
        send();
        c.events_refused_total > 0
    });
}

#[test]
fn a_client_certificate_is_a_login() {
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("an authority");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).expect("an authority");
    let issuer = rcgen::Issuer::new(params, authority_key);
    let signed = |name: &str| {
        let mut params =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().expect("a key");
        (params.signed_by(&key, &issuer).expect("a certificate"), key)
    };
    let (server, server_key) = signed("localhost");
    let (_, authorizer) = users();
    let world = World::with(
        "tcp",
        "topic: ${user}/a\nacknowledge: true\nlogin: certificate\n\
         tls: { cert: cert.pem, key: key.pem, client_ca: ca.pem }",
        authorizer,
        |dir| {
            for (name, text) in [
                ("cert.pem", server.pem()),
                ("key.pem", server_key.serialize_pem()),
                ("ca.pem", authority.pem()),
            ] {
                std::fs::write(dir.join(name), text).expect("writing");
            }
        },
    );
    let talk = |client: Option<&str>| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match client.map(signed) {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![certificate.der().clone()],
                    rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
                )
                .expect("a client"),
        };
        let name = "localhost".try_into().expect("a name");
        let mut tls = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut socket = world.connect();
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        let _ = stream.write_all(b"1\n");
        let mut said = Vec::new();
        let mut byte = [0];
        while !said.ends_with(b"\n") && stream.read_exact(&mut byte).is_ok() {
            said.push(byte[0]);
        }
        String::from_utf8_lossy(&said).into_owned()
    };
    assert_eq!(talk(Some("gauges")), "ok\n");
    assert_eq!(talk(Some("nobody")), "error gateway.login-refused\n");
    assert_eq!(talk(None), "error gateway.login-refused\n");
    assert_eq!(world.events(), [event("gauges/a", b"1")]);
}

/// The next block of MLLP.
fn block(socket: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut byte = [0];
    while !all.ends_with(b"\x1c\r") {
        match socket.read(&mut byte) {
            Ok(1) => all.push(byte[0]),
            end => panic!("{end:?} after {:?}", String::from_utf8_lossy(&all)),
        }
    }
    assert_eq!(all[0], 0x0b);
    String::from_utf8(all[1..all.len() - 2].to_vec()).expect("UTF-8")
}

fn message(id: &str, modes: &str) -> String {
    format!(
        "MSH|^~\\&|HIS|WARD|LIS|LAB|20261122||ADT^A01^ADT_A01|{id}|P|2.5|||{modes}\rEVN|A01\rPID|1||{id}^^^H\r"
    )
}

fn as_block(message: &str) -> Vec<u8> {
    [b"\x0b", message.as_bytes(), b"\x1c\r"].concat()
}

const MLLP: &str = "frame: mllp\nframe_size: 1KiB\ntopic: hl7/${MSH.9.2}/${PID.3}\n";

#[test]
fn messages_of_hl7_are_acknowledged_as_hl7_says() {
    let world = World::new("tcp", MLLP);
    let mut socket = world.connect();
    // Two at once, in pieces, with a line break between them.
    let (first, second) = (message("M1", ""), message("M2", ""));
    let bytes = [as_block(&first), b"\r\n".to_vec(), as_block(&second)].concat();
    for piece in bytes.chunks(7) {
        socket.write_all(piece).expect("sending");
    }
    for id in ["M1", "M2"] {
        let answer = block(&mut socket);
        let mut fields = answer.split('|');
        assert_eq!(fields.nth(2), Some("LIS"), "{answer}");
        assert_eq!(fields.next(), Some("LAB"));
        assert_eq!(fields.next(), Some("HIS"));
        assert!(answer.contains("|ACK^A01^ACK|"), "{answer}");
        assert!(answer.ends_with(&format!("\rMSA|AA|{id}\r")), "{answer}");
    }
    assert_eq!(
        world.events(),
        [
            event("hl7/A01/M1", first.as_bytes()),
            event("hl7/A01/M2", second.as_bytes())
        ]
    );
    // Each answer has a control id of its own.
    socket
        .write_all(
            &[
                as_block(&message("M3", "AL|NE")),
                as_block(&message("M4", "NE|NE")),
                as_block(&message("M5", "AL|AL")),
            ]
            .concat(),
        )
        .expect("sending");
    let answers: Vec<String> = (0..3).map(|_| block(&mut socket)).collect();
    for (answer, end) in answers
        .iter()
        .zip(["MSA|CA|M3\r", "MSA|CA|M5\r", "MSA|AA|M5\r"])
    {
        assert!(answer.ends_with(end), "{answer}");
    }
    assert_eq!(
        world.events().len(),
        5,
        "also what asks for no answer is taken"
    );
}

#[test]
fn messages_that_cannot_be_taken_are_refused_with_the_reason() {
    let world = World::new("tcp", MLLP);
    let mut socket = world.connect();
    let head = "MSH|^~\\&|HIS||||||ADT^A01|";
    for (bad, end, why) in [
        (
            format!("{head}M1|P|2.5\rpid|1"),
            "MSA|AE|M1|",
            "gateway.frame-hl7",
        ),
        (
            format!("{head}M2|P|2.5\rEVN|A01"),
            "MSA|AE|M2|",
            "gateway.frame-hl7",
        ),
        (
            format!("{head}M3|P|2.5\rPID|||a/b"),
            "MSA|AE|M3|",
            "gateway.frame-topic",
        ),
        ("FHS|^~\\&|A".to_owned(), "MSA|AE||", "gateway.frame-hl7"),
        ("no message".to_owned(), "MSA|AE||", "gateway.frame-hl7"),
    ] {
        socket.write_all(&as_block(&bad)).expect("sending");
        let answer = block(&mut socket);
        assert!(answer.contains(end), "{bad}: {answer}");
        assert!(answer.contains(&format!("^HL70357|E|{why}|||")), "{answer}");
    }
    // The name is not back in ASCII where it ends.
    let japanese = format!("{head}M5|P|2.5||||||~ISO IR87\rPID|||||\x1b$B;3ED\rOBX|1");
    socket.write_all(&as_block(&japanese)).expect("sending");
    let answer = block(&mut socket);
    assert!(answer.contains("MSA|AE|M5|"), "{answer}");
    assert!(
        answer.contains("character sets") && answer.contains("ISO IR87"),
        "{answer}"
    );
    socket
        .write_all(&as_block(&message("M4", "")))
        .expect("sending");
    assert!(
        block(&mut socket).ends_with("MSA|AA|M4\r"),
        "the connection goes on"
    );
    assert_eq!(world.events().len(), 1);
    // What is longer than a frame may be ends the connection, with an answer.
    socket
        .write_all(&as_block(&"x".repeat(2048)))
        .expect("sending");
    let answer = block(&mut socket);
    assert!(answer.contains("gateway.frame-too-long"), "{answer}");
    assert_eq!(rest(socket), "");
    let mut socket = world.connect();
    socket.write_all(b"GET / HTTP/1.1\r\n").expect("sending");
    assert!(block(&mut socket).contains("gateway.frame-mllp"));
    assert_eq!(rest(socket), "");
    let counts = world.until("refusals", |counts| counts.refusals_total >= 2);
    assert_eq!(counts.events_refused_total, 6, "{counts:?}");
}

#[test]
fn a_message_in_another_character_set_is_kept_as_it_came_and_answered_in_it() {
    let world = World::new("tcp", "frame: mllp\ntopic: hl7\n");
    let mut socket = world.connect();
    // 王 in GB18030, as the sender's name and in MSH-18.
    let text = b"MSH|^~\\&|\xcd\xf5|||||||M1|P|2.5||||||GB18030\rPID|||||\xcd\xf5\r";
    // Not declared: it could be anything.
    let undeclared = b"MSH|^~\\&|\xcd\xf5|||||||M2|P|2.5\rPID|||||\xcd\xf5\r";
    for message in [&text[..], undeclared] {
        socket
            .write_all(&[b"\x0b", message, b"\x1c\r"].concat())
            .expect("sending");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\x1c\r") {
            let mut byte = [0];
            assert_eq!(socket.read(&mut byte).expect("an answer"), 1);
            answer.push(byte[0]);
        }
        let has = |part: &[u8]| answer.windows(part.len()).any(|some| some == part);
        assert!(has(b"|\xcd\xf5|"), "{answer:?}");
        assert!(has(b"MSA|AA|M"), "{answer:?}");
    }
    assert_eq!(
        world.events(),
        [event("hl7", text), event("hl7", undeclared)]
    );
}
