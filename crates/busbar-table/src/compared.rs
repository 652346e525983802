//! A write worked out against the rows that are there: whole rows for those who follow the table, and which of two rows is
//! the newer one.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array, new_null_array};
use arrow::compute::{filter, interleave, take};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::{RowConverter, Rows as EncodedRows, SortField};
use busbar_event::{Class, Error};

use crate::Newer;
use crate::columns::{ColumnType, TypedRows, arrow_error, type_of};
use crate::table::{Found, Lookup, Rejected};

impl Newer {
    /// Whether the column is there, is not one of the key and can be compared.
    ///
    /// # Errors
    /// `table.newer-column` (*configuration*).
    pub fn check(&self, table: &str, schema: &Schema, key: &[String]) -> Result<usize, Error> {
        let found = schema.column_with_name(&self.column);
        let found = found.filter(|(_, field)| {
            let kind = type_of(field);
            let grows = [
                ColumnType::Int,
                ColumnType::Float,
                ColumnType::Time,
                ColumnType::Text,
            ];
            grows.contains(&kind) && !key.iter().any(|name| name == field.name())
        });
        match found {
            Some((place, _)) if !key.is_empty() => Ok(place),
            _ => Err(Error::new(Class::Configuration, "table.newer-column")
                .with("table", table)
                .with("column", &self.column)),
        }
    }

    /// Rejects the rows of a write that do not say their version, of `given` rows that came.
    ///
    /// # Errors
    /// `table.newer-column` where the rows have no such column.
    pub(crate) fn reject_unversioned(
        &self,
        table: &str,
        schema: &Schema,
        rows: &mut TypedRows,
        given: usize,
    ) -> Result<(), Error> {
        let place = schema.index_of(&self.column).ok();
        let versions = place.and_then(|place| rows.column(place));
        let Some(versions) = versions else {
            return Err(Error::new(Class::Configuration, "table.newer-column")
                .with("table", table)
                .with("column", &self.column));
        };
        let unknown = (0..rows.rows).filter(|row| versions.is_null(*row));
        let unknown: Vec<Rejected> = unknown
            .map(|row| Rejected {
                row,
                cause: Error::new(Class::Permanent, "table.newer-null")
                    .with("column", &self.column),
            })
            .collect();
        rows.reject(unknown, given)
    }
}

/// A write worked out.
pub(crate) struct ComparedWrite {
    /// The rows that are to be written, as they came.
    pub rows: TypedRows,
    /// The same rows with all columns of the table. A deleted row is as it was before.
    pub whole: TypedRows,
    /// Rows that gave way to those that are there.
    pub conflicts: usize,
    /// Deletions of rows that are not there.
    pub absent: usize,
}

/// Works a write out. `find` looks rows of the table up.
///
/// # Errors
/// What `find` says; `table.newer-column` where the rows have no such column.
pub(crate) fn compare(
    table: &str,
    rows: TypedRows,
    (schema, key): (&SchemaRef, &[usize]),
    newer: Option<&Newer>,
    find: impl FnOnce(&Lookup<'_>) -> Result<Found, Error>,
) -> Result<ComparedWrite, Error> {
    let keys: Vec<ArrayRef> = key
        .iter()
        .filter_map(|column| rows.column(*column).cloned())
        .collect();
    let encoded = encoded(&keys)?;
    let mut numbers = HashMap::with_capacity(rows.rows);
    let mut firsts = Vec::new();
    // The number of each row's key.
    let of: Vec<usize> = (0..rows.rows)
        .map(|row| {
            *numbers
                .entry(encoded.row(row).data().to_vec())
                .or_insert_with(|| {
                    firsts.push(row as u32);
                    firsts.len() - 1
                })
        })
        .collect();
    let firsts = UInt32Array::from(firsts);
    let asked = keys.iter().map(|column| take(column, &firsts, None));
    let asked = asked.collect::<Result<Vec<_>, _>>().map_err(arrow_error)?;
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let found = match firsts.is_empty() {
        true => Found {
            rows: arrow::array::RecordBatch::new_empty(Arc::clone(schema)),
            places: UInt32Array::from(Vec::<u32>::new()),
        },
        false => find(&Lookup {
            keys: &asked,
            columns: &all,
        })?,
    };
    let names: Vec<String> = key
        .iter()
        .map(|column| schema.field(*column).name().clone())
        .collect();
    let versions = newer.map(|newer| {
        let place = newer.check(table, schema, &names)?;
        RowVersions::new(table, newer, place, &rows, &found)
    });
    let mut run = Comparing {
        rows: &rows,
        versions: versions.transpose()?,
        now: (0..firsts.len())
            .map(|number| match found.places.is_valid(number) {
                true => Is::There(found.places.value(number)),
                false => Is::Gone,
            })
            .collect(),
        done: Vec::with_capacity(rows.rows),
        conflicts: 0,
        absent: 0,
    };
    for (row, number) in of.into_iter().enumerate() {
        run.meet(row, number);
    }
    let Comparing {
        done,
        conflicts,
        absent,
        ..
    } = run;
    let whole = whole(&rows, schema, &found, &done)?;
    Ok(ComparedWrite {
        rows: kept(rows, &done)?,
        whole,
        conflicts,
        absent,
    })
}

/// Where the row of a key is while the rows of a write come one after another.
#[derive(Clone, Copy)]
enum Is {
    Gone,
    /// In the table.
    There(u32),
    /// The row of the write with this place, whose other columns are those of a row of the table, if of any.
    Written(usize, Option<u32>),
}

/// What becomes of a row of the write.
#[derive(Clone, Copy)]
enum Becomes {
    Nothing,
    /// It is put; columns that it does not have are those of this row of the table.
    Put(Option<u32>),
    /// What was there is deleted.
    Deletes(Is),
}

struct Comparing<'a> {
    rows: &'a TypedRows,
    versions: Option<RowVersions>,
    /// By the number of the key.
    now: Vec<Is>,
    /// By the place of the row.
    done: Vec<Becomes>,
    conflicts: usize,
    absent: usize,
}

impl Comparing<'_> {
    fn meet(&mut self, row: usize, number: usize) {
        let now = self.now[number];
        let is_delete = self.rows.is_delete(row);
        let becomes = match &self.versions {
            Some(versions) => match versions.verdict(row, is_delete, now) {
                VersionVerdict::Goes => None,
                VersionVerdict::GivesWay { is_same } => {
                    self.conflicts += usize::from(!is_same);
                    Some(Becomes::Nothing)
                }
            },
            None => None,
        };
        let becomes = becomes.unwrap_or(match (is_delete, now) {
            (true, Is::Gone) => {
                self.absent += 1;
                Becomes::Nothing
            }
            (true, now) => {
                self.now[number] = Is::Gone;
                Becomes::Deletes(now)
            }
            (false, now) => {
                let rest = match now {
                    Is::Gone => None,
                    Is::There(place) => Some(place),
                    Is::Written(_, rest) => rest,
                };
                self.now[number] = Is::Written(row, rest);
                Becomes::Put(rest)
            }
        });
        self.done.push(becomes);
    }
}

/// The versions of rows.
struct RowVersions {
    or_equal: bool,
    given_order: EncodedRows,
    there: ArrayRef,
    there_order: EncodedRows,
    /// All columns of the write, of its rows and of those that are there.
    given_whole: EncodedRows,
    there_whole: EncodedRows,
}

enum VersionVerdict {
    Goes,
    GivesWay { is_same: bool },
}

impl RowVersions {
    fn new(
        table: &str,
        newer: &Newer,
        place: usize,
        rows: &TypedRows,
        found: &Found,
    ) -> Result<RowVersions, Error> {
        let given = rows.column(place).cloned().ok_or_else(|| {
            Error::new(Class::Configuration, "table.newer-column")
                .with("table", table)
                .with("column", &newer.column)
        })?;
        let there = Arc::clone(found.rows.column(place));
        let both = converter(std::slice::from_ref(&given))?;
        let columns: Vec<ArrayRef> = rows.columns.iter().map(|(_, c)| Arc::clone(c)).collect();
        let same: Vec<ArrayRef> = rows
            .columns
            .iter()
            .map(|(column, _)| Arc::clone(found.rows.column(*column)))
            .collect();
        let all = converter(&columns)?;
        let order = |converter: &RowConverter, columns: &[ArrayRef]| {
            converter.convert_columns(columns).map_err(arrow_error)
        };
        Ok(RowVersions {
            or_equal: newer.or_equal,
            given_order: order(&both, std::slice::from_ref(&given))?,
            there_order: order(&both, std::slice::from_ref(&there))?,
            given_whole: order(&all, &columns)?,
            there_whole: order(&all, &same)?,
            there,
        })
    }

    fn verdict(&self, row: usize, is_delete: bool, now: Is) -> VersionVerdict {
        let new = self.given_order.row(row);
        let (there, is_same) = match now {
            Is::Gone => return VersionVerdict::Goes,
            Is::There(place) if self.there.is_null(place as usize) => return VersionVerdict::Goes,
            Is::There(place) => {
                let place = place as usize;
                let same = self.there_whole.row(place) == self.given_whole.row(row);
                (self.there_order.row(place), same)
            }
            Is::Written(before, _) => {
                let same = self.given_whole.row(before) == self.given_whole.row(row);
                (self.given_order.row(before), same)
            }
        };
        // A deletion is of the row as it was.
        let goes = match is_delete || self.or_equal {
            true => there <= new,
            false => there < new,
        };
        match goes {
            true => VersionVerdict::Goes,
            false => VersionVerdict::GivesWay {
                is_same: is_same && !is_delete,
            },
        }
    }
}

fn converter(columns: &[ArrayRef]) -> Result<RowConverter, Error> {
    let fields = columns.iter();
    let fields = fields.map(|column| SortField::new(column.data_type().clone()));
    RowConverter::new(fields.collect()).map_err(arrow_error)
}

fn encoded(columns: &[ArrayRef]) -> Result<EncodedRows, Error> {
    let converter = converter(columns)?;
    converter.convert_columns(columns).map_err(arrow_error)
}

/// The rows that are written, as they came.
fn kept(mut rows: TypedRows, done: &[Becomes]) -> Result<TypedRows, Error> {
    let is_kept = |becomes: &Becomes| !matches!(becomes, Becomes::Nothing);
    if done.iter().all(is_kept) {
        return Ok(rows);
    }
    let keep: BooleanArray = done.iter().map(|becomes| Some(is_kept(becomes))).collect();
    for (_, array) in &mut rows.columns {
        *array = filter(array, &keep).map_err(arrow_error)?;
    }
    rows.deletes = deletes(done);
    rows.rows = keep.true_count();
    Ok(rows)
}

/// Which of the rows that are written are deleted, where any is.
fn deletes(done: &[Becomes]) -> Option<BooleanArray> {
    let deletes: BooleanArray = done
        .iter()
        .filter_map(|becomes| match becomes {
            Becomes::Nothing => None,
            Becomes::Put(_) => Some(Some(false)),
            Becomes::Deletes(_) => Some(Some(true)),
        })
        .collect();
    (deletes.true_count() > 0).then_some(deletes)
}

/// The rows that are written, with all columns.
fn whole(
    rows: &TypedRows,
    schema: &SchemaRef,
    found: &Found,
    done: &[Becomes],
) -> Result<TypedRows, Error> {
    /// The arrays that values come from.
    const NOWHERE: usize = 0;
    const TABLE: usize = 1;
    const WRITE: usize = 2;
    let count = done
        .iter()
        .filter(|becomes| !matches!(becomes, Becomes::Nothing))
        .count();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (place, field) in schema.fields().iter().enumerate() {
        let given = rows.column(place);
        let rest = |rest: Option<u32>| rest.map_or((NOWHERE, 0), |at| (TABLE, at as usize));
        let written = |row: usize, of: Option<u32>| match given {
            Some(_) => (WRITE, row),
            None => rest(of),
        };
        let places: Vec<(usize, usize)> = done
            .iter()
            .enumerate()
            .filter_map(|(row, becomes)| match becomes {
                Becomes::Nothing | Becomes::Deletes(Is::Gone) => None,
                Becomes::Put(of) => Some(written(row, *of)),
                Becomes::Deletes(Is::There(at)) => Some((TABLE, *at as usize)),
                Becomes::Deletes(Is::Written(before, of)) => Some(written(*before, *of)),
            })
            .collect();
        let none = new_null_array(field.data_type(), 1);
        let mut arrays: Vec<&dyn Array> = vec![&*none, &**found.rows.column(place)];
        arrays.extend(given.map(|given| &**given as &dyn Array));
        columns.push((place, interleave(&arrays, &places).map_err(arrow_error)?));
    }
    Ok(TypedRows {
        columns,
        deletes: deletes(done),
        rows: count,
        rejected: Vec::new(),
    })
}
