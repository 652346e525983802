//! The steps of a flow, as a pure function from a batch of events to rows.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::{Array, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{filter, filter_record_batch, prep_null_mask_filter, take, take_record_batch};
use arrow::datatypes::SchemaRef;
use busbar_event::{Batch, Class, Error};
use busbar_sql::{BatchQuery, Failed, Predicate, Projection};

use crate::counters::Counters;
use crate::reader::Reader;
use crate::render::{Origin, OriginRows};
use crate::task::panicked;

/// A step that can be run.
pub(crate) enum Step {
    Where(Predicate),
    Select(Projection),
    Sql(BatchQuery),
}

/// Reader and steps of one flow for one input stream.
pub(crate) struct Chain {
    pub reader: Reader,
    pub steps: Vec<Step>,
}

/// Where in a flow an event came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Its payload could not be read.
    Decode,
    /// A step, by its index.
    Step(usize),
    /// An output, by its index.
    Output(usize),
}

/// `decode`, `step:0`, `to:1`.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Decode => f.write_str("decode"),
            Place::Step(i) => write!(f, "step:{i}"),
            Place::Output(i) => write!(f, "to:{i}"),
        }
    }
}

/// An event that could not be processed.
#[derive(Clone, Debug)]
pub(crate) struct Dead {
    /// Which event of the batch.
    pub event: usize,
    pub place: Place,
    pub cause: Error,
}

/// What the steps made of a batch.
pub(crate) struct Computed {
    pub events: Batch,
    /// The rows that are left.
    pub rows: RecordBatch,
    pub origin: Made,
    pub dead: Vec<Dead>,
    /// For the reader and then each step.
    pub counts: Vec<Counters>,
}

/// From which events rows were made.
#[derive(Clone, Debug)]
pub(crate) enum Made {
    /// Row `i` of event `i`.
    Same,
    /// Row `i` of event `rows[i]`.
    From(UInt32Array),
    /// Each of many: a query's result.
    Many,
}

impl Made {
    fn event(&self, row: usize) -> usize {
        match self {
            Made::Same => row,
            Made::From(rows) => rows.value(row) as usize,
            Made::Many => 0,
        }
    }

    fn filter(&mut self, mask: &BooleanArray) -> Result<(), Error> {
        *self = match self {
            Made::Same => {
                let rows: UInt32Array = mask
                    .values()
                    .set_indices()
                    .map(|row| row as u32)
                    .collect::<Vec<u32>>()
                    .into();
                Made::From(rows)
            }
            Made::From(rows) => Made::From(uint32(filter(rows, mask).map_err(misfit)?)?),
            Made::Many => Made::Many,
        };
        Ok(())
    }

    fn take(&mut self, good: &UInt32Array) -> Result<(), Error> {
        *self = match self {
            Made::Same => Made::From(good.clone()),
            Made::From(rows) => Made::From(uint32(take(rows, good, None).map_err(misfit)?)?),
            Made::Many => Made::Many,
        };
        Ok(())
    }
}

fn uint32(array: arrow::array::ArrayRef) -> Result<UInt32Array, Error> {
    array
        .as_any()
        .downcast_ref::<UInt32Array>()
        .cloned()
        .ok_or_else(|| Error::new(Class::Permanent, "flow.misfit").with("column", ""))
}

fn misfit(e: arrow::error::ArrowError) -> Error {
    Error::new(Class::Permanent, "flow.misfit")
        .with("column", "")
        .caused_by(e)
}

impl Computed {
    /// The rows' origin, for templates and envelopes.
    pub fn origin(&self) -> Origin<'_> {
        Origin {
            events: &self.events,
            rows: match &self.origin {
                Made::Same => OriginRows::Same,
                Made::From(rows) => OriginRows::Some(rows),
                Made::Many => OriginRows::None,
            },
        }
    }
}

impl Chain {
    /// Runs the steps. Events that fail alone are in [`Computed::dead`]; an error is one of the whole. A batch
    /// of one event has none: the event is dead.
    pub fn run(&mut self, events: Batch) -> Result<Computed, Error> {
        let single = events.rows() == 1;
        let read = match guarded(|| self.reader.read(&events)) {
            Err(cause) if single && cause.class() == Class::Permanent => {
                self.reader.rejected(cause)
            }
            read => read?,
        };
        let mut counts = Vec::with_capacity(1 + self.steps.len());
        let mut dead: Vec<Dead> = read
            .rejected
            .into_iter()
            .map(|(event, cause)| Dead {
                event,
                place: Place::Decode,
                cause,
            })
            .collect();
        counts.push(Counters {
            input: events.rows() as u64,
            out: read.rows.num_rows() as u64,
            dead: dead.len() as u64,
            ..Counters::default()
        });
        let mut rows = read.rows;
        let mut made = read.events.map_or(Made::Same, Made::From);
        for (index, step) in self.steps.iter_mut().enumerate() {
            let before = rows.num_rows();
            let mut died = 0;
            // First as if all was well; only when it is not, look for the rows at fault.
            let result = match guarded(|| step.apply(&rows, &mut made)) {
                Ok(result) => result,
                Err(error) => {
                    if error.class() != Class::Permanent {
                        return Err(error);
                    }
                    let found = guarded(|| Ok(step.failing(&rows))).unwrap_or_default();
                    let failing = match found.is_empty() {
                        false => found,
                        // Together they fail and alone they do not: all there is of a single event.
                        true if single => (0..before)
                            .map(|row| Failed {
                                row,
                                cause: error.clone(),
                            })
                            .collect(),
                        true => return Err(error),
                    };
                    died = failing.len();
                    let good = without(before, &failing);
                    for failed in failing {
                        let event = made.event(failed.row);
                        dead.push(Dead {
                            event,
                            place: Place::Step(index),
                            cause: failed.cause,
                        });
                    }
                    made.take(&good)?;
                    rows = take_record_batch(&rows, &good).map_err(misfit)?;
                    guarded(|| step.apply(&rows, &mut made))?
                }
            };
            let out = result.num_rows();
            let reached = before - died;
            counts.push(Counters {
                input: before as u64,
                out: out as u64,
                dead: died as u64,
                filtered: reached.saturating_sub(out) as u64,
                added: out.saturating_sub(reached) as u64,
                held: 0,
            });
            rows = result;
        }
        Ok(Computed {
            events,
            rows,
            origin: made,
            dead,
            counts,
        })
    }
}

/// A panic in what works on events is an error of the events, not the end of their task.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

fn without(rows: usize, failing: &[Failed]) -> UInt32Array {
    let mut skip = failing.iter().map(|f| f.row).peekable();
    let good: Vec<u32> = (0..rows)
        .filter(|row| skip.next_if_eq(row).is_none())
        .map(|row| row as u32)
        .collect();
    good.into()
}

impl Step {
    /// The same step over other columns, of which it needs a part. Each task has steps of its own, because a
    /// query keeps what it works on.
    pub fn bind(&self, schema: &SchemaRef) -> Result<Step, Error> {
        Ok(match self {
            Step::Where(predicate) => Step::Where(predicate.bind(schema)?),
            Step::Select(projection) => Step::Select(projection.bind(schema)?),
            Step::Sql(query) => Step::Sql(query.bind(schema)?),
        })
    }

    /// Whether it makes columns of its own.
    pub fn projects(&self) -> bool {
        !matches!(self, Step::Where(_))
    }

    /// The rows that come out; `made` follows.
    fn apply(&mut self, rows: &RecordBatch, made: &mut Made) -> Result<RecordBatch, Error> {
        match self {
            Step::Where(predicate) => {
                let mask = predicate.evaluate(rows)?;
                let mask = if mask.null_count() > 0 {
                    prep_null_mask_filter(&mask)
                } else {
                    mask
                };
                if mask.true_count() == rows.num_rows() {
                    return Ok(rows.clone());
                }
                let kept = filter_record_batch(rows, &mask).map_err(misfit)?;
                made.filter(&mask)?;
                Ok(kept)
            }
            Step::Select(projection) => projection.evaluate(rows),
            Step::Sql(query) => {
                let result = query.execute(rows)?;
                *made = Made::Many;
                Ok(result)
            }
        }
    }

    /// The rows that make it fail, each with its cause.
    fn failing(&mut self, rows: &RecordBatch) -> Vec<Failed> {
        match self {
            Step::Where(predicate) => predicate.failing(rows),
            Step::Select(projection) => projection.failing(rows),
            Step::Sql(query) => {
                // Halves, until a row fails by itself.
                let mut failed = Vec::new();
                let mut open: Vec<_> = std::iter::once(0..rows.num_rows()).collect();
                while let Some(range) = open.pop() {
                    let Err(cause) = query.execute(&rows.slice(range.start, range.len())) else {
                        continue;
                    };
                    if range.len() == 1 {
                        failed.push(Failed {
                            row: range.start,
                            cause,
                        });
                    } else if range.len() > 1 {
                        let middle = range.start + range.len() / 2;
                        open.push(middle..range.end);
                        open.push(range.start..middle);
                    }
                }
                failed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_of_the_events() {
        let error = guarded::<()>(|| panic!("out of {}", "range")).unwrap_err();
        assert_eq!(
            (error.class(), error.code()),
            (Class::Permanent, "flow.panic")
        );
        assert_eq!(error.args()[0].1, "out of range");
        assert_eq!(guarded(|| Ok(1)).unwrap(), 1);
    }
}
