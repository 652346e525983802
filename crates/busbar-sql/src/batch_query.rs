use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::source::provider_as_source;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use busbar_event::{Class, Error};
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DataFusionError, Result as PlanResult};
use datafusion_execution::TaskContext;
use datafusion_expr::{Expr, TableType};
use datafusion_physical_plan::execution_plan::reset_plan_states;
use datafusion_physical_plan::filter::FilterExec;
use datafusion_physical_plan::projection::ProjectionExec;
use datafusion_physical_plan::stream::RecordBatchStreamAdapter;
use datafusion_physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion_physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use datafusion_session::{Session, TableProvider};
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use crate::across::across_rows;
use crate::budget::{Budget, told};
use crate::explain::{explain, run_error};
use crate::expression::refuse_unrepeatable_in_query;
use crate::limits::{BATCH_QUERY_BYTES_MAX_DEFAULT, BATCH_QUERY_TIME_MAX_DEFAULT};
use crate::names::Names;
use crate::planner::Context;
use crate::stack::deep;
use crate::statement::{self, Kind, refuse_two_of_a_name};
use crate::wait::block_on;
use crate::{Diagnostic, bounds, parse, session};

/// A query such as `select site, max(level_mm) as peak from input group by site`, run over one batch after
/// another. `input` is the batch.
///
/// It is planned once. A run costs what its operators cost, and some microseconds.
///
/// ```
/// use std::sync::Arc;
/// use arrow::array::{ArrayRef, Int64Array, RecordBatch};
///
/// let levels: ArrayRef = Arc::new(Int64Array::from(vec![10, 62, 7]));
/// let batch = RecordBatch::try_from_iter([("level_mm", levels)]).unwrap();
/// let text = "select max(level_mm) as peak from input";
/// let mut query = busbar_sql::BatchQuery::compile(&batch.schema(), text).unwrap();
/// assert_eq!(query.execute(&batch).unwrap().num_rows(), 1);
/// assert_eq!(query.execute(&batch).unwrap().num_rows(), 1);
/// ```
pub struct BatchQuery {
    text: String,
    plan: Arc<dyn ExecutionPlan>,
    /// Whether the plan keeps nothing from one run to the next.
    stateless: bool,
    across_rows: Option<&'static str>,
    input: Arc<Input>,
    columns: Vec<usize>,
    schema: SchemaRef,
    context: Arc<TaskContext>,
    limits: BatchLimits,
    budget: Arc<Budget>,
}

/// Limits of one run of a [`BatchQuery`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Memory, in bytes: what operators gather, and apart from it the result.
    pub memory_bytes_max: usize,
    /// Time.
    pub time_max: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            memory_bytes_max: BATCH_QUERY_BYTES_MAX_DEFAULT,
            time_max: BATCH_QUERY_TIME_MAX_DEFAULT,
        }
    }
}

/// The name of the batch.
const INPUT: &str = "input";

impl BatchQuery {
    /// Plans a query over rows of `schema`, with the default limits. Functions that do not always return the same
    /// for the same event, such as `now()`, are refused.
    pub fn compile(schema: &SchemaRef, text: &str) -> Result<Self, Diagnostic> {
        Self::compile_within(schema, text, BatchLimits::default())
    }

    /// As [`BatchQuery::compile`], with limits.
    pub fn compile_within(
        schema: &SchemaRef,
        text: &str,
        limits: BatchLimits,
    ) -> Result<Self, Diagnostic> {
        let lost = |error| Diagnostic::from_error(error, 0..text.len());
        deep(lost, || Self::compiled(schema, text, limits))
    }

    fn compiled(schema: &SchemaRef, text: &str, limits: BatchLimits) -> Result<Self, Diagnostic> {
        let statement = match statement::classify(text, parse::statement(text)?)? {
            Kind::Query(statement) => statement,
            _ => return Err(Diagnostic::new("sql.query-only", parse::first_word(text))),
        };
        let prepared = statement::prepare(statement, &Names::of(schema));
        for name in statement::relations(text, &prepared)? {
            if name != INPUT {
                return Err(statement::unknown_relation(
                    text,
                    &name,
                    &[INPUT.to_owned()],
                ));
            }
        }
        let wrong = |error: DataFusionError| explain(text, error, session::function_names());
        let budget = Budget::new(limits.memory_bytes_max, Instant::now(), limits.time_max);
        let state = session::state_for(&budget, limits.memory_bytes_max).map_err(wrong)?;
        let input = Arc::new(Input {
            schema: Arc::clone(schema),
            batch: Mutex::default(),
        });
        let mut context = Context::new(&state);
        let table: Arc<dyn TableProvider> = Arc::new(InputTable(Arc::clone(&input)));
        context.add(INPUT, provider_as_source(table));
        let logical = context
            .planner()
            .statement_to_plan(prepared)
            .map_err(wrong)?;
        refuse_unrepeatable_in_query(text, &logical)?;
        let plan = state.create_physical_plan(&logical).map_err(wrong)?;
        refuse_two_of_a_name(text, &plan.schema())?;
        let plan = bounds::within(plan, &budget).map_err(wrong)?;
        Ok(Self {
            text: text.to_owned(),
            across_rows: across_rows(&logical),
            columns: columns(&plan, schema),
            stateless: is_stateless(&plan),
            schema: plan.schema(),
            plan,
            input,
            context: state.task_ctx(),
            limits,
            budget,
        })
    }

    /// Indexes in the schema of the columns that it reads, sorted.
    pub fn columns(&self) -> Vec<usize> {
        self.columns.clone()
    }

    /// The word, such as `group by`, by which a row's result depends on the other rows of the batch; none if it does not.
    pub fn across_rows(&self) -> Option<&'static str> {
        self.across_rows
    }

    /// The schema of the results.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The same query for batches of another schema that has its columns.
    pub fn bind(&self, schema: &SchemaRef) -> Result<Self, Error> {
        Self::compile_within(schema, &self.text, self.limits).map_err(Diagnostic::into_error)
    }

    /// Runs the query over one batch, on this thread. The batch must have the schema that the query was compiled
    /// for.
    ///
    /// # Errors
    /// - permanent, if a row has no result, such as a division by zero;
    /// - `sql.batch-memory` or `sql.batch-time`, of class configuration, if the run exceeds its limits.
    pub fn execute(&mut self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        if batch.schema_ref().fields() != self.input.schema.fields() {
            return Err(Error::new(Class::Permanent, "sql.bind"));
        }
        *self.input.batch.lock() = Some(batch.clone());
        self.budget.restart();
        let answer = self.run().map_err(run_error);
        *self.input.batch.lock() = None;
        answer.map_err(|error| self.beyond_limits(error))
    }

    /// Another batch would exceed the limits as well, and no single event is to blame.
    fn beyond_limits(&self, error: Error) -> Error {
        let code = match error.code() {
            "sql.memory" => "sql.batch-memory",
            "sql.time" => "sql.batch-time",
            _ => return error,
        };
        Error::new(Class::Configuration, code)
            .with("mebibytes", self.limits.memory_bytes_max.div_ceil(1 << 20))
            .with("seconds", self.limits.time_max.as_secs_f64())
    }

    fn run(&self) -> PlanResult<RecordBatch> {
        let plan = match self.stateless {
            true => Arc::clone(&self.plan),
            false => reset_plan_states(Arc::clone(&self.plan))?,
        };
        let mut stream = plan.execute(0, Arc::clone(&self.context))?;
        let mut batches = Vec::new();
        let mut left = self.limits.memory_bytes_max;
        while let Some(batch) = block_on(stream.next()) {
            let batch = batch?;
            self.budget.check()?;
            left = left
                .checked_sub(bounds::bytes(&batch)?)
                .ok_or_else(|| told(Error::new(Class::Permanent, "sql.memory")))?;
            batches.push(batch);
        }
        match <[RecordBatch; 1]>::try_from(batches) {
            Ok([one]) => Ok(one),
            Err(many) => Ok(arrow::compute::concat_batches(&self.schema, &many)?),
        }
    }
}

impl fmt::Debug for BatchQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchQuery")
            .field("text", &self.text)
            .finish_non_exhaustive()
    }
}

/// The batch that the query reads.
#[derive(Debug)]
struct Input {
    schema: SchemaRef,
    batch: Mutex<Option<RecordBatch>>,
}

#[derive(Debug)]
struct InputPartition(Arc<Input>);

impl PartitionStream for InputPartition {
    fn schema(&self) -> &SchemaRef {
        &self.0.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batch = self.0.batch.lock().clone().map(Ok);
        let schema = Arc::clone(&self.0.schema);
        Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter(batch)))
    }
}

#[derive(Debug)]
struct InputTable(Arc<Input>);

#[async_trait]
impl TableProvider for InputTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let partitions: Vec<Arc<dyn PartitionStream>> =
            vec![Arc::new(InputPartition(Arc::clone(&self.0)))];
        let schema = Arc::clone(&self.0.schema);
        let leaf = StreamingTableExec::try_new(schema, partitions, projection, [], false, limit)?;
        Ok(Arc::new(leaf))
    }
}

fn columns(plan: &Arc<dyn ExecutionPlan>, schema: &SchemaRef) -> Vec<usize> {
    let mut columns = Vec::new();
    let walked = plan.apply(|node| {
        if let Some(leaf) = node.downcast_ref::<StreamingTableExec>() {
            match leaf.projection() {
                Some(projection) => columns.extend_from_slice(projection),
                None => columns.extend(0..schema.fields().len()),
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// Whether no operator keeps anything from one run to the next.
fn is_stateless(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut stateless = true;
    let walked = plan.apply(|node| {
        stateless &= node.is::<StreamingTableExec>()
            || node.is::<FilterExec>()
            || node.is::<ProjectionExec>();
        Ok(TreeNodeRecursion::Continue)
    });
    stateless && walked.is_ok()
}
