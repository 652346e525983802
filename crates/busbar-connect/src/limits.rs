//! Every bound of this crate, units last.

use std::time::Duration;

/// The shortest time between two readings of the host.
pub const HOST_EVERY_MIN: Duration = Duration::from_millis(100);
/// A line that is longer is published cut off, with a tag that says so.
pub const FILE_LINE_BYTES_MAX: usize = 1 << 20;
/// A file is read in pieces of this size: the longest line and its line break.
pub const FILE_READ_BYTES: usize = FILE_LINE_BYTES_MAX + 2;
/// Bytes of a file's first line that tell it apart from others.
pub const FILE_FINGERPRINT_BYTES: usize = 1 << 10;
/// How long to wait before a file that could not be read is tried again.
pub const FILE_BAD_RETRY: Duration = Duration::from_secs(10);
/// Files that one pattern may match.
pub const FILES_MAX: usize = 10_000;
/// Positions of files that are gone, kept for the case that they come back. Beyond, those that have been
/// gone longest are forgotten.
pub const FILES_GONE_MAX: usize = 10_000;
/// How long the quote of a CSV cell may stay open at the end of a file that does not grow.
pub const FILE_OPEN_QUOTE_MAX: Duration = Duration::from_secs(10);
/// Bytes before its position by which a file is known again when it has changed.
pub const FILE_TAIL_BYTES: usize = 64;
/// How long to wait before a file is looked at again when nothing was new.
pub const FILE_IDLE: Duration = Duration::from_millis(250);
/// Bytes of a file sink's note about its position: some hundred thousand partitions that write to it.
pub const FILE_NOTE_BYTES_MAX: u64 = 16 << 20;
/// An HTTP request may take so long at most, whatever its options say.
pub const HTTP_TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// The longest pause that an answer's `Retry-After` may ask for.
pub const HTTP_RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// Bytes of a response that are kept to explain a refusal.
pub const HTTP_EXCERPT_BYTES_MAX: u64 = 4 << 10;
/// Bytes of payloads in one HTTP request, unless one payload has more.
pub const HTTP_BODY_BYTES: usize = 4 << 20;
/// Rows in one HTTP request.
pub const HTTP_ROWS_MAX: usize = 10_000;
/// Bytes of a file with authorities to trust.
pub const CA_BYTES_MAX: u64 = 4 << 20;
/// Bridges that a message may go through. One that has gone through so many goes in a circle.
pub const MQTT_HOPS_MAX: u32 = 16;
/// A bridge waits so long for a connection and for each answer during it.
pub const MQTT_ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a bridge's goodbye may take.
pub const MQTT_GOODBYE_MAX: Duration = Duration::from_secs(1);
/// The largest packet that a bridge takes.
pub const MQTT_PACKET_BYTES_MAX: u32 = 16 << 20;
/// Messages between a bridge's socket and the stream; then the socket is not read.
pub const MQTT_INCOMING_MAX: usize = 1024;
/// Bytes of those messages, unless one message has more.
pub const MQTT_INCOMING_BYTES: usize = 8 << 20;
/// Bytes that wait for a bridge's socket; then nothing is added to them.
pub const MQTT_OUTGOING_BYTES: usize = 1 << 20;
/// Messages that a bridge has sent and the other side has not acknowledged.
pub const MQTT_IN_FLIGHT_MAX: u16 = 1024;
/// Connections lost one after the other with the same single row under way; with the next one the row
/// is a dead letter.
pub const MQTT_LOST_MAX: u32 = 4;
/// Rows in one batch of a bridge.
pub const MQTT_ROWS_MAX: usize = 4096;
/// A bridge's read and write buffers grow in steps of this size.
pub const MQTT_READ_BYTES: usize = 64 << 10;
