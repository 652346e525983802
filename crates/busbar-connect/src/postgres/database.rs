//! The database for look-ups, queries and statements of flows.

use std::sync::Arc;

use arrow::array::RecordBatch;
use busbar_change::postgres::oid;
use busbar_change::postgres::wire::{Column, identifier};
use busbar_connector::limits::{ROWS_BYTES, ROWS_FIRST, ROWS_MAX};
use busbar_connector::{
    ColumnType, PoolUse, Pooled, SessionEffect, SessionPool, SqlColumn, SqlCompares, SqlDatabase,
    SqlPart, SqlRows, SqlStatement, SqlTable, SqlValue, TextColumns, Work, number_kind,
};
use busbar_event::{Class, Error};
use bytes::Bytes;

use super::failure::Failed;
use super::link::{Answer, Fetched, Link, Server};
use super::types::numeric_scale;
use crate::relational::SqlSession;

/// Sessions with a server, and what is asked over them.
pub struct PostgresDatabase {
    server: Arc<Server>,
    pool: Arc<SessionPool<Link>>,
}

impl PostgresDatabase {
    pub(super) fn new(name: &str, server: Server, sessions: u16) -> PostgresDatabase {
        PostgresDatabase {
            pool: SessionPool::new(name, usize::from(sessions), server.timeout),
            server: Arc::new(server),
        }
    }

    async fn begin(&self, statement: &SqlStatement) -> Result<Box<dyn SqlRows>, Error> {
        let (sql, values) = numbered(statement);
        let values: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
        let resets = statement.effect() != SessionEffect::Nothing;
        loop {
            let mut session = self.pool.take(|| self.server.open()).await?;
            let is_new = session.is_new;
            if resets {
                session.session.reset_behind();
            }
            let mut rows = PostgresSelected {
                server: Arc::clone(&self.server),
                session: Some(session),
                table: statement.table.clone(),
                columns: None,
                first: None,
                ask: ROWS_FIRST as u32,
                affected: None,
            };
            match rows.start(&sql, &values, statement).await {
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

impl SqlDatabase for PostgresDatabase {
    fn quoted(&self, name: &str) -> String {
        identifier(name)
    }

    fn describe<'a>(&'a self, path: &'a [String]) -> Work<'a, Result<Option<SqlTable>, Error>> {
        let (schema, table) = match path {
            [table] => ("public", table.as_str()),
            [schema, table] => (schema.as_str(), table.as_str()),
            _ => return Box::pin(async { Ok(None) }),
        };
        Box::pin(async move {
            // A domain is its base type.
            let text = "SELECT a.attname, CASE WHEN t.typbasetype <> 0 THEN t.typbasetype ELSE a.atttypid END::int8, \
                 CASE WHEN t.typbasetype <> 0 THEN t.typtypmod ELSE a.atttypmod END \
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid \
                 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped AND n.nspname = ";
            let value = |text: &str| SqlPart::Value(SqlValue::Text(text.to_owned()), None);
            let statement = SqlStatement {
                parts: vec![
                    SqlPart::Text(text.into()),
                    value(schema),
                    SqlPart::Text(" AND c.relname = ".into()),
                    value(table),
                    SqlPart::Text(" ORDER BY a.attnum".into()),
                ],
                reads: true,
                ..SqlStatement::default()
            };
            let mut columns = Vec::new();
            let mut rows = self.begin(&statement).await?;
            while let Some(batch) = rows.next().await? {
                columns.extend(described(&batch));
            }
            let path = vec![schema.to_owned(), table.to_owned()];
            Ok((!columns.is_empty()).then_some(SqlTable { path, columns }))
        })
    }

    fn run<'a>(&'a self, statement: &'a SqlStatement) -> Work<'a, Result<Box<dyn SqlRows>, Error>> {
        Box::pin(self.begin(statement))
    }

    fn made_for(&self, kind: ColumnType, _key: bool) -> Option<String> {
        Some(match kind {
            // Kept as it is written.
            ColumnType::Json => "json".into(),
            kind => super::types::made_for(&kind.arrow()),
        })
    }

    fn pool(&self) -> PoolUse {
        self.pool.used()
    }
}

/// The rows of a statement that is under way.
struct PostgresSelected {
    server: Arc<Server>,
    /// None once all rows have come.
    session: Option<Pooled<Link>>,
    table: String,
    columns: Option<(Vec<Column>, TextColumns)>,
    /// Rows that came with the beginning.
    first: Option<RecordBatch>,
    /// How many rows are asked for next.
    ask: u32,
    affected: Option<u64>,
}

impl PostgresSelected {
    async fn start(
        &mut self,
        sql: &str,
        values: &[Option<&str>],
        statement: &SqlStatement,
    ) -> Result<(), Failed> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        session.session.begin(sql, values, self.ask).await?;
        let mut answer = Answer::default();
        let fetched = session.session.fetch(&mut answer).await?;
        if answer.columns.is_empty() && fetched == Fetched::All {
            self.affected = Some(answer.count());
        }
        let kinds = answer.columns.iter();
        let kinds = kinds.map(|column| (column.name.clone(), kind(column.oid, column.modifier)));
        let columns = statement.answer_columns(kinds);
        self.columns = Some((answer.columns.clone(), TextColumns::new(columns)));
        self.first = Some(self.taken(answer, fetched).await?);
        Ok(())
    }

    async fn fetch(&mut self) -> Result<Option<RecordBatch>, Failed> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let Some(session) = &mut self.session else {
            return Ok(None);
        };
        session.session.more(self.ask).await?;
        let mut answer = Answer::default();
        let fetched = session.session.fetch(&mut answer).await?;
        self.taken(answer, fetched).await.map(Some)
    }

    /// Rows as columns. Behind the last one the session is given back.
    async fn taken(&mut self, answer: Answer, fetched: Fetched) -> Result<RecordBatch, Failed> {
        if fetched == Fetched::All {
            if let Some(session) = &mut self.session {
                session.session.finish().await?;
            }
            let open = self.session.as_ref();
            if let Some(session) = open.filter(|session| session.session.in_transaction()) {
                let error = session.left_open();
                self.session = None;
                return Err(error.into());
            }
            self.give_back();
        }
        let Some((kinds, columns)) = &mut self.columns else {
            return Err(Error::new(Class::Permanent, "database.rows").into());
        };
        let mut bytes = Vec::new();
        for row in &answer.rows {
            bytes.clear();
            for (value, column) in row.iter().zip(kinds.iter()) {
                bytes.push(value.as_ref().map(|value| plain(value, column.oid)));
            }
            columns.push(bytes.iter().map(Option::as_deref))?;
        }
        let (rows, size) = (columns.rows(), columns.bytes());
        if rows > 0 {
            let fitting = rows * ROWS_BYTES / size.max(1);
            self.ask = fitting.clamp(1, ROWS_MAX) as u32;
        }
        Ok(columns.finish()?)
    }

    fn give_back(&mut self) {
        let others_may = |session: &mut Pooled<Link>| {
            session.session.usable() && !session.session.in_transaction()
        };
        if let Some(session) = self.session.take_if(others_may) {
            session.give_back();
        }
        self.session = None;
    }
}

impl SqlRows for PostgresSelected {
    fn next(&mut self) -> Work<'_, Result<Option<RecordBatch>, Error>> {
        Box::pin(async {
            let fetched = self.fetch().await;
            fetched.map_err(|failed| {
                let told = failed.told(self.server.doing(&self.table, "SELECT"));
                self.give_back();
                told
            })
        })
    }

    fn affected(&self) -> Option<u64> {
        self.affected
    }
}

/// A value as Busbar reads it: bytes are not digits, and blanks that only fill a column up are none.
fn plain(value: &Bytes, of: u32) -> std::borrow::Cow<'_, [u8]> {
    match of {
        oid::BYTEA => match value.strip_prefix(b"\\x") {
            Some(digits) => digits
                .chunks(2)
                .map(|pair| {
                    let digit = |at: usize| {
                        let digit = pair.get(at).map(|byte| char::from(*byte));
                        digit.and_then(|digit| digit.to_digit(16)).unwrap_or(0) as u8
                    };
                    digit(0) << 4 | digit(1)
                })
                .collect::<Vec<u8>>()
                .into(),
            None => value[..].into(),
        },
        oid::BPCHAR => {
            let end = value.iter().rposition(|byte| *byte != b' ');
            value[..end.map_or(0, |end| end + 1)].into()
        }
        _ => value[..].into(),
    }
}

/// The statement with `$1`, `$2` … in the places of its values.
fn numbered(statement: &SqlStatement) -> (String, Vec<Option<String>>) {
    let (mut sql, mut values) = (String::new(), Vec::new());
    for part in &statement.parts {
        match part {
            SqlPart::Text(text) => sql.push_str(text),
            SqlPart::Value(value, kind) => {
                values.push(value.text());
                sql.push_str(&format!("${}", values.len()));
                if let Some(kind) = kind {
                    sql.push_str(&format!("::{kind}"));
                }
            }
            SqlPart::OneOf(column, some, kind) => {
                values.push(Some(array(some)));
                sql.push_str(&format!("{column} = ANY(${}", values.len()));
                if let Some(kind) = kind {
                    sql.push_str(&format!("::{kind}[]"));
                }
                sql.push(')');
            }
        }
    }
    (sql, values)
}

/// Values as the text of an array.
fn array(values: &[SqlValue]) -> String {
    let mut text = String::from("{");
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        match value.text() {
            None => text.push_str("NULL"),
            Some(value) => {
                text.push('"');
                for c in value.chars() {
                    if matches!(c, '"' | '\\') {
                        text.push('\\');
                    }
                    text.push(c);
                }
                text.push('"');
            }
        }
    }
    text.push('}');
    text
}

/// The columns that rows of the catalogue describe.
fn described(batch: &RecordBatch) -> Vec<SqlColumn> {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    let (Some(names), Some(oids), Some(modifiers)) = (
        batch.column(0).as_string_opt::<i32>(),
        batch.column(1).as_primitive_opt::<Int64Type>(),
        batch.column(2).as_primitive_opt::<Int64Type>(),
    ) else {
        return Vec::new();
    };
    let column = |row: usize| {
        let of = u32::try_from(oids.value(row)).unwrap_or(0);
        let modifier = i32::try_from(modifiers.value(row)).unwrap_or(-1);
        let kind = kind(of, modifier);
        let (bound, compares) = compares(of, kind);
        SqlColumn {
            name: names.value(row).to_owned(),
            kind,
            bound: bound.map(str::to_owned),
            compares,
        }
    };
    (0..batch.num_rows()).map(column).collect()
}

/// What a column of a type holds without loss; its modifier is -1 without one.
fn kind(of: u32, modifier: i32) -> ColumnType {
    match of {
        oid::BOOL => ColumnType::Bool,
        oid::INT2 | oid::INT4 | oid::INT8 => ColumnType::Int,
        oid::FLOAT4 | oid::FLOAT8 => ColumnType::Float,
        oid::NUMERIC if modifier >= 4 => number_kind((modifier - 4) >> 16, numeric_scale(modifier)),
        oid::TIMESTAMP | oid::TIMESTAMPTZ => ColumnType::Time,
        oid::BYTEA => ColumnType::Binary,
        oid::JSON | oid::JSONB => ColumnType::Json,
        _ => ColumnType::Text,
    }
}

/// The type that values are given, and which comparisons are the same here and there.
fn compares(of: u32, kind: ColumnType) -> (Option<&'static str>, SqlCompares) {
    match of {
        oid::BOOL => (Some("bool"), SqlCompares::All),
        oid::INT2 | oid::INT4 | oid::INT8 => (Some("int8"), SqlCompares::All),
        oid::FLOAT8 => (Some("float8"), SqlCompares::All),
        oid::FLOAT4 => (Some("float4"), SqlCompares::Never),
        oid::NUMERIC if kind != ColumnType::Text => (Some("numeric"), SqlCompares::All),
        oid::NUMERIC => (Some("numeric"), SqlCompares::Never),
        oid::TEXT | oid::VARCHAR => (Some("text"), SqlCompares::Equal),
        oid::BPCHAR => (Some("bpchar"), SqlCompares::AtLeastEqual),
        oid::TIMESTAMP => (Some("timestamp"), SqlCompares::All),
        oid::TIMESTAMPTZ => (Some("timestamptz"), SqlCompares::All),
        oid::DATE => (Some("date"), SqlCompares::AtLeastEqual),
        oid::UUID => (Some("uuid"), SqlCompares::AtLeastEqual),
        _ => (None, SqlCompares::Never),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_numbered_and_lists_are_arrays() {
        let statement = SqlStatement {
            parts: vec![
                SqlPart::Text("SELECT a FROM t WHERE ".into()),
                SqlPart::OneOf(
                    "b".into(),
                    vec![SqlValue::Text("a\"\\,".into()), SqlValue::Null],
                    Some("text".into()),
                ),
                SqlPart::Text(" AND c = ".into()),
                SqlPart::Value(SqlValue::Int(5), Some("int8".into())),
            ],
            ..SqlStatement::default()
        };
        let (sql, values) = numbered(&statement);
        assert_eq!(
            sql,
            "SELECT a FROM t WHERE b = ANY($1::text[]) AND c = $2::int8"
        );
        assert_eq!(
            values,
            [Some(r#"{"a\"\\,",NULL}"#.to_owned()), Some("5".to_owned())]
        );
    }

    #[test]
    fn numbers_are_kept_whole_or_as_text() {
        let numeric = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
        assert_eq!(kind(oid::NUMERIC, numeric(18, 0)), ColumnType::Int);
        assert_eq!(kind(oid::NUMERIC, numeric(19, 0)), ColumnType::Text);
        assert_eq!(kind(oid::NUMERIC, numeric(15, 2)), ColumnType::Float);
        assert_eq!(kind(oid::NUMERIC, numeric(16, 2)), ColumnType::Text);
        assert_eq!(kind(oid::NUMERIC, -1), ColumnType::Text);
        assert_eq!(
            &*plain(&Bytes::from_static(b"\\x00ff"), oid::BYTEA),
            b"\x00\xff"
        );
        for (padded, value) in [("ab  ", "ab"), ("a\n  ", "a\n"), ("   ", ""), ("", "")] {
            let padded = Bytes::from_static(padded.as_bytes());
            assert_eq!(&*plain(&padded, oid::BPCHAR), value.as_bytes());
        }
    }
}
