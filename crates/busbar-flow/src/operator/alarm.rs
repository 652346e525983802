//! `alarm`: tells when a condition has held for some time, or nothing has come for some time, and when that ends.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use busbar_catalog::AlarmSpec;
use busbar_event::{Class, Error};
use busbar_sql::{Failed, Predicate};

use super::keyed::{
    KeyedOperator, KeyedState, KeyedStep, Keys, RowBytes, StateBytes, Stored, write_bytes,
};
use super::rows::misfit;
use super::{Operator, Output, Rows, Stateful, Step, StepContext, Wrong, misses_times};

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
    let meaning = AlarmSpec {
        name: None,
        ..spec.clone()
    };
    Ok(Arc::new(Alarm {
        keyed: KeyedStep::compile(schema, &spec.by, spec.name.as_ref())?,
        rule,
        input: Arc::clone(schema),
        schema: Arc::new(Schema::new(fields)),
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
    keyed: KeyedStep,
    rule: Rule,
    input: SchemaRef,
    schema: SchemaRef,
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
        Some(self.keyed.stateful(self.meaning.clone()))
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
        let watching = Watching {
            rule,
            rows: RowBytes::new(&self.input)?,
            schema: Arc::clone(&self.schema),
        };
        self.keyed.operator(schema, watching)
    }
}

struct Watching {
    rule: Rule,
    rows: RowBytes,
    schema: SchemaRef,
}

/// What is known of a key.
struct State {
    stage: Stage,
    /// The time of the newest event.
    newest: i64,
    /// That event's columns.
    row: Vec<u8>,
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
        let mut reader = StateBytes(bytes);
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
        self.row.capacity()
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

impl State {
    /// Of a key that was not known.
    fn unknown() -> State {
        State {
            stage: Stage::Quiet,
            newest: i64::MIN,
            row: Vec::new(),
        }
    }
}

/// Whether an event raises the alarm and whether it ends it; for silence, neither.
type Signs = Option<(bool, bool)>;

impl Watching {
    /// Takes in the event of a key: its time, the watermark that it found, its columns.
    fn watch(
        &self,
        known: &mut State,
        (time, mark, row): (i64, i64, &[u8]),
        signs: Signs,
        told: &mut Told,
    ) {
        // What came to its end before this event, by its time or by the watermark it found.
        if let Stage::Pending(at) = known.stage
            && at <= time.max(mark)
        {
            told.add(&known.row, true, at);
            known.stage = Stage::Raised;
        }
        // An event that is older than one seen says nothing of how things stand now.
        if time < known.newest {
            return;
        }
        known.stage = match (&self.rule, signs) {
            (Rule::Condition { holds: after, .. }, Some((when, clear))) => match known.stage {
                Stage::Quiet if when && *after <= 0 => {
                    told.add(row, true, time);
                    Stage::Raised
                }
                Stage::Quiet if when => Stage::Pending(time.saturating_add(*after)),
                Stage::Pending(_) if !when => Stage::Quiet,
                Stage::Raised if clear => {
                    told.add(row, false, time);
                    Stage::Quiet
                }
                stage => stage,
            },
            (Rule::Silence(after), _) => {
                if known.stage == Stage::Raised {
                    told.add(row, false, time);
                }
                Stage::Pending(time.saturating_add(*after))
            }
            (Rule::Condition { .. }, None) => known.stage,
        };
        known.newest = time;
        known.row.clear();
        known.row.extend_from_slice(row);
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

impl KeyedOperator for Watching {
    type Kept = State;

    fn take(
        &mut self,
        keys: &Keys,
        rows: Rows,
        kept: &mut KeyedState<State>,
        out: &mut Output,
    ) -> Result<(), Error> {
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
        let is = |mask: &BooleanArray, row: usize| mask.is_valid(row) && mask.value(row);
        let encoded = self.rows.encode(&rows.batch)?;
        let mut told = Told::default();
        for row in 0..rows.len() {
            let signs = holds.as_ref().map(|(when, clear)| {
                let when = is(when, row);
                (when, clear.as_ref().map_or(!when, |clear| is(clear, row)))
            });
            let event = (times.times[row], times.marks[row], encoded.row(row).data());
            kept.visit(keys.at(row), |slot| {
                let known = slot.change().get_or_insert_with(State::unknown);
                self.watch(known, event, signs, &mut told);
            })?;
        }
        out.taken += rows.len();
        self.tell(told, out)
    }

    fn failing(&self, rows: &Rows) -> Vec<Failed> {
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

    fn on_time(
        &mut self,
        watermark: i64,
        kept: &mut KeyedState<State>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let mut told = Told::default();
        for key in kept.due(watermark)? {
            kept.visit(&key, |slot| {
                if let Some(known) = slot.change()
                    && let Stage::Pending(at) = known.stage
                {
                    told.add(&known.row, true, at);
                    known.stage = Stage::Raised;
                }
            })?;
        }
        self.tell(told, out)
    }

    fn tells_when_due(&self) -> bool {
        true
    }
}
