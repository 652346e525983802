//! What an event is: topics, tags, flags, the columnar [`Batch`] that is the only thing moving
//! inside Busbar, the formats that turn payloads into typed columns and back, and the one error
//! type that people see.
//!
//! This crate knows nothing of disks, sockets, streams or SQL.

mod batch;
#[cfg(test)]
mod batch_tests;
mod bits;
mod builder;
mod codec;
mod columns;
mod envelope;
mod error;
pub mod format;
pub mod limits;
pub mod messages;
mod reshape;
pub mod tags;
#[cfg(test)]
mod testing;
pub mod topic;

pub use batch::{Batch, Body, EventRef};
pub use builder::{BatchBuilder, Row};
pub use codec::{decode, encode};
pub use envelope::{Envelope, columns_schema, dictionary, payload_schema};
pub use error::{Class, Error, Result};
pub use messages::Language;
pub use tags::{Flags, reserved};

/// Microseconds since 1970-01-01T00:00:00Z, the unit of every time in a batch.
pub type Micros = i64;

/// The beginning of a text from outside, for an error: bounded, and without control characters.
pub fn quote(text: &str) -> String {
    let mut quoted: String = text
        .chars()
        .take(limits::QUOTE_CHARS_MAX)
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect();
    if text.chars().nth(limits::QUOTE_CHARS_MAX).is_some() {
        quoted.push('…');
    }
    quoted
}
