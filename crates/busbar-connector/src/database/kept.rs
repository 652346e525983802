//! Relational tables that are kept in a database: the twins of those that are SQLite files.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::{Schema, SchemaRef};
use busbar_event::{Class, Error};
use busbar_log::Clock;
use busbar_table::wide::CellStore;
use busbar_table::{
    Applied, Capabilities, Condition, DatabasePlace, DatabaseTables, Found, HotElsewhere, HotPlace,
    Lookup, Rows, Scan, Stats, Table, Write, merge_columns,
};
use parking_lot::{Mutex, RwLock};
use serde_json::Value as Json;

use super::cells::AskedCells;
use super::kept_columns::AskedColumns;
use super::kept_hot::KeptHot;
use super::kept_write::{self, KeptWriter, SinkPlace, SinkTable, key_missing};
use super::open::AskedDatabase;
use super::{ColumnType, Databases, RemoteTable, SqlColumn, SqlCompares, SqlDatabase};
use super::{SqlPart, SqlStatement, SqlTable};
use crate::{Sink, Work};

/// A relational table that is kept in a database. The database is asked for its columns when the table is first used.
pub struct KeptTable {
    pub(super) name: String,
    pub(super) place: DatabasePlace,
    /// The columns of the table's file; empty if it has none.
    declared: SchemaRef,
    pub(super) key: Vec<String>,
    databases: Databases,
    /// The columns that flows have brought. They say what a column is that the database describes otherwise, such as a
    /// truth value that is a number there.
    brought: RwLock<SchemaRef>,
    settled: RwLock<Option<Arc<SettledTable>>>,
    columns: AskedColumns,
    /// Held while columns are added.
    changing: Mutex<()>,
    pub(super) writer: Mutex<KeptWriter>,
    pub(super) counters: KeptCounters,
}

/// Counted since the start.
#[derive(Default)]
pub(super) struct KeptCounters {
    pub put: AtomicU64,
    pub deleted: AtomicU64,
    pub rejected: AtomicU64,
    pub duplicates: AtomicU64,
}

impl KeptCounters {
    pub(super) fn stats(&self) -> Stats {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Stats {
            put: count(&self.put),
            deleted: count(&self.deleted),
            rejected: count(&self.rejected),
            duplicates: count(&self.duplicates),
            ..Stats::default()
        }
    }
}

/// The table as the database has it.
pub(super) struct SettledTable {
    pub open: Arc<AskedDatabase>,
    pub database: Arc<dyn SqlDatabase>,
    pub schema: SchemaRef,
    /// Names of its columns in the database, those included that the table's file does not name. None: there is no table.
    there: Option<Vec<String>>,
    pub main: RemoteTable,
    replica: Option<RemoteTable>,
}

impl DatabaseTables for Databases {
    fn open(
        &self,
        name: &str,
        place: &DatabasePlace,
        declared: &SchemaRef,
        key: &[String],
    ) -> Result<Arc<dyn Table>, Error> {
        Ok(Arc::new(KeptTable {
            name: name.to_owned(),
            place: place.clone(),
            declared: Arc::clone(declared),
            key: key.to_vec(),
            databases: self.clone(),
            brought: RwLock::new(Arc::clone(declared)),
            settled: RwLock::default(),
            columns: AskedColumns::default(),
            changing: Mutex::default(),
            writer: Mutex::default(),
            counters: KeptCounters::default(),
        }))
    }

    fn hot(
        &self,
        name: &str,
        place: &HotPlace,
        declared: &SchemaRef,
        key: &[String],
        clock: Arc<dyn Clock>,
    ) -> Arc<dyn HotElsewhere> {
        let databases = self.clone();
        Arc::new(KeptHot::new(name, place, declared, key, databases, clock))
    }

    fn cells(&self, table: &str, connection: &str) -> Arc<dyn CellStore> {
        Arc::new(AskedCells {
            databases: self.clone(),
            table: table.to_owned(),
            connection: connection.to_owned(),
            prepared: RwLock::default(),
        })
    }
}

impl KeptTable {
    pub(super) fn is_declared(&self) -> bool {
        !self.declared.fields().is_empty()
    }

    fn asked(&self, connection: &str) -> Result<Arc<AskedDatabase>, Error> {
        self.databases.of_table(&self.name, connection)
    }

    /// The table as it was last seen, and as it is now if it was not seen yet.
    ///
    /// # Errors
    /// As [`SqlDatabase::describe`]; *configuration* for a connection or a table that is not there.
    pub(super) fn settled(&self) -> Result<Arc<SettledTable>, Error> {
        let open = self.asked(&self.place.connection)?;
        let known = self.settled.read().clone();
        // A connection that leads elsewhere is another one.
        if let Some(known) = known.filter(|known| Arc::ptr_eq(&known.open, &open)) {
            return Ok(known);
        }
        let _changing = self.changing.lock();
        let mut seen = self.look()?;
        if self.is_declared() {
            seen = self.complete(seen, &self.declared)?;
        }
        Ok(self.keep(seen))
    }

    fn keep(&self, seen: SettledTable) -> Arc<SettledTable> {
        let seen = Arc::new(seen);
        // One that is made later is looked for again.
        let kept = seen.there.is_some().then(|| Arc::clone(&seen));
        *self.settled.write() = kept;
        seen
    }

    /// The table as it is now.
    fn look(&self) -> Result<SettledTable, Error> {
        let open = self.asked(&self.place.connection)?;
        let replica = self.place.replica.as_ref();
        let replica = replica.map(|replica| self.asked(replica)).transpose()?;
        let (asked, copy, path) = (Arc::clone(&open), replica.clone(), self.place.path.clone());
        let (database, copied, found) = open.wait(async move {
            let database = asked.database().await?;
            let copied = match &copy {
                Some(copy) => Some(copy.database().await?),
                None => None,
            };
            let found = database.describe(&path).await?;
            Ok((database, copied, found))
        })?;
        let there = found.as_ref().map(|table| {
            let names = table.columns.iter().map(|column| column.name.clone());
            names.collect()
        });
        let table = self.arranged(found);
        let remote = |open: &Arc<AskedDatabase>, database: &Arc<dyn SqlDatabase>, table| {
            RemoteTable::of(&self.name, open, database, table, &self.key)
        };
        let mut copy = table.clone();
        if self.place.path.len() == 1 {
            // The replica's own schema or database, which may have another name.
            copy.path.drain(..copy.path.len().saturating_sub(1));
        }
        Ok(SettledTable {
            main: remote(&open, &database, table.clone()),
            replica: replica
                .zip(copied)
                .map(|(open, database)| remote(&open, &database, copy)),
            schema: table.schema(),
            open,
            database,
            there,
        })
    }

    /// The columns that the table's file names, in its order, or all; each as what it was made for.
    fn arranged(&self, found: Option<SqlTable>) -> SqlTable {
        let mut table = found.unwrap_or_else(|| SqlTable {
            path: self.place.path.clone(),
            columns: Vec::new(),
        });
        if self.is_declared() {
            let columns = self.declared.fields().iter().map(|field| {
                let known = table
                    .columns
                    .iter()
                    .find(|known| known.name == *field.name());
                known.cloned().unwrap_or_else(|| SqlColumn {
                    name: field.name().clone(),
                    kind: ColumnType::of(field).unwrap_or(ColumnType::Text),
                    bound: None,
                    compares: SqlCompares::Never,
                })
            });
            table.columns = columns.collect();
        }
        let brought = self.brought.read();
        for column in &mut table.columns {
            let made_for = brought
                .field_with_name(&column.name)
                .ok()
                .and_then(ColumnType::of);
            match (column.kind, made_for) {
                (ColumnType::Int, Some(ColumnType::Bool))
                | (ColumnType::Text, Some(ColumnType::Json)) => {
                    column.kind = made_for.unwrap_or(column.kind);
                }
                _ => {}
            }
        }
        table
    }

    /// The same table with these columns, which are made where they are missing.
    fn complete(&self, seen: SettledTable, wanted: &Schema) -> Result<SettledTable, Error> {
        let statements = self.lacking(&seen, wanted)?;
        if statements.is_empty() {
            return Ok(seen);
        }
        if !self.place.create {
            return Err(self.not_there(&statements));
        }
        let mut failed = None;
        for text in statements {
            let statement = SqlStatement {
                parts: vec![SqlPart::Text(text)],
                table: self.place.path.join("."),
                ..SqlStatement::default()
            };
            let database = Arc::clone(&seen.database);
            let made = seen.open.wait(async move {
                let mut rows = database.run(&statement).await?;
                while rows.next().await?.is_some() {}
                Ok(())
            });
            // Another node may have made it at the same time.
            failed = made.err().or(failed);
        }
        let now = self.look()?;
        match self.lacking(&now, wanted)?.is_empty() {
            true => Ok(now),
            false => Err(failed.unwrap_or_else(|| self.not_there(&[]))),
        }
    }

    fn not_there(&self, statements: &[String]) -> Error {
        Error::new(Class::Configuration, "table.database-lacks")
            .with("table", &self.name)
            .with("connection", &self.place.connection)
            .with("path", self.place.path.join("."))
            .with("statement", statements.join("; "))
    }

    /// The statements that make what is missing.
    fn lacking(&self, seen: &SettledTable, wanted: &Schema) -> Result<Vec<String>, Error> {
        let database = &seen.database;
        let quoted = |name: &String| database.quoted(name);
        let path = self.place.path.iter().map(quoted);
        let path = path.collect::<Vec<_>>().join(".");
        let definition = |name: &String, kind: ColumnType| {
            let made_for = database.made_for(kind, self.key.contains(name));
            let made_for = made_for.ok_or_else(|| {
                Error::new(Class::Configuration, "table.database-makes-none")
                    .with("table", &self.name)
                    .with("connection", &self.place.connection)
                    .with("path", self.place.path.join("."))
                    .with("column", name)
            })?;
            Ok(format!("{} {made_for}", quoted(name)))
        };
        let missing = wanted.fields().iter().filter(|field| {
            let there = seen.there.as_ref();
            there.is_none_or(|there| !there.contains(field.name()))
        });
        let missing = missing.map(|field| {
            let kind = ColumnType::of(field).unwrap_or(ColumnType::Text);
            definition(field.name(), kind)
        });
        let mut missing = missing.collect::<Result<Vec<String>, Error>>()?;
        if seen.there.is_some() {
            let added = missing.iter();
            return Ok(added
                .map(|column| format!("ALTER TABLE {path} ADD COLUMN {column}"))
                .collect());
        }
        if wanted.fields().is_empty() {
            return Ok(Vec::new());
        }
        if let Some(column) = self.key.iter().find(|name| wanted.index_of(name).is_err()) {
            return Err(key_missing(&self.name, column));
        }
        if !self.key.is_empty() {
            let key = self.key.iter().map(quoted).collect::<Vec<_>>();
            missing.push(format!("PRIMARY KEY ({})", key.join(", ")));
        }
        Ok(vec![format!(
            "CREATE TABLE IF NOT EXISTS {path} ({})",
            missing.join(", ")
        )])
    }

    /// The columns after those of a flow have joined them. The database is not asked to change the type of a column.
    fn merged(&self, have: &SchemaRef, more: &Schema) -> Result<SchemaRef, Error> {
        let merged = merge_columns(&self.name, &self.key, have, more, self.is_declared())?;
        for (before, after) in have.fields().iter().zip(merged.fields()) {
            if let (Some(kept), Some(given)) = (ColumnType::of(before), ColumnType::of(after))
                && kept != given
            {
                return Err(Error::new(Class::Configuration, "table.column-type")
                    .with("table", &self.name)
                    .with("column", before.name())
                    .with("kept", kept.word())
                    .with("given", given.word()));
            }
        }
        Ok(merged)
    }

    /// Asks the replica, and the main database where the replica cannot answer.
    fn read<T>(
        settled: &SettledTable,
        ask: impl Fn(&RemoteTable) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(replica) = &settled.replica else {
            return ask(&settled.main);
        };
        match ask(replica) {
            // A table or column that was just made may not be there yet.
            Err(error) if error.class() != Class::Permanent => ask(&settled.main),
            answer => answer,
        }
    }
}

impl Table for KeptTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn engine(&self) -> &'static str {
        "relational"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_durable: true,
            waits_for_disk: true,
            lookup_waits: true,
            can_be_held_up: true,
        }
    }

    /// The declared columns, whatever the database says. Without them the database is asked once, and again some time after
    /// it did not answer.
    fn schema(&self) -> SchemaRef {
        if self.is_declared() {
            return Arc::clone(&self.declared);
        }
        if let Some(known) = &*self.settled.read() {
            return Arc::clone(&known.schema);
        }
        let known = self.columns.of(&self.name, || self.settled());
        match known {
            Some(settled) => Arc::clone(&settled.schema),
            None => Arc::clone(&self.brought.read()),
        }
    }

    fn key(&self) -> &[String] {
        &self.key
    }

    fn follows(&self, condition: &Condition) -> bool {
        let settled = self.settled.read();
        settled
            .as_ref()
            .is_some_and(|settled| settled.main.follows(condition))
    }

    fn shown(&self, scan: &Scan) -> Option<String> {
        let settled = self.settled.read();
        settled.as_ref().and_then(|settled| {
            let table = settled.replica.as_ref().unwrap_or(&settled.main);
            table.shown(scan)
        })
    }

    fn evolve(&self, schema: &Schema) -> Result<(), Error> {
        if self.is_declared() {
            self.merged(&self.declared, schema)?;
            return match self.settled() {
                // The columns are known; the rows wait until the database answers.
                Err(error) if error.class() == Class::Transient => Ok(()),
                settled => settled.map(drop),
            };
        }
        let _changing = self.changing.lock();
        let before = self.look()?;
        let merged = self.merged(&before.schema, schema)?;
        *self.brought.write() = Arc::clone(&merged);
        let seen = self.complete(before, &merged)?;
        // What the new columns were made for is known only now.
        self.keep(seen);
        Ok(())
    }

    fn check(&self, schema: &Schema) -> Result<(), Error> {
        self.merged(&self.schema(), schema).map(drop)
    }

    fn write(&self, write: &Write<'_>) -> Result<Applied, Error> {
        let settled = self.settled()?;
        kept_write::put(self, &settled.sink_place(), write)
    }

    fn scan(&self, scan: &Scan) -> Result<Rows, Error> {
        let settled = self.settled()?;
        if settled.there.is_none() {
            return Ok(Rows::new(Arc::new(Schema::empty()), std::iter::empty()));
        }
        Self::read(&settled, |table| {
            let mut rows = table.scan(scan)?;
            // A database that cannot answer says so with the first rows.
            let first = rows.next().transpose()?;
            Ok(Rows::new(
                rows.schema(),
                first.map(Ok).into_iter().chain(rows),
            ))
        })
    }

    fn lookup(&self, lookup: &Lookup<'_>) -> Result<Found, Error> {
        let settled = self.settled()?;
        Self::read(&settled, |table| table.lookup(lookup))
    }

    fn query(&self, sql: &str, parameters: &[Json], limit: usize) -> Result<String, Error> {
        let settled = self.settled()?;
        Self::read(&settled, |table| table.ask(sql, parameters, limit))
    }

    fn rows(&self) -> Result<u64, Error> {
        let settled = self.settled()?;
        match settled.there {
            Some(_) => Self::read(&settled, RemoteTable::rows),
            None => Ok(0),
        }
    }

    fn position(&self, producer: &str) -> Result<Option<u64>, Error> {
        let settled = self.settled()?;
        match settled.there {
            Some(_) => kept_write::known_position(self, &settled.sink_place(), producer),
            None => Ok(None),
        }
    }

    fn stats(&self) -> Result<Stats, Error> {
        Ok(Stats {
            rows: self.rows()?,
            ..self.counters.stats()
        })
    }
}

impl SettledTable {
    fn sink_place(&self) -> SinkPlace<'_> {
        SinkPlace {
            open: &self.open,
            schema: &self.schema,
        }
    }
}

impl SinkTable for KeptTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn key(&self) -> &[String] {
        &self.key
    }

    fn writer(&self) -> &Mutex<KeptWriter> {
        &self.writer
    }

    fn counters(&self) -> &KeptCounters {
        &self.counters
    }

    fn sink(
        &self,
        place: &SinkPlace<'_>,
        changes: bool,
        schema: SchemaRef,
    ) -> Work<'static, Result<Box<dyn Sink>, Error>> {
        let (open, options) = (Arc::clone(place.open), self.write_options(changes));
        Box::pin(async move { open.sink(options, schema).await })
    }

    fn forget(&self) {
        *self.settled.write() = None;
    }
}

impl fmt::Debug for KeptTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptTable")
            .field("name", &self.name)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
