//! How types fit: columns of a flow in columns of a table, values of the server in JSON.

use arrow::datatypes::{DataType, TimeUnit};
use busbar_change::postgres::oid;

use crate::change::plan::Fit;

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
            // Digits of a number and of seconds are checked for each value.
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
}
