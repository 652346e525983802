//! A few thousand rows of a hot table, column by column.
//!
//! Chunks are shared with readers by `Arc`: a writer that finds a reader on one copies it first, so
//! that a reader's picture never changes, and a reader holds the table's lock only for as long as
//! it takes to count up one reference a chunk.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};

use crate::columns::ColumnType;
use crate::limits::HOT_CHUNK_ROWS;

const WORDS: usize = HOT_CHUNK_ROWS / 64;

/// One bit a row.
#[derive(Clone, Debug)]
pub(super) struct Bits([u64; WORDS]);

impl Bits {
    fn new() -> Self {
        Self([0; WORDS])
    }

    fn get(&self, row: usize) -> bool {
        self.0[row / 64] >> (row % 64) & 1 == 1
    }

    fn set(&mut self, row: usize, on: bool) {
        let bit = 1 << (row % 64);
        if on {
            self.0[row / 64] |= bit;
        } else {
            self.0[row / 64] &= !bit;
        }
    }

    fn buffer(&self, rows: usize) -> BooleanBuffer {
        let words: Vec<u64> = self.0.iter().map(|word| word.to_le()).collect();
        BooleanBuffer::new(Buffer::from_vec(words), 0, rows)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Chunk {
    columns: Vec<Column>,
    live: Bits,
    live_rows: usize,
    rows: usize,
}

impl Chunk {
    pub fn new(kinds: impl Iterator<Item = ColumnType>) -> Self {
        Self {
            columns: kinds.map(|kind| Column::new(kind, 0)).collect(),
            live: Bits::new(),
            live_rows: 0,
            rows: 0,
        }
    }

    pub fn is_full(&self) -> bool {
        self.rows == HOT_CHUNK_ROWS
    }

    pub fn live_rows(&self) -> usize {
        self.live_rows
    }

    pub fn add_column(&mut self, kind: ColumnType) {
        self.columns.push(Column::new(kind, self.rows));
    }

    /// The values of a column become these, which are as many; by how many bytes of text that changes.
    pub fn replace(&mut self, column: usize, kind: ColumnType, values: &ArrayRef) -> usize {
        let source = Source::new(kind, values);
        let mut replaced = Column::new(kind, self.rows);
        let bytes = (0..self.rows)
            .map(|row| replaced.set(row, &source, row).1)
            .sum();
        self.columns[column] = replaced;
        bytes
    }

    /// One more row, all null and not yet alive.
    pub fn push(&mut self) -> usize {
        for column in &mut self.columns {
            column.push_null();
        }
        self.rows += 1;
        self.rows - 1
    }

    pub fn revive(&mut self, row: usize) {
        debug_assert!(!self.live.get(row));
        self.live.set(row, true);
        self.live_rows += 1;
    }

    /// Forget a row's values; says how many bytes of text and binary they took.
    pub fn clear(&mut self, row: usize) -> usize {
        debug_assert!(self.live.get(row));
        self.live.set(row, false);
        self.live_rows -= 1;
        self.columns.iter_mut().map(|c| c.set_null(row)).sum()
    }

    /// Bytes of text and binary in one row, in the columns asked for.
    pub fn bytes_of(&self, row: usize, columns: impl Iterator<Item = usize>) -> usize {
        columns
            .map(|column| self.columns[column].bytes_of(row))
            .sum()
    }

    /// Put a value of an array into a column; says how many bytes it took before and takes now.
    pub fn set(
        &mut self,
        column: usize,
        row: usize,
        from: &Source<'_>,
        at: usize,
    ) -> (usize, usize) {
        self.columns[column].set(row, from, at)
    }

    /// A column's values, dead rows included.
    pub fn array(&self, column: usize) -> ArrayRef {
        self.columns[column].array(self.rows)
    }

    /// Which rows are alive; none if all are.
    pub fn mask(&self) -> Option<BooleanArray> {
        (self.live_rows < self.rows).then(|| BooleanArray::new(self.live.buffer(self.rows), None))
    }
}

/// The values of a column at places of several chunks, in that order.
pub(super) fn gather<'a>(
    kind: ColumnType,
    column: usize,
    places: impl ExactSizeIterator<Item = (&'a Chunk, usize)>,
) -> ArrayRef {
    let count = places.len();
    let values = places.map(|(chunk, row)| (&chunk.columns[column], row));
    match kind {
        ColumnType::Bool => {
            let values = values.map(|(column, row)| match &column.values {
                Values::Bool(bits) if column.valid.get(row) => Some(bits.get(row)),
                _ => None,
            });
            Arc::new(values.collect::<BooleanArray>())
        }
        ColumnType::Int | ColumnType::Time => {
            let values = values.map(|(column, row)| match &column.values {
                Values::Int(values) if column.valid.get(row) => Some(values[row]),
                _ => None,
            });
            match kind {
                ColumnType::Time => {
                    let times = values.collect::<TimestampMicrosecondArray>();
                    Arc::new(times.with_timezone("UTC"))
                }
                _ => Arc::new(values.collect::<Int64Array>()),
            }
        }
        ColumnType::Float => {
            let values = values.map(|(column, row)| match &column.values {
                Values::Float(values) if column.valid.get(row) => Some(values[row]),
                _ => None,
            });
            Arc::new(values.collect::<Float64Array>())
        }
        ColumnType::Text | ColumnType::Json | ColumnType::Binary => {
            let mut offsets = Vec::with_capacity(count + 1);
            let (mut bytes, mut valid) = (Vec::new(), Vec::with_capacity(count));
            offsets.push(0);
            for (column, row) in values {
                if let Values::Bytes(values) = &column.values {
                    let (start, length) = values.places[row];
                    bytes.extend_from_slice(&values.arena[start as usize..][..length as usize]);
                }
                offsets.push(bytes.len() as i32);
                valid.push(column.valid.get(row));
            }
            let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
            let nulls = NullBuffer::from(valid);
            let nulls = (nulls.null_count() > 0).then_some(nulls);
            match kind {
                ColumnType::Binary => {
                    Arc::new(BinaryArray::new(offsets, Buffer::from_vec(bytes), nulls))
                }
                _ => Arc::new(StringArray::new(offsets, Buffer::from_vec(bytes), nulls)),
            }
        }
    }
}

/// An array to put values from, its type looked up once.
pub(super) enum Source<'a> {
    Bool(&'a BooleanArray),
    Int(&'a [i64], Option<&'a NullBuffer>),
    Float(&'a [f64], Option<&'a NullBuffer>),
    Text(&'a StringArray),
    Binary(&'a BinaryArray),
}

impl<'a> Source<'a> {
    pub fn new(kind: ColumnType, array: &'a ArrayRef) -> Self {
        match kind {
            ColumnType::Bool => Self::Bool(array.as_boolean()),
            ColumnType::Int => {
                let array = array.as_primitive::<Int64Type>();
                Self::Int(array.values(), array.nulls())
            }
            ColumnType::Time => {
                let array = array.as_primitive::<TimestampMicrosecondType>();
                Self::Int(array.values(), array.nulls())
            }
            ColumnType::Float => {
                let array = array.as_primitive::<Float64Type>();
                Self::Float(array.values(), array.nulls())
            }
            ColumnType::Text | ColumnType::Json => Self::Text(array.as_string()),
            ColumnType::Binary => Self::Binary(array.as_binary()),
        }
    }

    /// Bytes of text or binary at a row.
    pub fn bytes_at(&self, at: usize) -> usize {
        match self {
            Self::Text(array) if array.is_valid(at) => array.value_length(at) as usize,
            Self::Binary(array) if array.is_valid(at) => array.value_length(at) as usize,
            _ => 0,
        }
    }
}

#[derive(Clone, Debug)]
struct Column {
    kind: ColumnType,
    valid: Bits,
    values: Values,
}

#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a column has one of these for hundreds of rows"
)]
enum Values {
    Bool(Bits),
    Int(Vec<i64>),
    Float(Vec<f64>),
    Bytes(Bytes),
}

impl Column {
    fn new(kind: ColumnType, rows: usize) -> Self {
        let values = match kind {
            ColumnType::Bool => Values::Bool(Bits::new()),
            ColumnType::Int | ColumnType::Time => Values::Int(vec![0; rows]),
            ColumnType::Float => Values::Float(vec![0.0; rows]),
            ColumnType::Text | ColumnType::Json | ColumnType::Binary => {
                Values::Bytes(Bytes::new(rows))
            }
        };
        Self {
            kind,
            valid: Bits::new(),
            values,
        }
    }

    fn push_null(&mut self) {
        match &mut self.values {
            Values::Bool(_) => {}
            Values::Int(values) => values.push(0),
            Values::Float(values) => values.push(0.0),
            Values::Bytes(values) => values.places.push((0, 0)),
        }
    }

    fn bytes_of(&self, row: usize) -> usize {
        match &self.values {
            Values::Bytes(values) => values.places[row].1 as usize,
            _ => 0,
        }
    }

    fn set_null(&mut self, row: usize) -> usize {
        self.valid.set(row, false);
        match &mut self.values {
            Values::Bytes(values) => values.set(row, &[]),
            _ => 0,
        }
    }

    fn set(&mut self, row: usize, from: &Source<'_>, at: usize) -> (usize, usize) {
        let (valid, before, after) = match (&mut self.values, from) {
            (Values::Bool(values), Source::Bool(array)) => {
                let valid = array.is_valid(at);
                values.set(row, valid && array.value(at));
                (valid, 0, 0)
            }
            (Values::Int(values), Source::Int(array, nulls)) => {
                values[row] = array[at];
                (nulls.is_none_or(|nulls| nulls.is_valid(at)), 0, 0)
            }
            (Values::Float(values), Source::Float(array, nulls)) => {
                values[row] = array[at];
                (nulls.is_none_or(|nulls| nulls.is_valid(at)), 0, 0)
            }
            (Values::Bytes(values), Source::Text(array)) => {
                let valid = array.is_valid(at);
                let bytes = if valid {
                    array.value(at).as_bytes()
                } else {
                    &[]
                };
                (valid, values.set(row, bytes), bytes.len())
            }
            (Values::Bytes(values), Source::Binary(array)) => {
                let valid = array.is_valid(at);
                let bytes = if valid { array.value(at) } else { &[] };
                (valid, values.set(row, bytes), bytes.len())
            }
            _ => unreachable!("rows are brought into the table's types before they are put"),
        };
        self.valid.set(row, valid);
        (before, after)
    }

    fn array(&self, rows: usize) -> ArrayRef {
        let nulls = NullBuffer::new(self.valid.buffer(rows));
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        match (&self.values, self.kind) {
            (Values::Bool(values), _) => Arc::new(BooleanArray::new(values.buffer(rows), nulls)),
            (Values::Int(values), ColumnType::Time) => {
                let values = ScalarBuffer::from(values.clone());
                Arc::new(TimestampMicrosecondArray::new(values, nulls).with_timezone("UTC"))
            }
            (Values::Int(values), _) => {
                Arc::new(Int64Array::new(ScalarBuffer::from(values.clone()), nulls))
            }
            (Values::Float(values), _) => {
                Arc::new(Float64Array::new(ScalarBuffer::from(values.clone()), nulls))
            }
            (Values::Bytes(values), ColumnType::Binary) => {
                let (offsets, bytes) = values.gather();
                Arc::new(BinaryArray::new(offsets, bytes, nulls))
            }
            (Values::Bytes(values), _) => {
                let (offsets, bytes) = values.gather();
                Arc::new(StringArray::new(offsets, bytes, nulls))
            }
        }
    }
}

/// Texts or bytes in one piece of memory: no allocation a value, and a copy is two `memcpy`s.
#[derive(Clone, Debug)]
struct Bytes {
    /// Start and length in `arena`, a row each.
    places: Vec<(u32, u32)>,
    arena: Vec<u8>,
    /// Bytes of the arena that belong to a row.
    used: usize,
}

/// Below this an arena is not worth tidying.
const TIDY_BYTES_MIN: usize = 16 << 10;

impl Bytes {
    fn new(rows: usize) -> Self {
        Self {
            places: vec![(0, 0); rows],
            arena: Vec::new(),
            used: 0,
        }
    }

    /// Says how many bytes the row took before.
    fn set(&mut self, row: usize, bytes: &[u8]) -> usize {
        let (start, before) = self.places[row];
        let before = before as usize;
        self.used = self.used - before + bytes.len();
        if bytes.len() <= before {
            let start_at = start as usize;
            self.arena[start_at..start_at + bytes.len()].copy_from_slice(bytes);
            self.places[row] = (start, bytes.len() as u32);
        } else {
            self.places[row] = (0, 0);
            if self.arena.len() + bytes.len() > TIDY_BYTES_MIN.max(self.used * 2) {
                self.tidy();
            }
            // Both fit: the state keeps a chunk's bytes below `CHUNK_BYTES_MAX`.
            self.places[row] = (self.arena.len() as u32, bytes.len() as u32);
            self.arena.extend_from_slice(bytes);
        }
        before
    }

    fn tidy(&mut self) {
        let mut arena = Vec::with_capacity(self.used + self.used / 2);
        for (start, length) in &mut self.places {
            let from = *start as usize..*start as usize + *length as usize;
            *start = arena.len() as u32;
            arena.extend_from_slice(&self.arena[from]);
        }
        self.arena = arena;
    }

    fn gather(&self) -> (OffsetBuffer<i32>, Buffer) {
        let mut offsets = Vec::with_capacity(self.places.len() + 1);
        let mut bytes = Vec::with_capacity(self.used);
        offsets.push(0);
        for (start, length) in &self.places {
            bytes.extend_from_slice(&self.arena[*start as usize..][..*length as usize]);
            offsets.push(bytes.len() as i32);
        }
        (
            OffsetBuffer::new(ScalarBuffer::from(offsets)),
            Buffer::from_vec(bytes),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_survive_being_rewritten_many_times() {
        let mut bytes = Bytes::new(10);
        let mut expected = vec![String::new(); 10];
        let mut seed = 7u64;
        for round in 0..20_000 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let row = (seed >> 33) as usize % 10;
            let text = "x".repeat((seed >> 40) as usize % 200) + &round.to_string();
            bytes.set(row, text.as_bytes());
            expected[row] = text;
        }
        assert!(bytes.arena.len() <= TIDY_BYTES_MIN.max(bytes.used * 2) + 300);
        let (offsets, buffer) = bytes.gather();
        let array = StringArray::new(offsets, buffer, None);
        for (row, text) in expected.iter().enumerate() {
            assert_eq!(array.value(row), text);
        }
    }
}
