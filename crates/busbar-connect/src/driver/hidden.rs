//! What drivers say, without what is secret.

use busbar_connector::HIDDEN;

use super::limits::{LOG_LINE_BYTES_MAX, SAID_CHARS_MAX};

/// Bytes of a text that is too short to be hidden: it would be found everywhere.
const SHORT_BYTES_MAX: usize = 3;

/// What no message may show.
pub struct Secrets(Vec<String>);

impl Secrets {
    pub fn of(secrets: &[String]) -> Secrets {
        let long = secrets.iter().filter(|text| text.len() > SHORT_BYTES_MAX);
        let mut secrets: Vec<String> = long.cloned().collect();
        // One may be a part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Secrets(secrets)
    }

    /// What a driver says of a failure.
    pub fn said(&self, text: &str) -> String {
        // Java counts in parts of UTF-16.
        self.hide(text, text.encode_utf16().count() >= SAID_CHARS_MAX)
    }

    /// A line of a log, of which [`LOG_LINE_BYTES_MAX`] bytes are kept.
    pub fn line(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        self.hide(text.trim(), bytes.len() >= LOG_LINE_BYTES_MAX)
    }

    /// A text without secrets; one that was cut may end within a secret.
    fn hide(&self, text: &str, is_cut: bool) -> String {
        let text = match is_cut {
            // A character that was cut is none.
            true => text.trim_end_matches(char::REPLACEMENT_CHARACTER),
            false => text,
        };
        let mut text = text.to_owned();
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), HIDDEN);
            }
        }
        if is_cut {
            let begun = self.0.iter().map(|secret| begun(&text, secret));
            let left = text.len() - begun.max().unwrap_or(0);
            text.truncate(left);
        }
        text
    }
}

/// Bytes of the longest end of a text with which a secret begins.
fn begun(text: &str, secret: &str) -> usize {
    let ends = secret.char_indices().map(|(end, _)| end).rev();
    let mut begun = ends.filter(|end| text.ends_with(&secret[..*end]));
    begun.next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_secret_is_left_where_a_line_is_cut() {
        let password = "pässword-of-the-hospital";
        let secrets = Secrets::of(&[password.to_owned(), "abab".to_owned(), "xy".to_owned()]);
        for (secret, cuts) in [(password, 1..password.len()), ("abab", 1..4)] {
            for cut in cuts {
                let mut line = vec![b'-'; LOG_LINE_BYTES_MAX - cut];
                line.extend_from_slice(secret.as_bytes());
                line.truncate(LOG_LINE_BYTES_MAX);
                let shown = secrets.line(&line);
                assert!(
                    shown.ends_with("--"),
                    "{cut}: {}",
                    &shown[shown.len() - 20..]
                );
                assert!(shown.len() >= LOG_LINE_BYTES_MAX - cut);
            }
        }
        let mut said = "-".repeat(SAID_CHARS_MAX - 5) + password;
        said.truncate(SAID_CHARS_MAX + 1);
        assert!(secrets.said(&said).ends_with("--"), "{said}");
        // A whole one at the cut is hidden as one.
        let line = format!("{}abab", "-".repeat(LOG_LINE_BYTES_MAX - 4));
        assert!(
            secrets
                .line(line.as_bytes())
                .ends_with(&format!("-{HIDDEN}"))
        );
        // A line that is whole may end as it likes.
        let line = format!(" user {password}, pässword\r");
        let shown = format!("user {HIDDEN}, pässword");
        assert_eq!(secrets.line(line.as_bytes()), shown);
    }
}
