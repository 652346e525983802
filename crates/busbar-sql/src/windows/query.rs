//! A query that aggregates windows of time, taken apart for a window operator.

use std::ops::Range;

use datafusion_sql::parser::Statement;
use datafusion_sql::sqlparser::ast::{self, Ident, Query, Select, SetExpr, TableFactor};
use datafusion_sql::sqlparser::tokenizer::{Token, Word};

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
    /// The query, with blanks where a column was qualified by the name of the relation: `input.site` is `      site`. Places
    /// are the same as in the text that was parsed.
    pub text: String,
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
        let plain = unqualified(text, &relation(text, select)?)?;
        let Clauses {
            select: columns,
            condition,
            mut by,
            having,
        } = Clauses::of(&plain)?;
        if by.len() <= at {
            return Err(Diagnostic::new("sql.not-supported", first));
        }
        let call = by.remove(at);
        if let Some(second) = call::first_place(text, &*query, Some(call.start)) {
            return Err(call::misplaced(text, second));
        }
        Ok(Some(Self {
            text: plain,
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
    Ok(())
}

/// The name that columns can be qualified with: that of the relation, which must be `input`, or its alias.
fn relation(text: &str, select: &Select) -> Result<Ident, Diagnostic> {
    if let [table] = &select.from[..]
        && table.joins.is_empty()
        && let TableFactor::Table { name, alias, .. } = &table.relation
        && alias.as_ref().is_none_or(|alias| alias.columns.is_empty())
    {
        let name = name.to_string();
        if !name.eq_ignore_ascii_case(INPUT) {
            let known = [INPUT.to_owned()];
            return Err(statement::unknown_relation(text, &name, &known));
        }
        let alias = alias.as_ref().map(|alias| alias.name.clone());
        return Ok(alias.unwrap_or_else(|| Ident::new(INPUT)));
    }
    let place = text::find_word(text, "from").unwrap_or(0..text.len());
    Err(Diagnostic::new("sql.window-input", place))
}

/// The text with blanks in place of what qualifies columns of the relation.
fn unqualified(text: &str, relation: &Ident) -> Result<String, Diagnostic> {
    let tokens = parse::tokens(text)?;
    let mut tokens = tokens
        .iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_)))
        .peekable();
    let mut plain = text.to_owned();
    let mut is_part = false;
    while let Some(token) = tokens.next() {
        let behind = tokens.peek();
        let is_qualifier = behind.is_some_and(|behind| behind.token == Token::Period);
        if let Token::Word(word) = &token.token
            && is_qualifier
            && !is_part
            && names(word, relation)
            && let Some(period) = behind
        {
            let from = text::offset(text, token.span.start.line, token.span.start.column);
            let to = text::offset(text, period.span.end.line, period.span.end.column);
            plain.replace_range(from..to, &" ".repeat(to - from));
        }
        is_part = token.token == Token::Period;
    }
    Ok(plain)
}

/// Whether a word of the text is the relation's name.
fn names(word: &Word, relation: &Ident) -> bool {
    match (word.quote_style, relation.quote_style) {
        (None, None) => word.value.eq_ignore_ascii_case(&relation.value),
        // A name without quotes is in lower case.
        (None, Some(_)) => word.value.to_lowercase() == relation.value,
        (Some(_), None) => word.value == relation.value.to_lowercase(),
        (Some(_), Some(_)) => word.value == relation.value,
    }
}
