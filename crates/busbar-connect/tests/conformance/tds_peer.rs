//! A stand-in for SQL Server that a test scripts: it speaks TDS, and a closure answers the statements.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::subjects::Subject;

pub fn subject() -> Subject {
    Subject {
        kind: "sqlserver",
        good: vec![
            "sqlserver: { address: '127.0.0.1:1', database: d, user: u }\n",
            "sqlserver: { address: '127.0.0.1:1', database: d, user: u, password: { env: P }, tls: { ca: ca.pem }, timeout: 5s, sessions: 2, write: { table: dbo.t, mode: upsert, key: [id], create: true } }\n",
            "sqlserver: { address: '127.0.0.1:1', database: d, user: u, trust_certificate: true, follow: { tables: [dbo.a, b], by: tracking, every: 5s, snapshot: false, generation: 2, again: { dbo.b: 1 } } }\ntopic: a/${schema}/${table}\n",
            "sqlserver: { address: '127.0.0.1:1', database: d, user: u, query: { statement: 'select 1', position: id, start: '0', overlap: 10, at: '0 3 * * *' } }\n",
        ],
        wrong: vec![
            ("sqlserver: { database: d, user: u }\n", "address"),
            (
                "sqlserver: { address: here, database: d, user: u }\n",
                "here",
            ),
            (
                "sqlserver: { address: 'a:1', database: d, user: u, timeout: 0s }\n",
                "0s",
            ),
            (
                "sqlserver: { address: 'a:1', database: d, user: u, sessions: 65 }\n",
                "65",
            ),
            (
                "sqlserver: { address: 'a:1', database: d, user: u, trust_certificate: true, tls: { ca: ca.pem } }\n",
                "trust_certificate",
            ),
            (
                "sqlserver: { address: 'a:1', database: d, user: u, follow: { tables: [] } }\n",
                "tables",
            ),
            (
                "sqlserver: { address: 'a:1', database: d, user: u, follow: { tables: [a], again: { dbo.z: 1 } } }\n",
                "dbo.z",
            ),
            (
                "sqlserver: { address: 'a:1', database: d, user: u, follow: { tables: [a], by: log } }\n",
                "log",
            ),
            (
                "sqlserver: { address: 'a:1', database: d, user: u, follow: { tables: [a] }, query: { statement: s } }\n",
                "query",
            ),
            (
                "sqlserver: { address: 'a:1', database: d, user: u, query: { statement: s, position: id } }\n",
                "start",
            ),
            (
                "sqlserver: { address: 'a:1', database: d, user: u, query: { statement: s, at: soon } }\n",
                "cron",
            ),
            (
                "sqlserver: { address: 'a:1', database: d, user: u, write: { table: t, mode: upsert } }\n",
                "key",
            ),
        ],
        secret: vec![
            "sqlserver: { address: '127.0.0.1:PORT', database: d, user: u, password: SECRET, write: { table: t } }\n",
        ],
        // Rows are written to a server that others wrote: `make test-servers`.
        supply: None,
        taker: None,
    }
}

/// A value, or NULL.
#[derive(Clone, Debug)]
pub enum TdsCell {
    Null,
    Int(i64),
    Text(String),
    /// In the encoding of `Chinese_PRC_CI_AS`, which is that of the database, too.
    Plain(&'static str),
    Bytes(Vec<u8>),
}

/// `Chinese_PRC_CI_AS`.
const COLLATION: [u8; 5] = [4, 8, 0xd0, 0, 0];

impl From<&str> for TdsCell {
    fn from(text: &str) -> TdsCell {
        TdsCell::Text(text.to_owned())
    }
}

/// What a statement is answered with.
#[derive(Clone, Debug)]
pub enum TdsReply {
    /// Names of columns with a value of their types, and rows.
    Rows(Vec<(&'static str, TdsCell)>, Vec<Vec<TdsCell>>),
    Count(u64),
    Error(i32, &'static str),
}

type Answering = Box<dyn FnMut(&str) -> Vec<TdsReply> + Send>;
/// What is done to the bytes of an answer before they are sent; `None` closes the connection.
type Twisting = Box<dyn FnMut(Vec<u8>) -> Option<Vec<u8>> + Send>;

struct TdsPeerState {
    answer: Mutex<Answering>,
    twist: Mutex<Twisting>,
    open: Mutex<Vec<TcpStream>>,
    /// Messages before which the session was to be reset.
    resets: AtomicUsize,
}

pub struct TdsPeer {
    pub port: u16,
    state: Arc<TdsPeerState>,
}

impl TdsPeer {
    pub fn new(answer: impl FnMut(&str) -> Vec<TdsReply> + Send + 'static) -> TdsPeer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(TdsPeerState {
            answer: Mutex::new(Box::new(answer)),
            twist: Mutex::new(Box::new(Some)),
            open: Mutex::default(),
            resets: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&serving);
                state.open.lock().extend(stream.try_clone());
                std::thread::spawn(move || state.serve(stream));
            }
        });
        TdsPeer { port, state }
    }

    /// From now on answers are changed before they are sent.
    pub fn twist(&self, twist: impl FnMut(Vec<u8>) -> Option<Vec<u8>> + Send + 'static) {
        *self.state.twist.lock() = Box::new(twist);
    }

    /// How often a session was to be reset.
    pub fn resets(&self) -> usize {
        self.state.resets.load(Ordering::Relaxed)
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        for stream in self.state.open.lock().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl TdsPeerState {
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        loop {
            let (kind, status, body) = message(&mut stream)?;
            if status & 8 != 0 {
                self.resets.fetch_add(1, Ordering::Relaxed);
            }
            let answer = match kind {
                // No encryption.
                0x12 => vec![1, 0, 6, 0, 1, 0xff, 2],
                0x10 => match utf16(&body).contains("no_user") {
                    true => tokens(&[TdsReply::Error(18_456, "Login failed.")]),
                    false => {
                        let collation = [&[0xe3, 8, 0, 7, 5][..], &COLLATION, &[0]].concat();
                        let accepted = [0xad, 4, 0, 1, 0x74, 0, 0];
                        [&collation[..], &accepted, &tokens(&[])].concat()
                    }
                },
                _ => {
                    let headers = u32::from_le_bytes(body[..4].try_into().ok()?) as usize;
                    let sql = utf16(&body[headers..]);
                    match sql.starts_with("SET XACT_ABORT") {
                        true => tokens(&[]),
                        false => {
                            let replies = (self.answer.lock())(&sql);
                            let twisted = (self.twist.lock())(tokens(&replies));
                            let Some(twisted) = twisted else {
                                let _ = stream.shutdown(Shutdown::Both);
                                return None;
                            };
                            twisted
                        }
                    }
                }
            };
            let parts: Vec<_> = answer.chunks(4088).collect();
            for (at, part) in parts.iter().enumerate() {
                let last = u8::from(at + 1 == parts.len());
                let length = (part.len() + 8) as u16;
                let [high, low] = length.to_be_bytes();
                let packet = [&[4, last, high, low, 0, 0, at as u8, 0][..], part].concat();
                stream.write_all(&packet).ok()?;
            }
        }
    }
}

/// The kind of a message, what its packets say of it, and its content.
fn message(stream: &mut TcpStream) -> Option<(u8, u8, Vec<u8>)> {
    let (mut status, mut body) = (0, Vec::new());
    loop {
        let mut header = [0; 8];
        stream.read_exact(&mut header).ok()?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let mut part = vec![0; length - 8];
        stream.read_exact(&mut part).ok()?;
        body.extend(part);
        status |= header[1];
        if header[1] & 1 == 1 {
            return Some((header[0], status, body));
        }
    }
}

fn utf16(bytes: &[u8]) -> String {
    let units: Vec<_> = bytes
        .chunks_exact(2)
        .map(|two| u16::from_le_bytes([two[0], two[1]]))
        .collect();
    String::from_utf16_lossy(&units)
}

fn units(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Answers as the server writes them.
pub fn tokens(replies: &[TdsReply]) -> Vec<u8> {
    let mut out = Vec::new();
    let done = |more: bool, count: Option<u64>, out: &mut Vec<u8>| {
        let status = u16::from(more) | if count.is_some() { 0x10 } else { 0 };
        out.push(0xfd);
        out.extend(status.to_le_bytes());
        out.extend([0, 0]);
        out.extend(count.unwrap_or(0).to_le_bytes());
    };
    for (at, reply) in replies.iter().enumerate() {
        let more = at + 1 < replies.len();
        match reply {
            TdsReply::Rows(columns, rows) => {
                out.push(0x81);
                out.extend((columns.len() as u16).to_le_bytes());
                for (name, like) in columns {
                    out.extend([0, 0, 0, 0, 1, 0]);
                    match like {
                        TdsCell::Int(_) | TdsCell::Null => out.extend([0x26, 8]),
                        TdsCell::Text(_) => out.extend([0xe7, 0x40, 0x1f, 9, 4, 0xd0, 0, 0x34]),
                        TdsCell::Plain(_) => {
                            out.extend([0xa7, 0x40, 0x1f]);
                            out.extend(COLLATION);
                        }
                        TdsCell::Bytes(_) => out.extend([0xa5, 0x40, 0x1f]),
                    }
                    out.push(name.encode_utf16().count() as u8);
                    out.extend(units(name));
                }
                for row in rows {
                    out.push(0xd1);
                    for (cell, (_, like)) in row.iter().zip(columns) {
                        match (cell, like) {
                            (TdsCell::Null, TdsCell::Int(_) | TdsCell::Null) => out.push(0),
                            (TdsCell::Null, _) => out.extend([0xff, 0xff]),
                            (TdsCell::Int(value), _) => {
                                out.push(8);
                                out.extend(value.to_le_bytes());
                            }
                            (TdsCell::Text(text), _) => {
                                let text = units(text);
                                out.extend((text.len() as u16).to_le_bytes());
                                out.extend(text);
                            }
                            (TdsCell::Plain(text), _) => {
                                let (bytes, ..) = encoding_rs::GBK.encode(text);
                                out.extend((bytes.len() as u16).to_le_bytes());
                                out.extend(bytes.iter());
                            }
                            (TdsCell::Bytes(bytes), _) => {
                                out.extend((bytes.len() as u16).to_le_bytes());
                                out.extend(bytes);
                            }
                        }
                    }
                }
                done(more, Some(rows.len() as u64), &mut out);
            }
            TdsReply::Count(count) => done(more, Some(*count), &mut out),
            TdsReply::Error(number, said) => {
                let said = units(said);
                let mut body = number.to_le_bytes().to_vec();
                body.extend([1, 16]);
                body.extend(((said.len() / 2) as u16).to_le_bytes());
                body.extend(said);
                body.extend([0, 0, 1, 0, 0, 0]);
                out.push(0xaa);
                out.extend((body.len() as u16).to_le_bytes());
                out.extend(body);
                done(more, None, &mut out);
            }
        }
    }
    if replies.is_empty() {
        done(false, None, &mut out);
    }
    out
}
