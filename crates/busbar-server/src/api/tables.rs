//! Tables: their settings and state. Their rows are read by SQL.

use std::sync::Arc;

use axum::extract::State;
use busbar_event::Error;
use busbar_table::Table;
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
    /// `hot` (in memory), `relational` (SQLite) or `wide` (cells on disk).
    kind: &'static str,
    /// Rows it has now.
    rows: u64,
    /// Columns of the key.
    key: Vec<String>,
    /// Columns; none until a flow without declared columns writes to it.
    columns: Vec<Field>,
    /// Its settings, as in its file.
    #[schema(value_type = Object)]
    spec: serde_json::Value,
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
    let tables = blocking(move || {
        app.tables
            .names()
            .iter()
            .filter(|name| caller.may_read_table(name))
            .filter_map(|name| app.tables.table(name))
            .map(|table| view(&app, &*table))
            .collect::<Result<Vec<_>, _>>()
    })
    .await?;
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
    Ok(Json(blocking(move || view(&app, &*table)).await?))
}

fn view(app: &App, table: &dyn Table) -> Result<TableView, Error> {
    let spec = app.tables.spec(table.name());
    Ok(TableView {
        name: table.name().to_owned(),
        kind: table.engine(),
        rows: table.rows()?,
        key: table.key().to_vec(),
        columns: fields(&table.schema()),
        spec: spec
            .and_then(|spec| serde_json::to_value(spec).ok())
            .unwrap_or_default(),
    })
}
