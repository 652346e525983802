//! Bounds of SOAP services.

/// Documents of which a WSDL consists.
pub const WSDL_FILES_MAX: usize = 64;
/// Columns that a message of an operation has. Deeper parts of larger ones are sent as JSON.
pub const MESSAGE_COLUMNS_MAX: usize = 4096;
/// Deepest nesting of the elements of a message that is sent.
pub const MESSAGE_DEPTH_MAX: usize = 128;
/// How often a row is sent that a service answers with a fault of its own, or with something that is no envelope, before it
/// becomes a dead letter; or before the flow stops, where that is a web page.
pub const FAULTS_MAX: u32 = 5;
/// Bytes of the random number in a user name token.
pub const NONCE_BYTES: usize = 16;
