//! A stand-in for Elasticsearch: documents in memory behind the part of its interface that the connector uses.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::peers::{Answer, Request, Web};
use crate::servers::Cut;
use crate::subjects::{Subject, Supply, Taker};

pub fn subject() -> Subject {
    Subject {
        kind: "elasticsearch",
        good: vec![
            "elasticsearch: { url: 'http://127.0.0.1:1', write: { index: 'a-${site}', id: '${id}' } }\n",
            "elasticsearch: { url: 'https://127.0.0.1:1/es', user: u, password: { env: P }, tls: { ca: ca.pem }, timeout: 5s, write: { index: a, id: '${id}', change: c, unchanged: k } }\n",
            "elasticsearch: { url: 'http://127.0.0.1:1', api_key: { env: K }, write: { index: a, id: '${id}', version: v } }\n",
            "elasticsearch: { url: 'http://127.0.0.1:1', read: { index: 'logs-*', sort: ['@timestamp', id], query: '{\"match_all\":{}}', settle: 10s, every: 1s, rows: 500 } }\ntopic: a/${index}\n",
            "elasticsearch: { url: 'http://127.0.0.1:1', tables: { p: { index: a, key: [_id], columns: [{ name: _id, type: text }, { name: a.b, type: json }] } } }\n",
        ],
        wrong: vec![
            (
                "elasticsearch: { write: { index: a, id: '${id}' } }\n",
                "url",
            ),
            (
                "elasticsearch: { url: 'ftp://a', write: { index: a, id: '${id}' } }\n",
                "ftp://a",
            ),
            ("elasticsearch: { url: 'http://a' }\n", "write"),
            (
                "elasticsearch: { url: 'http://a', tables: { p: { index: a, key: [], columns: [] } } }\n",
                "of the type text, int or bool",
            ),
            (
                "elasticsearch: { url: 'http://a', tables: { p: { index: a, key: [w], columns: [{ name: w, type: float }] } } }\n",
                "of the type text, int or bool",
            ),
            (
                "elasticsearch: { url: 'http://a', tables: { p: { index: a/b, key: [w], columns: [{ name: w, type: text }] } } }\n",
                "a/b",
            ),
            (
                "elasticsearch: { url: 'http://a', tables: { p: { index: a, key: [_id], columns: [{ name: _id, type: int }] } } }\n",
                "_id",
            ),
            (
                "elasticsearch: { url: 'http://a', write: { index: a, id: same } }\n",
                "same",
            ),
            (
                "elasticsearch: { url: 'http://a', write: { index: 'a*', id: '${id}' } }\n",
                "a*",
            ),
            (
                "elasticsearch: { url: 'http://a', write: { index: 'a-${b}', id: '${id}', change: c } }\n",
                "a-${b}",
            ),
            (
                "elasticsearch: { url: 'http://a', write: { index: a, id: '${id}', mode: merge, change: c } }\n",
                "merge",
            ),
            (
                "elasticsearch: { url: 'http://a', write: { index: a, id: '${id}', mode: upsert } }\n",
                "upsert",
            ),
            (
                "elasticsearch: { url: 'http://a', write: { index: a, id: '${id}', mode: merge, version: vv } }\n",
                "vv",
            ),
            (
                "elasticsearch: { url: 'http://a', write: { index: a, id: '${id}', unchanged: un } }\n",
                "un",
            ),
            (
                "elasticsearch: { url: 'http://a', password: pp, write: { index: a, id: '${id}' } }\n",
                "pp",
            ),
            (
                "elasticsearch: { url: 'http://a', user: u, api_key: kk, write: { index: a, id: '${id}' } }\n",
                "kk",
            ),
            (
                "elasticsearch: { url: 'http://a', user: u, password: '${P}', write: { index: a, id: '${id}' } }\n",
                "${P}",
            ),
            (
                "elasticsearch: { url: 'http://a', read: { index: a, sort: [] } }\n",
                "sort",
            ),
            (
                "elasticsearch: { url: 'http://a', read: { index: a, sort: [b, b] } }\n",
                "sort",
            ),
            (
                "elasticsearch: { url: 'http://a', read: { index: a, sort: [b], query: 'site: north' } }\n",
                "site: north",
            ),
            (
                "elasticsearch: { url: 'http://a', read: { index: a, sort: [b], rows: 10000 } }\n",
                "10000",
            ),
            (
                "elasticsearch: { url: 'http://a', read: { index: a, sort: [b], every: 1ms } }\n",
                "1ms",
            ),
            (
                "elasticsearch: { url: 'http://a', read: { index: a, sort: [b] } }\ntopic: a/${indx}\n",
                "indx",
            ),
            (
                "elasticsearch: { url: 'http://a', timeout: 1h, write: { index: a, id: '${id}' } }\n",
                "1h",
            ),
        ],
        secret: vec![
            "elasticsearch: { url: 'http://127.0.0.1:PORT', user: u, password: SECRET, write: { index: a, id: '${n}' } }\n",
            "elasticsearch: { url: 'http://127.0.0.1:PORT', api_key: SECRET, write: { index: a, id: '${n}' } }\n",
        ],
        supply: Some(|| Box::new(Searched(Peer::new()))),
        taker: Some(|| Box::new(Indexed(Peer::new()))),
    }
}

/// A server that can be cut off.
pub struct Peer {
    web: Web,
    pub cut: Cut,
    pub store: Arc<Mutex<Store>>,
}

/// What it holds, and what it is to do.
#[derive(Default)]
pub struct Store {
    /// By index and id.
    pub documents: BTreeMap<(String, String), Value>,
    versions: BTreeMap<(String, String), i64>,
    /// Each document that was written, in order.
    pub written: Vec<Value>,
    /// Rows with this word are refused for good.
    refused: Option<&'static str>,
    /// How often a row with this word is refused for now.
    pub busy: Option<(&'static str, usize)>,
    /// Bytes of a request that are taken.
    pub most: Option<usize>,
    /// Bytes that an answer to a search gets in addition for each document.
    pub padding: usize,
    /// How many searches are answered without one of the shards.
    pub partial: usize,
    /// Whether pages begin at the first document again, whatever they are to begin behind.
    pub repeats: bool,
    /// The fields that an index is said to have, each with its types.
    pub fields: Value,
    scrolls: BTreeMap<String, Vec<(String, Value)>>,
}

impl Peer {
    pub fn new() -> Peer {
        let store = Arc::new(Mutex::new(Store::default()));
        let web = Web::new();
        let answering = Arc::clone(&store);
        web.answer(move |request| answering.lock().answer(request));
        Peer {
            cut: Cut::before(web.port),
            web,
            store,
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.cut.port)
    }

    /// The bodies of the requests whose path begins so.
    pub fn bodies(&self, path: &str) -> Vec<String> {
        let requests = self.web.requests();
        let those = requests
            .iter()
            .filter(|request| request.path.starts_with(path));
        those.map(Request::text).collect()
    }

    /// The fields of a document.
    pub fn document(&self, index: &str, id: &str) -> Option<Value> {
        let key = (index.to_owned(), id.to_owned());
        self.store.lock().documents.get(&key).cloned()
    }
}

impl Store {
    fn answer(&mut self, request: &Request) -> Answer {
        let path = request.path.split('?').next().unwrap_or_default();
        let (status, body) = match path {
            "/" => (200, json!({ "version": { "number": "8.19.0" } })),
            "/_bulk" => self.bulk(request),
            "/_mapping" => (
                200,
                json!({ "a": { "mappings": { "properties": {
                    "name": { "type": "text" }, "at": { "properties": { "x": { "type": "long" } } } } } },
                    ".own": {} }),
            ),
            path if path.ends_with("/_refresh") => (200, json!({})),
            path if path.ends_with("/_delete_by_query") => {
                let index = path.split('/').nth(1).unwrap_or_default();
                self.documents.retain(|(of, _), _| of != index);
                (200, json!({ "version_conflicts": 0, "failures": [] }))
            }
            path if path.ends_with("/_search") && self.partial > 0 => {
                self.partial -= 1;
                (
                    200,
                    json!({ "_shards": { "failed": 1 }, "hits": { "hits": [] } }),
                )
            }
            "/_search/scroll" if request.method == "DELETE" => {
                self.scrolls.clear();
                (200, json!({}))
            }
            "/_search/scroll" => {
                let asked: Value = serde_json::from_slice(&request.body).expect("JSON");
                let id = asked["scroll_id"].as_str().expect("an id").to_owned();
                self.scroll(&id)
            }
            path if path.ends_with("/_search") && request.path.contains("scroll=") => {
                let index = path.split('/').nth(1).unwrap_or_default().to_owned();
                let all = self.documents.iter().filter(|((of, _), _)| *of == index);
                let all = all.map(|((_, id), document)| (id.clone(), document.clone()));
                let id = format!("scroll {}", self.scrolls.len());
                self.scrolls.insert(id.clone(), all.collect());
                self.scroll(&id)
            }
            path if path.ends_with("/_search")
                && request.text().contains("\"filter\":[{\"terms\"")
                || path.ends_with("/_search") && request.text().contains("\"should\"") =>
            {
                let asked: Value = serde_json::from_slice(&request.body).expect("JSON");
                let index = path.split('/').nth(1).unwrap_or_default();
                let size = usize::try_from(asked["size"].as_u64().expect("a size")).expect("small");
                let all = self
                    .documents
                    .iter()
                    .filter(|((of, _), document)| of == index && fits(&asked["query"], document));
                let hits = all.take(size).map(|((index, id), document)| {
                    json!({ "_index": index, "_id": id, "_source": document, "padding": "x".repeat(self.padding) })
                });
                let hits: Vec<_> = hits.collect();
                (
                    200,
                    json!({ "_shards": { "failed": 0 }, "hits": { "hits": hits } }),
                )
            }
            path if path.ends_with("/_search") => self.search(request),
            path if path.ends_with("/_mget") => {
                let asked: Value = serde_json::from_slice(&request.body).expect("JSON");
                let index = path.split('/').nth(1).unwrap_or_default();
                let ids = asked["ids"].as_array().expect("ids").iter();
                let docs = ids.map(|id| {
                    let key = (index.to_owned(), id.as_str().expect("an id").to_owned());
                    match self.documents.get(&key) {
                        Some(document) => json!({ "_id": id, "found": true, "_source": document, "padding": "x".repeat(self.padding) }),
                        None => json!({ "_id": id, "found": false }),
                    }
                });
                let docs: Vec<_> = docs.collect();
                (200, json!({ "docs": docs }))
            }
            path if path.ends_with("/_field_caps") => (200, json!({ "fields": self.fields })),
            path if path.starts_with("/_cat/indices") => {
                (200, json!([{ "index": "a", "docs.count": "3" }]))
            }
            _ => (
                400,
                json!({ "error": format!("no handler found for {path}") }),
            ),
        };
        let more = "Content-Type: application/json\r\n";
        Some((status, more, body.to_string().into_bytes()))
    }

    fn bulk(&mut self, request: &Request) -> (u16, Value) {
        if self.most.is_some_and(|most| request.body.len() > most) {
            return (413, json!({}));
        }
        assert_eq!(request.headers["content-type"], "application/x-ndjson");
        let text = request.text();
        assert!(text.ends_with('\n'), "{text}");
        let mut lines = text.lines();
        let mut items = Vec::new();
        while let Some(head) = lines.next() {
            let head: Value = serde_json::from_str(head).expect("an action");
            let (verb, meta) = head
                .as_object()
                .and_then(|o| o.iter().next())
                .expect("a verb");
            let body = match verb.as_str() {
                "delete" => Value::Null,
                _ => serde_json::from_str(lines.next().expect("a document")).expect("JSON"),
            };
            let (status, error) = self.act(verb, meta, &body);
            let mut item = json!({ "status": status });
            if let Some(error) = error {
                item["error"] = json!({ "type": error, "reason": "as the test says" });
            }
            items.push(json!({ verb.as_str(): item }));
        }
        (200, json!({ "errors": true, "items": items }))
    }

    fn act(&mut self, verb: &str, meta: &Value, body: &Value) -> (u16, Option<&'static str>) {
        let text = |name: &str| meta[name].as_str().expect("a text").to_owned();
        let key = (text("_index"), text("_id"));
        let shown = format!("{}{body}", key.1);
        if self.refused.is_some_and(|word| shown.contains(word)) {
            return (400, Some("document_parsing_exception"));
        }
        if let Some((word, left)) = &mut self.busy
            && *left > 0
            && shown.contains(*word)
        {
            *left -= 1;
            return (429, Some("es_rejected_execution_exception"));
        }
        if let Some(version) = meta["version"].as_i64() {
            if self
                .versions
                .get(&key)
                .is_some_and(|known| *known > version)
            {
                return (409, Some("version_conflict_engine_exception"));
            }
            self.versions.insert(key.clone(), version);
        }
        match verb {
            "delete" => match self.documents.remove(&key) {
                Some(_) => (200, None),
                None => (404, None),
            },
            "create" if self.documents.contains_key(&key) => {
                (409, Some("version_conflict_engine_exception"))
            }
            "update" => {
                assert_eq!(body["doc_as_upsert"], true);
                let document = self.documents.entry(key).or_insert_with(|| json!({}));
                for (name, value) in body["doc"].as_object().expect("fields") {
                    document[name] = value.clone();
                }
                (200, None)
            }
            _ => {
                self.written.push(body.clone());
                self.documents.insert(key, body.clone());
                (201, None)
            }
        }
    }

    /// The next two documents.
    fn scroll(&mut self, id: &str) -> (u16, Value) {
        let left = self.scrolls.get_mut(id).expect("it is known");
        let mut page = left.clone();
        page.truncate(2);
        if !self.repeats {
            left.drain(..page.len());
        }
        let hits = page
            .into_iter()
            .map(|(id, document)| json!({ "_index": "docs", "_id": id, "_source": document }));
        let hits: Vec<_> = hits.collect();
        (200, json!({ "_scroll_id": id, "hits": { "hits": hits } }))
    }

    /// Those behind the last one, by the number in the first field.
    fn search(&mut self, request: &Request) -> (u16, Value) {
        let search: Value = serde_json::from_slice(&request.body).expect("JSON");
        let index = request.path.split('/').nth(1).unwrap_or_default();
        let field = search["sort"][0].as_object().expect("a field");
        let field = field.keys().next().expect("a field").clone();
        let after = search["search_after"][0].as_i64().filter(|_| !self.repeats);
        let after = after.unwrap_or(i64::MIN);
        let mut found: Vec<_> = self
            .documents
            .iter()
            .filter(|((of, _), document)| {
                of == index && document[&field].as_i64().is_none_or(|n| n > after)
            })
            .collect();
        found.sort_by_key(|(_, document)| document[&field].as_i64());
        let size = usize::try_from(search["size"].as_u64().expect("a size")).expect("small");
        let padding = "x".repeat(self.padding);
        let hits = found.into_iter().take(size).map(|((index, id), document)| {
            json!({ "_index": index, "_id": id, "_source": document, "sort": [document[&field]], "padding": padding })
        });
        let hits: Vec<_> = hits.collect();
        (
            200,
            json!({ "_shards": { "failed": 0 }, "hits": { "hits": hits } }),
        )
    }
}

/// Whether a document fits a query of terms, as fields of the type `keyword` do.
fn fits(query: &Value, document: &Value) -> bool {
    let (kind, of) = query
        .as_object()
        .and_then(|o| o.iter().next())
        .expect("a query");
    let has = |name: &str, value: &Value| {
        let name = name.trim_end_matches(".keyword");
        let found = name.split('.').fold(document, |object, part| &object[part]);
        match found {
            Value::Array(values) => values.contains(value),
            found => found == value,
        }
    };
    let field = || {
        of.as_object()
            .and_then(|o| o.iter().next())
            .expect("a field")
    };
    match kind.as_str() {
        "term" => has(field().0, field().1),
        "terms" => {
            let (name, values) = field();
            values
                .as_array()
                .expect("values")
                .iter()
                .any(|value| has(name, value))
        }
        _ => {
            let all = of["filter"].as_array();
            let one = of["should"].as_array();
            all.is_none_or(|all| all.iter().all(|query| fits(query, document)))
                && one.is_none_or(|one| one.iter().any(|query| fits(query, document)))
        }
    }
}

struct Indexed(Peer);

impl Taker for Indexed {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "elasticsearch: {{ url: '{}', timeout: 20s, write: {{ index: rows, id: '${{note}}' }} }}\n",
            self.0.url()
        )
    }
    fn rows(&mut self) -> Vec<String> {
        let store = self.0.store.lock();
        let rows = store
            .written
            .iter()
            .map(|row| row["note"].as_str().expect("a note"));
        rows.map(str::to_owned).collect()
    }
    fn go_away(&mut self) {
        self.0.cut.cut();
    }
    fn come_back(&mut self) {
        self.0.cut.join();
    }
    fn refuse(&mut self, word: &'static str) -> Vec<u8> {
        self.0.store.lock().refused = Some(word);
        format!("{{\"bad\":\"{word}\"}}").into_bytes()
    }
}

struct Searched(Peer);

impl Supply for Searched {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "elasticsearch: {{ url: '{}', timeout: 20s, read: {{ index: docs, sort: [n], settle: 0s, every: 100ms, rows: 100 }} }}\ntopic: in/docs\n",
            self.0.url()
        )
    }
    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        let mut store = self.0.store.lock();
        for n in numbers {
            let key = ("docs".to_owned(), n.to_string());
            store.documents.insert(key, json!({ "n": n }));
        }
    }
    fn topic(&self) -> &'static str {
        "in/docs"
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
