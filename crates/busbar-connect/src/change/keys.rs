//! The keys of rows that are written together.
//!
//! Of several rows with one key the last one counts, and what is deleted goes before what takes its place. Both are right only
//! where the database tells the same keys apart as are told apart here: to most collations `a` and `A` are one key. A row whose
//! key may be that of another one there is written after it, as it came.

use std::collections::{HashMap, HashSet};

/// How a database tells the texts of a key apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyTexts {
    /// By their bytes.
    #[default]
    Exact,
    /// By their bytes, without blanks at the end.
    Padded,
    /// As a collation does it: cases, accents and widths may be one.
    Collated,
}

/// What is the same for all keys that the database may take for one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlikeKey {
    /// The values that it tells apart by their bytes.
    exact: Vec<u8>,
    /// The others, without what it may not regard; none where that is not known.
    folded: Option<Vec<u8>>,
}

/// The last row of each key.
#[derive(Default)]
pub struct KeysTogether<'a> {
    last: HashMap<&'a [u8], usize>,
    /// Keys that may be others, by the values that are told apart by their bytes.
    alike: HashMap<&'a [u8], AlikeKeys<'a>>,
}

#[derive(Default)]
struct AlikeKeys<'a> {
    folded: HashSet<&'a [u8]>,
    /// There is one of which it is not known what it may be.
    is_unsure: bool,
}

impl AlikeKey {
    /// The key of these values, as they are sent.
    pub fn of<'v>(values: impl Iterator<Item = (KeyTexts, &'v [u8])>) -> AlikeKey {
        let mut key = AlikeKey {
            exact: Vec::new(),
            folded: Some(Vec::new()),
        };
        for (texts, value) in values {
            if texts == KeyTexts::Exact {
                key.exact.extend_from_slice(value);
                key.exact.push(0);
            } else if let Some(folded) = &mut key.folded
                && !texts.fold(value, folded)
            {
                key.folded = None;
            }
        }
        key
    }
}

impl KeyTexts {
    /// Appends what is the same for all values that the database may take for this one, and most often for no other; false
    /// where that is not known.
    fn fold(self, value: &[u8], out: &mut Vec<u8>) -> bool {
        if self == KeyTexts::Padded {
            out.extend(value.iter().filter(|byte| **byte != b' '));
            out.push(0);
            return true;
        }
        let Ok(text) = std::str::from_utf8(value) else {
            return false;
        };
        for c in text.chars() {
            match c {
                // Collations skip control characters.
                ' ' | '\0'..='\x1f' | '\x7f' => {}
                c if c.is_ascii() => out.push(c.to_ascii_lowercase() as u8),
                // Ideographs and syllables are no case, accent or width of anything else.
                '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}' => {
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => return false,
            }
        }
        out.push(0);
        true
    }
}

impl<'a> KeysTogether<'a> {
    /// The last row with this key.
    pub fn last(&self, key: &[u8]) -> Option<usize> {
        self.last.get(key).copied()
    }

    /// Whether the database may take this key for another one that is here.
    pub fn may_be_other(&self, key: &[u8], alike: Option<&AlikeKey>) -> bool {
        let Some(alike) = alike.filter(|_| !self.last.contains_key(key)) else {
            return false;
        };
        let Some(known) = self.alike.get(&alike.exact[..]) else {
            return false;
        };
        match &alike.folded {
            None => true,
            Some(folded) => known.is_unsure || known.folded.contains(&folded[..]),
        }
    }

    /// Notes the last row with this key.
    pub fn note(&mut self, key: &'a [u8], alike: Option<&'a AlikeKey>, row: usize) {
        let is_new = self.last.insert(key, row).is_none();
        if let Some(alike) = alike.filter(|_| is_new) {
            let known = self.alike.entry(&alike.exact).or_default();
            match &alike.folded {
                None => known.is_unsure = true,
                Some(folded) => drop(known.folded.insert(folded)),
            }
        }
    }

    pub fn clear(&mut self) {
        self.last.clear();
        self.alike.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_a_collation_may_take_for_one_are_known() {
        use KeyTexts::{Collated, Exact, Padded};
        for (texts, first, second, expected) in [
            (Padded, "'a'", "'A'", false),
            (Padded, "'a'", "'a  '", true),
            (Collated, "'a'", "'A '", true),
            (Collated, "'a'", "'b'", false),
            (Collated, "'strasse'", "'straße'", true),
            (Collated, "'é'", "'e'", true),
            (Collated, "'Ａ'", "'b'", true),
            (Collated, "'雨'", "'雪'", false),
            (Collated, "'a雨'", "'A雨'", true),
            (Collated, "'한'", "'국'", false),
            // The same key again is no other one.
            (Collated, "'é'", "'é'", false),
        ] {
            let of = |text: &'static str, number: &'static [u8]| {
                AlikeKey::of([(texts, text.as_bytes()), (Exact, number)].into_iter())
            };
            let (one, two) = (of(first, b"1"), of(second, b"1"));
            let mut keys = KeysTogether::default();
            keys.note(first.as_bytes(), Some(&one), 0);
            let second = second.as_bytes();
            assert_eq!(
                keys.may_be_other(second, Some(&two)),
                expected,
                "{texts:?} {first}"
            );
            // Where another column differs, the keys do.
            let other = of("'?'", b"2");
            assert!(!keys.may_be_other(b"'?'", Some(&other)));
            keys.clear();
            assert!(!keys.may_be_other(second, Some(&two)));
        }
        let mut keys = KeysTogether::default();
        keys.note(b"1", None, 0);
        keys.note(b"1", None, 1);
        assert_eq!(
            (keys.last(b"1"), keys.may_be_other(b"2", None)),
            (Some(1), false)
        );
    }
}
