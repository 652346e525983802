//! Events that start instances, and those that instances wait for. What events bring about and how far they are read is
//! one commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use busbar_bus::{Bus, Cursor, Item, StreamPartition};
use busbar_catalog::OrchestrationSpec;
use busbar_event::{Batch, Error};
use busbar_flow::{OrchestrationCompiler, OrchestrationReader, ReadFor};
use busbar_orchestrate::{CommandReply, Executor, InstanceCommand};
use tokio::task::JoinHandle;

use crate::limits::{ORCHESTRATION_BUSY_WAIT_MILLIS, ORCHESTRATION_RETRY_MILLIS};

/// Starts one reader for each partition of the streams that orchestrations read.
///
/// # Errors
/// What the disk says.
pub(super) async fn start(
    bus: &Bus,
    executor: &Executor,
    specs: &BTreeMap<String, OrchestrationSpec>,
    compiler: &Arc<OrchestrationCompiler>,
) -> Result<Vec<JoinHandle<()>>, Error> {
    let streams: BTreeSet<String> = compiler
        .plans()
        .iter()
        .flat_map(|(_, plan)| plan.streams())
        .collect();
    let mut tasks = Vec::new();
    for name in streams {
        let Some(stream) = bus.stream(&name) else {
            continue;
        };
        for partition in stream.partitions().iter() {
            let position = position_name(partition);
            let at = match executor.position(&position)? {
                Some(at) => at,
                None => {
                    // From now on; noted, so that nothing is left out should the node end before the first event.
                    let at = partition.end();
                    let reader = position.clone();
                    executor
                        .carry_out(vec![InstanceCommand::Position { reader, at }])
                        .await?;
                    at
                }
            };
            let reader = StartReader {
                cursor: Cursor::new(Arc::clone(partition), at),
                position,
                readers: readers(specs, compiler, &name)?,
                executor: executor.clone(),
            };
            tasks.push(tokio::spawn(reader.run()));
        }
    }
    Ok(tasks)
}

fn position_name(partition: &StreamPartition) -> String {
    format!("stream/{}/{}", partition.stream(), partition.number())
}

/// What is read of a stream, each with its orchestration. Only the version that new instances run starts them; versions
/// that say the same of a part read its events once.
fn readers(
    specs: &BTreeMap<String, OrchestrationSpec>,
    compiler: &OrchestrationCompiler,
    stream: &str,
) -> Result<Vec<(String, OrchestrationReader)>, Error> {
    let mut all = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, plan) in compiler.plans() {
        let is_current = specs.get(&name).is_some_and(|spec| *spec == *plan.spec());
        for (meaning, reader) in plan.readers()? {
            let starts = reader.read_for == ReadFor::Start;
            if reader.stream == stream
                && (is_current || !starts)
                && seen.insert((name.clone(), reader.read_for.clone(), meaning))
            {
                all.push((name.clone(), reader));
            }
        }
    }
    Ok(all)
}

struct StartReader {
    cursor: Cursor,
    position: String,
    readers: Vec<(String, OrchestrationReader)>,
    executor: Executor,
}

impl StartReader {
    async fn run(mut self) {
        loop {
            while self.executor.is_busy() {
                tokio::time::sleep(Duration::from_millis(ORCHESTRATION_BUSY_WAIT_MILLIS)).await;
            }
            let (commands, at) = match self.cursor.next().await {
                Ok(Item::Chunk(chunk)) => (self.commands(&chunk.batch), chunk.end()),
                Ok(Item::Gap(gap)) => {
                    tracing::error!(
                        reader = self.position, from = gap.from, to = gap.resume, cause = %gap.cause,
                        "events for orchestrations are lost"
                    );
                    (Vec::new(), gap.resume)
                }
                Err(error) => {
                    tracing::warn!(reader = self.position, %error, "events for orchestrations cannot be read");
                    tokio::time::sleep(Duration::from_millis(ORCHESTRATION_RETRY_MILLIS)).await;
                    continue;
                }
            };
            let reader = self.position.clone();
            let mut commands = commands;
            commands.push(InstanceCommand::Position { reader, at });
            match self.executor.carry_out(commands).await {
                Ok(replies) => {
                    for reply in replies {
                        if let CommandReply::Refused(error) = reply {
                            tracing::warn!(reader = self.position, %error, "an event starts no instance");
                        }
                    }
                }
                // The node is stopping.
                Err(_) => return,
            }
        }
    }

    fn commands(&mut self, batch: &Batch) -> Vec<InstanceCommand> {
        let mut found: Vec<(usize, InstanceCommand)> = Vec::new();
        for (name, reader) in &mut self.readers {
            let taken = match reader.read(batch) {
                Ok(taken) => taken,
                Err(error) => {
                    tracing::error!(orchestration = name, %error, "events cannot be read for an orchestration");
                    continue;
                }
            };
            found.extend(taken.into_iter().map(|event| {
                let name = name.clone();
                let command = match &reader.read_for {
                    ReadFor::Start => InstanceCommand::Start {
                        name,
                        input: event.values,
                    },
                    ReadFor::Part(part) => InstanceCommand::Event {
                        name,
                        part: part.clone(),
                        value: event.by,
                        values: event.values,
                    },
                };
                (event.row, command)
            }));
        }
        found.sort_by_key(|(row, _)| *row);
        found.into_iter().map(|(_, command)| command).collect()
    }
}
