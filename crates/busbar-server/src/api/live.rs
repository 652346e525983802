//! The live feed of the console: one picture a second, made once for all who look.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use busbar_event::{Class, Error};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::flows::FlowDetail;
use super::overview::Overview;
use crate::answer::Answer;
use crate::app::{App, stopped};
use crate::guard::Caller;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(live))
}

/// What comes each second.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Live {
    /// The node at a glance.
    pub(crate) overview: Overview,
    /// The flows with all counters.
    pub(crate) flows: Vec<FlowDetail>,
}

/// The node, each second.
///
/// Server-sent events of kind `live`.
#[utoipa::path(get, path = "/api/v1/live", tag = "node",
    responses((status = 200, description = "A picture each second.", body = Live, content_type = "text/event-stream")))]
async fn live(State(app): State<Arc<App>>, Caller(caller): Caller) -> Answer<Response> {
    let permit = app
        .listeners
        .clone()
        .try_acquire_owned()
        .map_err(|_| Error::new(Class::Transient, "server.too-many-subscriptions"))?;
    let pictures = app.feed.listen();
    let start = (app, caller, pictures, permit, true);
    let stream = futures::stream::unfold(
        start,
        |(app, caller, mut pictures, permit, first)| async move {
            let stop = app.stop.clone();
            if !first {
                tokio::select! {
                    changed = pictures.changed() => changed.ok()?,
                    () = stopped(stop.clone()) => return None,
                }
            }
            app.access.current(&caller)?;
            let picture: Bytes = pictures.borrow_and_update().clone();
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
