use chrono::NaiveDate;

use crate::Micros;
use crate::time::{MAX, MIN};

/// The zone of times that are written without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hl7Zone {
    /// Seconds that its clocks are ahead of UTC.
    ahead: i64,
}

impl Hl7Zone {
    /// UTC.
    pub const UTC: Hl7Zone = Hl7Zone { ahead: 0 };

    /// Reads `Z`, `+08:00` or `+0800`.
    pub fn parse(text: &str) -> Option<Hl7Zone> {
        if matches!(text, "Z" | "UTC") {
            return Some(Hl7Zone::UTC);
        }
        let (sign, rest) = match text.as_bytes().first()? {
            b'+' => (1, &text[1..]),
            b'-' => (-1, &text[1..]),
            _ => return None,
        };
        let (hours, minutes) = match rest.split_once(':') {
            Some((hours, minutes)) => (hours, minutes),
            None => rest.split_at_checked(2)?,
        };
        let two = |text: &str| number(text.as_bytes(), 2);
        let (hours, minutes) = (two(hours)?, two(minutes)?);
        let ahead = sign * (hours * 3600 + minutes * 60);
        (hours <= 15 && minutes < 60).then_some(Hl7Zone { ahead })
    }

    /// Reads a time as HL7 writes it, `YYYY[MM[DD[HH[MM[SS[.SSSS]]]]]][+HHMM]`; what is left out is the first there is.
    pub fn read(self, text: &str) -> Option<Micros> {
        let text = text.trim();
        let (clock, zone) = match text.find(['+', '-']) {
            Some(at) => (&text[..at], Hl7Zone::parse(&text[at..])?),
            None => (text, self),
        };
        let (whole, fraction) = clock.split_once('.').unwrap_or((clock, ""));
        let digits = whole.as_bytes();
        if !matches!(digits.len(), 4 | 6 | 8 | 10 | 12 | 14)
            || (clock.len() > whole.len() && (digits.len() < 14 || fraction.is_empty()))
            || fraction.len() > 6
        {
            return None;
        }
        let part = |from: usize, missing: i64| match digits.get(from..from + 2) {
            Some(two) => number(two, 2),
            None => Some(missing),
        };
        let year = i32::try_from(number(&digits[..4], 4)?).ok()?;
        let (month, day) = (part(4, 1)?, part(6, 1)?);
        let (hour, minute, second) = (part(8, 0)?, part(10, 0)?, part(12, 0)?);
        let date = NaiveDate::from_ymd_opt(year, month.try_into().ok()?, day.try_into().ok()?)?;
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let fraction = match fraction.len() {
            0 => 0,
            length => {
                number(fraction.as_bytes(), length)? * 10_i64.pow(6 - u32::try_from(length).ok()?)
            }
        };
        let midnight = date.and_hms_opt(0, 0, 0)?.and_utc().timestamp();
        let seconds = midnight + hour * 3600 + minute * 60 + second - zone.ahead;
        let micros = seconds * 1_000_000 + fraction;
        (MIN..=MAX).contains(&micros).then_some(micros)
    }

    /// A time as HL7 writes it, to the second or as exactly as it is known up to a tenth of a millisecond, with this zone.
    /// `None` for years beyond four digits.
    pub fn write(self, micros: Micros) -> Option<String> {
        let local = micros.checked_add(self.ahead * 1_000_000)?;
        if !(MIN..=MAX).contains(&local) {
            return None;
        }
        let time = chrono::DateTime::from_timestamp_micros(local)?.naive_utc();
        let mut text = time.format("%Y%m%d%H%M%S").to_string();
        let fraction = local.rem_euclid(1_000_000) / 100;
        if fraction > 0 {
            text.push_str(&format!(".{fraction:04}"));
        }
        let sign = if self.ahead < 0 { '-' } else { '+' };
        let minutes = self.ahead.abs() / 60;
        text.push_str(&format!("{sign}{:02}{:02}", minutes / 60, minutes % 60));
        Some(text)
    }
}

fn number(digits: &[u8], length: usize) -> Option<i64> {
    if digits.len() != length {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| i64::from(digit - b'0'));
        digit.map(|digit| number * 10 + digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_exactly_as_they_are_written() {
        let china = Hl7Zone::parse("+08:00").unwrap();
        for (text, time) in [
            ("2026", "2026-01-01T00:00:00.000000Z"),
            ("202611", "2026-11-01T00:00:00.000000Z"),
            ("20261122", "2026-11-22T00:00:00.000000Z"),
            ("2026112203", "2026-11-22T03:00:00.000000Z"),
            ("202611220304", "2026-11-22T03:04:00.000000Z"),
            (" 20261122030405 ", "2026-11-22T03:04:05.000000Z"),
            ("20261122030405.1", "2026-11-22T03:04:05.100000Z"),
            ("20261122030405.1234", "2026-11-22T03:04:05.123400Z"),
            ("20261122030405.5+0800", "2026-11-21T19:04:05.500000Z"),
            ("20261122-0330", "2026-11-22T03:30:00.000000Z"),
        ] {
            let read = Hl7Zone::UTC.read(text).map(crate::time::text);
            assert_eq!(read.as_deref(), Some(time), "{text}");
        }
        assert_eq!(
            china.read("19700101080000"),
            Some(0),
            "what is written without a zone is in the given one"
        );
        for wrong in [
            "",
            "202",
            "20261",
            "20261301",
            "20260230",
            "2026112224",
            "202611220360",
            "2026112203045",
            "20261122030460",
            "20261122030405.",
            "202611220304.5",
            "20261122030405.1234567",
            "2026-11-22",
            "20261122+8",
            "20261122+0860",
            "２０２６",
            "20261122T03",
            "202611220304+5+0800",
        ] {
            assert_eq!(Hl7Zone::UTC.read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_are_written_with_their_zone() {
        let china = Hl7Zone::parse("+0800").unwrap();
        assert_eq!(china.write(0).as_deref(), Some("19700101080000+0800"));
        let west = Hl7Zone::parse("-03:30").unwrap();
        assert_eq!(
            west.write(1_500_000).as_deref(),
            Some("19691231203001.5000-0330")
        );
        for micros in [0, 1_795_312_984_123_400, -1_000_000] {
            let text = west.write(micros).unwrap();
            assert_eq!(Hl7Zone::UTC.read(&text), Some(micros), "{text}");
        }
        assert_eq!(china.write(MAX), None);
        for wrong in ["", "8", "+8", "+24:00", "+08:60", "Asia/Shanghai", "+é"] {
            assert_eq!(Hl7Zone::parse(wrong), None, "{wrong}");
        }
    }
}
