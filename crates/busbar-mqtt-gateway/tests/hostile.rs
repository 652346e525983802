//! Hostile bytes into the session core: never a panic, never a core that does not come to rest,
//! never output without bound.

use busbar_mqtt::client::{encode_connect, encode_subscribe, encode_unsubscribe};
use busbar_mqtt::control::{Connect, SubscribeOptions};
use busbar_mqtt::{PublishOut, Version};
use busbar_mqtt_gateway::Limits;
use busbar_mqtt_gateway::sim::SimNode;
use proptest::prelude::*;

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let raw = prop::collection::vec(any::<u8>(), 0..40);
    let ack = (
        prop_oneof![Just(0x40u8), Just(0x50), Just(0x62), Just(0x70)],
        0u8..5,
    )
        .prop_map(|(kind, id)| vec![kind, 2, 0, id]);
    let publish = (
        0u8..3,
        0u16..4,
        "[abc/+#$]{0,6}",
        any::<bool>(),
        0usize..200,
    )
        .prop_map(|(qos, id, topic, retain, size)| {
            let mut bytes = Vec::new();
            PublishOut {
                dup: false,
                qos,
                retain,
                topic: topic.as_bytes(),
                packet_id: id,
                properties: &[],
                payload: &vec![7; size],
            }
            .encode(Version::V5, &mut bytes);
            bytes
        });
    let subscribe = ("(\\$share/[ab]/)?[abc/+#$]{0,5}", 0u8..3, any::<bool>()).prop_map(
        |(filter, qos, no_local)| {
            let mut bytes = Vec::new();
            let options = SubscribeOptions {
                qos,
                no_local,
                ..Default::default()
            };
            encode_subscribe(Version::V5, 1, None, &[(&filter, options)], &mut bytes);
            encode_unsubscribe(Version::V5, 2, &["a"], &mut bytes);
            bytes
        },
    );
    let connect = ("[ab]?", any::<bool>(), 0u32..3).prop_map(|(id, clean_start, expiry)| {
        let mut bytes = Vec::new();
        let connect = Connect {
            version: Version::V5,
            clean_start,
            keep_alive_s: 1,
            client_id: id,
            username: None,
            password: None,
            will: None,
            session_expiry_s: expiry,
            receive_maximum: 2,
            maximum_packet_size: Some(100),
            topic_alias_maximum: 2,
            request_response_info: false,
            request_problem_info: true,
            auth_method: None,
        };
        encode_connect(&connect, &mut bytes);
        bytes
    });
    prop_oneof![1 => raw, 3 => ack, 4 => publish, 3 => subscribe, 4 => connect, 1 => Just(vec![0xe0, 0])]
}

#[derive(Clone, Debug)]
enum Act {
    Bytes(usize, Vec<u8>, Option<(usize, u8)>),
    Close(usize),
    Advance,
    Crash,
    Restart,
    Cold,
    Trim,
    Hold(bool),
    Full(bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        20 => (0usize..4, packet(), prop::option::weighted(0.1, (0usize..60, any::<u8>())))
            .prop_map(|(conn, bytes, flip)| Act::Bytes(conn, bytes, flip)),
        2 => (0usize..4).prop_map(Act::Close),
        1 => Just(Act::Advance),
        1 => Just(Act::Crash),
        1 => Just(Act::Restart),
        1 => Just(Act::Cold),
        1 => Just(Act::Trim),
        1 => any::<bool>().prop_map(Act::Hold),
        1 => any::<bool>().prop_map(Act::Full),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_hostile_gets_through(acts in prop::collection::vec(act(), 1..120), cores in 1usize..3) {
        let limits = Limits { sessions_max: 3, connections_max: 6, receive_maximum: 5, ..Limits::default() };
        let mut node = SimNode::new(cores, limits);
        let mut conns = [None; 4];
        let mut written = 0;
        for act in acts {
            match act {
                Act::Bytes(slot, mut bytes, flip) => {
                    if let Some((at, to)) = flip
                        && let Some(byte) = bytes.get_mut(at)
                    {
                        *byte = to;
                    }
                    let conn = *conns[slot].get_or_insert_with(|| node.open());
                    node.input(conn, &bytes);
                }
                Act::Close(slot) => {
                    if let Some(conn) = conns[slot].take() {
                        node.close(conn);
                    }
                }
                Act::Advance => node.advance(1_700_000),
                Act::Crash => node.crash(),
                Act::Restart => node.restart(),
                Act::Cold => node.forget_cache(),
                Act::Trim => node.trim(),
                Act::Hold(hold) => node.durable_at_once = !hold,
                Act::Full(full) => node.log.borrow_mut().full = full,
            }
            for slot in &mut conns {
                if let Some(conn) = *slot {
                    written += node.output(conn).len();
                    if node.is_closed(conn) {
                        node.close(conn);
                        *slot = None;
                    }
                }
            }
        }
        prop_assert!(written < 10_000_000);
    }
}
