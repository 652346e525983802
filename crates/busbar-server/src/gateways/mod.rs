//! The gateways of a node: which there are, and those that run.

mod amqp;
mod declared;
mod mqtt;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use busbar_bus::Bus;
use busbar_catalog::Config;
use busbar_event::{Class, Error};
use busbar_gateway::{Authorizer, Gateway};
use busbar_mqtt_gateway::{MqttGateway, Stats};
use futures::future::BoxFuture;
use parking_lot::Mutex;

pub(crate) use declared::{DeclaredGateways, GatewayPlan};

/// Every gateway that settings switch on, in alphabetical order. A new one is a line here.
const REGISTRY: &[GatewayEntry] = &[amqp::ENTRY, mqtt::ENTRY];

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
pub(crate) struct Gateways {
    /// Those that the project declares.
    pub(crate) declared: Arc<DeclaredGateways>,
    running: Mutex<Vec<Arc<dyn Gateway>>>,
    /// MQTT, which also takes connections from the HTTP port.
    mqtt: OnceLock<Arc<MqttGateway>>,
}

impl Gateways {
    /// None of which runs yet.
    pub(crate) fn new(declared: DeclaredGateways) -> Gateways {
        Gateways {
            declared: Arc::new(declared),
            running: Mutex::default(),
            mqtt: OnceLock::new(),
        }
    }

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
        let mut all = self.running.lock().clone();
        all.extend(self.declared.running());
        all
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
        self.declared.shut_down();
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

/// The address that `listen`, the value of a setting, means; `None` for `off`.
pub(crate) async fn resolve(listen: &str, setting: &str) -> Result<Option<SocketAddr>, Error> {
    if listen == OFF {
        return Ok(None);
    }
    let bad = || {
        Error::new(Class::Configuration, "server.port-unusable")
            .with("address", listen)
            .with("setting", setting)
    };
    let mut found = tokio::net::lookup_host(listen)
        .await
        .map_err(|cause| bad().caused_by(cause))?;
    found.next().map(Some).ok_or_else(bad)
}

/// Whether only this machine reaches an address.
pub(crate) fn is_loopback(listen: &str) -> bool {
    if let Ok(address) = listen.parse::<SocketAddr>() {
        return address.ip().to_canonical().is_loopback();
    }
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    host.eq_ignore_ascii_case("localhost")
        || host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_the_rest() {
        for listen in [
            "127.0.0.1:8080",
            "[::1]:0",
            "localhost:80",
            "127.9.9.9:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_loopback(listen), "{listen}");
        }
        for listen in [
            "0.0.0.0:8080",
            "[::]:80",
            "10.0.0.1:1",
            "example.org:80",
            ":8080",
            "localhost.example:1",
        ] {
            assert!(!is_loopback(listen), "{listen}");
        }
    }
}
