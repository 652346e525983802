//! A table's file.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use busbar_event::{Class, Error, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::columns::{ColumnType, check_columns, row_number};
use crate::limits::{
    HOT_BYTES_MAX_DEFAULT, HOT_PREFIX_BYTES_MAX, HOT_ROWS_MAX, HOT_ROWS_MAX_DEFAULT,
    NAME_BYTES_MAX, WIDE_FAMILIES_MAX, WIDE_PLACE_BYTES_MAX, WIDE_VERSIONS_MAX,
};

/// A table as its file describes it: exactly one of `hot`, `relational` and `wide`, a key, columns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// Keep the rows in memory, or in Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot: Option<HotSpec>,
    /// Keep the rows in a SQLite file, or in a table of a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relational: Option<RelationalSpec>,
    /// Keep the rows as cells, on disk or in HBase, with versions, any number of columns and a time to live for each family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wide: Option<WideSpec>,
    /// Columns that say which row a write replaces. Without a key the table only grows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// The columns. Without them they are those of the flows that write the table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnSpec>,
    /// Keeps each change until a connection `table` has taken it. For hot tables, relational ones in a SQLite file, and wide
    /// ones on the node's disk without `time`. It needs a key. Cells of a wide table are then changed by whole rows alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changes: bool,
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

/// Rows in memory: the node's or, with `connection`, that of a Redis server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HotSpec {
    /// The connection to the Redis server that keeps the rows, each a hash. Without it they are in the node's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// What the keys of the rows begin with there, before a colon; by default the name of this table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// How long a row stays after it was last written, such as `90s`, `10m`, `12h` or `7d`. For
    /// ever if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// Most rows. Not with `connection`: the server has its own bound, `maxmemory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_max: Option<u64>,
    /// Most bytes of memory. Not with `connection`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
    /// What happens to a write that finds the table full. With `connection` it is refused.
    #[serde(default)]
    pub when_full: WhenFull,
    /// The table that rows are moved to when their time to live is over or when they make room, instead of being
    /// dropped: a relational or wide one with the same key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves_to: Option<String>,
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

/// Rows in a SQLite file of the node, or, with `connection`, in a table of a database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RelationalSpec {
    /// The connection to the database that keeps the rows. Without it they are in a SQLite file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// A connection to a copy of the database that only answers reads. Reads go to it, and to `connection` while it does not
    /// answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// The table in the database, as `schema.table`, or `table` in the schema that the database takes by itself; by default
    /// the name of this table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Makes the table and its columns where they are missing; `true` if not given. With `false` the error says the statement
    /// that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<bool>,
}

/// Rows of cells, on the node's disk or, with `connection`, in a table of HBase. A cell has a row, a family, a qualifier, a time
/// and a value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WideSpec {
    /// The connection to the system that keeps the cells. Without it they are on the node's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// The table there, as `table` or `namespace:table`; by default the name of this table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Makes the table and its families there where they are missing; `true` if not given. With `false` the error says what is
    /// missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<bool>,
    /// One to four families. A column `family.qualifier` belongs to that family, any other one to the first. Without them
    /// there is one, `d`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<FamilySpec>,
    /// The first columns of the key, as many as a hash of 2 bytes is made of that row keys then begin with. It spreads keys
    /// that grow, such as times. Rows can be read in a range of keys only where these columns are given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub salt: Vec<String>,
    /// The column of type time that stamps the cells of a row; otherwise it is the time of writing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

/// A family of cells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FamilySpec {
    /// Its name: small letters, digits and `_`, beginning with a letter.
    pub name: String,
    /// Versions of a cell that are kept, the newest ones; 1 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<u32>,
    /// How long a cell stays after its time, such as `12h` or `90d`. For ever if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// Whether the family has a JSON column of its name, an object of all cells that have no column of their own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub free: bool,
}

/// The engine of a spec that was found to be in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Engine {
    Hot(HotOptions),
    HotElsewhere(HotPlace),
    Relational,
    Database(DatabasePlace),
    Wide(WideOptions),
}

/// [`WideSpec`] with its defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WideOptions {
    pub families: Vec<FamilyOptions>,
    /// Number of leading key columns that the salt is made of.
    pub salted: usize,
    pub time: Option<String>,
    /// Where the cells are, if not on the node's disk.
    pub place: Option<CellPlace>,
}

/// Where the rows of a hot table are, if they are not in the node's memory, and how long they stay there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotPlace {
    /// The connection to the other system.
    pub connection: String,
    /// What the keys of its rows begin with there, before a colon.
    pub table: String,
    /// How long a row stays after it was last written; for ever if not given.
    pub ttl: Option<Duration>,
    /// Rows whose time to live is over stay until they were moved to another table.
    pub moves: bool,
}

impl HotPlace {
    /// Whether a key of one table could be one of the other.
    pub(crate) fn overlaps(&self, other: &HotPlace) -> bool {
        let within = |long: &str, short: &str| {
            let rest = long.strip_prefix(short);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        self.connection == other.connection
            && (within(&self.table, &other.table) || within(&other.table, &self.table))
    }
}

/// Where a table of a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabasePlace {
    /// The connection that writes go to.
    pub connection: String,
    /// The connection that reads go to, if it is another one.
    pub replica: Option<String>,
    /// The table, or its schema and the table.
    pub path: Vec<String>,
    /// Whether the table and its columns are made where they are missing.
    pub create: bool,
}

/// Where the cells of a table are, if they are not in the node's own store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellPlace {
    /// The connection to the other system.
    pub connection: String,
    /// The table there, with its namespace if it has one: `ns:table`.
    pub table: String,
    /// Whether the table and its families are made where they are missing.
    pub create: bool,
}

/// [`FamilySpec`] with its defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FamilyOptions {
    pub name: String,
    pub versions: u32,
    pub ttl_us: Option<i64>,
    pub free: bool,
}

/// [`HotSpec`] with its defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HotOptions {
    pub ttl: Option<Duration>,
    pub rows_max: u64,
    pub bytes_max: u64,
    pub when_full: WhenFull,
    pub moves_to: Option<String>,
    /// Whether changes are kept.
    pub changes: bool,
}

impl TableSpec {
    /// Whether the spec makes sense by itself; an error names what does not.
    pub fn check(&self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        let engine = self.engine(name)?;
        let schema = self.schema(name)?;
        if self.changes {
            let is_kept_here = match &engine {
                Engine::Hot(_) | Engine::Relational => true,
                // The newest version of a cell need not be the one that was written last.
                Engine::Wide(options) => options.place.is_none() && options.time.is_none(),
                Engine::HotElsewhere(_) | Engine::Database(_) => false,
            };
            let refused = match (is_kept_here, self.key.is_empty()) {
                (false, _) => Some("table.changes-elsewhere"),
                (true, true) => Some("table.changes-key"),
                (true, false) => None,
            };
            if let Some(code) = refused {
                return Err(Error::new(Class::Configuration, code).with("table", name));
            }
        }
        match engine {
            Engine::Hot(_) | Engine::HotElsewhere(_) | Engine::Database(_) | Engine::Wide(_) => {
                Ok(())
            }
            Engine::Relational => row_number(&schema).map(drop),
        }
    }

    /// Whether the table that rows are moved to is one of `specs`, is not hot and has the same key.
    ///
    /// # Errors
    /// `table.moves-target` and `table.moves-key`, which name both tables.
    pub fn check_move(&self, name: &str, specs: &BTreeMap<String, TableSpec>) -> Result<(), Error> {
        let Some(target) = self.hot.as_ref().and_then(|hot| hot.moves_to.as_ref()) else {
            return Ok(());
        };
        let new = |code| {
            let short: String = target.chars().take(NAME_BYTES_MAX).collect();
            Error::new(Class::Configuration, code)
                .with("table", name)
                .with("target", short)
        };
        match specs.get(target) {
            Some(known) if known.hot.is_none() && known.key == self.key => Ok(()),
            Some(known) if known.hot.is_none() => Err(new("table.moves-key")),
            _ => Err(new("table.moves-target")),
        }
    }

    /// Whether rows are moved to another table.
    pub(crate) fn moves(&self) -> bool {
        self.hot.as_ref().is_some_and(|hot| hot.moves_to.is_some())
    }

    /// Whether it is a hot table whose rows are in the node's memory.
    pub(crate) fn in_node_memory(&self) -> bool {
        self.hot
            .as_ref()
            .is_some_and(|hot| hot.connection.is_none())
    }

    /// Whether a hot table keeps its rows when its file, so far `before`, becomes this one.
    pub(crate) fn keeps_rows_of(&self, before: &TableSpec) -> bool {
        let in_memory = self.in_node_memory() && before.in_node_memory();
        in_memory && self.key == before.key && self.columns == before.columns
    }

    /// A hot table with the same key that takes the same columns: for checking flows before anything is opened.
    #[must_use]
    pub(crate) fn in_memory(&self) -> TableSpec {
        let mut spec = self.clone();
        (spec.hot, spec.relational) = (Some(HotSpec::default()), None);
        if let Some(wide) = spec.wide.take()
            && !spec.columns.is_empty()
        {
            let free = wide.families.into_iter().filter(|family| family.free);
            spec.columns.extend(free.map(|family| ColumnSpec {
                name: family.name,
                kind: ColumnType::Json,
            }));
        }
        spec
    }

    pub(crate) fn engine(&self, name: &str) -> Result<Engine, Error> {
        match (&self.hot, &self.relational, &self.wide) {
            (Some(hot), None, None) => {
                if hot.moves_to.is_some() && self.key.is_empty() {
                    return Err(Error::new(Class::Configuration, "table.moves-without-key")
                        .with("table", name));
                }
                hot.engine(name, self)
            }
            (None, Some(relational), None) => relational.engine(name),
            (None, None, Some(wide)) => wide.options(name, self).map(Engine::Wide),
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
    fn engine(&self, name: &str, table: &TableSpec) -> Result<Engine, Error> {
        let new = |code| Error::new(Class::Configuration, code).with("table", name);
        let Some(connection) = &self.connection else {
            return match &self.table {
                Some(_) => Err(new("table.needs-connection").with("option", "table")),
                None => {
                    let options = self.options(name)?;
                    Ok(Engine::Hot(HotOptions {
                        changes: table.changes,
                        ..options
                    }))
                }
            };
        };
        if table.key.is_empty() {
            return Err(new("table.hot-there-key"));
        }
        let only_here = [
            ("rows_max", self.rows_max.is_some()),
            ("bytes_max", self.bytes_max.is_some()),
            ("when_full", self.when_full == WhenFull::Evict),
        ];
        if let Some((option, _)) = only_here.iter().find(|(_, given)| *given) {
            return Err(new("table.hot-there-bound").with("option", option));
        }
        let options = self.options(name)?;
        let prefix = self.table.as_deref().unwrap_or(name);
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let is_prefix = prefix
            .split(':')
            .all(|part| !part.is_empty() && part.chars().all(fits));
        let is_ours = prefix.split(':').next() == Some("busbar");
        if !is_prefix || is_ours || prefix.len() > HOT_PREFIX_BYTES_MAX {
            return Err(new("table.hot-prefix").with("prefix", busbar_event::quote(prefix)));
        }
        Ok(Engine::HotElsewhere(HotPlace {
            connection: connection.clone(),
            table: prefix.to_owned(),
            ttl: options.ttl,
            moves: self.moves_to.is_some(),
        }))
    }

    pub(crate) fn options(&self, name: &str) -> Result<HotOptions, Error> {
        let ttl = self.ttl.as_deref().map(|text| ttl(name, text));
        let ttl = ttl.transpose()?;
        let rows_max = self.rows_max.unwrap_or(HOT_ROWS_MAX_DEFAULT);
        let bytes_max = self.bytes_max.unwrap_or(HOT_BYTES_MAX_DEFAULT);
        if rows_max == 0 || rows_max > HOT_ROWS_MAX || bytes_max == 0 {
            return Err(Error::new(Class::Configuration, "table.hot-bounds")
                .with("table", name)
                .with("most", HOT_ROWS_MAX));
        }
        if self.moves_to.is_some() && ttl.is_none() && self.when_full == WhenFull::Refuse {
            return Err(Error::new(Class::Configuration, "table.moves-never").with("table", name));
        }
        Ok(HotOptions {
            ttl,
            rows_max,
            bytes_max,
            when_full: self.when_full,
            moves_to: self.moves_to.clone(),
            changes: false,
        })
    }
}

impl RelationalSpec {
    fn engine(&self, name: &str) -> Result<Engine, Error> {
        let new = |code| Error::new(Class::Configuration, code).with("table", name);
        let Some(connection) = &self.connection else {
            let only_there = [
                ("replica", self.replica.is_some()),
                ("table", self.table.is_some()),
                ("create", self.create.is_some()),
            ];
            return match only_there.iter().find(|(_, given)| *given) {
                Some((option, _)) => Err(new("table.needs-connection").with("option", option)),
                None => Ok(Engine::Relational),
            };
        };
        let table = self.table.as_deref().unwrap_or(name);
        let path: Vec<String> = table.split('.').map(str::to_owned).collect();
        if path.len() > 2 || path.iter().any(String::is_empty) {
            return Err(new("table.database-path").with("path", busbar_event::quote(table)));
        }
        Ok(Engine::Database(DatabasePlace {
            connection: connection.clone(),
            replica: self.replica.clone(),
            path,
            create: self.create.unwrap_or(true),
        }))
    }
}

impl WideSpec {
    fn options(&self, name: &str, table: &TableSpec) -> Result<WideOptions, Error> {
        let new = |code| Error::new(Class::Configuration, code).with("table", name);
        if table.key.is_empty() {
            return Err(new("table.wide-key"));
        }
        if !table.key.starts_with(&self.salt) {
            return Err(new("table.wide-salt").with("key", table.key.join(", ")));
        }
        if self.families.len() > WIDE_FAMILIES_MAX {
            return Err(new("table.wide-families").with("most", WIDE_FAMILIES_MAX));
        }
        let mut families: Vec<FamilyOptions> = Vec::new();
        for spec in &self.families {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let is_name = spec.name.starts_with(|c: char| c.is_ascii_lowercase())
                && spec.name.len() <= NAME_BYTES_MAX
                && spec.name.chars().all(fits);
            let family: String = spec.name.chars().take(NAME_BYTES_MAX).collect();
            if !is_name {
                return Err(new("table.wide-family-name").with("family", family));
            }
            if families.iter().any(|known| known.name == spec.name) {
                return Err(new("table.wide-family-twice").with("family", family));
            }
            let versions = spec.versions.unwrap_or(1);
            if versions == 0 || versions > WIDE_VERSIONS_MAX {
                return Err(new("table.wide-versions")
                    .with("family", family)
                    .with("most", WIDE_VERSIONS_MAX));
            }
            let kept = spec.ttl.as_deref().map(|text| ttl(name, text));
            let ttl_us = kept.transpose()?.map(|ttl| ttl.as_micros() as i64);
            families.push(FamilyOptions {
                name: spec.name.clone(),
                versions,
                ttl_us,
                free: spec.free,
            });
        }
        if families.is_empty() {
            families.push(FamilyOptions {
                name: "d".to_owned(),
                versions: 1,
                ttl_us: None,
                free: false,
            });
        }
        if let Some(taken) = families.iter().filter(|f| f.free).find_map(|family| {
            let columns = table.columns.iter().map(|column| &column.name);
            columns.chain(&table.key).find(|name| **name == family.name)
        }) {
            return Err(new("table.wide-free-column").with("column", taken));
        }
        if let Some(time) = &self.time
            && let Some(column) = table.columns.iter().find(|column| column.name == *time)
            && column.kind != ColumnType::Time
        {
            return Err(new("table.wide-time").with("column", time));
        }
        Ok(WideOptions {
            families,
            salted: self.salt.len(),
            time: self.time.clone(),
            place: self.place(name)?,
        })
    }

    fn place(&self, name: &str) -> Result<Option<CellPlace>, Error> {
        let new = |code| Error::new(Class::Configuration, code).with("table", name);
        let Some(connection) = &self.connection else {
            let only_there = [
                ("table", self.table.is_some()),
                ("create", self.create.is_some()),
            ];
            return match only_there.iter().find(|(_, given)| *given) {
                Some((option, _)) => Err(new("table.needs-connection").with("option", option)),
                None => Ok(None),
            };
        };
        let table = self.table.as_deref().unwrap_or(name);
        let fits = |part: &str| {
            let is_begin = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let is_name = |c: char| is_begin(c) || c == '-' || c == '.';
            part.starts_with(is_begin) && part.chars().all(is_name)
        };
        let is_path = table.split(':').count() <= 2 && table.split(':').all(fits);
        if !is_path || table.len() > WIDE_PLACE_BYTES_MAX {
            return Err(new("table.cells-path").with("path", busbar_event::quote(table)));
        }
        Ok(Some(CellPlace {
            connection: connection.clone(),
            table: table.to_owned(),
            create: self.create.unwrap_or(true),
        }))
    }
}

fn ttl(table: &str, text: &str) -> Result<Duration, Error> {
    parse_duration(text).ok_or_else(|| {
        let short: String = text.chars().take(32).collect();
        Error::new(Class::Configuration, "table.ttl")
            .with("table", table)
            .with("ttl", short)
    })
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

    #[test]
    fn a_hot_table_elsewhere_has_a_key_a_prefix_and_no_bounds_of_its_own() {
        let code = |hot: &str, key: &str| {
            let spec = format!(r#"{{"hot":{{"connection":"c"{hot}}},"key":[{key}]}}"#);
            let spec: TableSpec = serde_json::from_str(&spec).unwrap();
            spec.check("t").err().map(|error| error.code())
        };
        assert_eq!(
            code(r#","ttl":"1m","table":"plant:meters""#, r#""k""#),
            None
        );
        assert_eq!(code("", ""), Some("table.hot-there-key"));
        for bound in [
            r#","rows_max":5"#,
            r#","bytes_max":5"#,
            r#","when_full":"evict""#,
        ] {
            assert_eq!(
                code(bound, r#""k""#),
                Some("table.hot-there-bound"),
                "{bound}"
            );
        }
        for prefix in ["", "a:", ":a", "a b", "a*", "busbar", "busbar:rows"] {
            let table = format!(r#","table":"{prefix}""#);
            assert_eq!(code(&table, r#""k""#), Some("table.hot-prefix"), "{prefix}");
        }
        assert_eq!(
            code(r#","moves_to":"r""#, r#""k""#),
            Some("table.moves-never")
        );
        let place = |table: &str| HotPlace {
            connection: "c".to_owned(),
            table: table.to_owned(),
            ttl: None,
            moves: false,
        };
        assert!(place("a").overlaps(&place("a:b")) && place("a:b").overlaps(&place("a")));
        assert!(!place("a").overlaps(&place("ab")) && place("a").overlaps(&place("a")));
    }
}
