//! Frames between node and worker: one line of JSON each.
//!
//! The node sends `start` with the drivers and the login, then `ask` (with `id`, `session`, `deadline_ms`, and what is to be
//! done), `close` (a session, with `again` where its connection may serve another one) and `ping`; the end of its input tells
//! the worker to end. The worker sends `ready` or `failed` once, then `answer` with the `id` and either `result` or `fault`,
//! and `pong`.

use std::borrow::Cow;

use bytes::{Buf, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::limits::FRAME_BYTES_MAX;

/// A frame that a worker has sent.
#[derive(Debug)]
pub enum DriverFrame<'a> {
    /// The drivers are loaded.
    Ready { protocol: u32 },
    /// They are not.
    Failed(DriverSaid),
    /// What came of a request.
    Answer {
        id: u64,
        result: Result<&'a RawValue, DriverSaid>,
    },
    /// The worker is still there.
    Pong,
}

/// What went wrong, as the worker says it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct DriverSaid {
    /// `credentials`, `table`, `value`, ….
    pub kind: String,
    /// `transient`, `permanent` or `configuration`.
    #[serde(rename = "class")]
    pub group: String,
    /// The SQLSTATE; empty without one.
    #[serde(default)]
    pub state: String,
    /// The database's own number.
    #[serde(default)]
    pub code: i64,
    /// The words of the database or the driver.
    #[serde(default)]
    pub said: String,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    protocol: Option<u32>,
    id: Option<u64>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    fault: Option<DriverSaid>,
}

impl DriverFrame<'_> {
    /// Reads a line; `None` for what is no frame.
    pub fn read(line: &[u8]) -> Option<DriverFrame<'_>> {
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        Some(match (&*line.kind, line.id, line.result, line.fault) {
            ("answer", Some(id), Some(result), None) => DriverFrame::Answer {
                id,
                result: Ok(result),
            },
            ("answer", Some(id), None, Some(fault)) => DriverFrame::Answer {
                id,
                result: Err(fault),
            },
            ("pong", None, None, None) => DriverFrame::Pong,
            ("ready", None, None, None) => DriverFrame::Ready {
                protocol: line.protocol?,
            },
            ("failed", None, None, Some(fault)) => DriverFrame::Failed(fault),
            _ => return None,
        })
    }
}

/// The lines of a worker, as its bytes come in.
#[derive(Default)]
pub struct DriverLines {
    bytes: BytesMut,
    /// So many of them have no line break.
    seen: usize,
}

impl DriverLines {
    /// Where the next bytes are to be put.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next whole line, without its break.
    ///
    /// # Errors
    /// The line is longer than a frame may be.
    pub fn next_line(&mut self) -> Result<Option<BytesMut>, ()> {
        match memchr::memchr(b'\n', &self.bytes[self.seen..]) {
            Some(at) => {
                let line = self.bytes.split_to(self.seen + at);
                self.bytes.advance(1);
                self.seen = 0;
                Ok(Some(line))
            }
            None if self.bytes.len() > FRAME_BYTES_MAX => Err(()),
            None => {
                self.seen = self.bytes.len();
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_frame_is_told_from_frames() {
        let read = |line: &str| match DriverFrame::read(line.as_bytes()) {
            None => "nothing",
            Some(DriverFrame::Ready { .. }) => "ready",
            Some(DriverFrame::Failed(_)) => "failed",
            Some(DriverFrame::Answer { result: Ok(_), .. }) => "result",
            Some(DriverFrame::Answer { result: Err(_), .. }) => "fault",
            Some(DriverFrame::Pong) => "pong",
        };
        for (line, expected) in [
            (r#"{"type":"ready","protocol":1}"#, "ready"),
            (r#"{"type":"answer","id":3,"result":{"rows":[]}}"#, "result"),
            (
                r#"{"type":"answer","id":3,"fault":{"kind":"value","class":"permanent","state":"22001","code":1,"said":"x"}}"#,
                "fault",
            ),
            (r#"{"type":"pong"}"#, "pong"),
            (
                r#"{"type":"failed","fault":{"kind":"driver","class":"configuration"}}"#,
                "failed",
            ),
            (r#"{"type":"ready"}"#, "nothing"),
            (r#"{"type":"answer","id":-3,"result":{}}"#, "nothing"),
            (r#"{"type":"answer","result":{}}"#, "nothing"),
            (r#"{"type":"answer","id":3}"#, "nothing"),
            (
                r#"{"type":"answer","id":3,"result":{},"fault":{"kind":"a","class":"b"}}"#,
                "nothing",
            ),
            (r#"{"type":"start"}"#, "nothing"),
            ("hello", "nothing"),
            ("", "nothing"),
            ("[]", "nothing"),
        ] {
            assert_eq!(read(line), expected, "{line}");
        }
        assert!(DriverFrame::read(b"\xff\xfe").is_none());
    }

    #[test]
    fn lines_come_whole_however_their_bytes_come() {
        let mut lines = DriverLines::default();
        let mut found = Vec::new();
        for byte in b"one\n\ntwo\nthr" {
            lines.buffer().extend_from_slice(&[*byte]);
            while let Some(line) = lines.next_line().expect("short lines") {
                found.push(String::from_utf8_lossy(&line).into_owned());
            }
        }
        assert_eq!(found, ["one", "", "two"]);
        lines
            .buffer()
            .extend_from_slice(&vec![b'x'; FRAME_BYTES_MAX + 1]);
        assert!(lines.next_line().is_err());
    }
}
