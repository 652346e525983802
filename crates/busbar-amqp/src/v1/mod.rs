//! AMQP 1.0 without input or output: its types, its frames, its addresses and its messages.
//!
//! Everything that is read borrows from the input. The sessions are in [`crate::core`], beside those of 0-9-1:
//! both use the same exchanges and queues.

pub mod address;
pub mod encode;
pub mod fault;
mod json;
pub mod message;
pub mod performative;
pub mod properties;
pub mod value;

pub use fault::{FaultScope, V1Fault};
pub use performative::Performative;
pub use value::{TypedReader, TypedValue};

/// What a client begins a connection with that logs in by SASL.
pub const SASL_HEADER: &[u8; 8] = b"AMQP\x03\x01\x00\x00";
/// What a client begins a connection with, and goes on with after SASL.
pub const V1_HEADER: &[u8; 8] = b"AMQP\x00\x01\x00\x00";
/// Size, data offset, type and channel of a frame.
pub const FRAME_HEAD_BYTES: usize = 8;

/// A frame: its type (0 for AMQP, 1 for SASL), its channel and what follows its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V1Frame<'a> {
    /// 0 for AMQP, 1 for SASL.
    pub kind: u8,
    /// The channel.
    pub channel: u16,
    /// The performative and its payload; empty for a sign of life.
    pub body: &'a [u8],
}

/// Takes a frame from the front of `bytes`, and returns it with its length; `None` when it is not whole.
///
/// # Errors
/// `amqp:connection:framing-error` for a frame that is longer than `frame_bytes_max`, or shorter than its head.
pub fn split(
    bytes: &[u8],
    frame_bytes_max: usize,
) -> Result<Option<(V1Frame<'_>, usize)>, V1Fault> {
    let Some(head) = bytes.first_chunk::<FRAME_HEAD_BYTES>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let offset = usize::from(head[4]) * 4;
    if len > frame_bytes_max {
        return Err(V1Fault::framing(format!(
            "a frame of {len} bytes is longer than the {frame_bytes_max} bytes that were agreed on"
        )));
    }
    if offset < FRAME_HEAD_BYTES || offset > len {
        return Err(V1Fault::framing(format!(
            "a frame of {len} bytes has a data offset of {offset} bytes"
        )));
    }
    let Some(frame) = bytes.get(..len) else {
        return Ok(None);
    };
    let frame = V1Frame {
        kind: head[5],
        channel: u16::from_be_bytes([head[6], head[7]]),
        body: &frame[offset..],
    };
    Ok(Some((frame, len)))
}
