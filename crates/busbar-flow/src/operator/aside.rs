//! Work of an operator that would hold its task up, on another thread.

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use busbar_event::{Class, Error};
use tokio::runtime::Handle;

/// Work that was begun, and its result.
pub(super) struct Aside<T>(Receiver<T>);

impl<T: Send + 'static> Aside<T> {
    /// Begins work on a thread that may block. Outside of tokio, where nobody waits, it is done at once.
    pub fn start(work: impl FnOnce() -> T + Send + 'static) -> Aside<T> {
        let (done, result) = sync_channel(1);
        let run = move || {
            // Nobody waits for it any more when this fails.
            let _ = done.send(work());
        };
        match Handle::try_current() {
            Ok(handle) => drop(handle.spawn_blocking(run)),
            Err(_) => run(),
        }
        Aside(result)
    }

    /// The result, once; none while the work is under way.
    ///
    /// # Errors
    /// `flow.worker` when it panicked.
    pub fn ready(&self) -> Option<Result<T, Error>> {
        match self.0.try_recv() {
            Ok(result) => Some(Ok(result)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                Some(Err(Error::new(Class::Permanent, "flow.worker")))
            }
        }
    }
}
