//! Cells of wide tables: read and changed by row, family and qualifier.

use std::sync::Arc;

use axum::extract::State;
use busbar_access::Role;
use busbar_event::{Class, Error, time};
use busbar_table::wide::{
    CellChange, CellFilter, CellScan, CellSelect, Increment, RowCells, RowChange,
};
use busbar_table::{Compare, Wide};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, JsonBody, Path, blocking};
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::guard::Caller;
use crate::rights;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(get))
        .routes(routes!(scan))
        .routes(routes!(change))
        .routes(routes!(increment))
}

/// A key: a member for each of its columns.
type Key = Map<String, Value>;

/// Rows by their keys.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct GetRows {
    /// The keys, each an object with a member for each column of the key.
    #[schema(value_type = Vec<Object>)]
    rows: Vec<Key>,
    /// Families (`m`) or cells (`m.temp`; `temp` of the first family); all when absent.
    #[serde(default)]
    columns: Vec<String>,
    /// Versions of each cell at most; 1 when absent.
    versions: Option<u32>,
}

/// Rows in a range of keys.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ScanRows {
    /// The values that the first columns of the key have.
    #[serde(default)]
    #[schema(value_type = Object)]
    prefix: Key,
    /// Bounds of the columns that follow: not less than these.
    #[serde(default)]
    #[schema(value_type = Object)]
    from: Key,
    /// Less than these.
    #[serde(default)]
    #[schema(value_type = Object)]
    to: Key,
    /// `next` of the answer before: go on behind it.
    #[schema(value_type = Option<Object>)]
    after: Option<Key>,
    /// As for a get.
    #[serde(default)]
    columns: Vec<String>,
    /// As for a get.
    versions: Option<u32>,
    /// Only rows that fit all of these.
    #[serde(default)]
    filters: Vec<CellCondition>,
    /// Rows at most.
    limit: Option<usize>,
}

/// A condition on the newest version of a cell.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CellCondition {
    /// The cell.
    column: String,
    /// `=`, `<`, `<=`, `>` or `>=`; `=` when absent.
    is: Option<String>,
    /// What it is compared with; null for a cell that does not exist.
    #[schema(value_type = Option<Object>)]
    value: Value,
}

/// Changes of rows.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeRows {
    /// All are made, or none.
    rows: Vec<ChangeRow>,
}

/// Changes of one row: deletions, then what is put.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeRow {
    /// The key.
    #[schema(value_type = Object)]
    key: Key,
    /// Delete the whole row first.
    #[serde(default)]
    delete_row: bool,
    /// Families and cells to delete.
    #[serde(default)]
    delete: Vec<String>,
    /// Cells and their values; null deletes one.
    #[serde(default)]
    #[schema(value_type = Object)]
    put: Map<String, Value>,
    /// The time of the cells; the time of writing when absent.
    time: Option<String>,
    /// Change the row only if all of these fit.
    #[serde(default)]
    only_if: Vec<CellCondition>,
}

/// Sums to add.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct IncrementCells {
    /// All are made, or none.
    cells: Vec<IncrementCell>,
}

/// A sum that is added to a cell.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct IncrementCell {
    /// The key.
    #[schema(value_type = Object)]
    key: Key,
    /// The cell.
    column: String,
    /// What is added.
    by: i64,
}

/// A row.
#[derive(Serialize, utoipa::ToSchema)]
struct RowView {
    /// Its key.
    #[schema(value_type = Object)]
    key: Key,
    /// Its cells, by family and qualifier, the newest version of each first.
    cells: Vec<CellView>,
}

/// A cell.
#[derive(Serialize, utoipa::ToSchema)]
struct CellView {
    /// `family.qualifier`.
    column: String,
    /// Its time.
    time: String,
    /// What it holds: bytes as hexadecimal digits, times as text.
    #[schema(value_type = Object)]
    value: Value,
}

/// Rows that were asked for by their keys.
#[derive(Serialize, utoipa::ToSchema)]
struct GotRows {
    /// In the order of the keys; null for a row that is not there.
    rows: Vec<Option<RowView>>,
}

/// A part of a scan.
#[derive(Serialize, utoipa::ToSchema)]
struct ScannedRows {
    /// In the order of their keys as they are stored.
    rows: Vec<RowView>,
    /// What to send as `after` for the next part; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    next: Option<Key>,
}

/// What became of changes.
#[derive(Serialize, utoipa::ToSchema)]
struct ChangedRows {
    /// For each row whether its conditions did fit. One whose conditions did not is as it was.
    changed: Vec<bool>,
}

/// What cells hold after sums were added.
#[derive(Serialize, utoipa::ToSchema)]
struct Sums {
    /// In the order of the request.
    values: Vec<i64>,
}

/// Read rows of a wide table by their keys.
#[utoipa::path(post, path = "/api/v1/tables/{name}/rows/get", tag = "tables", request_body = GetRows,
    params(("name" = String, Path, description = "The table's name.")),
    responses((status = 200, description = "The rows, as they were at one moment.", body = GotRows)))]
async fn get(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
    JsonBody(body): JsonBody<GetRows>,
) -> Answer<Json<GotRows>> {
    rights::check_table(&caller, &name)?;
    let table = wide(&app, &name)?;
    let rows = blocking(move || {
        let keys = body.rows.iter().map(|key| table.key_values(key));
        let keys = keys.collect::<Result<Vec<_>, Error>>()?;
        let select = CellSelect {
            columns: body.columns,
            versions: body.versions,
        };
        let rows = table.get(&keys, &select)?.into_iter();
        let rows = rows.map(|row| row.map(|row| view(&table, row)));
        Ok::<_, Error>(rows.collect())
    });
    Ok(Json(GotRows { rows: rows.await? }))
}

/// Read rows of a wide table in a range of keys.
#[utoipa::path(post, path = "/api/v1/tables/{name}/rows/scan", tag = "tables", request_body = ScanRows,
    params(("name" = String, Path, description = "The table's name.")),
    responses((status = 200, description = "Some rows, and where to go on.", body = ScannedRows)))]
async fn scan(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
    JsonBody(body): JsonBody<ScanRows>,
) -> Answer<Json<ScannedRows>> {
    rights::check_table(&caller, &name)?;
    let table = wide(&app, &name)?;
    let scanned = blocking(move || {
        // The bounds follow the prefix, whose columns come first in the key.
        let prefix = table.key_values(&body.prefix)?;
        let bound = |bound: &Key| {
            let whole: Key = body
                .prefix
                .iter()
                .chain(bound)
                .map(|(c, v)| (c.clone(), v.clone()))
                .collect();
            let values = table.key_values(&whole)?;
            Ok::<_, Error>(values[prefix.len()..].to_vec())
        };
        let (from, to) = (bound(&body.from)?, bound(&body.to)?);
        let scan = CellScan {
            after: body
                .after
                .as_ref()
                .map(|key| table.key_values(key))
                .transpose()?,
            filters: filters(&table, body.filters)?,
            select: CellSelect {
                columns: body.columns,
                versions: body.versions,
            },
            limit: body.limit,
            prefix,
            from,
            to,
        };
        let scanned = table.scan_cells(&scan)?;
        Ok::<_, Error>(ScannedRows {
            next: scanned.next.map(|key| table.key_object(&key)),
            rows: scanned
                .rows
                .into_iter()
                .map(|row| view(&table, row))
                .collect(),
        })
    });
    Ok(Json(scanned.await?))
}

/// Change rows of a wide table, all or none.
///
/// A row with `only_if` is changed only if its cells fit (check and put).
#[utoipa::path(post, path = "/api/v1/tables/{name}/rows/change", tag = "tables", request_body = ChangeRows,
    params(("name" = String, Path, description = "The table's name.")),
    responses((status = 200, description = "The changes are on disk.", body = ChangedRows)))]
async fn change(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
    JsonBody(body): JsonBody<ChangeRows>,
) -> Answer<Json<ChangedRows>> {
    caller.require(Role::Operator)?;
    rights::check_table(&caller, &name)?;
    let table = wide(&app, &name)?;
    let changed = blocking(move || {
        let rows = body.rows.into_iter().map(|row| changes(&table, row));
        table.change(&rows.collect::<Result<Vec<_>, Error>>()?)
    });
    Ok(Json(ChangedRows {
        changed: changed.await?,
    }))
}

/// Add to cells of a wide table, all or none.
#[utoipa::path(post, path = "/api/v1/tables/{name}/rows/increment", tag = "tables", request_body = IncrementCells,
    params(("name" = String, Path, description = "The table's name.")),
    responses((status = 200, description = "The sums are on disk.", body = Sums)))]
async fn increment(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
    JsonBody(body): JsonBody<IncrementCells>,
) -> Answer<Json<Sums>> {
    caller.require(Role::Operator)?;
    rights::check_table(&caller, &name)?;
    let table = wide(&app, &name)?;
    let values = blocking(move || {
        let cells = body.cells.into_iter().map(|cell| {
            Ok(Increment {
                key: table.key_values(&cell.key)?,
                column: cell.column,
                by: cell.by,
            })
        });
        table.increment(&cells.collect::<Result<Vec<_>, Error>>()?)
    });
    Ok(Json(Sums {
        values: values.await?,
    }))
}

fn wide(app: &App, name: &str) -> Answer<Arc<Wide>> {
    if let Some(table) = app.tables.wide(name) {
        return Ok(table);
    }
    match app.tables.table(name) {
        None => Err(Refusal::unknown("server.unknown-table", name)),
        Some(table) => {
            let error = Error::new(Class::Permanent, "server.table-not-wide")
                .with("table", name)
                .with("engine", table.engine());
            Err(error.into())
        }
    }
}

fn changes(table: &Wide, row: ChangeRow) -> Result<RowChange, Error> {
    let mut changes = Vec::new();
    if row.delete_row {
        changes.push(CellChange::DeleteRow);
    }
    for name in row.delete {
        changes.push(if table.is_family(&name) {
            CellChange::DeleteFamily(name)
        } else {
            CellChange::Delete(name)
        });
    }
    for (column, json) in row.put {
        changes.push(match table.cell_value(&column, json)? {
            Some(value) => CellChange::Put(column, value),
            None => CellChange::Delete(column),
        });
    }
    let time = row.time.map(|text| {
        time::parse(&text).ok_or_else(|| {
            let text: String = text.chars().take(64).collect();
            Error::new(Class::Permanent, "server.cell-time").with("time", text)
        })
    });
    Ok(RowChange {
        key: table.key_values(&row.key)?,
        time: time.transpose()?,
        only_if: filters(table, row.only_if)?,
        changes,
    })
}

fn filters(table: &Wide, filters: Vec<CellCondition>) -> Result<Vec<CellFilter>, Error> {
    let filter = |filter: CellCondition| {
        let compare = match filter.is.as_deref() {
            None | Some("=") => Compare::Equal,
            Some("<") => Compare::Less,
            Some("<=") => Compare::LessOrEqual,
            Some(">") => Compare::Greater,
            Some(">=") => Compare::GreaterOrEqual,
            Some(other) => {
                let other: String = other.chars().take(16).collect();
                return Err(
                    Error::new(Class::Permanent, "server.cell-compare").with("given", other)
                );
            }
        };
        Ok(CellFilter {
            value: table.cell_value(&filter.column, filter.value)?,
            column: filter.column,
            compare,
        })
    };
    filters.into_iter().map(filter).collect()
}

fn view(table: &Wide, row: RowCells) -> RowView {
    let cells = row.cells.into_iter().map(|cell| CellView {
        column: format!("{}.{}", cell.family, cell.qualifier),
        time: time::text(cell.time),
        value: cell.value.to_json(),
    });
    RowView {
        key: table.key_object(&row.key),
        cells: cells.collect(),
    }
}
