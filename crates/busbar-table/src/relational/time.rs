//! Times as SQLite keeps them: RFC 3339 in UTC with six decimals, always 27 bytes, so that text
//! order is time order and every tool that opens the file can read them.

/// Bytes of a written time.
pub(super) const TIME_BYTES: usize = 27;

const DAY: i64 = 86_400_000_000;

/// Write a time of the years 0000 to 9999; others were rejected before.
pub(super) fn write_time(micros: i64) -> [u8; TIME_BYTES] {
    let (days, rest) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let mut digits = |at: usize, count: usize, mut value: i64| {
        for place in (at..at + count).rev() {
            text[place] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    digits(0, 4, year);
    digits(5, 2, month);
    digits(8, 2, day);
    digits(11, 2, rest / 3_600_000_000);
    digits(14, 2, rest / 60_000_000 % 60);
    digits(17, 2, rest / 1_000_000 % 60);
    digits(20, 6, rest % 1_000_000);
    text
}

/// Read what [`write_time`] wrote; none for anything else.
pub(super) fn read_time(text: &[u8]) -> Option<i64> {
    const SHAPE: &[u8; TIME_BYTES] = b"0000-00-00T00:00:00.000000Z";
    if text.len() != TIME_BYTES {
        return None;
    }
    for (found, shape) in text.iter().zip(SHAPE) {
        let fits = if *shape == b'0' {
            found.is_ascii_digit()
        } else {
            found == shape
        };
        if !fits {
            return None;
        }
    }
    let number = |at: usize, count: usize| {
        text[at..at + count]
            .iter()
            .fold(0i64, |value, digit| value * 10 + i64::from(digit - b'0'))
    };
    let (year, month, day) = (number(0, 4), number(5, 2), number(8, 2));
    let (hour, minute, second) = (number(11, 2), number(14, 2), number(17, 2));
    let days = days(year, month, day);
    if civil(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(seconds * 1_000_000 + number(20, 6))
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
/// Counts in eras of 400 years that begin in March, as the calendar algorithms of Howard Hinnant do.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        assert_eq!(&write_time(0), b"1970-01-01T00:00:00.000000Z");
        assert_eq!(&write_time(-1), b"1969-12-31T23:59:59.999999Z");
        assert_eq!(
            &write_time(1_709_164_800_000_001),
            b"2024-02-29T00:00:00.000001Z"
        );
        assert_eq!(
            &write_time(253_402_300_799_999_999),
            b"9999-12-31T23:59:59.999999Z"
        );
        assert_eq!(read_time(b"2024-02-30T00:00:00.000000Z"), None);
        assert_eq!(read_time(b"2024-02-29T24:00:00.000000Z"), None);
        assert_eq!(read_time(b"2024-02-29 00:00:00.000000Z"), None);
        assert_eq!(read_time(b""), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(micros in -62_167_219_200_000_000i64..=253_402_300_799_999_999) {
            prop_assert_eq!(read_time(&write_time(micros)), Some(micros));
        }

        #[test]
        fn text_order_is_time_order(
            a in -62_167_219_200_000_000i64..=253_402_300_799_999_999,
            b in -62_167_219_200_000_000i64..=253_402_300_799_999_999,
        ) {
            prop_assert_eq!(write_time(a).cmp(&write_time(b)), a.cmp(&b));
        }
    }
}
