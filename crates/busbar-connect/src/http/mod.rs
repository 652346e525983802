//! `http`: rows go out as HTTP requests.
//!
//! ```yaml
//! http: { url: "https://erp.example/api/alarms", body: array, headers: { Authorization: { env: ERP_TOKEN } } }
//! ```
//!
//! A request carries an `Idempotency-Key` made of the producer, its position and the rows, so that a
//! receiver that remembers keys takes a repeated request once.

mod sink;

use std::collections::BTreeMap;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic};
use busbar_event::{Class, Error};
use busbar_flow::{Connector, Roles, Sink, SinkContext, Source, SourceContext, Work};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ureq::http::{HeaderName, HeaderValue, Uri, header};

use crate::limits::HTTP_TIMEOUT_MAX;
use crate::secret::Secret;
use crate::tls::Tls;
use sink::HttpSink;

/// The connector.
pub struct Http;

/// Sends rows as HTTP requests.
///
/// At least once: a request whose answer is lost is sent again with the same `Idempotency-Key`; after
/// a crash rows may come once more under other keys, because batches are made anew.
/// Answers 2xx are success; 408, 425, 429 and 5xx are tried again, after 429 and 503 not before the time
/// that `Retry-After` names (seconds or a date; ten minutes at most); 3xx, 401, 403, 404, 405, 407 and
/// 501 stop the sink until the connection is changed. After any other answer the batch is split until
/// the rows at fault are found; each becomes a dead letter. Redirections are not followed.
///
/// In an array or lines, a payload that is text but not JSON is sent as a JSON string; one that is not
/// even text becomes a dead letter. `body: event` sends each payload as it is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Where to send to, `http` or `https`.
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
    /// Whom to trust with `https`; the usual authorities when not given. A certificate that they have not
    /// signed, or that is for another name, stops the sink until the connection is changed.
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

/// Headers that frame a request; they follow from what is sent.
const MANAGED: [HeaderName; 5] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::HOST,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn ten_seconds() -> Span {
    Span::from_micros(10_000_000)
}

impl Http {
    fn options(spec: &ConnectionSpec) -> Result<Options, Diagnostic> {
        let options: Options = spec.options.read()?;
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
        for (name, value) in &options.headers {
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
        if let Some(ca) = options.tls.as_ref().and_then(|tls| tls.ca.as_deref()) {
            crate::file::check_path(ca).map_err(|code| refuse("tls", code))?;
        }
        let timeout = options.timeout.as_duration();
        if timeout.is_zero() || timeout > HTTP_TIMEOUT_MAX {
            let error = Error::new(Class::Configuration, "connect.http-timeout");
            let error = error.with("most_s", HTTP_TIMEOUT_MAX.as_secs());
            return Err(spec.options.diagnostic("timeout", error));
        }
        Ok(options)
    }
}

impl Connector for Http {
    fn kind(&self) -> &'static str {
        "http"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        Http::options(spec).map(|_| Roles {
            source: false,
            sink: true,
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(Options).to_value()
    }

    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        _: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        Box::pin(async move {
            Err(Error::new(Class::Configuration, "connect.no-source").with("kind", &spec.kind))
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let options = Http::options(spec).map_err(|refused| refused.error().clone())?;
            Ok(Box::new(HttpSink::new(options, &context)?) as Box<dyn Sink>)
        })
    }
}
