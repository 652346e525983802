use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use busbar_event::{Class, Error};
use datafusion_common::DataFusionError;
use datafusion_execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion_execution::memory_pool::GreedyMemoryPool;
use datafusion_execution::runtime_env::RuntimeEnvBuilder;
use datafusion_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion_physical_plan::{SendableRecordBatchStream, execute_stream};
use datafusion_session::TableProvider;
use futures::StreamExt;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::budget::Budget;
use crate::diagnostic::{explain, run_error};
use crate::expression::refuse_growing_windows;
use crate::limits::{
    ANSWER_BATCHES_AHEAD_MAX, ANSWER_BYTES_MAX_DEFAULT, EXPORT_TIME_MAX_DEFAULT,
    QUERIES_MAX_DEFAULT, QUERY_BYTES_MAX_DEFAULT, QUERY_ROWS_MAX_DEFAULT, QUERY_STACK_BYTES,
    QUERY_THREADS_MAX, QUERY_TIME_MAX_DEFAULT, QUERY_TURN_WAIT_MAX,
};
use crate::names::Names;
use crate::planner::Context;
use crate::relation::{Relation, Relations};
use crate::scan_stream::{LeftOut, StreamRows};
use crate::scan_table::TableRows;
use crate::source::{OneBatch, provider_as_source};
use crate::statement::{self, Kind};
use crate::text::find_word;
use crate::{Diagnostic, bounds, check, information_schema, parse, session};

/// Answers questions about streams and tables, as they are at the moment of asking.
///
/// Only questions: `select`, `with`, `values`, `explain`, `show tables` and `describe <name>`; tools find the
/// same in `information_schema.tables` and `information_schema.columns`. Queries
/// run on threads of their own, so that they take nothing from those that move events but
/// processor time, and each within [`QueryLimits`].
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    relations: Arc<dyn Relations>,
    limits: QueryLimits,
    turns: Arc<Semaphore>,
    /// Turns of queries that return all their rows.
    exports: Arc<Semaphore>,
    /// Some until the engine is dropped.
    runtime: Option<Runtime>,
}

/// Bounds of queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryLimits {
    /// Rows of an answer; one that would have more is cut and says so.
    pub rows_max: usize,
    /// Bytes of an answer; one that would have more is cut and says so.
    pub answer_bytes_max: usize,
    /// Memory of one query.
    pub memory_bytes_max: usize,
    /// Time of one query, its answer's fetching included.
    pub time_max: Duration,
    /// Time of one query that asks for all rows ([`QueryOptions::all_rows`]), with their fetching.
    pub export_time_max: Duration,
    /// Queries at the same time; others wait a little and are then told that the node is busy.
    pub queries_max: usize,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            rows_max: QUERY_ROWS_MAX_DEFAULT,
            answer_bytes_max: ANSWER_BYTES_MAX_DEFAULT,
            memory_bytes_max: QUERY_BYTES_MAX_DEFAULT,
            time_max: QUERY_TIME_MAX_DEFAULT,
            export_time_max: EXPORT_TIME_MAX_DEFAULT,
            queries_max: QUERIES_MAX_DEFAULT,
        }
    }
}

/// What one query asks for besides its text.
#[derive(Clone, Default)]
pub struct QueryOptions {
    /// Fewer rows than [`QueryLimits::rows_max`].
    pub rows_max: Option<usize>,
    /// Whether to return every row: neither `rows_max` nor `answer_bytes_max` of the limits applies.
    pub all_rows: bool,
    /// What may be asked about, in place of all that the engine knows.
    pub relations: Option<Arc<dyn Relations>>,
}

impl fmt::Debug for QueryOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryOptions")
            .field("rows_max", &self.rows_max)
            .finish_non_exhaustive()
    }
}

/// A query's answer as it comes. Dropping it cancels the query.
pub struct QueryResult {
    schema: SchemaRef,
    batches: mpsc::Receiver<Result<RecordBatch, Error>>,
    task: Option<JoinHandle<()>>,
    truncated: Arc<AtomicBool>,
    left_out: Arc<LeftOut>,
    budget: Option<Arc<Budget>>,
    begun: Instant,
}

impl Engine {
    /// An engine over these relations. Threads are made when the first query comes in.
    pub fn new(relations: Arc<dyn Relations>, limits: QueryLimits) -> Result<Self, Error> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.min(QUERY_THREADS_MAX))
            .thread_name("busbar-sql")
            .thread_stack_size(QUERY_STACK_BYTES)
            .enable_time()
            .build()
            .map_err(|cause| Error::new(Class::Transient, "sql.threads").caused_by(cause))?;
        let inner = Inner {
            relations,
            turns: Arc::new(Semaphore::new(limits.queries_max)),
            // Exports take long; the other half of the turns stays free of them.
            exports: Arc::new(Semaphore::new((limits.queries_max / 2).max(1))),
            limits,
            runtime: Some(runtime),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Ask. The answer begins when the query is planned; rows come afterwards.
    pub async fn query(&self, text: &str) -> Result<QueryResult, Diagnostic> {
        self.query_with(text, QueryOptions::default()).await
    }

    /// Ask for fewer rows than the limit.
    pub async fn query_with(
        &self,
        text: &str,
        options: QueryOptions,
    ) -> Result<QueryResult, Diagnostic> {
        let begun = Instant::now();
        let busy = || {
            let busy = Error::new(Class::Transient, "sql.busy")
                .with("queries", self.inner.limits.queries_max);
            Diagnostic::from_error(busy, 0..text.len())
        };
        let export = match options.all_rows {
            true => {
                let exports = Arc::clone(&self.inner.exports).acquire_owned();
                let export = timeout(QUERY_TURN_WAIT_MAX, exports).await;
                Some(export.ok().and_then(Result::ok).ok_or_else(busy)?)
            }
            false => None,
        };
        let turns = Arc::clone(&self.inner.turns);
        let Ok(Ok(turn)) = timeout(QUERY_TURN_WAIT_MAX, turns.acquire_owned()).await else {
            return Err(busy());
        };
        let Some(runtime) = &self.inner.runtime else {
            return Err(closed(text));
        };
        let inner = Arc::clone(&self.inner);
        let owned = text.to_owned();
        let planned = runtime.spawn(async move { plan(&inner, &owned, &options, begun).await });
        let planned = AbortOnDrop(planned).join().await;
        let planned = planned.unwrap_or_else(|| Err(closed(text)))?;
        Ok(self.run(planned, (turn, export), begun))
    }

    fn run(
        &self,
        planned: Planned,
        turn: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
        begun: Instant,
    ) -> QueryResult {
        let (sender, batches) = mpsc::channel(ANSWER_BATCHES_AHEAD_MAX);
        let truncated = Arc::new(AtomicBool::new(false));
        let schema = Arc::clone(&planned.schema);
        let left_out = Arc::clone(&planned.left_out);
        let budget = planned.budget.clone();
        let time_max = planned.time_max;
        let cut = Arc::clone(&truncated);
        let task = self.inner.runtime.as_ref().map(|runtime| {
            runtime.spawn(async move {
                let _turn = turn;
                let left = time_max.saturating_sub(begun.elapsed());
                let send = send(planned, &sender, &cut);
                if timeout(left, send).await.is_err() {
                    let late = Error::new(Class::Permanent, "sql.time")
                        .with("seconds", time_max.as_secs());
                    // Whoever does not fetch the answer does not fetch the error either.
                    let _ = sender.try_send(Err(late));
                }
            })
        });
        QueryResult {
            schema,
            batches,
            task,
            truncated,
            left_out,
            budget,
            begun,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Running queries end when they next come up for air; nobody waits for them.
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("limits", &self.inner.limits)
            .finish_non_exhaustive()
    }
}

impl QueryResult {
    /// The columns of the answer.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The next rows; none when there are no more.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, Error>> {
        self.batches.recv().await
    }

    /// All rows. They are bounded by [`QueryLimits`].
    pub async fn collect(&mut self) -> Result<Vec<RecordBatch>, Error> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    }

    /// Whether there were more rows than the limits allow. Known when there are no more.
    pub fn truncated(&self) -> bool {
        self.truncated.load(Ordering::Acquire)
    }

    /// Events that were left out because their payload cannot be read.
    pub fn undecodable(&self) -> u64 {
        self.left_out.undecodable.load(Ordering::Acquire)
    }

    /// Events that are in the answer with null in place of a value that does not fit its column.
    pub fn partial(&self) -> u64 {
        self.left_out.partial.load(Ordering::Acquire)
    }

    /// Events that were left out because they could not be read from the disk.
    pub fn unreadable(&self) -> u64 {
        self.left_out.unreadable.load(Ordering::Acquire)
    }

    /// How long ago the query was asked.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Drop for QueryResult {
    fn drop(&mut self) {
        // What works on a batch at this moment notices.
        if let Some(budget) = &self.budget {
            budget.give_up();
        }
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl fmt::Debug for QueryResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryResult")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// A query ready to run.
struct Planned {
    schema: SchemaRef,
    rows: Answer,
    rows_max: usize,
    bytes_max: usize,
    time_max: Duration,
    left_out: Arc<LeftOut>,
    budget: Option<Arc<Budget>>,
}

enum Answer {
    Ready(RecordBatch),
    Running(SendableRecordBatchStream),
}

async fn plan(
    inner: &Inner,
    text: &str,
    options: &QueryOptions,
    begun: Instant,
) -> Result<Planned, Diagnostic> {
    let relations = options.relations.as_ref().unwrap_or(&inner.relations);
    let parsed = parse::statement(text)
        .and_then(|statement| statement::classify(text, statement))
        // `from host-cpu` is a mistake of its own.
        .map_err(|error| match error.code() {
            "sql.syntax" => statement::unquoted_name(text, &relations.names()).unwrap_or(error),
            _ => error,
        })?;
    let (statement, is_query) = match parsed {
        Kind::ShowTables => return show_tables(text, relations).map(ready),
        Kind::Describe(name) => return describe(text, relations, &name).map(ready),
        Kind::Query(statement) => (statement, true),
        Kind::Explain(statement) => (statement, false),
    };
    let mut found = Vec::new();
    let mut names = Names::default();
    let mut described = Vec::new();
    for name in statement::relations(text, &statement)? {
        if let Some(table) = name.strip_prefix(information_schema::PREFIX) {
            let rows = tokio::task::block_in_place(|| information_schema::rows(table, relations));
            let rows = rows.map_err(|error| Diagnostic::from_error(error, 0..text.len()))?;
            let rows = rows.ok_or_else(|| statement::unknown_relation(text, &name, &[]))?;
            names.add(&rows.schema());
            described.push((name, rows));
            continue;
        }
        let relation = find(text, relations, &name)?;
        names.add(&relation.schema());
        found.push((name, relation));
    }
    let statement = statement::prepare(statement, &names);
    let wrong = |error: DataFusionError| explain(text, error, session::function_names());
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(
            inner.limits.memory_bytes_max,
        )))
        .with_disk_manager_builder(
            DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
        )
        .build_arc()
        .map_err(wrong)?;
    let limits = &inner.limits;
    let (all_rows_max, bytes_max, time_max) = match options.all_rows {
        true => (usize::MAX, usize::MAX, limits.export_time_max),
        false => (limits.rows_max, limits.answer_bytes_max, limits.time_max),
    };
    let budget = Budget::new(limits.memory_bytes_max, begun, time_max);
    let state = session::state_within(runtime, &budget);
    let left_out = Arc::new(LeftOut::default());
    let mut context = Context::new(&state);
    for (name, relation) in found {
        let provider: Arc<dyn TableProvider> = match relation {
            Relation::Stream(stream) => Arc::new(StreamRows::new(stream, Arc::clone(&left_out))),
            Relation::Table(table) => {
                let schema = table.schema();
                Arc::new(TableRows { table, schema })
            }
        };
        context.add(&name, provider_as_source(provider));
    }
    for (name, rows) in described {
        context.add(&name, provider_as_source(Arc::new(OneBatch(rows))));
    }
    let rows_max = options.rows_max.unwrap_or(usize::MAX).min(all_rows_max);
    let mut logical = context
        .planner()
        .statement_to_plan(statement)
        .map_err(wrong)?;
    if is_query && rows_max < usize::MAX {
        logical = limited(logical, rows_max).map_err(wrong)?;
    }
    refuse_growing_windows(text, &logical)?;
    let physical = state.create_physical_plan(&logical).map_err(wrong)?;
    let physical = bounds::within(physical).map_err(wrong)?;
    let stream = execute_stream(physical, state.task_ctx()).map_err(wrong)?;
    Ok(Planned {
        schema: stream.schema(),
        rows: Answer::Running(stream),
        rows_max,
        bytes_max,
        time_max,
        left_out,
        budget: Some(budget),
    })
}

/// One row more than allowed, to know whether there are more.
fn limited(logical: LogicalPlan, rows_max: usize) -> Result<LogicalPlan, DataFusionError> {
    LogicalPlanBuilder::from(logical)
        .limit(0, Some(rows_max.saturating_add(1)))?
        .build()
}

async fn send(
    planned: Planned,
    sender: &mpsc::Sender<Result<RecordBatch, Error>>,
    cut: &AtomicBool,
) {
    let mut stream = match planned.rows {
        Answer::Running(stream) => stream,
        Answer::Ready(batch) => {
            let _ = sender.send(Ok(batch)).await;
            return;
        }
    };
    let mut rows_left = planned.rows_max;
    let mut bytes_left = planned.bytes_max;
    while let Some(batch) = stream.next().await {
        let mut batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                let _ = sender.send(Err(run_error(error))).await;
                return;
            }
        };
        let bytes = batch.get_array_memory_size();
        let over = batch.num_rows() > rows_left || bytes > bytes_left;
        if over {
            let fitting = match bytes > bytes_left {
                // As many rows as have their share of the bytes.
                true => (batch.num_rows() * (bytes_left >> 10)) / ((bytes >> 10) + 1),
                false => batch.num_rows(),
            };
            batch = batch.slice(0, fitting.min(rows_left));
            cut.store(true, Ordering::Release);
        }
        rows_left -= batch.num_rows();
        bytes_left = bytes_left.saturating_sub(bytes);
        if (batch.num_rows() > 0 && sender.send(Ok(batch)).await.is_err()) || over {
            return;
        }
    }
}

fn find(text: &str, relations: &Arc<dyn Relations>, name: &str) -> Result<Relation, Diagnostic> {
    // Each query has a thread to itself; the others of its runtime go on.
    let found = tokio::task::block_in_place(|| relations.relation(name));
    match found {
        Ok(Some(relation)) => Ok(relation),
        Ok(None) => Err(statement::unknown_relation(text, name, &relations.names())),
        Err(error) => {
            let place = find_word(text, name).unwrap_or(0..text.len());
            Err(Diagnostic::from_error(error, place))
        }
    }
}

fn ready(batch: RecordBatch) -> Planned {
    Planned {
        schema: batch.schema(),
        rows_max: batch.num_rows(),
        bytes_max: usize::MAX,
        time_max: QUERY_TIME_MAX_DEFAULT,
        rows: Answer::Ready(batch),
        left_out: Arc::default(),
        budget: None,
    }
}

fn show_tables(text: &str, relations: &Arc<dyn Relations>) -> Result<RecordBatch, Diagnostic> {
    let mut rows = Vec::new();
    for name in relations.names() {
        let found = tokio::task::block_in_place(|| relations.relation(&name));
        let found = found.map_err(|error| Diagnostic::from_error(error, 0..text.len()))?;
        if let Some(relation) = found {
            let columns = relation.schema();
            let columns: Vec<&str> = columns.fields().iter().map(|f| f.name().as_str()).collect();
            rows.push([name, relation.kind().to_owned(), columns.join(", ")]);
        }
    }
    texts(text, ["name", "kind", "columns"], &rows)
}

fn describe(
    text: &str,
    relations: &Arc<dyn Relations>,
    name: &str,
) -> Result<RecordBatch, Diagnostic> {
    let schema = find(text, relations, name)?.schema();
    let rows: Vec<[String; 2]> = schema
        .fields()
        .iter()
        .map(|field| [field.name().clone(), check::word(field.data_type())])
        .collect();
    texts(text, ["column", "type"], &rows)
}

fn texts<const N: usize>(
    text: &str,
    names: [&str; N],
    rows: &[[String; N]],
) -> Result<RecordBatch, Diagnostic> {
    let fields = names.map(|name| Field::new(name, DataType::Utf8, false));
    let columns = (0..N).map(|column| {
        let values = rows.iter().map(|row| row[column].as_str());
        Arc::new(StringArray::from_iter_values(values)) as ArrayRef
    });
    let schema = Arc::new(Schema::new(fields.to_vec()));
    RecordBatch::try_new(schema, columns.collect()).map_err(|cause| {
        let error = Error::new(Class::Permanent, "sql.evaluate").with("detail", cause);
        Diagnostic::from_error(error, 0..text.len())
    })
}

fn closed(text: &str) -> Diagnostic {
    Diagnostic::from_error(Error::new(Class::Transient, "sql.closed"), 0..text.len())
}

/// A task that ends when nobody waits for it.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> AbortOnDrop<T> {
    async fn join(mut self) -> Option<T> {
        (&mut self.0).await.ok()
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
