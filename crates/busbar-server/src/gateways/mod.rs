//! The gateways of a node: which there are, and those that run.

mod mqtt;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use busbar_bus::Bus;
use busbar_catalog::Config;
use busbar_event::{Class, Error};
use busbar_gateway::{Authorizer, Gateway};
use busbar_mqtt_gateway::{MqttGateway, Stats};
use futures::future::BoxFuture;
use parking_lot::Mutex;

/// Every gateway that settings switch on, in alphabetical order. A new one is a line here.
const REGISTRY: &[GatewayEntry] = &[mqtt::ENTRY];

/// A gateway that settings switch on.
pub(crate) struct GatewayEntry {
    /// The addresses that its settings name.
    listens: fn(&Config) -> Vec<&str>,
    /// Starts it; `None` when its settings switch it off.
    start: for<'a> fn(&'a GatewayContext<'a>) -> BoxFuture<'a, Result<Started, Error>>,
}

type Started = Option<Arc<dyn Gateway>>;

/// What a gateway starts from.
pub(crate) struct GatewayContext<'a> {
    pub(crate) config: &'a Config,
    /// The folder that relative paths of settings begin at.
    pub(crate) folder: PathBuf,
    pub(crate) bus: Bus,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) gateways: &'a Gateways,
}

/// The gateways that run.
#[derive(Default)]
pub(crate) struct Gateways {
    running: Mutex<Vec<Arc<dyn Gateway>>>,
    /// MQTT, which also takes connections from the HTTP port.
    mqtt: OnceLock<Arc<MqttGateway>>,
}

impl Gateways {
    /// Starts every gateway that the settings switch on.
    ///
    /// # Errors
    /// The first reason why one cannot start. Those that were started stop with [`Gateways::shut_down`].
    pub(crate) async fn start(&self, context: &GatewayContext<'_>) -> Result<(), Error> {
        for entry in REGISTRY {
            if let Some(gateway) = (entry.start)(context).await? {
                self.running.lock().push(gateway);
            }
        }
        Ok(())
    }

    /// Those that run.
    pub(crate) fn running(&self) -> Vec<Arc<dyn Gateway>> {
        self.running.lock().clone()
    }

    /// The MQTT gateway while it runs.
    pub(crate) fn mqtt(&self) -> Option<&Arc<MqttGateway>> {
        self.mqtt.get()
    }

    /// The counters of MQTT; zeros before it runs.
    pub(crate) fn mqtt_stats(&self) -> Stats {
        self.mqtt().map(|mqtt| mqtt.stats()).unwrap_or_default()
    }

    /// Stops all, in the reverse order of their start. Blocks for some seconds at most.
    pub(crate) fn shut_down(&self) {
        let running = std::mem::take(&mut *self.running.lock());
        for gateway in running.iter().rev() {
            gateway.shut_down();
        }
    }
}

/// The addresses that the settings of gateways name.
pub(crate) fn listens(config: &Config) -> Vec<&str> {
    let all = REGISTRY.iter().flat_map(|entry| (entry.listens)(config));
    all.collect()
}

/// What stands for "do not listen".
pub(crate) const OFF: &str = "off";

/// The address that a setting means; `None` for `off`.
pub(crate) async fn resolve(listen: &str) -> Result<Option<SocketAddr>, Error> {
    if listen == OFF {
        return Ok(None);
    }
    let bad = || Error::new(Class::Configuration, "server.port-unusable").with("address", listen);
    let mut found = tokio::net::lookup_host(listen)
        .await
        .map_err(|cause| bad().caused_by(cause))?;
    found.next().map(Some).ok_or_else(bad)
}
