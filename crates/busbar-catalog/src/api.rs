//! `apis/<name>.yaml`: a query, a flow or an orchestration as a resource of the web, and resources of FHIR.

use busbar_bus::Span;
use busbar_event::format::{
    Decoder, FieldType, FormatSpec, JsonOptions, RESOURCE_TYPES, SchemaSpec, XmlOptions,
    is_resource_type, is_xml_name,
};
use busbar_event::{Class, Error, quote, topic};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{
    API_IN_FLIGHT_DEFAULT, API_IN_FLIGHT_MAX, API_PARAMETERS_MAX, API_URI_BYTES_MAX,
    API_WAIT_SECONDS_DEFAULT, API_WAIT_SECONDS_MAX, EXPRESSION_BYTES_MAX,
};
use crate::{Diagnostic, PathItem, Source};

/// Answers HTTP requests at `/apis/NAME`. Besides its parameters it has one of `query`, `request`, `orchestration` and `fhir`.
/// It reads and writes with the rights of the project: who may call it is all that is checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiSpec {
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What callers give, with their types: in the URL with GET, as a JSON object with POST. Parameters that are not `required`
    /// are null where a caller leaves them out.
    #[serde(default, skip_serializing_if = "no_parameters")]
    pub parameters: SchemaSpec,
    /// Answers with the rows of this SQL query, in which parameters stand as `$name`. GET or POST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Publishes an event and answers with the event that replies to it. POST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<ApiRequest>>,
    /// Starts an instance of this orchestration with the parameters as its input, and answers with what the instance gives. POST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orchestration: Option<String>,
    /// Takes resources of FHIR R4 at `/apis/NAME/TYPE` and `/apis/NAME/TYPE/ID`, Bundles at `/apis/NAME`, and says so at
    /// `/apis/NAME/metadata`. It has no parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fhir: Option<Box<FhirSpec>>,
    /// How long a caller waits for a reply or for the end of an instance, 5 min at most; without it 30 s. Then the answer is 202
    /// with what identifies the request or the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
    /// With `query`: rows of an answer at most; without it 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub rows: Option<u32>,
    /// Calls at the same time; others are refused with 503. Without it 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub in_flight: Option<u16>,
    /// With `request`: it is a web service of SOAP as well, at `/services/NAME`, where its WSDL is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soap: Option<Box<SoapSpec>>,
    /// `false`: every call is refused with 404.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// An event that is published for each call, and where the reply to it is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiRequest {
    /// The topic of the event. Its payload is a JSON object of the parameters.
    pub topic: String,
    /// The parameter that is the event's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The stream with the replies. An event replies to a request when its tag `busbar-request`, its correlation data or its field
    /// `id` says so.
    pub reply: String,
    /// The topic on which MQTT and AMQP clients reply, told to them as the response topic; without it the first topic of the stream
    /// that has no wildcard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The field of the payloads that identifies the request, in the event and in the reply: for systems that keep no tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The field of the replies, in JSON, that says the status of the answer, from 200 to 599: 200 where it is null. From 400 on
    /// a web service answers with a fault, of the caller below 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The field of the replies, in JSON, that is the text of such a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Resources of FHIR R4 that are taken in JSON. Each is checked in its form, published as an event with its id as the key, and
/// answered when it is stored; the tag `change` says what is done with it: `insert` (POST, with an id that the node gives),
/// `upsert` (PUT) or `delete`, of which the payload has type and id only. What is refused is answered with an `OperationOutcome`
/// that says where. Resources are not read and not searched, so that conditions (`If-None-Exist`, `If-Match`, `PUT TYPE?…`) are
/// refused. Entries of a Bundle of type `batch` are taken or refused one by one; those of a `transaction` are taken if all are
/// good, and references to the `urn:uuid:` of one that is created are changed to its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FhirSpec {
    /// Where the events go: a resource of type `Patient` to `TOPIC/Patient`.
    pub topic: String,
    /// The types of resources that are taken; without it all of R4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
}

/// A web service with one operation. Its request has an element for each parameter, and its answer one for each column of the reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SoapSpec {
    /// The columns of the reply with their types and, where it is another than the name, the path in the payload. Replies that
    /// are XML documents are read as XML, all others as JSON.
    pub answer: SchemaSpec,
    /// The namespace of the service's elements; without it `urn:busbar:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name of the operation and of its element; without it the name of the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// How the messages are made. In the style `rpc` all parameters and columns are `required` and none is `json`.
    #[serde(default, skip_serializing_if = "SoapStyle::is_document")]
    pub style: SoapStyle,
    /// The parameters that stand in the header of the envelope, each an element of the service's namespace, in place of the body.
    /// None of them is `json`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// The URL that the WSDL tells callers, for a node behind a proxy; without it the one that the WSDL was asked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// How messages of a web service are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SoapStyle {
    /// Document/literal, wrapped: one element of the schema.
    #[default]
    Document,
    /// Rpc/literal: parts with types.
    Rpc,
}

impl SoapStyle {
    fn is_document(&self) -> bool {
        *self == SoapStyle::Document
    }
}

/// What an API does.
#[derive(Clone, Copy, Debug)]
pub enum ApiWork<'a> {
    /// `query`.
    Query(&'a str),
    /// `request`.
    Request(&'a ApiRequest),
    /// `orchestration`.
    Orchestration(&'a str),
    /// `fhir`.
    Fhir(&'a FhirSpec),
}

impl ApiSpec {
    /// What it does; none where the file does not say exactly one thing.
    pub fn work(&self) -> Option<ApiWork<'_>> {
        let works = [
            self.query.as_deref().map(ApiWork::Query),
            self.request.as_deref().map(ApiWork::Request),
            self.orchestration.as_deref().map(ApiWork::Orchestration),
            self.fhir.as_deref().map(ApiWork::Fhir),
        ];
        let mut works = works.into_iter().flatten();
        match (works.next(), works.next()) {
            (Some(work), None) => Some(work),
            _ => None,
        }
    }

    /// How long a caller waits at most.
    pub fn wait(&self) -> std::time::Duration {
        let default = std::time::Duration::from_secs(API_WAIT_SECONDS_DEFAULT);
        self.within.map_or(default, Span::as_duration)
    }

    /// Calls at the same time.
    pub fn calls_max(&self) -> usize {
        usize::from(self.in_flight.unwrap_or(API_IN_FLIGHT_DEFAULT))
    }

    /// Checks what the types of the fields do not say.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, source: &Source) -> Result<(), Diagnostic> {
        let new = |code| Error::new(Class::Configuration, code);
        let at = |path: &[PathItem<'static>], error| source.diagnostic(path, None, error);
        let Some(work) = self.work() else {
            return Err(at(&[], new("catalog.api-one")));
        };
        if self.parameters.0.len() > API_PARAMETERS_MAX {
            let error = new("catalog.api-parameters").with("most", API_PARAMETERS_MAX);
            return Err(at(&["parameters".into()], error));
        }
        for field in &self.parameters.0 {
            let name = &field.name;
            let is_word = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !is_word || field.path.is_some() || field.unit.is_some() {
                let error = new("catalog.api-parameter").with("name", busbar_event::quote(name));
                return Err(at(&["parameters".into()], error));
            }
        }
        self.parameters
            .schema()
            .map_err(|error| at(&["parameters".into()], error))?;
        if self
            .in_flight
            .is_some_and(|n| !(1..=API_IN_FLIGHT_MAX).contains(&n))
        {
            let error = new("catalog.api-in-flight").with("most", API_IN_FLIGHT_MAX);
            return Err(at(&["in_flight".into()], error));
        }
        if self.wait() > std::time::Duration::from_secs(API_WAIT_SECONDS_MAX) {
            let error = new("catalog.api-within").with("most", API_WAIT_SECONDS_MAX);
            return Err(at(&["within".into()], error));
        }
        let is_query = matches!(work, ApiWork::Query(_));
        let misplaced = [
            ("rows", self.rows.is_some() && !is_query),
            (
                "within",
                self.within.is_some() && (is_query || self.fhir.is_some()),
            ),
            (
                "parameters",
                !self.parameters.0.is_empty() && self.fhir.is_some(),
            ),
            ("soap", self.soap.is_some() && self.request.is_none()),
        ];
        if let Some((key, _)) = misplaced.iter().find(|(_, wrong)| *wrong) {
            let error = new("catalog.api-key").with("key", key);
            return Err(source.diagnostic_at_key(&[], key, error));
        }
        if let Some(soap) = &self.soap {
            soap.check(&self.parameters, source)?;
        }
        match work {
            ApiWork::Query(text) => {
                let code = match text {
                    _ if text.len() > EXPRESSION_BYTES_MAX => "catalog.expression-too-long",
                    _ if text.trim().is_empty() => "catalog.expression-empty",
                    _ if self.rows == Some(0) => {
                        return Err(at(&["rows".into()], new("catalog.api-rows")));
                    }
                    _ => return Ok(()),
                };
                let error = new(code)
                    .with("kind", "query")
                    .with("bytes_max", EXPRESSION_BYTES_MAX);
                Err(at(&["query".into()], error))
            }
            ApiWork::Request(request) => {
                for (key, topic) in [
                    ("topic", Some(&request.topic)),
                    ("reply_to", request.reply_to.as_ref()),
                ] {
                    if let Some(topic) = topic {
                        topic::check(topic)
                            .map_err(|error| at(&["request".into(), key.into()], error))?;
                    }
                }
                let is_parameter = |name: &String| {
                    let mut fields = self.parameters.0.iter();
                    fields.any(|field| field.name == *name)
                };
                if let Some(key) = &request.key
                    && !is_parameter(key)
                {
                    let error = new("catalog.api-no-parameter").with("name", key);
                    return Err(at(&["request".into(), "key".into()], error));
                }
                if let Some(id) = &request.id
                    && (id.is_empty() || is_parameter(id))
                {
                    let error = new("catalog.api-id").with("name", id);
                    return Err(at(&["request".into(), "id".into()], error));
                }
                Ok(())
            }
            ApiWork::Orchestration(_) => Ok(()),
            ApiWork::Fhir(fhir) => {
                topic::check(&fhir.topic)
                    .map_err(|error| at(&["fhir".into(), "topic".into()], error))?;
                let mut types = fhir.types.iter();
                match types.find(|name| !is_resource_type(name)) {
                    None => Ok(()),
                    Some(name) => {
                        let error = new("event.fhir-unknown-type").with("detail", quote(name));
                        let help = crate::suggest(name, RESOURCE_TYPES);
                        let path = ["fhir".into(), "types".into()];
                        Err(at(&path, error).with_help(help))
                    }
                }
            }
        }
    }
}

impl SoapSpec {
    /// The name of the operation of the API `api`.
    pub fn operation<'a>(&'a self, api: &'a str) -> &'a str {
        self.operation.as_deref().unwrap_or(api)
    }

    /// The namespace of the elements of the API `api`.
    pub fn namespace(&self, api: &str) -> String {
        let default = || format!("urn:busbar:{api}");
        self.namespace.clone().unwrap_or_else(default)
    }

    fn check(&self, parameters: &SchemaSpec, source: &Source) -> Result<(), Diagnostic> {
        let wrong = |key: &'static str, code, name: &str| {
            let error = Error::new(Class::Configuration, code)
                .with("name", quote(name))
                .with("most", API_URI_BYTES_MAX);
            source.diagnostic(&["soap".into(), key.into()], None, error)
        };
        let is_uri = |text: &str| {
            !text.is_empty()
                && text.len() <= API_URI_BYTES_MAX
                && !text.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        if let Some(name) = &self.operation
            // Its parameters are found by a dotted path.
            && (!is_xml_name(name) || name.contains('.'))
        {
            return Err(wrong("operation", "catalog.api-operation", name));
        }
        if let Some(name) = self.namespace.as_ref().filter(|name| !is_uri(name)) {
            return Err(wrong("namespace", "catalog.api-namespace", name));
        }
        let is_url = |text: &str| {
            let mut schemes = ["http://", "https://"].iter();
            is_uri(text)
                && schemes.any(|scheme| text.len() > scheme.len() && text.starts_with(scheme))
        };
        if let Some(url) = self.address.as_ref().filter(|url| !is_url(url)) {
            return Err(wrong("address", "catalog.api-address", url));
        }
        for (at, name) in self.headers.iter().enumerate() {
            let mut fields = parameters.0.iter();
            let field = fields.find(|field| field.name == *name);
            if field.is_none() || self.headers[..at].contains(name) {
                return Err(wrong("headers", "catalog.api-no-parameter", name));
            }
            if field.is_some_and(|field| field.field_type == FieldType::Json) {
                return Err(wrong("headers", "catalog.api-soap-json", name));
            }
            // They are elements of one schema.
            if let Some(operation) = &self.operation
                && name
                    .strip_prefix(operation.as_str())
                    .is_some_and(|rest| matches!(rest, "" | "Response"))
            {
                return Err(wrong("headers", "catalog.api-header-name", name));
            }
        }
        if self.style == SoapStyle::Rpc {
            let body = parameters.0.iter();
            let body = body.filter(|field| !self.headers.contains(&field.name));
            let parts = body.chain(&self.answer.0);
            for field in parts {
                if !field.required {
                    return Err(wrong("style", "catalog.api-rpc-required", &field.name));
                }
                if field.field_type == FieldType::Json {
                    return Err(wrong("style", "catalog.api-soap-json", &field.name));
                }
            }
        }
        if self.answer.0.is_empty() {
            return Err(wrong("answer", "catalog.api-answer", ""));
        }
        let names: Vec<&str> = self.answer.0.iter().map(|f| f.name.as_str()).collect();
        let columns: Vec<usize> = (0..names.len()).collect();
        let readable = || {
            let schema = self.answer.schema()?;
            for name in &names {
                if !is_xml_name(name) {
                    let error = Error::new(Class::Configuration, "event.xml-name");
                    return Err(error.with("name", quote(name)));
                }
            }
            for format in [
                FormatSpec::Json(JsonOptions::default()),
                FormatSpec::Xml(XmlOptions::default()),
            ] {
                Decoder::new(&format, &schema, &columns)?;
            }
            Ok(())
        };
        let path = ["soap".into(), "answer".into()];
        readable().map_err(|error: Error| source.diagnostic(&path, None, error))
    }
}

fn no_parameters(parameters: &SchemaSpec) -> bool {
    parameters.0.is_empty()
}

fn yes() -> bool {
    true
}
