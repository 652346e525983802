//! Orchestrations and their instances: what they are at, their histories, and what people let them do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use busbar_access::Role;
use busbar_catalog::{OrchestrationSpec, Span};
use busbar_event::time::text as time_text;
use busbar_event::{Class, Error};
use busbar_orchestrate::{
    Attempt, Happening, Instance, InstanceFilter, InstanceStatus, PartDoing, PersonOrder, Place,
    ValueMap,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, JsonBody, Path, PathPair, Query, blocking};
use crate::actor::Actor;
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::audit::Action;
use crate::guard::Caller;
use crate::limits::{HISTORY_RECORDS_SHOWN_MAX, INSTANCE_WAIT_SECONDS_MAX};
use crate::rights;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(one))
        .routes(routes!(instances, begin))
        .routes(routes!(instance))
        .routes(routes!(order))
}

/// Orchestrations.
#[derive(Serialize, utoipa::ToSchema)]
struct OrchestrationList {
    /// By name.
    orchestrations: Vec<OrchestrationView>,
}

/// An orchestration in short.
#[derive(Serialize, utoipa::ToSchema)]
struct OrchestrationView {
    /// Its name.
    name: String,
    /// What it is for.
    description: Option<String>,
    /// Whether it starts instances.
    enabled: bool,
    /// Instances by what they are at: those that have not ended, and those that have since the node started.
    instances: BTreeMap<&'static str, u64>,
}

/// An orchestration in full.
#[derive(Serialize, utoipa::ToSchema)]
struct OrchestrationDetail {
    #[serde(flatten)]
    summary: OrchestrationView,
    /// What its file says, as JSON.
    #[schema(value_type = Object)]
    spec: Value,
}

fn view(app: &App, name: &str, spec: &OrchestrationSpec) -> OrchestrationView {
    let counts = app.orchestrations.counts();
    let count = |status| counts.get(&(name.to_owned(), status)).copied().unwrap_or(0);
    OrchestrationView {
        name: name.to_owned(),
        description: spec.description.clone(),
        enabled: spec.enabled,
        instances: InstanceStatus::ALL
            .into_iter()
            .map(|status| (status.as_str(), count(status)))
            .collect(),
    }
}

/// List the orchestrations.
#[utoipa::path(get, path = "/api/v1/orchestrations", tag = "orchestrations",
    responses((status = 200, description = "The orchestrations.", body = OrchestrationList)))]
async fn list(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
) -> Answer<Json<OrchestrationList>> {
    rights::check_all(&caller, "orchestrations")?;
    let specs = app.orchestrations.specs();
    let views = specs.iter().map(|(name, spec)| view(&app, name, spec));
    Ok(Json(OrchestrationList {
        orchestrations: views.collect(),
    }))
}

/// One orchestration.
#[utoipa::path(get, path = "/api/v1/orchestrations/{name}", tag = "orchestrations",
    params(("name" = String, Path, description = "The orchestration's name.")),
    responses((status = 200, description = "The orchestration.", body = OrchestrationDetail)))]
async fn one(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
) -> Answer<Json<OrchestrationDetail>> {
    rights::check_all(&caller, &name)?;
    let specs = app.orchestrations.specs();
    let Some(spec) = specs.get(&name) else {
        return Err(Refusal::unknown("orchestrate.unknown", &name));
    };
    Ok(Json(OrchestrationDetail {
        summary: view(&app, &name, spec),
        spec: serde_json::to_value(spec).unwrap_or_default(),
    }))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct InstanceQuery {
    /// Only those that are at this: `running`, `failing`, `undoing`, `stuck`, `done`, `failed` or `cancelled`.
    status: Option<String>,
    /// Only those whose business key begins with this.
    key: Option<String>,
    /// Go on from here: `next` of the answer before.
    after: Option<String>,
    /// So many at most; 100 without it.
    limit: Option<usize>,
}

/// Instances of an orchestration.
#[derive(Serialize, utoipa::ToSchema)]
struct InstanceList {
    /// The newest first.
    instances: Vec<InstanceView>,
    /// Where to go on, if there may be more.
    next: Option<String>,
}

/// An instance in short.
#[derive(Serialize, utoipa::ToSchema)]
struct InstanceView {
    /// The orchestration.
    orchestration: String,
    /// The business key.
    key: String,
    /// What it is at.
    status: &'static str,
    /// It was paused by hand.
    paused: bool,
    /// The version that it runs.
    version: u64,
    /// How often it has begun.
    run: u32,
    /// When it began.
    started: String,
    /// When something last happened to it.
    changed: String,
    /// Where it is: the parts that are under way.
    at: Vec<String>,
    /// Why it goes back or is stuck.
    #[schema(value_type = Object)]
    failure: Option<Value>,
}

/// An instance in full.
#[derive(Serialize, utoipa::ToSchema)]
struct InstanceDetail {
    #[serde(flatten)]
    summary: InstanceView,
    /// What it began with.
    #[schema(value_type = Object)]
    input: ValueMap,
    /// The input and what parts have given.
    #[schema(value_type = Object)]
    values: ValueMap,
    /// What callers get, once it is done.
    #[schema(value_type = Object)]
    answer: Option<Value>,
    /// What it waits for: calls, times, events, persons and decisions.
    #[schema(value_type = Vec<Object>)]
    waiting: Vec<Value>,
    /// What was not undone, because a person said so.
    skipped: Vec<String>,
    /// What has happened to it, in order: the time, the place, what, payloads before and after, who, and why it failed.
    #[schema(value_type = Vec<Object>)]
    history: Vec<Value>,
}

/// The parts that are under way below a place.
fn under_way(place: &Place, spec: &OrchestrationSpec, all: &mut Vec<(String, Value)>) {
    let definition = busbar_orchestrate::Definition::new(spec.clone());
    collect(place, &definition, all);
}

fn collect(
    place: &Place,
    definition: &busbar_orchestrate::Definition,
    all: &mut Vec<(String, Value)>,
) {
    let Some((part, name)) = place.current(definition) else {
        return;
    };
    let until = |until: &Option<i64>| until.map(time_text);
    let what = match &place.doing {
        None => return,
        Some(PartDoing::Call(attempt)) => call_view(attempt, false),
        Some(PartDoing::Wait(at)) => json!({ "for": "time", "until": time_text(*at) }),
        Some(PartDoing::Event(value, at)) => {
            json!({ "for": "event", "value": value, "until": until(at), "form": form(definition, part) })
        }
        Some(PartDoing::Person(title, at)) => {
            json!({ "for": "person", "title": title, "until": until(at), "form": form(definition, part) })
        }
        Some(PartDoing::Inside(_) | PartDoing::Each(_)) => {
            for inner in place.inner() {
                collect(inner, definition, all);
            }
            return;
        }
    };
    all.push((name, what));
}

fn call_view(attempt: &Attempt, undo: bool) -> Value {
    json!({
        "for": if attempt.stuck { "decision" } else { "call" },
        "compensation": undo,
        "attempt": attempt.number,
        "try": attempt.tries,
        "until": attempt.until.map(time_text),
        "failure": attempt.failure,
    })
}

/// The fields that a person fills in.
fn form(definition: &busbar_orchestrate::Definition, part: usize) -> Value {
    let spec = definition.spec_of(part);
    let fields = spec.and_then(|spec| Some(&spec.person.as_ref()?.form));
    fields.map_or(Value::Null, |fields| json!(fields))
}

fn summary(instance: &Instance, spec: Option<&OrchestrationSpec>) -> (InstanceView, Vec<Value>) {
    let mut all = Vec::new();
    if let Some(undoing) = &instance.undoing {
        let place = undoing.what.place.clone();
        all.push((place, call_view(&undoing.attempt, true)));
    }
    if let Some(spec) = spec {
        under_way(&instance.root, spec, &mut all);
    }
    if let Some(failure) = &instance.outgrown {
        let what = json!({ "for": "decision", "compensation": false, "failure": failure });
        all.push((String::new(), what));
    }
    let stuck = all.iter().find(|(_, what)| what["for"] == "decision");
    let stuck = stuck.map(|(_, what)| what["failure"].clone());
    let failure = instance.failure.as_ref().map(|failure| json!(failure));
    let view = InstanceView {
        orchestration: instance.name.clone(),
        key: instance.key.clone(),
        status: instance.status.as_str(),
        paused: instance.paused,
        version: instance.version,
        run: instance.run,
        started: time_text(instance.started),
        changed: time_text(instance.changed),
        at: all
            .iter()
            .map(|(place, _)| place.clone())
            .filter(|place| !place.is_empty())
            .collect(),
        failure: stuck.or(failure),
    };
    let waiting = all.into_iter().map(|(place, mut what)| {
        what["part"] = place.into();
        what
    });
    (view, waiting.collect())
}

/// The orchestration in the version that an instance runs.
fn version_of(app: &App, instance: &Instance) -> Result<Option<OrchestrationSpec>, Error> {
    let executor = app.orchestrations.executor(&instance.name)?;
    executor.version(&instance.name, instance.version)
}

/// List the instances of an orchestration.
#[utoipa::path(get, path = "/api/v1/orchestrations/{name}/instances", tag = "orchestrations",
    params(("name" = String, Path, description = "The orchestration's name."), InstanceQuery),
    responses((status = 200, description = "The instances.", body = InstanceList)))]
async fn instances(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
    Query(query): Query<InstanceQuery>,
) -> Answer<Json<InstanceList>> {
    rights::check_all(&caller, &name)?;
    let status = query.status.as_deref().map(|wanted| {
        let mut all = InstanceStatus::ALL.into_iter();
        all.find(|status| status.as_str() == wanted)
            .ok_or_else(|| bad_field("status"))
    });
    let after = query.after.as_deref().map(|after| {
        let decoded = URL_SAFE_NO_PAD.decode(after);
        decoded.map_err(|_| bad_field("after"))
    });
    let filter = InstanceFilter {
        status: status.transpose()?,
        key: query.key,
        after: after.transpose()?,
        limit: query.limit.unwrap_or(100),
    };
    blocking(move || {
        let executor = app.orchestrations.executor(&name)?;
        let (found, next) = executor.list(&name, &filter)?;
        // One that was taken out of the project is known by the instances that it has left.
        if found.is_empty() && !app.orchestrations.specs().contains_key(&name) {
            let any = InstanceFilter {
                limit: 1,
                ..InstanceFilter::default()
            };
            if executor.list(&name, &any)?.0.is_empty() {
                return Err(Error::new(Class::Permanent, "orchestrate.unknown")
                    .with("name", busbar_event::quote(&name)));
            }
        }
        let mut specs: BTreeMap<u64, Option<OrchestrationSpec>> = BTreeMap::new();
        let mut instances = Vec::with_capacity(found.len());
        for instance in found {
            if let std::collections::btree_map::Entry::Vacant(entry) = specs.entry(instance.version)
            {
                entry.insert(version_of(&app, &instance)?);
            }
            let spec = specs.get(&instance.version).and_then(Option::as_ref);
            instances.push(summary(&instance, spec).0);
        }
        Ok(InstanceList {
            instances,
            next: next.map(|next| URL_SAFE_NO_PAD.encode(next)),
        })
    })
    .await
    .map(Json)
}

fn bad_field(field: &'static str) -> Error {
    Error::new(Class::Permanent, "server.bad-field").with("field", field)
}

/// What an instance begins with.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct BeginInstance {
    /// The values of the input.
    #[serde(default)]
    #[schema(value_type = Object)]
    input: ValueMap,
    /// How long to wait, such as `30s`, until it has ended or cannot go on before a person has decided; without it the
    /// answer comes at once.
    wait: Option<String>,
}

/// Begin an instance, or find the one that has the key already.
#[utoipa::path(post, path = "/api/v1/orchestrations/{name}/instances", tag = "orchestrations",
    params(("name" = String, Path, description = "The orchestration's name.")),
    request_body = BeginInstance,
    responses(
        (status = 200, description = "The instance has ended.", body = InstanceView),
        (status = 202, description = "It is on the disk and goes on; its key is in the answer.", body = InstanceView),
    ))]
async fn begin(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(name): Path,
    JsonBody(body): JsonBody<BeginInstance>,
) -> Answer<Response> {
    actor.caller.require(Role::Operator)?;
    rights::check_all(&actor.caller, &name)?;
    let wait = body.wait.as_deref().map(Span::parse).transpose();
    let wait = wait.map_err(|_| bad_field("wait"))?;
    let executor = app.orchestrations.executor(&name)?.clone();
    let started = executor.begin(&name, body.input).await?;
    let mut settled = None;
    if let Some(wait) = wait {
        let most = Duration::from_secs(INSTANCE_WAIT_SECONDS_MAX);
        let wait = wait.as_duration().min(most);
        let end = executor.settled(&name, &started.key);
        settled = match tokio::time::timeout(wait, end).await {
            Ok(settled) => Some(settled?),
            Err(_) => {
                let (executor, name, key) = (executor, name.clone(), started.key.clone());
                blocking(move || executor.instance(&name, &key)).await?
            }
        };
    }
    let status = match &settled {
        Some(instance) if instance.status.has_ended() => StatusCode::OK,
        _ => StatusCode::ACCEPTED,
    };
    let mut answer = json!({
        "orchestration": name,
        "key": started.key,
        "existed": started.existed,
        "status": started.status.as_str(),
    });
    if let Some(instance) = settled {
        answer["answer"] = instance.answer.clone().unwrap_or_default();
        let view = blocking(move || {
            let spec = version_of(&app, &instance)?;
            Ok(summary(&instance, spec.as_ref()).0)
        });
        let view = view.await?;
        answer["status"] = view.status.into();
        answer["at"] = json!(view.at);
        answer["failure"] = view.failure.unwrap_or_default();
    }
    Ok((status, Json(answer)).into_response())
}

/// One instance with its history.
#[utoipa::path(get, path = "/api/v1/orchestrations/{name}/instances/{key}", tag = "orchestrations",
    params(
        ("name" = String, Path, description = "The orchestration's name."),
        ("key" = String, Path, description = "The business key."),
    ),
    responses((status = 200, description = "The instance.", body = InstanceDetail)))]
async fn instance(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    PathPair(name, key): PathPair,
) -> Answer<Json<InstanceDetail>> {
    rights::check_all(&caller, &name)?;
    blocking(move || detail(&app, &name, &key)).await.map(Json)
}

fn detail(app: &App, name: &str, key: &str) -> Result<InstanceDetail, Error> {
    let executor = app.orchestrations.executor(name)?;
    let Some(instance) = executor.instance(name, key)? else {
        return Err(Error::new(Class::Permanent, "orchestrate.no-instance")
            .with("name", busbar_event::quote(name))
            .with("key", busbar_event::quote(key)));
    };
    let spec = version_of(app, &instance)?;
    let (view, waiting) = summary(&instance, spec.as_ref());
    let history = executor.history(name, key, 0, HISTORY_RECORDS_SHOWN_MAX)?;
    let history = history.into_iter().map(|record| {
        let mut shown = json!(record);
        shown["time"] = time_text(record.time).into();
        shown
    });
    Ok(InstanceDetail {
        summary: view,
        input: instance.input,
        values: instance.values,
        answer: instance.answer,
        waiting,
        skipped: instance.skipped,
        history: history.collect(),
    })
}

/// What a person wants of an instance.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct InstanceOrder {
    /// `cancel`: undo what was done. `retry`: try again what cannot go on, or begin again what has failed or was cancelled.
    /// `skip`: do not undo what cannot be undone. `pause`, `resume`. `answer`: fill in the form of a part that waits for a
    /// person, or say what the event would have said that a part waits for.
    order: String,
    /// With `answer`: the part.
    part: Option<String>,
    /// With `answer`: the values of the form.
    #[serde(default)]
    #[schema(value_type = Object)]
    values: ValueMap,
}

/// Let an instance do something.
#[utoipa::path(post, path = "/api/v1/orchestrations/{name}/instances/{key}", tag = "orchestrations",
    params(
        ("name" = String, Path, description = "The orchestration's name."),
        ("key" = String, Path, description = "The business key."),
    ),
    request_body = InstanceOrder,
    responses((status = 200, description = "What the instance is at now.", body = InstanceDetail)))]
async fn order(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathPair(name, key): PathPair,
    JsonBody(body): JsonBody<InstanceOrder>,
) -> Answer<Json<InstanceDetail>> {
    actor.caller.require(Role::Operator)?;
    rights::check_all(&actor.caller, &name)?;
    let executor = app.orchestrations.executor(&name)?.clone();
    let by = actor.caller.name().to_owned();
    let order = match body.order.as_str() {
        "cancel" => Some(PersonOrder::Cancel),
        "retry" => Some(PersonOrder::Retry),
        "skip" => Some(PersonOrder::Skip),
        "pause" => Some(PersonOrder::Pause),
        "resume" => Some(PersonOrder::Resume),
        "answer" => None,
        _ => return Err(bad_field("order").into()),
    };
    match order {
        Some(order) => executor.order(&name, &key, order, &by).await?,
        None => {
            let place = body.part.clone().ok_or_else(|| bad_field("part"))?;
            let values = body.values;
            let form = Happening::Form { place, values, by };
            executor.happens(&name, &key, form).await?;
        }
    }
    let detail_of = [
        ("order", body.order),
        ("part", body.part.unwrap_or_default()),
    ];
    let target = format!("{name}/{key}");
    actor
        .record(&app, Action::InstanceOrder, target, &detail_of)
        .await;
    blocking(move || detail(&app, &name, &key)).await.map(Json)
}
