//! The calls that name windows.

use std::ops::Range;

use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::Expr;
use datafusion_sql::planner::PlannerContext;
use datafusion_sql::sqlparser::ast::{
    self, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, ObjectNamePart,
    Select, Visit,
};

use crate::planner::Context;
use crate::walk::{self, Part};
use crate::{Diagnostic, check, session, text};

/// Windows of time. All lengths are in microseconds and positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeWindow {
    /// Windows of one length, one behind the other, that begin at whole multiples of it since 1970-01-01T00:00Z.
    Tumble {
        /// Length of a window.
        size: i64,
    },
    /// Windows of one length that overlap.
    Hop {
        /// Length of a window.
        size: i64,
        /// Time from the beginning of a window to that of the next; at most `size`.
        every: i64,
    },
    /// Windows that last as long as the rows of a key follow each other within a time.
    Session {
        /// A row that is this much behind the row before it, or more, begins a new window.
        gap: i64,
    },
}

const USAGES: [(&str, &str); 3] = [
    ("tumble", "tumble(interval '1 minute')"),
    (
        "hop",
        "hop(interval '10 minutes', interval '1 minute'), the length first",
    ),
    ("session", "session(interval '30 seconds')"),
];

/// Whether a text can contain a call; cheap, and true for too many.
pub(super) fn may_contain(text: &str) -> bool {
    USAGES
        .iter()
        .any(|(name, _)| text::find_word(text, name).is_some())
}

/// The place of the first call of a window function in a parsed text that does not begin at `skip`.
pub(super) fn first_place(
    text: &str,
    parsed: &impl Visit,
    skip: Option<usize>,
) -> Option<Range<usize>> {
    walk::find(parsed, |part| match part {
        Part::Expr(expr) if named(expr).is_some() => {
            Some(place(text, expr)).filter(|place| Some(place.start) != skip)
        }
        _ => None,
    })
}

/// The error for a call that does not stand in `group by`.
pub(super) fn misplaced(text: &str, place: Range<usize>) -> Diagnostic {
    let function = text[place.clone()].split('(').next().unwrap_or_default();
    Diagnostic::new("sql.window-place", place).with("function", function.trim().to_lowercase())
}

/// The place of a call.
pub(super) fn place(text: &str, expr: &ast::Expr) -> Range<usize> {
    check::place(text, expr).unwrap_or(0..text.len())
}

/// The window among the keys of a select, and which of them it is; none if there is none.
///
/// # Errors
/// Two windows, or a call with other arguments.
pub(super) fn in_group_by(
    text: &str,
    select: &Select,
) -> Result<Option<(usize, TimeWindow)>, Diagnostic> {
    let GroupByExpr::Expressions(keys, modifiers) = &select.group_by else {
        return Ok(None);
    };
    let mut calls = keys
        .iter()
        .enumerate()
        .filter_map(|(at, key)| Some((at, key, named(key)?)));
    let Some((at, key, function)) = calls.next() else {
        return Ok(None);
    };
    if let Some((_, second, _)) = calls.next() {
        return Err(Diagnostic::new("sql.window-two", place(text, second)));
    }
    if !modifiers.is_empty() {
        return Err(Diagnostic::new("sql.not-supported", place(text, key)));
    }
    time_window(text, key, function).map(|window| Some((at, window)))
}

/// The call, if an expression is one.
fn named(expr: &ast::Expr) -> Option<&Function> {
    let ast::Expr::Function(function) = expr else {
        return None;
    };
    let [ObjectNamePart::Identifier(name)] = &function.name.0[..] else {
        return None;
    };
    let is_window = name.quote_style.is_none()
        && USAGES
            .iter()
            .any(|(known, _)| known.eq_ignore_ascii_case(&name.value));
    is_window.then_some(function)
}

fn time_window(
    text: &str,
    call: &ast::Expr,
    function: &Function,
) -> Result<TimeWindow, Diagnostic> {
    let name = function.name.to_string().to_lowercase();
    let misused = || {
        let usage = USAGES.iter().find(|(known, _)| *known == name);
        Diagnostic::new("sql.usage", place(text, call))
            .with("function", &name)
            .with("usage", usage.map_or("", |(_, usage)| *usage))
    };
    let plain = matches!(function.parameters, FunctionArguments::None)
        && function.filter.is_none()
        && function.over.is_none()
        && function.null_treatment.is_none()
        && function.within_group.is_empty();
    let FunctionArguments::List(list) = &function.args else {
        return Err(misused());
    };
    if !plain || list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
        return Err(misused());
    }
    let mut lengths = Vec::with_capacity(list.args.len());
    for argument in &list.args {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) = argument else {
            return Err(misused());
        };
        let length = length(argument).ok_or_else(misused)?;
        lengths.push(length.filter(|micros| *micros > 0).ok_or_else(|| {
            let at = check::place(text, argument);
            Diagnostic::new("sql.window-length", at.unwrap_or_else(|| place(text, call)))
        })?);
    }
    match (&name[..], &lengths[..]) {
        ("tumble", [size]) => Ok(TimeWindow::Tumble { size: *size }),
        ("hop", [size, every]) if every > size => {
            Err(Diagnostic::new("sql.window-hop", place(text, call)))
        }
        ("hop", [size, every]) => Ok(TimeWindow::Hop {
            size: *size,
            every: *every,
        }),
        ("session", [gap]) => Ok(TimeWindow::Session { gap: *gap }),
        _ => Err(misused()),
    }
}

/// The microseconds of a constant interval: none if the expression is no interval, and none inside if its length is not a
/// whole number of them, as that of a month is not.
fn length(argument: &ast::Expr) -> Option<Option<i64>> {
    if !matches!(argument, ast::Expr::Interval(_)) {
        return None;
    }
    let context = Context::new(session::state());
    let planned = context.planner().sql_to_expr(
        argument.clone(),
        &DFSchema::empty(),
        &mut PlannerContext::new(),
    );
    let Ok(Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _)) = planned else {
        return None;
    };
    if interval.months != 0 || interval.nanoseconds % 1_000 != 0 {
        return Some(None);
    }
    let days = i64::from(interval.days).checked_mul(24 * 60 * 60 * 1_000_000);
    Some(days.and_then(|days| days.checked_add(interval.nanoseconds / 1_000)))
}
