//! Events of a stream as the rows of a chain. Reading them moves nothing, so that what was read can be used again.

use std::ops::Range;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use busbar_bus::EventTimes;
use busbar_event::{Batch, Class, Error, Flags};

use super::{Chain, ChainSource, ChainWork, guarded};
use crate::event_time::EventTime;
use crate::operator::Made;
use crate::reader::{ReadRows, Reader};

/// Events of a stream, and the rows that were read of them. Events that are no rows move event time all the same.
#[derive(Clone)]
pub(crate) struct EventRows {
    events: Batch,
    /// Places of the events without a time that counts, in order.
    untimed: Vec<u32>,
    rows: RecordBatch,
    /// The event of each row, in order; none if row `i` is event `i`.
    places: Option<UInt32Array>,
    /// Events that cannot be used, in order.
    rejected: Vec<(usize, Error)>,
}

impl EventRows {
    /// Reads events: those alone whose times lie in a range, in microseconds since 1970, where there is one.
    pub(super) fn read(
        reader: &mut Reader,
        times: Option<&EventTimes>,
        events: Batch,
        within: Option<&Range<i64>>,
    ) -> Result<EventRows, Error> {
        let tagged = reader.tag(events);
        let events = tagged.events;
        let mut untimed = match times {
            Some(times) => Untimed::of(&events, times),
            None => Untimed::default(),
        };
        untimed.add(tagged.rejected);
        let timed = untimed.others(&events, within);
        let read = match &timed {
            Some(timed) => read(reader, &events.take(timed))?,
            None => read(reader, &events)?,
        };
        // Places among all events.
        let place = |at: usize| match &timed {
            Some(timed) => timed.value(at) as usize,
            None => at,
        };
        let rejected = read.rejected.into_iter();
        let mut rejected: Vec<_> = rejected.map(|(at, cause)| (place(at), cause)).collect();
        let places = match (read.events, &timed) {
            (None, timed) => timed.clone(),
            (good, None) => good,
            (Some(good), Some(timed)) => {
                let good = good.values().iter();
                Some(good.map(|at| timed.value(*at as usize)).collect())
            }
        };
        let without_time = untimed.places.clone();
        rejected.extend(untimed.dead(&events, within));
        rejected.sort_by_key(|(at, _)| *at);
        Ok(EventRows {
            events,
            untimed: without_time,
            rows: read.rows,
            places,
            rejected,
        })
    }

    /// Events that are rows, or would be if they could be used.
    pub fn input(&self) -> usize {
        self.rows.num_rows() + self.rejected.len()
    }

    /// The same with these events alone as rows, by their places in order.
    ///
    /// # Errors
    /// `flow.misfit`.
    pub fn pick(&self, events: &[u32]) -> Result<EventRows, Error> {
        let row = |event: u32| match &self.places {
            None => Some(event),
            Some(places) => {
                let row = places.values().binary_search(&event).ok();
                row.map(|row| row as u32)
            }
        };
        let picked = events
            .iter()
            .filter_map(|event| Some((row(*event)?, *event)));
        let (rows, places): (Vec<u32>, Vec<u32>) = picked.unzip();
        let is_picked = |at: usize| events.binary_search(&(at as u32)).is_ok();
        let rejected = self.rejected.iter().filter(|(at, _)| is_picked(*at));
        let misfit = |e| {
            let error = Error::new(Class::Permanent, "flow.misfit");
            error.with("column", "").caused_by(e)
        };
        Ok(EventRows {
            events: self.events.clone(),
            untimed: self.untimed.clone(),
            rows: take_record_batch(&self.rows, &UInt32Array::from(rows)).map_err(misfit)?,
            places: Some(places.into()),
            rejected: rejected.cloned().collect(),
        })
    }

    /// Moves event time by the events, and gives their rows to a batch's work.
    pub(super) fn take_into(
        self,
        time: &mut Option<EventTime>,
        work: &mut ChainWork,
    ) -> Result<(), Error> {
        let all = time
            .as_mut()
            .map(|time| time.events(self.events.times(), &self.untimed));
        let times = match (&self.places, all) {
            (Some(good), Some(all)) => Some(all.take(good)?),
            (_, all) => all,
        };
        let made = self.places.map_or(Made::Same, Made::From);
        work.events = self.events;
        work.take_in(self.rows, made, times, self.rejected);
        Ok(())
    }
}

impl Chain {
    /// Reads events of a stream into rows, for [`Chain::take_rows`]; none where the chain does not read a stream.
    ///
    /// # Errors
    /// As of [`Chain::read`].
    pub fn stream_rows(&mut self, events: Batch) -> Result<Option<EventRows>, Error> {
        match &mut self.source {
            ChainSource::Stream { reader, times } => {
                EventRows::read(reader, times.as_ref(), events, None).map(Some)
            }
            ChainSource::Rows(_) | ChainSource::Events(_) => Ok(None),
        }
    }

    /// As [`Chain::read`], for events that have been read.
    ///
    /// # Errors
    /// `flow.misfit`.
    pub fn take_rows(&mut self, rows: EventRows) -> Result<ChainWork, Error> {
        let mut work = ChainWork::new(rows.events.clone(), self.ways);
        rows.take_into(&mut self.time, &mut work)?;
        self.begin(&mut work);
        if let Some(itself) = &self.itself {
            work.take_in_other(*itself);
        }
        Ok(work)
    }
}

/// Reads events; a single one that cannot be read is rejected.
pub(super) fn read(reader: &mut Reader, events: &Batch) -> Result<ReadRows, Error> {
    match guarded(|| reader.read(events)) {
        Err(cause) if events.rows() == 1 && cause.class() == Class::Permanent => {
            Ok(reader.rejected(cause))
        }
        read => read,
    }
}

/// Events of a batch that have no time that can be right.
#[derive(Default)]
struct Untimed {
    /// Their places, in order.
    places: Vec<u32>,
    causes: Vec<Error>,
}

impl Untimed {
    fn of(events: &Batch, times: &EventTimes) -> Untimed {
        let flags = events.flags().iter().enumerate();
        let untimed = flags.filter(|(_, flags)| **flags & Flags::UNTIMED != 0);
        let places: Vec<u32> = untimed.map(|(at, _)| at as u32).collect();
        let causes = match places.is_empty() {
            true => Vec::new(),
            false => times.causes(&events.take(&places.clone().into())),
        };
        Untimed { places, causes }
    }

    /// Adds others that cannot be used, in order.
    fn add(&mut self, others: Vec<(usize, Error)>) {
        for (at, cause) in others {
            let at = at as u32;
            if let Err(place) = self.places.binary_search(&at) {
                self.places.insert(place, at);
                self.causes.insert(place, cause);
            }
        }
    }

    /// The places of the others that lie in a range; none if those are all events.
    fn others(&self, events: &Batch, within: Option<&Range<i64>>) -> Option<UInt32Array> {
        let times = events.times();
        let inside = |at: usize| within.is_none_or(|within| within.contains(&times[at]));
        if self.places.is_empty() && (within.is_none() || (0..times.len()).all(inside)) {
            return None;
        }
        let mut untimed = self.places.iter().peekable();
        let others = (0..times.len() as u32).filter(|at| {
            let untimed = untimed.next_if_eq(&at).is_some();
            !untimed && inside(*at as usize)
        });
        Some(others.collect())
    }

    /// Why they are dead, by their places. Their times are those of their arrival.
    fn dead(self, events: &Batch, within: Option<&Range<i64>>) -> Vec<(usize, Error)> {
        let times = events.times();
        let dead = self.places.into_iter().zip(self.causes);
        let dead = dead.map(|(at, cause)| (at as usize, cause));
        dead.filter(|(at, _)| within.is_none_or(|within| within.contains(&times[*at])))
            .collect()
    }
}
