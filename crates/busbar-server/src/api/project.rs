//! The running project: apply another one, its files, its history.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use busbar_access::Role;
use busbar_catalog::{Bundle, ChangeKind, FileChange, Project, VersionInfo, changes, file_changes};
use busbar_event::Error;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, JsonBody, blocking};
use crate::actor::Actor;
use crate::answer::Answer;
use crate::app::App;
use crate::audit::Action;
use crate::deploy::{Deployed, means};
use crate::guard::Caller;
use crate::limits::VERSIONS_SHOWN_MAX;
use crate::rights;
use crate::secrets::masked;
use busbar_event::time;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(apply))
        .routes(routes!(project))
        .routes(routes!(history))
}

/// A project to run.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Apply {
    /// Path in the project (`flows/rain.yaml`) and text. What is not among them is removed.
    files: BTreeMap<String, String>,
    /// Add the files to those that run and remove none. A path that is there already is refused, so that nobody's change is
    /// lost.
    #[serde(default)]
    add: bool,
    /// Only check, and say what would change.
    #[serde(default)]
    dry_run: bool,
    /// Compute a flow again from the oldest event that is kept where its new version cannot go on with the state of the
    /// one before. Without it that version does not start, and the one before goes on.
    #[serde(default)]
    replay: bool,
    /// Why, for the history.
    #[serde(default)]
    note: String,
}

/// What was, or would be, changed.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Outcome {
    /// Warnings, with file, line and column.
    #[schema(value_type = Vec<crate::problem::DiagnosticView>)]
    diagnostics: Vec<busbar_catalog::Diagnostic>,
    /// Files whose text differs.
    changes: Vec<ChangeView>,
    /// The version that runs now; absent for a dry run.
    version: Option<u64>,
    /// What was done to flows; absent for a dry run.
    #[schema(value_type = Option<AppliedView>)]
    applied: Option<busbar_flow::Applied>,
    /// Files in which what runs now differs from the project's folder, from the folder to what runs. They stay so until
    /// they are changed in the folder, or the folder is applied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differs: Vec<ChangeView>,
}

/// What was done to flows and connections.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes a type of busbar-flow")]
struct AppliedView {
    /// Flows that run in their new version.
    deployed: Vec<String>,
    /// Flows that were removed.
    removed: Vec<String>,
    /// Flows whose meaning did not change.
    unchanged: Vec<String>,
    /// Flows that could not start, with the reason: the version before goes on, if there was one.
    failed: BTreeMap<String, crate::problem::Problem>,
    /// What to know of how flows have begun, such as state that no step of the new version takes up.
    notices: BTreeMap<String, crate::problem::Problem>,
    /// Connections that were opened.
    connections: Vec<String>,
}

/// A file whose text differs.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(super) struct ChangeView {
    /// The file's path in the project.
    pub(super) path: String,
    /// `added`, `changed` or `removed`.
    pub(super) kind: &'static str,
    /// False when only comments, layout or flow tests differ: then nothing is started anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) meaning: Option<bool>,
}

/// A version of the project.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(super) struct VersionView {
    /// Its number, from 1.
    pub(super) version: u64,
    /// When it was applied.
    time: String,
    /// Who applied it.
    by: String,
    /// Why.
    note: String,
    /// Files that differ from the version before.
    changes: Vec<ChangeView>,
}

/// Versions.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Versions {
    /// Newest first.
    pub(super) versions: Vec<VersionView>,
}

/// The project that runs.
#[derive(Serialize, utoipa::ToSchema)]
struct Files {
    /// Path and text. In place of a secret stands `(hidden)`; applied again, it is what it was.
    files: BTreeMap<String, String>,
    /// What was saved in the project's folder since and does not check; absent when nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<RefusedView>,
    /// Files in which what runs differs from the project's folder, from the folder to what runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differs: Vec<ChangeView>,
}

/// Files that were saved and do not check: what ran before goes on.
#[derive(Serialize, utoipa::ToSchema)]
struct RefusedView {
    /// When they were looked at.
    time: String,
    /// What is wrong, with file, line and column.
    #[schema(value_type = Vec<crate::problem::DiagnosticView>)]
    diagnostics: Vec<busbar_catalog::Diagnostic>,
}

/// Run another project, or check it.
///
/// Everything is checked before anything changes. Only what means something else is started anew, the
/// new version before the old one stops; a flow that cannot start leaves its old version running.
#[utoipa::path(post, path = "/api/v1/apply", tag = "project", request_body = Apply,
    responses(
        (status = 200, description = "It runs (or would).", body = Outcome),
        (status = 422, description = "It does not check; `diagnostics` says where.", body = super::Refused),
    ))]
async fn apply(
    State(app): State<Arc<App>>,
    actor: Actor,
    JsonBody(body): JsonBody<Apply>,
) -> Answer<Json<Outcome>> {
    let caller = &actor.caller;
    caller.require(if body.dry_run {
        Role::Operator
    } else {
        Role::Admin
    })?;
    // The answer compares with all files that run now.
    rights::check_all(caller, "project")?;
    let deployed = match body.add {
        true => {
            let (files, author) = (body.files, caller.name());
            app.deployer
                .add(files, author, &body.note, body.dry_run)
                .await
        }
        false => {
            let bundle = Bundle { files: body.files };
            let how = (body.dry_run, body.replay);
            app.deployer
                .deploy(bundle, caller.name(), &body.note, how)
                .await
        }
    };
    if let Ok(deployed) = &deployed
        && let Some(version) = deployed.version
    {
        let detail = [("note", body.note)];
        actor
            .record(&app, Action::ProjectApply, version.to_string(), &detail)
            .await;
    }
    super::flows::outcome(&app, deployed).await
}

/// The files of the project that runs.
#[utoipa::path(get, path = "/api/v1/project", tag = "project",
    responses((status = 200, description = "The files.", body = Files)))]
async fn project(State(app): State<Arc<App>>, Caller(caller): Caller) -> Answer<Json<Files>> {
    // Connections may hold internal addresses and user names.
    caller.require(Role::Operator)?;
    let project = app.runtime.project().await;
    let mut files = masked(&project, &app.connectors);
    files.retain(|path, _| rights::may_read_file(&caller, &project, path));
    let mut differs = app.deployer.differences(&project.bundle);
    differs.retain(|file| rights::may_read_file(&caller, &project, &file.path));
    // What is wrong with a file may quote it.
    let refused = app.deployer.refused().filter(|_| caller.may_read_all());
    let refused = refused.map(|refused| RefusedView {
        time: time::text(refused.time),
        diagnostics: refused.diagnostics,
    });
    Ok(Json(Files {
        files,
        refused,
        differs: differs.iter().map(plain).collect(),
    }))
}

/// The versions of the project.
#[utoipa::path(get, path = "/api/v1/history", tag = "project",
    responses((status = 200, description = "Newest first.", body = Versions)))]
async fn history(State(app): State<Arc<App>>, Caller(caller): Caller) -> Answer<Json<Versions>> {
    rights::check_all(&caller, "history")?;
    blocking(move || {
        let history = app.deployer.history();
        let infos = history.list()?;
        let mut versions = Vec::new();
        let mut newer: Option<(VersionInfo, Project)> = None;
        for info in infos.into_iter().take(VERSIONS_SHOWN_MAX + 1) {
            let files = history.version(info.version)?.files;
            let (project, _) = Project::parse(Bundle { files });
            if let Some((info, after)) = newer.replace((info, project)) {
                let before = newer.as_ref().map(|(_, project)| project);
                versions.push(VersionView::new(info, difference(before, &after)));
            }
        }
        if versions.len() < VERSIONS_SHOWN_MAX
            && let Some((info, first)) = newer
        {
            versions.push(VersionView::new(info, difference(None, &first)));
        }
        Ok::<_, Error>(Versions { versions })
    })
    .await
    .map(Json)
}

impl VersionView {
    pub(super) fn new(info: VersionInfo, changes: Vec<ChangeView>) -> VersionView {
        VersionView {
            version: info.version,
            time: time::text(info.time_micros),
            by: info.author,
            note: info.note,
            changes,
        }
    }
}

impl Outcome {
    pub(super) async fn new(app: &App, deployed: Deployed) -> Outcome {
        let differs = match deployed.version {
            Some(_) => app
                .deployer
                .differences(&app.runtime.project().await.bundle),
            None => Vec::new(),
        };
        Outcome {
            differs: differs.iter().map(plain).collect(),
            changes: deployed
                .files
                .iter()
                .map(|file| view(file, &deployed.changes))
                .collect(),
            diagnostics: deployed.diagnostics,
            version: deployed.version,
            applied: deployed.applied,
        }
    }
}

fn difference(before: Option<&Project>, after: &Project) -> Vec<ChangeView> {
    let empty = Project::default();
    let before = before.unwrap_or(&empty);
    let meanings = changes(before, after);
    file_changes(&before.bundle, &after.bundle)
        .iter()
        .map(|file| view(file, &meanings))
        .collect()
}

/// A file's change where nothing is known of its meaning.
fn plain(file: &FileChange) -> ChangeView {
    ChangeView {
        meaning: None,
        ..view(file, &[])
    }
}

fn view(file: &FileChange, meanings: &[busbar_catalog::Change]) -> ChangeView {
    ChangeView {
        path: file.path.clone(),
        kind: match file.change {
            ChangeKind::Added => "added",
            ChangeKind::Changed => "changed",
            ChangeKind::Removed => "removed",
        },
        meaning: means(file, meanings),
    }
}
