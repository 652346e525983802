//! `pattern`: events of one key that follow each other, each with a condition of its own.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use busbar_catalog::PatternSpec;
use busbar_event::{Class, Error};
use busbar_sql::{Failed, Predicate};

use super::keyed::{KeyedOperator, KeyedState, KeyedStep, Keys, StateBytes, Stored};
use super::rows::misfit;
use super::{Operator, Output, Rows, Stateful, Step, StepContext, Wrong, misses_times};
use crate::limits::{PATTERN_EVENTS_MAX, PATTERN_OPEN_MAX};

/// Compiles keys and conditions.
pub(super) fn compile(
    spec: &PatternSpec,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let schema = context.schema;
    let refuse = |code| Error::new(Class::Configuration, code);
    if spec.sequence.len() < 2 || spec.sequence.len() > PATTERN_EVENTS_MAX {
        let error = refuse("flow.pattern-events").with("most", PATTERN_EVENTS_MAX);
        return Err(Wrong::new(error).at("sequence"));
    }
    if spec.within.as_micros() <= 0 {
        return Err(Wrong::new(refuse("flow.span-positive")).at("within"));
    }
    let mut conditions = Vec::with_capacity(spec.sequence.len());
    let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
    for (i, event) in spec.sequence.iter().enumerate() {
        let condition = Predicate::compile(schema, &event.when)
            .map_err(|wrong| Wrong::from(wrong).at("when").at(i).at("sequence"))?;
        conditions.push(condition);
        let name = format!("{}_time", event.name);
        if fields.iter().any(|known| *known.name() == name) {
            let error = refuse("flow.column-twice").with("column", name);
            return Err(Wrong::new(error).at("name").at(i).at("sequence"));
        }
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        fields.push(Arc::new(Field::new(name, time, false)));
    }
    let without = match &spec.without {
        Some(text) => Some(
            Predicate::compile(schema, text).map_err(|wrong| Wrong::from(wrong).at("without"))?,
        ),
        None => None,
    };
    let meaning = PatternSpec {
        name: None,
        ..spec.clone()
    };
    Ok(Arc::new(Pattern {
        keyed: KeyedStep::compile(schema, &spec.by, spec.name.as_ref())?,
        conditions,
        without,
        within: spec.within.as_micros(),
        input: Arc::clone(schema),
        schema: Arc::new(Schema::new(fields)),
        meaning: serde_json::to_string(&meaning).unwrap_or_default(),
    }))
}

struct Pattern {
    keyed: KeyedStep,
    conditions: Vec<Predicate>,
    without: Option<Predicate>,
    within: i64,
    input: SchemaRef,
    schema: SchemaRef,
    meaning: String,
}

impl Step for Pattern {
    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }

    fn columns(&self) -> Vec<usize> {
        (0..self.input.fields().len()).collect()
    }

    fn stateful(&self) -> Option<Stateful> {
        Some(self.keyed.stateful(self.meaning.clone()))
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let bind = |condition: &Predicate| condition.bind(schema);
        let matching = Matching {
            conditions: self.conditions.iter().map(bind).collect::<Result<_, _>>()?,
            without: self.without.as_ref().map(bind).transpose()?,
            within: self.within,
            schema: Arc::clone(&self.schema),
        };
        self.keyed.operator(schema, matching)
    }
}

struct Matching {
    conditions: Vec<Predicate>,
    without: Option<Predicate>,
    within: i64,
    schema: SchemaRef,
}

/// Beginnings of the pattern, the oldest first: the times of the events that were found.
#[derive(Default)]
struct Begun {
    matches: Vec<Vec<i64>>,
    /// The watermark from which on the youngest cannot be completed any more.
    forget: i64,
}

impl Stored for Begun {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.forget.to_le_bytes());
        for times in &self.matches {
            out.push(times.len() as u8);
            for time in times {
                out.extend_from_slice(&time.to_le_bytes());
            }
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = StateBytes(bytes);
        let forget = reader.i64()?;
        let mut matches = Vec::new();
        while !reader.0.is_empty() {
            let length = reader.u8()?;
            matches.push((0..length).map(|_| reader.i64()).collect::<Option<_>>()?);
        }
        Some(Begun { matches, forget })
    }

    fn heap_bytes(&self) -> usize {
        self.matches
            .iter()
            .map(|times| size_of_val(&times[..]) + size_of::<Vec<i64>>())
            .sum()
    }

    fn due(&self) -> Option<i64> {
        Some(self.forget)
    }
}

impl Begun {
    /// Takes in an event that found the watermark at `mark`. Answers the times of a whole pattern, if it completes one.
    fn go_on(&mut self, event: &PatternInput<'_>, within: i64) -> Option<Vec<i64>> {
        let time = event.time;
        // Too old to be completed, by this event's time or by the watermark that it found.
        let oldest = (time - within).max(event.mark.saturating_sub(2 * within));
        let matches = &mut self.matches;
        matches.retain(|begun| begun[0] >= oldest);
        if event.breaks {
            matches.retain(|begun| begun.last().is_some_and(|last| *last > time));
            return None;
        }
        for begun in matches.iter_mut() {
            let next = begun.len();
            let follows = begun.last().is_some_and(|last| *last <= time);
            if follows && event.is(next) {
                begun.push(time);
                if begun.len() == event.conditions.len() {
                    let complete = std::mem::take(begun);
                    // The next match begins behind this one.
                    matches.clear();
                    return Some(complete);
                }
            }
        }
        if event.is(0) {
            if matches.len() == PATTERN_OPEN_MAX {
                matches.remove(0);
            }
            matches.push(vec![time]);
        }
        None
    }
}

/// An event as the pattern sees it.
struct PatternInput<'a> {
    row: usize,
    time: i64,
    mark: i64,
    /// It ends what has begun.
    breaks: bool,
    conditions: &'a [BooleanArray],
}

impl PatternInput<'_> {
    /// Whether it can be the event of this number in the sequence.
    fn is(&self, number: usize) -> bool {
        holds(&self.conditions[number], self.row)
    }
}

fn holds(condition: &BooleanArray, row: usize) -> bool {
    condition.is_valid(row) && condition.value(row)
}

impl KeyedOperator for Matching {
    type Kept = Begun;

    fn take(
        &mut self,
        keys: &Keys,
        rows: Rows,
        kept: &mut KeyedState<Begun>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let evaluate = |condition: &Predicate| condition.evaluate(&rows.batch);
        let conditions: Vec<BooleanArray> = self
            .conditions
            .iter()
            .map(evaluate)
            .collect::<Result<_, _>>()?;
        let without = self.without.as_ref().map(evaluate).transpose()?;
        let within = self.within;
        let mut found: Vec<u32> = Vec::new();
        let mut found_times: Vec<Vec<i64>> = vec![Vec::new(); conditions.len()];
        for row in 0..rows.len() {
            let breaks = without.as_ref().is_some_and(|without| holds(without, row));
            if !breaks && !conditions.iter().any(|condition| holds(condition, row)) {
                continue;
            }
            let event = PatternInput {
                row,
                time: times.times[row],
                mark: times.marks[row],
                breaks,
                conditions: &conditions,
            };
            let complete = kept.visit(keys.at(row), |slot| {
                if slot.get().is_none() && (breaks || !event.is(0)) {
                    return None;
                }
                let known = slot.change();
                let begun = known.get_or_insert_with(Begun::default);
                let complete = begun.go_on(&event, within);
                match begun.matches.iter().map(|begun| begun[0]).max() {
                    Some(youngest) => {
                        begun.forget = youngest.saturating_add(within).saturating_add(1);
                    }
                    None => *known = None,
                }
                complete
            })?;
            if let Some(complete) = complete {
                found.push(row as u32);
                for (column, time) in found_times.iter_mut().zip(complete) {
                    column.push(time);
                }
            }
        }
        let found = rows.take(&found.into())?;
        let mut columns = found.batch.columns().to_vec();
        for times in found_times {
            let times = TimestampMicrosecondArray::from(times).with_timezone("UTC");
            columns.push(Arc::new(times) as ArrayRef);
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(misfit)?;
        out.push(found.with_columns(batch));
        Ok(())
    }

    fn failing(&self, rows: &Rows) -> Vec<Failed> {
        let all = self.conditions.iter().chain(&self.without);
        let mut failed: Vec<Failed> = all
            .flat_map(|condition| condition.failing(&rows.batch))
            .collect();
        failed.sort_by_key(|failed| failed.row);
        failed.dedup_by_key(|failed| failed.row);
        failed
    }

    fn on_time(
        &mut self,
        watermark: i64,
        kept: &mut KeyedState<Begun>,
        _out: &mut Output,
    ) -> Result<(), Error> {
        // An event that comes behind the watermark by less than this may still complete one.
        let behind = watermark.saturating_sub(self.within);
        for key in kept.due(behind)? {
            kept.remove(&key);
        }
        Ok(())
    }
}
