//! Giving back the space of streams between the stages of a flow, once every reader has committed that it has passed, and of
//! everything that flows have kept which are gone.

use busbar_event::Error;

use super::kept_state::state_name;
use super::{Flow, Runtime};
use crate::checkpoint::TaskKey;
use crate::limits::REMOVED_KEPT;
use crate::task::{MAIN, lanes};

/// Removes what every reader is done with. Blocks on the disk.
pub(super) fn trim(runtime: &Runtime, flow: &Flow) -> Result<(), Error> {
    let Some(shared) = flow.shared.as_ref() else {
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
                let checkpoint = inner.states.needed_from(&state_name(known_as, &key))?;
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

/// Deletes what flows have kept that were taken out of the project long ago: state, streams of their own, positions. Blocks
/// on the disk.
pub(super) fn forget_removed(runtime: &Runtime) -> Result<(), Error> {
    let inner = &runtime.inner;
    let bus = &inner.options.bus;
    let before = bus.clock().now_micros() - REMOVED_KEPT.as_micros() as i64;
    for (name, kept) in inner.checkpoints.flows()? {
        let long_ago = kept.removed.is_some_and(|removed| removed <= before);
        // Nobody adds it again meanwhile.
        let Ok(project) = inner.project.try_lock() else {
            return Ok(());
        };
        if !long_ago || project.flows.contains_key(&name) {
            continue;
        }
        let known_as = kept.known_as.as_deref().unwrap_or(&name);
        inner.states.remove(&format!("{known_as}/"))?;
        for stream in bus.streams() {
            if is_of(stream.name(), known_as) {
                bus.remove_derived_stream(stream.name())?;
            }
        }
        inner.checkpoints.forget(&name)?;
        tracing::info!(flow = %name, "what the flow had kept was deleted: it was taken out long ago");
    }
    Ok(())
}

/// Whether a stream is one between stages of a flow, of its results, or of its ticks. Late events stay as long as they are
/// kept anyway.
fn is_of(stream: &str, flow: &str) -> bool {
    let own = |kind: &str| stream.strip_prefix(kind)?.strip_prefix(flow);
    let between = |rest: &str| {
        let mut parts = rest.strip_prefix('-').unwrap_or_default().split('-');
        let number = parts
            .next()
            .is_some_and(|stage| stage.parse::<u32>().is_ok());
        let hash = parts.next().is_some_and(|hash| hash.len() == 8);
        number && hash && parts.next().is_none()
    };
    own("_x-").is_some_and(between) || is_of_results(stream, flow) || own("_t-") == Some("")
}

/// Whether a stream is one of the results of a flow: `_r-NAME`, or one of several.
pub(super) fn is_of_results(stream: &str, flow: &str) -> bool {
    let rest = stream
        .strip_prefix("_r-")
        .and_then(|rest| rest.strip_prefix(flow));
    rest.is_some_and(|rest| rest.is_empty() || (rest.len() == 9 && rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_of_a_flow_are_told_from_those_of_its_like() {
        for own in [
            "_x-a-1-0123abcd",
            "_x-a-12-0123abcd",
            "_r-a",
            "_r-a.0123abcd",
            "_t-a",
        ] {
            assert!(is_of(own, "a"), "{own}");
        }
        for other in [
            "_x-a-1-1-0123abcd",
            "_x-ab-1-0123abcd",
            "_r-a-1",
            "_r-ab.0123abcd",
            "_t-b",
            "a.late",
            "_dead",
            "a",
        ] {
            assert!(!is_of(other, "a"), "{other}");
        }
    }
}
