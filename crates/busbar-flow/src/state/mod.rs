//! The state of tasks: what their operators keep, and with it how far the task has come.
//!
//! A task's state is a map of byte keys. One commit changes any number of them, all or none, and is durable when it
//! returns. Keys of a task:
//!
//! | key | value |
//! | --- | --- |
//! | `c` | [`Checkpoint`](crate::state::Checkpoint), JSON |
//! | `k/` + sequence number (8 bytes, big-endian) | empty: input is cut there when it is read again |
//! | `m/<operator>` | the meaning of an operator's state, text |
//! | `o/<operator>/` + the operator's own key | what the operator wrote |

mod checkpoint;
mod copy;
mod fjall;
mod memory;
mod pending;
mod task;

use busbar_event::Error;
use bytes::Bytes;

use crate::operator::{StateChange, Visit};

pub(crate) use checkpoint::Checkpoint;
pub(crate) use fjall::FjallStore;
pub(crate) use memory::MemoryStore;
pub(crate) use pending::Snapshot;
pub(crate) use task::{States, TaskState};

/// Keeps the state of tasks. Every call may block on the disk. State that is not as it was written is the error
/// `flow.state-damaged`.
pub(crate) trait StateStore: Send + Sync {
    /// The value of a key of a task.
    ///
    /// # Errors
    /// What the disk says.
    fn get(&self, task: &str, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Calls `visit` with each pair of a task whose key starts with `prefix`, in the order of the keys, until it fails.
    ///
    /// # Errors
    /// What the disk says, or `visit`.
    fn scan(&self, task: &str, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), Error>;

    /// Makes changes, all or none; they are durable when it returns.
    ///
    /// # Errors
    /// What the disk says; then nothing has changed.
    fn commit(&self, task: &str, changes: Vec<StateChange>) -> Result<(), Error>;

    /// Removes the state of all tasks whose names begin with `prefix`.
    ///
    /// # Errors
    /// What the disk says; some of it may be gone then.
    fn remove(&self, prefix: &str) -> Result<(), Error>;
}
