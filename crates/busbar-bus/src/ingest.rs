//! Event times: read from a column of the payload, once a batch before it is written, and checked against the clock.
//!
//! What is decided here is written to the log with the event: an event whose time cannot be right gets its time of
//! arrival, and the flag [`Flags::UNTIMED`] where its stream makes it a dead letter. A replay finds the same.

use std::sync::Arc;
use std::time::Instant;

use arrow::{
    array::{Array, AsArray, TimestampMicrosecondArray, UInt8Array},
    datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType},
};
use busbar_event::{
    ARRIVAL, Batch, Body, Class, Error, Flags, Micros, Result, Span,
    format::{Decoded, Decoder, FormatSpec},
    time,
};
use busbar_log::Clock;

use crate::spec::StreamSpec;
use crate::time_spec::{BadTime, EventTimeSpec};

/// How the events of a stream get their times.
#[derive(Debug)]
pub(crate) struct TimeRule {
    column: Option<TimeColumn>,
    max_ahead: Span,
    ahead: BadTime,
    missing: BadTime,
}

/// Which column holds the time, and how payloads are read.
#[derive(Debug)]
struct TimeColumn {
    format: FormatSpec,
    schema: SchemaRef,
    column: usize,
}

impl TimeColumn {
    fn decoder(&self) -> Option<Decoder> {
        // The column was checked when the rule was made.
        Decoder::new(&self.format, &self.schema, &[self.column]).ok()
    }
}

impl Default for TimeRule {
    fn default() -> Self {
        let spec = EventTimeSpec::default();
        TimeRule {
            column: None,
            max_ahead: spec.max_ahead,
            ahead: spec.ahead,
            missing: spec.missing,
        }
    }
}

impl TimeRule {
    /// The rule of a stream.
    pub fn of(stream: &str, spec: &StreamSpec) -> Result<Arc<TimeRule>> {
        let Some(time) = &spec.time else {
            return Ok(Arc::default());
        };
        let column = match (&time.column, &spec.schema) {
            (Some(name), Some(schema)) => {
                let schema = schema.schema()?;
                let refuse = |code| {
                    Error::new(Class::Configuration, code)
                        .with("stream", stream)
                        .with("column", name)
                };
                let column = schema
                    .index_of(name)
                    .map_err(|_| refuse("bus.time-unknown"))?;
                match schema.field(column).data_type() {
                    DataType::Timestamp(TimeUnit::Microsecond, _) => {}
                    _ => return Err(refuse("bus.time-type")),
                }
                Some(TimeColumn {
                    format: spec.format.clone(),
                    schema,
                    column,
                })
            }
            _ => None,
        };
        Ok(Arc::new(TimeRule {
            column,
            max_ahead: time.max_ahead,
            ahead: time.ahead,
            missing: time.missing,
        }))
    }
}

/// The clock of a partition as event times are compared with it: it goes on when the node's clock is set back, so that
/// events with right times are taken all the same.
pub(crate) struct SteadyClock {
    clock: Arc<dyn Clock>,
    begun: (Micros, Instant),
}

impl SteadyClock {
    pub fn new(clock: Arc<dyn Clock>) -> SteadyClock {
        let begun = (clock.now_micros(), Instant::now());
        SteadyClock { clock, begun }
    }

    /// The node's clock, or where it would be had it not been set back since the node started.
    pub fn now_micros(&self) -> Micros {
        let (then, begun) = self.begun;
        let passed = i64::try_from(begun.elapsed().as_micros()).unwrap_or(i64::MAX);
        self.clock.now_micros().max(then.saturating_add(passed))
    }
}

/// Reads and checks the event times of a stream's events outside of the stream.
#[derive(Clone, Debug)]
pub struct EventTimes(Arc<TimeRule>);

impl EventTimes {
    /// Those of a stream.
    ///
    /// # Errors
    /// `bus.time-unknown` or `bus.time-type` when there is no such column, or it holds no times.
    pub fn of(stream: &str, spec: &StreamSpec) -> Result<Self> {
        Ok(Self(TimeRule::of(stream, spec)?))
    }

    /// The batch with event times in place of its own, where payloads hold one; checked as of events that arrive at
    /// `arrived`, or not at all.
    pub fn apply(&self, batch: Batch, arrived: Option<Micros>) -> Batch {
        let now = arrived.unwrap_or(Micros::MAX);
        TimeReader::default().apply(&self.0, batch, now, false)
    }

    /// Why these events, all of them with [`Flags::UNTIMED`], have no time.
    pub fn causes(&self, events: &Batch) -> Vec<Error> {
        let error = |code| Error::new(Class::Permanent, code);
        let Some(column) = &self.0.column else {
            let sent = error("bus.time-ahead-sent").with("max_ahead", self.0.max_ahead);
            return vec![sent; events.rows()];
        };
        let name = column.schema.field(column.column).name();
        let mut causes = vec![error("bus.time-missing").with("column", name); events.rows()];
        let Some(mut decoder) = column.decoder() else {
            return causes;
        };
        let decoded = decoder.decode(&events.payloads());
        each_time(&decoded, |row, time| {
            causes[row] = error("bus.time-ahead")
                .with("time", time::text(time))
                .with("arrived", time::text(events.times()[row]))
                .with("max_ahead", self.0.max_ahead);
        });
        for rejected in decoded.rejected {
            causes[rejected.row] = rejected.cause;
        }
        causes
    }
}

/// Reads the time of batch after batch; keeps its decoder while the rule stays the same.
#[derive(Default)]
pub(crate) struct TimeReader {
    decoder: Option<(Arc<TimeRule>, Decoder)>,
}

impl TimeReader {
    /// The batch with event times in place of times of arrival, where payloads hold one. `now` is when it arrives.
    /// `sent`: the times that it has are those that senders gave, and are checked too.
    pub fn apply(&mut self, rule: &Arc<TimeRule>, batch: Batch, now: Micros, sent: bool) -> Batch {
        let latest = now.saturating_add(rule.max_ahead.as_micros());
        let ahead = |time: &Micros| sent && *time > latest;
        let payloads = match (&rule.column, batch.body()) {
            (Some(_), Body::Payload(payloads)) => Some(payloads),
            _ => None,
        };
        if payloads.is_none() && !batch.times().iter().any(ahead) {
            return batch;
        }
        let mut times = Times {
            latest,
            rule,
            times: batch.times().to_vec(),
            flags: batch.envelope().flags.values().to_vec(),
        };
        for row in 0..batch.rows() {
            if ahead(&times.times[row]) {
                times.ahead(row);
            }
        }
        if let Some(payloads) = payloads
            && let Some(decoder) = self.decoder(rule)
        {
            let mut timed = vec![false; batch.rows()];
            each_time(&decoder.decode(payloads), |row, time| {
                timed[row] = true;
                times.set(row, time);
            });
            if rule.missing == BadTime::Dead {
                for row in (0..timed.len()).filter(|row| !timed[*row]) {
                    times.flags[row] |= Flags::UNTIMED;
                }
            }
        }
        let mut envelope = batch.envelope();
        envelope.time = TimestampMicrosecondArray::from(times.times).with_timezone("UTC");
        envelope.flags = UInt8Array::from(times.flags);
        match Batch::from_columns(envelope, batch.body().clone()) {
            Ok(timed) => timed,
            Err(_) => batch,
        }
    }

    fn decoder(&mut self, rule: &Arc<TimeRule>) -> Option<&mut Decoder> {
        let known = |(known, _): &(Arc<TimeRule>, Decoder)| Arc::ptr_eq(known, rule);
        if !self.decoder.as_ref().is_some_and(known) {
            let decoder = rule.column.as_ref().and_then(TimeColumn::decoder);
            self.decoder = decoder.map(|decoder| (Arc::clone(rule), decoder));
        }
        self.decoder.as_mut().map(|(_, decoder)| decoder)
    }
}

/// The times and flags of a batch while they are decided.
struct Times<'a> {
    latest: Micros,
    rule: &'a TimeRule,
    times: Vec<Micros>,
    flags: Vec<u8>,
}

impl Times<'_> {
    /// The payload of an event holds this time.
    fn set(&mut self, row: usize, time: Micros) {
        match time > self.latest {
            true => self.ahead(row),
            false => {
                self.times[row] = time;
                self.flags[row] &= !Flags::UNTIMED;
            }
        }
    }

    /// The time of an event is too far ahead.
    fn ahead(&mut self, row: usize) {
        self.times[row] = ARRIVAL;
        if self.rule.ahead == BadTime::Dead {
            self.flags[row] |= Flags::UNTIMED;
        }
    }
}

/// Calls `found` with the row and the time of each payload that holds one.
fn each_time(decoded: &Decoded, mut found: impl FnMut(usize, Micros)) {
    let Some(column) = decoded.columns.columns().first() else {
        return;
    };
    let Some(times) = column.as_primitive_opt::<TimestampMicrosecondType>() else {
        return;
    };
    for at in (0..times.len()).filter(|at| times.is_valid(*at)) {
        let row = match &decoded.rows {
            Some(rows) => rows.value(at) as usize,
            None => at,
        };
        found(row, times.value(at));
    }
}
