//! Field tables: names and typed values, nested to a bounded depth.
//!
//! The types are RabbitMQ's, which differ from the letters of the specification.

use crate::fault::AmqpFault;
use crate::limits::{TABLE_DEPTH_MAX, TABLE_FIELDS_MAX};

use super::wire::WireReader;

/// A well-formed field table: the bytes between its length and its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldTable<'a>(&'a [u8]);

/// A value of a field table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FieldValue<'a> {
    /// `t`
    Bool(bool),
    /// `b`, `s`, `I`, `l`: a signed integer of 1, 2, 4 or 8 bytes, with its letter.
    Signed(u8, i64),
    /// `B`, `u`, `i`: an unsigned integer of 1, 2 or 4 bytes, with its letter.
    Unsigned(u8, u64),
    /// `f`
    Float(f32),
    /// `d`
    Double(f64),
    /// `D`: digits after the point, and the number without it.
    Decimal(u8, i32),
    /// `S`
    Text(&'a [u8]),
    /// `x`
    Binary(&'a [u8]),
    /// `T`: seconds since 1970.
    Timestamp(u64),
    /// `F`
    Table(FieldTable<'a>),
    /// `A`: the values of an array.
    Array(&'a [u8]),
    /// `V`
    Void,
}

impl<'a> FieldTable<'a> {
    /// Checks names, types, lengths, depth and number of fields.
    ///
    /// # Errors
    /// 502 when one of them is wrong.
    pub fn check(bytes: &'a [u8]) -> Result<FieldTable<'a>, AmqpFault> {
        let mut fields = 0;
        check_table(bytes, 0, &mut fields)?;
        Ok(FieldTable(bytes))
    }

    /// The bytes, without their length.
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Whether it has no fields.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, FieldValue<'a>)> + use<'a> {
        let mut reader = WireReader::new(self.0);
        std::iter::from_fn(move || {
            let name = reader.short().ok()?;
            Some((name, value(&mut reader).ok()?))
        })
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<FieldValue<'a>> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }
}

impl<'a> FieldValue<'a> {
    /// As an integer, whatever its width.
    pub fn as_integer(&self) -> Option<i64> {
        match *self {
            FieldValue::Signed(_, n) => Some(n),
            FieldValue::Unsigned(_, n) => i64::try_from(n).ok(),
            _ => None,
        }
    }

    /// As text.
    pub fn as_text(&self) -> Option<&'a str> {
        match *self {
            FieldValue::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// As a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            FieldValue::Bool(on) => Some(on),
            _ => None,
        }
    }

    /// What RabbitMQ calls its type in an error.
    pub fn type_name(&self) -> &'static str {
        match self {
            FieldValue::Bool(_) => "bool",
            FieldValue::Signed(b'b', _) => "byte",
            FieldValue::Signed(b's', _) => "short",
            FieldValue::Signed(b'I', _) => "signedint",
            FieldValue::Signed(..) => "long",
            FieldValue::Unsigned(b'B', _) => "unsignedbyte",
            FieldValue::Unsigned(b'u', _) => "unsignedshort",
            FieldValue::Unsigned(..) => "unsignedint",
            FieldValue::Float(_) => "float",
            FieldValue::Double(_) => "double",
            FieldValue::Decimal(..) => "decimal",
            FieldValue::Text(_) => "longstr",
            FieldValue::Binary(_) => "binary",
            FieldValue::Timestamp(_) => "timestamp",
            FieldValue::Table(_) => "table",
            FieldValue::Array(_) => "array",
            FieldValue::Void => "void",
        }
    }

    /// The values of an array.
    pub fn items(&self) -> impl Iterator<Item = FieldValue<'a>> + use<'a> {
        let mut reader = WireReader::new(match *self {
            FieldValue::Array(bytes) => bytes,
            _ => &[],
        });
        std::iter::from_fn(move || match reader.is_empty() {
            true => None,
            false => value(&mut reader).ok(),
        })
    }

    /// A scalar as it is written in a tag; `None` for tables, arrays, bytes that are no text, and void.
    pub fn to_tag(&self) -> Option<String> {
        Some(match *self {
            FieldValue::Bool(on) => on.to_string(),
            FieldValue::Signed(_, n) => n.to_string(),
            FieldValue::Unsigned(_, n) | FieldValue::Timestamp(n) => n.to_string(),
            FieldValue::Float(n) => n.to_string(),
            FieldValue::Double(n) => n.to_string(),
            FieldValue::Decimal(scale, n) => {
                format!("{}", f64::from(n) / 10f64.powi(i32::from(scale)))
            }
            FieldValue::Text(bytes) => std::str::from_utf8(bytes).ok()?.to_owned(),
            FieldValue::Binary(_)
            | FieldValue::Table(_)
            | FieldValue::Array(_)
            | FieldValue::Void => {
                return None;
            }
        })
    }
}

fn check_table(bytes: &[u8], depth: usize, fields: &mut usize) -> Result<(), AmqpFault> {
    let mut reader = WireReader::new(bytes);
    while !reader.is_empty() {
        reader.short()?;
        check_value(&mut reader, depth, fields)?;
    }
    Ok(())
}

fn check_value(
    reader: &mut WireReader<'_>,
    depth: usize,
    fields: &mut usize,
) -> Result<(), AmqpFault> {
    *fields += 1;
    if *fields > TABLE_FIELDS_MAX {
        return Err(AmqpFault::syntax("a field table has too many fields"));
    }
    let nested = match value(reader)? {
        FieldValue::Table(FieldTable(bytes)) => (bytes, true),
        FieldValue::Array(bytes) => (bytes, false),
        _ => return Ok(()),
    };
    if depth + 1 > TABLE_DEPTH_MAX {
        return Err(AmqpFault::syntax("a field table is nested too deeply"));
    }
    if nested.1 {
        return check_table(nested.0, depth + 1, fields);
    }
    let mut items = WireReader::new(nested.0);
    while !items.is_empty() {
        check_value(&mut items, depth + 1, fields)?;
    }
    Ok(())
}

/// Reads a type letter and its value; what is nested in it is not looked at.
fn value<'a>(r: &mut WireReader<'a>) -> Result<FieldValue<'a>, AmqpFault> {
    Ok(match r.u8()? {
        b't' => FieldValue::Bool(r.u8()? != 0),
        b'b' => FieldValue::Signed(b'b', i64::from(r.u8()? as i8)),
        b's' => FieldValue::Signed(b's', i64::from(r.u16()? as i16)),
        b'I' => FieldValue::Signed(b'I', i64::from(r.u32()? as i32)),
        letter @ (b'l' | b'L') => FieldValue::Signed(letter, r.u64()? as i64),
        b'B' => FieldValue::Unsigned(b'B', u64::from(r.u8()?)),
        b'u' => FieldValue::Unsigned(b'u', u64::from(r.u16()?)),
        b'i' => FieldValue::Unsigned(b'i', u64::from(r.u32()?)),
        b'f' => FieldValue::Float(f32::from_bits(r.u32()?)),
        b'd' => FieldValue::Double(f64::from_bits(r.u64()?)),
        b'D' => FieldValue::Decimal(r.u8()?, r.u32()? as i32),
        b'S' => FieldValue::Text(r.long()?),
        b'x' => FieldValue::Binary(r.long()?),
        b'T' => FieldValue::Timestamp(r.u64()?),
        b'F' => FieldValue::Table(FieldTable(r.long()?)),
        b'A' => FieldValue::Array(r.long()?),
        b'V' => FieldValue::Void,
        _ => {
            return Err(AmqpFault::syntax(
                "a field table has a value of unknown type",
            ));
        }
    })
}

/// Appends fields to a table.
#[derive(Debug)]
pub struct TableWriter<'a> {
    out: &'a mut Vec<u8>,
    at: usize,
}

impl<'a> TableWriter<'a> {
    /// Begins a table, with its length, at the end of `out`.
    pub fn begin(out: &'a mut Vec<u8>) -> TableWriter<'a> {
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        TableWriter { out, at }
    }

    /// A field of any type.
    pub fn field(&mut self, name: &str, value: &FieldValue<'_>) {
        put_short(self.out, name);
        put_value(self.out, value);
    }

    /// A text field.
    pub fn text(&mut self, name: &str, value: &str) {
        self.field(name, &FieldValue::Text(value.as_bytes()));
    }

    /// A boolean field.
    pub fn flag(&mut self, name: &str, on: bool) {
        self.field(name, &FieldValue::Bool(on));
    }

    /// A field whose value is a table.
    pub fn table(&mut self, name: &str, write: impl FnOnce(&mut TableWriter<'_>)) {
        put_short(self.out, name);
        self.out.push(b'F');
        let mut inner = TableWriter::begin(self.out);
        write(&mut inner);
        inner.end();
    }

    /// Fields that were encoded before.
    pub fn raw(&mut self, fields: &[u8]) {
        self.out.extend_from_slice(fields);
    }

    /// Ends the table.
    pub fn end(self) {
        let len = (self.out.len() - self.at - 4) as u32;
        self.out[self.at..self.at + 4].copy_from_slice(&len.to_be_bytes());
    }
}

/// Appends a short string, cut at 255 bytes between two characters.
pub fn put_short(out: &mut Vec<u8>, text: &str) {
    let text = cut(text, 255);
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

/// The longest beginning of `text` that has at most `bytes_max` bytes.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let mut at = bytes_max;
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    &text[..at]
}

/// Appends a type letter and its value.
pub fn put_value(out: &mut Vec<u8>, value: &FieldValue<'_>) {
    let long = |out: &mut Vec<u8>, letter: u8, bytes: &[u8]| {
        out.push(letter);
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    match *value {
        FieldValue::Bool(on) => out.extend_from_slice(&[b't', u8::from(on)]),
        FieldValue::Signed(letter, n) => {
            out.push(letter);
            match letter {
                b'b' => out.push(n as u8),
                b's' => out.extend_from_slice(&(n as i16).to_be_bytes()),
                b'I' => out.extend_from_slice(&(n as i32).to_be_bytes()),
                _ => out.extend_from_slice(&n.to_be_bytes()),
            }
        }
        FieldValue::Unsigned(letter, n) => {
            out.push(letter);
            match letter {
                b'B' => out.push(n as u8),
                b'u' => out.extend_from_slice(&(n as u16).to_be_bytes()),
                _ => out.extend_from_slice(&(n as u32).to_be_bytes()),
            }
        }
        FieldValue::Float(n) => {
            out.push(b'f');
            out.extend_from_slice(&n.to_bits().to_be_bytes());
        }
        FieldValue::Double(n) => {
            out.push(b'd');
            out.extend_from_slice(&n.to_bits().to_be_bytes());
        }
        FieldValue::Decimal(scale, n) => {
            out.extend_from_slice(&[b'D', scale]);
            out.extend_from_slice(&n.to_be_bytes());
        }
        FieldValue::Text(bytes) => long(out, b'S', bytes),
        FieldValue::Binary(bytes) => long(out, b'x', bytes),
        FieldValue::Timestamp(n) => {
            out.push(b'T');
            out.extend_from_slice(&n.to_be_bytes());
        }
        FieldValue::Table(FieldTable(bytes)) => long(out, b'F', bytes),
        FieldValue::Array(bytes) => long(out, b'A', bytes),
        FieldValue::Void => out.push(b'V'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(write: impl FnOnce(&mut TableWriter<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        let mut w = TableWriter::begin(&mut out);
        write(&mut w);
        w.end();
        out.split_off(4)
    }

    #[test]
    fn every_type_comes_back_as_it_was() {
        let inner = table(|w| w.text("k", "v"));
        let items = {
            let mut out = Vec::new();
            put_value(&mut out, &FieldValue::Void);
            put_value(&mut out, &FieldValue::Signed(b'I', -7));
            out
        };
        let values = [
            FieldValue::Bool(true),
            FieldValue::Signed(b'b', -1),
            FieldValue::Signed(b's', -300),
            FieldValue::Signed(b'I', i64::from(i32::MIN)),
            FieldValue::Signed(b'l', i64::MAX),
            FieldValue::Unsigned(b'B', 255),
            FieldValue::Unsigned(b'u', 65_535),
            FieldValue::Unsigned(b'i', u64::from(u32::MAX)),
            FieldValue::Float(1.5),
            FieldValue::Double(-2.25),
            FieldValue::Decimal(2, 314),
            FieldValue::Text("text".as_bytes()),
            FieldValue::Binary(&[0, 255]),
            FieldValue::Timestamp(1_700_000_000),
            FieldValue::Table(FieldTable(&inner)),
            FieldValue::Array(&items),
            FieldValue::Void,
        ];
        let bytes = table(|w| values.iter().for_each(|v| w.field("name", v)));
        let read = FieldTable::check(&bytes).expect("a table");
        let got: Vec<FieldValue<'_>> = read.iter().map(|(_, v)| v).collect();
        assert_eq!(got, values);
        assert_eq!(got[15].items().count(), 2);
    }

    #[test]
    fn hostile_tables_are_refused_at_their_bound() {
        let mut deep = Vec::new();
        for _ in 0..TABLE_DEPTH_MAX + 2 {
            let inner = deep.clone();
            deep = table(|w| w.field("n", &FieldValue::Table(FieldTable(&inner))));
        }
        assert!(FieldTable::check(&deep).is_err());
        let many = table(|w| (0..=TABLE_FIELDS_MAX).for_each(|_| w.flag("n", true)));
        assert!(FieldTable::check(&many).is_err());
        for bad in [
            &b"\x01a"[..],
            b"\x01aS\xff\xff\xff\xff",
            b"\x01aZ",
            b"\x02\xff\xffV",
            b"\x01aF\x00\x00\x00\x02\x05a",
        ] {
            assert!(FieldTable::check(bad).is_err(), "{bad:?}");
        }
    }
}
