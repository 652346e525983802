//! Packets of MQTT 3.1.1 and 5.0, without any input or output.
//!
//! - PUBLISH and the acknowledgement family are decoded by hand, in place, straight from the read
//!   buffer: no allocation and no reference count for an event.
//! - The other packets go through `rmqtt-codec` behind [`ControlCodec`], after [`check`] has walked
//!   them to the letter of the standard.
//! - Each fault is a [`Refusal`] with the standard's reason code. Nothing here panics on hostile
//!   bytes, and a frame is measured before any of it is buffered.
//!
//! This crate knows neither sessions nor sockets.

pub mod ack;
pub mod check;
pub mod client;
pub mod control;
pub mod encode;
pub mod limits;
mod packet;
pub mod property;
mod publish;
mod reason;
mod rmqtt;
pub mod wire;

pub use ack::{Ack, AckKind};
pub use control::{Control, ControlCodec};
pub use packet::{Decoder, Frame, Packet, Split, split, version_of_refused_connect};
pub use publish::{Publish, PublishOut, PublishProperties};
pub use reason::{Reason, Refusal, Result};
pub use rmqtt::RmqttCodec;

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

/// Packet types: the upper half of a packet's first byte.
pub mod packet_type {
    #![allow(missing_docs)]
    pub const RESERVED: u8 = 0;
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBSCRIBE: u8 = 8;
    pub const SUBACK: u8 = 9;
    pub const UNSUBSCRIBE: u8 = 10;
    pub const UNSUBACK: u8 = 11;
    pub const PINGREQ: u8 = 12;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
    pub const AUTH: u8 = 15;
}
