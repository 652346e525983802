//! Hot tables whose rows another system keeps: the twins of those in the node's memory.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Schema, SchemaRef};
use busbar_event::{Class, Error};
use busbar_log::Clock;
use busbar_table::{
    Applied, Capabilities, ColumnSpec, Compare, Condition, Constant, DueBatch, Found, HotElsewhere,
    HotPlace, HotTable, Lookup, Rows, Scan, Stats, Table, Write, check_lookup, merge_columns,
    widen,
};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::hot::{HotCount, HotDatabase, HotLayout, LeavingRows};
use super::kept::KeptCounters;
use super::kept_columns::AskedColumns;
use super::kept_write::{self, CHANGE, KeptWriter, SinkPlace, SinkTable, key_missing};
use super::open::{AskedDatabase, pieces, send_rows};
use super::table::of_arrow;
use super::{ColumnType, Databases};
use crate::limits::NOTE_TRIES_MAX;
use crate::{Sink, Work};

/// A hot table whose rows another system keeps. The system is asked for its columns when the table is first used.
pub(super) struct KeptHot {
    name: String,
    place: HotPlace,
    /// The columns of the table's file; empty if it has none.
    declared: SchemaRef,
    key: Vec<String>,
    databases: Databases,
    clock: Arc<dyn Clock>,
    settled: RwLock<Option<Arc<SettledHot>>>,
    columns: AskedColumns,
    /// Held while columns are added.
    changing: Mutex<()>,
    writer: Mutex<KeptWriter>,
    counters: KeptCounters,
    moved: AtomicU64,
    is_tried_again: AtomicBool,
}

/// The table as it is there.
struct SettledHot {
    open: Arc<AskedDatabase>,
    database: Arc<dyn HotDatabase>,
    rows: Arc<HotLayout>,
    /// What is noted there.
    noted: Option<Vec<u8>>,
}

/// What is noted of a table in the other system.
#[derive(Serialize, Deserialize)]
struct HotNote {
    key: Vec<String>,
    columns: Vec<ColumnSpec>,
    /// Whether rows stay until they are moved.
    moves: bool,
}

impl KeptHot {
    pub fn new(
        name: &str,
        place: &HotPlace,
        declared: &SchemaRef,
        key: &[String],
        databases: Databases,
        clock: Arc<dyn Clock>,
    ) -> KeptHot {
        KeptHot {
            name: name.to_owned(),
            place: place.clone(),
            declared: Arc::clone(declared),
            key: key.to_vec(),
            databases,
            clock,
            settled: RwLock::default(),
            columns: AskedColumns::default(),
            changing: Mutex::default(),
            writer: Mutex::default(),
            counters: KeptCounters::default(),
            moved: AtomicU64::new(0),
            is_tried_again: AtomicBool::new(true),
        }
    }

    fn is_declared(&self) -> bool {
        !self.declared.fields().is_empty()
    }

    fn asked(&self) -> Result<Arc<AskedDatabase>, Error> {
        self.databases.of_table(&self.name, &self.place.connection)
    }

    /// The table as it was last seen, and as it is now if it was not seen yet.
    fn settled(&self) -> Result<Arc<SettledHot>, Error> {
        let open = self.asked()?;
        let known = |open: &Arc<AskedDatabase>| {
            let known = self.settled.read().clone();
            // A connection that leads elsewhere is another one.
            known.filter(|known| Arc::ptr_eq(&known.open, open))
        };
        if let Some(known) = known(&open) {
            return Ok(known);
        }
        let _changing = self.changing.lock();
        match known(&open) {
            Some(known) => Ok(known),
            None => self.take(self.look(open)?, &self.declared),
        }
    }

    /// The table as it is now.
    fn look(&self, open: Arc<AskedDatabase>) -> Result<SettledHot, Error> {
        let (asked, place) = (Arc::clone(&open), self.place.clone());
        let (database, noted) = open.wait(async move {
            let database = asked.hot().await?;
            let noted = database.prepare(&place).await?;
            Ok((database, noted))
        })?;
        let note = self.read_note(noted.as_deref())?;
        let columns = note.iter().flat_map(|note| &note.columns);
        let fields = columns.map(|column| column.kind.field(&column.name));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let seen = SettledHot {
            rows: self.hot_rows(schema),
            open,
            database,
            noted,
        };
        if let Some(note) = &note
            && note.key != self.key
            && self.counted(&seen)?.rows > 0
        {
            return Err(Error::new(Class::Configuration, "table.hot-key")
                .with("table", &self.name)
                .with("kept", note.key.join(", "))
                .with("given", self.key.join(", ")));
        }
        if note.is_none_or(|note| note.moves != self.place.moves) {
            let (database, rows) = (Arc::clone(&seen.database), Arc::clone(&seen.rows));
            let waiting = seen.open.wait(async move { database.keep(&rows).await })?;
            if waiting > 0 && !self.place.moves {
                let error = Error::new(Class::Configuration, "table.moves-waiting");
                return Err(error.with("table", &self.name));
            }
        }
        Ok(seen)
    }

    fn hot_rows(&self, schema: SchemaRef) -> Arc<HotLayout> {
        Arc::new(HotLayout {
            place: self.place.clone(),
            schema,
            key: self.key.clone(),
            clock: Arc::clone(&self.clock),
        })
    }

    fn read_note(&self, noted: Option<&[u8]>) -> Result<Option<HotNote>, Error> {
        let read = noted.map(serde_json::from_slice).transpose();
        read.map_err(|cause| {
            Error::new(Class::Configuration, "table.hot-note")
                .with("table", &self.name)
                .with("connection", &self.place.connection)
                .caused_by(cause)
        })
    }

    /// Takes the table as it was seen, after these columns have joined it. The caller holds `changing`.
    fn take(&self, mut seen: SettledHot, more: &Schema) -> Result<Arc<SettledHot>, Error> {
        for _ in 0..NOTE_TRIES_MAX {
            let schema = match self.is_declared() {
                true => Arc::clone(&self.declared),
                false => {
                    let schema = self.merged(&seen.rows.schema, more)?;
                    self.check_wider(&seen, &schema)?;
                    schema
                }
            };
            let note = self.note(&schema);
            if seen.noted.as_ref() == Some(&note) || schema.fields().is_empty() {
                seen.rows = self.hot_rows(schema);
                let seen = Arc::new(seen);
                *self.settled.write() = Some(Arc::clone(&seen));
                return Ok(seen);
            }
            let (database, place) = (Arc::clone(&seen.database), self.place.clone());
            let (before, now) = (seen.noted.clone(), note.clone());
            let is_noted = seen
                .open
                .wait(async move { database.note(&place, before, now).await })?;
            match is_noted {
                true => {
                    seen.noted = Some(note);
                    seen.rows = self.hot_rows(schema);
                }
                // Another node has noted something meanwhile.
                false => seen = self.look(seen.open)?,
            }
        }
        Err(Error::new(Class::Transient, "table.hot-noted").with("table", &self.name))
    }

    fn note(&self, schema: &Schema) -> Vec<u8> {
        let columns = schema.fields().iter().map(|field| ColumnSpec {
            name: field.name().clone(),
            kind: ColumnType::of(field).unwrap_or(ColumnType::Text),
        });
        let note = HotNote {
            key: self.key.clone(),
            columns: columns.collect(),
            moves: self.place.moves,
        };
        serde_json::to_vec(&note).unwrap_or_default()
    }

    /// Whether the values that there are fit columns that become wider.
    fn check_wider(&self, seen: &SettledHot, schema: &SchemaRef) -> Result<(), Error> {
        let fields = seen.rows.schema.fields().iter().zip(schema.fields());
        let wider = fields
            .enumerate()
            .filter(|(_, (before, after))| before.data_type() != after.data_type());
        for (column, (_, after)) in wider {
            let kind = ColumnType::of(after).unwrap_or(ColumnType::Text);
            for batch in self.stream(seen, vec![column], usize::MAX) {
                widen(&self.name, after.name(), batch?.column(0), kind)?;
            }
        }
        Ok(())
    }

    fn merged(&self, have: &SchemaRef, more: &Schema) -> Result<SchemaRef, Error> {
        let merged = merge_columns(&self.name, &self.key, have, more, self.is_declared())?;
        for column in &self.key {
            match merged.field_with_name(column).ok().and_then(ColumnType::of) {
                None if merged.fields().is_empty() => {}
                None => return Err(key_missing(&self.name, column)),
                Some(kind @ (ColumnType::Float | ColumnType::Json)) => {
                    return Err(Error::new(Class::Configuration, "table.key-type")
                        .with("table", &self.name)
                        .with("column", column)
                        .with("type", kind.word()));
                }
                Some(_) => {}
            }
        }
        Ok(merged)
    }

    fn counted(&self, seen: &SettledHot) -> Result<HotCount, Error> {
        let (database, rows) = (Arc::clone(&seen.database), Arc::clone(&seen.rows));
        seen.open.wait(async move { database.count(&rows).await })
    }

    fn stream(
        &self,
        seen: &SettledHot,
        columns: Vec<usize>,
        most: usize,
    ) -> impl Iterator<Item = Result<RecordBatch, Error>> + Send + use<> {
        let (database, rows) = (Arc::clone(&seen.database), Arc::clone(&seen.rows));
        pieces(&seen.open, move |sender| async move {
            let all = database.all(&rows, &columns).await?;
            send_rows(all, most, sender).await
        })
    }

    fn find(
        &self,
        seen: &SettledHot,
        keys: Vec<ArrayRef>,
        columns: Vec<usize>,
    ) -> Result<Found, Error> {
        let (database, rows) = (Arc::clone(&seen.database), Arc::clone(&seen.rows));
        seen.open
            .wait(async move { database.find(&rows, &keys, &columns).await })
    }
}

impl Table for KeptHot {
    fn name(&self) -> &str {
        &self.name
    }

    fn engine(&self) -> &'static str {
        "hot"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_durable: true,
            waits_for_disk: true,
            lookup_waits: true,
            can_be_held_up: true,
        }
    }

    /// The declared columns, whatever the other system says. Without them it is asked once, and again some time after it did
    /// not answer.
    fn schema(&self) -> SchemaRef {
        if self.is_declared() {
            return Arc::clone(&self.declared);
        }
        if let Some(known) = &*self.settled.read() {
            return Arc::clone(&known.rows.schema);
        }
        let known = self.columns.of(&self.name, || self.settled());
        match known {
            Some(settled) => Arc::clone(&settled.rows.schema),
            None => Arc::new(Schema::empty()),
        }
    }

    fn key(&self) -> &[String] {
        &self.key
    }

    fn shown(&self, scan: &Scan) -> Option<String> {
        let schema = self.schema();
        let place = format!("{}: {}", self.place.connection, self.place.table);
        Some(match key_of(&schema, &self.key, &scan.conditions) {
            Some(_) => format!("{place}, one row"),
            None => format!("{place}, all rows"),
        })
    }

    fn evolve(&self, schema: &Schema) -> Result<(), Error> {
        if self.is_declared() {
            self.merged(&self.declared, schema)?;
            return match self.settled() {
                // The columns are known; the rows wait until the system answers.
                Err(error) if error.class() == Class::Transient => Ok(()),
                settled => settled.map(drop),
            };
        }
        let open = self.asked()?;
        let _changing = self.changing.lock();
        let seen = self.look(open)?;
        self.take(seen, schema).map(drop)
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
        let schema = &settled.rows.schema;
        let every = || (0..schema.fields().len()).collect();
        let columns: Vec<usize> = scan.projection.clone().unwrap_or_else(every);
        let projected = Arc::new(schema.project(&columns).map_err(of_arrow)?);
        if let Some(key) = key_of(schema, &self.key, &scan.conditions) {
            let found = self.find(&settled, key, columns)?;
            return Ok(Rows::new(projected, std::iter::once(Ok(found.rows))));
        }
        // Without conditions a limit can be followed.
        let most = match scan.limit {
            Some(limit) if scan.conditions.is_empty() => limit,
            _ => usize::MAX,
        };
        let mut batches = self.stream(&settled, columns, most);
        // A system that cannot answer says so with the first rows.
        let first = batches.next().transpose()?;
        let all = first.map(Ok).into_iter().chain(batches);
        Ok(Rows::new(projected, all))
    }

    fn lookup(&self, lookup: &Lookup<'_>) -> Result<Found, Error> {
        let settled = self.settled()?;
        let schema = &settled.rows.schema;
        let places = self.key.iter().map(|name| schema.index_of(name));
        let places = places.collect::<Result<Vec<_>, _>>().unwrap_or_default();
        check_lookup(&self.name, schema, &places, lookup.keys)?;
        let found = self.find(&settled, lookup.keys.to_vec(), lookup.columns.to_vec())?;
        let counts = &settled.open.counts;
        counts
            .keys
            .fetch_add(found.places.len() as u64, Ordering::Relaxed);
        let hits = found.places.len() - found.places.null_count();
        counts.found.fetch_add(hits as u64, Ordering::Relaxed);
        Ok(found)
    }

    fn cached(&self, keys: usize) {
        if let Some(settled) = &*self.settled.read() {
            let cached = &settled.open.counts.cached;
            cached.fetch_add(keys as u64, Ordering::Relaxed);
        }
    }

    fn rows(&self) -> Result<u64, Error> {
        let settled = self.settled()?;
        Ok(self.counted(&settled)?.rows)
    }

    fn position(&self, producer: &str) -> Result<Option<u64>, Error> {
        let settled = self.settled()?;
        kept_write::known_position(self, &settled.sink_place(), producer)
    }

    fn stats(&self) -> Result<Stats, Error> {
        let settled = self.settled()?;
        let count = self.counted(&settled)?;
        let waited = count.due.map(|due| self.clock.now_micros() - due);
        Ok(Stats {
            rows: count.rows,
            moved: self.moved.load(Ordering::Relaxed),
            move_rejected: count.rejected,
            move_lag_us: waited.and_then(|us| u64::try_from(us).ok()).unwrap_or(0),
            ..self.counters.stats()
        })
    }
}

impl SettledHot {
    fn sink_place(&self) -> SinkPlace<'_> {
        SinkPlace {
            open: &self.open,
            schema: &self.rows.schema,
        }
    }
}

impl SinkTable for KeptHot {
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
        let open = Arc::clone(place.open);
        let rows = self.hot_rows(Arc::clone(place.schema));
        Box::pin(async move {
            let database = open.hot().await?;
            database
                .sink(&rows, schema, changes.then_some(CHANGE))
                .await
        })
    }

    fn forget(&self) {
        *self.settled.write() = None;
    }
}

/// Rows of such a table that wait to be moved.
struct KeptDue<'a> {
    table: &'a KeptHot,
    open: Arc<AskedDatabase>,
    due: Box<dyn LeavingRows>,
}

impl DueBatch for KeptDue<'_> {
    fn rows(&self) -> &RecordBatch {
        self.due.rows()
    }

    fn leave(self: Box<Self>, is_rejected: &[bool]) -> Result<(), Error> {
        let (due, is_rejected) = (self.due, is_rejected.to_vec());
        let moved = self.open.wait(due.leave(is_rejected))?;
        self.table.moved.fetch_add(moved, Ordering::Relaxed);
        Ok(())
    }
}

impl HotTable for KeptHot {
    fn due(&self) -> Result<Option<Box<dyn DueBatch + '_>>, Error> {
        let settled = self.settled()?;
        if !self.place.moves || settled.rows.schema.fields().is_empty() {
            return Ok(None);
        }
        if self.is_tried_again.load(Ordering::Acquire) {
            let (database, rows) = (Arc::clone(&settled.database), Arc::clone(&settled.rows));
            settled
                .open
                .wait(async move { database.try_again(&rows).await })?;
            self.is_tried_again.store(false, Ordering::Release);
        }
        let (database, rows) = (Arc::clone(&settled.database), Arc::clone(&settled.rows));
        let due = settled
            .open
            .wait(async move { database.due(&rows).await })?;
        Ok(due.map(|due| {
            let open = Arc::clone(&settled.open);
            let table = self;
            Box::new(KeptDue { table, open, due }) as Box<dyn DueBatch>
        }))
    }
}

impl HotElsewhere for KeptHot {
    fn has_waiting(&self) -> Result<bool, Error> {
        let settled = self.settled()?;
        Ok(self.counted(&settled)?.due.is_some())
    }

    fn try_rejected_again(&self) {
        self.is_tried_again.store(true, Ordering::Release);
    }
}

/// The key that conditions ask for, if they name all of its columns.
fn key_of(schema: &Schema, key: &[String], conditions: &[Condition]) -> Option<Vec<ArrayRef>> {
    let value = |name: &String| -> Option<ArrayRef> {
        let column = schema.index_of(name).ok()?;
        let mut asked = conditions
            .iter()
            .filter(|one| one.column == column && one.compare == Compare::Equal);
        let kind = ColumnType::of(schema.field(column))?;
        Some(match (&asked.next()?.constant, kind) {
            (Constant::Text(value), ColumnType::Text) => {
                Arc::new(StringArray::from(vec![value.as_str()]))
            }
            (Constant::Int(value), ColumnType::Int) => Arc::new(Int64Array::from(vec![*value])),
            (Constant::Bool(value), ColumnType::Bool) => Arc::new(BooleanArray::from(vec![*value])),
            (Constant::Time(value), ColumnType::Time) => {
                Arc::new(TimestampMicrosecondArray::from(vec![*value]).with_timezone("UTC"))
            }
            _ => return None,
        })
    };
    key.iter().map(value).collect()
}

impl fmt::Debug for KeptHot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptHot")
            .field("name", &self.name)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
