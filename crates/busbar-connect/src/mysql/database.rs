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

use super::failure::Failed;
use super::link::{Fetched, Head, Link, MysqlServer, SelectedColumn};
use super::wire::{identifier, literal};

/// Sessions with a server, and what is asked over them.
pub struct MysqlDatabase {
    server: Arc<MysqlServer>,
    pool: Arc<SessionPool<Link>>,
}

impl MysqlDatabase {
    pub(super) fn new(name: &str, server: MysqlServer, sessions: u16) -> MysqlDatabase {
        MysqlDatabase {
            pool: SessionPool::new(name, usize::from(sessions), server.timeout),
            server: Arc::new(server),
        }
    }

    async fn begin(&self, statement: &SqlStatement) -> Result<Box<dyn SqlRows>, Error> {
        let sql = statement.written(|value, _| written(value));
        loop {
            let session = self.pool.take(|| self.server.open()).await?;
            let is_new = session.is_new;
            let mut rows = MysqlSelected {
                server: Arc::clone(&self.server),
                session: Some(session),
                table: statement.table.clone(),
                columns: None,
                ready: VecDeque::new(),
                affected: None,
            };
            match rows.start(&sql, statement).await {
                Ok(()) => return Ok(Box::new(rows)),
                Err(Failed::Lost(error)) => {
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

impl SqlDatabase for MysqlDatabase {
    fn quoted(&self, name: &str) -> String {
        identifier(name)
    }

    fn describe<'a>(&'a self, path: &'a [String]) -> Work<'a, Result<Option<SqlTable>, Error>> {
        let (schema, table) = match path {
            [table] => (&*self.server.database, table.as_str()),
            [schema, table] => (schema.as_str(), table.as_str()),
            _ => return Box::pin(async { Ok(None) }),
        };
        Box::pin(async move {
            let text = "SELECT table_schema, table_name, column_name, data_type, column_type, \
                 COALESCE(numeric_precision, -1), COALESCE(numeric_scale, 0) \
                 FROM information_schema.columns WHERE table_schema = ";
            let value = |text: &str| SqlPart::Value(SqlValue::Text(text.to_owned()), None);
            let statement = SqlStatement {
                parts: vec![
                    SqlPart::Text(text.into()),
                    value(schema),
                    SqlPart::Text(" AND table_name = ".into()),
                    value(table),
                    SqlPart::Text(" ORDER BY table_schema, table_name, ordinal_position".into()),
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

    fn made_for(&self, kind: ColumnType, key: bool) -> Option<String> {
        Some(super::values::made_for(&kind.arrow(), key))
    }

    fn pool(&self) -> PoolUse {
        self.pool.used()
    }
}

/// The rows of a statement that is under way.
struct MysqlSelected {
    server: Arc<MysqlServer>,
    /// None once all rows have come.
    session: Option<Pooled<Link>>,
    table: String,
    columns: Option<TextColumns>,
    ready: VecDeque<RecordBatch>,
    affected: Option<u64>,
}

impl MysqlSelected {
    /// Sends the statement and reads its first rows, if it has some.
    async fn start(&mut self, sql: &str, statement: &SqlStatement) -> Result<(), Failed> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let link = &mut session.session;
        link.begin(sql).await?;
        let mut affected = 0;
        loop {
            let mut columns = Vec::new();
            match link.head(&mut columns, &mut affected).await? {
                Head::Rows => {
                    let named = columns.iter();
                    let named = named.map(|column| (column.name.clone(), kind(column)));
                    self.columns = Some(TextColumns::new(statement.answer_columns(named)));
                    return self.fetch().await;
                }
                Head::Done(true) => {}
                Head::Done(false) => {
                    self.affected = Some(affected);
                    self.give_back();
                    return Ok(());
                }
            }
        }
    }

    /// Reads more rows. Behind the last one the session is given back.
    async fn fetch(&mut self) -> Result<(), Failed> {
        let (Some(session), Some(columns)) = (&mut self.session, &mut self.columns) else {
            return Ok(());
        };
        let link = &mut session.session;
        let width = columns.schema().fields().len();
        let mut rows = Vec::new();
        let fetched = link.fetch(width, ROWS_BYTES, &mut rows).await?;
        if fetched == Fetched::All(true) {
            // A procedure answers with more than its rows.
            end(link).await?;
        }
        for row in &rows {
            columns.push(row.iter().map(Option::as_deref))?;
        }
        self.ready.push_back(columns.finish()?);
        if matches!(fetched, Fetched::All(_)) {
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

/// Reads the answers that are left, and lets go of them.
async fn end(link: &mut Link) -> Result<(), Failed> {
    loop {
        let (mut columns, mut affected) = (Vec::new(), 0);
        match link.head(&mut columns, &mut affected).await? {
            Head::Done(false) => return Ok(()),
            Head::Done(true) => {}
            Head::Rows => loop {
                let mut rows = Vec::new();
                match link.fetch(columns.len(), ROWS_BYTES, &mut rows).await? {
                    Fetched::Part => {}
                    Fetched::All(true) => break,
                    Fetched::All(false) => return Ok(()),
                }
            },
        }
    }
}

impl SqlRows for MysqlSelected {
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

/// A value as a literal. Sessions take backslashes as they are.
fn written(value: &SqlValue) -> String {
    match value {
        SqlValue::Null => "NULL".to_owned(),
        SqlValue::Bool(true) => "1".to_owned(),
        SqlValue::Bool(false) => "0".to_owned(),
        SqlValue::Int(value) => value.to_string(),
        // There are no others there.
        SqlValue::Float(value) if !value.is_finite() => "NULL".to_owned(),
        // With an exponent it is a floating-point number, not a decimal one.
        SqlValue::Float(value) => format!("{value:e}"),
        SqlValue::Bytes(bytes) => {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            format!("X'{}'", digits.collect::<String>())
        }
        other => literal(&other.text().unwrap_or_default()),
    }
}

/// Adds the columns that rows of the catalogue describe to their tables.
fn describe(batch: &RecordBatch, tables: &mut Vec<SqlTable>) {
    let texts: Option<Vec<_>> = (0..5)
        .map(|at| batch.column(at).as_string_opt::<i32>())
        .collect();
    let numbers = |at: usize, row: usize| {
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
        let (kind, compares) =
            column_kind(&text(3).to_lowercase(), numbers(5, row), numbers(6, row));
        if let Some(last) = tables.last_mut() {
            last.columns.push(SqlColumn {
                name: text(2).to_owned(),
                kind,
                bound: None,
                compares,
            });
        }
    }
}

/// What a column of a type holds without loss, and which comparisons are the same here and there.
fn column_kind(kind: &str, precision: i32, scale: i32) -> (ColumnType, SqlCompares) {
    match kind {
        "tinyint" | "smallint" | "mediumint" | "int" | "integer" | "bigint" | "year" => {
            (ColumnType::Int, SqlCompares::All)
        }
        "decimal" | "numeric" => match number_kind(precision, scale) {
            ColumnType::Text => (ColumnType::Text, SqlCompares::Never),
            kind => (kind, SqlCompares::All),
        },
        "double" => (ColumnType::Float, SqlCompares::All),
        "float" => (ColumnType::Float, SqlCompares::Never),
        "datetime" | "timestamp" => (ColumnType::Time, SqlCompares::All),
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "bit" => {
            (ColumnType::Binary, SqlCompares::Never)
        }
        "json" => (ColumnType::Json, SqlCompares::Never),
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum" | "date"
        | "uuid" => (ColumnType::Text, SqlCompares::AtLeastEqual),
        _ => (ColumnType::Text, SqlCompares::Never),
    }
}

/// The same for a column of an answer.
fn kind(column: &SelectedColumn) -> ColumnType {
    const BYTES: u16 = 63;
    match column.kind {
        1 | 2 | 3 | 8 | 9 | 13 => ColumnType::Int,
        4 | 5 => ColumnType::Float,
        7 | 12 => ColumnType::Time,
        16 => ColumnType::Binary,
        245 => ColumnType::Json,
        249..=254 if column.charset == BYTES => ColumnType::Binary,
        _ => ColumnType::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_literals_that_stay_one_value() {
        for (value, expected) in [
            (SqlValue::Null, "NULL"),
            (SqlValue::Bool(true), "1"),
            (SqlValue::Int(-5), "-5"),
            (SqlValue::Float(0.1), "1e-1"),
            (SqlValue::Float(f64::NAN), "NULL"),
            (SqlValue::Text("it's \\ 雨".into()), "'it''s \\ 雨'"),
            (SqlValue::Time(1_500_000), "'1970-01-01 00:00:01.500000'"),
            (SqlValue::Bytes(vec![0, 255]), "X'00ff'"),
        ] {
            assert_eq!(written(&value), expected);
        }
    }
}
