//! The memory of connections: idle ones, and consumers that do not read what is sent to them.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::super::BenchArgs;
use super::super::node::{self, Process, resident_bytes_of};
use super::super::note;
use super::super::report::{Report, Row};
use super::client::{AmqpClient, Confirms, publish};

/// Connections that do nothing.
pub const IDLE: &str = "10,000 idle AMQP connections";
/// Consumers without a limit that never read.
pub const SLOW: &str = "1,000 AMQP consumers that do not read";

const IDLE_CONNECTIONS: usize = 10_000;
const SLOW_CONSUMERS: usize = 1_000;
/// Messages that wait in the queue of each slow consumer.
const WAITING: usize = 2_000;
/// Memory is read once it has not grown for so long.
const SETTLED: Duration = Duration::from_secs(3);

/// Measures the rows that are wanted, each on a node of its own.
pub fn rows(args: &BenchArgs, report: &mut Report, failed: &mut Vec<String>) {
    type Measure = fn(SocketAddr, usize) -> io::Result<Vec<AmqpClient>>;
    let all: [(&'static str, usize, Measure); 2] = [
        (IDLE, IDLE_CONNECTIONS, |address, _| {
            (0..IDLE_CONNECTIONS)
                .map(|_| AmqpClient::open(address))
                .collect()
        }),
        (SLOW, SLOW_CONSUMERS, slow),
    ];
    for (job, count, measure) in all {
        if !args.wants(job) {
            continue;
        }
        eprintln!("busbar: {job} ...");
        let row = node::bare_project().and_then(|project| {
            let server = Process::busbar(&project)?;
            let measured = grown(&server, || measure(server.amqp, args.payload as usize));
            let grown = measured.map_err(|why| format!("{job}: {why}"))?;
            let each = format!("{:.1} KB each", grown as f64 / count as f64 / 1e3);
            Ok(Row {
                connections: count,
                ..Row::note(job, each)
            })
        });
        note(row, report, failed);
    }
}

/// The memory of a server once it does not grow.
fn settled(server: &Process) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    while since.elapsed() < SETTLED {
        let now = resident_bytes_of(server.id()).unwrap_or(0);
        if now > last + (64 << 10) {
            (last, since) = (now, Instant::now());
        }
        thread::park_timeout(Duration::from_millis(100));
    }
    last
}

/// The memory that a server takes while these clients are there.
fn grown(server: &Process, clients: impl Fn() -> io::Result<Vec<AmqpClient>>) -> io::Result<u64> {
    // What publishing and reading take once, whoever does it.
    let first = Filler::open(server.amqp)?.slow_consumer(0, 8)?;
    let before = settled(server);
    let clients = clients()?;
    let after = settled(server);
    drop((first, clients));
    Ok(after.saturating_sub(before))
}

/// Consumers with a queue each, in which more waits than fits into any socket.
fn slow(address: SocketAddr, payload_bytes: usize) -> io::Result<Vec<AmqpClient>> {
    let mut filler = Filler::open(address)?;
    let numbers = 1..=SLOW_CONSUMERS;
    numbers
        .map(|number| filler.slow_consumer(number, payload_bytes))
        .collect()
}

/// A publisher that fills queues.
struct Filler {
    address: SocketAddr,
    client: AmqpClient,
    confirms: Confirms,
    sent: u64,
}

impl Filler {
    fn open(address: SocketAddr) -> io::Result<Filler> {
        let mut client = AmqpClient::open(address)?;
        client.confirm()?;
        Ok(Filler {
            address,
            client,
            confirms: Confirms::default(),
            sent: 0,
        })
    }

    /// Fills a queue, and has a consumer that never reads begin with it.
    fn slow_consumer(&mut self, number: usize, payload_bytes: usize) -> io::Result<AmqpClient> {
        let queue = format!("bench-slow-{number}");
        self.client.empty_queue(&queue)?;
        let waiting = publish(&queue, payload_bytes).repeat(WAITING);
        self.client.socket.write_all(&waiting)?;
        self.sent += WAITING as u64;
        while self.confirms.count() < self.sent {
            self.client.read(|frame| self.confirms.take(frame))?;
        }
        let mut consumer = AmqpClient::open(self.address)?;
        consumer.prefetch(0)?;
        consumer.consume(&queue)?;
        Ok(consumer)
    }
}
