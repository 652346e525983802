//! The live feed of the console: the state of the node each second, serialised once for all listeners.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use busbar_event::{Class, Error};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::answer::Answer;
use crate::app::App;
use crate::guard::Caller;
use crate::lifecycle::stopped;
use crate::picture::Live;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(live))
}

/// The node, each second.
///
/// Server-sent events of kind `live`.
#[utoipa::path(get, path = "/api/v1/live", tag = "node",
    responses((status = 200, description = "A picture each second.", body = Live, content_type = "text/event-stream")))]
async fn live(State(app): State<Arc<App>>, Caller(caller): Caller) -> Answer<Response> {
    let permit = app
        .http
        .listeners
        .clone()
        .try_acquire_owned()
        .map_err(|_| Error::new(Class::Transient, "server.too-many-subscriptions"))?;
    let pictures = app.feed.listen();
    let start = (app, caller, pictures, permit, true);
    let stream = futures::stream::unfold(
        start,
        |(app, caller, mut pictures, permit, first)| async move {
            let stop = app.lifecycle.stop.clone();
            if !first {
                tokio::select! {
                    changed = pictures.changed() => changed.ok()?,
                    () = stopped(stop.clone()) => return None,
                }
            }
            // The caller's rules may have changed.
            let caller = app.access.current(&caller)?;
            let picture: Bytes = match pictures.borrow_and_update().clone() {
                whole if caller.may_read_all() => whole,
                whole => app.feed.latest().map_or(whole, |live| {
                    live.readable_by(&caller).to_event().unwrap_or_default()
                }),
            };
            Some((
                Ok::<_, Infallible>(picture),
                (app, caller, pictures, permit, false),
            ))
        },
    );
    Ok((
        [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-store"),
            super::UNBUFFERED,
        ],
        Body::from_stream(stream),
    )
        .into_response())
}
