//! What is to be written to a client.

use std::collections::VecDeque;

use crate::limits::{OUT_BYTES_KEEP, OUT_CHUNK_BYTES};

/// What is to be written to a client, in order. Bytes that must not leave before a journal batch is
/// durable are staged, and so is all that comes after them.
///
/// What waits lies in chunks, so that a long queue costs the bytes that wait and hardly more: nothing
/// is copied as it grows, and what the client has taken is given back.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Chunks that take nothing more, first in first out.
    full: VecDeque<Vec<u8>>,
    full_bytes: usize,
    /// The chunk that is appended to.
    last: Vec<u8>,
    /// Bytes of the first chunk that are written.
    at: usize,
    /// An emptied chunk to go on with.
    spare: Vec<u8>,
    staged: VecDeque<(u64, Vec<u8>)>,
    staged_bytes: usize,
    packets: u64,
}

impl Outbox {
    /// Where to append a packet. With a gate the bytes wait for that journal batch.
    #[inline]
    pub fn append(&mut self, gate: Option<u64>, write: impl FnOnce(&mut Vec<u8>)) {
        self.packets += 1;
        if gate.is_none() && self.staged.is_empty() {
            if self.last.len() >= OUT_CHUNK_BYTES {
                self.begin_chunk();
            }
            return write(&mut self.last);
        }
        let gate = gate.unwrap_or(0);
        match self.staged.back() {
            Some((last, _)) if *last >= gate => {}
            _ => self.staged.push_back((gate, Vec::new())),
        }
        if let Some((_, bytes)) = self.staged.back_mut() {
            let before = bytes.len();
            write(bytes);
            self.staged_bytes += bytes.len() - before;
        }
    }

    #[cold]
    fn begin_chunk(&mut self) {
        let next = std::mem::take(&mut self.spare);
        let done = std::mem::replace(&mut self.last, next);
        self.full_bytes += done.len();
        self.full.push_back(done);
    }

    /// Lets out what waited for journal batches up to `done`.
    pub fn release(&mut self, done: u64) {
        while let Some((gate, _)) = self.staged.front() {
            if *gate > done {
                return;
            }
            if let Some((_, bytes)) = self.staged.pop_front() {
                self.staged_bytes -= bytes.len();
                if self.last.len() >= OUT_CHUNK_BYTES {
                    self.begin_chunk();
                }
                self.last.extend_from_slice(&bytes);
            }
        }
    }

    /// Whether something waits for journal batch `seq` or one before it.
    pub fn waits_for(&self, seq: u64) -> bool {
        self.staged.front().is_some_and(|(gate, _)| *gate <= seq)
    }

    /// Forgets what was not yet let out.
    pub fn drop_staged(&mut self) {
        self.staged.clear();
        self.staged_bytes = 0;
    }

    /// Bytes not yet written.
    #[inline]
    pub fn len(&self) -> usize {
        self.full_bytes + self.last.len() - self.at + self.staged_bytes
    }

    /// Whether nothing is left to write, staged bytes included.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What may be written now, as far as it lies together.
    pub fn writable(&self) -> &[u8] {
        &self.full.front().unwrap_or(&self.last)[self.at..]
    }

    /// `n` bytes of [`Outbox::writable`] were written.
    pub fn wrote(&mut self, n: usize) {
        let first = self.full.front().unwrap_or(&self.last);
        self.at = (self.at + n).min(first.len());
        if self.at < first.len() {
            return;
        }
        self.at = 0;
        let mut emptied = match self.full.pop_front() {
            Some(chunk) => {
                self.full_bytes -= chunk.len();
                chunk
            }
            None => std::mem::take(&mut self.last),
        };
        emptied.clear();
        if emptied.capacity() > 2 * OUT_CHUNK_BYTES {
            // It held a packet that is larger than most.
            return;
        }
        if self.last.capacity() == 0 {
            self.last = emptied;
        } else {
            self.spare = emptied;
        }
    }

    /// Gives back what an empty queue holds beyond [`OUT_BYTES_KEEP`].
    pub fn trim(&mut self) {
        if self.is_empty() {
            self.spare = Vec::new();
            if self.last.capacity() > OUT_BYTES_KEEP {
                self.last = Vec::new();
            }
        }
    }

    /// Packets appended since this was asked last.
    pub fn take_packets(&mut self) -> u64 {
        std::mem::take(&mut self.packets)
    }

    /// Counts `n` packets more than the one that each [`Outbox::append`] counts.
    pub fn count_packets(&mut self, n: u64) {
        self.packets += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::OUT_BYTES_HIGH;

    impl Outbox {
        /// Bytes of memory it holds.
        fn capacity(&self) -> usize {
            let chunks = self.full.iter().chain([&self.last, &self.spare]);
            chunks.map(Vec::capacity).sum::<usize>() + self.staged_bytes
        }
    }

    /// A client that takes its bytes steadily and is given more before it has taken all.
    #[test]
    fn a_queue_that_is_never_empty_holds_little_more_than_what_waits() {
        let mut out = Outbox::default();
        let (mut next, mut taken) = (0u32, 0u32);
        for _ in 0..1024 {
            while out.len() < OUT_BYTES_HIGH {
                out.append(None, |bytes| bytes.extend(next.to_be_bytes().repeat(750)));
                next += 1;
            }
            for _ in 0..16 {
                // As a socket does: it takes a part, and packets end where they like.
                let mut wanted = 3000;
                while wanted > 0 {
                    let writable = out.writable();
                    let n = writable.len().min(wanted).min(4000);
                    let word = |i: usize| &writable[4 * i..4 * i + 4];
                    assert!((0..n / 4).all(|i| word(i) == taken.to_be_bytes()));
                    out.wrote(n);
                    wanted -= n;
                }
                taken += 1;
            }
            // A chunk grows by doubling.
            let bound = 2 * OUT_BYTES_HIGH;
            assert!(out.capacity() <= bound, "{}", out.capacity());
        }
        while !out.writable().is_empty() {
            out.wrote(out.writable().len());
        }
        out.trim();
        assert_eq!((out.len(), out.full.len()), (0, 0));
        assert!(out.capacity() <= OUT_BYTES_KEEP);
    }

    /// What is staged keeps back what comes after it, and both come out in order.
    #[test]
    fn staged_bytes_keep_their_place() {
        let mut out = Outbox::default();
        for (gate, byte) in [(None, 1), (Some(7), 2), (None, 3), (Some(9), 4), (None, 5)] {
            out.append(gate, |bytes| bytes.push(byte));
        }
        assert_eq!((out.writable(), out.len()), (&[1][..], 5));
        out.release(8);
        assert_eq!(out.writable(), [1, 2, 3]);
        assert!(out.waits_for(9) && !out.waits_for(8));
        out.wrote(2);
        out.release(9);
        assert_eq!((out.writable(), out.len()), (&[3, 4, 5][..], 3));
        assert_eq!(out.take_packets(), 5);
    }
}
