//! Dead letters: events that could not be processed, why, and re-driving, editing and discarding them.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use busbar_access::{Principal, Role};
use busbar_event::{Class, Error};
use busbar_flow::{DeadFilter, DeadLetter, Redriven as Sent};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::EventView;
use super::{Json, JsonBody, OptionalBody, Path, Query, json_bytes};
use crate::actor::Actor;
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::audit::Action;
use crate::events::render;
use crate::guard::Caller;
use crate::limits::DEAD_LETTERS_SHOWN_MAX;
use crate::rights;
use busbar_event::format::write_json_text;
use busbar_event::time;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(groups))
        .routes(routes!(inspect))
        .routes(routes!(redrive))
        .routes(routes!(redrive_one))
        .routes(routes!(discard))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Which {
    /// Only those of this flow.
    flow: Option<String>,
    /// Only those with this code of their cause.
    cause: Option<String>,
    /// Only those of this place in a flow.
    step: Option<String>,
    /// Most letters to return; at most 1000, 100 when absent.
    limit: Option<usize>,
    /// Closed ones too: re-driven, edited or discarded.
    #[serde(default)]
    closed: bool,
}

/// Dead letters.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is rendered by hand")]
struct Letters {
    /// Newest first.
    letters: Vec<LetterView>,
    /// How many different events these are: an event that several flows could not process has one letter in
    /// each.
    events: u64,
}

/// A dead letter.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is rendered by hand")]
struct LetterView {
    /// Its id.
    id: String,
    /// The flow that could not process the event.
    flow: String,
    /// The place in the flow: `decode`, `step:0`, `to:1`.
    step: String,
    /// The class of the cause.
    class: String,
    /// The code of the cause.
    code: String,
    /// The cause in English.
    cause: String,
    /// The cause in Chinese.
    cause_zh: String,
    /// When it failed.
    time: String,
    /// The stream the event was read from.
    stream: String,
    /// The partition.
    partition: u16,
    /// The offset.
    offset: u64,
    /// `open`, `redriven`, `edited` (re-driven with another payload) or `discarded`.
    state: String,
    /// The user who closed it; null while it is open, and when the flow read the event again and processed it.
    closed_by: Option<String>,
    /// When it was closed; null while it is open.
    closed_at: Option<String>,
    /// Other flows that have an open letter of the same event.
    also_in: Vec<String>,
    /// The event itself.
    event: EventView,
}

const LETTERS_DEFAULT: usize = 100;

/// List dead letters.
#[utoipa::path(get, path = "/api/v1/dead-letters", tag = "flows", params(Which),
    responses((status = 200, description = "The dead letters.", body = Letters)))]
async fn list(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Query(which): Query<Which>,
) -> Answer<Response> {
    let filter = DeadFilter {
        flow: which.flow,
        code: which.cause,
        place: which.step,
        ids: None,
        streams: readable_streams(&app, &caller),
        closed: which.closed,
    };
    let limit = which
        .limit
        .unwrap_or(LETTERS_DEFAULT)
        .clamp(1, DEAD_LETTERS_SHOWN_MAX);
    let letters = app.runtime.dead_letters(filter, limit).await?;
    let mut out = b"{\"letters\":[".to_vec();
    let mut events = BTreeSet::new();
    for (at, letter) in letters.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(&mut out, letter);
        events.insert((&*letter.stream, letter.partition, letter.offset));
    }
    out.extend_from_slice(format!("],\"events\":{}}}", events.len()).as_bytes());
    Ok(json_bytes(out))
}

/// The streams that the caller may read; `None` for all.
fn readable_streams(app: &App, caller: &Principal) -> Option<BTreeSet<String>> {
    if caller.may_read_all() {
        return None;
    }
    let streams = app.bus.streams();
    let names = streams.iter().map(|stream| stream.name().to_owned());
    Some(names.filter(|name| caller.may_read_stream(name)).collect())
}

/// One dead letter.
#[utoipa::path(get, path = "/api/v1/dead-letters/{id}", tag = "flows",
    params(("id" = String, Path, description = "The letter's id.")),
    responses((status = 200, description = "The dead letter.", body = LetterView)))]
async fn inspect(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(id): Path,
) -> Answer<Response> {
    let letter = find(&app, &caller, &id).await?;
    let mut out = Vec::new();
    write(&mut out, &letter);
    Ok(json_bytes(out))
}

/// The letter of this id, if the caller may read its stream.
async fn find(app: &App, caller: &Principal, id: &str) -> Answer<DeadLetter> {
    let unknown = || Refusal::unknown("server.unknown-letter", id);
    let number: u64 = id.parse().map_err(|_| unknown())?;
    let filter = DeadFilter {
        ids: Some(vec![number]),
        streams: readable_streams(app, caller),
        closed: true,
        ..DeadFilter::default()
    };
    let letters = app.runtime.dead_letters(filter, 1).await?;
    letters.into_iter().next().ok_or_else(unknown)
}

fn write(out: &mut Vec<u8>, letter: &DeadLetter) {
    let id = letter.id.to_string();
    let died = time::text(letter.died_micros);
    for (at, (name, text)) in [
        ("id", &id),
        ("flow", &letter.flow),
        ("step", &letter.place),
        ("class", &letter.class),
        ("code", &letter.code),
        ("cause", &letter.message),
        ("cause_zh", &letter.message_zh),
        ("time", &died),
        ("stream", &letter.stream),
    ]
    .into_iter()
    .enumerate()
    {
        out.push(if at == 0 { b'{' } else { b',' });
        write_json_text(name, out);
        out.push(b':');
        write_json_text(text, out);
    }
    let place = format!(
        "\"partition\":{},\"offset\":{}",
        letter.partition, letter.offset
    );
    let state = letter
        .closed
        .as_ref()
        .map_or("open", |closed| closed.how.as_str());
    out.extend_from_slice(format!(",{place},\"state\":\"{state}\",\"closed_by\":").as_bytes());
    match letter
        .closed
        .as_ref()
        .filter(|closed| !closed.by.is_empty())
    {
        Some(closed) => write_json_text(&closed.by, out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"closed_at\":");
    match letter.closed.as_ref().filter(|closed| closed.at_micros > 0) {
        Some(closed) => write_json_text(&time::text(closed.at_micros), out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"also_in\":[");
    for (at, flow) in letter.also_in.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_json_text(flow, out);
    }
    out.extend_from_slice(b"],\"event\":{\"stream\":");
    write_json_text(&letter.stream, out);
    out.extend_from_slice(format!(",{place},\"topic\":").as_bytes());
    write_json_text(&letter.topic, out);
    if let Some(key) = &letter.key {
        out.extend_from_slice(b",\"key\":");
        write_json_text(key, out);
    }
    out.extend_from_slice(b",\"time\":\"");
    time::write(letter.time_micros, out);
    out.extend_from_slice(b"\",\"tags\":{");
    for (at, (name, value)) in letter.tags.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_json_text(name, out);
        out.push(b':');
        write_json_text(value, out);
    }
    out.extend_from_slice(b"},");
    render::payload(out, &letter.payload);
    out.extend_from_slice(b"}}");
}

/// Dead letters by cause.
#[derive(Serialize, utoipa::ToSchema)]
struct Groups {
    /// The one with the newest letter first.
    groups: Vec<GroupView>,
}

/// Dead letters with one cause.
#[derive(Serialize, utoipa::ToSchema)]
struct GroupView {
    /// The flow.
    flow: String,
    /// Where in the flow.
    step: String,
    /// The class of the cause.
    class: String,
    /// The code of the cause.
    code: String,
    /// The newest one's cause in English.
    cause: String,
    /// The same in Chinese.
    cause_zh: String,
    /// Whether others name something else, such as another value.
    varies: bool,
    /// How many are open.
    count: u64,
    /// How many there are, closed ones too.
    total: u64,
    /// When the first one failed.
    first: String,
    /// When the last one failed.
    last: String,
}

/// Dead letters by cause.
#[utoipa::path(get, path = "/api/v1/dead-letters/groups", tag = "flows",
    responses((status = 200, description = "The causes.", body = Groups)))]
async fn groups(State(app): State<Arc<App>>, Caller(caller): Caller) -> Answer<Json<Groups>> {
    let groups = app.runtime.dead_groups().await?;
    // A cause may quote the event.
    let flows = app.runtime.status().into_iter();
    let flows = flows.filter(|flow| rights::may_read_status(&caller, flow));
    let flows: BTreeSet<String> = flows.map(|flow| flow.name).collect();
    let may_read = |flow: &str| caller.may_read_all() || flows.contains(flow);
    Ok(Json(Groups {
        groups: groups
            .into_iter()
            .filter(|group| group.open > 0 && may_read(&group.flow))
            .map(|group| GroupView {
                flow: group.flow,
                step: group.place,
                class: group.class,
                code: group.code,
                cause: group.message,
                cause_zh: group.message_zh,
                varies: group.varies,
                count: group.open,
                total: group.count,
                first: time::text(group.first_micros),
                last: time::text(group.last_micros),
            })
            .collect(),
    }))
}

/// Which open dead letters to act on: those that fit every field that is given.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
struct Selection {
    /// Those of this flow.
    flow: Option<String>,
    /// Those with this code of their cause.
    cause: Option<String>,
    /// Those of this place in a flow.
    step: Option<String>,
    /// Those with these ids.
    ids: Option<Vec<Id>>,
}

/// An id as text or number.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(String),
}

impl Selection {
    /// Whether it selects all open letters.
    fn is_all(&self) -> bool {
        self.flow.is_none() && self.cause.is_none() && self.step.is_none() && self.ids.is_none()
    }

    /// How the audit log names it.
    fn text(&self) -> String {
        let ids = self.ids.iter().flatten().map(|id| match id {
            Id::Number(number) => number.to_string(),
            Id::Text(text) => text.clone(),
        });
        let ids: Vec<String> = ids.collect();
        let parts = [
            ("flow", self.flow.clone().unwrap_or_default()),
            ("cause", self.cause.clone().unwrap_or_default()),
            ("step", self.step.clone().unwrap_or_default()),
            ("ids", ids.join(" ")),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        match parts.is_empty() {
            true => "all".to_owned(),
            false => parts.join(", "),
        }
    }

    /// The filter for it, of letters whose stream the caller may read. Refuses when one of the ids has no
    /// such letter: who mistypes an id means another letter.
    async fn filter(self, app: &App, caller: &Principal) -> Answer<DeadFilter> {
        let streams = readable_streams(app, caller);
        let ids = match self.ids {
            None => None,
            Some(ids) => {
                let wrong =
                    || Error::new(Class::Permanent, "server.bad-field").with("field", "ids");
                let mut numbers = Vec::with_capacity(ids.len());
                for id in ids {
                    numbers.push(match id {
                        Id::Number(number) => u64::try_from(number).map_err(|_| wrong())?,
                        Id::Text(text) => text.parse().map_err(|_| wrong())?,
                    });
                }
                let unknown = app.runtime.unknown_dead_letter(&numbers, streams.clone());
                if let Some(id) = unknown.await? {
                    return Err(Refusal::unknown("server.unknown-letter", &id.to_string()));
                }
                Some(numbers)
            }
        };
        Ok(DeadFilter {
            flow: self.flow,
            code: self.cause,
            place: self.step,
            ids,
            streams,
            closed: false,
        })
    }
}

/// The outcome of a re-drive.
#[derive(Serialize, utoipa::ToSchema)]
struct Redriven {
    /// Events sent through their flows again.
    redriven: u64,
    /// How many of them failed again.
    died: u64,
    /// Dead letters whose flow does not exist any more.
    orphaned: u64,
    /// Dead letters that stay open, because sending them again could not give right results.
    refused: u64,
    /// Why the first of them stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::problem::Problem>)]
    cause: Option<Error>,
}

impl From<Sent> for Redriven {
    fn from(sent: Sent) -> Redriven {
        Redriven {
            redriven: sent.sent,
            died: sent.died,
            orphaned: sent.orphaned,
            refused: sent.refused,
            cause: sent.cause,
        }
    }
}

/// Send dead letters through the present version of their flow again. An empty selection means all open ones.
#[utoipa::path(post, path = "/api/v1/dead-letters/redrive", tag = "flows", request_body = Selection,
    responses(
        (status = 200, description = "The outcome.", body = Redriven),
        (status = 404, description = "None was sent: one of the ids has no letter.", body = super::Refused),
    ))]
async fn redrive(
    State(app): State<Arc<App>>,
    actor: Actor,
    JsonBody(selection): JsonBody<Selection>,
) -> Answer<Json<Redriven>> {
    actor.caller.require(Role::Operator)?;
    let target = selection.text();
    let filter = selection.filter(&app, &actor.caller).await?;
    let done = app.runtime.redrive(filter, actor.caller.name()).await?;
    if done.sent > 0 {
        let detail = [("count", done.sent.to_string())];
        actor
            .record(&app, Action::DeadLettersRedrive, target, &detail)
            .await;
    }
    Ok(Json(done.into()))
}

/// A payload to send instead of the letter's own: one of the fields, or none to send it as it is.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
struct Edited {
    /// The payload as text, byte for byte.
    payload_text: Option<String>,
    /// The payload in base64.
    payload_base64: Option<String>,
}

/// The payload that a request gives in one of its two fields; none where it gives neither.
pub(super) fn edited_payload(
    text: Option<String>,
    base64: Option<String>,
) -> Answer<Option<Vec<u8>>> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(bad_field("payload_base64")),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(text)) => {
            let bytes = STANDARD.decode(text);
            Ok(Some(bytes.map_err(|_| bad_field("payload_base64"))?))
        }
        (None, None) => Ok(None),
    }
}

/// Send one dead letter through the present version of its flow again, with another payload if one is given.
///
/// The letter keeps its own payload, and who sent it.
#[utoipa::path(post, path = "/api/v1/dead-letters/{id}/redrive", tag = "flows",
    params(("id" = String, Path, description = "The letter's id.")), request_body = Option<Edited>,
    responses(
        (status = 200, description = "The outcome.", body = Redriven),
        (status = 409, description = "It is closed already.", body = super::Refused),
    ))]
async fn redrive_one(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(id): Path,
    OptionalBody(edited): OptionalBody<Edited>,
) -> Answer<Json<Redriven>> {
    actor.caller.require(Role::Operator)?;
    let payload = edited_payload(edited.payload_text, edited.payload_base64)?;
    let letter = find(&app, &actor.caller, &id).await?;
    if letter.closed.is_some() {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            Error::new(Class::Permanent, "server.letter-closed").with("id", &id),
        ));
    }
    let by = actor.caller.name();
    let (done, action) = match payload {
        Some(payload) => (
            app.runtime.redrive_edited(letter.id, &payload, by).await?,
            Action::DeadLettersEdit,
        ),
        None => {
            let filter = DeadFilter {
                ids: Some(vec![letter.id]),
                ..DeadFilter::default()
            };
            (
                app.runtime.redrive(filter, by).await?,
                Action::DeadLettersRedrive,
            )
        }
    };
    if done.sent > 0 {
        let detail = [("flow", letter.flow), ("count", done.sent.to_string())];
        actor.record(&app, action, id, &detail).await;
    }
    Ok(Json(done.into()))
}

/// What was discarded.
#[derive(Serialize, utoipa::ToSchema)]
struct Discarded {
    /// How many letters.
    discarded: u64,
}

/// Discard dead letters: close them without sending their events again.
///
/// At least one field must be given. The letters stay readable, with the user who discarded them, until
/// retention deletes them.
#[utoipa::path(post, path = "/api/v1/dead-letters/discard", tag = "flows", request_body = Selection,
    responses(
        (status = 200, description = "How many were discarded.", body = Discarded),
        (status = 404, description = "None was discarded: one of the ids has no letter.", body = super::Refused),
    ))]
async fn discard(
    State(app): State<Arc<App>>,
    actor: Actor,
    JsonBody(selection): JsonBody<Selection>,
) -> Answer<Json<Discarded>> {
    actor.caller.require(Role::Operator)?;
    if selection.is_all() {
        return Err(Error::new(Class::Permanent, "server.discard-what").into());
    }
    let target = selection.text();
    let filter = selection.filter(&app, &actor.caller).await?;
    let discarded = app.runtime.discard(filter, actor.caller.name()).await?;
    if discarded > 0 {
        let detail = [("count", discarded.to_string())];
        actor
            .record(&app, Action::DeadLettersDiscard, target, &detail)
            .await;
    }
    Ok(Json(Discarded { discarded }))
}

fn bad_field(name: &'static str) -> Refusal {
    Error::new(Class::Permanent, "server.bad-field")
        .with("field", name)
        .into()
}
