//! MQTT over WebSocket: the upgrade is answered here, the connection is the gateway's.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::handshake;
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::peer::Link;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(upgrade))
}

/// MQTT over WebSocket, subprotocol `mqtt`. The login is MQTT's own, in CONNECT.
#[utoipa::path(get, path = "/mqtt", tag = "events", security(()),
    responses((status = 101, description = "The connection speaks MQTT from here on.")))]
async fn upgrade(
    State(app): State<Arc<App>>,
    link: Link,
    mut request: Request,
) -> Answer<Response> {
    if !app.config.mqtt.ws {
        return Err(Refusal::permanent(
            StatusCode::NOT_FOUND,
            "server.mqtt-ws-off",
        ));
    }
    let headers = request.headers();
    let key = handshake::check(headers)?;
    // Clients of 3.1 offer "mqttv3.1"; the answer must be one of those offered.
    let protocol = ["mqtt", "mqttv3.1"]
        .into_iter()
        .find(|word| handshake::has_word(headers, header::SEC_WEBSOCKET_PROTOCOL, word));
    if protocol.is_none() {
        return Err(handshake::refuse(
            StatusCode::BAD_REQUEST,
            "server.websocket-protocol",
        ));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // A client that goes away between question and answer is none.
        let Ok(upgraded) = upgraded.await else { return };
        let peer = Some(link.address());
        if let Some(gateway) = app.gateways.mqtt() {
            gateway.hand_over_websocket(TokioIo::new(upgraded), peer);
        }
    });
    handshake::switch(&key, protocol)
}
