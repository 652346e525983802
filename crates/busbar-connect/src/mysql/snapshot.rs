//! Reading what was in a table before its changes came: chunks by key, each in a transaction of its own that sees one state
//! of the database and locks nothing.
//!
//! A server sends a transaction to readers of its log before it shows it to others. A chunk without a transaction that the
//! stream has passed would come behind the change with the state before, so it is not published but read again. MariaDB
//! says up to which place in the log a snapshot saw everything. MySQL says which transactions are committed for all, if they
//! have numbers (`gtid_mode = ON`). Without numbers the last row that the stream has passed is asked for with a shared lock,
//! which is granted once its transaction is over, and with it all before (`binlog_order_commits = ON`). The lock is on one
//! row, is let go at once, and is asked for while nothing else is held, so that it is part of no deadlock.

use std::collections::VecDeque;

use busbar_change::mysql::binlog::LogPlace;
use busbar_event::Error;
use bytes::Bytes;

use super::failure::Failed;
use super::follow::{self, BinlogTable};
use super::limits::{CHUNK_BYTES, CHUNK_ROWS, COUNT_MAX, LOCK_WAIT_MAX, PASSED_MAX};
use super::link::{Answer, Link, MysqlServer};

/// Transactions with changes of followed tables that the stream has passed, which the next chunk has to see.
#[derive(Debug, Default)]
pub struct PassedTransactions {
    /// The position behind the last one.
    position: u64,
    /// MySQL's numbers of those that have one.
    numbers: VecDeque<String>,
    /// The statement that asks for the last row changed by one without a number.
    row: Option<String>,
}

/// A chunk as it was read.
pub struct Chunk {
    pub answer: Answer,
    /// The place in the log before which everything is that it saw.
    pub high: LogPlace,
    /// Nothing is behind it. Its transaction is still open then.
    pub last: bool,
}

/// A list of numbers of transactions, as MySQL writes it: `3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7, …`.
struct NumberSet<'a>(&'a str);

impl PassedTransactions {
    /// The stream has passed a transaction; `row` asks for its last row where it has no number. One that only emptied a table
    /// has neither: the server lets nobody read the table before it is over.
    pub fn pass(&mut self, position: u64, number: Option<String>, row: Option<String>) {
        self.position = position;
        if let Some(number) = number {
            self.numbers.truncate(PASSED_MAX - 1);
            self.numbers.push_front(number);
        }
        if row.is_some() {
            self.row = row;
        }
    }

    /// A chunk has seen all of them.
    fn clear(&mut self) {
        *self = PassedTransactions::default();
    }
}

impl NumberSet<'_> {
    /// Whether a transaction is among them, whose number is `3e11fa4771ca11e19e33c80aa9429562:7`.
    fn has(&self, number: &str) -> bool {
        let Some((source, number)) = number.split_once(':') else {
            return false;
        };
        let Ok(number) = number.parse::<u64>() else {
            return false;
        };
        self.0.split(',').any(|list| {
            let mut parts = list.trim().split(':');
            let of = parts.next().unwrap_or_default().replace('-', "");
            // Behind a tag come numbers of other transactions.
            let untagged = parts.take_while(|part| part.starts_with(|c: char| c.is_ascii_digit()));
            let mut ranges = untagged.filter_map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                Some(first.parse::<u64>().ok()?..=last.parse::<u64>().ok()?)
            });
            of.eq_ignore_ascii_case(source) && ranges.any(|range| range.contains(&number))
        })
    }
}

/// Begins a transaction that sees one state of the database; the place in the log before which everything is that it sees.
/// `None` where it would not see all that the stream has passed: it is to be tried again.
async fn begin(
    server: &MysqlServer,
    link: &mut Link,
    passed: &PassedTransactions,
) -> Result<Option<LogPlace>, Failed> {
    let maria = link.version.contains("MariaDB");
    if !maria && !is_committed(link, passed).await? {
        return Ok(None);
    }
    let begun = link
        .run(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT; \
             SHOW STATUS LIKE 'binlog_snapshot_%'",
        )
        .await?;
    if !maria {
        // A transaction is in the log before others see it, so that all of those seen are in it by now.
        let logs = follow::logs(server, link).await?;
        return Ok(Some(logs.end()));
    }
    let status = begun.get(2).cloned().unwrap_or_default();
    let of = |name: &str| {
        let row = (0..status.rows.len()).find(|row| {
            status
                .text(*row, 0)
                .is_some_and(|there| there.eq_ignore_ascii_case(name))
        });
        row.and_then(|row| status.text(row, 1))
    };
    let file = of("binlog_snapshot_file").and_then(|file| file.rsplit_once('.')?.1.parse().ok());
    let byte = of("binlog_snapshot_position").and_then(|byte| byte.parse().ok());
    match (file, byte) {
        (Some(file), Some(byte)) => Ok(Some(LogPlace { file, byte })),
        _ => Err(link
            .strange("a snapshot without its place in the log")
            .into()),
    }
}

/// Whether the transactions that the stream has passed are committed for all.
async fn is_committed(link: &mut Link, passed: &PassedTransactions) -> Result<bool, Failed> {
    if let Some(row) = &passed.row {
        let seconds = LOCK_WAIT_MAX.as_secs();
        let sql = format!(
            "SET SESSION innodb_lock_wait_timeout = {seconds}; SET TRANSACTION ISOLATION LEVEL READ COMMITTED; {row}"
        );
        match link.run(&sql).await {
            Ok(_) => {}
            Err(Failed::Server(error)) if [LOCK_WAIT, DEADLOCK].contains(&error.number) => {
                return Ok(false);
            }
            Err(failed) => return Err(failed),
        }
    }
    if passed.numbers.is_empty() {
        return Ok(true);
    }
    let answers = link.run("SELECT @@GLOBAL.gtid_executed").await?;
    let committed = answers.first().and_then(|answer| answer.text(0, 0));
    let committed = NumberSet(committed.unwrap_or_default());
    Ok(passed.numbers.iter().all(|number| committed.has(number)))
}

/// Reads the rows behind a key, at most so many; `None` where they would not be of a state behind what the stream has
/// passed. `position` answers for a place in the log.
///
/// # Errors
/// Why it failed.
pub async fn chunk(
    server: &MysqlServer,
    link: &mut Link,
    passed: &mut PassedTransactions,
    position: impl Fn(LogPlace) -> u64,
    read: (&BinlogTable, Option<&[String]>, usize),
) -> Result<Option<Chunk>, Failed> {
    let (table, after, rows) = read;
    let Some(high) = begin(server, link, passed).await? else {
        return Ok(None);
    };
    if position(high) < passed.position {
        link.run("COMMIT").await?;
        return Ok(None);
    }
    let answers = match link.run(&table.statement(after, rows)).await {
        // It has been emptied or altered in the meantime.
        Err(Failed::Server(error)) if error.number == DEFINITION_CHANGED => {
            link.run("ROLLBACK").await?;
            return Ok(None);
        }
        answers => answers?,
    };
    let answer = answers.into_iter().next().unwrap_or_default();
    let last = answer.rows.len() < rows;
    if !last {
        link.run("COMMIT").await?;
    }
    passed.clear();
    Ok(Some(Chunk { answer, high, last }))
}

/// Counts the rows of a table in the transaction that read the last of them.
///
/// # Errors
/// Why it failed.
pub async fn count(mut link: Link, server: MysqlServer, quoted: String) -> Result<u64, Error> {
    link.wait_for(COUNT_MAX);
    let sql = format!("SELECT COUNT(*) FROM {quoted}; COMMIT");
    let counted = link.run(&sql).await;
    let counted = counted.map_err(|failed| failed.told(server.doing(&quoted, "SELECT")))?;
    let counted = counted.first().and_then(|answer| answer.text(0, 0));
    let counted = counted.and_then(|counted| counted.parse().ok());
    counted.ok_or_else(|| link.strange("a number of rows of another form"))
}

/// How many rows the next chunk has, so that it stays within its bytes.
pub fn next_rows(answer: &Answer) -> usize {
    let bytes: usize = answer.rows.iter().flatten().flatten().map(Bytes::len).sum();
    let each = bytes / answer.rows.len().max(1) + 1;
    (CHUNK_BYTES / each).clamp(1, CHUNK_ROWS)
}

/// The numbers of the server's errors about a lock that others hold, a deadlock, and a table that was altered.
const LOCK_WAIT: u16 = 1205;
const DEADLOCK: u16 = 1213;
const DEFINITION_CHANGED: u16 = 1412;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_numbers_has_those_within_its_ranges() {
        let list = NumberSet(
            "3E11FA47-71CA-11E1-9E33-C80AA9429562:1-5:7:tag:9-12,\n4e11fa47-71ca-11e1-9e33-c80aa9429562:11-18",
        );
        let of =
            |first: &str, number: &str| format!("{first}e11fa4771ca11e19e33c80aa9429562:{number}");
        for (number, has) in [
            (of("3", "1"), true),
            (of("3", "5"), true),
            (of("3", "6"), false),
            (of("3", "7"), true),
            (of("3", "9"), false),
            (of("3", "11"), false),
            (of("4", "11"), true),
            (of("4", "5"), false),
            (of("5", "1"), false),
            (String::new(), false),
        ] {
            assert_eq!(list.has(&number), has, "{number}");
        }
        assert!(!NumberSet("").has(&of("3", "1")));
    }

    #[test]
    fn what_has_passed_is_remembered_until_a_chunk_has_seen_it() {
        let mut passed = PassedTransactions::default();
        for number in 0..PASSED_MAX + 5 {
            passed.pass(9, Some(format!("a:{number}")), None);
        }
        passed.pass(10, None, Some("SELECT 1".into()));
        assert_eq!(
            (passed.numbers.len(), passed.position, passed.row.is_some()),
            (PASSED_MAX, 10, true)
        );
        assert_eq!(passed.numbers[0], format!("a:{}", PASSED_MAX + 4));
        passed.clear();
        assert!(passed.numbers.is_empty() && passed.row.is_none());
    }
}
