//! The words in which other systems say why they refuse something.

use crate::limits::REASON_CHARS_MAX;

/// Words of another system on one line, as many as are shown. [`busbar_event::quote`] is for names and values: of a reason it
/// would leave the beginning only.
pub(crate) fn reason(said: &str) -> String {
    let mut letters = said.trim().chars();
    let mut shown: String = letters
        .by_ref()
        .take(REASON_CHARS_MAX)
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    if letters.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        let long = "雨".repeat(REASON_CHARS_MAX);
        for (said, shown) in [
            ("", String::new()),
            ("  no\r\nsuch\tindex \n", "no  such index".to_owned()),
            (
                "a reason with more characters than a name or a value has",
                "a reason with more characters than a name or a value has".to_owned(),
            ),
            (long.as_str(), long.clone()),
            (&format!("{long}x"), format!("{long}…")),
        ] {
            assert_eq!(reason(said), shown);
        }
    }
}
