//! A batch as bytes: what frames on disk hold.
//!
//! | bytes | content |
//! | --- | --- |
//! | 1 | version, [`VERSION`] |
//! | 1 | kind: 0 payloads as they came, 1 typed columns |
//! | 1 | which columns that may be absent are there: bit 0 `key`, bit 1 `tags`, bit 2 `client` |
//! | 5 | zero |
//! | … | typed columns only: Arrow IPC schema message |
//! | … | Arrow IPC dictionary message 0: the topics |
//! | … | if there are clients: Arrow IPC dictionary message 1: the clients |
//! | … | Arrow IPC record batch message |
//!
//! The messages are encapsulated and padded as Arrow's IPC stream format says, without its end
//! marker. Payload batches carry no schema message because the second and third byte say all
//! that one would. Buffers begin at multiples of 64 bytes from the body's beginning (of 16 in
//! batches of few rows), so that a body at an aligned address is read without copying it.
//!
//! Reading trusts nothing: every length is compared with what is there before it is used, offsets
//! and UTF-8 are checked, and what a schema message may say is a short list. A body can be
//! refused; it cannot crash the reader or make it allocate more than the body's own size.

mod read;
mod schema;
mod write;

pub use read::decode;
pub use write::encode;

use crate::{Class, Error};

/// The version of the layout above.
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 8;

const KIND_PAYLOAD: u8 = 0;
const KIND_COLUMNS: u8 = 1;

const HAS_KEY: u8 = 1;
const HAS_TAGS: u8 = 2;
const HAS_CLIENT: u8 = 4;

const TOPIC_DICTIONARY: i64 = 0;
const CLIENT_DICTIONARY: i64 = 1;

/// Each message begins with these bytes and the length of its metadata.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// The error of a body that is none.
fn damaged(what: &'static str) -> Error {
    Error::new(Class::Permanent, "event.body-damaged").with("what", what)
}

#[cfg(test)]
mod tests;
