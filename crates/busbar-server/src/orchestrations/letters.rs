//! Dead letters of orchestrations that are to be tried again.

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_catalog::OrchestrationSpec;
use busbar_event::{Class, Error};
use busbar_flow::{LetterTaker, OrchestrationCompiler, UnfitLetter};
use busbar_orchestrate::{CommandReply, Executor, InstanceCommand};
use futures::future::{BoxFuture, FutureExt as _};
use parking_lot::Mutex;

use super::readers;

/// Hands events of dead letters to the orchestrations as they run.
#[derive(Default)]
pub(super) struct LetterDesk(Mutex<Option<RunningOrchestrations>>);

/// What runs.
#[derive(Clone)]
pub(super) struct RunningOrchestrations {
    pub executor: Executor,
    pub specs: BTreeMap<String, OrchestrationSpec>,
    pub compiler: Arc<OrchestrationCompiler>,
}

impl LetterDesk {
    /// Says what runs from now on.
    pub fn set(&self, running: RunningOrchestrations) {
        *self.0.lock() = Some(running);
    }

    /// What runs; none before the first project with orchestrations.
    pub fn running(&self) -> Option<RunningOrchestrations> {
        self.0.lock().clone()
    }
}

impl LetterTaker for LetterDesk {
    fn take(&self, letter: UnfitLetter) -> BoxFuture<'_, Result<bool, Error>> {
        async move {
            let stopped = || Error::new(Class::Transient, "orchestrate.stopped");
            let running = self.running().ok_or_else(stopped)?;
            running.take(letter).await
        }
        .boxed()
    }
}

impl RunningOrchestrations {
    async fn take(&self, letter: UnfitLetter) -> Result<bool, Error> {
        let readers = readers::readers(&self.specs, &self.compiler, &letter.stream)?;
        let (name, read_for) = (&letter.orchestration, &letter.read_for);
        let mut commands: Vec<InstanceCommand> = Vec::new();
        let mut is_read = false;
        // Versions of an orchestration may read one event for a part in several ways.
        for (of, mut reader) in readers {
            if of != *name || reader.read_for != *read_for {
                continue;
            }
            is_read = true;
            let read = reader.read(&letter.event)?;
            if let Some((_, cause)) = read.unfit.into_iter().next() {
                return Err(cause);
            }
            let taken = read.taken.into_iter();
            commands.extend(taken.map(|event| readers::command(name, read_for, event)));
        }
        // One that was cut off between the commit and the note of it is not carried out twice.
        let (run, id) = letter.number;
        let reader = format!("redrive/{run}/{name}/{read_for}/{}", letter.stream);
        let at = id + 1;
        let last = self.executor.position(&reader)?;
        if !is_read || last.is_some_and(|last| last >= at) {
            return Ok(is_read);
        }
        commands.push(InstanceCommand::Position { reader, at });
        for reply in self.executor.carry_out(commands).await? {
            if let CommandReply::Refused(error) = reply {
                return Err(error);
            }
        }
        Ok(true)
    }
}
