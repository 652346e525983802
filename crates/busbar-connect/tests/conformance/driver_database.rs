//! Look-ups, statements and relations over `jdbc` and `odbc`, on each engine.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use busbar_connector::{ColumnType, ServiceContext, SqlDatabase, SqlPart, SqlStatement, SqlValue};
use busbar_event::Class;

use crate::driver_engine::{ENGINES, Engine};
use crate::world::spec;

fn database(engine: &Engine) -> Arc<dyn SqlDatabase> {
    let context = ServiceContext {
        name: "x".into(),
        project_dir: engine.folder.path().into(),
        clock: Arc::new(busbar_log::SystemClock),
    };
    let text = engine.connection("");
    let opened = engine.runtime.block_on(async {
        let spec = spec(&text);
        engine.connector.database(&spec, context).await
    });
    opened.unwrap_or_else(|why| panic!("{}: {why}", engine.name))
}

fn shown(batches: &[RecordBatch]) -> Vec<String> {
    let rows = batches
        .iter()
        .flat_map(|batch| (0..batch.num_rows()).map(move |row| (batch, row)));
    rows.map(|(batch, row)| {
        let values = batch.columns().iter();
        let values = values.map(|column| array_value_to_string(column, row).expect("a text"));
        values.collect::<Vec<_>>().join("|")
    })
    .collect()
}

fn run(
    engine: &Engine,
    database: &dyn SqlDatabase,
    statement: &SqlStatement,
) -> Result<(Vec<String>, Option<u64>), busbar_event::Error> {
    engine.runtime.block_on(async {
        let mut rows = database.run(statement).await?;
        let mut all = Vec::new();
        while let Some(batch) = rows.next().await? {
            all.push(batch);
        }
        Ok((shown(&all), rows.affected()))
    })
}

#[test]
fn tables_are_described_and_statements_run_on_each_engine() {
    for name in ENGINES {
        let engine = Engine::start(name);
        let table = engine.table();
        engine.run(&format!(
            "create table {table} (id integer not null primary key, name varchar(20), amount decimal(10, 2), born date)"
        ));
        engine.run(&format!(
            "insert into {table} values (1, 'it''s', 1.50, '2024-02-29'), (2, '雨', null, null), (3, 'c', -2.25, null)"
        ));
        let database = database(&engine);
        let described = engine
            .runtime
            .block_on(database.describe(std::slice::from_ref(&table)));
        let described = described.expect(name).expect(name);
        let columns: Vec<_> = described
            .columns
            .iter()
            .map(|column| (column.name.to_lowercase(), column.kind))
            .collect();
        let wanted = [
            ("id", ColumnType::Int),
            ("name", ColumnType::Text),
            ("amount", ColumnType::Float),
            ("born", ColumnType::Text),
        ];
        assert_eq!(
            columns,
            wanted.map(|(name, kind)| (name.to_owned(), kind)),
            "{name}"
        );
        let none = engine
            .runtime
            .block_on(database.describe(&["no_such".into()]));
        assert!(none.expect(name).is_none(), "{name}");
        // As a look-up asks: quoted names, several keys, and the columns as described.
        let quoted = |text: &str| database.quoted(text);
        let names: Vec<_> = described
            .columns
            .iter()
            .map(|column| quoted(&column.name))
            .collect();
        let path: Vec<_> = described.path.iter().map(|part| quoted(part)).collect();
        let statement = SqlStatement {
            parts: vec![
                SqlPart::Text(format!(
                    "SELECT {} FROM {} WHERE ",
                    names.join(", "),
                    path.join(".")
                )),
                SqlPart::OneOf(
                    names[0].clone(),
                    vec![SqlValue::Int(1), SqlValue::Int(2)],
                    None,
                ),
                SqlPart::Text(format!(" ORDER BY {}{}", names[0], database.limited(10))),
            ],
            columns: Some(described.schema()),
            reads: true,
            ..SqlStatement::default()
        };
        let (rows, affected) = run(&engine, &*database, &statement).expect(name);
        assert_eq!(rows, ["1|it's|1.5|2024-02-29", "2|雨||"], "{name}");
        assert_eq!(affected, None, "{name}");
        // As a call asks.
        let update = SqlStatement {
            parts: vec![
                SqlPart::Text(format!("update {table} set name = ")),
                SqlPart::Value(SqlValue::Text("x' or 'a' = 'a".into()), None),
                SqlPart::Text(" where id < ".into()),
                SqlPart::Value(SqlValue::Int(3), None),
            ],
            ..SqlStatement::default()
        };
        assert_eq!(
            run(&engine, &*database, &update).expect(name).1,
            Some(2),
            "{name}"
        );
        let there = engine.texts(&format!("select name from {table} order by id"));
        assert_eq!(there, ["x' or 'a' = 'a", "x' or 'a' = 'a", "c"], "{name}");
        // What is refused is said, and the session does not stay behind.
        let long = SqlStatement {
            parts: vec![
                SqlPart::Text(format!("update {table} set name = ")),
                SqlPart::Value(SqlValue::Text("y".repeat(30)), None),
            ],
            ..SqlStatement::default()
        };
        // SQLite takes texts of any length.
        if engine.database != "sqlite" {
            let refused = run(&engine, &*database, &long).expect_err(name);
            assert_eq!(refused.class(), Class::Permanent, "{name}: {refused}");
        }
        assert_eq!(database.pool().used, 0, "{name}");
    }
}
