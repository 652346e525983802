//! A table's rows in the order of its key, as two tables are compared by them.

use busbar_connector::{KeyOrder, OrderedRows, TableRead, TextRow, Work};
use busbar_event::Error;

use super::failure::MssqlFailed;
use super::limits::PAGE_ROWS;
use super::link::{MssqlLink, MssqlServer};
use super::wire::{identifier, literal, qualified};

/// Rows of one state of a table, read a page at a time.
pub struct MssqlRows {
    server: MssqlServer,
    link: MssqlLink,
    /// The table, as it is written in SQL.
    table: String,
    columns: String,
    /// How the columns of the key are compared.
    key: Vec<(String, KeyOrder)>,
    /// The key of the last row; none before the first one.
    last: Option<Vec<Option<String>>>,
    done: bool,
}

impl MssqlRows {
    /// Opens a session that sees one state of the table.
    pub(super) async fn open(server: MssqlServer, read: &TableRead) -> Result<MssqlRows, Error> {
        let table = qualified(&read.schema, &read.table);
        let values = read.columns.iter().map(|column| {
            let name = identifier(&column.name);
            match column.bytes {
                true => format!("LOWER(CONVERT(varchar(max), {name}, 2))"),
                false => name,
            }
        });
        let key = read.key.iter().zip(&read.columns).map(|(order, column)| {
            let name = identifier(&column.name);
            match order {
                KeyOrder::Number => (name, *order),
                KeyOrder::Text => (binary(&format!("CAST({name} AS nvarchar(4000))")), *order),
            }
        });
        let mut rows = MssqlRows {
            link: server.open().await?,
            table,
            columns: values.collect::<Vec<_>>().join(", "),
            key: key.collect(),
            last: None,
            done: false,
            server,
        };
        // One state of the table where the database keeps versions of rows; where it does not, rows that are changed while they
        // are read may come as they were or as they are.
        let isolated = rows
            .link
            .run("SET TRANSACTION ISOLATION LEVEL SNAPSHOT; BEGIN TRANSACTION")
            .await;
        isolated.map_err(|failed| failed.told(rows.server.doing(&rows.table, "SELECT")))?;
        let look = format!("SELECT TOP 0 * FROM {}", rows.table);
        match rows.link.run(&look).await {
            Ok(_) => {}
            // 3952: the database does not allow it.
            Err(MssqlFailed::Server(error)) if error.number == 3952 => {
                rows.link
                    .roll_back()
                    .await
                    .map_err(|failed| failed.told(rows.server.doing(&rows.table, "SELECT")))?;
                let isolated = rows
                    .link
                    .run("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
                    .await;
                isolated.map_err(|failed| failed.told(rows.server.doing(&rows.table, "SELECT")))?;
            }
            Err(failed) => return Err(failed.told(rows.server.doing(&rows.table, "SELECT"))),
        }
        Ok(rows)
    }

    async fn read(&mut self) -> Result<Vec<TextRow>, MssqlFailed> {
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
            "SELECT TOP ({PAGE_ROWS}) {} FROM {} {behind} ORDER BY {order}",
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

/// A text by its code points, from the first.
fn binary(text: &str) -> String {
    format!("{text} COLLATE Latin1_General_BIN2")
}

impl OrderedRows for MssqlRows {
    fn next(&mut self) -> Work<'_, Result<Vec<TextRow>, Error>> {
        Box::pin(async {
            let read = self.read().await;
            read.map_err(|failed| failed.told(self.server.doing(&self.table, "SELECT")))
        })
    }
}
