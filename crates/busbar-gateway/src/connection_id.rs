//! Names the connections of a worker thread.

/// A connection of a worker thread: its slot and a generation, so that a late answer to one that is gone does
/// not reach its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// Slot on its thread. Slots are reused, so they stay as few as there were connections at one time.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
}
