//! Thrift's binary protocol: calls as bytes, and answers from bytes.

use super::limits::{ANSWER_BYTES_MAX, DEPTH_MAX};

/// Types of values.
pub mod kind {
    pub const STOP: u8 = 0;
    pub const BOOL: u8 = 2;
    pub const BYTE: u8 = 3;
    pub const DOUBLE: u8 = 4;
    pub const I16: u8 = 6;
    pub const I32: u8 = 8;
    pub const I64: u8 = 10;
    pub const BYTES: u8 = 11;
    pub const STRUCT: u8 = 12;
    pub const MAP: u8 = 13;
    pub const SET: u8 = 14;
    pub const LIST: u8 = 15;
}

/// The first bytes of a message, before its type.
const VERSION: u32 = 0x8001_0000;
const CALL: u32 = 1;
const REPLY: u32 = 2;
const EXCEPTION: u32 = 3;
/// The code of an exception that says that there is no such method.
const UNKNOWN_METHOD: i32 = 1;

/// A call that is being written, or a part of one.
#[derive(Clone, Debug, Default)]
pub struct ThriftWriter {
    out: Vec<u8>,
}

impl ThriftWriter {
    /// Begins a call of a method.
    pub fn call(method: &str) -> ThriftWriter {
        let mut call = ThriftWriter::default();
        call.out.extend_from_slice(&(VERSION | CALL).to_be_bytes());
        call.push(method.as_bytes());
        call.out.extend_from_slice(&0_u32.to_be_bytes());
        call
    }

    /// Ends the arguments, which are a structure.
    pub fn finish(mut self) -> Vec<u8> {
        self.end();
        self.out
    }

    fn push(&mut self, bytes: &[u8]) {
        self.out
            .extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        self.out.extend_from_slice(bytes);
    }

    /// Begins a field; its value follows.
    pub fn field(&mut self, kind: u8, id: i16) {
        self.out.push(kind);
        self.out.extend_from_slice(&id.to_be_bytes());
    }

    /// Ends a structure.
    pub fn end(&mut self) {
        self.out.push(kind::STOP);
    }

    /// Begins a list, whose values follow.
    pub fn list(&mut self, id: i16, of: u8, count: usize) {
        self.field(kind::LIST, id);
        self.out.push(of);
        self.out.extend_from_slice(&(count as u32).to_be_bytes());
    }

    pub fn bytes(&mut self, id: i16, value: &[u8]) {
        self.field(kind::BYTES, id);
        self.push(value);
    }

    pub fn i32(&mut self, id: i16, value: i32) {
        self.field(kind::I32, id);
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i64(&mut self, id: i16, value: i64) {
        self.field(kind::I64, id);
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub fn bool(&mut self, id: i16, value: bool) {
        self.field(kind::BOOL, id);
        self.out.push(u8::from(value));
    }

    /// A field whose value is there as bytes of the protocol.
    pub fn raw(&mut self, kind: u8, id: i16, value: &[u8]) {
        self.field(kind, id);
        self.out.extend_from_slice(value);
    }
}

/// Why an answer cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThriftUnreadable {
    /// It is no answer of this protocol.
    Strange,
    /// It is larger than is taken.
    TooLarge,
}

/// Finds the end of a message whose bytes come one after another.
#[derive(Debug, Default)]
pub struct MessageEnd {
    at: usize,
    begun: bool,
    open: Vec<OpenValue>,
}

#[derive(Clone, Copy, Debug)]
enum OpenValue {
    Struct,
    Value(u8),
    /// So many values are to come, of these types in turn.
    Items([u8; 2], u64),
}

impl MessageEnd {
    /// Looks at the bytes so far, those included that it was given before; the length of the message once it is whole.
    ///
    /// # Errors
    /// Bytes of another protocol, or too many of them.
    pub fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, ThriftUnreadable> {
        if !self.begun {
            let Some(head) = bytes.first_chunk::<8>() else {
                return Ok(None);
            };
            let (first, name) = (be32(&head[..4]), be32(&head[4..]));
            if first & 0xffff_0000 != VERSION || name > 1_000 {
                return Err(ThriftUnreadable::Strange);
            }
            self.at = 12 + name as usize;
            self.begun = true;
            self.open.push(OpenValue::Struct);
        }
        while let Some(open) = self.open.pop() {
            if !self.step(open, bytes)? {
                self.open.push(open);
                return match bytes.len() > ANSWER_BYTES_MAX {
                    true => Err(ThriftUnreadable::TooLarge),
                    false => Ok(None),
                };
            }
            if self.open.len() > DEPTH_MAX {
                return Err(ThriftUnreadable::Strange);
            }
        }
        Ok(Some(self.at))
    }

    /// Takes the next part of what is open; false if its bytes are not there yet.
    fn step(&mut self, open: OpenValue, bytes: &[u8]) -> Result<bool, ThriftUnreadable> {
        let rest = bytes.get(self.at..).unwrap_or_default();
        let counted = |count: u32| match count as usize > ANSWER_BYTES_MAX {
            true => Err(ThriftUnreadable::TooLarge),
            false => Ok(count),
        };
        match open {
            OpenValue::Struct => match rest {
                [kind::STOP, ..] => self.at += 1,
                [of, _, _, ..] => {
                    self.at += 3;
                    self.open.push(OpenValue::Struct);
                    self.open.push(OpenValue::Value(*of));
                }
                _ => return Ok(false),
            },
            OpenValue::Items(_, 0) => {}
            OpenValue::Items([of, other], left) => {
                self.open.push(OpenValue::Items([other, of], left - 1));
                self.open.push(OpenValue::Value(of));
            }
            OpenValue::Value(of) => {
                let length = match of {
                    kind::BOOL | kind::BYTE => 1,
                    kind::I16 => 2,
                    kind::I32 => 4,
                    kind::I64 | kind::DOUBLE => 8,
                    kind::BYTES => match rest.first_chunk::<4>() {
                        Some(length) => 4 + counted(be32(length))? as usize,
                        None => return Ok(false),
                    },
                    kind::STRUCT => {
                        self.open.push(OpenValue::Struct);
                        0
                    }
                    kind::LIST | kind::SET => {
                        let Some(head) = rest.first_chunk::<5>() else {
                            return Ok(false);
                        };
                        let count = counted(be32(&head[1..]))?;
                        self.open.push(OpenValue::Items([head[0]; 2], count.into()));
                        5
                    }
                    kind::MAP => {
                        let Some(head) = rest.first_chunk::<6>() else {
                            return Ok(false);
                        };
                        let count = counted(be32(&head[2..]))?;
                        self.open
                            .push(OpenValue::Items([head[0], head[1]], 2 * u64::from(count)));
                        6
                    }
                    _ => return Err(ThriftUnreadable::Strange),
                };
                if rest.len() < length {
                    return Ok(false);
                }
                self.at += length;
            }
        }
        Ok(true)
    }
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |n, byte| n << 8 | u32::from(*byte))
}

/// Reads a whole answer. Past its end everything is empty, and [`ThriftReader::is_sound`] false.
#[derive(Clone, Copy, Debug)]
pub struct ThriftReader<'a> {
    rest: &'a [u8],
    is_sound: bool,
}

/// What the other side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThriftFault {
    /// HBase refuses or cannot do it: what it says, and whether it may be tried again.
    Io(String, bool),
    /// The server does not know the method.
    Application(String),
    /// The answer cannot be understood.
    Strange,
}

impl<'a> ThriftReader<'a> {
    /// A whole message: what the method answered, read by `read` from the value, whose type it is given; none if it answers
    /// nothing.
    ///
    /// # Errors
    /// What the other side says in place of an answer.
    pub fn answer<T>(
        message: &'a [u8],
        read: impl FnOnce(&mut ThriftReader<'a>, u8) -> T,
    ) -> Result<Option<T>, ThriftFault> {
        let mut reader = ThriftReader {
            rest: message,
            is_sound: true,
        };
        let kind = (reader.i32() as u32) & 0xff;
        reader.take_bytes();
        reader.i32();
        let (mut read, mut answer) = (Some(read), None);
        let (mut said, mut code) = (String::new(), 0);
        while let Some((of, id)) = reader.field() {
            match (kind, id) {
                (REPLY, 0) if answer.is_none() => {
                    answer = read.take().map(|read| read(&mut reader, of));
                }
                (REPLY, _) if of == kind::STRUCT => return Err(reader.io_error()),
                (EXCEPTION, 1) if of == kind::BYTES => said = reader.text(),
                (EXCEPTION, 2) if of == kind::I32 => code = reader.i32(),
                _ => reader.skip(of),
            }
        }
        if kind == EXCEPTION && reader.is_sound {
            return Err(match code {
                UNKNOWN_METHOD => ThriftFault::Application(said),
                // It failed within.
                _ => ThriftFault::Io(said, true),
            });
        }
        match reader.is_sound && kind == REPLY {
            true => Ok(answer),
            false => Err(ThriftFault::Strange),
        }
    }

    fn io_error(&mut self) -> ThriftFault {
        let (mut message, mut can_retry) = (String::new(), false);
        while let Some((of, id)) = self.field() {
            match (of, id) {
                (kind::BYTES, 1) => message = self.text(),
                (kind::BOOL, 2) => can_retry = self.bool(),
                _ => self.skip(of),
            }
        }
        ThriftFault::Io(message, can_retry)
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.rest.split_first_chunk::<N>() {
            Some((bytes, rest)) => {
                self.rest = rest;
                *bytes
            }
            None => {
                (self.rest, self.is_sound) = (&[], false);
                [0; N]
            }
        }
    }

    /// The type and number of the next field of a structure; none at its end.
    pub fn field(&mut self) -> Option<(u8, i16)> {
        let [of] = self.take();
        (of != kind::STOP).then(|| (of, i16::from_be_bytes(self.take())))
    }

    /// The type of a list's values, and their number.
    pub fn list(&mut self) -> (u8, usize) {
        let [of] = self.take();
        let count = u32::from_be_bytes(self.take()) as usize;
        // Each value has at least one byte.
        (of, count.min(self.rest.len()))
    }

    pub fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }

    pub fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take())
    }

    pub fn bool(&mut self) -> bool {
        self.take() == [1]
    }

    pub fn take_bytes(&mut self) -> &'a [u8] {
        let length = u32::from_be_bytes(self.take()) as usize;
        match self.rest.split_at_checked(length) {
            Some((bytes, rest)) => {
                self.rest = rest;
                bytes
            }
            None => {
                (self.rest, self.is_sound) = (&[], false);
                &[]
            }
        }
    }

    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.take_bytes()).into_owned()
    }

    /// The value as bytes of the protocol.
    pub fn raw(&mut self, of: u8) -> &'a [u8] {
        let before = self.rest;
        self.skip(of);
        &before[..before.len() - self.rest.len()]
    }

    /// Leaves out a value. [`MessageEnd`] has seen to it that it is not nested too deeply.
    pub fn skip(&mut self, of: u8) {
        match of {
            kind::BOOL | kind::BYTE => drop(self.take::<1>()),
            kind::I16 => drop(self.take::<2>()),
            kind::I32 => drop(self.take::<4>()),
            kind::I64 | kind::DOUBLE => drop(self.take::<8>()),
            kind::BYTES => drop(self.take_bytes()),
            kind::STRUCT => {
                while let Some((of, _)) = self.field() {
                    self.skip(of);
                }
            }
            kind::LIST | kind::SET => {
                let (of, count) = self.list();
                (0..count).for_each(|_| self.skip(of));
            }
            kind::MAP => {
                let [key] = self.take();
                let (value, count) = self.list();
                for _ in 0..count {
                    self.skip(key);
                    self.skip(value);
                }
            }
            _ => (self.rest, self.is_sound) = (&[], false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with a list of two structures, a map and an error that nobody reads.
    fn reply() -> Vec<u8> {
        let mut out = ThriftWriter::default();
        out.out.extend_from_slice(&(VERSION | REPLY).to_be_bytes());
        out.push(b"get");
        out.out.extend_from_slice(&7_u32.to_be_bytes());
        out.list(0, kind::STRUCT, 2);
        for n in [1, -2] {
            out.i64(1, n);
            out.bytes(2, b"\0");
            out.raw(kind::MAP, 3, &[kind::BYTE, kind::BOOL, 0, 0, 0, 1, 5, 1]);
            out.end();
        }
        out.finish()
    }

    fn numbers(message: &[u8]) -> Result<Option<Vec<i64>>, ThriftFault> {
        ThriftReader::answer(message, |reader, _| {
            let (_, count) = reader.list();
            let number = |_| {
                let mut found = 0;
                while let Some((of, id)) = reader.field() {
                    match id {
                        1 => found = reader.i64(),
                        _ => reader.skip(of),
                    }
                }
                found
            };
            (0..count).map(number).collect()
        })
    }

    #[test]
    fn an_answer_is_whole_at_its_last_byte_and_not_before() {
        let reply = reply();
        assert_eq!(numbers(&reply), Ok(Some(vec![1, -2])));
        let mut end = MessageEnd::default();
        for length in 0..reply.len() {
            assert_eq!(end.find(&reply[..length]), Ok(None), "{length}");
        }
        let more = [&reply[..], b"next"].concat();
        assert_eq!(end.find(&more), Ok(Some(reply.len())));
        assert_eq!(MessageEnd::default().find(&more), Ok(Some(reply.len())));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let find = |bytes: &[u8]| MessageEnd::default().find(bytes);
        assert_eq!(find(b"HTTP/1.1 400 Bad"), Err(ThriftUnreadable::Strange));
        let mut reply = reply();
        let head = 15;
        assert_eq!(reply[head], kind::LIST);
        // A count that no answer has, a type that there is not, and structures within structures.
        let large = [&reply[..head + 4], &[0x7f; 4]].concat();
        assert_eq!(find(&large), Err(ThriftUnreadable::TooLarge));
        let deep = [&reply[..head], &[kind::STRUCT, 0, 1].repeat(100)].concat();
        assert_eq!(find(&deep), Err(ThriftUnreadable::Strange));
        reply[head] = 9;
        assert_eq!(find(&reply), Err(ThriftUnreadable::Strange));
        reply.truncate(head);
        assert_eq!(numbers(&reply), Err(ThriftFault::Strange));
    }
}
