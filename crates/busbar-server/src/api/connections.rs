//! Connections to other systems.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use busbar_access::{Principal, Role};
use busbar_event::Error;
use busbar_flow::{ConnectionStatus, FlowStatus};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::flows::FlowSummary;
use super::{Json, Path};
use crate::answer::Answer;
use crate::app::App;
use crate::guard::Caller;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(test))
        .routes(routes!(tables))
}

/// A connection.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct ConnectionView {
    /// Its name.
    name: String,
    /// `host`, `file`, `http`, `mqtt`, `mysql`, `postgres`.
    kind: String,
    /// `source`, `sink` or `both`.
    direction: &'static str,
    /// `starting`, `running`, `retrying`, `ended`, `stopped`, `disabled`, or `idle` (nobody writes to it).
    state: &'static str,
    /// Events it brought.
    #[serde(rename = "in")]
    input: u64,
    /// Rows written to it.
    out: u64,
    /// Events it brought, or rows written to it, in the last second.
    rate: f64,
    /// What is promised across a crash to those who write to it.
    guarantee: Option<&'static str>,
    /// Bytes that a source has yet to bring, if the other side says so.
    lag_bytes: Option<u64>,
    /// Flows that write to it.
    flows: Vec<String>,
    /// Why it does not get on.
    #[schema(value_type = Option<super::Problem>)]
    error: Option<Error>,
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
        connections: readable(views(&app), &caller, &flows),
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

/// The connections that flows write to which the caller may read; all for a caller that may read everything.
pub(crate) fn readable(
    connections: Vec<ConnectionView>,
    caller: &Principal,
    flows: &[FlowSummary],
) -> Vec<ConnectionView> {
    if caller.may_read_all() {
        return connections;
    }
    let may_read = |name: &String| {
        let flow = flows.iter().find(|flow| flow.name() == name);
        flow.is_some_and(|flow| flow.may_be_read_by(caller))
    };
    connections
        .into_iter()
        .filter_map(|mut connection| {
            connection.flows.retain(may_read);
            (!connection.flows.is_empty()).then_some(connection)
        })
        .collect()
}

/// All connections.
pub(crate) fn views(app: &App) -> Vec<ConnectionView> {
    let flows = app.runtime.status();
    let connections = app.runtime.connections();
    connections
        .into_iter()
        .map(|connection| {
            let source_rate = app.feed.source_rate(&connection.name);
            view(connection, &flows, source_rate)
        })
        .collect()
}

fn view(connection: ConnectionStatus, flows: &[FlowStatus], source_rate: f64) -> ConnectionView {
    let outputs = flows.iter().flat_map(|flow| &flow.nodes).filter(|node| {
        node.role == "to" && node.kind == "connection" && node.label == connection.name
    });
    let (mut out, mut rate, mut error, mut guarantee) = (0, source_rate, None, None);
    for node in outputs {
        out += node.counters.out;
        rate += node.rate_out;
        error = error.or_else(|| node.error.clone());
        guarantee = guarantee.or(node.guarantee.map(super::flows::guarantee));
    }
    let source = connection.source;
    let state = match &source {
        _ if !connection.enabled => "disabled",
        Some(source) => source.state,
        None if connection.flows.is_empty() => "idle",
        None if error.is_some() => "retrying",
        None => "running",
    };
    ConnectionView {
        direction: match (connection.roles.source, connection.roles.sink) {
            (true, true) => "both",
            (true, false) => "source",
            _ => "sink",
        },
        state,
        input: source.as_ref().map_or(0, |source| source.events),
        out,
        rate,
        guarantee,
        lag_bytes: source.as_ref().and_then(|source| source.lag_bytes),
        error: source.and_then(|source| source.error).or(error),
        name: connection.name,
        kind: connection.kind,
        flows: connection.flows,
    }
}
