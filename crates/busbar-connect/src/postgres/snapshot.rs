//! Reading what was in a table before its changes came: chunks by key, each in a transaction of its own whose snapshot says
//! which transactions it saw.

use std::collections::HashSet;

use busbar_change::postgres::pgoutput::Lsn;
use busbar_change::postgres::wire::{identifier, literal};
use busbar_event::Error;
use bytes::Bytes;

use super::failure::Failed;
use super::follow::Followed;
use super::limits::{CHUNK_BYTES, CHUNK_ROWS, COUNT_MAX, FETCH_ROWS};
use super::link::{Answer, Fetched, Link, Server};

/// Which transactions a chunk saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    first_running: u64,
    next: u64,
    running: Vec<u64>,
}

/// A chunk as it was read.
pub struct Chunk {
    pub answer: Answer,
    pub seen: Seen,
    pub high: Lsn,
    /// Nothing is behind it. Its transaction is still open then.
    pub last: bool,
}

impl Seen {
    /// From the form `xmin:xmax:xip,xip`.
    pub fn parse(text: &str) -> Option<Seen> {
        let mut parts = text.split(':');
        let first_running = parts.next()?.parse().ok()?;
        let next = parts.next()?.parse().ok()?;
        let running = parts.next()?.split(',').filter(|id| !id.is_empty());
        let running = running.map(|id| id.parse().ok()).collect::<Option<_>>()?;
        Some(Seen {
            first_running,
            next,
            running,
        })
    }

    /// Whether a committed transaction was seen. Its number has the lower 32 bits only.
    pub fn has(&self, transaction: u32) -> bool {
        // The number nearest to the next one.
        let distance = (self.next as u32).wrapping_sub(transaction).cast_signed();
        let Some(whole) = self.next.checked_add_signed(-i64::from(distance)) else {
            return true;
        };
        whole < self.first_running || whole < self.next && !self.running.contains(&whole)
    }
}

/// The transactions that have written to these tables, as they are written in SQL, and are not over, as the server names
/// them. One that is in the log is over when others see it, and has its lock until then.
///
/// # Errors
/// Why it failed.
pub async fn writing(link: &mut Link, tables: &[String]) -> Result<HashSet<String>, Failed> {
    let tables: Vec<_> = tables
        .iter()
        .map(|table| format!("{}::regclass", literal(table)))
        .collect();
    let sql = format!(
        "SELECT DISTINCT virtualtransaction FROM pg_locks WHERE mode = 'RowExclusiveLock' AND relation IN ({}) \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        tables.join(", ")
    );
    let answers = link.run(&sql).await?;
    let answer = answers.into_iter().next().unwrap_or_default();
    let names = (0..answer.rows.len()).filter_map(|row| answer.text(row, 0));
    Ok(names.map(str::to_owned).collect())
}

/// The statement that reads rows behind a key, in its order.
pub fn statement(table: &Followed, after: Option<&[String]>) -> String {
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|column| identifier(&column.name))
        .collect();
    let key: Vec<_> = table.key.iter().map(|at| columns[*at].as_str()).collect();
    let mut sql = format!("SELECT {} FROM {}", columns.join(", "), table.quoted());
    if let Some(after) = after {
        let values: Vec<_> = (1..=after.len()).map(|at| format!("${at}")).collect();
        sql.push_str(&format!(
            " WHERE ({}) > ({})",
            key.join(", "),
            values.join(", ")
        ));
    }
    if !key.is_empty() {
        sql.push_str(&format!(" ORDER BY {} LIMIT {CHUNK_ROWS}", key.join(", ")));
    }
    sql
}

/// Begins a transaction that sees one state of the database, and says which.
///
/// # Errors
/// Why it failed.
pub async fn begin(link: &mut Link) -> Result<(Seen, Lsn), Failed> {
    let answers = link
        .run(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
             SELECT pg_current_snapshot(), pg_current_wal_insert_lsn()",
        )
        .await?;
    let text = |column| {
        answers
            .get(1)
            .and_then(|answer| answer.text(0, column))
            .unwrap_or_default()
    };
    let seen = Seen::parse(text(0)).zip(Lsn::parse(text(1)));
    seen.ok_or_else(|| link.strange("a snapshot of another form").into())
}

/// Reads the rows behind a key, as many as a chunk has.
///
/// # Errors
/// Why it failed.
pub async fn chunk(
    link: &mut Link,
    table: &Followed,
    after: Option<&[String]>,
) -> Result<Chunk, Failed> {
    let (seen, high) = begin(link).await?;
    let parameters: Vec<_> = after
        .unwrap_or_default()
        .iter()
        .map(|value| Some(value.as_str()))
        .collect();
    link.begin(&statement(table, after), &parameters, FETCH_ROWS)
        .await?;
    let mut answer = Answer::default();
    let whole = loop {
        match link.fetch(&mut answer).await? {
            Fetched::All => break true,
            Fetched::Part if bytes(&answer) >= CHUNK_BYTES => break false,
            Fetched::Part => link.more(FETCH_ROWS).await?,
        }
    };
    link.finish().await?;
    let last = whole && answer.rows.len() < CHUNK_ROWS;
    if !last {
        link.run("COMMIT").await?;
    }
    Ok(Chunk {
        answer,
        seen,
        high,
        last,
    })
}

/// Counts the rows of a table in the transaction that read the last of them.
///
/// # Errors
/// Why it failed.
pub async fn count(mut link: Link, server: Server, quoted: String) -> Result<u64, Error> {
    link.wait_for(COUNT_MAX);
    let millis = COUNT_MAX.as_millis();
    let sql =
        format!("SET LOCAL statement_timeout = {millis}; SELECT count(*) FROM {quoted}; COMMIT");
    let counted = link.run(&sql).await;
    let counted = counted.map_err(|failed| failed.told(server.doing(&quoted, "SELECT")))?;
    let text = counted.get(1).and_then(|answer| answer.text(0, 0));
    let number = text.and_then(|counted| counted.parse().ok());
    let number = number.ok_or_else(|| link.strange("a number of rows of another form"));
    link.close().await;
    number
}

/// Bytes of the values that were read.
pub fn bytes(answer: &Answer) -> usize {
    answer.rows.iter().flatten().flatten().map(Bytes::len).sum()
}

/// The key of a row.
pub fn key(table: &Followed, row: &[Option<Bytes>]) -> Vec<Bytes> {
    table
        .key
        .iter()
        .map(|at| row.get(*at).cloned().flatten().unwrap_or_default())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_knows_what_it_saw() {
        let seen = Seen::parse("100:105:101,103").expect("a snapshot");
        for (transaction, has) in [
            (99, true),
            (100, true),
            (101, false),
            (102, true),
            (103, false),
            (104, true),
            (105, false),
            (200, false),
        ] {
            assert_eq!(seen.has(transaction), has, "{transaction}");
        }
        // The numbers have begun anew in between.
        let seen = Seen::parse("4294967290:4294967300:4294967298").expect("a snapshot");
        for (transaction, has) in [
            (u32::MAX, true),
            (0, true),
            (2, false),
            (3, true),
            (4, false),
            (5, false),
        ] {
            assert_eq!(seen.has(transaction), has, "{transaction}");
        }
        assert_eq!(Seen::parse("7:7:").map(|seen| seen.has(6)), Some(true));
        assert_eq!(Seen::parse("7"), None);
    }
}
