//! Frames, methods, content headers and field tables of AMQP 0-9-1, without I/O.
//!
//! Everything that is read borrows from the input: a frame is a slice, a table is a checked slice.
//! Nothing is allocated before its length was compared with what has arrived.

pub mod encode;
pub mod frame;
pub mod method;
pub mod properties;
pub mod table;
mod wire;

pub use frame::{Framed, RawFrame, split};
pub use method::ClientMethod;
pub use properties::BasicProperties;
pub use table::{FieldTable, FieldValue, TableWriter};
pub use wire::WireReader;
