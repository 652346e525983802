//! A table that is copied to another database and kept in step: which files of the project do it, and what the databases
//! need first.

mod driven;
mod ends;
mod files;
mod made;
mod own;
mod settings;
mod several;
#[cfg(test)]
mod tests;
mod value;

use std::collections::{BTreeMap, BTreeSet};

use busbar_connector::{SurveyedColumn, SurveyedTable};
use busbar_event::{Class, Error};
use serde::Deserialize;
use serde_json::Value;

use crate::app::App;
use ends::find;
use files::{
    CopiedColumn, CopyEnd, CopyInput, CopyRule, CopyTo, CopyWay, PreferredEnd, changes_of, rows_of,
};
use made::MadeTypes;
use value::{CopiedValue, CopyDatabase, CopyFit, CopyType, is_text, parts};

pub(crate) use settings::NeededStatement;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct CopyRequest {
    /// `CONNECTION:SCHEMA.TABLE` or `CONNECTION:TABLE`; several with commas between them, or `*` for all of a schema.
    pub from: String,
    /// The same; or `CONNECTION` alone for a table of the same name. For several tables `CONNECTION` or `CONNECTION:SCHEMA.*`.
    pub to: String,
    /// What the files are called; by default like the table.
    pub name: Option<String>,
    pub both_ways: bool,
    /// By default the primary key.
    pub key: Vec<String>,
    /// The column that grows with each change of a row: for both ways, and to poll a table behind a driver by it.
    pub version: Option<String>,
    /// The rows of a table behind a driver are copied once, and not followed.
    pub once: bool,
    /// The side whose rows stay where both have changed them; without it the later change stays.
    pub wins: Option<CopySide>,
    pub lossy: bool,
}

/// One of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CopySide {
    First,
    Second,
}

/// What would be written, and what stands against it.
#[derive(Debug, Default)]
pub(crate) struct CopyPlan {
    pub name: String,
    /// The two tables, by connection and full name.
    pub from: String,
    pub to: String,
    /// The flows that copy.
    pub flows: Vec<String>,
    /// Paths and texts. In place of a secret stands what is shown of it.
    pub files: BTreeMap<String, String>,
    /// The connection that has the secrets of a file.
    pub secrets: BTreeMap<String, String>,
    pub columns: Vec<PlannedColumn>,
    /// The table that is written to is there.
    pub exists: bool,
    /// What the connection that brings the changes of several tables says of each.
    followed: Vec<Value>,
    /// Why the copy cannot be; nothing is to be written while there are some.
    pub refusals: Vec<Error>,
    /// What one should know.
    pub warnings: Vec<Error>,
    pub statements: Vec<NeededStatement>,
}

/// A column of the copy.
#[derive(Debug)]
pub(crate) struct PlannedColumn {
    /// The table that is copied, by connection and full name.
    pub table: String,
    pub name: String,
    pub from: String,
    pub to: String,
    pub key: bool,
}

fn refusal(code: &'static str) -> Error {
    Error::new(Class::Configuration, code)
}

/// Plans a copy. Reads what is in the two databases, and changes nothing.
///
/// # Errors
/// A connection or the table to copy that is not there, and what the databases say.
pub(crate) async fn plan(app: &App, asked: &CopyRequest) -> Result<CopyPlan, Error> {
    match several::find(app, &asked.from).await? {
        None => {
            let (from, source) = find(app, &asked.from, None).await?;
            let Some(source) = source else {
                return Err(refusal("server.compare-no-table").with("table", &asked.from));
            };
            plan_one(app, asked, from, source, None).await
        }
        Some(tables) => several::plan(app, asked, tables).await,
    }
}

/// Plans the copy of one table, whose changes come with those of others where `shared` names them.
async fn plan_one(
    app: &App,
    asked: &CopyRequest,
    from: CopyEnd,
    source: SurveyedTable,
    shared: Option<&str>,
) -> Result<CopyPlan, Error> {
    if let Some(table) = own::find(app, &asked.to, &from.table).await? {
        return own::plan(app, asked, (&from, &source), table, shared).await;
    }
    let (to, target) = find(app, &asked.to, Some(&from.table)).await?;
    let mut plan = CopyPlan {
        name: asked.name.clone().unwrap_or_else(|| named(&to.table)),
        from: from.named(),
        to: to.named(),
        exists: target.is_some(),
        ..CopyPlan::default()
    };
    busbar_catalog::check_name(&plan.name)?;
    // A table that is written by its own changes would change without end.
    if from.is_same(&to) {
        plan.refusals
            .push(refusal("server.copy-same").with("table", &plan.from));
    }
    let key = plan.key(asked, &from, &source);
    let input = plan.input(asked, &from, &source);
    plan.check_order(&input, &from, &source, &key);
    let columns = plan.way(
        (&from, &source.columns),
        (&to, target.as_ref()),
        &key,
        asked.lossy,
    );
    plan.columns = shown(&plan.from, &source, &to, target.as_ref(), &columns);
    plan.check_names([&from.schema, &from.table, &to.schema, &to.table], &source);
    let version = plan.version(asked, &from, &source);
    let back_name = format!("{}_back", plan.name);
    let ways = if asked.both_ways && from.driven.is_none() {
        let there = match &target {
            Some(target) => target.columns.clone(),
            None => made_columns(&columns),
        };
        let back = plan.way((&to, &there), (&from, Some(&source)), &key, asked.lossy);
        Some(back)
    } else {
        None
    };
    let name = plan.name.clone();
    let (out_of_here, out_of_there) = (rows_of(&name), rows_of(&back_name));
    let forth = CopyWay {
        name: &name,
        from: &from,
        input: &input,
        to: CopyTo::Database(&to),
        columns: &columns,
        rule: version
            .as_deref()
            .map(|version| rule(version, asked.wins, CopySide::First)),
        without: asked.both_ways.then_some(out_of_there.as_str()),
        // In both ways the table is followed, too, and has to be there before the files are.
        create: target.is_none() && !asked.both_ways,
        lossy: asked.lossy,
        shared,
    };
    plan.add(&forth);
    if let Some(columns) = &ways {
        plan.add(&CopyWay {
            name: &back_name,
            from: &to,
            input: &CopyInput::Followed,
            to: CopyTo::Database(&from),
            columns,
            rule: version
                .as_deref()
                .map(|version| rule(version, asked.wins, CopySide::Second)),
            without: Some(&out_of_here),
            create: false,
            lossy: asked.lossy,
            shared: None,
        });
        if target.is_none() {
            let made = NeededStatement::new(&to, forth.made(&to), "server.copy-why-table");
            plan.statements.push(made);
        }
    }
    let whole = asked.both_ways || is_other_key(&source, &key);
    let followed = [
        Some((&from, &name)),
        ways.is_some().then_some((&to, &back_name)),
    ];
    for (end, name) in followed.into_iter().flatten() {
        plan.needs(app, end, whole).await;
        if shared.is_none() {
            let tables = [end.in_sql()];
            plan.publishes(app, end, &changes_of(name), &tables).await;
        }
    }
    plan.ended(app).await;
    Ok(plan)
}

/// Whether rows are told apart by other columns than the primary key.
fn is_other_key(source: &SurveyedTable, key: &[String]) -> bool {
    let own = source.columns.iter().filter(|column| column.key);
    let own: BTreeSet<_> = own.map(|column| column.name.as_str()).collect();
    own != key.iter().map(String::as_str).collect()
}

/// Which row stays at the end of the way that comes from a side.
fn rule(version: &str, wins: Option<CopySide>, from: CopySide) -> CopyRule<'_> {
    match wins {
        // Of equal ones the first table's stays.
        None => CopyRule::Newer(version, from == CopySide::First),
        Some(wins) if wins == from => CopyRule::Prefer(version, PreferredEnd::From),
        Some(_) => CopyRule::Prefer(version, PreferredEnd::To),
    }
}

impl CopyPlan {
    /// Names with characters that end a line would become text of the files.
    fn check_names<const N: usize>(&mut self, names: [&String; N], source: &SurveyedTable) {
        let names = names.into_iter();
        let names = names.chain(source.columns.iter().map(|column| &column.name));
        let unfit = |name: &&String| {
            name.chars()
                .any(|c| c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}'))
        };
        for name in names.filter(unfit) {
            let shown = busbar_event::quote(name);
            self.refusals
                .push(refusal("server.copy-control").with("name", shown));
        }
    }

    /// The columns that tell rows apart.
    fn key(&mut self, asked: &CopyRequest, from: &CopyEnd, source: &SurveyedTable) -> Vec<String> {
        let mut key = asked.key.clone();
        let own = source.columns.iter().filter(|column| column.key);
        let own: Vec<_> = own.map(|column| column.name.clone()).collect();
        // Followed changes name the primary key; what is polled or copied once may have another.
        if own.is_empty() && (key.is_empty() || from.driven.is_none()) {
            self.refusals
                .push(refusal("server.copy-no-key").with("table", &self.from));
        }
        if key.is_empty() {
            key = own;
        }
        for name in &key {
            if !source.columns.iter().any(|column| column.name == *name) {
                self.refusals.push(no_column(&self.from, name, source));
            }
        }
        key
    }

    /// The column that says which change of a row is the later one, for both ways.
    fn version(
        &mut self,
        asked: &CopyRequest,
        from: &CopyEnd,
        source: &SurveyedTable,
    ) -> Option<String> {
        let version = match (&asked.version, asked.both_ways) {
            // Its version says which rows are new.
            (_, false) if from.driven.is_some() && asked.wins.is_none() => return None,
            (_, true) if from.driven.is_some() => return None,
            (None, true) => {
                self.refusals
                    .push(refusal("server.copy-version-needed").with("table", &self.from));
                return None;
            }
            (Some(_), false) if from.driven.is_none() => {
                self.refusals.push(refusal("server.copy-version-one-way"));
                return None;
            }
            (_, false) if asked.wins.is_some() => {
                self.refusals.push(refusal("server.copy-wins-one-way"));
                return None;
            }
            (version, _) => version.clone()?,
        };
        let Some(column) = source.columns.iter().find(|column| column.name == version) else {
            self.refusals.push(no_column(&self.from, &version, source));
            return None;
        };
        let grows = from.value(column).is_some_and(CopiedValue::grows);
        if !grows || column.key {
            let error = refusal("server.copy-version")
                .with("column", &column.name)
                .with("kind", &column.kind);
            self.refusals.push(error);
        }
        Some(version)
    }

    /// How the columns of a table go to another one, which is made where it is not there.
    fn way(
        &mut self,
        (from, columns): (&CopyEnd, &[SurveyedColumn]),
        (to, target): (&CopyEnd, Option<&SurveyedTable>),
        key: &[String],
        lossy: bool,
    ) -> Vec<CopiedColumn> {
        let table = to.named();
        let any_case = from.database == CopyDatabase::Driven;
        let mut types = MadeTypes::new(from.database, to.database);
        let mut copied = Vec::new();
        for column in columns {
            let about = |code| {
                refusal(code)
                    .with("column", &column.name)
                    .with("kind", &column.kind)
                    .with("table", &table)
            };
            if is_taken(&column.name) {
                self.refusals.push(about("server.copy-name"));
                continue;
            }
            let Some(value) = from.value(column) else {
                self.refusals.push(about("server.copy-type"));
                continue;
            };
            let is_key = key.contains(&column.name);
            let (made, made_fit) = types.of(column, value, is_key);
            if value.is_cut(&column.kind) {
                let about = |code| about(code).with("to", &made);
                match lossy {
                    true => self.warnings.push(about("server.copy-rounded")),
                    false => self.refusals.push(about("server.copy-lossy")),
                }
            }
            let mut fit = made_fit;
            let mut name_there = &column.name;
            match target {
                None if value.becomes_text(&column.kind) && is_text(&parts(&made).0) => {
                    self.warnings.push(about("server.copy-text"));
                }
                None => {}
                Some(target) => {
                    let there = column_there(to.database, target, &column.name, any_case);
                    let Some(there) = there else {
                        let name = to.database.identifier(&column.name);
                        let statement =
                            format!("ALTER TABLE {} ADD COLUMN {name} {made}", to.in_sql());
                        let why = "server.copy-why-column";
                        self.statements
                            .push(NeededStatement::new(to, statement, why));
                        copied.push(CopiedColumn {
                            name: column.name.clone(),
                            to: column.name.clone(),
                            value,
                            fit,
                            key: is_key,
                            made,
                            required: false,
                        });
                        continue;
                    };
                    if any_case {
                        name_there = &there.name;
                    }
                    let is = CopyType::new(from.database, &column.kind);
                    fit = value.fit(is, CopyType::new(to.database, &there.kind));
                    let about = |code| about(code).with("to", &there.kind);
                    match fit {
                        CopyFit::Never => self.refusals.push(about("server.copy-never")),
                        CopyFit::Lossy | CopyFit::AsBool if !lossy => {
                            self.refusals.push(about("server.copy-lossy"));
                        }
                        CopyFit::Lossy | CopyFit::AsBool => {
                            self.warnings.push(about("server.copy-rounded"))
                        }
                        _ => {}
                    }
                    if is_key != there.key {
                        let own = target.columns.iter().filter(|column| column.key);
                        let error = refusal("server.copy-target-key")
                            .with("table", &table)
                            .with("key", key.join(", "))
                            .with("there", names(own));
                        if !self
                            .refusals
                            .iter()
                            .any(|known| known.code() == error.code())
                        {
                            self.refusals.push(error);
                        }
                    }
                }
            }
            copied.push(CopiedColumn {
                name: column.name.clone(),
                to: name_there.clone(),
                value,
                fit,
                key: is_key,
                // A document that is null becomes no value, and a time stamp is declared to hold none.
                required: column.required && value != CopiedValue::Json && !made.ends_with(" null"),
                made,
            });
        }
        copied
    }

    fn add(&mut self, way: &CopyWay) {
        let files = way.files();
        if way.shared.is_some() {
            self.followed.push(way.followed());
        }
        let to = match way.to {
            CopyTo::Database(to) => Some((rows_of(way.name), to)),
            CopyTo::Own(_) => None,
        };
        self.flows.push(way.name.to_owned());
        let from = (changes_of(way.name), way.from);
        let ends = [way.shared.is_none().then_some(from), to];
        for (path, end) in ends.into_iter().flatten() {
            self.secrets
                .insert(format!("connections/{path}.yaml"), end.connection.clone());
        }
        self.files.extend(files);
    }

    /// What the database of a table needs so that it can be followed.
    async fn needs(&mut self, app: &App, end: &CopyEnd, whole_before: bool) {
        match settings::needed(app, end, whole_before).await {
            Ok(needed) => self.statements.extend(needed),
            Err(error) => self.warnings.push(error),
        }
    }

    /// What the database of tables needs so that the connection that brings their changes can be told of them.
    async fn publishes(&mut self, app: &App, end: &CopyEnd, source: &str, tables: &[String]) {
        if end.database != CopyDatabase::Postgres {
            return;
        }
        let publication = busbar_connect::postgres_publication(source);
        match settings::published(app, &end.connection, &publication, tables).await {
            Ok(needed) => self.statements.extend(needed),
            Err(error) => self.warnings.push(error),
        }
    }

    /// Leaves nothing to be written where something is refused.
    async fn ended(&mut self, app: &App) {
        self.check_paths(app).await;
        if !self.refusals.is_empty() {
            self.files.clear();
            self.secrets.clear();
        }
    }

    /// Files that are there already are not written over.
    async fn check_paths(&mut self, app: &App) {
        let running = app.runtime.project().await;
        for path in self.files.keys() {
            if running.bundle.files.contains_key(path) {
                self.refusals
                    .push(refusal("server.copy-exists").with("path", path));
            }
        }
    }
}

/// Whether changes use the name of a column themselves, or it has a dot.
fn is_taken(column: &str) -> bool {
    matches!(column, "change" | "before" | "unchanged") || column.contains('.')
}

/// The columns of a table that does not exist yet.
fn made_columns(columns: &[CopiedColumn]) -> Vec<SurveyedColumn> {
    let columns = columns.iter().map(|column| SurveyedColumn {
        name: column.name.clone(),
        kind: column.made.clone(),
        key: column.key,
        required: column.required,
    });
    columns.collect()
}

/// The columns as they are shown: their types here and there.
fn shown(
    from: &str,
    source: &SurveyedTable,
    to: &CopyEnd,
    target: Option<&SurveyedTable>,
    columns: &[CopiedColumn],
) -> Vec<PlannedColumn> {
    let columns = columns.iter().map(|column| {
        let mut own = source.columns.iter();
        let own = own.find(|own| own.name == column.name);
        let there = target.and_then(|target| column_there(to.database, target, &column.to, false));
        PlannedColumn {
            table: from.to_owned(),
            name: column.name.clone(),
            from: own.map(|own| own.kind.clone()).unwrap_or_default(),
            to: there.map_or(&column.made, |there| &there.kind).clone(),
            key: column.key,
        }
    });
    columns.collect()
}

/// A column of a table that is there, by its name as the database tells names apart, or in whatever case.
fn column_there<'a>(
    database: CopyDatabase,
    table: &'a SurveyedTable,
    name: &str,
    any_case: bool,
) -> Option<&'a SurveyedColumn> {
    let exact = table.columns.iter().find(|column| column.name == name);
    exact.or_else(|| {
        let mut columns = table.columns.iter();
        let any_case = any_case || database == CopyDatabase::MySql;
        columns.find(|column| any_case && column.name.eq_ignore_ascii_case(name))
    })
}

fn names<'a>(columns: impl Iterator<Item = &'a SurveyedColumn>) -> String {
    let names: Vec<_> = columns.map(|column| column.name.as_str()).collect();
    match names.is_empty() {
        true => "-".into(),
        false => names.join(", "),
    }
}

fn no_column(table: &str, name: &str, source: &SurveyedTable) -> Error {
    refusal("server.compare-no-column")
        .with("column", name)
        .with("table", table)
        .with("there", names(source.columns.iter()))
}

/// A name of files made of a table's.
fn named(table: &str) -> String {
    let name: String = table
        .to_lowercase()
        .chars()
        .map(|c| match c {
            'a'..='z' | '0'..='9' | '_' | '-' => c,
            _ => '_',
        })
        .collect();
    match name.starts_with(|c: char| c.is_ascii_lowercase()) {
        true => name,
        false => format!("t{name}"),
    }
}
