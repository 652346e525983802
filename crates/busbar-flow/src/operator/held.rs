//! Rows that are held until event time has reached a time of their own.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use busbar_event::hash::fnv1a;
use busbar_event::{Class, Error};

use super::keyed::{RowBytes, StateBytes, Stored, write_bytes};
use super::rows::misfit;
use super::{Output, Rows};

/// Rows that wait for the same time and are told apart by nothing but what is in them, in the order in which they came.
/// State is kept by [`held_key`].
pub(super) struct HeldRows {
    /// The watermark that lets them go on, which is their event time from then on.
    pub due: i64,
    pub rows: Vec<Box<[u8]>>,
}

/// The key of a held row: the time it waits for, its own event time, and a hash of what is in it. Keys are in the order in
/// which rows go on.
pub(super) fn held_key(due: i64, time: i64, row: &[u8]) -> [u8; 24] {
    let ordered = |time: i64| ((time as u64) ^ (1 << 63)).to_be_bytes();
    let mut key = [0; 24];
    key[..8].copy_from_slice(&ordered(due));
    key[8..16].copy_from_slice(&ordered(time));
    key[16..].copy_from_slice(&fnv1a(row).to_be_bytes());
    key
}

impl Stored for HeldRows {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.due.to_le_bytes());
        for row in &self.rows {
            write_bytes(out, row);
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = StateBytes(bytes);
        let due = reader.i64()?;
        let mut rows = Vec::new();
        while !reader.0.is_empty() {
            rows.push(reader.bytes()?.into());
        }
        Some(HeldRows { due, rows })
    }

    fn heap_bytes(&self) -> usize {
        let bytes = self.rows.iter().map(|row| row.len());
        bytes.sum::<usize>() + size_of_val(&self.rows[..])
    }

    fn due(&self) -> Option<i64> {
        Some(self.due)
    }

    fn rows_held(&self) -> u64 {
        self.rows.len() as u64
    }
}

/// Rows that go on, each with its event time from now on.
#[derive(Default)]
pub(super) struct FreedRows {
    rows: Vec<Box<[u8]>>,
    times: Vec<i64>,
}

impl FreedRows {
    pub fn add(&mut self, row: impl Into<Box<[u8]>>, time: i64) {
        self.rows.push(row.into());
        self.times.push(time);
    }

    /// Writes the rows, whose columns are those of `schema`.
    ///
    /// # Errors
    /// `flow.misfit` when they cannot be read.
    pub fn tell(self, bytes: &RowBytes, schema: &SchemaRef, out: &mut Output) -> Result<(), Error> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let columns = bytes.decode(&self.rows)?;
        let batch = RecordBatch::try_new(SchemaRef::clone(schema), columns).map_err(misfit)?;
        out.push(Rows::results(batch, self.times));
        Ok(())
    }
}

/// An error behind which state has changed already: the flow begins again at its last checkpoint.
pub(super) fn stopped(error: Error) -> Error {
    Error::new(Class::Configuration, "flow.state-stopped").with_error("cause", &error)
}
