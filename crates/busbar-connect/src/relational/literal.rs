//! Rows as literals of SQL: values of a flow as texts, and which rows are sent together.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, Fields, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use busbar_change::write_time;
use busbar_connector::Delivery;
use busbar_event::format::encode_json;
use busbar_event::{Class, Error};

use super::sink::WriteRow;
use crate::change::Op;
use crate::change::keys::{AlikeKey, KeysTogether};
use crate::change::plan::{Refused, RowRequests, TargetColumn, WriteColumns, takes_over};
use crate::change::refusal::content_of;

/// One column of a batch, ready to be written.
pub struct LiteralCells {
    array: ArrayRef,
    json: bool,
}

/// A value that becomes a literal.
pub enum LiteralValue<'a> {
    Null,
    Bool(bool),
    /// A whole number, as it is written.
    Whole(String),
    /// A decimal number, as it is written.
    Decimal(String),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// A moment in UTC without its zone: `2024-02-29 23:59:59.000000`.
    Time(String),
    /// A structure or a list as JSON.
    Json(Cow<'a, str>),
    /// A date or another value, as Arrow shows it.
    Shown(String),
}

/// A row, ready to be sent.
pub struct LiteralRow {
    pub row: usize,
    pub op: Op,
    /// The literals of all columns.
    pub values: Vec<String>,
    /// Those of the key, with commas between them.
    pub key: String,
    /// What the key may be to the database.
    pub alike: Option<AlikeKey>,
    /// Columns that keep the value they have.
    pub kept: Vec<String>,
    /// What it is compared by, where the order is known here.
    pub newer: Option<i64>,
    /// The literal of the version that the change was made on, where one side wins.
    pub was: String,
    /// There was no row before it.
    pub is_new: bool,
}

/// What is done next with rows of a delivery.
pub enum WriteStep<'a> {
    /// The table is emptied.
    Empty,
    /// The same is done with all of these.
    Rows(Op, Vec<&'a LiteralRow>),
}

impl WriteRow for LiteralRow {
    fn row(&self) -> usize {
        self.row
    }

    fn content(&self) -> String {
        content_of(self.op, self.values.join(","))
    }
}

impl LiteralCells {
    /// Prepares a column for its target.
    ///
    /// # Errors
    /// *Configuration*: a type without literals, which [`TargetColumn::fit`] has refused before.
    pub fn new(column: &ArrayRef, target: &impl TargetColumn) -> Result<LiteralCells, Error> {
        let to = |to: DataType| {
            cast(column, &to).map_err(|why| {
                Error::new(Class::Configuration, "connect.type-never")
                    .with("column", target.name())
                    .with("from", column.data_type())
                    .with("to", target.shown())
                    .caused_by(why)
            })
        };
        let (array, json) = match column.data_type() {
            DataType::Dictionary(_, values) => {
                return LiteralCells::new(&to((**values).clone())?, target);
            }
            DataType::LargeUtf8 | DataType::Utf8View => (to(DataType::Utf8)?, false),
            DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                (to(DataType::Binary)?, false)
            }
            DataType::Timestamp(..) => {
                (to(DataType::Timestamp(TimeUnit::Microsecond, None))?, false)
            }
            DataType::Struct(_)
            | DataType::List(_)
            | DataType::LargeList(_)
            | DataType::Map(..) => {
                let field = Field::new("v", column.data_type().clone(), true);
                let object =
                    StructArray::new(Fields::from(vec![field]), vec![Arc::clone(column)], None);
                let json: ArrayRef = Arc::new(encode_json(&object));
                (json, true)
            }
            _ => (Arc::clone(column), false),
        };
        Ok(LiteralCells { array, json })
    }

    /// Whether a row has no value.
    pub fn is_null(&self, row: usize) -> bool {
        match self.json {
            true => self.object(row).is_none(),
            false => self.array.is_null(row),
        }
    }

    /// The value of `{"v":…}`, which is left out where there is none.
    fn object(&self, row: usize) -> Option<&[u8]> {
        let object = self.array.as_binary::<i32>().value(row);
        object.get(5..object.len().saturating_sub(1))
    }

    /// The value of a row.
    ///
    /// # Errors
    /// It cannot be shown.
    pub fn value(&self, row: usize) -> Result<LiteralValue<'_>, ArrowError> {
        if self.is_null(row) {
            return Ok(LiteralValue::Null);
        }
        let array = &self.array;
        Ok(match array.data_type() {
            DataType::Boolean => LiteralValue::Bool(array.as_boolean().value(row)),
            DataType::Utf8 => LiteralValue::Text(array.as_string::<i32>().value(row)),
            DataType::Binary if self.json => {
                let value = self.object(row).unwrap_or_default();
                LiteralValue::Json(String::from_utf8_lossy(value))
            }
            DataType::Binary => LiteralValue::Bytes(array.as_binary::<i32>().value(row)),
            DataType::Float32 => {
                LiteralValue::Float(f64::from(array.as_primitive::<Float32Type>().value(row)))
            }
            DataType::Float64 => {
                LiteralValue::Float(array.as_primitive::<Float64Type>().value(row))
            }
            DataType::Timestamp(..) => {
                let mut text = Vec::new();
                let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
                write_time(micros, &mut text);
                let text = String::from_utf8_lossy(&text);
                // Without what stands behind it a year before the first one would be another year.
                let text = text
                    .strip_suffix("+00")
                    .ok_or_else(|| ArrowError::CastError(format!("{text} is before the year 1")))?;
                LiteralValue::Time(text.to_owned())
            }
            kind => {
                let options = FormatOptions::default();
                let formatter = ArrayFormatter::try_new(array.as_ref(), &options)?;
                let text = formatter.value(row).try_to_string()?;
                match kind {
                    kind if kind.is_integer() => LiteralValue::Whole(text),
                    DataType::Decimal128(..) | DataType::Decimal256(..) => {
                        LiteralValue::Decimal(text)
                    }
                    _ => LiteralValue::Shown(text),
                }
            }
        })
    }
}

impl LiteralRow {
    /// Rows of a delivery as they are sent, and those that cannot be. `write` appends the literal of a value, or refuses it.
    ///
    /// # Errors
    /// *Configuration*: columns are of types that are not written.
    pub fn ready<T: TargetColumn>(
        written: &WriteColumns<T>,
        delivery: &Delivery,
        mode: Op,
        write: impl Fn(&LiteralCells, usize, &T, &mut String) -> Result<(), Error>,
    ) -> Result<(Vec<LiteralRow>, Vec<Refused>), Error> {
        let rows = &delivery.rows;
        let columns = written.columns.iter();
        let cells = columns.map(|(at, target)| LiteralCells::new(rows.column(*at), target));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        let was = written.prefer.map(|prefer| {
            let version = &written.columns[prefer.version].1;
            LiteralCells::new(rows.column(prefer.was), version)
        });
        let was = was.transpose()?;
        let asked = written.asked(rows, mode)?;
        let ready = RowRequests::ready(rows.num_rows(), |row| {
            let op = asked.op(row)?;
            if op == Op::Nothing {
                return Ok(None);
            }
            let mut values = Vec::with_capacity(cells.len());
            for (cells, (_, target)) in cells.iter().zip(&written.columns) {
                let mut value = String::new();
                write(cells, row, target, &mut value)?;
                values.push(value);
            }
            written.check_key(op, |at| cells[at].is_null(row))?;
            let mut version_was = String::new();
            if let (Some(prefer), Some(was)) = (written.prefer, &was) {
                match op {
                    // The deleted row is the one that the change was made on.
                    Op::Delete => version_was.clone_from(&values[prefer.version]),
                    _ => write(
                        was,
                        row,
                        &written.columns[prefer.version].1,
                        &mut version_was,
                    )?,
                }
            }
            let key = written.key.iter().map(|at| values[*at].as_str());
            let key = key.collect::<Vec<_>>().join(", ");
            Ok(Some(LiteralRow {
                row,
                op,
                alike: written.alike(|at| values[at].as_bytes()),
                values,
                key,
                kept: asked.kept(row),
                newer: asked.newer(row),
                was: version_was,
                is_new: asked.is_new(row),
            }))
        });
        Ok(ready)
    }

    /// In which steps rows are written. Of several rows with one key the last one counts, unless it waits for the one before it,
    /// of which it keeps values, with which it is compared, or whose key may be another one here only.
    pub fn steps<'a, T: TargetColumn>(
        rows: &'a [LiteralRow],
        written: &WriteColumns<T>,
    ) -> Vec<WriteStep<'a>> {
        let is_compared = written.newer.is_some();
        let compares = |op: Op| written.compares(op);
        let mut steps = Vec::new();
        let mut keys = KeysTogether::default();
        let mut begin = 0;
        for (at, row) in rows.iter().enumerate() {
            let waits = |before: &LiteralRow| {
                !row.kept.is_empty()
                    || compares(row.op)
                    || is_compared && !takes_over((before.op, before.newer), (row.op, row.newer))
            };
            let key = row.key.as_bytes();
            let before = keys.last(key).map(|before| &rows[before]);
            let follows = before.is_some_and(waits) || keys.may_be_other(key, row.alike.as_ref());
            if row.op == Op::Truncate || follows {
                grouped(&rows[begin..at], &keys, begin, compares, &mut steps);
                keys.clear();
                begin = at;
            }
            if row.op == Op::Truncate {
                steps.push(WriteStep::Empty);
                begin = at + 1;
                continue;
            }
            keys.note(key, row.alike.as_ref(), at);
        }
        let rest = rows.get(begin..).unwrap_or_default();
        grouped(rest, &keys, begin, compares, &mut steps);
        steps
    }
}

/// Adds the steps for the last row of each key.
fn grouped<'a>(
    rows: &'a [LiteralRow],
    keys: &KeysTogether<'_>,
    begin: usize,
    compares: impl Fn(Op) -> bool,
    steps: &mut Vec<WriteStep<'a>>,
) {
    let mut groups: Vec<(Op, Vec<&LiteralRow>)> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        // A row that takes the place of a deleted one keeps none of its values.
        let counts = matches!(row.op, Op::Insert | Op::Delete);
        if !counts && keys.last(row.key.as_bytes()) != Some(begin + at) {
            continue;
        }
        // A row of which not all values are known is no whole row.
        let op = match row.op {
            Op::Upsert if !row.kept.is_empty() && !compares(row.op) => Op::Update,
            op => op,
        };
        match groups.iter_mut().find(|(known, _)| *known == op) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((op, vec![row])),
        }
    }
    // What is deleted first makes room for what takes its place.
    groups.sort_by_key(|(op, _)| *op != Op::Delete);
    for (op, mut rows) in groups {
        if op != Op::Insert {
            // Locks are taken in one order, so that two writers do not wait for each other.
            rows.sort_by(|a, b| a.key.cmp(&b.key));
        }
        steps.push(WriteStep::Rows(op, rows));
    }
}

/// Digits behind the point of a text that is a number or a time, without zeros at their end.
pub fn fraction_digits(text: &str) -> usize {
    text.trim().split_once('.').map_or(0, |(_, digits)| {
        let end = digits.find(|c: char| !c.is_ascii_digit());
        let digits = &digits[..end.unwrap_or(digits.len())];
        digits.trim_end_matches('0').len()
    })
}
