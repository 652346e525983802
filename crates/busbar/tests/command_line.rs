//! The command line against a node in its own process: TLS with the certificate of the how-to, and stored logins
//! that are not valid any more.

#![allow(missing_docs)]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[allow(dead_code)] // several ports in a row are for the example of orders
#[path = "support/ports.rs"]
mod ports;
#[path = "command_line/told.rs"]
mod told;

const READY_MAX: Duration = Duration::from_secs(120);
const DENIED: i32 = 77;

/// A node, killed when dropped, and a folder of settings for the commands that ask it.
struct World {
    folder: tempfile::TempDir,
    http: SocketAddr,
    node: Option<Child>,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("plant")).unwrap();
        fs::write(folder.path().join("plant/busbar.toml"), "").unwrap();
        World {
            http: (Ipv4Addr::LOCALHOST, ports::free_port()).into(),
            folder,
            node: None,
        }
    }

    fn plant(&self) -> PathBuf {
        self.folder.path().join("plant")
    }

    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_busbar"));
        command
            .env("BUSBAR_HTTP_LISTEN", self.http.to_string())
            .env("BUSBAR_AMQP_LISTEN", "off")
            .env("BUSBAR_MQTT_LISTEN", "off")
            .env("XDG_CONFIG_HOME", self.folder.path().join("settings"))
            .env("BUSBAR_LANG", "en")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .current_dir(self.folder.path());
        command
    }

    fn start(&mut self, settings: &[(&str, &str)]) {
        let mut command = self.program();
        command.arg("run").arg(self.plant());
        command.envs(settings.iter().copied());
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        command.stdout(Stdio::null()).stderr(log);
        self.node = Some(command.spawn().unwrap());
    }

    fn stop(&mut self) {
        if let Some(mut node) = self.node.take() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }

    /// Runs a command with what is typed.
    fn run(&self, words: &[&str], typed: &str) -> Output {
        let mut command = self.program();
        command
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that reads nothing may have ended already.
        let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Runs a command until it succeeds.
    fn until_ok(&mut self, words: &[&str]) {
        let begun = Instant::now();
        loop {
            let output = self.run(words, "");
            if output.status.success() {
                return;
            }
            if let Ok(Some(status)) = self.node.as_mut().unwrap().try_wait() {
                let log = fs::read_to_string(self.folder.path().join("log"));
                panic!("the node ended with {status}: {log:?}");
            }
            assert!(begun.elapsed() < READY_MAX, "{words:?}: {output:?}");
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    /// The code of the error that a command ends with.
    fn code(&self, words: &[&str]) -> String {
        let output = self.run(&[&["--json"], words].concat(), "");
        assert!(!output.status.success(), "{words:?}: {output:?}");
        let error: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|why| panic!("{words:?}: {why}: {output:?}"));
        error["error"]["code"].as_str().unwrap().to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Makes a certificate with the very command of the how-to.
fn make_certificate(folder: &Path) {
    let howto = fs::read_to_string(root().join("docs/HOWTO.md")).unwrap();
    let line = howto.lines().find(|line| line.starts_with("openssl req "));
    let done = Command::new("sh")
        .args(["-c", line.expect("a command that makes a certificate")])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn the_certificate_of_the_how_to_is_trusted_when_it_is_named() {
    let mut world = World::new();
    make_certificate(world.folder.path());
    let other = tempfile::tempdir().unwrap();
    fs::create_dir_all(other.path().join("plant")).unwrap();
    make_certificate(other.path());
    world.start(&[
        ("BUSBAR_HTTP_TLS_CERT", "cert.pem"),
        ("BUSBAR_HTTP_TLS_KEY", "key.pem"),
    ]);
    let port = world.http.port();
    let own = world.plant().join("cert.pem").display().to_string();
    let other = other.path().join("plant/cert.pem").display().to_string();
    let by_address = format!("https://127.0.0.1:{port}");
    let by_name = format!("https://localhost:{port}");
    world.until_ok(&["--node", &by_address, "--ca", &own, "flows"]);
    world.until_ok(&["--node", &by_name, "--ca", &own, "flows"]);
    assert_eq!(
        world.code(&["--node", &by_address, "flows"]),
        "cli.tls-untrusted"
    );
    assert_eq!(
        world.code(&["--node", &by_address, "--ca", &other, "flows"]),
        "cli.tls-other"
    );
    // The same machine, by a name that the certificate does not have.
    let elsewhere = format!("https://[::ffff:127.0.0.1]:{port}");
    assert_eq!(
        world.code(&["--node", &elsewhere, "--ca", &own, "flows"]),
        "cli.tls-names"
    );
    let plain = format!("http://127.0.0.1:{port}");
    assert_eq!(world.code(&["--node", &plain, "flows"]), "cli.no-http");
    for other in ["ftp://127.0.0.1:1", "http://", "http://a:b:c"] {
        assert_eq!(world.code(&["--node", other, "flows"]), "cli.bad-address");
    }
    world.stop();
    assert_eq!(
        world.code(&["--node", &by_address, "--ca", &own, "flows"]),
        "cli.node-unreachable"
    );
    world.start(&[]);
    world.until_ok(&["flows"]);
    assert_eq!(
        world.code(&["--node", &by_address, "--ca", &own, "flows"]),
        "cli.no-tls"
    );
}

#[test]
fn a_stored_login_that_is_not_valid_stands_in_nobodys_way() {
    let mut world = World::new();
    world.start(&[]);
    world.until_ok(&["flows"]);
    let password = "correct horse battery\n";
    let ok = |output: Output| assert!(output.status.success(), "{output:?}");
    // A login where there are no users would be refused as a wrong password is.
    let early = world.run(&["login", "ann"], password);
    let told = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(told.contains("busbar user add NAME"), "{told}");
    ok(world.run(&["user", "add", "ann"], password));
    ok(world.run(&["login", "ann"], password));
    ok(world.run(&["flows"], ""));
    let token = world.run(&["token", "add", "dev"], "");
    let told = String::from_utf8_lossy(&token.stderr).into_owned();
    assert!(told.contains("--user NAME"), "{told}");
    let users = world.run(&["--json", "user"], "");
    let users: Value = serde_json::from_slice(&users.stdout).unwrap();
    assert_eq!(users["users"][0]["role"], "admin", "the first one");
    ok(world.run(&["user", "add", "guest"], "only looking\n"));
    let users = world.run(&["--json", "user"], "");
    let users: Value = serde_json::from_slice(&users.stdout).unwrap();
    assert_eq!(users["users"][1]["role"], "viewer", "the least");
    let audit = world.run(&["--json", "audit", "--action", "user"], "");
    let audit: Value = serde_json::from_slice(&audit.stdout).unwrap();
    let newest = &audit["entries"][0];
    assert_eq!(
        (&newest["user"], &newest["origin"], &newest["target"]),
        (&json!("ann"), &json!("cli"), &json!("guest"))
    );
    // Somebody revokes the token behind it.
    let tokens = world.run(&["--json", "token"], "");
    let tokens: Value = serde_json::from_slice(&tokens.stdout).unwrap();
    let id = tokens["tokens"][0]["id"].as_str().unwrap();
    ok(world.run(&["token", "remove", id], ""));
    for _ in 0..20 {
        let refused = world.run(&["flows"], "");
        assert_eq!(refused.status.code(), Some(DENIED), "{refused:?}");
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            text.contains("ann") && text.contains("busbar logout"),
            "{text}"
        );
    }
    // Its own retries have locked nobody out.
    ok(world.run(&["login", "ann"], password));
    ok(world.run(&["flows"], ""));
    // The node is gone: the login is forgotten all the same.
    world.stop();
    let out = world.run(&["logout"], "");
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        out.status.success() && told.contains("token remove"),
        "{out:?}"
    );
    assert_eq!(world.code(&["logout"]), "cli.not-logged-in");
    let logins = world.folder.path().join("settings/busbar/logins.json");
    let logins = fs::read_to_string(logins).unwrap();
    assert!(!logins.contains("ann"), "{logins}");
}

/// Loads in a row whose queues have the same names: what the first leaves behind takes nothing of the second.
#[test]
fn the_loads_of_amqp_end_one_after_the_other() {
    let world = World::new();
    let load = "AMQP confirms in to acknowledged out";
    let done = world
        .program()
        .args([
            "bench",
            "--seconds",
            "1",
            "--no-peers",
            "--connections",
            "2",
            "--only",
            load,
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let rows = said
        .lines()
        .filter(|line| line.starts_with("| AMQP"))
        .count();
    assert!(
        done.status.success() && rows == 4,
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// An edit that a flow's state does not outlive ends the command with an error that names the way out, which then works.
#[test]
fn an_edit_that_cannot_keep_state_is_refused_and_applied_with_a_replay() {
    let mut world = World::new();
    let edited = world.folder.path().join("edited");
    for (folder, length) in [(world.plant(), "1h"), (edited.clone(), "2h")] {
        for kind in ["streams", "flows"] {
            fs::create_dir_all(folder.join(kind)).unwrap();
        }
        fs::write(folder.join("busbar.toml"), "").unwrap();
        fs::write(
            folder.join("streams/rain.yaml"),
            "topics: rain/#\nformat: json\nschema: { mm: int }\n",
        )
        .unwrap();
        let flow = format!(
            "from: rain\nsteps:\n  - window: {{ tumble: {length}, select: 'count(*) as n' }}\nto:\n  - topic: windows/all\n"
        );
        fs::write(folder.join("flows/w.yaml"), flow).unwrap();
    }
    world.start(&[]);
    world.until_ok(&["flows"]);
    let folder = edited.display().to_string();
    let refused = world.run(&["apply", &folder], "");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(
        told.contains("window-1") && told.contains("--replay"),
        "{told}"
    );
    let code = |words: &[&str]| {
        let output = world.run(&[&["--json"], words].concat(), "");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.success(), answer["applied"]["failed"].clone())
    };
    let (done, failed) = code(&["apply", &folder]);
    assert_eq!(
        (done, &failed["w"]["code"]),
        (false, &json!("flow.state-changed"))
    );
    assert_eq!(code(&["apply", &folder, "--replay"]), (true, json!({})));
    assert_eq!(code(&["apply", &folder]), (true, json!({})));
}

/// Writes files below a folder.
fn write(folder: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// What a command prints, which must succeed.
fn printed(world: &World, words: &[&str]) -> String {
    let output = world.run(words, "");
    let text = String::from_utf8(output.stdout).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {text}{said}");
    text
}

/// A mistyped folder is refused by every command that reads a project, and none of them makes it.
#[test]
fn a_folder_that_is_no_project_is_refused() {
    let world = World::new();
    fs::create_dir(world.folder.path().join("empty")).unwrap();
    for (folder, command, status) in [
        ("gone", "run", 78),
        ("gone", "check", 1),
        ("gone", "test", 78),
        ("plant/busbar.toml", "run", 78),
        ("empty", "check", 1),
        ("empty", "test", 78),
        ("empty", "apply", 1),
    ] {
        let output = world.run(&[command, folder], "");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{command}: {said}");
        assert!(said.contains(folder), "{command}: {said}");
    }
    assert!(!world.folder.path().join("gone").exists());
}

#[test]
fn columns_lead_to_an_xml_schema_and_back() {
    let world = World::new();
    let columns = "format: xml\nschema:\n  id: { type: int, path: \"@id\", required: true }\n  level: { type: float, path: \"level.#text\" }\n  level_unit: { type: text, path: \"level.@unit\" }\n  at: { type: time, required: true }\n  phase: { type: json, path: \"phase[*]\" }\n";
    let stream = format!("topics: visit/#\n{columns}");
    let table =
        "hot: {}\nkey: [id]\ncolumns:\n- { name: id, type: int }\n- { name: name, type: text }\n";
    write(
        &world.plant(),
        &[
            ("streams/visit.yaml", &stream),
            ("tables/people.yaml", table),
        ],
    );
    let xsd = printed(
        &world,
        &[
            "schema",
            "xsd",
            "visit",
            "--dir",
            "plant",
            "--namespace",
            "urn:v",
        ],
    );
    write(world.folder.path(), &[("visit.xsd", &xsd)]);
    let back = printed(&world, &["schema", "columns", "visit.xsd"]);
    // Attributes of an element stand before its text.
    let (columns, remarks) = back.split_once('#').map_or((back.as_str(), ""), |_| {
        back.split_at(back.find("# ").unwrap())
    });
    assert_eq!(
        columns,
        "format: xml\nschema:\n  id: { type: int, path: \"@id\", required: true }\n  level_unit: { type: text, path: \"level.@unit\" }\n  level: { type: float, path: \"level.#text\" }\n  at: { type: time, required: true }\n  phase: { type: json, path: \"phase[*]\" }\n"
    );
    assert!(
        remarks.starts_with("# at: a time without an offset"),
        "{remarks}"
    );
    let people = printed(&world, &["schema", "xsd", "people", "--dir", "plant"]);
    assert!(
        people.contains("<xs:element name=\"id\" type=\"xs:long\"/>"),
        "{people}"
    );
    let json: Value = serde_json::from_str(&printed(
        &world,
        &["schema", "columns", "visit.xsd", "--json"],
    ))
    .unwrap();
    assert_eq!(json["schema"][0]["path"], json!("@id"));
    let kind = printed(&world, &["schema", "stream"]);
    assert!(kind.contains("json-schema.org"), "{kind}");
    let unknown = world.run(&["schema", "xsd", "none", "--dir", "plant"], "");
    assert_eq!(unknown.status.code(), Some(78));
}

#[test]
fn style_sheets_and_schemas_work_on_payloads_and_columns() {
    let world = World::new();
    let style = "<xsl:stylesheet version='1.0' xmlns:xsl='http://www.w3.org/1999/XSL/Transform'><xsl:output omit-xml-declaration='yes'/><xsl:param name='topic'/><xsl:template match='/visit'><v at='{$topic}'><xsl:value-of select='level * 2'/></v></xsl:template></xsl:stylesheet>";
    let schema = "<xs:schema xmlns:xs='http://www.w3.org/2001/XMLSchema'><xs:element name='visit'><xs:complexType><xs:sequence><xs:element name='level' type='xs:int'/></xs:sequence></xs:complexType></xs:element></xs:schema>";
    let files = [
        ("streams/raw.yaml", "topics: raw/#\n"),
        (
            "streams/typed.yaml",
            "topics: typed/#\nformat: json\nschema: { id: int, doc: text }\n",
        ),
        ("plugins/twice/plugin.yaml", "language: xslt\n"),
        ("plugins/twice/main.xsl", style),
        ("plugins/visit/plugin.yaml", "language: xsd\n"),
        ("plugins/visit/main.xsd", schema),
        (
            "flows/payload.yaml",
            r##"
from: raw
steps:
- validate: { plugin: visit }
- xslt: { plugin: twice }
to: [{ topic: out/payload }]
tests:
- name: documents that fit are transformed, others are dead with line, path and reason
  given:
  - { topic: raw/1, payload: "<visit><level>3</level></visit>" }
  - { topic: raw/1, payload: "<visit>\n<level>x</level></visit>" }
  - { topic: raw/1, payload: "<visit>" }
  dead:
  - { place: "step:0", message: "line 2, /visit/level" }
  - { place: "step:0", message: "column 8" }
  expect:
  - { topic: out/payload, payload: "<v at=\"raw/1\">6</v>\n" }
"##,
        ),
        (
            "flows/columns.yaml",
            r##"
from: typed
steps:
- validate: { plugin: visit, column: doc, flag: wrong }
- xslt: { plugin: twice, column: doc, as: twice }
- select: id, wrong is null as fits, twice
to: [{ topic: out/columns }]
tests:
- name: a column is checked and transformed; a null stays one
  given:
  - { topic: typed/1, payload: { id: 1, doc: "<visit><level>3</level></visit>" } }
  - { topic: typed/1, payload: { id: 2 } }
  - { topic: typed/1, payload: { id: 3, doc: "<visit><level>1</level><level>5</level></visit>" } }
  - { topic: typed/1, payload: { id: 4, doc: "<visit" } }
  dead:
  - { place: "step:1" }
  expect:
  - { id: 1, fits: true, twice: "<v at=\"typed/1\">6</v>\n" }
  - { id: 2, fits: true }
  - { id: 3, fits: false, twice: "<v at=\"typed/1\">2</v>\n" }
"##,
        ),
        (
            "flows/flagged.yaml",
            r##"
from: typed
steps:
- xslt: { plugin: twice, column: doc }
- validate: { plugin: visit, column: doc, flag: wrong }
to: [{ topic: out/flagged }]
tests:
- name: the result takes the place of the document, and what is wrong with it is a column
  given:
  - { topic: typed/1, payload: { id: 1, doc: "<visit><level>3</level></visit>" } }
  expect:
  - { id: 1, doc: "<v at=\"typed/1\">6</v>\n", wrong: "line 1, /v: Element 'v': No matching global declaration available for the validation root." }
"##,
        ),
    ];
    write(&world.plant(), &files);
    printed(&world, &["test", "plant"]);
    // A plug-in of another language is refused where it is named.
    write(
        &world.plant(),
        &[(
            "flows/payload.yaml",
            "from: raw\nsteps:\n- validate: { plugin: twice }\nto: [{ topic: out/x }]\n",
        )],
    );
    let output = world.run(&["check", "plant"], "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("language: xsd"), "{said}");
}

/// The program as the worker with ODBC drivers: what it has reserved for itself leaves the drivers their memory.
#[test]
fn the_program_loads_the_driver_manager_within_the_least_memory() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(READY_MAX)).unwrap();
    let mut worker = Command::new(env!("CARGO_BIN_EXE_busbar"))
        .arg("odbc_host")
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    let start = json!({
        "type": "start", "protocol": 1, "library": "libodbc.so.2", "connection": "Driver=none",
        "memory": 64 << 20, "sessions": 1,
    });
    writeln!(ours, "{start}").unwrap();
    let mut said = String::new();
    BufReader::new(&ours).read_line(&mut said).unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said, json!({"type": "ready", "protocol": 1}));
    drop(ours);
    assert!(worker.wait().unwrap().success());
}
