//! Failures by class, with what mends each.

use busbar_connector::ServiceAnswer;
use busbar_event::{Class, Error};
use serde::Deserialize;

use crate::reason::reason;

/// Why the server refused a request or a row of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ElasticRefusal {
    /// The server's name for it, such as `mapper_parsing_exception`.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Its words.
    #[serde(default)]
    reason: Option<String>,
    /// What led to it.
    #[serde(default)]
    caused_by: Option<Box<ElasticRefusal>>,
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedPart {
    /// A whole request.
    Request,
    /// One row of a request.
    Row,
    /// A request with keys of rows, which may be at fault.
    Key,
}

impl ElasticRefusal {
    /// From the body of an answer.
    pub fn of(answer: &ServiceAnswer) -> ElasticRefusal {
        #[derive(Deserialize)]
        struct RefusedBody {
            error: RefusalTold,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum RefusalTold {
            Whole(ElasticRefusal),
            Text(String),
        }
        match serde_json::from_slice(&answer.body) {
            Ok(RefusedBody {
                error: RefusalTold::Whole(refusal),
            }) => refusal,
            Ok(RefusedBody {
                error: RefusalTold::Text(text),
            }) => ElasticRefusal {
                reason: Some(text),
                ..ElasticRefusal::default()
            },
            // A proxy, in its own words.
            Err(_) => ElasticRefusal {
                reason: Some(String::from_utf8_lossy(&answer.body).into_owned()),
                ..ElasticRefusal::default()
            },
        }
    }

    /// The server's words: what led to it is usually what tells.
    fn said(&self) -> String {
        let mut said = String::new();
        let mut next = Some(self);
        while let Some(refusal) = next {
            for word in [
                refusal.kind.as_str(),
                refusal.reason.as_deref().unwrap_or(""),
            ] {
                if !word.is_empty() {
                    said.push_str(if said.is_empty() { "" } else { ": " });
                    said.push_str(word);
                }
            }
            next = refusal.caused_by.as_deref();
        }
        reason(&said)
    }

    /// The data, the moment, or how things are set up.
    pub fn class(&self, status: u16, refused: RefusedPart) -> Class {
        match (self.kind.as_str(), status) {
            // A disk above its flood stage, a cluster without a master: they end.
            ("cluster_block_exception" | "es_rejected_execution_exception", _) => Class::Transient,
            (_, 408 | 425 | 429 | 500..) if status != 501 => Class::Transient,
            // The shard limit of the cluster: an administrator raises it.
            (
                "index_closed_exception" | "index_not_found_exception" | "validation_exception",
                _,
            ) => Class::Configuration,
            ("security_exception", _) => Class::Configuration,
            (_, 401 | 403 | 501) => Class::Configuration,
            (_, 409) => Class::Transient,
            (_, 400 | 404 | 413) if refused == RefusedPart::Row => Class::Permanent,
            (_, 400) if refused == RefusedPart::Key => Class::Permanent,
            _ => Class::Configuration,
        }
    }

    /// The error that people see.
    pub fn error(&self, status: u16, refused: RefusedPart, url: &str, index: &str) -> Error {
        let class = self.class(status, refused);
        let code = match (class, refused, status) {
            (Class::Transient, ..) => "elastic.for-now",
            (Class::Permanent, RefusedPart::Key, _) => "elastic.key-value",
            (Class::Permanent, ..) => "elastic.row",
            (_, _, 401) => "elastic.credentials",
            (_, _, 403) => "elastic.rights",
            _ if self.kind == "index_not_found_exception" => "elastic.no-index",
            _ => "elastic.refused",
        };
        let mut said = self.said();
        if said.is_empty() {
            said = status.to_string();
        }
        Error::new(class, code)
            .with("url", url)
            .with("index", index)
            .with("said", said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_refusal_is_decides_what_is_done() {
        for (kind, status, refused, class) in [
            (
                "mapper_parsing_exception",
                400,
                RefusedPart::Row,
                Class::Permanent,
            ),
            (
                "document_parsing_exception",
                400,
                RefusedPart::Row,
                Class::Permanent,
            ),
            (
                "invalid_index_name_exception",
                400,
                RefusedPart::Row,
                Class::Permanent,
            ),
            (
                "es_rejected_execution_exception",
                429,
                RefusedPart::Row,
                Class::Transient,
            ),
            (
                "cluster_block_exception",
                403,
                RefusedPart::Row,
                Class::Transient,
            ),
            (
                "cluster_block_exception",
                429,
                RefusedPart::Request,
                Class::Transient,
            ),
            (
                "unavailable_shards_exception",
                503,
                RefusedPart::Row,
                Class::Transient,
            ),
            (
                "index_not_found_exception",
                404,
                RefusedPart::Row,
                Class::Configuration,
            ),
            (
                "index_closed_exception",
                400,
                RefusedPart::Row,
                Class::Configuration,
            ),
            (
                "validation_exception",
                400,
                RefusedPart::Row,
                Class::Configuration,
            ),
            (
                "security_exception",
                403,
                RefusedPart::Row,
                Class::Configuration,
            ),
            (
                "security_exception",
                401,
                RefusedPart::Request,
                Class::Configuration,
            ),
            (
                "parsing_exception",
                400,
                RefusedPart::Request,
                Class::Configuration,
            ),
            ("", 501, RefusedPart::Request, Class::Configuration),
            ("", 502, RefusedPart::Request, Class::Transient),
        ] {
            let refusal = ElasticRefusal {
                kind: kind.into(),
                ..ElasticRefusal::default()
            };
            assert_eq!(refusal.class(status, refused), class, "{kind} {status}");
        }
    }

    #[test]
    fn a_refusal_is_told_with_its_cause() {
        let answer = |body: &str| ServiceAnswer {
            body: body.to_owned().into(),
            ..ServiceAnswer::default()
        };
        let of = |body| ElasticRefusal::of(&answer(body)).said();
        assert_eq!(
            of(
                r#"{"error":{"type":"a","reason":"b","caused_by":{"type":"c","reason":null}},"status":400}"#
            ),
            "a: b: c"
        );
        assert_eq!(
            of(r#"{"error":"no handler found","status":400}"#),
            "no handler found"
        );
        assert_eq!(of("<html>"), "<html>");
        let silent =
            ElasticRefusal::of(&answer("")).error(502, RefusedPart::Request, "http://a", "b");
        assert_eq!(
            silent.args().last().map(|(_, said)| said.as_str()),
            Some("502")
        );
    }
}
