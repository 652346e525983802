//! What becomes of what an ODBC driver says that is not so: lengths, sizes and numbers are bounded before anything is made
//! of them.

use std::path::Path;
use std::time::Instant;

use busbar_connector::Polled;
use busbar_event::{Class, Error};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::driver_engine::payloads;
use crate::driver_worker::workers;
use crate::odbc_worker::make_driver;
use crate::source_context;
use crate::world::{PATIENCE, eventually, spec};

/// A driver with an answer of one row with one column, of which it says one thing that is not so.
const LIES: &str = r#"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef short R; typedef void *H; typedef unsigned short W; typedef long L; typedef unsigned long U;
static char lie[64];
static int is(const char *name) { return !strcmp(lie, name); }
static int fetched;
static W *bound; static L room, *lengths; static U *rows, array = 1;
R SQLAllocHandle(short kind, H in, H *out) { *out = malloc(16); return 0; }
R SQLFreeHandle(short kind, H h) { return 0; }
R SQLSetEnvAttr(H h, int a, H v, int n) { return 0; }
R SQLSetConnectAttrW(H h, int a, H v, int n) { return 0; }
R SQLDisconnect(H h) { return 0; }
R SQLEndTran(short k, H h, short t) { return 0; }
R SQLGetDiagRecW(short kind, H h, short n, W *state, int *code, W *text, short most, short *length) { return 100; }
R SQLDriverConnectW(H h, H w, W *in, short n, W *out, short most, short *length, unsigned short how) {
    char text[1024]; int i = 0;
    for (; i < n && i < 1023; i++) text[i] = (char) in[i];
    text[i] = 0;
    char *at = strstr(text, "Lie="); if (at) { at += 4; for (i = 0; *at >= 'a' && *at <= 'z' && i < 63; at++) lie[i++] = *at; lie[i] = 0; }
    return 0;
}
R SQLGetInfoW(H h, unsigned short what, H value, short most, short *length) {
    if (what == 17) { if (most >= 4) { ((W *) value)[0] = 'x'; ((W *) value)[1] = 0; } if (length) *length = is("info") ? 32767 : 2; return 0; }
    if (what == 46) { *(short *) value = 2; return 0; }
    if (most >= 4 && value) memset(value, 0, 4);
    if (length) *length = 0;
    return 0;
}
R SQLExecDirectW(H h, W *sql, int n) { if (sql[0] == 'h') for (;;) sleep(1000); fetched = 0; return 0; }
R SQLNumResultCols(H h, short *count) { *count = is("columns") ? 32767 : is("row") ? 40 : 1; return 0; }
R SQLRowCount(H h, L *count) { *count = -1; return 0; }
R SQLDescribeColW(H h, unsigned short c, W *name, short most, short *chars, short *type, U *size, short *digits, short *nullable) {
    name[0] = 'c'; name[1] = 0;
    *chars = is("name") ? 32767 : 1;
    *type = is("endless") || is("far") || is("nolength") || is("row") ? -10 : -9;
    *size = is("size") ? (U) -1 : 20;
    *digits = 0; if (nullable) *nullable = 1;
    return 0;
}
R SQLColAttributeW(H h, unsigned short c, unsigned short field, H text, short most, short *length, L *number) {
    if (length) *length = is("type") ? 32767 : 0;
    if (number) *number = 0;
    return 0;
}
R SQLSetStmtAttrW(H h, int a, H v, int n) {
    if (a == 27) array = (U) v;
    if (a == 26) rows = v;
    return 0;
}
R SQLBindCol(H h, unsigned short c, short type, H value, L bytes, L *length) { bound = value; room = bytes; lengths = length; return 0; }
R SQLFetch(H h) {
    if (fetched++) return 100;
    if (bound) { bound[0] = 'x'; bound[1] = 0; lengths[0] = is("length") ? 1L << 40 : is("negative") ? -77 : 2; }
    if (rows) *rows = is("fetched") ? 1000000 : 1;
    return 0;
}
R SQLGetData(H h, unsigned short c, short type, H value, L bytes, L *length) {
    static int pieces, of;
    memset(value, 0, bytes); ((W *) value)[0] = 'x';
    if (is("endless")) { *length = -4; return 1; }
    if (is("far")) { *length = 1L << 50; return 1; }
    if (is("nolength")) { *length = -9; return 0; }
    if (is("row")) {
        if (of != c) { of = c; pieces = 0; }
        if (pieces++ == 60) return 100;
        *length = -4; return 1;
    }
    *length = 2; return 0;
}
R SQLFreeStmt(H h, unsigned short how) { if (how == 2) { bound = 0; } return 0; }
"#;

/// A driver that obeys nobody is ended with its process, also where others use the connection.
#[test]
fn a_driver_that_hangs_is_ended_although_others_use_the_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    make_driver(folder.path(), "lies", LIES);
    let runtime = Runtime::new().expect("a runtime");
    let registry = busbar_connect::registry();
    let connector = registry.get("odbc").expect("registered");
    let open = |statement: &str| {
        let text = format!(
            "odbc: {{ connection: 'Driver=./lies.so', timeout: 1s, query: {{ statement: {statement}, every: 1h }} }}\n"
        );
        // A slow machine may take longer for it than a second.
        let until = Instant::now() + PATIENCE;
        loop {
            let context = source_context(folder.path());
            match runtime.block_on(connector.source(&spec(&text), context)) {
                Ok(source) => return source,
                Err(why) => assert!(Instant::now() < until, "{why}"),
            }
        }
    };
    let other = open("s");
    let before = workers(folder.path());
    let mut hanging = open("h");
    let failed = runtime.block_on(hanging.poll()).map(drop);
    let failed = failed.expect_err("it hangs");
    assert_eq!(
        (failed.code(), failed.class()),
        ("driver.hangs", Class::Transient),
        "{failed}"
    );
    eventually("its end", || {
        let there = workers(folder.path());
        match there.iter().any(|pid| before.contains(pid)) {
            false => Ok(()),
            true => Err(format!("{there:?}")),
        }
    });
    drop(other);
}

/// The rows of a statement, of a driver that tells this lie.
fn rows(runtime: &Runtime, folder: &Path, lie: &str) -> Result<Vec<Value>, Error> {
    let registry = busbar_connect::registry();
    let connector = registry.get("odbc").expect("registered");
    let text = format!(
        "odbc: {{ connection: 'Driver=./lies.so;Lie={lie}', timeout: 5m, query: {{ statement: s, every: 1h }} }}\n"
    );
    runtime.block_on(async {
        let mut source = connector
            .source(&spec(&text), source_context(folder))
            .await?;
        let mut rows = Vec::new();
        loop {
            let polled = tokio::time::timeout(PATIENCE, source.poll()).await;
            match polled.expect("it answers")? {
                Polled::Batch(polling) => rows.extend(payloads(&polling.batch)),
                _ => break,
            }
        }
        let rows = rows.iter();
        Ok(rows
            .map(|row| serde_json::from_slice(row).expect("JSON"))
            .collect())
    })
}

#[test]
fn what_a_driver_says_of_lengths_is_not_believed() {
    let folder = tempfile::tempdir().expect("a folder");
    make_driver(folder.path(), "lies", LIES);
    let runtime = Runtime::new().expect("a runtime");
    for lie in ["none", "size", "type", "info"] {
        let rows = rows(&runtime, folder.path(), lie);
        let rows = rows.unwrap_or_else(|why| panic!("{lie}: {why}"));
        assert_eq!(rows, [json!({ "c": "x" })], "{lie}");
    }
    // A name that is longer than its place ends with it.
    let named = rows(&runtime, folder.path(), "name").expect("a row");
    let name = named[0].as_object().expect("a row").keys().next();
    assert_eq!(name.map(String::len), Some(1_023));
    for (lie, code) in [
        ("columns", "driver.refused"),
        ("length", "driver.worker"),
        ("negative", "driver.worker"),
        ("fetched", "driver.worker"),
        ("nolength", "driver.worker"),
        ("endless", "driver.value-large"),
        ("far", "driver.value-large"),
        ("row", "driver.value-large"),
    ] {
        let failed = rows(&runtime, folder.path(), lie).expect_err(lie);
        assert_eq!(
            (failed.code(), failed.class()),
            (code, Class::Configuration),
            "{lie}: {failed}"
        );
    }
}
