//! What stands behind the name of a relation in a plan.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion_common::{Result, plan_datafusion_err};
use datafusion_datasource::memory::MemorySourceConfig;
use datafusion_expr::{Expr, TableProviderFilterPushDown, TableSource, TableType};
use datafusion_physical_plan::ExecutionPlan;
use datafusion_session::{Session, TableProvider};

/// A relation as logical plans know it: columns, and filters that it can use.
struct RelationSource(Arc<dyn TableProvider>);

/// The relation for a logical plan.
pub(crate) fn provider_as_source(provider: Arc<dyn TableProvider>) -> Arc<dyn TableSource> {
    Arc::new(RelationSource(provider))
}

/// The relation of a logical plan for a physical one.
pub(crate) fn provider_of(source: &Arc<dyn TableSource>) -> Result<Arc<dyn TableProvider>> {
    let source = source.downcast_ref::<RelationSource>();
    source
        .map(|source| Arc::clone(&source.0))
        .ok_or_else(|| plan_datafusion_err!("a relation that was not looked up"))
}

impl TableSource for RelationSource {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        self.0.table_type()
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        self.0.supports_filters_pushdown(filters)
    }
}

/// A relation whose rows are in memory.
#[derive(Debug)]
pub(crate) struct OneBatch(pub RecordBatch);

#[async_trait]
impl TableProvider for OneBatch {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = [vec![self.0.clone()]];
        let projection = projection.cloned();
        Ok(MemorySourceConfig::try_new_exec(
            &rows,
            self.0.schema(),
            projection,
        )?)
    }
}
