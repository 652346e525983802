//! Which partitions are read, and where each one begins.

use std::collections::BTreeMap;

use busbar_connector::Resume;
use busbar_kafka::message::{KafkaTopic, OffsetsRequest};

use super::limits::TOPIC_NAME_BYTES_MAX;

/// Where a partition begins that was never read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadStart {
    Earliest,
    Latest,
    /// With the first record that is not older, in milliseconds since 1970.
    Time(i64),
}

impl ReadStart {
    /// Reads it as it is written; nothing is the earliest.
    pub fn parse(text: &str) -> Option<ReadStart> {
        match text {
            "" | "earliest" => Some(ReadStart::Earliest),
            "latest" => Some(ReadStart::Latest),
            time => {
                let micros = busbar_event::time::parse(time)?;
                let millis = micros.div_euclid(1_000) + i64::from(micros.rem_euclid(1_000) > 0);
                (millis >= 0).then_some(ReadStart::Time(millis))
            }
        }
    }

    /// As a question for offsets has it.
    pub fn asked(self) -> i64 {
        match self {
            ReadStart::Earliest => OffsetsRequest::EARLIEST,
            ReadStart::Latest => OffsetsRequest::LATEST,
            ReadStart::Time(millis) => millis,
        }
    }
}

/// Whether a topic may have this name.
pub fn is_topic(name: &str) -> bool {
    let taken = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=TOPIC_NAME_BYTES_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(taken)
}

/// The name of a topic, or several names by `*` for any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicPattern {
    Name(String),
    /// The texts between the stars.
    Parts(Vec<String>),
}

impl TopicPattern {
    /// Reads it as it is written; `None` for what no topic's name can be.
    pub fn new(text: &str) -> Option<TopicPattern> {
        let bare = text.replace('*', "");
        match bare.len() == text.len() {
            true => is_topic(text).then(|| TopicPattern::Name(text.to_owned())),
            false => (bare.is_empty() || is_topic(&bare))
                .then(|| TopicPattern::Parts(text.split('*').map(str::to_owned).collect())),
        }
    }

    /// Whether a topic is meant.
    pub fn matches(&self, topic: &KafkaTopic) -> bool {
        match self {
            TopicPattern::Name(name) => topic.name == *name,
            TopicPattern::Parts(parts) => !topic.internal && fits(&topic.name, parts),
        }
    }
}

fn fits(name: &str, parts: &[String]) -> bool {
    let (Some((first, middle)), Some(last)) = (parts.split_first(), parts.last()) else {
        return false;
    };
    let Some(mut rest) = name.strip_prefix(first.as_str()) else {
        return false;
    };
    for part in &middle[..middle.len().saturating_sub(1)] {
        match rest.find(part.as_str()) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last.as_str())
}

/// What has been kept of a partition that was read before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptPlace {
    /// Nothing.
    None,
    /// The offset of the record that is read next.
    At(i64),
    /// It is of another topic that had the same name.
    OtherTopic,
}

/// Under which name the position of a partition is kept.
pub fn part_name(topic: &str, partition: i32, generation: u32) -> String {
    match generation {
        0 => format!("{topic}/{partition}"),
        // No topic's name has this sign.
        _ => format!("{topic}/{partition}#{generation}"),
    }
}

/// What has been kept of a partition. The note with its position is the topic's identifier, where the brokers have them.
pub fn kept_place(resume: &Resume, part: &str, id: [u8; 16]) -> KeptPlace {
    let Some(position) = resume.positions.get(part) else {
        return KeptPlace::None;
    };
    let known = resume.note(part);
    if known.len() == id.len() && id != [0; 16] && known != id {
        return KeptPlace::OtherTopic;
    }
    KeptPlace::At(i64::try_from(*position).unwrap_or(i64::MAX))
}

/// The note that is kept with a position.
pub fn note(id: [u8; 16]) -> Vec<u8> {
    match id == [0; 16] {
        true => Vec::new(),
        false => id.to_vec(),
    }
}

/// The topics that are named and those that fit a pattern, by name; and the names that no topic has.
pub fn chosen<'a>(
    patterns: &[TopicPattern],
    topics: &'a [KafkaTopic],
) -> (BTreeMap<&'a str, &'a KafkaTopic>, Vec<String>) {
    let there = topics.iter().filter(|topic| !topic.code.is_error());
    let chosen: BTreeMap<_, _> = there
        .filter(|topic| patterns.iter().any(|pattern| pattern.matches(topic)))
        .map(|topic| (topic.name.as_str(), topic))
        .collect();
    let missing = patterns.iter().filter_map(|pattern| match pattern {
        TopicPattern::Name(name) if !chosen.contains_key(name.as_str()) => Some(name.clone()),
        _ => None,
    });
    let missing = missing.collect();
    (chosen, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_word_or_a_time() {
        assert_eq!(ReadStart::parse(""), Some(ReadStart::Earliest));
        assert_eq!(ReadStart::parse("latest"), Some(ReadStart::Latest));
        let time = ReadStart::parse("1970-01-01T00:00:01.0001Z");
        assert_eq!(time, Some(ReadStart::Time(1_001)));
        assert_eq!(ReadStart::parse("soon"), None);
    }

    #[test]
    fn patterns_choose_topics() {
        let topic = |name: &str, internal| KafkaTopic {
            code: busbar_kafka::KafkaCode::NONE,
            name: name.into(),
            id: [0; 16],
            internal,
            partitions: Vec::new(),
        };
        let fits = |pattern: &str, name: &str| {
            let pattern = TopicPattern::new(pattern).expect("a pattern");
            pattern.matches(&topic(name, false))
        };
        for (pattern, name, fit) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "a", true),
            ("a-*", "a-", true),
            ("a-*", "b-a-", false),
            ("*-b", "a-b", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("ab*b", "ab", false),
        ] {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
        let all = TopicPattern::new("*").expect("a pattern");
        assert!(!all.matches(&topic("__consumer_offsets", true)));
        for bad in ["", "a/b", "a b", ".", "雨*"] {
            assert_eq!(TopicPattern::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_topic_that_was_made_anew_is_another_one() {
        let mut resume = Resume::default();
        let part = part_name("t", 3, 0);
        assert_eq!(kept_place(&resume, &part, [1; 16]), KeptPlace::None);
        resume.positions.insert(part.clone(), 7);
        assert_eq!(kept_place(&resume, &part, [1; 16]), KeptPlace::At(7));
        resume.notes.insert(part.clone(), note([1; 16]));
        assert_eq!(kept_place(&resume, &part, [1; 16]), KeptPlace::At(7));
        assert_eq!(kept_place(&resume, &part, [0; 16]), KeptPlace::At(7));
        assert_eq!(kept_place(&resume, &part, [2; 16]), KeptPlace::OtherTopic);
        assert_ne!(part_name("t", 3, 1), part);
    }
}
