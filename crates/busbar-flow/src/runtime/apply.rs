//! Makes the node be as a project says.

use std::sync::Arc;

use busbar_catalog::{Diagnostic, FlowSpec, Kind, Parsed, Project, canonical, has_errors};
use busbar_event::Error;
use parking_lot::Mutex;

use super::deploy::stands;
use super::meaning::meaning;
use super::{Flow, Runtime};
use crate::blocking::blocking;
use crate::status::{Applied, FlowState};
use crate::world::check;

impl Runtime {
    /// Makes the node be as the project says. Everything is checked before anything is changed; then only what
    /// means something else is started anew. A flow that checks but cannot start is named in
    /// [`Applied::failed`], and its version before goes on.
    ///
    /// # Errors
    /// What is wrong with the project; nothing has changed then.
    pub async fn apply(&self, project: &Project, version: u64) -> Result<Applied, Vec<Diagnostic>> {
        self.apply_as(project, version, (false, false)).await
    }

    /// As [`Runtime::apply`]. With `replay`, a flow whose new version cannot go on with the state of the one before begins
    /// anew with the oldest event that is kept; without it, that version does not start. With `accepted`, the project has
    /// been applied before, and a plug-in that does not start any more stops only the flows that use it.
    ///
    /// # Errors
    /// As of [`Runtime::apply`].
    pub async fn apply_as(
        &self,
        project: &Project,
        version: u64,
        (replay, accepted): (bool, bool),
    ) -> Result<Applied, Vec<Diagnostic>> {
        let mut current = self.inner.project.lock().await;
        let diagnostics = check(project, &self.inner.options.connectors);
        if has_errors(&diagnostics) {
            return Err(diagnostics);
        }
        // A new version runs, and has passed its tests, before anything else is touched.
        let plugins = self.start_plugins(project, accepted).await?;
        let (bus, tables) = (
            self.inner.options.bus.clone(),
            Arc::clone(&self.inner.options.tables),
        );
        let (streams, specs) = (project.stream_specs(), project.table_specs());
        blocking(move || {
            // Tables change only when streams could.
            let staged = tables.stage(&specs)?;
            bus.apply_streams(&streams)?;
            tables.adopt(staged)
        })
        .await
        .map_err(|error| vec![placed(project, error)])?;
        *self.inner.plugins.write() = plugins;
        let connections = project.connections.iter();
        self.inner
            .options
            .databases
            .apply(connections.map(|(name, connection)| (name, &connection.spec)));
        let mut applied = Applied::default();
        // A source that is gone must not publish into streams that mean something else now.
        self.stop_sources(project).await;
        let gone: Vec<Arc<Flow>> = {
            let flows = self.inner.flows.read();
            flows
                .values()
                .filter(|f| !project.flows.contains_key(&f.name))
                .cloned()
                .collect()
        };
        for flow in gone {
            let ended = self.halt(&flow).await;
            self.keep_marks(&flow.name, &ended).await;
            let now = self.inner.options.bus.clock().now_micros();
            let removed = self.keep(&flow.name, |kept| kept.removed = Some(now)).await;
            if let Err(error) = removed {
                tracing::warn!(flow = %flow.name, %error, "what the flow has kept is not deleted");
            }
            self.inner.flows.write().remove(&flow.name);
            applied.removed.push(flow.name.clone());
        }
        if let Err(error) = self.recognise_renamed(project).await {
            tracing::warn!(%error, "flows with other names are not looked for");
        }
        for (name, parsed) in &project.flows {
            let old = self.inner.flows.read().get(name).cloned();
            let meaning = meaning(project, parsed);
            let runs = |f: &Arc<Flow>| {
                f.meaning == meaning
                    && f.state() != FlowState::Stopped
                    && f.state() != FlowState::Waiting
            };
            if old.as_ref().is_some_and(runs) {
                applied.unchanged.push(name.clone());
                continue;
            }
            let runs = old
                .as_ref()
                .is_some_and(|old| old.state() == FlowState::Running);
            match self
                .deploy_as(
                    project,
                    name,
                    parsed,
                    version,
                    old,
                    meaning.clone(),
                    (runs, replay),
                )
                .await
            {
                Ok(notice) => {
                    if let Some(notice) = notice {
                        tracing::warn!(flow = %name, %notice, "the flow's new version has begun");
                        applied.notices.insert(name.clone(), notice);
                    }
                    applied.deployed.push(name.clone());
                }
                Err(error) => {
                    tracing::warn!(flow = %name, %error, "the flow's new version does not start");
                    if !runs {
                        // Nothing goes on in its place: it is there, and says why it stands.
                        let now = self.inner.options.bus.clock().now_micros();
                        self.put(Flow {
                            name: name.clone(),
                            parsed: parsed.clone(),
                            version,
                            meaning,
                            started_micros: now,
                            since_micros: now,
                            shared: None,
                            idle: Some((stands(&error), Some(error.clone()))),
                            tasks: Mutex::default(),
                        });
                    }
                    applied.failed.insert(name.clone(), error);
                }
            }
        }
        applied.connections = self.start_sources(project);
        *current = project.clone();
        drop(current);
        self.finish_redrives().await;
        Ok(applied)
    }

    /// A flow that is new, and means what one that is gone meant, is that flow under another name: it goes
    /// on where that one was.
    async fn recognise_renamed(&self, project: &Project) -> Result<(), Error> {
        let known = self.inner.checkpoints.flows()?;
        for (name, parsed) in &project.flows {
            if known.contains_key(name) {
                continue;
            }
            let hash = flow_hash(parsed);
            let mut same = known.iter().filter(|(old, kept)| {
                kept.meaning == Some(hash) && !project.flows.contains_key(*old)
            });
            // Of two that are gone nobody knows which it is.
            let (Some((old, _)), None) = (same.next(), same.next()) else {
                continue;
            };
            // Already taken by another new flow that means the same.
            if self.inner.checkpoints.flow(old)?.meaning != Some(hash) {
                continue;
            }
            tracing::info!(flow = %name, was = %old, "the flow has another name");
            let (checkpoints, old, name) =
                (self.inner.checkpoints.clone(), old.clone(), name.clone());
            blocking(move || checkpoints.rename(&old, &name)).await?;
        }
        Ok(())
    }

    /// Brings a version of a flow up, as [`Runtime::deploy`]; with `replay` from the beginning where it cannot go on with
    /// the state that there is.
    #[allow(clippy::too_many_arguments, reason = "what a version consists of")]
    async fn deploy_as(
        &self,
        project: &Project,
        name: &str,
        parsed: &Parsed<FlowSpec>,
        version: u64,
        old: Option<Arc<Flow>>,
        meaning: serde_json::Value,
        (strict, replay): (bool, bool),
    ) -> Result<Option<Error>, Error> {
        let how = (strict, false);
        let deployed = self
            .deploy(
                project,
                name,
                parsed,
                version,
                old.clone(),
                meaning.clone(),
                how,
            )
            .await;
        match deployed {
            Err(error)
                if replay && matches!(error.code(), "flow.state-changed" | "flow.state-holds") => {}
            deployed => return deployed,
        }
        let mut targets = Vec::new();
        for stream in parsed.spec.streams() {
            if let Some(known) = self.inner.options.bus.stream(stream) {
                let partitions = known.partitions();
                let starts = partitions
                    .iter()
                    .map(|p| (stream.clone(), p.number(), p.start()));
                targets.extend(starts);
            }
        }
        let mut ended = Vec::new();
        if let Some(old) = &old {
            ended = self.halt(old).await;
            self.add_stages(old, &mut targets);
        }
        self.rewind(name, &targets, &ended).await?;
        let how = (false, true);
        self.deploy(project, name, parsed, version, old, meaning, how)
            .await
    }
}

/// What a flow's file means, as a number.
pub(super) fn flow_hash(parsed: &Parsed<FlowSpec>) -> u64 {
    busbar_event::hash::fnv1a(canonical(Kind::Flow, &parsed.spec).to_string().as_bytes())
}

/// What a stream or table said no to, at its file where it named it.
fn placed(project: &Project, error: Error) -> Diagnostic {
    let named = |what: &str| {
        let mut args = error.args().iter();
        args.find(|(name, _)| *name == what).map(|(_, name)| name)
    };
    let table = named("table").and_then(|name| project.tables.get(name));
    let stream = named("stream").and_then(|name| project.streams.get(name));
    let source = table
        .map(|table| &table.source)
        .or(stream.map(|stream| &stream.source));
    match source {
        Some(source) => source.diagnostic_about(None, error),
        None => Diagnostic::new("", "", 0..0, error),
    }
}
