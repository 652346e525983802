//! The bridge, against mosquitto: what goes along, what is refused, who may come in, and a peer that
//! misbehaves.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use arrow::array::{BinaryArray, StringArray};
use busbar_connector::{Delivery, Polled, Sink, Source};
use busbar_event::{Batch, BatchBuilder, Body, Class, Envelope, Flags, Row};
use tokio::runtime::Runtime;

use crate::peers::Broker;
use crate::sinks::delivery;
use crate::subjects::numbered;
use crate::world::{PATIENCE, World, eventually, now, rest, spec};
use crate::{sink_context, source_context};

fn open(text: &str, runtime: &Runtime) -> Box<dyn Sink> {
    let registry = busbar_connect::registry();
    let connector = registry.get("mqtt").expect("it is registered");
    let context = sink_context(std::path::Path::new("."));
    runtime
        .block_on(connector.sink(&spec(text), context))
        .expect("it opens")
}

fn open_source(text: &str, runtime: &Runtime) -> Box<dyn Source> {
    let registry = busbar_connect::registry();
    let connector = registry.get("mqtt").expect("it is registered");
    let context = source_context(std::path::Path::new("."));
    runtime
        .block_on(connector.source(&spec(text), context))
        .expect("it opens")
}

fn runtime() -> Runtime {
    Runtime::new().expect("a runtime")
}

#[test]
fn properties_go_along_both_ways() {
    let broker = Broker::new();
    let listener = broker.listen("#", "%t|%r|%C|%R|%D|%E|%P|%p");
    let mut builder = BatchBuilder::new();
    let topic = builder.topic_id("a/b");
    let expires = (now() + 100_000_000).to_string();
    let past = (now() - 1).to_string();
    let tags = [
        ("$content-type", "text/plain"),
        ("$reply-to", "answer/here"),
        ("$correlation-data", "aWQ="),
        ("$expires-at", expires.as_str()),
        ("site", "north"),
        ("$$own", "dollar"),
    ];
    let row = |tags, retain| Row {
        topic,
        key: None,
        time: now(),
        client: None,
        flags: Flags::default()
            .with_retain(retain)
            .with_utf8(true)
            .with_reserved_tags(true),
        tags,
        payload: b"hi",
    };
    builder.push(row(&tags, true));
    builder.push(row(&[("$expires-at", past.as_str())], false));
    let mut rows = delivery("t", &["x", "y"], 2);
    rows.events = builder.finish();
    let runtime = runtime();
    let text = format!(
        "mqtt: {{ address: '127.0.0.1:{}', publish: 'out/${{topic}}' }}\n",
        broker.port
    );
    let mut sink = open(&text, &runtime);
    let written = runtime.block_on(sink.write(&rows)).expect("written");
    assert!(written.rejected.is_empty(), "{written:?}");
    let lines = listener.wait(1);
    assert_eq!(lines.len(), 1, "the other one was past its time: {lines:?}");
    let parts: Vec<&str> = lines[0].split('|').collect();
    assert_eq!(
        parts[..5],
        ["out/a/b", "0", "text/plain", "answer/here", "id"],
        "{lines:?}"
    );
    let expiry: u32 = parts[5].parse().expect("seconds");
    assert!((90..=100).contains(&expiry), "{lines:?}");
    assert_eq!(
        parts[6..],
        ["busbar-hops:1 site:north $own:dollar", "hi"],
        "{lines:?}"
    );

    // And in again: the retained one comes to a new subscriber.
    let world = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
    let connection = format!(
        "mqtt: {{ address: '127.0.0.1:{}', subscribe: ['out/#'] }}\ntopic: 'in/${{topic}}'\n",
        broker.port
    );
    world.apply(&[
        ("streams/in.yaml", "topics: in/#\n"),
        ("connections/c.yaml", &connection),
    ]);
    let event = eventually("the retained message", || {
        world
            .events("in")
            .pop()
            .ok_or_else(|| format!("{:?}", world.source("c")))
    });
    assert_eq!(
        (event.topic.as_str(), event.text().as_str()),
        ("in/out/a/b", "hi")
    );
    let tag = |name: &str| {
        event
            .tags
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    };
    assert_eq!(tag("$content-type"), Some("text/plain"));
    assert_eq!(tag("$reply-to"), Some("answer/here"));
    assert_eq!(tag("$correlation-data"), Some("aWQ="));
    assert_eq!(tag("site"), Some("north"));
    assert_eq!(tag("$$own"), Some("dollar"));
    let left = tag("$expires-at")
        .and_then(|at| at.parse::<i64>().ok())
        .expect("a time")
        - now();
    assert!((80_000_000..=101_000_000).contains(&left), "{left}");
}

#[test]
fn every_quality_of_service_and_version_brings_each_message_once() {
    let broker = Broker::new();
    for version in ["3.1.1", "5.0"] {
        for qos in 0..=2u8 {
            let world = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
            let connection = format!(
                "mqtt: {{ address: '127.0.0.1:{}', subscribe: ['q/#'], qos: {qos}, version: '{version}', client_id: 'b{qos}{version}' }}\ntopic: 'in/${{topic}}'\n",
                broker.port
            );
            world.apply(&[
                ("streams/in.yaml", "topics: in/#\n"),
                ("connections/c.yaml", &connection),
            ]);
            eventually("a subscription", || match world.source("c").state {
                "running" => Ok(()),
                state => Err(format!("{state} {:?}", world.source("c"))),
            });
            // A state of running comes before the subscription does.
            rest(200);
            // More than what may be under way at once.
            broker.publish("q/a", qos, &[], &numbered(0..5000));
            let there = eventually("all", || {
                let events = world.events("in");
                match events.len() >= 5000 {
                    true => Ok(events),
                    false => Err(format!("{} {:?}", events.len(), world.source("c"))),
                }
            });
            let there: Vec<_> = there.iter().map(crate::world::Event::text).collect();
            assert_eq!(there, numbered(0..5000), "{version} {qos}");
        }
    }
}

/// How long nothing comes until it counts as nothing.
const SILENCE: std::time::Duration = std::time::Duration::from_millis(500);

#[test]
fn nothing_is_acknowledged_before_it_is_committed() {
    let broker = Broker::new();
    let runtime = runtime();
    let text = format!(
        "mqtt: {{ address: '127.0.0.1:{}', subscribe: ['m/#'] }}\n",
        broker.port
    );
    let mut source = open_source(&text, &runtime);
    let (mut sent, mut is_last) = (0, false);
    while !is_last {
        match runtime.block_on(source.poll()).expect("it works") {
            Polled::Batch(polling) => {
                let payloads = polling.batch.payloads();
                is_last = payloads.value(polling.batch.rows() - 1) == b"the last";
                if sent == 0 {
                    // Nothing of what was published before it, perhaps more than once, is on its way when it comes.
                    broker.publish("m/1", 1, &[], &["the last".to_owned()]);
                }
                sent += polling.batch.rows();
            }
            // What was published before the subscription is lost.
            Polled::Idle(_) if sent == 0 => broker.publish("m/1", 1, &[], &numbered(0..3)),
            Polled::Idle(_) => {}
            Polled::End => panic!("no end"),
        }
    }
    drop(source);
    // Not one of them was committed, so all come again.
    let mut source = open_source(&text, &runtime);
    let mut rows = 0;
    while rows < sent {
        let polled = runtime.block_on(source.poll()).expect("it works");
        if let Polled::Batch(polling) = polled {
            rows += polling.batch.rows();
            let busbar_connector::Position::Receipt(number) = polling.position else {
                panic!("{:?}", polling.position);
            };
            source.committed("", number);
        }
    }
    assert_eq!(rows, sent);
    runtime.block_on(source.close()).expect("closed");
    drop(source);
    let mut source = open_source(&text, &runtime);
    let more = runtime.block_on(async {
        tokio::time::timeout(SILENCE, async {
            loop {
                if let Ok(Polled::Batch(polling)) = source.poll().await {
                    return polling.batch.rows();
                }
            }
        })
        .await
    });
    assert!(more.is_err(), "acknowledged ones came again");
}

#[test]
fn what_was_subscribed_to_once_does_not_come_in_for_ever() {
    let broker = Broker::new();
    let world = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
    let stream = ("streams/in.yaml", "topics: in/#\n");
    let connection = |filter: &str| {
        format!(
            "mqtt: {{ address: '127.0.0.1:{}', subscribe: ['{filter}'] }}\ntopic: 'in/${{topic}}'\n",
            broker.port
        )
    };
    world.apply(&[stream, ("connections/c.yaml", &connection("old/#"))]);
    rest(300);
    world.apply(&[stream, ("connections/c.yaml", &connection("new/#"))]);
    rest(300);
    broker.publish("old/x", 1, &[], &numbered(0..5));
    broker.publish("new/x", 1, &[], &numbered(0..5));
    eventually("the new ones", || {
        let events = world.events("in");
        (events.len() >= 5)
            .then_some(())
            .ok_or_else(|| format!("{events:?}"))
    });
    rest(200);
    let events = world.events("in");
    assert!(
        events.iter().all(|event| event.topic == "in/new/x"),
        "{events:?}"
    );
}

#[test]
fn large_messages_pass_and_too_large_ones_are_dead_letters() {
    let broker = Broker::with("allow_anonymous true\nmax_packet_size 3000000\n");
    let runtime = runtime();
    let text = format!(
        "mqtt: {{ address: '127.0.0.1:{}', publish: big }}\n",
        broker.port
    );
    let listener = broker.listen("big", "%l");
    let mut sink = open(&text, &runtime);
    let rows = delivery(
        "t",
        &[vec![b'x'; 2_500_000], vec![b'y'; 3_500_000], b"z".to_vec()],
        3,
    );
    let written = runtime.block_on(sink.write(&rows)).expect("written");
    let refused: Vec<_> = written
        .rejected
        .iter()
        .map(|(row, e)| (*row, e.code(), e.class()))
        .collect();
    assert_eq!(refused, [(1, "connect.mqtt-too-large", Class::Permanent)]);
    assert_eq!(listener.wait(2), ["2500000", "1"]);
}

#[test]
fn who_may_not_come_in_is_a_matter_of_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let passwords = folder.path().join("passwords");
    let made = std::process::Command::new("mosquitto_passwd")
        .args(["-b", "-c"])
        .arg(&passwords)
        .args(["me", "right-password"])
        .status();
    assert!(made.expect("mosquitto_passwd").success());
    let rules = folder.path().join("rules");
    std::fs::write(&rules, "user me\ntopic readwrite mine/#\n").expect("written");
    let broker = Broker::with(&format!(
        "allow_anonymous false\npassword_file {}\nacl_file {}\n",
        passwords.display(),
        rules.display()
    ));
    let runtime = runtime();
    for (version, password, topic, works) in [
        ("5.0", "right-password", "mine/a", true),
        ("3.1.1", "right-password", "mine/a", true),
        ("5.0", "wrong-password", "mine/a", false),
        ("3.1.1", "wrong-password", "mine/a", false),
        ("5.0", "right-password", "yours/a", false),
    ] {
        let text = format!(
            "mqtt: {{ address: '127.0.0.1:{}', publish: {topic}, version: '{version}', user: me, password: {password} }}\n",
            broker.port
        );
        let mut sink = open(&text, &runtime);
        let written = runtime.block_on(sink.write(&delivery("t", &["x"], 1)));
        match (works, written) {
            (true, written) => assert!(written.expect("written").rejected.is_empty()),
            (false, Err(error)) => {
                assert_eq!(
                    error.class(),
                    Class::Configuration,
                    "{version} {topic} {error}"
                );
                assert!(!format!("{error:?}").contains(password), "{error:?}");
            }
            (false, Ok(_)) => panic!("{version} {password} {topic} was let in"),
        }
    }
}

#[test]
fn a_peer_that_speaks_nonsense_is_left_and_nothing_grows() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    // CONNACK first for those that come behind it.
    let connack: &[u8] = &[0x20, 3, 0, 0, 0];
    let answers: Vec<Vec<u8>> = vec![
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0x20, 2, 9, 9],
        [connack, &[0x30, 0xff, 0xff, 0xff, 0x7f]].concat(),
        [connack, &[0x30, 3, 0, 5, b'a']].concat(),
        [connack, &[0xf0, 0xff, 0xff, 0xff, 0xff, 0xff]].concat(),
        [connack, &[0x36, 5, 0, 1, b'a', 0, 1]].concat(),
        Vec::new(),
    ];
    let count = answers.len();
    std::thread::spawn(move || {
        for (answer, stream) in answers.into_iter().zip(listener.incoming()) {
            let _ = stream.and_then(|mut stream: TcpStream| {
                let mut connect = [0; 256];
                let _ = stream.read(&mut connect)?;
                stream.write_all(&answer)?;
                rest(50);
                Ok(())
            });
        }
    });
    let runtime = runtime();
    let text = format!("mqtt: {{ address: '127.0.0.1:{port}', subscribe: ['#'] }}\n");
    for _ in 0..count {
        let mut source = open_source(&text, &runtime);
        let error = runtime.block_on(async {
            loop {
                if let Err(error) = source.poll().await {
                    return error;
                }
            }
        });
        assert_eq!(error.class(), Class::Transient, "{error}");
        assert!(
            error
                .args()
                .iter()
                .any(|(_, value)| value.ends_with(&port.to_string())),
            "{error:?}"
        );
    }
}

/// A batch of one row, with a topic that has more levels once the bridge's own are before it.
#[test]
fn a_topic_that_does_not_fit_is_a_dead_letter() {
    let broker = Broker::new();
    let runtime = runtime();
    let text = format!(
        "mqtt: {{ address: '127.0.0.1:{}', publish: 'far/away/${{topic}}' }}\n",
        broker.port
    );
    let mut sink = open(&text, &runtime);
    let levels = busbar_event::limits::TOPIC_LEVELS_MAX;
    let deep = format!("a{}", "/b".repeat(levels - 1));
    let topics = StringArray::from(vec![deep.as_str(), "short"]);
    let body = BinaryArray::from_iter_values([b"x", b"y"]);
    let envelope = Envelope::new(&topics, vec![now(); 2]);
    let rows = Delivery {
        events: Batch::from_columns(envelope, Body::Payload(body)).expect("a batch"),
        ..delivery("t", &["x", "y"], 2)
    };
    let written = runtime.block_on(sink.write(&rows)).expect("written");
    let refused: Vec<_> = written
        .rejected
        .iter()
        .map(|(row, e)| (*row, e.class()))
        .collect();
    assert_eq!(refused, [(0, Class::Permanent)]);
}

/// Two brokers, a bridge each way between them, and no other end: what is put in goes round, is counted,
/// and ends as a dead letter.
#[test]
fn a_circle_of_bridges_ends() {
    let broker = Broker::new();
    let listener = broker.listen("#", "%P");
    let world = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
    let inward = format!(
        "mqtt: {{ address: '127.0.0.1:{}', subscribe: ['ring'], client_id: in }}\ntopic: '${{topic}}'\n",
        broker.port
    );
    let outward = format!(
        "mqtt: {{ address: '127.0.0.1:{}', publish: '${{topic}}', client_id: out }}\n",
        broker.port
    );
    world.apply(&[
        ("streams/ring.yaml", "topics: ring\n"),
        ("connections/inward.yaml", &inward),
        ("connections/outward.yaml", &outward),
        (
            "flows/round.yaml",
            "from: ring\nto: [{ connection: outward }]\n",
        ),
    ]);
    eventually("a subscription", || match world.source("inward").state {
        "running" => Ok(()),
        state => Err(state.to_owned()),
    });
    rest(300);
    broker.publish("ring", 1, &[], &["once".to_owned()]);
    let most = busbar_connect::limits::MQTT_HOPS_MAX as usize;
    let lines = listener.wait(most + 1);
    rest(1000);
    assert_eq!(listener.lines().len(), most + 1, "it goes on: {lines:?}");
    assert_eq!(lines[most], format!("busbar-hops:{most}"));
}

/// Nobody takes what comes: the bridge stops reading, holds a bounded amount, and the connection lives.
#[test]
fn a_reader_that_does_not_read_holds_the_socket_and_not_the_memory() {
    let broker = Broker::new();
    let runtime = runtime();
    let text = format!(
        "mqtt: {{ address: '127.0.0.1:{}', subscribe: ['m/#'], qos: 0, keep_alive: 1s }}\n",
        broker.port
    );
    let mut source = open_source(&text, &runtime);
    // Subscribed.
    while !matches!(runtime.block_on(source.poll()), Ok(Polled::Idle(_))) {}
    // 64 MB; eight may wait in the bridge, and what the sockets hold.
    let big = vec!["x".repeat(64 << 10); 1000];
    let before = resident_kb();
    let port = broker.port;
    let sending = std::thread::spawn(move || {
        let mut sender = std::process::Command::new("mosquitto_pub")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-t",
                "m/1",
                "-q",
                "0",
                "-l",
            ])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("mosquitto_pub");
        let mut text = big.join("\n");
        text.push('\n');
        let mut stdin = sender.stdin.take().expect("its input");
        stdin.write_all(text.as_bytes()).expect("written");
        drop(stdin);
        sender.wait().expect("it ends")
    });
    // Longer than the keep-alive and a half, after which the broker would end the connection.
    rest(3500);
    let grown = resident_kb().saturating_sub(before);
    // Its own copy of what is sent is 64 MB.
    assert!(grown < (64 + 50) * 1024, "{grown} kB");
    let mut rows = 0;
    while rows < 1000 {
        let polled =
            runtime.block_on(async { tokio::time::timeout(PATIENCE, source.poll()).await });
        match polled.expect("more comes").expect("the connection lives") {
            Polled::Batch(polling) => rows += polling.batch.rows(),
            Polled::Idle(_) => {}
            Polled::End => panic!("no end"),
        }
    }
    assert!(sending.join().expect("sent").success());
}

fn resident_kb() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .expect("a line");
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number")
}
