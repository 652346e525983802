//! MQTT over WebSocket: the upgrade is answered here, the connection is the gateway's.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use busbar_event::{Class, Error};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

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
    let refused = |why: &str| {
        Refusal::from(Error::new(Class::Permanent, "server.not-websocket").with("why", why))
    };
    if !app.config.mqtt.ws {
        return Err(Refusal::permanent(
            StatusCode::NOT_FOUND,
            "server.mqtt-ws-off",
        ));
    }
    let headers = request.headers();
    if !has_word(headers, header::CONNECTION, "upgrade")
        || !has_word(headers, header::UPGRADE, "websocket")
    {
        return Err(refused("the request does not ask for a WebSocket"));
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        let mut response = refused("only version 13 is spoken").into_response();
        response.headers_mut().insert(
            header::SEC_WEBSOCKET_VERSION,
            header::HeaderValue::from_static("13"),
        );
        return Ok(response);
    }
    let Some(accept) = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .map(|key| derive_accept_key(key.as_bytes()))
    else {
        return Err(refused("the key is missing"));
    };
    // Clients of 3.1 offer "mqttv3.1"; the answer must be one of those offered.
    let Some(protocol) = ["mqtt", "mqttv3.1"]
        .into_iter()
        .find(|protocol| has_word(headers, header::SEC_WEBSOCKET_PROTOCOL, protocol))
    else {
        return Err(refused("the subprotocol mqtt is not offered"));
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // A client that goes away between question and answer is none.
        let Ok(upgraded) = upgraded.await else { return };
        let peer = Some(link.address());
        if let Some(gateway) = &*app.gateway.lock() {
            gateway.hand_over_websocket(TokioIo::new(upgraded), peer);
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .header(header::SEC_WEBSOCKET_PROTOCOL, protocol)
        .body(Body::empty())
        .map_err(|cause| refused(&cause.to_string()))
}

/// True when a list of words in a header has `word` in it.
fn has_word(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|found| found.trim().eq_ignore_ascii_case(word))
}
