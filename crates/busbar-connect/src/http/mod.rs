//! `http`: rows go out as HTTP requests, and `call` steps ask REST services.
//!
//! ```yaml
//! http: { url: "https://erp.example/api/alarms", body: array, headers: { Authorization: { env: ERP_TOKEN } } }
//! ```
//!
//! A request carries an `Idempotency-Key` made of the producer and the rows, so that a receiver that remembers keys applies a
//! repeated request once.

mod client;
mod refusal;
mod rest;
mod sink;

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_bus::Span;
use busbar_catalog::{CallSpec, ConnectionSpec, Diagnostic, Project, Value};
use busbar_connector::{
    CallFault, CallForm, Connector, HIDDEN, LiteralSecret, Roles, Service, ServiceContext, Sink,
    SinkContext, Work,
};
use busbar_event::{Class, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ureq::http::{HeaderName, HeaderValue, Uri, header};

use crate::limits::HTTP_TIMEOUT_MAX;
use crate::places::Places;
use crate::secret::{self, Secret, refuse_placeholder};
use crate::tls::Tls;
pub(crate) use client::{AnswerPieces, HttpClient, Remote};
pub(crate) use refusal::asked_pause;
pub(crate) use rest::{RestForm, check_head, check_headers, refused_answer, status_class};
use sink::HttpSink;
pub(crate) use sink::idempotency_key;

/// The connector.
pub struct Http {
    places: Places,
}

/// Sends rows as HTTP requests, or is asked by `call` steps, which say what is behind the address and need `url`, `headers`,
/// `tls` and `timeout` only.
///
/// At least once: a request whose response is lost is sent again with the same `Idempotency-Key`, and so it is after a crash where
/// a request is of one row that was made from one event. Other rows may be sent again under other keys then, because batches are
/// formed anew. Responses 2xx are success. 408, 425, 429 and 5xx are
/// retried, after 429 and 503 not before the time in `Retry-After` (seconds or a date; ten minutes at most). 3xx, 401,
/// 403, 404, 405, 407 and 501 stop the sink until the connection is changed. After any other response the batch is split
/// until the rows at fault are found; each becomes a dead letter. Redirections are not followed.
///
/// In an array or lines, a payload that is text but not JSON is sent as a JSON string; one that is not
/// even text becomes a dead letter. `body: event` sends each payload as it is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The address to send to, `http` or `https`.
    url: String,
    /// The method.
    #[serde(default)]
    method: Method,
    /// What a request carries: one event, a JSON array of events, or a line for each event.
    #[serde(default)]
    body: Body,
    /// Headers; a value is a text, or `{ env: NAME }` to take it from the environment.
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    /// Authorities to trust with `https`; by default the usual ones. A certificate that none of them has signed, or that
    /// is for another name, stops the sink until the connection is changed.
    tls: Option<Tls>,
    /// How long a request may take.
    #[serde(default = "ten_seconds")]
    timeout: Span,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Method {
    #[default]
    Post,
    Put,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Body {
    Event,
    #[default]
    Array,
    Ndjson,
}

/// Whether a header of this name, or an address with such a query, usually holds a secret.
fn is_telling(name: &str) -> bool {
    let name = name.split_once('?').map_or(name, |(_, query)| query);
    let name = name.to_ascii_lowercase();
    let words = [
        "auth",
        "token",
        "key",
        "secret",
        "password",
        "cookie",
        "signature",
    ];
    words.iter().any(|word| name.contains(word))
}

/// Headers that the client sets itself and that cannot be configured.
const MANAGED: [HeaderName; 5] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::HOST,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// An address for messages: without the query, which may hold a token.
pub(crate) fn shown_url(url: &str) -> String {
    let shown = url.split(['?', '#']).next();
    shown.unwrap_or_default().to_owned()
}

pub(crate) fn ten_seconds() -> Span {
    Span::from_micros(10_000_000)
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

impl Http {
    pub(crate) fn new(places: Places) -> Http {
        Http { places }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<Options, Diagnostic> {
        let options: Options = spec.options.read()?;
        check_remote(spec, &options.remote(), &self.places)?;
        Ok(options)
    }
}

/// What all kinds of connections over HTTP say.
pub(crate) struct RemoteOptions<'a> {
    pub url: &'a str,
    pub headers: &'a BTreeMap<String, Secret>,
    pub tls: Option<&'a Tls>,
    pub timeout: Span,
}

/// Checks what all kinds of connections over HTTP say.
///
/// # Errors
/// What is wrong, and where.
pub(crate) fn check_remote(
    spec: &ConnectionSpec,
    options: &RemoteOptions<'_>,
    places: &Places,
) -> Result<(), Diagnostic> {
    refuse_placeholder(spec, &["url"])?;
    let refuse = |key: &str, code| {
        spec.options
            .diagnostic(key, Error::new(Class::Configuration, code))
    };
    let uri: Uri = options
        .url
        .parse()
        .map_err(|_| refuse("url", "connect.http-url"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
        return Err(refuse("url", "connect.http-url"));
    }
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err(refuse("url", "connect.http-password-in-url"));
    }
    for (name, value) in options.headers {
        refuse_placeholder(spec, &["headers", name])?;
        let fits = name
            .parse::<HeaderName>()
            .is_ok_and(|name| !MANAGED.contains(&name))
            && value
                .text()
                .is_none_or(|v| HeaderValue::from_str(v).is_ok());
        if !fits {
            return Err(refuse("headers", "connect.http-header"));
        }
    }
    if let Some(ca) = options.tls.and_then(|tls| tls.ca.as_deref()) {
        places.check(ca).map_err(|code| refuse("tls", code))?;
    }
    let timeout = options.timeout.as_duration();
    if timeout.is_zero() || timeout > HTTP_TIMEOUT_MAX {
        let error = Error::new(Class::Configuration, "connect.http-timeout");
        let error = error.with("most_s", HTTP_TIMEOUT_MAX.as_secs());
        return Err(spec.options.diagnostic("timeout", error));
    }
    Ok(())
}

/// The secrets that stand in the file: headers, and the query of the address.
pub(crate) fn address_secrets(spec: &ConnectionSpec) -> Vec<LiteralSecret> {
    let mut secrets = Vec::new();
    if let Some(Value::Map(headers)) = spec
        .options
        .node()
        .child("headers".into())
        .map(|n| &n.value)
    {
        for (name, _) in headers
            .iter()
            .filter(|(_, value)| !matches!(value.value, Value::Map(_)))
        {
            secrets.push(LiteralSecret {
                path: vec!["headers".into(), name.text.clone()],
                shown: HIDDEN.into(),
            });
        }
    }
    let url = spec.options.node().child("url".into()).map(|n| &n.value);
    if let Some(Value::Text(url)) = url
        && let Some((address, _)) = url.split_once('?')
    {
        secrets.push(LiteralSecret {
            path: vec!["url".into()],
            shown: format!("{address}?{HIDDEN}"),
        });
    }
    secrets
}

/// Those that are secrets by their names; others are none, such as `X-Source: plant`.
pub(crate) fn telling(
    spec: &ConnectionSpec,
    mut secrets: Vec<LiteralSecret>,
) -> Vec<LiteralSecret> {
    secrets.retain(
        |secret| match spec.options.at(&secret.path).map(|node| &node.value) {
            Some(Value::Text(url)) if secret.path == ["url"] => is_telling(url),
            _ => secret.path.last().is_some_and(|name| is_telling(name)),
        },
    );
    secrets
}

impl Connector for Http {
    fn kind(&self) -> &'static str {
        "http"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        self.options(spec).map(|_| Roles {
            source: false,
            sink: true,
            service: true,
        })
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

    fn call_form(
        &self,
        spec: &ConnectionSpec,
        call: &CallSpec,
    ) -> Result<Arc<dyn CallForm>, CallFault> {
        let unusable = |refused: Diagnostic| CallFault::at("connection", refused.error().clone());
        let options = self.options(spec).map_err(unusable)?;
        Ok(Arc::new(rest::RestForm::new(&options.url, call)?))
    }

    fn service<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn Service>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let most = crate::limits::CALL_ANSWER_BYTES_MAX;
            let remote = Remote::of(&options.remote(), most);
            let client = HttpClient::open(remote, &context, &self.places).await?;
            Ok(Arc::new(client) as Arc<dyn Service>)
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            // Reads a file with authorities, which must not keep others waiting.
            let places = self.places.clone();
            let opened =
                tokio::task::spawn_blocking(move || HttpSink::new(options, &context, &places));
            let sink = opened.await.map_err(|why| {
                Error::new(Class::Transient, "connect.failed-within").caused_by(why)
            })??;
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }
}
