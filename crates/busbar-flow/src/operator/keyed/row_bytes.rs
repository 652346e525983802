//! Rows as bytes, for operators that keep them in their state.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, Rows as KeyRows, SortField};
use busbar_event::Error;

use super::keys::{flat, flattened};
use crate::operator::rows::misfit;

/// Whole rows as bytes, for operators that give them back later.
pub(crate) struct RowBytes {
    converter: RowConverter,
    /// The types of the columns; dictionaries come back as such.
    types: Vec<DataType>,
}

impl RowBytes {
    /// For rows of `schema`.
    ///
    /// # Errors
    /// `flow.misfit` for a type that cannot be kept.
    pub fn new(schema: &SchemaRef) -> Result<Self, Error> {
        let types: Vec<DataType> = schema
            .fields()
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        let fields = types
            .iter()
            .map(|data_type| SortField::new(flat(data_type)));
        Ok(Self {
            converter: RowConverter::new(fields.collect()).map_err(misfit)?,
            types,
        })
    }

    /// The bytes of each row of a batch, whose columns are those of the schema by name and place.
    ///
    /// # Errors
    /// `flow.misfit` when the columns are others.
    pub fn encode(&self, batch: &RecordBatch) -> Result<KeyRows, Error> {
        let columns = batch.columns().iter().map(flattened);
        let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
        self.converter.convert_columns(&columns).map_err(misfit)
    }

    /// The columns of rows.
    ///
    /// # Errors
    /// `flow.misfit` when a column cannot have its type back.
    pub fn decode(&self, rows: &[impl AsRef<[u8]>]) -> Result<Vec<ArrayRef>, Error> {
        let parser = self.converter.parser();
        let rows = rows.iter().map(|row| parser.parse(row.as_ref()));
        let columns = self.converter.convert_rows(rows).map_err(misfit)?;
        let restore =
            |(column, data_type): (ArrayRef, &DataType)| match column.data_type() == data_type {
                true => Ok(column),
                false => cast(&column, data_type).map_err(misfit),
            };
        columns.into_iter().zip(&self.types).map(restore).collect()
    }
}
