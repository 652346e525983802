//! The MQTT gateway: 3.1.1 and 5.0 over TCP, TLS and WebSocket.
//!
//! A sans-I/O session core ([`core::Core`]), one on each worker thread of `busbar-gateway`. Protocol are cursors
//! on the log: what a client has not taken stays there, so a slow client costs no memory and loses nothing. An
//! acknowledgement leaves after the group commit of what it acknowledges.
//!
//! What is not here: sockets, TLS, threads and logins (`busbar-gateway`), storage (`busbar-bus`), packets
//! (`busbar-mqtt`).

mod config;
pub mod conn;
pub mod core;
pub mod counters;
mod gateway;
pub mod group;
pub mod limits;
pub mod message;
pub mod registry;
pub mod restore;
pub mod sim;
pub mod state;
mod stats;
pub mod sys;
mod websocket;

pub use config::{MqttOptions, TlsConfig};
pub use gateway::{LocalAddrs, MqttGateway};
pub use limits::Limits;
pub use stats::Stats;
