//! The load generator: MQTT 3.1.1 clients on blocking sockets whose packets are encoded before the
//! clock starts, so that what is measured is the server and not the generator. Works against any
//! broker, which is how the peers' figures of the same run come about.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use super::percentiles::Latencies;

/// One load: who sends how much, how.
#[derive(Debug, Clone)]
pub struct Load {
    /// The broker.
    pub address: SocketAddr,
    /// Publishing connections, each on a thread of its own.
    pub connections: usize,
    /// Quality of service of the publishes, 0 or 1.
    pub qos: u8,
    /// Payload size in bytes, at least [`STAMP_BYTES`].
    pub payload_bytes: usize,
    /// Publishes in flight on each connection before it waits (QoS 1).
    pub window: usize,
    /// How long to send.
    pub duration: Duration,
    /// Events a second over all connections; `None` is as fast as it goes.
    pub rate: Option<u64>,
    /// Whether one more connection subscribes and counts what comes out.
    pub subscribe: Option<u8>,
}

/// What came of a load.
#[derive(Debug)]
pub struct Outcome {
    /// Events that count: acknowledged, durable or received, as the load asks.
    pub events: u64,
    /// Events sent; with a subscriber, more than `events` means that some were lost.
    pub sent: u64,
    /// From the first byte to the last event that counts.
    pub elapsed: Duration,
    /// Publish to acknowledgement, or publish to receipt, sampled once each write.
    pub latencies: Latencies,
}

impl Outcome {
    /// Events a second.
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// The first bytes of a payload carry the time of sending, in nanoseconds since the start.
pub const STAMP_BYTES: usize = 8;
/// Bytes of a PUBACK of MQTT 3.1.1.
pub const PUBACK_BYTES: usize = 4;
/// Reads take up to this much at once.
const READ_BYTES: usize = 256 << 10;
/// A server that says nothing for so long has lost what it was sent.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A subscriber waits so long for stragglers once the publishers are done.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// Packets in one write; divides the window evenly.
const WRITES_PER_WINDOW: usize = 16;

/// Runs a load to its end.
///
/// # Errors
/// When the broker cannot be reached, refuses, or stays silent for [`SILENCE_MAX`].
pub fn run(load: &Load) -> io::Result<Outcome> {
    let epoch = Instant::now();
    let done = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let subscriber = match load.subscribe {
        Some(qos) => {
            let socket = connect(load.address, "bench-sub")?;
            subscribe(&socket, "bench/#", qos)?;
            let (done, sent) = (done.clone(), sent.clone());
            Some(thread::spawn(move || receive(socket, epoch, &done, &sent)))
        }
        None => None,
    };

    let start = Arc::new(Barrier::new(load.connections + 1));
    let mut publishers = Vec::new();
    for number in 0..load.connections {
        let socket = connect(load.address, &format!("bench-pub-{number}"))?;
        let (load, start, sent) = (load.clone(), start.clone(), sent.clone());
        publishers.push(thread::spawn(move || {
            let packets = Packets::encode(&load, number);
            start.wait();
            publish(socket, packets, &load, epoch, &sent)
        }));
    }
    start.wait();
    let begun = Instant::now();
    let mut latencies = Latencies::default();
    let mut acknowledged = 0;
    let mut failure = None;
    for publisher in publishers {
        match publisher.join().expect("a publisher thread panicked") {
            Ok((events, sampled)) => {
                acknowledged += events;
                latencies.merge(sampled);
            }
            Err(why) => failure = Some(why),
        }
    }
    let mut elapsed = begun.elapsed();
    done.store(true, Ordering::Release);
    let mut events = acknowledged;
    if let Some(subscriber) = subscriber {
        let received = subscriber.join().expect("the subscriber thread panicked")?;
        events = received.events;
        latencies = received.latencies;
        elapsed = received.last.saturating_duration_since(begun);
    }
    match failure {
        Some(why) => Err(why),
        None => Ok(Outcome {
            events,
            sent: sent.load(Ordering::Acquire),
            elapsed,
            latencies,
        }),
    }
}

/// A ring of one window of encoded PUBLISH packets, all of one length.
struct Packets {
    bytes: Vec<u8>,
    packet_bytes: usize,
    stamp_at: usize,
    count: usize,
    per_write: usize,
}

impl Packets {
    fn encode(load: &Load, number: usize) -> Packets {
        let topic = format!("bench/c{number}/reading");
        let per_write = (load.window / WRITES_PER_WINDOW).max(1);
        let count = per_write * WRITES_PER_WINDOW.min(load.window);
        let payload_bytes = load.payload_bytes.max(STAMP_BYTES);
        let id_bytes = if load.qos > 0 { 2 } else { 0 };
        let remaining = 2 + topic.len() + id_bytes + payload_bytes;
        let mut bytes = Vec::new();
        let (mut packet_bytes, mut stamp_at) = (0, 0);
        for id in 1..=count {
            let begin = bytes.len();
            bytes.push(0x30 | load.qos << 1);
            push_length(&mut bytes, remaining);
            bytes.extend((topic.len() as u16).to_be_bytes());
            bytes.extend(topic.as_bytes());
            if load.qos > 0 {
                bytes.extend((id as u16).to_be_bytes());
            }
            stamp_at = bytes.len() - begin;
            bytes.extend([0; STAMP_BYTES]);
            // Varied like readings are, and never a zero stamp by accident.
            bytes.extend((STAMP_BYTES..payload_bytes).map(|at| b'a' + ((at * 7 + id) % 26) as u8));
            packet_bytes = bytes.len() - begin;
        }
        Packets {
            bytes,
            packet_bytes,
            stamp_at,
            count,
            per_write,
        }
    }

    /// The bytes of packets `from..from + count`, the first one stamped.
    fn slice(&mut self, from: usize, count: usize, stamp: u64) -> &[u8] {
        let begin = from * self.packet_bytes;
        let at = begin + self.stamp_at;
        self.bytes[at..at + STAMP_BYTES].copy_from_slice(&stamp.to_be_bytes());
        &self.bytes[begin..begin + count * self.packet_bytes]
    }
}

fn publish(
    mut socket: TcpStream,
    mut packets: Packets,
    load: &Load,
    epoch: Instant,
    total: &AtomicU64,
) -> io::Result<(u64, Latencies)> {
    let begun = Instant::now();
    let pace = load.rate.map(|rate| rate as f64 / load.connections as f64);
    let per_write = if pace.is_some() { 1 } else { packets.per_write };
    let mut acks = Acks::of(PUBACK_BYTES);
    let mut latencies = Latencies::default();
    let mut writes: VecDeque<(u64, Instant)> = VecDeque::new();
    let (mut sent, mut position) = (0u64, 0usize);

    while begun.elapsed() < load.duration {
        if let Some(pace) = pace {
            let due = Duration::from_secs_f64(sent as f64 / pace);
            let early = due.saturating_sub(begun.elapsed());
            if !early.is_zero() {
                socket.set_read_timeout(Some(early.max(Duration::from_micros(1))))?;
                if load.qos == 0 {
                    #[allow(clippy::disallowed_methods)] // a thread of its own, nothing else on it
                    thread::sleep(early);
                } else {
                    acks.read(&mut socket, &mut writes, &mut latencies, true)?;
                }
                continue;
            }
        }
        let room = load.qos == 0 || sent - acks.count + per_write as u64 <= packets.count as u64;
        if room {
            let stamp = epoch.elapsed().as_nanos() as u64;
            socket.write_all(packets.slice(position, per_write, stamp))?;
            position = (position + per_write) % packets.count;
            sent += per_write as u64;
            total.fetch_add(per_write as u64, Ordering::Relaxed);
            if load.qos > 0 {
                writes.push_back((sent, Instant::now()));
            }
        } else {
            socket.set_read_timeout(Some(SILENCE_MAX))?;
            acks.read(&mut socket, &mut writes, &mut latencies, false)?;
        }
    }

    socket.set_read_timeout(Some(SILENCE_MAX))?;
    if load.qos == 0 {
        // QoS 0 has no acknowledgement of its own: one QoS 1 publish behind it says when all that
        // went before on this connection has been taken.
        let mut last = vec![0x32, 0];
        last.extend(11u16.to_be_bytes());
        last.extend(b"bench/c/end");
        last.extend(1u16.to_be_bytes());
        last.extend([0; STAMP_BYTES]);
        last[1] = (last.len() - 2) as u8;
        socket.write_all(&last)?;
        while acks.count == 0 {
            acks.read(&mut socket, &mut writes, &mut latencies, false)?;
        }
        return Ok((sent, latencies));
    }
    while acks.count < sent {
        acks.read(&mut socket, &mut writes, &mut latencies, false)?;
    }
    Ok((sent, latencies))
}

/// Counts acknowledgements.
pub(super) struct Acks {
    pub count: u64,
    end: AckEnd,
    partial: usize,
    buffer: Vec<u8>,
}

/// How acknowledgements are told apart.
enum AckEnd {
    /// All have one length, such as PUBACK of MQTT 3.1.1.
    Bytes(usize),
    /// Each ends with this byte, which is nowhere else in it.
    Mark(u8),
}

impl Acks {
    /// Of this many bytes each.
    pub fn of(ack_bytes: usize) -> Acks {
        Acks {
            count: 0,
            end: AckEnd::Bytes(ack_bytes),
            partial: 0,
            buffer: Vec::new(),
        }
    }

    /// That end with this byte.
    pub fn ending_with(mark: u8) -> Acks {
        Acks {
            end: AckEnd::Mark(mark),
            ..Acks::of(1)
        }
    }

    pub fn read(
        &mut self,
        socket: &mut TcpStream,
        writes: &mut VecDeque<(u64, Instant)>,
        latencies: &mut Latencies,
        silence_is_fine: bool,
    ) -> io::Result<()> {
        if self.buffer.is_empty() {
            self.buffer.resize(READ_BYTES, 0);
        }
        let count = match socket.read(&mut self.buffer) {
            Ok(0) => return Err(ErrorKind::ConnectionAborted.into()),
            Ok(count) => count,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return if silence_is_fine {
                    Ok(())
                } else {
                    Err(ErrorKind::TimedOut.into())
                };
            }
            Err(e) => return Err(e),
        };
        match self.end {
            AckEnd::Bytes(bytes) => {
                self.partial += count;
                self.count += (self.partial / bytes) as u64;
                self.partial %= bytes;
            }
            AckEnd::Mark(mark) => {
                let marks = self.buffer[..count].iter().filter(|byte| **byte == mark);
                self.count += marks.count() as u64;
            }
        }
        let now = Instant::now();
        while let Some((end, at)) = writes.front() {
            if *end > self.count {
                break;
            }
            latencies.add(now - *at);
            writes.pop_front();
        }
        Ok(())
    }
}

struct Received {
    events: u64,
    last: Instant,
    latencies: Latencies,
}

/// Reads PUBLISH packets until the publishers are done and nothing more comes; acknowledges QoS 1.
fn receive(
    mut socket: TcpStream,
    epoch: Instant,
    done: &AtomicBool,
    sent: &AtomicU64,
) -> io::Result<Received> {
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut received = Received {
        events: 0,
        last: Instant::now(),
        latencies: Latencies::default(),
    };
    let mut buffer = vec![0; 2 * READ_BYTES];
    let (mut filled, mut acks) = (0, Vec::new());
    loop {
        let all = done.load(Ordering::Acquire) && received.events >= sent.load(Ordering::Acquire);
        if all || (done.load(Ordering::Acquire) && received.last.elapsed() > DRAIN_MAX) {
            return Ok(received);
        }
        match socket.read(&mut buffer[filled..]) {
            Ok(0) => return Err(ErrorKind::ConnectionAborted.into()),
            Ok(count) => filled += count,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(e) => return Err(e),
        }
        let now = Instant::now();
        let mut at = 0;
        while let Some((header, length)) = fixed_header(&buffer[at..filled]) {
            if at + header + length > filled {
                break;
            }
            if buffer[at] & 0xf0 == 0x30 {
                let packet = &buffer[at + header..at + header + length];
                let topic_bytes = usize::from(u16::from_be_bytes([packet[0], packet[1]]));
                let mut payload = 2 + topic_bytes;
                if &packet[2..payload] != b"bench/c/end" {
                    received.events += 1;
                }
                if buffer[at] & 0x06 != 0 {
                    acks.extend([0x40, 2, packet[payload], packet[payload + 1]]);
                    payload += 2;
                }
                let mut stamp = [0; STAMP_BYTES];
                stamp.copy_from_slice(&packet[payload..payload + STAMP_BYTES]);
                let stamp = u64::from_be_bytes(stamp);
                if stamp != 0 {
                    received
                        .latencies
                        .add((now - epoch).saturating_sub(Duration::from_nanos(stamp)));
                }
            }
            at += header + length;
        }
        if at > 0 {
            received.last = now;
            buffer.copy_within(at..filled, 0);
            filled -= at;
        }
        if !acks.is_empty() {
            socket.write_all(&acks)?;
            acks.clear();
        }
    }
}

/// Length of the fixed header and the remaining length, once both are there.
fn fixed_header(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for index in 1..=4 {
        let byte = *bytes.get(index)?;
        length |= usize::from(byte & 0x7f) << (7 * (index - 1));
        if byte & 0x80 == 0 {
            return Some((index + 1, length));
        }
    }
    None
}

fn push_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length > 0x7f {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}

/// A connected MQTT 3.1.1 session that starts clean.
pub fn connect(address: SocketAddr, client: &str) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(SILENCE_MAX))?;
    let mut packet = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0];
    packet.extend((client.len() as u16).to_be_bytes());
    packet.extend(client.as_bytes());
    packet[1] = (packet.len() - 2) as u8;
    socket.write_all(&packet)?;
    let mut answer = [0; 4];
    socket.read_exact(&mut answer)?;
    if answer[3] != 0 {
        return Err(io::Error::other(format!(
            "the broker refused the connection: code {}",
            answer[3]
        )));
    }
    Ok(socket)
}

fn subscribe(mut socket: &TcpStream, filter: &str, qos: u8) -> io::Result<()> {
    let mut packet = vec![0x82, 0, 0, 1];
    packet.extend((filter.len() as u16).to_be_bytes());
    packet.extend(filter.as_bytes());
    packet.push(qos);
    packet[1] = (packet.len() - 2) as u8;
    socket.write_all(&packet)?;
    let mut answer = [0; 5];
    socket.read_exact(&mut answer)?;
    if answer[4] > 2 {
        return Err(io::Error::other("the broker refused the subscription"));
    }
    Ok(())
}

/// Publishes one event with QoS 1 and waits for its acknowledgement.
pub fn publish_one(address: SocketAddr, topic: &str) -> io::Result<()> {
    let mut socket = connect(address, "bench-one")?;
    let mut packet = Vec::new();
    publish_packet(&mut packet, topic, 1, b"{}");
    socket.write_all(&packet)?;
    let mut answer = [0; 4];
    socket.read_exact(&mut answer)
}

/// Appends a publish with QoS 1.
pub(super) fn publish_packet(bytes: &mut Vec<u8>, topic: &str, id: u16, payload: &[u8]) {
    bytes.push(0x32);
    push_length(bytes, 2 + topic.len() + 2 + payload.len());
    bytes.extend((topic.len() as u16).to_be_bytes());
    bytes.extend(topic.as_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
}
