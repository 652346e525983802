//! The files of a copy, as they are written to the project.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use busbar_connector::SurveyedColumn;
use serde_json::{Map, Value, json};

use super::value::{CopiedValue, CopyDatabase, CopyFit};

/// A column of one way.
#[derive(Clone, Debug)]
pub(crate) struct CopiedColumn {
    pub name: String,
    /// Its name in the table that is written.
    pub to: String,
    pub value: CopiedValue,
    pub fit: CopyFit,
    pub key: bool,
    /// The type that it is made with where it is not there.
    pub made: String,
    /// It holds no null where it is made with its table.
    pub required: bool,
}

impl CopiedColumn {
    /// How it is declared in a table that is made.
    fn declared(&self) -> String {
        match self.required {
            true => format!("{} not null", self.made),
            false => self.made.clone(),
        }
    }
}

/// How the rows of a table come in.
#[derive(Clone, Debug)]
pub(crate) enum CopyInput {
    /// As changes that the database hands over.
    Followed,
    /// Rows are looked for whose value of this column is new.
    Polled(String),
    /// All of them once, as this statement reads them.
    Once(String),
}

/// One way: from the changes of a table to another table.
pub(crate) struct CopyWay<'a> {
    /// What its files are called: `patient`, `patient_back`.
    pub name: &'a str,
    /// The connections' options that say where both are, without what they are used for.
    pub from: &'a CopyEnd,
    pub input: &'a CopyInput,
    pub to: CopyTo<'a>,
    pub columns: &'a [CopiedColumn],
    /// Which row stays where both sides have changed it.
    pub rule: Option<CopyRule<'a>>,
    /// The connection whose writes are left out.
    pub without: Option<&'a str>,
    pub create: bool,
    pub lossy: bool,
    /// The name of the copy of several tables whose changes one connection brings.
    pub shared: Option<&'a str>,
}

/// Which row stays where both sides have changed it.
#[derive(Clone, Copy)]
pub(crate) enum CopyRule<'a> {
    /// The one with the greater value of a column; an equal one, too, where it is so said.
    Newer(&'a str, bool),
    /// The one of the preferred side, which the way comes from or goes to. The column tells versions of a row apart.
    Prefer(&'a str, PreferredEnd),
}

/// Which end of a way the preferred side is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PreferredEnd {
    From,
    To,
}

/// The table that a way goes to.
#[derive(Clone, Copy)]
pub(crate) enum CopyTo<'a> {
    Database(&'a CopyEnd),
    /// One of the node's own.
    Own(&'a OwnTable),
}

/// A table of the node.
pub(crate) struct OwnTable {
    pub name: String,
    /// `hot`, `relational` or `wide`.
    pub engine: &'static str,
    pub exists: bool,
}

/// Where a table is.
pub(crate) struct CopyEnd {
    pub database: CopyDatabase,
    pub kind: String,
    /// The connection that says how it is reached.
    pub connection: String,
    /// Its options, with secrets hidden.
    pub options: Map<String, Value>,
    /// Empty in a database without schemas.
    pub schema: String,
    pub table: String,
    /// What is known of it where it is behind a driver.
    pub driven: Option<DrivenTable>,
}

/// What is known of a table behind a driver.
pub(crate) struct DrivenTable {
    /// What its columns hold, by their names.
    pub values: BTreeMap<String, CopiedValue>,
    /// Reads all of its rows.
    pub statement: String,
}

impl CopyEnd {
    /// The table, by connection and full name.
    pub fn named(&self) -> String {
        format!("{}:{}", self.connection, self.path())
    }

    /// What a column of the table holds; none where changes do not carry its values.
    pub fn value(&self, column: &SurveyedColumn) -> Option<CopiedValue> {
        match &self.driven {
            Some(driven) => driven.values.get(&column.name).copied(),
            None => CopiedValue::of(self.database, &column.kind),
        }
    }

    /// The table, as it is written in SQL.
    pub fn in_sql(&self) -> String {
        let name = |name| self.database.identifier(name);
        format!("{}.{}", name(&self.schema), name(&self.table))
    }

    /// Whether both are one table, whichever connections lead to it.
    pub fn is_same(&self, other: &CopyEnd) -> bool {
        let within: &[&str] = match self.database {
            CopyDatabase::Postgres => &["address", "database"],
            // A schema is a database.
            CopyDatabase::MySql => &["address"],
            // It is not written.
            CopyDatabase::Driven => return false,
        };
        let is_same = |key: &&str| self.options.get(*key) == other.options.get(*key);
        self.database == other.database
            && (self.connection == other.connection || within.iter().all(is_same))
            && (&self.schema, &self.table) == (&other.schema, &other.table)
    }

    /// The table, as files name it.
    pub fn path(&self) -> String {
        match self.schema.is_empty() {
            true => self.table.clone(),
            false => format!("{}.{}", self.schema, self.table),
        }
    }

    /// A connection to the same database, used for this.
    fn connection(&self, about: &str, used: &str, options: &Value) -> String {
        let mut text = format!("# {about}\n{}:\n", self.kind);
        for (key, value) in &self.options {
            // Writing to memory does not fail.
            let _ = writeln!(text, "  {key}: {}", flow_style(value));
        }
        let _ = writeln!(text, "  {used}: {}", flow_style(options));
        text
    }
}

/// The name of the connection that a way reads, and of that which it writes.
pub(crate) fn changes_of(name: &str) -> String {
    format!("{name}_changes")
}

/// The name of the connection that a way writes.
pub(crate) fn rows_of(name: &str) -> String {
    format!("{name}_rows")
}

/// Names that events have besides their payload's, and of what a change says of itself.
const TAKEN: [&str; 4] = ["topic", "key", "time", "tags"];

impl CopyWay<'_> {
    /// Paths and texts of its files.
    pub fn files(&self) -> BTreeMap<String, String> {
        let changes = changes_of(self.name);
        let topic = match self.shared {
            None => format!("{}/changes", self.name),
            Some(shared) => shared_topic(
                shared,
                self.from,
                &level(&self.from.schema),
                &level(&self.from.table),
            ),
        };
        let source = self.source();
        let to = match self.to {
            CopyTo::Database(to) => Some((
                format!("connections/{}.yaml", rows_of(self.name)),
                self.sink(to),
            )),
            CopyTo::Own(table) if table.exists => None,
            CopyTo::Own(table) => {
                Some((format!("tables/{}.yaml", table.name), self.own_table(table)))
            }
        };
        let own = self.shared.is_none().then(|| {
            (
                format!("connections/{changes}.yaml"),
                format!("{source}topic: {}\n", flow_style(&json!(topic))),
            )
        });
        let files = BTreeMap::from([
            (format!("streams/{changes}.yaml"), self.stream(&topic)),
            (format!("flows/{}.yaml", self.name), self.flow()),
        ]);
        files.into_iter().chain(own).chain(to).collect()
    }

    /// The connection that reads, without its topic.
    fn source(&self) -> String {
        let (used, options) = match self.input {
            CopyInput::Polled(_) => ("poll", json!({ "tables": [self.followed()] })),
            CopyInput::Once(statement) => {
                ("query", json!({ "statement": statement, "once": true }))
            }
            CopyInput::Followed => {
                let mut follow = json!({ "tables": [self.followed()] });
                if let Some(without) = self.without {
                    follow["without"] = json!([without]);
                }
                match self.rule {
                    Some(CopyRule::Prefer(_, PreferredEnd::From)) => {
                        follow["echo"] = json!("returned");
                    }
                    Some(CopyRule::Prefer(_, PreferredEnd::To)) => follow["echo"] = json!("none"),
                    _ => {}
                }
                ("follow", follow)
            }
        };
        let what = if self.has_change() { "changes" } else { "rows" };
        let about = format!("The {what} of {}.", self.from.named());
        self.from.connection(&about, used, &options)
    }

    /// What the connection that reads says of the table.
    pub fn followed(&self) -> Value {
        let table = self.from.path();
        match self.input {
            CopyInput::Polled(version) => {
                let key = self.columns.iter().filter(|column| column.key);
                let key: Vec<_> = key.map(|column| &column.name).collect();
                json!({ "table": table, "version": version, "key": key })
            }
            _ => json!(table),
        }
    }

    /// Whether events say what was done with their row.
    fn has_change(&self) -> bool {
        !matches!(self.input, CopyInput::Once(_))
    }

    /// The columns of the table that is written which tell its rows apart.
    fn key(&self) -> Vec<&str> {
        let key = self.columns.iter().filter(|column| column.key);
        key.map(|column| column.to.as_str()).collect()
    }

    /// The connection that writes.
    fn sink(&self, to: &CopyEnd) -> String {
        let mut write = json!({ "table": to.path(), "key": self.key() });
        match self.has_change() {
            true => write["change"] = json!("change"),
            false => write["mode"] = json!("upsert"),
        }
        if self.repeats_not() {
            write["unchanged"] = json!("unchanged");
        }
        match self.rule {
            Some(CopyRule::Newer(newer, or_equal)) => {
                write["newer"] = json!(newer);
                write["or_equal"] = json!(or_equal);
            }
            Some(CopyRule::Prefer(version, end)) => {
                let row = match end {
                    PreferredEnd::From => "coming",
                    PreferredEnd::To => "there",
                };
                let was = self.was(version);
                write["prefer"] = json!({ "row": row, "version": version, "was": was });
            }
            None => {}
        }
        if self.create {
            let columns = self.columns.iter();
            let types = columns.map(|column| (column.to.clone(), json!(column.declared())));
            write["create"] = json!(true);
            write["types"] = Value::Object(types.collect());
        }
        if self.lossy {
            write["lossy"] = json!(true);
        }
        let about = format!("Rows for {}.", to.named());
        to.connection(&about, "write", &write)
    }

    /// The file of a table of the node.
    fn own_table(&self, table: &OwnTable) -> String {
        let from = self.from.named();
        let key = flow_style(&json!(self.key()));
        let mut text = format!(
            "# A copy of {from}.\n{}: {{}}\nkey: {key}\ncolumns:\n",
            table.engine
        );
        for column in self.columns {
            let name = flow_style(&json!(column.to));
            let _ = writeln!(text, "  - {{ name: {name}, type: {} }}", column.made);
        }
        text
    }

    /// Whether the database leaves out large values that did not change.
    fn repeats_not(&self) -> bool {
        self.from.database == CopyDatabase::Postgres
    }

    fn stream(&self, topic: &str) -> String {
        let mut text = format!(
            "# {} of {}.\ntopics: {}\nformat: json\nschema:\n",
            if self.has_change() { "Changes" } else { "Rows" },
            self.from.named(),
            flow_style(&json!(topic))
        );
        if self.has_change() {
            text.push_str("  - { name: change, type: text }\n");
        }
        if self.repeats_not() {
            text.push_str("  - { name: unchanged, type: json }\n");
        }
        for column in self.columns {
            let field = match column.fit {
                CopyFit::AsText => "text",
                _ => column.value.field().as_str(),
            };
            let name = flow_style(&json!(self.field(&column.name)));
            let path = match TAKEN.contains(&column.name.as_str()) {
                true => format!(", path: {}", flow_style(&json!(column.name))),
                false => String::new(),
            };
            let _ = writeln!(text, "  - {{ name: {name}, type: {field}{path} }}");
            if let Some(was) = self.was_of(column) {
                let path = flow_style(&json!(format!("before.{}", column.name)));
                let was = flow_style(&json!(was));
                let _ = writeln!(text, "  - {{ name: {was}, type: {field}, path: {path} }}");
            }
        }
        text
    }

    /// What the flow calls the value of a column before a change.
    fn was(&self, column: &str) -> String {
        let mut was = format!("{column}_was");
        while self.columns.iter().any(|other| other.name == was) {
            was.push('_');
        }
        was
    }

    /// The same, where the way needs it of this column.
    fn was_of(&self, column: &CopiedColumn) -> Option<String> {
        match self.rule {
            Some(CopyRule::Prefer(version, _)) if version == column.name => Some(self.was(version)),
            _ => None,
        }
    }

    /// What the stream calls a column.
    fn field(&self, column: &str) -> String {
        let mut field = column.to_owned();
        if TAKEN.contains(&column) {
            field = format!("column_{column}");
            while self.columns.iter().any(|other| other.name == field) {
                field.push('_');
            }
        }
        field
    }

    fn flow(&self) -> String {
        let quoted = |name: &str| CopyDatabase::Postgres.identifier(name);
        let mut select = Vec::new();
        if self.has_change() {
            select.push("change".to_owned());
        }
        if self.repeats_not() {
            select.push("unchanged".into());
        }
        let database = self.from.database;
        let computed = |column: &CopiedColumn, field: &str, name: &str| {
            let field = quoted(field);
            let computed = match (self.to, column.fit) {
                (CopyTo::Own(_), _) => column.value.computed_to_keep(&field, database, self.lossy),
                (CopyTo::Database(to), CopyFit::AsText) => {
                    column.value.as_text(&field, to.database)
                }
                (_, CopyFit::AsBool) => format!("{field} <> 0"),
                (_, CopyFit::AsSingle) => format!("cast({field} as real)"),
                _ => column.value.computed(&field, database),
            };
            match computed == quoted(name) {
                true => computed,
                false => format!("{computed} as {}", quoted(name)),
            }
        };
        for column in self.columns {
            select.push(computed(column, &self.field(&column.name), &column.to));
            if let Some(was) = self.was_of(column) {
                select.push(computed(column, &was, &was));
            }
        }
        let (to, output) = match self.to {
            CopyTo::Database(to) => (
                to.named(),
                format!("  - connection: {}\n", rows_of(self.name)),
            ),
            CopyTo::Own(table) => {
                let mut output = format!("  - table: {}\n", table.name);
                if self.has_change() {
                    output.push_str("    change: change\n");
                }
                if self.repeats_not() {
                    output.push_str("    unchanged: unchanged\n");
                }
                (table.name.clone(), output)
            }
        };
        let about = match self.has_change() {
            true => format!("Keeps {to} in step with {}", self.from.named()),
            false => format!("Copies {} to {to} once", self.from.named()),
        };
        format!(
            "# {about}.\nfrom: {}\nsteps:\n  - select: >-\n      {}\nto:\n{output}",
            changes_of(self.name),
            select.join(",\n      "),
        )
    }

    /// The statement that makes a table of a database that is written to.
    pub fn made(&self, to: &CopyEnd) -> String {
        let database = to.database;
        let columns = self.columns.iter().map(|column| {
            let name = database.identifier(&column.to);
            format!("{name} {}", column.declared())
        });
        let key = self.key().into_iter().map(|name| database.identifier(name));
        let key: Vec<_> = key.collect();
        let columns = columns.chain([format!("PRIMARY KEY ({})", key.join(", "))]);
        let columns: Vec<_> = columns.collect();
        let engine = match database {
            CopyDatabase::MySql => " ENGINE=InnoDB",
            CopyDatabase::Postgres | CopyDatabase::Driven => "",
        };
        format!(
            "CREATE TABLE {} ({}){engine}",
            to.in_sql(),
            columns.join(", ")
        )
    }
}

/// The connection that brings the changes of several tables, which are what [`CopyWay::followed`] says of each.
pub(crate) fn followed_by(from: &CopyEnd, name: &str, tables: &[Value]) -> String {
    let about = format!("The changes of tables of {}.", from.connection);
    let used = match from.database {
        CopyDatabase::Driven => "poll",
        CopyDatabase::Postgres | CopyDatabase::MySql => "follow",
    };
    let text = from.connection(&about, used, &json!({ "tables": tables }));
    let topic = shared_topic(name, from, "${schema}", "${table}");
    format!("{text}topic: {}\n", flow_style(&json!(topic)))
}

/// The topic of a table's changes, where one connection brings those of several.
fn shared_topic(name: &str, from: &CopyEnd, schema: &str, table: &str) -> String {
    match from.schema.is_empty() {
        true => format!("{name}/{table}"),
        false => format!("{name}/{schema}/{table}"),
    }
}

/// A name as one level of a topic, as connections write it.
fn level(name: &str) -> String {
    let unfit = |c: char| matches!(c, '/' | '+' | '#') || c.is_control();
    name.chars()
        .map(|c| if unfit(c) { '_' } else { c })
        .collect()
}

/// A value as YAML on one line. JSON is YAML; plain words need no quotes.
fn flow_style(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members = members.iter();
            let members: Vec<_> = members
                .map(|(key, value)| {
                    let key = flow_style(&json!(key));
                    format!("{key}: {}", flow_style(value))
                })
                .collect();
            match members.is_empty() {
                true => "{}".into(),
                false => format!("{{ {} }}", members.join(", ")),
            }
        }
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(flow_style).collect();
            format!("[{}]", values.join(", "))
        }
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether a text is itself in YAML without quotes.
fn is_plain(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b"_./-".contains(&b);
    text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text.bytes().all(word)
        && !matches!(
            text.to_lowercase().as_str(),
            "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n"
        )
}
