//! Topics (`kind/client/subject`) and the filters that select them.
//!
//! Levels are separated by `/`. A filter is a topic in which `+` stands for any one level and a
//! last `#` for any number of levels, the parent included, as MQTT defines them. A wildcard in the
//! first level never matches a topic that begins with `$`.

mod foreign;
mod spelling;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{TOPIC_BYTES_MAX, TOPIC_LEVELS_MAX};
use crate::{Class, Error, Result};

pub use foreign::{Separator, from_binary, to_binary};
pub use spelling::{TopicSpelling, spelled};

/// Checks that `topic` may name an event: not empty, not too long or deep, no wildcard, no NUL.
pub fn check(topic: &str) -> Result<()> {
    let bytes = topic.as_bytes();
    match memchr::memchr3(b'+', b'#', 0, bytes).map(|at| bytes[at]) {
        Some(0) => return Err(refuse("event.topic-nul", topic)),
        Some(_) => return Err(refuse("event.topic-wildcard", topic)),
        None => {}
    }
    // A short topic cannot have too many levels.
    let levels = match bytes.len() < TOPIC_LEVELS_MAX {
        true => 1,
        false => 1 + memchr::memchr_iter(b'/', bytes).count(),
    };
    check_size(topic, levels)
}

fn check_size(topic: &str, levels: usize) -> Result<()> {
    if topic.is_empty() {
        return Err(Error::new(Class::Permanent, "event.topic-empty"));
    }
    if topic.len() > TOPIC_BYTES_MAX {
        return Err(Error::new(Class::Permanent, "event.topic-long")
            .with("bytes", topic.len())
            .with("max", TOPIC_BYTES_MAX));
    }
    if levels > TOPIC_LEVELS_MAX {
        return Err(Error::new(Class::Permanent, "event.topic-deep")
            .with("levels", levels)
            .with("max", TOPIC_LEVELS_MAX));
    }
    Ok(())
}

fn refuse(code: &'static str, topic: &str) -> Error {
    Error::new(Class::Permanent, code).with("topic", crate::quote(topic))
}

/// A pattern that topics match or do not. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter(Arc<str>);

impl Filter {
    /// Reads a filter, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Filter> {
        let mut levels = 0;
        let mut last = "";
        for level in text.split('/') {
            if last == "#" || (level.len() > 1 && level.contains(['+', '#'])) {
                return Err(Error::new(Class::Permanent, "event.filter-wildcard")
                    .with("filter", crate::quote(text)));
            }
            levels += 1;
            last = level;
        }
        if text.contains('\0') {
            return Err(refuse("event.topic-nul", text));
        }
        check_size(text, levels)?;
        Ok(Filter(text.into()))
    }

    /// Whether an event of this topic is selected.
    pub fn matches(&self, topic: &str) -> bool {
        let (filter, topic) = (self.0.as_bytes(), topic.as_bytes());
        if topic.first() == Some(&b'$') && matches!(filter.first(), Some(b'+' | b'#')) {
            return false;
        }
        let (mut f, mut t) = (0, 0);
        // Each round begins at the first byte of a level in both.
        loop {
            match filter.get(f) {
                Some(b'#') => return true,
                Some(b'+') => {
                    f += 1;
                    while t < topic.len() && topic[t] != b'/' {
                        t += 1;
                    }
                }
                _ => {
                    while f < filter.len() && filter[f] != b'/' {
                        if t >= topic.len() || topic[t] != filter[f] {
                            return false;
                        }
                        f += 1;
                        t += 1;
                    }
                    if t < topic.len() && topic[t] != b'/' {
                        return false;
                    }
                }
            }
            // Both stand at the end of a level.
            match (f == filter.len(), t == topic.len()) {
                (true, ended) => return ended,
                // `a/#` selects `a` too.
                (false, true) => return &filter[f..] == b"/#",
                (false, false) => {}
            }
            f += 1;
            t += 1;
        }
    }

    /// Whether some topic is selected by both filters.
    pub fn overlaps(&self, other: &Filter) -> bool {
        let (mut ours, mut theirs) = (self.0.split('/'), other.0.split('/'));
        let mut first = true;
        loop {
            let (a, b) = match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(rest), None) | (None, Some(rest)) => return rest == "#",
                (Some(a), Some(b)) => (a, b),
            };
            let wild = |level: &str| level == "+" || level == "#";
            let hidden = |level: &str| level.starts_with('$');
            if first && ((wild(a) && hidden(b)) || (wild(b) && hidden(a))) {
                return false;
            }
            first = false;
            if a == "#" || b == "#" {
                return true;
            }
            if a != b && a != "+" && b != "+" {
                return false;
            }
        }
    }

    /// How narrow the filter is. Of different filters that match one topic, exactly one is the
    /// most specific.
    pub fn specificity(&self) -> Specificity {
        let mut kinds: Vec<Kind> = self
            .0
            .split('/')
            .map(|level| match level {
                "+" => Kind::One,
                "#" => Kind::Rest,
                _ => Kind::Literal,
            })
            .collect();
        if kinds.last() != Some(&Kind::Rest) {
            kinds.push(Kind::End);
        }
        let literals = kinds.iter().filter(|kind| **kind == Kind::Literal).count();
        Specificity { literals, kinds }
    }

    /// Whether the filter has no wildcard and so selects one topic.
    pub fn is_literal(&self) -> bool {
        !self.0.contains(['+', '#'])
    }

    /// The filter as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How narrow a filter is; greater is more specific: more literal levels first, then a literal
/// before `+` before the end before `#`, from left to right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Specificity {
    literals: usize,
    kinds: Vec<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Rest,
    End,
    One,
    Literal,
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({})", self.0)
    }
}

impl std::str::FromStr for Filter {
    type Err = Error;
    fn from_str(text: &str) -> Result<Filter> {
        Filter::parse(text)
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Filter, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Filter::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Filter {
    fn schema_name() -> Cow<'static, str> {
        "TopicFilter".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": TOPIC_BYTES_MAX,
            "description": "A topic filter: levels separated by /, + for one level, a last # for all below",
        })
    }
}

/// The parts of a topic by convention: `kind/client/subject`, the subject being all the rest.
/// A part that is not there is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts<'a> {
    /// What sort of thing speaks: `gateway`, `meter`.
    pub kind: &'a str,
    /// Which one.
    pub client: &'a str,
    /// What about.
    pub subject: &'a str,
}

/// Takes a topic apart.
pub fn parts(topic: &str) -> Parts<'_> {
    let mut levels = topic.splitn(3, '/');
    Parts {
        kind: levels.next().unwrap_or_default(),
        client: levels.next().unwrap_or_default(),
        subject: levels.next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
