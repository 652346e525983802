//! The listeners of a gateway and what becomes of an accepted connection.

use std::future::Future;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a client.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Makes a byte stream out of a connection, for example by the upgrade to WebSocket.
pub type Handshake = Pin<Box<dyn Future<Output = std::io::Result<Box<dyn ByteStream>>> + Send>>;

/// Begins the handshake of a connection that was accepted.
pub type BeginHandshake = Box<dyn Fn(tokio::net::TcpStream) -> Handshake + Send + Sync>;

/// The listeners of a gateway. The first thread accepts for all.
#[derive(Default)]
pub struct Acceptors {
    /// Plain TCP.
    pub tcp: Vec<TcpListener>,
    /// TLS.
    pub tls: Vec<(TcpListener, Arc<rustls::ServerConfig>)>,
    /// TCP with a handshake of another kind.
    pub other: Vec<(TcpListener, BeginHandshake)>,
}
