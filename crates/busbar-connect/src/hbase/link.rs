//! One session with a Thrift server.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_event::{Class, Error};
use bytes::{Buf, BytesMut};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::limits::{ANSWER_BYTES_MAX, CONNECT_MAX, READ_BYTES};
use super::wire::{MessageEnd, ThriftUnreadable};
use crate::places::Places;
use crate::tls::{self, Tls};

/// Where a server is.
#[derive(Clone, Debug)]
pub struct HbaseServer {
    pub address: Arc<str>,
    /// Whether each message follows its length.
    pub framed: bool,
    pub tls: Option<Tls>,
    /// How long a call may take.
    pub timeout: Duration,
    /// Where files of the project are.
    pub project: Arc<Path>,
    pub places: Places,
}

/// A session: one call after another.
pub struct HbaseLink {
    socket: Box<dyn HbaseSocket>,
    buffer: BytesMut,
    address: Arc<str>,
    framed: bool,
    timeout: Duration,
    /// When it was used last.
    pub used: Instant,
}

trait HbaseSocket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> HbaseSocket for T {}

impl HbaseServer {
    /// Opens a session.
    ///
    /// # Errors
    /// *Transient*: nobody answers. *Configuration*: the encryption is refused.
    pub async fn open(&self) -> Result<HbaseLink, Error> {
        let socket = match timeout(CONNECT_MAX, self.connect()).await {
            Ok(opened) => opened?,
            Err(_) => return Err(silent(&self.address, CONNECT_MAX)),
        };
        Ok(HbaseLink {
            socket,
            buffer: BytesMut::with_capacity(READ_BYTES),
            address: Arc::clone(&self.address),
            framed: self.framed,
            timeout: self.timeout,
            used: Instant::now(),
        })
    }

    async fn connect(&self) -> Result<Box<dyn HbaseSocket>, Error> {
        let tcp = TcpStream::connect(&*self.address).await;
        let tcp = tcp.map_err(|why| self.unreachable(why))?;
        tcp.set_nodelay(true).map_err(|why| self.unreachable(why))?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(tcp));
        };
        let host = self.address.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|why| Error::new(Class::Configuration, "hbase.address").caused_by(why))?;
        let config = tls::client_config(tls, &self.project, &self.places).await?;
        let connector = tokio_rustls::TlsConnector::from(config);
        match connector.connect(name, tcp).await {
            Ok(socket) => Ok(Box::new(socket)),
            Err(why) => Err(match tls::refused(&why) {
                Some(why) => tls::untrusted(&self.address, why),
                None => self.unreachable(why),
            }),
        }
    }

    fn unreachable(&self, why: std::io::Error) -> Error {
        Error::new(Class::Transient, "hbase.unreachable")
            .with("address", &self.address)
            .caused_by(why)
    }
}

impl HbaseLink {
    /// Sends a call; the whole message that answers it. After an error the session is of no use.
    ///
    /// # Errors
    /// *Transient*: the session is lost, or the answer cannot be read. *Permanent*, `hbase.too-large`: the answer is larger than
    /// is taken.
    pub async fn call(&mut self, call: &[u8]) -> Result<BytesMut, Error> {
        let wait = self.timeout;
        let answer = match timeout(wait, self.exchange(call)).await {
            Ok(answer) => answer,
            Err(_) => Err(silent(&self.address, wait)),
        };
        self.used = Instant::now();
        answer
    }

    async fn exchange(&mut self, call: &[u8]) -> Result<BytesMut, Error> {
        let address = Arc::clone(&self.address);
        let closed = |why| closed(&address).caused_by(why);
        // One packet: without Nagle's algorithm the length would travel alone.
        let length = (call.len() as u32).to_be_bytes();
        let length = if self.framed { &length[..] } else { &[] };
        let sent = self
            .socket
            .write_all_buf(&mut Buf::chain(length, call))
            .await;
        sent.map_err(closed)?;
        self.socket.flush().await.map_err(closed)?;
        let mut framed = None;
        if self.framed {
            while self.buffer.len() < 4 {
                self.more().await?;
            }
            framed = Some(self.buffer.get_u32() as usize);
        }
        let mut end = MessageEnd::default();
        loop {
            match end.find(&self.buffer) {
                Ok(Some(length)) if framed.is_some_and(|framed| framed != length) => {
                    return Err(self.unreadable(ThriftUnreadable::Strange));
                }
                Ok(Some(length)) => return Ok(self.buffer.split_to(length)),
                Ok(None) => self.more().await?,
                Err(unreadable) => return Err(self.unreadable(unreadable)),
            }
        }
    }

    async fn more(&mut self) -> Result<(), Error> {
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES {
            // Large answers take few steps.
            self.buffer.reserve(READ_BYTES.max(self.buffer.len()));
        }
        match self.socket.read_buf(&mut self.buffer).await {
            Ok(0) => Err(closed(&self.address)),
            Ok(_) => Ok(()),
            Err(why) => Err(closed(&self.address).caused_by(why)),
        }
    }

    fn unreadable(&self, why: ThriftUnreadable) -> Error {
        match why {
            ThriftUnreadable::Strange => Error::new(Class::Transient, "hbase.strange"),
            ThriftUnreadable::TooLarge => {
                Error::new(Class::Permanent, "hbase.too-large").with("most", ANSWER_BYTES_MAX)
            }
        }
        .with("address", &self.address)
    }
}

fn closed(address: &str) -> Error {
    Error::new(Class::Transient, "hbase.closed").with("address", address)
}

fn silent(address: &str, after: Duration) -> Error {
    Error::new(Class::Transient, "hbase.silent")
        .with("address", address)
        .with("seconds", after.as_secs())
}
