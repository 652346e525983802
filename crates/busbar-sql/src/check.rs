//! Checks the types of both sides of an operator, while the places in the text are still known.
//!
//! DataFusion converts one side to the type of the other (`level >= 'high'` compares texts), which is rarely meant
//! and fails late. Here numbers, texts and booleans cannot be compared or combined with each other.

use std::ops::Range;

use arrow::datatypes::DataType;
use datafusion_common::DFSchema;
use datafusion_expr::ExprSchemable;
use datafusion_sql::planner::PlannerContext;
use datafusion_sql::sqlparser::ast::{BinaryOperator, Expr, Spanned};

use crate::Diagnostic;
use crate::planner::Context;
use crate::text;
use crate::walk::{self, Part};

/// Checks every operator of a parsed expression whose sides can be planned by themselves. The planner reports the
/// errors of the others.
pub(crate) fn types(
    text: &str,
    parsed: &Expr,
    context: &Context<'_>,
    schema: &DFSchema,
) -> Result<(), Diagnostic> {
    let planner = context.planner();
    let type_of = |expr: &Expr| -> Option<DataType> {
        let mut scope = PlannerContext::new();
        let planned = planner.sql_to_expr(expr.clone(), schema, &mut scope).ok()?;
        planned.get_type(schema).ok()
    };
    let found = walk::find(parsed, |part| {
        let Part::Expr(expr) = part else {
            return None;
        };
        let pairs: Vec<(&Expr, &Expr, String)> = match expr {
            Expr::BinaryOp { left, op, right } if is_checked(op) => {
                vec![(left, right, op.to_string())]
            }
            Expr::Between {
                expr, low, high, ..
            } => vec![
                (expr, low, "between".to_owned()),
                (expr, high, "between".to_owned()),
            ],
            Expr::InList { expr, list, .. } => list
                .iter()
                .map(|item| (&**expr, item, "in".to_owned()))
                .collect(),
            _ => Vec::new(),
        };
        let (first, _, _) = pairs.first()?;
        let left_type = type_of(first)?;
        for (left, right, operator) in pairs {
            let Some(right_type) = type_of(right) else {
                continue;
            };
            if !fit(&left_type, &right_type) {
                let place = place(text, expr).or_else(|| place(text, left));
                return Some(
                    Diagnostic::new("sql.types-differ", place.unwrap_or(0..text.len()))
                        .with("operator", operator)
                        .with("left", text::quote(&left.to_string()))
                        .with("left_type", word(&left_type))
                        .with("right", text::quote(&right.to_string()))
                        .with("right_type", word(&right_type)),
                );
            }
        }
        None
    });
    found.map_or(Ok(()), Err)
}

/// The place of a parsed expression in the text.
pub(crate) fn place(text: &str, expr: &Expr) -> Option<Range<usize>> {
    let range = text::parser_range(text, expr.span())?;
    // The parser's span lacks the bracket that closes a list.
    let open = text[range.clone()].matches('(').count();
    let closed = text[range.clone()].matches(')').count();
    let end = match text[range.end..].find(')') {
        Some(bracket) if open > closed => range.end + bracket + 1,
        _ => range.end,
    };
    Some(range.start..end)
}

fn is_checked(operator: &BinaryOperator) -> bool {
    matches!(
        operator,
        BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
            | BinaryOperator::Plus
            | BinaryOperator::Minus
            | BinaryOperator::Multiply
            | BinaryOperator::Divide
            | BinaryOperator::Modulo
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Number,
    Text,
    Bool,
    Other,
}

fn family(data_type: &DataType) -> Family {
    match data_type {
        DataType::Dictionary(_, value) => family(value),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Family::Text,
        DataType::Boolean => Family::Bool,
        other if other.is_numeric() => Family::Number,
        _ => Family::Other,
    }
}

fn fit(left: &DataType, right: &DataType) -> bool {
    let (left, right) = (family(left), family(right));
    left == right || left == Family::Other || right == Family::Other
}

/// A type in the words of flow and table files.
pub(crate) fn word(data_type: &DataType) -> String {
    match data_type {
        DataType::Dictionary(_, value) => word(value),
        DataType::Boolean => "bool".to_owned(),
        other if other.is_integer() => "int".to_owned(),
        other if other.is_numeric() => "float".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary".to_owned(),
        DataType::Timestamp(..) => "time".to_owned(),
        DataType::Map(..) => "map".to_owned(),
        DataType::List(_) | DataType::LargeList(_) => "list".to_owned(),
        DataType::Null => "null".to_owned(),
        other => other.to_string(),
    }
}
