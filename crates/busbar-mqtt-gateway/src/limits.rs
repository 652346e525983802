//! Bounds of the MQTT gateway. Names carry their unit; what a node may change is in [`Limits`]. Bounds that all
//! gateways share are in `busbar_gateway::limits`.

use busbar_event::Micros;
use busbar_event::topic::TopicSpelling;

pub use busbar_gateway::limits::*;

/// Bytes that a WebSocket frame, or a message in fragments, may hold beyond the largest packet: small
/// packets are sent together.
pub const WEBSOCKET_FRAME_EXTRA_BYTES: usize = 64 * 1024;
/// QoS 1 and 2 messages on their way to one client, whatever it offers.
pub const IN_FLIGHT_OUT_MAX: usize = 2048;
/// Bytes of QoS 2 publishes of a persistent session that wait for their packet identifiers to be on
/// disk. Above it nothing more is read from that client.
pub const HELD_BYTES_MAX: usize = 1024 * 1024;
/// Bytes read from the log at once for live delivery.
pub const LIVE_READ_BYTES: usize = 4 * 1024 * 1024;
/// Rows delivered in one turn before sockets are served again.
pub const LIVE_ROWS_PER_TURN: usize = 64 * 1024;
/// Reads one lagging session may make in one turn.
pub const CATCH_UP_READS_PER_TURN: usize = 8;
/// Topics whose matches are remembered for one partition on one core.
pub const MATCH_CACHE_TOPICS_MAX: usize = 65_536;
/// Rows that wait for one member of a shared subscription.
pub const GROUP_QUEUE_ROWS_MAX: usize = 64;
/// Retained messages fetched at once.
pub const RETAINED_PAGE: usize = 256;
/// Subscriptions of one client whose retained messages wait to be sent. Above it nothing more is read
/// from that client.
pub const RETAINED_TASKS_MAX: usize = 16_384;
/// How often changed sessions with QoS 1 low-water marks are journalled, in microseconds.
pub const LAZY_JOURNAL_US: i64 = 500_000;
/// Failed QoS 2 publishes of lost connections that are remembered until their clients send again.
pub const LOST_NOTES_MAX: usize = 65_536;
/// What a packet may hold beyond a payload of the largest size: its topic and properties. A payload may
/// use what these leave.
pub const PACKET_ROOM_BYTES: usize = 128 * 1024;
/// Bytes of a client identifier.
pub const CLIENT_ID_BYTES_MAX: usize = 1024;
/// Bytes of a reason string.
pub const REASON_STRING_BYTES_MAX: usize = 200;
/// Payload bytes of retained messages on their way to one client that are kept until they are
/// acknowledged. One that is larger goes alone.
pub const RETAINED_IN_FLIGHT_BYTES_MAX: usize = 4 * 1024 * 1024;

const _: () = assert!(IN_FLIGHT_OUT_MAX < u16::MAX as usize);

/// Bounds that a node may set.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest packet taken, in bytes; announced to 5.0 clients.
    pub packet_bytes_max: u32,
    /// Connections at the same time.
    pub connections_max: usize,
    /// New connections in one second.
    pub connections_per_second_max: u32,
    /// Time a client has to send CONNECT, in microseconds.
    pub connect_wait_us: i64,
    /// Protocol, connected or not.
    pub sessions_max: usize,
    /// Subscriptions of one session.
    pub subscriptions_per_session_max: usize,
    /// QoS 1 and 2 publishes of one client in flight; announced to 5.0 clients.
    pub receive_maximum: u16,
    /// Publishes of one client in one second; its socket is not read while it is ahead by more than
    /// a second's worth. Zero for any number.
    pub publishes_per_second_max: u32,
    /// Topic aliases taken from one client; announced.
    pub topic_alias_maximum: u16,
    /// Topic aliases used towards one client, if it takes so many.
    pub topic_alias_out_maximum: u16,
    /// Longest session expiry, in seconds; a longer wish is cut and the client is told.
    pub session_expiry_s_max: u32,
    /// Microseconds between two looks at the node that `$SYS` tells of; zero switches them off.
    pub sys_interval_us: Micros,
    /// How clients write topics.
    pub topics: TopicSpelling,
    /// Longest keep-alive; zero leaves it to the client.
    pub keep_alive_s_max: u16,
}

impl Limits {
    /// The largest packet where payloads of `payload_bytes_max` are taken.
    pub fn packet_bytes_for(payload_bytes_max: usize) -> u32 {
        let bytes_max = payload_bytes_max.saturating_add(PACKET_ROOM_BYTES);
        bytes_max.min(busbar_bus::limits::PAYLOAD_BYTES_MAX) as u32
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            packet_bytes_max: Limits::packet_bytes_for(4 << 20),
            connections_max: 50_000,
            connections_per_second_max: 5_000,
            connect_wait_us: 10_000_000,
            sessions_max: 100_000,
            subscriptions_per_session_max: 10_000,
            receive_maximum: u16::MAX,
            publishes_per_second_max: 0,
            topic_alias_maximum: 1024,
            topic_alias_out_maximum: 64,
            session_expiry_s_max: u32::MAX,
            sys_interval_us: 10_000_000,
            keep_alive_s_max: 0,
            topics: TopicSpelling::default(),
        }
    }
}
