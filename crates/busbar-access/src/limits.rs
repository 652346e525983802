//! Every bound of this crate, with its unit last.

/// Longest user name, in bytes.
pub const USER_NAME_BYTES_MAX: usize = 64;
/// Shortest password that is accepted when one is set, in characters.
pub const PASSWORD_CHARS_MIN: usize = 8;
/// Longest password that is hashed at all; longer ones are refused before any work is done.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Most users.
pub const USERS_MAX: usize = 100_000;
/// Most API tokens.
pub const TOKENS_MAX: usize = 100_000;
/// Longest name of a token, in bytes.
pub const TOKEN_NAME_BYTES_MAX: usize = 128;
/// Most sessions at a time; the one that expires first is ended.
pub const SESSIONS_MAX: usize = 10_000;
/// Sessions of one user at a time; the one that expires first is ended, so that nobody can end the
/// sessions of others by opening many.
pub const SESSIONS_PER_USER_MAX: usize = 100;
/// Most rules in one list.
pub const GRANTS_MAX: usize = 256;
/// A session that is not used for this long is over.
pub const SESSION_IDLE_SECONDS: i64 = 12 * 3600;
/// A session ends after this long even when it is in use.
pub const SESSION_AGE_SECONDS_MAX: i64 = 30 * 24 * 3600;
/// A session's new expiry is written to the store only when it moved by this much.
pub const SESSION_SAVE_SECONDS: i64 = 600;
/// Password hashes computed at the same time. Each takes about 20 MB and a core.
pub const HASHES_IN_FLIGHT_MAX: usize = 2;
/// Logins that may wait for a hash; more are refused with a transient error.
pub const HASH_WAITERS_MAX: usize = 256;
/// How long a verified password is remembered (as a keyed digest, in memory), so that
/// ten thousand devices that reconnect do not cost ten thousand hashes each time.
pub const VERIFIED_SECONDS: i64 = 300;
/// Most remembered verifications.
pub const VERIFIED_MAX: usize = 20_000;
/// Failed logins one user may make from one peer in a row before it must wait.
pub const FAILURES_PER_USER_AND_PEER_MAX: u32 = 5;
/// Failed logins one peer may make in a row, over all users.
pub const FAILURES_PER_PEER_MAX: u32 = 30;
/// Failed logins for one user in a row, over all peers.
pub const FAILURES_PER_USER_MAX: u32 = 60;
/// One failure is forgiven after this long.
pub const FAILURE_FORGIVEN_SECONDS: i64 = 10;
/// Log lines about failed logins in one second; the rest is counted in the next line.
pub const LOGIN_LINES_PER_SECOND_MAX: u32 = 10;
/// Most users and peers whose failures are counted.
pub const FAILURE_ENTRIES_MAX: usize = 50_000;

const _: () = assert!(FAILURES_PER_USER_AND_PEER_MAX < FAILURES_PER_PEER_MAX);
const _: () = assert!(FAILURES_PER_PEER_MAX < FAILURES_PER_USER_MAX);
const _: () = assert!(SESSION_SAVE_SECONDS * 10 < SESSION_IDLE_SECONDS);
const _: () = assert!(SESSIONS_PER_USER_MAX < SESSIONS_MAX);
