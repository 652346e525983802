//! What a stream's file says about the time of its events.

use std::fmt;

use busbar_event::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits::TIME_AHEAD_MICROS_MAX_DEFAULT;

/// Where the time of an event comes from, and what becomes of an event whose time cannot be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTimeSpec {
    /// The column of the payload that holds the time; none when the time of arrival counts.
    pub column: Option<String>,
    /// How far ahead of the node's clock a time may be when its event arrives.
    pub max_ahead: Span,
    /// What becomes of an event whose time is further ahead.
    pub ahead: BadTime,
    /// What becomes of an event without a time in the column.
    pub missing: BadTime,
}

/// What becomes of an event whose time is missing or cannot be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BadTime {
    /// Its time of arrival counts.
    Arrival,
    /// Every flow that reads it makes it a dead letter, and it moves no watermark.
    Dead,
}

impl Default for EventTimeSpec {
    fn default() -> Self {
        EventTimeSpec {
            column: None,
            max_ahead: max_ahead(),
            ahead: BadTime::Dead,
            missing: BadTime::Arrival,
        }
    }
}

impl From<&str> for EventTimeSpec {
    /// The time in this column, and the rest by default.
    fn from(column: &str) -> Self {
        EventTimeSpec {
            column: Some(column.to_owned()),
            ..EventTimeSpec::default()
        }
    }
}

/// The time of events as it is written with its options.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TimeFields {
    /// Column of the payload that holds the time of the event; without it the time of arrival counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    column: Option<String>,
    /// How far ahead of the node's clock the time of an event may be when the event arrives: 5 minutes by default.
    #[serde(default = "max_ahead", skip_serializing_if = "is_max_ahead")]
    max_ahead: Span,
    /// What becomes of an event whose time is further ahead: a dead letter (`dead`, the default), or its time of
    /// arrival counts (`arrival`).
    #[serde(default = "dead", skip_serializing_if = "is_dead")]
    ahead: BadTime,
    /// What becomes of an event without a time in the column: its time of arrival counts (`arrival`, the default), or
    /// it is a dead letter (`dead`).
    #[serde(default = "arrival", skip_serializing_if = "is_arrival")]
    missing: BadTime,
}

/// How the time of events looks in a file.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(
    dead_code,
    reason = "describes the form to schemars; the values never exist"
)]
enum ColumnOrFields {
    Column(String),
    Fields(TimeFields),
}

impl JsonSchema for EventTimeSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EventTimeSpec".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        ColumnOrFields::json_schema(generator)
    }
}

impl Serialize for EventTimeSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.column {
            Some(column) if *self == EventTimeSpec::from(column.as_str()) => {
                column.serialize(serializer)
            }
            column => TimeFields {
                column: column.clone(),
                max_ahead: self.max_ahead,
                ahead: self.ahead,
                missing: self.missing,
            }
            .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for EventTimeSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = EventTimeSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "the name of a column, or the fields column, max_ahead, ahead and missing",
                )
            }

            fn visit_str<E: de::Error>(self, column: &str) -> Result<Self::Value, E> {
                Ok(EventTimeSpec::from(column))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let fields = TimeFields::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(EventTimeSpec {
                    column: fields.column,
                    max_ahead: fields.max_ahead,
                    ahead: fields.ahead,
                    missing: fields.missing,
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn max_ahead() -> Span {
    Span::from_micros(TIME_AHEAD_MICROS_MAX_DEFAULT)
}

fn is_max_ahead(span: &Span) -> bool {
    *span == max_ahead()
}

fn dead() -> BadTime {
    BadTime::Dead
}

fn is_dead(bad: &BadTime) -> bool {
    *bad == BadTime::Dead
}

fn arrival() -> BadTime {
    BadTime::Arrival
}

fn is_arrival(bad: &BadTime) -> bool {
    *bad == BadTime::Arrival
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_short_for_the_fields() {
        let read = |json: &str| serde_json::from_str::<EventTimeSpec>(json);
        let short = read(r#""at""#).unwrap();
        assert_eq!(short, EventTimeSpec::from("at"));
        assert_eq!(short, read(r#"{"column":"at"}"#).unwrap());
        assert_eq!(short.max_ahead.to_string(), "5m");
        assert_eq!(serde_json::to_string(&short).unwrap(), r#""at""#);
        let long = r#"{"column":"at","max_ahead":"1h","ahead":"arrival","missing":"dead"}"#;
        assert_eq!(serde_json::to_string(&read(long).unwrap()).unwrap(), long);
        assert!(read(r#"{"column":"at","behind":"1h"}"#).is_err());
        assert!(read(r#"{"ahead":"late"}"#).is_err());
    }
}
