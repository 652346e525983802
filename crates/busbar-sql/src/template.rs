use std::fmt::Write as _;

use arrow::array::{
    Array, ArrayRef, DictionaryArray, Int32Array, RecordBatch, StringArray, StringBuilder,
};
use arrow::datatypes::{DataType, Int32Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use busbar_event::Error;
use std::collections::HashMap;
use std::sync::Arc;

use crate::diagnostic::unknown_column_named;
use crate::explain::kernel_error;
use crate::expression::Expression;
use crate::names::Names;
use crate::{Diagnostic, check};
use datafusion_sql::sqlparser::ast::{Expr, Ident};

/// A text that contains columns, such as `alarm/${site}/rain`.
///
/// Numbers, booleans and times are written as SQL shows them. The result is null for a row in which a column is null.
/// `$$` stands for one `$`.
///
/// The result is not checked: a value may contain `/` or be empty. A caller that uses it as a topic checks it.
#[derive(Clone, Debug)]
pub struct Template {
    parts: Vec<Part>,
    columns: Vec<Expression>,
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    /// An index in `columns`.
    Column(usize),
}

impl Template {
    /// Compiles a template over rows of `schema`.
    pub fn compile(schema: &SchemaRef, text: &str) -> Result<Self, Diagnostic> {
        let mut parts = Vec::new();
        let mut columns = Vec::new();
        let mut literal = String::new();
        let mut rest = 0;
        while let Some(found) = text[rest..].find('$') {
            let dollar = rest + found;
            literal.push_str(&text[rest..dollar]);
            let after = &text[dollar + 1..];
            if after.starts_with('$') {
                literal.push('$');
                rest = dollar + 2;
                continue;
            }
            let Some(inner) = after.strip_prefix('{') else {
                return Err(Diagnostic::new("sql.template-dollar", dollar..dollar + 1));
            };
            let Some(length) = inner.find('}') else {
                return Err(Diagnostic::new("sql.template-open", dollar..text.len()));
            };
            let start = dollar + 2;
            let name = text[start..start + length].trim();
            let index = find_column(schema, name, start..start + length)?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Column(columns.len()));
            columns.push(Expression::column(schema, index));
            rest = start + length + 1;
        }
        literal.push_str(&text[rest..]);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts, columns })
    }

    /// Indexes in the schema of the columns that it reads, sorted.
    pub fn columns(&self) -> Vec<usize> {
        let columns = self.columns.iter().flat_map(Expression::columns);
        let mut columns: Vec<usize> = columns.collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// The text, if it contains no column.
    pub fn constant(&self) -> Option<&str> {
        match &self.parts[..] {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The same template for batches of another schema that has its columns.
    pub fn bind(&self, schema: &SchemaRef) -> Result<Self, Error> {
        let bound = self.columns.iter().map(|each| each.bind(schema));
        Ok(Self {
            parts: self.parts.clone(),
            columns: bound.collect::<Result<_, _>>()?,
        })
    }

    /// The text for each row; null if a column is null.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<StringArray, Error> {
        let mut texts = StringBuilder::with_capacity(batch.num_rows(), batch.num_rows() * 16);
        self.each(batch, |text| texts.append_option(text))?;
        Ok(texts.finish())
    }

    /// As [`Template::evaluate`], as a dictionary: the form of a batch's topics.
    pub fn evaluate_dictionary(
        &self,
        batch: &RecordBatch,
    ) -> Result<DictionaryArray<Int32Type>, Error> {
        let mut known: HashMap<String, i32> = HashMap::new();
        let mut values = StringBuilder::new();
        let mut keys: Vec<Option<i32>> = Vec::with_capacity(batch.num_rows());
        self.each(batch, |text| {
            keys.push(text.map(|text| match known.get(text) {
                Some(key) => *key,
                None => {
                    let key = known.len() as i32;
                    known.insert(text.to_owned(), key);
                    values.append_value(text);
                    key
                }
            }));
        })?;
        DictionaryArray::try_new(Int32Array::from(keys), Arc::new(values.finish()))
            .map_err(kernel_error)
    }

    fn each(&self, batch: &RecordBatch, mut take: impl FnMut(Option<&str>)) -> Result<(), Error> {
        let arrays = self.columns.iter().map(|each| each.evaluate(batch));
        let arrays: Vec<ArrayRef> = arrays.collect::<Result<_, _>>()?;
        let options = FormatOptions::default();
        let columns = arrays.iter().map(|array| Column::new(array, &options));
        let columns: Vec<Column<'_>> = columns.collect::<Result<_, _>>().map_err(kernel_error)?;
        let mut text = String::new();
        for row in 0..batch.num_rows() {
            text.clear();
            let mut whole = true;
            for part in &self.parts {
                whole &= match part {
                    Part::Text(literal) => {
                        text.push_str(literal);
                        true
                    }
                    Part::Column(place) => columns[*place]
                        .write(row, &mut text)
                        .map_err(kernel_error)?,
                };
            }
            take(whole.then_some(&text));
        }
        Ok(())
    }
}

/// A column whose values are written into texts.
enum Column<'a> {
    Text(&'a StringArray),
    /// The keys and values of a dictionary.
    Dictionary(&'a Int32Array, &'a StringArray),
    Other(&'a dyn Array, ArrayFormatter<'a>),
}

impl<'a> Column<'a> {
    fn new(array: &'a ArrayRef, options: &FormatOptions<'a>) -> Result<Self, ArrowError> {
        if let Some(texts) = array.as_any().downcast_ref() {
            return Ok(Self::Text(texts));
        }
        if let Some(dictionary) = array.as_any().downcast_ref::<DictionaryArray<Int32Type>>()
            && let Some(texts) = dictionary.values().as_any().downcast_ref()
        {
            return Ok(Self::Dictionary(dictionary.keys(), texts));
        }
        let formatter = ArrayFormatter::try_new(array.as_ref(), options)?;
        Ok(Self::Other(array.as_ref(), formatter))
    }

    /// Writes a value. Returns false for a null.
    fn write(&self, row: usize, text: &mut String) -> Result<bool, ArrowError> {
        match self {
            Self::Text(texts) if texts.is_valid(row) => text.push_str(texts.value(row)),
            Self::Dictionary(keys, texts) if keys.is_valid(row) => {
                let key = keys.value(row) as usize;
                if texts.is_null(key) {
                    return Ok(false);
                }
                text.push_str(texts.value(key));
            }
            Self::Other(array, formatter) if array.is_valid(row) => {
                write!(text, "{}", formatter.value(row))
                    .map_err(|cause| ArrowError::ComputeError(cause.to_string()))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn find_column(
    schema: &SchemaRef,
    name: &str,
    place: std::ops::Range<usize>,
) -> Result<usize, Diagnostic> {
    let mut parsed = Expr::Identifier(Ident::new(name));
    Names::of(schema).resolve(&mut parsed);
    let resolved = match &parsed {
        Expr::Identifier(ident) if ident.quote_style.is_some() => ident.value.clone(),
        _ if schema.column_with_name(name).is_some() => name.to_owned(),
        _ => name.to_lowercase(),
    };
    let Some((index, field)) = schema.column_with_name(&resolved) else {
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        return Err(unknown_column_named(name, &names, place));
    };
    let flat = match field.data_type() {
        DataType::Dictionary(_, value) => !value.is_nested(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => false,
        other => !other.is_nested(),
    };
    if flat {
        return Ok(index);
    }
    Err(Diagnostic::new("sql.template-type", place)
        .with("column", &resolved)
        .with("type", check::word(field.data_type())))
}
