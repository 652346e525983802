//! A table's rows in the order of its key, as two tables are compared by them.

use busbar_connector::{KeyOrder, OrderedRows, TableRead, TextRow, Work};
use busbar_event::Error;

use super::failure::MssqlFailed;
use super::limits::PAGE_ROWS;
use super::link::{MssqlLink, MssqlServer};
use super::wire::{identifier, literal, qualified};
use crate::relational::keyed_pages::{KeyedPages, PageSql};

/// Rows of one state of a table, read a page at a time.
pub struct MssqlRows {
    server: MssqlServer,
    /// The table, as it is written in SQL.
    table: String,
    pages: KeyedPages<MssqlLink>,
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
        let columns = values.collect::<Vec<_>>().join(", ");
        let key = read.key.iter().zip(&read.columns).map(|(order, column)| {
            let name = identifier(&column.name);
            match order {
                KeyOrder::Number => (name, *order),
                KeyOrder::Text => (binary(&format!("CAST({name} AS nvarchar(4000))")), *order),
            }
        });
        let from = table.clone();
        let sql = PageSql {
            rows: PAGE_ROWS,
            statement: Box::new(move |behind, order| {
                format!("SELECT TOP ({PAGE_ROWS}) {columns} FROM {from} {behind} ORDER BY {order}")
            }),
            text: |text| binary(&literal(text)),
        };
        let mut link = server.open().await?;
        let isolated = isolate(&mut link, &table).await;
        isolated.map_err(|failed| failed.told(server.doing(&table, "SELECT")))?;
        Ok(MssqlRows {
            pages: KeyedPages::new(link, key.collect(), sql),
            server,
            table,
        })
    }
}

/// Shows one state of the table where the database keeps versions of rows; where it does not, rows that are changed while they are
/// read may come as they were or as they are.
async fn isolate(link: &mut MssqlLink, table: &str) -> Result<(), MssqlFailed> {
    link.run("SET TRANSACTION ISOLATION LEVEL SNAPSHOT; BEGIN TRANSACTION")
        .await?;
    match link.run(&format!("SELECT TOP 0 * FROM {table}")).await {
        Ok(_) => Ok(()),
        // 3952: the database does not allow it.
        Err(failed) if failed.number() == 3952 => {
            link.roll_back().await?;
            link.run("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
                .await
                .map(drop)
        }
        Err(failed) => Err(failed),
    }
}

/// A text by its code points, from the first.
fn binary(text: &str) -> String {
    format!("{text} COLLATE Latin1_General_BIN2")
}

impl OrderedRows for MssqlRows {
    fn next(&mut self) -> Work<'_, Result<Vec<TextRow>, Error>> {
        Box::pin(async {
            let read = self.pages.read().await;
            read.map_err(|failed| failed.told(self.server.doing(&self.table, "SELECT")))
        })
    }
}
