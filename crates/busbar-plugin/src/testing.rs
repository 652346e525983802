//! Tests in a plug-in's file: events in, events out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use busbar_event::{Class, Error, Micros, time};
use futures::executor::block_on;
use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::events::GivenEvent;
use crate::host::{PluginHost, TableRequest};
use crate::package::Package;
use crate::plugin::Plugin;
use crate::spec::{ExpectedEvent, PluginTest};

/// What one test of a plug-in came to.
#[derive(Clone, Debug, Serialize)]
pub struct PluginTestReport {
    /// The test's name, or its number from 1.
    pub test: String,
    /// What was not as expected, in the language of messages that errors have.
    pub differences: Vec<Error>,
}

/// When events happen that do not say: 2000-01-01T00:00:00Z.
const TEST_MICROS: Micros = 946_684_800_000_000;

impl Plugin {
    /// Starts a plug-in and runs its tests. Its files are kept in `root`, a folder of its own, until it ends. Blocks.
    ///
    /// # Errors
    /// Why it does not compile, load or pass its tests; with the program's own error, file and line.
    pub fn start(
        name: &str,
        package: &Package,
        root: &Path,
        host: Arc<dyn PluginHost>,
        clock: Arc<dyn Fn() -> Micros + Send + Sync>,
    ) -> Result<Plugin, Error> {
        let plugin = Plugin::load(name, package, root, host, clock)?;
        for report in run_plugin_tests(&plugin) {
            if let Some(difference) = report.differences.first() {
                return Err(Error::new(Class::Configuration, "plugin.test-failed")
                    .with("plugin", name)
                    .with("test", &report.test)
                    .with("difference", difference));
            }
        }
        plugin.forget_counts();
        Ok(plugin)
    }
}

/// Runs all tests of a plug-in. Blocks.
pub fn run_plugin_tests(plugin: &Plugin) -> Vec<PluginTestReport> {
    let tests = &plugin.package().spec.tests;
    let numbered = tests.iter().enumerate();
    numbered
        .map(|(at, test)| PluginTestReport {
            test: test.name.clone().unwrap_or_else(|| (at + 1).to_string()),
            differences: run(plugin, test).unwrap_or_else(|error| vec![error]),
        })
        .collect()
}

/// An event that came out.
struct MadeEvent {
    topic: String,
    key: Option<String>,
    tags: BTreeMap<String, String>,
    payload: Vec<u8>,
}

fn run(plugin: &Plugin, test: &PluginTest) -> Result<Vec<Error>, Error> {
    let mut events = plugin.events();
    let mut payloads = Vec::with_capacity(test.given.len());
    for given in &test.given {
        let payload = match &given.payload {
            Json::String(text) => text.clone().into_bytes(),
            other => other.to_string().into_bytes(),
        };
        let time = match &given.time {
            None => TEST_MICROS,
            Some(text) => time::parse(text).ok_or_else(|| {
                Error::new(Class::Configuration, "plugin.test-time").with("time", text)
            })?,
        };
        let event = GivenEvent {
            topic: &given.topic,
            key: given.key.as_deref(),
            time,
            payload: &payload,
        };
        let tags = given.tags.iter();
        events.push(
            &event,
            tags.map(|(name, value)| (name.as_str(), value.as_str())),
        );
        payloads.push(payload);
    }
    let before = plugin.set_host(Arc::new(TestTables(test.tables.clone())));
    let worked = block_on(plugin.give(0, events).worked());
    plugin.set_host(before);
    let worked = worked?;
    let mut made = Vec::with_capacity(worked.answers.len());
    for (at, row) in worked.answers.rows().enumerate() {
        let given = &test.given[row.event];
        let own = |text: &str| Some(text.to_owned());
        made.push(MadeEvent {
            topic: row.topic.unwrap_or(&given.topic).to_owned(),
            key: row
                .key
                .map_or_else(|| given.key.clone(), |key| key.and_then(own)),
            tags: match row.own_tags {
                true => worked
                    .answers
                    .tags(at)
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                false => given.tags.clone(),
            },
            payload: row.payload.unwrap_or(&payloads[row.event]).to_vec(),
        });
    }
    let mut causes: Vec<Error> = worked
        .answers
        .failed()
        .map(|(_, failure)| failure.error(Class::Permanent, plugin.name()))
        .collect();
    for (_, count, error) in &worked.lost {
        causes.extend(std::iter::repeat_n(error.clone(), *count));
    }
    Ok(compare(test, &made, &causes))
}

fn compare(test: &PluginTest, made: &[MadeEvent], causes: &[Error]) -> Vec<Error> {
    let new = |code| Error::new(Class::Configuration, code);
    let mut all = Vec::new();
    if causes.len() != test.dead {
        let error = new("plugin.test-dead")
            .with("expected", test.dead)
            .with("actual", causes.len());
        all.push(match causes.first() {
            Some(cause) => error.caused_by(cause.clone()),
            None => error,
        });
    }
    for at in 0..test.expect.len().max(made.len()) {
        let number = at + 1;
        match (test.expect.get(at), made.get(at)) {
            (Some(expected), Some(actual)) => {
                all.extend(differs(expected, actual).map(|(what, expected, actual)| {
                    new("plugin.test-different")
                        .with("number", number)
                        .with("what", what)
                        .with("expected", expected)
                        .with("actual", actual)
                }))
            }
            (Some(_), None) => all.push(new("plugin.test-missing").with("number", number)),
            (None, Some(actual)) => all.push(
                new("plugin.test-unexpected")
                    .with("number", number)
                    .with("payload", shown(&actual.payload)),
            ),
            (None, None) => {}
        }
    }
    all
}

/// The first part of an event that is not as expected: its name, what was expected and what came.
fn differs(expected: &ExpectedEvent, actual: &MadeEvent) -> Option<(String, String, String)> {
    if let Some(topic) = &expected.topic
        && *topic != actual.topic
    {
        return Some(("topic".into(), topic.clone(), actual.topic.clone()));
    }
    if expected.key.is_some() && expected.key != actual.key {
        let text = |key: &Option<String>| key.clone().unwrap_or_default();
        return Some(("key".into(), text(&expected.key), text(&actual.key)));
    }
    for (name, value) in &expected.tags {
        let found = actual.tags.get(name);
        if found != Some(value) {
            let found = found.cloned().unwrap_or_default();
            return Some((format!("tags.{name}"), value.clone(), found));
        }
    }
    let payload = expected.payload.as_ref()?;
    let found: Json = serde_json::from_slice(&actual.payload)
        .unwrap_or_else(|_| Json::String(String::from_utf8_lossy(&actual.payload).into_owned()));
    if let (Json::Object(wanted), Json::Object(found)) = (payload, &found) {
        return wanted.iter().find_map(|(name, value)| {
            let found = found.get(name).unwrap_or(&Json::Null);
            let what = format!("payload.{name}");
            (!same(value, found)).then(|| (what, value.to_string(), found.to_string()))
        });
    }
    (!same(payload, &found)).then(|| ("payload".into(), payload.to_string(), found.to_string()))
}

/// Numbers are the same where their values are, however they are written.
fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(x), Json::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Json::Array(x), Json::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y))
        }
        (Json::Object(x), Json::Object(y)) => {
            let member = |(name, value)| y.get(name).is_some_and(|other| same(value, other));
            x.len() == y.len() && x.iter().all(member)
        }
        (a, b) => a == b,
    }
}

fn shown(payload: &[u8]) -> String {
    busbar_event::quote(&String::from_utf8_lossy(payload))
}

/// The rows that a test gives.
struct TestTables(BTreeMap<String, Vec<Map<String, Json>>>);

impl PluginHost for TestTables {
    fn rows(&self, request: &TableRequest<'_>) -> Result<String, Error> {
        if request.sql.is_some() {
            return Err(Error::new(Class::Permanent, "plugin.test-query"));
        }
        let Some(rows) = self.0.get(&request.table) else {
            let error = Error::new(Class::Permanent, "plugin.unknown-table");
            return Err(error.with("table", &request.table));
        };
        let fits = |row: &&Map<String, Json>| {
            let mut conditions = request.conditions.iter();
            conditions.all(|(name, value)| row.get(name).is_some_and(|found| same(value, found)))
        };
        let limit = request.limit.unwrap_or(usize::MAX);
        let rows: Vec<&Map<String, Json>> = rows.iter().filter(fits).take(limit).collect();
        Ok(serde_json::to_string(&rows).unwrap_or_default())
    }
}
