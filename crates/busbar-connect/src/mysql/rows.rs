//! A table's rows in the order of its key, as two tables are compared by them.

use busbar_change::mysql::wire::{identifier, literal};
use busbar_connector::{KeyOrder, OrderedRows, TableRead, TextRow, Work};
use busbar_event::Error;

use super::limits::PAGE_ROWS;
use super::link::{Link, MysqlServer};
use crate::relational::keyed_pages::{KeyedPages, PageSql};

/// Rows of one state of a table, read a page at a time.
pub struct MysqlRows {
    server: MysqlServer,
    /// The table, as it is written in SQL.
    table: String,
    pages: KeyedPages<Link>,
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
        let columns = values.collect::<Vec<_>>().join(", ");
        let key = read.key.iter().zip(&read.columns).map(|(order, column)| {
            let name = identifier(&column.name);
            match order {
                KeyOrder::Number => (name, *order),
                KeyOrder::Text => (binary(&format!("CONVERT({name}, CHAR)")), *order),
            }
        });
        let from = table.clone();
        let sql = PageSql {
            rows: PAGE_ROWS,
            statement: Box::new(move |behind, order| {
                format!("SELECT {columns} FROM {from} {behind} ORDER BY {order} LIMIT {PAGE_ROWS}")
            }),
            text: |text| binary(&literal(text)),
        };
        let mut link = server.open().await?;
        let begin = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
        let begun = link.run(begin).await;
        begun.map_err(|failed| failed.told(server.doing(&table, "SELECT")))?;
        Ok(MysqlRows {
            pages: KeyedPages::new(link, key.collect(), sql),
            server,
            table,
        })
    }
}

fn binary(text: &str) -> String {
    format!("CAST({text} AS BINARY)")
}

impl OrderedRows for MysqlRows {
    fn next(&mut self) -> Work<'_, Result<Vec<TextRow>, Error>> {
        Box::pin(async {
            let read = self.pages.read().await;
            read.map_err(|failed| failed.told(self.server.doing(&self.table, "SELECT")))
        })
    }
}
