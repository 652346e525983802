//! The wide engine: rows of cells.

mod as_of;
mod cell;
mod cells;
mod group_sync;
mod json;
mod keeper;
mod kept;
mod kept_changes;
mod kept_rows;
mod key;
mod layout;
mod outside;
mod range_read;
mod read;
mod redo;
mod release;
mod removed;
mod row_cache;
mod scan;
mod settle;
mod store;
mod sweep;
mod write;
mod writeback;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::datatypes::{Schema, SchemaRef};
use busbar_event::{Class, Error};
use busbar_log::Clock;
use parking_lot::{Mutex, RwLock};

use crate::ChangeLog;
use crate::Newer;
use crate::change_log::KeptChanges;
use crate::columns;
use crate::limits::{WIDE_COUNT_EVERY, WIDE_COUNT_PAUSE, WIDE_COUNT_ROWS, WIDE_FAMILIES_EVER_MAX};
use crate::spec::{CellPlace, WideOptions, check_key_type};
use crate::table::{
    Applied, Capabilities, Found, LooksBack, Lookup, Rows, Scan, Stats, Table, Write,
};

pub use cell::CellValue;
pub use cells::{
    Cell, CellChange, CellFilter, CellScan, CellScanned, CellSelect, Increment, RowCells, RowChange,
};
use keeper::WideKeeper;
use kept::KeptCells;
use layout::{StoredLayout, WideLayout};
pub use outside::{
    CellBytes, CellFamily, CellGuard, CellMutation, CellRead, CellRow, CellRows, CellStore,
    FamilyRead,
};
use settle::Settling;
pub(crate) use store::WideStore;
use sweep::{LastSweep, Sweeper};

/// Rows of cells, on disk or in another system, by a row key that is made of the key's columns.
///
/// A cell has a row, a family, a qualifier, a time and a value. A family keeps the newest versions of each cell, for as
/// long as its time to live. As a [`Table`] it shows the newest version of each cell: a column `family.qualifier`, or
/// `qualifier` for the first family, and for a free family one JSON column with all cells that have no column of their own.
/// As cells it is read and changed by [`Wide::get`], [`Wide::scan_cells`], [`Wide::change`] and [`Wide::increment`].
///
/// * **Storage.** The cells of one write to one family of one row are one entry of a log-structured merge tree (see the
///   `read` module for its key and `cell` for its value). Nothing is read before it is written. What is replaced, deleted
///   or expired is left out when rows are read and removed in the background, while files are merged and by a sweep. In
///   another system each cell is one there (see the `kept_rows` module), and that system removes what nobody can see.
/// * **Order.** Of two cells the one with the later time is the newer, whichever was written first; with equal times it is
///   the one written last. A deletion hides what is older than it, also when it is written later.
/// * **Exactly once.** The rows of a write and its position are one commit, synced before the write returns. See the `kept`
///   module for how that is so in another system.
/// * **Reading** sees the table as it was when the reading began; it neither waits for writers nor holds them up. In another
///   system it sees each row as it was at one moment.
pub struct Wide {
    name: String,
    key: Vec<String>,
    keeper: WideKeeper,
    options: RwLock<WideOptions>,
    /// The columns that the table's file names; none if it names none.
    declared: RwLock<SchemaRef>,
    settling: Settling,
    layout: RwLock<Arc<WideLayout>>,
    writer: Mutex<Stamper>,
    counters: WideCounters,
    changes: KeptChanges,
    counted: Mutex<Option<RowCount>>,
    sweeper: Sweeper,
}

/// What writers number and stamp by; it never goes back.
#[derive(Clone, Copy, Debug)]
struct Stamper {
    /// The number of the last fragment.
    number: u64,
    /// The greatest time of writing so far, in microseconds since 1970.
    time: i64,
}

impl Stamper {
    /// Of a table that nobody has written to.
    fn new() -> Self {
        Self {
            number: 0,
            time: i64::MIN,
        }
    }

    /// As the last commit has left it.
    fn of(store: &WideStore, table: &str) -> Result<Self, Error> {
        Ok(match store.meta(&format!("s/{table}"))? {
            Some(kept) if kept.len() == 16 => Self {
                number: big_endian(&kept[..8]),
                time: big_endian(&kept[8..]) as i64,
            },
            _ => Self::new(),
        })
    }
}

#[derive(Default)]
struct WideCounters {
    writes: AtomicU64,
    put: AtomicU64,
    deleted: AtomicU64,
    rejected: AtomicU64,
    duplicates: AtomicU64,
}

#[derive(Clone, Copy)]
struct RowCount {
    rows: u64,
    writes: u64,
    at: Instant,
    took: Duration,
}

impl Wide {
    /// Opens the table in the node's own store, or makes it.
    pub(crate) fn open(
        name: &str,
        declared: &SchemaRef,
        key: &[String],
        options: WideOptions,
        store: Arc<WideStore>,
    ) -> Result<Self, Error> {
        let kept = store.meta(&format!("l/{name}"))?;
        let stored = match &kept {
            Some(text) => serde_json::from_slice(text).map_err(|cause| damaged(name, cause))?,
            None => StoredLayout::default(),
        };
        let keeper = WideKeeper::Own(Arc::clone(&store));
        let stored = agreed(name, stored, key, &options, &keeper)?;
        let writer = Stamper::of(&store, name)?;
        let sweeper = Sweeper::new(LastSweep::of(&store, name)?, writer.number);
        let mut table = Self::with(name, declared, key, options, stored, writer, keeper)?;
        table.sweeper = sweeper;
        Ok(table)
    }

    fn with(
        name: &str,
        declared: &SchemaRef,
        key: &[String],
        options: WideOptions,
        stored: StoredLayout,
        writer: Stamper,
        keeper: WideKeeper,
    ) -> Result<Self, Error> {
        let layout = WideLayout::new(name, stored, &options)?;
        let table = Self {
            name: name.to_owned(),
            key: key.to_vec(),
            options: RwLock::new(options),
            declared: RwLock::new(Arc::new(Schema::empty())),
            settling: Settling::default(),
            layout: RwLock::new(Arc::new(layout)),
            writer: Mutex::new(writer),
            counters: WideCounters::default(),
            changes: KeptChanges::default(),
            counted: Mutex::default(),
            sweeper: Sweeper::default(),
            keeper,
        };
        table.declare(declared)?;
        Ok(table)
    }

    /// Opens a table whose cells another system keeps. That is asked when the table is first used, so that a node starts while
    /// it is down.
    pub(crate) fn elsewhere(
        name: &str,
        declared: &SchemaRef,
        key: &[String],
        options: WideOptions,
        place: CellPlace,
        store: Arc<dyn CellStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let stored = StoredLayout {
            salted: options.salted,
            first: options.families[0].name.clone(),
            ..StoredLayout::default()
        };
        let writer = Stamper::new();
        let kept = KeptCells::new(name, place, store, clock);
        let keeper = WideKeeper::Other(Arc::new(kept));
        Self::with(name, declared, key, options, stored, writer, keeper)
    }

    /// Where the cells are, if another system keeps them.
    pub(crate) fn place(&self) -> Option<&CellPlace> {
        match &self.keeper {
            WideKeeper::Own(_) => None,
            WideKeeper::Other(kept) => Some(kept.place()),
        }
    }

    /// Take the columns that the table's file declares now.
    pub(crate) fn declare(&self, declared: &SchemaRef) -> Result<(), Error> {
        self.widen(declared, false)?;
        *self.declared.write() = Arc::clone(declared);
        self.note_ttls();
        Ok(())
    }

    fn is_declared(&self) -> bool {
        !self.declared.read().fields().is_empty()
    }

    /// Whether the table can go on with these options.
    pub(crate) fn check_options(&self, options: &WideOptions) -> Result<(), Error> {
        let stored = self.layout().stored.clone();
        let stored = match self.is_settled() {
            true => agreed(&self.name, stored, &self.key, options, &self.keeper)?,
            false => stored,
        };
        WideLayout::new(&self.name, stored, options).map(drop)
    }

    /// Goes on with these options.
    pub(crate) fn reconfigure(&self, options: WideOptions) -> Result<(), Error> {
        // A commit or a look at the other system that is under way goes by the options before.
        let _writer = self.writer.lock();
        let before = self.layout();
        if *self.options.read() == options {
            return Ok(());
        }
        let stored = before.stored.clone();
        if let WideKeeper::Other(kept) = &self.keeper {
            // What it has to do for them is asked of the other system when the table is used next.
            let layout = WideLayout::new(&self.name, stored, &options)?;
            kept.unsettle();
            *self.options.write() = options;
            *self.layout.write() = Arc::new(layout);
            return Ok(());
        }
        let stored = agreed(&self.name, stored, &self.key, &options, &self.keeper)?;
        let layout = WideLayout::new(&self.name, stored, &options)?;
        self.keep(&layout)?;
        *self.options.write() = options;
        *self.layout.write() = Arc::new(layout);
        self.note_ttls();
        Ok(())
    }

    fn note_ttls(&self) {
        let WideKeeper::Own(store) = &self.keeper else {
            return;
        };
        let mut ttls = [None; WIDE_FAMILIES_EVER_MAX];
        for family in &self.layout().families {
            ttls[usize::from(family.number)] = family.ttl_us;
        }
        store.set_ttls(&self.name, ttls);
    }

    fn layout(&self) -> Arc<WideLayout> {
        Arc::clone(&self.layout.read())
    }

    /// The schema of the table when rows of `schema` have come: without the columns of free families.
    fn merged(
        &self,
        layout: &WideLayout,
        schema: &Schema,
        declared: bool,
    ) -> Result<SchemaRef, Error> {
        // The column of a free family is there from the beginning, and takes what JSON takes.
        let free = |name: &str| {
            let place = layout.family_named(name);
            place.is_some_and(|place| layout.families[place].free.is_some())
        };
        let fields: Vec<_> = schema.fields().iter().cloned().collect();
        let (free, others): (Vec<_>, Vec<_>) = fields.into_iter().partition(|f| free(f.name()));
        let json = columns::canonical_schema(&Schema::new(free))?;
        for field in json.fields() {
            let kind = columns::type_of(field);
            if !columns::ColumnType::Json.takes(kind) {
                let json = columns::ColumnType::Json;
                return Err(columns::column_type_error(
                    &self.name,
                    field.name(),
                    json,
                    kind,
                ));
            }
        }
        let others = Schema::new(others);
        let base = layout.base();
        let merged = columns::merge_columns(&self.name, &self.key, &base, &others, declared)?;
        for column in &self.key {
            if let Some((_, field)) = merged.column_with_name(column) {
                check_key_type(&self.name, column, columns::type_of(field))?;
            }
        }
        Ok(merged)
    }

    fn widen(&self, schema: &Schema, declared: bool) -> Result<(), Error> {
        let _writer = self.writer.lock();
        let before = self.layout();
        let base = self.merged(&before, schema, declared)?;
        if base.fields() == before.base().fields() {
            return Ok(());
        }
        let is_settled = self.is_settled();
        if is_settled {
            scan::check_widened(self, &before, &base)?;
        }
        let stored = before.widened(&self.key, &base);
        let layout = WideLayout::new(&self.name, stored, &self.options.read())?;
        if is_settled {
            self.keep(&layout)?;
        }
        *self.layout.write() = Arc::new(layout);
        Ok(())
    }

    fn keep(&self, layout: &WideLayout) -> Result<(), Error> {
        let text =
            serde_json::to_vec(&layout.stored).map_err(|cause| damaged(&self.name, cause))?;
        if let WideKeeper::Other(kept) = &self.keeper {
            kept.set_names(&layout.stored.families);
        }
        let mut commit = self.keeper.begin(&self.name)?;
        commit.put_layout(&self.name, &text);
        match self.keeper.commit(commit, layout)? {
            Some(committed) => self.keeper.sync(committed),
            None => Ok(()),
        }
    }

    fn count(&self) -> Result<u64, Error> {
        self.settle()?;
        let writes = self.counters.writes.load(Ordering::Relaxed);
        let mut counted = self.counted.lock();
        if let Some(last) = *counted {
            let pause = WIDE_COUNT_EVERY.max(last.took * WIDE_COUNT_PAUSE);
            let is_fresh = last.at.elapsed() < pause && last.rows > WIDE_COUNT_ROWS;
            let expires = self.layout().families.iter().any(|f| f.ttl_us.is_some());
            if is_fresh || (last.writes == writes && !expires) {
                return Ok(last.rows);
            }
        }
        let began = Instant::now();
        let rows = scan::count(self)?;
        *counted = Some(RowCount {
            rows,
            writes,
            at: Instant::now(),
            took: began.elapsed(),
        });
        Ok(rows)
    }
}

/// What is stored, with a key and families that agree with the table's file.
fn agreed(
    name: &str,
    mut stored: StoredLayout,
    key: &[String],
    options: &WideOptions,
    keeper: &WideKeeper,
) -> Result<StoredLayout, Error> {
    let first = &options.families[0].name;
    let kept: Vec<&str> = stored.key.iter().map(|(name, _)| name.as_str()).collect();
    let is_new = kept.is_empty() && stored.first.is_empty();
    let same = (kept.is_empty() || kept == key)
        && stored.salted == options.salted
        && stored.first == *first;
    if !is_new && !same {
        if keeper.has_rows(name)? {
            let code = if kept.is_empty() || kept == key {
                "table.wide-changed"
            } else {
                "table.key-changed"
            };
            return Err(Error::new(Class::Configuration, code)
                .with("table", name)
                .with("kept", kept.join(", "))
                .with("given", key.join(", "))
                .with("file", keeper.shown()));
        }
        stored = StoredLayout::default();
    }
    stored.salted = options.salted;
    stored.first.clone_from(first);
    Ok(stored)
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn damaged(table: &str, cause: serde_json::Error) -> Error {
    Error::new(Class::Configuration, "table.wide-notes")
        .with("table", table)
        .caused_by(cause)
}

impl Table for Wide {
    fn name(&self) -> &str {
        &self.name
    }

    fn engine(&self) -> &'static str {
        "wide"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_durable: true,
            waits_for_disk: true,
            lookup_waits: true,
            can_be_held_up: self.place().is_some(),
        }
    }

    fn schema(&self) -> SchemaRef {
        self.settle_for_schema();
        Arc::clone(&self.layout().schema)
    }

    fn key(&self) -> &[String] {
        &self.key
    }

    fn families(&self) -> Vec<String> {
        let layout = self.layout();
        let families = layout.families.iter();
        families.map(|family| family.name.clone()).collect()
    }

    fn evolve(&self, schema: &Schema) -> Result<(), Error> {
        match self.settle() {
            // The columns are known; the rows wait until the other system answers.
            Err(error) if error.class() == Class::Transient && self.is_declared() => {}
            settled => settled?,
        }
        self.widen(schema, self.is_declared())
    }

    fn check(&self, schema: &Schema) -> Result<(), Error> {
        self.settle_for_schema();
        let layout = self.layout();
        self.merged(&layout, schema, self.is_declared()).map(drop)
    }

    fn write(&self, write: &Write<'_>) -> Result<Applied, Error> {
        self.settle()?;
        write::rows(self, write, None)
    }

    fn compares(&self) -> bool {
        self.place().is_none()
    }

    fn write_newer(&self, write: &Write<'_>, newer: &Newer) -> Result<Applied, Error> {
        if !self.compares() {
            let error = Error::new(Class::Configuration, "table.no-newer");
            return Err(error.with("table", &self.name));
        }
        write::rows(self, write, Some(newer))
    }

    fn changes(&self) -> Option<&dyn ChangeLog> {
        self.changes.are_kept().then_some(self as &dyn ChangeLog)
    }

    fn scan(&self, scan: &Scan) -> Result<Rows, Error> {
        self.settle()?;
        scan::rows(self, scan)
    }

    fn lookup(&self, lookup: &Lookup<'_>) -> Result<Found, Error> {
        self.settle()?;
        scan::find(self, lookup)
    }

    fn looks_back(&self) -> LooksBack {
        LooksBack::Versions
    }

    fn versions(&self, column: usize) -> u32 {
        self.layout().versions(column)
    }

    fn lookup_as_of(&self, lookup: &Lookup<'_>, times: &[i64]) -> Result<Found, Error> {
        self.settle()?;
        as_of::find(self, lookup, times)
    }

    fn rows(&self) -> Result<u64, Error> {
        self.count()
    }

    fn position(&self, producer: &str) -> Result<Option<u64>, Error> {
        self.settle()?;
        self.keeper.position(&self.name, producer)
    }

    fn stats(&self) -> Result<Stats, Error> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Stats {
            rows: self.rows()?,
            bytes: self.keeper.bytes(&self.name)?,
            put: load(&self.counters.put),
            deleted: load(&self.counters.deleted),
            rejected: load(&self.counters.rejected),
            duplicates: load(&self.counters.duplicates),
            ..Stats::default()
        })
    }
}

impl fmt::Debug for Wide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wide")
            .field("name", &self.name)
            .field("place", &self.keeper.shown())
            .finish_non_exhaustive()
    }
}
