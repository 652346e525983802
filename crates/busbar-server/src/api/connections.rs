//! Connections to other systems.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use busbar_access::Role;
use busbar_event::Class;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, JsonBody, Path};
use crate::actor::Actor;
use crate::answer::Answer;
use crate::app::App;
use crate::audit::Action;
use crate::guard::Caller;
use crate::picture::{ConnectionView, connection_view, readable_connections};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(test))
        .routes(routes!(snapshot))
        .routes(routes!(tables))
}

/// Connections.
#[derive(Serialize, utoipa::ToSchema)]
struct Connections {
    /// By name.
    connections: Vec<ConnectionView>,
}

/// List the connections.
#[utoipa::path(get, path = "/api/v1/connections", tag = "connections",
    responses((status = 200, description = "The connections.", body = Connections)))]
async fn list(State(app): State<Arc<App>>, Caller(caller): Caller) -> Json<Connections> {
    let flows = super::flows::views(&app).0;
    Json(Connections {
        connections: readable_connections(views(&app), &caller, &flows),
    })
}

/// What a connection's other side answered.
#[derive(Serialize, utoipa::ToSchema)]
struct Tested {
    /// What it calls itself: `PostgreSQL 15.20`.
    server: String,
    /// How long it took to connect and to answer.
    elapsed_ms: u64,
}

/// The tables on the other side of a connection.
#[derive(Serialize, utoipa::ToSchema)]
struct ThereTables {
    /// What the other side calls itself.
    server: String,
    /// Its tables, by schema and name.
    tables: Vec<ThereTable>,
}

/// A table on the other side of a connection.
#[derive(Serialize, utoipa::ToSchema)]
struct ThereTable {
    /// The schema or database that it is in.
    schema: String,
    /// Its name.
    name: String,
    /// About how many rows it has, as the other side estimates it.
    rows: Option<u64>,
    /// Its columns, in order.
    columns: Vec<ThereColumn>,
}

/// A column of such a table.
#[derive(Serialize, utoipa::ToSchema)]
struct ThereColumn {
    /// Its name.
    name: String,
    /// Its type, as the other side writes it.
    #[serde(rename = "type")]
    kind: String,
    /// Whether it is one of the primary key.
    key: bool,
}

/// Ask the other side of a connection whether it answers, and what it is.
#[utoipa::path(post, path = "/api/v1/connections/{name}/test", tag = "connections",
    params(("name" = String, Path, description = "The connection's name.")),
    responses((status = 200, description = "It answers.", body = Tested)))]
async fn test(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
) -> Answer<Json<Tested>> {
    caller.require(Role::Operator)?;
    let begun = Instant::now();
    let survey = app.runtime.survey(&name, false).await?;
    Ok(Json(Tested {
        server: survey.server,
        elapsed_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    }))
}

/// List the tables on the other side of a connection.
#[utoipa::path(get, path = "/api/v1/connections/{name}/tables", tag = "connections",
    params(("name" = String, Path, description = "The connection's name.")),
    responses((status = 200, description = "The tables.", body = ThereTables)))]
async fn tables(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
) -> Answer<Json<ThereTables>> {
    caller.require(Role::Operator)?;
    let survey = app.runtime.survey(&name, true).await?;
    let tables = survey.tables.into_iter().map(|table| ThereTable {
        schema: table.schema,
        name: table.name,
        rows: table.rows,
        columns: table
            .columns
            .into_iter()
            .map(|column| ThereColumn {
                name: column.name,
                kind: column.kind,
                key: column.key,
            })
            .collect(),
    });
    Ok(Json(ThereTables {
        server: survey.server,
        tables: tables.collect(),
    }))
}

/// A table whose snapshot is to be taken anew.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct SnapshotAsked {
    /// The table, as `schema.table`.
    table: String,
}

/// Take the snapshot of a table anew, while the changes of others go on.
///
/// Whoever keeps its rows by key first forgets those that there are, as with `TRUNCATE`, and then gets all that are in the
/// table. How far it has come is told with the connection.
#[utoipa::path(post, path = "/api/v1/connections/{name}/snapshot", tag = "connections",
    params(("name" = String, Path, description = "The connection's name.")),
    request_body = SnapshotAsked,
    responses((status = 204, description = "It begins.")))]
async fn snapshot(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(name): Path,
    JsonBody(asked): JsonBody<SnapshotAsked>,
) -> Answer<StatusCode> {
    actor.caller.require(Role::Operator)?;
    let begun = app.runtime.snapshot(&name, &asked.table).await;
    // What a source has not answered in time it may still do.
    let refused = begun.as_ref().err();
    if refused.is_none_or(|error| error.class() == Class::Transient) {
        let detail = [("table", asked.table)];
        actor
            .record(&app, Action::ConnectionSnapshot, name, &detail)
            .await;
    }
    begun?;
    Ok(StatusCode::NO_CONTENT)
}

/// All connections.
pub(crate) fn views(app: &App) -> Vec<ConnectionView> {
    let flows = app.runtime.status();
    let connections = app.runtime.connections();
    connections
        .into_iter()
        .map(|connection| {
            let source_rate = app.feed.source_rate(&connection.name);
            connection_view(connection, &flows, source_rate)
        })
        .collect()
}
