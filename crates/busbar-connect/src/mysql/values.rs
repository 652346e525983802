//! Values of a flow as literals of SQL, and how types fit.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, Fields, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use busbar_event::format::encode_json;
use busbar_event::{Class, Error};

use crate::change::plan::{Fit, TargetColumn};
use crate::postgres::write_time;

/// A column of a table that is written to.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: String,
    /// The type without its measures: `decimal`.
    pub kind: String,
    /// As it is written in SQL: `decimal(10,2) unsigned`.
    pub shown: String,
    /// Digits behind the point, of numbers or of seconds.
    pub scale: Option<u32>,
    /// Whether what does not fit is rounded or cut.
    pub lossy: bool,
}

impl TargetColumn for Target {
    fn name(&self) -> &str {
        &self.name
    }

    fn shown(&self) -> &str {
        &self.shown
    }

    fn fit(&self, from: &DataType) -> Fit {
        fit(from, self)
    }

    fn taken(&self, name: &str, lossy: bool) -> Target {
        Target {
            name: name.to_owned(),
            lossy,
            ..self.clone()
        }
    }
}

fn is_text(kind: &str) -> bool {
    matches!(
        kind,
        "char"
            | "varchar"
            | "tinytext"
            | "text"
            | "mediumtext"
            | "longtext"
            | "enum"
            | "set"
            | "uuid"
            | "inet4"
            | "inet6"
    )
}

fn is_whole(kind: &str) -> bool {
    matches!(
        kind,
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year"
    )
}

fn is_bytes(kind: &str) -> bool {
    matches!(
        kind,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "bit"
    )
}

/// How values of an Arrow type fit a column.
pub fn fit(from: &DataType, to: &Target) -> Fit {
    use DataType as A;
    let kind = to.kind.as_str();
    let micros = to.scale.unwrap_or(0) >= 6;
    match from {
        A::Null => Fit::Whole,
        A::Dictionary(_, values) => fit(values, to),
        // Digits of a number and of seconds are checked for each value.
        A::Utf8 | A::LargeUtf8 | A::Utf8View => match kind {
            "float" | "double" => Fit::Lossy,
            _ if is_bytes(kind) => Fit::Never,
            _ => Fit::Whole,
        },
        A::Boolean if is_whole(kind) || is_text(kind) => Fit::Whole,
        from if from.is_integer() => match kind {
            "double" if !matches!(from, A::Int64 | A::UInt64) => Fit::Whole,
            "float" | "double" => Fit::Lossy,
            _ if is_whole(kind) || kind == "decimal" || is_text(kind) => Fit::Whole,
            _ => Fit::Never,
        },
        A::Float16 | A::Float32 | A::Float64 => match kind {
            "double" => Fit::Whole,
            "float" | "decimal" => Fit::Lossy,
            _ if is_text(kind) => Fit::Whole,
            _ if is_whole(kind) => Fit::Lossy,
            _ => Fit::Never,
        },
        A::Decimal128(_, scale) | A::Decimal256(_, scale) => match kind {
            "decimal" if i64::from(*scale) <= i64::from(to.scale.unwrap_or(0)) => Fit::Whole,
            "decimal" | "float" | "double" => Fit::Lossy,
            _ if is_text(kind) => Fit::Whole,
            _ => Fit::Never,
        },
        A::Timestamp(unit, _) => match kind {
            "datetime" | "timestamp" if micros && *unit != TimeUnit::Nanosecond => Fit::Whole,
            "datetime" | "timestamp" | "date" => Fit::Lossy,
            _ if is_text(kind) => Fit::Whole,
            _ => Fit::Never,
        },
        A::Date32 | A::Date64
            if matches!(kind, "date" | "datetime" | "timestamp") || is_text(kind) =>
        {
            Fit::Whole
        }
        A::Binary | A::LargeBinary | A::BinaryView | A::FixedSizeBinary(_) if is_bytes(kind) => {
            Fit::Whole
        }
        A::Struct(_) | A::List(_) | A::LargeList(_) | A::Map(..)
            if kind == "json" || is_text(kind) =>
        {
            Fit::Whole
        }
        _ => Fit::Never,
    }
}

/// The type of a column that is made for values of an Arrow type; one of the key cannot be a `longtext`.
pub fn made_for(from: &DataType, key: bool) -> String {
    use DataType as A;
    match from {
        A::Boolean => "boolean".into(),
        A::Int8 | A::Int16 | A::UInt8 => "smallint".into(),
        A::Int32 | A::UInt16 => "int".into(),
        A::Int64 | A::UInt32 => "bigint".into(),
        A::UInt64 => "bigint unsigned".into(),
        A::Float16 | A::Float32 | A::Float64 => "double".into(),
        A::Decimal128(precision, scale) | A::Decimal256(precision, scale) => {
            format!("decimal({precision},{scale})")
        }
        A::Timestamp(..) => "datetime(6)".into(),
        A::Date32 | A::Date64 => "date".into(),
        A::Binary | A::LargeBinary | A::BinaryView | A::FixedSizeBinary(_) if key => {
            "varbinary(255)".into()
        }
        A::Binary | A::LargeBinary | A::BinaryView | A::FixedSizeBinary(_) => "longblob".into(),
        A::Struct(_) | A::List(_) | A::LargeList(_) | A::Map(..) => "json".into(),
        A::Dictionary(_, values) => made_for(values, key),
        // Told apart by their bytes, as everywhere else.
        _ if key => "varchar(255) character set utf8mb4 collate utf8mb4_bin".into(),
        _ => "longtext character set utf8mb4".into(),
    }
}

/// One column of a batch, ready to be written.
pub struct MysqlCells {
    array: ArrayRef,
    json: bool,
}

impl MysqlCells {
    /// Prepares a column for its target.
    ///
    /// # Errors
    /// *Configuration*: a type without literals, which [`fit`] has refused before.
    pub fn new(column: &ArrayRef, target: &Target) -> Result<MysqlCells, Error> {
        let to = |to: DataType| {
            cast(column, &to).map_err(|why| {
                Error::new(Class::Configuration, "connect.type-never")
                    .with("column", &target.name)
                    .with("from", column.data_type())
                    .with("to", &target.shown)
                    .caused_by(why)
            })
        };
        let (array, json) = match column.data_type() {
            DataType::Dictionary(_, values) => {
                return MysqlCells::new(&to((**values).clone())?, target);
            }
            DataType::LargeUtf8 | DataType::Utf8View => (to(DataType::Utf8)?, false),
            DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                (to(DataType::Binary)?, false)
            }
            DataType::Timestamp(..) => {
                (to(DataType::Timestamp(TimeUnit::Microsecond, None))?, false)
            }
            DataType::Struct(_)
            | DataType::List(_)
            | DataType::LargeList(_)
            | DataType::Map(..) => {
                let field = Field::new("v", column.data_type().clone(), true);
                let object =
                    StructArray::new(Fields::from(vec![field]), vec![Arc::clone(column)], None);
                let json: ArrayRef = Arc::new(encode_json(&object));
                (json, true)
            }
            _ => (Arc::clone(column), false),
        };
        Ok(MysqlCells { array, json })
    }

    /// Whether a row has no value.
    pub fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    /// Appends the literal of a row's value.
    ///
    /// # Errors
    /// *Permanent*: the server would round or cut this value, or cannot hold it.
    pub fn write(&self, row: usize, target: &Target, out: &mut String) -> Result<(), Error> {
        if self.is_null(row) {
            out.push_str("NULL");
            return Ok(());
        }
        match self.array.data_type() {
            DataType::Boolean => out.push(if self.array.as_boolean().value(row) {
                '1'
            } else {
                '0'
            }),
            DataType::Utf8 => {
                let text = self.array.as_string::<i32>().value(row);
                check_text(text, target)?;
                quote(text, out);
            }
            DataType::Binary if self.json => {
                let object = self.array.as_binary::<i32>().value(row);
                // `{"v":…}`
                let value = object
                    .get(5..object.len().saturating_sub(1))
                    .unwrap_or(b"null");
                quote(&String::from_utf8_lossy(value), out);
            }
            DataType::Binary => {
                out.push_str("X'");
                for byte in self.array.as_binary::<i32>().value(row) {
                    // Writing to memory does not fail.
                    let _ = write!(out, "{byte:02x}");
                }
                out.push('\'');
            }
            DataType::Float32 => float(
                f64::from(self.array.as_primitive::<Float32Type>().value(row)),
                target,
                out,
            )?,
            DataType::Float64 => float(
                self.array.as_primitive::<Float64Type>().value(row),
                target,
                out,
            )?,
            DataType::Timestamp(..) => {
                let mut text = Vec::new();
                write_time(
                    self.array
                        .as_primitive::<TimestampMicrosecondType>()
                        .value(row),
                    &mut text,
                );
                // Without the zone, which is the session's.
                let text = String::from_utf8_lossy(&text);
                quote(text.split('+').next().unwrap_or_default(), out);
            }
            kind => {
                let options = FormatOptions::default();
                let text = ArrayFormatter::try_new(self.array.as_ref(), &options)
                    .and_then(|formatter| formatter.value(row).try_to_string());
                let text = text.map_err(|why| {
                    Error::new(Class::Permanent, "mysql.value-text")
                        .with("column", &target.name)
                        .caused_by(why)
                })?;
                match kind.is_integer()
                    || matches!(kind, DataType::Decimal128(..) | DataType::Decimal256(..))
                {
                    true => out.push_str(&text),
                    false => quote(&text, out),
                }
            }
        }
        Ok(())
    }
}

fn float(value: f64, target: &Target, out: &mut String) -> Result<(), Error> {
    if !value.is_finite() {
        return Err(Error::new(Class::Permanent, "mysql.not-finite")
            .with("column", &target.name)
            .with("value", value));
    }
    // With an exponent it is a floating-point number to the server, whatever its digits.
    let _ = write!(out, "{value:e}");
    Ok(())
}

/// What the server would cut off a text without a word: digits of a number or of seconds, a time behind a date.
fn check_text(text: &str, target: &Target) -> Result<(), Error> {
    if target.lossy {
        return Ok(());
    }
    let digits = || {
        text.trim().split_once('.').map_or(0, |(_, digits)| {
            digits
                .trim_end_matches(['0', 'Z'])
                .bytes()
                .take_while(u8::is_ascii_digit)
                .count()
        })
    };
    let loses = match target.kind.as_str() {
        "date" => text.contains(':'),
        "decimal" | "datetime" | "timestamp" | "time" => {
            digits() > target.scale.unwrap_or(0) as usize
        }
        kind if is_whole(kind) => digits() > 0,
        _ => false,
    };
    match loses {
        false => Ok(()),
        true => Err(Error::new(Class::Permanent, "mysql.value-lossy")
            .with("value", busbar_event::quote(text))
            .with("column", &target.name)
            .with("to", &target.shown)),
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('\'');
    for c in text.chars() {
        if c == '\'' {
            out.push('\'');
        }
        out.push(c);
    }
    out.push('\'');
}
