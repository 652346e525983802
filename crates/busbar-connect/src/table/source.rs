//! The source: threads that look at tables, and what they hand on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self as std_mpsc, RecvTimeoutError};
use std::time::Duration;

use busbar_connector::{Polled, Polling, SnapshotStatus, Source, Work};
use busbar_event::{Class, Error};
use tokio::sync::mpsc;

use super::follow::FollowShared;
use super::limits::{REST, WAITING_BATCHES};

/// Looks at a table on a thread of its own, which may wait for disks.
pub(super) trait FollowerThread: Send + 'static {
    /// Hands on what there is; how long to wait before the next step.
    fn step(&mut self, to: &Handed) -> Result<Duration, FollowEnd>;
}

/// Why a thread ends.
#[derive(Debug)]
pub(super) enum FollowEnd {
    /// Nobody takes what it hands on.
    Gone,
    Failed(Error),
}

impl From<Error> for FollowEnd {
    fn from(error: Error) -> FollowEnd {
        FollowEnd::Failed(error)
    }
}

/// Where threads hand on what they have.
pub(super) struct Handed(mpsc::Sender<Result<Polling, Error>>);

impl Handed {
    /// Waits until there is room.
    pub fn hand(&self, polling: Polling) -> Result<(), FollowEnd> {
        self.0
            .blocking_send(Ok(polling))
            .map_err(|_| FollowEnd::Gone)
    }
}

/// Brings what threads hand on. They end when it is dropped.
pub(super) struct TableSource {
    handed: mpsc::Receiver<Result<Polling, Error>>,
    /// By the name of the table; empty where tables are polled.
    followed: BTreeMap<String, Arc<FollowShared>>,
    _stops: Vec<std_mpsc::Sender<()>>,
}

impl TableSource {
    pub fn start(
        threads: Vec<Box<dyn FollowerThread>>,
        followed: BTreeMap<String, Arc<FollowShared>>,
    ) -> Result<TableSource, Error> {
        let (to, handed) = mpsc::channel(WAITING_BATCHES);
        let mut stops = Vec::with_capacity(threads.len());
        for mut thread in threads {
            let (stop, stopped) = std_mpsc::channel();
            let to = Handed(to.clone());
            std::thread::Builder::new()
                .name("table-changes".to_owned())
                .spawn(move || run(thread.as_mut(), &to, &stopped))
                .map_err(|cause| {
                    Error::new(Class::Transient, "table.changes-thread").caused_by(cause)
                })?;
            stops.push(stop);
        }
        Ok(TableSource {
            handed,
            followed,
            _stops: stops,
        })
    }
}

fn run(thread: &mut dyn FollowerThread, to: &Handed, stopped: &std_mpsc::Receiver<()>) {
    loop {
        match thread.step(to) {
            Ok(wait) => match stopped.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            },
            Err(FollowEnd::Gone) => return,
            Err(FollowEnd::Failed(error)) => {
                // The source may have been dropped meanwhile.
                let _ = to.0.blocking_send(Err(error));
                return;
            }
        }
    }
}

impl Source for TableSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(async move {
            match tokio::time::timeout(REST, self.handed.recv()).await {
                Ok(Some(handed)) => handed.map(Polled::Batch),
                // A thread has ended by a panic.
                Ok(None) => Err(Error::new(Class::Transient, "table.changes-thread")),
                Err(_) => Ok(Polled::Idle(Duration::ZERO)),
            }
        })
    }

    fn kept(&mut self, part: &str, position: u64) {
        for followed in self.followed.values() {
            followed.note_kept(part, position);
        }
    }

    fn forgotten(&mut self) -> Vec<Arc<str>> {
        let followed = self.followed.values();
        followed.flat_map(|one| one.take_over()).collect()
    }

    fn lag_events(&self) -> BTreeMap<Arc<str>, u64> {
        let followed = self.followed.iter();
        followed
            .map(|(table, one)| (table.as_str().into(), one.lag()))
            .collect()
    }

    fn snapshots(&self) -> Vec<SnapshotStatus> {
        let followed = self.followed.values();
        followed.filter_map(|one| one.snapshot()).collect()
    }

    fn take_anew(&mut self, table: &str) -> Result<(), Error> {
        match self.followed.get(table) {
            Some(followed) => {
                followed.take_anew();
                Ok(())
            }
            None => {
                let error = Error::new(Class::Configuration, "connect.no-snapshot");
                Err(error.with("table", table))
            }
        }
    }
}
