//! The database for look-ups, queries and statements of flows.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use busbar_connector::limits::{ROWS_BYTES, ROWS_MAX};
use busbar_connector::{
    ColumnType, PoolUse, Pooled, SessionPool, SqlColumn, SqlCompares, SqlDatabase, SqlPart,
    SqlRows, SqlStatement, SqlTable, SqlValue, TextColumns, Work,
};
use busbar_event::{Class, Error, quote};

use super::frame::{CqlAnswer, CqlBound, CqlPage, CqlPrepared, CqlRequest, CqlRows, write_value};
use super::kind::{CqlCell, CqlType};
use super::limits::{FIND_KEYS, PAGE_ROWS};
use super::link::{CassandraLink, CassandraServer, CqlFailed, quoted, strange};
use super::table::{CassandraTable, ColumnRole, with_values};

/// Sessions with a cluster, and what is asked over them.
pub struct CassandraDatabase {
    server: Arc<CassandraServer>,
    pool: Arc<SessionPool<CassandraLink>>,
}

/// A statement in CQL, and its values.
struct CqlAsked {
    text: String,
    values: Vec<SqlValue>,
    /// It was made for a table: a value that its column cannot have finds nothing.
    finds: bool,
}

/// Values as they are sent; none where one is no value of its column.
type CqlEncoded = Result<Vec<u8>, usize>;

/// A statement that was sent, its values, and the answer.
type CqlBegun = (Arc<CqlPrepared>, Vec<u8>, CqlAnswer);

impl CassandraDatabase {
    pub(super) fn new(name: &str, server: CassandraServer, sessions: u16) -> CassandraDatabase {
        CassandraDatabase {
            pool: SessionPool::new(name, usize::from(sessions), server.timeout),
            server: Arc::new(server),
        }
    }

    async fn session(&self) -> Result<Pooled<CassandraLink>, Error> {
        self.pool.take(|| self.server.open()).await
    }

    /// What becomes of a session on which something failed: nothing more where it is to be tried again on another one, because this
    /// one was lost while nobody used it, or the server has forgotten a statement on it.
    ///
    /// # Errors
    /// The failure as people see it.
    fn again(
        &self,
        session: Pooled<CassandraLink>,
        failed: CqlFailed,
        reads: bool,
        table: &str,
    ) -> Result<(), Error> {
        let again = match &failed {
            CqlFailed::Lost(error) => reads && error.class() == Class::Transient,
            CqlFailed::Refused(refusal) => refusal.is_unprepared(),
        };
        if again && !session.is_new {
            // The others were opened to the same server.
            self.pool.forget();
            return Ok(());
        }
        let right = if reads { "SELECT" } else { "MODIFY" };
        let told = failed.told(self.server.doing(&session.session, table, right));
        if session.session.rests() {
            session.give_back();
        }
        Err(told)
    }

    async fn begin(&self, statement: &SqlStatement) -> Result<Box<dyn SqlRows>, Error> {
        let asked = CqlAsked::of(statement);
        let (begun, session) = loop {
            let mut session = self.session().await?;
            match self.begin_on(&mut session.session, &asked, statement).await {
                Ok(begun) => break (begun, session),
                Err(failed) => self.again(session, failed, statement.reads, &statement.table)?,
            }
        };
        let mut selected = CassandraSelected {
            server: Arc::clone(&self.server),
            session: Some(session),
            table: statement.table.clone(),
            prepared: None,
            values: Vec::new(),
            behind: None,
            columns: TextColumns::new(Arc::new(Schema::empty())),
            page: None,
        };
        match begun {
            Some((prepared, values, CqlAnswer::Rows(rows))) => {
                let named = rows.columns.iter();
                let named = named.map(|column| (column.name.clone(), column.kind.column_type()));
                selected.columns = TextColumns::new(statement.answer_columns(named));
                (selected.prepared, selected.values) = (Some(prepared), values);
                selected.take(rows);
            }
            _ => {
                if let Some(columns) = &statement.columns {
                    selected.columns = TextColumns::new(Arc::clone(columns));
                }
                selected.end();
            }
        }
        Ok(Box::new(selected))
    }

    /// Sends a statement; none where a value is none of its column, so that it finds nothing.
    async fn begin_on(
        &self,
        link: &mut CassandraLink,
        asked: &CqlAsked,
        statement: &SqlStatement,
    ) -> Result<Option<CqlBegun>, CqlFailed> {
        let prepared = link.prepare(&asked.text).await?;
        let values = match encode(&prepared, &asked.values) {
            Ok(values) => values,
            Err(_) if asked.finds => return Ok(None),
            Err(at) => return Err(self.no_value(&prepared, &asked.values, at).into()),
        };
        let page = CqlPage {
            rows: PAGE_ROWS,
            behind: None,
        };
        let bound = CqlBound {
            id: &prepared.id,
            count: asked.values.len(),
            values: &values,
        };
        let request = CqlRequest::execute(bound, self.server.consistency, &page);
        match link.ask(&request).await {
            Ok(answer) => Ok(Some((prepared, values, answer))),
            Err(CqlFailed::Refused(refusal))
                if !asked.values.is_empty() && !refusal.is_unprepared() =>
            {
                let right = if statement.reads { "SELECT" } else { "MODIFY" };
                let doing = self.server.doing(link, &statement.table, right);
                Err(refusal.told(with_values(doing)).into())
            }
            Err(failed) => Err(failed),
        }
    }

    fn no_value(&self, prepared: &CqlPrepared, values: &[SqlValue], at: usize) -> Error {
        match (prepared.takes.get(at), values.get(at)) {
            (Some(takes), Some(value)) => Error::new(Class::Permanent, "cassandra.range")
                .with("column", &takes.name)
                .with("value", quote(&value.text().unwrap_or_default())),
            _ => Error::new(Class::Configuration, "cassandra.values")
                .with("takes", prepared.takes.len())
                .with("given", values.len()),
        }
    }

    /// Finds rows by values of columns, a statement for each.
    async fn find_rows(
        &self,
        table: &SqlTable,
        key: &[usize],
        values: &[Vec<SqlValue>],
        columns: &[usize],
    ) -> Result<Vec<RecordBatch>, Error> {
        let name = |at: &usize| quoted(&table.columns[*at].name);
        let path: Vec<String> = table.path.iter().map(|part| quoted(part)).collect();
        let path = path.join(".");
        let names: Vec<String> = columns.iter().map(name).collect();
        let tests: Vec<String> = key.iter().map(|at| format!("{} = ?", name(at))).collect();
        let text = format!(
            "SELECT {} FROM {path} WHERE {}",
            names.join(", "),
            tests.join(" AND ")
        );
        let fields = columns.iter().map(|at| {
            let column = &table.columns[*at];
            column.kind.field(&column.name)
        });
        let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let mut batches = Vec::new();
        let count = values.first().map_or(0, Vec::len);
        for begin in (0..count).step_by(FIND_KEYS) {
            let some = begin..count.min(begin + FIND_KEYS);
            let rows = some.map(|row| values.iter().map(|column| column[row].clone()).collect());
            let rows: Vec<Vec<SqlValue>> = rows.collect();
            let batch = loop {
                let mut session = self.session().await?;
                match self
                    .find_on(&mut session.session, &text, &rows, &schema)
                    .await
                {
                    Ok(batch) => {
                        session.give_back();
                        break batch;
                    }
                    Err(failed) => self.again(session, failed, true, &path)?,
                }
            };
            batches.push(batch);
        }
        Ok(batches)
    }

    /// The rows that a statement finds for each of these values.
    async fn find_on(
        &self,
        link: &mut CassandraLink,
        text: &str,
        values: &[Vec<SqlValue>],
        schema: &SchemaRef,
    ) -> Result<RecordBatch, CqlFailed> {
        let prepared = link.prepare(text).await?;
        // Two rows show that there are several.
        let page = CqlPage {
            rows: 2,
            behind: None,
        };
        let mut requests = Vec::new();
        for row in values {
            // A value that its column cannot have finds nothing.
            if let Ok(values) = encode(&prepared, row) {
                let bound = CqlBound {
                    id: &prepared.id,
                    count: row.len(),
                    values: &values,
                };
                requests.push(CqlRequest::execute(bound, self.server.consistency, &page));
            }
        }
        let mut made = TextColumns::new(Arc::clone(schema));
        for answer in link.ask_all(&requests).await? {
            match answer {
                CqlAnswer::Rows(mut rows) => push_all(link, &mut rows, &mut made, usize::MAX)?,
                CqlAnswer::Refused(refusal) => return Err(CqlFailed::Refused(refusal)),
                _ => return Err(strange(&link.address, "no rows").into()),
            }
        }
        Ok(made.finish()?)
    }
}

impl CqlAsked {
    fn of(statement: &SqlStatement) -> CqlAsked {
        let finds = statement.reads && statement.columns.is_some();
        if !finds {
            let mut values = Vec::new();
            let text = statement.written(|value, _| {
                values.push(value.clone());
                "?".to_owned()
            });
            return CqlAsked {
                text,
                values,
                finds,
            };
        }
        // A column may be tested once only; the rows are tested again.
        let (mut text, mut values, mut tested) = (String::new(), Vec::new(), HashSet::new());
        for part in &statement.parts {
            match part {
                SqlPart::Text(part) => text.push_str(part),
                SqlPart::Value(value, _) => {
                    let begin = text
                        .rfind(" AND ")
                        .or_else(|| text.rfind(" WHERE "))
                        .unwrap_or(0);
                    let name = text[begin..]
                        .trim_start_matches(" AND ")
                        .trim_start_matches(" WHERE ");
                    if tested.insert(name.to_owned()) {
                        text.push('?');
                        values.push(value.clone());
                    } else {
                        text.truncate(begin);
                    }
                }
                SqlPart::OneOf(column, _, _) => text.push_str(column),
            }
        }
        // There is no statement without columns; rows are counted all the same.
        if let Some(rest) = text.strip_prefix("SELECT 1 FROM ") {
            text = format!("SELECT * FROM {rest}");
        }
        if !values.is_empty() {
            text.push_str(" ALLOW FILTERING");
        }
        CqlAsked {
            text,
            values,
            finds,
        }
    }
}

fn encode(prepared: &CqlPrepared, values: &[SqlValue]) -> CqlEncoded {
    if prepared.takes.len() != values.len() {
        return Err(usize::MAX);
    }
    let mut out = Vec::new();
    for (at, (takes, value)) in prepared.takes.iter().zip(values).enumerate() {
        let Some(cell) = CqlCell::of(value) else {
            write_value(None, &mut out);
            continue;
        };
        let mut bytes = Vec::new();
        // A statement may give a moment with more digits than the column keeps.
        let lossy = takes.kind == CqlType::Timestamp;
        takes.kind.encode(&cell, lossy, &mut bytes).ok_or(at)?;
        write_value(Some(&bytes), &mut out);
    }
    Ok(out)
}

/// Adds rows to columns, until they have about so many bytes.
fn push_all(
    link: &CassandraLink,
    rows: &mut CqlRows,
    made: &mut TextColumns,
    bytes: usize,
) -> Result<(), Error> {
    while made.bytes() < bytes && made.rows() < ROWS_MAX {
        let Some(row) = rows.next().map_err(|why| link.unreadable(&why))? else {
            break;
        };
        let texts = rows.columns.iter().zip(&row).map(|(column, value)| {
            let text = value.as_deref().map(|value| column.kind.text(value));
            let text = text
                .transpose()
                .map_err(|_| strange(&link.address, "a value of another type"));
            text.map(Option::flatten)
        });
        let texts = texts.collect::<Result<Vec<_>, Error>>()?;
        made.push(texts.iter().map(Option::as_deref))?;
    }
    Ok(())
}

impl SqlDatabase for CassandraDatabase {
    fn quoted(&self, name: &str) -> String {
        quoted(name)
    }

    fn describe<'a>(&'a self, path: &'a [String]) -> Work<'a, Result<Option<SqlTable>, Error>> {
        let (keyspace, name) = match path {
            [name] => (self.server.keyspace.as_str(), name.as_str()),
            [keyspace, name] => (keyspace.as_str(), name.as_str()),
            _ => return Box::pin(async { Ok(None) }),
        };
        Box::pin(async move {
            let table = loop {
                let mut session = self.session().await?;
                match CassandraTable::look(&mut session.session, keyspace, name).await {
                    Ok(table) => {
                        session.give_back();
                        break table;
                    }
                    Err(failed) => self.again(session, failed, true, "\"system_schema\"")?,
                }
            };
            Ok(table.map(|table| SqlTable {
                columns: table.columns.iter().map(column_of).collect(),
                path: vec![table.keyspace, table.name],
            }))
        })
    }

    fn run<'a>(&'a self, statement: &'a SqlStatement) -> Work<'a, Result<Box<dyn SqlRows>, Error>> {
        Box::pin(self.begin(statement))
    }

    fn find<'a>(
        &'a self,
        table: &'a SqlTable,
        key: &'a [usize],
        values: &'a [Vec<SqlValue>],
        columns: &'a [usize],
    ) -> Option<Work<'a, Result<Vec<RecordBatch>, Error>>> {
        Some(Box::pin(self.find_rows(table, key, values, columns)))
    }

    fn pool(&self) -> PoolUse {
        self.pool.used()
    }
}

/// A column as Busbar sees it. Values of the key are compared over there.
fn column_of(column: &super::table::CassandraColumn) -> SqlColumn {
    let kind = column
        .kind
        .as_ref()
        .map_or(ColumnType::Json, CqlType::column_type);
    let compares = match (column.role, kind) {
        (ColumnRole::Value, _) => SqlCompares::Never,
        // Fewer digits, and other numbers that are equal.
        (_, ColumnType::Time | ColumnType::Float | ColumnType::Json) => SqlCompares::Never,
        _ => SqlCompares::AtLeastEqual,
    };
    SqlColumn {
        name: column.name.clone(),
        kind,
        bound: None,
        compares,
    }
}

/// The rows of a statement that is under way.
struct CassandraSelected {
    server: Arc<CassandraServer>,
    /// None once all rows have come.
    session: Option<Pooled<CassandraLink>>,
    table: String,
    prepared: Option<Arc<CqlPrepared>>,
    values: Vec<u8>,
    /// Where the next page begins.
    behind: Option<bytes::Bytes>,
    columns: TextColumns,
    /// The page whose rows are being handed on.
    page: Option<CqlRows>,
}

impl CassandraSelected {
    fn take(&mut self, mut rows: CqlRows) {
        self.behind = rows.more.take();
        self.page = Some(rows);
    }

    /// All rows have come.
    fn end(&mut self) {
        if let Some(session) = self.session.take_if(|session| session.session.rests()) {
            session.give_back();
        }
        self.session = None;
        self.page = None;
    }

    async fn fetch(&mut self) -> Result<Option<RecordBatch>, Error> {
        loop {
            let Some(session) = &mut self.session else {
                return Ok(None);
            };
            let link = &mut session.session;
            if let Some(page) = &mut self.page {
                push_all(link, page, &mut self.columns, ROWS_BYTES)?;
                if self.columns.rows() > 0 {
                    return self.columns.finish().map(Some);
                }
            }
            let (Some(behind), Some(prepared)) = (self.behind.take(), &self.prepared) else {
                self.end();
                return Ok(None);
            };
            let page = CqlPage {
                rows: PAGE_ROWS,
                behind: Some(behind),
            };
            let bound = CqlBound {
                id: &prepared.id,
                count: prepared.takes.len(),
                values: &self.values,
            };
            let request = CqlRequest::execute(bound, self.server.consistency, &page);
            match link.ask(&request).await {
                Ok(CqlAnswer::Rows(rows)) => {
                    link.check_more(page.behind.as_ref(), rows.more.as_ref())?;
                    self.take(rows);
                }
                Ok(_) => return Err(strange(&link.address, "no rows")),
                Err(failed) => {
                    let told = failed.told(self.server.doing(link, &self.table, "SELECT"));
                    self.end();
                    return Err(told);
                }
            }
        }
    }
}

impl SqlRows for CassandraSelected {
    fn next(&mut self) -> Work<'_, Result<Option<RecordBatch>, Error>> {
        Box::pin(self.fetch())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_tests_each_column_once_and_may_be_filtered() {
        let text = |text: &str| SqlPart::Text(text.into());
        let value = |value| SqlPart::Value(SqlValue::Int(value), None);
        let mut statement = SqlStatement {
            parts: vec![
                text("SELECT 1 FROM \"k\".\"t\" WHERE \"a\" = "),
                value(1),
                text(" AND \"b\" = "),
                value(2),
                text(" AND \"a\" = "),
                value(3),
                text(" LIMIT 5"),
            ],
            columns: Some(Arc::new(Schema::empty())),
            reads: true,
            ..SqlStatement::default()
        };
        let asked = CqlAsked::of(&statement);
        assert_eq!(
            asked.text,
            "SELECT * FROM \"k\".\"t\" WHERE \"a\" = ? AND \"b\" = ? LIMIT 5 ALLOW FILTERING"
        );
        assert_eq!(asked.values, [SqlValue::Int(1), SqlValue::Int(2)]);
        // A statement of a flow stays as it is.
        statement.columns = None;
        let asked = CqlAsked::of(&statement);
        assert!(
            asked
                .text
                .ends_with("\"a\" = ? AND \"b\" = ? AND \"a\" = ? LIMIT 5")
        );
        assert_eq!(asked.values.len(), 3);
    }
}
