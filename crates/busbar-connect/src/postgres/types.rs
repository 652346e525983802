//! How types fit: columns of a flow in columns of a table, values of the server in JSON.

use arrow::datatypes::{DataType, TimeUnit};

use crate::change::plan::Fit;

/// Numbers of types in the server's catalogue.
pub mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const JSON: u32 = 114;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
    pub const JSONB: u32 = 3802;
}

/// How values of an Arrow type fit a column of this type, whose modifier is -1 without one.
pub fn fit(from: &DataType, to: u32, modifier: i32) -> Fit {
    use DataType as A;
    // Only text takes all there is.
    let text = matches!(to, oid::TEXT | oid::VARCHAR | oid::BPCHAR);
    let micros = !matches!(modifier, 0..=5);
    match from {
        A::Null => Fit::Whole,
        A::Dictionary(_, values) => fit(values, to, modifier),
        A::Utf8 | A::LargeUtf8 | A::Utf8View => match to {
            // The server rounds what has more digits.
            oid::TIMESTAMP | oid::TIMESTAMPTZ | oid::TIME if !micros => Fit::Lossy,
            oid::FLOAT4 | oid::FLOAT8 => Fit::Lossy,
            _ => Fit::Whole,
        },
        A::Boolean if to == oid::BOOL || text => Fit::Whole,
        A::Int8 | A::Int16 | A::Int32 | A::Int64 | A::UInt8 | A::UInt16 | A::UInt32 | A::UInt64 => {
            match to {
                oid::INT2 | oid::INT4 | oid::INT8 | oid::NUMERIC => Fit::Whole,
                oid::FLOAT8 if !matches!(from, A::Int64 | A::UInt64) => Fit::Whole,
                oid::FLOAT4 | oid::FLOAT8 => Fit::Lossy,
                _ if text => Fit::Whole,
                _ => Fit::Never,
            }
        }
        A::Float16 | A::Float32 | A::Float64 => match to {
            oid::FLOAT8 => Fit::Whole,
            oid::FLOAT4 if *from != A::Float64 => Fit::Whole,
            oid::NUMERIC if modifier < 0 => Fit::Whole,
            oid::FLOAT4 | oid::NUMERIC | oid::INT2 | oid::INT4 | oid::INT8 => Fit::Lossy,
            _ if text => Fit::Whole,
            _ => Fit::Never,
        },
        A::Decimal128(_, scale) | A::Decimal256(_, scale) => match to {
            oid::NUMERIC if modifier < 0 || i32::from(*scale) <= numeric_scale(modifier) => {
                Fit::Whole
            }
            oid::NUMERIC | oid::FLOAT4 | oid::FLOAT8 => Fit::Lossy,
            _ if text => Fit::Whole,
            _ => Fit::Never,
        },
        A::Timestamp(unit, _) => match to {
            oid::TIMESTAMP | oid::TIMESTAMPTZ if micros && *unit != TimeUnit::Nanosecond => {
                Fit::Whole
            }
            oid::TIMESTAMP | oid::TIMESTAMPTZ | oid::DATE => Fit::Lossy,
            _ if text => Fit::Whole,
            _ => Fit::Never,
        },
        A::Date32 | A::Date64 => match to {
            oid::DATE | oid::TIMESTAMP | oid::TIMESTAMPTZ => Fit::Whole,
            _ if text => Fit::Whole,
            _ => Fit::Never,
        },
        A::Binary | A::LargeBinary | A::BinaryView | A::FixedSizeBinary(_) if to == oid::BYTEA => {
            Fit::Whole
        }
        A::Struct(_) | A::List(_) | A::LargeList(_) | A::Map(..)
            if matches!(to, oid::JSON | oid::JSONB) || text =>
        {
            Fit::Whole
        }
        _ => Fit::Never,
    }
}

/// Digits behind the point of `numeric(p, s)`.
pub fn numeric_scale(modifier: i32) -> i32 {
    // Eleven bits with a sign, since servers of version 15 take negative scales.
    let scale = (modifier - 4) & 0x7ff;
    (scale ^ 1024) - 1024
}

/// The type of a column that is made for values of an Arrow type.
pub fn made_for(from: &DataType) -> String {
    use DataType as A;
    match from {
        A::Boolean => "boolean".into(),
        A::Int8 | A::Int16 | A::UInt8 => "smallint".into(),
        A::Int32 | A::UInt16 => "integer".into(),
        A::Int64 | A::UInt32 => "bigint".into(),
        A::UInt64 => "numeric(20)".into(),
        A::Float16 | A::Float32 => "real".into(),
        A::Float64 => "double precision".into(),
        A::Decimal128(precision, scale) | A::Decimal256(precision, scale) => {
            format!("numeric({precision},{scale})")
        }
        A::Timestamp(..) => "timestamp with time zone".into(),
        A::Date32 | A::Date64 => "date".into(),
        A::Binary | A::LargeBinary | A::BinaryView | A::FixedSizeBinary(_) => "bytea".into(),
        A::Struct(_) | A::List(_) | A::LargeList(_) | A::Map(..) => "jsonb".into(),
        A::Dictionary(_, values) => made_for(values),
        _ => "text".into(),
    }
}

/// Appends a value, which the server has written as text, as JSON. Numbers that 64 bits hold are numbers; what JSON
/// cannot hold without loss is a text as the server writes it.
pub fn write_json(value: &[u8], of: u32, out: &mut Vec<u8>) {
    match of {
        oid::BOOL => out.extend_from_slice(if value == b"t" { b"true" } else { b"false" }),
        oid::INT2 | oid::INT4 | oid::INT8 => out.extend_from_slice(value),
        // Not NaN and Infinity.
        oid::FLOAT4 | oid::FLOAT8 if value.last().is_some_and(u8::is_ascii_digit) => {
            out.extend_from_slice(value)
        }
        oid::JSON | oid::JSONB => out.extend_from_slice(value),
        // `2024-05-06 07:08:09.5+00`, in the session's zone; other eras and infinity stay as they are.
        oid::TIMESTAMPTZ if value.ends_with(b"+00") => {
            out.push(b'"');
            let at = out.len();
            out.extend_from_slice(&value[..value.len() - 3]);
            if let Some(space) = memchr::memchr(b' ', &out[at..]) {
                out[at + space] = b'T';
            }
            out.extend_from_slice(b"Z\"");
        }
        oid::TIMESTAMP if value.last().is_some_and(u8::is_ascii_digit) => {
            out.push(b'"');
            let at = out.len();
            out.extend_from_slice(value);
            if let Some(space) = memchr::memchr(b' ', &out[at..]) {
                out[at + space] = b'T';
            }
            out.push(b'"');
        }
        _ => write_text(&String::from_utf8_lossy(value), out),
    }
}

/// Appends a text as JSON.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    // A text has no failure as JSON.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_lose_something_is_told_apart() {
        let numeric = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
        assert_eq!(
            (numeric_scale(numeric(10, 2)), numeric_scale(numeric(5, -3))),
            (2, -3)
        );
        for (from, to, modifier, expected) in [
            (DataType::Int64, oid::INT4, -1, Fit::Whole),
            (DataType::Int64, oid::FLOAT8, -1, Fit::Lossy),
            (DataType::Int32, oid::FLOAT8, -1, Fit::Whole),
            (DataType::Int64, oid::BOOL, -1, Fit::Never),
            (DataType::Float64, oid::FLOAT4, -1, Fit::Lossy),
            (DataType::Float64, oid::NUMERIC, -1, Fit::Whole),
            (DataType::Float64, oid::NUMERIC, numeric(10, 2), Fit::Lossy),
            (DataType::Float64, oid::INT8, -1, Fit::Lossy),
            (
                DataType::Decimal128(10, 2),
                oid::NUMERIC,
                numeric(10, 2),
                Fit::Whole,
            ),
            (
                DataType::Decimal128(10, 3),
                oid::NUMERIC,
                numeric(10, 2),
                Fit::Lossy,
            ),
            (
                DataType::Timestamp(TimeUnit::Microsecond, None),
                oid::TIMESTAMPTZ,
                -1,
                Fit::Whole,
            ),
            (
                DataType::Timestamp(TimeUnit::Microsecond, None),
                oid::TIMESTAMPTZ,
                3,
                Fit::Lossy,
            ),
            (
                DataType::Timestamp(TimeUnit::Microsecond, None),
                oid::DATE,
                -1,
                Fit::Lossy,
            ),
            (DataType::Utf8, oid::UUID, -1, Fit::Whole),
            (DataType::Binary, oid::TEXT, -1, Fit::Never),
        ] {
            assert_eq!(fit(&from, to, modifier), expected, "{from} {to} {modifier}");
        }
    }

    #[test]
    fn values_are_json_without_loss() {
        for (value, of, expected) in [
            ("t", oid::BOOL, "true"),
            ("-9223372036854775808", oid::INT8, "-9223372036854775808"),
            ("1.5e+300", oid::FLOAT8, "1.5e+300"),
            ("NaN", oid::FLOAT8, "\"NaN\""),
            ("-Infinity", oid::FLOAT4, "\"-Infinity\""),
            (
                "12.340000000000000000001",
                oid::NUMERIC,
                "\"12.340000000000000000001\"",
            ),
            (
                "2024-05-06 07:08:09.5+00",
                oid::TIMESTAMPTZ,
                "\"2024-05-06T07:08:09.5Z\"",
            ),
            (
                "2024-05-06 07:08:09",
                oid::TIMESTAMP,
                "\"2024-05-06T07:08:09\"",
            ),
            ("infinity", oid::TIMESTAMP, "\"infinity\""),
            (
                "0044-03-15 12:00:00 BC",
                oid::TIMESTAMP,
                "\"0044-03-15 12:00:00 BC\"",
            ),
            ("{\"a\": [1]}", oid::JSONB, "{\"a\": [1]}"),
            ("\\x00ff", oid::BYTEA, "\"\\\\x00ff\""),
            ("张三\n", oid::TEXT, "\"张三\\n\""),
        ] {
            let mut out = Vec::new();
            write_json(value.as_bytes(), of, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }
}
