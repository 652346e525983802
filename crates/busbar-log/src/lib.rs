//! The embedded segmented log: bytes, frames and disks. It does not know what an event is.
//!
//! A [`Log`] is a data folder with one commit thread. An append travels so:
//!
//! 1. [`Partition::append`] checksums the body on the caller's core and puts it into a queue
//!    (`commit.rs`); it never blocks.
//! 2. The commit thread takes all that waits as one group, assigns offsets, recognises what
//!    producers repeat, and writes each partition's frames with one vectored write
//!    (`writer.rs`, the format in `frame.rs`). Bodies are not copied.
//! 3. It syncs each file it has touched once, several at the same time (`sync.rs`). Meanwhile the
//!    next group gathers.
//! 4. It notes beside each segment how far it is durable now (`mark.rs`), for the next start.
//! 5. Only then, in order: observers see the frames, they go to the memory of recent frames
//!    (`tail.rs`), the end moves, completions and wakers are called.
//!
//! Readers see what is committed and nothing else, from memory or from segments (`segment.rs`) by
//! a sparse index (`index.rs`). What happens at the next start is in `recover.rs`. A [`Store`] is a
//! map in memory whose journal is a partition. Clock and disk are parameters: `sim` has a disk that
//! loses power.
//!
//! What is absent: no knowledge of a body's content, no configuration files, no async runtime, and
//! no retry of a failed sync.

mod append;
mod clock;
mod commit;
mod disk;
mod doctor;
mod error;
mod frame;
mod health;
mod index;
pub mod limits;
mod log;
mod mark;
mod options;
mod partition;
mod producers;
mod queue;
mod recover;
mod rewrite;
mod scan;
mod segment;
pub mod sim;
mod state;
mod store;
mod supervise;
mod sync;
mod tail;
#[cfg(test)]
mod testing;
mod writer;

pub use append::{Append, Appended, Done, RECORDS_ONLY};
pub use clock::{Clock, ManualClock, SystemClock};
pub use commit::Step;
#[doc(hidden)]
pub use crc32c::crc32c;
pub use disk::{Disk, Entry, File, OsDisk, Space};
pub use doctor::{DoctorReport, Finding, Severity, doctor, doctor_with};
pub use error::{Class, Damage, LogError, Result};
#[doc(hidden)]
pub use frame::check_frame;
pub use frame::{Companion, Frame};
pub use log::{DATA_VERSION, Driver, Log};
pub use options::{Durability, LogOptions, PartitionOptions};
pub use partition::{Merged, Partition, Rewritten, SegmentInfo, WakerGuard};
pub use store::{Applied, Change, Store};
pub use supervise::{EndedThread, Supervisor, Watched};
