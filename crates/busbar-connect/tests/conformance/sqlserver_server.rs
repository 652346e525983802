//! `sqlserver` with a server that others wrote, Iridium: `make test-servers`. It lacks capture and tracking of changes, and
//! counts all refusals under one number.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray};
use arrow::util::pretty::pretty_format_batches;
use busbar_connector::{Polled, SqlPart, SqlStatement};
use busbar_event::Class;
use tokio::runtime::Runtime;

use crate::postgres_sink::{ints, open, rows, texts, write};
use crate::servers::{DatabaseServer, sqlserver};
use crate::world::spec;
use crate::{service_context, source_context};

fn connection(server: &DatabaseServer, more: &str) -> String {
    format!(
        "sqlserver: {{ address: '127.0.0.1:{}', database: master, user: sa, password: secret, trust_certificate: true{more} }}\n",
        server.port
    )
}

/// What a statement answers, as a table.
fn run(server: &DatabaseServer, sql: &str) -> String {
    let registry = busbar_connect::registry();
    let connector = registry.get("sqlserver").expect("registered");
    let statement = SqlStatement {
        parts: vec![SqlPart::Text(sql.to_owned())],
        ..SqlStatement::default()
    };
    Runtime::new().expect("a runtime").block_on(async {
        let spec = spec(&connection(server, ""));
        let database = connector
            .database(&spec, service_context(Path::new("/")))
            .await
            .expect("it opens");
        let mut rows = database
            .run(&statement)
            .await
            .unwrap_or_else(|why| panic!("{why}: {sql}"));
        let mut all = Vec::new();
        while let Some(batch) = rows.next().await.expect("rows") {
            all.push(batch);
        }
        pretty_format_batches(&all).expect("a table").to_string()
    })
}

/// The values of the rows, with bars between them.
fn values(server: &DatabaseServer, sql: &str) -> Vec<String> {
    let table = run(server, sql);
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(1);
    rows.map(|line| {
        line.trim_matches('|')
            .split('|')
            .map(str::trim)
            .collect::<Vec<_>>()
            .join("|")
    })
    .collect()
}

#[test]
#[ignore = "make test-servers"]
fn rows_are_written_read_and_looked_up() {
    let server = sqlserver();
    changes_are_followed_row_by_row(&server);
    many_rows_are_deleted(&server);
    rows_are_told_apart_by_two_columns(&server);
    a_long_text_stays_whole(&server);
    each_delivery_is_done_once(&server);
    a_refused_row_holds_no_other_up(&server);
    tables_are_made_and_surveyed(&server);
    statements_are_run_again(&server);
}

fn changes_are_followed_row_by_row(server: &DatabaseServer) {
    run(
        server,
        "create table dbo.t (id int not null primary key, name nvarchar(40), bio nvarchar(max))",
    );
    let write_to = |more: &str| connection(server, &format!(", write: {{ table: t, {more} }}"));
    let text = write_to("change: change, key: [id], unchanged: unchanged");
    let changes = |position, all: &[(&str, i64, &str, &str, &str)]| {
        let column = |of: fn(&(&str, i64, &str, &str, &str)) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(all.iter().map(of)))
        };
        rows(
            position,
            vec![
                ("change", column(|row| row.0.to_owned())),
                ("id", ints(&all.iter().map(|row| row.1).collect::<Vec<_>>())),
                ("name", column(|row| row.2.to_owned())),
                ("bio", column(|row| row.3.to_owned())),
                ("unchanged", column(|row| row.4.to_owned())),
            ],
        )
    };
    let there = || values(server, "select id, name, bio from dbo.t order by id");
    let first = changes(
        1,
        &[
            ("read", 1, "张三", "long", ""),
            ("insert", 2, "it's \\ 'x", "x", ""),
            ("insert", 3, "c", "y", ""),
            ("delete", 3, "", "", ""),
            ("schema", 0, "", "", ""),
            ("update", 1, "李四", "", "[\"bio\"]"),
            ("insert", 4, "d", "kept", ""),
            ("update", 4, "d2", "", "bio"),
        ],
    );
    assert_eq!(write(&text, &first).unwrap(), [0; 0]);
    assert_eq!(there(), ["1|李四|long", "2|it's \\ 'x|x", "4|d2|kept"]);
    let emptied = changes(
        2,
        &[
            ("insert", 7, "g", "", ""),
            ("truncate", 0, "", "", ""),
            ("insert", 8, "h", "i", ""),
        ],
    );
    assert_eq!(write(&text, &emptied).unwrap(), [0; 0]);
    assert_eq!(there(), ["8|h|i"]);
    let row = |position, id: i64, name: &str| {
        rows(
            position,
            vec![
                ("id", ints(&[id])),
                ("name", texts(&[name])),
                ("bio", texts(&["b"])),
            ],
        )
    };
    for (position, mode, id, expected) in [
        (3, "upsert", 8, vec!["8|n|b"]),
        (4, "upsert", 9, vec!["8|n|b", "9|n|b"]),
        (5, "update", 10, vec!["8|n|b", "9|n|b"]),
        (6, "delete", 8, vec!["9|n|b"]),
    ] {
        let text = write_to(&format!("mode: {mode}, key: [id]"));
        assert_eq!(write(&text, &row(position, id, "n")).unwrap(), [0; 0]);
        assert_eq!(there(), expected, "{mode}");
    }
}

fn many_rows_are_deleted(server: &DatabaseServer) {
    let many: Vec<i64> = (0..1200).collect();
    run(server, "create table dbo.one (id int not null primary key)");
    let text = |mode: &str| {
        connection(
            server,
            &format!(", write: {{ table: one, mode: {mode}, key: [id], producer: one }}"),
        )
    };
    let ids = |position| rows(position, vec![("id", ints(&many))]);
    assert_eq!(write(&text("upsert"), &ids(1)).unwrap(), [0; 0]);
    assert_eq!(write(&text("delete"), &ids(2)).unwrap(), [0; 0]);
    assert_eq!(values(server, "select count(*) from dbo.one"), ["0"]);
}

fn rows_are_told_apart_by_two_columns(server: &DatabaseServer) {
    run(
        server,
        "create table dbo.two (id int not null, code varchar(10) not null, name nvarchar(10))",
    );
    // This server shows a primary key of two columns as two indexes, each of one column.
    run(server, "create unique index two_key on dbo.two (id, code)");
    let text = connection(
        server,
        ", write: { table: two, mode: upsert, key: [id, code], producer: two }",
    );
    let two = |position, ids: &[i64], codes: &[&str], names: &[&str]| {
        rows(
            position,
            vec![
                ("id", ints(ids)),
                ("code", texts(codes)),
                ("name", texts(names)),
            ],
        )
    };
    let there = || {
        values(
            server,
            "select id, code, name from dbo.two order by id, code",
        )
    };
    let all = two(
        1,
        &[1, 1, 2, 2],
        &["a", "b", "a", "it's"],
        &["p", "q", "r", "s"],
    );
    assert_eq!(write(&text, &all).unwrap(), [0; 0]);
    // It knows no second column of values that a table is joined with, so that the sink's own delete cannot be shown here.
    run(
        server,
        "delete from dbo.two where id = 1 and code = 'b' or id = 2 and code = 'it''s'",
    );
    assert_eq!(there(), ["1|a|p", "2|a|r"]);
    let changed = two(3, &[1, 2], &["a", "b"], &["x", "y"]);
    assert_eq!(write(&text, &changed).unwrap(), [0; 0]);
    assert_eq!(there(), ["1|a|x", "2|a|r", "2|b|y"]);
}

/// Its lines end with backslashes, so that it is written in pieces, which together are longer than a piece may be.
fn a_long_text_stays_whole(server: &DatabaseServer) {
    run(
        server,
        "create table dbo.long (id int not null primary key, text nvarchar(max))",
    );
    let line = format!("{}\\\n", "a".repeat(1200));
    let long = line.repeat(8);
    let text = connection(server, ", write: { table: long, producer: long }");
    let delivery = rows(1, vec![("id", ints(&[1])), ("text", texts(&[&long]))]);
    assert_eq!(write(&text, &delivery).unwrap(), [0; 0]);
    assert_eq!(
        values(
            server,
            // Some leave out white space at the end when they count.
            "select len(text + N'.'), len(replace(text, N'a', N'') + N'.') from dbo.long"
        ),
        [format!("{}|17", long.len() + 1)]
    );
}

fn each_delivery_is_done_once(server: &DatabaseServer) {
    run(server, "create table dbo.once (id int, x float)");
    let text = connection(server, ", write: { table: once }");
    let many: Vec<i64> = (0..1500).collect();
    let x: ArrayRef = Arc::new(Float64Array::from_iter_values(
        many.iter().map(|n| *n as f64 / 8.0),
    ));
    let whole = rows(1500, vec![("id", ints(&many)), ("x", x)]);
    let runtime = Runtime::new().expect("a runtime");
    for _ in 0..3 {
        assert_eq!(write(&text, &whole).unwrap(), [0; 0]);
        assert_eq!(
            values(server, "select count(*), sum(x) from dbo.once"),
            ["1500|140531.25"]
        );
    }
    // It dies in the middle: nothing of it stays, and it is written as a whole afterwards.
    let more = rows(
        3000,
        vec![
            ("id", ints(&many)),
            ("x", Arc::new(Float64Array::from(vec![0.0; 1500]))),
        ],
    );
    for micros in [500, 3_000, 9_000, 20_000] {
        let _ = runtime.block_on(async {
            let mut sink = open(&text, &more).await.expect("it opens");
            tokio::time::timeout(std::time::Duration::from_micros(micros), sink.write(&more))
                .await
                .map(drop)
        });
    }
    assert_eq!(write(&text, &more).unwrap(), [0; 0]);
    assert_eq!(values(server, "select count(*) from dbo.once"), ["3000"]);
    let known = runtime.block_on(async {
        let mut sink = open(&text, &more).await?;
        sink.position(&more.producer).await
    });
    assert_eq!(known.expect("it answers"), Some(3000));
}

fn a_refused_row_holds_no_other_up(server: &DatabaseServer) {
    run(
        server,
        "create table dbo.strict (id int not null primary key, name nvarchar(3))",
    );
    let text = connection(server, ", write: { table: strict, producer: strict }");
    let names = ["a", "b", "too long", "d", "e", "f", "also long", "h"];
    let delivery = rows(
        8,
        vec![
            ("id", ints(&[1, 2, 3, 4, 5, 1, 7, 8])),
            ("name", texts(&names)),
        ],
    );
    let runtime = Runtime::new().expect("a runtime");
    for _ in 0..2 {
        // The second time the process died before it noted them: they are named once more.
        let written =
            runtime.block_on(async { open(&text, &delivery).await?.write(&delivery).await });
        let rejected = written.expect("the others are written").rejected;
        let at: Vec<_> = rejected.iter().map(|(row, _)| *row).collect();
        assert_eq!(at, [2, 5, 6]);
        for (_, why) in &rejected {
            assert_eq!(
                (why.code(), why.class()),
                ("sqlserver.value", Class::Permanent),
                "{why}"
            );
        }
        assert_eq!(
            values(server, "select id, name from dbo.strict order by id"),
            ["1|a", "2|b", "4|d", "5|e", "8|h"]
        );
    }
    let missing = connection(server, ", write: { table: nowhere }");
    let refused = write(&missing, &delivery).expect_err("no such table");
    assert_eq!(
        (refused.code(), refused.class()),
        ("sqlserver.no-table", Class::Configuration)
    );
    let wrong = text.replace("password: secret", "password: wrong");
    let refused = write(&wrong, &delivery).expect_err("no such password");
    assert_eq!(refused.class(), Class::Configuration, "{refused:?}");
}

fn tables_are_made_and_surveyed(server: &DatabaseServer) {
    let text = connection(
        server,
        ", write: { table: made, mode: upsert, key: [id], create: true, producer: made }",
    );
    let row = rows(
        1,
        vec![
            ("id", ints(&[1])),
            ("name", texts(&["a"])),
            ("x", Arc::new(Float64Array::from(vec![0.5]))),
        ],
    );
    assert_eq!(write(&text, &row).unwrap(), [0; 0]);
    assert_eq!(
        values(server, "select id, name, x from dbo.made"),
        ["1|a|0.5"]
    );
    let registry = busbar_connect::registry();
    let connector = registry.get("sqlserver").expect("registered");
    let runtime = Runtime::new().expect("a runtime");
    let survey = runtime.block_on(connector.survey(&spec(&text), Path::new("/").into(), true));
    let survey = survey.expect("it answers");
    assert!(
        survey.server.starts_with("SQL Server "),
        "{}",
        survey.server
    );
    let made = survey
        .tables
        .iter()
        .find(|table| table.name == "made")
        .expect("the table");
    let columns = made
        .columns
        .iter()
        .map(|column| (column.name.as_str(), column.key));
    assert_eq!(
        columns.collect::<Vec<_>>(),
        [("id", true), ("name", false), ("x", false)]
    );
    let described = runtime.block_on(async {
        let database = connector
            .database(&spec(&text), service_context(Path::new("/")))
            .await?;
        database
            .describe(&["dbo".to_owned(), "made".to_owned()])
            .await
    });
    let described = described.expect("it answers").expect("a table");
    assert_eq!(described.path, ["dbo", "made"]);
    assert_eq!(described.columns.len(), 3);
}

fn statements_are_run_again(server: &DatabaseServer) {
    run(
        server,
        "create table dbo.visit (id int not null primary key, name nvarchar(10)); insert into dbo.visit (id, name) values (1, N'a'), (2, N'雨')",
    );
    let text = connection(
        server,
        ", query: { statement: 'select id, name from dbo.visit where id > @position order by id', position: id, start: '1', every: 100ms }",
    );
    let registry = busbar_connect::registry();
    let connector = registry.get("sqlserver").expect("registered");
    Runtime::new().expect("a runtime").block_on(async {
        let mut source = connector
            .source(&spec(&text), source_context(Path::new("/")))
            .await
            .expect("it opens");
        let mut found = Vec::new();
        while found.is_empty() {
            match source.poll().await.expect("it answers") {
                Polled::Batch(polling) => {
                    let all = polling.batch.payloads();
                    found.extend(
                        (0..polling.batch.rows())
                            .map(|row| String::from_utf8_lossy(all.value(row)).into_owned()),
                    );
                }
                Polled::Idle(wait) => tokio::time::sleep(wait).await,
                Polled::End => break,
            }
        }
        assert_eq!(found, ["{\"id\":2,\"name\":\"雨\"}"]);
    });
}
