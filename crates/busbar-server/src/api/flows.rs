//! Flows.

use std::sync::Arc;

use axum::extract::State;
use busbar_event::Error;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Json;
use crate::app::App;
use crate::guard::Caller;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A flow in short. Counts are since this version began to run.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct FlowSummary {
    /// Its name.
    pub(crate) name: String,
    /// `running`, `retrying`, `waiting`, `paused`, `disabled` or `stopped`.
    pub(crate) state: String,
    /// The streams it reads.
    pub(crate) from: String,
    /// The version of the project it came with.
    pub(crate) version: u64,
    /// Events that came.
    #[serde(rename = "in")]
    pub(crate) input: u64,
    /// Events that went on.
    pub(crate) out: u64,
    /// Events that were left out.
    pub(crate) filtered: u64,
    /// Events that became dead letters.
    pub(crate) dead: u64,
    /// Events under way.
    pub(crate) held: u64,
    /// Events that came in the last second.
    pub(crate) rate: f64,
    /// Committed events it has not read yet.
    pub(crate) lag: u64,
    /// Why it does not get on.
    #[schema(value_type = Option<super::Problem>)]
    pub(crate) error: Option<Error>,
}

/// A flow.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct FlowDetail {
    #[serde(flatten)]
    pub(crate) summary: FlowSummary,
}

/// Flows.
#[derive(Serialize, utoipa::ToSchema)]
struct Flows {
    /// By name.
    flows: Vec<FlowSummary>,
}

/// List the flows.
#[utoipa::path(get, path = "/api/v1/flows", tag = "flows",
    responses((status = 200, description = "The flows.", body = Flows)))]
async fn list(State(app): State<Arc<App>>, Caller(_): Caller) -> Json<Flows> {
    Json(Flows { flows: views(&app).0 })
}

/// All flows, in short and in full.
pub(crate) fn views(_app: &App) -> (Vec<FlowSummary>, Vec<FlowDetail>) {
    (Vec::new(), Vec::new())
}
