//! The load generators for AMQP, on blocking sockets, with frames that are encoded before the clock starts. The peer is
//! RabbitMQ as Debian packages it.

mod client;
mod memory;
mod v1;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::node::{self, Process};
use super::percentiles::Latencies;
use super::report::{Report, Row};
use super::{BenchArgs, LATENCY_RATE, note};
use client::{AmqpClient, ClientFrame, Confirms, delivery_tag, publish};

/// Publishes with confirms to a durable queue.
const CONFIRMS_IN: &str = "AMQP confirms in";
/// The same, with a consumer that acknowledges.
const THROUGH: &str = "AMQP confirms in to acknowledged out";
/// The same over a thousand queues with a consumer each.
const MANY_QUEUES: &str = "AMQP confirms in to acknowledged out, 1,000 queues";
/// From publish to delivery at a rate that saturates nothing.
const LATENCY: &str = "AMQP confirms in to acknowledged out, 20 k/s";

/// A server that says nothing for so long has lost what it was sent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Publishes in one write.
const PUBLISHES_PER_WRITE: usize = 64;
/// Messages that a consumer may have unacknowledged.
const PREFETCH: u16 = 2000;
/// Queues of [`MANY_QUEUES`].
const QUEUES: usize = 1000;
/// Writes a second of [`LATENCY`].
const TICKS_PER_SECOND: u64 = 2000;
/// The time of a publish is in the first bytes of its payload, as nanoseconds since the load began.
const STAMP_BYTES: usize = 8;

/// One load.
#[derive(Clone, Debug)]
struct AmqpLoad {
    job: &'static str,
    address: SocketAddr,
    /// Publishing connections.
    connections: usize,
    /// Queues of each connection, which it publishes to in turn.
    queues: usize,
    payload_bytes: usize,
    /// Publishes in flight on each connection.
    window: usize,
    duration: Duration,
    /// Whether each queue has a consumer.
    consume: bool,
    /// Publishes a second of each connection; as fast as it goes without.
    rate: Option<u64>,
}

/// Measures all rows of AMQP that are wanted.
pub fn rows(args: &BenchArgs, report: &mut Report, failed: &mut Vec<String>) {
    let loads = loads(args);
    memory::rows(args, report, failed);
    if loads.is_empty() && !args.wants(v1::IN) {
        return;
    }
    let mut measure = |who: &str, server: &Process, failed: &mut Vec<String>| {
        for load in &loads {
            let load = AmqpLoad {
                address: server.amqp,
                ..load.clone()
            };
            say(who, load.job, load.connections, load.duration);
            let measured = row(who, &load).map_err(|why| format!("{who}: {}: {why}", load.job));
            note(measured, report, failed);
        }
        if args.wants(v1::IN) {
            for connections in [args.connections as usize, 1] {
                let load = v1::V1Load {
                    address: server.amqp,
                    connections,
                    payload_bytes: args.payload as usize,
                    window: args.window,
                    duration: Duration::from_secs(args.seconds),
                };
                say(who, v1::IN, connections, load.duration);
                let measured =
                    v1::row(who, &load).map_err(|why| format!("{who}: {}: {why}", v1::IN));
                note(measured, report, failed);
            }
        }
    };
    match node::bare_project().and_then(|project| Process::busbar(&project)) {
        Ok(node) => measure("busbar", &node, failed),
        Err(why) => failed.push(why),
    }
    if !args.no_peers {
        match Process::rabbitmq() {
            Ok(Some(peer)) => measure("rabbitmq", &peer, failed),
            Ok(None) => {}
            Err(why) => failed.push(why),
        }
    }
}

fn say(who: &str, job: &str, connections: usize, duration: Duration) {
    eprintln!(
        "{who}: {job}, {connections} connection(s), {} s ...",
        duration.as_secs()
    );
}

/// The loads of 0-9-1 that are wanted; the address is that of no server yet.
fn loads(args: &BenchArgs) -> Vec<AmqpLoad> {
    let many = args.connections as usize;
    let base = AmqpLoad {
        job: CONFIRMS_IN,
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        connections: many,
        queues: 1,
        payload_bytes: args.payload as usize,
        window: args.window as usize,
        duration: Duration::from_secs(args.seconds),
        consume: false,
        rate: None,
    };
    let through = AmqpLoad {
        job: THROUGH,
        consume: true,
        ..base.clone()
    };
    let all = [
        base.clone(),
        AmqpLoad {
            connections: 1,
            ..base
        },
        through.clone(),
        AmqpLoad {
            connections: 1,
            ..through.clone()
        },
        AmqpLoad {
            job: MANY_QUEUES,
            connections: 1,
            queues: QUEUES,
            ..through.clone()
        },
        AmqpLoad {
            job: LATENCY,
            connections: 1,
            rate: Some(LATENCY_RATE),
            ..through
        },
    ];
    all.into_iter()
        .filter(|load| args.wants(load.job))
        .collect()
}

/// Runs a load to its end and makes a row of it.
///
/// # Errors
/// When the server cannot be reached, refuses, or stays silent for [`SILENCE_MAX`].
fn row(who: &str, load: &AmqpLoad) -> io::Result<Row> {
    let received = Arc::new(AmqpReceived::default());
    let start = Arc::new(Barrier::new(load.connections + 1));
    let epoch = Instant::now();
    let (mut publishers, mut consumers) = (Vec::new(), Vec::new());
    for number in 0..load.connections {
        let names =
            (0..load.queues).map(|queue| format!("bench-{number}-{queue}-{}", load.consume));
        let queues: Vec<String> = names.collect();
        let mut client = AmqpClient::open(load.address)?;
        queues
            .iter()
            .try_for_each(|queue| client.empty_queue(queue))?;
        client.confirm()?;
        if load.consume {
            let mut consumer = AmqpClient::open(load.address)?;
            consumer.prefetch(PREFETCH)?;
            queues
                .iter()
                .try_for_each(|queue| consumer.consume(queue))?;
            let (received, socket) = (Arc::clone(&received), consumer.socket.try_clone()?);
            let stamps = load.rate.map(|_| epoch);
            let thread = thread::spawn(move || acknowledge_all(consumer, &received, stamps));
            consumers.push(ConsumerThread { socket, thread });
        }
        let (load, start) = (load.clone(), Arc::clone(&start));
        publishers.push(thread::spawn(move || {
            start.wait();
            match load.rate {
                None => publish_all(client, &queues, &load),
                Some(rate) => publish_at(client, &queues[0], &load, rate, epoch),
            }
        }));
    }
    start.wait();
    let begun = Instant::now();
    let (mut confirmed, mut latencies) = (0, Latencies::default());
    for publisher in publishers {
        let (count, sampled) = publisher.join().expect("a publisher thread panicked")?;
        confirmed += count;
        latencies.merge(sampled);
    }
    if load.consume {
        received.wait_for(confirmed)?;
    }
    let elapsed = begun.elapsed();
    for consumer in consumers {
        consumer.end();
    }
    if load.rate.is_some() {
        latencies = std::mem::take(&mut *received.latencies.lock().expect("no thread panicked"));
    }
    Ok(Row {
        job: load.job,
        who: who.to_owned(),
        connections: load.connections,
        events_per_second: Some(confirmed as f64 / elapsed.as_secs_f64().max(1e-9)),
        latency_ms: latencies.percentiles(),
        events: confirmed,
        lost: 0,
        note: None,
    })
}

/// What consumers have received.
#[derive(Default)]
struct AmqpReceived {
    count: AtomicU64,
    /// From publish to delivery.
    latencies: Mutex<Latencies>,
}

impl AmqpReceived {
    fn wait_for(&self, wanted: u64) -> io::Result<()> {
        let mut last = (0, Instant::now());
        loop {
            let count = self.count.load(Ordering::Acquire);
            if count >= wanted {
                return Ok(());
            }
            if count != last.0 {
                last = (count, Instant::now());
            }
            if last.1.elapsed() > SILENCE_MAX {
                return Err(ErrorKind::TimedOut.into());
            }
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// A consumer on its thread.
struct ConsumerThread {
    socket: TcpStream,
    thread: thread::JoinHandle<()>,
}

impl ConsumerThread {
    /// Closes its connection, so that it takes no messages of the next load, which has a queue of the same name.
    fn end(self) {
        // The server may have closed it before.
        let _ = self.socket.shutdown(Shutdown::Both);
        self.thread.join().expect("a consumer thread panicked");
    }
}

/// Whether a server answers the protocol header.
pub fn answers(address: SocketAddr) -> bool {
    AmqpClient::open(address).is_ok()
}

/// Publishes as fast as the window allows, to each queue in turn, until the time is over and all is confirmed.
fn publish_all(
    mut client: AmqpClient,
    queues: &[String],
    load: &AmqpLoad,
) -> io::Result<(u64, Latencies)> {
    let per_write = PUBLISHES_PER_WRITE.min(load.window);
    let turns = queues
        .iter()
        .cycle()
        .map(|queue| publish(queue, load.payload_bytes));
    // As many as it takes until the turns begin with the first queue again.
    let all: Vec<Vec<u8>> = turns.take(per_write * queues.len()).collect();
    let writes_ready: Vec<Vec<u8>> = all.chunks(per_write).map(|some| some.concat()).collect();
    let mut next = writes_ready.iter().cycle();
    let begun = Instant::now();
    let (mut sent, mut confirms, mut latencies) = (0, Confirms::default(), Latencies::default());
    let mut writes = VecDeque::new();
    loop {
        let over = begun.elapsed() >= load.duration;
        if over && confirms.count() == sent {
            return Ok((sent, latencies));
        }
        if !over && sent - confirms.count() + per_write as u64 <= load.window as u64 {
            let many = next.next().expect("there is a queue");
            client.socket.write_all(many)?;
            sent += per_write as u64;
            writes.push_back((sent, Instant::now()));
            continue;
        }
        client.read(|frame| confirms.take(frame))?;
        let now = Instant::now();
        while let Some((_, at)) = writes.pop_front_if(|(end, _)| *end <= confirms.count()) {
            latencies.add(now - at);
        }
    }
}

/// Publishes at a rate, each with the time since `epoch` in its payload. Confirms are read beside it.
fn publish_at(
    mut client: AmqpClient,
    queue: &str,
    load: &AmqpLoad,
    rate: u64,
    epoch: Instant,
) -> io::Result<(u64, Latencies)> {
    let one = publish(queue, load.payload_bytes.max(STAMP_BYTES));
    // A frame ends with one byte behind the payload.
    let stamp_at = one.len() - 1 - load.payload_bytes.max(STAMP_BYTES);
    let per_tick = (rate / TICKS_PER_SECOND).max(1) as usize;
    let mut many = one.repeat(per_tick);
    let begun = Instant::now();
    let (mut sent, mut confirms) = (0, Confirms::default());
    while begun.elapsed() < load.duration {
        let due = Duration::from_secs_f64(sent as f64 / rate as f64);
        let early = due.saturating_sub(begun.elapsed());
        if !early.is_zero() {
            client
                .socket
                .set_read_timeout(Some(early.max(Duration::from_micros(1))))?;
            match client.read(|frame| confirms.take(frame)) {
                Err(why) if !matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(why);
                }
                _ => continue,
            }
        }
        let stamp = (epoch.elapsed().as_nanos() as u64).to_be_bytes();
        for message in many.chunks_exact_mut(one.len()) {
            message[stamp_at..stamp_at + STAMP_BYTES].copy_from_slice(&stamp);
        }
        client.socket.write_all(&many)?;
        sent += per_tick as u64;
    }
    client.socket.set_read_timeout(Some(SILENCE_MAX))?;
    while confirms.count() < sent {
        client.read(|frame| confirms.take(frame))?;
    }
    Ok((sent, Latencies::default()))
}

/// Acknowledges what is delivered until the connection ends. `stamps`: since when the payloads count their times.
fn acknowledge_all(mut consumer: AmqpClient, received: &AmqpReceived, stamps: Option<Instant>) {
    loop {
        let (mut count, mut last, mut times) = (0, None, Vec::new());
        let read = consumer.read(|frame| {
            match frame {
                ClientFrame::Method(id, fields) => {
                    if let Some(tag) = delivery_tag(id, fields) {
                        count += 1;
                        last = Some(tag);
                    }
                }
                ClientFrame::Body(payload) => {
                    if let (Some(epoch), Some(stamp)) = (stamps, payload.first_chunk()) {
                        let sent = Duration::from_nanos(u64::from_be_bytes(*stamp));
                        times.push(epoch.elapsed().saturating_sub(sent));
                    }
                }
            }
            Ok(())
        });
        if read.is_err() {
            return;
        }
        if !times.is_empty() {
            let mut latencies = received.latencies.lock().expect("no thread panicked");
            times.into_iter().for_each(|time| latencies.add(time));
        }
        if let Some(tag) = last {
            if consumer.acknowledge(tag).is_err() {
                return;
            }
            received.count.fetch_add(count, Ordering::AcqRel);
        }
    }
}
