//! Payloads as typed columns: [`Decoder`].

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::datatypes::{DataType, Field, SchemaRef};

use super::column::Column;
use super::csv::{CsvDecoder, CsvFault};
use super::fhir::{FhirDecoder, FhirReject};
use super::hl7::{Hl7Decoder, Hl7Reject};
use super::json::{JsonDecoder, Problem, Reject};
use super::scan::Fault;
use super::schema::META_PATH;
use super::xml::{XmlFault, XmlReader};
use super::xml_shape::XmlShape;
use super::xml_text::xml_text;
use super::{FieldType, FormatSpec, JsonOptions, XmlOptions};
use crate::limits::{
    JSON_DEPTH_MAX, XML_ATTRIBUTES_MAX, XML_BYTES_MAX, XML_DEPTH_MAX, XML_NODES_MAX,
};
use crate::{Class, Error, Result};

/// Reads the columns of one projection from payloads, batch after batch.
#[derive(Debug)]
pub struct Decoder {
    schema: SchemaRef,
    columns: Vec<Column>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Raw,
    Json(JsonDecoder),
    Csv(Box<CsvDecoder>),
    Xml(Box<(XmlReader, JsonDecoder)>),
    Hl7(Box<Hl7Decoder>),
    Fhir(Box<FhirDecoder>),
}

/// What became of the payloads of a batch.
#[derive(Debug)]
pub struct Decoded {
    /// The columns asked for, of the good payloads only.
    pub columns: RecordBatch,
    /// Which payloads were good; `None` if all were.
    pub rows: Option<UInt32Array>,
    /// The others, in order.
    pub rejected: Vec<Rejected>,
}

/// A payload that does not fit, and why.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// Its row in the batch.
    pub row: usize,
    /// What is wrong, with the field and the position.
    pub cause: Error,
}

impl Decoder {
    /// A decoder of payloads in this format and with this schema that reads the columns of
    /// `projection`, by their index in the schema, in that order.
    ///
    /// The schema of raw payloads is one column of bytes.
    pub fn new(format: &FormatSpec, schema: &SchemaRef, projection: &[usize]) -> Result<Decoder> {
        let projected = schema.project(projection).map_err(|error| {
            Error::new(Class::Configuration, "event.schema-projection").caused_by(error)
        })?;
        let unfit = |field: &Field| {
            Error::new(Class::Configuration, "event.schema-type")
                .with("field", crate::quote(field.name()))
                .with("type", field.data_type())
        };
        let path = |field| -> &str {
            let field: &Field = field;
            field.metadata().get(META_PATH).unwrap_or(field.name())
        };
        let mut columns = Vec::new();
        if *format != FormatSpec::Raw {
            for field in projected.fields() {
                let field_type = FieldType::of(field).ok_or_else(|| unfit(field))?;
                columns.push(Column::new(field, field_type));
            }
        }
        let kind = match format {
            FormatSpec::Raw => {
                match projected
                    .fields()
                    .iter()
                    .find(|field| *field.data_type() != DataType::Binary)
                {
                    Some(field) => return Err(unfit(field)),
                    None => Kind::Raw,
                }
            }
            FormatSpec::Json(JsonOptions { root }) | FormatSpec::Xml(XmlOptions { root }) => {
                let root = root.iter().flat_map(|root| root.split('.'));
                let mut paths: Vec<Vec<String>> = projected
                    .fields()
                    .iter()
                    .map(|field| {
                        let path: Vec<&str> = match field.metadata().get(META_PATH) {
                            Some(path) => path.split('.').collect(),
                            None => vec![field.name()],
                        };
                        root.clone().chain(path).map(str::to_string).collect()
                    })
                    .collect();
                if paths.iter().any(|path| path.len() > JSON_DEPTH_MAX) {
                    return Err(Error::new(Class::Configuration, "event.json-depth")
                        .with("max", JSON_DEPTH_MAX)
                        .with("position", 0));
                }
                match format {
                    FormatSpec::Xml(_) => {
                        let mut shape = XmlShape::default();
                        for path in &mut paths {
                            let whole = path.join(".");
                            if !shape.add(path) {
                                return Err(Error::new(
                                    Class::Configuration,
                                    "event.xml-list-path",
                                )
                                .with("path", crate::quote(&whole)));
                            }
                        }
                        let json = JsonDecoder::new(&columns, &paths);
                        Kind::Xml(Box::new((XmlReader::new(shape), json)))
                    }
                    _ => Kind::Json(JsonDecoder::new(&columns, &paths)),
                }
            }
            FormatSpec::Csv(options) => {
                let names = projected.fields().iter().map(|field| {
                    field
                        .metadata()
                        .get(META_PATH)
                        .unwrap_or(field.name())
                        .clone()
                });
                let width = schema.fields().len();
                let decoder =
                    CsvDecoder::new(options, names.collect(), projection.to_vec(), width)?;
                Kind::Csv(Box::new(decoder))
            }
            FormatSpec::Hl7(options) => {
                let paths: Vec<&str> = projected.fields().iter().map(|f| path(f)).collect();
                Kind::Hl7(Box::new(Hl7Decoder::new(options, &columns, &paths)?))
            }
            FormatSpec::Fhir => {
                let paths: Vec<&str> = projected.fields().iter().map(|f| path(f)).collect();
                Kind::Fhir(Box::new(FhirDecoder::new(&columns, &paths)?))
            }
        };
        Ok(Decoder {
            schema: Arc::new(projected),
            columns,
            kind,
        })
    }

    /// The schema of what is decoded: the columns of the projection.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes the payloads of a batch. What can be read of it is read; the rest is named.
    pub fn decode(&mut self, payloads: &BinaryArray) -> Decoded {
        if let Kind::Raw = self.kind {
            let columns = self
                .schema
                .fields()
                .iter()
                .map(|_| Arc::new(payloads.clone()) as ArrayRef);
            let columns = record(&self.schema, columns.collect(), payloads.len());
            return Decoded {
                columns,
                rows: None,
                rejected: Vec::new(),
            };
        }
        let all_utf8 = is_utf8(payloads);
        let mut good: Option<Vec<u32>> = None;
        let mut rejected = Vec::new();
        for row in 0..payloads.len() {
            let payload = payloads.value(row);
            match self.row(payload, all_utf8) {
                Ok(()) => {
                    if let Some(good) = &mut good {
                        good.push(row as u32);
                    }
                }
                Err(cause) => {
                    good.get_or_insert_with(|| (0..row as u32).collect());
                    rejected.push(Rejected { row, cause });
                }
            }
        }
        let columns = self.columns.iter_mut().map(Column::finish).collect();
        let rows = payloads.len() - rejected.len();
        Decoded {
            columns: record(&self.schema, columns, rows),
            rows: good.map(UInt32Array::from),
            rejected,
        }
    }

    #[inline]
    fn row(&mut self, payload: &[u8], is_utf8: bool) -> Result<()> {
        if let Kind::Hl7(hl7) = &mut self.kind {
            // It may be in another character set.
            let read = hl7.row(payload, &mut self.columns);
            return read.map_err(|reject| self.hl7_error(reject));
        }
        if let Kind::Xml(xml) = &mut self.kind {
            let (reader, json) = &mut **xml;
            if payload.len() > XML_BYTES_MAX {
                return Err(xml_error(XmlFault::Nodes(XML_BYTES_MAX)));
            }
            let text = xml_text(payload).map_err(xml_error)?;
            let document = reader.json(&text).map_err(xml_error)?;
            return match json.row(document, &mut self.columns) {
                Ok(()) => Ok(()),
                Err(Reject::Field(column, problem, _)) => Err(self.member_error(column, problem)),
                Err(Reject::Document(_)) => Err(xml_error(XmlFault::Depth(0))),
            };
        }
        if !is_utf8 && let Err(error) = std::str::from_utf8(payload) {
            return Err(
                self.json_error(Reject::Document(Fault::Utf8(error.valid_up_to())), payload)
            );
        }
        match &mut self.kind {
            Kind::Raw | Kind::Hl7(_) | Kind::Xml(_) => Ok(()),
            Kind::Json(json) => match json.row(payload, &mut self.columns) {
                Ok(()) => Ok(()),
                Err(reject) => Err(self.json_error(reject, payload)),
            },
            Kind::Fhir(fhir) => {
                let text = std::str::from_utf8(payload).unwrap_or_default();
                let read = fhir.row(text, &mut self.columns);
                read.map_err(|reject| self.fhir_error(reject))
            }
            Kind::Csv(csv) => match csv.row(payload, &mut self.columns) {
                Ok(()) => Ok(()),
                Err(fault) => Err(self.csv_error(fault)),
            },
        }
    }

    #[cold]
    fn json_error(&self, reject: Reject, payload: &[u8]) -> Error {
        let fault = match reject {
            Reject::Field(column, problem, at) => return self.field_error(column, problem, at),
            Reject::Document(fault) => fault,
        };
        let at = |code, position| Error::new(Class::Permanent, code).with("position", position);
        match fault {
            Fault::End => at("event.json-end", payload.len()),
            Fault::Syntax(position) => at("event.json-syntax", position),
            Fault::Text(position) => at("event.json-text", position),
            Fault::Number(position) => at("event.json-number", position),
            Fault::Depth(position) => at("event.json-depth", position).with("max", JSON_DEPTH_MAX),
            Fault::Trailing(position) => at("event.json-trailing", position),
            Fault::NotObject => Error::new(Class::Permanent, "event.json-object"),
            Fault::Utf8(position) => at("event.payload-utf8", position),
        }
    }

    #[cold]
    fn csv_error(&self, fault: CsvFault) -> Error {
        let at = |code, position| Error::new(Class::Permanent, code).with("position", position);
        match fault {
            CsvFault::Field(column, problem, at) => self.field_error(column, problem, at),
            CsvFault::Quote(position) => at("event.csv-quote", position),
            CsvFault::Empty => Error::new(Class::Permanent, "event.csv-empty"),
            CsvFault::Rows(position) => at("event.csv-rows", position),
            CsvFault::Width(found, expected) => Error::new(Class::Permanent, "event.csv-width")
                .with("found", found)
                .with("expected", expected),
        }
    }

    #[cold]
    fn hl7_error(&self, reject: Hl7Reject) -> Error {
        let column = match reject {
            Hl7Reject::Message(error) => return error,
            Hl7Reject::Missing(column) => return self.field_error(column, Problem::Missing, 0),
            Hl7Reject::Value(column) => column,
        };
        let code = match self.columns[column].field_type {
            FieldType::Time => "event.hl7-time",
            _ => "event.hl7-value",
        };
        let error = Error::new(Class::Permanent, code)
            .with("field", crate::quote(&self.columns[column].name))
            .with("type", self.columns[column].field_type.as_str());
        match &self.kind {
            Kind::Hl7(hl7) => error.with("path", hl7.path(column).to_string()),
            _ => error,
        }
    }

    #[cold]
    fn fhir_error(&self, reject: FhirReject) -> Error {
        match reject {
            FhirReject::Json(bad) => {
                Error::new(Class::Permanent, "event.json-syntax").with("position", bad.at)
            }
            FhirReject::NoResource => Error::new(Class::Permanent, "event.fhir-no-type"),
            FhirReject::Field(column, problem) => self.member_error(column, problem),
        }
    }

    /// As [`Decoder::field_error`], where a position would be one of the document that was made from the payload.
    fn member_error(&self, column: usize, problem: Problem) -> Error {
        let (code, found) = match problem {
            Problem::Type(found) => ("event.member-type", found),
            Problem::Range => ("event.member-range", ""),
            Problem::Time => ("event.member-time", ""),
            Problem::Missing => return self.field_error(column, problem, 0),
        };
        let column = &self.columns[column];
        Error::new(Class::Permanent, code)
            .with("field", crate::quote(&column.name))
            .with("type", column.field_type.as_str())
            .with("found", found)
    }

    fn field_error(&self, column: usize, problem: Problem, position: usize) -> Error {
        let column = &self.columns[column];
        let (code, found) = match problem {
            Problem::Type(found) => ("event.field-type", found),
            Problem::Range => ("event.field-range", "number"),
            Problem::Time => ("event.field-time", ""),
            Problem::Missing => {
                return Error::new(Class::Permanent, "event.field-missing")
                    .with("field", crate::quote(&column.name));
            }
        };
        let error = Error::new(Class::Permanent, code)
            .with("field", crate::quote(&column.name))
            .with("position", position);
        match problem {
            Problem::Time => error,
            Problem::Range => error.with("type", column.field_type.as_str()),
            _ => error
                .with("type", column.field_type.as_str())
                .with("found", found),
        }
    }
}

#[cold]
fn xml_error(fault: XmlFault) -> Error {
    let at = |code, position: usize| Error::new(Class::Permanent, code).with("position", position);
    match fault {
        XmlFault::End => Error::new(Class::Permanent, "event.xml-end"),
        XmlFault::Syntax(position) => at("event.xml-syntax", position),
        XmlFault::DocumentType(position) => at("event.xml-document-type", position),
        XmlFault::Entity(position) => at("event.xml-entity", position),
        XmlFault::Encoding => Error::new(Class::Permanent, "event.xml-encoding"),
        XmlFault::Bytes(encoding) => {
            Error::new(Class::Permanent, "event.xml-bytes").with("encoding", encoding)
        }
        XmlFault::Utf8(position) => at("event.payload-utf8", position),
        XmlFault::Depth(position) => at("event.xml-depth", position).with("max", XML_DEPTH_MAX),
        XmlFault::Attributes(position) => {
            at("event.xml-attributes", position).with("max", XML_ATTRIBUTES_MAX)
        }
        XmlFault::Nodes(position) => at("event.xml-large", position)
            .with("nodes_max", XML_NODES_MAX)
            .with("bytes_max", XML_BYTES_MAX),
        XmlFault::Root(position) => at("event.xml-root", position),
    }
}

fn record(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .expect("columns were made for this schema")
}

/// Whether every payload is UTF-8: looked at all at once, since most are.
fn is_utf8(payloads: &BinaryArray) -> bool {
    let offsets = payloads.value_offsets();
    let (first, last) = (offsets[0] as usize, offsets[offsets.len() - 1] as usize);
    let bytes = payloads.value_data();
    simdutf8::basic::from_utf8(&bytes[first..last]).is_ok_and(|text| {
        // No payload may begin within a character.
        offsets
            .iter()
            .all(|offset| text.is_char_boundary(*offset as usize - first))
    })
}
