//! Values of the type system, borrowed from the input.
//!
//! A compound value is read without looking into it; what is in it is checked when it is iterated, or by
//! [`TypedValue::check`].

use crate::limits::{V1_DEPTH_MAX, V1_VALUES_MAX};

use super::fault::V1Fault;

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TypedValue<'a> {
    /// `null`
    Null,
    /// `boolean`
    Bool(bool),
    /// `ubyte`
    Ubyte(u8),
    /// `ushort`
    Ushort(u16),
    /// `uint`
    Uint(u32),
    /// `ulong`
    Ulong(u64),
    /// `byte`
    Byte(i8),
    /// `short`
    Short(i16),
    /// `int`
    Int(i32),
    /// `long`
    Long(i64),
    /// `float`
    Float(f32),
    /// `double`
    Double(f64),
    /// `decimal32`, `decimal64` or `decimal128`
    Decimal(&'a [u8]),
    /// `char`
    Char(u32),
    /// `timestamp`: milliseconds since 1970
    Timestamp(i64),
    /// `uuid`
    Uuid([u8; 16]),
    /// `binary`
    Binary(&'a [u8]),
    /// `string`
    Text(&'a str),
    /// `symbol`
    Symbol(&'a str),
    /// `list`
    List(TypedItems<'a>),
    /// `map`: names and values take turns
    Map(TypedItems<'a>),
    /// `array`
    Array(TypedItems<'a>),
    /// A described value: the code of its type, or `u64::MAX` for one that is not of the standard, and the value
    /// without its descriptor.
    Described(u64, &'a [u8]),
}

/// The values in a compound value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypedItems<'a> {
    count: u32,
    /// The constructor of all values of an array; zero when each has its own.
    code: u8,
    bytes: &'a [u8],
}

impl<'a> TypedItems<'a> {
    /// Number of values; those of a map are counted with their names.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The constructor of all values of an array.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// The encoded values.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Reads one value after the other.
    pub fn reader(&self) -> ItemReader<'a> {
        ItemReader {
            left: self.count,
            code: self.code,
            reader: TypedReader::new(self.bytes),
        }
    }
}

/// Reads the values in a compound value. After the last one it reads `null`: trailing fields may be left out.
#[derive(Clone, Debug)]
pub struct ItemReader<'a> {
    left: u32,
    code: u8,
    reader: TypedReader<'a>,
}

impl<'a> ItemReader<'a> {
    /// Whether all were read.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The next value.
    ///
    /// # Errors
    /// `amqp:decode-error`, as for everything that is read here.
    pub fn value(&mut self) -> Result<TypedValue<'a>, V1Fault> {
        if self.left == 0 {
            return Ok(TypedValue::Null);
        }
        self.left -= 1;
        match self.code {
            0 => self.reader.value(),
            code => self.reader.of_code(code),
        }
    }

    /// The next value, if it is a string or a symbol.
    ///
    /// # Errors
    /// Also when it is of another type than that and `null`, as for the functions that follow.
    pub fn text(&mut self) -> Result<Option<&'a str>, V1Fault> {
        match self.value()? {
            TypedValue::Null => Ok(None),
            TypedValue::Text(text) | TypedValue::Symbol(text) => Ok(Some(text)),
            _ => Err(V1Fault::decode(
                "a field that is a string or a symbol has another type",
            )),
        }
    }

    /// The next value, if it is an unsigned integer of any width.
    ///
    /// # Errors
    /// See [`ItemReader::text`].
    pub fn number(&mut self) -> Result<Option<u64>, V1Fault> {
        match self.value()? {
            TypedValue::Null => Ok(None),
            TypedValue::Ubyte(n) => Ok(Some(n.into())),
            TypedValue::Ushort(n) => Ok(Some(n.into())),
            TypedValue::Uint(n) => Ok(Some(n.into())),
            TypedValue::Ulong(n) => Ok(Some(n)),
            _ => Err(V1Fault::decode(
                "a field that is an unsigned integer has another type",
            )),
        }
    }

    /// The next value, if it is an unsigned integer that fits into 32 bits.
    ///
    /// # Errors
    /// See [`ItemReader::text`].
    pub fn uint(&mut self) -> Result<Option<u32>, V1Fault> {
        match self.number()? {
            None => Ok(None),
            Some(n) => match u32::try_from(n) {
                Ok(n) => Ok(Some(n)),
                Err(_) => Err(V1Fault::decode("a field of 32 bits has a larger value")),
            },
        }
    }

    /// The next value, which is a boolean; false if it is not there.
    ///
    /// # Errors
    /// See [`ItemReader::text`].
    pub fn flag(&mut self) -> Result<bool, V1Fault> {
        match self.value()? {
            TypedValue::Null => Ok(false),
            TypedValue::Bool(on) => Ok(on),
            _ => Err(V1Fault::decode(
                "a field that is a boolean has another type",
            )),
        }
    }

    /// The next value, if it is bytes.
    ///
    /// # Errors
    /// See [`ItemReader::text`].
    pub fn binary(&mut self) -> Result<Option<&'a [u8]>, V1Fault> {
        match self.value()? {
            TypedValue::Null => Ok(None),
            TypedValue::Binary(bytes) => Ok(Some(bytes)),
            _ => Err(V1Fault::decode("a field that is binary has another type")),
        }
    }
}

impl<'a> TypedValue<'a> {
    /// As a string or a symbol.
    pub fn as_text(&self) -> Option<&'a str> {
        match *self {
            TypedValue::Text(text) | TypedValue::Symbol(text) => Some(text),
            _ => None,
        }
    }

    /// Whether it is this symbol, or an array that has it.
    pub fn has_symbol(&self, name: &str) -> bool {
        match self {
            TypedValue::Array(items) | TypedValue::List(items) => {
                let mut reader = items.reader();
                while !reader.is_empty() {
                    match reader.value() {
                        Ok(value) if value.as_text() == Some(name) => return true,
                        Ok(_) => {}
                        Err(_) => return false,
                    }
                }
                false
            }
            value => value.as_text() == Some(name),
        }
    }

    /// Checks everything that is in it: types, lengths, depth and number of values.
    ///
    /// # Errors
    /// `amqp:decode-error`.
    pub fn check(&self) -> Result<(), V1Fault> {
        let mut left = V1_VALUES_MAX;
        self.check_within(0, &mut left)
    }

    fn check_within(&self, depth: usize, left: &mut usize) -> Result<(), V1Fault> {
        *left = left
            .checked_sub(1)
            .ok_or_else(|| V1Fault::decode("a value has too many values in it"))?;
        if depth > V1_DEPTH_MAX {
            return Err(V1Fault::decode("a value is nested too deeply"));
        }
        match self {
            TypedValue::List(items) | TypedValue::Map(items) | TypedValue::Array(items) => {
                if matches!(self, TypedValue::Map(_)) && items.len() % 2 != 0 {
                    return Err(V1Fault::decode("a map has a name without a value"));
                }
                let mut reader = items.reader();
                while !reader.is_empty() {
                    reader.value()?.check_within(depth + 1, left)?;
                }
                match reader.reader.is_empty() {
                    true => Ok(()),
                    false => Err(V1Fault::decode("a value is longer than what is in it")),
                }
            }
            TypedValue::Described(_, bytes) => TypedReader::new(bytes)
                .value()?
                .check_within(depth + 1, left),
            _ => Ok(()),
        }
    }
}

/// Reads values from the front of a byte slice.
#[derive(Clone, Debug)]
pub struct TypedReader<'a> {
    bytes: &'a [u8],
}

impl<'a> TypedReader<'a> {
    /// A reader of `bytes`.
    pub fn new(bytes: &'a [u8]) -> TypedReader<'a> {
        TypedReader { bytes }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], V1Fault> {
        match self.bytes.split_at_checked(n) {
            Some((head, rest)) => {
                self.bytes = rest;
                Ok(head)
            }
            None => Err(V1Fault::decode("a value goes beyond its frame")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], V1Fault> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u8(&mut self) -> Result<u8, V1Fault> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, V1Fault> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// The next value. What is in a compound value is not looked at.
    ///
    /// # Errors
    /// `amqp:decode-error`.
    pub fn value(&mut self) -> Result<TypedValue<'a>, V1Fault> {
        match self.u8()? {
            0 => {
                let descriptor = self.descriptor()?;
                let before = self.bytes;
                self.skip(0)?;
                Ok(TypedValue::Described(
                    descriptor,
                    &before[..before.len() - self.bytes.len()],
                ))
            }
            code => self.of_code(code),
        }
    }

    /// The next value, which has to be described: the code of its type, and the value.
    ///
    /// # Errors
    /// `amqp:decode-error`.
    pub fn described(&mut self) -> Result<(u64, TypedValue<'a>), V1Fault> {
        if self.u8()? != 0 {
            return Err(V1Fault::decode(
                "a value without a type where a described one is expected",
            ));
        }
        let descriptor = self.descriptor()?;
        Ok((descriptor, self.value()?))
    }

    /// Reads past a value; a descriptor may stand before it.
    fn skip(&mut self, depth: usize) -> Result<(), V1Fault> {
        if depth > V1_DEPTH_MAX {
            return Err(V1Fault::decode("a value is nested too deeply"));
        }
        match self.u8()? {
            0 => {
                self.descriptor()?;
                self.skip(depth + 1)
            }
            code => self.of_code(code).map(|_| ()),
        }
    }

    fn descriptor(&mut self) -> Result<u64, V1Fault> {
        let code = self.u8()?;
        match self.of_code(code)? {
            TypedValue::Ulong(code) => Ok(code),
            TypedValue::Symbol(name) => Ok(named(name)),
            _ => Err(V1Fault::decode(
                "a descriptor is neither a number nor a symbol",
            )),
        }
    }

    fn of_code(&mut self, code: u8) -> Result<TypedValue<'a>, V1Fault> {
        Ok(match code {
            0x40 => TypedValue::Null,
            0x41 => TypedValue::Bool(true),
            0x42 => TypedValue::Bool(false),
            0x56 => match self.u8()? {
                0 => TypedValue::Bool(false),
                1 => TypedValue::Bool(true),
                _ => return Err(V1Fault::decode("a boolean is neither 0 nor 1")),
            },
            0x50 => TypedValue::Ubyte(self.u8()?),
            0x60 => TypedValue::Ushort(u16::from_be_bytes(self.array()?)),
            0x70 => TypedValue::Uint(self.u32()?),
            0x52 => TypedValue::Uint(self.u8()?.into()),
            0x43 => TypedValue::Uint(0),
            0x80 => TypedValue::Ulong(u64::from_be_bytes(self.array()?)),
            0x53 => TypedValue::Ulong(self.u8()?.into()),
            0x44 => TypedValue::Ulong(0),
            0x51 => TypedValue::Byte(self.u8()? as i8),
            0x61 => TypedValue::Short(i16::from_be_bytes(self.array()?)),
            0x71 => TypedValue::Int(i32::from_be_bytes(self.array()?)),
            0x54 => TypedValue::Int((self.u8()? as i8).into()),
            0x81 => TypedValue::Long(i64::from_be_bytes(self.array()?)),
            0x55 => TypedValue::Long((self.u8()? as i8).into()),
            0x72 => TypedValue::Float(f32::from_be_bytes(self.array()?)),
            0x82 => TypedValue::Double(f64::from_be_bytes(self.array()?)),
            0x74 => TypedValue::Decimal(self.take(4)?),
            0x84 => TypedValue::Decimal(self.take(8)?),
            0x94 => TypedValue::Decimal(self.take(16)?),
            0x73 => TypedValue::Char(self.u32()?),
            0x83 => TypedValue::Timestamp(i64::from_be_bytes(self.array()?)),
            0x98 => TypedValue::Uuid(self.array()?),
            0xa0 | 0xb0 => TypedValue::Binary(self.variable(code)?),
            0xa1 | 0xb1 => TypedValue::Text(
                std::str::from_utf8(self.variable(code)?)
                    .map_err(|_| V1Fault::decode("a string is not UTF-8"))?,
            ),
            0xa3 | 0xb3 => {
                let bytes = self.variable(code)?;
                match std::str::from_utf8(bytes) {
                    Ok(text) if bytes.is_ascii() => TypedValue::Symbol(text),
                    _ => return Err(V1Fault::decode("a symbol is not ASCII")),
                }
            }
            0x45 => TypedValue::List(TypedItems::default()),
            0xc0 | 0xd0 => TypedValue::List(self.items(code)?),
            0xc1 | 0xd1 => TypedValue::Map(self.items(code)?),
            0xe0 | 0xf0 => TypedValue::Array(self.array_items(code)?),
            _ => return Err(V1Fault::decode(format!("there is no type {code:#04x}"))),
        })
    }

    fn variable(&mut self, code: u8) -> Result<&'a [u8], V1Fault> {
        let len = match code & 0xf0 {
            0xa0 => self.u8()? as usize,
            _ => self.u32()? as usize,
        };
        self.take(len)
    }

    fn items(&mut self, code: u8) -> Result<TypedItems<'a>, V1Fault> {
        let short = code & 0xf0 == 0xc0;
        let len = if short {
            self.u8()?.into()
        } else {
            self.u32()?
        };
        let mut body = TypedReader::new(self.take(len as usize)?);
        let count = if short {
            body.u8()?.into()
        } else {
            body.u32()?
        };
        // A value takes a byte at least.
        if count as usize > body.bytes.len() {
            return Err(V1Fault::decode(
                "a value counts more values than it has bytes",
            ));
        }
        Ok(TypedItems {
            count,
            code: 0,
            bytes: body.bytes,
        })
    }

    fn array_items(&mut self, code: u8) -> Result<TypedItems<'a>, V1Fault> {
        let short = code == 0xe0;
        let len = if short {
            self.u8()?.into()
        } else {
            self.u32()?
        };
        let mut body = TypedReader::new(self.take(len as usize)?);
        let count = if short {
            body.u8()?.into()
        } else {
            body.u32()?
        };
        let mut of = body.u8()?;
        if of == 0 {
            body.descriptor()?;
            of = body.u8()?;
        }
        if of == 0 {
            return Err(V1Fault::decode(
                "the values of an array have two descriptors",
            ));
        }
        // Values of some types take no bytes: their number is bounded.
        if count as usize > body.bytes.len().max(V1_VALUES_MAX) {
            return Err(V1Fault::decode(
                "an array counts more values than it may have",
            ));
        }
        Ok(TypedItems {
            count,
            code: of,
            bytes: body.bytes,
        })
    }
}

/// The code of a type of the standard, by its name.
fn named(name: &str) -> u64 {
    const NAMES: &[(&str, u64)] = &[
        ("amqp:open:list", 0x10),
        ("amqp:begin:list", 0x11),
        ("amqp:attach:list", 0x12),
        ("amqp:flow:list", 0x13),
        ("amqp:transfer:list", 0x14),
        ("amqp:disposition:list", 0x15),
        ("amqp:detach:list", 0x16),
        ("amqp:end:list", 0x17),
        ("amqp:close:list", 0x18),
        ("amqp:error:list", 0x1d),
        ("amqp:received:list", 0x23),
        ("amqp:accepted:list", 0x24),
        ("amqp:rejected:list", 0x25),
        ("amqp:released:list", 0x26),
        ("amqp:modified:list", 0x27),
        ("amqp:source:list", 0x28),
        ("amqp:target:list", 0x29),
        ("amqp:coordinator:list", 0x30),
        ("amqp:sasl-mechanisms:list", 0x40),
        ("amqp:sasl-init:list", 0x41),
        ("amqp:sasl-challenge:list", 0x42),
        ("amqp:sasl-response:list", 0x43),
        ("amqp:sasl-outcome:list", 0x44),
        ("amqp:header:list", 0x70),
        ("amqp:delivery-annotations:map", 0x71),
        ("amqp:message-annotations:map", 0x72),
        ("amqp:properties:list", 0x73),
        ("amqp:application-properties:map", 0x74),
        ("amqp:data:binary", 0x75),
        ("amqp:amqp-sequence:list", 0x76),
        ("amqp:amqp-value:*", 0x77),
        ("amqp:footer:map", 0x78),
    ];
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map_or(u64::MAX, |(_, code)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_standard_writes_them() {
        for (bytes, expected) in [
            (&b"\x40"[..], TypedValue::Null),
            (b"\x56\x01", TypedValue::Bool(true)),
            (b"\x42", TypedValue::Bool(false)),
            (b"\x52\x07", TypedValue::Uint(7)),
            (b"\x80\0\0\0\0\0\0\x01\0", TypedValue::Ulong(256)),
            (b"\x54\xff", TypedValue::Int(-1)),
            (b"\x61\xff\xfe", TypedValue::Short(-2)),
            (b"\xa1\x02hi", TypedValue::Text("hi")),
            (b"\xb3\0\0\0\x01q", TypedValue::Symbol("q")),
            (b"\xa0\x01\xff", TypedValue::Binary(b"\xff")),
            (b"\x82\x3f\xf8\0\0\0\0\0\0", TypedValue::Double(1.5)),
        ] {
            let mut reader = TypedReader::new(bytes);
            assert_eq!(reader.value().expect("a value"), expected, "{bytes:?}");
            assert!(reader.is_empty());
            for len in 0..bytes.len() {
                assert!(
                    TypedReader::new(&bytes[..len]).value().is_err(),
                    "{bytes:?} {len}"
                );
            }
        }
        let array = TypedReader::new(b"\xe0\x09\x02\xa3\x03abc\x02de").value();
        let array = array.expect("an array");
        array.check().expect("a sound array");
        assert!(array.has_symbol("de") && !array.has_symbol("d"));
    }

    #[test]
    fn hostile_values_are_refused() {
        for bytes in [
            // More values than bytes.
            &b"\xc0\x02\xff\x40"[..],
            b"\xd0\0\0\0\x05\xff\xff\xff\xff\x40",
            // Longer than what is there.
            b"\xb0\xff\xff\xff\xff\x00",
            // An array of very many nothings.
            b"\xf0\0\0\0\x05\xff\xff\xff\xff\x40",
            // No such type, and no UTF-8.
            b"\x3f",
            b"\xa1\x01\xff",
            b"\xa3\x02\xc3\xa4",
        ] {
            assert!(TypedReader::new(bytes).value().is_err(), "{bytes:?}");
        }
        // Descriptors of descriptors.
        let deep = [b"\x00\x53\x10".repeat(100_000), b"\x40".to_vec()].concat();
        assert!(TypedReader::new(&deep).value().is_err());
        let mut lists = b"\x45".to_vec();
        for _ in 0..200 {
            let len = (lists.len() + 4) as u32;
            lists = [
                &b"\xd0"[..],
                &len.to_be_bytes(),
                &1u32.to_be_bytes(),
                &lists,
            ]
            .concat();
        }
        assert!(
            TypedReader::new(&lists)
                .value()
                .expect("a list")
                .check()
                .is_err()
        );
        assert!(
            TypedReader::new(b"\xc1\x02\x01\x40")
                .value()
                .expect("a map")
                .check()
                .is_err()
        );
    }
}
