//! A query that aggregates windows of time, taken apart for a window operator.

use std::ops::Range;

use datafusion_sql::parser::Statement;
use datafusion_sql::sqlparser::ast::{self, Query, Select, SetExpr, TableFactor};

use super::call::{self, TimeWindow};
use super::clauses::Clauses;
use crate::statement::{self, Kind};
use crate::{Diagnostic, parse, text};

/// The parts of a query such as
/// `select site, window_end, max(level_mm) as peak from input group by tumble(interval '1 minute'), site`.
///
/// Parts are places in the text, in bytes, so that an error in one of them can be shown there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowQuery {
    /// Which windows.
    pub window: TimeWindow,
    /// The call that says so.
    pub call: Range<usize>,
    /// The list behind `select`.
    pub select: Range<usize>,
    /// The condition behind `where`, on the rows that go into windows.
    pub condition: Option<Range<usize>>,
    /// The keys behind `group by`, without the window.
    pub by: Vec<Range<usize>>,
    /// The condition behind `having`, on results.
    pub having: Option<Range<usize>>,
}

/// The relation that a query in a flow reads.
const INPUT: &str = "input";

impl WindowQuery {
    /// Takes a query over `input` apart; none if it names no window of time.
    ///
    /// # Errors
    /// What cannot be parsed, a window at another place than `group by`, and what cannot stand beside a window.
    pub fn parse(text: &str) -> Result<Option<Self>, Diagnostic> {
        if !call::may_contain(text) {
            return Ok(None);
        }
        let Kind::Query(Statement::Statement(parsed)) =
            statement::classify(text, parse::statement(text)?)?
        else {
            return Ok(None);
        };
        let ast::Statement::Query(query) = *parsed else {
            return Ok(None);
        };
        let Some(first) = call::first_place(text, &*query, None) else {
            return Ok(None);
        };
        let SetExpr::Select(select) = &*query.body else {
            return Err(call::misplaced(text, first));
        };
        let Some((at, window)) = call::in_group_by(text, select)? else {
            return Err(call::misplaced(text, first));
        };
        refuse_clauses(text, &query, select)?;
        let Clauses {
            select: columns,
            condition,
            mut by,
            having,
        } = Clauses::of(text)?;
        if by.len() <= at {
            return Err(Diagnostic::new("sql.not-supported", first));
        }
        let call = by.remove(at);
        if let Some(second) = call::first_place(text, &*query, Some(call.start)) {
            return Err(call::misplaced(text, second));
        }
        Ok(Some(Self {
            window,
            call,
            select: columns,
            condition,
            by,
            having,
        }))
    }
}

/// Refuses what a window over events that never end cannot do.
fn refuse_clauses(text: &str, query: &Query, select: &Select) -> Result<(), Diagnostic> {
    let clauses = [
        ("with", query.with.is_some()),
        ("distinct", select.distinct.is_some()),
        ("order by", query.order_by.is_some()),
        ("limit", query.limit_clause.is_some()),
        ("fetch", query.fetch.is_some()),
        ("qualify", select.qualify.is_some()),
        ("window", !select.named_window.is_empty()),
    ];
    if let Some((clause, _)) = clauses.iter().find(|(_, there)| *there) {
        let word = clause.split(' ').next().unwrap_or(clause);
        let place = text::find_word(text, word).unwrap_or(0..text.len());
        return Err(Diagnostic::new("sql.window-clause", place).with("clause", clause));
    }
    if let [table] = &select.from[..]
        && table.joins.is_empty()
        && let TableFactor::Table {
            name, alias: None, ..
        } = &table.relation
    {
        let name = name.to_string();
        return match name.eq_ignore_ascii_case(INPUT) {
            true => Ok(()),
            false => Err(statement::unknown_relation(
                text,
                &name,
                &[INPUT.to_owned()],
            )),
        };
    }
    let place = text::find_word(text, "from").unwrap_or(0..text.len());
    Err(Diagnostic::new("sql.window-input", place))
}
