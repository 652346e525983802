//! Types of columns: how their values are written for people, and how values are sent.

use std::borrow::Cow;
use std::net::IpAddr;

use busbar_connector::{ColumnType, SqlValue};
use busbar_event::time;

use super::number::{decimal_text, read_decimal, varint_bytes, varint_text};

/// A type of Cassandra.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CqlType {
    Ascii,
    Bigint,
    Blob,
    Boolean,
    Counter,
    Date,
    Decimal,
    Double,
    Duration,
    Float,
    Inet,
    Int,
    List(Box<CqlType>),
    Map(Box<CqlType>, Box<CqlType>),
    Set(Box<CqlType>),
    Smallint,
    Text,
    Time,
    Timestamp,
    Timeuuid,
    Tinyint,
    Tuple(Vec<CqlType>),
    Udt(Vec<(String, CqlType)>),
    Uuid,
    Varint,
    /// Floating-point numbers of 32 bits.
    Vector,
    /// One that is known by the name of its class only.
    Other(String),
}

/// A value that is to be sent.
#[derive(Clone, Debug)]
pub enum CqlCell<'a> {
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Cow<'a, str>),
    /// Microseconds since 1970 in UTC.
    Time(i64),
    /// Days since 1970.
    Day(i64),
    Bytes(Cow<'a, [u8]>),
    /// Digits, and how many of them stand behind the point.
    Decimal(i128, i32),
}

/// The day 0 of 1970 as a `date`.
const DATE_ZERO: i64 = 1 << 31;
const CLASSES: &str = "org.apache.cassandra.db.marshal.";
/// Whole numbers up to this are floating-point numbers of 64 bits, too.
const FLOAT_EXACT: i128 = 1 << 53;
const DAY_NANOS: i64 = 86_400_000_000_000;

impl CqlType {
    /// The type that the protocol knows by the name of its class only.
    pub fn of_class(class: &str) -> CqlType {
        let name = class.strip_prefix(CLASSES).unwrap_or(class);
        let floats = || {
            let inner = name.strip_prefix("VectorType(")?;
            inner.trim_start_matches(CLASSES).strip_prefix("FloatType")
        };
        match name {
            "DurationType" => CqlType::Duration,
            _ if floats().is_some() => CqlType::Vector,
            _ => CqlType::Other(name.to_owned()),
        }
    }

    /// The type of this name in the catalogue; none for those that have parts.
    pub fn of_name(name: &str) -> Option<CqlType> {
        Some(match name {
            "ascii" => CqlType::Ascii,
            "bigint" => CqlType::Bigint,
            "blob" => CqlType::Blob,
            "boolean" => CqlType::Boolean,
            "counter" => CqlType::Counter,
            "date" => CqlType::Date,
            "decimal" => CqlType::Decimal,
            "double" => CqlType::Double,
            "duration" => CqlType::Duration,
            "float" => CqlType::Float,
            "inet" => CqlType::Inet,
            "int" => CqlType::Int,
            "smallint" => CqlType::Smallint,
            "text" | "varchar" => CqlType::Text,
            "time" => CqlType::Time,
            "timestamp" => CqlType::Timestamp,
            "timeuuid" => CqlType::Timeuuid,
            "tinyint" => CqlType::Tinyint,
            "uuid" => CqlType::Uuid,
            "varint" => CqlType::Varint,
            _ => return None,
        })
    }

    /// What holds its values without loss.
    pub fn column_type(&self) -> ColumnType {
        match self {
            CqlType::Boolean => ColumnType::Bool,
            CqlType::Bigint | CqlType::Counter | CqlType::Int => ColumnType::Int,
            CqlType::Smallint | CqlType::Tinyint => ColumnType::Int,
            CqlType::Double | CqlType::Float => ColumnType::Float,
            CqlType::Timestamp => ColumnType::Time,
            CqlType::Blob => ColumnType::Binary,
            CqlType::List(_) | CqlType::Map(..) | CqlType::Set(_) => ColumnType::Json,
            CqlType::Tuple(_) | CqlType::Udt(_) | CqlType::Vector => ColumnType::Json,
            _ => ColumnType::Text,
        }
    }

    /// Whether a value of no bytes is null: texts and bytes may be empty.
    fn is_null(&self, value: &[u8]) -> bool {
        value.is_empty() && !matches!(self, CqlType::Text | CqlType::Ascii | CqlType::Blob)
    }

    /// A value as a text, bytes as they are, those with parts as JSON; none for null.
    ///
    /// # Errors
    /// The bytes are no value of the type.
    pub fn text<'a>(&self, value: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, NoValue> {
        if self.is_null(value) {
            return Ok(None);
        }
        if matches!(self, CqlType::Text | CqlType::Ascii | CqlType::Blob) {
            return Ok(Some(Cow::Borrowed(value)));
        }
        let mut out = Vec::new();
        self.write(value, &mut out).ok_or(NoValue)?;
        Ok(Some(Cow::Owned(out)))
    }

    /// Writes a value as JSON. Whole numbers of 64 bits are numbers, larger ones and decimals texts, bytes `0x00ff`.
    ///
    /// # Errors
    /// The bytes are no value of the type.
    pub fn write_json(&self, value: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), NoValue> {
        self.json(value, out).ok_or(NoValue)
    }

    fn json(&self, value: Option<&[u8]>, out: &mut Vec<u8>) -> Option<()> {
        let Some(value) = value.filter(|value| !self.is_null(value)) else {
            out.extend_from_slice(b"null");
            return Some(());
        };
        match self.column_type() {
            ColumnType::Bool | ColumnType::Int | ColumnType::Json => self.write(value, out),
            ColumnType::Binary => {
                out.extend_from_slice(b"\"0x");
                write_hex(value, out);
                out.push(b'"');
                Some(())
            }
            _ => {
                let mut text = Vec::new();
                match self {
                    CqlType::Text | CqlType::Ascii => text.extend_from_slice(value),
                    _ => self.write(value, &mut text)?,
                }
                let finite = matches!(self, CqlType::Double | CqlType::Float)
                    && text.last().is_some_and(u8::is_ascii_digit);
                if finite {
                    out.extend_from_slice(&text);
                    return Some(());
                }
                // A text has no failure as JSON.
                let _ = serde_json::to_writer(out, &String::from_utf8_lossy(&text));
                Some(())
            }
        }
    }

    /// Writes a value that is not null. Those with parts are JSON.
    fn write(&self, value: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let fixed = |bytes: usize| (value.len() == bytes).then(|| whole(value));
        let mut say =
            |text: &dyn std::fmt::Display| out.extend_from_slice(text.to_string().as_bytes());
        match self {
            CqlType::Boolean => say(&(fixed(1)? != 0)),
            CqlType::Tinyint => say(&fixed(1)?),
            CqlType::Smallint => say(&fixed(2)?),
            CqlType::Int => say(&fixed(4)?),
            CqlType::Bigint | CqlType::Counter => say(&fixed(8)?),
            CqlType::Varint => say(&varint_text(value)?),
            CqlType::Decimal => say(&decimal_text(value)?),
            CqlType::Float => {
                let number = f32::from_be_bytes(value.try_into().ok()?);
                say(&float_text(
                    number.is_finite(),
                    f64::from(number),
                    &format!("{number:?}"),
                ));
            }
            CqlType::Double => {
                let number = f64::from_be_bytes(value.try_into().ok()?);
                say(&float_text(
                    number.is_finite(),
                    number,
                    &format!("{number:?}"),
                ));
            }
            CqlType::Timestamp => {
                let millis = fixed(8)?;
                let micros = millis.checked_mul(1000).and_then(|m| i64::try_from(m).ok());
                match micros.filter(|micros| time::is_written(*micros)) {
                    Some(micros) => time::write(micros, out),
                    None => say(&millis),
                }
            }
            CqlType::Date => {
                let days = u32::from_be_bytes(value.try_into().ok()?);
                let days = i64::from(days) - DATE_ZERO;
                match time::is_written(days.saturating_mul(86_400_000_000)) {
                    true => time::write_date(days, out),
                    false => say(&days),
                }
            }
            CqlType::Time => {
                let nanos = i64::try_from(fixed(8)?).ok()?;
                let (second, nano) = (
                    nanos.div_euclid(1_000_000_000),
                    nanos.rem_euclid(1_000_000_000),
                );
                let (hour, minute) = (second / 3600, second / 60 % 60);
                say(&format!(
                    "{hour:02}:{minute:02}:{:02}.{nano:09}",
                    second % 60
                ));
            }
            CqlType::Duration => say(&duration_text(value)?),
            CqlType::Uuid | CqlType::Timeuuid => {
                if value.len() != 16 {
                    return None;
                }
                for (at, part) in [0..4, 4..6, 6..8, 8..10, 10..16].into_iter().enumerate() {
                    if at > 0 {
                        out.push(b'-');
                    }
                    write_hex(&value[part], out);
                }
            }
            CqlType::Inet => {
                let address = match value.len() {
                    4 => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
                    _ => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
                };
                say(&address);
            }
            CqlType::Text | CqlType::Ascii | CqlType::Blob => out.extend_from_slice(value),
            CqlType::Other(_) => write_hex(value, out),
            CqlType::Vector => {
                let numbers = value.chunks(4).map(|chunk| <[u8; 4]>::try_from(chunk).ok());
                out.push(b'[');
                for (at, number) in numbers.enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    CqlType::Float.json(Some(&number?), out)?;
                }
                out.push(b']');
            }
            CqlType::List(of) | CqlType::Set(of) => {
                let mut parts = CqlParts(value);
                out.push(b'[');
                for at in 0..parts.count()? {
                    if at > 0 {
                        out.push(b',');
                    }
                    of.json(parts.next()?, out)?;
                }
                out.push(b']');
            }
            CqlType::Map(key, of) => {
                let mut parts = CqlParts(value);
                out.push(b'{');
                for at in 0..parts.count()? {
                    if at > 0 {
                        out.push(b',');
                    }
                    key.member(parts.next()?, out)?;
                    of.json(parts.next()?, out)?;
                }
                out.push(b'}');
            }
            CqlType::Tuple(of) => {
                let mut parts = CqlParts(value);
                out.push(b'[');
                for (at, of) in of.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    of.json(parts.next_or_null()?, out)?;
                }
                out.push(b']');
            }
            CqlType::Udt(fields) => {
                let mut parts = CqlParts(value);
                out.push(b'{');
                for (at, (name, of)) in fields.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    CqlType::Text.member(Some(name.as_bytes()), out)?;
                    of.json(parts.next_or_null()?, out)?;
                }
                out.push(b'}');
            }
        }
        Some(())
    }

    /// Writes a key of a JSON object, which is a text whatever its type is.
    fn member(&self, value: Option<&[u8]>, out: &mut Vec<u8>) -> Option<()> {
        let mut json = Vec::new();
        self.json(value, &mut json)?;
        match json.first() {
            Some(b'"') => out.extend_from_slice(&json),
            _ => {
                // A text has no failure as JSON.
                let _ = serde_json::to_writer(&mut *out, &String::from_utf8_lossy(&json));
            }
        }
        out.push(b':');
        Some(())
    }

    /// Appends the bytes of a value that keep it as it is, or rounded where it may be; none where there are no such bytes. Numbers,
    /// times and the like may be given as texts.
    pub fn encode(&self, cell: &CqlCell<'_>, lossy: bool, out: &mut Vec<u8>) -> Option<()> {
        if let CqlCell::Text(text) = cell
            && !matches!(self, CqlType::Text | CqlType::Ascii)
        {
            return self.encode(&self.parsed(text)?, lossy, out);
        }
        match (self, cell) {
            (CqlType::Boolean, CqlCell::Bool(value)) => out.push(u8::from(*value)),
            (CqlType::Tinyint, cell) => out.extend(i8::try_from(int(cell)?).ok()?.to_be_bytes()),
            (CqlType::Smallint, cell) => out.extend(i16::try_from(int(cell)?).ok()?.to_be_bytes()),
            (CqlType::Int, cell) => out.extend(i32::try_from(int(cell)?).ok()?.to_be_bytes()),
            (CqlType::Bigint | CqlType::Counter, cell) => {
                out.extend(i64::try_from(int(cell)?).ok()?.to_be_bytes());
            }
            (CqlType::Varint, cell) => out.extend(varint_bytes(int(cell)?)),
            (CqlType::Decimal, cell) => {
                let (digits, scale) = match cell {
                    CqlCell::Decimal(digits, scale) => (*digits, *scale),
                    // A floating-point number is the decimal that it is written as.
                    CqlCell::Float(value) if value.is_finite() => read_decimal(&value.to_string())?,
                    cell => (int(cell)?, 0),
                };
                out.extend(scale.to_be_bytes());
                out.extend(varint_bytes(digits));
            }
            (CqlType::Double, cell) => out.extend(float(cell)?.to_be_bytes()),
            (CqlType::Float, cell) => {
                let value = float(cell)?;
                let rounded = value as f32;
                let same = f64::from(rounded) == value || value.is_nan();
                let kept = same || lossy && rounded.is_finite();
                if !kept {
                    return None;
                }
                out.extend(rounded.to_be_bytes());
            }
            (CqlType::Text, CqlCell::Text(text)) => out.extend(text.as_bytes()),
            (CqlType::Ascii, CqlCell::Text(text)) if text.is_ascii() => out.extend(text.as_bytes()),
            (CqlType::Text | CqlType::Ascii, CqlCell::Int(value)) => {
                out.extend(value.to_string().bytes())
            }
            (CqlType::Text | CqlType::Ascii, CqlCell::Float(value)) => {
                out.extend(value.to_string().bytes())
            }
            (CqlType::Text | CqlType::Ascii, CqlCell::Bool(value)) => {
                out.extend(value.to_string().bytes())
            }
            (CqlType::Text | CqlType::Ascii, CqlCell::Time(micros)) => time::write(*micros, out),
            (CqlType::Timestamp, CqlCell::Time(micros)) => {
                if micros.rem_euclid(1000) != 0 && !lossy {
                    return None;
                }
                out.extend(micros.div_euclid(1000).to_be_bytes());
            }
            (CqlType::Date, CqlCell::Day(days)) => {
                out.extend(
                    u32::try_from(days.checked_add(DATE_ZERO)?)
                        .ok()?
                        .to_be_bytes(),
                );
            }
            (CqlType::Time, CqlCell::Int(nanos)) if (0..i128::from(DAY_NANOS)).contains(nanos) => {
                out.extend(i64::try_from(*nanos).ok()?.to_be_bytes());
            }
            (
                CqlType::Blob | CqlType::Uuid | CqlType::Timeuuid | CqlType::Inet,
                CqlCell::Bytes(bytes),
            ) => {
                out.extend_from_slice(bytes);
            }
            _ => return None,
        }
        Some(())
    }

    /// A text as a value of this type.
    fn parsed<'a>(&self, text: &str) -> Option<CqlCell<'a>> {
        let text = text.trim();
        Some(match self {
            CqlType::Boolean => CqlCell::Bool(text.parse().ok()?),
            CqlType::Tinyint | CqlType::Smallint | CqlType::Int => CqlCell::Int(text.parse().ok()?),
            CqlType::Bigint | CqlType::Varint | CqlType::Counter => {
                CqlCell::Int(text.parse().ok()?)
            }
            CqlType::Decimal => {
                let (digits, scale) = read_decimal(text)?;
                CqlCell::Decimal(digits, scale)
            }
            CqlType::Double | CqlType::Float => CqlCell::Float(text.parse().ok()?),
            CqlType::Timestamp => CqlCell::Time(time::parse(text)?),
            CqlType::Date => {
                let micros = time::parse(&format!("{text}T00:00:00Z"))?;
                CqlCell::Day(micros.div_euclid(86_400_000_000))
            }
            CqlType::Time => CqlCell::Int(clock_nanos(text)?.into()),
            CqlType::Uuid | CqlType::Timeuuid => CqlCell::Bytes(uuid_bytes(text)?.to_vec().into()),
            CqlType::Inet => CqlCell::Bytes(match text.parse().ok()? {
                IpAddr::V4(address) => address.octets().to_vec().into(),
                IpAddr::V6(address) => address.octets().to_vec().into(),
            }),
            _ => return None,
        })
    }
}

/// Bytes that are no value of their type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoValue;

impl<'a> CqlCell<'a> {
    /// The value; none for null.
    pub fn of(value: &'a SqlValue) -> Option<CqlCell<'a>> {
        Some(match value {
            SqlValue::Null => return None,
            SqlValue::Bool(value) => CqlCell::Bool(*value),
            SqlValue::Int(value) => CqlCell::Int((*value).into()),
            SqlValue::Float(value) => CqlCell::Float(*value),
            SqlValue::Text(text) => CqlCell::Text(text.as_str().into()),
            SqlValue::Time(micros) => CqlCell::Time(*micros),
            SqlValue::Bytes(bytes) => CqlCell::Bytes(bytes.as_slice().into()),
        })
    }
}

/// The parts of a value, each with its length before it.
struct CqlParts<'a>(&'a [u8]);

impl<'a> CqlParts<'a> {
    fn int(&mut self) -> Option<i32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(i32::from_be_bytes(*number))
    }

    /// How many there are. Each takes four bytes.
    fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.int()?).ok()?;
        (count <= self.0.len() / 4).then_some(count)
    }

    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        let Ok(length) = usize::try_from(self.int()?) else {
            return Some(None);
        };
        let (part, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Some(part))
    }

    /// The same, where the last parts may be missing: the type had fewer when the value was written.
    fn next_or_null(&mut self) -> Option<Option<&'a [u8]>> {
        match self.0.is_empty() {
            true => Some(None),
            false => self.next(),
        }
    }
}

/// A whole number of at most 8 bytes.
fn whole(bytes: &[u8]) -> i128 {
    let negative = bytes.first().is_some_and(|first| *first >= 0x80);
    let start = if negative { -1 } else { 0 };
    bytes
        .iter()
        .fold(start, |number, byte| number << 8 | i128::from(*byte))
}

fn int(cell: &CqlCell<'_>) -> Option<i128> {
    match cell {
        CqlCell::Int(value) => Some(*value),
        CqlCell::Float(value) if value.fract() == 0.0 && value.abs() <= FLOAT_EXACT as f64 => {
            Some(*value as i128)
        }
        _ => None,
    }
}

fn float(cell: &CqlCell<'_>) -> Option<f64> {
    match cell {
        CqlCell::Float(value) => Some(*value),
        CqlCell::Int(value) if value.abs() <= FLOAT_EXACT => Some(*value as f64),
        _ => None,
    }
}

fn float_text(finite: bool, number: f64, text: &str) -> &str {
    match finite {
        true => text,
        false if number.is_nan() => "NaN",
        false if number > 0.0 => "Infinity",
        false => "-Infinity",
    }
}

fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths = parts.iter().map(|part| part.len());
    if !lengths.eq([8, 4, 4, 4, 12]) || !text.is_ascii() {
        return None;
    }
    let digits = parts.concat();
    if digits.starts_with('+') {
        return None;
    }
    u128::from_str_radix(&digits, 16)
        .ok()
        .map(u128::to_be_bytes)
}

/// Nanoseconds since midnight of `07:08:09.123456789`.
fn clock_nanos(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = whole.splitn(3, ':');
    let mut next = |most: i64| {
        let part = parts.next()?;
        let digits =
            (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        let number: i64 = digits.then(|| part.parse().ok()).flatten()?;
        (number <= most).then_some(number)
    };
    let seconds = next(23)? * 3600 + next(59)? * 60 + next(59)?;
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    Some(seconds * 1_000_000_000 + nanos)
}

/// Months, days and nanoseconds, each of as many bytes as it takes.
fn duration_text(value: &[u8]) -> Option<String> {
    let mut rest = value;
    let mut next = || {
        let (first, tail) = rest.split_first()?;
        let more = first.leading_ones() as usize;
        let (bytes, tail) = tail.split_at_checked(more)?;
        rest = tail;
        let start = match more {
            8 => 0,
            _ => u64::from(*first) & (0xff >> more),
        };
        let number = bytes
            .iter()
            .fold(start, |number, byte| number << 8 | u64::from(*byte));
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    };
    let (months, days, nanos) = (next()?, next()?, next()?);
    Some(format!("{months}mo{days}d{nanos}ns"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(kind: &CqlType, cell: &CqlCell<'_>) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        kind.encode(cell, false, &mut out).map(|()| out)
    }

    fn shown(kind: &CqlType, value: &[u8]) -> String {
        let mut out = Vec::new();
        kind.write_json(Some(value), &mut out).expect("a value");
        String::from_utf8(out).expect("a text")
    }

    #[test]
    fn values_are_sent_and_shown_as_they_are() {
        let text = |text: &'static str| CqlCell::Text(text.into());
        for (kind, cell, json) in [
            (CqlType::Tinyint, CqlCell::Int(-128), "-128"),
            (
                CqlType::Bigint,
                CqlCell::Int(i64::MIN.into()),
                "-9223372036854775808",
            ),
            (CqlType::Varint, CqlCell::Int(-129), "\"-129\""),
            (
                CqlType::Decimal,
                CqlCell::Decimal(-12_345, 3),
                "\"-12.345\"",
            ),
            (CqlType::Decimal, text("0.10"), "\"0.10\""),
            (CqlType::Double, CqlCell::Float(0.1), "0.1"),
            (CqlType::Double, CqlCell::Float(1e300), "1e300"),
            (
                CqlType::Double,
                CqlCell::Float(f64::NEG_INFINITY),
                "\"-Infinity\"",
            ),
            (CqlType::Float, CqlCell::Float(0.5), "0.5"),
            (CqlType::Boolean, CqlCell::Bool(true), "true"),
            (CqlType::Text, text("a\"ü"), "\"a\\\"ü\""),
            (
                CqlType::Blob,
                CqlCell::Bytes(vec![0, 255].into()),
                "\"0x00ff\"",
            ),
            (
                CqlType::Timestamp,
                CqlCell::Time(-1_000),
                "\"1969-12-31T23:59:59.999000Z\"",
            ),
            (CqlType::Date, text("2024-02-29"), "\"2024-02-29\""),
            (CqlType::Date, CqlCell::Day(-1), "\"1969-12-31\""),
            (CqlType::Time, text("23:59:59.5"), "\"23:59:59.500000000\""),
            (
                CqlType::Uuid,
                text("61f0c404-5CB3-11e7-907b-a6006ad3dba0"),
                "\"61f0c404-5cb3-11e7-907b-a6006ad3dba0\"",
            ),
            (CqlType::Inet, text("10.0.0.1"), "\"10.0.0.1\""),
            (CqlType::Inet, text("::1"), "\"::1\""),
        ] {
            let value = encoded(&kind, &cell).unwrap_or_else(|| panic!("{kind:?} {cell:?}"));
            assert_eq!(shown(&kind, &value), json, "{kind:?}");
        }
    }

    #[test]
    fn values_that_a_type_does_not_keep_are_refused() {
        let text = |text: &'static str| CqlCell::Text(text.into());
        for (kind, cell) in [
            (CqlType::Tinyint, CqlCell::Int(128)),
            (CqlType::Int, CqlCell::Float(1.5)),
            (CqlType::Bigint, CqlCell::Int(i128::from(i64::MAX) + 1)),
            (CqlType::Float, CqlCell::Float(0.1)),
            (CqlType::Double, CqlCell::Int((1 << 53) + 1)),
            (CqlType::Timestamp, CqlCell::Time(1)),
            (CqlType::Ascii, text("ü")),
            (CqlType::Uuid, text("61f0c404")),
            (CqlType::Uuid, text("+1f0c404-5cb3-11e7-907b-a6006ad3dba0")),
            (CqlType::Inet, text("10.0.0")),
            (CqlType::Date, text("2024-02-30")),
            (CqlType::Time, text("24:00:00")),
            (CqlType::Time, text("1:-2:3")),
            (CqlType::Int, text("1x")),
            (CqlType::Boolean, CqlCell::Int(1)),
            (CqlType::List(Box::new(CqlType::Int)), text("[1]")),
        ] {
            assert_eq!(encoded(&kind, &cell), None, "{kind:?} {cell:?}");
        }
        let mut out = Vec::new();
        assert!(
            CqlType::Float
                .encode(&CqlCell::Float(0.1), true, &mut out)
                .is_some()
        );
        assert!(
            CqlType::Timestamp
                .encode(&CqlCell::Time(-1), true, &mut out)
                .is_some()
        );
        assert_eq!(out[4..], (-1_i64).to_be_bytes());
    }

    #[test]
    fn values_with_parts_are_json() {
        let part = |bytes: &[u8]| [&(bytes.len() as i32).to_be_bytes(), bytes].concat();
        let two = 2_i32.to_be_bytes().to_vec();
        let list = CqlType::List(Box::new(CqlType::Text));
        let null = (-1_i32).to_be_bytes().to_vec();
        let texts = [two.clone(), part(b"a"), null].concat();
        assert_eq!(shown(&list, &texts), "[\"a\",null]");
        let map = CqlType::Map(Box::new(CqlType::Int), Box::new(CqlType::Boolean));
        let entries = [
            two,
            part(&[0, 0, 0, 1]),
            part(&[1]),
            part(&[0, 0, 0, 2]),
            part(&[0]),
        ];
        assert_eq!(shown(&map, &entries.concat()), "{\"1\":true,\"2\":false}");
        let fields = vec![
            ("a".to_owned(), CqlType::Int),
            ("b".to_owned(), CqlType::Int),
        ];
        // Written before the type had its second field.
        assert_eq!(
            shown(&CqlType::Udt(fields), &part(&[0, 0, 0, 7])),
            "{\"a\":7,\"b\":null}"
        );
        let vector = CqlType::of_class(
            "org.apache.cassandra.db.marshal.VectorType(org.apache.cassandra.db.marshal.FloatType , 2)",
        );
        assert_eq!(
            shown(
                &vector,
                &[1.5_f32.to_be_bytes(), 2_f32.to_be_bytes()].concat()
            ),
            "[1.5,2.0]"
        );
        let duration = CqlType::of_class("org.apache.cassandra.db.marshal.DurationType");
        assert_eq!(shown(&duration, &[2, 3, 0x81, 0x00]), "\"1mo-2d128ns\"");
        // Empty is null where it is no value.
        assert_eq!(shown(&CqlType::Int, b""), "null");
        assert_eq!(shown(&CqlType::Text, b""), "\"\"");
    }

    #[test]
    fn bytes_that_are_no_value_are_told() {
        let kinds = [
            CqlType::Int,
            CqlType::Double,
            CqlType::Uuid,
            CqlType::Inet,
            CqlType::Date,
            CqlType::Decimal,
            CqlType::List(Box::new(CqlType::Int)),
            CqlType::Map(Box::new(CqlType::Int), Box::new(CqlType::Int)),
            CqlType::Tuple(vec![CqlType::Int]),
        ];
        let mut out = Vec::new();
        let cut = CqlType::Duration.write_json(Some(&[2, 0xff, 1]), &mut out);
        assert_eq!(cut, Err(NoValue));
        for kind in kinds {
            let mut out = Vec::new();
            assert_eq!(
                kind.write_json(Some(&[0x7f, 1, 2]), &mut out),
                Err(NoValue),
                "{kind:?}"
            );
        }
    }
}
