//! `throttle`: lets at most so many events of each key through in a time.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::UInt32Array;
use arrow::datatypes::SchemaRef;
use busbar_catalog::{OverRate, ThrottleSpec};
use busbar_event::{Class, Error};

use super::held::{FreedRows, HeldRows, held_key, stopped};
use super::keyed::{KeyedOperator, KeyedState, KeyedStep, Keys, RowBytes, StateBytes, Stored};
use super::{Operator, Output, Rows, Stateful, Step, StepContext, Wrong, misses_times};

/// Compiles keys and rate.
pub(super) fn compile(
    spec: &ThrottleSpec,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let schema = context.schema;
    let refuse = |code| Wrong::new(Error::new(Class::Configuration, code));
    let every = spec.every.as_micros();
    if every <= 0 {
        return Err(refuse("flow.span-positive").at("every"));
    }
    if spec.events == 0 || i64::from(spec.events) > every {
        return Err(refuse("flow.throttle-events").at("events"));
    }
    let meaning = ThrottleSpec {
        name: None,
        ..spec.clone()
    };
    Ok(Arc::new(ThrottleStep {
        keyed: KeyedStep::compile(schema, &spec.by, spec.name.as_ref())?,
        rate: EventRate {
            interval: every / i64::from(spec.events),
            burst: every - every / i64::from(spec.events),
        },
        over: spec.over,
        meaning: format!(
            "{} {:?}",
            serde_json::to_string(&meaning).unwrap_or_default(),
            schema.fields()
        ),
        input: Arc::clone(schema),
    }))
}

/// A rate, by the generic cell rate algorithm: each event moves the key's time on by `interval`, and one that comes more
/// than `burst` before that time is above the rate.
#[derive(Clone, Copy)]
struct EventRate {
    /// In microseconds.
    interval: i64,
    /// In microseconds.
    burst: i64,
}

struct ThrottleStep {
    keyed: KeyedStep,
    rate: EventRate,
    over: OverRate,
    input: SchemaRef,
    meaning: String,
}

impl Step for ThrottleStep {
    fn schema(&self) -> Option<SchemaRef> {
        (self.over == OverRate::Delay).then(|| Arc::clone(&self.input))
    }

    fn columns(&self) -> Vec<usize> {
        match self.over {
            OverRate::Delay => (0..self.input.fields().len()).collect(),
            OverRate::Drop | OverRate::Aside => self.keyed.columns(),
        }
    }

    fn row_by_row(&self) -> bool {
        self.over != OverRate::Delay
    }

    fn stateful(&self) -> Option<Stateful> {
        Some(self.keyed.stateful(self.meaning.clone()))
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let throttling = Throttling {
            rate: self.rate,
            over: self.over,
            rows: match self.over {
                OverRate::Delay => Some(RowBytes::new(&self.input)?),
                OverRate::Drop | OverRate::Aside => None,
            },
            schema: Arc::clone(&self.input),
        };
        self.keyed.operator(schema, throttling)
    }
}

struct Throttling {
    rate: EventRate,
    over: OverRate,
    /// Where rows are held.
    rows: Option<RowBytes>,
    schema: SchemaRef,
}

/// What is remembered: of each key how far its time has moved, and rows that are held.
enum Throttled {
    Key(KeyTime),
    Held(HeldRows),
}

#[derive(Clone, Copy)]
struct KeyTime {
    /// When the next event would come at just the rate.
    next: i64,
    /// The time that the last held row of the key waits for; `i64::MIN` without one.
    held: i64,
}

impl Stored for Throttled {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Throttled::Key(key) => {
                out.push(0);
                out.extend_from_slice(&key.next.to_le_bytes());
                out.extend_from_slice(&key.held.to_le_bytes());
            }
            Throttled::Held(held) => {
                out.push(1);
                held.write(out);
            }
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = StateBytes(bytes);
        match reader.u8()? {
            0 => Some(Throttled::Key(KeyTime {
                next: reader.i64()?,
                held: reader.i64()?,
            })),
            1 => HeldRows::read(reader.0).map(Throttled::Held),
            _ => None,
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Throttled::Key(_) => 0,
            Throttled::Held(held) => held.heap_bytes(),
        }
    }

    fn due(&self) -> Option<i64> {
        match self {
            // From then on it says what a key without state does.
            Throttled::Key(key) => Some(key.next.max(key.held)),
            Throttled::Held(held) => Some(held.due),
        }
    }

    fn rows_held(&self) -> u64 {
        match self {
            Throttled::Key(_) => 0,
            Throttled::Held(held) => held.rows_held(),
        }
    }
}

const KEY: u8 = b'k';
const HELD: u8 = b'h';

fn under(prefix: u8, key: &[u8]) -> Vec<u8> {
    [&[prefix], key].concat()
}

impl Throttling {
    /// Takes in an event: the time at which it goes on; at its own time or before, at once, unless one of its key is held.
    /// None: it is above the rate, and none is held.
    fn pass(&self, known: &mut KeyTime, time: i64, mark: i64) -> Option<i64> {
        let next = known.next.max(time);
        let at = next.saturating_sub(self.rate.burst).max(time);
        if self.over != OverRate::Delay {
            if at > time {
                return None;
            }
            known.next = next.saturating_add(self.rate.interval);
            return Some(time);
        }
        known.next = next.saturating_add(self.rate.interval);
        // Behind those of its key that are still held.
        if known.held > mark || at > time {
            known.held = at.max(known.held);
            return Some(known.held);
        }
        Some(at)
    }

    /// Lets the rows go on that a watermark has reached.
    fn free(
        watermark: i64,
        kept: &mut KeyedState<Throttled>,
        freed: &mut FreedRows,
    ) -> Result<(), Error> {
        for key in kept.due(watermark)? {
            kept.visit(&key, |slot| {
                if let Some(Throttled::Held(held)) = slot.change().take() {
                    for row in held.rows {
                        freed.add(row, held.due);
                    }
                }
            })?;
        }
        Ok(())
    }
}

impl KeyedOperator for Throttling {
    type Kept = Throttled;

    fn load(
        &self,
        keys: &Keys,
        rows: &Rows,
        kept: &mut KeyedState<Throttled>,
    ) -> Result<(), Error> {
        (0..rows.len()).try_for_each(|row| kept.get(&under(KEY, keys.at(row))).map(|_| ()))
    }

    fn take(
        &mut self,
        keys: &Keys,
        rows: Rows,
        kept: &mut KeyedState<Throttled>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let held_rows = self.rows.as_ref();
        let encoded = held_rows.map(|held| held.encode(&rows.batch)).transpose()?;
        let mut freed = FreedRows::default();
        let (mut passed, mut over): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        let mut known: HashMap<&[u8], KeyTime> = HashMap::new();
        let mut held = 0;
        for row in 0..rows.len() {
            let (time, mark) = (times.times[row], times.marks[row]);
            Throttling::free(mark, kept, &mut freed).map_err(stopped)?;
            let key = keys.at(row);
            let fresh = KeyTime {
                next: i64::MIN,
                held: i64::MIN,
            };
            let mut own = match known.get(key) {
                Some(own) => *own,
                None => match kept.get(&under(KEY, key)).map_err(stopped)? {
                    Some(Throttled::Key(own)) => *own,
                    _ => fresh,
                },
            };
            // As if it had been forgotten, whenever that is done.
            if own.next.max(own.held) <= mark {
                own = fresh;
            }
            let at = self.pass(&mut own, time, mark);
            known.insert(key, own);
            match (at, &encoded) {
                (Some(at), Some(encoded)) => {
                    let bytes = encoded.row(row).data();
                    if own.held <= mark {
                        freed.add(bytes, time.max(mark));
                        continue;
                    }
                    held += 1;
                    let key = under(HELD, &held_key(at, time, bytes));
                    let visited = kept.visit(&key, |slot| {
                        let new = || {
                            Throttled::Held(HeldRows {
                                due: at,
                                rows: Vec::new(),
                            })
                        };
                        if let Throttled::Held(held) = slot.change().get_or_insert_with(new) {
                            held.rows.push(bytes.into());
                        }
                    });
                    visited.map_err(stopped)?;
                }
                (Some(_), None) => passed.push(row as u32),
                (None, _) => over.push(row as u32),
            }
        }
        for (key, own) in known {
            let visited = kept.visit(&under(KEY, key), |slot| slot.set(Throttled::Key(own)));
            visited.map_err(stopped)?;
        }
        out.taken += held;
        if let Some(held) = held_rows {
            return freed.tell(held, &self.schema, out);
        }
        if self.over == OverRate::Aside && !over.is_empty() {
            out.late.push(rows.take(&UInt32Array::from(over))?);
        }
        match passed.len() == rows.len() {
            true => out.push(rows),
            false => out.push(rows.take(&UInt32Array::from(passed))?),
        }
        Ok(())
    }

    fn on_time(
        &mut self,
        watermark: i64,
        kept: &mut KeyedState<Throttled>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let mut freed = FreedRows::default();
        Throttling::free(watermark, kept, &mut freed)?;
        match &self.rows {
            Some(rows) => freed.tell(rows, &self.schema, out),
            None => Ok(()),
        }
    }

    fn tells_when_due(&self) -> bool {
        self.over == OverRate::Delay
    }

    fn ends_with_input(&self) -> bool {
        true
    }
}
