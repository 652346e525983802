//! Several tables that are copied at once: one connection follows them, and each has a flow of its own.

use std::collections::BTreeSet;

use busbar_connector::SurveyedTable;
use busbar_event::Error;

use super::ends::{end, find_table, own_schema};
use super::files::{CopyEnd, changes_of, followed_by};
use super::{CopyPlan, CopyRequest, named, plan_one, refusal};
use crate::app::App;

/// Tables that are copied at once.
const TABLES_MAX: usize = 64;

/// Tables that Busbar keeps beside those of others.
const OWN: [&str; 4] = [
    "busbar_position",
    "busbar_refused",
    "busbar_state",
    "busbar_heartbeat",
];

/// Tables of one connection.
pub(super) struct CopiedTables {
    end: CopyEnd,
    /// What the database calls itself.
    server: String,
    tables: Vec<SurveyedTable>,
    /// Those of `*` that have no key.
    left_out: Vec<String>,
}

/// The tables that are meant by `CONNECTION:A,B`, `CONNECTION:*` or `CONNECTION:SCHEMA.*`; none where one is meant.
///
/// # Errors
/// A table that is not there, too many of them, and what the database says.
pub(super) async fn find(app: &App, asked: &str) -> Result<Option<CopiedTables>, Error> {
    let Some((connection, list)) = asked.split_once(':') else {
        return Ok(None);
    };
    if !list.contains(',') && list != "*" && !list.ends_with(".*") {
        return Ok(None);
    }
    let mut from = end(app, connection)?;
    let survey = app.runtime.survey(connection, true).await?;
    let mut tables: Vec<SurveyedTable> = Vec::new();
    let mut left_out = Vec::new();
    for item in list.split(',').map(str::trim) {
        let (schema, name) = match item.split_once('.') {
            Some((schema, name)) => (schema.to_owned(), name),
            None => (own_schema(&from, &survey.tables, item)?, item),
        };
        from.schema = schema;
        let is_meant = |one: &&SurveyedTable| {
            one.schema == from.schema && !OWN.iter().any(|own| one.name.eq_ignore_ascii_case(own))
        };
        let found: Vec<_> = match name {
            "*" => survey.tables.iter().filter(is_meant).cloned().collect(),
            name => find_table(&from, &survey.tables, name)
                .cloned()
                .into_iter()
                .collect(),
        };
        if found.is_empty() {
            let table = format!("{connection}:{item}");
            return Err(refusal("server.compare-no-table").with("table", table));
        }
        for table in found {
            let is_known =
                |one: &SurveyedTable| (&one.schema, &one.name) == (&table.schema, &table.name);
            let has_key = table.columns.iter().any(|column| column.key);
            if name == "*" && !has_key {
                left_out.push(named_in(connection, &table));
            } else if !tables.iter().any(is_known) {
                tables.push(table);
            }
        }
    }
    if tables.is_empty() || tables.len() > TABLES_MAX {
        return Err(refusal("server.copy-many")
            .with("count", tables.len())
            .with("most", TABLES_MAX));
    }
    Ok(Some(CopiedTables {
        end: from,
        server: survey.server,
        tables,
        left_out,
    }))
}

/// Plans the copies of several tables as one.
///
/// # Errors
/// As of [`super::plan`].
pub(super) async fn plan(
    app: &App,
    asked: &CopyRequest,
    several: CopiedTables,
) -> Result<CopyPlan, Error> {
    let CopiedTables {
        end: from,
        server,
        tables,
        left_out,
    } = several;
    let name = asked
        .name
        .clone()
        .unwrap_or_else(|| named(&from.connection));
    busbar_catalog::check_name(&name)?;
    let mut whole = CopyPlan {
        name: name.clone(),
        from: asked.from.clone(),
        to: asked.to.clone(),
        exists: true,
        ..CopyPlan::default()
    };
    if asked.both_ways {
        whole.refusals.push(refusal("server.copy-many-both"));
        return Ok(whole);
    }
    for table in left_out {
        let left_out = refusal("server.copy-left-out").with("table", table);
        whole.warnings.push(left_out);
    }
    let mut names = BTreeSet::new();
    let mut in_sql = Vec::with_capacity(tables.len());
    for table in tables {
        let mut own = named(&table.name);
        if asked.name.is_some() {
            own = format!("{name}_{own}");
        }
        if !names.insert(own.clone()) {
            own = named(&format!("{}_{}", table.schema, own));
            names.insert(own.clone());
        }
        let to = match asked.to.strip_suffix("*") {
            Some(schema) => format!("{schema}{}", table.name),
            None if asked.to.contains(':') => {
                let refused = refusal("server.copy-many-to").with("to", &asked.to);
                whole.refusals.push(refused);
                break;
            }
            None => asked.to.clone(),
        };
        let one = CopyRequest {
            from: named_in(&from.connection, &table),
            to,
            name: Some(own),
            both_ways: false,
            key: asked.key.clone(),
            version: asked.version.clone(),
            once: asked.once,
            wins: asked.wins,
            lossy: asked.lossy,
        };
        // A statement that is run once has a connection of its own.
        let shared = (!asked.once).then_some(name.as_str());
        let mut end = end(app, &from.connection)?;
        end.is_at(app, &server, &table).await?;
        in_sql.push(end.in_sql());
        let planned = plan_one(app, &one, end, table, shared).await?;
        whole.take(planned);
    }
    if !asked.once {
        let source = changes_of(&name);
        whole.publishes(app, &from, &source, &in_sql).await;
        let path = format!("connections/{source}.yaml");
        let text = followed_by(&from, &name, &whole.followed);
        whole.secrets.insert(path.clone(), from.connection.clone());
        whole.files.insert(path, text);
    }
    whole.ended(app).await;
    Ok(whole)
}

/// A table, as it is asked for.
fn named_in(connection: &str, table: &SurveyedTable) -> String {
    match table.schema.is_empty() {
        true => format!("{connection}:{}", table.name),
        false => format!("{connection}:{}.{}", table.schema, table.name),
    }
}

impl CopyPlan {
    /// Takes what was planned for one of the tables.
    fn take(&mut self, one: CopyPlan) {
        self.exists &= one.exists;
        self.flows.extend(one.flows);
        self.followed.extend(one.followed);
        for (path, text) in one.files {
            if self.files.insert(path.clone(), text).is_some() {
                self.refusals
                    .push(refusal("server.copy-exists").with("path", path));
            }
        }
        self.secrets.extend(one.secrets);
        self.columns.extend(one.columns);
        self.refusals.extend(one.refusals);
        self.warnings.extend(one.warnings);
        for needed in one.statements {
            let is_same = |known: &super::NeededStatement| {
                (&known.connection, &known.statement) == (&needed.connection, &needed.statement)
            };
            if !self.statements.iter().any(is_same) {
                self.statements.push(needed);
            }
        }
    }
}
