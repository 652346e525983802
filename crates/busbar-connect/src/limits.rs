//! Every bound of this crate, units last.

use std::time::Duration;

/// The shortest time between two readings of the host.
pub const HOST_EVERY_MIN: Duration = Duration::from_millis(100);
/// The longest line of a file. A longer one is cut off and tagged.
pub const FILE_LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes read from a file at a time: the longest line and its line break.
pub const FILE_READ_BYTES: usize = FILE_LINE_BYTES_MAX + 2;
/// Bytes of a file's first line that are part of its identity.
pub const FILE_FINGERPRINT_BYTES: usize = 1 << 10;
/// Pause before a file that could not be read is tried again.
pub const FILE_BAD_RETRY: Duration = Duration::from_secs(10);
/// Files that one pattern may match.
pub const FILES_MAX: usize = 10_000;
/// Positions of files that are gone and may come back. Beyond, those that have been gone longest are dropped.
pub const FILES_GONE_MAX: usize = 10_000;
/// How long the quote of a CSV cell may stay open at the end of a file that does not grow.
pub const FILE_OPEN_QUOTE_MAX: Duration = Duration::from_secs(10);
/// Bytes before its position by which a file is recognised when it has changed, also after a restart.
pub const FILE_TAIL_BYTES: usize = 1 << 10;
/// Files whose HL7 batches are counted at a time.
pub const FILE_BATCHES_MAX: usize = 10_000;
/// Pause before the next look when no file had anything new.
pub const FILE_IDLE: Duration = Duration::from_millis(250);
/// Bytes of the note with a file sink's positions: enough for some hundred thousand partitions.
pub const FILE_NOTE_BYTES_MAX: u64 = 16 << 20;
/// The longest timeout of an HTTP request that may be configured.
pub const HTTP_TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// The longest pause that an answer's `Retry-After` may ask for.
pub const HTTP_RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// Bytes of a response that are shown in the error.
pub const HTTP_EXCERPT_BYTES_MAX: u64 = 4 << 10;
/// Characters of the words in which another system refuses something that are shown.
pub const REASON_CHARS_MAX: usize = 500;
/// Bytes of payloads in one HTTP request, unless one payload has more.
pub const HTTP_BODY_BYTES: usize = 4 << 20;
/// Rows in one HTTP request.
pub const HTTP_ROWS_MAX: usize = 10_000;
/// Bytes of a file with a password or a token.
pub const SECRET_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a PEM file with authorities.
pub const CA_BYTES_MAX: u64 = 4 << 20;
/// Bridges that a message may pass; beyond, they are assumed to form a cycle.
pub const MQTT_HOPS_MAX: u32 = busbar_event::limits::HOPS_MAX;
/// How long a bridge waits for a connection and for each response.
pub const MQTT_ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a bridge may take to disconnect.
pub const MQTT_GOODBYE_MAX: Duration = Duration::from_secs(1);
/// What a bridge reads at once of what comes behind its goodbye.
pub const MQTT_REST_BYTES: usize = 4 << 10;
/// The largest packet that a bridge accepts.
pub const MQTT_PACKET_BYTES_MAX: u32 = 16 << 20;
/// Messages queued between a bridge's socket and its stream; beyond, the socket is not read.
pub const MQTT_INCOMING_MAX: usize = 1024;
/// Bytes of these messages; a single larger message is queued alone.
pub const MQTT_INCOMING_BYTES: usize = 8 << 20;
/// Bytes queued for a bridge's socket; beyond, nothing is added.
pub const MQTT_OUTGOING_BYTES: usize = 1 << 20;
/// Unacknowledged messages of a bridge.
pub const MQTT_IN_FLIGHT_MAX: u16 = 1024;
/// Connections that may be lost in succession while the same row is in flight; with the next one the row becomes a dead
/// letter.
pub const MQTT_LOST_MAX: u32 = 4;
/// Rows in one batch of a bridge.
pub const MQTT_ROWS_MAX: usize = 4096;
/// A bridge's read and write buffers grow in steps of this size.
pub const MQTT_READ_BYTES: usize = 64 << 10;
/// How long the receiver of HL7 messages may take to accept a connection.
pub const MLLP_CONNECT_MAX: Duration = Duration::from_secs(10);
/// The longest wait for an answer over MLLP that may be configured.
pub const MLLP_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Bytes of an answer over MLLP.
pub const MLLP_ANSWER_BYTES_MAX: usize = 1 << 20;
/// The buffer for answers over MLLP grows in steps of this size.
pub const MLLP_READ_BYTES: usize = 4 << 10;
/// Answers to other messages that are passed over while one is waited for.
pub const MLLP_STRANGERS_MAX: usize = 16;
/// Values of which a message is made.
pub const MLLP_VALUES_MAX: usize = 1024;
/// Characters of the reason in an answer that are shown.
pub const MLLP_EXCERPT_CHARS_MAX: usize = 200;
/// The longest timeout of a statement that may be configured for a SQL database with a protocol of its own.
pub const STATEMENT_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Rows of a transaction that are published as one batch. A transaction with more is published in pieces.
pub const TRANSACTION_ROWS: usize = 8_192;
/// Bytes of these rows.
pub const TRANSACTION_BYTES: usize = 4 << 20;
/// Large transactions whose parts are remembered until the stream has passed them.
pub const LARGE_TRANSACTIONS_MAX: usize = 1_024;
/// How long a source may stand still while the other side goes on, before it is an alarm.
pub const STILL_MAX: Duration = Duration::from_secs(60);
/// Bytes by which the other side's log has to grow meanwhile.
pub const STILL_BYTES: u64 = 16 << 20;
/// Bytes of an answer to a `call` step. A larger one is refused.
pub const CALL_ANSWER_BYTES_MAX: usize = 1 << 20;
/// Bytes of a request's address and headers.
pub const CALL_HEAD_BYTES_MAX: usize = 32 << 10;
/// Connections to a service that are kept open while nobody uses them.
pub const CALL_IDLE_MAX: usize = 64;
/// How long such a connection is kept.
pub const CALL_IDLE_LONGEST: Duration = Duration::from_secs(30);
/// How deep messages of gRPC may be nested.
pub const GRPC_DEPTH_MAX: usize = 64;
/// Rounds of a SCRAM password that are computed; a server that asks for more is refused.
pub const SCRAM_ROUNDS_MAX: u32 = 1 << 20;
