//! Plug-ins that work on whole batches as Arrow columns, with the real runtime.

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_event::Error;
use busbar_plugin::PluginLanguage;
use busbar_plugin::{GivenEvent, NoTables, Package, Plugin, PluginSpec, template};
use futures::executor::block_on;
use serde_json::{Value as Json, json};

fn package(language: &str, main: &str, text: &str, more: Json) -> Package {
    let mut spec = json!({ "language": language, "arrow": { "n": "int", "j": "json" } });
    if let (Json::Object(spec), Json::Object(more)) = (&mut spec, more) {
        spec.extend(more);
    }
    Package {
        spec: serde_json::from_value(spec).unwrap(),
        files: BTreeMap::from([(main.to_owned(), text.to_owned())]),
    }
}

fn start(package: &Package) -> Result<(Plugin, tempfile::TempDir), Error> {
    let dir = tempfile::tempdir().unwrap();
    let host = Arc::new(NoTables);
    let started = Plugin::start("rain", package, dir.path(), host, Arc::new(|| 0));
    started.map(|plugin| (plugin, dir))
}

/// None where the machine has no pyarrow, which the full proof installs.
fn python(text: &str, more: Json) -> Option<(Plugin, tempfile::TempDir)> {
    match start(&package("python", "main.py", text, more)) {
        Ok(started) => Some(started),
        Err(error)
            if ["plugin.no-library", "plugin.no-runtime"].contains(&error.code())
                && std::env::var_os("BUSBAR_ALL_LANGUAGES").is_none() =>
        {
            eprintln!("left out: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// What comes of events with these payloads: a line for each event that was made, failed or was lost.
fn work(plugin: &Plugin, payloads: &[&str]) -> Vec<String> {
    let mut events = plugin.events();
    for (at, payload) in payloads.iter().enumerate() {
        let event = GivenEvent {
            topic: "gauge/a/rain",
            key: Some("k"),
            time: 1_000_000 + at as i64,
            payload: payload.as_bytes(),
        };
        events.push(&event, [("site", "north")].into_iter());
    }
    let worked = block_on(plugin.give(0, events).worked()).unwrap();
    let order: Vec<usize> = worked.answers.rows().map(|row| row.event).collect();
    assert!(order.is_sorted(), "rows in the order of events: {order:?}");
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (at, row) in worked.answers.rows().enumerate() {
        let payload = row.payload.map_or("own".into(), String::from_utf8_lossy);
        let (topic, tags) = (row.topic.unwrap_or("own"), worked.answers.tags(at));
        let tags: Vec<_> = tags
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        lines.push((row.event, format!("{topic} {} {payload}", tags.join(","))));
    }
    for (event, failure) in worked.answers.failed() {
        let (file, line) = (
            failure.file.as_deref().unwrap_or(""),
            failure.line.unwrap_or(0),
        );
        lines.push((event, format!("failed {file}:{line} {}", failure.message)));
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

const NUMBERS: [&str; 5] = [
    r#"{"n":0,"j":[1]}"#,
    r#"{"n":1,"j":{"a":"b"}}"#,
    r#"{"n":"x"}"#,
    r#"no JSON"#,
    r#"{"n":4}"#,
];

#[test]
fn rows_are_of_their_events_however_they_are_filtered_and_multiplied() {
    let Some((plugin, _dir)) = python(
        r#"
import pyarrow as pa
import pyarrow.compute as pc
def on_batch(batch):
    assert batch.column_names == ["topic", "key", "time", "tags", "j", "n", "_row"], batch.column_names
    batch = batch.filter(pc.greater(batch["n"], 0))
    # The last first, and the first twice.
    rows = list(range(batch.num_rows))[::-1] + [0]
    batch = batch.take(rows)
    at = batch.schema.get_field_index("n")
    return batch.set_column(at, "n", pc.multiply(batch["n"], 10))
"#,
        json!({}),
    ) else {
        return;
    };
    assert_eq!(
        work(&plugin, &NUMBERS),
        [
            r#"1 own site=north {"j":{"a":"b"},"n":10}"#,
            r#"1 own site=north {"j":{"a":"b"},"n":10}"#,
            "2 lost 1 event.field-type",
            "3 lost 1 event.json-syntax",
            r#"4 own site=north {"n":40}"#,
        ]
    );
}

#[test]
fn topic_key_and_tags_are_columns_and_payloads_stay_where_none_is_returned() {
    let Some((plugin, _dir)) = python(
        r#"
import pyarrow as pa
import pyarrow.compute as pc
def on_batch(batch):
    tags = pa.array([[("site", "south"), ("n", str(n))] for n in range(batch.num_rows)], pa.map_(pa.string(), pa.string()))
    topics = pc.binary_join_element_wise(batch["topic"], "x", "/").dictionary_encode()
    return pa.table({"topic": topics, "tags": tags})
"#,
        json!({ "arrow": {} }),
    ) else {
        return;
    };
    assert_eq!(
        work(&plugin, &[NUMBERS[0], NUMBERS[3]]),
        [
            "0 gauge/a/rain/x site=south,n=0 own",
            "1 gauge/a/rain/x site=south,n=1 own"
        ]
    );
}

#[test]
fn only_the_events_on_which_it_fails_have_failed() {
    let Some((plugin, _dir)) = python(
        r#"
import pyarrow as pa
def on_batch(batch):
    numbers = batch["n"].to_pylist()
    if 7 in numbers: raise ValueError("seven")
    if 8 in numbers: return "eight"
    if 9 in numbers: return pa.table({"n": [1] * (batch.num_rows + 1)})
    if 10 in numbers: return pa.table({"n": numbers, "_row": [5000] * batch.num_rows})
    if 11 in numbers: return pa.table({"n": [b"x"] * batch.num_rows})
    if 12 in numbers and len(numbers) > 1: raise ValueError("twelve comes alone")
    if 12 in numbers: return pa.table({"j": ["{"] * batch.num_rows, "_row": batch["_row"]})
    told = pa.array(["thirteen is bad" if n == 13 else None for n in numbers], pa.string())
    return pa.table({"n": numbers, "_row": batch["_row"], "_error": told})
"#,
        json!({}),
    ) else {
        return;
    };
    let payloads: Vec<String> = (6..15).map(|n| format!("{{\"n\":{n}}}")).collect();
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    let lines = work(&plugin, &payloads);
    let expected = [
        r#"0 own  {"n":6}"#,
        "1 failed main.py:5 ValueError: seven",
        "2 failed :0 TypeError: on_batch must return",
        "3 failed :0 ValueError: on_batch returned 2 rows for 1 events without the column _row",
        "4 failed :0 ValueError: the column _row names an event that is not in the batch",
        "5 failed :0 TypeError: the column n has the type binary",
        "6 lost 1 plugin.no-json",
        "7 failed :0 thirteen is bad",
        r#"8 own  {"n":14}"#,
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line:?} and not {expected:?}");
    }
}

#[test]
fn a_worker_that_runs_into_a_bound_loses_only_the_event() {
    let Some((plugin, _dir)) = python(
        r#"
import os, pyarrow as pa
def on_batch(batch):
    numbers = batch["n"].to_pylist()
    if 1 in numbers: os._exit(3)
    if 2 in numbers: return pa.table({"j": ['"' + "x" * 300000 + '"'] * batch.num_rows})
    return batch
"#,
        json!({ "output": "200KB" }),
    ) else {
        return;
    };
    let mut lines = work(
        &plugin,
        &[r#"{"n":0}"#, r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#],
    );
    // What the log said last may be part of it.
    lines[1].truncate("1 lost 1 plugin.died".len());
    assert_eq!(
        lines,
        [
            r#"0 own site=north {"n":0}"#,
            "1 lost 1 plugin.died",
            "2 lost 1 plugin.broke-protocol",
            r#"3 own site=north {"n":3}"#,
        ]
    );
}

#[test]
fn what_does_not_fit_together_is_refused_when_it_is_deployed() {
    let refused = |language: &str, main: &str, text: &str, more: Json| {
        let error = start(&package(language, main, text, more)).expect_err("it is refused");
        (error.code(), error.to_string())
    };
    let of = |text: &str, more: Json| refused("python", "main.py", text, more);
    assert_eq!(
        refused("perl", "main.pl", "sub process {}\n1;\n", json!({})).0,
        "plugin.arrow-language"
    );
    let (code, _) = of("", json!({ "arrow": { "topic": "text" } }));
    assert_eq!(code, "plugin.arrow-name");
    // A program that does not know of it.
    let jq = template(PluginLanguage::Command);
    let (spec, main) = (&jq[0].1, &jq[1].1);
    let mut spec: PluginSpec = serde_saphyr::from_str(spec).unwrap();
    spec.arrow = Some(Default::default());
    let files = BTreeMap::from([("main.jq".to_owned(), main.clone())]);
    let error = start(&Package { spec, files }).expect_err("jq takes no Arrow columns");
    assert!(
        matches!(error.code(), "plugin.broke-protocol" | "plugin.no-runtime"),
        "{error}"
    );
    if python("def on_batch(batch): return batch\n", json!({})).is_none() {
        return;
    }
    let (_, text) = of("def process(event): return event\n", json!({}));
    assert!(text.contains("does not define on_batch(batch)"), "{text}");
    let (_, text) = of(
        "def on_batch(batch): return batch\n",
        json!({ "arrow": null }),
    );
    assert!(text.contains("needs \"arrow\""), "{text}");
}

#[test]
fn a_library_that_is_not_installed_is_said_with_what_to_install() {
    // Without `site` Python sees no library but its own.
    let command = json!({ "command": ["python3", "-S", "busbar_worker.py"] });
    let mut package = package("command", "main.py", "", command);
    package.files.extend(
        [
            ("busbar.py", include_str!("../sdk/python/busbar.py")),
            (
                "busbar_arrow.py",
                include_str!("../sdk/python/busbar_arrow.py"),
            ),
            (
                "busbar_worker.py",
                include_str!("../sdk/python/busbar_worker.py"),
            ),
        ]
        .map(|(file, text)| (file.to_owned(), text.to_owned())),
    );
    let error = start(&package).expect_err("it lacks a library");
    if error.code() == "plugin.no-runtime" {
        return;
    }
    assert_eq!(error.code(), "plugin.no-library", "{error}");
    assert!(error.to_string().contains("pip install pyarrow"), "{error}");
}
