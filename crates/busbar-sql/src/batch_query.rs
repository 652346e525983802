use std::fmt;
use std::sync::Arc;

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
use datafusion_physical_plan::{ExecutionPlan, SendableRecordBatchStream, common};
use datafusion_session::{Session, TableProvider};
use futures::stream;
use parking_lot::Mutex;

use crate::across::across_rows;
use crate::diagnostic::{explain, run_error};
use crate::expression::refuse_unrepeatable_in_query;
use crate::names::Names;
use crate::planner::Context;
use crate::source::provider_as_source;
use crate::statement::{self, Kind};
use crate::wait::block_on;
use crate::{Diagnostic, parse, session};

/// A query such as `select site, max(level_mm) as peak from input group by site`, asked of one batch
/// after the other. `input` is the batch.
///
/// It is planned once. Asking costs what its operators cost and some microseconds.
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
}

/// The name of the batch.
const INPUT: &str = "input";

impl BatchQuery {
    /// Plan a query over rows of `schema`. It must give the same answer each time, so `now()` is
    /// refused.
    pub fn compile(schema: &SchemaRef, text: &str) -> Result<Self, Diagnostic> {
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
        let state = session::state();
        let input = Arc::new(Input {
            schema: Arc::clone(schema),
            batch: Mutex::default(),
        });
        let mut context = Context::new(state);
        let table: Arc<dyn TableProvider> = Arc::new(InputTable(Arc::clone(&input)));
        context.add(INPUT, provider_as_source(table));
        let logical = context
            .planner()
            .statement_to_plan(prepared)
            .map_err(wrong)?;
        refuse_unrepeatable_in_query(text, &logical)?;
        let plan = state.create_physical_plan(&logical).map_err(wrong)?;
        Ok(Self {
            text: text.to_owned(),
            across_rows: across_rows(&logical),
            columns: columns(&plan, schema),
            stateless: is_stateless(&plan),
            schema: plan.schema(),
            plan,
            input,
            context: state.task_ctx(),
        })
    }

    /// Places in the schema of the columns it reads, sorted.
    pub fn columns(&self) -> Vec<usize> {
        self.columns.clone()
    }

    /// The word in the query that makes what it says of a row depend on the other rows of the batch, such as `group by`.
    pub fn across_rows(&self) -> Option<&'static str> {
        self.across_rows
    }

    /// The schema of the answers.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The same query over batches of another schema that has the columns it reads.
    pub fn bind(&self, schema: &SchemaRef) -> Result<Self, Error> {
        Self::compile(schema, &self.text).map_err(Diagnostic::into_error)
    }

    /// The answer for one batch, which must have the schema the query was compiled for. Runs on this
    /// thread.
    pub fn execute(&mut self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        if batch.schema_ref().fields() != self.input.schema.fields() {
            return Err(Error::new(Class::Permanent, "sql.bind").with(
                "detail",
                "the batch has other columns than the query was compiled for",
            ));
        }
        *self.input.batch.lock() = Some(batch.clone());
        let answer = self.run().map_err(run_error);
        *self.input.batch.lock() = None;
        answer
    }

    fn run(&self) -> PlanResult<RecordBatch> {
        let plan = match self.stateless {
            true => Arc::clone(&self.plan),
            false => reset_plan_states(Arc::clone(&self.plan))?,
        };
        let stream = plan.execute(0, Arc::clone(&self.context))?;
        let batches = block_on(common::collect(stream))?;
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

/// The batch that is asked.
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
