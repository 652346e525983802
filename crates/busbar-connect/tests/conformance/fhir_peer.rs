//! A stand-in for a FHIR server: resources in memory behind the part of its interface that the connector uses.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::peers::{Answer, Request, Web};
use crate::servers::Cut;
use crate::subjects::{Subject, Supply, Taker};

pub fn subject() -> Subject {
    Subject {
        kind: "fhir",
        good: vec![
            "fhir: { url: 'http://127.0.0.1:1/fhir' }\n",
            "fhir: { url: 'https://127.0.0.1:1/fhir', headers: { Authorization: { env: A } }, tls: { ca: ca.pem }, timeout: 5s, write: { } }\n",
            "fhir: { url: 'http://a/fhir', write: { type: Patient, id: '${pid}', if_match: v, change: c, bundle: transaction, resource: { 'name[0].family': f } } }\n",
            "fhir: { url: 'http://a/fhir', write: { type: Patient, match: 'identifier=urn:his|${pid}', mode: create, change: c } }\n",
            "fhir: { url: 'http://a/fhir', read: { types: [Patient, Encounter], query: 'active=true', start: '2026-03-01T00:00:00Z', settle: 0s, every: 1s, rows: 50 } }\ntopic: a/${type}/${change}\n",
            "fhir: { url: 'http://a/fhir', read: { types: [Patient], by: history } }\n",
        ],
        wrong: vec![
            ("fhir: { write: {} }\n", "url"),
            ("fhir: { url: 'ftp://a' }\n", "ftp://a"),
            ("fhir: { url: 'http://a/fhir?x=1' }\n", "http://a/fhir?x=1"),
            ("fhir: { url: 'http://a', timeout: 1h }\n", "1h"),
            (
                "fhir: { url: 'http://a', read: { types: [Patient] }, write: {} }\n",
                "{",
            ),
            ("fhir: { url: 'http://a', read: { types: [] } }\n", "["),
            (
                "fhir: { url: 'http://a', read: { types: [Patent] } }\n",
                "Patent",
            ),
            (
                "fhir: { url: 'http://a', read: { types: [Patient], query: 'a=b c' } }\n",
                "a=b c",
            ),
            (
                "fhir: { url: 'http://a', read: { types: [Patient], by: history, query: 'a=b' } }\n",
                "a=b",
            ),
            (
                "fhir: { url: 'http://a', read: { types: [Patient], start: yesterday } }\n",
                "yesterday",
            ),
            (
                "fhir: { url: 'http://a', read: { types: [Patient], every: 1ms } }\n",
                "1ms",
            ),
            (
                "fhir: { url: 'http://a', read: { types: [Patient], rows: 9999 } }\n",
                "9999",
            ),
            (
                "fhir: { url: 'http://a', read: { types: [Patient] } }\ntopic: a/${typ}\n",
                "typ",
            ),
            ("fhir: { url: 'http://a', write: { id: same } }\n", "same"),
            (
                "fhir: { url: 'http://a', write: { type: Patent, id: '${a}' } }\n",
                "Patent",
            ),
            (
                "fhir: { url: 'http://a', write: { id: '${a}', match: 'b=${c}' } }\n",
                "b=${c}",
            ),
            (
                "fhir: { url: 'http://a', write: { id: '${a}', mode: create } }\n",
                "${a}",
            ),
            (
                "fhir: { url: 'http://a', write: { match: '${a}' } }\n",
                "${a}",
            ),
            (
                "fhir: { url: 'http://a', write: { match: 'a=${b}', if_match: vv } }\n",
                "vv",
            ),
            (
                "fhir: { url: 'http://a', write: { mode: create, change: cc } }\n",
                "cc",
            ),
            (
                "fhir: { url: 'http://a', write: { mode: upsert } }\n",
                "upsert",
            ),
            (
                "fhir: { url: 'http://a', write: { type: Patient, id: '${a}', resource: { 'a[*]': b } } }\n",
                "a[*]",
            ),
        ],
        secret: vec![
            "fhir: { url: 'http://127.0.0.1:PORT', headers: { Authorization: Bearer SECRET }, write: { type: Patient, id: '${n}', resource: { language: n } } }\n",
        ],
        supply: Some(|| Box::new(Searched(FhirPeer::new()))),
        taker: Some(|| Box::new(Kept(FhirPeer::new()))),
    }
}

/// A server that can be cut off.
pub struct FhirPeer {
    pub web: Web,
    pub cut: Cut,
    pub store: Arc<Mutex<FhirStore>>,
}

/// What it holds, and what it is to do.
#[derive(Default)]
pub struct FhirStore {
    /// Each version in the order of writing: when, and what; none for a deletion.
    pub versions: Vec<(String, String, Option<Value>)>,
    /// Each resource that was written, in order.
    pub written: Vec<Value>,
    /// What time it is, in seconds since 2026; without it as everywhere.
    pub now: Option<i64>,
    /// Resources with this word are refused for good.
    pub refused: Option<&'static str>,
    /// How often a resource with this word is refused for now.
    pub busy: Option<(&'static str, usize)>,
    /// How many answers to requests that write are lost on their way.
    pub lost: usize,
    /// Bytes of a request that are taken.
    pub most: Option<usize>,
    /// Resources of a page.
    pub page: usize,
    /// How many further pages are answered before the search is forgotten.
    pub pages_left: Option<usize>,
    /// Where links to further pages lead, in the place of its own address.
    pub links_to: Option<String>,
    /// Whether search parameters count for nothing.
    pub ignores: bool,
    /// Each page is the first one, whatever its link says.
    pub repeats: bool,
    /// Whether deletions do not say when they were, as of HAPI.
    pub silent_deletions: bool,
    port: u16,
}

impl FhirPeer {
    pub fn new() -> FhirPeer {
        let store = Arc::new(Mutex::new(FhirStore {
            page: 10,
            ..FhirStore::default()
        }));
        let web = Web::new();
        let answering = Arc::clone(&store);
        web.answer(move |request| answering.lock().answer(request));
        let cut = Cut::before(web.port);
        store.lock().port = cut.port;
        FhirPeer { web, cut, store }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/fhir", self.cut.port)
    }

    /// The bodies of the Bundles that were sent.
    pub fn bundles(&self) -> Vec<Value> {
        let requests = self.web.requests();
        let those = requests
            .iter()
            .filter(|r| r.method == "POST" && r.path == "/fhir");
        those
            .map(|r| serde_json::from_slice(&r.body).expect("a Bundle"))
            .collect()
    }

    /// A resource as it is now.
    pub fn resource(&self, place: &str) -> Option<Value> {
        let store = self.store.lock();
        store.newest(place).cloned()
    }
}

/// An instant as the server writes it, to the millisecond.
fn instant(micros: i64) -> String {
    format!("{}Z", &busbar_event::time::text(micros)[..23])
}

impl FhirStore {
    fn micros(&self) -> i64 {
        let given = self
            .now
            .map(|seconds| 1_767_225_600_000_000 + seconds * 1_000_000);
        given.unwrap_or_else(crate::world::now)
    }

    pub fn put(&mut self, place: &str, resource: Option<Value>) -> usize {
        let number = self
            .versions
            .iter()
            .filter(|(_, of, _)| of == place)
            .count()
            + 1;
        let resource = resource.map(|mut resource| {
            let (kind, id) = place.split_once('/').expect("a type and an id");
            resource["resourceType"] = kind.into();
            resource["id"] = id.into();
            resource["meta"] =
                json!({ "versionId": number.to_string(), "lastUpdated": instant(self.micros()) });
            self.written.push(resource.clone());
            resource
        });
        self.versions
            .push((instant(self.micros()), place.to_owned(), resource));
        number
    }

    fn newest(&self, place: &str) -> Option<&Value> {
        let mut versions = self.versions.iter().rev();
        versions
            .find(|(_, of, _)| of == place)
            .and_then(|(_, _, resource)| resource.as_ref())
    }

    fn answer(&mut self, request: &Request) -> Answer {
        if self.most.is_some_and(|most| request.body.len() > most) {
            return Some((413, "", b"<html>too large</html>".to_vec()));
        }
        let path = request
            .path
            .strip_prefix("/fhir")
            .expect("the base address");
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (status, body) = match (request.method.as_str(), path.trim_matches('/')) {
            ("GET", "metadata") => (
                200,
                json!({ "resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "software": { "name": "Peer", "version": "1" },
                    "rest": [{ "resource": [{ "type": "Patient", "searchParam": [{ "name": "_id", "type": "token" }, { "name": "name", "type": "string" }] }] }] }),
            ),
            ("GET", path) => self.search(path, query),
            ("POST", "") => self.bundle(&serde_json::from_slice(&request.body).expect("a Bundle")),
            (method, path) => {
                let resource = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
                let header = |name: &str| request.headers.get(name).cloned();
                let url = match query {
                    "" => path.to_owned(),
                    query => format!("{path}?{query}"),
                };
                self.act(
                    method,
                    &url,
                    &resource,
                    header("if-match"),
                    header("if-none-exist"),
                )
            }
        };
        let body = match &body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let now =
            std::time::UNIX_EPOCH + std::time::Duration::from_micros(self.micros().unsigned_abs());
        let more = format!(
            "Content-Type: application/fhir+json\r\nDate: {}\r\n",
            httpdate::fmt_http_date(now)
        );
        if self.lost > 0 && request.method != "GET" {
            self.lost -= 1;
            return None;
        }
        // Some hundred bytes of a test.
        Some((status, Box::leak(more.into_boxed_str()), body))
    }

    fn bundle(&mut self, bundle: &Value) -> (u16, Value) {
        let before = self.versions.len();
        let mut answers = Vec::new();
        for entry in bundle["entry"].as_array().expect("entries") {
            let asked = &entry["request"];
            let text = |name: &str| asked[name].as_str().map(str::to_owned);
            let (method, url) = (
                text("method").expect("a method"),
                text("url").expect("a place"),
            );
            let (status, outcome) = self.act(
                &method,
                &url,
                &entry["resource"],
                text("ifMatch"),
                text("ifNoneExist"),
            );
            if bundle["type"] == "transaction" && status >= 400 {
                self.versions.truncate(before);
                return (status, outcome);
            }
            answers.push(json!({ "response": { "status": format!("{status} as it is"), "outcome": outcome } }));
        }
        (
            200,
            json!({ "resourceType": "Bundle", "type": "batch-response", "entry": answers }),
        )
    }

    fn act(
        &mut self,
        method: &str,
        url: &str,
        resource: &Value,
        if_match: Option<String>,
        if_none_exist: Option<String>,
    ) -> (u16, Value) {
        let outcome = |why: &str| json!({ "resourceType": "OperationOutcome", "issue": [{ "severity": "error", "code": "value", "diagnostics": why, "expression": ["Patient.name"] }] });
        let shown = resource.to_string();
        if self.refused.is_some_and(|word| shown.contains(word)) {
            return (422, outcome("as the test says"));
        }
        if let Some((word, left)) = &mut self.busy
            && *left > 0
            && shown.contains(*word)
        {
            *left -= 1;
            return (503, outcome("not now"));
        }
        let condition = if_none_exist.map(|search| format!("Patient?{search}"));
        let condition = condition.or_else(|| url.contains('?').then(|| url.to_owned()));
        let found = condition.as_deref().map(|condition| self.found(condition));
        let place = match (&found, method) {
            (Some(found), _) if found.len() > 1 => return (412, outcome("several are found")),
            (Some(found), "POST") if found.len() == 1 => return (200, Value::Null),
            (Some(found), _) if found.len() == 1 => found[0].clone(),
            (Some(_), "DELETE") => return (404, outcome("none is found")),
            (Some(_), _) | (None, "POST") => {
                let kind = url.split('?').next().expect("a type");
                format!("{kind}/n{}", self.versions.len())
            }
            (None, _) => url.to_owned(),
        };
        let there = self.newest(&place);
        let version = there.map_or("0", |there| {
            there["meta"]["versionId"].as_str().expect("a version")
        });
        if if_match.is_some_and(|tag| tag != format!("W/\"{version}\"")) {
            return (412, outcome("another version is there"));
        }
        match (method, there.is_some()) {
            ("DELETE", false) => (410, outcome("it is gone")),
            ("DELETE", true) => {
                self.put(&place, None);
                (204, Value::Null)
            }
            _ => {
                self.put(&place, Some(resource.clone()));
                (201, Value::Null)
            }
        }
    }

    /// The places of resources with an identifier: `Patient?identifier=SYSTEM%7CVALUE`.
    fn found(&self, condition: &str) -> Vec<String> {
        let (kind, search) = condition.split_once('?').expect("parameters");
        let wanted = search.strip_prefix("identifier=").expect("an identifier");
        let wanted = wanted
            .replace("%7C", "|")
            .replace("%3A", ":")
            .replace("%5C|", "\\|");
        let mut places: Vec<_> = self
            .versions
            .iter()
            .map(|(_, place, _)| place.clone())
            .collect();
        places.sort();
        places.dedup();
        places.retain(|place| {
            let there = self.newest(place).filter(|_| place.starts_with(kind));
            there.is_some_and(|there| {
                let one = &there["identifier"][0];
                let text = |name: &str| one[name].as_str().unwrap_or_default().replace('|', "\\|");
                format!("{}|{}", text("system"), text("value")) == wanted
            })
        });
        places
    }

    fn search(&mut self, path: &str, query: &str) -> (u16, Value) {
        let parameters: Vec<(String, String)> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| {
                (
                    name.to_owned(),
                    value.replace("%3A", ":").replace("%2B", "+"),
                )
            })
            .collect();
        let get = |name: &str| {
            parameters
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
        };
        let (from, kind, what) = match get("_page") {
            // The rest of a search that was begun.
            Some(page) => {
                match &mut self.pages_left {
                    Some(0) => {
                        self.pages_left = None;
                        return (
                            410,
                            json!({ "resourceType": "OperationOutcome", "issue": [] }),
                        );
                    }
                    Some(left) => *left -= 1,
                    None => {}
                }
                let (from, rest) = page.split_once('.').expect("a page");
                let (kind, what) = rest.split_once('.').expect("a type");
                (
                    from.parse().expect("a number"),
                    kind.to_owned(),
                    what.to_owned(),
                )
            }
            None if path.ends_with("/_history") => {
                let since = get("_since").unwrap_or_default();
                let kind = path.trim_end_matches("/_history");
                (0, kind.to_owned(), format!("history{since}"))
            }
            None => {
                assert_eq!(get("_sort").as_deref(), Some("_lastUpdated"));
                let bounds = parameters.iter().filter(|(name, _)| name == "_lastUpdated");
                let bounds: Vec<_> = bounds.map(|(_, value)| value.clone()).collect();
                (0, path.to_owned(), bounds.join(","))
            }
        };
        let mut found: Vec<Value> = Vec::new();
        let of_kind = |place: &str| place.split('/').next() == Some(kind.as_str());
        if let Some(since) = what.strip_prefix("history") {
            for (number, (when, place, resource)) in self.versions.iter().enumerate().rev() {
                if !of_kind(place) || (!self.ignores && when.as_str() < since) {
                    continue;
                }
                let version = self.versions[..=number]
                    .iter()
                    .filter(|(_, of, _)| of == place)
                    .count();
                found.push(match resource {
                    Some(resource) => json!({ "resource": resource, "request": { "method": if version == 1 { "POST" } else { "PUT" }, "url": place } }),
                    None if self.silent_deletions => json!({ "fullUrl": format!("http://x/{place}"), "request": { "method": "DELETE", "url": format!("{place}/_history/{version}") } }),
                    None => json!({ "request": { "method": "DELETE", "url": place }, "response": { "etag": format!("W/\"{version}\""), "lastModified": when } }),
                });
            }
        } else {
            let mut places: Vec<&String> = Vec::new();
            for (_, place, _) in &self.versions {
                places.retain(|known| *known != place);
                places.push(place);
            }
            for place in places.into_iter().filter(|place| of_kind(place)) {
                let Some(resource) = self.newest(place) else {
                    continue;
                };
                let when = resource["meta"]["lastUpdated"]
                    .as_str()
                    .expect("an instant");
                let fits = what.split(',').all(|bound| match bound.split_at(2) {
                    ("ge", bound) => when >= bound,
                    (_, bound) => when < bound,
                });
                if fits || self.ignores {
                    // HAPI says also here what was done with a resource.
                    let request = json!({ "method": "PUT", "url": place });
                    found.push(json!({ "resource": resource, "request": request, "search": { "mode": "match" } }));
                }
            }
        }
        let to = (from + self.page).min(found.len());
        let begin = if self.repeats { 0 } else { from };
        let own = format!("http://127.0.0.1:{}/fhir", self.port);
        let base = self.links_to.clone().unwrap_or(own);
        let mut links =
            vec![json!({ "relation": "self", "url": format!("{base}?_sort=_lastUpdated") })];
        if to < found.len() {
            links.push(
                json!({ "relation": "next", "url": format!("{base}?_page={to}.{kind}.{what}") }),
            );
        }
        (
            200,
            json!({ "resourceType": "Bundle", "type": "searchset", "link": links, "entry": found[begin..begin + (to - from)] }),
        )
    }
}

struct Kept(FhirPeer);

impl Taker for Kept {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "fhir: {{ url: '{}', timeout: 20s, write: {{ type: Basic, mode: create, resource: {{ 'identifier(system=n).value': note }} }} }}\n",
            self.0.url()
        )
    }
    fn rows(&mut self) -> Vec<String> {
        let store = self.0.store.lock();
        let notes = store
            .written
            .iter()
            .map(|resource| resource["identifier"][0]["value"].as_str());
        notes.map(|note| note.expect("a note").to_owned()).collect()
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

struct Searched(FhirPeer);

impl Supply for Searched {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "fhir: {{ url: '{}', timeout: 20s, read: {{ types: [Basic], settle: 0s, every: 100ms, rows: 100 }} }}\ntopic: in/resources\n",
            self.0.url()
        )
    }
    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        let mut store = self.0.store.lock();
        for n in numbers {
            store.put(&format!("Basic/b{n}"), Some(json!({ "n": n })));
        }
    }
    fn topic(&self) -> &'static str {
        "in/resources"
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
