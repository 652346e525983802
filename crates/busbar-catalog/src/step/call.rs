//! `call`: what a flow file says of a service that a flow asks, and what a test says in its place.

use std::collections::BTreeMap;

use busbar_event::format::SchemaSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Asks another system about each event and adds what it answers as columns.
///
/// Texts may hold SQL expressions in `${…}`: `/stations/${station}`. Values are written so that they stay values: percent-encoded
/// in a path, escaped in a JSON or XML body. `$$` stands for one `$`.
///
/// At least once: after a crash, events whose results were not written are asked about again. Where a row stands for one
/// event, requests carry an `Idempotency-Key` that is the same then. Answers that say "later" (408, 425, 429, 5xx) and services
/// that cannot be reached are tried again until they work, and the flow waits; events of any other refusal become dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallSpec {
    /// The connection that says where the service is.
    pub connection: String,
    /// With `http`: the method. Without it GET, or POST where there is a body. With `grpc`: the service and the method,
    /// `package.Service/Method`. With `soap` and a WSDL: the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// With `http`: what is put behind the connection's address, with a query if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// With `soap` and without a WSDL: the SOAPAction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Headers of the request, besides those of the connection.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The columns that are sent, a list as after SQL's `SELECT`: as a JSON object, as the fields of the message, or as the
    /// elements of an operation's message, named by their paths (`name.family`, `@id`) or by these with `_` between the names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<String>,
    /// In place of `send`: the text of the body. With `soap` what is in the body of the envelope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// With a database: the statement, in the database's SQL. Each `${…}` is a value that is bound, never text of the statement:
    /// `select name from patient where id = ${pid}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
    /// With `statement`: how many rows it answers with, `one` without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<CallRows>,
    /// The columns that are read from the answer, with their types. `path` says where each is: a dotted path in JSON and in
    /// messages, an XPath in XML, the column's name in a row. Without any, answers are only taken note of.
    #[serde(default, skip_serializing_if = "no_columns")]
    pub answer: SchemaSpec,
    /// With `soap`: the columns that are read from a fault of the sender, in which case the event goes on and does not become a dead
    /// letter. `path` is an XPath from the element `Fault` on: `faultcode`, `faultstring` and `detail` in SOAP 1.1, `Code/Value` and
    /// `Reason/Text` in 1.2. In an answer that is no fault these columns are null, and in a fault those of the answer, so that none
    /// of them is `required`.
    #[serde(default, skip_serializing_if = "no_columns")]
    pub fault: SchemaSpec,
    /// How many requests of one task are under way at a time, 64 at most and without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub in_flight: Option<u16>,
    /// After so many answers to one request that say "later", the event becomes a dead letter. Without it after 5 answers that
    /// the service has failed, such as status 500; while it is unavailable (408, 425, 429, 502, 503, 504) the event waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tries: Option<u32>,
}

impl CallSpec {
    /// The columns that the step adds.
    pub fn columns(&self) -> SchemaSpec {
        let all = self.answer.0.iter().chain(&self.fault.0);
        SchemaSpec(all.cloned().collect())
    }
}

/// How many rows a statement answers with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CallRows {
    /// One, whose columns are the answer's; without a row they are null, and with several the event becomes a dead letter. A
    /// statement that changes rows answers with `affected`, their number.
    #[default]
    One,
    /// Any number: `rows` is their list, for a column of type `json`.
    Many,
}

fn no_columns(columns: &SchemaSpec) -> bool {
    columns.0.is_empty()
}

/// An answer that a test gives in place of a service. It is given to each request that fits; the first answer that fits counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestAnswer {
    /// Only for requests with this path, and query if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Only for requests with this body: text as it is, anything else as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<serde_json::Value>,
    /// The status; with `grpc` the code, 0 for an answer that is taken. Without it, the answer is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The body of the answer: text as it is, anything else as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<serde_json::Value>,
    /// How often the answer is given; without it, each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub times: Option<u32>,
}
