//! The native protocol, version 4: bytes in, answers out. Knows no sockets.
//!
//! A frame is a header of 9 bytes, version, flags, number of the request, kind and length, and a body.

use bytes::{Buf, Bytes, BytesMut};

use super::kind::CqlType;
use super::limits::{ANSWER_BYTES_MAX, COLUMNS_MAX, DEPTH_MAX};

const VERSION: u8 = 4;
const HEADER_BYTES: usize = 9;

/// A request. Not shown: it may hold a password.
#[derive(Clone)]
pub struct CqlRequest {
    kind: u8,
    pub body: Vec<u8>,
}

/// What the server answers.
#[derive(Debug)]
pub enum CqlAnswer {
    Ready,
    /// It wants to know who asks.
    Authenticate,
    Prepared(CqlPrepared),
    Rows(CqlRows),
    /// Done, without rows.
    Done,
    Refused(CqlRefusal),
}

/// Why the server refused a request.
#[derive(Clone, Debug)]
pub struct CqlRefusal {
    pub code: i32,
    pub said: String,
}

/// A statement that the server knows.
#[derive(Clone, Debug)]
pub struct CqlPrepared {
    pub id: Bytes,
    /// The values that it takes.
    pub takes: Vec<CqlColumn>,
}

/// A column of an answer, or a value that is bound.
#[derive(Clone, Debug)]
pub struct CqlColumn {
    pub name: String,
    pub kind: CqlType,
}

/// A page of rows.
#[derive(Debug)]
pub struct CqlRows {
    pub columns: Vec<CqlColumn>,
    /// Where the next page begins; none behind the last one.
    pub more: Option<Bytes>,
    pub count: usize,
    cells: CqlBody,
}

/// How many rows a request asks for, and behind what.
#[derive(Clone, Debug, Default)]
pub struct CqlPage {
    /// Rows; all where it is 0.
    pub rows: usize,
    pub behind: Option<Bytes>,
}

/// An answer that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub enum CqlUnreadable {
    /// It is none of this protocol: what was wrong.
    Strange(&'static str),
    /// It is larger than is taken.
    TooLarge,
}

/// A prepared statement with its values.
#[derive(Clone, Copy, Debug)]
pub struct CqlBound<'a> {
    pub id: &'a [u8],
    /// How many values there are.
    pub count: usize,
    /// The values, written with [`write_value`].
    pub values: &'a [u8],
}

/// How many servers of the cluster must have done what is asked.
pub type CqlConsistency = u16;

const STRANGE: CqlUnreadable = CqlUnreadable::Strange("an answer that ends too early");

impl CqlRequest {
    /// The first request of a connection.
    pub fn startup() -> CqlRequest {
        let mut body = Vec::new();
        let options = [("CQL_VERSION", "3.0.0"), ("DRIVER_NAME", "Busbar")];
        body.extend_from_slice(&(options.len() as u16).to_be_bytes());
        for (name, value) in options {
            write_string(name, &mut body);
            write_string(value, &mut body);
        }
        CqlRequest { kind: 0x01, body }
    }

    /// User and password, as SASL's PLAIN has them.
    pub fn credentials(user: &str, password: &str) -> CqlRequest {
        let mut body = Vec::new();
        let token = [&[0], user.as_bytes(), &[0], password.as_bytes()].concat();
        write_value(Some(&token), &mut body);
        CqlRequest { kind: 0x0f, body }
    }

    /// A statement without values.
    pub fn query(text: &str, consistency: CqlConsistency) -> CqlRequest {
        let mut body = Vec::with_capacity(text.len() + 16);
        write_value(Some(text.as_bytes()), &mut body);
        body.extend_from_slice(&consistency.to_be_bytes());
        body.push(0);
        CqlRequest { kind: 0x07, body }
    }

    pub fn prepare(text: &str) -> CqlRequest {
        let mut body = Vec::with_capacity(text.len() + 4);
        write_value(Some(text.as_bytes()), &mut body);
        CqlRequest { kind: 0x09, body }
    }

    /// Runs a prepared statement.
    pub fn execute(bound: CqlBound<'_>, consistency: CqlConsistency, page: &CqlPage) -> CqlRequest {
        let CqlBound { id, count, values } = bound;
        let mut body = Vec::with_capacity(id.len() + values.len() + 64);
        write_bytes(id, &mut body);
        body.extend_from_slice(&consistency.to_be_bytes());
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        body.push(flag(count > 0, 1) | flag(page.rows > 0, 4) | flag(page.behind.is_some(), 8));
        if count > 0 {
            body.extend_from_slice(&(count as u16).to_be_bytes());
            body.extend_from_slice(values);
        }
        if page.rows > 0 {
            body.extend_from_slice(&(page.rows as i32).to_be_bytes());
        }
        if let Some(behind) = &page.behind {
            write_value(Some(behind), &mut body);
        }
        CqlRequest { kind: 0x0a, body }
    }

    /// Runs prepared statements together.
    pub fn batch(statements: &[CqlBound<'_>], consistency: CqlConsistency) -> CqlRequest {
        let mut body = Vec::new();
        // Not logged: all rows are of one partition, which the server writes as a whole.
        body.push(1);
        body.extend_from_slice(&(statements.len() as u16).to_be_bytes());
        for bound in statements {
            body.push(1);
            write_bytes(bound.id, &mut body);
            body.extend_from_slice(&(bound.count as u16).to_be_bytes());
            body.extend_from_slice(bound.values);
        }
        body.extend_from_slice(&consistency.to_be_bytes());
        body.push(0);
        CqlRequest { kind: 0x0d, body }
    }

    /// Appends the whole frame.
    pub fn write(&self, number: u16, out: &mut BytesMut) {
        out.reserve(HEADER_BYTES + self.body.len());
        out.extend_from_slice(&[VERSION, 0]);
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&[self.kind]);
        out.extend_from_slice(&(self.body.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.body);
    }
}

/// Writes a value with its length; none for null.
pub fn write_value(value: Option<&[u8]>, out: &mut Vec<u8>) {
    match value {
        Some(value) => {
            out.extend_from_slice(&(value.len() as i32).to_be_bytes());
            out.extend_from_slice(value);
        }
        None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
    }
}

/// Writes that a column keeps its value.
pub fn write_unset(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-2_i32).to_be_bytes());
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    write_bytes(text.as_bytes(), out);
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Takes the next answer off what was received, with the number of its request; none until it has come whole.
///
/// # Errors
/// It cannot be read; nor can what follows it.
pub fn take_answer(buffer: &mut BytesMut) -> Result<Option<(u16, CqlAnswer)>, CqlUnreadable> {
    if buffer.len() < HEADER_BYTES {
        // Something else than Cassandra speaks earlier.
        return match buffer.first() {
            Some(first) if *first != VERSION | 0x80 => Err(version(*first)),
            _ => Ok(None),
        };
    }
    if buffer[0] != VERSION | 0x80 {
        return Err(version(buffer[0]));
    }
    let (flags, kind) = (buffer[1], buffer[4]);
    let number = u16::from_be_bytes([buffer[2], buffer[3]]);
    let length = u32::from_be_bytes([buffer[5], buffer[6], buffer[7], buffer[8]]) as usize;
    if length > ANSWER_BYTES_MAX {
        return Err(CqlUnreadable::TooLarge);
    }
    if buffer.len() < HEADER_BYTES + length {
        buffer.reserve(HEADER_BYTES + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    let body = CqlBody(buffer.split_to(length).freeze());
    read_answer(flags, kind, body).map(|answer| Some((number, answer)))
}

fn version(first: u8) -> CqlUnreadable {
    CqlUnreadable::Strange(match first & 0x80 {
        0 => "another protocol",
        _ => "another version of the protocol than 4",
    })
}

fn read_answer(flags: u8, kind: u8, mut body: CqlBody) -> Result<CqlAnswer, CqlUnreadable> {
    if flags & 1 != 0 {
        return Err(CqlUnreadable::Strange(
            "a compressed answer, which was not asked for",
        ));
    }
    if flags & 2 != 0 {
        body.bytes(16)?;
    }
    if flags & 8 != 0 {
        for _ in 0..body.short()? {
            body.string()?;
        }
    }
    if flags & 4 != 0 {
        for _ in 0..body.short()? {
            body.string()?;
            body.value()?;
        }
    }
    Ok(match kind {
        0x00 => CqlAnswer::Refused(CqlRefusal {
            code: body.int()?,
            said: body.string()?,
        }),
        0x02 | 0x10 => CqlAnswer::Ready,
        0x03 => CqlAnswer::Authenticate,
        0x08 => return read_result(body),
        _ => return Err(CqlUnreadable::Strange("an answer of an unknown kind")),
    })
}

fn read_result(mut body: CqlBody) -> Result<CqlAnswer, CqlUnreadable> {
    match body.int()? {
        2 => {
            let head = body.head(false)?;
            let count = body.count(usize::MAX)?;
            // Each cell takes four bytes, so that no count is believed that the body cannot hold. No row is without columns.
            let least = count.checked_mul(4 * head.columns.len().max(1));
            let fits = least.is_some_and(|least| least <= body.0.len());
            if !fits {
                return Err(STRANGE);
            }
            Ok(CqlAnswer::Rows(CqlRows {
                columns: head.columns,
                more: head.more,
                count,
                cells: body,
            }))
        }
        4 => {
            let length = usize::from(body.short()?);
            let id = body.bytes(length)?;
            let takes = body.head(true)?.columns;
            Ok(CqlAnswer::Prepared(CqlPrepared { id, takes }))
        }
        1 | 3 | 5 => Ok(CqlAnswer::Done),
        _ => Err(CqlUnreadable::Strange("a result of an unknown kind")),
    }
}

impl CqlRows {
    /// The values of the next row; none behind the last one.
    ///
    /// # Errors
    /// The answer ends too early.
    pub fn next(&mut self) -> Result<Option<Vec<Option<Bytes>>>, CqlUnreadable> {
        if self.count == 0 {
            return Ok(None);
        }
        self.count -= 1;
        let values = self.columns.iter().map(|_| self.cells.value());
        values.collect::<Result<_, _>>().map(Some)
    }
}

/// What is left of a body.
#[derive(Debug)]
struct CqlBody(Bytes);

/// What stands before rows.
struct RowsHead {
    columns: Vec<CqlColumn>,
    more: Option<Bytes>,
}

impl CqlBody {
    fn bytes(&mut self, count: usize) -> Result<Bytes, CqlUnreadable> {
        match self.0.len() >= count {
            true => Ok(self.0.split_to(count)),
            false => Err(STRANGE),
        }
    }

    fn short(&mut self) -> Result<u16, CqlUnreadable> {
        Ok(self.bytes(2)?.get_u16())
    }

    fn int(&mut self) -> Result<i32, CqlUnreadable> {
        Ok(self.bytes(4)?.get_i32())
    }

    fn count(&mut self, most: usize) -> Result<usize, CqlUnreadable> {
        let count = usize::try_from(self.int()?);
        let count = count.ok().filter(|count| *count <= most);
        count.ok_or(CqlUnreadable::Strange("a number that cannot be"))
    }

    fn string(&mut self) -> Result<String, CqlUnreadable> {
        let length = usize::from(self.short()?);
        let text = self.bytes(length)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn value(&mut self) -> Result<Option<Bytes>, CqlUnreadable> {
        match usize::try_from(self.int()?) {
            Ok(length) => self.bytes(length).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The columns that stand before rows, or those of a statement that is prepared.
    fn head(&mut self, prepared: bool) -> Result<RowsHead, CqlUnreadable> {
        let flags = self.int()?;
        let count = self.count(COLUMNS_MAX)?;
        if prepared {
            for _ in 0..self.count(COLUMNS_MAX)? {
                self.short()?;
            }
        }
        let more = match flags & 2 {
            0 => None,
            _ => self.value()?,
        };
        // Without columns: those of a statement that answers with none.
        if flags & 4 != 0 {
            return match count {
                0 => Ok(RowsHead {
                    columns: Vec::new(),
                    more,
                }),
                _ => Err(CqlUnreadable::Strange("rows without their columns")),
            };
        }
        let global = flags & 1 != 0;
        if global {
            self.string()?;
            self.string()?;
        }
        let mut columns = Vec::new();
        for _ in 0..count {
            if !global {
                self.string()?;
                self.string()?;
            }
            let name = self.string()?;
            let kind = self.kind(DEPTH_MAX)?;
            columns.push(CqlColumn { name, kind });
        }
        Ok(RowsHead { columns, more })
    }

    fn kind(&mut self, depth: usize) -> Result<CqlType, CqlUnreadable> {
        let Some(inner) = depth.checked_sub(1) else {
            return Err(CqlUnreadable::Strange("a type that is nested too deep"));
        };
        Ok(match self.short()? {
            0x00 => CqlType::of_class(&self.string()?),
            0x01 => CqlType::Ascii,
            0x02 => CqlType::Bigint,
            0x03 => CqlType::Blob,
            0x04 => CqlType::Boolean,
            0x05 => CqlType::Counter,
            0x06 => CqlType::Decimal,
            0x07 => CqlType::Double,
            0x08 => CqlType::Float,
            0x09 => CqlType::Int,
            0x0a | 0x0d => CqlType::Text,
            0x0b => CqlType::Timestamp,
            0x0c => CqlType::Uuid,
            0x0e => CqlType::Varint,
            0x0f => CqlType::Timeuuid,
            0x10 => CqlType::Inet,
            0x11 => CqlType::Date,
            0x12 => CqlType::Time,
            0x13 => CqlType::Smallint,
            0x14 => CqlType::Tinyint,
            0x15 => CqlType::Duration,
            0x20 => CqlType::List(Box::new(self.kind(inner)?)),
            0x21 => {
                let key = Box::new(self.kind(inner)?);
                CqlType::Map(key, Box::new(self.kind(inner)?))
            }
            0x22 => CqlType::Set(Box::new(self.kind(inner)?)),
            0x30 => {
                self.string()?;
                self.string()?;
                let mut fields = Vec::new();
                for _ in 0..self.short()? {
                    let name = self.string()?;
                    fields.push((name, self.kind(inner)?));
                }
                CqlType::Udt(fields)
            }
            0x31 => {
                let mut parts = Vec::new();
                for _ in 0..self.short()? {
                    parts.push(self.kind(inner)?);
                }
                CqlType::Tuple(parts)
            }
            _ => return Err(CqlUnreadable::Strange("a type that is not known")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(kind: u8, body: &[u8]) -> BytesMut {
        let mut frame = BytesMut::new();
        frame.extend_from_slice(&[0x84, 0, 0, 7, kind]);
        frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
        frame.extend_from_slice(body);
        frame
    }

    /// Two rows of an `int` and a list of texts, and where the next page begins.
    fn page() -> Vec<u8> {
        let mut body = Vec::new();
        for number in [2_i32, 1 | 2, 2] {
            body.extend_from_slice(&number.to_be_bytes());
        }
        write_value(Some(b"next"), &mut body);
        for text in ["ks", "t", "id"] {
            write_string(text, &mut body);
        }
        body.extend_from_slice(&[0, 9]);
        write_string("names", &mut body);
        body.extend_from_slice(&[0, 0x20, 0, 0x0d]);
        body.extend_from_slice(&2_i32.to_be_bytes());
        for id in [1_i32, 2] {
            write_value(Some(&id.to_be_bytes()), &mut body);
            write_value(None, &mut body);
        }
        body
    }

    #[test]
    fn a_page_is_read_and_each_part_of_it_is_none() {
        let body = page();
        let whole = framed(8, &body);
        let (number, answer) = take_answer(&mut whole.clone()).unwrap().expect("whole");
        let CqlAnswer::Rows(mut rows) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(
            (number, rows.count, rows.more.as_deref()),
            (7, 2, Some(&b"next"[..]))
        );
        assert_eq!(rows.columns[1].kind, CqlType::List(Box::new(CqlType::Text)));
        let first = rows.next().unwrap().expect("a row");
        assert_eq!(first, [Some(Bytes::from_static(&[0, 0, 0, 1])), None]);
        assert!(rows.next().unwrap().is_some() && rows.next().unwrap().is_none());
        // What has not come whole is waited for.
        for length in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..length]);
            assert!(take_answer(&mut part).unwrap().is_none(), "{length}");
        }
        // A body that ends too early is told apart from one that has not come.
        for length in 0..body.len() {
            let answer = take_answer(&mut framed(8, &body[..length]));
            let read = match answer {
                Ok(Some((_, CqlAnswer::Rows(mut rows)))) => loop {
                    match rows.next() {
                        Ok(Some(_)) => {}
                        Ok(None) => break true,
                        Err(_) => break false,
                    }
                },
                other => other.is_ok(),
            };
            assert!(!read, "{length}");
        }
    }

    #[test]
    fn answers_that_cannot_be_are_refused() {
        let strange = |mut frame: BytesMut| take_answer(&mut frame).expect_err("strange");
        // Another protocol, at its first byte.
        strange(BytesMut::from(&b"H"[..]));
        strange(BytesMut::from(&[0x85][..]));
        let mut large = framed(8, b"");
        large[5] = 0x7f;
        assert_eq!(strange(large), CqlUnreadable::TooLarge);
        // More rows than the body can hold, types without end, and columns without number.
        let mut many = page();
        let at = many.len() - 24 - 4;
        many[at..at + 4].copy_from_slice(&i32::MAX.to_be_bytes());
        strange(framed(8, &many));
        // Rows without columns.
        let mut none = Vec::new();
        for number in [2_i32, 1 | 4, 0, i32::MAX] {
            none.extend_from_slice(&number.to_be_bytes());
        }
        strange(framed(8, &none));
        let mut deep = Vec::new();
        for number in [2_i32, 1, 1] {
            deep.extend_from_slice(&number.to_be_bytes());
        }
        for text in ["ks", "t", "id"] {
            write_string(text, &mut deep);
        }
        let kind = deep.len();
        deep.extend([0, 0x20].repeat(1_000));
        strange(framed(8, &deep));
        deep.truncate(kind);
        deep[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        strange(framed(8, &deep));
        strange(framed(0x55, b""));
    }
}
