//! The project's APIs in short.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use busbar_catalog::ApiWork;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Json;
use crate::app::App;
use crate::guard::Caller;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// The project's APIs.
#[derive(Serialize, utoipa::ToSchema)]
struct ApiList {
    /// By name.
    apis: Vec<ApiView>,
}

/// An API of the project in short. Counts are since the node started.
#[derive(Serialize, utoipa::ToSchema)]
struct ApiView {
    /// Its name.
    name: String,
    /// Where it is called: `/apis/NAME`. Its OpenAPI document is below, at `openapi.json`.
    path: String,
    /// Where it is called as a web service: `/services/NAME`, with its WSDL at `?wsdl`. Absent where its file has no `soap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    /// What it is for.
    description: Option<String>,
    /// What it does: `query`, `request` or `orchestration`.
    work: &'static str,
    /// Calls under way.
    in_flight: usize,
    /// Calls answered with what was asked for.
    answered_total: u64,
    /// Calls answered with 202: the reply or the end had not come in time.
    late_total: u64,
    /// Calls refused.
    refused_total: u64,
    /// Calls that failed within the node.
    failed_total: u64,
}

/// List the project's APIs that the caller may call.
#[utoipa::path(get, path = "/api/v1/apis", tag = "apis",
    responses((status = 200, description = "The APIs.", body = ApiList)))]
async fn list(State(app): State<Arc<App>>, Caller(caller): Caller) -> Json<ApiList> {
    let running = app.apis.running().into_iter();
    let mine = running.filter(|(name, api)| caller.may_call(name, api.role()));
    let apis = mine.map(|(name, api)| {
        let counts = &api.counts;
        ApiView {
            path: format!("/apis/{name}"),
            service: api.spec.soap.as_ref().map(|_| format!("/services/{name}")),
            description: api.spec.description.clone(),
            work: match api.spec.work() {
                Some(ApiWork::Request(_)) => "request",
                Some(ApiWork::Orchestration(_)) => "orchestration",
                _ => "query",
            },
            in_flight: api.in_flight(),
            answered_total: counts.answered.load(Ordering::Relaxed),
            late_total: counts.late.load(Ordering::Relaxed),
            refused_total: counts.refused.load(Ordering::Relaxed),
            failed_total: counts.failed.load(Ordering::Relaxed),
            name,
        }
    });
    Json(ApiList {
        apis: apis.collect(),
    })
}
