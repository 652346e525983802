//! The gateways that run.

use std::sync::Arc;

use axum::extract::State;
use busbar_gateway::{Gateway, GatewayAddress, GatewayCounts};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Json;
use crate::app::App;
use crate::guard::Caller;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Gateways.
#[derive(Serialize, utoipa::ToSchema)]
struct GatewayList {
    /// Those that settings switch on, then those of the project's files, each by name.
    gateways: Vec<GatewayView>,
}

/// A gateway that runs.
#[derive(Serialize, utoipa::ToSchema)]
struct GatewayView {
    /// Its name: the protocol for one that settings switch on, the file's name for one of the project.
    name: String,
    /// Where it listens, as a URL: `amqp://127.0.0.1:5672`.
    addresses: Vec<String>,
    /// Connections now.
    connections: u64,
    /// Connections since it started.
    connections_total: u64,
    /// Connections refused, or closed for what the client did.
    refusals_total: u64,
    /// Logins refused.
    logins_refused_total: u64,
    /// Events taken.
    events_in_total: u64,
    /// Payload bytes taken.
    bytes_in_total: u64,
    /// Events refused.
    events_refused_total: u64,
    /// Events delivered.
    events_out_total: u64,
    /// Datagrams that the system dropped before they were read.
    datagrams_lost_total: u64,
}

/// List the gateways that run. Empty for a caller that may not read everything.
#[utoipa::path(get, path = "/api/v1/gateways", tag = "gateways",
    responses((status = 200, description = "The gateways.", body = GatewayList)))]
async fn list(State(app): State<Arc<App>>, Caller(caller): Caller) -> Json<GatewayList> {
    let running = match caller.may_read_all() {
        true => app.gateways.running(),
        false => Vec::new(),
    };
    Json(GatewayList {
        gateways: running.iter().map(|gateway| view(&**gateway)).collect(),
    })
}

fn view(gateway: &dyn Gateway) -> GatewayView {
    let url = |at: GatewayAddress| format!("{}://{}", at.scheme, at.address);
    let GatewayCounts {
        connections,
        connections_total,
        refusals_total,
        logins_refused_total,
        events_in_total,
        bytes_in_total,
        events_refused_total,
        events_out_total,
        datagrams_lost_total,
    } = gateway.counts();
    GatewayView {
        name: gateway.name().to_owned(),
        addresses: gateway.addresses().into_iter().map(url).collect(),
        connections,
        connections_total,
        refusals_total,
        logins_refused_total,
        events_in_total,
        bytes_in_total,
        events_refused_total,
        events_out_total,
        datagrams_lost_total,
    }
}
