//! Points in time as text and as numbers.

use std::io::Write;

use super::TimeUnit;
use crate::Micros;

/// The first and the last microsecond that is a time: the years 0 to 9999.
const MIN: Micros = -62_167_219_200_000_000;
const MAX: Micros = 253_402_300_799_999_999;

/// A time from a whole number, in its unit or in the one that its size suggests: up to 10^11 it is
/// seconds, up to 10^14 milliseconds, up to 10^17 microseconds, else nanoseconds.
pub(super) fn from_int(value: i64, unit: Option<TimeUnit>) -> Option<Micros> {
    let unit = unit.unwrap_or(match value.unsigned_abs() {
        0..100_000_000_000 => TimeUnit::Seconds,
        100_000_000_000..100_000_000_000_000 => TimeUnit::Millis,
        100_000_000_000_000..100_000_000_000_000_000 => TimeUnit::Micros,
        _ => TimeUnit::Nanos,
    });
    let micros = match unit {
        TimeUnit::Seconds => value.checked_mul(1_000_000)?,
        TimeUnit::Millis => value.checked_mul(1_000)?,
        TimeUnit::Micros => value,
        TimeUnit::Nanos => value.div_euclid(1_000),
    };
    (MIN..=MAX).contains(&micros).then_some(micros)
}

/// A time from a number with a fraction, to the nearest microsecond.
pub(super) fn from_float(value: f64, unit: Option<TimeUnit>) -> Option<Micros> {
    let unit = unit.unwrap_or(match value.abs() {
        size if size < 1e11 => TimeUnit::Seconds,
        size if size < 1e14 => TimeUnit::Millis,
        size if size < 1e17 => TimeUnit::Micros,
        _ => TimeUnit::Nanos,
    });
    let micros = match unit {
        TimeUnit::Seconds => value * 1e6,
        TimeUnit::Millis => value * 1e3,
        TimeUnit::Micros => value,
        TimeUnit::Nanos => value / 1e3,
    };
    let micros = micros.round();
    (MIN as f64..=MAX as f64)
        .contains(&micros)
        .then_some(micros as i64)
}

/// A time written as RFC 3339 says: with a zone, since without one nobody knows which it is.
pub(super) fn parse(text: &[u8]) -> Option<Micros> {
    let number = |from: usize, to: usize| {
        text.get(from..to)?.iter().try_fold(0i64, |value, digit| {
            digit
                .is_ascii_digit()
                .then(|| value * 10 + i64::from(digit - b'0'))
        })
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let separated = text[4] == b'-'
        && text[7] == b'-'
        && matches!(text[10], b'T' | b't' | b' ')
        && text[13] == b':'
        && text[16] == b':';
    let days = match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    // Second 60 is a leap second, which counts as the next one's beginning.
    if !separated || !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
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
            (hours * 3600 + minutes * 60) * if *sign == b'+' { 1 } else { -1 }
        }
        _ => return None,
    };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let micros = (seconds - offset) * 1_000_000 + micros;
    (MIN..=MAX).contains(&micros).then_some(micros)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, by counting years that begin in March
/// so that the leap day is a year's last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date of a day counted from 1970-01-01: the inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    (
        year_of_era + era * 400 + i64::from(month <= 2),
        month as u32,
        day as u32,
    )
}

/// Writes a time as RFC 3339 with `Z` and microseconds.
pub(crate) fn write(micros: Micros, out: &mut Vec<u8>) {
    let (seconds, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    write_date(seconds.div_euclid(86_400), out);
    out.push(b'T');
    write_clock(seconds.rem_euclid(86_400), fraction, out);
    out.push(b'Z');
}

/// Writes a day counted from 1970-01-01 as `2026-11-22`.
pub(crate) fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil_from_days(days);
    if (0..=9999).contains(&year) {
        digits(year as u32 / 100, out);
        digits(year as u32 % 100, out);
    } else {
        // Writing to memory does not fail.
        let _ = write!(out, "{year:+05}");
    }
    out.push(b'-');
    digits(month, out);
    out.push(b'-');
    digits(day, out);
}

/// Writes a time of day as `10:20:30.000000`.
pub(crate) fn write_clock(second_of_day: i64, micros: i64, out: &mut Vec<u8>) {
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

/// A time as RFC 3339 with `Z` and microseconds, as the API and JSON show it.
pub fn rfc3339(micros: Micros) -> String {
    let mut out = Vec::with_capacity(27);
    write(micros, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// The microseconds since 1970 of a time written as RFC 3339 says, with its zone.
pub fn parse_rfc3339(text: &str) -> Option<Micros> {
    parse(text.as_bytes())
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
            assert_eq!(parse(text.as_bytes()), micros, "{text}");
        }
        assert_eq!(
            rfc3339(1_795_312_984_500_000),
            "2026-11-22T02:03:04.500000Z"
        );
        assert_eq!(rfc3339(MAX + 1), "+10000-01-01T00:00:00.000000Z");
    }

    #[test]
    fn the_size_of_a_number_tells_its_unit() {
        let micros = 1_795_312_984_000_000;
        for value in [micros / 1_000_000, micros / 1000, micros, micros * 1000] {
            assert_eq!(from_int(value, None), Some(micros));
            assert_eq!(from_float(value as f64, None), Some(micros));
        }
        assert_eq!(from_int(5, Some(TimeUnit::Millis)), Some(5000));
        assert_eq!(from_int(-1, Some(TimeUnit::Nanos)), Some(-1));
        assert_eq!(from_float(1.25, Some(TimeUnit::Seconds)), Some(1_250_000));
        assert_eq!(from_int(i64::MAX, Some(TimeUnit::Seconds)), None);
        assert_eq!(from_float(f64::MAX, None), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_parsed(micros in MIN..=MAX) {
            prop_assert_eq!(parse_rfc3339(&rfc3339(micros)), Some(micros));
        }

        #[test]
        fn any_text_is_parsed_or_not(text in prop::collection::vec(any::<u8>(), 0..40)) {
            parse(&text);
        }

        #[test]
        fn any_time_is_written(micros in any::<i64>()) {
            prop_assert!(rfc3339(micros).ends_with('Z'));
        }
    }
}
