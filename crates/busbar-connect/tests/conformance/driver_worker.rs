//! The process that loads drivers, of either kind: what it is told, and what becomes of one that dies.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use busbar_event::Class;

use crate::driver_engine::{Engine, copy_drivers, login};
use crate::postgres_sink::{ints, rows};
use crate::servers::postgres;
use crate::world::{World, eventually, rest, spec};

/// One database behind a driver of each kind.
const BOTH: [&str; 2] = ["postgres", "postgres-odbc"];

/// The processes of this one that load drivers for a folder.
pub fn workers(folder: &Path) -> Vec<u32> {
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
    for name in BOTH {
        let engine = Engine::start(name);
        let pids = workers(engine.folder.path());
        assert_eq!(
            pids.len(),
            1,
            "one process serves all that use the connection"
        );
        // Nor does a crash leave a file with it.
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", pids[0]));
        let limits = limits.expect("it runs");
        let core = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max core file size"));
        let soft = core.and_then(|core| core.split_whitespace().next());
        assert!(engine.kind == "jdbc" || soft == Some("0"), "{limits}");
        for file in ["cmdline", "environ"] {
            let text = std::fs::read(format!("/proc/{}/{file}", pids[0])).expect("it runs");
            let text = String::from_utf8_lossy(&text).into_owned();
            assert!(!text.contains("secret"), "{text}");
            assert!(
                file == "environ"
                    || text.contains("busbar.JdbcWorker")
                    || text.contains(busbar_connect::ODBC_HOST),
                "{text}"
            );
        }
    }
}

#[test]
fn a_worker_that_is_killed_is_started_again() {
    for name in BOTH {
        let engine = Engine::start(name);
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
}

#[test]
fn a_statement_that_takes_too_long_is_ended_and_others_go_on() {
    for name in BOTH {
        let engine = Engine::start(name);
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
            ["driver.timeout-passed", "driver.for-now"].contains(&failed.code()),
            "{failed}"
        );
        assert_eq!(engine.texts("select 1 as n"), ["1"]);
    }
}

/// Node and worker are killed in the middle, and each row is in the table once.
#[test]
fn rows_are_there_once_however_often_node_and_worker_are_killed() {
    for name in BOTH {
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        copy_drivers(folder.path());
        let kind = if name == "postgres" { "jdbc" } else { "odbc" };
        let login = login(name);
        let database = login
            .split(['/', '='])
            .find_map(|part| part.split('\'').next().filter(|name| name.starts_with('t')))
            .expect("its database")
            .to_owned();
        // Without a key: a row that is written twice is there twice.
        postgres().run(&database, "create table rows (n bigint, note text)");
        let write = format!("{kind}:\n{login}  write: {{ table: rows }}\n");
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
}
