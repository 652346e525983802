//! How rows are written to a table that is kept in another system: through a sink of the connector, which keeps the position
//! of the producer in the same transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use busbar_event::{BatchBuilder, Class, Error};
use busbar_table::{Applied, Rejected, TypedRows, Write, typed_rows};
use parking_lot::Mutex;
use serde_json::json;

use super::kept::{KeptCounters, KeptTable};
use super::open::AskedDatabase;
use crate::limits::{TABLE_POSITIONS_MAX, TABLE_SINKS_MAX};
use crate::{Delivery, Sink, Work, Written};

/// The column that says what is done with a row. No table has one that begins so.
pub(super) const CHANGE: &str = "_busbar_change";

/// A table whose rows are written by sinks.
pub(super) trait SinkTable {
    /// Its name.
    fn name(&self) -> &str;

    /// Its key.
    fn key(&self) -> &[String];

    fn writer(&self) -> &Mutex<KeptWriter>;

    fn counters(&self) -> &KeptCounters;

    /// Opens a sink for rows with these columns. With `changes` one of them is [`CHANGE`].
    fn sink(
        &self,
        place: &SinkPlace<'_>,
        changes: bool,
        schema: SchemaRef,
    ) -> Work<'static, Result<Box<dyn Sink>, Error>>;

    /// The table may be another one now.
    fn forget(&self);
}

/// Where a table is, and what columns it has there.
pub(super) struct SinkPlace<'a> {
    pub open: &'a Arc<AskedDatabase>,
    pub schema: &'a SchemaRef,
}

/// What writes to a table.
#[derive(Default)]
pub(super) struct KeptWriter {
    /// Where the sinks lead to.
    open: Option<Arc<AskedDatabase>>,
    /// A sink takes rows of one schema; those used last come last.
    sinks: Vec<(SchemaRef, Box<dyn Sink>)>,
    /// The positions that producers are known to have.
    positions: HashMap<String, u64>,
}

impl KeptWriter {
    /// Forgets everything if the connection leads elsewhere now.
    fn lead_to(&mut self, open: &Arc<AskedDatabase>) {
        if !self
            .open
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, open))
        {
            *self = KeptWriter {
                open: Some(Arc::clone(open)),
                ..KeptWriter::default()
            };
        }
    }

    fn take(&mut self, schema: &SchemaRef) -> Option<Box<dyn Sink>> {
        let at = self.sinks.iter().position(|(known, _)| known == schema)?;
        Some(self.sinks.remove(at).1)
    }

    fn give_back(&mut self, schema: SchemaRef, sink: Box<dyn Sink>) {
        if self.sinks.len() >= TABLE_SINKS_MAX {
            self.sinks.remove(0);
        }
        self.sinks.push((schema, sink));
    }

    fn note(&mut self, producer: &str, position: u64) {
        if self.positions.len() >= TABLE_POSITIONS_MAX {
            self.positions.clear();
        }
        self.positions.insert(producer.to_owned(), position);
    }
}

/// Writes rows to a table: see [`busbar_table::Table::write`].
pub(super) fn put(
    table: &dyn SinkTable,
    place: &SinkPlace<'_>,
    write: &Write<'_>,
) -> Result<Applied, Error> {
    let at = |name: &String| {
        let found = place.schema.index_of(name);
        found.map_err(|_| key_missing(table.name(), name))
    };
    let key = table.key().iter().map(at);
    let key = key.collect::<Result<Vec<usize>, Error>>()?;
    let mut typed = typed_rows(table.name(), place.schema, &key, write)?;
    let mut applied = Applied {
        rejected: std::mem::take(&mut typed.rejected),
        ..Applied::default()
    };
    let (rows, changes) = delivered(place.schema, &typed)?;
    let mut writer = table.writer().lock();
    writer.lead_to(place.open);
    if let Some(at) = write.position {
        let known = position_of(table, &mut writer, place, &at.producer)?;
        applied.duplicate = known.is_some_and(|known| known >= at.position);
    }
    let position = write.position;
    let delivery = Delivery {
        events: BatchBuilder::new().finish(),
        producer: position.map_or_else(|| "".into(), |at| Arc::clone(&at.producer)),
        position: position.map_or(0, |at| at.position),
        first: 0,
        sources: None,
        rows,
    };
    let written = deliver(table, &mut writer, place, changes, delivery);
    if let Some(at) = position {
        match &written {
            Ok(_) if applied.duplicate => {}
            Ok(_) => writer.note(&at.producer, at.position),
            // It may have been kept all the same.
            Err(_) => drop(writer.positions.remove(&*at.producer)),
        }
    }
    drop(writer);
    let written = written.inspect_err(|error| {
        if error.class() != Class::Transient {
            table.forget();
        }
    })?;
    if applied.duplicate {
        // The sink has written nothing, and has named the rows that the database refused before.
        table.counters().duplicates.fetch_add(1, Ordering::Relaxed);
        name_refused(write.rows.num_rows(), &mut applied, written);
        return Ok(applied);
    }
    let refused: HashSet<usize> = written.rejected.iter().map(|(row, _)| *row).collect();
    let kept = (0..typed.rows).filter(|row| !refused.contains(row));
    let deleted = kept.clone().filter(|row| typed.is_delete(*row)).count();
    applied.put = kept.count() - deleted;
    applied.deleted = deleted;
    applied.overwritten = overwritten(&typed, &key, &refused)?;
    name_refused(write.rows.num_rows(), &mut applied, written);
    let counters = table.counters();
    let counts = [
        (&counters.put, applied.put),
        (&counters.deleted, applied.deleted),
        (&counters.rejected, applied.rejected.len()),
    ];
    for (counter, count) in counts {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
    Ok(applied)
}

/// The last position of a producer.
pub(super) fn known_position(
    table: &dyn SinkTable,
    place: &SinkPlace<'_>,
    producer: &str,
) -> Result<Option<u64>, Error> {
    let mut writer = table.writer().lock();
    writer.lead_to(place.open);
    // Another process may have written since.
    writer.positions.remove(producer);
    position_of(table, &mut writer, place, producer)
}

fn position_of(
    table: &dyn SinkTable,
    writer: &mut KeptWriter,
    place: &SinkPlace<'_>,
    producer: &str,
) -> Result<Option<u64>, Error> {
    if let Some(known) = writer.positions.get(producer) {
        return Ok(Some(*known));
    }
    let (schema, sink) = match writer.sinks.pop() {
        Some((schema, sink)) => (schema, Some(sink)),
        None => (Arc::clone(place.schema), None),
    };
    let opened = table.sink(place, false, Arc::clone(&schema));
    let asked = producer.to_owned();
    let (sink, position) = place.open.wait(async move {
        let mut sink = match sink {
            Some(sink) => sink,
            None => opened.await?,
        };
        let position = sink.position(&asked).await?;
        Ok((sink, position))
    })?;
    writer.give_back(schema, sink);
    if let Some(position) = position {
        writer.note(producer, position);
    }
    Ok(position)
}

fn deliver(
    table: &dyn SinkTable,
    writer: &mut KeptWriter,
    place: &SinkPlace<'_>,
    changes: bool,
    delivery: Delivery,
) -> Result<Written, Error> {
    let schema = delivery.rows.schema();
    let sink = writer.take(&schema);
    let opened = table.sink(place, changes, Arc::clone(&schema));
    let (sink, written) = place.open.wait(async move {
        let mut sink = match sink {
            Some(sink) => sink,
            None => opened.await?,
        };
        let written = sink.write(&delivery).await?;
        Ok((sink, written))
    })?;
    writer.give_back(schema, sink);
    Ok(written)
}

impl KeptTable {
    /// What the connection's `write` option would say.
    pub(super) fn write_options(&self, changes: bool) -> serde_json::Value {
        let mode = match self.key.is_empty() {
            true => "insert",
            false => "upsert",
        };
        let mut options = json!({
            "table": self.place.path.join("."),
            "mode": mode,
            "key": self.key,
            "producer": format!("{}/tables/{}", self.place.connection, self.name),
        });
        if changes {
            options["change"] = CHANGE.into();
        }
        options
    }
}

/// The rows as a sink takes them, and whether one of their columns says which are deleted.
fn delivered(schema: &SchemaRef, typed: &TypedRows) -> Result<(RecordBatch, bool), Error> {
    let rows = typed.to_record(schema)?;
    if typed.deleted() == 0 {
        return Ok((rows, false));
    }
    let changes = (0..typed.rows).map(|row| match typed.is_delete(row) {
        true => "delete",
        false => "upsert",
    });
    let changes: ArrayRef = Arc::new(StringArray::from_iter_values(changes));
    let mut fields: Vec<Arc<Field>> = rows.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(CHANGE, DataType::Utf8, false)));
    let mut columns = rows.columns().to_vec();
    columns.push(changes);
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns);
    Ok((rows.map_err(of_arrow)?, true))
}

/// Adds the rows that the database refuses, by their place in the write.
fn name_refused(rows: usize, applied: &mut Applied, written: Written) {
    if written.rejected.is_empty() {
        return;
    }
    let gone: HashSet<usize> = applied.rejected.iter().map(|one| one.row).collect();
    let places: Vec<usize> = (0..rows).filter(|row| !gone.contains(row)).collect();
    for (row, cause) in written.rejected {
        if let Some(row) = places.get(row).copied() {
            applied.rejected.push(Rejected { row, cause });
        }
    }
    applied.rejected.sort_by_key(|one| one.row);
}

pub(super) fn key_missing(table: &str, column: &str) -> Error {
    Error::new(Class::Configuration, "table.key-missing")
        .with("table", table)
        .with("column", column)
}

/// Rows put whose key a later row puts again, but for those that are deleted before it.
fn overwritten(typed: &TypedRows, key: &[usize], refused: &HashSet<usize>) -> Result<usize, Error> {
    let columns: Option<Vec<ArrayRef>> = key
        .iter()
        .map(|place| typed.column(*place).map(Arc::clone))
        .collect();
    let Some(columns) = columns.filter(|columns| !columns.is_empty()) else {
        return Ok(0);
    };
    let fields = columns
        .iter()
        .map(|column| SortField::new(column.data_type().clone()));
    let converter = RowConverter::new(fields.collect()).map_err(of_arrow)?;
    let keys = converter.convert_columns(&columns).map_err(of_arrow)?;
    let mut later = HashSet::new();
    let mut count = 0;
    for row in (0..typed.rows).rev().filter(|row| !refused.contains(row)) {
        if typed.is_delete(row) {
            later.remove(&keys.row(row));
        } else if !later.insert(keys.row(row)) {
            count += 1;
        }
    }
    Ok(count)
}

fn of_arrow(cause: arrow::error::ArrowError) -> Error {
    Error::new(Class::Permanent, "database.rows").caused_by(cause)
}
