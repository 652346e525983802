//! `xml`: columns as an XML document.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StructArray, UInt32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use busbar_catalog::XmlSpec;
use busbar_event::format::XmlEncoder;
use busbar_event::{Class, Error};
use futures::future::{BoxFuture, FutureExt, ready};

use super::rows::misfit;
use super::{Operator, Output, Rows, Step, StepContext, Wrong, column_place};
use crate::reader::{BODY, BODY_PAYLOAD, ENVELOPE, is_envelope, plain};

/// The column that is the payload.
const BODY_COLUMN: &str = "payload";

/// Checks the columns and their paths.
pub(super) fn compile(spec: &XmlSpec, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    let schema = context.schema;
    let fault =
        |key: &'static str, code| Wrong::new(Error::new(Class::Configuration, code)).at(key);
    if spec.column.is_some() && spec.encoding.is_some() {
        return Err(fault("encoding", "flow.xml-encoding"));
    }
    let mut places: Vec<(usize, String)> = Vec::new();
    for (column, path) in &spec.columns.0 {
        let place = column_place(schema, column).map_err(|wrong| wrong.at("columns"))?;
        places.push((place, path.clone()));
    }
    if places.is_empty() {
        let own = schema.fields().iter().enumerate();
        let own = own.filter(|(_, field)| !is_envelope(field.name(), field.data_type()));
        places = own
            .map(|(place, field)| (place, field.name().clone()))
            .collect();
        if places.is_empty() {
            return Err(fault("columns", "flow.xml-empty"));
        }
    }
    let paths: Vec<&str> = places.iter().map(|(_, path)| path.as_str()).collect();
    let encoder = XmlEncoder::new(
        &spec.root,
        spec.namespace.as_deref(),
        spec.encoding.as_deref(),
        &paths,
    )
    .map_err(Wrong::new)?;
    let name = spec.column.as_deref().unwrap_or(BODY_COLUMN);
    if name.is_empty() || ENVELOPE.contains(&name) {
        return Err(fault("as", "flow.xml-as"));
    }
    let goes_on = |field: &&FieldRef| match spec.column {
        // One of the same name is replaced.
        Some(_) => field.name() != name,
        // The payload takes the place of all other columns but those of the envelope.
        None => is_envelope(field.name(), field.data_type()),
    };
    let fields = schema.fields().iter().filter(goes_on);
    let own = fields.clone().map(|field| field.name().clone()).collect();
    let document = match spec.column {
        Some(_) => DataType::Utf8,
        None => DataType::Binary,
    };
    let document = Arc::new(Field::new(name, document, false));
    let metadata = match spec.column {
        Some(_) => Default::default(),
        None => [(BODY.to_owned(), BODY_PAYLOAD.to_owned())].into(),
    };
    let fields: Vec<FieldRef> = fields.cloned().chain([document]).collect();
    Ok(Arc::new(XmlStep {
        encoder: Arc::new(encoder),
        columns: places
            .iter()
            .map(|(place, _)| schema.field(*place).name().clone())
            .collect(),
        own,
        input: Arc::clone(schema),
        schema: Arc::new(Schema::new_with_metadata(fields, metadata)),
    }))
}

struct XmlStep {
    encoder: Arc<XmlEncoder>,
    /// Names of the columns that are written.
    columns: Vec<String>,
    /// Names of the columns that go on.
    own: Vec<String>,
    input: SchemaRef,
    schema: SchemaRef,
}

impl Step for XmlStep {
    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }

    fn columns(&self) -> Vec<usize> {
        let names = self.columns.iter().chain(&self.own);
        let mut places: Vec<usize> = names
            .filter_map(|name| self.input.index_of(name).ok())
            .collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let places = |names: &[String]| -> Result<Vec<usize>, Error> {
            let places = names.iter().map(|name| schema.index_of(name));
            places.collect::<Result<_, _>>().map_err(misfit)
        };
        Ok(Box::new(DocumentWriter {
            encoder: Arc::clone(&self.encoder),
            columns: places(&self.columns)?,
            own: places(&self.own)?,
            schema: Arc::clone(&self.schema),
        }))
    }
}

struct DocumentWriter {
    encoder: Arc<XmlEncoder>,
    columns: Vec<usize>,
    own: Vec<usize>,
    schema: SchemaRef,
}

impl DocumentWriter {
    fn write(&self, rows: &Rows, out: &mut Output) -> Result<(), Error> {
        let mut fields: Vec<FieldRef> = Vec::with_capacity(self.columns.len());
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for place in &self.columns {
            let array = plain(rows.batch.column(*place))?;
            let field = rows.batch.schema_ref().field(*place).clone();
            fields.push(Arc::new(field.with_data_type(array.data_type().clone())));
            arrays.push(array);
        }
        let columns = StructArray::try_new(Fields::from(fields), arrays, None).map_err(misfit)?;
        let made = self.encoder.encode(&columns);
        let mut document: ArrayRef = Arc::new(made.payloads);
        let mut rows = rows.clone();
        if !made.refused.is_empty() {
            let good = (0..rows.len()).filter(|row| document.is_valid(*row));
            let good: UInt32Array = good.map(|row| row as u32).collect::<Vec<_>>().into();
            for (row, error) in made.refused {
                out.fail(&rows, row, error);
            }
            document = arrow::compute::take(&document, &good, None).map_err(misfit)?;
            rows = rows.take(&good)?;
        }
        let kind = self.schema.field(self.own.len()).data_type();
        if document.data_type() != kind {
            document = cast(&document, kind).map_err(misfit)?;
        }
        let own = self.own.iter().map(|place| rows.batch.column(*place));
        let arrays = own.cloned().chain([document]).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(misfit)?;
        out.push(rows.with_columns(batch));
        Ok(())
    }
}

impl Operator for DocumentWriter {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        ready(self.write(&rows, out)).boxed()
    }
}
