//! `top`: the first rows of each window in an order.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use busbar_catalog::TopSpec;
use busbar_event::{Class, Error};
use busbar_sql::Projection;

use super::keyed::{
    KeyedOperator, KeyedState, KeyedStep, Keys, RowBytes, StateBytes, Stored, write_bytes,
};
use super::rows::misfit;
use super::{Operator, Output, Rows, Stateful, Step, StepContext, Wrong, misses_times};
use crate::limits::TOP_ROWS_MAX;
use crate::operator::window::Shape;

/// Compiles keys and order.
pub(super) fn compile(spec: &TopSpec, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    let schema = context.schema;
    let refuse = |code| Wrong::new(Error::new(Class::Configuration, code));
    if spec.n == 0 || spec.n > TOP_ROWS_MAX {
        let error = Error::new(Class::Configuration, "flow.top-rows").with("most", TOP_ROWS_MAX);
        return Err(Wrong::new(error).at("n"));
    }
    if spec.order.is_empty() {
        return Err(refuse("flow.top-order").at("order"));
    }
    let mut order = Vec::with_capacity(spec.order.len());
    for (i, text) in spec.order.iter().enumerate() {
        let (expression, descending) = direction(text);
        let expression = Projection::compile(schema, expression)
            .map_err(|wrong| Wrong::from(wrong).at(i).at("order"))?;
        order.push((expression, descending));
    }
    if schema.field_with_name(RANK).is_ok() {
        let error = Error::new(Class::Configuration, "flow.column-twice").with("column", RANK);
        return Err(Wrong::new(error));
    }
    let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(RANK, DataType::UInt32, false)));
    let size = spec.tumble.as_micros();
    let meaning = TopSpec {
        name: None,
        ..spec.clone()
    };
    Ok(Arc::new(Top {
        keyed: KeyedStep::compile(schema, &spec.by, spec.name.as_ref())?,
        order,
        n: spec.n as usize,
        ties: spec.ties,
        shape: Shape::new(size, size, 0).map_err(|error| Wrong::new(error).at("tumble"))?,
        input: Arc::clone(schema),
        schema: Arc::new(Schema::new(fields)),
        meaning: format!(
            "{} {:?}",
            serde_json::to_string(&meaning).unwrap_or_default(),
            schema.fields()
        ),
    }))
}

const RANK: &str = "rank";

/// An expression and whether the greatest comes first: `price desc`.
fn direction(text: &str) -> (&str, bool) {
    let trimmed = text.trim_end();
    match trimmed.rsplit_once(char::is_whitespace) {
        Some((expression, word)) if word.eq_ignore_ascii_case("desc") => (expression, true),
        Some((expression, word)) if word.eq_ignore_ascii_case("asc") => (expression, false),
        _ => (text, false),
    }
}

struct Top {
    keyed: KeyedStep,
    order: Vec<(Projection, bool)>,
    n: usize,
    ties: bool,
    shape: Shape,
    input: SchemaRef,
    schema: SchemaRef,
    meaning: String,
}

impl Step for Top {
    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }

    fn columns(&self) -> Vec<usize> {
        (0..self.input.fields().len()).collect()
    }

    fn row_by_row(&self) -> bool {
        false
    }

    fn stateful(&self) -> Option<Stateful> {
        Some(self.keyed.stateful(self.meaning.clone()))
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let bind = |(expression, descending): &(Projection, bool)| {
            Ok((expression.bind(schema)?, *descending))
        };
        let order: Vec<(Projection, bool)> =
            self.order.iter().map(bind).collect::<Result<_, Error>>()?;
        let fields = order.iter().map(|(expression, descending)| {
            // Null is the last in either direction.
            let options = SortOptions::new(*descending, false);
            SortField::new_with_options(expression.schema().field(0).data_type().clone(), options)
        });
        let ranking = Ranking {
            converter: RowConverter::new(fields.collect()).map_err(misfit)?,
            order,
            n: self.n,
            ties: self.ties,
            shape: self.shape,
            rows: RowBytes::new(&self.input)?,
            schema: Arc::clone(&self.schema),
        };
        self.keyed.operator(schema, ranking)
    }
}

struct Ranking {
    order: Vec<(Projection, bool)>,
    converter: RowConverter,
    n: usize,
    /// Rows that are equal to the last of the first `n` in the order belong to them.
    ties: bool,
    shape: Shape,
    rows: RowBytes,
    schema: SchemaRef,
}

/// The bytes a row is ordered by, and the row.
type Ranked = (Box<[u8]>, Box<[u8]>);

/// The first rows so far of one window and key. State is kept by the beginning of the window and the key.
struct Best {
    end: i64,
    /// In their order; of equal rows the one that came first stands first. Each with the bytes it is ordered by.
    rows: Vec<Ranked>,
}

/// The rows of a batch that belong to one window and key.
struct GroupRows {
    /// The beginning of the window and the key.
    key: Vec<u8>,
    end: i64,
    rows: Vec<u32>,
}

impl Stored for Best {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.end.to_le_bytes());
        for (order, row) in &self.rows {
            write_bytes(out, order);
            write_bytes(out, row);
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = StateBytes(bytes);
        let end = reader.i64()?;
        let mut rows = Vec::new();
        while !reader.0.is_empty() {
            rows.push((reader.bytes()?.into(), reader.bytes()?.into()));
        }
        Some(Best { end, rows })
    }

    fn heap_bytes(&self) -> usize {
        let each = size_of::<Ranked>();
        self.rows
            .iter()
            .map(|(order, row)| order.len() + row.len() + each)
            .sum()
    }

    fn due(&self) -> Option<i64> {
        Some(self.end)
    }
}

impl Best {
    /// Takes a row in among the first `n`, unless it comes behind them. `ties`: rows that are equal to the last of them
    /// belong to them.
    fn add(&mut self, by: &[u8], row: &[u8], n: usize, ties: bool) {
        let rows = &mut self.rows;
        let place = rows.partition_point(|(known, _)| **known <= *by);
        let is_tie = ties && rows.get(n - 1).is_some_and(|(last, _)| **last == *by);
        if place >= n && !is_tie {
            return;
        }
        rows.insert(place, (by.into(), row.into()));
        let keep = match rows.get(n - 1) {
            Some((last, _)) if ties => rows.partition_point(|(known, _)| known <= last),
            _ => n,
        };
        rows.truncate(keep);
    }
}

impl KeyedOperator for Ranking {
    type Kept = Best;

    fn load(&self, _keys: &Keys, _rows: &Rows, _kept: &mut KeyedState<Best>) -> Result<(), Error> {
        // State has other keys than rows: `take` looks at all of it before it changes anything.
        Ok(())
    }

    fn take(
        &mut self,
        keys: &Keys,
        rows: Rows,
        kept: &mut KeyedState<Best>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.order.len());
        for (expression, _) in &self.order {
            columns.push(Arc::clone(expression.evaluate(&rows.batch)?.column(0)));
        }
        let order = self.converter.convert_columns(&columns).map_err(misfit)?;
        let mut late = Vec::new();
        // The rows of each window and key of this batch, so that each is changed once.
        let mut groups: Vec<GroupRows> = Vec::new();
        let hasher = foldhash::fast::RandomState::default();
        let mut known: HashMap<(i64, &[u8]), usize, _> = HashMap::with_hasher(hasher);
        for row in 0..rows.len() {
            let Some(pane) = self.shape.pane(times.times[row], times.marks[row]) else {
                late.push(row as u32);
                continue;
            };
            let number = *known.entry((pane.start, keys.at(row))).or_insert_with(|| {
                groups.push(GroupRows {
                    key: [&pane.start.to_be_bytes()[..], keys.at(row)].concat(),
                    end: self.shape.end(pane.start),
                    rows: Vec::new(),
                });
                groups.len() - 1
            });
            groups[number].rows.push(row as u32);
        }
        // Most rows come behind the first ones that are known: only those that do not are written as bytes.
        let mut candidates: Vec<u32> = Vec::new();
        for group in &mut groups {
            let best = kept.get(&group.key)?;
            if let Some(last) = best.and_then(|best| best.rows.get(self.n - 1)) {
                let enters = |by: &[u8]| *by < *last.0 || self.ties && *by == *last.0;
                group
                    .rows
                    .retain(|row| enters(order.row(*row as usize).data()));
            }
            candidates.extend(&group.rows);
        }
        let candidates = UInt32Array::from(candidates);
        let encoded = self.rows.encode(&rows.take(&candidates)?.batch)?;
        let mut at = 0;
        for group in groups {
            if group.rows.is_empty() {
                continue;
            }
            kept.visit(&group.key, |slot| {
                let best = slot.change().get_or_insert_with(|| Best {
                    end: group.end,
                    rows: Vec::new(),
                });
                for row in &group.rows {
                    let by = order.row(*row as usize).data();
                    best.add(by, encoded.row(at).data(), self.n, self.ties);
                    at += 1;
                }
            })?;
        }
        out.taken += rows.len() - late.len();
        if !late.is_empty() {
            out.late.push(rows.take(&late.into())?);
        }
        Ok(())
    }

    fn on_time(
        &mut self,
        watermark: i64,
        kept: &mut KeyedState<Best>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let (mut rows, mut ranks, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for key in kept.due(watermark)? {
            if let Some(best) = kept.get(&key)? {
                let mut rank = 0;
                for (place, (by, row)) in best.rows.iter().enumerate() {
                    let tie = self.ties && place > 0 && best.rows[place - 1].0 == *by;
                    rank = if tie { rank } else { place as u32 + 1 };
                    rows.push(row.clone());
                    ranks.push(rank);
                    times.push(best.end - 1);
                }
            }
            kept.remove(&key);
        }
        if rows.is_empty() {
            return Ok(());
        }
        let mut columns = self.rows.decode(&rows)?;
        columns.push(Arc::new(UInt32Array::from(ranks)) as Arc<dyn Array>);
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(misfit)?;
        out.push(Rows::results(batch, times));
        Ok(())
    }

    fn tells_when_due(&self) -> bool {
        true
    }

    fn ends_with_input(&self) -> bool {
        true
    }
}
