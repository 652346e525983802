//! REST: what a `call` step sends to an `http` connection, and what the answers mean.

use busbar_catalog::CallSpec;
use busbar_connector::{
    CallEscapes, CallFault, CallForm, CallParts, Escape, ServiceAnswer, ServiceRequest,
};
use busbar_event::{Class, Error, Micros};
use bytes::Bytes;
use http::{HeaderName, Method, header};

use super::refusal::refused;
use super::{MANAGED, shown_url};
use crate::limits::{CALL_HEAD_BYTES_MAX, HTTP_EXCERPT_BYTES_MAX};

/// The form of a step.
pub(crate) struct RestForm {
    method: Method,
    /// The address without its query, for messages.
    shown: String,
    body: RestBody,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RestBody {
    None,
    Json,
    Xml,
    /// Of the type that the step names.
    Other,
}

impl RestForm {
    /// Checks a step.
    ///
    /// # Errors
    /// What does not fit, and where.
    pub fn new(url: &str, call: &CallSpec) -> Result<RestForm, CallFault> {
        let fault = |key, code| CallFault::at(key, Error::new(Class::Configuration, code));
        if call.action.is_some() {
            return Err(fault("action", "connect.call-no-action"));
        }
        check_headers(call)?;
        let has_body = call.send.is_some() || call.body.is_some();
        let method = match &call.method {
            None if has_body => Method::POST,
            None => Method::GET,
            Some(method) => known_method(method)?,
        };
        if has_body && matches!(method, Method::GET | Method::HEAD) {
            return Err(fault("method", "connect.call-body-method"));
        }
        let content_type = call.headers.iter().find_map(|(name, value)| {
            let is_it = name.eq_ignore_ascii_case(header::CONTENT_TYPE.as_str());
            is_it.then(|| value.to_ascii_lowercase())
        });
        let body = match content_type {
            _ if !has_body => RestBody::None,
            None => RestBody::Json,
            Some(kind) if kind.contains("json") => RestBody::Json,
            Some(kind) if kind.contains("xml") => RestBody::Xml,
            Some(_) => RestBody::Other,
        };
        Ok(RestForm {
            method,
            shown: shown_url(url),
            body,
        })
    }
}

/// Checks the names of headers that a step adds.
///
/// # Errors
/// Names that are none, and those that the client sets.
pub(crate) fn check_headers(call: &CallSpec) -> Result<(), CallFault> {
    for name in call.headers.keys() {
        let known = name.parse::<HeaderName>();
        if !known.is_ok_and(|name| !MANAGED.contains(&name)) {
            let error = Error::new(Class::Configuration, "connect.http-header");
            return Err(CallFault::at("headers", error));
        }
    }
    Ok(())
}

const METHODS: [Method; 6] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::HEAD,
];

fn known_method(method: &str) -> Result<Method, CallFault> {
    if let Some(known) = METHODS.into_iter().find(|known| known.as_str() == method) {
        return Ok(known);
    }
    let error = Error::new(Class::Configuration, "connect.call-method");
    let upper = method.to_ascii_uppercase();
    Err(CallFault {
        help: busbar_catalog::suggest(&upper, METHODS.iter().map(Method::as_str)),
        ..CallFault::at("method", error.with("method", busbar_event::quote(method)))
    })
}

impl CallForm for RestForm {
    fn escapes(&self) -> CallEscapes {
        CallEscapes {
            path: Escape::Percent,
            body: match self.body {
                RestBody::Json | RestBody::None => Escape::Json,
                RestBody::Xml => Escape::Xml,
                RestBody::Other => Escape::Plain,
            },
        }
    }

    fn request(&self, parts: CallParts) -> Result<ServiceRequest, Error> {
        let mut headers = parts.headers;
        let has = |headers: &[(String, String)], wanted: &str| {
            headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case(wanted))
        };
        if self.body == RestBody::Json && !has(&headers, "content-type") {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        if !has(&headers, "accept") {
            headers.push(("accept".to_owned(), "application/json".to_owned()));
        }
        check_head(&parts.path, &headers)?;
        // A value of two dots would lead out of the folder that the path names.
        let before_query = parts.path.split('?').next().unwrap_or_default();
        if before_query
            .split('/')
            .any(|part| matches!(part, "." | ".."))
        {
            let error = Error::new(Class::Permanent, "connect.call-path");
            return Err(error.with("path", busbar_event::quote(&parts.path)));
        }
        Ok(ServiceRequest {
            method: self.method.as_str().to_owned(),
            path: parts.path,
            headers,
            body: parts.body.unwrap_or_default(),
            statement: None,
        })
    }

    fn answer(&self, answer: ServiceAnswer) -> Result<Bytes, Error> {
        match status_class(answer.status) {
            None => Ok(answer.body),
            Some(class) => Err(refused_answer(class, &self.shown, &answer)),
        }
    }
}

/// Refuses an address or headers that are too long, and values that no header can have.
///
/// # Errors
/// *Permanent*.
pub(crate) fn check_head(path: &str, headers: &[(String, String)]) -> Result<(), Error> {
    let lengths = headers.iter().map(|(name, value)| name.len() + value.len());
    let bytes = path.len() + lengths.sum::<usize>();
    if bytes > CALL_HEAD_BYTES_MAX {
        return Err(Error::new(Class::Permanent, "connect.call-head-large")
            .with("bytes", bytes)
            .with("most", CALL_HEAD_BYTES_MAX));
    }
    for (name, value) in headers {
        // Line ends within a value would begin another header.
        if http::HeaderValue::from_str(value).is_err() {
            let error = Error::new(Class::Permanent, "connect.call-header-value");
            return Err(error.with("header", name));
        }
    }
    Ok(())
}

/// What to do about a status; none for one that is taken.
pub(crate) fn status_class(status: u16) -> Option<Class> {
    match status {
        200..=299 => None,
        408 | 425 | 429 => Some(Class::Transient),
        // Asking again changes nothing.
        501 | 505 => Some(Class::Permanent),
        500.. => Some(Class::Transient),
        _ => Some(Class::Permanent),
    }
}

/// The error of an answer that is not taken, with the beginning of its body.
pub(crate) fn refused_answer(class: Class, shown: &str, answer: &ServiceAnswer) -> Error {
    let most = usize::try_from(HTTP_EXCERPT_BYTES_MAX).unwrap_or(usize::MAX);
    let said = &answer.body[..answer.body.len().min(most)];
    let said = String::from_utf8_lossy(said);
    refused(class, shown, (answer.status, &answer.headers, &said), now())
}

/// For a `Retry-After` with a date in an answer without one.
fn now() -> Micros {
    use busbar_log::Clock as _;
    busbar_log::SystemClock.now_micros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(yaml: &str) -> Result<RestForm, CallFault> {
        let call: CallSpec = serde_json::from_str(yaml).expect("a step");
        RestForm::new("http://localhost/api?token=hunter2", &call)
    }

    #[test]
    fn the_method_follows_the_body() {
        for (step, method) in [
            (r#"{"connection":"a"}"#, "GET"),
            (r#"{"connection":"a","send":"*"}"#, "POST"),
            (r#"{"connection":"a","method":"PUT","body":"x"}"#, "PUT"),
        ] {
            let request = form(step).expect("it fits").request(CallParts::default());
            assert_eq!(request.unwrap().method, method, "{step}");
        }
        for (step, code) in [
            (
                r#"{"connection":"a","method":"GET","body":"x"}"#,
                "connect.call-body-method",
            ),
            (
                r#"{"connection":"a","method":"get"}"#,
                "connect.call-method",
            ),
            (
                r#"{"connection":"a","action":"x"}"#,
                "connect.call-no-action",
            ),
            (
                r#"{"connection":"a","headers":{"Host":"b"}}"#,
                "connect.http-header",
            ),
            (
                r#"{"connection":"a","headers":{"a b":"b"}}"#,
                "connect.http-header",
            ),
        ] {
            assert_eq!(form(step).err().expect(step).error.code(), code, "{step}");
        }
    }

    #[test]
    fn a_status_says_what_to_do() {
        let form = form(r#"{"connection":"a"}"#).expect("it fits");
        for (status, class) in [
            (200, None),
            (204, None),
            (302, Some(Class::Permanent)),
            (400, Some(Class::Permanent)),
            (401, Some(Class::Permanent)),
            (404, Some(Class::Permanent)),
            (408, Some(Class::Transient)),
            (425, Some(Class::Transient)),
            (429, Some(Class::Transient)),
            (500, Some(Class::Transient)),
            (501, Some(Class::Permanent)),
            (503, Some(Class::Transient)),
            (599, Some(Class::Transient)),
        ] {
            let answer = ServiceAnswer {
                status,
                body: Bytes::from_static(b"no such station"),
                ..ServiceAnswer::default()
            };
            let answered = form.answer(answer);
            assert_eq!(answered.as_ref().err().map(Error::class), class, "{status}");
            if let Err(error) = answered {
                let told = error.to_string();
                assert!(told.contains("no such station"), "{told}");
                assert!(told.contains(&status.to_string()), "{told}");
                assert!(!told.contains("hunter2"), "{told}");
            }
        }
        let mut answer = ServiceAnswer {
            status: 429,
            ..ServiceAnswer::default()
        };
        answer
            .headers
            .insert(header::RETRY_AFTER, http::HeaderValue::from_static("7"));
        let wait = form.answer(answer).unwrap_err().retry_after();
        assert_eq!(wait, Some(std::time::Duration::from_secs(7)));
    }

    #[test]
    fn a_value_does_not_become_a_header() {
        let form = form(r#"{"connection":"a"}"#).expect("it fits");
        let request = |headers: &[(&str, &str)], path: &str| {
            let headers = headers.iter();
            let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            form.request(CallParts {
                path: path.to_owned(),
                headers: headers.collect(),
                ..CallParts::default()
            })
        };
        assert!(request(&[("x-site", "north")], "/a").is_ok());
        let refused = request(&[("x-site", "a\r\nx-admin: 1")], "/a").unwrap_err();
        assert_eq!(refused.code(), "connect.call-header-value");
        let refused = request(&[], &"a".repeat(CALL_HEAD_BYTES_MAX + 1)).unwrap_err();
        assert_eq!(refused.code(), "connect.call-head-large");
        for path in ["/stations/..", "/stations/./a", "../a?x=1"] {
            assert_eq!(request(&[], path).unwrap_err().code(), "connect.call-path");
        }
        assert!(request(&[], "/stations/...?x=/../").is_ok());
    }
}
