//! Flows: what runs, how it gets on, its versions.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use busbar_access::{Principal, Role};
use busbar_catalog::{StepSpec, text_diff};
use busbar_event::{Class, Error};
use busbar_flow::ReplayFrom;
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::project::{ChangeView, VersionView, Versions};
use super::{Json, JsonBody, OptionalBody, Path, Query, blocking};
use crate::actor::Actor;
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::audit::Action;
use crate::deploy::Deployed;
use crate::events::position::Start;
use crate::guard::Caller;
use crate::limits::VERSIONS_SHOWN_MAX;
use crate::picture::{FlowDetail, FlowSummary, flow_detail, flow_state};
use crate::rights;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(one))
        .routes(routes!(plan))
        .routes(routes!(versions))
        .routes(routes!(diff))
        .routes(routes!(rollback))
        .routes(routes!(replay))
        .routes(routes!(pause))
        .routes(routes!(resume))
}

/// Flows.
#[derive(Serialize, utoipa::ToSchema)]
struct Flows {
    /// By name.
    flows: Vec<FlowSummary>,
}

/// List the flows.
#[utoipa::path(get, path = "/api/v1/flows", tag = "flows",
    responses((status = 200, description = "The flows.", body = Flows)))]
async fn list(State(app): State<Arc<App>>, Caller(caller): Caller) -> Json<Flows> {
    let mut flows = views(&app).0;
    flows.retain(|flow| flow.may_be_read_by(&caller));
    Json(Flows { flows })
}

/// All flows, in short and in full.
pub(crate) fn views(app: &App) -> (Vec<FlowSummary>, Vec<FlowDetail>) {
    let now = app.bus.clock().now_micros();
    let statuses = app.runtime.status().into_iter();
    let details: Vec<FlowDetail> = statuses.map(|status| flow_detail(status, now)).collect();
    (
        details.iter().map(|flow| flow.summary.clone()).collect(),
        details,
    )
}

/// One flow.
#[utoipa::path(get, path = "/api/v1/flows/{name}", tag = "flows",
    params(("name" = String, Path, description = "The flow's name.")),
    responses((status = 200, description = "The flow.", body = FlowDetail)))]
async fn one(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
) -> Answer<Json<FlowDetail>> {
    rights::check_flow(&app.runtime, &caller, &name)?;
    let Some(status) = app.runtime.status_of(&name) else {
        return Err(Refusal::unknown("server.unknown-flow", &name));
    };
    let mut detail = flow_detail(status, app.bus.clock().now_micros());
    let project = app.runtime.project().await;
    if let Some(parsed) = project.flows.get(&name) {
        let steps = parsed.spec.all_steps().into_iter().enumerate();
        let mappings = steps.filter_map(|(number, at)| match at.spec {
            StepSpec::Map(map) => Some((format!("step:{number}"), to_raw_value(map).ok()?)),
            _ => None,
        });
        detail.mappings = mappings.collect();
    }
    detail.source = file_of(&project.bundle.files, &name).map(|(_, text)| text.to_owned());
    Ok(Json(detail))
}

/// How a flow runs: stages, regroupings, state, and what each output promises.
#[utoipa::path(get, path = "/api/v1/flows/{name}/plan", tag = "flows",
    params(("name" = String, Path, description = "The flow's name.")),
    responses((status = 200, description = "How it runs.", body = serde_json::Value)))]
async fn plan(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
) -> Answer<Json<busbar_flow::explain::Explanation>> {
    rights::check_flow(&app.runtime, &caller, &name)?;
    Ok(Json(app.runtime.explain(&name).await?))
}

/// The versions of a flow.
#[utoipa::path(get, path = "/api/v1/flows/{name}/versions", tag = "flows",
    params(("name" = String, Path, description = "The flow's name.")),
    responses((status = 200, description = "Newest first.", body = Versions)))]
async fn versions(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
) -> Answer<Json<Versions>> {
    rights::check_flow(&app.runtime, &caller, &name)?;
    let paths = paths_of(&name);
    let versions = blocking(move || {
        let mut all = Vec::new();
        for path in paths {
            let texts = app.deployer.history().of_file(&path)?;
            for (at, (info, text)) in texts.iter().enumerate() {
                let before = texts.get(at + 1).and_then(|(_, text)| text.as_ref());
                let kind = match (before, text) {
                    (_, None) => "removed",
                    (None, Some(_)) => "added",
                    (Some(_), Some(_)) => "changed",
                };
                let change = ChangeView {
                    path: path.clone(),
                    kind,
                    meaning: None,
                };
                all.push(VersionView::new(info.clone(), vec![change]));
            }
        }
        all.sort_by_key(|version| std::cmp::Reverse(version.version));
        all.truncate(VERSIONS_SHOWN_MAX);
        Ok(all)
    })
    .await?;
    if versions.is_empty() {
        return Err(Refusal::unknown("server.unknown-flow", &name));
    }
    Ok(Json(Versions { versions }))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Between {
    /// The older version.
    pub(super) from: u64,
    /// The newer version.
    pub(super) to: u64,
}

/// What is different between two versions of a file.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Difference {
    /// The text in the older version; empty when there was none.
    before: String,
    /// The text in the newer version; empty when there is none.
    after: String,
    /// The difference in unified form.
    diff: String,
}

/// Compare two versions of a flow.
#[utoipa::path(get, path = "/api/v1/flows/{name}/diff", tag = "flows",
    params(("name" = String, Path, description = "The flow's name."), Between),
    responses((status = 200, description = "The difference.", body = Difference)))]
async fn diff(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
    Query(between): Query<Between>,
) -> Answer<Json<Difference>> {
    rights::check_flow(&app.runtime, &caller, &name)?;
    blocking(move || {
        let history = app.deployer.history();
        let text = |version: u64| -> Result<Option<(String, String)>, Error> {
            let files = history.version(version)?.files;
            Ok(file_of(&files, &name).map(|(path, text)| (path.to_owned(), text.to_owned())))
        };
        let (before, after) = (text(between.from)?, text(between.to)?);
        let path = after
            .as_ref()
            .or(before.as_ref())
            .map_or_else(|| format!("flows/{name}.yaml"), |(path, _)| path.clone());
        let text = |file: Option<(String, String)>| file.map(|(_, text)| text).unwrap_or_default();
        let (before, after) = (text(before), text(after));
        Ok(Difference::new(&path, before, after))
    })
    .await
    .map(Json)
}

impl Difference {
    pub(super) fn new(path: &str, before: String, after: String) -> Difference {
        Difference {
            diff: text_diff(path, &before, &after),
            before,
            after,
        }
    }
}

/// The version of a flow to go back to.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct FlowRollback {
    /// Its number.
    version: u64,
    /// Compute the flow again from the oldest event that is kept where that version cannot go on with the state that there
    /// is. Without it the version does not start, `applied.failed` says why, and the one that runs goes on.
    #[serde(default)]
    replay: bool,
}

/// Let a flow be as it was in an earlier version.
///
/// Makes a new version of the project in which this one file is the old one. When the node runs a project's folder, the
/// folder's file differs from what runs until it is changed: `differs` names it.
#[utoipa::path(post, path = "/api/v1/flows/{name}/rollback", tag = "flows",
    params(("name" = String, Path, description = "The flow's name.")), request_body = FlowRollback,
    responses((status = 200, description = "The flow runs as it did, unless `applied.failed` names it.", body = super::project::Outcome)))]
async fn rollback(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(name): Path,
    JsonBody(body): JsonBody<FlowRollback>,
) -> Answer<Json<super::project::Outcome>> {
    actor.caller.require(Role::Admin)?;
    let deployed = app
        .deployer
        .rollback(&name, body.version, actor.caller.name(), body.replay)
        .await;
    if deployed.is_ok() {
        let detail = [("version", body.version.to_string())];
        actor
            .record(&app, Action::FlowRollback, name, &detail)
            .await;
    }
    outcome(&app, deployed).await
}

/// The answer to what was deployed.
pub(super) async fn outcome(
    app: &App,
    deployed: Result<Deployed, crate::deploy::NotDeployed>,
) -> Answer<Json<super::project::Outcome>> {
    match deployed {
        Ok(deployed) => Ok(Json(super::project::Outcome::new(app, deployed).await)),
        Err(refused) => Err(refused.into()),
    }
}

/// From where to read again.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Replay {
    /// `earliest`, `latest`, an RFC 3339 time, or a span back such as `-1h`.
    from: String,
}

/// What was done to a flow.
#[derive(Serialize, utoipa::ToSchema)]
struct Done {
    /// The flow.
    flow: String,
    /// What it does now.
    state: &'static str,
}

/// Let a flow read its input again from an earlier place.
#[utoipa::path(post, path = "/api/v1/flows/{name}/replay", tag = "flows",
    params(("name" = String, Path, description = "The flow's name.")), request_body = Replay,
    responses((status = 200, description = "The flow reads from there.", body = Done)))]
async fn replay(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(name): Path,
    JsonBody(body): JsonBody<Replay>,
) -> Answer<Json<Done>> {
    check_operate(&app, &actor.caller, &name)?;
    let from = match Start::parse(&body.from, app.bus.clock().now_micros())? {
        Start::Earliest => ReplayFrom::Earliest,
        Start::Now => ReplayFrom::Latest,
        Start::Time(micros) => ReplayFrom::Time(micros),
        _ => {
            let from = busbar_event::quote(&body.from);
            return Err(Error::new(Class::Permanent, "server.bad-replay")
                .with("from", from)
                .into());
        }
    };
    app.runtime.replay(&name, from).await?;
    let detail = [("from", body.from)];
    actor.record(&app, Action::FlowReplay, &name, &detail).await;
    Ok(done(&app, name))
}

/// Stop a flow where it stands; what it has begun is finished.
#[utoipa::path(post, path = "/api/v1/flows/{name}/pause", tag = "flows",
    params(("name" = String, Path, description = "The flow's name.")),
    responses((status = 200, description = "The flow stands.", body = Done)))]
async fn pause(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(name): Path,
    OptionalBody(Nothing {}): OptionalBody<Nothing>,
) -> Answer<Json<Done>> {
    check_operate(&app, &actor.caller, &name)?;
    app.runtime.pause(&name).await?;
    actor.record(&app, Action::FlowPause, &name, &[]).await;
    Ok(done(&app, name))
}

/// Let a paused or stopped flow go on where it was.
#[utoipa::path(post, path = "/api/v1/flows/{name}/resume", tag = "flows",
    params(("name" = String, Path, description = "The flow's name.")),
    responses((status = 200, description = "The flow goes on.", body = Done)))]
async fn resume(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(name): Path,
    OptionalBody(Nothing {}): OptionalBody<Nothing>,
) -> Answer<Json<Done>> {
    check_operate(&app, &actor.caller, &name)?;
    app.runtime.resume(&name).await?;
    actor.record(&app, Action::FlowResume, &name, &[]).await;
    Ok(done(&app, name))
}

/// Checks that the caller may pause, resume and replay the flow: an operator who may read what it reads.
pub(super) fn check_operate(app: &App, caller: &Principal, name: &str) -> Answer<()> {
    caller.require(Role::Operator)?;
    rights::check_flow(&app.runtime, caller, name)
}

/// A body that says nothing.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn done(app: &App, name: String) -> Json<Done> {
    let status = app.runtime.status_of(&name);
    Json(Done {
        state: status.map_or("stopped", |status| flow_state(status.state)),
        flow: name,
    })
}

/// The file of a flow among a project's files.
fn file_of<'a>(files: &'a BTreeMap<String, String>, name: &str) -> Option<(&'a str, &'a str)> {
    paths_of(name)
        .iter()
        .find_map(|path| files.get_key_value(path))
        .map(|(path, text)| (path.as_str(), text.as_str()))
}

/// The paths a flow's file may have. They are looked up among the files of the project in memory.
fn paths_of(name: &str) -> [String; 2] {
    [format!("flows/{name}.yaml"), format!("flows/{name}.yml")]
}
