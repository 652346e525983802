//! MySQL's binary form of JSON documents, as the text that the server writes for them.
//!
//! A document is the type of its value in a byte and the value. Objects and arrays begin with their number of elements and their
//! size, go on with the entries of their keys and values, and hold what does not fit in an entry further on; places are counted
//! from the number of elements. In the small form numbers and places have two bytes, in the large form four. (MySQL's
//! `sql/json_binary.h`)

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::cell::decimal;
use super::wire::Reader;
use crate::limits::{JSON_DEPTH_MAX, JSON_TEXT_FACTOR};

/// The text of a document; `None` for one that is not whole, is nested too deeply, or uses its bytes more than once.
pub fn json_text(document: &Bytes) -> Option<Bytes> {
    let mut writer = JsonWriter {
        text: String::new(),
        bytes_max: document.len().saturating_add(8) * JSON_TEXT_FACTOR,
    };
    match document.first() {
        // What a column that must not be null holds where it was ignored that it would be.
        None => writer.text.push_str("null"),
        Some(kind) => writer.value(*kind, document.get(1..)?, 0)?,
    }
    Some(writer.text.into())
}

struct JsonWriter {
    text: String,
    bytes_max: usize,
}

/// The places of an object or an array.
struct Container<'a> {
    bytes: &'a [u8],
    is_object: bool,
    /// Bytes of a number or a place.
    width: usize,
    count: usize,
}

impl<'a> Container<'a> {
    fn read(bytes: &'a [u8], is_object: bool, width: usize) -> Option<Container<'a>> {
        let count = usize::try_from(number(bytes, width)?).ok()?;
        let size = usize::try_from(number(bytes.get(width..)?, width)?).ok()?;
        let bytes = bytes.get(..size)?;
        Some(Container {
            bytes,
            is_object,
            width,
            count,
        })
    }

    /// The key at this place.
    fn key(&self, at: usize) -> Option<&'a str> {
        let entry = self.bytes.get(2 * self.width + at * (self.width + 2)..)?;
        let place = usize::try_from(number(entry, self.width)?).ok()?;
        let length = usize::try_from(number(entry.get(self.width..)?, 2)?).ok()?;
        std::str::from_utf8(self.bytes.get(place..)?.get(..length)?).ok()
    }

    /// The type and the bytes of the value at this place.
    fn value(&self, at: usize) -> Option<(u8, &'a [u8])> {
        let keys = if self.is_object { self.width + 2 } else { 0 };
        let begin = 2 * self.width + self.count * keys + at * (1 + self.width);
        let (kind, entry) = self.bytes.get(begin..)?.split_first()?;
        let held = match *kind {
            LITERAL | INT16 | UINT16 => true,
            INT32 | UINT32 => self.width == 4,
            _ => false,
        };
        if held {
            return Some((*kind, entry));
        }
        let place = usize::try_from(number(entry, self.width)?).ok()?;
        Some((*kind, self.bytes.get(place..)?))
    }
}

const SMALL_OBJECT: u8 = 0;
const LARGE_OBJECT: u8 = 1;
const SMALL_ARRAY: u8 = 2;
const LARGE_ARRAY: u8 = 3;
const LITERAL: u8 = 4;
const INT16: u8 = 5;
const UINT16: u8 = 6;
const INT32: u8 = 7;
const UINT32: u8 = 8;
const INT64: u8 = 9;
const UINT64: u8 = 10;
const DOUBLE: u8 = 11;
const STRING: u8 = 12;
const OPAQUE: u8 = 15;

impl JsonWriter {
    fn value(&mut self, kind: u8, bytes: &[u8], depth: usize) -> Option<()> {
        if depth > JSON_DEPTH_MAX || self.text.len() > self.bytes_max {
            return None;
        }
        // Writing to memory does not fail.
        let _ = match kind {
            SMALL_OBJECT => self.container(&Container::read(bytes, true, 2)?, depth)?,
            LARGE_OBJECT => self.container(&Container::read(bytes, true, 4)?, depth)?,
            SMALL_ARRAY => self.container(&Container::read(bytes, false, 2)?, depth)?,
            LARGE_ARRAY => self.container(&Container::read(bytes, false, 4)?, depth)?,
            LITERAL => match bytes.first()? {
                0 => self.text.write_str("null"),
                1 => self.text.write_str("true"),
                2 => self.text.write_str("false"),
                _ => return None,
            },
            INT16 => write!(self.text, "{}", (number(bytes, 2)? as u16).cast_signed()),
            UINT16 => write!(self.text, "{}", number(bytes, 2)?),
            INT32 => write!(self.text, "{}", (number(bytes, 4)? as u32).cast_signed()),
            UINT32 => write!(self.text, "{}", number(bytes, 4)?),
            INT64 => write!(self.text, "{}", number(bytes, 8)?.cast_signed()),
            UINT64 => write!(self.text, "{}", number(bytes, 8)?),
            DOUBLE => self.double(f64::from_bits(number(bytes, 8)?)),
            STRING => {
                let text = std::str::from_utf8(counted(bytes)?).ok()?;
                self.string(text);
                Ok(())
            }
            OPAQUE => {
                let (kind, rest) = bytes.split_first()?;
                self.opaque(*kind, counted(rest)?)?;
                Ok(())
            }
            _ => return None,
        };
        Some(())
    }

    fn container(&mut self, container: &Container<'_>, depth: usize) -> Option<std::fmt::Result> {
        let (open, close) = if container.is_object {
            ('{', '}')
        } else {
            ('[', ']')
        };
        self.text.push(open);
        for at in 0..container.count {
            if at > 0 {
                self.text.push_str(", ");
            }
            if container.is_object {
                self.string(container.key(at)?);
                self.text.push_str(": ");
            }
            let (kind, bytes) = container.value(at)?;
            self.value(kind, bytes, depth + 1)?;
        }
        self.text.push(close);
        Some(Ok(()))
    }

    /// With the digits that tell it from its neighbours, and a sign that it is no whole number.
    fn double(&mut self, value: f64) -> std::fmt::Result {
        let size = value.abs();
        if size != 0.0 && !(1e-5..1e15).contains(&size) {
            return write!(self.text, "{value:e}");
        }
        let from = self.text.len();
        write!(self.text, "{value}")?;
        match self.text[from..].contains('.') {
            true => Ok(()),
            false => self.text.write_str(".0"),
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for char in text.chars() {
            match char {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                char if char < ' ' => {
                    let _ = write!(self.text, "\\u{:04x}", u32::from(char));
                }
                char => self.text.push(char),
            }
        }
        self.text.push('"');
    }

    /// A value of a type of SQL that JSON does not have.
    fn opaque(&mut self, kind: u8, bytes: &[u8]) -> Option<()> {
        match kind {
            246 => {
                let (digits, scale) = (*bytes.first()?, *bytes.get(1)?);
                let mut reader = Reader::new(&Bytes::copy_from_slice(bytes.get(2..)?));
                decimal(digits.into(), scale.into(), &mut reader, &mut self.text)?;
            }
            7 | 10 | 11 | 12 => {
                let packed = number(bytes, 8)?.cast_signed();
                let (whole, micros) = (
                    packed.unsigned_abs() >> 24,
                    packed.unsigned_abs() & 0xff_ffff,
                );
                let (date, time) = (whole >> 17, whole & 0x1_ffff);
                let (month, day) = (date >> 5, date & 31);
                let (hour, minute, second) = (time >> 12, time >> 6 & 63, time & 63);
                let _ = match kind {
                    10 => write!(
                        self.text,
                        "\"{:04}-{:02}-{day:02}\"",
                        month / 13,
                        month % 13
                    ),
                    11 => {
                        let sign = if packed < 0 { "-" } else { "" };
                        let hour = whole >> 12;
                        write!(
                            self.text,
                            "\"{sign}{hour:02}:{minute:02}:{second:02}.{micros:06}\""
                        )
                    }
                    _ => write!(
                        self.text,
                        "\"{:04}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}\"",
                        month / 13,
                        month % 13
                    ),
                };
            }
            kind => {
                let _ = write!(
                    self.text,
                    "\"base64:type{kind}:{}\"",
                    STANDARD.encode(bytes)
                );
            }
        }
        Some(())
    }
}

/// A whole number of so many bytes, the lowest first.
fn number(bytes: &[u8], width: usize) -> Option<u64> {
    let bytes = bytes.get(..width)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)),
    )
}

/// The bytes behind their number, which has seven bits in each of at most five bytes, the lowest first.
fn counted(bytes: &[u8]) -> Option<&[u8]> {
    let mut length = 0;
    for (at, byte) in bytes.iter().take(5).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return bytes.get(at + 1..)?.get(..length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Option<String> {
        let text = json_text(&Bytes::copy_from_slice(bytes))?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// `{"a": [1, null], "b": "x\n"}`
    const SMALL: &[u8] =
        b"\x00\x02\x00\x22\x00\x12\x00\x01\x00\x13\x00\x01\x00\x02\x14\x00\x0c\x1e\x00ab\
        \x02\x00\x0a\x00\x05\x01\x00\x04\x00\x00\x02x\n\x00";

    #[test]
    fn documents_are_what_the_server_writes() {
        assert_eq!(
            text(SMALL).as_deref(),
            Some(r#"{"a": [1, null], "b": "x\n"}"#)
        );
        for (bytes, expected) in [
            (&b""[..], "null"),
            (b"\x04\x01", "true"),
            (b"\x05\xfe\xff", "-2"),
            (b"\x08\xff\xff\xff\xff", "4294967295"),
            (b"\x0b\x00\x00\x00\x00\x00\x00\xf8\x3f", "1.5"),
            (b"\x0b\x00\x00\x00\x00\x00\x00\x59\x40", "100.0"),
            (b"\x0f\xf6\x04\x04\x02\x80\x05", "0.05"),
            (
                b"\x0f\x0a\x08\x00\x00\x00\x00\x00\xba\xb2\x19",
                "\"2024-02-29\"",
            ),
            (b"\x0f\x0f\x02ab", "\"base64:type15:YWI=\""),
        ] {
            assert_eq!(text(bytes).as_deref(), Some(expected), "{bytes:x?}");
        }
        for end in 1..SMALL.len() - 1 {
            assert_eq!(text(&SMALL[..end]), None, "cut at {end}");
        }
    }

    /// An array whose elements are the array itself, and one whose elements are one long text.
    #[test]
    fn bytes_that_are_used_again_and_again_are_refused() {
        assert_eq!(text(b"\x02\x02\x00\x0a\x00\x02\x00\x00\x02\x00\x00"), None);
        let mut bytes = vec![2, 0, 1, 0, 0];
        let place = 4 + 3 * 256_u16;
        for _ in 0..256 {
            bytes.push(STRING);
            bytes.extend(place.to_le_bytes());
        }
        bytes.extend([0xff, 0x7f]);
        bytes.extend(std::iter::repeat_n(b'x', 0x3fff));
        let size = u16::try_from(bytes.len() - 1).unwrap_or(u16::MAX);
        bytes[3..5].copy_from_slice(&size.to_le_bytes());
        assert_eq!(text(&bytes), None);
    }
}
