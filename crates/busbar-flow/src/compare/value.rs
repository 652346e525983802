//! Values of unlike systems as texts that are the same where the values are.

use std::borrow::Cow;

/// What a column holds, as far as it matters for comparing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueClass {
    /// True or false.
    Bool,
    /// Whole numbers.
    Whole,
    /// Numbers with decimal digits.
    Number,
    /// Floating-point numbers.
    Float,
    /// Days, and days with a time; without a zone taken as UTC.
    Time,
    /// Bytes as hexadecimal digits.
    Bytes,
    /// Everything else.
    Text,
}

impl ValueClass {
    /// The class of a type as PostgreSQL, MySQL and SQLite write it, and drivers of these and other databases.
    pub fn of(kind: &str) -> ValueClass {
        let kind = kind.to_lowercase();
        if kind.starts_with("tinyint(1)") {
            return ValueClass::Bool;
        }
        let word = kind.split(['(', ' ']).next().unwrap_or_default();
        match word {
            "bool" | "boolean" => ValueClass::Bool,
            "tinyint" | "smallint" | "mediumint" | "int" | "integer" | "bigint" | "year"
            | "int2" | "int4" | "int8" | "smallserial" | "serial" | "bigserial" => {
                ValueClass::Whole
            }
            "decimal" | "numeric" | "number" => ValueClass::Number,
            "real" | "float" | "double" | "float4" | "float8" => ValueClass::Float,
            "date" | "datetime" | "datetime2" | "datetimeoffset" | "timestamp" | "timestamptz" => {
                ValueClass::Time
            }
            "bytea" | "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => {
                ValueClass::Bytes
            }
            _ => ValueClass::Text,
        }
    }

    /// How values of two classes are compared.
    pub fn together(self, other: ValueClass) -> ValueClass {
        use ValueClass::{Bool, Float, Number, Text, Whole};
        match (self, other) {
            (a, b) if a == b => a,
            (Bool, Whole) | (Whole, Bool) => Bool,
            (Whole, Number) | (Number, Whole) => Number,
            (Float, Whole | Number) | (Whole | Number, Float) => Float,
            (Text, one) | (one, Text) => one,
            _ => Text,
        }
    }

    /// The text by which a value is compared. A text that is no value of the class stays as it is.
    pub fn normal(self, text: &str) -> Cow<'_, str> {
        match self {
            ValueClass::Bool => Cow::Borrowed(match text {
                "t" | "true" | "TRUE" => "1",
                "f" | "false" | "FALSE" => "0",
                other => other,
            }),
            ValueClass::Whole | ValueClass::Number => number(text),
            ValueClass::Float => match text.trim().parse::<f64>() {
                Ok(0.0) => Cow::Borrowed("0"),
                Ok(value) => Cow::Owned(value.to_string()),
                Err(_) => Cow::Borrowed(text),
            },
            ValueClass::Time => time(text),
            ValueClass::Bytes => {
                let digits = text.strip_prefix("\\x").or_else(|| text.strip_prefix("0x"));
                Cow::Owned(digits.unwrap_or(text).to_ascii_lowercase())
            }
            ValueClass::Text => Cow::Borrowed(text),
        }
    }
}

/// Without zeros that say nothing: `-007.50` is `-7.5`.
fn number(text: &str) -> Cow<'_, str> {
    let (minus, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return Cow::Borrowed(text);
    }
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let fraction = fraction.trim_end_matches('0');
    let mut normal = String::with_capacity(text.len());
    if minus && (whole, fraction) != ("0", "") {
        normal.push('-');
    }
    normal.push_str(whole);
    if !fraction.is_empty() {
        normal.push('.');
        normal.push_str(fraction);
    }
    Cow::Owned(normal)
}

/// `2024-02-29T00:00:00.500000Z` is `2024-02-29 00:00:00.5`, a day its midnight.
fn time(text: &str) -> Cow<'_, str> {
    let shape = |text: &str, like: &[u8]| {
        text.len() == like.len()
            && text.bytes().zip(like).all(|(byte, like)| match like {
                b'0' => byte.is_ascii_digit(),
                b' ' => byte == b' ' || byte == b'T',
                other => byte == *other,
            })
    };
    if shape(text, b"0000-00-00") {
        return Cow::Owned(format!("{text} 00:00:00"));
    }
    let bare = ["Z", "+00:00", "+00"]
        .iter()
        .find_map(|zone| text.strip_suffix(zone));
    let (seconds, fraction) = {
        let bare = bare.unwrap_or(text);
        bare.split_once('.').unwrap_or((bare, ""))
    };
    if !shape(seconds, b"0000-00-00 00:00:00") || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Cow::Borrowed(text);
    }
    let mut normal = seconds.replace('T', " ");
    let fraction = fraction.trim_end_matches('0');
    if !fraction.is_empty() {
        normal.push('.');
        normal.push_str(fraction);
    }
    Cow::Owned(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_the_same_have_one_text() {
        use ValueClass::{Bool, Bytes, Float, Number, Text, Time, Whole};
        for (class, texts) in [
            (Bool, &["t", "true", "1"][..]),
            (Bool, &["f", "0", "false"]),
            (Number, &["1.50", "1.5", "+01.500"]),
            (Number, &["-0.00", "0", "0."]),
            (Whole, &["7", "007", "+7"]),
            (Float, &["0.1", "1e-1", "0.10"]),
            (Float, &["-0", "0"]),
            (
                Time,
                &[
                    "2024-02-29",
                    "2024-02-29 00:00:00",
                    "2024-02-29T00:00:00.000Z",
                ],
            ),
            (
                Time,
                &["2024-02-29 01:02:03.5+00", "2024-02-29T01:02:03.500000"],
            ),
            (Bytes, &["\\x00ff", "0x00FF", "00ff"]),
        ] {
            let normal: Vec<_> = texts.iter().map(|text| class.normal(text)).collect();
            assert!(normal.iter().all(|text| *text == normal[0]), "{normal:?}");
        }
        for (class, one, other) in [
            (Text, "a", "a "),
            (Text, "1.50", "1.5"),
            (Text, "é", "e\u{301}"),
            (Number, "1.5", "1.51"),
            (Number, "x", "0"),
            (Number, "", "0"),
            (Time, "2024-02-29 01:02:03+02", "2024-02-29 01:02:03"),
            (Time, "0000-00-00", "1970-01-01"),
        ] {
            assert_ne!(class.normal(one), class.normal(other));
        }
    }

    #[test]
    fn types_of_unlike_systems_meet() {
        let class = |a, b| ValueClass::of(a).together(ValueClass::of(b));
        for (a, b, expected) in [
            ("tinyint(1)", "boolean", ValueClass::Bool),
            ("bigint(20) unsigned", "numeric(20,0)", ValueClass::Number),
            ("decimal(10,2)", "text", ValueClass::Number),
            ("datetime(6)", "timestamp with time zone", ValueClass::Time),
            ("date", "timestamp without time zone", ValueClass::Time),
            ("double", "double precision", ValueClass::Float),
            ("int8", "bigint(20)", ValueClass::Whole),
            ("float8", "double", ValueClass::Float),
            ("timestamptz", "datetime(6)", ValueClass::Time),
            ("longblob", "bytea", ValueClass::Bytes),
            ("varchar(20)", "character varying(20)", ValueClass::Text),
            ("boolean", "date", ValueClass::Text),
        ] {
            assert_eq!(class(a, b), expected, "{a} {b}");
        }
    }
}
