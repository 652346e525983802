//! Kills the node with SIGKILL at random moments under load, again and again, and compares what
//! clients were promised with what is there.
//!
//! Promised: a QoS 1 publish that was acknowledged is in the stream; a QoS 2 publish is there
//! exactly once, however often its sender had to come back; a flow's output, in another stream and
//! in a SQLite table, has each event of its input exactly once; a persistent QoS 1 subscription
//! has received every acknowledged event at least once; what a plug-in in worker processes makes is in a table exactly once,
//! although its workers are killed too; an event that an orchestration reads is an instance, or one dead letter.
//!
//! `BUSBAR_CRASH_ROUNDS` sets the number of kills, `BUSBAR_CRASH_SEED` repeats one order of waits.

#![allow(missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use support::mqtt::Client;
use support::node::Node;

const ROUNDS: u32 = 200;
const LOAD_MILLIS_MAX: u64 = 250;
const CATCH_UP_MAX: Duration = Duration::from_secs(120);
const READER: &str = "reader";
/// QoS 1 numbers count up from 0, QoS 2 numbers from here.
const QOS2_FROM: u64 = 1 << 40;

const PROJECT: &[(&str, &str)] = &[
    (
        "streams/reading.yaml",
        "topics: r/#\nformat: json\nschema:\n  n: int\n",
    ),
    (
        "streams/copy.yaml",
        "topics: copy/#\nformat: json\nschema:\n  n: int\n",
    ),
    ("tables/seen.yaml", "relational: {}\n"),
    (
        "flows/copy.yaml",
        "from: reading\nsteps:\n  - select: n\nto:\n  - topic: copy/all\n  - table: seen\n",
    ),
];

#[test]
fn what_was_acknowledged_survives_sigkill() {
    let rounds = setting("BUSBAR_CRASH_ROUNDS").map_or(ROUNDS, |rounds| rounds as u32);
    let seed = setting("BUSBAR_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("BUSBAR_CRASH_SEED={seed}");
    let mut random = Random(seed | 1);
    let mut node = Node::new(PROJECT);
    let mut promised = BTreeSet::new();
    let mut qos1 = 0;
    let mut qos2 = ExactlyOnce {
        next: QOS2_FROM,
        open: BTreeMap::new(),
        done: BTreeSet::new(),
    };
    let mut received = BTreeSet::new();

    node.start();
    let mut reader = Client::connect(node.mqtt, READER, false).expect("the subscriber");
    reader.subscribe("r/one/#", 1).expect("its subscription");
    drop(reader);
    node.kill();

    let mut round_first = 0;
    for round in 0..rounds {
        node.start();
        let present = numbers(&node, "reading", round_first, QOS2_FROM);
        let lost: Vec<_> = promised
            .range(round_first..)
            .filter(|n| !present.contains(n))
            .take(5)
            .collect();
        assert!(
            lost.is_empty(),
            "round {round}: acknowledged and gone: {lost:?}\n{}",
            node.output()
        );

        round_first = qos1;
        let mqtt = node.mqtt;
        let alive = AtomicBool::new(true);
        thread::scope(|scope| {
            let one = scope.spawn(|| publish_qos1(mqtt, round_first, &alive));
            let two = scope.spawn(|| qos2.publish(mqtt, &alive));
            let (sender, inbox) = mpsc::channel();
            scope.spawn(move || receive(mqtt, &sender));
            let wait = Duration::from_millis(random.below(LOAD_MILLIS_MAX));
            thread::park_timeout(wait);
            node.kill();
            alive.store(false, Ordering::Release);
            let (next, acknowledged) = one.join().expect("the QoS 1 publisher");
            qos1 = next;
            promised.extend(acknowledged);
            two.join().expect("the QoS 2 publisher");
            received.extend(inbox);
        });
    }

    node.start();
    qos2.finish(node.mqtt);
    let events = numbers(&node, "reading", 0, u64::MAX >> 1);
    assert_eq!(
        node.count("select count(*) from reading"),
        events.len() as u64,
        "an event is there twice"
    );
    let lost: Vec<_> = promised.difference(&events).take(5).collect();
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
    let lost: Vec<_> = qos2.done.difference(&events).take(5).collect();
    assert!(lost.is_empty(), "QoS 2 completed and gone: {lost:?}");

    for place in ["copy", "seen"] {
        let sql = format!("select count(*) from {place}");
        let begun = Instant::now();
        while node.count(&sql) < events.len() as u64 && begun.elapsed() < CATCH_UP_MAX {
            thread::park_timeout(Duration::from_millis(50));
        }
        assert_eq!(
            node.count(&sql),
            events.len() as u64,
            "{place} has other events than the stream"
        );
        assert_eq!(
            numbers(&node, place, 0, u64::MAX >> 1),
            events,
            "{place} differs"
        );
    }

    let (sender, inbox) = mpsc::channel();
    let mqtt = node.mqtt;
    let reader = thread::spawn(move || receive(mqtt, &sender));
    let begun = Instant::now();
    while promised.iter().any(|n| !received.contains(n)) && begun.elapsed() < CATCH_UP_MAX {
        while let Ok(n) = inbox.recv_timeout(Duration::from_millis(200)) {
            received.insert(n);
        }
    }
    node.kill();
    reader.join().expect("the subscriber");
    let missed: Vec<_> = promised.difference(&received).take(5).collect();
    assert!(
        missed.is_empty(),
        "the persistent subscription never received {missed:?}"
    );
    assert!(
        promised.len() > rounds as usize,
        "too little load to mean anything"
    );
    println!(
        "{rounds} kills: {} QoS 1 and {} QoS 2 events promised, all there",
        promised.len(),
        qos2.done.len()
    );
}

/// Kills of the node in the test with a plug-in, whose workers take their time to start.
const PLUGIN_ROUNDS: u32 = 12;

const PLUGIN_WORKERS: usize = 2;

const PLUGIN_PROJECT: &[(&str, &str)] = &[
    (
        "streams/reading.yaml",
        "topics: r/#\nformat: json\nschema:\n  n: int\n",
    ),
    (
        "tables/worked.yaml",
        "relational: {}\ncolumns: [{ name: n, type: int }, { name: twice, type: int }]\n",
    ),
    (
        "plugins/work/plugin.yaml",
        "language: python\nworkers: 2\ncolumns: [{ name: n, type: int }, { name: twice, type: int }]\n",
    ),
    (
        "plugins/work/main.py",
        "def process(event):\n    n = event['payload']['n']\n    return {'payload': {'n': n, 'twice': 2 * n}}\n",
    ),
    (
        "flows/work.yaml",
        "from: reading\nsteps:\n  - script: work\nto:\n  - table: worked\n",
    ),
];

#[test]
fn what_workers_of_a_plugin_make_is_there_once_although_they_and_the_node_are_killed() {
    let rounds = setting("BUSBAR_CRASH_ROUNDS")
        .map_or(PLUGIN_ROUNDS, |rounds| (rounds as u32).min(PLUGIN_ROUNDS));
    let seed = setting("BUSBAR_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("BUSBAR_CRASH_SEED={seed}");
    let mut random = Random(seed | 1);
    let mut node = Node::new(PLUGIN_PROJECT);
    let (mut next, mut killed) = (0, 0);
    for _ in 0..rounds {
        node.start();
        let mqtt = node.mqtt;
        let alive = AtomicBool::new(true);
        next = thread::scope(|scope| {
            let end = ClearAtEnd(&alive);
            let publisher = scope.spawn(|| publish_qos1(mqtt, next, &alive));
            // Each once: an event on which a worker ends twice is a dead letter.
            for worker in 0..PLUGIN_WORKERS {
                thread::park_timeout(Duration::from_millis(random.below(LOAD_MILLIS_MAX)));
                killed += kill_worker(&node, worker);
            }
            thread::park_timeout(Duration::from_millis(random.below(LOAD_MILLIS_MAX)));
            node.kill();
            drop(end);
            publisher.join().expect("the publisher").0
        });
    }
    node.start();
    let events = numbers(&node, "reading", 0, u64::MAX >> 1);
    let begun = Instant::now();
    while node.count("select count(*) from worked") < events.len() as u64
        && begun.elapsed() < CATCH_UP_MAX
    {
        thread::park_timeout(Duration::from_millis(50));
    }
    assert_eq!(
        node.count("select count(*) from worked"),
        events.len() as u64,
        "the table has other events than the stream: {}",
        node.get_json("/api/v1/flows")
    );
    let made = numbers(&node, "worked", 0, u64::MAX >> 1);
    assert_eq!(made, events, "the table differs");
    assert_eq!(
        node.count("select count(*) from worked where twice <> 2 * n"),
        0
    );
    assert!(killed > 0 && !made.is_empty(), "nothing was killed at work");
    println!(
        "{rounds} kills of the node and {killed} of workers: {} events, each once in the table",
        made.len()
    );
}

/// Kills of the node in the test with an orchestration.
const LETTER_ROUNDS: u32 = 10;

/// Every third event has no key, so that it starts no instance.
const LETTER_PROJECT: &[(&str, &str)] = &[
    (
        "streams/reading.yaml",
        "topics: r/#\nformat: json\nschema:\n  n: int\n",
    ),
    (
        "orchestrations/take.yaml",
        "input: { id: { type: text, required: true } }\nkey: ${id}\n\
         start:\n- stream: reading\n  select: case when n % 3 <> 0 then cast(n as text) end as id\n\
         parts:\n- name: done\n  set: 1 as done\n",
    ),
];

#[test]
fn each_event_is_an_instance_or_one_dead_letter_however_often_the_node_is_killed() {
    let rounds = setting("BUSBAR_CRASH_ROUNDS")
        .map_or(LETTER_ROUNDS, |rounds| (rounds as u32).min(LETTER_ROUNDS));
    let seed = setting("BUSBAR_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("BUSBAR_CRASH_SEED={seed}");
    let mut random = Random(seed | 1);
    let mut node = Node::new(LETTER_PROJECT);
    let mut next = 0;
    for _ in 0..rounds {
        node.start();
        let mqtt = node.mqtt;
        let alive = AtomicBool::new(true);
        next = thread::scope(|scope| {
            let publisher = scope.spawn(|| publish_qos1(mqtt, next, &alive));
            thread::park_timeout(Duration::from_millis(random.below(LOAD_MILLIS_MAX)));
            node.kill();
            alive.store(false, Ordering::Release);
            publisher.join().expect("the publisher").0
        });
    }
    node.start();
    let events = numbers(&node, "reading", 0, u64::MAX >> 1);
    let (unfit, fit): (BTreeSet<u64>, BTreeSet<u64>) = events.iter().partition(|n| *n % 3 == 0);
    let letters = || {
        let groups = node.get_json("/api/v1/dead-letters/groups");
        groups["groups"].as_array().map_or(0, |groups| {
            groups
                .iter()
                .filter_map(|group| group["count"].as_u64())
                .sum()
        })
    };
    let begun = Instant::now();
    let found = loop {
        let (found, letters) = (instances(&node), letters());
        if (found.len() >= fit.len() && letters >= unfit.len() as u64)
            || begun.elapsed() > CATCH_UP_MAX
        {
            assert_eq!(
                letters,
                unfit.len() as u64,
                "letters of {} events",
                events.len()
            );
            break found;
        }
        thread::park_timeout(Duration::from_millis(200));
    };
    assert_eq!(found, fit, "the instances are not those of the events");
    assert!(!unfit.is_empty(), "too little load to mean anything");
    println!(
        "{rounds} kills: {} instances, {} dead letters",
        fit.len(),
        unfit.len()
    );
}

/// The keys of all instances that are done.
fn instances(node: &Node) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let mut after = String::new();
    loop {
        let path = "/api/v1/orchestrations/take/instances?status=done&limit=1000";
        let list = node.get_json(&format!("{path}{after}"));
        let all = list["instances"].as_array().expect("a list").iter();
        found.extend(all.map(|one| -> u64 {
            let key = one["key"].as_str().expect("a key");
            key.parse().expect("a number")
        }));
        match list["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return found,
        }
    }
}

/// Kills a worker of the plug-in; gives how many were killed.
fn kill_worker(node: &Node, at: usize) -> u32 {
    let plugins = node.get_json("/api/v1/plugins");
    let Some(process) = plugins["plugins"][0]["workers"][at]["process"].as_u64() else {
        return 0;
    };
    let kill = std::process::Command::new("kill")
        .args(["-9", &process.to_string()])
        .output();
    u32::from(kill.expect("kill").status.success())
}

/// Publishes numbers from `next` on until the node dies; gives the first unused number and those
/// that were acknowledged.
fn publish_qos1(mqtt: SocketAddr, mut next: u64, alive: &AtomicBool) -> (u64, Vec<u64>) {
    const WINDOW: usize = 16;
    let mut acknowledged = Vec::new();
    let mut publish = || -> io::Result<()> {
        let mut client = Client::connect(mqtt, "one", true)?;
        let mut open = BTreeMap::new();
        let mut id = 0u16;
        while alive.load(Ordering::Acquire) {
            while open.len() < WINDOW {
                id = id % 60_000 + 1;
                let payload = format!("{{\"n\":{next}}}");
                open.insert(id, next);
                next += 1;
                client.publish(
                    &format!("r/one/{}", next % 7),
                    payload.as_bytes(),
                    1,
                    id,
                    false,
                )?;
            }
            let packet = client.read()?;
            if packet.kind() == 0x40 {
                acknowledged.extend(open.remove(&packet.id()));
            }
        }
        Ok(())
    };
    // It always ends by the node's death.
    let _ = publish();
    (next, acknowledged)
}

/// A QoS 2 sender that keeps what the standard asks it to keep over the node's deaths.
struct ExactlyOnce {
    next: u64,
    /// Packet id to number, and whether PUBREC has come.
    open: BTreeMap<u16, (u64, bool)>,
    done: BTreeSet<u64>,
}

impl ExactlyOnce {
    fn publish(&mut self, mqtt: SocketAddr, alive: &AtomicBool) {
        const WINDOW: usize = 8;
        let _ = self.session(
            mqtt,
            |open| {
                if alive.load(Ordering::Acquire) {
                    WINDOW - open
                } else {
                    0
                }
            },
            || !alive.load(Ordering::Acquire),
        );
    }

    /// Completes what is open.
    fn finish(&mut self, mqtt: SocketAddr) {
        self.session(mqtt, |_| 0, || false)
            .expect("completing the open QoS 2 publishes");
        assert!(self.open.is_empty());
    }

    fn session(
        &mut self,
        mqtt: SocketAddr,
        more: impl Fn(usize) -> usize,
        stop: impl Fn() -> bool,
    ) -> io::Result<()> {
        let mut client = Client::connect(mqtt, "two", false)?;
        for (id, (number, recorded)) in &self.open {
            if *recorded {
                client.acknowledge(0x62, *id)?;
            } else {
                client.publish(
                    "r/two/a",
                    format!("{{\"n\":{number}}}").as_bytes(),
                    2,
                    *id,
                    true,
                )?;
            }
        }
        loop {
            for _ in 0..more(self.open.len()) {
                let id = (1..=u16::MAX)
                    .find(|id| !self.open.contains_key(id))
                    .expect("a free packet id");
                let number = self.next;
                self.next += 1;
                self.open.insert(id, (number, false));
                client.publish(
                    "r/two/a",
                    format!("{{\"n\":{number}}}").as_bytes(),
                    2,
                    id,
                    false,
                )?;
            }
            if self.open.is_empty() || stop() {
                return Ok(());
            }
            let packet = client.read()?;
            match packet.kind() {
                0x50 => {
                    if let Some(open) = self.open.get_mut(&packet.id()) {
                        open.1 = true;
                    }
                    client.acknowledge(0x62, packet.id())?;
                }
                0x70 => {
                    if let Some((number, _)) = self.open.remove(&packet.id()) {
                        self.done.insert(number);
                    }
                }
                _ => {}
            }
        }
    }
}

/// A persistent QoS 1 subscription: passes on each number once it is read, then acknowledges.
fn receive(mqtt: SocketAddr, sender: &mpsc::Sender<u64>) {
    let receive = || -> io::Result<()> {
        let mut client = Client::connect(mqtt, READER, false)?;
        assert!(
            client.session_present,
            "the session of the subscriber is gone"
        );
        loop {
            let packet = client.read()?;
            let Some(publish) = packet.as_publish() else {
                continue;
            };
            let text = String::from_utf8_lossy(&publish.payload).into_owned();
            let number = text
                .trim_start_matches("{\"n\":")
                .trim_end_matches('}')
                .parse();
            let _ = sender.send(number.map_err(io::Error::other)?);
            if let Some(id) = publish.id {
                client.acknowledge(0x40, id)?;
            }
        }
    };
    let _ = receive();
}

/// The different numbers from `first` to before `end` in a stream or table.
fn numbers(node: &Node, relation: &str, mut first: u64, end: u64) -> BTreeSet<u64> {
    const ROWS: usize = 10_000;
    let mut found = BTreeSet::new();
    loop {
        let rows = node.sql(&format!(
            "select n from {relation} where n >= {first} and n < {end} order by n limit {ROWS}"
        ));
        found.extend(rows.iter().map(|row| row[0].as_u64().expect("a number")));
        match found.last() {
            Some(last) if rows.len() == ROWS => first = last + 1,
            _ => return found,
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect(name))
}

/// xorshift64*, enough to spread kills over time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

/// Clears a flag when it is dropped, also where the test fails: the scope waits for the threads that look at it.
struct ClearAtEnd<'a>(&'a AtomicBool);

impl Drop for ClearAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
