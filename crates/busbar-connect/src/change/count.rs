//! Whether as many rows of a table were sent as the database has.
//!
//! What is in a table changes while it is read. So the rows that were read are counted, and changes that were published of
//! rows that were read before are added. The database counts in the transaction that reads the last chunk; what it has
//! seen of the changes that came after that is not known everywhere, so that its number may lie between two.

use std::future::Future;

use busbar_connector::SnapshotState;
use busbar_event::Error;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

/// Counts rows of a table that are sent.
#[derive(Default)]
pub struct SentRows {
    /// Rows that are there by what was sent.
    there: i64,
    /// Rows that changes have added and removed which the database may have counted or not.
    perhaps_added: u64,
    perhaps_removed: u64,
    /// What was sent is not all that is there, as far as that is known here.
    is_unknown: bool,
    /// The database counts.
    counting: JoinSet<Result<u64, Error>>,
    counted: Option<Result<u64, Error>>,
}

/// What came of comparing the numbers of rows. Kept with how far the table was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsCompared {
    /// Rows that should be there by what was sent; none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<i64>,
    /// Rows that the database has counted; none where it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<u64>,
    /// They are not the same.
    #[serde(default)]
    pub differs: bool,
}

/// What a change does to the number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowEffect {
    Added,
    Removed,
    Same,
}

impl RowEffect {
    /// What the change of an event does.
    pub fn of(change: &str) -> RowEffect {
        match change {
            "insert" => RowEffect::Added,
            "delete" => RowEffect::Removed,
            _ => RowEffect::Same,
        }
    }
}

impl SentRows {
    /// Rows were read.
    pub fn read(&mut self, rows: u64) {
        self.there = self.there.saturating_add_unsigned(rows);
    }

    /// A change was published of a row that was read before, and the database has counted it or will.
    pub fn changed(&mut self, change: RowEffect) {
        match change {
            RowEffect::Added => self.there += 1,
            RowEffect::Removed => self.there -= 1,
            RowEffect::Same => {}
        }
    }

    /// The same while it counts, so that it may have counted it or not.
    pub fn perhaps_changed(&mut self, change: RowEffect) {
        match change {
            RowEffect::Added => self.perhaps_added += 1,
            RowEffect::Removed => self.perhaps_removed += 1,
            RowEffect::Same => {}
        }
    }

    /// The table was emptied.
    pub fn emptied(&mut self) {
        self.is_unknown |= self.is_counting();
        self.there = 0;
    }

    /// How many rows are there is not known any more.
    pub fn lose(&mut self) {
        self.is_unknown = true;
    }

    /// Lets the database count, in the transaction that read the last rows.
    pub fn count(&mut self, counting: impl Future<Output = Result<u64, Error>> + Send + 'static) {
        self.counted = None;
        self.counting.spawn(counting);
    }

    /// Whether the database counts, or has and nobody has looked.
    pub fn is_counting(&self) -> bool {
        !self.counting.is_empty() || self.counted.is_some()
    }

    /// What came of it, once, when the database has counted and nothing is awaited that may change the number.
    pub fn take(&mut self, is_settled: bool) -> Option<(RowsCompared, Option<Error>)> {
        if let Some(counted) = self.counting.try_join_next() {
            // A task that was ended early has no number; it is ended with the source only.
            self.counted = counted.ok();
        }
        if !is_settled {
            return None;
        }
        let (counted, failed) = match self.counted.take()? {
            Ok(counted) => (Some(counted), None),
            Err(error) => (None, Some(error)),
        };
        Some((self.compare(counted), failed))
    }

    fn compare(&self, counted: Option<u64>) -> RowsCompared {
        let least = self.there.saturating_sub_unsigned(self.perhaps_removed);
        let most = self.there.saturating_add_unsigned(self.perhaps_added);
        let number = counted.map(|counted| i64::try_from(counted).unwrap_or(i64::MAX));
        let differs = number.is_some_and(|number| number < least || number > most);
        RowsCompared {
            expected: (!self.is_unknown).then(|| number.unwrap_or(least).clamp(least, most)),
            counted,
            differs: differs && !self.is_unknown,
        }
    }
}

impl RowsCompared {
    /// What is known of the snapshot.
    pub fn state(&self) -> SnapshotState {
        match (self.expected, self.counted) {
            (Some(_), Some(_)) if self.differs => SnapshotState::Different,
            (Some(_), Some(_)) => SnapshotState::Equal,
            _ => SnapshotState::Uncompared,
        }
    }
}

#[cfg(test)]
mod tests {
    use busbar_connector::Resume;

    use super::super::collect::{Collector, Table};
    use super::super::snapshot::Progress;
    use super::*;

    fn count() -> SentRows {
        let mut count = SentRows::default();
        count.read(10);
        count.changed(RowEffect::Added);
        count.changed(RowEffect::of("delete"));
        count.changed(RowEffect::of("update"));
        count.read(5);
        count
    }

    /// A new snapshot clears the fault of the one before.
    #[test]
    fn what_is_wrong_with_a_snapshot_is_an_alarm_until_it_is_begun_anew() {
        let progress = Progress {
            compared: Some(RowsCompared {
                expected: Some(3),
                counted: Some(2),
                differs: true,
            }),
            missed: true,
            ..Progress::up_to(None, true)
        };
        let mut resume = Resume::default();
        resume.positions.insert("table:s.t".into(), 7);
        let note = serde_json::to_vec(&progress).expect("JSON");
        resume.notes.insert("table:s.t".into(), note);
        let mut collector = Collector::new(0, resume);
        let mut table = Table::new("s.t", "t".into(), 0, true, &collector, 0);
        let alarms = |table: &Table| -> Vec<_> {
            let alarms = table.alarms("c").into_iter();
            alarms
                .map(|alarm| (alarm.code(), alarm.to_string()))
                .collect()
        };
        let [(missed, _), (differs, told)] = &alarms(&table)[..] else {
            panic!("{:?}", alarms(&table));
        };
        assert_eq!(
            (*missed, *differs),
            ("connect.changes-missed", "connect.snapshot-differs")
        );
        assert!(told.contains('3') && told.contains('2'), "{told}");
        assert!(Table::ask(std::iter::once(&mut table), "s.other").is_err());
        Table::ask(std::iter::once(&mut table), "s.t").expect("it is there");
        assert!(collector.begin_asked(&mut table));
        assert_eq!(alarms(&table), []);
        assert!(!table.progress.done && table.progress.asked);
        // What was asked for is kept before the table is emptied.
        let batches: Vec<_> = std::iter::from_fn(|| collector.pop()).collect();
        let rows: Vec<_> = batches.iter().map(|batch| batch.batch.rows()).collect();
        assert_eq!(rows, [0, 1]);
    }

    #[test]
    fn numbers_are_compared_with_what_may_have_been_counted() {
        let mut count = count();
        let of = |count: &SentRows, counted| {
            let compared = count.compare(counted);
            (compared.state(), compared.expected)
        };
        assert_eq!(of(&count, Some(15)), (SnapshotState::Equal, Some(15)));
        assert_eq!(of(&count, Some(14)), (SnapshotState::Different, Some(15)));
        assert_eq!(of(&count, Some(16)), (SnapshotState::Different, Some(15)));
        assert_eq!(of(&count, None), (SnapshotState::Uncompared, Some(15)));
        count.perhaps_changed(RowEffect::Removed);
        count.perhaps_changed(RowEffect::Added);
        count.perhaps_changed(RowEffect::Added);
        for (counted, state, expected) in [
            (13, SnapshotState::Different, 14),
            (14, SnapshotState::Equal, 14),
            (17, SnapshotState::Equal, 17),
            (18, SnapshotState::Different, 17),
        ] {
            assert_eq!(
                of(&count, Some(counted)),
                (state, Some(expected)),
                "{counted}"
            );
        }
        count.lose();
        assert_eq!(of(&count, Some(99)), (SnapshotState::Uncompared, None));
    }

    #[tokio::test]
    async fn what_came_of_it_is_told_once_everything_is_there() {
        let mut count = count();
        assert!(count.take(true).is_none());
        count.count(async { Ok(15) });
        let compared = loop {
            tokio::task::yield_now().await;
            assert!(count.take(false).is_none());
            if let Some((compared, failed)) = count.take(true) {
                assert!(failed.is_none());
                break compared;
            }
        };
        assert_eq!(compared.state(), SnapshotState::Equal);
        assert!(count.take(true).is_none() && !count.is_counting());
        // Emptied while it is counted.
        count.count(async { Ok(15) });
        count.emptied();
        assert_eq!(count.compare(Some(0)).state(), SnapshotState::Uncompared);
    }
}
