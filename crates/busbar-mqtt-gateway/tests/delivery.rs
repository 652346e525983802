//! Random publishes, acknowledgements, lost connections, crashes and restarts over a node in memory,
//! against a model: QoS 1 at least once, QoS 2 exactly once, in order for each topic and QoS, both
//! ways, and nothing that was acknowledged is lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use busbar_mqtt::ack::encode_run;
use busbar_mqtt::client::{ServerPacket, decode, encode_connect, encode_subscribe};
use busbar_mqtt::control::{Connect, SubscribeOptions};
use busbar_mqtt::{AckKind, PublishOut, Split, Version, split};
use busbar_mqtt_gateway::Limits;
use busbar_mqtt_gateway::sim::{SimConn, SimNode};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Act {
    /// Publish with a QoS of 1 or 2 to one of some topics.
    Publish(u8, u8),
    /// The subscriber answers what it has, up to so many packets.
    Answer(u8),
    /// What waits becomes durable.
    Commit,
    /// What waits becomes durable, but not what follows from it.
    Step,
    /// The publisher's or the subscriber's connection is lost, and made again.
    Reconnect(bool),
    Crash,
    Restart,
    Cold,
    Advance,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (1u8..=2, 0u8..3).prop_map(|(qos, topic)| Act::Publish(qos, topic)),
        5 => (1u8..8).prop_map(Act::Answer),
        3 => Just(Act::Commit),
        3 => Just(Act::Step),
        2 => any::<bool>().prop_map(Act::Reconnect),
        1 => Just(Act::Crash),
        1 => Just(Act::Restart),
        1 => Just(Act::Cold),
        1 => Just(Act::Advance),
    ]
}

/// A client as the standard wants one.
struct Client {
    id: &'static str,
    receive: u16,
    conn: Option<SimConn>,
    input: Vec<u8>,
    /// Publishes not acknowledged: identifier, QoS, released, topic, number.
    unacked: VecDeque<(u16, u8, bool, u8, u32)>,
    next_id: u16,
    /// Messages to answer: identifier and kind.
    todo: VecDeque<(u16, AckKind)>,
    /// QoS 2 identifiers received and not released.
    holding: BTreeSet<u16>,
    /// Got, by topic and QoS.
    got: BTreeMap<(String, u8), Vec<u32>>,
}

impl Client {
    fn new(id: &'static str, receive: u16) -> Client {
        Client {
            id,
            receive,
            conn: None,
            input: Vec::new(),
            unacked: VecDeque::new(),
            next_id: 1,
            todo: VecDeque::new(),
            holding: BTreeSet::new(),
            got: BTreeMap::new(),
        }
    }

    fn connect(&mut self, node: &mut SimNode) {
        if let Some(conn) = self.conn.take() {
            node.close(conn);
        }
        self.input.clear();
        self.todo.clear();
        let conn = node.open();
        self.conn = Some(conn);
        let mut bytes = Vec::new();
        encode_connect(
            &Connect {
                version: Version::V5,
                clean_start: false,
                keep_alive_s: 0,
                client_id: self.id.into(),
                username: None,
                password: None,
                will: None,
                session_expiry_s: 100_000,
                receive_maximum: self.receive,
                maximum_packet_size: None,
                topic_alias_maximum: 3,
                request_response_info: false,
                request_problem_info: true,
                auth_method: None,
            },
            &mut bytes,
        );
        node.input(conn, &bytes);
        // What was not acknowledged is sent again.
        let again: Vec<_> = self.unacked.iter().copied().collect();
        for (id, qos, released, topic, number) in again {
            match released {
                true => {
                    let mut bytes = Vec::new();
                    encode_run(AckKind::Pubrel, id, 1, &mut bytes);
                    node.input(conn, &bytes);
                }
                false => self.send(node, id, qos, topic, number, true),
            }
        }
    }

    fn send(&self, node: &mut SimNode, id: u16, qos: u8, topic: u8, number: u32, dup: bool) {
        let Some(conn) = self.conn else { return };
        let mut bytes = Vec::new();
        PublishOut {
            dup,
            qos,
            retain: false,
            topic: format!("t/{topic}").as_bytes(),
            packet_id: id,
            properties: &[],
            payload: &number.to_be_bytes(),
        }
        .encode(Version::V5, &mut bytes);
        node.input(conn, &bytes);
    }

    fn publish(&mut self, node: &mut SimNode, qos: u8, topic: u8, number: u32) {
        let id = self.next_id;
        self.next_id += 1;
        self.unacked.push_back((id, qos, false, topic, number));
        self.send(node, id, qos, topic, number, false);
    }

    fn listen(&mut self, node: &mut SimNode, aliases: &mut BTreeMap<u32, String>) -> Vec<u32> {
        let mut acknowledged = Vec::new();
        let Some(conn) = self.conn else {
            return acknowledged;
        };
        self.input.extend(node.output(conn));
        assert!(
            !node.is_closed(conn),
            "the server closed the connection of {}",
            self.id
        );
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        let mut bytes = Vec::new();
        while let Ok(Split::Whole(frame)) = split(&input[at..], u32::MAX) {
            match decode(frame, Version::V5).expect("a packet") {
                ServerPacket::Publish(p) => self.message(&p, aliases),
                ServerPacket::Ack(a) if a.kind == AckKind::Pubrel => {
                    self.todo.push_back((a.packet_id, AckKind::Pubcomp));
                }
                ServerPacket::Ack(a) => {
                    // After a crash the server may have finished what the client has not.
                    assert!(
                        a.kind == AckKind::Pubcomp || !a.reason.is_failure(),
                        "{a:?}"
                    );
                    let Some(i) = self.unacked.iter().position(|u| u.0 == a.packet_id) else {
                        continue;
                    };
                    match a.kind {
                        AckKind::Pubrec => {
                            self.unacked[i].2 = true;
                            acknowledged.push(self.unacked[i].4);
                            encode_run(AckKind::Pubrel, a.packet_id, 1, &mut bytes);
                        }
                        _ => {
                            acknowledged.push(self.unacked[i].4);
                            self.unacked.remove(i);
                        }
                    }
                }
                _ => {}
            }
            at += frame.len;
        }
        self.input = input[at..].to_vec();
        node.input(conn, &bytes);
        acknowledged
    }

    fn message(&mut self, p: &busbar_mqtt::Publish<'_>, aliases: &mut BTreeMap<u32, String>) {
        let alias = p
            .parse_properties()
            .expect("properties")
            .alias
            .map(u32::from);
        let mut topic = p.topic_text().expect("a topic").to_owned();
        match alias {
            Some(alias) if topic.is_empty() => topic = aliases[&alias].clone(),
            Some(alias) => {
                aliases.insert(alias, topic.clone());
            }
            None => {}
        }
        let number = u32::from_be_bytes(p.payload.try_into().expect("four bytes"));
        match p.qos {
            1 => self.todo.push_back((p.packet_id, AckKind::Puback)),
            2 => {
                self.todo.push_back((p.packet_id, AckKind::Pubrec));
                if !self.holding.insert(p.packet_id) {
                    return;
                }
            }
            _ => {}
        }
        self.got.entry((topic, p.qos)).or_default().push(number);
    }

    fn answer(&mut self, node: &mut SimNode, count: usize) {
        let Some(conn) = self.conn else { return };
        let mut bytes = Vec::new();
        for _ in 0..count {
            let Some((id, kind)) = self.todo.pop_front() else {
                break;
            };
            if kind == AckKind::Pubcomp {
                self.holding.remove(&id);
            }
            encode_run(kind, id, 1, &mut bytes);
        }
        node.input(conn, &bytes);
    }
}

fn without_repeats(list: &[u32]) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    list.iter().copied().filter(|n| seen.insert(*n)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn promises_are_kept(acts in prop::collection::vec(act(), 1..80), receive in 1u16..6, cores in 1usize..3) {
        let mut node = SimNode::new(cores, Limits::default());
        let mut publisher = Client::new("pub", u16::MAX);
        let mut subscriber = Client::new("sub", receive);
        let mut aliases = BTreeMap::new();
        let mut promised: BTreeSet<u32> = BTreeSet::new();
        publisher.connect(&mut node);
        subscriber.connect(&mut node);
        let mut bytes = Vec::new();
        let options = SubscribeOptions { qos: 2, ..Default::default() };
        encode_subscribe(Version::V5, 1, None, &[("t/#", options)], &mut bytes);
        node.input(subscriber.conn.expect("connected"), &bytes);
        subscriber.listen(&mut node, &mut aliases);
        node.durable_at_once = false;
        let mut number = 0;
        for act in acts {
            match act {
                Act::Publish(qos, topic) => {
                    number += 1;
                    publisher.publish(&mut node, qos, topic, number);
                }
                Act::Answer(count) => subscriber.answer(&mut node, count.into()),
                Act::Commit => node.commit(),
                Act::Step => node.step(),
                Act::Reconnect(true) => publisher.connect(&mut node),
                Act::Reconnect(false) => {
                    aliases.clear();
                    subscriber.connect(&mut node);
                }
                Act::Crash | Act::Restart => {
                    match act {
                        Act::Crash => node.crash(),
                        _ => node.restart(),
                    }
                    node.durable_at_once = false;
                    aliases.clear();
                    publisher.conn = None;
                    subscriber.conn = None;
                    publisher.connect(&mut node);
                    subscriber.connect(&mut node);
                }
                Act::Cold => node.forget_cache(),
                Act::Advance => node.advance(600_000),
            }
            promised.extend(publisher.listen(&mut node, &mut BTreeMap::new()));
            subscriber.listen(&mut node, &mut aliases);
        }
        // Everything calms down.
        node.durable_at_once = true;
        for _ in 0..400 {
            node.commit();
            promised.extend(publisher.listen(&mut node, &mut BTreeMap::new()));
            subscriber.listen(&mut node, &mut aliases);
            subscriber.answer(&mut node, 100);
        }
        prop_assert!(publisher.unacked.is_empty(), "not acknowledged: {:?}", publisher.unacked);
        prop_assert_eq!(promised.len() as u32, number);
        let log = node.log.borrow();
        let stored: Vec<u32> = log.rows().iter().map(|(_, p)| u32::from_be_bytes(p[..].try_into().expect("four bytes"))).collect();
        for n in 1..=number {
            prop_assert!(stored.contains(&n), "{n} was promised and is not stored");
        }
        for ((topic, qos), got) in &subscriber.got {
            let once = without_repeats(got);
            if *qos == 2 {
                prop_assert_eq!(&once, got, "QoS 2 came twice on {}", topic);
                // What the publisher sent once more under its identifier is stored once.
                let mut sorted = once.clone();
                sorted.sort_unstable();
                prop_assert_eq!(&sorted, &once, "QoS 2 out of order on {}", topic);
            } else {
                let mut sorted = once.clone();
                sorted.sort_unstable();
                prop_assert_eq!(&sorted, &once, "QoS 1 out of order on {}", topic);
            }
        }
        let all: BTreeSet<u32> = subscriber.got.values().flatten().copied().collect();
        prop_assert_eq!(all.len() as u32, number, "delivered");
    }
}
