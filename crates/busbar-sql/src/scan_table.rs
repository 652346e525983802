//! Tables as sources of a query.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use busbar_table::{Compare, Condition, Constant, Scan, Table};
use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_common::{DataFusionError, Result, ScalarValue};
use datafusion_execution::TaskContext;
use datafusion_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion_physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion_physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion_physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use datafusion_session::{Session, TableProvider};

use crate::families::TableShape;
use crate::limits::SCAN_BATCHES_AHEAD_MAX;

/// A table as DataFusion sees it.
#[derive(Debug)]
pub(crate) struct TableRows {
    pub table: Arc<dyn Table>,
    pub shape: TableShape,
}

#[async_trait]
impl TableProvider for TableRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.shape.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let usable = |filter: &&Expr| match condition(&self.shape, filter) {
            Some(condition) if self.table.follows(&condition) => TableProviderFilterPushDown::Exact,
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
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
        let shape = match projection {
            Some(columns) => self.shape.project(columns)?,
            None => self.shape.clone(),
        };
        let schema = Arc::clone(&shape.schema);
        let rows = OneTable {
            table: Arc::clone(&self.table),
            scan: Scan {
                projection: Some(shape.places()),
                conditions: filters
                    .iter()
                    .filter_map(|filter| condition(&self.shape, filter))
                    .collect(),
                limit,
            },
            shape,
        };
        let shown = self.table.shown(&rows.scan);
        let partitions: Vec<Arc<dyn PartitionStream>> = vec![Arc::new(rows)];
        let plan = StreamingTableExec::try_new(schema, partitions, None, [], false, limit)?;
        Ok(match shown {
            Some(statement) => Arc::new(RemoteExec {
                rows: Arc::new(plan),
                statement,
            }),
            None => Arc::new(plan),
        })
    }
}

/// Rows that another system sends, with what it is asked: `explain` shows it.
#[derive(Debug)]
struct RemoteExec {
    rows: Arc<dyn ExecutionPlan>,
    statement: String,
}

impl DisplayAs for RemoteExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteExec: {}", self.statement)
    }
}

impl ExecutionPlan for RemoteExec {
    fn name(&self) -> &str {
        "RemoteExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.rows.properties()
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

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.rows.execute(partition, context)
    }
}

struct OneTable {
    table: Arc<dyn Table>,
    scan: Scan,
    shape: TableShape,
}

impl PartitionStream for OneTable {
    fn schema(&self) -> &SchemaRef {
        &self.shape.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(
            Arc::clone(&self.shape.schema),
            SCAN_BATCHES_AHEAD_MAX,
        );
        let shape = self.shape.clone();
        let (table, scan, sender) = (Arc::clone(&self.table), self.scan.clone(), builder.tx());
        builder.spawn_blocking(move || {
            let wrap = |error| DataFusionError::External(Box::new(error));
            for batch in table.scan(&scan).map_err(wrap)? {
                let rows = shape.shape(batch.map_err(wrap)?)?;
                if sender.blocking_send(Ok(rows)).is_err() {
                    // The query is over.
                    return Ok(());
                }
            }
            Ok(())
        });
        builder.build()
    }
}

impl fmt::Debug for OneTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OneTable").field(&self.table.name()).finish()
    }
}

/// The filter as `column <compare> constant`; none if it has another form.
fn condition(shape: &TableShape, filter: &Expr) -> Option<Condition> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else {
        return None;
    };
    let (column, constant, op) = match (&**left, &**right) {
        (Expr::Column(column), Expr::Literal(value, _)) => (column, value, *op),
        (Expr::Literal(value, _), Expr::Column(column)) => (column, value, op.swap()?),
        _ => return None,
    };
    let compare = match op {
        Operator::Eq => Compare::Equal,
        Operator::Lt => Compare::Less,
        Operator::LtEq => Compare::LessOrEqual,
        Operator::Gt => Compare::Greater,
        Operator::GtEq => Compare::GreaterOrEqual,
        _ => return None,
    };
    let constant = match constant {
        ScalarValue::Boolean(Some(value)) => Constant::Bool(*value),
        ScalarValue::Int64(Some(value)) => Constant::Int(*value),
        ScalarValue::Float64(Some(value)) => Constant::Float(*value),
        ScalarValue::Utf8(Some(value)) => Constant::Text(value.clone()),
        ScalarValue::TimestampMicrosecond(Some(value), Some(_)) => Constant::Time(*value),
        _ => return None,
    };
    Some(Condition {
        column: shape.place(&column.name)?,
        compare,
        constant,
    })
}
