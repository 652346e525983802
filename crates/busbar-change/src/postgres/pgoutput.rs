//! Messages of a replication stream: the frames of the stream, and in them those of `pgoutput`, version 1.

use std::fmt;

use bytes::Bytes;

use super::wire::{Column, Reader};

/// Microseconds from 1970 to 2000, where the server's times begin.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The prefix of the messages that say which producer has written a transaction.
pub const MESSAGE_PREFIX: &str = "busbar";

/// A place in the server's write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// From the form `16/B374D848`.
    pub fn parse(text: &str) -> Option<Lsn> {
        let (high, low) = text.split_once('/')?;
        let high = u64::from(u32::from_str_radix(high, 16).ok()?);
        let low = u64::from(u32::from_str_radix(low, 16).ok()?);
        Some(Lsn(high << 32 | low))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

/// A frame of the stream.
#[derive(Debug)]
pub enum Frame {
    /// A message of `pgoutput`.
    Data(Bytes),
    /// Everything before this place has been sent.
    KeepAlive {
        /// The place.
        end: Lsn,
        /// Whether the server waits for an answer.
        reply: bool,
    },
}

/// What happened.
#[derive(Debug)]
pub enum FollowEvent {
    /// A transaction begins.
    Begin {
        /// Where its commit is.
        commit: Lsn,
        /// When it was committed, in microseconds since 2000.
        time: i64,
        /// Its number.
        transaction: u32,
    },
    /// A transaction is over.
    Commit {
        /// Behind it.
        end: Lsn,
    },
    /// The description of a table.
    Relation(Relation),
    /// A row was added.
    Insert {
        /// The number of the table.
        table: u32,
        /// The row as it is.
        after: Tuple,
    },
    /// A row was changed.
    Update {
        /// The number of the table.
        table: u32,
        /// The row as it was, or its key, where the server says it.
        before: Option<Tuple>,
        /// The row as it is.
        after: Tuple,
    },
    /// A row was deleted.
    Delete {
        /// The number of the table.
        table: u32,
        /// The row as it was, or its key.
        before: Tuple,
    },
    /// Tables were emptied.
    Truncate {
        /// Their numbers.
        tables: Vec<u32>,
    },
    /// What a session has written to the log itself, within a transaction.
    Message {
        /// What it is for.
        prefix: String,
        /// What it says.
        content: Bytes,
    },
    /// Origins and types, which say nothing about rows, and messages outside of transactions.
    Other,
}

/// A table as it was when the changes that follow were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// What changes call it by.
    pub id: u32,
    /// The schema that it is in.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// Whether each column tells rows apart.
    pub key: Vec<bool>,
    /// Old rows come whole (`REPLICA IDENTITY FULL`), and each column counts as one of the key.
    pub full: bool,
}

/// A row.
#[derive(Debug)]
pub struct Tuple {
    /// A value for each column.
    pub values: Vec<Value>,
    /// Only the columns of the key are set.
    pub only_key: bool,
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// NULL.
    Null,
    /// A large value that the change did not touch, and that the server does not repeat.
    Unchanged,
    /// The value as the server writes it.
    Text(Bytes),
}

/// Reads a frame; `None` for what is none.
pub fn frame(body: &Bytes) -> Option<Frame> {
    let mut reader = Reader::new(body);
    match reader.u8()? {
        b'w' => {
            reader.bytes(24)?;
            Some(Frame::Data(reader.rest))
        }
        b'k' => {
            let end = Lsn(reader.u64()?);
            reader.bytes(8)?;
            let reply = reader.u8()? == 1;
            Some(Frame::KeepAlive { end, reply })
        }
        _ => None,
    }
}

/// The message that tells the server how far everything is kept here, so that it may forget it.
pub fn status(kept: Lsn, received: Lsn, now_micros: i64, reply: bool) -> Vec<u8> {
    let mut out = vec![b'r'];
    out.extend(received.0.to_be_bytes());
    out.extend(kept.0.to_be_bytes());
    out.extend(kept.0.to_be_bytes());
    out.extend((now_micros - EPOCH_MICROS).to_be_bytes());
    out.push(u8::from(reply));
    out
}

/// Reads a message of `pgoutput`; `None` for one that ends too early or is not of this version.
pub fn event(body: &Bytes) -> Option<FollowEvent> {
    let mut reader = Reader::new(body);
    Some(match reader.u8()? {
        b'B' => FollowEvent::Begin {
            commit: Lsn(reader.u64()?),
            time: reader.u64()?.cast_signed().checked_add(EPOCH_MICROS)?,
            transaction: reader.u32()?,
        },
        b'C' => {
            reader.bytes(9)?;
            FollowEvent::Commit {
                end: Lsn(reader.u64()?),
            }
        }
        b'R' => FollowEvent::Relation(relation(&mut reader)?),
        b'I' => {
            let table = reader.u32()?;
            (reader.u8()? == b'N').then_some(())?;
            FollowEvent::Insert {
                table,
                after: tuple(&mut reader, false)?,
            }
        }
        b'U' => {
            let table = reader.u32()?;
            let mut kind = reader.u8()?;
            let mut before = None;
            if matches!(kind, b'K' | b'O') {
                before = Some(tuple(&mut reader, kind == b'K')?);
                kind = reader.u8()?;
            }
            (kind == b'N').then_some(())?;
            FollowEvent::Update {
                table,
                before,
                after: tuple(&mut reader, false)?,
            }
        }
        b'D' => {
            let table = reader.u32()?;
            let kind = reader.u8()?;
            matches!(kind, b'K' | b'O').then_some(())?;
            FollowEvent::Delete {
                table,
                before: tuple(&mut reader, kind == b'K')?,
            }
        }
        b'T' => {
            let count = reader.u32()?;
            reader.u8()?;
            let tables = (0..count).map(|_| reader.u32()).collect::<Option<_>>()?;
            FollowEvent::Truncate { tables }
        }
        b'M' => {
            let transactional = reader.u8()? == 1;
            reader.u64()?;
            let (prefix, content) = (reader.text()?, reader.value()??);
            match transactional {
                true => FollowEvent::Message { prefix, content },
                false => FollowEvent::Other,
            }
        }
        b'O' | b'Y' => FollowEvent::Other,
        _ => return None,
    })
}

fn relation(reader: &mut Reader) -> Option<Relation> {
    let id = reader.u32()?;
    let (schema, name) = (reader.text()?, reader.text()?);
    let full = reader.u8()? == b'f';
    let count = usize::try_from(reader.i16()?).ok()?;
    let (mut columns, mut key) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        key.push(reader.u8()? & 1 == 1);
        let name = reader.text()?;
        let oid = reader.u32()?;
        // What bounds a type is no part of the schema that is told, and what is known of the table has it not.
        reader.bytes(4)?;
        columns.push(Column {
            name,
            oid,
            modifier: -1,
        });
    }
    // The server writes an empty text for its own schema.
    let schema = if schema.is_empty() {
        "pg_catalog".to_owned()
    } else {
        schema
    };
    Some(Relation {
        id,
        schema,
        name,
        columns,
        key,
        full,
    })
}

fn tuple(reader: &mut Reader, only_key: bool) -> Option<Tuple> {
    let count = usize::try_from(reader.i16()?).ok()?;
    let values = (0..count).map(|_| {
        Some(match reader.u8()? {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            b't' => Value::Text(reader.value()??),
            _ => return None,
        })
    });
    Some(Tuple {
        values: values.collect::<Option<_>>()?,
        only_key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written_as_the_server_does() {
        let lsn = Lsn::parse("16/B374D848").expect("a place");
        assert_eq!(
            (lsn.0, lsn.to_string().as_str()),
            (0x16_B374_D848, "16/B374D848")
        );
        for strange in ["", "16", "16/", "x/1", "1/100000000"] {
            assert_eq!(Lsn::parse(strange), None, "{strange}");
        }
    }

    #[test]
    fn a_time_that_no_clock_shows_is_refused() {
        let begin = |time: i64| {
            let body = [
                &b"B\0\0\0\0\0\0\0\x01"[..],
                &time.to_be_bytes(),
                &[0, 0, 0, 7],
            ]
            .concat();
            match event(&Bytes::from(body)) {
                Some(FollowEvent::Begin { time, .. }) => Some(time),
                _ => None,
            }
        };
        assert_eq!(begin(0), Some(EPOCH_MICROS));
        assert_eq!(begin(-EPOCH_MICROS), Some(0));
        assert_eq!(begin(i64::MAX), None);
    }

    #[test]
    fn a_message_says_who_has_written() {
        let body = b"M\x01\0\0\0\0\0\0\0\x07busbar\0\0\0\0\x03a/b";
        let Some(FollowEvent::Message { prefix, content }) = event(&Bytes::from_static(body))
        else {
            panic!("not a message");
        };
        assert_eq!((prefix.as_str(), &content[..]), ("busbar", &b"a/b"[..]));
        for end in 0..body.len() {
            assert!(
                event(&Bytes::copy_from_slice(&body[..end])).is_none(),
                "{end}"
            );
        }
    }

    #[test]
    fn an_update_has_both_images_and_says_what_is_unchanged() {
        let body = b"U\0\0\0\x07O\0\x02t\0\0\0\x011nN\0\x02t\0\0\0\x012u";
        let Some(FollowEvent::Update {
            table: 7,
            before: Some(before),
            after,
        }) = event(&Bytes::from_static(body))
        else {
            panic!("not an update");
        };
        assert_eq!(before.values, [Value::Text("1".into()), Value::Null]);
        assert_eq!(after.values, [Value::Text("2".into()), Value::Unchanged]);
        // Cut anywhere, it is not read.
        for end in 0..body.len() {
            assert!(
                event(&Bytes::copy_from_slice(&body[..end])).is_none(),
                "{end}"
            );
        }
    }
}
