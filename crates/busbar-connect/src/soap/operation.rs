//! An operation of a WSDL as a step calls it: which columns go into the header and which into the body.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use busbar_catalog::XsdShape;
use busbar_event::{Class, Error};
use serde_json::{Map, Value};

use super::message::{ColumnFault, MessageWriter};
use super::wsdl::WsdlOperation;

/// An operation.
pub(super) struct FormOperation {
    body: MessageWriter,
    headers: Vec<HeaderWriter>,
    /// What is in the body of an answer; none where there is no answer.
    pub output: Option<XsdShape>,
}

/// Writes one element of the header. Its columns are `header.NAME.PATH`, or `header.NAME` where it holds a value.
struct HeaderWriter {
    name: String,
    writer: MessageWriter,
}

/// The header and the body of a message.
pub(super) struct WrittenMessage {
    /// The elements in the header; empty where there are none.
    pub header: String,
    /// The element in the body.
    pub body: String,
}

impl FormOperation {
    pub fn new(operation: WsdlOperation) -> FormOperation {
        let headers = operation.headers.into_iter();
        FormOperation {
            body: MessageWriter::new(operation.input),
            headers: headers
                .map(|shape| HeaderWriter {
                    name: shape.root.name.clone(),
                    writer: MessageWriter::new(shape),
                })
                .collect(),
            output: operation.output,
        }
    }

    /// Whether a column of this name is part of the message.
    pub fn has(&self, column: &str) -> bool {
        self.body.has(column) || self.header_of(column).is_some()
    }

    /// The header that a column goes into, and its name there. What the body knows by a name is in the body.
    fn header_of<'c>(&self, column: &'c str) -> Option<(usize, &'c str)> {
        if self.body.has(column) {
            return None;
        }
        let headers = self.headers.iter().enumerate();
        let mut found = headers.filter_map(|(at, header)| Some((at, header.column(column)?)));
        found.next()
    }

    /// Checks that the columns are those of the message.
    ///
    /// # Errors
    /// One that the message does not have, whose type does not fit, or that is missing.
    pub fn check(&self, columns: &Schema) -> Result<(), ColumnFault> {
        let mut body = Vec::new();
        let mut headers: Vec<Vec<Arc<Field>>> = vec![Vec::new(); self.headers.len()];
        for field in columns.fields() {
            match self.header_of(field.name()) {
                None => body.push(Arc::clone(field)),
                Some((at, name)) => {
                    let field = Field::clone(field).with_name(name);
                    headers[at].push(Arc::new(field));
                }
            }
        }
        self.body.check(&Schema::new(body))?;
        for (header, fields) in self.headers.iter().zip(headers) {
            // A header of which nothing is sent is left out.
            if !fields.is_empty() {
                header.writer.check(&Schema::new(fields))?;
            }
        }
        Ok(())
    }

    /// The message of a row, given as JSON of its columns.
    ///
    /// # Errors
    /// *Permanent*: a value that does not fit its place, or one that is missing.
    pub fn write(&self, row: &[u8]) -> Result<WrittenMessage, Error> {
        let row: Map<String, Value> = match row.is_empty() {
            true => Map::new(),
            false => serde_json::from_slice(row)
                .map_err(|why| Error::new(Class::Permanent, "connect.soap-row").caused_by(why))?,
        };
        let mut body = Map::new();
        let mut headers = vec![Map::new(); self.headers.len()];
        for (column, value) in row {
            match self.header_of(&column) {
                None => drop(body.insert(column, value)),
                Some(_) if value.is_null() => {}
                Some((at, name)) => drop(headers[at].insert(name.to_owned(), value)),
            }
        }
        let mut header = String::new();
        for (writer, values) in self.headers.iter().zip(headers) {
            if !values.is_empty() {
                header.push_str(&writer.writer.write(values)?);
            }
        }
        Ok(WrittenMessage {
            header,
            body: self.body.write(body)?,
        })
    }
}

impl HeaderWriter {
    /// The name that a column has within this header.
    fn column<'c>(&self, column: &'c str) -> Option<&'c str> {
        let rest = column.strip_prefix("header")?;
        let rest = rest.strip_prefix(['.', '_'])?;
        let rest = rest.strip_prefix(self.name.as_str())?;
        let name = match rest {
            "" => "#text",
            rest => rest.strip_prefix(['.', '_'])?,
        };
        self.writer.has(name).then_some(name)
    }
}
