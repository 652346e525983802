//! What the server sends: tokens of columns, rows, errors and ends.

use std::sync::Arc;

use bytes::Bytes;

use super::reader::{TdsReader, Unread};
use super::value::{TdsType, UnreadValue};

/// A part of an answer.
#[derive(Debug)]
pub enum TdsToken {
    /// The columns of the rows that follow.
    Columns(Arc<[TdsColumn]>),
    Row(Vec<Option<Bytes>>),
    /// The end of one statement's answer.
    Done(TdsDone),
    /// The server's own error; the answer goes on behind it.
    Error(MssqlError),
    /// The transaction under way has this mark; 0 for none.
    Transaction(u64),
    /// Packets have so many bytes from now on.
    PacketBytes(usize),
    /// The database has this collation.
    Collation([u8; 5]),
    /// Another server is to be asked.
    Elsewhere(String, u16),
    /// The login is accepted.
    LoggedIn,
    /// What is of no use here.
    Other,
}

/// The end of one statement's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TdsDone {
    /// More answers follow.
    pub more: bool,
    /// The statement failed.
    pub failed: bool,
    /// Rows that were changed or sent, where they are counted.
    pub count: Option<u64>,
}

/// A column of an answer.
#[derive(Clone, Debug)]
pub struct TdsColumn {
    pub name: String,
    pub of: TdsType,
}

/// What the server says of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MssqlError {
    pub number: i32,
    pub message: String,
}

/// Reads a token. Rows have these columns.
pub fn token(reader: &mut TdsReader<'_>, columns: &[TdsColumn]) -> Result<TdsToken, Unread> {
    Ok(match reader.u8()? {
        0x81 => described(reader)?,
        0xd1 => {
            let mut row = Vec::with_capacity(columns.len());
            for column in columns {
                row.push(value(column, reader)?);
            }
            TdsToken::Row(row)
        }
        // A row whose values that are missing are named by bits before it.
        0xd2 => {
            let nulls = reader.take(columns.len().div_ceil(8))?;
            let mut row = Vec::with_capacity(columns.len());
            for (at, column) in columns.iter().enumerate() {
                row.push(match nulls[at / 8] >> (at % 8) & 1 {
                    0 => value(column, reader)?,
                    _ => None,
                });
            }
            TdsToken::Row(row)
        }
        kind @ 0xfd..=0xff => {
            let status = reader.u16()?;
            reader.u16()?;
            let count = u64::from_le_bytes(reader.array()?);
            TdsToken::Done(TdsDone {
                more: status & 1 != 0,
                // A failure within a procedure (0xff) may have been caught there.
                failed: kind != 0xff && status & 0x102 != 0,
                count: (status & 0x10 != 0).then_some(count),
            })
        }
        0xaa => {
            let length = reader.u16()?;
            let mut body = TdsReader {
                rest: reader.take(length.into())?,
            };
            whole(failure(&mut body))?
        }
        0xe3 => {
            let length = reader.u16()?;
            let mut body = TdsReader {
                rest: reader.take(length.into())?,
            };
            whole(change(&mut body))?
        }
        0xad => {
            let length = reader.u16()?;
            reader.take(length.into())?;
            TdsToken::LoggedIn
        }
        // Information, order, names of tables, columns of them, tickets.
        0xab | 0xa9 | 0xa4 | 0xa5 | 0xed => {
            let length = reader.u16()?;
            reader.take(length.into())?;
            TdsToken::Other
        }
        0xe4 | 0xee => {
            let length = reader.u32()?;
            reader.take(length as usize)?;
            TdsToken::Other
        }
        // What a procedure returns.
        0x79 => {
            reader.take(4)?;
            TdsToken::Other
        }
        // A parameter that it set.
        0xac => {
            reader.u16()?;
            let name = reader.short_text()?;
            reader.take(7)?;
            let column = TdsColumn {
                name,
                of: TdsType::read(reader)?,
            };
            value(&column, reader)?;
            TdsToken::Other
        }
        // What the server agreed to beyond the login.
        0xae => loop {
            if reader.u8()? == 0xff {
                break TdsToken::Other;
            }
            let length = reader.u32()?;
            reader.take(length as usize)?;
        },
        _ => return Err(Unread::Strange("a part of an answer that is not known")),
    })
}

/// What stands in a token of a known length is there as a whole.
fn whole(read: Result<TdsToken, Unread>) -> Result<TdsToken, Unread> {
    read.map_err(|_| Unread::Strange("a message that ends too early"))
}

fn value(column: &TdsColumn, reader: &mut TdsReader<'_>) -> Result<Option<Bytes>, Unread> {
    column.of.value(reader).map_err(|unread| match unread {
        UnreadValue::Short => Unread::Short,
        UnreadValue::Strange => Unread::Strange("a value of another form"),
    })
}

fn described(reader: &mut TdsReader<'_>) -> Result<TdsToken, Unread> {
    let count = reader.u16()?;
    // There is nothing to describe.
    if count == 0xffff {
        return Ok(TdsToken::Other);
    }
    let mut columns = Vec::with_capacity(usize::from(count).min(1024));
    for _ in 0..count {
        reader.take(6)?;
        let of = TdsType::read(reader)?;
        if of.names_table() {
            for _ in 0..reader.u8()? {
                reader.long_text()?;
            }
        }
        let name = reader.short_text()?;
        columns.push(TdsColumn { name, of });
    }
    Ok(TdsToken::Columns(columns.into()))
}

fn failure(reader: &mut TdsReader<'_>) -> Result<TdsToken, Unread> {
    let number = reader.array().map(i32::from_le_bytes)?;
    reader.take(2)?;
    Ok(TdsToken::Error(MssqlError {
        number,
        message: reader.long_text()?,
    }))
}

fn change(reader: &mut TdsReader<'_>) -> Result<TdsToken, Unread> {
    Ok(match reader.u8()? {
        4 => match reader.short_text()?.parse() {
            Ok(bytes) => TdsToken::PacketBytes(bytes),
            Err(_) => TdsToken::Other,
        },
        7 => match reader.u8()? {
            5 => TdsToken::Collation(reader.array()?),
            _ => TdsToken::Other,
        },
        // A transaction begins.
        8 => {
            let length = reader.u8()?;
            match length {
                8 => TdsToken::Transaction(u64::from_le_bytes(reader.array()?)),
                _ => TdsToken::Other,
            }
        }
        // It is committed, or rolled back.
        9 | 10 => TdsToken::Transaction(0),
        20 => {
            reader.u16()?;
            let protocol = reader.u8()?;
            let port = reader.u16()?;
            let host = reader.long_text()?;
            match protocol {
                0 => TdsToken::Elsewhere(host, port),
                _ => TdsToken::Other,
            }
        }
        _ => TdsToken::Other,
    })
}
