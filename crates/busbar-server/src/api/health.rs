//! Whether the node lives and whether it is ready; the description of this API.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, json_bytes};
use crate::app::App;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(openapi))
}

/// Whether the process answers.
#[derive(Serialize, utoipa::ToSchema)]
struct Health {
    /// `ok`.
    status: &'static str,
}

/// Whether the node is ready for work.
#[derive(Serialize, utoipa::ToSchema)]
struct Readiness {
    /// `ok`, or what keeps the node from its work: `starting`, `stopping`, or `failed` when a thread has ended
    /// that the node needs.
    status: &'static str,
    /// False while publishers are refused because of the disk; readers go on.
    writable: bool,
    /// Why publishers are refused, by the code of the error that they get.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'static str>,
    /// Threads that have ended although the node needs them. It has to be restarted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<String>,
}

/// Does the process live?
#[utoipa::path(get, path = "/healthz", tag = "node", security(()),
    responses((status = 200, description = "It answers.", body = Health)))]
async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Is the node ready for work?
#[utoipa::path(get, path = "/readyz", tag = "node", security(()),
    responses(
        (status = 200, description = "Streams are open, flows run, ports listen.", body = Readiness),
        (status = 503, description = "Not yet, not any more, or a thread has failed.", body = Readiness),
    ))]
async fn readyz(State(app): State<Arc<App>>) -> Response {
    let ready = Readiness {
        status: app.readiness(),
        writable: app.refusal().is_none(),
        refusal: app.refusal(),
        failed: app.failed(),
    };
    let status = match ready.status {
        "ok" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(ready)).into_response()
}

/// This description.
#[utoipa::path(get, path = "/api/openapi.json", tag = "node", security(()),
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)))]
async fn openapi(State(app): State<Arc<App>>) -> Response {
    json_bytes(app.openapi.clone())
}
