//! A stand-in for Cassandra: its protocol, and rows in memory behind the statements that the connector sends.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::servers::Cut;
use crate::subjects::{Subject, Supply, Taker};

pub fn subject() -> Subject {
    Subject {
        kind: "cassandra",
        good: vec![
            "cassandra: { addresses: ['127.0.0.1:1'] }\n",
            "cassandra: { addresses: ['127.0.0.1:1', 'b:9042'], keyspace: k, user: u, password: { env: P }, tls: { ca: ca.pem }, timeout: 5s, consistency: quorum, sessions: 2, write: { table: t, change: c, unchanged: u, nulls: keep, ttl: 1h, lossy: true, positions: p } }\n",
            "cassandra: { addresses: ['127.0.0.1:1'], write: { table: k.t, mode: delete } }\n",
            "cassandra: { addresses: ['127.0.0.1:1'], query: { statement: 'select * from k.t where a = 1 and b > :position', position: b, start: '0', every: 1s, rows: 50 } }\ntopic: a/${connection}\n",
            "cassandra: { addresses: ['127.0.0.1:1'], query: { statement: 'select * from k.t', at: '0 3 * * *' } }\n",
        ],
        wrong: vec![
            ("cassandra: { keyspace: k }\n", "addresses"),
            ("cassandra: { addresses: [] }\n", "addresses"),
            ("cassandra: { addresses: [here] }\n", "here"),
            ("cassandra: { addresses: ['a:0'] }\n", "a:0"),
            ("cassandra: { addresses: ['a:1'], timeout: 0s }\n", "0s"),
            ("cassandra: { addresses: ['a:1'], sessions: 65 }\n", "65"),
            (
                "cassandra: { addresses: ['a:1'], user: someone }\n",
                "someone",
            ),
            (
                "cassandra: { addresses: ['a:1'], user: u, password: '${P}' }\n",
                "${P}",
            ),
            (
                "cassandra: { addresses: ['a:1'], tls: { ca: /etc/x } }\n",
                "/etc/x",
            ),
            (
                "cassandra: { addresses: ['a:1'], user: u, password: { file: /etc/x } }\n",
                "/etc/x",
            ),
            (
                "cassandra: { addresses: ['a:1'], consistency: two }\n",
                "two",
            ),
            (
                "cassandra: { addresses: ['a:1'], write: { table: tt } }\n",
                "tt",
            ),
            (
                "cassandra: { addresses: ['a:1'], write: { table: a.b.c } }\n",
                "a.b.c",
            ),
            (
                "cassandra: { addresses: ['a:1'], write: { table: k.t, positions: k.p } }\n",
                "k.p",
            ),
            (
                "cassandra: { addresses: ['a:1'], write: { table: k.t, ttl: 10ms } }\n",
                "10ms",
            ),
            (
                "cassandra: { addresses: ['a:1'], write: { table: k.t, change: c, mode: delete } }\n",
                "delete",
            ),
            (
                "cassandra: { addresses: ['a:1'], query: { statement: ' ' } }\n",
                "statement",
            ),
            (
                "cassandra: { addresses: ['a:1'], query: { statement: select a, position: a, start: '0' } }\n",
                "select a",
            ),
            (
                "cassandra: { addresses: ['a:1'], query: { statement: 'select :position', position: a } }\n",
                "select :position",
            ),
            (
                "cassandra: { addresses: ['a:1'], query: { statement: select a, every: 1ms } }\n",
                "1ms",
            ),
            (
                "cassandra: { addresses: ['a:1'], query: { statement: select a, at: noon } }\n",
                "noon",
            ),
            (
                "cassandra: { addresses: ['a:1'], query: { statement: select a, at: '0 3 * * *', every: 1s } }\n",
                "0 3 * * *",
            ),
            (
                "cassandra: { addresses: ['a:1'], query: { statement: select a, rows: 0 } }\n",
                "0",
            ),
            (
                "cassandra: { addresses: ['a:1'], query: { statement: select a } }\ntopic: a/${conection}\n",
                "conection",
            ),
        ],
        secret: vec![
            "cassandra: { addresses: ['127.0.0.1:PORT'], keyspace: k, user: u, password: SECRET, write: { table: t } }\n",
        ],
        supply: Some(|| Box::new(Selected(CassandraPeer::new()))),
        taker: Some(|| Box::new(Kept(CassandraPeer::new()))),
    }
}

/// A server that can be cut off, with one keyspace, `k`, and one table, `t`, with rows by their `note`.
pub struct CassandraPeer {
    pub cut: Cut,
    pub store: Arc<Mutex<CassandraRows>>,
    port: u16,
    ended: Arc<AtomicBool>,
}

/// What it holds, and what it is to do.
pub struct CassandraRows {
    /// Name, type and kind of each column of the table.
    pub columns: Vec<(&'static str, &'static str, &'static str)>,
    /// Rows with the times that they were written at; none for one that was deleted.
    pub rows: BTreeMap<Vec<u8>, (i64, Option<Vec<u8>>)>,
    notes: BTreeMap<Vec<u8>, (i64, Vec<Vec<u8>>)>,
    /// Rows with this word are refused for good.
    pub refused: Option<&'static str>,
    /// Writes of rows are kept back, as by a slow network, and who sends them hears nothing.
    pub slow: bool,
    held: Vec<(String, Vec<Vec<u8>>)>,
    /// Numbers that are read.
    pub numbers: BTreeSet<i64>,
    /// Whether each further page says that it goes on where it began.
    pub stuck: bool,
    /// What is answered to the next statements that are prepared, in the place of an answer.
    pub says: Option<Vec<u8>>,
}

impl CassandraPeer {
    pub fn new() -> CassandraPeer {
        let store = Arc::new(Mutex::new(CassandraRows {
            stuck: false,
            columns: vec![
                ("n", "bigint", "regular"),
                ("note", "text", "partition_key"),
            ],
            rows: BTreeMap::new(),
            notes: BTreeMap::new(),
            refused: None,
            slow: false,
            held: Vec::new(),
            numbers: BTreeSet::new(),
            says: None,
        }));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let ended = Arc::new(AtomicBool::new(false));
        let (answering, ends) = (Arc::clone(&store), Arc::clone(&ended));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let store = Arc::clone(&answering);
                std::thread::spawn(move || while serve(&client, &store).is_some() {});
            }
        });
        CassandraPeer {
            cut: Cut::before(port),
            store,
            port,
            ended,
        }
    }

    pub fn connection(&self, more: &str) -> String {
        format!(
            "cassandra: {{ addresses: ['127.0.0.1:1', '127.0.0.1:{}'], keyspace: k, user: me, password: secret, timeout: 20s, {more} }}\n",
            self.cut.port
        )
    }

    /// How many writes are kept back.
    pub fn held(&self) -> usize {
        self.store.lock().held.len()
    }

    /// What was kept back is carried out.
    pub fn let_through(&self) {
        let mut store = self.store.lock();
        store.slow = false;
        for (text, values) in std::mem::take(&mut store.held) {
            store.write(&text, &values);
        }
    }

    /// The notes of the rows that are there, in the order in which they were written.
    pub fn notes(&self) -> Vec<String> {
        let store = self.store.lock();
        let there = store.rows.iter().filter(|(_, (_, row))| row.is_some());
        let mut rows: Vec<_> = there.map(|(note, (time, _))| (*time, note)).collect();
        rows.sort();
        let texts = rows
            .into_iter()
            .map(|(_, note)| String::from_utf8_lossy(note).into_owned());
        texts.collect()
    }
}

impl Drop for CassandraPeer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Answers one request; none at the end of the connection.
fn serve(mut client: &TcpStream, store: &Mutex<CassandraRows>) -> Option<()> {
    let mut head = [0; 9];
    client.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) as usize;
    let mut body = vec![0; length];
    client.read_exact(&mut body).ok()?;
    let (kind, body) = store.lock().answer(head[4], &mut Body(&body))?;
    let mut frame = match kind {
        // As it is.
        0xff => body,
        kind => {
            let mut frame = vec![0x84, 0, head[2], head[3], kind];
            frame.extend((body.len() as u32).to_be_bytes());
            frame.extend(body);
            frame
        }
    };
    client.write_all(&std::mem::take(&mut frame)).ok()
}

/// What is left of a request.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count);
        self.0 = rest;
        bytes
    }
    fn byte(&mut self) -> u8 {
        self.bytes(1)[0]
    }
    fn short(&mut self) -> usize {
        usize::from(u16::from_be_bytes(self.bytes(2).try_into().expect("two")))
    }
    fn int(&mut self) -> i32 {
        i32::from_be_bytes(self.bytes(4).try_into().expect("four"))
    }
    fn text(&mut self, length: usize) -> String {
        String::from_utf8(self.bytes(length).to_vec()).expect("a text")
    }
    fn value(&mut self) -> Vec<u8> {
        let length = self.int();
        self.bytes(length.max(0) as usize).to_vec()
    }
    fn values(&mut self) -> Vec<Vec<u8>> {
        (0..self.short()).map(|_| self.value()).collect()
    }
}

fn short_text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

fn long(value: &[u8]) -> Vec<u8> {
    [&(value.len() as i32).to_be_bytes(), value].concat()
}

fn told(code: i32, why: &str) -> Option<(u8, Vec<u8>)> {
    Some((0, [code.to_be_bytes().to_vec(), short_text(why)].concat()))
}

/// Rows with columns of texts, or of whole numbers where their names begin with `#`.
fn page(names: &[&str], rows: &[Vec<Vec<u8>>], more: Option<&[u8]>) -> Option<(u8, Vec<u8>)> {
    let mut body = Vec::new();
    let flags = if more.is_some() { 3 } else { 1 };
    for number in [2, flags, names.len() as i32] {
        body.extend(number.to_be_bytes());
    }
    if let Some(more) = more {
        body.extend(long(more));
    }
    body.extend([short_text("k"), short_text("t")].concat());
    for name in names {
        body.extend(short_text(name.trim_start_matches('#')));
        body.extend(if name.starts_with('#') {
            [0, 2]
        } else {
            [0, 0x0d]
        });
    }
    body.extend((rows.len() as i32).to_be_bytes());
    for value in rows.iter().flatten() {
        body.extend(long(value));
    }
    Some((8, body))
}

impl CassandraRows {
    fn answer(&mut self, kind: u8, body: &mut Body<'_>) -> Option<(u8, Vec<u8>)> {
        let done = Some((8, 1_i32.to_be_bytes().to_vec()));
        match kind {
            // STARTUP, and who asks.
            0x01 => Some((3, short_text("PasswordAuthenticator"))),
            0x0f => match &body.value()[..] {
                b"\0me\0secret" => Some((0x10, long(b""))),
                _ => told(0x0100, "Provided username or password are incorrect"),
            },
            // QUERY
            0x07 => {
                let length = body.int() as usize;
                let text = body.text(length);
                match text.as_str() {
                    "USE \"k\"" => done,
                    _ if text
                        .starts_with("CREATE TABLE IF NOT EXISTS \"k\".\"busbar_position\"") =>
                    {
                        done
                    }
                    _ => told(0x2200, "no such keyspace"),
                }
            }
            // PREPARE
            0x09 => {
                if let Some(says) = &self.says {
                    return Some((0xff, says.clone()));
                }
                let length = body.int() as usize;
                let text = body.text(length);
                let takes: &[i32] = if text.contains(":position") {
                    &[1]
                } else {
                    &[]
                };
                let mut said = [4_i32.to_be_bytes().to_vec(), short_text(&text)].concat();
                for number in [1, takes.len() as i32, 0] {
                    said.extend(i32::to_be_bytes(number));
                }
                said.extend([short_text("k"), short_text("t")].concat());
                for _ in takes {
                    said.extend([short_text("position"), vec![0, 2]].concat());
                }
                for number in [4, 0] {
                    said.extend(i32::to_be_bytes(number));
                }
                Some((8, said))
            }
            // EXECUTE
            0x0a => {
                let length = body.short();
                let text = body.text(length);
                body.short();
                let flags = body.byte();
                let values = if flags & 1 != 0 {
                    body.values()
                } else {
                    Vec::new()
                };
                let rows = if flags & 4 != 0 {
                    body.int() as usize
                } else {
                    usize::MAX
                };
                let behind = (flags & 8 != 0).then(|| body.value());
                self.execute(&text, &values, rows, behind)
            }
            // BATCH
            0x0d => {
                assert_eq!(body.byte(), 1, "not logged");
                let mut writes = Vec::new();
                for _ in 0..body.short() {
                    assert_eq!(body.byte(), 1, "prepared");
                    let length = body.short();
                    writes.push((body.text(length), body.values()));
                }
                if self.slow {
                    self.held.extend(writes);
                    return None;
                }
                if writes.iter().any(|(_, values)| self.refuses(values)) {
                    return told(0x2200, "it is refused");
                }
                for (text, values) in writes {
                    self.write(&text, &values);
                }
                done
            }
            _ => told(0x000a, "an unknown request"),
        }
    }

    fn refuses(&self, values: &[Vec<u8>]) -> bool {
        self.refused.is_some_and(|word| {
            values
                .iter()
                .any(|value| String::from_utf8_lossy(value).contains(word))
        })
    }

    fn execute(
        &mut self,
        text: &str,
        values: &[Vec<u8>],
        most: usize,
        behind: Option<Vec<u8>>,
    ) -> Option<(u8, Vec<u8>)> {
        let word = |text: &str| text.as_bytes().to_vec();
        if text.contains("FROM system_schema.columns WHERE") {
            let columns: Vec<_> = match &values[1][..] {
                b"t" => self.columns.clone(),
                b"busbar_position" if !self.notes.is_empty() => {
                    let names = ["producer", "done", "position", "time", "rows", "content"];
                    names.map(|name| (name, "bigint", "regular")).to_vec()
                }
                _ => Vec::new(),
            };
            let rows = columns
                .into_iter()
                .map(|(name, kind, role)| vec![word(name), word(kind), word(role), word("0")]);
            let names = ["column_name", "type", "kind", "position"];
            return page(&names, &rows.collect::<Vec<_>>(), None);
        }
        if text.starts_with("SELECT done") {
            let names = ["#done", "#position", "#time", "#rows", "#content"];
            let note = self.notes.get(&values[0]).map(|(_, note)| note.clone());
            return page(&names, &note.into_iter().collect::<Vec<_>>(), None);
        }
        if text.starts_with("SELECT DISTINCT") {
            let rows = self.rows.keys().map(|note| vec![note.clone()]);
            return page(&["note"], &rows.collect::<Vec<_>>(), None);
        }
        if text.starts_with("select n from t") {
            let from = behind.as_ref().unwrap_or(&values[0]);
            let from = i64::from_be_bytes(from[..].try_into().expect("a number"));
            let mut rest = self.numbers.range(from + 1..);
            let rows: Vec<_> = rest
                .by_ref()
                .take(most)
                .map(|n| vec![n.to_be_bytes().to_vec()])
                .collect();
            if let Some(behind) = behind.as_ref().filter(|_| self.stuck) {
                return page(&["#n"], &rows, Some(behind));
            }
            let last = rows.last().map(|row| row[0].clone());
            return page(
                &["#n"],
                &rows,
                last.as_deref().filter(|_| rest.next().is_some()),
            );
        }
        if text.contains("\"busbar_position\"") {
            let time = i64::from_be_bytes(values[6][..].try_into().expect("a time"));
            let note = (time, values[1..6].to_vec());
            let known = self
                .notes
                .entry(values[0].clone())
                .or_insert_with(|| note.clone());
            if time > known.0 {
                *known = note;
            }
        } else if self.slow {
            self.held.push((text.to_owned(), values.to_vec()));
            return None;
        } else if self.refuses(values) {
            return told(0x2200, "it is refused");
        } else {
            self.write(text, values);
        }
        Some((8, 1_i32.to_be_bytes().to_vec()))
    }

    /// Of two writes of a row the later one counts; of two of one time a deletion, else the greater value.
    fn write(&mut self, text: &str, values: &[Vec<u8>]) {
        let time = |at: usize| i64::from_be_bytes(values[at][..].try_into().expect("a time"));
        let (note, new) = match text.starts_with("DELETE") {
            true => (&values[1], (time(0), None)),
            // Those of the key come first.
            false => (&values[0], (time(2), Some(values[1].clone()))),
        };
        let known = self.rows.entry(note.clone()).or_insert_with(|| new.clone());
        let rank = |(time, row): &(i64, Option<Vec<u8>>)| (*time, row.is_none(), row.clone());
        if rank(&new) > rank(known) {
            *known = new;
        }
    }
}

struct Kept(CassandraPeer);

impl Taker for Kept {
    fn connection(&self, _: &std::path::Path) -> String {
        self.0.connection("write: { table: t }")
    }
    fn rows(&mut self) -> Vec<String> {
        self.0.notes()
    }
    fn go_away(&mut self) {
        self.0.cut.cut();
    }
    fn come_back(&mut self) {
        self.0.cut.join();
    }
    fn refuse(&mut self, word: &'static str) -> Vec<u8> {
        self.0.store.lock().refused = Some(word);
        format!("{{\"n\":\"{word}\"}}").into_bytes()
    }
}

struct Selected(CassandraPeer);

impl Supply for Selected {
    fn connection(&self, _: &std::path::Path) -> String {
        let query = "query: { statement: 'select n from t where n > :position', position: n, start: '-1', every: 100ms, rows: 3 }";
        format!("{}topic: in/rows\n", self.0.connection(query))
    }
    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        self.0
            .store
            .lock()
            .numbers
            .extend(numbers.map(|n| n as i64));
    }
    fn topic(&self) -> &'static str {
        "in/rows"
    }
    fn exactly_once(&self) -> bool {
        false
    }
    fn go_away(&mut self) {
        self.0.cut.cut();
    }
    fn come_back(&mut self) {
        self.0.cut.join();
    }
}
