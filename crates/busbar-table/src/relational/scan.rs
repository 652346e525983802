//! Reading a relational table, some thousand rows at a time, in one read transaction.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch,
    StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{Field, SchemaRef};
use busbar_event::{Class, Error, time};
use rusqlite::Connection;
use rusqlite::types::{Value, ValueRef};

use super::schema::{Shape, quoted};
use super::sqlite::{Readers, sqlite_error};
use crate::columns::{ColumnType, arrow_error, rows_without_columns, type_of};
use crate::limits::{SCAN_BYTES_MAX, SCAN_ROWS_MAX};
use crate::table::{Compare, Condition, Constant, Scan};

pub(super) struct Reading {
    readers: Arc<Readers>,
    /// Given back when the reading ends.
    connection: Option<Connection>,
    table: String,
    sql: String,
    constants: Vec<Value>,
    schema: SchemaRef,
    kinds: Vec<ColumnType>,
    /// The smallest row number that has not been read; none when there is none.
    next_row: Option<i64>,
    left: usize,
}

impl Reading {
    /// Take the picture: what is committed later is not seen.
    pub fn begin(
        readers: &Arc<Readers>,
        table: &str,
        shape: &Shape,
        columns: &[usize],
        scan: &Scan,
    ) -> Result<Self, Error> {
        let connection = readers.take()?;
        connection
            .execute_batch("BEGIN; SELECT count(*) FROM _busbar_columns;")
            .map_err(|cause| sqlite_error(table, cause))?;
        let schema = Arc::new(shape.schema.project(columns).map_err(arrow_error)?);
        let mut tests = vec![format!("{} >= ?1", shape.row_number)];
        let mut constants = Vec::new();
        for condition in &scan.conditions {
            if let Some((test, constant)) = test(shape, condition, constants.len() + 3) {
                tests.push(test);
                constants.push(constant);
            }
        }
        let used_all = constants.len() == scan.conditions.len();
        let names: Vec<String> = std::iter::once(shape.row_number.to_owned())
            .chain(schema.fields().iter().map(|field| quoted(field.name())))
            .collect();
        let sql = format!(
            "SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT ?2",
            names.join(", "),
            quoted(table),
            tests.join(" AND "),
            shape.row_number,
        );
        Ok(Self {
            readers: Arc::clone(readers),
            connection: Some(connection),
            table: table.to_owned(),
            sql,
            constants,
            kinds: schema.fields().iter().map(|field| type_of(field)).collect(),
            schema,
            // An integer key is the row number: rows begin at the smallest integer there is.
            next_row: Some(i64::MIN),
            left: scan.limit.filter(|_| used_all).unwrap_or(usize::MAX),
        })
    }

    fn read(&mut self) -> Result<Option<RecordBatch>, Error> {
        let (Some(connection), Some(next_row)) = (&self.connection, self.next_row) else {
            return Ok(None);
        };
        let fault = |cause| sqlite_error(&self.table, cause);
        let most = self.left.min(SCAN_ROWS_MAX);
        let mut statement = connection.prepare_cached(&self.sql).map_err(fault)?;
        statement.raw_bind_parameter(1, next_row).map_err(fault)?;
        statement
            .raw_bind_parameter(2, most as i64)
            .map_err(fault)?;
        for (place, constant) in self.constants.iter().enumerate() {
            statement
                .raw_bind_parameter(place + 3, constant)
                .map_err(fault)?;
        }
        let mut builders: Vec<Builder> =
            self.kinds.iter().map(|kind| Builder::new(*kind)).collect();
        let (mut rows, mut bytes) = (0, 0);
        let mut cursor = statement.raw_query();
        while let Some(row) = cursor.next().map_err(fault)? {
            self.next_row = row.get::<_, i64>(0).map_err(fault)?.checked_add(1);
            for (place, builder) in builders.iter_mut().enumerate() {
                let value = row.get_ref(place + 1).map_err(fault)?;
                match builder.append(value) {
                    Some(taken) => bytes += taken,
                    None => {
                        return Err(stored_value_error(&self.table, self.schema.field(place)));
                    }
                }
            }
            rows += 1;
            if bytes >= SCAN_BYTES_MAX {
                break;
            }
        }
        if rows == 0 {
            return Ok(None);
        }
        self.left -= rows;
        if builders.is_empty() {
            return rows_without_columns(&self.schema, rows).map(Some);
        }
        let arrays = builders.into_iter().map(Builder::finish).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), arrays)
            .map(Some)
            .map_err(arrow_error)
    }

    fn end(&mut self) {
        if let Some(connection) = self.connection.take()
            && connection.execute_batch("ROLLBACK").is_ok()
        {
            self.readers.give_back(connection);
        }
    }
}

impl Iterator for Reading {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            self.end();
        }
        let next = self.read().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.end();
        }
        next
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads a time as it is kept: of 27 bytes, so that text order is time order.
fn read_time(text: &[u8]) -> Option<i64> {
    let is_kept = text.len() == time::WRITTEN_BYTES && text[10] == b'T' && text[26] == b'Z';
    time::parse_bytes(text).filter(|_| is_kept)
}

/// A condition as SQLite understands it, if both mean the same by it.
fn test(shape: &Shape, condition: &Condition, parameter: usize) -> Option<(String, Value)> {
    let field = shape.schema.fields().get(condition.column)?;
    let constant = match (type_of(field), &condition.constant) {
        (ColumnType::Bool, Constant::Bool(value)) => Value::Integer(i64::from(*value)),
        (ColumnType::Int, Constant::Int(value)) => Value::Integer(*value),
        (ColumnType::Float, Constant::Float(value)) if !value.is_nan() => Value::Real(*value),
        (ColumnType::Text, Constant::Text(value)) => Value::Text(value.clone()),
        (ColumnType::Time, Constant::Time(value)) => {
            // Written times are in order only within the years that can be written.
            if !time::is_written(*value) {
                return None;
            }
            Value::Text(time::text(*value))
        }
        _ => return None,
    };
    let compare = match condition.compare {
        Compare::Equal => "=",
        Compare::Less => "<",
        Compare::LessOrEqual => "<=",
        Compare::Greater => ">",
        Compare::GreaterOrEqual => ">=",
    };
    Some((
        format!("{} {compare} ?{parameter}", quoted(field.name())),
        constant,
    ))
}

/// A value in the file that is not of its column's type.
pub(super) fn stored_value_error(table: &str, field: &Field) -> Error {
    Error::new(Class::Permanent, "table.stored-value")
        .with("table", table)
        .with("column", field.name())
        .with("type", type_of(field).word())
}

/// Builds a column from values in the file.
pub(super) enum Builder {
    Bool(BooleanBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Text(StringBuilder),
    Time(TimestampMicrosecondBuilder),
    Binary(BinaryBuilder),
}

impl Builder {
    pub fn new(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Bool => Self::Bool(BooleanBuilder::new()),
            ColumnType::Int => Self::Int(Int64Builder::new()),
            ColumnType::Float => Self::Float(Float64Builder::new()),
            ColumnType::Text | ColumnType::Json => Self::Text(StringBuilder::new()),
            ColumnType::Time => Self::Time(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            ColumnType::Binary => Self::Binary(BinaryBuilder::new()),
        }
    }

    /// Bytes taken; none for a value that is not of the column's type.
    pub fn append(&mut self, value: ValueRef<'_>) -> Option<usize> {
        match (self, value) {
            (Self::Bool(builder), ValueRef::Null) => builder.append_null(),
            (Self::Int(builder), ValueRef::Null) => builder.append_null(),
            (Self::Float(builder), ValueRef::Null) => builder.append_null(),
            (Self::Text(builder), ValueRef::Null) => builder.append_null(),
            (Self::Time(builder), ValueRef::Null) => builder.append_null(),
            (Self::Binary(builder), ValueRef::Null) => builder.append_null(),
            (Self::Bool(builder), ValueRef::Integer(value)) => builder.append_value(value != 0),
            (Self::Int(builder), ValueRef::Integer(value)) => builder.append_value(value),
            (Self::Float(builder), ValueRef::Real(value)) => builder.append_value(value),
            (Self::Time(builder), ValueRef::Text(text)) => builder.append_value(read_time(text)?),
            (Self::Text(builder), ValueRef::Text(text)) => {
                builder.append_value(std::str::from_utf8(text).ok()?);
                return Some(text.len());
            }
            (Self::Binary(builder), ValueRef::Blob(bytes)) => {
                builder.append_value(bytes);
                return Some(bytes.len());
            }
            _ => return None,
        }
        Some(8)
    }

    pub fn finish(self) -> ArrayRef {
        match self {
            Self::Bool(mut builder) => Arc::new(builder.finish()),
            Self::Int(mut builder) => Arc::new(builder.finish()),
            Self::Float(mut builder) => Arc::new(builder.finish()),
            Self::Text(mut builder) => Arc::new(builder.finish()),
            Self::Time(mut builder) => Arc::new(builder.finish()),
            Self::Binary(mut builder) => Arc::new(builder.finish()),
        }
    }
}
