//! A copy that is kept in a table of the node: in memory, in a file of SQLite or in wide rows.

use std::collections::BTreeSet;

use busbar_connector::SurveyedTable;
use busbar_event::Error;

use super::files::{CopiedColumn, CopyEnd, CopyTo, CopyWay, OwnTable, changes_of};
use super::value::{CopiedValue, CopyFit};
use super::{CopyPlan, CopyRequest, PlannedColumn, is_other_key, is_taken, named, refusal};
use crate::app::App;

/// The engines of the node's tables.
const ENGINES: [&str; 3] = ["hot", "relational", "wide"];

/// The table of the node that is meant: `ENGINE:NAME`, `ENGINE` alone for a table of the same name, or the name of one that is
/// there. None where a connection has that name.
///
/// # Errors
/// The table is there with another engine.
pub(super) async fn find(app: &App, asked: &str, same: &str) -> Result<Option<OwnTable>, Error> {
    let project = app.runtime.project().await;
    let (first, name) = match asked.split_once(':') {
        Some((first, name)) => (first, Some(name)),
        None => (asked, None),
    };
    if project.connections.contains_key(first) {
        return Ok(None);
    }
    let engine = ENGINES.into_iter().find(|engine| *engine == first);
    let table = match (engine, name) {
        (Some(_), Some(name)) => name.to_owned(),
        (Some(_), None) => named(same),
        (None, None) => first.to_owned(),
        (None, Some(_)) => return Ok(None),
    };
    let Some(known) = project.tables.get(&table) else {
        return Ok(engine.map(|engine| OwnTable {
            name: table,
            engine,
            exists: false,
        }));
    };
    let there = match &known.spec {
        spec if spec.hot.is_some() => "hot",
        spec if spec.wide.is_some() => "wide",
        _ => "relational",
    };
    match engine {
        Some(engine) if engine != there => Err(refusal("server.copy-engine")
            .with("table", &table)
            .with("engine", there)),
        _ => Ok(Some(OwnTable {
            name: table,
            engine: there,
            exists: true,
        })),
    }
}

/// Plans a copy to a table of the node.
///
/// # Errors
/// A name that no file can have.
pub(super) async fn plan(
    app: &App,
    asked: &CopyRequest,
    (from, source): (&CopyEnd, &SurveyedTable),
    table: OwnTable,
    shared: Option<&str>,
) -> Result<CopyPlan, Error> {
    let mut plan = CopyPlan {
        name: asked.name.clone().unwrap_or_else(|| table.name.clone()),
        from: from.named(),
        to: table.name.clone(),
        exists: table.exists,
        ..CopyPlan::default()
    };
    busbar_catalog::check_name(&plan.name)?;
    busbar_catalog::check_name(&table.name)?;
    if asked.both_ways {
        plan.refusals
            .push(refusal("server.copy-own-both").with("table", &table.name));
    } else {
        plan.version(asked, from, source);
    }
    plan.check_names([&from.schema, &from.table], source);
    let key = plan.key(asked, from, source);
    let input = plan.input(asked, from, source);
    plan.check_order(&input, from, source, &key);
    let columns = plan.kept(from, source, &key, asked.lossy);
    plan.check_own_key(app, &table, &key).await;
    let shown = columns.iter().map(|column| PlannedColumn {
        table: plan.from.clone(),
        name: column.name.clone(),
        from: kind_of(source, &column.name).to_owned(),
        to: column.made.clone(),
        key: column.key,
    });
    plan.columns = shown.collect();
    let name = plan.name.clone();
    plan.add(&CopyWay {
        name: &name,
        from,
        input: &input,
        to: CopyTo::Own(&table),
        columns: &columns,
        rule: None,
        without: None,
        create: false,
        lossy: asked.lossy,
        shared,
    });
    plan.needs(app, from, is_other_key(source, &key)).await;
    if shared.is_none() {
        let tables = [from.in_sql()];
        plan.publishes(app, from, &changes_of(&name), &tables).await;
    }
    plan.ended(app).await;
    Ok(plan)
}

fn kind_of<'a>(source: &'a SurveyedTable, name: &str) -> &'a str {
    let mut columns = source.columns.iter();
    let column = columns.find(|column| column.name == name);
    column.map_or("", |column| &column.kind)
}

impl CopyPlan {
    /// How the columns of a table are kept.
    fn kept(
        &mut self,
        from: &CopyEnd,
        source: &SurveyedTable,
        key: &[String],
        lossy: bool,
    ) -> Vec<CopiedColumn> {
        let mut copied = Vec::new();
        for column in &source.columns {
            let about = |code| {
                refusal(code)
                    .with("column", &column.name)
                    .with("kind", &column.kind)
                    .with("table", &self.to)
            };
            if is_taken(&column.name) {
                let refused = about("server.copy-name");
                self.refusals.push(refused);
                continue;
            }
            let Some(value) = from.value(column) else {
                let refused = about("server.copy-type");
                self.refusals.push(refused);
                continue;
            };
            let says_more = match value {
                CopiedValue::Number(..) | CopiedValue::Unsigned | CopiedValue::Day => !lossy,
                CopiedValue::Json => false,
                _ => value.becomes_text(&column.kind),
            };
            if value.is_cut(&column.kind) {
                let about = |code| about(code).with("to", value.kept(lossy).as_str());
                match lossy {
                    true => self.warnings.push(about("server.copy-rounded")),
                    false => self.refusals.push(about("server.copy-lossy")),
                }
            }
            if says_more {
                let warning = about("server.copy-text");
                self.warnings.push(warning);
            }
            copied.push(CopiedColumn {
                name: column.name.clone(),
                to: column.name.clone(),
                value,
                fit: CopyFit::Whole,
                key: key.contains(&column.name),
                made: value.kept(lossy).as_str().to_owned(),
                required: false,
            });
        }
        copied
    }

    /// A table that is there has the same key.
    async fn check_own_key(&mut self, app: &App, table: &OwnTable, key: &[String]) {
        let project = app.runtime.project().await;
        let Some(known) = project.tables.get(&table.name) else {
            return;
        };
        let there: BTreeSet<_> = known.spec.key.iter().collect();
        if there != key.iter().collect() {
            let error = refusal("server.copy-target-key")
                .with("table", &table.name)
                .with("key", key.join(", "))
                .with("there", known.spec.key.join(", "));
            self.refusals.push(error);
        }
    }
}
