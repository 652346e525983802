//! The values in a frame that its topic names.

use std::borrow::Cow;
use std::fmt;

use busbar_event::format::{Hl7Path, Hl7Reader, Hl7Value};
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};

/// Takes the members called `names` out of a JSON object, into `found` in the order of `names`; without names any document is
/// checked. Text comes without its quotes, numbers and truth values as they are written.
///
/// # Errors
/// When it is no JSON, a member is missing, or one is an object, a list or null.
pub(crate) fn json_members<'a>(
    frame: &'a [u8],
    names: &[Box<str>],
    found: &mut [Option<Cow<'a, str>>],
) -> Result<(), ()> {
    let mut reader = serde_json::Deserializer::from_slice(frame);
    if names.is_empty() {
        reader.deserialize_ignored_any(IgnoredAny).map_err(drop)?;
        return reader.end().map_err(drop);
    }
    let members = JsonMembers { names, found };
    reader.deserialize_map(members).map_err(drop)?;
    reader.end().map_err(drop)?;
    match found.iter().all(Option::is_some) {
        true => Ok(()),
        false => Err(()),
    }
}

struct JsonMembers<'n, 'a> {
    names: &'n [Box<str>],
    found: &'n mut [Option<Cow<'a, str>>],
}

impl<'a> Visitor<'a> for JsonMembers<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(at) = map.next_key_seed(MemberPlace(self.names))? {
            match at {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(at) => self.found[at] = Some(map.next_value_seed(Scalar)?),
            }
        }
        Ok(())
    }
}

/// The place of a key among the names.
struct MemberPlace<'n>(&'n [Box<str>]);

impl<'a> DeserializeSeed<'a> for MemberPlace<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'a>>(self, d: D) -> Result<Option<usize>, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for MemberPlace<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|name| **name == *key))
    }
}

/// A text, number or truth value, as text.
struct Scalar;

impl<'a> DeserializeSeed<'a> for Scalar {
    type Value = Cow<'a, str>;

    fn deserialize<D: serde::Deserializer<'a>>(self, d: D) -> Result<Cow<'a, str>, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Scalar {
    type Value = Cow<'a, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, number or truth value")
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Cow<'a, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cow<'a, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Cow<'a, str>, E> {
        Ok(Cow::Owned(n.to_string()))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Cow<'a, str>, E> {
        Ok(Cow::Owned(n.to_string()))
    }

    fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<Cow<'a, str>, E> {
        match n.is_finite() {
            true => Ok(Cow::Owned(n.to_string())),
            false => Err(E::custom("not a number")),
        }
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Cow<'a, str>, E> {
        Ok(Cow::Borrowed(if yes { "true" } else { "false" }))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Cow<'a, str>, E> {
        Err(E::custom("null"))
    }

    fn visit_map<A: MapAccess<'a>>(self, _: A) -> Result<Cow<'a, str>, A::Error> {
        Err(A::Error::custom("an object"))
    }
}

/// Splits a row of `columns` values and takes those at `places`, into `found` in their order.
///
/// # Errors
/// When the row has another number of values, is no UTF-8, or a quote is not closed.
pub(crate) fn csv_cells<'a>(
    row: &'a [u8],
    delimiter: u8,
    columns: usize,
    places: &[usize],
    found: &mut [Option<Cow<'a, str>>],
) -> Result<(), ()> {
    let row = std::str::from_utf8(row).map_err(drop)?;
    let bytes = row.as_bytes();
    let (mut at, mut column) = (0, 0);
    loop {
        let cell = match bytes.get(at) {
            Some(b'"') => {
                let begin = at + 1;
                let mut doubled = false;
                at = begin;
                loop {
                    at += memchr::memchr(b'"', bytes.get(at..).ok_or(())?).ok_or(())?;
                    match bytes.get(at + 1) {
                        Some(b'"') => {
                            doubled = true;
                            at += 2;
                        }
                        next if next.is_none_or(|next| *next == delimiter) => break,
                        _ => return Err(()),
                    }
                }
                let cell = &row[begin..at];
                at += 1;
                match doubled {
                    true => Cow::Owned(cell.replace("\"\"", "\"")),
                    false => Cow::Borrowed(cell),
                }
            }
            _ => {
                let rest = &bytes[at..];
                let len = memchr::memchr(delimiter, rest).unwrap_or(rest.len());
                let cell = &row[at..at + len];
                at += len;
                Cow::Borrowed(cell)
            }
        };
        for (place, found) in places.iter().zip(found.iter_mut()) {
            if *place == column {
                *found = Some(cell.clone());
            }
        }
        column += 1;
        if at >= bytes.len() {
            break;
        }
        // The delimiter.
        at += 1;
    }
    match column == columns {
        true => Ok(()),
        false => Err(()),
    }
}

/// Takes the values at `paths` out of an HL7 message, into `found` in their order; without paths any message is checked.
///
/// # Errors
/// When it is no message, or nothing is at a path.
pub(crate) fn hl7_values(
    frame: &[u8],
    paths: &[Hl7Path],
    found: &mut [Option<Cow<'_, str>>],
) -> Result<(), ()> {
    let mut reader = Hl7Reader::of_any_bytes();
    let message = reader.read(frame).map_err(drop)?;
    for (path, found) in paths.iter().zip(found.iter_mut()) {
        let mut text = Vec::new();
        if message.value(path, &mut text) != Hl7Value::Text {
            return Err(());
        }
        *found = Some(Cow::Owned(String::from_utf8(text).map_err(drop)?));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(frame: &str, names: &[&str]) -> Result<Vec<String>, ()> {
        let names: Vec<Box<str>> = names.iter().map(|n| (*n).into()).collect();
        let mut found = vec![None; names.len()];
        json_members(frame.as_bytes(), &names, &mut found)?;
        Ok(found.into_iter().flatten().map(Cow::into_owned).collect())
    }

    fn csv(row: &str, columns: usize, places: &[usize]) -> Result<Vec<String>, ()> {
        let mut found = vec![None; places.len()];
        csv_cells(row.as_bytes(), b';', columns, places, &mut found)?;
        Ok(found.into_iter().flatten().map(Cow::into_owned).collect())
    }

    #[test]
    fn members_are_found_in_any_order() {
        let frame = r#"{"x":{"id":1},"n":-7,"id":"a\u0062","ok":true,"big":18446744073709551615}"#;
        let want = vec![
            "ab".to_owned(),
            "-7".into(),
            "true".into(),
            "18446744073709551615".into(),
        ];
        assert_eq!(json(frame, &["id", "n", "ok", "big"]), Ok(want));
        for wrong in [
            "",
            "[1]",
            "7",
            r#"{"id":null}"#,
            r#"{"id":{}}"#,
            r#"{"id":[]}"#,
            r#"{"no":1}"#,
            r#"{"id":1"#,
            r#"{"id":1} x"#,
        ] {
            assert_eq!(json(wrong, &["id"]), Err(()), "{wrong}");
        }
        assert_eq!(json("[1, 2]", &[]), Ok(Vec::new()));
        assert_eq!(json("[1, 2", &[]), Err(()));
    }

    #[test]
    fn cells_are_found_by_place() {
        let text = |all: &[&str]| Ok(all.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        assert_eq!(csv("a;b;c", 3, &[2, 0]), text(&["c", "a"]));
        assert_eq!(csv("\"x;\"\"y\";", 2, &[0]), text(&["x;\"y"]));
        assert_eq!(csv("a", 1, &[0]), text(&["a"]));
        assert_eq!(csv("", 1, &[0]), text(&[""]));
        for (wrong, columns) in [("a;b", 3), ("a;b", 1), ("\"a", 1), ("\"a\"b", 1), ("\"", 1)] {
            assert_eq!(csv(wrong, columns, &[0]), Err(()), "{wrong}");
        }
    }
}
