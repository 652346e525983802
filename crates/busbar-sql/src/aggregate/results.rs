//! What groups come to: results, and what is known of the groups that have none.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, prep_null_mask_filter, take};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use busbar_event::{Class, Error};
use datafusion_physical_expr::expressions::Column as PhysicalColumn;

use super::{Aggregation, INPUT, arrow_error, boolean, record_batch};
use crate::Failed;
use crate::explain::run_error;
use crate::expression::isolate;

/// Results of groups.
#[derive(Debug)]
pub struct GroupResults {
    /// The results.
    pub rows: RecordBatch,
    /// The number of the group of each result; `having` may leave groups out.
    pub groups: Vec<u32>,
    /// The groups whose results cannot be computed; none: there are no such groups.
    pub failed: Option<FailedGroups>,
}

/// Groups whose results cannot be computed.
#[derive(Debug)]
pub struct FailedGroups {
    /// A row for each: its keys, the columns that every group has, and those of its aggregates that are numbers, times or
    /// booleans. The columns are the same for all groups of an aggregation.
    pub rows: RecordBatch,
    /// The number of each group, and why it has no result.
    pub groups: Vec<Failed>,
}

impl GroupResults {
    /// Results of no groups, with these columns.
    pub(super) fn none(schema: SchemaRef) -> GroupResults {
        GroupResults {
            rows: RecordBatch::new_empty(schema),
            groups: Vec::new(),
            failed: None,
        }
    }
}

impl Aggregation {
    /// Results of groups: `columns` are keys, group columns and aggregates. `failed` are the groups that are known to have
    /// none, each with its cause.
    pub(super) fn results(
        &self,
        columns: Vec<ArrayRef>,
        rows: usize,
        mut failed: BTreeMap<usize, Error>,
    ) -> Result<GroupResults, Error> {
        let is_good = |group: &u32| !failed.contains_key(&(*group as usize));
        let mut numbers: Vec<u32> = (0..rows as u32).filter(is_good).collect();
        let good = match failed.is_empty() {
            true => columns.clone(),
            false => picked(&columns, &numbers)?,
        };
        let mut batch = record_batch(&self.groups, good, numbers.len())?;
        let (results, kept) = match self.evaluated(&batch) {
            Ok(results) => results,
            Err(error) if error.class() != Class::Permanent => return Err(error),
            Err(_) => {
                let bad = isolate(numbers.len(), &mut |rows| {
                    self.evaluated(&batch.slice(rows.start, rows.len())).err()
                });
                let mut mask = vec![true; numbers.len()];
                for Failed { row, cause } in bad {
                    mask[row] = false;
                    failed.insert(numbers[row] as usize, cause);
                }
                let mask = BooleanArray::from(mask);
                batch = filter_record_batch(&batch, &mask).map_err(arrow_error)?;
                numbers.retain(|group| !failed.contains_key(&(*group as usize)));
                self.evaluated(&batch)?
            }
        };
        let failed = match failed.is_empty() {
            true => None,
            false => Some(self.without_results(&columns, failed)?),
        };
        Ok(GroupResults {
            rows: results,
            groups: kept.into_iter().map(|row| numbers[row as usize]).collect(),
            failed,
        })
    }

    /// Results of these groups, and the row of the group of each.
    fn evaluated(&self, groups: &RecordBatch) -> Result<(RecordBatch, Vec<u32>), Error> {
        let rows = groups.num_rows();
        let mut batch = groups.clone();
        let mut numbers: Vec<u32> = (0..rows as u32).collect();
        if let Some(having) = &self.having {
            let mask = having
                .evaluate(&batch)
                .and_then(|value| value.into_array(rows))
                .map_err(run_error)?;
            let mask = match boolean(&mask)? {
                mask if mask.null_count() > 0 => prep_null_mask_filter(&mask),
                mask => mask,
            };
            batch = filter_record_batch(&batch, &mask).map_err(arrow_error)?;
            numbers.retain(|number| mask.value(*number as usize));
        }
        let rows = batch.num_rows();
        let mut columns = Vec::with_capacity(self.outputs.len());
        for output in &self.outputs {
            let value = output
                .evaluate(&batch)
                .and_then(|value| value.into_array(rows));
            columns.push(value.map_err(run_error)?);
        }
        Ok((record_batch(&self.schema, columns, rows)?, numbers))
    }

    /// What is known of groups without results.
    fn without_results(
        &self,
        columns: &[ArrayRef],
        failed: BTreeMap<usize, Error>,
    ) -> Result<FailedGroups, Error> {
        let known = self.keys.len() + self.group_column_count();
        let mut fields: Vec<FieldRef> = Vec::new();
        let mut places: Vec<usize> = Vec::new();
        for (place, field) in self.groups.fields().iter().enumerate() {
            let name = match self.keys.get(place) {
                Some(key) => match key.downcast_ref::<PhysicalColumn>() {
                    Some(column) => self.input.field(column.index()).name().clone(),
                    None => self.text.by[place].trim().to_owned(),
                },
                // As people write it.
                None => {
                    let name = field.name().replace(&format!("{INPUT}."), "");
                    name.replace("count(Int64(1))", "count(*)")
                }
            };
            // Lists and texts of many rows may be of any length.
            let is_short =
                field.data_type().is_primitive() || *field.data_type() == DataType::Boolean;
            let is_new = fields.iter().all(|field| *field.name() != name);
            if is_new && (place < known || is_short) {
                fields.push(Arc::new(Field::new(name, field.data_type().clone(), true)));
                places.push(place);
            }
        }
        let numbers: Vec<u32> = failed.keys().map(|group| *group as u32).collect();
        let known: Vec<ArrayRef> = places.iter().map(|at| Arc::clone(&columns[*at])).collect();
        let rows = picked(&known, &numbers)?;
        let groups = failed.into_iter();
        Ok(FailedGroups {
            rows: record_batch(&Arc::new(Schema::new(fields)), rows, numbers.len())?,
            groups: groups.map(|(row, cause)| Failed { row, cause }).collect(),
        })
    }
}

/// The rows at these places.
fn picked(columns: &[ArrayRef], rows: &[u32]) -> Result<Vec<ArrayRef>, Error> {
    let rows = UInt32Array::from(rows.to_vec());
    let columns = columns.iter();
    columns
        .map(|column| take(column, &rows, None).map_err(arrow_error))
        .collect()
}
