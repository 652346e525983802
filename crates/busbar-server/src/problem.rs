//! What the API answers when something is wrong, as its document describes it.

use std::collections::BTreeMap;

use serde::Serialize;

/// The answer to a request that was refused or failed.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Refused {
    /// What went wrong.
    error: Problem,
    /// What a check found in files, with places. Absent elsewhere.
    #[schema(value_type = Option<Vec<DiagnosticView>>)]
    diagnostics: Option<Vec<serde_json::Value>>,
}

/// What went wrong, for programs and for people.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Problem {
    /// `transient` (try again), `permanent` (do not) or `configuration` (somebody must change something).
    class: String,
    /// The name for programs, such as `bus.disk-full`.
    code: String,
    /// The sentence in English.
    message: String,
    /// The sentence in Chinese.
    message_zh: String,
    /// Names and values in the sentence.
    args: BTreeMap<String, String>,
    /// What led to it, when that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    /// The same for readers of Chinese; what another system said is in its own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause_zh: Option<String>,
    /// For a query: the bytes of its text that are wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    span: Option<Span>,
    /// For a query: what was probably meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    suggestion: Option<String>,
}

/// A range of bytes in a text.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Span {
    /// The first byte.
    start: usize,
    /// The byte after the last one.
    end: usize,
}

/// What a check found at a place in a file.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes a type of busbar-catalog")]
pub(crate) struct DiagnosticView {
    /// The file's path in the project.
    file: String,
    /// The line, from 1.
    line: usize,
    /// The column in characters, from 1.
    column: usize,
    /// The first byte of the place in the file.
    start: usize,
    /// The byte after the last one.
    end: usize,
    /// `error` or `warning`.
    severity: String,
    /// The name for programs.
    code: String,
    /// Names and values in the message.
    args: BTreeMap<String, String>,
    /// What is wrong, in English.
    message: String,
    /// What is wrong, in Chinese.
    message_zh: String,
    /// What would be right, in English.
    help: Option<String>,
    /// What would be right, in Chinese.
    help_zh: Option<String>,
}
