//! The services that the flows of a project ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_catalog::Project;
use busbar_connector::ServiceContext;
use busbar_event::Error;

use super::Runtime;
use crate::blocking::blocking;
use crate::compile::World;
use crate::orchestration::OrchestrationCompiler;
use crate::services::ServiceLine;

impl Runtime {
    /// The lines to the services that a project's flows ask: those that there are, as long as their connections are the same.
    pub(super) fn lines(&self, project: &Project) -> BTreeMap<String, Arc<ServiceLine>> {
        self.lines_of(project, !project.orchestrations.is_empty())
    }

    /// The same, of all connections or of those only that flows ask.
    fn lines_of(&self, project: &Project, all: bool) -> BTreeMap<String, Arc<ServiceLine>> {
        let options = &self.inner.options;
        let calls = project.flows.values().flat_map(|flow| flow.spec.calls());
        let mut wanted: BTreeSet<&String> = calls.map(|(_, call)| &call.connection).collect();
        if all {
            // Instances that began earlier may call what the files do not name any more. A line costs nothing before its first call.
            wanted.extend(project.connections.keys());
        }
        let mut lines = self.inner.lines.lock();
        lines.retain(|name, line| {
            let connection = project
                .connections
                .get(name)
                .filter(|_| wanted.contains(name));
            connection.is_some_and(|connection| line.leads_to(&connection.spec))
        });
        for name in wanted {
            let Some(connection) = project.connections.get(name) else {
                continue;
            };
            let Some(connector) = options.connectors.get(&connection.spec.kind) else {
                continue;
            };
            lines.entry(name.clone()).or_insert_with(|| {
                let context = ServiceContext {
                    name: name.as_str().into(),
                    project_dir: Arc::clone(&options.project_dir),
                    clock: Arc::clone(options.bus.clock()),
                };
                let (spec, connector) = (connection.spec.clone(), Arc::clone(connector));
                let database = options.databases.get(name);
                Arc::new(ServiceLine::new(name, spec, connector, context, database))
            });
        }
        lines.clone()
    }

    /// What compiles the orchestrations of a project against the node as it runs.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn orchestrations(
        &self,
        project: &Project,
    ) -> Result<Arc<OrchestrationCompiler>, Error> {
        let options = self.inner.options.clone();
        let (lines, project) = (self.lines_of(project, true), project.clone());
        blocking(move || {
            let (bus, tables) = (&options.bus, &options.tables);
            let mut world = World::of_bus(bus, tables, &project, &options.connectors)?;
            for (name, line) in lines {
                if let Some(service) = world.services.get_mut(&name) {
                    service.line = Some(line);
                }
            }
            Ok(Arc::new(OrchestrationCompiler::new(world)))
        })
        .await
    }
}
