//! Statements: which are allowed, which relations they name, and how their columns are called.

use datafusion_sql::parser::Statement;
use datafusion_sql::resolve::resolve_table_references;
use datafusion_sql::sqlparser::ast::{self, Expr, Ident, Query, SelectItem, SetExpr};

use crate::diagnostic::{closest, quoted_if_needed};
use crate::limits::{COLUMNS_MAX, RELATIONS_MAX};
use crate::names::Names;
use crate::walk::{self, Part};
use crate::{Diagnostic, information_schema, parse, text};

/// What a statement asks for.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Rows.
    Query(Statement),
    /// How rows would be got.
    Explain(Statement),
    /// The names of all relations.
    ShowTables,
    /// The columns of one relation.
    Describe(String),
}

/// Sort a statement, and refuse all that could change something.
pub(crate) fn classify(text: &str, statement: Statement) -> Result<Kind, Diagnostic> {
    match statement {
        Statement::Statement(inner) => match *inner {
            ast::Statement::Query(query) => {
                refuse_changes(text, &query)?;
                refuse_many_columns(text, &query)?;
                Ok(Kind::Query(Statement::Statement(Box::new(
                    ast::Statement::Query(query),
                ))))
            }
            ast::Statement::ShowTables { .. } => Ok(Kind::ShowTables),
            ast::Statement::ExplainTable { table_name, .. } => {
                let last = table_name
                    .0
                    .last()
                    .and_then(|part| part.as_ident().cloned());
                match (last, table_name.0.len()) {
                    (Some(ident), 1) => Ok(Kind::Describe(normalized(&ident))),
                    _ => Err(unknown_relation(text, &table_name.to_string(), &[])),
                }
            }
            _ => Err(read_only(text)),
        },
        Statement::Explain(explain) => match classify(text, (*explain.statement).clone())? {
            Kind::Query(_) => Ok(Kind::Explain(Statement::Explain(explain))),
            _ => Err(read_only(text)),
        },
        _ => Err(read_only(text)),
    }
}

/// Find columns by the names people write, and name the columns of the answer after the text they
/// come from.
pub(crate) fn prepare(mut statement: Statement, names: &Names) -> Statement {
    if let Some(query) = query_mut(&mut statement) {
        name_columns(&mut query.body);
        names.resolve(query);
    }
    statement
}

/// The relations a statement names, each once.
pub(crate) fn relations(text: &str, statement: &Statement) -> Result<Vec<String>, Diagnostic> {
    let (relations, _) = resolve_table_references(statement, true)
        .map_err(|error| crate::diagnostic::explain(text, error, &[]))?;
    let mut names: Vec<String> = Vec::new();
    for relation in relations {
        let name = match (relation.catalog(), relation.schema()) {
            (None, None) => relation.table().to_owned(),
            (None, Some("information_schema")) => {
                format!("{}{}", information_schema::PREFIX, relation.table())
            }
            _ => return Err(unknown_relation(text, &relation.to_string(), &[])),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.len() > RELATIONS_MAX {
        return Err(Diagnostic::new("sql.too-many-relations", 0..text.len())
            .with("relations", names.len())
            .with("most", RELATIONS_MAX));
    }
    Ok(names)
}

/// There is nothing of that name.
pub(crate) fn unknown_relation(text: &str, name: &str, known: &[String]) -> Diagnostic {
    let place = text::find_word(text, name).unwrap_or(0..text.len());
    let near = closest(name, known.iter().map(String::as_str));
    Diagnostic::new("sql.unknown-relation", place)
        .with("relation", text::quote(name))
        .suggest(near.map(quoted_if_needed))
}

/// A name with a dash in it must be quoted; without quotes it is a subtraction, or nonsense. Say so
/// if the text has one that is known.
pub(crate) fn unquoted_name(text: &str, known: &[String]) -> Option<Diagnostic> {
    let with_dash = known.iter().filter(|name| name.contains('-'));
    with_dash.into_iter().find_map(|name| {
        let place = text::find_word(text, name)?;
        let before = text[..place.start].chars().next_back();
        if before == Some('"') || before == Some('\'') {
            return None;
        }
        Some(
            Diagnostic::new("sql.quote-name", place)
                .with("relation", name)
                .suggest(Some(quoted_if_needed(name))),
        )
    })
}

fn read_only(text: &str) -> Diagnostic {
    let place = parse::first_word(text);
    let word = text[place.clone()].to_lowercase();
    Diagnostic::new("sql.read-only", place).with("statement", word)
}

/// A query can hide a change: `with x as (delete ...)`, `select ... into`.
fn refuse_changes(text: &str, query: &Query) -> Result<(), Diagnostic> {
    let changes = |body: &SetExpr| match body {
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => true,
        SetExpr::Select(select) => select.into.is_some(),
        _ => false,
    };
    let found = walk::find(query, |part| match part {
        Part::Query(query) if changes(&query.body) || !query.locks.is_empty() => Some(()),
        _ => None,
    });
    found.map_or(Ok(()), |()| Err(read_only(text)))
}

/// Each column takes memory in each batch, however short its text.
fn refuse_many_columns(text: &str, query: &Query) -> Result<(), Diagnostic> {
    let many = walk::find(query, |part| match part {
        Part::Query(query) => match &*query.body {
            SetExpr::Select(select) => Some(select.projection.len()).filter(|n| *n > COLUMNS_MAX),
            _ => None,
        },
        Part::Expr(_) => None,
    });
    many.map_or(Ok(()), |columns| {
        Err(Diagnostic::new("sql.too-many-columns", 0..text.len())
            .with("columns", columns)
            .with("most", COLUMNS_MAX))
    })
}

fn query_mut(statement: &mut Statement) -> Option<&mut Query> {
    match statement {
        Statement::Statement(inner) => match &mut **inner {
            ast::Statement::Query(query) => Some(query),
            _ => None,
        },
        Statement::Explain(explain) => query_mut(&mut explain.statement),
        _ => None,
    }
}

/// Give each expression without a name its own text for one: `max(level)` is then called so, and not
/// after the planner's inner form of it.
fn name_columns(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            for item in &mut select.projection {
                let SelectItem::UnnamedExpr(expr) = item else {
                    continue;
                };
                if matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) {
                    continue;
                }
                *item = SelectItem::ExprWithAlias {
                    alias: Ident::with_quote('"', expr.to_string()),
                    expr: expr.clone(),
                };
            }
        }
        SetExpr::SetOperation { left, .. } => name_columns(left),
        SetExpr::Query(query) => name_columns(&mut query.body),
        _ => {}
    }
}

fn normalized(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}
