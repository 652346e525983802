//! The embedded segmented log: bytes, frames and disks. It does not know what an event is.

mod clock;
mod disk;
mod doctor;
mod error;
mod frame;
pub mod limits;
mod log;
mod partition;
pub mod sim;
mod store;

pub use clock::{Clock, ManualClock, SystemClock};
pub use disk::{Disk, Entry, File, OsDisk, Space};
pub use doctor::{DoctorReport, Finding, Severity, doctor};
pub use error::{Class, Damage, LogError, Result};
pub use frame::{Companion, Frame};
pub use log::{Log, LogOptions};
pub use partition::{
    Append, Appended, Done, Durability, Merged, Partition, PartitionOptions, Rewritten,
    SegmentInfo, WakerGuard,
};
pub use store::{Change, Store};
