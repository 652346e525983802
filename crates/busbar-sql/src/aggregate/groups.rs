//! Groups of rows with the same keys, and what the aggregates know of each.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{SortColumn, cast, lexsort_to_indices};
use busbar_event::{Class, Error};
use datafusion_common::DataFusionError;
use datafusion_expr::{EmitTo, GroupsAccumulator};
use datafusion_physical_expr::GroupsAccumulatorAdapter;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use datafusion_physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion_physical_plan::aggregates::order::GroupOrdering;

use super::parts::named;
use super::{Aggregation, Inputs, arrow_error, record_batch};
use crate::explain::run_error;

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
    /// An error of the whole, such as a sum out of range. The groups are of no use then.
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

    /// The results of all groups and the number of the group of each, as `having` may leave some out. Groups are
    /// numbered from 0 in the order in which they came. `group_columns` have one value for each
    /// group, or one for all.
    ///
    /// # Errors
    /// As [`Groups::update`], or when a result cannot be computed.
    pub fn finish(mut self, group_columns: &[ArrayRef]) -> Result<(RecordBatch, Vec<u32>), Error> {
        let rows = self.groups;
        if rows == 0 {
            return Ok((
                RecordBatch::new_empty(self.aggregation.schema()),
                Vec::new(),
            ));
        }
        let mut columns = Vec::new();
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
        for accumulator in &mut self.accumulators {
            columns.push(accumulator.evaluate(EmitTo::All).map_err(run_error)?);
        }
        self.aggregation.results(columns, rows)
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
