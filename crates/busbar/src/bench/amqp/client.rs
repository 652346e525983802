//! A client of AMQP 0-9-1 on a blocking socket, and the frames that it sends.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::SILENCE_MAX;

const READ_BYTES: usize = 256 << 10;

/// A connection with channel 1 open.
pub struct AmqpClient {
    pub socket: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl AmqpClient {
    /// Connects and opens channel 1.
    pub fn open(address: SocketAddr) -> io::Result<AmqpClient> {
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
    pub fn call(&mut self, request: &[u8], answer: (u16, u16)) -> io::Result<()> {
        self.socket.write_all(request)?;
        let mut answered = false;
        while !answered {
            self.read(|frame| {
                answered |= matches!(frame, ClientFrame::Method(id, _) if id == answer);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Reads once and hands over each frame that is whole.
    pub fn read(
        &mut self,
        mut each: impl FnMut(ClientFrame<'_>) -> io::Result<()>,
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
            if head[0] == 3 {
                each(ClientFrame::Body(payload))?;
            } else if head[0] == 1
                && let Some((id, fields)) = payload.split_first_chunk::<4>()
            {
                let id = (
                    u16::from_be_bytes([id[0], id[1]]),
                    u16::from_be_bytes([id[2], id[3]]),
                );
                refuse_close(id, fields)?;
                each(ClientFrame::Method(id, fields))?;
            }
            at += len + 8;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    /// Makes a durable queue that is empty.
    pub fn empty_queue(&mut self, queue: &str) -> io::Result<()> {
        self.call(&declare(queue), (50, 11))?;
        self.call(&method(1, (50, 30), &purge(queue)), (50, 31))
    }

    /// Has publishes confirmed.
    pub fn confirm(&mut self) -> io::Result<()> {
        self.call(&method(1, (85, 10), b"\0"), (85, 11))
    }

    /// Lets a consumer have this many messages unacknowledged; 0 for any number.
    pub fn prefetch(&mut self, count: u16) -> io::Result<()> {
        let [a, b] = count.to_be_bytes();
        self.call(&method(1, (60, 10), &[0, 0, 0, 0, a, b, 0]), (60, 11))
    }

    /// Consumes from a queue, with acknowledgements.
    pub fn consume(&mut self, queue: &str) -> io::Result<()> {
        self.call(&method(1, (60, 20), &consume(queue)), (60, 21))
    }

    /// Acknowledges a delivery and all before it.
    pub fn acknowledge(&mut self, tag: u64) -> io::Result<()> {
        let ack = method(1, (60, 80), &[&tag.to_be_bytes()[..], &[1]].concat());
        self.socket.write_all(&ack)
    }
}

/// A frame that came.
pub enum ClientFrame<'a> {
    /// A method, and its fields.
    Method((u16, u16), &'a [u8]),
    /// A part of a message's body.
    Body(&'a [u8]),
}

/// The tag of a delivery.
pub fn delivery_tag(id: (u16, u16), fields: &[u8]) -> Option<u64> {
    let after = 1 + usize::from(*fields.first()?);
    (id == (60, 60)).then_some(())?;
    fields
        .get(after..)?
        .first_chunk()
        .map(|tag| u64::from_be_bytes(*tag))
}

/// Which publishes are confirmed.
#[derive(Default)]
pub struct Confirms {
    /// All up to this one.
    up_to: u64,
    single: BTreeSet<u64>,
}

impl Confirms {
    /// How many, from the first one on without a gap, and others.
    pub fn count(&self) -> u64 {
        self.up_to + self.single.len() as u64
    }

    /// Takes a frame that may be a confirm.
    pub fn take(&mut self, frame: ClientFrame<'_>) -> io::Result<()> {
        let ClientFrame::Method(id, fields) = frame else {
            return Ok(());
        };
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
    [&[0, 0][..], &short(queue), b"\0\0\0\0\0\0"].concat()
}

/// A persistent message to a queue.
pub fn publish(queue: &str, payload_bytes: usize) -> Vec<u8> {
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
            let confirm = ClientFrame::Method((60, 80), &fields);
            confirms.take(confirm).expect("a confirm");
            confirms.count()
        };
        assert_eq!(
            [take(2, 0), take(1, 0), take(5, 0), take(4, 1), take(9, 1)],
            [1, 2, 3, 5, 9]
        );
    }
}
