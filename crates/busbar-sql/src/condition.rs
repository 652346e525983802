//! Conditions in parts, so that many of them can be tested by looking values up instead of one after the other.

use arrow::datatypes::{DataType, SchemaRef};
use datafusion_sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    Subscript, UnaryOperator, Value,
};

use crate::names::{Names, TOPIC_PARTS};
use crate::stack::deep;
use crate::{Diagnostic, Predicate, parse};

/// A condition, taken apart at `and` and `or`. Null counts as false in every part, which gives the same result.
#[derive(Clone, Debug)]
pub enum ConditionPart {
    /// All parts are true; `true` has none.
    And(Vec<ConditionPart>),
    /// One part is true; `false` has none.
    Or(Vec<ConditionPart>),
    /// A value is one of these.
    In(ConditionValue, ConditionConstants),
    /// Any other condition, and its text in a form of its own.
    Other(Predicate, String),
}

/// What a part compares with constants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConditionValue {
    /// `kind`, `client` or `subject` of the topic.
    TopicPart(&'static str),
    /// A tag.
    Tag(String),
    /// A column of texts or whole numbers, by its place in the schema.
    Column(usize),
}

/// The constants of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConditionConstants {
    /// For topics, tags and columns of texts.
    Texts(Vec<String>),
    /// For columns of whole numbers.
    Ints(Vec<i64>),
}

/// Takes conditions over rows of one schema apart.
pub struct ConditionParser {
    schema: SchemaRef,
    names: Names,
}

impl ConditionParser {
    /// For rows of `schema`.
    pub fn new(schema: &SchemaRef) -> ConditionParser {
        ConditionParser {
            schema: schema.clone(),
            names: Names::of(schema),
        }
    }

    /// Parses a condition, and compiles the parts that are not comparisons with constants.
    ///
    /// # Errors
    /// As of [`Predicate::compile`].
    pub fn parse(&self, text: &str) -> Result<ConditionPart, Diagnostic> {
        let mut parsed = parse::expression(text)?;
        let written = parsed.clone();
        self.names.resolve(&mut parsed);
        if let Some(part) = self.comparison(&parsed) {
            return Ok(part);
        }
        let lost = |error| Diagnostic::from_error(error, 0..text.len());
        deep(lost, || self.part(text, &written, &parsed))
    }

    /// `written` is what was parsed, `parsed` the same with resolved names.
    fn part(&self, text: &str, written: &Expr, parsed: &Expr) -> Result<ConditionPart, Diagnostic> {
        match (written, parsed) {
            (Expr::Nested(written), Expr::Nested(parsed)) => {
                return self.part(text, written, parsed);
            }
            (
                Expr::BinaryOp { left, op, right },
                Expr::BinaryOp {
                    left: left_parsed,
                    op: op_parsed,
                    right: right_parsed,
                },
            ) if op == op_parsed && matches!(op, BinaryOperator::And | BinaryOperator::Or) => {
                let parts = vec![
                    self.part(text, left, left_parsed)?,
                    self.part(text, right, right_parsed)?,
                ];
                return Ok(match op {
                    BinaryOperator::And => ConditionPart::And(parts),
                    _ => ConditionPart::Or(parts),
                });
            }
            _ => {}
        }
        match self.comparison(parsed) {
            Some(part) => Ok(part),
            None => {
                let predicate = Predicate::of_parsed(&self.schema, text, written.clone())?;
                Ok(ConditionPart::Other(predicate, parsed.to_string()))
            }
        }
    }

    /// A comparison of a value with constants of its type.
    fn comparison(&self, parsed: &Expr) -> Option<ConditionPart> {
        let (value, constants): (&Expr, Vec<&Expr>) = match parsed {
            Expr::Nested(inner) => return self.comparison(inner),
            Expr::Value(value) => {
                return match value.value {
                    Value::Boolean(true) => Some(ConditionPart::And(Vec::new())),
                    Value::Boolean(false) => Some(ConditionPart::Or(Vec::new())),
                    _ => None,
                };
            }
            Expr::BinaryOp {
                left,
                op: BinaryOperator::Eq,
                right,
            } => match is_constant(left) {
                true => (right, vec![left]),
                false => (left, vec![right]),
            },
            Expr::InList {
                expr,
                list,
                negated: false,
            } => (expr, list.iter().collect()),
            _ => return None,
        };
        let (value, is_text) = self.value(value)?;
        let constants = match is_text {
            true => {
                let texts = constants.iter().map(|constant| text_of(constant));
                ConditionConstants::Texts(texts.collect::<Option<_>>()?)
            }
            false => {
                let ints = constants.iter().map(|constant| int_of(constant));
                ConditionConstants::Ints(ints.collect::<Option<_>>()?)
            }
        };
        Some(ConditionPart::In(value, constants))
    }

    /// The value that an expression names, and whether it is a text.
    fn value(&self, parsed: &Expr) -> Option<(ConditionValue, bool)> {
        match parsed {
            Expr::Nested(inner) => self.value(inner),
            Expr::Identifier(ident) => {
                let column = self.column(ident)?;
                let is_text = match self.schema.field(column).data_type() {
                    DataType::Utf8 => true,
                    DataType::Dictionary(_, value) if **value == DataType::Utf8 => true,
                    DataType::Int64 => false,
                    _ => return None,
                };
                Some((ConditionValue::Column(column), is_text))
            }
            Expr::Function(call) if call.name.to_string() == "topic_part" => {
                let FunctionArguments::List(list) = &call.args else {
                    return None;
                };
                let [
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(topic))),
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(part)),
                ] = &list.args[..]
                else {
                    return None;
                };
                let part = text_of(part)?;
                let part = TOPIC_PARTS.into_iter().find(|known| *known == part)?;
                (topic.value == "topic").then_some((ConditionValue::TopicPart(part), true))
            }
            Expr::CompoundFieldAccess { root, access_chain } => {
                let (Expr::Identifier(root), [AccessExpr::Subscript(Subscript::Index { index })]) =
                    (&**root, &access_chain[..])
                else {
                    return None;
                };
                let is_map = |column: usize| {
                    matches!(self.schema.field(column).data_type(), DataType::Map(..))
                };
                let is_tags = root.value.eq_ignore_ascii_case("tags");
                (is_tags && self.column(root).is_some_and(is_map))
                    .then_some((ConditionValue::Tag(text_of(index)?), true))
            }
            _ => None,
        }
    }

    fn column(&self, ident: &Ident) -> Option<usize> {
        let name = match ident.quote_style {
            Some(_) => ident.value.clone(),
            None => ident.value.to_lowercase(),
        };
        self.schema.index_of(&name).ok()
    }
}

fn is_constant(parsed: &Expr) -> bool {
    text_of(parsed).is_some() || int_of(parsed).is_some()
}

fn text_of(parsed: &Expr) -> Option<String> {
    match parsed {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn int_of(parsed: &Expr) -> Option<i64> {
    match parsed {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, false) => digits.parse().ok(),
            _ => None,
        },
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => int_of(expr)?.checked_neg(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn shown(part: &ConditionPart) -> String {
        let all = |parts: &[ConditionPart]| parts.iter().map(shown).collect::<Vec<_>>();
        match part {
            ConditionPart::And(parts) => format!("({})", all(parts).join(" & ")),
            ConditionPart::Or(parts) => format!("({})", all(parts).join(" | ")),
            ConditionPart::In(value, constants) => format!("{value:?} in {constants:?}"),
            ConditionPart::Other(..) => "other".to_owned(),
        }
    }

    #[test]
    fn comparisons_with_constants_are_found() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new_dictionary("topic", DataType::Int32, DataType::Utf8, false),
            Field::new("site", DataType::Utf8, true),
            Field::new("levelMm", DataType::Int64, true),
            Field::new("rate", DataType::Float64, true),
        ]));
        let parser = ConditionParser::new(&schema);
        for (text, expected) in [
            ("kind = 'gauge'", r#"TopicPart("kind") in Texts(["gauge"])"#),
            (
                "'g1' = client and (site in ('a', 'b') or levelmm = -3)",
                r#"(TopicPart("client") in Texts(["g1"]) & (Column(1) in Texts(["a", "b"]) | Column(2) in Ints([-3])))"#,
            ),
            (
                "site = 'a' and rate > 1.5",
                r#"(Column(1) in Texts(["a"]) & other)"#,
            ),
            ("true or site = 'a'", r#"(() | Column(1) in Texts(["a"]))"#),
            ("not site = 'a'", "other"),
            ("rate = 1", "other"),
            ("levelMm = 1.5", "other"),
            ("site not in ('a')", "other"),
        ] {
            assert_eq!(shown(&parser.parse(text).unwrap()), expected, "{text}");
        }
        let wrong = parser.parse("kind = 'x' and sit = 'a'").unwrap_err();
        assert_eq!((wrong.span(), wrong.suggestion()), (15..18, Some("site")));
        assert_eq!(
            parser.parse("site = 1").unwrap_err().code(),
            "sql.types-differ"
        );
    }
}
