//! Statements with values bound in them, in no database's dialect.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use busbar_event::{Class, Error, time};
use busbar_table::ColumnType;
use serde_json::Value as Json;

/// A statement: texts, and values between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SqlStatement {
    /// Its parts, in order.
    pub parts: Vec<SqlPart>,
    /// The columns that its rows are to have, in the order of the statement; none for those that the database names.
    pub columns: Option<SchemaRef>,
    /// The types that columns of its answer are read as, by name, where the database would give a text or another number.
    pub declared: Vec<(String, ColumnType)>,
    /// The table that it is about, as errors name it; empty where that is not known.
    pub table: String,
    /// It only reads, so that it may be sent again on another session.
    pub reads: bool,
}

/// A part of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlPart {
    /// SQL as it is.
    Text(String),
    /// A value, and the type it is given, if any.
    Value(SqlValue, Option<String>),
    /// A test that the column, as SQL writes it, is one of these values; and the type they are given, if any.
    OneOf(String, Vec<SqlValue>, Option<String>),
}

/// A value that is bound in a statement.
#[derive(Clone, Debug)]
pub enum SqlValue {
    /// NULL.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A text.
    Text(String),
    /// A moment: microseconds since 1970 in UTC.
    Time(i64),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl PartialEq for SqlValue {
    fn eq(&self, other: &SqlValue) -> bool {
        match (self, other) {
            (SqlValue::Null, SqlValue::Null) => true,
            (SqlValue::Bool(a), SqlValue::Bool(b)) => a == b,
            (SqlValue::Int(a), SqlValue::Int(b)) | (SqlValue::Time(a), SqlValue::Time(b)) => a == b,
            (SqlValue::Float(a), SqlValue::Float(b)) => a.to_bits() == b.to_bits(),
            (SqlValue::Text(a), SqlValue::Text(b)) => a == b,
            (SqlValue::Bytes(a), SqlValue::Bytes(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for SqlValue {}

impl SqlStatement {
    /// The statement with each value as `value` writes it. A test for one of several values is `column IN (…)`.
    pub fn written(&self, mut value: impl FnMut(&SqlValue, Option<&str>) -> String) -> String {
        let mut sql = String::new();
        for part in &self.parts {
            match part {
                SqlPart::Text(text) => sql.push_str(text),
                SqlPart::Value(one, kind) => sql.push_str(&value(one, kind.as_deref())),
                SqlPart::OneOf(column, values, kind) => {
                    sql.push_str(column);
                    sql.push_str(" IN (");
                    for (at, one) in values.iter().enumerate() {
                        if at > 0 {
                            sql.push_str(", ");
                        }
                        sql.push_str(&value(one, kind.as_deref()));
                    }
                    sql.push(')');
                }
            }
        }
        sql
    }

    /// The columns of the rows, given those that the database names: [`SqlStatement::columns`] where there are some.
    pub fn answer_columns(&self, named: impl Iterator<Item = (String, ColumnType)>) -> SchemaRef {
        use ColumnType as C;
        if let Some(columns) = &self.columns {
            return Arc::clone(columns);
        }
        let fields = named.map(|(name, kind)| {
            let declared = self.declared.iter().find(|(known, _)| *known == name);
            let kind = match declared.map(|(_, declared)| *declared) {
                Some(wanted @ (C::Bool | C::Int | C::Float | C::Time))
                    if matches!(kind, C::Int | C::Float | C::Text) =>
                {
                    wanted
                }
                _ => kind,
            };
            kind.field(&name)
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The statement for people.
    pub fn shown(&self) -> String {
        self.written(|value, _| match value {
            SqlValue::Text(text) => format!("'{}'", text.replace('\'', "''")),
            SqlValue::Time(micros) => format!("'{}'", time::text(*micros)),
            other => other.text().unwrap_or_else(|| "NULL".to_owned()),
        })
    }
}

impl SqlValue {
    /// The value as a text that databases read; none for NULL. Bytes are in hexadecimal digits behind `\x`, and times as
    /// `2024-05-06 07:08:09.500000`.
    pub fn text(&self) -> Option<String> {
        Some(match self {
            SqlValue::Null => return None,
            SqlValue::Bool(value) => value.to_string(),
            SqlValue::Int(value) => value.to_string(),
            SqlValue::Float(value) if value.is_nan() => "NaN".to_owned(),
            SqlValue::Float(value) if value.is_infinite() => match *value > 0.0 {
                true => "Infinity".to_owned(),
                false => "-Infinity".to_owned(),
            },
            SqlValue::Float(value) => format!("{value:?}"),
            SqlValue::Text(value) => value.clone(),
            SqlValue::Time(micros) => time::text(*micros).trim_end_matches('Z').replace('T', " "),
            SqlValue::Bytes(bytes) => {
                let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
                format!("\\x{}", digits.collect::<String>())
            }
        })
    }

    /// The value as JSON.
    pub fn json(&self) -> Json {
        match self {
            SqlValue::Null => Json::Null,
            SqlValue::Bool(value) => Json::Bool(*value),
            SqlValue::Int(value) => (*value).into(),
            SqlValue::Float(value) => (*value).into(),
            SqlValue::Time(micros) => Json::String(time::text(*micros)),
            other => other.text().map_or(Json::Null, Json::String),
        }
    }

    /// The values of a column.
    ///
    /// # Errors
    /// *Configuration*: no database takes values of this type.
    pub fn of_column(column: &ArrayRef, name: &str) -> Result<Vec<SqlValue>, Error> {
        use DataType as D;
        let wrong = || {
            Error::new(Class::Configuration, "database.bound-type")
                .with("column", name)
                .with("type", column.data_type())
        };
        let to = match column.data_type() {
            D::Dictionary(_, values) => (**values).clone(),
            other => other.clone(),
        };
        let to = match to {
            D::Null | D::Boolean => D::Boolean,
            D::Int8 | D::Int16 | D::Int32 | D::Int64 => D::Int64,
            D::UInt8 | D::UInt16 | D::UInt32 => D::Int64,
            D::Float16 | D::Float32 | D::Float64 => D::Float64,
            D::Timestamp(..) => D::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => D::Binary,
            D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Date32 | D::Date64 | D::UInt64 => D::Utf8,
            D::Decimal32(..) | D::Decimal64(..) | D::Decimal128(..) | D::Decimal256(..) => D::Utf8,
            D::Time32(_) | D::Time64(_) => D::Utf8,
            _ => return Err(wrong()),
        };
        let plain = cast(column, &to).map_err(|cause| wrong().caused_by(cause))?;
        let value = |row: usize| match to {
            _ if plain.is_null(row) => SqlValue::Null,
            D::Boolean => SqlValue::Bool(plain.as_boolean().value(row)),
            D::Int64 => SqlValue::Int(plain.as_primitive::<Int64Type>().value(row)),
            D::Float64 => SqlValue::Float(plain.as_primitive::<Float64Type>().value(row)),
            D::Timestamp(..) => {
                SqlValue::Time(plain.as_primitive::<TimestampMicrosecondType>().value(row))
            }
            D::Binary => SqlValue::Bytes(plain.as_binary::<i32>().value(row).to_vec()),
            _ => SqlValue::Text(plain.as_string::<i32>().value(row).to_owned()),
        };
        Ok((0..plain.len()).map(value).collect())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, StringArray, UInt16Array};

    use super::*;

    #[test]
    fn values_are_written_between_the_texts() {
        let statement = SqlStatement {
            parts: vec![
                SqlPart::Text("SELECT 1 WHERE ".into()),
                SqlPart::OneOf(
                    "a".into(),
                    vec![SqlValue::Int(1), SqlValue::Text("it's".into())],
                    None,
                ),
                SqlPart::Text(" AND b < ".into()),
                SqlPart::Value(SqlValue::Time(1_500_000), None),
            ],
            ..SqlStatement::default()
        };
        assert_eq!(
            statement.shown(),
            "SELECT 1 WHERE a IN (1, 'it''s') AND b < '1970-01-01T00:00:01.500000Z'"
        );
        let mut count = 0;
        let marks = statement.written(|_, _| {
            count += 1;
            format!("${count}")
        });
        assert_eq!(marks, "SELECT 1 WHERE a IN ($1, $2) AND b < $3");
    }

    #[test]
    fn columns_of_each_kind_are_values() {
        let values = |column: ArrayRef| SqlValue::of_column(&column, "c").unwrap();
        assert_eq!(
            values(Arc::new(UInt16Array::from(vec![Some(7), None]))),
            [SqlValue::Int(7), SqlValue::Null]
        );
        assert_eq!(
            values(Arc::new(Date32Array::from(vec![19_000]))),
            [SqlValue::Text("2022-01-08".into())]
        );
        assert_eq!(
            values(Arc::new(StringArray::from(vec!["雨"]))),
            [SqlValue::Text("雨".into())]
        );
        assert_eq!(
            SqlValue::Time(1_500_000).text().as_deref(),
            Some("1970-01-01 00:00:01.500000")
        );
        assert_eq!(SqlValue::Float(1e300).text().as_deref(), Some("1e300"));
    }
}
