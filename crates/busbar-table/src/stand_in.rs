//! A table in memory in place of one that is not opened.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array,
};
use arrow::compute::{cast, concat_batches, interleave};
use arrow::datatypes::{Schema, SchemaRef, TimestampMicrosecondType};
use arrow::row::{RowConverter, Rows as KeyRows, SortField};
use busbar_event::{Class, Error};
use busbar_log::Clock;
use parking_lot::Mutex;

use crate::Newer;
use crate::columns::{self, arrow_error, check_lookup};
use crate::hot::Hot;
use crate::relational::by_last_key_column;
use crate::spec::{Engine, HotSpec, TableSpec, WideOptions};
use crate::table::{
    Applied, Capabilities, Found, LooksBack, Lookup, Rows, Scan, Stats, Table, Write,
};

/// A table in memory that takes and finds what a table of a spec would, for checking and testing flows: no file is opened. It
/// holds few rows, which it reads all where the table itself would have an index.
pub struct StandIn {
    rows: Hot,
    kind: StandInKind,
    /// Whether the table itself compares rows.
    compares: bool,
    clock: Arc<dyn Clock>,
    /// What was written, where the table keeps versions; in order.
    written: Mutex<Vec<WrittenRows>>,
}

#[derive(Debug)]
enum StandInKind {
    Hot,
    Relational,
    Wide(WideOptions),
}

#[derive(Debug)]
struct WrittenRows {
    rows: RecordBatch,
    deletes: Option<BooleanArray>,
    /// The time of the cells of each row, in microseconds since 1970.
    times: Vec<i64>,
}

impl StandIn {
    /// In place of a table of this spec. `clock` says when rows are written.
    ///
    /// # Errors
    /// As of [`TableSpec::check`].
    pub fn new(name: &str, spec: &TableSpec, clock: Arc<dyn Clock>) -> Result<StandIn, Error> {
        spec.check(name)?;
        let engine = spec.engine(name)?;
        let compares = match &engine {
            Engine::Hot(_) | Engine::Relational => true,
            Engine::Wide(options) => options.place.is_none(),
            Engine::HotElsewhere(_) | Engine::Database(_) => false,
        };
        let kind = match engine {
            // Other systems have no past either.
            Engine::Hot(_) | Engine::HotElsewhere(_) | Engine::Database(_) => StandInKind::Hot,
            Engine::Relational => StandInKind::Relational,
            Engine::Wide(options) => StandInKind::Wide(options),
        };
        let spec = spec.in_memory();
        let schema = spec.schema(name)?;
        let options = HotSpec::default().options(name)?;
        let rows = Hot::new(name, &schema, &spec.key, options, Arc::clone(&clock), None)?;
        Ok(StandIn {
            rows,
            kind,
            compares,
            clock,
            written: Mutex::default(),
        })
    }

    fn key_places(&self, schema: &Schema) -> Vec<usize> {
        let key = self.rows.key().iter();
        key.filter_map(|name| schema.index_of(name).ok()).collect()
    }

    fn note(&self, write: &Write<'_>, options: &WideOptions) -> Result<(), Error> {
        let schema = self.schema();
        let key = self.key_places(&schema);
        let prepared = columns::typed_rows(self.name(), &schema, &key, write)?;
        let rows = prepared.to_record(&schema)?;
        let now = self.clock.now_micros();
        let stamps = options
            .time
            .as_ref()
            .and_then(|time| rows.column_by_name(time));
        let stamps = stamps.and_then(|array| array.as_primitive_opt::<TimestampMicrosecondType>());
        let time = |row: usize| match stamps {
            Some(stamps) if stamps.is_valid(row) && !prepared.is_delete(row) => stamps.value(row),
            _ => now,
        };
        self.written.lock().push(WrittenRows {
            times: (0..rows.num_rows()).map(time).collect(),
            deletes: prepared.deletes.clone(),
            rows,
        });
        Ok(())
    }

    fn no_past(&self) -> Error {
        Error::new(Class::Configuration, "table.no-past").with("table", self.name())
    }

    /// What a wide table would find. The column of a free family counts as one cell.
    fn versions_as_of(&self, lookup: &Lookup<'_>, times: &[i64]) -> Result<Found, Error> {
        let schema = self.schema();
        let key = self.key_places(&schema);
        check_lookup(self.name(), &schema, &key, lookup.keys)?;
        let converter = converter(&schema, &key)?;
        let asked = converter
            .convert_columns(lookup.keys)
            .map_err(arrow_error)?;
        let written = self.written.lock();
        let known = written.iter().map(|batch| {
            let columns = self.rows.key().iter();
            let columns: Vec<ArrayRef> = columns
                .filter_map(|name| batch.rows.column_by_name(name).cloned())
                .collect();
            converter.convert_columns(&columns).map_err(arrow_error)
        });
        let known = known.collect::<Result<Vec<KeyRows>, Error>>()?;
        let mut newest: Vec<(i64, usize, usize)> = Vec::new();
        for (number, batch) in written.iter().enumerate() {
            let times = batch.times.iter().enumerate();
            newest.extend(times.map(|(row, time)| (*time, number, row)));
        }
        newest.sort_unstable_by(|one, other| other.cmp(one));
        let history = |at: usize| -> Vec<(i64, usize, usize)> {
            let same = newest
                .iter()
                .filter(|(_, batch, row)| known[*batch].row(*row) == asked.row(at));
            let is_put = |(_, batch, row): &&(i64, usize, usize)| {
                let deletes = written[*batch].deletes.as_ref();
                deletes.is_none_or(|deletes| !deletes.value(*row))
            };
            same.take_while(is_put).copied().collect()
        };
        let version = |column: usize, history: &[(i64, usize, usize)], time: i64| {
            let name = schema.field(column).name();
            let cells = history.iter().filter_map(|(at, batch, row)| {
                let values = written[*batch].rows.column_by_name(name)?;
                Some((*at, *batch, *row, values.is_valid(*row)))
            });
            let kept = cells
                .take_while(|cell| cell.3)
                .take(self.versions(column) as usize);
            let mut kept = kept.filter(|cell| cell.0 <= time);
            kept.next().map(|(_, batch, row, _)| (batch, row))
        };
        let mut wanted: Vec<usize> = lookup.columns.to_vec();
        wanted.retain(|column| !key.contains(column));
        if wanted.is_empty() {
            wanted = (0..schema.fields().len())
                .filter(|column| !key.contains(column))
                .collect();
        }
        let mut places = Vec::with_capacity(times.len());
        let mut found = Vec::new();
        for (at, time) in times.iter().enumerate() {
            let is_whole = lookup.keys.iter().all(|column| column.is_valid(at));
            let history = if is_whole { history(at) } else { Vec::new() };
            let is_there = wanted
                .iter()
                .any(|column| version(*column, &history, *time).is_some());
            places.push(is_there.then_some(found.len() as u32));
            if is_there {
                found.push((at, history));
            }
        }
        let mut arrays = Vec::with_capacity(lookup.columns.len());
        for column in lookup.columns {
            let field = schema.field(*column);
            if let Some(place) = key.iter().position(|known| known == column) {
                let rows: Vec<(usize, usize)> = found.iter().map(|(at, _)| (0, *at)).collect();
                arrays.push(interleave(&[&lookup.keys[place]], &rows).map_err(arrow_error)?);
                continue;
            }
            let mut values = vec![new_null_array(field.data_type(), 1)];
            for batch in written.iter() {
                values.push(match batch.rows.column_by_name(field.name()) {
                    // The column may have become wider since.
                    Some(array) => cast(array, field.data_type()).map_err(arrow_error)?,
                    None => new_null_array(field.data_type(), batch.rows.num_rows()),
                });
            }
            let values: Vec<&dyn Array> = values.iter().map(|array| &**array).collect();
            let rows = found.iter().map(|(at, history)| {
                let version = version(*column, history, times[*at]);
                version.map_or((0, 0), |(batch, row)| (batch + 1, row))
            });
            let rows: Vec<(usize, usize)> = rows.collect();
            arrays.push(interleave(&values, &rows).map_err(arrow_error)?);
        }
        let projected = schema.project(lookup.columns).map_err(arrow_error)?;
        let options = RecordBatchOptions::new().with_row_count(Some(found.len()));
        let rows = RecordBatch::try_new_with_options(projected.into(), arrays, &options);
        Ok(Found {
            rows: rows.map_err(arrow_error)?,
            places: places.into(),
        })
    }

    /// What a relational table would find whose key ends in a time.
    fn last_key_column_as_of(&self, lookup: &Lookup<'_>, times: &[i64]) -> Result<Found, Error> {
        let schema = self.schema();
        let key = self.key_places(&schema);
        let Some((last, given)) = key.split_last() else {
            return Err(self.no_past());
        };
        check_lookup(self.name(), &schema, given, lookup.keys)?;
        let batches = self
            .rows
            .scan(&Scan::default())?
            .collect::<Result<Vec<_>, Error>>()?;
        let all = concat_batches(&schema, &batches).map_err(arrow_error)?;
        let converter = converter(&schema, given)?;
        let columns: Vec<ArrayRef> = given
            .iter()
            .map(|place| Arc::clone(all.column(*place)))
            .collect();
        let known = converter.convert_columns(&columns).map_err(arrow_error)?;
        let asked = converter
            .convert_columns(lookup.keys)
            .map_err(arrow_error)?;
        let since = all.column(*last).as_primitive::<TimestampMicrosecondType>();
        let place = |at: usize| {
            let is_whole = lookup.keys.iter().all(|column| column.is_valid(at));
            let rows = (0..all.num_rows()).filter(|row| {
                is_whole && known.row(*row) == asked.row(at) && since.value(*row) <= times[at]
            });
            rows.max_by_key(|row| since.value(*row))
                .map(|row| row as u32)
        };
        Ok(Found {
            places: (0..times.len()).map(place).collect(),
            rows: all.project(lookup.columns).map_err(arrow_error)?,
        })
    }
}

impl fmt::Debug for StandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandIn")
            .field("rows", &self.rows)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

fn converter(schema: &Schema, columns: &[usize]) -> Result<RowConverter, Error> {
    let fields = columns.iter();
    let fields = fields.map(|place| SortField::new(schema.field(*place).data_type().clone()));
    RowConverter::new(fields.collect()).map_err(arrow_error)
}

impl Table for StandIn {
    fn name(&self) -> &str {
        self.rows.name()
    }

    fn engine(&self) -> &'static str {
        match self.kind {
            StandInKind::Hot => "hot",
            StandInKind::Relational => "relational",
            StandInKind::Wide(_) => "wide",
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.rows.capabilities()
    }

    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn key(&self) -> &[String] {
        self.rows.key()
    }

    fn evolve(&self, schema: &Schema) -> Result<(), Error> {
        self.rows.evolve(schema)
    }

    fn check(&self, schema: &Schema) -> Result<(), Error> {
        self.rows.check(schema)
    }

    fn write(&self, write: &Write<'_>) -> Result<Applied, Error> {
        let applied = self.rows.write(write)?;
        if let StandInKind::Wide(options) = &self.kind
            && !applied.duplicate
        {
            self.note(write, options)?;
        }
        Ok(applied)
    }

    fn compares(&self) -> bool {
        self.compares
    }

    fn write_newer(&self, write: &Write<'_>, newer: &Newer) -> Result<Applied, Error> {
        if !self.compares {
            let error = Error::new(Class::Configuration, "table.no-newer");
            return Err(error.with("table", self.name()));
        }
        self.rows.write_newer(write, newer)
    }

    fn scan(&self, scan: &Scan) -> Result<Rows, Error> {
        self.rows.scan(scan)
    }

    fn lookup(&self, lookup: &Lookup<'_>) -> Result<Found, Error> {
        self.rows.lookup(lookup)
    }

    fn looks_back(&self) -> LooksBack {
        match self.kind {
            StandInKind::Hot => LooksBack::No,
            StandInKind::Relational => {
                let schema = self.schema();
                by_last_key_column(&schema, &self.key_places(&schema))
            }
            StandInKind::Wide(_) => LooksBack::Versions,
        }
    }

    fn versions(&self, column: usize) -> u32 {
        let StandInKind::Wide(options) = &self.kind else {
            return 1;
        };
        let schema = self.schema();
        let name = schema.field(column).name();
        if self.rows.key().contains(name) {
            return u32::MAX;
        }
        let families = &options.families;
        let free = families
            .iter()
            .find(|family| family.free && family.name == *name);
        let named = name.split_once('.');
        let named =
            named.and_then(|(family, _)| families.iter().find(|known| known.name == family));
        free.or(named).unwrap_or(&families[0]).versions
    }

    fn lookup_as_of(&self, lookup: &Lookup<'_>, times: &[i64]) -> Result<Found, Error> {
        match self.looks_back() {
            LooksBack::No => Err(self.no_past()),
            LooksBack::Versions => self.versions_as_of(lookup, times),
            LooksBack::LastKeyColumn => self.last_key_column_as_of(lookup, times),
        }
    }

    fn rows(&self) -> Result<u64, Error> {
        self.rows.rows()
    }

    fn position(&self, producer: &str) -> Result<Option<u64>, Error> {
        self.rows.position(producer)
    }

    fn stats(&self) -> Result<Stats, Error> {
        self.rows.stats()
    }
}
