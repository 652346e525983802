//! A running gateway, as the node sees it.

use std::net::SocketAddr;

use serde::Serialize;

/// A running gateway. The node lists its addresses and counters and stops it.
pub trait Gateway: Send + Sync {
    /// Its name, for example `mqtt`.
    fn name(&self) -> &str;
    /// Where it listens.
    fn addresses(&self) -> Vec<GatewayAddress>;
    /// Its counters.
    fn counts(&self) -> GatewayCounts;
    /// Stops: takes nothing new, acknowledges what was committed, says goodbye to all clients, and waits for the
    /// threads. Blocks for some seconds at most. Calling it again does nothing.
    fn shut_down(&self);
}

/// An address at which a gateway listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GatewayAddress {
    /// Protocol and transport: `mqtt`, `mqtts`, `tcp`, `udp` and so on.
    pub scheme: &'static str,
    /// The address, with the port that the system chose when the setting says 0.
    pub address: SocketAddr,
}

/// The counters that all gateways have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GatewayCounts {
    /// Connections now.
    pub connections: u64,
    /// Connections since the start.
    pub connections_total: u64,
    /// Connections refused, or closed because of what the client did.
    pub refusals_total: u64,
    /// Logins refused.
    pub logins_refused_total: u64,
    /// Events taken.
    pub events_in_total: u64,
    /// Payload bytes taken.
    pub bytes_in_total: u64,
    /// Events refused.
    pub events_refused_total: u64,
    /// Events delivered.
    pub events_out_total: u64,
    /// Datagrams lost before they could be read, as far as the system counts them.
    pub datagrams_lost_total: u64,
}
