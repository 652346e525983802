//! Exactly once although the writer is killed in the middle of a transaction, and the node that reads, again and again. With
//! `BUSBAR_KAFKA_BROKER_KILLS=ROUNDS` the broker is killed as well, in this many rounds (`make kafka-kills`).

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::kafka_server::{KafkaPeer, KafkaTestServer};
use crate::sink_context;
use crate::sinks::delivery;
use crate::subjects::numbered;
use crate::world::{World, eventually, rest, spec};

const STREAM: (&str, &str) = ("streams/in.yaml", "topics: in/#\n");
const DELIVERIES: u64 = 60;
const ROWS: u64 = 50;

/// Numbers by chance, the same ones for each seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

#[test]
fn rows_and_records_are_there_once_although_writer_and_reader_are_killed() {
    match std::env::var("BUSBAR_KAFKA_BROKER_KILLS") {
        Err(_) => round(0, false),
        Ok(rounds) => {
            for number in 0..rounds.parse().expect("a number of rounds") {
                let begun = std::time::Instant::now();
                round(number, true);
                println!("round {number}: {:.0?}", begun.elapsed());
            }
        }
    }
}

fn round(number: u64, broker: bool) {
    let kafka = KafkaTestServer::new(0, &[]);
    let peer = kafka.peer();
    let topic = kafka.topic(&peer, 1, &json!({}));
    let write = format!(
        "kafka: {{ brokers: ['{}'], timeout: 60s, write: {{ topic: {topic} }} }}\n",
        kafka.address()
    );
    let read = format!(
        "kafka: {{ brokers: ['{}'], read: {{ topics: [{topic}] }} }}\ntopic: in/rows\n",
        kafka.address()
    );
    let (write, folder) = (spec(&write), tempfile::tempdir().expect("a folder"));
    let registry = busbar_connect::registry();
    let connector = registry.get("kafka").expect("registered");
    let open = || connector.sink(&write, sink_context(folder.path()));
    let mut world = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
    world.apply(&[STREAM, ("connections/c.yaml", &read)]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut chance = Chance(0x5eed_cafe_1234 + number);
    let mut sink = runtime.block_on(open()).expect("it opens");
    for number in 0..DELIVERIES {
        let from = number * ROWS;
        let rows = delivery("rows", &numbered(from..from + ROWS), from + ROWS);
        let alive = chance.below(60);
        std::thread::scope(|scope| {
            if broker && number % 6 == 3 {
                scope.spawn(|| {
                    rest(alive);
                    kafka.server.kill();
                    kafka.server.start();
                });
            }
            // The writer dies in the middle, most often.
            for _ in 0..chance.below(4) {
                let patience = Duration::from_micros(chance.below(40_000));
                let _ = runtime
                    .block_on(async { tokio::time::timeout(patience, sink.write(&rows)).await });
                if chance.below(2) == 0 {
                    sink = runtime.block_on(open()).expect("it opens");
                }
            }
            eventually("the delivery", || {
                let written = runtime.block_on(sink.write(&rows));
                written.map(drop).map_err(|why| why.to_string())
            });
        });
        if number % 15 == 7 {
            world = world.restart();
            world.apply(&[STREAM, ("connections/c.yaml", &read)]);
        }
    }
    let wanted = numbered(0..DELIVERIES * ROWS);
    let peer = KafkaPeer::new(&kafka.address());
    assert_eq!(peer.values(&topic), wanted, "what others read");
    eventually("all records", || match world.events("in").len() {
        there if there >= wanted.len() => Ok(()),
        there => Err(format!("{there} {:?}", world.source("c"))),
    });
    let come: Vec<_> = world.events("in").iter().map(|e| e.text()).collect();
    assert_eq!(come, wanted, "what came in");
}
