//! Rules: what a user or token may publish, subscribe to and read, beyond what its role says.

use std::fmt;

use busbar_event::topic::Filter;
use busbar_event::{Class, Error};
use serde::{Deserialize, Serialize};

use crate::limits::GRANTS_MAX;

/// The lists that restrict a user or token. A list that is present allows what it names and
/// nothing else. Without `publish` the role decides. `subscribe` and `read` stand in for each other:
/// with only one of them given, it restricts both receiving and reading; with neither, the role
/// decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// What may be published to: topic filters (`meter/+/reading`) or `stream:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<Vec<Grant>>,
    /// What may be received live: topic filters or `stream:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<Vec<Grant>>,
    /// What may be read from history and by SQL: `stream:NAME`, `table:NAME`, or `#` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Vec<Grant>>,
    /// Which APIs may be called, whatever the role: `api:NAME`, or `#` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Vec<Grant>>,
}

impl Rules {
    /// The list that restricts publishing, if any.
    pub(crate) fn publish(&self) -> Option<&[Grant]> {
        self.publish.as_deref()
    }

    /// The list that restricts receiving live events, if any. Without it, who may read one stream only
    /// must not receive all of them.
    pub(crate) fn subscribe(&self) -> Option<&[Grant]> {
        self.subscribe.as_deref().or(self.read.as_deref())
    }

    /// The list that restricts reading, if any.
    pub(crate) fn read(&self) -> Option<&[Grant]> {
        self.read.as_deref().or(self.subscribe.as_deref())
    }

    /// The list of the APIs that may be called, if any.
    pub(crate) fn call(&self) -> Option<&[Grant]> {
        self.call.as_deref()
    }

    /// Checks that no list is longer than [`GRANTS_MAX`].
    ///
    /// # Errors
    /// `access.too-many-rules`.
    pub fn check(&self) -> Result<(), Error> {
        for list in [&self.publish, &self.subscribe, &self.read, &self.call]
            .into_iter()
            .flatten()
        {
            if list.len() > GRANTS_MAX {
                return Err(
                    Error::new(Class::Permanent, "access.too-many-rules").with("max", GRANTS_MAX)
                );
            }
        }
        Ok(())
    }

    /// True when no list is given.
    pub fn is_empty(&self) -> bool {
        self.publish.is_none()
            && self.subscribe.is_none()
            && self.read.is_none()
            && self.call.is_none()
    }
}

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Topics that match the filter.
    Topics(Filter),
    /// Everything of one stream.
    Stream(String),
    /// One table.
    Table(String),
    /// One API.
    Api(String),
}

/// How much of what a subscription's filter matches a principal may receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Every event that the filter matches.
    All,
    /// Some of them: each topic must be checked with `may_receive`.
    Some,
    /// None of them: refuse the subscription.
    None,
}

impl Grant {
    /// Parses `stream:NAME`, `table:NAME`, `api:NAME` or a topic filter.
    pub fn parse(text: &str) -> Result<Grant, Error> {
        let named = |name: &str| {
            if name.is_empty() {
                Err(Error::new(Class::Permanent, "access.bad-rule").with("rule", text))
            } else {
                Ok(name.to_owned())
            }
        };
        if let Some(name) = text.strip_prefix("stream:") {
            named(name).map(Grant::Stream)
        } else if let Some(name) = text.strip_prefix("table:") {
            named(name).map(Grant::Table)
        } else if let Some(name) = text.strip_prefix("api:") {
            named(name).map(Grant::Api)
        } else {
            Filter::parse(text).map(Grant::Topics).map_err(|cause| {
                Error::new(Class::Permanent, "access.bad-rule")
                    .with("rule", text)
                    .caused_by(cause)
            })
        }
    }

    /// True when this entry allows an event of `topic` in `stream`.
    pub fn allows(&self, topic: &str, stream: &str) -> bool {
        match self {
            Grant::Topics(filter) => filter.matches(topic),
            Grant::Stream(name) => name == stream,
            Grant::Table(_) | Grant::Api(_) => false,
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grant::Topics(filter) => f.write_str(filter.as_str()),
            Grant::Stream(name) => write!(f, "stream:{name}"),
            Grant::Table(name) => write!(f, "table:{name}"),
            Grant::Api(name) => write!(f, "api:{name}"),
        }
    }
}

impl Serialize for Grant {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Grant {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Grant::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// How much of `wanted` the list reaches.
pub(crate) fn reach(list: &[Grant], wanted: &Filter) -> Reach {
    let mut some = false;
    for grant in list {
        match grant {
            Grant::Topics(filter) => {
                if covers(filter.as_str(), wanted.as_str()) {
                    return Reach::All;
                }
                some |= filter.overlaps(wanted);
            }
            Grant::Stream(_) => some = true,
            Grant::Table(_) | Grant::Api(_) => {}
        }
    }
    if some { Reach::Some } else { Reach::None }
}

/// True when every topic that `narrow` matches is matched by `wide`.
fn covers(wide: &str, narrow: &str) -> bool {
    // A wildcard in first place does not reach topics that start with `$`, so it does not cover
    // a filter that names them.
    if narrow.starts_with('$') && wide.starts_with(['+', '#']) {
        return false;
    }
    let mut wide = wide.split('/');
    let mut narrow = narrow.split('/');
    loop {
        match (wide.next(), narrow.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(a), Some(b)) if a == b => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter {
        Filter::parse(text).unwrap()
    }

    #[test]
    fn a_wider_filter_covers_a_narrower_one() {
        for (wide, narrow, expected) in [
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/b", "$SYS/b", false),
            ("$SYS/#", "$SYS/x", true),
            ("a/#", "a", true),
            ("a/#", "a/+/c", true),
            ("a/#", "a/#", true),
            ("a/+", "a/#", false),
            ("a/+", "a/b", true),
            ("a/+", "a/b/c", false),
            ("a/b", "a/+", false),
            ("a/b", "a/b", true),
            ("a/b/c", "a/b", false),
        ] {
            assert_eq!(covers(wide, narrow), expected, "{wide} covers {narrow}");
        }
    }

    #[test]
    fn reach_tells_all_some_and_none_apart() {
        let list = vec![
            Grant::parse("meter/#").unwrap(),
            Grant::parse("gauge/+/rain").unwrap(),
        ];
        assert_eq!(reach(&list, &filter("meter/m1/+")), Reach::All);
        assert_eq!(reach(&list, &filter("gauge/#")), Reach::Some);
        assert_eq!(reach(&list, &filter("#")), Reach::Some);
        assert_eq!(reach(&list, &filter("plant/#")), Reach::None);
        assert_eq!(reach(&[], &filter("#")), Reach::None);
        // What belongs to a stream is decided for each event; a table has no events.
        let rain = Grant::parse("stream:rain").unwrap();
        assert_eq!(reach(&[rain], &filter("gauge/#")), Reach::Some);
        let peaks = Grant::parse("table:peaks").unwrap();
        assert_eq!(reach(&[peaks], &filter("#")), Reach::None);
    }

    #[test]
    fn grants_survive_json_and_bad_ones_are_refused() {
        let text = r#"{"publish":["meter/#","stream:rain"],"read":["table:peaks"]}"#;
        let rules: Rules = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&rules).unwrap(), text);
        for bad in ["stream:", "table:", "a/#/b", ""] {
            assert!(Grant::parse(bad).is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<Rules>(r#"{"publsh":[]}"#).is_err());
        let many = |count| Rules {
            read: Some(vec![Grant::Stream("s".into()); count]),
            ..Rules::default()
        };
        assert!(many(GRANTS_MAX).check().is_ok());
        let wrong = many(GRANTS_MAX + 1).check().unwrap_err();
        assert_eq!(wrong.code(), "access.too-many-rules");
    }
}
