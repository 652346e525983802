//! The last event of each topic, for live boards.
//!
//! Publishing does no work for it. A request reads what was committed since the last request, mostly from the
//! cache of recent frames, so the board costs nothing while it is not used.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use busbar_event::{Batch, Result, topic::Filter};
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::{
    cursor::{Cursor, Item},
    limits::{LAST_BYTES_MAX, LAST_SCAN_BYTES_MAX, LAST_TOPICS_MAX, RETAINED_PAGE_MAX},
    retained::{Page, RetainedValue},
    stream::{PartitionId, Stream, StreamPartition},
};

/// The last events, as of the last request.
#[derive(Default)]
pub(crate) struct Board(Mutex<State>);

#[derive(Default)]
struct State {
    values: BTreeMap<Arc<str>, Seen>,
    /// Topics by when they were last seen; the first is forgotten first.
    order: BTreeMap<u64, Arc<str>>,
    next: u64,
    bytes: usize,
    positions: HashMap<PartitionId, u64>,
}

struct Seen {
    order: u64,
    value: RetainedValue,
}

impl Board {
    /// The last events of topics that `filter` selects, see [`Bus::last_values`](crate::Bus::last_values).
    pub fn last_values(
        &self,
        streams: &[Arc<Stream>],
        filter: &Filter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page> {
        let mut state = self.0.lock();
        for stream in streams {
            if stream.is_internal() || stream.is_detached() {
                continue;
            }
            for partition in stream.partitions().iter() {
                state.catch_up(partition)?;
            }
        }
        let limit = limit.clamp(1, RETAINED_PAGE_MAX);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = Page::default();
        for (topic, seen) in state.values.range::<str, _>((from, Bound::Unbounded)) {
            if filter.matches(topic) {
                page.values.push(seen.value.clone());
                if page.values.len() == limit {
                    page.next = Some(Arc::clone(topic));
                    break;
                }
            }
        }
        Ok(page)
    }
}

impl State {
    fn catch_up(&mut self, partition: &Arc<StreamPartition>) -> Result<()> {
        let (start, end) = (partition.start(), partition.end());
        let rows = end.saturating_sub(start);
        let row_bytes = (partition.bytes() / rows.max(1)).max(1);
        let oldest = end
            .saturating_sub((LAST_SCAN_BYTES_MAX as u64 / row_bytes).max(1))
            .max(start);
        let position = self
            .positions
            .get(&partition.id())
            .copied()
            .unwrap_or(0)
            .max(oldest);
        let mut cursor = Cursor::new(Arc::clone(partition), position);
        while cursor.position() < end {
            match cursor.try_next()? {
                Some(Item::Chunk(chunk)) => self.see(&chunk.batch),
                Some(Item::Gap(_)) => {}
                None => break,
            }
        }
        self.positions.insert(partition.id(), cursor.position());
        Ok(())
    }

    /// Takes the last row of each topic.
    fn see(&mut self, batch: &Batch) {
        let mut seen = vec![false; arrow::array::Array::len(batch.topic_values())];
        for row in (0..batch.rows()).rev() {
            let topic = batch.topic_keys()[row] as usize;
            if !std::mem::replace(&mut seen[topic], true) {
                self.keep(batch, row);
            }
        }
    }

    fn keep(&mut self, batch: &Batch, row: usize) {
        let event = batch.event(row);
        if event.payload.len() > LAST_BYTES_MAX / 16 {
            return;
        }
        let topic: Arc<str> = match self.values.get_key_value(event.topic) {
            Some((known, _)) => Arc::clone(known),
            None => event.topic.into(),
        };
        self.forget(&topic);
        let value = RetainedValue {
            topic: Arc::clone(&topic),
            key: event.key.map(str::to_owned),
            time: event.time,
            client: event.client.map(str::to_owned),
            flags: event.flags,
            tags: event
                .tags()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            payload: Bytes::copy_from_slice(&event.payload),
            expires_at: None,
        };
        let order = self.next;
        self.next += 1;
        self.bytes += cost(&value);
        self.order.insert(order, Arc::clone(&topic));
        self.values.insert(topic, Seen { order, value });
        while self.values.len() > LAST_TOPICS_MAX || self.bytes > LAST_BYTES_MAX {
            let Some((_, oldest)) = self.order.first_key_value() else {
                break;
            };
            let oldest = Arc::clone(oldest);
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, topic: &str) {
        if let Some(seen) = self.values.remove(topic) {
            self.order.remove(&seen.order);
            self.bytes -= cost(&seen.value);
        }
    }
}

fn cost(value: &RetainedValue) -> usize {
    let tags: usize = value
        .tags
        .iter()
        .map(|(name, text)| name.len() + text.len() + 48)
        .sum();
    value.payload.len() + value.topic.len() + tags + 160
}
