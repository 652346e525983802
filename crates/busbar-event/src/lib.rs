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
pub mod hash;
pub mod limits;
pub mod messages;
mod relation;
mod reshape;
pub mod tags;
#[cfg(test)]
mod testing;
pub mod time;
pub mod topic;
mod units;

pub use batch::{Batch, Body, EventRef};
pub use builder::{BatchBuilder, Row};
pub use codec::{decode, encode};
pub use envelope::{Envelope, columns_schema, dictionary, payload_schema};
pub use error::{Class, Error, Result};
pub use messages::Language;
pub use relation::{RELATION_COLUMNS, is_relation_column, relation_schema};
pub use tags::{Flags, reserved};
pub use units::{Size, Span};

/// Microseconds since 1970-01-01T00:00:00Z, the unit of every time in a batch.
pub type Micros = i64;

/// In place of a time: the event happened when it arrives. The partition that the event is appended
/// to replaces it by a time of the event's own; no committed event has it.
pub const ARRIVAL: Micros = Micros::MIN;

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
