//! What a task has under way: the batch that is written, and the state that is committed.

use std::sync::Arc;
use std::time::Instant;

use busbar_event::{Class, Error};
use tokio::task::JoinHandle;

use super::write::{Landing, Leaving, Writers};
use super::{Task, told};
use crate::blocking::blocking;
use crate::counters::Delta;
use crate::state::{Checkpoint, Snapshot, TaskState};
use busbar_connector::Backoff;

/// Everything that is under way.
pub(super) struct Air {
    /// The writers, while no batch is on its way.
    pub held: Option<Writers>,
    pub flight: Option<Flight>,
    pub commit: Option<Commit>,
}

/// A batch on its way out.
pub(super) struct Flight {
    writing: OwnedWorker<Landing>,
    pub delta: Delta,
    pub snapshot: Option<Snapshot>,
}

/// State on its way to the disk.
pub(super) struct Commit(OwnedWorker<Result<(), Error>>);

/// A batch that has ended, and how.
pub(super) type LandedFlight = (Flight, Result<Landing, Error>);

impl Air {
    pub fn new(writers: Option<Writers>) -> Air {
        Air {
            held: writers,
            flight: None,
            commit: None,
        }
    }
}

/// Waits for the batch on its way; for ever if there is none.
pub(super) async fn landed(flight: &mut Option<Flight>) -> LandedFlight {
    let landing = match flight {
        Some(flight) => (&mut flight.writing.0).await,
        None => std::future::pending().await,
    };
    let landing = landing.map_err(|e| Error::new(Class::Permanent, "flow.worker").caused_by(e));
    match flight.take() {
        Some(flight) => (flight, landing),
        None => std::future::pending().await,
    }
}

/// Waits for the state on its way, if there is any.
///
/// # Errors
/// State that can never be committed.
pub(super) async fn committed(commit: &mut Option<Commit>) -> Result<(), Error> {
    let Some(under_way) = commit else {
        return Ok(());
    };
    let ended = (&mut under_way.0.0).await;
    *commit = None;
    // A commit that panicked is one that did not happen: the task goes on from the one before.
    ended.unwrap_or(Ok(()))
}

impl Flight {
    pub fn new(
        leaving: Leaving,
        writers: Writers,
        delta: Delta,
        snapshot: Option<Snapshot>,
    ) -> Flight {
        let writing = tokio::spawn(leaving.write(writers));
        Flight {
            writing: OwnedWorker(writing),
            delta,
            snapshot,
        }
    }
}

impl Commit {
    /// Commits a snapshot, however often the disk says no. Later snapshots hold later changes only.
    pub fn start(
        task: &Task,
        state: Arc<TaskState>,
        snapshot: Snapshot,
        checkpoint: Box<Checkpoint>,
    ) -> Commit {
        let shared = Arc::clone(&task.shared);
        let node = shared.output_node(task.lane.outputs.first().copied().unwrap_or(0));
        let stop = task.stop.clone();
        let snapshot = Arc::new(snapshot);
        let key = task.key.clone();
        let begun = Instant::now();
        let committing = async move {
            let mut backoff = Backoff::new(checkpoint.position);
            loop {
                let (committed, snapshot) = (Arc::clone(&state), Arc::clone(&snapshot));
                let checkpoint = checkpoint.clone();
                let done = blocking(move || committed.commit(&snapshot, &checkpoint)).await;
                let Err(error) = done else {
                    shared.cost(&key, |cost| {
                        cost.commit = begun.elapsed();
                        cost.commits += 1;
                    });
                    if backoff.tries() > 0 {
                        shared.tally.error(node, None, 0);
                    }
                    if state.copy_due() {
                        copy(&shared.plan.name, state);
                    }
                    return Ok(());
                };
                if error.code() == "flow.state-encode" {
                    return Err(error);
                }
                tracing::warn!(flow = %shared.plan.name, %error, "state was not committed");
                let pause = backoff.pause();
                shared.tally.error(node, Some(error), backoff.tries());
                tokio::select! {
                    () = told(stop.clone()) => return Ok(()),
                    () = tokio::time::sleep(pause) => {}
                }
            }
        };
        Commit(OwnedWorker(tokio::spawn(committing)))
    }
}

/// Copies state beside everything else: the task goes on meanwhile.
fn copy(flow: &Arc<str>, state: Arc<TaskState>) {
    let flow = Arc::clone(flow);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = state.copy() {
            tracing::warn!(%flow, %error, "the state was not copied; the copy before is kept");
        }
    });
}

/// A worker that goes with whoever waits for it: a task that is cut off leaves nobody behind who writes on.
struct OwnedWorker<T>(JoinHandle<T>);

impl<T> Drop for OwnedWorker<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
