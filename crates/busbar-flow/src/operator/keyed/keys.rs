//! The keys of a step, such as `by: [site, lower(meter)]`, and the key of each row as bytes.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, Rows as KeyRows, SortField};
use busbar_event::Error;
use busbar_sql::Projection;

use crate::operator::Wrong;
use crate::operator::rows::misfit;

/// Key expressions of a step, such as `by: [site, lower(meter)]`.
#[derive(Clone)]
pub(crate) struct KeyExpressions {
    texts: Vec<String>,
    expressions: Vec<Projection>,
}

impl KeyExpressions {
    /// Compiles the list that stands under `by`.
    ///
    /// # Errors
    /// What is wrong, at its place in the list.
    pub fn compile(schema: &SchemaRef, by: &[String]) -> Result<Self, Wrong> {
        let compile = |(i, text): (usize, &String)| {
            Projection::compile(schema, text).map_err(|wrong| Wrong::from(wrong).at(i).at("by"))
        };
        Ok(Self {
            texts: by.to_vec(),
            expressions: by
                .iter()
                .enumerate()
                .map(compile)
                .collect::<Result<_, _>>()?,
        })
    }

    /// The keys as they stand in the flow file.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The names of the keys where all of them are columns. Other keys cannot be told apart before they are computed:
    /// then the list is empty, and all rows must meet.
    pub fn names(&self, schema: &SchemaRef) -> Vec<String> {
        let column = |text: &String| schema.field_with_name(text).ok().map(|f| f.name().clone());
        self.texts
            .iter()
            .map(column)
            .collect::<Option<_>>()
            .unwrap_or_default()
    }

    /// Places of the columns that the keys read.
    pub fn columns(&self) -> impl Iterator<Item = usize> {
        self.expressions.iter().flat_map(Projection::columns)
    }

    /// The same keys over batches of another schema, ready to be evaluated.
    pub fn bind(&self, schema: &SchemaRef) -> Result<KeyReader, Error> {
        let bound: Vec<Projection> = self
            .expressions
            .iter()
            .map(|key| key.bind(schema))
            .collect::<Result<_, _>>()?;
        let types = bound
            .iter()
            .map(|key| flat(key.schema().field(0).data_type()));
        let types: Vec<DataType> = types.collect();
        let converter = match types.is_empty() {
            true => None,
            false => {
                let fields = types.iter().cloned().map(SortField::new).collect();
                Some(RowConverter::new(fields).map_err(misfit)?)
            }
        };
        Ok(KeyReader {
            expressions: bound,
            types,
            converter,
        })
    }
}

/// Reads the keys of batches.
pub(crate) struct KeyReader {
    expressions: Vec<Projection>,
    types: Vec<DataType>,
    /// None without keys: all rows have the same.
    converter: Option<RowConverter>,
}

/// The key of each row of a batch.
pub(crate) struct Keys {
    /// None without keys: all rows have the same.
    rows: Option<KeyRows>,
    /// Which rows have a key of which no part is null; none where all have.
    known: Option<NullBuffer>,
}

impl KeyReader {
    /// The key of each row.
    ///
    /// # Errors
    /// One of the whole batch, when a key cannot be computed for a row.
    pub fn read(&self, batch: &RecordBatch) -> Result<Keys, Error> {
        let Some(converter) = &self.converter else {
            return Ok(Keys {
                rows: None,
                known: None,
            });
        };
        let mut known: Option<NullBuffer> = None;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.expressions.len());
        for (expression, data_type) in self.expressions.iter().zip(&self.types) {
            let column = Arc::clone(expression.evaluate(batch)?.column(0));
            known = NullBuffer::union(known.as_ref(), column.logical_nulls().as_ref());
            columns.push(match column.data_type() == data_type {
                true => column,
                false => cast(&column, data_type).map_err(misfit)?,
            });
        }
        let rows = converter.convert_columns(&columns).map_err(misfit)?;
        Ok(Keys {
            rows: Some(rows),
            known,
        })
    }
}

impl Keys {
    /// The key of a row; equal keys have equal bytes.
    pub fn at(&self, row: usize) -> &[u8] {
        self.rows.as_ref().map_or(&[], |rows| rows.row(row).data())
    }

    /// Whether no part of a row's key is null, so that equal keys say that rows are about the same.
    pub fn is_known(&self, row: usize) -> bool {
        self.known.as_ref().is_none_or(|known| known.is_valid(row))
    }
}

/// The type of a column's values: without a dictionary.
pub(crate) fn flat(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, value) => flat(value),
        other => other.clone(),
    }
}

/// A column without its dictionary, if it has one.
///
/// # Errors
/// `flow.misfit` when that cannot be.
pub(crate) fn flattened(column: &ArrayRef) -> Result<ArrayRef, Error> {
    match column.data_type() {
        DataType::Dictionary(..) => cast(column, &flat(column.data_type())).map_err(misfit),
        _ => Ok(Arc::clone(column)),
    }
}
