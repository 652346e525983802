//! Every bound of this crate, units last.

/// Tries of a call where the file does not say.
pub const TRIES_DEFAULT: u32 = 5;
/// Tries of what undoes a call where the file does not say.
pub const UNDO_TRIES_DEFAULT: u32 = 10;
/// The wait before the second try where the file does not say.
pub const RETRY_FIRST_MICROS: i64 = 1_000_000;
/// The longest wait between tries where the file does not say.
pub const RETRY_MOST_MICROS: i64 = 60_000_000;
/// Elements of a list that a loop goes over.
pub const ITEMS_MAX: usize = 1_000;
/// Bytes of a business key.
pub const KEY_BYTES_MAX: usize = 256;
/// Bytes of the state of one instance; a larger one waits for a person, who can cancel it.
pub const INSTANCE_BYTES_MAX: usize = 4 << 20;
/// Bytes of a payload that a history keeps whole; of a longer one its beginning.
pub const HISTORY_PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// Records that one instance writes into its history before it waits for a person, who can let it write as many again.
pub const HISTORY_RECORDS_MAX: u64 = 20_000;
/// How long an instance that has ended is kept where the file does not say.
pub const KEEP_MICROS_DEFAULT: i64 = 30 * 24 * 3_600 * 1_000_000;
/// How long an event is kept for an instance that does not wait for it yet.
pub const EARLY_EVENT_MICROS: i64 = 3_600 * 1_000_000;
/// Events that are kept so.
pub const EARLY_EVENTS_MAX: usize = 1_000_000;
/// Commands that wait for the executor.
pub const COMMANDS_MAX: usize = 4_096;
/// Commands that are carried out in one commit.
pub const COMMANDS_IN_COMMIT_MAX: usize = 512;
/// Bytes of memory for blocks of the database that were read.
pub const CACHE_BYTES: u64 = 32 << 20;
/// How long the start waits for a database that another process has open.
pub const LOCK_WAIT_SECONDS: u64 = 10;
/// Instances whose time is over that are removed in one commit.
pub const FORGET_MAX: usize = 512;
/// Time between two looks for instances whose time is over.
pub const FORGET_EVERY_MICROS: i64 = 1_000_000;
/// Wait after a commit that has failed.
pub const COMMIT_RETRY_MILLIS: u64 = 500;
/// Calls under way that make starts by events and the clock wait.
pub const CALLS_UNDER_WAY_MAX: usize = 4_096;
/// Instances in one answer to a list.
pub const LIST_MAX: usize = 1_000;
/// Instances that are looked at for one list.
pub const LIST_SCAN_MAX: usize = 20_000;

const _: () = assert!(HISTORY_PAYLOAD_BYTES_MAX < INSTANCE_BYTES_MAX);
