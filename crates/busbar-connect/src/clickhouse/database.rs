//! The database for look-ups, queries and statements of flows.

use std::sync::Arc;

use arrow::array::RecordBatch;
use busbar_connector::limits::{ROWS_BYTES, ROWS_MAX};
use busbar_connector::{
    ColumnType, PoolUse, SqlColumn, SqlCompares, SqlDatabase, SqlRows, SqlStatement, SqlTable,
    SqlValue, TextColumns, Work, number_kind,
};
use busbar_event::Error;
use bytes::Bytes;
use serde::Deserialize;

use super::column::TableColumn;
use super::lines::{AnswerLines, unescaped};
use super::link::{ClickHouseLink, literal, quoted};

/// A server that is asked; each statement is one request.
pub struct ClickHouseDatabase {
    link: Arc<ClickHouseLink>,
}

impl ClickHouseDatabase {
    pub fn new(link: ClickHouseLink) -> ClickHouseDatabase {
        ClickHouseDatabase {
            link: Arc::new(link),
        }
    }

    async fn table(&self, path: &[String]) -> Result<Option<SqlTable>, Error> {
        #[derive(Deserialize)]
        struct PlacedColumn {
            database: String,
            #[serde(flatten)]
            column: TableColumn,
        }
        let (database, table) = match path {
            [table] => ("currentDatabase()", table),
            [_, table] => ("{database:String}", table),
            _ => return Ok(None),
        };
        let statement = format!(
            "SELECT database, name, type FROM system.columns WHERE database = {database} AND table = {{table:String}} ORDER BY position"
        );
        let schema = path.first().filter(|_| path.len() > 1);
        let schema = schema.map(|schema| ("database", schema.as_str()));
        let mut parameters = vec![("table", table.as_str())];
        parameters.extend(schema);
        let rows: Vec<PlacedColumn> = self.link.rows(&statement, &parameters).await?;
        Ok(rows.first().map(|first| SqlTable {
            path: vec![first.database.clone(), table.clone()],
            columns: rows.iter().map(|row| described(&row.column)).collect(),
        }))
    }

    async fn begin(&self, statement: &SqlStatement) -> Result<Box<dyn SqlRows>, Error> {
        let sql = statement.written(|value, _| written(value));
        let answer = self.link.ask(&sql).await?;
        let mut lines = AnswerLines::new(Arc::clone(&self.link), answer);
        let Some(names) = lines.next().await? else {
            return Ok(Box::new(ClickHouseSelected {
                lines,
                columns: None,
            }));
        };
        let Some(types) = lines.next().await? else {
            return Err(lines.strange(&names));
        };
        let columns = texts(&names).into_iter().zip(texts(&types));
        let named = columns.map(|(name, kind)| {
            let column = described(&TableColumn { name, kind });
            (column.name, column.kind)
        });
        let columns = TextColumns::new(statement.answer_columns(named));
        Ok(Box::new(ClickHouseSelected {
            lines,
            columns: Some(columns),
        }))
    }
}

impl SqlDatabase for ClickHouseDatabase {
    fn quoted(&self, name: &str) -> String {
        quoted(name)
    }

    fn describe<'a>(&'a self, path: &'a [String]) -> Work<'a, Result<Option<SqlTable>, Error>> {
        Box::pin(self.table(path))
    }

    fn run<'a>(&'a self, statement: &'a SqlStatement) -> Work<'a, Result<Box<dyn SqlRows>, Error>> {
        Box::pin(self.begin(statement))
    }

    fn pool(&self) -> PoolUse {
        // Requests have no sessions.
        PoolUse::default()
    }
}

/// The rows of an answer.
struct ClickHouseSelected {
    lines: AnswerLines,
    /// None where the statement has no rows.
    columns: Option<TextColumns>,
}

impl ClickHouseSelected {
    async fn piece(&mut self) -> Result<Option<RecordBatch>, Error> {
        let Some(columns) = &mut self.columns else {
            return Ok(None);
        };
        let width = columns.schema().fields().len();
        while columns.bytes() < ROWS_BYTES
            && columns.rows() < ROWS_MAX
            && let Some(row) = self.lines.next().await?
        {
            let values: Vec<_> = row.split(|byte| *byte == b'\t').map(unescaped).collect();
            // Where no column is wanted, rows have one that counts them.
            if values.len() != width.max(1) {
                return Err(self.lines.strange(&row));
            }
            columns.push(values.iter().map(Option::as_deref).take(width))?;
        }
        match columns.rows() {
            0 => Ok(None),
            _ => columns.finish().map(Some),
        }
    }
}

impl SqlRows for ClickHouseSelected {
    fn next(&mut self) -> Work<'_, Result<Option<RecordBatch>, Error>> {
        Box::pin(self.piece())
    }

    fn affected(&self) -> Option<u64> {
        match self.columns {
            Some(_) => None,
            None => self.lines.written(),
        }
    }
}

/// The fields of a line as texts.
fn texts(line: &Bytes) -> Vec<String> {
    let fields = line.split(|byte| *byte == b'\t');
    let texts = fields.map(|field| {
        let value = unescaped(field).unwrap_or_default();
        String::from_utf8_lossy(&value).into_owned()
    });
    texts.collect()
}

/// A value as a literal.
fn written(value: &SqlValue) -> String {
    match value {
        SqlValue::Null => "NULL".to_owned(),
        SqlValue::Bool(value) => value.to_string(),
        SqlValue::Int(value) => value.to_string(),
        SqlValue::Float(value) if value.is_nan() => "nan".to_owned(),
        SqlValue::Float(value) if value.is_infinite() => match *value > 0.0 {
            true => "inf".to_owned(),
            false => "-inf".to_owned(),
        },
        SqlValue::Float(value) => format!("{value:e}"),
        SqlValue::Text(text) => literal(text),
        SqlValue::Bytes(bytes) => {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            format!("unhex('{}')", digits.collect::<String>())
        }
        // As a text, one before 1900 would be taken for the first time that the type has.
        SqlValue::Time(micros) => format!("fromUnixTimestamp64Micro(toInt64({micros}), 'UTC')"),
    }
}

/// A column as Busbar reads it.
fn described(column: &TableColumn) -> SqlColumn {
    use ColumnType as C;
    use SqlCompares as S;
    let (name, arguments) = column.bare();
    let (kind, compares) = match name {
        "Int8" | "Int16" | "Int32" | "Int64" | "UInt8" | "UInt16" | "UInt32" | "UInt64" => {
            (C::Int, S::All)
        }
        "Decimal" => match number_kind(
            arguments.first().copied().unwrap_or(10),
            arguments.get(1).copied().unwrap_or(0),
        ) {
            C::Int => (C::Int, S::All),
            kind => (kind, S::Never),
        },
        // The order of what is no number, and of both zeros, is another one.
        "Float64" => (C::Float, S::AtLeastEqual),
        "Float32" => (C::Float, S::Never),
        "Bool" => (C::Bool, S::Equal),
        "DateTime" => (C::Time, S::All),
        // Beyond microseconds nothing is read.
        "DateTime64" if arguments.first().is_none_or(|digits| *digits <= 6) => (C::Time, S::All),
        "DateTime64" => (C::Time, S::Never),
        // Compared by their bytes, as here.
        "String" => (C::Text, S::All),
        _ => (C::Text, S::Never),
    };
    SqlColumn {
        name: column.name.clone(),
        kind,
        bound: None,
        compares,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_literals_that_stay_one_value() {
        for (value, expected) in [
            (SqlValue::Null, "NULL"),
            (SqlValue::Bool(true), "true"),
            (SqlValue::Int(-5), "-5"),
            (SqlValue::Float(0.5), "5e-1"),
            (SqlValue::Text("it's \\ 雨".into()), "'it\\'s \\\\ 雨'"),
            (
                SqlValue::Time(1_500_000),
                "fromUnixTimestamp64Micro(toInt64(1500000), 'UTC')",
            ),
            (SqlValue::Bytes(vec![0, 255]), "unhex('00ff')"),
        ] {
            assert_eq!(written(&value), expected);
        }
    }

    #[test]
    fn columns_are_read_as_what_keeps_their_values() {
        for (kind, expected) in [
            ("LowCardinality(Nullable(String))", ColumnType::Text),
            ("Nullable(UInt64)", ColumnType::Int),
            ("Decimal(18, 0)", ColumnType::Int),
            ("Decimal(38, 4)", ColumnType::Text),
            ("DateTime64(3, 'UTC')", ColumnType::Time),
            ("Date", ColumnType::Text),
            ("Array(Int8)", ColumnType::Text),
        ] {
            let column = TableColumn {
                name: "c".into(),
                kind: kind.into(),
            };
            assert_eq!(described(&column).kind, expected, "{kind}");
        }
    }
}
