//! The newest frames of a partition in memory, so that live readers touch no disk.

use std::collections::VecDeque;

use crate::frame::Frame;

/// Neighbouring frames up to the committed end.
#[derive(Default)]
pub(crate) struct Tail {
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Tail {
    /// Adds frames at the end, and forgets the oldest beyond `bytes_max`.
    pub fn push(&mut self, frames: Vec<Frame>, bytes_max: usize) {
        for frame in frames {
            self.bytes += frame.body.len();
            self.frames.push_back(frame);
        }
        self.shrink(bytes_max);
    }

    /// Forgets the oldest frames beyond `bytes_max`.
    pub fn shrink(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max
            && let Some(frame) = self.frames.pop_front()
        {
            self.bytes -= frame.body.len();
        }
    }

    /// Forgets frames that end at or before `start`.
    pub fn trim(&mut self, start: u64) {
        while self.frames.front().is_some_and(|f| f.end() <= start)
            && let Some(frame) = self.frames.pop_front()
        {
            self.bytes -= frame.body.len();
        }
    }

    /// Frames from the one that holds `offset` on, if it is here: one, and more while they fit.
    pub fn read(&self, offset: u64, bytes_max: usize) -> Option<Vec<Frame>> {
        if self.frames.front().is_none_or(|f| offset < f.base) {
            return None;
        }
        let first = self.frames.partition_point(|f| f.end() <= offset);
        let mut left = bytes_max;
        let mut out = Vec::new();
        for frame in self.frames.range(first..) {
            if !out.is_empty() && frame.body.len() > left {
                break;
            }
            left = left.saturating_sub(frame.body.len());
            out.push(frame.clone());
        }
        (!out.is_empty()).then_some(out)
    }
}
