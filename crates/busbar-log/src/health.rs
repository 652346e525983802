//! Whether appends are refused now. What those who append hear and what a node reports about itself come
//! from the same record, which the commit thread keeps.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::error::LogError;

/// Why appends are refused. Written by the commit thread when something changes.
#[derive(Debug, Default)]
pub(crate) struct AppendHealth {
    state: Mutex<Refusals>,
}

#[derive(Debug, Default)]
struct Refusals {
    /// The disk has less room than the reserve, so appends to all partitions but stores are refused.
    full: Option<LogError>,
    /// Partitions whose last append was refused because of the disk, by name.
    partitions: BTreeMap<String, LogError>,
}

impl AppendHealth {
    /// Why appends are refused; `None` while they are taken.
    pub fn refusal(&self) -> Option<LogError> {
        let state = self.state.lock();
        let partition = || state.partitions.values().next();
        state.full.as_ref().or_else(partition).cloned()
    }

    /// Records whether the disk has less room than the reserve.
    pub fn set_full(&self, full: Option<LogError>) {
        self.change(|state| state.full = full);
    }

    /// Records why the last append to a partition was refused, or that it was written.
    pub fn set_partition(&self, name: &str, refused: Option<LogError>) {
        self.change(|state| match refused {
            Some(error) => {
                state.partitions.insert(name.to_owned(), error);
            }
            None => {
                state.partitions.remove(name);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Refusals)) {
        let mut state = self.state.lock();
        let refused = |state: &Refusals| state.full.is_some() || !state.partitions.is_empty();
        let before = refused(&state);
        change(&mut state);
        match (before, refused(&state)) {
            (false, true) => {
                let error = state.full.as_ref().or(state.partitions.values().next());
                if let Some(error) = error {
                    tracing::error!(%error, "appends are refused until the disk takes them again");
                }
            }
            (true, false) => tracing::info!("the disk takes appends again"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
