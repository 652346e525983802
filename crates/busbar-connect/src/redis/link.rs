//! One session with a server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busbar_event::{Class, Error};
use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::failure::{RedisDoing, told};
use super::limits::{CONNECT_MAX, GOODBYE_MAX, READ_BYTES, VALUE_BYTES_MAX};
use super::wire::{Commands, Replies, Reply, Unreadable};
use crate::places::Places;
use crate::tls::{self, Tls};

/// Where a server is, and who asks.
#[derive(Clone)]
pub struct RedisServer {
    pub address: Arc<str>,
    pub database: u32,
    /// The server's `default` where none is named.
    pub user: Arc<str>,
    pub password: Option<String>,
    pub tls: Option<Tls>,
    /// How long a command may take.
    pub timeout: Duration,
    /// Where files of the project are.
    pub project: Arc<Path>,
    pub places: Places,
}

/// A session.
pub struct RedisLink {
    socket: Box<dyn RedisSocket>,
    buffer: BytesMut,
    replies: Replies,
    /// What has not been sent yet.
    out: BytesMut,
    /// Answers that have not come yet.
    owed: usize,
    address: Arc<str>,
    timeout: Duration,
    /// As the server says it: `redis 7.0.15`.
    pub version: String,
}

trait RedisSocket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> RedisSocket for T {}

impl RedisServer {
    /// What errors of this server name.
    pub fn doing<'a>(&'a self, keys: &'a str, rights: &'a str) -> RedisDoing<'a> {
        RedisDoing {
            address: &self.address,
            user: &self.user,
            keys,
            rights,
        }
    }

    /// Opens a session.
    ///
    /// # Errors
    /// *Transient*: nobody answers, or the server has no room or is still loading. *Configuration*: it refuses the user,
    /// the database or the encryption, or is one of a cluster.
    pub async fn open(&self) -> Result<RedisLink, Error> {
        match timeout(CONNECT_MAX, self.connect()).await {
            Ok(opened) => opened,
            Err(_) => Err(silent(&self.address, CONNECT_MAX)),
        }
    }

    async fn connect(&self) -> Result<RedisLink, Error> {
        let tcp = TcpStream::connect(&*self.address).await;
        let tcp = tcp.map_err(|why| self.unreachable(why))?;
        tcp.set_nodelay(true).map_err(|why| self.unreachable(why))?;
        let socket: Box<dyn RedisSocket> = match &self.tls {
            Some(tls) => self.encrypted(tcp, tls).await?,
            None => Box::new(tcp),
        };
        let mut link = RedisLink {
            socket,
            buffer: BytesMut::with_capacity(READ_BYTES),
            replies: Replies::default(),
            out: BytesMut::new(),
            owed: 0,
            address: Arc::clone(&self.address),
            timeout: CONNECT_MAX,
            version: String::new(),
        };
        let mut commands = Commands::default();
        match &self.password {
            Some(password) => {
                let user = self.user.as_bytes();
                commands.add(&[b"HELLO", b"2", b"AUTH", user, password.as_bytes()]);
            }
            None => commands.add(&[b"HELLO", b"2"]),
        }
        commands.add(&[b"SELECT", self.database.to_string().as_bytes()]);
        link.send(&commands);
        let doing = self.doing("*", "+@connection");
        let (hello, selected) = (link.reply().await?, link.reply().await?);
        if let Reply::Refused(said) = &hello {
            return Err(told(said, doing));
        }
        let about = |name: &str| hello.member(name).and_then(Reply::text).unwrap_or_default();
        link.version = format!("{} {}", about("server"), about("version"));
        match about("mode") {
            "cluster" => return Err(told("CLUSTERDOWN cluster_enabled:1", doing)),
            "sentinel" => {
                let error = Error::new(Class::Configuration, "redis.sentinel");
                return Err(error.with("address", &self.address));
            }
            _ => {}
        }
        if let Reply::Refused(said) = &selected {
            return Err(told(said, doing).with("database", self.database));
        }
        link.timeout = self.timeout;
        Ok(link)
    }

    async fn encrypted(&self, tcp: TcpStream, tls: &Tls) -> Result<Box<dyn RedisSocket>, Error> {
        let host = self.address.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|why| Error::new(Class::Configuration, "redis.address").caused_by(why))?;
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
        Error::new(Class::Transient, "redis.unreachable")
            .with("address", &self.address)
            .caused_by(why)
    }
}

impl RedisLink {
    /// Whether it may be used for something new: every command was sent and answered.
    pub fn rests(&self) -> bool {
        self.owed == 0 && self.out.is_empty()
    }

    /// Answers that have not come yet.
    pub fn owed(&self) -> usize {
        self.owed
    }

    /// Queues commands; [`RedisLink::reply`] sends them.
    pub fn send(&mut self, commands: &Commands) {
        self.out.extend_from_slice(commands.bytes());
        self.owed += commands.count();
    }

    /// The next answer. May be dropped while it waits, after which it is called again.
    ///
    /// # Errors
    /// *Transient*: the session is lost. *Configuration*: the answer is larger than is taken.
    pub async fn reply(&mut self) -> Result<Reply, Error> {
        Ok(self.sized_reply().await?.0)
    }

    /// The same, with the bytes of its values.
    ///
    /// # Errors
    /// As [`RedisLink::reply`].
    pub async fn sized_reply(&mut self) -> Result<(Reply, usize), Error> {
        let wait = self.timeout;
        while !self.out.is_empty() {
            match timeout(wait, self.socket.write_buf(&mut self.out)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => return Err(closed(&self.address)),
                Ok(Err(why)) => return Err(closed(&self.address).caused_by(why)),
                Err(_) => return Err(silent(&self.address, wait)),
            }
            if self.out.is_empty() {
                let flushed = timeout(wait, self.socket.flush()).await;
                flushed
                    .map_err(|_| silent(&self.address, wait))?
                    .map_err(|why| closed(&self.address).caused_by(why))?;
            }
        }
        loop {
            match self.replies.next(&mut self.buffer) {
                Ok(Some(reply)) => {
                    self.owed = self.owed.saturating_sub(1);
                    return Ok(reply);
                }
                Ok(None) => {}
                Err(Unreadable::Strange(what)) => {
                    let error = Error::new(Class::Transient, "redis.strange");
                    return Err(error.with("address", &self.address).with("what", what));
                }
                Err(Unreadable::TooLarge) => {
                    let error = Error::new(Class::Configuration, "redis.too-large");
                    return Err(error
                        .with("address", &self.address)
                        .with("most", VALUE_BYTES_MAX));
                }
            }
            if self.buffer.capacity() - self.buffer.len() < READ_BYTES {
                self.buffer.reserve(READ_BYTES);
            }
            match timeout(wait, self.socket.read_buf(&mut self.buffer)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => return Err(closed(&self.address)),
                Ok(Err(why)) => return Err(closed(&self.address).caused_by(why)),
                Err(_) => return Err(silent(&self.address, wait)),
            }
        }
    }

    /// Runs commands; their answers.
    ///
    /// # Errors
    /// As [`RedisLink::reply`]. A command that the server refuses is an answer.
    pub async fn run(&mut self, commands: &Commands) -> Result<Vec<Reply>, Error> {
        self.run_after(0, commands).await
    }

    /// The same, with the bytes of all their values.
    ///
    /// # Errors
    /// As [`RedisLink::reply`].
    pub async fn run_sized(&mut self, commands: &Commands) -> Result<(Vec<Reply>, usize), Error> {
        self.send(commands);
        let (mut replies, mut bytes) = (Vec::with_capacity(commands.count()), 0);
        while replies.len() < commands.count() {
            let (reply, size) = self.sized_reply().await?;
            bytes += size;
            replies.push(reply);
        }
        Ok((replies, bytes))
    }

    /// Runs commands behind so many that were sent before; the answers to all of them.
    ///
    /// # Errors
    /// As [`RedisLink::reply`].
    pub async fn run_after(
        &mut self,
        before: usize,
        commands: &Commands,
    ) -> Result<Vec<Reply>, Error> {
        self.send(commands);
        let all = before + commands.count();
        let mut replies = Vec::with_capacity(all);
        while replies.len() < all {
            replies.push(self.reply().await?);
        }
        Ok(replies)
    }

    /// Ends the session in good order.
    pub async fn close(mut self) {
        let _ = timeout(GOODBYE_MAX, self.socket.shutdown()).await;
    }
}

pub fn closed(address: &str) -> Error {
    Error::new(Class::Transient, "redis.closed").with("address", address)
}

fn silent(address: &str, after: Duration) -> Error {
    Error::new(Class::Transient, "redis.silent")
        .with("address", address)
        .with("seconds", after.as_secs())
}
