//! Whole numbers and decimals of any length, as Cassandra keeps them: two's complement, the highest byte first.

/// Bytes of a number that is shown in digits: more than anybody counts with.
const NUMBER_BYTES_MAX: usize = 512;
/// Digits behind the point that are written out; more are an exponent.
const SCALE_MAX: i32 = 100;
/// Nine digits at a time.
const NINE_DIGITS: u64 = 1_000_000_000;

/// The digits of a whole number; none for one that is too long.
pub fn varint_text(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() || bytes.len() > NUMBER_BYTES_MAX {
        return None;
    }
    let negative = bytes[0] >= 0x80;
    let mut rest = bytes.to_vec();
    if negative {
        // The number without its sign: all bits the other way round, and one more.
        let mut carry = true;
        for byte in rest.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    let mut groups = Vec::new();
    while rest.iter().any(|byte| *byte != 0) {
        let mut left = 0_u64;
        for byte in &mut rest {
            left = left << 8 | u64::from(*byte);
            *byte = (left / NINE_DIGITS) as u8;
            left %= NINE_DIGITS;
        }
        groups.push(left);
    }
    let mut text = String::from(if negative { "-" } else { "" });
    text.push_str(&groups.pop().unwrap_or(0).to_string());
    for group in groups.iter().rev() {
        text.push_str(&format!("{group:09}"));
    }
    Some(text)
}

/// The shortest bytes of a whole number.
pub fn varint_bytes(number: i128) -> Vec<u8> {
    let all = number.to_be_bytes();
    let sign = if number < 0 { 0xff } else { 0 };
    let mut start = 0;
    while start + 1 < all.len() && all[start] == sign && (all[start + 1] ^ sign) < 0x80 {
        start += 1;
    }
    all[start..].to_vec()
}

/// The digits of a decimal: how many stand behind the point in four bytes, and the whole number without it.
pub fn decimal_text(bytes: &[u8]) -> Option<String> {
    let (scale, digits) = bytes.split_first_chunk::<4>()?;
    let scale = i32::from_be_bytes(*scale);
    let text = varint_text(digits)?;
    if !(0..=SCALE_MAX).contains(&scale) {
        return Some(format!("{text}E{}", -i64::from(scale)));
    }
    let behind = scale as usize;
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.as_str()),
    };
    if behind == 0 {
        return Some(text);
    }
    let digits = format!("{digits:0>width$}", width = behind + 1);
    let (whole, fraction) = digits.split_at(digits.len() - behind);
    Some(format!("{sign}{whole}.{fraction}"))
}

/// A decimal of at most 38 digits such as `-1.25`: its digits, and how many stand behind the point.
pub fn read_decimal(text: &str) -> Option<(i128, i32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix(['-', '+']).unwrap_or(whole);
    let all = digits.bytes().chain(fraction.bytes());
    if digits.is_empty() || !all.clone().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = format!("{whole}{fraction}").parse().ok()?;
    Some((number, i32::try_from(fraction.len()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_of_any_length_keep_their_digits() {
        for number in [
            0,
            1,
            -1,
            127,
            128,
            -128,
            -129,
            255,
            1_000_000_000,
            i128::MAX,
            i128::MIN,
        ] {
            let bytes = varint_bytes(number);
            assert_eq!(varint_text(&bytes).unwrap(), number.to_string());
        }
        assert_eq!(varint_bytes(127), [127]);
        assert_eq!(varint_bytes(128), [0, 128]);
        assert_eq!(varint_bytes(-128), [128]);
        let mut large = vec![1];
        large.extend([0; 32]);
        let text = "115792089237316195423570985008687907853269984665640564039457584007913129639936";
        assert_eq!(varint_text(&large).unwrap(), text);
        assert_eq!(varint_text(&[]), None);
        assert_eq!(varint_text(&[1; 513]), None);
    }

    #[test]
    fn decimals_keep_their_digits() {
        for (text, digits, scale) in [
            ("-1.25", -125, 2),
            ("0.05", 5, 2),
            ("7", 7, 0),
            ("-0.0", 0, 1),
        ] {
            assert_eq!(read_decimal(text), Some((digits, scale)));
            let bytes = [&scale.to_be_bytes(), &varint_bytes(digits)[..]].concat();
            let shown = decimal_text(&bytes).unwrap();
            assert_eq!(read_decimal(&shown), Some((digits, scale)), "{shown}");
        }
        for wrong in ["", ".5", "1.2.3", "1e5", "- 1", "--1"] {
            assert_eq!(read_decimal(wrong), None, "{wrong}");
        }
        let huge = [&(-1000_i32).to_be_bytes(), &[3][..]].concat();
        assert_eq!(decimal_text(&huge).unwrap(), "3E1000");
    }
}
