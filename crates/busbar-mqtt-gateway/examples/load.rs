//! A cheap load generator: packets are encoded beforehand, one thread serves all connections.
//!
//! `load ADDRESS MODE [CONNECTIONS] [SECONDS] [WINDOW] [RATE]` with mode `in1` (QoS 1 in), `in0`
//! (QoS 0 in, paced by a ping), `through0` (QoS 0 in and out), `through1` (QoS 1 in and out, at RATE
//! events a second, with latencies).

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use busbar_mqtt::client::{ServerPacket, decode, encode_connect, encode_subscribe};
use busbar_mqtt::control::{Connect, SubscribeOptions};
use busbar_mqtt::{PublishOut, Split, Version, split};

const PAYLOAD_BYTES: usize = 200;

struct Client {
    socket: TcpStream,
    input: Vec<u8>,
    /// Encoded packets and where each ends.
    packets: Vec<u8>,
    ends: Vec<usize>,
    /// Packets sent so far, and the byte within the ring.
    sent: u64,
    at: usize,
    acked: u64,
    received: u64,
}

fn client(address: &str, number: usize, version: Version) -> Client {
    let mut socket = TcpStream::connect(address).expect("connect");
    socket.set_nodelay(true).expect("nodelay");
    let mut out = Vec::new();
    encode_connect(
        &Connect {
            version,
            clean_start: true,
            keep_alive_s: 0,
            client_id: format!("load-{}-{number}", std::process::id()),
            username: None,
            password: None,
            will: None,
            session_expiry_s: 0,
            receive_maximum: u16::MAX,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_info: false,
            request_problem_info: true,
            auth_method: None,
        },
        &mut out,
    );
    socket.write_all(&out).expect("write");
    let mut answer = [0; 256];
    let n = socket.read(&mut answer).expect("read");
    assert!(n >= 4 && answer[3] == 0, "refused");
    Client {
        socket,
        input: Vec::new(),
        packets: Vec::new(),
        ends: Vec::new(),
        sent: 0,
        at: 0,
        acked: 0,
        received: 0,
    }
}

impl Client {
    fn prepare(&mut self, qos: u8, window: u16, topic: &str) {
        for id in 1..=window {
            let packet = PublishOut {
                dup: false,
                qos,
                retain: false,
                topic: topic.as_bytes(),
                packet_id: id,
                properties: &[],
                payload: &[b'x'; PAYLOAD_BYTES],
            };
            packet.encode(Version::V311, &mut self.packets);
            self.ends.push(self.packets.len());
        }
        self.socket.set_nonblocking(true).expect("nonblocking");
    }

    /// Sends up to `allowed` packets more; true if something moved.
    fn send(&mut self, allowed: u64) -> bool {
        let ring = self.ends.len() as u64;
        let until = self.sent + allowed;
        let mut moved = false;
        while self.sent < until {
            let first = self.sent % ring;
            let last = (first + (until - self.sent)).min(ring) as usize;
            match self
                .socket
                .write(&self.packets[self.at..self.ends[last - 1]])
            {
                Ok(n) => {
                    moved = true;
                    self.at += n;
                    let passed = self.ends.partition_point(|end| *end <= self.at) as u64;
                    self.sent += passed - first;
                    if self.at == self.packets.len() {
                        self.at = 0;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
        moved
    }

    /// Reads what is there: counts acknowledgements and messages.
    fn receive(&mut self, buffer: &mut [u8], mut message: impl FnMut(&[u8])) -> bool {
        let n = match self.socket.read(buffer) {
            Ok(0) => panic!("closed"),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
            Err(e) => panic!("{e}"),
        };
        self.input.extend_from_slice(&buffer[..n]);
        let mut at = 0;
        let mut answers = Vec::new();
        while let Ok(Split::Whole(frame)) = split(&self.input[at..], u32::MAX) {
            match frame.header >> 4 {
                4 => self.acked += 1,
                3 => {
                    self.received += 1;
                    if let Ok(ServerPacket::Publish(p)) = decode(frame, Version::V311) {
                        message(p.payload);
                        if p.qos == 1 {
                            let [hi, lo] = p.packet_id.to_be_bytes();
                            answers.extend_from_slice(&[0x40, 2, hi, lo]);
                        }
                    }
                }
                13 => self.acked = self.sent,
                _ => {}
            }
            at += frame.len;
        }
        self.input.drain(..at);
        if !answers.is_empty() {
            self.socket.set_nonblocking(false).expect("blocking");
            self.socket.write_all(&answers).expect("write");
            self.socket.set_nonblocking(true).expect("nonblocking");
        }
        true
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is no async worker here to block"
)]
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let text = |i: usize, default: &str| args.get(i).cloned().unwrap_or_else(|| default.to_owned());
    let number =
        |i: usize, default: u64| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (address, mode) = (text(0, "127.0.0.1:1883"), text(1, "in1"));
    let connections = number(2, 4) as usize;
    let seconds = number(3, 5);
    let window = number(4, 4000);
    let rate = number(5, 20_000);
    let qos = u8::from(mode.ends_with('1'));
    let through = mode.starts_with("through");
    let mut clients: Vec<Client> = (0..connections)
        .map(|i| client(&address, i, Version::V311))
        .collect();
    let mut subscriber = through.then(|| {
        let mut c = client(&address, 999, Version::V311);
        let mut out = Vec::new();
        let options = SubscribeOptions {
            qos,
            ..Default::default()
        };
        encode_subscribe(Version::V311, 1, None, &[("load/#", options)], &mut out);
        c.socket.write_all(&out).expect("write");
        let mut answer = [0; 64];
        assert!(c.socket.read(&mut answer).expect("read") >= 5);
        c.socket.set_nonblocking(true).expect("nonblocking");
        c
    });
    for (i, c) in clients.iter_mut().enumerate() {
        c.prepare(qos, window as u16, &format!("load/{i}/reading"));
    }
    let mut buffer = vec![0; 256 * 1024];
    let mut latencies: Vec<u32> = Vec::new();
    let start = Instant::now();
    let warm = Duration::from_millis(500);
    let mut base: Option<(u64, Instant)> = None;
    let mut paced = 0u64;
    loop {
        let elapsed = start.elapsed();
        if elapsed > warm + Duration::from_secs(seconds) {
            break;
        }
        let done = |clients: &[Client], s: &Option<Client>| match s {
            Some(s) => s.received,
            None => clients.iter().map(|c| c.acked).sum(),
        };
        if base.is_none() && elapsed > warm {
            base = Some((done(&clients, &subscriber), Instant::now()));
            latencies.clear();
        }
        let mut moved = false;
        if mode == "through1" {
            let due = (elapsed.as_secs_f64() * rate as f64) as u64;
            while paced < due {
                let i = (paced % connections as u64) as usize;
                let c = &mut clients[i];
                let mut payload = [b'x'; PAYLOAD_BYTES];
                let stamp = start.elapsed().as_nanos() as u64;
                payload[..8].copy_from_slice(&stamp.to_be_bytes());
                let mut out = Vec::with_capacity(256);
                PublishOut {
                    dup: false,
                    qos: 1,
                    retain: false,
                    topic: b"load/x/reading",
                    packet_id: (paced / connections as u64 % 60_000) as u16 + 1,
                    properties: &[],
                    payload: &payload,
                }
                .encode(Version::V311, &mut out);
                c.socket.set_nonblocking(false).expect("blocking");
                c.socket.write_all(&out).expect("write");
                c.socket.set_nonblocking(true).expect("nonblocking");
                c.sent += 1;
                paced += 1;
                moved = true;
            }
        }
        let outstanding = match &subscriber {
            Some(s) => clients.iter().map(|c| c.sent).sum::<u64>() - s.received,
            None => 0,
        };
        for c in &mut clients {
            if mode != "through1" {
                let room = match (mode.as_str(), through) {
                    (_, true) => {
                        (window * connections as u64).saturating_sub(outstanding)
                            / connections as u64
                    }
                    ("in0", _) => window * 4 - (c.sent - c.acked).min(window * 4),
                    _ => window - (c.sent - c.acked),
                };
                if room > 0 {
                    moved |= c.send(room);
                    if mode == "in0" && c.at == 0 && c.acked < c.sent {
                        let _ = c.socket.write(&[0xc0, 0]);
                    }
                }
            }
            moved |= c.receive(&mut buffer, |_| {});
        }
        if let Some(s) = &mut subscriber {
            let now = start.elapsed().as_nanos() as u64;
            moved |= s.receive(&mut buffer, |payload| {
                if mode == "through1" {
                    let stamp = u64::from_be_bytes(payload[..8].try_into().expect("8 bytes"));
                    latencies.push((now.saturating_sub(stamp) / 1000) as u32);
                }
            });
        }
        if !moved {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    let (before, since) = base.expect("ran long enough");
    let total = match &subscriber {
        Some(s) => s.received,
        None => clients.iter().map(|c| c.acked).sum(),
    };
    let per_second = (total - before) as f64 / since.elapsed().as_secs_f64();
    println!("{mode} connections={connections} window={window}: {per_second:.0}/s");
    if !latencies.is_empty() {
        latencies.sort_unstable();
        let at = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize];
        println!(
            "latency us: p50 {} p99 {} p99.9 {}",
            at(0.5),
            at(0.99),
            at(0.999)
        );
    }
}
