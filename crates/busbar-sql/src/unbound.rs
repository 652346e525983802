//! Checking texts over columns that are not known yet: syntax and names of functions.

use std::ops::Range;

use datafusion_sql::parser::Statement;
use datafusion_sql::sqlparser::ast::{Expr, Visit};

use crate::diagnostic::unknown_function;
use crate::statement::{self, Kind};
use crate::walk::{self, Part};
use crate::{Diagnostic, WindowQuery, parse, session};

/// Checks a condition as far as that is possible without its columns.
pub fn check_condition(text: &str) -> Result<(), Diagnostic> {
    functions(text, &parse::expression(text)?)
}

/// The same for a list as between `select` and `from`.
pub fn check_columns(text: &str) -> Result<(), Diagnostic> {
    functions(text, &parse::select_list(text)?)
}

/// The same for a query.
pub fn check_query(text: &str) -> Result<(), Diagnostic> {
    if let Some(query) = WindowQuery::parse(text)? {
        return check_window_query(query);
    }
    match statement::classify(text, parse::statement(text)?)? {
        Kind::Query(Statement::Statement(query)) => functions(text, &*query),
        _ => Err(Diagnostic::new("sql.query-only", parse::first_word(text))),
    }
}

/// Each part by itself: the call of the window, which stands in none of them, is no function.
fn check_window_query(query: WindowQuery) -> Result<(), Diagnostic> {
    let within = |place: Range<usize>, check: fn(&str) -> Result<(), Diagnostic>| {
        check(&query.text[place.clone()]).map_err(|wrong| wrong.within(&place))
    };
    within(query.select, check_columns)?;
    for place in query
        .by
        .into_iter()
        .chain(query.condition)
        .chain(query.having)
    {
        within(place, check_condition)?;
    }
    Ok(())
}

fn functions(text: &str, parsed: &impl Visit) -> Result<(), Diagnostic> {
    let known = session::function_names();
    let wrong = walk::find(parsed, |part| {
        let Part::Expr(Expr::Function(function)) = part else {
            return None;
        };
        let name = function.name.to_string().to_lowercase();
        let there = known.contains(&name);
        (!there).then(|| unknown_function(text, &name, None, known))
    });
    wrong.map_or(Ok(()), Err)
}
