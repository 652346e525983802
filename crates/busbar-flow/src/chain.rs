//! The operators of a task, one after the other, over one batch of events at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use busbar_event::{Batch, Class, Error};
use busbar_sql::Failed;
use futures::FutureExt;

use crate::counters::Counters;
use crate::operator::{Made, Operator, Output, Rows};
use crate::reader::Reader;
use crate::render::{Origin, OriginRows};
use crate::task::panicked;

/// Reader and operators of one task.
pub(crate) struct Chain {
    pub reader: Reader,
    pub operators: Vec<Box<dyn Operator>>,
    /// The columns that come out.
    pub schema: SchemaRef,
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
    /// Its place in the batch.
    pub event: usize,
    pub place: Place,
    pub cause: Error,
}

/// What the operators made of a batch.
pub(crate) struct Computed {
    pub events: Batch,
    /// The rows that are left.
    pub rows: RecordBatch,
    pub origin: Made,
    pub dead: Vec<Dead>,
    /// For the reader and then each operator.
    pub counts: Vec<Counters>,
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
    /// Runs the operators. Events that fail alone are in [`Computed::dead`].
    ///
    /// # Errors
    /// An error of the batch as a whole. A batch of one event has no permanent one: the event is dead.
    pub async fn run(&mut self, events: Batch) -> Result<Computed, Error> {
        let single = events.rows() == 1;
        let read = match guarded(|| self.reader.read(&events)) {
            Err(cause) if single && cause.class() == Class::Permanent => {
                self.reader.rejected(cause)
            }
            read => read?,
        };
        let mut counts = Vec::with_capacity(1 + self.operators.len());
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
        let mut rows = vec![Rows {
            batch: read.rows,
            made: read.events.map_or(Made::Same, Made::From),
            times: None,
            side: 0,
        }];
        for (index, operator) in self.operators.iter_mut().enumerate() {
            let input: usize = rows.iter().map(Rows::len).sum();
            let mut out = Output::default();
            for rows in rows {
                process(operator.as_mut(), rows, &mut out).await?;
            }
            counts.push(count(input, &out));
            let place = Place::Step(index);
            dead.extend(out.dead.into_iter().map(|(event, cause)| Dead {
                event,
                place,
                cause,
            }));
            rows = out.rows;
        }
        let (rows, origin) = together(&self.schema, rows)?;
        Ok(Computed {
            events,
            rows,
            origin,
            dead,
            counts,
        })
    }
}

/// Gives rows to an operator. Rows that fail alone become dead ones of `out`.
async fn process(operator: &mut dyn Operator, rows: Rows, out: &mut Output) -> Result<(), Error> {
    let mut open = vec![rows];
    while let Some(rows) = open.pop() {
        let Err(error) = attempt(operator, rows.clone(), out).await else {
            continue;
        };
        if error.class() != Class::Permanent || rows.len() == 0 {
            return Err(error);
        }
        if rows.len() == 1 {
            out.dead.push((rows.made.event(0), error));
            continue;
        }
        let failing = guarded(|| Ok(operator.failing(&rows))).unwrap_or_default();
        if failing.is_empty() {
            // The first half comes first.
            let middle = rows.len() / 2;
            open.push(rows.slice(middle, rows.len() - middle));
            open.push(rows.slice(0, middle));
            continue;
        }
        open.push(rows.take(&without(rows.len(), &failing))?);
        for Failed { row, cause } in failing {
            out.dead.push((rows.made.event(row), cause));
        }
    }
    Ok(())
}

async fn attempt(operator: &mut dyn Operator, rows: Rows, out: &mut Output) -> Result<(), Error> {
    let process = AssertUnwindSafe(async { operator.process(rows, out).await });
    let result = process.catch_unwind().await;
    result.unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// What an operator did with its rows.
fn count(input: usize, out: &Output) -> Counters {
    let rows = |rows: &[Rows]| rows.iter().map(Rows::len).sum::<usize>();
    let (made, dead) = (rows(&out.rows), out.dead.len());
    let reached = input.saturating_sub(dead);
    Counters {
        input: input as u64,
        out: made as u64,
        dead: dead as u64,
        filtered: reached.saturating_sub(made) as u64,
        added: made.saturating_sub(reached) as u64,
        held: 0,
    }
}

/// The last operator's rows as one batch.
fn together(schema: &SchemaRef, mut rows: Vec<Rows>) -> Result<(RecordBatch, Made), Error> {
    if rows.len() < 2 {
        return Ok(match rows.pop() {
            Some(rows) => (rows.batch, rows.made),
            None => {
                let none = UInt32Array::from(Vec::<u32>::new());
                (RecordBatch::new_empty(schema.clone()), Made::From(none))
            }
        });
    }
    let many = rows.iter().any(|rows| matches!(rows.made, Made::Many));
    let made = match many {
        true => Made::Many,
        false => Made::From(
            rows.iter()
                .flat_map(|rows| (0..rows.len()).map(|row| rows.made.event(row) as u32))
                .collect(),
        ),
    };
    let batch = concat_batches(rows[0].batch.schema_ref(), rows.iter().map(|r| &r.batch));
    let batch = batch.map_err(|e| {
        Error::new(Class::Permanent, "flow.misfit")
            .with("column", "")
            .caused_by(e)
    })?;
    Ok((batch, made))
}

/// A panic in what works on events is an error of the events, not the end of their task.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

fn without(rows: usize, failing: &[Failed]) -> UInt32Array {
    let mut skip = failing.iter().map(|f| f.row).peekable();
    (0..rows)
        .filter(|row| skip.next_if_eq(row).is_none())
        .map(|row| row as u32)
        .collect()
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
