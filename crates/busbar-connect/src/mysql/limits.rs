//! Every bound of the MySQL connector, units last.

use std::time::Duration;

/// Bytes of one packet from the server; larger ones, as for large rows, come in several.
pub const PACKET_BYTES_MAX: usize = 256 << 20;
/// Bytes that one packet has at most in the protocol.
pub const PACKET_BYTES: usize = (1 << 24) - 1;
/// The socket's buffer grows in steps of this size.
pub const READ_BYTES: usize = 64 << 10;
/// Bytes of one statement with several rows, unless one row has more.
pub const STATEMENT_BYTES: usize = 512 << 10;
/// How long a connection may take to be opened.
pub const CONNECT_MAX: Duration = Duration::from_secs(15);
/// The longest timeout of a statement that may be configured.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long closing a connection in good order may take.
pub const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// Characters of the name of a producer.
pub const PRODUCER_CHARS_MAX: usize = 255;
