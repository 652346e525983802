//! The letters that can be found: their causes, where they came from, and which are closed.

use std::collections::{BTreeSet, HashMap, VecDeque};

use busbar_event::hash::fnv1a;

use crate::limits::{DEAD_GROUPS_MAX, DEAD_INDEX_MAX};
use crate::status::{DeadGroup, DeadLetter};

/// Stands for an event: letters of one event have the same.
pub(super) fn event_hash(stream: &str, partition: u16, offset: u64) -> u64 {
    fnv1a(format!("{partition}/{offset}/{stream}").as_bytes())
}

#[derive(Default)]
pub(super) struct Index {
    /// The number of the next letter to read.
    pub next: u64,
    pub entries: VecDeque<Entry>,
    pub groups: Vec<DeadGroup>,
    pub by_cause: HashMap<(String, String, String), usize>,
    /// Names of the streams that events of letters were read from.
    pub streams: Vec<String>,
    pub closed: BTreeSet<u64>,
    /// Places in `groups` whose letters are all gone.
    pub free: Vec<usize>,
    /// Letters before this number are gone from the stream.
    pub start: u64,
    /// Open letters that the stream has deleted since the node started.
    pub expired: u64,
    pub loaded: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub id: u64,
    pub group: usize,
    /// Place in [`Index::streams`].
    pub stream: usize,
    /// Hash of the event's stream, partition and offset: letters of one event have the same.
    pub event: u64,
    pub died_micros: i64,
}

impl Index {
    pub fn add(&mut self, letter: DeadLetter) {
        let cause = (
            letter.flow.clone(),
            letter.place.clone(),
            letter.code.clone(),
        );
        let group = match self.by_cause.get(&cause) {
            Some(group) => *group,
            None if self.groups.len() < DEAD_GROUPS_MAX || !self.free.is_empty() => {
                let group = DeadGroup {
                    flow: letter.flow,
                    place: letter.place,
                    class: letter.class,
                    code: letter.code,
                    message: String::new(),
                    message_zh: String::new(),
                    varies: false,
                    count: 0,
                    open: 0,
                    first_micros: letter.died_micros,
                    last_micros: letter.died_micros,
                    newest: letter.id,
                };
                let at = match self.free.pop() {
                    Some(at) => {
                        self.groups[at] = group;
                        at
                    }
                    None => {
                        self.groups.push(group);
                        self.groups.len() - 1
                    }
                };
                self.by_cause.insert(cause, at);
                at
            }
            None => DEAD_GROUPS_MAX - 1,
        };
        let known = &mut self.groups[group];
        known.varies |= known.count > 0 && known.message != letter.message;
        known.count += 1;
        known.open += u64::from(!self.closed.contains(&letter.id));
        known.message = letter.message;
        known.message_zh = letter.message_zh;
        known.last_micros = known.last_micros.max(letter.died_micros);
        known.newest = letter.id;
        let streams = &mut self.streams;
        let stream = streams.iter().position(|name| *name == letter.stream);
        let stream = stream.unwrap_or_else(|| {
            streams.push(letter.stream.clone());
            streams.len() - 1
        });
        self.entries.push_back(Entry {
            id: letter.id,
            group,
            stream,
            event: match letter.is_result {
                // Of no event, so that no other letter is of the same one.
                true => fnv1a(format!("result {}", letter.id).as_bytes()),
                false => event_hash(&letter.stream, letter.partition, letter.offset),
            },
            died_micros: letter.died_micros,
        });
        if self.entries.len() > DEAD_INDEX_MAX {
            self.forget_oldest();
        }
    }

    /// The letter of this number, if there is one.
    pub fn entry(&self, id: u64) -> Option<Entry> {
        // In order of their numbers.
        let at = self.entries.binary_search_by_key(&id, |e| e.id).ok()?;
        Some(self.entries[at])
    }

    /// Removes the letters before number `start`; returns how many of them were open.
    pub fn forget(&mut self, start: u64) -> u64 {
        let mut open = 0;
        while self.entries.front().is_some_and(|entry| entry.id < start) {
            open += u64::from(self.forget_oldest());
        }
        open
    }

    /// Removes the oldest letter and takes it out of its group. True if it was open.
    pub fn forget_oldest(&mut self) -> bool {
        let Some(entry) = self.entries.pop_front() else {
            return false;
        };
        let open = !self.closed.contains(&entry.id);
        let group = &mut self.groups[entry.group];
        group.count = group.count.saturating_sub(1);
        group.open = group.open.saturating_sub(u64::from(open));
        if group.count == 0 {
            self.by_cause.retain(|_, at| *at != entry.group);
            self.free.push(entry.group);
        }
        open
    }

    /// Those of `ids` that the stream still holds.
    pub fn kept(&self, ids: &[u64]) -> Vec<u64> {
        ids.iter().copied().filter(|id| *id >= self.start).collect()
    }

    /// Marks a letter as closed.
    pub fn mark(&mut self, id: u64) {
        if self.closed.insert(id)
            && let Some(entry) = self.entry(id)
        {
            let group = entry.group;
            self.groups[group].open = self.groups[group].open.saturating_sub(1);
        }
    }
}
