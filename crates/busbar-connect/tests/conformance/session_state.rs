//! What one statement sets in a session is not there for the next one, whichever flow sends it.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use busbar_connector::{ServiceContext, SqlDatabase, SqlPart, SqlStatement};
use tokio::runtime::Runtime;

use crate::database_lookups::connection;
use crate::driver_engine::Engine;
use crate::servers::{DatabaseServer, is_mysql8, mariadb, postgres};
use crate::tds_peer::{TdsCell, TdsPeer, TdsReply};
use crate::world::{eventually, spec};

fn database(runtime: &Runtime, text: &str) -> Arc<dyn SqlDatabase> {
    let context = ServiceContext {
        name: "db".into(),
        project_dir: std::env::temp_dir().into(),
        clock: Arc::new(busbar_log::SystemClock),
    };
    let registry = busbar_connect::registry();
    let (kind, _) = text.split_once(':').expect("a kind");
    let connector = registry.get(kind).expect("a connector");
    let spec = spec(text);
    let opened = runtime.block_on(connector.database(&spec, context));
    opened.expect("a database")
}

/// The first value that a statement of a flow answers with; empty where it answers with none.
async fn asked(database: &dyn SqlDatabase, sql: &str) -> Result<String, busbar_event::Error> {
    let statement = SqlStatement {
        parts: vec![SqlPart::Text(sql.to_owned())],
        ..SqlStatement::default()
    };
    let mut rows = database.run(&statement).await?;
    let mut first = String::new();
    while let Some(batch) = rows.next().await? {
        if first.is_empty() {
            first = value(&batch);
        }
    }
    Ok(first)
}

fn value(batch: &RecordBatch) -> String {
    match batch.num_rows() * batch.num_columns() {
        0 => String::new(),
        _ => array_value_to_string(batch.column(0), 0).expect("a text"),
    }
}

/// Statements that set something, how it is seen, and how many sessions there were in all behind them.
type Cases<'a> = [(&'a str, &'a str, u64)];

fn nothing_stays(server: &DatabaseServer, create: &str, cases: &Cases<'_>) {
    let name = server.database(create);
    let text = connection(server, server.port, &name, ", sessions: 1");
    let runtime = Runtime::new().expect("a runtime");
    let database = database(&runtime, &text);
    for (sets, seen, sessions) in cases {
        runtime.block_on(async {
            let before = asked(&*database, seen).await;
            asked(&*database, sets).await.expect(sets);
            let behind = asked(&*database, seen).await;
            let shown = |answer: &Result<String, busbar_event::Error>| match answer {
                Ok(text) => text.clone(),
                Err(error) => error.code().to_owned(),
            };
            assert_eq!(shown(&before), shown(&behind), "{sets}");
        });
        assert_eq!(database.pool().opened, *sessions, "{sets}");
    }
}

#[test]
fn what_a_statement_sets_on_postgres_is_not_there_for_the_next() {
    let create = "create role session_other; create table t (a int); \
        create function sets() returns int language sql as $$ select 1 from set_config('work_mem', '77MB', false) $$";
    let held =
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()";
    nothing_stays(
        postgres(),
        create,
        &[
            ("set search_path = pg_catalog", "show search_path", 1),
            ("set role session_other", "select current_user::text", 1),
            ("set statement_timeout = 77000", "show statement_timeout", 1),
            ("set time zone 'Asia/Shanghai'", "show timezone", 1),
            (
                "set session characteristics as transaction isolation level serializable",
                "show default_transaction_isolation",
                1,
            ),
            (
                "create temporary table t (a text)",
                "select count(*) from t where a > 0",
                1,
            ),
            ("select sets()", "show work_mem", 1),
            ("select pg_advisory_lock(7)::text", held, 1),
            (
                "prepare p as select 1",
                "select count(*) from pg_prepared_statements where name = 'p'",
                1,
            ),
        ],
    );
}

#[test]
fn what_a_statement_sets_on_mysql_is_not_there_for_the_next() {
    let create =
        "create table t (a int); create function sets() returns int no sql return (@b := 7)";
    let isolation = match is_mysql8() {
        true => "select @@transaction_isolation",
        false => "select @@tx_isolation",
    };
    nothing_stays(
        mariadb(),
        create,
        &[
            ("set @a = 7", "select @a", 1),
            ("use mysql", "select database()", 1),
            (
                "create temporary table t (b int)",
                "select count(*) from t where a = 1",
                1,
            ),
            (
                "set session transaction isolation level serializable",
                isolation,
                1,
            ),
            (
                "set time_zone = '+08:00', sql_mode = '', character_set_client = latin1",
                "select concat(@@time_zone, @@sql_mode, @@character_set_client)",
                1,
            ),
            (
                "select get_lock('busbar', 0)",
                "select is_used_lock('busbar') is null",
                1,
            ),
            (
                "lock tables t read",
                "select count(*) from mysql.user where user = 'none'",
                1,
            ),
            ("select sets()", "select @b", 1),
            // No request takes a role back: the session is closed behind each statement that names one.
            ("set role none", "select current_role()", 3),
        ],
    );
}

/// The server resets the session before the message that says so; behind a plain statement none does.
#[test]
fn a_session_of_sql_server_is_reset_behind_what_may_have_set_something() {
    let peer = TdsPeer::new(|_| {
        vec![TdsReply::Rows(
            vec![("a", TdsCell::Int(0))],
            vec![vec![TdsCell::Int(1)]],
        )]
    });
    let text = format!(
        "sqlserver: {{ address: '127.0.0.1:{}', database: d, user: u, sessions: 1 }}\n",
        peer.port
    );
    let runtime = Runtime::new().expect("a runtime");
    let database = database(&runtime, &text);
    for (sql, resets) in [
        ("select a from t", 0),
        ("update t set a = 1", 0),
        ("exec p @id = 1", 1),
        ("set language German", 2),
        ("select a from t", 2),
    ] {
        let answer = runtime.block_on(asked(&*database, sql));
        assert_eq!(answer.expect(sql), "1");
        assert_eq!(peer.resets(), resets, "{sql}");
    }
    assert_eq!(database.pool().opened, 1);
}

/// No driver takes back what a statement has set: the session is closed behind it, and behind no other.
#[test]
fn a_session_of_a_driver_is_closed_behind_what_sets_something() {
    let engine = Engine::start("h2");
    let context = ServiceContext {
        name: "db".into(),
        project_dir: engine.folder.path().into(),
        clock: Arc::new(busbar_log::SystemClock),
    };
    let spec = spec(&engine.connection(""));
    let opened = engine.connector.database(&spec, context);
    let database = engine.runtime.block_on(opened).expect("a database");
    for (sql, sessions) in [
        ("create schema other", 1),
        ("select schema()", 2),
        ("set schema other", 2),
        ("select schema()", 3),
        ("select upper(schema())", 3),
    ] {
        let answer = engine.runtime.block_on(asked(&*database, sql));
        assert_ne!(answer.expect(sql), "OTHER");
        assert_eq!(database.pool().opened, sessions, "{sql}");
    }
    // Closed without a word to the node: each look opens a session of its own, which would have what is kept for others first.
    let set = engine
        .runtime
        .block_on(asked(&*database, "set schema other"));
    set.expect("set");
    let look = "select upper(schema()) || ' ' || count(*) from information_schema.sessions";
    eventually("the end of all connections but two", || {
        let seen = engine.runtime.block_on(asked(&*database, look));
        let seen = seen.expect("an answer");
        assert!(seen.starts_with("PUBLIC "), "{seen}");
        match seen == "PUBLIC 2" {
            true => Ok(()),
            false => Err(seen),
        }
    });
}
