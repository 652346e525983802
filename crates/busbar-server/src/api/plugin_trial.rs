//! A plug-in tried on the last events of a stream, before it is deployed.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use busbar_access::Role;
use busbar_bus::Stream;
use busbar_catalog::{Diagnostic, Project, has_errors};
use busbar_event::{Class, Error};
use busbar_flow::{TrialRow, TriedResult};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::plugins::{PluginLineView, in_project};
use super::views::EventView;
use super::{Json, JsonBody, Path, blocking};
use crate::actor::Actor;
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::deploy::{NotDeployed, plugin_folder, with_plugin};
use crate::events::render::{self, Place};
use crate::events::subscription::last;
use crate::limits::{SUBSCRIPTION_READ_BYTES, TRIAL_BYTES_MAX, TRIAL_EVENTS_MAX, TRIALS_MAX};
use crate::rights;
use busbar_event::format::write_json_text;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(try_out))
}

/// Those who may try a plug-in now.
static TRIALS: Semaphore = Semaphore::const_new(TRIALS_MAX);

/// What is tried on which events.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Trial)]
struct TrialRequest {
    /// All files of the plug-in, by their paths within its folder.
    files: BTreeMap<String, String>,
    /// The stream whose last events it is tried on.
    stream: String,
    /// How many, up to 100.
    #[serde(default = "default_events")]
    events: usize,
}

fn default_events() -> usize {
    10
}

/// What a plug-in made of events. Nothing of it was published.
#[derive(Serialize, utoipa::ToSchema)]
struct TrialView {
    /// For each event, oldest first.
    events: Vec<TriedView>,
    /// What the plug-in has logged.
    log: Vec<PluginLineView>,
    /// How long it worked on the events, in milliseconds.
    took_ms: f64,
}

/// What came of one event.
#[derive(Serialize, utoipa::ToSchema)]
struct TriedView {
    /// The event.
    #[schema(value_type = EventView)]
    given: Box<RawValue>,
    /// What would be published in its place.
    #[schema(value_type = Vec<TriedEventView>)]
    made: Vec<Box<RawValue>>,
    /// Why it would be a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::Problem>)]
    error: Option<Error>,
}

/// An event that would be published.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is rendered by hand")]
struct TriedEventView {
    /// Where it belongs.
    topic: String,
    /// Its key; absent when it has none.
    key: Option<String>,
    /// Names and values.
    tags: BTreeMap<String, String>,
    /// The payload: JSON when it is JSON, else its text.
    #[schema(value_type = serde_json::Value, required = false)]
    payload: Option<serde_json::Value>,
    /// The payload, when it is not text.
    payload_base64: Option<String>,
}

/// Try a plug-in.
///
/// Runs its tests and then has it work on the last events of a stream, in a worker of its own beside the version that runs,
/// with the bounds of its file. Nothing is published or deployed.
#[utoipa::path(post, path = "/api/v1/plugins/{name}/try", tag = "plugins",
    params(("name" = String, Path, description = "The plug-in's name; it need not exist.")), request_body = TrialRequest,
    responses(
        (status = 200, description = "What it made.", body = TrialView),
        (status = 422, description = "It does not start; `diagnostics` says where.", body = super::Refused),
    ))]
async fn try_out(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(name): Path,
    JsonBody(body): JsonBody<TrialRequest>,
) -> Answer<Json<TrialView>> {
    // It runs a program on this machine, as deploying does.
    actor.caller.require(Role::Admin)?;
    rights::check_stream(&actor.caller, &body.stream)?;
    busbar_catalog::check_name(&name)?;
    let stream = app.bus.stream(&body.stream);
    let stream = stream.ok_or_else(|| Refusal::unknown("server.unknown-stream", &body.stream))?;
    let Ok(_one) = TRIALS.try_acquire() else {
        let error = Error::new(Class::Transient, "server.trials").with("max", TRIALS_MAX);
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, error));
    };
    let bundle = with_plugin(&app.runtime, &name, in_project(&name, body.files)).await;
    let (project, mut wrong) = blocking(move || Ok(Project::parse(bundle))).await?;
    // What is wrong elsewhere is no matter of this plug-in.
    let folder = plugin_folder(&name);
    wrong.retain(|diagnostic| diagnostic.file().starts_with(&folder));
    let parsed = project.plugins.get(&name).filter(|_| !has_errors(&wrong));
    let Some(parsed) = parsed else {
        if wrong.is_empty() {
            return Err(Refusal::unknown("plugin.unknown", &name));
        }
        return Err(NotDeployed::Wrong(wrong).into());
    };
    let events = body.events.clamp(1, TRIAL_EVENTS_MAX);
    let given = blocking(move || last_events(&stream, events)).await?;
    let (rows, given): (Vec<TrialRow>, Vec<Box<RawValue>>) = given.into_iter().unzip();
    let tried = app.runtime.try_plugin(&name, parsed, rows).await;
    let tried = tried.map_err(|wrong: Box<Diagnostic>| NotDeployed::Wrong(vec![*wrong]))?;
    let events = given.into_iter().zip(tried.events);
    let events = events.map(|(given, event)| TriedView {
        given,
        made: event.made.iter().map(written).collect(),
        error: event.error,
    });
    Ok(Json(TrialView {
        events: events.collect(),
        log: tried.log.into_iter().map(PluginLineView::new).collect(),
        took_ms: tried.took.as_secs_f64() * 1e3,
    }))
}

/// The last events of a stream, oldest first, each with what the API shows of it.
fn last_events(stream: &Stream, count: usize) -> Result<Vec<(TrialRow, Box<RawValue>)>, Error> {
    let mut found: Vec<(i64, TrialRow, Box<RawValue>)> = Vec::new();
    for partition in stream.partitions().iter() {
        let all = |batch: &busbar_event::Batch| (0..batch.rows() as u32).collect();
        let wanted = last(partition, count, all)?;
        let (Some((_, first)), Some((_, end))) = (wanted.first(), wanted.last()) else {
            continue;
        };
        let mut at = *first;
        while at <= *end {
            let chunks = partition.read(at, SUBSCRIPTION_READ_BYTES)?;
            let Some(next) = chunks.last().map(busbar_bus::Chunk::end) else {
                break;
            };
            for chunk in chunks {
                let payloads = chunk.batch.payloads();
                for row in 0..chunk.batch.rows() {
                    let offset = chunk.base + row as u64;
                    if !(at..=*end).contains(&offset) {
                        continue;
                    }
                    let place = Place {
                        stream: stream.name(),
                        partition: partition.number(),
                        offset,
                    };
                    let mut out = vec![b'{'];
                    render::members(&mut out, &chunk.batch, row, payloads.value(row), place);
                    out.push(b'}');
                    let time = chunk.batch.times()[row];
                    found.push((time, (chunk.batch.clone(), row), raw(out)));
                }
            }
            at = next;
        }
    }
    found.sort_by_key(|(time, ..)| *time);
    let surplus = found.len().saturating_sub(count);
    found.drain(..surplus);
    // The newest ones that fit.
    let mut bytes = 0;
    let fit = found.iter().rev().take_while(|(_, _, shown)| {
        bytes += shown.get().len();
        bytes <= TRIAL_BYTES_MAX
    });
    let surplus = found.len() - fit.count();
    found.drain(..surplus);
    Ok(found
        .into_iter()
        .map(|(_, row, shown)| (row, shown))
        .collect())
}

fn written(event: &TriedResult) -> Box<RawValue> {
    let mut out = b"{\"topic\":".to_vec();
    write_json_text(&event.topic, &mut out);
    if let Some(key) = &event.key {
        out.extend_from_slice(b",\"key\":");
        write_json_text(key, &mut out);
    }
    out.extend_from_slice(b",\"tags\":{");
    for (at, (name, value)) in event.tags.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_json_text(name, &mut out);
        out.push(b':');
        write_json_text(value, &mut out);
    }
    out.extend_from_slice(b"},");
    render::payload(&mut out, &event.payload);
    out.push(b'}');
    raw(out)
}

/// What was rendered, which is JSON.
fn raw(json: Vec<u8>) -> Box<RawValue> {
    let text = String::from_utf8(json).unwrap_or_default();
    RawValue::from_string(text).unwrap_or_default()
}
