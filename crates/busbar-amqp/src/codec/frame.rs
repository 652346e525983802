//! Frames: type, channel, length, payload and the byte that ends each of them.

use crate::fault::AmqpFault;

/// What a frame holds beside its payload: type, channel, length and end.
pub const FRAME_OVERHEAD_BYTES: usize = 8;
/// The byte that ends a frame.
pub const FRAME_END: u8 = 0xCE;
/// What a client begins a connection with.
pub const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// The types of frames.
pub mod kind {
    /// A method.
    pub const METHOD: u8 = 1;
    /// The header of a content.
    pub const HEADER: u8 = 2;
    /// A part of a content's body.
    pub const BODY: u8 = 3;
    /// A sign of life.
    pub const HEARTBEAT: u8 = 8;
}

/// A frame, borrowed from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawFrame<'a> {
    /// Its type, see [`kind`].
    pub kind: u8,
    /// Its channel.
    pub channel: u16,
    /// Its payload.
    pub payload: &'a [u8],
}

/// What stands at the front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// A frame, and the bytes it takes.
    Whole(RawFrame<'a>, usize),
    /// The beginning of a frame; the bytes of the whole, if they are known.
    Partial(Option<usize>),
}

/// Takes a frame from the front of `bytes`. A frame longer than `frame_bytes_max` is refused as soon as
/// its length has arrived.
///
/// # Errors
/// 501 for an unknown type, a frame that is too long, and one that does not end with [`FRAME_END`].
pub fn split(bytes: &[u8], frame_bytes_max: usize) -> Result<Framed<'_>, AmqpFault> {
    let Some(&kind) = bytes.first() else {
        return Ok(Framed::Partial(None));
    };
    if !matches!(
        kind,
        kind::METHOD | kind::HEADER | kind::BODY | kind::HEARTBEAT
    ) {
        return Err(AmqpFault::frame(format!("unknown frame type {kind}")));
    }
    let Some((head, rest)) = bytes.split_at_checked(7) else {
        return Ok(Framed::Partial(None));
    };
    let channel = u16::from_be_bytes([head[1], head[2]]);
    let len = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    if len > frame_bytes_max.saturating_sub(FRAME_OVERHEAD_BYTES) {
        return Err(AmqpFault::frame(format!(
            "type {kind}, channel {channel}: frame of {} bytes is larger than the negotiated {frame_bytes_max}",
            len + FRAME_OVERHEAD_BYTES
        )));
    }
    let Some((payload, rest)) = rest.split_at_checked(len) else {
        return Ok(Framed::Partial(Some(len + FRAME_OVERHEAD_BYTES)));
    };
    match rest.first() {
        None => Ok(Framed::Partial(Some(len + FRAME_OVERHEAD_BYTES))),
        Some(&FRAME_END) => Ok(Framed::Whole(
            RawFrame {
                kind,
                channel,
                payload,
            },
            len + FRAME_OVERHEAD_BYTES,
        )),
        Some(end) => Err(AmqpFault::frame(format!(
            "type {kind}, channel {channel}: the frame ends with {end} in place of {FRAME_END}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_whole_and_never_guessed() {
        let bytes = b"\x01\x00\x02\x00\x00\x00\x03abc\xCErest";
        for n in 0..bytes.len() - 4 {
            assert!(
                matches!(split(&bytes[..n], 4096), Ok(Framed::Partial(_))),
                "{n}"
            );
        }
        let frame = RawFrame {
            kind: 1,
            channel: 2,
            payload: b"abc",
        };
        assert_eq!(
            split(bytes, 4096).expect("a frame"),
            Framed::Whole(frame, 11)
        );
    }

    #[test]
    fn wrong_frames_are_refused_at_once() {
        assert!(split(b"\x04", 4096).is_err());
        assert!(split(b"\x01\x00\x00\x00\x00\x10\x00", 4096).is_err());
        assert!(split(b"\x03\x00\x00\xff\xff\xff\xff", 131_072).is_err());
        assert!(split(b"\x08\x00\x00\x00\x00\x00\x00\xCD", 4096).is_err());
    }
}
