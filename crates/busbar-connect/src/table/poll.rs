//! Rows of a table whose version is greater than it was, looked for at intervals.
//!
//! Each look reads the rows whose version is not less than the greatest one of the look before. Those that had it then are
//! remembered, so that they do not come again. How far a look has come is noted at its end: one that is interrupted begins again.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use busbar_connector::{
    ColumnType, Compare, Condition, Constant, Polling, Position, Resume, Scan, Table,
};
use busbar_event::{ARRIVAL, Class, Error};
use busbar_log::Clock;
use serde::{Deserialize, Serialize};

use super::event::{EventAbout, RowEvents, only, pieces};
use super::limits::TIES_MAX;
use super::source::{FollowEnd, FollowerThread, Handed};
use super::{NodeTables, VersionedTable};
use crate::change::attempt;

/// Looks at one table, on a thread of its own.
pub(super) struct Poller {
    name: String,
    version: String,
    tables: NodeTables,
    topic: String,
    every: Duration,
    part: Arc<str>,
    position: u64,
    place: VersionPlace,
    due: Instant,
}

/// How far a table has come. Kept as JSON with the position.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct VersionPlace {
    /// The greatest version that has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<RowVersion>,
    /// Hashes of the rows that have it, where they are not too many for a note.
    #[serde(skip)]
    ties: HashSet<u64>,
}

/// The version of a row.
#[derive(Clone, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RowVersion {
    Int(i64),
    Float(f64),
    Text(String),
    Time(i64),
}

impl RowVersion {
    fn constant(&self) -> Constant {
        match self {
            RowVersion::Int(value) => Constant::Int(*value),
            RowVersion::Float(value) => Constant::Float(*value),
            RowVersion::Text(value) => Constant::Text(value.clone()),
            RowVersion::Time(value) => Constant::Time(*value),
        }
    }
}

impl Poller {
    pub fn new(
        table: &VersionedTable,
        tables: NodeTables,
        topic: String,
        every: Duration,
        clock: &dyn Clock,
        resume: &Resume,
    ) -> Poller {
        let part: Arc<str> = format!("poll:{}", table.table).into();
        Poller {
            name: table.table.clone(),
            version: table.version.clone(),
            tables,
            topic,
            every,
            position: attempt(clock.now_micros(), resume.reached(&part)),
            place: serde_json::from_slice(resume.note(&part)).unwrap_or_default(),
            part,
            due: Instant::now(),
        }
    }

    fn look(&mut self, table: &dyn Table, to: &Handed) -> Result<(), FollowEnd> {
        let schema = table.schema();
        let Some((column, field)) = schema.column_with_name(&self.version) else {
            // A table without columns has no rows either.
            return match schema.fields().is_empty() {
                true => Ok(()),
                false => Err(self.unfit().into()),
            };
        };
        let kind = ColumnType::of(field).ok_or_else(|| self.unfit())?;
        if table.key().is_empty() || !grows(kind) {
            return Err(self.unfit().into());
        }
        let condition = self.place.last.as_ref().map(|last| Condition {
            column,
            compare: Compare::GreaterOrEqual,
            constant: last.constant(),
        });
        let scan = Scan {
            conditions: condition.into_iter().collect(),
            ..Scan::default()
        };
        let said = match self.place.last {
            None => "read",
            Some(_) => "upsert",
        };
        let about = EventAbout {
            time: ARRIVAL,
            producer: None,
        };
        let mut events = RowEvents::new(self.topic.clone(), table.key().to_vec());
        let mut next = VersionPlace {
            last: self.place.last.clone(),
            ties: HashSet::new(),
        };
        let mut any = false;
        for batch in table.scan(&scan)? {
            for (_, piece) in pieces(&batch?) {
                let keep = self.news(&piece, column, kind, &mut next)?;
                let kept = only(&piece, &keep.into())?;
                any |= kept.num_rows() > 0;
                let changes = vec![said; kept.num_rows()];
                events.rows(&kept, &changes, &about)?;
                if events.is_full() {
                    self.hand(&mut events, to)?;
                }
            }
        }
        if any {
            self.place = next;
            self.hand(&mut events, to)?;
        }
        Ok(())
    }

    /// Which rows have not come yet, and what is known of the greatest version behind them.
    fn news(
        &self,
        rows: &RecordBatch,
        column: usize,
        kind: ColumnType,
        next: &mut VersionPlace,
    ) -> Result<Vec<bool>, Error> {
        let versions = rows.column(column);
        let mut keep = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let Some(version) = version(versions, kind, row) else {
                // It says nothing of when it was changed: it comes with what is in the table, and then with no look.
                keep.push(self.place.last.is_none());
                continue;
            };
            if self.place.last.as_ref().is_some_and(|last| version < *last) {
                keep.push(false);
                continue;
            }
            let hash = hash(rows, row);
            let is_tie = self.place.last.as_ref() == Some(&version);
            keep.push(!(is_tie && self.place.ties.contains(&hash)));
            if next.last.as_ref().is_none_or(|last| *last < version) {
                next.last = Some(version);
                next.ties.clear();
                next.ties.insert(hash);
            } else if next.last.as_ref() == Some(&version) && next.ties.len() < TIES_MAX {
                next.ties.insert(hash);
            }
        }
        Ok(keep)
    }

    fn hand(&mut self, events: &mut RowEvents, to: &Handed) -> Result<(), FollowEnd> {
        self.position += 1;
        to.hand(Polling {
            batch: events.take(),
            part: Arc::clone(&self.part),
            position: Position::End(self.position),
            note: serde_json::to_vec(&self.place).unwrap_or_default(),
        })
    }

    fn unfit(&self) -> Error {
        Error::new(Class::Configuration, "table.poll-version")
            .with("table", &self.name)
            .with("column", &self.version)
    }
}

impl FollowerThread for Poller {
    fn step(&mut self, to: &Handed) -> Result<Duration, FollowEnd> {
        let table = self.tables.get(&self.name)?;
        self.look(&*table, to)?;
        self.due += self.every;
        let now = Instant::now();
        // One that took long does not catch up.
        self.due = self.due.max(now);
        Ok(self.due - now)
    }
}

fn grows(kind: ColumnType) -> bool {
    matches!(
        kind,
        ColumnType::Int | ColumnType::Float | ColumnType::Text | ColumnType::Time
    )
}

fn version(column: &dyn Array, kind: ColumnType, row: usize) -> Option<RowVersion> {
    if column.is_null(row) {
        return None;
    }
    Some(match kind {
        ColumnType::Int => RowVersion::Int(column.as_primitive_opt::<Int64Type>()?.value(row)),
        ColumnType::Float => {
            RowVersion::Float(column.as_primitive_opt::<Float64Type>()?.value(row))
        }
        ColumnType::Text => RowVersion::Text(column.as_string_opt::<i32>()?.value(row).to_owned()),
        ColumnType::Time => RowVersion::Time(
            column
                .as_primitive_opt::<TimestampMicrosecondType>()?
                .value(row),
        ),
        _ => return None,
    })
}

/// A hash of a row of the types that tables have.
fn hash(rows: &RecordBatch, row: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    for column in rows.columns() {
        let text = arrow::util::display::array_value_to_string(column, row);
        (column.is_null(row), text.unwrap_or_default()).hash(&mut hasher);
    }
    hasher.finish()
}
