//! Frames between node and worker: one line of JSON each, some with bytes behind it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use busbar_event::{Class, Error};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::limits::ERROR_BYTES_MAX;
use crate::log::{LogLevel, cut};

/// A frame that a worker has sent.
#[derive(Debug)]
pub enum WorkerFrame<'a> {
    /// The program is loaded.
    Ready {
        /// The version of the protocol that it speaks.
        protocol: u32,
        /// Batches that it takes before it has answered the first.
        credit: u32,
        /// It takes batches in columns.
        columns: bool,
        /// It takes batches as Arrow columns.
        arrow: bool,
    },
    /// The program cannot be loaded, because its language has no such library here.
    Lacks(Cow<'a, str>),
    /// The program cannot be loaded.
    Failed(ScriptFailure),
    /// The answer to a batch.
    Result {
        /// The batch's number.
        id: u64,
        /// One entry for each event.
        events: &'a RawValue,
    },
    /// The answer to a batch of which every event came out once with another payload and nothing else.
    Payloads {
        /// The batch's number.
        id: u64,
        /// One payload for each event.
        payloads: &'a RawValue,
    },
    /// The answer to a batch as Arrow columns, which follow the line.
    Columns {
        /// The batch's number.
        id: u64,
        /// Bytes of the IPC stream.
        bytes: u64,
        /// Events that have failed, by their place in the batch.
        failed: Vec<(u32, ScriptFailure)>,
    },
    /// A line for the log.
    Log {
        /// How much it matters.
        level: LogLevel,
        /// The text.
        message: Cow<'a, str>,
    },
    /// The program wants rows of a table.
    Rows {
        /// The worker's number for the request.
        id: u64,
        /// A [`crate::TableRequest`].
        request: &'a RawValue,
    },
    /// The worker is still there.
    Pong,
}

/// An error of the user's program, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ScriptFailure {
    /// What the program's language says.
    pub message: String,
    /// The file.
    #[serde(default)]
    pub file: Option<String>,
    /// The line in it, from 1.
    #[serde(default)]
    pub line: Option<u32>,
}

impl ScriptFailure {
    /// The failure as an error that names plug-in, file and line.
    pub fn error(&self, class: Class, plugin: &str) -> Error {
        let message = cut(self.message.trim(), ERROR_BYTES_MAX);
        match (&self.file, self.line) {
            (Some(file), Some(line)) => Error::new(class, "plugin.script-at")
                .with("plugin", plugin)
                .with("message", message)
                .with("file", cut(file, ERROR_BYTES_MAX))
                .with("line", line),
            _ => Error::new(class, "plugin.script")
                .with("plugin", plugin)
                .with("message", message),
        }
    }
}

#[derive(Deserialize)]
struct FrameFields<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    id: Option<u64>,
    #[serde(default)]
    protocol: u32,
    #[serde(default)]
    credit: Option<u32>,
    #[serde(default)]
    columns: bool,
    #[serde(default)]
    arrow: bool,
    #[serde(default)]
    arrow_bytes: Option<u64>,
    #[serde(default)]
    failed: BTreeMap<u32, ScriptFailure>,
    #[serde(default, borrow)]
    lacks: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    events: Option<&'a RawValue>,
    #[serde(default, borrow)]
    payloads: Option<&'a RawValue>,
    #[serde(default, borrow)]
    request: Option<&'a RawValue>,
    #[serde(default)]
    level: Option<LogLevel>,
    #[serde(default, borrow)]
    message: Option<Cow<'a, str>>,
    #[serde(default)]
    error: Option<ScriptFailure>,
}

impl<'a> WorkerFrame<'a> {
    /// Reads a line.
    ///
    /// # Errors
    /// `plugin.rubbish`: it is no frame.
    pub fn read(line: &'a [u8]) -> Result<WorkerFrame<'a>, Error> {
        let line: FrameFields<'a> = serde_json::from_slice(line).map_err(|_| rubbish(line))?;
        let lacks = || rubbish(line.kind.as_bytes());
        Ok(match &*line.kind {
            "ready" => WorkerFrame::Ready {
                protocol: line.protocol,
                credit: line.credit.unwrap_or(1),
                columns: line.columns,
                arrow: line.arrow,
            },
            "failed" => match line.lacks {
                Some(library) => WorkerFrame::Lacks(library),
                None => WorkerFrame::Failed(line.error.ok_or_else(lacks)?),
            },
            "result" => {
                let id = line.id.ok_or_else(lacks)?;
                match (line.events, line.payloads, line.arrow_bytes) {
                    (Some(events), None, None) => WorkerFrame::Result { id, events },
                    (None, Some(payloads), None) => WorkerFrame::Payloads { id, payloads },
                    (None, None, Some(bytes)) => WorkerFrame::Columns {
                        id,
                        bytes,
                        failed: line.failed.into_iter().collect(),
                    },
                    _ => return Err(lacks()),
                }
            }
            "log" => WorkerFrame::Log {
                level: line.level.unwrap_or(LogLevel::Info),
                message: line.message.ok_or_else(lacks)?,
            },
            "rows" => WorkerFrame::Rows {
                id: line.id.ok_or_else(lacks)?,
                request: line.request.ok_or_else(lacks)?,
            },
            "pong" => WorkerFrame::Pong,
            _ => return Err(lacks()),
        })
    }
}

/// What came from a worker is no frame. The error shows how it begins.
pub(crate) fn rubbish(bytes: &[u8]) -> Error {
    let shown = busbar_event::quote(&String::from_utf8_lossy(&bytes[..bytes.len().min(200)]));
    Error::new(Class::Permanent, "plugin.rubbish").with("text", shown)
}

/// Cuts the bytes that come from a worker into lines, and into what follows some of them.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to where there is no end of a line.
    searched: usize,
    max: usize,
}

impl FrameDecoder {
    /// A decoder of lines of at most `max` bytes.
    pub fn new(max: usize) -> FrameDecoder {
        FrameDecoder {
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            max,
        }
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next `bytes` bytes, which follow a line; none as long as they are not there.
    ///
    /// # Errors
    /// `plugin.answer-too-long`: they are more than is allowed.
    pub fn next_bytes(&mut self, bytes: u64) -> Result<Option<&[u8]>, Error> {
        let wanted = usize::try_from(bytes).unwrap_or(usize::MAX);
        if wanted > self.max {
            let error = Error::new(Class::Permanent, "plugin.answer-too-long");
            return Err(error.with("bytes_max", self.max));
        }
        if self.buffer.len() - self.start < wanted {
            return Ok(None);
        }
        let begin = self.start;
        self.start += wanted;
        self.searched = self.start;
        Ok(Some(&self.buffer[begin..self.start]))
    }

    /// The next line, without its end; none as long as it is not complete. Empty lines are skipped.
    ///
    /// # Errors
    /// `plugin.output-too-long`: the line is longer than is allowed.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, Error> {
        loop {
            let found = memchr::memchr(b'\n', &self.buffer[self.searched..]);
            let end = self.searched + found.unwrap_or(self.buffer.len() - self.searched);
            self.searched = end;
            if end - self.start > self.max {
                let error = Error::new(Class::Permanent, "plugin.output-too-long");
                return Err(error.with("bytes_max", self.max));
            }
            if found.is_none() {
                return Ok(None);
            }
            let begin = std::mem::replace(&mut self.start, end + 1);
            self.searched = self.start;
            if !self.buffer[begin..end].trim_ascii().is_empty() {
                return Ok(Some(&self.buffer[begin..end]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_the_bytes_arrive() {
        let text = b"{\"type\":\"pong\"}\n\n{\"type\":\"ready\",\"protocol\":1}\n";
        for step in 1..text.len() {
            let mut decoder = FrameDecoder::new(100);
            let mut lines = Vec::new();
            for part in text.chunks(step) {
                decoder.push(part);
                while let Some(line) = decoder.next_line().unwrap() {
                    lines.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            assert_eq!(
                lines,
                ["{\"type\":\"pong\"}", "{\"type\":\"ready\",\"protocol\":1}"]
            );
        }
    }

    #[test]
    fn bytes_behind_a_line_are_no_lines() {
        let text =
            b"{\"type\":\"result\",\"id\":1,\"arrow_bytes\":5}\na\n\nb\n{\"type\":\"pong\"}\n";
        for step in 1..text.len() {
            let mut decoder = FrameDecoder::new(100);
            let (mut lines, mut bytes, mut wanted) = (0, Vec::new(), None);
            for part in text.chunks(step) {
                decoder.push(part);
                loop {
                    if let Some(count) = wanted {
                        let Some(found) = decoder.next_bytes(count).unwrap() else {
                            break;
                        };
                        bytes = found.to_vec();
                        wanted = None;
                    }
                    let Some(line) = decoder.next_line().unwrap() else {
                        break;
                    };
                    lines += 1;
                    if let WorkerFrame::Columns { bytes, .. } = WorkerFrame::read(line).unwrap() {
                        wanted = Some(bytes);
                    }
                }
            }
            assert_eq!((lines, &bytes[..]), (2, &b"a\n\nb\n"[..]), "{step}");
        }
        let mut decoder = FrameDecoder::new(10);
        assert!(decoder.next_bytes(10).unwrap().is_none());
        for many in [11, u64::MAX] {
            let error = decoder.next_bytes(many).unwrap_err();
            assert_eq!(error.code(), "plugin.answer-too-long");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut decoder = FrameDecoder::new(10);
        decoder.push(&[b'x'; 10]);
        assert!(decoder.next_line().unwrap().is_none());
        decoder.push(b"x");
        assert_eq!(
            decoder.next_line().unwrap_err().code(),
            "plugin.output-too-long"
        );
    }

    #[test]
    fn what_is_no_frame_is_shown() {
        for bad in [
            &b"hello"[..],
            b"{\"type\":\"dance\"}",
            b"{\"type\":\"result\",\"id\":1}",
            b"{\"type\":\"result\",\"id\":1,\"events\":[],\"payloads\":[]}",
            b"{\"type\":\"result\",\"id\":1,\"events\":[],\"arrow_bytes\":1}",
            b"{\"type\":\"result\",\"id\":1,\"arrow_bytes\":-1}",
            b"{\"type\":\"result\",\"id\":-1,\"events\":[]}",
            b"[]",
            b"\xff",
        ] {
            assert_eq!(WorkerFrame::read(bad).unwrap_err().code(), "plugin.rubbish");
        }
        let frame =
            WorkerFrame::read(b"{\"type\":\"result\",\"id\":7,\"events\":[ null]}").unwrap();
        assert!(
            matches!(frame, WorkerFrame::Result { id: 7, events } if events.get() == "[ null]")
        );
    }
}
