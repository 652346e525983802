//! `call`: asks a service about each row and adds what it answers as columns.
//!
//! Several requests are under way at a time; results come out in the order of the rows. A call that fails for the moment
//! fails the batch: the task waits and gives the same rows again. What has been answered until then is kept, so that nobody
//! is asked twice within one run. After a crash, rows whose results were not written are asked about again.

mod maker;
mod text;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, UInt32Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use busbar_catalog::CallSpec;
use busbar_connector::{Admitted, CallForm, ServiceRequest};
use busbar_event::format::Decoder;
use busbar_event::hash::fnv1a;
use busbar_event::{Class, Error};
use busbar_sql::Failed;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream;

use super::rows::misfit;
use super::{Made, Operator, Output, Rows, Step, StepContext, Wrong};
use crate::limits::{CALL_DECODE_BYTES, CALL_TRIES, CALLS_IN_FLIGHT_MAX};
use crate::services::{CallFailure, ServiceLine};
pub(crate) use maker::{CallMaker, json_objects};
pub(crate) use text::CallText;

/// Checks the step, and adds the columns of its answer to those that it sees.
pub(super) fn compile(spec: &CallSpec, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    let fault =
        |key: &'static str, code| Wrong::new(Error::new(Class::Configuration, code)).at(key);
    let maker = CallMaker::compile(spec, context.schema, context.services)?;
    let most = CALLS_IN_FLIGHT_MAX as u16;
    if spec.in_flight.is_some_and(|some| some == 0 || some > most) {
        let error = Error::new(Class::Configuration, "flow.call-in-flight").with("most", most);
        return Err(Wrong::new(error).at("in_flight"));
    }
    if spec.tries == Some(0) {
        return Err(fault("tries", "flow.call-tries"));
    }
    let mut fields: Vec<FieldRef> = context.schema.fields().iter().cloned().collect();
    for field in maker.declared.fields() {
        if fields.iter().any(|known| known.name() == field.name()) {
            let error = Error::new(Class::Configuration, "flow.column-twice");
            return Err(Wrong::new(error.with("column", field.name())).at("answer"));
        }
        fields.push(Arc::clone(field));
    }
    Ok(Arc::new(CallStep {
        maker,
        input: Arc::clone(context.schema),
        schema: Arc::new(Schema::new(fields)),
        in_flight: usize::from(spec.in_flight.unwrap_or(most)),
        tries: spec.tries,
    }))
}

struct CallStep {
    maker: CallMaker,
    input: SchemaRef,
    schema: SchemaRef,
    in_flight: usize,
    tries: Option<u32>,
}

impl Step for CallStep {
    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }

    fn columns(&self) -> Vec<usize> {
        (0..self.input.fields().len()).collect()
    }

    fn calls_out(&self) -> bool {
        true
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let place = |field: &FieldRef| schema.index_of(field.name()).map_err(misfit);
        let own = self.input.fields().iter().map(place);
        Ok(Box::new(Calling {
            line: Arc::clone(self.maker.line()?),
            decoder: self.maker.decoder()?,
            maker: self.maker.bind(schema)?,
            own: own.collect::<Result<_, _>>()?,
            schema: Arc::clone(&self.schema),
            in_flight: self.in_flight,
            tries: self.tries,
            place: String::new(),
            base: None,
            progress: CallProgress::default(),
            refusals: HashMap::new(),
        }))
    }
}

struct Calling {
    line: Arc<ServiceLine>,
    maker: CallMaker,
    /// None where nothing of the answer is read.
    decoder: Option<Decoder>,
    /// Places of the columns that go through.
    own: Vec<usize>,
    schema: SchemaRef,
    in_flight: usize,
    tries: Option<u32>,
    /// Where the events come from: the flow, the stream and the partition.
    place: String,
    /// The offset of the first event of the batch.
    base: Option<u64>,
    progress: CallProgress,
    /// How often the service has said "later" to a request.
    refusals: HashMap<CallKey, u32>,
}

/// What tells a request from all others of a task that can be under way with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct CallKey {
    /// The offset of the row's event in the task's input.
    offset: Option<u64>,
    /// Which row of that event it is.
    nth: u32,
    content: u64,
}

/// A request, or why the row makes none.
struct CallRequest {
    key: CallKey,
    made: Result<ServiceRequest, Error>,
}

/// What became of a row: an answer that was taken, or why the row is dead.
type RowOutcome = Result<Bytes, Error>;

/// What is known of the rows that come again after a call has failed for the moment.
#[derive(Default)]
struct CallProgress {
    /// The rows that are settled: the first ones of the batch.
    settled: Vec<CallKey>,
    /// Those of them that were answered and read, and the columns of their answers.
    answered: Vec<u32>,
    columns: Vec<RecordBatch>,
    dead: Vec<(usize, Error)>,
    /// Answers that are not read yet, with their rows.
    unread: Vec<(u32, Bytes)>,
    unread_bytes: usize,
    /// Outcomes of rows behind the settled ones.
    ahead: HashMap<CallKey, RowOutcome>,
}

impl Operator for Calling {
    fn begin(&mut self, place: &str, base: Option<u64>) {
        if self.place != place {
            place.clone_into(&mut self.place);
        }
        self.base = base;
    }

    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            if rows.len() == 0 {
                return Ok(());
            }
            let requests = self.requests(&rows)?;
            let settled = &self.progress.settled;
            let goes_on = settled.len() <= requests.len()
                && settled
                    .iter()
                    .zip(&requests)
                    .all(|(key, request)| *key == request.key);
            if !goes_on {
                self.progress = CallProgress::default();
            }
            self.calls(requests).await?;
            let result = self.results(&rows)?;
            out.push(result);
            let dead = std::mem::take(&mut self.progress).dead.into_iter();
            dead.for_each(|(row, error)| out.fail(&rows, row, error));
            self.refusals.clear();
            Ok(())
        }
        .boxed()
    }

    fn failing(&mut self, rows: &Rows) -> Vec<Failed> {
        self.maker.failing(&rows.batch)
    }
}

impl Calling {
    /// The requests of a batch, one for each row.
    fn requests(&self, rows: &Rows) -> Result<Vec<CallRequest>, Error> {
        let filled = self.maker.fill(&rows.batch)?;
        let mut requests = Vec::with_capacity(rows.len());
        let mut before: Option<(u64, u32)> = None;
        for row in 0..rows.len() {
            let made = filled.request(row);
            let offset = match (&rows.made, self.base) {
                (Made::Many, _) | (_, None) => None,
                (made, Some(base)) => Some(base + made.event(row) as u64),
            };
            let nth = match (before, offset) {
                (Some((last, nth)), Some(offset)) if last == offset => nth + 1,
                _ => 0,
            };
            before = offset.map(|offset| (offset, nth));
            let content = made.as_ref().map_or(0, |made| {
                fnv1a(&made.body) ^ fnv1a(made.path.as_bytes()).rotate_left(1)
            });
            let key = CallKey {
                offset,
                nth,
                content,
            };
            requests.push(CallRequest {
                made: made.map(|made| self.keyed(made, key)),
                key,
            });
        }
        Ok(requests)
    }

    /// Adds the header by which a service recognises a request that comes again. Rows that stand for no single event have none.
    fn keyed(&self, mut request: ServiceRequest, key: CallKey) -> ServiceRequest {
        let given = |(name, _): &(String, String)| name.eq_ignore_ascii_case(IDEMPOTENCY_KEY);
        if let Some(offset) = key.offset
            && !request.headers.iter().any(given)
        {
            let nth = match key.nth {
                0 => String::new(),
                nth => format!(".{nth}"),
            };
            let text = format!("{}-{offset}{nth}", self.place);
            let text = text
                .chars()
                .map(|c| if c.is_ascii_graphic() { c } else { '_' });
            request
                .headers
                .push((IDEMPOTENCY_KEY.to_owned(), text.collect()));
        }
        request
    }

    /// Makes the calls of rows that are not settled, until all are or one has failed for the moment.
    async fn calls(&mut self, requests: Vec<CallRequest>) -> Result<(), Error> {
        let mut requests = requests
            .into_iter()
            .enumerate()
            .skip(self.progress.settled.len());
        let mut failed: Option<Error> = None;
        let (line, form) = (Arc::clone(&self.line), Arc::clone(&self.maker.form));
        if let Admitted::Trial(_trial) = line.admit()? {
            // One call alone; those that are known already say nothing of how the service is.
            for (row, request) in requests.by_ref() {
                let key = request.key;
                let known = self.progress.ahead.remove(&key);
                let is_call = known.is_none() && request.made.is_ok();
                let outcome = match known {
                    Some(outcome) => outcome,
                    None => self.outcome(key, call(&line, &form, request).await)?,
                };
                self.settle(row, key, outcome)?;
                if is_call {
                    break;
                }
            }
        }
        // Set when no more calls are to begin; those under way are waited for.
        let stops = AtomicBool::new(false);
        let mut ahead = std::mem::take(&mut self.progress.ahead);
        let mut calls = stream::iter(requests.map(|(row, request)| {
            let key = request.key;
            let known = ahead.remove(&key);
            let (stops, line, form) = (&stops, &line, &form);
            async move {
                let outcome = match known {
                    Some(outcome) => Some(Ok(outcome)),
                    None if stops.load(Ordering::Relaxed) => None,
                    None => {
                        let made = call(line, form, request).await;
                        if made
                            .as_ref()
                            .is_err_and(|failure| failure.error.class() != Class::Permanent)
                        {
                            stops.store(true, Ordering::Relaxed);
                        }
                        Some(Err(made))
                    }
                };
                (row, key, outcome)
            }
        }))
        .buffered(self.in_flight);
        let mut later = HashMap::new();
        while let Some((row, key, outcome)) = calls.next().await {
            let outcome = match outcome {
                None => continue,
                Some(Ok(known)) => known,
                Some(Err(made)) => match self.outcome(key, made) {
                    Ok(outcome) => outcome,
                    Err(error) => {
                        failed.get_or_insert(error);
                        continue;
                    }
                },
            };
            match failed {
                None => self.settle(row, key, outcome)?,
                Some(_) => drop(later.insert(key, outcome)),
            }
        }
        drop(calls);
        later.extend(ahead);
        self.progress.ahead = later;
        match failed {
            Some(error) => Err(error),
            None => self.read(),
        }
    }

    /// What a call has made of a row.
    ///
    /// # Errors
    /// What is to be tried again, or stops the flow.
    fn outcome(
        &mut self,
        key: CallKey,
        made: Result<Bytes, CallFailure>,
    ) -> Result<RowOutcome, Error> {
        let CallFailure {
            error,
            is_answered,
            is_unavailable,
        } = match made {
            Ok(answer) => return Ok(Ok(answer)),
            Err(failure) => failure,
        };
        if error.class() == Class::Permanent {
            return Ok(Err(error));
        }
        let tries = match self.tries {
            Some(tries) => Some(tries).filter(|_| is_answered),
            None => Some(CALL_TRIES).filter(|_| !is_unavailable),
        };
        if let (Some(tries), Class::Transient) = (tries, error.class()) {
            let refusals = self.refusals.entry(key).or_default();
            *refusals += 1;
            if *refusals >= tries {
                let tried = Error::new(Class::Permanent, "flow.call-tried")
                    .with("tries", tries)
                    .with_error("cause", &error);
                return Ok(Err(tried));
            }
        }
        Err(error)
    }

    /// Takes the outcome of the row behind those that are settled.
    fn settle(&mut self, row: usize, key: CallKey, outcome: RowOutcome) -> Result<(), Error> {
        let progress = &mut self.progress;
        progress.settled.push(key);
        match outcome {
            Ok(answer) => {
                progress.unread_bytes += answer.len();
                progress.unread.push((row as u32, answer));
            }
            Err(error) => progress.dead.push((row, error)),
        }
        match progress.unread_bytes > CALL_DECODE_BYTES {
            true => self.read(),
            false => Ok(()),
        }
    }

    /// Reads answers into columns. A row whose answer cannot be read is dead.
    fn read(&mut self) -> Result<(), Error> {
        let progress = &mut self.progress;
        let unread = std::mem::take(&mut progress.unread);
        progress.unread_bytes = 0;
        let Some(decoder) = &mut self.decoder else {
            progress.answered.extend(unread.iter().map(|(row, _)| *row));
            return Ok(());
        };
        if unread.is_empty() {
            return Ok(());
        }
        let answers = BinaryArray::from_iter_values(unread.iter().map(|(_, answer)| answer));
        let decoded = decoder.decode(&answers);
        let mut rejected = BTreeSet::new();
        for bad in decoded.rejected {
            let error = Error::new(Class::Permanent, "flow.call-answer").caused_by(bad.cause);
            progress.dead.push((unread[bad.row].0 as usize, error));
            rejected.insert(bad.row);
        }
        let good = unread.iter().enumerate();
        let good = good.filter(|(at, _)| !rejected.contains(at));
        progress.answered.extend(good.map(|(_, (row, _))| *row));
        progress.columns.push(decoded.columns);
        Ok(())
    }

    /// The rows that were answered, with the columns of their answers.
    fn results(&mut self, rows: &Rows) -> Result<Rows, Error> {
        let progress = &mut self.progress;
        progress.dead.sort_by_key(|(row, _)| *row);
        let answered: UInt32Array = progress.answered.clone().into();
        let result = match answered.len() == rows.len() {
            true => rows.clone(),
            false => rows.take(&answered)?,
        };
        let mut arrays: Vec<ArrayRef> = self
            .own
            .iter()
            .map(|own| Arc::clone(result.batch.column(*own)))
            .collect();
        if self.decoder.is_some() {
            let columns = concat_batches(&self.maker.answer, &progress.columns).map_err(misfit)?;
            arrays.extend(columns.columns().iter().cloned());
        }
        let fields = self.schema.fields().iter().zip(arrays);
        let arrays = fields.map(|(field, array)| arrow::compute::cast(&array, field.data_type()));
        let arrays = arrays.collect::<Result<Vec<_>, _>>().map_err(misfit)?;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(misfit)?;
        Ok(result.with_columns(batch))
    }
}

async fn call(
    line: &ServiceLine,
    form: &Arc<dyn CallForm>,
    request: CallRequest,
) -> Result<Bytes, CallFailure> {
    match request.made {
        Ok(request) => line.call(&**form, &request).await,
        Err(error) => Err(CallFailure {
            error,
            is_answered: false,
            is_unavailable: false,
        }),
    }
}

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
