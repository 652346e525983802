//! A wide table whose cells another system keeps, and what is kept beside them.
//!
//! In the other system there is the table, with the families and the row keys of the file, and one more table, `busbar_state`:
//!
//! | row of `busbar_state` | cell of the family `s` | holds |
//! | --- | --- | --- |
//! | `<table>/l` | `l` | [`super::layout::StoredLayout`], JSON |
//! | `<table>/p/<producer>` | `h` | [`JournalHead`]: the producer's last position |
//! | | `r00000000`, … | the changes of that position, until they are made; then they are deleted |
//! | `<table>/c` | `c` | a time of writing, in milliseconds since 1970: at most [`WIDE_CLOCK_MS`] before the latest one |
//!
//! **All or nothing, and exactly once.** The other system changes one row at a time. So the changes of a write are first put
//! into one row of `busbar_state`, together with the position: that is the commit. Then they are made in the table, then the
//! row says that they are. Each change has its time in it, so making it twice does no harm: whoever finds a row with changes that
//! may not have been made makes them, before anything else is read or written. A change of one row without a position needs none
//! of this.
//!
//! **Conditions.** Such a system checks a cell of one row and changes that row. A call whose conditions fit and which changes other
//! rows, too, is refused: what others write between the check and the change would go unnoticed.
//!
//! **One writer.** A producer's row is only replaced if it is still what this process wrote or read last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use busbar_event::{Class, Error};
use busbar_log::Clock;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use super::kept_rows::{FamilyNames, mutations};
use super::outside::{
    CellBytes, CellFamily, CellGuard, CellMutation, CellRead, CellRow, CellStore, FamilyRead,
};
use super::redo::{JournalHead, read_redo, write_redo};
use crate::limits::{WIDE_CLOCK_MS, WIDE_REDO_BYTES_MAX, WIDE_REDO_CHUNK_BYTES};
use crate::spec::CellPlace;

const STATE_TABLE: &str = "busbar_state";
const STATE_FAMILY: &str = "s";
const HEAD: &[u8] = b"h";
const LAYOUT: &[u8] = b"l";
const CLOCK: &[u8] = b"c";

/// The cells of one table.
pub(super) struct KeptCells {
    pub name: String,
    place: CellPlace,
    /// `busbar_state`, in the namespace of the table.
    state_table: String,
    store: Arc<dyn CellStore>,
    clock: Arc<dyn Clock>,
    names: RwLock<FamilyNames>,
    state: Mutex<KeptState>,
    is_settled: AtomicBool,
}

#[derive(Default)]
struct KeptState {
    /// What the rows of the producers hold.
    heads: HashMap<String, JournalHead>,
    /// The latest time of writing so far, in milliseconds since 1970. It never goes back, or what is written after the clock was
    /// set back would count as older than what it replaces.
    latest_ms: i64,
    /// The time of writing that is kept.
    noted_ms: i64,
}

/// A commit that is collected.
#[derive(Default)]
pub(super) struct KeptCommit {
    /// Keys and values of fragments.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// The layout, if it changes.
    pub layout: Option<Vec<u8>>,
    /// The producer and its position.
    pub position: Option<(String, u64)>,
    /// The time of writing, in microseconds since 1970.
    pub written: i64,
    /// What must still be so in the other system, and the key of the row that it is about.
    pub guard: Option<(Vec<u8>, CellGuard)>,
}

impl KeptCells {
    pub fn new(
        name: &str,
        place: CellPlace,
        store: Arc<dyn CellStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let namespace = place.table.rsplit_once(':');
        Self {
            name: name.to_owned(),
            state_table: match namespace {
                Some((namespace, _)) => format!("{namespace}:{STATE_TABLE}"),
                None => STATE_TABLE.to_owned(),
            },
            place,
            store,
            clock,
            names: RwLock::new(Arc::from(Vec::new())),
            state: Mutex::default(),
            is_settled: AtomicBool::new(false),
        }
    }

    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Where the cells are, for people.
    pub fn shown(&self) -> String {
        format!("{}: {}", self.place.connection, self.place.table)
    }

    pub fn place(&self) -> &CellPlace {
        &self.place
    }

    pub fn names(&self) -> FamilyNames {
        Arc::clone(&self.names.read())
    }

    /// Takes the families by their numbers in keys.
    pub fn set_names(&self, names: &[String]) {
        *self.names.write() = names.iter().map(|name| name.as_str().into()).collect();
    }

    /// Whether everything that was committed is in the table, and what is known of it here holds.
    pub fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Acquire) && self.store.is_same()
    }

    /// It is settled anew before it is used again.
    pub fn unsettle(&self) {
        self.is_settled.store(false, Ordering::Release);
    }

    /// Sees to it that the tables are there, and makes all changes that were committed; what is kept of the layout.
    ///
    /// # Errors
    /// As [`CellStore::change`].
    pub fn settle(&self, families: &[CellFamily]) -> Result<Option<Vec<u8>>, Error> {
        let state = CellFamily {
            name: STATE_FAMILY.into(),
            versions: 1,
            ttl: None,
        };
        let (place, store) = (&self.place, &self.store);
        store.prepare(&self.state_table, &[state], place.create)?;
        store.prepare(&place.table, families, place.create)?;
        let from = format!("{}/", place.table);
        // What follows a slash.
        let to = format!("{}0", place.table);
        let rows = store.scan(&self.state_table, from.into(), to.into(), state_read())?;
        let mut known = KeptState {
            latest_ms: self.state.lock().latest_ms,
            ..KeptState::default()
        };
        let mut layout = None;
        for row in rows {
            for row in row? {
                if row.key == self.state_key("l") {
                    layout = cell_of(&row, LAYOUT).map(<[u8]>::to_vec);
                } else if row.key == self.state_key("c") {
                    let noted = cell_of(&row, CLOCK).and_then(|bytes| bytes.try_into().ok());
                    known.noted_ms = noted.map_or(0, i64::from_be_bytes);
                    known.latest_ms = known.latest_ms.max(known.noted_ms + WIDE_CLOCK_MS);
                } else {
                    self.recover(&row, &mut known)?;
                }
            }
        }
        *self.state.lock() = known;
        Ok(layout)
    }

    /// From now on it may be written.
    pub fn set_settled(&self) {
        self.is_settled.store(true, Ordering::Release);
    }

    /// Notes how far a producer has come, after its last changes have been made.
    fn recover(&self, row: &CellRow, known: &mut KeptState) -> Result<(), Error> {
        let prefix = self.state_key("p/");
        let producer = row.key.strip_prefix(prefix.as_slice());
        let producer = producer.and_then(|name| std::str::from_utf8(name).ok());
        let Some(producer) = producer else {
            return Ok(());
        };
        let damaged =
            || Error::new(Class::Configuration, "table.wide-state").with("table", &self.name);
        let head = cell_of(row, HEAD).and_then(JournalHead::read);
        let mut head = head.ok_or_else(damaged)?;
        if head.chunks > 0 {
            let mut redo = Vec::new();
            for chunk in 0..head.chunks {
                let part = cell_of(row, &chunk_name(chunk)).ok_or_else(damaged)?;
                redo.extend_from_slice(part);
            }
            let changes = read_redo(&redo).ok_or_else(damaged)?;
            tracing::info!(table = %self.name, producer, rows = changes.len(), "changes that were committed are made");
            self.store.change(&self.place.table, changes)?;
            head = self.done(producer, head)?;
        }
        known.latest_ms = known.latest_ms.max(head.time_ms + 1);
        known.heads.insert(producer.to_owned(), head);
        Ok(())
    }

    fn state_key(&self, rest: &str) -> Vec<u8> {
        format!("{}/{rest}", self.place.table).into_bytes()
    }

    /// The last position of a producer.
    pub fn position(&self, producer: &str) -> Option<u64> {
        let state = self.state.lock();
        state.heads.get(producer).map(|head| head.position)
    }

    /// The time of the next commit, in microseconds since 1970: a whole millisecond, later than that of every one before.
    pub fn next_time(&self) -> i64 {
        let now = self.clock.now_micros().div_euclid(1_000);
        now.max(self.state.lock().latest_ms + 1) * 1_000
    }

    /// Whether a family that the table has had was written.
    ///
    /// # Errors
    /// As [`CellStore::get`].
    pub fn has_rows(&self) -> Result<bool, Error> {
        let names = self.names();
        let families = names.iter().map(|name| FamilyRead {
            name: Arc::clone(name),
            qualifiers: Some(vec![Box::default()]),
        });
        let read = CellRead {
            families: families.collect(),
            versions: 1,
        };
        if read.families.is_empty() {
            return Ok(false);
        }
        for rows in self.scan(Vec::new(), Vec::new(), read)? {
            if !rows?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Rows by their keys.
    ///
    /// # Errors
    /// As [`CellStore::get`].
    pub fn get(&self, keys: Vec<Vec<u8>>, read: CellRead) -> Result<Vec<CellRow>, Error> {
        self.store.get(&self.place.table, keys, read)
    }

    /// Rows in a range of keys.
    ///
    /// # Errors
    /// As [`CellStore::get`].
    pub fn scan(
        &self,
        from: Vec<u8>,
        to: Vec<u8>,
        read: CellRead,
    ) -> Result<super::outside::CellRows, Error> {
        self.store.scan(&self.place.table, from, to, read)
    }

    /// Makes the changes of a commit; false if its guard did not fit. Callers call one after another.
    ///
    /// # Errors
    /// As [`CellStore::change`]. What then has been committed shows when the table is settled again.
    pub fn commit(&self, commit: KeptCommit) -> Result<bool, Error> {
        if !self.is_settled() {
            return Err(self.unknown());
        }
        if let Some(layout) = commit.layout {
            let time_ms = self.next_time() / 1_000;
            // One that follows has no earlier time, also after a restart with a clock that was set back; with the same time it
            // takes the place of this one.
            self.note_time(time_ms - 1)?;
            let row = CellMutation {
                key: self.state_key("l"),
                deleted: Vec::new(),
                cells: vec![state_cell(LAYOUT.to_vec(), time_ms, layout)],
            };
            self.store.change(&self.state_table, vec![row])?;
        }
        let (mut rows, latest) = mutations(&commit.entries, &self.names(), commit.written)?;
        if rows.is_empty() && commit.position.is_none() {
            return Ok(true);
        }
        let is_one = commit.position.is_none() && rows.len() == 1;
        // What says that the changes of a journal have been made is later than they are.
        self.note_time(if is_one { latest } else { latest + 1 })?;
        match (commit.position, commit.guard) {
            (None, Some((key, guard))) if rows.len() == 1 && rows[0].key == key => {
                let table = &self.place.table;
                self.store.change_if(table, guard, rows.swap_remove(0))
            }
            (None, Some(_)) => Err(Error::new(Class::Permanent, "table.wide-guards")
                .with("table", &self.name)
                .with("connection", &self.place.connection)),
            (None, None) if rows.len() == 1 => {
                self.store.change(&self.place.table, rows).map(|()| true)
            }
            (position, _) => {
                let (producer, position) = position.unwrap_or_default();
                self.journal(&producer, position, rows, latest)?;
                Ok(true)
            }
        }
    }

    /// Keeps the time of writing, if the one that is kept is too far behind.
    fn note_time(&self, time_ms: i64) -> Result<(), Error> {
        let mut state = self.state.lock();
        state.latest_ms = state.latest_ms.max(time_ms);
        if time_ms > state.noted_ms + WIDE_CLOCK_MS {
            let row = CellMutation {
                key: self.state_key("c"),
                deleted: Vec::new(),
                cells: vec![state_cell(
                    CLOCK.to_vec(),
                    time_ms,
                    time_ms.to_be_bytes().to_vec(),
                )],
            };
            self.store.change(&self.state_table, vec![row])?;
            state.noted_ms = time_ms;
        }
        Ok(())
    }

    /// Commits changes with a position, and makes them.
    fn journal(
        &self,
        producer: &str,
        position: u64,
        rows: Vec<CellMutation>,
        time_ms: i64,
    ) -> Result<(), Error> {
        let redo = write_redo(&rows);
        if redo.len() > WIDE_REDO_BYTES_MAX {
            return Err(Error::new(Class::Permanent, "table.wide-commit-bytes")
                .with("table", &self.name)
                .with("most", WIDE_REDO_BYTES_MAX));
        }
        let chunks: Vec<&[u8]> = redo.chunks(WIDE_REDO_CHUNK_BYTES).collect();
        let head = JournalHead {
            position,
            time_ms,
            chunks: chunks.len() as u32,
        };
        let cells = chunks
            .iter()
            .enumerate()
            .map(|(number, chunk)| state_cell(chunk_name(number as u32), time_ms, chunk.to_vec()));
        let row = CellMutation {
            key: self.state_key(&format!("p/{producer}")),
            deleted: Vec::new(),
            cells: cells
                .chain([state_cell(HEAD.to_vec(), time_ms, head.to_bytes())])
                .collect(),
        };
        // Whoever reads meanwhile must not take the changes for those of a commit that was left unfinished: the table counts
        // as settled until something fails.
        let done = self.make(producer, head, row, rows).inspect_err(|_| {
            // It is not known here what the other system has.
            self.unsettle();
        })?;
        self.state.lock().heads.insert(producer.to_owned(), done);
        Ok(())
    }

    /// Puts changes into the row of a producer, makes them, and notes that they have been made.
    fn make(
        &self,
        producer: &str,
        head: JournalHead,
        row: CellMutation,
        rows: Vec<CellMutation>,
    ) -> Result<JournalHead, Error> {
        let before = self.state.lock().heads.get(producer).copied();
        let guard = head_guard(before);
        if !self.store.change_if(&self.state_table, guard, row)? {
            return Err(self.unknown());
        }
        self.store.change(&self.place.table, rows)?;
        self.done(producer, head)
    }

    /// Notes that the changes of a position have been made, and deletes them.
    fn done(&self, producer: &str, head: JournalHead) -> Result<JournalHead, Error> {
        let done = JournalHead { chunks: 0, ..head };
        let row = CellMutation {
            key: self.state_key(&format!("p/{producer}")),
            deleted: vec![(STATE_FAMILY.into(), head.time_ms)],
            cells: vec![state_cell(HEAD.to_vec(), head.time_ms + 1, done.to_bytes())],
        };
        match self
            .store
            .change_if(&self.state_table, head_guard(Some(head)), row)?
        {
            true => Ok(done),
            false => Err(self.unknown()),
        }
    }

    fn unknown(&self) -> Error {
        Error::new(Class::Transient, "table.wide-unsettled")
            .with("table", &self.name)
            .with("connection", &self.place.connection)
    }
}

fn chunk_name(number: u32) -> Vec<u8> {
    format!("r{number:08x}").into_bytes()
}

fn state_cell(qualifier: Vec<u8>, time_ms: i64, value: Vec<u8>) -> CellBytes {
    CellBytes {
        family: STATE_FAMILY.into(),
        qualifier,
        time_ms,
        value,
    }
}

fn head_guard(head: Option<JournalHead>) -> CellGuard {
    CellGuard {
        family: STATE_FAMILY.into(),
        qualifier: HEAD.to_vec(),
        value: head.map(JournalHead::to_bytes),
    }
}

fn state_read() -> CellRead {
    CellRead {
        families: vec![FamilyRead {
            name: STATE_FAMILY.into(),
            qualifiers: None,
        }],
        versions: 1,
    }
}

fn cell_of<'a>(row: &'a CellRow, qualifier: &[u8]) -> Option<&'a [u8]> {
    let cell = row.cells.iter().find(|cell| cell.qualifier == qualifier);
    cell.map(|cell| cell.value.as_slice())
}
