//! Frames.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// Something decoded from a frame's body by those above, kept beside it.
pub type Companion = Arc<dyn Any + Send + Sync>;

/// What was appended at once: some rows with consecutive offsets, as one opaque body.
#[derive(Clone)]
pub struct Frame {
    /// Offset of the first row.
    pub base: u64,
    /// Number of rows.
    pub count: u32,
    /// Smallest time of the rows, as the appender gave it (microseconds).
    pub min_time: i64,
    /// Largest time of the rows.
    pub max_time: i64,
    /// The appender's own bits.
    pub attributes: u16,
    /// Producers that have rows here, with their positions.
    pub producers: Arc<[(Arc<str>, u64)]>,
    /// The body, 64-byte aligned when it was read from disk.
    pub body: Bytes,
    pub(crate) companion: Arc<OnceLock<Companion>>,
}

impl Frame {
    /// First offset after this frame.
    pub fn end(&self) -> u64 {
        self.base + u64::from(self.count)
    }

    /// What was decoded from this frame before, if anything.
    pub fn companion(&self) -> Option<&Companion> {
        self.companion.get()
    }

    /// The companion; made by `init` when there is none yet, and shared with all clones.
    pub fn companion_or_init<E>(
        &self,
        init: impl FnOnce(&Frame) -> Result<Companion, E>,
    ) -> Result<Companion, E> {
        if let Some(companion) = self.companion.get() {
            return Ok(companion.clone());
        }
        let made = init(self)?;
        Ok(self.companion.get_or_init(|| made).clone())
    }
}
