//! Events that instances wait for, and those that come before anybody does.

use busbar_event::Error;
use serde::{Deserialize, Serialize};

use super::InstanceEngine;
use crate::instance::ValueMap;
use crate::limits::{EARLY_EVENT_MICROS, EARLY_EVENTS_MAX};
use crate::machine::Happening;
use crate::store::{self, StoreChange};

/// An event that came before an instance waited for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct EarlyEvent {
    pub time: i64,
    pub values: ValueMap,
}

impl InstanceEngine {
    pub(super) fn early_event(&self, key: &[u8], now: i64) -> Option<EarlyEvent> {
        let found = self.early_entry(key);
        found.filter(|event| event.time.saturating_add(EARLY_EVENT_MICROS) > now)
    }

    /// The same, also when its time is over.
    fn early_entry(&self, key: &[u8]) -> Option<EarlyEvent> {
        match self.early.get(key) {
            Some(changed) => changed.clone(),
            None if self.early_count == 0 => None,
            None => store::read(&*self.store, key).ok().flatten(),
        }
    }

    /// Gives an event to an instance; false if it does not wait for it any more.
    fn is_taken(
        &mut self,
        name: &str,
        key: &str,
        what: Happening,
        now: i64,
    ) -> Result<bool, Error> {
        let Some(before) = self.load(name, key)? else {
            return Ok(false);
        };
        self.happens(name, key, what, now)?;
        let after = self.load(name, key)?;
        Ok(after.is_some_and(|after| after.records != before.records))
    }

    pub(super) fn event(
        &mut self,
        name: String,
        part: String,
        value: String,
        values: ValueMap,
        now: i64,
    ) -> Result<(), Error> {
        let early = store::early_key(&name, &part, &value);
        let at = (name, part, value);
        let (mut is_taken, mut failed) = (false, None);
        let mut left: Vec<(String, String)> = Vec::new();
        for (key, place) in self.awaiting.remove(&at).unwrap_or_default() {
            let what = Happening::Event {
                place: place.clone(),
                values: values.clone(),
            };
            match self.is_taken(&at.0, &key, what, now) {
                Ok(taken) => is_taken |= taken,
                Err(error) => {
                    // The others get it all the same, and this one goes on waiting.
                    left.push((key, place));
                    failed = Some(error);
                }
            }
        }
        if let Some(error) = failed {
            self.awaiting.entry(at).or_default().extend(left);
            return Err(error);
        }
        if is_taken {
            return Ok(());
        }
        if self.early_entry(&early).is_none() {
            if self.early_count >= EARLY_EVENTS_MAX {
                tracing::warn!(
                    orchestration = at.0,
                    "an event that nobody waits for is not kept"
                );
                return Ok(());
            }
            self.early_count += 1;
        }
        let event = EarlyEvent { time: now, values };
        self.changes
            .push(StoreChange::Put(early.clone(), store::write(&event)?));
        self.early.insert(early, Some(event));
        Ok(())
    }
}
