//! MQTT 3.1.1 packets by hand, so that a test decides every byte and every silence.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a test waits for what has to come. Nothing takes as long; a machine may be slow or busy.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Client {
    pub socket: TcpStream,
    pub session_present: bool,
}

/// One packet: the first byte of its header, and what follows the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub header: u8,
    pub body: Vec<u8>,
}

pub struct Publish {
    pub topic: String,
    pub id: Option<u16>,
    pub dup: bool,
    pub payload: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr, name: &str, clean: bool) -> io::Result<Client> {
        let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut body = vec![
            0,
            4,
            b'M',
            b'Q',
            b'T',
            b'T',
            4,
            if clean { 2 } else { 0 },
            0,
            0,
        ];
        push_text(&mut body, name);
        let mut client = Client {
            socket,
            session_present: false,
        };
        client.send(0x10, &body)?;
        let answer = client.read()?;
        if answer.header != 0x20 || answer.body[1] != 0 {
            return Err(io::Error::other(format!("CONNECT refused: {answer:?}")));
        }
        client.session_present = answer.body[0] == 1;
        Ok(client)
    }

    pub fn subscribe(&mut self, filter: &str, qos: u8) -> io::Result<()> {
        let mut body = vec![0, 1];
        push_text(&mut body, filter);
        body.push(qos);
        self.send(0x82, &body)?;
        let answer = self.read()?;
        if answer.header != 0x90 || answer.body[2] > 2 {
            return Err(io::Error::other(format!("SUBSCRIBE refused: {answer:?}")));
        }
        Ok(())
    }

    pub fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        id: u16,
        dup: bool,
    ) -> io::Result<()> {
        let mut body = Vec::new();
        push_text(&mut body, topic);
        if qos > 0 {
            body.extend(id.to_be_bytes());
        }
        body.extend(payload);
        self.send(0x30 | qos << 1 | u8::from(dup) << 3, &body)
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    pub fn acknowledge(&mut self, header: u8, id: u16) -> io::Result<()> {
        self.send(header, &id.to_be_bytes())
    }

    pub fn send(&mut self, header: u8, body: &[u8]) -> io::Result<()> {
        let mut packet = vec![header];
        let mut length = body.len();
        loop {
            let more = length > 0x7f;
            packet.push(length as u8 & 0x7f | u8::from(more) << 7);
            length >>= 7;
            if !more {
                break;
            }
        }
        packet.extend(body);
        self.socket.write_all(&packet)
    }

    pub fn read(&mut self) -> io::Result<Packet> {
        let mut byte = [0];
        self.socket.read_exact(&mut byte)?;
        let header = byte[0];
        let mut length = 0usize;
        for shift in [0, 7, 14, 21] {
            self.socket.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body)?;
        Ok(Packet { header, body })
    }
}

impl Packet {
    pub fn kind(&self) -> u8 {
        self.header & 0xf0
    }

    /// The packet id of an acknowledgement.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    pub fn as_publish(&self) -> Option<Publish> {
        if self.kind() != 0x30 {
            return None;
        }
        let end = 2 + usize::from(u16::from_be_bytes([self.body[0], self.body[1]]));
        let topic = String::from_utf8_lossy(&self.body[2..end]).into_owned();
        let qos = self.header >> 1 & 3;
        let id = (qos > 0).then(|| u16::from_be_bytes([self.body[end], self.body[end + 1]]));
        let payload = self.body[end + if qos > 0 { 2 } else { 0 }..].to_vec();
        Some(Publish {
            topic,
            id,
            dup: self.header & 8 != 0,
            payload,
        })
    }
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u16).to_be_bytes());
    bytes.extend(text.as_bytes());
}
