//! Aggregation by keys over many batches, for windows.

mod groups;
mod parts;
mod results;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions,
    UInt32Array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use busbar_event::{Class, Error};
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DataFusionError};
use datafusion_expr::logical_plan::builder::LogicalTableSource;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{Expr, LogicalPlan};
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use datafusion_physical_expr::expressions::Column as PhysicalColumn;
use datafusion_physical_expr::{PhysicalExpr, PhysicalSortExpr, create_physical_expr};
use datafusion_sql::parser::Statement;
use datafusion_sql::sqlparser::ast;

use crate::explain::{explain, run_error};
use crate::expression::{isolate, refuse_unrepeatable_in_query};
use crate::names::Names;
use crate::planner::Context;
use crate::rewrite::lowered_aggregate;
use crate::stack::deep;
use crate::statement::prepare;
use crate::{Diagnostic, Failed, parse, session};

pub use groups::Groups;
pub use results::{FailedGroups, GroupResults};

/// The text of an aggregation, each part as it stands in a flow file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregationText<'a> {
    /// A list as after `SELECT`, with aggregates.
    pub select: &'a str,
    /// The keys, each an expression over the rows.
    pub by: &'a [String],
    /// The condition on results.
    pub having: Option<&'a str>,
    /// Columns that every group has besides its keys, such as `window_end`. They stand beside the
    /// keys in `select` and `having`, and not inside aggregates.
    pub group_columns: &'a [Field],
}

/// The part of an [`AggregationText`] in which something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregationPart {
    /// `select`.
    Select,
    /// The key of this number.
    By(usize),
    /// `having`.
    Having,
}

/// A compiled `select` list with aggregates, such as `site, max(level_mm) as peak, count(*) as n`
/// by `site`.
///
/// Rows are prepared with [`Aggregation::inputs`], counted into [`Groups`], and read with
/// [`Groups::finish`]. The state of groups is a record batch of [`Aggregation::state_schema`], which other
/// groups merge: this is how an aggregation is kept over a restart and computed in parts.
#[derive(Clone, Debug)]
pub struct Aggregation {
    text: Arc<OwnedText>,
    input: SchemaRef,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Types of the keys as the results have them; groups keep the plain type.
    key_fields: Vec<FieldRef>,
    aggregates: Vec<Aggregate>,
    state: SchemaRef,
    /// Keys, group columns and aggregates: what `outputs` and `having` are evaluated on.
    groups: SchemaRef,
    outputs: Vec<Arc<dyn PhysicalExpr>>,
    having: Option<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    /// Whether a fragment's number is one more key.
    fragments: bool,
}

#[derive(Debug, PartialEq)]
struct OwnedText {
    select: String,
    by: Vec<String>,
    having: Option<String>,
    group_columns: Vec<Field>,
}

#[derive(Clone, Debug)]
struct Aggregate {
    function: Arc<AggregateFunctionExpr>,
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// The order in which its rows must be given to it.
    order: Vec<PhysicalSortExpr>,
}

/// Keys and arguments of the rows of one batch, evaluated.
#[derive(Clone, Debug)]
pub struct Inputs {
    rows: usize,
    keys: Vec<ArrayRef>,
    /// For each aggregate its arguments, then the values it is ordered by.
    arguments: Vec<Vec<ArrayRef>>,
    filters: Vec<Option<BooleanArray>>,
}

impl Aggregation {
    /// Compiles an aggregation over rows of `schema`. Only what is repeatable is accepted.
    ///
    /// # Errors
    /// What is wrong, and in which part of the text.
    pub fn compile(
        schema: &SchemaRef,
        text: &AggregationText<'_>,
    ) -> Result<Self, (AggregationPart, Diagnostic)> {
        let lost = |error| {
            let diagnostic = Diagnostic::from_error(error, 0..text.select.len());
            (AggregationPart::Select, diagnostic)
        };
        deep(lost, || Self::compiled(schema, text))
    }

    fn compiled(
        schema: &SchemaRef,
        text: &AggregationText<'_>,
    ) -> Result<Self, (AggregationPart, Diagnostic)> {
        let (extended, query) = parsed(schema, text)?;
        let in_select = |diagnostic| (AggregationPart::Select, diagnostic);
        let wrong = |error: DataFusionError| {
            in_select(explain(text.select, error, session::function_names()))
        };
        let state = session::state();
        let mut context = Context::new(state);
        context.add(
            INPUT,
            Arc::new(LogicalTableSource::new(Arc::clone(&extended))),
        );
        let statement = prepare(query, &Names::of(&extended));
        let plan = match (context.planner().statement_to_plan(statement), text.having) {
            (Ok(plan), _) => plan,
            (Err(error), None) => return Err(wrong(error)),
            (Err(error), Some(having)) => {
                // Without the condition it is known which part is at fault.
                let (_, rest) = parsed(
                    schema,
                    &AggregationText {
                        having: None,
                        ..*text
                    },
                )?;
                let rest = prepare(rest, &Names::of(&extended));
                context.planner().statement_to_plan(rest).map_err(wrong)?;
                let diagnostic = explain(having, error, session::function_names());
                return Err((AggregationPart::Having, diagnostic));
            }
        };
        refuse_unrepeatable_in_query(text.select, &plan).map_err(in_select)?;
        let plan = state.analyze(plan).map_err(wrong)?;
        let unsupported = || {
            in_select(Diagnostic::new(
                "sql.aggregation-shape",
                0..text.select.len(),
            ))
        };
        let parts = PlanParts::of(&plan).ok_or_else(unsupported)?;
        let properties = state.execution_props();
        let planning = PhysicalPlanningContext::default();
        let physical = |expr: &Expr, schema: &DFSchema| {
            create_physical_expr(expr, schema, properties, &planning).map_err(wrong)
        };

        let key_count = text.by.len();
        let mut keys = Vec::with_capacity(key_count);
        let mut key_fields = Vec::with_capacity(key_count);
        for (i, expr) in parts.group_by.iter().take(key_count).enumerate() {
            keys.push(physical(expr, parts.input)?);
            key_fields.push(Arc::clone(&parts.groups.fields()[i]));
        }
        let mut aggregates = Vec::with_capacity(parts.aggregates.len());
        for expr in parts.aggregates {
            let lowered = lowered_aggregate(expr, parts.input, &extended, properties, &planning)
                .map_err(wrong)?;
            let aggregate = Aggregate {
                arguments: lowered.aggregate.expressions(),
                function: lowered.aggregate,
                filter: lowered.filter,
                order: lowered.order_bys,
            };
            if aggregate.reads_beyond(schema.fields().len()) {
                return Err(in_select(Diagnostic::new(
                    "sql.window-column-inside",
                    0..text.select.len(),
                )));
            }
            aggregates.push(aggregate);
        }
        let mut outputs = Vec::with_capacity(parts.projection.len());
        for expr in parts.projection {
            outputs.push(physical(expr, parts.groups)?);
        }
        let having = parts
            .having
            .map(|expr| physical(expr, parts.groups))
            .transpose()?;

        let mut state_fields: Vec<FieldRef> = Vec::new();
        for (i, field) in key_fields.iter().enumerate() {
            let plain = plain_type(field.data_type());
            state_fields.push(Arc::new(Field::new(format!("k{i}"), plain, true)));
        }
        for (i, aggregate) in aggregates.iter().enumerate() {
            let fields = aggregate.function.state_fields().map_err(wrong)?;
            for (j, field) in fields.iter().enumerate() {
                let name = format!("a{i}.{j}");
                let placed = parts::placed(field.data_type());
                let field = field.as_ref().clone().with_name(name);
                state_fields.push(Arc::new(field.with_data_type(placed).with_nullable(true)));
            }
        }
        // Group columns come behind the keys, as they stand in `group by`.
        let groups = Arc::new(parts.groups.as_arrow().clone());
        let fields: Vec<FieldRef> = plan.schema().fields().iter().cloned().collect();
        let compiled = Self {
            text: Arc::new(OwnedText {
                select: text.select.to_owned(),
                by: text.by.to_vec(),
                having: text.having.map(str::to_owned),
                group_columns: text.group_columns.to_vec(),
            }),
            input: Arc::clone(schema),
            keys,
            key_fields,
            aggregates,
            state: Arc::new(Schema::new(state_fields)),
            groups,
            outputs,
            having,
            schema: Arc::new(Schema::new(fields)),
            fragments: false,
        };
        // Some aggregates learn only here that they cannot work on their arguments' types.
        Groups::try_new(&compiled).map_err(wrong)?;
        Ok(compiled)
    }

    /// The schema of results.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The schema of groups' state: the keys, then what each aggregate keeps.
    pub fn state_schema(&self) -> SchemaRef {
        Arc::clone(&self.state)
    }

    /// How many columns of the state are keys of the text; they come first.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// How many columns every group has besides its keys.
    pub fn group_column_count(&self) -> usize {
        self.text.group_columns.len()
    }

    /// The same aggregation with one more key behind those of the text, a number that callers give with
    /// [`Inputs::with_fragments`] and that results do not show: for groups that may later turn out to be one.
    #[must_use]
    pub fn by_fragment(mut self) -> Self {
        if !self.fragments {
            let mut fields: Vec<FieldRef> = self.state.fields().iter().cloned().collect();
            let fragment = Field::new("fragment", DataType::Int64, false);
            fields.insert(self.keys.len(), Arc::new(fragment));
            self.state = Arc::new(Schema::new(fields));
            self.fragments = true;
        }
        self
    }

    /// How many columns of the state tell groups apart.
    fn group_key_count(&self) -> usize {
        self.keys.len() + usize::from(self.fragments)
    }

    /// Places in the schema of the columns it reads, sorted.
    pub fn columns(&self) -> Vec<usize> {
        let mut columns = Vec::new();
        for expression in self.expressions() {
            columns_of(expression, &mut columns);
        }
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// The same aggregation over batches of another schema that has its columns.
    ///
    /// # Errors
    /// `sql.bind` when a column is missing or has another type.
    pub fn bind(&self, schema: &SchemaRef) -> Result<Self, Error> {
        if self.input.fields() == schema.fields() {
            return Ok(self.clone());
        }
        let text = AggregationText {
            select: &self.text.select,
            by: &self.text.by,
            having: self.text.having.as_deref(),
            group_columns: &self.text.group_columns,
        };
        let mut bound = Self::compile(schema, &text).map_err(|(_, d)| d.into_error())?;
        if self.fragments {
            bound = bound.by_fragment();
        }
        match bound.state == self.state && bound.schema == self.schema {
            true => Ok(bound),
            false => Err(Error::new(Class::Configuration, "sql.bind")),
        }
    }

    /// Evaluates keys, arguments and filters for all rows of a batch.
    ///
    /// # Errors
    /// One of the whole batch; [`Aggregation::failing`] finds the rows.
    pub fn inputs(&self, batch: &RecordBatch) -> Result<Inputs, Error> {
        let rows = batch.num_rows();
        let evaluate = |expression: &Arc<dyn PhysicalExpr>| {
            expression
                .evaluate(batch)
                .and_then(|value| value.into_array(rows))
                .map_err(run_error)
        };
        let mut keys = Vec::with_capacity(self.keys.len());
        for (key, field) in self.keys.iter().zip(self.state.fields()) {
            let array = evaluate(key)?;
            keys.push(match array.data_type() == field.data_type() {
                true => array,
                false => cast(&array, field.data_type()).map_err(arrow_error)?,
            });
        }
        let mut arguments = Vec::with_capacity(self.aggregates.len());
        let mut filters = Vec::with_capacity(self.aggregates.len());
        for aggregate in &self.aggregates {
            let all = aggregate
                .arguments
                .iter()
                .chain(aggregate.order.iter().map(|o| &o.expr));
            arguments.push(all.map(evaluate).collect::<Result<_, _>>()?);
            filters.push(match &aggregate.filter {
                Some(filter) => Some(boolean(&evaluate(filter)?)?),
                None => None,
            });
        }
        Ok(Inputs {
            rows,
            keys,
            arguments,
            filters,
        })
    }

    /// The rows that cannot be evaluated, each with its cause, in order.
    pub fn failing(&self, batch: &RecordBatch) -> Vec<Failed> {
        isolate(batch.num_rows(), &mut |rows| {
            self.inputs(&batch.slice(rows.start, rows.len())).err()
        })
    }

    /// No groups yet.
    ///
    /// # Errors
    /// `sql.evaluate` when an aggregate cannot be made; it could when the text was compiled.
    pub fn groups(&self) -> Result<Groups, Error> {
        Groups::try_new(self).map_err(run_error)
    }

    fn expressions(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        let of_aggregates = self.aggregates.iter().flat_map(Aggregate::expressions);
        self.keys.iter().chain(of_aggregates)
    }
}

impl Aggregate {
    fn expressions(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        let order = self.order.iter().map(|order| &order.expr);
        self.arguments.iter().chain(&self.filter).chain(order)
    }

    fn reads_beyond(&self, columns: usize) -> bool {
        let mut read = Vec::new();
        for expression in self.expressions() {
            columns_of(expression, &mut read);
        }
        read.iter().any(|column| *column >= columns)
    }
}

impl Inputs {
    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The keys of the rows, in the plain types of [`Aggregation::state_schema`].
    pub fn keys(&self) -> &[ArrayRef] {
        &self.keys
    }

    /// With the number of each row's fragment as one more key; see [`Aggregation::by_fragment`].
    #[must_use]
    pub fn with_fragments(mut self, numbers: Int64Array) -> Inputs {
        self.keys.push(Arc::new(numbers));
        self
    }

    /// Consecutive rows; nothing is copied.
    pub fn slice(&self, range: Range<usize>) -> Inputs {
        let cut = |array: &ArrayRef| array.slice(range.start, range.len());
        Inputs {
            rows: range.len(),
            keys: self.keys.iter().map(cut).collect(),
            arguments: self
                .arguments
                .iter()
                .map(|of| of.iter().map(cut).collect())
                .collect(),
            filters: self
                .filters
                .iter()
                .map(|filter| filter.as_ref().map(|f| f.slice(range.start, range.len())))
                .collect(),
        }
    }

    /// These rows, in this order.
    ///
    /// # Errors
    /// `sql.evaluate` when an index is out of range.
    pub fn take(&self, rows: &UInt32Array) -> Result<Inputs, Error> {
        let pick = |array: &ArrayRef| take(array, rows, None).map_err(arrow_error);
        let mut filters = Vec::with_capacity(self.filters.len());
        for filter in &self.filters {
            filters.push(match filter {
                Some(filter) => {
                    let taken = take(filter, rows, None).map_err(arrow_error)?;
                    Some(boolean(&taken)?)
                }
                None => None,
            });
        }
        Ok(Inputs {
            rows: rows.len(),
            keys: self.keys.iter().map(pick).collect::<Result<_, _>>()?,
            arguments: self
                .arguments
                .iter()
                .map(|of| of.iter().map(pick).collect::<Result<_, _>>())
                .collect::<Result<_, _>>()?,
            filters,
        })
    }
}

/// The relation that `select` reads.
const INPUT: &str = "input";

/// The pieces of `Projection(Filter?(Aggregate(input)))`.
struct PlanParts<'a> {
    projection: &'a [Expr],
    having: Option<&'a Expr>,
    group_by: &'a [Expr],
    aggregates: &'a [Expr],
    /// Of what the aggregation gives.
    groups: &'a DFSchema,
    input: &'a DFSchema,
}

impl<'a> PlanParts<'a> {
    fn of(plan: &'a LogicalPlan) -> Option<Self> {
        let LogicalPlan::Projection(projection) = plan else {
            return None;
        };
        let (having, below) = match projection.input.as_ref() {
            LogicalPlan::Filter(filter) => (Some(&filter.predicate), filter.input.as_ref()),
            other => (None, other),
        };
        let LogicalPlan::Aggregate(aggregate) = below else {
            return None;
        };
        if !matches!(aggregate.input.as_ref(), LogicalPlan::TableScan(_)) {
            return None;
        }
        Some(Self {
            projection: &projection.expr,
            having,
            group_by: &aggregate.group_expr,
            aggregates: &aggregate.aggr_expr,
            groups: &aggregate.schema,
            input: aggregate.input.schema(),
        })
    }
}

type Wrong = (AggregationPart, Diagnostic);

/// The whole as one parsed query over `input`, whose schema is also returned: the rows' columns and then
/// the group columns, which replace columns of the same name.
fn parsed(schema: &SchemaRef, text: &AggregationText<'_>) -> Result<(SchemaRef, Statement), Wrong> {
    let in_part = |part| move |diagnostic| (part, diagnostic);
    let mut fields: Vec<FieldRef> = schema
        .fields()
        .iter()
        .enumerate()
        .map(
            |(i, field)| match text.group_columns.iter().any(|c| c.name() == field.name()) {
                // Hidden: the window's own column has the name.
                true => Arc::new(field.as_ref().clone().with_name(format!("\u{1}{i}"))),
                false => Arc::clone(field),
            },
        )
        .collect();
    fields.extend(text.group_columns.iter().cloned().map(Arc::new));
    let extended = Arc::new(Schema::new(fields));

    let projection = parse::select_list(text.select).map_err(in_part(AggregationPart::Select))?;
    let mut keys = Vec::with_capacity(text.by.len() + text.group_columns.len());
    for (i, by) in text.by.iter().enumerate() {
        let here = in_part(AggregationPart::By(i));
        let key = parse::expression(by).map_err(here)?;
        // Compiled by itself first, so that an error is told of this key.
        crate::expression::Expression::compile(schema, by, key.clone()).map_err(here)?;
        keys.push(key);
    }
    for column in text.group_columns {
        keys.push(ast::Expr::Identifier(ast::Ident::with_quote(
            '"',
            column.name(),
        )));
    }
    let having = match text.having {
        Some(having) => Some(parse::expression(having).map_err(in_part(AggregationPart::Having))?),
        None => None,
    };
    let mut statement =
        parse::statement("select 1 from input").map_err(in_part(AggregationPart::Select))?;
    if let Statement::Statement(inner) = &mut statement
        && let ast::Statement::Query(query) = inner.as_mut()
        && let ast::SetExpr::Select(select) = query.body.as_mut()
    {
        select.projection = projection;
        select.group_by = ast::GroupByExpr::Expressions(keys, Vec::new());
        select.having = having;
    }
    Ok((extended, statement))
}

fn columns_of(expression: &Arc<dyn PhysicalExpr>, columns: &mut Vec<usize>) {
    let walked = expression.apply(|node| {
        if let Some(column) = node.downcast_ref::<PhysicalColumn>() {
            columns.push(column.index());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
}

/// The type in which groups keep a key.
fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, value) => plain_type(value),
        other => other.clone(),
    }
}

fn boolean(array: &ArrayRef) -> Result<BooleanArray, Error> {
    array
        .as_boolean_opt()
        .cloned()
        .ok_or_else(|| Error::new(Class::Permanent, "sql.evaluate"))
}

fn record_batch(
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch, Error> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(arrow_error)
}

fn arrow_error(cause: arrow::error::ArrowError) -> Error {
    run_error(DataFusionError::from(cause))
}
