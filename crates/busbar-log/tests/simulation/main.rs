//! Random histories on a simulated disk, compared with a model: appends, commits, crashes, kills,
//! full disks, failing writes, reads and syncs, rolls, rewrites and recoveries; and files that rot while
//! nobody looks.
//!
//! `BUSBAR_SIM_SEED=17` runs one history, `BUSBAR_SIM_RUNS=5000` many.

mod rot;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busbar_log::sim::{Faults, Random, SimDisk};
use busbar_log::{
    Append, Appended, Clock, Driver, Durability, Log, LogError, LogOptions, ManualClock, Merged,
    Partition, PartitionOptions, Result, Step,
};
use bytes::Bytes;

const ROW: usize = 48;
const NAMES: [(&str, Durability); 3] = [
    ("streams/a/0", Durability::Fsync),
    ("streams/b/0", Durability::Fsync),
    ("streams/m/0", Durability::Memory),
];

/// A row's bytes: its number, and more that depends on it.
fn row(id: u64) -> [u8; ROW] {
    let mut random = Random::new(id);
    let mut bytes = [0; ROW];
    bytes[..8].copy_from_slice(&id.to_le_bytes());
    for chunk in bytes[8..].chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes());
    }
    bytes
}

fn rows_of(body: &[u8]) -> Vec<u64> {
    let id = |r: &[u8]| {
        let id = u64::from_le_bytes(r[..8].try_into().unwrap());
        assert_eq!(r, row(id), "a row's bytes have changed");
        id
    };
    body.chunks(ROW).map(id).collect()
}

/// One append, as the test remembers it.
#[derive(Clone)]
struct Sent {
    ids: Vec<u64>,
    producer: Option<(Arc<str>, u64)>,
}

type Answers = Arc<Mutex<Vec<(usize, Sent, Result<Appended>)>>>;

#[derive(Default)]
struct Model {
    /// Rows that have been appended.
    sent: HashSet<u64>,
    /// Rows that readers have seen or that were acknowledged, by offset: they never change.
    fixed: BTreeMap<u64, u64>,
    /// First offset behind all that were ever acknowledged or seen.
    promised: u64,
    /// Acknowledged positions of producers.
    positions: HashMap<Arc<str>, u64>,
    next_position: HashMap<Arc<str>, u64>,
    /// Producers' appends without an answer, or with a refusal: they are sent again.
    retries: Vec<Sent>,
}

struct World {
    seed: u64,
    random: Random,
    disk: SimDisk,
    clock: Arc<ManualClock>,
    models: Vec<Model>,
    answers: Answers,
    next_id: u64,
    trace: u64,
    crashes: u32,
    acknowledged: u64,
    /// Processes may be killed, but the power stays on.
    powered: bool,
}

struct Open {
    log: Log,
    driver: Driver,
    partitions: Vec<Partition>,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            seed,
            random: Random::new(seed ^ 0x5eed),
            disk: SimDisk::new(seed),
            clock: Arc::new(ManualClock::new(1_000_000)),
            models: NAMES.iter().map(|_| Model::default()).collect(),
            answers: Answers::default(),
            next_id: 1,
            trace: 0,
            crashes: 0,
            acknowledged: 0,
            powered: false,
        }
    }

    fn note(&mut self, what: u64) {
        self.trace = self.trace.rotate_left(5) ^ what.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn open(&mut self) -> Open {
        // Recovery may meet faults as well, or its process may die; the next attempt finds a healthy
        // disk.
        if self.random.below(3) != 0 {
            self.disk.set_faults(Faults::default());
            self.disk.set_capacity(None);
        }
        if self.random.below(4) == 0 {
            self.disk.die_after(Some(self.random.below(40)));
        }
        for attempt in 0.. {
            match self.try_open() {
                Ok(open) if !self.disk.has_died() => {
                    self.disk.die_after(None);
                    return open;
                }
                // What it does without, such as the mark, failed because it was dying.
                Ok(open) => drop(open),
                Err(e) => assert!(attempt < 1, "seed {}: cannot open: {e}", self.seed),
            }
            self.lose();
            self.disk.set_faults(Faults::default());
            self.disk.set_capacity(None);
        }
        unreachable!()
    }

    fn try_open(&mut self) -> Result<Open> {
        let options = LogOptions {
            sync_interval: Duration::from_millis(50),
            reserve_bytes: 0,
        };
        let clock: Arc<dyn Clock> = self.clock.clone();
        let disk = Arc::new(self.disk.clone());
        let (log, driver) = Log::open_driven(disk, Path::new("/data"), options, clock)?;
        let open = |(name, durability): &(&str, Durability)| {
            log.partition(
                name,
                PartitionOptions {
                    segment_bytes: 64 << 10,
                    cache_bytes: 30_000,
                    durability: *durability,
                    ..PartitionOptions::default()
                },
            )
        };
        let partitions = NAMES.iter().map(open).collect::<Result<_>>()?;
        Ok(Open {
            log,
            driver,
            partitions,
        })
    }

    fn append(&mut self, open: &Open) {
        let at = self.random.below(NAMES.len() as u64) as usize;
        let model = &mut self.models[at];
        let retry = !model.retries.is_empty() && self.random.below(3) == 0;
        let sent = if retry {
            let which = self.random.below(model.retries.len() as u64) as usize;
            // In order, as a producer that has lost its connection does.
            let first = model.retries.iter().enumerate().filter(|(_, s)| {
                s.producer.as_ref().map(|p| &p.0)
                    == model.retries[which].producer.as_ref().map(|p| &p.0)
            });
            let first = first.min_by_key(|(_, s)| s.producer.as_ref().map(|p| p.1));
            let first = first.map(|(i, _)| i).unwrap();
            model.retries.remove(first)
        } else {
            let count = 1 + match self.random.below(4) {
                0 => self.random.below(700),
                _ => self.random.below(20),
            };
            let ids: Vec<u64> = (self.next_id..self.next_id + count).collect();
            self.next_id += count;
            model.sent.extend(&ids);
            let names = ["p0", "p1", "p2"];
            let name: Arc<str> = Arc::from(names[self.random.below(3) as usize]);
            // One with something to send again does that first.
            let waits = model
                .retries
                .iter()
                .any(|s| s.producer.as_ref().is_some_and(|p| p.0 == name));
            let producer = (self.random.below(2) == 0 && !waits).then(|| {
                let position = model.next_position.entry(name.clone()).or_default();
                *position += 1 + self.random.below(3);
                (name, *position)
            });
            Sent { ids, producer }
        };
        let body: Vec<u8> = sent.ids.iter().flat_map(|id| row(*id)).collect();
        let (answers, mine) = (self.answers.clone(), sent.clone());
        open.partitions[at].append(Append {
            body: Bytes::from(body),
            count: sent.ids.len() as u32,
            min_time: sent.ids[0] as i64,
            max_time: *sent.ids.last().unwrap() as i64,
            producers: sent.producer.clone().into_iter().collect(),
            attributes: 0,
            companion: None,
            done: Some(Box::new(move |result| {
                answers.lock().unwrap().push((at, mine, result));
            })),
        });
    }

    fn hear(&mut self) {
        let answers = std::mem::take(&mut *self.answers.lock().unwrap());
        for (at, sent, result) in answers {
            let durable = NAMES[at].1 == Durability::Fsync;
            let model = &mut self.models[at];
            let what = match result {
                Ok(landed) if landed.duplicate => u64::MAX,
                Ok(landed) => {
                    self.acknowledged += 1;
                    if durable {
                        assert!(
                            landed.base >= model.promised,
                            "seed {}: the offset {} was given away before",
                            self.seed,
                            landed.base
                        );
                        for (i, id) in sent.ids.iter().enumerate() {
                            let before = model.fixed.insert(landed.base + i as u64, *id);
                            model.promised = model.promised.max(landed.base + i as u64 + 1);
                            assert!(
                                before.is_none_or(|b| b == *id),
                                "seed {}: an offset was given away twice",
                                self.seed
                            );
                        }
                        if let Some((name, position)) = &sent.producer {
                            model.positions.insert(name.clone(), *position);
                        }
                    }
                    landed.base
                }
                Err(LogError::Closed) => u64::MAX - 1,
                Err(e) => {
                    let class = e.code().len() as u64;
                    if sent.producer.is_some() {
                        model.retries.push(sent);
                    }
                    u64::MAX - class
                }
            };
            self.note(what);
        }
    }

    /// Reads everything and compares it with what must be there.
    fn verify(&mut self, open: &Open) {
        for (at, partition) in open.partitions.iter().enumerate() {
            let durable = NAMES[at].1 == Durability::Fsync;
            let model = &mut self.models[at];
            let seed = self.seed;
            let name = NAMES[at].0;
            let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
            let mut offset = partition.start();
            let end = partition.end();
            while offset < end {
                match partition.read(offset, 20_000) {
                    Ok(frames) => {
                        assert!(
                            !frames.is_empty(),
                            "seed {seed}: nothing at {offset} of {end}"
                        );
                        for frame in frames {
                            let ids = rows_of(&frame.body);
                            assert_eq!(ids.len(), frame.count as usize);
                            assert!(frame.base <= offset && frame.end() <= end);
                            for (i, id) in ids.iter().enumerate() {
                                seen.insert(frame.base + i as u64, *id);
                            }
                            offset = frame.end();
                        }
                    }
                    Err(LogError::Damaged { resume, .. }) if !durable && resume > offset => {
                        offset = resume;
                    }
                    // A disk that cannot be read now is no damage.
                    Err(LogError::Io { .. }) => {}
                    Err(e) => panic!("seed {seed}: {name} at {offset}: {e}"),
                }
            }
            let mut once = HashSet::new();
            for (offset, id) in &seen {
                assert!(
                    model.sent.contains(id),
                    "seed {seed}: {name} has a row nobody sent"
                );
                assert!(
                    once.insert(*id),
                    "seed {seed}: {name} has row {id} twice, at {offset}"
                );
            }
            if durable {
                for (offset, id) in &model.fixed {
                    let now = seen.get(offset);
                    assert_eq!(
                        now,
                        Some(id),
                        "seed {seed}: {name} offset {offset} of {end}"
                    );
                }
                // What readers have seen is as good as a promise.
                model.fixed = seen;
                for (id, position) in &model.positions {
                    let known = partition.producer_position(id);
                    assert!(
                        known >= Some(*position),
                        "seed {seed}: {name} forgot {id}: {known:?} < {position}"
                    );
                }
            } else {
                model.positions.clear();
            }
        }
    }

    fn rewrite(&mut self, open: &Open) {
        let at = self.random.below(NAMES.len() as u64) as usize;
        let partition = &open.partitions[at];
        let sealed: Vec<u64> = partition
            .segments()
            .iter()
            .filter(|s| s.sealed)
            .map(|s| s.base)
            .collect();
        if let Some(base) = sealed.get(self.random.below(sealed.len() as u64) as usize) {
            let _ = partition.rewrite(*base, 20_000, &mut |frames| {
                Some(Merged {
                    body: Bytes::from(
                        frames
                            .iter()
                            .flat_map(|f| f.body.to_vec())
                            .collect::<Vec<_>>(),
                    ),
                    attributes: 0,
                })
            });
        }
    }

    /// The process ends without warning; what it had not answered may or may not have landed.
    fn end(&mut self, open: Open) {
        self.hear();
        let lost_power = self.random.below(3) != 0;
        // First the disk, so that nothing on the way out does any good.
        if lost_power {
            self.disk.crash();
        } else {
            self.disk.kill();
        }
        drop(open);
        self.lost(lost_power);
    }

    /// As [`World::end`], of a process that was about to start.
    fn lose(&mut self) {
        let lost_power = !self.powered && self.random.below(2) == 0;
        if lost_power {
            self.disk.crash();
        } else {
            self.disk.kill();
        }
        self.lost(lost_power);
    }

    fn lost(&mut self, lost_power: bool) {
        self.answers.lock().unwrap().clear();
        self.crashes += 1;
        if lost_power {
            // Under durability `memory` all may change.
            for (model, (_, durability)) in self.models.iter_mut().zip(NAMES) {
                if durability == Durability::Memory {
                    model.retries.clear();
                }
            }
        }
    }

    /// The process dies between any two of its calls, or within one.
    fn die(&mut self, mut open: Open) {
        self.disk.die_after(Some(self.random.below(40)));
        for _ in 0..self.random.below(12) {
            match self.random.below(10) {
                0..4 => self.append(&open),
                4..7 => {
                    open.driver.step();
                }
                7 => open.partitions[self.random.below(3) as usize].roll(),
                8 => open.driver.keep(),
                _ => self.rewrite(&open),
            }
        }
        self.end(open);
    }

    fn change_faults(&mut self) {
        let mut rate = |max: u64| match self.random.below(3) {
            0 => self.random.below(max) as u32,
            _ => 0,
        };
        let faults = Faults {
            short_write: rate(500_000),
            write_error: rate(100_000),
            sync_error: rate(100_000),
            read_error: rate(100_000),
            name_error: rate(100_000),
        };
        self.disk.set_faults(faults);
        let capacity = match self.random.below(4) {
            0 => Some(100_000 + self.random.below(1_000_000)),
            _ => None,
        };
        self.disk.set_capacity(capacity);
    }

    fn run(&mut self, steps: u32) {
        let mut open = self.open();
        for _ in 0..steps {
            match self.random.below(100) {
                0..50 => self.append(&open),
                50..75 => {
                    open.driver.step();
                    self.hear();
                }
                75..82 => self.clock.advance(self.random.below(400_000) as i64),
                82..85 => open.partitions[self.random.below(3) as usize].roll(),
                85..88 => self.change_faults(),
                88..90 => open.driver.keep(),
                90..92 => self.rewrite(&open),
                92..95 => self.verify(&open),
                95..97 => {
                    match self.random.below(2) {
                        0 => self.end(open),
                        _ => self.die(open),
                    }
                    open = self.open();
                    self.verify(&open);
                }
                97 => {
                    open.log.shutdown();
                    while open.driver.step() != Step::Ended {}
                    self.end(open);
                    open = self.open();
                    self.verify(&open);
                }
                _ => {
                    open.driver.drain();
                    self.hear();
                }
            }
        }
        self.disk.set_faults(Faults::default());
        self.disk.set_capacity(None);
        self.clock.advance(1_000_000);
        open.driver.drain();
        self.hear();
        // It heals: on a good disk an append is taken.
        let before = self.acknowledged;
        for _ in 0..8 {
            self.append(&open);
        }
        open.driver.drain();
        self.hear();
        assert!(
            self.acknowledged > before,
            "seed {}: it did not heal",
            self.seed
        );
        self.verify(&open);
        self.end(open);
        open = self.open();
        self.verify(&open);
    }
}

fn run(seed: u64) -> (u64, u64) {
    let mut world = World::new(seed);
    world.run(300);
    (world.trace, world.acknowledged)
}

#[test]
fn what_was_acknowledged_survives_every_history() {
    if let Ok(seed) = std::env::var("BUSBAR_SIM_SEED") {
        run(seed.parse().expect("BUSBAR_SIM_SEED is a number"));
        return;
    }
    let runs = std::env::var("BUSBAR_SIM_RUNS").ok();
    let usual = if cfg!(debug_assertions) { 40 } else { 300 };
    let runs = runs.and_then(|r| r.parse().ok()).unwrap_or(usual);
    let mut acknowledged = 0;
    for seed in 0..runs {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok((_, count)) => acknowledged += count,
            Err(why) => {
                eprintln!("run it again with BUSBAR_SIM_SEED={seed}");
                std::panic::resume_unwind(why);
            }
        }
    }
    assert!(
        acknowledged > runs * 20,
        "the histories do too little: {acknowledged}"
    );
}

#[test]
fn one_seed_is_one_history() {
    for seed in [3, 14] {
        assert_eq!(run(seed), run(seed));
    }
}
