//! Formats: payloads as typed columns, and typed columns as payloads.
//!
//! A stream's [`FormatSpec`] says how its payloads are written and its [`SchemaSpec`] what is in
//! them. A [`Decoder`] reads the columns that somebody asks for and nothing else; a payload that
//! does not fit is named with its cause and leaves the others as they are.

mod decoder;
mod json_write;
mod schema;
mod spec;

pub use decoder::{Decoded, Decoder, Rejected, infer};
pub use json_write::encode_json;
pub use schema::{FieldSpec, FieldType, SchemaSpec, TimeUnit};
pub use spec::{CsvOptions, FormatSpec, JsonOptions};
