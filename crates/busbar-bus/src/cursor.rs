//! Reading a partition from a position on, for as long as it goes on.

use std::{collections::VecDeque, sync::Arc};

use busbar_event::{Error, Result};
use busbar_log::LogError;

use crate::{
    limits::CURSOR_READ_BYTES,
    stream::{Chunk, ReadError, StreamPartition},
};

/// A position in a partition that moves on with what is read. Neither loses nor repeats a row;
/// where rows cannot be read any more it says so and goes on behind them.
pub struct Cursor {
    partition: Arc<StreamPartition>,
    position: u64,
    read: VecDeque<Chunk>,
    read_bytes: usize,
}

/// What comes next.
#[derive(Clone, Debug)]
pub enum Item {
    /// Rows.
    Chunk(Chunk),
    /// Rows that are gone.
    Gap(Gap),
}

/// Offsets that cannot be read, and why.
#[derive(Clone, Debug)]
pub struct Gap {
    /// The first one missed.
    pub from: u64,
    /// The first one after it that can be read.
    pub resume: u64,
    /// Removed by retention, or damaged.
    pub cause: Error,
}

impl Cursor {
    /// A cursor that begins at `position`; before the start or beyond the end it begins there.
    pub fn new(partition: Arc<StreamPartition>, position: u64) -> Cursor {
        let position = position.min(partition.end());
        Cursor {
            partition,
            position,
            read: VecDeque::new(),
            read_bytes: CURSOR_READ_BYTES,
        }
    }

    /// Reads at most `bytes` from the log at once.
    #[must_use]
    pub fn with_read_bytes(mut self, bytes: usize) -> Cursor {
        self.read_bytes = bytes.clamp(1, CURSOR_READ_BYTES);
        self
    }

    /// The partition it reads.
    pub fn partition(&self) -> &Arc<StreamPartition> {
        &self.partition
    }

    /// Offset of the row that comes next.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Committed rows that have not been read.
    pub fn lag(&self) -> u64 {
        self.partition.end().saturating_sub(self.position)
    }

    /// Goes on from another offset.
    pub fn seek(&mut self, position: u64) {
        self.read.clear();
        self.position = position.min(self.partition.end());
    }

    /// Goes on from an offset before which all is older than `micros`. May block on the disk.
    pub fn seek_time(&mut self, micros: i64) -> Result<()> {
        let position = self.partition.offset_at_time(micros)?;
        self.seek(position);
        Ok(())
    }

    /// What comes next; waits until there is something. May be cancelled: nothing is lost.
    ///
    /// # Errors
    /// When the log is closed or the disk cannot be read; asking again tries again.
    pub async fn next(&mut self) -> Result<Item> {
        loop {
            let partition = Arc::clone(&self.partition);
            let committed = partition.commits().notified();
            tokio::pin!(committed);
            // Registered before looking, so that a commit between looking and waiting wakes us.
            committed.as_mut().enable();
            if let Some(item) = self.poll_memory()? {
                return Ok(item);
            }
            if self.position < partition.end() {
                if let Some(item) = self.read_disk().await? {
                    return Ok(item);
                }
            } else {
                committed.await;
            }
        }
    }

    /// What comes next if it is committed; may block on the disk.
    pub fn try_next(&mut self) -> Result<Option<Item>> {
        if let Some(item) = self.poll_memory()? {
            return Ok(Some(item));
        }
        if self.position >= self.partition.end() {
            return Ok(None);
        }
        let read = self.partition.read_raw(self.position, self.read_bytes);
        self.take(read)
    }

    /// What comes next if it is in memory; `None` at the end or where the disk must be asked.
    pub fn poll_memory(&mut self) -> Result<Option<Item>> {
        if let Some(item) = self.pop() {
            return Ok(Some(item));
        }
        if self.position >= self.partition.end() {
            return Ok(None);
        }
        match self
            .partition
            .read_cached_raw(self.position, self.read_bytes)
        {
            Some(read) => self.take(read),
            None => Ok(None),
        }
    }

    async fn read_disk(&mut self) -> Result<Option<Item>> {
        let (partition, position, bytes) =
            (Arc::clone(&self.partition), self.position, self.read_bytes);
        let read = tokio::task::spawn_blocking(move || partition.read_raw(position, bytes))
            .await
            .unwrap_or(Err(ReadError::Log(LogError::Closed)));
        self.take(read)
    }

    fn pop(&mut self) -> Option<Item> {
        let chunk = self.read.pop_front()?;
        self.position = chunk.end();
        Some(Item::Chunk(chunk))
    }

    fn take(&mut self, read: Result<Vec<Chunk>, ReadError>) -> Result<Option<Item>> {
        let (resume, error) = match read {
            Ok(chunks) => {
                self.read.extend(chunks);
                return Ok(self.pop());
            }
            Err(ReadError::Log(LogError::Trimmed { start })) => {
                (start, ReadError::Log(LogError::Trimmed { start }))
            }
            Err(ReadError::Log(error @ LogError::Damaged { resume, .. })) => {
                (resume, ReadError::Log(error))
            }
            Err(error @ ReadError::Body { resume, .. }) => (resume, error),
            Err(error) => return Err(error.into_error()),
        };
        let cause = error.into_error();
        // A gap that does not move on would be reported for ever.
        if resume <= self.position {
            return Err(cause);
        }
        let from = std::mem::replace(&mut self.position, resume);
        Ok(Some(Item::Gap(Gap {
            from,
            resume,
            cause,
        })))
    }
}
