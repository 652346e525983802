use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busbar_event::{Class, Error};
use memchr::memmem;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::limits::{MLLP_ANSWER_BYTES_MAX, MLLP_CONNECT_MAX, MLLP_READ_BYTES};
use crate::places::Places;
use crate::tls::{self, Tls};

const BLOCK_BEGIN: u8 = 0x0b;
const BLOCK_END: [u8; 2] = [0x1c, b'\r'];

/// Where messages go.
#[derive(Debug, Clone)]
pub(super) struct MllpPeer {
    pub address: Arc<str>,
    pub tls: Option<Tls>,
    pub timeout: Duration,
    pub project: Arc<Path>,
    pub places: Places,
}

/// A connection.
pub(super) struct MllpLink {
    socket: Box<dyn MllpSocket>,
    /// What has come and is not read as a block yet.
    buffer: Vec<u8>,
}

trait MllpSocket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> MllpSocket for T {}

/// Whether bytes can be sent as a block.
pub(super) fn fits_block(bytes: &[u8]) -> bool {
    memchr::memchr2(BLOCK_BEGIN, BLOCK_END[0], bytes).is_none()
}

impl MllpPeer {
    /// Connects.
    ///
    /// # Errors
    /// *Transient*: nobody answers. *Configuration*: the certificate is not trusted.
    pub async fn open(&self) -> Result<MllpLink, Error> {
        match timeout(MLLP_CONNECT_MAX, self.connect()).await {
            Ok(opened) => opened,
            Err(_) => Err(self.silent(MLLP_CONNECT_MAX)),
        }
    }

    async fn connect(&self) -> Result<MllpLink, Error> {
        let tcp = TcpStream::connect(&*self.address)
            .await
            .map_err(|why| self.unreachable(why))?;
        tcp.set_nodelay(true).map_err(|why| self.unreachable(why))?;
        let socket: Box<dyn MllpSocket> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let host = self.address.rsplit_once(':').map_or("", |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(host.to_owned()).map_err(|why| {
                    Error::new(Class::Configuration, "mllp.address").caused_by(why)
                })?;
                let config = tls::client_config(tls, &self.project, &self.places).await?;
                let connector = tokio_rustls::TlsConnector::from(config);
                let encrypted = connector.connect(name, tcp).await;
                Box::new(encrypted.map_err(|why| match tls::refused(&why) {
                    Some(why) => tls::untrusted(&self.address, why),
                    None => self.unreachable(why),
                })?)
            }
        };
        Ok(MllpLink {
            socket,
            buffer: Vec::new(),
        })
    }

    fn unreachable(&self, why: std::io::Error) -> Error {
        Error::new(Class::Transient, "mllp.unreachable")
            .with("address", &self.address)
            .caused_by(why)
    }

    /// No answer came in time.
    pub fn silent(&self, waited: Duration) -> Error {
        Error::new(Class::Transient, "mllp.silent")
            .with("address", &self.address)
            .with("seconds", waited.as_secs_f64())
    }

    /// The connection ended while an answer was due.
    fn closed(&self) -> Error {
        Error::new(Class::Transient, "mllp.closed").with("address", &self.address)
    }

    /// What came is no answer.
    pub fn strange(&self) -> Error {
        Error::new(Class::Transient, "mllp.strange").with("address", &self.address)
    }
}

impl MllpLink {
    /// Sends a message.
    ///
    /// # Errors
    /// *Transient*: the connection is lost.
    pub async fn send(&mut self, peer: &MllpPeer, message: &[u8]) -> Result<(), Error> {
        let mut block = Vec::with_capacity(message.len() + 3);
        block.push(BLOCK_BEGIN);
        block.extend_from_slice(message);
        block.extend_from_slice(&BLOCK_END);
        let sent = self.socket.write_all(&block).await;
        sent.map_err(|why| peer.closed().caused_by(why))?;
        let flushed = self.socket.flush().await;
        flushed.map_err(|why| peer.closed().caused_by(why))
    }

    /// The next block.
    ///
    /// # Errors
    /// *Transient*: the connection is lost, or something else came.
    pub async fn receive(&mut self, peer: &MllpPeer) -> Result<Vec<u8>, Error> {
        loop {
            if let Some(end) = memmem::find(&self.buffer, &BLOCK_END) {
                let begin = memchr::memchr(BLOCK_BEGIN, &self.buffer[..end]);
                let begin = begin.ok_or_else(|| peer.strange())?;
                let block = self.buffer[begin + 1..end].to_vec();
                self.buffer.drain(..end + BLOCK_END.len());
                return Ok(block);
            }
            if self.buffer.len() > MLLP_ANSWER_BYTES_MAX {
                return Err(peer.strange());
            }
            self.buffer.reserve(MLLP_READ_BYTES);
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(peer.closed()),
                Ok(_) => {}
                Err(why) => return Err(peer.closed().caused_by(why)),
            }
        }
    }
}
