use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::source::{OneBatch, provider_as_source};
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use busbar_event::{Class, Error};
use datafusion_common::DataFusionError;
use datafusion_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion_physical_plan::{SendableRecordBatchStream, execute_stream};
use datafusion_session::TableProvider;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;

use crate::budget::Budget;
use crate::explain::{explain, kernel_error, run_error};
use crate::expression::refuse_growing_windows;
use crate::families::TableShape;
use crate::limits::{
    ANSWER_BATCHES_AHEAD_MAX, ANSWER_BYTES_MAX_DEFAULT, EXPORT_TIME_MAX_DEFAULT,
    QUERIES_MAX_DEFAULT, QUERY_BYTES_MAX_DEFAULT, QUERY_ROWS_MAX_DEFAULT, QUERY_STACK_BYTES,
    QUERY_THREADS_MAX, QUERY_TIME_MAX_DEFAULT, QUERY_TURN_WAIT_MAX,
};
use crate::names::Names;
use crate::parameters::{self, BoundParameter};
use crate::planner::Context;
use crate::relation::{Relation, Relations};
use crate::scan_stream::{LeftOut, StreamRows};
use crate::scan_table::TableRows;
use crate::statement::{self, Kind, unique_names};
use crate::text::find_word;
use crate::{Diagnostic, bounds, check, information_schema, order, parse, session, windows};

/// Runs queries over streams and tables, as they are when the query starts.
///
/// Statements that only read are allowed: `select`, `with`, `values`, `explain`, `show tables` and
/// `describe <name>`. Tools find the names in `information_schema.tables` and `information_schema.columns`.
/// Queries run on the engine's own threads, each within [`QueryLimits`].
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
    /// None once the engine is being dropped.
    runtime: Option<Runtime>,
}

/// Bounds of queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryLimits {
    /// Rows of a result. A longer result is cut, see [`QueryResult::truncated`].
    pub rows_max: usize,
    /// Bytes of a result. A larger result is cut, see [`QueryResult::truncated`].
    pub answer_bytes_max: usize,
    /// Memory of one query, in bytes.
    pub memory_bytes_max: usize,
    /// Time of one query, including the time until its rows are fetched.
    pub time_max: Duration,
    /// Time of one query that returns all its rows ([`QueryOptions::all_rows`]), including the time until they are
    /// fetched.
    pub export_time_max: Duration,
    /// Number of queries that run at the same time. Others wait for [`QUERY_TURN_WAIT_MAX`], then fail.
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

/// Options of one query.
#[derive(Clone, Default)]
pub struct QueryOptions {
    /// A lower limit than [`QueryLimits::rows_max`].
    pub rows_max: Option<usize>,
    /// Whether to return every row: neither `rows_max` nor `answer_bytes_max` of the limits applies.
    pub all_rows: bool,
    /// The relations that the query may read, instead of the engine's.
    pub relations: Option<Arc<dyn Relations>>,
    /// The values of the parameters, such as `$site`, that stand in the text. They are values in the syntax tree, never text.
    pub parameters: Vec<BoundParameter>,
}

impl fmt::Debug for QueryOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryOptions")
            .field("rows_max", &self.rows_max)
            .finish_non_exhaustive()
    }
}

/// The rows of a query as they come. Dropping it cancels the query.
pub struct QueryResult {
    schema: SchemaRef,
    batches: mpsc::Receiver<RecordBatch>,
    ending: Arc<Mutex<Ending>>,
    task: Option<JoinHandle<()>>,
    truncated: Arc<AtomicBool>,
    left_out: Arc<LeftOut>,
    budget: Option<Arc<Budget>>,
    begun: Instant,
}

/// Why there are no more rows. The end of the channel alone does not tell a complete result from one whose task
/// is gone.
enum Ending {
    /// The task ended without saying anything: the engine is being dropped.
    Lost,
    Complete,
    Failed(Error),
}

impl Engine {
    /// An engine over these relations.
    ///
    /// # Errors
    /// `sql.threads` if its threads cannot be created.
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

    /// Starts a query. Returns when it is planned; its rows come afterwards.
    pub async fn query(&self, text: &str) -> Result<QueryResult, Diagnostic> {
        self.query_with(text, QueryOptions::default()).await
    }

    /// As [`Engine::query`], with options.
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
        let planned = match AbortOnDrop(planned).join().await {
            Ok(planned) => planned?,
            Err(lost) => {
                return Err(match lost.try_into_panic() {
                    Ok(panic) => Diagnostic::from_error(panicked(&*panic), 0..text.len()),
                    Err(_) => closed(text),
                });
            }
        };
        Ok(self.run(planned, (turn, export), begun))
    }

    fn run(
        &self,
        planned: Planned,
        turn: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
        begun: Instant,
    ) -> QueryResult {
        let (sender, batches) = mpsc::channel(ANSWER_BATCHES_AHEAD_MAX);
        let ending = Arc::new(Mutex::new(Ending::Lost));
        let ends = Arc::clone(&ending);
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
                let send = AssertUnwindSafe(send(planned, &sender, &cut));
                let ended = match timeout(left, send.catch_unwind()).await {
                    Ok(Ok(Ok(()))) => Ending::Complete,
                    Ok(Ok(Err(error))) => Ending::Failed(error),
                    Ok(Err(panic)) => Ending::Failed(panicked(&*panic)),
                    Err(_) => Ending::Failed(
                        Error::new(Class::Permanent, "sql.time")
                            .with("seconds", time_max.as_secs_f64()),
                    ),
                };
                *ends.lock() = ended;
                // Only now does the reader see the end of the channel.
                drop(sender);
            })
        });
        QueryResult {
            schema,
            batches,
            ending,
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
            // Running queries end at their next await point; this does not wait for them.
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
    /// The columns of the result.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The next rows; none once all rows were returned.
    ///
    /// An error is the last item. If the query fails, ends early or is stopped, there is always one.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, Error>> {
        if let Some(batch) = self.batches.recv().await {
            return Some(Ok(batch));
        }
        match std::mem::replace(&mut *self.ending.lock(), Ending::Complete) {
            Ending::Complete => None,
            Ending::Failed(error) => Some(Err(error)),
            Ending::Lost => Some(Err(Error::new(Class::Transient, "sql.closed"))),
        }
    }

    /// All rows, at most as many as [`QueryLimits`] allow.
    pub async fn collect(&mut self) -> Result<Vec<RecordBatch>, Error> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    }

    /// Whether there were more rows than the limits allow. Valid once [`QueryResult::next`] returned none.
    pub fn truncated(&self) -> bool {
        self.truncated.load(Ordering::Acquire)
    }

    /// Number of events left out because their payload cannot be read.
    pub fn undecodable(&self) -> u64 {
        self.left_out.undecodable.load(Ordering::Acquire)
    }

    /// Number of events that have null in place of a value that does not fit its column.
    pub fn partial(&self) -> u64 {
        self.left_out.partial.load(Ordering::Acquire)
    }

    /// Number of events left out because they could not be read from the disk.
    pub fn unreadable(&self) -> u64 {
        self.left_out.unreadable.load(Ordering::Acquire)
    }

    /// Time since the query was started.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Drop for QueryResult {
    fn drop(&mut self) {
        // Operators that are busy with a batch look at the budget.
        if let Some(budget) = &self.budget {
            budget.cancel();
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

/// A query that is ready to run.
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
        .and_then(|mut statement| {
            parameters::bind(text, &mut statement, &options.parameters)?;
            Ok(statement)
        })
        .and_then(|statement| statement::classify(text, statement))
        // `from host-cpu` deserves a better message than a syntax error.
        .map_err(|error| match error.code() {
            "sql.syntax" | "sql.unexpected" | "sql.ends-early" => {
                statement::unquoted_name(text, &relations.names()).unwrap_or(error)
            }
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
    let mut statement = statement::prepare(statement, &names);
    windows::history::rewrite(text, &mut statement, &|name| {
        let relation = found.iter().find(|(known, _)| known == name);
        relation.map(|(_, relation)| relation.schema())
    })?;
    order::break_ties(&mut statement, |name| {
        let is_stream = |relation: &Relation| matches!(relation, Relation::Stream(_));
        found
            .iter()
            .any(|(known, relation)| known == name && is_stream(relation))
    });
    let wrong = |error: DataFusionError| explain(text, error, session::function_names());
    let limits = &inner.limits;
    let (all_rows_max, bytes_max, time_max) = match options.all_rows {
        true => (usize::MAX, usize::MAX, limits.export_time_max),
        false => (limits.rows_max, limits.answer_bytes_max, limits.time_max),
    };
    let budget = Budget::new(limits.memory_bytes_max, begun, time_max);
    let state = session::state_for(&budget, limits.memory_bytes_max).map_err(wrong)?;
    let left_out = Arc::new(LeftOut::default());
    let mut context = Context::new(&state);
    for (name, relation) in found {
        let provider: Arc<dyn TableProvider> = match relation {
            Relation::Stream(stream) => Arc::new(StreamRows::new(stream, Arc::clone(&left_out))),
            Relation::Table(table) => {
                let shape = TableShape::of(&*table);
                Arc::new(TableRows { table, shape })
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
    let physical = bounds::within(physical, &budget).map_err(wrong)?;
    let stream = execute_stream(physical, state.task_ctx()).map_err(wrong)?;
    Ok(Planned {
        schema: unique_names(stream.schema()),
        rows: Answer::Running(stream),
        rows_max,
        bytes_max,
        time_max,
        left_out,
        budget: Some(budget),
    })
}

/// Reads one row more than allowed, to know whether the result was cut.
fn limited(logical: LogicalPlan, rows_max: usize) -> Result<LogicalPlan, DataFusionError> {
    LogicalPlanBuilder::from(logical)
        .limit(0, Some(rows_max.saturating_add(1)))?
        .build()
}

/// Sends rows until there are no more, the limits are reached, or nobody receives them.
async fn send(
    planned: Planned,
    sender: &mpsc::Sender<RecordBatch>,
    cut: &AtomicBool,
) -> Result<(), Error> {
    let mut stream = match planned.rows {
        Answer::Running(stream) => stream,
        Answer::Ready(batch) => {
            let _ = sender.send(batch).await;
            return Ok(());
        }
    };
    let mut rows_left = planned.rows_max;
    let mut bytes_left = planned.bytes_max;
    while let Some(batch) = stream.next().await {
        let mut batch = batch.map_err(run_error)?;
        let bytes = batch.get_array_memory_size();
        let over = batch.num_rows() > rows_left || bytes > bytes_left;
        if over {
            let fitting = match bytes > bytes_left {
                // In proportion to the bytes left.
                true => (batch.num_rows() * (bytes_left >> 10)) / ((bytes >> 10) + 1),
                false => batch.num_rows(),
            };
            batch = batch.slice(0, fitting.min(rows_left));
            cut.store(true, Ordering::Release);
        }
        if batch.schema_ref() != &planned.schema {
            batch = renamed(&batch, &planned.schema)?;
        }
        rows_left -= batch.num_rows();
        bytes_left = bytes_left.saturating_sub(bytes);
        if (batch.num_rows() > 0 && sender.send(batch).await.is_err()) || over {
            return Ok(());
        }
    }
    Ok(())
}

fn renamed(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns().to_vec();
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(kernel_error)
}

/// A panic in what runs a query is an error of that query.
fn panicked(panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
    tracing::error!(panic = said.unwrap_or_default(), "a query panicked");
    Error::new(Class::Permanent, "sql.panic")
}

fn find(text: &str, relations: &Arc<dyn Relations>, name: &str) -> Result<Relation, Diagnostic> {
    // May read the disk.
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
    RecordBatch::try_new(schema, columns.collect())
        .map_err(|cause| Diagnostic::from_error(kernel_error(cause), 0..text.len()))
}

fn closed(text: &str) -> Diagnostic {
    Diagnostic::from_error(Error::new(Class::Transient, "sql.closed"), 0..text.len())
}

/// A task that is aborted when this is dropped.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> AbortOnDrop<T> {
    async fn join(mut self) -> Result<T, JoinError> {
        (&mut self.0).await
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
