//! What a server sends.

use super::frame::{FRAME_END, FRAME_OVERHEAD_BYTES, kind};
use super::method::id;
use super::table::{TableWriter, put_short};

/// Appends a frame whose payload `write` appends.
#[inline]
pub fn frame(kind: u8, channel: u16, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
    out.push(FRAME_END);
}

/// Appends a method frame whose fields `write` appends.
#[inline]
pub fn method(id: (u16, u16), channel: u16, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    frame(kind::METHOD, channel, out, |out| {
        out.extend_from_slice(&id.0.to_be_bytes());
        out.extend_from_slice(&id.1.to_be_bytes());
        write(out);
    });
}

/// A method without fields.
pub fn bare(id: (u16, u16), channel: u16, out: &mut Vec<u8>) {
    method(id, channel, out, |_| {});
}

/// `connection.start` with the mechanisms that the client may choose from.
pub fn start(mechanisms: &str, version: &str, out: &mut Vec<u8>) {
    method(id::CONNECTION_START, 0, out, |out| {
        out.extend_from_slice(&[0, 9]);
        let mut table = TableWriter::begin(out);
        table.table("capabilities", |t| {
            for name in [
                "publisher_confirms",
                "exchange_exchange_bindings",
                "basic.nack",
                "consumer_cancel_notify",
                "connection.blocked",
                "authentication_failure_close",
                "per_consumer_qos",
            ] {
                t.flag(name, true);
            }
        });
        table.text("product", "Busbar");
        table.text("version", version);
        table.end();
        put_long(out, mechanisms.as_bytes());
        put_long(out, b"en_US");
    });
}

/// `connection.tune`
pub fn tune(channel_max: u16, frame_max: u32, heartbeat: u16, out: &mut Vec<u8>) {
    method(id::CONNECTION_TUNE, 0, out, |out| {
        out.extend_from_slice(&channel_max.to_be_bytes());
        out.extend_from_slice(&frame_max.to_be_bytes());
        out.extend_from_slice(&heartbeat.to_be_bytes());
    });
}

/// `connection.close` on channel 0, `channel.close` on any other.
pub fn close(channel: u16, code: u16, text: &str, of: (u16, u16), out: &mut Vec<u8>) {
    let which = match channel {
        0 => id::CONNECTION_CLOSE,
        _ => id::CHANNEL_CLOSE,
    };
    method(which, channel, out, |out| {
        out.extend_from_slice(&code.to_be_bytes());
        put_short(out, text);
        out.extend_from_slice(&of.0.to_be_bytes());
        out.extend_from_slice(&of.1.to_be_bytes());
    });
}

/// `queue.declare-ok`
pub fn queue_declare_ok(
    channel: u16,
    queue: &str,
    ready: u64,
    consumers: usize,
    out: &mut Vec<u8>,
) {
    method(id::QUEUE_DECLARE_OK, channel, out, |out| {
        put_short(out, queue);
        out.extend_from_slice(&u32::try_from(ready).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&(consumers as u32).to_be_bytes());
    });
}

/// A method whose only field is a number of messages: `purge-ok` and `delete-ok`.
pub fn counted(id: (u16, u16), channel: u16, count: u64, out: &mut Vec<u8>) {
    method(id, channel, out, |out| {
        out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
    });
}

/// A method whose only field is a short string.
pub fn named(id: (u16, u16), channel: u16, name: &str, out: &mut Vec<u8>) {
    method(id, channel, out, |out| put_short(out, name));
}

/// `basic.cancel` from the server.
pub fn cancel(channel: u16, tag: &str, out: &mut Vec<u8>) {
    method(id::BASIC_CANCEL, channel, out, |out| {
        put_short(out, tag);
        out.push(1);
    });
}

/// `basic.ack` for publishes up to `tag`, or of this one.
pub fn ack(channel: u16, tag: u64, multiple: bool, out: &mut Vec<u8>) {
    method(id::BASIC_ACK, channel, out, |out| {
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(multiple));
    });
}

/// `basic.nack` for publishes up to `tag`, or for this one.
pub fn nack(channel: u16, tag: u64, multiple: bool, out: &mut Vec<u8>) {
    method(id::BASIC_NACK, channel, out, |out| {
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(multiple));
    });
}

/// `basic.return`, before the content.
pub fn returned(channel: u16, exchange: &str, key: &str, out: &mut Vec<u8>) {
    method(id::BASIC_RETURN, channel, out, |out| {
        out.extend_from_slice(&312u16.to_be_bytes());
        put_short(out, "NO_ROUTE");
        put_short(out, exchange);
        put_short(out, key);
    });
}

/// Where a message came from and which it is, for `deliver` and `get-ok`.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryInfo<'a> {
    /// Its delivery tag.
    pub tag: u64,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// The exchange it was published to.
    pub exchange: &'a str,
    /// The key it was published with.
    pub key: &'a str,
}

/// `basic.deliver`, before the content.
#[inline]
pub fn deliver(channel: u16, consumer: &str, e: &DeliveryInfo<'_>, out: &mut Vec<u8>) {
    method(id::BASIC_DELIVER, channel, out, |out| {
        put_short(out, consumer);
        out.extend_from_slice(&e.tag.to_be_bytes());
        out.push(u8::from(e.redelivered));
        put_short(out, e.exchange);
        put_short(out, e.key);
    });
}

/// `basic.get-ok`, before the content.
pub fn get_ok(channel: u16, e: &DeliveryInfo<'_>, left: u64, out: &mut Vec<u8>) {
    method(id::BASIC_GET_OK, channel, out, |out| {
        out.extend_from_slice(&e.tag.to_be_bytes());
        out.push(u8::from(e.redelivered));
        put_short(out, e.exchange);
        put_short(out, e.key);
        out.extend_from_slice(&u32::try_from(left).unwrap_or(u32::MAX).to_be_bytes());
    });
}

/// A content: its header with encoded properties, and its body in frames of up to `frame_bytes_max`.
#[inline]
pub fn content(
    channel: u16,
    properties: &[u8],
    body: &[u8],
    frame_bytes_max: usize,
    out: &mut Vec<u8>,
) {
    frame(kind::HEADER, channel, out, |out| {
        out.extend_from_slice(&60u16.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&(body.len() as u64).to_be_bytes());
        out.extend_from_slice(properties);
    });
    for part in body.chunks(frame_bytes_max - FRAME_OVERHEAD_BYTES) {
        frame(kind::BODY, channel, out, |out| out.extend_from_slice(part));
    }
}

/// A heartbeat.
pub fn heartbeat(out: &mut Vec<u8>) {
    frame(kind::HEARTBEAT, 0, out, |_| {});
}

fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}
