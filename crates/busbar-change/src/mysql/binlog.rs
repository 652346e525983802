//! Events of a binary log, of MySQL and of MariaDB. Bytes in, events out.
//!
//! An event is a header of 19 bytes (time, type, server, length, position behind it, flags), its body, and a checksum of 4
//! bytes if the format description at the beginning of the file says so.

use bytes::Bytes;

use super::cell::{BinlogType, cell};
use super::column::DescribedColumn;
use super::wire::Reader;
use crate::ColumnsMark;

/// A position in the log: the number at the end of the file's name, and the byte in the file. A file has more bytes than 32
/// bits can say when a transaction is that large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPlace {
    /// The number at the end of the file's name.
    pub file: u32,
    /// The byte in the file.
    pub byte: u64,
}

/// Bits of a place's number that are the byte: one terabyte. The other 24 are the file.
const BYTE_BITS: u32 = 40;

impl LogPlace {
    /// Both in one number, which grows with the place.
    pub fn number(self) -> u64 {
        u64::from(self.file) << BYTE_BITS | self.byte.min((1 << BYTE_BITS) - 1)
    }

    /// The place of a number that [`LogPlace::number`] gave.
    pub fn from_number(number: u64) -> LogPlace {
        LogPlace {
            file: (number >> BYTE_BITS) as u32,
            byte: number & ((1 << BYTE_BITS) - 1),
        }
    }

    /// The place whose byte ends with these 32 bits, at or behind this one.
    pub fn onward(self, end: u32) -> LogPlace {
        let wraps = u64::from((self.byte as u32) > end);
        LogPlace {
            file: self.file,
            byte: ((self.byte >> 32) + wraps) << 32 | u64::from(end),
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum LogEvent {
    /// The log goes on in this file.
    Rotate {
        /// Its name.
        file: String,
        /// Where the first event is.
        byte: u64,
    },
    /// A transaction begins. Unless it has `begun`, the statement that follows begins it, or is all of it.
    Begin {
        /// Its name, as the server's kind writes it.
        id: String,
        /// Whether it has begun with this event, without a statement that says so.
        begun: bool,
    },
    /// A statement as text: BEGIN, COMMIT, what defines tables.
    Statement {
        /// The schema that names without one are in.
        schema: String,
        /// The text.
        sql: String,
    },
    /// The transaction is over.
    Commit,
    /// The description of a table, to be read by [`table`].
    Table(Bytes),
    /// Changed rows of one table.
    Rows(LoggedRows),
    /// The file begins; whether its events have checksums.
    Format {
        /// Whether the last four bytes of each event are its checksum.
        checksums: bool,
    },
    /// Nothing has happened up to the place.
    Heartbeat,
    /// What cannot be read: a transaction in one compressed event, compressed rows, a change of a part of a document. The
    /// variable of the server that writes it.
    Unreadable(&'static str),
    /// An XA transaction is prepared. Whether it is committed is said later.
    Prepared,
    /// An event that says nothing about rows.
    Other,
}

/// An event with its head.
#[derive(Debug)]
pub struct LogEntry {
    /// Seconds since 1970.
    pub time: u32,
    /// The lower 32 bits of the byte behind it; 0 for one that is in no file.
    pub end: u32,
    /// What it says.
    pub event: LogEvent,
}

impl TableMap {
    /// What identifies its columns.
    pub fn mark(&self) -> ColumnsMark {
        let columns = self.columns.iter();
        ColumnsMark::of(columns.map(|column| (column.name.clone(), column.kind.name().to_owned())))
    }
}

/// A table as it was when the rows that follow were changed.
#[derive(Clone, Debug)]
pub struct TableMap {
    /// What events of rows call it by.
    pub id: u64,
    /// The schema that it is in.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// Places of the columns of the primary key.
    pub key: Vec<usize>,
    /// Whether the names of the columns came along (`binlog_row_metadata = FULL`).
    pub full: bool,
    /// The event as it came: when it comes again, it need not be read again.
    pub raw: Bytes,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: BinlogType,
}

impl Column {
    /// Its name, and how its values are written.
    pub fn described(&self) -> DescribedColumn {
        DescribedColumn {
            name: self.name.clone(),
            shape: self.kind.shape(),
        }
    }
}

/// Changed rows of one table.
#[derive(Debug)]
pub struct LoggedRows {
    /// What the description of their table is called by.
    pub table: u64,
    /// What was done with them.
    pub change: LoggedChange,
    /// The columns of the first image, and of the second one for updates.
    present: (Bytes, Bytes),
    body: Bytes,
}

/// What was done with rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoggedChange {
    /// They were added.
    Insert,
    /// They were changed: each comes as it was and as it is.
    Update,
    /// They were deleted.
    Delete,
}

/// A value: `None` for NULL; a column that the image does not have is `Missing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageValue {
    /// The image does not have the column.
    Missing,
    /// NULL.
    Null,
    /// The value as a text.
    Text(Bytes),
}

const ROTATE: u8 = 4;
const FORMAT: u8 = 15;

/// The flag of an event that the server made up for its readers: it is in no file.
const ARTIFICIAL: u64 = 0x20;

/// The event without its checksum.
fn without_checksum(bytes: &Bytes, checksums: bool) -> Option<Bytes> {
    let (kind, flags) = (*bytes.get(4)?, u64::from(*bytes.get(17)?));
    let end = bytes.len().checked_sub(4)?;
    let has = match kind {
        FORMAT => true,
        // It comes before the format that would say so.
        ROTATE if flags & ARTIFICIAL != 0 => crc(&bytes[..end]).to_le_bytes() == bytes[end..],
        _ => checksums,
    };
    Some(if has {
        bytes.slice(..end)
    } else {
        bytes.clone()
    })
}

/// The CRC-32 of a few bytes.
fn crc(bytes: &[u8]) -> u32 {
    let whole = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    });
    !whole
}

/// Reads an event; `None` for one that ends too early. `checksums` is what the last [`LogEvent::Format`] said.
pub fn entry(bytes: &Bytes, checksums: bool) -> Option<LogEntry> {
    let mut reader = Reader::new(&without_checksum(bytes, checksums)?);
    let time = reader.number(4)? as u32;
    let kind = reader.u8()?;
    let server = reader.number(4)?;
    reader.number(4)?;
    let end = reader.number(4)? as u32;
    let flags = reader.number(2)?;
    let end = if flags & ARTIFICIAL != 0 { 0 } else { end };
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
            LogEvent::Statement { schema, sql }
        }
        ROTATE => {
            let byte = reader.number(8)?;
            let file = String::from_utf8_lossy(&reader.rest).into_owned();
            LogEvent::Rotate { file, byte }
        }
        FORMAT => LogEvent::Format {
            checksums: *reader.rest.last()? == 1,
        },
        16 => LogEvent::Commit,
        19 => LogEvent::Table(reader.rest),
        23 | 30 => LogEvent::Rows(rows(&mut reader, LoggedChange::Insert, kind >= 30)?),
        24 | 31 => LogEvent::Rows(rows(&mut reader, LoggedChange::Update, kind >= 30)?),
        25 | 32 => LogEvent::Rows(rows(&mut reader, LoggedChange::Delete, kind >= 30)?),
        27 | 41 => LogEvent::Heartbeat,
        33 | 34 => {
            reader.u8()?;
            let source: String = reader
                .bytes(16)?
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            LogEvent::Begin {
                id: format!("{source}:{}", reader.number(8)?),
                begun: false,
            }
        }
        38 => match reader.u8()? {
            // Prepared and committed in one.
            1 => LogEvent::Commit,
            _ => LogEvent::Prepared,
        },
        39 => LogEvent::Unreadable("binlog_row_value_options"),
        40 => LogEvent::Unreadable("binlog_transaction_compression"),
        // MariaDB's own: 160 notes the statement, 161 and 163 say how far the log is whole, 162 begins a transaction,
        // 164 an encrypted file, which the server decrypts for its readers; from 165 on what is compressed.
        162 => {
            let sequence = reader.number(8)?;
            let domain = reader.number(4)?;
            let flags = reader.u8()?;
            LogEvent::Begin {
                id: format!("{domain}-{server}-{sequence}"),
                begun: flags & 1 == 0,
            }
        }
        165..=171 => LogEvent::Unreadable("log_bin_compress"),
        _ => LogEvent::Other,
    };
    Some(LogEntry { time, end, event })
}

/// The number of a table, which its description begins with.
pub fn table_id(raw: &Bytes) -> Option<u64> {
    Reader::new(raw).number(6)
}

/// Reads the description of a table; `None` for one that ends too early.
pub fn table(raw: &Bytes) -> Option<TableMap> {
    let reader = &mut Reader::new(raw);
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
        kinds.push(BinlogType::read(*of, &mut measures)?);
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
            BinlogType::Set { members, .. } => *members = sets.next().unwrap_or_default(),
            BinlogType::Enum { members, .. } => *members = enums.next().unwrap_or_default(),
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
        raw: raw.clone(),
    })
}

fn rows(reader: &mut Reader, change: LoggedChange, extra: bool) -> Option<LoggedRows> {
    let table = reader.number(6)?;
    reader.number(2)?;
    if extra {
        let length = reader.number(2)? as usize;
        reader.bytes(length.checked_sub(2)?)?;
    }
    let width = usize::try_from(reader.length()??).ok()?;
    let first = reader.bytes(width.div_ceil(8))?;
    let second = match change {
        LoggedChange::Update => reader.bytes(width.div_ceil(8))?,
        _ => first.clone(),
    };
    Some(LoggedRows {
        table,
        change,
        present: (first, second),
        body: reader.rest.clone(),
    })
}

/// A row as it was, or as it is; and for updates as it is.
pub type LoggedRow = (Vec<ImageValue>, Option<Vec<ImageValue>>);

impl LoggedRows {
    /// The rows, for updates as they were and as they are; `None` if they end too early.
    pub fn images(&self, columns: &[Column]) -> Option<Vec<LoggedRow>> {
        let mut reader = Reader::new(&self.body);
        let mut rows = Vec::new();
        while !reader.rest.is_empty() {
            let before = reader.rest.len();
            let first = image(&mut reader, columns, &self.present.0)?;
            let second = match self.change {
                LoggedChange::Update => Some(image(&mut reader, columns, &self.present.1)?),
                _ => None,
            };
            // Rows without any column would never end.
            if reader.rest.len() == before {
                return None;
            }
            rows.push((first, second));
        }
        Some(rows)
    }
}

fn image(reader: &mut Reader, columns: &[Column], present: &Bytes) -> Option<Vec<ImageValue>> {
    let bit = |bits: &Bytes, at: usize| bits.get(at / 8).map(|byte| byte >> (at % 8) & 1 == 1);
    let mut there = 0;
    for at in 0..columns.len() {
        there += usize::from(bit(present, at)?);
    }
    let nulls = reader.bytes(there.div_ceil(8))?;
    let mut at = 0;
    let mut values = Vec::with_capacity(columns.len());
    for (place, column) in columns.iter().enumerate() {
        if !bit(present, place)? {
            values.push(ImageValue::Missing);
            continue;
        }
        let null = bit(&nulls, at)?;
        at += 1;
        values.push(match null {
            true => ImageValue::Null,
            false => ImageValue::Text(cell(&column.kind, reader)?),
        });
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_columns_are_refused() {
        let rows = LoggedRows {
            table: 1,
            change: LoggedChange::Insert,
            present: (Bytes::from_static(&[0]), Bytes::from_static(&[0])),
            body: Bytes::from_static(&[0]),
        };
        assert!(rows.images(&[]).is_none());
        let column = Column {
            name: "a".into(),
            kind: BinlogType::Year,
        };
        assert!(rows.images(&[column]).is_none());
    }
}
