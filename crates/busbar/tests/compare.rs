//! `busbar compare` over PostgreSQL, MariaDB and the node's own tables.

#![allow(missing_docs)]

#[path = "compare/drivers.rs"]
mod drivers;
mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::node::Node;
use support::ports::free_port;

/// How long a test waits for what has to come. Nothing takes as long; a machine may be slow or busy.
const PATIENCE: Duration = Duration::from_secs(240);

struct Site {
    node: Node,
    maria: u16,
    pg: u16,
    _folder: tempfile::TempDir,
}

impl Site {
    fn open() -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        let (maria, pg) = (free_port(), free_port());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/servers");
        let installed = Command::new(&script).arg("install").status();
        assert!(installed.expect("the script runs").success());
        for (what, port) in [("mariadb", maria), ("postgres", pg)] {
            #[expect(clippy::zombie_processes, reason = "the script ends with this process")]
            Command::new(&script)
                .arg(what)
                .arg(folder.path().join(what))
                .arg(port.to_string())
                .arg(std::process::id().to_string())
                .stdin(Stdio::null())
                .spawn()
                .expect("the server starts");
        }
        let connections = [
            (
                "m",
                format!(
                    "mysql: {{ address: '127.0.0.1:{maria}', database: d, user: root, write: {{ table: t }} }}\n"
                ),
            ),
            (
                "p",
                format!(
                    "postgres: {{ address: '127.0.0.1:{pg}', database: postgres, user: postgres, password: secret, write: {{ table: t }} }}\n"
                ),
            ),
        ];
        let files: Vec<_> = connections
            .iter()
            .map(|(name, text)| (format!("connections/{name}.yaml"), text.as_str()))
            .collect();
        let mut files: Vec<_> = files.iter().map(|(n, t)| (n.as_str(), *t)).collect();
        files.push((
            "tables/own.yaml",
            "relational: {}\nkey: [id]\ncolumns: [{ name: id, type: int }, { name: name, type: text }, { name: money, type: text }, { name: at, type: time }, { name: ok, type: bool }, { name: x, type: float }]\n",
        ));
        let mut node = Node::new(&files);
        node.start();
        let site = Site {
            node,
            maria,
            pg,
            _folder: folder,
        };
        for ask in [
            Site::in_maria as fn(&Site, &str) -> Result<String, String>,
            Site::in_pg,
        ] {
            let begun = Instant::now();
            while let Err(why) = ask(&site, "select 1") {
                assert!(begun.elapsed() < PATIENCE, "{why}");
                std::thread::park_timeout(Duration::from_millis(100));
            }
        }
        site
    }

    fn in_maria(&self, sql: &str) -> Result<String, String> {
        let port = self.maria.to_string();
        answered(
            Command::new("mariadb")
                .args([
                    "--no-defaults",
                    "--default-character-set=utf8mb4",
                    "-N",
                    "-B",
                ])
                .args(["-h", "127.0.0.1", "-P", &port, "-u", "root", "-e", sql]),
        )
    }

    fn in_pg(&self, sql: &str) -> Result<String, String> {
        let port = self.pg.to_string();
        answered(
            Command::new("psql")
                .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
                .args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-c", sql])
                .env("PGPASSWORD", "secret"),
        )
    }

    /// What `busbar compare --json` answers, and its exit code.
    fn compare(&self, args: &[&str]) -> (Value, i32) {
        self.busbar(&[&["compare", "--json"], args].concat())
    }

    /// Waits until two tables are the same, with so many rows.
    fn same(&self, a: &str, b: &str, rows: u64) {
        let begun = Instant::now();
        loop {
            let (found, code) = self.compare(&[a, b]);
            if code == 0 && found["rows_b"] == rows {
                return;
            }
            let connections = self.node.get_json("/api/v1/connections");
            assert!(begun.elapsed() < PATIENCE, "{found} {connections}");
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    /// What a command answers as JSON, and its exit code.
    fn busbar(&self, args: &[&str]) -> (Value, i32) {
        let output = self
            .node
            .command()
            .env("BUSBAR_NODE", format!("http://{}", self.node.http))
            .args(args)
            .output()
            .expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().unwrap_or_default();
        let why = String::from_utf8_lossy(&output.stderr);
        let json = serde_json::from_str(first).unwrap_or_else(|_| panic!("{args:?}: {text} {why}"));
        (json, output.status.code().expect("an exit code"))
    }
}

fn answered(command: &mut Command) -> Result<String, String> {
    let output = command.output().expect("the client runs");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn counts(found: &Value) -> [u64; 6] {
    ["rows_a", "rows_b", "equal", "different", "only_a", "only_b"]
        .map(|member| found[member].as_u64().unwrap_or_else(|| panic!("{found}")))
}

fn keys(found: &Value) -> Vec<String> {
    let keys = found["keys"].as_array().expect("keys");
    let columns = |key: &Value| {
        let columns = key["columns"].as_array().into_iter().flatten();
        columns
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(",")
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let told = keys.iter().map(|key| {
        format!(
            "{} {} {}",
            text(&key["key"]),
            text(&key["state"]),
            columns(key)
        )
    });
    told.map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn tables_of_unlike_systems_are_compared_and_put_right() {
    let site = Site::open();
    let maria = |sql: &str| {
        site.in_maria(sql)
            .unwrap_or_else(|why| panic!("{why}: {sql}"))
    };
    let pg = |sql: &str| site.in_pg(sql).unwrap_or_else(|why| panic!("{why}: {sql}"));
    maria(
        "create database d character set utf8mb4; use d; \
         create table t (ID bigint primary key, Name varchar(40), money decimal(12,4), at datetime(6), ok boolean, x double, raw varbinary(9), more int); \
         insert into t values (1, '张三', 1.5, '2024-02-29 01:02:03', true, 0.1, x'00ff', 1), \
         (2, 'a ', -0.25, '2024-02-29 00:00:00.5', false, 1e300, x'', 1), (3, null, null, null, null, null, null, 1), \
         (4, 'é', 7, '1999-12-31', true, -0.0, x'41', 1), (10, 'ten', 10, null, true, 10, null, 1), (9, 'nine', 9, null, true, 9, null, 1)",
    );
    pg(
        "create table t (pid bigint primary key, name text, money numeric, at timestamptz, ok boolean, x double precision, raw bytea); \
         set time zone 'UTC'; insert into t values (1, '张三', 1.50000, '2024-02-29 01:02:03+00', true, 0.1, '\\x00ff'), \
         (2, 'a ', -0.25, '2024-02-29 00:00:00.5+00', false, 1e300, ''), (3, null, null, null, null, null, null), \
         (4, 'é', 7.0, '1999-12-31 00:00:00+00', true, 0, 'A'), (10, 'ten', 10, null, true, 10, null), (9, 'nine', 9, null, true, 9, null)",
    );
    // The same, whatever the systems write; keys are ordered as numbers.
    let both = ["m:t", "p:t", "--rename", "ID=pid"];
    let (found, code) = site.compare(&both);
    assert_eq!((counts(&found), code), ([6, 6, 6, 0, 0, 0], 0), "{found}");
    assert_eq!(found["left_out"], serde_json::json!(["more"]));
    assert_eq!(
        found["ranges"][0]["checksum_a"],
        found["ranges"][0]["checksum_b"]
    );
    // A trailing space, another letter that looks alike, a digit, a row too few and one too many.
    pg(
        "update t set name = 'a' where pid = 2; update t set name = U&'e\\0301', money = 7.0001 where pid = 4; \
        delete from t where pid = 9; insert into t (pid, name) values (11, 'more')",
    );
    let (found, code) = site.compare(&both);
    assert_eq!((counts(&found), code), ([6, 6, 3, 2, 1, 1], 1), "{found}");
    assert_eq!(
        keys(&found),
        [
            "2 different Name",
            "4 different Name,money",
            "9 only-a",
            "11 only-b"
        ]
    );
    assert_ne!(
        found["ranges"][0]["checksum_a"],
        found["ranges"][0]["checksum_b"]
    );
    // Bytes are compared and not repaired.
    let (refused, code) = site.compare(&[&both[..], &["--repair"]].concat());
    assert_eq!(
        (refused["error"]["code"].as_str(), code),
        (Some("server.compare-bytes"), 78),
        "{refused}"
    );
    let some = [&both[..], &["--columns", "Name,money,at,ok,x", "--repair"]].concat();
    let (found, code) = site.compare(&some);
    assert_eq!(
        (found["repaired"].as_u64(), found["refused"].as_u64(), code),
        (Some(3), Some(0), 1),
        "{found}"
    );
    let (found, code) = site.compare(&[&some[..], &["--delete"]].concat());
    assert_eq!((found["deleted"].as_u64(), code), (Some(1), 0), "{found}");
    let (found, _) = site.compare(&[&both[..], &["--columns", "Name,money,at,ok,x"]].concat());
    assert_eq!(counts(&found), [6, 6, 6, 0, 0, 0], "{found}");
    // From PostgreSQL to MariaDB, and a row that MariaDB refuses.
    pg("insert into t (pid, name, ok) values (20, 'twenty', false), (21, repeat('x', 41), true)");
    let back = [
        "p:public.t",
        "m:d.t",
        "--rename",
        "pid=ID",
        "--columns",
        "name,ok",
        "--repair",
    ];
    let (found, code) = site.compare(&back);
    assert_eq!(
        (found["repaired"].as_u64(), found["refused"].as_u64(), code),
        (Some(1), Some(1), 1),
        "{found}"
    );
    assert_eq!(maria("select Name, ok from d.t where ID = 20"), "twenty\t0");
    pg("delete from t where pid = 21");
    // Into the node's own table, and from it.
    let own = [
        "m:t",
        "own",
        "--rename",
        "ID=id",
        "--columns",
        "Name,money,at,ok,x",
        "--repair",
    ];
    let (found, code) = site.compare(&own);
    assert_eq!((found["repaired"].as_u64(), code), (Some(7), 0), "{found}");
    let (found, code) = site.compare(&["own", "p:t", "--rename", "id=pid"]);
    assert_eq!((counts(&found), code), ([7, 7, 7, 0, 0, 0], 0), "{found}");
    // Keys that are text, in the order of their bytes whatever the collation says, over several pages.
    maria(
        "use d; create table w (k varchar(40), n int, v int, primary key (k, n)); \
           insert into w select concat(elt(1 + seq % 5, 'a', 'B', 'é', '张', 'Z '), seq div 7), seq, seq from seq_1_to_12000",
    );
    pg(
        "create table w (k text, n int, v bigint, primary key (k, n)); \
        insert into w select (array['a','B','é','张','Z '])[1 + s % 5] || s / 7, s, s from generate_series(1, 12000) s; \
        update w set v = 0 where n = 7777",
    );
    let (found, code) = site.compare(&["m:w", "p:w"]);
    assert_eq!(
        (counts(&found), code),
        ([12_000, 12_000, 11_999, 1, 0, 0], 1),
        "{found}"
    );
    assert_eq!(found["ranges"].as_array().map(Vec::len), Some(2), "{found}");
    // What is not there is said.
    for (args, code) in [
        (&["m:gone", "p:t"][..], "server.compare-no-table"),
        (&["m:t", "p:t"], "server.compare-no-column"),
        (&["m:t", "nothing"], "server.compare-no-table"),
        (&["z:t", "p:t"], "flow.no-connection"),
        (
            &["m:t", "p:t", "--rename", "ID=pid", "--key", "ok"],
            "flow.compare-order",
        ),
    ] {
        let (refused, exit) = site.compare(args);
        assert_eq!(
            (refused["error"]["code"].as_str(), exit),
            (Some(code), 78),
            "{args:?} {refused}"
        );
    }
}

/// PostgreSQL repeats no large value that a change leaves as it is.
#[test]
fn what_a_change_leaves_out_stays_in_the_copies_of_a_table_of_postgresql() {
    let site = Site::open();
    let maria = |sql: &str| {
        site.in_maria(sql)
            .unwrap_or_else(|why| panic!("{why}: {sql}"))
    };
    let pg = |sql: &str| site.in_pg(sql).unwrap_or_else(|why| panic!("{why}: {sql}"));
    maria("create database d character set utf8mb4");
    pg(
        "create table doc (id bigint primary key, title text, body text); \
        alter table doc alter column body set storage external; \
        insert into doc select n, 't' || n, repeat(n::text, 20000) from generate_series(1, 4) n",
    );
    let project = site.node.project();
    let project = project.to_str().expect("a path");
    let copies = [
        "m",
        "hot:doc_hot",
        "relational:doc_relational",
        "wide:doc_wide",
    ];
    for to in copies {
        let (planned, code) =
            site.busbar(&["copy-table", "--json", "--project", project, "p:doc", to]);
        assert_eq!(
            (code, &planned["statements"]),
            (0, &serde_json::json!([])),
            "{planned}"
        );
        // Where it is written the password is in the file, and nowhere else.
        assert!(
            !planned.to_string().contains("password: secret"),
            "{planned}"
        );
    }
    let (answer, code) = site.busbar(&["apply", "--json", project]);
    assert_eq!(code, 0, "{answer}");
    let same = |rows: u64| {
        for copy in ["m:doc", "doc_hot", "doc_relational", "doc_wide"] {
            site.same("p:doc", copy, rows);
        }
    };
    same(4);
    pg(
        "update doc set title = 'other' where id = 1; update doc set id = 30 where id = 3; delete from doc where id = 2",
    );
    pg(
        "update doc set body = repeat('z', 30000) where id = 4; insert into doc values (5, null, repeat('y', 20000))",
    );
    same(4);
    // A user who may not follow is told of before anything is written.
    pg("create role reader login password 'secret'; grant select on doc to reader");
    let reader = format!(
        "postgres: {{ address: '127.0.0.1:{}', database: postgres, user: reader, password: secret, write: {{ table: t }} }}\n",
        site.pg
    );
    let file = site.node.project().join("connections/r.yaml");
    std::fs::write(file, reader).expect("a file");
    let (answer, code) = site.busbar(&["apply", "--json", project]);
    assert_eq!(code, 0, "{answer}");
    let plan = [
        "copy-table",
        "--json",
        "--project",
        project,
        "r:doc",
        "hot:read",
    ];
    let (planned, code) = site.busbar(&plan);
    let needed: Vec<_> = planned["statements"]
        .as_array()
        .expect("statements")
        .iter()
        .filter_map(|needed| needed["statement"].as_str())
        .collect();
    assert_eq!(
        (code, &needed[..]),
        (
            1,
            &[
                "ALTER ROLE \"reader\" REPLICATION",
                "CREATE PUBLICATION \"busbar_read_changes\" FOR TABLE public.doc"
            ][..]
        ),
        "{planned}"
    );
    let why = &planned["statements"][1]["why"];
    for text in ["message", "message_zh"] {
        let told = why[text].as_str().unwrap_or_default();
        assert!(
            told.contains("reader") && told.contains("postgres"),
            "{why}"
        );
    }
    assert!(!site.node.project().join("flows/read.yaml").exists());
    needed.iter().for_each(|statement| {
        pg(statement);
    });
    let (planned, code) = site.busbar(&plan);
    assert_eq!(
        (code, &planned["statements"]),
        (0, &serde_json::json!([])),
        "{planned}"
    );
    assert!(site.node.project().join("flows/read.yaml").exists());
    let (answer, code) = site.busbar(&["apply", "--json", project]);
    assert_eq!(code, 0, "{answer}");
    site.same("p:doc", "read", 4);
    // One publication has several tables, each of them by its owner.
    pg(
        "create table mine (id int primary key); create table theirs (id int primary key); alter table mine owner to reader; \
         grant select on theirs to reader; create publication busbar_both_changes for table theirs; \
         grant create on database postgres to reader",
    );
    let both = || {
        let plan = ["copy-table", "--json", "--project", project];
        site.busbar(&[&plan[..], &["r:mine,theirs", "hot", "--name", "both"]].concat())
    };
    let (planned, code) = both();
    assert_eq!(
        (code, &planned["statements"][0]["statement"]),
        (
            1,
            &Value::from("ALTER PUBLICATION \"busbar_both_changes\" ADD TABLE public.mine")
        ),
        "{planned}"
    );
    // Who owns the table and may make publications needs nobody.
    pg("drop publication busbar_both_changes; alter table theirs owner to reader");
    let (planned, code) = both();
    assert_eq!(
        (code, &planned["statements"]),
        (0, &serde_json::json!([])),
        "{planned}"
    );
}

/// A table that is made has the types of the one that is copied where both databases are of one kind.
#[test]
fn a_copy_has_the_types_lengths_and_the_key_of_its_table() {
    let site = Site::open();
    let maria = |sql: &str| {
        site.in_maria(sql)
            .unwrap_or_else(|why| panic!("{why}: {sql}"))
    };
    let pg = |sql: &str| site.in_pg(sql).unwrap_or_else(|why| panic!("{why}: {sql}"));
    maria(
        "create database d character set utf8mb4; create database e character set latin1; use d; \
         create table kinds (part varchar(20) not null, id int(11) not null, tiny tinyint(3) unsigned not null, flag tinyint(1), \
         small smallint(6), whole int(10) unsigned, big bigint(20) unsigned, single float, x double not null, money decimal(12,4), \
         huge decimal(65,30), born date, at datetime, fine datetime(3), seen timestamp null, begun timestamp not null, clock time(3), made year(4), \
         code char(3), name varchar(50) not null, note text, kind enum('in','o''ut') not null, more set('a','b'), raw varbinary(9), \
         pad binary(4), bits bit(10), large mediumblob, primary key (part, id)); \
         insert into kinds values ('a', 1, 255, 1, -1, 4294967295, 18446744073709551615, 16777215, 0.1, -1.5, \
         12345678901234567890123456789012345.123456789012345678901234567890, '1999-12-31', '2024-02-29 01:02:03', '2024-02-29 01:02:03.5', \
         '2024-02-29 01:02:03', '2024-02-29 01:02:03', '-01:02:03.25', 2024, 'ab', '张三', 'n', 'o''ut', 'a,b', x'00ff', x'0100', b'1000000001', x'00'), \
         ('b', 2, 0, null, null, null, null, null, 0, null, null, null, null, null, null, '2024-01-01', null, null, null, '', null, 'in', null, null, null, null, null)",
    );
    pg(
        "create schema other; create table kinds (id integer, part varchar(20), small smallint not null, big bigint, single real, x double precision, \
         money numeric(12,4) not null, huge numeric(60,20), any_number numeric, ok boolean not null, born date, at timestamp(3) not null, fine timestamptz, \
         clock time(3), code char(5), name varchar(50) not null, note text, raw bytea, doc jsonb not null, u uuid, host inet, list integer[], span interval, \
         bits bit(3), primary key (id, part)); \
         insert into kinds values (1, 'a', -1, 9007199254740993, 0.1, 0.1, -1.5, 12345678901234567890123456789012345.5, 1e-30, true, \
         '1999-12-31', '2024-02-29 01:02:03.004', '2024-02-29 01:02:03.000004+00', '01:02:03.25', 'ab', '张三', 'n', '\\x00ff', '{\"a\": 1}', \
         '00000000-0000-0000-0000-000000000001', '10.0.0.1/8', '{1,null}', '1 day 02:00', '101'), \
         (2, 'b', 0, null, null, null, 0, null, null, false, null, '2024-01-01', null, null, null, '', null, null, '[1]', null, null, null, null, null)",
    );
    let project = site.node.project();
    let project = project.to_str().expect("a path");
    let plan = |from: &str, to: &str, name: &str| {
        let all = [
            "copy-table",
            "--json",
            "--project",
            project,
            from,
            to,
            "--name",
            name,
        ];
        let (planned, code) = site.busbar(&all);
        assert_eq!(code, 0, "{planned}");
    };
    plan("m:kinds", "m:e.kinds", "in_maria");
    plan("p:kinds", "p:other.kinds", "in_pg");
    let (answer, code) = site.busbar(&["apply", "--json", project]);
    assert_eq!(code, 0, "{answer}");
    site.same("m:kinds", "m:e.kinds", 2);
    site.same("p:kinds", "p:other.kinds", 2);
    // All digits of it, of which the server shows six.
    let single =
        "select count(*) from d.kinds a join e.kinds b on a.id = b.id and a.single = b.single";
    assert_eq!(maria(single), "1");
    let in_maria = |database: &str| {
        maria(&format!(
            "select column_name, column_type, column_name <> 'begun' and is_nullable = 'NO', column_key from information_schema.columns \
             where table_schema = '{database}' and table_name = 'kinds' order by ordinal_position"
        ))
    };
    assert_eq!(in_maria("e"), in_maria("d"));
    assert_eq!(
        maria("select name, hex(pad), bits + 0 from e.kinds where id = 1"),
        "张三\t01000000\t513"
    );
    let in_pg = |schema: &str| {
        pg(&format!(
            "select attname, format_type(atttypid, atttypmod), attname <> 'doc' and attnotnull from pg_attribute \
             where attrelid = '{schema}.kinds'::regclass and attnum > 0 order by attnum"
        ))
    };
    assert_eq!(in_pg("other"), in_pg("public"));
    maria(
        "use d; update kinds set single = 0.3, at = '2024-03-01 00:00:00', seen = null, big = 7, name = 'other' where id = 1; \
         insert into kinds (part, id, tiny, x, begun, name, kind) values ('c', 3, 1, 1, '2024-01-02', 'c', 'in'); delete from kinds where id = 2",
    );
    pg(
        "update kinds set single = 1e-38, at = '2024-03-01 00:00:00.001', huge = 0.5, name = 'other' where id = 1; \
         insert into kinds (id, part, small, money, ok, at, name, doc) values (3, 'c', 1, 1, true, '2024-01-02', 'c', '{}'); delete from kinds where id = 2",
    );
    site.same("m:kinds", "m:e.kinds", 2);
    site.same("p:kinds", "p:other.kinds", 2);
    assert_eq!(maria(single), "1");
    assert_eq!(maria("select seen is null from e.kinds where id = 1"), "1");
}

#[test]
fn a_table_is_copied_and_kept_in_step_by_the_files_of_the_plan() {
    let site = Site::open();
    let maria = |sql: &str| {
        site.in_maria(sql)
            .unwrap_or_else(|why| panic!("{why}: {sql}"))
    };
    let pg = |sql: &str| site.in_pg(sql).unwrap_or_else(|why| panic!("{why}: {sql}"));
    maria(
        "create database d character set utf8mb4; use d; \
         create table patient (ID bigint primary key, `key` varchar(40), `time` time, born date, seen datetime(6), changed timestamp null, \
         money decimal(12,4), big bigint unsigned, ok tinyint(1), x double, raw varbinary(9), kind enum('in','out'), `a b` text); \
         insert into patient values (1, '张三', '-01:02:03', '1999-12-31', '2024-02-29 01:02:03.000004', '2024-01-02 03:04:05', \
         -1.5, 18446744073709551615, 1, 0.1, x'00ff', 'in', 'a'), (2, null, null, null, null, null, null, null, null, null, null, null, null); \
         create table visit (id bigint primary key, note text, at datetime(6)); \
         insert into visit values (1, 'a', '2024-01-01'), (2, 'b', '2024-01-01'); create table narrow (id int primary key, x double); \
         create table flag (id int primary key, ok tinyint(1)); create table code (id int primary key, x varchar(9)); \
         create table odd (id int primary key, `a\nb` int)",
    );
    pg(
        "create table narrow (id int primary key, x real); create table flag (id int primary key, ok boolean); \
        create table code (id int primary key, x int)",
    );
    let project = site.node.project();
    let project = project.to_str().expect("a path");
    let plan = |args: &[&str]| {
        let all = [&["copy-table", "--json", "--project", project], args].concat();
        site.busbar(&all)
    };
    let apply = || {
        let (answer, code) = site.busbar(&["apply", "--json", project]);
        assert_eq!(code, 0, "{answer}");
    };
    // One way, to a table that is made.
    let (planned, code) = plan(&["m:patient", "p"]);
    assert_eq!(
        (code, &planned["statements"]),
        (0, &serde_json::json!([])),
        "{planned}"
    );
    apply();
    site.same("m:patient", "p:patient", 2);
    maria(
        "use d; insert into patient (ID, `key`, born) values (3, 'new', '2000-01-01'); \
         update patient set `key` = 'other', money = 7, raw = x'01' where ID = 2; delete from patient where ID = 1; \
         update patient set ID = 30 where ID = 3; insert into patient (ID, big) values (4, 5)",
    );
    site.same("m:patient", "p:patient", 3);
    let types = pg(
        "select string_agg(data_type, ',' order by ordinal_position) from information_schema.columns where table_name = 'patient'",
    );
    assert_eq!(
        types,
        "bigint,character varying,text,date,timestamp with time zone,timestamp with time zone,numeric,numeric,smallint,double precision,bytea,text,text"
    );
    // What cannot be, is refused with its reason, and nothing is written.
    for (args, refused) in [
        (&["m:patient", "p"][..], "server.copy-exists"),
        (&["m:narrow", "p"], "server.copy-lossy"),
        (&["m:narrow", "m:narrow"], "server.copy-same"),
        (&["m:flag", "p"], "server.copy-lossy"),
        (&["m:code", "p"], "server.copy-lossy"),
        (&["m:odd", "p"], "server.copy-control"),
        (
            &["m:visit", "hot", "--both-ways", "--version", "at"],
            "server.copy-own-both",
        ),
        (
            &["m:visit", "p", "--both-ways", "--version", "note"],
            "server.copy-version",
        ),
    ] {
        let (planned, code) = plan(args);
        let codes = planned["refusals"].as_array().expect("refusals").iter();
        let codes: Vec<_> = codes.map(|refusal| &refusal["code"]).collect();
        assert!(
            code == 1 && codes.contains(&&Value::from(refused)),
            "{planned}"
        );
        assert_eq!(planned["files"], serde_json::json!({}), "{planned}");
    }
    // Both ways: the statements are run first.
    let both = ["m:visit", "p", "--both-ways", "--version", "at"];
    let (planned, code) = plan(&both);
    assert_eq!(code, 1, "{planned}");
    assert!(!site.node.project().join("flows/visit.yaml").exists());
    for needed in planned["statements"].as_array().expect("statements") {
        assert_eq!(needed["connection"], "p");
        pg(needed["statement"].as_str().expect("a statement"));
    }
    let (planned, code) = plan(&both);
    assert_eq!(
        (code, &planned["exists"]),
        (0, &Value::Bool(true)),
        "{planned}"
    );
    apply();
    site.same("m:visit", "p:visit", 2);
    pg(
        "update visit set note = 'from p', at = '2024-01-02 00:00:00.5+00' where id = 1; insert into visit values (3, 'p', '2024-01-01 00:00:00+00')",
    );
    maria(
        "use d; update visit set note = 'late', at = '2024-01-03' where id = 2; insert into visit values (4, 'm', '2024-01-01')",
    );
    site.same("m:visit", "p:visit", 4);
    site.same("p:visit", "m:visit", 4);
    assert_eq!(maria("select note from d.visit where id = 1"), "from p");
    pg("delete from visit where id = 4");
    site.same("m:visit", "p:visit", 3);
    // To tables of the node, with deletes.
    for engine in ["hot", "relational", "wide"] {
        let (planned, code) = plan(&["m:visit", &format!("{engine}:visit_{engine}")]);
        assert_eq!(code, 0, "{planned}");
    }
    apply();
    let kept = ["visit_hot", "visit_relational", "visit_wide"];
    for table in kept {
        site.same("m:visit", table, 3);
    }
    maria(
        "use d; delete from visit where id = 1; update visit set id = 20, at = '2024-01-05' where id = 2; \
         insert into visit values (5, 'n', '2024-01-06')",
    );
    for table in kept {
        site.same("m:visit", table, 3);
    }
    // A side that wins.
    maria(
        "use d; create table ward (id bigint primary key, name text, at datetime(6)); insert into ward values (1, 'a', '2024-01-01')",
    );
    let wins = [
        "m:ward",
        "p",
        "--both-ways",
        "--version",
        "at",
        "--wins",
        "second",
    ];
    let (planned, _) = plan(&wins);
    for needed in planned["statements"].as_array().expect("statements") {
        pg(needed["statement"].as_str().expect("a statement"));
    }
    let (planned, code) = plan(&wins);
    assert_eq!(code, 0, "{planned}");
    apply();
    site.same("m:ward", "p:ward", 1);
    maria("update d.ward set name = 'from m', at = '2024-01-02' where id = 1");
    site.same("m:ward", "p:ward", 1);
    pg(
        "insert into ward values (2, 'p', '2024-01-01 00:00:00+00'); update ward set name = 'from p', at = '2024-01-03 00:00:00+00' where id = 1",
    );
    site.same("m:ward", "p:ward", 2);
    assert_eq!(maria("select name from d.ward where id = 1"), "from p");
    // Several at once: one connection follows them, and each has a flow.
    maria(
        "use d; create table bed (id bigint primary key, ward bigint); insert into bed values (1, 1), (2, 1); \
         create table room (id bigint primary key, name text); insert into room values (1, 'a'); create table keyless (n int)",
    );
    let (planned, code) = plan(&["m:bed,room", "p", "--name", "rooms"]);
    let flows = serde_json::json!(["rooms_bed", "rooms_room"]);
    assert_eq!((code, &planned["flows"]), (0, &flows), "{planned}");
    let paths = planned["files"].as_object().expect("files").keys();
    let sources: Vec<_> = paths
        .filter(|path| path.ends_with("changes.yaml"))
        .collect();
    let expected = [
        "connections/rooms_changes.yaml",
        "streams/rooms_bed_changes.yaml",
        "streams/rooms_room_changes.yaml",
    ];
    assert_eq!(sources, expected, "{planned}");
    apply();
    site.same("m:bed", "p:bed", 2);
    site.same("m:room", "p:room", 1);
    maria(
        "use d; delete from bed where id = 1; insert into bed values (3, 2); update room set name = 'b'",
    );
    site.same("m:bed", "p:bed", 2);
    site.same("m:room", "p:room", 1);
    assert_eq!(pg("select name from room"), "b");
    // All of a schema: what has no key is left out, and what cannot be copied is refused.
    let (planned, code) = plan(&["m:*", "hot", "--name", "all"]);
    let codes = |member: &str| {
        let all = planned[member].as_array().expect("a list").iter();
        all.map(|one| one["code"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(code, 1, "{planned}");
    assert!(codes("warnings").contains(&"server.copy-left-out".to_owned()));
    assert!(codes("refusals").contains(&"server.copy-control".to_owned()));
    for (args, refused) in [
        (&["m:bed,room", "p:beds"][..], "server.copy-many-to"),
        (
            &["m:bed,room", "p", "--both-ways", "--version", "id"],
            "server.copy-many-both",
        ),
    ] {
        let (planned, code) = plan(args);
        assert_eq!(
            (code, planned["refusals"][0]["code"].as_str()),
            (1, Some(refused)),
            "{planned}"
        );
    }
}
