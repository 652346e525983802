//! Plug-ins: their state, workers, log, files and versions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use busbar_access::{Principal, Role};
use busbar_catalog::VersionInfo;
use busbar_event::{Language, time};
use busbar_flow::{LogLine, PluginReport};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::flows::{Between, Difference, outcome};
use super::project::{ChangeView, VersionView, Versions};
use super::{Json, JsonBody, Path, Query, blocking};
use crate::actor::Actor;
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::audit::Action;
use crate::deploy::plugin_folder;
use crate::guard::Caller;
use crate::limits::VERSIONS_SHOWN_MAX;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(one, save))
        .routes(routes!(log))
        .routes(routes!(versions))
        .routes(routes!(diff))
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

/// A plug-in with its files.
#[derive(Serialize, utoipa::ToSchema)]
struct PluginDetail {
    #[serde(flatten)]
    plugin: PluginView,
    /// Its files, by their paths within its folder. A file that is no text is a `data:` URL.
    files: BTreeMap<String, String>,
}

/// Read a plug-in and its files.
#[utoipa::path(get, path = "/api/v1/plugins/{name}", tag = "plugins",
    params(("name" = String, Path, description = "The plug-in's name.")),
    responses((status = 200, description = "The plug-in.", body = PluginDetail)))]
async fn one(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
) -> Answer<Json<PluginDetail>> {
    caller.require(Role::Operator)?;
    let unknown = || Refusal::unknown("plugin.unknown", &name);
    let known = app.runtime.plugins().await;
    let known = known.into_iter().find(|plugin| plugin.name == name);
    let known = known
        .filter(|_| caller.may_read_all())
        .ok_or_else(unknown)?;
    let project = app.runtime.project().await;
    Ok(Json(PluginDetail {
        plugin: view(known),
        files: files_of(&project.bundle.files, &name),
    }))
}

/// The files of a plug-in among those of a project, by their paths within its folder.
fn files_of(files: &BTreeMap<String, String>, plugin: &str) -> BTreeMap<String, String> {
    let folder = plugin_folder(plugin);
    let own = files.iter().filter_map(|(path, text)| {
        let path = path.strip_prefix(&folder)?;
        Some((path.to_owned(), text.clone()))
    });
    own.collect()
}

/// The files of a plug-in.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PluginFiles {
    /// All of them, by their paths within its folder.
    files: BTreeMap<String, String>,
}

/// Deploy a plug-in.
///
/// Makes a new version of the project in which these are the plug-in's files. The new version of the plug-in starts and
/// passes its tests before the old one stops; otherwise it is refused and the old one goes on.
#[utoipa::path(put, path = "/api/v1/plugins/{name}", tag = "plugins",
    params(("name" = String, Path, description = "The plug-in's name.")), request_body = PluginFiles,
    responses(
        (status = 200, description = "It runs.", body = super::project::Outcome),
        (status = 422, description = "It does not; `diagnostics` says where.", body = super::Refused),
    ))]
async fn save(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(name): Path,
    JsonBody(body): JsonBody<PluginFiles>,
) -> Answer<Json<super::project::Outcome>> {
    actor.caller.require(Role::Admin)?;
    busbar_catalog::check_name(&name)?;
    let by = actor.caller.name();
    let files = in_project(&name, body.files);
    let deployed = app.deployer.save_plugin(&name, files, by).await;
    if let Ok(deployed) = &deployed
        && let Some(version) = deployed.version
    {
        let detail = [("note", format!("plug-in {name}"))];
        actor
            .record(&app, Action::ProjectApply, version.to_string(), &detail)
            .await;
    }
    outcome(&app, deployed).await
}

/// The files of a plug-in by their paths in the project.
pub(super) fn in_project(
    plugin: &str,
    files: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let folder = plugin_folder(plugin);
    let files = files.into_iter();
    files
        .map(|(path, text)| (format!("{folder}{path}"), text))
        .collect()
}

/// List the versions of a plug-in.
#[utoipa::path(get, path = "/api/v1/plugins/{name}/versions", tag = "plugins",
    params(("name" = String, Path, description = "The plug-in's name.")),
    responses((status = 200, description = "Newest first.", body = Versions)))]
async fn versions(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
) -> Answer<Json<Versions>> {
    readable(&caller, &name)?;
    let of = name.clone();
    let versions = blocking(move || {
        let history = app.deployer.history();
        let mut all = Vec::new();
        let mut newer: Option<(VersionInfo, BTreeMap<String, String>)> = None;
        let mut add = |info: VersionInfo, before: &BTreeMap<String, String>, after: &_| {
            let changes = file_changes(before, after);
            if !changes.is_empty() {
                all.push(VersionView::new(info, changes));
            }
            all.len() < VERSIONS_SHOWN_MAX
        };
        let mut more = true;
        for info in history.list()? {
            let files = files_of(&history.version(info.version)?.files, &of);
            if let Some((info, after)) = newer.replace((info, files.clone())) {
                more = add(info, &files, &after);
                if !more {
                    break;
                }
            }
        }
        if let Some((info, first)) = newer.filter(|_| more) {
            add(info, &BTreeMap::new(), &first);
        }
        Ok(all)
    })
    .await?;
    match versions.is_empty() {
        true => Err(Refusal::unknown("plugin.unknown", &name)),
        false => Ok(Json(Versions { versions })),
    }
}

/// The files that differ.
fn file_changes(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Vec<ChangeView> {
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changes = paths.into_iter().filter_map(|path| {
        let kind = match (before.get(path), after.get(path)) {
            (Some(before), Some(after)) if before == after => return None,
            (Some(_), Some(_)) => "changed",
            (None, _) => "added",
            (Some(_), None) => "removed",
        };
        Some(ChangeView {
            path: path.clone(),
            kind,
            meaning: None,
        })
    });
    changes.collect()
}

/// What is different between two versions of a plug-in.
#[derive(Serialize, utoipa::ToSchema)]
struct PluginDifference {
    /// Its files that differ, by their paths within its folder.
    files: BTreeMap<String, Difference>,
}

/// Compare two versions of a plug-in.
#[utoipa::path(get, path = "/api/v1/plugins/{name}/diff", tag = "plugins",
    params(("name" = String, Path, description = "The plug-in's name."), Between),
    responses((status = 200, description = "The difference.", body = PluginDifference)))]
async fn diff(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
    Query(between): Query<Between>,
) -> Answer<Json<PluginDifference>> {
    readable(&caller, &name)?;
    blocking(move || {
        let history = app.deployer.history();
        let before = files_of(&history.version(between.from)?.files, &name);
        let after = files_of(&history.version(between.to)?.files, &name);
        let changes = file_changes(&before, &after).into_iter();
        let files = changes.map(|change| {
            let text = |files: &BTreeMap<String, String>| {
                files.get(&change.path).cloned().unwrap_or_default()
            };
            let (before, after) = (text(&before), text(&after));
            let difference = Difference::new(&change.path, before, after);
            (change.path, difference)
        });
        Ok(PluginDifference {
            files: files.collect(),
        })
    })
    .await
    .map(Json)
}

/// Refuses those who may not read a plug-in's files, whether it exists or not.
fn readable(caller: &Principal, name: &str) -> Answer<()> {
    caller.require(Role::Operator)?;
    match caller.may_read_all() {
        true => Ok(()),
        false => Err(Refusal::unknown("plugin.unknown", name)),
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
pub(super) struct PluginLineView {
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
    Ok(Json(PluginLogView {
        lines: lines.into_iter().map(PluginLineView::new).collect(),
    }))
}

impl PluginLineView {
    pub(super) fn new(line: LogLine) -> PluginLineView {
        PluginLineView {
            number: line.number,
            time: time::text(line.time),
            level: line.level,
            worker: line.worker,
            text: line.text,
        }
    }
}

/// The version to go back to.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Rollback {
    /// Its number.
    version: u64,
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
