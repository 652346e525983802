//! Column types of tables, and how Arrow's types map onto them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch, StringBuilder,
};
use arrow::compute::{CastOptions, cast_with_options, filter, nullif};
use arrow::datatypes::{
    DataType, Field, FieldRef, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::json::EncoderOptions;
use arrow::json::writer::make_encoder;
use busbar_event::format::FieldType;
use busbar_event::{Class, Error, time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{COLUMN_NAME_BYTES_MAX, COLUMNS_MAX, VALUE_BYTES_MAX};
use crate::table::{Rejected, Write, remaining};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    /// True or false.
    Bool,
    /// Whole numbers of 64 bits.
    Int,
    /// Floating-point numbers of 64 bits. There is no NaN: it is kept as null.
    Float,
    /// Text.
    Text,
    /// A moment in UTC with microseconds, in the years 0000 to 9999.
    Time,
    /// Bytes.
    Binary,
    /// A JSON document, kept as its text.
    Json,
}

/// Whole numbers up to this are floats, too.
pub(crate) const EXACT_INT_MAX: u64 = 1 << 53;

/// Marks a column of text as JSON, by Arrow's canonical extension name.
const EXTENSION_KEY: &str = "ARROW:extension:name";
const EXTENSION_JSON: &str = "arrow.json";

impl ColumnType {
    /// As a table's file writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::Text => "text",
            Self::Time => "time",
            Self::Binary => "binary",
            Self::Json => "json",
        }
    }

    /// The column that keeps `field`; none for a type that a table cannot keep.
    ///
    /// Unsigned and small whole numbers become `int`, decimals `float`, dates and times of day
    /// `text` in ISO form, lists, maps and structures `json`.
    pub fn of(field: &Field) -> Option<Self> {
        Self::of_type(field.data_type()).map(|found| {
            let json = field.metadata().get(EXTENSION_KEY).map(String::as_str);
            let json =
                json == Some(EXTENSION_JSON) || FieldType::of(field) == Some(FieldType::Json);
            if found == Self::Text && json {
                Self::Json
            } else {
                found
            }
        })
    }

    fn of_type(data_type: &DataType) -> Option<Self> {
        use DataType as D;
        Some(match data_type {
            D::Boolean => Self::Bool,
            D::Int8 | D::Int16 | D::Int32 | D::Int64 => Self::Int,
            D::UInt8 | D::UInt16 | D::UInt32 | D::UInt64 => Self::Int,
            D::Float16 | D::Float32 | D::Float64 => Self::Float,
            D::Decimal32(..) | D::Decimal64(..) | D::Decimal128(..) | D::Decimal256(..) => {
                Self::Float
            }
            D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Null => Self::Text,
            D::Date32 | D::Date64 | D::Time32(_) | D::Time64(_) => Self::Text,
            D::Duration(_) | D::Interval(_) => Self::Text,
            D::Timestamp(..) => Self::Time,
            D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => Self::Binary,
            D::List(_) | D::LargeList(_) | D::FixedSizeList(..) | D::Map(..) | D::Struct(_) => {
                Self::Json
            }
            D::Dictionary(_, value) => return Self::of_type(value),
            _ => return None,
        })
    }

    /// The Arrow type of the column.
    pub fn arrow(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Text | Self::Json => DataType::Utf8,
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Binary => DataType::Binary,
        }
    }

    /// A nullable Arrow field of this type.
    pub fn field(self, name: &str) -> Field {
        let field = Field::new(name, self.arrow(), true);
        if self == Self::Json {
            field.with_metadata([(EXTENSION_KEY.to_owned(), EXTENSION_JSON.to_owned())].into())
        } else {
            field
        }
    }

    /// The word for it in a table's file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::Text => "text",
            Self::Time => "time",
            Self::Binary => "binary",
            Self::Json => "json",
        }
    }

    /// The type that [`ColumnType::word`] names.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        [
            Self::Bool,
            Self::Int,
            Self::Float,
            Self::Text,
            Self::Time,
            Self::Binary,
            Self::Json,
        ]
        .into_iter()
        .find(|known| known.word() == word)
    }

    /// The type that keeps what a column of this type holds, and what `given` holds besides, for a column whose
    /// type nobody has declared.
    pub(crate) fn widened(self, given: Self) -> Option<Self> {
        match (self, given) {
            (Self::Int, Self::Float) => Some(Self::Float),
            (Self::Int | Self::Bool, Self::Text) => Some(Self::Text),
            _ => None,
        }
    }

    /// Whether a column of this type keeps what `given` holds without a change of meaning.
    pub(crate) fn takes(self, given: Self) -> bool {
        self == given
            || matches!(
                (self, given),
                (Self::Float, Self::Int) | (Self::Json, Self::Text) | (Self::Text, Self::Json)
            )
    }
}

/// Refuses keys of a look-up that are not those of a table whose key has these columns.
///
/// # Errors
/// `table.lookup-keys`.
pub fn check_lookup(
    table: &str,
    schema: &Schema,
    key: &[usize],
    given: &[ArrayRef],
) -> Result<(), Error> {
    let same = key.len() == given.len()
        && !key.is_empty()
        && key.iter().zip(given).all(|(column, array)| {
            schema.field(*column).data_type() == array.data_type() && array.len() == given[0].len()
        });
    match same {
        true => Ok(()),
        false => Err(Error::new(Class::Configuration, "table.lookup-keys").with("table", table)),
    }
}

/// The schema a table keeps for rows of `schema`: see [`ColumnType::of`] for how types map.
pub fn canonical_schema(schema: &Schema) -> Result<SchemaRef, Error> {
    let fields = schema
        .fields()
        .iter()
        .map(|field| canonical_field(field).map(Arc::new))
        .collect::<Result<Vec<FieldRef>, Error>>()?;
    let schema = Schema::new(fields);
    check_columns(&schema)?;
    Ok(Arc::new(schema))
}

fn canonical_field(field: &Field) -> Result<Field, Error> {
    match ColumnType::of(field) {
        Some(kind) => Ok(kind.field(field.name())),
        None => Err(
            Error::new(Class::Configuration, "table.column-type-unsupported")
                .with("column", field.name())
                .with("type", field.data_type()),
        ),
    }
}

/// Refuse names that an engine could not keep, or could not keep apart.
pub(crate) fn check_columns(schema: &Schema) -> Result<(), Error> {
    let refuse = |code, name: &str| {
        let short: String = name.chars().take(64).collect();
        Err(Error::new(Class::Configuration, code).with("column", short))
    };
    if schema.fields().len() > COLUMNS_MAX {
        return Err(Error::new(Class::Configuration, "table.too-many-columns")
            .with("columns", schema.fields().len())
            .with("most", COLUMNS_MAX));
    }
    let mut seen = BTreeMap::new();
    for field in schema.fields() {
        let name = field.name();
        if name.is_empty()
            || name.len() > COLUMN_NAME_BYTES_MAX
            || name.chars().any(char::is_control)
        {
            return refuse("table.column-name", name);
        }
        if name.to_ascii_lowercase().starts_with("_busbar_") {
            return refuse("table.column-name-reserved", name);
        }
        // SQLite's names ignore the case of ASCII letters.
        if seen.insert(name.to_ascii_lowercase(), ()).is_some() {
            return refuse("table.column-twice", name);
        }
    }
    Ok(())
}

/// A name for SQLite's row number that no column has taken.
pub(crate) fn row_number(schema: &Schema) -> Result<&'static str, Error> {
    let taken = |name: &str| {
        let mut fields = schema.fields().iter();
        fields.any(|field| field.name().eq_ignore_ascii_case(name))
    };
    let free = ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|name| !taken(name));
    free.ok_or_else(|| {
        Error::new(Class::Configuration, "table.column-name-reserved").with("column", "rowid")
    })
}

/// The schema after `more` has joined `have`; what both have must fit, or be of a type that `have` can be widened
/// to. `declared` says that the table's file names its columns, so that none can be added or widened; columns of the key are never widened.
///
/// # Errors
/// *Configuration*: a column that is declared otherwise, or not at all.
pub fn merge_columns(
    table: &str,
    key: &[String],
    have: &SchemaRef,
    more: &Schema,
    declared: bool,
) -> Result<SchemaRef, Error> {
    let more = canonical_schema(more)?;
    let mut fields: Vec<FieldRef> = have.fields().iter().cloned().collect();
    for field in more.fields() {
        match have.column_with_name(field.name()) {
            Some((place, kept)) => {
                let (kept, given) = (type_of(kept), type_of(field));
                let may_widen = !declared && !key.contains(field.name());
                match kept.widened(given).filter(|_| may_widen) {
                    _ if kept.takes(given) => {}
                    Some(wide) => fields[place] = Arc::new(wide.field(field.name())),
                    None => return Err(column_type_error(table, field.name(), kept, given)),
                }
            }
            None if declared => return Err(unknown_column_error(table, field.name(), have)),
            None => fields.push(Arc::clone(field)),
        }
    }
    let merged = Schema::new(fields);
    check_columns(&merged)?;
    Ok(if merged.fields() == have.fields() {
        Arc::clone(have)
    } else {
        Arc::new(merged)
    })
}

/// The values of a column that is widened.
///
/// # Errors
/// When a whole number cannot be a float without a change.
pub fn widen(
    table: &str,
    column: &str,
    values: &ArrayRef,
    to: ColumnType,
) -> Result<ArrayRef, Error> {
    if let (ColumnType::Float, Some(ints)) = (to, values.as_primitive_opt::<Int64Type>()) {
        let exact = |value: &i64| value.unsigned_abs() <= EXACT_INT_MAX;
        if !ints.iter().flatten().all(|value| exact(&value)) {
            return Err(column_type_error(table, column, ColumnType::Int, to));
        }
    }
    cast_with_options(values, &to.arrow(), &CastOptions::default()).map_err(arrow_error)
}

/// The type of a field that is already canonical.
pub(crate) fn type_of(field: &Field) -> ColumnType {
    ColumnType::of(field).unwrap_or(ColumnType::Text)
}

pub(crate) fn column_type_error(
    table: &str,
    column: &str,
    kept: ColumnType,
    given: ColumnType,
) -> Error {
    Error::new(Class::Configuration, "table.column-type")
        .with("table", table)
        .with("column", column)
        .with("kept", kept.word())
        .with("given", given.word())
}

fn unknown_column_error(table: &str, column: &str, have: &Schema) -> Error {
    let names: Vec<&str> = have.fields().iter().map(|f| f.name().as_str()).collect();
    Error::new(Class::Configuration, "table.unknown-column")
        .with("table", table)
        .with("column", column)
        .with("columns", names.join(", "))
}

/// Rows of a write in the table's own types, without those that cannot be kept.
#[derive(Debug)]
pub struct TypedRows {
    /// Column's place in the table's schema, and its values.
    pub columns: Vec<(usize, ArrayRef)>,
    /// True where the row is to be deleted.
    pub deletes: Option<BooleanArray>,
    /// How many rows they are.
    pub rows: usize,
    /// The rows that cannot be kept, by their place in the write.
    pub rejected: Vec<Rejected>,
}

impl TypedRows {
    /// Whether the row is to be deleted.
    pub fn is_delete(&self, row: usize) -> bool {
        self.deletes.as_ref().is_some_and(|mask| mask.value(row))
    }

    /// How many rows are to be deleted.
    pub fn deleted(&self) -> usize {
        self.deletes.as_ref().map_or(0, BooleanArray::true_count)
    }

    /// Rejects some of these rows, of `given` that came.
    ///
    /// # Errors
    /// *Permanent*: columns that do not fit each other.
    pub(crate) fn reject(&mut self, rejected: Vec<Rejected>, given: usize) -> Result<(), Error> {
        if rejected.is_empty() {
            return Ok(());
        }
        let places = remaining(given, &self.rejected);
        let mut all = std::mem::replace(&mut self.rejected, rejected);
        drop_rejected(self)?;
        let new = self.rejected.drain(..).map(|one| Rejected {
            row: places[one.row],
            cause: one.cause,
        });
        all.extend(new);
        all.sort_by_key(|one| one.row);
        self.rejected = all;
        Ok(())
    }

    /// The rows as one batch of the table's types.
    ///
    /// # Errors
    /// *Permanent*: columns that do not fit each other.
    pub fn to_record(&self, schema: &Schema) -> Result<RecordBatch, Error> {
        let fields = self
            .columns
            .iter()
            .map(|(column, _)| schema.field(*column).clone());
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let arrays = self.columns.iter().map(|(_, array)| Arc::clone(array));
        RecordBatch::try_new(schema, arrays.collect()).map_err(arrow_error)
    }

    /// The values of a column of the table, if the write has it.
    pub fn column(&self, index: usize) -> Option<&ArrayRef> {
        let found = self.columns.iter().find(|(column, _)| *column == index);
        found.map(|(_, array)| array)
    }
}

/// Bring the rows of `write` into the types of `schema`. Depends on nothing but its arguments, so
/// that a repeated write rejects the same rows.
///
/// # Errors
/// *Configuration*: columns that the table does not have or cannot keep, or a key that is missing.
pub fn typed_rows(
    table: &str,
    schema: &SchemaRef,
    key: &[usize],
    write: &Write<'_>,
) -> Result<TypedRows, Error> {
    let rows = write.rows.num_rows();
    let deletes = deletes(table, key, write)?;
    let mut rejections = Rejections::default();
    let mut columns = Vec::with_capacity(write.rows.num_columns());
    for (field, array) in write
        .rows
        .schema_ref()
        .fields()
        .iter()
        .zip(write.rows.columns())
    {
        let Some((index, kept)) = schema.column_with_name(field.name()) else {
            return Err(unknown_column_error(table, field.name(), schema));
        };
        let kept = type_of(kept);
        let given = ColumnType::of(&canonical_field(field)?).unwrap_or(ColumnType::Text);
        if !kept.takes(given) {
            return Err(column_type_error(table, field.name(), kept, given));
        }
        let is_key = key.contains(&index);
        let array = convert(field, array, kept, given, &mut rejections)?;
        if is_key && array.null_count() > 0 {
            rejections.where_null(&array, field.name());
        }
        columns.push((index, array));
    }
    for index in key {
        if !columns.iter().any(|(column, _)| column == index) {
            return Err(Error::new(Class::Configuration, "table.key-missing")
                .with("table", table)
                .with("column", schema.field(*index).name()));
        }
    }
    let mut prepared = TypedRows {
        columns,
        deletes,
        rows,
        rejected: rejections.finish(),
    };
    drop_rejected(&mut prepared)?;
    Ok(prepared)
}

fn deletes(table: &str, key: &[usize], write: &Write<'_>) -> Result<Option<BooleanArray>, Error> {
    let Some(mask) = write.deletes else {
        return Ok(None);
    };
    if mask.len() != write.rows.num_rows() {
        return Err(Error::new(Class::Permanent, "table.deletes-length")
            .with("rows", write.rows.num_rows())
            .with("deletes", mask.len()));
    }
    if mask.true_count() == 0 {
        return Ok(None);
    }
    if key.is_empty() {
        return Err(
            Error::new(Class::Configuration, "table.delete-without-key").with("table", table)
        );
    }
    // A null means "not known to be deleted": the row is kept.
    Ok(Some(match mask.nulls() {
        None => mask.clone(),
        Some(nulls) => BooleanArray::new(mask.values() & nulls.inner(), None),
    }))
}

fn drop_rejected(prepared: &mut TypedRows) -> Result<(), Error> {
    if prepared.rejected.is_empty() {
        return Ok(());
    }
    let mut keep = BooleanBufferBuilder::new(prepared.rows);
    keep.append_n(prepared.rows, true);
    for rejected in &prepared.rejected {
        keep.set_bit(rejected.row, false);
    }
    let keep = BooleanArray::new(keep.finish(), None);
    for (_, array) in &mut prepared.columns {
        *array = filter(array, &keep).map_err(arrow_error)?;
    }
    if let Some(mask) = &mut prepared.deletes {
        *mask = filter(mask, &keep)
            .map_err(arrow_error)?
            .as_boolean()
            .clone();
    }
    prepared.rows = keep.true_count();
    Ok(())
}

/// Rows to reject, each with the first cause found.
#[derive(Default)]
struct Rejections(BTreeMap<usize, Error>);

impl Rejections {
    fn add(&mut self, row: usize, cause: impl FnOnce() -> Error) {
        self.0.entry(row).or_insert_with(cause);
    }

    fn where_null(&mut self, array: &ArrayRef, column: &str) {
        for row in (0..array.len()).filter(|row| array.is_null(*row)) {
            self.add(row, || {
                Error::new(Class::Permanent, "table.key-null").with("column", column)
            });
        }
    }

    fn finish(self) -> Vec<Rejected> {
        let named = self.0.into_iter();
        named.map(|(row, cause)| Rejected { row, cause }).collect()
    }
}

fn convert(
    field: &Field,
    array: &ArrayRef,
    kept: ColumnType,
    given: ColumnType,
    rejections: &mut Rejections,
) -> Result<ArrayRef, Error> {
    let nested = given == ColumnType::Json && field.data_type().is_nested();
    let mut converted = if nested {
        to_json(field, array)?
    } else if *array.data_type() == kept.arrow() {
        Arc::clone(array)
    } else {
        let options = CastOptions {
            safe: true,
            ..CastOptions::default()
        };
        let cast = cast_with_options(array, &kept.arrow(), &options).map_err(arrow_error)?;
        if cast.null_count() > array.logical_null_count() {
            let before = array.logical_nulls();
            for row in (0..cast.len()).filter(|row| cast.is_null(*row)) {
                if before.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                    rejections.add(row, || {
                        Error::new(Class::Permanent, "table.value-range")
                            .with("column", field.name())
                            .with("type", kept.word())
                    });
                }
            }
        }
        cast
    };
    match kept {
        ColumnType::Float => {
            let floats = converted.as_primitive::<Float64Type>();
            if floats.values().iter().any(|value| value.is_nan()) {
                let nan = floats.values().iter().map(|value| Some(value.is_nan()));
                let nan: BooleanArray = nan.collect();
                converted = nullif(&converted, &nan).map_err(arrow_error)?;
            }
        }
        ColumnType::Time => {
            let times = converted.as_primitive::<TimestampMicrosecondType>();
            for row in 0..times.len() {
                if times.is_valid(row) && !time::is_written(times.value(row)) {
                    rejections.add(row, || {
                        Error::new(Class::Permanent, "table.value-range")
                            .with("column", field.name())
                            .with("type", kept.word())
                    });
                }
            }
        }
        ColumnType::Text | ColumnType::Json => {
            let texts = converted.as_string::<i32>();
            reject_large(field, texts.value_offsets(), rejections);
            if kept == ColumnType::Json && given == ColumnType::Text {
                reject_no_json(field, texts, rejections);
            }
        }
        ColumnType::Binary => {
            reject_large(
                field,
                converted.as_binary::<i32>().value_offsets(),
                rejections,
            );
        }
        ColumnType::Bool | ColumnType::Int => {}
    }
    Ok(converted)
}

fn reject_large(field: &Field, offsets: &[i32], rejections: &mut Rejections) {
    let total = offsets.last().copied().unwrap_or(0) - offsets.first().copied().unwrap_or(0);
    if (total as usize) <= VALUE_BYTES_MAX {
        return;
    }
    for (row, ends) in offsets.windows(2).enumerate() {
        let bytes = (ends[1] - ends[0]) as usize;
        if bytes > VALUE_BYTES_MAX {
            rejections.add(row, || {
                Error::new(Class::Permanent, "table.value-large")
                    .with("column", field.name())
                    .with("bytes", bytes)
                    .with("most", VALUE_BYTES_MAX)
            });
        }
    }
}

fn reject_no_json(field: &Field, texts: &arrow::array::StringArray, rejections: &mut Rejections) {
    for row in (0..texts.len()).filter(|row| texts.is_valid(*row)) {
        if let Err(cause) = serde_json::from_str::<serde::de::IgnoredAny>(texts.value(row)) {
            rejections.add(row, || {
                Error::new(Class::Permanent, "table.value-not-json")
                    .with("column", field.name())
                    .caused_by(cause)
            });
        }
    }
}

fn to_json(field: &Field, array: &ArrayRef) -> Result<ArrayRef, Error> {
    let field: FieldRef = Arc::new(field.clone());
    let options = EncoderOptions::default();
    let mut encoder = make_encoder(&field, array.as_ref(), &options).map_err(arrow_error)?;
    let mut texts = StringBuilder::with_capacity(array.len(), array.len() * 16);
    let mut buffer = Vec::new();
    for row in 0..array.len() {
        if encoder.is_null(row) {
            texts.append_null();
            continue;
        }
        buffer.clear();
        encoder.encode(row, &mut buffer);
        match std::str::from_utf8(&buffer) {
            Ok(text) => texts.append_value(text),
            Err(cause) => return Err(arrow_error(arrow::error::ArrowError::from(cause))),
        }
    }
    Ok(Arc::new(texts.finish()))
}

/// An error of Arrow's kernels: a fault of ours or of the data's types, not of the moment.
pub(crate) fn arrow_error(cause: arrow::error::ArrowError) -> Error {
    Error::new(Class::Permanent, "table.columns").caused_by(cause)
}

/// An empty batch's worth of nothing: used where a schema has no columns.
pub(crate) fn rows_without_columns(schema: &SchemaRef, rows: usize) -> Result<RecordBatch, Error> {
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), vec![], &options).map_err(arrow_error)
}
