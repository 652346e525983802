//! PUBACK, PUBREC, PUBREL and PUBCOMP: decoded in place, encoded by the run.

use crate::Version;
use crate::property::{Allowed, Writer, id, read_section};
use crate::reason::{Reason, Refusal, Result};
use crate::wire::{Reader, put_varint};

/// Which of the four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AckKind {
    /// QoS 1 is done.
    Puback,
    /// QoS 2, first answer.
    Pubrec,
    /// QoS 2, release.
    Pubrel,
    /// QoS 2 is done.
    Pubcomp,
}

impl AckKind {
    /// First byte of the packet.
    pub const fn header(self) -> u8 {
        match self {
            AckKind::Puback => 0x40,
            AckKind::Pubrec => 0x50,
            AckKind::Pubrel => 0x62,
            AckKind::Pubcomp => 0x70,
        }
    }

    fn reason_fits(self, reason: Reason) -> bool {
        match self {
            AckKind::Puback | AckKind::Pubrec => matches!(
                reason,
                Reason::SUCCESS
                    | Reason::NO_MATCHING_SUBSCRIBERS
                    | Reason::UNSPECIFIED_ERROR
                    | Reason::IMPLEMENTATION_SPECIFIC_ERROR
                    | Reason::NOT_AUTHORIZED
                    | Reason::TOPIC_NAME_INVALID
                    | Reason::PACKET_IDENTIFIER_IN_USE
                    | Reason::QUOTA_EXCEEDED
                    | Reason::PAYLOAD_FORMAT_INVALID
            ),
            AckKind::Pubrel | AckKind::Pubcomp => {
                matches!(
                    reason,
                    Reason::SUCCESS | Reason::PACKET_IDENTIFIER_NOT_FOUND
                )
            }
        }
    }
}

/// One acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Which.
    pub kind: AckKind,
    /// Of which packet; never zero.
    pub packet_id: u16,
    /// Always success in 3.1.1.
    pub reason: Reason,
}

impl Ack {
    /// Decodes the body of an acknowledgement of `kind`.
    #[inline]
    pub fn decode(kind: AckKind, body: &[u8], version: Version) -> Result<Ack> {
        let mut r = Reader::new(body);
        let packet_id = r.packet_id()?;
        let mut reason = Reason::SUCCESS;
        if version == Version::V5 && !r.is_empty() {
            reason = Reason(r.u8()?);
            if !kind.reason_fits(reason) {
                return Err(Refusal::protocol(
                    "reason code does not belong to this acknowledgement",
                ));
            }
            if !r.is_empty() {
                read_section(&mut r, Allowed::ACK, |_, _| Ok(()))?;
            }
        }
        r.finish()?;
        Ok(Ack {
            kind,
            packet_id,
            reason,
        })
    }
}

/// Appends `count` successful acknowledgements of consecutive packet identifiers from `first` on
/// (65,535 is followed by 1).
#[inline]
pub fn encode_run(kind: AckKind, first: u16, count: u32, out: &mut Vec<u8>) {
    out.reserve(count as usize * 4);
    let mut packet_id = first;
    for _ in 0..count {
        let [hi, lo] = packet_id.to_be_bytes();
        out.extend_from_slice(&[kind.header(), 2, hi, lo]);
        packet_id = next_packet_id(packet_id);
    }
}

/// Appends one acknowledgement with its reason; `reason_string` only where there is room for it and
/// the client asked for problem information.
pub fn encode_ack(version: Version, ack: Ack, reason_string: Option<&str>, out: &mut Vec<u8>) {
    if version == Version::V311 || ack.reason == Reason::SUCCESS {
        return encode_run(ack.kind, ack.packet_id, 1, out);
    }
    let mut properties = Vec::new();
    if let Some(text) = reason_string {
        Writer(&mut properties).binary(id::REASON_STRING, text.as_bytes());
    }
    let mut body = Vec::with_capacity(4 + properties.len());
    body.extend_from_slice(&ack.packet_id.to_be_bytes());
    body.push(ack.reason.0);
    if !properties.is_empty() {
        put_varint(&mut body, properties.len());
        body.extend_from_slice(&properties);
    }
    out.push(ack.kind.header());
    put_varint(out, body.len());
    out.extend_from_slice(&body);
}

/// The packet identifier after `id`: zero is never used.
#[inline]
pub fn next_packet_id(id: u16) -> u16 {
    match id {
        u16::MAX => 1,
        _ => id + 1,
    }
}
