//! The keys of rows that are written together.
//!
//! Of several rows with one key the last one counts, and what is deleted goes before what takes its place. Both are right only
//! where the database tells the same keys apart as are told apart here: to most collations `a` and `A` are one key, and to a
//! column of numbers the texts `1` and `1.0`. A row whose key may be that of another one there is written after it, as it came.

use std::collections::{HashMap, HashSet};

/// How a database tells the texts of a key apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyTexts {
    /// By their bytes.
    #[default]
    Exact,
    /// As numbers: `1`, `+01` and `1.0e0` are one.
    Number,
    /// As dates or moments: `2024-05-06 07:08:09` and `2024-05-06T07:08:09.00Z` are one.
    Time,
    /// As UUIDs: by their digits, of either case.
    Uuid,
    /// It is not known how.
    Unknown,
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
        let folded = match self {
            KeyTexts::Number => number(unquoted(text)),
            KeyTexts::Time => time(unquoted(text)),
            KeyTexts::Uuid => Some(uuid(text)),
            KeyTexts::Unknown => None,
            _ => return collated(text, out),
        };
        if let Some(folded) = &folded {
            out.extend_from_slice(folded.as_bytes());
            out.push(0);
        }
        folded.is_some()
    }
}

/// See [`KeyTexts::fold`].
fn collated(text: &str, out: &mut Vec<u8>) -> bool {
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

/// A text without the quotes of a literal.
fn unquoted(text: &str) -> &str {
    let text = text.trim();
    let text = text.strip_prefix('N').unwrap_or(text);
    let quotes = |c: char| matches!(c, '\'' | '"');
    text.trim_start_matches(quotes)
        .trim_end_matches(quotes)
        .trim()
}

/// A number as its digits from the first to the last that is not zero, and the power of ten that these are multiplied by; none
/// for what is no decimal number.
fn number(text: &str) -> Option<String> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let sign = mantissa.starts_with('-');
    let digits = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{fraction}");
    if all.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let zeros = all.len() - all.trim_end_matches('0').len();
    let digits = all.trim_matches('0');
    if digits.is_empty() {
        return Some("0".to_owned());
    }
    let length = |length: usize| i64::try_from(length).ok();
    let exponent = exponent
        .checked_sub(length(fraction.len())?)?
        .checked_add(length(zeros)?)?;
    let sign = if sign { "-" } else { "" };
    Some(format!("{sign}{digits}e{exponent}"))
}

/// A date or a moment as `2024-05-06 07:08:09.5`, without zeros at the end; none for other forms, for more digits than all
/// databases keep, and for a time of another zone than UTC, which columns without a zone take without it.
fn time(text: &str) -> Option<String> {
    let text = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let zone = text.strip_suffix("+00:00").or(text.strip_suffix("+00"));
    let text = zone.unwrap_or(text);
    let (date, of_day) = text
        .split_once(['T', 't', ' '])
        .unwrap_or((text, "00:00:00"));
    let is_like = |text: &str, like: &str| {
        text.len() == like.len()
            && text
                .bytes()
                .zip(like.bytes())
                .all(|(byte, like)| match like {
                    b'0' => byte.is_ascii_digit(),
                    other => byte == other,
                })
    };
    let (seconds, fraction) = of_day.split_once('.').unwrap_or((of_day, ""));
    let fraction = fraction.trim_end_matches('0');
    let is_known = is_like(date, "0000-00-00")
        && is_like(seconds, "00:00:00")
        && !seconds.starts_with("24")
        && !seconds.ends_with("60")
        && fraction.len() <= 6
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    is_known.then(|| format!("{date} {seconds}.{fraction}"))
}

/// The 32 hexadecimal digits of a UUID, whatever stands between and behind them.
fn uuid(text: &str) -> String {
    let digits = text.chars().filter(char::is_ascii_hexdigit).take(32);
    digits.map(|digit| digit.to_ascii_lowercase()).collect()
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
        use KeyTexts::{Collated, Exact, Number, Padded, Time, Unknown, Uuid};
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
            (Number, "1", "'1.0'", true),
            (Number, "N'+01'", "'10e-1'", true),
            (Number, "-0.0", "0", true),
            (Number, "1", "-1", false),
            (Number, "10", "1", false),
            (Number, "0.10", ".1", true),
            (Number, "1.5", "15", false),
            // No database takes these for decimal numbers, or for the same ones.
            (Number, "NaN", "'1'", true),
            (Number, "0x10", "16", true),
            (Time, "'2024-05-06'", "'2024-05-06 00:00:00.000'", true),
            (
                Time,
                "2024-05-06T07:08:09Z",
                "2024-05-06 07:08:09.00+00",
                true,
            ),
            (Time, "2024-05-06 07:08:09.5", "2024-05-06 07:08:09", false),
            // Midnight at the end of a day is that of the next one.
            (Time, "2024-05-06 24:00:00", "2024-05-07", true),
            (Time, "2024-05-06 07:08:09+08", "2024-05-06 07:08:09", true),
            (Time, "2024-5-6", "2024-05-06", true),
            (Uuid, "'A0EEBC99-9C0B'", "{a0eebc999c0b}", true),
            (Uuid, "'a0eebc99-9c0b'", "'a0eebc99-9c0c'", false),
            (Unknown, "t", "true", true),
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
            let other = of(first, b"2");
            assert!(!keys.may_be_other(b"other", Some(&other)));
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
