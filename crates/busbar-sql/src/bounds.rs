//! Operators that keep others within memory that no pool counts.
//!
//! DataFusion cuts batches by rows. Where an operator repeats values (a join, a constant beside each row), a
//! batch of many rows with wide values would take gigabytes; and a window function gathers all its input.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use busbar_event::{Class, Error};
use datafusion_common::Result;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion_execution::{RecordBatchStream, TaskContext};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Literal;
use datafusion_physical_plan::coop::CooperativeExec;
use datafusion_physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion_physical_plan::projection::ProjectionExec;
use datafusion_physical_plan::recursive_query::RecursiveQueryExec;
use datafusion_physical_plan::union::{InterleaveExec, UnionExec};
use datafusion_physical_plan::windows::WindowAggExec;
use datafusion_physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures::{Stream, StreamExt};

use crate::budget::told;
use crate::limits::{
    BATCH_ROWS, CONSTANTS_BATCH_BYTES_MAX, JOIN_BATCH_ROWS, JOIN_ROW_BYTES_MAX, VALUE_BYTES_MAX,
};

/// The plan with what bounds it around its operators.
pub(crate) fn within(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(plan.transform_up(bound)?.data)
}

fn bound(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let children: Vec<_> = plan.children().into_iter().cloned().collect();
    if plan.is::<WindowAggExec>() {
        return Ok(Transformed::yes(around(plan, children, Bound::Gathered)?));
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let expressions = projection.expr().iter().map(|each| &each.expr);
        let bytes: usize = expressions.map(constant_bytes).sum();
        let rows = CONSTANTS_BATCH_BYTES_MAX / bytes.max(1);
        if rows < BATCH_ROWS {
            let pieces = Bound::Pieces(rows.max(1));
            return Ok(Transformed::yes(around(plan, children, pieces)?));
        }
        return Ok(Transformed::no(plan));
    }
    if children.len() < 2 {
        return Ok(Transformed::no(plan));
    }
    let is_join =
        !plan.is::<UnionExec>() && !plan.is::<InterleaveExec>() && !plan.is::<RecursiveQueryExec>();
    // A join makes many rows of few, so that those who read it may work for minutes on one batch of a
    // scan; its own output must let others, and the query's deadline, have their turn.
    Ok(Transformed::yes(match is_join {
        true => {
            let join = around(plan, children, Bound::Narrow)?;
            Arc::new(BoundExec {
                input: Arc::new(CooperativeExec::new(join)),
                bound: Bound::FewRows,
            })
        }
        false => Arc::new(CooperativeExec::new(plan)),
    }))
}

/// The operator with each of its inputs bounded.
fn around(
    plan: Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
    bound: Bound,
) -> Result<Arc<dyn ExecutionPlan>> {
    let children = children
        .into_iter()
        .map(|input| Arc::new(BoundExec { input, bound }) as Arc<dyn ExecutionPlan>);
    let again = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    plan.replace_children(children.collect(), again)
}

/// Bytes of the constants in an expression.
fn constant_bytes(expression: &Arc<dyn PhysicalExpr>) -> usize {
    let own = expression
        .downcast_ref::<Literal>()
        .map_or(0, |literal| literal.value().size());
    let inner = expression.children().into_iter().map(constant_bytes);
    inner.fold(own, usize::saturating_add)
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    /// What comes is all gathered by the operator above, and counts.
    Gathered,
    /// Rows are to be narrow enough to be repeated many times.
    Narrow,
    /// Batches of so many rows at most.
    Pieces(usize),
    /// The operator below makes batches of few rows.
    FewRows,
}

#[derive(Debug)]
struct BoundExec {
    input: Arc<dyn ExecutionPlan>,
    bound: Bound,
}

impl DisplayAs for BoundExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bound {
            Bound::Gathered => f.write_str("Bound: memory"),
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
        let counted = matches!(self.bound, Bound::Gathered)
            .then(|| MemoryConsumer::new("window").register(context.memory_pool()));
        let context = match self.bound {
            Bound::FewRows => few_rows(&context),
            _ => context,
        };
        Ok(Box::pin(Bounded {
            input: self.input.execute(partition, context)?,
            bound: self.bound,
            counted,
            rest: None,
        }))
    }
}

/// The context in which operators make batches of few rows.
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
    counted: Option<MemoryReservation>,
    /// What is left of a batch that is handed on in pieces.
    rest: Option<RecordBatch>,
}

impl Stream for Bounded {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => match ready!(self.input.poll_next_unpin(context)) {
                Some(Ok(batch)) => batch,
                end => return Poll::Ready(end),
            },
        };
        let checked = match self.bound {
            Bound::Gathered => match &self.counted {
                Some(counted) => bytes(&batch).and_then(|bytes| counted.try_grow(bytes)),
                None => Ok(()),
            },
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

/// Bytes of the batch's own rows, whatever they are a slice of.
fn bytes(batch: &RecordBatch) -> Result<usize> {
    let mut bytes = 0;
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

/// About the bytes of an array's widest value.
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
        // A dictionary's values are not repeated, only their numbers.
        DataType::Dictionary(..) => size_of::<i32>(),
        _ => each(array),
    }
}
