//! Gateways that a project declares in `gateways/NAME.yaml`: events over TCP connections and UDP datagrams, one
//! in each frame. HL7 messages in blocks of MLLP are answered as HL7 says.
//!
//! [`SocketGateway::prepare`] opens the port of a gateway and reads its certificates, so that what is wrong is known
//! before anything changes; [`SocketGateway::start`] serves it. The framing ([`Framing`]) and the topic of a frame
//! ([`FrameRules`]) are pure.
//!
//! What is not here: sockets of connections, TLS, threads and logins (`busbar-gateway`), how a gateway's file is read
//! (`busbar-catalog`).

mod counters;
mod fields;
mod framing;
mod gateway;
mod limits;
mod mllp;
mod rules;
mod sessions;
mod udp;
mod udp_batch;
mod udp_losses;

pub use framing::{FrameFault, Framing, NextFrame};
pub use gateway::{PreparedSocket, SocketGateway, SocketOptions};
pub use rules::{FrameRules, RuledFrame};
