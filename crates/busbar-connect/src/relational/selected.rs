//! Statements of look-ups, queries and flows over the sessions of a pool.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::util::display::array_value_to_string;
use busbar_connector::limits::ROWS_BYTES;
use busbar_connector::{
    Pooled, SessionEffect, SessionPool, SqlColumn, SqlPart, SqlRows, SqlStatement, SqlTable,
    SqlValue, TextColumns, Work,
};
use busbar_event::Error;

use super::session::{Selecting, StreamedSession};
use super::{Doing, Failed, SessionServer, SqlSession};

/// Sessions with a server, and what is asked over them.
pub struct PooledServer<S: SessionServer> {
    pub server: Arc<S>,
    pub pool: Arc<SessionPool<S::Session>>,
    /// A value as a literal of SQL, of the type that it is given, if any.
    written: fn(&SqlValue, Option<&str>) -> String,
}

/// What the catalogue says of a column: its name, its type, and the digits of a number, in all and behind the point; -1 where
/// it says nothing.
pub struct CatalogueColumn<'a> {
    pub name: &'a str,
    pub kind: &'a str,
    pub precision: i32,
    pub scale: i32,
}

impl<S: SessionServer> PooledServer<S>
where
    S::Session: StreamedSession,
{
    /// A pool of at most so many sessions of a connection, for which a statement waits so long.
    pub fn new(
        name: &str,
        server: S,
        sessions: u16,
        wait: Duration,
        written: fn(&SqlValue, Option<&str>) -> String,
    ) -> PooledServer<S> {
        PooledServer {
            pool: SessionPool::new(name, usize::from(sessions), wait),
            server: Arc::new(server),
            written,
        }
    }

    /// Sends a statement; what only reads is sent again where a session was lost that had been used before.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn begin(&self, statement: &SqlStatement) -> Result<Box<dyn SqlRows>, Error> {
        let sql = statement.written(self.written);
        let resets = statement.effect() != SessionEffect::Nothing;
        loop {
            let session = self.pool.take(|| self.server.open()).await?;
            let is_new = session.is_new;
            let mut rows = SelectedRows {
                server: Arc::clone(&self.server),
                session: Some(session),
                table: statement.table.clone(),
                left_by: resets.then(|| sql.clone()),
                columns: None,
                ready: None,
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
                    rows.give_back().await;
                    return Err(failed.told(self.server.doing(&statement.table, "SELECT")));
                }
            }
        }
    }

    /// Looks a table up in the catalogue. The statement is written as what stands before the schema, between it and the table,
    /// and behind the table; its rows are schema, table, column, type, digits and those behind the point, in order.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn catalogued(
        &self,
        [schema, table]: [&str; 2],
        sql: [&str; 3],
        column: fn(CatalogueColumn<'_>) -> SqlColumn,
    ) -> Result<Option<SqlTable>, Error> {
        let text = |at: usize| SqlPart::Text(sql[at].into());
        let value = |text: &str| SqlPart::Value(SqlValue::Text(text.to_owned()), None);
        let statement = SqlStatement {
            parts: vec![text(0), value(schema), text(1), value(table), text(2)],
            reads: true,
            ..SqlStatement::default()
        };
        let mut found: Vec<SqlTable> = Vec::new();
        let mut rows = self.begin(&statement).await?;
        while let Some(batch) = rows.next().await? {
            describe(&batch, column, &mut found);
        }
        // The catalogue may find names in other cases, too.
        let exact = |found: &SqlTable| found.path == [schema, table];
        let at = found.iter().position(exact);
        Ok(match (at, found.len()) {
            (Some(at), _) => Some(found.swap_remove(at)),
            (None, 1) => found.pop(),
            (None, _) => None,
        })
    }
}

/// Adds the columns that rows of the catalogue describe to their tables.
fn describe(
    batch: &RecordBatch,
    column: fn(CatalogueColumn<'_>) -> SqlColumn,
    tables: &mut Vec<SqlTable>,
) {
    let texts: Option<Vec<_>> = (0..4)
        .map(|at| batch.column(at).as_string_opt::<i32>())
        .collect();
    let number = |at: usize, row: usize| {
        let text = array_value_to_string(batch.column(at), row).ok();
        text.and_then(|text| text.parse().ok()).unwrap_or(-1)
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
        if let Some(last) = tables.last_mut() {
            last.columns.push(column(CatalogueColumn {
                name: text(2),
                kind: &text(3).to_lowercase(),
                precision: number(4, row),
                scale: number(5, row),
            }));
        }
    }
}

/// The rows of a statement that is under way.
struct SelectedRows<S: SessionServer> {
    server: Arc<S>,
    /// None once all rows have come.
    session: Option<Pooled<S::Session>>,
    table: String,
    /// The statement, where it may leave something in the session.
    left_by: Option<String>,
    columns: Option<TextColumns>,
    ready: Option<RecordBatch>,
    affected: Option<u64>,
}

type Fetched<S> = Result<(), Failed<<<S as SessionServer>::Session as SqlSession>::Said>>;

impl<S: SessionServer> SelectedRows<S>
where
    S::Session: StreamedSession,
{
    /// Sends the statement and reads its first rows, if it has some.
    async fn start(&mut self, sql: &str, statement: &SqlStatement) -> Fetched<S> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        match session.session.select(sql).await? {
            Selecting::Rows(columns) => {
                let columns = statement.answer_columns(columns.into_iter());
                self.columns = Some(TextColumns::new(columns));
                self.fetch().await
            }
            Selecting::Done(affected) => {
                self.affected = Some(affected);
                self.end().await
            }
        }
    }

    /// Reads more rows. Behind the last one the session is given back.
    async fn fetch(&mut self) -> Fetched<S> {
        let (Some(session), Some(columns)) = (&mut self.session, &mut self.columns) else {
            return Ok(());
        };
        let width = columns.schema().fields().len();
        let mut rows = Vec::new();
        let session = &mut session.session;
        let all = session.rows(width, ROWS_BYTES, &mut rows).await?;
        for row in &rows {
            columns.push(row.iter().map(Option::as_deref))?;
        }
        self.ready = Some(columns.finish()?);
        match all {
            true => self.end().await,
            false => Ok(()),
        }
    }

    /// Gives the session back behind the end of its statement.
    async fn end(&mut self) -> Fetched<S> {
        let open = self.session.as_ref();
        let open = open.filter(|session| session.session.in_transaction());
        if let Some(session) = open {
            let error = session.left_open();
            self.session = None;
            return Err(error.into());
        }
        self.give_back().await;
        Ok(())
    }

    /// Gives the session back if others may use it; else it is closed.
    async fn give_back(&mut self) {
        let others_may = |session: &Pooled<S::Session>| {
            session.session.usable() && !session.session.in_transaction()
        };
        let Some(mut session) = self.session.take().filter(others_may) else {
            return;
        };
        if let Some(statement) = &self.left_by
            && session.session.reset(statement).await.is_err()
        {
            return;
        }
        session.give_back();
    }

    fn doing(&self) -> Doing<'_> {
        self.server.doing(&self.table, "SELECT")
    }
}

impl<S: SessionServer> SqlRows for SelectedRows<S>
where
    S::Session: StreamedSession,
{
    fn next(&mut self) -> Work<'_, Result<Option<RecordBatch>, Error>> {
        Box::pin(async {
            if self.ready.is_none()
                && let Err(failed) = self.fetch().await
            {
                let told = failed.told(self.doing());
                self.give_back().await;
                return Err(told);
            }
            Ok(self.ready.take())
        })
    }

    fn affected(&self) -> Option<u64> {
        self.affected
    }
}
