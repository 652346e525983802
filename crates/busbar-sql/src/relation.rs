//! What a query can be asked about.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::BinaryArray;
use arrow::datatypes::SchemaRef;
use busbar_bus::{Cursor, Item, Stream};
use busbar_event::format::FormatSpec;
use busbar_event::{Batch, Error, Micros, relation_schema};
use busbar_table::Table;

use crate::families::TableShape;

use crate::limits::SCAN_READ_BYTES_MAX;

/// Streams and tables by name.
pub trait Relations: Send + Sync {
    /// All names, for `show tables` and suggestions.
    fn names(&self) -> Vec<String>;

    /// What a name stands for. May block on the disk.
    fn relation(&self, name: &str) -> Result<Option<Relation>, Error>;
}

/// A stream or a table.
#[derive(Clone, Debug)]
pub enum Relation {
    /// Events.
    Stream(StreamRelation),
    /// Rows.
    Table(Arc<dyn Table>),
}

impl Relation {
    /// The columns that queries see.
    pub fn schema(&self) -> SchemaRef {
        match self {
            Self::Stream(stream) => stream.schema(),
            Self::Table(table) => TableShape::of(&**table).schema,
        }
    }

    /// `stream` or `table`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stream(_) => "stream",
            Self::Table(_) => "table",
        }
    }
}

/// Events of a stream as rows: `topic`, `key`, `time`, `tags`, `partition`, `offset`, and the columns of
/// the payload, or the `payload` itself where it has none.
#[derive(Clone, Debug)]
pub struct StreamRelation {
    pub(crate) events: Arc<dyn Events>,
    pub(crate) format: FormatSpec,
    /// The payload's columns; none if it is taken as it is.
    pub(crate) columns: Option<SchemaRef>,
    /// Where in payloads more tags are.
    pub(crate) tags: Option<String>,
    schema: SchemaRef,
}

impl StreamRelation {
    /// What is in a stream now. May block on the disk, where columns must be inferred first.
    pub fn of(stream: &Arc<Stream>) -> Result<Self, Error> {
        let events = Arc::new(StreamEvents(Arc::clone(stream)));
        let spec = stream.spec();
        let relation = Self::new(events, spec.format.clone(), stream.schema()?);
        Ok(Self {
            tags: spec.tags.clone(),
            ..relation
        })
    }

    /// Events from anywhere, decoded by `format` to `columns`.
    pub fn new(events: Arc<dyn Events>, format: FormatSpec, columns: Option<SchemaRef>) -> Self {
        let schema = relation_schema(columns.as_ref());
        Self {
            events,
            format,
            columns,
            tags: None,
            schema,
        }
    }

    /// The columns that queries see.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// Committed events that can be read again, in partitions.
pub trait Events: Debug + Send + Sync {
    /// How many partitions there are.
    fn partitions(&self) -> usize;

    /// The offsets there are in a partition now.
    fn range(&self, partition: usize) -> Range<u64>;

    /// An offset before which every event of a partition is older than `time`. May block.
    fn offset_at_time(&self, partition: usize, time: Micros) -> Result<u64, Error>;

    /// Events of a partition in order, no more than the range. Blocks while it is read.
    fn read(
        &self,
        partition: usize,
        range: Range<u64>,
    ) -> Box<dyn Iterator<Item = Result<Piece, Error>> + Send>;

    /// Widens inferred columns to hold payloads that they did not fit; whether that changed them. They are
    /// wider in the next query. May block.
    fn widen(&self, _payloads: &BinaryArray) -> Result<bool, Error> {
        Ok(false)
    }
}

/// A piece of what is read.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Events with consecutive offsets, and the offset of the first.
    Events(u64, Batch),
    /// So many events cannot be read: their place is damaged, or they are gone meanwhile.
    Missing(u64),
}

/// The events of a bus's stream.
struct StreamEvents(Arc<Stream>);

impl Events for StreamEvents {
    fn partitions(&self) -> usize {
        self.0.partitions().len()
    }

    fn range(&self, partition: usize) -> Range<u64> {
        match self.0.partitions().get(partition) {
            Some(partition) => partition.start()..partition.end(),
            None => 0..0,
        }
    }

    fn offset_at_time(&self, partition: usize, time: Micros) -> Result<u64, Error> {
        match self.0.partitions().get(partition) {
            Some(partition) => partition.offset_at_time(time),
            None => Ok(0),
        }
    }

    fn read(
        &self,
        partition: usize,
        range: Range<u64>,
    ) -> Box<dyn Iterator<Item = Result<Piece, Error>> + Send> {
        let Some(partition) = self.0.partitions().get(partition).cloned() else {
            return Box::new(std::iter::empty());
        };
        let mut cursor = Cursor::new(partition, range.start).with_read_bytes(SCAN_READ_BYTES_MAX);
        let mut over = false;
        Box::new(std::iter::from_fn(move || {
            if over || cursor.position() >= range.end {
                return None;
            }
            match cursor.try_next() {
                Ok(None) => None,
                Ok(Some(Item::Gap(gap))) => {
                    let missing = gap.resume.min(range.end).saturating_sub(gap.from);
                    Some(Ok(Piece::Missing(missing)))
                }
                Ok(Some(Item::Chunk(chunk))) => {
                    let rows = range.end.saturating_sub(chunk.base);
                    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
                    let batch = match rows < chunk.batch.rows() {
                        true => chunk.batch.slice(0, rows),
                        false => chunk.batch,
                    };
                    Some(Ok(Piece::Events(chunk.base, batch)))
                }
                Err(error) => {
                    over = true;
                    Some(Err(error))
                }
            }
        }))
    }

    fn widen(&self, payloads: &BinaryArray) -> Result<bool, Error> {
        self.0.widen_schema(payloads)
    }
}

impl Debug for StreamEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StreamEvents").field(&self.0.name()).finish()
    }
}
