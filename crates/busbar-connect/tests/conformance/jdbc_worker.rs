//! The process that loads the drivers: what it is told, and what becomes of one that dies, hangs or sends rubbish.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use busbar_connector::{Sink, SinkContext};
use busbar_event::{Class, Error};

use crate::jdbc_engine::{Engine, copy_drivers, login};
use crate::postgres_sink::{ints, rows, texts};
use crate::servers::postgres;
use crate::world::{World, eventually, rest, spec};

/// The processes of this one that load drivers for a folder.
fn workers(folder: &Path) -> Vec<u32> {
    let folder = folder.canonicalize().expect("a folder");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("Linux").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let ours = status
            .lines()
            .any(|line| line == format!("PPid:\t{}", std::process::id()));
        let there = std::fs::read_link(entry.path().join("cwd"));
        if ours && there.is_ok_and(|there| there == folder) {
            found.push(pid);
        }
    }
    found
}

fn kill(pid: u32) {
    let _ = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .status();
}

#[test]
fn the_password_is_on_no_command_line_and_in_no_environment() {
    let engine = Engine::start("postgres");
    let pids = workers(engine.folder.path());
    assert_eq!(
        pids.len(),
        1,
        "one process serves all that use the connection"
    );
    for file in ["cmdline", "environ"] {
        let text = std::fs::read(format!("/proc/{}/{file}", pids[0])).expect("it runs");
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(!text.contains("secret"), "{text}");
        assert!(
            file == "environ" || text.contains("busbar.JdbcWorker"),
            "{text}"
        );
    }
}

#[test]
fn a_worker_that_is_killed_is_started_again() {
    let engine = Engine::start("postgres");
    let table = engine.table();
    engine.run(&format!("create table {table} (id bigint primary key)"));
    let delivery = |position: u64| rows(position, vec![("id", ints(&[position as i64]))]);
    let mut sink = engine
        .runtime
        .block_on(engine.sink(&format!("table: {table}"), &delivery(1)))
        .expect("it opens");
    for position in 1..=3 {
        let pids = workers(engine.folder.path());
        if position > 1 {
            kill(pids[0]);
        }
        let mut tries = 0;
        while let Err(why) = engine.runtime.block_on(sink.write(&delivery(position))) {
            assert_eq!(why.class(), Class::Transient, "{why}");
            tries += 1;
            assert!(tries < 20, "{why}");
        }
    }
    assert_eq!(
        engine.texts(&format!("select count(*) as n from {table}")),
        ["3"]
    );
    let folder = engine.folder.path().to_owned();
    drop(sink);
    drop(engine);
    // Nobody uses it any more.
    if folder.exists() {
        eventually("its end", || match workers(&folder).len() {
            0 => Ok(()),
            n => Err(format!("{n} workers")),
        });
    }
}

#[test]
fn a_statement_that_takes_too_long_is_ended_and_others_go_on() {
    let engine = Engine::start("postgres");
    let text = engine
        .connection("query: { statement: 'select pg_sleep(600)', every: 1h }")
        .replace("timeout: 60s", "timeout: 2s");
    let failed = engine.runtime.block_on(async {
        let context = engine.source_context(busbar_connector::Resume::default());
        let mut source = engine.connector.source(&spec(&text), context).await?;
        source.poll().await.map(drop)
    });
    let failed = failed.expect_err("it does not end");
    assert_eq!(failed.class(), Class::Transient, "{failed}");
    assert!(
        ["jdbc.timeout-passed", "jdbc.for-now"].contains(&failed.code()),
        "{failed}"
    );
    assert_eq!(engine.texts("select 1 as n"), ["1"]);
}

/// A driver that does harm when it is asked for a connection.
const HARM: &str = r#"
import java.io.*; import java.sql.*; import java.util.*;
public class Harm implements Driver {
    public boolean acceptsURL(String url) { return url.startsWith("jdbc:harm:"); }
    public Connection connect(String url, Properties properties) throws SQLException {
        try {
            FileOutputStream out = new FileOutputStream(FileDescriptor.out);
            switch (url.substring(10)) {
                case "rubbish": out.write("hello\n".getBytes()); break;
                case "stranger": out.write("{\"type\":\"answer\",\"id\":4711,\"result\":{}}\n".getBytes()); break;
                case "twice": for (int i = 0; i < 2; i++) out.write("{\"type\":\"answer\",\"id\":2,\"result\":{\"product\":\"x\"}}\n".getBytes()); break;
                case "shape": out.write("{\"type\":\"answer\",\"id\":2,\"result\":[1]}\n".getBytes()); break;
                case "ready": out.write("{\"type\":\"ready\",\"protocol\":1}\n".getBytes()); break;
                case "endless": byte[] bytes = new byte[1 << 20]; Arrays.fill(bytes, (byte) 'x'); while (true) out.write(bytes);
                case "exit": System.err.println("no more of hunter2-secret"); System.exit(7);
                case "memory": List<byte[]> all = new ArrayList<>(); while (true) all.add(new byte[1 << 20]);
                case "hang": while (true) try { Thread.sleep(1000000); } catch (InterruptedException e) { }
                case "print": System.out.println("{\"type\":\"pong\"}"); throw new SQLException("no hunter2-secret today", "08001");
            }
            Thread.sleep(600000);
        } catch (IOException | InterruptedException e) { throw new SQLException(e); }
        return null;
    }
    public int getMajorVersion() { return 1; } public int getMinorVersion() { return 0; } public boolean jdbcCompliant() { return false; }
    public DriverPropertyInfo[] getPropertyInfo(String u, Properties p) { return new DriverPropertyInfo[0]; }
    public java.util.logging.Logger getParentLogger() { return null; }
}
"#;

#[test]
fn a_driver_that_does_harm_is_contained() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("Harm.java");
    std::fs::write(&source, HARM).expect("written");
    let classes = folder.path().join("classes");
    let made = Command::new("javac")
        .arg("-d")
        .arg(&classes)
        .arg(&source)
        .status();
    assert!(made.expect("javac").success());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let registry = busbar_connect::registry();
    let connector = registry.get("jdbc").expect("registered");
    let delivery = rows(1, vec![("n", ints(&[1])), ("note", texts(&["x"]))]);
    let open = |mode: &str| -> Error {
        // Where nothing but the time ends it, that is short; else a slow machine would be taken for a driver that hangs.
        let timeout = match mode {
            "hang" | "twice" => "1s",
            _ => "5m",
        };
        let text = format!(
            "jdbc: {{ driver: classes, class: Harm, url: 'jdbc:harm:{mode}', password: hunter2-secret, memory: 64MiB, timeout: {timeout}, write: {{ table: t }} }}\n"
        );
        let context = SinkContext {
            name: "x".into(),
            project_dir: folder.path().into(),
            clock: Arc::new(busbar_log::SystemClock),
            schema: delivery.rows.schema(),
        };
        let opened: Result<Box<dyn Sink>, Error> =
            runtime.block_on(connector.sink(&spec(&text), context));
        opened.err().expect(mode)
    };
    for (mode, code) in [
        ("rubbish", "jdbc.rubbish"),
        ("stranger", "jdbc.rubbish"),
        ("twice", ""),
        ("shape", "jdbc.rubbish"),
        ("ready", "jdbc.rubbish"),
        ("endless", "jdbc.rubbish"),
        ("exit", "jdbc.ended"),
        ("memory", "jdbc.ended"),
        ("hang", "jdbc.hangs"),
        ("print", "jdbc.unreachable"),
    ] {
        let failed = open(mode);
        assert_eq!(failed.class(), Class::Transient, "{mode}: {failed}");
        if !code.is_empty() {
            assert_eq!(failed.code(), code, "{mode}: {failed}");
        }
        let shown = format!("{failed} {failed:?}");
        assert!(!shown.contains("hunter2"), "{mode}: {shown}");
    }
    eventually("the end of all of them", || {
        match workers(folder.path()).len() {
            0 => Ok(()),
            n => Err(format!("{n} workers")),
        }
    });
    // A class that is not there, and one that is no driver.
    for (class, part) in [
        ("NoSuch", "NoSuch"),
        ("java.lang.Object", "java.lang.Object"),
    ] {
        let text = format!(
            "jdbc: {{ driver: classes, class: {class}, url: 'jdbc:harm:x', write: {{ table: t }} }}\n"
        );
        let context = SinkContext {
            name: "x".into(),
            project_dir: folder.path().into(),
            clock: Arc::new(busbar_log::SystemClock),
            schema: delivery.rows.schema(),
        };
        let refused = runtime.block_on(connector.sink(&spec(&text), context));
        let refused = refused.err().expect(class);
        assert_eq!(
            (refused.class(), refused.code()),
            (Class::Configuration, "jdbc.driver")
        );
        assert!(refused.to_string().contains(part), "{refused}");
    }
}

/// Node and worker are killed in the middle, and each row is in the table once.
#[test]
fn rows_are_there_once_however_often_node_and_worker_are_killed() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    copy_drivers(folder.path());
    let login = login("postgres");
    let database = login
        .split('/')
        .find_map(|part| part.split('\'').next().filter(|name| name.starts_with('t')))
        .expect("its database")
        .to_owned();
    // Without a key: a row that is written twice is there twice.
    postgres().run(&database, "create table rows (n bigint, note text)");
    let write = format!("jdbc:\n{login}  write: {{ table: rows }}\n");
    let files = [
        (
            "streams/in.yaml",
            "topics: in/#\nformat: json\nschema: { n: int, note: text }\n",
        ),
        (
            "connections/files.yaml",
            "file: { read: in/*.ndjson }\ntopic: in/x\n",
        ),
        ("connections/c.yaml", write.as_str()),
        (
            "flows/copy.yaml",
            "from: in\nsteps:\n  - select: n, note\nto:\n  - connection: c\n",
        ),
    ];
    std::fs::create_dir(folder.path().join("in")).expect("a folder");
    let input = folder.path().join("in/a.ndjson");
    let mut world = World::new(Arc::clone(&folder));
    world.apply(&files);
    let mut produced = 0_u64;
    for round in 0..24_u64 {
        let lines: String = (produced..produced + 1000)
            .map(|n| format!("{{\"n\":{n},\"note\":\"x\"}}\n"))
            .collect();
        produced += 1000;
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&input);
        file.and_then(|mut file| file.write_all(lines.as_bytes()))
            .expect("written");
        rest(round * 53 % 400);
        match round % 3 {
            0 => {
                world = world.restart();
                world.apply(&files);
            }
            _ => workers(folder.path()).into_iter().for_each(kill),
        }
    }
    let wanted = format!("{produced}|{produced}|{}", produced * (produced - 1) / 2);
    eventually("each row once", || {
        match postgres().run(
            &database,
            "select count(*), count(distinct n), sum(n) from rows",
        ) {
            there if there == wanted => Ok(()),
            there => Err(format!(
                "{there}, not {wanted}: {:?}",
                world.flows.connections()
            )),
        }
    });
    // None comes a second time.
    rest(500);
    assert_eq!(
        postgres().run(&database, "select count(*) from rows"),
        produced.to_string()
    );
}
