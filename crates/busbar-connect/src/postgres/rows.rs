//! A table's rows in the order of its key, as two tables are compared by them.

use busbar_change::postgres::wire::identifier;
use busbar_connector::{KeyOrder, OrderedRows, ReadColumn, TableRead, TextRow, Work};
use busbar_event::Error;

use super::failure::Failed;
use super::limits::FETCH_ROWS;
use super::link::{Answer, Fetched, Link, Server};

/// Rows of one statement, read in pieces.
pub struct PostgresRows {
    server: Server,
    link: Link,
    sql: String,
    begun: bool,
    done: bool,
}

impl PostgresRows {
    /// Opens a session.
    pub(super) async fn open(server: Server, read: &TableRead) -> Result<PostgresRows, Error> {
        // With the table's name: without it, ORDER BY would take the text that is selected.
        let name = |column: &ReadColumn| format!("t.{}", identifier(&column.name));
        let names: Vec<_> = read.columns.iter().map(name).collect();
        let values: Vec<_> = names.iter().map(|name| format!("{name}::text")).collect();
        let order = read
            .key
            .iter()
            .zip(&names)
            .map(|(order, name)| match order {
                KeyOrder::Number => name.clone(),
                KeyOrder::Text => format!("({name}::text) COLLATE \"C\""),
            });
        let sql = format!(
            "SELECT {} FROM {}.{} AS t ORDER BY {}",
            values.join(", "),
            identifier(&read.schema),
            identifier(&read.table),
            order.collect::<Vec<_>>().join(", ")
        );
        Ok(PostgresRows {
            link: server.open().await?,
            server,
            sql,
            begun: false,
            done: false,
        })
    }

    async fn read(&mut self) -> Result<Vec<TextRow>, Failed> {
        if self.done {
            return Ok(Vec::new());
        }
        match self.begun {
            true => self.link.more(FETCH_ROWS).await?,
            false => self.link.begin(&self.sql, &[], FETCH_ROWS).await?,
        }
        self.begun = true;
        let mut answer = Answer::default();
        if self.link.fetch(&mut answer).await? == Fetched::All {
            self.done = true;
            self.link.finish().await?;
        }
        let text = |value: Option<bytes::Bytes>| {
            value.map(|value| String::from_utf8_lossy(&value).into_owned())
        };
        let rows = answer.rows.into_iter();
        Ok(rows
            .map(|row| row.into_iter().map(text).collect())
            .collect())
    }
}

impl OrderedRows for PostgresRows {
    fn next(&mut self) -> Work<'_, Result<Vec<TextRow>, Error>> {
        Box::pin(async {
            let read = self.read().await;
            read.map_err(|failed| failed.told(self.server.doing("", "SELECT")))
        })
    }
}
