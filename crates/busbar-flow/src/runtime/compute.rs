//! The threads that flows compute on: a heavy flow delays other flows, and neither sockets nor the API.

use std::future::Future;

use busbar_event::{Class, Error};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::limits::{COMPUTE_THREADS_MAX, DRAIN_TIMEOUT};

/// The threads. They end when this is dropped; what runs on them is cut off at its next wait.
pub(super) struct Compute(Option<Runtime>);

impl Compute {
    /// Starts as many threads as there are processors, two at least.
    pub fn start() -> Result<Compute, Error> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = Builder::new_multi_thread()
            .worker_threads(processors.clamp(2, COMPUTE_THREADS_MAX))
            .thread_name("flow")
            .enable_all()
            .build();
        let runtime = runtime
            .map_err(|error| Error::new(Class::Transient, "flow.worker").caused_by(error))?;
        Ok(Compute(Some(runtime)))
    }

    /// Runs something on these threads.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match &self.0 {
            Some(runtime) => runtime.spawn(work),
            // Only while it is dropped.
            None => tokio::spawn(work),
        }
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        let Some(runtime) = self.0.take() else { return };
        // What is being written is waited for, but not on a thread of another runtime, where that is not allowed.
        match tokio::runtime::Handle::try_current() {
            Ok(_) => runtime.shutdown_background(),
            Err(_) => runtime.shutdown_timeout(DRAIN_TIMEOUT),
        }
    }
}
