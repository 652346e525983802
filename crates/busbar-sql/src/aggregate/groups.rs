//! Groups of rows with the same keys, and what the aggregates know of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{SortColumn, cast, concat, lexsort_to_indices};
use busbar_event::{Class, Error};
use datafusion_common::DataFusionError;
use datafusion_expr::{EmitTo, GroupsAccumulator};
use datafusion_physical_expr::GroupsAccumulatorAdapter;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use datafusion_physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion_physical_plan::aggregates::order::GroupOrdering;

use super::parts::named;
use super::results::GroupResults;
use super::{Aggregate, Aggregation, Inputs, arrow_error, record_batch};
use crate::Failed;
use crate::explain::run_error;
use crate::expression::isolate;

/// The groups of one window.
pub struct Groups {
    aggregation: Arc<Aggregation>,
    /// None without keys: all rows are one group.
    keys: Option<Box<dyn GroupValues>>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    /// The group of each row of a batch; kept to be filled again.
    places: Vec<usize>,
    groups: usize,
}

impl Groups {
    pub(super) fn try_new(aggregation: &Aggregation) -> Result<Self, DataFusionError> {
        let key_count = aggregation.group_key_count();
        let keys = match key_count {
            0 => None,
            _ => {
                let indices: Vec<usize> = (0..key_count).collect();
                let schema = aggregation.state.project(&indices)?;
                Some(new_group_values(Arc::new(schema), &GroupOrdering::None)?)
            }
        };
        let accumulators = aggregation
            .aggregates
            .iter()
            .map(|aggregate| accumulator(&aggregate.function))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            aggregation: Arc::new(aggregation.clone()),
            keys,
            accumulators,
            places: Vec::new(),
            groups: 0,
        })
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.groups
    }

    /// Whether no row was counted.
    pub fn is_empty(&self) -> bool {
        self.groups == 0
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        let keys = self.keys.as_ref().map_or(0, |keys| keys.size());
        let values: usize = self.accumulators.iter().map(|each| each.size()).sum();
        keys + values + self.places.capacity() * size_of::<usize>()
    }

    /// Counts rows in.
    ///
    /// # Errors
    /// An error of the whole. The groups are of no use then.
    pub fn update(&mut self, inputs: &Inputs) -> Result<(), Error> {
        if inputs.rows() == 0 {
            return Ok(());
        }
        self.place(&inputs.keys, inputs.rows())?;
        let aggregation = Arc::clone(&self.aggregation);
        for (i, accumulator) in self.accumulators.iter_mut().enumerate() {
            let aggregate = &aggregation.aggregates[i];
            let must_sort = aggregate.function.order_sensitivity().hard_requires()
                && !aggregate.order.is_empty();
            let updated = if must_sort {
                let columns: Vec<SortColumn> = inputs.arguments[i][aggregate.arguments.len()..]
                    .iter()
                    .zip(&aggregate.order)
                    .map(|(values, by)| SortColumn {
                        values: Arc::clone(values),
                        options: Some(by.options),
                    })
                    .collect();
                let sorted = lexsort_to_indices(&columns, None).map_err(arrow_error)?;
                let taken = inputs.take(&sorted)?;
                let places: Vec<usize> = sorted
                    .values()
                    .iter()
                    .map(|row| self.places[*row as usize])
                    .collect();
                let filter = taken.filters[i].as_ref();
                accumulator.update_batch(&taken.arguments[i], &places, filter, self.groups)
            } else {
                let filter = inputs.filters[i].as_ref();
                accumulator.update_batch(&inputs.arguments[i], &self.places, filter, self.groups)
            };
            updated.map_err(run_error)?;
        }
        Ok(())
    }

    /// Merges the state of other groups, which come behind those that are here where order matters.
    ///
    /// # Errors
    /// As [`Groups::update`], or a state that is not of this aggregation.
    pub fn merge(&mut self, state: &RecordBatch) -> Result<(), Error> {
        if state.num_columns() != self.aggregation.state.fields().len() {
            return Err(Error::new(Class::Permanent, "sql.aggregation-state"));
        }
        if state.num_rows() == 0 {
            return Ok(());
        }
        let (keys, mut states) = state.columns().split_at(self.aggregation.group_key_count());
        self.place(keys, state.num_rows())?;
        let aggregation = Arc::clone(&self.aggregation);
        for (accumulator, aggregate) in self.accumulators.iter_mut().zip(&aggregation.aggregates) {
            let fields = aggregate.function.state_fields().map_err(run_error)?;
            let (own, rest) = states.split_at(fields.len());
            states = rest;
            let own: Vec<ArrayRef> = own
                .iter()
                .zip(&fields)
                .map(|(column, field)| named(column, field.data_type()))
                .collect();
            accumulator
                .merge_batch(&own, &self.places, self.groups)
                .map_err(run_error)?;
        }
        Ok(())
    }

    /// The state of all groups, which are gone afterwards.
    ///
    /// # Errors
    /// As [`Groups::update`].
    pub fn take_state(&mut self) -> Result<RecordBatch, Error> {
        let rows = std::mem::take(&mut self.groups);
        if rows == 0 {
            return Ok(RecordBatch::new_empty(self.aggregation.state_schema()));
        }
        let mut columns = self.emit_keys()?;
        // Giving all keys away leaves their hashes behind.
        if let Some(keys) = &mut self.keys {
            keys.clear_shrink(0);
        }
        for accumulator in &mut self.accumulators {
            columns.extend(accumulator.state(EmitTo::All).map_err(run_error)?);
        }
        let schema = self.aggregation.state_schema();
        let fields = schema.fields().iter();
        let columns = columns
            .iter()
            .zip(fields)
            .map(|(column, field)| named(column, field.data_type()));
        record_batch(&schema, columns.collect(), rows)
    }

    /// The results of all groups. Groups are numbered from 0 in the order in which they came. `group_columns` have one value
    /// for each group, or one for all.
    ///
    /// # Errors
    /// An error of the whole. A result that cannot be computed is among [`GroupResults::failed`].
    pub fn finish(mut self, group_columns: &[ArrayRef]) -> Result<GroupResults, Error> {
        let rows = self.groups;
        let mut columns = Vec::new();
        if rows == 0 {
            return Ok(GroupResults::none(self.aggregation.schema()));
        }
        for (key, field) in self
            .emit_keys()?
            .into_iter()
            .zip(&self.aggregation.key_fields)
        {
            columns.push(match key.data_type() == field.data_type() {
                true => key,
                false => cast(&key, field.data_type()).map_err(arrow_error)?,
            });
        }
        for column in group_columns {
            columns.push(match column.len() == rows {
                true => Arc::clone(column),
                false => {
                    let first = UInt32Array::from(vec![0; rows]);
                    arrow::compute::take(column, &first, None).map_err(arrow_error)?
                }
            });
        }
        let mut failed = BTreeMap::new();
        let aggregation = Arc::clone(&self.aggregation);
        for (accumulator, aggregate) in self.accumulators.iter_mut().zip(&aggregation.aggregates) {
            columns.push(aggregate.values(accumulator.as_mut(), rows, &mut failed)?);
        }
        aggregation.results(columns, rows, failed)
    }

    /// Finds the group of each row, and makes those that are new.
    fn place(&mut self, keys: &[ArrayRef], rows: usize) -> Result<(), Error> {
        self.places.clear();
        match &mut self.keys {
            Some(values) => {
                values.intern(keys, &mut self.places).map_err(run_error)?;
                self.groups = values.len();
            }
            None => {
                self.places.resize(rows, 0);
                self.groups = 1;
            }
        }
        Ok(())
    }

    fn emit_keys(&mut self) -> Result<Vec<ArrayRef>, Error> {
        match &mut self.keys {
            Some(values) => values.emit(EmitTo::All).map_err(run_error),
            None => Ok(Vec::new()),
        }
    }
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups")
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

impl Aggregate {
    /// The values of all groups, null for those that have none: these are added to `failed`, each with its cause.
    fn values(
        &self,
        accumulator: &mut dyn GroupsAccumulator,
        rows: usize,
        failed: &mut BTreeMap<usize, Error>,
    ) -> Result<ArrayRef, Error> {
        let name = self.function.fun().name();
        let data_type = self.function.field().data_type().clone();
        // Those that may fail, and give their groups away all the same.
        let loses_groups = match name {
            "avg" => data_type.is_decimal(),
            "sum" => self.function.is_distinct(),
            _ => false,
        };
        if !loses_groups {
            match accumulator.evaluate(EmitTo::All).map_err(run_error) {
                Ok(values) => return Ok(values),
                // A sum that fails keeps its groups.
                Err(_) if name == "sum" => {}
                Err(error) if error.class() != Class::Permanent => return Err(error),
                Err(error) => {
                    failed.extend((0..rows).map(|group| (group, error.clone())));
                    return Ok(new_null_array(&data_type, rows));
                }
            }
        }
        let state = accumulator.state(EmitTo::All).map_err(run_error)?;
        let evaluate = |from: usize, count: usize| {
            let mut part = self::accumulator(&self.function)?;
            let state: Vec<ArrayRef> = state.iter().map(|s| s.slice(from, count)).collect();
            let groups: Vec<usize> = (0..count).collect();
            part.merge_batch(&state, &groups, count)?;
            part.evaluate(EmitTo::All)
        };
        let bad = isolate(rows, &mut |range| {
            evaluate(range.start, range.len()).err().map(run_error)
        });
        let mut pieces: Vec<ArrayRef> = Vec::with_capacity(2 * bad.len() + 1);
        let mut from = 0;
        for Failed { row, cause } in bad {
            if row > from {
                pieces.push(evaluate(from, row - from).map_err(run_error)?);
            }
            pieces.push(new_null_array(&data_type, 1));
            failed.entry(row).or_insert(cause);
            from = row + 1;
        }
        if from < rows {
            pieces.push(evaluate(from, rows - from).map_err(run_error)?);
        }
        let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
        concat(&pieces).map_err(arrow_error)
    }
}

fn accumulator(
    function: &Arc<AggregateFunctionExpr>,
) -> Result<Box<dyn GroupsAccumulator>, DataFusionError> {
    if function.groups_accumulator_supported() {
        return function.create_groups_accumulator();
    }
    let function = Arc::clone(function);
    let factory = move || function.create_accumulator();
    Ok(Box::new(GroupsAccumulatorAdapter::new(factory)))
}
