//! Where the tasks of flows are, kept in one store.
//!
//! | key | value (JSON) |
//! | --- | --- |
//! | `flow/<name>` | `{"generation": n, "paused": bool, "meaning": h, "removed": t, "known_as": name, "states": […]}` |
//! | `flow/<name>/<stream>/<partition>/<lane>` | `{"generation": n, "position": p, "seen": t}` |
//! | `reached/<name>/<stream>/<partition>` | the offset up to which a replay reads what was read before |
//!
//! A position is the offset behind the last input event that is done with; what is seen is the greatest time of
//! the events before it, in microseconds since 1970. Replaying raises the generation, which is part of the
//! names under which outputs know a task, so that what comes again is written again.

use std::collections::{BTreeMap, BTreeSet};

use busbar_event::{Class, Error};
use busbar_log::{Change, Store};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What is kept of a flow as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    #[serde(default)]
    pub generation: u64,
    #[serde(default)]
    pub paused: bool,
    /// A hash of what its file meant when it last ran: a flow is recognised by it under another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meaning: Option<u64>,
    /// When it was taken out of the project, in microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<i64>,
    /// The name it had when outputs came to know it, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_as: Option<String>,
    /// What kept state when it last ran.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub states: BTreeSet<StateOf>,
}

/// An operator that keeps state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct StateOf {
    /// The name under which the state is kept.
    pub operator: String,
    /// The stream that its tasks read.
    pub stream: String,
}

/// What is kept of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub generation: u64,
    pub position: u64,
    /// The greatest event time before the position: what a watermark is made of. With the position, so that a
    /// task that goes on after a crash knows what time it is in its input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<i64>,
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

const FLOW: &[u8] = b"flow/";

fn flow_key(flow: &str) -> Bytes {
    format!("flow/{flow}").into_bytes().into()
}

fn task_key(flow: &str, key: &TaskKey) -> Bytes {
    format!("flow/{flow}/{}/{}/{}", key.stream, key.partition, key.lane)
        .into_bytes()
        .into()
}

fn reached_key(flow: &str, stream: &str, partition: u16) -> Bytes {
    format!("reached/{flow}/{stream}/{partition}")
        .into_bytes()
        .into()
}

impl Checkpoints {
    pub fn flow(&self, flow: &str) -> Result<Kept, Error> {
        read(self.0.get(&flow_key(flow))).map(Option::unwrap_or_default)
    }

    /// Every flow there ever was, by name.
    pub fn flows(&self) -> Result<BTreeMap<String, Kept>, Error> {
        let mut flows = BTreeMap::new();
        let mut wrong = Ok(());
        self.0.for_each(FLOW, |key, value| {
            let name = String::from_utf8_lossy(&key[FLOW.len()..]);
            // The marks of its tasks have more parts.
            if !name.contains('/') {
                match read(Some(value.clone())) {
                    Ok(kept) => {
                        flows.insert(name.into_owned(), kept.unwrap_or_default());
                    }
                    Err(error) => wrong = Err(error),
                }
            }
        });
        wrong.map(|()| flows)
    }

    /// Gives what is kept of a flow to another name, all or nothing, and waits for the disk.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let mut kept = self.flow(from)?;
        kept.known_as.get_or_insert_with(|| from.to_owned());
        let mut changes = vec![put(flow_key(to), &kept), Change::Delete(flow_key(from))];
        for kind in ["flow", "reached"] {
            let (from, to) = (format!("{kind}/{from}/"), format!("{kind}/{to}/"));
            self.0.for_each(from.as_bytes(), |key, value| {
                let renamed = [to.as_bytes(), &key[from.len()..]].concat();
                changes.push(Change::Put(renamed.into(), value.clone()));
                changes.push(Change::Delete(key.clone()));
            });
        }
        self.0.apply_sync(changes).map_err(busbar_bus::from_log)
    }

    /// Forgets a flow, and waits for the disk.
    pub fn forget(&self, flow: &str) -> Result<(), Error> {
        let mut changes = vec![Change::Delete(flow_key(flow))];
        for kind in ["flow", "reached"] {
            let prefix = format!("{kind}/{flow}/");
            self.0.for_each(prefix.as_bytes(), |key, _| {
                changes.push(Change::Delete(key.clone()));
            });
        }
        self.0.apply_sync(changes).map_err(busbar_bus::from_log)
    }

    pub fn task(&self, flow: &str, key: &TaskKey) -> Result<Option<Mark>, Error> {
        read(self.0.get(&task_key(flow, key)))
    }

    /// Every lane and its mark for one partition, also of lanes that are no more.
    pub fn lanes(
        &self,
        flow: &str,
        stream: &str,
        partition: u16,
    ) -> Result<Vec<(String, Mark)>, Error> {
        let prefix = format!("flow/{flow}/{stream}/{partition}/");
        self.0
            .scan(prefix.as_bytes(), None, crate::limits::LANES_MAX)
            .into_iter()
            .map(|(key, value)| {
                let lane = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
                Ok((lane, read(Some(value))?.unwrap_or_default()))
            })
            .collect()
    }

    /// The offset up to which a flow has read a partition before it was replayed; 0 if it never was.
    pub fn reached(&self, flow: &str, stream: &str, partition: u16) -> Result<u64, Error> {
        read(self.0.get(&reached_key(flow, stream, partition))).map(Option::unwrap_or_default)
    }

    /// Writes marks without waiting.
    pub fn note(&self, flow: &str, key: &TaskKey, mark: Mark) {
        self.0.apply(vec![put(task_key(flow, key), &mark)], None);
    }

    /// Writes everything about a flow, all or nothing, and waits for the disk.
    pub fn write(&self, flow: &str, kept: Kept, marks: &[(TaskKey, Mark)]) -> Result<(), Error> {
        self.write_replay(flow, kept, marks, &[])
    }

    /// As [`Checkpoints::write`], and forgets the marks of tasks that are no more.
    pub fn write_begun(
        &self,
        flow: &str,
        kept: &Kept,
        marks: &[(TaskKey, Mark)],
        retired: &[TaskKey],
    ) -> Result<(), Error> {
        let mut changes = vec![put(flow_key(flow), kept)];
        changes.extend(
            marks
                .iter()
                .map(|(key, mark)| put(task_key(flow, key), mark)),
        );
        changes.extend(
            retired
                .iter()
                .map(|key| Change::Delete(task_key(flow, key))),
        );
        self.0.apply_sync(changes).map_err(busbar_bus::from_log)
    }

    /// The same with where each partition had been read to before.
    pub fn write_replay(
        &self,
        flow: &str,
        kept: Kept,
        marks: &[(TaskKey, Mark)],
        reached: &[(String, u16, u64)],
    ) -> Result<(), Error> {
        let mut changes = vec![put(flow_key(flow), &kept)];
        let marks = marks.iter();
        changes.extend(marks.map(|(key, mark)| put(task_key(flow, key), mark)));
        let reached = reached.iter();
        changes.extend(
            reached.map(|(stream, partition, offset)| {
                put(reached_key(flow, stream, *partition), offset)
            }),
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
