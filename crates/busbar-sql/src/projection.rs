use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use busbar_event::Error;
use datafusion_sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Ident, ObjectName, SelectItem, Spanned, WildcardAdditionalOptions,
};

use crate::diagnostic::{duplicate_column, unknown_column_named};
use crate::explain::kernel_error;
use crate::expression::{Expression, isolate};
use crate::stack::deep;
use crate::{Diagnostic, Failed, parse, text};

/// A list such as `site, level_mm / 10.0 as level_cm, *`.
///
/// An expression without an alias is named after its own text, such as `upper(site)`. `* except (a, b)` stands for
/// all columns but those.
///
/// ```
/// use std::sync::Arc;
/// use arrow::array::{ArrayRef, Int64Array, RecordBatch};
///
/// let levels: ArrayRef = Arc::new(Int64Array::from(vec![10, 62]));
/// let batch = RecordBatch::try_from_iter([("level_mm", levels)]).unwrap();
/// let list = busbar_sql::Projection::compile(&batch.schema(), "level_mm / 10.0 as level_cm").unwrap();
/// assert_eq!(list.schema().field(0).name(), "level_cm");
/// assert_eq!(list.evaluate(&batch).unwrap().num_rows(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct Projection {
    expressions: Vec<Expression>,
    schema: SchemaRef,
}

impl Projection {
    /// Compiles a list over rows of `schema`. Aggregates, and functions that do not always return the same for the
    /// same event, are refused.
    pub fn compile(schema: &SchemaRef, text: &str) -> Result<Self, Diagnostic> {
        let lost = |error| Diagnostic::from_error(error, 0..text.len());
        deep(lost, || Self::compiled(schema, text))
    }

    fn compiled(schema: &SchemaRef, text: &str) -> Result<Self, Diagnostic> {
        let mut expressions = Vec::new();
        let mut fields: Vec<Field> = Vec::new();
        for item in parse::select_list(text)? {
            match item {
                SelectItem::UnnamedExpr(parsed) => {
                    let name = natural_name(schema, &parsed);
                    add(schema, text, parsed, name, &mut expressions, &mut fields)?;
                }
                SelectItem::ExprWithAlias { expr, alias } => {
                    let name = written_name(&alias);
                    add(schema, text, expr, name, &mut expressions, &mut fields)?;
                }
                SelectItem::Wildcard(options) => {
                    let left_out = left_out(schema, text, &options)?;
                    for (index, field) in schema.fields().iter().enumerate() {
                        if !left_out.contains(&index) {
                            expressions.push(Expression::column(schema, index));
                            fields.push(field.as_ref().clone());
                        }
                    }
                }
                other => {
                    let place = text::parser_range(text, other.span()).unwrap_or(0..text.len());
                    return Err(Diagnostic::new("sql.unsupported", place)
                        .with("what", text::quote(&other.to_string())));
                }
            }
        }
        for (index, field) in fields.iter().enumerate() {
            if fields[..index]
                .iter()
                .any(|known| known.name() == field.name())
            {
                return Err(duplicate_column(text, field.name()));
            }
        }
        Ok(Self {
            expressions,
            schema: Arc::new(Schema::new(fields)),
        })
    }

    /// The schema of the result.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Indexes in the schema of the columns that it reads, sorted.
    pub fn columns(&self) -> Vec<usize> {
        let columns = self.expressions.iter().flat_map(Expression::columns);
        let mut columns: Vec<usize> = columns.collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// The same list for batches of another schema that has its columns.
    pub fn bind(&self, schema: &SchemaRef) -> Result<Self, Error> {
        let bound = self.expressions.iter().map(|each| each.bind(schema));
        Ok(Self {
            expressions: bound.collect::<Result<_, _>>()?,
            schema: self.schema(),
        })
    }

    /// The result: one row for each row. If it fails for a row, the whole batch fails; [`Projection::failing`] finds
    /// the rows.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        let columns = self.expressions.iter().map(|each| each.evaluate(batch));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema(), columns, &options).map_err(kernel_error)
    }

    /// The rows for which it fails, each with its cause, in order.
    pub fn failing(&self, batch: &RecordBatch) -> Vec<Failed> {
        isolate(batch.num_rows(), &mut |rows| {
            let slice = batch.slice(rows.start, rows.len());
            self.expressions
                .iter()
                .find_map(|each| each.evaluate(&slice).err())
        })
    }
}

fn add(
    schema: &SchemaRef,
    text: &str,
    parsed: Expr,
    name: String,
    expressions: &mut Vec<Expression>,
    fields: &mut Vec<Field>,
) -> Result<(), Diagnostic> {
    let expression = Expression::compile(schema, text, parsed)?;
    let field = Field::new(name, expression.data_type().clone(), expression.nullable());
    fields.push(match expression.source() {
        // A column keeps the metadata of its field.
        Some(source) => field.with_metadata(schema.field(source).metadata().clone()),
        None => field,
    });
    expressions.push(expression);
    Ok(())
}

/// The name of a column, or the text of another expression.
pub(crate) fn natural_name(schema: &Schema, parsed: &Expr) -> String {
    let last = match parsed {
        Expr::Identifier(ident) => Some(ident),
        Expr::CompoundIdentifier(idents) => idents.last(),
        _ => None,
    };
    let Some(ident) = last else {
        return parsed.to_string();
    };
    let is = |name: &str| schema.column_with_name(name).is_some();
    if ident.quote_style.is_some() || is(&ident.value) {
        return ident.value.clone();
    }
    let folded = ident.value.to_lowercase();
    let mut fields = schema.fields().iter();
    match fields.find(|field| field.name().to_lowercase() == folded) {
        Some(field) if !is(&folded) => field.name().clone(),
        _ => folded,
    }
}

/// The alias as it was written. Unlike in a query it is not folded to lower case, because it becomes the name of
/// an event's field.
fn written_name(alias: &Ident) -> String {
    alias.value.clone()
}

fn left_out(
    schema: &SchemaRef,
    text: &str,
    options: &WildcardAdditionalOptions,
) -> Result<Vec<usize>, Diagnostic> {
    let unsupported = options.opt_ilike.is_some()
        || options.opt_replace.is_some()
        || options.opt_rename.is_some()
        || options.opt_alias.is_some();
    if unsupported {
        return Err(Diagnostic::new("sql.unsupported", 0..text.len())
            .with("what", text::quote(&options.to_string())));
    }
    let mut idents: Vec<Ident> = Vec::new();
    if let Some(except) = &options.opt_except {
        idents.push(except.first_element.clone());
        idents.extend(except.additional_elements.iter().cloned());
    }
    let mut exclude = |name: &ObjectName| {
        let parts = name.0.iter().filter_map(|part| part.as_ident().cloned());
        idents.extend(parts);
    };
    match &options.opt_exclude {
        Some(ExcludeSelectItem::Single(name)) => exclude(name),
        Some(ExcludeSelectItem::Multiple(names)) => names.iter().for_each(exclude),
        None => {}
    }
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let find = |ident: Ident| {
        let name = natural_name(schema, &Expr::Identifier(ident.clone()));
        schema.index_of(&name).map_err(|_| {
            let place = text::parser_range(text, ident.span).unwrap_or(0..text.len());
            unknown_column_named(&ident.value, &names, place)
        })
    };
    idents.into_iter().map(find).collect()
}
