//! A table's rows in the order of its key, as two tables are compared by them.

use busbar_connector::{KeyOrder, OrderedRows, TableRead, TextRow, Work};
use busbar_event::Error;

use super::failure::Failed;
use super::limits::PAGE_ROWS;
use super::link::{Link, MysqlServer};
use super::wire::{identifier, literal};

/// Rows of one state of a table, read a page at a time.
pub struct MysqlRows {
    server: MysqlServer,
    link: Link,
    /// The table, as it is written in SQL.
    table: String,
    columns: String,
    /// How the columns of the key are compared.
    key: Vec<(String, KeyOrder)>,
    /// The key of the last row; none before the first one.
    last: Option<Vec<Option<String>>>,
    done: bool,
}

impl MysqlRows {
    /// Opens a session that sees one state of the table.
    pub(super) async fn open(server: MysqlServer, read: &TableRead) -> Result<MysqlRows, Error> {
        let table = format!("{}.{}", identifier(&read.schema), identifier(&read.table));
        let values = read.columns.iter().map(|column| {
            let name = identifier(&column.name);
            match column.bytes {
                true => format!("LOWER(HEX({name}))"),
                false => name,
            }
        });
        let key = read.key.iter().zip(&read.columns).map(|(order, column)| {
            let name = identifier(&column.name);
            match order {
                KeyOrder::Number => (name, *order),
                KeyOrder::Text => (binary(&format!("CONVERT({name}, CHAR)")), *order),
            }
        });
        let mut rows = MysqlRows {
            link: server.open().await?,
            table,
            columns: values.collect::<Vec<_>>().join(", "),
            key: key.collect(),
            last: None,
            done: false,
            server,
        };
        let begin = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
        let begun = rows.link.run(begin).await;
        begun.map_err(|failed| failed.told(rows.server.doing(&rows.table, "SELECT")))?;
        Ok(rows)
    }

    async fn read(&mut self) -> Result<Vec<TextRow>, Failed> {
        if self.done {
            return Ok(Vec::new());
        }
        let order: Vec<_> = self.key.iter().map(|(key, _)| key.as_str()).collect();
        let order = order.join(", ");
        let behind = match &self.last {
            None => String::new(),
            Some(last) => format!("WHERE {}", self.behind(last)),
        };
        let sql = format!(
            "SELECT {} FROM {} {behind} ORDER BY {order} LIMIT {PAGE_ROWS}",
            self.columns, self.table
        );
        let answer = self.link.run(&sql).await?.into_iter().next();
        let answer = answer.unwrap_or_default();
        let text = |value: Option<bytes::Bytes>| {
            value.map(|value| String::from_utf8_lossy(&value).into_owned())
        };
        let rows = answer.rows.into_iter();
        let rows: Vec<TextRow> = rows
            .map(|row| row.into_iter().map(text).collect())
            .collect();
        self.done = rows.len() < PAGE_ROWS;
        self.last = rows.last().map(|row| row[..self.key.len()].to_vec());
        Ok(rows)
    }

    /// The condition of rows behind a key. `(a, b) > (1, 2)` would not use the index.
    fn behind(&self, last: &[Option<String>]) -> String {
        let value = |at: usize| {
            let text = last[at].as_deref().unwrap_or_default();
            match self.key[at].1 {
                KeyOrder::Number => text.to_owned(),
                KeyOrder::Text => binary(&literal(text)),
            }
        };
        let ways = (0..self.key.len()).map(|at| {
            let mut all: Vec<_> = (0..at)
                .map(|at| format!("{} = {}", self.key[at].0, value(at)))
                .collect();
            all.push(format!("{} > {}", self.key[at].0, value(at)));
            format!("({})", all.join(" AND "))
        });
        ways.collect::<Vec<_>>().join(" OR ")
    }
}

fn binary(text: &str) -> String {
    format!("CAST({text} AS BINARY)")
}

impl OrderedRows for MysqlRows {
    fn next(&mut self) -> Work<'_, Result<Vec<TextRow>, Error>> {
        Box::pin(async {
            let read = self.read().await;
            read.map_err(|failed| failed.told(self.server.doing(&self.table, "SELECT")))
        })
    }
}
