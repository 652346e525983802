//! Spans of time and sizes as people write them: `7d`, `90s`, `512MiB`, `10GB`.

use std::{fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Class, Error};

/// A span of time: a whole number and one of `us`, `ms`, `s`, `m` (or `min`), `h`, `d`, `w`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    micros: i64,
}

/// A size: a whole number of bytes, or with one of `KB`, `MB`, `GB`, `TB`, `KiB`, `MiB`, `GiB`, `TiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size {
    bytes: u64,
}

const SPANS: &[(&str, i64)] = &[
    ("w", 7 * 86_400_000_000),
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

const SIZES: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

impl Span {
    /// A span of `micros` microseconds; a negative number counts as 0.
    pub fn from_micros(micros: i64) -> Self {
        Self {
            micros: micros.max(0),
        }
    }

    /// Microseconds.
    pub fn as_micros(self) -> i64 {
        self.micros
    }

    /// The same as a [`Duration`].
    pub fn as_duration(self) -> Duration {
        Duration::from_micros(self.micros.unsigned_abs())
    }

    /// Reads `90s`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (number, unit) = split(text);
        let micros = match (number.parse::<i64>(), unit) {
            (Ok(0), "") => Some(0),
            (Ok(n), unit) => SPANS
                .iter()
                .find(|(name, _)| *name == unit)
                .and_then(|(_, f)| n.checked_mul(*f)),
            _ => None,
        };
        micros
            .map(|micros| Self { micros })
            .ok_or_else(|| Error::new(Class::Configuration, "event.span").with("text", short(text)))
    }
}

impl Size {
    /// A size of `bytes` bytes.
    pub fn from_bytes(bytes: u64) -> Self {
        Self { bytes }
    }

    /// Bytes.
    pub fn as_bytes(self) -> u64 {
        self.bytes
    }

    /// Reads `512MiB`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (number, unit) = split(text);
        let bytes = match (number.parse::<u64>(), unit) {
            (Ok(n), "") => Some(n),
            (Ok(n), unit) => SIZES
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .and_then(|(_, f)| n.checked_mul(*f)),
            _ => None,
        };
        bytes
            .map(|bytes| Self { bytes })
            .ok_or_else(|| Error::new(Class::Configuration, "event.size").with("text", short(text)))
    }
}

/// The digits and what stands behind them.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in SPANS {
            if self.micros % factor == 0 && (self.micros > 0 || *unit == "s") {
                return write!(f, "{}{unit}", self.micros / factor);
            }
        }
        write!(f, "{}us", self.micros)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in SIZES {
            if self.bytes > 0 && self.bytes.is_multiple_of(*factor) {
                return write!(f, "{}{unit}", self.bytes / factor);
            }
        }
        write!(f, "{}B", self.bytes)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Span::parse(&text).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes or a size such as 512MiB")
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size { bytes })
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes)
                    .map(|bytes| Size { bytes })
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                Size::parse(text).map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9]+ *(us|ms|s|m|h|d|w)$",
            "description": "A span of time, such as 90s, 5m, 7d."
        })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "pattern": "^[0-9]+ *([KMGT]i?B|B)?$",
            "minimum": 0,
            "description": "A size in bytes, such as 512MiB or 10GB."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_written() {
        for (text, micros) in [
            ("90s", 90_000_000),
            ("7d", 604_800_000_000),
            ("5 m", 300_000_000),
            ("250ms", 250_000),
            ("0", 0),
            ("3us", 3),
        ] {
            assert_eq!(Span::parse(text).unwrap().as_micros(), micros, "{text}");
        }
        assert_eq!(Span::parse("10min").unwrap().to_string(), "10m");
        assert_eq!(Span::parse("604800s").unwrap().to_string(), "1w");
        assert_eq!(Span::default().to_string(), "0s");
        for text in [
            "",
            "s",
            "-1s",
            "5",
            "1.5s",
            "9223372036854775807w",
            "5 minutes",
        ] {
            assert!(Span::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_as_written() {
        for (text, bytes) in [
            ("512MiB", 512 << 20),
            ("10GB", 10_000_000_000),
            ("7", 7),
            ("1 kb", 1000),
        ] {
            assert_eq!(Size::parse(text).unwrap().as_bytes(), bytes, "{text}");
        }
        assert_eq!(Size::from_bytes(1 << 30).to_string(), "1GiB");
        assert_eq!(serde_json::from_str::<Size>("12").unwrap().as_bytes(), 12);
        assert!(serde_json::from_str::<Size>("-1").is_err());
        assert!(Size::parse("99999999999999999999TB").is_err());
    }
}
