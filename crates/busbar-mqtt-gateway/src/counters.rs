//! What the gateway counts.

use std::sync::atomic::AtomicU64;

use busbar_event::Micros;

/// Counters of the gateway.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections refused or closed for a fault of the client.
    pub refusals: AtomicU64,
    /// PUBLISH packets in.
    pub publishes_in: AtomicU64,
    /// Bytes of payload in.
    pub bytes_in: AtomicU64,
    /// PUBLISH packets out.
    pub publishes_out: AtomicU64,
    /// Bytes of payload out.
    pub bytes_out: AtomicU64,
    /// Packets of all kinds in.
    pub packets_in: AtomicU64,
    /// Packets of all kinds out.
    pub packets_out: AtomicU64,
    /// Bytes in, all told.
    pub wire_bytes_in: AtomicU64,
    /// Bytes out, all told.
    pub wire_bytes_out: AtomicU64,
    /// Events not sent because they were too large for the client.
    pub too_large: AtomicU64,
    /// Events not sent because they had expired.
    pub expired: AtomicU64,
    /// Publishes refused.
    pub publishes_refused: AtomicU64,
    /// Logins refused.
    pub logins_refused: AtomicU64,
}

/// Who is connected or has a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Clients with a connection.
    pub connected: usize,
    /// The most clients that were connected at the same time.
    pub connected_most: u64,
    /// Protocol whose clients are away.
    pub away: usize,
    /// Subscriptions to groups, of clients connected or not.
    pub shared_subscriptions: usize,
    /// Subscriptions of all sessions, connected or not.
    pub subscriptions: usize,
    /// When the node started, in microseconds.
    pub started: Micros,
}
