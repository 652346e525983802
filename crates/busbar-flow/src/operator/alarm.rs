//! `alarm`: tells when a condition has held for some time, or nothing has come for some time, and when that ends.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use busbar_catalog::AlarmSpec;
use busbar_event::{Class, Error};
use busbar_sql::{Failed, Predicate};
use futures::future::{BoxFuture, FutureExt, ready};

use super::keyed::{KeyExpressions, KeyReader, KeyedState, Reader, RowBytes, Stored, write_bytes};
use super::rows::misfit;
use super::{
    Changes, Operator, Output, Rows, StateReader, Stateful, Step, StepContext, Wrong, misses_times,
};

/// Compiles conditions and keys.
pub(super) fn compile(spec: &AlarmSpec, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    let schema = context.schema;
    let refuse = |code| Wrong::new(Error::new(Class::Configuration, code));
    let condition = |text: &str, place: &'static str| {
        Predicate::compile(schema, text).map_err(|wrong| Wrong::from(wrong).at(place))
    };
    let rule = match (&spec.when, spec.silent) {
        (Some(when), None) => Rule::Condition {
            when: condition(when, "when")?,
            clear: spec
                .clear
                .as_ref()
                .map(|clear| condition(clear, "clear"))
                .transpose()?,
            holds: spec.holds.map_or(0, |span| span.as_micros()),
        },
        (None, Some(silent)) => {
            if spec.holds.is_some() || spec.clear.is_some() {
                return Err(refuse("flow.alarm-silent").at("silent"));
            }
            if silent.as_micros() <= 0 {
                return Err(refuse("flow.span-positive").at("silent"));
            }
            Rule::Silence(silent.as_micros())
        }
        _ => return Err(refuse("flow.alarm-kind")),
    };
    let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
    for field in added() {
        if schema.field_with_name(field.name()).is_ok() {
            let error = Error::new(Class::Configuration, "flow.column-twice");
            return Err(Wrong::new(error.with("column", field.name())));
        }
        fields.push(Arc::new(field));
    }
    let keys = KeyExpressions::compile(schema, &spec.by)?;
    let meaning = AlarmSpec {
        name: None,
        ..spec.clone()
    };
    Ok(Arc::new(Alarm {
        names: keys.names(schema),
        keys,
        rule,
        input: Arc::clone(schema),
        schema: Arc::new(Schema::new(fields)),
        name: spec.name.clone(),
        meaning: format!(
            "{} {:?}",
            serde_json::to_string(&meaning).unwrap_or_default(),
            schema.fields()
        ),
    }))
}

fn added() -> [Field; 2] {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    [
        Field::new("alarm", DataType::Boolean, false),
        Field::new("since", time, false),
    ]
}

#[derive(Clone)]
enum Rule {
    Condition {
        when: Predicate,
        clear: Option<Predicate>,
        /// Microseconds.
        holds: i64,
    },
    /// Microseconds without an event.
    Silence(i64),
}

struct Alarm {
    keys: KeyExpressions,
    names: Vec<String>,
    rule: Rule,
    input: SchemaRef,
    schema: SchemaRef,
    name: Option<String>,
    meaning: String,
}

impl Step for Alarm {
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
        Some(Stateful {
            name: self.name.clone(),
            keys: self.names.clone(),
            meaning: self.meaning.clone(),
            divided: None,
        })
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let rule = match &self.rule {
            Rule::Condition { when, clear, holds } => Rule::Condition {
                when: when.bind(schema)?,
                clear: clear.as_ref().map(|clear| clear.bind(schema)).transpose()?,
                holds: *holds,
            },
            silence => silence.clone(),
        };
        Ok(Box::new(Watching {
            keys: self.keys.bind(schema)?,
            rule,
            rows: RowBytes::new(&self.input)?,
            schema: Arc::clone(&self.schema),
            states: KeyedState::new(),
        }))
    }
}

struct Watching {
    keys: KeyReader,
    rule: Rule,
    rows: RowBytes,
    schema: SchemaRef,
    states: KeyedState<State>,
}

/// What is known of a key.
struct State {
    stage: Stage,
    /// The time of the newest event.
    newest: i64,
    /// That event's columns.
    row: Box<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing holds; for silence, the key is not there.
    Quiet,
    /// The alarm begins at this time unless something changes.
    Pending(i64),
    /// The alarm has begun.
    Raised,
}

impl Stored for State {
    fn write(&self, out: &mut Vec<u8>) {
        let (stage, at) = match self.stage {
            Stage::Quiet => (0, 0),
            Stage::Pending(at) => (1, at),
            Stage::Raised => (2, 0),
        };
        out.push(stage);
        out.extend_from_slice(&at.to_le_bytes());
        out.extend_from_slice(&self.newest.to_le_bytes());
        write_bytes(out, &self.row);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (stage, at) = (reader.u8()?, reader.i64()?);
        Some(State {
            stage: match stage {
                0 => Stage::Quiet,
                1 => Stage::Pending(at),
                2 => Stage::Raised,
                _ => return None,
            },
            newest: reader.i64()?,
            row: reader.bytes()?.into(),
        })
    }

    fn heap_bytes(&self) -> usize {
        self.row.len()
    }

    fn due(&self) -> Option<i64> {
        match self.stage {
            Stage::Pending(at) => Some(at),
            _ => None,
        }
    }
}

/// Changes to be told, as rows.
#[derive(Default)]
struct Told {
    rows: Vec<Box<[u8]>>,
    alarms: Vec<bool>,
    since: Vec<i64>,
}

impl Told {
    fn add(&mut self, row: &[u8], alarm: bool, since: i64) {
        self.rows.push(row.into());
        self.alarms.push(alarm);
        self.since.push(since);
    }
}

impl Watching {
    fn watch(&mut self, rows: &Rows, out: &mut Output) -> Result<(), Error> {
        let keys = self.keys.read(&rows.batch)?;
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let holds = match &self.rule {
            Rule::Condition { when, clear, .. } => {
                let when = when.evaluate(&rows.batch)?;
                let clear = clear
                    .as_ref()
                    .map(|clear| clear.evaluate(&rows.batch))
                    .transpose()?;
                Some((when, clear))
            }
            Rule::Silence(_) => None,
        };
        let encoded = self.rows.encode(&rows.batch)?;
        let mut told = Told::default();
        for row in 0..rows.len() {
            let (key, time, mark) = (keys.at(row), times.times[row], times.marks[row]);
            let bytes = encoded.row(row).data();
            let known = self.states.get(key)?;
            let (mut stage, newest) =
                known.map_or((Stage::Quiet, i64::MIN), |k| (k.stage, k.newest));
            // What came to its end before this event, by its time or by the watermark it found.
            if let (Stage::Pending(at), Some(known)) = (stage, known)
                && at <= time.max(mark)
            {
                told.add(&known.row, true, at);
                stage = Stage::Raised;
            }
            // An event that is older than one seen says nothing of how things stand now.
            let in_order = time >= newest;
            if in_order {
                stage = match (&self.rule, &holds) {
                    (Rule::Condition { holds: after, .. }, Some((when, clear))) => {
                        let when = when.is_valid(row) && when.value(row);
                        let clear = match clear {
                            Some(clear) => clear.is_valid(row) && clear.value(row),
                            None => !when,
                        };
                        match stage {
                            Stage::Quiet if when && *after <= 0 => {
                                told.add(bytes, true, time);
                                Stage::Raised
                            }
                            Stage::Quiet if when => Stage::Pending(time.saturating_add(*after)),
                            Stage::Pending(_) if !when => Stage::Quiet,
                            Stage::Raised if clear => {
                                told.add(bytes, false, time);
                                Stage::Quiet
                            }
                            stage => stage,
                        }
                    }
                    (Rule::Silence(after), _) => {
                        if stage == Stage::Raised {
                            told.add(bytes, false, time);
                        }
                        Stage::Pending(time.saturating_add(*after))
                    }
                    (Rule::Condition { .. }, None) => stage,
                };
            }
            let (newest, row) = match (in_order, known) {
                (false, Some(known)) => (known.newest, known.row.clone()),
                _ => (time, bytes.into()),
            };
            self.states.set(key, State { stage, newest, row });
        }
        out.taken += rows.len();
        self.tell(told, out)
    }

    fn tell(&self, told: Told, out: &mut Output) -> Result<(), Error> {
        if told.rows.is_empty() {
            return Ok(());
        }
        let mut columns = self.rows.decode(&told.rows)?;
        columns.push(Arc::new(BooleanArray::from(told.alarms)) as ArrayRef);
        let since = TimestampMicrosecondArray::from(told.since.clone()).with_timezone("UTC");
        columns.push(Arc::new(since));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(misfit)?;
        out.push(Rows::results(batch, told.since));
        Ok(())
    }
}

impl Operator for Watching {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        ready(self.watch(&rows, out)).boxed()
    }

    fn failing(&mut self, rows: &Rows) -> Vec<Failed> {
        match &self.rule {
            Rule::Condition { when, clear, .. } => {
                let mut failed = when.failing(&rows.batch);
                if let Some(clear) = clear {
                    failed.extend(clear.failing(&rows.batch));
                    failed.sort_by_key(|failed| failed.row);
                    failed.dedup_by_key(|failed| failed.row);
                }
                failed
            }
            Rule::Silence(_) => Vec::new(),
        }
    }

    fn on_time(&mut self, watermark: i64, out: &mut Output) -> Result<(), Error> {
        let mut told = Told::default();
        for key in self.states.due(watermark)? {
            let Some(known) = self.states.get(&key)? else {
                continue;
            };
            let Stage::Pending(at) = known.stage else {
                continue;
            };
            told.add(&known.row, true, at);
            let (newest, row) = (known.newest, known.row.clone());
            let stage = Stage::Raised;
            self.states.set(&key, State { stage, newest, row });
        }
        self.tell(told, out)
    }

    fn next_time(&self) -> Option<i64> {
        self.states.next_due()
    }

    fn snapshot(&mut self, changes: &mut Changes) -> Result<(), Error> {
        self.states.snapshot(changes);
        Ok(())
    }

    fn restore(&mut self, state: Arc<dyn StateReader>) -> Result<(), Error> {
        self.states.restore(state)
    }

    fn memory(&self) -> usize {
        self.states.bytes()
    }

    fn shrink(&mut self, bytes: usize) {
        self.states.shrink(bytes);
    }
}
