//! `plugins/NAME/plugin.yaml`: what a plug-in is, and within which bounds it runs.

use std::collections::BTreeMap;

use busbar_event::format::SchemaSpec;
use busbar_event::{Class, Error, Size, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::PluginLanguage;
use crate::columns::{EventColumns, is_reserved};
use crate::limits::{
    BATCH_TIMEOUT, MEMORY_BYTES, MEMORY_BYTES_MIN, OUTPUT_BYTES, OUTPUT_BYTES_MAX, WORKERS_MAX,
};

/// A program that works on events: a step `script` of a flow names it. Its files lie beside this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginSpec {
    /// What the plug-in is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it is written in. `javascript` runs within the node; all others in processes of their own.
    pub language: PluginLanguage,
    /// The file that is run; without it `main` with the language's ending, such as `main.py`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<String>,
    /// For the language `command`: the program and its arguments. It starts in the plug-in's folder and speaks the
    /// protocol of docs/PLUGINS.md.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Number of workers. Events with the same key go to the same worker, in order.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(range(min = 1, max = 64))]
    pub workers: u16,
    /// How long a worker may work on one batch of events before it is ended.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// Memory that a worker may take before it is ended.
    #[serde(default = "memory")]
    pub memory: Size,
    /// Bytes that a worker may answer to one batch of events.
    #[serde(default = "output")]
    pub output: Size,
    /// Tables whose rows it may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// Values that the program is given, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, serde_json::Value>,
    /// The columns of the payloads that come out, for later steps and tables. Without it payloads are passed on as they
    /// are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<SchemaSpec>,
    /// For `python` and `command`: the program works on whole batches as Arrow columns, with these columns of the payloads that
    /// come in, which are JSON objects. `{}` where it needs none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrow: Option<SchemaSpec>,
    /// Tests. All must pass before a new version takes over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<PluginTest>,
}

/// One test of a plug-in: events in, events out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginTest {
    /// What the test shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Rows of tables, by the table's name, that the program reads in this test.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, Vec<serde_json::Map<String, serde_json::Value>>>,
    /// The events that come in.
    pub given: Vec<TestEvent>,
    /// The events that must come out, in order.
    #[serde(default)]
    pub expect: Vec<ExpectedEvent>,
    /// How many of the events given must fail.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dead: usize,
}

/// An event that a test gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestEvent {
    /// Its topic; `test` where it does not matter.
    #[serde(default = "test_topic")]
    pub topic: String,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Its time, such as `2026-05-01T08:00:00Z`; without it 2000-01-01T00:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Its tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Its payload: text as it is, any other value as JSON.
    #[serde(default)]
    pub payload: serde_json::Value,
}

/// An event that a test expects. What is left out may be anything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpectedEvent {
    /// Its topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Tags that it must have, among others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Its payload. Of an object, the members that are given must be there, among others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<serde_json::Value>,
}

impl PluginSpec {
    /// Checks what the types of the fields do not say.
    ///
    /// # Errors
    /// The key that is wrong, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, Error)> {
        let wrong = |key, code| (key, Error::new(Class::Configuration, code));
        if self.workers == 0 || self.workers > WORKERS_MAX {
            let (key, error) = wrong("workers", "plugin.workers");
            return Err((key, error.with("max", WORKERS_MAX)));
        }
        if self.timeout.as_micros() <= 0 {
            return Err(wrong("timeout", "plugin.timeout-zero"));
        }
        if self.memory.as_bytes() < MEMORY_BYTES_MIN {
            let (key, error) = wrong("memory", "plugin.memory-small");
            return Err((key, error.with("min", Size::from_bytes(MEMORY_BYTES_MIN))));
        }
        if self.output.as_bytes() == 0 || self.output.as_bytes() > OUTPUT_BYTES_MAX {
            let (key, error) = wrong("output", "plugin.output-large");
            return Err((key, error.with("max", Size::from_bytes(OUTPUT_BYTES_MAX))));
        }
        match (self.language, self.command.is_empty()) {
            (PluginLanguage::Command, true) => return Err(wrong("language", "plugin.no-command")),
            (PluginLanguage::Command, false) | (_, true) => {}
            (_, false) => return Err(wrong("command", "plugin.command-language")),
        }
        if let Some(columns) = &self.columns {
            columns.schema().map_err(|error| ("columns", error))?;
        }
        if let Some(columns) = &self.arrow {
            if !matches!(
                self.language,
                PluginLanguage::Python | PluginLanguage::Command
            ) {
                return Err(wrong("arrow", "plugin.arrow-language"));
            }
            if let Some(column) = columns.0.iter().find(|column| is_reserved(&column.name)) {
                let (key, error) = wrong("arrow", "plugin.arrow-name");
                return Err((key, error.with("column", &column.name)));
            }
            EventColumns::new(columns).map_err(|error| ("arrow", error))?;
        }
        Ok(())
    }

    /// The file that is run.
    pub fn main(&self) -> &str {
        match &self.main {
            Some(main) => main,
            None => self.language.main(),
        }
    }
}

fn one() -> u16 {
    1
}

fn is_one(workers: &u16) -> bool {
    *workers == 1
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn timeout() -> Span {
    Span::from_micros(i64::try_from(BATCH_TIMEOUT.as_micros()).unwrap_or(i64::MAX))
}

fn memory() -> Size {
    Size::from_bytes(MEMORY_BYTES)
}

fn output() -> Size {
    Size::from_bytes(OUTPUT_BYTES)
}

fn test_topic() -> String {
    "test".to_owned()
}
