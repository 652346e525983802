//! Planning a table that is copied to another database and kept in step.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use busbar_access::Role;
use busbar_catalog::Diagnostic;
use busbar_event::Error;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, JsonBody};
use crate::answer::Answer;
use crate::app::App;
use crate::copy_table::{CopyPlan, CopyRequest, CopySide, plan};
use crate::deploy::NotDeployed;
use crate::guard::Caller;
use crate::rights;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(copy_table))
}

/// A table to copy and to keep in step.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CopyTable {
    /// The table: `CONNECTION:TABLE` or `CONNECTION:SCHEMA.TABLE`; several as `CONNECTION:A,B`, all of a schema as
    /// `CONNECTION:SCHEMA.*`, or `CONNECTION:*`.
    from: String,
    /// Where to: the same, or a connection alone for a table of the same name; `hot:NAME`, `relational:NAME`, `wide:NAME` or a
    /// name alone for a table of the node. A table that is not there is made. For several tables: a connection alone,
    /// `CONNECTION:SCHEMA.*`, or `hot`, `relational` or `wide` alone.
    to: String,
    /// What the files are called; by default like the second table. For several tables it stands before the name of each.
    name: Option<String>,
    /// Changes of the second table come back to the first.
    #[serde(default)]
    both_ways: bool,
    /// Columns that tell rows apart; by default the primary key.
    #[serde(default)]
    key: Vec<String>,
    /// The column that grows with each change of a row, a time or a number: for `both_ways`, and for tables behind JDBC and
    /// ODBC drivers, which are polled by it.
    version: Option<String>,
    /// Rows of tables behind JDBC and ODBC drivers are copied once, and not followed.
    #[serde(default)]
    once: bool,
    /// With `both_ways`: the table whose rows stay where both sides have changed them; without it the later change stays.
    wins: Option<CopySide>,
    /// Lets values be rounded or cut where the second table's columns cannot hold them whole.
    #[serde(default)]
    lossy: bool,
}

/// What would be written to the project. Nothing has been changed.
#[derive(Serialize, utoipa::ToSchema)]
struct CopyPlanned {
    /// What the files are called.
    name: String,
    /// The first table.
    from: String,
    /// The second table.
    to: String,
    /// Whether the second table is there already.
    exists: bool,
    /// The flows that copy, one for each table and direction.
    flows: Vec<String>,
    /// Paths and texts of the files, to be added to the project. In place of a secret stands `(hidden)`; when they are
    /// applied it is that of the connection which the tables were named by.
    files: BTreeMap<String, String>,
    /// Which connection has the secrets of a file, by the file's path.
    secrets: BTreeMap<String, String>,
    /// The columns.
    columns: Vec<CopyColumnView>,
    /// Why the copy cannot be made; then there are no files.
    #[schema(value_type = Vec<super::Problem>)]
    refusals: Vec<Error>,
    /// What one should know before.
    #[schema(value_type = Vec<super::Problem>)]
    warnings: Vec<Error>,
    /// What has to be run in the databases first.
    statements: Vec<CopyStatement>,
    /// What a check of the project with these files says, with file, line and column.
    #[schema(value_type = Vec<crate::problem::DiagnosticView>)]
    diagnostics: Vec<Diagnostic>,
}

/// A column of the copy.
#[derive(Serialize, utoipa::ToSchema)]
struct CopyColumnView {
    /// The table that is copied, by connection and full name.
    table: String,
    /// Its name.
    name: String,
    /// Its type in the first table.
    from: String,
    /// Its type in the second one.
    to: String,
    /// Whether it is one of the key.
    key: bool,
}

/// What has to be run in a database.
#[derive(Serialize, utoipa::ToSchema)]
struct CopyStatement {
    /// The connection that leads to the database.
    connection: String,
    /// The statement, or a setting of the server.
    statement: String,
    /// What it is for.
    #[schema(value_type = super::Problem)]
    why: Error,
}

/// Plan the copy of one or several tables to another database that is kept in step.
///
/// Tables of PostgreSQL, MySQL and MariaDB, and from tables behind JDBC and ODBC drivers and to tables of the node. Answers with the files of the project
/// that do it: connections that follow and write, streams and flows, checked together with the project that runs. `POST /api/v1/apply` with `add` writes them.
#[utoipa::path(post, path = "/api/v1/copy-table", tag = "tables", request_body = CopyTable,
    responses((status = 200, description = "The plan.", body = CopyPlanned)))]
async fn copy_table(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    JsonBody(asked): JsonBody<CopyTable>,
) -> Answer<Json<CopyPlanned>> {
    caller.require(Role::Operator)?;
    // The files are checked together with all that run now.
    rights::check_all(&caller, "project")?;
    let asked = CopyRequest {
        from: asked.from,
        to: asked.to,
        name: asked.name,
        both_ways: asked.both_ways,
        key: asked.key,
        version: asked.version,
        once: asked.once,
        wins: asked.wins,
        lossy: asked.lossy,
    };
    let plan = plan(&app, &asked).await?;
    let diagnostics = checked(&app, &plan, caller.name()).await?;
    let columns = plan.columns.into_iter().map(|column| CopyColumnView {
        table: column.table,
        name: column.name,
        from: column.from,
        to: column.to,
        key: column.key,
    });
    let statements = plan.statements.into_iter().map(|needed| CopyStatement {
        connection: needed.connection,
        statement: needed.statement,
        why: needed.why,
    });
    Ok(Json(CopyPlanned {
        name: plan.name,
        from: plan.from,
        to: plan.to,
        exists: plan.exists,
        flows: plan.flows,
        files: plan.files,
        secrets: plan.secrets,
        columns: columns.collect(),
        refusals: plan.refusals,
        warnings: plan.warnings,
        statements: statements.collect(),
        diagnostics,
    }))
}

/// What a check of the project with the files of a plan says about these files.
async fn checked(app: &App, plan: &CopyPlan, author: &str) -> Answer<Vec<Diagnostic>> {
    if plan.files.is_empty() {
        return Ok(Vec::new());
    }
    let files = plan.files.clone();
    let deployed = app.deployer.add(files, author, "", true).await;
    let mut diagnostics = match deployed {
        Ok(deployed) => deployed.diagnostics,
        Err(NotDeployed::Wrong(diagnostics)) => diagnostics,
        Err(NotDeployed::Failed(error)) => return Err(error.into()),
    };
    diagnostics.retain(|diagnostic| plan.files.contains_key(diagnostic.file()));
    // A password that stands in the file stands in the first one, too.
    diagnostics.retain(|diagnostic| diagnostic.error().code() != "connect.literal-secret");
    Ok(diagnostics)
}
