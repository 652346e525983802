//! Giving back the space of streams between the stages of a flow, once every reader has committed that it has passed.

use busbar_event::Error;

use super::deploy::state_name;
use super::{Flow, Runtime};
use crate::checkpoint::TaskKey;
use crate::task::{MAIN, lanes};

/// Removes what every reader is done with. Blocks on the disk.
pub(super) fn trim(runtime: &Runtime, flow: &Flow) -> Result<(), Error> {
    let Some(shared) = flow.shared.as_ref().filter(|shared| shared.plan.timed) else {
        return Ok(());
    };
    let inner = &runtime.inner;
    let kept = inner.checkpoints.flow(&flow.name)?;
    let known_as = kept.known_as.as_deref().unwrap_or(&flow.name);
    for (i, input) in shared.plan.inputs.iter().enumerate() {
        let Some(stream) = inner
            .options
            .bus
            .stream(&input.stream)
            .filter(|_| input.stage > 0)
        else {
            continue;
        };
        for partition in stream.partitions().iter() {
            let passed = if input.timed {
                let key = TaskKey {
                    stream: input.stream.clone(),
                    partition: partition.number(),
                    lane: MAIN.into(),
                };
                let checkpoint = inner.states.checkpoint(&state_name(known_as, &key))?;
                checkpoint.map(|checkpoint| checkpoint.position)
            } else {
                let number = partition.number();
                let kept = inner.checkpoints.lanes(&flow.name, &input.stream, number)?;
                let position = |lane: &str| {
                    let found = kept.iter().find(|(known, _)| known == lane);
                    found.map_or(0, |(_, mark)| mark.position)
                };
                let lanes = lanes(&shared.plan, i);
                lanes.iter().map(|lane| position(&lane.id)).min()
            };
            if let Some(passed) = passed.filter(|passed| *passed > partition.start()) {
                let trimmed = partition.log().trim(passed);
                trimmed.map_err(busbar_bus::from_log)?;
            }
        }
    }
    Ok(())
}
