//! Every bound of this crate, units last.

use std::time::Duration;

/// The shortest time between two readings of the host.
pub const HOST_EVERY_MIN: Duration = Duration::from_millis(100);
/// A file is read in pieces of this size.
pub const FILE_READ_BYTES: usize = 1 << 20;
/// A line that is longer is published cut off, with a tag that says so.
pub const FILE_LINE_BYTES_MAX: usize = 1 << 20;
/// Files that one pattern may match.
pub const FILES_MAX: usize = 10_000;
/// How long to wait before a file is looked at again when nothing was new.
pub const FILE_IDLE: Duration = Duration::from_millis(250);
/// Bytes of a file sink's note about its position.
pub const FILE_NOTE_BYTES_MAX: u64 = 64 << 10;
/// An HTTP request may take so long at most, whatever its options say.
pub const HTTP_TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// Bytes of a response that are kept to explain a refusal.
pub const HTTP_EXCERPT_BYTES_MAX: u64 = 4 << 10;
/// Rows in one HTTP request.
pub const HTTP_ROWS_MAX: usize = 10_000;
/// A bridge waits so long for a connection and for each answer during it.
pub const MQTT_ANSWER_MAX: Duration = Duration::from_secs(10);
/// The largest packet that a bridge takes.
pub const MQTT_PACKET_BYTES_MAX: u32 = 16 << 20;
/// Messages between a bridge's socket and the stream; then the socket is not read.
pub const MQTT_INCOMING_MAX: usize = 1024;
/// Messages that a bridge has sent and the other side has not acknowledged.
pub const MQTT_IN_FLIGHT_MAX: u16 = 1024;
/// Rows in one batch of a bridge.
pub const MQTT_ROWS_MAX: usize = 4096;
/// A bridge's read and write buffers grow in steps of this size.
pub const MQTT_READ_BYTES: usize = 64 << 10;
