//! The changes of a table, kept in the order in which they were made until somebody has taken them.

use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, StructArray, UInt8Array};
use arrow::datatypes::Fields;
use busbar_event::{Batch, Body, Class, Envelope, Error, decode};
use bytes::Bytes;

use crate::TableChange;
use crate::columns::arrow_error;
use crate::limits::CHANGES_BYTES_MAX;

impl TableChange {
    /// The rows behind a position.
    pub(crate) fn behind(self, position: u64) -> TableChange {
        let skipped = position.saturating_sub(self.begin) as usize;
        let skipped = skipped.min(self.rows.num_rows());
        let left = self.rows.num_rows() - skipped;
        TableChange {
            begin: self.begin + skipped as u64,
            rows: self.rows.slice(skipped, left),
            deletes: self.deletes.map(|deletes| deletes.slice(skipped, left)),
            ..self
        }
    }
}

/// The producer under whose name an engine keeps the identity of its log: an odd number while changes are kept, an even one
/// while they are not.
pub(crate) const IDENTITY: &str = "$changes";

/// The producer whose position is that behind the last change, in engines whose log is no partition.
pub(crate) const END: &str = "$changes-end";

/// Whether an engine keeps changes, and how much of them waits.
#[derive(Debug, Default)]
pub(crate) struct KeptChanges {
    /// Changes are kept since this identity; 0 while they are not.
    identity: AtomicU64,
    /// Bytes that nobody has taken yet.
    bytes: AtomicU64,
}

impl KeptChanges {
    pub fn are_kept(&self) -> bool {
        self.identity().is_some()
    }

    pub fn identity(&self) -> Option<u64> {
        let identity = self.identity.load(Ordering::Relaxed);
        (identity > 0).then_some(identity)
    }

    /// What is so from now on.
    pub fn set(&self, identity: Option<u64>, bytes: u64) {
        self.renewed(identity.unwrap_or(0));
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    pub fn renewed(&self, identity: u64) {
        self.identity.store(identity, Ordering::Relaxed);
    }

    /// Refuses a write while too much waits.
    pub fn check_room(&self, table: &str) -> Result<(), Error> {
        match self.bytes.load(Ordering::Relaxed) {
            bytes if bytes > CHANGES_BYTES_MAX => Err(full(table, bytes, CHANGES_BYTES_MAX)),
            _ => Ok(()),
        }
    }

    /// So many bytes were kept.
    pub fn kept(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes were taken. Those who take and those who write hold the same lock.
    pub fn taken(&self, bytes: u64) {
        let waiting = self.bytes.load(Ordering::Relaxed);
        self.bytes
            .store(waiting.saturating_sub(bytes), Ordering::Relaxed);
    }
}

/// The identity of a log that begins or ends now, after `known`.
pub(crate) fn next_identity(known: Option<u64>, now_micros: i64, is_kept: bool) -> u64 {
    let now = u64::try_from(now_micros).unwrap_or(0);
    let next = now.max(known.unwrap_or(0) / 2 + 1);
    next * 2 + u64::from(is_kept)
}

/// Whether changes are kept in the log of this identity.
pub(crate) fn is_kept(identity: Option<u64>) -> bool {
    identity.is_some_and(|identity| identity % 2 == 1)
}

/// What is wrong with changes that were not kept.
pub(crate) fn gap(table: &str, position: u64) -> Error {
    Error::new(Class::Configuration, "table.changes-gap")
        .with("table", table)
        .with("position", position)
}

/// Nobody takes the changes of a table.
pub(crate) fn full(table: &str, bytes: u64, most: u64) -> Error {
    Error::new(Class::Transient, "table.changes-full")
        .with("table", table)
        .with("bytes", bytes)
        .with("most", most)
}

/// The flag of a row that is deleted.
const DELETE: u8 = 1;

/// Rows as a log or journal keeps them: those of a write, which of them are deleted, and a time for each.
#[derive(Debug)]
pub(crate) struct FramedRows {
    pub rows: RecordBatch,
    pub deletes: Option<BooleanArray>,
    pub times: Vec<i64>,
}

impl FramedRows {
    /// As a batch, whose topics say nothing.
    pub fn batch(&self) -> Result<Batch, Error> {
        let rows = self.rows.num_rows();
        let topics = StringArray::from_iter_values(std::iter::repeat_n("row", rows));
        let mut envelope = Envelope::new(&topics, self.times.clone());
        if let Some(deletes) = &self.deletes {
            let flags = deletes
                .values()
                .iter()
                .map(|is_delete| u8::from(is_delete) * DELETE);
            envelope.flags = UInt8Array::from_iter_values(flags);
        }
        let fields: Fields = self.rows.schema().fields().clone();
        let columns: Vec<ArrayRef> = self.rows.columns().to_vec();
        let columns = StructArray::try_new(fields, columns, None).map_err(arrow_error)?;
        Batch::from_columns(envelope, Body::Columns(columns))
    }

    /// Reads the bytes of such a batch.
    pub fn read(bytes: Bytes) -> Result<FramedRows, Error> {
        let batch = decode(bytes)?;
        let Body::Columns(columns) = batch.body() else {
            return Err(Error::new(Class::Permanent, "table.journal"));
        };
        let deletes = batch.flags().iter().any(|flags| *flags & DELETE != 0);
        let deletes = deletes.then(|| {
            let flags = batch.flags().iter();
            BooleanArray::from_iter(flags.map(|flags| Some(flags & DELETE != 0)))
        });
        Ok(FramedRows {
            rows: RecordBatch::from(columns),
            deletes,
            times: batch.times().to_vec(),
        })
    }
}
