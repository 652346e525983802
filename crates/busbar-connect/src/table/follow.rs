//! The changes of one of the node's tables, as they are made.
//!
//! A table has two parts. `read:NAME` is what was in it before its changes; its note says where these begin. `changes:NAME:…`
//! is one log of changes, whose positions are those of the source. A log that is another one, or that has a gap, begins with an
//! event that empties the table, and with what is in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::Array;
use busbar_connector::{
    ChangeLog, ChangesClaim, Polling, Position, Resume, SnapshotState, SnapshotStatus,
    SourceContext, Table, TableChange, TableRows,
};
use busbar_event::{ARRIVAL, Class, Error};
use busbar_log::Clock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::event::{EventAbout, RowEvents, pieces};
use super::limits::{FOLLOW_EVERY, READ_BYTES};
use super::source::{FollowEnd, FollowerThread, Handed};
use super::{NodeTables, TableFollow};
use crate::change::{Echoed, attempt};

/// What a follower and its source tell each other.
#[derive(Debug, Default)]
pub(super) struct FollowShared {
    /// The part of the log that is followed, and the position in it that is on the disk.
    kept: Mutex<(Arc<str>, u64)>,
    /// Rows that have not come yet.
    lag: AtomicU64,
    /// What is in the table is to come anew.
    anew: AtomicBool,
    snapshot: Mutex<Option<SnapshotStatus>>,
    /// Parts that are over.
    over: Mutex<Vec<Arc<str>>>,
}

impl FollowShared {
    pub fn note_kept(&self, part: &str, position: u64) {
        let mut kept = self.kept.lock();
        if *kept.0 == *part {
            kept.1 = kept.1.max(position);
        }
    }

    pub fn part(&self) -> Arc<str> {
        Arc::clone(&self.kept.lock().0)
    }

    pub fn lag(&self) -> u64 {
        self.lag.load(Ordering::Relaxed)
    }

    pub fn snapshot(&self) -> Option<SnapshotStatus> {
        self.snapshot.lock().clone()
    }

    pub fn take_anew(&self) {
        self.anew.store(true, Ordering::Relaxed);
    }

    pub fn take_over(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.over.lock())
    }
}

/// Where the changes of a table begin. Kept as JSON with the position of what was in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct FollowPlace {
    /// The log that is followed.
    identity: u64,
    /// The position in it where the changes begin.
    from: u64,
    /// What was in the table has come.
    read: bool,
}

/// Follows one table, on a thread of its own.
pub(super) struct Follower {
    name: String,
    tables: NodeTables,
    options: TableFollow,
    /// How the producers begin whose writes are left out.
    left_out: Vec<String>,
    topic: String,
    clock: Arc<dyn Clock>,
    resume: Resume,
    shared: Arc<FollowShared>,
    place: Option<FollowPlace>,
    /// The connection, and its right to follow the table.
    connection: Arc<str>,
    claim: Option<ChangesClaim>,
    /// The position behind the last batch of what was in the table.
    read: u64,
    /// The position behind the last change that was taken.
    behind: u64,
    /// Up to where the table was told that changes are not needed.
    forgotten: u64,
}

impl Follower {
    pub fn new(
        name: &str,
        tables: NodeTables,
        options: TableFollow,
        topic: String,
        context: &SourceContext,
    ) -> (Follower, Arc<FollowShared>) {
        let shared = Arc::new(FollowShared::default());
        let (clock, resume) = (Arc::clone(&context.clock), context.resume.clone());
        let left_out = options.without.iter();
        let part = read_part(name);
        let place: Option<FollowPlace> = serde_json::from_slice(resume.note(&part)).ok();
        let follower = Follower {
            left_out: left_out.map(|flow| format!("flow:{flow}:")).collect(),
            read: attempt(clock.now_micros(), resume.reached(&part)),
            behind: 0,
            forgotten: 0,
            name: name.to_owned(),
            connection: Arc::clone(&context.name),
            claim: None,
            tables,
            options,
            topic,
            clock,
            resume,
            shared: Arc::clone(&shared),
            place: None,
        };
        (Follower { place, ..follower }.resumed(), shared)
    }

    /// Goes on where it was.
    fn resumed(mut self) -> Follower {
        let known = self.place.clone();
        let current = known
            .as_ref()
            .map(|place| self.changes_part(place.identity));
        let prefix = format!("changes:{}:", self.name);
        let over = self.resume.positions.keys();
        let over = over
            .filter(|part| part.starts_with(&prefix) && current.as_deref() != Some(part.as_str()));
        *self.shared.over.lock() = over.map(|part| part.as_str().into()).collect();
        if let (Some(place), Some(part)) = (known, current) {
            self.behind = self.resume.position(&part).max(place.from);
            *self.shared.kept.lock() = (part, self.behind);
        }
        self
    }

    fn changes_part(&self, identity: u64) -> Arc<str> {
        format!("changes:{}:{identity}", self.name).into()
    }

    /// Begins with a log: what is in the table, behind an event that empties it where something had come before.
    fn begin(
        &mut self,
        table: &dyn Table,
        log: &dyn ChangeLog,
        identity: u64,
        to: &Handed,
    ) -> Result<(), FollowEnd> {
        let before = self.place.take();
        self.shared.anew.store(false, Ordering::Relaxed);
        let identity = match &before {
            // The table remembers that what is known of the log is not enough to go on.
            Some(before) if before.identity == identity => log.renew()?,
            _ => identity,
        };
        if let Some(before) = &before {
            let part = self.changes_part(before.identity);
            self.shared.over.lock().push(part);
        }
        let (from, rows) = log.picture()?;
        self.place = Some(FollowPlace {
            identity,
            from,
            read: !self.options.snapshot,
        });
        self.behind = from;
        // Positions of another log may be smaller.
        self.forgotten = 0;
        *self.shared.kept.lock() = (self.changes_part(identity), from);
        let mut events = self.events(table);
        if before.is_some() && self.options.snapshot {
            events.truncate(self.clock.now_micros());
        }
        self.hand_read(&mut events, to)?;
        match self.options.snapshot {
            true => self.read_rows(table, rows, to),
            false => Ok(()),
        }
    }

    fn events(&self, table: &dyn Table) -> RowEvents {
        RowEvents::new(self.topic.clone(), table.key().to_vec())
    }

    /// Hands on what is in the table.
    fn read_rows(
        &mut self,
        table: &dyn Table,
        rows: TableRows,
        to: &Handed,
    ) -> Result<(), FollowEnd> {
        let mut events = self.events(table);
        let mut status = SnapshotStatus {
            table: self.name.clone(),
            state: SnapshotState::Reading,
            rows: 0,
            expected: None,
            counted: None,
        };
        *self.shared.snapshot.lock() = Some(status.clone());
        let about = EventAbout {
            time: ARRIVAL,
            producer: None,
        };
        for batch in rows {
            for (_, piece) in pieces(&batch?) {
                let changes = vec!["read"; piece.num_rows()];
                events.rows(&piece, &changes, &about)?;
                status.rows += piece.num_rows() as u64;
                if events.is_full() {
                    self.hand_read(&mut events, to)?;
                    *self.shared.snapshot.lock() = Some(status.clone());
                }
            }
        }
        if let Some(place) = &mut self.place {
            place.read = true;
        }
        self.hand_read(&mut events, to)?;
        // It is one picture of the table, so that nothing is to be compared.
        status.state = SnapshotState::Equal;
        status.counted = Some(status.rows);
        *self.shared.snapshot.lock() = Some(status);
        Ok(())
    }

    fn hand_read(&mut self, events: &mut RowEvents, to: &Handed) -> Result<(), FollowEnd> {
        self.read += 1;
        to.hand(Polling {
            batch: events.take(),
            part: read_part(&self.name).into(),
            position: Position::End(self.read),
            note: serde_json::to_vec(&self.place).unwrap_or_default(),
        })
    }

    /// Hands on changes; whether there were any.
    fn follow(
        &mut self,
        table: &dyn Table,
        log: &dyn ChangeLog,
        to: &Handed,
    ) -> Result<bool, FollowEnd> {
        let read = match log.read(self.behind, READ_BYTES) {
            Ok(read) => read,
            Err(error) if error.code() == "table.changes-gap" => {
                tracing::warn!(table = %self.name, %error, "the table is read anew");
                self.shared.take_anew();
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        };
        if read.until <= self.behind {
            self.shared.lag.store(0, Ordering::Relaxed);
            return Ok(false);
        }
        let part = self.shared.part();
        let mut events = self.events(table);
        let mut positions = Vec::new();
        for change in &read.changes {
            self.change(change, &mut events, &mut positions)?;
            if events.is_full() {
                let position = Position::Rows(std::mem::take(&mut positions));
                let batch = events.take();
                to.hand(polling(batch, &part, position))?;
            }
        }
        let is_last = positions.last() == Some(&read.until);
        if !events.is_empty() {
            to.hand(polling(events.take(), &part, Position::Rows(positions)))?;
        }
        if !is_last {
            // What was left out lies behind the last row.
            to.hand(polling(events.take(), &part, Position::End(read.until)))?;
        }
        self.behind = read.until;
        let lag = log.end()?.saturating_sub(self.behind);
        self.shared.lag.store(lag, Ordering::Relaxed);
        Ok(true)
    }

    fn change(
        &self,
        change: &TableChange,
        events: &mut RowEvents,
        positions: &mut Vec<u64>,
    ) -> Result<(), Error> {
        let producer = change.producer.as_deref();
        let left_out = producer.filter(|producer| {
            self.left_out
                .iter()
                .any(|begins| producer.starts_with(begins))
        });
        let about = EventAbout {
            time: change.time,
            producer: left_out,
        };
        for (from, piece) in pieces(&change.rows) {
            let is_delete = |row: usize| {
                let deletes = change.deletes.as_ref();
                deletes.is_some_and(|deletes| deletes.is_valid(row) && deletes.value(row))
            };
            let said = |row: usize| match (is_delete(from + row), left_out, self.options.echo) {
                (true, None, _) => Some("delete"),
                (false, None, _) => Some("upsert"),
                (_, Some(_), Echoed::None) => None,
                (true, Some(_), _) => Some("delete"),
                (false, Some(_), Echoed::Deletes) => None,
                (false, Some(_), Echoed::Returned) => Some("returned"),
            };
            let said: Vec<Option<&str>> = (0..piece.num_rows()).map(said).collect();
            let keep = said.iter().map(|said| Some(said.is_some())).collect();
            let kept = super::event::only(&piece, &keep)?;
            for (row, said) in said.iter().enumerate() {
                if said.is_some() {
                    positions.push(change.begin + (from + row) as u64 + 1);
                }
            }
            let said: Vec<&str> = said.into_iter().flatten().collect();
            events.rows(&kept, &said, &about)?;
        }
        Ok(())
    }

    /// Tells the table which changes are not needed any more: one that is killed goes on behind them.
    fn forget(&mut self, log: &dyn ChangeLog) -> Result<(), Error> {
        let kept = self.shared.kept.lock().1;
        if kept > self.forgotten {
            log.forget(kept)?;
            self.forgotten = kept;
        }
        Ok(())
    }
}

impl FollowerThread for Follower {
    fn step(&mut self, to: &Handed) -> Result<Duration, FollowEnd> {
        if self.claim.is_none() {
            self.claim = Some(self.tables.0.claim_changes(&self.name, &self.connection)?);
        }
        let table = self.tables.get(&self.name)?;
        let log = table.changes().ok_or_else(|| {
            Error::new(Class::Configuration, "table.changes-off").with("table", &self.name)
        })?;
        // Without columns there is nothing yet.
        let Some(identity) = log.identity()? else {
            return Ok(FOLLOW_EVERY);
        };
        let is_anew = self.shared.anew.load(Ordering::Relaxed);
        match &self.place {
            Some(place) if place.identity == identity && !is_anew => {
                if !place.read {
                    let (_, rows) = log.picture()?;
                    self.read_rows(&*table, rows, to)?;
                }
            }
            _ => self.begin(&*table, log, identity, to)?,
        }
        self.forget(log)?;
        match self.follow(&*table, log, to)? {
            true => Ok(Duration::ZERO),
            false => Ok(FOLLOW_EVERY),
        }
    }
}

fn read_part(table: &str) -> String {
    format!("read:{table}")
}

fn polling(batch: busbar_event::Batch, part: &Arc<str>, position: Position) -> Polling {
    Polling {
        batch,
        part: Arc::clone(part),
        position,
        note: Vec::new(),
    }
}
