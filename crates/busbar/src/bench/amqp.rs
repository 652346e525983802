//! The load generator for AMQP 0-9-1: publishers with confirms and a consumer with acknowledgements, on blocking
//! sockets, with frames that are encoded before the clock starts. The peer is RabbitMQ as Debian packages it.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use super::percentiles::Latencies;
use super::report::Row;

/// Publishes with confirms to a durable queue.
pub const CONFIRMS_IN: &str = "AMQP confirms in";
/// The same, with a consumer that acknowledges.
pub const THROUGH: &str = "AMQP confirms in to acknowledged out";

/// One load.
#[derive(Clone, Debug)]
pub struct AmqpLoad {
    /// The server.
    pub address: SocketAddr,
    /// Publishing connections, each with a queue of its own.
    pub connections: usize,
    /// Payload size in bytes.
    pub payload_bytes: usize,
    /// Publishes in flight on each connection.
    pub window: usize,
    /// How long to publish.
    pub duration: Duration,
    /// Whether each queue has a consumer.
    pub consume: bool,
}

/// A server that says nothing for so long has lost what it was sent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Publishes in one write.
const PUBLISHES_PER_WRITE: usize = 64;
/// Messages that a consumer may have unacknowledged.
const PREFETCH: u16 = 2000;
const READ_BYTES: usize = 256 << 10;

/// Runs a load to its end and makes a row of it.
///
/// # Errors
/// When the server cannot be reached, refuses, or stays silent for [`SILENCE_MAX`].
pub fn row(who: &str, load: &AmqpLoad) -> io::Result<Row> {
    let received = Arc::new(AtomicU64::new(0));
    let start = Arc::new(Barrier::new(load.connections + 1));
    let (mut publishers, mut consumers) = (Vec::new(), Vec::new());
    for number in 0..load.connections {
        let queue = format!("bench-{number}-{}", load.consume);
        let mut client = AmqpClient::open(load.address)?;
        client.call(&declare(&queue), (50, 11))?;
        client.call(&method(1, (50, 30), &purge(&queue)), (50, 31))?;
        client.call(&method(1, (85, 10), b"\0"), (85, 11))?;
        if load.consume {
            let mut consumer = AmqpClient::open(load.address)?;
            let [a, b] = PREFETCH.to_be_bytes();
            consumer.call(&method(1, (60, 10), &[0, 0, 0, 0, a, b, 0]), (60, 11))?;
            consumer.call(&method(1, (60, 20), &consume(&queue)), (60, 21))?;
            let (received, socket) = (Arc::clone(&received), consumer.socket.try_clone()?);
            let thread = thread::spawn(move || consumer.acknowledge_all(&received));
            consumers.push(ConsumerThread { socket, thread });
        }
        let (load, start) = (load.clone(), Arc::clone(&start));
        publishers.push(thread::spawn(move || {
            start.wait();
            client.publish(&queue, &load)
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
        let mut last = (0, Instant::now());
        while received.load(Ordering::Acquire) < confirmed {
            let count = received.load(Ordering::Acquire);
            if count != last.0 {
                last = (count, Instant::now());
            }
            if last.1.elapsed() > SILENCE_MAX {
                return Err(ErrorKind::TimedOut.into());
            }
            thread::park_timeout(Duration::from_millis(1));
        }
    }
    let elapsed = begun.elapsed();
    for consumer in consumers {
        consumer.end();
    }
    Ok(Row {
        job: if load.consume { THROUGH } else { CONFIRMS_IN },
        who: who.to_owned(),
        connections: load.connections,
        events_per_second: Some(confirmed as f64 / elapsed.as_secs_f64().max(1e-9)),
        latency_ms: latencies.percentiles(),
        events: confirmed,
        lost: 0,
        note: None,
    })
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

/// A connection with channel 1 open.
struct AmqpClient {
    socket: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl AmqpClient {
    fn open(address: SocketAddr) -> io::Result<AmqpClient> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE_MAX))?;
        let mut client = AmqpClient {
            socket,
            buffer: vec![0; READ_BYTES],
            filled: 0,
        };
        let start_ok = b"\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US";
        client.call(b"AMQP\0\0\x09\x01", (10, 10))?;
        client.call(&method(0, (10, 11), start_ok), (10, 30))?;
        // One channel, frames of 128 KiB, no heartbeat. Zero channels mean any number, which RabbitMQ refuses.
        let tune_ok = method(0, (10, 31), &[0, 1, 0, 2, 0, 0, 0, 0]);
        client.socket.write_all(&tune_ok)?;
        client.call(&method(0, (10, 40), b"\x01/\0\0"), (10, 41))?;
        client.call(&method(1, (20, 10), b"\0"), (20, 11))?;
        Ok(client)
    }

    /// Sends a request and reads up to its answer.
    fn call(&mut self, request: &[u8], answer: (u16, u16)) -> io::Result<()> {
        self.socket.write_all(request)?;
        let mut answered = false;
        while !answered {
            self.read(|id, fields| {
                answered |= id == answer;
                refuse_close(id, fields)
            })?;
        }
        Ok(())
    }

    /// Reads once and hands over each method that is whole.
    fn read(
        &mut self,
        mut each: impl FnMut((u16, u16), &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let count = self.socket.read(&mut self.buffer[self.filled..])?;
        if count == 0 {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        self.filled += count;
        let mut at = 0;
        while let Some(head) = self.buffer[at..self.filled].first_chunk::<7>() {
            let len = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            if self.filled - at < len + 8 {
                break;
            }
            let payload = &self.buffer[at + 7..at + 7 + len];
            if head[0] == 1
                && let Some((id, fields)) = payload.split_first_chunk::<4>()
            {
                let id = (
                    u16::from_be_bytes([id[0], id[1]]),
                    u16::from_be_bytes([id[2], id[3]]),
                );
                each(id, fields)?;
            }
            at += len + 8;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    fn publish(&mut self, queue: &str, load: &AmqpLoad) -> io::Result<(u64, Latencies)> {
        let one = publish(queue, load.payload_bytes);
        let per_write = PUBLISHES_PER_WRITE.min(load.window);
        let many = one.repeat(per_write);
        let begun = Instant::now();
        let (mut sent, mut confirms, mut latencies) =
            (0, Confirms::default(), Latencies::default());
        let mut writes = std::collections::VecDeque::new();
        loop {
            let over = begun.elapsed() >= load.duration;
            if over && confirms.count() == sent {
                return Ok((sent, latencies));
            }
            if !over && sent - confirms.count() + per_write as u64 <= load.window as u64 {
                self.socket.write_all(&many)?;
                sent += per_write as u64;
                writes.push_back((sent, Instant::now()));
                continue;
            }
            self.read(|id, fields| confirms.take(id, fields))?;
            let now = Instant::now();
            while let Some((_, at)) = writes.pop_front_if(|(end, _)| *end <= confirms.count()) {
                latencies.add(now - at);
            }
        }
    }

    /// Acknowledges what is delivered until the connection ends.
    fn acknowledge_all(mut self, received: &AtomicU64) {
        loop {
            let (mut count, mut last) = (0, None);
            let read = self.read(|id, fields| {
                if id == (60, 60)
                    && let Some(tag) = fields
                        .get(1 + usize::from(fields[0])..)
                        .and_then(|f| f.first_chunk())
                {
                    count += 1;
                    last = Some(u64::from_be_bytes(*tag));
                }
                Ok(())
            });
            if read.is_err() {
                return;
            }
            if let Some(tag) = last {
                let ack = method(1, (60, 80), &[&tag.to_be_bytes()[..], &[1]].concat());
                if self.socket.write_all(&ack).is_err() {
                    return;
                }
                received.fetch_add(count, Ordering::AcqRel);
            }
        }
    }
}

/// Which publishes are confirmed.
#[derive(Default)]
struct Confirms {
    /// All up to this one.
    up_to: u64,
    single: BTreeSet<u64>,
}

impl Confirms {
    fn count(&self) -> u64 {
        self.up_to + self.single.len() as u64
    }

    fn take(&mut self, id: (u16, u16), fields: &[u8]) -> io::Result<()> {
        refuse_close(id, fields)?;
        if id == (60, 120) {
            return Err(io::Error::other("a publish was refused"));
        }
        let (Some(tag), (60, 80)) = (fields.first_chunk::<8>(), id) else {
            return Ok(());
        };
        let tag = u64::from_be_bytes(*tag);
        match fields.get(8) {
            Some(1) => {
                self.up_to = self.up_to.max(tag);
                self.single = self.single.split_off(&(tag + 1));
            }
            _ => drop(self.single.insert(tag)),
        }
        while self.single.remove(&(self.up_to + 1)) {
            self.up_to += 1;
        }
        Ok(())
    }
}

fn refuse_close(id: (u16, u16), fields: &[u8]) -> io::Result<()> {
    match id {
        (10, 50) | (20, 40) => {
            let text = fields.get(3..).unwrap_or_default();
            Err(io::Error::other(String::from_utf8_lossy(text).into_owned()))
        }
        _ => Ok(()),
    }
}

fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

fn declare(queue: &str) -> Vec<u8> {
    method(
        1,
        (50, 10),
        &[&[0, 0][..], &short(queue), &[2, 0, 0, 0, 0]].concat(),
    )
}

fn purge(queue: &str) -> Vec<u8> {
    [&[0, 0][..], &short(queue), &[0]].concat()
}

fn consume(queue: &str) -> Vec<u8> {
    [&[0, 0][..], &short(queue), b"\x01c\0\0\0\0\0"].concat()
}

/// A persistent message to a queue.
fn publish(queue: &str, payload_bytes: usize) -> Vec<u8> {
    let fields = [&[0, 0, 0][..], &short(queue), &[0]].concat();
    let mut header = vec![0, 60, 0, 0];
    header.extend((payload_bytes as u64).to_be_bytes());
    header.extend([0x10, 0, 2]);
    let payload: Vec<u8> = (0..payload_bytes)
        .map(|at| b'a' + (at * 7 % 26) as u8)
        .collect();
    [
        method(1, (60, 40), &fields),
        frame(2, 1, &header),
        frame(3, 1, &payload),
    ]
    .concat()
}

fn method(channel: u16, id: (u16, u16), fields: &[u8]) -> Vec<u8> {
    frame(
        1,
        channel,
        &[&id.0.to_be_bytes()[..], &id.1.to_be_bytes(), fields].concat(),
    )
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(0xCE);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_are_counted_however_they_come() {
        let mut confirms = Confirms::default();
        let mut take = |tag: u64, multiple: u8| {
            let fields = [&tag.to_be_bytes()[..], &[multiple]].concat();
            confirms.take((60, 80), &fields).expect("a confirm");
            confirms.count()
        };
        assert_eq!(
            [take(2, 0), take(1, 0), take(5, 0), take(4, 1), take(9, 1)],
            [1, 2, 3, 5, 9]
        );
    }
}
