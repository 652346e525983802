//! The writes of a hot table in a partition of the log, from which the table is restored after a restart.
//!
//! | frame | rows | time of a row | flag of a row |
//! | --- | --- | --- | --- |
//! | a write | those of the write | when it was written | [`DELETE`] for a deletion |
//! | part of a snapshot, with attribute [`SNAPSHOT`] | rows that the table held | when it was last written | none |
//! | a note, with attribute [`NOTE`] | one without values, which is not applied: it only tells the columns of the table, the position of a write without rows, or whether rows are [`KEPT`] from now on | when it was written | none |
//!
//! Frames are applied in order. A snapshot holds what the frames before it make, so applying both is the
//! same as applying the snapshot alone, and frames before a whole snapshot are removed. The positions of
//! producers are those of the log, which keeps them when frames are removed.

use std::sync::{Arc, mpsc};

use arrow::array::{
    ArrayRef, BooleanArray, RecordBatch, StringArray, StructArray, UInt8Array, new_null_array,
};
use arrow::datatypes::{Fields, SchemaRef};
use busbar_event::{Batch, Body, Class, Envelope, Error, decode, encode};
use busbar_log::{Append, Durability, LogError, Partition, PartitionOptions};
use parking_lot::Mutex;

use crate::ProducerPosition;
use crate::columns::arrow_error;
use crate::limits::{JOURNAL_BYTES_MIN, JOURNAL_READ_BYTES, JOURNAL_SEGMENT_BYTES};

/// Frames of a snapshot have this attribute.
const SNAPSHOT: u16 = 1;

/// A frame without rows to apply has this attribute.
const NOTE: u16 = 2;

/// Frames have this attribute while rows leave the table by journalled deletions alone: neither expiry nor eviction
/// is worked out again when they are applied.
const KEPT: u16 = 4;

/// The flag of a row that is deleted.
const DELETE: u8 = 1;

/// The journal of one table.
pub(super) struct Journal {
    partition: Partition,
    /// Held while a write is journalled and applied, so that both happen in one order.
    pub writing: Mutex<()>,
}

/// Rows as a frame holds them.
pub(super) struct Entry {
    pub rows: RecordBatch,
    pub deletes: Option<BooleanArray>,
    /// When each row was written.
    pub times: Vec<i64>,
    pub is_snapshot: bool,
    /// The rows are not applied; only their columns count.
    pub is_note: bool,
    /// Rows leave the table by deletions alone, not by expiry and eviction.
    pub is_kept: bool,
}

impl Journal {
    pub fn new(partition: Partition) -> Self {
        Self {
            partition,
            writing: Mutex::default(),
        }
    }

    /// How a journal is kept.
    pub fn options() -> PartitionOptions {
        PartitionOptions {
            segment_bytes: JOURNAL_SEGMENT_BYTES,
            retention_age: None,
            retention_bytes: None,
            durability: Durability::Fsync,
            cache_bytes: 0,
        }
    }

    /// The last position of a producer.
    pub fn position(&self, producer: &str) -> Option<u64> {
        self.partition.producer_position(producer)
    }

    /// Appends a write and waits until it is on the disk.
    pub fn append(&self, entry: &Entry, position: Option<&ProducerPosition>) -> Result<(), Error> {
        let told = self.send(entry, position)?;
        wait(&told)
    }

    /// Appends a frame without rows, of which the columns, the position and whether rows are kept count, and waits until it
    /// is on the disk.
    pub fn note(
        &self,
        schema: &SchemaRef,
        position: Option<&ProducerPosition>,
        (now, is_kept): (i64, bool),
    ) -> Result<(), Error> {
        if schema.fields().is_empty() {
            return Ok(());
        }
        let fields = schema.fields().iter();
        let nulls = fields.map(|field| new_null_array(field.data_type(), 1));
        let nulls: Vec<ArrayRef> = nulls.collect();
        let entry = Entry {
            rows: RecordBatch::try_new(Arc::clone(schema), nulls).map_err(arrow_error)?,
            deletes: None,
            times: vec![now],
            is_snapshot: false,
            is_note: true,
            is_kept,
        };
        self.append(&entry, position)
    }

    /// Whether the journal has become so much larger than the table that a snapshot is worth its cost.
    pub fn wants_snapshot(&self, table_bytes: u64) -> bool {
        self.partition.bytes() > JOURNAL_BYTES_MIN + 2 * table_bytes
    }

    /// Appends all rows there are, and removes what was before.
    pub fn snapshot(
        &self,
        entries: impl Iterator<Item = Result<Entry, Error>>,
    ) -> Result<(), Error> {
        self.partition.roll();
        let begin = self.partition.end();
        let mut last = None;
        for entry in entries {
            // One append is in flight while the next entry is encoded.
            let told = self.send(&entry?, None)?;
            if let Some(before) = last.replace(told) {
                wait(&before)?;
            }
        }
        if let Some(last) = last {
            wait(&last)?;
        }
        self.partition.trim(begin).map_err(from_log)
    }

    /// What was journalled, in order. Blocks on the disk.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry, Error>> + '_ {
        let mut offset = self.partition.start();
        let mut read = Vec::new().into_iter();
        std::iter::from_fn(move || {
            loop {
                if let Some(frame) = read.next() {
                    return Some(read_entry(&frame));
                }
                if offset >= self.partition.end() {
                    return None;
                }
                match self.partition.read(offset, JOURNAL_READ_BYTES) {
                    Ok(frames) => {
                        offset = frames.last().map_or(offset, busbar_log::Frame::end);
                        read = frames.into_iter();
                    }
                    // The rows in it are lost, which the log has said; those behind it are not.
                    Err(LogError::Damaged { resume, .. }) if resume > offset => {
                        tracing::warn!(
                            table = self.partition.name(),
                            from = offset,
                            resume,
                            "a part of the table's journal is damaged and left out"
                        );
                        offset = resume;
                    }
                    Err(error) => {
                        offset = u64::MAX;
                        return Some(Err(from_log(error)));
                    }
                }
            }
        })
    }

    fn send(&self, entry: &Entry, position: Option<&ProducerPosition>) -> Result<Told, Error> {
        let batch = batch(entry)?;
        let (min_time, max_time) = batch.time_range();
        let (tell, told) = mpsc::sync_channel(1);
        self.partition.append(Append {
            body: encode(&batch),
            count: batch.rows() as u32,
            min_time,
            max_time,
            producers: position
                .map(|at| (Arc::clone(&at.producer), at.position))
                .into_iter()
                .collect(),
            attributes: match (entry.is_snapshot, entry.is_note) {
                (true, _) => SNAPSHOT,
                (false, true) => NOTE,
                (false, false) => 0,
            } | if entry.is_kept { KEPT } else { 0 },
            companion: None,
            done: Some(Box::new(move |result| {
                // The receiver is gone if the writer returned an error earlier.
                let _ = tell.send(result.map(drop));
            })),
        });
        Ok(told)
    }
}

type Told = mpsc::Receiver<Result<(), LogError>>;

fn wait(told: &Told) -> Result<(), Error> {
    match told.recv() {
        Ok(result) => result.map_err(from_log),
        Err(_) => Err(from_log(LogError::Closed)),
    }
}

fn batch(entry: &Entry) -> Result<Batch, Error> {
    let rows = entry.rows.num_rows();
    // Batches have topics; the table's rows have none to tell.
    let topics = StringArray::from_iter_values(std::iter::repeat_n("row", rows));
    let mut envelope = Envelope::new(&topics, entry.times.clone());
    if let Some(deletes) = &entry.deletes {
        let flags = deletes
            .values()
            .iter()
            .map(|is_delete| u8::from(is_delete) * DELETE);
        envelope.flags = UInt8Array::from_iter_values(flags);
    }
    let fields: Fields = entry.rows.schema().fields().clone();
    let columns: Vec<ArrayRef> = entry.rows.columns().to_vec();
    let columns = StructArray::try_new(fields, columns, None).map_err(arrow_error)?;
    Batch::from_columns(envelope, Body::Columns(columns))
}

fn read_entry(frame: &busbar_log::Frame) -> Result<Entry, Error> {
    let batch = decode(frame.body.clone())?;
    let Body::Columns(columns) = batch.body() else {
        return Err(Error::new(Class::Permanent, "table.journal"));
    };
    let deletes = batch.flags().iter().any(|flags| *flags & DELETE != 0);
    let deletes = deletes.then(|| {
        let flags = batch.flags().iter();
        BooleanArray::from_iter(flags.map(|flags| Some(flags & DELETE != 0)))
    });
    Ok(Entry {
        rows: RecordBatch::from(columns),
        deletes,
        times: batch.times().to_vec(),
        is_snapshot: frame.attributes & SNAPSHOT != 0,
        is_note: frame.attributes & NOTE != 0,
        is_kept: frame.attributes & KEPT != 0,
    })
}

/// The same error with the log's class, code and arguments.
pub(crate) fn from_log(error: LogError) -> Error {
    let class = match error.class() {
        busbar_log::Class::Transient => Class::Transient,
        busbar_log::Class::Permanent => Class::Permanent,
        busbar_log::Class::Configuration => Class::Configuration,
    };
    let made = Error::new(class, error.code());
    let args = error.args().into_iter();
    args.fold(made, |made, (name, value)| made.with(name, value))
}
