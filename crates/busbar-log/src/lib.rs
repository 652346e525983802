//! The embedded segmented log: bytes, frames and disks. It does not know what an event is.

mod clock;
mod commit;
mod disk;
mod doctor;
mod error;
mod frame;
mod index;
pub mod limits;
mod log;
mod partition;
mod recover;
mod rewrite;
mod scan;
mod segment;
pub mod sim;
mod store;
mod sync;
mod tail;
mod writer;

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
pub use log::{DATA_VERSION, Driver, Log, LogOptions};
pub use partition::{
    Append, Appended, Done, Durability, Merged, Partition, PartitionOptions, Rewritten,
    SegmentInfo, WakerGuard,
};
pub use store::{Applied, Change, Store};
