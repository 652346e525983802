//! Where instances are kept, and under which keys.
//!
//! | key | value |
//! | --- | --- |
//! | `i`, orchestration, 0, business key | the instance |
//! | `h`, orchestration, 0, business key, 0, number | a record of its history |
//! | `o`, orchestration, 0, business key | nothing: it has not ended |
//! | `t`, orchestration, 0, time it began counted down, business key | nothing: for lists, the newest first |
//! | `e`, time at which it is forgotten, orchestration, 0, business key | nothing |
//! | `v`, orchestration, 0, number | a version of the orchestration |
//! | `p`, name of a reader | its position, or the time that a schedule was last due |
//! | `w`, orchestration, 0, part, 0, value of `by` | an event that came before anybody waited for it |
//!
//! Numbers and times are 8 bytes, the most significant first. Names hold no 0, and neither do business keys.

use std::collections::BTreeMap;
use std::ops::Bound;

use busbar_event::{Class, Error};
use parking_lot::RwLock;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::instance::{HistoryRecord, Instance, InstanceStatus};
use crate::limits::{INSTANCE_BYTES_MAX, LIST_MAX, LIST_SCAN_MAX};

/// A change of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChange {
    /// Sets the value of a key.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key.
    Remove(Vec<u8>),
}

/// Gets keys and values, and answers whether to go on.
pub type Look<'a> = dyn FnMut(&[u8], &[u8]) -> bool + 'a;

/// A durable ordered map.
pub trait InstanceStore: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// What the disk says.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// Visits the pairs whose keys begin with `prefix` and are greater than `after`, in order.
    ///
    /// # Errors
    /// What the disk says.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, look: &mut Look<'_>) -> Result<(), Error>;

    /// Makes all changes or none; they are durable when this returns.
    ///
    /// # Errors
    /// What the disk says.
    fn commit(&self, changes: &[StoreChange]) -> Result<(), Error>;
}

/// Keeps instances in memory, for tests.
#[derive(Default)]
pub struct HeapStore(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>);

impl InstanceStore for HeapStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.read().get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, look: &mut Look<'_>) -> Result<(), Error> {
        let from = match after {
            Some(after) => Bound::Excluded(after.to_vec()),
            None => Bound::Included(prefix.to_vec()),
        };
        let map = self.0.read().clone();
        for (key, value) in map.range((from, Bound::Unbounded)) {
            if !key.starts_with(prefix) || !look(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn commit(&self, changes: &[StoreChange]) -> Result<(), Error> {
        let mut map = self.0.write();
        for change in changes {
            match change {
                StoreChange::Put(key, value) => drop(map.insert(key.clone(), value.clone())),
                StoreChange::Remove(key) => drop(map.remove(key)),
            }
        }
        Ok(())
    }
}

/// Which instances of an orchestration a list has.
#[derive(Clone, Debug, Default)]
pub struct InstanceFilter {
    /// Only those that are at this.
    pub status: Option<InstanceStatus>,
    /// Only those whose business key begins with this.
    pub key: Option<String>,
    /// Those behind this place in the list, as [`list`] gave it.
    pub after: Option<Vec<u8>>,
    /// So many at most.
    pub limit: usize,
}

/// The newest instances first, and the place to go on from if there are more.
///
/// # Errors
/// What the disk says.
pub(crate) fn list(
    store: &dyn InstanceStore,
    name: &str,
    filter: &InstanceFilter,
) -> Result<(Vec<Instance>, Option<Vec<u8>>), Error> {
    let prefix = begun_prefix(name);
    let (mut found, mut scanned, mut next) = (Vec::new(), 0, None);
    let limit = filter.limit.clamp(1, LIST_MAX);
    let mut failed = None;
    store.scan(&prefix, filter.after.as_deref(), &mut |place, _| {
        if found.len() >= limit || scanned >= LIST_SCAN_MAX {
            return false;
        }
        scanned += 1;
        next = Some(place.to_vec());
        let key = String::from_utf8_lossy(&place[prefix.len() + 8..]).into_owned();
        if filter
            .key
            .as_ref()
            .is_some_and(|wanted| !key.starts_with(wanted.as_str()))
        {
            return true;
        }
        match read::<Instance>(store, &instance_key(name, &key)) {
            Ok(Some(instance)) => {
                if filter.status.is_none_or(|status| status == instance.status) {
                    found.push(instance);
                }
                true
            }
            Ok(None) => true,
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    })?;
    match failed {
        Some(error) => Err(error),
        None => {
            let is_full = found.len() >= limit || scanned >= LIST_SCAN_MAX;
            Ok((found, next.filter(|_| is_full)))
        }
    }
}

/// The history of an instance, from a record on.
///
/// # Errors
/// What the disk says.
pub(crate) fn history(
    store: &dyn InstanceStore,
    (name, key): (&str, &str),
    from: u64,
    limit: usize,
) -> Result<Vec<HistoryRecord>, Error> {
    let prefix = history_prefix(name, key);
    let after = from
        .checked_sub(1)
        .map(|before| history_key(name, key, before));
    let mut records = Vec::new();
    let mut failed = None;
    store.scan(&prefix, after.as_deref(), &mut |_, value| {
        match parse(value) {
            Ok(record) => records.push(record),
            Err(error) => failed = Some(error),
        }
        failed.is_none() && records.len() < limit
    })?;
    failed.map_or(Ok(records), Err)
}

pub(crate) fn read<T: DeserializeOwned>(
    store: &dyn InstanceStore,
    key: &[u8],
) -> Result<Option<T>, Error> {
    store.get(key)?.map(|value| parse(&value)).transpose()
}

pub(crate) fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T, Error> {
    let damaged = || Error::new(Class::Permanent, "orchestrate.damaged");
    serde_json::from_slice(value).map_err(|_| damaged())
}

pub(crate) fn write(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|_| Error::new(Class::Permanent, "orchestrate.damaged"))
}

/// Why an instance of so many bytes begins nothing new; none for one that may.
pub(crate) fn too_large(bytes: usize) -> Option<Error> {
    (bytes > INSTANCE_BYTES_MAX).then(|| {
        Error::new(Class::Permanent, "orchestrate.instance-large")
            .with("bytes", bytes)
            .with("most", INSTANCE_BYTES_MAX)
    })
}

fn of(kind: u8, name: &str, rest: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(name.as_bytes());
    key.push(0);
    rest.iter().for_each(|part| key.extend_from_slice(part));
    key
}

pub(crate) fn instance_key(name: &str, key: &str) -> Vec<u8> {
    of(b'i', name, &[key.as_bytes()])
}

pub(crate) fn history_prefix(name: &str, key: &str) -> Vec<u8> {
    of(b'h', name, &[key.as_bytes(), &[0]])
}

pub(crate) fn history_key(name: &str, key: &str, number: u64) -> Vec<u8> {
    of(b'h', name, &[key.as_bytes(), &[0], &number.to_be_bytes()])
}

pub(crate) const OPEN: &[u8] = b"o";

pub(crate) fn open_key(name: &str, key: &str) -> Vec<u8> {
    of(b'o', name, &[key.as_bytes()])
}

/// Orchestration and business key of a key of kind `i` or `o`.
pub(crate) fn name_and_key(key: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(key.get(1..)?).ok()?;
    let (name, key) = text.split_once('\0')?;
    Some((name.to_owned(), key.to_owned()))
}

pub(crate) fn begun_prefix(name: &str) -> Vec<u8> {
    of(b't', name, &[])
}

pub(crate) fn begun_key(name: &str, key: &str, started: i64) -> Vec<u8> {
    let down = u64::MAX - started.max(0) as u64;
    of(b't', name, &[&down.to_be_bytes(), key.as_bytes()])
}

pub(crate) const FORGET: &[u8] = b"e";

pub(crate) fn forget_key(at: i64, name: &str, key: &str) -> Vec<u8> {
    let mut whole = FORGET.to_vec();
    whole.extend_from_slice(&at.max(0).to_be_bytes());
    whole.extend_from_slice(&of(b'i', name, &[key.as_bytes()])[1..]);
    whole
}

/// The time, orchestration and business key of a key of kind `e`.
pub(crate) fn forgotten(key: &[u8]) -> Option<(i64, String, String)> {
    let at = i64::from_be_bytes(key.get(1..9)?.try_into().ok()?);
    let (name, key) = name_and_key(key.get(8..)?)?;
    Some((at, name, key))
}

pub(crate) fn version_prefix(name: &str) -> Vec<u8> {
    of(b'v', name, &[])
}

pub(crate) fn version_key(name: &str, number: u64) -> Vec<u8> {
    of(b'v', name, &[&number.to_be_bytes()])
}

pub(crate) fn position_key(reader: &str) -> Vec<u8> {
    let mut key = b"p".to_vec();
    key.extend_from_slice(reader.as_bytes());
    key
}

pub(crate) const EARLY: &[u8] = b"w";

pub(crate) fn early_key(name: &str, part: &str, value: &str) -> Vec<u8> {
    of(b'w', name, &[part.as_bytes(), &[0], value.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_can_be_read_again() {
        let key = forget_key(77, "orders", "订单/1");
        assert_eq!(
            forgotten(&key),
            Some((77, "orders".into(), "订单/1".into()))
        );
        let open = open_key("orders", "a b");
        assert_eq!(name_and_key(&open), Some(("orders".into(), "a b".into())));
        // The newest first.
        assert!(begun_key("o", "a", 2) < begun_key("o", "a", 1));
    }
}
