//! A system that keeps cells, in memory, with the rules of HBase.

use std::collections::BTreeMap;

use busbar_event::{Class, Error};
use busbar_table::wide::{
    CellBytes, CellFamily, CellGuard, CellMutation, CellRead, CellRow, CellRows, CellStore,
};
use parking_lot::Mutex;

#[derive(Default)]
pub struct MemoryCells {
    tables: Mutex<BTreeMap<String, Stored>>,
    failing: Mutex<Failing>,
    /// A table, and what is called before its rows are changed the next time.
    before_change: Mutex<Option<(String, Call)>>,
}

type Call = Box<dyn FnOnce() + Send>;

/// The call that fails, from 0 on, of those that change something, and how many of its rows are changed before.
#[derive(Default)]
struct Failing {
    at: Option<(usize, usize)>,
    calls: usize,
    has_failed: bool,
}

#[derive(Default)]
struct Stored {
    families: BTreeMap<String, u32>,
    rows: BTreeMap<Vec<u8>, StoredRow>,
}

#[derive(Default)]
struct StoredRow {
    /// By family and qualifier, then by time. A cell of the same time is replaced.
    cells: BTreeMap<(String, Vec<u8>), BTreeMap<i64, Vec<u8>>>,
    /// Families that are deleted up to a time: what is put later with an earlier time is hidden, too.
    deleted: BTreeMap<String, i64>,
}

fn lost() -> Error {
    Error::new(Class::Transient, "database.stopped")
}

impl MemoryCells {
    /// Lets a call fail after so many of its rows have been changed.
    pub fn fail_at(&self, call: usize, done: usize) {
        *self.failing.lock() = Failing {
            at: Some((call, done)),
            ..Failing::default()
        };
    }

    /// Calls something before rows of a table are changed the next time.
    pub fn before_next_change(&self, table: &str, call: impl FnOnce() + Send + 'static) {
        *self.before_change.lock() = Some((table.to_owned(), Box::new(call)));
    }

    /// Whether that was called.
    pub fn has_called(&self) -> bool {
        self.before_change.lock().is_none()
    }

    pub fn has_failed(&self) -> bool {
        self.failing.lock().has_failed
    }

    /// How many rows of this call are changed before it fails; none if it does not.
    fn fails(&self) -> Option<usize> {
        let mut failing = self.failing.lock();
        let call = failing.calls;
        failing.calls += 1;
        let (_, done) = failing.at.filter(|(at, _)| *at == call)?;
        failing.has_failed = true;
        Some(done)
    }
}

impl StoredRow {
    fn change(&mut self, row: &CellMutation) {
        for (family, time) in &row.deleted {
            let until = self.deleted.entry(family.to_string()).or_insert(i64::MIN);
            *until = (*until).max(*time);
        }
        for cell in &row.cells {
            let place = (cell.family.to_string(), cell.qualifier.clone());
            let versions = self.cells.entry(place).or_default();
            versions.insert(cell.time_ms, cell.value.clone());
        }
    }

    /// Cells that are not deleted, the newest version of each first.
    fn read(&self, key: &[u8], read: &CellRead, families: &BTreeMap<String, u32>) -> CellRow {
        let mut cells = Vec::new();
        for family in &read.families {
            let name = family.name.to_string();
            let kept = families.get(&name).expect("the family is there");
            let deleted = self.deleted.get(&name).copied().unwrap_or(i64::MIN);
            let of_family = self.cells.iter().filter(|((its, qualifier), _)| {
                let wanted = family.qualifiers.as_ref();
                *its == name
                    && wanted.is_none_or(|wanted| wanted.iter().any(|one| **one == **qualifier))
            });
            for ((_, qualifier), versions) in of_family {
                let live = versions.iter().rev().filter(|(time, _)| **time > deleted);
                let most = read.versions.min(*kept) as usize;
                cells.extend(live.take(most).map(|(time, value)| CellBytes {
                    family: family.name.clone(),
                    qualifier: qualifier.clone(),
                    time_ms: *time,
                    value: value.clone(),
                }));
            }
        }
        CellRow {
            key: key.to_vec(),
            cells,
        }
    }
}

impl CellStore for MemoryCells {
    fn prepare(&self, table: &str, families: &[CellFamily], create: bool) -> Result<(), Error> {
        let fails = self.fails();
        if fails == Some(0) {
            return Err(lost());
        }
        let mut tables = self.tables.lock();
        if !create && !tables.contains_key(table) {
            return Err(Error::new(Class::Configuration, "table.wide-state"));
        }
        let stored = tables.entry(table.to_owned()).or_default();
        for family in families {
            stored
                .families
                .insert(family.name.to_string(), family.versions);
        }
        fails.map_or(Ok(()), |_| Err(lost()))
    }

    fn is_same(&self) -> bool {
        true
    }

    fn get(&self, table: &str, keys: Vec<Vec<u8>>, read: CellRead) -> Result<Vec<CellRow>, Error> {
        let tables = self.tables.lock();
        let table = &tables[table];
        let row = |key: Vec<u8>| match table.rows.get(&key) {
            Some(row) => row.read(&key, &read, &table.families),
            None => CellRow {
                key,
                cells: Vec::new(),
            },
        };
        Ok(keys.into_iter().map(row).collect())
    }

    fn scan(
        &self,
        table: &str,
        from: Vec<u8>,
        to: Vec<u8>,
        read: CellRead,
    ) -> Result<CellRows, Error> {
        let tables = self.tables.lock();
        let table = &tables[table];
        let rows = table.rows.range(from..);
        let rows = rows.take_while(|(key, _)| to.is_empty() || **key < to);
        let rows = rows.map(|(key, row)| row.read(key, &read, &table.families));
        let rows: Vec<CellRow> = rows.filter(|row| !row.cells.is_empty()).collect();
        let pieces: Vec<Vec<CellRow>> = rows.chunks(3).map(<[CellRow]>::to_vec).collect();
        Ok(Box::new(pieces.into_iter().map(Ok)))
    }

    fn change(&self, table: &str, rows: Vec<CellMutation>) -> Result<(), Error> {
        let before = self
            .before_change
            .lock()
            .take_if(|before| before.0 == table);
        if let Some((_, call)) = before {
            call();
        }
        let fails = self.fails();
        let mut tables = self.tables.lock();
        let table = tables.get_mut(table).expect("the table is there");
        for row in rows.iter().take(fails.unwrap_or(usize::MAX)) {
            table.rows.entry(row.key.clone()).or_default().change(row);
        }
        fails.map_or(Ok(()), |_| Err(lost()))
    }

    fn change_if(&self, table: &str, guard: CellGuard, row: CellMutation) -> Result<bool, Error> {
        let fails = self.fails();
        if fails == Some(0) {
            return Err(lost());
        }
        let mut tables = self.tables.lock();
        let stored = tables.get_mut(table).expect("the table is there");
        let its = stored.rows.entry(row.key.clone()).or_default();
        let place = (guard.family.to_string(), guard.qualifier);
        let deleted = its.deleted.get(&place.0).copied().unwrap_or(i64::MIN);
        let newest = its
            .cells
            .get(&place)
            .and_then(|cells| cells.last_key_value());
        let newest = newest.filter(|(time, _)| **time > deleted);
        let fits = newest.map(|(_, value)| value.clone()) == guard.value;
        if fits {
            its.change(&row);
        }
        fails.map_or(Ok(fits), |_| Err(lost()))
    }
}
