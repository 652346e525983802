//! Every bound of this crate, units last.

/// Bytes of one message from PostgreSQL, which may hold a whole row.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Bytes of one packet from MySQL; larger ones, as for large rows, come in several.
pub const PACKET_BYTES_MAX: usize = 256 << 20;
/// Bytes that one packet has at most in the protocol.
pub const PACKET_BYTES: usize = (1 << 24) - 1;
/// Objects and arrays of a JSON document within each other, as many as the server allows.
pub const JSON_DEPTH_MAX: usize = 100;
/// Characters that the text of a JSON document has at most for each byte of its binary form.
pub const JSON_TEXT_FACTOR: usize = 8;
