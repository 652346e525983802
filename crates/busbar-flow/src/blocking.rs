//! Work that waits for a disk, on threads that may block.

use busbar_event::{Class, Error};

/// Runs what may wait for a disk where that holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::new(Class::Transient, "flow.worker").caused_by(e)),
    }
}
