//! Packets of the protocol of MySQL and MariaDB: bytes in, packets out. Knows no socket.
//!
//! A packet is its length as 3 bytes, its number as 1 byte, and its body. A body of 2^24 - 1 bytes goes on in the next
//! packet.

use bytes::{Buf, Bytes, BytesMut};

use crate::limits::{PACKET_BYTES, PACKET_BYTES_MAX};

/// Capabilities that are used, named as in the protocol.
#[allow(missing_docs, reason = "names of the protocol")]
pub mod can {
    pub const LONG_PASSWORD: u32 = 1;
    pub const LONG_FLAG: u32 = 4;
    pub const CONNECT_WITH_DB: u32 = 8;
    pub const PROTOCOL_41: u32 = 0x200;
    pub const SSL: u32 = 0x800;
    pub const TRANSACTIONS: u32 = 0x2000;
    pub const SECURE_CONNECTION: u32 = 0x8000;
    pub const MULTI_STATEMENTS: u32 = 0x1_0000;
    pub const MULTI_RESULTS: u32 = 0x2_0000;
    pub const PLUGIN_AUTH: u32 = 0x8_0000;
}

/// The collation of the session: utf8mb4_general_ci.
const UTF8MB4: u8 = 45;

/// The packet that the buffer begins with, if it is whole: its number and its body.
///
/// # Errors
/// A packet that is larger than any that is accepted.
pub fn next(buffer: &mut BytesMut) -> Result<Option<(u8, Bytes)>, &'static str> {
    let mut end = 0;
    let mut parts = 0;
    loop {
        let Some(head) = buffer.get(end..end + 4) else {
            return Ok(None);
        };
        let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
        end += 4 + length;
        parts += 1;
        if end > PACKET_BYTES_MAX {
            return Err("a packet that is too large");
        }
        if buffer.len() < end {
            buffer.reserve(end - buffer.len());
            return Ok(None);
        }
        if length < PACKET_BYTES {
            break;
        }
    }
    let mut whole = buffer.split_to(end);
    let number = whole[3];
    if parts == 1 {
        whole.advance(4);
        return Ok(Some((number, whole.freeze())));
    }
    let mut body = BytesMut::with_capacity(end);
    let mut last = number;
    while whole.len() >= 4 {
        let length =
            usize::from(whole[0]) | usize::from(whole[1]) << 8 | usize::from(whole[2]) << 16;
        last = whole[3];
        whole.advance(4);
        body.extend_from_slice(&whole.split_to(length));
    }
    Ok(Some((last, body.freeze())))
}

/// Appends a packet, or several for a body that is too large for one. Returns the number of the next one.
pub fn packet(out: &mut Vec<u8>, mut number: u8, mut body: &[u8]) -> u8 {
    loop {
        let length = body.len().min(PACKET_BYTES);
        out.extend_from_slice(&(length as u32).to_le_bytes()[..3]);
        out.push(number);
        number = number.wrapping_add(1);
        out.extend_from_slice(&body[..length]);
        body = &body[length..];
        if length < PACKET_BYTES {
            return number;
        }
    }
}

/// Reads a body from its beginning. Each method answers `None` where the body is too short.
#[derive(Clone, Debug)]
pub struct Reader {
    /// What has not been read yet.
    pub rest: Bytes,
}

impl Reader {
    /// Reads from the first byte.
    pub fn new(body: &Bytes) -> Reader {
        Reader { rest: body.clone() }
    }

    /// The next bytes.
    pub fn bytes(&mut self, length: usize) -> Option<Bytes> {
        (self.rest.len() >= length).then(|| self.rest.split_to(length))
    }

    /// A whole number of so many bytes, at most 8, the lowest first.
    pub fn number(&mut self, bytes: usize) -> Option<u64> {
        let bytes = self.bytes(bytes)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        )
    }

    /// A whole number of so many bytes, at most 8, the highest first.
    pub fn high(&mut self, bytes: usize) -> Option<u64> {
        let bytes = self.bytes(bytes)?;
        Some(
            bytes
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        )
    }

    /// The next byte.
    pub fn u8(&mut self) -> Option<u8> {
        (!self.rest.is_empty()).then(|| self.rest.get_u8())
    }

    /// A whole number with its length before it; the inner `None` is NULL.
    pub fn length(&mut self) -> Option<Option<u64>> {
        match self.u8()? {
            0xfb => Some(None),
            0xfc => self.number(2).map(Some),
            0xfd => self.number(3).map(Some),
            0xfe => self.number(8).map(Some),
            0xff => None,
            small => Some(Some(u64::from(small))),
        }
    }

    /// Bytes with their length before them; the inner `None` is NULL.
    pub fn value(&mut self) -> Option<Option<Bytes>> {
        match self.length()? {
            None => Some(None),
            Some(length) => self.bytes(usize::try_from(length).ok()?).map(Some),
        }
    }

    /// A text with its length before it.
    pub fn name(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(&self.value()??).into_owned())
    }

    /// A text that ends with a zero, or with the body.
    pub fn text(&mut self) -> String {
        let end = memchr::memchr(0, &self.rest).unwrap_or(self.rest.len());
        let text = String::from_utf8_lossy(&self.rest.split_to(end)).into_owned();
        if !self.rest.is_empty() {
            self.rest.advance(1);
        }
        text
    }
}

/// The values of a row of an answer, each a text or NULL; `None` for what is no such row.
pub fn text_row(body: &Bytes, columns: usize) -> Option<Vec<Option<Bytes>>> {
    let mut reader = Reader::new(body);
    // Each value has at least one byte.
    let mut values = Vec::with_capacity(columns.min(body.len()));
    for _ in 0..columns {
        values.push(reader.value()?);
    }
    Some(values)
}

/// What the server says first.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// Its version, as `8.0.36` or `11.8.2-MariaDB`.
    pub version: String,
    /// What it can do: bits of [`can`].
    pub capabilities: u32,
    /// What the proof of the password is made with.
    pub nonce: Vec<u8>,
    /// How passwords are proved, by the name of the plug-in.
    pub plugin: String,
}

/// Reads the server's first packet.
pub fn greeting(body: &Bytes) -> Option<Greeting> {
    let mut reader = Reader::new(body);
    (reader.u8()? == 10).then_some(())?;
    // MariaDB puts `5.5.5-` before its version, for clients that expect a MySQL.
    let version = reader.text();
    let version = version
        .strip_prefix("5.5.5-")
        .unwrap_or(&version)
        .to_owned();
    reader.number(4)?;
    let mut nonce = reader.bytes(8)?.to_vec();
    reader.u8()?;
    let low = reader.number(2)?;
    reader.bytes(3)?;
    let high = reader.number(2)?;
    let length = usize::from(reader.u8()?);
    reader.bytes(10)?;
    nonce.extend_from_slice(&reader.bytes(length.saturating_sub(8).max(13))?);
    nonce.truncate(20);
    let plugin = reader.text();
    let capabilities = u32::try_from(low | high << 16).ok()?;
    Some(Greeting {
        version,
        capabilities,
        nonce,
        plugin,
    })
}

/// The request for encryption, which has the beginning of [`login`].
pub fn ssl_request(capabilities: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&capabilities.to_le_bytes());
    body.extend_from_slice(&(PACKET_BYTES as u32).to_le_bytes());
    body.push(UTF8MB4);
    body.extend_from_slice(&[0; 23]);
    body
}

/// Who asks, with the proof of the password.
pub fn login(capabilities: u32, user: &str, proof: &[u8], database: &str, plugin: &str) -> Vec<u8> {
    let mut body = ssl_request(capabilities);
    body.extend_from_slice(user.as_bytes());
    body.push(0);
    // No proof that is known has more.
    body.push(u8::try_from(proof.len()).unwrap_or(0));
    body.extend_from_slice(proof);
    body.extend_from_slice(database.as_bytes());
    body.push(0);
    body.extend_from_slice(plugin.as_bytes());
    body.push(0);
    body
}

/// What the server says of a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MysqlError {
    /// Its number.
    pub number: u16,
    /// Its words.
    pub message: String,
}

/// Reads the packet of a failure, whose first byte is 0xff.
pub fn server_error(body: &Bytes) -> MysqlError {
    let mut reader = Reader::new(body);
    reader.u8();
    let number = reader
        .number(2)
        .and_then(|number| u16::try_from(number).ok())
        .unwrap_or(0);
    if reader.rest.first() == Some(&b'#') {
        reader.bytes(6);
    }
    MysqlError {
        number,
        message: String::from_utf8_lossy(&reader.rest).into_owned(),
    }
}

/// A text as a literal of SQL, for a session without escapes by backslash.
pub fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// A name as an identifier of SQL.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_put_together_and_taken_apart() {
        for size in [0, 1, 300, PACKET_BYTES - 1, PACKET_BYTES, PACKET_BYTES + 5] {
            let body = vec![7; size];
            let mut out = Vec::new();
            packet(&mut out, 3, &body);
            let mut buffer = BytesMut::from(&out[..out.len() - 1]);
            assert!(next(&mut buffer).unwrap().is_none(), "{size}");
            buffer.extend_from_slice(&out[out.len() - 1..]);
            let (number, found) = next(&mut buffer).unwrap().expect("whole");
            assert_eq!(
                (found.len(), number),
                (size, 3 + u8::from(size >= PACKET_BYTES))
            );
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn lengths_have_their_four_forms() {
        for (bytes, expected) in [
            (&b"\x05"[..], Some(Some(5))),
            (b"\xfb", Some(None)),
            (b"\xfc\x01\x02", Some(Some(0x201))),
            (b"\xfd\x01\x02\x03", Some(Some(0x3_0201))),
            (
                b"\xfe\x01\0\0\0\0\0\0\x01",
                Some(Some(0x100_0000_0000_0001)),
            ),
            (b"\xff", None),
            (b"\xfc\x01", None),
        ] {
            assert_eq!(
                Reader::new(&Bytes::copy_from_slice(bytes)).length(),
                expected
            );
        }
    }
}
