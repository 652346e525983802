//! Streams: which topics they capture, how events get in and are read, what of them is retained.
//!
//! Events come in through a [`Publisher`] (one a thread, made for millions of events a second) or
//! as whole batches through [`Bus::append`]; they land in exactly one [`Stream`], the one with the
//! most specific pattern, and there in one partition. Readers hold a [`Cursor`] and see only what
//! is committed.
//!
//! This crate does not know sockets, protocols, flows or SQL, nor how frames get to the disk.

mod append;
mod arrival;
mod board;
mod budget;
mod bus;
mod cursor;
mod error;
mod ingest;
mod key;
mod known_columns;
mod lane;
pub mod limits;
mod merge;
mod meter;
mod options;
mod publisher;
mod refused;
mod retained;
mod routes;
mod schema;
mod shared;
mod spec;
mod stream;
mod time_spec;

pub use append::{Appended, Producer};
pub use budget::ByteBudget;
pub use bus::{Bus, INBOX};
pub use busbar_event::{Size, Span};
pub use cursor::{Cursor, Gap, Item};
pub use error::from_log;
pub use ingest::EventTimes;
pub use key::{KeyRule, Part};
pub use lane::{Failure, Status, Ticket};
pub use meter::Counters;
pub use options::BusOptions;
pub use publisher::{Event, Publisher};
pub use refused::Refused;
pub use retained::{Page, Retained, RetainedValue};
pub use spec::{Durability, Retention, StreamSpec, check_name};
pub use stream::{Chunk, Landed, PartitionId, Stream, StreamPartition};
pub use time_spec::{BadTime, EventTimeSpec};
