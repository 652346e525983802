//! The grammar of control packets from a client, checked to the letter before they are decoded.
//!
//! The codec underneath is lenient where the standard is not: it lets U+0000, trailing bytes,
//! reserved bits and unknown reason codes pass, and answers most other faults with one error. This
//! walk finds each fault itself and names the reason code that the standard asks for.

use crate::limits::FILTERS_PER_PACKET_MAX;
use crate::property::{Allowed, read_section};
use crate::reason::{Reason, Refusal, Result};
use crate::wire::Reader;
use crate::{Version, packet_type};

/// What the walk over a CONNECT found that a decoder must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectFacts {
    /// Protocol version.
    pub version: Version,
    /// Where in the body the connect flags are.
    pub flags_at: usize,
    /// Where in the body a will expiry of zero is, if there is one.
    pub zero_will_expiry_at: Option<usize>,
    /// The client left its identifier to the server.
    pub empty_client_id: bool,
    /// Clean start flag.
    pub clean_start: bool,
}

/// Checks a CONNECT.
pub fn connect(body: &[u8]) -> Result<ConnectFacts> {
    let mut r = Reader::new(body);
    if r.binary()? != b"MQTT" {
        return Err(Refusal::new(
            Reason::UNSUPPORTED_PROTOCOL_VERSION,
            "protocol name is not MQTT",
        ));
    }
    let version = match r.u8()? {
        4 => Version::V311,
        5 => Version::V5,
        _ => {
            return Err(Refusal::new(
                Reason::UNSUPPORTED_PROTOCOL_VERSION,
                "only MQTT 3.1.1 and 5.0 are spoken here",
            ));
        }
    };
    let flags_at = body.len() - r.rest().len();
    let flags = r.u8()?;
    if flags & 0x01 != 0 {
        return Err(Refusal::malformed("reserved connect flag is set"));
    }
    let will = flags & 0x04 != 0;
    if !will && flags & 0x38 != 0 {
        return Err(Refusal::malformed("will QoS or will retain without a will"));
    }
    if flags & 0x18 == 0x18 {
        return Err(Refusal::malformed("will QoS is 3"));
    }
    if version == Version::V311 && flags & 0xc0 == 0x40 {
        return Err(Refusal::malformed("password without a user name"));
    }
    r.u16()?;
    if version == Version::V5 {
        read_section(&mut r, Allowed::CONNECT, |_, _| Ok(()))?;
    }
    let empty_client_id = r.text()?.is_empty();
    let mut zero_will_expiry_at = None;
    if will {
        if version == Version::V5 {
            let mut zero = false;
            let section = read_section(&mut r, Allowed::WILL, |key, value| {
                zero |= key == 2 && value.number() == 0;
                Ok(())
            })?;
            if zero {
                let section_at = body.len() - r.rest().len() - section.len();
                zero_will_expiry_at = find_expiry(section).map(|at| section_at + at);
            }
        }
        let topic = r.text()?;
        if topic.is_empty() || topic.contains(['+', '#']) {
            return Err(Refusal::new(
                Reason::TOPIC_NAME_INVALID,
                "will topic is not a topic name",
            ));
        }
        r.binary()?;
    }
    if flags & 0x80 != 0 {
        r.text()?;
    }
    if flags & 0x40 != 0 {
        r.binary()?;
    }
    r.finish()?;
    let clean_start = flags & 0x02 != 0;
    if version == Version::V311 && empty_client_id && !clean_start {
        return Err(Refusal::new(
            Reason::CLIENT_IDENTIFIER_NOT_VALID,
            "an empty client identifier needs a clean session",
        ));
    }
    Ok(ConnectFacts {
        version,
        flags_at,
        zero_will_expiry_at,
        empty_client_id,
        clean_start,
    })
}

fn find_expiry(section: &[u8]) -> Option<usize> {
    let mut r = Reader::new(section);
    while !r.is_empty() {
        let at = section.len() - r.rest().len();
        if crate::property::read_one(&mut r).ok()?.0 == 2 {
            return Some(at + 1);
        }
    }
    None
}

/// Checks any control packet but CONNECT.
pub fn control(header: u8, body: &[u8], version: Version) -> Result<()> {
    let mut r = Reader::new(body);
    match header >> 4 {
        packet_type::SUBSCRIBE => subscribe(&mut r, version)?,
        packet_type::UNSUBSCRIBE => unsubscribe(&mut r, version)?,
        packet_type::DISCONNECT if version == Version::V5 => disconnect(&mut r)?,
        packet_type::AUTH if version == Version::V5 => auth(&mut r)?,
        packet_type::AUTH => return Err(Refusal::protocol("AUTH does not exist in MQTT 3.1.1")),
        _ => {}
    }
    r.finish()
}

fn subscribe(r: &mut Reader<'_>, version: Version) -> Result<()> {
    r.packet_id()?;
    if version == Version::V5 {
        read_section(r, Allowed::SUBSCRIBE, |_, _| Ok(()))?;
    }
    let mut count = 0;
    while !r.is_empty() {
        filter(r.text()?, &mut count)?;
        let options = r.u8()?;
        let reserved = if version == Version::V5 { 0xc0 } else { 0xfc };
        if options & reserved != 0 {
            return Err(Refusal::malformed("reserved subscription option is set"));
        }
        if options & 3 == 3 {
            return Err(match version {
                Version::V5 => Refusal::protocol("maximum QoS is 3"),
                Version::V311 => Refusal::malformed("maximum QoS is 3"),
            });
        }
        if options & 0x30 == 0x30 {
            return Err(Refusal::protocol("retain handling is 3"));
        }
    }
    some_filter(count)
}

fn unsubscribe(r: &mut Reader<'_>, version: Version) -> Result<()> {
    r.packet_id()?;
    if version == Version::V5 {
        read_section(r, Allowed::UNSUBSCRIBE, |_, _| Ok(()))?;
    }
    let mut count = 0;
    while !r.is_empty() {
        filter(r.text()?, &mut count)?;
    }
    some_filter(count)
}

fn filter(text: &str, count: &mut usize) -> Result<()> {
    *count += 1;
    if *count > FILTERS_PER_PACKET_MAX {
        return Err(Refusal::new(
            Reason::QUOTA_EXCEEDED,
            "too many filters in one packet",
        ));
    }
    if text.is_empty() {
        return Err(Refusal::new(
            Reason::TOPIC_FILTER_INVALID,
            "topic filter is empty",
        ));
    }
    Ok(())
}

fn some_filter(count: usize) -> Result<()> {
    match count {
        0 => Err(Refusal::protocol("packet without a topic filter")),
        _ => Ok(()),
    }
}

fn disconnect(r: &mut Reader<'_>) -> Result<()> {
    if r.is_empty() {
        return Ok(());
    }
    let reason = Reason(r.u8()?);
    let from_client = matches!(
        reason,
        Reason::SUCCESS
            | Reason::DISCONNECT_WITH_WILL
            | Reason::UNSPECIFIED_ERROR
            | Reason::MALFORMED_PACKET
            | Reason::PROTOCOL_ERROR
            | Reason::IMPLEMENTATION_SPECIFIC_ERROR
            | Reason::TOPIC_NAME_INVALID
            | Reason::RECEIVE_MAXIMUM_EXCEEDED
            | Reason::TOPIC_ALIAS_INVALID
            | Reason::PACKET_TOO_LARGE
            | Reason::MESSAGE_RATE_TOO_HIGH
            | Reason::QUOTA_EXCEEDED
            | Reason::ADMINISTRATIVE_ACTION
            | Reason::PAYLOAD_FORMAT_INVALID
    );
    if !from_client {
        return Err(Refusal::protocol(
            "reason code is not one a client disconnects with",
        ));
    }
    if !r.is_empty() {
        read_section(r, Allowed::DISCONNECT, |key, _| match key {
            28 => Err(Refusal::protocol("server reference from a client")),
            _ => Ok(()),
        })?;
    }
    Ok(())
}

fn auth(r: &mut Reader<'_>) -> Result<()> {
    if r.is_empty() {
        return Ok(());
    }
    let reason = Reason(r.u8()?);
    if !matches!(
        reason,
        Reason::SUCCESS | Reason::CONTINUE_AUTHENTICATION | Reason::REAUTHENTICATE
    ) {
        return Err(Refusal::protocol("reason code does not belong to AUTH"));
    }
    if !r.is_empty() {
        read_section(r, Allowed::AUTH, |_, _| Ok(()))?;
    }
    Ok(())
}
