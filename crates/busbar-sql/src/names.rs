//! Column names without quotes, matched regardless of case.
//!
//! SQL folds unquoted names to lower case, and so does DataFusion. Fields of JSON are often named `levelMm`. So an
//! unquoted name that differs from a column's only in case is replaced by the column's name in quotes before the
//! planner sees it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use arrow::datatypes::Schema;
use datafusion_sql::sqlparser::ast::{BinaryOperator, Expr, Ident, Value, VisitMut, VisitorMut};

/// The names of columns.
#[derive(Default)]
pub(crate) struct Names {
    exact: BTreeMap<String, ()>,
    /// By the name in lower case; none if several names differ only in case.
    folded: BTreeMap<String, Option<String>>,
}

impl Names {
    pub fn of(schema: &Schema) -> Self {
        let mut names = Self::default();
        names.add(schema);
        names
    }

    pub fn add(&mut self, schema: &Schema) {
        for field in schema.fields() {
            let name = field.name();
            if self.exact.insert(name.clone(), ()).is_none() {
                self.folded
                    .entry(name.to_lowercase())
                    .and_modify(|known| *known = None)
                    .or_insert_with(|| Some(name.clone()));
            }
        }
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

struct Resolver<'a>(&'a Names);

impl VisitorMut for Resolver<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        rotate_distinct(expr);
        match expr {
            Expr::Identifier(ident) => self.0.fix(ident),
            Expr::CompoundIdentifier(idents) => idents.iter_mut().for_each(|i| self.0.fix(i)),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
