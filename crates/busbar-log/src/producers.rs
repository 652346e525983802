//! How far each producer of a partition has got.

use std::collections::HashMap;
use std::sync::Arc;

use crate::limits::PRODUCERS_PER_PARTITION_MAX;

/// The last position of each producer, and the offset it was reached at.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProducerTable {
    positions: HashMap<Arc<str>, (u64, u64)>,
}

impl ProducerTable {
    pub fn get(&self, id: &str) -> Option<u64> {
        self.positions.get(id).map(|(position, _)| *position)
    }

    /// Takes note that `id` has reached `position` with rows at `offset`. A position is never
    /// lowered, which only frames of [`RECORDS_ONLY`](crate::partition::RECORDS_ONLY) could try.
    pub fn set(&mut self, id: &Arc<str>, position: u64, offset: u64) {
        if let Some(known) = self.positions.get_mut(id) {
            *known = (position.max(known.0), offset);
            return;
        }
        self.positions.insert(id.clone(), (position, offset));
        if self.positions.len() > PRODUCERS_PER_PARTITION_MAX {
            // Those silent longest go, an eighth at a time, so that this is rare.
            let oldest = self.list();
            for (id, _) in &oldest[..PRODUCERS_PER_PARTITION_MAX / 8] {
                self.positions.remove(id);
            }
        }
    }

    /// Takes over what a newer table knows.
    pub fn update(&mut self, newer: ProducerTable) {
        for (id, (position, offset)) in newer.positions {
            self.set(&id, position, offset);
        }
    }

    /// All of them, those silent longest first.
    pub fn list(&self) -> Vec<(Arc<str>, u64)> {
        let mut all: Vec<_> = self.positions.iter().collect();
        all.sort_unstable_by(|a, b| (a.1.1, a.0).cmp(&(b.1.1, b.0)));
        all.iter().map(|(id, at)| ((*id).clone(), at.0)).collect()
    }

    /// Takes a list as [`ProducerTable::list`] gave it at the head of a segment that begins at
    /// `base`.
    pub fn load(&mut self, list: impl Iterator<Item = (Arc<str>, u64)>, base: u64) {
        for (id, position) in list.take(PRODUCERS_PER_PARTITION_MAX) {
            self.set(&id, position, base.saturating_sub(1));
        }
    }
}
