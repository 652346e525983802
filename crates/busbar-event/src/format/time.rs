//! Points in time as numbers.

use super::TimeUnit;
use crate::Micros;
use crate::time::{MAX, MIN};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
