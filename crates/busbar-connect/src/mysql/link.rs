//! One session with a server.

use std::sync::Arc;
use std::time::Duration;

use busbar_change::mysql::wire::{self, MysqlError, Reader, can, identifier, literal};
use busbar_connector::ColumnType;
use busbar_connector::limits::ROWS_BYTES;
use busbar_event::{Class, Error};
use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::auth::{self, SHA2};
use super::failure::Failed;
use super::limits::{CONNECT_MAX, GOODBYE_MAX, READ_BYTES};
use crate::relational::session::{Selecting, SessionRow, StreamedSession};
use crate::relational::{Doing, Server, SessionServer, SqlAnswer, SqlSession};
use crate::tls::{self, Tls};

/// Where a server is, and who asks.
pub type MysqlServer = Server<MysqlProtocol>;

/// The protocol of MySQL and MariaDB.
#[derive(Clone, Copy)]
pub struct MysqlProtocol;

/// A session.
pub struct Link {
    socket: Box<dyn MysqlSocket>,
    buffer: BytesMut,
    out: Vec<u8>,
    address: Arc<str>,
    timeout: Duration,
    /// A statement is under way. Where its caller was dropped, it stays so, and the session is not used again.
    busy: bool,
    /// A transaction is open, or may be: behind a failure the server does not say it.
    in_transaction: bool,
    /// As the server says it: `10.11.19-MariaDB`.
    pub version: String,
    /// The database that it was opened in.
    database: Arc<str>,
}

/// What a statement answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<Bytes>>>,
    /// Rows that were changed.
    pub affected: u64,
}

impl Answer {
    /// A value as text; `None` for NULL and where there is no such value.
    pub fn text(&self, row: usize, column: usize) -> Option<&str> {
        let value = self.rows.get(row)?.get(column)?.as_ref()?;
        std::str::from_utf8(value).ok()
    }
}

/// What an answer of [`Link::head`] begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Columns, behind which rows come.
    Rows,
    /// No rows. Whether another answer follows.
    Done(bool),
}

/// How much of an answer [`Link::fetch`] has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// As many bytes as were asked for; there may be more rows.
    Part,
    /// All rows. Whether another answer follows.
    All(bool),
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedColumn {
    pub name: String,
    /// The number of its type in the protocol.
    pub kind: u8,
    /// The number of its character set; 63 for bytes.
    pub charset: u16,
}

/// Where the log is read from.
#[derive(Debug)]
pub enum Start {
    /// A file, and a byte in it.
    At(String, u32),
    /// Behind the last transaction of each domain, as MariaDB numbers them.
    Gtid(String),
}

trait MysqlSocket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> MysqlSocket for T {}

/// The request that ends what a session holds.
const RESET_CONNECTION: u8 = 0x1f;
/// A transaction is open.
const IN_TRANSACTION: u64 = 1;
/// Statements outside of transactions are their own.
const AUTOCOMMIT: u64 = 2;
/// More answers follow.
const MORE_RESULTS: u64 = 8;

/// Values are kept whole or refused; texts end where they end; times are in UTC.
const SETTINGS: &str = "SET NAMES utf8mb4; SET autocommit = 1; SET time_zone = '+00:00'; SET sql_mode = \
     'STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'";

impl MysqlServer {
    /// Opens a session for statements.
    ///
    /// # Errors
    /// *Transient*: nobody answers, or the server has no room. *Configuration*: it refuses the user, the database or
    /// the encryption.
    pub async fn open(&self) -> Result<Link, Error> {
        let opened = match timeout(CONNECT_MAX, self.connect()).await {
            Ok(opened) => opened,
            Err(_) => Err(silent(&self.address, CONNECT_MAX).into()),
        };
        let mut link = opened.map_err(|failed| failed.told(self.doing("", "")))?;
        let set = link.run(SETTINGS).await;
        set.map_err(|failed| failed.told(self.doing("", "")))?;
        Ok(link)
    }

    async fn connect(&self) -> Result<Link, Failed> {
        let unreachable = |why: std::io::Error| {
            Error::new(Class::Transient, "mysql.unreachable")
                .with("address", &self.address)
                .caused_by(why)
        };
        let tcp = TcpStream::connect(&*self.address)
            .await
            .map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let mut link = Link {
            socket: Box::new(tcp),
            buffer: BytesMut::with_capacity(READ_BYTES),
            out: Vec::new(),
            address: Arc::clone(&self.address),
            timeout: CONNECT_MAX,
            busy: true,
            in_transaction: false,
            version: String::new(),
            database: Arc::clone(&self.database),
        };
        let (mut number, body) = link.packet().await?;
        if body.first() == Some(&0xff) {
            return Err(Failed::Server(wire::server_error(&body)));
        }
        let greeting =
            wire::greeting(&body).ok_or_else(|| link.strange("a greeting of another form"))?;
        link.version.clone_from(&greeting.version);
        let mut capabilities = can::LONG_PASSWORD
            | can::LONG_FLAG
            | can::CONNECT_WITH_DB
            | can::PROTOCOL_41
            | can::TRANSACTIONS
            | can::SECURE_CONNECTION
            | can::MULTI_STATEMENTS
            | can::MULTI_RESULTS
            | can::PLUGIN_AUTH;
        if let Some(tls) = &self.tls {
            if greeting.capabilities & can::SSL == 0 {
                let error = Error::new(Class::Configuration, "mysql.no-tls");
                return Err(error.with("address", &self.address).into());
            }
            capabilities |= can::SSL;
            number = wire::packet(
                &mut link.out,
                number.wrapping_add(1),
                &wire::ssl_request(capabilities),
            )
            .wrapping_sub(1);
            link.flush().await?;
            link = self.encrypted(link, tls).await?;
        }
        let password = self.password.as_deref().unwrap_or_default();
        let plugin = match auth::proof(&greeting.plugin, "", &[]) {
            Some(_) => greeting.plugin.as_str(),
            None => auth::NATIVE,
        };
        let proof = auth::proof(plugin, password, &greeting.nonce).unwrap_or_default();
        let login = wire::login(capabilities, &self.user, &proof, &self.database, plugin);
        wire::packet(&mut link.out, number.wrapping_add(1), &login);
        link.flush().await?;
        self.authenticate(&mut link, plugin.to_owned(), password)
            .await?;
        link.timeout = self.timeout;
        link.busy = false;
        Ok(link)
    }

    async fn encrypted(&self, link: Link, tls: &Tls) -> Result<Link, Failed> {
        let host = self.address.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(host)
            .map_err(|why| Error::new(Class::Configuration, "mysql.address").caused_by(why))?;
        let config = tls::client_config(tls, &self.project, &self.places).await?;
        let connector = tokio_rustls::TlsConnector::from(config);
        let encrypted = connector.connect(name, link.socket).await;
        let socket = encrypted.map_err(|why| match tls::refused(&why) {
            Some(why) => tls::untrusted(&self.address, why),
            None => Error::new(Class::Transient, "mysql.unreachable")
                .with("address", &self.address)
                .caused_by(why),
        })?;
        Ok(Link {
            socket: Box::new(socket),
            ..link
        })
    }

    async fn authenticate(
        &self,
        link: &mut Link,
        mut plugin: String,
        password: &str,
    ) -> Result<(), Failed> {
        loop {
            let (number, body) = link.packet().await?;
            let answer = match body.first() {
                Some(0x00) => return Ok(()),
                Some(0xff) => return Err(Failed::Server(wire::server_error(&body))),
                // Another plug-in, with a nonce of its own.
                Some(0xfe) => {
                    let mut reader = Reader::new(&body.slice(1..));
                    plugin = reader.text();
                    let nonce = reader.rest.strip_suffix(&[0]).unwrap_or(&reader.rest);
                    auth::proof(&plugin, password, nonce).ok_or_else(|| {
                        Error::new(Class::Configuration, "mysql.plugin")
                            .with("address", &self.address)
                            .with("user", &self.user)
                            .with("plugin", &plugin)
                    })?
                }
                // The server has the password at hand and found it right; the end of it follows.
                Some(0x01) if body.get(1) == Some(&3) => continue,
                // It wants the password itself, which is told through an encrypted connection only.
                Some(0x01) if body.get(1) == Some(&4) && plugin == SHA2 && self.tls.is_some() => {
                    format!("{password}\0").into_bytes()
                }
                Some(0x01) => {
                    let error = Error::new(Class::Configuration, "mysql.plain-password");
                    return Err(error
                        .with("address", &self.address)
                        .with("user", &self.user)
                        .into());
                }
                _ => {
                    return Err(link
                        .strange("an answer to the password of another form")
                        .into());
                }
            };
            wire::packet(&mut link.out, number.wrapping_add(1), &answer);
            link.flush().await?;
        }
    }
}

impl Link {
    /// Lets statements take as long.
    pub fn wait_for(&mut self, most: Duration) {
        self.timeout = most;
    }

    /// Whether it may be used: no statement was left in the middle.
    pub fn usable(&self) -> bool {
        !self.busy
    }

    /// Sends statements whose answers are read by [`Link::head`] and [`Link::fetch`].
    ///
    /// # Errors
    /// The session is lost.
    pub async fn begin(&mut self, sql: &str) -> Result<(), Failed> {
        self.busy = true;
        let mut body = Vec::with_capacity(sql.len() + 1);
        body.push(3);
        body.extend_from_slice(sql.as_bytes());
        wire::packet(&mut self.out, 0, &body);
        self.flush().await
    }

    /// Reads the beginning of an answer: its columns, or how many rows were changed.
    ///
    /// # Errors
    /// Why the statement failed.
    pub async fn head(
        &mut self,
        columns: &mut Vec<SelectedColumn>,
        affected: &mut u64,
    ) -> Result<Head, Failed> {
        let (_, body) = self.packet().await?;
        let mut reader = Reader::new(&body);
        match body.first() {
            Some(0xff) => Err(self.failed(&body)),
            Some(0x00) => {
                reader.u8();
                *affected = reader.length().flatten().unwrap_or(0);
                reader.length();
                Ok(Head::Done(self.ended(reader.number(2))))
            }
            _ => {
                self.columns(&mut reader, columns).await?;
                Ok(Head::Rows)
            }
        }
    }

    /// Reads rows until there are so many bytes of them.
    ///
    /// # Errors
    /// Why the statement failed.
    pub async fn fetch(
        &mut self,
        columns: usize,
        bytes: usize,
        rows: &mut Vec<Vec<Option<Bytes>>>,
    ) -> Result<Fetched, Failed> {
        let mut read = 0;
        while read < bytes {
            let (_, body) = self.packet().await?;
            read += body.len();
            match body.first() {
                Some(0xfe) if body.len() < 9 => {
                    let mut reader = Reader::new(&body.slice(3..));
                    return Ok(Fetched::All(self.ended(reader.number(2))));
                }
                Some(0xff) => return Err(self.failed(&body)),
                _ => {
                    let row = wire::text_row(&body, columns);
                    rows.push(row.ok_or_else(|| self.strange("a row of another form"))?);
                }
            }
        }
        Ok(Fetched::Part)
    }

    /// Runs statements with semicolons between them; their answers.
    ///
    /// # Errors
    /// The first that fails ends them.
    pub async fn run(&mut self, sql: &str) -> Result<Vec<Answer>, Failed> {
        self.begin(sql).await?;
        let mut answers = Vec::new();
        loop {
            let (_, body) = self.packet().await?;
            let mut reader = Reader::new(&body);
            let mut answer = Answer::default();
            let status = match body.first() {
                Some(0xff) => return Err(self.failed(&body)),
                Some(0x00) => {
                    reader.u8();
                    answer.affected = reader.length().flatten().unwrap_or(0);
                    reader.length();
                    reader.number(2)
                }
                _ => self.rows(&mut reader, &mut answer).await?,
            };
            answers.push(answer);
            if !self.ended(status) {
                return Ok(answers);
            }
        }
    }

    /// What the status behind an answer says: whether more answers follow.
    fn ended(&mut self, status: Option<u64>) -> bool {
        let status = status.unwrap_or(AUTOCOMMIT);
        self.in_transaction = status & IN_TRANSACTION != 0 || status & AUTOCOMMIT == 0;
        self.busy = status & MORE_RESULTS != 0;
        self.busy
    }

    /// The failure that ends a statement.
    fn failed(&mut self, body: &Bytes) -> Failed {
        self.busy = false;
        self.in_transaction = true;
        Failed::Server(wire::server_error(body))
    }

    /// Reads the columns of an answer.
    async fn columns(
        &mut self,
        reader: &mut Reader,
        columns: &mut Vec<SelectedColumn>,
    ) -> Result<(), Failed> {
        let count = reader
            .length()
            .flatten()
            .ok_or_else(|| self.strange("an answer of another form"))?;
        for _ in 0..count {
            let (_, body) = self.packet().await?;
            let mut reader = Reader::new(&body);
            let column = described(&mut reader);
            columns.push(column.ok_or_else(|| self.strange("a column of another form"))?);
        }
        self.packet().await?;
        Ok(())
    }

    /// Reads columns and rows; the status behind them.
    async fn rows(
        &mut self,
        reader: &mut Reader,
        answer: &mut Answer,
    ) -> Result<Option<u64>, Failed> {
        let mut columns = Vec::new();
        self.columns(reader, &mut columns).await?;
        answer.columns = columns.into_iter().map(|column| column.name).collect();
        loop {
            let (_, body) = self.packet().await?;
            match body.first() {
                Some(0xfe) if body.len() < 9 => {
                    let mut reader = Reader::new(&body.slice(3..));
                    return Ok(reader.number(2));
                }
                Some(0xff) => return Err(self.failed(&body)),
                _ => {
                    let row = wire::text_row(&body, answer.columns.len());
                    answer
                        .rows
                        .push(row.ok_or_else(|| self.strange("a row of another form"))?);
                }
            }
        }
    }

    /// Begins to read the log, as the reader with this number.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn dump(&mut self, id: u32, from: &Start) -> Result<(), Failed> {
        // Checksums as they are in the file, with what MariaDB knows about transactions, and with a sign of life when nothing
        // happens.
        let (gtid, file, byte) = match from {
            Start::At(file, byte) => ("NULL".to_owned(), file.as_str(), *byte),
            Start::Gtid(list) => (literal(list), "", 4),
        };
        self.run(&format!(
            "SET @master_binlog_checksum = 'NONE', @source_binlog_checksum = 'NONE', @mariadb_slave_capability = 4, \
             @master_heartbeat_period = 5000000000, @source_heartbeat_period = 5000000000, \
             @slave_connect_state = {gtid}, @slave_gtid_strict_mode = 1"
        ))
        .await?;
        self.busy = true;
        let mut body = vec![0x15];
        body.extend_from_slice(&id.to_le_bytes());
        // No name, user, password, port, rank or master.
        body.extend_from_slice(&[0; 13]);
        wire::packet(&mut self.out, 0, &body);
        self.flush().await?;
        let (_, body) = self.packet().await?;
        if body.first() == Some(&0xff) {
            return Err(Failed::Server(wire::server_error(&body)));
        }
        let mut body = vec![0x12];
        body.extend_from_slice(&byte.to_le_bytes());
        body.extend_from_slice(&[0; 2]);
        body.extend_from_slice(&id.to_le_bytes());
        body.extend_from_slice(file.as_bytes());
        wire::packet(&mut self.out, 0, &body);
        self.flush().await
    }

    /// The next event of the log; `None` when none comes for so long. May be dropped while it waits.
    ///
    /// # Errors
    /// The session is lost, or the server ends it.
    pub async fn stream(&mut self, wait: Duration) -> Result<Option<Bytes>, Failed> {
        loop {
            if let Some(event) = self.streamed()? {
                return Ok(Some(event));
            }
            match timeout(wait, self.read()).await {
                Ok(read) => read?,
                Err(_) => return Ok(None),
            }
        }
    }

    /// The next event of the log that has arrived already.
    ///
    /// # Errors
    /// As [`Link::stream`].
    pub fn streamed(&mut self) -> Result<Option<Bytes>, Failed> {
        match wire::next(&mut self.buffer).map_err(|what| self.strange(what))? {
            None => Ok(None),
            Some((_, body)) => match body.first() {
                Some(0x00) => Ok(Some(body.slice(1..))),
                Some(0xff) => Err(Failed::Server(wire::server_error(&body))),
                _ => Err(closed(&self.address).into()),
            },
        }
    }

    /// Ends the session in good order.
    pub async fn close(mut self) {
        wire::packet(&mut self.out, 0, &[1]);
        let _ = timeout(GOODBYE_MAX, self.flush()).await;
        let _ = timeout(GOODBYE_MAX, self.socket.shutdown()).await;
    }

    async fn packet(&mut self) -> Result<(u8, Bytes), Failed> {
        loop {
            if let Some(packet) = wire::next(&mut self.buffer).map_err(|what| self.strange(what))? {
                return Ok(packet);
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

    async fn flush(&mut self) -> Result<(), Failed> {
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

    /// An answer that is not of the protocol.
    pub fn strange(&self, what: &str) -> Error {
        Error::new(Class::Transient, "mysql.strange")
            .with("address", &self.address)
            .with("what", what)
    }
}

impl SessionServer for MysqlServer {
    type Session = Link;

    async fn open(&self) -> Result<Link, Error> {
        MysqlServer::open(self).await
    }

    fn doing<'a>(&'a self, table: &'a str, rights: &'a str) -> Doing<'a> {
        MysqlServer::doing(self, table, rights)
    }
}

impl SqlSession for Link {
    type Said = MysqlError;
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

impl StreamedSession for Link {
    async fn select(&mut self, sql: &str) -> Result<Selecting, Failed> {
        self.begin(sql).await?;
        let mut affected = 0;
        loop {
            let mut columns = Vec::new();
            match self.head(&mut columns, &mut affected).await? {
                Head::Rows => {
                    let named = columns.iter();
                    let named = named.map(|column| (column.name.clone(), column.holds()));
                    return Ok(Selecting::Rows(named.collect()));
                }
                Head::Done(true) => {}
                Head::Done(false) => return Ok(Selecting::Done(affected)),
            }
        }
    }

    async fn rows(
        &mut self,
        columns: usize,
        bytes: usize,
        rows: &mut Vec<SessionRow>,
    ) -> Result<bool, Failed> {
        match self.fetch(columns, bytes, rows).await? {
            Fetched::Part => return Ok(false),
            Fetched::All(false) => return Ok(true),
            // A procedure answers with more than its rows.
            Fetched::All(true) => {}
        }
        loop {
            let (mut columns, mut affected) = (Vec::new(), 0);
            match self.head(&mut columns, &mut affected).await? {
                Head::Done(false) => return Ok(true),
                Head::Done(true) => {}
                Head::Rows => loop {
                    let mut rows = Vec::new();
                    match self.fetch(columns.len(), ROWS_BYTES, &mut rows).await? {
                        Fetched::Part => {}
                        Fetched::All(true) => break,
                        Fetched::All(false) => return Ok(true),
                    }
                },
            }
        }
    }

    // A role that a procedure has set for its caller stays: no request sets it back.
    async fn reset(&mut self, statement: &str) -> Result<(), Failed> {
        if statement.to_ascii_lowercase().contains("role") {
            return Err(self.strange("a statement that may have set a role").into());
        }
        self.busy = true;
        wire::packet(&mut self.out, 0, &[RESET_CONNECTION]);
        self.flush().await?;
        let (_, body) = self.packet().await?;
        if body.first() != Some(&0x00) {
            return Err(self.failed(&body));
        }
        // The request leaves the database as it is.
        let database = identifier(&self.database);
        self.run(&format!("{SETTINGS}; USE {database}"))
            .await
            .map(drop)
    }
}

impl SelectedColumn {
    /// What values of the column are read as.
    fn holds(&self) -> ColumnType {
        const BYTES: u16 = 63;
        match self.kind {
            1 | 2 | 3 | 8 | 9 | 13 => ColumnType::Int,
            4 | 5 => ColumnType::Float,
            7 | 12 => ColumnType::Time,
            16 => ColumnType::Binary,
            245 => ColumnType::Json,
            249..=254 if self.charset == BYTES => ColumnType::Binary,
            _ => ColumnType::Text,
        }
    }
}

fn described(reader: &mut Reader) -> Option<SelectedColumn> {
    // Catalogue, schema, table, the table's own name; then the name, and its own.
    for _ in 0..4 {
        reader.value()?;
    }
    let name = reader.name()?;
    reader.value()?;
    // The length of what follows, the character set, and the most bytes.
    reader.length()?;
    let charset = u16::try_from(reader.number(2)?).ok()?;
    reader.number(4)?;
    Some(SelectedColumn {
        name,
        kind: reader.u8()?,
        charset,
    })
}

pub fn closed(address: &str) -> Error {
    Error::new(Class::Transient, "mysql.closed").with("address", address)
}

fn silent(address: &str, after: Duration) -> Error {
    Error::new(Class::Transient, "mysql.silent")
        .with("address", address)
        .with("seconds", after.as_secs())
}
