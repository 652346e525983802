//! Values of a flow as literals of SQL, and how types fit.

use std::fmt::Write as _;

use arrow::datatypes::{DataType, TimeUnit};
use busbar_event::{Class, Error};

use crate::change::keys::KeyTexts;
use crate::change::plan::{Fit, TargetColumn};
use crate::relational::literal::{LiteralCells, LiteralValue, fraction_digits};

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
    /// How its texts are told apart.
    pub texts: KeyTexts,
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

    fn texts(&self) -> KeyTexts {
        match self.kind.as_str() {
            // `70` is 1970.
            "year" | "time" | "inet4" | "inet6" => KeyTexts::Unknown,
            "decimal" | "float" | "double" => KeyTexts::Number,
            kind if is_whole(kind) => KeyTexts::Number,
            "date" | "datetime" | "timestamp" => KeyTexts::Time,
            "uuid" => KeyTexts::Uuid,
            _ => self.texts,
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
            "float" if *from != A::Float64 => Fit::Whole,
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

/// Appends the literal of a row's value.
///
/// # Errors
/// *Permanent*: the server would round or cut this value, or cannot hold it.
pub fn write(
    cells: &LiteralCells,
    row: usize,
    target: &Target,
    out: &mut String,
) -> Result<(), Error> {
    let value = cells.value(row).map_err(|why| {
        Error::new(Class::Permanent, "mysql.value-text")
            .with("column", &target.name)
            .caused_by(why)
    })?;
    match value {
        LiteralValue::Null => out.push_str("NULL"),
        LiteralValue::Bool(value) => out.push(if value { '1' } else { '0' }),
        LiteralValue::Whole(text) | LiteralValue::Decimal(text) => out.push_str(&text),
        LiteralValue::Float(value) => float(value, target, out)?,
        LiteralValue::Text(text) => {
            check_text(text, target)?;
            quote(text, out);
        }
        LiteralValue::Bytes(bytes) => {
            out.push_str("X'");
            for byte in bytes {
                // Writing to memory does not fail.
                let _ = write!(out, "{byte:02x}");
            }
            out.push('\'');
        }
        // Without the zone, which is the session's.
        LiteralValue::Time(text) | LiteralValue::Shown(text) => quote(&text, out),
        LiteralValue::Json(text) => quote(&text, out),
    }
    Ok(())
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
    let digits = || fraction_digits(text);
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
