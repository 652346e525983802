//! What a stream's file says.

use busbar_event::{
    Class, Error, Result, Size, Span,
    format::{Decoder, FieldSpec, FieldType, FormatSpec, PayloadTags, SchemaSpec},
    is_relation_column,
    topic::Filter,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    key::KeyRule,
    limits::{
        DERIVED_NAME_BYTES_MAX, STREAM_NAME_BYTES_MAX, STREAM_PARTITIONS_MAX, STREAM_TOPICS_MAX,
    },
    time_spec::{BadTime, EventTimeSpec},
};

/// A stream: a durable, ordered, partitioned log of the events whose topics it captures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamSpec {
    /// Topic patterns (MQTT wildcards `+` and `#`) this stream captures: one, or a list. Of all
    /// streams whose patterns match, the most specific one takes an event. A stream without
    /// patterns gets its events from flows only.
    #[serde(
        default,
        alias = "topic",
        skip_serializing_if = "Vec::is_empty",
        with = "one_or_many"
    )]
    #[schemars(with = "OneOrMany")]
    pub topics: Vec<Filter>,
    /// Partitions. Events of one key (of one topic where there is no key) stay in one partition,
    /// in order. Can be raised later, never lowered.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(range(min = 1, max = 256))]
    pub partitions: u16,
    /// How payloads are read when columns are asked for.
    #[serde(default)]
    pub format: FormatSpec,
    /// Columns of the payload. Without it they are inferred from the first events and then fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaSpec>,
    /// Key of events that come without one: a template over the parts of the topic `kind/client/subject`
    /// (`${client}`, `${kind}-${subject}`, `${topic}`) or one tag (`${tags.site}`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Where in JSON or XML payloads more tags are, such as `payload.TAG`: a text or number there is the name of a tag, a list
    /// one of several, the members of an object are tags with values. Flows and queries see them beside the event's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<String>,
    /// Whether events with tags `relay_to_<topic>` are published on these topics too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relay: bool,
    /// The table that events with the tag `DB` are written to as rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Column of the payload that holds the time of the event, or the fields `column`, `max_ahead`, `ahead` and
    /// `missing`. Without a column the time of arrival counts. An event whose time is more than `max_ahead`
    /// (5 minutes) ahead of the node's clock when it arrives is a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<EventTimeSpec>,
    /// How far out of order events may come before windows count them as late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lateness: Option<Span>,
    /// What may be deleted.
    #[serde(default, skip_serializing_if = "Retention::is_unbounded")]
    pub retention: Retention,
    /// What an acknowledgement is worth.
    #[serde(default, skip_serializing_if = "Durability::is_fsync")]
    pub durability: Durability,
}

/// When old segments of a stream are deleted; what is not named has no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Events older than this may go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<Span>,
    /// When a partition is larger than this, its oldest segments go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Size>,
}

/// What an acknowledgement is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The event is in the memory of the operating system; a power cut may take it.
    Memory,
    /// The event is on disk.
    #[default]
    Fsync,
}

impl Default for StreamSpec {
    fn default() -> Self {
        Self {
            topics: Vec::new(),
            partitions: 1,
            format: FormatSpec::default(),
            schema: None,
            key: None,
            tags: None,
            relay: false,
            store: None,
            time: None,
            lateness: None,
            retention: Retention::default(),
            durability: Durability::default(),
        }
    }
}

impl StreamSpec {
    /// A stream of raw payloads that captures `topics`.
    pub fn capturing(topics: Vec<Filter>) -> Self {
        Self {
            topics,
            ..Self::default()
        }
    }

    /// Refuses what no other file could make right.
    pub fn check(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let refuse = |code| Err(Error::new(Class::Configuration, code).with("stream", name));
        if self.partitions == 0 || self.partitions > STREAM_PARTITIONS_MAX {
            return refuse("bus.partitions-range")
                .map_err(|e| e.with("max", STREAM_PARTITIONS_MAX));
        }
        if self.topics.len() > STREAM_TOPICS_MAX {
            return refuse("bus.topics-many").map_err(|e| e.with("max", STREAM_TOPICS_MAX));
        }
        self.check_columns(name)?;
        self.check_format().map_err(|e| e.with("stream", name))?;
        if let Some(path) = &self.tags {
            PayloadTags::check(&self.format, path)?;
        }
        if let Some(key) = &self.key {
            KeyRule::parse(key).map_err(|e| e.with("stream", name))?;
        }
        let column = self.time.as_ref().map(|time| &time.column);
        if let Some(Some(column)) = column {
            if self.format == FormatSpec::Raw {
                return refuse("bus.time-raw").map_err(|e| e.with("column", column));
            }
            if self.schema.is_none() {
                return refuse("bus.time-schema").map_err(|e| e.with("column", column));
            }
        }
        let missing = self.time.as_ref().map(|time| time.missing);
        if missing == Some(BadTime::Dead) && column == Some(&None) {
            return refuse("bus.time-no-column");
        }
        Ok(())
    }
}

impl StreamSpec {
    /// Refuses columns that the stream's own columns of the same name would hide. A column `time` that is the
    /// event's time may be called so: both are the same.
    fn check_columns(&self, stream: &str) -> Result<()> {
        let Some(SchemaSpec(fields)) = &self.schema else {
            return Ok(());
        };
        let is_event_time = |field: &FieldSpec| {
            field.name == "time"
                && field.field_type == FieldType::Time
                && self
                    .time
                    .as_ref()
                    .is_some_and(|time| time.column.as_deref() == Some("time"))
        };
        let hidden = |field: &&FieldSpec| is_relation_column(&field.name) && !is_event_time(field);
        match fields.iter().find(hidden) {
            None => Ok(()),
            Some(field) => Err(Error::new(Class::Configuration, "bus.column-reserved")
                .with("stream", stream)
                .with("column", &field.name)
                .with("path", field.path.as_ref().unwrap_or(&field.name))
                .with("type", field.field_type.as_str())),
        }
    }

    /// Refuses options of the format, and paths of columns, that no payload could be read with.
    fn check_format(&self) -> Result<()> {
        if self.format == FormatSpec::Raw {
            return Ok(());
        }
        let fields = self.schema.clone().unwrap_or_default();
        let schema = fields.schema()?;
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        Decoder::new(&self.format, &schema, &all).map(drop)
    }
}

impl Retention {
    fn is_unbounded(&self) -> bool {
        self.age.is_none() && self.bytes.is_none()
    }
}

impl Durability {
    fn is_fsync(&self) -> bool {
        *self == Durability::Fsync
    }

    /// The name people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Fsync => "fsync",
        }
    }
}

/// A stream's name is a folder and a relation: letters, digits, `-` and `_`, not `_` first.
pub fn check_name(name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && name.len() <= STREAM_NAME_BYTES_MAX
        && !name.starts_with(['_', '-'])
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || c == '-' || c == '_');
    if fits {
        Ok(())
    } else {
        let shown: String = name.chars().take(STREAM_NAME_BYTES_MAX).collect();
        Err(Error::new(Class::Configuration, "bus.stream-name")
            .with("stream", shown)
            .with("max", STREAM_NAME_BYTES_MAX))
    }
}

/// Whether a stream of that name belongs to Busbar itself or to a flow.
pub(crate) fn is_derived(name: &str) -> bool {
    name.starts_with('_') || name.contains('.')
}

/// Checks the name of a stream that belongs to Busbar itself (`_dead`) or to a flow (`peaks.late`).
pub(crate) fn check_derived_name(name: &str) -> Result<()> {
    let plain = name.strip_prefix('_').unwrap_or(name).replacen('.', "-", 1);
    let fits = is_derived(name)
        && !plain.is_empty()
        && name.len() <= DERIVED_NAME_BYTES_MAX
        && !plain.starts_with(['_', '-'])
        && plain
            .chars()
            .all(|c| c.is_alphanumeric() || c == '-' || c == '_');
    match fits {
        true => Ok(()),
        false => Err(Error::new(Class::Configuration, "bus.stream-name")
            .with(
                "stream",
                name.chars()
                    .take(DERIVED_NAME_BYTES_MAX)
                    .collect::<String>(),
            )
            .with("max", DERIVED_NAME_BYTES_MAX)),
    }
}

fn one() -> u16 {
    1
}

fn is_one(n: &u16) -> bool {
    *n == 1
}

/// How a list of topics looks in a file.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(
    dead_code,
    reason = "describes the form to schemars; the values never exist"
)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

mod one_or_many {
    use std::fmt;

    use busbar_event::topic::Filter;
    use serde::{Deserializer, Serialize, Serializer, de};

    pub fn serialize<S: Serializer>(topics: &[Filter], s: S) -> Result<S::Ok, S::Error> {
        match topics {
            [one] => one.as_str().serialize(s),
            many => s.collect_seq(many.iter().map(Filter::as_str)),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Filter>, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Vec<Filter>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a topic pattern or a list of them")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(vec![Filter::parse(text).map_err(E::custom)?])
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut topics = Vec::new();
                while let Some(topic) = seq.next_element::<Filter>()? {
                    if topics.len() == crate::limits::STREAM_TOPICS_MAX {
                        return Err(de::Error::invalid_length(topics.len() + 1, &self));
                    }
                    topics.push(topic);
                }
                Ok(topics)
            }
        }
        d.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_and_writes_the_same() {
        let spec: StreamSpec = serde_json::from_str(
            r#"{"topic":"meter/+/reading","partitions":4,"retention":{"age":"7d","bytes":"1GiB"},"durability":"memory"}"#,
        )
        .unwrap();
        assert_eq!(spec.topics.len(), 1);
        assert_eq!(spec.retention.age.unwrap().to_string(), "1w");
        let again: StreamSpec =
            serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
        assert!(serde_json::from_str::<StreamSpec>(r#"{"topics":"a","colour":1}"#).is_err());
        assert!(serde_json::from_str::<StreamSpec>(r#"{"topics":["a/#/b"]}"#).is_err());
    }

    #[test]
    fn names_are_folders() {
        for name in ["meter", "meter-2", "读数", "a_b"] {
            check_name(name).unwrap();
        }
        for name in [
            "",
            "_dead",
            "../x",
            "a/b",
            "a b",
            "-x",
            ".",
            &"x".repeat(65),
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
