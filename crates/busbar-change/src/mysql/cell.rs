//! Values of a binary log as the text that the server writes for them.

use std::fmt::Write as _;

use bytes::Bytes;

use super::column::ValueShape;
use super::json::json_text;
use super::wire::Reader;

/// The type of a column, with what it takes to read its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BinlogType {
    /// So many bytes.
    Int {
        /// Bytes of a value.
        bytes: usize,
        /// Whether it has no values below zero.
        unsigned: bool,
    },
    /// A floating-point number of 32 bits.
    Float {
        /// Whether it has no values below zero.
        unsigned: bool,
    },
    /// One of 64 bits.
    Double {
        /// Whether it has no values below zero.
        unsigned: bool,
    },
    /// A decimal number.
    Decimal {
        /// Digits: all of a number, or those behind the seconds.
        digits: usize,
        /// Digits behind the point.
        scale: usize,
        /// Whether it has no values below zero.
        unsigned: bool,
    },
    /// A text, or bytes (the collation 63), with its length in so many bytes before it.
    /// `binary(n)` has `pad` bytes, of which the log leaves out zeros at the end.
    Text {
        /// Bytes of the length before a value.
        length: usize,
        /// The number of its collation.
        collation: u64,
        /// Bytes that a value is filled up to with zeros.
        pad: usize,
        /// Which type it is.
        of_type: TextType,
    },
    /// One of several texts, by its number from 1.
    Enum {
        /// Bytes of a value.
        bytes: usize,
        /// The texts.
        members: Vec<String>,
    },
    /// Some of several texts, as bits.
    Set {
        /// Bytes of a value.
        bytes: usize,
        /// The texts.
        members: Vec<String>,
    },
    /// So many bits.
    Bit {
        /// How many.
        bits: usize,
    },
    /// A year.
    Year,
    /// A date.
    Date,
    /// With so many digits behind the seconds.
    Time {
        /// Digits: all of a number, or those behind the seconds.
        digits: usize,
    },
    /// A date and a time without a zone.
    DateTime {
        /// Digits: all of a number, or those behind the seconds.
        digits: usize,
    },
    /// A time in UTC.
    Timestamp {
        /// Digits: all of a number, or those behind the seconds.
        digits: usize,
    },
    /// MySQL's binary form of JSON, with its length in so many bytes before it.
    Json {
        /// Bytes of the length before a value.
        length: usize,
    },
    /// A type that is not known.
    Other(u8),
}

/// Which types a server counts as texts when it says their collations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextType {
    /// Texts and bytes.
    Text,
    /// Geometries are bytes, and have no collation.
    Geometry,
}

/// The collation of what is bytes.
const BINARY: u64 = 63;

impl BinlogType {
    /// Reads a type's measures.
    pub fn read(of: u8, measures: &mut Reader) -> Option<BinlogType> {
        let int = |bytes| BinlogType::Int {
            bytes,
            unsigned: false,
        };
        let text = |length, pad| BinlogType::Text {
            length,
            collation: 0,
            pad,
            of_type: TextType::Text,
        };
        Some(match of {
            1 => int(1),
            2 => int(2),
            9 => int(3),
            3 => int(4),
            8 => int(8),
            4 => {
                measures.u8()?;
                BinlogType::Float { unsigned: false }
            }
            5 => {
                measures.u8()?;
                BinlogType::Double { unsigned: false }
            }
            246 => {
                let (digits, scale) = (measures.u8()?.into(), measures.u8()?.into());
                BinlogType::Decimal {
                    digits,
                    scale,
                    unsigned: false,
                }
            }
            15 | 253 => text(if measures.number(2)? > 255 { 2 } else { 1 }, 0),
            252 => text(measures.u8()?.into(), 0),
            255 => BinlogType::Text {
                length: measures.u8()?.into(),
                collation: BINARY,
                pad: 0,
                of_type: TextType::Geometry,
            },
            245 => BinlogType::Json {
                length: measures.u8()?.into(),
            },
            254 => {
                let (first, second) = (measures.u8()?, measures.u8()?);
                match first {
                    247 => BinlogType::Enum {
                        bytes: second.into(),
                        members: Vec::new(),
                    },
                    248 => BinlogType::Set {
                        bytes: second.into(),
                        members: Vec::new(),
                    },
                    // Two bits of the length are hidden in the type.
                    _ => {
                        let length = usize::from(second) | usize::from((first & 0x30) ^ 0x30) << 4;
                        text(if length > 255 { 2 } else { 1 }, length)
                    }
                }
            }
            16 => {
                let (bits, bytes) = (usize::from(measures.u8()?), usize::from(measures.u8()?));
                BinlogType::Bit {
                    bits: bytes * 8 + bits,
                }
            }
            13 => BinlogType::Year,
            10 | 14 => BinlogType::Date,
            19 => BinlogType::Time {
                digits: digits(measures)?,
            },
            18 => BinlogType::DateTime {
                digits: digits(measures)?,
            },
            17 => BinlogType::Timestamp {
                digits: digits(measures)?,
            },
            other => BinlogType::Other(other),
        })
    }

    /// Whether the server says of it if it is unsigned.
    pub fn is_number(&self) -> bool {
        matches!(
            self,
            BinlogType::Int { .. }
                | BinlogType::Float { .. }
                | BinlogType::Double { .. }
                | BinlogType::Decimal { .. }
                | BinlogType::Year
        )
    }

    /// Whether the server says its collation.
    pub fn is_text(&self) -> bool {
        matches!(
            self,
            BinlogType::Text {
                of_type: TextType::Text,
                ..
            }
        )
    }

    /// Sets whether a number has no values below zero.
    pub fn set_unsigned(&mut self, is: bool) {
        if let BinlogType::Int { unsigned, .. }
        | BinlogType::Float { unsigned }
        | BinlogType::Double { unsigned }
        | BinlogType::Decimal { unsigned, .. } = self
        {
            *unsigned = is;
        }
    }

    /// Sets the collation of a text.
    pub fn set_collation(&mut self, to: u64) {
        if let BinlogType::Text { collation, .. } = self {
            *collation = to;
        }
    }

    /// The collation of a text.
    pub fn collation(&self) -> Option<u64> {
        match self {
            BinlogType::Text {
                collation,
                of_type: TextType::Text,
                ..
            } => Some(*collation),
            _ => None,
        }
    }

    /// Whether its values are bytes, which are written as `0x00ff`.
    pub fn is_bytes(&self) -> bool {
        matches!(
            self,
            BinlogType::Text {
                collation: BINARY,
                ..
            } | BinlogType::Bit { .. }
        )
    }

    /// How its values are written in events.
    pub fn shape(&self) -> ValueShape {
        match self {
            BinlogType::Int { .. } | BinlogType::Double { .. } | BinlogType::Year => {
                ValueShape::Number
            }
            BinlogType::Float { .. } => ValueShape::Float,
            BinlogType::Date => ValueShape::Date,
            BinlogType::DateTime { .. } => ValueShape::DateTime,
            BinlogType::Timestamp { .. } => ValueShape::Timestamp,
            kind if kind.is_bytes() => ValueShape::Bytes,
            _ => ValueShape::Text,
        }
    }

    /// The name of the type, as far as it is in the log.
    pub fn name(&self) -> &'static str {
        match self {
            BinlogType::Int { bytes: 1, .. } => "tinyint",
            BinlogType::Int { bytes: 2, .. } => "smallint",
            BinlogType::Int { bytes: 3, .. } => "mediumint",
            BinlogType::Int { bytes: 4, .. } => "int",
            BinlogType::Int { .. } => "bigint",
            BinlogType::Float { .. } => "float",
            BinlogType::Double { .. } => "double",
            BinlogType::Decimal { .. } => "decimal",
            BinlogType::Text {
                collation: BINARY, ..
            } => "bytes",
            BinlogType::Text { .. } => "text",
            BinlogType::Enum { .. } => "enum",
            BinlogType::Set { .. } => "set",
            BinlogType::Bit { .. } => "bit",
            BinlogType::Year => "year",
            BinlogType::Date => "date",
            BinlogType::Time { .. } => "time",
            BinlogType::DateTime { .. } => "datetime",
            BinlogType::Timestamp { .. } => "timestamp",
            BinlogType::Json { .. } => "json",
            BinlogType::Other(_) => "other",
        }
    }
}

/// Reads a value; `None` if it ends too early or is of a type that is not read.
pub fn cell(kind: &BinlogType, reader: &mut Reader) -> Option<Bytes> {
    let mut out = String::new();
    match kind {
        BinlogType::Int { bytes, unsigned } => {
            let value = reader.number(*bytes)?;
            let shift = 64 - 8 * bytes;
            // Writing to memory does not fail.
            let _ = match unsigned {
                true => write!(out, "{value}"),
                false => write!(out, "{}", (value << shift).cast_signed() >> shift),
            };
        }
        BinlogType::Float { .. } => {
            let _ = write!(out, "{}", f32::from_bits(reader.number(4)? as u32));
        }
        BinlogType::Double { .. } => {
            let _ = write!(out, "{}", f64::from_bits(reader.number(8)?));
        }
        BinlogType::Decimal { digits, scale, .. } => decimal(*digits, *scale, reader, &mut out)?,
        BinlogType::Text { length, pad, .. } => {
            let length = usize::try_from(reader.number(*length)?).ok()?;
            let value = reader.bytes(length)?;
            if !kind.is_bytes() {
                return Some(value);
            }
            hex(&value, &mut out);
            out.extend(std::iter::repeat_n("00", pad.saturating_sub(length)));
        }
        BinlogType::Enum { bytes, members } => {
            let at = reader.number(*bytes)?;
            // 0 is the value of what was no member.
            let member = usize::try_from(at).ok()?.checked_sub(1);
            out.push_str(member.map_or(Some(""), |at| members.get(at).map(String::as_str))?);
        }
        BinlogType::Set { bytes, members } => {
            let bits = reader.number(*bytes)?;
            // Members beyond the bits of a value are none of it.
            let set = (0..u64::BITS)
                .zip(members)
                .filter(|(at, _)| bits >> at & 1 == 1);
            let set: Vec<_> = set.map(|(_, member)| member.as_str()).collect();
            out.push_str(&set.join(","));
        }
        BinlogType::Bit { bits } => hex(&reader.bytes(bits.div_ceil(8))?, &mut out),
        BinlogType::Year => {
            let year = reader.u8()?;
            let _ = match year {
                0 => write!(out, "0"),
                year => write!(out, "{}", 1900 + u32::from(year)),
            };
        }
        BinlogType::Date => {
            let value = reader.number(3)?;
            let _ = write!(
                out,
                "{:04}-{:02}-{:02}",
                value >> 9,
                value >> 5 & 15,
                value & 31
            );
        }
        BinlogType::DateTime { digits } => {
            // A bit of sign, 17 bits for year and month, 5 for the day, 5, 6 and 6 for the time.
            let value = reader.high(5)?.checked_sub(0x80_0000_0000)?;
            let (date, time) = (value >> 17, value & 0x1_ffff);
            let (month, day) = (date >> 5, date & 31);
            let _ = write!(out, "{:04}-{:02}-{day:02} ", month / 13, month % 13);
            let _ = write!(
                out,
                "{:02}:{:02}:{:02}",
                time >> 12,
                time >> 6 & 63,
                time & 63
            );
            fraction(*digits, reader, &mut out)?;
        }
        BinlogType::Timestamp { digits } => {
            let seconds = reader.high(4)?;
            if seconds == 0 {
                out.push_str("0000-00-00 00:00:00");
            } else {
                let mut text = Vec::new();
                crate::write_time(i64::try_from(seconds).ok()? * 1_000_000, &mut text);
                out.push_str(std::str::from_utf8(text.get(..19)?).ok()?);
            }
            fraction(*digits, reader, &mut out)?;
        }
        BinlogType::Time { digits } => time(*digits, reader, &mut out)?,
        BinlogType::Json { length } => {
            let length = usize::try_from(reader.number(*length)?).ok()?;
            return json_text(&reader.bytes(length)?);
        }
        BinlogType::Other(_) => return None,
    }
    Some(out.into())
}

/// Digits behind the seconds, of which no server has more than 6.
fn digits(measures: &mut Reader) -> Option<usize> {
    Some(usize::from(measures.u8()?)).filter(|digits| *digits <= 6)
}

fn hex(bytes: &[u8], out: &mut String) {
    out.push_str("0x");
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
}

fn fraction(digits: usize, reader: &mut Reader, out: &mut String) -> Option<()> {
    let bytes = digits.div_ceil(2);
    if digits > 0 {
        // Two digits a byte.
        let value = reader.high(bytes)?;
        let text = format!("{value:0width$}", width = bytes * 2);
        out.push('.');
        out.push_str(text.get(..digits)?);
    }
    Some(())
}

/// A bit of sign, 10 bits of hours, 6 of minutes, 6 of seconds and the fraction, all as one number with an offset.
fn time(digits: usize, reader: &mut Reader, out: &mut String) -> Option<()> {
    let bytes = digits.div_ceil(2);
    let bits = 24 + 8 * bytes;
    let value = reader.high(3 + bytes)?.cast_signed() - (1_i64 << (bits - 1));
    let whole = value.unsigned_abs();
    let (seconds, rest) = (whole >> (8 * bytes), whole & ((1 << (8 * bytes)) - 1));
    let sign = if value < 0 { "-" } else { "" };
    let _ = write!(
        out,
        "{sign}{:02}:{:02}:{:02}",
        seconds >> 12 & 0x3ff,
        seconds >> 6 & 63,
        seconds & 63
    );
    if digits > 0 {
        let text = format!("{rest:0width$}", width = bytes * 2);
        out.push('.');
        out.push_str(text.get(..digits)?);
    }
    Some(())
}

/// Nine digits in four bytes, the rest in as few as they take; all bits turned for a negative number, the first always.
pub fn decimal(digits: usize, scale: usize, reader: &mut Reader, out: &mut String) -> Option<()> {
    const BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];
    let whole = digits.checked_sub(scale)?;
    let size = whole / 9 * 4 + BYTES[whole % 9] + scale / 9 * 4 + BYTES[scale % 9];
    let mut bytes = reader.bytes(size)?.to_vec();
    let negative = bytes.first()? & 0x80 == 0;
    bytes[0] ^= 0x80;
    if negative {
        out.push('-');
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
    }
    let mut reader = Reader::new(&bytes.into());
    let mut text = String::new();
    let mut group = |digits: usize, text: &mut String| {
        if digits > 0 {
            let value = reader.high(BYTES[digits])?;
            let _ = write!(text, "{value:0digits$}");
        }
        Some(())
    };
    group(whole % 9, &mut text)?;
    for _ in 0..whole / 9 {
        group(9, &mut text)?;
    }
    let number = text.trim_start_matches('0');
    out.push_str(if number.is_empty() { "0" } else { number });
    if scale > 0 {
        text.clear();
        for _ in 0..scale / 9 {
            group(9, &mut text)?;
        }
        group(scale % 9, &mut text)?;
        out.push('.');
        out.push_str(&text);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: BinlogType, bytes: &[u8]) -> Option<String> {
        let mut reader = Reader::new(&Bytes::copy_from_slice(bytes));
        let value = cell(&kind, &mut reader)?;
        assert!(reader.rest.is_empty(), "{kind:?} left something");
        Some(String::from_utf8_lossy(&value).into_owned())
    }

    #[test]
    fn values_are_what_the_server_writes() {
        let decimal = |digits, scale| BinlogType::Decimal {
            digits,
            scale,
            unsigned: false,
        };
        let int = |bytes, unsigned| BinlogType::Int { bytes, unsigned };
        for (kind, bytes, expected) in [
            (int(1, false), &b"\xff"[..], "-1"),
            (int(1, true), b"\xff", "255"),
            (int(3, false), b"\x00\x00\x80", "-8388608"),
            (
                int(8, true),
                b"\xff\xff\xff\xff\xff\xff\xff\xff",
                "18446744073709551615",
            ),
            // The example of the server's own source.
            (
                decimal(14, 4),
                b"\x81\x0d\xfb\x38\xd2\x04\xd2",
                "1234567890.1234",
            ),
            (
                decimal(14, 4),
                b"\x7e\xf2\x04\xc7\x2d\xfb\x2d",
                "-1234567890.1234",
            ),
            (decimal(4, 2), b"\x80\x05", "0.05"),
            (BinlogType::Date, b"\x00\x00\x00", "0000-00-00"),
            (BinlogType::Date, b"\x5d\xd0\x0f", "2024-02-29"),
            (
                BinlogType::DateTime { digits: 0 },
                b"\x00\x00\x00\x00\x00",
                "0000-00-00 00:00:00",
            ),
            (BinlogType::Time { digits: 0 }, b"\x80\x00\x01", "00:00:01"),
            (BinlogType::Time { digits: 0 }, b"\x7f\xff\xff", "-00:00:01"),
            (
                BinlogType::Timestamp { digits: 6 },
                b"\x65\xdf\xc9\x00\x00\x00\x01",
                "2024-02-29 00:00:00.000001",
            ),
            (BinlogType::Year, b"\x7c", "2024"),
            (BinlogType::Bit { bits: 10 }, b"\x02\x01", "0x0201"),
            (
                BinlogType::Text {
                    length: 1,
                    collation: 45,
                    pad: 0,
                    of_type: TextType::Text,
                },
                b"\x02ab",
                "ab",
            ),
            (
                BinlogType::Text {
                    length: 2,
                    collation: 63,
                    pad: 0,
                    of_type: TextType::Text,
                },
                b"\x02\x00\x00\xff",
                "0x00ff",
            ),
            (
                BinlogType::Set {
                    bytes: 1,
                    members: vec!["a".into(), "b".into(), "c".into()],
                },
                b"\x05",
                "a,c",
            ),
            (
                BinlogType::Enum {
                    bytes: 1,
                    members: vec!["a".into(), "b".into()],
                },
                b"\x02",
                "b",
            ),
        ] {
            if expected == "0000-00-00 00:00:00" {
                // Below the offset: the zero date of the type is the offset itself.
                assert_eq!(
                    read(kind.clone(), b"\x80\x00\x00\x00\x00").as_deref(),
                    Some(expected)
                );
                continue;
            }
            assert_eq!(
                read(kind.clone(), bytes).as_deref(),
                Some(expected),
                "{kind:?}"
            );
            // Cut, it is not read.
            assert!(read_cut(&kind, &bytes[..bytes.len() - 1]), "{kind:?}");
        }
    }

    fn read_cut(kind: &BinlogType, bytes: &[u8]) -> bool {
        cell(kind, &mut Reader::new(&Bytes::copy_from_slice(bytes))).is_none()
    }

    #[test]
    fn a_set_has_as_many_members_as_bits() {
        let members: Vec<_> = (0..70).map(|at| format!("m{at}")).collect();
        let kind = BinlogType::Set { bytes: 8, members };
        let value = read(kind, b"\x01\0\0\0\0\0\0\x80");
        assert_eq!(value.as_deref(), Some("m0,m63"));
    }

    #[test]
    fn more_digits_than_a_server_has_are_refused() {
        let of = |digits: u8| {
            let mut measures = Reader::new(&Bytes::copy_from_slice(&[digits]));
            BinlogType::read(19, &mut measures)
        };
        assert_eq!(of(6), Some(BinlogType::Time { digits: 6 }));
        assert_eq!(of(7), None);
    }
}
