//! Tables of databases in SQL.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use busbar_connector::Databases;
use busbar_event::Error;
use busbar_sql::{Engine, QueryLimits, QueryResult, Relation, Relations};

use crate::database_lookups::{connection, world};
use crate::servers::{mariadb, postgres};
use crate::world::{World, eventually};

struct Known(Databases);

impl Relations for Known {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn relation(&self, name: &str) -> Result<Option<Relation>, Error> {
        Ok(self.0.table(name)?.map(Relation::Table))
    }
}

pub struct Asked {
    pub world: World,
    engine: Engine,
}

impl Asked {
    pub fn new(connection: &str) -> Asked {
        let world = world();
        world.apply(&[("connections/db.yaml", connection)]);
        let known = Arc::new(Known(world.databases.clone()));
        let engine = Engine::new(known, QueryLimits::default()).expect("threads");
        Asked { world, engine }
    }

    pub fn begin(&self, sql: &str) -> QueryResult {
        let begun = self.world.tokio.block_on(self.engine.query(sql));
        begun.unwrap_or_else(|bad| panic!("{sql}: {bad:?}"))
    }

    fn rows(&self, sql: &str) -> Vec<RecordBatch> {
        let mut result = self.begin(sql);
        let rows = self.world.tokio.block_on(result.collect());
        rows.unwrap_or_else(|why| panic!("{sql}: {why}"))
    }

    pub fn shown(&self, sql: &str) -> String {
        pretty_format_batches(&self.rows(sql))
            .expect("a table")
            .to_string()
    }

    /// The values of a single column, with commas between them.
    pub fn column(&self, sql: &str) -> String {
        let mut all = Vec::new();
        for batch in self.rows(sql) {
            for row in 0..batch.num_rows() {
                let value = arrow::util::display::array_value_to_string(batch.column(0), row);
                all.push(value.expect("a value"));
            }
        }
        all.join(",")
    }

    fn refused(&self, sql: &str) -> String {
        let begun = self.world.tokio.block_on(self.engine.query(sql));
        begun
            .err()
            .unwrap_or_else(|| panic!("{sql} is taken"))
            .code()
            .to_owned()
    }
}

const TABLE: &str = "create table t (id bigint primary key, name varchar(20), weight double precision, at timestamp(6) null, ok boolean, \
     amount decimal(10,2)); \
     insert into t values (1, 'a', 0.5, '2024-02-29 12:00:00', true, 1.10), (2, 'B', 1.5, null, false, 2.20), (3, null, null, '2024-03-01 00:00:00', null, null)";

#[test]
fn tables_are_read_with_filters_and_limits_that_the_database_applies() {
    for server in [postgres(), mariadb()] {
        let database = server.database(TABLE);
        let asked = Asked::new(&connection(server, server.port, &database, ""));
        let is_postgres = std::ptr::eq(server, postgres());
        let table = if is_postgres {
            "db.public.t".to_owned()
        } else {
            format!("db.{database}.t")
        };
        for (query, expected) in [
            ("select id from TABLE order by id", "1,2,3"),
            ("select id from TABLE where id >= 2 and id < 3", "2"),
            ("select id from TABLE where name = 'a'", "1"),
            ("select id from TABLE where name = 'b'", ""),
            ("select id from TABLE where name < 'a' order by id", "2"),
            ("select id from TABLE where weight > 0.5", "2"),
            ("select id from TABLE where amount = 2.2", "2"),
            (
                "select id from TABLE where at > timestamp '2024-02-29T12:00:00Z'",
                "3",
            ),
            ("select id from TABLE where at is null", "2"),
            ("select id from TABLE where id in (1, 3) order by id", "1,3"),
            ("select count(*) from TABLE", "3"),
            ("select sum(amount) from TABLE", "3.3000000000000003"),
            (
                "select t.name from TABLE t join TABLE u on t.id = u.id and u.weight < 1",
                "a",
            ),
            ("select count(*) from (select 1 from TABLE limit 2)", "2"),
            ("with x as (select * from TABLE) select max(id) from x", "3"),
        ] {
            let sql = query.replace("TABLE", &table);
            assert_eq!(asked.column(&sql), expected, "{sql}");
        }
        // The table of the connection's own schema or database.
        assert_eq!(asked.column("select id from db.t where id = 3"), "3");
        let described = asked.shown(&format!("describe {table}"));
        for word in ["id", "int", "weight", "float", "at", "time"] {
            assert!(described.contains(word), "{described}");
        }
        let plan =
            asked.shown("explain select name from db.t where id > 1 and weight <= 2.5 limit 7");
        let sent = if is_postgres {
            r#"db: SELECT "name" FROM "public"."t" WHERE "id" > 1 AND "weight" <= 2.5 LIMIT 7"#
                .to_owned()
        } else {
            format!(
                "db: SELECT `name` FROM `{database}`.`t` WHERE `id` > 1 AND `weight` <= 2.5 LIMIT 7"
            )
        };
        // The plan's table wraps no lines.
        assert!(plan.contains(&sent), "{plan}\n{sent}");
        // A filter that the database does not apply as it is applied here keeps the limit here.
        let plan = asked.shown("explain select id from db.t where name < 'b' limit 7");
        assert!(!plan.contains("LIMIT 7"), "{plan}");
        for (sql, code) in [
            ("select * from db.no_such", "sql.unknown-relation"),
            ("select * from other.t", "sql.unknown-relation"),
            ("delete from db.t", "sql.read-only"),
            ("insert into db.t values (1)", "sql.read-only"),
            (
                "with x as (delete from db.t returning id) select * from x",
                "sql.read-only",
            ),
        ] {
            assert_eq!(asked.refused(sql), code, "{sql}");
        }
        assert_eq!(server.run(&database, "select count(*) from t"), "3");
    }
}

/// The rows of a table are read in pieces, and no more of them than are asked for.
#[test]
fn a_large_table_is_read_in_pieces_and_a_query_that_stops_ends_the_statement() {
    for server in [postgres(), mariadb()] {
        let is_postgres = std::ptr::eq(server, postgres());
        let series = if is_postgres {
            "generate_series(1, 200000) seq"
        } else {
            "seq_1_to_200000"
        };
        let database = server.database(&format!("create table t (seq int primary key, text varchar(200)); insert into t select seq, repeat('x', 200) from {series}"));
        let asked = Asked::new(&connection(server, server.port, &database, ", sessions: 1"));
        assert_eq!(
            asked.column("select count(*) from db.t where text <> ''"),
            "200000"
        );
        let mut begun = asked.begin("select * from db.t where text <> 'y'");
        let first = asked
            .world
            .tokio
            .block_on(begun.next())
            .expect("rows")
            .expect("rows");
        assert!(first.num_rows() < 20_000, "{}", first.num_rows());
        drop(begun);
        // The only session is free again, or replaced.
        eventually("another query", || {
            let status = asked
                .world
                .databases
                .get("db")
                .expect("a database")
                .status();
            if status.pool.used == 0 {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        });
        assert_eq!(
            asked.column("select count(*) from db.t where seq <= 10"),
            "10"
        );
    }
}

#[test]
fn a_value_that_cannot_be_held_is_named() {
    let server = mariadb();
    let database = server.database("create table t (id bigint unsigned primary key, v int); insert into t values (18446744073709551615, 1)");
    let asked = Asked::new(&connection(server, server.port, &database, ""));
    assert_eq!(asked.column("select v from db.t"), "1");
    let mut begun = asked.begin("select id from db.t");
    let why = asked
        .world
        .tokio
        .block_on(begun.collect())
        .expect_err("no such number");
    assert_eq!(why.code(), "database.value", "{why}");
    assert!(
        why.args()
            .iter()
            .any(|(name, value)| *name == "column" && value == "id")
    );
}

/// A view has columns and no key, and is read and looked up as a table is.
#[test]
fn views_are_tables() {
    for server in [postgres(), mariadb()] {
        let database = server.database("create table t (id int, v int); insert into t values (1, 5), (2, 7); create view w as select id, v * 2 as twice from t");
        let asked = Asked::new(&connection(server, server.port, &database, ""));
        assert_eq!(asked.column("select twice from db.w where id = 2"), "14");
    }
}
