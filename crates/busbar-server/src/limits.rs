//! Every bound of the HTTP side, with its unit last.

/// Largest body of a request, in bytes.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Largest body of a request other than publishing and deploying.
pub const SMALL_BODY_BYTES_MAX: usize = 1 << 20;
/// Bytes of a compressed body that are decoded at once; others are served between two steps.
pub const GZIP_STEP_BYTES: usize = 4 << 10;
/// Bytes by which the memory of a decoded body grows at least.
pub const DECODED_STEP_BYTES: usize = 16 << 10;
/// Largest body of somebody who is not logged in: a login, or the first user.
pub const OPEN_BODY_BYTES_MAX: usize = 64 << 10;
/// Bytes of bodies in memory, from their first byte to the answer.
pub const BODIES_BYTES_MAX: usize = 256 << 20;
/// Bytes that are read of a body that is refused, so that its sender sees the answer.
pub const REFUSED_BODY_BYTES_MAX: usize = 64 << 20;
/// Seconds for which a body that is refused is read.
pub const REFUSED_BODY_SECONDS_MAX: u64 = 5;
/// Bytes of a body up to which it is parsed on the thread that serves the connection.
pub const INLINE_BYTES_MAX: usize = 64 << 10;
/// Most events in one request.
pub const REQUEST_EVENTS_MAX: usize = 100_000;
/// Rejected events that are named one by one in an answer; the rest is counted.
pub const REJECTS_NAMED_MAX: usize = 1_000;
/// Seconds for which browsers that were here over TLS come back by TLS only.
pub const TLS_ONLY_SECONDS: u64 = 365 * 24 * 60 * 60;
/// Milliseconds that the place of a connection which waits for a request may take to become free.
pub const MAKE_ROOM_MILLIS_MAX: u64 = 1_000;
/// Bytes of request head: line and headers.
pub const HEAD_BYTES_MAX: usize = 32 << 10;
/// Headers of a request.
pub const HEADERS_MAX: usize = 64;
/// Seconds a client may take to send a head, or to begin its next request.
pub const HEAD_SECONDS_MAX: u64 = 30;
/// Seconds a client may take to send a body.
pub const BODY_SECONDS_MAX: u64 = 60;
/// Seconds a TLS handshake may take.
pub const HANDSHAKE_SECONDS_MAX: u64 = 10;
/// HTTP connections at a time.
pub const CONNECTIONS_MAX: usize = 4_096;
/// HTTP connections of one peer at a time.
pub const CONNECTIONS_PER_PEER_MAX: usize = 1_024;
/// Peers whose rates are kept.
pub const PEERS_MAX: usize = 16_384;
/// Requests one peer may make in a second, and in one go.
pub const REQUESTS_PER_PEER_PER_SECOND_MAX: u32 = 20_000;
/// Seconds that running requests get to end when the node stops.
pub const DRAIN_SECONDS_MAX: u64 = 10;

/// Nesting of JSON.
pub const JSON_DEPTH_MAX: usize = 128;

/// Requests that the publishing thread takes before it answers those whose events are committed.
pub const INLET_JOBS_PER_TURN_MAX: usize = 256;
/// Requests that wait for the publishing thread.
pub const INLET_QUEUE_MAX: usize = 1_024;
/// Bytes of requests that wait for the publishing thread.
pub const INLET_BYTES_MAX: usize = 64 << 20;
/// Seconds a request waits until its events are committed; then the answer is "unknown".
pub const COMMIT_SECONDS_MAX: u64 = 30;

/// Live subscriptions (server-sent events and WebSocket) at a time.
pub const SUBSCRIPTIONS_MAX: usize = 2_048;
/// Subscriptions of one WebSocket.
pub const SOCKET_SUBSCRIPTIONS_MAX: usize = 64;
/// Publishes of one WebSocket that wait for their commit; beyond that it is not read.
pub const SOCKET_PUBLISHES_MAX: usize = 1_024;
/// Bytes of one frame a WebSocket client may send.
pub const SOCKET_FRAME_BYTES_MAX: usize = 4 << 20;
/// Bytes of the buffer that each WebSocket gathers frames in before it writes them. It holds one frame more at
/// most: nothing is read while an answer to a ping waits to be written.
pub const SOCKET_WRITE_BYTES: usize = 128 << 10;
/// Bytes of the buffer that each WebSocket reads into.
pub const SOCKET_READ_BYTES: usize = 16 << 10;
/// Seconds a WebSocket client may take to answer a close frame.
pub const SOCKET_CLOSE_SECONDS_MAX: u64 = 2;
/// Signs of life that a WebSocket client may leave unanswered.
pub const SOCKET_SILENCES_MAX: u32 = 3;
/// Partitions up to which each event of a stream of server-sent events carries the whole position,
/// so that a reader resumes behind it to the event; with more, each group of events does.
pub const POSITION_EACH_MAX: usize = 32;
/// Events a subscription reads without a match before its reader gets a turn.
pub const SUBSCRIPTION_SCAN_EVENTS_MAX: usize = 64 << 10;
/// Bytes a subscription reads at once.
pub const SUBSCRIPTION_READ_BYTES: usize = 256 << 10;
/// Bytes rendered before they are handed to the connection; the next ones wait until these went.
pub const SUBSCRIPTION_CHUNK_BYTES: usize = 64 << 10;
/// Seconds between signs of life on a quiet subscription.
pub const KEEP_ALIVE_SECONDS: u64 = 15;
/// Seconds a WebSocket client may take to accept a chunk.
pub const SOCKET_SEND_SECONDS_MAX: u64 = 300;
/// Most events `from=last:N` may ask for.
pub const LAST_EVENTS_MAX: usize = 10_000;
/// Events looked at to find the last N that match.
pub const LAST_SCAN_EVENTS_MAX: u64 = 1 << 20;

/// Bytes of a text, key or tag to search for.
pub const CONDITION_BYTES_MAX: usize = 1 << 10;
/// Matching events in one answer of a search.
pub const SEARCH_EVENTS_MAX: usize = 1_000;
/// Matching events in one answer of a search when the request does not say.
pub const SEARCH_EVENTS_DEFAULT: usize = 100;
/// Events read for one answer of a search.
pub const SEARCH_SCAN_EVENTS_MAX: u64 = 1 << 20;
/// Milliseconds after which a search answers with what it has found so far.
pub const SEARCH_MILLISECONDS_MAX: u64 = 400;
/// Events of a partition that a search reads at a time.
pub const SEARCH_WINDOW_EVENTS_MAX: u64 = 16 << 10;
/// Bytes of events in one answer of a search.
pub const SEARCH_BYTES_MAX: usize = 4 << 20;

/// Flows that one request traces an event through.
pub const TRACE_FLOWS_MAX: usize = 32;
/// Flows with state of one trace that are run again to find what results were made of.
pub const TRACE_LINEAGES_MAX: usize = 4;
/// Requests that trace events at a time; others wait for their turn.
pub const TRACES_MAX: usize = 4;

/// Milliseconds between two messages of a sampled tail.
pub const TAIL_MILLISECONDS: u64 = 150;
/// Events in one message of a sampled tail.
pub const TAIL_EVENTS_MAX: usize = 100;
/// Bytes of events in one message of a sampled tail, unless a single event is larger.
pub const TAIL_BYTES_MAX: usize = 256 << 10;
/// Events after the start of a sampled tail that are delivered without sampling.
pub const TAIL_WHOLE_EVENTS_MAX: usize = 1_000;
/// Bytes of batches after the start of a sampled tail that are delivered without sampling.
pub const TAIL_WHOLE_BYTES_MAX: usize = 4 << 20;

/// Events in one page of a stream.
pub const PAGE_EVENTS_MAX: usize = 1_000;
/// Bytes of events in one page.
pub const PAGE_BYTES_MAX: usize = 8 << 20;
/// Events looked at for one page.
pub const PAGE_SCAN_EVENTS_MAX: u64 = 1 << 20;
/// Topics in one page.
pub const PAGE_TOPICS_MAX: usize = 1_000;

/// Calls of APIs that wait for replies at the same time.
pub const API_WAITS_MAX: usize = 16 << 10;
/// Requests that look for replies in the log at a time; others wait for their turn.
pub const API_ANSWERS_MAX: usize = 4;
/// Events that one request looks at to find a reply.
pub const API_ANSWER_SCAN_EVENTS_MAX: u64 = 1 << 20;
/// Bytes of a stream that it reads at a time.
pub(crate) const API_ANSWER_READ_BYTES: usize = 1 << 20;
/// How much earlier than its request a reply may say that it is, in microseconds: clocks are set.
pub(crate) const REPLY_CLOCK_MICROS: i64 = 60_000_000;
/// Wait of a reader of replies after they could not be read.
pub(crate) const REPLY_RETRY_MILLIS: u64 = 500;

/// Rows of an SQL answer when the request does not say.
pub const SQL_ROWS_DEFAULT: usize = 1_000;
/// Bytes of an SQL text.
pub const SQL_TEXT_BYTES_MAX: usize = 64 << 10;

/// Versions in the list of versions.
pub const VERSIONS_SHOWN_MAX: usize = 50;
/// Dead letters in a list.
pub const DEAD_LETTERS_SHOWN_MAX: usize = 1_000;

/// Entries of the audit log that are kept.
pub const AUDIT_ENTRIES_MAX: u64 = 10_000;
/// Entries of the audit log in one answer.
pub const AUDIT_SHOWN_MAX: usize = 1_000;
/// Entries of the audit log that are read at once.
pub const AUDIT_SCAN_ENTRIES: u64 = 1_000;
/// Characters of one value in an entry of the audit log.
pub const AUDIT_VALUE_CHARS_MAX: usize = 512;

/// Seconds of history of the node as a whole.
pub const HISTORY_SECONDS: usize = 300;
/// Seconds of history of each stream and flow, for sparklines.
pub const SPARK_SECONDS: usize = 60;
/// Listeners of the live feed at a time.
pub const LIVE_LISTENERS_MAX: usize = 512;
/// Events that a plug-in is tried on at most.
pub(crate) const TRIAL_EVENTS_MAX: usize = 100;
/// Bytes of the payloads of these events.
pub(crate) const TRIAL_BYTES_MAX: usize = 1 << 20;
/// Plug-ins that are tried at a time.
pub(crate) const TRIALS_MAX: usize = 2;

const _: () = assert!(SUBSCRIPTION_CHUNK_BYTES <= SUBSCRIPTION_READ_BYTES);
const _: () = assert!(BODY_BYTES_MAX <= INLET_BYTES_MAX);
const _: () = assert!(SQL_TEXT_BYTES_MAX * 6 < SMALL_BODY_BYTES_MAX);
const _: () = assert!(GZIP_STEP_BYTES * 1100 < BODY_BYTES_MAX);
const _: () = assert!(BODY_BYTES_MAX * 2 <= BODIES_BYTES_MAX);
const _: () = assert!(BODY_BYTES_MAX <= REFUSED_BODY_BYTES_MAX);
const _: () = assert!(COMMIT_SECONDS_MAX < KEEP_ALIVE_SECONDS * SOCKET_SILENCES_MAX as u64);
const _: () = assert!(CONNECTIONS_PER_PEER_MAX <= CONNECTIONS_MAX);
/// Differing keys of two tables that are listed unless a request says otherwise.
pub const COMPARE_KEYS_DEFAULT: usize = 20;
/// Differing keys of two tables that are listed at most.
pub const COMPARE_KEYS_MAX: usize = 10_000;
/// Wait of a reader of events for orchestrations while many calls are under way.
pub(crate) const ORCHESTRATION_BUSY_WAIT_MILLIS: u64 = 20;
/// Wait of such a reader after events could not be read.
pub(crate) const ORCHESTRATION_RETRY_MILLIS: u64 = 500;
/// Records of a history in one answer.
pub(crate) const HISTORY_RECORDS_SHOWN_MAX: usize = 2_000;
/// How long a caller may wait for the end of an instance.
pub(crate) const INSTANCE_WAIT_SECONDS_MAX: u64 = 300;
