//! The lines of an answer in TabSeparated, as they come.

use std::sync::Arc;

use busbar_event::Error;
use bytes::{Bytes, BytesMut};

use super::limits::ANSWER_BYTES_MAX;
use super::link::ClickHouseLink;
use crate::http::AnswerPieces;

/// An answer that is read line by line.
pub struct AnswerLines {
    link: Arc<ClickHouseLink>,
    body: AnswerPieces,
    /// What has come and is not handed on yet.
    rest: BytesMut,
    /// Bytes of it that have no end of a line.
    searched: usize,
}

impl AnswerLines {
    pub(super) fn new(link: Arc<ClickHouseLink>, body: AnswerPieces) -> AnswerLines {
        AnswerLines {
            link,
            body,
            rest: BytesMut::new(),
            searched: 0,
        }
    }

    /// The next line, without its end; none behind the last.
    ///
    /// # Errors
    /// *Transient*: the answer does not come, or ends within a line. *Permanent*: a line is larger than an answer may be.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let end = self.rest[self.searched..].iter().position(|b| *b == b'\n');
            if let Some(end) = end {
                let line = self.rest.split_to(self.searched + end + 1).freeze();
                self.searched = 0;
                return Ok(Some(line.slice(..line.len() - 1)));
            }
            self.searched = self.rest.len();
            if self.searched > ANSWER_BYTES_MAX {
                return Err(self.link.too_large());
            }
            match self.body.next(self.link.client()).await? {
                Some(piece) => self.rest.extend_from_slice(&piece),
                None if self.rest.is_empty() => return Ok(None),
                None => return Err(self.link.strange(&self.rest)),
            }
        }
    }

    /// Rows that the statement has written, where the server says so.
    pub fn written(&self) -> Option<u64> {
        #[derive(serde::Deserialize)]
        struct WrittenSummary {
            written_rows: String,
        }
        let summary = self.body.headers.get("x-clickhouse-summary")?;
        let summary: WrittenSummary = serde_json::from_slice(summary.as_bytes()).ok()?;
        summary.written_rows.parse().ok()
    }

    /// An answer that is none of this kind of server.
    pub fn strange(&self, body: &[u8]) -> Error {
        self.link.strange(body)
    }
}

/// A field of TabSeparated; none for NULL.
pub fn unescaped(field: &[u8]) -> Option<Vec<u8>> {
    if field == b"\\N" {
        return None;
    }
    let mut value = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        value.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'0') => 0,
                Some(other) => *other,
                None => b'\\',
            },
            byte => *byte,
        });
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_what_they_were() {
        for (field, value) in [
            (&b"\\N"[..], None),
            (b"", Some(&b""[..])),
            (b"a\\tb\\nc\\\\d\\0", Some(b"a\tb\nc\\d\0")),
            (b"it\\'s", Some(b"it's")),
            (b"\\", Some(b"\\")),
        ] {
            assert_eq!(unescaped(field).as_deref(), value);
        }
    }
}
