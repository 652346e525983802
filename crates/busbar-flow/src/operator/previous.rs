//! `previous`: adds columns of the event before, of the same key.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use busbar_catalog::PreviousSpec;
use busbar_event::{Class, Error};

use super::keyed::{
    KeyedOperator, KeyedState, KeyedStep, Keys, StateBytes, Stored, flat, flattened, write_bytes,
};
use super::rows::misfit;
use super::{Operator, Output, Rows, Stateful, Step, StepContext, Wrong, misses_times};

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
        fields.push(Arc::new(Field::new(name, flat(field.data_type()), true)));
        remembered.push(place);
    }
    Ok(Arc::new(Previous {
        keyed: KeyedStep::compile(context.schema, &spec.by, spec.name.as_ref())?,
        input: Arc::clone(context.schema),
        remembered,
        schema: Arc::new(Schema::new(fields)),
        keep: spec.keep.map(|span| span.as_micros()),
    }))
}

struct Previous {
    keyed: KeyedStep,
    input: SchemaRef,
    /// Places of the columns that are added of the event before.
    remembered: Vec<usize>,
    schema: SchemaRef,
    /// How long an event counts as the one before, in microseconds.
    keep: Option<i64>,
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
        let meaning = format!("previous {:?} {remembered:?}", self.keyed.texts());
        Some(self.keyed.stateful(meaning))
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let types: Vec<_> = self
            .remembered
            .iter()
            .map(|place| flat(self.input.field(*place).data_type()))
            .collect();
        let fields = types.iter().cloned().map(SortField::new).collect();
        let converter = RowConverter::new(fields).map_err(misfit)?;
        let nulls: Vec<ArrayRef> = types
            .iter()
            .map(|data_type| arrow::array::new_null_array(data_type, 1))
            .collect();
        let none = converter.convert_columns(&nulls).map_err(misfit)?;
        let remembering = Remembering {
            remembered: self.remembered.clone(),
            none: none.row(0).owned(),
            converter,
            schema: Arc::clone(&self.schema),
            keep: self.keep,
        };
        self.keyed.operator(schema, remembering)
    }
}

struct Remembering {
    remembered: Vec<usize>,
    converter: RowConverter,
    /// Nulls, which stand for "no event before".
    none: OwnedRow,
    schema: SchemaRef,
    keep: Option<i64>,
}

/// The last event of a key.
#[derive(Default)]
struct EventBefore {
    time: i64,
    /// The watermark from which on it counts no more.
    forget: i64,
    columns: Vec<u8>,
}

impl Stored for EventBefore {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&self.forget.to_le_bytes());
        write_bytes(out, &self.columns);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = StateBytes(bytes);
        Some(EventBefore {
            time: reader.i64()?,
            forget: reader.i64()?,
            columns: reader.bytes()?.into(),
        })
    }

    fn heap_bytes(&self) -> usize {
        self.columns.capacity()
    }

    fn due(&self) -> Option<i64> {
        (self.forget < i64::MAX).then_some(self.forget)
    }
}

impl KeyedOperator for Remembering {
    type Kept = EventBefore;

    fn take(
        &mut self,
        keys: &Keys,
        rows: Rows,
        kept: &mut KeyedState<EventBefore>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let columns: Vec<ArrayRef> = self
            .remembered
            .iter()
            .map(|place| flattened(rows.batch.column(*place)))
            .collect::<Result<_, _>>()?;
        let encoded = self.converter.convert_columns(&columns).map_err(misfit)?;
        let mut before = self.converter.empty_rows(rows.len(), 0);
        let parser = self.converter.parser();
        for row in 0..rows.len() {
            let time = times.times[row];
            // Forgotten by the watermark, whether or not the entry is still there.
            let now = time.max(times.marks[row]);
            let columns = encoded.row(row);
            let forget = self.keep.map_or(i64::MAX, |keep| time.saturating_add(keep));
            kept.visit(keys.at(row), |slot| {
                let known = slot.get().filter(|known| known.forget > now);
                match known {
                    Some(known) => before.push(parser.parse(&known.columns)),
                    None => before.push(self.none.row()),
                }
                // An event that comes out of order is compared with the newest and does not replace it.
                if known.is_some_and(|known| known.time > time) {
                    return;
                }
                let known = slot.change().get_or_insert_with(EventBefore::default);
                (known.time, known.forget) = (time, forget);
                known.columns.clear();
                known.columns.extend_from_slice(columns.data());
            })?;
        }
        let mut columns = rows.batch.columns().to_vec();
        columns.extend(self.converter.convert_rows(&before).map_err(misfit)?);
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(misfit)?;
        out.push(rows.with_columns(batch));
        Ok(())
    }
}
