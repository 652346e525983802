//! The MQTT gateway: 3.1.1 and 5.0 over TCP, TLS and WebSocket.
//!
//! A sans-I/O session core ([`core::Core`]) with a thin socket shell around it, one of each on every
//! core of the machine. Sessions are cursors on the log: what a client has not taken stays there, so a
//! slow client costs no memory and loses nothing. An acknowledgement leaves after the group commit
//! of what it acknowledges.
//!
//! What is not here: storage (`busbar-bus`), users (`busbar-access`, behind [`Authorizer`]), packets
//! (`busbar-mqtt`).

mod access;
pub mod authorizer;
mod bus_log;
mod config;
pub mod conn;
pub mod core;
pub mod counters;
pub mod event_log;
mod gateway;
pub mod group;
pub mod index;
pub mod limits;
pub mod message;
mod outbox;
pub mod registry;
pub mod restore;
mod shell;
pub mod sim;
pub mod state;
mod stats;
pub mod sys;
mod throttle;
mod tls;

pub use access::AccessAuthorizer;
pub use authorizer::{Authorizer, Credentials, Identity, Open, Reach};
pub use config::{GatewayConfig, TlsConfig};
pub use gateway::{Gateway, Handle, LocalAddrs};
pub use limits::Limits;
pub use stats::Stats;
pub use throttle::Throttle;
pub use tls::server_tls;
