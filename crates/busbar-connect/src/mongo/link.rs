//! One session with the server that takes writes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busbar_event::{Class, Error};
use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::bson::{BsonDocument, BsonValue, BsonWriter};
use super::failure::{MongoDoing, MongoFailure, MongoRefusal, NO_COMMAND};
use super::limits::{
    ASKED_SERVERS_MAX, CONNECT_MAX, DOCUMENT_BYTES_MAX, GOODBYE_MAX, MESSAGE_BYTES_MAX, READ_BYTES,
    SCRAM_STEPS_MAX,
};
use super::wire::{self, DocumentSequence};
use crate::places::Places;
use crate::scram::{Scram, ScramHash};
use crate::tls::{self, Tls};

/// The servers of a set, and who asks.
#[derive(Clone)]
pub struct MongoServer {
    /// Some of them; the others are named by these.
    pub addresses: Vec<String>,
    pub database: Arc<str>,
    pub user: Option<String>,
    pub password: Option<String>,
    /// The database that knows the user.
    pub auth_database: String,
    pub tls: Option<Tls>,
    /// How long a command may take.
    pub timeout: Duration,
    /// Where files of the project are.
    pub project: Arc<Path>,
    pub places: Places,
}

/// A session.
pub struct MongoLink {
    socket: Box<dyn MongoSocket>,
    buffer: BytesMut,
    out: BytesMut,
    message: i32,
    timeout: Duration,
    /// The server that was reached.
    pub address: Arc<str>,
    /// What it can.
    pub about: MongoAbout,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default)]
pub struct MongoAbout {
    /// It takes writes.
    pub writable: bool,
    /// It is one of a replica set, or leads to such: transactions and change streams are there.
    pub replicated: bool,
    /// It leads to several sets, whose changes it merges.
    pub sharded: bool,
    /// Bytes of a document that it takes.
    pub document_bytes: usize,
    primary: Option<String>,
    hosts: Vec<String>,
}

/// An answer of a server.
#[derive(Clone, Debug)]
pub struct MongoAnswer(Bytes);

trait MongoSocket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> MongoSocket for T {}

impl MongoAnswer {
    pub fn document(&self) -> BsonDocument<'_> {
        // It was checked when it came.
        BsonDocument::read(&self.0).unwrap_or(BsonDocument::EMPTY)
    }
}

impl MongoServer {
    /// What errors of this server name.
    pub fn doing<'a>(&'a self, collection: &'a str, rights: &'a str) -> MongoDoing<'a> {
        MongoDoing {
            address: self.addresses.first().map_or("", String::as_str),
            user: self.user.as_deref().unwrap_or("-"),
            collection,
            rights,
        }
    }

    /// A command on a database; finished by [`BsonWriter::finish`].
    pub fn command(&self, name: &str, of: &str) -> BsonWriter {
        let mut command = BsonWriter::new();
        command.text(name, of);
        command.text("$db", &self.database);
        command
    }

    /// Opens a session with the server that takes writes.
    ///
    /// # Errors
    /// *Transient*: nobody answers, or the set has no primary now. *Configuration*: the user, the encryption or the server is
    /// refused.
    pub async fn open(&self) -> Result<MongoLink, Error> {
        let mut asked: Vec<String> = Vec::new();
        let mut open: std::collections::VecDeque<String> = self.addresses.iter().cloned().collect();
        let mut failed = None;
        while let Some(address) = open.pop_front() {
            if asked.contains(&address) || asked.len() >= ASKED_SERVERS_MAX {
                continue;
            }
            asked.push(address.clone());
            let opened = match timeout(CONNECT_MAX, self.reach(&address)).await {
                Ok(opened) => opened,
                Err(_) => Err(silent(&address, CONNECT_MAX)),
            };
            match opened {
                Ok(mut link) if link.about.writable => {
                    timeout(CONNECT_MAX, self.prove(&mut link))
                        .await
                        .map_err(|_| silent(&address, CONNECT_MAX))??;
                    link.timeout = self.timeout;
                    return Ok(link);
                }
                Ok(link) => {
                    open.extend(link.about.hosts.iter().cloned());
                    if let Some(primary) = link.about.primary.clone() {
                        open.push_front(primary);
                    }
                    link.close().await;
                }
                Err(error) if error.class() == Class::Configuration => return Err(error),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        Err(failed.unwrap_or_else(|| {
            Error::new(Class::Transient, "mongodb.no-primary").with("addresses", asked.join(", "))
        }))
    }

    /// Connects to one server and hears what it is.
    async fn reach(&self, address: &str) -> Result<MongoLink, Error> {
        let unreachable = |why: std::io::Error| {
            Error::new(Class::Transient, "mongodb.unreachable")
                .with("address", address)
                .caused_by(why)
        };
        let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let socket: Box<dyn MongoSocket> = match &self.tls {
            Some(tls) => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(host.to_owned()).map_err(|why| {
                    Error::new(Class::Configuration, "mongodb.address").caused_by(why)
                })?;
                let config = tls::client_config(tls, &self.project, &self.places).await?;
                let connector = tokio_rustls::TlsConnector::from(config);
                match connector.connect(name, tcp).await {
                    Ok(socket) => Box::new(socket),
                    Err(why) => {
                        return Err(match tls::refused(&why) {
                            Some(why) => tls::untrusted(address, why),
                            None => unreachable(why),
                        });
                    }
                }
            }
            None => Box::new(tcp),
        };
        let mut link = MongoLink {
            socket,
            buffer: BytesMut::new(),
            out: BytesMut::new(),
            message: 0,
            timeout: CONNECT_MAX,
            address: address.into(),
            about: MongoAbout::default(),
        };
        let hello = |word: &str| {
            let mut hello = BsonWriter::new();
            hello.int(word, 1);
            hello.open("client");
            hello.open("driver");
            hello.text("name", "busbar");
            hello.text("version", env!("CARGO_PKG_VERSION"));
            hello.close();
            hello.open("os");
            hello.text("type", std::env::consts::OS);
            hello.close();
            hello.close();
            hello.text("$db", "admin");
            hello.finish()
        };
        let answer = match link.run(&hello("hello"), None).await {
            // Servers before 4.4.2.
            Err(MongoFailure::Refused(refusal)) if refusal.code == NO_COMMAND => {
                link.run(&hello("isMaster"), None).await
            }
            answer => answer,
        };
        let answer = answer.map_err(|failed| failed.told(self.doing("-", "-")))?;
        link.about = MongoAbout::of(answer.document());
        Ok(link)
    }

    /// Proves who asks, by SCRAM-SHA-256.
    async fn prove(&self, link: &mut MongoLink) -> Result<(), Error> {
        let (Some(user), Some(password)) = (&self.user, &self.password) else {
            return Ok(());
        };
        let told = |failed: MongoFailure| failed.told(self.doing("-", "-"));
        let strange = |link: &MongoLink| link.strange("a proof of another form");
        let Some(mut scram) = Scram::new(ScramHash::Sha256, user, password) else {
            return Err(Error::new(Class::Transient, "connect.failed-within"));
        };
        let mut start = BsonWriter::new();
        start.int("saslStart", 1);
        start.text("mechanism", "SCRAM-SHA-256");
        start.binary("payload", 0, &scram.first());
        start.open("options");
        start.bool("skipEmptyExchange", true);
        start.close();
        start.text("$db", &self.auth_database);
        let mut answer = link.run(&start.finish(), None).await.map_err(told)?;
        let mut verified = false;
        for step in 0..SCRAM_STEPS_MAX {
            let document = answer.document();
            let payload = match document.get("payload") {
                Some(BsonValue::Binary(_, payload)) => payload.to_vec(),
                _ => return Err(strange(link)),
            };
            let next = if step == 0 {
                scram.answer(&payload).ok_or_else(|| strange(link))?
            } else {
                verified |= scram.verify(&payload);
                Vec::new()
            };
            if document.is("done") {
                break;
            }
            let conversation = document.number("conversationId").unwrap_or(1);
            let mut go_on = BsonWriter::new();
            go_on.int("saslContinue", 1);
            go_on.int("conversationId", i32::try_from(conversation).unwrap_or(1));
            go_on.binary("payload", 0, &next);
            go_on.text("$db", &self.auth_database);
            answer = link.run(&go_on.finish(), None).await.map_err(told)?;
        }
        // It may be somebody else who does not know the password.
        match verified {
            true => Ok(()),
            false => {
                Err(Error::new(Class::Configuration, "mongodb.unproven")
                    .with("address", &link.address))
            }
        }
    }
}

impl MongoAbout {
    fn of(hello: BsonDocument<'_>) -> MongoAbout {
        let bytes = hello.number("maxBsonObjectSize");
        let sharded = hello.text("msg") == Some("isdbgrid");
        MongoAbout {
            writable: hello.is("isWritablePrimary") || hello.is("ismaster"),
            replicated: hello.text("setName").is_some() || sharded,
            sharded,
            document_bytes: bytes
                .and_then(|bytes| usize::try_from(bytes).ok())
                .map_or(DOCUMENT_BYTES_MAX, |bytes| bytes.min(DOCUMENT_BYTES_MAX)),
            primary: hello.text("primary").map(str::to_owned),
            hosts: hello.texts("hosts").map(str::to_owned).collect(),
        }
    }
}

impl MongoLink {
    /// Runs a command. A session whose command was not answered must not be used again.
    ///
    /// # Errors
    /// The session is lost, or the server refuses the command.
    pub async fn run(
        &mut self,
        command: &[u8],
        rows: Option<DocumentSequence<'_>>,
    ) -> Result<MongoAnswer, MongoFailure> {
        let bytes = rows.map_or(0, |rows| rows.documents.iter().map(|one| one.len()).sum());
        if command.len() + bytes + READ_BYTES > MESSAGE_BYTES_MAX {
            let error = Error::new(Class::Configuration, "mongodb.too-large");
            return Err(MongoFailure::Lost(error.with("address", &self.address)));
        }
        self.message = self.message.wrapping_add(1).max(1);
        self.out.clear();
        wire::message(self.message, command, rows, &mut self.out);
        let wait = self.timeout;
        match timeout(wait, self.exchange()).await {
            Ok(answer) => {
                let answer = answer?;
                let document = answer.document();
                match document.is("ok") {
                    true => Ok(answer),
                    false => Err(MongoFailure::Refused(MongoRefusal::of(document))),
                }
            }
            Err(_) => Err(MongoFailure::Lost(silent(&self.address, wait))),
        }
    }

    async fn exchange(&mut self) -> Result<MongoAnswer, Error> {
        let closed =
            |address: &str| Error::new(Class::Transient, "mongodb.closed").with("address", address);
        let sent = async {
            self.socket.write_all(&self.out).await?;
            self.socket.flush().await
        };
        sent.await
            .map_err(|why| closed(&self.address).caused_by(why))?;
        loop {
            match wire::answer(&mut self.buffer) {
                Ok(Some((to, document))) => {
                    if to != self.message || BsonDocument::read(&document).is_none() {
                        return Err(self.strange("an answer of another form"));
                    }
                    return Ok(MongoAnswer(document));
                }
                Ok(None) => {}
                Err(wire::NoAnswer(what)) => return Err(self.strange(what)),
            }
            if self.buffer.capacity() - self.buffer.len() < READ_BYTES {
                self.buffer.reserve(READ_BYTES);
            }
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(1..) => {}
                Ok(0) => return Err(closed(&self.address)),
                Err(why) => return Err(closed(&self.address).caused_by(why)),
            }
        }
    }

    /// The server sent something that is not understood.
    pub fn strange(&self, what: &str) -> Error {
        Error::new(Class::Transient, "mongodb.strange")
            .with("address", &self.address)
            .with("what", what)
    }

    /// Ends the session in good order.
    pub async fn close(mut self) {
        let _ = timeout(GOODBYE_MAX, self.socket.shutdown()).await;
    }
}

fn silent(address: &str, after: Duration) -> Error {
    Error::new(Class::Transient, "mongodb.silent")
        .with("address", address)
        .with("seconds", after.as_secs())
}
