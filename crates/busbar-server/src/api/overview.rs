//! The node at a glance.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use busbar_access::Principal;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::connections::{self, ConnectionView};
use super::flows::FlowSummary;
use super::streams::StreamSummary;
use super::{Json, json_bytes};
use crate::app::App;
use crate::guard::Caller;
use busbar_event::time;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(overview))
        .routes(routes!(rates))
}

/// The node at a glance.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct Overview {
    /// The version that runs.
    pub(crate) version: &'static str,
    /// The node's clock.
    pub(crate) time: String,
    /// Seconds since it started.
    pub(crate) uptime_s: u64,
    /// Memory of the process.
    pub(crate) memory_bytes: u64,
    /// Cores it may use.
    pub(crate) cores: usize,
    /// Cores it used in the last second.
    pub(crate) cpu: f64,
    /// The weakest durability of any stream: `fsync` or `memory`.
    pub(crate) durability: &'static str,
    /// Events committed in the last second.
    pub(crate) events_in_per_s: u64,
    /// Events delivered to subscribers, and written by flows, in the last second.
    pub(crate) events_out_per_s: u64,
    /// Rates of the last five minutes.
    pub(crate) history: History,
    /// The streams.
    pub(crate) streams: Vec<StreamSummary>,
    /// The flows.
    pub(crate) flows: Vec<FlowSummary>,
    /// What was saved in the project's folder and does not check, while the version before goes on.
    pub(crate) refused: Option<RefusedSave>,
    /// The connections.
    pub(crate) connections: Vec<ConnectionView>,
    /// Dead letters.
    pub(crate) dead: Dead,
    /// The disk under the data folder.
    pub(crate) disk: Disk,
    /// MQTT clients that are connected.
    pub(crate) sessions: u64,
    /// Bytes between sockets and disk, and how many there may be.
    pub(crate) budget: Budget,
}

/// Files that were saved and do not check. `GET /api/v1/project` has all of it.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct RefusedSave {
    /// When they were looked at.
    pub(crate) time: String,
    /// How many mistakes there are.
    pub(crate) count: usize,
    /// The first one: file, line, column and message.
    #[schema(value_type = Option<super::views::DiagnosticView>)]
    pub(crate) first: Option<busbar_catalog::Diagnostic>,
}

impl RefusedSave {
    /// What the node refuses to run now, if anything.
    pub(crate) fn of(app: &App) -> Option<RefusedSave> {
        let refused = app.deployer.refused()?;
        Some(RefusedSave {
            time: time::text(refused.time),
            count: refused.diagnostics.len(),
            first: refused.diagnostics.into_iter().next(),
        })
    }
}

/// Rates, oldest first.
#[derive(Clone, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct History {
    /// Seconds between two values.
    pub(crate) step_s: u32,
    /// Events in a second, in.
    #[serde(rename = "in")]
    pub(crate) input: Vec<u64>,
    /// Events in a second, out.
    #[serde(rename = "out")]
    pub(crate) output: Vec<u64>,
}

/// Dead letters.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct Dead {
    /// How many are open: neither re-driven nor discarded.
    pub(crate) count: u64,
    /// Whether the oldest of them will soon be deleted by age or size.
    pub(crate) expires_soon: bool,
}

/// The disk under the data folder.
#[derive(Clone, Copy, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct Disk {
    /// Bytes the streams take.
    pub(crate) used_bytes: u64,
    /// Bytes that are free.
    pub(crate) free_bytes: u64,
    /// Bytes in all.
    pub(crate) total_bytes: u64,
}

/// The byte budget.
#[derive(Clone, Copy, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct Budget {
    /// Bytes in use.
    pub(crate) used_bytes: u64,
    /// Bytes at which gateways stop reading.
    pub(crate) max_bytes: u64,
}

/// The node at a glance, as of the last full second.
#[utoipa::path(get, path = "/api/v1/overview", tag = "node",
    responses((status = 200, description = "The node.", body = Overview)))]
async fn overview(State(app): State<Arc<App>>, Caller(caller): Caller) -> Response {
    if caller.may_read_all() {
        return json_bytes(app.feed.overview());
    }
    match app.feed.latest() {
        Some(live) => Json(live.overview.readable_by(&caller)).into_response(),
        None => json_bytes(app.feed.overview()),
    }
}

impl Overview {
    /// The same without the streams, flows and connections that the caller may not read.
    pub(crate) fn readable_by(&self, caller: &Principal) -> Overview {
        let mut overview = self.clone();
        let connections = std::mem::take(&mut overview.connections);
        overview.connections = connections::readable(connections, caller, &overview.flows);
        overview
            .streams
            .retain(|stream| caller.may_read_stream(&stream.name));
        overview.flows.retain(|flow| flow.may_be_read_by(caller));
        // What is wrong with a file may quote it.
        overview.refused = None;
        overview
    }
}

/// Rates of the last minute, oldest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Rates {
    /// Seconds between two values.
    pub(crate) step_s: u32,
    /// Events a second of each stream.
    pub(crate) streams: BTreeMap<String, Vec<u64>>,
    /// Events a second of each flow.
    pub(crate) flows: BTreeMap<String, Vec<u64>>,
}

/// The last minute of each stream and each flow.
#[utoipa::path(get, path = "/api/v1/rates", tag = "node",
    responses((status = 200, description = "The rates.", body = Rates)))]
async fn rates(State(app): State<Arc<App>>, Caller(caller): Caller) -> Json<Rates> {
    let mut rates = app.feed.rates();
    if !caller.may_read_all() {
        let flows = super::flows::views(&app).0;
        let may_read = |name: &str| {
            let flow = flows.iter().find(|flow| flow.name() == name);
            flow.is_some_and(|flow| flow.may_be_read_by(&caller))
        };
        rates.streams.retain(|name, _| caller.may_read_stream(name));
        rates.flows.retain(|name, _| may_read(name));
    }
    Json(rates)
}
