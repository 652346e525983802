//! Points in time and decimal numbers between JSON, ODBC's structures and text.

use busbar_event::time;

use super::fault::OdbcFault;

/// A point in time, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OdbcMoment {
    /// Microseconds since 1970.
    pub micros: i64,
    /// Nanoseconds beyond these.
    pub nanos: u16,
}

/// `SQL_DATE_STRUCT`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct OdbcDateStruct {
    pub year: i16,
    pub month: u16,
    pub day: u16,
}

/// `SQL_TIMESTAMP_STRUCT`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct OdbcTimestampStruct {
    pub date: OdbcDateStruct,
    pub hour: u16,
    pub minute: u16,
    pub second: u16,
    /// Nanoseconds.
    pub fraction: u32,
}

impl OdbcMoment {
    /// Reads a text with or without a zone: `2024-05-06 07:08:09.5+02:00`; a date is its first instant.
    pub fn parse(given: &str) -> Option<OdbcMoment> {
        let text = given.trim();
        if text.len() == 10 {
            return OdbcMoment::parse(&format!("{text}T00:00:00"));
        }
        let (date, rest) = (text.get(..10)?, text.get(11..)?);
        let zone = rest.find(['+', '-', 'Z', 'z']).unwrap_or(rest.len());
        let (clock, zone) = rest.split_at(zone);
        let (clock, digits) = clock
            .trim_end()
            .split_once('.')
            .unwrap_or((clock.trim_end(), ""));
        if digits.len() > 9 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let zone = match (zone.len(), zone.contains(':')) {
            (0, _) => "Z".to_owned(),
            (3, false) => format!("{zone}:00"),
            (5, false) => format!("{}:{}", &zone[..3], &zone[3..]),
            _ => zone.to_owned(),
        };
        let clock = if clock.len() == 5 {
            format!("{clock}:00")
        } else {
            clock.to_owned()
        };
        let padded = format!("{digits:0<9}");
        let whole = format!("{date}T{clock}.{}{zone}", &padded[..6]);
        Some(OdbcMoment {
            micros: time::parse(&whole)?,
            nanos: padded[6..].parse().ok()?,
        })
    }

    /// Digits behind the seconds that it needs.
    pub fn digits(self) -> i32 {
        let fraction = self.micros.rem_euclid(1_000_000) * 1_000 + i64::from(self.nanos);
        match fraction {
            0 => 0,
            _ => (0..9)
                .find(|cut| fraction % 10_i64.pow(cut + 1) != 0)
                .map_or(0, |cut| 9 - cut as i32),
        }
    }

    /// Without the digits behind so many.
    pub fn cut(self, digits: i32) -> OdbcMoment {
        let keep = |value: i64, cut: u32| value - value.rem_euclid(10_i64.pow(cut));
        match digits {
            0..=6 => OdbcMoment {
                micros: keep(self.micros, (6 - digits) as u32),
                nanos: 0,
            },
            7 | 8 => OdbcMoment {
                micros: self.micros,
                nanos: keep(i64::from(self.nanos), (9 - digits) as u32) as u16,
            },
            _ => self,
        }
    }

    /// So much earlier, in microseconds.
    pub fn less(self, micros: u64) -> OdbcMoment {
        let by = i64::try_from(micros).unwrap_or(i64::MAX);
        OdbcMoment {
            micros: self.micros.saturating_sub(by).max(time::MIN),
            ..self
        }
    }

    /// As ODBC has it.
    pub fn parts(self) -> OdbcTimestampStruct {
        let text = time::text(self.micros);
        let number = |from: usize, to: usize| {
            text.get(from..to)
                .and_then(|part| part.parse().ok())
                .unwrap_or(0)
        };
        OdbcTimestampStruct {
            date: OdbcDateStruct {
                year: number(0, 4) as i16,
                month: number(5, 7),
                day: number(8, 10),
            },
            hour: number(11, 13),
            minute: number(14, 16),
            second: number(17, 19),
            fraction: (self.micros.rem_euclid(1_000_000) * 1_000) as u32 + u32::from(self.nanos),
        }
    }

    /// `2024-05-06T07:08:09.123`.
    pub fn shown(self) -> String {
        self.parts().shown()
    }
}

impl OdbcDateStruct {
    /// `2024-05-06`.
    pub fn shown(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl OdbcTimestampStruct {
    /// `2024-05-06T07:08:09.123`, with digits of seconds three at a time.
    pub fn shown(self) -> String {
        let fraction = match self.fraction {
            0 => String::new(),
            nanos if nanos % 1_000_000 == 0 => format!(".{:03}", nanos / 1_000_000),
            nanos if nanos % 1_000 == 0 => format!(".{:06}", nanos / 1_000),
            nanos => format!(".{nanos:09}"),
        };
        format!(
            "{}T{:02}:{:02}:{:02}{fraction}",
            self.date.shown(),
            self.hour,
            self.minute,
            self.second
        )
    }
}

/// Digits that a number may have before or behind its point.
const DECIMAL_DIGITS_MAX: i64 = 2_000;

/// A decimal number without an exponent and with so many digits behind the point at most, where that is known.
///
/// # Errors
/// *Value*: it is no number, or would have to be rounded.
pub fn decimal(text: &str, digits: Option<i32>, lossy: bool) -> Result<String, OdbcFault> {
    let wrong = || OdbcFault::new("value", text.chars().take(100).collect::<String>());
    let trimmed = text.trim();
    let (sign, rest) = match trimmed.as_bytes().first() {
        Some(b'-') => ("-", &trimmed[1..]),
        Some(b'+') => ("", &trimmed[1..]),
        _ => ("", trimmed),
    };
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let exponent: i64 = exponent.parse().map_err(|_| wrong())?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    if all.is_empty() || !all.iter().all(u8::is_ascii_digit) {
        return Err(wrong());
    }
    // How many of the digits stand before the point.
    let point = (whole.len() as i64).saturating_add(exponent);
    let behind = all.len() as i64 - point;
    if point.abs() > DECIMAL_DIGITS_MAX || behind > DECIMAL_DIGITS_MAX {
        return Err(wrong());
    }
    let mut before = Vec::new();
    let mut after = Vec::new();
    for at in point.min(0)..(all.len() as i64).max(point) {
        let digit = usize::try_from(at)
            .ok()
            .and_then(|at| all.get(at))
            .copied()
            .unwrap_or(b'0');
        if at < point {
            before.push(digit)
        } else {
            after.push(digit)
        }
    }
    if let Some(most) = digits.and_then(|digits| usize::try_from(digits).ok())
        && after.len() > most
    {
        let cut = after.split_off(most);
        if cut.iter().any(|digit| *digit != b'0') {
            if !lossy {
                return Err(wrong());
            }
            round(&mut before, &mut after, &cut);
        }
    }
    let first = before
        .iter()
        .position(|digit| *digit != b'0')
        .unwrap_or(before.len());
    let mut out = sign.to_owned();
    let before = &before[first..];
    out.push_str(if before.is_empty() {
        "0"
    } else {
        std::str::from_utf8(before).unwrap_or("0")
    });
    if !after.is_empty() {
        out.push('.');
        out.push_str(std::str::from_utf8(&after).unwrap_or_default());
    }
    Ok(out)
}

/// Rounds to the even neighbour where both are as near.
fn round(before: &mut Vec<u8>, after: &mut [u8], cut: &[u8]) {
    let half = cut.first() == Some(&b'5') && cut[1..].iter().all(|digit| *digit == b'0');
    let last = after.last().or(before.last()).copied().unwrap_or(b'0');
    let up = match half {
        true => (last - b'0') % 2 == 1,
        false => cut.first().is_some_and(|digit| *digit >= b'5'),
    };
    if !up {
        return;
    }
    for digit in after.iter_mut().rev().chain(before.iter_mut().rev()) {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
    before.insert(0, b'1');
}

/// One decimal number less another, a whole one.
pub fn minus(text: &str, by: u64) -> Result<String, OdbcFault> {
    let plain = decimal(text, None, false)?;
    let wrong = || OdbcFault::new("value", text.chars().take(100).collect::<String>());
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    if fraction.bytes().all(|digit| digit == b'0') {
        let whole: i128 = whole.parse().map_err(|_| wrong())?;
        return Ok((whole - i128::from(by)).to_string());
    }
    // Whole and fraction as one whole number, where that is small enough.
    let scale = 10_i128
        .checked_pow(fraction.len() as u32)
        .ok_or_else(wrong)?;
    let digits: i128 = format!("{whole}{fraction}").parse().map_err(|_| wrong())?;
    let less = i128::from(by)
        .checked_mul(scale)
        .and_then(|by| digits.checked_sub(by))
        .ok_or_else(wrong)?;
    let (sign, less) = (if less < 0 { "-" } else { "" }, less.unsigned_abs());
    let scale = scale.unsigned_abs();
    Ok(format!(
        "{sign}{}.{:0>width$}",
        less / scale,
        less % scale,
        width = fraction.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_numbers_keep_each_digit_or_are_refused() {
        for (text, digits, lossy, expected) in [
            ("1.50", Some(2), false, Some("1.50")),
            ("1.500", Some(2), false, Some("1.50")),
            ("1.505", Some(2), false, None),
            ("1.505", Some(2), true, Some("1.50")),
            ("1.515", Some(2), true, Some("1.52")),
            ("9.995", Some(2), true, Some("10.00")),
            ("0.125", Some(2), true, Some("0.12")),
            ("-0.6", Some(0), true, Some("-1")),
            (
                "1e-30",
                None,
                false,
                Some("0.000000000000000000000000000001"),
            ),
            ("-12.5E2", None, false, Some("-1250")),
            ("007", Some(0), false, Some("7")),
            (".5", None, false, Some("0.5")),
            ("1e999999999", None, false, None),
            ("1e-999999999", None, false, None),
            ("x", None, false, None),
            ("", None, false, None),
            ("1.2.3", None, false, None),
        ] {
            let found = decimal(text, digits, lossy).ok();
            assert_eq!(found.as_deref(), expected, "{text} {digits:?} {lossy}");
        }
        assert_eq!(minus("5", 7).ok().as_deref(), Some("-2"));
        assert_eq!(minus("5.25", 7).ok().as_deref(), Some("-1.75"));
        assert_eq!(minus("5.00", 2).ok().as_deref(), Some("3"));
        assert!(minus("x", 1).is_err());
    }

    #[test]
    fn times_are_read_in_each_way_that_databases_write_them() {
        for (text, expected) in [
            ("2024-05-06", Some("2024-05-06T00:00:00")),
            ("2024-05-06 07:08:09", Some("2024-05-06T07:08:09")),
            ("2024-05-06T07:08:09.5Z", Some("2024-05-06T07:08:09.500")),
            (
                "2024-05-06 07:08:09.1234567 +08:00",
                Some("2024-05-05T23:08:09.123456700"),
            ),
            ("2024-05-06 07:08:09+08", Some("2024-05-05T23:08:09")),
            ("2024-05-06 07:08:09-0130", Some("2024-05-06T08:38:09")),
            ("2024-05-06 07:08", Some("2024-05-06T07:08:00")),
            ("2024-13-06 07:08:09", None),
            ("2024-05-06 07:08:09.1234567890", None),
            ("yesterday, or so", None),
            ("雨雨雨雨雨雨", None),
        ] {
            let found = OdbcMoment::parse(text).map(OdbcMoment::shown);
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        let moment = OdbcMoment::parse("2024-05-06 07:08:09.123456700").expect("a time");
        assert_eq!(moment.digits(), 7);
        assert_eq!(moment.cut(3).shown(), "2024-05-06T07:08:09.123");
        assert_eq!(moment.cut(0).digits(), 0);
        assert_eq!(
            moment.less(9_123_456).shown(),
            "2024-05-06T07:08:00.000000700"
        );
    }
}
