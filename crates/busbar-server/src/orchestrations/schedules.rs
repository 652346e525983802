//! Instances that the clock starts. The time that was due and the instance are one commit.

use std::collections::BTreeMap;
use std::time::Duration;

use busbar_bus::Bus;
use busbar_catalog::{OrchestrationSpec, OrchestrationStart};
use busbar_event::Error;
use busbar_orchestrate::{CommandReply, Executor, InstanceCommand};
use serde_json::Value as Json;
use tokio::task::JoinHandle;

/// The input that is the time that was due.
const SCHEDULED_AT: &str = "scheduled_at";

/// Starts one task for each schedule.
///
/// # Errors
/// What the disk says.
pub(super) fn start(
    bus: &Bus,
    executor: &Executor,
    specs: &BTreeMap<String, OrchestrationSpec>,
) -> Result<Vec<JoinHandle<()>>, Error> {
    let mut tasks = Vec::new();
    for (name, spec) in specs.iter().filter(|(_, spec)| spec.enabled) {
        let has_time = spec.input.0.iter().any(|field| field.name == SCHEDULED_AT);
        for start in &spec.start {
            let Some(every) = start.every else { continue };
            let every = every.as_micros();
            let offset = start.offset.map_or(0, |offset| offset.as_micros());
            // A schedule is known by its times: one that is changed begins anew.
            let reader = format!("schedule/{name}/{every}/{offset}");
            let last = executor.position(&reader)?;
            let last = last.and_then(|last| i64::try_from(last).ok());
            let schedule = Schedule {
                name: name.clone(),
                start: start.clone(),
                has_time,
                every,
                offset,
                last: last.unwrap_or_else(|| bus.clock().now_micros()),
                reader,
                bus: bus.clone(),
                executor: executor.clone(),
            };
            tasks.push(tokio::spawn(schedule.run()));
        }
    }
    Ok(tasks)
}

struct Schedule {
    name: String,
    start: OrchestrationStart,
    has_time: bool,
    every: i64,
    offset: i64,
    /// The time that was last due.
    last: i64,
    reader: String,
    bus: Bus,
    executor: Executor,
}

/// The last time that was due at `now`.
fn due(now: i64, every: i64, offset: i64) -> i64 {
    now - (now - offset).rem_euclid(every)
}

/// The longest sleep: the clock may be set.
const LOOK_SECONDS: u64 = 10;

impl Schedule {
    async fn run(mut self) {
        loop {
            let now = self.bus.clock().now_micros();
            let due = due(now, self.every, self.offset);
            if due > self.last {
                if !self.begin(due).await {
                    return;
                }
                self.last = due;
                continue;
            }
            let next = due.saturating_add(self.every).saturating_sub(now);
            let wait = Duration::from_micros(u64::try_from(next).unwrap_or_default());
            tokio::time::sleep(wait.min(Duration::from_secs(LOOK_SECONDS))).await;
        }
    }

    async fn begin(&self, due: i64) -> bool {
        let mut input = self.start.input.clone();
        if self.has_time {
            let time = busbar_event::time::text(due);
            input.insert(SCHEDULED_AT.to_owned(), Json::String(time));
        }
        let commands = vec![
            InstanceCommand::Start {
                name: self.name.clone(),
                input,
            },
            InstanceCommand::Position {
                reader: self.reader.clone(),
                at: u64::try_from(due).unwrap_or_default(),
            },
        ];
        let Ok(replies) = self.executor.carry_out(commands).await else {
            return false;
        };
        for reply in replies {
            if let CommandReply::Refused(error) = reply {
                tracing::warn!(orchestration = self.name, %error, "a schedule starts no instance");
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::due;

    #[test]
    fn a_time_is_due_at_multiples_behind_the_offset() {
        assert_eq!(due(25, 10, 0), 20);
        assert_eq!(due(20, 10, 0), 20);
        assert_eq!(due(25, 10, 7), 17);
        assert_eq!(due(3, 10, 7), -3);
    }
}
