//! A stand-in for ClickHouse: rows in memory behind the statements that the connector sends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::peers::{Answer, Request, Web};
use crate::s3_peer::plain;
use crate::servers::Cut;
use crate::subjects::{Subject, Supply, Taker};

pub fn subject() -> Subject {
    Subject {
        kind: "clickhouse",
        good: vec![
            "clickhouse: { url: 'http://127.0.0.1:1', write: { table: t } }\n",
            "clickhouse: { url: 'https://127.0.0.1:1/ch', database: d, user: u, password: { env: P }, tls: { ca: ca.pem }, timeout: 5s, write: { table: t, positions: p } }\n",
            "clickhouse: { url: 'http://127.0.0.1:1', query: { statement: 'select * from t where id > {position:UInt64} order by id', position: id, start: '0', every: 1s, rows: 500 } }\ntopic: a/${connection}\n",
            "clickhouse: { url: 'http://127.0.0.1:1', query: { statement: 'select {position:Int8}', position: id, start: '0', at: '0 3 * * 1-5' } }\n",
            "clickhouse: { url: 'http://127.0.0.1:1' }\n",
        ],
        wrong: vec![
            ("clickhouse: { write: { table: t } }\n", "url"),
            (
                "clickhouse: { url: 'ftp://a', write: { table: t } }\n",
                "ftp://a",
            ),
            (
                "clickhouse: { url: 'http://a?user=u', write: { table: t } }\n",
                "http://a?user=u",
            ),
            (
                "clickhouse: { url: 'http://a', write: { table: t }, query: { statement: 'select {position:Int8}', position: id, start: '0' } }\n",
                "table",
            ),
            (
                "clickhouse: { url: 'http://a', query: { statement: 'select {position:Int8}', position: id, start: '0', at: '0 25 * * *' } }\n",
                "0 25 * * *",
            ),
            (
                "clickhouse: { url: 'http://a', query: { statement: 'select {position:Int8}', position: id, start: '0', at: '0 3 * * *', every: 1s } }\n",
                "0 3 * * *",
            ),
            (
                "clickhouse: { url: 'http://a', write: { table: d.t } }\n",
                "d.t",
            ),
            (
                "clickhouse: { url: 'http://a', write: { table: t, positions: '' } }\n",
                "''",
            ),
            (
                "clickhouse: { url: 'http://a', password: pp, write: { table: t } }\n",
                "pp",
            ),
            (
                "clickhouse: { url: 'http://a', user: u, password: '${P}', write: { table: t } }\n",
                "${P}",
            ),
            (
                "clickhouse: { url: 'http://a', query: { statement: select 1, position: id, start: '0' } }\n",
                "select 1",
            ),
            (
                "clickhouse: { url: 'http://a', query: { statement: 'select {position:Int8}', position: id, start: '0', rows: 1000000 } }\n",
                "1000000",
            ),
            (
                "clickhouse: { url: 'http://a', query: { statement: 'select {position:Int8}', position: id, start: '0', every: 1ms } }\n",
                "1ms",
            ),
            (
                "clickhouse: { url: 'http://a', query: { statement: 'select {position:Int8}', position: id, start: '0' } }\ntopic: a/${conection}\n",
                "conection",
            ),
            (
                "clickhouse: { url: 'http://a', timeout: 1h, write: { table: t } }\n",
                "1h",
            ),
        ],
        secret: vec![
            "clickhouse: { url: 'http://127.0.0.1:PORT', user: u, password: SECRET, write: { table: t } }\n",
        ],
        supply: Some(|| Box::new(Selected(ClickHousePeer::new()))),
        taker: Some(|| Box::new(Inserted(ClickHousePeer::new()))),
    }
}

/// A server that can be cut off, with one table, `t`.
pub struct ClickHousePeer {
    /// Answers as long as it is kept.
    _web: Web,
    pub cut: Cut,
    pub store: Arc<Mutex<Rows>>,
}

/// What it holds, and what it is to do.
pub struct Rows {
    /// Names and types of the table's columns.
    pub columns: Vec<(&'static str, &'static str)>,
    /// How the table is kept.
    pub engine: &'static str,
    /// Fields of the rows as they were sent.
    pub all: Vec<Vec<String>>,
    tokens: BTreeSet<String>,
    /// For each note: producer, refused rows, then start, done, position and number of rows.
    notes: Vec<(String, String, [u64; 4])>,
    /// Rows with this word are refused for good.
    pub refused: Option<&'static str>,
    /// Rows are kept back, as by a slow network, and who sends them hears nothing.
    pub slow: bool,
    held: Vec<Request>,
    /// Numbers that are read.
    pub numbers: BTreeSet<u64>,
    /// Whether they are read from the first one on, wherever that is to begin.
    pub repeats: bool,
    /// What is answered to statements of look-ups, calls and queries: lines of TabSeparated.
    pub said: BTreeMap<String, Vec<u8>>,
    /// Such statements as they came.
    pub asked: Vec<String>,
}

impl ClickHousePeer {
    pub fn new() -> ClickHousePeer {
        let store = Arc::new(Mutex::new(Rows {
            repeats: false,
            columns: vec![("n", "Int64"), ("note", "Nullable(String)")],
            engine: "ReplicatedMergeTree",
            all: Vec::new(),
            tokens: BTreeSet::new(),
            notes: Vec::new(),
            refused: None,
            slow: false,
            held: Vec::new(),
            numbers: BTreeSet::new(),
            said: BTreeMap::new(),
            asked: Vec::new(),
        }));
        let web = Web::new();
        let answering = Arc::clone(&store);
        web.answer(move |request| answering.lock().answer(request));
        ClickHousePeer {
            cut: Cut::before(web.port),
            _web: web,
            store,
        }
    }

    pub fn connection(&self, more: &str) -> String {
        format!(
            "clickhouse: {{ url: 'http://127.0.0.1:{}', user: me, password: secret, timeout: 20s, {more} }}\n",
            self.cut.port
        )
    }

    /// What was kept back arrives.
    pub fn let_through(&self) {
        let mut store = self.store.lock();
        store.slow = false;
        for request in std::mem::take(&mut store.held) {
            let _ = store.answer(&request);
        }
    }

    /// The last field of each row.
    pub fn notes(&self) -> Vec<String> {
        let store = self.store.lock();
        let last = store.all.iter().filter_map(|row| row.last().cloned());
        last.collect()
    }
}

impl Rows {
    fn answer(&mut self, request: &Request) -> Answer {
        if request.headers.get("x-clickhouse-key").map(String::as_str) != Some("secret") {
            return told(516, "wrong password");
        }
        let (_, query) = request.path.split_once('?').expect("a query");
        let query: BTreeMap<_, _> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name, plain(value)))
            .collect();
        assert_eq!(query["wait_end_of_query"], "1");
        let body = request.text();
        let statement = query.get("query").unwrap_or(&body);
        let said = |text: String| Some((200, "", text.into_bytes()));
        if statement.contains("FROM system.tables WHERE database = currentDatabase() AND") {
            let (name, _) = self.engine.split_once(' ').unwrap_or((self.engine, ""));
            return said(format!(
                "{{\"engine\":\"{name}\",\"create_table_query\":\"CREATE TABLE t ENGINE = {}\"}}\n",
                self.engine
            ));
        }
        if statement.contains("FROM system.columns") {
            let mut text = String::new();
            for (name, kind) in &self.columns {
                let _ = writeln!(
                    text,
                    "{{\"database\":\"default\",\"name\":\"{name}\",\"type\":\"{kind}\"}}"
                );
            }
            return said(text);
        }
        if query.get("default_format").map(String::as_str) == Some("TabSeparatedWithNamesAndTypes")
        {
            assert_eq!(query["date_time_output_format"], "iso");
            self.asked.push(statement.clone());
            if statement.starts_with("INSERT") {
                let summary =
                    "X-ClickHouse-Summary: {\"read_rows\":\"0\",\"written_rows\":\"3\"}\r\n";
                return Some((200, summary, Vec::new()));
            }
            return match self.said.get(statement) {
                Some(said) => Some((200, "", said.clone())),
                None => told(62, "Syntax error"),
            };
        }
        if statement.starts_with("CREATE TABLE IF NOT EXISTS") {
            return said(String::new());
        }
        if statement.starts_with("SELECT start, done, position") {
            let of = &query["param_producer"];
            let notes = self.notes.iter().filter(|(producer, ..)| producer == of);
            let last =
                notes.max_by_key(|(_, _, [start, done, position, _])| (start, done + position));
            return said(last.map_or_else(String::new, |(_, refused, [start, done, position, rows])| {
                format!(
                    "{{\"start\":{start},\"done\":{done},\"position\":{position},\"rows\":{rows},\"refused\":{refused}}}\n"
                )
            }));
        }
        if statement.starts_with("INSERT INTO `busbar_position`") {
            self.note(statement);
            return said(String::new());
        }
        if statement.starts_with("INSERT INTO `t`") {
            if self.slow {
                self.held.push(request.clone());
                return None;
            }
            if self.refused.is_some_and(|word| body.contains(word)) {
                return told(27, "Cannot parse input");
            }
            let (_, token) = statement
                .split_once("insert_deduplication_token = '")
                .expect("a token");
            let (token, _) = token.split_once('\'').expect("its end");
            if self.tokens.insert(token.to_owned()) {
                let rows = body.lines().map(|line| line.split('\t'));
                let rows = rows.map(|row| row.map(|field| field.replace("\\\\", "\\")).collect());
                self.all.extend(rows);
            }
            return said(String::new());
        }
        if let Some((_, limit)) = statement.split_once("SETTINGS limit = ") {
            let limit: String = limit.chars().take_while(char::is_ascii_digit).collect();
            let limit = limit.parse().expect("a number");
            let from: i64 = query["param_position"].parse().expect("a number");
            let from = if self.repeats { -1 } else { from };
            let rows = self.numbers.iter().filter(|n| **n as i64 > from);
            let mut text = String::new();
            for n in rows.take(limit) {
                let _ = writeln!(text, "{{\"n\":{n}}}");
            }
            return said(text);
        }
        told(62, "Syntax error")
    }
}

impl Rows {
    /// Keeps a note, also one that a person writes.
    pub fn note(&mut self, statement: &str) {
        let (_, values) = statement.split_once(" VALUES ('").expect("values");
        let (producer, values) = values.split_once("', ").expect("a producer");
        let values = values.strip_suffix("')").expect("the end");
        let (numbers, refused) = values.split_once(", '").expect("what is refused");
        let numbers: Vec<u64> = numbers
            .split(", ")
            .map(|number| number.parse().expect("a number"))
            .collect();
        let refused = refused.replace("\\'", "'").replace("\\\\", "\\");
        let refused = serde_json::to_string(&refused).expect("a text");
        let numbers = numbers.try_into().expect("four numbers");
        self.notes.push((producer.to_owned(), refused, numbers));
    }
}

fn told(number: u32, why: &str) -> Answer {
    let text = format!("Code: {number}. DB::Exception: {why}. (NAME) (version 26.1)");
    Some((500, "", text.into_bytes()))
}

struct Inserted(ClickHousePeer);

impl Taker for Inserted {
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

struct Selected(ClickHousePeer);

impl Supply for Selected {
    fn connection(&self, _: &std::path::Path) -> String {
        let statement = "select n from t where n > {position:Int64} order by n";
        let query = format!(
            "query: {{ statement: '{statement}', position: n, start: '-1', every: 100ms }}"
        );
        format!("{}topic: in/rows\n", self.0.connection(&query))
    }
    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        self.0.store.lock().numbers.extend(numbers);
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
