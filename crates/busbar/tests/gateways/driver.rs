//! What a gateway's driver does: speak its protocol as a client that publishes.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::node::Node;

/// How long a test waits for what has to come. Nothing takes as long; a machine may be slow or busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A user and his password.
#[derive(Clone, Copy, Debug)]
pub struct Login {
    pub user: &'static str,
    pub password: &'static str,
}

/// A protocol.
pub trait Driver: Sync {
    /// Its name; events go to `suite/NAME`.
    fn name(&self) -> &'static str;
    /// Where a node speaks it.
    fn address(&self, node: &Node) -> SocketAddr;
    /// Writes the files of the project that it needs.
    fn prepare(&self, _: &Node) {}
    /// Connects and logs in. A node without users takes any login.
    fn connect(&self, address: SocketAddr, login: Login) -> io::Result<Box<dyn Publisher>>;
    /// The stream that its events are in.
    fn stream(&self) -> &'static str {
        "suite"
    }
    /// Whether clients log in with a name and a password.
    fn has_passwords(&self) -> bool {
        true
    }
    /// Whether a connection between two messages may be closed to make room for others, as in HTTP.
    fn ends_idle_connections(&self) -> bool {
        false
    }
    /// The first half of what a client says first.
    fn half_hello(&self) -> Vec<u8>;
}

/// A client that is connected.
pub trait Publisher: Send {
    /// The bytes that publish this payload to `suite/NAME`, to be acknowledged.
    fn message(&self, payload: &[u8]) -> Vec<u8>;
    /// Waits for the acknowledgement of one message: whether it was taken.
    fn answer(&mut self) -> io::Result<bool>;
    /// Its connection.
    fn socket(&self) -> &TcpStream;

    /// Publishes `{"n":N}` and waits for the acknowledgement.
    fn publish(&mut self, n: u64) -> io::Result<bool> {
        let message = self.message(format!("{{\"n\":{n}}}").as_bytes());
        io::Write::write_all(&mut self.socket(), &message)?;
        self.answer()
    }
}

/// Connects with deadlines.
pub fn socket(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// An error of the protocol.
pub fn refused(what: impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("{what:?}"))
}
