//! A transaction that is too large to be held until its end: how its rows are numbered, so that those that come again after a
//! crash are recognised.

use std::sync::Arc;

use busbar_change::identity;
use serde::{Deserialize, Serialize};

/// How the rows of a transaction are numbered. Kept as JSON with the position of its part.
///
/// A row is known by how many changes of followed tables come before it. With other tables its number would be another one, and
/// rows that nobody has published would be taken for others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowNumbers {
    /// Identifies the tables that are followed.
    tables: String,
    /// What comes before the numbers in positions.
    #[serde(default)]
    attempt: u64,
}

/// The tables that are followed.
#[derive(Debug, Default)]
pub struct FollowedTables {
    names: Vec<String>,
    /// What identifies them; none until it is asked for.
    identity: Option<String>,
}

/// The part of a transaction.
pub struct LargePart {
    pub part: Arc<str>,
    /// Rows up to here are in the streams.
    known: u64,
    /// How its rows are numbered is kept.
    has_begun: bool,
}

impl FollowedTables {
    /// Adds a table.
    pub fn add(&mut self, name: &str) {
        self.names.push(name.to_owned());
        self.identity = None;
    }

    fn identity(&mut self) -> &str {
        self.identity.get_or_insert_with(|| {
            self.names.sort_unstable();
            identity(&self.names)
        })
    }
}

impl RowNumbers {
    /// Numbers where these tables are followed.
    pub fn new(tables: &mut FollowedTables, attempt: u64) -> RowNumbers {
        RowNumbers {
            tables: tables.identity().to_owned(),
            attempt,
        }
    }

    /// What comes before the numbers in positions, by the note of a part: `None` where rows have other numbers now.
    pub fn kept(note: &[u8], tables: &mut FollowedTables) -> Option<u64> {
        let kept: RowNumbers = serde_json::from_slice(note).ok()?;
        (kept.tables == tables.identity()).then_some(kept.attempt)
    }

    /// As the note that is kept with a position.
    pub fn to_note(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl LargePart {
    /// A part of which nothing was handed on.
    pub fn new(part: Arc<str>) -> LargePart {
        LargePart {
            part,
            known: 0,
            has_begun: false,
        }
    }

    /// A part that goes on behind a position.
    pub fn known(part: Arc<str>, known: u64) -> LargePart {
        LargePart {
            part,
            known,
            has_begun: true,
        }
    }

    /// The same part, whose rows are numbered anew.
    pub fn anew(self) -> LargePart {
        LargePart::new(self.part)
    }

    /// Whether the row of this position was committed before.
    pub fn has(&self, position: u64) -> bool {
        position <= self.known
    }

    /// Its rows are handed on from here on: `true` the first time.
    pub fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.has_begun, true)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use busbar_connector::{Polling, Position, ReachedPositions, Resume};

    use super::super::collect::{Collector, Table};
    use crate::limits::TRANSACTION_ROWS;

    const PART: &str = "large:0000000000000001";

    /// A transaction that changes rows of `s.a`, and then of `s.b`.
    struct Large {
        a: usize,
        b: usize,
    }

    impl Large {
        /// What is handed on of it before its end, where these tables are followed.
        fn take(&self, collector: &mut Collector, followed: &[&str]) -> Vec<Polling> {
            collector.begin(1, "1".into(), "1".into(), 0, 0);
            for (table, rows) in [("s.a", self.a), ("s.b", self.b)] {
                for row in (0..rows).filter(|_| followed.contains(&table)) {
                    collector.push(&table.into(), None, row.to_string().into_bytes());
                    collector.count();
                }
            }
            let handed_on = std::iter::from_fn(|| collector.pop()).collect();
            collector.commit(9);
            handed_on
        }
    }

    /// A source that follows tables, opened behind what was kept of `polled`, all of which is in streams.
    fn opened(followed: &[&str], polled: &[Polling], kept: usize) -> Collector {
        let mut resume = Resume::default();
        for polling in &polled[..kept] {
            let position = polling.position.last().expect("a position");
            resume.positions.insert(polling.part.to_string(), position);
            resume
                .notes
                .insert(polling.part.to_string(), polling.note.clone());
        }
        let reached = polled.iter().filter(|polling| polling.batch.rows() > 0);
        let reached = reached.filter_map(|polling| polling.position.last()).max();
        resume.farthest = ReachedPositions::new(move |part| match part {
            PART => reached.unwrap_or(0),
            _ => 0,
        });
        let mut collector = Collector::new(0, resume);
        followed.iter().for_each(|table| collector.follow(table));
        collector
    }

    /// The rows of `s.b` that streams hold: of a position that they know nothing is added.
    fn rows_of_b(polled: &[Polling]) -> Vec<String> {
        let (mut known, mut rows) = (0, Vec::new());
        for polling in polled.iter().filter(|polling| &*polling.part == PART) {
            let Position::Rows(positions) = &polling.position else {
                continue;
            };
            let payloads = polling.batch.payloads();
            for (row, position) in positions.iter().enumerate() {
                if *position > known && polling.batch.topic(row) == "s.b" {
                    rows.push(String::from_utf8_lossy(payloads.value(row)).into_owned());
                }
                known = known.max(*position);
            }
        }
        rows
    }

    /// Without a table, and with one more, a row has another number.
    #[test]
    fn a_transaction_comes_again_where_other_tables_are_followed() {
        let large = Large {
            a: 10,
            b: TRANSACTION_ROWS + 5,
        };
        for (before, after) in [
            (&["s.a", "s.b"][..], &["s.b"][..]),
            (&["s.b"][..], &["s.b", "s.a"][..]),
        ] {
            let mut polled = large.take(&mut opened(before, &[], 0), before);
            assert_eq!(polled.len(), 2, "how rows are numbered, and rows");
            assert_eq!(polled[0].batch.rows(), 0);
            // Killed once nothing else is kept.
            let mut again = opened(after, &polled, 1);
            polled.extend(large.take(&mut again, after));
            polled.extend(std::iter::from_fn(|| again.pop()));
            let rows: BTreeSet<_> = rows_of_b(&polled).into_iter().collect();
            assert_eq!(rows.len(), large.b, "{before:?} {after:?}");
        }
    }

    /// The same tables in another order are the same.
    #[test]
    fn a_transaction_goes_on_where_it_was_also_when_it_was_numbered_anew() {
        let large = Large {
            a: 10,
            b: 2 * TRANSACTION_ROWS,
        };
        let mut polled = large.take(&mut opened(&["s.b"], &[], 0), &["s.b"]);
        let both = &["s.a", "s.b"][..];
        let mut anew = large.take(&mut opened(both, &polled, polled.len()), both);
        // The second piece of it is lost with the process.
        anew.truncate(2);
        let first = polled.len();
        polled.extend(anew);
        let mut last = opened(&["s.b", "s.a"], &polled, polled.len());
        polled.extend(large.take(&mut last, both));
        polled.extend(std::iter::from_fn(|| last.pop()));
        let rows = rows_of_b(&polled[first..]);
        let wanted: Vec<_> = (0..large.b).map(|row| row.to_string()).collect();
        assert!(rows == wanted, "{} rows", rows.len());
    }

    /// A chunk that has not seen it would put back what it has changed.
    #[test]
    fn a_transaction_comes_again_behind_a_chunk() {
        let large = Large {
            a: 0,
            b: TRANSACTION_ROWS,
        };
        let mut polled = large.take(&mut opened(&["s.b"], &[], 0), &["s.b"]);
        let (first, kept) = (rows_of_b(&polled), polled.len());
        assert_eq!(first.len(), large.b);
        let mut again = opened(&["s.b"], &polled, kept);
        let mut table = Table::new("s.b", "s.b".into(), 0, true, &again, 0);
        again.push_read(&mut table, None, b"{}");
        again.end_read(&mut table, None);
        polled.extend(large.take(&mut again, &["s.b"]));
        polled.extend(std::iter::from_fn(|| again.pop()));
        assert_eq!(rows_of_b(&polled).len(), 2 * large.b);
    }
}
