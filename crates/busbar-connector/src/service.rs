//! What answers `call` steps: a [`Service`] carries requests, a [`CallForm`] says what they look like.

use std::sync::Arc;

use arrow::datatypes::Schema;
use busbar_catalog::PathItem;
use busbar_event::Error;
use busbar_event::format::SchemaSpec;
use busbar_log::{Clock, SystemClock};
use bytes::Bytes;
use http::HeaderMap;

use crate::database::SqlStatement;
use crate::{SinkContext, SourceContext, Work};

/// Carries requests to another system. Any number of requests may be under way at a time.
pub trait Service: Send + Sync {
    /// Sends a request and reads the answer, whatever its status is. Waits no longer than the connection says. May be
    /// dropped while it waits.
    ///
    /// # Errors
    /// *Transient*: there was no whole answer. *Permanent*: the answer is larger than allowed. *Configuration*: somebody must
    /// change something first, such as authorities that are not trusted.
    fn exchange<'a>(
        &'a self,
        request: &'a ServiceRequest,
    ) -> Work<'a, Result<ServiceAnswer, Error>>;
}

/// How a `call` step and one kind of service speak to each other. Knows no sockets.
pub trait CallForm: Send + Sync {
    /// What is done with values that become part of a text.
    fn escapes(&self) -> CallEscapes;

    /// Checks the columns that a step sends, of which there are none where it has no `send`.
    ///
    /// # Errors
    /// A column that the other side does not know, whose type does not fit, or that is missing.
    fn check_sent(&self, columns: &Schema) -> Result<(), CallFault> {
        let _ = columns;
        Ok(())
    }

    /// The columns of the answer as [`CallForm::answer`] gives them: JSON objects with these fields.
    fn columns(&self, declared: &SchemaSpec) -> SchemaSpec {
        declared.clone()
    }

    /// Whether a refusal of a request can be read into columns.
    fn reads_faults(&self) -> bool {
        false
    }

    /// Makes a request.
    ///
    /// # Errors
    /// *Permanent*, for values that make none.
    fn request(&self, parts: CallParts) -> Result<ServiceRequest, Error>;

    /// The answer as a JSON object, if it is one that is taken.
    ///
    /// # Errors
    /// What the status says: *transient* to try again, not before [`Error::retry_after`]; *permanent* if it is no use.
    fn answer(&self, answer: ServiceAnswer) -> Result<Bytes, Error>;

    /// Whether an answer says that the service cannot work now, whatever it is asked: events wait until it can. Any other
    /// answer to try again may be about the request itself.
    fn is_unavailable(&self, answer: &ServiceAnswer) -> bool {
        matches!(answer.status, 408 | 425 | 429 | 502 | 503 | 504)
    }

    /// The answer that a test gives: `status` is none where it is to be taken.
    ///
    /// # Errors
    /// *Permanent*, for a body that cannot be one.
    fn canned(&self, status: Option<u16>, body: Bytes) -> Result<ServiceAnswer, Error> {
        Ok(ServiceAnswer {
            status: status.unwrap_or(200),
            headers: HeaderMap::new(),
            body,
        })
    }

    /// The body of a request in the form in which a test names it.
    fn shown(&self, request: &ServiceRequest) -> Bytes {
        request.body.clone()
    }
}

/// How values are written into the texts of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallEscapes {
    /// Into the path.
    pub path: Escape,
    /// Into the body.
    pub body: Escape,
}

/// How a value is written into a text so that it stays one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// As it is.
    Plain,
    /// Percent-encoded, all but letters, digits and `-._~`.
    Percent,
    /// As within quotation marks in JSON.
    Json,
    /// As text or within an attribute in XML.
    Xml,
}

impl Escape {
    /// Writes a value.
    pub fn write(self, value: &str, out: &mut String) {
        use std::fmt::Write as _;
        match self {
            Escape::Plain => out.push_str(value),
            Escape::Percent => {
                for byte in value.bytes() {
                    match byte {
                        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                            out.push(char::from(byte));
                        }
                        // Writing to a text does not fail.
                        _ => drop(write!(out, "%{byte:02X}")),
                    }
                }
            }
            Escape::Json => {
                for c in value.chars() {
                    match c {
                        '"' => out.push_str("\\\""),
                        '\\' => out.push_str("\\\\"),
                        c if u32::from(c) < 0x20 => drop(write!(out, "\\u{:04x}", u32::from(c))),
                        c => out.push(c),
                    }
                }
            }
            Escape::Xml => {
                for c in value.chars() {
                    match c {
                        '<' => out.push_str("&lt;"),
                        '>' => out.push_str("&gt;"),
                        '&' => out.push_str("&amp;"),
                        '"' => out.push_str("&quot;"),
                        '\'' => out.push_str("&apos;"),
                        // As characters they would be read as spaces and line ends.
                        '\t' | '\n' | '\r' => drop(write!(out, "&#{};", u32::from(c))),
                        // XML has no way to write the other control characters.
                        c if u32::from(c) < 0x20 || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                            out.push('\u{fffd}');
                        }
                        c => out.push(c),
                    }
                }
            }
        }
    }
}

/// What a step has made of a row for a request.
#[derive(Clone, Debug, Default)]
pub struct CallParts {
    /// What is put behind the connection's address.
    pub path: String,
    /// Headers of the step.
    pub headers: Vec<(String, String)>,
    /// The body: JSON of the columns that are sent, or a text.
    pub body: Option<Bytes>,
    /// For a database: the statement with the row's values.
    pub statement: Option<SqlStatement>,
}

/// A request, as every kind of service that there is takes one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRequest {
    /// The method of HTTP.
    pub method: String,
    /// What is put behind the connection's address.
    pub path: String,
    /// Headers, besides those of the connection.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// For a database: the statement.
    pub statement: Option<Box<SqlStatement>>,
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub struct ServiceAnswer {
    /// The status of HTTP.
    pub status: u16,
    /// Headers and trailers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// What a service is opened with.
#[derive(Clone)]
pub struct ServiceContext {
    /// The connection's name.
    pub name: Arc<str>,
    /// The folder relative paths start at.
    pub project_dir: Arc<std::path::Path>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl ServiceContext {
    /// For a look at the other side on which no events depend: without a name, by the system's clock.
    pub fn unnamed(project_dir: Arc<std::path::Path>) -> ServiceContext {
        ServiceContext {
            name: "".into(),
            project_dir,
            clock: Arc::new(SystemClock),
        }
    }
}

impl From<&SourceContext> for ServiceContext {
    fn from(context: &SourceContext) -> ServiceContext {
        ServiceContext {
            name: Arc::clone(&context.name),
            project_dir: Arc::clone(&context.project_dir),
            clock: Arc::clone(&context.clock),
        }
    }
}

impl From<&SinkContext> for ServiceContext {
    fn from(context: &SinkContext) -> ServiceContext {
        ServiceContext {
            name: Arc::clone(&context.name),
            project_dir: Arc::clone(&context.project_dir),
            clock: Arc::clone(&context.clock),
        }
    }
}

/// What is wrong with a `call` step.
#[derive(Clone, Debug)]
pub struct CallFault {
    /// The way below `call` to the value that is wrong; empty for the step as a whole.
    pub path: Vec<PathItem<'static>>,
    /// The place within the text of that value.
    pub span: Option<std::ops::Range<usize>>,
    /// What is wrong.
    pub error: Error,
    /// What was probably meant.
    pub help: Option<Error>,
}

impl CallFault {
    /// A fault of the value at a key.
    pub fn at(key: &'static str, error: Error) -> CallFault {
        CallFault {
            path: vec![key.into()],
            span: None,
            error,
            help: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_one_value() {
        let written = |escape: Escape, value: &str| {
            let mut out = String::new();
            escape.write(value, &mut out);
            out
        };
        let value = "a/b?c=d&e \"f\" <g> 'h' \\ \n\u{1}雨";
        assert_eq!(written(Escape::Plain, value), value);
        assert_eq!(
            written(Escape::Percent, value),
            "a%2Fb%3Fc%3Dd%26e%20%22f%22%20%3Cg%3E%20%27h%27%20%5C%20%0A%01%E9%9B%A8"
        );
        let json = format!("\"{}\"", written(Escape::Json, value));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), value);
        assert_eq!(
            written(Escape::Xml, value),
            "a/b?c=d&amp;e &quot;f&quot; &lt;g&gt; &apos;h&apos; \\ &#10;\u{fffd}雨"
        );
    }
}
