//! Measures appends: `append [--producers N] [--bytes BODY] [--partitions N] [--seconds S]
//! [--window N] [--memory] [--dir DIR]`. Prints MB/s, appends per sync, and how long an append waited.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use busbar_log::{
    Append, Disk, Durability, Entry, File, Log, LogOptions, OsDisk, PartitionOptions, Space,
    SystemClock,
};
use bytes::Bytes;

/// Counts the syncs of the real disk and their time.
struct Counting {
    syncs: AtomicU64,
    sync_micros: AtomicU64,
    writes: AtomicU64,
    write_micros: AtomicU64,
}

struct CountingDisk(Arc<Counting>);
struct CountingFile(Arc<dyn File>, Arc<Counting>);

impl Disk for CountingDisk {
    fn open(&self, path: &std::path::Path, write: bool) -> std::io::Result<Arc<dyn File>> {
        let file = OsDisk.open(path, write)?;
        Ok(Arc::new(CountingFile(file, self.0.clone())))
    }
    fn create(&self, path: &std::path::Path) -> std::io::Result<Arc<dyn File>> {
        let file = OsDisk.create(path)?;
        Ok(Arc::new(CountingFile(file, self.0.clone())))
    }
    fn create_dir(&self, path: &std::path::Path) -> std::io::Result<()> {
        OsDisk.create_dir(path)
    }
    fn list(&self, dir: &std::path::Path) -> std::io::Result<Vec<Entry>> {
        OsDisk.list(dir)
    }
    fn rename(&self, from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
        OsDisk.rename(from, to)
    }
    fn remove(&self, path: &std::path::Path) -> std::io::Result<()> {
        OsDisk.remove(path)
    }
    fn remove_dir(&self, path: &std::path::Path) -> std::io::Result<()> {
        OsDisk.remove_dir(path)
    }
    fn sync_dir(&self, dir: &std::path::Path) -> std::io::Result<()> {
        OsDisk.sync_dir(dir)
    }
    fn space(&self, dir: &std::path::Path) -> std::io::Result<Space> {
        OsDisk.space(dir)
    }
    fn lock(
        &self,
        path: &std::path::Path,
    ) -> std::io::Result<Box<dyn std::any::Any + Send + Sync>> {
        OsDisk.lock(path)
    }
    fn random(&self) -> u64 {
        OsDisk.random()
    }
}

impl File for CountingFile {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn write_at(&self, position: u64, parts: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
        let from = Instant::now();
        let wrote = self.0.write_at(position, parts);
        self.1.writes.fetch_add(1, Ordering::Relaxed);
        let micros = from.elapsed().as_micros() as u64;
        self.1.write_micros.fetch_add(micros, Ordering::Relaxed);
        wrote
    }
    fn read_at(&self, position: u64, into: &mut [u8]) -> std::io::Result<usize> {
        self.0.read_at(position, into)
    }
    fn sync(&self) -> std::io::Result<()> {
        let from = Instant::now();
        let synced = self.0.sync();
        self.1.syncs.fetch_add(1, Ordering::Relaxed);
        let micros = from.elapsed().as_micros() as u64;
        self.1.sync_micros.fetch_add(micros, Ordering::Relaxed);
        synced
    }
    fn truncate(&self, len: u64) -> std::io::Result<()> {
        self.0.truncate(len)
    }
    fn reserve(&self, len: u64) -> std::io::Result<()> {
        self.0.reserve(len)
    }
}

fn main() {
    let mut producers = 4usize;
    let mut bytes = 256 << 10;
    let mut partitions = 1usize;
    let mut seconds = 3u64;
    let mut window = 2usize;
    let mut durability = Durability::Fsync;
    let mut dir = std::env::temp_dir().join(format!("busbar-append-{}", std::process::id()));
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || -> usize {
            let value = args.next().unwrap_or_default();
            value
                .parse()
                .unwrap_or_else(|_| panic!("{arg} needs a number"))
        };
        match arg.as_str() {
            "--producers" => producers = number().max(1),
            "--bytes" => bytes = number().max(1),
            "--partitions" => partitions = number().max(1),
            "--seconds" => seconds = number() as u64,
            "--window" => window = number().max(1),
            "--memory" => durability = Durability::Memory,
            "--dir" => dir = PathBuf::from(args.next().unwrap_or_default()).join("append-bench"),
            other => panic!("unknown argument {other}"),
        }
    }
    let counting = Arc::new(Counting {
        syncs: AtomicU64::new(0),
        sync_micros: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        write_micros: AtomicU64::new(0),
    });
    let log = Log::open(
        Arc::new(CountingDisk(counting.clone())),
        &dir,
        LogOptions::default(),
        Arc::new(SystemClock),
    )
    .unwrap_or_else(|e| panic!("{e}"));
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..producers)
        .map(|i| {
            let name = format!("bench/{}", i % partitions);
            let options = PartitionOptions {
                durability,
                retention_bytes: Some(2 << 30),
                ..PartitionOptions::default()
            };
            let partition = log.partition(&name, options).expect("a partition");
            let stop = stop.clone();
            std::thread::spawn(move || {
                // Aligned, and random enough that no layer below finds it easy.
                let body = Bytes::from(
                    (0..bytes)
                        .map(|i| (i * 31 + i / 7) as u8)
                        .collect::<Vec<_>>(),
                );
                let (send, receive) = mpsc::channel::<Instant>();
                let mut waits = Vec::new();
                let mut in_flight = 0;
                while !stop.load(Ordering::Relaxed) || in_flight > 0 {
                    if in_flight < window && !stop.load(Ordering::Relaxed) {
                        let (send, from) = (send.clone(), Instant::now());
                        partition.append(Append {
                            body: body.clone(),
                            count: 1,
                            min_time: 0,
                            max_time: 0,
                            producers: Vec::new(),
                            attributes: 0,
                            companion: None,
                            done: Some(Box::new(move |result| {
                                result.expect("an append");
                                let _ = send.send(from);
                            })),
                        });
                        in_flight += 1;
                    } else if let Ok(from) = receive.recv() {
                        waits.push(from.elapsed());
                        in_flight -= 1;
                    }
                }
                waits
            })
        })
        .collect();
    let from = Instant::now();
    while from.elapsed() < Duration::from_secs(seconds) {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    stop.store(true, Ordering::Relaxed);
    let mut waits: Vec<Duration> = threads
        .into_iter()
        .flat_map(|t| t.join().expect("a producer"))
        .collect();
    let elapsed = from.elapsed();
    waits.sort_unstable();
    let at = |part: usize| {
        waits
            .get(waits.len() * part / 1000)
            .copied()
            .unwrap_or_default()
    };
    let syncs = counting.syncs.load(Ordering::Relaxed).max(1);
    let writes = counting.writes.load(Ordering::Relaxed).max(1);
    println!(
        "{producers} producers x {window}, {partitions} partitions, {} KB: {:.0} MB/s, {:.0} appends/s, {:.1} appends a sync, sync {:.2} ms, write {:.2} ms, wait p50 {:.2} p99 {:.2} p99.9 {:.2} ms",
        bytes >> 10,
        (waits.len() * bytes) as f64 / elapsed.as_secs_f64() / 1e6,
        waits.len() as f64 / elapsed.as_secs_f64(),
        waits.len() as f64 / syncs as f64,
        counting.sync_micros.load(Ordering::Relaxed) as f64 / syncs as f64 / 1e3,
        counting.write_micros.load(Ordering::Relaxed) as f64 / writes as f64 / 1e3,
        at(500).as_secs_f64() * 1e3,
        at(990).as_secs_f64() * 1e3,
        at(999).as_secs_f64() * 1e3,
    );
    log.shutdown();
    drop(log);
    let _ = std::fs::remove_dir_all(&dir);
}
