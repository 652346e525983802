//! The writes of a hot table in a partition of the log, from which the table is restored after a restart.
//!
//! | frame | rows | time of a row | flag of a row |
//! | --- | --- | --- | --- |
//! | a write, with attribute [`WHOLE`] where changes are kept | those of the write | when it was written | that of a deletion |
//! | with attribute [`MOVED`] | keys of rows that are in another table now | when they had moved | that of a deletion |
//! | part of a snapshot, with attribute [`SNAPSHOT`] | rows that the table held | when it was last written | none |
//! | a note, with attribute [`NOTE`] | one without values, which is not applied: it only tells the columns of the table, the position of a write without rows, or whether rows are [`KEPT`] from now on | when it was written | none |
//!
//! Frames are applied in order. A snapshot holds what the frames before it make, so applying both is the
//! same as applying the snapshot alone, and frames before a whole snapshot are removed. The positions of
//! producers are those of the log, which keeps them when frames are removed.

use std::sync::{Arc, mpsc};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow::datatypes::SchemaRef;
use busbar_event::{Class, Error, encode};
use busbar_log::{Append, Durability, Frame, LogError, Partition, PartitionOptions};
use parking_lot::Mutex;

use crate::ProducerPosition;
use crate::change_log::{FramedRows, gap};
use crate::columns::arrow_error;
use crate::limits::{JOURNAL_BYTES_MIN, JOURNAL_READ_BYTES, JOURNAL_SEGMENT_BYTES};
use crate::{ReadChanges, TableChange};

/// Frames of a snapshot have this attribute.
const SNAPSHOT: u16 = 1;

/// A frame without rows to apply has this attribute.
const NOTE: u16 = 2;

/// Frames have this attribute while rows leave the table by journalled deletions alone: neither expiry nor eviction
/// is worked out again when they are applied.
const KEPT: u16 = 4;

/// The rows of the frame have all columns of the table, deleted ones as they were, for those who follow the table.
const WHOLE: u16 = 8;

/// The rows of the frame have moved to another table.
const MOVED: u16 = 16;
/// What the name of a producer begins with in the frame of a part of its write.
const PART: &str = "$part:";

/// The journal of one table.
pub(super) struct Journal {
    partition: Partition,
    /// Held while a write is journalled and applied, so that both happen in one order.
    pub writing: Mutex<()>,
    /// What those who follow the table still need.
    followed: Mutex<JournalNeeds>,
}

/// What of a journal is needed by those who follow the table.
#[derive(Default)]
struct JournalNeeds {
    /// Whether anybody follows it.
    is_followed: bool,
    /// Up to where they have taken the changes.
    taken: u64,
    /// The beginning of a snapshot before which nothing but changes is needed.
    snapshot: Option<u64>,
}

/// Rows as a frame holds them.
pub(super) struct Entry {
    pub rows: RecordBatch,
    pub deletes: Option<BooleanArray>,
    /// When each row was written.
    pub times: Vec<i64>,
    pub kind: EntryKind,
    /// Rows leave the table by deletions alone, not by expiry and eviction.
    pub is_kept: bool,
}

/// What the rows of a frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    Write,
    /// A write with whole rows.
    WholeWrite,
    Snapshot,
    /// The rows are not applied; only their columns count.
    Note,
    Moved,
}

impl EntryKind {
    fn attributes(self) -> u16 {
        match self {
            EntryKind::Write => 0,
            EntryKind::WholeWrite => WHOLE,
            EntryKind::Snapshot => SNAPSHOT,
            EntryKind::Note => NOTE,
            EntryKind::Moved => MOVED,
        }
    }

    fn of(attributes: u16) -> EntryKind {
        let has = |attribute| attributes & attribute != 0;
        match attributes {
            _ if has(SNAPSHOT) => EntryKind::Snapshot,
            _ if has(NOTE) => EntryKind::Note,
            _ if has(MOVED) => EntryKind::Moved,
            _ if has(WHOLE) => EntryKind::WholeWrite,
            _ => EntryKind::Write,
        }
    }
}

impl Journal {
    pub fn new(partition: Partition) -> Self {
        Self {
            partition,
            writing: Mutex::default(),
            followed: Mutex::default(),
        }
    }

    /// Whether the table is followed from now on.
    pub fn follow(&self, is_followed: bool) -> Result<(), Error> {
        self.followed.lock().is_followed = is_followed;
        self.trim()
    }

    /// The position behind the last entry.
    pub fn end(&self) -> u64 {
        self.partition.end()
    }

    /// Those who follow the table have taken the changes up to here.
    pub fn taken(&self, until: u64) -> Result<(), Error> {
        let mut followed = self.followed.lock();
        followed.taken = followed.taken.max(until);
        drop(followed);
        self.trim()
    }

    /// Bytes that are kept for those who follow the table alone, about.
    pub fn bytes_waiting(&self, table_bytes: u64) -> u64 {
        let usual = JOURNAL_BYTES_MIN + 2 * table_bytes;
        self.partition.bytes().saturating_sub(usual)
    }

    /// Removes what nobody needs any more.
    fn trim(&self) -> Result<(), Error> {
        let mut followed = self.followed.lock();
        match followed.snapshot {
            Some(snapshot) if !followed.is_followed || followed.taken >= snapshot => {
                followed.snapshot = None;
                self.partition.trim(snapshot).map_err(from_log)
            }
            _ => Ok(()),
        }
    }

    /// Changes behind a position; see [`crate::ChangeLog::read`].
    pub fn changes(
        &self,
        table: &str,
        behind: u64,
        bytes_max: usize,
    ) -> Result<ReadChanges, Error> {
        if behind > self.partition.end() {
            return Err(gap(table, behind));
        }
        let from = behind.max(self.partition.start());
        let frames = match self.partition.read(from, bytes_max) {
            Ok(frames) => frames,
            Err(LogError::Damaged { .. } | LogError::Trimmed { .. }) => {
                return Err(gap(table, behind));
            }
            Err(error) => return Err(from_log(error)),
        };
        let mut read = ReadChanges {
            changes: Vec::new(),
            until: from,
        };
        for frame in frames {
            read.until = frame.end();
            match EntryKind::of(frame.attributes) {
                EntryKind::Snapshot | EntryKind::Note | EntryKind::Moved => continue,
                // It was made while changes were not kept.
                EntryKind::Write => return Err(gap(table, behind)),
                EntryKind::WholeWrite => {}
            }
            let FramedRows { rows, deletes, .. } = FramedRows::read(frame.body.clone())?;
            let change = TableChange {
                begin: frame.base,
                producer: frame.producers.first().map(|(name, _)| producer_of(name)),
                time: frame.max_time,
                rows,
                deletes,
            };
            read.changes.push(change.behind(behind));
        }
        Ok(read)
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

    /// The position of a part of a write. The log drops a frame with a position of its producer that it has already, so parts
    /// have a producer and positions of their own.
    pub fn part_position(&self, producer: &str) -> ProducerPosition {
        ProducerPosition::new(format!("{PART}{producer}"), self.end())
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
            kind: EntryKind::Note,
            is_kept,
        };
        self.append(&entry, position)
    }

    /// Whether the journal has become so much larger than the table that a snapshot is worth its cost.
    pub fn wants_snapshot(&self, table_bytes: u64) -> bool {
        self.bytes_waiting(table_bytes) > 0 && self.followed.lock().snapshot.is_none()
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
        self.followed.lock().snapshot = Some(begin);
        self.trim()
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
                        offset = frames.last().map_or(offset, Frame::end);
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
        let rows = FramedRows {
            rows: entry.rows.clone(),
            deletes: entry.deletes.clone(),
            times: entry.times.clone(),
        };
        let batch = rows.batch()?;
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
            attributes: entry.kind.attributes() | if entry.is_kept { KEPT } else { 0 },
            companion: None,
            done: Some(Box::new(move |result| {
                // The receiver is gone if the writer returned an error earlier.
                let _ = tell.send(result.map(drop));
            })),
        });
        Ok(told)
    }
}

/// Who has written a frame.
fn producer_of(name: &Arc<str>) -> Arc<str> {
    match name.strip_prefix(PART) {
        Some(producer) => producer.into(),
        None => Arc::clone(name),
    }
}

type Told = mpsc::Receiver<Result<(), LogError>>;

fn wait(told: &Told) -> Result<(), Error> {
    match told.recv() {
        Ok(result) => result.map_err(from_log),
        Err(_) => Err(from_log(LogError::Closed)),
    }
}

fn read_entry(frame: &Frame) -> Result<Entry, Error> {
    let FramedRows {
        rows,
        deletes,
        times,
    } = FramedRows::read(frame.body.clone())?;
    Ok(Entry {
        rows,
        deletes,
        times,
        kind: EntryKind::of(frame.attributes),
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
