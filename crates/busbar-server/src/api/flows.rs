//! Flows: what runs, how it gets on, its versions.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use busbar_access::{Principal, Role};
use busbar_catalog::text_diff;
use busbar_connector::Guarantee;
use busbar_event::{Class, Error, Micros};
use busbar_flow::{Counters, Edge, FlowState, FlowStatus, NodeStatus, ReplayFrom};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::project::{ChangeView, VersionView, Versions};
use super::{Json, JsonBody, OptionalBody, Path, Query, blocking};
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::audit::{Action, Actor};
use crate::deploy::Deployed;
use crate::events::position::Start;
use crate::guard::Caller;
use crate::limits::VERSIONS_SHOWN_MAX;
use crate::rights;
use busbar_event::time;

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

/// A flow in short. Counts are since the node started.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct FlowSummary {
    /// Its name.
    name: String,
    /// `running`, `retrying`, `waiting` (for a first event to know columns by), `paused`, `disabled` or `stopped`.
    state: &'static str,
    /// The streams it reads.
    from: String,
    /// The tables that its joins look rows up in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tables: Vec<String>,
    /// The version of the project it came with.
    version: u64,
    #[serde(flatten)]
    counts: Counts,
    /// Events that came in the last second.
    rate: f64,
    /// Committed events it has not read yet.
    lag: u64,
    /// The least watermark of its cursors: the greatest event time that all of them have seen, less the lateness of
    /// the stream. None before the first event.
    #[serde(skip_serializing_if = "Option::is_none")]
    watermark: Option<String>,
    /// Seconds from the watermark to the node's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    watermark_age_s: Option<f64>,
    /// Why it does not get on, or the alarm of counts that do not add up.
    #[schema(value_type = Option<super::Problem>)]
    error: Option<Error>,
    /// What people should know although it runs: its state could not be read, and it went on from a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::Problem>)]
    notice: Option<Error>,
}

impl FlowSummary {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the caller may read every stream and table that the flow reads.
    pub(crate) fn may_be_read_by(&self, caller: &Principal) -> bool {
        rights::may_read_flow(caller, self.from.split(", "), &self.tables)
    }

    /// Whole events a second.
    pub(crate) fn rate(&self) -> u64 {
        self.rate.round() as u64
    }
}

/// What became of events.
#[derive(Clone, Copy, Serialize, utoipa::ToSchema)]
struct Counts {
    /// Events that came.
    #[serde(rename = "in")]
    input: u64,
    /// Events that went on.
    out: u64,
    /// Events that a condition left out.
    filtered: u64,
    /// Events that became dead letters.
    dead: u64,
    /// Events under way.
    held: u64,
    /// Rows that were made beyond those that came: results of queries and windows.
    added: u64,
    /// Events that went into the state of a step, or into a stream between two stages of the flow.
    taken: u64,
    /// Events that came after the window, or whatever else they belong to, had been closed: they are in the stream
    /// `<flow>.late`.
    late: u64,
    /// Rows of a table that a later row with the same key replaced within the same batch; for the flow,
    /// those that nothing else of the flow kept.
    overwritten: u64,
}

/// A flow.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct FlowDetail {
    #[serde(flatten)]
    summary: FlowSummary,
    /// Its inputs, steps and outputs.
    graph: Graph,
    /// The equation `in + added = out + filtered + taken + late + dead + held + overwritten`.
    conservation: ConservationView,
    /// Events that retention or damage took before it could read them.
    missed: u64,
    /// When this version began to run.
    started: String,
    /// Its cursors.
    tasks: Vec<TaskView>,
    /// The text of its file; only where one flow is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl FlowDetail {
    /// Whether the caller may read every stream that the flow reads.
    pub(crate) fn may_be_read_by(&self, caller: &Principal) -> bool {
        self.summary.may_be_read_by(caller)
    }
}

/// A flow's graph.
#[derive(Clone, Serialize, utoipa::ToSchema)]
struct Graph {
    /// Inputs, steps, outputs.
    nodes: Vec<NodeView>,
    /// What leads where.
    edges: Vec<EdgeView>,
}

/// A node of a flow's graph.
#[derive(Clone, Serialize, utoipa::ToSchema)]
struct NodeView {
    /// Unique in the flow.
    id: String,
    /// `stream`, `where`, `select`, `sql`, `topic`, `table` or `connection`.
    kind: &'static str,
    /// `from`, `step` or `to`.
    role: &'static str,
    /// The stream, the SQL, the topic's template, the table or the connection.
    label: String,
    #[serde(flatten)]
    counts: Counts,
    /// Events that came in the last second.
    rate: f64,
    /// Events that went on in the last second.
    rate_out: f64,
    /// Committed events not read yet.
    lag: u64,
    /// For inputs and outputs: the least watermark of the cursors behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    watermark: Option<String>,
    /// Why it does not get on.
    #[schema(value_type = Option<super::Problem>)]
    error: Option<Error>,
    /// Tries since it last worked.
    tries: u32,
    /// For outputs: `at-least-once` or `exactly-once` across a crash.
    guarantee: Option<&'static str>,
}

/// From one node to the next.
#[derive(Clone, Serialize, utoipa::ToSchema)]
struct EdgeView {
    /// The node it leaves.
    from: String,
    /// The node it enters.
    to: String,
    /// Behind a `route`: the cases whose events go this way.
    #[serde(skip_serializing_if = "Option::is_none")]
    case: Option<String>,
    /// Events that passed in the last second.
    rate: f64,
    /// The watermark of what has passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    watermark: Option<String>,
}

/// The terms of the equation for the flow as a whole.
#[derive(Clone, Serialize, utoipa::ToSchema)]
struct ConservationView {
    #[serde(flatten)]
    counts: Counts,
    /// What it is off by; anything but 0 is an alarm.
    difference: i64,
    /// True when every event is accounted for.
    balanced: bool,
}

/// A cursor of a flow.
#[derive(Clone, Serialize, utoipa::ToSchema)]
struct TaskView {
    /// The stream it reads.
    stream: String,
    /// The partition.
    partition: u16,
    /// `main`, or the connection whose own cursor this is.
    lane: String,
    /// Every event before this offset is done with.
    position: u64,
    /// Committed events behind it.
    lag: u64,
    /// The greatest time of the events before the position, less the lateness of the stream: an event that is
    /// older comes late.
    #[serde(skip_serializing_if = "Option::is_none")]
    watermark: Option<String>,
    /// The stage of the flow that it runs: 0 reads the streams of the file, each next one the rows of the one before.
    stage: usize,
    /// Behind a stage: the stream and partition whose watermark is the least, so that this cursor waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_back_by: Option<String>,
    /// Its operators that keep state.
    operators: Vec<OperatorView>,
}

/// An operator that keeps state.
#[derive(Clone, Serialize, utoipa::ToSchema)]
struct OperatorView {
    /// The name under which its state is kept.
    name: String,
    /// Bytes of state in memory.
    memory_bytes: usize,
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
    let details: Vec<FlowDetail> = statuses.map(|status| view(status, now)).collect();
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
    rights::check_flow(&app, &caller, &name)?;
    let Some(status) = app.runtime.status_of(&name) else {
        return Err(Refusal::unknown("server.unknown-flow", &name));
    };
    let mut detail = view(status, app.bus.clock().now_micros());
    let project = app.runtime.project().await;
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
    rights::check_flow(&app, &caller, &name)?;
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
    rights::check_flow(&app, &caller, &name)?;
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
struct Between {
    /// The older version.
    from: u64,
    /// The newer version.
    to: u64,
}

/// What is different between two versions of a flow's file.
#[derive(Serialize, utoipa::ToSchema)]
struct Difference {
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
    rights::check_flow(&app, &caller, &name)?;
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
        Ok(Difference {
            diff: text_diff(&path, &before, &after),
            before,
            after,
        })
    })
    .await
    .map(Json)
}

/// The version to go back to.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    /// Its number.
    pub version: u64,
}

/// Let a flow be as it was in an earlier version.
///
/// Makes a new version of the project in which this one file is the old one. When the node runs a project's folder, the
/// folder's file differs from what runs until it is changed: `differs` names it.
#[utoipa::path(post, path = "/api/v1/flows/{name}/rollback", tag = "flows",
    params(("name" = String, Path, description = "The flow's name.")), request_body = Rollback,
    responses((status = 200, description = "The flow runs as it did.", body = super::project::Outcome)))]
async fn rollback(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(name): Path,
    JsonBody(body): JsonBody<Rollback>,
) -> Answer<Json<super::project::Outcome>> {
    actor.caller.require(Role::Admin)?;
    let deployed = app
        .deployer
        .rollback(&app, &name, body.version, actor.caller.name())
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
fn check_operate(app: &App, caller: &Principal, name: &str) -> Answer<()> {
    caller.require(Role::Operator)?;
    rights::check_flow(app, caller, name)
}

/// A body that says nothing.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn done(app: &App, name: String) -> Json<Done> {
    let status = app.runtime.status_of(&name);
    Json(Done {
        state: status.map_or("stopped", |status| state(status.state)),
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

fn view(status: FlowStatus, now: Micros) -> FlowDetail {
    let rates: BTreeMap<&str, f64> = status
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node.rate_out))
        .collect();
    // An output with a cursor of its own says how far that is; else it is as far as what it comes from.
    let watermark = |id: &str| {
        let node = status.nodes.iter().find(|node| node.id == id);
        node.and_then(|node| node.watermark_micros)
    };
    let passed = |edge: &Edge| watermark(&edge.to).or_else(|| watermark(&edge.from));
    let edges = status
        .edges
        .iter()
        .map(|edge| EdgeView {
            from: edge.from.clone(),
            to: edge.to.clone(),
            case: edge.case.clone(),
            rate: rates.get(edge.from.as_str()).copied().unwrap_or(0.0),
            watermark: passed(edge).map(time::text),
        })
        .collect();
    let inputs: Vec<&NodeStatus> = status
        .nodes
        .iter()
        .filter(|node| node.role == "from")
        .collect();
    let summary = FlowSummary {
        state: state(status.state),
        from: inputs
            .iter()
            .map(|node| node.label.as_str())
            .collect::<Vec<_>>()
            .join(", "),
        tables: status.tables.clone(),
        version: status.version,
        counts: counts(&status.conservation.counters),
        rate: inputs
            .iter()
            .map(|node| node.rate_in.max(node.rate_out))
            .sum(),
        lag: status.lag,
        watermark: status.watermark_micros.map(time::text),
        watermark_age_s: status
            .watermark_micros
            .map(|at| now.saturating_sub(at) as f64 / 1e6),
        error: status.error.clone(),
        notice: status.notice.clone(),
        name: status.name.clone(),
    };
    FlowDetail {
        summary,
        conservation: ConservationView {
            counts: counts(&status.conservation.counters),
            difference: status.conservation.difference,
            balanced: status.conservation.difference == 0,
        },
        missed: status.missed,
        started: time::text(status.started_micros),
        tasks: status
            .tasks
            .iter()
            .map(|task| TaskView {
                stream: task.stream.clone(),
                partition: task.partition,
                lane: task.lane.clone(),
                position: task.position,
                lag: task.lag,
                watermark: task.watermark_micros.map(time::text),
                stage: task.stage,
                held_back_by: task.held_back_by.clone(),
                operators: task
                    .operators
                    .iter()
                    .map(|operator| OperatorView {
                        name: operator.name.clone(),
                        memory_bytes: operator.memory_bytes,
                    })
                    .collect(),
            })
            .collect(),
        source: None,
        graph: Graph {
            nodes: status.nodes.into_iter().map(node).collect(),
            edges,
        },
    }
}

fn node(node: NodeStatus) -> NodeView {
    NodeView {
        id: node.id,
        kind: node.kind,
        role: node.role,
        label: node.label,
        counts: counts(&node.counters),
        rate: node.rate_in,
        rate_out: node.rate_out,
        lag: node.lag,
        watermark: node.watermark_micros.map(time::text),
        error: node.error,
        tries: node.tries,
        guarantee: node.guarantee.map(guarantee),
    }
}

fn counts(counters: &Counters) -> Counts {
    Counts {
        input: counters.input,
        out: counters.out,
        filtered: counters.filtered,
        dead: counters.dead,
        held: counters.held,
        added: counters.added,
        taken: counters.taken,
        late: counters.late,
        overwritten: counters.overwritten,
    }
}

fn state(state: FlowState) -> &'static str {
    match state {
        FlowState::Running => "running",
        FlowState::Retrying => "retrying",
        FlowState::Waiting => "waiting",
        FlowState::Paused => "paused",
        FlowState::Disabled => "disabled",
        FlowState::Stopped => "stopped",
    }
}

/// A guarantee as it is written.
pub(super) fn guarantee(guarantee: Guarantee) -> &'static str {
    match guarantee {
        Guarantee::AtLeastOnce => "at-least-once",
        Guarantee::ExactlyOnce => "exactly-once",
    }
}
