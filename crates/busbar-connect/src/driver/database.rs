//! The database for look-ups, queries and statements of flows.

use std::sync::Arc;

use arrow::array::RecordBatch;
use busbar_connector::{
    ColumnType, PoolUse, Pooled, SessionEffect, SessionPool, SqlColumn, SqlCompares, SqlDatabase,
    SqlRows, SqlStatement, SqlTable, SqlValue, TextColumns, Work, number_kind,
};
use busbar_event::Error;
use serde_json::value::{RawValue, to_raw_value};

use super::dialect::{DriverDialect, DriverDialectName};
use super::row::{is_null, plain};
use super::session::{DriverColumn, DriverParameter, DriverSession};
use super::sink::table as look_at;
use super::types::{DriverTarget, sql};
use super::worker::DriverWorker;

/// Sessions with a database, and what is asked over them.
pub struct DriverDatabase {
    worker: Arc<DriverWorker>,
    dialect: &'static DriverDialect,
    pool: Arc<SessionPool<DriverSession>>,
}

impl DriverDatabase {
    /// The database of a worker; it is asked what it is where neither the file nor the address says so.
    ///
    /// # Errors
    /// As [`DriverSession::open`], where it has to be asked.
    pub(super) async fn new(
        name: &str,
        worker: Arc<DriverWorker>,
        dialect: Option<DriverDialectName>,
    ) -> Result<DriverDatabase, Error> {
        let login = &worker.login;
        let product = match (&dialect, &login.product) {
            (Some(_), _) => String::new(),
            (None, Some(product)) => product.clone(),
            (None, None) => DriverSession::open(&worker).await?.about.product.clone(),
        };
        Ok(DriverDatabase {
            dialect: DriverDialect::of(dialect, &product),
            pool: SessionPool::new(name, login.sessions, login.timeout),
            worker,
        })
    }

    async fn take(&self) -> Result<Pooled<DriverSession>, Error> {
        loop {
            let session = self.pool.take(|| DriverSession::open(&self.worker)).await?;
            if session.session.usable() {
                return Ok(session);
            }
            // The process has ended, and every session with it.
            self.pool.forget();
        }
    }

    async fn look(&self, path: &[String]) -> Result<Option<SqlTable>, Error> {
        let (schema, table) = match path {
            [table] => ("", table.as_str()),
            [schema, table] => (schema.as_str(), table.as_str()),
            _ => return Ok(None),
        };
        let mut session = self.take().await?;
        let found = look_at(&mut session.session, schema, table).await?;
        session.give_back();
        Ok(found.columns.map(|columns| SqlTable {
            path: match found.schema.is_empty() {
                true => vec![found.table],
                false => vec![found.schema, found.table],
            },
            columns: columns.into_iter().map(column).collect(),
        }))
    }

    async fn begin(&self, statement: &SqlStatement) -> Result<Box<dyn SqlRows>, Error> {
        let mut values: Vec<(i32, Box<RawValue>)> = Vec::new();
        let sql = statement.written(|value, _| match bound(value) {
            Some(value) => {
                values.push(value);
                "?".to_owned()
            }
            None => "NULL".to_owned(),
        });
        let parameters: Vec<_> = values
            .iter()
            .map(|(kind, value)| DriverParameter {
                kind: *kind,
                value,
                less: None,
            })
            .collect();
        let mut session = self.take().await?;
        session.session.sets |= statement.effect() == SessionEffect::Any;
        let answer = session.session.query(&sql, &parameters, None).await;
        let answer =
            answer.map_err(|failed| session.session.told(failed, &statement.table, "SELECT"))?;
        let mut rows = DriverSelected {
            session: Some(session),
            table: statement.table.clone(),
            names: Vec::new(),
            columns: None,
            ready: None,
            affected: None,
        };
        rows.take(&answer, Some(statement))?;
        Ok(Box::new(rows))
    }
}

impl SqlDatabase for DriverDatabase {
    fn quoted(&self, name: &str) -> String {
        self.dialect.exact(name)
    }

    fn describe<'a>(&'a self, path: &'a [String]) -> Work<'a, Result<Option<SqlTable>, Error>> {
        Box::pin(self.look(path))
    }

    fn run<'a>(&'a self, statement: &'a SqlStatement) -> Work<'a, Result<Box<dyn SqlRows>, Error>> {
        Box::pin(self.begin(statement))
    }

    fn limited(&self, rows: usize) -> String {
        self.dialect.limit_alone(rows)
    }

    fn pool(&self) -> PoolUse {
        self.pool.used()
    }
}

/// The rows of a statement that is under way.
struct DriverSelected {
    /// None once all rows have come.
    session: Option<Pooled<DriverSession>>,
    table: String,
    names: Vec<DriverColumn>,
    columns: Option<TextColumns>,
    ready: Option<RecordBatch>,
    affected: Option<u64>,
}

impl DriverSelected {
    /// Takes a page; the first one says what the columns are.
    fn take(&mut self, answer: &RawValue, first: Option<&SqlStatement>) -> Result<(), Error> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        let page = session.session.page(answer, &mut self.names)?;
        if let Some(statement) = first {
            match page.count {
                Some(count) => self.affected = Some(count),
                None => {
                    let named = self.names.iter();
                    let named = named.map(|column| (column.name.clone(), kind(column.kind, 0, -1)));
                    self.columns = Some(TextColumns::new(statement.answer_columns(named)));
                }
            }
        }
        if let Some(columns) = &mut self.columns {
            for row in &page.rows {
                let values = row.iter().zip(&self.names);
                let values: Vec<_> = values.map(|(value, column)| bytes(value, column)).collect();
                columns.push(values.iter().map(Option::as_deref))?;
            }
            self.ready = Some(columns.finish()?);
        }
        if !page.more
            && let Some(session) = self.session.take().filter(|session| !session.session.sets)
        {
            session.give_back();
        }
        Ok(())
    }

    async fn more(&mut self) -> Result<(), Error> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let answer = session.session.more().await;
        match answer {
            Ok(answer) => self.take(&answer, None),
            Err(failed) => {
                let told = session.session.told(failed, &self.table, "SELECT");
                self.session = None;
                Err(told)
            }
        }
    }
}

impl SqlRows for DriverSelected {
    fn next(&mut self) -> Work<'_, Result<Option<RecordBatch>, Error>> {
        Box::pin(async {
            if self.ready.is_none() {
                self.more().await?;
            }
            Ok(self.ready.take())
        })
    }

    fn affected(&self) -> Option<u64> {
        self.affected
    }
}

/// A value as a parameter; none for one that is written as `NULL`, whose type no database has to guess.
fn bound(value: &SqlValue) -> Option<(i32, Box<RawValue>)> {
    let text = value.text()?;
    let (kind, json) = match value {
        SqlValue::Bool(value) => (sql::BOOLEAN, to_raw_value(value)),
        SqlValue::Int(value) => (sql::BIGINT, to_raw_value(value)),
        // There are no others there.
        SqlValue::Float(value) if !value.is_finite() => return None,
        SqlValue::Float(_) => (sql::DOUBLE, to_raw_value(&text)),
        SqlValue::Time(_) => (sql::TIMESTAMP, to_raw_value(&text)),
        SqlValue::Bytes(_) => (sql::VARBINARY, to_raw_value(text.trim_start_matches("\\x"))),
        _ => (sql::VARCHAR, to_raw_value(&text)),
    };
    json.ok().map(|json| (kind, json))
}

/// A value of an answer, as columns of texts take it.
fn bytes(value: &RawValue, column: &DriverColumn) -> Option<Vec<u8>> {
    if is_null(value) {
        return None;
    }
    let text = plain(value);
    if !matches!(column.kind, sql::VARBINARY | sql::BLOB) {
        return Some(text.into_bytes());
    }
    let digits = (0..text.len() / 2).map(|at| text.get(at * 2..at * 2 + 2));
    digits
        .map(|digits| u8::from_str_radix(digits?, 16).ok())
        .collect()
}

fn column(target: DriverTarget) -> SqlColumn {
    let digits = target.digits.unwrap_or(-1);
    let kind = kind(target.kind, target.size, digits);
    let compares = match (target.kind, kind) {
        (sql::REAL, _) | (_, ColumnType::Binary) => SqlCompares::Never,
        (sql::VARCHAR | sql::CHAR, _) => SqlCompares::AtLeastEqual,
        (_, ColumnType::Text | ColumnType::Json) => SqlCompares::Never,
        (sql::BOOLEAN, _) => SqlCompares::Equal,
        _ => SqlCompares::All,
    };
    SqlColumn {
        name: target.name,
        kind,
        bound: None,
        compares,
    }
}

/// What a column of a type holds without loss.
fn kind(kind: i32, size: i32, digits: i32) -> ColumnType {
    match kind {
        sql::BOOLEAN => ColumnType::Bool,
        sql::TINYINT | sql::SMALLINT | sql::INTEGER | sql::BIGINT => ColumnType::Int,
        sql::REAL | sql::DOUBLE => ColumnType::Float,
        sql::NUMERIC => number_kind(size, digits),
        sql::TIMESTAMP | sql::TIMESTAMP_WITH_TIMEZONE => ColumnType::Time,
        sql::VARBINARY | sql::BLOB => ColumnType::Binary,
        _ => ColumnType::Text,
    }
}
