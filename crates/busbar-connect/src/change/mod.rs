//! What connectors of databases have in common: how rows are written to a table, and how changes become events.

pub mod begin;
pub mod collect;
pub mod count;
pub mod held;
pub mod keys;
pub mod large;
pub mod plan;
pub mod prefer;
pub mod refusal;
pub mod snapshot;
pub mod watch;

use std::collections::BTreeMap;

use busbar_event::{Class, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use prefer::{Prefer, PreferredRow};

/// How rows are written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// The table, as `schema.table`, or `table` in the schema that the database takes by itself.
    pub table: String,
    /// What is done with each row; not used where `change` says it.
    #[serde(default)]
    pub mode: Mode,
    /// Columns that tell rows apart. All modes but `insert` need them, and `upsert` a unique index on them.
    #[serde(default)]
    pub key: Vec<String>,
    /// A column that says for each row what is done: `insert`, `read`, `update` and `upsert` put the row in the place of
    /// the one with its key, `delete` deletes that one, `truncate` empties the table, `schema` is ignored. Change sources
    /// write it.
    pub change: Option<String>,
    /// A column that names the columns of a row that keep their value, as a JSON list or with commas. Change sources
    /// write it for large values that the database did not repeat.
    pub unchanged: Option<String>,
    /// A column that grows with each change of a row: a time or a number. A row takes the place of the one there only where
    /// its value is greater, and deletes it only where the one there is not greater than that of the deleted row. Two tables
    /// that are kept in step both ways need it on both sides. A row without a value, and `truncate`, become dead letters.
    pub newer: Option<String>,
    /// With `newer`: a row with an equal value takes the place of the one there, too. On exactly one of two sides, so that
    /// both come to the same row.
    #[serde(default)]
    pub or_equal: bool,
    /// Instead of `newer`: the rows of one of two sides win, whatever their versions are. Both sides name the same side, one
    /// with `row: there`, the other with `row: coming`.
    pub prefer: Option<Prefer>,
    /// Makes the table where it is missing, with the columns of the flow and `key` as its primary key.
    #[serde(default)]
    pub create: bool,
    /// With `create`: how columns are declared, in the words of the database: `id: int not null`. Columns that are not named get
    /// the type that holds the values of the flow.
    #[serde(default)]
    pub types: BTreeMap<String, String>,
    /// Lets values be rounded or cut where the column cannot hold them whole.
    #[serde(default)]
    pub lossy: bool,
    /// Under which name positions are kept, by default the connection's. Two nodes that write to one schema from flows of
    /// the same name need different ones.
    pub producer: Option<String>,
}

/// What a sink does with a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Adds it.
    #[default]
    Insert,
    /// Adds it, or puts it in the place of the one with the same key.
    Upsert,
    /// Changes the one with the same key, if there is one.
    Update,
    /// Deletes the one with the same key, if there is one.
    Delete,
}

/// What a row asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Insert,
    Upsert,
    Update,
    Delete,
    Truncate,
    Nothing,
    /// Adds it where there is none with its key.
    Read,
    /// Puts it in the place of one that has the version that it had on the other side.
    Returned,
}

/// Which of the changes that a source leaves out come in all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Echoed {
    /// Deletes, for sinks with `newer`.
    #[default]
    Deletes,
    /// None.
    None,
    /// All: deletes, and what was inserted or updated as `returned`.
    Returned,
}

impl Write {
    /// Schema and name of the table.
    pub fn table_name<'a>(&'a self, schema: &'a str) -> (&'a str, &'a str) {
        table_name(&self.table, schema)
    }

    /// What is wrong with it: the code of the error.
    pub fn check(&self) -> Option<&'static str> {
        if !is_table_name(&self.table) {
            return Some("connect.table-name");
        }
        if !self.types.is_empty() && !self.create {
            return Some("connect.types-create");
        }
        let puts = self.change.is_some() || self.mode == Mode::Upsert;
        match &self.newer {
            Some(newer) if !puts || self.key.contains(newer) => return Some("connect.newer-mode"),
            None if self.or_equal => return Some("connect.newer-equal"),
            _ => {}
        }
        if let Some(prefer) = &self.prefer {
            let is_taken = self.newer.is_some() || self.key.contains(&prefer.version);
            if is_taken || self.change.is_none() || prefer.version == prefer.was {
                return Some("connect.prefer-mode");
            }
        }
        let keyless = self.key.is_empty() && (self.mode != Mode::Insert || self.change.is_some());
        keyless.then_some("connect.key-needed")
    }

    /// How a row there is compared with the one that comes: it gives way where this holds, `there OPERATOR new`.
    pub fn gives_way(&self) -> &'static str {
        if self.or_equal { "<=" } else { "<" }
    }

    /// Whether whoever follows the table is told which changes are this sink's.
    pub fn is_told(&self) -> bool {
        self.newer.is_some() || self.prefer.is_some()
    }

    /// The rights that it takes.
    pub fn rights(&self) -> &'static str {
        match (&self.change, self.mode) {
            (Some(_), _) => "SELECT, INSERT, UPDATE, DELETE",
            (None, Mode::Insert) => "SELECT, INSERT",
            (None, Mode::Upsert) => "SELECT, INSERT, UPDATE",
            (None, Mode::Update) => "SELECT, UPDATE",
            (None, Mode::Delete) => "SELECT, DELETE",
        }
    }
}

/// Batches that one attempt may number.
const ATTEMPT_BITS: u32 = 26;

/// A position above those of all attempts before, by the clock and by the highest that any of them reached
/// ([`Resume::reached`](busbar_connector::Resume::reached)). What is read again is not what was read before, so that it must not
/// be taken for it.
pub fn attempt(now_micros: i64, reached: u64) -> u64 {
    let seconds = u64::try_from(now_micros / 1_000_000).unwrap_or(0);
    seconds.max((reached >> ATTEMPT_BITS) + 1) << ATTEMPT_BITS
}

/// Schema and name of a table that is written `schema.table` or `table`.
pub fn table_name<'a>(table: &'a str, schema: &'a str) -> (&'a str, &'a str) {
    table.split_once('.').unwrap_or((schema, table))
}

/// Whether this names a table.
pub fn is_table_name(table: &str) -> bool {
    let (schema, name) = table_name(table, "-");
    !schema.is_empty() && !name.is_empty() && !name.contains('.')
}

/// Columns that keep their value: a JSON list, as change sources write it, or names with commas between them.
pub fn kept(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|_| {
        let names = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    })
}

impl Op {
    /// What a change source's `change` asks for.
    pub fn of(change: &str) -> Result<Op, Error> {
        Ok(match change {
            "insert" | "read" | "upsert" | "update" => Op::Upsert,
            "delete" => Op::Delete,
            "truncate" => Op::Truncate,
            "schema" => Op::Nothing,
            other => {
                let error = Error::new(Class::Permanent, "connect.change");
                return Err(error.with("change", busbar_event::quote(other)));
            }
        })
    }
}

impl From<Mode> for Op {
    fn from(mode: Mode) -> Op {
        match mode {
            Mode::Insert => Op::Insert,
            Mode::Upsert => Op::Upsert,
            Mode::Update => Op::Update,
            Mode::Delete => Op::Delete,
        }
    }
}
