//! The sources of connections: begun and ended as a project says.

use std::sync::Arc;

use busbar_catalog::{ConnectionSpec, Kind, Project, canonical};
use busbar_connector::{Connector, Survey};
use busbar_event::{Class, Error};

use tokio::sync::oneshot;

use super::{Connected, Runtime};
use crate::drive::SourceDriver;
use crate::limits::SNAPSHOT_ASKED_WAIT;

impl Runtime {
    /// Ends the sources of connections that are gone or mean something else.
    pub(super) async fn stop_sources(&self, project: &Project) {
        let gone: Vec<SourceDriver> = {
            let mut sources = self.inner.sources.lock();
            let names: Vec<String> = sources
                .iter()
                .filter(|(name, connected)| {
                    project
                        .connections
                        .get(*name)
                        .is_none_or(|c| canonical(Kind::Connection, &c.spec) != connected.meaning)
                })
                .map(|(name, _)| name.clone())
                .collect();
            names
                .iter()
                .filter_map(|n| sources.remove(n))
                .filter_map(|c| c.driver)
                .collect()
        };
        for driver in gone {
            driver.stop().await;
        }
    }

    /// Starts the sources that do not run yet; answers their names.
    pub(super) fn start_sources(&self, project: &Project) -> Vec<String> {
        let options = &self.inner.options;
        let mut started = Vec::new();
        let mut sources = self.inner.sources.lock();
        for (name, connection) in &project.connections {
            if sources.contains_key(name) {
                continue;
            }
            let spec = &connection.spec;
            let (Ok(roles), Some(connector)) = (
                options.connectors.check(spec),
                options.connectors.get(&spec.kind),
            ) else {
                continue;
            };
            let driver = (roles.source && spec.enabled).then(|| {
                SourceDriver::start(
                    name,
                    spec.clone(),
                    Arc::clone(connector),
                    options.bus.clone(),
                    self.inner.positions.clone(),
                    Arc::clone(&options.project_dir),
                    Arc::clone(&options.tables),
                )
            });
            let connected = Connected {
                meaning: canonical(Kind::Connection, spec),
                spec: spec.clone(),
                roles,
                driver,
            };
            sources.insert(name.clone(), connected);
            started.push(name.clone());
        }
        started
    }

    /// Looks at the other side of a connection, and at its tables where they are asked for.
    ///
    /// # Errors
    /// No such connection, and what the other side says.
    pub async fn survey(&self, name: &str, tables: bool) -> Result<Survey, Error> {
        let (connector, spec) = self.connector_of(name)?;
        let project = Arc::clone(&self.inner.options.project_dir);
        connector.survey(&spec, project, tables).await
    }

    /// The connector of a connection, and the connection as its file has it.
    ///
    /// # Errors
    /// No such connection.
    pub fn connector_of(&self, name: &str) -> Result<(Arc<dyn Connector>, ConnectionSpec), Error> {
        let spec = self
            .inner
            .sources
            .lock()
            .get(name)
            .map(|connected| connected.spec.clone());
        let Some(spec) = spec else {
            return Err(
                Error::new(Class::Configuration, "flow.no-connection").with("connection", name)
            );
        };
        match self.inner.options.connectors.get(&spec.kind) {
            Some(connector) => Ok((Arc::clone(connector), spec)),
            None => {
                Err(Error::new(Class::Configuration, "connect.no-survey").with("kind", &spec.kind))
            }
        }
    }

    /// Asks the source of a connection to take the snapshot of a table anew.
    ///
    /// # Errors
    /// No such connection, one whose source does not run, and what the source says.
    pub async fn snapshot(&self, name: &str, table: &str) -> Result<(), Error> {
        let asks = {
            let sources = self.inner.sources.lock();
            let Some(connected) = sources.get(name) else {
                return Err(
                    Error::new(Class::Configuration, "flow.no-connection").with("connection", name)
                );
            };
            connected.driver.as_ref().map(SourceDriver::asks)
        };
        let away = || Error::new(Class::Transient, "connect.source-away").with("connection", name);
        let (answer, answered) = oneshot::channel();
        let asks = asks.ok_or_else(away)?;
        asks.try_send((table.to_owned(), answer))
            .map_err(|_| away())?;
        match tokio::time::timeout(SNAPSHOT_ASKED_WAIT, answered).await {
            Ok(Ok(answer)) => answer,
            // It was stopped, or is not open. A request that is taken later does what was asked for.
            Ok(Err(_)) | Err(_) => Err(away()),
        }
    }

    /// The folder that relative paths of connections start at.
    pub fn project_dir(&self) -> &Arc<std::path::Path> {
        &self.inner.options.project_dir
    }
}
