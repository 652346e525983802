//! Where the tasks of flows are, kept in one store.
//!
//! | key | value (JSON) |
//! | --- | --- |
//! | `flow/<name>` | `{"generation": n, "paused": bool}` |
//! | `flow/<name>/<stream>/<partition>/<lane>` | `{"generation": n, "position": p}` |
//!
//! A position is the offset behind the last input event that is done with. Replaying raises the generation,
//! which is part of the names under which outputs know a task, so that what comes again is written again.

use busbar_event::{Class, Error};
use busbar_log::{Change, Store};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What is kept of a flow as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    #[serde(default)]
    pub generation: u64,
    #[serde(default)]
    pub paused: bool,
}

/// What is kept of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub generation: u64,
    pub position: u64,
}

/// The store of all checkpoints.
#[derive(Clone)]
pub(crate) struct Checkpoints(pub Store);

/// A task's name: input stream, partition, lane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaskKey {
    pub stream: String,
    pub partition: u16,
    pub lane: String,
}

fn flow_key(flow: &str) -> Bytes {
    format!("flow/{flow}").into_bytes().into()
}

fn task_key(flow: &str, key: &TaskKey) -> Bytes {
    format!("flow/{flow}/{}/{}/{}", key.stream, key.partition, key.lane)
        .into_bytes()
        .into()
}

impl Checkpoints {
    pub fn flow(&self, flow: &str) -> Result<Kept, Error> {
        read(self.0.get(&flow_key(flow))).map(Option::unwrap_or_default)
    }

    pub fn task(&self, flow: &str, key: &TaskKey) -> Result<Option<Mark>, Error> {
        read(self.0.get(&task_key(flow, key)))
    }

    /// Every lane's mark for one partition.
    pub fn lanes(&self, flow: &str, stream: &str, partition: u16) -> Result<Vec<Mark>, Error> {
        let prefix = format!("flow/{flow}/{stream}/{partition}/");
        self.0
            .scan(prefix.as_bytes(), None, crate::limits::LANES_MAX)
            .into_iter()
            .filter_map(|(_, value)| read(Some(value)).transpose())
            .collect()
    }

    /// Writes marks without waiting.
    pub fn note(&self, flow: &str, key: &TaskKey, mark: Mark) {
        self.0.apply(vec![put(task_key(flow, key), &mark)], None);
    }

    /// Writes everything about a flow, all or nothing, and waits for the disk.
    pub fn write(&self, flow: &str, kept: Kept, marks: &[(TaskKey, Mark)]) -> Result<(), Error> {
        let mut changes = vec![put(flow_key(flow), &kept)];
        changes.extend(
            marks
                .iter()
                .map(|(key, mark)| put(task_key(flow, key), mark)),
        );
        self.0.apply_sync(changes).map_err(busbar_bus::from_log)
    }
}

fn put(key: Bytes, value: &impl Serialize) -> Change {
    // Numbers and booleans: it cannot fail, and an empty value would read as an error.
    Change::Put(key, serde_json::to_vec(value).unwrap_or_default().into())
}

fn read<T: for<'de> Deserialize<'de>>(value: Option<Bytes>) -> Result<Option<T>, Error> {
    value
        .map(|value| serde_json::from_slice(&value))
        .transpose()
        .map_err(|e| Error::new(Class::Permanent, "flow.checkpoint").caused_by(e))
}
