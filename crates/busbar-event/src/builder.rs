//! [`BatchBuilder`]: collects events into buffers that become a [`Batch`] without being copied.
//!
//! Nothing is allocated for an event: what it consists of is appended to buffers that are as
//! large as those of the batch before. Columns that no event has used yet cost one branch.

use std::hash::BuildHasher;
use std::sync::{Arc, OnceLock};

use arrow::array::{BinaryArray, Int32Array, StringArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use hashbrown::HashTable;

use crate::batch::Inner;
use crate::bits::Bits;
use crate::envelope::{Names, Tags};
use crate::limits::{BATCH_BYTES_MAX, BATCH_ROWS_MAX};
use crate::{Batch, Body, Flags, Micros};

/// One event to be added. `topic` and `client` are ids of the same builder and epoch.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// From [`BatchBuilder::topic_id`].
    pub topic: u32,
    /// What the event is ordered and partitioned by.
    pub key: Option<&'a str>,
    /// When it happened.
    pub time: Micros,
    /// From [`BatchBuilder::client_id`].
    pub client: Option<u32>,
    /// Quality of service, retain and the like.
    pub flags: Flags,
    /// Names and values beside the event.
    pub tags: &'a [(&'a str, &'a str)],
    /// What it says.
    pub payload: &'a [u8],
}

/// Collects events for one batch after another.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    epoch: u64,
    topics: Interner,
    clients: Interner,
    topic_keys: Vec<i32>,
    times: Vec<i64>,
    flags: Vec<u8>,
    payloads: Strings,
    keys: Option<Nullable<Strings>>,
    client_keys: Option<Nullable<Vec<i32>>>,
    tags: Option<TagColumns>,
}

impl BatchBuilder {
    /// A builder without events.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many events there are.
    pub fn rows(&self) -> usize {
        self.times.len()
    }

    /// Whether there is no event.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// About how many bytes the batch will have.
    pub fn bytes(&self) -> usize {
        let nullable = self.keys.as_ref().map_or(0, |keys| keys.values.bytes.len())
            + self
                .tags
                .as_ref()
                .map_or(0, |tags| tags.names.bytes.len() + tags.values.bytes.len());
        self.payloads.bytes.len() + self.topics.names.bytes.len() + nullable + 17 * self.times.len()
    }

    /// Whether the batch is to be sealed before the next event.
    pub fn is_full(&self) -> bool {
        self.rows() >= BATCH_ROWS_MAX || self.bytes() >= BATCH_BYTES_MAX
    }

    /// Changes at each [`BatchBuilder::finish`]; ids are good for as long as it does not.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The id of a topic, which is given one if it has none. It must have been
    /// [checked](crate::topic::check).
    #[inline]
    pub fn topic_id(&mut self, topic: &str) -> u32 {
        self.topics.id(topic)
    }

    /// The id of a publisher, which is given one if it has none.
    #[inline]
    pub fn client_id(&mut self, client: &str) -> u32 {
        self.clients.id(client)
    }

    /// Adds an event.
    ///
    /// # Panics
    /// If an id is not of this builder and epoch, or if the builder was not sealed long after it
    /// [was full](BatchBuilder::is_full) so that the batch would pass 2 GiB.
    #[inline]
    pub fn push(&mut self, row: Row<'_>) {
        assert!(
            (row.topic as usize) < self.topics.len(),
            "topic id of another epoch"
        );
        self.topic_keys.push(row.topic as i32);
        self.flags.push(row.flags.0);
        self.payloads.push(row.payload);
        let before = self.times.len();
        self.times.push(row.time);
        if row.key.is_some() || self.keys.is_some() {
            self.push_key(before, row.key);
        }
        if row.client.is_some() || self.client_keys.is_some() {
            self.push_client(before, row.client);
        }
        if !row.tags.is_empty() || self.tags.is_some() {
            self.push_tags(before, row.tags);
        }
    }

    fn push_key(&mut self, before: usize, key: Option<&str>) {
        let keys = self.keys.get_or_insert_with(|| {
            let mut keys: Nullable<Strings> = Nullable::all_null(before);
            keys.values.offsets.resize(before, 0);
            keys
        });
        keys.valid.push(key.is_some());
        keys.values.push(key.unwrap_or_default().as_bytes());
    }

    fn push_client(&mut self, before: usize, client: Option<u32>) {
        let clients = self.client_keys.get_or_insert_with(|| {
            let mut clients: Nullable<Vec<i32>> = Nullable::all_null(before);
            clients.values.resize(before, 0);
            clients
        });
        if let Some(client) = client {
            assert!(
                (client as usize) < self.clients.len(),
                "client id of another epoch"
            );
        }
        clients.valid.push(client.is_some());
        clients.values.push(client.unwrap_or(0) as i32);
    }

    fn push_tags(&mut self, before: usize, tags: &[(&str, &str)]) {
        let columns = self.tags.get_or_insert_with(|| TagColumns {
            ends: vec![0; before],
            ..TagColumns::default()
        });
        for (name, value) in tags {
            columns.names.push(name.as_bytes());
            columns.values.push(value.as_bytes());
        }
        columns.ends.push(columns.names.offsets.len() as i32);
    }

    /// Seals the batch. The builder begins another one with buffers of the same size; ids begin
    /// anew.
    pub fn finish(&mut self) -> Batch {
        self.epoch += 1;
        let keys = self.keys.take().map(|keys| {
            let nulls = keys.valid.into_nulls();
            keys.values.into_text(nulls)
        });
        let client_values = self.clients.take();
        let client = self.client_keys.take().map(|clients| Names {
            keys: Int32Array::new(
                ScalarBuffer::from(clients.values),
                clients.valid.into_nulls(),
            ),
            values: client_values,
        });
        let tags = self.tags.take().map(|tags| Tags {
            offsets: offsets(&tags.ends),
            nulls: None,
            names: tags.names.into_text(None),
            values: tags.values.into_text(None),
        });
        let payloads = self.payloads.take();
        let (payload_offsets, payload_bytes) = (offsets(&payloads.offsets), payloads.bytes);
        let payload = BinaryArray::new(payload_offsets, Buffer::from_vec(payload_bytes), None);
        Batch(Arc::new(Inner {
            topic_keys: ScalarBuffer::from(renew(&mut self.topic_keys)),
            topic_values: self.topics.take(),
            key: keys,
            time: ScalarBuffer::from(renew(&mut self.times)),
            tags,
            client,
            flags: ScalarBuffer::from(renew(&mut self.flags)),
            body: Body::Payload(payload),
            record: OnceLock::new(),
        }))
    }
}

/// Takes a vector's content and leaves one of as much capacity as was in use, so that the next
/// batch does not grow it step by step.
fn renew<T>(vector: &mut Vec<T>) -> Vec<T> {
    let next = Vec::with_capacity(vector.len());
    std::mem::replace(vector, next)
}

/// Ends of rows as Arrow's offsets, which begin with a zero.
fn offsets(ends: &[i32]) -> OffsetBuffer<i32> {
    let mut offsets = Vec::with_capacity(ends.len() + 1);
    offsets.push(0);
    offsets.extend_from_slice(ends);
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}

/// Byte strings end to end, with the end of each.
#[derive(Debug, Default)]
struct Strings {
    offsets: Vec<i32>,
    bytes: Vec<u8>,
}

impl Strings {
    #[inline]
    fn push(&mut self, value: &[u8]) {
        let end = self.bytes.len() + value.len();
        assert!(
            end <= i32::MAX as usize,
            "a batch was not sealed when it was full"
        );
        self.bytes.extend_from_slice(value);
        self.offsets.push(end as i32);
    }

    fn get(&self, index: usize) -> &[u8] {
        let from = if index == 0 {
            0
        } else {
            self.offsets[index - 1] as usize
        };
        &self.bytes[from..self.offsets[index] as usize]
    }

    fn take(&mut self) -> Strings {
        Strings {
            offsets: renew(&mut self.offsets),
            bytes: renew(&mut self.bytes),
        }
    }

    fn into_text(self, nulls: Option<NullBuffer>) -> StringArray {
        let bytes = Buffer::from_vec(self.bytes);
        // SAFETY: every value was pushed whole from a `&str`, so the values are UTF-8 and each
        // begins and ends at a character; the offsets are their ends in order, and `nulls` has one
        // bit a value.
        unsafe { StringArray::new_unchecked(offsets(&self.offsets), bytes, nulls) }
    }
}

/// A column of which some rows may have no value.
#[derive(Debug)]
struct Nullable<V> {
    values: V,
    valid: Bits,
}

impl<V: Default> Nullable<V> {
    fn all_null(rows: usize) -> Self {
        Nullable {
            values: V::default(),
            valid: Bits::repeat(false, rows),
        }
    }
}

#[derive(Debug, Default)]
struct TagColumns {
    ends: Vec<i32>,
    names: Strings,
    values: Strings,
}

/// Numbers distinct strings from 0. Remembers the last one asked for, since events of one topic
/// come in runs.
#[derive(Debug, Default)]
struct Interner {
    names: Strings,
    ids: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
    last: u32,
}

impl Interner {
    fn len(&self) -> usize {
        self.names.offsets.len()
    }

    #[inline]
    fn id(&mut self, name: &str) -> u32 {
        let name = name.as_bytes();
        if (self.last as usize) < self.len() && self.names.get(self.last as usize) == name {
            return self.last;
        }
        self.last = self.look_up(name);
        self.last
    }

    fn look_up(&mut self, name: &[u8]) -> u32 {
        let hash = self.hasher.hash_one(name);
        if let Some(id) = self
            .ids
            .find(hash, |id| self.names.get(*id as usize) == name)
        {
            return *id;
        }
        let id = self.len() as u32;
        self.names.push(name);
        let (names, hasher) = (&self.names, &self.hasher);
        self.ids
            .insert_unique(hash, id, |id| hasher.hash_one(names.get(*id as usize)));
        id
    }

    /// The strings in the order of their numbers; numbering begins anew.
    fn take(&mut self) -> StringArray {
        self.ids.clear();
        self.last = 0;
        self.names.take().into_text(None)
    }
}
