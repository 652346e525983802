//! Errors of the libraries below, in the words of our own catalogue.
//!
//! No text of a library reaches a user: it names Rust types, Arrow types and internal functions, and cannot be
//! translated. An error that is not known here gets a general message, and its text goes to the log.

use std::ops::Range;

use arrow::error::ArrowError;
use busbar_event::{Class, Error};
use datafusion_common::{Column, DataFusionError, SchemaError};

use crate::diagnostic::{
    Diagnostic, duplicate_column, too_nested, unknown_column_named, unknown_function,
};
use crate::functions::usage;
use crate::text;

/// The diagnostic for an error of planning `text`. `functions` are the names of all functions.
pub(crate) fn explain(text: &str, error: DataFusionError, functions: &[String]) -> Diagnostic {
    let place = error
        .diagnostic()
        .and_then(|diagnostic| diagnostic.span)
        .map(|span| text::range(text, span));
    tracing::debug!(%error, "a text cannot be planned");
    match error.find_root() {
        DataFusionError::SchemaError(cause, _) => schema(text, cause, place),
        DataFusionError::SQL(cause, _) => syntax(text, &cause.to_string(), place),
        DataFusionError::External(_)
        | DataFusionError::ResourcesExhausted(_)
        | DataFusionError::ArrowError(..) => {
            let error = run_error(error);
            let function = error.args().iter().find(|(name, _)| *name == "function");
            let named = function.and_then(|(_, name)| text::find_word(text, name));
            Diagnostic::from_error(error, named.or(place).unwrap_or(0..text.len()))
        }
        other => {
            let message = other.strip_backtrace();
            match between(&message, "Invalid function '", "'") {
                Some(name) => unknown_function(text, name, place, functions),
                None => plan(text, &message, place),
            }
        }
    }
}

/// The error for one that occurred while rows were processed.
pub(crate) fn run_error(error: DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::External(cause) => match cause.downcast_ref::<Error>() {
            Some(ours) => ours.clone(),
            None => evaluation(&cause.to_string()),
        },
        DataFusionError::ResourcesExhausted(_) => Error::new(Class::Permanent, "sql.memory"),
        DataFusionError::ArrowError(cause, _) => kernel(cause),
        other => evaluation(&other.strip_backtrace()),
    }
}

/// The error for one of an Arrow kernel.
pub(crate) fn kernel_error(cause: ArrowError) -> Error {
    kernel(&cause)
}

fn kernel(cause: &ArrowError) -> Error {
    match cause {
        ArrowError::DivideByZero => Error::new(Class::Permanent, "sql.divide-by-zero"),
        ArrowError::ExternalError(inner) => match inner.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::External(cause)) if cause.is::<Error>() => {
                match cause.downcast_ref::<Error>() {
                    Some(ours) => ours.clone(),
                    None => evaluation(&cause.to_string()),
                }
            }
            _ => evaluation(&inner.to_string()),
        },
        other => evaluation(&other.to_string()),
    }
}

fn evaluation(message: &str) -> Error {
    let error = |code| Error::new(Class::Permanent, code);
    if let Some((_, operation)) = message.split_once("Overflow happened on: ") {
        return error("sql.out-of-range").with("operation", text::quote(operation));
    }
    if message.contains("more than one row") {
        return error("sql.many-rows");
    }
    if message.contains("egular expression") || message.contains("regex parse error") {
        return error("sql.pattern");
    }
    if message.contains("ivide by zero") {
        return error("sql.divide-by-zero");
    }
    let is_cast = [
        "Cast error",
        "an't cast",
        "annot cast",
        "Error parsing",
        "annot parse",
    ];
    if is_cast.iter().any(|sign| message.contains(sign)) {
        let value = between(message, "string '", "'")
            .or_else(|| between(message, "value '", "'"))
            .or_else(|| between(message, "from '", "'"))
            .or_else(|| between(message, "Can't cast value ", " to"));
        if let Some(value) = value {
            return error("sql.cast-value").with("value", text::quote(value));
        }
        return error("sql.cast");
    }
    if message.contains("overflow") || message.contains("Overflow") || message.contains("too large")
    {
        return error("sql.overflow");
    }
    tracing::warn!(
        message,
        "an expression failed for a reason that has no message of its own"
    );
    error("sql.evaluate")
}

fn schema(text: &str, cause: &SchemaError, place: Option<Range<usize>>) -> Diagnostic {
    match cause {
        SchemaError::FieldNotFound {
            field,
            valid_fields,
        } => unknown_column(text, field, valid_fields, place),
        SchemaError::AmbiguousReference { field } => {
            let place = place.or_else(|| column_place(text, field));
            Diagnostic::new("sql.ambiguous-column", place.unwrap_or(0..text.len()))
                .with("column", &field.name)
        }
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => duplicate_column(text, name),
    }
}

fn column_place(text: &str, field: &Column) -> Option<Range<usize>> {
    let spanned = field.spans.first().map(|span| text::range(text, span));
    spanned.or_else(|| text::find_word(text, &field.name))
}

fn unknown_column(
    text: &str,
    field: &Column,
    valid: &[Column],
    place: Option<Range<usize>>,
) -> Diagnostic {
    let place = column_place(text, field).or(place).unwrap_or(0..text.len());
    let names: Vec<&str> = valid.iter().map(|column| column.name.as_str()).collect();
    unknown_column_named(&field.name, &names, place)
}

/// The diagnostic for an error of the parser, such as `Expected: x, found: y at Line: 1, Column: 8`.
pub(crate) fn syntax(text: &str, message: &str, place: Option<Range<usize>>) -> Diagnostic {
    let (detail, point) = match message.rfind(" at Line: ") {
        None => (message, None),
        Some(cut) => (&message[..cut], line_and_column(&message[cut..])),
    };
    if detail.contains("recursion limit") {
        return too_nested(text);
    }
    let end = text.len()..text.len();
    let place = place.or_else(|| {
        point.map(|(line, column)| text::word_at(text, text::offset(text, line, column)))
    });
    if detail.contains("nterminated") {
        return Diagnostic::new("sql.not-closed", place.unwrap_or(end));
    }
    match detail.rsplit_once("found: ") {
        Some((_, "EOF")) => Diagnostic::new("sql.ends-early", place.unwrap_or(end)),
        Some((_, found)) => Diagnostic::new("sql.unexpected", place.unwrap_or(end))
            .with("found", text::quote(found)),
        None => Diagnostic::new("sql.syntax", place.unwrap_or(end)),
    }
}

fn line_and_column(tail: &str) -> Option<(u64, u64)> {
    let number = |after: &str| {
        let start = tail.find(after)? + after.len();
        let digits: String = tail[start..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().ok()
    };
    Some((number("Line: ")?, number("Column: ")?))
}

fn plan(text: &str, message: &str, place: Option<Range<usize>>) -> Diagnostic {
    if message.contains("must appear in the GROUP BY clause")
        && let Some(column) = between(message, "column \"", "\" must")
    {
        let column = column.rsplit('.').next().unwrap_or(column);
        let place = text::find_word(text, column).or(place);
        return Diagnostic::new("sql.not-grouped", place.unwrap_or(0..text.len()))
            .with("column", text::quote(column));
    }
    for (sign, code) in KNOWN {
        if message.contains(sign) {
            return Diagnostic::new(code, place.unwrap_or(0..text.len()));
        }
    }
    let runs = [
        "ast error",
        "arser error",
        "egular expression",
        "Overflow",
        "annot cast",
    ];
    if runs.iter().any(|sign| message.contains(sign)) {
        return Diagnostic::from_error(evaluation(message), place.unwrap_or(0..text.len()));
    }
    // The caret goes under the function's name.
    let function = between(message, "unction '", "'")
        .or_else(|| between(message, "call to '", "'"))
        .or_else(|| between(message, "name and argument types '", "("))
        .or_else(|| between(message, "function: ", " "))
        .filter(|name| text::find_word(text, name).is_some());
    let place = place
        .or_else(|| function.and_then(|name| text::find_word(text, name)))
        .unwrap_or(0..text.len());
    if let Some(name) = function {
        if let Some(usage) = usage(name) {
            return Diagnostic::new("sql.usage", place)
                .with("function", name)
                .with("usage", usage);
        }
        return Diagnostic::new("sql.arguments", place).with("function", text::quote(name));
    }
    let unsupported = [
        "not supported",
        "unsupported",
        "Unsupported",
        "not implemented",
        "feature",
    ];
    let code = match unsupported.iter().any(|sign| message.contains(sign)) {
        true => "sql.not-supported",
        false => "sql.invalid",
    };
    Diagnostic::new(code, place)
}

/// Parts of messages of the planner, and what they are in our catalogue.
const KNOWN: [(&str, &str); 15] = [
    (
        "Physical plan does not support logical expression",
        "sql.subquery-correlated",
    ),
    ("CUBE of", "sql.cube"),
    ("nvalid window frame", "sql.window-frame"),
    ("Recursive", "sql.recursive"),
    ("recursive", "sql.recursive"),
    ("Cannot infer common argument type", "sql.types-do-not-fit"),
    (
        "Cannot coerce arithmetic expression",
        "sql.types-do-not-fit",
    ),
    ("nest types of", "sql.types-do-not-fit"),
    ("coerce", "sql.coerce"),
    ("have the same number of columns", "sql.column-counts"),
    ("number of columns", "sql.column-counts"),
    ("orrelated", "sql.subquery-correlated"),
    (
        "PhysicalExpr for OuterReferenceColumn",
        "sql.subquery-correlated",
    ),
    ("should only return one column", "sql.subquery-columns"),
    ("single expression required", "sql.subquery-columns"),
];

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let start = text.find(before)? + before.len();
    let end = text[start..].find(after)? + start;
    Some(&text[start..end])
}
