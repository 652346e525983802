//! Bounds that all gateways share. Names carry their unit.

use std::time::Duration;

/// Bytes read from a socket at once, and so the longest run of packets decoded in one go.
pub const READ_BYTES: usize = 256 * 1024;
/// Bytes one connection may hand in within one turn of its thread before others get theirs.
pub const READ_BYTES_PER_TURN_MAX: usize = 1024 * 1024;
/// Bytes of packets longer than [`READ_BYTES`] that may be on their way in at the same time, over all
/// connections; who begins another one is not read until there is room.
pub const LARGE_PACKETS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Speed at which such a packet has to come, in bytes a second: it keeps others waiting.
pub const LARGE_PACKET_BYTES_PER_SECOND_MIN: i64 = 16 * 1024;
/// Bytes waiting to be written to a client above which it reads from the log at its own pace.
pub const OUT_BYTES_HIGH: usize = 1024 * 1024;
/// Of the bytes at which a client is given no more, the part to which they must fall before it is given
/// more.
pub const OUT_BYTES_LOW_PART: usize = 4;
/// Bytes waiting for all clients of a thread above which [`OUT_BYTES_PRESSED`] takes the place of
/// [`OUT_BYTES_HIGH`], until they are half as many.
pub const OUT_BYTES_TOTAL_HIGH: usize = 256 * 1024 * 1024;
/// Bytes waiting for one client above which it reads from the log, while there are many such clients.
pub const OUT_BYTES_PRESSED: usize = 64 * 1024;
/// Bytes of what waits for a client that lie together: a chunk of that much takes no more packets.
pub const OUT_CHUNK_BYTES: usize = 64 * 1024;
/// Capacity of an output buffer that is kept when it is empty.
pub const OUT_BYTES_KEEP: usize = 64 * 1024;
/// Bytes of acknowledgements and answers that wait for a client that does not read. Above it
/// nothing more is read from that client.
pub const OUT_BYTES_STOP_READING: usize = 4 * 1024 * 1024;
/// Bytes read from the log at once for a session that lags.
pub const CATCH_UP_READ_BYTES: usize = 1024 * 1024;
/// Topics whose permission is remembered for one connection.
pub const PERMISSION_CACHE_TOPICS_MAX: usize = 1024;
/// How long an idle thread waits before it looks at its clocks.
pub const TICK: Duration = Duration::from_millis(100);
/// Time in which [`LOG_LINES_PER_WINDOW`] lines about one kind of refusal are logged, in microseconds.
pub const LOG_WINDOW_US: i64 = 10_000_000;
/// Lines about one kind of refusal that are logged in a window; the others are counted.
pub const LOG_LINES_PER_WINDOW: u32 = 5;
/// Time between two looks at the clocks above which it does not count as silence of the clients, in
/// microseconds: the process was halted, or somebody set the clock.
pub const TICK_GAP_US: i64 = 3_000_000;
/// How long a client may take to read its last bytes before the socket is closed, in microseconds.
pub const CLOSE_WAIT_US: i64 = 5_000_000;
/// How long a TLS or WebSocket handshake may take.
pub const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// How long a thread waits before it reads from a disk again that failed to be read.
pub const READ_AGAIN_WAIT: Duration = Duration::from_secs(1);
/// How long a stopping gateway waits for its last bytes.
pub const STOP_WAIT: Duration = Duration::from_secs(2);
/// Connections beyond the bound that are held for as long as it takes to tell them so.
pub const SURPLUS_MAX: usize = 1024;
/// How long the bytes of a client are still taken, and forgotten, after it was told why its
/// connection ends: a socket closed before them is reset, and the reason may be lost.
pub const LINGER_WAIT: Duration = Duration::from_secs(1);
/// How far a client may be ahead of the publishes it may make in a second, in microseconds.
pub const PACE_AHEAD_US: i64 = 1_000_000;
/// Connections that wait to be accepted.
pub const LISTEN_BACKLOG: i32 = 1024;
/// Payload bytes of retained messages fetched at once.
pub const RETAINED_PAGE_BYTES: usize = 1024 * 1024;
/// Size of the receive buffer that is asked for a UDP socket, in bytes.
pub const UDP_RECEIVE_BUFFER_BYTES: usize = 8 * 1024 * 1024;

const _: () = assert!(OUT_BYTES_PRESSED < OUT_BYTES_HIGH);
const _: () = assert!(busbar_bus::limits::PAYLOAD_BYTES_MAX < LARGE_PACKETS_BYTES_MAX);
const _: () = assert!(OUT_BYTES_HIGH < OUT_BYTES_STOP_READING);
