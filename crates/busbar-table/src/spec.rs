//! A table's file.

use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use busbar_event::{Class, Error, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::columns::{ColumnType, check_columns, row_number};
use crate::limits::{HOT_BYTES_MAX_DEFAULT, HOT_ROWS_MAX, HOT_ROWS_MAX_DEFAULT, NAME_BYTES_MAX};

/// A table as its file describes it: exactly one of `hot` and `relational`, a key, columns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// Keep the rows in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot: Option<HotSpec>,
    /// Keep the rows in a SQLite file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relational: Option<RelationalSpec>,
    /// Columns that say which row a write replaces. Without a key the table only grows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// The columns. Without them they are those of the flows that write the table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnSpec>,
}

/// A column as a table's file declares it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnSpec {
    /// Its name.
    pub name: String,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: ColumnType,
}

/// Rows in memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HotSpec {
    /// How long a row stays after it was last written, such as `90s`, `10m`, `12h` or `7d`. For
    /// ever if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// Most rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_max: Option<u64>,
    /// Most bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
    /// What happens to a write that finds the table full.
    #[serde(default)]
    pub when_full: WhenFull,
}

/// What a full hot table does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenFull {
    /// Refuse the write, for the moment: the flow waits and says so.
    #[default]
    Refuse,
    /// Make room: the rows that were written longest ago go, and are counted.
    Evict,
}

/// Rows in a SQLite file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RelationalSpec {}

/// The engine of a spec that was found to be in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Engine {
    Hot(HotOptions),
    Relational,
}

/// [`HotSpec`] with its defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HotOptions {
    pub ttl: Option<Duration>,
    pub rows_max: u64,
    pub bytes_max: u64,
    pub when_full: WhenFull,
}

impl TableSpec {
    /// Whether the spec makes sense by itself; an error names what does not.
    pub fn check(&self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        let engine = self.engine(name)?;
        let schema = self.schema(name)?;
        match engine {
            Engine::Hot(_) => Ok(()),
            Engine::Relational => row_number(&schema).map(drop),
        }
    }

    pub(crate) fn engine(&self, name: &str) -> Result<Engine, Error> {
        match (&self.hot, &self.relational) {
            (Some(hot), None) => hot.options(name).map(Engine::Hot),
            (None, Some(_)) => Ok(Engine::Relational),
            _ => Err(Error::new(Class::Configuration, "table.one-engine").with("table", name)),
        }
    }

    /// The declared columns, or none; key columns checked.
    pub(crate) fn schema(&self, name: &str) -> Result<SchemaRef, Error> {
        let fields: Vec<_> = self.columns.iter().map(|c| c.kind.field(&c.name)).collect();
        let schema = Schema::new(fields);
        check_columns(&schema)?;
        for (place, column) in self.key.iter().enumerate() {
            if self.key[..place].contains(column) {
                return Err(
                    Error::new(Class::Configuration, "table.column-twice").with("column", column)
                );
            }
            if self.columns.is_empty() {
                continue;
            }
            match self.columns.iter().find(|known| known.name == *column) {
                Some(known) => check_key_type(name, column, known.kind)?,
                None => {
                    return Err(Error::new(Class::Configuration, "table.key-unknown")
                        .with("table", name)
                        .with("column", column));
                }
            }
        }
        Ok(schema.into())
    }
}

/// Numbers that are equal but not the same (0.0 and -0.0) and documents make poor keys.
pub(crate) fn check_key_type(table: &str, column: &str, kind: ColumnType) -> Result<(), Error> {
    match kind {
        ColumnType::Float | ColumnType::Json => {
            Err(Error::new(Class::Configuration, "table.key-type")
                .with("table", table)
                .with("column", column)
                .with("type", kind.word()))
        }
        _ => Ok(()),
    }
}

impl HotSpec {
    fn options(&self, name: &str) -> Result<HotOptions, Error> {
        let ttl = match &self.ttl {
            None => None,
            Some(text) => Some(parse_duration(text).ok_or_else(|| {
                let short: String = text.chars().take(32).collect();
                Error::new(Class::Configuration, "table.ttl")
                    .with("table", name)
                    .with("ttl", short)
            })?),
        };
        let rows_max = self.rows_max.unwrap_or(HOT_ROWS_MAX_DEFAULT);
        let bytes_max = self.bytes_max.unwrap_or(HOT_BYTES_MAX_DEFAULT);
        if rows_max == 0 || rows_max > HOT_ROWS_MAX || bytes_max == 0 {
            return Err(Error::new(Class::Configuration, "table.hot-bounds")
                .with("table", name)
                .with("most", HOT_ROWS_MAX));
        }
        Ok(HotOptions {
            ttl,
            rows_max,
            bytes_max,
            when_full: self.when_full,
        })
    }
}

/// A span of more than nothing and less than a thousand years.
fn parse_duration(text: &str) -> Option<Duration> {
    let most = Duration::from_secs(1_000 * 366 * 86_400);
    let span = Span::parse(text).ok()?.as_duration();
    (!span.is_zero() && span <= most).then_some(span)
}

/// A name becomes a file name, a table of SQLite and a word of SQL.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let refuse = |code| {
        let short: String = name.chars().take(NAME_BYTES_MAX).collect();
        Err(Error::new(Class::Configuration, code).with("table", short))
    };
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if name.len() > NAME_BYTES_MAX
        || !name.chars().all(fits)
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
        || name == "input"
    {
        return refuse("table.name");
    }
    // SQLite keeps these names for itself.
    if name.starts_with("sqlite_") {
        return refuse("table.name-reserved");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(parse_duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("10 m"), Some(Duration::from_secs(600)));
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        for bad in [
            "",
            "0s",
            "-1s",
            "s",
            "10",
            "1y",
            "1.5h",
            "99999999999999999999d",
            "9999999999999999d",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn one_engine_and_a_key_among_the_columns() {
        let parse = |json: &str| serde_json::from_str::<TableSpec>(json).unwrap();
        assert!(
            parse(r#"{"hot":{"ttl":"5m"},"key":["site"]}"#)
                .check("t")
                .is_ok()
        );
        assert!(parse(r#"{"relational":{}}"#).check("t").is_ok());
        let code = |json: &str| parse(json).check("t").unwrap_err().code();
        assert_eq!(code(r#"{}"#), "table.one-engine");
        assert_eq!(code(r#"{"hot":{},"relational":{}}"#), "table.one-engine");
        assert_eq!(
            code(r#"{"hot":{},"key":["a"],"columns":[{"name":"b","type":"int"}]}"#),
            "table.key-unknown"
        );
        assert_eq!(
            code(r#"{"hot":{},"key":["a"],"columns":[{"name":"a","type":"float"}]}"#),
            "table.key-type"
        );
        assert_eq!(code(r#"{"hot":{},"key":["a","a"]}"#), "table.column-twice");
        assert!(serde_json::from_str::<TableSpec>(r#"{"hot":{"tll":"5m"}}"#).is_err());
    }
}
