//! Connections to other systems.

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

/// A connection.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct ConnectionView {
    /// Its name.
    pub(crate) name: String,
    /// `host`, `file`, `http`, `mqtt`.
    pub(crate) kind: String,
    /// `source`, `sink` or `both`.
    pub(crate) direction: &'static str,
    /// `running`, `retrying`, `stopped`, `ended`, `disabled`, `idle`.
    pub(crate) state: String,
    /// Events it brought.
    #[serde(rename = "in")]
    pub(crate) input: u64,
    /// Events written to it.
    pub(crate) out: u64,
    /// Events in the last second, both ways.
    pub(crate) rate: f64,
    /// What is promised across a crash.
    pub(crate) guarantee: Option<String>,
    /// Flows that write to it.
    pub(crate) flows: Vec<String>,
    /// Why it does not get on.
    #[schema(value_type = Option<super::Problem>)]
    pub(crate) error: Option<Error>,
}

/// Connections.
#[derive(Serialize, utoipa::ToSchema)]
struct Connections {
    /// By name.
    connections: Vec<ConnectionView>,
}

/// List the connections.
#[utoipa::path(get, path = "/api/v1/connections", tag = "connections",
    responses((status = 200, description = "The connections.", body = Connections)))]
async fn list(State(app): State<Arc<App>>, Caller(_): Caller) -> Json<Connections> {
    Json(Connections {
        connections: views(&app),
    })
}

/// All connections.
pub(crate) fn views(_app: &App) -> Vec<ConnectionView> {
    Vec::new()
}
