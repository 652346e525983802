//! The columns that the events of a table have. They are kept with the position of its snapshot, so that a source tells of
//! other columns also where they have changed while it did not run.

use std::fmt::Write as _;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// What identifies the columns of a table: another one for other columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnsMark {
    names: String,
    /// With their types, where these are known as the log says them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    types: Option<String>,
}

impl ColumnsMark {
    /// Of columns of which the names are known.
    pub fn of_names<'a>(names: impl Iterator<Item = &'a str>) -> ColumnsMark {
        ColumnsMark {
            names: identity(&names.collect::<Vec<_>>()),
            types: None,
        }
    }

    /// Of names with their types.
    pub fn of(columns: impl Iterator<Item = (String, String)>) -> ColumnsMark {
        let columns: Vec<_> = columns.collect();
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        ColumnsMark {
            names: identity(&names),
            types: Some(identity(&columns)),
        }
    }

    /// Whether both are of the same columns, as far as is known of each.
    pub fn fits(&self, other: &ColumnsMark) -> bool {
        match (&self.types, &other.types) {
            (Some(types), Some(others)) => types == others,
            _ => self.names == other.names,
        }
    }
}

/// Half of a SHA-256 in hexadecimal digits.
fn identity<T: Serialize>(of: &T) -> String {
    // Texts have no failure as JSON.
    let text = serde_json::to_vec(of).unwrap_or_default();
    let mut identity = String::new();
    for byte in &digest(&SHA256, &text).as_ref()[..16] {
        // Writing to a text has no failure.
        let _ = write!(identity, "{byte:02x}");
    }
    identity
}

#[cfg(test)]
mod tests {
    use busbar_connector::Resume;

    use super::super::collect::{Collector, Table};
    use super::*;

    /// Columns are kept behind the transaction that tells them, and say nothing of a snapshot that nobody has taken.
    #[test]
    fn told_columns_are_kept_behind_their_transaction() {
        let of = |name: &str| ColumnsMark::of_names(std::iter::once(name));
        let mut collector = Collector::new(0, Resume::default());
        let mut table = Table::new("s.t", "t".into(), 0, false, &collector, 0);
        assert_eq!(table.has_told(&of("a")), None);
        collector.begin(1, "1".into(), "1".into(), 0);
        collector.push(&"t".into(), None, b"{}".to_vec());
        table.tell(of("a"));
        collector.end_told(&mut table);
        assert!(collector.pop().is_none(), "the transaction is under way");
        assert_eq!(table.has_told(&of("a")), Some(true));
        collector.commit(1);
        collector.end_told(&mut table);
        let batches: Vec<_> = std::iter::from_fn(|| collector.pop()).collect();
        let parts: Vec<_> = batches.iter().map(|batch| &*batch.part).collect();
        assert_eq!(parts, ["stream", "table:s.t"]);
        let mut resume = Resume::default();
        for batch in batches {
            let position = batch.position.last().expect("a position");
            resume.positions.insert(batch.part.to_string(), position);
            resume.notes.insert(batch.part.to_string(), batch.note);
        }
        let collector = Collector::new(0, resume);
        for snapshot in [false, true] {
            let table = Table::new("s.t", "t".into(), 0, snapshot, &collector, 0);
            assert_eq!(table.has_told(&of("a")), Some(true));
            assert_eq!(table.has_told(&of("b")), Some(false));
            assert_eq!((table.progress.done, table.resumed), (!snapshot, false));
        }
    }

    #[test]
    fn columns_are_compared_by_what_is_known_of_both() {
        let of = |columns: &[(&str, &str)]| {
            let columns = columns.iter();
            ColumnsMark::of(columns.map(|(name, of)| ((*name).to_owned(), (*of).to_owned())))
        };
        let two = of(&[("a", "int"), ("b", "text")]);
        assert!(two.fits(&of(&[("a", "int"), ("b", "text")])));
        assert!(!two.fits(&of(&[("a", "int"), ("b", "json")])));
        assert!(!two.fits(&of(&[("b", "text"), ("a", "int")])));
        assert!(!two.fits(&of(&[("a", "int")])));
        let names = ColumnsMark::of_names(["a", "b"].into_iter());
        assert!(names.fits(&two) && two.fits(&names));
        assert!(!names.fits(&ColumnsMark::of_names(["a,b"].into_iter())));
    }
}
