//! `window`: aggregates the events of windows of time.

mod closed;
mod panes;
mod partial;
mod sessions;
mod shape;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::Array;
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use busbar_catalog::{HopSpec, PathItem, WindowSpec};
use busbar_event::{Class, Error, Span};
use busbar_sql::{
    Aggregation, AggregationPart, AggregationText, Failed, Inputs, Predicate, TimeWindow,
    WindowQuery,
};
use futures::future::{BoxFuture, FutureExt, ready};

use super::{
    Changes, Divided, Operator, Output, Rows, StateReader, Stateful, Step, StepContext, Times,
    Wrong, column_place, filter, misses_times,
};
pub(super) use closed::tell_failed;
use panes::Panes;
use sessions::Sessions;
pub(super) use shape::Shape;

/// Compiles a `window` step.
pub(super) fn compile(
    spec: &WindowSpec,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let [start, end] = bounds();
    let early = Field::new("early", DataType::Boolean, false);
    compile_parts(spec, None, &[start, end, early], context)
}

/// Compiles a query that groups by a window.
pub(super) fn compile_query(
    query: &WindowQuery,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let text = &query.text;
    let piece = |place: &Range<usize>| text[place.clone()].to_owned();
    let (mut tumble, mut hop, mut session) = (None, None, None);
    match query.window {
        TimeWindow::Tumble { size } => tumble = Some(Span::from_micros(size)),
        TimeWindow::Hop { size, every } => {
            hop = Some(HopSpec {
                size: Span::from_micros(size),
                every: Span::from_micros(every),
            });
        }
        TimeWindow::Session { gap } => session = Some(Span::from_micros(gap)),
    }
    let spec = WindowSpec {
        name: None,
        tumble,
        hop,
        session,
        offset: None,
        by: query.by.iter().map(piece).collect(),
        select: piece(&query.select),
        having: query.having.as_ref().map(piece),
        emit: None,
    };
    let condition = query.condition.as_ref().map(|place| &text[place.clone()]);
    compile_parts(&spec, condition, &bounds(), context).map_err(|wrong| {
        // The parts stand in one text: an error is shown there.
        let part = match &wrong.path[..] {
            [PathItem::Key("select"), ..] => Some(&query.select),
            [PathItem::Key("by"), PathItem::Index(key), ..] => query.by.get(*key),
            [PathItem::Key("having"), ..] => query.having.as_ref(),
            [PathItem::Key("where"), ..] => query.condition.as_ref(),
            _ => None,
        };
        let part = part.unwrap_or(&query.call);
        let place = match wrong.span {
            Some(span) => part.start + span.start..(part.start + span.end).min(part.end),
            None => part.clone(),
        };
        Wrong {
            path: Vec::new(),
            span: Some(place),
            ..wrong
        }
    })
}

/// Compiles a window over the rows for which `condition` is true. `group_columns` are those that every result may name
/// besides its keys.
fn compile_parts(
    spec: &WindowSpec,
    condition: Option<&str>,
    group_columns: &[Field],
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let windows = windows(spec)?;
    let compiled = condition.map(|text| Predicate::compile(context.schema, text));
    let compiled = compiled
        .transpose()
        .map_err(|wrong| Wrong::from(wrong).at("where"))?;
    let text = AggregationText {
        select: &spec.select,
        by: &spec.by,
        having: spec.having.as_deref(),
        group_columns,
    };
    let aggregation = Aggregation::compile(context.schema, &text).map_err(|(part, wrong)| {
        let wrong = Wrong::from(wrong);
        match part {
            AggregationPart::Select => wrong.at("select"),
            AggregationPart::By(i) => wrong.at(i).at("by"),
            AggregationPart::Having => wrong.at("having"),
        }
    })?;
    let key = |by: &String| {
        let place = column_place(context.schema, by).ok()?;
        Some(context.schema.field(place).name().clone())
    };
    // Keys that are not columns cannot be told apart before they are computed: all rows must meet.
    let keys: Option<Vec<String>> = spec.by.iter().map(key).collect();
    let meaning = format!(
        "{} {}{:?}",
        serde_json::to_string(&WindowSpec {
            name: None,
            ..spec.clone()
        })
        .unwrap_or_default(),
        condition.map_or_else(String::new, |text| format!("where {text} ")),
        aggregation.state_schema().fields(),
    );
    Ok(Arc::new(Window {
        windows,
        condition: compiled,
        aggregation,
        emit: spec.emit.map(|span| span.as_micros()),
        name: spec.name.clone(),
        keys: keys.unwrap_or_default(),
        meaning,
    }))
}

/// Which windows.
#[derive(Clone, Copy, Debug)]
enum Windows {
    Regular(Shape),
    /// By the gap that ends a session, in microseconds.
    Session(i64),
}

fn windows(spec: &WindowSpec) -> Result<Windows, Wrong> {
    let offset = spec.offset.map_or(0, |span| span.as_micros());
    let regular = |size: i64, every: i64, place: &'static str| {
        Shape::new(size, every, offset)
            .map(Windows::Regular)
            .map_err(|e| Wrong::new(e).at(place))
    };
    match (&spec.tumble, &spec.hop, &spec.session) {
        (Some(size), None, None) => regular(size.as_micros(), size.as_micros(), "tumble"),
        (None, Some(hop), None) => regular(hop.size.as_micros(), hop.every.as_micros(), "hop"),
        (None, None, Some(gap)) => {
            let refuse = |code| Wrong::new(Error::new(Class::Configuration, code));
            if gap.as_micros() <= 0 {
                return Err(refuse("flow.window-size").at("session"));
            }
            if spec.offset.is_some() {
                return Err(refuse("flow.window-offset").at("offset"));
            }
            Ok(Windows::Session(gap.as_micros()))
        }
        _ => Err(Wrong::new(Error::new(
            Class::Configuration,
            "flow.window-kind",
        ))),
    }
}

/// The columns for the bounds of a result's window.
fn bounds() -> [Field; 2] {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    ["window_start", "window_end"].map(|name| Field::new(name, time.clone(), false))
}

#[derive(Clone)]
struct Window {
    windows: Windows,
    /// Only rows for which it is true are counted.
    condition: Option<Predicate>,
    aggregation: Aggregation,
    emit: Option<i64>,
    name: Option<String>,
    keys: Vec<String>,
    meaning: String,
}

impl Step for Window {
    fn schema(&self) -> Option<SchemaRef> {
        Some(self.aggregation.schema())
    }

    fn columns(&self) -> Vec<usize> {
        columns(self.condition.as_ref(), &self.aggregation)
    }

    fn row_by_row(&self) -> bool {
        false
    }

    fn stateful(&self) -> Option<Stateful> {
        let divided = match self.windows {
            Windows::Session(_) => None,
            Windows::Regular(shape) => Some(Divided {
                before: Arc::new(partial::Before::new(
                    shape,
                    self.condition.clone(),
                    self.aggregation.clone(),
                )),
                keys: partial::keys(&self.aggregation),
                after: Arc::new(partial::After(self.clone())),
            }),
        };
        Some(Stateful {
            name: self.name.clone(),
            keys: self.keys.clone(),
            meaning: self.meaning.clone(),
            divided,
        })
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let condition = self
            .condition
            .as_ref()
            .map(|c| c.bind(schema))
            .transpose()?;
        Ok(Box::new(WindowOperator {
            condition,
            ..self.bind(self.aggregation.bind(schema)?)?
        }))
    }
}

impl Window {
    fn bind(&self, aggregation: Aggregation) -> Result<WindowOperator, Error> {
        let open = match self.windows {
            Windows::Regular(shape) => {
                Open::Regular(Panes::new(shape, Arc::new(aggregation.clone())))
            }
            Windows::Session(gap) => {
                Open::Session(Box::new(Sessions::new(gap, aggregation.clone())?))
            }
        };
        Ok(WindowOperator {
            condition: None,
            aggregation,
            open,
            emit: self.emit,
            emitted: i64::MIN,
            watermark: i64::MIN,
        })
    }
}

/// A window at work.
pub(super) struct WindowOperator {
    condition: Option<Predicate>,
    aggregation: Aggregation,
    open: Open,
    /// How often early results are given, microseconds of event time.
    emit: Option<i64>,
    /// The number of the last stretch of `emit` for which early results were given.
    emitted: i64,
    watermark: i64,
}

enum Open {
    Regular(Panes),
    Session(Box<Sessions>),
}

impl Operator for WindowOperator {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let rows = counted(self.condition.as_ref(), rows);
        ready(rows.and_then(|rows| self.take_in(&rows, out))).boxed()
    }

    fn failing(&mut self, rows: &Rows) -> Vec<Failed> {
        failing(self.condition.as_ref(), &self.aggregation, rows)
    }

    fn on_time(&mut self, watermark: i64, out: &mut Output) -> Result<(), Error> {
        self.watermark = self.watermark.max(watermark);
        let closed = match &mut self.open {
            Open::Regular(panes) => panes.close(watermark),
            Open::Session(sessions) => sessions.close(watermark),
        };
        for closed in closed.map_err(stops)? {
            closed.tell(|end| end - 1, out);
        }
        self.emit_early(watermark, out)
    }

    fn next_time(&self) -> Option<i64> {
        let end = match &self.open {
            Open::Regular(panes) => panes.next_end(),
            Open::Session(sessions) => sessions.next_end(),
        }?;
        Some(match self.emit {
            Some(every) => end.min(self.emitted.saturating_add(1).saturating_mul(every)),
            None => end,
        })
    }

    fn flush(&mut self, out: &mut Output) -> Result<(), Error> {
        let emit = self.emit.take();
        let flushed = self.on_time(i64::MAX, out);
        self.emit = emit;
        flushed
    }

    fn snapshot(&mut self, changes: &mut Changes) -> Result<(), Error> {
        if self.emit.is_some() {
            changes.put(EMITTED, &self.emitted.to_be_bytes());
        }
        match &mut self.open {
            Open::Regular(panes) => panes.snapshot(changes),
            Open::Session(sessions) => sessions.snapshot(changes),
        }
    }

    fn restore(&mut self, state: Arc<dyn StateReader>) -> Result<(), Error> {
        if let Some(value) = state.get(EMITTED)? {
            let damaged = || Error::new(Class::Permanent, "flow.state-damaged");
            let bytes: [u8; 8] = value.as_ref().try_into().map_err(|_| damaged())?;
            self.emitted = i64::from_be_bytes(bytes);
        }
        match &mut self.open {
            Open::Regular(panes) => panes.restore(state),
            Open::Session(sessions) => sessions.restore(state.as_ref()),
        }
    }

    fn memory(&self) -> usize {
        match &self.open {
            Open::Regular(panes) => panes.bytes(),
            Open::Session(sessions) => sessions.bytes(),
        }
    }

    fn shrink(&mut self, bytes: usize) {
        if let Open::Regular(panes) = &mut self.open {
            panes.shrink(bytes);
        }
    }
}

const EMITTED: &[u8] = b"emitted";

impl WindowOperator {
    fn take_in(&mut self, rows: &Rows, out: &mut Output) -> Result<(), Error> {
        let inputs = self.aggregation.inputs(&rows.batch)?;
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let Some(every) = self.emit else {
            return self.add(rows, 0, &inputs, times, out);
        };
        // Early results hold the rows before the first that found the watermark behind their time, whatever the batches.
        let mut from = 0;
        for row in 0..rows.len() {
            let mark = times.marks[row];
            if mark != i64::MIN && mark.div_euclid(every) > self.emitted && mark > self.watermark {
                self.add_part(rows, from..row, &inputs, times, out)?;
                self.emit_early(mark, out)?;
                from = row;
            }
        }
        self.add_part(rows, from..rows.len(), &inputs, times, out)
    }

    fn add_part(
        &mut self,
        rows: &Rows,
        part: Range<usize>,
        inputs: &Inputs,
        times: &Times,
        out: &mut Output,
    ) -> Result<(), Error> {
        if part.is_empty() {
            return Ok(());
        }
        let part_times = Times {
            times: times.times.slice(part.start, part.len()),
            marks: times.marks.slice(part.start, part.len()),
        };
        self.add(
            rows,
            part.start,
            &inputs.slice(part.clone()),
            &part_times,
            out,
        )
    }

    /// Counts rows in, of which the first stands at `offset` in `rows`.
    fn add(
        &mut self,
        rows: &Rows,
        offset: usize,
        inputs: &Inputs,
        times: &Times,
        out: &mut Output,
    ) -> Result<(), Error> {
        let (times, marks) = (&times.times[..], &times.marks[..]);
        let late = match &mut self.open {
            Open::Regular(panes) => panes.add(inputs, times, marks),
            Open::Session(sessions) => sessions.add(inputs, times, marks),
        };
        let late = late.map_err(stops)?;
        out.taken += inputs.rows() - late.len();
        if !late.is_empty() {
            let late: Vec<u32> = late.into_iter().map(|row| row + offset as u32).collect();
            out.late.push(rows.take(&late.into())?);
        }
        Ok(())
    }

    /// Gives the results of open windows, where it is time.
    fn emit_early(&mut self, watermark: i64, out: &mut Output) -> Result<(), Error> {
        let Some(every) = self.emit else {
            return Ok(());
        };
        let stretch = watermark.div_euclid(every);
        if watermark == i64::MIN || stretch <= self.emitted {
            return Ok(());
        }
        self.emitted = stretch;
        let early = match &mut self.open {
            Open::Regular(panes) => panes.early(watermark),
            Open::Session(sessions) => sessions.early(watermark),
        };
        for early in early.map_err(stops)? {
            early.tell(|_| watermark, out);
        }
        Ok(())
    }
}

/// Places of the columns that are read.
fn columns(condition: Option<&Predicate>, aggregation: &Aggregation) -> Vec<usize> {
    let mut columns = aggregation.columns();
    columns.extend(condition.iter().flat_map(|condition| condition.columns()));
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// The rows that windows count.
fn counted(condition: Option<&Predicate>, rows: Rows) -> Result<Rows, Error> {
    match condition {
        Some(condition) => filter::keep(condition, rows),
        None => Ok(rows),
    }
}

/// The rows that fail alone: first those for which the condition does; without them, the caller asks again.
fn failing(condition: Option<&Predicate>, aggregation: &Aggregation, rows: &Rows) -> Vec<Failed> {
    let Some(condition) = condition else {
        return aggregation.failing(&rows.batch);
    };
    let failing = condition.failing(&rows.batch);
    if !failing.is_empty() {
        return failing;
    }
    let Ok(mask) = condition.evaluate(&rows.batch) else {
        return Vec::new();
    };
    let kept: Vec<usize> = (0..rows.len())
        .filter(|row| mask.is_valid(*row) && mask.value(*row))
        .collect();
    let Ok(counted) = rows.filter(&mask) else {
        return Vec::new();
    };
    let failing = aggregation.failing(&counted.batch).into_iter();
    let at = |failed: Failed| Failed {
        row: kept[failed.row],
        ..failed
    };
    failing.map(at).collect()
}

/// What goes wrong between an event and the result of its window is no fault of a single event, and what was counted before
/// cannot be taken back: the flow stops and says why. A result that cannot be computed does not come here.
pub(super) fn stops(error: Error) -> Error {
    match error.class() {
        Class::Permanent => {
            Error::new(Class::Configuration, "flow.window-aggregate").with_error("cause", &error)
        }
        _ => error,
    }
}
