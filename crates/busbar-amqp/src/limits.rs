//! Bounds of the AMQP gateway. Names carry their unit; what a node may change is in [`AmqpLimits`].

/// Largest frame that is offered, in bytes.
pub const FRAME_BYTES_MAX: u32 = 128 * 1024;
/// Smallest largest frame that a client may ask for: the specification's.
pub const FRAME_BYTES_MIN: u32 = 4096;
/// Channels of one connection.
pub const CHANNELS_MAX: u16 = 2047;
/// Tables and arrays within a field table.
pub const TABLE_DEPTH_MAX: usize = 16;
/// Fields of a field table, nested ones included.
pub const TABLE_FIELDS_MAX: usize = 4096;
/// Seconds of silence that are offered for heartbeats.
pub const HEARTBEAT_S: u16 = 60;
/// Virtual hosts in use.
pub const VHOSTS_MAX: usize = 1024;
/// Bytes of a virtual host's name.
pub const VHOST_BYTES_MAX: usize = 127;
/// Exchanges of a node.
pub const EXCHANGES_MAX: usize = 100_000;
/// Queues of a node.
pub const QUEUES_MAX: usize = 100_000;
/// Bindings of a node, those included that older messages still need.
pub const BINDINGS_MAX: usize = 1_000_000;
/// Exchanges that a message may pass on its way to a queue.
pub const ROUTE_HOPS_MAX: usize = 64;
/// Topics whose queues are remembered.
pub const ROUTE_CACHE_TOPICS_MAX: usize = 65_536;
/// Consumers of one channel.
pub const CONSUMERS_PER_CHANNEL_MAX: usize = 4096;
/// Messages of one channel that are delivered and not acknowledged.
pub const UNACKED_PER_CHANNEL_MAX: usize = 65_536;
/// Rows of a queue that are held ready for its consumers; the others stay in the log.
pub const WINDOW_ROWS_MAX: usize = 4096;
/// Payload bytes of these rows.
pub const WINDOW_BYTES_MAX: usize = 256 * 1024;
/// Bytes read from the log at once for live delivery.
pub const LIVE_READ_BYTES: usize = 4 * 1024 * 1024;
/// Rows looked at in one turn before sockets are served again.
pub const LIVE_ROWS_PER_TURN: usize = 64 * 1024;
/// Bytes read from the log at once for a queue that is behind.
pub const CATCH_UP_READ_BYTES: usize = 1024 * 1024;
/// Reads that a queue which is behind may make in one turn.
pub const CATCH_UP_READS_PER_TURN: usize = 8;
/// Messages handed to consumers of one queue before the next queue gets its turn.
pub const DELIVERIES_PER_TURN: usize = 4096;
/// Publishes and acknowledgements of one transaction.
pub const TX_OPERATIONS_MAX: usize = 16_384;
/// Bytes of the publishes of one transaction.
pub const TX_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of a property or header value that becomes a tag.
pub const TAG_BYTES_MAX: usize = busbar_event::limits::TAG_BYTES_MAX;
/// Entries of the `x-death` header.
pub const DEATHS_MAX: usize = 64;
/// Bytes of the names and keys of 0-9-1, which those of AMQP 1.0 become.
pub const SHORT_BYTES_MAX: usize = 255;
/// AMQP 1.0: values within a value.
pub const V1_DEPTH_MAX: usize = 16;
/// AMQP 1.0: values in a value, nested ones included.
pub const V1_VALUES_MAX: usize = 65_536;
/// AMQP 1.0: the highest channel, one less than the sessions of a connection.
pub const V1_CHANNEL_MAX: u16 = 63;
/// AMQP 1.0: the highest handle, one less than the links of a session.
pub const V1_HANDLE_MAX: u32 = 255;
/// AMQP 1.0: bytes of the name of a client or of a link.
pub const V1_NAME_BYTES_MAX: usize = 512;
/// AMQP 1.0: transfers that a client may send before the session's window is opened again.
pub const V1_INCOMING_WINDOW: u32 = 8192;
/// AMQP 1.0: messages that a client may send on a link before it is given credit again.
pub const V1_LINK_CREDIT: u32 = 2048;
/// AMQP 1.0: bytes of a message beside its payload.
pub const V1_SECTION_BYTES_MAX: usize = 256 * 1024;
/// AMQP 1.0: the smallest largest frame that a client may ask for: the standard's.
pub const V1_FRAME_BYTES_MIN: u32 = 512;
/// How long a client may take to open its connection, in microseconds.
pub const HANDSHAKE_US: i64 = 10_000_000;
/// How long a client may take to answer a close, in microseconds.
pub const CLOSE_WAIT_US: i64 = 5_000_000;
/// How long publishing must be stopped before clients are told that they are blocked, in microseconds.
pub const BLOCKED_AFTER_US: i64 = 500_000;
/// How often the counts and positions of queues are journalled that have no other news, in microseconds.
pub const LAZY_JOURNAL_US: i64 = 5_000_000;
/// AmqpQueue records in one journal batch.
pub const JOURNAL_RECORDS_MAX: usize = 4096;
/// Topics whose permission is remembered for one connection.
pub const PERMISSION_CACHE_TOPICS_MAX: usize = 1024;

/// Bounds that a node may set.
#[derive(Clone, Debug)]
pub struct AmqpLimits {
    /// Largest payload of a message, in bytes.
    pub payload_bytes_max: usize,
    /// Connections at the same time.
    pub connections_max: usize,
    /// Time a client has to log in and open its virtual host, in microseconds.
    pub handshake_us: i64,
    /// Seconds of silence that are offered for heartbeats; zero for none.
    pub heartbeat_s: u16,
}

impl Default for AmqpLimits {
    fn default() -> AmqpLimits {
        AmqpLimits {
            payload_bytes_max: 4 << 20,
            connections_max: 50_000,
            handshake_us: HANDSHAKE_US,
            heartbeat_s: HEARTBEAT_S,
        }
    }
}
