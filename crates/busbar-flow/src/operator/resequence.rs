//! `resequence`: brings the events of each key into the order of their numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use busbar_catalog::ResequenceSpec;
use busbar_event::{Class, Error};
use busbar_sql::{Failed, Projection};

use super::keyed::{
    KeyedOperator, KeyedState, KeyedStep, Keys, RowBytes, StateBytes, Stored, flat, write_bytes,
};
use super::rows::misfit;
use super::{Operator, Output, Rows, Stateful, Step, StepContext, Wrong, misses_times};
use crate::limits::{RESEQUENCE_BUFFER, RESEQUENCE_BUFFER_MAX};

/// Compiles keys and numbers.
pub(super) fn compile(
    spec: &ResequenceSpec,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let schema = context.schema;
    let refuse = |code| Wrong::new(Error::new(Class::Configuration, code));
    if spec.within.as_micros() <= 0 {
        return Err(refuse("flow.span-positive").at("within"));
    }
    if spec.keep.is_some_and(|keep| keep.as_micros() <= 0) {
        return Err(refuse("flow.span-positive").at("keep"));
    }
    let buffer = spec.buffer.unwrap_or(RESEQUENCE_BUFFER);
    if buffer == 0 || buffer > RESEQUENCE_BUFFER_MAX {
        let error = Error::new(Class::Configuration, "flow.resequence-buffer");
        return Err(Wrong::new(error.with("most", RESEQUENCE_BUFFER_MAX)).at("buffer"));
    }
    let order = Projection::compile(schema, &spec.order).map_err(|w| Wrong::from(w).at("order"))?;
    let one = order.schema();
    if one.fields().len() != 1 || !flat(one.field(0).data_type()).is_integer() {
        return Err(refuse("flow.resequence-order").at("order"));
    }
    if schema.field_with_name(MISSING).is_ok() {
        let error = Error::new(Class::Configuration, "flow.column-twice").with("column", MISSING);
        return Err(Wrong::new(error));
    }
    let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(MISSING, DataType::Int64, false)));
    let meaning = ResequenceSpec {
        name: None,
        ..spec.clone()
    };
    Ok(Arc::new(Resequence {
        keyed: KeyedStep::compile(schema, &spec.by, spec.name.as_ref())?,
        order,
        rule: GapRule {
            within: spec.within.as_micros(),
            first: spec.first,
            buffer: buffer as usize,
            keep: spec.keep.map(|keep| keep.as_micros()),
        },
        meaning: format!(
            "{} {:?}",
            serde_json::to_string(&meaning).unwrap_or_default(),
            schema.fields()
        ),
        input: Arc::clone(schema),
        schema: Arc::new(Schema::new(fields)),
    }))
}

const MISSING: &str = "missing";

/// How long and how many events wait.
#[derive(Clone, Copy)]
struct GapRule {
    /// In microseconds.
    within: i64,
    first: Option<i64>,
    buffer: usize,
    /// In microseconds.
    keep: Option<i64>,
}

struct Resequence {
    keyed: KeyedStep,
    order: Projection,
    rule: GapRule,
    input: SchemaRef,
    schema: SchemaRef,
    meaning: String,
}

impl Step for Resequence {
    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }

    fn columns(&self) -> Vec<usize> {
        (0..self.input.fields().len()).collect()
    }

    fn row_by_row(&self) -> bool {
        false
    }

    fn delay(&self) -> i64 {
        self.rule.within
    }

    fn stateful(&self) -> Option<Stateful> {
        Some(self.keyed.stateful(self.meaning.clone()))
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let ordering = Ordering {
            order: self.order.bind(schema)?,
            rule: self.rule,
            rows: RowBytes::new(&self.input)?,
            schema: Arc::clone(&self.schema),
        };
        self.keyed.operator(schema, ordering)
    }
}

struct Ordering {
    order: Projection,
    rule: GapRule,
    rows: RowBytes,
    schema: SchemaRef,
}

/// What is remembered of a key.
struct WaitingRows {
    /// The number that comes next; none before the first.
    next: Option<i64>,
    /// The watermark at which the key is forgotten, if nothing waits then.
    forget: i64,
    /// By their numbers: the event time and the row.
    rows: BTreeMap<i64, (i64, Box<[u8]>)>,
    /// The watermark at which the first of them has waited long enough.
    deadline: i64,
}

/// Rows in their order.
#[derive(Default)]
struct Ordered {
    rows: Vec<Box<[u8]>>,
    missing: Vec<i64>,
    times: Vec<i64>,
}

impl Stored for WaitingRows {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.next.is_some()));
        for number in [self.next.unwrap_or(0), self.forget, self.deadline] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for (number, (time, row)) in &self.rows {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&time.to_le_bytes());
            write_bytes(out, row);
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = StateBytes(bytes);
        let has_next = reader.u8()? == 1;
        let next = reader.i64()?;
        let mut waiting = WaitingRows {
            next: has_next.then_some(next),
            forget: reader.i64()?,
            deadline: reader.i64()?,
            rows: BTreeMap::new(),
        };
        while !reader.0.is_empty() {
            let (number, time) = (reader.i64()?, reader.i64()?);
            waiting.rows.insert(number, (time, reader.bytes()?.into()));
        }
        Some(waiting)
    }

    fn heap_bytes(&self) -> usize {
        let each = size_of::<(i64, (i64, Box<[u8]>))>();
        self.rows.values().map(|(_, row)| row.len() + each).sum()
    }

    fn due(&self) -> Option<i64> {
        match self.rows.is_empty() {
            true => (self.forget < i64::MAX).then_some(self.forget),
            false => Some(self.deadline),
        }
    }

    fn rows_held(&self) -> u64 {
        self.rows.len() as u64
    }
}

impl WaitingRows {
    fn new(first: Option<i64>) -> WaitingRows {
        WaitingRows {
            next: first,
            forget: i64::MAX,
            rows: BTreeMap::new(),
            deadline: i64::MAX,
        }
    }

    /// Gives out the rows up to this number, and those that follow without a gap.
    fn give(&mut self, to: i64, within: i64, ordered: &mut Ordered) {
        while let Some(entry) = self.rows.first_entry() {
            let number = *entry.key();
            if number > to && self.next != Some(number) {
                break;
            }
            let (time, row) = entry.remove();
            let missing = self.next.map_or(0, |next| number.saturating_sub(next));
            ordered.add(row, missing, time);
            self.next = Some(number.saturating_add(1));
        }
        let oldest = self.rows.values().map(|(time, _)| *time).min();
        self.deadline = oldest.map_or(i64::MAX, |time| time.saturating_add(within));
    }

    /// Gives missing numbers up that a row has waited for long enough.
    fn expire(&mut self, watermark: i64, within: i64, ordered: &mut Ordered) {
        if self.deadline > watermark {
            return;
        }
        let waited = |(time, _): &(i64, Box<[u8]>)| time.saturating_add(within) <= watermark;
        let mut over = self.rows.iter().rev();
        if let Some((number, _)) = over.find(|(_, row)| waited(row)) {
            self.give(*number, within, ordered);
        }
    }
}

impl Ordered {
    fn add(&mut self, row: Box<[u8]>, missing: i64, time: i64) {
        self.rows.push(row);
        self.missing.push(missing);
        self.times.push(time);
    }
}

/// What became of a row.
enum Placed {
    Taken,
    Late,
}

impl Ordering {
    fn place(
        &self,
        known: &mut Option<WaitingRows>,
        number: i64,
        (time, mark): (i64, i64),
        row: &[u8],
        ordered: &mut Ordered,
    ) -> Placed {
        let rule = self.rule;
        let is_forgotten = |known: &WaitingRows| known.rows.is_empty() && known.forget <= mark;
        if let Some(waiting) = known {
            waiting.expire(mark, rule.within, ordered);
            if is_forgotten(waiting) {
                *known = None;
            }
        }
        let waiting = known.get_or_insert_with(|| WaitingRows::new(rule.first));
        let is_passed = waiting.next.is_some_and(|next| number < next);
        if is_passed || waiting.rows.contains_key(&number) {
            return Placed::Late;
        }
        if let Some(keep) = rule.keep {
            let forget = time.max(mark).saturating_add(keep);
            waiting.forget = match waiting.forget {
                i64::MAX => forget,
                known => known.max(forget),
            };
        }
        let deadline = time.saturating_add(rule.within);
        waiting.rows.insert(number, (time, row.into()));
        waiting.deadline = waiting.deadline.min(deadline);
        if waiting.next == Some(number) {
            waiting.give(number, rule.within, ordered);
        } else if waiting.rows.len() > rule.buffer
            && let Some(least) = waiting.rows.keys().next().copied()
        {
            waiting.give(least, rule.within, ordered);
        }
        // It came so late that it has waited already.
        waiting.expire(mark, rule.within, ordered);
        Placed::Taken
    }

    fn tell(&self, ordered: Ordered, out: &mut Output) -> Result<(), Error> {
        if ordered.rows.is_empty() {
            return Ok(());
        }
        let mut columns = self.rows.decode(&ordered.rows)?;
        columns.push(Arc::new(Int64Array::from(ordered.missing)) as ArrayRef);
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(misfit)?;
        out.push(Rows::results(batch, ordered.times));
        Ok(())
    }
}

impl KeyedOperator for Ordering {
    type Kept = WaitingRows;

    fn take(
        &mut self,
        keys: &Keys,
        rows: Rows,
        kept: &mut KeyedState<WaitingRows>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let numbers = Arc::clone(self.order.evaluate(&rows.batch)?.column(0));
        let numbers = cast(&numbers, &DataType::Int64).map_err(misfit)?;
        let numbers = numbers.as_primitive::<Int64Type>();
        let encoded = self.rows.encode(&rows.batch)?;
        let mut ordered = Ordered::default();
        let mut late: Vec<u32> = Vec::new();
        let mut dead = 0;
        for row in 0..rows.len() {
            if numbers.is_null(row) {
                let error = Error::new(Class::Permanent, "flow.resequence-null");
                out.fail(&rows, row, error);
                dead += 1;
                continue;
            }
            let time = (times.times[row], times.marks[row]);
            let bytes = encoded.row(row).data();
            let placed = kept.visit(keys.at(row), |slot| {
                let known = slot.change();
                self.place(known, numbers.value(row), time, bytes, &mut ordered)
            })?;
            if let Placed::Late = placed {
                late.push(row as u32);
            }
        }
        out.taken += rows.len() - late.len() - dead;
        if !late.is_empty() {
            out.late.push(rows.take(&UInt32Array::from(late))?);
        }
        self.tell(ordered, out)
    }

    fn failing(&self, rows: &Rows) -> Vec<Failed> {
        self.order.failing(&rows.batch)
    }

    fn on_time(
        &mut self,
        watermark: i64,
        kept: &mut KeyedState<WaitingRows>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let mut ordered = Ordered::default();
        for key in kept.due(watermark)? {
            let is_over = kept.visit(&key, |slot| {
                let known = slot.change();
                if let Some(waiting) = known {
                    waiting.expire(watermark, self.rule.within, &mut ordered);
                    if waiting.rows.is_empty() && waiting.forget <= watermark {
                        *known = None;
                    }
                }
                known.is_none()
            })?;
            if is_over {
                kept.remove(&key);
            }
        }
        self.tell(ordered, out)
    }

    fn tells_when_due(&self) -> bool {
        true
    }

    fn ends_with_input(&self) -> bool {
        true
    }
}
