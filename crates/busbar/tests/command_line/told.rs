//! What people are told: in the log of clients that cannot tell themselves, by `check` of every file, in lists.

use std::io::Read as _;
use std::net::TcpStream;

use super::*;

/// A port of loopback that is free.
fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Sends bytes and reads until the node closes.
fn until_closed(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(READY_MAX)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut answer);
}

impl World {
    /// A line of the node's log with all these words; waits until it is there.
    fn logged(&self, words: &[&str]) -> String {
        let begun = Instant::now();
        loop {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
            let mut lines = log.lines();
            if let Some(line) = lines.find(|line| words.iter().all(|word| line.contains(word))) {
                return line.to_owned();
            }
            assert!(begun.elapsed() < READY_MAX, "{words:?} in {log}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

#[test]
fn connections_that_a_gateway_ends_are_in_the_log() {
    let mut world = World::new();
    let (mqtt, amqp) = (free(), free());
    let (listen, amqp_listen) = (mqtt.to_string(), amqp.to_string());
    world.start(&[
        ("BUSBAR_MQTT_LISTEN", &listen),
        ("BUSBAR_AMQP_LISTEN", &amqp_listen),
        ("BUSBAR_LIMITS_PAYLOAD_SIZE", "1MiB"),
    ]);
    world.until_ok(&["sql", "select 1"]);
    // CONNECT of 3.1.1 by the client m1, and the head of a PUBLISH of two million bytes.
    let connect = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02m1";
    until_closed(mqtt, &[&connect[..], b"\x30\x80\x89\x7a"].concat());
    let line = world.logged(&["an MQTT connection was closed", "packet too large"]);
    for word in [
        "WARN",
        "client=\"m1\"",
        "packet_bytes=2000004",
        "packet_bytes_max=1179648",
        "limits.payload_size",
    ] {
        assert!(line.contains(word), "{word}: {line}");
    }
    until_closed(mqtt, b"GET / HTTP/1.1\r\n\r\n");
    world.logged(&["an MQTT connection was closed", "not CONNECT", "127.0.0.1"]);
    until_closed(amqp, b"GET / HTTP/1.1\r\n\r\n");
    world.logged(&["an AMQP connection was closed", "does not speak AMQP"]);
    let metrics = printed(&world, &["--json", "gateways"]);
    let gateways: Value = serde_json::from_str(&metrics).unwrap();
    let all = gateways["gateways"].as_array().unwrap();
    let refused = all
        .iter()
        .find(|gateway| gateway["name"] == "mqtt")
        .unwrap();
    assert_eq!(refused["refusals_total"], 2, "{refused}");
}

/// A flow whose file is not YAML hides neither what is wrong with the columns of another one, nor does it make anything
/// of what it would have been wrong elsewhere.
#[test]
fn a_check_tells_of_all_files() {
    let world = World::new();
    write(
        &world.plant(),
        &[
            ("streams/rain.yaml", "topics: [rain/#\n"),
            (
                "streams/meter.yaml",
                "topics: meter/#\nformat: json\nschema: { kw: float }\n",
            ),
            (
                "flows/a.yaml",
                "from: meter\nsteps: [{ where: kv > 1 }]\nto: [{ topic: a }]\n",
            ),
            (
                "flows/b.yaml",
                "from: rain\nsteps: [{ where: level > 1 }]\nto: [{ topic: b }]\n",
            ),
        ],
    );
    fs::write(world.plant().join("flows/c.yaml"), b"from: \xff\n").unwrap();
    let output = world.run(&["--json", "check", "plant"], "");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = answer["diagnostics"].as_array().unwrap();
    let text = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
    let mut found: Vec<_> = found
        .iter()
        .map(|d| (text(d, "file"), text(d, "code")))
        .collect();
    found.sort();
    let expected = [
        ("flows/a.yaml", "sql.unknown-column"),
        ("flows/c.yaml", "catalog.not-text"),
        ("streams/rain.yaml", "catalog.yaml-bracket"),
    ];
    let expected = expected.map(|(file, code)| (file.to_owned(), code.to_owned()));
    assert_eq!(found, expected);
    // For people who read Chinese nothing of it is English but the names.
    let mut command = world.program();
    let output = command.env("BUSBAR_LANG", "zh").args(["check", "plant"]);
    let output = output.stdout(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("不是 UTF-8 文本"), "{said}");
    for english in ["help:", "invalid", "utf-8 sequence"] {
        assert!(!said.contains(english), "{said}");
    }
}

#[test]
fn users_are_listed_as_a_table() {
    let mut world = World::new();
    world.start(&[]);
    world.until_ok(&["sql", "select 1"]);
    for words in [
        &["user", "add", "ann"][..],
        &["login", "ann"],
        &[
            "user",
            "add",
            "bob",
            "--role",
            "viewer",
            "--read",
            "stream:inbox",
        ],
    ] {
        let output = world.run(words, "long enough a password\n");
        assert!(output.status.success(), "{words:?}: {output:?}");
    }
    let table = printed(&world, &["user", "list"]);
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines,
        [
            &["name", "role", "rules"][..],
            &["ann", "admin"],
            &["bob", "viewer", "read:", "stream:inbox"],
        ]
    );
}

#[test]
fn what_is_not_there_comes_with_a_way_out() {
    let mut world = World::new();
    world.start(&[]);
    world.until_ok(&["sql", "select 1"]);
    for words in [
        &["connections", "test", "nosuch"][..],
        &["copy-table", "nosuch:patient", "copy"],
        &["copy-table", "his.patient", "copy"],
    ] {
        let output = world.run(words, "");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{words:?}: {said}");
        assert!(said.contains("`busbar connections`"), "{words:?}: {said}");
    }
}

/// Who mends a file hears of it, also where nothing has to be deployed for it.
#[test]
fn a_file_that_is_as_it_was_again_is_told() {
    let mut world = World::new();
    let stream = "topics: gauge/+/rain\nformat: json\nschema: { mm: int }\n";
    let flow = |condition: &str| {
        format!("from: rain\nsteps:\n  - where: {condition}\nto:\n  - topic: high\n")
    };
    let (good, bad) = (flow("mm > 5"), flow("m > 5"));
    let save = |text: &str| {
        let files = [("streams/rain.yaml", stream), ("flows/high.yaml", text)];
        write(&world.plant(), &files);
    };
    save(&good);
    let counts = printed(&world, &["check", "plant"]);
    assert_eq!(counts, "All is well (streams: 1, flows: 1)\n");
    world.start(&[]);
    world.until_ok(&["flows"]);
    let save = |text: &str| write(&world.plant(), &[("flows/high.yaml", text)]);
    save(&bad);
    world.logged(&["What runs goes on unchanged"]);
    save(&good);
    world.logged(&["The files hold again what runs"]);
}

/// The name of a stream in the place of a filter of topics would show nothing for ever.
#[test]
fn the_name_of_a_stream_is_told_from_a_topic() {
    let mut world = World::new();
    let stream = "topics: gauge/+/rain\nformat: json\n";
    write(
        &world.plant(),
        &[
            ("streams/rain.yaml", stream),
            ("streams/snow.yaml", "topics: snow\n"),
        ],
    );
    world.start(&[]);
    world.until_ok(&["flows"]);
    let until = "2000-01-01T00:00:00Z";
    let told = |filter: &str| {
        let words = ["tap", filter, "--from", "earliest", "--until", until];
        String::from_utf8(world.run(&words, "").stderr).unwrap()
    };
    let hint = "busbar tap --stream rain";
    assert!(told("rain").contains(hint), "{}", told("rain"));
    for filter in ["snow", "gauge/a/rain", "none"] {
        assert_eq!(told(filter), "", "{filter}");
    }
}
