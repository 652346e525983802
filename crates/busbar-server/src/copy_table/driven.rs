//! Tables behind JDBC and ODBC drivers: what their columns hold, and how their rows come in.

use busbar_connector::{ColumnType, SurveyedColumn, SurveyedTable};
use busbar_event::Error;

use super::files::{CopyEnd, CopyInput, DrivenTable};
use super::value::CopiedValue;
use super::{CopyPlan, CopyRequest, names, no_column, refusal, settings};
use crate::app::App;

/// Looks at a table behind a driver; `server` is what the database calls itself.
///
/// # Errors
/// What the driver says.
pub(super) async fn look(
    app: &App,
    connection: &str,
    server: &str,
    table: &SurveyedTable,
) -> Result<DrivenTable, Error> {
    let database = settings::database(app, connection).await?;
    let path = [table.schema.clone(), table.name.clone()];
    let path = match table.schema.is_empty() {
        true => &path[1..],
        false => &path[..],
    };
    let described = database.describe(path).await?;
    let described = described.map(|table| table.columns).unwrap_or_default();
    // It keeps numbers as it is given them, whatever digits their type names.
    let any_digits = server.to_lowercase().starts_with("sqlite");
    let values = table.columns.iter().map(|column| {
        let mut described = described.iter();
        let is = described.find(|one| one.name == column.name);
        let is = is.map_or(ColumnType::Text, |one| one.kind);
        let value = match CopiedValue::driven(is, &column.kind) {
            CopiedValue::Number(..) if any_digits => CopiedValue::Text,
            value => value,
        };
        (column.name.clone(), value)
    });
    let quoted: Vec<_> = path.iter().map(|name| database.quoted(name)).collect();
    Ok(DrivenTable {
        values: values.collect(),
        statement: format!("SELECT * FROM {}", quoted.join(".")),
    })
}

/// The schema of tables of a database behind a driver that are named without one: that of the only ones of this name, of all
/// where the name is `*`. Empty where there are none.
///
/// # Errors
/// They are in several.
pub(super) fn schema(
    connection: &str,
    tables: &[SurveyedTable],
    name: &str,
) -> Result<String, Error> {
    let exact = tables.iter().any(|table| table.name == name);
    let is_meant = |table: &&SurveyedTable| match exact {
        true => table.name == name,
        false => name == "*" || table.name.eq_ignore_ascii_case(name),
    };
    let mut schemas: Vec<_> = tables.iter().filter(is_meant).map(|t| &t.schema).collect();
    schemas.dedup();
    match schemas[..] {
        [] => Ok(String::new()),
        [one] => Ok(one.clone()),
        _ => {
            let names = schemas.iter().take(SCHEMAS_SHOWN_MAX);
            let names: Vec<_> = names.map(|s| format!("{connection}:{s}.{name}")).collect();
            Err(refusal("server.compare-which")
                .with("table", name)
                .with("names", names.join(", ")))
        }
    }
}

/// Schemas that a refusal names.
const SCHEMAS_SHOWN_MAX: usize = 20;

impl CopyPlan {
    /// How the rows of a table come in.
    pub(super) fn input(
        &mut self,
        asked: &CopyRequest,
        from: &CopyEnd,
        source: &SurveyedTable,
    ) -> CopyInput {
        let about = |code| refusal(code).with("connection", &from.connection);
        let about = |code| about(code).with("kind", &from.kind);
        let Some(driven) = &from.driven else {
            if asked.once {
                self.refusals.push(about("server.copy-once-kind"));
            }
            return CopyInput::Followed;
        };
        if asked.both_ways {
            self.refusals.push(about("server.copy-driver-both"));
        }
        let about = |code| refusal(code).with("table", from.named());
        if asked.once {
            if asked.version.is_some() {
                self.refusals.push(about("server.copy-once-version"));
            }
            self.warnings.push(about("server.copy-once"));
            return CopyInput::Once(driven.statement.clone());
        }
        let grows = |column: &&SurveyedColumn| {
            let value = from.value(column);
            !column.key && value.is_some_and(CopiedValue::grows)
        };
        let Some(version) = &asked.version else {
            let fit = names(source.columns.iter().filter(grows));
            let code = match fit.as_str() {
                "-" => "server.copy-poll-none",
                _ => "server.copy-poll-version",
            };
            self.refusals.push(about(code).with("columns", fit));
            return CopyInput::Followed;
        };
        let find = |is: &dyn Fn(&str) -> bool| source.columns.iter().find(|one| is(&one.name));
        let column = find(&|name| name == version)
            .or_else(|| find(&|name| name.eq_ignore_ascii_case(version)));
        match column {
            None => self
                .refusals
                .push(no_column(&from.named(), version, source)),
            Some(column) if !grows(&column) => {
                let fit = names(source.columns.iter().filter(grows));
                let error = about("server.copy-poll-column")
                    .with("column", &column.name)
                    .with("kind", &column.kind)
                    .with("columns", fit);
                self.refusals.push(error);
            }
            Some(column) => {
                let warning = about("server.copy-polled").with("column", &column.name);
                self.warnings.push(warning);
            }
        }
        CopyInput::Polled(column.map_or(version, |column| &column.name).clone())
    }

    /// A table that is polled is read in the order of its key.
    pub(super) fn check_order(
        &mut self,
        input: &CopyInput,
        from: &CopyEnd,
        source: &SurveyedTable,
        key: &[String],
    ) {
        if !matches!(input, CopyInput::Polled(_)) {
            return;
        }
        let unordered = |column: &&SurveyedColumn| {
            let kind = column.kind.to_lowercase();
            let large = kind.contains("lob") || kind.contains("large object");
            key.contains(&column.name) && (large || from.value(column) == Some(CopiedValue::Float))
        };
        for column in source.columns.iter().filter(unordered) {
            let error = refusal("server.copy-poll-key")
                .with("column", &column.name)
                .with("kind", &column.kind)
                .with("table", from.named());
            self.refusals.push(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::files::{CopiedColumn, CopyTo, CopyWay, OwnTable};
    use super::super::value::{CopyDatabase, CopyFit};
    use super::*;

    fn table(schema: &str, name: &str) -> SurveyedTable {
        SurveyedTable {
            schema: schema.into(),
            name: name.into(),
            rows: None,
            columns: Vec::new(),
        }
    }

    #[test]
    fn a_table_without_a_schema_is_the_only_one_of_its_name() {
        let tables = [
            table("A", "ONE"),
            table("A", "TWO"),
            table("B", "TWO"),
            table("B", "two"),
        ];
        let schema = |name| schema("his", &tables, name).map_err(|error| error.code());
        assert_eq!(schema("one"), Ok("A".into()));
        assert_eq!(schema("two"), Ok("B".into()));
        assert_eq!(schema("TWO"), Err("server.compare-which"));
        assert_eq!(schema("*"), Err("server.compare-which"));
        assert_eq!(schema("three"), Ok(String::new()));
        let alone = [table("", "a"), table("", "b")];
        assert_eq!(super::schema("his", &alone, "*").ok(), Some(String::new()));
    }

    /// The files of a copy from behind a driver to a table of the node.
    fn files(input: &CopyInput) -> Vec<String> {
        let Value::Object(options) =
            json!({ "url": "jdbc:x:a", "password": "(hidden)", "properties": { "a b": "c" } })
        else {
            panic!("no object");
        };
        let columns = [
            ("ID", CopiedValue::Whole, true),
            ("key", CopiedValue::Text, false),
            ("RAW", CopiedValue::Bytes, false),
            ("SEEN", CopiedValue::Local, false),
        ];
        let from = CopyEnd {
            database: CopyDatabase::Driven,
            kind: "jdbc".into(),
            connection: "lab".into(),
            options,
            schema: "S".into(),
            table: "RESULT".into(),
            driven: None,
        };
        let columns = columns.map(|(name, value, key)| CopiedColumn {
            name: name.into(),
            to: name.to_lowercase(),
            value,
            fit: CopyFit::Whole,
            key,
            made: value.kept(false).as_str().to_owned(),
            required: false,
        });
        let table = OwnTable {
            name: "result".into(),
            engine: "hot",
            exists: true,
        };
        let way = CopyWay {
            name: "result",
            from: &from,
            input,
            to: CopyTo::Own(&table),
            columns: &columns,
            rule: None,
            without: None,
            create: false,
            lossy: false,
            shared: None,
        };
        let files = way.files().into_iter();
        files
            .map(|(path, text)| format!("{path}\n{text}"))
            .collect()
    }

    #[test]
    fn the_files_poll_a_table_or_read_it_once() {
        let head =
            "jdbc:\n  password: \"(hidden)\"\n  properties: { \"a b\": c }\n  url: \"jdbc:x:a\"\n";
        let select = "\"ID\" as \"id\",\n      \"column_key\" as \"key\",\n      decode(\"RAW\", 'hex') as \"raw\",\n      cast(\"SEEN\" as timestamp(6)) as \"seen\"";
        let fields = "  - { name: ID, type: int }\n  - { name: column_key, type: text, path: key }\n  - { name: RAW, type: text }\n  - { name: SEEN, type: text }\n";
        assert_eq!(
            files(&CopyInput::Polled("SEEN".into())),
            [
                format!(
                    "connections/result_changes.yaml\n# The changes of lab:S.RESULT.\n{head}  poll: {{ tables: [{{ key: [ID], table: S.RESULT, version: SEEN }}] }}\ntopic: result/changes\n"
                ),
                format!(
                    "flows/result.yaml\n# Keeps result in step with lab:S.RESULT.\nfrom: result_changes\nsteps:\n  - select: >-\n      change,\n      {select}\nto:\n  - table: result\n    change: change\n"
                ),
                format!(
                    "streams/result_changes.yaml\n# Changes of lab:S.RESULT.\ntopics: result/changes\nformat: json\nschema:\n  - {{ name: change, type: text }}\n{fields}"
                ),
            ]
        );
        assert_eq!(
            files(&CopyInput::Once("SELECT * FROM \"S\".\"RESULT\"".into())),
            [
                format!(
                    "connections/result_changes.yaml\n# The rows of lab:S.RESULT.\n{head}  query: {{ once: true, statement: \"SELECT * FROM \\\"S\\\".\\\"RESULT\\\"\" }}\ntopic: result/changes\n"
                ),
                format!(
                    "flows/result.yaml\n# Copies lab:S.RESULT to result once.\nfrom: result_changes\nsteps:\n  - select: >-\n      {select}\nto:\n  - table: result\n"
                ),
                format!(
                    "streams/result_changes.yaml\n# Rows of lab:S.RESULT.\ntopics: result/changes\nformat: json\nschema:\n{fields}"
                ),
            ]
        );
    }
}
