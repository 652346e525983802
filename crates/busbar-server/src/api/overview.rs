//! The node at a glance.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, json_bytes};
use crate::app::App;
use crate::guard::Caller;
use crate::picture::{Overview, Rates};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(overview))
        .routes(routes!(rates))
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
