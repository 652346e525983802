//! Values written as text: cells of CSV, and texts in JSON for columns of another type.
//!
//! What a declared column takes is decided here, for CSV payloads and for rows of CSV files alike. White
//! space around a value that is not text does not count, and numbers may be written in any of the usual
//! ways: `7`, ` 7`, `+7`, `007`, `7.0`, `.5`, `1e3`. Text columns take every cell byte for byte.

use super::scan::Scanner;
use super::time;
use super::{FieldType, TimeUnit};
use crate::Micros;

/// The largest whole number up to which every one is a float.
pub(super) const EXACT_INT_MAX: u64 = 1 << 53;

/// A whole number of 64 bits.
pub(super) fn int(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(value) = text.parse() {
        return Some(value);
    }
    // Written with a fraction of zeros or an exponent.
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let zeros = digits.len() - digits.trim_start_matches('0').len();
    let before = digits[zeros..].starts_with(|c: char| c.is_ascii_digit());
    let digits = &digits[if before {
        zeros
    } else {
        zeros.saturating_sub(1)
    }..];
    let mut scanner = Scanner::new(digits.as_bytes());
    let number = scanner.number().ok()?;
    scanner.end().ok()?;
    number.with_sign(negative).as_int(digits.as_bytes())
}

/// A number with a fraction; the nearest of 64 bits, and none that is not finite.
pub(super) fn float(text: &str) -> Option<f64> {
    text.trim()
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite())
}

/// A truth value: `true`, `false`, `1` or `0`.
pub(super) fn bool(text: &str) -> Option<bool> {
    match text.trim() {
        "true" | "TRUE" | "True" | "1" => Some(true),
        "false" | "FALSE" | "False" | "0" => Some(false),
        _ => None,
    }
}

/// A point in time, as a number in `unit` or as RFC 3339 says.
pub(super) fn time(text: &str, unit: Option<TimeUnit>) -> Option<Micros> {
    let text = text.trim();
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(value), _) => time::from_int(value, unit),
        (_, Ok(value)) => time::from_float(value, unit),
        _ => crate::time::parse(text),
    }
}

/// The type that prints the text as it stands: `bool`, `int` or `float`, else `text`. So `00501`, `+49`, `1.10`
/// and ` 7` are text.
pub fn natural_type(text: &str) -> FieldType {
    if matches!(text, "true" | "false") {
        return FieldType::Bool;
    }
    if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return FieldType::Text;
    }
    if let Ok(value) = text.parse::<i64>() {
        return match itoa::Buffer::new().format(value) == text {
            true => FieldType::Int,
            false => FieldType::Text,
        };
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && zmij::Buffer::new().format_finite(value) == text => {
            FieldType::Float
        }
        _ => FieldType::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_however_they_are_written() {
        for (text, value) in [
            ("7", Some(7)),
            (" 7", Some(7)),
            ("+5", Some(5)),
            ("007", Some(7)),
            ("00501", Some(501)),
            ("1.000", Some(1)),
            ("-00.00", Some(0)),
            ("1e3", Some(1000)),
            ("9223372036854775807.0", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("1.5", None),
            ("1.", None),
            (".0", None),
            ("0x1", None),
            ("--1", None),
            ("+-1", None),
            ("", None),
        ] {
            assert_eq!(int(text), value, "{text}");
        }
        for (text, value) in [
            (".5", Some(0.5)),
            ("+5", Some(5.0)),
            (" 1E5 ", Some(1e5)),
            ("inf", None),
            ("", None),
        ] {
            assert_eq!(float(text), value, "{text}");
        }
    }

    #[test]
    fn a_type_is_natural_if_it_prints_the_text_again() {
        use FieldType::{Bool, Float, Int, Text};
        for (text, expected) in [
            ("true", Bool),
            ("True", Text),
            ("0", Int),
            ("-7", Int),
            ("9223372036854775807", Int),
            ("9223372036854775808", Text),
            ("-0", Text),
            ("007", Text),
            ("+49", Text),
            (" 7", Text),
            ("1.5", Float),
            ("3.0", Float),
            ("1.10", Text),
            ("3.0000", Text),
            ("1E5", Text),
            (".5", Text),
            ("0.1234567890123456789", Text),
            ("", Text),
            ("nan", Text),
        ] {
            assert_eq!(natural_type(text), expected, "{text}");
        }
    }
}
