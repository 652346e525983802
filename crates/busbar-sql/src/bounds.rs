//! Operators that bound the memory and the time of others.
//!
//! DataFusion counts most of what operators gather, but not all of it:
//!
//! - It bounds batches by rows. Where an operator repeats values (a join, a constant beside each row), one batch of
//!   wide values would take gigabytes.
//! - A window function gathers all its input.
//! - The build side of a join is counted by the values of its columns. A batch without columns, as in
//!   `select count(*) from a, b, c`, counts nothing, and a join may gather millions of them. While a build side is
//!   concatenated it takes its memory twice.
//! - A join whose condition is never true returns no rows for minutes, and so never looks at the deadline.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use busbar_event::{Class, Error};
use datafusion_common::Result;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion_execution::{RecordBatchStream, TaskContext};
use datafusion_expr::{ColumnarValue, WindowFrameBound};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Literal;
use datafusion_physical_plan::coop::CooperativeExec;
use datafusion_physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion_physical_plan::joins::utils::JoinFilter;
use datafusion_physical_plan::joins::{NestedLoopJoinExec, NestedLoopJoinExecBuilder};
use datafusion_physical_plan::projection::ProjectionExec;
use datafusion_physical_plan::recursive_query::RecursiveQueryExec;
use datafusion_physical_plan::union::{InterleaveExec, UnionExec};
use datafusion_physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion_physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures::{Stream, StreamExt};

use crate::budget::{Budget, told};
use crate::limits::{
    BATCH_OVERHEAD_BYTES, BATCH_ROWS, COLUMN_OVERHEAD_BYTES, CONSTANTS_BATCH_BYTES_MAX,
    JOIN_BATCH_ROWS, JOIN_ROW_BYTES_MAX, VALUE_BYTES_MAX,
};

/// The plan with its operators bounded, and stopped when the budget says so.
pub(crate) fn within(
    plan: Arc<dyn ExecutionPlan>,
    budget: &Arc<Budget>,
) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(plan.transform_up(|plan| bound(plan, budget))?.data)
}

fn bound(
    plan: Arc<dyn ExecutionPlan>,
    budget: &Arc<Budget>,
) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let children: Vec<_> = plan.children().into_iter().cloned().collect();
    let around = |plan, children: Vec<Arc<dyn ExecutionPlan>>, bounds: &[Bound]| {
        around(plan, children, bounds, budget)
    };
    if plan.is::<WindowAggExec>() || looks_ahead(&plan) {
        return Ok(Transformed::yes(around(
            plan,
            children,
            &[Bound::Gathered],
        )?));
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let expressions = projection.expr().iter().map(|each| &each.expr);
        let bytes: usize = expressions.map(constant_bytes).sum();
        let rows = CONSTANTS_BATCH_BYTES_MAX / bytes.max(1);
        if rows < BATCH_ROWS {
            let pieces = Bound::Pieces(rows.max(1));
            return Ok(Transformed::yes(around(plan, children, &[pieces])?));
        }
        return Ok(Transformed::no(plan));
    }
    if children.len() < 2 {
        return Ok(Transformed::no(plan));
    }
    let is_join =
        !plan.is::<UnionExec>() && !plan.is::<InterleaveExec>() && !plan.is::<RecursiveQueryExec>();
    // A join returns many rows for few, so that operators above it may work for minutes on one batch of a scan. Its
    // output yields to other tasks and checks the deadline.
    Ok(Transformed::yes(match is_join {
        true => {
            let join = stoppable(plan, budget)?;
            // The first input of every join is its build side.
            let join = around(join, children, &[Bound::Build, Bound::Narrow])?;
            Arc::new(BoundExec {
                input: Arc::new(CooperativeExec::new(join)),
                bound: Bound::FewRows,
                budget: Arc::clone(budget),
            })
        }
        false => Arc::new(CooperativeExec::new(plan)),
    }))
}

/// The operator with its inputs bounded; those beyond the last bound get that one.
fn around(
    plan: Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
    bounds: &[Bound],
    budget: &Arc<Budget>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let bounds = bounds
        .iter()
        .chain(std::iter::repeat(&bounds[bounds.len() - 1]));
    let children = children.into_iter().zip(bounds).map(|(input, bound)| {
        let budget = Arc::clone(budget);
        let bound = *bound;
        Arc::new(BoundExec {
            input,
            bound,
            budget,
        }) as Arc<dyn ExecutionPlan>
    });
    let again = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    plan.replace_children(children.collect(), again)
}

/// Whether the operator is a window function whose frames end behind the current row: it gathers rows until then.
fn looks_ahead(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.downcast_ref::<BoundedWindowAggExec>()
        .is_some_and(|windows| {
            let mut frames = windows
                .window_expr()
                .iter()
                .map(|each| each.get_window_frame());
            frames.any(|frame| matches!(frame.end_bound, WindowFrameBound::Following(_)))
        })
}

/// A join by condition, with a condition that fails when the budget's time is over.
fn stoppable(plan: Arc<dyn ExecutionPlan>, budget: &Arc<Budget>) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() else {
        return Ok(plan);
    };
    let Some(filter) = join.filter() else {
        return Ok(plan);
    };
    let condition = Stoppable {
        inner: Arc::clone(filter.expression()),
        budget: Arc::clone(budget),
    };
    let filter = JoinFilter::new(
        Arc::new(condition),
        filter.column_indices().to_vec(),
        Arc::clone(filter.schema()),
    );
    let (left, right) = (Arc::clone(join.left()), Arc::clone(join.right()));
    let join = NestedLoopJoinExecBuilder::new(left, right, *join.join_type())
        .with_filter(Some(filter))
        .with_projection_ref(join.projection().clone())
        .build()?;
    Ok(Arc::new(join))
}

/// Bytes of the constants in an expression.
fn constant_bytes(expression: &Arc<dyn PhysicalExpr>) -> usize {
    let own = expression
        .downcast_ref::<Literal>()
        .map_or(0, |literal| literal.value().size());
    let inner = expression.children().into_iter().map(constant_bytes);
    inner.fold(own, usize::saturating_add)
}

/// An expression that fails when the budget's time is over.
#[derive(Debug)]
struct Stoppable {
    inner: Arc<dyn PhysicalExpr>,
    budget: Arc<Budget>,
}

impl PhysicalExpr for Stoppable {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.budget.check()?;
        self.inner.evaluate(batch)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(schema)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let inner = children.pop().unwrap_or_else(|| Arc::clone(&self.inner));
        let budget = Arc::clone(&self.budget);
        Ok(Arc::new(Self { inner, budget }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}

impl fmt::Display for Stoppable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PartialEq for Stoppable {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for Stoppable {}

impl Hash for Stoppable {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    /// The operator above gathers all rows, and does not count them.
    Gathered,
    /// The operator above gathers all rows and concatenates them; the rows are [`Bound::Narrow`].
    Build,
    /// The operator above repeats each row many times, so rows must not be wide.
    Narrow,
    /// Batches have at most so many rows.
    Pieces(usize),
    /// The operator below returns batches of few rows.
    FewRows,
}

#[derive(Debug)]
struct BoundExec {
    input: Arc<dyn ExecutionPlan>,
    bound: Bound,
    budget: Arc<Budget>,
}

impl DisplayAs for BoundExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bound {
            Bound::Gathered => f.write_str("Bound: memory"),
            Bound::Build => {
                write!(f, "Bound: memory, bytes of a row <= {JOIN_ROW_BYTES_MAX}")
            }
            Bound::Narrow => write!(f, "Bound: bytes of a row <= {JOIN_ROW_BYTES_MAX}"),
            Bound::Pieces(rows) => write!(f, "Bound: rows of a batch <= {rows}"),
            Bound::FewRows => write!(f, "Bound: rows of a batch <= {JOIN_BATCH_ROWS}"),
        }
    }
}

impl ExecutionPlan for BoundExec {
    fn name(&self) -> &str {
        "Bound"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(match children.pop() {
            Some(input) => Arc::new(BoundExec {
                input,
                bound: self.bound,
                budget: Arc::clone(&self.budget),
            }),
            None => self,
        })
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let again = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, again)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let reserved = matches!(self.bound, Bound::Gathered | Bound::Build)
            .then(|| MemoryConsumer::new("gathered").register(context.memory_pool()));
        let context = match self.bound {
            Bound::FewRows => few_rows(&context),
            _ => context,
        };
        Ok(Box::pin(Bounded {
            input: self.input.execute(partition, context)?,
            bound: self.bound,
            budget: Arc::clone(&self.budget),
            reserved,
            rest: None,
        }))
    }
}

/// The context with which operators return batches of few rows.
fn few_rows(context: &TaskContext) -> Arc<TaskContext> {
    let config = context.session_config().clone();
    Arc::new(TaskContext::new(
        context.task_id(),
        context.session_id(),
        config.with_batch_size(JOIN_BATCH_ROWS),
        context.scalar_functions().clone(),
        context.higher_order_functions().clone(),
        context.aggregate_functions().clone(),
        context.window_functions().clone(),
        context.runtime_env(),
    ))
}

struct Bounded {
    input: SendableRecordBatchStream,
    bound: Bound,
    budget: Arc<Budget>,
    reserved: Option<MemoryReservation>,
    /// The rest of a batch that is returned in pieces.
    rest: Option<RecordBatch>,
}

impl Bounded {
    fn reserve(&self, batch: &RecordBatch) -> Result<()> {
        match &self.reserved {
            Some(reserved) => reserved.try_grow(bytes(batch)?),
            None => Ok(()),
        }
    }
}

impl Stream for Bounded {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Err(over) = self.budget.check() {
            return Poll::Ready(Some(Err(over)));
        }
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => match ready!(self.input.poll_next_unpin(context)) {
                Some(Ok(batch)) => batch,
                end => return Poll::Ready(end),
            },
        };
        let checked = match self.bound {
            Bound::Gathered => self.reserve(&batch),
            Bound::Build => narrow(&batch).and_then(|()| self.reserve(&batch)),
            Bound::Narrow => narrow(&batch),
            Bound::FewRows => Ok(()),
            Bound::Pieces(rows) => {
                let more = batch.num_rows().saturating_sub(rows);
                if more > 0 {
                    self.rest = Some(batch.slice(rows, more));
                    return Poll::Ready(Some(Ok(batch.slice(0, rows))));
                }
                Ok(())
            }
        };
        Poll::Ready(Some(checked.map(|()| batch)))
    }
}

impl RecordBatchStream for Bounded {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}

/// Bytes that a batch takes: those of its rows, whatever they are a slice of, and its own.
pub(crate) fn bytes(batch: &RecordBatch) -> Result<usize> {
    let mut bytes = BATCH_OVERHEAD_BYTES + batch.num_columns() * COLUMN_OVERHEAD_BYTES;
    for column in batch.columns() {
        bytes += column.to_data().get_slice_memory_size()?;
    }
    Ok(bytes)
}

fn narrow(batch: &RecordBatch) -> Result<()> {
    let bytes: usize = batch.columns().iter().map(widest).sum();
    if bytes <= JOIN_ROW_BYTES_MAX {
        return Ok(());
    }
    Err(told(
        Error::new(Class::Permanent, "sql.row-bytes")
            .with("bytes", bytes)
            .with("most", JOIN_ROW_BYTES_MAX),
    ))
}

/// An estimate of the bytes of an array's widest value.
fn widest(array: &ArrayRef) -> usize {
    fn most<O: OffsetSizeTrait>(offsets: &[O]) -> usize {
        let lengths = offsets.windows(2).map(|pair| pair[1] - pair[0]);
        lengths.map(|length| length.as_usize()).max().unwrap_or(0)
    }
    let each = |values: &ArrayRef| {
        let rows = values.len().max(1);
        let bytes = values.to_data().get_slice_memory_size();
        bytes.unwrap_or(VALUE_BYTES_MAX).div_ceil(rows)
    };
    match array.data_type() {
        DataType::Utf8 => most(array.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => most(array.as_string::<i64>().value_offsets()),
        DataType::Binary => most(array.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => most(array.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => {
            let texts = array.as_string_view().iter().flatten();
            texts.map(str::len).max().unwrap_or(0)
        }
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            most(lists.value_offsets()) * each(lists.values())
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            most(map.value_offsets()) * each(&entries)
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(widest).sum(),
        // Only a dictionary's keys are repeated.
        DataType::Dictionary(..) => size_of::<i32>(),
        _ => each(array),
    }
}
