//! AMQP 1.0 with messages that are not settled, sent to a topic.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::driver::{Driver, Login, Publisher, refused, socket};
use crate::support::node::Node;

pub struct Amqp1;

struct Client {
    socket: TcpStream,
    next: AtomicU32,
}

const SASL_HEADER: &[u8] = b"AMQP\x03\x01\0\0";
const HEADER: &[u8] = b"AMQP\0\x01\0\0";
const FLOW: u8 = 0x13;
const DISPOSITION: u8 = 0x15;
const SASL_OUTCOME: u8 = 0x44;
/// Detach, end, close: the server ends something.
const ENDS: [u8; 3] = [0x16, 0x17, 0x18];
/// The largest part of a message in one frame.
const PART_BYTES: usize = 100_000;

impl Driver for Amqp1 {
    fn name(&self) -> &'static str {
        "amqp1"
    }

    fn address(&self, node: &Node) -> SocketAddr {
        node.amqp
    }

    fn connect(&self, address: SocketAddr, login: Login) -> io::Result<Box<dyn Publisher>> {
        let mut socket = socket(address)?;
        let response = format!("\0{}\0{}", login.user, login.password);
        let init = list(
            0x41,
            2,
            &[&short(0xa3, b"PLAIN"), &short(0xa0, response.as_bytes())],
        );
        socket.write_all(&[SASL_HEADER, &frame(1, &init)].concat())?;
        let mut client = Client {
            socket,
            next: AtomicU32::new(0),
        };
        client.header()?;
        let outcome = client.until(&[SASL_OUTCOME])?.1;
        if !outcome.ends_with(&[0x50, 0]) {
            return Err(refused("the login"));
        }
        let target = list(0x29, 1, &[&short(0xa1, b"/topics/suite/amqp1")]);
        let (name, null, sends) = (short(0xa1, b"suite"), [0x40], [0x42]);
        let fields: [&[u8]; 10] = [
            &name,
            &[0x43],
            &sends,
            &null,
            &null,
            &null,
            &target,
            &null,
            &null,
            &[0x43],
        ];
        let all = [
            HEADER.to_vec(),
            frame(0, &list(0x10, 1, &[&short(0xa1, b"suite")])),
            frame(
                0,
                &list(0x11, 4, &[&[0x40], &[0x43], &[0x52, 100], &[0x52, 100]]),
            ),
            frame(0, &list(0x12, 10, &fields)),
        ];
        client.socket.write_all(&all.concat())?;
        client.header()?;
        // Credit comes when the link is attached.
        match client.until(&[FLOW])?.0 {
            FLOW => Ok(Box::new(client)),
            other => Err(refused(other)),
        }
    }

    fn half_hello(&self) -> Vec<u8> {
        [SASL_HEADER, b"\0\0\0\x20\x02\x01"].concat()
    }
}

impl Client {
    fn header(&mut self) -> io::Result<()> {
        self.socket.read_exact(&mut [0; 8])
    }

    /// Reads up to one of these performatives, or one that ends something.
    fn until(&mut self, awaited: &[u8]) -> io::Result<(u8, Vec<u8>)> {
        loop {
            let mut head = [0; 8];
            self.socket.read_exact(&mut head)?;
            let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let mut body = vec![0; len - 8];
            self.socket.read_exact(&mut body)?;
            if let [0, 0x53, code, ..] = body[..]
                && (awaited.contains(&code) || ENDS.contains(&code))
            {
                return Ok((code, body));
            }
        }
    }
}

impl Publisher for Client {
    fn message(&self, payload: &[u8]) -> Vec<u8> {
        let id = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut message = b"\0\x53\x70\xc0\x02\x01\x41\0\x53\x75\xb0".to_vec();
        message.extend((payload.len() as u32).to_be_bytes());
        message.extend(payload);
        let count = message.len().div_ceil(PART_BYTES);
        let mut all = Vec::new();
        for (n, part) in message.chunks(PART_BYTES).enumerate() {
            let number = [&[0x70][..], &id].concat();
            let more = [if n + 1 < count { 0x41 } else { 0x42 }];
            let tag = short(0xa0, &id);
            let fields: [&[u8]; 6] = [&[0x43], &number, &tag, &[0x43], &[0x42], &more];
            let transfer = list(0x14, 6, &fields);
            all.extend(frame(0, &[&transfer, part].concat()));
        }
        all
    }

    fn answer(&mut self) -> io::Result<bool> {
        match self.until(&[DISPOSITION])? {
            // A disposition says what became of the messages at its end.
            (DISPOSITION, body) => Ok(body.windows(3).any(|state| state == [0, 0x53, 0x24])),
            (other, _) => Err(refused(other)),
        }
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

/// A string, a symbol or bytes, with their length in one byte.
fn short(code: u8, bytes: &[u8]) -> Vec<u8> {
    [&[code, bytes.len() as u8], bytes].concat()
}

/// A described list.
fn list(code: u8, count: u32, fields: &[&[u8]]) -> Vec<u8> {
    let fields = fields.concat();
    let mut out = vec![0, 0x53, code, 0xd0];
    out.extend((fields.len() as u32 + 4).to_be_bytes());
    out.extend(count.to_be_bytes());
    out.extend(fields);
    out
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = (body.len() as u32 + 8).to_be_bytes().to_vec();
    out.extend([2, kind, 0, 0]);
    out.extend(body);
    out
}
