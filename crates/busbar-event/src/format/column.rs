//! Typed columns that grow row by row.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::Field;

use super::{FieldType, TimeUnit, schema};
use crate::bits::Bits;

/// One column of a projection: what it holds, and the values so far.
#[derive(Debug)]
pub(super) struct Column {
    pub name: String,
    pub field_type: FieldType,
    pub unit: Option<TimeUnit>,
    pub required: bool,
    /// Inferred: takes only values that it prints as they came.
    pub exact: bool,
    rows: usize,
    /// Made at the first null: columns without one need no bitmap.
    valid: Option<Bits>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Bool(Bits),
    /// Whole numbers, and times in microseconds.
    Int(Vec<i64>),
    Float(Vec<f64>),
    /// Text and JSON.
    Text {
        offsets: Vec<i32>,
        bytes: Vec<u8>,
    },
}

impl Column {
    pub fn new(field: &Field, field_type: FieldType) -> Column {
        Column {
            name: field.name().clone(),
            field_type,
            unit: TimeUnit::of(field),
            required: !field.is_nullable(),
            exact: schema::is_exact(field),
            rows: 0,
            valid: None,
            values: Values::new(field_type, 0, 0),
        }
    }

    #[inline]
    fn row(&mut self, valid: bool) {
        match &mut self.valid {
            Some(bits) => bits.push(valid),
            None if valid => {}
            None => {
                let mut bits = Bits::repeat(true, self.rows);
                bits.push(false);
                self.valid = Some(bits);
            }
        }
        self.rows += 1;
    }

    pub fn push_null(&mut self) {
        self.row(false);
        match &mut self.values {
            Values::Bool(bits) => bits.push(false),
            Values::Int(values) => values.push(0),
            Values::Float(values) => values.push(0.0),
            Values::Text { offsets, bytes } => offsets.push(bytes.len() as i32),
        }
    }

    #[inline]
    pub fn push_bool(&mut self, value: bool) {
        match &mut self.values {
            Values::Bool(bits) => bits.push(value),
            _ => return self.push_null(),
        }
        self.row(true);
    }

    /// A whole number, or a time in microseconds.
    #[inline]
    pub fn push_int(&mut self, value: i64) {
        match &mut self.values {
            Values::Int(values) => values.push(value),
            _ => return self.push_null(),
        }
        self.row(true);
    }

    #[inline]
    pub fn push_float(&mut self, value: f64) {
        match &mut self.values {
            Values::Float(values) => values.push(value),
            _ => return self.push_null(),
        }
        self.row(true);
    }

    /// Text of valid UTF-8, as `write` appends it. It is at most as long as the payload that it is
    /// from, so that the offsets cannot pass 32 bits where the payloads' do not.
    #[inline]
    pub fn push_text(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        match &mut self.values {
            Values::Text { offsets, bytes } => {
                write(bytes);
                offsets.push(bytes.len() as i32);
            }
            _ => return self.push_null(),
        }
        self.row(true);
    }

    /// The column; another one begins, with as much capacity.
    pub fn finish(&mut self) -> ArrayRef {
        let (rows, text) = (self.rows, self.values.text_bytes());
        let next = Values::new(self.field_type, rows, text);
        let values = std::mem::replace(&mut self.values, next);
        let nulls = self.valid.take().and_then(Bits::into_nulls);
        self.rows = 0;
        match values {
            Values::Bool(bits) => Arc::new(BooleanArray::new(bits.finish(), nulls)),
            Values::Int(values) if self.field_type == FieldType::Time => {
                let times = TimestampMicrosecondArray::new(ScalarBuffer::from(values), nulls);
                Arc::new(times.with_timezone("UTC"))
            }
            Values::Int(values) => Arc::new(Int64Array::new(ScalarBuffer::from(values), nulls)),
            Values::Float(values) => Arc::new(Float64Array::new(ScalarBuffer::from(values), nulls)),
            Values::Text { offsets, bytes } => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                // Checked once more for the whole column, which costs little.
                let text = StringArray::try_new(offsets, Buffer::from_vec(bytes), nulls);
                Arc::new(text.expect("text was checked before it was appended"))
            }
        }
    }
}

impl Values {
    fn new(field_type: FieldType, rows: usize, text_bytes: usize) -> Values {
        match field_type {
            FieldType::Bool => Values::Bool(Bits::default()),
            FieldType::Int | FieldType::Time => Values::Int(Vec::with_capacity(rows)),
            FieldType::Float => Values::Float(Vec::with_capacity(rows)),
            FieldType::Text | FieldType::Json => {
                let mut offsets = Vec::with_capacity(rows + 1);
                offsets.push(0);
                Values::Text {
                    offsets,
                    bytes: Vec::with_capacity(text_bytes),
                }
            }
        }
    }

    fn text_bytes(&self) -> usize {
        match self {
            Values::Text { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }
}
