//! The broker over a log in memory: what is durable when, what is read from where, what hostile bytes get.

#![allow(missing_docs)]

mod common;

use busbar_amqp::codec::FieldValue;
use busbar_amqp::codec::method::id;
use common::*;

const DURABLE: u8 = 2;

#[test]
fn a_confirm_waits_for_the_commit_and_a_failed_commit_is_refused() {
    let mut node = Node::new();
    let conn = node.connect();
    node.send(conn, &declare("q", DURABLE, &[]));
    node.send(conn, &confirm());
    assert_eq!(node.said(conn), ["declared with 0", "85.11"]);
    node.log.borrow_mut().held = true;
    for n in 0..3 {
        node.send(conn, &publish("", "q", &n.to_string()));
    }
    assert_eq!(node.said(conn), [] as [&str; 0]);
    node.log.borrow_mut().held = false;
    node.run();
    assert_eq!(node.said(conn), ["ack 3*"]);
    node.log.borrow_mut().broken = true;
    node.send(conn, &publish("", "q", "lost"));
    assert_eq!(node.said(conn), ["nack 4"]);
}

#[test]
fn a_durable_declaration_is_on_disk_before_its_answer() {
    let mut node = Node::new();
    let conn = node.connect();
    node.log.borrow_mut().held = true;
    node.send(conn, &declare("q", DURABLE, &[]));
    node.send(conn, &bind(id::QUEUE_BIND, "q", "amq.topic", "a.#"));
    assert_eq!(node.said(conn), [] as [&str; 0]);
    assert_eq!(node.records(), 0);
    node.log.borrow_mut().held = false;
    node.run();
    assert_eq!(node.said(conn), ["declared with 0", "50.21"]);
    assert_eq!(node.records(), 2);
    // What is not durable has nothing to wait for.
    node.log.borrow_mut().held = true;
    node.send(conn, &declare("passing", 0, &[]));
    assert_eq!(node.said(conn), ["declared with 0"]);
}

#[test]
fn nothing_confirmed_is_lost_and_nothing_acknowledged_comes_again() {
    let mut node = Node::new();
    let conn = node.connect();
    node.send(conn, &declare("q", DURABLE, &[]));
    node.send(conn, &bind(id::QUEUE_BIND, "q", "amq.topic", "a.*"));
    for n in 0..6 {
        node.store("a/b", &n.to_string());
    }
    node.send(conn, &qos(4));
    node.send(conn, &consume("q", false));
    node.send(conn, &ack(2, false));
    node.send(conn, &ack(4, false));
    node.output(conn);
    // The acknowledgement of the third is not on the disk when the node is killed.
    node.log.borrow_mut().held = true;
    node.send(conn, &ack(3, false));
    let mut node = node.crash();
    node.log.borrow_mut().held = false;
    node.store("a/b", "6");
    node.store("other/b", "no");
    let conn = node.connect();
    node.send(conn, &declare("q", DURABLE, &[]));
    node.send(conn, &consume("q", true));
    assert_eq!(
        node.said(conn),
        [
            "declared with 5",
            "60.21",
            "deliver 1 again",
            "0",
            "deliver 2 again",
            "2",
            "deliver 3 again",
            "4",
            "deliver 4 again",
            "5",
            "deliver 5",
            "6"
        ]
    );
}

#[test]
fn a_binding_brings_what_is_stored_between_bind_and_unbind() {
    for cached in [true, false] {
        let mut node = Node::new();
        let conn = node.connect();
        node.send(conn, &declare("q", DURABLE, &[]));
        node.store("a/b", "before");
        node.send(conn, &bind(id::QUEUE_BIND, "q", "amq.topic", "a.b"));
        node.store("a/b", "while");
        node.send(conn, &bind(id::QUEUE_UNBIND, "q", "amq.topic", "a.b"));
        node.store("a/b", "after");
        node.output(conn);
        let mut node = match cached {
            true => node,
            // The queue looks at the rows when they are no longer in memory, and after a restart.
            false => {
                let node = node.crash();
                node.log.borrow_mut().cached_from = 100;
                node
            }
        };
        let conn = node.connect();
        node.send(conn, &get("q", true));
        node.send(conn, &get("q", true));
        assert_eq!(
            node.said(conn),
            ["got 1", "while", "empty"],
            "cached: {cached}"
        );
        assert_eq!(node.log.borrow().reads > 0, !cached);
    }
}

#[test]
fn a_deep_queue_is_read_from_the_disk_in_order_and_counted() {
    let mut node = Node::new();
    let conn = node.connect();
    node.send(conn, &declare("q", DURABLE, &[]));
    let count = 10_000;
    for n in 0..count {
        node.store(
            if n % 2 == 0 {
                "amqp/q/q"
            } else {
                "amqp/q/other"
            },
            &n.to_string(),
        );
    }
    node.log.borrow_mut().cached_from = count;
    node.send(conn, &declare("q", DURABLE, &[]));
    node.send(conn, &consume("q", true));
    let mut said = node.said(conn);
    while said.len() < 3 + count as usize {
        let before = said.len();
        node.run();
        said.extend(node.said(conn));
        assert!(said.len() > before, "{before}");
    }
    assert_eq!(said[1], "declared with 5000");
    let bodies: Vec<u64> = said[3..]
        .iter()
        .skip(1)
        .step_by(2)
        .map(|b| b.parse().expect("a number"))
        .collect();
    assert_eq!(bodies, (0..count).step_by(2).collect::<Vec<_>>());
}

#[test]
fn rows_that_retention_has_removed_are_gone_from_queues_too() {
    let mut node = Node::new();
    let conn = node.connect();
    node.send(conn, &declare("q", DURABLE, &[]));
    for n in 0..4 {
        node.store("amqp/q/q", &n.to_string());
    }
    node.send(conn, &get("q", false));
    node.output(conn);
    let mut node = node.crash();
    {
        let mut log = node.log.borrow_mut();
        (log.start, log.cached_from) = (3, 3);
    }
    let conn = node.connect();
    for _ in 0..2 {
        node.send(conn, &get("q", true));
    }
    assert_eq!(node.said(conn), ["got 1", "3", "empty"]);
}

#[test]
fn a_slow_consumer_is_given_what_it_takes_and_no_more() {
    let mut node = Node::new();
    let conn = node.connect();
    node.send(conn, &declare("q", 0, &[]));
    node.send(conn, &consume("q", true));
    node.output(conn);
    let body = "x".repeat(100_000);
    for _ in 0..40 {
        node.store("amqp/q/q", &body);
    }
    let waiting = node.broker.output(conn).len();
    assert!(waiting > 0);
    let mut bodies = 0;
    for _ in 0..100 {
        bodies += node
            .said(conn)
            .iter()
            .filter(|s| s.len() == 100_000)
            .count();
    }
    assert_eq!(bodies, 40);
}

#[test]
fn hostile_bytes_close_the_connection_and_nothing_panics() {
    let bad = |bytes: &[u8]| {
        let mut node = Node::new();
        let conn = node.connect();
        node.send(conn, bytes);
        node.said(conn)
    };
    for (bytes, code) in [
        (&b"\x04\0\0\0\0\0\0\xce"[..], "close 501"),
        (b"\x01\0\x01\xff\xff\xff\xff", "close 501"),
        (b"\x01\0\x01\0\0\0\x04\0\x3c\0\x28\xcd", "close 501"),
        (b"\x01\0\x01\0\0\0\x04\0\x3c\0\x28\xce", "close 502"),
        (b"\x01\0\x01\0\0\0\x04\0\x3c\xff\xff\xce", "close 540"),
        (b"\x01\0\x07\0\0\0\x05\0\x55\0\x0a\0\xce", "close 504"),
        (b"\x02\0\x01\0\0\0\x01\0\xce", "close 505"),
        (b"\x03\0\x01\0\0\0\x01\0\xce", "close 505"),
        (b"\x03\0\0\0\0\0\x01\0\xce", "close 505"),
        (b"\x08\0\x01\0\0\0\0\xce", "close 501"),
    ] {
        let said = bad(bytes);
        assert!(
            said.len() == 1 && said[0].starts_with(code),
            "{bytes:?}: {said:?}"
        );
    }
    // A body that is longer than its header said.
    let mut long = publish("", "q", "xy");
    long.truncate(long.len() - 10);
    long.extend_from_slice(b"\x03\0\x01\0\0\0\x03abc\xce");
    assert!(bad(&long)[0].starts_with("close 501"), "{:?}", bad(&long));
    // Every prefix of a session with one byte changed.
    let mut whole = hello();
    whole.extend(method(id::CHANNEL_OPEN, 1, |out| out.push(0)));
    whole.extend(declare("q", DURABLE, &[]));
    whole.extend(publish("amq.topic", "a.b", "body"));
    for at in 0..whole.len() {
        for with in [0, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = with;
            let mut node = Node::new();
            let conn = node.open();
            node.send(conn, &bytes);
            let _ = node.output(conn);
            node.broker.gone(conn, node.now);
            node.run();
        }
    }
}

#[test]
fn bytes_may_come_one_at_a_time() {
    let mut node = Node::new();
    let conn = node.open();
    let mut bytes = hello();
    bytes.extend(method(id::CHANNEL_OPEN, 1, |out| out.push(0)));
    bytes.extend(declare("q", 0, &[]));
    bytes.extend(publish("", "q", "body"));
    bytes.extend(get("q", true));
    for byte in bytes {
        node.send(conn, &[byte]);
    }
    assert_eq!(node.said(conn)[4..], ["declared with 0", "got 1", "body"]);
}

#[test]
fn half_a_frame_and_silence_is_closed() {
    let mut node = Node::new();
    let conn = node.open();
    node.send(conn, &hello()[..20]);
    node.now += 11_000_000;
    node.broker.tick(node.now);
    assert!(node.broker.is_closing(conn));
}

#[test]
fn a_client_of_another_protocol_is_told_what_is_spoken_here() {
    for bytes in [
        &b"AMQP\x02\x01\x00\x00"[..],
        b"GET / HTTP/1.1\r\n",
        b"\x10\x0c\0\x04MQTT",
    ] {
        let mut node = Node::new();
        let conn = node.open();
        node.send(conn, bytes);
        assert_eq!(node.output(conn), b"AMQP\0\0\x09\x01");
        assert!(node.broker.is_closing(conn));
    }
}

#[test]
fn frames_are_no_longer_than_the_client_takes() {
    let mut node = Node::new();
    let conn = node.open();
    let mut bytes = busbar_amqp::codec::frame::PROTOCOL_HEADER.to_vec();
    bytes.extend(start_ok(b"\0u\0p"));
    bytes.extend(tune_ok_and_open(4096, "/"));
    bytes.extend(method(id::CHANNEL_OPEN, 1, |out| out.push(0)));
    bytes.extend(declare("q", 0, &[]));
    node.send(conn, &bytes);
    node.store("amqp/q/q", &"x".repeat(10_000));
    node.output(conn);
    node.send(conn, &get("q", true));
    let said = node.said(conn);
    assert_eq!(
        said.iter().map(String::len).collect::<Vec<_>>(),
        [5, 4088, 4088, 1824]
    );
}

#[test]
fn a_wrong_password_is_told() {
    let mut node = Node::new();
    let conn = node.open();
    let mut bytes = busbar_amqp::codec::frame::PROTOCOL_HEADER.to_vec();
    bytes.extend(start_ok(b"\0u\0wrong"));
    node.send(conn, &bytes);
    let said = node.said(conn);
    assert!(
        said[1].starts_with("close 403 ACCESS_REFUSED - Login was refused"),
        "{said:?}"
    );
}

#[test]
fn a_client_is_told_when_publishing_is_stopped_and_when_it_goes_on() {
    let mut node = Node::new();
    let conn = node.connect();
    node.log.borrow_mut().full = true;
    node.broker.tick(node.now);
    assert_eq!(node.said(conn), [] as [&str; 0], "it may be over soon");
    assert!(!node.broker.wants_input(conn, node.now));
    node.now += 1_000_000;
    node.broker.tick(node.now);
    assert_eq!(node.said(conn), ["10.60"]);
    node.log.borrow_mut().full = false;
    node.broker.tick(node.now);
    assert_eq!(node.said(conn), ["10.61"]);
    assert!(node.broker.wants_input(conn, node.now));
}

#[test]
fn a_message_goes_back_to_its_queue_only_so_often() {
    let mut node = Node::new();
    let conn = node.connect();
    let arguments = table(|t| {
        t.field("x-delivery-limit", &FieldValue::Signed(b'I', 1));
        t.text("x-dead-letter-exchange", "");
        t.text("x-dead-letter-routing-key", "dead");
    });
    node.send(conn, &declare("dead", DURABLE, &[]));
    node.send(conn, &declare("q", DURABLE, &arguments));
    node.store("amqp/q/q", "m");
    node.output(conn);
    let nack = |tag: u64| {
        method(id::BASIC_NACK, 1, |out| {
            out.extend_from_slice(&tag.to_be_bytes());
            out.push(2);
        })
    };
    for (tag, words) in [(1, "got 1"), (2, "got 2 again")] {
        node.send(conn, &get("q", false));
        assert_eq!(node.said(conn), [words, "m"]);
        node.send(conn, &nack(tag));
    }
    node.send(conn, &get("q", false));
    node.send(conn, &get("dead", false));
    assert_eq!(node.said(conn), ["empty", "got 3", "m"]);
}
