use std::fmt;
use std::ops::Range;

use busbar_event::{Class, Error, Language};
use datafusion_common::{Column, DataFusionError, SchemaError};

use crate::limits::NAMES_LISTED_MAX;
use crate::text;

/// What is wrong with a text, where, and what was probably meant.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    error: Error,
    span: Range<usize>,
    suggestion: Option<String>,
}

impl Diagnostic {
    pub(crate) fn new(code: &'static str, span: Range<usize>) -> Self {
        Self::from_error(Error::new(Class::Configuration, code), span)
    }

    pub(crate) fn from_error(error: Error, span: Range<usize>) -> Self {
        Self {
            error,
            span,
            suggestion: None,
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.error = self.error.with(name, value);
        self
    }

    pub(crate) fn suggest(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion;
        self
    }

    /// Its name for programs, such as `sql.unknown-column`.
    pub fn code(&self) -> &'static str {
        self.error.code()
    }

    /// The names and values of its message.
    pub fn args(&self) -> &[(&'static str, String)] {
        self.error.args()
    }

    /// The offending bytes of the text.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// What should probably stand in place of the span.
    pub fn suggestion(&self) -> Option<&str> {
        self.suggestion.as_deref()
    }

    /// The message, without place and suggestion.
    pub fn message(&self, language: Language) -> String {
        self.error.message(language)
    }

    /// The error without its place.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The error without its place.
    pub fn into_error(self) -> Error {
        self.error
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Diagnostic {}

/// Make a diagnostic of an error that planning `text` gave. `functions` are the known names.
pub(crate) fn explain(text: &str, error: DataFusionError, functions: &[String]) -> Diagnostic {
    let place = error
        .diagnostic()
        .and_then(|diagnostic| diagnostic.span)
        .map(|span| text::range(text, span));
    let root = error.find_root();
    match root {
        DataFusionError::SchemaError(cause, _) => schema(text, cause, place),
        DataFusionError::SQL(cause, _) => syntax(text, &cause.to_string(), place),
        DataFusionError::Plan(message) => match between(message, "Invalid function '", "'") {
            Some(name) => unknown_function(text, name, place, functions),
            None => plan(text, message, place),
        },
        DataFusionError::NotImplemented(message) => {
            Diagnostic::new("sql.unsupported", place.unwrap_or(0..text.len()))
                .with("detail", first_line(message))
        }
        DataFusionError::ResourcesExhausted(_) => {
            Diagnostic::from_error(run_error(error), 0..text.len())
        }
        other => plan(text, &other.strip_backtrace(), place),
    }
}

/// What went wrong while rows were worked on.
pub(crate) fn run_error(error: DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::External(cause) => match cause.downcast_ref::<Error>() {
            Some(ours) => ours.clone(),
            None => Error::new(Class::Permanent, "sql.evaluate")
                .with("detail", first_line(&cause.to_string())),
        },
        DataFusionError::ResourcesExhausted(_) => Error::new(Class::Permanent, "sql.memory"),
        other => {
            let message = match other {
                DataFusionError::ArrowError(cause, _) => cause.to_string(),
                other => other.strip_backtrace(),
            };
            Error::new(Class::Permanent, "sql.evaluate").with("detail", first_line(&message))
        }
    }
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

pub(crate) fn duplicate_column(text: &str, name: &str) -> Diagnostic {
    let place = text::find_word(text, name).unwrap_or(0..text.len());
    Diagnostic::new("sql.duplicate-column", place).with("column", text::quote(name))
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

/// There is no column of that name among `names`.
pub(crate) fn unknown_column_named(name: &str, names: &[&str], place: Range<usize>) -> Diagnostic {
    let near = closest(name, names.iter().copied());
    Diagnostic::new("sql.unknown-column", place)
        .with("column", text::quote(name))
        .with("columns", listed(names))
        .suggest(near.map(quoted_if_needed))
}

pub(crate) fn unknown_function(
    text: &str,
    name: &str,
    place: Option<Range<usize>>,
    functions: &[String],
) -> Diagnostic {
    let place = place.or_else(|| text::find_word(text, name));
    let near = closest(name, functions.iter().map(String::as_str));
    Diagnostic::new("sql.unknown-function", place.unwrap_or(0..text.len()))
        .with("function", text::quote(name))
        .suggest(near.map(str::to_owned))
}

pub(crate) fn too_nested(text: &str) -> Diagnostic {
    Diagnostic::new("sql.too-nested", 0..text.len()).with("most", crate::limits::NESTING_MAX)
}

/// The parser says `Expected: x, found: y at Line: 1, Column: 8`, or the like.
pub(crate) fn syntax(text: &str, message: &str, place: Option<Range<usize>>) -> Diagnostic {
    let message = message
        .strip_prefix("sql parser error: ")
        .unwrap_or(message);
    let (detail, point) = match message.rfind(" at Line: ") {
        None => (message, None),
        Some(cut) => (&message[..cut], line_and_column(&message[cut..])),
    };
    if detail.contains("recursion limit") {
        return too_nested(text);
    }
    let place = place
        .or_else(|| {
            point.map(|(line, column)| text::word_at(text, text::offset(text, line, column)))
        })
        .unwrap_or(text.len()..text.len());
    Diagnostic::new("sql.syntax", place).with("detail", text::quote(detail))
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
    // "... function 'abs' ...": the caret goes under the function.
    let function = between(message, "function '", "'")
        .or_else(|| between(message, "call to '", "'"))
        .or_else(|| between(message, "function: ", " "));
    let place = place
        .or_else(|| function.and_then(|name| text::find_word(text, name)))
        .unwrap_or(0..text.len());
    match function {
        Some(name) => Diagnostic::new("sql.arguments", place)
            .with("function", text::quote(name))
            .with("detail", first_line(message)),
        None => Diagnostic::new("sql.invalid", place).with("detail", first_line(message)),
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let start = text.find(before)? + before.len();
    let end = text[start..].find(after)? + start;
    Some(&text[start..end])
}

fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.strip_prefix("Error during planning: ").unwrap_or(line);
    let mut short: String = line.chars().take(300).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

/// The known name most like the given one, if any is like it.
pub(crate) fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let scored = known.into_iter().map(|candidate| {
        let lower = candidate.to_lowercase();
        (strsim::damerau_levenshtein(&name, &lower), candidate)
    });
    // A third of the word may be wrong, and in a short word one letter.
    let allowed = (name.chars().count() / 3).max(1);
    scored
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, candidate)| (*distance, candidate.len()))
        .map(|(_, candidate)| candidate)
}

/// A column's name as it must be written.
pub(crate) fn quoted_if_needed(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_numeric());
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

fn listed(names: &[&str]) -> String {
    let mut text = names
        .iter()
        .take(NAMES_LISTED_MAX)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > NAMES_LISTED_MAX {
        text.push_str(", …");
    }
    text
}
