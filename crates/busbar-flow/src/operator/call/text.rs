//! Texts with SQL expressions in them, such as `/stations/${station}`.

use std::ops::Range;

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use busbar_connector::{Escape, SqlPart, SqlStatement, SqlValue};
use busbar_event::{Class, Error};
use busbar_sql::{Failed, Projection};

use crate::operator::Wrong;
use crate::reader::text as plain_text;

/// A compiled text.
#[derive(Clone)]
pub(crate) struct CallText {
    parts: Vec<TextPart>,
    escape: Escape,
}

#[derive(Clone)]
enum TextPart {
    Literal(String),
    Expression(Projection),
}

/// The text's parts for the rows of a batch.
pub(crate) struct FilledText<'a> {
    parts: Vec<FilledPart<'a>>,
    escape: Escape,
}

enum FilledPart<'a> {
    Literal(&'a str),
    /// The values, and what the column is called.
    Values(StringArray, String),
}

impl CallText {
    /// Compiles a text over rows of `schema`.
    ///
    /// # Errors
    /// What is wrong with it, and where in it.
    pub fn compile(schema: &SchemaRef, text: &str, escape: Escape) -> Result<CallText, Wrong> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(found) = text[at..].find('$') {
            let dollar = at + found;
            literal.push_str(&text[at..dollar]);
            let rest = &text[dollar + 1..];
            if rest.starts_with('$') {
                literal.push('$');
                at = dollar + 2;
            } else if let Some(inner) = rest.strip_prefix('{') {
                let Some(length) = close(inner) else {
                    return Err(wrong("catalog.template", text, dollar..text.len()));
                };
                let span = dollar + 2..dollar + 2 + length;
                let compiled = Projection::compile(schema, &text[span.clone()]);
                let projection = compiled.map_err(|bad| Wrong::from(bad.within(&span)))?;
                let fields = projection.schema();
                let whole = dollar..span.end + 1;
                if fields.fields().len() != 1 {
                    return Err(wrong("flow.call-one-value", text, whole));
                }
                let kind = fields.field(0).data_type();
                if kind.is_nested() || !arrow::compute::can_cast_types(kind, &UTF8) {
                    return Err(wrong("flow.template-type", text, whole));
                }
                if !literal.is_empty() {
                    parts.push(TextPart::Literal(std::mem::take(&mut literal)));
                }
                parts.push(TextPart::Expression(projection));
                at = span.end + 1;
            } else {
                literal.push('$');
                at = dollar + 1;
            }
        }
        literal.push_str(&text[at..]);
        if !literal.is_empty() {
            parts.push(TextPart::Literal(literal));
        }
        Ok(CallText { parts, escape })
    }

    /// Indexes in the schema of the columns that it reads.
    pub fn columns(&self) -> Vec<usize> {
        let parts = self.parts.iter().map(|part| match part {
            TextPart::Literal(_) => Vec::new(),
            TextPart::Expression(projection) => projection.columns(),
        });
        parts.flatten().collect()
    }

    /// The same text for batches of another schema that has its columns.
    pub fn bind(&self, schema: &SchemaRef) -> Result<CallText, Error> {
        let parts = self.parts.iter().map(|part| {
            Ok(match part {
                TextPart::Literal(text) => TextPart::Literal(text.clone()),
                TextPart::Expression(projection) => TextPart::Expression(projection.bind(schema)?),
            })
        });
        Ok(CallText {
            parts: parts.collect::<Result<_, Error>>()?,
            escape: self.escape,
        })
    }

    /// The text as a statement for each row of a batch, with the values bound between its parts.
    ///
    /// # Errors
    /// An expression that fails, or values that no database takes.
    pub fn statements(&self, batch: &RecordBatch) -> Result<Vec<SqlStatement>, Error> {
        let mut statements = vec![SqlStatement::default(); batch.num_rows()];
        for part in &self.parts {
            match part {
                TextPart::Literal(text) => statements
                    .iter_mut()
                    .for_each(|one| one.parts.push(SqlPart::Text(text.clone()))),
                TextPart::Expression(projection) => {
                    let values = projection.evaluate(batch)?;
                    let name = values.schema_ref().field(0).name();
                    let values = SqlValue::of_column(values.column(0), name)?;
                    for (one, value) in statements.iter_mut().zip(values) {
                        one.parts.push(SqlPart::Value(value, None));
                    }
                }
            }
        }
        Ok(statements)
    }

    /// Computes the values for a batch.
    pub fn fill(&self, batch: &RecordBatch) -> Result<FilledText<'_>, Error> {
        let parts = self.parts.iter().map(|part| {
            Ok(match part {
                TextPart::Literal(text) => FilledPart::Literal(text),
                TextPart::Expression(projection) => {
                    let values = projection.evaluate(batch)?;
                    let name = values.schema_ref().field(0).name().clone();
                    FilledPart::Values(plain_text(values.column(0))?, name)
                }
            })
        });
        Ok(FilledText {
            parts: parts.collect::<Result<_, Error>>()?,
            escape: self.escape,
        })
    }

    /// The rows for which values cannot be computed.
    pub fn failing(&self, batch: &RecordBatch) -> Vec<Failed> {
        let failing = self.parts.iter().filter_map(|part| match part {
            TextPart::Literal(_) => None,
            TextPart::Expression(projection) => Some(projection.failing(batch)),
        });
        failing.flatten().collect()
    }
}

const UTF8: arrow::datatypes::DataType = arrow::datatypes::DataType::Utf8;

impl FilledText<'_> {
    /// The text of a row.
    ///
    /// # Errors
    /// *Permanent*, where a value is null.
    pub fn row(&self, row: usize) -> Result<String, Error> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                FilledPart::Literal(literal) => text.push_str(literal),
                FilledPart::Values(values, _) if values.is_valid(row) => {
                    self.escape.write(values.value(row), &mut text);
                }
                FilledPart::Values(_, name) => {
                    let error = Error::new(Class::Permanent, "flow.call-null");
                    return Err(error.with("column", name));
                }
            }
        }
        Ok(text)
    }
}

/// Where the brace that closes an expression is: not within quotation marks or other braces.
fn close(inner: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0usize, None);
    for (at, c) in inner.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') if depth == 0 => return Some(at),
            (None, '}') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

fn wrong(code: &'static str, text: &str, span: Range<usize>) -> Wrong {
    let error = Error::new(Class::Configuration, code).with("text", &text[span.clone()]);
    Wrong {
        span: Some(span),
        ..Wrong::new(error)
    }
}
