//! From bytes to packets: frames are measured before anything is buffered, then decoded.

use crate::ack::{Ack, AckKind};
use crate::control::{Control, ControlCodec};
use crate::limits::CONNECT_BYTES_MAX;
use crate::publish::Publish;
use crate::reason::{Reason, Refusal, Result};
use crate::rmqtt::RmqttCodec;
use crate::wire::{Reader, varint};
use crate::{Version, packet_type};

/// A packet from a client, borrowing from the read buffer where it matters.
#[derive(Clone, Debug)]
pub enum Packet<'a> {
    /// PUBLISH.
    Publish(Publish<'a>),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack(Ack),
    /// Everything else.
    Control(Control),
}

/// One frame at the front of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// First byte: type and flags.
    pub header: u8,
    /// What follows the fixed header.
    pub body: &'a [u8],
    /// Bytes of the whole packet.
    pub len: usize,
}

/// What is at the front of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split<'a> {
    /// A whole frame.
    Whole(Frame<'a>),
    /// The start of a frame; its full length when that is known already.
    Partial(Option<usize>),
}

/// Measures the frame at the front of `bytes`. A frame that says it is longer than `bytes_max` is
/// refused as soon as its fixed header is there; flags are checked here too.
#[inline]
pub fn split(bytes: &[u8], bytes_max: u32) -> Result<Split<'_>> {
    let Some((&header, rest)) = bytes.split_first() else {
        return Ok(Split::Partial(None));
    };
    let kind = header >> 4;
    let flags_fit = match kind {
        packet_type::PUBLISH => true,
        packet_type::PUBREL | packet_type::SUBSCRIBE | packet_type::UNSUBSCRIBE => {
            header & 0x0f == 2
        }
        packet_type::RESERVED => return Err(Refusal::malformed("packet type is zero")),
        _ => header & 0x0f == 0,
    };
    if !flags_fit {
        return Err(Refusal::malformed("reserved flags of the fixed header"));
    }
    let Some((remaining, used)) = varint(rest)? else {
        return Ok(Split::Partial(None));
    };
    let len = 1 + used + remaining as usize;
    if len > bytes_max as usize {
        return Err(Refusal::new(
            Reason::PACKET_TOO_LARGE,
            "packet is larger than allowed",
        ));
    }
    if bytes.len() < len {
        return Ok(Split::Partial(Some(len)));
    }
    Ok(Split::Whole(Frame {
        header,
        body: &bytes[1 + used..len],
        len,
    }))
}

/// Decodes what a client sends. It knows the version after CONNECT.
#[derive(Clone, Debug)]
pub struct Decoder<C = RmqttCodec> {
    version: Option<Version>,
    packet_bytes_max: u32,
    codec: C,
}

impl Decoder {
    /// A decoder for a new connection that takes packets of up to `packet_bytes_max` bytes.
    pub fn new(packet_bytes_max: u32) -> Decoder {
        Decoder {
            version: None,
            packet_bytes_max,
            codec: RmqttCodec,
        }
    }
}

impl<C: ControlCodec> Decoder<C> {
    /// The version of the connection, once CONNECT said it.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Largest packet accepted now.
    pub fn packet_bytes_max(&self) -> u32 {
        match self.version {
            None => self.packet_bytes_max.min(CONNECT_BYTES_MAX),
            Some(_) => self.packet_bytes_max,
        }
    }

    /// Measures the frame at the front of `bytes`.
    #[inline]
    pub fn split<'a>(&self, bytes: &'a [u8]) -> Result<Split<'a>> {
        if self.version.is_none()
            && let Some(&header) = bytes.first()
            && header >> 4 != packet_type::CONNECT
        {
            return Err(Refusal::protocol("the first packet is not CONNECT"));
        }
        split(bytes, self.packet_bytes_max())
    }

    /// Decodes a frame.
    #[inline]
    pub fn decode<'a>(&mut self, frame: Frame<'a>) -> Result<Packet<'a>> {
        let Some(version) = self.version else {
            let packet = self.codec.decode(frame.header, frame.body, Version::V311)?;
            if let Control::Connect(connect) = &packet {
                self.version = Some(connect.version);
            }
            return Ok(Packet::Control(packet));
        };
        let ack = |kind| Ack::decode(kind, frame.body, version).map(Packet::Ack);
        match frame.header >> 4 {
            packet_type::PUBLISH => {
                Publish::decode(frame.header, frame.body, version).map(Packet::Publish)
            }
            packet_type::PUBACK => ack(AckKind::Puback),
            packet_type::PUBREC => ack(AckKind::Pubrec),
            packet_type::PUBREL => ack(AckKind::Pubrel),
            packet_type::PUBCOMP => ack(AckKind::Pubcomp),
            packet_type::CONNECT => Err(Refusal::protocol("a second CONNECT")),
            packet_type::SUBSCRIBE
            | packet_type::UNSUBSCRIBE
            | packet_type::PINGREQ
            | packet_type::DISCONNECT
            | packet_type::AUTH => self
                .codec
                .decode(frame.header, frame.body, version)
                .map(Packet::Control),
            _ => Err(Refusal::protocol("a packet that only servers send")),
        }
    }
}

/// The version a CONNECT asks for, read even from one that is refused, so that the refusal can be
/// said in the client's own version. A level that does not exist yet is answered in the form of the
/// version whose CONNECT it looks like.
pub fn version_of_refused_connect(bytes: &[u8]) -> Option<Version> {
    let (remaining, used) = varint(bytes.get(1..)?).ok()??;
    match bytes.get(1 + used..1 + used + 7)? {
        [0, 4, b'M', b'Q', b'T', b'T', 5] => Some(Version::V5),
        [0, 4, b'M', b'Q', b'T', b'T', level] if *level > 5 => {
            let body = bytes.get(1 + used..)?;
            let body = body.get(..remaining as usize).unwrap_or(body);
            match looks_like_v311(body) {
                true => Some(Version::V311),
                false => Some(Version::V5),
            }
        }
        [0, 4, b'M', b'Q', b'T', b'T', _] | [0, 6, b'M', b'Q', b'I', b's', b'd'] => {
            Some(Version::V311)
        }
        _ => None,
    }
}

/// Whether the payload of a CONNECT begins right behind the keep-alive, as in 3.1.1, and fills the
/// packet; in 5.0 properties come first.
fn looks_like_v311(body: &[u8]) -> bool {
    const HEAD: usize = 10;
    let (Some(&flags), Some(payload)) = (body.get(7), body.get(HEAD..)) else {
        return false;
    };
    // The client identifier, two fields of a will, the user name, the password.
    let fields = 1 + [0x04, 0x04, 0x80, 0x40]
        .iter()
        .filter(|bit| flags & **bit != 0)
        .count();
    let mut r = Reader::new(payload);
    (0..fields).all(|_| r.binary().is_ok()) && r.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_level_is_answered_in_the_form_it_came_in() {
        let v311 = b"\x10\x0f\0\x04MQTT\x07\x02\0\x1e\0\x03abc";
        let v5 = b"\x10\x10\0\x04MQTT\x07\x02\0\x1e\0\0\x03abc";
        assert_eq!(version_of_refused_connect(v311), Some(Version::V311));
        assert_eq!(version_of_refused_connect(v5), Some(Version::V5));
        for n in 0..v5.len() {
            // Cut anywhere it is still no reason to panic.
            let _ = version_of_refused_connect(&v5[..n]);
        }
    }
}
