//! Sending an event of the log through a flow again, from the beginning or from a step.

use std::sync::atomic::Ordering;

use arrow::datatypes::SchemaRef;
use busbar_catalog::Project;
use busbar_event::{Class, Error};
use tokio::sync::oneshot;

use super::Runtime;
use super::trace::EventAt;
use crate::compile::Plan;
use crate::dead::Spot;
use crate::operator::Rows;
use crate::status::FlowState;
use crate::task::{EventAgain, Insert};

/// From where in a flow an event is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResendFrom {
    /// The whole flow works on the event.
    Event,
    /// The rows that a step was given, by its number, go through it and the steps behind it.
    Step(usize),
    /// What an output took, by its number, goes to it.
    Output(usize),
}

impl ResendFrom {
    /// Reads `event`, `step:0` or `to:0`.
    pub fn parse(text: &str) -> Option<ResendFrom> {
        match text.split_once(':') {
            None => (text == "event").then_some(ResendFrom::Event),
            Some(("step", number)) => number.parse().ok().map(ResendFrom::Step),
            Some(("to", number)) => number.parse().ok().map(ResendFrom::Output),
            Some(_) => None,
        }
    }
}

/// What came of sending an event again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resent {
    /// Rows that outputs were given. An event that a flow with state takes counts as one.
    pub sent: u64,
    /// Events that died again.
    pub died: u64,
}

impl Runtime {
    /// Sends an event through the flow as it runs, once more. What comes before the place where it begins is computed by the
    /// flow of `then`, a version of the project.
    ///
    /// # Errors
    /// `flow.unknown`; `flow.resend-state` where a flow with state is to begin in the middle; `flow.resend-unknown` where
    /// what came there cannot be computed; `flow.resend-changed` where the flow that runs has no such step;
    /// `flow.redrive-stands`; what outputs report.
    pub async fn resend(
        &self,
        then: &Project,
        flow: &str,
        event: &EventAt,
        from: ResendFrom,
    ) -> Result<Resent, Error> {
        let refuse = |class, code| Error::new(class, code).with("flow", flow);
        let project = self.inner.project.lock().await;
        let parsed = project.flows.get(flow);
        let parsed = parsed.ok_or_else(|| refuse(Class::Permanent, "flow.unknown"))?;
        let plan = self.plan(&project, flow, parsed).await?;
        let plan = plan.ok_or_else(|| refuse(Class::Transient, "flow.redrive-stands"))?;
        let input = plan
            .inputs
            .iter()
            .position(|input| input.stage == 0 && input.stream == event.stream);
        let input = input.ok_or_else(|| {
            refuse(Class::Permanent, "flow.trace-stream").with("stream", &event.stream)
        })?;
        let run = self.inner.runs.fetch_add(1, Ordering::Relaxed);
        if plan.timed {
            return match from {
                ResendFrom::Event => self.resend_whole(&plan, event, run).await,
                _ => Err(refuse(Class::Permanent, "flow.resend-state")),
            };
        }
        let changed = || refuse(Class::Permanent, "flow.resend-changed");
        let unknown = || refuse(Class::Permanent, "flow.resend-unknown");
        let is_shaped = |output: &usize| plan.inputs[input].shape(&plan.outputs[*output]).is_some();
        let mut only: Vec<usize> = (0..plan.outputs.len()).filter(is_shaped).collect();
        let mut chain = plan.inputs[input].chain(&[])?;
        let (computed, plan_of_results) = match from {
            ResendFrom::Event => (chain.run(event.event.clone()).await?, None),
            ResendFrom::Step(step) => {
                let retraced = self.retrace(then, flow, event).await?;
                let rows = retraced.given(step);
                if rows.is_empty() {
                    return Err(unknown());
                }
                let kind = |plan: &Plan| plan.spec.all_steps().get(step).map(|at| at.spec.kind());
                let sees = plan.inputs[input].sees(step)?;
                if kind(&plan) != kind(&retraced.plan)
                    || !sees.is_some_and(|sees| fits(&rows, &sees))
                {
                    return Err(changed());
                }
                let from = Some((step, rows));
                let traced = chain.trace(event.event.clone(), &[], from).await?;
                (traced.1, None)
            }
            ResendFrom::Output(number) => {
                let retraced = self.retrace(then, flow, event).await?;
                if retraced.is_cut() {
                    return Err(unknown());
                }
                let id = retraced
                    .plan
                    .outputs
                    .iter()
                    .find(|output| output.of == number);
                let id = id.map(|output| output.id.clone()).ok_or_else(unknown)?;
                only.retain(|output| plan.outputs[*output].id == id);
                (retraced.computed, Some((retraced.plan, retraced.input)))
            }
        };
        if only.is_empty() {
            return Err(changed());
        }
        let prefix = format!("resend:{run}:{flow}:{}", event.stream);
        let mut writers = Vec::with_capacity(only.len());
        for output in &only {
            let writer = self.writer(&project, &plan, input, *output, &prefix, true);
            writers.push(writer.await?);
        }
        let mut dead_writer = self.dead_writer(&format!("{prefix}:dead"));
        // What an output took then is made as it was made then.
        let made = match &plan_of_results {
            None => None,
            Some((old, old_input)) => {
                let id = &plan.outputs[only[0]].id;
                let its = (0..old.outputs.len()).filter(|output| old.outputs[*output].id == *id);
                let its = its.filter(|o| old.inputs[*old_input].shape(&old.outputs[*o]).is_some());
                Some((old, *old_input, its.collect::<Vec<usize>>()))
            }
        };
        let spot = |_: usize| Spot {
            stream: event.stream.as_str().into(),
            partition: event.partition,
            offset: event.offset,
            is_result: false,
        };
        let sent = match made {
            None => {
                let to = (&plan, input, &only[..]);
                self.send_computed(to, &computed, true, &mut writers, &mut dead_writer, 1, spot)
                    .await
            }
            Some((old, old_input, its)) if its.len() == writers.len() => {
                let to = (old, old_input, &its[..]);
                self.send_computed(to, &computed, true, &mut writers, &mut dead_writer, 1, spot)
                    .await
            }
            Some(_) => Err(changed()),
        };
        for writer in &mut writers {
            writer.close().await;
        }
        let (sent, died) = sent?;
        Ok(Resent { sent, died })
    }

    /// Hands an event to the task of a flow with state that reads its partition, as a new event at the place where that is.
    async fn resend_whole(&self, plan: &Plan, event: &EventAt, run: u64) -> Result<Resent, Error> {
        let stands =
            || Error::new(Class::Transient, "flow.redrive-stands").with("flow", &plan.name);
        let flow = self.inner.flows.read().get(&*plan.name).cloned();
        let flow = flow.filter(|flow| flow.state() == FlowState::Running);
        let inserts = flow.and_then(|flow| {
            let tasks = flow.tasks.lock();
            let mut its = tasks.iter().filter(|running| {
                running.key.stream == event.stream && running.key.partition == event.partition
            });
            its.next().map(|running| running.inserts.clone())
        });
        let (done, told) = oneshot::channel();
        let producer = format!("resend:{run}:{}/{}", plan.name, event.partition);
        let insert = Insert {
            event: EventAgain {
                event: event.event.clone(),
                own_side: false,
            },
            producer: (producer.into(), 1),
            done,
        };
        let task = inserts.ok_or_else(stands)?;
        task.send(insert).await.map_err(|_| stands())?;
        told.await.map_err(|_| stands())??;
        Ok(Resent { sent: 1, died: 0 })
    }
}

/// Whether a step that sees these columns can take the rows.
fn fits(rows: &[Rows], sees: &SchemaRef) -> bool {
    rows.iter().all(|rows| {
        let schema = rows.batch.schema();
        let fields = schema.fields().iter().zip(sees.fields());
        schema.fields().len() == sees.fields().len()
            && fields.clone().all(|(has, wanted)| {
                has.name() == wanted.name() && has.data_type() == wanted.data_type()
            })
    })
}
