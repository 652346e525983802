//! Tables: their settings and state. Their rows are read by SQL.

use std::sync::Arc;

use axum::extract::State;
use busbar_event::Error;
use busbar_table::{HotSpec, Table};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::{Field, fields};
use super::{Json, Path, blocking};
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::guard::Caller;
use crate::rights;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(one))
}

/// A table.
#[derive(Serialize, utoipa::ToSchema)]
struct TableView {
    /// Its name.
    name: String,
    /// `hot` (in memory, of the node or of Redis), `relational` (SQLite, or a table of a database) or `wide` (cells on disk or in HBase).
    kind: &'static str,
    /// Rows it has now; none where they cannot be counted.
    rows: Option<u64>,
    /// Why they cannot be counted: its database does not answer, for example.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::Problem>)]
    error: Option<Error>,
    /// Columns of the key.
    key: Vec<String>,
    /// Columns; none until a flow without declared columns writes to it.
    columns: Vec<Field>,
    /// Of a hot table, what became of its rows since the node started.
    hot: Option<HotRows>,
    /// Its settings, as in its file.
    #[schema(value_type = Object)]
    spec: serde_json::Value,
}

/// What became of the rows of a hot table since the node started.
#[derive(Serialize, utoipa::ToSchema)]
struct HotRows {
    /// Where its rows are, if not in the node's memory: the connection, and what their keys begin with.
    place: Option<String>,
    /// Bytes of memory that its rows take; none if they are elsewhere.
    bytes: Option<u64>,
    /// Rows whose time to live was over; none if they are elsewhere.
    expired: Option<u64>,
    /// Rows that made room for others; none if they are elsewhere.
    evicted: Option<u64>,
    /// Where rows go whose time to live is over or that make room; absent where they are dropped.
    moves: Option<RowMoves>,
}

/// How rows of a hot table move to another table.
#[derive(Serialize, utoipa::ToSchema)]
struct RowMoves {
    /// The other table.
    to: String,
    /// Rows moved.
    moved: u64,
    /// Rows in the table that the other one has rejected. They stay until they are written again or deleted.
    rejected: u64,
    /// How long the oldest row that is to be moved has waited beyond its time to live, in seconds.
    lag_s: f64,
    /// Why rows cannot be moved at the moment.
    #[schema(value_type = Option<crate::problem::Problem>)]
    error: Option<Error>,
}

/// Tables.
#[derive(Serialize, utoipa::ToSchema)]
struct Tables {
    /// By name.
    tables: Vec<TableView>,
}

/// List the tables.
#[utoipa::path(get, path = "/api/v1/tables", tag = "tables",
    responses((status = 200, description = "The tables.", body = Tables)))]
async fn list(State(app): State<Arc<App>>, Caller(caller): Caller) -> Answer<Json<Tables>> {
    let names = app.tables.names();
    let read = names.iter().filter(|name| caller.may_read_table(name));
    let tables = read.filter_map(|name| app.tables.table(name));
    // Side by side: several databases may be slow or away.
    let views = tables.map(|table| {
        let app = Arc::clone(&app);
        blocking(move || Ok(view(&app, &*table)))
    });
    let tables = futures::future::try_join_all(views).await?;
    Ok(Json(Tables { tables }))
}

/// One table.
#[utoipa::path(get, path = "/api/v1/tables/{name}", tag = "tables",
    params(("name" = String, Path, description = "The table's name.")),
    responses((status = 200, description = "The table.", body = TableView)))]
async fn one(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
) -> Answer<Json<TableView>> {
    rights::check_table(&caller, &name)?;
    let table = app
        .tables
        .table(&name)
        .ok_or_else(|| Refusal::unknown("server.unknown-table", &name))?;
    Ok(Json(blocking(move || Ok(view(&app, &*table))).await?))
}

fn view(app: &App, table: &dyn Table) -> TableView {
    let spec = app.tables.spec(table.name());
    let hot = spec.as_ref().and_then(|spec| spec.hot.as_ref());
    let (hot, failed) = match hot.map(|hot| hot_rows(app, table, hot)).transpose() {
        Ok(hot) => (hot, None),
        Err(error) => (None, Some(error)),
    };
    let counted = table.rows();
    TableView {
        name: table.name().to_owned(),
        kind: table.engine(),
        rows: counted.as_ref().ok().copied(),
        error: counted.err().or(failed),
        key: table.key().to_vec(),
        columns: fields(&table.schema()),
        hot,
        spec: spec
            .and_then(|spec| serde_json::to_value(spec).ok())
            .unwrap_or_default(),
    }
}

fn hot_rows(app: &App, table: &dyn Table, spec: &HotSpec) -> Result<HotRows, Error> {
    let stats = table.stats()?;
    let place = spec.connection.as_deref().map(|connection| {
        let prefix = spec.table.as_deref().unwrap_or(table.name());
        format!("{connection}: {prefix}")
    });
    let here = |count: u64| place.is_none().then_some(count);
    Ok(HotRows {
        bytes: here(stats.bytes),
        expired: here(stats.expired),
        evicted: here(stats.evicted),
        moves: spec.moves_to.clone().map(|to| RowMoves {
            to,
            moved: stats.moved,
            rejected: stats.move_rejected,
            lag_s: stats.move_lag_us as f64 / 1e6,
            error: app.tables.move_failure(table.name()),
        }),
        place,
    })
}
