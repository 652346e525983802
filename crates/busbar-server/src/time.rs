//! Times as the API writes them: RFC 3339 in UTC with microseconds.

/// Appends `micros` since 1970 as `2026-01-02T03:04:05.000006Z`.
pub(crate) fn write(out: &mut Vec<u8>, micros: i64) {
    let days = micros.div_euclid(86_400_000_000);
    let rest = micros.rem_euclid(86_400_000_000);
    let (year, month, day) = civil(days);
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    let (year_width, year) = (4, year);
    if year < 0 {
        out.push(b'-');
    }
    digits(out, year.unsigned_abs(), year_width);
    out.push(b'-');
    digits(out, month, 2);
    out.push(b'-');
    digits(out, day, 2);
    out.push(b'T');
    digits(out, (seconds / 3600) as u64, 2);
    out.push(b':');
    digits(out, (seconds / 60 % 60) as u64, 2);
    out.push(b':');
    digits(out, (seconds % 60) as u64, 2);
    out.push(b'.');
    digits(out, fraction as u64, 6);
    out.push(b'Z');
}

/// `micros` since 1970 as text.
pub(crate) fn text(micros: i64) -> String {
    let mut out = Vec::with_capacity(27);
    write(&mut out, micros);
    // Only ASCII was written.
    String::from_utf8(out).unwrap_or_default()
}

/// True for times of the years 0 to 9999, which RFC 3339 can write.
pub(crate) fn is_written(micros: i64) -> bool {
    (-62_167_219_200_000_000..=253_402_300_799_999_999).contains(&micros)
}

/// Reads an RFC 3339 time with `Z` or an offset; finer than microseconds is cut off.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, len: usize| -> Option<i64> {
        let part = bytes.get(from..from + len)?;
        part.iter().try_fold(0_i64, |value, byte| {
            byte.is_ascii_digit()
                .then(|| value * 10 + i64::from(byte - b'0'))
        })
    };
    let is = |at: usize, allowed: &[u8]| bytes.get(at).is_some_and(|b| allowed.contains(b));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    // A leap second counts as the first of the next minute.
    if !(1..=last).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut fraction = 0;
    if is(at, b".") {
        at += 1;
        let len = bytes[at..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count();
        if len == 0 || len > 18 {
            return None;
        }
        fraction = number(at, len.min(6))? * 10_i64.pow(6 - len.min(6) as u32);
        at += len;
    }
    let offset = match bytes.get(at)? {
        b'Z' | b'z' if bytes.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == at + 6 && is(at + 3, b":") => {
            let (hours, minutes) = (number(at + 1, 2)?, number(at + 4, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -60 } else { 60 }
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some(seconds * 1_000_000 + fraction)
}

/// Year, month and day of a day since 1970. Years are taken to begin in March, so that the leap
/// day is the last one.
fn civil(days: i64) -> (i64, u64, u64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day = days.rem_euclid(146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month as u64, date as u64)
}

/// Day since 1970 of a date; the inverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn digits(out: &mut Vec<u8>, value: u64, width: u32) {
    let mut unit = 10_u64.pow(width - 1);
    while value / unit >= 10 {
        unit *= 10;
    }
    while unit > 0 {
        out.push(b'0' + (value / unit % 10) as u8);
        unit /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        for (micros, shown) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_827_696_789_000, "2000-02-29T12:34:56.789000Z"),
            (1_795_305_600_000_001, "2026-11-22T00:00:00.000001Z"),
        ] {
            assert_eq!(text(micros), shown);
            assert_eq!(parse(shown), Some(micros));
        }
        assert_eq!(
            parse("2026-11-22T08:00:00+08:00"),
            parse("2026-11-22T00:00:00Z")
        );
        assert_eq!(parse("2026-11-22 00:00:00.5z"), Some(1_795_305_600_500_000));
        for bad in [
            "",
            "2026-11-22",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T00:00:00",
            "2026-11-22T00:00:00.Z",
            "2026-11-22T00:00:00Zx",
            "２026-11-22T00:00:00Z",
            "2026-11-22T00:00:00+8:00",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_years_that_can_be_written_have_four_digits() {
        let (first, last) = ("0000-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z");
        for (edge, beyond) in [(first, -1), (last, 1)] {
            let micros = parse(edge).unwrap();
            assert_eq!(text(micros), edge);
            assert!(is_written(micros) && !is_written(micros + beyond));
        }
        // An offset may lead out of them.
        assert!(!is_written(parse("9999-12-31T23:59:59-01:00").unwrap()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(micros in -62_135_596_800_000_000_i64..253_402_300_799_999_999) {
            prop_assert_eq!(parse(&text(micros)), Some(micros));
        }

        #[test]
        fn never_panics(any in ".*", micros: i64) {
            let _ = parse(&any);
            let _ = text(micros);
        }
    }
}
