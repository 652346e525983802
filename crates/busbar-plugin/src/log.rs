//! What a plug-in says: the last lines of its log.

use std::collections::VecDeque;

use busbar_event::Micros;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{LOG_LINE_BYTES_MAX, LOG_LINES_MAX, LOG_LINES_PER_SECOND_MAX};

/// A line that a plug-in has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Counts the lines of a plug-in, from 1.
    pub number: u64,
    /// When it was written, in microseconds since 1970.
    pub time: Micros,
    /// How much it matters.
    pub level: LogLevel,
    /// Which worker wrote it, from 0.
    pub worker: usize,
    /// The text, cut to a bounded length.
    pub text: String,
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// For whoever looks for a fault.
    Debug,
    /// What happens.
    Info,
    /// What should not happen.
    Warning,
    /// What went wrong.
    Error,
}

/// The last lines of a plug-in.
#[derive(Default)]
pub(crate) struct PluginLog(Mutex<KeptLines>);

#[derive(Default)]
struct KeptLines {
    lines: VecDeque<LogLine>,
    written: u64,
    /// The second that is counted, and the lines in it.
    second: (Micros, u32),
    dropped: u64,
}

impl PluginLog {
    /// Adds a line; beyond the rate that is allowed it is only counted.
    pub fn write(&self, time: Micros, worker: usize, level: LogLevel, text: &str) {
        let mut log = self.0.lock();
        let second = time.div_euclid(1_000_000);
        if log.second.0 != second {
            log.second = (second, 0);
        }
        log.second.1 += 1;
        if log.second.1 > LOG_LINES_PER_SECOND_MAX {
            log.dropped += 1;
            return;
        }
        if log.lines.len() >= LOG_LINES_MAX {
            log.lines.pop_front();
        }
        log.written += 1;
        let number = log.written;
        log.lines.push_back(LogLine {
            number,
            time,
            level,
            worker,
            text: cut(text, LOG_LINE_BYTES_MAX).to_owned(),
        });
    }

    /// The lines behind number `after`, oldest first.
    pub fn lines(&self, after: u64) -> Vec<LogLine> {
        let log = self.0.lock();
        let lines = log.lines.iter().filter(|line| line.number > after);
        lines.cloned().collect()
    }

    /// The last line of a worker.
    pub fn last_of(&self, worker: usize) -> Option<String> {
        let log = self.0.lock();
        let mut lines = log.lines.iter().rev();
        lines
            .find(|line| line.worker == worker)
            .map(|line| line.text.clone())
    }

    /// Number of lines that were dropped because there were too many within a second.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }
}

/// The beginning of a text, at most `bytes` long.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_in_lines_length_and_rate() {
        let log = PluginLog::default();
        for second in 0..4 {
            for _ in 0..LOG_LINES_PER_SECOND_MAX + 1 {
                log.write(
                    second * 1_000_000,
                    0,
                    LogLevel::Info,
                    &"é".repeat(LOG_LINE_BYTES_MAX),
                );
            }
        }
        let lines = log.lines(0);
        assert_eq!((lines.len(), log.dropped()), (LOG_LINES_MAX, 4));
        assert!(
            lines
                .iter()
                .all(|line| line.text.len() <= LOG_LINE_BYTES_MAX)
        );
        let last = lines.last().unwrap().number;
        assert_eq!(log.lines(last - 1).len(), 1);
    }
}
