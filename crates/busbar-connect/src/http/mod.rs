//! `http`: rows go out as HTTP requests.
//!
//! ```yaml
//! http: { url: "https://erp.example/api/alarms", body: array, headers: { Authorization: { env: ERP_TOKEN } } }
//! ```
//!
//! A request carries an `Idempotency-Key` made of the producer and its position, so that a receiver
//! that remembers keys sees each batch once.

use std::collections::BTreeMap;
use std::time::Duration;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic};
use busbar_event::{Class, Error, quote};
use busbar_flow::{
    Connector, Delivery, Roles, Sink, SinkContext, Source, SourceContext, Work, Written,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ureq::http::{HeaderName, HeaderValue, Uri};

use crate::limits::{HTTP_EXCERPT_BYTES_MAX, HTTP_ROWS_MAX, HTTP_TIMEOUT_MAX};

/// The connector.
pub struct Http;

/// Sends rows as HTTP requests.
///
/// At least once: a request whose answer is lost is sent again with the same `Idempotency-Key`.
/// Answers 2xx are success; 408, 425, 429 and 5xx are tried again; 401, 403, 404 and 405 stop the
/// sink until the connection is changed; any other answer makes dead letters.
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

/// A text that may come from the environment, so that it stands in no file.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Secret {
    /// The text itself.
    Text(String),
    /// The name of the variable that holds it.
    Env {
        /// The variable.
        env: String,
    },
}

impl Secret {
    /// The text.
    pub(crate) fn read(&self) -> Result<String, Error> {
        match self {
            Secret::Text(text) => Ok(text.clone()),
            Secret::Env { env } => std::env::var(env).map_err(|_| {
                Error::new(Class::Configuration, "connect.no-variable").with("name", env)
            }),
        }
    }
}

/// Never shows what it holds.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Secret::Text(_) => f.write_str("(hidden)"),
            Secret::Env { env } => write!(f, "${env}"),
        }
    }
}

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
        for name in options.headers.keys() {
            if name.parse::<HeaderName>().is_err() {
                return Err(refuse("headers", "connect.http-header"));
            }
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
        _: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let options = Http::options(spec).map_err(|refused| refused.error().clone())?;
            Ok(Box::new(HttpSink::new(options)?) as Box<dyn Sink>)
        })
    }
}

#[derive(Clone)]
struct HttpSink {
    agent: ureq::Agent,
    options: Options,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl HttpSink {
    fn new(options: Options) -> Result<HttpSink, Error> {
        let mut headers = Vec::new();
        for (name, secret) in &options.headers {
            let refuse = || Error::new(Class::Configuration, "connect.http-header");
            let mut value = HeaderValue::from_str(&secret.read()?).map_err(|_| refuse())?;
            value.set_sensitive(true);
            headers.push((name.parse().map_err(|_| refuse())?, value));
        }
        let timeout: Duration = options.timeout.as_duration();
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Where rows go is what the file says, not what an answer says.
            .max_redirects(0)
            .timeout_global(Some(timeout))
            .build()
            .into();
        Ok(HttpSink {
            agent,
            options,
            headers,
        })
    }

    /// One request. Blocks.
    fn send(&self, body: Vec<u8>, kind: &str, key: &str) -> Result<(), Error> {
        let mut request = match self.options.method {
            Method::Post => self.agent.post(&self.options.url),
            Method::Put => self.agent.put(&self.options.url),
        };
        request = request
            .header("Content-Type", kind)
            .header("Idempotency-Key", key);
        for (name, value) in &self.headers {
            request = request.header(name.clone(), value.clone());
        }
        let mut answer = request.send(&body[..]).map_err(|why| {
            let class = match why {
                ureq::Error::BadUri(_) | ureq::Error::Http(_) => Class::Configuration,
                _ => Class::Transient,
            };
            Error::new(class, "connect.http-unreachable")
                .with("url", &self.options.url)
                .caused_by(why)
        })?;
        let status = answer.status().as_u16();
        let class = match status {
            200..=299 => return Ok(()),
            408 | 425 | 429 | 500.. => Class::Transient,
            300..=399 | 401 | 403 | 404 | 405 => Class::Configuration,
            _ => Class::Permanent,
        };
        let said = answer
            .body_mut()
            .with_config()
            .limit(HTTP_EXCERPT_BYTES_MAX)
            .read_to_string();
        Err(Error::new(class, "connect.http-refused")
            .with("url", &self.options.url)
            .with("status", status)
            .with("said", quote(said.unwrap_or_default().trim())))
    }
}

impl Sink for HttpSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(async move {
            let sink = self.clone();
            let delivery = delivery.clone();
            let written = tokio::task::spawn_blocking(move || sink.write_blocking(&delivery));
            written.await.map_err(|why| {
                Error::new(Class::Transient, "connect.http-unreachable")
                    .with("url", &self.options.url)
                    .caused_by(why)
            })?
        })
    }
}

impl HttpSink {
    fn write_blocking(&self, delivery: &Delivery) -> Result<Written, Error> {
        let payloads = delivery.events.payloads();
        let rows = delivery.events.rows();
        let key =
            |from: usize| format!("{}-{}-{from}-{rows}", delivery.producer, delivery.position);
        let mut written = Written::default();
        if self.options.body == Body::Event {
            for row in 0..rows {
                match self.send(payloads.value(row).to_vec(), "application/json", &key(row)) {
                    Err(error) if error.class() == Class::Permanent => {
                        written.rejected.push((row, error))
                    }
                    other => other?,
                }
            }
            return Ok(written);
        }
        for from in (0..rows).step_by(HTTP_ROWS_MAX) {
            let part = from..(from + HTTP_ROWS_MAX).min(rows);
            let (body, kind) = match self.options.body {
                Body::Ndjson => (
                    joined(part, |row| payloads.value(row), b"", b"\n", b"\n"),
                    "application/x-ndjson",
                ),
                _ => (
                    joined(part, |row| payloads.value(row), b"[", b",", b"]"),
                    "application/json",
                ),
            };
            self.send(body, kind, &key(from))?;
        }
        Ok(written)
    }
}

/// Payloads as one body. A payload that is not JSON becomes a JSON string, so that the body is one.
fn joined<'a>(
    rows: std::ops::Range<usize>,
    payload: impl Fn(usize) -> &'a [u8],
    open: &[u8],
    between: &[u8],
    close: &[u8],
) -> Vec<u8> {
    let mut body = open.to_vec();
    for (index, row) in rows.enumerate() {
        if index > 0 {
            body.extend(between);
        }
        let payload = payload(row);
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok();
        if is_json && !payload.contains(&b'\n') {
            body.extend(payload);
        } else if is_json {
            // A line break between tokens would end a line of NDJSON.
            body.extend(payload.iter().map(|byte| {
                if *byte == b'\n' || *byte == b'\r' {
                    b' '
                } else {
                    *byte
                }
            }));
        } else {
            let text = String::from_utf8_lossy(payload);
            body.extend(serde_json::to_vec(&text).expect("a text is always JSON"));
        }
    }
    body.extend(close);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json_whatever_the_payloads_are() {
        let payloads: [&[u8]; 3] = [b"{\"a\":\n1}", b"plain", b"\xff"];
        let array = joined(0..3, |row| payloads[row], b"[", b",", b"]");
        let value: serde_json::Value = serde_json::from_slice(&array).expect("JSON");
        assert_eq!(value, serde_json::json!([{ "a": 1 }, "plain", "\u{fffd}"]));
        let lines = joined(0..3, |row| payloads[row], b"", b"\n", b"\n");
        assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 3);
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::Text("hunter2".into());
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert!(
            Secret::Env {
                env: "BUSBAR_TEST_NO_SUCH".into()
            }
            .read()
            .is_err()
        );
    }
}
