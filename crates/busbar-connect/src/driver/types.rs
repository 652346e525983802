//! How values of a flow fit the columns of a table.

use arrow::datatypes::{DataType, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::change::keys::KeyTexts;
use crate::change::plan::{Fit, TargetColumn};

/// Numbers of `java.sql.Types`, as the worker uses them: several types of a database are handled as one.
pub mod sql {
    pub const TINYINT: i32 = -6;
    pub const BIGINT: i32 = -5;
    pub const VARBINARY: i32 = -3;
    pub const CHAR: i32 = 1;
    pub const NUMERIC: i32 = 2;
    pub const INTEGER: i32 = 4;
    pub const SMALLINT: i32 = 5;
    pub const REAL: i32 = 7;
    pub const DOUBLE: i32 = 8;
    pub const VARCHAR: i32 = 12;
    pub const BOOLEAN: i32 = 16;
    pub const DATE: i32 = 91;
    pub const TIME: i32 = 92;
    pub const TIMESTAMP: i32 = 93;
    pub const OTHER: i32 = 1111;
    pub const BLOB: i32 = 2004;
    pub const CLOB: i32 = 2005;
    pub const TIMESTAMP_WITH_TIMEZONE: i32 = 2014;
}

/// A table, as the database describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct DriverTable {
    pub schema: String,
    #[serde(default)]
    pub table: String,
    /// `None`: there is no such table.
    pub columns: Option<Vec<DriverTarget>>,
    /// The primary key first, where there is one, then the columns of each unique index.
    #[serde(default)]
    pub keys: Vec<Vec<String>>,
}

/// A column of a table.
#[derive(Clone, Debug, Deserialize)]
pub struct DriverTarget {
    /// Its name in the flow.
    #[serde(skip)]
    flow_name: Option<String>,
    /// Its name.
    pub name: String,
    #[serde(rename = "type")]
    pub kind: i32,
    /// The driver's own number for its type.
    pub raw: i32,
    /// Its type as it is written in SQL.
    pub shown: String,
    /// Digits of a number, or characters of a text.
    #[serde(default)]
    pub size: i32,
    /// Digits behind the point, of numbers or of seconds.
    pub digits: Option<i32>,
    /// The database makes its values.
    #[serde(default)]
    pub given: bool,
    #[serde(skip)]
    pub lossy: bool,
}

/// A column, as the worker is told how its values are written.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DriverSlot {
    #[serde(rename = "type")]
    pub kind: i32,
    pub raw: i32,
    pub digits: Option<i32>,
    pub lossy: bool,
}

impl DriverTarget {
    pub fn slot(&self) -> DriverSlot {
        DriverSlot {
            kind: self.kind,
            raw: self.raw,
            digits: self.digits,
            lossy: self.lossy,
        }
    }
}

impl TargetColumn for DriverTarget {
    fn name(&self) -> &str {
        self.flow_name.as_deref().unwrap_or(&self.name)
    }

    fn shown(&self) -> &str {
        &self.shown
    }

    fn fit(&self, from: &DataType) -> Fit {
        fit(from, self)
    }

    fn taken(&self, name: &str, lossy: bool) -> DriverTarget {
        DriverTarget {
            flow_name: Some(name.to_owned()),
            lossy,
            ..self.clone()
        }
    }

    // What the database is decides whether there is more to it.
    fn texts(&self) -> KeyTexts {
        match self.kind {
            _ if self.shown.eq_ignore_ascii_case("uuid") => KeyTexts::Uuid,
            sql::CHAR | sql::VARCHAR | sql::CLOB | sql::OTHER => KeyTexts::Padded,
            sql::VARBINARY | sql::BLOB => KeyTexts::Exact,
            sql::TINYINT | sql::SMALLINT | sql::INTEGER | sql::BIGINT => KeyTexts::Number,
            sql::NUMERIC | sql::REAL | sql::DOUBLE => KeyTexts::Number,
            sql::DATE | sql::TIMESTAMP | sql::TIMESTAMP_WITH_TIMEZONE => KeyTexts::Time,
            _ => KeyTexts::Unknown,
        }
    }
}

fn fit(from: &DataType, to: &DriverTarget) -> Fit {
    use DataType as A;
    let kind = to.kind;
    let text = matches!(kind, sql::CHAR | sql::VARCHAR | sql::CLOB);
    let whole = matches!(
        kind,
        sql::TINYINT | sql::SMALLINT | sql::INTEGER | sql::BIGINT
    );
    let bytes = matches!(kind, sql::VARBINARY | sql::BLOB);
    let time = matches!(kind, sql::TIMESTAMP | sql::TIMESTAMP_WITH_TIMEZONE);
    let micros = to.digits.is_none_or(|digits| digits >= 6);
    match from {
        A::Null => Fit::Whole,
        A::Dictionary(_, values) => fit(values, to),
        // Digits of a number and of seconds are checked for each value.
        A::Utf8 | A::LargeUtf8 | A::Utf8View => match kind {
            sql::REAL | sql::DOUBLE => Fit::Lossy,
            _ if bytes => Fit::Never,
            _ => Fit::Whole,
        },
        A::Boolean if whole || text || matches!(kind, sql::BOOLEAN | sql::NUMERIC) => Fit::Whole,
        from if from.is_integer() => match kind {
            sql::DOUBLE if !matches!(from, A::Int64 | A::UInt64) => Fit::Whole,
            sql::REAL | sql::DOUBLE => Fit::Lossy,
            _ if whole || text || kind == sql::NUMERIC => Fit::Whole,
            _ => Fit::Never,
        },
        A::Float16 | A::Float32 | A::Float64 => match kind {
            sql::DOUBLE => Fit::Whole,
            sql::REAL if *from != A::Float64 => Fit::Whole,
            sql::REAL | sql::NUMERIC => Fit::Lossy,
            _ if text => Fit::Whole,
            _ if whole => Fit::Lossy,
            _ => Fit::Never,
        },
        A::Decimal128(_, scale) | A::Decimal256(_, scale) => match kind {
            sql::NUMERIC if to.digits.is_none_or(|digits| i32::from(*scale) <= digits) => {
                Fit::Whole
            }
            sql::NUMERIC | sql::REAL | sql::DOUBLE => Fit::Lossy,
            _ if text => Fit::Whole,
            _ => Fit::Never,
        },
        A::Timestamp(unit, _) => match kind {
            _ if time && micros && *unit != TimeUnit::Nanosecond => Fit::Whole,
            sql::DATE => Fit::Lossy,
            _ if time => Fit::Lossy,
            _ if text => Fit::Whole,
            _ => Fit::Never,
        },
        A::Date32 | A::Date64 if time || text || kind == sql::DATE => Fit::Whole,
        A::Time32(_) | A::Time64(_) if kind == sql::TIME && micros => Fit::Whole,
        A::Time32(_) | A::Time64(_) if kind == sql::TIME => Fit::Lossy,
        A::Time32(_) | A::Time64(_) if text => Fit::Whole,
        A::Binary | A::LargeBinary | A::BinaryView | A::FixedSizeBinary(_) if bytes => Fit::Whole,
        A::Struct(_) | A::List(_) | A::LargeList(_) | A::Map(..) if text || kind == sql::OTHER => {
            Fit::Whole
        }
        _ => Fit::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_lose_something_is_told_apart() {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        for (from, kind, digits, expected) in [
            (DataType::Int64, sql::INTEGER, None, Fit::Whole),
            (DataType::Int64, sql::DOUBLE, None, Fit::Lossy),
            (DataType::Int32, sql::DOUBLE, None, Fit::Whole),
            (DataType::Int64, sql::BOOLEAN, None, Fit::Never),
            (DataType::Boolean, sql::NUMERIC, Some(0), Fit::Whole),
            (DataType::Float64, sql::REAL, None, Fit::Lossy),
            (DataType::Float64, sql::NUMERIC, Some(2), Fit::Lossy),
            (
                DataType::Decimal128(10, 2),
                sql::NUMERIC,
                Some(2),
                Fit::Whole,
            ),
            (
                DataType::Decimal128(10, 3),
                sql::NUMERIC,
                Some(2),
                Fit::Lossy,
            ),
            (DataType::Decimal128(10, 3), sql::NUMERIC, None, Fit::Whole),
            (micros.clone(), sql::TIMESTAMP, Some(6), Fit::Whole),
            (micros.clone(), sql::TIMESTAMP, Some(3), Fit::Lossy),
            (micros.clone(), sql::DATE, None, Fit::Lossy),
            (micros, sql::TIME, None, Fit::Never),
            (DataType::Utf8, sql::OTHER, None, Fit::Whole),
            (DataType::Utf8, sql::DOUBLE, None, Fit::Lossy),
            (DataType::Binary, sql::BLOB, None, Fit::Whole),
            (DataType::Binary, sql::CLOB, None, Fit::Never),
        ] {
            let target = DriverTarget {
                flow_name: None,
                name: "c".into(),
                kind,
                raw: kind,
                shown: "-".into(),
                size: 0,
                digits,
                given: false,
                lossy: false,
            };
            assert_eq!(fit(&from, &target), expected, "{from} {kind} {digits:?}");
        }
    }
}
