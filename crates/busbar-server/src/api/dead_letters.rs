//! Dead letters: what could not be processed, why, and sending it again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use busbar_access::Role;
use busbar_event::{Class, Error};
use busbar_flow::{DeadFilter, DeadLetter, FlowStatus};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::EventView;
use super::{Json, JsonBody, Path, Query, json_bytes};
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::events::render;
use crate::guard::Caller;
use crate::json::quote;
use crate::limits::DEAD_LETTERS_SHOWN_MAX;
use crate::time;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(groups))
        .routes(routes!(inspect))
        .routes(routes!(redrive))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Which {
    /// Those of one flow.
    flow: Option<String>,
    /// Those with one cause, by its code.
    cause: Option<String>,
    /// Those of one place in a flow.
    step: Option<String>,
    /// At most so many; 1000 at the most, 100 when absent.
    limit: Option<usize>,
    /// With those that were sent again already.
    #[serde(default)]
    redriven: bool,
}

/// Dead letters.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is rendered by hand")]
struct Letters {
    /// Newest first.
    letters: Vec<LetterView>,
}

/// A dead letter.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is rendered by hand")]
struct LetterView {
    /// Names it.
    id: String,
    /// The flow it died in.
    flow: String,
    /// Where: `decode`, `step:0`, `to:1`.
    step: String,
    /// The class of the cause.
    class: String,
    /// The code of the cause.
    code: String,
    /// The cause in English.
    cause: String,
    /// The cause in Chinese.
    cause_zh: String,
    /// When it died.
    time: String,
    /// The stream it was read from.
    stream: String,
    /// The partition.
    partition: u16,
    /// The offset.
    offset: u64,
    /// Whether it was sent again.
    redriven: bool,
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
        redriven: which.redriven,
    };
    let limit = which
        .limit
        .unwrap_or(LETTERS_DEFAULT)
        .clamp(1, DEAD_LETTERS_SHOWN_MAX);
    let letters = app.runtime.dead_letters(filter, limit).await?;
    let mut out = b"{\"letters\":[".to_vec();
    let mut first = true;
    for letter in letters
        .iter()
        .filter(|letter| caller.may_read_stream(&letter.stream))
    {
        if !first {
            out.push(b',');
        }
        first = false;
        write(&mut out, letter);
    }
    out.extend_from_slice(b"]}");
    Ok(json_bytes(out))
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
    let unknown = || Refusal::unknown("server.unknown-letter", &id);
    let number: u64 = id.parse().map_err(|_| unknown())?;
    let filter = DeadFilter {
        ids: Some(vec![number]),
        redriven: true,
        ..DeadFilter::default()
    };
    let letters = app.runtime.dead_letters(filter, 1).await?;
    let letter = letters
        .first()
        .filter(|letter| caller.may_read_stream(&letter.stream))
        .ok_or_else(unknown)?;
    let mut out = Vec::new();
    write(&mut out, letter);
    Ok(json_bytes(out))
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
        quote(out, name);
        out.push(b':');
        quote(out, text);
    }
    let rest = format!(
        ",\"partition\":{},\"offset\":{},\"redriven\":{},\"event\":{{\"topic\":",
        letter.partition, letter.offset, letter.redriven
    );
    out.extend_from_slice(rest.as_bytes());
    quote(out, &letter.topic);
    if let Some(key) = &letter.key {
        out.extend_from_slice(b",\"key\":");
        quote(out, key);
    }
    out.extend_from_slice(b",\"time\":\"");
    time::write(out, letter.time_micros);
    out.extend_from_slice(b"\",\"tags\":{");
    for (at, (name, value)) in letter.tags.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        quote(out, name);
        out.push(b':');
        quote(out, value);
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
    /// How many wait.
    count: u64,
    /// How many there are, those that were sent again too.
    total: u64,
    /// When the first one died.
    first: String,
    /// When the last one died.
    last: String,
}

/// Dead letters by cause.
#[utoipa::path(get, path = "/api/v1/dead-letters/groups", tag = "flows",
    responses((status = 200, description = "The causes.", body = Groups)))]
async fn groups(State(app): State<Arc<App>>, Caller(caller): Caller) -> Answer<Json<Groups>> {
    let groups = app.runtime.dead_groups().await?;
    // A cause may quote what was in the event.
    let inputs = inputs_of_flows(&app);
    let may_read = |flow: &str| {
        caller.may_read_all()
            || inputs.get(flow).is_some_and(|streams| {
                // A flow that does not run reads none.
                !streams.is_empty() && streams.iter().all(|stream| caller.may_read_stream(stream))
            })
    };
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
                count: group.open,
                total: group.count,
                first: time::text(group.first_micros),
                last: time::text(group.last_micros),
            })
            .collect(),
    }))
}

/// The streams that each flow reads.
fn inputs_of_flows(app: &App) -> BTreeMap<String, BTreeSet<String>> {
    let inputs = |flow: FlowStatus| {
        let streams = flow.tasks.into_iter().map(|task| task.stream);
        (flow.name, streams.collect())
    };
    app.runtime.status().into_iter().map(inputs).collect()
}

/// Which dead letters to send again; all that wait, without any word.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
struct Redrive {
    /// Those of one flow.
    flow: Option<String>,
    /// Those with one cause, by its code.
    cause: Option<String>,
    /// Those of one place in a flow.
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

/// What a re-drive did.
#[derive(Serialize, utoipa::ToSchema)]
struct Redriven {
    /// Events sent through their flows again.
    redriven: u64,
    /// Of these, events that died again.
    died: u64,
    /// Dead letters whose flow is gone.
    orphaned: u64,
}

/// Send dead letters through the present version of their flow again.
#[utoipa::path(post, path = "/api/v1/dead-letters/redrive", tag = "flows", request_body = Redrive,
    responses(
        (status = 200, description = "What became of them.", body = Redriven),
        (status = 404, description = "None was sent: there is none with one of these ids.", body = super::Refused),
    ))]
async fn redrive(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<Redrive>,
) -> Answer<Json<Redriven>> {
    caller.require(Role::Operator)?;
    let ids = match body.ids {
        None => None,
        Some(ids) => {
            let wrong = || Error::new(Class::Permanent, "server.bad-field").with("field", "ids");
            let mut numbers = Vec::with_capacity(ids.len());
            for id in ids {
                numbers.push(match id {
                    Id::Number(number) => u64::try_from(number).map_err(|_| wrong())?,
                    Id::Text(text) => text.parse().map_err(|_| wrong())?,
                });
            }
            // Before any is sent: whoever mistypes one of them means another one.
            if let Some(id) = app.runtime.unknown_dead_letter(&numbers).await? {
                return Err(Refusal::unknown("server.unknown-letter", &id.to_string()));
            }
            Some(numbers)
        }
    };
    let filter = DeadFilter {
        flow: body.flow,
        code: body.cause,
        place: body.step,
        ids,
        redriven: false,
    };
    let done = app.runtime.redrive(filter).await?;
    Ok(Json(Redriven {
        redriven: done.sent,
        died: done.died,
        orphaned: done.orphaned,
    }))
}
