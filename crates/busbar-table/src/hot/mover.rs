//! Rows that leave a hot table for another one.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use busbar_event::{Class, Error};
use parking_lot::Mutex;

use super::journal::{Entry, EntryKind};
use super::{DueBatch, Hot, HotTable, state::DueRows};
use crate::columns::arrow_error;
use crate::limits::{MOVE_INTERVAL, MOVE_RETRY_MAX};
use crate::spec::HotOptions;
use crate::table::{Table, Write};

/// A thread that moves the rows of one hot table that are due to another table, until it is dropped.
///
/// A row is written to the other table before its deletion is journalled, so it is always in one of the two, for a
/// moment in both. While the other table fails, rows stay where they are.
pub(crate) struct Mover {
    from: Arc<dyn HotTable>,
    to: Arc<dyn Table>,
    /// Why rows cannot be moved at the moment.
    failure: Arc<Mutex<Option<Error>>>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Mover {
    pub fn start(from: Arc<dyn HotTable>, to: Arc<dyn Table>) -> Result<Self, Error> {
        let (stop, stopped) = mpsc::channel();
        let failure = Arc::new(Mutex::new(None));
        let run = {
            let (from, to, failure) = (Arc::clone(&from), Arc::clone(&to), Arc::clone(&failure));
            move || run(&*from, &*to, &failure, &stopped)
        };
        let thread = std::thread::Builder::new()
            .name("table-mover".to_owned())
            .spawn(run)
            .map_err(|cause| Error::new(Class::Transient, "table.mover").caused_by(cause))?;
        Ok(Self {
            from,
            to,
            failure,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Whether it moves rows of this table to that one.
    pub fn joins(&self, from: &Arc<dyn HotTable>, to: &Arc<dyn Table>) -> bool {
        Arc::ptr_eq(&self.from, from) && Arc::ptr_eq(&self.to, to)
    }

    /// Why rows cannot be moved at the moment.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().clone()
    }
}

fn run(
    from: &dyn HotTable,
    to: &dyn Table,
    failure: &Mutex<Option<Error>>,
    stopped: &mpsc::Receiver<()>,
) {
    let mut wait = MOVE_INTERVAL;
    loop {
        match stopped.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
        wait = match move_due(from, to) {
            Ok(taken) => {
                if failure.lock().take().is_some() {
                    tracing::info!(
                        table = from.name(),
                        target_table = to.name(),
                        "rows are moved again"
                    );
                }
                if taken == 0 {
                    MOVE_INTERVAL
                } else {
                    Duration::ZERO
                }
            }
            Err(error) => {
                let before = failure.lock().replace(error.clone());
                // The same failure is said once.
                if before.is_none_or(|before| before.code() != error.code()) {
                    tracing::warn!(
                        table = from.name(),
                        target_table = to.name(),
                        %error,
                        "rows could not be moved and stay in their table"
                    );
                }
                (wait.max(MOVE_INTERVAL) * 2).min(MOVE_RETRY_MAX)
            }
        };
    }
}

/// Moves rows that are due, as many as are moved at once; answers with how many were taken.
fn move_due(from: &dyn HotTable, to: &dyn Table) -> Result<usize, Error> {
    let Some(due) = from.due()? else {
        return Ok(0);
    };
    let rows = due.rows();
    to.evolve(rows.schema_ref())?;
    let written = to.write(&Write {
        rows,
        deletes: None,
        position: None,
    })?;
    let count = rows.num_rows();
    let mut is_rejected = vec![false; count];
    for rejected in &written.rejected {
        is_rejected[rejected.row] = true;
    }
    if let Some(first) = written.rejected.first() {
        tracing::warn!(
            table = from.name(),
            target_table = to.name(),
            rows = written.rejected.len(),
            error = %first.cause,
            "rows were rejected by the table they are to be moved to and stay in theirs"
        );
    }
    due.leave(&is_rejected)?;
    Ok(count)
}

impl Drop for Mover {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread that moves rows of a table ended by a panic");
        }
    }
}

/// Rows of a table in memory that are due.
struct DueHere<'a> {
    table: &'a Hot,
    due: DueRows,
    rows: RecordBatch,
}

impl DueBatch for DueHere<'_> {
    fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    fn leave(self: Box<Self>, is_rejected: &[bool]) -> Result<(), Error> {
        self.table.forget(&self.due, &self.rows, is_rejected)
    }
}

impl HotTable for Hot {
    fn due(&self) -> Result<Option<Box<dyn DueBatch + '_>>, Error> {
        Ok(self.take_due()?.map(|(due, rows)| {
            let table = self;
            Box::new(DueHere { table, due, rows }) as Box<dyn DueBatch>
        }))
    }
}

impl Hot {
    /// Whether rows wait to be moved that would be dropped if the table moved none any more and had these options.
    pub(crate) fn has_waiting(&self, options: &HotOptions) -> bool {
        let state = self.state.read();
        state.has_waiting(options, self.clock.now_micros())
    }

    /// Whether there are rows that are to be moved, now or later, but for those that the other table has rejected.
    pub(crate) fn has_rows_to_move(&self) -> bool {
        let state = self.state.read();
        state.is_moving && state.stats.rows > state.rejected()
    }

    fn take_due(&self) -> Result<Option<(DueRows, RecordBatch)>, Error> {
        let state = self.state.read();
        if !state.is_moving {
            return Ok(None);
        }
        let due = state.due(self.clock.now_micros(), state.is_nearly_full());
        if due.slots.is_empty() {
            return Ok(None);
        }
        let columns = 0..state.schema.fields().len();
        let arrays = columns
            .map(|column| state.gather(column, &due.slots))
            .collect();
        let rows = RecordBatch::try_new(Arc::clone(&state.schema), arrays).map_err(arrow_error)?;
        Ok(Some((due, rows)))
    }

    /// Removes rows that the other table has, but for those that were written meanwhile and those that it rejected.
    fn forget(&self, due: &DueRows, rows: &RecordBatch, is_rejected: &[bool]) -> Result<(), Error> {
        let _one = self.journal.as_ref().map(|journal| journal.writing.lock());
        let (gone, key) = {
            let mut state = self.state.write();
            for row in (0..is_rejected.len()).filter(|row| is_rejected[*row]) {
                state.reject(due, row);
            }
            let is_gone = |row: usize| !is_rejected[row] && state.is_unchanged(due, row);
            let gone: Vec<bool> = (0..is_rejected.len()).map(is_gone).collect();
            (gone, state.key.clone())
        };
        if !gone.contains(&true) {
            return Ok(());
        }
        if let Some(journal) = &self.journal {
            let keys = rows.project(&key).map_err(arrow_error)?;
            let keys = filter_record_batch(&keys, &BooleanArray::from(gone.clone()));
            let keys = keys.map_err(arrow_error)?;
            let deleted = keys.num_rows();
            let entry = Entry {
                rows: keys,
                deletes: Some(BooleanArray::from(vec![true; deleted])),
                times: vec![self.clock.now_micros(); deleted],
                kind: EntryKind::Moved,
                is_kept: true,
            };
            journal.append(&entry, None)?;
        }
        let mut state = self.state.write();
        for row in (0..gone.len()).filter(|row| gone[*row]) {
            // Without a journal a write may have come since.
            if state.is_unchanged(due, row) {
                state.remove_moved(due, row);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;
    use busbar_log::sim::SimDisk;
    use busbar_log::{Clock, Log, LogOptions, ManualClock};

    use super::*;
    use crate::spec::{Engine, TableSpec};
    use crate::table::Scan;

    const SPEC: &str = r#"{"hot": {"ttl": "10s", "moves_to": "r"}, "key": ["k"],
        "columns": [{"name": "k", "type": "text"}, {"name": "v", "type": "int"}]}"#;

    /// The table of a node that has begun; with its journal, if it has one.
    fn open(disk: &SimDisk, clock: &Arc<ManualClock>, has_journal: bool) -> (Hot, Log) {
        let (disk, folder) = (Arc::new(disk.clone()), Path::new("/data"));
        let log = Log::open(disk, folder, LogOptions::default(), Arc::clone(clock) as _);
        let log = log.expect("the log opens");
        let journal = log.partition("h", Hot::journal_options());
        let journal = has_journal.then(|| journal.expect("a journal"));
        let spec: TableSpec = serde_json::from_str(SPEC).expect("a spec");
        let Ok(Engine::Hot(options)) = spec.engine("h") else {
            panic!("a hot table");
        };
        let schema = spec.schema("h").expect("columns");
        let clock = Arc::clone(clock) as Arc<dyn Clock>;
        let table = Hot::new("h", &schema, &spec.key, options.clone(), clock, journal);
        let table = table.expect("the table opens");
        table.reconfigure(options).expect("it takes its options");
        (table, log)
    }

    fn put(table: &Hot, key: &str, value: i64) {
        let rows = RecordBatch::try_from_iter([
            ("k", Arc::new(StringArray::from(vec![key])) as ArrayRef),
            ("v", Arc::new(Int64Array::from(vec![value]))),
        ]);
        let rows = rows.expect("columns of one length");
        table.apply(&rows, None).expect("written");
    }

    fn all(table: &Hot) -> Vec<(String, i64)> {
        let mut found = Vec::new();
        for batch in table.scan(&Scan::default()).expect("a scan") {
            let batch = batch.expect("rows");
            let keys = batch.column(0).as_string::<i32>().iter().flatten();
            let values = batch.column(1).as_primitive::<Int64Type>().values();
            found.extend(keys.map(str::to_owned).zip(values.iter().copied()));
        }
        found
    }

    #[test]
    fn a_row_that_is_written_while_it_moves_stays() {
        for has_journal in [false, true] {
            let (disk, clock) = (SimDisk::new(1), Arc::new(ManualClock::new(0)));
            let (table, log) = open(&disk, &clock, has_journal);
            put(&table, "a", 1);
            put(&table, "b", 1);
            clock.set(11_000_000);
            let due = table.due().expect("an answer").expect("rows");
            assert_eq!(due.rows().num_rows(), 2);
            put(&table, "a", 2);
            due.leave(&[false, false]).expect("left");
            let stays = [("a".to_owned(), 2)];
            assert_eq!(all(&table), stays);
            assert_eq!(table.stats().expect("counted").moved, 1);
            assert!(table.due().expect("an answer").is_none());
            if has_journal {
                disk.kill();
                drop((table, log));
                let (table, _log) = open(&disk, &clock, true);
                assert_eq!(all(&table), stays);
            }
        }
    }
}
