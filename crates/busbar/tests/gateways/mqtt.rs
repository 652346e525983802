//! MQTT 3.1.1, QoS 1.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::driver::{Driver, Login, Publisher, refused, socket};
use crate::support::node::Node;

pub struct Mqtt;

struct Client {
    socket: TcpStream,
}

impl Driver for Mqtt {
    fn name(&self) -> &'static str {
        "mqtt"
    }

    fn address(&self, node: &Node) -> SocketAddr {
        node.mqtt
    }

    fn connect(&self, address: SocketAddr, login: Login) -> io::Result<Box<dyn Publisher>> {
        let mut body = b"\0\x04MQTT\x04\xc2\0\0".to_vec();
        for text in ["", login.user, login.password] {
            push_text(&mut body, text);
        }
        let mut socket = socket(address)?;
        socket.write_all(&packet(0x10, &body))?;
        let mut answer = [0; 4];
        socket.read_exact(&mut answer)?;
        match answer {
            [0x20, 2, _, 0] => Ok(Box::new(Client { socket })),
            other => Err(refused(other)),
        }
    }

    fn half_hello(&self) -> Vec<u8> {
        b"\x10\x20\0\x04MQTT".to_vec()
    }
}

impl Publisher for Client {
    fn message(&self, payload: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        push_text(&mut body, "suite/mqtt");
        body.extend([0, 1]);
        body.extend(payload);
        packet(0x32, &body)
    }

    fn answer(&mut self) -> io::Result<bool> {
        let mut answer = [0; 4];
        self.socket.read_exact(&mut answer)?;
        match answer {
            [0x40, 2, 0, 1] => Ok(true),
            other => Err(refused(other)),
        }
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u16).to_be_bytes());
    bytes.extend(text.as_bytes());
}

fn packet(header: u8, body: &[u8]) -> Vec<u8> {
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
    packet
}
