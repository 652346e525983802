//! Changes of several tables in the order in which they were made, read in pages.

use std::collections::VecDeque;
use std::sync::Arc;

use busbar_event::Error;
use bytes::Bytes;

use super::MssqlFollowBy;
use super::follow::{self, CaptureInstance, MssqlFollowed, list};
use super::limits::{CHANGE_ROWS, CHUNK_BYTES};
use super::link::{MssqlAnswer, MssqlServer, row_bytes};
use super::lsn::MssqlLsn;
use super::token::TdsColumn;
use super::wire::identifier;
use crate::relational::keyed_pages::behind;

/// What comes before the columns of the table: place, two numbers within the transaction and operation; or version, operation
/// and key.
const CAPTURED: usize = 4;
const TRACKED: usize = 2;

/// Changes of one table between two places.
pub struct ChangePages {
    /// Which of the tables.
    pub table: usize,
    select: String,
    order: Vec<String>,
    /// Which columns of the answer the order is by.
    by: Vec<usize>,
    condition: String,
    /// What is before the table's own columns.
    skip: usize,
    columns: Arc<[TdsColumn]>,
    rows: VecDeque<Vec<Option<Bytes>>>,
    /// The values of the order of the last row, as they are written in SQL; none for NULL.
    last: Option<Vec<Option<String>>>,
    /// Rows of the next page.
    asked: usize,
    /// The place of the last change that was taken; before the first one, behind which place changes are read.
    reached: u64,
    /// There may be more behind the rows at hand.
    more: bool,
}

/// Where a change stands within its transaction: the number of its command, and its place in the log.
pub type MssqlWithin = (i64, Bytes);

/// A change of a row.
pub struct MssqlChange {
    /// The place of its transaction, as one number.
    pub place: u64,
    pub operation: MssqlOperation,
    /// The values of the table's own columns; of a deleted row that was tracked there are none.
    pub row: Vec<Option<Bytes>>,
    /// The key, where only that is known beside.
    pub key: Vec<Option<Bytes>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssqlOperation {
    Insert,
    Delete,
    /// The row as it was before an update that follows.
    Before,
    Update,
}

impl ChangePages {
    /// Captured changes behind a place and up to another.
    pub fn captured(
        at: usize,
        instance: &CaptureInstance,
        columns: &[TdsColumn],
        from: u64,
        to: u64,
    ) -> ChangePages {
        // The unique index of the table. By `__$seqval` alone, an update of keys deletes rows behind those that take their place.
        let order = [
            "[__$start_lsn]",
            "[__$command_id]",
            "[__$seqval]",
            "[__$operation]",
        ]
        .map(str::to_owned);
        let own = list(columns.iter().map(|column| column.name.as_str()), "");
        ChangePages {
            table: at,
            select: format!("{}, {own} FROM {}", order.join(", "), instance.table),
            condition: format!(
                "[__$start_lsn] > {} AND [__$start_lsn] <= {}",
                MssqlLsn::of(from).literal(),
                MssqlLsn::of(to).literal()
            ),
            order: order.into(),
            by: vec![0, 1, 2, 3],
            skip: CAPTURED,
            columns: Arc::from([]),
            rows: VecDeque::new(),
            last: None,
            asked: CHANGE_ROWS,
            reached: from,
            more: true,
        }
    }

    /// Tracked changes behind a version and up to another; of each row the last one, with the row as it is.
    pub fn tracked(at: usize, table: &MssqlFollowed, from: u64, to: u64) -> ChangePages {
        let keys: Vec<_> = table.key_names().map(identifier).collect();
        let same: Vec<_> = keys
            .iter()
            .map(|key| format!("t.{key} = c.{key}"))
            .collect();
        let mut order = vec!["c.SYS_CHANGE_VERSION".to_owned()];
        order.extend(keys.iter().map(|key| format!("c.{key}")));
        let quoted = table.quoted();
        let select = format!(
            "c.SYS_CHANGE_VERSION, c.SYS_CHANGE_OPERATION, {}, {} FROM CHANGETABLE(CHANGES {quoted}, {}) AS c \
             LEFT JOIN {quoted} AS t ON {}",
            list(table.key_names(), "c."),
            list(
                table.columns.iter().map(|column| column.name.as_str()),
                "t."
            ),
            from - 1,
            same.join(" AND ")
        );
        let mut by = vec![0];
        by.extend((0..keys.len()).map(|at| TRACKED + at));
        ChangePages {
            table: at,
            select,
            condition: format!("c.SYS_CHANGE_VERSION <= {}", to - 1),
            order,
            by,
            skip: TRACKED + keys.len(),
            columns: Arc::from([]),
            rows: VecDeque::new(),
            last: None,
            asked: CHANGE_ROWS,
            reached: from,
            more: true,
        }
    }

    /// The statement that reads the next page.
    pub fn statement(&self) -> String {
        let behind = match &self.last {
            None => String::new(),
            Some(last) => format!(" AND ({})", behind(&self.order, last)),
        };
        format!(
            "SELECT TOP ({}) {} WHERE {}{behind} ORDER BY {}",
            self.asked,
            self.select,
            self.condition,
            self.order.join(", ")
        )
    }

    /// Takes the page that it answered, or the rows of it that were read. The next one has as many rows as a page of their size
    /// should have.
    pub fn take(&mut self, answer: MssqlAnswer, whole: bool) {
        let rows = answer.rows.len();
        self.more = !whole || rows >= self.asked;
        self.columns = answer.columns;
        if let Some(last) = answer.rows.last() {
            let literal = |at: &usize| {
                let value = last.get(*at)?.as_ref()?;
                Some(self.columns.get(*at)?.of.literal(value))
            };
            self.last = Some(self.by.iter().map(literal).collect());
            let bytes: usize = answer.rows.iter().map(|row| row_bytes(row)).sum();
            self.asked = (CHUNK_BYTES / (bytes / rows + 1)).clamp(1, CHANGE_ROWS);
        }
        self.rows.extend(answer.rows);
    }

    /// The same table's changes were read before: their pages have about so many rows.
    #[must_use]
    pub fn asking(self, rows: usize) -> ChangePages {
        ChangePages {
            asked: rows,
            ..self
        }
    }

    /// Rows of the next page.
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// Whether a page is to be read before the next change is known.
    pub fn wants(&self) -> bool {
        self.rows.is_empty() && self.more
    }

    /// Changes behind this place have not been taken.
    pub fn reached(&self) -> u64 {
        self.reached
    }

    /// The columns of the table's own.
    pub fn columns(&self) -> &[TdsColumn] {
        self.columns.get(self.skip..).unwrap_or_default()
    }

    /// The columns of the key, where they are sent beside.
    pub fn key_columns(&self) -> &[TdsColumn] {
        self.columns.get(TRACKED..self.skip).unwrap_or_default()
    }

    /// Where the next change stands, among those of all tables.
    pub fn next(
        &self,
        server: &MssqlServer,
        by: MssqlFollowBy,
    ) -> Result<Option<(u64, MssqlWithin)>, Error> {
        let Some(row) = self.rows.front() else {
            return Ok(None);
        };
        let place = self.place(server, by, row)?;
        let within = match by {
            MssqlFollowBy::Cdc => within(row),
            MssqlFollowBy::Tracking => MssqlWithin::default(),
        };
        Ok(Some((place, within)))
    }

    fn place(
        &self,
        server: &MssqlServer,
        by: MssqlFollowBy,
        row: &[Option<Bytes>],
    ) -> Result<u64, Error> {
        let value = row.first().cloned().flatten().unwrap_or_default();
        match by {
            MssqlFollowBy::Cdc => follow::number(server, &value),
            MssqlFollowBy::Tracking => {
                let text = std::str::from_utf8(&value).unwrap_or_default();
                Ok(text.parse::<u64>().unwrap_or(0).saturating_add(1))
            }
        }
    }

    /// Takes the next change. None for one that says nothing: a row that was deleted again meanwhile.
    pub fn pop(
        &mut self,
        server: &MssqlServer,
        by: MssqlFollowBy,
    ) -> Result<Option<MssqlChange>, Error> {
        let Some(mut row) = self.rows.pop_front() else {
            return Ok(None);
        };
        let place = self.place(server, by, &row)?;
        self.reached = place;
        let said = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let operation = match (by, &said(if by == MssqlFollowBy::Cdc { 3 } else { 1 })[..]) {
            (MssqlFollowBy::Cdc, b"1") | (MssqlFollowBy::Tracking, b"D") => MssqlOperation::Delete,
            (MssqlFollowBy::Cdc, b"2") | (MssqlFollowBy::Tracking, b"I") => MssqlOperation::Insert,
            (MssqlFollowBy::Cdc, b"3") => MssqlOperation::Before,
            _ => MssqlOperation::Update,
        };
        let own = row.split_off(self.skip.min(row.len()));
        let key = row.split_off(TRACKED.min(row.len()));
        if by == MssqlFollowBy::Tracking
            && operation != MssqlOperation::Delete
            && own.iter().all(Option::is_none)
        {
            return Ok(None);
        }
        Ok(Some(MssqlChange {
            place,
            operation,
            row: own,
            key,
        }))
    }
}

/// Where a captured change stands within its transaction.
fn within(row: &[Option<Bytes>]) -> MssqlWithin {
    let value = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
    let command = value(1);
    let command = std::str::from_utf8(&command).unwrap_or_default();
    (command.parse().unwrap_or(0), value(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_a_transaction_are_in_the_order_of_their_commands() {
        let row = |command: Option<&'static str>, place: &'static [u8]| {
            let command = command.map(|command| Bytes::from_static(command.as_bytes()));
            [None, command, Some(Bytes::from_static(place)), None]
        };
        // As numbers, and by the place in the log only within a command, or where servers do not number them.
        let rows = [
            row(None, b"\x00\x01"),
            row(None, b"\x00\x02"),
            row(Some("2"), b"\x00\x07"),
            row(Some("2"), b"\x00\x09"),
            row(Some("10"), b"\x00\x05"),
        ];
        let places: Vec<_> = rows.iter().map(|row| within(row)).collect();
        assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
    }
}
