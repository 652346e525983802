//! What becomes of ODBC drivers that do harm, and of connections without one.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::BinaryArray;
use busbar_connector::{Sink, SinkContext};
use busbar_event::{Class, Error, Language};
use tokio::runtime::Runtime;

use crate::driver_engine::Engine;
use crate::driver_worker::workers;
use crate::postgres_sink::{ints, rows, texts};
use crate::servers::postgres;
use crate::world::{eventually, spec};

/// A driver that does harm when it is asked for a connection. The driver manager gives it the connection string.
const HARM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef short R; typedef void *H; typedef unsigned short W;
static char mode[64];
R SQLAllocHandle(short kind, H in, H *out) { *out = malloc(16); return 0; }
R SQLFreeHandle(short kind, H h) { return 0; }
R SQLSetEnvAttr(H h, int a, H v, int n) { return 0; }
R SQLSetConnectAttrW(H h, int a, H v, int n) { return 0; }
R SQLDisconnect(H h) { return 0; }
R SQLEndTran(short k, H h, short t) { return 0; }
R SQLGetDiagRecW(short kind, H h, short n, W *state, int *code, W *text, short most, short *length) {
    const char *said = "no hunter2-secret today", *sqlstate = "08001";
    if (n > 1) return 100;
    for (int i = 0; i < 6; i++) state[i] = sqlstate[i];
    int i = 0; for (; said[i] && i < most - 1; i++) text[i] = said[i];
    text[i] = 0; *length = i; *code = 0; return 0;
}
R SQLDriverConnectW(H h, H w, W *in, short n, W *out, short most, short *length, unsigned short how) {
    char text[1024]; int i = 0;
    for (; i < n && i < 1023; i++) text[i] = (char) in[i];
    text[i] = 0;
    char *at = strstr(text, "Harm="); sscanf(at ? at + 5 : "", "%63[a-z]", mode);
    if (!strcmp(mode, "exit")) { fprintf(stderr, "no more of hunter2-secret\n"); _exit(7); }
    if (!strcmp(mode, "crash")) { *(volatile int *) 0 = 1; }
    if (!strcmp(mode, "abort")) { abort(); }
    if (!strcmp(mode, "hang")) for (;;) sleep(1000);
    if (!strcmp(mode, "memory")) for (;;) { char *p = malloc(1 << 20); if (!p) _exit(9); memset(p, 1, 1 << 20); }
    if (!strcmp(mode, "print")) { printf("{\"type\":\"pong\"}\n"); fflush(stdout); return -1; }
    if (!strcmp(mode, "read")) { getchar(); return -1; }
    return -1;
}
"#;

/// Makes the driver `NAME.so` of a text in C.
pub fn make_driver(folder: &Path, name: &str, text: &str) {
    let source = folder.join(format!("{name}.c"));
    std::fs::write(&source, text).expect("written");
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-w", "-o"])
        .arg(folder.join(format!("{name}.so")))
        .arg(&source)
        .status();
    assert!(made.expect("cc").success());
}

fn open(runtime: &Runtime, folder: &Path, options: &str) -> Result<Box<dyn Sink>, Error> {
    let registry = busbar_connect::registry();
    let connector = Arc::clone(registry.get("odbc").expect("registered"));
    let delivery = rows(1, vec![("n", ints(&[1])), ("note", texts(&["x"]))]);
    let context = SinkContext {
        name: "x".into(),
        project_dir: folder.into(),
        clock: Arc::new(busbar_log::SystemClock),
        schema: delivery.rows.schema(),
    };
    let text = format!("odbc: {{ {options}, write: {{ table: t }} }}\n");
    runtime.block_on(async { connector.sink(&spec(&text), context).await })
}

#[test]
fn a_driver_that_does_harm_is_contained() {
    let folder = tempfile::tempdir().expect("a folder");
    make_driver(folder.path(), "harm", HARM);
    let runtime = Runtime::new().expect("a runtime");
    for (mode, code) in [
        ("exit", "driver.ended"),
        ("crash", "driver.ended"),
        ("abort", "driver.ended"),
        ("memory", "driver.ended"),
        ("hang", "driver.hangs"),
        ("print", "driver.unreachable"),
        ("read", "driver.unreachable"),
    ] {
        // Where nothing but the time ends it, that is short; else a slow machine would be taken for a driver that hangs.
        let timeout = if mode == "hang" { "1s" } else { "5m" };
        let options = format!(
            "connection: 'Driver=./harm.so;Harm={mode}', password: hunter2-secret, memory: 64MiB, timeout: {timeout}"
        );
        let failed = open(&runtime, folder.path(), &options).err().expect(mode);
        assert_eq!(failed.class(), Class::Transient, "{mode}: {failed}");
        assert_eq!(failed.code(), code, "{mode}: {failed}");
        let shown = format!("{failed} {failed:?}");
        assert!(!shown.contains("hunter2"), "{mode}: {shown}");
    }
    eventually("the end of all of them", || {
        match workers(folder.path()).len() {
            0 => Ok(()),
            n => Err(format!("{n} workers")),
        }
    });
}

#[test]
fn what_is_wrong_with_a_connection_is_said_with_the_way_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = Runtime::new().expect("a runtime");
    let server = postgres();
    let database = server.database("");
    let at = format!(
        "Driver=PostgreSQL Unicode;Server=127.0.0.1;Port={};Database={database}",
        server.port
    );
    std::fs::write(folder.path().join("no.so"), "no library").expect("written");
    for (options, code, class, part) in [
        (
            "connection: 'Driver=No Such Driver;Server=a'".to_owned(),
            "odbc.driver",
            Class::Configuration,
            "odbcinst -q -d",
        ),
        (
            "connection: 'DSN=no_such_source'".to_owned(),
            "odbc.driver",
            Class::Configuration,
            "odbcinst -q -s",
        ),
        (
            "connection: 'Driver=no.so'".to_owned(),
            "odbc.driver",
            Class::Configuration,
            "no.so",
        ),
        (
            "connection: 'Driver=./missing.so'".to_owned(),
            "odbc.driver-missing",
            Class::Configuration,
            "missing.so",
        ),
        (
            format!("connection: '{at}', user: postgres, password: wrong-secret"),
            "driver.credentials",
            Class::Configuration,
            "postgres",
        ),
        (
            format!(
                "connection: '{}', user: postgres, password: secret",
                at.replace(&database, "nosuchdb")
            ),
            "driver.refused",
            Class::Configuration,
            "nosuchdb",
        ),
        (
            "connection: 'Driver=PostgreSQL Unicode;Server=127.0.0.1;Port=9;Database=x', user: u"
                .to_owned(),
            "driver.unreachable",
            Class::Transient,
            "Port=9",
        ),
        (
            "connection: 'Driver=MariaDB Unicode;Server=127.0.0.1;Port=9;Database=x', user: u"
                .to_owned(),
            "driver.unreachable",
            Class::Transient,
            "Port=9",
        ),
    ] {
        let failed = open(&runtime, folder.path(), &options)
            .err()
            .expect(&options);
        assert_eq!(
            (failed.code(), failed.class()),
            (code, class),
            "{options}: {failed}"
        );
        for language in [Language::En, Language::Zh] {
            let said = failed.message(language);
            assert!(
                said.contains(part) && !said.contains("wrong-secret"),
                "{said}"
            );
        }
    }
}

/// Values that are longer than their column says, or of no length that is known before, among short ones.
#[test]
fn long_values_come_whole() {
    for name in ["mariadb-odbc", "postgres-odbc", "sqlite-odbc"] {
        let engine = Engine::start(name);
        let table = engine.table();
        let kinds = match engine.database {
            "mariadb" => ["varchar(5000)", "longtext", "longblob"],
            "postgres" => ["varchar", "text", "bytea"],
            _ => ["varchar(10)", "text", "blob"],
        };
        let [short, long, bytes] = kinds;
        engine.run(&format!(
            "create table {table} (id integer not null primary key, short {short}, long_text {long}, raw {bytes})"
        ));
        let note = |n: usize| "雨😀".repeat(n * 40);
        let story = |n: usize| "龍a".repeat(n * 30_000);
        let ids: Vec<i64> = (0..6).collect();
        let notes: Vec<String> = (0..6).map(note).collect();
        let stories: Vec<String> = (0..6).map(story).collect();
        let raws: Vec<Vec<u8>> = (0..6).map(|n| vec![n as u8; n * 50_000]).collect();
        let delivery = rows(
            1,
            vec![
                ("id", ints(&ids)),
                (
                    "short",
                    texts(&notes.iter().map(String::as_str).collect::<Vec<_>>()),
                ),
                (
                    "long_text",
                    texts(&stories.iter().map(String::as_str).collect::<Vec<_>>()),
                ),
                ("raw", Arc::new(BinaryArray::from_iter_values(&raws))),
            ],
        );
        let written = engine.write(&format!("table: {table}"), &delivery);
        assert_eq!(written.expect(name), [0; 0], "{name}");
        let there = engine.run(&format!(
            "select id, short, long_text, raw from {table} order by id"
        ));
        assert_eq!(there.len(), 6, "{name}");
        for (n, row) in there.iter().enumerate() {
            let row: serde_json::Value = serde_json::from_slice(row).expect("JSON");
            assert_eq!(row["short"], notes[n], "{name} {n}");
            assert_eq!(row["long_text"], stories[n], "{name} {n}");
            assert_eq!(
                row["raw"],
                format!("{n:02x}").repeat(raws[n].len()),
                "{name} {n}"
            );
        }
    }
}
