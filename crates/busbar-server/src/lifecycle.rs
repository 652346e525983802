//! Whether the node starts, runs or stops.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use tokio::sync::watch;

/// Whether the node starts, runs or stops, and since when.
pub(crate) struct Lifecycle {
    phase: AtomicU8,
    /// Becomes true when the node stops.
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) started: Instant,
}

/// What the node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodePhase {
    Starting,
    Running,
    Stopping,
}

impl Lifecycle {
    /// A node that starts now.
    pub(crate) fn new(stop: watch::Receiver<bool>) -> Lifecycle {
        Lifecycle {
            phase: AtomicU8::new(NodePhase::Starting as u8),
            stop,
            started: Instant::now(),
        }
    }

    /// What the node does.
    pub(crate) fn phase(&self) -> NodePhase {
        match self.phase.load(Ordering::Acquire) {
            0 => NodePhase::Starting,
            1 => NodePhase::Running,
            _ => NodePhase::Stopping,
        }
    }

    /// The node enters a phase.
    pub(crate) fn enter(&self, phase: NodePhase) {
        self.phase.store(phase as u8, Ordering::Release);
    }
}

/// Waits until the node stops.
pub(crate) async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the node is gone, which comes to the same.
    let _ = stop.wait_for(|stop| *stop).await;
}
