//! `map`: fields of other names, types and codes.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, SchemaRef};
use busbar_catalog::{MapConstant, MapField, MapSpec};
use busbar_event::format::FieldType;
use busbar_event::{Class, Error, quote};
use busbar_sql::{Failed, Projection};
use futures::future::{BoxFuture, FutureExt, ready};

use super::{Operator, Output, Rows, Step, StepContext, Wrong};

/// Compiles the fields.
pub(super) fn compile(spec: &MapSpec, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    if spec.fields.0.is_empty() && !spec.keep {
        return Err(wrong("flow.map-empty").at("fields"));
    }
    if !spec.keep && !spec.drop.is_empty() {
        return Err(wrong("flow.map-drop").at("drop"));
    }
    let known = |name: &str| context.schema.column_with_name(name).is_some();
    if let Some(place) = spec.drop.iter().position(|name| !known(name)) {
        let wrong = Wrong::new(
            Error::new(Class::Configuration, "flow.map-column")
                .with("column", quote(&spec.drop[place])),
        );
        return Err(wrong.at(place).at("drop"));
    }
    let mut list = Vec::new();
    if spec.keep {
        for field in context.schema.fields() {
            let name = field.name();
            let is_made = spec.fields.0.iter().any(|(made, _)| made == name);
            if !is_made && !spec.drop.contains(name) {
                list.push(identifier(name));
            }
        }
    }
    let mut fields = Vec::new();
    for (name, field) in &spec.fields.0 {
        // Names of fields are no places that an error can point to.
        let at = |wrong: Wrong| without_place(wrong).at("fields");
        let text = expression(field, context)
            .map_err(|error| at(Wrong::new(error.with("field", quote(name)))))?;
        let item = format!("{text} as {}", identifier(name));
        let checked = match codes(field) {
            Some(unknown) => {
                let unknown = Projection::compile(context.schema, &unknown);
                Some(unknown.map_err(|why| at(why.into()))?)
            }
            None => None,
        };
        let value = Projection::compile(context.schema, &item);
        fields.push(MadeField {
            name: name.clone(),
            value: value.map_err(|why| at(why.into()))?,
            unknown: checked,
        });
        list.push(item);
    }
    let all = Projection::compile(context.schema, &list.join(", "));
    Ok(Arc::new(FieldMap {
        all: all.map_err(|why| without_place(why.into()))?,
        fields,
    }))
}

#[derive(Clone)]
struct FieldMap {
    /// All columns that come out.
    all: Projection,
    fields: Vec<MadeField>,
}

/// A field by itself, for its checks and to find which one an event fails.
#[derive(Clone)]
struct MadeField {
    name: String,
    value: Projection,
    /// Whether the value is not in the code table.
    unknown: Option<Projection>,
}

impl Step for FieldMap {
    fn schema(&self) -> Option<SchemaRef> {
        Some(self.all.schema())
    }

    fn columns(&self) -> Vec<usize> {
        let unknown = self.fields.iter().filter_map(|made| made.unknown.as_ref());
        let mut columns: Vec<usize> = unknown.flat_map(Projection::columns).collect();
        columns.extend(self.all.columns());
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let bind = |made: &MadeField| {
            Ok(MadeField {
                name: made.name.clone(),
                value: made.value.bind(schema)?,
                unknown: match &made.unknown {
                    Some(unknown) => Some(unknown.bind(schema)?),
                    None => None,
                },
            })
        };
        Ok(Box::new(FieldMap {
            all: self.all.bind(schema)?,
            fields: self.fields.iter().map(bind).collect::<Result<_, Error>>()?,
        }))
    }
}

impl Operator for FieldMap {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        ready(self.made(rows, out)).boxed()
    }

    fn failing(&mut self, rows: &Rows) -> Vec<Failed> {
        let mut all: Vec<Failed> = Vec::new();
        for made in &self.fields {
            for failed in made.value.failing(&rows.batch) {
                let error = Error::new(Class::Permanent, "flow.map-field");
                all.push(Failed {
                    row: failed.row,
                    cause: error
                        .with("field", quote(&made.name))
                        .caused_by(failed.cause),
                });
            }
            for row in made.strangers(rows).unwrap_or_default() {
                let cause = unknown_code(&made.name);
                all.push(Failed { row, cause });
            }
        }
        all.sort_by_key(|failed| failed.row);
        all.dedup_by_key(|failed| failed.row);
        all
    }
}

impl FieldMap {
    fn made(&self, rows: Rows, out: &mut Output) -> Result<(), Error> {
        for made in &self.fields {
            if !made.strangers(&rows)?.is_empty() {
                return Err(unknown_code(&made.name));
            }
        }
        let columns = self.all.evaluate(&rows.batch)?;
        out.push(rows.with_columns(columns));
        Ok(())
    }
}

impl MadeField {
    /// The rows whose value is not in the code table.
    fn strangers(&self, rows: &Rows) -> Result<Vec<usize>, Error> {
        let Some(unknown) = &self.unknown else {
            return Ok(Vec::new());
        };
        let found = unknown.evaluate(&rows.batch)?;
        let found = found.column(0).as_boolean();
        let set = found.iter().enumerate();
        Ok(set
            .filter(|(_, is)| *is == Some(true))
            .map(|(row, _)| row)
            .collect())
    }
}

fn unknown_code(field: &str) -> Error {
    Error::new(Class::Permanent, "flow.map-code").with("field", quote(field))
}

fn wrong(code: &'static str) -> Wrong {
    Wrong::new(Error::new(Class::Configuration, code))
}

/// What is wrong stands in an expression that the file does not have.
fn without_place(wrong: Wrong) -> Wrong {
    Wrong {
        span: None,
        ..wrong
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn literal(constant: &MapConstant) -> String {
    match constant {
        MapConstant::Text(text) => text_literal(text),
        MapConstant::Number(number) => number.clone(),
        MapConstant::Bool(value) => value.to_string(),
    }
}

/// Whether a value is not in the code table, as an expression; none where any value will do.
fn codes(field: &MapField) -> Option<String> {
    if field.codes.is_empty() || field.otherwise.is_some() {
        return None;
    }
    let source = source(field)?;
    let names: Vec<String> = field.codes.keys().map(|code| text_literal(code)).collect();
    let names = names.join(", ");
    Some(format!("cast({source} as varchar) not in ({names})"))
}

/// What a field is made of, as an expression; none unless it is made of one thing.
fn source(field: &MapField) -> Option<String> {
    let with = text_literal(field.with.as_deref().unwrap_or_default());
    match (
        &field.from,
        &field.value,
        field.join.as_slice(),
        &field.split,
    ) {
        (Some(column), None, [], None) => Some(identifier(column)),
        (None, Some(constant), [], None) => Some(literal(constant)),
        (None, None, columns @ [_, ..], None) => {
            let text = |column: &String| format!("cast({} as varchar)", identifier(column));
            let texts: Vec<String> = columns.iter().map(text).collect();
            Some(format!(
                "nullif(concat_ws({with}, {}), '')",
                texts.join(", ")
            ))
        }
        (None, None, [], Some(column)) => {
            let (column, part) = (identifier(column), field.part.unwrap_or(1));
            Some(format!("nullif(split_part({column}, {with}, {part}), '')"))
        }
        _ => None,
    }
}

/// A field as an SQL expression.
///
/// # Errors
/// What is wrong with it, but for the field's name.
fn expression(field: &MapField, context: &StepContext<'_>) -> Result<String, Error> {
    let wrong = |code| Error::new(Class::Configuration, code);
    let columns = [&field.from, &field.split, &field.years_until];
    let columns = columns.into_iter().flatten().chain(&field.join);
    for column in columns {
        if context.schema.column_with_name(column).is_none() {
            return Err(wrong("flow.map-field-column").with("column", quote(column)));
        }
    }
    let splits = field.split.is_some();
    if (splits && (field.with.as_deref().unwrap_or_default().is_empty() || field.part == Some(0)))
        || (!splits && field.part.is_some())
        || (!splits && field.join.is_empty() && field.with.is_some())
    {
        return Err(wrong("flow.map-split"));
    }
    if field.codes.is_empty() && field.otherwise.is_some() {
        return Err(wrong("flow.map-otherwise"));
    }
    let mut text = source(field).ok_or_else(|| wrong("flow.map-source"))?;
    if !field.codes.is_empty() {
        let cases = field.codes.iter();
        let cases: Vec<String> = cases
            .map(|(code, constant)| {
                format!("when {} then {}", text_literal(code), literal(constant))
            })
            .collect();
        let otherwise = match &field.otherwise {
            Some(constant) => format!("when {text} is not null then {}", literal(constant)),
            None => String::new(),
        };
        let cases = cases.join(" ");
        text = match otherwise.is_empty() {
            true => format!("(case cast({text} as varchar) {cases} end)"),
            false => {
                let inner = format!("case cast({text} as varchar) {cases} end");
                format!("(case when ({inner}) is not null then ({inner}) {otherwise} end)")
            }
        };
    }
    if let Some(date) = &field.date {
        // A date alone is at midnight.
        let has_clock = [
            "%H", "%I", "%k", "%l", "%T", "%R", "%r", "%X", "%s", "%c", "%+",
        ];
        let (value, format) = match has_clock.iter().any(|clock| date.contains(clock)) {
            true => (format!("cast({text} as varchar)"), date.clone()),
            false => (
                format!("(cast({text} as varchar) || ' 00:00:00')"),
                format!("{date} %H:%M:%S"),
            ),
        };
        let format = text_literal(&format);
        text = time(&format!("to_timestamp_micros({value}, {format})"));
    }
    for (span, sign) in [(&field.plus, '+'), (&field.minus, '-')] {
        if let Some(span) = span {
            let micros = span.as_micros();
            text = time(&format!("({text} {sign} interval '{micros} microseconds')"));
        }
    }
    if let Some(column) = &field.years_until {
        let day = |time: &str| format!("cast(to_char({time}, '%Y%m%d') as bigint)");
        let (until, from) = (day(&identifier(column)), day(&text));
        text = format!("(({until} - {from}) / 10000)");
    }
    if let Some(format) = &field.format {
        text = format!("to_char({text}, {})", text_literal(format));
    }
    if let Some(field_type) = field.field_type {
        text = match field_type {
            FieldType::Bool => format!("cast({text} as boolean)"),
            FieldType::Int => format!("cast({text} as bigint)"),
            FieldType::Float => format!("cast({text} as double)"),
            FieldType::Text => format!("cast({text} as varchar)"),
            FieldType::Time => time(&text),
            FieldType::Json => return Err(wrong("flow.map-json")),
        };
    }
    if let Some(constant) = &field.default {
        text = format!("coalesce({text}, {})", literal(constant));
    }
    Ok(text)
}

/// A value as a time of the type that events have.
fn time(text: &str) -> String {
    let of = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
    format!("arrow_cast({text}, {})", text_literal(&of.to_string()))
}
