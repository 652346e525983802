//! Lines over TCP.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::driver::{Driver, Login, Publisher, refused, socket};
use crate::support::node::Node;

pub struct Tcp;

struct Lines {
    reader: BufReader<TcpStream>,
}

const FILE: &str = "\
protocol: tcp
topic: suite/tcp
format: json
frame_size: 32KiB
login: frame
acknowledge: true
";

impl Driver for Tcp {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn address(&self, node: &Node) -> SocketAddr {
        node.gateway
    }

    fn prepare(&self, node: &Node) {
        let file = format!("listen: {}\n{FILE}", node.gateway);
        node.write("gateways/suite.yaml", &file);
    }

    fn connect(&self, address: SocketAddr, login: Login) -> io::Result<Box<dyn Publisher>> {
        let mut socket = socket(address)?;
        socket.write_all(format!("{}:{}\n", login.user, login.password).as_bytes())?;
        Ok(Box::new(Lines {
            reader: BufReader::new(socket),
        }))
    }

    fn half_hello(&self) -> Vec<u8> {
        b"ann:a-good".to_vec()
    }
}

impl Publisher for Lines {
    fn message(&self, payload: &[u8]) -> Vec<u8> {
        [payload, b"\n"].concat()
    }

    fn answer(&mut self) -> io::Result<bool> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "ok" => Ok(true),
            line if line.starts_with("error ") => Ok(false),
            other => Err(refused(other)),
        }
    }

    fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }
}
