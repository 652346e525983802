//! HTTP: one POST for each event.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpStream};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::driver::{Driver, Login, Publisher, refused, socket};
use crate::support::node::Node;

pub struct Http;

struct Client {
    reader: BufReader<TcpStream>,
    login: String,
}

impl Driver for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn address(&self, node: &Node) -> SocketAddr {
        node.http
    }

    fn connect(&self, address: SocketAddr, login: Login) -> io::Result<Box<dyn Publisher>> {
        Ok(Box::new(Client {
            reader: BufReader::new(socket(address)?),
            login: BASE64.encode(format!("{}:{}", login.user, login.password)),
        }))
    }

    fn ends_idle_connections(&self) -> bool {
        true
    }

    fn half_hello(&self) -> Vec<u8> {
        b"POST /api/v1/events HTTP/1.1\r\nHost: x".to_vec()
    }
}

impl Publisher for Client {
    fn message(&self, payload: &[u8]) -> Vec<u8> {
        let payload = String::from_utf8_lossy(payload);
        let body = format!("{{\"topic\":\"suite/http\",\"payload\":{payload}}}");
        let head = format!(
            "POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.login,
            body.len()
        );
        [head.as_bytes(), body.as_bytes()].concat()
    }

    fn answer(&mut self) -> io::Result<bool> {
        let (mut status, mut length) = (String::new(), 0);
        if self.reader.read_line(&mut status)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(text) = line.strip_prefix("content-length:") {
                length = text.trim().parse().map_err(refused)?;
            }
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body)?;
        let accepted = String::from_utf8_lossy(&body).contains("\"accepted\":1");
        Ok(status.starts_with("HTTP/1.1 200") && accepted)
    }

    fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }
}
