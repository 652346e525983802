//! `fhir`: resources of FHIR R4 servers. They are read as they change, rows become resources, and `call` steps look
//! resources up.
//!
//! ```yaml
//! fhir:
//!   url: "https://hospital.example/fhir"
//!   headers: { Authorization: { env: FHIR_TOKEN } }
//!   write: { type: Patient, match: "identifier=urn:his|${pid}", resource: { "name[0].family": family, gender: gender } }
//! ```

mod call;
mod limits;
mod link;
mod outcome;
mod page;
mod paging;
mod plan;
mod sink;
mod source;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use busbar_bus::Span;
use busbar_catalog::{CallSpec, ConnectionSpec, Diagnostic, Project, Template};
use busbar_connector::{
    CallFault, CallForm, Connector, LiteralSecret, Roles, Service, ServiceContext, Sink,
    SinkContext, Source, SourceContext, Survey, Work,
};
use busbar_event::format::{FhirWriter, RESOURCE_TYPES, is_resource_type};
use busbar_event::{Class, Error, time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::{
    HttpClient, Remote, RemoteOptions, address_secrets, check_remote, telling, ten_seconds,
};
use crate::places::Places;
use crate::secret::{self, Secret};
use crate::tls::Tls;
use crate::topic::TopicTemplate;
use link::{FhirCapabilities, FhirLink};
use plan::FhirPlan;
use sink::FhirSink;
use source::FhirSource;

/// The media type of FHIR's JSON.
const JSON_TYPE: &str = "application/fhir+json";

/// The connector.
pub struct Fhir {
    places: Places,
}

/// A server of FHIR R4, in JSON over HTTP. `call` steps need no more than `url`, and ask it as an `http` connection is asked:
/// `path: "Patient?identifier=urn:his|${pid}"`; paths of an answer's columns are those of FHIR: `entry[0].resource.id`.
///
/// As a sink: at least once. A resource that is written again under its id, or by a condition, replaces itself; one that is
/// created without a condition may be there twice after a lost answer. A resource that the server refuses becomes a dead letter
/// with what its `OperationOutcome` says and where, and the others are written.
///
/// As a source: resources as they change, by the clock of the server, at least once.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The base address of the server, `http` or `https`.
    url: String,
    /// Headers, such as `Authorization`; a value is a text, or `{ env: NAME }` to take it from the environment.
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    /// Authorities to trust with `https`; by default the usual ones.
    tls: Option<Tls>,
    /// How long a request may take.
    #[serde(default = "ten_seconds")]
    timeout: Span,
    /// Resources to read; makes the connection a source.
    read: Option<FhirRead>,
    /// How rows are written; makes the connection a sink.
    write: Option<FhirWrite>,
}

/// Which resources are read. The connection's `topic` may use `${type}`, `${change}` and `${connection}`. Each event is a
/// resource as it came, with its id as the key and the time of its change as its time; the tag `change` says what happened
/// (`read`, `insert`, `update`, `delete`) and the tag `version` which version it is. A deleted resource has its type, id and meta.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FhirRead {
    /// The types of the resources.
    types: Vec<String>,
    /// Whether they are searched, each as it is now, or all versions of their history are read, deletions too.
    #[serde(default)]
    by: ReadBy,
    /// With `search`: further parameters, as they stand in a URL: `active=true&_include=Patient:organization`.
    query: Option<String>,
    /// The instant from which changes are read the first time; without it all are. Later it goes on where it was.
    start: Option<String>,
    /// How long after a change it is read, so that those whose transaction took longer have come.
    #[serde(default = "two_seconds")]
    settle: Span,
    /// Pause before the next round when there was nothing new.
    #[serde(default = "two_seconds")]
    every: Span,
    /// How many resources are asked for at a time.
    #[serde(default = "five_hundred")]
    rows: usize,
}

/// How changes are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ReadBy {
    /// `GET TYPE?_lastUpdated=…`: the last version of each resource, no deleted ones.
    #[default]
    Search,
    /// `GET TYPE/_history?_since=…`: each version, the oldest first, deleted ones too.
    History,
}

/// How rows are written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FhirWrite {
    /// The type of the resources. Needed with `resource` and for rows that are deleted; without it the payloads say it.
    #[serde(rename = "type")]
    resource_type: Option<String>,
    /// The resource by its paths, each with the column that is there: `"name[0].family": family`,
    /// `"identifier(system=urn:his).value": pid`. Without it the payload is the resource.
    resource: Option<BTreeMap<String, String>>,
    /// What is done with each row; not used where `change` says that it is deleted.
    #[serde(default)]
    mode: FhirMode,
    /// The id of the resource, with columns of the flow in it: `${pid}`. Without it, and without `match`, the id in the payload.
    id: Option<String>,
    /// Parameters by which the server finds the resource, as they stand in a URL, with columns of the flow in them:
    /// `identifier=urn:his|${pid}`. Then `update` changes the one that is found or adds one, `create` adds one where none is
    /// found, and `delete` deletes it. Several that are found are refused.
    #[serde(rename = "match")]
    matches: Option<String>,
    /// A column with the version that the resource must have to be changed or deleted (`If-Match`). A row with another one
    /// becomes a dead letter.
    if_match: Option<String>,
    /// A column that says for each row what is done: `insert`, `read`, `update` and `upsert` do what `mode` says, `delete`
    /// deletes the resource, `schema` is ignored. Change sources write it.
    change: Option<String>,
    /// How many rows go with one request.
    #[serde(default)]
    bundle: BundleKind,
}

/// What is done with a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum FhirMode {
    /// Puts the resource in the place of the one with its id or that is found, or adds it.
    #[default]
    Update,
    /// Adds it, under an id that the server gives.
    Create,
    /// Deletes the one with its id or that is found.
    Delete,
}

/// How rows are put together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum BundleKind {
    /// Many as a Bundle, each of which is taken or refused by itself.
    #[default]
    Batch,
    /// Many as a Bundle that is taken or refused as a whole; after a refusal fewer are sent, until those at fault are found.
    Transaction,
    /// Each by a request of its own, for servers that take no Bundles.
    None,
}

fn two_seconds() -> Span {
    Span::from_micros(2_000_000)
}

fn five_hundred() -> usize {
    500
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

/// What is wrong with the name of a type.
fn wrong_type(option: &'static str, name: &str) -> Wrong {
    if is_resource_type(name) {
        return None;
    }
    let error = Error::new(Class::Configuration, "fhir.unknown-type");
    Some((option, error.with("type", busbar_event::quote(name))))
}

impl FhirRead {
    fn refusal(&self) -> Wrong {
        let config = |code| Error::new(Class::Configuration, code);
        let unknown = self.types.iter().find_map(|name| wrong_type("types", name));
        match () {
            () if self.types.is_empty() || self.types.len() > limits::TYPES_MAX => Some((
                "types",
                config("fhir.types").with("most", limits::TYPES_MAX),
            )),
            () if unknown.is_some() => unknown,
            () if self.query.is_some() && self.by == ReadBy::History => {
                wrong("query", "fhir.query-history")
            }
            () if self.query.as_deref().is_some_and(|query| {
                query.is_empty() || query.contains(['#', ' ', '"', '<', '>']) || !query.is_ascii()
            }) =>
            {
                wrong("query", "fhir.query")
            }
            () if self
                .start
                .as_deref()
                .is_some_and(|text| time::parse(text).is_none()) =>
            {
                wrong("start", "fhir.start")
            }
            () if self.every.as_duration() < limits::EVERY_MIN => Some((
                "every",
                config("fhir.every").with("least_ms", limits::EVERY_MIN.as_millis()),
            )),
            () if !(1..=limits::PAGE_ROWS_MAX).contains(&self.rows) => Some((
                "rows",
                config("fhir.rows").with("most", limits::PAGE_ROWS_MAX),
            )),
            () => None,
        }
    }
}

impl FhirWrite {
    fn refusal(&self) -> Wrong {
        for (option, text) in [("id", &self.id), ("match", &self.matches)] {
            let parsed = text.as_deref().map(template).transpose();
            match parsed {
                Err(error) => return Some((option, error)),
                Ok(Some(parsed)) if parsed.literal().is_some() => {
                    return wrong(option, "fhir.fixed");
                }
                Ok(_) => {}
            }
        }
        if let Some(name) = &self.resource_type
            && let Some(wrong) = wrong_type("type", name)
        {
            return Some(wrong);
        }
        let deletes = self.mode == FhirMode::Delete;
        let creates = self.mode == FhirMode::Create;
        let lacks_id = self.id.is_none() && self.matches.is_none();
        match (&self.resource, &self.resource_type) {
            (Some(_), None) => return wrong("resource", "fhir.type-needed"),
            (Some(paths), Some(kind)) => {
                let has_id = paths.contains_key("id");
                let paths = paths.keys().map(String::as_str);
                if let Err(error) = FhirWriter::new(kind, paths) {
                    return Some(("resource", error));
                }
                if lacks_id && !has_id && (!creates || self.change.is_some()) {
                    return wrong("resource", "fhir.id-needed");
                }
            }
            (None, _) => {}
        }
        match () {
            () if self.id.is_some() && self.matches.is_some() => wrong("match", "fhir.id-or-match"),
            () if self.id.is_some() && creates => wrong("id", "fhir.id-create"),
            () if creates && self.change.is_some() && self.matches.is_none() => {
                wrong("change", "fhir.change-create")
            }
            () if self.resource.is_some() && deletes => wrong("resource", "fhir.resource-delete"),
            () if self.if_match.is_some() && (creates || self.matches.is_some()) => {
                wrong("if_match", "fhir.if-match")
            }
            () if self
                .matches
                .as_deref()
                .is_some_and(|text| !text.contains('=')) =>
            {
                wrong("match", "fhir.match")
            }
            () => None,
        }
    }
}

impl Options {
    /// Where the other side is, and how it is reached.
    fn remote(&self) -> RemoteOptions<'_> {
        RemoteOptions {
            url: &self.url,
            headers: &self.headers,
            tls: self.tls.as_ref(),
            timeout: self.timeout,
        }
    }
}

impl Fhir {
    pub(crate) fn new(places: Places) -> Fhir {
        Fhir { places }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<Options, Diagnostic> {
        let options: Options = spec.options.read()?;
        check_remote(spec, &options.remote(), &self.places)?;
        let refuse = |key: &str, code| {
            let error = Error::new(Class::Configuration, code);
            spec.options.diagnostic(key, error)
        };
        // Further pages are found below it.
        if options.url.contains(['?', '#']) {
            return Err(refuse("url", "fhir.url-query"));
        }
        let (part, wrong) = match (&options.read, &options.write) {
            (Some(_), Some(_)) => return Err(refuse("write", "fhir.one-role")),
            (None, None) => return Ok(options),
            (Some(read), None) => {
                self.topic(spec)?;
                ("read", read.refusal())
            }
            (None, Some(write)) => ("write", write.refusal()),
        };
        let Some((option, error)) = wrong else {
            return Ok(options);
        };
        let help = match error.code() {
            "fhir.unknown-type" => {
                let name = match (&options.read, &options.write) {
                    (Some(read), _) => read.types.iter().find(|name| !is_resource_type(name)),
                    (_, Some(write)) => write.resource_type.as_ref(),
                    _ => None,
                };
                name.and_then(|name| busbar_catalog::suggest(name, RESOURCE_TYPES))
            }
            _ => None,
        };
        let place = spec.options.at(&[part.to_owned(), option.to_owned()]);
        let refused = match place {
            Some(node) => spec.options.diagnostic_at(node, error),
            None => spec.options.diagnostic(part, error),
        };
        Err(refused.with_help(help))
    }

    fn topic(&self, spec: &ConnectionSpec) -> Result<TopicTemplate, Diagnostic> {
        let offered = ["connection", "type", "change"];
        TopicTemplate::read(spec, "${connection}/${type}", &offered)
    }
}

impl Connector for Fhir {
    fn kind(&self) -> &'static str {
        "fhir"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let options = self.options(spec)?;
        Ok(Roles {
            source: options.read.is_some(),
            sink: options.write.is_some(),
            service: true,
        })
    }

    fn check_rows(&self, spec: &ConnectionSpec, columns: &Schema) -> Result<(), Error> {
        let options = self.options(spec);
        let options = options.map_err(|refused| refused.error().clone())?;
        match &options.write {
            Some(write) => FhirPlan::new(write, &Arc::new(columns.clone())).map(|_| ()),
            None => Ok(()),
        }
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(Options).to_value()
    }

    fn warnings(&self, spec: &ConnectionSpec, _: &Project) -> Vec<Diagnostic> {
        secret::warnings(spec, &telling(spec, self.secrets(spec)))
    }

    fn secrets(&self, spec: &ConnectionSpec) -> Vec<LiteralSecret> {
        address_secrets(spec)
    }

    fn survey<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        project_dir: Arc<std::path::Path>,
        tables: bool,
    ) -> Work<'a, Result<Survey, Error>> {
        Box::pin(async move {
            let options = self.options(spec);
            let options = options.map_err(|refused| refused.error().clone())?;
            let context = ServiceContext {
                name: "".into(),
                project_dir,
                clock: Arc::new(busbar_log::SystemClock),
            };
            let link = FhirLink::open(&options, &context, &self.places).await?;
            let answer = link.capabilities().await?;
            let said = FhirCapabilities::of(&answer).ok_or_else(|| link.strange(&answer))?;
            Ok(said.survey(tables))
        })
    }

    fn call_form(
        &self,
        spec: &ConnectionSpec,
        call: &CallSpec,
    ) -> Result<Arc<dyn CallForm>, CallFault> {
        let unusable = |refused: Diagnostic| CallFault::at("connection", refused.error().clone());
        let options = self.options(spec).map_err(unusable)?;
        Ok(Arc::new(call::FhirForm::new(&options.url, call)?))
    }

    fn service<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn Service>, Error>> {
        Box::pin(async move {
            let options = self.options(spec);
            let options = options.map_err(|refused| refused.error().clone())?;
            let most = crate::limits::CALL_ANSWER_BYTES_MAX;
            let remote = Remote::of(&options.remote(), most);
            let client = HttpClient::open(remote, &context, &self.places).await?;
            Ok(Arc::new(client) as Arc<dyn Service>)
        })
    }

    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        Box::pin(async move {
            let told = |refused: Diagnostic| refused.error().clone();
            let options = self.options(spec).map_err(told)?;
            let Some(read) = options.read.clone() else {
                let error = Error::new(Class::Configuration, "connect.no-source");
                return Err(error.with("kind", self.kind()));
            };
            let topic = self.topic(spec).map_err(told)?;
            let with = ServiceContext {
                name: Arc::clone(&context.name),
                project_dir: Arc::clone(&context.project_dir),
                clock: Arc::clone(&context.clock),
            };
            let link = FhirLink::open(&options, &with, &self.places).await?;
            Ok(Box::new(FhirSource::new(link, read, topic, &context)) as Box<dyn Source>)
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let told = |refused: Diagnostic| refused.error().clone();
            let options = self.options(spec).map_err(told)?;
            let Some(write) = options.write.clone() else {
                let error = Error::new(Class::Configuration, "connect.no-sink");
                return Err(error.with("kind", self.kind()));
            };
            let with = ServiceContext {
                name: Arc::clone(&context.name),
                project_dir: Arc::clone(&context.project_dir),
                clock: Arc::clone(&context.clock),
            };
            let link = FhirLink::open(&options, &with, &self.places).await?;
            Ok(Box::new(FhirSink::new(link, &write, &context.schema)?) as Box<dyn Sink>)
        })
    }
}
