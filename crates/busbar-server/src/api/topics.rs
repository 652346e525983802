//! The last event of each topic.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use busbar_access::Reach;
use busbar_event::topic::Filter;
use busbar_event::{Class, Error, tags};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Query, blocking, json_bytes};
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::events::render;
use crate::guard::Caller;
use crate::limits::PAGE_TOPICS_MAX;
use busbar_event::format::write_json_text;
use busbar_event::time;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Page {
    /// A topic filter; `#` when absent.
    filter: Option<String>,
    /// With topics whose last event is not retained, as far back as is quickly read.
    #[serde(default)]
    all: bool,
    /// At most so many; 1000 at the most.
    limit: Option<usize>,
    /// Topics after this one: `next` of the page before.
    after: Option<String>,
}

/// Topics with their last values.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is rendered by hand")]
struct Topics {
    /// In order of their names.
    topics: Vec<TopicView>,
    /// What to ask for `after`; absent on the last page.
    next: Option<String>,
}

/// A topic and its last event.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is rendered by hand")]
struct TopicView {
    /// The topic.
    topic: String,
    /// The event's key.
    key: Option<String>,
    /// When it happened.
    time: String,
    /// Names and values.
    tags: Option<std::collections::BTreeMap<String, String>>,
    /// The payload: JSON when it is JSON, else its text.
    #[schema(value_type = serde_json::Value, required = false)]
    payload: Option<serde_json::Value>,
    /// The payload, when it is not text.
    payload_base64: Option<String>,
}

/// List topics with their last values.
#[utoipa::path(get, path = "/api/v1/topics", tag = "events", params(Page),
    responses((status = 200, description = "A page of topics.", body = Topics)))]
async fn list(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Query(query): Query<Page>,
) -> Answer<Response> {
    let filter = Filter::parse(query.filter.as_deref().unwrap_or("#"))?;
    if caller.may_subscribe(&filter) == Reach::None {
        return Err(Refusal::new(
            axum::http::StatusCode::FORBIDDEN,
            Error::new(Class::Permanent, "access.subscribe-denied").with("filter", filter),
        ));
    }
    let limit = query
        .limit
        .unwrap_or(PAGE_TOPICS_MAX)
        .clamp(1, PAGE_TOPICS_MAX);
    let bus = app.bus.clone();
    let page = blocking(move || match query.all {
        true => bus.last_values(&filter, query.after.as_deref(), limit),
        false => Ok(bus
            .retained()
            .matching(&filter, query.after.as_deref(), limit)),
    })
    .await?;
    let mut out = b"{\"topics\":[".to_vec();
    let mut first = true;
    for value in &page.values {
        let stream = app.bus.home(&value.topic);
        if !caller.is_unrestricted() && !caller.may_receive(&value.topic, stream.name()) {
            continue;
        }
        out.extend_from_slice(if first {
            b"{\"topic\":"
        } else {
            b",{\"topic\":"
        });
        first = false;
        write_json_text(&value.topic, &mut out);
        if let Some(key) = &value.key {
            out.extend_from_slice(b",\"key\":");
            write_json_text(key, &mut out);
        }
        out.extend_from_slice(b",\"time\":\"");
        time::write(value.time, &mut out);
        out.push(b'"');
        let mut any = false;
        for (name, tag) in &value.tags {
            let Some(name) = tags::unescape(name) else {
                continue;
            };
            out.extend_from_slice(if any { b"," } else { b",\"tags\":{" });
            any = true;
            write_json_text(name, &mut out);
            out.push(b':');
            write_json_text(tag, &mut out);
        }
        if any {
            out.push(b'}');
        }
        out.push(b',');
        render::payload(&mut out, &value.payload);
        out.push(b'}');
    }
    out.push(b']');
    if let Some(next) = &page.next {
        out.extend_from_slice(b",\"next\":");
        write_json_text(next, &mut out);
    }
    out.push(b'}');
    Ok(json_bytes(out))
}
