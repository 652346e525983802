//! One walk over parsed SQL for all who look for something in it.
//!
//! Whoever walks with a type of its own has the parser's whole syntax compiled once more, a quarter of
//! a megabyte. So there is one type for those who change nothing, and what it finds is judged by a closure behind a pointer.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{Expr, Query, Visit, Visitor};

/// A part of a text that somebody may look at.
#[derive(Clone, Copy)]
pub(crate) enum Part<'a> {
    Query(&'a Query),
    Expr(&'a Expr),
}

/// What `look` says of the first part that it has something to say about; outer parts come before inner ones.
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
