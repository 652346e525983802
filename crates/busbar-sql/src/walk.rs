//! A search in parsed SQL.
//!
//! Every visitor type makes the compiler generate code for the parser's whole syntax, a quarter of a megabyte. So
//! there is one visitor, which calls a closure through a pointer.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{Expr, Query, Visit, Visitor};

/// A part of a parsed text.
#[derive(Clone, Copy)]
pub(crate) enum Part<'a> {
    Query(&'a Query),
    Expr(&'a Expr),
}

/// The first result of `look`, which is called for outer parts before inner ones.
pub(crate) fn find<B>(
    parsed: &impl Visit,
    mut look: impl FnMut(Part<'_>) -> Option<B>,
) -> Option<B> {
    let mut found = None;
    let mut each = |part: Part<'_>| {
        found = look(part);
        match found {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    };
    let _ = parsed.visit(&mut Walk(&mut each));
    found
}

struct Walk<'a>(&'a mut dyn FnMut(Part<'_>) -> ControlFlow<()>);

impl Visitor for Walk<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        (self.0)(Part::Query(query))
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        (self.0)(Part::Expr(expr))
    }
}
