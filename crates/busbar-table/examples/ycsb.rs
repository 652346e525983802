//! The workloads of YCSB on a wide table: `ycsb FOLDER ROWS WHAT THREADS SECONDS CACHE`.
//!
//! The table is in FOLDER, and CACHE megabytes of it are kept in memory. WHAT is `load`, which writes ROWS rows in batches of
//! 1,000, or a workload `a` to `f`, which runs three times for SECONDS: to fill the memory, to be measured, and once more at
//! half the rate that was measured. There operations are due at that rate, in bursts, one every 2 ms. Whichever of four times
//! as many threads is free takes the next one, and latencies count from when an operation was due. Rows have 10 fields of 100
//! bytes; distributions, mixes and keys are those of YCSB: a scrambled Zipfian with the constant 0.99, `latest` in workload d,
//! scans of 1 to 100 rows in workload e. A write returns when it is durable.
//!
//! Prints a JSON object for each measurement: operations a second, and in milliseconds p50, p99, p99.9 and the longest of
//! reads, writes and scans.

#![allow(clippy::print_stdout, reason = "a measurement")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use busbar_log::SystemClock;
use busbar_table::wide::{CellChange, CellScan, CellSelect, CellValue, RowChange};
use busbar_table::{Table as _, TableSpec, Tables, Wide};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FIELDS: usize = 10;
const FIELD_BYTES: usize = 100;
const LOAD_BATCH: u64 = 1_000;
const SCAN_ROWS_MAX: u64 = 100;
/// At half load there are so many times as many threads, so that reads do not wait for a thread while all wait for the disk.
const MORE_THREADS: u64 = 4;
const BURSTS_EVERY: Duration = Duration::from_millis(2);
const POOL_BYTES: usize = 1 << 20;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args.get(at).and_then(|text| text.parse::<u64>().ok());
    let (Some(folder), Some(rows), Some(what), Some(threads), Some(seconds), Some(cache)) = (
        args.first(),
        number(1),
        args.get(2),
        number(3),
        number(4),
        number(5),
    ) else {
        println!("ycsb FOLDER ROWS load|a|b|c|d|e|f THREADS SECONDS CACHE");
        return;
    };
    let tables = open(folder, cache << 20);
    let table = tables.wide("usertable").expect("the table");
    let bench = Bench {
        table,
        rows,
        inserting: (0..threads * MORE_THREADS)
            .map(|_| AtomicU64::new(u64::MAX))
            .collect(),
        next: AtomicU64::new(rows),
        zipfian: Zipfian::new(10_000_000_000, 26.469_028_201_783_02),
        latest: Zipfian::new(rows, zeta(rows)),
        pool: pool(),
        missing: AtomicU64::new(0),
        seeds: AtomicU64::new(1),
    };
    let time = Duration::from_secs(seconds);
    if what == "load" {
        bench.measure(what, threads, time, None);
        // As in a program that runs for long, which has looked for what is dead when so much was written.
        bench.table.remove_dead().expect("the table is swept");
    } else {
        // What is in memory in a program that runs for long.
        bench.run_all(what, threads, time, None);
        let per_second = bench.measure(what, threads, time, None);
        bench.measure(what, threads * MORE_THREADS, time, Some(per_second / 2.0));
    }
}

fn open(folder: &str, cache_bytes: u64) -> Tables {
    let mut spec = json!({
        "wide": { "families": [{ "name": "f" }] },
        "key": ["k"],
        "columns": [{ "name": "k", "type": "text" }],
    });
    let columns = spec["columns"].as_array_mut().expect("a list");
    columns.extend((0..FIELDS).map(|field| json!({ "name": field_name(field), "type": "text" })));
    let tables = Tables::open(folder, Arc::new(SystemClock)).expect("tables");
    let tables = tables.with_wide_cache(cache_bytes);
    let spec: TableSpec = serde_json::from_value(spec).expect("a spec");
    let applied = tables.apply(&BTreeMap::from([("usertable".to_owned(), spec)]));
    applied.expect("the table opens");
    tables
}

struct Bench {
    table: Arc<Wide>,
    /// Rows that were loaded.
    rows: u64,
    /// The number of the row that each thread inserts at the moment; the greatest number if it does not.
    inserting: Vec<AtomicU64>,
    /// The number of the next row that is inserted.
    next: AtomicU64,
    zipfian: Zipfian,
    latest: Zipfian,
    /// Random text that fields are pieces of.
    pool: String,
    /// Rows that were asked for and not found.
    missing: AtomicU64,
    /// The seed of the thread that is started next: what is measured is not what the warm-up has read.
    seeds: AtomicU64,
}

/// Operations at a rate, for whoever is free. They do not wait for one another as long as anybody is. Those of one burst are due
/// at once: threads that slept for each operation by itself would use a sixth of the processor for that alone.
struct Arrivals {
    began: Instant,
    /// Operations that are due together.
    burst: u64,
    per_second: f64,
    taken: AtomicU64,
}

impl Arrivals {
    fn new(began: Instant, per_second: f64) -> Self {
        Self {
            began,
            burst: (per_second * BURSTS_EVERY.as_secs_f64()).round().max(1.0) as u64,
            per_second,
            taken: AtomicU64::new(0),
        }
    }

    /// Takes the next operation and waits until it is due; when that was.
    fn wait(&self) -> Instant {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        let number = number - number % self.burst;
        let due = self.began + Duration::from_secs_f64(number as f64 / self.per_second);
        let now = Instant::now();
        if due > now {
            std::thread::park_timeout(due - now);
        }
        due
    }
}

impl Bench {
    /// Runs a workload and prints what was measured; returns operations a second.
    fn measure(&self, what: &str, threads: u64, time: Duration, rate: Option<f64>) -> f64 {
        self.missing.store(0, Ordering::Relaxed);
        let before = processor_seconds();
        let began = Instant::now();
        let mut timed = self.run_all(what, threads, time, rate);
        let took = began.elapsed().as_secs_f64();
        let per_second = timed.operations as f64 / took;
        let mut report = json!({
            "what": what,
            "at_half_load": rate.is_some(),
            "operations": timed.operations,
            "seconds": round(took),
            "per_second": per_second.round(),
            "processor_seconds": round(processor_seconds() - before),
            "missing": self.missing.load(Ordering::Relaxed),
        });
        for (kind, samples) in [
            ("read_ms", &mut timed.reads),
            ("write_ms", &mut timed.writes),
            ("scan_ms", &mut timed.scans),
        ] {
            if !samples.is_empty() {
                report[kind] = percentiles(samples);
            }
        }
        println!("{report}");
        per_second
    }

    /// Runs a workload on so many threads; what all of them have measured.
    fn run_all(&self, what: &str, threads: u64, time: Duration, rate: Option<f64>) -> Timed {
        let began = Instant::now();
        let until = began + time;
        let arrivals = rate.map(|per_second| Arrivals::new(began, per_second));
        let arrivals = arrivals.as_ref();
        let mut timed = Timed::default();
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|thread| {
                    scope.spawn(move || match what {
                        "load" => self.load(thread, threads),
                        workload => self.run(workload, thread, until, arrivals),
                    })
                })
                .collect();
            for thread in running {
                timed.merge(thread.join().expect("a thread"));
            }
        });
        timed
    }

    fn load(&self, thread: u64, threads: u64) -> Timed {
        let mut random = self.random();
        let mut timed = Timed::default();
        let mut first = thread * LOAD_BATCH;
        while first < self.rows {
            let numbers = first..self.rows.min(first + LOAD_BATCH);
            first += threads * LOAD_BATCH;
            let keys = StringArray::from_iter_values(numbers.clone().map(key));
            let mut columns = vec![("k".to_owned(), Arc::new(keys) as ArrayRef)];
            for field in 0..FIELDS {
                let values = numbers.clone().map(|_| self.field(&mut random));
                let values = StringArray::from_iter_values(values);
                columns.push((field_name(field), Arc::new(values)));
            }
            let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
            let began = Instant::now();
            let applied = self.table.apply(&batch, None).expect("rows are written");
            assert!(applied.rejected.is_empty());
            timed.writes.push(micros(began.elapsed()));
            timed.operations += numbers.end - numbers.start;
        }
        timed
    }

    fn run(
        &self,
        workload: &str,
        thread: u64,
        until: Instant,
        arrivals: Option<&Arrivals>,
    ) -> Timed {
        let mut random = self.random();
        let mut timed = Timed::default();
        loop {
            let began = arrivals.map_or_else(Instant::now, Arrivals::wait);
            if Instant::now() >= until {
                return timed;
            }
            let chance = random.fraction();
            let samples = match workload {
                "a" if chance < 0.5 => self.update(&mut random, &mut timed),
                "b" if chance < 0.05 => self.update(&mut random, &mut timed),
                "d" | "e" if chance < 0.05 => self.insert(thread, &mut random, &mut timed),
                "f" if chance < 0.5 => {
                    let number = self.chosen(&mut random);
                    self.read(number);
                    self.put(number, &mut random);
                    &mut timed.writes
                }
                "d" => {
                    let last = self.acknowledged() - 1;
                    self.read(last - self.latest.next(&mut random).min(last));
                    &mut timed.reads
                }
                "e" => {
                    self.scan(&mut random);
                    &mut timed.scans
                }
                "a" | "b" | "c" | "f" => {
                    self.read(self.chosen(&mut random));
                    &mut timed.reads
                }
                _ => panic!("there is no workload {workload}"),
            };
            samples.push(micros(began.elapsed()));
            timed.operations += 1;
        }
    }

    fn random(&self) -> Random {
        let seed = self.seeds.fetch_add(1, Ordering::Relaxed);
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A row, the popular ones more often.
    fn chosen(&self, random: &mut Random) -> u64 {
        hash(self.zipfian.next(random)) % self.rows
    }

    fn read(&self, number: u64) {
        let key = vec![CellValue::Text(key(number))];
        let rows = self.table.get(&[key], &CellSelect::default());
        let cells = rows.expect("an answer").pop().flatten();
        if cells.is_none_or(|row| row.cells.len() != FIELDS) {
            self.missing.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn scan(&self, random: &mut Random) {
        let scan = CellScan {
            from: vec![CellValue::Text(key(self.chosen(random)))],
            limit: Some((1 + random.next() % SCAN_ROWS_MAX) as usize),
            ..CellScan::default()
        };
        let found = self.table.scan_cells(&scan).expect("an answer");
        if found.rows.is_empty() {
            self.missing.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn update<'a>(&self, random: &mut Random, timed: &'a mut Timed) -> &'a mut Vec<u32> {
        self.put(self.chosen(random), random);
        &mut timed.writes
    }

    /// Puts one field of a row.
    fn put(&self, number: u64, random: &mut Random) {
        let column = field_name((random.next() % FIELDS as u64) as usize);
        let value = CellValue::Text(self.field(random).to_owned());
        self.change(number, vec![CellChange::Put(column, value)]);
    }

    /// How many rows there are in any case.
    fn acknowledged(&self) -> u64 {
        // First what is there or being inserted, so that an insertion that begins meanwhile does not count.
        let next = self.next.load(Ordering::SeqCst);
        let inserting = self.inserting.iter().map(|row| row.load(Ordering::SeqCst));
        inserting.fold(next, u64::min)
    }

    fn insert<'a>(
        &self,
        thread: u64,
        random: &mut Random,
        timed: &'a mut Timed,
    ) -> &'a mut Vec<u32> {
        let fields = (0..FIELDS).map(|field| {
            let value = CellValue::Text(self.field(random).to_owned());
            CellChange::Put(field_name(field), value)
        });
        let fields = fields.collect();
        let inserting = &self.inserting[thread as usize];
        // Not after the number is taken, when nobody would know of it.
        inserting.store(self.next.load(Ordering::SeqCst), Ordering::SeqCst);
        self.change(self.next.fetch_add(1, Ordering::SeqCst), fields);
        inserting.store(u64::MAX, Ordering::SeqCst);
        &mut timed.writes
    }

    fn change(&self, number: u64, changes: Vec<CellChange>) {
        let row = RowChange {
            key: vec![CellValue::Text(key(number))],
            changes,
            ..RowChange::default()
        };
        self.table.change(&[row]).expect("a row is written");
    }

    fn field(&self, random: &mut Random) -> &str {
        let at = random.next() as usize % (POOL_BYTES - FIELD_BYTES);
        &self.pool[at..at + FIELD_BYTES]
    }
}

fn field_name(field: usize) -> String {
    format!("field{field}")
}

fn key(number: u64) -> String {
    format!("user{}", hash(number))
}

/// As YCSB hashes: FNV over the 8 bytes, the low ones first, without a sign.
fn hash(mut value: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for _ in 0..8 {
        hash = (hash ^ (value & 0xff)).wrapping_mul(1_099_511_628_211);
        value >>= 8;
    }
    (hash as i64).unsigned_abs()
}

/// Numbers below `items`, of which small ones are popular, as YCSB draws them.
struct Zipfian {
    items: f64,
    zeta: f64,
    eta: f64,
    alpha: f64,
}

const THETA: f64 = 0.99;

impl Zipfian {
    fn new(items: u64, zeta: f64) -> Zipfian {
        let items = items as f64;
        let two = 1.0 + 0.5_f64.powf(THETA);
        Zipfian {
            items,
            zeta,
            eta: (1.0 - (2.0 / items).powf(1.0 - THETA)) / (1.0 - two / zeta),
            alpha: 1.0 / (1.0 - THETA),
        }
    }

    fn next(&self, random: &mut Random) -> u64 {
        let fraction = random.fraction();
        let scaled = fraction * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) {
            return 1;
        }
        let place = (self.eta * fraction - self.eta + 1.0).powf(self.alpha);
        (self.items * place) as u64
    }
}

fn zeta(items: u64) -> f64 {
    (1..=items).map(|item| (item as f64).powf(-THETA)).sum()
}

/// Marsaglia's xorshift, multiplied.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// At least 0 and below 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn pool() -> String {
    let mut random = Random(42);
    let letters = (0..POOL_BYTES).map(|_| (b' ' + (random.next() % 95) as u8) as char);
    letters.collect()
}

/// What a thread did, and how long each operation took in microseconds.
#[derive(Default)]
struct Timed {
    operations: u64,
    reads: Vec<u32>,
    writes: Vec<u32>,
    scans: Vec<u32>,
}

impl Timed {
    fn merge(&mut self, other: Timed) {
        self.operations += other.operations;
        self.reads.extend(other.reads);
        self.writes.extend(other.writes);
        self.scans.extend(other.scans);
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

fn percentiles(samples: &mut [u32]) -> Value {
    samples.sort_unstable();
    let at = |part: f64| {
        let rank = (samples.len() as f64 * part).ceil() as usize;
        f64::from(samples[rank.clamp(1, samples.len()) - 1]) / 1e3
    };
    json!([at(0.5), at(0.99), at(0.999), at(1.0)])
}

fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Seconds of the processor that this process has used.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}
