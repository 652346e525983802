//! Plug-ins with the real runtimes: what they make of events, and that nothing they do reaches further than their own
//! events.

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_event::Error;
use busbar_plugin::{
    GivenEvent, NoTables, Package, Plugin, PluginHost, PluginLanguage, PluginSpec, TableRequest,
    build_plugin, template,
};
use futures::executor::block_on;
use serde_json::{Value as Json, json};

fn package(language: &str, main: &str, text: &str, more: Json) -> Package {
    let mut spec = json!({ "language": language });
    if let (Json::Object(spec), Json::Object(more)) = (&mut spec, more) {
        spec.extend(more);
    }
    let spec: PluginSpec = serde_json::from_value(spec).unwrap();
    Package {
        spec,
        files: BTreeMap::from([(main.to_owned(), text.to_owned())]),
    }
}

fn start_with(
    package: &Package,
    host: Arc<dyn PluginHost>,
) -> Result<(Plugin, tempfile::TempDir), Error> {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(|| 0);
    Plugin::start("rain", package, dir.path(), host, clock).map(|plugin| (plugin, dir))
}

fn start(package: &Package) -> Result<(Plugin, tempfile::TempDir), Error> {
    start_with(package, Arc::new(NoTables))
}

fn python(text: &str, more: Json) -> Result<(Plugin, tempfile::TempDir), Error> {
    start(&package("python", "main.py", text, more))
}

fn javascript(text: &str, more: Json) -> Result<(Plugin, tempfile::TempDir), Error> {
    start(&package("javascript", "main.js", text, more))
}

/// What comes of events with these payloads: a line for each event that was made, failed or was lost.
fn work(plugin: &Plugin, payloads: &[Json]) -> Vec<String> {
    let mut events = plugin.events();
    for (at, payload) in payloads.iter().enumerate() {
        let payload = payload.to_string();
        let event = GivenEvent {
            topic: "gauge/a/rain",
            key: Some("k"),
            time: 1_000_000 + at as i64,
            payload: payload.as_bytes(),
        };
        events.push(&event, [("site", "north")].into_iter());
    }
    let worked = block_on(plugin.give(0, events).worked()).unwrap();
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (at, row) in worked.answers.rows().enumerate() {
        let payload = row
            .payload
            .map(String::from_utf8_lossy)
            .unwrap_or("own".into());
        let topic = row.topic.unwrap_or("own");
        let tags: Vec<_> = worked
            .answers
            .tags(at)
            .map(|(n, v)| format!("{n}={v}"))
            .collect();
        lines.push((row.event, format!("{topic} {} {payload}", tags.join(","))));
    }
    for (event, failure) in worked.answers.failed() {
        let place = (
            failure.file.clone().unwrap_or_default(),
            failure.line.unwrap_or(0),
        );
        lines.push((
            event,
            format!("failed {}:{} {}", place.0, place.1, failure.message),
        ));
    }
    for (first, count, error) in &worked.lost {
        lines.push((*first, format!("lost {count} {}", error.code())));
    }
    lines.sort();
    lines
        .into_iter()
        .map(|(event, line)| format!("{event} {line}"))
        .collect()
}

fn log_of(plugin: &Plugin) -> Vec<String> {
    plugin.log(0).into_iter().map(|line| line.text).collect()
}

#[test]
fn what_a_new_plugin_consists_of_passes_its_tests() {
    // The worker of the others is the program itself: tests/xml_worker.rs.
    let own = [PluginLanguage::Xslt, PluginLanguage::Xsd];
    for language in PluginLanguage::ALL
        .into_iter()
        .filter(|one| !own.contains(one))
    {
        let mut files: BTreeMap<String, String> = template(language)
            .into_iter()
            .map(|(name, text)| (name.to_owned(), text))
            .collect();
        let spec = files.remove("plugin.yaml").unwrap();
        let spec: PluginSpec = serde_saphyr::from_str(&spec).unwrap();
        let package = Package { spec, files };
        match start(&package) {
            Ok((plugin, _dir)) => assert_eq!(plugin.status().failed, 0),
            // The full proof installs all languages.
            Err(error)
                if error.code() == "plugin.no-runtime"
                    && std::env::var_os("BUSBAR_ALL_LANGUAGES").is_none() =>
            {
                eprintln!("{language:?}: {error}");
            }
            Err(error) => panic!("{language:?}: {error}"),
        }
    }
}

#[test]
fn python_makes_none_one_or_many() {
    let (plugin, _dir) = python(
        r#"
import busbar
def process(event):
    n = event["payload"]["n"]
    if n == 0: return None
    if n == 1: return True
    if n == 2: return event
    if n == 3: return [{"topic": "alarm/x/y", "payload": [n, event["time"]]}, {"tags": {"a": 1}}]
    print("printed", n)
    busbar.log("logged", "warning")
    raise ValueError("not " + busbar.settings["word"])
"#,
        json!({ "settings": { "word": "this" } }),
    )
    .unwrap();
    let payloads: Vec<Json> = (0..5).map(|n| json!({ "n": n })).collect();
    assert_eq!(
        work(&plugin, &payloads),
        [
            "1 own  own",
            "2 own site=north {\"n\":2}",
            "3 alarm/x/y  [3,1000003]",
            "3 own a=1 own",
            "4 failed main.py:11 ValueError: not this",
        ]
    );
    let log = log_of(&plugin);
    assert!(log.contains(&"logged".into()), "{log:?}");
    // What is printed takes another way and may come later.
    assert_eq!(work(&plugin, &[json!({ "n": 0 })]), [""; 0]);
}

#[test]
fn a_program_that_cannot_be_loaded_is_refused_with_file_and_line() {
    for (wrong, place) in [
        (
            python("def process(event):\n  return (\n", json!({})),
            "main.py line 2",
        ),
        (
            python("import nothing_of_this_name\n", json!({})),
            "main.py line 1",
        ),
        (python("a = 1\n", json!({})), "process"),
        (
            javascript(
                "export default function (event) {\n  return event..x;\n}",
                json!({}),
            ),
            "main.js line 2",
        ),
        (
            javascript("let a = 1;\nnothing();\n", json!({})),
            "main.js line 2",
        ),
        (javascript("export const a = 1;", json!({})), "process"),
        (
            javascript(
                "export default () => 1; for (;;) {}",
                json!({ "timeout": "100ms" }),
            ),
            "longer than 100ms",
        ),
    ] {
        let error = wrong.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(place), "{error}");
    }
}

#[test]
fn a_missing_runtime_is_said_with_what_to_install() {
    let package = package(
        "command",
        "a",
        "",
        json!({ "command": ["no-such-program"] }),
    );
    let error = start(&package).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), "plugin.no-runtime");
}

#[test]
fn tests_are_run_before_a_plugin_counts_as_started() {
    let tests = json!([{ "name": "one", "given": [{ "payload": { "n": 1 } }], "expect": [{ "payload": { "n": 2 } }] }]);
    for wrong in [
        python(
            "def process(event): return event",
            json!({ "tests": tests }),
        ),
        javascript("export default (event) => event", json!({ "tests": tests })),
    ] {
        let error = wrong.map(|_| ()).unwrap_err();
        assert_eq!(error.code(), "plugin.test-failed");
        assert!(
            error.to_string().contains("payload.n should be 2 and is 1"),
            "{error}"
        );
    }
}

/// The event with `bad` does what a worker must not do; those around it come through.
fn contained(plugin: &Plugin, lost: &str) {
    let payloads = [json!({ "n": 1 }), json!({ "bad": 1 }), json!({ "n": 3 })];
    for _ in 0..2 {
        let lines = work(plugin, &payloads);
        assert_eq!(lines.len(), 3, "{lines:?} {:?}", log_of(plugin));
        assert_eq!(lines[0], "0 own  own");
        assert!(lines[1].contains(lost), "{lines:?}");
        assert_eq!(lines[2], "2 own  own");
    }
}

#[test]
fn a_python_worker_that_misbehaves_loses_only_the_event() {
    for (bad, lost) in [
        ("while True: pass", "lost 1 plugin.timeout"),
        ("import os; os._exit(3)", "lost 1 plugin.died"),
        ("import os; os.kill(os.getpid(), 9)", "lost 1 plugin.died"),
        ("import sys; sys.exit(0)", "failed main.py:3 SystemExit: 0"),
        ("bytearray(1 << 30)", "failed main.py:3 MemoryError"),
        ("return {'payload': float('nan')}", "failed"),
        (
            "return {'payload': 'x' * 3000000}",
            "lost 1 plugin.broke-protocol",
        ),
        ("return 7", "lost 1 plugin.broke-protocol"),
        ("return {'topics': 'a'}", "lost 1 plugin.broke-protocol"),
        (
            "a = lambda f: f(f); a(a)",
            "failed main.py:3 RecursionError",
        ),
    ] {
        let text = format!(
            "def process(event):\n  if 'bad' in event['payload']:\n    {bad}\n  return True\n"
        );
        let bounds = json!({ "timeout": patience(lost), "output": "2MB" });
        let (plugin, _dir) = python(&text, bounds).unwrap();
        contained(&plugin, lost);
    }
}

/// The time for an event: little only where it is to run out.
fn patience(lost: &str) -> &'static str {
    match lost.ends_with("plugin.timeout") {
        true => "500ms",
        false => "1m",
    }
}

#[test]
fn a_script_that_misbehaves_loses_only_the_event() {
    for (bad, lost) in [
        ("for (;;) {}", "lost 1 plugin.timeout"),
        (
            "throw new TypeError('no')",
            "failed main.js:3 TypeError: no",
        ),
        ("throw 'text'", "text"),
        (
            "const all = []; for (;;) all.push('x'.repeat(1e6) + all.length)",
            "memory",
        ),
        (
            "return { payload: 'x'.repeat(3000000) }",
            "lost 1 plugin.broke-protocol",
        ),
        ("return 7", "lost 1 plugin.broke-protocol"),
        ("return { payload: 7n }", "failed"),
        ("const a = {}; a.a = a; return { payload: a }", "failed"),
        ("(function f() { f(); })()", "failed main.js:3"),
        ("return Promise.resolve(event)", "failed"),
    ] {
        let text = format!(
            "export default (event) => {{\n  if (event.payload.bad)\n    {{ {bad} }}\n  return true;\n}}\n"
        );
        let bounds = json!({ "timeout": patience(lost), "output": "2MB", "memory": "32MB" });
        let (plugin, _dir) = javascript(&text, bounds).unwrap();
        contained(&plugin, lost);
    }
}

/// What a script makes is written as its own `JSON.stringify` would, whether its values are plain or not.
#[test]
fn values_of_a_script_are_written_as_json_writes_them() {
    for (made, expected) in [
        (
            "({ payload: { a: 1, b: undefined, c: null, d: [1, , undefined] } })",
            r#"{"a":1,"c":null,"d":[1,null,null]}"#,
        ),
        (
            "({ payload: [1e21, 0.1, -0, 1 / 0, 5e-324, 123456789012, 2 ** 53] })",
            "[1e+21,0.1,0,null,5e-324,123456789012,9007199254740992]",
        ),
        (
            "({ payload: { 2: 'b', 1: 'a', é: '雨\\n\"\\u0001' } })",
            r#"{"1":"a","2":"b","é":"雨\n\"\u0001"}"#,
        ),
        ("({ payload: new Date(0) })", "\"1970-01-01T00:00:00.000Z\""),
        ("({ payload: { toJSON() { return 'own'; } } })", "\"own\""),
        ("({ payload: '\\ud800' })", "\"\\ud800\""),
        ("({ payload: new Map([[1, 2]]) })", "{}"),
        ("({ payload: { get a() { return 3; } } })", r#"{"a":3}"#),
        (
            "({ payload: 'a'.repeat(3) + event.topic })",
            "\"aaagauge/a/rain\"",
        ),
        ("[{ payload: 1 }, null, { payload: false }]", "1 false"),
        ("({ text: 'x' })", "x"),
        ("true", "own"),
    ] {
        let text = format!("export default (event) => {made};\n");
        let (plugin, _dir) = javascript(&text, json!({})).unwrap();
        let lines = work(&plugin, &[json!({ "n": 1 })]);
        let payloads = lines
            .iter()
            .map(|line| line.rsplit("  ").next().unwrap_or_default());
        let payloads: Vec<&str> = payloads.collect();
        let found = payloads.join(" ");
        let same = match (
            serde_json::from_str::<Json>(&found),
            serde_json::from_str::<Json>(expected),
        ) {
            (Ok(found), Ok(expected)) => found == expected,
            _ => found == expected,
        };
        assert!(same, "{made}: {found}");
    }
}

#[test]
fn tags_of_a_script_are_its_own_or_those_of_the_event() {
    for (made, expected) in [
        ("event", "0 own site=north own"),
        (
            "{ event.tags.n = 1; event.tags.t = true; event.tags.z = null; }",
            "0 own site=north,n=1,t=true {\"n\":1}",
        ),
        (
            "{ event.tags = { o: { a: [1] } }; }",
            "0 own o={\"a\":[1]} {\"n\":1}",
        ),
        (
            "{ event.tags = {}; event.topic = 'b/c'; }",
            "0 b/c  {\"n\":1}",
        ),
    ] {
        let text = format!("export default (event) => {{ {made}; return event; }}\n");
        let (plugin, _dir) = javascript(&text, json!({})).unwrap();
        let lines = work(&plugin, &[json!({ "n": 1 })]);
        let expected = expected.replace("site=north own", "site=north {\"n\":1}");
        assert_eq!(lines, [expected]);
    }
}

#[test]
fn the_clock_of_a_script_is_the_time_of_the_event() {
    let mut package = package(
        "javascript",
        "main.js",
        "import { twice } from './other.js';\nexport default (event) => ({ payload: twice([Date.now(), new Date().getTime(), Math.random()]) });",
        json!({}),
    );
    let other = "export const twice = (list) => [...list, ...list];";
    package.files.insert("other.js".into(), other.into());
    let (plugin, _dir) = start(&package).unwrap();
    let first = work(&plugin, &[json!(1)]);
    assert!(first[0].contains("[1000,1000,0."), "{first:?}");
    assert_eq!(work(&plugin, &[json!(1)]), first);
}

#[test]
fn a_worker_that_breaks_the_protocol_is_ended() {
    // Each answers the first batch in a way of its own, and then as it should.
    let frame = r#"
import json, sys, os
def say(frame): sys.stdout.write(json.dumps(frame) + "\n"); sys.stdout.flush()
sys.stdin.readline()
say({"type": "ready", "protocol": 1})
for line in sys.stdin:
    batch = json.loads(line)
    if batch["type"] == "stop": break
    answer = {"type": "result", "id": batch["id"], "events": [True for _ in batch["events"]]}
    bad = any("bad" in event["payload"] for event in batch["events"])
"#;
    for (how, lost) in [
        ("print('hello', flush=True)", "plugin.broke-protocol"),
        ("answer['id'] += 1", "plugin.out-of-turn"),
        ("answer['events'].pop()", "plugin.broke-protocol"),
        ("say(answer)", "plugin.out-of-turn"),
        (
            "sys.stdout.buffer.write(b'x' * 3000000); sys.stdout.flush()",
            "plugin.broke-protocol",
        ),
        (
            "say({'type': 'ready', 'protocol': 1})",
            "plugin.out-of-turn",
        ),
    ] {
        // Answered twice: the second answer is out of turn and ends the worker, but nothing is lost.
        let twice = how == "say(answer)";
        let text = format!("{frame}    if bad: {how}\n    say(answer)\n");
        let command = json!({ "command": ["python3", "main.py"], "output": "2MB" });
        let (plugin, _dir) = start(&package("command", "main.py", &text, command)).unwrap();
        if twice {
            let payloads = [json!({ "bad": 1 }), json!({ "n": 1 })];
            assert_eq!(work(&plugin, &payloads).len(), 2);
            assert_eq!(work(&plugin, &[json!({ "n": 1 })]), ["0 own  own"]);
            assert!(
                log_of(&plugin)
                    .iter()
                    .any(|line| line.contains("answered a batch"))
            );
        } else {
            contained(&plugin, lost);
        }
    }
}

#[test]
fn rows_of_tables_are_read_and_only_of_those_that_are_listed() {
    struct Stations;
    impl PluginHost for Stations {
        fn rows(&self, request: &TableRequest<'_>) -> Result<String, Error> {
            Ok(json!([{ "asked": request.conditions, "limit": request.limit }]).to_string())
        }
    }
    let tables = json!({ "tables": ["stations"] });
    let python = package(
        "python",
        "main.py",
        "import busbar\ndef process(event):\n  return {'payload': busbar.get(event['payload']['table'], id='a')}\n",
        tables.clone(),
    );
    let javascript = package(
        "javascript",
        "main.js",
        "export default (event) => ({ payload: busbar.get(event.payload.table, { id: 'a' }) });",
        tables,
    );
    for package in [python, javascript] {
        let (plugin, _dir) = start_with(&package, Arc::new(Stations)).unwrap();
        let lines = work(
            &plugin,
            &[json!({ "table": "stations" }), json!({ "table": "secret" })],
        );
        assert!(lines[0].contains(r#""asked":{"id":"a"}"#), "{lines:?}");
        assert!(
            lines[1].contains("failed") && lines[1].contains("secret"),
            "{lines:?}"
        );
    }
}

#[test]
fn a_dropped_plugin_leaves_neither_process_nor_file() {
    let (plugin, dir) = python("def process(event): return True", json!({})).unwrap();
    let process = plugin.status().workers[0].process.unwrap();
    drop(plugin);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while std::path::Path::new(&format!("/proc/{process}")).exists() {
        assert!(std::time::Instant::now() < until);
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    assert!(!dir.path().join("files").exists());
}

/// The files that a compiler made of a program, beside those that stay.
fn compiled(
    commands: &[&[&str]],
    source: (&str, String),
    keep: &str,
) -> Option<BTreeMap<String, String>> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(source.0), source.1).unwrap();
    for command in commands {
        let done = std::process::Command::new(command[0])
            .args(&command[1..])
            .current_dir(dir.path())
            .output();
        match done {
            Ok(done) => assert!(done.status.success(), "{command:?} {done:?}"),
            Err(_) if std::env::var_os("BUSBAR_ALL_LANGUAGES").is_none() => return None,
            Err(error) => panic!("{command:?}: {error}"),
        }
    }
    let contents = std::fs::read(dir.path().join(keep)).unwrap();
    let text = Package::text_of(contents);
    assert!(Package::is_binary(&text));
    let name = std::path::Path::new(keep).file_name().unwrap();
    Some(BTreeMap::from([(
        name.to_string_lossy().into_owned(),
        text,
    )]))
}

#[test]
fn compiled_programs_run_without_their_source() {
    let source = |language: PluginLanguage| {
        let mut files = template(language).into_iter();
        files.find(|(name, _)| *name == language.main()).unwrap().1
    };
    let kit = concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/java/busbar/");
    let kit: Vec<String> = ["Event", "Json", "Node", "Plugin", "Worker"]
        .map(|name| format!("{kit}{name}.java"))
        .into();
    let mut javac = vec!["javac", "-d", "classes", "Main.java"];
    javac.extend(kit.iter().map(String::as_str));
    let jar = [
        "jar", "--create", "--file", "rain.jar", "-C", "classes", ".",
    ];
    let java = source(PluginLanguage::Java);
    let erlang = source(PluginLanguage::Erlang);
    let python = source(PluginLanguage::Python);
    let compile = "import py_compile; py_compile.compile('main.py', 'main.pyc')";
    for (language, main, files) in [
        (
            "java",
            "rain.jar",
            compiled(&[&javac, &jar], ("Main.java", java), "rain.jar"),
        ),
        (
            "erlang",
            "main.beam",
            compiled(&[&["erlc", "main.erl"]], ("main.erl", erlang), "main.beam"),
        ),
        (
            "python",
            "main.pyc",
            compiled(
                &[&["python3", "-c", compile]],
                ("main.py", python),
                "main.pyc",
            ),
        ),
    ] {
        let Some(files) = files else { continue };
        let spec = json!({ "language": language, "main": main });
        let spec: PluginSpec = serde_json::from_value(spec).unwrap();
        let (plugin, _dir) =
            start(&Package { spec, files }).unwrap_or_else(|error| panic!("{language}: {error}"));
        let made = work(&plugin, &[json!({ "value": 21 })]);
        assert!(made[0].contains("{\"value\":42}"), "{language}: {made:?}");
    }
}

/// A plug-in of two modules in each language that has a compiled form, which fails in the second one.
#[test]
fn compiled_plugins_run_without_sources_and_name_file_and_line() {
    let all = [
        (
            "javascript",
            "main.qjs",
            "lib/double.js:2 Error: thirteen",
            vec![
                (
                    "main.js",
                    "import { double } from './lib/double.js';\nexport default ({ payload }) => ({ payload: { n: double(payload.n) } });",
                ),
                (
                    "lib/double.js",
                    "export const double = (n) => {\n  if (n === 13) throw new Error('thirteen');\n  return 2 * n;\n};",
                ),
            ],
        ),
        (
            "python",
            "main.pyc",
            "double.py:3 ValueError: thirteen",
            vec![
                (
                    "main.py",
                    "from double import double\ndef process(event):\n    return {'payload': {'n': double(event['payload']['n'])}}\n",
                ),
                (
                    "double.py",
                    "def double(n):\n    if n == 13:\n        raise ValueError('thirteen')\n    return 2 * n\n",
                ),
            ],
        ),
        (
            "java",
            "rain.jar",
            "Twice.java:4 java.lang.IllegalStateException: thirteen",
            vec![
                (
                    "Main.java",
                    "import busbar.*;\nimport java.util.List;\npublic class Main implements Plugin {\n    public List<Event> process(Event event) {\n        event.object().put(\"n\", Twice.of((long) event.number(\"n\")));\n        return List.of(event);\n    }\n}\n",
                ),
                (
                    "Twice.java",
                    "class Twice {\n    static long of(long n) {\n        if (n == 13)\n            throw new IllegalStateException(\"thirteen\");\n        return 2 * n;\n    }\n}\n",
                ),
            ],
        ),
        (
            "erlang",
            "main.beam",
            "double.erl:3 ",
            vec![
                (
                    "main.erl",
                    "-module(main).\n-export([process/1]).\nprocess(#{<<\"payload\">> := #{<<\"n\">> := N}}) -> #{payload => #{n => double:double(N)}}.\n",
                ),
                (
                    "double.erl",
                    "-module(double).\n-export([double/1]).\ndouble(13) -> error(thirteen);\ndouble(N) -> 2 * N.\n",
                ),
            ],
        ),
    ];
    for (language, main, failed, sources) in all {
        let files: BTreeMap<String, String> = sources
            .into_iter()
            .map(|(file, text)| (file.to_owned(), text.to_owned()))
            .collect();
        let tests = json!([{ "given": [{ "payload": { "n": 4 } }], "expect": [{ "payload": { "n": 8 } }] }]);
        let source = Package {
            files,
            ..package(language, "", "", json!({ "tests": tests }))
        };
        let dir = tempfile::tempdir().unwrap();
        let built = match build_plugin("rain", &source, dir.path()) {
            Err(error) if is_missing(&error) => {
                eprintln!("{language}: {error}");
                continue;
            }
            built => built.unwrap_or_else(|error| panic!("{language}: {error}")),
        };
        assert_eq!(built.spec.main(), main);
        for ending in [".js", ".py", ".java", ".erl"] {
            assert!(
                !built.files.keys().any(|file| file.ends_with(ending)),
                "{:?}",
                built.files.keys()
            );
        }
        let (plugin, _dir) = start(&built).unwrap();
        let lines = work(&plugin, &[json!({ "n": 2 }), json!({ "n": 13 })]);
        assert!(lines[0].ends_with("{\"n\":4}"), "{language}: {lines:?}");
        assert!(lines[1].contains(failed), "{language}: {lines:?}");
        // Compiled once is enough.
        let again = build_plugin("rain", &built, dir.path()).unwrap_err();
        assert_eq!(again.code(), "plugin.build-compiled");
    }
}

#[test]
fn bytecode_that_this_engine_has_not_made_is_refused() {
    let source = package(
        "javascript",
        "main.js",
        "export default (event) => event;",
        json!({}),
    );
    let dir = tempfile::tempdir().unwrap();
    let built = build_plugin("rain", &source, dir.path()).unwrap();
    let bytes = Package::contents_of(&built.files["main.qjs"]).unwrap();
    let with = |bytes: Vec<u8>| {
        let files = BTreeMap::from([("main.qjs".to_owned(), Package::text_of(bytes))]);
        let package = Package {
            files,
            ..built.clone()
        };
        start(&package).map(|_| ())
    };
    with(bytes.clone()).unwrap();
    let engine = bytes
        .windows(8)
        .position(|part| part == b"quickjs ")
        .unwrap()
        + 8;
    let mut other = bytes.clone();
    other[engine] = b'9';
    let error = with(other).unwrap_err();
    assert_eq!(error.code(), "plugin.bytecode-engine");
    assert!(error.to_string().contains("quickjs 9"), "{error}");
    for at in [0, 3, bytes.len() / 2, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x20;
        assert_eq!(with(damaged).unwrap_err().code(), "plugin.bytecode-damaged");
        assert_eq!(
            with(bytes[..at].to_vec()).unwrap_err().code(),
            "plugin.bytecode-damaged"
        );
    }
    assert_eq!(
        with(b"\x1c".to_vec()).unwrap_err().code(),
        "plugin.bytecode-damaged"
    );
}

/// In source and in compiled form alike.
#[test]
fn modules_import_each_other_in_any_order_and_from_any_folder() {
    let files = [
        (
            "main.js",
            "import { twice } from './a/twice.js';\nexport default ({ payload }) => ({ payload: twice(payload.n) });\nexport const two = () => 2;",
        ),
        (
            "a/twice.js",
            "import { product } from '../z/product.js';\nimport { two } from '../main.js';\nexport const twice = (n) => product(n, two());",
        ),
        ("z/product.js", "export const product = (a, b) => a * b;"),
    ];
    let mut source = package("javascript", "", "", json!({}));
    source.files = files
        .map(|(file, text)| (file.to_owned(), text.to_owned()))
        .into();
    let dir = tempfile::tempdir().unwrap();
    let built = build_plugin("rain", &source, dir.path()).unwrap();
    for package in [&source, &built] {
        let (plugin, _dir) = start(package).unwrap();
        assert_eq!(work(&plugin, &[json!({ "n": 21 })]), ["0 own  42"]);
    }
    source.files.remove("z/product.js");
    let error = start(&source).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("z/product.js"), "{error}");
}

#[test]
fn bytecode_of_another_python_is_refused_plainly() {
    let source = package(
        "python",
        "main.py",
        "def process(event):\n    return event\n",
        json!({}),
    );
    let dir = tempfile::tempdir().unwrap();
    let mut built = build_plugin("rain", &source, dir.path()).unwrap();
    let mut bytes = Package::contents_of(&built.files["main.pyc"]).unwrap();
    bytes[0] ^= 1;
    built
        .files
        .insert("main.pyc".into(), Package::text_of(bytes));
    let error = start(&built).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("another Python"), "{error}");
}

fn is_missing(error: &Error) -> bool {
    error.code() == "plugin.no-runtime" && std::env::var_os("BUSBAR_ALL_LANGUAGES").is_none()
}
