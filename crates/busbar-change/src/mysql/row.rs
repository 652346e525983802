//! A change as an event: the row's columns with what happened beside them, as JSON.

use bytes::Bytes;

use super::binlog::ImageValue;
use super::column::{DescribedColumn, ValueShape, ZeroDates};
use crate::event;

/// Writes the event of a change.
pub fn write_change(
    change: &str,
    columns: &[DescribedColumn],
    row: &[ImageValue],
    before: Option<&[ImageValue]>,
    zero: ZeroDates,
    out: &mut Vec<u8>,
) {
    event::open(change, out);
    for (column, value) in columns.iter().zip(row) {
        match value {
            ImageValue::Missing => {}
            ImageValue::Null => event::member(&column.name, out, event::null),
            ImageValue::Text(text) => event::member(&column.name, out, |out| {
                write_value(text, column.shape, zero, out)
            }),
        }
    }
    if let Some(before) = before {
        event::open_before(out);
        let mut first = true;
        for (column, value) in columns.iter().zip(before) {
            let text = match value {
                ImageValue::Missing => continue,
                ImageValue::Null => None,
                ImageValue::Text(text) => Some(text),
            };
            event::pair(&column.name, &mut first, out, |out| match text {
                Some(text) => write_value(text, column.shape, zero, out),
                None => event::null(out),
            });
        }
        out.push(b'}');
    }
    out.push(b'}');
}

/// Writes the event of a row that a snapshot found.
pub fn write_read(
    columns: &[DescribedColumn],
    values: &[Option<Bytes>],
    zero: ZeroDates,
    out: &mut Vec<u8>,
) {
    event::open("read", out);
    for (column, value) in columns.iter().zip(values) {
        event::member(&column.name, out, |out| match value {
            Some(value) => write_value(value, column.shape, zero, out),
            None => event::null(out),
        });
    }
    out.push(b'}');
}

fn write_value(value: &[u8], shape: ValueShape, zero: ZeroDates, out: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(value);
    let dated = matches!(
        shape,
        ValueShape::Date | ValueShape::DateTime | ValueShape::Timestamp
    );
    // A date with a zero for year, month or day is none.
    let is_zero = dated
        && (text.starts_with("0000-")
            || text.get(5..7) == Some("00")
            || text.get(8..10) == Some("00"));
    match shape {
        _ if is_zero && zero == ZeroDates::Null => event::null(out),
        // JSON has no NaN and no Infinity.
        ValueShape::Number if !text.ends_with(|last: char| last.is_ascii_digit()) => {
            event::text(&text, out)
        }
        // With the zeros of `zerofill` it would be no number.
        ValueShape::Number => {
            let (sign, digits) = text
                .strip_prefix('-')
                .map_or(("", &*text), |digits| ("-", digits));
            let short = digits.trim_start_matches('0');
            out.extend_from_slice(sign.as_bytes());
            if short.is_empty() || short.starts_with(['.', 'e']) {
                out.push(b'0');
            }
            out.extend_from_slice(short.as_bytes());
        }
        ValueShape::Float => {
            // Written with the digits that tell it from its neighbours.
            let value = text.parse::<f64>().unwrap_or_default() as f32;
            match value.is_finite() {
                true => out.extend_from_slice(value.to_string().as_bytes()),
                false => event::text(&text, out),
            }
        }
        ValueShape::DateTime if !is_zero => write_time(value, "", out),
        ValueShape::Timestamp if !is_zero => write_time(value, "Z", out),
        _ => event::text(&text, out),
    }
}

/// Writes `2024-05-06 07:08:09.5` with a `T` between date and time, and the zone behind it.
fn write_time(value: &[u8], zone: &str, out: &mut Vec<u8>) {
    let is_time = |byte: &u8| byte.is_ascii_digit() || b" -:.".contains(byte);
    if !value.iter().all(is_time) {
        return event::text(&String::from_utf8_lossy(value), out);
    }
    out.push(b'"');
    let at = out.len();
    out.extend_from_slice(value);
    if let Some(space) = memchr::memchr(b' ', &out[at..]) {
        out[at + space] = b'T';
    }
    out.extend_from_slice(zone.as_bytes());
    out.push(b'"');
}

/// Whether two rows have the same key.
pub fn is_same_key(key: &[usize], one: &[ImageValue], other: &[ImageValue]) -> bool {
    key.iter()
        .all(|at| key_part(one, *at) == key_part(other, *at))
}

fn key_part(row: &[ImageValue], at: usize) -> &[u8] {
    match row.get(at) {
        Some(ImageValue::Text(text)) => text,
        _ => &[],
    }
}

/// The key of an event: the parts of the row's key with commas between them.
pub fn key_text(parts: &[Bytes]) -> String {
    let bytes = parts.iter().map(|part| part.len() + 1).sum();
    let mut text = String::with_capacity(bytes);
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&String::from_utf8_lossy(part));
    }
    text
}

/// The key of a row.
pub fn key(key: &[usize], row: &[ImageValue]) -> Vec<Bytes> {
    let of = |at: &usize| match row.get(*at) {
        Some(ImageValue::Text(text)) => text.clone(),
        _ => Bytes::new(),
    };
    key.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_by_their_shape() {
        for (value, shape, zero, expected) in [
            ("0", ValueShape::Number, ZeroDates::Keep, "0"),
            ("0000", ValueShape::Number, ZeroDates::Keep, "0"),
            ("00042", ValueShape::Number, ZeroDates::Keep, "42"),
            ("-0.5", ValueShape::Number, ZeroDates::Keep, "-0.5"),
            ("0.25", ValueShape::Number, ZeroDates::Keep, "0.25"),
            (".5", ValueShape::Number, ZeroDates::Keep, "0.5"),
            ("-.5", ValueShape::Number, ZeroDates::Keep, "-0.5"),
            (
                "0.10000000149011612",
                ValueShape::Float,
                ZeroDates::Keep,
                "0.1",
            ),
            ("NaN", ValueShape::Float, ZeroDates::Keep, "\"NaN\""),
            ("-inf", ValueShape::Number, ZeroDates::Keep, "\"-inf\""),
            ("16777216", ValueShape::Float, ZeroDates::Keep, "16777216"),
            ("1e20", ValueShape::Number, ZeroDates::Keep, "1e20"),
            (
                "2024-02-29 01:02:03.5",
                ValueShape::DateTime,
                ZeroDates::Keep,
                "\"2024-02-29T01:02:03.5\"",
            ),
            (
                "2024-02-29 01:02:03",
                ValueShape::Timestamp,
                ZeroDates::Keep,
                "\"2024-02-29T01:02:03Z\"",
            ),
            (
                "no \"time\"",
                ValueShape::Timestamp,
                ZeroDates::Keep,
                "\"no \\\"time\\\"\"",
            ),
            (
                "0000-00-00 00:00:00",
                ValueShape::DateTime,
                ZeroDates::Keep,
                "\"0000-00-00 00:00:00\"",
            ),
            ("0000-00-00", ValueShape::Date, ZeroDates::Null, "null"),
            ("2024-00-10", ValueShape::Date, ZeroDates::Null, "null"),
            ("it's", ValueShape::Text, ZeroDates::Null, "\"it's\""),
        ] {
            let mut out = Vec::new();
            write_value(value.as_bytes(), shape, zero, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected, "{value}");
        }
    }

    #[test]
    fn keys_are_compared_and_written_by_their_parts() {
        let text = |text: &'static str| ImageValue::Text(Bytes::from_static(text.as_bytes()));
        let row = [text("a"), ImageValue::Null, text("b")];
        let other = [text("a"), text("x"), text("c")];
        assert!(is_same_key(&[0], &row, &other));
        assert!(!is_same_key(&[0, 2], &row, &other));
        assert_eq!(key_text(&key(&[0, 1, 2], &row)), "a,,b");
        assert_eq!(key_text(&[]), "");
    }
}
