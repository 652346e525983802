//! Columns as values of documents.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float64Type, Int32Type, Int64Type, TimeUnit,
    UInt64Type,
};
use busbar_event::format::FieldType;
use busbar_event::{Class, Error, quote};

use super::bson::BsonWriter;
use super::decimal::decimal_of;
use super::json::{json_value, object_id};

/// A column, ready to be written.
pub struct BsonColumn {
    /// Its name, the name of the field.
    pub name: String,
    array: ArrayRef,
    form: CellForm,
    /// Times are cut to milliseconds.
    cut: bool,
}

enum CellForm {
    Nothing,
    Bool,
    Int,
    Long,
    Unsigned,
    Double,
    /// With so many digits behind the point.
    Decimal(i32),
    Text,
    Json,
    ObjectId,
    Bytes,
    /// Numbers of which so many are a millisecond; or each is so many milliseconds.
    Time(i64, i64),
    Day,
    List(Box<BsonColumn>),
    Map(Box<BsonColumn>),
    Object(Vec<BsonColumn>),
}

/// What is made of texts and times.
#[derive(Clone, Copy, Debug, Default)]
pub struct CellOptions<'a> {
    /// Columns whose texts are ObjectIds.
    pub object_ids: &'a [String],
    /// Times are cut to milliseconds in place of being refused.
    pub cut: bool,
}

impl BsonColumn {
    /// Prepares a column.
    ///
    /// # Errors
    /// *Configuration*: a type that documents have no place for.
    pub fn new(
        field: &Field,
        array: &ArrayRef,
        options: CellOptions<'_>,
    ) -> Result<BsonColumn, Error> {
        let name = field.name();
        let to = |to: &DataType| {
            cast(array, to).map_err(|why| {
                Error::new(Class::Configuration, "connect.column-type")
                    .with("column", name)
                    .with("from", array.data_type())
                    .caused_by(why)
            })
        };
        // Columns within others have options of their own names.
        let inner = CellOptions {
            object_ids: &[],
            ..options
        };
        let as_is = || Arc::clone(array);
        let column = |array, form| BsonColumn {
            name: name.clone(),
            array,
            form,
            cut: options.cut,
        };
        let text = || match FieldType::of(field) {
            _ if options.object_ids.contains(name) => CellForm::ObjectId,
            Some(FieldType::Json) => CellForm::Json,
            _ => CellForm::Text,
        };
        Ok(match array.data_type() {
            DataType::Null => column(as_is(), CellForm::Nothing),
            DataType::Dictionary(_, values) => {
                let field = Field::new(name, values.as_ref().clone(), true);
                return BsonColumn::new(&field, &to(values)?, options);
            }
            DataType::Boolean => column(as_is(), CellForm::Bool),
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::UInt8
            | DataType::UInt16 => column(to(&DataType::Int32)?, CellForm::Int),
            DataType::Int64 | DataType::UInt32 => column(to(&DataType::Int64)?, CellForm::Long),
            DataType::UInt64 => column(as_is(), CellForm::Unsigned),
            DataType::Float16 | DataType::Float32 | DataType::Float64 => {
                column(to(&DataType::Float64)?, CellForm::Double)
            }
            DataType::Decimal128(_, scale) => column(as_is(), CellForm::Decimal((*scale).into())),
            DataType::Utf8 => column(as_is(), text()),
            DataType::LargeUtf8 | DataType::Utf8View => column(to(&DataType::Utf8)?, text()),
            DataType::Binary => column(as_is(), CellForm::Bytes),
            DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                column(to(&DataType::Binary)?, CellForm::Bytes)
            }
            DataType::Timestamp(unit, _) => {
                let (of, makes) = match unit {
                    TimeUnit::Second => (1, 1_000),
                    TimeUnit::Millisecond => (1, 1),
                    TimeUnit::Microsecond => (1_000, 1),
                    TimeUnit::Nanosecond => (1_000_000, 1),
                };
                column(to(&DataType::Int64)?, CellForm::Time(of, makes))
            }
            DataType::Date32 => column(as_is(), CellForm::Day),
            DataType::Date64 => column(to(&DataType::Int64)?, CellForm::Time(1, 1)),
            DataType::List(item) => {
                let items = BsonColumn::new(item, array.as_list::<i32>().values(), inner)?;
                column(as_is(), CellForm::List(Box::new(items)))
            }
            DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                let list = to(&DataType::List(Arc::clone(item)))?;
                let items = BsonColumn::new(item, list.as_list::<i32>().values(), inner)?;
                column(list, CellForm::List(Box::new(items)))
            }
            DataType::Map(..) if array.as_map().keys().data_type() == &DataType::Utf8 => {
                let values = array.as_map().values();
                let item = Field::new("value", values.data_type().clone(), true);
                let values = BsonColumn::new(&item, values, inner)?;
                column(as_is(), CellForm::Map(Box::new(values)))
            }
            DataType::Struct(fields) => {
                let columns = fields.iter().zip(array.as_struct().columns());
                let columns = columns.map(|(field, array)| BsonColumn::new(field, array, inner));
                column(
                    as_is(),
                    CellForm::Object(columns.collect::<Result<_, _>>()?),
                )
            }
            // Times of day, durations, and what else has a text.
            _ => column(to(&DataType::Utf8)?, CellForm::Text),
        })
    }

    pub fn is_null(&self, row: usize) -> bool {
        matches!(self.form, CellForm::Nothing) || self.array.is_null(row)
    }

    /// Adds the value of a row. A field of a document without a value is left out.
    ///
    /// # Errors
    /// *Permanent*: a value that would not be the same there.
    pub fn write(&self, row: usize, name: &str, out: &mut BsonWriter) -> Result<(), Error> {
        if self.is_null(row) {
            out.null(name);
            return Ok(());
        }
        let array = &self.array;
        let refused = |code, value: String| {
            Error::new(Class::Permanent, code)
                .with("column", &self.name)
                .with("value", value)
        };
        match &self.form {
            CellForm::Nothing => out.null(name),
            CellForm::Bool => out.bool(name, array.as_boolean().value(row)),
            CellForm::Int => out.int(name, array.as_primitive::<Int32Type>().value(row)),
            CellForm::Long => out.long(name, array.as_primitive::<Int64Type>().value(row)),
            CellForm::Unsigned => {
                let value = array.as_primitive::<UInt64Type>().value(row);
                let fits = i64::try_from(value);
                out.long(
                    name,
                    fits.map_err(|_| refused("mongodb.number", value.to_string()))?,
                );
            }
            CellForm::Double => out.double(name, array.as_primitive::<Float64Type>().value(row)),
            CellForm::Decimal(scale) => {
                let decimals = array.as_primitive::<Decimal128Type>();
                let value = decimal_of(decimals.value(row), *scale);
                let shown = || refused("mongodb.number", decimals.value_as_string(row));
                out.decimal(name, value.ok_or_else(shown)?);
            }
            CellForm::Text => out.text(name, array.as_string::<i32>().value(row)),
            CellForm::Json => {
                let text = array.as_string::<i32>().value(row);
                json_value(name, text, out)
                    .map_err(|why| refused("mongodb.json", quote(text)).caused_by(why))?;
            }
            CellForm::ObjectId => {
                let text = array.as_string::<i32>().value(row);
                let id = object_id(text);
                out.object_id(
                    name,
                    id.ok_or_else(|| refused("mongodb.object-id", quote(text)))?,
                );
            }
            CellForm::Bytes => out.binary(name, 0, array.as_binary::<i32>().value(row)),
            CellForm::Time(of, makes) => {
                let value = array.as_primitive::<Int64Type>().value(row);
                if value.rem_euclid(*of) != 0 && !self.cut {
                    return Err(refused("mongodb.time", value.to_string()));
                }
                let millis = value.div_euclid(*of).checked_mul(*makes);
                out.date(
                    name,
                    millis.ok_or_else(|| refused("mongodb.time", value.to_string()))?,
                );
            }
            CellForm::Day => {
                let day = array.as_primitive::<Date32Type>().value(row);
                out.date(name, i64::from(day) * 86_400_000);
            }
            CellForm::List(items) => {
                let offsets = array.as_list::<i32>().offsets();
                out.open_array(name);
                for (at, item) in range(offsets, row).enumerate() {
                    items.write(item, &at.to_string(), out)?;
                }
                out.close();
            }
            CellForm::Map(values) => {
                let map = array.as_map();
                let keys = map.keys().as_string::<i32>();
                out.open(name);
                for item in range(map.offsets(), row) {
                    let key = keys.value(item);
                    if key.contains('\0') {
                        return Err(refused("mongodb.json", quote(key)));
                    }
                    values.write(item, key, out)?;
                }
                out.close();
            }
            CellForm::Object(columns) => {
                out.open(name);
                for column in columns.iter().filter(|column| !column.is_null(row)) {
                    column.write(row, &column.name, out)?;
                }
                out.close();
            }
        }
        Ok(())
    }
}

fn range(offsets: &[i32], row: usize) -> std::ops::Range<usize> {
    let at = |at: usize| usize::try_from(offsets[at]).unwrap_or(0);
    at(row)..at(row + 1)
}
