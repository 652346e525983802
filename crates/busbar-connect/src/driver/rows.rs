//! A table's rows in the order of its key, as two tables are compared by them.

use std::sync::Arc;

use busbar_connector::{KeyOrder, OrderedRows, TableRead, TextRow, Work};
use busbar_event::{Class, Error};

use super::dialect::{DriverDialect, DriverDialectName};
use super::limits::PAGE_ROWS;
use super::row::{is_null, plain};
use super::session::{DriverColumn, DriverSession};
use super::sink::table as look_at;
use super::worker::DriverWorker;
use crate::change::plan::names;

/// Rows of one state of a table, read a page at a time.
pub struct DriverRows {
    session: DriverSession,
    /// The table, as it is written in SQL.
    table: String,
    sql: String,
    columns: Vec<DriverColumn>,
    begun: bool,
    done: bool,
}

impl DriverRows {
    pub(super) async fn open(
        worker: &Arc<DriverWorker>,
        dialect: Option<DriverDialectName>,
        read: &TableRead,
    ) -> Result<DriverRows, Error> {
        let mut session = DriverSession::open(worker).await?;
        let dialect = DriverDialect::of(dialect, &session.about.product);
        let mut found = look_at(&mut session, &read.schema, &read.table).await?;
        let there = found.columns.take().ok_or_else(|| {
            Error::new(Class::Configuration, "driver.no-table")
                .with("url", &worker.login.url)
                .with("said", "-")
                .with("state", "-")
                .with("table", &read.table)
        })?;
        let table = dialect.table(&found.schema, &found.table);
        let columns = read.columns.iter().map(|wanted| {
            let exact = there.iter().find(|column| column.name == wanted.name);
            let column = exact.or_else(|| {
                let mut there = there.iter();
                there.find(|column| column.name.eq_ignore_ascii_case(&wanted.name))
            });
            column
                .map(|column| dialect.exact(&column.name))
                .ok_or_else(|| {
                    let there = there.iter().map(|column| column.name.as_str());
                    Error::new(Class::Configuration, "driver.poll-column")
                        .with("column", &wanted.name)
                        .with("table", &table)
                        .with("there", names(there))
                })
        });
        let columns: Vec<String> = columns.collect::<Result<_, Error>>()?;
        let order = read
            .key
            .iter()
            .zip(&columns)
            .map(|(order, column)| match order {
                KeyOrder::Number => column.clone(),
                KeyOrder::Text => dialect.by_bytes(column),
            });
        let order: Vec<String> = order.collect();
        Ok(DriverRows {
            sql: format!(
                "SELECT {} FROM {table} ORDER BY {}",
                columns.join(", "),
                order.join(", ")
            ),
            session,
            table,
            columns: Vec::new(),
            begun: false,
            done: false,
        })
    }

    async fn read(&mut self) -> Result<Vec<TextRow>, Error> {
        if self.done {
            return Ok(Vec::new());
        }
        let answer = match std::mem::replace(&mut self.begun, true) {
            true => self.session.more().await,
            false => self.session.query(&self.sql, &[], None).await,
        };
        let answer = answer.map_err(|failed| self.session.told(failed, &self.table, "SELECT"))?;
        let page = self.session.page(&answer, &mut self.columns)?;
        self.done = !page.more;
        let mut rows = Vec::with_capacity(page.rows.len().min(PAGE_ROWS));
        for row in &page.rows {
            let value =
                |value: &&serde_json::value::RawValue| (!is_null(value)).then(|| plain(value));
            rows.push(row.iter().map(value).collect());
        }
        Ok(rows)
    }
}

impl OrderedRows for DriverRows {
    fn next(&mut self) -> Work<'_, Result<Vec<TextRow>, Error>> {
        Box::pin(async {
            // No rows mean the end to the caller.
            loop {
                let rows = self.read().await?;
                if !rows.is_empty() || self.done {
                    return Ok(rows);
                }
            }
        })
    }
}
