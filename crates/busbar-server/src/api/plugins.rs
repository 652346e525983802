//! Plug-ins: their state, workers and log, and return to an earlier version.

use std::sync::Arc;

use axum::extract::State;
use busbar_access::Role;
use busbar_event::{Language, time};
use busbar_flow::PluginReport;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::flows::{Rollback, outcome};
use super::{Json, JsonBody, Path, Query};
use crate::actor::Actor;
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::audit::Action;
use crate::guard::Caller;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(log))
        .routes(routes!(rollback))
}

/// Plug-ins.
#[derive(Serialize, utoipa::ToSchema)]
struct Plugins {
    /// By name.
    plugins: Vec<PluginView>,
}

/// A plug-in.
#[derive(Serialize, utoipa::ToSchema)]
struct PluginView {
    /// Its name.
    name: String,
    /// What it is written in.
    language: &'static str,
    /// What it is for.
    description: Option<String>,
    /// The flows that use it.
    flows: Vec<String>,
    /// `running`, or `stopped` with an error.
    state: &'static str,
    /// Why it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The same in Chinese.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_zh: Option<String>,
    /// Events that this version was given.
    given: u64,
    /// Events that it has made.
    made: u64,
    /// Events that failed.
    failed: u64,
    /// Log lines that were dropped because there were too many within a second.
    lines_dropped: u64,
    /// Its workers.
    workers: Vec<PluginWorkerView>,
}

/// A worker of a plug-in.
#[derive(Serialize, utoipa::ToSchema)]
struct PluginWorkerView {
    /// The number of its process; none for one within the node.
    process: Option<u32>,
    /// Memory that it takes, in bytes; 0 as long as it has done nothing.
    memory: u64,
    /// How often it has been started.
    starts: u64,
    /// How often it has died.
    deaths: u64,
}

/// List the plug-ins.
#[utoipa::path(get, path = "/api/v1/plugins", tag = "plugins",
    responses((status = 200, description = "The plug-ins.", body = Plugins)))]
async fn list(State(app): State<Arc<App>>, Caller(caller): Caller) -> Answer<Json<Plugins>> {
    let mut plugins = app.runtime.plugins().await;
    // What a plug-in says may show any event.
    plugins.retain(|_| caller.may_read_all());
    let plugins = plugins.into_iter().map(view).collect();
    Ok(Json(Plugins { plugins }))
}

fn view(report: PluginReport) -> PluginView {
    let status = report.status;
    PluginView {
        name: report.name,
        language: report.language,
        description: report.description,
        flows: report.flows,
        state: if status.is_some() {
            "running"
        } else {
            "stopped"
        },
        error: report
            .error
            .as_ref()
            .map(|error| error.message(Language::En)),
        error_zh: report
            .error
            .as_ref()
            .map(|error| error.message(Language::Zh)),
        given: status.as_ref().map_or(0, |status| status.given),
        made: status.as_ref().map_or(0, |status| status.made),
        failed: status.as_ref().map_or(0, |status| status.failed),
        lines_dropped: status.as_ref().map_or(0, |status| status.lines_dropped),
        workers: status
            .map(|status| status.workers)
            .unwrap_or_default()
            .into_iter()
            .map(|worker| PluginWorkerView {
                process: worker.process,
                memory: worker.memory,
                starts: worker.starts,
                deaths: worker.deaths,
            })
            .collect(),
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    /// Only lines behind this number.
    #[serde(default)]
    after: u64,
}

/// The log of a plug-in.
#[derive(Serialize, utoipa::ToSchema)]
struct PluginLogView {
    /// The last lines, oldest first.
    lines: Vec<PluginLineView>,
}

/// A line of a plug-in's log.
#[derive(Serialize, utoipa::ToSchema)]
struct PluginLineView {
    /// Counts the lines of a version, from 1.
    number: u64,
    /// When it was written.
    time: String,
    /// `debug`, `info`, `warning` or `error`.
    #[schema(value_type = String)]
    level: busbar_flow::LogLevel,
    /// The worker that wrote it, from 0.
    worker: usize,
    /// The text.
    text: String,
}

/// Read the log of a plug-in.
///
/// What the program writes with `busbar.log`, prints, or writes to standard error, and what becomes of its workers. The
/// last 1000 lines of the version that runs are kept.
#[utoipa::path(get, path = "/api/v1/plugins/{name}/log", tag = "plugins",
    params(("name" = String, Path, description = "The plug-in's name."), LogQuery),
    responses((status = 200, description = "The last lines.", body = PluginLogView)))]
async fn log(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
    Query(query): Query<LogQuery>,
) -> Answer<Json<PluginLogView>> {
    if !caller.may_read_all() {
        return Err(Refusal::unknown("plugin.unknown", &name));
    }
    let lines = app.runtime.plugin_log(&name, query.after);
    let lines = lines.map_err(|_| Refusal::unknown("plugin.unknown", &name))?;
    let lines = lines.into_iter().map(|line| PluginLineView {
        number: line.number,
        time: time::text(line.time),
        level: line.level,
        worker: line.worker,
        text: line.text,
    });
    Ok(Json(PluginLogView {
        lines: lines.collect(),
    }))
}

/// Let a plug-in be as it was in an earlier version.
///
/// Makes a new version of the project in which the files of this one plug-in are the old ones.
#[utoipa::path(post, path = "/api/v1/plugins/{name}/rollback", tag = "plugins",
    params(("name" = String, Path, description = "The plug-in's name.")), request_body = Rollback,
    responses((status = 200, description = "The plug-in runs as it did.", body = super::project::Outcome)))]
async fn rollback(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(name): Path,
    JsonBody(body): JsonBody<Rollback>,
) -> Answer<Json<super::project::Outcome>> {
    actor.caller.require(Role::Admin)?;
    let by = actor.caller.name();
    let deployed = app.deployer.rollback_plugin(&name, body.version, by).await;
    if deployed.is_ok() {
        let detail = [("version", body.version.to_string())];
        actor
            .record(&app, Action::PluginRollback, name, &detail)
            .await;
    }
    outcome(&app, deployed).await
}
