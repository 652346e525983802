//! AMQP 0-9-1 with confirms, published to `amq.topic`.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::driver::{Driver, Login, Publisher, refused, socket};
use crate::support::node::Node;

pub struct Amqp;

struct Client {
    socket: TcpStream,
}

const HEADER: &[u8] = b"AMQP\0\0\x09\x01";
const CONNECTION_CLOSE: (u16, u16) = (10, 50);
const CHANNEL_CLOSE: (u16, u16) = (20, 40);
const ACK: (u16, u16) = (60, 80);
const NACK: (u16, u16) = (60, 120);
const CONFIRM_SELECT_OK: (u16, u16) = (85, 11);

impl Driver for Amqp {
    fn name(&self) -> &'static str {
        "amqp"
    }

    fn address(&self, node: &Node) -> SocketAddr {
        node.amqp
    }

    fn connect(&self, address: SocketAddr, login: Login) -> io::Result<Box<dyn Publisher>> {
        let mut socket = socket(address)?;
        let response = format!("\0{}\0{}", login.user, login.password);
        let mut start_ok = b"\0\0\0\0\x05PLAIN".to_vec();
        start_ok.extend((response.len() as u32).to_be_bytes());
        start_ok.extend(response.as_bytes());
        start_ok.extend(b"\x05en_US");
        socket.write_all(HEADER)?;
        socket.write_all(&method(0, (10, 11), &start_ok))?;
        socket.write_all(&method(0, (10, 31), &[0, 0, 0, 2, 0, 0, 0, 0]))?;
        socket.write_all(&method(0, (10, 40), b"\x01/\0\0"))?;
        socket.write_all(&method(1, (20, 10), b"\0"))?;
        socket.write_all(&method(1, (85, 10), b"\0"))?;
        let mut client = Client { socket };
        match client.next(&[CONFIRM_SELECT_OK])? {
            CONFIRM_SELECT_OK => Ok(Box::new(client)),
            other => Err(refused(other)),
        }
    }

    fn half_hello(&self) -> Vec<u8> {
        [HEADER, b"\x01\0\0\0\0\x01\0"].concat()
    }
}

impl Client {
    /// Reads up to one of these methods, or a `close`.
    fn next(&mut self, awaited: &[(u16, u16)]) -> io::Result<(u16, u16)> {
        loop {
            let mut head = [0; 7];
            self.socket.read_exact(&mut head)?;
            let len = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let mut frame = vec![0; len + 1];
            self.socket.read_exact(&mut frame)?;
            let (1, [a, b, c, d, ..]) = (head[0], &frame[..]) else {
                continue;
            };
            let id = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
            if awaited.contains(&id) || [CONNECTION_CLOSE, CHANNEL_CLOSE].contains(&id) {
                return Ok(id);
            }
        }
    }
}

impl Publisher for Client {
    fn message(&self, payload: &[u8]) -> Vec<u8> {
        let mut all = method(1, (60, 40), b"\0\0\x09amq.topic\x0asuite.amqp\0");
        let mut header = vec![0, 60, 0, 0];
        header.extend((payload.len() as u64).to_be_bytes());
        header.extend([0x10, 0, 2]);
        all.extend(frame(2, 1, &header));
        for part in payload.chunks(100_000) {
            all.extend(frame(3, 1, part));
        }
        // One confirm may stand for many publishes. This one has an answer for each.
        all.extend(method(1, (60, 10), &[0; 7]));
        all
    }

    fn answer(&mut self) -> io::Result<bool> {
        match self.next(&[ACK, NACK])? {
            ACK => Ok(true),
            NACK => Ok(false),
            other => Err(refused(other)),
        }
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

fn method(channel: u16, id: (u16, u16), fields: &[u8]) -> Vec<u8> {
    let id = [id.0.to_be_bytes(), id.1.to_be_bytes()].concat();
    frame(1, channel, &[&id, fields].concat())
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(0xCE);
    frame
}
