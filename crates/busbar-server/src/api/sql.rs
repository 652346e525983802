//! SQL queries over streams and tables, answered as one JSON document or as a stream of lines.

use std::convert::Infallible;
use std::sync::Arc;

use arrow::array::{Array, AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use busbar_event::{Class, Error};
use busbar_sql::{QueryOptions, QueryResult, Relations};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::{Field, fields};
use super::{JsonBody, json_bytes};
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::guard::Caller;
use crate::limits::{SQL_ROWS_DEFAULT, SQL_TEXT_BYTES_MAX};
use busbar_event::format::write_json_text;
use busbar_event::time;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(query))
}

/// A query.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Question {
    /// The query, such as `select * from inbox limit 10`.
    sql: String,
    /// Number of rows to return at most. When absent: 1000 in a JSON document, all rows in lines.
    limit: Option<usize>,
}

/// The rows of a query.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is written by hand")]
struct Rows {
    /// The columns. Each name is unique: the second column named `site` becomes `site_2`.
    columns: Vec<Field>,
    /// A list of values for each row, in the order of the columns.
    rows: Vec<Vec<serde_json::Value>>,
    /// Whether there are more rows than the limit.
    truncated: bool,
    /// The time that the query took.
    elapsed_ms: f64,
    /// Number of events left out because their payload cannot be read.
    undecodable: u64,
    /// Number of events that have null in place of a value that does not fit its column.
    partial: u64,
    /// Number of events left out because they cannot be read from the disk.
    unreadable: u64,
}

/// Run a query.
///
/// Statements that only read are allowed: `select`, `with`, `values`, `explain`, `show tables` and `describe`. A
/// caller sees the streams and tables that it may read.
///
/// Numbers and booleans are JSON numbers and booleans, lists are arrays, maps and structs are objects. Times are
/// RFC 3339 texts. Decimals, intervals and durations are texts, as are floats that are not finite. Bytes are a text
/// if they are UTF-8, and else Base64.
///
/// With `Accept: application/x-ndjson` the rows are streamed as they are computed, without a limit: first a
/// line `{"columns":[…]}`, then each row as a line with an array, at last a line `{"end":{…}}` with
/// `truncated`, `elapsed_ms`, `undecodable`, `partial` and `unreadable`, or `{"error":{…}}`. A body without that last
/// line is incomplete.
#[utoipa::path(post, path = "/api/v1/sql", tag = "sql", request_body = Question,
    responses(
        (status = 200, description = "The rows.", content(
            (Rows = "application/json"),
            (String = "application/x-ndjson"),
        )),
        (status = 403, description = "The caller may not read what it asks about.", body = super::Refused),
        (status = 422, description = "The query is wrong; `error.span` says where.", body = super::Refused),
    ))]
async fn query(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    headers: HeaderMap,
    JsonBody(question): JsonBody<Question>,
) -> Answer<Response> {
    let lines = accepts_lines(&headers);
    if question.sql.len() > SQL_TEXT_BYTES_MAX {
        return Err(Error::new(Class::Permanent, "server.sql-too-long")
            .with("max", SQL_TEXT_BYTES_MAX)
            .into());
    }
    // Also for those who may read all of the node: databases behind it are another matter.
    let relations = Arc::new(app.relations.readable_by(caller)) as Arc<dyn Relations>;
    let options = QueryOptions {
        rows_max: question.limit.or((!lines).then_some(SQL_ROWS_DEFAULT)),
        all_rows: lines,
        relations: Some(relations),
        parameters: Vec::new(),
    };
    let mut result = app
        .sql
        .query_with(&question.sql, options)
        .await
        .map_err(|wrong| {
            let (span, suggestion) = (wrong.span(), wrong.suggestion().map(str::to_owned));
            Refusal::from(wrong.into_error()).at(span, suggestion)
        })?;
    let columns = serde_json::to_vec(&fields(&result.schema())).unwrap_or_default();
    if lines {
        return Ok(streamed(result, &columns));
    }
    let mut out = b"{\"columns\":".to_vec();
    out.extend_from_slice(&columns);
    out.extend_from_slice(b",\"rows\":[");
    let mut first = true;
    while let Some(batch) = result.next().await {
        let batch = batch?;
        // Rendering a batch takes about a millisecond; other tasks of this thread run in between.
        tokio::task::yield_now().await;
        rows(&mut out, &batch, &mut first)?;
    }
    out.extend_from_slice(b"],");
    out.extend_from_slice(summary(&result).as_bytes());
    out.push(b'}');
    Ok(json_bytes(out))
}

/// The members that follow the rows.
fn summary(result: &QueryResult) -> String {
    format!(
        "\"truncated\":{},\"elapsed_ms\":{:.3},\"undecodable\":{},\"partial\":{},\"unreadable\":{}",
        result.truncated(),
        result.elapsed().as_secs_f64() * 1e3,
        result.undecodable(),
        result.partial(),
        result.unreadable()
    )
}

/// True for a request that asks for lines.
fn accepts_lines(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|kind| kind.split(';').next())
        .any(|kind| kind.trim().eq_ignore_ascii_case(LINES))
}

/// The media type of an answer in lines.
const LINES: &str = "application/x-ndjson";

/// The rows as lines, computed while the client reads them.
fn streamed(result: QueryResult, columns: &[u8]) -> Response {
    let head = [b"{\"columns\":", columns, b"}\n"].concat();
    let stream = futures::stream::unfold((Some(result), head), |(result, mut out)| async {
        if !out.is_empty() {
            return Some((Ok::<_, Infallible>(Bytes::from(out)), (result, Vec::new())));
        }
        let mut result = result?;
        let next = match result.next().await {
            Some(Ok(batch)) => lines(&mut out, &batch),
            Some(Err(error)) => Err(error),
            None => {
                out = format!("{{\"end\":{{{}}}}}\n", summary(&result)).into_bytes();
                return Some((Ok(Bytes::from(out)), (None, Vec::new())));
            }
        };
        match next {
            Ok(()) => Some((Ok(Bytes::from(out)), (Some(result), Vec::new()))),
            Err(error) => {
                let error = serde_json::to_vec(&error).unwrap_or_default();
                let last = [b"{\"error\":", &*error, b"}\n"].concat();
                Some((Ok(Bytes::from(last)), (None, Vec::new())))
            }
        }
    });
    (
        [(header::CONTENT_TYPE, LINES), super::UNBUFFERED],
        Body::from_stream(stream),
    )
        .into_response()
}

fn lines(out: &mut Vec<u8>, batch: &RecordBatch) -> Result<(), Error> {
    for at in 0..batch.num_rows() {
        row(out, batch, at)?;
        out.push(b'\n');
    }
    Ok(())
}

fn rows(out: &mut Vec<u8>, batch: &RecordBatch, first: &mut bool) -> Result<(), Error> {
    for at in 0..batch.num_rows() {
        if !*first {
            out.push(b',');
        }
        *first = false;
        row(out, batch, at)?;
    }
    Ok(())
}

/// A row as a JSON array.
fn row(out: &mut Vec<u8>, batch: &RecordBatch, row: usize) -> Result<(), Error> {
    out.push(b'[');
    for (at, column) in batch.columns().iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        cell(out, column, row)?;
    }
    out.push(b']');
    Ok(())
}

/// The rows as JSON objects with the members of the columns' names.
pub(super) fn objects(
    out: &mut Vec<u8>,
    batch: &RecordBatch,
    first: &mut bool,
) -> Result<(), Error> {
    let schema = batch.schema();
    for at in 0..batch.num_rows() {
        out.extend_from_slice(if *first { b"{" } else { b",{" });
        *first = false;
        for (i, (field, column)) in schema.fields().iter().zip(batch.columns()).enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_json_text(field.name(), out);
            out.push(b':');
            cell(out, column, at)?;
        }
        out.push(b'}');
    }
    Ok(())
}

/// Writes a value as JSON, as [`query`] documents it.
fn cell(out: &mut Vec<u8>, column: &dyn Array, row: usize) -> Result<(), Error> {
    use std::io::Write as _;
    if column.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    // Writing to a vector cannot fail.
    macro_rules! number {
        ($kind:ty) => {{
            let _ = write!(out, "{}", column.as_primitive::<$kind>().value(row));
        }};
    }
    match column.data_type() {
        DataType::Null => out.extend_from_slice(b"null"),
        DataType::Boolean => {
            let _ = write!(out, "{}", column.as_boolean().value(row));
        }
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => float(
            out,
            f64::from(column.as_primitive::<Float32Type>().value(row)),
        ),
        DataType::Float64 => float(out, column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => write_json_text(column.as_string::<i32>().value(row), out),
        DataType::LargeUtf8 => write_json_text(column.as_string::<i64>().value(row), out),
        DataType::Utf8View => write_json_text(column.as_string_view().value(row), out),
        DataType::Binary => bytes(out, column.as_binary::<i32>().value(row)),
        DataType::LargeBinary => bytes(out, column.as_binary::<i64>().value(row)),
        DataType::BinaryView => bytes(out, column.as_binary_view().value(row)),
        DataType::Timestamp(unit, _) => {
            let value = timestamp(column, *unit, row);
            out.push(b'"');
            time::write(value, out);
            out.push(b'"');
        }
        DataType::Dictionary(_, value) => {
            if let Some(dictionary) = column.as_dictionary_opt::<Int32Type>() {
                let key = dictionary.keys().value(row);
                return cell(out, dictionary.values(), key as usize);
            }
            let value = cast(&column.slice(row, 1), value).map_err(unwritable)?;
            return cell(out, &value, 0);
        }
        DataType::Map(_, _) => {
            let entries = column.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            out.push(b'{');
            for at in 0..entries.len() {
                if at > 0 {
                    out.push(b',');
                }
                write_json_text(&shown(keys, at)?, out);
                out.push(b':');
                cell(out, values, at)?;
            }
            out.push(b'}');
        }
        DataType::List(_) => list(out, &column.as_list::<i32>().value(row))?,
        DataType::LargeList(_) => list(out, &column.as_list::<i64>().value(row))?,
        DataType::FixedSizeList(_, _) => list(out, &column.as_fixed_size_list().value(row))?,
        DataType::Struct(fields) => {
            let members = column.as_struct();
            out.push(b'{');
            for (at, (field, member)) in fields.iter().zip(members.columns()).enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_json_text(field.name(), out);
                out.push(b':');
                cell(out, member, row)?;
            }
            out.push(b'}');
        }
        _ => write_json_text(&shown(column, row)?, out),
    }
    Ok(())
}

fn list(out: &mut Vec<u8>, values: &dyn Array) -> Result<(), Error> {
    out.push(b'[');
    for at in 0..values.len() {
        if at > 0 {
            out.push(b',');
        }
        cell(out, values, at)?;
    }
    out.push(b']');
    Ok(())
}

/// The value as text.
fn shown(column: &dyn Array, row: usize) -> Result<String, Error> {
    let options = FormatOptions::default();
    ArrayFormatter::try_new(column, &options)
        .and_then(|formatter| formatter.value(row).try_to_string())
        .map_err(unwritable)
}

fn unwritable(cause: ArrowError) -> Error {
    tracing::warn!(%cause, "a value of a query's result cannot be written");
    Error::new(Class::Permanent, "server.unwritable-answer")
}

/// JSON has no number for what is not finite: it becomes a text.
fn float(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        let number = serde_json::Number::from_f64(value).map(|number| number.to_string());
        out.extend_from_slice(number.unwrap_or_default().as_bytes());
    } else {
        write_json_text(&value.to_string(), out);
    }
}

fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    match std::str::from_utf8(value) {
        Ok(text) => write_json_text(text, out),
        Err(_) => {
            let text = base64::engine::general_purpose::STANDARD.encode(value);
            write_json_text(&text, out);
        }
    }
}

/// Microseconds since 1970.
fn timestamp(column: &dyn Array, unit: TimeUnit, row: usize) -> i64 {
    use arrow::datatypes::{
        TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
        TimestampSecondType,
    };
    match unit {
        TimeUnit::Second => column
            .as_primitive::<TimestampSecondType>()
            .value(row)
            .saturating_mul(1_000_000),
        TimeUnit::Millisecond => column
            .as_primitive::<TimestampMillisecondType>()
            .value(row)
            .saturating_mul(1_000),
        TimeUnit::Microsecond => column.as_primitive::<TimestampMicrosecondType>().value(row),
        TimeUnit::Nanosecond => column
            .as_primitive::<TimestampNanosecondType>()
            .value(row)
            .div_euclid(1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        ArrayRef, BinaryArray, Decimal128Array, DictionaryArray, DurationSecondArray, Float64Array,
        Int64Array, IntervalMonthDayNanoArray, LargeListArray, ListArray, MapBuilder,
        StringBuilder, StructArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Date32Type, Field, IntervalMonthDayNano, TimestampNanosecondType};

    #[test]
    fn values_become_json() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from(vec![Some(i64::MAX), None]))),
            ("f", Arc::new(Float64Array::from(vec![0.5, f64::NAN]))),
            (
                "b",
                Arc::new(BinaryArray::from(vec![&b"{\"a\":1}"[..], b"\xff"])),
            ),
            (
                "t",
                Arc::new(TimestampMicrosecondArray::from(vec![0, 1]).with_timezone("UTC")),
            ),
            (
                "d",
                Arc::new(DictionaryArray::<Int32Type>::from_iter(["x", "\"y\""])),
            ),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut out = b"[".to_vec();
        rows(&mut out, &batch, &mut true.clone()).unwrap();
        out.push(b']');
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            value,
            serde_json::json!([
                [
                    i64::MAX,
                    0.5,
                    "{\"a\":1}",
                    "1970-01-01T00:00:00.000000Z",
                    "x"
                ],
                [null, "NaN", "/w==", "1970-01-01T00:00:00.000001Z", "\"y\""]
            ])
        );
    }

    /// Every kind of value that a query can return, and null.
    #[test]
    fn no_value_becomes_the_text_of_a_rust_type() {
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        map.keys().append_value("site");
        map.values().append_null();
        map.append(true).expect("one key, one value");
        map.append(false).expect("a null");
        let numbers = || vec![Some(vec![Some(1), None]), None];
        let point = StructArray::from(vec![(
            Arc::new(Field::new("x", DataType::Int64, true)),
            Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef,
        )]);
        let dates = arrow::array::PrimitiveArray::<Date32Type>::from(vec![Some(0), None]);
        let times =
            arrow::array::PrimitiveArray::<TimestampNanosecondType>::from(vec![Some(1_000), None]);
        let interval = IntervalMonthDayNano::new(14, 3, 1_500_000_000);
        let decimal = Decimal128Array::from(vec![Some(-150), None]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                "list",
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(numbers())),
            ),
            (
                "large",
                Arc::new(LargeListArray::from_iter_primitive::<Int64Type, _, _>(
                    numbers(),
                )),
            ),
            ("struct", Arc::new(point)),
            ("map", Arc::new(map.finish())),
            (
                "decimal",
                Arc::new(decimal.with_precision_and_scale(5, 2).expect("it fits")),
            ),
            (
                "interval",
                Arc::new(IntervalMonthDayNanoArray::from(vec![Some(interval), None])),
            ),
            (
                "duration",
                Arc::new(DurationSecondArray::from(vec![Some(90), None])),
            ),
            ("date", Arc::new(dates)),
            ("time", Arc::new(times)),
            ("nothing", arrow::array::new_null_array(&DataType::Null, 2)),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let mut out = b"[".to_vec();
        rows(&mut out, &batch, &mut true.clone()).expect("every kind has a form");
        out.push(b']');
        let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(
            value,
            serde_json::json!([
                [
                    [1, null],
                    [1, null],
                    { "x": 1 },
                    { "site": null },
                    "-1.50",
                    "14 mons 3 days 1.500000000 secs",
                    "PT90S",
                    "1970-01-01",
                    "1970-01-01T00:00:00.000001Z",
                    null
                ],
                [null, null, { "x": null }, null, null, null, null, null, null, null]
            ])
        );
    }
}
