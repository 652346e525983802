//! What handlers share.

use std::path::PathBuf;
use std::sync::Arc;

use busbar_access::Access;
use busbar_bus::Bus;
use busbar_catalog::Config;
use busbar_connector::Connectors;
use busbar_flow::Runtime;
use busbar_log::Disk as _;
use busbar_mqtt_gateway::Stats;
use busbar_sql::Engine;
use busbar_table::Tables;
use bytes::Bytes;

use crate::apis::Apis;
use crate::audit::AuditLog;
use crate::deploy::Deployer;
use crate::events::inlet::Inlet;
use crate::feed::Feed;
use crate::gateways::Gateways;
use crate::http_state::HttpState;
use crate::lifecycle::{Lifecycle, NodePhase};
use crate::orchestrations::Orchestrations;
use crate::picture::Disk;
use crate::relations::NodeRelations;

/// A running node, as handlers see it.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) data: PathBuf,
    pub(crate) access: Arc<Access>,
    pub(crate) audit: Arc<AuditLog>,
    pub(crate) bus: Bus,
    pub(crate) tables: Arc<Tables>,
    pub(crate) sql: Engine,
    pub(crate) relations: NodeRelations,
    pub(crate) connectors: Connectors,
    pub(crate) runtime: Runtime,
    pub(crate) orchestrations: Arc<Orchestrations>,
    pub(crate) apis: Arc<Apis>,
    pub(crate) deployer: Deployer,
    pub(crate) gateways: Gateways,
    pub(crate) inlet: Inlet,
    pub(crate) feed: Feed,
    pub(crate) http: HttpState,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) openapi: Bytes,
}

impl App {
    /// The largest body of a request.
    pub(crate) fn body_bytes_max(&self) -> usize {
        usize::try_from(self.config.http.body_size.as_bytes())
            .unwrap_or(usize::MAX)
            .min(crate::limits::BODY_BYTES_MAX)
    }

    /// `ok`, or what keeps the node from its work.
    pub(crate) fn readiness(&self) -> &'static str {
        match self.lifecycle.phase() {
            NodePhase::Starting => "starting",
            NodePhase::Running if self.failed().is_empty() => "ok",
            NodePhase::Running => "failed",
            NodePhase::Stopping => "stopping",
        }
    }

    /// The code of the reason why events are refused now, as those who publish hear it.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        self.bus.log().refusal().map(|error| error.code())
    }

    /// Names of threads and tasks that have ended although the node needs them.
    pub(crate) fn failed(&self) -> Vec<String> {
        let ended = self.bus.log().supervisor().ended();
        ended.into_iter().map(|ended| ended.name).collect()
    }

    /// Events that left the node since it started: delivered to subscribers, or written by flows
    /// as they run now.
    pub(crate) fn events_out(&self) -> u64 {
        let flows: u64 = self
            .runtime
            .status()
            .iter()
            .flat_map(|flow| &flow.nodes)
            .filter(|node| node.role == "to")
            .map(|node| node.counters.out)
            .sum();
        let gateways = self.gateways.running();
        let delivered: u64 = gateways.iter().map(|g| g.counts().events_out_total).sum();
        self.http.delivered.count() + delivered + flows
    }

    /// Dead letters that wait to be looked at.
    pub(crate) fn dead_letters(&self) -> u64 {
        self.feed.dead()
    }

    /// The counters of MQTT; zeros while it does not run.
    pub(crate) fn mqtt(&self) -> Stats {
        self.gateways.mqtt_stats()
    }

    /// The disk under the data folder.
    pub(crate) async fn disk(&self, used_bytes: u64) -> Disk {
        let data = self.data.clone();
        let space = tokio::task::spawn_blocking(move || busbar_log::OsDisk.space(&data).ok()).await;
        let space = space.unwrap_or_default();
        Disk {
            used_bytes,
            free_bytes: space.as_ref().map_or(0, |space| space.free),
            total_bytes: space.as_ref().map_or(0, |space| space.total),
        }
    }
}

/// A file that is written to find out whether one can be.
pub(crate) const PROBE: &str = ".writable";
