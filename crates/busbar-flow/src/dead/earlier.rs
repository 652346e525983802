//! What open letters tell of events that a task reads again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use busbar_event::Error;
use busbar_event::hash::fnv1a;

use super::index::Entry;
use super::{DeadLetters, RESULTS, place_of};
use crate::chain::Dead;
use crate::compile::OutputPlan;
use crate::limits::{DEAD_GROUPS_MAX, DEAD_READ_ROWS};

/// The open letters of events that a task reads again, by the events' offsets.
///
/// An event that dies again of the same is told by the letter there is. When it gets through, or dies of
/// something else, that letter has had its day.
#[derive(Clone, Debug, Default)]
pub(crate) struct Earlier(BTreeMap<u64, Vec<Known>>);

#[derive(Clone, Copy, Debug)]
struct Known {
    id: u64,
    /// Where and of what it died, as one number.
    cause: u64,
}

/// Where in a flow and of what an event died. Outputs count by what they are: their order may change.
fn cause_of(place: &str, output: &str, code: &str) -> u64 {
    let place = if output.is_empty() { place } else { output };
    fnv1a(format!("{place} {code}").as_bytes())
}

impl Earlier {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes out those of some events.
    pub fn within(&mut self, base: u64, end: u64) -> Earlier {
        if self.is_empty() {
            return Earlier::default();
        }
        let mut these = self.0.split_off(&base);
        let mut behind = these.split_off(&end);
        self.0.append(&mut behind);
        Earlier(these)
    }

    /// Takes back those of events that come again.
    pub fn put_back(&mut self, mut earlier: Earlier) {
        self.0.append(&mut earlier.0);
    }

    /// Whether an open letter tells of this death already; that letter is then told of no other.
    pub fn knows(&mut self, offset: u64, dead: &Dead, outputs: &[OutputPlan]) -> bool {
        let Some(known) = self.0.get_mut(&offset) else {
            return false;
        };
        let (place, output) = place_of(dead.place, |i| outputs.get(i).map_or("", |o| &*o.id));
        let cause = cause_of(&place, output, dead.cause.code());
        let Some(at) = known.iter().position(|known| known.cause == cause) else {
            return false;
        };
        known.swap_remove(at);
        true
    }

    /// The numbers of those that are left.
    pub fn ids(&self) -> Vec<u64> {
        self.0.values().flatten().map(|known| known.id).collect()
    }
}

impl DeadLetters {
    /// The open letters of a flow's events in a part of a partition, of those outputs, and with `main` those
    /// that died before any output. May block on the disk.
    pub fn earlier(
        &self,
        flow: &str,
        (stream, partition): (&str, u16),
        offsets: Range<u64>,
        outputs: &[Arc<str>],
        main: bool,
    ) -> Result<Earlier, Error> {
        let ids: Vec<u64> = {
            let mut index = self.index.lock();
            self.refresh(&mut index)?;
            // Causes beyond the bound share the last group, whatever flow they are of.
            let shared = index.groups.len() == DEAD_GROUPS_MAX;
            let of_flow = |entry: &&Entry| {
                index.groups[entry.group].flow == flow
                    || (shared && entry.group == DEAD_GROUPS_MAX - 1)
            };
            index
                .entries
                .iter()
                .filter(of_flow)
                .map(|entry| entry.id)
                .filter(|id| !index.closed.contains(id))
                .collect()
        };
        let mut earlier = Earlier::default();
        for ids in ids.chunks(DEAD_READ_ROWS) {
            for letter in self.read(ids)? {
                let shown = &letter.shown;
                let mine = match letter.output.as_str() {
                    "" | RESULTS => main,
                    output => outputs.iter().any(|id| **id == *output),
                };
                // Of no event: its batch tells of the result anew.
                let output = match shown.is_result {
                    true => RESULTS,
                    false => &letter.output,
                };
                if mine
                    && shown.flow == flow
                    && shown.stream == stream
                    && shown.partition == partition
                    && offsets.contains(&shown.offset)
                {
                    earlier.0.entry(shown.offset).or_default().push(Known {
                        id: shown.id,
                        cause: cause_of(&shown.place, output, &shown.code),
                    });
                }
            }
        }
        Ok(earlier)
    }
}
