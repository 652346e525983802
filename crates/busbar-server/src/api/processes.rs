//! Processes: flows in the notation of service buses, as XML.
//!
//! A process is no resource beside the flow that it says the same as: there is one file, one version and one runtime, and the
//! document is written from it and read into it.

use std::sync::Arc;

use axum::extract::State;
use busbar_access::Role;
use busbar_catalog::{flow_file, flow_of, process_of};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::project::Outcome;
use super::{Json, JsonBody, Path, blocking};
use crate::actor::Actor;
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::audit::Action;
use crate::deploy::NotDeployed;
use crate::guard::Caller;
use crate::rights;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(export))
        .routes(routes!(import))
}

/// A flow as a process.
#[derive(Serialize, utoipa::ToSchema)]
struct ProcessXml {
    /// The document, `esbprocess`.
    xml: String,
}

/// Export a flow as a process.
///
/// The document says the same as the flow's file: imported again, it is the same flow.
#[utoipa::path(get, path = "/api/v1/flows/{name}/process", tag = "flows",
    params(("name" = String, Path, description = "The flow's name.")),
    responses((status = 200, description = "The document.", body = ProcessXml)))]
async fn export(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
) -> Answer<Json<ProcessXml>> {
    rights::check_flow(&app.runtime, &caller, &name)?;
    let project = app.runtime.project().await;
    let flow = project.flows.get(&name);
    let flow = flow.ok_or_else(|| Refusal::unknown("server.unknown-flow", &name))?;
    let xml = process_of(&name, &flow.spec)?;
    Ok(Json(ProcessXml { xml }))
}

/// A process to run.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ImportProcess {
    /// The document, `esbprocess`.
    xml: String,
    /// Replace a flow of the same name.
    #[serde(default)]
    replace: bool,
    /// Only check, and say what would change.
    #[serde(default)]
    dry_run: bool,
    /// Compute the flow again from the oldest event that is kept where it cannot go on with the state that there is. Without it
    /// the flow does not start, `applied.failed` says why, and the version before goes on.
    #[serde(default)]
    replay: bool,
}

/// A process that was, or would be, deployed.
#[derive(Serialize, utoipa::ToSchema)]
struct ImportedProcess {
    /// The flow that it is.
    flow: String,
    /// The text of the flow's file.
    file: String,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Import a process.
///
/// Makes a new version of the project in which the process is a flow, and runs it. When the node runs a project's folder, the
/// folder lacks the flow's file until it is written there: `differs` names it.
#[utoipa::path(post, path = "/api/v1/processes", tag = "flows", request_body = ImportProcess,
    responses(
        (status = 200, description = "The process runs as a flow, or could, unless `applied.failed` names it.", body = ImportedProcess),
        (status = 422, description = "Nothing was changed; `diagnostics` says what is wrong and where.",
            body = super::Refused),
    ))]
async fn import(
    State(app): State<Arc<App>>,
    actor: Actor,
    JsonBody(body): JsonBody<ImportProcess>,
) -> Answer<Json<ImportedProcess>> {
    actor.caller.require(Role::Admin)?;
    // Reading takes as long as the document is large.
    let read = blocking(move || Ok(flow_of("process.xml", &body.xml))).await?;
    let (name, flow) = read.map_err(|wrong| NotDeployed::Wrong(vec![wrong]))?;
    let file = flow_file(&flow);
    let how = (body.replace, body.dry_run, body.replay);
    let deployed = app
        .deployer
        .put_flow(&name, &file, actor.caller.name(), how)
        .await?;
    if let Some(version) = deployed.version {
        let detail = [("version", version.to_string()), ("process", name.clone())];
        actor
            .record(&app, Action::ProjectApply, version.to_string(), &detail)
            .await;
    }
    Ok(Json(ImportedProcess {
        flow: name,
        file,
        outcome: Outcome::new(&app, deployed).await,
    }))
}
