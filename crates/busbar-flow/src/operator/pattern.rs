//! `pattern`: events of one key that follow each other, each with a condition of its own.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use busbar_catalog::PatternSpec;
use busbar_event::{Class, Error};
use busbar_sql::{Failed, Predicate};
use futures::future::{BoxFuture, FutureExt, ready};

use super::keyed::{KeyExpressions, KeyReader, KeyedState, Reader, Stored};
use super::rows::misfit;
use super::{
    Changes, Operator, Output, Rows, StateReader, Stateful, Step, StepContext, Wrong, misses_times,
};
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
    let keys = KeyExpressions::compile(schema, &spec.by)?;
    let meaning = PatternSpec {
        name: None,
        ..spec.clone()
    };
    Ok(Arc::new(Pattern {
        names: keys.names(schema),
        keys,
        conditions,
        without,
        within: spec.within.as_micros(),
        input: Arc::clone(schema),
        schema: Arc::new(Schema::new(fields)),
        name: spec.name.clone(),
        meaning: serde_json::to_string(&meaning).unwrap_or_default(),
    }))
}

struct Pattern {
    keys: KeyExpressions,
    names: Vec<String>,
    conditions: Vec<Predicate>,
    without: Option<Predicate>,
    within: i64,
    input: SchemaRef,
    schema: SchemaRef,
    name: Option<String>,
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
        Some(Stateful {
            name: self.name.clone(),
            keys: self.names.clone(),
            meaning: self.meaning.clone(),
            divided: None,
        })
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let bind = |condition: &Predicate| condition.bind(schema);
        Ok(Box::new(Matching {
            keys: self.keys.bind(schema)?,
            conditions: self.conditions.iter().map(bind).collect::<Result<_, _>>()?,
            without: self.without.as_ref().map(bind).transpose()?,
            within: self.within,
            schema: Arc::clone(&self.schema),
            open: KeyedState::new(),
        }))
    }
}

struct Matching {
    keys: KeyReader,
    conditions: Vec<Predicate>,
    without: Option<Predicate>,
    within: i64,
    schema: SchemaRef,
    open: KeyedState<Begun>,
}

/// Beginnings of the pattern, the oldest first: the times of the events that were found.
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
        let mut reader = Reader(bytes);
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

impl Matching {
    fn find(&mut self, rows: Rows, out: &mut Output) -> Result<(), Error> {
        let keys = self.keys.read(&rows.batch)?;
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let evaluate = |condition: &Predicate| condition.evaluate(&rows.batch);
        let conditions: Vec<BooleanArray> = self
            .conditions
            .iter()
            .map(evaluate)
            .collect::<Result<_, _>>()?;
        let without = self.without.as_ref().map(evaluate).transpose()?;
        let is =
            |condition: &BooleanArray, row: usize| condition.is_valid(row) && condition.value(row);
        let mut found: Vec<u32> = Vec::new();
        let mut found_times: Vec<Vec<i64>> = vec![Vec::new(); conditions.len()];
        for row in 0..rows.len() {
            let (key, time) = (keys.at(row), times.times[row]);
            let any = conditions.iter().any(|condition| is(condition, row));
            let breaks = without.as_ref().is_some_and(|without| is(without, row));
            if !any && !breaks {
                continue;
            }
            let known = self.open.get(key)?;
            let mut matches = known.map(|known| known.matches.clone()).unwrap_or_default();
            let had = matches.len();
            // Too old to be completed, by this event's time or by the watermark that it found.
            let oldest = (time - self.within).max(times.marks[row].saturating_sub(2 * self.within));
            matches.retain(|begun| begun[0] >= oldest);
            if breaks {
                matches.retain(|begun| begun.last().is_some_and(|last| *last > time));
            }
            let mut complete = None;
            if !breaks {
                for begun in &mut matches {
                    let next = begun.len();
                    let follows = begun.last().is_some_and(|last| *last <= time);
                    if follows && is(&conditions[next], row) {
                        begun.push(time);
                        if begun.len() == conditions.len() {
                            complete = Some(begun.clone());
                            break;
                        }
                    }
                }
                if complete.is_none() && is(&conditions[0], row) {
                    if matches.len() == PATTERN_OPEN_MAX {
                        matches.remove(0);
                    }
                    matches.push(vec![time]);
                }
            }
            if let Some(complete) = complete {
                found.push(row as u32);
                for (column, time) in found_times.iter_mut().zip(complete) {
                    column.push(time);
                }
                // The next match begins behind this one.
                matches.clear();
            }
            match matches.iter().map(|begun| begun[0]).max() {
                Some(youngest) => {
                    let forget = youngest.saturating_add(self.within).saturating_add(1);
                    self.open.set(key, Begun { matches, forget });
                }
                None if had > 0 => self.open.remove(key),
                None => {}
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
}

impl Operator for Matching {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        ready(self.find(rows, out)).boxed()
    }

    fn failing(&mut self, rows: &Rows) -> Vec<Failed> {
        let all = self.conditions.iter().chain(&self.without);
        let mut failed: Vec<Failed> = all
            .flat_map(|condition| condition.failing(&rows.batch))
            .collect();
        failed.sort_by_key(|failed| failed.row);
        failed.dedup_by_key(|failed| failed.row);
        failed
    }

    fn on_time(&mut self, watermark: i64, _out: &mut Output) -> Result<(), Error> {
        // An event that comes behind the watermark by less than this may still complete one.
        let behind = watermark.saturating_sub(self.within);
        for key in self.open.due(behind)? {
            self.open.remove(&key);
        }
        Ok(())
    }

    fn snapshot(&mut self, changes: &mut Changes) -> Result<(), Error> {
        self.open.snapshot(changes);
        Ok(())
    }

    fn restore(&mut self, state: Arc<dyn StateReader>) -> Result<(), Error> {
        self.open.restore(state)
    }

    fn memory(&self) -> usize {
        self.open.bytes()
    }

    fn shrink(&mut self, bytes: usize) {
        self.open.shrink(bytes);
    }
}
