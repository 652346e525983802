//! What a server sends, but for PUBLISH and its acknowledgements.

use crate::Version;
use crate::property::{Writer, id};
use crate::reason::Reason;
use crate::wire::{put_varint, varint_len};

/// What CONNACK tells the client about the server. Only what differs from the standard's default is
/// written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// The session was there before.
    pub session_present: bool,
    /// Success or why not.
    pub reason: Reason,
    /// The session expiry that holds, when it is not what the client asked for.
    pub session_expiry_s: Option<u32>,
    /// QoS 1 and 2 publishes taken at a time.
    pub receive_maximum: u16,
    /// Largest packet taken.
    pub maximum_packet_size: Option<u32>,
    /// Topic aliases taken.
    pub topic_alias_maximum: u16,
    /// The identifier the server chose.
    pub assigned_client_id: Option<&'a str>,
    /// The keep-alive that holds, when it is not what the client asked for.
    pub server_keep_alive_s: Option<u16>,
    /// Prefix for response topics.
    pub response_info: Option<&'a str>,
    /// In words.
    pub reason_string: Option<&'a str>,
}

impl ConnAck<'_> {
    /// A refusal.
    pub fn refusal(reason: Reason, reason_string: Option<&str>) -> ConnAck<'_> {
        ConnAck {
            session_present: false,
            reason,
            session_expiry_s: None,
            receive_maximum: u16::MAX,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            assigned_client_id: None,
            server_keep_alive_s: None,
            response_info: None,
            reason_string,
        }
    }

    /// Bytes of the packet.
    pub fn packet_len(&self, version: Version) -> usize {
        let mut packet = Vec::new();
        self.encode(version, &mut packet);
        packet.len()
    }

    /// Appends the packet; in 3.1.1 a reason without a return code writes nothing, because the
    /// standard just closes then.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        if version == Version::V311 {
            if let Some(code) = self.reason.connect_return_code() {
                out.extend_from_slice(&[0x20, 2, u8::from(self.session_present), code]);
            }
            return;
        }
        let mut p = Vec::new();
        let mut w = Writer(&mut p);
        if let Some(s) = self.session_expiry_s {
            w.four(id::SESSION_EXPIRY, s);
        }
        if self.receive_maximum != u16::MAX {
            w.two(id::RECEIVE_MAXIMUM, self.receive_maximum);
        }
        if let Some(n) = self.maximum_packet_size {
            w.four(id::MAXIMUM_PACKET_SIZE, n);
        }
        if let Some(text) = self.assigned_client_id {
            w.binary(id::ASSIGNED_CLIENT_ID, text.as_bytes());
        }
        if self.topic_alias_maximum > 0 {
            w.two(id::TOPIC_ALIAS_MAXIMUM, self.topic_alias_maximum);
        }
        if let Some(s) = self.server_keep_alive_s {
            w.two(id::SERVER_KEEP_ALIVE, s);
        }
        if let Some(text) = self.response_info {
            w.binary(id::RESPONSE_INFO, text.as_bytes());
        }
        if let Some(text) = self.reason_string {
            w.binary(id::REASON_STRING, text.as_bytes());
        }
        let head = [u8::from(self.session_present), self.reason.0];
        packet(0x20, &[&head], Some(&p), &[], out);
    }
}

/// Appends SUBACK.
pub fn suback(version: Version, packet_id: u16, reasons: &[Reason], out: &mut Vec<u8>) {
    let codes: Vec<u8> = reasons
        .iter()
        .map(|r| match version {
            Version::V311 if r.is_failure() => 0x80,
            _ => r.0,
        })
        .collect();
    let properties: Option<&[u8]> = (version == Version::V5).then_some(&[]);
    packet(0x90, &[&packet_id.to_be_bytes()], properties, &codes, out);
}

/// Appends UNSUBACK.
pub fn unsuback(version: Version, packet_id: u16, reasons: &[Reason], out: &mut Vec<u8>) {
    match version {
        Version::V311 => packet(0xb0, &[&packet_id.to_be_bytes()], None, &[], out),
        Version::V5 => {
            let codes: Vec<u8> = reasons.iter().map(|r| r.0).collect();
            packet(0xb0, &[&packet_id.to_be_bytes()], Some(&[]), &codes, out);
        }
    }
}

/// Appends PINGRESP.
pub fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xd0, 0]);
}

/// Bytes of a SUBACK or UNSUBACK that answers `filters` filters.
pub fn suback_len(version: Version, filters: usize) -> usize {
    let remaining = 2 + usize::from(version == Version::V5) + filters;
    1 + varint_len(remaining) + remaining
}

/// Appends the server's DISCONNECT, which exists in 5.0 only; without its reason string when the
/// packet would be longer than `bytes_max`.
pub fn disconnect(
    version: Version,
    reason: Reason,
    reason_string: Option<&str>,
    bytes_max: usize,
    out: &mut Vec<u8>,
) {
    if version == Version::V311 {
        return;
    }
    if let Some(text) = reason_string {
        let before = out.len();
        let mut p = Vec::new();
        Writer(&mut p).binary(id::REASON_STRING, text.as_bytes());
        packet(0xe0, &[&[reason.0]], Some(&p), &[], out);
        if out.len() - before <= bytes_max {
            return;
        }
        out.truncate(before);
    }
    out.extend_from_slice(&[0xe0, 1, reason.0]);
}

pub(crate) fn packet(
    header: u8,
    head: &[&[u8]],
    properties: Option<&[u8]>,
    tail: &[u8],
    out: &mut Vec<u8>,
) {
    let mut body = Vec::with_capacity(16 + tail.len() + properties.map_or(0, <[u8]>::len));
    for part in head {
        body.extend_from_slice(part);
    }
    if let Some(p) = properties {
        put_varint(&mut body, p.len());
        body.extend_from_slice(p);
    }
    body.extend_from_slice(tail);
    out.push(header);
    put_varint(out, body.len());
    out.extend_from_slice(&body);
}
