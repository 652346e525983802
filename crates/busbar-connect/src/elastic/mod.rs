//! `elasticsearch`: indices of Elasticsearch and OpenSearch. Rows become documents; documents are read by search, and looked up.
//!
//! ```yaml
//! elasticsearch:
//!   url: "https://search.example:9200"
//!   user: busbar
//!   password: { env: SEARCH_PASSWORD }
//!   write: { index: "alarms-${site}", id: "${id}" }
//! ```

mod document;
mod failure;
mod limits;
mod link;
mod page;
mod rows;
mod sink;
mod source;
mod store;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic, Project, Template};
use busbar_connector::{
    ColumnSpec, ColumnType, Connector, KeyedStore, LiteralSecret, Roles, ServiceContext, Sink,
    SinkContext, Source, SourceContext, Survey, Work,
};
use busbar_event::{Class, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::{RemoteOptions, check_remote};
use crate::places::Places;
use crate::secret::{self, Secret, refuse_placeholder};
use crate::tls::Tls;
use crate::topic::TopicTemplate;
use crate::{lacks_sink, lacks_source};
use link::ElasticLink;
use sink::ElasticSink;
use source::ElasticSource;
use store::ElasticStore;

/// The connector.
pub struct Elastic {
    places: Places,
}

/// Elasticsearch of version 7 and newer, or OpenSearch.
///
/// As a sink: at least once. Each row is a document under an id made of its columns, so that a row that is written again
/// replaces itself. A request that timed out may still be carried out by the server after newer ones; `version` keeps it
/// from replacing newer documents. A row that the server refuses, such as one with a text in a field of numbers, becomes a
/// dead letter and the others are written. Documents are found by searches after the next refresh of the index, usually
/// within a second.
///
/// As a source: documents in the order of fields, at least once. A document that gets its place before the last one that
/// was read, because it was written late or changed, does not come; `settle` leaves time for it.
///
/// With `tables`: steps look documents up by their ids or by fields (`join` with `table: NAME.patient`), many with one request, and
/// SQL reads all documents, as they are when the query begins.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The address of the server or of what stands before the cluster, `http` or `https`.
    url: String,
    /// User name.
    user: Option<String>,
    /// Password: a text, `{ env: NAME }` or `{ file: PATH }`.
    password: Option<Secret>,
    /// Key for the interface, in the encoded form; in the place of user and password.
    api_key: Option<Secret>,
    /// Authorities to trust with `https`; by default the usual ones.
    tls: Option<Tls>,
    /// How long a request may take.
    #[serde(default = "a_minute")]
    timeout: Span,
    /// Documents that flows look up and queries read, by the name that they have behind the connection's: `search.patient`.
    #[serde(default)]
    tables: BTreeMap<String, ElasticRows>,
    /// Documents to read; makes the connection a source.
    read: Option<ElasticRead>,
    /// Where rows are written; makes the connection a sink.
    write: Option<ElasticWrite>,
}

/// Which documents are looked up.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ElasticRows {
    /// The index or an alias; a pattern such as `logs-*` where documents are not looked up by `_id`.
    index: String,
    /// Columns that tell documents apart, by which they are looked up: texts, whole numbers or truth values. By `[_id]` a document
    /// is found as soon as it is written, by fields with the next refresh of the index. A field of the type `text` needs a field
    /// `keyword` within it, which has no values that are longer than its `ignore_above`.
    key: Vec<String>,
    /// The columns: those of the key, and other fields. `_id` is the document's id, `a.b` the field `b` of the object `a`. A row
    /// has NULL for a field that its document lacks. A time is a text as in ISO 8601, or milliseconds since 1970.
    columns: Vec<ColumnSpec>,
}

/// Which documents are read. The connection's `topic` may use `${index}` and `${connection}`. Each event is a document as
/// it was written, with its id as the key.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ElasticRead {
    /// The index, an alias, a data stream, or a pattern such as `logs-*`.
    index: String,
    /// Fields by which documents are ordered, whose values grow for new documents. No two documents may have the same
    /// values in all of them. The first is a time unless `settle` is `0s`.
    sort: Vec<String>,
    /// Which documents, as a query of the server in JSON: `{"term":{"site":"north"}}`. Without it, all.
    query: Option<String>,
    /// How long after the time in the first field of `sort` a document is read, so that those that are written late have come.
    #[serde(default = "five_seconds")]
    settle: Span,
    /// Pause before the next search when there was nothing new.
    #[serde(default = "five_seconds")]
    every: Span,
    /// How many documents are asked for at a time.
    #[serde(default = "a_thousand")]
    rows: usize,
}

/// How rows are written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ElasticWrite {
    /// The index, an alias or a data stream, with columns of the flow in it: `alarms-${site}`.
    index: String,
    /// The id of a document, with columns of the flow in it: `${id}`.
    id: String,
    /// What is done with each row; not used where `change` says it.
    #[serde(default)]
    mode: ElasticMode,
    /// A column that says for each row what is done: `insert`, `read`, `update` and `upsert` write the document, `delete`
    /// deletes it, `truncate` deletes all documents of the index, `schema` is ignored. Change sources write it.
    change: Option<String>,
    /// A column that names the fields of a row that keep their value, as a JSON list or with commas. Such a row changes the
    /// other fields of the document only. Change sources write it.
    unchanged: Option<String>,
    /// A column with a whole number that grows with each change of a document. A row with a smaller number than that of the
    /// document changes nothing.
    version: Option<String>,
}

/// What is done with a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ElasticMode {
    /// Puts it in the place of the document with its id.
    #[default]
    Replace,
    /// Adds it, if there is no document with its id; data streams take no other.
    Create,
    /// Changes the fields of the document with its id that are columns of the flow, or adds it.
    Merge,
    /// Deletes the document with its id.
    Delete,
}

fn a_minute() -> Span {
    Span::from_micros(60_000_000)
}

fn five_seconds() -> Span {
    Span::from_micros(5_000_000)
}

fn a_thousand() -> usize {
    1_000
}

/// The texts and columns of an option.
fn template(text: &str) -> Result<Template, Error> {
    Template::parse(text).map_err(|(_, error)| error)
}

/// What is wrong with options: the option, and why.
type Wrong = Option<(&'static str, Error)>;

fn wrong(option: &'static str, code: &'static str) -> Wrong {
    Some((option, Error::new(Class::Configuration, code)))
}

impl ElasticRows {
    fn refusal(&self) -> Wrong {
        let distinct =
            |names: &[&String]| names.iter().collect::<BTreeSet<_>>().len() == names.len();
        let names: Vec<_> = self.columns.iter().map(|one| &one.name).collect();
        let key: Vec<_> = self.key.iter().collect();
        let kind = |name: &str| {
            let column = self.columns.iter().find(|one| one.name == name);
            column.map(|one| one.kind)
        };
        let is_key = |name: &String| {
            matches!(
                kind(name),
                Some(ColumnType::Text | ColumnType::Int | ColumnType::Bool)
            )
        };
        let is_name = |name: &String| !name.is_empty() && !name.contains(['*', ',']);
        match () {
            () if self.index.is_empty() || self.index.contains(['/', '?', '#', ' ']) => {
                wrong("index", "elastic.index")
            }
            () if key.is_empty() || !distinct(&key) || !self.key.iter().all(is_key) => {
                wrong("key", "elastic.table-key")
            }
            () if !distinct(&names)
                || !self.columns.iter().all(|one| is_name(&one.name))
                || self
                    .columns
                    .iter()
                    .any(|one| one.kind == ColumnType::Binary)
                || kind(rows::ID).is_some_and(|kind| kind != ColumnType::Text) =>
            {
                wrong("columns", "elastic.table-columns")
            }
            () => None,
        }
    }
}

impl ElasticWrite {
    fn refusal(&self) -> Wrong {
        let index = match template(&self.index) {
            Ok(index) => index,
            Err(error) => return Some(("index", error)),
        };
        let id = match template(&self.id) {
            Ok(id) => id,
            Err(error) => return Some(("id", error)),
        };
        let merges = self.mode == ElasticMode::Merge || self.unchanged.is_some();
        match () {
            () if self.index.is_empty() || self.index.contains(['*', ',', '/', '?', '#']) => {
                wrong("index", "elastic.index")
            }
            () if self.id.is_empty() || id.literal().is_some() => wrong("id", "elastic.id-fixed"),
            // The documents of all indices would be deleted, or of none.
            () if self.change.is_some() && index.literal().is_none() => {
                wrong("index", "elastic.index-fixed")
            }
            () if self.change.is_some() && self.mode != ElasticMode::Replace => {
                wrong("mode", "elastic.mode-change")
            }
            () if self.unchanged.is_some() && self.change.is_none() => {
                wrong("unchanged", "elastic.unchanged")
            }
            () if self.version.is_some() && (merges || self.mode == ElasticMode::Create) => {
                wrong("version", "elastic.version-mode")
            }
            () => None,
        }
    }
}

impl ElasticRead {
    fn refusal(&self) -> Wrong {
        let mut sorted: Vec<_> = self.sort.iter().collect();
        sorted.sort();
        sorted.dedup();
        let fields = self.sort.len();
        let query = self.query.as_deref();
        match () {
            () if self.index.is_empty() || self.index.contains(['/', '?', '#', ' ']) => {
                wrong("index", "elastic.index")
            }
            () if fields == 0 || fields > limits::SORT_FIELDS_MAX || sorted.len() != fields => {
                let error = Error::new(Class::Configuration, "elastic.sort");
                Some(("sort", error.with("most", limits::SORT_FIELDS_MAX)))
            }
            () if query.is_some_and(|text| {
                serde_json::from_str::<BTreeMap<String, serde::de::IgnoredAny>>(text).is_err()
            }) =>
            {
                wrong("query", "elastic.query")
            }
            () if self.every.as_duration() < limits::EVERY_MIN => {
                let error = Error::new(Class::Configuration, "elastic.every");
                Some((
                    "every",
                    error.with("least_ms", limits::EVERY_MIN.as_millis()),
                ))
            }
            () if !(1..=limits::PAGE_ROWS_MAX).contains(&self.rows) => {
                let error = Error::new(Class::Configuration, "elastic.rows");
                Some(("rows", error.with("most", limits::PAGE_ROWS_MAX)))
            }
            () => None,
        }
    }
}

impl Elastic {
    pub(crate) fn new(places: Places) -> Elastic {
        Elastic { places }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<Options, Diagnostic> {
        for key in ["user", "password", "api_key"] {
            refuse_placeholder(spec, &[key])?;
        }
        let options: Options = spec.options.read()?;
        let headers = BTreeMap::new();
        let remote = RemoteOptions {
            url: &options.url,
            headers: &headers,
            tls: options.tls.as_ref(),
            timeout: options.timeout,
        };
        check_remote(spec, &remote, &self.places)?;
        let refuse = |key: &str, code| {
            let error = Error::new(Class::Configuration, code);
            spec.options.diagnostic(key, error)
        };
        let secrets = [
            ("password", &options.password),
            ("api_key", &options.api_key),
        ];
        for (key, secret) in secrets {
            if let Some(file) = secret.as_ref().and_then(Secret::file) {
                self.places.check(file).map_err(|code| refuse(key, code))?;
            }
        }
        if options.api_key.is_some() && options.user.is_some() {
            return Err(refuse("api_key", "elastic.who"));
        }
        if options.password.is_some() && options.user.is_none() {
            return Err(refuse("password", "elastic.who"));
        }
        if options.tables.len() > limits::TABLES_MAX {
            let error = Error::new(Class::Configuration, "elastic.tables");
            let error = error.with("most", limits::TABLES_MAX);
            return Err(spec.options.diagnostic("tables", error));
        }
        let at = |path: &[&str], error: Error| {
            let path: Vec<String> = path.iter().map(|one| (*one).to_owned()).collect();
            let place = spec.options.at(&path);
            match place.or_else(|| spec.options.at(&path[..1])) {
                Some(node) => spec.options.diagnostic_at(node, error),
                None => spec.options.diagnostic(&path[0], error),
            }
        };
        for (name, rows) in &options.tables {
            if let Some((option, error)) = rows.refusal() {
                return Err(at(&["tables", name, option], error.with("table", name)));
            }
        }
        let (part, wrong) = match (&options.read, &options.write) {
            (None, None) if !options.tables.is_empty() => return Ok(options),
            (None, None) | (Some(_), Some(_)) => return Err(refuse("write", "elastic.no-role")),
            (Some(read), None) => {
                self.topic(spec)?;
                ("read", read.refusal())
            }
            (None, Some(write)) => ("write", write.refusal()),
        };
        if let Some((option, error)) = wrong {
            return Err(at(&[part, option], error));
        }
        Ok(options)
    }

    fn topic(&self, spec: &ConnectionSpec) -> Result<TopicTemplate, Diagnostic> {
        TopicTemplate::read(spec, "${connection}/${index}", &["connection", "index"])
    }
}

impl Connector for Elastic {
    fn kind(&self) -> &'static str {
        "elasticsearch"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let options = self.options(spec)?;
        Ok(Roles {
            source: options.read.is_some(),
            sink: options.write.is_some(),
            service: false,
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(Options).to_value()
    }

    fn warnings(&self, spec: &ConnectionSpec, _: &Project) -> Vec<Diagnostic> {
        secret::warnings(spec, &self.secrets(spec))
    }

    fn secrets(&self, spec: &ConnectionSpec) -> Vec<LiteralSecret> {
        let mut secrets = secret::literals(spec, &[&["password"], &["api_key"]]);
        secrets.extend(crate::http::telling(
            spec,
            crate::http::address_secrets(spec),
        ));
        secrets
    }

    fn keeps_rows(&self, spec: &ConnectionSpec) -> bool {
        let options = self.options(spec);
        options.is_ok_and(|options| !options.tables.is_empty())
    }

    fn store<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn KeyedStore>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let link = ElasticLink::open(&options, &context, &self.places).await?;
            Ok(Arc::new(ElasticStore::new(link, &options.tables)) as Arc<dyn KeyedStore>)
        })
    }

    fn survey<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        project_dir: Arc<std::path::Path>,
        tables: bool,
    ) -> Work<'a, Result<Survey, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let context = ServiceContext::unnamed(project_dir);
            let link = ElasticLink::open(&options, &context, &self.places).await?;
            survey::survey(&link, tables).await
        })
    }

    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let read = options
                .read
                .clone()
                .ok_or_else(|| lacks_source(self.kind()))?;
            let topic = self.topic(spec)?;
            let with = ServiceContext::from(&context);
            let link = ElasticLink::open(&options, &with, &self.places).await?;
            Ok(Box::new(ElasticSource::new(link, read, topic, &context)) as Box<dyn Source>)
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let write = options
                .write
                .clone()
                .ok_or_else(|| lacks_sink(self.kind()))?;
            let with = ServiceContext::from(&context);
            let link = ElasticLink::open(&options, &with, &self.places).await?;
            Ok(Box::new(ElasticSink::new(link, &write, &context.schema)?) as Box<dyn Sink>)
        })
    }
}
