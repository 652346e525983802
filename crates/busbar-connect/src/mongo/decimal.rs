//! Decimal numbers of 128 bits (IEEE 754-2008, coefficient as a whole number).

/// The largest coefficient: 34 digits.
const COEFFICIENT_MAX: u128 = 9_999_999_999_999_999_999_999_999_999_999_999;
/// What is taken from the exponent as it is kept.
const BIAS: i32 = 6176;
const EXPONENT_MAX: i32 = 6111;

/// The number as text: `-1.50`, `1E+3`, `NaN`, `Infinity`.
pub fn decimal_text(bytes: [u8; 16]) -> String {
    let bits = u128::from_le_bytes(bytes);
    let sign = if bits >> 127 == 1 { "-" } else { "" };
    match (bits >> 122) & 0x1f {
        0x1f => return "NaN".to_owned(),
        0x1e => return format!("{sign}Infinity"),
        _ => {}
    }
    // A coefficient that is too large means zero.
    let (exponent, coefficient) = match (bits >> 125) & 3 {
        3 => ((bits >> 111) & 0x3fff, 0),
        _ => ((bits >> 113) & 0x3fff, bits & ((1 << 113) - 1)),
    };
    let coefficient = if coefficient > COEFFICIENT_MAX {
        0
    } else {
        coefficient
    };
    let exponent = i32::try_from(exponent).unwrap_or(0) - BIAS;
    let digits = coefficient.to_string();
    let count = i32::try_from(digits.len()).unwrap_or(0);
    let scientific = exponent + count - 1;
    if exponent > 0 || scientific < -6 {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        return format!("{sign}{first}{point}{rest}E{scientific:+}");
    }
    if exponent == 0 {
        return format!("{sign}{digits}");
    }
    let places = usize::try_from(-exponent).unwrap_or(0);
    let digits = format!("{digits:0>width$}", width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    format!("{sign}{whole}.{fraction}")
}

/// The number of `value` with `scale` digits behind the point; none where it has more digits than fit.
pub fn decimal_of(value: i128, scale: i32) -> Option<[u8; 16]> {
    let mut coefficient = value.unsigned_abs();
    let mut exponent = -scale;
    while coefficient > COEFFICIENT_MAX {
        if !coefficient.is_multiple_of(10) {
            return None;
        }
        coefficient /= 10;
        exponent += 1;
    }
    encoded(value < 0, coefficient, exponent)
}

/// The number of a text such as `-1.50` or `1E+3`; none where it is no number or does not fit.
pub fn decimal_parsed(text: &str) -> Option<[u8; 16]> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let special = |bits: u128| Some(((u128::from(negative) << 127) | (bits << 122)).to_le_bytes());
    match text {
        "NaN" => return special(0x1f),
        "Infinity" => return special(0x1e),
        _ => {}
    }
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = || whole.bytes().chain(fraction.bytes());
    if all().next().is_none() || !all().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut coefficient: u128 = 0;
    for digit in all() {
        coefficient = coefficient * 10 + u128::from(digit - b'0');
        if coefficient > COEFFICIENT_MAX {
            return None;
        }
    }
    let places = i32::try_from(fraction.len()).ok()?;
    encoded(negative, coefficient, exponent.checked_sub(places)?)
}

fn encoded(negative: bool, coefficient: u128, exponent: i32) -> Option<[u8; 16]> {
    if !(-BIAS..=EXPONENT_MAX).contains(&exponent) {
        return None;
    }
    let exponent = u128::try_from(exponent + BIAS).ok()?;
    let bits = (u128::from(negative) << 127) | (exponent << 113) | coefficient;
    Some(bits.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_and_written_as_the_standard_says() {
        for text in [
            "0",
            "-0",
            "1.50",
            "-123456789012345678901234567890.1234",
            "0.000001",
            "1E-7",
            "1.5E-7",
            "1E+3",
            "9.999999999999999999999999999999999E+6144",
            "NaN",
            "Infinity",
            "-Infinity",
        ] {
            assert_eq!(decimal_text(decimal_parsed(text).expect(text)), text);
        }
        for wrong in [
            "",
            ".",
            "x",
            "1.2.3",
            "1E+7000",
            "12345678901234567890123456789012345",
        ] {
            assert!(decimal_parsed(wrong).is_none(), "{wrong}");
        }
        // From the specification's own tests.
        let bytes = 0x3040_0000_0000_0000_0000_0000_0000_0001_u128.to_le_bytes();
        assert_eq!(decimal_parsed("1"), Some(bytes));
        assert_eq!(
            decimal_of(-150, 2).map(decimal_text).as_deref(),
            Some("-1.50")
        );
        assert_eq!(decimal_of(i128::MAX, 0), None);
        assert_eq!(
            decimal_of(10_i128.pow(36), 0).map(decimal_text).as_deref(),
            Some("1.000000000000000000000000000000000E+36")
        );
    }
}
