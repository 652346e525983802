//! The hot engine: rows in memory.

mod chunk;
mod state;

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Schema, SchemaRef};
use busbar_event::{Class, Error};
use busbar_log::Clock;
use parking_lot::RwLock;

use crate::columns::{self, ColumnType, Prepared};
use crate::spec::{HotOptions, check_key_type};
use crate::table::{Applied, Compare, Constant, Rows, Scan, Stats, Table, Write};
use state::{State, chunk_batch};

/// Rows in memory, the last one of each key; gone when the process ends.
///
/// * **Time to live** counts from the moment a row was last written, by the clock of the machine.
///   Expired rows are removed by the next call of any kind, so none is ever seen.
/// * **Bounds.** A table has a bound of rows and one of bytes. A write that would pass one is
///   refused as a whole with a transient error, or, with `when_full: evict`, makes room: the rows
///   that were written longest ago go, and are counted in [`Stats::evicted`]. A single row always
///   has room.
/// * **Reading** takes a picture of the table under the lock in some microseconds per million rows
///   and builds the columns afterwards; a writer that meets a reader copies a chunk, not the table.
/// * **Positions** live as long as the rows. After a restart both are gone, and a flow fills the
///   table again from wherever it resumes.
pub struct Hot {
    name: String,
    key: Vec<String>,
    declared: bool,
    clock: Arc<dyn Clock>,
    state: RwLock<State>,
}

impl Hot {
    pub(crate) fn new(
        name: &str,
        schema: &SchemaRef,
        key: &[String],
        options: HotOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let table = Self {
            name: name.to_owned(),
            key: key.to_vec(),
            declared: !schema.fields().is_empty(),
            clock,
            state: RwLock::new(State::new(options, Arc::clone(schema))),
        };
        if table.declared {
            let mut state = table.state.write();
            state.key = table.key_columns(schema)?;
        }
        Ok(table)
    }

    /// Take new bounds; rows stay.
    pub(crate) fn reconfigure(&self, options: HotOptions) {
        let mut state = self.state.write();
        state.options = options;
        state.expire(self.clock.now_micros());
    }

    fn key_columns(&self, schema: &SchemaRef) -> Result<Vec<usize>, Error> {
        let find = |column: &String| match schema.column_with_name(column) {
            Some((place, field)) => {
                check_key_type(&self.name, column, columns::type_of(field))?;
                Ok(place)
            }
            None => Err(Error::new(Class::Configuration, "table.key-missing")
                .with("table", &self.name)
                .with("column", column)),
        };
        self.key.iter().map(find).collect()
    }

    /// Bring rows into the table's types, outside the lock.
    fn prepare(&self, write: &Write<'_>) -> Result<(SchemaRef, Prepared), Error> {
        let (schema, key) = {
            let state = self.state.read();
            (Arc::clone(&state.schema), state.key.clone())
        };
        if key.len() < self.key.len() {
            return Err(Error::new(Class::Configuration, "table.key-missing")
                .with("table", &self.name)
                .with("column", &self.key[0]));
        }
        let prepared = columns::prepare(&self.name, &schema, &key, write)?;
        Ok((schema, prepared))
    }

    fn point(&self, state: &State, scan: &Scan) -> Option<Point> {
        let [column] = state.key[..] else {
            return None;
        };
        let fits = |c: &&crate::Condition| c.column == column && c.compare == Compare::Equal;
        let condition = scan.conditions.iter().find(fits)?;
        let kind = columns::type_of(state.schema.field(column));
        let key: ArrayRef = match (&condition.constant, kind) {
            (Constant::Text(value), ColumnType::Text) => {
                Arc::new(StringArray::from(vec![value.as_str()]))
            }
            (Constant::Int(value), ColumnType::Int) => Arc::new(Int64Array::from(vec![*value])),
            (Constant::Bool(value), ColumnType::Bool) => Arc::new(BooleanArray::from(vec![*value])),
            (Constant::Time(value), ColumnType::Time) => {
                Arc::new(TimestampMicrosecondArray::from(vec![*value]).with_timezone("UTC"))
            }
            _ => return None,
        };
        let keys = state.encode_keys(&[key]).ok()?;
        Some(Point(state.lookup(keys.row(0).data())))
    }
}

/// The one row with a key, or none.
struct Point(Option<(Arc<chunk::Chunk>, usize)>);

impl Table for Hot {
    fn name(&self) -> &str {
        &self.name
    }

    fn engine(&self) -> &'static str {
        "hot"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.state.read().schema)
    }

    fn key(&self) -> &[String] {
        &self.key
    }

    fn evolve(&self, schema: &Schema) -> Result<(), Error> {
        let mut state = self.state.write();
        let merged = columns::merge(&self.name, &state.schema, schema, self.declared)?;
        let key = self.key_columns(&merged)?;
        state.widen(merged);
        state.key = key;
        Ok(())
    }

    fn check(&self, schema: &Schema) -> Result<(), Error> {
        let state = self.state.read();
        let merged = columns::merge(&self.name, &state.schema, schema, self.declared)?;
        self.key_columns(&merged).map(drop)
    }

    fn write(&self, write: &Write<'_>) -> Result<Applied, Error> {
        let (mut schema, mut rows) = self.prepare(write)?;
        let mut state = self.state.write();
        while !Arc::ptr_eq(&schema, &state.schema) {
            // Columns came while the rows were prepared.
            drop(state);
            (schema, rows) = self.prepare(write)?;
            state = self.state.write();
        }
        let now = self.clock.now_micros();
        state.expire(now);
        let mut applied = Applied {
            rejected: std::mem::take(&mut rows.rejected),
            ..Applied::default()
        };
        if let Some(at) = write.position {
            let known = state.positions.get(&at.producer);
            if known.is_some_and(|known| at.position <= *known) {
                state.stats.duplicates += 1;
                applied.duplicate = true;
                return Ok(applied);
            }
        }
        let keys = match &state.key[..] {
            [] => None,
            columns => {
                let columns: Vec<ArrayRef> = columns
                    .iter()
                    .filter_map(|column| rows.column(*column).cloned())
                    .collect();
                Some(state.encode_keys(&columns)?)
            }
        };
        state.check_room(&rows, keys.as_ref())?;
        if !state.chunks_can_take(&rows) {
            return Err(Error::new(Class::Permanent, "table.rows-large").with("table", &self.name));
        }
        let done = state.put(&rows, keys.as_ref(), now);
        if let Some(at) = write.position {
            state
                .positions
                .insert(Arc::clone(&at.producer), at.position);
        }
        state.stats.put += done.put as u64;
        state.stats.deleted += done.deleted as u64;
        state.stats.rejected += applied.rejected.len() as u64;
        applied.put = done.put;
        applied.deleted = done.deleted;
        Ok(applied)
    }

    fn scan(&self, scan: &Scan) -> Result<Rows, Error> {
        let (schema, chunks, point) = {
            let mut state = self.state.write();
            state.expire(self.clock.now_micros());
            match self.point(&state, scan) {
                Some(point) => (Arc::clone(&state.schema), Vec::new(), Some(point)),
                None => (Arc::clone(&state.schema), state.snapshot(), None),
            }
        };
        let all = || (0..schema.fields().len()).collect();
        let columns: Vec<usize> = scan.projection.clone().unwrap_or_else(all);
        let projected = schema.project(&columns).map_err(columns::arrow_error)?;
        let projected = Arc::new(projected);
        if let Some(Point(found)) = point {
            let one = found.map(|(chunk, place)| one_row(&chunk, place, &projected, &columns));
            return Ok(Rows::new(projected, one.into_iter()));
        }
        // A limit is followed only where no condition could drop rows afterwards.
        let mut left = match scan.limit {
            Some(limit) if scan.conditions.is_empty() => limit,
            _ => usize::MAX,
        };
        let batch_schema = Arc::clone(&projected);
        let batches = chunks.into_iter().map_while(move |chunk| {
            if left == 0 {
                return None;
            }
            left = left.saturating_sub(chunk.live_rows());
            Some(chunk_batch(&chunk, &batch_schema, &columns))
        });
        Ok(Rows::new(projected, batches))
    }

    fn rows(&self) -> Result<u64, Error> {
        let mut state = self.state.write();
        state.expire(self.clock.now_micros());
        Ok(state.stats.rows)
    }

    fn position(&self, producer: &str) -> Result<Option<u64>, Error> {
        Ok(self.state.read().positions.get(producer).copied())
    }

    fn stats(&self) -> Result<Stats, Error> {
        let mut state = self.state.write();
        state.expire(self.clock.now_micros());
        Ok(state.stats)
    }
}

fn one_row(
    chunk: &chunk::Chunk,
    place: usize,
    schema: &SchemaRef,
    columns: &[usize],
) -> Result<arrow::array::RecordBatch, Error> {
    if columns.is_empty() {
        return crate::columns::rows_without_columns(schema, 1);
    }
    let arrays = columns.iter().map(|c| chunk.array(*c).slice(place, 1));
    arrow::array::RecordBatch::try_new(Arc::clone(schema), arrays.collect())
        .map_err(crate::columns::arrow_error)
}

impl fmt::Debug for Hot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hot")
            .field("name", &self.name)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
