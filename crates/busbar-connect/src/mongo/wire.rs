//! Messages of the protocol: `OP_MSG`, as servers of version 3.6 and newer speak it.

use bytes::{Buf, Bytes, BytesMut};

use super::limits::MESSAGE_BYTES_MAX;

/// The number of this kind of message.
const OP_MSG: i32 = 2013;
const HEAD_BYTES: usize = 16;
/// The message ends with a sum of its bytes.
const WITH_SUM: u32 = 1;
/// The server sends more without being asked.
const MORE_COMES: u32 = 2;

/// Documents that belong to a command and are not in it: the rows to insert, the changes.
#[derive(Clone, Copy, Debug)]
pub struct DocumentSequence<'a> {
    pub name: &'static str,
    pub documents: &'a [&'a [u8]],
}

/// Writes a message with a command.
pub fn message(id: i32, command: &[u8], rows: Option<DocumentSequence<'_>>, out: &mut BytesMut) {
    let begin = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&0_i32.to_le_bytes());
    out.extend_from_slice(&OP_MSG.to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    out.extend_from_slice(&[0]);
    out.extend_from_slice(command);
    if let Some(rows) = rows {
        out.extend_from_slice(&[1]);
        let section = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(rows.name.as_bytes());
        out.extend_from_slice(&[0]);
        for document in rows.documents {
            out.extend_from_slice(document);
        }
        set_length(out, section);
    }
    set_length(out, begin);
}

fn set_length(out: &mut BytesMut, begin: usize) {
    // Callers keep messages below what the protocol can count.
    let length = i32::try_from(out.len() - begin).unwrap_or(i32::MAX);
    out[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
}

/// What was received is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer(pub &'static str);

/// The next whole answer in a buffer: the message that it answers, and its document.
///
/// # Errors
/// Something else was received.
pub fn answer(buffer: &mut BytesMut) -> Result<Option<(i32, Bytes)>, NoAnswer> {
    let Some(head) = buffer.first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let number =
        |at: usize| i32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (length, answers, opcode) = (number(0), number(8), number(12));
    let length = usize::try_from(length).unwrap_or(0);
    if opcode != OP_MSG {
        return Err(NoAnswer("a message of another kind"));
    }
    if !(HEAD_BYTES + 10..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(NoAnswer("a message of another length"));
    }
    if buffer.len() < length {
        buffer.reserve(length - buffer.len());
        return Ok(None);
    }
    let mut message = buffer.split_to(length).freeze();
    message.advance(HEAD_BYTES);
    let flags = message.get_u32_le();
    if flags & MORE_COMES != 0 || message.get_u8() != 0 {
        return Err(NoAnswer("a message of another form"));
    }
    let end = message.len() - if flags & WITH_SUM != 0 { 4 } else { 0 };
    let size = message.first_chunk::<4>();
    let size = size.and_then(|size| usize::try_from(i32::from_le_bytes(*size)).ok());
    match size {
        Some(size) if size == end => Ok(Some((answers, message.slice(..size)))),
        _ => Err(NoAnswer("a message of another form")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_when_it_is_whole_and_nothing_else_is() {
        let mut whole = BytesMut::new();
        message(7, &[5, 0, 0, 0, 0], None, &mut whole);
        for end in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..end]);
            assert_eq!(answer(&mut part), Ok(None));
        }
        let mut two = whole.clone();
        two.extend_from_slice(&whole);
        for _ in 0..2 {
            let found = answer(&mut two).expect("an answer").expect("whole");
            assert_eq!(found, (0, Bytes::from_static(&[5, 0, 0, 0, 0])));
        }
        for (at, byte) in [(0, 20), (3, 0x7f), (12, 0), (16, 2), (20, 1), (21, 6)] {
            let mut broken = whole.clone();
            broken[at] = byte;
            assert!(answer(&mut broken).is_err(), "{at}");
        }
    }
}
