//! The gateways that the project declares: opened before a project is accepted, exchanged when it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use busbar_bus::Bus;
use busbar_catalog::{Diagnostic, GatewaySpec, Kind, Parsed, Project, canonical};
use busbar_event::{Class, Error};
use busbar_gateway::{Authorizer, Gateway};
use busbar_socket_gateway::{PreparedSocket, SocketGateway, SocketOptions};
use parking_lot::Mutex;
use serde_json::Value;

use super::is_loopback;

/// The gateways of the project that run.
pub(crate) struct DeclaredGateways {
    pub(crate) folder: PathBuf,
    pub(crate) bus: Bus,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) options: SocketOptions,
    pub(crate) running: Mutex<BTreeMap<String, RunningGateway>>,
}

/// A gateway that runs, and the meaning of the file that it was started from.
pub(crate) struct RunningGateway {
    gateway: Arc<SocketGateway>,
    meaning: Value,
}

/// Gateways whose ports are open, to take the place of those that run.
#[derive(Default)]
pub(crate) struct GatewayPlan {
    /// To be stopped: removed, switched off, or of another meaning.
    stop: Vec<String>,
    start: Vec<(PreparedSocket, Value)>,
}

impl DeclaredGateways {
    /// Opens the ports of gateways that are new or have another meaning. What runs is not touched. `has_users`: whether
    /// the node needs logins. Blocks on the disk and on name look-ups.
    ///
    /// # Errors
    /// What cannot be opened, with its place in the gateway's file.
    pub(crate) fn prepare(
        &self,
        project: &Project,
        has_users: bool,
    ) -> Result<GatewayPlan, Vec<Diagnostic>> {
        let running = self.running.lock();
        let mut plan = GatewayPlan::default();
        let mut bad = Vec::new();
        for name in running.keys() {
            if !project.gateways.get(name).is_some_and(|g| g.spec.enabled) {
                plan.stop.push(name.clone());
            }
        }
        let enabled = project.gateways.iter().filter(|(_, g)| g.spec.enabled);
        for (name, gateway) in enabled {
            let meaning = canonical(Kind::Gateway, &gateway.spec);
            let before = running.get(name);
            if before.is_some_and(|before| before.meaning == meaning) {
                continue;
            }
            if let Err(diagnostic) = check_users(gateway, has_users) {
                bad.push(diagnostic);
                continue;
            }
            let before = before.map(|before| &*before.gateway);
            match SocketGateway::prepare(name, &gateway.spec, &self.folder, before) {
                Ok(prepared) => {
                    if before.is_some() {
                        plan.stop.push(name.clone());
                    }
                    plan.start.push((prepared, meaning));
                }
                Err(error) => bad.push(about(gateway, error)),
            }
        }
        match bad.is_empty() {
            true => Ok(plan),
            false => Err(bad),
        }
    }

    /// Exchanges the gateways. Blocks until those that stop have answered what they took, some seconds at most.
    pub(crate) fn commit(&self, plan: GatewayPlan) {
        let stopped: Vec<_> = {
            let mut running = self.running.lock();
            plan.stop
                .iter()
                .filter_map(|name| running.remove(name))
                .collect()
        };
        for before in stopped {
            before.gateway.shut_down();
        }
        for (prepared, meaning) in plan.start {
            let name = prepared.name().to_owned();
            let (bus, authorizer) = (self.bus.clone(), Arc::clone(&self.authorizer));
            match SocketGateway::start(prepared, bus, authorizer, &self.options) {
                Ok(gateway) => {
                    let gateway = Arc::new(gateway);
                    self.running
                        .lock()
                        .insert(name, RunningGateway { gateway, meaning });
                }
                // Out of threads: the next deployment tries again.
                Err(error) => tracing::error!(gateway = name, %error, "a gateway does not start"),
            }
        }
    }

    /// Those that run.
    pub(crate) fn running(&self) -> Vec<Arc<dyn Gateway>> {
        let running = self.running.lock();
        let gateways = running.values().map(|running| Arc::clone(&running.gateway));
        gateways
            .map(|gateway| gateway as Arc<dyn Gateway>)
            .collect()
    }

    /// Stops all. Blocks for some seconds at most.
    pub(crate) fn shut_down(&self) {
        let running = std::mem::take(&mut *self.running.lock());
        for running in running.into_values() {
            running.gateway.shut_down();
        }
    }
}

/// Without users nobody else than this machine may send; with users everybody needs a login.
fn check_users(gateway: &Parsed<GatewaySpec>, has_users: bool) -> Result<(), Diagnostic> {
    let (key, code) = match has_users {
        false if !is_loopback(&gateway.spec.listen) => ("listen", "server.needs-users"),
        true if gateway.spec.login.is_none() => ("protocol", "gateway.needs-login"),
        _ => return Ok(()),
    };
    let error = Error::new(Class::Configuration, code).with("address", &gateway.spec.listen);
    Err(gateway.source.diagnostic(&[key.into()], None, error))
}

/// Points at what an error is about.
fn about(gateway: &Parsed<GatewaySpec>, error: Error) -> Diagnostic {
    let key = match error.code() {
        code if code.starts_with("gateway.tls") => "tls",
        code if code.starts_with("gateway.") => "listen",
        _ => "topic",
    };
    gateway.source.diagnostic_about(Some(key), error)
}
