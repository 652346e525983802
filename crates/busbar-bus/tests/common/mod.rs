//! A bus on a simulated disk.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use busbar_bus::{Bus, BusOptions, Event, Publisher, Status, StreamSpec, Ticket};
use busbar_event::{Flags, topic::Filter};
use busbar_log::{Log, LogOptions, ManualClock, sim::SimDisk};

/// A bus and what it stands on.
pub struct World {
    pub disk: SimDisk,
    pub clock: Arc<ManualClock>,
    pub bus: Bus,
}

/// When worlds begin.
/// How long a test waits for what has to come. Nothing takes as long; a machine may be slow or busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const NOON: i64 = 1_700_000_000_000_000;

pub fn open(disk: &SimDisk, clock: &Arc<ManualClock>, options: BusOptions) -> Bus {
    let options = BusOptions {
        clock: clock.clone(),
        ..options
    };
    let log = Log::open(
        Arc::new(disk.clone()),
        Path::new("/data"),
        LogOptions::default(),
        clock.clone(),
    )
    .expect("the log opens");
    Bus::open(log, options).expect("the bus opens")
}

impl World {
    pub fn new(seed: u64) -> World {
        World::with(seed, BusOptions::default())
    }

    pub fn with(seed: u64, options: BusOptions) -> World {
        let disk = SimDisk::new(seed);
        let clock = Arc::new(ManualClock::new(NOON));
        let bus = open(&disk, &clock, options);
        World { disk, clock, bus }
    }

    /// Ends the process and starts it again; what was not synced is gone if `power_cut`.
    pub fn restart(self, power_cut: bool) -> World {
        let World { disk, clock, bus } = self;
        disk.fail_syncs(0);
        disk.fail_writes(0);
        match power_cut {
            true => disk.crash(),
            false => disk.kill(),
        }
        drop(bus);
        let bus = open(&disk, &clock, BusOptions::default());
        World { disk, clock, bus }
    }
}

pub fn streams(specs: &[(&str, &str)]) -> BTreeMap<String, StreamSpec> {
    specs
        .iter()
        .map(|(name, spec)| {
            let spec = serde_json::from_str(spec).unwrap_or_else(|e| panic!("{spec}: {e}"));
            ((*name).to_owned(), spec)
        })
        .collect()
}

pub fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap()
}

pub fn publisher(bus: &Bus) -> Publisher {
    let thread = std::thread::current();
    bus.publisher(Arc::new(move || thread.unpark()))
}

pub fn event<'a>(topic: &'a str, payload: &'a [u8]) -> Event<'a> {
    Event {
        topic,
        key: None,
        time: NOON,
        client: None,
        flags: Flags::default(),
        tags: &[],
        payload,
    }
}

pub fn retain<'a>(topic: &'a str, payload: &'a [u8]) -> Event<'a> {
    Event {
        flags: Flags::default().with_retain(true),
        ..event(topic, payload)
    }
}

/// Flushes until the tickets have settled; their outcomes.
pub fn settle(publisher: &mut Publisher, tickets: &[Ticket]) -> Vec<Status> {
    let until = Instant::now() + PATIENCE;
    loop {
        publisher.settle();
        publisher.flush();
        let statuses: Vec<_> = tickets
            .iter()
            .map(|ticket| publisher.status(*ticket))
            .collect();
        if statuses.iter().all(|status| *status != Status::Pending) {
            return statuses;
        }
        assert!(Instant::now() < until, "nothing settles");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Publishes and waits; every event must be committed.
pub fn publish(bus: &Bus, events: &[Event<'_>]) {
    let mut publisher = publisher(bus);
    let tickets: Vec<_> = events
        .iter()
        .map(|event| publisher.push(event).unwrap())
        .collect();
    let statuses = settle(&mut publisher, &tickets);
    assert!(
        statuses.iter().all(|status| *status == Status::Committed),
        "{statuses:?}"
    );
}

/// Waits until something that another thread does has come true.
pub fn wait_for(what: &str, mut come: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !come() {
        assert!(Instant::now() < until, "{what} does not come");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Topics and payloads of all that a stream holds, partition by partition.
pub fn contents(bus: &Bus, stream: &str) -> Vec<Vec<(String, Vec<u8>)>> {
    let stream = bus.stream(stream).expect("the stream exists");
    stream
        .partitions()
        .iter()
        .map(|partition| {
            let mut rows = Vec::new();
            let mut at = partition.start();
            while at < partition.end() {
                for chunk in partition.read(at, 1 << 20).unwrap() {
                    assert_eq!(chunk.base, at);
                    at = chunk.end();
                    for row in 0..chunk.batch.rows() {
                        let event = chunk.batch.event(row);
                        rows.push((event.topic.to_owned(), event.payload.to_vec()));
                    }
                }
            }
            rows
        })
        .collect()
}
