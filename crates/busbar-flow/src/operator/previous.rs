//! `previous`: adds columns of the event before, of the same key.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use busbar_catalog::PreviousSpec;
use busbar_event::{Class, Error};
use futures::future::{BoxFuture, FutureExt, ready};

use super::keyed::{KeyExpressions, KeyReader, KeyedState, Reader, Stored, write_bytes};
use super::rows::misfit;
use super::{
    Changes, Operator, Output, Rows, StateReader, Stateful, Step, StepContext, Wrong, misses_times,
};

/// Compiles keys and columns.
pub(super) fn compile(
    spec: &PreviousSpec,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let mut remembered = Vec::new();
    let mut fields: Vec<FieldRef> = context.schema.fields().iter().cloned().collect();
    for (i, column) in spec.columns.iter().enumerate() {
        let place = super::column_place(context.schema, column)
            .map_err(|wrong| wrong.at(i).at("columns"))?;
        let field = context.schema.field(place);
        let name = format!("previous_{}", field.name());
        if fields.iter().any(|known| *known.name() == name) {
            let error = Error::new(Class::Configuration, "flow.column-twice").with("column", name);
            return Err(Wrong::new(error).at(i).at("columns"));
        }
        fields.push(Arc::new(Field::new(name, plain(field.data_type()), true)));
        remembered.push(place);
    }
    let keys = KeyExpressions::compile(context.schema, &spec.by)?;
    Ok(Arc::new(Previous {
        names: keys.names(context.schema),
        keys,
        input: Arc::clone(context.schema),
        remembered,
        schema: Arc::new(Schema::new(fields)),
        keep: spec.keep.map(|span| span.as_micros()),
        name: spec.name.clone(),
    }))
}

struct Previous {
    keys: KeyExpressions,
    names: Vec<String>,
    input: SchemaRef,
    remembered: Vec<usize>,
    schema: SchemaRef,
    keep: Option<i64>,
    name: Option<String>,
}

impl Step for Previous {
    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }

    fn columns(&self) -> Vec<usize> {
        (0..self.input.fields().len()).collect()
    }

    fn stateful(&self) -> Option<Stateful> {
        let remembered = self.remembered.iter().map(|place| self.input.field(*place));
        let remembered: Vec<_> = remembered
            .map(|field| (field.name(), field.data_type()))
            .collect();
        Some(Stateful {
            name: self.name.clone(),
            keys: self.names.clone(),
            meaning: format!("previous {:?} {remembered:?}", self.keys.texts()),
            divided: None,
        })
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let fields = self
            .remembered
            .iter()
            .map(|place| plain(self.input.field(*place).data_type()));
        let converter = RowConverter::new(fields.map(SortField::new).collect()).map_err(misfit)?;
        Ok(Box::new(Remembering {
            keys: self.keys.bind(schema)?,
            remembered: self.remembered.clone(),
            converter,
            schema: Arc::clone(&self.schema),
            keep: self.keep,
            before: KeyedState::new(),
        }))
    }
}

struct Remembering {
    keys: KeyReader,
    remembered: Vec<usize>,
    converter: RowConverter,
    schema: SchemaRef,
    keep: Option<i64>,
    before: KeyedState<Before>,
}

/// The last event of a key.
struct Before {
    time: i64,
    /// The watermark from which on it counts no more.
    forget: i64,
    columns: Box<[u8]>,
}

impl Stored for Before {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&self.forget.to_le_bytes());
        write_bytes(out, &self.columns);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        Some(Before {
            time: reader.i64()?,
            forget: reader.i64()?,
            columns: reader.bytes()?.into(),
        })
    }

    fn heap_bytes(&self) -> usize {
        self.columns.len()
    }

    fn due(&self) -> Option<i64> {
        (self.forget < i64::MAX).then_some(self.forget)
    }
}

impl Remembering {
    fn add(&mut self, rows: Rows, out: &mut Output) -> Result<(), Error> {
        let keys = self.keys.read(&rows.batch)?;
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let columns: Vec<ArrayRef> = self
            .remembered
            .iter()
            .map(|place| flattened(rows.batch.column(*place)))
            .collect::<Result<_, _>>()?;
        let encoded = self.converter.convert_columns(&columns).map_err(misfit)?;
        // The row of nulls stands for "no event before".
        let nulls: Vec<ArrayRef> = columns
            .iter()
            .map(|column| arrow::array::new_null_array(column.data_type(), 1))
            .collect();
        let none = self.converter.convert_columns(&nulls).map_err(misfit)?;
        let mut before = self.converter.empty_rows(rows.len(), 0);
        let parser = self.converter.parser();
        for row in 0..rows.len() {
            let (key, time) = (keys.at(row), times.times[row]);
            // Forgotten by the watermark, whether or not the entry is still there.
            let now = time.max(times.marks[row]);
            let known = self.before.get(key)?.filter(|known| known.forget > now);
            let newest = known.is_none_or(|known| known.time <= time);
            match known {
                Some(known) => before.push(parser.parse(&known.columns)),
                None => before.push(none.row(0)),
            }
            // An event that comes out of order is compared with the newest and does not replace it.
            if newest {
                let forget = self.keep.map_or(i64::MAX, |keep| time.saturating_add(keep));
                let columns = encoded.row(row).data().into();
                self.before.set(
                    key,
                    Before {
                        time,
                        forget,
                        columns,
                    },
                );
            }
        }
        let mut columns = rows.batch.columns().to_vec();
        columns.extend(self.converter.convert_rows(&before).map_err(misfit)?);
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(misfit)?;
        out.push(rows.with_columns(batch));
        Ok(())
    }
}

fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, value) => plain(value),
        other => other.clone(),
    }
}

fn flattened(column: &ArrayRef) -> Result<ArrayRef, Error> {
    match column.data_type() {
        DataType::Dictionary(..) => {
            arrow::compute::cast(column, &plain(column.data_type())).map_err(misfit)
        }
        _ => Ok(Arc::clone(column)),
    }
}

impl Operator for Remembering {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        ready(self.add(rows, out)).boxed()
    }

    fn on_time(&mut self, watermark: i64, _out: &mut Output) -> Result<(), Error> {
        for key in self.before.due(watermark)? {
            self.before.remove(&key);
        }
        Ok(())
    }

    fn snapshot(&mut self, changes: &mut Changes) -> Result<(), Error> {
        self.before.snapshot(changes);
        Ok(())
    }

    fn restore(&mut self, state: Arc<dyn StateReader>) -> Result<(), Error> {
        self.before.restore(state)
    }

    fn memory(&self) -> usize {
        self.before.bytes()
    }

    fn shrink(&mut self, bytes: usize) {
        self.before.shrink(bytes);
    }
}
