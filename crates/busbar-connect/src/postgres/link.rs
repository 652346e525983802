//! One session with a server.

use std::sync::Arc;
use std::time::Duration;

use busbar_change::postgres::wire::{self, Column, Message, Reader, ServerError};
use busbar_event::{Class, Error};
use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::auth::{SCRAM, md5_answer};
use super::failure::Failed;
use super::limits::{CONNECT_MAX, GOODBYE_MAX, READ_BYTES, WRITE_BYTES};
use crate::relational::session::SessionRow;
use crate::relational::{self, Doing, SessionServer, SqlAnswer, SqlSession};
use crate::scram::{Scram, ScramHash};
use crate::tls;

/// Where a server is, and who asks.
pub type Server = relational::Server<PostgresProtocol>;

/// The protocol of PostgreSQL.
#[derive(Clone, Copy)]
pub struct PostgresProtocol;

/// A session.
pub struct Link {
    socket: Box<dyn Socket>,
    buffer: BytesMut,
    out: Vec<u8>,
    /// How much of `out` has been sent.
    sent: usize,
    address: Arc<str>,
    timeout: Duration,
    /// A statement is under way. Where its caller was dropped, it stays so, and the session is not used again.
    busy: bool,
    /// A transaction is open.
    in_transaction: bool,
    /// The statements that a session begins with.
    settings: String,
    /// The end of the statement under way resets the session.
    resets: bool,
}

/// What a statement answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Option<Bytes>>>,
    /// What was done: `INSERT 0 3`.
    pub tag: String,
}

impl Answer {
    /// A value as text; `None` for NULL and where there is no such value.
    pub fn text(&self, row: usize, column: usize) -> Option<&str> {
        let value = self.rows.get(row)?.get(column)?.as_ref()?;
        std::str::from_utf8(value).ok()
    }

    /// How many rows it was about, from the tag.
    pub fn count(&self) -> u64 {
        let last = self.tag.rsplit(' ').next();
        last.and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

/// How much of an answer [`Link::fetch`] has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// All of it.
    All,
    /// As many rows as were asked for; there may be more.
    Part,
}

trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for T {}

impl Server {
    /// Opens a session for statements.
    ///
    /// # Errors
    /// *Transient*: nobody answers, or the server has no room. *Configuration*: it refuses the user, the database or
    /// the encryption.
    pub async fn open(&self) -> Result<Link, Error> {
        let opened = self.session(false).await;
        let mut link = opened.map_err(|failed| failed.told(self.doing("", "")))?;
        let settings = link.settings.clone();
        let set = link.run(&settings).await;
        set.map_err(|failed| failed.told(self.doing("", "")))?;
        Ok(link)
    }

    fn settings(&self) -> String {
        let millis = self.timeout.as_millis();
        // A transaction that its writer has left would hold locks.
        format!(
            "SET statement_timeout = {millis}; SET idle_in_transaction_session_timeout = {millis}; \
             SET client_min_messages = error"
        )
    }

    /// Opens a session that takes commands of replication.
    ///
    /// # Errors
    /// As [`Server::open`].
    pub async fn open_replication(&self) -> Result<Link, Failed> {
        self.session(true).await
    }

    async fn session(&self, replication: bool) -> Result<Link, Failed> {
        match timeout(CONNECT_MAX, self.connect(replication)).await {
            Ok(opened) => opened,
            Err(_) => Err(silent(&self.address, CONNECT_MAX).into()),
        }
    }

    async fn connect(&self, replication: bool) -> Result<Link, Failed> {
        let unreachable = |why: std::io::Error| {
            Error::new(Class::Transient, "postgres.unreachable")
                .with("address", &self.address)
                .caused_by(why)
        };
        let mut tcp = TcpStream::connect(&*self.address)
            .await
            .map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let socket: Box<dyn Socket> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let mut request = Vec::new();
                wire::ssl_request(&mut request);
                tcp.write_all(&request).await.map_err(unreachable)?;
                if tcp.read_u8().await.map_err(unreachable)? != b'S' {
                    let error = Error::new(Class::Configuration, "postgres.no-tls");
                    return Err(error.with("address", &self.address).into());
                }
                let host = self.address.rsplit_once(':').map_or("", |(host, _)| host);
                let host = host
                    .trim_start_matches('[')
                    .trim_end_matches(']')
                    .to_owned();
                let name = ServerName::try_from(host).map_err(|why| {
                    Error::new(Class::Configuration, "postgres.address").caused_by(why)
                })?;
                let config = tls::client_config(tls, &self.project, &self.places).await?;
                let connector = tokio_rustls::TlsConnector::from(config);
                let encrypted = connector.connect(name, tcp).await;
                Box::new(encrypted.map_err(|why| match tls::refused(&why) {
                    Some(why) => tls::untrusted(&self.address, why),
                    None => unreachable(why),
                })?)
            }
        };
        let mut link = Link {
            socket,
            buffer: BytesMut::with_capacity(READ_BYTES),
            out: Vec::new(),
            sent: 0,
            address: Arc::clone(&self.address),
            timeout: CONNECT_MAX,
            busy: true,
            in_transaction: false,
            settings: self.settings(),
            resets: false,
        };
        let mut settings = vec![
            ("user", &*self.user),
            ("database", &*self.database),
            ("client_encoding", "UTF8"),
            ("application_name", "busbar"),
            ("DateStyle", "ISO"),
            ("TimeZone", "UTC"),
            ("IntervalStyle", "iso_8601"),
            ("bytea_output", "hex"),
            ("extra_float_digits", "3"),
        ];
        if replication {
            settings.push(("replication", "database"));
        }
        wire::startup(&mut link.out, &settings);
        link.flush().await?;
        link.authenticate(self).await?;
        link.timeout = self.timeout.saturating_add(CONNECT_MAX);
        Ok(link)
    }
}

impl SessionServer for Server {
    type Session = Link;

    async fn open(&self) -> Result<Link, Error> {
        Server::open(self).await
    }

    fn doing<'a>(&'a self, table: &'a str, rights: &'a str) -> Doing<'a> {
        Server::doing(self, table, rights)
    }
}

impl SqlSession for Link {
    type Said = Box<ServerError>;
    type Answer = Answer;

    fn usable(&self) -> bool {
        Link::usable(self)
    }

    fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    async fn run(&mut self, sql: &str) -> Result<Vec<Answer>, Failed> {
        Link::run(self, sql).await
    }

    async fn close(self) {
        Link::close(self).await;
    }
}

impl SqlAnswer for Answer {
    fn rows(&self) -> &[SessionRow] {
        &self.rows
    }

    fn into_rows(self) -> Vec<SessionRow> {
        self.rows
    }
}

impl Link {
    async fn authenticate(&mut self, server: &Server) -> Result<(), Failed> {
        let password = || {
            server.password.as_deref().ok_or_else(|| {
                Error::new(Class::Configuration, "postgres.password-needed")
                    .with("address", &server.address)
                    .with("user", &server.user)
            })
        };
        let mut scram: Option<Scram> = None;
        loop {
            let message = self.receive().await?;
            match message.letter {
                b'R' => {
                    let mut reader = Reader::new(&message.body);
                    match reader.i32() {
                        Some(0) => {}
                        // Who listens would read it; so it is told through an encrypted connection only.
                        Some(3) if server.tls.is_some() => {
                            let text = format!("{}\0", password()?);
                            wire::password(&mut self.out, text.as_bytes());
                            self.flush().await?;
                        }
                        Some(5) => {
                            let answer = md5_answer(&server.user, password()?, &reader.rest);
                            wire::password(&mut self.out, &answer);
                            self.flush().await?;
                        }
                        Some(10) => {
                            let offered = std::iter::from_fn(|| reader.text());
                            if !offered
                                .take_while(|name| !name.is_empty())
                                .any(|name| name == SCRAM)
                            {
                                return Err(self
                                    .strange("a way to prove the password that is not known")
                                    .into());
                            }
                            let begun = Scram::new(ScramHash::Sha256, "", password()?)
                                .ok_or_else(|| self.strange("no random numbers"))?;
                            wire::sasl_first(&mut self.out, SCRAM, &begun.first());
                            scram = Some(begun);
                            self.flush().await?;
                        }
                        Some(11) => {
                            let answer =
                                scram.as_mut().and_then(|scram| scram.answer(&reader.rest));
                            let answer = answer.ok_or_else(|| {
                                self.strange("a challenge that must not be answered")
                            })?;
                            wire::password(&mut self.out, &answer);
                            self.flush().await?;
                        }
                        Some(12) => {
                            if !scram
                                .as_ref()
                                .is_some_and(|scram| scram.verify(&reader.rest))
                            {
                                return Err(self
                                    .strange("a proof that is not the password's")
                                    .into());
                            }
                        }
                        Some(3) => {
                            let error = Error::new(Class::Configuration, "postgres.plain-password");
                            return Err(error.with("address", &server.address).into());
                        }
                        _ => {
                            return Err(self
                                .strange("a way to prove the password that is not known")
                                .into());
                        }
                    }
                }
                b'E' => return Err(Failed::Server(Box::new(wire::server_error(&message.body)))),
                b'Z' => {
                    self.busy = false;
                    return Ok(());
                }
                b'S' | b'K' | b'N' => {}
                _ => return Err(self.strange("a message before the session began").into()),
            }
        }
    }

    /// Lets statements take as long.
    pub fn wait_for(&mut self, most: Duration) {
        self.timeout = most;
    }

    /// Behind the end of the statement that is begun next the session is what it was when it was opened, or cannot be used.
    pub fn reset_behind(&mut self) {
        self.resets = true;
    }

    /// Whether it may be used: no statement was left in the middle.
    pub fn usable(&self) -> bool {
        !self.busy
    }

    /// Runs statements without parameters; their answers.
    ///
    /// # Errors
    /// The first that fails ends them; inside a transaction of its own, nothing of them is done.
    pub async fn run(&mut self, sql: &str) -> Result<Vec<Answer>, Failed> {
        self.busy = true;
        wire::query(&mut self.out, sql);
        self.flush().await?;
        let mut answers = Vec::new();
        let mut answer = Answer::default();
        let mut failed = None;
        loop {
            let message = self.receive().await?;
            match message.letter {
                b'T' => answer.columns = self.columns(&message)?,
                b'D' => answer.rows.push(self.values(&message)?),
                b'C' => {
                    answer.tag = Reader::new(&message.body).text().unwrap_or_default();
                    answers.push(std::mem::take(&mut answer));
                }
                b'E' => failed = Some(wire::server_error(&message.body)),
                b'Z' => {
                    self.note_ready(&message.body);
                    break;
                }
                b'I' | b'N' | b'S' | b'A' => {}
                _ => return Err(self.strange("an answer of another kind").into()),
            }
        }
        match failed {
            Some(error) => Err(Failed::Server(Box::new(error))),
            None => Ok(answers),
        }
    }

    /// The server waits for the next statement, and says whether a transaction is open.
    fn note_ready(&mut self, body: &[u8]) {
        self.busy = false;
        self.in_transaction = body.first() != Some(&b'I');
    }

    /// Runs one statement with parameters as text.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn ask(&mut self, sql: &str, parameters: &[Option<&str>]) -> Result<Answer, Failed> {
        self.busy = true;
        wire::execute(&mut self.out, sql, parameters, 0);
        wire::sync(&mut self.out);
        self.flush().await?;
        let mut answer = Answer::default();
        let failed = self.until_ready(&mut answer).await?;
        match failed {
            Some(failed) => Err(failed),
            None => Ok(answer),
        }
    }

    /// Begins a statement whose rows are read in pieces by [`Link::fetch`]. Ended by [`Link::finish`].
    ///
    /// # Errors
    /// Why it failed.
    pub async fn begin(
        &mut self,
        sql: &str,
        parameters: &[Option<&str>],
        rows: u32,
    ) -> Result<(), Failed> {
        self.busy = true;
        wire::execute(&mut self.out, sql, parameters, rows);
        self.flush().await
    }

    /// Asks for more rows.
    ///
    /// # Errors
    /// The session is lost.
    pub async fn more(&mut self, rows: u32) -> Result<(), Failed> {
        wire::more(&mut self.out, rows);
        self.flush().await
    }

    /// Reads the rows that were asked for.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn fetch(&mut self, answer: &mut Answer) -> Result<Fetched, Failed> {
        loop {
            let message = self.receive().await?;
            match message.letter {
                b'T' => answer.columns = self.columns(&message)?,
                b'D' => answer.rows.push(self.values(&message)?),
                b'C' => {
                    answer.tag = Reader::new(&message.body).text().unwrap_or_default();
                    return Ok(Fetched::All);
                }
                b's' => return Ok(Fetched::Part),
                b'I' => return Ok(Fetched::All),
                b'E' => {
                    let error = wire::server_error(&message.body);
                    self.finish().await?;
                    return Err(Failed::Server(Box::new(error)));
                }
                _ => {}
            }
        }
    }

    /// Ends a statement that [`Link::begin`] began.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn finish(&mut self) -> Result<(), Failed> {
        let resets = std::mem::take(&mut self.resets);
        wire::sync(&mut self.out);
        if resets {
            // On their way with the end of the statement, they cost no time of their own on the network.
            wire::query(&mut self.out, "DISCARD ALL");
            wire::query(&mut self.out, &self.settings);
        }
        self.flush().await?;
        let failed = self.until_ready(&mut Answer::default()).await?;
        if resets {
            self.read_reset().await;
        }
        match failed {
            Some(failed) => Err(failed),
            None => Ok(()),
        }
    }

    /// Reads the answers to what resets the session. Where that failed the session is not used again, and what the statement
    /// came to stays what it is.
    async fn read_reset(&mut self) {
        let in_transaction = self.in_transaction;
        self.busy = true;
        let mut is_reset = true;
        for _ in 0..2 {
            is_reset &= matches!(self.until_ready(&mut Answer::default()).await, Ok(None));
        }
        self.in_transaction |= in_transaction;
        self.busy |= !is_reset;
    }

    async fn until_ready(&mut self, answer: &mut Answer) -> Result<Option<Failed>, Failed> {
        let mut failed = None;
        loop {
            let message = self.receive().await?;
            match message.letter {
                b'T' => answer.columns = self.columns(&message)?,
                b'D' => answer.rows.push(self.values(&message)?),
                b'C' => answer.tag = Reader::new(&message.body).text().unwrap_or_default(),
                b'E' => failed = Some(Failed::Server(Box::new(wire::server_error(&message.body)))),
                b'Z' => {
                    self.note_ready(&message.body);
                    return Ok(failed);
                }
                _ => {}
            }
        }
    }

    /// Copies rows into a table: `sql` is the COPY, `data` its lines.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn copy_in(&mut self, sql: &str, data: &[u8]) -> Result<u64, Failed> {
        self.busy = true;
        wire::query(&mut self.out, sql);
        self.flush().await?;
        let mut answer = Answer::default();
        loop {
            let message = self.receive().await?;
            match message.letter {
                b'G' => break,
                b'E' => {
                    let error = wire::server_error(&message.body);
                    self.until_ready(&mut answer).await?;
                    return Err(Failed::Server(Box::new(error)));
                }
                b'N' | b'S' => {}
                _ => return Err(self.strange("an answer to COPY of another kind").into()),
            }
        }
        for piece in data.chunks(WRITE_BYTES) {
            wire::copy_data(&mut self.out, piece);
            self.flush().await?;
        }
        wire::copy_done(&mut self.out);
        self.flush().await?;
        match self.until_ready(&mut answer).await? {
            Some(failed) => Err(failed),
            None => Ok(answer.count()),
        }
    }

    /// Begins a replication stream.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn replicate(&mut self, command: &str) -> Result<(), Failed> {
        self.busy = true;
        wire::query(&mut self.out, command);
        self.flush().await?;
        loop {
            let message = self.receive().await?;
            match message.letter {
                b'W' => return Ok(()),
                b'E' => {
                    let error = wire::server_error(&message.body);
                    self.until_ready(&mut Answer::default()).await?;
                    return Err(Failed::Server(Box::new(error)));
                }
                b'N' | b'S' => {}
                _ => {
                    return Err(self
                        .strange("an answer to START_REPLICATION of another kind")
                        .into());
                }
            }
        }
    }

    /// Sends a message of a replication stream.
    ///
    /// # Errors
    /// The session is lost.
    pub async fn send(&mut self, data: &[u8]) -> Result<(), Failed> {
        wire::copy_data(&mut self.out, data);
        self.flush().await
    }

    /// The next message of a replication stream; `None` when none comes for so long. May be dropped while it waits.
    ///
    /// # Errors
    /// The session is lost, or the server ends the stream.
    pub async fn stream(&mut self, wait: Duration) -> Result<Option<Bytes>, Failed> {
        loop {
            let message = match self.buffered()? {
                Some(message) => message,
                None => match timeout(wait, self.read()).await {
                    Ok(read) => {
                        read?;
                        continue;
                    }
                    Err(_) => return Ok(None),
                },
            };
            match message.letter {
                b'd' => return Ok(Some(message.body)),
                b'E' => return Err(Failed::Server(Box::new(wire::server_error(&message.body)))),
                b'c' | b'C' | b'Z' => return Err(closed(&self.address).into()),
                _ => {}
            }
        }
    }

    /// The next message of a replication stream that has arrived already.
    ///
    /// # Errors
    /// As [`Link::stream`].
    pub fn streamed(&mut self) -> Result<Option<Bytes>, Failed> {
        while let Some(message) = self.buffered()? {
            match message.letter {
                b'd' => return Ok(Some(message.body)),
                b'E' => return Err(Failed::Server(Box::new(wire::server_error(&message.body)))),
                b'c' | b'C' | b'Z' => return Err(closed(&self.address).into()),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Ends the session in good order, so that the server lets go of what it holds at once.
    pub async fn close(mut self) {
        self.leave().await;
    }

    /// The same; the session is of no use after it.
    pub async fn leave(&mut self) {
        self.busy = true;
        wire::terminate(&mut self.out);
        let _ = timeout(GOODBYE_MAX, self.flush()).await;
        let _ = timeout(GOODBYE_MAX, self.socket.shutdown()).await;
    }

    fn columns(&self, message: &Message) -> Result<Vec<Column>, Error> {
        wire::columns(&message.body).ok_or_else(|| self.strange("columns that end too early"))
    }

    fn values(&self, message: &Message) -> Result<Vec<Option<Bytes>>, Error> {
        wire::values(&message.body).ok_or_else(|| self.strange("a row that ends too early"))
    }

    fn buffered(&mut self) -> Result<Option<Message>, Error> {
        wire::next(&mut self.buffer).map_err(|what| self.strange(what))
    }

    async fn receive(&mut self) -> Result<Message, Failed> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(message);
            }
            let wait = self.timeout;
            match timeout(wait, self.read()).await {
                Ok(read) => read?,
                Err(_) => return Err(silent(&self.address, wait).into()),
            }
        }
    }

    /// Reads what the socket has. May be dropped while it waits.
    async fn read(&mut self) -> Result<(), Failed> {
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES {
            self.buffer.reserve(READ_BYTES);
        }
        match self.socket.read_buf(&mut self.buffer).await {
            Ok(0) => Err(closed(&self.address).into()),
            Ok(_) => Ok(()),
            Err(why) => Err(closed(&self.address).caused_by(why).into()),
        }
    }

    /// Sends what has been written. May be dropped while it waits; the next call goes on.
    async fn flush(&mut self) -> Result<(), Failed> {
        let wait = self.timeout;
        match timeout(wait, self.send_out()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(closed(&self.address).caused_by(why).into()),
            Err(_) => Err(silent(&self.address, wait).into()),
        }
    }

    async fn send_out(&mut self) -> std::io::Result<()> {
        while self.sent < self.out.len() {
            match self.socket.write(&self.out[self.sent..]).await? {
                0 => return Err(std::io::ErrorKind::WriteZero.into()),
                written => self.sent += written,
            }
        }
        self.out.clear();
        self.sent = 0;
        self.socket.flush().await
    }

    /// An answer that is not of the protocol.
    pub fn strange(&self, what: &str) -> Error {
        Error::new(Class::Transient, "postgres.strange")
            .with("address", &self.address)
            .with("what", what)
    }
}

fn closed(address: &str) -> Error {
    Error::new(Class::Transient, "postgres.closed").with("address", address)
}

fn silent(address: &str, after: Duration) -> Error {
    Error::new(Class::Transient, "postgres.silent")
        .with("address", address)
        .with("seconds", after.as_secs())
}
