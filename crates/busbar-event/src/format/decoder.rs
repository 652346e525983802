//! Payloads as typed columns.

use arrow::array::{BinaryArray, RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;

use super::FormatSpec;
use crate::{Class, Error, Result};

/// Reads the columns of one projection from payloads, batch after batch.
#[derive(Debug)]
pub struct Decoder {
    schema: SchemaRef,
}

/// What became of the payloads of a batch.
#[derive(Debug)]
pub struct Decoded {
    /// The columns asked for, of the good payloads only.
    pub columns: RecordBatch,
    /// Which payloads were good; `None` if all were.
    pub rows: Option<UInt32Array>,
    /// The others, in order.
    pub rejected: Vec<Rejected>,
}

/// A payload that does not fit, and why.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// Its row in the batch.
    pub row: usize,
    /// What is wrong, with the field and the position.
    pub cause: Error,
}

impl Decoder {
    /// A decoder of payloads in this format and with this schema that reads the columns of
    /// `projection`, by their index in the schema, in that order.
    pub fn new(_format: &FormatSpec, schema: &SchemaRef, projection: &[usize]) -> Result<Decoder> {
        let schema = schema.project(projection).map_err(|error| {
            Error::new(Class::Configuration, "event.schema-projection").caused_by(error)
        })?;
        Ok(Decoder {
            schema: schema.into(),
        })
    }

    /// The schema of what is decoded: the columns of the projection.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes the payloads of a batch.
    pub fn decode(&mut self, _payloads: &BinaryArray) -> Decoded {
        Decoded {
            columns: RecordBatch::new_empty(self.schema.clone()),
            rows: None,
            rejected: vec![],
        }
    }
}

/// The schema that fits the payloads of a sample.
pub fn infer(_format: &FormatSpec, _sample: &BinaryArray) -> Result<SchemaRef> {
    Err(Error::new(Class::Permanent, "event.infer-empty"))
}
