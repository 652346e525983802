//! State in memory: for the tests of flows and for trying a new version out.

use std::collections::BTreeMap;

use busbar_event::Error;
use bytes::Bytes;
use parking_lot::Mutex;

use super::StateStore;
use crate::operator::{StateChange, Visit};

type Tasks = BTreeMap<String, BTreeMap<Vec<u8>, Bytes>>;

/// Keeps state for as long as it exists.
#[derive(Default)]
pub(crate) struct MemoryStore(Mutex<Tasks>);

impl StateStore for MemoryStore {
    fn get(&self, task: &str, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let tasks = self.0.lock();
        Ok(tasks.get(task).and_then(|map| map.get(key).cloned()))
    }

    fn scan(&self, task: &str, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let found: Vec<(Vec<u8>, Bytes)> = match self.0.lock().get(task) {
            Some(map) => map
                .range(prefix.to_vec()..)
                .take_while(|(key, _)| key.starts_with(prefix))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            None => Vec::new(),
        };
        found
            .into_iter()
            .try_for_each(|(key, value)| visit(&key, value))
    }

    fn commit(&self, task: &str, changes: Vec<StateChange>) -> Result<(), Error> {
        let mut tasks = self.0.lock();
        let map = tasks.entry(task.to_owned()).or_default();
        for (key, value) in changes {
            match value {
                Some(value) => map.insert(key.to_vec(), value),
                None => map.remove(&key[..]),
            };
        }
        Ok(())
    }

    fn remove(&self, prefix: &str) -> Result<(), Error> {
        self.0.lock().retain(|task, _| !task.starts_with(prefix));
        Ok(())
    }
}
