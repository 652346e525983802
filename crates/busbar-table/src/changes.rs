//! Rows that each say what is done with them: a stream of changes keeps a table in step.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::DataType;
use busbar_event::{Class, Error};

use crate::{Applied, Newer, ProducerPosition, Rejected, Scan, Table, Write};

/// The columns of rows that say what is done with each. They are not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeColumns {
    /// `insert`, `read`, `update` and `upsert` put the row, `delete` deletes the one with its key, `truncate` deletes all rows,
    /// `schema` is ignored.
    pub change: Arc<str>,
    /// A column that names the columns of a row that keep their value: a JSON list, or names with commas between them.
    pub unchanged: Option<Arc<str>>,
    /// Rows take the place only of those that they are newer than; what empties the table is rejected.
    pub newer: Option<Newer>,
}

/// Rows that one write takes, or all rows that are deleted before the next one.
enum Piece {
    Rows {
        /// Places of the rows in the batch.
        places: Vec<u32>,
        deletes: Vec<bool>,
        /// Columns that are left out, in order.
        kept: Vec<String>,
    },
    Truncate,
}

enum Done {
    Put,
    Delete,
    Truncate,
    Nothing,
}

impl ChangeColumns {
    /// Whether a column is one of these.
    pub fn has(&self, column: &str) -> bool {
        *self.change == *column || self.unchanged.as_deref() == Some(column)
    }

    /// Does what the rows say, in their order. It is one write, all or nothing, unless rows keep values of their columns or
    /// the table is emptied; then a crash in between leaves a part, and the same rows complete it when they come again.
    ///
    /// # Errors
    /// `table.change-columns` (*configuration*) when the columns are not there; as of [`Table::write`].
    pub fn write(
        &self,
        table: &dyn Table,
        rows: &RecordBatch,
        position: Option<&ProducerPosition>,
    ) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        let mut pieces = self.pieces(table, rows, &mut applied.rejected)?;
        let is_known = match position {
            Some(at) => table.position(&at.producer)? >= Some(at.position),
            None => false,
        };
        if !matches!(pieces.last(), Some(Piece::Rows { .. })) {
            pieces.push(Piece::rows(Vec::new()));
        }
        let last = pieces.len() - 1;
        // Those who follow the table are told who has written each piece.
        let part = position.filter(|_| table.changes().is_some());
        let part = part.map(ProducerPosition::part);
        for (number, piece) in pieces.into_iter().enumerate() {
            match piece {
                Piece::Truncate if is_known => {}
                Piece::Truncate => applied.deleted += empty(table, part.as_ref())?,
                Piece::Rows {
                    places,
                    deletes,
                    kept,
                } => {
                    // The position comes with the last piece, and is known for all of them.
                    let position = position.filter(|_| is_known || number == last);
                    if places.is_empty() && position.is_none() {
                        continue;
                    }
                    let rows = self.taken(rows, &places, &kept)?;
                    let deletes = BooleanArray::from(deletes);
                    let write = Write {
                        rows: &rows,
                        deletes: (deletes.true_count() > 0).then_some(&deletes),
                        position: position.or(part.as_ref()),
                    };
                    let done = match &self.newer {
                        None => table.write(&write)?,
                        Some(newer) => table.write_newer(&write, newer)?,
                    };
                    applied.put += done.put;
                    applied.conflicts += done.conflicts;
                    applied.overwritten += done.overwritten;
                    applied.deleted += done.deleted;
                    applied.duplicate |= done.duplicate;
                    let rejected = done.rejected.into_iter().map(|rejected| Rejected {
                        row: places[rejected.row] as usize,
                        cause: rejected.cause,
                    });
                    applied.rejected.extend(rejected);
                }
            }
        }
        applied.rejected.sort_by_key(|rejected| rejected.row);
        Ok(applied)
    }

    fn pieces(
        &self,
        table: &dyn Table,
        rows: &RecordBatch,
        rejected: &mut Vec<Rejected>,
    ) -> Result<Vec<Piece>, Error> {
        let change = texts(rows, &self.change, table)?;
        let unchanged = self.unchanged.as_deref();
        let unchanged = unchanged.map(|name| texts(rows, name, table)).transpose()?;
        let mut pieces: Vec<Piece> = Vec::new();
        for row in 0..rows.num_rows() {
            let text = change.is_valid(row).then(|| change.value(row));
            let done = match done(text.unwrap_or_default()) {
                Ok(done) => done,
                Err(cause) => {
                    rejected.push(Rejected { row, cause });
                    continue;
                }
            };
            let is_delete = match done {
                Done::Nothing => continue,
                Done::Truncate if self.newer.is_some() => {
                    let cause = Error::new(Class::Permanent, "table.newer-truncate");
                    rejected.push(Rejected { row, cause });
                    continue;
                }
                Done::Truncate => {
                    pieces.push(Piece::Truncate);
                    continue;
                }
                Done::Put => false,
                Done::Delete => true,
            };
            let unchanged = unchanged.as_ref().filter(|texts| texts.is_valid(row));
            let kept = match unchanged {
                Some(texts) if !is_delete => kept(texts.value(row), table.key()),
                _ => Vec::new(),
            };
            // A delete needs the key alone.
            let fits = |known: &[String]| is_delete || known == kept;
            match pieces.last_mut() {
                Some(Piece::Rows {
                    places,
                    deletes,
                    kept,
                }) if fits(kept) => {
                    places.push(row as u32);
                    deletes.push(is_delete);
                }
                _ => pieces.push(Piece::Rows {
                    places: vec![row as u32],
                    deletes: vec![is_delete],
                    kept,
                }),
            }
        }
        Ok(pieces)
    }

    /// Some of the rows, without the columns that say what is done and those that keep their value.
    fn taken(
        &self,
        rows: &RecordBatch,
        places: &[u32],
        kept: &[String],
    ) -> Result<RecordBatch, Error> {
        let schema = rows.schema();
        let fields = schema.fields().iter().enumerate();
        let columns: Vec<usize> = fields
            .filter(|(_, field)| !self.has(field.name()) && !kept.contains(field.name()))
            .map(|(at, _)| at)
            .collect();
        let taken = rows.project(&columns);
        let taken = taken.and_then(|rows| match places.len() == rows.num_rows() {
            true => Ok(rows),
            false => take_record_batch(&rows, &UInt32Array::from(places.to_vec())),
        });
        taken.map_err(|why| Error::new(Class::Permanent, "table.change-rows").caused_by(why))
    }
}

impl Piece {
    fn rows(places: Vec<u32>) -> Piece {
        Piece::Rows {
            deletes: vec![false; places.len()],
            places,
            kept: Vec::new(),
        }
    }
}

fn done(change: &str) -> Result<Done, Error> {
    Ok(match change {
        "insert" | "read" | "update" | "upsert" => Done::Put,
        "delete" => Done::Delete,
        "truncate" => Done::Truncate,
        "schema" => Done::Nothing,
        other => {
            let error = Error::new(Class::Permanent, "table.change");
            return Err(error.with("change", busbar_event::quote(other)));
        }
    })
}

/// The columns that keep their value, without those of the key, in order.
fn kept(text: &str, key: &[String]) -> Vec<String> {
    let mut names: Vec<String> = serde_json::from_str(text).unwrap_or_else(|_| {
        let names = text.split(',').map(str::trim);
        names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    });
    names.retain(|name| !key.contains(name));
    names.sort();
    names
}

fn texts(rows: &RecordBatch, column: &str, table: &dyn Table) -> Result<StringArray, Error> {
    let unfit = || {
        Error::new(Class::Configuration, "table.change-columns")
            .with("table", table.name())
            .with("column", column)
    };
    let found = rows.column_by_name(column).ok_or_else(unfit)?;
    let texts = cast(found, &DataType::Utf8).map_err(|why| unfit().caused_by(why))?;
    Ok(texts.as_string::<i32>().clone())
}

/// Deletes all rows; how many there were.
fn empty(table: &dyn Table, part: Option<&ProducerPosition>) -> Result<usize, Error> {
    let schema = table.schema();
    let key = table.key().iter();
    let key: Vec<usize> = key.filter_map(|name| schema.index_of(name).ok()).collect();
    if key.is_empty() {
        return Ok(0);
    }
    let scan = Scan {
        projection: Some(key),
        ..Scan::default()
    };
    let mut deleted = 0;
    for rows in table.scan(&scan)? {
        let rows = rows?;
        if rows.num_rows() == 0 {
            continue;
        }
        let deletes = BooleanArray::from(vec![true; rows.num_rows()]);
        let done = table.write(&Write {
            rows: &rows,
            deletes: Some(&deletes),
            position: part,
        })?;
        deleted += done.deleted;
    }
    Ok(deleted)
}
