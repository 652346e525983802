//! Numbers of XPath.

/// A number as XPath writes it: without an exponent, and whole numbers without a point.
pub fn number_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return match number > 0.0 {
            true => "Infinity".into(),
            false => "-Infinity".into(),
        };
    }
    // There is no negative zero in writing.
    match number == 0.0 {
        true => "0".into(),
        false => number.to_string(),
    }
}

/// The number that a text is; not a number (NaN) if it is none.
pub(super) fn text_number(text: &str) -> f64 {
    let text = text.trim_matches(crate::names::is_space);
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && digits.bytes().any(|b| b.is_ascii_digit())
        && digits.bytes().filter(|b| *b == b'.').count() <= 1;
    match is_number {
        true => text.parse().unwrap_or(f64::NAN),
        false => f64::NAN,
    }
}

/// The nearest whole number; of two the one towards positive infinity.
pub(super) fn round(number: f64) -> f64 {
    let floor = number.floor();
    match number - floor {
        // What is lost when 0.5 is added to the number itself.
        0.5.. => match floor + 1.0 {
            0.0 => -0.0,
            up => up,
        },
        _ => floor,
    }
}
