//! Sends requests and classifies the responses.

use std::ops::Range;
use std::sync::Arc;

use busbar_connector::{Delivery, Sink, SinkContext, Work, Written};
use busbar_event::{Class, Error, reserved};
use busbar_log::Clock;
use parking_lot::Mutex;
use ureq::http::{HeaderMap, HeaderValue, Uri, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::client::{hidden, read_headers};
use super::refusal::refused;
use super::{Body, Method, Options, shown_url};
use crate::json::json_text;
use crate::limits::{HTTP_BODY_BYTES, HTTP_EXCERPT_BYTES_MAX, HTTP_ROWS_MAX};
use crate::places::Places;
use crate::tls;

/// Sends rows as requests.
pub(super) struct HttpSink(Arc<Sender>);

struct Sender {
    agent: ureq::Agent,
    method: Method,
    body: Body,
    url: String,
    /// The address for messages: without the query, which may hold a token.
    shown: String,
    headers: HeaderMap,
    /// Texts of headers and address that answers must not show, the longest first.
    secrets: Vec<String>,
    clock: Arc<dyn Clock>,
    /// Progress of the current delivery, so that a retry continues where the last attempt ended.
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// Producer, position, first row and number of rows.
    delivery: (Arc<str>, u64, usize, usize),
    /// Ranges of rows still to be sent, one request each; the next one is last.
    open: Vec<Range<usize>>,
    rejected: Vec<(usize, Error)>,
}

impl HttpSink {
    /// Blocks on the disk when the options name a file with authorities.
    pub(super) fn new(
        options: Options,
        context: &SinkContext,
        places: &Places,
    ) -> Result<HttpSink, Error> {
        let (headers, mut secrets) = read_headers(&options.headers, &context.project_dir, places)?;
        let address: Option<Uri> = options.url.parse().ok();
        secrets.extend(address.and_then(|address| address.query().map(str::to_owned)));
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Rows are sent only to the address in the file.
            .max_redirects(0)
            .timeout_global(Some(options.timeout.as_duration()))
            .tls_config(trust(&options, context, places)?)
            .build()
            .into();
        Ok(HttpSink(Arc::new(Sender {
            agent,
            method: options.method,
            body: options.body,
            shown: shown_url(&options.url),
            url: options.url,
            headers,
            secrets,
            clock: Arc::clone(&context.clock),
            progress: Mutex::default(),
        })))
    }
}

impl Sink for HttpSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        let (sender, delivery) = (Arc::clone(&self.0), delivery.clone());
        Box::pin(async move {
            let shown = sender.shown.clone();
            let written = tokio::task::spawn_blocking(move || sender.write(&delivery));
            written.await.map_err(|why| {
                Error::new(Class::Transient, "connect.http-unreachable")
                    .with("url", shown)
                    .caused_by(why)
            })?
        })
    }
}

impl Sender {
    /// Sends the rest of a delivery. Blocks; waits for an earlier call that was abandoned.
    fn write(&self, delivery: &Delivery) -> Result<Written, Error> {
        let this = (
            Arc::clone(&delivery.producer),
            delivery.position,
            delivery.first,
            delivery.events.rows(),
        );
        let mut progress = self.progress.lock();
        if progress.delivery != this {
            *progress = Progress {
                delivery: this,
                open: self.requests(delivery),
                rejected: Vec::new(),
            };
        }
        while let Some(rows) = progress.open.last().cloned() {
            match self.request(delivery, rows.clone()) {
                Ok(mut rejected) => {
                    progress.open.pop();
                    progress.rejected.append(&mut rejected);
                }
                Err(error) if error.class() != Class::Permanent => return Err(error),
                Err(error) if rows.len() == 1 => {
                    progress.open.pop();
                    progress.rejected.push((rows.start, error));
                }
                // At least one of the rows is at fault.
                Err(_) => {
                    let middle = rows.start + rows.len() / 2;
                    progress.open.pop();
                    progress.open.push(middle..rows.end);
                    progress.open.push(rows.start..middle);
                }
            }
        }
        let mut rejected = std::mem::take(&mut *progress).rejected;
        rejected.sort_by_key(|(row, _)| *row);
        Ok(Written::of(rejected))
    }

    /// Splits the rows of a delivery into requests within the bounds; the first request is last.
    fn requests(&self, delivery: &Delivery) -> Vec<Range<usize>> {
        let rows_max = match self.body {
            Body::Event => 1,
            Body::Array | Body::Ndjson => HTTP_ROWS_MAX,
        };
        let payloads = delivery.events.payloads();
        let mut requests = Vec::new();
        let (mut from, mut bytes) = (0, 0);
        for row in 0..delivery.events.rows() {
            let more = payloads.value(row).len();
            if row > from && (row - from >= rows_max || bytes + more > HTTP_BODY_BYTES) {
                requests.push(from..row);
                (from, bytes) = (row, 0);
            }
            bytes += more;
        }
        requests.push(from..delivery.events.rows());
        requests.reverse();
        requests
    }

    /// Sends some rows in one request; returns those that have no text.
    fn request(
        &self,
        delivery: &Delivery,
        rows: Range<usize>,
    ) -> Result<Vec<(usize, Error)>, Error> {
        let payloads = delivery.events.payloads();
        let key = idempotency_key(delivery, &rows);
        let mut body: Vec<u8> = Vec::new();
        let mut rejected = Vec::new();
        if self.body == Body::Event {
            let payload = payloads.value(rows.start);
            let mut tags = delivery.events.tags(rows.start);
            let said = tags.find(|(name, _)| *name == reserved::CONTENT_TYPE);
            let kind = said.and_then(|(_, kind)| HeaderValue::from_str(kind).ok());
            let kind = kind.unwrap_or_else(|| HeaderValue::from_static(kind_of(payload)));
            self.send(payload, kind, &key)?;
            return Ok(rejected);
        }
        let array = self.body == Body::Array;
        for row in rows {
            match json_text(payloads.value(row)) {
                Ok(text) => {
                    if array {
                        body.push(if body.is_empty() { b'[' } else { b',' });
                    }
                    body.extend_from_slice(&text);
                    if !array {
                        body.push(b'\n');
                    }
                }
                Err(error) => rejected.push((row, error)),
            }
        }
        if body.is_empty() {
            return Ok(rejected);
        }
        let kind = match array {
            true => {
                body.push(b']');
                "application/json"
            }
            false => "application/x-ndjson",
        };
        self.send(&body, HeaderValue::from_static(kind), &key)?;
        Ok(rejected)
    }

    /// Sends one request. Blocks.
    fn send(&self, body: &[u8], kind: HeaderValue, key: &str) -> Result<(), Error> {
        let mut request = match self.method {
            Method::Post => self.agent.post(&self.url),
            Method::Put => self.agent.put(&self.url),
        };
        request = request.header("Idempotency-Key", key);
        if !self.headers.contains_key(header::CONTENT_TYPE) {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut answer = request.send(body).map_err(|why| {
            let untrusted = match &why {
                ureq::Error::Io(why) => tls::refused(why),
                ureq::Error::Rustls(why) => tls::refused(why),
                _ => None,
            };
            if let Some(why) = untrusted {
                return tls::untrusted(&self.shown, why);
            }
            let class = match why {
                ureq::Error::BadUri(_) | ureq::Error::Http(_) => Class::Configuration,
                _ => Class::Transient,
            };
            Error::new(class, "connect.http-unreachable")
                .with("url", &self.shown)
                .caused_by(why)
        })?;
        let status = answer.status().as_u16();
        // A connection is reused only when the response was read to its end.
        let said = answer
            .body_mut()
            .with_config()
            .limit(HTTP_EXCERPT_BYTES_MAX)
            .lossy_utf8(true)
            .read_to_string();
        let class = match status {
            200..=299 => return Ok(()),
            300..=399 | 401 | 403 | 404 | 405 | 407 | 501 => Class::Configuration,
            100..=199 | 408 | 425 | 429 | 500.. => Class::Transient,
            _ => Class::Permanent,
        };
        let said = hidden(&self.secrets, said.unwrap_or_default());
        let now = self.clock.now_micros();
        Err(refused(
            class,
            &self.shown,
            (status, answer.headers(), &said),
            now,
        ))
    }
}

/// The TLS settings. Blocks on the disk.
fn trust(options: &Options, context: &SinkContext, places: &Places) -> Result<TlsConfig, Error> {
    let authorities = match &options.tls {
        Some(tls) => tls.authorities(&context.project_dir, places)?,
        None => None,
    };
    let config = TlsConfig::builder();
    Ok(match authorities {
        None => config.build(),
        Some(certificates) => {
            let certificates = certificates.iter();
            let certificates = certificates.map(|der| Certificate::from_der(der).to_owned());
            config.root_certs(RootCerts::from(certificates)).build()
        }
    })
}

/// The idempotency key: equal exactly for the same rows of the same delivery, and for one row also for the same row of another
/// one, where it was made from one event.
pub(crate) fn idempotency_key(delivery: &Delivery, rows: &Range<usize>) -> String {
    let key = match rows.len() {
        1 => format!("{}-{}", delivery.producer, delivery.row_name(rows.start)),
        _ => {
            let (from, to) = (delivery.first + rows.start, delivery.first + rows.end);
            format!("{}-{}-{from}-{to}", delivery.producer, delivery.position)
        }
    };
    key.chars()
        .map(|c| if c.is_ascii_graphic() { c } else { '_' })
        .collect()
}

fn kind_of(payload: &[u8]) -> &'static str {
    if serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok() {
        "application/json"
    } else if std::str::from_utf8(payload).is_ok() {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    }
}
