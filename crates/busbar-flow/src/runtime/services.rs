//! The services that the flows of a project ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_catalog::Project;
use busbar_connector::ServiceContext;

use super::Runtime;
use crate::services::ServiceLine;

impl Runtime {
    /// The lines to the services that a project's flows ask: those that there are, as long as their connections are the same.
    pub(super) fn lines(&self, project: &Project) -> BTreeMap<String, Arc<ServiceLine>> {
        let options = &self.inner.options;
        let calls = project.flows.values().flat_map(|flow| flow.spec.calls());
        let wanted: BTreeSet<&String> = calls.map(|(_, call)| &call.connection).collect();
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
}
