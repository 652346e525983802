//! Streams under a query.
//!
//! A scan reads the offsets there were when the query began, some megabytes at a time. What a query
//! asks of `time` and `topic` is used before anything is decoded: by the log's index, by the
//! batch's range of times, and once for each distinct topic of a batch. Of the payload only the columns
//! asked for are decoded. Values that do not fit their column are null and counted; events whose payload
//! cannot be read are left out and counted.
//!
//! `order by time desc limit n` reads from the end, and stops where the log's index says that all
//! that is left is older than the n rows there are.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, DictionaryArray, Int32Array, Int64Array,
    RecordBatch, RecordBatchOptions, StructArray, UInt32Array, new_null_array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use busbar_event::format::{Decoder, PayloadTags, source_name};
use busbar_event::{Batch, Body, Class, Error, RELATION_COLUMNS};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion_execution::TaskContext;
use datafusion_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion_physical_expr::expressions::{self, Column, DynamicFilterPhysicalExpr, Literal};
use datafusion_physical_expr::{
    EquivalenceProperties, Partitioning, PhysicalExpr, PhysicalSortExpr,
};
use datafusion_physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion_physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion_physical_plan::sort_pushdown::SortOrderPushdownResult;
use datafusion_physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion_physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use datafusion_session::{Session, TableProvider};

use crate::explain::kernel_error;
use crate::limits::{BATCH_ROWS, SCAN_BATCHES_AHEAD_MAX, SCAN_DECODE_BYTES_MAX, SCAN_WINDOW_ROWS};
use crate::partial::Partial;
use crate::relation::{Piece, StreamRelation};
use crate::session;

/// What scans of a query left out.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    /// Events that are left out because their payload cannot be read.
    pub undecodable: AtomicU64,
    /// Events that are shown with null in place of a value that does not fit its column.
    pub partial: AtomicU64,
    /// Events whose place could not be read.
    pub unreadable: AtomicU64,
}

/// A stream as DataFusion sees it, with the offsets there were when the query began.
#[derive(Debug)]
pub(crate) struct StreamRows {
    relation: StreamRelation,
    ranges: Vec<Range<u64>>,
    left_out: Arc<LeftOut>,
}

impl StreamRows {
    pub fn new(relation: StreamRelation, left_out: Arc<LeftOut>) -> Self {
        let partitions = 0..relation.events.partitions();
        Self {
            ranges: partitions.map(|p| relation.events.range(p)).collect(),
            relation,
            left_out,
        }
    }
}

#[async_trait]
impl TableProvider for StreamRows {
    fn schema(&self) -> SchemaRef {
        self.relation.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let usable = |filter: &&Expr| match time_bound(filter).is_some() || asks_topic(filter) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(usable).collect())
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.relation.schema();
        let projected = match projection {
            Some(columns) => Arc::new(schema.project(columns)?),
            None => Arc::clone(&schema),
        };
        let mut wanted = Wanted::default();
        for filter in filters {
            if let Some(bound) = time_bound(filter) {
                wanted.times.narrow(bound);
            } else if asks_topic(filter) {
                wanted.topics.push(topic_filter(&schema, filter)?);
            }
        }
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&projected)),
            Partitioning::UnknownPartitioning(self.ranges.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(StreamScan {
            relation: self.relation.clone(),
            ranges: self.ranges.clone(),
            wanted,
            limit,
            newest_first: false,
            top: Vec::new(),
            schema: projected,
            left_out: Arc::clone(&self.left_out),
            properties: Arc::new(properties),
        }))
    }
}

/// What of a stream is wanted, as far as it can be told before decoding.
#[derive(Clone, Debug, Default)]
struct Wanted {
    times: Times,
    /// Conditions over a batch of only the topic column.
    topics: Vec<Arc<dyn PhysicalExpr>>,
}

/// From and to, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    from: i64,
    to: i64,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            from: i64::MIN,
            to: i64::MAX,
        }
    }
}

impl Times {
    fn narrow(&mut self, other: Times) {
        self.from = self.from.max(other.from);
        self.to = self.to.min(other.to);
    }
}

#[derive(Clone, Debug)]
struct StreamScan {
    relation: StreamRelation,
    ranges: Vec<Range<u64>>,
    wanted: Wanted,
    limit: Option<usize>,
    newest_first: bool,
    /// What the operators above have come to know: rows below the n best are not wanted any more.
    top: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    left_out: Arc<LeftOut>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for StreamScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<&str> = self
            .schema
            .fields()
            .iter()
            .map(|c| c.name().as_str())
            .collect();
        write!(f, "StreamScan: columns=[{}]", columns.join(", "))?;
        if self.wanted.times != Times::default() {
            f.write_str(", by time")?;
        }
        for topic in &self.wanted.topics {
            write!(f, ", each topic: {topic}")?;
        }
        if let Some(limit) = self.limit {
            write!(f, ", limit={limit}")?;
        }
        if self.newest_first {
            f.write_str(", newest first")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for StreamScan {
    fn name(&self) -> &str {
        "StreamScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> Result<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        let newest_first = order.first().is_some_and(|first| {
            let column = first.expr.downcast_ref::<Column>();
            first.options.descending && column.is_some_and(|column| column.name() == "time")
        });
        if !newest_first {
            return Ok(SortOrderPushdownResult::Unsupported);
        }
        // Not exactly: devices' clocks differ, so the sort stays.
        Ok(SortOrderPushdownResult::Inexact {
            inner: Arc::new(Self {
                newest_first: true,
                ..self.clone()
            }),
        })
    }

    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let known: Vec<Arc<dyn PhysicalExpr>> = result
            .parent_filters
            .iter()
            .map(|filter| Arc::clone(&filter.filter))
            .filter(|filter| filter.is::<DynamicFilterPhysicalExpr>())
            .collect();
        // The operators above go on testing every row.
        let mut answer: FilterPushdownPropagation<Arc<dyn ExecutionPlan>> =
            FilterPushdownPropagation::if_all(result);
        if !known.is_empty() {
            answer.updated_node = Some(Arc::new(Self {
                top: [&self.top[..], &known[..]].concat(),
                ..self.clone()
            }));
        }
        Ok(answer)
    }

    fn execute(
        &self,
        partition: usize,
        _context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let mut builder =
            RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), SCAN_BATCHES_AHEAD_MAX);
        let sender = builder.tx();
        let scan = self.clone();
        builder.spawn_blocking(move || {
            let decoding = Decoding::new(&scan, partition).map_err(outside)?;
            let mut reading = Reading {
                scan: &scan,
                decoding,
                left: scan.limit.unwrap_or(usize::MAX),
                pending: Vec::new(),
                pending_offsets: Vec::new(),
                is_wide: false,
                pending_rows: 0,
                pending_bytes: 0,
                send: &mut |batch| sender.blocking_send(Ok(batch)).is_ok(),
                is_wanted: &|| !sender.is_closed(),
            };
            reading.read(partition)
        });
        Ok(builder.build())
    }
}

/// One partition being read, on a thread that may block.
struct Reading<'a> {
    scan: &'a StreamScan,
    decoding: Decoding,
    left: usize,
    /// Small batches that are decoded together, and the offsets of their rows.
    pending: Vec<Batch>,
    pending_offsets: Vec<i64>,
    /// Widening the columns for events that do not fit changes nothing.
    is_wide: bool,
    pending_rows: usize,
    pending_bytes: usize,
    /// False when nobody wants more.
    send: &'a mut dyn FnMut(RecordBatch) -> bool,
    /// False when the query is over. A scan that finds nothing has nothing to send, and asks.
    is_wanted: &'a dyn Fn() -> bool,
}

impl Reading<'_> {
    fn read(&mut self, partition: usize) -> Result<()> {
        let mut range = self.scan.ranges.get(partition).cloned().unwrap_or(0..0);
        let events = &self.scan.relation.events;
        let times = self.scan.wanted.times;
        if times.from > times.to {
            return Ok(());
        }
        if times.from > i64::MIN && !range.is_empty() {
            let first = events
                .offset_at_time(partition, times.from)
                .map_err(outside)?;
            range.start = range.start.max(first);
        }
        if !self.scan.newest_first {
            self.read_range(partition, range)?;
            return Ok(());
        }
        let mut end = range.end;
        let mut floor = i64::MIN;
        while end > range.start && self.left > 0 {
            if let Some(oldest) = self.scan.oldest_wanted()
                && oldest > floor
            {
                floor = oldest;
                let first = events.offset_at_time(partition, oldest).map_err(outside)?;
                range.start = range.start.max(first);
            }
            let start = end.saturating_sub(SCAN_WINDOW_ROWS).max(range.start);
            if start >= end || !self.read_range(partition, start..end)? {
                return Ok(());
            }
            end = start;
        }
        Ok(())
    }

    /// False when nobody wants more.
    fn read_range(&mut self, partition: usize, range: Range<u64>) -> Result<bool> {
        if range.is_empty() {
            return Ok(true);
        }
        for piece in self.scan.relation.events.read(partition, range) {
            if !(self.is_wanted)() {
                return Ok(false);
            }
            match piece.map_err(outside)? {
                Piece::Missing(events) => {
                    let unreadable = &self.scan.left_out.unreadable;
                    unreadable.fetch_add(events, Ordering::Relaxed);
                }
                Piece::Events(base, batch) => {
                    if let Some((batch, rows)) = self.scan.wanted.select(batch)? {
                        self.pending_rows += batch.rows();
                        self.pending_bytes += batch.bytes();
                        if self.decoding.has_offsets {
                            self.note_offsets(base, batch.rows(), rows);
                        }
                        self.pending.push(batch);
                    }
                    let is_full = self.pending_rows >= BATCH_ROWS
                        || self.pending_bytes >= SCAN_DECODE_BYTES_MAX;
                    if is_full && !self.flush()? {
                        return Ok(false);
                    }
                }
            }
        }
        self.flush()
    }

    /// Lets the stream widen inferred columns that events do not fit, until that changes nothing.
    fn widen(&mut self) -> Result<()> {
        let Some(misfits) = self.decoding.misfits.take().filter(|_| !self.is_wide) else {
            return Ok(());
        };
        let widened = self.scan.relation.events.widen(&misfits);
        self.is_wide = !widened.map_err(outside)?;
        Ok(())
    }

    /// Adds the offsets of the next `count` rows: of the selected ones of a piece, or of all.
    fn note_offsets(&mut self, base: u64, count: usize, selected: Option<UInt32Array>) {
        let base = base as i64;
        match selected {
            Some(rows) => {
                let rows = rows.values().iter();
                self.pending_offsets
                    .extend(rows.map(|row| base + i64::from(*row)));
            }
            None => self.pending_offsets.extend(base..base + count as i64),
        }
    }

    fn flush(&mut self) -> Result<bool> {
        self.pending_rows = 0;
        self.pending_bytes = 0;
        let pending = std::mem::take(&mut self.pending);
        let offsets = Int64Array::from(std::mem::take(&mut self.pending_offsets));
        let mut done = 0;
        let joined = match &pending[..] {
            [] => return Ok(true),
            [_] => Ok(pending.clone()),
            many => Batch::concat(many).map(|batch| vec![batch]),
        };
        // Batches with different columns are decoded one after the other.
        for batch in joined.unwrap_or(pending) {
            let offsets = match self.decoding.has_offsets {
                true => offsets.slice(done, batch.rows()),
                false => Int64Array::from(Vec::<i64>::new()),
            };
            done += batch.rows();
            let left_out = &self.scan.left_out;
            let decoded = self.decoding.decode(&batch, offsets, left_out);
            let mut rows = decoded.map_err(outside)?;
            self.widen()?;
            if rows.num_rows() > self.left {
                rows = rows.slice(0, self.left);
            }
            self.left -= rows.num_rows();
            if rows.num_rows() > 0 && !(self.send)(rows) {
                return Ok(false);
            }
            if self.left == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Wanted {
    /// The events of a batch that may be wanted, and which rows they are if not all; none if none is.
    fn select(&self, batch: Batch) -> Result<Option<(Batch, Option<UInt32Array>)>> {
        if batch.rows() == 0 {
            return Ok(None);
        }
        let (first, last) = batch.time_range();
        if last < self.times.from || first > self.times.to {
            return Ok(None);
        }
        let Some(topics) = self.topics(&batch)? else {
            return Ok(Some((batch, None)));
        };
        if topics.true_count() == topics.len() {
            return Ok(Some((batch, None)));
        }
        if topics.true_count() == 0 {
            return Ok(None);
        }
        let keys = batch.topic_keys().iter().enumerate();
        let rows = keys.filter(|(_, topic)| topics.value(**topic as usize));
        let rows: UInt32Array = rows.map(|(row, _)| row as u32).collect();
        if rows.len() == batch.rows() {
            return Ok(Some((batch, None)));
        }
        if rows.is_empty() {
            return Ok(None);
        }
        Ok(Some((batch.take(&rows), Some(rows))))
    }

    /// For each distinct topic whether it may be wanted; none if all may.
    fn topics(&self, batch: &Batch) -> Result<Option<BooleanArray>> {
        let mut all: Option<BooleanArray> = None;
        if self.topics.is_empty() {
            return Ok(None);
        }
        let values = batch.topic_values();
        let keys = Int32Array::from_iter_values(0..values.len() as i32);
        let each = DictionaryArray::new(keys, Arc::new(values.clone()));
        let rows = RecordBatch::try_from_iter([("topic", Arc::new(each) as ArrayRef)])?;
        for condition in &self.topics {
            let answer = condition.evaluate(&rows)?.into_array(rows.num_rows())?;
            let answer = answer.as_boolean();
            // A null counts as no, as it does for the row in the end.
            let answer = match answer.nulls() {
                Some(nulls) => BooleanArray::new(answer.values() & nulls.inner(), None),
                None => answer.clone(),
            };
            all = Some(match all {
                Some(all) => arrow::compute::and(&all, &answer)?,
                None => answer,
            });
        }
        Ok(all)
    }
}

impl StreamScan {
    /// The oldest time that the operators above still want, if they know one.
    fn oldest_wanted(&self) -> Option<i64> {
        let bounds = self.top.iter().filter_map(|filter| {
            let filter = filter.downcast_ref::<DynamicFilterPhysicalExpr>()?;
            newer_than(&filter.current().ok()?)
        });
        bounds.max()
    }
}

/// A time such that no older event passes the filter, which is `time > t`, perhaps beside `time is null
/// or`, or of the form `time > t or (time = t and …)` where more than the time orders the rows.
fn newer_than(expr: &Arc<dyn PhysicalExpr>) -> Option<i64> {
    let is_time = |side: &Arc<dyn PhysicalExpr>| {
        let column = side.downcast_ref::<Column>();
        column.is_some_and(|column| column.name() == "time")
    };
    if let Some(is_null) = expr.downcast_ref::<expressions::IsNullExpr>() {
        // No event is without a time.
        return is_time(is_null.arg()).then_some(i64::MAX);
    }
    let binary = expr.downcast_ref::<expressions::BinaryExpr>()?;
    let (left, right) = (binary.left(), binary.right());
    match binary.op() {
        Operator::Gt | Operator::GtEq | Operator::Eq if is_time(left) => {
            match right.downcast_ref::<Literal>()?.value() {
                ScalarValue::TimestampMicrosecond(time, _) => *time,
                _ => None,
            }
        }
        Operator::And => newer_than(left).max(newer_than(right)),
        Operator::Or => Some(newer_than(left)?.min(newer_than(right)?)),
        _ => None,
    }
}

/// From events to the rows of a relation.
struct Decoding {
    schema: SchemaRef,
    sources: Vec<Source>,
    decoder: Option<Decoder>,
    /// Adds the tags of payloads, where tags are asked for.
    tags: Option<PayloadTags>,
    /// Reads what can be read of payloads that do not fit; made when the first one comes.
    partial: Option<Partial>,
    relation: StreamRelation,
    wanted: Vec<usize>,
    /// Payloads of the last batch that do not fit the columns.
    misfits: Option<BinaryArray>,
    partition: i64,
    /// Whether the answer has offsets.
    has_offsets: bool,
}

/// Where a column of the answer comes from.
enum Source {
    /// The envelope, by name.
    Envelope(&'static str),
    /// The number of the partition.
    Partition,
    /// The offsets.
    Offset,
    /// The payload as it is.
    Payload,
    /// A column of the payload, by its place among the decoded ones.
    Column(usize),
}

impl Decoding {
    fn new(scan: &StreamScan, partition: usize) -> Result<Self, Error> {
        let mut wanted = Vec::new();
        let columns = scan.relation.columns.as_ref();
        let source = |field: &arrow::datatypes::FieldRef| {
            let name = field.name().as_str();
            if let Some(known) = RELATION_COLUMNS.iter().find(|known| **known == name) {
                return match *known {
                    "partition" => Source::Partition,
                    "offset" => Source::Offset,
                    known => Source::Envelope(known),
                };
            }
            match columns.and_then(|columns| columns.index_of(name).ok()) {
                Some(index) => {
                    wanted.push(index);
                    Source::Column(wanted.len() - 1)
                }
                None => Source::Payload,
            }
        };
        let sources: Vec<Source> = scan.schema.fields().iter().map(source).collect();
        let decoder = match columns {
            Some(columns) if !wanted.is_empty() => {
                Some(Decoder::new(&scan.relation.format, columns, &wanted)?)
            }
            _ => None,
        };
        Ok(Self {
            schema: Arc::clone(&scan.schema),
            has_offsets: sources
                .iter()
                .any(|source| matches!(source, Source::Offset)),
            partition: partition as i64,
            tags: match &scan.relation.tags {
                Some(path)
                    if sources
                        .iter()
                        .any(|s| matches!(s, Source::Envelope("tags"))) =>
                {
                    Some(PayloadTags::new(&scan.relation.format, path)?)
                }
                _ => None,
            },
            sources,
            decoder,
            partial: None,
            misfits: None,
            relation: scan.relation.clone(),
            wanted,
        })
    }

    /// The rows of a batch. Counts the events that are not, or not wholly, among them.
    fn decode(
        &mut self,
        batch: &Batch,
        offsets: Int64Array,
        left_out: &LeftOut,
    ) -> Result<RecordBatch, Error> {
        let tagged = self.tags.as_mut().map(|tags| tags.apply(batch));
        let batch = match &tagged {
            None => batch,
            Some(tagged) => {
                let misshapen = tagged.rejected.len() as u64;
                left_out.partial.fetch_add(misshapen, Ordering::Relaxed);
                &tagged.events
            }
        };
        let mut good: Option<UInt32Array> = None;
        let mut decoded: Option<RecordBatch> = None;
        if let Some(decoder) = &mut self.decoder {
            if let Body::Columns(values) = batch.body() {
                decoded = Some(pick(values, decoder.schema())?);
            } else {
                let payloads = batch.payloads();
                let result = decoder.decode(&payloads);
                if result.rejected.is_empty() {
                    good = result.rows;
                    decoded = Some(result.columns);
                } else {
                    let misfits = result.rejected.iter();
                    let misfits = misfits.map(|misfit| Some(payloads.value(misfit.row)));
                    self.misfits = Some(misfits.collect());
                    let partial = match &mut self.partial {
                        Some(partial) => partial,
                        none => none.insert(partial(&self.relation, &self.wanted)?),
                    };
                    let patched = partial.patch(&payloads, result)?;
                    let count = |counter: &AtomicU64, rows: usize| {
                        counter.fetch_add(rows as u64, Ordering::Relaxed);
                    };
                    count(&left_out.undecodable, patched.undecodable);
                    count(&left_out.partial, patched.partial);
                    good = Some(patched.rows);
                    decoded = Some(patched.columns);
                }
            }
        }
        let rows = match &decoded {
            Some(decoded) => decoded.num_rows(),
            None => batch.rows(),
        };
        let record = batch.record();
        let columns = self.sources.iter().map(|source| {
            let column = match source {
                Source::Column(place) => {
                    let decoded = decoded.as_ref();
                    return Ok(decoded.map(|decoded| Arc::clone(decoded.column(*place))));
                }
                Source::Partition => {
                    let partitions = Int64Array::from_value(self.partition, rows);
                    return Ok(Some(Arc::new(partitions) as ArrayRef));
                }
                Source::Offset => Some(Arc::new(offsets.clone()) as ArrayRef),
                Source::Envelope(name) => record.column_by_name(name).cloned(),
                Source::Payload => Some(Arc::new(batch.payloads().into_owned()) as ArrayRef),
            };
            match (&good, column) {
                (Some(good), Some(column)) => {
                    take(&column, good, None).map(Some).map_err(kernel_error)
                }
                (_, column) => Ok(column),
            }
        });
        let mut arrays = Vec::with_capacity(self.sources.len());
        for (column, field) in columns.zip(self.schema.fields()) {
            let column: Option<ArrayRef> = column?;
            arrays.push(column.unwrap_or_else(|| new_null_array(field.data_type(), rows)));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options);
        rows.map_err(kernel_error)
    }
}

fn partial(relation: &StreamRelation, wanted: &[usize]) -> Result<Partial, Error> {
    let columns = relation.columns.as_ref();
    let nothing = || Error::new(Class::Permanent, "sql.evaluate");
    let columns = columns.ok_or_else(nothing)?;
    Partial::new(&relation.format, columns, wanted)
}

/// The decoder's columns out of columns that are typed already.
fn pick(values: &StructArray, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let columns = schema.fields().iter().map(|field| {
        let nothing = || Ok(new_null_array(field.data_type(), values.len()));
        match values.column_by_name(source_name(field)) {
            Some(found) if found.data_type() == field.data_type() => Ok(Arc::clone(found)),
            Some(found) => cast(found, field.data_type()).or_else(|_| nothing()),
            None => nothing(),
        }
    });
    let columns = columns
        .collect::<Result<Vec<_>, _>>()
        .map_err(kernel_error)?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(kernel_error)
}

/// The bound that a filter sets on `time`, if that is what it does.
fn time_bound(filter: &Expr) -> Option<Times> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else {
        return None;
    };
    let (column, value, op) = match (&**left, &**right) {
        (Expr::Column(column), Expr::Literal(value, _)) => (column, value, *op),
        (Expr::Literal(value, _), Expr::Column(column)) => (column, value, op.swap()?),
        _ => return None,
    };
    let ScalarValue::TimestampMicrosecond(Some(time), _) = value else {
        return None;
    };
    if column.name != "time" {
        return None;
    }
    let mut times = Times::default();
    match op {
        Operator::Eq => (times.from, times.to) = (*time, *time),
        Operator::Gt => times.from = time.saturating_add(1),
        Operator::GtEq => times.from = *time,
        Operator::Lt => times.to = time.saturating_sub(1),
        Operator::LtEq => times.to = *time,
        _ => return None,
    }
    Some(times)
}

/// Whether a filter asks for the topic and nothing else.
fn asks_topic(filter: &Expr) -> bool {
    let columns = filter.column_refs();
    columns.len() == 1 && columns.iter().all(|column| column.name == "topic")
}

/// A filter over a batch of only the topic column.
fn topic_filter(schema: &SchemaRef, filter: &Expr) -> Result<Arc<dyn PhysicalExpr>> {
    let topic = schema.index_of("topic")?;
    let only = DFSchema::try_from(schema.project(&[topic])?)?;
    let unqualified = datafusion_expr::expr_rewriter::unnormalize_col(filter.clone());
    session::state().create_physical_expr(unqualified, &only)
}

fn outside(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
