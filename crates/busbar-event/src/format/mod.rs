//! Formats: payloads as typed columns, and typed columns as payloads.
//!
//! A stream's [`FormatSpec`] says how its payloads are written and its [`SchemaSpec`] what is in
//! them. A [`Decoder`] reads the columns that somebody asks for and nothing else; a payload that
//! does not fit is named with its cause and leaves the others as they are.

mod column;
mod csv;
mod decoder;
mod infer;
mod json;
mod json_write;
mod scan;
mod schema;
mod spec;
mod time;

pub use decoder::{Decoded, Decoder, Rejected};
pub use infer::{infer, widen};
pub use json_write::encode_json;
pub use schema::{FieldSpec, FieldType, SchemaSpec, TimeUnit};
pub use spec::{CsvOptions, FormatSpec, JsonOptions};
pub use time::{parse_rfc3339, rfc3339};

#[cfg(test)]
mod tests;
