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

/// What identifies names or other texts in their order: half of a SHA-256 of their JSON in hexadecimal digits.
pub fn identity<T: Serialize>(of: &T) -> String {
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
    use super::*;

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
