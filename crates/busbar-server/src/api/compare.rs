//! Comparing two tables, and putting the second one right.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use busbar_access::Role;
use busbar_connector::KeyOrder;
use busbar_event::{Class, Error};
use busbar_flow::{ComparePlan, CompareReport, ValueClass};
use busbar_sql::Relations;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, JsonBody};
use crate::actor::Actor;
use crate::answer::Answer;
use crate::app::App;
use crate::audit::Action;
use crate::compare::{ComparedColumn, ComparedPlace, ComparedTable};
use crate::limits::{COMPARE_KEYS_DEFAULT, COMPARE_KEYS_MAX};
use crate::{repair, rights};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(compare))
}

/// Two tables to compare.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CompareTables {
    /// The first table: `CONNECTION:TABLE`, `CONNECTION:SCHEMA.TABLE`, or the name of one of the node's tables.
    a: String,
    /// The second table.
    b: String,
    /// Columns that tell rows apart, by their names in the first table; by default its primary key.
    #[serde(default)]
    key: Vec<String>,
    /// Columns to compare, by their names in the first table; by default all that both have.
    #[serde(default)]
    columns: Vec<String>,
    /// Names of columns in the second table, by their names in the first, where they differ.
    #[serde(default)]
    rename: BTreeMap<String, String>,
    /// Number of differing keys to list at most; 20 when absent.
    listed: Option<usize>,
    /// Writes the rows of the first table to the second where they differ or are missing.
    #[serde(default)]
    repair: bool,
    /// With `repair`: deletes rows that only the second table has.
    #[serde(default)]
    delete: bool,
}

/// What a comparison found. A is the first table, B the second.
#[derive(Serialize, utoipa::ToSchema)]
struct Compared {
    /// Columns that were compared, those of the key first, by their names in A.
    columns: Vec<String>,
    /// Columns of A that B does not have.
    left_out: Vec<String>,
    /// Rows of A.
    rows_a: u64,
    /// Rows of B.
    rows_b: u64,
    /// Rows that are the same in both.
    equal: u64,
    /// Keys that are in both, with other values.
    different: u64,
    /// Keys that only A has.
    only_a: u64,
    /// Keys that only B has.
    only_b: u64,
    /// Rows of A that were written to B.
    repaired: u64,
    /// Rows that were deleted from B.
    deleted: u64,
    /// Rows that B refused.
    refused: u64,
    /// Why it refused the first one of them.
    #[schema(value_type = Option<super::Problem>)]
    refusal: Option<Error>,
    /// Counts and checksums by ranges of keys.
    ranges: Vec<ComparedRange>,
    /// The first keys whose rows are not the same.
    keys: Vec<ComparedKey>,
}

/// Counts and checksums of a range of keys.
#[derive(Serialize, utoipa::ToSchema)]
struct ComparedRange {
    /// The first key.
    from: String,
    /// The last key.
    to: String,
    /// Rows of A.
    rows_a: u64,
    /// Rows of B.
    rows_b: u64,
    /// Checksum of the rows of A, in hexadecimal digits; the same as that of B where the rows are.
    checksum_a: String,
    /// Checksum of the rows of B.
    checksum_b: String,
}

/// A key whose rows are not the same.
#[derive(Serialize, utoipa::ToSchema)]
struct ComparedKey {
    /// The values of the key.
    key: String,
    /// `different`, `only-a` or `only-b`.
    state: &'static str,
    /// Columns with other values, by their names in A.
    columns: Vec<String>,
}

/// Compare two tables row by row, and put the second one right.
///
/// Values are compared by what they mean: `1.50` and `1.5`, `true` and `1`, a day and its midnight are the same; texts are
/// compared byte by byte. Both tables are read in the order of their key as they are when the comparison begins, in bounded
/// memory. The request takes as long as that takes.
#[utoipa::path(post, path = "/api/v1/compare", tag = "tables", request_body = CompareTables,
    responses((status = 200, description = "What was found.", body = Compared)))]
async fn compare(
    State(app): State<Arc<App>>,
    actor: Actor,
    JsonBody(asked): JsonBody<CompareTables>,
) -> Answer<Json<Compared>> {
    let role = if asked.repair {
        Role::Admin
    } else {
        Role::Operator
    };
    actor.caller.require(role)?;
    let a = ComparedTable::find(&app, &asked.a).await?;
    let b = ComparedTable::find(&app, &asked.b).await?;
    for table in [&a, &b] {
        if let ComparedPlace::Here(name) = &table.place {
            rights::check_table(&actor.caller, name)?;
        }
    }
    let (pairs, left_out, key) = pairs(&asked, &a, &b)?;
    let orders: Vec<_> = pairs[..key]
        .iter()
        .map(|(one, other)| match (one.class, other.class) {
            (ValueClass::Whole, ValueClass::Whole) => KeyOrder::Number,
            _ => KeyOrder::Text,
        })
        .collect();
    let columns = pairs.iter().map(|(one, other)| {
        let class = one.class.together(other.class);
        (one.name.clone(), class)
    });
    let plan = ComparePlan {
        columns: columns.collect(),
        key: orders,
        listed: asked
            .listed
            .unwrap_or(COMPARE_KEYS_DEFAULT)
            .min(COMPARE_KEYS_MAX),
        delete: asked.delete,
    };
    if asked.repair
        && let Some((name, _)) = plan.columns.iter().find(|(_, c)| *c == ValueClass::Bytes)
    {
        let error = Error::new(Class::Configuration, "server.compare-bytes");
        return Err(error.with("column", name).into());
    }
    let relations = || {
        let readable = app.relations.readable_by(actor.caller.clone());
        Some(Arc::new(readable) as Arc<dyn Relations>)
    };
    let (of_a, of_b): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
    let mut rows_a = a.rows(&app, &of_a, &plan.key, relations()).await?;
    let mut rows_b = b.rows(&app, &of_b, &plan.key, relations()).await?;
    let mut target = match asked.repair {
        true => {
            let classes = plan.columns.iter().map(|(_, class)| *class);
            let names = of_b.iter().map(|column| column.name.clone());
            let names = names.zip(classes).collect();
            Some(repair::target(&app, &b, names, key)?)
        }
        false => None,
    };
    let repairs = target.as_deref_mut().map(|target| target as _);
    let found = busbar_flow::compare(&plan, rows_a.as_mut(), rows_b.as_mut(), repairs).await;
    if asked.repair {
        let found = found.as_ref().ok();
        let count = |of: fn(&CompareReport) -> u64| found.map_or(0, of).to_string();
        let detail = [
            ("from", a.named.clone()),
            ("repaired", count(|found| found.repaired)),
            ("deleted", count(|found| found.deleted)),
        ];
        actor
            .record(&app, Action::TableRepair, &b.named, &detail)
            .await;
    }
    Ok(Json(view(&plan, left_out, found?)))
}

/// A column of each table.
type ColumnPair<'a> = (&'a ComparedColumn, &'a ComparedColumn);

/// The columns that are compared, those of the key first, with those of A that B does not have; how many are the key.
fn pairs<'a>(
    asked: &CompareTables,
    a: &'a ComparedTable,
    b: &'a ComparedTable,
) -> Result<(Vec<ColumnPair<'a>>, Vec<String>, usize), Error> {
    let no_column = |table: &ComparedTable, name: &str| {
        let there = table.columns.iter().map(|column| column.name.as_str());
        Error::new(Class::Configuration, "server.compare-no-column")
            .with("column", name)
            .with("table", &table.named)
            .with("there", there.collect::<Vec<_>>().join(", "))
    };
    let own = |name: &String| a.column(name).ok_or_else(|| no_column(a, name));
    for name in asked.rename.keys() {
        own(name)?;
    }
    let other = |column: &ComparedColumn| {
        let renamed = asked
            .rename
            .iter()
            .find(|(from, _)| a.column(from).is_some_and(|own| own.name == column.name));
        let name = renamed.map_or(column.name.as_str(), |(_, to)| to.as_str());
        b.column(name).ok_or_else(|| no_column(b, name))
    };
    let key: Vec<_> = match asked.key.is_empty() {
        true => a.columns.iter().filter(|column| column.key).collect(),
        false => asked.key.iter().map(own).collect::<Result<_, _>>()?,
    };
    if key.is_empty() {
        let error = Error::new(Class::Configuration, "server.compare-no-key");
        return Err(error.with("table", &a.named));
    }
    let mut pairs = Vec::new();
    for column in &key {
        pairs.push((*column, other(column)?));
    }
    let is_key = |column: &ComparedColumn| key.iter().any(|key| key.name == column.name);
    let mut left_out = Vec::new();
    if asked.columns.is_empty() {
        for column in a.columns.iter().filter(|column| !is_key(column)) {
            match other(column) {
                Ok(there) => pairs.push((column, there)),
                // One that was named must be there.
                Err(error) if asked.rename.contains_key(&column.name) => return Err(error),
                Err(_) => left_out.push(column.name.clone()),
            }
        }
    } else {
        for name in &asked.columns {
            let column = own(name)?;
            if !is_key(column) {
                pairs.push((column, other(column)?));
            }
        }
    }
    Ok((pairs, left_out, key.len()))
}

fn view(plan: &ComparePlan, left_out: Vec<String>, found: CompareReport) -> Compared {
    let ranges = found.ranges.into_iter().map(|range| ComparedRange {
        from: range.from,
        to: range.to,
        rows_a: range.rows_a,
        rows_b: range.rows_b,
        checksum_a: format!("{:016x}", range.checksum_a),
        checksum_b: format!("{:016x}", range.checksum_b),
    });
    let keys = found.keys.into_iter().map(|key| ComparedKey {
        key: key.key,
        state: key.state,
        columns: key.columns,
    });
    Compared {
        columns: plan.columns.iter().map(|(name, _)| name.clone()).collect(),
        left_out,
        rows_a: found.rows_a,
        rows_b: found.rows_b,
        equal: found.equal,
        different: found.different,
        only_a: found.only_a,
        only_b: found.only_b,
        repaired: found.repaired,
        deleted: found.deleted,
        refused: found.refused,
        refusal: found.refusal,
        ranges: ranges.collect(),
        keys: keys.collect(),
    }
}
