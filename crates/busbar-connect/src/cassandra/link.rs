//! One session with a server of the cluster.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use busbar_event::{Class, Error};
use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::failure::CassandraDoing;
use super::frame::{
    CqlAnswer, CqlBound, CqlConsistency, CqlPage, CqlPrepared, CqlRefusal, CqlRequest, CqlRows,
    CqlUnreadable, take_answer,
};
use super::limits::{
    ANSWER_BYTES_MAX, ANSWERS_BYTES_MAX, CONNECT_MAX, GOODBYE_MAX, IN_FLIGHT_MAX, OUT_BYTES,
    PREPARED_MAX, READ_BYTES,
};
use crate::places::Places;
use crate::tls::{self, Tls};

/// Where the servers are, and who asks. Not shown, because of the password.
pub struct CassandraServer {
    /// Host and port of each.
    pub addresses: Vec<String>,
    /// The one that answered last.
    pub last: AtomicUsize,
    /// The keyspace of names without one.
    pub keyspace: String,
    pub user: String,
    pub password: Option<String>,
    pub tls: Option<Tls>,
    /// How long a request may take.
    pub timeout: Duration,
    pub consistency: CqlConsistency,
    /// Where files of the project are.
    pub project: Arc<Path>,
    pub places: Places,
}

/// A session.
pub struct CassandraLink {
    reader: ReadHalf<Box<dyn CassandraSocket>>,
    writer: WriteHalf<Box<dyn CassandraSocket>>,
    buffer: BytesMut,
    /// What has not been sent yet.
    out: BytesMut,
    /// No request waits for its answer.
    rests: bool,
    prepared: HashMap<String, Arc<CqlPrepared>>,
    pub address: String,
    timeout: Duration,
}

/// Why a request did not succeed.
#[derive(Debug)]
pub enum CqlFailed {
    /// The server said so; the session goes on.
    Refused(CqlRefusal),
    /// The session is lost.
    Lost(Error),
}

/// What sessions are encrypted with, or not.
pub trait CassandraSocket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> CassandraSocket for T {}

impl From<Error> for CqlFailed {
    fn from(error: Error) -> CqlFailed {
        CqlFailed::Lost(error)
    }
}

impl CqlFailed {
    /// The failure as people see it.
    pub fn told(self, doing: CassandraDoing<'_>) -> Error {
        match self {
            CqlFailed::Lost(error) => error,
            CqlFailed::Refused(refusal) => refusal.told(doing),
        }
    }
}

impl CassandraServer {
    /// What errors of a session name.
    pub fn doing<'a>(
        &'a self,
        link: &'a CassandraLink,
        table: &'a str,
        right: &'a str,
    ) -> CassandraDoing<'a> {
        CassandraDoing {
            address: &link.address,
            user: &self.user,
            table,
            right,
            values: false,
        }
    }

    /// Opens a session with the server that answered last, or with the next one that does.
    ///
    /// # Errors
    /// *Transient*: nobody answers. *Configuration*: a server refuses the user, the keyspace or the encryption.
    pub async fn open(&self) -> Result<CassandraLink, Error> {
        let count = self.addresses.len();
        let first = self.last.load(Ordering::Relaxed);
        let mut refused: Option<Error> = None;
        for place in (0..count).map(|at| (first + at) % count) {
            let address = &self.addresses[place];
            let opened = match timeout(CONNECT_MAX, self.connect(address)).await {
                Ok(opened) => opened,
                Err(_) => Err(silent(address, CONNECT_MAX)),
            };
            match opened {
                Ok(link) => {
                    self.last.store(place, Ordering::Relaxed);
                    return Ok(link);
                }
                // What somebody has to change says more than a server that is away.
                Err(error) => match &refused {
                    Some(known) if known.class() == Class::Configuration => {}
                    _ => refused = Some(error),
                },
            }
        }
        Err(refused.unwrap_or_else(|| Error::new(Class::Configuration, "cassandra.addresses")))
    }

    async fn connect(&self, address: &str) -> Result<CassandraLink, Error> {
        let unreachable = |why| {
            Error::new(Class::Transient, "cassandra.unreachable")
                .with("address", address)
                .caused_by(why)
        };
        let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let socket: Box<dyn CassandraSocket> = match &self.tls {
            Some(tls) => {
                let host = address.rsplit_once(':').map_or("", |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(host.to_owned()).map_err(|why| {
                    Error::new(Class::Configuration, "cassandra.address").caused_by(why)
                })?;
                let config = tls::client_config(tls, &self.project, &self.places).await?;
                let connector = tokio_rustls::TlsConnector::from(config);
                let opened = connector.connect(name, tcp).await;
                Box::new(opened.map_err(|why| match tls::refused(&why) {
                    Some(why) => tls::untrusted(address, why),
                    None => unreachable(why),
                })?)
            }
            None => Box::new(tcp),
        };
        let (reader, writer) = split(socket);
        let mut link = CassandraLink {
            reader,
            writer,
            buffer: BytesMut::with_capacity(READ_BYTES),
            out: BytesMut::new(),
            rests: true,
            prepared: HashMap::new(),
            address: address.to_owned(),
            timeout: CONNECT_MAX,
        };
        let begun = self.begin(&mut link).await;
        begun.map_err(|failed| failed.told(self.doing(&link, "", "")))?;
        link.timeout = self.timeout;
        Ok(link)
    }

    /// Says who asks, and in which keyspace.
    async fn begin(&self, link: &mut CassandraLink) -> Result<(), CqlFailed> {
        match link.ask(&CqlRequest::startup()).await? {
            CqlAnswer::Ready => {}
            CqlAnswer::Authenticate => {
                let Some(password) = &self.password else {
                    let error = Error::new(Class::Configuration, "cassandra.no-password");
                    return Err(error.with("address", &link.address).into());
                };
                let credentials = CqlRequest::credentials(&self.user, password);
                if !matches!(link.ask(&credentials).await?, CqlAnswer::Ready) {
                    return Err(strange(&link.address, "another question than who asks").into());
                }
            }
            _ => return Err(strange(&link.address, "no welcome").into()),
        }
        if !self.keyspace.is_empty() {
            let text = format!("USE {}", quoted(&self.keyspace));
            match link.ask(&CqlRequest::query(&text, self.consistency)).await {
                Err(CqlFailed::Refused(refusal)) if refusal.is_invalid() => {
                    let error = Error::new(Class::Configuration, "cassandra.no-keyspace");
                    return Err(error
                        .with("address", &link.address)
                        .with("keyspace", &self.keyspace)
                        .into());
                }
                used => used?,
            };
        }
        Ok(())
    }
}

impl CassandraLink {
    /// Whether it may be used for something new: every request was answered.
    pub fn rests(&self) -> bool {
        self.rests
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// What the server said, or that the session is lost.
    pub async fn ask(&mut self, request: &CqlRequest) -> Result<CqlAnswer, CqlFailed> {
        let mut answers = self.ask_all(std::slice::from_ref(request)).await?;
        match answers.pop() {
            Some(CqlAnswer::Refused(refusal)) => Err(CqlFailed::Refused(refusal)),
            Some(answer) => Ok(answer),
            None => Err(closed(&self.address).into()),
        }
    }

    /// Sends requests, many at a time, and waits for their answers, which are in the order of the requests. A request that the
    /// server refuses is an answer. Once it is dropped while it waits, the session does not rest any more.
    ///
    /// # Errors
    /// *Transient*: the session is lost. *Configuration*: the answers are larger than is taken.
    pub async fn ask_all(&mut self, requests: &[CqlRequest]) -> Result<Vec<CqlAnswer>, Error> {
        self.rests = false;
        let mut answers: Vec<Option<CqlAnswer>> = requests.iter().map(|_| None).collect();
        // The request of each number that is in use.
        let mut of_number = vec![usize::MAX; IN_FLIGHT_MAX.min(requests.len())];
        let mut free: Vec<u16> = (0..of_number.len() as u16).rev().collect();
        let (mut sent, mut left, mut bytes) = (0, requests.len(), 0);
        while left > 0 {
            while sent < requests.len() && self.out.len() < OUT_BYTES {
                let Some(number) = free.pop() else { break };
                of_number[usize::from(number)] = sent;
                requests[sent].write(number, &mut self.out);
                sent += 1;
            }
            let before = self.buffer.len();
            let taken = take_answer(&mut self.buffer).map_err(|why| self.unreadable(&why))?;
            let Some((number, answer)) = taken else {
                self.wait().await?;
                continue;
            };
            bytes += before - self.buffer.len();
            if bytes > ANSWERS_BYTES_MAX {
                return Err(self.unreadable(&CqlUnreadable::TooLarge));
            }
            let place = of_number.get_mut(usize::from(number));
            let place = place.map(|place| std::mem::replace(place, usize::MAX));
            let Some(answered) = place.and_then(|place| answers.get_mut(place)) else {
                return Err(strange(&self.address, "an answer to no request"));
            };
            if matches!(&answer, CqlAnswer::Refused(refusal) if refusal.is_unprepared()) {
                // Asked again, it would be refused again: all statements are prepared anew.
                self.prepared.clear();
            }
            *answered = Some(answer);
            free.push(number);
            left -= 1;
        }
        self.rests = true;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Sends some of what is to be sent, or receives something. Both at a time: a server that cannot get rid of its answers takes
    /// no more requests.
    async fn wait(&mut self) -> Result<(), Error> {
        self.buffer.reserve(READ_BYTES);
        let has_more = !self.out.is_empty();
        let done = async {
            tokio::select! {
                sent = self.writer.write_buf(&mut self.out), if has_more => sent,
                received = self.reader.read_buf(&mut self.buffer) => received,
            }
        };
        match timeout(self.timeout, done).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0)) => return Err(closed(&self.address)),
            Ok(Err(why)) => return Err(closed(&self.address).caused_by(why)),
            Err(_) => return Err(silent(&self.address, self.timeout)),
        }
        if has_more && self.out.is_empty() {
            let flushed = timeout(self.timeout, self.writer.flush()).await;
            flushed
                .map_err(|_| silent(&self.address, self.timeout))?
                .map_err(|why| closed(&self.address).caused_by(why))?;
        }
        Ok(())
    }

    /// A statement that the server knows.
    ///
    /// # Errors
    /// As [`CassandraLink::ask`].
    pub async fn prepare(&mut self, text: &str) -> Result<Arc<CqlPrepared>, CqlFailed> {
        if let Some(known) = self.prepared.get(text) {
            return Ok(Arc::clone(known));
        }
        match self.ask(&CqlRequest::prepare(text)).await? {
            CqlAnswer::Prepared(prepared) => {
                if self.prepared.len() >= PREPARED_MAX {
                    self.prepared.clear();
                }
                let prepared = Arc::new(prepared);
                self.prepared.insert(text.to_owned(), Arc::clone(&prepared));
                Ok(prepared)
            }
            _ => Err(strange(&self.address, "no statement").into()),
        }
    }

    /// Runs a statement with texts as its values and reads its rows, at most so many.
    ///
    /// # Errors
    /// As [`CassandraLink::ask`]; *configuration* where there are more rows.
    pub async fn read(
        &mut self,
        text: &str,
        values: &[&[u8]],
        consistency: CqlConsistency,
        most: usize,
    ) -> Result<Vec<Vec<String>>, CqlFailed> {
        let prepared = self.prepare(text).await?;
        let mut bound = Vec::new();
        for value in values {
            super::frame::write_value(Some(value), &mut bound);
        }
        let mut page = CqlPage {
            rows: super::limits::PAGE_ROWS,
            behind: None,
        };
        let mut found = Vec::new();
        loop {
            let bound = CqlBound {
                id: &prepared.id,
                count: values.len(),
                values: &bound,
            };
            let request = CqlRequest::execute(bound, consistency, &page);
            let CqlAnswer::Rows(mut rows) = self.ask(&request).await? else {
                return Ok(found);
            };
            while let Some(row) = rows.next().map_err(|why| self.unreadable(&why))? {
                found.push(self.texts(&rows, &row)?);
            }
            if found.len() > most {
                let error = Error::new(Class::Configuration, "cassandra.many-rows");
                return Err(error
                    .with("address", &self.address)
                    .with("most", most)
                    .into());
            }
            self.check_more(page.behind.as_ref(), rows.more.as_ref())?;
            page.behind = rows.more;
            if page.behind.is_none() {
                return Ok(found);
            }
        }
    }

    /// Sees that the page behind the next one is another one.
    ///
    /// # Errors
    /// *Transient*: it would be the same page again.
    pub fn check_more(&self, asked: Option<&Bytes>, more: Option<&Bytes>) -> Result<(), Error> {
        match more.is_some() && asked == more {
            true => Err(strange(&self.address, "a page that goes on where it began")),
            false => Ok(()),
        }
    }

    /// The values of a row as texts; null is the empty one.
    fn texts(&self, rows: &CqlRows, row: &[Option<bytes::Bytes>]) -> Result<Vec<String>, Error> {
        let cells = rows.columns.iter().zip(row);
        let texts = cells.map(|(column, value)| {
            let text = column.kind.text(value.as_deref().unwrap_or_default());
            let text = text.map_err(|_| strange(&self.address, "a value of another type"))?;
            Ok(String::from_utf8_lossy(&text.unwrap_or_default()).into_owned())
        });
        texts.collect()
    }

    /// An answer that cannot be read: the session is lost.
    pub fn unreadable(&self, why: &CqlUnreadable) -> Error {
        match why {
            CqlUnreadable::Strange(what) => strange(&self.address, what),
            CqlUnreadable::TooLarge => Error::new(Class::Configuration, "cassandra.too-large")
                .with("address", &self.address)
                .with("most", ANSWER_BYTES_MAX),
        }
    }

    /// Ends the session in good order.
    pub async fn close(mut self) {
        let _ = timeout(GOODBYE_MAX, self.writer.shutdown()).await;
    }
}

/// A name as CQL writes it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn closed(address: &str) -> Error {
    Error::new(Class::Transient, "cassandra.closed").with("address", address)
}

pub fn strange(address: &str, what: &str) -> Error {
    Error::new(Class::Transient, "cassandra.strange")
        .with("address", address)
        .with("what", what)
}

fn silent(address: &str, after: Duration) -> Error {
    Error::new(Class::Transient, "cassandra.silent")
        .with("address", address)
        .with("seconds", after.as_secs())
}
