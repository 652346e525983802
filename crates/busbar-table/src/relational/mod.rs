//! The relational engine: rows in a SQLite file.

mod kept_changes;
mod lookup;
mod query;
mod scan;
mod schema;
mod sqlite;

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{Float64Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use busbar_event::{Class, Error, time};
use busbar_log::Clock;
use parking_lot::{Mutex, RwLock};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};

use crate::ChangeLog;
use crate::Newer;
use crate::ProducerPosition;
use crate::change_log::KeptChanges;
use crate::columns::{self, ColumnType, TypedRows, arrow_error, type_of};
use crate::compared::compare;
use crate::table::{
    Applied, Capabilities, Found, LooksBack, Lookup, Rows, Scan, Stats, Table, Write,
};
use scan::Reading;
use schema::Shape;
use sqlite::{Readers, configure, sqlite_error};

/// Rows in a SQLite file of their own, in write-ahead mode with a full sync at each commit.
///
/// * **Exactly once.** The rows of a write and its [`ProducerPosition`] are one transaction. After a
///   crash either both are there or neither.
/// * **Reading** uses connections of its own that cannot write; it neither waits for writers nor
///   holds them up. A scan sees the table as it was when the scan began.
/// * **Columns** that a flow brings later are added; rows written before have null there.
/// * **Other programs** may read the file at any time. Its form is in the doc comment of the
///   `schema` module.
///
/// Every call waits for the disk: see the [crate's page](crate).
pub struct Relational {
    name: String,
    key: Vec<String>,
    /// The columns that the table's file in the project names; none if it names none.
    declared: RwLock<SchemaRef>,
    path: PathBuf,
    /// The file that is open, however it is called.
    file: Mutex<FileId>,
    shape: RwLock<Arc<Shape>>,
    writer: Mutex<Connection>,
    readers: Arc<Readers>,
    counters: Counters,
    changes: KeptChanges,
    clock: Arc<dyn Clock>,
    /// The number of rows, and of the write after which they were counted.
    counted: Mutex<Option<(u64, u64)>>,
}

#[derive(Default)]
struct Counters {
    writes: AtomicU64,
    put: AtomicU64,
    deleted: AtomicU64,
    rejected: AtomicU64,
    duplicates: AtomicU64,
}

impl Relational {
    /// Open the file, or make it.
    pub(crate) fn open(
        path: &Path,
        name: &str,
        declared: &SchemaRef,
        key: &[String],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let (writer, shape) = open_file(path, name, key)?;
        let table = Self {
            name: name.to_owned(),
            key: key.to_vec(),
            declared: RwLock::new(Arc::new(Schema::empty())),
            path: path.to_owned(),
            file: Mutex::new(FileId::of(path)),
            shape: RwLock::new(Arc::new(shape)),
            writer: Mutex::new(writer),
            readers: Arc::new(Readers {
                table: name.to_owned(),
                path: path.to_owned(),
                idle: Mutex::default(),
            }),
            counters: Counters::default(),
            changes: KeptChanges::default(),
            clock,
            counted: Mutex::default(),
        };
        table.declare(declared)?;
        Ok(table)
    }

    /// Take the columns that the table's file declares now.
    pub(crate) fn declare(&self, declared: &SchemaRef) -> Result<(), Error> {
        self.widen(declared, false)?;
        *self.declared.write() = Arc::clone(declared);
        Ok(())
    }

    fn is_declared(&self) -> bool {
        !self.declared.read().fields().is_empty()
    }

    /// Whether the file that is open is the one that is there. One that was removed, or put in place of
    /// another, would take rows that nobody finds again.
    fn in_place(&self) -> bool {
        *self.file.lock() == FileId::of(&self.path)
    }

    /// Open what is there now, or make it anew.
    fn reopen(&self) -> Result<(), Error> {
        let mut writer = self.writer.lock();
        let (opened, shape) = open_file(&self.path, &self.name, &self.key)?;
        *writer = opened;
        *self.shape.write() = Arc::new(shape);
        *self.file.lock() = FileId::of(&self.path);
        self.readers.idle.lock().clear();
        *self.counted.lock() = None;
        drop(writer);
        let declared = Arc::clone(&self.declared.read());
        self.widen(&declared, false)?;
        self.keep_changes(self.changes.are_kept(), self.clock.now_micros())
    }

    fn widen(&self, schema: &Schema, declared: bool) -> Result<(), Error> {
        let mut writer = self.writer.lock();
        let before = Arc::clone(&self.shape.read());
        let merged =
            columns::merge_columns(&self.name, &self.key, &before.schema, schema, declared)?;
        if Arc::ptr_eq(&merged, &before.schema) {
            return Ok(());
        }
        let next = Shape::new(&self.name, merged, &self.key)?;
        schema::write_columns(&mut writer, &self.name, &before.schema, &next)?;
        *self.shape.write() = Arc::new(next);
        Ok(())
    }

    /// Puts and deletes rows; with `newer` only those that are newer than what is there.
    fn put(&self, write: &Write<'_>, newer: Option<&Newer>) -> Result<Applied, Error> {
        let shape = self.shape();
        if shape.key.len() < self.key.len() {
            return Err(Error::new(Class::Configuration, "table.key-missing")
                .with("table", &self.name)
                .with("column", &self.key[0]));
        }
        let mut rows = columns::typed_rows(&self.name, &shape.schema, &shape.key, write)?;
        if let Some(newer) = newer {
            let given = write.rows.num_rows();
            newer.reject_unversioned(&self.name, &shape.schema, &mut rows, given)?;
        }
        let mut applied = Applied {
            rejected: std::mem::take(&mut rows.rejected),
            ..Applied::default()
        };
        let fault = |cause| sqlite_error(&self.name, cause);
        let mut writer = self.writer.lock();
        if !self.in_place() {
            return Err(Error::new(Class::Configuration, "table.file-gone")
                .with("table", &self.name)
                .with("file", self.path.display()));
        }
        let transaction = writer
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fault)?;
        if let Some(at) = write.kept_position()
            && !advance(&transaction, &self.name, at)?
        {
            self.counters.duplicates.fetch_add(1, Ordering::Relaxed);
            applied.duplicate = true;
            return Ok(applied);
        }
        let position = write.position;
        let is_followed = self.changes.are_kept();
        let (mut kept, mut absent) = (0, 0);
        if is_followed {
            self.changes.check_room(&self.name)?;
        }
        if newer.is_some() || is_followed {
            // Nobody else writes, so what readers see is what this write meets.
            let find = |lookup: &Lookup<'_>| self.lookup(lookup);
            let key = (&shape.schema, &*shape.key);
            let compared = compare(&self.name, rows, key, newer, find)?;
            if is_followed {
                let now = self.clock.now_micros();
                kept = self.note_change(&transaction, &compared.whole, position, now)?;
            }
            absent = compared.absent;
            applied.conflicts = compared.conflicts;
            rows = compared.rows;
        }
        applied.overwritten = put(&transaction, &self.name, &shape, &rows, position)?;
        transaction.commit().map_err(fault)?;
        self.changes.kept(kept);
        applied.put = rows.rows - rows.deleted();
        applied.deleted = rows.deleted() + absent;
        let counters = &self.counters;
        counters.writes.fetch_add(1, Ordering::Relaxed);
        counters
            .put
            .fetch_add(applied.put as u64, Ordering::Relaxed);
        counters
            .deleted
            .fetch_add(applied.deleted as u64, Ordering::Relaxed);
        let rejected = applied.rejected.len() as u64;
        counters.rejected.fetch_add(rejected, Ordering::Relaxed);
        Ok(applied)
    }

    fn shape(&self) -> Arc<Shape> {
        Arc::clone(&self.shape.read())
    }
}

impl Table for Relational {
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

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.shape.read().schema)
    }

    fn key(&self) -> &[String] {
        &self.key
    }

    fn evolve(&self, schema: &Schema) -> Result<(), Error> {
        if !self.in_place() {
            self.reopen()?;
        }
        self.widen(schema, self.is_declared())
    }

    fn check(&self, schema: &Schema) -> Result<(), Error> {
        let shape = self.shape();
        let merged = columns::merge_columns(
            &self.name,
            &self.key,
            &shape.schema,
            schema,
            self.is_declared(),
        )?;
        Shape::new(&self.name, merged, &self.key).map(drop)
    }

    fn write(&self, write: &Write<'_>) -> Result<Applied, Error> {
        self.put(write, None)
    }

    fn compares(&self) -> bool {
        true
    }

    fn write_newer(&self, write: &Write<'_>, newer: &Newer) -> Result<Applied, Error> {
        self.put(write, Some(newer))
    }

    fn changes(&self) -> Option<&dyn ChangeLog> {
        self.changes.are_kept().then_some(self as &dyn ChangeLog)
    }

    fn scan(&self, scan: &Scan) -> Result<Rows, Error> {
        let shape = self.shape();
        let all = || (0..shape.schema.fields().len()).collect();
        let columns: Vec<usize> = scan.projection.clone().unwrap_or_else(all);
        let projected = Arc::new(shape.schema.project(&columns).map_err(arrow_error)?);
        if shape.schema.fields().is_empty() {
            return Ok(Rows::new(projected, std::iter::empty()));
        }
        let reading = Reading::begin(&self.readers, &self.name, &shape, &columns, scan)?;
        Ok(Rows::new(projected, reading))
    }

    fn query(
        &self,
        sql: &str,
        parameters: &[serde_json::Value],
        limit: usize,
    ) -> Result<String, Error> {
        query::run(&self.readers, sql, parameters, limit)
    }

    fn lookup(&self, lookup: &Lookup<'_>) -> Result<Found, Error> {
        lookup::find(&self.readers, &self.name, &self.shape(), lookup, None)
    }

    fn looks_back(&self) -> LooksBack {
        let shape = self.shape();
        by_last_key_column(&shape.schema, &shape.key)
    }

    fn lookup_as_of(&self, lookup: &Lookup<'_>, times: &[i64]) -> Result<Found, Error> {
        let shape = self.shape();
        match by_last_key_column(&shape.schema, &shape.key) {
            LooksBack::LastKeyColumn => {
                lookup::find(&self.readers, &self.name, &shape, lookup, Some(times))
            }
            _ => Err(Error::new(Class::Configuration, "table.no-past").with("table", &self.name)),
        }
    }

    /// Counts the rows again only if something was written since the last time.
    fn rows(&self) -> Result<u64, Error> {
        if self.shape().schema.fields().is_empty() {
            return Ok(0);
        }
        let mut counted = self.counted.lock();
        let writes = self.counters.writes.load(Ordering::Relaxed);
        if let Some((rows, at)) = *counted
            && at == writes
        {
            return Ok(rows);
        }
        let reader = self.readers.take()?;
        let sql = format!("SELECT count(*) FROM {}", schema::quoted(&self.name));
        let rows: i64 = reader
            .query_row(&sql, [], |row| row.get(0))
            .map_err(|cause| sqlite_error(&self.name, cause))?;
        self.readers.give_back(reader);
        let rows = rows.unsigned_abs();
        *counted = Some((rows, writes));
        Ok(rows)
    }

    fn position(&self, producer: &str) -> Result<Option<u64>, Error> {
        let reader = self.readers.take()?;
        let found = position(&reader, &self.name, producer)?;
        self.readers.give_back(reader);
        Ok(found)
    }

    fn stats(&self) -> Result<Stats, Error> {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        let log = self.path.with_extension("db-wal");
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Stats {
            rows: self.rows()?,
            bytes: size(&self.path) + size(&log),
            put: load(&self.counters.put),
            deleted: load(&self.counters.deleted),
            rejected: load(&self.counters.rejected),
            duplicates: load(&self.counters.duplicates),
            ..Stats::default()
        })
    }
}

/// What a table of rows can say of the past, given the places of its key's columns.
pub(crate) fn by_last_key_column(schema: &Schema, key: &[usize]) -> LooksBack {
    match key {
        [_, .., last] if type_of(schema.field(*last)) == ColumnType::Time => {
            LooksBack::LastKeyColumn
        }
        _ => LooksBack::No,
    }
}

/// A file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId(Option<(u64, u64)>);

impl FileId {
    fn of(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self(
            std::fs::metadata(path)
                .ok()
                .map(|file| (file.dev(), file.ino())),
        )
    }
}

/// Open a table's file for writing, or make it, and read what it says of itself.
fn open_file(path: &Path, name: &str, key: &[String]) -> Result<(Connection, Shape), Error> {
    let fault = |cause| sqlite_error(name, cause);
    // SQLite gives a new file to all users of the machine, and its companions the mode of the file. One that
    // cannot be made is reported by SQLite.
    let _ = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let writer = Connection::open_with_flags(path, flags).map_err(fault)?;
    configure(&writer).map_err(fault)?;
    let mode: String = writer
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(fault)?;
    if mode != "wal" {
        return Err(Error::new(Class::Configuration, "table.no-wal")
            .with("table", name)
            .with("mode", mode));
    }
    schema::prepare_file(&writer, name)?;
    let (schema, kept_key) = schema::read_columns(&writer, name)?;
    let schema: SchemaRef = Arc::new(schema);
    if !schema.fields().is_empty() && kept_key != key {
        return Err(Error::new(Class::Configuration, "table.key-changed")
            .with("table", name)
            .with("kept", kept_key.join(", "))
            .with("given", key.join(", "))
            .with("file", path.display()));
    }
    let shape = Shape::new(name, schema, key)?;
    Ok((writer, shape))
}

/// Note a producer's position; false if it was there already.
fn advance(connection: &Connection, table: &str, at: &ProducerPosition) -> Result<bool, Error> {
    let fault = |cause| sqlite_error(table, cause);
    let known = position(connection, table, &at.producer)?;
    if known.is_some_and(|known| at.position <= known) {
        return Ok(false);
    }
    let position = i64::try_from(at.position).map_err(|_| {
        Error::new(Class::Permanent, "table.position-range").with("position", at.position)
    })?;
    let mut statement = connection
        .prepare_cached(
            "INSERT INTO _busbar_positions (producer, position) VALUES (?1, ?2) \
             ON CONFLICT (producer) DO UPDATE SET position = excluded.position",
        )
        .map_err(fault)?;
    statement
        .execute((&*at.producer, position))
        .map_err(fault)?;
    Ok(true)
}

fn position(connection: &Connection, table: &str, producer: &str) -> Result<Option<u64>, Error> {
    let fault = |cause| sqlite_error(table, cause);
    let mut statement = connection
        .prepare_cached("SELECT position FROM _busbar_positions WHERE producer = ?1")
        .map_err(fault)?;
    let found: Option<i64> = statement
        .query_row([producer], |row| row.get(0))
        .optional()
        .map_err(fault)?;
    Ok(found.map(i64::unsigned_abs))
}

/// Writes rows and deletions; how many rows a later one of them put again.
fn put(
    connection: &Connection,
    table: &str,
    shape: &Shape,
    rows: &TypedRows,
    at: Option<&ProducerPosition>,
) -> Result<usize, Error> {
    let fault = |cause| sqlite_error(table, cause);
    let (skip, overwritten) = superseded(shape, rows)?;
    let places: Vec<usize> = rows.columns.iter().map(|(column, _)| *column).collect();
    let values: Vec<Values<'_>> = rows
        .columns
        .iter()
        .map(|(column, array)| Values::new(type_of(shape.schema.field(*column)), array))
        .collect();
    let sql = schema::put_sql(table, shape, &places);
    let mut put = connection.prepare_cached(&sql).map_err(fault)?;
    let mut delete = match rows.deletes {
        Some(_) => {
            let sql = schema::delete_sql(table, shape);
            Some(connection.prepare_cached(&sql).map_err(fault)?)
        }
        None => None,
    };
    for row in (0..rows.rows).filter(|row| !skip.get(*row).copied().unwrap_or(false)) {
        match &mut delete {
            Some(delete) if rows.is_delete(row) => {
                for (place, column) in shape.key.iter().enumerate() {
                    let at = places.iter().position(|known| known == column);
                    let value = at.and_then(|at| values.get(at));
                    if let Some(value) = value {
                        value.bind(delete, place + 1, row).map_err(fault)?;
                    }
                }
                delete.raw_execute().map_err(fault)?;
            }
            _ => {
                for (place, value) in values.iter().enumerate() {
                    value.bind(&mut put, place + 1, row).map_err(fault)?;
                }
                if shape.key.is_empty() {
                    let next = values.len() + 1;
                    let producer = at.map(|at| &*at.producer);
                    let position = at.map(|at| at.position as i64);
                    put.raw_bind_parameter(next, producer).map_err(fault)?;
                    put.raw_bind_parameter(next + 1, position).map_err(fault)?;
                    put.raw_bind_parameter(next + 2, row as i64)
                        .map_err(fault)?;
                }
                put.raw_execute().map_err(fault)?;
            }
        }
    }
    Ok(overwritten)
}

/// Which rows need not be written because the next row of the same key in the same batch replaces them,
/// and how many puts are followed by another put. All rows of a batch have the same columns, so the later
/// put replaces all that the earlier one wrote. A deletion before a put is needed: it empties the columns
/// that the put does not have.
fn superseded(shape: &Shape, rows: &TypedRows) -> Result<(Vec<bool>, usize), Error> {
    if shape.key.is_empty() || rows.rows < 2 {
        return Ok((Vec::new(), 0));
    }
    let fields = shape
        .key
        .iter()
        .map(|column| SortField::new(shape.schema.field(*column).data_type().clone()));
    let converter = RowConverter::new(fields.collect()).map_err(arrow_error)?;
    let columns: Vec<ArrayRef> = shape
        .key
        .iter()
        .filter_map(|column| rows.column(*column).cloned())
        .collect();
    let keys = converter.convert_columns(&columns).map_err(arrow_error)?;
    let mut next_is_delete = HashMap::with_capacity(rows.rows.min(1024));
    let mut skip = vec![false; rows.rows];
    let mut overwritten = 0;
    for row in (0..rows.rows).rev() {
        let is_delete = rows.is_delete(row);
        let next = next_is_delete.insert(keys.row(row).data(), is_delete);
        overwritten += usize::from(next == Some(false) && !is_delete);
        skip[row] = match next {
            None => false,
            Some(next_is_delete) => next_is_delete || !is_delete,
        };
    }
    Ok((skip, overwritten))
}

/// A column's values, its type looked up once.
enum Values<'a> {
    Bool(&'a arrow::array::BooleanArray),
    Int(&'a arrow::array::Int64Array),
    Float(&'a arrow::array::Float64Array),
    Text(&'a arrow::array::StringArray),
    Time(&'a arrow::array::TimestampMicrosecondArray),
    Binary(&'a arrow::array::BinaryArray),
}

impl<'a> Values<'a> {
    fn new(kind: ColumnType, array: &'a ArrayRef) -> Self {
        match kind {
            ColumnType::Bool => Self::Bool(array.as_boolean()),
            ColumnType::Int => Self::Int(array.as_primitive::<Int64Type>()),
            ColumnType::Float => Self::Float(array.as_primitive::<Float64Type>()),
            ColumnType::Text | ColumnType::Json => Self::Text(array.as_string()),
            ColumnType::Time => Self::Time(array.as_primitive::<TimestampMicrosecondType>()),
            ColumnType::Binary => Self::Binary(array.as_binary()),
        }
    }

    fn bind(
        &self,
        statement: &mut rusqlite::Statement<'_>,
        place: usize,
        row: usize,
    ) -> rusqlite::Result<()> {
        let mut time = Vec::new();
        let value = match self {
            Self::Bool(array) if array.is_valid(row) => {
                ValueRef::Integer(i64::from(array.value(row)))
            }
            Self::Int(array) if array.is_valid(row) => ValueRef::Integer(array.value(row)),
            Self::Float(array) if array.is_valid(row) => ValueRef::Real(array.value(row)),
            Self::Text(array) if array.is_valid(row) => ValueRef::Text(array.value(row).as_bytes()),
            Self::Time(array) if array.is_valid(row) => {
                time.reserve_exact(time::WRITTEN_BYTES);
                time::write(array.value(row), &mut time);
                ValueRef::Text(&time)
            }
            Self::Binary(array) if array.is_valid(row) => ValueRef::Blob(array.value(row)),
            _ => ValueRef::Null,
        };
        statement.raw_bind_parameter(place, ToSqlOutput::Borrowed(value))
    }
}

impl fmt::Debug for Relational {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relational")
            .field("name", &self.name)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
