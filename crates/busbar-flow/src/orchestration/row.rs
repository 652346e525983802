//! Expressions over the values of one instance: the values that they need become a batch of one row.

use std::sync::Arc;

use arrow::array::{Array, BinaryArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use busbar_event::format::{Decoder, FieldSpec, FieldType, FormatSpec, SchemaSpec};
use busbar_event::{Class, Error};
use busbar_orchestrate::ValueMap;
use busbar_sql::{Predicate, Projection};
use parking_lot::Mutex;
use serde_json::Value as Json;

use crate::operator::call::{CallMaker, CallText, json_objects};
use crate::operator::rows::misfit;

/// What is compiled over columns.
pub(super) trait OverColumns: Sized {
    fn columns(&self) -> Vec<usize>;
    fn bound(&self, schema: &SchemaRef) -> Result<Self, Error>;
}

impl OverColumns for Predicate {
    fn columns(&self) -> Vec<usize> {
        Predicate::columns(self)
    }
    fn bound(&self, schema: &SchemaRef) -> Result<Self, Error> {
        self.bind(schema)
    }
}

impl OverColumns for Projection {
    fn columns(&self) -> Vec<usize> {
        Projection::columns(self)
    }
    fn bound(&self, schema: &SchemaRef) -> Result<Self, Error> {
        self.bind(schema)
    }
}

impl OverColumns for CallText {
    fn columns(&self) -> Vec<usize> {
        CallText::columns(self)
    }
    fn bound(&self, schema: &SchemaRef) -> Result<Self, Error> {
        self.bind(schema)
    }
}

impl OverColumns for CallMaker {
    fn columns(&self) -> Vec<usize> {
        CallMaker::columns(self)
    }
    fn bound(&self, schema: &SchemaRef) -> Result<Self, Error> {
        self.bind(schema)
    }
}

/// Something compiled, with what makes its row.
pub(super) struct OneRow<T> {
    pub compiled: T,
    schema: SchemaRef,
    /// None where no value is needed.
    decoder: Option<Mutex<Decoder>>,
}

impl<T: OverColumns> OneRow<T> {
    /// Binds what was compiled over all values of a scope to those that it needs.
    pub fn new(compiled: &T, scope: &SchemaRef) -> Result<OneRow<T>, Error> {
        let mut places = compiled.columns();
        places.sort_unstable();
        places.dedup();
        let schema: SchemaRef = Arc::new(scope.project(&places).map_err(misfit)?);
        let json = FormatSpec::Json(Default::default());
        let decoder = match places.is_empty() {
            true => None,
            false => Some(Mutex::new(Decoder::new(&json, scope, &places)?)),
        };
        Ok(OneRow {
            compiled: compiled.bound(&schema)?,
            schema,
            decoder,
        })
    }

    /// The row.
    pub fn row(&self, values: &ValueMap) -> Result<RecordBatch, Error> {
        let Some(decoder) = &self.decoder else {
            let options = RecordBatchOptions::new().with_row_count(Some(1));
            return RecordBatch::try_new_with_options(
                Arc::clone(&self.schema),
                Vec::new(),
                &options,
            )
            .map_err(misfit);
        };
        let wanted = self.schema.fields().iter();
        let wanted: ValueMap = wanted
            .filter_map(|field| Some((field.name().clone(), values.get(field.name())?.clone())))
            .collect();
        decode(&mut decoder.lock(), wanted)
    }
}

impl OneRow<Projection> {
    /// The values that it makes.
    pub fn values(&self, values: &ValueMap) -> Result<ValueMap, Error> {
        object(&self.compiled.evaluate(&self.row(values)?)?)
    }
}

impl OneRow<Predicate> {
    /// Whether it is true.
    pub fn holds(&self, values: &ValueMap) -> Result<bool, Error> {
        let held = self.compiled.evaluate(&self.row(values)?)?;
        Ok(held.is_valid(0) && held.value(0))
    }
}

impl OneRow<CallText> {
    /// The text.
    pub fn text(&self, values: &ValueMap) -> Result<String, Error> {
        self.compiled.fill(&self.row(values)?)?.row(0)
    }
}

/// Values that come from outside, with their declared types.
pub(super) struct TypedValues {
    schema: SchemaRef,
    declared: SchemaSpec,
    pub decoder: Option<Mutex<Decoder>>,
}

impl TypedValues {
    pub fn new(declared: &SchemaSpec) -> Result<TypedValues, Error> {
        let schema = declared.schema()?;
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let json = FormatSpec::Json(Default::default());
        Ok(TypedValues {
            decoder: match all.is_empty() {
                true => None,
                false => Some(Mutex::new(Decoder::new(&json, &schema, &all)?)),
            },
            schema,
            declared: declared.clone(),
        })
    }

    /// The values with their types. One that is not declared is refused.
    pub fn read(&self, given: &ValueMap) -> Result<ValueMap, Error> {
        let has_paths = self.declared.0.iter().any(|field| field.path.is_some());
        let known = |name: &String| self.schema.index_of(name).is_ok();
        if let Some(unknown) = given.keys().find(|name| !has_paths && !known(name)) {
            let names: Vec<&str> = self.declared.0.iter().map(|f| f.name.as_str()).collect();
            let error = Error::new(Class::Permanent, "orchestrate.value-unknown");
            return Err(error
                .with("name", busbar_event::quote(unknown))
                .with("known", names.join(", ")));
        }
        let Some(decoder) = &self.decoder else {
            return Ok(ValueMap::new());
        };
        object(&decode(&mut decoder.lock(), given.clone())?)
    }
}

/// Reads one object into columns.
pub(super) fn decode(decoder: &mut Decoder, object: ValueMap) -> Result<RecordBatch, Error> {
    let bytes = Json::Object(object).to_string();
    let decoded = decoder.decode(&BinaryArray::from_iter_values([bytes.as_bytes()]));
    match decoded.rejected.into_iter().next() {
        Some(bad) => {
            let error = Error::new(Class::Permanent, "orchestrate.value");
            Err(error.caused_by(bad.cause))
        }
        None => Ok(decoded.columns),
    }
}

/// The first row as an object; a null is left out.
pub(super) fn object(batch: &RecordBatch) -> Result<ValueMap, Error> {
    object_at(batch, 0)
}

/// A row as an object; a null is left out.
pub(super) fn object_at(batch: &RecordBatch, row: usize) -> Result<ValueMap, Error> {
    let objects = json_objects(batch)?;
    let read = serde_json::from_slice(objects.value(row));
    read.map_err(|_| Error::new(Class::Permanent, "orchestrate.value"))
}

/// The columns of values, as expressions see them; the names that were there before win no second meaning.
pub(super) fn value_field(name: &str, field_type: FieldType) -> Field {
    FieldSpec::new(name, field_type).field()
}

/// What a column of a result is as a value; none if it is none.
pub(super) fn value_type(field: &Field) -> Option<FieldType> {
    if let Some(known) = FieldType::of(field) {
        return Some(known);
    }
    Some(match field.data_type() {
        DataType::Dictionary(_, value) => {
            return value_type(&Field::new("", value.as_ref().clone(), true));
        }
        kind if kind.is_integer() => FieldType::Int,
        kind if kind.is_floating() => FieldType::Float,
        DataType::Decimal128(..) | DataType::Decimal256(..) => FieldType::Float,
        DataType::Utf8View | DataType::LargeUtf8 => FieldType::Text,
        DataType::Timestamp(..) => FieldType::Time,
        DataType::Boolean => FieldType::Bool,
        DataType::List(_) | DataType::Struct(_) | DataType::Map(..) => FieldType::Json,
        DataType::Null => FieldType::Text,
        _ => return None,
    })
}

/// The columns as one schema.
pub(super) fn schema_of(fields: &[Field]) -> SchemaRef {
    Arc::new(Schema::new(fields.to_vec()))
}
