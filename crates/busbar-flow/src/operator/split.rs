//! `split`: one row of each element of a list.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use busbar_catalog::SplitSpec;
use busbar_event::format::{Decoder, FieldSpec, FieldType, FormatSpec, SchemaSpec};
use busbar_event::{Class, Error};
use busbar_sql::{Failed, Projection};
use futures::future::{BoxFuture, FutureExt, ready};
use serde::Deserializer as _;
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::keyed::{flat, flattened};
use super::rows::misfit;
use super::{Operator, Output, Rows, Step, StepContext, Wrong, column_place};
use crate::limits::{SPLIT_BYTES_MAX, SPLIT_ELEMENTS_MAX};

/// Compiles the list, and checks the columns that come out.
pub(super) fn compile(spec: &SplitSpec, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    let schema = context.schema;
    let fault =
        |key: &'static str, code| Wrong::new(Error::new(Class::Configuration, code)).at(key);
    let list = Projection::compile(schema, &spec.list).map_err(|w| Wrong::from(w).at("list"))?;
    let one = list.schema();
    if one.fields().len() != 1 {
        return Err(fault("list", "flow.split-one"));
    }
    let typed = match flat(one.field(0).data_type()) {
        DataType::List(element) => Some(element),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Binary => None,
        _ => return Err(fault("list", "flow.split-one")),
    };
    let has_columns = !spec.columns.0.is_empty();
    if has_columns && (spec.item.is_some() || spec.item_type.is_some()) {
        return Err(fault("columns", "flow.split-columns"));
    }
    let elements = match &typed {
        Some(_) if has_columns => return Err(fault("columns", "flow.split-typed")),
        Some(_) if spec.item_type.is_some() => return Err(fault("type", "flow.split-typed")),
        Some(element) => {
            let field = Field::new(spec.item_name(), element.data_type().clone(), true);
            Arc::new(Schema::new(vec![field]))
        }
        None if has_columns => {
            columns_of(&spec.columns).map_err(|e| Wrong::new(e).at("columns"))?
        }
        None => {
            let item = FieldSpec {
                path: Some(ITEM.to_owned()),
                ..FieldSpec::new(spec.item_name(), spec.item_type.unwrap_or(FieldType::Json))
            };
            columns_of(&SchemaSpec(vec![item])).map_err(|e| Wrong::new(e).at("as"))?
        }
    };
    // A column that is the list itself does not go on.
    let left_out = column_place(schema, spec.list.trim()).ok();
    let own: Vec<usize> = (0..schema.fields().len())
        .filter(|place| Some(*place) != left_out)
        .collect();
    let mut fields: Vec<FieldRef> = own
        .iter()
        .map(|at| Arc::clone(&schema.fields()[*at]))
        .collect();
    let numbers = [INDEX, TOTAL].map(|name| Arc::new(Field::new(name, DataType::Int64, false)));
    for field in elements.fields().iter().chain(&numbers) {
        if fields.iter().any(|known| known.name() == field.name()) {
            let error = Error::new(Class::Configuration, "flow.column-twice");
            return Err(Wrong::new(error.with("column", field.name())));
        }
        fields.push(Arc::clone(field));
    }
    Ok(Arc::new(SplitStep {
        list,
        form: match (typed.is_some(), has_columns) {
            (true, _) => SplitForm::Typed,
            (false, true) => SplitForm::Objects,
            (false, false) => SplitForm::Items,
        },
        own,
        input: Arc::clone(schema),
        elements,
        schema: Arc::new(Schema::new(fields)),
    }))
}

const INDEX: &str = "index";
const TOTAL: &str = "total";
/// The name under which a single element is read.
const ITEM: &str = "item";

fn columns_of(columns: &SchemaSpec) -> Result<SchemaRef, Error> {
    columns.schema()
}

/// What the list is and what is read from its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SplitForm {
    /// A list with a type; its elements go on as they are.
    Typed,
    /// A JSON array, whose elements are read as one column.
    Items,
    /// A JSON array of objects, from which columns are read.
    Objects,
}

struct SplitStep {
    list: Projection,
    form: SplitForm,
    /// Places of the columns that go on.
    own: Vec<usize>,
    input: SchemaRef,
    /// The columns of the elements.
    elements: SchemaRef,
    schema: SchemaRef,
}

impl Step for SplitStep {
    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }

    fn columns(&self) -> Vec<usize> {
        let mut columns = self.list.columns();
        columns.extend(&self.own);
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let own = self.own.iter().map(|at| self.input.field(*at).name());
        let own = own.map(|name| schema.index_of(name).map_err(misfit));
        let all: Vec<usize> = (0..self.elements.fields().len()).collect();
        Ok(Box::new(ListSplitter {
            list: self.list.bind(schema)?,
            own: own.collect::<Result<_, _>>()?,
            decoder: match self.form {
                SplitForm::Typed => None,
                _ => {
                    let json: FormatSpec = FormatSpec::Json(Default::default());
                    Some(Decoder::new(&json, &self.elements, &all)?)
                }
            },
            form: self.form,
            schema: Arc::clone(&self.schema),
        }))
    }
}

struct ListSplitter {
    list: Projection,
    own: Vec<usize>,
    /// Reads the elements of a JSON array.
    decoder: Option<Decoder>,
    form: SplitForm,
    schema: SchemaRef,
}

/// The elements of the lists of a batch, one behind the other.
#[derive(Default)]
struct Elements {
    /// The row that each comes from.
    rows: Vec<u32>,
    index: Vec<i64>,
    total: Vec<i64>,
    /// Rows that cannot be split, each with its cause.
    bad: Vec<(usize, Error)>,
}

impl Elements {
    /// Notes the elements of a row.
    fn add(&mut self, row: usize, elements: usize) {
        self.rows.extend(std::iter::repeat_n(row as u32, elements));
        self.index.extend(1..=elements as i64);
        self.total
            .extend(std::iter::repeat_n(elements as i64, elements));
    }
}

impl ListSplitter {
    fn split(&mut self, rows: &Rows, out: &mut Output) -> Result<(), Error> {
        let list = Arc::clone(self.list.evaluate(&rows.batch)?.column(0));
        let list = flattened(&list)?;
        let mut elements = Elements::default();
        let columns: Vec<ArrayRef> = match self.form {
            SplitForm::Typed => vec![typed(&list, &mut elements)?],
            _ => self.read(&list, &mut elements)?,
        };
        self.check_bytes(&rows.batch, &elements)?;
        let split = rows.take(&UInt32Array::from(elements.rows))?;
        let mut arrays: Vec<ArrayRef> = self
            .own
            .iter()
            .map(|own| Arc::clone(split.batch.column(*own)))
            .collect();
        arrays.extend(columns);
        arrays.push(Arc::new(Int64Array::from(elements.index)));
        arrays.push(Arc::new(Int64Array::from(elements.total)));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(misfit)?;
        for (row, error) in elements.bad {
            out.fail(rows, row, error);
        }
        out.push(split.with_columns(batch));
        Ok(())
    }

    /// The columns of the elements of JSON arrays. An event with an element that cannot be read is dead as a whole.
    fn read(&mut self, list: &ArrayRef, elements: &mut Elements) -> Result<Vec<ArrayRef>, Error> {
        let texts = arrow::compute::cast(list, &DataType::Binary).map_err(misfit)?;
        let texts = texts.as_binary::<i32>();
        let mut payloads = BinaryBuilder::new();
        let mut all = Elements::default();
        for row in 0..texts.len() {
            if texts.is_null(row) {
                continue;
            }
            match array(texts.value(row)) {
                Ok(array) => {
                    all.add(row, array.len());
                    for element in &array {
                        match self.form {
                            SplitForm::Items => {
                                let object = format!("{{\"{ITEM}\":{}}}", element.get());
                                payloads.append_value(object);
                            }
                            _ => payloads.append_value(element.get()),
                        }
                    }
                }
                Err(error) => elements.bad.push((row, error)),
            }
        }
        let Some(decoder) = &mut self.decoder else {
            return Ok(Vec::new());
        };
        let payloads = payloads.finish();
        let decoded = decoder.decode(&payloads);
        let mut columns = decoded.columns;
        if !decoded.rejected.is_empty() {
            for bad in decoded.rejected {
                let row = all.rows[bad.row] as usize;
                let known = elements.bad.iter().any(|(known, _)| *known == row);
                if !known {
                    let error = Error::new(Class::Permanent, "flow.split-element")
                        .with("index", all.index[bad.row])
                        .caused_by(bad.cause);
                    elements.bad.push((row, error));
                }
            }
            elements.bad.sort_by_key(|(row, _)| *row);
            let is_bad = |row: u32| {
                let found = elements
                    .bad
                    .binary_search_by_key(&(row as usize), |(row, _)| *row);
                found.is_ok()
            };
            // The elements that were read, without those of events of which another was not.
            let read: Vec<u32> = match &decoded.rows {
                Some(rows) => rows.values().to_vec(),
                None => (0..all.rows.len() as u32).collect(),
            };
            let good =
                (0..read.len() as u32).filter(|at| !is_bad(all.rows[read[*at as usize] as usize]));
            let good = UInt32Array::from_iter_values(good);
            let picked = columns
                .columns()
                .iter()
                .map(|column| take(column, &good, None));
            let picked: Vec<ArrayRef> = picked.collect::<Result<_, _>>().map_err(misfit)?;
            columns = RecordBatch::try_new(columns.schema(), picked).map_err(misfit)?;
            let kept: Vec<usize> = (0..all.rows.len())
                .filter(|at| !is_bad(all.rows[*at]))
                .collect();
            all = Elements {
                rows: kept.iter().map(|at| all.rows[*at]).collect(),
                index: kept.iter().map(|at| all.index[*at]).collect(),
                total: kept.iter().map(|at| all.total[*at]).collect(),
                bad: Vec::new(),
            };
        }
        all.bad = std::mem::take(&mut elements.bad);
        *elements = all;
        Ok(columns.columns().to_vec())
    }

    /// Refuses a batch whose rows would take too much memory: what goes on is repeated for each element.
    fn check_bytes(&self, batch: &RecordBatch, elements: &Elements) -> Result<(), Error> {
        let rows = batch.num_rows().max(1);
        let mut bytes = 0_usize;
        for own in &self.own {
            let column = batch.column(*own);
            bytes = bytes.saturating_add(match column.data_type() {
                DataType::Utf8 => {
                    let texts = column.as_string::<i32>();
                    let each = elements.rows.iter();
                    each.map(|row| texts.value_length(*row as usize) as usize)
                        .sum()
                }
                DataType::Binary => {
                    let values = column.as_binary::<i32>();
                    let each = elements.rows.iter();
                    each.map(|row| values.value_length(*row as usize) as usize)
                        .sum()
                }
                DataType::Dictionary(..) => 4 * elements.rows.len(),
                _ => elements.rows.len() * (column.get_array_memory_size() / rows),
            });
        }
        match bytes > SPLIT_BYTES_MAX {
            true => Err(Error::new(Class::Permanent, "flow.split-large")
                .with("most", SPLIT_BYTES_MAX >> 20)),
            false => Ok(()),
        }
    }
}

/// The elements of lists with a type.
fn typed(list: &ArrayRef, elements: &mut Elements) -> Result<ArrayRef, Error> {
    let lists = list
        .as_list_opt::<i32>()
        .ok_or_else(|| Error::new(Class::Permanent, "flow.split-list"))?;
    let mut places: Vec<u32> = Vec::new();
    for row in 0..lists.len() {
        if lists.is_null(row) {
            continue;
        }
        let length = lists.value_length(row) as usize;
        if length > SPLIT_ELEMENTS_MAX {
            elements.bad.push((row, too_many()));
            continue;
        }
        let begin = lists.value_offsets()[row] as u32;
        places.extend(begin..begin + length as u32);
        elements.add(row, length);
    }
    take(lists.values(), &UInt32Array::from(places), None).map_err(misfit)
}

fn too_many() -> Error {
    Error::new(Class::Permanent, "flow.split-many").with("most", SPLIT_ELEMENTS_MAX)
}

/// The elements of a JSON array, each as it is written.
fn array(text: &[u8]) -> Result<Vec<&RawValue>, Error> {
    struct ArrayVisitor;
    impl<'de> Visitor<'de> for ArrayVisitor {
        /// None: there are too many.
        type Value = Option<Vec<&'de RawValue>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON array")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = array.next_element()? {
                if elements.len() == SPLIT_ELEMENTS_MAX {
                    while array.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                    return Ok(None);
                }
                elements.push(element);
            }
            Ok(Some(elements))
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Some(Vec::new()))
        }
    }
    let no_list =
        |cause: serde_json::Error| Error::new(Class::Permanent, "flow.split-list").caused_by(cause);
    let mut reader = serde_json::Deserializer::from_slice(text);
    let elements = reader.deserialize_any(ArrayVisitor).map_err(no_list)?;
    reader.end().map_err(no_list)?;
    elements.ok_or_else(too_many)
}

impl Operator for ListSplitter {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        ready(self.split(&rows, out)).boxed()
    }

    fn failing(&mut self, rows: &Rows) -> Vec<Failed> {
        self.list.failing(&rows.batch)
    }
}
