//! gRPC: frames, statuses, and messages as JSON.

use busbar_catalog::CallSpec;
use busbar_connector::{
    CallEscapes, CallFault, CallForm, CallParts, Escape, ServiceAnswer, ServiceRequest,
};
use busbar_event::{Class, Error, quote};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::codec::{self, CodecFault};
use super::proto::{ProtoFile, ProtoMethod};
use super::{GrpcOptions, read_proto};
use crate::http::{check_head, check_headers, refused_answer, shown_url, status_class};
use crate::reason::reason;

/// The form of a step.
pub(super) struct GrpcForm {
    file: ProtoFile,
    method: ProtoMethod,
    path: String,
    shown: String,
    timeout: String,
}

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The codes with their names, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl GrpcForm {
    /// Checks a step.
    ///
    /// # Errors
    /// What does not fit, and where.
    pub fn new(options: &GrpcOptions, call: &CallSpec) -> Result<GrpcForm, CallFault> {
        let fault = |key, code| CallFault::at(key, Error::new(Class::Configuration, code));
        if call.path.is_some() {
            return Err(fault("path", "connect.grpc-not-rest"));
        }
        if call.action.is_some() {
            return Err(fault("action", "connect.call-no-action"));
        }
        check_headers(call)?;
        let file =
            read_proto(&options.proto).map_err(|error| CallFault::at("connection", error))?;
        let names = || file.methods.keys().map(String::as_str);
        let Some(name) = &call.method else {
            let error = Error::new(Class::Configuration, "connect.grpc-method");
            let known = names().collect::<Vec<_>>().join(", ");
            return Err(CallFault {
                path: Vec::new(),
                ..CallFault::at("method", error.with("known", known))
            });
        };
        let Some(method) = file.methods.get(name).cloned() else {
            let error = Error::new(Class::Configuration, "connect.grpc-unknown-method");
            return Err(CallFault {
                help: busbar_catalog::suggest(name, names()),
                ..CallFault::at("method", error.with("method", quote(name)))
            });
        };
        if method.streams {
            return Err(fault("method", "connect.grpc-streams"));
        }
        for field in &call.answer.0 {
            let path = field.path.as_deref().unwrap_or(&field.name);
            let first = path.split('.').next().unwrap_or(path);
            let known = || {
                file.messages[method.output]
                    .fields
                    .iter()
                    .map(|f| f.name.as_str())
            };
            if !known().any(|known| known == first) {
                let error = Error::new(Class::Configuration, "connect.grpc-no-field")
                    .with("field", quote(first))
                    .with("message", &file.messages[method.output].name);
                return Err(CallFault {
                    help: busbar_catalog::suggest(first, known()),
                    ..CallFault::at("answer", error)
                });
            }
        }
        Ok(GrpcForm {
            method,
            path: format!("/{name}"),
            shown: format!("{}/{name}", shown_url(&options.url).trim_end_matches('/')),
            timeout: format!("{}m", options.timeout.as_duration().as_millis().max(1)),
            file,
        })
    }

    fn unfit(&self, fault: &CodecFault) -> Error {
        Error::new(Class::Permanent, fault.code)
            .with("url", &self.shown)
            .with("field", &fault.field)
    }

    /// The message within a frame.
    fn message<'a>(&self, frame: &'a [u8]) -> Result<&'a [u8], Error> {
        let broken =
            || Error::new(Class::Permanent, "connect.grpc-broken").with("url", &self.shown);
        let (flag, rest) = frame
            .split_first()
            .ok_or_else(|| broken().with("field", ""))?;
        let (length, message) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| broken().with("field", ""))?;
        let is_whole = message.len() == u32::from_be_bytes(*length) as usize;
        // Nobody was told that it may be compressed.
        match *flag == 0 && is_whole {
            true => Ok(message),
            false => Err(broken().with("field", "")),
        }
    }
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(message.len() + 5);
    frame.push(0);
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

/// What to do about a code; none for one that is taken.
fn code_class(code: u16) -> Option<Class> {
    match code {
        0 => None,
        // Cancelled, deadline exceeded, resource exhausted, aborted, unavailable.
        1 | 4 | 8 | 10 | 14 => Some(Class::Transient),
        _ => Some(Class::Permanent),
    }
}

impl CallForm for GrpcForm {
    fn escapes(&self) -> CallEscapes {
        CallEscapes {
            path: Escape::Percent,
            body: Escape::Json,
        }
    }

    fn request(&self, parts: CallParts) -> Result<ServiceRequest, Error> {
        let object = match &parts.body {
            None => Value::Object(serde_json::Map::new()),
            Some(body) => serde_json::from_slice(body).map_err(|why| {
                let error = Error::new(Class::Permanent, "connect.grpc-not-json");
                error.with("url", &self.shown).caused_by(why)
            })?,
        };
        let message = codec::encode(&self.file, self.method.input, &object);
        let message = message.map_err(|fault| self.unfit(&fault))?;
        let mut headers = parts.headers;
        headers.retain(|(name, _)| !name.to_ascii_lowercase().starts_with("grpc-"));
        headers.push(("content-type".into(), "application/grpc".into()));
        headers.push(("te".into(), "trailers".into()));
        headers.push(("grpc-timeout".into(), self.timeout.clone()));
        check_head(&self.path, &headers)?;
        Ok(ServiceRequest {
            method: "POST".into(),
            path: self.path.clone(),
            headers,
            body: frame(&message),
            statement: None,
        })
    }

    fn answer(&self, answer: ServiceAnswer) -> Result<Bytes, Error> {
        if answer.status != 200 {
            let class = status_class(answer.status).unwrap_or(Class::Permanent);
            return Err(refused_answer(class, &self.shown, &answer));
        }
        let code = answer
            .headers
            .get(STATUS)
            .and_then(|code| code.to_str().ok());
        let Some(code) = code.and_then(|code| code.parse::<u16>().ok()) else {
            // It broke off before its end, or is no gRPC service.
            let error = Error::new(Class::Transient, "connect.grpc-no-status");
            return Err(error.with("url", &self.shown));
        };
        if let Some(class) = code_class(code) {
            let said = answer.headers.get(MESSAGE).map(HeaderValue::as_bytes);
            return Err(Error::new(class, "connect.grpc-refused")
                .with("url", &self.shown)
                .with("code", CODES.get(usize::from(code)).unwrap_or(&"?"))
                .with("said", reason(&percent_decoded(said.unwrap_or_default()))));
        }
        let message = self.message(&answer.body)?;
        let object = codec::decode(&self.file, self.method.output, message);
        let object = object.map_err(|fault| self.unfit(&fault))?;
        Ok(object.to_string().into())
    }

    fn is_unavailable(&self, answer: &ServiceAnswer) -> bool {
        let code = answer.headers.get(STATUS).map(HeaderValue::as_bytes);
        match (answer.status, code) {
            // Cancelled, deadline exceeded, resource exhausted, unavailable, or broken off before the end.
            (200, Some(b"1" | b"4" | b"8" | b"14") | None) => true,
            (200, Some(_)) => false,
            (status, _) => matches!(status, 408 | 425 | 429 | 502 | 503 | 504),
        }
    }

    fn canned(&self, status: Option<u16>, body: Bytes) -> Result<ServiceAnswer, Error> {
        let code = status.unwrap_or(0);
        let mut headers = HeaderMap::new();
        headers.insert(STATUS, HeaderValue::from(code));
        let mut answer = ServiceAnswer {
            status: 200,
            headers,
            body: Bytes::new(),
        };
        if code_class(code).is_some() {
            if let Ok(said) = HeaderValue::from_bytes(&body) {
                answer.headers.insert(MESSAGE, said);
            }
            return Ok(answer);
        }
        let object = match body.is_empty() {
            true => Value::Object(serde_json::Map::new()),
            false => serde_json::from_slice(&body).map_err(|why| {
                let error = Error::new(Class::Configuration, "connect.grpc-not-json");
                error.with("url", &self.shown).caused_by(why)
            })?,
        };
        let message = codec::encode(&self.file, self.method.output, &object);
        let message = message.map_err(|fault| {
            Error::new(Class::Configuration, fault.code)
                .with("url", &self.shown)
                .with("field", &fault.field)
        })?;
        answer.body = frame(&message);
        Ok(answer)
    }

    fn shown(&self, request: &ServiceRequest) -> Bytes {
        let message = self.message(&request.body).unwrap_or_default();
        match codec::decode(&self.file, self.method.input, message) {
            Ok(object) => object.to_string().into(),
            Err(_) => Bytes::new(),
        }
    }
}

/// `%20` and the like in the message of a status.
fn percent_decoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let pair = after.get(..2).filter(|_| *first == b'%');
        let pair = pair.and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
