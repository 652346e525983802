//! Refusals by class, with what the server's `OperationOutcome` says.

use busbar_connector::ServiceAnswer;
use busbar_event::{Class, Error};
use busbar_log::Clock as _;
use serde::Deserialize;

use super::limits::ISSUES_MAX;
use crate::limits::HTTP_EXCERPT_BYTES_MAX;
use crate::reason::reason;

/// What a server says of a request: an `OperationOutcome`, as far as it is read.
#[derive(Debug, Default, Deserialize)]
pub struct Outcome {
    #[serde(default)]
    issue: Vec<OutcomeIssue>,
}

#[derive(Debug, Default, Deserialize)]
struct OutcomeIssue {
    #[serde(default)]
    severity: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    diagnostics: Option<String>,
    #[serde(default)]
    details: Option<IssueDetails>,
    /// FHIRPath of what is wrong.
    #[serde(default)]
    expression: Vec<String>,
    /// XPath, in older servers.
    #[serde(default)]
    location: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct IssueDetails {
    #[serde(default)]
    text: Option<String>,
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A whole request, whatever it carries.
    Request,
    /// One resource.
    Resource,
}

impl Outcome {
    /// The errors as one line: what is wrong, and where.
    pub fn said(&self) -> String {
        let is_error = |issue: &&OutcomeIssue| matches!(issue.severity.as_str(), "error" | "fatal");
        let mut issues: Vec<&OutcomeIssue> = self.issue.iter().filter(is_error).collect();
        if issues.is_empty() {
            issues = self.issue.iter().collect();
        }
        let mut said = String::new();
        for issue in issues.into_iter().take(ISSUES_MAX) {
            let details = issue
                .details
                .as_ref()
                .and_then(|details| details.text.as_ref());
            let words = issue.diagnostics.as_ref().or(details);
            let place = issue.expression.first().or(issue.location.first());
            said.push_str(if said.is_empty() { "" } else { "; " });
            said.push_str(words.unwrap_or(&issue.code));
            if let Some(place) = place {
                said.push_str(" (");
                said.push_str(place);
                said.push(')');
            }
        }
        said
    }
}

/// What a body says: an outcome, or the words of whatever stands before the server.
pub fn said(body: &[u8]) -> String {
    let told = serde_json::from_slice::<Outcome>(body).map(|outcome| outcome.said());
    let told = match told {
        Ok(told) if !told.is_empty() => told,
        _ => {
            let most = usize::try_from(HTTP_EXCERPT_BYTES_MAX).unwrap_or(usize::MAX);
            String::from_utf8_lossy(&body[..body.len().min(most)]).into_owned()
        }
    };
    reason(&told)
}

/// The data, the moment, or how things are set up.
pub fn class(status: u16, refused: Refused) -> Class {
    match (status, refused) {
        (408 | 425 | 429, _) => Class::Transient,
        (501 | 505, _) => Class::Configuration,
        (500.., _) => Class::Transient,
        (401 | 403 | 407, _) => Class::Configuration,
        (_, Refused::Resource) => Class::Permanent,
        _ => Class::Configuration,
    }
}

/// The error of a status, with the words of the server.
pub fn refusal(status: u16, said: String, refused: Refused, url: &str) -> Error {
    let class = class(status, refused);
    let code = match (class, status) {
        (Class::Transient, _) => "fhir.for-now",
        (Class::Permanent, 412) => "fhir.precondition",
        (Class::Permanent, _) => "fhir.resource",
        (_, 401) => "fhir.credentials",
        (_, 403) => "fhir.rights",
        _ => "fhir.refused",
    };
    let said = match said.is_empty() {
        true => "-".to_owned(),
        false => said,
    };
    Error::new(class, code)
        .with("url", url)
        .with("status", status)
        .with("said", said)
}

/// The error of an answer that is none of success.
pub fn refused(answer: &ServiceAnswer, refused: Refused, url: &str) -> Error {
    let error = refusal(answer.status, said(&answer.body), refused, url);
    let now = busbar_log::SystemClock.now_micros();
    match crate::http::asked_pause(answer.status, &answer.headers, now) {
        Some(wait) => error.with_retry_after(wait),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_told_with_its_place() {
        for (body, told) in [
            (
                r#"{"resourceType":"OperationOutcome","issue":[{"severity":"warning","code":"a","diagnostics":"w"},{"severity":"error","code":"processing","diagnostics":"no date","expression":["Patient.birthDate"]}]}"#,
                "no date (Patient.birthDate)",
            ),
            (
                r#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"not-found","details":{"text":"gone"},"location":["/f:a"]},{"severity":"fatal","code":"x"}]}"#,
                "gone (/f:a); x",
            ),
            (r#"{"issue":[{"severity":"information","code":"i"}]}"#, "i"),
            ("<html>bad gateway</html>", "<html>bad gateway</html>"),
            ("", ""),
        ] {
            assert_eq!(said(body.as_bytes()), told, "{body}");
        }
    }

    #[test]
    fn a_status_says_what_to_do() {
        for (status, refused, class_of) in [
            (400, Refused::Resource, Class::Permanent),
            (400, Refused::Request, Class::Configuration),
            (404, Refused::Resource, Class::Permanent),
            (409, Refused::Resource, Class::Permanent),
            (412, Refused::Resource, Class::Permanent),
            (422, Refused::Resource, Class::Permanent),
            (401, Refused::Resource, Class::Configuration),
            (403, Refused::Request, Class::Configuration),
            (429, Refused::Resource, Class::Transient),
            (500, Refused::Request, Class::Transient),
            (501, Refused::Resource, Class::Configuration),
            (503, Refused::Resource, Class::Transient),
        ] {
            assert_eq!(class(status, refused), class_of, "{status} {refused:?}");
        }
    }
}
