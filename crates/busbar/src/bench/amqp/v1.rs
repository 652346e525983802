//! The load generator for AMQP 1.0: senders to a queue, whose transfers are settled once the server has them.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use busbar_amqp::v1::encode::{ListWriter, frame, performative, put_described, transfer};
use busbar_amqp::v1::value::TypedValue;
use busbar_amqp::v1::{Performative, SASL_HEADER, TypedReader, V1_HEADER, split};

use super::super::percentiles::Latencies;
use super::super::report::Row;
use super::{PUBLISHES_PER_WRITE, SILENCE_MAX};

/// Transfers to a queue, each settled by the server.
pub const IN: &str = "AMQP 1.0 transfers in";

/// One load.
#[derive(Clone, Debug)]
pub struct V1Load {
    /// The server.
    pub address: SocketAddr,
    /// Connections, each with a session, a link and a queue of its own.
    pub connections: usize,
    /// Payload size in bytes.
    pub payload_bytes: usize,
    /// Transfers that are not settled, on each connection.
    pub window: u32,
    /// How long to send.
    pub duration: Duration,
}

const FRAME_BYTES_MAX: usize = 64 << 10;
const READ_BYTES: usize = 256 << 10;

/// Runs a load to its end and makes a row of it.
///
/// # Errors
/// When the server cannot be reached, refuses, or stays silent for [`SILENCE_MAX`].
pub fn row(who: &str, load: &V1Load) -> io::Result<Row> {
    let start = Arc::new(Barrier::new(load.connections + 1));
    let mut senders = Vec::new();
    for number in 0..load.connections {
        let mut sender = V1Sender::open(load.address, &format!("/queue/bench-v1-{number}"))?;
        let (load, start) = (load.clone(), Arc::clone(&start));
        senders.push(thread::spawn(move || {
            start.wait();
            sender.send(&load)
        }));
    }
    start.wait();
    let begun = Instant::now();
    let (mut settled, mut latencies) = (0, Latencies::default());
    for sender in senders {
        let (count, sampled) = sender.join().expect("a sender thread panicked")?;
        settled += count;
        latencies.merge(sampled);
    }
    Ok(Row {
        job: IN,
        who: who.to_owned(),
        connections: load.connections,
        events_per_second: Some(settled as f64 / begun.elapsed().as_secs_f64().max(1e-9)),
        latency_ms: latencies.percentiles(),
        events: settled,
        lost: 0,
        note: None,
    })
}

/// A connection with a session and a link to a queue.
struct V1Sender {
    socket: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    /// Transfers that the server takes for now.
    credit_until: u32,
    window_until: u32,
    settled: u32,
}

impl V1Sender {
    fn open(address: SocketAddr, queue: &str) -> io::Result<V1Sender> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE_MAX))?;
        let mut sender = V1Sender {
            socket,
            buffer: vec![0; READ_BYTES],
            filled: 0,
            credit_until: 0,
            window_until: 0,
            settled: 0,
        };
        let mut out = SASL_HEADER.to_vec();
        frame(1, 0, &mut out, |out| {
            put_described(0x41, out, |l| {
                l.symbol("PLAIN")
                    .value(&TypedValue::Binary(b"\0guest\0guest"));
            });
        });
        sender.socket.write_all(&out)?;
        sender.header()?;
        // The mechanisms, then the outcome, whose code is 0 for a login that is right.
        let mut codes = Vec::new();
        while codes.len() < 2 {
            sender.each(|kind, body| {
                let (code, _) = TypedReader::new(body).described().map_err(broken)?;
                codes.push((kind, code));
                Ok(codes.len() == 2)
            })?;
        }
        if codes != [(1, 0x40), (1, 0x44)] {
            return Err(io::Error::other("the login was refused"));
        }
        let mut out = V1_HEADER.to_vec();
        performative(0x10, 0, &mut out, |l| {
            l.text("bench").null().uint(FRAME_BYTES_MAX as u32);
        });
        performative(0x11, 0, &mut out, |l| {
            l.null().uint(0).uint(u32::MAX >> 1).uint(u32::MAX >> 1);
        });
        performative(0x12, 0, &mut out, |l| {
            l.text("bench").uint(0).flag(false);
            l.value(&TypedValue::Ubyte(0)).value(&TypedValue::Ubyte(0));
            terminus(l, 0x28, "bench");
            terminus(l, 0x29, queue);
            l.null().null().uint(0);
        });
        sender.socket.write_all(&out)?;
        sender.header()?;
        while sender.credit_until == 0 || sender.window_until == 0 {
            sender.take()?;
        }
        Ok(sender)
    }

    /// Sends until the time is over and all is settled.
    fn send(&mut self, load: &V1Load) -> io::Result<(u64, Latencies)> {
        let mut one = Vec::new();
        let payload: Vec<u8> = (0..load.payload_bytes)
            .map(|at| b'a' + (at * 7 % 26) as u8)
            .collect();
        // A durable message with one data section.
        let mut message = b"\0\x53\x70\xc0\x02\x01\x41\0\x53\x75\xb0".to_vec();
        message.extend((payload.len() as u32).to_be_bytes());
        message.extend(&payload);
        frame(0, 0, &mut one, |out| {
            transfer(0, Some(0), false, false, out);
            out.extend_from_slice(&message);
        });
        // Behind the head of the frame, the descriptor, the list and the handle: `uint` of the number, then the tag.
        let number_at = one
            .windows(7)
            .position(|w| w == [0x70, 0, 0, 0, 0, 0xa0, 4]);
        let number_at = number_at.expect("a transfer has a number") + 1;
        let mut many = one.repeat(PUBLISHES_PER_WRITE);
        let begun = Instant::now();
        let (mut sent, mut latencies) = (0u32, Latencies::default());
        let mut writes = std::collections::VecDeque::new();
        loop {
            let over = begun.elapsed() >= load.duration;
            if over && self.settled == sent {
                return Ok((u64::from(sent), latencies));
            }
            let until = (self.settled + load.window)
                .min(self.credit_until)
                .min(self.window_until);
            let room = until.saturating_sub(sent) as usize;
            if !over && room > 0 {
                let count = room.min(PUBLISHES_PER_WRITE);
                for message in many.chunks_exact_mut(one.len()).take(count) {
                    let number = sent.to_be_bytes();
                    message[number_at..number_at + 4].copy_from_slice(&number);
                    message[number_at + 6..number_at + 10].copy_from_slice(&number);
                    sent += 1;
                }
                self.socket.write_all(&many[..count * one.len()])?;
                writes.push_back((sent, Instant::now()));
                continue;
            }
            self.take()?;
            let now = Instant::now();
            while let Some((_, at)) = writes.pop_front_if(|(end, _)| *end <= self.settled) {
                latencies.add(now - at);
            }
        }
    }

    /// Reads once and takes what came.
    fn take(&mut self) -> io::Result<()> {
        let (mut credit, mut window, mut settled) =
            (self.credit_until, self.window_until, self.settled);
        self.each(|_, body| {
            if body.is_empty() {
                return Ok(false);
            }
            match Performative::read(&mut TypedReader::new(body)).map_err(broken)? {
                Performative::Begin(begin) => window = begin.incoming_window,
                Performative::Flow(flow) => {
                    let next = flow.next_incoming_id.unwrap_or(0);
                    window = next.saturating_add(flow.incoming_window);
                    if let (Some(_), Some(given)) = (flow.handle, flow.link_credit) {
                        credit = flow.delivery_count.unwrap_or(0).saturating_add(given);
                    }
                }
                Performative::Disposition(found) => settled = settled.max(found.last + 1),
                Performative::Open(_) | Performative::Attach(_) => {}
                other => return Err(io::Error::other(format!("the server said {other:?}"))),
            }
            Ok(false)
        })?;
        (self.credit_until, self.window_until, self.settled) = (credit, window, settled);
        Ok(())
    }

    /// Reads the header of a protocol.
    fn header(&mut self) -> io::Result<()> {
        while self.filled < 8 {
            self.fill()?;
        }
        if !self.buffer.starts_with(b"AMQP") {
            return Err(io::Error::other("the server does not speak AMQP 1.0"));
        }
        self.buffer.copy_within(8..self.filled, 0);
        self.filled -= 8;
        Ok(())
    }

    /// Hands over the kind and the body of each frame that is whole, until `each` has enough; reads first when there is none.
    fn each(&mut self, mut each: impl FnMut(u8, &[u8]) -> io::Result<bool>) -> io::Result<()> {
        let mut at = 0;
        loop {
            let found = split(&self.buffer[at..self.filled], FRAME_BYTES_MAX).map_err(broken)?;
            match found {
                Some((frame, len)) => {
                    at += len;
                    if each(frame.kind, frame.body)? {
                        break;
                    }
                }
                None if at > 0 => break,
                None => self.fill()?,
            }
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    fn fill(&mut self) -> io::Result<()> {
        match self.socket.read(&mut self.buffer[self.filled..])? {
            0 => Err(ErrorKind::ConnectionAborted.into()),
            count => {
                self.filled += count;
                Ok(())
            }
        }
    }
}

fn terminus(l: &mut ListWriter<'_>, code: u8, address: &str) {
    l.described(code, |l| {
        l.text(address);
    });
}

fn broken(fault: busbar_amqp::v1::V1Fault) -> io::Error {
    io::Error::other(fault.text.to_string())
}
