//! Rows that a server has refused, kept beside the position that was written with their neighbours. When the delivery comes
//! again after a crash, the position says that it is known, and these rows are named once more: their dead letters may not
//! have been kept. Only those of the last position are needed, because a delivery begins after the dead letters of the one
//! before it are kept.

use std::collections::HashMap;

use busbar_event::hash::fnv1a;
use busbar_event::{Class, Error};

use super::Op;
use super::plan::Refused;

/// The table beside the one with the positions.
pub const REFUSED_TABLE: &str = "busbar_refused";

/// A refused row as its table keeps it.
#[derive(Clone)]
pub struct RefusedRecord {
    /// Its number in the delivery.
    pub row: usize,
    /// What the row is recognised by: deliveries may be cut otherwise when they come again.
    pub content: String,
    /// The [`Error::record`] of what the server said.
    pub cause: String,
}

/// What a row is recognised by: a hash of what is asked for and of the values as they are sent.
pub fn content_of(op: Op, values: impl AsRef<[u8]>) -> String {
    let mut bytes = vec![op as u8];
    bytes.extend_from_slice(values.as_ref());
    format!("{:016x}", fnv1a(&bytes))
}

impl RefusedRecord {
    /// The records of refused rows; `content` answers for a row's number.
    pub fn of(refused: &[Refused], content: impl Fn(usize) -> String) -> Vec<RefusedRecord> {
        let records = refused.iter().map(|(row, cause)| RefusedRecord {
            row: *row,
            content: content(*row),
            cause: cause.record(),
        });
        records.collect()
    }

    /// Which rows of a delivery are those of the records. Of rows with the same content the last ones are.
    pub fn recalled(
        records: Vec<RefusedRecord>,
        rows: impl DoubleEndedIterator<Item = (usize, String)>,
    ) -> Vec<Refused> {
        if records.is_empty() {
            return Vec::new();
        }
        let mut causes: HashMap<String, Vec<String>> = HashMap::new();
        for record in records {
            causes.entry(record.content).or_default().push(record.cause);
        }
        let found = rows.rev().filter_map(|(row, content)| {
            let cause = causes.get_mut(&content)?.pop()?;
            let told = Error::recorded(&cause).unwrap_or_else(|| {
                Error::new(Class::Permanent, "connect.refused-before").with("said", cause)
            });
            Some((row, told))
        });
        found.collect()
    }
}

/// Statements that insert rows, written in SQL, of at most so many bytes each where they have more than one row.
pub fn insertions(head: &str, rows: impl Iterator<Item = String>, bytes: usize) -> Vec<String> {
    const BETWEEN: &str = ", ";
    let mut statements: Vec<String> = Vec::new();
    for row in rows {
        match statements.last_mut() {
            Some(last) if last.len() + BETWEEN.len() + row.len() <= bytes => {
                last.push_str(BETWEEN);
                last.push_str(&row);
            }
            _ => statements.push(format!("{head} {row}")),
        }
    }
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_rows_are_found_again_by_their_content() {
        let error = |said: &str| Error::new(Class::Permanent, "postgres.value").with("said", said);
        let content = |row: usize| ["a", "b", "a", "c"][row].to_owned();
        let records = || RefusedRecord::of(&[(1, error("x")), (2, error("y"))], content);
        // The second of two equal rows; with a row before, as where the delivery begins earlier now.
        let rows = ["c", "a", "b", "a", "c"];
        let rows = rows.iter().enumerate();
        let mut found =
            RefusedRecord::recalled(records(), rows.map(|(at, row)| (at, (*row).to_owned())));
        found.sort_by_key(|(row, _)| *row);
        let said: Vec<_> = found
            .iter()
            .map(|(row, cause)| (*row, cause.args()[0].1.as_str()))
            .collect();
        assert_eq!(said, [(2, "x"), (3, "y")]);
    }

    #[test]
    fn statements_have_about_so_many_bytes() {
        let rows = ["(1)", "(2)", "(3)"].map(str::to_owned);
        let made = insertions("I", rows.into_iter(), 9);
        assert_eq!(made, ["I (1)", "I (2)", "I (3)"]);
        let rows = ["(1)", "(2)", "(3)"].map(str::to_owned);
        assert_eq!(
            insertions("I", rows.into_iter(), 13),
            ["I (1), (2)", "I (3)"]
        );
    }
}
