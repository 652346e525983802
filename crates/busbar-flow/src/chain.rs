//! The operators of a task, one after the other, over one batch of events at a time.

mod count;
mod ends;
mod stream;
mod trace;

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;
use busbar_bus::EventTimes;
use busbar_event::{Batch, BatchBuilder, Class, Error};
use busbar_sql::Failed;
use futures::FutureExt;

use crate::counters::Counters;
use crate::event_time::EventTime;
use crate::operator::{LostRows, Made, Operator, Output, Rows, Times};
use crate::panicked::panicked;
use crate::reader::Reader;
use crate::received::{self, SourceOffsets};
use crate::render::{Origin, OriginRows};
use crate::state::{Snapshot, TaskState};
pub(crate) use count::Count;
use count::count;
pub(crate) use ends::{ChainEnd, EndRows};
use ends::{in_order, together};
pub(crate) use stream::EventRows;
use stream::read;
pub(crate) use trace::StationTrace;
pub use trace::StepFate;

/// What one task of a flow computes.
pub(crate) struct Chain {
    /// Where the task's input comes from: the flow, the stream and the partition.
    pub place: Arc<str>,
    pub source: ChainSource,
    pub stations: Vec<Station>,
    /// Number of ways that rows can take; the first one begins at the source.
    pub ways: usize,
    /// Where the stream is joined with itself: the way on which its rows are the other side as well, which begins at the
    /// source too.
    pub itself: Option<Itself>,
    /// What comes out, in each form that it has; one at least.
    pub ends: Vec<ChainEnd>,
    /// Event time in the task's input, in a flow that needs it.
    pub time: Option<EventTime>,
}

/// How a task's input becomes rows.
pub(crate) enum ChainSource {
    /// Events of a stream, and how the stream decides on their times.
    Stream {
        reader: Reader,
        times: Option<EventTimes>,
    },
    /// Rows of the stage before, with these columns.
    Rows(SchemaRef),
    /// Events that the stage before has passed on.
    Events(Reader),
}

/// An operator at its place in the flow.
pub(crate) struct Station {
    /// The step, by its index.
    pub step: usize,
    /// The way whose rows it takes.
    pub way: usize,
    /// Ways that begin behind it.
    pub opens: Vec<usize>,
    /// Other ways that end here: their rows join those of its own in the order of events.
    pub gather: Vec<usize>,
    pub part: StepPart,
    /// The name its state is kept under; none for one without.
    pub name: Option<Arc<str>>,
    /// By how much its rows may come out later than their time, in microseconds.
    pub delay: i64,
    pub operator: Box<dyn Operator>,
}

/// The other side of a join of a stream with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Itself {
    pub way: usize,
    /// The join, by its index among the steps.
    pub step: usize,
}

/// What part of its step an operator is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepPart {
    Whole,
    /// What comes before the regrouping.
    Before,
    /// As [`StepPart::Before`], for the other side of a join of a stream with itself.
    BeforeOther,
    /// What comes behind it.
    After,
}

/// Where in a flow an event came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Its payload could not be read.
    Decode,
    /// A step, by its index.
    Step(usize),
    /// A step that could not take a result, which stands for no event, or not compute one of its own.
    Result(usize),
    /// An output, by its index.
    Output(usize),
}

/// `decode`, `step:0`, `to:1`.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Decode => f.write_str("decode"),
            Place::Step(i) | Place::Result(i) => write!(f, "step:{i}"),
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
    /// The rows that are left: of the first end.
    pub rows: RecordBatch,
    pub origin: Made,
    /// In a flow with event time.
    pub times: Option<Times>,
    /// For each row the outputs it goes to, a bit for each; none: to all.
    pub to: Option<UInt32Array>,
    /// Which results of the end the rows are; none: all.
    pub picked: Option<UInt32Array>,
    /// The rows of the other ends.
    pub others: Vec<EndRows>,
    pub dead: Vec<Dead>,
    /// Results that stand for no event, and that a step could not take or not compute.
    pub lost: Vec<LostResults>,
    /// Events that came too late, by their places in the batch, and the step they came too late for.
    pub late: Vec<(usize, usize)>,
    /// Number of events that are rows for operators: all but what the flow itself has put between them.
    pub input: usize,
    /// What the reader did.
    pub read: Counters,
    /// What each operator did.
    pub counts: Vec<Count>,
    /// The watermark of the rows that come out.
    pub watermark: Option<i64>,
    /// The partition of the task's input and the offset of the first event there, where the events lie in the log.
    pub place: Option<(u16, u64)>,
    /// For each event the one that it was made from, where another task has made it.
    pub sources: Option<SourceOffsets>,
}

/// Results that stand for no event, and that a step could not take or not compute.
#[derive(Debug)]
pub(crate) struct LostResults {
    /// The step, by its index.
    pub step: usize,
    /// Which of the chain's results they are.
    pub of: ResultsOf,
    /// What is known of them, all of the same columns.
    pub rows: Vec<LostRows>,
}

/// Results that an operator was given, or those that it makes; the operator by its place in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResultsOf {
    Given(usize),
    Made(usize),
}

impl LostResults {
    /// The letters of the results, by their places among them.
    pub fn dead(&self) -> impl Iterator<Item = Dead> {
        let place = Place::Result(self.step);
        let causes = self.rows.iter().flat_map(|lost| &lost.causes);
        causes.enumerate().map(move |(event, cause)| Dead {
            event,
            place,
            cause: cause.clone(),
        })
    }
}

/// A batch on its way through the operators.
pub(crate) struct ChainWork {
    events: Batch,
    /// The offset of the first event in the task's input, where it is known.
    base: Option<u64>,
    /// The operator that is next.
    at: usize,
    /// Rows on each way, in order.
    queues: Vec<VecDeque<Rows>>,
    /// Rows that have come to their end, by way, with the outputs that they go to.
    done: Vec<(usize, Rows, UInt32Array)>,
    /// Rows that the operator was given, once it has begun, and what it made of them so far.
    given: Option<usize>,
    out: Output,
    /// The watermark on each way.
    watermarks: Vec<Option<i64>>,
    /// The input has ended.
    last: bool,
    dead: Vec<Dead>,
    lost: Vec<LostResults>,
    late: Vec<(usize, usize)>,
    input: usize,
    read: Counters,
    counts: Vec<Count>,
    sources: Option<SourceOffsets>,
}

impl Computed {
    /// Why each row failed that came to no end, by the steps.
    pub fn failed(&self) -> impl Iterator<Item = Dead> {
        let lost = self.lost.iter().flat_map(LostResults::dead);
        self.dead.iter().cloned().chain(lost)
    }

    /// What dead letters of results are made from: of results that stand for no event, the results themselves.
    pub fn letters_origin(&self) -> Made {
        match (&self.origin, &self.times) {
            (Made::Many, Some(_)) => self.picked.clone().map_or(Made::Same, Made::From),
            (origin, _) => origin.clone(),
        }
    }

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
    /// Runs the operators over a batch. Events that fail alone are in [`Computed::dead`].
    ///
    /// # Errors
    /// As of [`Chain::read`] and [`Chain::go_on`].
    pub async fn run(&mut self, events: Batch) -> Result<Computed, Error> {
        let mut work = self.read(events)?;
        self.go_on(&mut work).await?;
        self.finish(work)
    }

    /// Reads events. From now on the batch must go on to its end: event time has moved.
    ///
    /// # Errors
    /// An error of the batch as a whole; then nothing has changed. A batch of one event has no permanent one: the event
    /// is dead.
    pub fn read(&mut self, events: Batch) -> Result<ChainWork, Error> {
        self.read_within(events, None)
    }

    /// As [`Chain::read`], for events that are the other side of a join with itself already: a step before the join could
    /// not take them, and they come again.
    pub fn read_own_side(&mut self, events: Batch) -> Result<ChainWork, Error> {
        self.read_side(events, None)
    }

    /// As [`Chain::read`], of a stream's events only those whose times lie in a range, in microseconds since 1970, where there
    /// is one. The others move event time all the same.
    pub fn read_within(
        &mut self,
        events: Batch,
        within: Option<&Range<i64>>,
    ) -> Result<ChainWork, Error> {
        let mut work = self.read_side(events, within)?;
        if let Some(itself) = &self.itself {
            work.take_in_other(*itself);
        }
        Ok(work)
    }

    fn read_side(
        &mut self,
        events: Batch,
        within: Option<&Range<i64>>,
    ) -> Result<ChainWork, Error> {
        let mut work = ChainWork::new(events, self.ways);
        let (source, time) = (&mut self.source, &mut self.time);
        match source {
            ChainSource::Stream { reader, times } => {
                let events = work.events.clone();
                let rows = EventRows::read(reader, times.as_ref(), events, within)?;
                rows.take_into(time, &mut work)?;
            }
            ChainSource::Rows(schema) => {
                let mut moved = time.clone().unwrap_or_else(|| EventTime::of_stream(0));
                let received = received::receive(&work.events, &mut moved)?;
                let rows = received::columns(&received, schema)?;
                *time = time.is_some().then_some(moved);
                (work.events, work.sources) = (received.events, received.sources);
                let made = received.places.map_or(Made::Same, Made::From);
                work.take_in(rows, made, Some(received.times), Vec::new());
            }
            ChainSource::Events(reader) => {
                let mut moved = time.clone().unwrap_or_else(|| EventTime::of_stream(0));
                let received = received::receive(&work.events, &mut moved)?;
                let events = match &received.places {
                    None => received.events.clone(),
                    Some(places) => received.events.take(places),
                };
                let read = read(reader, &events)?;
                *time = time.is_some().then_some(moved);
                // Of the events with those the flow put between them.
                let place = |at: usize| match &received.places {
                    Some(places) => places.value(at) as usize,
                    None => at,
                };
                let rejected = read.rejected.into_iter();
                let rejected = rejected.map(|(at, cause)| (place(at), cause)).collect();
                let times = match &read.events {
                    Some(good) => received.times.take(good)?,
                    None => received.times,
                };
                let made = match (&read.events, &received.places) {
                    (None, None) => Made::Same,
                    (None, Some(places)) => Made::From(places.clone()),
                    (Some(good), _) => {
                        let good = good.values().iter();
                        Made::From(good.map(|at| place(*at as usize) as u32).collect())
                    }
                };
                (work.events, work.sources) = (received.events, received.sources);
                work.take_in(read.rows, made, Some(times), rejected);
            }
        }
        self.begin(&mut work);
        Ok(work)
    }

    /// A tick instead of events: event time has reached `watermark`.
    pub fn tick(&mut self, watermark: i64) -> ChainWork {
        if let Some(time) = &mut self.time {
            time.tick(watermark);
        }
        let mut work = ChainWork::new(BatchBuilder::new().finish(), self.ways);
        self.begin(&mut work);
        work
    }

    /// The input has ended: what is open comes out.
    pub fn end(&mut self) -> ChainWork {
        let mut work = ChainWork::new(BatchBuilder::new().finish(), self.ways);
        self.begin(&mut work);
        work.last = true;
        work
    }

    /// The watermark of the input, on the ways that begin at the source.
    fn begin(&self, work: &mut ChainWork) {
        let watermark = self.time.as_ref().and_then(EventTime::watermark);
        let ways = self.itself.iter().map(|itself| itself.way).chain([0]);
        ways.for_each(|way| work.watermarks[way] = watermark);
    }

    /// Takes a batch through the operators.
    ///
    /// # Errors
    /// After a transient error it can be called again. After any other the operators are not to be used any more.
    pub async fn go_on(&mut self, work: &mut ChainWork) -> Result<(), Error> {
        while let Some(station) = self.stations.get_mut(work.at) {
            if work.given.is_none() {
                let place = format!("{}-{}", self.place, station.step);
                station.operator.begin(&place, work.base);
            }
            work.enter(station)?;
            let way = station.way;
            let operator = station.operator.as_mut();
            while let Some(rows) = work.queues[way].pop_front() {
                if let Err(error) = attempt(operator, rows.clone(), &mut work.out).await {
                    work.refused(operator, rows, error, way)?;
                }
            }
            if station.name.is_some()
                && let Some(watermark) = work.watermarks[way]
            {
                guarded(|| operator.on_time(watermark, &mut work.out)).map_err(fatal)?;
                work.watermarks[way] = Some(watermark.saturating_sub(station.delay));
            }
            if work.last {
                guarded(|| operator.flush(&mut work.out)).map_err(fatal)?;
            }
            work.next(station);
        }
        Ok(())
    }

    /// What came of a batch.
    pub fn finish(&self, mut work: ChainWork) -> Result<Computed, Error> {
        let mut ends = Vec::with_capacity(self.ends.len());
        for end in &self.ends {
            ends.push(end.rows(&mut work)?);
        }
        let watermarks = self.ends.iter().flat_map(|end| &end.ways);
        let watermark = watermarks
            .filter_map(|(way, _)| work.watermarks[*way])
            .min();
        let first = ends.remove(0);
        Ok(Computed {
            events: work.events,
            rows: first.rows,
            origin: first.origin,
            times: first.times,
            to: first.to,
            picked: None,
            others: ends,
            dead: work.dead,
            lost: work.lost,
            late: work.late,
            input: work.input,
            read: work.read,
            counts: work.counts,
            watermark,
            place: None,
            sources: work.sources,
        })
    }

    /// What comes from now on is only tried.
    pub fn on_trial(&mut self) {
        let stations = self.stations.iter_mut();
        stations.for_each(|station| station.operator.on_trial());
    }

    /// Takes up the state of the operators.
    pub fn restore(&mut self, state: &Arc<TaskState>) -> Result<(), Error> {
        for station in &mut self.stations {
            if let Some(name) = &station.name {
                station.operator.restore(state.reader(name))?;
            }
        }
        Ok(())
    }

    /// What has changed in the operators since the last time.
    pub fn snapshot(&mut self, state: &TaskState) -> Result<Snapshot, Error> {
        let mut changed = Vec::new();
        for station in &mut self.stations {
            if let Some(name) = &station.name {
                let mut changes = state.changes(name);
                station.operator.snapshot(&mut changes)?;
                changed.push(changes);
            }
        }
        Ok(state.snapshot(changed))
    }

    /// The least watermark of the input at which an operator has something to do.
    pub fn next_time(&self) -> Option<i64> {
        let mut delay = 0;
        let wanted = self.stations.iter().filter_map(|station| {
            let before = delay;
            delay += station.delay;
            Some(station.operator.next_time()?.saturating_add(before))
        });
        wanted.min()
    }

    /// Bytes of state in memory, by operator.
    pub fn memory(&self) -> Vec<(Arc<str>, usize)> {
        let stations = self.stations.iter();
        let named = stations.filter_map(|s| Some((Arc::clone(s.name.as_ref()?), s)));
        named.map(|(name, s)| (name, s.operator.memory())).collect()
    }

    /// Rows that operators hold and that come out later, by operator.
    pub fn rows_held(&self) -> Vec<(Arc<str>, u64)> {
        let stations = self.stations.iter();
        let named = stations.filter_map(|s| Some((Arc::clone(s.name.as_ref()?), s)));
        named
            .map(|(name, s)| (name, s.operator.rows_held()))
            .collect()
    }

    /// Gives up about so many bytes of memory, most of it where most is held.
    pub fn shrink(&mut self, bytes: usize) {
        let held: usize = self.stations.iter().map(|s| s.operator.memory()).sum();
        for station in &mut self.stations {
            let share = station.operator.memory() as f64 / held.max(1) as f64;
            station.operator.shrink((bytes as f64 * share) as usize);
        }
    }
}

impl ChainWork {
    /// The same work, of events that begin at an offset of the task's input.
    pub fn at(mut self, base: u64) -> ChainWork {
        self.base = Some(base);
        self
    }

    fn new(events: Batch, ways: usize) -> ChainWork {
        ChainWork {
            events,
            base: None,
            at: 0,
            queues: vec![VecDeque::new(); ways],
            done: Vec::new(),
            given: None,
            out: Output::default(),
            watermarks: vec![None; ways],
            last: false,
            dead: Vec::new(),
            lost: Vec::new(),
            late: Vec::new(),
            input: 0,
            read: Counters::default(),
            counts: Vec::new(),
            sources: None,
        }
    }

    fn take_in(
        &mut self,
        batch: RecordBatch,
        made: Made,
        times: Option<Times>,
        rejected: Vec<(usize, Error)>,
    ) {
        let rows = Rows { batch, made, times };
        self.input = rows.len() + rejected.len();
        self.read = Counters {
            input: self.input as u64,
            out: rows.len() as u64,
            dead: rejected.len() as u64,
            ..Counters::default()
        };
        self.dead = rejected
            .into_iter()
            .map(|(event, cause)| Dead {
                event,
                place: Place::Decode,
                cause,
            })
            .collect();
        if rows.len() > 0 {
            self.queues[0].push_back(rows);
        }
    }

    /// The rows are the other side of a join with itself, too.
    fn take_in_other(&mut self, itself: Itself) {
        let rows = self.queues[0].clone();
        let added = rows.iter().map(Rows::len).sum::<usize>() as u64;
        self.queues[itself.way] = rows;
        self.counts.push(Count {
            step: itself.step,
            node: Counters::default(),
            flow: Counters {
                added,
                ..Counters::default()
            },
        });
    }

    /// Gives an operator the rows of its way, unless it has them.
    fn enter(&mut self, station: &Station) -> Result<(), Error> {
        if self.given.is_some() {
            return Ok(());
        }
        let way = station.way;
        for other in &station.gather {
            let rows = std::mem::take(&mut self.queues[*other]);
            self.queues[way].extend(rows);
            let marks = [self.watermarks[way], self.watermarks[*other]];
            self.watermarks[way] = marks.into_iter().flatten().min();
        }
        if !station.gather.is_empty() && self.queues[way].len() > 1 {
            let rows: Vec<Rows> = std::mem::take(&mut self.queues[way]).into();
            let schema = rows[0].batch.schema();
            let (batch, made, times) = together(&schema, rows)?;
            let rows = Rows { batch, times, made };
            let order = in_order(&rows.made);
            self.queues[way].push_back(match order {
                Some(order) => rows.take(&order)?,
                None => rows,
            });
        }
        self.given = Some(self.queues[way].iter().map(Rows::len).sum());
        Ok(())
    }

    /// An operator did not take rows: those that fail alone are dead, the others come again.
    fn refused(
        &mut self,
        operator: &mut dyn Operator,
        rows: Rows,
        error: Error,
        way: usize,
    ) -> Result<(), Error> {
        let queue = &mut self.queues[way];
        if error.class() != Class::Permanent || rows.len() == 0 {
            queue.push_front(rows);
            return Err(error);
        }
        if rows.len() == 1 {
            self.out.fail(&rows, 0, error);
            return Ok(());
        }
        let failing = guarded(|| Ok(operator.failing(&rows))).unwrap_or_default();
        if failing.is_empty() {
            // The first half comes first.
            let middle = rows.len() / 2;
            queue.push_front(rows.slice(middle, rows.len() - middle));
            queue.push_front(rows.slice(0, middle));
            return Ok(());
        }
        let good = rows.take(&without(rows.len(), &failing))?;
        if good.len() > 0 {
            queue.push_front(good);
        }
        for Failed { row, cause } in failing {
            self.out.fail(&rows, row, cause);
        }
        Ok(())
    }

    /// The operator is done with the batch: what it made goes on.
    fn next(&mut self, station: &Station) {
        let mut out = std::mem::take(&mut self.out);
        let given = self.given.take().unwrap_or(0);
        // A result has no place among events that came too late.
        let is_result = |rows: &Rows| matches!(rows.made, Made::Many) && rows.times.is_some();
        for rows in out.late.extract_if(.., |rows| is_result(rows)) {
            let late = Error::new(Class::Permanent, "flow.result-late");
            let causes = vec![late; rows.len()];
            out.lost.push(LostRows { rows, causes });
        }
        self.counts
            .push(count(station.step, given, &out, station.part));
        let place = Place::Step(station.step);
        let dead = out.dead.into_iter();
        self.dead.extend(dead.map(|(event, cause)| Dead {
            event,
            place,
            cause,
        }));
        for late in out.late {
            let events = (0..late.len()).map(|row| late.made.event(row));
            self.late.extend(events.map(|event| (event, station.step)));
        }
        let step = station.step;
        for (of, rows) in [
            (ResultsOf::Given(self.at), out.lost),
            (ResultsOf::Made(self.at), out.unmade),
        ] {
            if !rows.is_empty() {
                self.lost.push(LostResults { step, of, rows });
            }
        }
        self.queues[station.way] = out.rows.into();
        let watermark = self.watermarks[station.way];
        for way in &station.opens {
            self.watermarks[*way] = watermark;
        }
        for routed in out.routed {
            match routed.to {
                Some(to) => self.done.push((routed.way, routed.rows, to)),
                None => self.queues[routed.way].push_back(routed.rows),
            }
        }
        self.at += 1;
    }
}

async fn attempt(operator: &mut dyn Operator, rows: Rows, out: &mut Output) -> Result<(), Error> {
    let process = AssertUnwindSafe(async { operator.process(rows, out).await });
    let result = process.catch_unwind().await;
    result.unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// An error behind which the operators' state is not what the input says.
fn fatal(error: Error) -> Error {
    match error.class() {
        Class::Configuration => error,
        _ => Error::new(Class::Configuration, "flow.state-stopped").with_error("cause", &error),
    }
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
