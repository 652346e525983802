//! Events with a value that does not fit its column: a query shows them with null in its place, so that the
//! number of rows does not depend on the columns a query names. Only payloads that cannot be read at all (text
//! that is not JSON, say) are left out.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{concat, take};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use busbar_event::Error;
use busbar_event::format::{Decoded, Decoder, FormatSpec, Rejected};

use crate::explain::kernel_error;

/// Decodes each column by itself.
pub(crate) struct Partial {
    schema: SchemaRef,
    columns: Vec<Decoder>,
}

/// A batch in which rows are partly decoded.
pub(crate) struct Patched {
    /// The columns, in the order of the payloads.
    pub(crate) columns: RecordBatch,
    /// The payloads they come from.
    pub(crate) rows: UInt32Array,
    /// Number of rows that have null in place of a value that does not fit.
    pub(crate) partial: usize,
    /// Number of payloads that cannot be read; they are left out.
    pub(crate) undecodable: usize,
}

impl Partial {
    /// Decoders for the columns of `schema` at these places.
    pub(crate) fn new(
        format: &FormatSpec,
        schema: &SchemaRef,
        places: &[usize],
    ) -> Result<Partial, Error> {
        let columns = places
            .iter()
            .map(|place| Decoder::new(format, schema, &[*place]));
        Ok(Partial {
            schema: Arc::new(schema.project(places).map_err(kernel_error)?),
            columns: columns.collect::<Result<_, _>>()?,
        })
    }

    /// Adds what can be read of the rejected payloads to what was decoded.
    pub(crate) fn patch(
        &mut self,
        payloads: &BinaryArray,
        decoded: Decoded,
    ) -> Result<Patched, Error> {
        let fields = decoded
            .rejected
            .iter()
            .filter(|rejected| is_of_field(rejected));
        let rejected = UInt32Array::from_iter_values(fields.map(|rejected| rejected.row as u32));
        let rest = take(payloads, &rejected, None).map_err(kernel_error)?;
        let rest: &BinaryArray = arrow::array::AsArray::as_binary(&rest);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        // Whether a payload can be read, and every column that must not be null has a value.
        let mut complete = vec![true; rest.len()];
        for (decoder, field) in self.columns.iter_mut().zip(self.schema.fields()) {
            let one = decoder.decode(rest);
            let good: Vec<u32> = match &one.rows {
                Some(rows) => rows.values().to_vec(),
                None => (0..rest.len() as u32).collect(),
            };
            let mut from: Vec<Option<u32>> = vec![None; rest.len()];
            for (place, row) in good.into_iter().enumerate() {
                from[row as usize] = Some(place as u32);
            }
            for rejected in one.rejected.iter().filter(|one| !is_of_field(one)) {
                complete[rejected.row] = false;
            }
            if !field.is_nullable() {
                for (complete, from) in complete.iter_mut().zip(&from) {
                    *complete &= from.is_some();
                }
            }
            let column = match one.columns.num_rows() {
                0 => new_null_array(field.data_type(), rest.len()),
                _ => take(one.columns.column(0), &UInt32Array::from(from), None)
                    .map_err(kernel_error)?,
            };
            columns.push(column);
        }
        let kept: Vec<u32> = (0..rest.len())
            .filter(|row| complete[*row])
            .map(|row| row as u32)
            .collect();
        let kept = UInt32Array::from(kept);
        let good: Vec<u32> = match &decoded.rows {
            Some(rows) => rows.values().to_vec(),
            None => (0..decoded.columns.num_rows() as u32).collect(),
        };
        // Each row with its payload and its place in the joined columns, in the order of the payloads.
        let patched = kept
            .values()
            .iter()
            .map(|row| rejected.value(*row as usize));
        let mut order: Vec<(u32, u32)> = good.iter().copied().chain(patched).zip(0..).collect();
        order.sort_unstable();
        let places = UInt32Array::from_iter_values(order.iter().map(|(_, place)| *place));
        let joined = columns.iter().zip(decoded.columns.columns());
        let joined = joined.map(|(rest, good)| {
            let rest = take(rest, &kept, None)?;
            take(&concat(&[good, &rest])?, &places, None)
        });
        let joined = joined.collect::<Result<Vec<_>, ArrowError>>();
        let columns = RecordBatch::try_new(Arc::clone(&self.schema), joined.map_err(kernel_error)?);
        Ok(Patched {
            columns: columns.map_err(kernel_error)?,
            rows: UInt32Array::from_iter_values(order.iter().map(|(row, _)| *row)),
            partial: kept.len(),
            undecodable: decoded.rejected.len() - kept.len(),
        })
    }
}

/// True when a payload can be read but for the value of one field.
fn is_of_field(rejected: &Rejected) -> bool {
    rejected.cause.code().starts_with("event.field-")
}
