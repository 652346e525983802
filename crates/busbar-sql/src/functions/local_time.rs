//! `local_time(time, 'Asia/Shanghai')`: the time of day of a moment in a time zone, such as `08:30:00`. The zone is a name
//! of the IANA database, or an offset such as `+08:00`.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{AsArray, Time64MicrosecondArray};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType};
use busbar_event::{Class, Error};
use chrono::{DateTime, Offset, TimeZone};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::usage::misused;
use crate::budget::told;

const DAY_MICROS: i64 = 24 * 3600 * 1_000_000;

pub(super) fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(LocalTime {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct LocalTime {
    signature: Signature,
}

impl ScalarUDFImpl for LocalTime {
    fn name(&self) -> &str {
        "local_time"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [DataType::Timestamp(..), DataType::Utf8 | DataType::Utf8View] => {
                Ok(vec![moment(), DataType::Utf8])
            }
            _ => Err(misused("local_time")),
        }
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Time64(TimeUnit::Microsecond))
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        match arguments.scalar_arguments.get(1) {
            Some(Some(ScalarValue::Utf8(Some(zone)) | ScalarValue::Utf8View(Some(zone)))) => {
                parse_zone(zone)?;
            }
            _ => return Err(misused("local_time")),
        }
        let returned = DataType::Time64(TimeUnit::Microsecond);
        Ok(Arc::new(Field::new(self.name(), returned, true)))
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [times, ColumnarValue::Scalar(ScalarValue::Utf8(Some(zone)))] = &call.args[..] else {
            return Err(misused("local_time"));
        };
        let mut zone = Zone::new(parse_zone(zone)?);
        let is_scalar = matches!(times, ColumnarValue::Scalar(_));
        let times = times.to_array(if is_scalar { 1 } else { call.number_rows })?;
        let Some(times) = times.as_primitive_opt::<TimestampMicrosecondType>() else {
            return Err(misused("local_time"));
        };
        let local = times.iter().map(|micros| zone.time_of_day(micros?));
        let local: Time64MicrosecondArray = local.collect();
        Ok(match is_scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&local, 0)?),
            false => ColumnarValue::Array(Arc::new(local)),
        })
    }
}

fn moment() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn parse_zone(zone: &str) -> Result<Tz> {
    zone.parse().map_err(|_| {
        let zone = busbar_event::quote(zone);
        told(Error::new(Class::Configuration, "sql.unknown-zone").with("zone", zone))
    })
}

/// A zone, with its offset in the present quarter of an hour: offsets change at such times only, and events of a batch are
/// near each other.
struct Zone {
    zone: Tz,
    quarter: i64,
    offset_micros: i64,
}

const QUARTER_MICROS: i64 = 15 * 60 * 1_000_000;

impl Zone {
    fn new(zone: Tz) -> Zone {
        Zone {
            zone,
            quarter: i64::MIN,
            offset_micros: 0,
        }
    }

    /// None for moments that the calendar does not reach.
    fn time_of_day(&mut self, micros: i64) -> Option<i64> {
        let quarter = micros.div_euclid(QUARTER_MICROS);
        if quarter != self.quarter {
            let moment = DateTime::from_timestamp_micros(micros)?.naive_utc();
            let offset = self.zone.offset_from_utc_datetime(&moment).fix();
            self.offset_micros = i64::from(offset.local_minus_utc()) * 1_000_000;
            self.quarter = quarter;
        }
        Some(
            micros
                .checked_add(self.offset_micros)?
                .rem_euclid(DAY_MICROS),
        )
    }
}
