//! The state of one task: what is committed, and snapshots that wait to be.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use busbar_event::{Class, Error};
use bytes::Bytes;
use parking_lot::Mutex;

use super::copy::Copies;
use super::pending::{PendingChanges, Snapshot};
use super::{Checkpoint, FjallStore, StateStore};
use crate::limits::{STATE_COPY_EVERY, STATE_COPY_SHARE, STATE_REMOVE_KEYS};
use crate::operator::{Changes, ROWS_HELD, StateChange, StateReader, Visit, rows_held};

const CHECKPOINT: &[u8] = b"c";
const CUT: &[u8] = b"k/";
const MEANING: &[u8] = b"m/";
/// The code of state that is not as it was written.
const DAMAGED: &str = "flow.state-damaged";
const LOST: &str = "flow.state-lost";

/// The state of all tasks.
pub(crate) struct States {
    store: Arc<dyn StateStore>,
    copies: Option<Arc<Copies>>,
    /// For each task the number of its last holder.
    holders: Mutex<HashMap<String, Arc<Mutex<u64>>>>,
    /// Where the database that was put aside is, if it could not be opened.
    aside: Option<PathBuf>,
    /// Names that those of tasks begin with which are computed again: that their state is lost does not matter any more.
    forgiven: Mutex<BTreeSet<String>>,
}

/// What there is of a task's state.
#[derive(Debug, Default)]
pub(crate) struct FoundState {
    pub checkpoint: Option<Checkpoint>,
    /// Why the copy is to be taken up, if it is: the state itself cannot be.
    pub copy: Option<Error>,
}

impl States {
    /// State without copies.
    pub fn new(store: Arc<dyn StateStore>) -> States {
        States {
            store,
            copies: None,
            holders: Mutex::default(),
            aside: None,
            forgiven: Mutex::default(),
        }
    }

    /// State in a folder, with copies in another one beside it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(folder: &Path) -> Result<States, Error> {
        let (store, aside) = FjallStore::open_or_replace(folder)?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let copies = folder.with_file_name(format!("{name}-copies"));
        Ok(States {
            copies: Some(Arc::new(Copies::new(&copies))),
            aside,
            ..States::new(Arc::new(store))
        })
    }

    /// The name under which the store has the state of a task.
    fn place(&self, task: &str) -> String {
        let turn = self.copies.as_ref().map_or(0, |copies| copies.turn(task));
        place(task, turn)
    }

    /// Tasks whose names begin with `prefix` begin anew where their state cannot be read.
    pub fn forgive(&self, prefix: &str) {
        self.forgiven.lock().insert(prefix.to_owned());
    }

    /// What there is of a task's state, whoever holds it, as [`States::look`] says. A task that is computed again has none
    /// where it cannot be read.
    pub fn find(&self, task: &str) -> Result<FoundState, Error> {
        let forgiven = || {
            let forgiven = self.forgiven.lock();
            forgiven.iter().any(|prefix| task.starts_with(prefix))
        };
        match (self.look(task), &self.copies) {
            (Err(error), Some(copies)) if matches!(error.code(), DAMAGED | LOST) && forgiven() => {
                copies.set_turn(task, copies.turn(task) + 1)?;
                Ok(FoundState::default())
            }
            (found, _) => found,
        }
    }

    /// What there is of a task's state, whoever holds it. Where the store's is damaged, gone or older than the copy, it is
    /// the copy. May block on the disk.
    ///
    /// # Errors
    /// What the disk says; `flow.state-damaged` when there is no copy that can be read either; `flow.state-lost`.
    fn look(&self, task: &str) -> Result<FoundState, Error> {
        let stored = checkpoint(&*self.store, &self.place(task));
        let copied = match &self.copies {
            Some(copies) => copies.checkpoint(task),
            None => Ok(None),
        };
        let copied = copied.unwrap_or_else(|error| {
            tracing::warn!(task, %error, "the copy of a task's state cannot be read");
            None
        });
        let cause = match (&stored, &copied) {
            (Ok(Some(stored)), Some(copied))
                if stored.generation == copied.generation
                    && stored.sequence() < copied.sequence() =>
            {
                Error::new(Class::Permanent, "flow.state-short")
            }
            (Ok(None), Some(_)) => Error::new(Class::Permanent, "flow.state-gone"),
            (Ok(None), None) if self.aside.is_some() => {
                return Err(self.lost(task));
            }
            (Err(error), Some(_)) if error.code() == DAMAGED => error.clone(),
            (Err(error), None) if error.code() == DAMAGED => {
                return Err(self.lost(task).caused_by(error.clone()));
            }
            _ => {
                return Ok(FoundState {
                    checkpoint: stored?,
                    copy: None,
                });
            }
        };
        Ok(FoundState {
            checkpoint: copied,
            copy: Some(cause),
        })
    }

    /// Neither the state of a task nor a copy of it can be read.
    pub fn lost(&self, task: &str) -> Error {
        Error::new(Class::Configuration, LOST).with("task", task)
    }

    /// Puts the copy of a task's state in the place of the state, for its next holder. May block on the disk.
    ///
    /// # Errors
    /// `flow.state-lost` when there is no copy that can be read; what the disk says.
    pub fn go_back(&self, task: &str) -> Result<Arc<TaskState>, Error> {
        let Some(copies) = &self.copies else {
            return Err(self.lost(task));
        };
        let (turn, before) = (copies.turn(task) + 1, self.place(task));
        let place = place(task, turn);
        let mut changes: Vec<StateChange> = Vec::new();
        let read = copies.read(task, &mut |key, value| {
            changes.push((Bytes::copy_from_slice(key), Some(value)));
            if changes.len() >= STATE_REMOVE_KEYS {
                self.store.commit(&place, std::mem::take(&mut changes))?;
            }
            Ok(())
        });
        match read {
            Ok(true) => {}
            Ok(false) => return Err(self.lost(task)),
            Err(error) if error.code() == DAMAGED => {
                return Err(self.lost(task).caused_by(error));
            }
            Err(error) => return Err(error),
        }
        // Where input is to be cut is noted since the copy too, as far as it can be read.
        let noted = self.store.scan(&before, CUT, &mut |key, value| {
            changes.push((Bytes::copy_from_slice(key), Some(value)));
            Ok(())
        });
        if let Err(error) = noted {
            tracing::warn!(task, %error, "places where input is cut cannot be read");
        }
        self.store.commit(&place, changes)?;
        copies.set_turn(task, turn)?;
        Ok(self.task(task))
    }

    /// The sequence number before which no state of a task needs input any more: that of its copy. None while there is no
    /// copy. May block on the disk.
    pub fn needed_from(&self, task: &str) -> Result<Option<Checkpoint>, Error> {
        match &self.copies {
            Some(copies) => copies.checkpoint(task),
            None => checkpoint(&*self.store, &self.place(task)),
        }
    }

    /// Removes the state and the copies of all tasks whose names begin with `prefix`. May block on the disk.
    ///
    /// # Errors
    /// What the disk says.
    pub fn remove(&self, prefix: &str) -> Result<(), Error> {
        self.store.remove(prefix)?;
        match &self.copies {
            Some(copies) => copies.remove(prefix),
            None => Ok(()),
        }
    }

    /// The state of a task, for its next holder. What the holder before still tries to commit is refused from now on.
    /// May block on the disk.
    pub fn task(&self, task: &str) -> Arc<TaskState> {
        let holder = Arc::clone(self.holders.lock().entry(task.to_owned()).or_default());
        let number = {
            let mut holder = holder.lock();
            *holder += 1;
            *holder
        };
        let copied = self.needed_from(task).ok().flatten();
        Arc::new(TaskState {
            store: Arc::clone(&self.store),
            place: self.place(task),
            task: task.to_owned(),
            copies: self.copies.clone(),
            copying: Mutex::new(Copying {
                due: Instant::now(),
                under_way: false,
                sequence: copied.map_or(0, |copied| copied.sequence()),
            }),
            holder,
            number,
            pending: PendingChanges::default(),
            cuts: Mutex::default(),
        })
    }

    /// How many rows an operator of a task holds that would come out later. May block on the disk.
    ///
    /// # Errors
    /// What the disk says.
    pub fn rows_held(&self, task: &str, operator: &str, copy: bool) -> Result<u64, Error> {
        let wanted = [&operator_key(operator)[..], ROWS_HELD].concat();
        let Some(copies) = self.copies.as_ref().filter(|_| copy) else {
            let said = self.store.get(&self.place(task), &wanted)?;
            return Ok(said.map_or(0, |said| rows_held(&said)));
        };
        let mut held = 0;
        copies.read(task, &mut |key, value| {
            if *key == *wanted {
                held = rows_held(&value);
            }
            Ok(())
        })?;
        Ok(held)
    }

    /// The operators of a task that have state, and what it means. May block on the disk.
    pub fn meanings(&self, task: &str, copy: bool) -> Result<BTreeMap<String, String>, Error> {
        let Some(copies) = self.copies.as_ref().filter(|_| copy) else {
            return meanings(&*self.store, &self.place(task));
        };
        let mut meanings = BTreeMap::new();
        copies.read(task, &mut |key, value| {
            if let Some(name) = key.strip_prefix(MEANING) {
                meanings.insert(text(name), text(&value));
            }
            Ok(())
        })?;
        Ok(meanings)
    }
}

fn place(task: &str, turn: u64) -> String {
    match turn {
        0 => task.to_owned(),
        // No name of a task has this character.
        turn => format!("{task}~{turn}"),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn checkpoint(store: &dyn StateStore, task: &str) -> Result<Option<Checkpoint>, Error> {
    let Some(text) = store.get(task, CHECKPOINT)? else {
        return Ok(None);
    };
    let checkpoint = serde_json::from_slice(&text);
    checkpoint
        .map(Some)
        .map_err(|error| Error::new(Class::Permanent, DAMAGED).caused_by(error))
}

fn meanings(store: &dyn StateStore, task: &str) -> Result<BTreeMap<String, String>, Error> {
    let mut meanings = BTreeMap::new();
    store.scan(task, MEANING, &mut |key, value| {
        meanings.insert(text(&key[MEANING.len()..]), text(&value));
        Ok(())
    })?;
    Ok(meanings)
}

/// The state of one task. Readers see every snapshot that was taken, whether it is committed yet or not.
pub(crate) struct TaskState {
    store: Arc<dyn StateStore>,
    /// The name under which the store has it.
    place: String,
    task: String,
    copies: Option<Arc<Copies>>,
    copying: Mutex<Copying>,
    /// The number of the task's last holder, and that of this one. Held while something is committed.
    holder: Arc<Mutex<u64>>,
    number: u64,
    pending: PendingChanges,
    /// Where input must be cut, as far as it is noted.
    cuts: Mutex<BTreeSet<u64>>,
}

/// When the state of a task is copied.
struct Copying {
    /// Not before.
    due: Instant,
    under_way: bool,
    /// The sequence number of the last copy.
    sequence: u64,
}

impl TaskState {
    /// The last checkpoint; none if there is no state of this task.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, Error> {
        checkpoint(&*self.store, &self.place)
    }

    /// Whether it is time for a copy. Whoever is told so makes it.
    pub fn copy_due(&self) -> bool {
        let mut copying = self.copying.lock();
        let due = self.copies.is_some() && !copying.under_way && Instant::now() >= copying.due;
        copying.under_way |= due;
        due
    }

    /// Copies what is committed, unless another holder has taken over. May block on the disk.
    ///
    /// # Errors
    /// What the disk says; the copy before is still there then.
    pub fn copy(&self) -> Result<(), Error> {
        let Some(copies) = &self.copies else {
            return Ok(());
        };
        let begun = Instant::now();
        let keep = || *self.holder.lock() == self.number;
        let written = copies.write(&self.task, &*self.store, &self.place, keep);
        let copied = written.and_then(|()| copies.checkpoint(&self.task));
        let mut copying = self.copying.lock();
        copying.under_way = false;
        copying.due = Instant::now() + STATE_COPY_EVERY.max(begun.elapsed() * STATE_COPY_SHARE);
        copying.sequence = copied?.map_or(0, |copied| copied.sequence());
        Ok(())
    }

    fn write(&self, changes: Vec<StateChange>) -> Result<(), Error> {
        let holder = self.holder.lock();
        if *holder != self.number {
            return Err(Error::new(Class::Permanent, "flow.state-taken").with("task", &self.task));
        }
        self.store.commit(&self.place, changes)
    }

    /// Begins anew from a checkpoint, with state of those operators only whose meaning is as it was.
    pub fn begin(
        &self,
        checkpoint: &Checkpoint,
        present: &BTreeMap<String, String>,
        keep: bool,
    ) -> Result<(), Error> {
        let mut changes: Vec<StateChange> = Vec::new();
        let known = meanings(&*self.store, &self.place)?;
        for (name, was) in &known {
            if !keep || present.get(name) != Some(was) {
                let prefix = operator_key(name);
                self.store.scan(&self.place, &prefix, &mut |key, _| {
                    changes.push((Bytes::copy_from_slice(key), None));
                    Ok(())
                })?;
                changes.push((meaning_key(name), None));
            }
        }
        for (name, meaning) in present {
            if !keep || known.get(name) != Some(meaning) {
                changes.push((meaning_key(name), Some(meaning.clone().into())));
            }
        }
        changes.push((Bytes::from_static(CHECKPOINT), Some(encode(checkpoint))));
        self.write(changes)
    }

    /// The state of one operator.
    pub fn reader(self: &Arc<Self>, operator: &str) -> Arc<dyn StateReader> {
        Arc::new(OperatorState {
            task: Arc::clone(self),
            prefix: operator_key(operator),
        })
    }

    /// What is to take up the changes of an operator.
    pub fn changes(&self, operator: &str) -> Changes {
        Changes::under(operator_key(operator))
    }

    /// Takes up what operators have changed. It can be read from now on.
    pub fn snapshot(&self, changed: Vec<Changes>) -> Snapshot {
        self.pending.take(changed)
    }

    /// Commits a snapshot, with those before it that could not be, and the position it belongs to.
    pub fn commit(&self, snapshot: &Snapshot, checkpoint: &Checkpoint) -> Result<(), Error> {
        let mut changes = self.pending.until(snapshot)?;
        changes.push((Bytes::from_static(CHECKPOINT), Some(encode(checkpoint))));
        // Cuts before the position have served, and those behind the copy are needed when the task goes back to it.
        let mut cuts = self.cuts.lock().clone();
        let needed = match &self.copies {
            Some(_) => self.copying.lock().sequence.min(checkpoint.sequence()),
            None => checkpoint.sequence(),
        };
        let ahead = cuts.split_off(&(needed + 1));
        changes.extend(cuts.iter().map(|cut| (cut_key(*cut), None)));
        self.write(changes)?;
        self.cuts
            .lock()
            .retain(|cut| ahead.contains(cut) || !cuts.contains(cut));
        self.pending.done(snapshot);
        Ok(())
    }

    /// Notes that input must be cut at these sequence numbers when it is read again.
    pub fn cut(&self, cuts: &[u64]) -> Result<(), Error> {
        let changes = cuts.iter().map(|cut| (cut_key(*cut), Some(Bytes::new())));
        self.write(changes.collect())?;
        self.cuts.lock().extend(cuts);
        Ok(())
    }

    /// Where input must be cut.
    pub fn cuts(&self) -> Result<BTreeSet<u64>, Error> {
        let mut cuts = BTreeSet::new();
        self.store.scan(&self.place, CUT, &mut |key, _| {
            if let Ok(cut) = <[u8; 8]>::try_from(&key[CUT.len()..]) {
                cuts.insert(u64::from_be_bytes(cut));
            }
            Ok(())
        })?;
        *self.cuts.lock() = cuts.clone();
        Ok(cuts)
    }
}

fn cut_key(cut: u64) -> Bytes {
    [CUT, &cut.to_be_bytes()].concat().into()
}

fn encode(checkpoint: &Checkpoint) -> Bytes {
    // Numbers and names: it cannot fail, and an empty value would be read as damaged.
    serde_json::to_vec(checkpoint).unwrap_or_default().into()
}

fn operator_key(operator: &str) -> Vec<u8> {
    format!("o/{operator}/").into_bytes()
}

fn meaning_key(operator: &str) -> Bytes {
    format!("m/{operator}").into()
}

struct OperatorState {
    task: Arc<TaskState>,
    prefix: Vec<u8>,
}

impl StateReader for OperatorState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let key = [&self.prefix[..], key].concat();
        match self.task.pending.get(&key)? {
            Some(value) => Ok(value),
            None => self.task.store.get(&self.task.place, &key),
        }
    }

    fn scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let prefix = [&self.prefix[..], prefix].concat();
        let skip = self.prefix.len();
        let waiting = self.task.pending.range(&prefix)?;
        // Both are in the order of keys; what waits goes over what is committed.
        let mut waiting = waiting.into_iter().peekable();
        self.task
            .store
            .scan(&self.task.place, &prefix, &mut |key, value| {
                while let Some((newer, replaced)) = waiting.next_if(|(newer, _)| newer[..] < *key) {
                    if let Some(value) = replaced {
                        visit(&newer[skip..], value)?;
                    }
                }
                match waiting.next_if(|(newer, _)| newer[..] == *key) {
                    Some((_, Some(value))) => visit(&key[skip..], value),
                    Some((_, None)) => Ok(()),
                    None => visit(&key[skip..], value),
                }
            })?;
        for (key, value) in waiting {
            if let Some(value) = value {
                visit(&key[skip..], value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::MemoryStore;

    fn put(state: &TaskState, pairs: &[(&str, Option<&'static str>)]) -> Vec<Changes> {
        let mut changes = state.changes("w");
        for (key, value) in pairs {
            match value {
                // Small values are copied, large ones made later.
                Some("1") => changes.put(key.as_bytes(), b"1"),
                Some(value) => {
                    let value = Bytes::from_static(value.as_bytes());
                    changes.put_made(key.as_bytes(), || Ok(value));
                }
                None => changes.delete(&[key.as_bytes()]),
            }
        }
        vec![changes]
    }

    fn all(state: &Arc<TaskState>, operator: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let reader = state.reader(operator);
        reader
            .scan(b"", &mut |key, value| {
                assert_eq!(reader.get(key).unwrap(), Some(value.clone()));
                found.push((text(key), text(&value)));
                Ok(())
            })
            .unwrap();
        found
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn at(position: u64) -> Checkpoint {
        Checkpoint {
            position,
            ..Checkpoint::default()
        }
    }

    fn on(store: impl Fn() -> Arc<dyn StateStore>) {
        let meanings = BTreeMap::from([("w".to_owned(), "sum".to_owned())]);
        let states = States::new(store());
        let state = states.task("f/in/0");
        assert_eq!(state.checkpoint().unwrap(), None);
        state.begin(&at(0), &meanings, false).unwrap();
        let first = state.snapshot(put(&state, &[("a", Some("1")), ("c", Some("3"))]));
        // It can be read before it is committed, and is not there after a crash.
        assert_eq!(all(&state, "w"), pairs(&[("a", "1"), ("c", "3")]));
        assert_eq!(all(&state, "v"), []);
        assert_eq!(all(&states.task("f/in/0"), "w"), []);
        // The holder before cannot write any more.
        let error = state.commit(&first, &at(10)).unwrap_err();
        assert_eq!(error.code(), "flow.state-taken");
        drop(state);
        let state = states.task("f/in/0");
        let first = state.snapshot(put(&state, &[("a", Some("1")), ("c", Some("3"))]));
        state.commit(&first, &at(10)).unwrap();
        // A snapshot that was not committed goes with the next one.
        let _lost = state.snapshot(put(&state, &[("b", Some("2")), ("c", None)]));
        let last = state.snapshot(put(&state, &[("a", Some("9"))]));
        let now = pairs(&[("a", "9"), ("b", "2")]);
        assert_eq!(all(&state, "w"), now);
        state.cut(&[15, 25]).unwrap();
        state.commit(&last, &at(20)).unwrap();
        drop((state, states));
        let states = States::new(store());
        let state = states.task("f/in/0");
        assert_eq!(all(&state, "w"), now);
        assert_eq!(state.checkpoint().unwrap(), Some(at(20)));
        // Cuts that have served are gone.
        assert_eq!(state.cuts().unwrap(), BTreeSet::from([25]));
        // State of the same meaning stays, of another one goes.
        state.begin(&at(20), &meanings, true).unwrap();
        assert_eq!(all(&state, "w"), now);
        let other = BTreeMap::from([("w".to_owned(), "max".to_owned())]);
        state.begin(&at(20), &other, true).unwrap();
        assert_eq!(all(&state, "w"), []);
        assert_eq!(states.meanings("f/in/0", false).unwrap(), other);
        assert_eq!(states.find("f/in/1").unwrap().checkpoint, None);
    }

    #[test]
    fn state_in_memory_is_what_snapshots_say() {
        let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
        on(|| Arc::clone(&store));
    }

    #[test]
    fn state_on_disk_is_what_snapshots_say() {
        let folder = tempfile::tempdir().unwrap();
        on(|| Arc::new(FjallStore::open(folder.path()).unwrap()));
    }

    #[test]
    fn a_damaged_checkpoint_is_told() {
        let store = MemoryStore::default();
        let damaged = vec![(
            Bytes::from_static(CHECKPOINT),
            Some(Bytes::from_static(b"{")),
        )];
        store.commit("f/in/0", damaged).unwrap();
        let states = States::new(Arc::new(store));
        let error = states.find("f/in/0").unwrap_err();
        assert_eq!(error.code(), "flow.state-lost");
    }
}
