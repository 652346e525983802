//! What functions do with texts.

use std::borrow::Cow;

use super::number::round;
use crate::names::is_space;

/// `normalize-space`.
pub(super) fn normalized(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        if !normal.is_empty() {
            normal.push(' ');
        }
        normal.push_str(word);
    }
    normal
}

/// `substring`: the characters at positions from `from` on, and before `from + length`, all of it rounded.
pub(super) fn substring<'a>(text: Cow<'a, str>, from: f64, length: Option<f64>) -> Cow<'a, str> {
    let from = round(from);
    let until = length.map_or(f64::INFINITY, |length| from + round(length));
    let is_in = |position: f64| position >= from && position < until;
    let mut range = None;
    let mut position = 0.0;
    for (at, letter) in text.char_indices() {
        position += 1.0;
        if is_in(position) {
            let (begin, _) = range.unwrap_or((at, at));
            range = Some((begin, at + letter.len_utf8()));
        } else if range.is_some() {
            break;
        }
    }
    let (from, to) = range.unwrap_or((0, 0));
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[from..to]),
        Cow::Owned(mut text) => {
            text.truncate(to);
            text.drain(..from);
            Cow::Owned(text)
        }
    }
}

/// `translate`.
pub(super) fn translated(text: &str, from: &str, to: &str) -> String {
    let to: Vec<char> = to.chars().collect();
    let mut map = std::collections::HashMap::new();
    for (at, letter) in from.chars().enumerate() {
        map.entry(letter).or_insert(to.get(at).copied());
    }
    let letters = text.chars();
    letters
        .filter_map(|letter| map.get(&letter).copied().unwrap_or(Some(letter)))
        .collect()
}

/// Whether a language is the one that is asked for, or a kind of it: `en-US` is `en`.
pub(super) fn is_language(given: &str, wanted: &str) -> bool {
    let head = given.get(..wanted.len());
    head.is_some_and(|head| head.eq_ignore_ascii_case(wanted))
        && matches!(given.as_bytes().get(wanted.len()), None | Some(b'-'))
}
