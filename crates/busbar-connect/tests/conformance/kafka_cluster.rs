//! Exactly once while brokers of a cluster of three are killed and leaders move: `make test-servers`.

use std::sync::Arc;

use serde_json::json;

use crate::kafka_server::{KafkaPeer, ports};
use crate::servers::{DatabaseServer, server_that_starts, start_kafka};
use crate::sink_context;
use crate::sinks::delivery;
use crate::subjects::numbered;
use crate::world::{World, eventually, spec};

const BROKERS: usize = 3;
const DELIVERIES: u64 = 60;
const ROWS: u64 = 50;

/// Brokers, each of which is a controller, too.
struct Cluster {
    brokers: Vec<DatabaseServer>,
}

impl Cluster {
    fn start() -> Result<Cluster, String> {
        let ports = ports(2 * BROKERS);
        let (plain, controllers) = ports.split_at(BROKERS);
        let voters = controllers.iter().enumerate();
        let voters = voters.map(|(at, port)| format!("{}@127.0.0.1:{port}", at + 1));
        let voters = voters.collect::<Vec<_>>().join(",");
        // One answers when two of them run.
        std::thread::scope(|scope| {
            let starting = plain.iter().zip(controllers).enumerate();
            let starting = starting.map(|(at, (port, controller))| {
                let settings = format!(
                    "node.id={}\ncontroller.quorum.voters={voters}\n\
                     listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
                     offsets.topic.replication.factor=3\ntransaction.state.log.replication.factor=3\n\
                     transaction.state.log.min.isr=2\nmin.insync.replicas=2\n\
                     broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\n",
                    at + 1
                );
                scope.spawn(move || start_kafka(*port, &[("kafka.properties", settings.as_bytes())]))
            });
            let starting: Vec<_> = starting.collect();
            let started = starting
                .into_iter()
                .map(|thread| thread.join().expect("a thread"));
            Ok(Cluster {
                brokers: started.collect::<Result<_, String>>()?,
            })
        })
    }

    /// Where the brokers are.
    fn addresses(&self) -> Vec<String> {
        let ports = self.brokers.iter().map(|broker| broker.port);
        ports.map(|port| format!("127.0.0.1:{port}")).collect()
    }
}

/// While rows are written and read, each broker is killed once and starts again: leaders and coordinators move each time. Each
/// row is there once, for readers of others and in the stream.
#[test]
#[ignore = "make test-servers"]
fn rows_and_records_are_there_once_although_brokers_are_killed_and_leaders_move() {
    let cluster = server_that_starts(Cluster::start);
    let addresses = cluster.addresses();
    let peer = KafkaPeer::new(&addresses.join(","));
    let topic = cluster.brokers[0].name();
    eventually("a topic on three brokers", || {
        let create = json!({"do": "create", "topic": topic, "partitions": 1, "replicas": BROKERS});
        peer.try_ask(create)
    });
    let brokers = addresses.join("', '");
    let write = spec(&format!(
        "kafka: {{ brokers: ['{brokers}'], timeout: 60s, write: {{ topic: {topic} }} }}\n"
    ));
    let read = format!(
        "kafka: {{ brokers: ['{brokers}'], read: {{ topics: [{topic}] }} }}\ntopic: in/rows\n"
    );
    let world = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
    world.apply(&[
        ("streams/in.yaml", "topics: in/#\n"),
        ("connections/c.yaml", &read),
    ]);
    let registry = busbar_connect::registry();
    let connector = registry.get("kafka").expect("registered");
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut sink = runtime
        .block_on(connector.sink(&write, sink_context(folder.path())))
        .expect("it opens");
    let mut led = Vec::new();
    for number in 0..DELIVERIES {
        let rows = delivery(
            "rows",
            &numbered(number * ROWS..(number + 1) * ROWS),
            (number + 1) * ROWS,
        );
        std::thread::scope(|scope| {
            let every = DELIVERIES / BROKERS as u64;
            if number % every == every / 2 {
                // That which leads, as long as each has its turn.
                let leader = eventually("a leader", || {
                    let leaders = peer.try_ask(json!({"do": "leaders", "topic": topic}))?;
                    let leader = leaders[0].as_u64().filter(|leader| *leader > 0);
                    leader.ok_or_else(|| leaders.to_string())
                });
                let leader = leader as usize - 1;
                led.push(leader);
                let broker = &cluster.brokers[leader];
                broker.kill();
                scope.spawn(move || broker.start());
            }
            eventually("the delivery", || {
                let written = runtime.block_on(sink.write(&rows));
                written.map(drop).map_err(|why| why.to_string())
            });
        });
    }
    assert!(led.windows(2).any(|pair| pair[0] != pair[1]), "{led:?}");
    let wanted = numbered(0..DELIVERIES * ROWS);
    assert_eq!(peer.values(&topic), wanted, "what others read");
    eventually("all records", || match world.events("in").len() {
        there if there >= wanted.len() => Ok(()),
        there => Err(format!("{there} {:?}", world.source("c"))),
    });
    let come: Vec<_> = world.events("in").iter().map(|e| e.text()).collect();
    assert_eq!(come, wanted, "what came in");
}
