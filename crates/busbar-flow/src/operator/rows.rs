//! Rows on their way through the operators of a task.

use arrow::array::Int64Array;
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{filter, filter_record_batch, take, take_record_batch};
use arrow::datatypes::Int64Type;
use busbar_event::{Class, Error};

/// Rows, the events they were made from, and their event times.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub batch: RecordBatch,
    pub made: Made,
    /// None in a stage without stateful operators.
    pub times: Option<Times>,
}

/// Event times of rows, in microseconds since 1970.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    /// The time of each row.
    pub times: ScalarBuffer<i64>,
    /// The watermark before each row, in the partition that it came from: a row is late for what ended at or before it. Never more for a row than for the
    /// rows behind it.
    pub marks: ScalarBuffer<i64>,
}

/// From which events of a batch rows were made.
#[derive(Clone, Debug)]
pub(crate) enum Made {
    /// Row `i` from event `i`.
    Same,
    /// Row `i` from event `rows[i]`.
    From(UInt32Array),
    /// Each from many, or from none of this batch: results of queries and windows.
    Many,
}

impl Rows {
    /// Results that stand for no single event, with their times. None is late for what comes next: its mark is the
    /// least time of the rows from it on.
    pub fn results(batch: RecordBatch, times: Vec<i64>) -> Rows {
        let mut marks = times.clone();
        for row in (1..marks.len()).rev() {
            marks[row - 1] = marks[row - 1].min(marks[row]);
        }
        Rows {
            batch,
            made: Made::Many,
            times: Some(Times {
                times: times.into(),
                marks: marks.into(),
            }),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// The same rows with other columns.
    pub fn with_columns(self, batch: RecordBatch) -> Rows {
        Rows { batch, ..self }
    }

    /// The rows for which `mask` is true; null counts as false.
    pub fn filter(&self, mask: &BooleanArray) -> Result<Rows, Error> {
        let made = match &self.made {
            Made::Same => {
                let set = mask.iter().enumerate();
                let rows = set.filter(|(_, keep)| *keep == Some(true));
                Made::From(rows.map(|(row, _)| row as u32).collect::<Vec<_>>().into())
            }
            Made::From(rows) => Made::From(uint32(filter(rows, mask).map_err(misfit)?)?),
            Made::Many => Made::Many,
        };
        let times = match &self.times {
            Some(times) => Some(times.map(|array| filter(array, mask))?),
            None => None,
        };
        Ok(Rows {
            batch: filter_record_batch(&self.batch, mask).map_err(misfit)?,
            made,
            times,
        })
    }

    /// The rows at these places, in that order.
    pub fn take(&self, places: &UInt32Array) -> Result<Rows, Error> {
        let made = match &self.made {
            Made::Same => Made::From(places.clone()),
            Made::From(rows) => Made::From(uint32(take(rows, places, None).map_err(misfit)?)?),
            Made::Many => Made::Many,
        };
        let times = match &self.times {
            Some(times) => Some(times.map(|array| take(array, places, None))?),
            None => None,
        };
        Ok(Rows {
            batch: take_record_batch(&self.batch, places).map_err(misfit)?,
            made,
            times,
        })
    }

    /// `length` rows from `offset` on. Copies nothing but the numbers of events.
    pub fn slice(&self, offset: usize, length: usize) -> Rows {
        let made = match &self.made {
            Made::Same if offset == 0 => Made::Same,
            Made::Same => Made::From((offset as u32..(offset + length) as u32).collect()),
            Made::From(rows) => Made::From(rows.slice(offset, length)),
            Made::Many => Made::Many,
        };
        let times = self.times.as_ref().map(|times| Times {
            times: times.times.slice(offset, length),
            marks: times.marks.slice(offset, length),
        });
        Rows {
            batch: self.batch.slice(offset, length),
            made,
            times,
        }
    }
}

impl Times {
    /// The times of the rows at these places.
    pub fn take(&self, places: &UInt32Array) -> Result<Times, Error> {
        self.map(|array| take(array, places, None))
    }

    /// Times one behind the other.
    pub fn concat(all: &[&Times]) -> Times {
        let join = |of: fn(&Times) -> &ScalarBuffer<i64>| -> ScalarBuffer<i64> {
            all.iter()
                .flat_map(|times| of(times).iter().copied())
                .collect()
        };
        Times {
            times: join(|t| &t.times),
            marks: join(|t| &t.marks),
        }
    }

    fn map(
        &self,
        pick: impl Fn(&dyn Array) -> Result<arrow::array::ArrayRef, arrow::error::ArrowError>,
    ) -> Result<Times, Error> {
        let pick = |values: &ScalarBuffer<i64>| -> Result<ScalarBuffer<i64>, Error> {
            let picked = pick(&Int64Array::new(values.clone(), None)).map_err(misfit)?;
            Ok(picked.as_primitive::<Int64Type>().values().clone())
        };
        Ok(Times {
            times: pick(&self.times)?,
            marks: pick(&self.marks)?,
        })
    }
}

impl Made {
    /// The event a row was made from; 0 for one that was made from many.
    pub fn event(&self, row: usize) -> usize {
        match self {
            Made::Same => row,
            Made::From(rows) => rows.value(row) as usize,
            Made::Many => 0,
        }
    }
}

fn uint32(array: arrow::array::ArrayRef) -> Result<UInt32Array, Error> {
    let numbers = array.as_any().downcast_ref::<UInt32Array>().cloned();
    numbers.ok_or_else(|| Error::new(Class::Permanent, "flow.misfit").with("column", ""))
}

pub(crate) fn misfit(e: arrow::error::ArrowError) -> Error {
    Error::new(Class::Permanent, "flow.misfit")
        .with("column", "")
        .caused_by(e)
}
