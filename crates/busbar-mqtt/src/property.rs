//! Properties of MQTT 5.0: one table of identifiers and types, one strict reader, one writer.

use crate::reason::{Reason, Refusal, Result};
use crate::wire::{Reader, put_binary, put_varint};

/// Identifiers.
pub mod id {
    #![allow(missing_docs)]
    pub const PAYLOAD_FORMAT: u8 = 1;
    pub const MESSAGE_EXPIRY: u8 = 2;
    pub const CONTENT_TYPE: u8 = 3;
    pub const RESPONSE_TOPIC: u8 = 8;
    pub const CORRELATION_DATA: u8 = 9;
    pub const SUBSCRIPTION_ID: u8 = 11;
    pub const SESSION_EXPIRY: u8 = 17;
    pub const ASSIGNED_CLIENT_ID: u8 = 18;
    pub const SERVER_KEEP_ALIVE: u8 = 19;
    pub const AUTH_METHOD: u8 = 21;
    pub const AUTH_DATA: u8 = 22;
    pub const REQUEST_PROBLEM_INFO: u8 = 23;
    pub const WILL_DELAY: u8 = 24;
    pub const REQUEST_RESPONSE_INFO: u8 = 25;
    pub const RESPONSE_INFO: u8 = 26;
    pub const SERVER_REFERENCE: u8 = 28;
    pub const REASON_STRING: u8 = 31;
    pub const RECEIVE_MAXIMUM: u8 = 33;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 34;
    pub const TOPIC_ALIAS: u8 = 35;
    pub const MAXIMUM_QOS: u8 = 36;
    pub const RETAIN_AVAILABLE: u8 = 37;
    pub const USER_PROPERTY: u8 = 38;
    pub const MAXIMUM_PACKET_SIZE: u8 = 39;
    pub const WILDCARD_AVAILABLE: u8 = 40;
    pub const SUBSCRIPTION_IDS_AVAILABLE: u8 = 41;
    pub const SHARED_AVAILABLE: u8 = 42;
}

/// A set of property identifiers: those a packet may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed(u64);

impl Allowed {
    /// The set of `ids`.
    pub const fn of(ids: &[u8]) -> Allowed {
        let mut bits = 0u64;
        let mut i = 0;
        while i < ids.len() {
            bits |= 1 << ids[i];
            i += 1;
        }
        Allowed(bits)
    }

    /// Properties of PUBLISH.
    pub const PUBLISH: Allowed = Allowed::of(&[1, 2, 3, 8, 9, 11, 35, 38]);
    /// Properties of a will.
    pub const WILL: Allowed = Allowed::of(&[1, 2, 3, 8, 9, 24, 38]);
    /// Properties of CONNECT.
    pub const CONNECT: Allowed = Allowed::of(&[17, 21, 22, 23, 25, 33, 34, 38, 39]);
    /// Properties of CONNACK.
    pub const CONNACK: Allowed = Allowed::of(&[
        17, 18, 19, 21, 22, 26, 28, 31, 33, 34, 36, 37, 38, 39, 40, 41, 42,
    ]);
    /// Properties of PUBACK and its kin, SUBACK and UNSUBACK.
    pub const ACK: Allowed = Allowed::of(&[31, 38]);
    /// Properties of SUBSCRIBE.
    pub const SUBSCRIBE: Allowed = Allowed::of(&[11, 38]);
    /// Properties of UNSUBSCRIBE.
    pub const UNSUBSCRIBE: Allowed = Allowed::of(&[38]);
    /// Properties of DISCONNECT.
    pub const DISCONNECT: Allowed = Allowed::of(&[17, 28, 31, 38]);
    /// Properties of AUTH.
    pub const AUTH: Allowed = Allowed::of(&[21, 22, 31, 38]);
}

/// The value of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// One byte, two, four, or a variable byte integer.
    Number(u32),
    /// Binary data.
    Binary(&'a [u8]),
    /// Text.
    Text(&'a str),
    /// A user property.
    Pair(&'a str, &'a str),
}

impl<'a> Value<'a> {
    /// The number; zero for other types, which the table excludes.
    pub fn number(self) -> u32 {
        match self {
            Value::Number(n) => n,
            _ => 0,
        }
    }

    /// The text; empty for other types, which the table excludes.
    pub fn text(self) -> &'a str {
        match self {
            Value::Text(t) => t,
            _ => "",
        }
    }

    /// The bytes; empty for other types, which the table excludes.
    pub fn binary(self) -> &'a [u8] {
        match self {
            Value::Binary(b) => b,
            _ => &[],
        }
    }
}

/// Reads one property: identifier and value.
pub fn read_one<'a>(r: &mut Reader<'a>) -> Result<(u8, Value<'a>)> {
    let key = r.varint()?;
    let key = u8::try_from(key).map_err(|_| Refusal::malformed("unknown property"))?;
    let value = match key {
        1 | 23 | 25 | 36 | 37 | 40 | 41 | 42 => match r.u8()? {
            n @ 0..=1 => Value::Number(u32::from(n)),
            _ => return Err(Refusal::protocol("a yes-or-no property is neither 0 nor 1")),
        },
        19 | 33 | 34 | 35 => Value::Number(u32::from(r.u16()?)),
        2 | 17 | 24 | 39 => Value::Number(r.u32()?),
        11 => Value::Number(r.varint()?),
        9 | 22 => Value::Binary(r.binary()?),
        3 | 8 | 18 | 21 | 26 | 28 | 31 => Value::Text(r.text()?),
        38 => Value::Pair(r.text()?, r.text()?),
        _ => return Err(Refusal::malformed("unknown property")),
    };
    let zero = value == Value::Number(0);
    match key {
        id::TOPIC_ALIAS if zero => Err(Refusal::new(
            Reason::TOPIC_ALIAS_INVALID,
            "topic alias is zero",
        )),
        id::RECEIVE_MAXIMUM if zero => Err(Refusal::protocol("receive maximum is zero")),
        id::MAXIMUM_PACKET_SIZE if zero => Err(Refusal::protocol("maximum packet size is zero")),
        id::SUBSCRIPTION_ID if zero => Err(Refusal::protocol("subscription identifier is zero")),
        id::RESPONSE_TOPIC if value.text().contains(['+', '#']) => {
            Err(Refusal::protocol("response topic holds a wildcard"))
        }
        _ => Ok((key, value)),
    }
}

/// Reads the property section at the front of `r`: its length, then each property, checked against
/// `allowed` and for repetition, handed to `each`. Returns the raw section.
pub fn read_section<'a>(
    r: &mut Reader<'a>,
    allowed: Allowed,
    each: impl FnMut(u8, Value<'a>) -> Result<()>,
) -> Result<&'a [u8]> {
    let n = r.varint()? as usize;
    let section = r.take(n)?;
    read_unframed(section, allowed, each)?;
    Ok(section)
}

/// As [`read_section`], over a section whose length has been read already.
pub fn read_unframed<'a>(
    section: &'a [u8],
    allowed: Allowed,
    mut each: impl FnMut(u8, Value<'a>) -> Result<()>,
) -> Result<()> {
    let mut inner = Reader::new(section);
    let mut seen = 0u64;
    while !inner.is_empty() {
        let (key, value) = read_one(&mut inner)?;
        let bit = 1u64 << key;
        if allowed.0 & bit == 0 {
            return Err(Refusal::malformed(
                "property does not belong to this packet",
            ));
        }
        let may_repeat =
            key == id::USER_PROPERTY || key == id::SUBSCRIPTION_ID && allowed == Allowed::PUBLISH;
        if seen & bit != 0 && !may_repeat {
            return Err(Refusal::protocol("property is given twice"));
        }
        seen |= bit;
        each(key, value)?;
    }
    if allowed.0 & (1 << id::AUTH_DATA) != 0
        && seen & (1 << id::AUTH_DATA) != 0
        && seen & (1 << id::AUTH_METHOD) == 0
    {
        return Err(Refusal::protocol("authentication data without a method"));
    }
    Ok(())
}

/// The user properties of a section that [`read_section`] accepted, in order.
#[derive(Clone, Debug)]
pub struct UserProperties<'a>(Reader<'a>);

impl<'a> UserProperties<'a> {
    /// Over a raw section.
    pub fn new(section: &'a [u8]) -> UserProperties<'a> {
        UserProperties(Reader::new(section))
    }
}

impl<'a> Iterator for UserProperties<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            if let (_, Value::Pair(name, value)) = read_one(&mut self.0).ok()? {
                return Some((name, value));
            }
        }
        None
    }
}

/// Writes properties, without the section's length, to the end of a buffer.
pub struct Writer<'a>(pub &'a mut Vec<u8>);

impl Writer<'_> {
    /// A one byte property.
    pub fn byte(&mut self, key: u8, value: u8) {
        self.0.extend_from_slice(&[key, value]);
    }

    /// A two byte property.
    pub fn two(&mut self, key: u8, value: u16) {
        self.0.push(key);
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// A four byte property.
    pub fn four(&mut self, key: u8, value: u32) {
        self.0.push(key);
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// A variable byte integer property.
    pub fn variable(&mut self, key: u8, value: u32) {
        self.0.push(key);
        put_varint(self.0, value as usize);
    }

    /// A text or binary property.
    pub fn binary(&mut self, key: u8, value: &[u8]) {
        self.0.push(key);
        put_binary(self.0, value);
    }

    /// A user property.
    pub fn pair(&mut self, name: &str, value: &str) {
        self.0.push(id::USER_PROPERTY);
        put_binary(self.0, name.as_bytes());
        put_binary(self.0, value.as_bytes());
    }
}
