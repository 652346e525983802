//! A fixed order for events of the same time.
//!
//! Events of different partitions may have the same time, and so may events whose senders gave one. A
//! query over one stream that orders by `time` therefore orders by `partition` and `offset` behind all it
//! names, so that it gives the same rows in the same order each time.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion_sql::parser::Statement;
use datafusion_sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, ObjectNamePart, OrderByExpr, OrderByKind, OrderByOptions, Query,
    Select, SelectItem, SetExpr, TableFactor, Value, VisitMut, VisitorMut,
};

/// Completes the `order by` of each query in the statement that reads one stream.
pub(crate) fn break_ties(statement: &mut Statement, is_stream: impl Fn(&str) -> bool) {
    let inner = match statement {
        Statement::Statement(inner) => inner,
        Statement::Explain(explain) => return break_ties(&mut explain.statement, is_stream),
        _ => return,
    };
    let mut names = CteNames::default();
    let _: ControlFlow<()> = inner.visit(&mut names);
    let is_stream = |name: &str| is_stream(name) && !names.0.contains(name);
    let _: ControlFlow<()> = inner.visit(&mut TieBreaker(is_stream));
}

/// Names that `with` gives to queries; they may hide streams.
#[derive(Default)]
struct CteNames(HashSet<String>);

impl VisitorMut for CteNames {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.0.extend(tables.map(|cte| normalized(&cte.alias.name)));
        ControlFlow::Continue(())
    }
}

struct TieBreaker<F>(F);

impl<F: Fn(&str) -> bool> VisitorMut for TieBreaker<F> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let SetExpr::Select(select) = &*query.body
            && let Some(relation) = one_stream(select, &self.0)
            && let Some(order) = &mut query.order_by
            && let OrderByKind::Expressions(orders) = &mut order.kind
            && let Some(by_time) = orders.iter().find(|order| is_time(&order.expr, select))
        {
            let asc = by_time.options.asc;
            for column in ["partition", "offset"] {
                let column = Ident::with_quote('"', column);
                orders.push(OrderByExpr {
                    expr: Expr::CompoundIdentifier(vec![relation.clone(), column]),
                    options: OrderByOptions {
                        asc,
                        nulls_first: None,
                    },
                    with_fill: None,
                });
            }
        }
        ControlFlow::Continue(())
    }
}

/// What the columns of the stream are qualified by, if each row of the answer is one of its events.
fn one_stream(select: &Select, is_stream: impl Fn(&str) -> bool) -> Option<Ident> {
    let grouped = match &select.group_by {
        GroupByExpr::Expressions(by, modifiers) => !by.is_empty() || !modifiers.is_empty(),
        GroupByExpr::All(_) => true,
    };
    if grouped || select.having.is_some() || select.distinct.is_some() {
        return None;
    }
    let [from] = &select.from[..] else {
        return None;
    };
    let TableFactor::Table { name, alias, .. } = &from.relation else {
        return None;
    };
    let [ObjectNamePart::Identifier(name)] = &name.0[..] else {
        return None;
    };
    if !from.joins.is_empty() || !is_stream(&normalized(name)) {
        return None;
    }
    match alias {
        // The columns have other names.
        Some(alias) if !alias.columns.is_empty() => None,
        Some(alias) => Some(alias.name.clone()),
        None => Some(name.clone()),
    }
}

/// Whether an expression of `order by` is the events' time: by its name, or by its place in the answer.
fn is_time(expr: &Expr, select: &Select) -> bool {
    match expr {
        Expr::Identifier(ident) => {
            // What the answer calls so comes first.
            let named = select.projection.iter().find_map(|item| match item {
                SelectItem::ExprWithAlias { expr, alias } => {
                    (normalized(alias) == normalized(ident)).then_some(expr)
                }
                _ => None,
            });
            is_time_column(named.unwrap_or(expr))
        }
        Expr::Value(place) => {
            let Value::Number(place, _) = &place.value else {
                return false;
            };
            let place: Option<usize> = place.parse().ok();
            let item = place.and_then(|place| select.projection.get(place.checked_sub(1)?));
            match item {
                Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => {
                    is_time_column(expr)
                }
                _ => false,
            }
        }
        expr => is_time_column(expr),
    }
}

fn is_time_column(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(ident) => normalized(ident) == "time",
        Expr::CompoundIdentifier(idents) => idents
            .last()
            .is_some_and(|ident| normalized(ident) == "time"),
        _ => false,
    }
}

fn normalized(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}
