//! The properties in the header of a content.

use crate::fault::AmqpFault;

use super::table::{FieldTable, put_short};
use super::wire::WireReader;

/// The properties of a message, borrowed from its header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BasicProperties<'a> {
    /// Media type.
    pub content_type: Option<&'a str>,
    /// Encoding of the body, as `gzip`.
    pub content_encoding: Option<&'a str>,
    /// The application's headers.
    pub headers: Option<FieldTable<'a>>,
    /// 1 for transient, 2 for persistent.
    pub delivery_mode: Option<u8>,
    /// 0 to 255.
    pub priority: Option<u8>,
    /// What an answer refers to. Clients put bytes of their own into it.
    pub correlation_id: Option<&'a str>,
    /// Where an answer goes.
    pub reply_to: Option<&'a str>,
    /// Milliseconds to live, in decimal.
    pub expiration: Option<&'a str>,
    /// The application's identifier.
    pub message_id: Option<&'a str>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    /// The application's type of message.
    pub kind: Option<&'a str>,
    /// The user who published it.
    pub user_id: Option<&'a str>,
    /// The application.
    pub app_id: Option<&'a str>,
    /// Deprecated; carried along.
    pub cluster_id: Option<&'a str>,
}

impl<'a> BasicProperties<'a> {
    /// Reads the flags and the properties that follow the body's length.
    ///
    /// # Errors
    /// 502 when they are not well formed.
    pub fn read(r: &mut WireReader<'a>) -> Result<BasicProperties<'a>, AmqpFault> {
        let flags = r.u16()?;
        if flags & 1 != 0 {
            return Err(AmqpFault::syntax(
                "a content header has more flags than there are properties",
            ));
        }
        let mut p = BasicProperties::default();
        let mut bit = 15u16;
        let mut has = || {
            let set = flags & (1 << bit) != 0;
            bit -= 1;
            set
        };
        if has() {
            p.content_type = Some(r.short()?);
        }
        if has() {
            p.content_encoding = Some(r.short()?);
        }
        if has() {
            p.headers = Some(r.table()?);
        }
        if has() {
            p.delivery_mode = Some(r.u8()?);
        }
        if has() {
            p.priority = Some(r.u8()?);
        }
        if has() {
            p.correlation_id = Some(r.short()?);
        }
        if has() {
            p.reply_to = Some(r.short()?);
        }
        if has() {
            p.expiration = Some(r.short()?);
        }
        if has() {
            p.message_id = Some(r.short()?);
        }
        if has() {
            p.timestamp = Some(r.u64()?);
        }
        if has() {
            p.kind = Some(r.short()?);
        }
        if has() {
            p.user_id = Some(r.short()?);
        }
        if has() {
            p.app_id = Some(r.short()?);
        }
        if has() {
            p.cluster_id = Some(r.short()?);
        }
        Ok(p)
    }

    /// Appends the flags and the properties.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut flags = 0u16;
        let at = out.len();
        out.extend_from_slice(&[0; 2]);
        let mut bit = 15u16;
        let mut next = |set: bool| {
            flags |= u16::from(set) << bit;
            bit -= 1;
        };
        let mut short = |out: &mut Vec<u8>, text: Option<&str>| {
            next(text.is_some());
            if let Some(text) = text {
                put_short(out, text);
            }
        };
        short(out, self.content_type);
        short(out, self.content_encoding);
        next(self.headers.is_some());
        if let Some(headers) = self.headers {
            out.extend_from_slice(&(headers.bytes().len() as u32).to_be_bytes());
            out.extend_from_slice(headers.bytes());
        }
        for byte in [self.delivery_mode, self.priority] {
            next(byte.is_some());
            out.extend(byte);
        }
        let mut short = |out: &mut Vec<u8>, text: Option<&str>| {
            next(text.is_some());
            if let Some(text) = text {
                put_short(out, text);
            }
        };
        short(out, self.correlation_id);
        short(out, self.reply_to);
        short(out, self.expiration);
        short(out, self.message_id);
        next(self.timestamp.is_some());
        if let Some(seconds) = self.timestamp {
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        let mut short = |out: &mut Vec<u8>, text: Option<&str>| {
            next(text.is_some());
            if let Some(text) = text {
                put_short(out, text);
            }
        };
        short(out, self.kind);
        short(out, self.user_id);
        short(out, self.app_id);
        short(out, self.cluster_id);
        out[at..at + 2].copy_from_slice(&flags.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_come_back_whichever_are_there() {
        let all = BasicProperties {
            content_type: Some("text/plain"),
            content_encoding: Some("gzip"),
            headers: Some(FieldTable::check(b"\x01at\x01").expect("a table")),
            delivery_mode: Some(2),
            priority: Some(9),
            correlation_id: Some("c"),
            reply_to: Some("amq.gen-1"),
            expiration: Some("60000"),
            message_id: Some("m"),
            timestamp: Some(1_700_000_000),
            kind: Some("t"),
            user_id: Some("u"),
            app_id: Some("a"),
            cluster_id: Some("cl"),
        };
        let few = BasicProperties {
            delivery_mode: Some(1),
            cluster_id: Some("x"),
            ..Default::default()
        };
        for properties in [all, few, BasicProperties::default()] {
            let mut bytes = Vec::new();
            properties.write(&mut bytes);
            let mut r = WireReader::new(&bytes);
            assert_eq!(
                BasicProperties::read(&mut r).expect("properties"),
                properties
            );
            assert!(r.is_empty());
        }
    }
}
