//! The spec of the step `join`.

use std::ops::Range;

use busbar_bus::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// Adds columns of a table, or of the events of another stream. One of `table` and `stream` says of which.
///
/// With `table`, each row gets the columns of the table's row with its key, as it is at that moment; with `as_of`, as it was
/// at the time of the row. With `stream` and `within`, each pair of events with equal keys whose times are at most so far
/// apart makes one row. With `stream` and `as_of`, each row gets the columns of the other stream's latest event with its key
/// that is not later than the row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinSpec {
    /// The name under which the state is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The table to look rows up in. Its key must be the columns under `on`; of a relational table with `as_of`, its key
    /// without the last column. With a dot it is a table of a database: `pg.public.patient` or `pg.patient` for the connection
    /// `pg`, by any columns of which at most one row has the same values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The other stream. With `within` it may be one that the flow reads: then each of its events is also the other side, and
    /// near to itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The columns that must be equal: `meter`, or `meter = id` where the other side has another name for it. Null is equal
    /// to nothing.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "ColumnOrColumns")]
    pub on: Vec<String>,
    /// What becomes of a row to which there is no other: `inner` drops it, `left` keeps it with null in the added columns.
    #[serde(default, rename = "type")]
    pub kind: JoinKind,
    /// The columns to add: `price`, or `price as tariff`. Without it all columns of the other side but those under `on`, and
    /// of a stream only those of the payload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// For `stream`: how far apart two events may be, before or after, by event time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
    /// For `stream`: join with the latest event at or before the row's time. For a wide table: with the newest version of each
    /// cell at or before the row's time. For a relational table whose key ends in a column of type time: with the row that has
    /// the latest such time at or before the row's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_of: bool,
    /// For `table`, where a look-up waits for a disk or another system: for how long an answer is used again; one second by
    /// default, `0s` to ask for each batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Span>,
}

/// What becomes of a row to which there is no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum JoinKind {
    /// It is dropped.
    #[default]
    Inner,
    /// It stays, with null in the added columns.
    Left,
}

/// Two names in a text, each with its place there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePair<'a> {
    /// The first name.
    pub first: &'a str,
    /// Where it stands.
    pub first_span: Range<usize>,
    /// The second name; the first where there is one name only.
    pub second: &'a str,
    /// Where it stands.
    pub second_span: Range<usize>,
}

impl JoinSpec {
    /// What it joins with, for people.
    pub fn other(&self) -> &str {
        let named = self.table.as_deref().or(self.stream.as_deref());
        named.unwrap_or_default()
    }

    /// The columns under `on`: that of the rows, then that of the other side.
    pub fn on(&self) -> impl Iterator<Item = NamePair<'_>> {
        self.on.iter().map(|text| match text.find('=') {
            Some(at) => NamePair::new(text, at, at + 1),
            None => NamePair::new(text, text.len(), text.len()),
        })
    }

    /// The columns under `columns`: as it is called on the other side, then as it is called in the result.
    pub fn columns(&self) -> impl Iterator<Item = NamePair<'_>> {
        self.columns.iter().map(|text| {
            let lower = text.to_ascii_lowercase();
            match lower.find(" as ") {
                Some(at) => NamePair::new(text, at, at + " as ".len()),
                None => NamePair::new(text, text.len(), text.len()),
            }
        })
    }
}

impl<'a> NamePair<'a> {
    /// The names before `end` and from `begin` on.
    fn new(text: &'a str, end: usize, begin: usize) -> NamePair<'a> {
        let name = |range: Range<usize>| {
            let part = &text[range.clone()];
            let begin = range.start + (part.len() - part.trim_start().len());
            let name = part.trim();
            let bare = name.strip_prefix('"').and_then(|n| n.strip_suffix('"'));
            (bare.unwrap_or(name), begin..begin + name.len())
        };
        let (first, first_span) = name(0..end);
        let (second, second_span) = match begin < text.len() || begin > end {
            true => name(begin..text.len()),
            false => (first, first_span.clone()),
        };
        NamePair {
            first,
            first_span,
            second,
            second_span,
        }
    }
}

/// A column, or a list of columns.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes the shape for the JSON Schema")]
enum ColumnOrColumns {
    /// One column.
    One(String),
    /// Several columns.
    Many(Vec<String>),
}

fn one_or_many<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    crate::flow::one_or_many_of(d, "a column or a list of columns")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(on: &str, column: &str) -> JoinSpec {
        serde_saphyr::from_str(&format!("table: t\non: '{on}'\ncolumns: ['{column}']\n")).unwrap()
    }

    #[test]
    fn names_are_read_with_their_places() {
        let text = spec(" meter =  id ", r#"price AS "Tariff now""#);
        let on = text.on().next().unwrap();
        assert_eq!((on.first, on.first_span), ("meter", 1..6));
        assert_eq!((on.second, on.second_span), ("id", 10..12));
        let column = text.columns().next().unwrap();
        assert_eq!((column.first, column.second), ("price", "Tariff now"));
        assert_eq!(column.second_span, 9..21);
        let text = spec("meter", "price");
        let on = text.on().next().unwrap();
        assert_eq!(
            (on.first, on.second, on.second_span),
            ("meter", "meter", 0..5)
        );
        let text = spec("meter =", "price");
        let on = text.on().next().unwrap();
        assert_eq!((on.second, on.second_span), ("", 7..7));
    }
}
