//! Values for the parameters of a query, such as `$site`.

use std::ops::ControlFlow;

use busbar_event::format::FieldType;
use datafusion_sql::parser::Statement;
use datafusion_sql::sqlparser::ast::{
    CastKind, DataType, ExactNumberInfo, Expr, TimezoneInfo, UnaryOperator, Value, VisitMut,
    VisitorMut,
};
use datafusion_sql::sqlparser::tokenizer::Span;

use crate::statement::{self, Kind};
use crate::{Diagnostic, check_query, parse, text};

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundParameter {
    /// Its name, without `$`.
    pub name: String,
    /// Its type.
    pub field_type: FieldType,
    /// Its value: `true` or `false`, a number, an RFC 3339 time, a text. None is null.
    pub value: Option<String>,
}

/// Checks a query with parameters of these names as far as that is possible without its relations.
///
/// # Errors
/// What is wrong first, with its place.
pub fn check_query_with(text: &str, parameters: &[BoundParameter]) -> Result<(), Diagnostic> {
    check_query(text)?;
    let mut statement = parse::statement(text)?;
    walk(text, &mut statement, parameters)?;
    match statement::classify(text, statement)? {
        Kind::Query(_) => Ok(()),
        _ => Err(Diagnostic::new("sql.query-only", parse::first_word(text))),
    }
}

/// Checks that the streams and tables that a query names are `known`. Names with a dot belong to databases or to the node, and
/// those that begin with `_` to the node: whether they exist is found out when the query runs.
///
/// # Errors
/// The first name that is unknown, with its place.
pub fn check_relations(text: &str, known: &[String]) -> Result<(), Diagnostic> {
    let names = statement::relations(text, &parse::statement(text)?)?;
    let unknown = names
        .iter()
        .find(|name| !name.contains('.') && !name.starts_with('_') && !known.contains(name));
    unknown.map_or(Ok(()), |name| {
        Err(statement::unknown_relation(text, name, known))
    })
}

/// Puts the values into the place of the parameters. Without parameters the statement stays as it is.
pub(crate) fn bind(
    text: &str,
    statement: &mut Statement,
    parameters: &[BoundParameter],
) -> Result<(), Diagnostic> {
    match parameters {
        [] => Ok(()),
        _ => walk(text, statement, parameters),
    }
}

fn walk(
    text: &str,
    statement: &mut Statement,
    parameters: &[BoundParameter],
) -> Result<(), Diagnostic> {
    let Statement::Statement(inner) = statement else {
        return Err(Diagnostic::new("sql.query-only", parse::first_word(text)));
    };
    match inner.visit(&mut Binder { text, parameters }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(wrong) => Err(wrong),
    }
}

struct Binder<'a> {
    text: &'a str,
    parameters: &'a [BoundParameter],
}

impl VisitorMut for Binder<'_> {
    type Break = Diagnostic;

    // After its parts, so that what is put in is not looked at again.
    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Diagnostic> {
        let Expr::Value(literal) = expr else {
            return ControlFlow::Continue(());
        };
        let Value::Placeholder(placeholder) = &literal.value else {
            return ControlFlow::Continue(());
        };
        let name = placeholder.trim_start_matches('$');
        match self.parameters.iter().find(|known| known.name == name) {
            Some(parameter) => {
                *expr = parameter.expression(literal.span);
                ControlFlow::Continue(())
            }
            None => {
                let place = text::parser_range(self.text, literal.span);
                let known: Vec<_> = self.parameters.iter().map(|p| p.name.as_str()).collect();
                let code = match known.is_empty() {
                    true => "sql.parameters-none",
                    false => "sql.parameter-unknown",
                };
                let wrong = Diagnostic::new(code, place.unwrap_or(0..self.text.len()));
                let wrong = wrong.with("name", text::quote(placeholder));
                ControlFlow::Break(match known.is_empty() {
                    true => wrong,
                    false => wrong.with("known", known.join(", ")),
                })
            }
        }
    }
}

impl BoundParameter {
    fn expression(&self, span: Span) -> Expr {
        let literal = |value: Value| Expr::Value(value.with_span(span));
        let typed = |value: Value, data_type| Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(literal(value)),
            data_type,
            array: false,
            format: None,
        };
        let Some(value) = self.value.clone() else {
            return typed(Value::Null, self.sql_type());
        };
        match self.field_type {
            FieldType::Bool => literal(Value::Boolean(value == "true")),
            FieldType::Int | FieldType::Float => match value.strip_prefix('-') {
                None => literal(Value::Number(value, false)),
                // A negative number is no literal in SQL.
                Some(number) => Expr::Nested(Box::new(Expr::UnaryOp {
                    op: UnaryOperator::Minus,
                    expr: Box::new(literal(Value::Number(number.to_owned(), false))),
                })),
            },
            FieldType::Text | FieldType::Json => literal(Value::SingleQuotedString(value)),
            FieldType::Time => typed(Value::SingleQuotedString(value), self.sql_type()),
        }
    }

    fn sql_type(&self) -> DataType {
        match self.field_type {
            FieldType::Bool => DataType::Boolean,
            FieldType::Int => DataType::BigInt(None),
            FieldType::Float => DataType::Double(ExactNumberInfo::None),
            FieldType::Text | FieldType::Json => DataType::Varchar(None),
            FieldType::Time => DataType::Timestamp(None, TimezoneInfo::None),
        }
    }
}
