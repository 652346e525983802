//! The opening handshake of a WebSocket, for JSON frames and for MQTT.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use busbar_event::{Class, Error};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::answer::{Answer, Refusal};

/// Checks that a request asks for a WebSocket; returns the key for the answer.
pub(super) fn check(headers: &HeaderMap) -> Answer<String> {
    if !has_word(headers, header::CONNECTION, "upgrade")
        || !has_word(headers, header::UPGRADE, "websocket")
    {
        let refusal = refuse(StatusCode::UPGRADE_REQUIRED, "server.websocket-not-asked");
        return Err(refusal
            .with_header(header::UPGRADE, HeaderValue::from_static("websocket"))
            .with_header(header::CONNECTION, HeaderValue::from_static("upgrade")));
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        let refusal = refuse(StatusCode::UPGRADE_REQUIRED, "server.websocket-version");
        return Err(refusal.with_header(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        ));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(key.as_bytes());
        bytes.is_ok_and(|bytes| bytes.len() == 16)
    });
    match key {
        Some(key) => Ok(derive_accept_key(key.as_bytes())),
        None => Err(refuse(StatusCode::BAD_REQUEST, "server.websocket-key")),
    }
}

/// The answer that switches the connection to WebSocket.
pub(super) fn switch(key: &str, protocol: Option<&'static str>) -> Answer<Response> {
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, key);
    if let Some(protocol) = protocol {
        response = response.header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response.body(Body::empty()).map_err(|cause| {
        tracing::error!(%cause, "the answer to a WebSocket handshake could not be made");
        let error = Error::new(Class::Transient, "server.failed-within");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error)
    })
}

/// A refusal of a handshake; `why` is the code of its reason.
pub(super) fn refuse(status: StatusCode, why: &'static str) -> Refusal {
    Refusal::new(
        status,
        Error::new(Class::Permanent, "server.not-websocket").with_text("why", why),
    )
}

/// Whether the list of words in a header contains `word`.
pub(super) fn has_word(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|found| found.trim().eq_ignore_ascii_case(word))
}
