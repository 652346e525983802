//! Formats: payloads as typed columns, and typed columns as payloads.
//!
//! A stream's [`FormatSpec`] says how its payloads are written and its [`SchemaSpec`] what is in
//! them. A [`Decoder`] reads only the columns that are asked for; a payload that
//! does not fit is reported with its cause and does not affect the others.

mod cell;
mod column;
mod csv;
mod decoder;
mod fhir;
mod hl7;
mod infer;
mod json;
mod json_parts;
mod json_write;
mod payload_tags;
mod scan;
mod schema;
mod spec;
mod time;
mod xml;
mod xml_shape;
mod xml_text;
mod xml_write;

pub use cell::natural_type;
pub use csv::{CsvCell, csv_cells, csv_names, write_csv_cell};
pub use decoder::{Decoded, Decoder, Rejected};
pub use fhir::{
    FhirFault, FhirFound, FhirHead, FhirPath, FhirWriter, RESOURCE_TYPES, check_resource,
    is_fhir_id, is_resource_type,
};
pub use hl7::{
    Hl7Answer, Hl7Charset, Hl7Message, Hl7Options, Hl7Path, Hl7Reader, Hl7Refusal, Hl7Separators,
    Hl7Value, Hl7Writer, Hl7Zone,
};
pub use infer::{infer, widen, widen_for};
pub use json_parts::{JsonParts, NotJson, json_unquote};
pub use json_write::{encode_json, write_json_text};
pub use payload_tags::{PayloadTags, Tagged};
pub use scan::is_json;
pub use schema::{FieldSpec, FieldType, SchemaSpec, TimeUnit, exact, source_name};
pub use spec::{CsvOptions, FormatSpec, JsonOptions, XmlOptions};
pub use xml_text::{continues_xml_name, is_xml_name, starts_xml_name, xml_encoding};
pub use xml_write::{XmlDocuments, XmlEncoder, write_xml_text};

#[cfg(test)]
mod tests;
