//! A stand-in for S3: objects in memory behind the part of its interface that the connector uses.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::peers::{Answer, Request, Web};
use crate::servers::Cut;
use crate::subjects::{Subject, Supply, Taker};

pub fn subject() -> Subject {
    Subject {
        kind: "s3",
        good: vec![
            "s3: { url: 'http://127.0.0.1:1', bucket: b, write: { prefix: a/ } }\n",
            "s3: { url: 'https://127.0.0.1:1/s3', bucket: b, region: eu-central-1, access_key: { env: A }, secret_key: { env: S }, tls: { ca: ca.pem }, timeout: 5s, write: { prefix: a/b/ } }\n",
            "s3: { url: 'http://127.0.0.1:1', bucket: b, read: { prefix: a/, every: 5s } }\ntopic: a/${key}\n",
        ],
        wrong: vec![
            ("s3: { bucket: b, write: { prefix: a/ } }\n", "url"),
            (
                "s3: { url: 'ftp://a', bucket: b, write: { prefix: a/ } }\n",
                "ftp://a",
            ),
            (
                "s3: { url: 'http://a?x=y', bucket: b, write: { prefix: a/ } }\n",
                "http://a?x=y",
            ),
            ("s3: { url: 'http://a', write: { prefix: a/ } }\n", "bucket"),
            (
                "s3: { url: 'http://a', bucket: b/c, write: { prefix: a/ } }\n",
                "b/c",
            ),
            ("s3: { url: 'http://a', bucket: b }\n", "write"),
            (
                "s3: { url: 'http://a', bucket: b, write: { prefix: alarms } }\n",
                "alarms",
            ),
            (
                "s3: { url: 'http://a', bucket: b, write: { prefix: /a/ } }\n",
                "/a/",
            ),
            (
                "s3: { url: 'http://a', bucket: b, secret_key: ss, write: { prefix: a/ } }\n",
                "ss",
            ),
            (
                "s3: { url: 'http://a', bucket: b, access_key: aa, write: { prefix: a/ } }\n",
                "aa",
            ),
            (
                "s3: { url: 'http://a', bucket: b, access_key: a, secret_key: '${S}', write: { prefix: a/ } }\n",
                "${S}",
            ),
            (
                "s3: { url: 'http://a', bucket: b, read: { every: 0s } }\n",
                "0s",
            ),
            (
                "s3: { url: 'http://a', bucket: b, read: {} }\ntopic: a/${kee}\n",
                "kee",
            ),
            (
                "s3: { url: 'http://a', bucket: b, timeout: 1h, read: {} }\n",
                "1h",
            ),
        ],
        secret: vec![
            "s3: { url: 'http://127.0.0.1:PORT', bucket: b, access_key: a, secret_key: SECRET, write: { prefix: a/ } }\n",
        ],
        supply: Some(|| Box::new(Listed(S3Peer::new()))),
        taker: Some(|| Box::new(Kept(S3Peer::new()))),
    }
}

/// A service that can be cut off, with one bucket, `b`.
pub struct S3Peer {
    web: Web,
    pub cut: Cut,
    pub store: Arc<Mutex<Objects>>,
}

/// What a list does otherwise than it should.
#[derive(Clone, Copy, Debug)]
pub enum ListLie {
    /// It begins at the first key, wherever it is to start.
    FromTheStart,
    /// It has keys with another beginning.
    AnyPrefix,
    /// Its keys descend.
    Descending,
    /// It has more, and never says what.
    EmptyAndMore,
    /// It has nothing of what is there.
    Empty,
}

#[derive(Default)]
pub struct Objects {
    pub all: BTreeMap<String, Vec<u8>>,
    /// What objects say of themselves: position and writer.
    pub marks: BTreeMap<String, [String; 2]>,
    /// Objects in one list; as many as are asked for without it.
    pub page: Option<usize>,
    /// Objects with rows are kept back, as by a slow network, and who puts them hears nothing.
    pub slow: bool,
    /// Those that are kept back.
    held: Vec<Request>,
    /// Whether objects are replaced in spite of If-None-Match.
    pub careless: bool,
    /// What lists do otherwise than they should.
    pub list_lie: Option<ListLie>,
}

impl S3Peer {
    pub fn new() -> S3Peer {
        let store = Arc::new(Mutex::new(Objects::default()));
        let web = Web::new();
        let answering = Arc::clone(&store);
        web.answer(move |request| answering.lock().answer(request));
        S3Peer {
            cut: Cut::before(web.port),
            web,
            store,
        }
    }

    pub fn connection(&self, more: &str) -> String {
        format!(
            "s3: {{ url: 'http://127.0.0.1:{}', bucket: b, access_key: me, secret_key: secret, timeout: 20s, {more} }}\n",
            self.cut.port
        )
    }

    pub fn put(&self, key: &str, body: &str) {
        self.store.lock().all.insert(key.to_owned(), body.into());
    }

    /// An object that reaches to a position.
    pub fn put_marked(&self, key: &str, position: u64) {
        let mark = [position.to_string(), "other".to_owned()];
        self.store.lock().marks.insert(key.to_owned(), mark);
        self.put(key, "");
    }

    pub fn requests(&self) -> Vec<Request> {
        self.web.requests()
    }

    /// What was kept back arrives.
    pub fn let_through(&self) {
        let mut store = self.store.lock();
        store.slow = false;
        for request in std::mem::take(&mut store.held) {
            let _ = store.answer(&request);
        }
    }

    /// The lines of all objects, in the order of their keys.
    pub fn lines(&self) -> Vec<String> {
        let store = self.store.lock();
        let texts = store.all.values().map(|body| String::from_utf8_lossy(body));
        texts
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }
}

impl Objects {
    fn answer(&mut self, request: &Request) -> Answer {
        let signed = request.headers.get("authorization");
        let signed = signed.is_some_and(|text| text.starts_with("AWS4-HMAC-SHA256 Credential=me/"));
        if !signed || !request.headers.contains_key("x-amz-content-sha256") {
            return told(403, "AccessDenied");
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let key = plain(path.strip_prefix("/b").unwrap_or_default());
        let key = key.trim_start_matches('/');
        match (request.method.as_str(), key) {
            ("GET", "") => Some((200, "", self.list(query).into_bytes())),
            ("PUT", _) if self.slow && !request.body.is_empty() => {
                self.held.push(request.clone());
                None
            }
            ("PUT", key) => {
                let only_new = request.headers.get("if-none-match");
                let only_new = only_new.is_some_and(|which| which == "*") && !self.careless;
                if only_new && self.all.contains_key(key) {
                    return told(412, "PreconditionFailed");
                }
                let mark = ["position", "writer"].map(|name| {
                    let name = format!("x-amz-meta-busbar-{name}");
                    let signed = &request.headers["authorization"];
                    assert!(signed.contains(&format!(";{name}")), "{signed}");
                    request.headers[&name].clone()
                });
                self.marks.insert(key.to_owned(), mark);
                self.all.insert(key.to_owned(), request.body.clone());
                Some((200, "", Vec::new()))
            }
            ("HEAD", key) => match (self.all.contains_key(key), self.marks.get(key)) {
                (false, _) => Some((404, "", Vec::new())),
                (true, None) => Some((200, "", Vec::new())),
                (true, Some([position, writer])) => {
                    let mark = format!(
                        "x-amz-meta-busbar-position: {position}\r\nx-amz-meta-busbar-writer: {writer}\r\n"
                    );
                    Some((200, mark.leak(), Vec::new()))
                }
            },
            ("GET", key) => {
                let Some(body) = self.all.get(key) else {
                    return told(404, "NoSuchKey");
                };
                if request.headers["if-match"] != etag(body) {
                    return told(412, "PreconditionFailed");
                }
                let range = request.headers["range"].trim_start_matches("bytes=");
                let (from, last) = range.split_once('-').expect("a range");
                let from: usize = from.parse().expect("a number");
                let last: usize = last.parse().expect("a number");
                Some((206, "", body[from..=last].to_vec()))
            }
            _ => told(405, "MethodNotAllowed"),
        }
    }

    fn list(&self, query: &str) -> String {
        let query: BTreeMap<_, _> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name, plain(value)))
            .collect();
        let (prefix, after) = (&query["prefix"], query.get("start-after"));
        let flat = query.contains_key("delimiter");
        let most = query["max-keys"].parse().expect("a number");
        let most = self.page.unwrap_or(most);
        let found = self.all.iter().filter(|(key, _)| {
            let any_prefix = matches!(self.list_lie, Some(ListLie::AnyPrefix));
            let from_the_start = matches!(self.list_lie, Some(ListLie::FromTheStart));
            let is_behind = from_the_start || after.is_none_or(|after| *key > after);
            let rest = key.strip_prefix(prefix.as_str());
            is_behind && rest.map_or(any_prefix, |rest| !(flat && rest.contains('/')))
        });
        let mut found: Vec<_> = found.collect();
        match self.list_lie {
            Some(ListLie::Descending) => found.reverse(),
            Some(ListLie::EmptyAndMore | ListLie::Empty) => found.clear(),
            _ => {}
        }
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><IsTruncated>{}</IsTruncated>",
            found.len() > most || matches!(self.list_lie, Some(ListLie::EmptyAndMore))
        );
        for (key, body) in found.into_iter().take(most) {
            let key = key.replace('&', "&amp;").replace('<', "&lt;");
            let _ = write!(
                text,
                "<Contents><Key>{key}</Key><ETag>{}</ETag><Size>{}</Size></Contents>",
                etag(body).replace('"', "&quot;"),
                body.len()
            );
        }
        text + "</ListBucketResult>"
    }
}

fn told(status: u16, code: &str) -> Answer {
    let body = format!("<Error><Code>{code}</Code><Message>as the test says</Message></Error>");
    Some((status, "", body.into_bytes()))
}

fn etag(body: &[u8]) -> String {
    let sum = body.iter().fold(body.len() as u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    format!("\"{sum:x}\"")
}

/// Without percent-encoding.
pub fn plain(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let code = (*first == b'%').then(|| {
            let digits = std::str::from_utf8(&behind[..2]).expect("two digits");
            u8::from_str_radix(digits, 16).expect("digits")
        });
        bytes.push(code.unwrap_or(*first));
        rest = &behind[if code.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8(bytes).expect("a text")
}

struct Kept(S3Peer);

impl Taker for Kept {
    fn connection(&self, _: &std::path::Path) -> String {
        self.0.connection("write: { prefix: out/ }")
    }
    fn rows(&mut self) -> Vec<String> {
        self.0.lines()
    }
    fn go_away(&mut self) {
        self.0.cut.cut();
    }
    fn come_back(&mut self) {
        self.0.cut.join();
    }
    fn refuse(&mut self, _: &'static str) -> Vec<u8> {
        b"\xff\xfe".to_vec()
    }
}

struct Listed(S3Peer);

impl Supply for Listed {
    fn connection(&self, _: &std::path::Path) -> String {
        let read = "read: { prefix: in/, every: 100ms }";
        format!("{}topic: in/objects\n", self.0.connection(read))
    }
    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        let key = format!("in/{:010} &<ü>.ndjson", numbers.start);
        let lines = numbers.map(|n| format!("{{\"n\":{n}}}\n"));
        self.0.put(&key, &lines.collect::<String>());
    }
    fn topic(&self) -> &'static str {
        "in/objects"
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
