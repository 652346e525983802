//! How much output the connections of a thread may hold together, so that many slow clients cost no more than a
//! few.

use crate::limits::{OUT_BYTES_HIGH, OUT_BYTES_PRESSED, OUT_BYTES_TOTAL_HIGH};

/// Bytes that wait to be written to the clients of a thread, and how many may wait for each of them.
#[derive(Debug)]
pub struct OutputBudget {
    bytes: usize,
    each_max: usize,
}

impl Default for OutputBudget {
    fn default() -> OutputBudget {
        OutputBudget {
            bytes: 0,
            each_max: OUT_BYTES_HIGH,
        }
    }
}

impl OutputBudget {
    /// Bytes waiting for one client at which it is given no more.
    #[inline]
    pub fn each_max(&self) -> usize {
        self.each_max
    }

    /// `n` more bytes will be delivered. The bound falls at once, because what one turn delivers to many clients can
    /// be a multiple of what the thread may hold.
    #[inline]
    pub fn add(&mut self, n: usize) {
        self.bytes += n;
        if self.bytes > OUT_BYTES_TOTAL_HIGH {
            self.each_max = OUT_BYTES_PRESSED;
        }
    }

    /// `n` bytes were written to a socket.
    #[inline]
    pub fn sub(&mut self, n: usize) {
        self.bytes = self.bytes.saturating_sub(n);
    }

    /// Replaces the running count, which leaves out acknowledgements and connections that have ended, by `bytes`, a
    /// sum over all clients. True when there is room again.
    pub fn recount(&mut self, bytes: usize) -> bool {
        let before = self.each_max;
        self.bytes = 0;
        self.add(bytes);
        if bytes < OUT_BYTES_TOTAL_HIGH / 2 {
            self.each_max = OUT_BYTES_HIGH;
        }
        self.each_max > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_falls_at_once_and_rises_when_half_of_it_is_free() {
        let mut waiting = OutputBudget::default();
        waiting.add(OUT_BYTES_TOTAL_HIGH);
        assert_eq!(waiting.each_max(), OUT_BYTES_HIGH);
        waiting.add(1);
        assert_eq!(waiting.each_max(), OUT_BYTES_PRESSED);
        waiting.sub(OUT_BYTES_TOTAL_HIGH);
        assert!(!waiting.recount(OUT_BYTES_TOTAL_HIGH / 2));
        assert_eq!(waiting.each_max(), OUT_BYTES_PRESSED);
        assert!(waiting.recount(OUT_BYTES_TOTAL_HIGH / 2 - 1));
        assert_eq!(waiting.each_max(), OUT_BYTES_HIGH);
    }
}
