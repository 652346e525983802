//! Points in time as text: RFC 3339 in UTC with microseconds.
//!
//! The calendar is that of chrono, which Arrow uses; only the digits are read and written here, since this is
//! done for each event.

use std::io::Write;

use chrono::{Datelike, NaiveDate};

use crate::Micros;

/// The first and the last microsecond that can be written: the years 0 to 9999.
pub const MIN: Micros = -62_167_219_200_000_000;
/// See [`MIN`].
pub const MAX: Micros = 253_402_300_799_999_999;

/// Bytes of a written time of the years 0 to 9999.
pub const WRITTEN_BYTES: usize = 27;

/// 1970-01-01 in chrono's count of days.
const EPOCH_DAY: i64 = 719_163;

/// Whether a time is of the years 0 to 9999, which RFC 3339 can write.
pub fn is_written(micros: Micros) -> bool {
    (MIN..=MAX).contains(&micros)
}

/// `2026-11-22T02:03:04.500000Z`; years beyond four digits have a sign and more digits.
pub fn text(micros: Micros) -> String {
    let mut out = Vec::with_capacity(WRITTEN_BYTES);
    write(micros, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// Appends what [`text`] returns.
pub fn write(micros: Micros, out: &mut Vec<u8>) {
    let (seconds, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    write_date(seconds.div_euclid(86_400), out);
    out.push(b'T');
    write_clock(seconds.rem_euclid(86_400), fraction, out);
    out.push(b'Z');
}

/// Appends a day counted from 1970-01-01 as `2026-11-22`. Days beyond the calendar are its first or last.
pub fn write_date(days: i64, out: &mut Vec<u8>) {
    let date = days
        .checked_add(EPOCH_DAY)
        .and_then(|days| i32::try_from(days).ok())
        .and_then(NaiveDate::from_num_days_from_ce_opt)
        .unwrap_or(if days < 0 {
            NaiveDate::MIN
        } else {
            NaiveDate::MAX
        });
    match u32::try_from(date.year()) {
        Ok(year @ 0..=9999) => {
            digits(year / 100, out);
            digits(year % 100, out);
        }
        _ => {
            // Writing to memory does not fail.
            let _ = write!(out, "{:+05}", date.year());
        }
    }
    out.push(b'-');
    digits(date.month(), out);
    out.push(b'-');
    digits(date.day(), out);
}

/// Appends a time of day as `10:20:30.000000`.
pub fn write_clock(second_of_day: i64, micros: i64, out: &mut Vec<u8>) {
    let second = second_of_day as u32;
    digits(second / 3600, out);
    out.push(b':');
    digits(second / 60 % 60, out);
    out.push(b':');
    digits(second % 60, out);
    out.push(b'.');
    let micros = micros as u32;
    digits(micros / 10_000, out);
    digits(micros / 100 % 100, out);
    digits(micros % 100, out);
}

fn digits(value: u32, out: &mut Vec<u8>) {
    out.push(b'0' + (value / 10 % 10) as u8);
    out.push(b'0' + (value % 10) as u8);
}

/// Reads a time as RFC 3339 has it, with `Z` or an offset; a time without one is refused. Digits beyond
/// microseconds are cut off.
pub fn parse(text: &str) -> Option<Micros> {
    parse_bytes(text.as_bytes())
}

/// As [`parse`], of bytes that need not be UTF-8.
pub fn parse_bytes(text: &[u8]) -> Option<Micros> {
    let number = |from: usize, to: usize| {
        text.get(from..to)?.iter().try_fold(0u32, |value, digit| {
            digit
                .is_ascii_digit()
                .then(|| value * 10 + u32::from(digit - b'0'))
        })
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let separated = text[4] == b'-'
        && text[7] == b'-'
        && matches!(text[10], b'T' | b't' | b' ')
        && text[13] == b':'
        && text[16] == b':';
    // Second 60 is a leap second, which counts as the next one's beginning.
    if !separated || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let date = NaiveDate::from_ymd_opt(year as i32, month, day)?;
    let mut at = 19;
    let mut micros = 0;
    if text.get(at) == Some(&b'.') {
        at += 1;
        let (from, mut scale) = (at, 100_000);
        while let Some(digit @ b'0'..=b'9') = text.get(at) {
            micros += i64::from(digit - b'0') * scale;
            scale /= 10;
            at += 1;
        }
        if at == from {
            return None;
        }
    }
    let offset = match text.get(at)? {
        b'Z' | b'z' if text.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if text.len() == at + 6 && text[at + 3] == b':' => {
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            i64::from(hours * 3600 + minutes * 60) * if *sign == b'+' { 1 } else { -1 }
        }
        _ => return None,
    };
    let days = i64::from(date.num_days_from_ce()) - EPOCH_DAY;
    let seconds = days * 86_400 + i64::from(hour * 3600 + minute * 60 + second) - offset;
    let micros = seconds * 1_000_000 + micros;
    is_written(micros).then_some(micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-11-22T02:03:04.5Z", Some(1_795_312_984_500_000)),
            (
                "2026-11-22t10:03:04.500000999+08:00",
                Some(1_795_312_984_500_000),
            ),
            ("1969-12-31 23:59:59.999999-00:00", Some(-1)),
            ("0000-01-01T00:00:00Z", Some(MIN)),
            ("9999-12-31T23:59:59.999999Z", Some(MAX)),
            ("2016-12-31T23:59:60Z", Some(1_483_228_800_000_000)),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800_000_000)),
            ("2023-02-29T00:00:00Z", None),
            ("1900-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-00-01T00:00:00Z", None),
            ("2026-11-22T24:00:00Z", None),
            ("2026-11-22T02:03:04", None),
            ("2026-11-22T02:03:04.Z", None),
            ("2026-11-22T02:03:04+0800", None),
            ("2026-11-22T02:03:04Zx", None),
            ("2026-11-22", None),
            ("", None),
            ("0000-01-01T00:00:00+00:01", None),
        ] {
            assert_eq!(parse_bytes(text.as_bytes()), micros, "{text}");
        }
        assert_eq!(
            super::text(1_795_312_984_500_000),
            "2026-11-22T02:03:04.500000Z"
        );
        assert_eq!(super::text(MAX + 1), "+10000-01-01T00:00:00.000000Z");
    }

    #[test]
    fn the_years_that_can_be_written_have_four_digits() {
        for (edge, beyond) in [
            ("0000-01-01T00:00:00.000000Z", -1),
            ("9999-12-31T23:59:59.999999Z", 1),
        ] {
            let micros = parse(edge).unwrap();
            assert_eq!(super::text(micros), edge);
            assert!(is_written(micros) && !is_written(micros + beyond));
        }
        // An offset may lead out of them.
        assert_eq!(parse("9999-12-31T23:59:59-01:00"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_parsed(micros in MIN..=MAX) {
            let written = super::text(micros);
            prop_assert_eq!(written.len(), WRITTEN_BYTES);
            prop_assert_eq!(parse(&written), Some(micros));
        }

        #[test]
        fn text_order_is_time_order(a in MIN..=MAX, b in MIN..=MAX) {
            prop_assert_eq!(super::text(a).cmp(&super::text(b)), a.cmp(&b));
        }

        #[test]
        fn any_text_is_parsed_or_not(text in prop::collection::vec(any::<u8>(), 0..40)) {
            parse_bytes(&text);
        }

        #[test]
        fn any_time_is_written(micros in any::<i64>()) {
            prop_assert!(super::text(micros).ends_with('Z'));
        }
    }
}
