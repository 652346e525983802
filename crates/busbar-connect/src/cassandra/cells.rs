//! Columns of a flow as values that are sent.

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use busbar_event::{Class, Error};

use super::kind::{CqlCell, CqlType};
use super::table::CassandraColumn;
use crate::cells::TextCells;

/// A column of a flow that is written to a column of a table.
#[derive(Clone, Debug)]
pub struct CellWriter {
    /// The place in the flow's rows.
    pub at: usize,
    pub name: String,
    /// None for one that has parts, which is sent as JSON.
    pub kind: Option<CqlType>,
    lossy: bool,
}

/// The values of a column.
pub struct CellValues<'a> {
    of: &'a CellWriter,
    cells: CellArrays,
}

enum CellArrays {
    Bool(ArrayRef),
    Int(ArrayRef),
    Float(ArrayRef),
    Time(ArrayRef),
    Day(ArrayRef),
    Decimal(ArrayRef, i32),
    Bytes(TextCells),
    Text(TextCells),
}

impl CellWriter {
    /// # Errors
    /// *Configuration*: values of this type would not all be kept as they are.
    pub fn new(
        at: usize,
        from: &DataType,
        column: &CassandraColumn,
        table: &str,
        lossy: bool,
    ) -> Result<CellWriter, Error> {
        use CqlType as C;
        use DataType as D;
        let from = match from {
            D::Dictionary(_, values) => values,
            other => other,
        };
        let is_text = matches!(from, D::Utf8 | D::LargeUtf8 | D::Utf8View);
        let is_bytes = matches!(
            from,
            D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_)
        );
        let fits = match &column.kind {
            Some(C::Counter | C::Duration) => false,
            _ if matches!(from, D::Null) => true,
            // Of JSON, as a text or as what the flow has parts of.
            None => is_text || from.is_nested(),
            Some(C::Text) => !is_bytes,
            Some(C::Ascii | C::Uuid | C::Timeuuid | C::Inet | C::Time) => is_text,
            Some(C::Date) => is_text || matches!(from, D::Date32),
            Some(C::Boolean) => matches!(from, D::Boolean),
            Some(C::Tinyint | C::Smallint | C::Int | C::Bigint | C::Varint) => from.is_integer(),
            Some(C::Decimal) => from.is_integer() || matches!(from, D::Decimal128(..)),
            Some(C::Double) => from.is_integer() || matches!(from, D::Float32 | D::Float64),
            Some(C::Float) => matches!(from, D::Float32) || lossy && matches!(from, D::Float64),
            Some(C::Timestamp) => matches!(from, D::Timestamp(..)),
            Some(C::Blob) => is_bytes,
            Some(_) => false,
        };
        if !fits {
            return Err(Error::new(Class::Configuration, "cassandra.type")
                .with("column", &column.name)
                .with("table", table)
                .with("from", from)
                .with("to", &column.shown));
        }
        Ok(CellWriter {
            at,
            name: column.name.clone(),
            kind: column.kind.clone(),
            lossy,
        })
    }

    /// Prepares a column of rows.
    ///
    /// # Errors
    /// *Configuration*: a type that has no such values.
    pub fn values(&self, column: &ArrayRef) -> Result<CellValues<'_>, Error> {
        use DataType as D;
        let to = |to: &D| {
            cast(column, to).map_err(|why| {
                Error::new(Class::Configuration, "connect.column-type")
                    .with("column", &self.name)
                    .with("from", column.data_type())
                    .caused_by(why)
            })
        };
        let from = match column.data_type() {
            D::Dictionary(_, values) => (**values).clone(),
            other => other.clone(),
        };
        let as_text = matches!(&self.kind, None | Some(CqlType::Text));
        let cells = match &from {
            D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => {
                CellArrays::Bytes(TextCells::new(&self.name, column)?)
            }
            _ if as_text => CellArrays::Text(TextCells::new(&self.name, column)?),
            D::Boolean => CellArrays::Bool(to(&from)?),
            D::UInt64 => CellArrays::Decimal(to(&D::Decimal128(20, 0))?, 0),
            from if from.is_integer() => CellArrays::Int(to(&D::Int64)?),
            D::Float16 | D::Float32 | D::Float64 => CellArrays::Float(to(&D::Float64)?),
            D::Timestamp(..) => CellArrays::Time(to(&D::Timestamp(TimeUnit::Microsecond, None))?),
            D::Date32 => CellArrays::Day(to(&from)?),
            D::Decimal128(_, scale) => CellArrays::Decimal(to(&from)?, i32::from(*scale)),
            _ => CellArrays::Text(TextCells::new(&self.name, column)?),
        };
        Ok(CellValues { of: self, cells })
    }
}

impl CellValues<'_> {
    /// Appends the bytes of a row's value; false for null.
    ///
    /// # Errors
    /// *Permanent*: the column does not keep it as it is.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<bool, Error> {
        let Some(cell) = self.cells.get(row) else {
            return Ok(false);
        };
        // JSON goes to the server as a text.
        let kind = self.of.kind.as_ref().unwrap_or(&CqlType::Text);
        match kind.encode(&cell, self.of.lossy, out) {
            Some(()) => Ok(true),
            None => Err(Error::new(Class::Permanent, "cassandra.range")
                .with("column", &self.of.name)
                .with("value", busbar_event::quote(&format_cell(&cell)))),
        }
    }
}

impl CellArrays {
    fn get(&self, row: usize) -> Option<CqlCell<'_>> {
        let column = match self {
            CellArrays::Bool(column) | CellArrays::Int(column) | CellArrays::Float(column) => {
                column
            }
            CellArrays::Time(column) | CellArrays::Day(column) | CellArrays::Decimal(column, _) => {
                column
            }
            CellArrays::Bytes(cells) => return Some(CqlCell::Bytes(cells.get(row)?)),
            CellArrays::Text(cells) => {
                return Some(CqlCell::Text(match cells.get(row)? {
                    Cow::Borrowed(text) => String::from_utf8_lossy(text),
                    Cow::Owned(text) => String::from_utf8_lossy(&text).into_owned().into(),
                }));
            }
        };
        if column.is_null(row) {
            return None;
        }
        Some(match self {
            CellArrays::Bool(column) => CqlCell::Bool(column.as_boolean().value(row)),
            CellArrays::Int(column) => {
                CqlCell::Int(column.as_primitive::<Int64Type>().value(row).into())
            }
            CellArrays::Float(column) => {
                CqlCell::Float(column.as_primitive::<Float64Type>().value(row))
            }
            CellArrays::Time(column) => {
                CqlCell::Time(column.as_primitive::<TimestampMicrosecondType>().value(row))
            }
            CellArrays::Day(column) => {
                CqlCell::Day(column.as_primitive::<Date32Type>().value(row).into())
            }
            CellArrays::Decimal(column, scale) => {
                let digits = column.as_primitive::<Decimal128Type>().value(row);
                match scale {
                    0 => CqlCell::Int(digits),
                    scale => CqlCell::Decimal(digits, *scale),
                }
            }
            CellArrays::Bytes(_) | CellArrays::Text(_) => return None,
        })
    }
}

/// A value for people.
fn format_cell(cell: &CqlCell<'_>) -> String {
    match cell {
        CqlCell::Bool(value) => value.to_string(),
        CqlCell::Int(value) => value.to_string(),
        CqlCell::Float(value) => value.to_string(),
        CqlCell::Text(text) => text.to_string(),
        CqlCell::Time(micros) => busbar_event::time::text(*micros),
        CqlCell::Day(days) => format!("day {days}"),
        CqlCell::Bytes(bytes) => format!("{} bytes", bytes.len()),
        CqlCell::Decimal(digits, scale) => format!("{digits}E{}", -i64::from(*scale)),
    }
}
