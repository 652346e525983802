//! `sum` that is exact for integers and decimals, or fails.
//!
//! DataFusion's `sum` wraps around. This one adds in 128 bits, so that no order of the rows makes an
//! intermediate result overflow, and fails if the total does not fit the result's type. A total that does not fit 128
//! bits is [`BEYOND`] from then on, so that only the result fails of the group whose total it is. Floats and intervals
//! are left to DataFusion's function.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal32Array, Decimal64Array, Decimal128Array,
    PrimitiveArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal32Type, Decimal64Type, Decimal128Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    Field, FieldRef, Int64Type, TimeUnit, UInt64Type,
};
use busbar_event::{Class, Error};
use datafusion_common::{Result, ScalarValue, exec_err, internal_err};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::utils::AggregateOrderSensitivity;
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator,
    ReversedUDAF, Signature,
};

use crate::budget::told;

/// The function, with `inner` for the types that it does not add itself.
pub(crate) fn function(inner: Arc<AggregateUDF>) -> AggregateUDF {
    AggregateUDF::new_from_impl(CheckedSum { inner })
}

/// The type of a sum on its way: any 128-bit integer.
const STATE: DataType = DataType::Decimal128(38, 0);

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum {
    inner: Arc<AggregateUDF>,
}

/// Stands for a total beyond 128 bits. It fits no type of a result: decimals have 38 digits at most.
const BEYOND: i128 = i128::MIN;

/// Whether sums of this type are made here.
fn is_exact(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Int64
            | DataType::UInt64
            | DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Duration(_)
    )
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        "sum"
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let data_type = arguments.return_field.data_type().clone();
        if !is_exact(&data_type) {
            return self.inner.accumulator(arguments);
        }
        Ok(Box::new(Sum {
            data_type,
            total: 0,
            values: 0,
            distinct: arguments.is_distinct.then(HashMap::new),
        }))
    }

    fn create_sliding_accumulator(
        &self,
        arguments: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn Accumulator>> {
        match is_exact(arguments.return_field.data_type()) {
            true => self.accumulator(arguments),
            false => self.inner.create_sliding_accumulator(arguments),
        }
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        if !is_exact(arguments.return_field.data_type()) {
            return self.inner.state_fields(arguments);
        }
        let name = format!("{}[sum]", arguments.name);
        Ok(vec![Arc::new(match arguments.is_distinct {
            true => Field::new_list(name, Field::new_list_field(STATE, true), false),
            false => Field::new(name, STATE, true),
        })])
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs<'_>) -> bool {
        !arguments.is_distinct
    }

    fn create_groups_accumulator(
        &self,
        arguments: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let data_type = arguments.return_field.data_type().clone();
        if !is_exact(&data_type) {
            return self.inner.create_groups_accumulator(arguments);
        }
        Ok(Box::new(GroupSums {
            data_type,
            totals: Vec::new(),
        }))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// The sum of one group, or of a window's frame.
#[derive(Debug)]
struct Sum {
    data_type: DataType,
    total: i128,
    /// Number of values in `total`; a sum of none is null.
    values: u64,
    /// How often each value came, where each counts once.
    distinct: Option<HashMap<i128, u64>>,
}

impl Sum {
    fn add(&mut self, value: i128) -> Result<()> {
        if let Some(seen) = &mut self.distinct {
            let times = seen.entry(value).or_default();
            *times += 1;
            if *times > 1 {
                return Ok(());
            }
        }
        self.values += 1;
        self.total = plus(self.total, value);
        Ok(())
    }

    fn subtract(&mut self, value: i128) -> Result<()> {
        if let Some(seen) = &mut self.distinct {
            match seen.get_mut(&value) {
                Some(times) if *times > 1 => {
                    *times -= 1;
                    return Ok(());
                }
                _ => seen.remove(&value),
            };
        }
        self.values -= 1;
        self.total = match self.total {
            BEYOND => BEYOND,
            total => total.checked_sub(value).unwrap_or(BEYOND),
        };
        Ok(())
    }
}

impl Accumulator for Sum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        each(first(values)?, &mut |_, value| self.add(value))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        each(first(values)?, &mut |_, value| self.subtract(value))
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let total = (self.values > 0).then_some(self.total);
        ScalarValue::try_from_array(&totals(&[total], &self.data_type)?, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![match &self.distinct {
            None => ScalarValue::Decimal128((self.values > 0).then_some(self.total), 38, 0),
            Some(seen) => {
                let values = seen.keys();
                let values = values.map(|value| ScalarValue::Decimal128(Some(*value), 38, 0));
                let values: Vec<ScalarValue> = values.collect();
                ScalarValue::List(ScalarValue::new_list_nullable(&values, &STATE))
            }
        }])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let state = first(states)?;
        if self.distinct.is_none() {
            return each(state, &mut |_, value| self.add(value));
        }
        let Some(lists) = state.as_list_opt::<i32>() else {
            return internal_err!("the state of sum(distinct) is {}", state.data_type());
        };
        for values in lists.iter().flatten() {
            each(&values, &mut |_, value| self.add(value))?;
        }
        Ok(())
    }

    fn size(&self) -> usize {
        let entry = size_of::<(i128, u64)>() + 1;
        let distinct = self.distinct.as_ref();
        size_of::<Self>() + distinct.map_or(0, |seen| seen.capacity() * entry)
    }
}

/// The sums of many groups.
struct GroupSums {
    data_type: DataType,
    /// By group; none where no value came.
    totals: Vec<Option<i128>>,
}

impl GroupSums {
    fn add(
        &mut self,
        values: &ArrayRef,
        groups: &[usize],
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        self.totals.resize(count, None);
        each(values, &mut |row, value| {
            if filter.is_some_and(|filter| filter.is_null(row) || !filter.value(row)) {
                return Ok(());
            }
            let total = &mut self.totals[groups[row]];
            *total = Some(plus(total.unwrap_or(0), value));
            Ok(())
        })
    }
}

impl GroupsAccumulator for GroupSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        self.add(first(values)?, groups, filter, count)
    }

    /// Keeps the groups where it fails.
    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let totals = emit.take_needed(&mut self.totals);
        match self::totals(&totals, &self.data_type) {
            Ok(sums) => Ok(sums),
            Err(error) => {
                let rest = std::mem::replace(&mut self.totals, totals);
                self.totals.extend(rest);
                Err(error)
            }
        }
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let state = Decimal128Array::from(emit.take_needed(&mut self.totals));
        Ok(vec![Arc::new(state.with_data_type(STATE))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        self.add(first(states)?, groups, None, count)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let values = first(values)?;
        let mut states = vec![None; values.len()];
        each(values, &mut |row, value| {
            if filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row)) {
                states[row] = Some(value);
            }
            Ok(())
        })?;
        let states = Decimal128Array::from(states);
        Ok(vec![Arc::new(states.with_data_type(STATE))])
    }

    fn size(&self) -> usize {
        self.totals.capacity() * size_of::<Option<i128>>()
    }
}

fn first(arrays: &[ArrayRef]) -> Result<&ArrayRef> {
    match arrays.first() {
        Some(array) => Ok(array),
        None => internal_err!("sum got no column"),
    }
}

fn plus(total: i128, value: i128) -> i128 {
    match (total, value) {
        (BEYOND, _) | (_, BEYOND) => BEYOND,
        _ => total.checked_add(value).unwrap_or(BEYOND),
    }
}

fn out_of_range() -> datafusion_common::DataFusionError {
    told(Error::new(Class::Permanent, "sql.out-of-range").with("operation", "sum"))
}

/// Calls `take` with the row and the value of everything in the array that is not null.
fn each(array: &ArrayRef, take: &mut dyn FnMut(usize, i128) -> Result<()>) -> Result<()> {
    fn walk<T>(array: &ArrayRef, take: &mut dyn FnMut(usize, i128) -> Result<()>) -> Result<()>
    where
        T: ArrowPrimitiveType,
        T::Native: Into<i128>,
    {
        for (row, value) in array.as_primitive::<T>().iter().enumerate() {
            if let Some(value) = value {
                take(row, value.into())?;
            }
        }
        Ok(())
    }
    match array.data_type() {
        DataType::Int64 => walk::<Int64Type>(array, take),
        DataType::UInt64 => walk::<UInt64Type>(array, take),
        DataType::Decimal32(..) => walk::<Decimal32Type>(array, take),
        DataType::Decimal64(..) => walk::<Decimal64Type>(array, take),
        DataType::Decimal128(..) => walk::<Decimal128Type>(array, take),
        DataType::Duration(_) => walk::<Int64Type>(&cast(array, &DataType::Int64)?, take),
        other => exec_err!("sum got {other}"),
    }
}

/// Totals as an array of the result's type.
///
/// # Errors
/// A total does not fit.
fn totals(totals: &[Option<i128>], data_type: &DataType) -> Result<ArrayRef> {
    fn fit<T>(totals: &[Option<i128>]) -> Result<PrimitiveArray<T>>
    where
        T: ArrowPrimitiveType,
        T::Native: TryFrom<i128>,
    {
        let fitting = totals.iter().map(|total| match total {
            None => Ok(None),
            Some(total) => T::Native::try_from(*total)
                .map(Some)
                .map_err(|_| out_of_range()),
        });
        Ok(PrimitiveArray::from_iter(
            fitting.collect::<Result<Vec<_>>>()?,
        ))
    }
    let digits = |array: Result<(), arrow::error::ArrowError>| array.map_err(|_| out_of_range());
    Ok(match data_type {
        DataType::Int64 => Arc::new(fit::<Int64Type>(totals)?),
        DataType::UInt64 => Arc::new(fit::<UInt64Type>(totals)?),
        DataType::Duration(TimeUnit::Second) => Arc::new(fit::<DurationSecondType>(totals)?),
        DataType::Duration(TimeUnit::Millisecond) => {
            Arc::new(fit::<DurationMillisecondType>(totals)?)
        }
        DataType::Duration(TimeUnit::Microsecond) => {
            Arc::new(fit::<DurationMicrosecondType>(totals)?)
        }
        DataType::Duration(TimeUnit::Nanosecond) => {
            Arc::new(fit::<DurationNanosecondType>(totals)?)
        }
        DataType::Decimal32(precision, _) => {
            let array: Decimal32Array = fit(totals)?;
            digits(array.validate_decimal_precision(*precision))?;
            Arc::new(array.with_data_type(data_type.clone()))
        }
        DataType::Decimal64(precision, _) => {
            let array: Decimal64Array = fit(totals)?;
            digits(array.validate_decimal_precision(*precision))?;
            Arc::new(array.with_data_type(data_type.clone()))
        }
        DataType::Decimal128(precision, _) => {
            let array: Decimal128Array = fit(totals)?;
            digits(array.validate_decimal_precision(*precision))?;
            Arc::new(array.with_data_type(data_type.clone()))
        }
        other if totals.iter().all(Option::is_none) => new_null_array(other, totals.len()),
        other => return exec_err!("sum is not made of {other}"),
    })
}
