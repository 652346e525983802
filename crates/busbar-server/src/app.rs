//! What handlers share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Instant;

use busbar_access::Access;
use busbar_bus::Bus;
use busbar_catalog::Config;
use busbar_flow::Runtime;
use busbar_flow::connector::Connectors;
use busbar_gateway::{Handle, Stats};
use busbar_log::Disk as _;
use busbar_sql::Engine;
use busbar_table::Tables;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::api::Delivered;
use crate::api::overview::Disk;
use crate::audit::AuditLog;
use crate::body::Bodies;
use crate::deploy::Deployer;
use crate::events::inlet::Inlet;
use crate::feed::{self, Feed};
use crate::guard::Answers;
use crate::http::PortStats;
use crate::limits::{LIVE_LISTENERS_MAX, LOW_DISK_BYTES, PROBE_BYTES, SUBSCRIPTIONS_MAX};
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
    pub(crate) deployer: Deployer,
    /// There while the gateway runs.
    pub(crate) gateway: Mutex<Option<Handle>>,
    pub(crate) inlet: Inlet,
    pub(crate) feed: Feed,
    pub(crate) answers: Answers,
    pub(crate) delivered: Delivered,
    pub(crate) port: Arc<PortStats>,
    pub(crate) bodies: Bodies,
    /// False while the disk is full, as found out last.
    pub(crate) writable: AtomicBool,
    /// Requests handled at the same time; what is beyond waits.
    pub(crate) turns: Semaphore,
    pub(crate) subscriptions: Arc<Semaphore>,
    pub(crate) listeners: Arc<Semaphore>,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) phase: Phase,
    pub(crate) started: Instant,
    pub(crate) openapi: Bytes,
}

/// What the node is about: starting, working, stopping.
#[derive(Default)]
pub(crate) struct Phase(AtomicU8);

impl Phase {
    pub(crate) fn work(&self) {
        self.0.store(1, Ordering::Release);
    }

    pub(crate) fn stop(&self) {
        self.0.store(2, Ordering::Release);
    }
}

impl App {
    /// Bounds of live connections, to begin with.
    pub(crate) fn semaphores() -> (Arc<Semaphore>, Arc<Semaphore>) {
        (
            Arc::new(Semaphore::new(SUBSCRIPTIONS_MAX)),
            Arc::new(Semaphore::new(LIVE_LISTENERS_MAX)),
        )
    }

    /// The largest body of a request.
    pub(crate) fn body_bytes_max(&self) -> usize {
        usize::try_from(self.config.http.body_size.as_bytes())
            .unwrap_or(usize::MAX)
            .min(crate::limits::BODY_BYTES_MAX)
    }

    /// `ok`, or what keeps the node from its work.
    pub(crate) fn readiness(&self) -> &'static str {
        match self.phase.0.load(Ordering::Acquire) {
            0 => "starting",
            1 => "ok",
            _ => "stopping",
        }
    }

    /// Looks whether the disk takes what is written, when there is a reason to doubt it. May wait.
    pub(crate) fn probe(&self, free_bytes: u64) {
        let doubt = self.inlet.take_full()
            || free_bytes < LOW_DISK_BYTES
            || !self.writable.load(Ordering::Acquire);
        if doubt {
            let writable = probe(&self.data.join(PROBE)).is_ok();
            self.writable.store(writable, Ordering::Release);
        }
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
        self.delivered.count() + self.mqtt().publishes_out_total + flows
    }

    /// Dead letters that wait to be looked at.
    pub(crate) fn dead_letters(&self) -> u64 {
        self.feed.dead()
    }

    /// The counters of MQTT; zeros while it does not run.
    pub(crate) fn mqtt(&self) -> Stats {
        self.gateway
            .lock()
            .as_ref()
            .map(Handle::stats)
            .unwrap_or_default()
    }

    /// The disk under the data folder.
    pub(crate) async fn disk(&self, used_bytes: u64) -> Disk {
        let data = self.data.clone();
        let space = tokio::task::spawn_blocking(move || busbar_log::OsDisk.space(&data).ok()).await;
        feed::disk(space.unwrap_or_default(), used_bytes)
    }
}

/// A file that is written to find out whether one can be.
pub(crate) const PROBE: &str = ".writable";

fn probe(path: &Path) -> std::io::Result<()> {
    let bytes = [0; PROBE_BYTES];
    let written = std::fs::File::create(path).and_then(|mut file| {
        std::io::Write::write_all(&mut file, &bytes)?;
        file.sync_all()
    });
    // What was begun takes up space too.
    let removed = std::fs::remove_file(path);
    written.and(removed)
}

/// Waits until the node stops.
pub(crate) async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the node is gone, which comes to the same.
    let _ = stop.wait_for(|stop| *stop).await;
}
