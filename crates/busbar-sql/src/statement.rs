//! Statements: which are allowed, which relations they name, and the names of their result's columns.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion_sql::parser::Statement;
use datafusion_sql::resolve::resolve_table_references;
use datafusion_sql::sqlparser::ast::{self, Expr, Ident, Query, SelectItem, SetExpr, TableFactor};

use crate::diagnostic::{closest, duplicate_column, quoted_if_needed};
use crate::limits::{COLUMNS_MAX, RELATIONS_MAX};
use crate::names::Names;
use crate::walk::{self, Part};
use crate::{Diagnostic, information_schema, parse, text};

/// The kinds of statements that are allowed.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Rows.
    Query(Statement),
    /// The plan of a query.
    Explain(Statement),
    /// The names of all relations.
    ShowTables,
    /// The columns of one relation.
    Describe(String),
}

/// The kind of a statement.
///
/// # Errors
/// `sql.read-only` if the statement could change something.
pub(crate) fn classify(text: &str, statement: Statement) -> Result<Kind, Diagnostic> {
    match statement {
        Statement::Statement(inner) => match *inner {
            ast::Statement::Query(query) => {
                refuse_changes(text, &query)?;
                refuse_many_columns(text, &query)?;
                refuse_samples(text, &query)?;
                Ok(Kind::Query(Statement::Statement(Box::new(
                    ast::Statement::Query(query),
                ))))
            }
            ast::Statement::ShowTables { .. } => Ok(Kind::ShowTables),
            ast::Statement::ExplainTable { table_name, .. } => {
                let parts = table_name.0.iter();
                let parts = parts.map(|part| part.as_ident().map(normalized));
                match parts.collect::<Option<Vec<_>>>() {
                    Some(parts) => Ok(Kind::Describe(parts.join("."))),
                    None => Err(unknown_relation(text, &table_name.to_string(), &[])),
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

/// Resolves the names of columns, and names the result's columns after the text they come from.
pub(crate) fn prepare(mut statement: Statement, names: &Names) -> Statement {
    if let Some(query) = query_mut(&mut statement) {
        let mut names = names.clone();
        let _ = walk::find(query, |part| -> Option<()> {
            if let Part::Query(query) = part {
                note_aliases(&query.body, &mut names);
            }
            None
        });
        name_columns(&mut query.body, &names);
        names.resolve(query);
    }
    statement
}

/// The schema with every column's name its own: the second `site` becomes `site_2`. As an object in JSON, a row
/// would lose one of two columns of one name.
pub(crate) fn unique_names(schema: SchemaRef) -> SchemaRef {
    let mut seen: HashSet<String> = HashSet::new();
    let taken = |name: &str| schema.column_with_name(name).is_some();
    let fields: Vec<FieldRef> = schema
        .fields()
        .iter()
        .map(|field| {
            if seen.insert(field.name().clone()) {
                return Arc::clone(field);
            }
            let names = (2..).map(|number| format!("{}_{number}", field.name()));
            let mut free = names.filter(|name| !taken(name) && !seen.contains(name));
            let name = free.next().unwrap_or_else(|| field.name().clone());
            drop(free);
            seen.insert(name.clone());
            Arc::new(field.as_ref().clone().with_name(name))
        })
        .collect();
    let renamed = Schema::new_with_metadata(fields, schema.metadata().clone());
    match renamed == *schema {
        true => schema,
        false => Arc::new(renamed),
    }
}

/// Refuses a result in which two columns have one name: in a flow, one of them would be lost.
pub(crate) fn refuse_two_of_a_name(text: &str, schema: &Schema) -> Result<(), Diagnostic> {
    let mut seen = HashSet::new();
    let mut fields = schema.fields().iter();
    match fields.find(|field| !seen.insert(field.name())) {
        Some(field) => Err(duplicate_column(text, field.name())),
        None => Ok(()),
    }
}

/// The relations a statement names, each once.
pub(crate) fn relations(text: &str, statement: &Statement) -> Result<Vec<String>, Diagnostic> {
    let (relations, _) = resolve_table_references(statement, true)
        .map_err(|error| crate::explain::explain(text, error, &[]))?;
    let mut names: Vec<String> = Vec::new();
    for relation in relations {
        let name = match (relation.catalog(), relation.schema()) {
            (None, None) => relation.table().to_owned(),
            (None, Some("information_schema")) => {
                format!("{}{}", information_schema::PREFIX, relation.table())
            }
            // A table of a database: `pg.public.patient`.
            (catalog, schema) => {
                let parts = catalog.into_iter().chain(schema);
                let parts = parts.chain([relation.table()]);
                parts.collect::<Vec<_>>().join(".")
            }
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

/// The error for a name that no relation has.
pub(crate) fn unknown_relation(text: &str, name: &str, known: &[String]) -> Diagnostic {
    let place = text::find_word(text, name).unwrap_or(0..text.len());
    let near = closest(name, known.iter().map(String::as_str));
    Diagnostic::new("sql.unknown-relation", place)
        .with("relation", text::quote(name))
        .suggest(near.map(quoted_if_needed))
}

/// The error for a known name with a dash that is not quoted; none if the text has no such name.
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

/// Refuses changes inside a query: `with x as (delete ...)`, `select ... into`.
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

/// Refuses `tablesample`, which the planner would ignore.
fn refuse_samples(text: &str, query: &Query) -> Result<(), Diagnostic> {
    let is_sample = |table: &TableFactor| match table {
        TableFactor::Table { sample, .. } | TableFactor::Derived { sample, .. } => sample.is_some(),
        _ => false,
    };
    let found = walk::find(query, |part| match part {
        Part::Query(query) => match &*query.body {
            SetExpr::Select(select) => {
                let mut tables = select.from.iter().flat_map(|table| {
                    let joined = table.joins.iter().map(|join| &join.relation);
                    std::iter::once(&table.relation).chain(joined)
                });
                tables.any(is_sample).then_some(())
            }
            _ => None,
        },
        Part::Expr(_) => None,
    });
    found.map_or(Ok(()), |()| {
        let place = text::find_word(text, "tablesample").unwrap_or(0..text.len());
        Err(Diagnostic::new("sql.not-supported", place))
    })
}

/// Refuses too many columns: each takes memory in each batch, however short its text.
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

/// Names each expression without an alias after its own text: the planner would use its internal form.
fn name_columns(body: &mut SetExpr, names: &Names) {
    match body {
        SetExpr::Select(select) => {
            for item in &mut select.projection {
                let SelectItem::UnnamedExpr(expr) = item else {
                    continue;
                };
                let alias = match expr {
                    Expr::Identifier(ident) => names.topic_part_name(std::slice::from_ref(ident)),
                    Expr::CompoundIdentifier(idents) => names.topic_part_name(idents),
                    _ => Some(expr.to_string()),
                };
                let Some(alias) = alias else {
                    continue;
                };
                *item = SelectItem::ExprWithAlias {
                    alias: Ident::with_quote('"', alias),
                    expr: expr.clone(),
                };
            }
        }
        SetExpr::SetOperation { left, .. } => name_columns(left, names),
        SetExpr::Query(query) => name_columns(&mut query.body, names),
        _ => {}
    }
}

/// Notes the names of results in all selects of a query's own body; its subqueries are queries of their own.
fn note_aliases(body: &SetExpr, names: &mut Names) {
    match body {
        SetExpr::Select(select) => select
            .projection
            .iter()
            .for_each(|item| names.add_alias(item)),
        SetExpr::SetOperation { left, right, .. } => {
            note_aliases(left, names);
            note_aliases(right, names);
        }
        _ => {}
    }
}

fn normalized(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}
