//! Which values fit which columns.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use busbar_event::{Class, Error};
use serde::Deserialize;

use crate::cells::TextCells;

/// A column of the table.
#[derive(Clone, Debug, Deserialize)]
pub struct TableColumn {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
}

/// What a column keeps.
#[derive(Clone, Debug, PartialEq)]
enum ColumnKeeps {
    /// Whole numbers from the first to the second.
    Int(i128, i128),
    /// Numbers of 32 or 64 bits.
    Float(u8),
    /// Digits in all, and behind the point.
    Decimal(u32, u32),
    Bool,
    /// Any bytes.
    Bytes,
    /// Texts of a form that the server checks.
    Form,
    /// Times: digits of a second, and microseconds of the first and the last.
    Time(u32, i64, i64),
    /// Days since 1970: the first and the last.
    Day(i32, i32),
    Other,
}

/// A column of a flow that is written to a column of the table.
pub struct ColumnWriter {
    /// The place in the flow's rows.
    at: usize,
    name: String,
    keeps: ColumnKeeps,
    nullable: bool,
}

const SECOND: i64 = 1_000_000;

impl TableColumn {
    /// The name of the type, without what wraps it, and the numbers in its parentheses.
    pub fn bare(&self) -> (&str, Vec<i32>) {
        let mut kind = self.kind.as_str();
        for wrapper in ["LowCardinality(", "Nullable("] {
            if let Some(inner) = kind.strip_prefix(wrapper) {
                kind = inner.strip_suffix(')').unwrap_or(inner);
            }
        }
        let (name, arguments) = kind.split_once('(').unwrap_or((kind, ""));
        let arguments = arguments.trim_end_matches(')').split(',');
        let numbers = arguments.map_while(|text| text.trim().parse().ok());
        (name, numbers.collect())
    }

    fn keeps(&self) -> (ColumnKeeps, bool) {
        let nullable = ["Nullable(", "LowCardinality(Nullable("];
        let nullable = nullable.iter().any(|begin| self.kind.starts_with(begin));
        let (name, arguments) = self.bare();
        let argument = |at: usize| {
            arguments
                .get(at)
                .and_then(|number| u32::try_from(*number).ok())
        };
        let keeps = match name {
            "Int8" => ColumnKeeps::Int(i8::MIN.into(), i8::MAX.into()),
            "Int16" => ColumnKeeps::Int(i16::MIN.into(), i16::MAX.into()),
            "Int32" => ColumnKeeps::Int(i32::MIN.into(), i32::MAX.into()),
            "Int64" => ColumnKeeps::Int(i64::MIN.into(), i64::MAX.into()),
            "Int128" | "Int256" => ColumnKeeps::Int(i128::MIN, i128::MAX),
            "UInt8" => ColumnKeeps::Int(0, u8::MAX.into()),
            "UInt16" => ColumnKeeps::Int(0, u16::MAX.into()),
            "UInt32" => ColumnKeeps::Int(0, u32::MAX.into()),
            "UInt64" => ColumnKeeps::Int(0, u64::MAX.into()),
            "UInt128" | "UInt256" => ColumnKeeps::Int(0, i128::MAX),
            "Float32" => ColumnKeeps::Float(32),
            "Float64" => ColumnKeeps::Float(64),
            "Bool" => ColumnKeeps::Bool,
            "String" => ColumnKeeps::Bytes,
            "UUID" | "IPv4" | "IPv6" | "Enum8" | "Enum16" => ColumnKeeps::Form,
            "Decimal" => ColumnKeeps::Decimal(argument(0).unwrap_or(10), argument(1).unwrap_or(0)),
            "DateTime" => ColumnKeeps::Time(0, 0, i64::from(u32::MAX) * SECOND),
            // 1900 to 2261, which is the least of what its precisions reach to.
            "DateTime64" => ColumnKeeps::Time(
                argument(0).unwrap_or(3),
                -2_208_988_800 * SECOND,
                9_183_110_400 * SECOND,
            ),
            "Date" => ColumnKeeps::Day(0, u16::MAX.into()),
            "Date32" => ColumnKeeps::Day(-25_567, 120_529),
            _ => ColumnKeeps::Other,
        };
        (keeps, nullable)
    }
}

impl ColumnWriter {
    /// # Errors
    /// *Configuration*: values of this type would not all be kept as they are.
    pub fn new(
        at: usize,
        from: &DataType,
        column: &TableColumn,
        table: &str,
    ) -> Result<ColumnWriter, Error> {
        let (keeps, nullable) = column.keeps();
        let from = match from {
            DataType::Dictionary(_, values) => values,
            other => other,
        };
        let fits = match (from, &keeps) {
            (_, ColumnKeeps::Other) => false,
            (_, ColumnKeeps::Bytes) | (DataType::Null, _) => true,
            (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, ColumnKeeps::Form) => true,
            (DataType::Boolean, ColumnKeeps::Bool) => true,
            (DataType::Float32, ColumnKeeps::Float(_))
            | (DataType::Float64, ColumnKeeps::Float(64)) => true,
            (from, ColumnKeeps::Int(..)) => from.is_integer(),
            (DataType::Decimal128(digits, scale), ColumnKeeps::Decimal(most, behind)) => {
                let (digits, scale) = (i64::from(*digits), i64::from(*scale));
                scale <= i64::from(*behind)
                    && digits - scale <= i64::from(*most) - i64::from(*behind)
            }
            (DataType::Timestamp(..), ColumnKeeps::Time(..)) => true,
            (DataType::Date32, ColumnKeeps::Day(..)) => true,
            _ => false,
        };
        if !fits {
            return Err(Error::new(Class::Configuration, "clickhouse.type")
                .with("column", &column.name)
                .with("table", table)
                .with("from", from)
                .with("to", &column.kind));
        }
        Ok(ColumnWriter {
            at,
            name: column.name.clone(),
            keeps,
            nullable,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The place in the flow's rows.
    pub fn place(&self) -> usize {
        self.at
    }

    /// Prepares a column of rows.
    ///
    /// # Errors
    /// *Configuration*.
    pub fn values(&self, column: &ArrayRef) -> Result<ColumnValues<'_>, Error> {
        let numbers = match (&self.keeps, column.data_type()) {
            (ColumnKeeps::Int(..), DataType::Int64) => None,
            (ColumnKeeps::Int(..), _) => Some(cast(column, &DataType::Decimal128(38, 0))),
            (ColumnKeeps::Time(..), _) => {
                let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
                Some(cast(column, &micros))
            }
            (ColumnKeeps::Day(..), _) => Some(cast(column, &DataType::Int64)),
            _ => None,
        };
        let numbers = numbers.transpose().map_err(|why| {
            Error::new(Class::Configuration, "connect.column-type")
                .with("column", &self.name)
                .with("from", column.data_type())
                .caused_by(why)
        })?;
        Ok(ColumnValues {
            of: self,
            cells: TextCells::new(&self.name, column)?,
            numbers: numbers.unwrap_or_else(|| column.clone()),
        })
    }
}

/// The values of a column.
pub struct ColumnValues<'a> {
    of: &'a ColumnWriter,
    cells: TextCells,
    /// The same as numbers, where their range matters.
    numbers: ArrayRef,
}

impl ColumnValues<'_> {
    /// Writes a row's value as a field of TabSeparated.
    ///
    /// # Errors
    /// *Permanent*: the column does not keep it as it is.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        let refuse = |code, value: &[u8]| {
            let value = String::from_utf8_lossy(value).into_owned();
            Error::new(Class::Permanent, code)
                .with("column", &self.of.name)
                .with("value", value)
        };
        let Some(value) = self.cells.get(row) else {
            if !self.of.nullable {
                return Err(refuse("clickhouse.null", b""));
            }
            out.extend_from_slice(b"\\N");
            return Ok(());
        };
        let kept = match self.of.keeps {
            ColumnKeeps::Int(least, most) => {
                let number = match self.numbers.data_type() {
                    DataType::Int64 => {
                        i128::from(self.numbers.as_primitive::<Int64Type>().value(row))
                    }
                    _ => self.numbers.as_primitive::<Decimal128Type>().value(row),
                };
                (least..=most).contains(&number)
            }
            ColumnKeeps::Time(digits, first, last) => {
                let micros = self
                    .numbers
                    .as_primitive::<TimestampMicrosecondType>()
                    .value(row);
                let step = 10_i64.pow(6_u32.saturating_sub(digits));
                (first..=last).contains(&micros) && micros % step == 0
            }
            ColumnKeeps::Day(first, last) => {
                let day = self.numbers.as_primitive::<Int64Type>().value(row);
                (i64::from(first)..=i64::from(last)).contains(&day)
            }
            _ => true,
        };
        if !kept || self.numbers.is_null(row) {
            return Err(refuse("clickhouse.range", &value));
        }
        for byte in value.iter() {
            match byte {
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\t' => out.extend_from_slice(b"\\t"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                0 => out.extend_from_slice(b"\\0"),
                byte => out.push(*byte),
            }
        }
        Ok(())
    }
}
