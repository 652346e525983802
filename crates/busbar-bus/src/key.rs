//! Keys of events that come without one.

use busbar_event::{Class, Error, Result, hash::fnv1a, limits::KEY_BYTES_MAX, topic};

use crate::{limits::KEY_TEMPLATE_BYTES_MAX, refused::Refused};

/// How a stream makes the key of an event that has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRule {
    /// From the topic alone: computed once for each distinct topic.
    Topic(Vec<Part>),
    /// The value of a tag; no key where the tag is missing.
    Tag(String),
}

/// A piece of a key template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text that stands as it is.
    Literal(String),
    /// The whole topic.
    Topic,
    /// The first part of `kind/client/subject`.
    Kind,
    /// The second part.
    Client,
    /// All that follows.
    Subject,
}

impl KeyRule {
    /// Reads `${client}`, `site-${client}` or `${tags.site}`.
    pub fn parse(text: &str) -> Result<KeyRule> {
        let refuse = |why: &str| {
            let shown: String = why.chars().take(64).collect();
            Error::new(Class::Configuration, "bus.key-template").with("part", shown)
        };
        if text.len() > KEY_TEMPLATE_BYTES_MAX || !text.contains("${") {
            return Err(refuse(text));
        }
        let whole = text.strip_prefix("${").and_then(|t| t.strip_suffix('}'));
        if let Some(tag) = whole.and_then(|t| t.strip_prefix("tags.")) {
            return match tag {
                "" => Err(refuse(text)),
                tag if tag.contains(['$', '{', '}']) => Err(refuse(tag)),
                tag => Ok(KeyRule::Tag(tag.to_owned())),
            };
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if at > 0 {
                parts.push(Part::Literal(rest[..at].to_owned()));
            }
            let inner = &rest[at + 2..];
            let end = inner.find('}').ok_or_else(|| refuse(rest))?;
            parts.push(match &inner[..end] {
                "topic" => Part::Topic,
                "kind" => Part::Kind,
                "client" => Part::Client,
                "subject" => Part::Subject,
                other => return Err(refuse(other)),
            });
            rest = &inner[end + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(KeyRule::Topic(parts))
    }

    /// The key of every event of `topic`, if the topic alone decides it.
    pub fn of_topic(&self, name: &str) -> Result<Option<String>, Refused> {
        let KeyRule::Topic(parts) = self else {
            return Ok(None);
        };
        let words = topic::parts(name);
        let mut key = String::new();
        for part in parts {
            key.push_str(match part {
                Part::Literal(text) => text,
                Part::Topic => name,
                Part::Kind => words.kind,
                Part::Client => words.client,
                Part::Subject => words.subject,
            });
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(Refused::KeyTooLong);
        }
        Ok((!key.is_empty()).then_some(key))
    }
}

/// The partition that events of a key (or of a topic, where there is no key) go to.
pub(crate) fn partition_of(key: &str, partitions: usize) -> usize {
    // Fixed for ever: a key must stay in its partition over restarts and versions.
    let hash = fnv1a(key.as_bytes());
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (((mixed >> 32) * partitions as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_topics() {
        let made = |template: &str, topic: &str| KeyRule::parse(template).unwrap().of_topic(topic);
        let key = |template: &str, topic: &str| made(template, topic).unwrap();
        let long = "x".repeat(40_000);
        assert_eq!(made("${topic}${topic}", &long), Err(Refused::KeyTooLong));
        assert_eq!(key("${client}", "meter/m1/reading").as_deref(), Some("m1"));
        assert_eq!(
            key("a-${kind}.${subject}", "meter/m1/x/y").as_deref(),
            Some("a-meter.x/y")
        );
        assert_eq!(key("${client}", "meter"), None);
        assert_eq!(
            KeyRule::parse("${tags.site}").unwrap(),
            KeyRule::Tag("site".into())
        );
        for bad in [
            "client",
            "${",
            "${colour}",
            "${tags.}",
            "${client",
            "${tags.a}${tags.b}",
            "",
        ] {
            assert!(KeyRule::parse(bad).is_err(), "{bad}");
        }
    }
}
