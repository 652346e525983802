//! Snapshots that were taken and are not committed yet.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use busbar_event::Error;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::operator::{Changes, StateChange};

/// A snapshot of a task's operators.
#[derive(Debug)]
pub(crate) struct Snapshot {
    number: u64,
    /// Number of keys that it changes.
    pub changes: usize,
}

/// The changes of snapshots that wait to be committed, in the order in which they were taken.
#[derive(Default)]
pub(super) struct PendingChanges(Mutex<SnapshotList>);

#[derive(Default)]
struct SnapshotList {
    /// Snapshots that were taken.
    count: u64,
    waiting: Vec<(u64, Arc<Ordered>)>,
}

/// The changes of one snapshot in the order of their keys, each key once. They are put in order by the one who needs them
/// first, which is the thread that commits them, and not that of the task.
type Ordered = LazyLock<Result<Vec<StateChange>, Error>, Order>;

type Order = Box<dyn FnOnce() -> Result<Vec<StateChange>, Error> + Send>;

impl PendingChanges {
    /// Takes up what operators have changed.
    pub fn take(&self, changed: Vec<Changes>) -> Snapshot {
        let changes = changed.iter().map(Changes::len).sum();
        let order: Order = Box::new(move || {
            let mut all = Vec::with_capacity(changes);
            for changes in changed {
                all.extend(changes.resolve()?);
            }
            Ok(ordered(all))
        });
        let mut taken = self.0.lock();
        taken.count += 1;
        let number = taken.count;
        let ordered = Arc::new(LazyLock::new(order));
        taken.waiting.push((number, ordered));
        Snapshot { number, changes }
    }

    /// What a snapshot and those before it have changed, each key once.
    ///
    /// # Errors
    /// When a value cannot be written, which its type decides.
    pub fn until(&self, snapshot: &Snapshot) -> Result<Vec<StateChange>, Error> {
        let waiting = self.waiting();
        let mut older = waiting
            .iter()
            .filter(|(number, _)| *number <= snapshot.number);
        let mut changes = match older.next() {
            Some((_, first)) => changes(first)?.to_vec(),
            None => return Ok(Vec::new()),
        };
        let one = changes.len();
        for (_, next) in older {
            changes.extend_from_slice(self::changes(next)?);
        }
        Ok(match changes.len() == one {
            true => changes,
            false => ordered(changes),
        })
    }

    /// A snapshot and those before it are committed.
    pub fn done(&self, snapshot: &Snapshot) {
        let mut taken = self.0.lock();
        taken
            .waiting
            .retain(|(number, _)| *number > snapshot.number);
    }

    /// What the last snapshot that has the key says of it: its value, or none where it is removed.
    pub fn get(&self, key: &[u8]) -> Result<Option<Option<Bytes>>, Error> {
        for (_, snapshot) in self.waiting().iter().rev() {
            let changes = changes(snapshot)?;
            if let Ok(place) = changes.binary_search_by(|(known, _)| known[..].cmp(key)) {
                return Ok(Some(changes[place].1.clone()));
            }
        }
        Ok(None)
    }

    /// What snapshots say of the keys that begin with `prefix`.
    pub fn range(&self, prefix: &[u8]) -> Result<BTreeMap<Bytes, Option<Bytes>>, Error> {
        let mut found = BTreeMap::new();
        for (_, snapshot) in self.waiting() {
            let changes = changes(&snapshot)?;
            let begin = changes.partition_point(|(key, _)| &key[..] < prefix);
            let within = changes[begin..].iter();
            found.extend(
                within
                    .take_while(|(key, _)| key.starts_with(prefix))
                    .cloned(),
            );
        }
        Ok(found)
    }

    fn waiting(&self) -> Vec<(u64, Arc<Ordered>)> {
        self.0.lock().waiting.clone()
    }
}

fn changes(snapshot: &Ordered) -> Result<&[StateChange], Error> {
    match &**snapshot {
        Ok(changes) => Ok(changes),
        Err(error) => Err(error.clone()),
    }
}

/// Changes by key; of several of one key the last one.
fn ordered(mut changes: Vec<StateChange>) -> Vec<StateChange> {
    // Stable: changes of one key stay in their order.
    changes.sort_by(|(a, _), (b, _)| a.cmp(b));
    changes.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 = next.1.take();
        }
        same
    });
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_changes_of_a_key_the_last_one_counts() {
        let pending = PendingChanges::default();
        let mut first = Changes::under(b"o/".to_vec());
        first.delete(&[b"b"]);
        first.put(b"b", b"1");
        first.put_made(b"a", || Ok(Bytes::from_static(b"2")));
        first.delete(&[b"a"]);
        let first = pending.take(vec![first]);
        let shown = |changes: Vec<StateChange>| -> Vec<String> {
            let shown = changes
                .iter()
                .map(|(key, value)| format!("{key:?}={value:?}"));
            shown.collect()
        };
        assert_eq!(
            shown(pending.until(&first).unwrap()),
            [r#"b"o/a"=None"#, r#"b"o/b"=Some(b"1")"#]
        );
        let mut second = Changes::under(b"o/".to_vec());
        second.put(b"a", b"3");
        let second = pending.take(vec![second]);
        assert_eq!(
            shown(pending.until(&second).unwrap()),
            [r#"b"o/a"=Some(b"3")"#, r#"b"o/b"=Some(b"1")"#]
        );
        assert_eq!(
            pending.get(b"o/a").unwrap(),
            Some(Some(Bytes::from_static(b"3")))
        );
        pending.done(&first);
        assert_eq!(pending.get(b"o/b").unwrap(), None);
        assert_eq!(
            shown(pending.until(&second).unwrap()),
            [r#"b"o/a"=Some(b"3")"#]
        );
    }

    #[test]
    fn a_value_that_cannot_be_written_fails_the_commit() {
        use busbar_event::Class;
        let pending = PendingChanges::default();
        let mut changes = Changes::default();
        changes.put_made(b"a", || {
            Err(Error::new(Class::Permanent, "flow.state-encode"))
        });
        let snapshot = pending.take(vec![changes]);
        let error = pending.until(&snapshot).unwrap_err();
        assert_eq!(error.code(), "flow.state-encode");
    }
}
