//! Sending dead letters through the present version of their flow again, each once.
//!
//! A run is noted with its letters before it begins, and its writes carry the run's own producer names, so that
//! a run which a crash cut off is finished without writing anything twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use busbar_catalog::Project;
use busbar_event::{Class, Error};
use tokio::sync::oneshot;

use super::Runtime;
use crate::blocking::blocking;
use crate::chain::{Computed, Dead, Place};
use crate::compile::{InputPlan, Plan};
use crate::dead::{Letter, Run, Spot, letters, originals};
use crate::limits::{DEAD_EDIT_BYTES_MAX, DEAD_LETTERS_MAX};
use crate::outgoing::Outgoing;
use crate::output::Writer;
use crate::shape::{Prepared, event_of};
use crate::status::{DeadFilter, FlowState, Redriven};
use crate::task::{EventAgain, Insert, Inserts, parcels, prepare_outputs};
use busbar_connector::Backoff;

/// Letters of one flow that died at the same output, or before all of them.
struct Group<'a> {
    flow: &'a str,
    /// Empty when they died before.
    output: &'a str,
    ids: &'a [u64],
}

/// How often a write of a re-drive is tried.
const TRIES_MAX: u32 = 5;

impl Runtime {
    /// Sends the open dead letters that fit through the present version of their flows. One that an output
    /// refused goes to that output only. `by` is recorded with each letter.
    ///
    /// # Errors
    /// What kept the run from being finished; it is finished at the next re-drive or start.
    pub async fn redrive(&self, filter: DeadFilter, by: &str) -> Result<Redriven, Error> {
        self.begin_redrive(filter, by, None).await
    }

    /// Sends one open dead letter through the present version of its flow, with another payload.
    ///
    /// # Errors
    /// `flow.edit-large`; as [`Runtime::redrive`].
    pub async fn redrive_edited(
        &self,
        id: u64,
        payload: &[u8],
        by: &str,
    ) -> Result<Redriven, Error> {
        check_edited(payload)?;
        let filter = DeadFilter {
            ids: Some(vec![id]),
            ..DeadFilter::default()
        };
        let payload = STANDARD.encode(payload);
        self.begin_redrive(filter, by, Some(payload)).await
    }

    /// Closes the open dead letters that fit without sending them. Returns how many; `by` is recorded with
    /// each.
    ///
    /// # Errors
    /// `flow.redriving`, or what the disk reports.
    pub async fn discard(&self, filter: DeadFilter, by: &str) -> Result<u64, Error> {
        // No re-drive runs meanwhile.
        let _project = self.inner.project.lock().await;
        let (dead, by) = (Arc::clone(&self.inner.dead), by.to_owned());
        blocking(move || dead.discard(&filter, &by)).await
    }

    async fn begin_redrive(
        &self,
        filter: DeadFilter,
        by: &str,
        payload: Option<String>,
    ) -> Result<Redriven, Error> {
        let project = self.inner.project.lock().await;
        let dead = Arc::clone(&self.inner.dead);
        let filter = DeadFilter {
            closed: false,
            ..filter
        };
        let mut ids = blocking(move || dead.find(&filter, DEAD_LETTERS_MAX)).await?;
        ids.sort_unstable();
        if ids.is_empty() {
            return Ok(Redriven::default());
        }
        let run = Run {
            run: self.inner.runs.fetch_add(1, Ordering::Relaxed),
            ids,
            by: by.to_owned(),
            payload,
        };
        let (dead, noted) = (Arc::clone(&self.inner.dead), run.clone());
        blocking(move || dead.begin(&noted)).await?;
        self.drive(&project, &run).await
    }

    /// Finishes the re-drives that a crash, or an error, cut off.
    pub async fn finish_redrives(&self) {
        let project = self.inner.project.lock().await;
        let runs = match self.inner.dead.unfinished() {
            Ok(runs) => runs,
            Err(error) => return tracing::warn!(%error, "unfinished re-drives cannot be read"),
        };
        for run in runs {
            if let Err(error) = self.drive(&project, &run).await {
                tracing::warn!(run = run.run, %error, "a re-drive is still not finished");
            }
        }
    }

    async fn drive(&self, project: &Project, run: &Run) -> Result<Redriven, Error> {
        let mut result = Redriven::default();
        let mut done = Vec::new();
        // By flow, input and the output that refused them.
        let mut groups: BTreeMap<(String, String, String), Vec<u64>> = BTreeMap::new();
        let mut rest = &run.ids[..];
        while !rest.is_empty() {
            let (letters, read) = self.some_letters(rest.to_vec()).await?;
            rest = &rest[read..];
            for letter in letters {
                let shown = letter.shown;
                groups
                    .entry((shown.flow, shown.stream, letter.output))
                    .or_default()
                    .push(shown.id);
            }
        }
        // Letters of a flow that has another name now are that flow's.
        let kept = self.inner.checkpoints.flows()?;
        let present = |flow: String| {
            let renamed = |(_, kept): &(&String, &crate::checkpoint::Kept)| {
                kept.known_as.as_ref() == Some(&flow)
            };
            match project.flows.contains_key(&flow) {
                true => flow,
                false => kept
                    .iter()
                    .find(renamed)
                    .map_or(flow.clone(), |(name, _)| name.clone()),
            }
        };
        for ((flow, stream, output), ids) in groups {
            if let Some(taken) = self.take_again(&flow, &ids, run, &mut result).await? {
                done.extend(taken);
                continue;
            }
            let flow = present(flow);
            let plan = match project.flows.get(&flow) {
                Some(parsed) => self.plan(project, &flow, parsed).await?,
                None => None,
            };
            let input = plan
                .as_ref()
                .and_then(|p| p.inputs.iter().position(|i| i.stream == stream));
            let (Some(plan), Some(input)) = (plan, input) else {
                result.orphaned += ids.len() as u64;
                continue;
            };
            if plan.timed {
                let group = Group {
                    flow: &flow,
                    output: &output,
                    ids: &ids,
                };
                match self.send_again(&plan, input, &group, run).await {
                    Ok(sent) => {
                        result.sent += sent;
                        done.extend_from_slice(&ids);
                    }
                    Err(error) if error.class() == Class::Transient => return Err(error),
                    Err(refused) => {
                        result.refused += ids.len() as u64;
                        result.cause.get_or_insert(refused);
                    }
                }
                continue;
            }
            let only: Vec<usize> = (0..plan.outputs.len())
                .filter(|o| output.is_empty() || *plan.outputs[*o].id == *output)
                .filter(|o| plan.inputs[input].shape(&plan.outputs[*o]).is_some())
                .collect();
            if only.is_empty() {
                result.orphaned += ids.len() as u64;
                continue;
            }
            let prefix = format!("redrive:{}:{flow}:{stream}:{output}", run.run);
            let mut writers = Vec::new();
            for o in &only {
                writers.push(
                    self.writer(project, &plan, input, *o, &prefix, true)
                        .await?,
                );
            }
            let mut dead_writer = self.dead_writer(&format!("{prefix}:dead"));
            let mut sent = 0;
            let mut rest = &ids[..];
            while !rest.is_empty() {
                let (mut letters, read) = self.some_letters(rest.to_vec()).await?;
                run.edit(&mut letters)?;
                let (these, behind) = rest.split_at(read);
                rest = behind;
                // What cannot be sent together is sent in halves.
                let mut open: Vec<_> = std::iter::once(0..letters.len()).collect();
                while let Some(range) = open.pop() {
                    let position = sent + range.end as u64;
                    let letters = &letters[range.clone()];
                    let sending = self.send(
                        &plan,
                        input,
                        &only,
                        letters,
                        &mut writers,
                        &mut dead_writer,
                        position,
                    );
                    match sending.await {
                        Ok(died) => result.died += died,
                        Err(e) if e.class() == Class::Permanent && range.len() > 1 => {
                            let middle = range.start + range.len() / 2;
                            open.push(middle..range.end);
                            open.push(range.start..middle);
                        }
                        Err(error) => return Err(error),
                    }
                }
                sent += read as u64;
                done.extend_from_slice(these);
            }
            result.sent += sent;
            for writer in &mut writers {
                writer.close().await;
            }
        }
        let (dead, run) = (Arc::clone(&self.inner.dead), run.clone());
        blocking(move || dead.finish(&run, &done)).await?;
        Ok(result)
    }

    /// Sends letters of a flow with state again: each goes into the input of the task that read its event, as a new event
    /// at the place where the task is. Answers how many.
    ///
    /// # Errors
    /// `flow.redrive-results` for results, which no input can be made of; `flow.redrive-stands`.
    async fn send_again(
        &self,
        plan: &Plan,
        input: usize,
        group: &Group<'_>,
        run: &Run,
    ) -> Result<u64, Error> {
        let refuse = |code| Error::new(Class::Permanent, code).with("flow", group.flow);
        if !group.output.is_empty() || plan.inputs[input].stage > 0 {
            return Err(refuse("flow.redrive-results"));
        }
        let inserts: BTreeMap<u16, Inserts> = match self.inner.flows.read().get(group.flow) {
            Some(flow) if flow.state() == FlowState::Running => {
                let tasks = flow.tasks.lock();
                let of_input = tasks
                    .iter()
                    .filter(|running| running.key.stream == plan.inputs[input].stream);
                of_input
                    .map(|running| (running.key.partition, running.inserts.clone()))
                    .collect()
            }
            _ => return Err(refuse("flow.redrive-stands")),
        };
        let mut sent = 0;
        let mut rest = group.ids;
        while !rest.is_empty() {
            let (mut letters, read) = self.some_letters(rest.to_vec()).await?;
            run.edit(&mut letters)?;
            rest = &rest[read..];
            let mut events = originals(&letters);
            if let Some(times) = &plan.inputs[input].times {
                let now = self.inner.options.bus.clock().now_micros();
                events = times.apply(events, Some(now));
            }
            for (row, letter) in letters.iter().enumerate() {
                let partition = letter.shown.partition;
                let stands =
                    || Error::new(Class::Transient, "flow.redrive-stands").with("flow", group.flow);
                let task = inserts.get(&partition).ok_or_else(stands)?;
                let (done, told) = oneshot::channel();
                // Letters are in the order of their numbers.
                let producer = format!("redrive:{}:{}/{partition}", run.run, group.flow);
                let insert = Insert {
                    event: EventAgain {
                        event: events.slice(row, 1),
                        own_side: on_own_side(&plan.inputs[input], &letter.shown.place),
                    },
                    producer: (producer.into(), letter.shown.id + 1),
                    done,
                };
                task.send(insert).await.map_err(|_| stands())?;
                told.await.map_err(|_| stands())??;
                sent += 1;
            }
        }
        Ok(sent)
    }

    /// The first of these letters, about as many as make a batch, and how many numbers they stand for.
    pub(super) async fn some_letters(&self, ids: Vec<u64>) -> Result<(Vec<Letter>, usize), Error> {
        let dead = Arc::clone(&self.inner.dead);
        blocking(move || dead.read_some(&ids)).await
    }

    /// Sends one batch; answers how many died again.
    #[allow(clippy::too_many_arguments, reason = "one caller, one place")]
    async fn send(
        &self,
        plan: &Arc<Plan>,
        input: usize,
        only: &[usize],
        sent: &[Letter],
        writers: &mut [Writer],
        dead_writer: &mut Writer,
        position: u64,
    ) -> Result<u64, Error> {
        let mut events = originals(sent);
        if let Some(times) = &plan.inputs[input].times {
            let now = self.inner.options.bus.clock().now_micros();
            events = times.apply(events, Some(now));
        }
        let mut chain = plan.inputs[input].chain(&[])?;
        let computed = chain.run(events).await?;
        let spot = |event: usize| {
            let shown = &sent[event].shown;
            Spot {
                stream: shown.stream.as_str().into(),
                partition: shown.partition,
                offset: shown.offset,
                is_result: false,
            }
        };
        let to = (plan, input, only);
        let is_one = sent.len() == 1;
        self.send_computed(to, &computed, is_one, writers, dead_writer, position, spot)
            .await
            .map(|(_, died)| died)
    }

    /// Writes results to outputs of an input of a plan; answers how many rows these were given and how many events died.
    /// `spot` says where an event lies. Of several events together a permanent error is an error of all.
    #[allow(clippy::too_many_arguments, reason = "two callers that have all of it")]
    pub(super) async fn send_computed(
        &self,
        (plan, input, only): (&Arc<Plan>, usize, &[usize]),
        computed: &Computed,
        is_one: bool,
        writers: &mut [Writer],
        dead_writer: &mut Writer,
        position: u64,
        spot: impl Fn(usize) -> Spot,
    ) -> Result<(u64, u64), Error> {
        let prepared = match prepare_outputs(plan, input, only, computed) {
            Err(cause) if cause.class() == Class::Permanent && is_one => only
                .iter()
                .map(|o| Prepared::refused(computed, &plan.outputs[*o], &cause))
                .collect(),
            prepared => prepared?,
        };
        let mut rows = 0;
        let mut dead: Vec<Dead> = computed.dead.clone();
        for ((writer, prepared), output) in writers.iter_mut().zip(&prepared).zip(only) {
            dead.extend(prepared.dead.iter().cloned());
            let refused = match tries(writer, &prepared.outgoing, position).await {
                Err(cause) if cause.class() == Class::Permanent && is_one => vec![(0, cause)],
                written => written?.refused,
            };
            rows += (prepared.rows - prepared.dead.len().min(prepared.rows)) as u64;
            rows -= (refused.len() as u64).min(rows);
            for (row, cause) in refused {
                let event = event_of(&prepared.made, row);
                dead.push(Dead {
                    event,
                    place: Place::Output(plan.outputs[*output].of),
                    cause,
                });
            }
        }
        let ids: Vec<Arc<str>> = plan.outputs.iter().map(|o| Arc::clone(&o.id)).collect();
        let now = self.inner.options.bus.clock().now_micros();
        let name = Arc::clone(&dead_writer.producer);
        for (number, dead) in parcels(&computed.events, &dead).enumerate() {
            let batch = letters(&plan.name, &computed.events, dead, &ids, now, &spot);
            if number > 0 {
                dead_writer.producer = format!("{name}~{number}").into();
            }
            let written = tries(dead_writer, &Outgoing::Events(batch), position).await;
            dead_writer.producer = Arc::clone(&name);
            written?;
        }
        Ok((rows, dead.len() as u64))
    }
}

/// Whether an event that died at this place is the other side of a join of its stream with itself already.
fn on_own_side(input: &InputPlan, place: &str) -> bool {
    let step = place.strip_prefix("step:");
    let step = step.and_then(|step| step.parse::<usize>().ok());
    let died = step.zip(input.itself.as_ref());
    died.is_some_and(|(step, itself)| step < itself.step)
}

/// Writes, and tries again a few times: somebody waits for the answer.
async fn tries(
    writer: &mut Writer,
    outgoing: &Outgoing,
    position: u64,
) -> Result<crate::output::Written, Error> {
    let mut backoff = Backoff::new(position);
    writer
        .write(outgoing, position, |error| {
            let pause = backoff.pause();
            let over = backoff.tries() > TRIES_MAX || error.class() != Class::Transient;
            async move {
                if over {
                    return Err(error);
                }
                tokio::time::sleep(pause).await;
                Ok(())
            }
        })
        .await
}

/// Checks the size of a payload that somebody has edited.
pub(super) fn check_edited(payload: &[u8]) -> Result<(), Error> {
    if payload.len() > DEAD_EDIT_BYTES_MAX {
        return Err(Error::new(Class::Permanent, "flow.edit-large")
            .with("bytes", payload.len())
            .with("max", DEAD_EDIT_BYTES_MAX));
    }
    Ok(())
}
