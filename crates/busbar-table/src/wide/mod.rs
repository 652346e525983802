//! The wide engine: rows of cells on disk.

mod as_of;
mod cell;
mod cells;
mod json;
mod key;
mod layout;
mod read;
mod scan;
mod store;
mod sweep;
mod write;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arrow::datatypes::{Schema, SchemaRef};
use busbar_event::{Class, Error};
use parking_lot::{Mutex, RwLock};

use crate::columns;
use crate::limits::{WIDE_COUNT_EVERY, WIDE_COUNT_ROWS, WIDE_FAMILIES_EVER_MAX};
use crate::spec::{WideOptions, check_key_type};
use crate::table::{
    Applied, Capabilities, Found, LooksBack, Lookup, Rows, Scan, Stats, Table, Write,
};

pub use cell::CellValue;
pub use cells::{
    Cell, CellChange, CellFilter, CellScan, CellScanned, CellSelect, Increment, RowCells, RowChange,
};
use layout::{StoredLayout, WideLayout};
pub(crate) use store::WideStore;
use sweep::Sweeper;

/// Rows of cells on disk, by a row key that is made of the key's columns.
///
/// A cell has a row, a family, a qualifier, a time and a value. A family keeps the newest versions of each cell, for as
/// long as its time to live. As a [`Table`] it shows the newest version of each cell: a column `family.qualifier`, or
/// `qualifier` for the first family, and for a free family one JSON column with all cells that have no column of their own.
/// As cells it is read and changed by [`Wide::get`], [`Wide::scan_cells`], [`Wide::change`] and [`Wide::increment`].
///
/// * **Storage.** The cells of one write to one family of one row are one entry of a log-structured merge tree (see the
///   `read` module for its key and `cell` for its value). NoCells is read before it is written. What is replaced, deleted
///   or expired is left out when rows are read and removed in the background, while files are merged and by a sweep.
/// * **Order.** Of two cells the one with the later time is the newer, whichever was written first; with equal times it is
///   the one written last. A deletion hides what is older than it, also when it is written later.
/// * **Exactly once.** The rows of a write and its position are one commit, synced before the write returns.
/// * **RowScan** sees the table as it was when the reading began; it neither waits for writers nor holds them up.
pub struct Wide {
    name: String,
    key: Vec<String>,
    store: Arc<WideStore>,
    options: RwLock<WideOptions>,
    /// Whether the table's file names its columns.
    declared: RwLock<bool>,
    layout: RwLock<Arc<WideLayout>>,
    writer: Mutex<Stamper>,
    counters: WideCounters,
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
}

impl Wide {
    /// Opens the table, or makes it.
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
        let stored = agreed(name, stored, key, &options, &store)?;
        let writer = match store.meta(&format!("s/{name}"))? {
            Some(kept) if kept.len() == 16 => Stamper {
                number: big_endian(&kept[..8]),
                time: big_endian(&kept[8..]) as i64,
            },
            _ => Stamper {
                number: 0,
                time: i64::MIN,
            },
        };
        let layout = WideLayout::new(name, stored, &options)?;
        let table = Self {
            name: name.to_owned(),
            key: key.to_vec(),
            options: RwLock::new(options),
            declared: RwLock::new(false),
            layout: RwLock::new(Arc::new(layout)),
            writer: Mutex::new(writer),
            counters: WideCounters::default(),
            counted: Mutex::default(),
            sweeper: Sweeper::default(),
            store,
        };
        table.declare(declared)?;
        Ok(table)
    }

    /// Take the columns that the table's file declares now.
    pub(crate) fn declare(&self, declared: &SchemaRef) -> Result<(), Error> {
        self.widen(declared, false)?;
        *self.declared.write() = !declared.fields().is_empty();
        self.note_ttls();
        Ok(())
    }

    /// Whether the table can go on with these options.
    pub(crate) fn check_options(&self, options: &WideOptions) -> Result<(), Error> {
        let stored = self.layout().stored.clone();
        let stored = agreed(&self.name, stored, &self.key, options, &self.store)?;
        WideLayout::new(&self.name, stored, options).map(drop)
    }

    /// Goes on with these options.
    pub(crate) fn reconfigure(&self, options: WideOptions) -> Result<(), Error> {
        let before = self.layout();
        if *self.options.read() == options {
            return Ok(());
        }
        let stored = agreed(
            &self.name,
            before.stored.clone(),
            &self.key,
            &options,
            &self.store,
        )?;
        let layout = WideLayout::new(&self.name, stored, &options)?;
        self.keep(&layout)?;
        *self.options.write() = options;
        *self.layout.write() = Arc::new(layout);
        self.note_ttls();
        Ok(())
    }

    fn note_ttls(&self) {
        let mut ttls = [None; WIDE_FAMILIES_EVER_MAX];
        for family in &self.layout().families {
            ttls[usize::from(family.number)] = family.ttl_us;
        }
        self.store.set_ttls(&self.name, ttls);
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
        scan::check_widened(self, &before, &base)?;
        let stored = before.widened(&self.key, &base);
        let layout = WideLayout::new(&self.name, stored, &self.options.read())?;
        self.keep(&layout)?;
        *self.layout.write() = Arc::new(layout);
        Ok(())
    }

    fn keep(&self, layout: &WideLayout) -> Result<(), Error> {
        let text =
            serde_json::to_vec(&layout.stored).map_err(|cause| damaged(&self.name, cause))?;
        let mut commit = self.store.begin(&self.name)?;
        commit.put_meta(&format!("l/{}", self.name), &text);
        self.store.commit(commit)?;
        self.store.sync()
    }

    fn position_key(&self, producer: &str) -> String {
        format!("p/{}/{producer}", self.name)
    }

    fn count(&self) -> Result<u64, Error> {
        let writes = self.counters.writes.load(Ordering::Relaxed);
        let mut counted = self.counted.lock();
        if let Some(last) = *counted {
            let is_fresh = last.at.elapsed() < WIDE_COUNT_EVERY && last.rows > WIDE_COUNT_ROWS;
            let expires = self.layout().families.iter().any(|f| f.ttl_us.is_some());
            if is_fresh || (last.writes == writes && !expires) {
                return Ok(last.rows);
            }
        }
        let rows = scan::count(self)?;
        *counted = Some(RowCount {
            rows,
            writes,
            at: Instant::now(),
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
    store: &WideStore,
) -> Result<StoredLayout, Error> {
    let first = &options.families[0].name;
    let kept: Vec<&str> = stored.key.iter().map(|(name, _)| name.as_str()).collect();
    let is_new = kept.is_empty() && stored.first.is_empty();
    let same = (kept.is_empty() || kept == key)
        && stored.salted == options.salted
        && stored.first == *first;
    if !is_new && !same {
        if store.picture(name)?.range(..).next().is_some() {
            let code = if kept.is_empty() || kept == key {
                "table.wide-changed"
            } else {
                "table.key-changed"
            };
            return Err(Error::new(Class::Configuration, code)
                .with("table", name)
                .with("kept", kept.join(", "))
                .with("given", key.join(", "))
                .with("file", store.folder().display()));
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
            can_be_held_up: false,
        }
    }

    fn schema(&self) -> SchemaRef {
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
        let declared = *self.declared.read();
        self.widen(schema, declared)
    }

    fn check(&self, schema: &Schema) -> Result<(), Error> {
        let layout = self.layout();
        self.merged(&layout, schema, *self.declared.read())
            .map(drop)
    }

    fn write(&self, write: &Write<'_>) -> Result<Applied, Error> {
        write::rows(self, write)
    }

    fn scan(&self, scan: &Scan) -> Result<Rows, Error> {
        scan::rows(self, scan)
    }

    fn lookup(&self, lookup: &Lookup<'_>) -> Result<Found, Error> {
        scan::find(self, lookup)
    }

    fn looks_back(&self) -> LooksBack {
        LooksBack::Versions
    }

    fn versions(&self, column: usize) -> u32 {
        self.layout().versions(column)
    }

    fn lookup_as_of(&self, lookup: &Lookup<'_>, times: &[i64]) -> Result<Found, Error> {
        as_of::find(self, lookup, times)
    }

    fn rows(&self) -> Result<u64, Error> {
        self.count()
    }

    fn position(&self, producer: &str) -> Result<Option<u64>, Error> {
        let kept = self.store.meta(&self.position_key(producer))?;
        Ok(kept.map(|bytes| big_endian(&bytes)))
    }

    fn stats(&self) -> Result<Stats, Error> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Stats {
            rows: self.rows()?,
            bytes: self.store.bytes(&self.name)?,
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
            .field("folder", &self.store.folder())
            .finish_non_exhaustive()
    }
}
