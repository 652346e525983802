//! Two tables kept in step both ways where the rows of one side win.
//!
//! The preferred side's log is the order of all changes. A change of the other side is carried out here only where the row
//! still has the version that the change was made on; otherwise the row stays and is written anew as it is, so that it goes
//! to the other side once more. What is carried out here comes in there as `returned`. It changes something only where the
//! row there has the version that it had here, which is where a change from here has overtaken it.
//!
//! Both sides come to the same row, whatever the versions are. While no change of the preferred side is on its way, the other
//! side has either the row of its last change, whose fate is still open, or the one that the log has come to. A change that
//! gives way writes to the log behind everything that the other side had seen, and what a program of the preferred side writes
//! replaces any row.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Op;

/// Whom sinks name in the log before they write rows anew: these are no changes of the other side. A producer has a `/`.
pub const NOBODY: &str = "busbar";

/// Which of two rows stays where both sides have changed it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prefer {
    /// Whose row stays.
    pub row: PreferredRow,
    /// The column that has another value after each change of a row: a time, a number or a text.
    pub version: String,
    /// A column of the flow with the value that `version` had before the change, and none for a row that is new:
    /// `before.NAME` of the changes. It is not written.
    pub was: String,
}

/// Whose row stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PreferredRow {
    /// The one in this table: what comes is written only where it was made on this row.
    There,
    /// The one that comes. Of what this side has changed itself, and comes back as `returned`, only what was overwritten
    /// in the meantime is written.
    Coming,
}

/// What becomes of a row, by the one that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowVerdict {
    /// It is added: none is there.
    Add,
    /// What it asks for is done with the row there.
    Write,
    /// Nothing is done.
    Leave,
    /// It gives way, and the row there is written anew.
    GivesWay,
}

/// The row of a table that has the key of one that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowThere {
    Missing,
    /// It has the version that the change was made on.
    SameVersion,
    OtherVersion,
}

impl PreferredRow {
    /// Whether rows are compared with those there.
    pub fn compares(self, op: Op) -> bool {
        match self {
            PreferredRow::There => true,
            PreferredRow::Coming => op == Op::Returned,
        }
    }

    /// What becomes of a row that is compared; `is_new` where there was none before it.
    pub fn verdict(self, op: Op, is_new: bool, there: RowThere) -> RowVerdict {
        use RowThere::{Missing, OtherVersion, SameVersion};
        match (op, there) {
            (Op::Read, Missing) => RowVerdict::Add,
            (Op::Read, _) => RowVerdict::Leave,
            (Op::Delete, Missing) => RowVerdict::Leave,
            (Op::Returned, OtherVersion) => RowVerdict::Leave,
            (Op::Returned, Missing) if !is_new => RowVerdict::Leave,
            (Op::Returned, SameVersion) if is_new => RowVerdict::Leave,
            (_, SameVersion) => RowVerdict::Write,
            (_, Missing) if is_new => RowVerdict::Add,
            (_, Missing | OtherVersion) => RowVerdict::GivesWay,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A row: its version, and who wrote it in which change.
    type Row = Option<(u8, u32)>;

    /// A change in a log.
    #[derive(Clone, Copy, Debug)]
    struct Logged {
        before: Row,
        after: Row,
        /// Busbar made it on behalf of the other side.
        returned: bool,
    }

    /// One row on two sides, `a` preferred, and what is on its way between them.
    #[derive(Default)]
    struct Pair {
        a: Row,
        b: Row,
        to_b: VecDeque<Logged>,
        to_a: VecDeque<Logged>,
        conflicts: u32,
        changes: u32,
    }

    fn there(row: Row, version: Option<u8>) -> RowThere {
        match row {
            None => RowThere::Missing,
            Some((there, _)) if Some(there) == version => RowThere::SameVersion,
            Some(_) => RowThere::OtherVersion,
        }
    }

    fn version(row: Row) -> Option<u8> {
        row.map(|(version, _)| version)
    }

    impl Pair {
        /// A program changes the row of a side; versions come again, and both sides give the same ones.
        fn change(&mut self, on_a: bool, version: Option<u8>) {
            self.changes += 1;
            let after = version.map(|version| (version, self.changes));
            let (row, log) = match on_a {
                true => (&mut self.a, &mut self.to_b),
                false => (&mut self.b, &mut self.to_a),
            };
            let before = std::mem::replace(row, after);
            if before.is_some() || after.is_some() {
                log.push_back(Logged {
                    before,
                    after,
                    returned: false,
                });
            }
        }

        /// The next change of `a` comes to `b`. What Busbar writes there does not come back.
        fn take_on_b(&mut self) {
            let Some(logged) = self.to_b.pop_front() else {
                return;
            };
            // A delete is never compared.
            if !logged.returned || logged.after.is_none() {
                self.b = logged.after;
                return;
            }
            let is_new = logged.before.is_none();
            let there = there(self.b, version(logged.before));
            match PreferredRow::Coming.verdict(Op::Returned, is_new, there) {
                RowVerdict::Add | RowVerdict::Write => self.b = logged.after,
                RowVerdict::Leave => {}
                RowVerdict::GivesWay => panic!("what returns is written or left"),
            }
        }

        /// The next change of `b` comes to `a`.
        fn take_on_a(&mut self) {
            let Some(logged) = self.to_a.pop_front() else {
                return;
            };
            let op = match logged.after {
                Some(_) => Op::Upsert,
                None => Op::Delete,
            };
            let there = there(self.a, version(logged.before));
            match PreferredRow::There.verdict(op, logged.before.is_none(), there) {
                RowVerdict::Add | RowVerdict::Write => self.to_b.push_back(Logged {
                    before: std::mem::replace(&mut self.a, logged.after),
                    after: logged.after,
                    returned: true,
                }),
                RowVerdict::Leave => {}
                RowVerdict::GivesWay => {
                    self.conflicts += 1;
                    // A row that is not there cannot be written anew.
                    if self.a.is_some() {
                        self.to_b.push_back(Logged {
                            before: self.a,
                            after: self.a,
                            returned: false,
                        });
                    }
                }
            }
        }

        fn settle(&mut self, mut next: impl FnMut() -> u64) {
            while !self.to_a.is_empty() || !self.to_b.is_empty() {
                match next().is_multiple_of(2) {
                    true => self.take_on_a(),
                    false => self.take_on_b(),
                }
            }
        }
    }

    /// Numbers that follow from a seed (SplitMix64).
    fn numbers(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
    }

    #[test]
    fn both_sides_come_to_one_row_in_any_order() {
        let (mut conflicts, mut returned) = (0, 0);
        for seed in 0..200_000 {
            let mut next = numbers(seed);
            // The two may differ before they are joined: then `a` is read to `b`.
            let mut pair = Pair::default();
            for _ in 0..4 + next() % 12 {
                match next() % 8 {
                    0 | 1 => pair.change(true, Some((next() % 3) as u8)),
                    2 | 3 => pair.change(false, Some((next() % 3) as u8)),
                    4 if next().is_multiple_of(2) => pair.change(true, None),
                    4 => pair.change(false, None),
                    5 | 6 => pair.take_on_b(),
                    _ => pair.take_on_a(),
                }
            }
            pair.settle(&mut next);
            assert_eq!(pair.a, pair.b, "seed {seed}");
            conflicts += pair.conflicts;
            returned += u32::from(pair.a.is_some());
        }
        assert!(conflicts > 0 && returned > 0);
    }

    #[test]
    fn a_side_that_changes_alone_sees_its_own_changes_only() {
        for seed in 0..2_000 {
            let mut next = numbers(seed);
            let mut pair = Pair::default();
            for change in 0..20 {
                pair.change(false, Some(change));
                let mine = pair.b;
                for _ in 0..next() % 3 {
                    match next().is_multiple_of(2) {
                        true => pair.take_on_a(),
                        false => pair.take_on_b(),
                    }
                }
                assert_eq!(pair.b, mine, "seed {seed}");
            }
            pair.settle(&mut next);
            assert_eq!((pair.a, pair.conflicts), (pair.b, 0), "seed {seed}");
        }
    }

    #[test]
    fn a_change_made_on_an_older_row_gives_way() {
        let mut pair = Pair::default();
        pair.change(true, Some(1));
        pair.settle(|| 1);
        pair.change(true, Some(2));
        pair.change(false, Some(3));
        let preferred = pair.a;
        pair.settle(numbers(1));
        assert_eq!((pair.a, pair.b, pair.conflicts), (preferred, preferred, 1));
    }
}
