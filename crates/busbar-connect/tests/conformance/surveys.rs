//! Looking at the other side of a connection.

use std::path::Path;

use busbar_connector::{Survey, SurveyedColumn};
use busbar_event::{Class, Error};

use crate::servers::{mariadb, own_redis, postgres};
use crate::world::spec;

fn survey(text: &str, tables: bool) -> Result<Survey, Error> {
    let registry = busbar_connect::registry();
    let spec = spec(text);
    let connector = registry.get(&spec.kind).expect("registered");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(connector.survey(&spec, Path::new("/").into(), tables))
}

#[test]
fn databases_say_what_they_are_and_which_tables_they_have() {
    let tables = "create table b (id bigint not null, name varchar(20), primary key (id)); create table a (x int)";
    let (pg, maria) = (postgres().database(tables), mariadb().database(tables));
    let of_pg = format!(
        "postgres: {{ address: '127.0.0.1:{}', database: {pg}, user: postgres, password: secret, write: {{ table: t }} }}\n",
        postgres().port
    );
    let of_maria = format!(
        "mysql: {{ address: '127.0.0.1:{}', database: {maria}, user: root, write: {{ table: t }} }}\n",
        mariadb().port
    );
    for (text, server, schema, kinds) in [
        (
            &of_pg,
            "PostgreSQL 1",
            "public",
            ["bigint", "character varying(20)"],
        ),
        (
            &of_maria,
            "MariaDB 10.",
            maria.as_str(),
            ["bigint(20)", "varchar(20)"],
        ),
    ] {
        let short = survey(text, false).expect("it answers");
        assert!(short.server.starts_with(server), "{}", short.server);
        assert!(short.tables.is_empty());
        let mut whole = survey(text, true).expect("it answers");
        // All databases of the server are there.
        whole.tables.retain(|table| table.schema == schema);
        let names: Vec<_> = whole
            .tables
            .iter()
            .map(|table| table.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b"]);
        let column = |name: &str, kind: &str, key| SurveyedColumn {
            name: name.into(),
            kind: kind.into(),
            key,
            required: key,
        };
        assert_eq!(
            whole.tables[1].columns,
            [
                column("id", kinds[0], true),
                column("name", kinds[1], false)
            ]
        );
        let refused =
            survey(&text.replace("user: ", "user: no_"), false).expect_err("no such user");
        assert_eq!(refused.class(), Class::Configuration, "{refused}");
    }
    let file = survey("file: { write: a }\n", true).expect_err("no database");
    assert_eq!(file.code(), "connect.no-survey");
}

/// Keys that have the same text before their last colon are one table.
#[test]
fn redis_shows_what_its_keys_have_in_common() {
    let server = own_redis(&[]);
    server.run(
        "",
        "hset patient:1 name a sex f\nhset patient:2 name b sex m\nset greeting hello\nxadd orders * n 1\nset a:b:c 1\n",
    );
    let text = format!(
        "redis: {{ address: '127.0.0.1:{}', write: {{ key: 'a${{n}}' }} }}\n",
        server.port
    );
    let short = survey(&text, false).expect("it answers");
    assert!(short.server.starts_with("Redis "), "{}", short.server);
    assert!(short.tables.is_empty());
    let whole = survey(&text, true).expect("it answers");
    let told = whole.tables.iter().map(|table| {
        let columns = table.columns.iter();
        let columns: Vec<_> = columns.map(|c| format!("{} {}", c.name, c.kind)).collect();
        let rows = table.rows.unwrap_or(0);
        format!(
            "{}.{} {rows} ({})",
            table.schema,
            table.name,
            columns.join(", ")
        )
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            "db0.a:b 1 (value string)",
            "db0.greeting 1 (value string)",
            "db0.orders 1 (n stream)",
            "db0.patient 2 (name hash, sex hash)",
        ]
    );
}
