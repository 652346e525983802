//! Steps that gather, take apart, order and hold events: what a flow file says of each.

use std::borrow::Cow;
use std::fmt;

use busbar_bus::Span;
use busbar_event::format::{FieldType, SchemaSpec};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Gathers the events of a key into one result: when there are as many as `count` says, when `when` is true for the group, or
/// when `within` is over. An event of a key whose group is closed is late and goes to the stream `<flow>.late`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AggregateSpec {
    /// The name under which the state is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Expressions whose equal values make events members of one group.
    pub by: Vec<String>,
    /// The group is complete with so many members: a number, or an expression over a member such as `parts`. The last value
    /// that is not null counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<MemberCount>,
    /// The group is complete when this condition over its members is true, with aggregates: `bool_or(kind = 'end')`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// How long after its first member a group is closed, by event time. Without `count` and `when` it is complete then,
    /// with them it is not. Members that come within the same time after that are late.
    pub within: Span,
    /// An event that comes after a group was closed begins a new one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reopen: bool,
    /// The columns of the result, as after SQL's `SELECT`: keys, aggregates, `complete`, `member_count`, `first_time` and
    /// `last_time`. Without it: the keys, the list `members` and `complete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<String>,
    /// The most members of a group, 10000 at most, with `when` 1000. A further one becomes a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub members: Option<u32>,
}

/// How many members make a group complete, as SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberCount(pub String);

/// Holds events back: for a time, or until the time in a column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DelaySpec {
    /// The name under which the state is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Columns whose equal values are held in one partition. Without them the step works on one partition only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<String>,
    /// How long, from the event's time on.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub held_for: Option<Span>,
    /// In place of `for`: an expression for the time at which the event goes on. Null, or a time that has passed: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Brings the events of each key into the order of their numbers. Results have one more column, `missing`: how many numbers
/// before this one did not come. An event whose number has been passed is late and goes to the stream `<flow>.late`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResequenceSpec {
    /// The name under which the state is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Expressions whose equal values make a key.
    pub by: Vec<String>,
    /// An expression for the event's number, a whole number that grows by one.
    pub order: String,
    /// How long an event waits for the numbers before its own, by event time.
    pub within: Span,
    /// The number of the first event of each key. Without it, the least that comes in the first `within`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<i64>,
    /// The most events of a key that wait, 10000 at most, 1000 without it. With one more, missing numbers are given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub buffer: Option<u32>,
    /// Forget a key of which nothing has come for so long, by event time; without it, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Span>,
}

/// Makes one row of each element of a list, with its place `index`, from 1 on, and the number of elements, `total`. An event
/// whose list is empty or null gives none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitSpec {
    /// An expression for the list: a list, or a text that is a JSON array. A column that is named here does not go on.
    pub list: String,
    /// What the column of the element is called; `item` without it.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// The type of the elements of a JSON array; `json` without it.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub item_type: Option<FieldType>,
    /// In place of one column for the element: columns that are read from it, where it is a JSON object.
    #[serde(default, skip_serializing_if = "no_columns")]
    pub columns: SchemaSpec,
}

/// Lets at most so many events of each key through in a time, by event time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ThrottleSpec {
    /// The name under which the state is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Expressions whose equal values make a key; none: all events of the flow are counted together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<String>,
    /// How many events.
    #[schemars(range(min = 1))]
    pub events: u32,
    /// In what time.
    pub every: Span,
    /// What becomes of the others.
    #[serde(default)]
    pub over: OverRate,
}

/// What becomes of events above a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OverRate {
    /// They are held until the rate lets them through.
    #[default]
    Delay,
    /// They are dropped and counted as filtered.
    Drop,
    /// They go to the stream `<flow>.late`.
    Aside,
}

fn no_columns(columns: &SchemaSpec) -> bool {
    columns.0.is_empty()
}

impl SplitSpec {
    /// What the column of the element is called.
    pub fn item_name(&self) -> &str {
        self.item.as_deref().unwrap_or("item")
    }
}

impl OverRate {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            OverRate::Delay => "delay",
            OverRate::Drop => "drop",
            OverRate::Aside => "aside",
        }
    }
}

impl Serialize for MemberCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.parse::<u64>() {
            Ok(number) => serializer.serialize_u64(number),
            Err(_) => serializer.serialize_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for MemberCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MemberCountVisitor;
        impl Visitor<'_> for MemberCountVisitor {
            type Value = MemberCount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or an expression over a member")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<MemberCount, E> {
                Ok(MemberCount(number.to_string()))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<MemberCount, E> {
                u64::try_from(number)
                    .map(|number| MemberCount(number.to_string()))
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MemberCount, E> {
                Ok(MemberCount(text.to_owned()))
            }
        }
        deserializer.deserialize_any(MemberCountVisitor)
    }
}

impl JsonSchema for MemberCount {
    fn schema_name() -> Cow<'static, str> {
        "MemberCount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 1 })
    }
}
