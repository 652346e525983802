//! What waits for a client that does not read, or from one that does not finish, has its bounds, and
//! goes on when there is room again.

use busbar_mqtt::client::{ServerPacket, decode, encode_connect, encode_pingreq, encode_subscribe};
use busbar_mqtt::control::{Connect, SubscribeOptions};
use busbar_mqtt::{PublishOut, Split, Version, split};
use busbar_mqtt_gateway::Limits;
use busbar_mqtt_gateway::limits::{
    CLOSE_WAIT_US, GROUP_QUEUE_ROWS_MAX, HELD_BYTES_MAX, LARGE_PACKET_BYTES_PER_SECOND_MIN,
    LARGE_PACKETS_BYTES_MAX, OUT_BYTES_HIGH, OUT_BYTES_STOP_READING, READ_BYTES,
    RETAINED_TASKS_MAX,
};
use busbar_mqtt_gateway::sim::{SimConn, SimNode};

fn node() -> SimNode {
    SimNode::new(1, Limits::default())
}

fn client(node: &mut SimNode, id: &str, session_expiry_s: u32, receive_maximum: u16) -> SimConn {
    let connect = Connect {
        version: Version::V5,
        clean_start: false,
        keep_alive_s: 0,
        client_id: id.into(),
        username: None,
        password: None,
        will: None,
        session_expiry_s,
        receive_maximum,
        maximum_packet_size: None,
        topic_alias_maximum: 0,
        request_response_info: false,
        request_problem_info: true,
        auth_method: None,
    };
    let mut bytes = Vec::new();
    encode_connect(&connect, &mut bytes);
    let conn = node.open();
    node.input(conn, &bytes);
    conn
}

fn publish(qos: u8, retain: bool, packet_id: u16, size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packet = PublishOut {
        dup: false,
        qos,
        retain,
        topic: b"t",
        packet_id,
        properties: &[],
        payload: &vec![b'x'; size],
    };
    packet.encode(Version::V5, &mut bytes);
    bytes
}

fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let options = SubscribeOptions {
        qos,
        ..Default::default()
    };
    encode_subscribe(Version::V5, 1, None, &[(filter, options)], &mut bytes);
    bytes
}

/// How many messages came.
fn messages(bytes: &[u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    while let Ok(Split::Whole(frame)) = split(&bytes[at..], u32::MAX) {
        let packet = decode(frame, Version::V5).expect("a packet");
        count += usize::from(matches!(packet, ServerPacket::Publish(_)));
        at += frame.len;
    }
    count
}

#[test]
fn who_does_not_read_is_not_read() {
    let mut node = node();
    let deaf = client(&mut node, "deaf", 0, 10);
    let mut ping = Vec::new();
    encode_pingreq(&mut ping);
    node.input(deaf, &ping.repeat(OUT_BYTES_STOP_READING / ping.len()));
    assert!(!node.wants_input(deaf), "answers");
    node.output(deaf);
    assert!(node.wants_input(deaf));
    // Its subscriptions ask for a retained message again and again.
    node.input(deaf, &publish(1, true, 1, OUT_BYTES_HIGH));
    node.input(deaf, &subscribe("t", 0).repeat(RETAINED_TASKS_MAX + 1));
    assert!(!node.wants_input(deaf), "retained messages");
}

#[test]
fn what_is_not_on_disk_yet_is_bounded() {
    let mut node = node();
    let quick = client(&mut node, "quick", 100, 10);
    node.durable_at_once = false;
    node.input(quick, &publish(2, false, 1, HELD_BYTES_MAX));
    assert!(!node.wants_input(quick));
    node.commit();
    assert!(node.wants_input(quick));
}

#[test]
fn who_reads_late_gets_everything() {
    let mut node = node();
    let late = client(&mut node, "late", 0, 10);
    node.input(late, &subscribe("t", 0));
    let sender = client(&mut node, "sender", 0, 10);
    for _ in 0..40 {
        node.input(sender, &publish(0, false, 0, OUT_BYTES_HIGH / 8));
    }
    assert_eq!(messages(&node.output(late)), 40);
}

#[test]
fn who_does_not_hear_the_goodbye_is_let_go_of() {
    let mut node = node();
    let deaf = client(&mut node, "deaf", 0, 10);
    node.output(deaf);
    node.input(deaf, &[0, 0]);
    node.advance(CLOSE_WAIT_US + 2_000_000);
    assert!(node.is_closed(deaf) && node.output(deaf).is_empty());
}

#[test]
fn large_packets_wait_for_each_other_and_do_not_dawdle() {
    let mut node = node();
    let large = publish(1, false, 1, 4 << 20);
    let begun: Vec<SimConn> = (0..=LARGE_PACKETS_BYTES_MAX / large.len())
        .map(|n| {
            let conn = client(&mut node, &format!("c{n}"), 0, 10);
            node.output(conn);
            node.input(conn, &large[..READ_BYTES / 2]);
            conn
        })
        .collect();
    let (last, others) = begun.split_last().expect("some");
    assert!(others.iter().all(|conn| node.wants_input(*conn)));
    assert!(!node.wants_input(*last), "there is no room");
    node.close(others[0]);
    assert!(node.wants_input(*last), "there is room again");
    let seconds = large.len() as i64 / LARGE_PACKET_BYTES_PER_SECOND_MIN;
    node.advance((seconds - 2) * 1_000_000);
    assert!(!node.is_closed(others[1]));
    node.advance(4_000_000);
    assert!(node.is_closed(others[1]) && node.is_closed(*last));
}

#[test]
fn a_slow_member_of_a_group_takes_no_more_than_its_share() {
    let mut node = node();
    let shared = subscribe("$share/g/t", 1);
    let slow = client(&mut node, "slow", 100, 1);
    node.input(slow, &shared);
    node.close(slow);
    let sender = client(&mut node, "sender", 0, 10);
    let count = 4 * GROUP_QUEUE_ROWS_MAX;
    node.input(sender, &publish(1, false, 1, 1).repeat(count));
    let slow = client(&mut node, "slow", 100, 1);
    assert_eq!(messages(&node.output(slow)), 1);
    let quick = client(&mut node, "quick", 0, u16::MAX);
    node.input(quick, &shared);
    let got = messages(&node.output(quick));
    assert!(got + 1 + GROUP_QUEUE_ROWS_MAX >= count, "{got}");
}
