//! Events that start instances, and those that instances wait for. What events bring about and how far they are read is
//! one commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use busbar_bus::{Bus, Chunk, Cursor, Item, StreamPartition};
use busbar_catalog::OrchestrationSpec;
use busbar_event::{Batch, Class, Error};
use busbar_flow::{
    OrchestrationCompiler, OrchestrationReader, ReadEvent, ReadFor, Runtime, UnfitEvent,
};
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
    runtime: &Runtime,
    specs: &BTreeMap<String, OrchestrationSpec>,
    compiler: &Arc<OrchestrationCompiler>,
) -> Result<Vec<JoinHandle<()>>, Error> {
    let streams: BTreeSet<String> = compiler
        .plans()
        .iter()
        .flat_map(|(_, plan)| plan.streams())
        .collect();
    let disabled = specs.iter().filter(|(_, spec)| !spec.enabled);
    let disabled: BTreeSet<String> = disabled.map(|(name, _)| name.clone()).collect();
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
                disabled: disabled.clone(),
                executor: executor.clone(),
                runtime: runtime.clone(),
                partition: Arc::clone(partition),
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
pub(super) fn readers(
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
    /// The orchestrations that start no instances.
    disabled: BTreeSet<String>,
    executor: Executor,
    runtime: Runtime,
    partition: Arc<StreamPartition>,
}

/// What an event asks for.
struct AskedOfInstance {
    row: usize,
    command: InstanceCommand,
    /// Whose it is, as it would be said in a dead letter.
    of: (String, ReadFor),
}

/// What orchestrations make of a batch: what it asks for in the order of its events, and the events that do not fit.
type ReadForChunk = (Vec<AskedOfInstance>, Vec<UnfitEvent>);

impl StartReader {
    async fn run(mut self) {
        loop {
            while self.executor.is_busy() {
                tokio::time::sleep(Duration::from_millis(ORCHESTRATION_BUSY_WAIT_MILLIS)).await;
            }
            let (asked, chunk, at) = match self.cursor.next().await {
                Ok(Item::Chunk(chunk)) => {
                    let (asked, end) = (self.taken(&chunk).await, chunk.end());
                    (asked, Some(chunk), end)
                }
                Ok(Item::Gap(gap)) => {
                    tracing::error!(
                        reader = self.position, from = gap.from, to = gap.resume, cause = %gap.cause,
                        "events for orchestrations are lost"
                    );
                    (Vec::new(), None, gap.resume)
                }
                Err(error) => {
                    tracing::warn!(reader = self.position, %error, "events for orchestrations cannot be read");
                    tokio::time::sleep(Duration::from_millis(ORCHESTRATION_RETRY_MILLIS)).await;
                    continue;
                }
            };
            let mut whose = Vec::with_capacity(asked.len());
            let mut commands = Vec::with_capacity(asked.len() + 1);
            for one in asked {
                commands.push(one.command);
                whose.push((one.row, one.of));
            }
            let reader = self.position.clone();
            commands.push(InstanceCommand::Position { reader, at });
            // Else the node is stopping.
            let Ok(replies) = self.executor.carry_out(commands).await else {
                return;
            };
            let refused = whose.into_iter().zip(replies);
            let refused = refused.filter_map(|((row, (orchestration, read_for)), reply)| {
                let CommandReply::Refused(cause) = reply else {
                    return None;
                };
                Some(UnfitEvent {
                    orchestration,
                    read_for,
                    row,
                    cause,
                    was_refused: true,
                })
            });
            let refused: Vec<UnfitEvent> = refused.collect();
            if let (false, Some(chunk)) = (refused.is_empty(), chunk) {
                self.bury(&chunk, &refused).await;
            }
        }
    }

    /// Keeps events as dead letters; tried until it has come off.
    async fn bury(&self, chunk: &Chunk, unfit: &[UnfitEvent]) {
        let (partition, runtime) = (&self.partition, &self.runtime);
        let from = (partition.stream(), partition.number(), chunk.base);
        while let Err(error) = runtime.bury(&chunk.batch, from, unfit).await {
            self.try_again(&error).await;
        }
    }

    async fn try_again(&self, error: &Error) {
        tracing::warn!(reader = self.position, %error, "events for orchestrations are tried again");
        tokio::time::sleep(Duration::from_millis(ORCHESTRATION_RETRY_MILLIS)).await;
    }

    /// What a chunk asks for, once the events in it that do not fit are kept as dead letters: the position behind them is
    /// committed later. Tried until it has come off, so that no event is passed over.
    async fn taken(&mut self, chunk: &Chunk) -> Vec<AskedOfInstance> {
        loop {
            match self.read(&chunk.batch) {
                Ok((asked, unfit)) => {
                    self.bury(chunk, &unfit).await;
                    return asked;
                }
                Err(error) => self.try_again(&error).await,
            }
        }
    }

    fn read(&mut self, batch: &Batch) -> Result<ReadForChunk, Error> {
        let mut found: Vec<AskedOfInstance> = Vec::new();
        let mut unfit = Vec::new();
        for (name, reader) in &mut self.readers {
            let read = reader.read(batch)?;
            unfit.extend(read.unfit.into_iter().map(|(row, cause)| UnfitEvent {
                orchestration: name.clone(),
                read_for: reader.read_for.clone(),
                row,
                cause,
                was_refused: false,
            }));
            if reader.read_for == ReadFor::Start && self.disabled.contains(name) {
                unfit.extend(read.taken.into_iter().map(|event| UnfitEvent {
                    orchestration: name.clone(),
                    read_for: ReadFor::Start,
                    row: event.row,
                    cause:
                        Error::new(Class::Permanent, "orchestrate.disabled").with("name", &*name),
                    was_refused: false,
                }));
                continue;
            }
            found.extend(read.taken.into_iter().map(|event| AskedOfInstance {
                row: event.row,
                command: command(name, &reader.read_for, event),
                of: (name.clone(), reader.read_for.clone()),
            }));
        }
        found.sort_by_key(|asked| asked.row);
        Ok((found, unfit))
    }
}

/// The command that an event is.
pub(super) fn command(name: &str, read_for: &ReadFor, event: ReadEvent) -> InstanceCommand {
    let name = name.to_owned();
    match read_for {
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
    }
}
