//! Messages of PostgreSQL's protocol, version 3: bytes in, messages out. Knows no socket.
//!
//! A message is a letter, its length as 4 bytes that count themselves, and its body. The first message of a client
//! has no letter.

use bytes::{Buf, Bytes, BytesMut};

use crate::limits::MESSAGE_BYTES_MAX;

const SSL_REQUEST: u32 = 80_877_103;
const VERSION_3: u32 = 196_608;

/// A message of the server: its letter and its body.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its letter.
    pub letter: u8,
    /// Its body.
    pub body: Bytes,
}

/// The message that the buffer begins with, if it is whole.
///
/// # Errors
/// A length that no message has.
pub fn next(buffer: &mut BytesMut) -> Result<Option<Message>, &'static str> {
    let Some(head) = buffer.first_chunk::<5>() else {
        return Ok(None);
    };
    let letter = head[0];
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err("a message of an impossible length");
    }
    if buffer.len() < 1 + length {
        buffer.reserve(1 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(5);
    let body = buffer.split_to(length - 4).freeze();
    Ok(Some(Message { letter, body }))
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

    /// The next byte.
    pub fn u8(&mut self) -> Option<u8> {
        (!self.rest.is_empty()).then(|| self.rest.get_u8())
    }

    /// The next 2 bytes as a number with a sign.
    pub fn i16(&mut self) -> Option<i16> {
        (self.rest.len() >= 2).then(|| self.rest.get_i16())
    }

    /// The next 4 bytes as a number with a sign.
    pub fn i32(&mut self) -> Option<i32> {
        (self.rest.len() >= 4).then(|| self.rest.get_i32())
    }

    /// The next 4 bytes as a number.
    pub fn u32(&mut self) -> Option<u32> {
        (self.rest.len() >= 4).then(|| self.rest.get_u32())
    }

    /// The next 8 bytes as a number.
    pub fn u64(&mut self) -> Option<u64> {
        (self.rest.len() >= 8).then(|| self.rest.get_u64())
    }

    /// A text that ends with a zero.
    pub fn text(&mut self) -> Option<String> {
        let end = memchr::memchr(0, &self.rest)?;
        let text = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        self.rest.advance(end + 1);
        Some(text)
    }

    /// A value with its length before it; the inner `None` is NULL.
    pub fn value(&mut self) -> Option<Option<Bytes>> {
        match self.i32()? {
            -1 => Some(None),
            length => self.bytes(usize::try_from(length).ok()?).map(Some),
        }
    }
}

/// One column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The number of its type in the server's catalogue.
    pub oid: u32,
    /// What the type is bounded by, as in `numeric(10,2)`; -1 without it.
    pub modifier: i32,
}

/// The columns of a `RowDescription`.
pub fn columns(body: &Bytes) -> Option<Vec<Column>> {
    let mut reader = Reader::new(body);
    let count = usize::try_from(reader.i16()?).ok()?;
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let name = reader.text()?;
        reader.bytes(6)?;
        let oid = reader.u32()?;
        reader.bytes(2)?;
        let modifier = reader.i32()?;
        reader.bytes(2)?;
        columns.push(Column {
            name,
            oid,
            modifier,
        });
    }
    Some(columns)
}

/// The values of a `DataRow`.
pub fn values(body: &Bytes) -> Option<Vec<Option<Bytes>>> {
    let mut reader = Reader::new(body);
    let count = usize::try_from(reader.i16()?).ok()?;
    (0..count).map(|_| reader.value()).collect()
}

/// What the server says of a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// Five letters: the first two name the class.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// More about it, where the server has more.
    pub detail: String,
    /// The way out, where the server knows one.
    pub hint: String,
    /// The column, where it is about one.
    pub column: String,
    /// Where a COPY failed: `COPY t, line 3, column a`.
    pub place: String,
}

/// The fields of an `ErrorResponse`.
pub fn server_error(body: &Bytes) -> ServerError {
    let mut reader = Reader::new(body);
    let mut error = ServerError::default();
    while let Some(field) = reader.u8() {
        if field == 0 {
            break;
        }
        let Some(text) = reader.text() else { break };
        match field {
            b'C' => error.code = text,
            b'M' => error.message = text,
            b'D' => error.detail = text,
            b'H' => error.hint = text,
            b'c' => error.column = text,
            b'W' => error.place = text,
            _ => {}
        }
    }
    error
}

/// Appends a message: its letter, the length, and what `body` writes.
fn message(out: &mut Vec<u8>, letter: Option<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.extend(letter);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    // A zero would end the text; no name or statement has one.
    out.extend(text.bytes().filter(|byte| *byte != 0));
    out.push(0);
}

/// Asks for encryption.
pub fn ssl_request(out: &mut Vec<u8>) {
    message(out, None, |out| {
        out.extend_from_slice(&SSL_REQUEST.to_be_bytes());
    });
}

/// The first message, with the session's settings.
pub fn startup(out: &mut Vec<u8>, settings: &[(&str, &str)]) {
    message(out, None, |out| {
        out.extend_from_slice(&VERSION_3.to_be_bytes());
        for (name, value) in settings {
            text(out, name);
            text(out, value);
        }
        out.push(0);
    });
}

/// An answer of the authentication; a password is one that ends with a zero.
pub fn password(out: &mut Vec<u8>, answer: &[u8]) {
    message(out, Some(b'p'), |out| out.extend_from_slice(answer));
}

/// The first answer of SASL: the mechanism and its first message.
pub fn sasl_first(out: &mut Vec<u8>, mechanism: &str, first: &[u8]) {
    message(out, Some(b'p'), |out| {
        text(out, mechanism);
        out.extend_from_slice(&u32::try_from(first.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(first);
    });
}

/// A statement, or several with semicolons between them.
pub fn query(out: &mut Vec<u8>, sql: &str) {
    message(out, Some(b'Q'), |out| text(out, sql));
}

/// Parses, binds and describes a statement with parameters as text, and asks for so many rows; 0 asks for all.
pub fn execute(out: &mut Vec<u8>, sql: &str, parameters: &[Option<&str>], rows: u32) {
    message(out, Some(b'P'), |out| {
        text(out, "");
        text(out, sql);
        out.extend_from_slice(&[0; 2]);
    });
    message(out, Some(b'B'), |out| {
        text(out, "");
        text(out, "");
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&u16::try_from(parameters.len()).unwrap_or(0).to_be_bytes());
        for parameter in parameters {
            match parameter {
                None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(value) => {
                    let length = u32::try_from(value.len()).unwrap_or(0);
                    out.extend_from_slice(&length.to_be_bytes());
                    out.extend_from_slice(value.as_bytes());
                }
            }
        }
        out.extend_from_slice(&[0; 2]);
    });
    message(out, Some(b'D'), |out| {
        out.push(b'P');
        text(out, "");
    });
    more(out, rows);
}

/// Asks for so many rows of the statement that is under way.
pub fn more(out: &mut Vec<u8>, rows: u32) {
    message(out, Some(b'E'), |out| {
        text(out, "");
        out.extend_from_slice(&rows.to_be_bytes());
    });
    message(out, Some(b'H'), |_| {});
}

/// Ends a statement with parameters.
pub fn sync(out: &mut Vec<u8>) {
    message(out, Some(b'S'), |_| {});
}

/// Rows of a COPY, or a message of a replication stream.
pub fn copy_data(out: &mut Vec<u8>, data: &[u8]) {
    message(out, Some(b'd'), |out| out.extend_from_slice(data));
}

/// The end of a COPY.
pub fn copy_done(out: &mut Vec<u8>) {
    message(out, Some(b'c'), |_| {});
}

/// The end of the session.
pub fn terminate(out: &mut Vec<u8>) {
    message(out, Some(b'X'), |_| {});
}

/// A text as a literal of SQL.
pub fn literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    match quoted.contains('\\') {
        true => format!("E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

/// A name as an identifier of SQL.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_whole_and_no_impossible_length_is_waited_for() {
        let mut buffer = BytesMut::from(&b"Z\0\0\0\x05IZ\0\0"[..]);
        let message = next(&mut buffer).unwrap().expect("a message");
        assert_eq!((message.letter, &message.body[..]), (b'Z', &b"I"[..]));
        assert!(next(&mut buffer).unwrap().is_none());
        for length in [3_u32, u32::MAX] {
            let mut bytes = vec![b'D'];
            bytes.extend(length.to_be_bytes());
            assert!(next(&mut BytesMut::from(&bytes[..])).is_err(), "{length}");
        }
    }

    #[test]
    fn a_body_that_is_too_short_is_not_read() {
        for body in [&b""[..], b"\0\x02\0\0\0\x01a", b"\0\x01\0\0\0\x09a"] {
            assert_eq!(values(&Bytes::copy_from_slice(body)), None);
        }
        let row = values(&Bytes::from_static(b"\0\x02\0\0\0\x01a\xff\xff\xff\xff"));
        assert_eq!(row, Some(vec![Some(Bytes::from_static(b"a")), None]));
        assert_eq!(server_error(&Bytes::from_static(b"C425")).code, "");
    }

    #[test]
    fn values_and_names_end_where_they_end() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }
}
