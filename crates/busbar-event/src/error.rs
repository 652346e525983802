//! One error type for what people see: a class that says what to do about it, a code that names
//! it for programs, and arguments from which each language's catalogue makes a sentence.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::messages::{self, Language};

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Trying again later may succeed: a full disk, a broken connection, a timeout.
    Transient,
    /// Trying again with the same input cannot succeed: the input becomes a dead letter.
    Permanent,
    /// Somebody must change a setting or a resource first.
    Configuration,
}

impl Class {
    /// The class as it is written in the API: `transient`, `permanent` or `configuration`.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Transient => "transient",
            Class::Permanent => "permanent",
            Class::Configuration => "configuration",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error that says what is wrong, where, and what to do about it.
///
/// The text comes from `messages/<language>/<area>.txt`, keyed by [`Error::code`], whose part
/// before the first dot names the area's file. Cloning is cheap, so one failure can be told to
/// everybody who waited for it.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

/// Shorthand for results of this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone)]
struct Inner {
    class: Class,
    code: &'static str,
    args: Vec<(&'static str, String)>,
    /// Arguments that are errors themselves; `args` has their English texts.
    nested: Vec<(&'static str, Error)>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    retry_after: Option<Duration>,
}

impl Error {
    /// An error of a class, named by its code in the message catalogue.
    pub fn new(class: Class, code: &'static str) -> Self {
        Error(Arc::new(Inner {
            class,
            code,
            args: Vec::new(),
            nested: Vec::new(),
            source: None,
            retry_after: None,
        }))
    }

    /// Adds an argument that the catalogue's text names as `{name}`.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        Arc::make_mut(&mut self.0)
            .args
            .push((name, value.to_string()));
        self
    }

    /// Adds an argument that is an error itself: its text is in the language of the whole.
    #[must_use]
    pub fn with_error(mut self, name: &'static str, error: &Error) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.args.push((name, error.explained(Language::En)));
        inner.nested.push((name, error.clone()));
        self
    }

    /// Adds an argument that is the text of another code of the catalogue, one without arguments.
    #[must_use]
    pub fn with_text(self, name: &'static str, code: &'static str) -> Self {
        let text = Error::new(self.class(), code);
        self.with_error(name, &text)
    }

    /// Adds the error that led to this one; its text is shown after ours.
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.0).source = Some(Arc::new(source));
        self
    }

    /// Adds how long the other side asks to be left alone.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        Arc::make_mut(&mut self.0).retry_after = Some(wait);
        self
    }

    /// Before so much time has passed, trying again is not welcome; whoever raised the error has bounded it.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// What to do about it.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// The name for programs, such as `flow.unknown-column`.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// The arguments, in the order in which they were added.
    pub fn args(&self) -> &[(&'static str, String)] {
        &self.0.args
    }

    /// Whether an argument is an error itself.
    pub fn has_error_within(&self) -> bool {
        !self.0.nested.is_empty()
    }

    /// The error as JSON, without its cause, for [`Error::recorded`].
    pub fn record(&self) -> String {
        self.to_record().to_string()
    }

    fn to_record(&self) -> serde_json::Value {
        let args: serde_json::Map<String, serde_json::Value> = self
            .0
            .args
            .iter()
            .map(|(name, value)| {
                let nested = self.nested(name).map(Error::to_record);
                (
                    (*name).to_owned(),
                    nested.unwrap_or_else(|| value.as_str().into()),
                )
            })
            .collect();
        serde_json::json!({"class": self.0.class, "code": self.0.code, "args": args})
    }

    /// The error of an [`Error::record`]; none if this program does not know its code.
    pub fn recorded(record: &str) -> Option<Error> {
        Error::from_record(&serde_json::from_str(record).ok()?)
    }

    fn from_record(record: &ErrorRecord) -> Option<Error> {
        let (code, names) = messages::known(&record.code)?;
        let error = Error::new(record.class, code);
        Some(
            names.fold(error, |error, name| match record.args.get(name) {
                Some(RecordedArg::Text(value)) => error.with(name, value),
                Some(RecordedArg::Error(nested)) => match Error::from_record(nested) {
                    Some(nested) => error.with_error(name, &nested),
                    None => error.with(name, &nested.code),
                },
                None => error,
            }),
        )
    }

    /// The sentence in a language, without the cause.
    pub fn message(&self, language: Language) -> String {
        if self.0.nested.is_empty() {
            return messages::text(language, self.0.code, &self.0.args);
        }
        let text = |(name, value): &(&'static str, String)| {
            let nested = self.nested(name).map(|error| error.explained(language));
            (*name, nested.unwrap_or_else(|| value.clone()))
        };
        let args: Vec<_> = self.0.args.iter().map(text).collect();
        messages::text(language, self.0.code, &args)
    }

    /// The sentence in a language with its cause. Errors of this type and those of the operating system are in that
    /// language, others in their own words.
    pub fn explained(&self, language: Language) -> String {
        match self.cause(language) {
            Some(cause) => {
                let colon = match language {
                    Language::En => ": ",
                    Language::Zh => "：",
                };
                self.message(language) + colon + &cause
            }
            None => self.message(language),
        }
    }

    /// What led to it, as in [`Error::explained`].
    pub fn cause(&self, language: Language) -> Option<String> {
        let source = self.0.source.as_deref()?;
        Some(explained(source, language))
    }

    fn nested(&self, name: &str) -> Option<&Error> {
        let mut nested = self.0.nested.iter();
        nested.find(|(of, _)| *of == name).map(|(_, error)| error)
    }
}

/// An [`Error::record`] as it is read.
#[derive(serde::Deserialize)]
struct ErrorRecord {
    class: Class,
    code: String,
    args: std::collections::BTreeMap<String, RecordedArg>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum RecordedArg {
    Text(String),
    Error(ErrorRecord),
}

fn explained(error: &(dyn std::error::Error + 'static), language: Language) -> String {
    if let Some(error) = error.downcast_ref::<Error>() {
        return error.explained(language);
    }
    match error.downcast_ref::<io::Error>() {
        Some(error) => match (error.get_ref(), messages::words_of(error)) {
            (Some(within), _) => explained(within, language),
            (None, Some(code)) => messages::text::<&str, &str>(language, code, &[]),
            (None, None) => error.to_string(),
        },
        None => error.to_string(),
    }
}

/// The English sentence with its cause; with `{:#}` the [`Error::record`], which carries an error through a
/// library that keeps texts only.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return f.write_str(&self.record());
        }
        f.write_str(&self.message(Language::En))?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{} {}]", self, self.0.class, self.0.code)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as _)
    }
}

/// The shape of an error in the API: `{class, code, message, message_zh, args}`, with `cause` and `cause_zh` where
/// another error led to it.
impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Args<'a>(&'a [(&'static str, String)]);
        impl Serialize for Args<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
            }
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("class", self.0.class.as_str())?;
        map.serialize_entry("code", self.0.code)?;
        map.serialize_entry("message", &self.message(Language::En))?;
        map.serialize_entry("message_zh", &self.message(Language::Zh))?;
        map.serialize_entry("args", &Args(&self.0.args))?;
        for (name, language) in [("cause", Language::En), ("cause_zh", Language::Zh)] {
            if let Some(cause) = self.cause(language) {
                map.serialize_entry(name, &cause)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_back_from_its_record() {
        let error = Error::new(Class::Permanent, "event.topic-wildcard").with("topic", "a\"+\n");
        let back = Error::recorded(&error.record()).expect("it is known");
        assert_eq!(back.class(), error.class());
        assert_eq!((back.code(), back.args()), (error.code(), error.args()));
        let unknown = error.record().replace("topic-wildcard", "gone");
        assert!(Error::recorded(&unknown).is_none());
    }

    #[test]
    fn an_error_within_another_is_in_the_language_of_the_whole() {
        let inner = Error::new(Class::Permanent, "event.topic-wildcard").with("topic", "a/+");
        let outer = Error::new(Class::Permanent, "plugin.rubbish-answer");
        let error = outer.with_error("cause", &inner);
        for error in [
            Error::recorded(&error.record()).expect("it is known"),
            error,
        ] {
            for language in Language::ALL {
                let (whole, part) = (error.message(language), inner.message(language));
                assert!(whole.ends_with(&part), "{whole}: {part}");
            }
            assert_eq!(error.args()[0].1, inner.message(Language::En));
        }
    }

    #[test]
    fn causes_of_the_system_and_of_ours_are_in_the_language_of_the_whole() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let inner = Error::new(Class::Transient, "event.topic-empty").caused_by(denied);
        let within = io::Error::other(inner.clone());
        for inner in [
            Error::new(Class::Transient, "event.topic-nul").caused_by(inner),
            Error::new(Class::Transient, "event.topic-nul").caused_by(within),
        ] {
            let zh = inner.explained(Language::Zh);
            let parts = ["event.topic-empty", "event.io-denied"];
            for part in parts.map(|code| messages::template(Language::Zh, code).unwrap()) {
                assert!(zh.contains(part), "{zh}");
            }
            assert!(!zh.to_lowercase().contains("denied"), "{zh}");
            let json = serde_json::to_value(&inner).unwrap();
            assert!(zh.ends_with(json["cause_zh"].as_str().unwrap()), "{json}");
        }
    }

    #[test]
    fn says_what_where_and_why_in_both_languages() {
        let error = Error::new(Class::Permanent, "event.topic-wildcard")
            .with("topic", "a/+/b")
            .caused_by(std::io::Error::other("disk on fire"));
        assert_eq!(error.class(), Class::Permanent);
        assert_eq!(error.args(), &[("topic", "a/+/b".to_string())]);
        assert!(error.message(Language::En).contains("a/+/b"));
        assert!(error.message(Language::Zh).contains("a/+/b"));
        assert_ne!(error.message(Language::En), error.message(Language::Zh));
        assert!(error.to_string().ends_with(": disk on fire"), "{error}");
        let json = serde_json::to_value(&error).unwrap();
        assert_eq!(json["class"], "permanent");
        assert_eq!(json["code"], "event.topic-wildcard");
        assert_eq!(json["args"]["topic"], "a/+/b");
        assert_eq!(json["cause"], "disk on fire");
    }
}
