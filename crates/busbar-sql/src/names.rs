//! Column names without quotes, matched regardless of case.
//!
//! SQL folds unquoted names to lower case, and so does DataFusion. Fields of JSON are often named `levelMm`. So an
//! unquoted name that differs from a column's only in case is replaced by the column's name in quotes before the
//! planner sees it.
//!
//! `kind`, `client` and `subject` are the parts of the topic, unless a column has that name: they are turned into
//! `topic_part(topic, 'kind')`, which is computed once for each distinct topic of a batch.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use arrow::datatypes::{DataType, Schema};
use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, SelectItem, Value, VisitMut, VisitorMut,
};

/// The names of columns.
#[derive(Clone, Default)]
pub(crate) struct Names {
    exact: BTreeMap<String, ()>,
    /// By the name in lower case; none if several names differ only in case.
    folded: BTreeMap<String, Option<String>>,
    /// There is a column of topics.
    has_topic: bool,
    /// Names of results: where one is the name of a part of the topic, the result is meant.
    aliases: BTreeSet<String>,
}

/// The names of the parts of a topic.
pub(crate) const TOPIC_PARTS: [&str; 3] = ["kind", "client", "subject"];

impl Names {
    pub fn of(schema: &Schema) -> Self {
        let mut names = Self::default();
        names.add(schema);
        names
    }

    pub fn add(&mut self, schema: &Schema) {
        for field in schema.fields() {
            let name = field.name();
            self.has_topic |= name == "topic" && is_text(field.data_type());
            if self.exact.insert(name.clone(), ()).is_none() {
                self.folded
                    .entry(name.to_lowercase())
                    .and_modify(|known| *known = None)
                    .or_insert_with(|| Some(name.clone()));
            }
        }
    }

    /// Notes the name of a result. A name that its own expression uses means the part of the topic there and elsewhere.
    pub fn add_alias(&mut self, item: &SelectItem) {
        let SelectItem::ExprWithAlias { expr, alias } = item else {
            return;
        };
        let name = alias.value.to_lowercase();
        let used = crate::walk::find(expr, |part| match part {
            crate::walk::Part::Expr(Expr::Identifier(ident)) => {
                (ident.value.to_lowercase() == name).then_some(())
            }
            _ => None,
        });
        if used.is_none() {
            self.aliases.insert(name);
        }
    }

    /// The name of the part of the topic that a name stands for, if it does.
    pub fn topic_part_name(&self, idents: &[Ident]) -> Option<String> {
        self.topic_part(idents)?;
        idents.last().map(|name| name.value.to_lowercase())
    }

    /// The call that a name stands for, if it is that of a part of the topic.
    fn topic_part(&self, idents: &[Ident]) -> Option<Expr> {
        let (name, before) = idents.split_last()?;
        let part = TOPIC_PARTS
            .into_iter()
            .find(|part| match name.quote_style {
                Some(_) => name.value == *part,
                None => name.value.eq_ignore_ascii_case(part),
            })?;
        let hidden = self.folded.contains_key(part) || self.aliases.contains(part);
        if !self.has_topic || hidden {
            return None;
        }
        let mut topic = before.to_vec();
        topic.push(Ident {
            span: name.span,
            ..Ident::new("topic")
        });
        let topic = match topic.len() {
            1 => Expr::Identifier(topic.remove(0)),
            _ => Expr::CompoundIdentifier(topic),
        };
        let part = Value::SingleQuotedString(part.to_owned()).with_span(name.span);
        let argument = |expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr));
        Some(Expr::Function(Function {
            name: ObjectName::from(vec![Ident {
                span: name.span,
                ..Ident::new("topic_part")
            }]),
            uses_odbc_syntax: false,
            parameters: FunctionArguments::None,
            args: FunctionArguments::List(FunctionArgumentList {
                duplicate_treatment: None,
                args: vec![argument(topic), argument(Expr::Value(part))],
                clauses: Vec::new(),
            }),
            filter: None,
            null_treatment: None,
            over: None,
            within_group: Vec::new(),
        }))
    }

    /// Quotes the names of columns in a parsed text.
    pub fn resolve<T: VisitMut>(&self, parsed: &mut T) {
        let _: ControlFlow<()> = parsed.visit(&mut Resolver(self));
    }

    fn fix(&self, ident: &mut Ident) {
        if ident.quote_style.is_some() {
            return;
        }
        let folded = ident.value.to_lowercase();
        let known = if self.exact.contains_key(&ident.value) {
            ident.value.clone()
        } else if self.exact.contains_key(&folded) {
            return;
        } else {
            match self.folded.get(&folded) {
                Some(Some(name)) => name.clone(),
                _ => return,
            }
        };
        // Unchanged if folding finds it, so that errors show the name as it was written.
        if known != folded {
            ident.value = known;
            ident.quote_style = Some('"');
        }
    }
}

/// The parser takes `a is distinct from b and c` for `a is distinct from (b and c)`. In brackets the right side would
/// be [`Expr::Nested`], so the two can be told apart.
fn rotate_distinct(expr: &mut Expr) {
    let (Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right)) = expr else {
        return;
    };
    if !is_logical(right) {
        return;
    }
    let nothing = || Box::new(Expr::Value(Value::Null.with_empty_span()));
    let mut rotated = std::mem::replace(right, nothing());
    let mut first = &mut *rotated;
    while is_logical(first) {
        let Expr::BinaryOp { left, .. } = first else {
            break;
        };
        first = &mut **left;
    }
    let operand = std::mem::replace(first, *nothing());
    if let Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) = expr {
        **right = operand;
    }
    *first = std::mem::replace(expr, *nothing());
    *expr = *rotated;
}

fn is_logical(expr: &Expr) -> bool {
    use BinaryOperator::{And, Or, Xor};
    matches!(
        expr,
        Expr::BinaryOp {
            op: And | Or | Xor,
            ..
        }
    )
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, value) => is_text(value),
        other => matches!(other, DataType::Utf8 | DataType::Utf8View),
    }
}

struct Resolver<'a>(&'a Names);

impl VisitorMut for Resolver<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        rotate_distinct(expr);
        let part = match &*expr {
            Expr::Identifier(ident) => self.0.topic_part(std::slice::from_ref(ident)),
            Expr::CompoundIdentifier(idents) => self.0.topic_part(idents),
            _ => None,
        };
        if let Some(part) = part {
            *expr = part;
        }
        match expr {
            Expr::Identifier(ident) => self.0.fix(ident),
            Expr::CompoundIdentifier(idents) => idents.iter_mut().for_each(|i| self.0.fix(i)),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
