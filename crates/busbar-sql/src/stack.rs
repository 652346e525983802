//! Compiling with enough stack, whatever the caller's thread has.
//!
//! Planning recurses as deep as an expression is nested, up to
//! [`OPERATORS_MAX`](crate::limits::OPERATORS_MAX) levels with large frames. The threads that check and deploy flows
//! have two megabytes, and a stack overflow would end the process.

use std::panic::resume_unwind;
use std::thread;

use busbar_event::{Class, Error};

use crate::limits::QUERY_STACK_BYTES;

/// The result of `work`, which runs on a thread with [`QUERY_STACK_BYTES`]; `lost` makes the error if there is none.
pub(crate) fn deep<T: Send, E: Send>(
    lost: impl FnOnce(Error) -> E,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("busbar-compile".to_owned())
            .stack_size(QUERY_STACK_BYTES)
            .spawn_scoped(scope, work);
        match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(cause) => Err(lost(
                Error::new(Class::Transient, "sql.threads").caused_by(cause),
            )),
        }
    })
}
