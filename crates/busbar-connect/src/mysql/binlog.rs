//! Events of a binary log, of MySQL and of MariaDB, without checksums. Bytes in, events out.
//!
//! An event is a head of 19 bytes (time, type, server, length, place behind it, flags) and its body.

use bytes::Bytes;

use super::cell::{Kind, cell};
use super::follow::Described;
use super::wire::Reader;

/// A place in the log: the number at the end of the file's name, and the byte in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: u32,
    pub byte: u32,
}

impl Place {
    /// Both in one number, which grows with the place.
    pub fn number(self) -> u64 {
        u64::from(self.file) << 32 | u64::from(self.byte)
    }

    pub fn from_number(number: u64) -> Place {
        Place {
            file: (number >> 32) as u32,
            byte: number as u32,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The log goes on in this file.
    Rotate {
        file: String,
        byte: u64,
    },
    /// A transaction begins. Unless it has `begun`, the statement that follows begins it, or is all of it.
    Begin {
        id: String,
        begun: bool,
    },
    /// A statement as text: BEGIN, COMMIT, what defines tables.
    Statement {
        schema: String,
        sql: String,
    },
    /// The transaction is over.
    Commit,
    Table(TableMap),
    Rows(Rows),
    /// Nothing has happened up to the place.
    Heartbeat,
    /// What cannot be read: a transaction in one compressed event, compressed rows, a change of a part of a document.
    Unreadable(&'static str),
    Other,
}

/// An event with its head.
#[derive(Debug)]
pub struct Entry {
    /// Seconds since 1970.
    pub time: u32,
    /// The byte behind it; 0 for one that stands in no file.
    pub end: u32,
    pub event: Event,
}

/// A table as it was when the rows that follow were changed.
#[derive(Clone, Debug)]
pub struct TableMap {
    pub id: u64,
    pub schema: String,
    pub name: String,
    pub columns: Vec<Column>,
    /// Places of the columns of the primary key.
    pub key: Vec<usize>,
    /// Whether the names of the columns came along (`binlog_row_metadata = FULL`).
    pub full: bool,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
}

impl Column {
    /// Its name, and how its values are written.
    pub fn described(&self) -> Described {
        Described {
            name: self.name.clone(),
            shape: self.kind.shape(),
        }
    }
}

/// Changed rows of one table.
#[derive(Debug)]
pub struct Rows {
    pub table: u64,
    pub change: Change,
    /// The columns of the first image, and of the second one for updates.
    present: (Bytes, Bytes),
    body: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Insert,
    Update,
    Delete,
}

/// A value: `None` for NULL; a column that the image does not have is `Missing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Missing,
    Null,
    Text(Bytes),
}

/// Reads an event; `None` for one that ends too early.
pub fn entry(bytes: &Bytes) -> Option<Entry> {
    let mut reader = Reader::new(bytes);
    let time = reader.number(4)? as u32;
    let kind = reader.u8()?;
    let server = reader.number(4)?;
    reader.number(4)?;
    let end = reader.number(4)? as u32;
    let flags = reader.number(2)?;
    // An artificial event stands in no file.
    let end = if flags & 0x20 != 0 { 0 } else { end };
    let event = match kind {
        2 => {
            reader.number(8)?;
            let schema = usize::from(reader.u8()?);
            reader.number(2)?;
            let status = reader.number(2)? as usize;
            reader.bytes(status)?;
            let schema = String::from_utf8_lossy(&reader.bytes(schema)?).into_owned();
            reader.u8()?;
            let sql = String::from_utf8_lossy(&reader.rest).into_owned();
            Event::Statement { schema, sql }
        }
        4 => {
            let byte = reader.number(8)?;
            let file = String::from_utf8_lossy(&reader.rest).into_owned();
            Event::Rotate { file, byte }
        }
        16 => Event::Commit,
        19 => Event::Table(table(&mut reader)?),
        23 | 30 => Event::Rows(rows(&mut reader, Change::Insert, kind >= 30)?),
        24 | 31 => Event::Rows(rows(&mut reader, Change::Update, kind >= 30)?),
        25 | 32 => Event::Rows(rows(&mut reader, Change::Delete, kind >= 30)?),
        27 | 41 => Event::Heartbeat,
        33 | 34 => {
            reader.u8()?;
            let source: String = reader
                .bytes(16)?
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            Event::Begin {
                id: format!("{source}:{}", reader.number(8)?),
                begun: false,
            }
        }
        39 => Event::Unreadable("binlog_row_value_options"),
        40 => Event::Unreadable("binlog_transaction_compression"),
        // MariaDB's own: 160 notes the statement, 161 and 163 say how far the log is whole, 162 begins a transaction,
        // 164 an encrypted file, which the server decrypts for its readers; from 165 on what is compressed.
        162 => {
            let sequence = reader.number(8)?;
            let domain = reader.number(4)?;
            let flags = reader.u8()?;
            Event::Begin {
                id: format!("{domain}-{server}-{sequence}"),
                begun: flags & 1 == 0,
            }
        }
        165..=171 => Event::Unreadable("log_bin_compress"),
        _ => Event::Other,
    };
    Some(Entry { time, end, event })
}

fn table(reader: &mut Reader) -> Option<TableMap> {
    let id = reader.number(6)?;
    reader.number(2)?;
    let name = |reader: &mut Reader| {
        let length = usize::from(reader.u8()?);
        let name = String::from_utf8_lossy(&reader.bytes(length)?).into_owned();
        reader.u8()?;
        Some(name)
    };
    let (schema, table_name) = (name(reader)?, name(reader)?);
    let count = usize::try_from(reader.length()??).ok()?;
    let types = reader.bytes(count)?;
    let mut measures = Reader::new(&reader.value()??);
    reader.bytes(count.div_ceil(8))?;
    let mut kinds = Vec::with_capacity(count);
    for of in &types {
        kinds.push(Kind::read(*of, &mut measures)?);
    }
    let (mut names, mut key) = (Vec::new(), Vec::new());
    let mut members: [Vec<Vec<String>>; 2] = [Vec::new(), Vec::new()];
    while !reader.rest.is_empty() {
        let field = reader.u8()?;
        let mut value = Reader::new(&reader.value()??);
        match field {
            1 => {
                let numbers = kinds.iter_mut().filter(|kind| kind.is_number());
                for (at, kind) in numbers.enumerate() {
                    let byte = value.rest.get(at / 8)?;
                    kind.set_unsigned(byte >> (7 - at % 8) & 1 == 1);
                }
            }
            2 => {
                let common = value.length()??;
                let mut others = std::collections::HashMap::new();
                while !value.rest.is_empty() {
                    others.insert(value.length()??, value.length()??);
                }
                let texts = kinds.iter_mut().filter(|kind| kind.is_text());
                for (at, kind) in texts.enumerate() {
                    kind.set_collation(*others.get(&(at as u64)).unwrap_or(&common));
                }
            }
            3 => {
                for kind in kinds.iter_mut().filter(|kind| kind.is_text()) {
                    kind.set_collation(value.length()??);
                }
            }
            4 => {
                while !value.rest.is_empty() {
                    names.push(value.name()?);
                }
            }
            5 | 6 => {
                let list = &mut members[usize::from(field - 5)];
                while !value.rest.is_empty() {
                    let count = value.length()??;
                    list.push((0..count).map(|_| value.name()).collect::<Option<_>>()?);
                }
            }
            8 => {
                while !value.rest.is_empty() {
                    key.push(usize::try_from(value.length()??).ok()?);
                }
            }
            9 => {
                while !value.rest.is_empty() {
                    key.push(usize::try_from(value.length()??).ok()?);
                    value.length()??;
                }
            }
            _ => {}
        }
    }
    let [sets, enums] = members;
    let (mut sets, mut enums) = (sets.into_iter(), enums.into_iter());
    for kind in &mut kinds {
        match kind {
            Kind::Set { members, .. } => *members = sets.next().unwrap_or_default(),
            Kind::Enum { members, .. } => *members = enums.next().unwrap_or_default(),
            _ => {}
        }
    }
    let full = names.len() == count;
    names.resize(count, String::new());
    let columns = names
        .into_iter()
        .zip(kinds)
        .map(|(name, kind)| Column { name, kind });
    Some(TableMap {
        id,
        schema,
        name: table_name,
        columns: columns.collect(),
        key,
        full,
    })
}

fn rows(reader: &mut Reader, change: Change, extra: bool) -> Option<Rows> {
    let table = reader.number(6)?;
    reader.number(2)?;
    if extra {
        let length = reader.number(2)? as usize;
        reader.bytes(length.checked_sub(2)?)?;
    }
    let width = usize::try_from(reader.length()??).ok()?;
    let first = reader.bytes(width.div_ceil(8))?;
    let second = match change {
        Change::Update => reader.bytes(width.div_ceil(8))?,
        _ => first.clone(),
    };
    Some(Rows {
        table,
        change,
        present: (first, second),
        body: reader.rest.clone(),
    })
}

impl Rows {
    /// The rows, for updates as they were and as they are; `None` if they end too early.
    pub fn images(&self, columns: &[Column]) -> Option<Vec<(Vec<Value>, Option<Vec<Value>>)>> {
        let mut reader = Reader::new(&self.body);
        let mut rows = Vec::new();
        while !reader.rest.is_empty() {
            let first = image(&mut reader, columns, &self.present.0)?;
            let second = match self.change {
                Change::Update => Some(image(&mut reader, columns, &self.present.1)?),
                _ => None,
            };
            rows.push((first, second));
        }
        Some(rows)
    }
}

fn image(reader: &mut Reader, columns: &[Column], present: &Bytes) -> Option<Vec<Value>> {
    let bit = |bits: &Bytes, at: usize| bits.get(at / 8).map(|byte| byte >> (at % 8) & 1 == 1);
    let there = (0..columns.len())
        .map(|at| bit(present, at))
        .collect::<Option<Vec<_>>>()?;
    let nulls = reader.bytes(there.iter().filter(|there| **there).count().div_ceil(8))?;
    let mut at = 0;
    let mut values = Vec::with_capacity(columns.len());
    for (column, there) in columns.iter().zip(there) {
        if !there {
            values.push(Value::Missing);
            continue;
        }
        let null = bit(&nulls, at)?;
        at += 1;
        values.push(match null {
            true => Value::Null,
            false => Value::Text(cell(&column.kind, reader)?),
        });
    }
    Some(values)
}
