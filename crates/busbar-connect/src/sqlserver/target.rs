//! Values of a flow as literals of Transact-SQL, and how types fit.

use std::fmt::Write as _;

use arrow::datatypes::{DataType, TimeUnit};
use busbar_event::{Class, Error};
use encoding_rs::Encoding;

use super::wire::{bytes_literal, literal, plain};
use crate::change::keys::KeyTexts;
use crate::change::plan::{Fit, TargetColumn};
use crate::relational::literal::{LiteralCells, LiteralValue, fraction_digits};

/// A column of a table that is written to.
#[derive(Clone, Debug)]
pub struct MssqlTarget {
    pub name: String,
    /// The type without its measures: `decimal`.
    pub kind: String,
    /// As it is written in SQL: `decimal(10,2)`.
    pub shown: String,
    /// Digits behind the point, of numbers or of seconds.
    pub scale: Option<u32>,
    /// How texts are kept; none where they are kept in Unicode.
    pub encoding: Option<&'static Encoding>,
    /// Whether what does not fit is rounded or cut.
    pub lossy: bool,
}

impl TargetColumn for MssqlTarget {
    fn name(&self) -> &str {
        &self.name
    }

    fn shown(&self) -> &str {
        &self.shown
    }

    fn fit(&self, from: &DataType) -> Fit {
        fit(from, self)
    }

    fn taken(&self, name: &str, lossy: bool) -> MssqlTarget {
        MssqlTarget {
            name: name.to_owned(),
            lossy,
            ..self.clone()
        }
    }

    fn texts(&self) -> KeyTexts {
        match self.kind.as_str() {
            kind if is_text(kind) => KeyTexts::Collated,
            kind if is_bytes(kind) => KeyTexts::Exact,
            kind if is_whole(kind) || is_decimal(kind) => KeyTexts::Number,
            "float" | "real" => KeyTexts::Number,
            "date" | "datetime" | "datetime2" | "datetimeoffset" => KeyTexts::Time,
            "uniqueidentifier" => KeyTexts::Uuid,
            // `smalldatetime` leaves the seconds out.
            _ => KeyTexts::Unknown,
        }
    }
}

fn is_text(kind: &str) -> bool {
    matches!(
        kind,
        "char" | "varchar" | "text" | "nchar" | "nvarchar" | "ntext" | "xml" | "sysname"
    )
}

fn is_whole(kind: &str) -> bool {
    matches!(kind, "tinyint" | "smallint" | "int" | "bigint")
}

fn is_decimal(kind: &str) -> bool {
    matches!(kind, "decimal" | "numeric" | "money" | "smallmoney")
}

fn is_bytes(kind: &str) -> bool {
    matches!(kind, "binary" | "varbinary" | "image")
}

impl MssqlTarget {
    /// The type that a value is given where it has none of its own.
    fn cast(&self) -> &str {
        match self.kind.as_str() {
            // These are not converted to.
            "text" | "ntext" | "xml" | "char" | "varchar" | "nchar" | "nvarchar" | "sysname" => {
                "nvarchar(max)"
            }
            "image" | "binary" | "varbinary" => "varbinary(max)",
            _ => &self.shown,
        }
    }
}

/// A type as it is written in SQL: from its length, its digits, those behind the point, and those of seconds.
pub fn shown(kind: &str, [length, precision, scale, seconds]: [&str; 4]) -> String {
    match kind {
        "char" | "varchar" | "nchar" | "nvarchar" | "binary" | "varbinary" => match length {
            "-1" => format!("{kind}(max)"),
            "" => kind.to_owned(),
            _ => format!("{kind}({length})"),
        },
        "decimal" | "numeric" if !precision.is_empty() => format!("{kind}({precision},{scale})"),
        "datetime2" | "datetimeoffset" | "time" if !matches!(seconds, "" | "7") => {
            format!("{kind}({seconds})")
        }
        _ => kind.to_owned(),
    }
}

/// How values of an Arrow type fit a column.
pub fn fit(from: &DataType, to: &MssqlTarget) -> Fit {
    use DataType as A;
    let kind = to.kind.as_str();
    let micros = to.scale.unwrap_or(0) >= 6;
    match from {
        A::Null => Fit::Whole,
        A::Dictionary(_, values) => fit(values, to),
        // Digits of a number and of seconds, and characters, are checked for each value.
        A::Utf8 | A::LargeUtf8 | A::Utf8View => match kind {
            "float" | "real" => Fit::Lossy,
            _ if is_bytes(kind) => Fit::Never,
            _ => Fit::Whole,
        },
        A::Boolean if kind == "bit" || is_whole(kind) => Fit::Whole,
        from if from.is_integer() => match kind {
            "float" if !matches!(from, A::Int64 | A::UInt64) => Fit::Whole,
            "float" | "real" | "bit" => Fit::Lossy,
            _ if is_whole(kind) || is_decimal(kind) || is_text(kind) => Fit::Whole,
            _ => Fit::Never,
        },
        A::Float16 | A::Float32 | A::Float64 => match kind {
            "float" => Fit::Whole,
            "real" if !matches!(from, A::Float64) => Fit::Whole,
            _ if is_text(kind) => Fit::Whole,
            "real" => Fit::Lossy,
            _ if is_decimal(kind) || is_whole(kind) => Fit::Lossy,
            _ => Fit::Never,
        },
        A::Decimal128(_, scale) | A::Decimal256(_, scale) => match kind {
            _ if is_decimal(kind) && i64::from(*scale) <= i64::from(to.scale.unwrap_or(0)) => {
                Fit::Whole
            }
            _ if is_decimal(kind) || matches!(kind, "float" | "real") => Fit::Lossy,
            _ if is_text(kind) => Fit::Whole,
            _ => Fit::Never,
        },
        A::Timestamp(unit, _) => match kind {
            "datetime2" | "datetimeoffset" if micros && *unit != TimeUnit::Nanosecond => Fit::Whole,
            "datetime2" | "datetimeoffset" | "datetime" | "smalldatetime" | "date" => Fit::Lossy,
            _ if is_text(kind) => Fit::Whole,
            _ => Fit::Never,
        },
        A::Date32 | A::Date64 => match kind {
            "date" | "datetime2" | "datetimeoffset" => Fit::Whole,
            "datetime" | "smalldatetime" => Fit::Whole,
            _ if is_text(kind) => Fit::Whole,
            _ => Fit::Never,
        },
        A::Binary | A::LargeBinary | A::BinaryView | A::FixedSizeBinary(_) if is_bytes(kind) => {
            Fit::Whole
        }
        A::Struct(_) | A::List(_) | A::LargeList(_) | A::Map(..) if is_text(kind) => Fit::Whole,
        _ => Fit::Never,
    }
}

/// The type of a column that is made for values of an Arrow type; one of the key cannot be an `nvarchar(max)`.
pub fn made_for(from: &DataType, key: bool) -> String {
    use DataType as A;
    match from {
        A::Boolean => "bit".into(),
        A::Int8 | A::Int16 | A::UInt8 => "smallint".into(),
        A::Int32 | A::UInt16 => "int".into(),
        A::Int64 | A::UInt32 => "bigint".into(),
        A::UInt64 => "decimal(20,0)".into(),
        A::Float16 | A::Float32 | A::Float64 => "float".into(),
        A::Decimal128(precision, scale) | A::Decimal256(precision, scale) => {
            format!("decimal({},{scale})", (*precision).min(38))
        }
        A::Timestamp(..) => "datetime2".into(),
        A::Date32 | A::Date64 => "date".into(),
        A::Binary | A::LargeBinary | A::BinaryView | A::FixedSizeBinary(_) if key => {
            "varbinary(255) NOT NULL".into()
        }
        A::Binary | A::LargeBinary | A::BinaryView | A::FixedSizeBinary(_) => {
            "varbinary(max)".into()
        }
        A::Dictionary(_, values) => made_for(values, key),
        // Told apart by their characters, as everywhere else.
        _ if key => "nvarchar(255) COLLATE Latin1_General_BIN2 NOT NULL".into(),
        _ => "nvarchar(max)".into(),
    }
}

/// The encoding of the texts of a column, by the name that the catalogue has for it.
pub fn encoding(kind: &str, charset: &str) -> Option<&'static Encoding> {
    if !matches!(kind, "char" | "varchar" | "text") {
        return None;
    }
    match charset.to_ascii_lowercase().as_str() {
        "" | "utf8" | "utf-8" | "unicode" => None,
        "iso_1" | "cp1252" => Some(encoding_rs::WINDOWS_1252),
        "cp936" => Some(encoding_rs::GBK),
        "cp950" => Some(encoding_rs::BIG5),
        "cp932" => Some(encoding_rs::SHIFT_JIS),
        "cp949" => Some(encoding_rs::EUC_KR),
        "cp874" => Some(encoding_rs::WINDOWS_874),
        other => Encoding::for_label(other.replace("cp", "windows-").as_bytes()),
    }
}

/// Appends the literal of a row's value.
///
/// # Errors
/// *Permanent*: the server would round or cut this value, or cannot hold it.
pub fn write(
    cells: &LiteralCells,
    row: usize,
    target: &MssqlTarget,
    out: &mut String,
) -> Result<(), Error> {
    let value = cells.value(row).map_err(|why| {
        Error::new(Class::Permanent, "sqlserver.value-text")
            .with("column", &target.name)
            .caused_by(why)
    })?;
    match value {
        // Without its type it would be a whole number, which is not converted to each type.
        LiteralValue::Null => {
            let _ = write!(out, "CAST(NULL AS {})", target.cast());
        }
        LiteralValue::Bool(value) => out.push(if value { '1' } else { '0' }),
        LiteralValue::Whole(text) => out.push_str(&text),
        // As texts: decimal numbers of several rows would become numbers of fewer digits.
        LiteralValue::Decimal(text) | LiteralValue::Shown(text) => out.push_str(&literal(&text)),
        LiteralValue::Float(value) => float(value, target, out)?,
        LiteralValue::Text(text) => {
            check_text(text, target)?;
            // A text of single bytes is compared with its like, so that an index is used.
            out.push_str(&match target.encoding.is_some() && text.is_ascii() {
                true => plain(text),
                false => literal(text),
            });
        }
        LiteralValue::Json(text) => {
            check_text(&text, target)?;
            out.push_str(&literal(&text));
        }
        LiteralValue::Bytes(bytes) => out.push_str(&bytes_literal(bytes)),
        LiteralValue::Time(text) => {
            let text = text.replacen(' ', "T", 1);
            let zone = match target.kind.as_str() {
                "datetimeoffset" => "+00:00",
                _ => "",
            };
            let _ = write!(out, "N'{}{zone}'", rounded(&text, target));
        }
    }
    Ok(())
}

fn float(value: f64, target: &MssqlTarget, out: &mut String) -> Result<(), Error> {
    if !value.is_finite() {
        return Err(Error::new(Class::Permanent, "sqlserver.not-finite")
            .with("column", &target.name)
            .with("value", value));
    }
    // With an exponent it is a floating-point number to the server, whatever its digits.
    let _ = write!(out, "{value:e}");
    Ok(())
}

/// What the server would cut off a text without a word: digits of a number or of seconds, a time behind a date.
fn check_text(text: &str, target: &MssqlTarget) -> Result<(), Error> {
    if target.lossy {
        return Ok(());
    }
    let digits = || fraction_digits(text);
    let loses = match target.kind.as_str() {
        "date" => text.contains(':'),
        // Kept in steps of 1/300 s.
        "datetime" => {
            let last = text.trim().trim_end_matches('Z').chars().last();
            digits() > 3 || digits() == 3 && !matches!(last, Some('0' | '3' | '7'))
        }
        "smalldatetime" => digits() > 0,
        "decimal" | "numeric" | "money" | "smallmoney" | "datetime2" | "datetimeoffset"
        | "time" => digits() > target.scale.unwrap_or(0) as usize,
        "uniqueidentifier" => text.trim().len() > 38,
        kind if is_whole(kind) => digits() > 0,
        _ => match target.encoding {
            // The server would write question marks.
            Some(encoding) if !text.is_ascii() => encoding.encode(text).2,
            _ => false,
        },
    };
    match loses {
        false => Ok(()),
        true => Err(Error::new(Class::Permanent, "sqlserver.value-lossy")
            .with("value", busbar_event::quote(text))
            .with("column", &target.name)
            .with("to", &target.shown)),
    }
}

/// A time with no more digits than the server reads into this column.
fn rounded(text: &str, target: &MssqlTarget) -> String {
    match (target.kind.as_str(), text.split_once('.')) {
        ("datetime" | "smalldatetime", Some((whole, digits))) => {
            format!("{whole}.{}", &digits[..digits.len().min(3)])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_would_change_is_refused() {
        let target = |kind: &str, scale, charset: &str| MssqlTarget {
            name: "c".into(),
            kind: kind.into(),
            shown: kind.into(),
            scale,
            encoding: encoding(kind, charset),
            lossy: false,
        };
        for (kind, scale, charset, text, taken) in [
            ("varchar", None, "cp936", "雨", true),
            ("varchar", None, "cp936", "雨😀", false),
            ("varchar", None, "iso_1", "雨", false),
            ("varchar", None, "cp1251", "дождь", true),
            ("varchar", None, "UTF8", "雨😀", true),
            ("nvarchar", None, "UNICODE", "雨😀", true),
            ("decimal", Some(2), "", "1.50", true),
            ("decimal", Some(2), "", "1.505", false),
            ("int", Some(0), "", "1.5", false),
            ("datetime", Some(3), "", "2024-02-29T12:00:00.007", true),
            ("datetime", Some(3), "", "2024-02-29T12:00:00.005", false),
            ("date", None, "", "2024-02-29", true),
            ("date", None, "", "2024-02-29T12:00:00", false),
        ] {
            let target = target(kind, scale, charset);
            assert_eq!(
                check_text(text, &target).is_ok(),
                taken,
                "{kind} {charset} {text}"
            );
            assert!(
                check_text(
                    text,
                    &MssqlTarget {
                        lossy: true,
                        ..target
                    }
                )
                .is_ok()
            );
        }
    }
}
