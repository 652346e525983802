//! Names of resources.

use busbar_event::{Class, Error};

use crate::limits::NAME_BYTES_MAX;

/// Checks the name of a stream, flow, table or connection.
///
/// A name is a file's name, a word in SQL, a part of a path on disk and of a URL, so it is kept to what
/// all four take without quoting: it begins with a small letter, then small letters, digits, `-` and `_`.
///
/// # Errors
/// `catalog.name` with the name as it was given.
pub fn check_name(name: &str) -> Result<(), Error> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
    let rest =
        bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if first && rest && name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    // A hostile name may be long; what is shown of it is not.
    let shown: String = name.chars().take(NAME_BYTES_MAX).collect();
    Err(Error::new(Class::Configuration, "catalog.name").with("name", shown))
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn takes_what_paths_sql_and_urls_take() {
        for good in ["a", "rain-alarm", "cpu_5", "x1"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "1a",
            "-a",
            "_a",
            "A",
            "a.b",
            "a/b",
            "..",
            "ä",
            "a b",
            &"a".repeat(65),
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
