//! `hop_starts(time, size, every)`: the beginnings of the windows of `size` microseconds, one every `every`
//! microseconds since 1970, that hold a time. What `group by hop(…)` becomes over stored events.

use std::sync::Arc;

use arrow::array::{Array, AsArray, ListArray, TimestampMicrosecondArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType};
use busbar_event::{Class, Error};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::usage::misused;
use crate::budget::told;
use crate::limits::HOPS_MAX;

pub(super) fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(HopStarts {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct HopStarts {
    signature: Signature,
}

impl ScalarUDFImpl for HopStarts {
    fn name(&self) -> &str {
        "hop_starts"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [DataType::Timestamp(_, zone), size, every]
                if size.is_integer() && every.is_integer() =>
            {
                let time = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
                Ok(vec![time, DataType::Int64, DataType::Int64])
            }
            _ => Err(misused("hop_starts")),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments.first() {
            Some(time) => Ok(DataType::List(item(time))),
            None => Err(misused("hop_starts")),
        }
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [
            times,
            ColumnarValue::Scalar(ScalarValue::Int64(Some(size))),
            ColumnarValue::Scalar(ScalarValue::Int64(Some(every))),
        ] = &call.args[..]
        else {
            return Err(misused("hop_starts"));
        };
        let (size, every) = (*size, *every);
        if every <= 0 || size < every {
            return Err(misused("hop_starts"));
        }
        if size / every > HOPS_MAX {
            return Err(told(
                Error::new(Class::Configuration, "sql.window-hops")
                    .with("windows", size / every)
                    .with("most", HOPS_MAX),
            ));
        }
        let times = times.to_array(call.number_rows)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let mut starts: Vec<i64> = Vec::new();
        let mut lengths = Vec::with_capacity(times.len());
        for row in 0..times.len() {
            let before = starts.len();
            if times.is_valid(row) {
                let time = times.value(row);
                let mut start = time.div_euclid(every).saturating_mul(every);
                while start > time.saturating_sub(size) {
                    starts.push(start);
                    let Some(earlier) = start.checked_sub(every) else {
                        break;
                    };
                    start = earlier;
                }
                starts[before..].reverse();
            }
            lengths.push(starts.len() - before);
        }
        let starts =
            TimestampMicrosecondArray::from(starts).with_data_type(times.data_type().clone());
        let lists = ListArray::new(
            item(times.data_type()),
            OffsetBuffer::from_lengths(lengths),
            Arc::new(starts),
            None,
        );
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}

fn item(time: &DataType) -> FieldRef {
    Arc::new(Field::new("item", time.clone(), true))
}
