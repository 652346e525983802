//! Documents that are looked up, by their ids or by fields, and read one after another.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::Schema;
use busbar_connector::{
    Escape, Found, KeyedLayout, KeyedStore, PoolUse, ServiceAnswer, SqlRows, TextColumns, Work,
};
use busbar_event::{Class, Error};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::ElasticRows;
use super::failure::{ElasticRefusal, RefusedPart};
use super::limits::{FIELDS_KEPT, FIND_CLAUSES_MAX, SCAN_ROWS};
use super::link::{Carries, ElasticLink, index_path};
use super::page::{DocumentPage, WHOLE};
use super::rows::{DocumentRows, ID};

/// The documents that a connection's file names.
pub struct ElasticStore {
    link: ElasticLink,
    tables: BTreeMap<String, Arc<StoredDocuments>>,
}

/// Documents of one name.
struct StoredDocuments {
    rows: DocumentRows,
    /// The fields that searches compare the columns of the key with, and since when they are known.
    fields: Mutex<Option<(Arc<[String]>, Instant)>>,
}

/// A document that was found.
struct FoundDocument<'a> {
    id: String,
    source: Option<&'a RawValue>,
}

impl ElasticStore {
    pub(super) fn new(link: ElasticLink, tables: &BTreeMap<String, ElasticRows>) -> ElasticStore {
        let rows = |(name, options): (&String, &ElasticRows)| {
            let documents = StoredDocuments {
                rows: DocumentRows::new(options),
                fields: Mutex::default(),
            };
            (name.clone(), Arc::new(documents))
        };
        ElasticStore {
            link,
            tables: tables.iter().map(rows).collect(),
        }
    }

    fn documents(&self, name: &str) -> Result<&Arc<StoredDocuments>, Error> {
        self.tables
            .get(name)
            .ok_or_else(|| Error::new(Class::Configuration, "elastic.no-table").with("table", name))
    }

    async fn find_rows(
        &self,
        documents: &StoredDocuments,
        keys: &[ArrayRef],
        columns: &[usize],
    ) -> Result<Found, Error> {
        let rows = &documents.rows;
        let count = keys.first().map_or(0, |column| column.len());
        let mut asked: HashMap<Vec<String>, Vec<usize>> = HashMap::new();
        let mut order = Vec::new();
        for row in 0..count {
            // No document has an id without a character.
            let key =
                DocumentRows::asked(keys, row).filter(|key| !rows.by_id() || key[0] != "\"\"");
            let Some(key) = key else {
                continue;
            };
            let same = asked.entry(key.clone()).or_default();
            if same.is_empty() {
                order.push(key);
            }
            same.push(row);
        }
        let mut made = TextColumns::new(Arc::new(projected(rows, columns)?));
        let mut places = vec![None; count];
        let mut next = 0_u32;
        let mut most = (FIND_CLAUSES_MAX / keys.len().max(1)).max(1);
        let mut left = order.as_slice();
        while !left.is_empty() {
            let (part, behind) = left.split_at(left.len().min(most));
            let answer = match self.some(documents, part, columns).await {
                Err(error) if error.code() == "connect.call-answer-large" && part.len() > 1 => {
                    most = part.len() / 2;
                    continue;
                }
                answer => answer?,
            };
            let Some(answer) = answer else {
                break;
            };
            let found = match rows.by_id() {
                true => self.got(&answer, rows)?,
                false => self.searched(&answer, rows)?,
            };
            let mut others = 0;
            for document in &found {
                let Some(source) = document.source else {
                    return Err(self.no_source(rows, &document.id));
                };
                let key = rows.key_of(&document.id, source);
                let Some(same) = key.as_ref().and_then(|key| asked.get(key)) else {
                    // The server compares the field in another way: parts of a text, or one of several values.
                    others += 1;
                    continue;
                };
                if same.iter().any(|row| places[*row].is_some()) {
                    return Err(of_key(rows, "elastic.key-twice"));
                }
                rows.push(&document.id, source, columns, &mut made)?;
                for row in same {
                    places[*row] = Some(next);
                }
                next += 1;
            }
            if others > 0 && found.len() > part.len() {
                // There may be more, and the documents that are meant among them.
                return Err(of_key(rows, "elastic.key-loose"));
            }
            left = behind;
        }
        Ok(Found {
            rows: made.finish()?,
            places: UInt32Array::from(places),
        })
    }

    /// Asks for the documents of some keys; none where no document has such a field.
    async fn some(
        &self,
        documents: &StoredDocuments,
        keys: &[Vec<String>],
        columns: &[usize],
    ) -> Result<Option<ServiceAnswer>, Error> {
        let rows = &documents.rows;
        let index = index_path(&rows.index);
        let wanted = rows.wanted(columns);
        if rows.by_id() {
            let ids: Vec<&str> = keys.iter().flatten().map(String::as_str).collect();
            let mut path = format!("/{index}/_mget?_source_includes=");
            list(&wanted, &mut path);
            let body = format!("{{\"ids\":[{}]}}", ids.join(","));
            return self
                .post(path, body, &rows.index, RefusedPart::Key)
                .await
                .map(Some);
        }
        let Some(fields) = self.fields(documents).await? else {
            return Ok(None);
        };
        let filter = match &*fields {
            [field] => {
                let values: Vec<&str> = keys.iter().flatten().map(String::as_str).collect();
                let field = serde_json::Value::from(field.as_str());
                format!("{{\"terms\":{{{field}:[{}]}}}}", values.join(","))
            }
            fields => {
                let one = |key: &Vec<String>| {
                    let terms = fields.iter().zip(key).map(|(field, value)| {
                        let field = serde_json::Value::from(field.as_str());
                        format!("{{\"term\":{{{field}:{value}}}}}")
                    });
                    let terms = terms.collect::<Vec<_>>().join(",");
                    format!("{{\"bool\":{{\"filter\":[{terms}]}}}}")
                };
                let all = keys.iter().map(one).collect::<Vec<_>>().join(",");
                format!("{{\"bool\":{{\"should\":[{all}],\"minimum_should_match\":1}}}}")
            }
        };
        // One more than there are keys shows that a key has several.
        let body = format!(
            "{{\"size\":{},\"track_total_hits\":false,\"_source\":{},\"query\":{{\"bool\":{{\"filter\":[{filter}]}}}}}}",
            keys.len() + 1,
            json!(wanted),
        );
        let path = format!("/{index}/_search?{WHOLE}");
        let answer = self.post(path, body, &rows.index, RefusedPart::Key).await?;
        Ok(Some(answer))
    }

    async fn post(
        &self,
        path: String,
        body: String,
        index: &str,
        part: RefusedPart,
    ) -> Result<ServiceAnswer, Error> {
        let answer = self.link.ask("POST", path, Carries::Json, body.into());
        let answer = answer.await?;
        match answer.status {
            200..=299 => Ok(answer),
            status => {
                let refusal = ElasticRefusal::of(&answer);
                Err(refusal.error(status, part, &self.link.url, index))
            }
        }
    }

    /// The fields that hold the key's values as they are: a field of the type `text` is compared by its words, and by its whole
    /// value where it has a further field `keyword`. None where the index has no such field yet.
    async fn fields(&self, documents: &StoredDocuments) -> Result<Option<Arc<[String]>>, Error> {
        #[derive(Deserialize)]
        struct FieldCapabilities {
            fields: BTreeMap<String, BTreeMap<String, serde::de::IgnoredAny>>,
        }
        let known = documents.fields.lock().clone();
        if let Some((fields, since)) = known
            && since.elapsed() < FIELDS_KEPT
        {
            return Ok(Some(fields));
        }
        let rows = &documents.rows;
        let names = rows.key_names();
        let whole: Vec<String> = names.iter().map(|name| format!("{name}.keyword")).collect();
        let mut path = format!("/{}/_field_caps?fields=", index_path(&rows.index));
        list(&names, &mut path);
        path.push(',');
        list(&whole, &mut path);
        let asked = self.link.ask("GET", path, Carries::Nothing, Bytes::new());
        let answer = asked.await?;
        if answer.status != 200 {
            return Err(self.link.refused(&answer, &rows.index));
        }
        let Ok(known) = serde_json::from_slice::<FieldCapabilities>(&answer.body) else {
            return Err(self.link.strange(&answer));
        };
        let mut fields = Vec::new();
        for (name, whole) in names.into_iter().zip(whole) {
            let types = known.fields.get(name);
            if types.is_none() && name != ID {
                return Ok(None);
            }
            let is_text = |types: &BTreeMap<String, _>| {
                types.contains_key("text") || types.contains_key("match_only_text")
            };
            match types.is_some_and(is_text) {
                false => fields.push(name.to_owned()),
                true if known.fields.contains_key(&whole) => fields.push(whole),
                true => {
                    return Err(Error::new(Class::Configuration, "elastic.key-words")
                        .with("index", &rows.index)
                        .with("field", name));
                }
            }
        }
        let fields: Arc<[String]> = fields.into();
        *documents.fields.lock() = Some((Arc::clone(&fields), Instant::now()));
        Ok(Some(fields))
    }

    /// The documents of an answer to `_mget`.
    fn got<'a>(
        &self,
        answer: &'a ServiceAnswer,
        rows: &DocumentRows,
    ) -> Result<Vec<FoundDocument<'a>>, Error> {
        #[derive(Deserialize)]
        struct GotPage<'a> {
            #[serde(borrow)]
            docs: Vec<GotDocument<'a>>,
        }
        #[derive(Deserialize)]
        struct GotDocument<'a> {
            #[serde(rename = "_id")]
            id: String,
            #[serde(default)]
            found: bool,
            #[serde(rename = "_source", borrow, default)]
            source: Option<&'a RawValue>,
            #[serde(default)]
            error: Option<ElasticRefusal>,
        }
        let Ok(page) = serde_json::from_slice::<GotPage<'_>>(&answer.body) else {
            return Err(self.link.strange(answer));
        };
        let mut found = Vec::new();
        for document in page.docs {
            if let Some(refusal) = document.error {
                let (url, index) = (&self.link.url, &rows.index);
                return Err(refusal.error(404, RefusedPart::Request, url, index));
            }
            if document.found {
                found.push(FoundDocument {
                    id: document.id,
                    source: document.source,
                });
            }
        }
        Ok(found)
    }

    /// The documents of an answer to a search.
    fn searched<'a>(
        &self,
        answer: &'a ServiceAnswer,
        rows: &DocumentRows,
    ) -> Result<Vec<FoundDocument<'a>>, Error> {
        let page = self.page(answer, rows)?;
        let found = page.hits.hits.into_iter().map(|hit| FoundDocument {
            id: hit.id,
            source: hit.source,
        });
        Ok(found.collect())
    }

    fn page<'a>(
        &self,
        answer: &'a ServiceAnswer,
        rows: &DocumentRows,
    ) -> Result<DocumentPage<'a>, Error> {
        let Ok(page) = serde_json::from_slice::<DocumentPage<'_>>(&answer.body) else {
            return Err(self.link.strange(answer));
        };
        match page.is_partial() {
            true => Err(self.link.partial(&rows.index)),
            false => Ok(page),
        }
    }

    fn no_source(&self, rows: &DocumentRows, id: &str) -> Error {
        Error::new(Class::Configuration, "elastic.no-source")
            .with("index", &rows.index)
            .with("id", id)
    }
}

impl KeyedStore for ElasticStore {
    fn layout(&self, rows: &str) -> Option<KeyedLayout> {
        let rows = &self.tables.get(rows)?.rows;
        let key = rows.key_names();
        Some(KeyedLayout {
            schema: Arc::clone(&rows.schema),
            key: key.into_iter().map(str::to_owned).collect(),
        })
    }

    fn find<'a>(
        &'a self,
        rows: &'a str,
        keys: &'a [ArrayRef],
        columns: &'a [usize],
    ) -> Work<'a, Result<Found, Error>> {
        Box::pin(async move { self.find_rows(self.documents(rows)?, keys, columns).await })
    }

    fn all<'a>(
        &'a self,
        rows: &'a str,
        columns: &'a [usize],
    ) -> Work<'a, Result<Box<dyn SqlRows + 'a>, Error>> {
        Box::pin(async move {
            let documents = Arc::clone(self.documents(rows)?);
            let made = TextColumns::new(Arc::new(projected(&documents.rows, columns)?));
            Ok(Box::new(DocumentScan {
                store: self,
                documents,
                columns,
                made,
                place: ScanPlace::Begin,
                first: None,
            }) as Box<dyn SqlRows + 'a>)
        })
    }

    fn pool(&self) -> PoolUse {
        // Requests have no sessions.
        PoolUse::default()
    }
}

/// All documents of an index, as they are when the reading begins.
struct DocumentScan<'a> {
    store: &'a ElasticStore,
    documents: Arc<StoredDocuments>,
    columns: &'a [usize],
    made: TextColumns,
    place: ScanPlace,
    /// The first document of the last page, with its index.
    first: Option<(String, String)>,
}

enum ScanPlace {
    Begin,
    /// The next page is asked for with this.
    Behind(String),
    End,
}

impl DocumentScan<'_> {
    async fn next_page(&mut self) -> Result<Option<RecordBatch>, Error> {
        /// How long the server keeps the place of a reading that does not go on.
        const KEPT: &str = "1m";
        let (store, rows) = (self.store, &self.documents.rows);
        let index = &rows.index;
        let answer = match std::mem::replace(&mut self.place, ScanPlace::End) {
            ScanPlace::Begin => {
                let body = json!({
                    "size": SCAN_ROWS, "sort": ["_doc"],
                    "_source": rows.wanted(self.columns),
                });
                let path = format!("/{}/_search?scroll={KEPT}&{WHOLE}", index_path(index));
                store
                    .post(path, body.to_string(), index, RefusedPart::Request)
                    .await?
            }
            ScanPlace::Behind(id) => {
                let body = json!({ "scroll": KEPT, "scroll_id": id });
                let path = "/_search/scroll".to_owned();
                store
                    .post(path, body.to_string(), index, RefusedPart::Request)
                    .await?
            }
            ScanPlace::End => return Ok(None),
        };
        let page = store.page(&answer, rows)?;
        let id = page.scroll.ok_or_else(|| store.link.strange(&answer))?;
        if page.hits.hits.is_empty() {
            let body = json!({ "scroll_id": id }).to_string().into();
            let path = "/_search/scroll".to_owned();
            // The server forgets it by itself where this fails.
            let _ = store.link.ask("DELETE", path, Carries::Json, body).await;
            return Ok(None);
        }
        let first = page.hits.hits.first();
        let first = first.map(|hit| (hit.index.clone(), hit.id.clone()));
        if let Some((_, id)) = first.as_ref().filter(|_| self.first == first) {
            return Err(store.link.again(index, id));
        }
        self.first = first;
        self.place = ScanPlace::Behind(id);
        for hit in &page.hits.hits {
            let source = hit.source.ok_or_else(|| store.no_source(rows, &hit.id))?;
            rows.push(&hit.id, source, self.columns, &mut self.made)?;
        }
        self.made.finish().map(Some)
    }
}

impl SqlRows for DocumentScan<'_> {
    fn next(&mut self) -> Work<'_, Result<Option<RecordBatch>, Error>> {
        Box::pin(self.next_page())
    }
}

fn of_key(rows: &DocumentRows, code: &'static str) -> Error {
    Error::new(Class::Configuration, code)
        .with("index", &rows.index)
        .with("key", rows.key_names().join(", "))
}

fn projected(rows: &DocumentRows, columns: &[usize]) -> Result<Schema, Error> {
    let projected = rows.schema.project(columns);
    projected.map_err(|cause| Error::new(Class::Permanent, "database.rows").caused_by(cause))
}

/// Appends names with commas between them.
fn list<T: AsRef<str>>(names: &[T], out: &mut String) {
    for (at, name) in names.iter().enumerate() {
        out.push_str(if at > 0 { "," } else { "" });
        Escape::Percent.write(name.as_ref(), out);
    }
}
