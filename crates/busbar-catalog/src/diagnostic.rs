//! Errors and warnings about places in files, with hints.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use busbar_event::{Class, Error, Language};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::shown::without_secrets;

/// How bad a [`Diagnostic`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The project is refused.
    Error,
    /// The project is accepted, but needs attention.
    Warning,
}

/// One error or warning about one place in one file.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    file: Arc<str>,
    text: Arc<str>,
    span: Range<usize>,
    error: Arc<Error>,
    help: Option<Arc<Error>>,
    severity: Severity,
}

/// What is wrong, without its place: for errors that are told where no file is shown.
impl From<Diagnostic> for Error {
    fn from(diagnostic: Diagnostic) -> Error {
        Arc::unwrap_or_clone(diagnostic.error)
    }
}

impl Diagnostic {
    /// An error about `span` (bytes of `text`) of `file`.
    pub fn new(file: &str, text: &str, span: Range<usize>, error: Error) -> Diagnostic {
        let mut start = span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = span.end.clamp(start, text.len());
        while !text.is_char_boundary(end) {
            end += 1;
        }
        Diagnostic {
            file: file.into(),
            text: text.into(),
            span: start..end,
            error: Arc::new(error),
            help: None,
            severity: Severity::Error,
        }
    }

    /// Adds a hint at what would be right.
    #[must_use]
    pub fn with_help(mut self, help: Option<Error>) -> Diagnostic {
        if let Some(help) = help {
            self.help = Some(Arc::new(help));
        }
        self
    }

    /// Makes it a warning.
    #[must_use]
    pub fn warning(mut self) -> Diagnostic {
        self.severity = Severity::Warning;
        self
    }

    /// The file's path in the project.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The place in the file, in bytes.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The text at the place.
    pub fn word(&self) -> &str {
        &self.text[self.span.clone()]
    }

    /// The first line of the place.
    fn first_line(&self) -> &str {
        self.word().lines().next().unwrap_or_default()
    }

    /// Line and column of the place, both from 1, the column in characters.
    pub fn line_column(&self) -> (usize, usize) {
        let before = &self.text[..self.span.start];
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        (line, column)
    }

    /// What is wrong.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The message with its cause.
    pub fn message(&self, language: Language) -> String {
        self.error.explained(language)
    }

    /// The hint, if there is one.
    pub fn help(&self) -> Option<&Error> {
        self.help.as_deref()
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// The text of the file without secrets. Columns may be called as secrets are, and what their types are is none.
    pub fn shown(&self) -> String {
        let of_columns = ["flows/", "streams/", "tables/"];
        match of_columns
            .iter()
            .any(|folder| self.file.starts_with(folder))
        {
            true => self.text.to_string(),
            false => without_secrets(&self.text),
        }
    }

    /// The message where its text is shown beside it, in a language. Where nothing of the file is shown it names the file.
    pub fn headline(&self, language: Language) -> String {
        let message = self.message(language);
        match self.text.is_empty() && !self.file.is_empty() && !message.contains(&*self.file) {
            true => format!("{}: {message}", self.file),
            false => message,
        }
    }

    /// What would be right, in a language.
    pub fn hint(&self, language: Language) -> Option<String> {
        self.help.as_ref().map(|help| help.message(language))
    }

    /// The bytes of the text that are marked: of a place of several lines only the first.
    pub fn marked(&self) -> Range<usize> {
        self.span.start..self.span.start + self.first_line().len()
    }
}

/// `file:line:column: message`, in English.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_column();
        let message = self.message(Language::En);
        write!(f, "{}:{line}:{column}: {message}", self.file)?;
        match &self.help {
            Some(help) => write!(f, " ({})", help.message(Language::En)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let (line, column) = self.line_column();
        let args: serde_json::Map<String, serde_json::Value> = self
            .error
            .args()
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
            .collect();
        let mut out = s.serialize_struct("Diagnostic", 12)?;
        out.serialize_field("file", &*self.file)?;
        out.serialize_field("line", &line)?;
        out.serialize_field("column", &column)?;
        out.serialize_field("start", &self.span.start)?;
        out.serialize_field("end", &self.span.end)?;
        out.serialize_field(
            "severity",
            match self.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
        )?;
        out.serialize_field("code", self.error.code())?;
        out.serialize_field("args", &args)?;
        out.serialize_field("message", &self.message(Language::En))?;
        out.serialize_field("message_zh", &self.message(Language::Zh))?;
        out.serialize_field("help", &self.hint(Language::En))?;
        out.serialize_field("help_zh", &self.hint(Language::Zh))?;
        out.end()
    }
}

/// "did you mean …?" for a word close enough to one that is known.
pub fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<Error> {
    let lower = word.to_lowercase();
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&lower, &k.to_lowercase()), k))
        .filter(|(distance, k)| *distance <= (k.chars().count().max(3) / 3))
        .min()
        .map(|(_, k)| Error::new(Class::Configuration, "catalog.did-you-mean").with("name", k))
}

/// Whether any of them refuses the project.
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|d| d.severity == Severity::Error)
}
