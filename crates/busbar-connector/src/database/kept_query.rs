//! Queries of programs over a table that is kept in a database.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use busbar_event::{Class, Error, time};
use serde_json::{Map, Number, Value as Json};

use super::{RemoteTable, SqlPart, SqlStatement, SqlValue};

impl RemoteTable {
    /// At most `limit` rows of a query in the database's SQL, as a JSON array of objects; each `?` outside quotes stands for a
    /// parameter.
    ///
    /// # Errors
    /// As of [`SqlDatabase::run`](super::SqlDatabase::run); *permanent* for a query that does not read, or another number of
    /// parameters.
    pub(super) fn ask(
        &self,
        sql: &str,
        parameters: &[Json],
        limit: usize,
    ) -> Result<String, Error> {
        let first = sql.split_whitespace().next().unwrap_or_default();
        let reads = ["select", "values", "with"];
        if !reads.iter().any(|word| first.eq_ignore_ascii_case(word)) {
            let refused = Error::new(Class::Permanent, "table.query-reads");
            return Err(refused.with("table", self.label()));
        }
        let mut parts = vec![SqlPart::Text("SELECT * FROM (".to_owned())];
        let mut values = parameters.iter();
        let mut missing = false;
        for (at, text) in between_marks(sql).into_iter().enumerate() {
            if at > 0 {
                match values.next() {
                    Some(value) => parts.push(SqlPart::Value(bound(value), None)),
                    None => missing = true,
                }
            }
            parts.push(SqlPart::Text(text.to_owned()));
        }
        if missing || values.next().is_some() {
            return Err(Error::new(Class::Permanent, "table.query-parameters")
                .with("table", self.label())
                .with("given", parameters.len()));
        }
        // A comment at the end of the query ends with its line.
        parts.push(SqlPart::Text(format!(
            "\n) busbar_query{}",
            self.at_most(limit)
        )));
        let batches = self.all(SqlStatement {
            parts,
            reads: true,
            ..SqlStatement::default()
        })?;
        let rows = batches.iter().flat_map(objects);
        Ok(Json::Array(rows.take(limit).collect()).to_string())
    }
}

/// The texts between the `?` that stand outside of quotes and comments.
fn between_marks(sql: &str) -> Vec<&str> {
    let bytes = sql.as_bytes();
    let (mut texts, mut begin, mut at) = (Vec::new(), 0, 0);
    let behind = |from: usize, end: &str| {
        let rest = sql.get(from..).unwrap_or_default();
        rest.find(end)
            .map_or(sql.len(), |found| from + found + end.len())
    };
    while at < bytes.len() {
        at = match (bytes[at], bytes.get(at + 1)) {
            (quote @ (b'\'' | b'"' | b'`'), _) => {
                behind(at + 1, std::str::from_utf8(&[quote]).unwrap_or_default())
            }
            (b'-', Some(b'-')) => behind(at + 2, "\n"),
            (b'/', Some(b'*')) => behind(at + 2, "*/"),
            (b'?', _) => {
                texts.push(&sql[begin..at]);
                begin = at + 1;
                begin
            }
            _ => at + 1,
        };
    }
    texts.push(&sql[begin..]);
    texts
}

fn bound(value: &Json) -> SqlValue {
    match value {
        Json::Null => SqlValue::Null,
        Json::Bool(value) => SqlValue::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => SqlValue::Int(whole),
            None => number.as_f64().map_or(SqlValue::Null, SqlValue::Float),
        },
        Json::String(text) => SqlValue::Text(text.clone()),
        other => SqlValue::Text(other.to_string()),
    }
}

fn objects(batch: &RecordBatch) -> impl Iterator<Item = Json> {
    (0..batch.num_rows()).map(move |row| {
        let fields = batch.schema_ref().fields().iter().zip(batch.columns());
        let values = fields.map(|(field, column)| (field.name().clone(), shown(column, row)));
        Json::Object(values.collect::<Map<_, _>>())
    })
}

/// Times are in RFC 3339, bytes in hexadecimal digits.
fn shown(column: &dyn Array, row: usize) -> Json {
    if column.is_null(row) {
        return Json::Null;
    }
    match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::Float64 => {
            let value = column.as_primitive::<Float64Type>().value(row);
            Number::from_f64(value).map_or(Json::Null, Json::Number)
        }
        DataType::Timestamp(..) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            time::text(micros).into()
        }
        DataType::Binary => {
            let bytes = column.as_binary::<i32>().value(row).iter();
            let digits = bytes.map(|byte| format!("{byte:02x}"));
            digits.collect::<String>().into()
        }
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        _ => Json::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::between_marks;

    #[test]
    fn marks_in_quotes_and_comments_stand_for_nothing() {
        let sql = "select '?', \"a?\", `b?` /* ? */ from t -- ?\nwhere a = ? and b = ?";
        let texts = between_marks(sql);
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(texts[0].ends_with("where a = "));
        assert_eq!(&texts[1..], [" and b = ", ""]);
        assert_eq!(between_marks("select 'open ?"), ["select 'open ?"]);
        assert_eq!(between_marks("select 'it''s ?', ?").len(), 2);
    }
}
