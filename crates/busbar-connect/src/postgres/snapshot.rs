//! What was in a table before its changes came: read in chunks by key, each joined to the stream of changes.
//!
//! A chunk is read in a transaction of its own. Its snapshot says which transactions it saw, and the log's end behind it
//! (`high`) how far the stream has to come before all of these have passed. Until then the chunk has a [`Window`]: a
//! change of one of its rows by a transaction that it saw is in it already, and is left out. A change of a row behind the
//! last chunk is left out, too, for a later chunk will read it. Nothing is missing and nothing comes twice.
//!
//! What a chunk saw is not kept across a restart. A table that is read on after one publishes each change (`resumed`),
//! so that some come beside the row that has them already; for tables that are kept by key it makes no difference.

use std::cmp::Ordering;
use std::collections::HashSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::failure::Failed;
use super::follow::{Followed, Order};
use super::limits::{CHUNK_BYTES, CHUNK_ROWS, FETCH_ROWS};
use super::link::{Answer, Fetched, Link};
use super::pgoutput::Lsn;
use super::wire::identifier;

/// How far a table has been read. Kept as JSON with the position of its part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The key of the last row that was read, as the server writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Vec<String>>,
    /// All of it.
    #[serde(default)]
    pub done: bool,
}

/// Which transactions a chunk saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    first_running: u64,
    next: u64,
    running: Vec<u64>,
}

/// A chunk whose snapshot the stream has not passed yet.
#[derive(Clone, Debug)]
pub struct Window {
    /// The key before its first row; `None` for the first chunk.
    pub after: Option<Vec<String>>,
    pub seen: Seen,
    pub high: Lsn,
    /// The keys of its rows, for tables whose keys cannot be compared here.
    pub keys: HashSet<Vec<Bytes>>,
}

/// A chunk as it was read.
pub struct Chunk {
    pub answer: Answer,
    pub seen: Seen,
    pub high: Lsn,
    /// Nothing is behind it.
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

/// Compares two keys as the server does; `None` where that is not known here.
fn compare(
    order: Option<&[Order]>,
    a: &[impl AsRef<[u8]>],
    b: &[impl AsRef<[u8]>],
) -> Option<Ordering> {
    let mut found = Ordering::Equal;
    for ((order, a), b) in order?.iter().zip(a).zip(b) {
        found = found.then(match order {
            Order::Bytes => a.as_ref().cmp(b.as_ref()),
            Order::Number => number(a.as_ref())?.cmp(&number(b.as_ref())?),
        });
    }
    Some(found)
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether the change of a row is published.
pub fn publishes(
    order: Option<&[Order]>,
    progress: &Progress,
    window: Option<&Window>,
    key: &[Bytes],
    transaction: u32,
) -> bool {
    let last = progress.last.as_deref().unwrap_or_default();
    if !progress.done && (last.is_empty() || compare(order, key, last) == Some(Ordering::Greater)) {
        // It will be read.
        return false;
    }
    let Some(window) = window else { return true };
    let behind = |after: &Vec<String>| {
        compare(order, key, after).map(|ordering| ordering == Ordering::Greater)
    };
    let inside = match &window.after {
        // Without a key all of the table is one chunk.
        _ if key.is_empty() => true,
        _ if order.is_none() => window.keys.contains(key),
        None => true,
        Some(after) => behind(after).unwrap_or(false),
    };
    !(inside && window.seen.has(transaction))
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
    link.run("COMMIT").await?;
    let last = whole && answer.rows.len() < CHUNK_ROWS;
    Ok(Chunk {
        answer,
        seen,
        high,
        last,
    })
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

    #[test]
    fn a_change_is_published_unless_a_chunk_has_it_or_will_have_it() {
        let key = |key: &'static str| vec![Bytes::from_static(key.as_bytes())];
        let progress = |last: Option<&str>, done| Progress {
            last: last.map(|last| vec![last.to_owned()]),
            done,
        };
        let window = Window {
            after: Some(vec!["10".into()]),
            seen: Seen::parse("50:60:55").expect("a snapshot"),
            high: Lsn(1),
            keys: HashSet::from([key("15")]),
        };
        let open = Some(&window);
        let numbers = Some(&[Order::Number][..]);
        let bytes = Some(&[Order::Bytes][..]);
        for (order, progress, window, row, transaction, expected) in [
            (numbers, progress(None, false), None, "1", 40, false),
            (numbers, progress(Some("20"), false), None, "20", 70, true),
            (numbers, progress(Some("20"), false), None, "21", 70, false),
            // As numbers, 9 is before 20; as texts, it is behind.
            (numbers, progress(Some("20"), false), open, "9", 40, true),
            (bytes, progress(Some("20"), false), open, "9", 40, false),
            (bytes, progress(Some("20"), false), open, "100", 61, true),
            (numbers, progress(Some("20"), false), open, "15", 40, false),
            (numbers, progress(Some("20"), false), open, "15", 55, true),
            (numbers, progress(Some("20"), false), open, "15", 61, true),
            (numbers, progress(Some("20"), true), open, "99", 40, false),
            (numbers, progress(Some("20"), true), None, "99", 40, true),
            (None, progress(Some("20"), false), open, "15", 40, false),
            (None, progress(Some("20"), false), open, "99", 40, true),
        ] {
            let found = publishes(order, &progress, window, &key(row), transaction);
            assert_eq!(
                found, expected,
                "{order:?} {progress:?} {row} {transaction}"
            );
        }
    }
}
