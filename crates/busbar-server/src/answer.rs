//! Error answers: the status for each error, and one shape of body.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use busbar_event::{Class, Error};
use serde::Serialize;

/// Result of a handler.
pub(crate) type Answer<T> = Result<T, Refusal>;

/// An error answer.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: Error,
    diagnostics: Option<serde_json::Value>,
    place: Option<(std::ops::Range<usize>, Option<String>)>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// An error with the status given.
    pub(crate) fn new(status: StatusCode, error: Error) -> Self {
        Refusal {
            status,
            error,
            diagnostics: None,
            place: None,
            headers: Vec::new(),
        }
    }

    /// A permanent error named by its code, answered with `status`.
    pub(crate) fn permanent(status: StatusCode, code: &'static str) -> Self {
        Refusal::new(status, Error::new(Class::Permanent, code))
    }

    /// Something with this name does not exist.
    pub(crate) fn unknown(code: &'static str, name: &str) -> Self {
        let name: String = name.chars().take(128).collect();
        Refusal::new(
            StatusCode::NOT_FOUND,
            Error::new(Class::Permanent, code).with("name", name),
        )
    }

    /// Adds what a check of files found, with files and spans.
    pub(crate) fn with_diagnostics(mut self, diagnostics: impl Serialize) -> Self {
        self.diagnostics = serde_json::to_value(diagnostics).ok();
        self
    }

    /// Adds the byte range of the fault in the text, and what was probably meant.
    pub(crate) fn at(mut self, span: std::ops::Range<usize>, suggestion: Option<String>) -> Self {
        self.place = Some((span, suggestion));
        self
    }

    /// Adds a header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The error.
    pub(crate) fn error(&self) -> &Error {
        &self.error
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::new(status_of(&error), error)
    }
}

/// The status of an error: by its code where one fits, else by its class.
pub(crate) fn status_of(error: &Error) -> StatusCode {
    match error.code() {
        "access.refused" | "access.login-needed" => StatusCode::UNAUTHORIZED,
        "access.role-needed"
        | "access.admin-restricted"
        | "access.token-limited"
        | "access.session-needs-password"
        | "access.token-needs-password" => StatusCode::FORBIDDEN,
        "bus.payload-large" | "server.too-many-events" => StatusCode::PAYLOAD_TOO_LARGE,
        "access.too-many-attempts" | "server.publish-rate" => StatusCode::TOO_MANY_REQUESTS,
        "access.read-denied"
        | "access.call-denied"
        | "access.subscribe-denied"
        | "access.publish-denied" => StatusCode::FORBIDDEN,
        "flow.unknown"
        | "flow.bounded-unknown"
        | "flow.no-connection"
        | "catalog.unknown-table"
        | "catalog.unknown-version"
        | "server.unknown-flow"
        | "flow.trace-stream"
        | "orchestrate.unknown"
        | "orchestrate.no-instance"
        | "orchestrate.no-form"
        | "server.unknown-api"
        | "server.unknown-stream" => StatusCode::NOT_FOUND,
        "orchestrate.ended"
        | "orchestrate.goes-back"
        | "orchestrate.nothing-to-retry"
        | "orchestrate.nothing-to-skip" => StatusCode::CONFLICT,
        "access.user-exists" | "access.last-admin" | "server.flow-exists" => StatusCode::CONFLICT,
        "access.unknown-user" | "access.unknown-token" => StatusCode::NOT_FOUND,
        "log.full" | "bus.disk-full" => StatusCode::INSUFFICIENT_STORAGE,
        // What the caller sent was right; the flow's reply is not.
        "server.api-status" => StatusCode::INTERNAL_SERVER_ERROR,
        _ => match error.class() {
            Class::Transient => StatusCode::SERVICE_UNAVAILABLE,
            Class::Permanent => StatusCode::BAD_REQUEST,
            Class::Configuration => StatusCode::UNPROCESSABLE_ENTITY,
        },
    }
}

/// Seconds after which a client should try again, for transient errors.
pub(crate) fn retry_after(error: &Error) -> Option<u64> {
    if error.class() != Class::Transient {
        return None;
    }
    let told = error
        .args()
        .iter()
        .find(|(name, _)| *name == "seconds")
        .and_then(|(_, seconds)| seconds.parse().ok());
    Some(
        told.unwrap_or(if matches!(error.code(), "log.full" | "bus.disk-full") {
            5
        } else {
            1
        }),
    )
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: serde_json::Value,
            #[serde(skip_serializing_if = "Option::is_none")]
            diagnostics: Option<serde_json::Value>,
        }
        let retry = retry_after(&self.error);
        let mut error = serde_json::to_value(&self.error).unwrap_or_default();
        if let (Some((span, suggestion)), Some(error)) = (self.place, error.as_object_mut()) {
            error.insert(
                "span".into(),
                serde_json::json!({ "start": span.start, "end": span.end }),
            );
            error.insert("suggestion".into(), suggestion.into());
        }
        let body = serde_json::to_vec(&Body {
            error,
            diagnostics: self.diagnostics,
        })
        .unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.extend(self.headers);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(seconds) = retry {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A text from outside, short enough for an error.
pub(crate) fn bounded(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    text.chars()
        .filter(|c| !c.is_control())
        .take(CHARS_MAX)
        .collect()
}
