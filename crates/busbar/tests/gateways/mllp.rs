//! HL7 messages over MLLP.

use std::io::{self, BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};

use crate::driver::{Driver, Login, Publisher, refused, socket};
use crate::support::node::Node;

pub struct Mllp;

struct Blocks {
    reader: BufReader<TcpStream>,
}

/// Senders have no password here: they are the user that the file names.
const FILE: &str = "\
protocol: tcp
frame: mllp
topic: suite/mllp
frame_size: 32KiB
idle: 15s
login: { user: ann }
allow: [127.0.0.1]
";

const STREAM: &str = "\
topics: suite/mllp
format: hl7
schema:
  n: { type: int, path: NTE.1, required: true }
";

impl Driver for Mllp {
    fn name(&self) -> &'static str {
        "mllp"
    }

    fn address(&self, node: &Node) -> SocketAddr {
        node.gateway2
    }

    fn prepare(&self, node: &Node) {
        let file = format!("listen: {}\n{FILE}", node.gateway2);
        node.write("gateways/mllp.yaml", &file);
        node.write("streams/mllp.yaml", STREAM);
    }

    fn connect(&self, address: SocketAddr, _: Login) -> io::Result<Box<dyn Publisher>> {
        Ok(Box::new(Blocks {
            reader: BufReader::new(socket(address)?),
        }))
    }

    fn stream(&self) -> &'static str {
        "mllp"
    }

    fn has_passwords(&self) -> bool {
        false
    }

    fn half_hello(&self) -> Vec<u8> {
        b"\x0bMSH|^~".to_vec()
    }
}

impl Publisher for Blocks {
    fn message(&self, payload: &[u8]) -> Vec<u8> {
        let number = payload.iter().copied().filter(u8::is_ascii_digit);
        let number: Vec<u8> = number.collect();
        let number = String::from_utf8_lossy(&number);
        let header = format!("\x0bMSH|^~\\&|||||||ADT^A01|M{number}|P|2.5\rNTE|{number}||");
        [header.as_bytes(), payload, b"\r\x1c\r"].concat()
    }

    fn answer(&mut self) -> io::Result<bool> {
        let mut block = Vec::new();
        loop {
            if self.reader.read_until(b'\r', &mut block)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if block.ends_with(b"\x1c\r") {
                break;
            }
        }
        let text = String::from_utf8_lossy(&block);
        match text.split("\rMSA|").nth(1).and_then(|rest| rest.get(..2)) {
            Some("AA") => Ok(true),
            Some("AE" | "AR") => Ok(false),
            _ => Err(refused(text)),
        }
    }

    fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }
}
