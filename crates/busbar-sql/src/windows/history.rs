//! Windows of time over stored rows: such a query becomes one that computes the bounds of windows as columns.
//!
//! `… from gauge where w group by tumble(…), site` becomes
//! `… from (select *, … as window_start, … as window_end from gauge where w) as gauge group by window_start, window_end, site`.

use arrow::datatypes::{DataType, SchemaRef};
use datafusion_sql::parser::Statement;
use datafusion_sql::sqlparser::ast::{
    self, BinaryOperator, Expr, GroupByExpr, Ident, ObjectNamePart, Query, Select, SelectItem,
    SetExpr, TableAlias, TableFactor, TableWithJoins, WindowType,
};

use super::call::{self, TimeWindow};
use crate::{Diagnostic, parse};

/// The columns that a window adds to the rows it counts.
const START: &str = "window_start";
const END: &str = "window_end";

/// Rewrites every select of a statement that groups by a window. `schema_of` gives the columns of a relation by its name;
/// none if it is not known.
///
/// # Errors
/// A window at another place than `group by`, over several relations, or over rows without a `time`.
pub(crate) fn rewrite(
    text: &str,
    statement: &mut Statement,
    schema_of: &dyn Fn(&str) -> Option<SchemaRef>,
) -> Result<(), Diagnostic> {
    if !call::may_contain(text) {
        return Ok(());
    }
    let inner = match statement {
        Statement::Statement(inner) => inner,
        Statement::Explain(explain) => return rewrite(text, &mut explain.statement, schema_of),
        _ => return Ok(()),
    };
    let ast::Statement::Query(query) = &mut **inner else {
        return Ok(());
    };
    let rewriter = Rewriter { text, schema_of };
    rewriter.query(query)?;
    match call::first_place(text, &**query, None) {
        Some(place) => Err(call::misplaced(text, place)),
        None => Ok(()),
    }
}

struct Rewriter<'a> {
    text: &'a str,
    schema_of: &'a dyn Fn(&str) -> Option<SchemaRef>,
}

impl Rewriter<'_> {
    /// As deep as the text, which limits bound.
    fn query(&self, query: &mut Query) -> Result<(), Diagnostic> {
        if let Some(with) = &mut query.with {
            for table in &mut with.cte_tables {
                self.query(&mut table.query)?;
            }
        }
        self.body(&mut query.body)
    }

    fn body(&self, body: &mut SetExpr) -> Result<(), Diagnostic> {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::Query(query) => self.query(query),
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left)?;
                self.body(right)
            }
            _ => Ok(()),
        }
    }

    fn select(&self, select: &mut Select) -> Result<(), Diagnostic> {
        for table in &mut select.from {
            let joined = table.joins.iter_mut().map(|join| &mut join.relation);
            for relation in std::iter::once(&mut table.relation).chain(joined) {
                if let TableFactor::Derived { subquery, .. } = relation {
                    self.query(subquery)?;
                }
            }
        }
        let Some((at, window)) = call::in_group_by(self.text, select)? else {
            return Ok(());
        };
        let GroupByExpr::Expressions(by, _) = &mut select.group_by else {
            return Ok(());
        };
        let call = by.remove(at);
        let wrong = |code| Diagnostic::new(code, call::place(self.text, &call));
        let keys = by.clone();
        let bounds = [START, END].map(|name| Expr::Identifier(Ident::with_quote('"', name)));
        by.extend(bounds);
        let mut from = std::mem::take(&mut select.from);
        let relation = match (from.pop(), from.is_empty()) {
            (Some(table), true) if table.joins.is_empty() => table.relation,
            _ => return Err(wrong("sql.window-relation")),
        };
        let (name, known) = match &relation {
            TableFactor::Table { name, alias, .. } => {
                let Some(ObjectNamePart::Identifier(own)) = name.0.last() else {
                    return Err(wrong("sql.window-relation"));
                };
                let alias = alias.as_ref().map(|alias| alias.name.clone());
                let plain = match own.quote_style {
                    Some(_) => own.value.clone(),
                    None => own.value.to_lowercase(),
                };
                (
                    alias.unwrap_or_else(|| own.clone()),
                    (self.schema_of)(&plain),
                )
            }
            TableFactor::Derived { alias, .. } => {
                let alias = alias.as_ref().map(|alias| alias.name.clone());
                (
                    alias.unwrap_or_else(|| Ident::with_quote('"', "_rows")),
                    None,
                )
            }
            _ => return Err(wrong("sql.window-relation")),
        };
        let is_time = |schema: &SchemaRef| {
            let time = schema.field_with_name("time");
            time.is_ok_and(|time| matches!(time.data_type(), DataType::Timestamp(..)))
        };
        if known.as_ref().is_some_and(|schema| !is_time(schema)) {
            return Err(wrong("sql.window-time"));
        }
        let hidden: Vec<&str> = [START, END]
            .into_iter()
            .filter(|name| known.as_ref().is_some_and(|s| s.index_of(name).is_ok()))
            .collect();
        let rows = Rows {
            relation,
            name,
            condition: select.selection.take(),
            hidden,
        };
        let rows = rows
            .with_bounds(window, &keys)
            .ok_or_else(|| wrong("sql.not-supported"))?;
        select.from = vec![rows];
        Ok(())
    }
}

/// Rows that windows count.
struct Rows<'a> {
    relation: TableFactor,
    /// What their columns are qualified by.
    name: Ident,
    condition: Option<Expr>,
    /// Columns that a window's own replace.
    hidden: Vec<&'a str>,
}

impl Rows<'_> {
    /// The rows, each with the bounds of its window; one row for each window of a row.
    fn with_bounds(self, window: TimeWindow, keys: &[Expr]) -> Option<TableWithJoins> {
        let all = match self.hidden.is_empty() {
            true => "*".to_owned(),
            false => format!("* exclude ({})", self.hidden.join(", ")),
        };
        let has_time = Expr::IsNotNull(Box::new(Expr::Identifier(Ident::with_quote('"', "time"))));
        let condition = match self.condition {
            None => has_time,
            Some(condition) => Expr::BinaryOp {
                left: Box::new(Expr::Nested(Box::new(condition))),
                op: BinaryOperator::And,
                right: Box::new(has_time),
            },
        };
        let layer = |columns: &str, relation, condition| {
            layer(columns, relation, condition, &self.name, keys)
        };
        let micros = |length: i64| format!("interval '{length} microseconds'");
        let (rows, length) = match window {
            TimeWindow::Tumble { size } => {
                let start = format!(r#"date_bin({}, "time") as {START}"#, micros(size));
                let rows = layer(&format!("{all}, {start}"), self.relation, Some(condition))?;
                (rows, size)
            }
            TimeWindow::Hop { size, every } => {
                let start = format!(r#"unnest(hop_starts("time", {size}, {every})) as {START}"#);
                let rows = layer(&format!("{all}, {start}"), self.relation, Some(condition))?;
                (rows, size)
            }
            TimeWindow::Session { gap } => {
                let before = r#"lag("time") over (order by "time") as _before"#;
                let rows = layer(&format!("{all}, {before}"), self.relation, Some(condition))?;
                let number = format!(
                    r#"*, sum(case when "time" < _before + {} then 0 else 1 end)
                        over (order by "time") as _session"#,
                    micros(gap)
                );
                let rows = layer(&number, rows, None)?;
                let bounds = format!(
                    r#"*, min("time") over (partition by _session) as {START},
                        max("time") over (partition by _session) + {} as {END}"#,
                    micros(gap)
                );
                return Some(joined(layer(&bounds, rows, None)?));
            }
        };
        let end = format!("*, {START} + {} as {END}", micros(length));
        Some(joined(layer(&end, rows, None)?))
    }
}

fn joined(relation: TableFactor) -> TableWithJoins {
    TableWithJoins {
        relation,
        joins: Vec::new(),
    }
}

/// `(select columns from relation where condition) as name`, with the window functions among the columns partitioned by
/// keys.
fn layer(
    columns: &str,
    relation: TableFactor,
    condition: Option<Expr>,
    name: &Ident,
    keys: &[Expr],
) -> Option<TableFactor> {
    let mut query = parse::own_query(&format!("select {columns} from r"))?;
    let SetExpr::Select(select) = &mut *query.body else {
        return None;
    };
    select.from = vec![joined(relation)];
    select.selection = condition;
    for item in &mut select.projection {
        if let SelectItem::ExprWithAlias { expr, .. } = item {
            partition(expr, keys);
        }
    }
    Some(TableFactor::Derived {
        lateral: false,
        subquery: Box::new(query),
        alias: Some(TableAlias {
            explicit: true,
            name: name.clone(),
            columns: Vec::new(),
            at: None,
        }),
        sample: None,
    })
}

/// Adds keys to the partitions of window functions.
fn partition(expr: &mut Expr, keys: &[Expr]) {
    match expr {
        Expr::Function(function) => {
            if let Some(WindowType::WindowSpec(over)) = &mut function.over {
                over.partition_by.extend(keys.iter().cloned());
            }
        }
        Expr::BinaryOp { left, .. } => partition(left, keys),
        _ => {}
    }
}
