//! What the rows of a table are where nodes of one consumer group write it and one of them dies.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use crate::kafka_server::{KafkaPeer, kafka};
use crate::servers::postgres;
use crate::world::{Event, World, eventually, rest};

const PARTITIONS: u32 = 4;
/// Records that are produced at once.
const SOME: u64 = 50;
/// Times that a node is killed until one has read what it had not told.
const KILLS_MAX: u64 = 10;

/// A node of the group, which is named like the topic, that writes each record twice: by its key, and as a row of its own.
struct GroupWriter {
    name: &'static str,
    world: World,
}

impl GroupWriter {
    fn join(
        name: &'static str,
        world: World,
        topic: &str,
        kafka: &str,
        database: &str,
    ) -> GroupWriter {
        let read = format!(
            "kafka: {{ brokers: ['{kafka}'], timeout: 20s, read: {{ topics: ['{topic}'], group: {topic}, join: true, session: 6s }} }}\ntopic: in/rows\n"
        );
        let write = |options: &str| {
            format!(
                "postgres: {{ address: '127.0.0.1:{}', database: {database}, user: postgres, password: secret, write: {{ {options}, producer: {name} }} }}\n",
                postgres().port
            )
        };
        let flow = |to: &str| {
            format!(
                "from: in\nsteps:\n  - select: n, '{name}' as node\nto:\n  - connection: {to}\n"
            )
        };
        world.apply(&[
            (
                "streams/in.yaml",
                "topics: in/#\nformat: json\nschema: { n: int }\n",
            ),
            ("connections/c.yaml", &read),
            (
                "connections/keyed.yaml",
                &write("table: keyed, mode: upsert, key: [n]"),
            ),
            ("connections/added.yaml", &write("table: added")),
            ("flows/keyed.yaml", &flow("keyed")),
            ("flows/added.yaml", &flow("added")),
        ]);
        GroupWriter { name, world }
    }

    /// Records that it has read, with its name.
    fn read(&self) -> Vec<(i64, String)> {
        let events = self.world.events("in").into_iter();
        let number = |event: Event| event.json()["n"].as_i64().expect("a number");
        events
            .map(|event| (number(event), self.name.to_owned()))
            .collect()
    }

    fn partitions(&self) -> usize {
        self.world.source("c").lag_events.len()
    }
}

/// Waits until the nodes read so many partitions each.
fn share(members: &[&GroupWriter], each: usize) {
    eventually("the partitions to be shared out", || {
        let read: Vec<_> = members.iter().map(|member| member.partitions()).collect();
        match read.iter().all(|count| *count == each) {
            true => Ok(()),
            false => Err(format!("{read:?}")),
        }
    });
}

/// How many records there are among those that were read.
fn distinct(read: &[(i64, String)]) -> usize {
    read.iter().map(|(n, _)| n).collect::<BTreeSet<_>>().len()
}

fn produce(peer: &KafkaPeer, topic: &str, from: u64) {
    let rows: Vec<_> = (from..from + SOME)
        .map(|n| json!([format!("{{\"n\":{n}}}"), null, n % u64::from(PARTITIONS)]))
        .collect();
    peer.ask(json!({"do": "produce", "topic": topic, "rows": rows}));
}

/// Each node writes what it has read exactly once. A node that dies may have read records that it had not told the group,
/// which come at another node again: such a record is two rows where rows are added, and one where they are written by key.
/// What a dead node had told and not written is written when it is back.
#[test]
fn a_record_is_one_row_by_its_key_although_a_node_of_the_group_dies() {
    let peer = kafka().peer();
    let topic = kafka().topic(&peer, PARTITIONS, &json!({}));
    let database = postgres().database(
        "create table keyed (n bigint primary key, node text); create table added (n bigint, node text)",
    );
    let cut = kafka().cut();
    let address = format!("127.0.0.1:{}", cut.port);
    let new = || World::new(Arc::new(tempfile::tempdir().expect("a folder")));
    let first = GroupWriter::join("first", new(), &topic, &kafka().address(), &database);
    let mut second = GroupWriter::join("second", new(), &topic, &address, &database);
    let mut produced = 0;
    let mut twice = 0;
    for kills in 1.. {
        share(&[&first, &second], 2);
        // It dies while records come, and does not tell any more what it reads.
        let had = second.read().len();
        eventually("records at the second node", || {
            produce(&peer, &topic, produced);
            produced += SOME;
            match second.read().len() > had + SOME as usize {
                true => Ok(()),
                false => Err(produced.to_string()),
            }
        });
        cut.cut();
        let (disk, folder) = second.world.kill();
        share(&[&first], 4);
        eventually("the rows of all records", || {
            let count = format!("select count(*) from keyed where n < {produced}");
            let there = distinct(&first.read());
            let rows = postgres().run(&database, &count);
            // The others are in the log of the node that is away.
            match rows.trim().parse::<usize>() {
                Ok(rows) if rows >= there => Ok(()),
                _ => Err(format!("{rows} of {there}")),
            }
        });
        cut.join();
        let world = World::open(disk, folder);
        second = GroupWriter::join("second", world, &topic, &address, &database);
        eventually("each record at a node", || {
            match distinct(&[first.read(), second.read()].concat()) as u64 {
                whole if whole == produced => Ok(()),
                part => Err(format!("{part} of {produced}")),
            }
        });
        let all = [first.read(), second.read()].concat();
        twice = all.len() as u64 - produced;
        if twice > 0 || kills >= KILLS_MAX {
            break;
        }
    }
    assert!(twice > 0, "no record has come twice in {KILLS_MAX} kills");
    let mut read = [first.read(), second.read()].concat();
    read.sort();
    let added = || {
        let rows = postgres().run(&database, "select n, node from added order by n, node");
        let rows = rows.lines().filter_map(|line| line.split_once('|'));
        let rows = rows.map(|(n, node)| (n.parse::<i64>().expect("a number"), node.to_owned()));
        rows.collect::<Vec<_>>()
    };
    eventually("a row for each reading", || match added().len() {
        whole if whole >= read.len() => Ok(()),
        part => Err(format!("{part} of {}", read.len())),
    });
    rest(300);
    // Each node has written exactly what it has read, so that a record that came twice is there twice.
    assert_eq!(added(), read);
    let keyed = postgres().run(&database, "select n from keyed order by n");
    let keyed: Vec<u64> = keyed
        .lines()
        .map(|n| n.parse().expect("a number"))
        .collect();
    assert_eq!(keyed, (0..produced).collect::<Vec<_>>());
}
