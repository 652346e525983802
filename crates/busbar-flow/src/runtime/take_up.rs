//! Taking up the state of a task: the last that was committed, or, where that cannot be read, its copy.

use std::sync::Arc;
use std::time::Instant;

use busbar_event::{Class, Error, time};

use super::Runtime;
use super::deploy::{Seat, producer_name};
use super::kept_state::state_name;
use crate::blocking::blocking;
use crate::chain::Chain;
use crate::checkpoint::Mark;
use crate::compile::Plan;
use crate::state::Checkpoint;
use crate::task::{Keeps, recorded_ticks, ticks_stream};

impl Runtime {
    /// Takes up the state of a task, or begins with none. `before` are the names of the tasks of the stage before.
    pub(super) async fn take_up(
        &self,
        plan: &Arc<Plan>,
        seat: &Seat,
        before: Vec<Arc<str>>,
        mark: Mark,
    ) -> Result<(Chain, Keeps), Error> {
        let runtime = self.clone();
        let (plan, seat) = (Arc::clone(plan), seat.clone());
        blocking(move || {
            let name = state_name(&seat.known_as, &seat.key);
            let found = runtime.inner.states.find(&name)?;
            let cause = match found.copy {
                None => match runtime.restore(&plan, &seat, &before, mark) {
                    Err(error) if error.code() == "flow.state-damaged" => error,
                    Err(error) if error.code() == "flow.state-missing" => error,
                    restored => return restored,
                },
                Some(cause) => cause,
            };
            // State of an earlier generation was left behind by a replay: its copy says nothing.
            let current = |checkpoint: &Checkpoint| checkpoint.generation == seat.generation;
            if !found.checkpoint.as_ref().is_some_and(current) {
                return runtime.restore(&plan, &seat, &before, mark);
            }
            runtime.inner.states.go_back(&name)?;
            let (chain, mut keeps) = runtime.restore(&plan, &seat, &before, mark)?;
            let at = keeps.checkpoint.watermark.map_or_else(String::new, time::text);
            let notice = Error::new(Class::Transient, "flow.state-fallback")
                .with("stream", &seat.key.stream)
                .with("partition", seat.key.partition)
                .with("position", keeps.checkpoint.position)
                .with("time", at)
                .with_error("cause", &cause);
            tracing::error!(flow = %plan.name, %notice, "the state could not be read; the flow goes on from the copy of it");
            keeps.notice = Some(notice);
            Ok((chain, keeps))
        })
        .await
    }

    /// Operators with the state that is committed. Blocks on the disk.
    fn restore(
        &self,
        plan: &Plan,
        seat: &Seat,
        before: &[Arc<str>],
        mark: Mark,
    ) -> Result<(Chain, Keeps), Error> {
        let begun = Instant::now();
        let inner = &self.inner;
        let mut chain = plan.inputs[seat.input].chain(before)?;
        let state = inner.states.task(&state_name(&seat.known_as, &seat.key));
        let found = state.checkpoint()?;
        // State of an earlier generation was left behind by a replay.
        let found = found.filter(|found| found.generation == seat.generation);
        let keep = found.is_some();
        let checkpoint = found.unwrap_or_else(|| Checkpoint {
            generation: seat.generation,
            position: mark.position,
            ..Checkpoint::default()
        });
        let meanings = plan.inputs[seat.input].meanings();
        state.begin(&checkpoint, &meanings, keep)?;
        if let Some(time) = &mut chain.time {
            time.resume(checkpoint.watermark, &checkpoint.producers);
        }
        chain.restore(&state)?;
        let restored = begun.elapsed();
        let stream = ticks_stream(&inner.options.bus, &seat.known_as)?;
        let partition = Arc::clone(&stream.partitions()[0]);
        let (at, read) = (checkpoint.position, checkpoint.ticks_read);
        let ticks = recorded_ticks(&partition, &seat.key, at, read, Some(seat.generation))?;
        let keeps = Keeps {
            state,
            checkpoint,
            ticks,
            ticks_stream: partition,
            producer: producer_name(&seat.key),
            told: None,
            notice: None,
            restored,
        };
        Ok((chain, keeps))
    }

    /// Whether the state that there is can be taken up by this version of the flow.
    pub(super) async fn check_state(
        &self,
        plan: &Arc<Plan>,
        seats: &[Seat],
        replay: bool,
    ) -> Result<(), Error> {
        if replay {
            return Ok(());
        }
        for seat in seats.iter().filter(|seat| seat.checkpoint.is_some()) {
            let (inner, copy) = (Arc::clone(&self.inner), seat.copy.is_some());
            let name = state_name(&seat.known_as, &seat.key);
            let known = blocking(move || inner.states.meanings(&name, copy)).await?;
            for (operator, meaning) in plan.inputs[seat.input].meanings() {
                if known.get(&operator).is_some_and(|was| *was != meaning) {
                    return Err(Error::new(Class::Configuration, "flow.state-changed")
                        .with("flow", &plan.name)
                        .with("operator", operator));
                }
            }
        }
        Ok(())
    }

    /// Where the state of a task is, and how many ticks its outputs may know.
    pub(super) async fn look_up_state(&self, seat: &mut Seat) -> Result<(), Error> {
        let (inner, this) = (Arc::clone(&self.inner), seat.clone());
        let (found, ticks) = blocking(move || {
            let mut found = inner.states.find(&state_name(&this.known_as, &this.key))?;
            if found
                .checkpoint
                .as_ref()
                .is_some_and(|c| c.generation != this.generation)
            {
                found = Default::default();
            }
            let stream = ticks_stream(&inner.options.bus, &this.known_as)?;
            let (at, read, ticked) = found
                .checkpoint
                .as_ref()
                .map_or((0, 0, 0), |c| (c.position, c.ticks_read, c.ticks));
            let recorded = recorded_ticks(
                &stream.partitions()[0],
                &this.key,
                at,
                read,
                Some(this.generation),
            )?;
            Ok((found, ticked + recorded.len() as u64))
        })
        .await?;
        (seat.checkpoint, seat.copy, seat.ticks) = (found.checkpoint, found.copy, ticks);
        Ok(())
    }
}
