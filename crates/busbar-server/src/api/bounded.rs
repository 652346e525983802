//! Runs of flows over a range of time, into a table.

use std::sync::Arc;

use axum::extract::State;
use busbar_access::Role;
use busbar_event::{Class, Error, Language, time};
use busbar_flow::{BoundedRange, BoundedState, BoundedStatus};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, JsonBody, Path};
use crate::actor::Actor;
use crate::answer::Answer;
use crate::app::App;
use crate::audit::Action;
use crate::events::position::Start;
use crate::guard::Caller;
use crate::rights;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(start, list))
        .routes(routes!(one, cancel))
}

/// A run to start.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct RunStart {
    /// The least time of an event: `earliest`, an RFC 3339 time, or a span back such as `-1h`.
    #[serde(default = "earliest")]
    from: String,
    /// Times of events are before it: `latest`, an RFC 3339 time, or a span back such as `-1h`.
    #[serde(default = "latest")]
    to: String,
    /// The table that gets the results.
    into: String,
    /// Makes the table with the columns of the results if it does not exist: `hot` or `relational`. For administrators:
    /// it adds a file to the project.
    create: Option<Engine>,
}

fn earliest() -> String {
    "earliest".to_owned()
}

fn latest() -> String {
    "latest".to_owned()
}

/// Where a new table is kept.
#[derive(Clone, Copy, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Engine {
    Hot,
    Relational,
}

impl Engine {
    /// The file of such a table, whose columns its first flow brings.
    fn file(self) -> &'static str {
        match self {
            Engine::Hot => "hot: {}\n",
            Engine::Relational => "relational: {}\n",
        }
    }
}

/// A run of a flow over a range of time.
#[derive(Serialize, utoipa::ToSchema)]
struct RunView {
    /// Its number.
    id: u64,
    /// The flow.
    flow: String,
    /// The table that gets the results.
    into: String,
    /// The least time of an event; none when there is no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// Times of events are before it; none when there is no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// Who began it.
    by: String,
    /// `running`, `done`, `failed` or `cancelled`.
    state: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::problem::Problem>)]
    error: Option<Error>,
    /// Number of offsets that it has to read.
    offsets: u64,
    /// Number of offsets that it has read.
    read: u64,
    /// Events of the range.
    events: u64,
    /// Rows that were written.
    rows: u64,
    /// Events that came too late. They are counted and kept nowhere.
    late: u64,
    /// Events and rows that could not be processed. They are counted and kept nowhere.
    dead: u64,
    /// Why the first of them could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    /// The same in Chinese.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause_zh: Option<String>,
    /// Events that retention or damage took before they could be read.
    missed: u64,
    /// When it began.
    started: String,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
}

impl RunView {
    fn new(status: BoundedStatus) -> RunView {
        let cause = |language| {
            let cause = status.cause.as_ref();
            cause.map(|cause| cause.message(language))
        };
        RunView {
            cause: cause(Language::En),
            cause_zh: cause(Language::Zh),
            id: status.id,
            flow: status.flow,
            into: status.into,
            from: status.range.from.map(time::text),
            to: status.range.to.map(time::text),
            by: status.by,
            state: match status.state {
                BoundedState::Running => "running",
                BoundedState::Done => "done",
                BoundedState::Failed => "failed",
                BoundedState::Cancelled => "cancelled",
            },
            error: status.error,
            offsets: status.offsets,
            read: status.read,
            events: status.events,
            rows: status.rows,
            late: status.late,
            dead: status.dead,
            missed: status.missed,
            started: time::text(status.started_micros),
            ended: status.ended_micros.map(time::text),
        }
    }
}

/// The runs of a flow.
#[derive(Serialize, utoipa::ToSchema)]
struct RunList {
    /// Newest first: those under way, and the last that have ended.
    runs: Vec<RunView>,
}

/// Run a flow over a range of time, into a table.
///
/// Reads what the flow's streams keep of that time and writes the results to a table. The flow that runs, its state, its
/// outputs and its counters stay as they are. Returns when the run has begun.
#[utoipa::path(post, path = "/api/v1/flows/{name}/runs", tag = "flows",
    params(("name" = String, Path, description = "The flow's name.")), request_body = RunStart,
    responses((status = 200, description = "The run has begun.", body = RunView)))]
async fn start(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(name): Path,
    JsonBody(body): JsonBody<RunStart>,
) -> Answer<Json<RunView>> {
    actor.caller.require(Role::Operator)?;
    rights::check_flow(&app.runtime, &actor.caller, &name)?;
    let now = app.bus.clock().now_micros();
    let bound = |text: &str, open: &Start| match Start::parse(text, now)? {
        Start::Time(micros) => Ok(Some(micros)),
        start if start == *open => Ok(None),
        _ => Err(Error::new(Class::Permanent, "server.bad-run-time")
            .with("time", busbar_event::quote(text))),
    };
    let range = BoundedRange {
        from: bound(&body.from, &Start::Earliest)?,
        to: bound(&body.to, &Start::Now)?,
    };
    if let Some(engine) = body
        .create
        .filter(|_| app.tables.table(&body.into).is_none())
    {
        actor.caller.require(Role::Admin)?;
        if app.runtime.status_of(&name).is_none() {
            return Err(Error::new(Class::Permanent, "flow.unknown")
                .with("flow", busbar_event::quote(&name))
                .into());
        }
        let author = actor.caller.name();
        let added = app.deployer.add_table(&body.into, engine.file(), author);
        let deployed = added.await?;
        let version = deployed.version.unwrap_or_default().to_string();
        let detail = [("note", format!("table {}", body.into))];
        actor
            .record(&app, Action::ProjectApply, version, &detail)
            .await;
    } else {
        rights::check_table(&actor.caller, &body.into)?;
    }
    let run = app
        .runtime
        .run_bounded(&name, range, &body.into, actor.caller.name());
    let run = run.await?;
    let detail = [
        ("from", body.from),
        ("to", body.to),
        ("into", body.into),
        ("run", run.id.to_string()),
    ];
    actor.record(&app, Action::FlowRun, &name, &detail).await;
    Ok(Json(RunView::new(run)))
}

/// List the runs of a flow over ranges of time.
#[utoipa::path(get, path = "/api/v1/flows/{name}/runs", tag = "flows",
    params(("name" = String, Path, description = "The flow's name.")),
    responses((status = 200, description = "The runs.", body = RunList)))]
async fn list(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
) -> Answer<Json<RunList>> {
    rights::check_flow(&app.runtime, &caller, &name)?;
    let mut runs = app.runtime.bounded_runs();
    runs.retain(|run| run.flow == name);
    let runs = runs.into_iter().map(RunView::new).collect();
    Ok(Json(RunList { runs }))
}

/// How far a run has come.
#[utoipa::path(get, path = "/api/v1/runs/{id}", tag = "flows",
    params(("id" = u64, Path, description = "The run's number.")),
    responses((status = 200, description = "The run.", body = RunView)))]
async fn one(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(id): Path,
) -> Answer<Json<RunView>> {
    let run = app.runtime.bounded_run(number(&id)?)?;
    rights::check_flow(&app.runtime, &caller, &run.flow)?;
    Ok(Json(RunView::new(run)))
}

/// Cancel a run. The rows that it has written stay in the table.
#[utoipa::path(delete, path = "/api/v1/runs/{id}", tag = "flows",
    params(("id" = u64, Path, description = "The run's number.")),
    responses((status = 200, description = "The run ends.", body = RunView)))]
async fn cancel(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(id): Path,
) -> Answer<Json<RunView>> {
    actor.caller.require(Role::Operator)?;
    let run = app.runtime.bounded_run(number(&id)?)?;
    rights::check_flow(&app.runtime, &actor.caller, &run.flow)?;
    let run = app.runtime.cancel_bounded(run.id)?;
    let detail = [("run", id)];
    actor
        .record(&app, Action::FlowRunCancel, &run.flow, &detail)
        .await;
    Ok(Json(RunView::new(run)))
}

/// The number of a run as it stands in a path.
fn number(text: &str) -> Result<u64, Error> {
    text.parse().map_err(|_| {
        Error::new(Class::Permanent, "flow.bounded-unknown").with("run", busbar_event::quote(text))
    })
}
