//! The database for look-ups, queries and statements of flows.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use busbar_connector::limits::ROWS_BYTES;
use busbar_connector::{
    ColumnType, PoolUse, Pooled, SessionPool, SqlColumn, SqlCompares, SqlDatabase, SqlPart,
    SqlRows, SqlStatement, SqlTable, SqlValue, TextColumns, Work, number_kind,
};
use busbar_event::Error;

use super::failure::MssqlFailed;
use super::link::{MssqlFetched, MssqlHead, MssqlLink, MssqlServer};
use super::sink::DEFAULT_SCHEMA;
use super::wire::{bytes_literal, identifier, literal};

/// Sessions with a server, and what is asked over them.
pub struct MssqlDatabase {
    server: Arc<MssqlServer>,
    pool: Arc<SessionPool<MssqlLink>>,
}

impl MssqlDatabase {
    pub(super) fn new(name: &str, server: MssqlServer, sessions: u16) -> MssqlDatabase {
        MssqlDatabase {
            pool: SessionPool::new(name, usize::from(sessions), server.timeout),
            server: Arc::new(server),
        }
    }

    async fn begin(&self, statement: &SqlStatement) -> Result<Box<dyn SqlRows>, Error> {
        let sql = statement.written(written);
        loop {
            let session = self.pool.take(|| self.server.open()).await?;
            let is_new = session.is_new;
            let mut rows = MssqlSelected {
                server: Arc::clone(&self.server),
                session: Some(session),
                table: statement.table.clone(),
                columns: None,
                ready: VecDeque::new(),
                affected: None,
            };
            match rows.start(&sql, statement).await {
                Ok(()) => return Ok(Box::new(rows)),
                Err(MssqlFailed::Lost(error)) => {
                    // The others were opened to the same server.
                    self.pool.forget();
                    if is_new || !statement.reads {
                        return Err(error);
                    }
                }
                Err(failed) => {
                    rows.give_back();
                    return Err(failed.told(self.server.doing(&statement.table, "SELECT")));
                }
            }
        }
    }
}

impl SqlDatabase for MssqlDatabase {
    fn quoted(&self, name: &str) -> String {
        identifier(name)
    }

    fn describe<'a>(&'a self, path: &'a [String]) -> Work<'a, Result<Option<SqlTable>, Error>> {
        let (schema, table) = match path {
            [table] => (DEFAULT_SCHEMA, table.as_str()),
            [schema, table] => (schema.as_str(), table.as_str()),
            _ => return Box::pin(async { Ok(None) }),
        };
        Box::pin(async move {
            let text = "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, NUMERIC_PRECISION, NUMERIC_SCALE \
                 FROM INFORMATION_SCHEMA.COLUMNS WHERE TABLE_SCHEMA = ";
            let value = |text: &str| SqlPart::Value(SqlValue::Text(text.to_owned()), None);
            let statement = SqlStatement {
                parts: vec![
                    SqlPart::Text(text.into()),
                    value(schema),
                    SqlPart::Text(" AND TABLE_NAME = ".into()),
                    value(table),
                    SqlPart::Text(" ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION".into()),
                ],
                reads: true,
                ..SqlStatement::default()
            };
            let mut found: Vec<SqlTable> = Vec::new();
            let mut rows = self.begin(&statement).await?;
            while let Some(batch) = rows.next().await? {
                describe(&batch, &mut found);
            }
            // The catalogue may find names in other cases, too.
            let exact = |found: &SqlTable| found.path == [schema, table];
            let at = found.iter().position(exact);
            Ok(match (at, found.len()) {
                (Some(at), _) => Some(found.swap_remove(at)),
                (None, 1) => found.pop(),
                (None, _) => None,
            })
        })
    }

    fn run<'a>(&'a self, statement: &'a SqlStatement) -> Work<'a, Result<Box<dyn SqlRows>, Error>> {
        Box::pin(self.begin(statement))
    }

    fn limited(&self, rows: usize) -> String {
        format!(" ORDER BY (SELECT NULL) OFFSET 0 ROWS FETCH NEXT {rows} ROWS ONLY")
    }

    fn pool(&self) -> PoolUse {
        self.pool.used()
    }
}

/// The rows of a statement that is under way.
struct MssqlSelected {
    server: Arc<MssqlServer>,
    /// None once all rows have come.
    session: Option<Pooled<MssqlLink>>,
    table: String,
    columns: Option<TextColumns>,
    ready: VecDeque<RecordBatch>,
    affected: Option<u64>,
}

impl MssqlSelected {
    /// Sends the statement and reads its first rows, if it has some.
    async fn start(&mut self, sql: &str, statement: &SqlStatement) -> Result<(), MssqlFailed> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let link = &mut session.session;
        link.begin(sql).await?;
        let mut affected = None;
        loop {
            match link.head().await? {
                MssqlHead::Rows(columns) => {
                    let named = columns.iter();
                    let named = named.map(|column| (column.name.clone(), column.of.kind()));
                    self.columns = Some(TextColumns::new(statement.answer_columns(named)));
                    return self.fetch().await;
                }
                MssqlHead::Done(count) => affected = Some(affected.unwrap_or(0) + count),
                MssqlHead::End => {
                    self.affected = Some(affected.unwrap_or(0));
                    self.give_back();
                    return Ok(());
                }
            }
        }
    }

    /// Reads more rows. Behind the last one the session is given back.
    async fn fetch(&mut self) -> Result<(), MssqlFailed> {
        let (Some(session), Some(columns)) = (&mut self.session, &mut self.columns) else {
            return Ok(());
        };
        let link = &mut session.session;
        let mut rows = Vec::new();
        let fetched = link.fetch(ROWS_BYTES, &mut rows).await?;
        if fetched == MssqlFetched::All {
            // A failure behind rows fails the statement; other answers of a procedure are of no use.
            while !matches!(link.head().await?, MssqlHead::End) {}
        }
        for row in &rows {
            columns.push(row.iter().map(Option::as_deref))?;
        }
        self.ready.push_back(columns.finish()?);
        if fetched == MssqlFetched::All {
            self.give_back();
        }
        Ok(())
    }

    fn give_back(&mut self) {
        if let Some(session) = self.session.take_if(|session| session.session.usable()) {
            session.give_back();
        }
        self.session = None;
    }
}

impl SqlRows for MssqlSelected {
    fn next(&mut self) -> Work<'_, Result<Option<RecordBatch>, Error>> {
        Box::pin(async {
            if self.ready.is_empty() {
                let fetched = self.fetch().await;
                fetched.map_err(|failed| {
                    let told = failed.told(self.server.doing(&self.table, "SELECT"));
                    self.give_back();
                    told
                })?;
            }
            Ok(self.ready.pop_front())
        })
    }

    fn affected(&self) -> Option<u64> {
        self.affected
    }
}

/// A value as a literal. A column of single bytes is compared with a text of such, so that its index is used.
fn written(value: &SqlValue, kind: Option<&str>) -> String {
    match value {
        SqlValue::Null => "NULL".to_owned(),
        SqlValue::Bool(true) => "1".to_owned(),
        SqlValue::Bool(false) => "0".to_owned(),
        SqlValue::Int(value) => value.to_string(),
        // There are no others there.
        SqlValue::Float(value) if !value.is_finite() => "NULL".to_owned(),
        // With an exponent it is a floating-point number, not a decimal one.
        SqlValue::Float(value) => format!("{value:e}"),
        SqlValue::Bytes(bytes) => bytes_literal(bytes),
        SqlValue::Time(_) => {
            let text = value.text().unwrap_or_default().replacen(' ', "T", 1);
            format!("CAST(N'{text}' AS datetime2)")
        }
        SqlValue::Text(text) => match literal(text).strip_prefix('N') {
            Some(plain) if kind == Some(PLAIN) && text.is_ascii() => plain.to_owned(),
            _ => literal(text),
        },
    }
}

/// The type of texts that are kept in single bytes.
const PLAIN: &str = "varchar";

/// Adds the columns that rows of the catalogue describe to their tables.
fn describe(batch: &RecordBatch, tables: &mut Vec<SqlTable>) {
    let texts: Option<Vec<_>> = (0..4)
        .map(|at| batch.column(at).as_string_opt::<i32>())
        .collect();
    let number = |at: usize, row: usize| {
        let column = batch.column(at);
        let text = arrow::util::display::array_value_to_string(column, row);
        text.ok()
            .and_then(|text| text.parse::<i32>().ok())
            .unwrap_or(-1)
    };
    let Some(texts) = texts else { return };
    for row in 0..batch.num_rows() {
        let text = |at: usize| texts[at].value(row);
        let path = [text(0).to_owned(), text(1).to_owned()];
        if tables.last().is_none_or(|last| last.path != path) {
            tables.push(SqlTable {
                path: path.to_vec(),
                columns: Vec::new(),
            });
        }
        let of = text(3).to_lowercase();
        let (kind, compares) = column_kind(&of, number(4, row), number(5, row));
        if let Some(last) = tables.last_mut() {
            last.columns.push(SqlColumn {
                name: text(2).to_owned(),
                kind,
                bound: matches!(of.as_str(), "char" | "varchar").then(|| PLAIN.to_owned()),
                compares,
            });
        }
    }
}

/// What a column of a type holds without loss, and which comparisons are the same here and there.
fn column_kind(kind: &str, precision: i32, scale: i32) -> (ColumnType, SqlCompares) {
    match kind {
        "tinyint" | "smallint" | "int" | "bigint" => (ColumnType::Int, SqlCompares::All),
        "bit" => (ColumnType::Bool, SqlCompares::Equal),
        "decimal" | "numeric" => match number_kind(precision, scale) {
            ColumnType::Text => (ColumnType::Text, SqlCompares::Never),
            kind => (kind, SqlCompares::All),
        },
        "float" => (ColumnType::Float, SqlCompares::All),
        "real" => (ColumnType::Float, SqlCompares::Never),
        "datetime2" | "datetimeoffset" => (ColumnType::Time, SqlCompares::All),
        // Kept in steps of 1/300 s, or of a minute: what is compared is not what is shown.
        "datetime" | "smalldatetime" => (ColumnType::Time, SqlCompares::Never),
        "binary" | "varbinary" | "image" | "timestamp" | "rowversion" | "hierarchyid"
        | "geometry" | "geography" => (ColumnType::Binary, SqlCompares::Never),
        "char" | "varchar" | "nchar" | "nvarchar" | "sysname" => {
            (ColumnType::Text, SqlCompares::AtLeastEqual)
        }
        _ => (ColumnType::Text, SqlCompares::Never),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_literals_that_stay_one_value() {
        for (value, kind, expected) in [
            (SqlValue::Null, None, "NULL"),
            (SqlValue::Bool(true), None, "1"),
            (SqlValue::Int(-5), None, "-5"),
            (SqlValue::Float(0.1), None, "1e-1"),
            (SqlValue::Float(f64::NAN), None, "NULL"),
            (
                SqlValue::Text("it's \\ 雨".into()),
                Some(PLAIN),
                "N'it''s \\ 雨'",
            ),
            (SqlValue::Text("a'b".into()), Some(PLAIN), "'a''b'"),
            (SqlValue::Text("a".into()), None, "N'a'"),
            (
                SqlValue::Time(1_500_000),
                None,
                "CAST(N'1970-01-01T00:00:01.500000' AS datetime2)",
            ),
            (SqlValue::Bytes(vec![0, 255]), None, "0x00ff"),
        ] {
            assert_eq!(written(&value, kind), expected);
        }
    }
}
