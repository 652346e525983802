//! One session with a server.

use std::sync::Arc;
use std::time::Duration;

use busbar_event::{Class, Error};
use bytes::{Buf, Bytes, BytesMut};
use encoding_rs::Encoding;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::codepage;
use super::failure::MssqlFailed;
use super::limits::{
    ANSWER_BYTES_MAX, CONNECT_MAX, GOODBYE_MAX, PACKET_BYTES, PACKET_BYTES_MAX, READ_BYTES,
    TOKEN_BYTES_MAX,
};
use super::reader::{TdsReader, Unread};
use super::token::{self, MssqlError, TdsColumn, TdsToken};
use super::tunnel::{self, TdsTunnel};
use super::wire::{self, HEADER, LAST, RESET, TdsLogin, encryption, kind};
use crate::relational::session::{Selecting, SessionRow, StreamedSession};
use crate::relational::{Doing, Server, SessionServer, SqlAnswer, SqlSession};
use crate::tls;

/// Where a server is, and who asks.
pub type MssqlServer = Server<TdsProtocol>;

/// The protocol of SQL Server.
#[derive(Clone, Copy)]
pub struct TdsProtocol {
    /// Any certificate is taken.
    pub trust: bool,
}

/// A session.
pub struct MssqlLink {
    socket: Box<dyn TdsSocket>,
    raw: BytesMut,
    /// What has come of the answer and is not read yet.
    answer: BytesMut,
    /// All of the answer has come.
    whole: bool,
    columns: Arc<[TdsColumn]>,
    /// The first failure of the answer.
    failure: Option<MssqlError>,
    out: Vec<u8>,
    packet_bytes: usize,
    /// The next message resets the session.
    resets: bool,
    /// The mark of the transaction that is open; 0 for none.
    transaction: u64,
    address: Arc<str>,
    timeout: Duration,
    /// A statement is under way. Where its caller was dropped, it stays so, and the session is not used again.
    busy: bool,
    /// In which encoding the database keeps texts of single bytes that are of no column; none where the server has not said it.
    pub encoding: Option<&'static Encoding>,
    /// As the server says it: `16.0.4165`.
    pub version: String,
}

/// What a statement answered.
#[derive(Clone, Debug, Default)]
pub struct MssqlAnswer {
    pub columns: Arc<[TdsColumn]>,
    pub rows: Vec<Vec<Option<Bytes>>>,
}

impl MssqlAnswer {
    /// A value as text; `None` for NULL and where there is no such value.
    pub fn text(&self, row: usize, column: usize) -> Option<&str> {
        let value = self.rows.get(row)?.get(column)?.as_ref()?;
        std::str::from_utf8(value).ok()
    }

    /// A value as the server sent it.
    pub fn bytes(&self, row: usize, column: usize) -> Option<&Bytes> {
        self.rows.get(row)?.get(column)?.as_ref()
    }
}

/// What comes next of an answer.
#[derive(Debug)]
pub enum MssqlHead {
    /// Columns, behind which rows come.
    Rows(Arc<[TdsColumn]>),
    /// A statement without rows is done: rows that it changed.
    Done(u64),
    /// Nothing.
    End,
}

/// How much of the rows [`MssqlLink::fetch`] has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssqlFetched {
    /// As many bytes as were asked for; there may be more rows.
    Part,
    /// All rows.
    All,
}

trait TdsSocket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> TdsSocket for T {}

/// What a login came to.
enum LoggedIn {
    Here(Box<MssqlLink>),
    /// The server names another one.
    Elsewhere(String),
}

/// A failure ends the batch and the transaction; dates are written year first; texts are cut nowhere.
const SETTINGS: &str = "SET XACT_ABORT ON; SET DATEFORMAT ymd; SET ANSI_WARNINGS ON; SET ARITHABORT ON; SET TEXTSIZE 2147483647; SET NOCOUNT OFF";
/// What servers before 2014 leave of a session that is reset.
const LEFT_BY_RESET: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED";

impl MssqlServer {
    /// Opens a session for statements.
    ///
    /// # Errors
    /// *Transient*: nobody answers, or the server has no room. *Configuration*: it refuses the user, the database or
    /// the encryption.
    pub async fn open(&self) -> Result<MssqlLink, Error> {
        let opened = match timeout(CONNECT_MAX, self.connect()).await {
            Ok(opened) => opened,
            Err(_) => Err(silent(&self.address, CONNECT_MAX).into()),
        };
        let mut link = opened.map_err(|failed| failed.told_of_login(self.doing("", "")))?;
        link.timeout = self.timeout;
        let set = link.run(SETTINGS).await;
        set.map_err(|failed| failed.told(self.doing("", "")))?;
        Ok(link)
    }

    async fn connect(&self) -> Result<MssqlLink, MssqlFailed> {
        let link = match self.login(&self.address).await? {
            LoggedIn::Here(link) => link,
            // Azure SQL sends clients on to the machine that has the database, once.
            LoggedIn::Elsewhere(address) => match self.login(&address).await? {
                LoggedIn::Here(link) => link,
                LoggedIn::Elsewhere(_) => {
                    return Err(strange(&self.address, "a second address to go to").into());
                }
            },
        };
        Ok(*link)
    }

    async fn login(&self, address: &str) -> Result<LoggedIn, MssqlFailed> {
        let unreachable = |why: std::io::Error| {
            Error::new(Class::Transient, "sqlserver.unreachable")
                .with("address", address)
                .caused_by(why)
        };
        let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let mut link = MssqlLink {
            socket: Box::new(tcp),
            raw: BytesMut::with_capacity(READ_BYTES),
            answer: BytesMut::new(),
            whole: false,
            columns: Arc::from([]),
            failure: None,
            out: Vec::new(),
            packet_bytes: PACKET_BYTES,
            resets: false,
            transaction: 0,
            address: address.into(),
            timeout: CONNECT_MAX,
            busy: true,
            encoding: None,
            version: String::new(),
        };
        let all = self.tls.is_some() || self.protocol.trust;
        let wanted = if all { encryption::ON } else { encryption::OFF };
        link.send(kind::PRELOGIN, &wire::prelogin(wanted)).await?;
        while !link.whole {
            link.packet().await?;
            if link.answer.len() > PACKET_BYTES_MAX {
                return Err(strange(address, "a greeting of another form").into());
            }
        }
        let answered = wire::prelogin_answer(&link.answer);
        link.answer.clear();
        let (offered, [major, minor, high, low]) =
            answered.ok_or_else(|| strange(address, "a greeting of another form"))?;
        link.version = format!("{major}.{minor}.{}", u16::from_be_bytes([high, low]));
        let host = address.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let password = self.password.as_deref().unwrap_or_default();
        let login = TdsLogin {
            user: &self.user,
            password,
            server: host,
            database: &self.database,
        };
        let login = login.message(PACKET_BYTES).ok_or_else(|| {
            Error::new(Class::Configuration, "sqlserver.login-long").with("address", address)
        })?;
        match (all, offered) {
            (true, encryption::NONE) => {
                let error = Error::new(Class::Configuration, "sqlserver.no-tls");
                return Err(error.with("address", address).into());
            }
            (true, _) => {
                let tunnel = self.encrypted(link.socket, address, host).await?;
                link.socket = Box::new(tunnel);
                link.send(kind::LOGIN, &login).await?;
            }
            (false, encryption::ON | encryption::REQUIRED) => {
                let error = Error::new(Class::Configuration, "sqlserver.tls-needed");
                return Err(error.with("address", address).into());
            }
            (false, encryption::NONE) => link.send(kind::LOGIN, &login).await?,
            // The password is encrypted, and nothing else is.
            (false, _) => {
                let mut tunnel = self.encrypted(link.socket, address, host).await?;
                let mut packets = Vec::new();
                wire::message(kind::LOGIN, &login, PACKET_BYTES, &mut packets);
                let sent = async {
                    tunnel.write_all(&packets).await?;
                    tunnel.flush().await
                };
                sent.await.map_err(unreachable)?;
                link.socket = tunnel.into_inner().0.into_socket();
            }
        }
        link.begin_answer();
        let (mut accepted, mut elsewhere) = (false, None);
        while let Some(token) = link.token().await? {
            match token {
                TdsToken::LoggedIn => accepted = true,
                TdsToken::Elsewhere(host, port) => elsewhere = Some(format!("{host}:{port}")),
                _ => {}
            }
        }
        if let Some(failure) = link.failure.take() {
            return Err(MssqlFailed::Server(failure));
        }
        if let Some(address) = elsewhere {
            return Ok(LoggedIn::Elsewhere(address));
        }
        if !accepted {
            return Err(strange(address, "an answer to the login of another form").into());
        }
        link.busy = false;
        Ok(LoggedIn::Here(Box::new(link)))
    }

    async fn encrypted(
        &self,
        socket: Box<dyn TdsSocket>,
        address: &str,
        host: &str,
    ) -> Result<tokio_rustls::client::TlsStream<TdsTunnel<Box<dyn TdsSocket>>>, MssqlFailed> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|why| Error::new(Class::Configuration, "sqlserver.address").caused_by(why))?;
        let config = match &self.tls {
            Some(tls) if !self.protocol.trust => {
                tls::client_config_of(tls, tunnel::VERSIONS, &self.project, &self.places).await?
            }
            _ => Arc::new(tunnel::any_certificate().map_err(|why| {
                Error::new(Class::Configuration, "connect.tls-unusable").with("why", why)
            })?),
        };
        let connector = tokio_rustls::TlsConnector::from(config);
        let encrypted = connector.connect(name, TdsTunnel::new(socket)).await;
        let mut stream = encrypted.map_err(|why| match tls::refused(&why) {
            Some(why) => tls::untrusted(address, why),
            None => Error::new(Class::Transient, "sqlserver.unreachable")
                .with("address", address)
                .caused_by(why),
        })?;
        stream.get_mut().0.open();
        Ok(stream)
    }
}

impl MssqlLink {
    /// Whether it may be used: no statement was left in the middle.
    pub fn usable(&self) -> bool {
        !self.busy
    }

    /// Sends statements whose answers are read by [`MssqlLink::head`] and [`MssqlLink::fetch`].
    ///
    /// # Errors
    /// The session is lost.
    pub async fn begin(&mut self, sql: &str) -> Result<(), MssqlFailed> {
        self.busy = true;
        self.send(kind::BATCH, &wire::batch(sql, self.transaction))
            .await?;
        self.begin_answer();
        Ok(())
    }

    /// Reads what comes next of the answer; rows that nobody has fetched are passed.
    ///
    /// # Errors
    /// Why a statement failed, once the answer has ended.
    pub async fn head(&mut self) -> Result<MssqlHead, MssqlFailed> {
        let mut in_rows = false;
        loop {
            match self.token().await? {
                Some(TdsToken::Columns(columns)) => return Ok(MssqlHead::Rows(columns)),
                Some(TdsToken::Row(_)) => in_rows = true,
                Some(TdsToken::Done(_)) if std::mem::take(&mut in_rows) => {}
                // One that counts nothing, such as SET, is not told.
                Some(TdsToken::Done(done)) => {
                    if let Some(count) = done.count {
                        return Ok(MssqlHead::Done(count));
                    }
                }
                Some(_) => {}
                None => {
                    self.busy = false;
                    return match self.failure.take() {
                        Some(failure) => Err(MssqlFailed::Server(failure)),
                        None => Ok(MssqlHead::End),
                    };
                }
            }
        }
    }

    /// Reads rows until there are so many bytes of them.
    ///
    /// # Errors
    /// The session is lost.
    pub async fn fetch(
        &mut self,
        bytes: usize,
        rows: &mut Vec<Vec<Option<Bytes>>>,
    ) -> Result<MssqlFetched, MssqlFailed> {
        let mut read = 0;
        while read < bytes {
            match self.token().await? {
                Some(TdsToken::Row(row)) => {
                    read += row_bytes(&row);
                    rows.push(row);
                }
                Some(TdsToken::Done(_)) | None => return Ok(MssqlFetched::All),
                Some(_) => {}
            }
        }
        Ok(MssqlFetched::Part)
    }

    /// Runs statements; the answers of those that have rows or count them.
    ///
    /// # Errors
    /// The first that fails ends them.
    pub async fn run(&mut self, sql: &str) -> Result<Vec<MssqlAnswer>, MssqlFailed> {
        let (answers, whole) = self.run_within(sql, ANSWER_BYTES_MAX).await?;
        match whole {
            true => Ok(answers),
            false => Err(strange(&self.address, "more rows than are held at a time").into()),
        }
    }

    /// The same until there are so many bytes of rows; whether those were all. Where they were not, the last answer lacks rows,
    /// others are missing, and the session is not used again.
    ///
    /// # Errors
    /// The first that fails ends them.
    pub async fn run_within(
        &mut self,
        sql: &str,
        bytes: usize,
    ) -> Result<(Vec<MssqlAnswer>, bool), MssqlFailed> {
        self.begin(sql).await?;
        let mut answers = Vec::new();
        let mut left = bytes;
        loop {
            match self.head().await? {
                MssqlHead::Rows(columns) => {
                    let mut rows = Vec::new();
                    let fetched = self.fetch(left.max(1), &mut rows).await?;
                    left = left.saturating_sub(rows.iter().map(|row| row_bytes(row)).sum());
                    answers.push(MssqlAnswer { columns, rows });
                    if fetched == MssqlFetched::Part {
                        return Ok((answers, false));
                    }
                }
                MssqlHead::Done(_) => answers.push(MssqlAnswer::default()),
                MssqlHead::End => return Ok((answers, true)),
            }
        }
    }

    /// Ends the transaction that is open without its changes, if there is one.
    ///
    /// # Errors
    /// The session is lost.
    pub async fn roll_back(&mut self) -> Result<(), MssqlFailed> {
        match self.run("ROLLBACK TRANSACTION").await {
            // The server has done so already.
            Ok(_) | Err(MssqlFailed::Server(_)) => Ok(()),
            Err(lost) => Err(lost),
        }
    }

    /// Ends the session in good order.
    pub async fn close(mut self) {
        // The server rolls back what is open.
        let _ = timeout(GOODBYE_MAX, self.socket.shutdown()).await;
    }

    fn begin_answer(&mut self) {
        self.answer.clear();
        self.whole = false;
        self.failure = None;
        self.columns = Arc::from([]);
    }

    /// The next part of the answer; `None` at its end.
    async fn token(&mut self) -> Result<Option<TdsToken>, MssqlFailed> {
        // A row of many packets is not read from its beginning with each of them.
        let mut enough = 1;
        loop {
            if self.answer.is_empty() && self.whole {
                return Ok(None);
            }
            if self.answer.len() >= enough || self.whole {
                let mut reader = TdsReader { rest: &self.answer };
                match token::token(&mut reader, &self.columns) {
                    Ok(token) => {
                        let read = self.answer.len() - reader.rest.len();
                        self.answer.advance(read);
                        match &token {
                            TdsToken::Columns(columns) => self.columns = Arc::clone(columns),
                            TdsToken::Transaction(mark) => self.transaction = *mark,
                            TdsToken::PacketBytes(bytes) => {
                                self.packet_bytes = (*bytes).clamp(512, PACKET_BYTES_MAX);
                            }
                            TdsToken::Collation(collation) => {
                                self.encoding = Some(codepage::of(*collation));
                            }
                            TdsToken::Error(error) => {
                                self.failure.get_or_insert_with(|| error.clone());
                            }
                            TdsToken::Done(done) if done.failed && self.failure.is_none() => {
                                return Err(
                                    strange(&self.address, "a failure without its reason").into()
                                );
                            }
                            _ => {}
                        }
                        return Ok(Some(token));
                    }
                    Err(Unread::Short) if self.whole => {
                        return Err(strange(&self.address, "a message that ends too early").into());
                    }
                    Err(Unread::Short) if self.answer.len() > TOKEN_BYTES_MAX => {
                        return Err(Error::new(Class::Configuration, "sqlserver.row-large")
                            .with("address", &self.address)
                            .with("most_mb", TOKEN_BYTES_MAX >> 20)
                            .into());
                    }
                    Err(Unread::Short) => enough = self.answer.len() + self.answer.len() / 2 + 1,
                    Err(Unread::Strange(what)) => return Err(strange(&self.address, what).into()),
                }
            }
            self.packet().await?;
        }
    }

    /// Reads a packet of an answer.
    async fn packet(&mut self) -> Result<(), MssqlFailed> {
        self.raw_has(HEADER).await?;
        let length = usize::from(u16::from_be_bytes([self.raw[2], self.raw[3]]));
        // One server that others wrote answers the greeting in a packet of its kind.
        if !matches!(self.raw[0], kind::ANSWER | kind::PRELOGIN)
            || !(HEADER..=PACKET_BYTES_MAX).contains(&length)
        {
            return Err(strange(&self.address, "a packet of another form").into());
        }
        self.raw_has(length).await?;
        self.whole = self.raw[1] & LAST != 0;
        self.answer.extend_from_slice(&self.raw[HEADER..length]);
        self.raw.advance(length);
        Ok(())
    }

    async fn raw_has(&mut self, bytes: usize) -> Result<(), MssqlFailed> {
        while self.raw.len() < bytes {
            if self.raw.capacity() - self.raw.len() < READ_BYTES {
                self.raw.reserve(READ_BYTES);
            }
            match timeout(self.timeout, self.socket.read_buf(&mut self.raw)).await {
                Ok(Ok(0)) => return Err(closed(&self.address).into()),
                Ok(Ok(_)) => {}
                Ok(Err(why)) => return Err(closed(&self.address).caused_by(why).into()),
                Err(_) => return Err(silent(&self.address, self.timeout).into()),
            }
        }
        Ok(())
    }

    async fn send(&mut self, kind: u8, body: &[u8]) -> Result<(), MssqlFailed> {
        wire::message(kind, body, self.packet_bytes, &mut self.out);
        if std::mem::take(&mut self.resets) {
            self.out[1] |= RESET;
        }
        let sent = async {
            self.socket.write_all(&self.out).await?;
            self.socket.flush().await
        };
        let sent = timeout(self.timeout, sent).await;
        self.out.clear();
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(closed(&self.address).caused_by(why).into()),
            Err(_) => Err(silent(&self.address, self.timeout).into()),
        }
    }
}

impl SessionServer for MssqlServer {
    type Session = MssqlLink;

    async fn open(&self) -> Result<MssqlLink, Error> {
        MssqlServer::open(self).await
    }

    fn doing<'a>(&'a self, table: &'a str, rights: &'a str) -> Doing<'a> {
        MssqlServer::doing(self, table, rights)
    }
}

impl SqlSession for MssqlLink {
    type Said = MssqlError;
    type Answer = MssqlAnswer;

    fn usable(&self) -> bool {
        MssqlLink::usable(self)
    }

    fn in_transaction(&self) -> bool {
        self.transaction != 0
    }

    async fn run(&mut self, sql: &str) -> Result<Vec<MssqlAnswer>, MssqlFailed> {
        MssqlLink::run(self, sql).await
    }

    async fn commit(&mut self) -> Result<(), MssqlFailed> {
        self.run("COMMIT TRANSACTION").await.map(drop)
    }

    async fn roll_back(&mut self) -> Result<(), MssqlFailed> {
        MssqlLink::roll_back(self).await
    }

    async fn close(self) {
        MssqlLink::close(self).await;
    }
}

impl SqlAnswer for MssqlAnswer {
    fn rows(&self) -> &[SessionRow] {
        &self.rows
    }

    fn into_rows(self) -> Vec<SessionRow> {
        self.rows
    }
}

impl StreamedSession for MssqlLink {
    async fn select(&mut self, sql: &str) -> Result<Selecting, MssqlFailed> {
        self.begin(sql).await?;
        let mut affected = 0;
        loop {
            match self.head().await? {
                MssqlHead::Rows(columns) => {
                    let named = columns.iter();
                    let named = named.map(|column| (column.name.clone(), column.of.kind()));
                    return Ok(Selecting::Rows(named.collect()));
                }
                MssqlHead::Done(count) => affected += count,
                MssqlHead::End => return Ok(Selecting::Done(affected)),
            }
        }
    }

    async fn rows(
        &mut self,
        _: usize,
        bytes: usize,
        rows: &mut Vec<SessionRow>,
    ) -> Result<bool, MssqlFailed> {
        let all = self.fetch(bytes, rows).await? == MssqlFetched::All;
        if all {
            // A failure behind rows fails the statement; other answers of a procedure are of no use.
            while !matches!(self.head().await?, MssqlHead::End) {}
        }
        Ok(all)
    }

    async fn reset(&mut self, _: &str) -> Result<(), MssqlFailed> {
        self.resets = true;
        self.run(&format!("{SETTINGS}; {LEFT_BY_RESET}"))
            .await
            .map(drop)
    }
}

/// What a row takes; one without columns takes memory, too.
pub fn row_bytes(row: &[Option<Bytes>]) -> usize {
    row.iter().flatten().map(Bytes::len).sum::<usize>() + (row.len() + 1) * 8
}

/// An answer that is not of the protocol.
pub fn strange(address: &str, what: &str) -> Error {
    Error::new(Class::Transient, "sqlserver.strange")
        .with("address", address)
        .with("what", what)
}

pub fn closed(address: &str) -> Error {
    Error::new(Class::Transient, "sqlserver.closed").with("address", address)
}

fn silent(address: &str, after: Duration) -> Error {
    Error::new(Class::Transient, "sqlserver.silent")
        .with("address", address)
        .with("seconds", after.as_secs())
}
