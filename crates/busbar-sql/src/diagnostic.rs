use std::fmt;
use std::ops::Range;

use busbar_event::{Class, Error, Language};

use crate::limits::NAMES_LISTED_MAX;
use crate::text;

/// An error in a text: its place, its message and, where there is one, a suggestion.
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

    /// The same, where the text is a part of a longer one.
    pub fn within(mut self, part: &Range<usize>) -> Self {
        let shift = |place: usize| (part.start + place).min(part.end);
        self.span = shift(self.span.start)..shift(self.span.end);
        self
    }

    /// The code, such as `sql.unknown-column`.
    pub fn code(&self) -> &'static str {
        self.error.code()
    }

    /// The arguments of the message.
    pub fn args(&self) -> &[(&'static str, String)] {
        self.error.args()
    }

    /// The place in the text, in bytes.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// A replacement for the span.
    pub fn suggestion(&self) -> Option<&str> {
        self.suggestion.as_deref()
    }

    /// The message, without place and suggestion, in a language.
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

pub(crate) fn duplicate_column(text: &str, name: &str) -> Diagnostic {
    let place = text::find_word(text, name).unwrap_or(0..text.len());
    Diagnostic::new("sql.duplicate-column", place).with("column", text::quote(name))
}

/// There is no column of that name among `names`.
pub(crate) fn unknown_column_named(name: &str, names: &[&str], place: Range<usize>) -> Diagnostic {
    if names.is_empty() {
        return Diagnostic::new("sql.no-columns", place).with("column", text::quote(name));
    }
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

/// The known name that is most similar to the given one, if any is similar.
pub(crate) fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let scored = known.into_iter().map(|candidate| {
        let lower = candidate.to_lowercase();
        (strsim::damerau_levenshtein(&name, &lower), candidate)
    });
    // At most a third of the letters may differ, and at least one.
    let allowed = (name.chars().count() / 3).max(1);
    scored
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, candidate)| (*distance, candidate.len()))
        .map(|(_, candidate)| candidate)
}

/// The name as it is written in SQL.
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
