//! Every bound of this crate, units last.

use std::time::Duration;

/// The version of the protocol between node and worker.
pub const PROTOCOL_VERSION: u32 = 1;
/// Workers of one plug-in.
pub const WORKERS_MAX: u16 = 64;
/// Events that a worker is given in one batch.
pub const BATCH_EVENTS_MAX: usize = 1024;
/// Events that a worker is given in one batch of Arrow columns.
pub const ARROW_BATCH_EVENTS_MAX: usize = 8192;
/// Bytes of the events of one batch, unless a single event has more.
pub const BATCH_BYTES: usize = 1 << 20;
/// Batches that a worker may be given before it has answered the first.
pub const CREDIT_MAX: u32 = 16;
/// Bytes of the answer to one batch, where the plug-in's file does not say.
pub const OUTPUT_BYTES: u64 = 32 << 20;
/// Bytes of the answer to one batch at most.
pub const OUTPUT_BYTES_MAX: u64 = 1 << 30;
/// Memory of a worker in bytes, where the plug-in's file does not say.
pub const MEMORY_BYTES: u64 = 256 << 20;
/// Memory that a worker has at least, in bytes.
pub const MEMORY_BYTES_MIN: u64 = 16 << 20;
/// How long a worker may work on one batch, where the plug-in's file does not say.
pub const BATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a worker may take to start.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a compiler may take.
pub const COMPILE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long an idle worker is left alone before it is asked whether it is still there.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// How long a worker may take to end after it was told to.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause before a worker is started again.
pub const RESTART_FIRST: Duration = Duration::from_millis(100);
/// The longest pause before a worker is started again.
pub const RESTART_LAST: Duration = Duration::from_secs(30);
/// Times in a row that a worker may die on single events before the rest of their batch is given up.
pub const DEATHS_IN_A_ROW_MAX: u32 = 3;
/// How often the memory of a worker is looked at while it works.
pub const MEMORY_CHECK_EVERY: Duration = Duration::from_millis(100);
/// Log lines kept for each plug-in.
pub const LOG_LINES_MAX: usize = 1000;
/// Bytes of one log line.
pub const LOG_LINE_BYTES_MAX: usize = 4096;
/// Log lines that a plug-in may write within one second; what is beyond is counted and dropped.
pub const LOG_LINES_PER_SECOND_MAX: u32 = 500;
/// Bytes of a script's own error message that are kept.
pub const ERROR_BYTES_MAX: usize = 1024;
/// Bytes of a compiler's output that are kept.
pub const COMPILER_OUTPUT_BYTES_MAX: usize = 16 << 10;
/// Events that a plug-in may make of one.
pub const EVENTS_OF_ONE_MAX: usize = 100_000;
/// Events that a plug-in may make of one batch.
pub const ANSWER_EVENTS_MAX: usize = 1 << 20;
/// Rows of a table that one request of a plug-in is answered with.
pub const TABLE_ROWS_MAX: usize = 10_000;
/// How deep the stack of a script within the process may grow, in bytes.
pub const SCRIPT_STACK_BYTES: usize = 1 << 20;
/// The stack of the thread that such a script runs on, in bytes.
pub const SCRIPT_THREAD_STACK_BYTES: usize = 8 << 20;
/// Bytes that the pipes to and from a worker hold; what Linux allows everybody.
pub const PIPE_BYTES: libc::c_int = 1 << 20;
/// How deep objects of a script's answer are nested where they are written without the script's own `JSON.stringify`.
pub const ANSWER_DEPTH_MAX: usize = 64;
/// Names of properties of a script's answers that are kept in the form in which they are written.
pub const ANSWER_NAMES_MAX: usize = 4096;
/// How deep lists, objects and maps of a column of an answer are nested.
pub const COLUMN_DEPTH_MAX: usize = 32;
/// Bytes read from a worker at once.
pub const READ_BYTES: usize = 256 << 10;

const _: () = assert!(MEMORY_BYTES >= MEMORY_BYTES_MIN);
const _: () = assert!(SCRIPT_STACK_BYTES * 2 < SCRIPT_THREAD_STACK_BYTES);
