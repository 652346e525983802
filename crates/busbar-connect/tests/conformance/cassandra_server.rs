//! `cassandra` with a real server: `make test-servers`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array,
    StringArray, StructArray, TimestampMicrosecondArray,
};
use busbar_connector::{
    Connector, Delivery, Polled, Resume, ServiceContext, Sink, SourceContext, SqlPart, SqlStatement,
};
use busbar_event::format::encode_json;
use busbar_event::{Class, Error};
use busbar_flow::DeadFilter;
use serde_json::{Value as Json, json};
use tokio::runtime::Runtime;

use crate::database_lookups::{joined, results, send};
use crate::postgres_sink::{ints, open, rows, texts};
use crate::servers::{Cut, DatabaseServer, cassandra};
use crate::sinks::by;
use crate::tls::Site;
use crate::world::{World, eventually, spec};

/// Whether it lets its user in: the user is made some time after the start.
pub fn answers(port: u16) -> Result<String, String> {
    let ask = || -> std::io::Result<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(crate::world::PATIENCE))?;
        let mut kind = 0;
        let mut startup = vec![0, 1, 0, 11];
        startup.extend(b"CQL_VERSION\x00\x053.0.0");
        let token = b"\0cassandra\0cassandra";
        let mut credentials = (token.len() as u32).to_be_bytes().to_vec();
        credentials.extend(token);
        for (opcode, body) in [(1, startup), (0x0f, credentials)] {
            let mut frame = vec![4, 0, 0, 0, opcode];
            frame.extend((body.len() as u32).to_be_bytes());
            frame.extend(body);
            stream.write_all(&frame)?;
            let mut head = [0; 9];
            stream.read_exact(&mut head)?;
            let length = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            stream.read_exact(&mut vec![0; length as usize])?;
            kind = head[4];
        }
        Ok(kind)
    };
    match ask() {
        Ok(0x10) => Ok("AUTH_SUCCESS".to_owned()),
        other => Err(format!("{other:?}")),
    }
}

/// Each connection has a producer of its own.
fn write(text: &str, rows: &Delivery) -> Result<Vec<usize>, Error> {
    crate::postgres_sink::write(text, &by(rows.clone(), text))
}

struct Cluster {
    server: DatabaseServer,
    runtime: Runtime,
}

impl Cluster {
    fn connection(&self, port: u16, more: &str) -> String {
        format!(
            "cassandra: {{ addresses: ['127.0.0.1:{port}'], keyspace: plant, user: cassandra, password: cassandra{more} }}\n"
        )
    }

    fn to(&self, more: &str) -> String {
        self.connection(self.server.port, &format!(", {more}"))
    }

    /// Runs statements; the rows of the last one.
    fn run(&self, keyspace: &str, statements: &[&str]) -> Vec<Json> {
        let text = self
            .to("timeout: 60s")
            .replace("keyspace: plant, ", keyspace);
        let spec = spec(&text);
        let registry = busbar_connect::registry();
        let connector = registry.get("cassandra").expect("registered");
        let context = ServiceContext {
            name: "x".into(),
            project_dir: Path::new("/").into(),
            clock: Arc::new(busbar_log::SystemClock),
        };
        self.runtime.block_on(async {
            let database = connector
                .database(&spec, context)
                .await
                .expect("a database");
            let mut found = Vec::new();
            for text in statements {
                let statement = SqlStatement {
                    parts: vec![SqlPart::Text((*text).to_owned())],
                    ..SqlStatement::default()
                };
                let mut rows = database
                    .run(&statement)
                    .await
                    .unwrap_or_else(|why| panic!("{why}: {text}"));
                found.clear();
                while let Some(batch) = rows.next().await.expect("rows") {
                    let objects = encode_json(&StructArray::from(batch));
                    let parsed = objects.iter().flatten().map(serde_json::from_slice);
                    found.extend(parsed.map(|row: Result<Json, _>| row.expect("JSON")));
                }
            }
            found
        })
    }

    fn make(&self, statement: &str) {
        self.run("keyspace: plant, ", &[statement]);
    }

    fn rows(&self, statement: &str) -> Vec<Json> {
        self.run("keyspace: plant, ", &[statement])
    }
}

/// What is tested, and the test.
type ClusterTest = (&'static str, fn(&Cluster));

#[test]
#[ignore = "make test-servers"]
fn rows_are_written_found_and_read() {
    let site = Site::new(&["localhost"]);
    let read = |name: &str| std::fs::read(site.path().join(name)).expect("a file");
    let (pem, key) = (read("server.pem"), read("server.key"));
    let cluster = Cluster {
        server: cassandra(&[("server.pem", &pem), ("server.key", &key)]),
        runtime: Runtime::new().expect("a runtime"),
    };
    let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
    let keyspace = format!("CREATE KEYSPACE plant WITH replication = {replication}");
    cluster.run("", &[&keyspace]);
    let parts: [ClusterTest; 10] = [
        ("values", values_come_back_as_they_were),
        ("refusals", refused_rows_are_told),
        ("changes", changes_are_followed),
        ("ends", rows_have_an_end),
        ("look-ups", rows_are_looked_up),
        ("calls", statements_are_called),
        ("pages", rows_are_read_page_by_page),
        ("rights", users_are_told_what_they_lack),
        ("lists", what_is_there_is_listed),
        ("kills", rows_are_equal_however_often_the_writer_is_killed),
    ];
    // The server takes long to start: one run shows all that is wrong.
    let wrong =
        |part: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(part)).is_err();
    let mut failed: Vec<&str> = Vec::new();
    for (name, part) in parts {
        if wrong(&|| part(&cluster)) {
            failed.push(name);
        }
    }
    if wrong(&|| it_is_encrypted(&cluster, &site)) {
        failed.push("encryption");
    }
    assert!(failed.is_empty(), "{failed:?}");
}

fn values_come_back_as_they_were(cluster: &Cluster) {
    cluster.make("CREATE TYPE place (site text, x double)");
    let decimal = |digits: i128, scale| -> ArrayRef {
        let array = Decimal128Array::from(vec![digits]);
        Arc::new(
            array
                .with_precision_and_scale(30, scale)
                .expect("a decimal"),
        )
    };
    let time = |micros: i64| Arc::new(TimestampMicrosecondArray::from(vec![micros])) as ArrayRef;
    let float = |value: f64| Arc::new(Float64Array::from(vec![value])) as ArrayRef;
    let types: Vec<(&str, ArrayRef, Json)> = vec![
        ("tinyint", ints(&[-128]), json!(-128)),
        ("smallint", ints(&[32_767]), json!(32_767)),
        ("int", ints(&[i32::MIN.into()]), json!(i32::MIN)),
        ("bigint", ints(&[i64::MIN]), json!(i64::MIN)),
        ("varint", ints(&[i64::MAX]), json!("9223372036854775807")),
        (
            "decimal",
            decimal(-1_234_567_890_123_456_789_012_345, 3),
            json!("-1234567890123456789012.345"),
        ),
        ("double", float(0.1), json!(0.1)),
        (
            "boolean",
            Arc::new(BooleanArray::from(vec![true])),
            json!(true),
        ),
        ("text", texts(&["a\tb'ü\"\0"]), json!("a\tb'ü\"\0")),
        ("text", texts(&[""]), json!("")),
        ("ascii", texts(&["a"]), json!("a")),
        (
            "timestamp",
            time(-1_000),
            json!("1969-12-31T23:59:59.999000Z"),
        ),
        (
            "date",
            Arc::new(Date32Array::from(vec![19_675])),
            json!("2023-11-14"),
        ),
        ("date", texts(&["1900-02-28"]), json!("1900-02-28")),
        (
            "time",
            texts(&["23:59:59.000000001"]),
            json!("23:59:59.000000001"),
        ),
        (
            "uuid",
            texts(&["61f0c404-5cb3-11e7-907b-a6006ad3dba0"]),
            json!("61f0c404-5cb3-11e7-907b-a6006ad3dba0"),
        ),
        (
            "timeuuid",
            texts(&["61f0c404-5cb3-11e7-907b-a6006ad3dba0"]),
            json!("61f0c404-5cb3-11e7-907b-a6006ad3dba0"),
        ),
        ("inet", texts(&["2001:db8::1"]), json!("2001:db8::1")),
        ("list<int>", texts(&["[1, 2]"]), json!([1, 2])),
        (
            "map<text, boolean>",
            texts(&["{\"a\": true}"]),
            json!({"a": true}),
        ),
        (
            "frozen<set<text>>",
            texts(&["[\"b\", \"a\"]"]),
            json!(["a", "b"]),
        ),
        ("tuple<int, text>", texts(&["[1, \"a\"]"]), json!([1, "a"])),
        (
            "place",
            texts(&["{\"site\": \"north\", \"x\": 1.5}"]),
            json!({"site": "north", "x": 1.5}),
        ),
        (
            "vector<float, 2>",
            texts(&["[1.5, 2.5]"]),
            json!([1.5, 2.5]),
        ),
        ("int", Arc::new(Int64Array::from(vec![None])), json!(null)),
    ];
    let mut create = "CREATE TABLE types (id int PRIMARY KEY".to_owned();
    let mut columns = vec![("id".to_owned(), ints(&[1]))];
    let mut expected = BTreeMap::new();
    for (at, (kind, column, value)) in types.into_iter().enumerate() {
        create.push_str(&format!(", c{at} {kind}"));
        columns.push((format!("c{at}"), column));
        expected.insert(format!("c{at}"), (kind, value));
    }
    create.push_str(", b blob)");
    cluster.make(&create);
    columns.push((
        "b".to_owned(),
        Arc::new(BinaryArray::from(vec![&b"\xff\x00"[..]])),
    ));
    let named = columns
        .iter()
        .map(|(name, column)| (name.as_str(), column.clone()));
    let one = rows(1, named.collect());
    assert_eq!(
        write(&cluster.to("write: { table: types }"), &one).unwrap(),
        [0; 0]
    );
    let found = cluster.rows("SELECT * FROM types");
    for (name, (kind, value)) in expected {
        // A column of JSON is given as it was read.
        let there = match &found[0][&name] {
            Json::String(text) if value.is_object() || value.is_array() => {
                serde_json::from_str(text).expect("JSON")
            }
            other => other.clone(),
        };
        assert_eq!(there, value, "{kind}");
    }
    // The same as events.
    let query = "query: { statement: 'select id, b, c18 from types' }";
    let events = read_all(cluster, query, 1);
    assert_eq!(events, [json!({"id": 1, "b": "0xff00", "c18": [1, 2]})]);
}

fn refused_rows_are_told(cluster: &Cluster) {
    cluster
        .make("CREATE TABLE refusals (site text, id int, tags list<int>, PRIMARY KEY (site, id))");
    let text = cluster.to("write: { table: plant.refusals }");
    let tags: ArrayRef = Arc::new(StringArray::from(vec![
        Some("[1]"),
        Some("[x"),
        None,
        Some("[2]"),
    ]));
    let four = rows(
        1,
        vec![
            ("id", ints(&[1, 2, 3, 4])),
            ("site", texts(&["n", "n", "n", ""])),
            ("tags", tags),
        ],
    );
    // No JSON, and a key without bytes: the first among others of its batch.
    assert_eq!(write(&text, &four).unwrap(), [1, 3]);
    assert_eq!(cluster.rows("SELECT id FROM refusals").len(), 2);
    // More than the server takes for one row.
    cluster.make("CREATE TABLE large (id int PRIMARY KEY, body text)");
    let (small, large) = ("a".to_owned(), "x".repeat(5 << 20));
    let bodies = texts(&[&small, &large, &small]);
    let three = rows(1, vec![("id", ints(&[1, 2, 3])), ("body", bodies)]);
    assert_eq!(
        write(&cluster.to("write: { table: large }"), &three).unwrap(),
        [1]
    );
    assert_eq!(cluster.rows("SELECT id FROM large").len(), 2);
}

fn changes_are_followed(cluster: &Cluster) {
    cluster.make("CREATE TABLE changes (site text, id int, note text, tags list<int>, PRIMARY KEY (site, id))");
    let text = cluster.to("write: { table: changes, change: change, unchanged: keep }");
    let write_all = |position, all: &[(&str, i64, Option<&str>, &str)]| {
        let words: Vec<_> = all.iter().map(|row| row.0).collect();
        let ids: Vec<_> = all.iter().map(|row| row.1).collect();
        let notes: Vec<_> = all.iter().map(|row| row.2).collect();
        let keeps: Vec<_> = all.iter().map(|row| row.3).collect();
        let tags = vec!["[7]"; all.len()];
        let columns = vec![
            ("change", texts(&words)),
            ("site", texts(&vec!["n"; all.len()])),
            ("id", ints(&ids)),
            ("note", Arc::new(StringArray::from(notes)) as ArrayRef),
            ("tags", texts(&tags)),
            ("keep", texts(&keeps)),
        ];
        write(&text, &rows(position, columns)).unwrap()
    };
    let there = || {
        let rows = cluster.rows("SELECT id, note FROM changes");
        let rows = rows.iter().map(|row| {
            (
                row["id"].as_i64().unwrap(),
                row["note"].as_str().map(str::to_owned),
            )
        });
        rows.collect::<BTreeMap<_, _>>()
    };
    let refused = write_all(
        10,
        &[
            ("insert", 1, Some("a"), ""),
            ("insert", 2, Some("b"), ""),
            ("update", 1, Some("c"), ""),
            ("delete", 2, None, ""),
            ("insert", 3, Some("d"), ""),
            ("update", 3, None, "note,tags"),
            ("mend", 4, None, ""),
        ],
    );
    assert_eq!(refused, [6]);
    let expected = BTreeMap::from([(1, Some("c".to_owned())), (3, Some("d".to_owned()))]);
    assert_eq!(there(), expected);
    // Null has no value any more.
    write_all(20, &[("update", 3, None, "")]);
    assert_eq!(there()[&3], None);
    write_all(
        30,
        &[
            ("insert", 5, Some("e"), ""),
            ("truncate", 0, None, ""),
            ("insert", 6, Some("f"), ""),
        ],
    );
    assert_eq!(there(), BTreeMap::from([(6, Some("f".to_owned()))]));
}

fn rows_have_an_end(cluster: &Cluster) {
    cluster.make("CREATE TABLE ends (id int PRIMARY KEY, note text)");
    let text = cluster.to("write: { table: ends, ttl: 1h, nulls: keep }");
    let one = |position, note: Option<&str>| {
        let note: ArrayRef = Arc::new(StringArray::from(vec![note]));
        rows(position, vec![("id", ints(&[1])), ("note", note)])
    };
    assert_eq!(write(&text, &one(1, Some("a"))).unwrap(), [0; 0]);
    assert_eq!(write(&text, &one(2, None)).unwrap(), [0; 0]);
    let found = cluster.rows("SELECT note, TTL(note) AS ttl FROM ends");
    assert_eq!(found[0]["note"], "a");
    let ttl = found[0]["ttl"].as_i64().expect("a time to live");
    assert!((1..=3600).contains(&ttl), "{ttl}");
}

fn rows_are_looked_up(cluster: &Cluster) {
    cluster.make("CREATE TABLE patient (site text, id int, name text, weight double, born timestamp, labels set<text>, PRIMARY KEY (site, id))");
    cluster.make("INSERT INTO patient (site, id, name, weight, born, labels) VALUES ('n', 1, '张三', 61.25, '1990-02-28T00:00:00Z', {'a'})");
    cluster.make("INSERT INTO patient (site, id, name) VALUES ('s', 1, 'it''s')");
    let cut = Cut::before(cluster.server.port);
    let connection = cluster.connection(cut.port, ", timeout: 20s");
    let world = joined(
        &connection,
        "table: db.plant.patient, on: [site, id], type: left, cache: 0s",
    );
    let asked = [
        json!({"n": 0, "site": "n", "id": 1}),
        json!({"n": 1, "site": "s", "id": 1}),
        // No such row, no key, and a number that the column cannot have.
        json!({"n": 2, "site": "x", "id": 1}),
        json!({"n": 3, "site": "n"}),
        json!({"n": 4, "site": "n", "id": 5_000_000_000_i64}),
    ];
    send(&world, &asked);
    let found = results(&world, 5);
    assert_eq!(
        (&found[0]["name"], &found[0]["weight"]),
        (&json!("张三"), &json!(61.25))
    );
    assert!(
        found[0]["born"]
            .as_str()
            .unwrap_or_default()
            .starts_with("1990-02-28T00:00:00")
    );
    assert_eq!(found[1]["name"], "it's");
    for row in &found[2..] {
        assert!(row.get("name").is_none_or(Json::is_null), "{row}");
    }
    // Away, the flow waits.
    cut.cut();
    send(&world, &[json!({"n": 5, "site": "s", "id": 1})]);
    eventually("the flow says so", || {
        let status = world.flows.status_of("f").expect("a flow");
        let errors = status.nodes.iter().filter_map(|node| node.error.as_ref());
        match errors.map(|error| error.class()).next() {
            Some(Class::Transient) => Ok(()),
            other => Err(format!("{other:?} {:?}", status.state)),
        }
    });
    cut.join();
    assert_eq!(results(&world, 6)[5]["name"], "it's");
    // All rows, and those of a key.
    let table = world
        .databases
        .table("db.plant.patient")
        .expect("it answers")
        .expect("a table");
    assert_eq!(table.rows().expect("it answers"), 2);
    let missing = world
        .databases
        .table("db.plant.nobody")
        .expect("it answers");
    assert!(missing.is_none());
}

fn statements_are_called(cluster: &Cluster) {
    cluster.make("CREATE TABLE called (id int PRIMARY KEY, name text)");
    let world = crate::database_lookups::world();
    let flow = "from: in\nsteps:\n  - call:\n      connection: db\n      statement: \"insert into called (id, name) values (${id}, ${name})\"\n      answer: { done: text }\n  - call:\n      connection: db\n      statement: \"select name as called from called where id = ${id}\"\n      answer: { called: text }\nto:\n  - stream: out\n    topic: out/x\n";
    let connection = cluster.connection(cluster.server.port, "");
    world.apply(&[
        (
            "streams/in.yaml",
            "topics: in/#\nformat: json\nschema: { n: int, id: int, name: text }\n",
        ),
        ("streams/out.yaml", "topics: out/#\n"),
        ("connections/db.yaml", &connection),
        ("flows/f.yaml", flow),
    ]);
    send(
        &world,
        &[
            json!({"n": 0, "id": 1, "name": "it's"}),
            json!({"n": 1, "id": 5_000_000_000_i64, "name": "x"}),
        ],
    );
    let found = results(&world, 1);
    assert_eq!(found[0]["called"], "it's", "{found:?}");
    let letters = eventually("a dead letter", || {
        let letters = world
            .tokio
            .block_on(world.flows.dead_letters(DeadFilter::default(), 10));
        match letters.expect("they are read") {
            letters if letters.len() == 1 => Ok(letters),
            letters => Err(format!("{letters:?}")),
        }
    });
    assert_eq!(letters[0].code, "cassandra.range");
}

/// What a source brings until it rests, with a new start after each page.
fn read_all(cluster: &Cluster, query: &str, pages: usize) -> Vec<Json> {
    let spec = spec(&format!("{}topic: a/b\n", cluster.to(query)));
    let registry = busbar_connect::registry();
    let connector = registry.get(&spec.kind).expect("registered");
    let mut resume = Resume::default();
    let mut found = Vec::new();
    cluster.runtime.block_on(async {
        for _ in 0..pages {
            let page = poll(connector.as_ref(), &spec, &resume).await;
            let Some((rows, position, note)) = page else {
                break;
            };
            found.extend(rows);
            resume.positions.insert(String::new(), position);
            resume.notes.insert(String::new(), note);
        }
    });
    found
}

async fn poll(
    connector: &dyn Connector,
    spec: &busbar_catalog::ConnectionSpec,
    resume: &Resume,
) -> Option<(Vec<Json>, u64, Vec<u8>)> {
    let context = SourceContext {
        name: "x".into(),
        project_dir: Path::new("/").into(),
        clock: Arc::new(busbar_log::SystemClock),
        resume: resume.clone(),
        tables: crate::world::no_tables(),
    };
    let mut source = connector.source(spec, context).await.expect("it opens");
    let Polled::Batch(page) = source.poll().await.expect("it answers") else {
        return None;
    };
    let payloads = page.batch.payloads();
    let rows = (0..page.batch.rows()).map(|row| serde_json::from_slice(payloads.value(row)));
    let rows = rows.collect::<Result<Vec<Json>, _>>().expect("JSON");
    Some((rows, page.position.last().expect("a position"), page.note))
}

fn rows_are_read_page_by_page(cluster: &Cluster) {
    cluster.make("CREATE TABLE alarm (site text, n int, note text, PRIMARY KEY (site, n))");
    let text = cluster.to("write: { table: alarm }");
    let numbers: Vec<i64> = (0..250).collect();
    let notes = vec!["x"; 250];
    let sites = vec!["north"; 250];
    let all = rows(
        1,
        vec![
            ("site", texts(&sites)),
            ("n", ints(&numbers)),
            ("note", texts(&notes)),
        ],
    );
    assert_eq!(write(&text, &all).unwrap(), [0; 0]);
    let query = "query: { statement: \"select n from alarm where site = 'north' and n > :position\", position: n, start: '-1', rows: 100 }";
    let found = read_all(cluster, query, 4);
    let found: Vec<_> = found.iter().map(|row| row["n"].as_i64().unwrap()).collect();
    assert_eq!(found, numbers);
    // Without a position they come again with the next run.
    let found = read_all(
        cluster,
        "query: { statement: select n from alarm, rows: 100 }",
        6,
    );
    assert_eq!(found.len(), 500);
}

fn users_are_told_what_they_lack(cluster: &Cluster) {
    cluster.make("CREATE ROLE reader WITH LOGIN = true AND PASSWORD = 'reads'");
    cluster.make("CREATE TABLE guarded (id int PRIMARY KEY)");
    let as_reader = |more: &str| {
        let text = cluster.to(more);
        text.replace(
            "user: cassandra, password: cassandra",
            "user: reader, password: reads",
        )
    };
    let one = || rows(1, vec![("id", ints(&[1]))]);
    let denied = write(
        &as_reader("write: { table: guarded, positions: p }"),
        &one(),
    )
    .expect_err("no right");
    assert_eq!(
        (denied.class(), denied.code()),
        (Class::Configuration, "cassandra.no-positions")
    );
    let (_, statement) = denied
        .args()
        .iter()
        .find(|(name, _)| *name == "statement")
        .expect("what mends it");
    cluster.make(statement);
    cluster.make("GRANT SELECT ON TABLE p TO reader");
    cluster.make("GRANT MODIFY ON TABLE p TO reader");
    let denied = write(
        &as_reader("write: { table: guarded, positions: p }"),
        &one(),
    )
    .expect_err("no right");
    assert_eq!(
        (denied.class(), denied.code()),
        (Class::Configuration, "cassandra.rights-table")
    );
    let said = denied.message(busbar_event::Language::En);
    let (_, mend) = said.split_once("administrator: ").expect("what mends it");
    cluster.make(mend);
    assert_eq!(
        write(
            &as_reader("write: { table: guarded, positions: p }"),
            &one()
        )
        .unwrap(),
        [0; 0]
    );
    let wrong = cluster
        .to("write: { table: guarded }")
        .replace("password: cassandra", "password: guess");
    let denied = write(&wrong, &one()).expect_err("no user");
    assert_eq!(
        (denied.class(), denied.code()),
        (Class::Configuration, "cassandra.credentials")
    );
}

fn it_is_encrypted(cluster: &Cluster, site: &Site) {
    let survey = |host: &str, ca: &str| {
        let text = format!(
            "cassandra: {{ addresses: ['{host}:{}'], user: cassandra, password: cassandra, tls: {{ ca: {ca} }} }}\n",
            cluster.server.port
        );
        let spec = spec(&text);
        let registry = busbar_connect::registry();
        let connector = registry.get("cassandra").expect("registered");
        cluster
            .runtime
            .block_on(connector.survey(&spec, site.path().into(), false))
    };
    assert!(
        survey("localhost", "ca.pem")
            .expect("it answers")
            .server
            .starts_with("Cassandra 5")
    );
    for (host, ca) in [("localhost", "other.pem"), ("127.0.0.1", "ca.pem")] {
        let refused = survey(host, ca).expect_err("not trusted");
        assert_eq!(
            (refused.class(), refused.code()),
            (Class::Configuration, "connect.tls-refused")
        );
    }
}

fn what_is_there_is_listed(cluster: &Cluster) {
    let spec = spec(&cluster.to("timeout: 60s"));
    let registry = busbar_connect::registry();
    let connector = registry.get("cassandra").expect("registered");
    let survey = cluster
        .runtime
        .block_on(connector.survey(&spec, Path::new("/").into(), true));
    let survey = survey.expect("it answers");
    assert_eq!(survey.server, "Cassandra 5.0.9");
    assert!(survey.tables.iter().all(|table| table.schema == "plant"));
    let table = survey
        .tables
        .iter()
        .find(|table| table.name == "changes")
        .expect("the table");
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|c| (c.name.as_str(), c.kind.as_str(), c.key))
        .collect();
    let expected = [
        ("site", "text", true),
        ("id", "int", true),
        ("note", "text", false),
        ("tags", "list<int>", false),
    ];
    assert_eq!(columns, expected);
}

/// A flow writes counters of keys that come again and again, so that a lost, repeated or late write would be seen.
fn rows_are_equal_however_often_the_writer_is_killed(cluster: &Cluster) {
    const KEYS: i64 = 7;
    cluster.make("CREATE TABLE killed (k bigint PRIMARY KEY, n bigint)");
    let write = cluster.connection(cluster.server.port, ", write: { table: killed }");
    let files = [
        (
            "streams/in.yaml",
            "topics: in/#\nformat: json\nschema: { k: int, n: int }\n",
        ),
        ("connections/db.yaml", write.as_str()),
        (
            "flows/f.yaml",
            "from: in\nsteps:\n  - select: k, n\nto:\n  - connection: db\n",
        ),
    ];
    let mut world = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
    let mut next = 0;
    for round in 0..25_u64 {
        world.apply(&files);
        for _ in 0..4 {
            let events = (next..next + 50).map(|n| json!({"k": n % KEYS, "n": n}).to_string());
            world.publish("in/x", &events.collect::<Vec<_>>());
            next += 50;
        }
        // From before the first write to behind the last one.
        crate::world::rest(round * 37 % 120);
        world = world.restart();
    }
    world.apply(&files);
    let expected: BTreeMap<i64, i64> = (next - KEYS..next).map(|n| (n % KEYS, n)).collect();
    eventually("the rows", || {
        let found = cluster.rows("SELECT k, n FROM killed");
        let found = found
            .iter()
            .map(|row| (row["k"].as_i64().unwrap(), row["n"].as_i64().unwrap()));
        match found.collect::<BTreeMap<_, _>>() {
            found if found == expected => Ok(()),
            found => Err(format!("{found:?}, not {expected:?}")),
        }
    });
    drop(world);
    sinks_that_are_killed_write_the_same_times(cluster);
}

/// The futures of a sink are dropped at any moment, and another one goes on with the same deliveries.
fn sinks_that_are_killed_write_the_same_times(cluster: &Cluster) {
    cluster.make("CREATE TABLE torn (k bigint PRIMARY KEY, n bigint)");
    let text = cluster.to("write: { table: torn }");
    let delivery = |at: i64| {
        let (keys, numbers): (Vec<_>, Vec<_>) =
            (0..200).map(|row| (row % 11, at * 200 + row)).unzip();
        by(
            rows(
                at as u64 + 1,
                vec![("k", ints(&keys)), ("n", ints(&numbers))],
            ),
            "torn",
        )
    };
    cluster.runtime.block_on(async {
        for at in 0..40_i64 {
            let whole = delivery(at);
            let mut first: Box<dyn Sink> = open(&text, &whole).await.expect("it opens");
            let patience = std::time::Duration::from_micros(at as u64 * 700);
            let _ = tokio::time::timeout(patience, first.write(&whole)).await;
            drop(first);
            let mut second = open(&text, &whole).await.expect("it opens");
            second.write(&whole).await.expect("written");
        }
    });
    let found = cluster.rows("SELECT k, n FROM torn");
    let found: BTreeMap<i64, i64> = found
        .iter()
        .map(|row| (row["k"].as_i64().unwrap(), row["n"].as_i64().unwrap()))
        .collect();
    let expected: BTreeMap<i64, i64> = (0..200).map(|row| (row % 11, 39 * 200 + row)).collect();
    assert_eq!(found, expected);
}
