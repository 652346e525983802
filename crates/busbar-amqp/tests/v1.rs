//! Sessions of AMQP 1.0 over a log in memory: what is durable when, credit, windows, what hostile bytes get.

#![allow(missing_docs)]

mod common;

use busbar_amqp::v1::{SASL_HEADER, V1_HEADER, encode};
use busbar_gateway::ClientOrigin;
use common::v1::*;
use common::{Node, hello as hello_0_9_1, method};

const ACCEPTED: u8 = 0x24;
const REJECTED: u8 = 0x25;
const RELEASED: u8 = 0x26;
const MODIFIED: u8 = 0x27;
const NONE: [&str; 0] = [];

fn plain() -> LinkWishes<'static> {
    LinkWishes::default()
}

#[test]
fn a_message_is_accepted_after_its_commit_and_rejected_when_that_fails() {
    let mut node = Node::new();
    let conn = node.connect_v1("c");
    node.send(conn, &sender(0, "s", Some("q"), plain()));
    assert_eq!(node.said_v1(conn), ["attach s 0 - q", "flow link 0 0 2048"]);
    node.log.borrow_mut().held = true;
    for n in 0..3 {
        node.send(conn, &transfer(0, Some(n), false, &message("m")));
    }
    assert_eq!(node.said_v1(conn), NONE);
    node.log.borrow_mut().held = false;
    node.run();
    assert_eq!(node.said_v1(conn), ["accepted 0-2"]);
    node.log.borrow_mut().broken = true;
    node.send(conn, &transfer(0, Some(3), false, &message("lost")));
    assert_eq!(node.said_v1(conn), ["rejected 3-3 amqp:internal-error"]);
}

#[test]
fn a_queue_that_is_made_is_on_disk_before_the_link_is_attached() {
    let mut node = Node::new();
    let conn = node.connect_v1("c");
    node.log.borrow_mut().held = true;
    node.send(conn, &sender(0, "s", Some("q"), plain()));
    assert_eq!(node.said_v1(conn), NONE);
    node.log.borrow_mut().held = false;
    node.run();
    assert_eq!(node.said_v1(conn), ["attach s 0 - q", "flow link 0 0 2048"]);
    assert_eq!(node.records(), 1);
}

#[test]
fn credit_bounds_what_is_delivered_and_drain_uses_it_up() {
    let mut node = Node::new();
    let conn = node.connect_v1("c");
    node.send(conn, &receiver(0, "r", Some("q"), plain()));
    for n in 0..3 {
        node.store("amqp/q/q", &n.to_string());
    }
    assert_eq!(node.said_v1(conn), ["attach r 0 q -"]);
    node.send(conn, &credit(0, 0, 2, false));
    assert_eq!(node.said_v1(conn), ["transfer 0 0 0", "transfer 0 1 1"]);
    node.send(conn, &credit(0, 2, 10, true));
    assert_eq!(node.said_v1(conn), ["transfer 0 2 2", "flow link 0 12 0"]);
    // A credit that was given before two deliveries were seen is for eight more than these.
    node.send(conn, &credit(0, 10, 3, false));
    node.store("amqp/q/q", "3");
    node.store("amqp/q/q", "4");
    assert_eq!(node.said_v1(conn), ["transfer 0 3 3"]);
}

#[test]
fn what_becomes_of_deliveries() {
    let mut node = Node::new();
    let conn = node.connect_v1("c");
    node.send(conn, &receiver(0, "r", Some("q"), plain()));
    node.send(conn, &credit(0, 0, 100, false));
    node.output(conn);
    for (n, (code, fields, expected)) in [
        (RELEASED, &[][..], Some(" again 0")),
        (MODIFIED, &[false, false], Some(" again 0")),
        (MODIFIED, &[true, false], Some(" again 1")),
        (MODIFIED, &[true, true], None),
        (REJECTED, &[], None),
        (ACCEPTED, &[], None),
    ]
    .into_iter()
    .enumerate()
    {
        node.store("amqp/q/q", &n.to_string());
        let first = node.said_v1(conn).pop().expect("a delivery");
        let number = |words: &str| {
            words
                .split(' ')
                .nth(2)
                .expect("a number")
                .parse()
                .expect("one")
        };
        let id: u32 = number(&first);
        assert_eq!(first, format!("transfer 0 {id} {n}"));
        node.send(conn, &settle(id, id, code, fields));
        let again = expected.map(|words| format!("transfer 0 {} {n}{words}", id + 1));
        assert_eq!(
            node.said_v1(conn),
            Vec::from_iter(again),
            "{code:x} {fields:?}"
        );
        if expected.is_some() {
            node.send(conn, &settle(id + 1, id + 1, ACCEPTED, &[]));
        }
    }
    // Nothing is left: neither now nor after a crash.
    let mut node = node.crash();
    let conn = node.connect_v1("c");
    node.send(conn, &receiver(0, "r", Some("q"), plain()));
    node.send(conn, &credit(0, 0, 1, true));
    assert_eq!(node.said_v1(conn), ["attach r 0 q -", "flow link 0 1 0"]);
}

#[test]
fn an_unsettled_delivery_goes_back_when_its_connection_is_gone() {
    let mut node = Node::new();
    let (first, second) = (node.connect_v1("a"), node.connect_v1("b"));
    for conn in [first, second] {
        node.send(conn, &receiver(0, "r", Some("q"), plain()));
    }
    node.send(first, &credit(0, 0, 1, false));
    node.store("amqp/q/q", "m");
    node.output(first);
    node.send(second, &credit(0, 0, 1, false));
    node.output(second);
    node.broker.gone(first, node.now);
    node.run();
    assert_eq!(node.said_v1(second), ["transfer 0 0 m again 1"]);
}

#[test]
fn messages_in_parts_both_ways() {
    let mut node = Node::new();
    let conn = node.open();
    node.send(conn, &hello("c", 512, 2));
    node.output(conn);
    let text: String = ('a'..='z').cycle().take(1200).collect();
    node.send(conn, &sender(0, "s", Some("q"), plain()));
    node.send(conn, &receiver(1, "r", Some("q"), plain()));
    node.output(conn);
    let whole = message(&text);
    let (head, rest) = whole.split_at(500);
    let (middle, last) = rest.split_at(500);
    node.send(conn, &transfer(0, Some(0), true, head));
    node.send(conn, &transfer(0, None, true, middle));
    node.send(conn, &transfer(0, None, false, last));
    assert_eq!(node.said_v1(conn), ["accepted 0-0"]);
    node.send(conn, &session_flow(0, 2, Some((1, 0, 5, false))));
    // The window of the session has room for two frames.
    let before = node.output(conn);
    node.send(conn, &session_flow(2, 100, None));
    let all = [before.clone(), node.output(conn)].concat();
    assert!(
        said(&before[..])
            .iter()
            .all(|words| words.ends_with("more")),
        "{:?}",
        said(&before)
    );
    let expected = format!("transfer 1 - {text}");
    assert_eq!(
        said(&all),
        ["transfer 1 0 more", "transfer 1 - more", &expected]
    );
    assert_eq!(said(&before).len(), 2);
}

#[test]
fn a_durable_subscription_goes_on_after_a_crash_and_ends_when_it_is_closed() {
    let durable = LinkWishes {
        durable: true,
        ..plain()
    };
    let mut node = Node::new();
    let conn = node.connect_v1("client");
    node.log.borrow_mut().held = true;
    node.send(conn, &receiver(0, "sub", Some("/topics/a/+"), durable));
    assert_eq!(node.said_v1(conn), NONE, "it is on the disk first");
    node.log.borrow_mut().held = false;
    node.run();
    assert_eq!(node.said_v1(conn), ["attach sub 0 /topics/a/+ -"]);
    node.store("a/b", "1");
    node.send(conn, &detach(0, false));
    assert_eq!(node.said_v1(conn), ["detach 0"]);
    node.store("a/c", "2");
    node.store("b/c", "no");
    let mut node = node.crash();
    node.store("a/d", "3");
    let conn = node.connect_v1("client");
    node.send(conn, &receiver(0, "sub", Some("/topics/a/+"), durable));
    node.send(conn, &credit(0, 0, 10, false));
    let said = node.said_v1(conn);
    assert_eq!(
        said,
        [
            "attach sub 0 /topics/a/+ -",
            "transfer 0 0 1",
            "transfer 0 1 2",
            "transfer 0 2 3"
        ]
    );
    node.send(conn, &settle(0, 2, ACCEPTED, &[]));
    // Attached again elsewhere: the first link is told.
    let other = node.connect_v1("client");
    node.send(other, &receiver(0, "sub", Some("/topics/a/+"), durable));
    assert_eq!(node.said_v1(conn), ["detach 0 amqp:link:stolen"]);
    // By its name alone, as Qpid JMS ends it.
    let last = node.connect_v1("client");
    let by_name = frame(
        0x12,
        |l| {
            l.text("sub").uint(0).flag(true).null().null().null().null();
        },
        &[],
    );
    node.send(last, &by_name);
    assert_eq!(
        node.said_v1(last),
        ["attach sub 0 /exchanges/amq.topic/a.%2A -"]
    );
    node.send(last, &detach(0, true));
    assert_eq!(node.said_v1(last), ["detach 0"]);
    node.send(last, &by_name);
    assert_eq!(
        node.said_v1(last),
        ["attach sub 0 none none", "detach 0 amqp:not-found"]
    );
    assert_eq!(node.records(), 0);
}

#[test]
fn a_temporary_queue_ends_with_its_link() {
    let dynamic = LinkWishes {
        dynamic: true,
        ..plain()
    };
    let mut node = Node::new();
    let conn = node.connect_v1("c");
    node.send(conn, &receiver(0, "r", None, dynamic));
    let attached = node.said_v1(conn).pop().expect("an answer");
    let name = attached.split(' ').nth(3).expect("an address").to_owned();
    assert!(name.starts_with("amq.gen-"), "{attached}");
    let other = node.connect_v1("other");
    node.send(other, &receiver(0, "r", Some(&name), plain()));
    node.send(other, &sender(1, "s", Some(&name), plain()));
    assert_eq!(
        node.said_v1(other),
        [
            "attach r 0 none none",
            "detach 0 amqp:resource-locked",
            &format!("attach s 1 - {name}"),
            "flow link 1 0 2048"
        ]
    );
    node.send(other, &transfer(1, Some(0), false, &message("answer")));
    node.send(conn, &credit(0, 0, 1, false));
    assert_eq!(node.said_v1(conn), ["transfer 0 0 answer"]);
    node.send(conn, &detach(0, true));
    node.output(conn);
    node.send(
        conn,
        &sender(2, "s", Some(&format!("/queues/{name}")), plain()),
    );
    assert_eq!(node.said_v1(conn)[1], "detach 2 amqp:not-found");
}

#[test]
fn the_other_version_sees_the_same_queue() {
    let mut node = Node::new();
    let (v1, old) = (node.connect_v1("c"), node.connect());
    node.send(v1, &receiver(0, "r", Some("q"), plain()));
    node.send(v1, &credit(0, 0, 1, false));
    node.send(old, &common::publish("", "q", "from 0-9-1"));
    assert!(
        node.said_v1(v1)
            .contains(&"transfer 0 0 from 0-9-1".to_owned())
    );
    // The queue is deleted over 0-9-1: the link is told.
    let delete = method(busbar_amqp::codec::method::id::QUEUE_DELETE, 1, |out| {
        out.extend_from_slice(b"\0\0\x01q\0");
    });
    node.send(old, &delete);
    assert_eq!(node.said_v1(v1), ["detach 0 amqp:resource-deleted"]);
}

#[test]
fn a_slow_receiver_costs_no_more_than_its_bound() {
    let mut node = Node::new();
    let conn = node.connect_v1("c");
    let settled = LinkWishes {
        settled: true,
        ..plain()
    };
    node.send(conn, &receiver(0, "r", Some("q"), settled));
    node.send(conn, &credit(0, 0, 1_000_000, false));
    node.output(conn);
    let payload = "x".repeat(100_000);
    let mut most = 0;
    for _ in 0..400 {
        node.store("amqp/q/q", &payload);
        most = most.max(node.broker.waiting_bytes(conn));
    }
    assert!(
        most < 8 << 20,
        "{most} bytes wait for a client that does not read"
    );
    let mut got = 0;
    while got < 400 {
        let said = node.said_v1(conn);
        assert!(!said.is_empty(), "{got}");
        got += said.iter().filter(|words| !words.ends_with("more")).count();
        node.run();
    }
}

/// What a client says in one go, and what it gets, however the bytes arrive.
#[test]
fn bytes_may_come_one_at_a_time() {
    let mut bytes = hello("c", 65_536, 100);
    bytes.extend(sender(0, "s", Some("q"), plain()));
    bytes.extend(receiver(1, "r", Some("q"), plain()));
    bytes.extend(credit(1, 0, 10, false));
    bytes.extend(transfer(0, Some(0), false, &message("m")));
    let mut node = Node::new();
    let conn = node.open();
    for byte in bytes {
        node.send(conn, &[byte]);
    }
    let said = node.said_v1(conn);
    assert_eq!(said[said.len() - 2..], ["accepted 0-0", "transfer 1 0 m"]);
}

#[test]
fn wrong_bytes_get_the_errors_of_the_standard() {
    let durable = LinkWishes {
        durable: true,
        ..plain()
    };
    let long = |len: u32| [&len.to_be_bytes()[..], b"\x02\0\0\0"].concat();
    let on_channel = |channel: u8, mut frame: Vec<u8>| {
        frame[7] = channel;
        frame
    };
    for (bytes, expected) in [
        (long(1 << 20), "close amqp:connection:framing-error"),
        (long(4), "close amqp:connection:framing-error"),
        (
            b"\0\0\0\x08\x01\0\0\0".to_vec(),
            "close amqp:connection:framing-error",
        ),
        (
            b"\0\0\0\x0c\x02\x01\0\0\0\x53\x10\x45".to_vec(),
            "close amqp:connection:framing-error",
        ),
        (
            b"\0\0\0\x0c\x02\0\0\0\0\x53\x99\x45".to_vec(),
            "close amqp:decode-error",
        ),
        (
            b"\0\0\0\x0b\x02\0\0\0\xd0\xff\xff".to_vec(),
            "close amqp:decode-error",
        ),
        (open("again", 512), "close amqp:illegal-state"),
        (begin(1), "close amqp:illegal-state"),
        (on_channel(7, detach(0, true)), "close amqp:illegal-state"),
        (
            transfer(9, Some(0), false, b""),
            "end amqp:session:unattached-handle",
        ),
        (detach(9, true), "end amqp:session:unattached-handle"),
        (credit(9, 0, 1, false), "end amqp:session:unattached-handle"),
        (
            sender(5000, "s", Some("q"), plain()),
            "close amqp:connection:framing-error",
        ),
        (
            [
                sender(0, "a", Some("q"), plain()),
                sender(0, "b", Some("q"), plain()),
            ]
            .concat(),
            "end amqp:session:handle-in-use",
        ),
        (
            [
                sender(0, "a", Some("q"), plain()),
                transfer(0, None, false, b""),
            ]
            .concat(),
            "end amqp:invalid-field",
        ),
        (
            [
                sender(0, "a", Some("q"), plain()),
                transfer(0, Some(0), false, b"\xff"),
            ]
            .concat(),
            "rejected 0-0 amqp:decode-error",
        ),
        (
            [
                receiver(0, "a", Some("q"), plain()),
                transfer(0, Some(0), false, b""),
            ]
            .concat(),
            "end amqp:not-allowed",
        ),
        (
            sender(0, "a", Some("/queues/none"), plain()),
            "detach 0 amqp:not-found",
        ),
        (
            sender(0, "a", Some("/topics/$SYS/a"), plain()),
            "detach 0 amqp:unauthorized-access",
        ),
        (
            sender(0, "a", Some("/topics/a/#"), plain()),
            "detach 0 amqp:invalid-field",
        ),
        (
            receiver(0, "a", Some("/exchanges/none"), plain()),
            "detach 0 amqp:not-found",
        ),
        (
            receiver(0, &"n".repeat(600), Some("q"), plain()),
            "detach 0 amqp:invalid-field",
        ),
        (
            receiver(0, "n\0", Some("q"), plain()),
            "detach 0 amqp:invalid-field",
        ),
        // What 0-9-1 could not name, and a restart would not find again.
        (
            receiver(
                0,
                "a",
                Some(&format!("/topics/{}", "t".repeat(256))),
                plain(),
            ),
            "detach 0 amqp:invalid-field",
        ),
        (
            receiver(0, &"n".repeat(300), Some("/topics/t"), durable),
            "detach 0 amqp:invalid-field",
        ),
        (
            receiver(0, "a", Some(&"q".repeat(256)), plain()),
            "detach 0 amqp:invalid-field",
        ),
    ] {
        let mut node = Node::new();
        let conn = node.connect_v1("c");
        node.send(conn, &bytes);
        let last = node.said_v1(conn).pop().unwrap_or_default();
        assert_eq!(last, expected, "{bytes:02x?}");
    }
}

#[test]
fn logins_and_headers() {
    let mut node = Node::new();
    // A wrong password.
    let conn = node.open();
    let mut bytes = SASL_HEADER.to_vec();
    encode::frame(1, 0, &mut bytes, |out| {
        encode::put_described(0x41, out, |l| {
            let response = busbar_amqp::v1::TypedValue::Binary(b"\0guest\0wrong");
            l.symbol("PLAIN").value(&response);
        });
    });
    node.send(conn, &bytes);
    assert_eq!(node.said_v1(conn), ["SASL", "sasl 40", "outcome 1"]);
    assert!(node.broker.is_closing(conn));
    // Without SASL.
    let conn = node.open();
    node.send(conn, &[V1_HEADER, &open("c", 512)[..]].concat());
    assert_eq!(node.said_v1(conn), ["AMQP", "open"]);
    // Frames that are too small.
    let conn = node.open();
    node.send(conn, &[V1_HEADER, &open("c", 511)[..]].concat());
    assert_eq!(
        node.said_v1(conn),
        ["AMQP", "open", "close amqp:frame-size-too-small"]
    );
    // Neither of both.
    let conn = node.open();
    node.send(conn, b"AMQP\x02\x01\0\0");
    assert!(node.broker.is_closing(conn));
    // 0-9-1 on the same port.
    let conn = node.open();
    node.send(conn, &hello_0_9_1());
    assert!(node.said(conn).contains(&"10.41".to_owned()));
}

#[test]
fn random_bytes_never_panic() {
    let mut node = Node::new();
    let mut seed = 1u64;
    let mut next = || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let frames = [
        sender(0, "s", Some("q"), plain()),
        receiver(1, "r", Some("/topics/a/#"), plain()),
        credit(1, 0, 10, true),
        transfer(0, Some(0), false, &message("m")),
        settle(0, 5, MODIFIED, &[true, false]),
        detach(1, true),
    ];
    for _ in 0..3000 {
        let conn = node.connect_v1("c");
        for _ in 0..6 {
            let mut bytes = frames[next() % frames.len()].clone();
            for _ in 0..next() % 4 {
                let at = 8 + next() % (bytes.len() - 8);
                bytes[at] = next() as u8;
            }
            node.send(conn, &bytes);
        }
        node.output(conn);
        node.broker.gone(conn, node.now);
        node.run();
    }
}

#[test]
fn only_who_asks_for_it_is_the_user_of_a_certificate() {
    for (mechanism, user) in [("EXTERNAL", Some("device-7")), ("ANONYMOUS", None)] {
        let mut node = Node::new();
        let origin = ClientOrigin {
            address: None,
            user: Some("device-7".into()),
        };
        let conn = node
            .broker
            .open(origin, true, node.now)
            .expect("a connection");
        let mut bytes = SASL_HEADER.to_vec();
        encode::frame(1, 0, &mut bytes, |out| {
            encode::put_described(0x41, out, |l| {
                l.symbol(mechanism);
            });
        });
        node.send(conn, &bytes);
        assert_eq!(node.said_v1(conn), ["SASL", "sasl 40", "outcome 0"]);
        let logins = node.log.borrow().logins.clone();
        assert_eq!(logins, [(None, user.map(Into::into))], "{mechanism}");
    }
    // Without a certificate nobody is.
    let mut node = Node::new();
    let conn = node.open();
    let mut bytes = SASL_HEADER.to_vec();
    encode::frame(1, 0, &mut bytes, |out| {
        encode::put_described(0x41, out, |l| {
            l.symbol("EXTERNAL");
        });
    });
    node.send(conn, &bytes);
    assert_eq!(node.said_v1(conn), ["SASL", "sasl 40", "outcome 1"]);
}

#[test]
fn silence_is_ended_and_the_client_hears_something() {
    let mut node = Node::new();
    let conn = node.open();
    let mut bytes = V1_HEADER.to_vec();
    bytes.extend(frame(
        0x10,
        |l| {
            l.text("c").null().null().null().uint(10_000);
        },
        &[],
    ));
    node.send(conn, &bytes);
    node.output(conn);
    let mut said = Vec::new();
    for _ in 0..9 {
        node.now += 1_000_000;
        node.broker.tick(node.now);
        said.extend(node.said_v1(conn));
    }
    assert!(said.iter().any(|words| words == "beat"), "{said:?}");
    // The node's own time is a minute.
    node.now += 200_000_000;
    node.broker.tick(node.now);
    assert_eq!(node.said_v1(conn), ["close amqp:resource-limit-exceeded"]);
}
