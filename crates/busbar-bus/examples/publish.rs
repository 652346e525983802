//! How fast one thread publishes: `publish [seconds] [topics] [payload bytes] [folder]`.
//!
//! Prints events a second with and without waiting for the disk's acknowledgements, nanoseconds a
//! push, and what encoding, checksum, write and sync cost on their own.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use busbar_bus::{Bus, BusOptions, Event, Publisher, Status, Ticket};
use busbar_event::{BatchBuilder, Flags, Row, encode};
use busbar_log::{Log, LogOptions, OsDisk, SystemClock};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let seconds: f64 = args.next().map_or(Ok(5.0), |text| text.parse())?;
    let topics: usize = args.next().map_or(Ok(1_000), |text| text.parse())?;
    let bytes: usize = args.next().map_or(Ok(200), |text| text.parse())?;
    let folder = args.next().map_or_else(
        || std::env::temp_dir().join(format!("busbar-publish-{}", std::process::id())),
        PathBuf::from,
    );
    let names: Vec<String> = (0..topics.max(1))
        .map(|n| format!("meter/m{n}/reading"))
        .collect();
    let payload = vec![b'x'; bytes];
    parts(&names, &payload, &folder)?;

    let clock = Arc::new(SystemClock);
    let log = Log::open(Arc::new(OsDisk), &folder, LogOptions::default(), clock)?;
    let bus = Bus::open(log, BusOptions::default())?;
    let spec = serde_json::from_str(r#"{"topics":"meter/#","retention":{"bytes":"1GiB"}}"#)?;
    bus.apply_streams(&BTreeMap::from([("meter".to_owned(), spec)]))?;
    let thread = std::thread::current();
    let mut publisher = bus.publisher(Arc::new(move || thread.unpark()));

    for runs in [1, 16, 1] {
        let run = run(&bus, &mut publisher, &names, &payload, seconds, runs);
        let counters = bus
            .stream("meter")
            .map(|stream| stream.counters())
            .unwrap_or_default();
        println!(
            "fsync, {topics} topics in runs of {runs}: {:.0} k events/s, push {:.0} ns (best tenth {:.0}), flush {:.1} %, waiting {:.1} %, {} events a frame",
            run.events as f64 / run.took.as_secs_f64() / 1e3,
            run.push_nanos(0.5),
            run.push_nanos(0.05),
            100.0 * run.flushing.as_secs_f64() / run.took.as_secs_f64(),
            100.0 * run.waiting.as_secs_f64() / run.took.as_secs_f64(),
            counters.events / counters.frames.max(1),
        );
    }
    drop(publisher);
    bus.shutdown()?;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Events pushed at once: what a socket gives.
const READ: usize = 512;

struct Run {
    events: u64,
    took: Duration,
    /// How long each run of pushes took.
    chunks: Vec<Duration>,
    flushing: Duration,
    waiting: Duration,
}

impl Run {
    /// Nanoseconds a push at a quantile of the runs: others use the machine too, so the mean says
    /// more about them.
    fn push_nanos(&self, quantile: f64) -> f64 {
        let mut chunks = self.chunks.clone();
        chunks.sort();
        let at = (chunks.len() as f64 * quantile) as usize;
        chunks
            .get(at)
            .map_or(0.0, |took| took.as_secs_f64() * 1e9 / READ as f64)
    }
}

/// Publishes as a gateway does: as much as a socket gave, a flush, then acknowledgements.
fn run(
    bus: &Bus,
    publisher: &mut Publisher,
    names: &[String],
    payload: &[u8],
    seconds: f64,
    runs: usize,
) -> Run {
    let start = Instant::now();
    let mut open: VecDeque<(Ticket, u64)> = VecDeque::new();
    let mut run = Run {
        events: 0,
        took: Duration::ZERO,
        chunks: Vec::new(),
        flushing: Duration::ZERO,
        waiting: Duration::ZERO,
    };
    let (mut pushed, mut topic) = (0u64, 0usize);
    let clock = Arc::clone(bus.clock());
    loop {
        let done = start.elapsed().as_secs_f64() >= seconds;
        if !done && publisher.writable() {
            let begin = Instant::now();
            let time = clock.now_micros();
            for _ in 0..READ {
                let event = Event {
                    topic: &names[(topic / runs) % names.len()],
                    key: None,
                    time,
                    client: Some("bench"),
                    flags: Flags::default().with_qos(1),
                    tags: &[],
                    payload,
                };
                topic += 1;
                if let Ok(ticket) = publisher.push(&event) {
                    match open.back_mut() {
                        Some((last, count)) if *last == ticket => *count += 1,
                        _ => open.push_back((ticket, 1)),
                    }
                    pushed += 1;
                }
            }
            run.chunks.push(begin.elapsed());
        } else if open.is_empty() && done {
            break;
        } else {
            let begin = Instant::now();
            std::thread::park_timeout(Duration::from_millis(20));
            run.waiting += begin.elapsed();
        }
        let begin = Instant::now();
        publisher.settle();
        publisher.flush();
        run.flushing += begin.elapsed();
        while let Some((ticket, count)) = open.front() {
            match publisher.status(*ticket) {
                Status::Pending => break,
                Status::Committed => run.events += count,
                Status::Failed(failure) => println!("{count} events failed: {}", failure.error()),
            }
            open.pop_front();
        }
    }
    run.took = start.elapsed();
    assert_eq!(run.events, pushed);
    run
}

/// What each part costs alone, for a batch as the bus makes them.
fn parts(names: &[String], payload: &[u8], folder: &PathBuf) -> std::io::Result<()> {
    const ROWS: usize = 4_096;
    const ROUNDS: usize = 50;
    let mut builder = BatchBuilder::new();
    let mut build = Duration::ZERO;
    let mut coding = Duration::ZERO;
    let mut sum = Duration::ZERO;
    let (mut write, mut sync) = (Duration::ZERO, Duration::ZERO);
    std::fs::create_dir_all(folder)?;
    let path = folder.join("scratch");
    let mut file = std::fs::File::create(&path)?;
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for n in 0..ROWS {
            let topic = builder.topic_id(&names[n % names.len()]);
            builder.push(Row {
                topic,
                key: None,
                time: n as i64,
                client: None,
                flags: Flags::default(),
                tags: &[],
                payload,
            });
        }
        let batch = builder.finish();
        build += begin.elapsed();
        let begin = Instant::now();
        let body = encode(&batch);
        coding += begin.elapsed();
        bytes = body.len();
        let begin = Instant::now();
        std::hint::black_box(crc32c(&body));
        sum += begin.elapsed();
        let begin = Instant::now();
        std::io::Write::write_all(&mut file, &body)?;
        write += begin.elapsed();
        let begin = Instant::now();
        file.sync_data()?;
        sync += begin.elapsed();
    }
    std::fs::remove_file(&path)?;
    let each = |took: Duration| took.as_secs_f64() * 1e9 / (ROWS * ROUNDS) as f64;
    println!(
        "a batch of {ROWS} events ({bytes} bytes), ns an event: build {:.1}, encode {:.1}, CRC-32C {:.1}, write {:.1}, sync {:.1}",
        each(build),
        each(coding),
        each(sum),
        each(write),
        each(sync),
    );
    Ok(())
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}
