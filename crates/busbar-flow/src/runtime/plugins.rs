//! The plug-ins of a node: started before the flows that use them, ended when no flow does any more.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::StructArray;
use busbar_catalog::{Diagnostic, Kind, Parsed, PathItem, Project, StepSpec};
use busbar_event::format::encode_json;
use busbar_event::{Class, Error};
use busbar_plugin::limits::TABLE_ROWS_MAX;
use busbar_plugin::{LogLine, Package, Plugin, PluginHost, PluginStatus, TableRequest};
use busbar_table::{Compare, Condition, Constant, Scan, Table};
use serde::Serialize;
use serde_json::Value as Json;

use super::{Inner, Runtime};
use crate::blocking::blocking;
use crate::operator::KnownPlugin;
use crate::reader::plain;

/// What is known of a plug-in of a node.
#[derive(Clone, Debug, Serialize)]
pub struct PluginReport {
    /// Its name.
    pub name: String,
    /// What it is written in.
    pub language: &'static str,
    /// What it is for.
    pub description: Option<String>,
    /// The flows that use it.
    pub flows: Vec<String>,
    /// Counters and workers; none while it does not run.
    pub status: Option<PluginStatus>,
    /// Why it does not run.
    pub error: Option<Error>,
}

impl Runtime {
    /// The plug-ins of the project that runs, by name.
    pub async fn plugins(&self) -> Vec<PluginReport> {
        let project = self.project().await;
        let known = self.inner.plugins.read();
        let reports = known.iter().map(|(name, plugin)| {
            let uses = |step: &StepSpec| step.plugin() == Some(name);
            let flows = project.flows.iter();
            let flows =
                flows.filter(|(_, flow)| flow.spec.all_steps().iter().any(|step| uses(step.spec)));
            PluginReport {
                name: name.clone(),
                language: plugin.package.spec.language.as_str(),
                description: plugin.package.spec.description.clone(),
                flows: flows.map(|(flow, _)| flow.clone()).collect(),
                status: plugin.running.as_ref().map(|running| running.status()),
                error: plugin.failed.clone(),
            }
        });
        reports.collect()
    }

    /// The log lines of a plug-in behind number `after`, oldest first.
    ///
    /// # Errors
    /// `plugin.unknown`.
    pub fn plugin_log(&self, name: &str, after: u64) -> Result<Vec<LogLine>, Error> {
        let known = self.inner.plugins.read();
        match known.get(name) {
            Some(plugin) => Ok(plugin
                .running
                .as_ref()
                .map(|running| running.log(after))
                .unwrap_or_default()),
            None => Err(Error::new(Class::Permanent, "plugin.unknown")
                .with("name", busbar_event::quote(name))),
        }
    }

    /// Starts the plug-ins of a project that do not run yet as their files say, and runs their tests. What runs stays.
    ///
    /// # Errors
    /// Which do not start, and why; with `lenient` they are among the plug-ins, with their error.
    pub(super) async fn start_plugins(
        &self,
        project: &Project,
        lenient: bool,
    ) -> Result<BTreeMap<String, KnownPlugin>, Vec<Diagnostic>> {
        let mut plugins = BTreeMap::new();
        let mut bad = Vec::new();
        for (name, parsed) in &project.plugins {
            let running = self.inner.plugins.read().get(name).cloned();
            let hash = parsed.spec.hash();
            let same = running.filter(|known| {
                let running = known.running.as_ref();
                running.is_some_and(|running| running.hash() == hash)
            });
            if let Some(same) = same {
                plugins.insert(name.clone(), same);
                continue;
            }
            let package = Arc::new(parsed.spec.clone());
            let (inner, known_as, files) =
                (Arc::clone(&self.inner), name.clone(), Arc::clone(&package));
            let started = blocking(move || start(&inner, &known_as, &files)).await;
            let (running, failed) = match started {
                Ok(plugin) => (Some(Arc::new(plugin)), None),
                Err(error) => {
                    bad.push(placed(name, parsed, error.clone()));
                    (None, Some(error))
                }
            };
            let known = KnownPlugin {
                package,
                running,
                failed,
            };
            plugins.insert(name.clone(), known);
        }
        match bad.is_empty() || lenient {
            true => Ok(plugins),
            false => Err(bad),
        }
    }
}

pub(super) fn start(inner: &Inner, name: &str, package: &Package) -> Result<Plugin, Error> {
    let number = inner.runs.fetch_add(1, Ordering::Relaxed);
    let root = folder(inner).join(format!("{name}-{number:x}"));
    let tables = Arc::clone(&inner.options.tables);
    let host = Arc::new(TableHost(Box::new(move |name| tables.table(name))));
    let clock = Arc::clone(inner.options.bus.clock());
    let started = Plugin::start(
        name,
        package,
        &root,
        host,
        Arc::new(move || clock.now_micros()),
    );
    if started.is_err() {
        let _ = std::fs::remove_dir_all(&root);
    }
    started
}

/// The folder in which the files of running plug-ins are.
fn folder(inner: &Inner) -> PathBuf {
    inner.options.state_dir.with_file_name("plugins")
}

/// Deletes what plug-ins of an earlier process have left behind.
pub(super) fn clear(inner: &Inner) {
    let _ = std::fs::remove_dir_all(folder(inner));
}

/// The error at the line of the plug-in's file that it names, or at its own file.
pub(super) fn placed(name: &str, parsed: &Parsed<Package>, error: Error) -> Diagnostic {
    let of = |wanted: &str| {
        let mut args = error.args().iter();
        args.find(|(arg, _)| *arg == wanted)
            .map(|(_, value)| value.clone())
    };
    let (file, line) = (
        of("file"),
        of("line").and_then(|line| line.parse::<usize>().ok()),
    );
    if let (Some(file), Some(line)) = (file, line)
        && let Some(text) = parsed.spec.files.get(&file)
    {
        let mut start = 0;
        for (at, line_text) in text.split_inclusive('\n').enumerate() {
            let end = start + line_text.trim_end().len();
            if at + 1 == line {
                let path = format!("{}/{name}/{file}", Kind::Plugin.folder());
                return Diagnostic::new(&path, text, start..end, error);
            }
            start += line_text.len();
        }
    }
    match error.code() {
        "plugin.test-failed" => parsed.source.diagnostic_about(Some("tests"), error),
        _ => {
            let language = [PathItem::Key("language")];
            parsed.source.diagnostic(&language, None, error)
        }
    }
}

/// Answers requests of plug-ins from the tables of a node.
pub(crate) struct TableHost(pub TableByName);

/// Finds a table.
pub(crate) type TableByName = Box<dyn Fn(&str) -> Option<Arc<dyn Table>> + Send + Sync>;

impl PluginHost for TableHost {
    fn rows(&self, request: &TableRequest<'_>) -> Result<String, Error> {
        let new = |code| Error::new(Class::Permanent, code).with("table", &request.table);
        let table = (self.0)(&request.table);
        let table = table.ok_or_else(|| new("plugin.unknown-table"))?;
        let limit = request.limit.unwrap_or(TABLE_ROWS_MAX).min(TABLE_ROWS_MAX);
        if let Some(sql) = &request.sql {
            let parameters = request.parameters.iter();
            let parameters = parameters.map(|value| serde_json::from_str(value.get()));
            let parameters: Result<Vec<Json>, _> = parameters.collect();
            let parameters =
                parameters.map_err(|cause| new("plugin.bad-request").with("cause", cause))?;
            return table.query(sql, &parameters, limit);
        }
        let schema = table.schema();
        let mut conditions = Vec::with_capacity(request.conditions.len());
        for (name, value) in &request.conditions {
            let column = schema.index_of(name);
            let column = column.map_err(|_| new("plugin.unknown-column").with("column", name))?;
            if let Some(constant) = constant(value) {
                conditions.push(Condition {
                    column,
                    compare: Compare::Equal,
                    constant,
                });
            }
        }
        let scan = Scan {
            conditions,
            ..Scan::default()
        };
        let mut answer = String::from("[");
        let mut found = 0;
        for batch in table.scan(&scan)? {
            let batch = batch?;
            let arrays = batch.columns().iter().map(plain);
            let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
            let fields = batch.schema_ref().fields().iter().zip(&arrays);
            let fields = fields.map(|(field, array)| {
                let field = field.as_ref().clone();
                field.with_data_type(array.data_type().clone())
            });
            let columns = StructArray::try_new(fields.collect(), arrays.clone(), None);
            let columns = columns.map_err(|cause| new("flow.misfit").caused_by(cause))?;
            for row in encode_json(&columns).iter().flatten() {
                // An engine may use conditions, and need not.
                if !request.conditions.is_empty() && !fits(row, &request.conditions) {
                    continue;
                }
                if found == limit {
                    break;
                }
                if found > 0 {
                    answer.push(',');
                }
                answer.push_str(&String::from_utf8_lossy(row));
                found += 1;
            }
            if found == limit {
                break;
            }
        }
        answer.push(']');
        Ok(answer)
    }
}

fn constant(value: &Json) -> Option<Constant> {
    Some(match value {
        Json::Bool(value) => Constant::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Constant::Int(whole),
            None => Constant::Float(number.as_f64()?),
        },
        Json::String(text) => Constant::Text(text.clone()),
        _ => return None,
    })
}

fn fits(row: &[u8], conditions: &serde_json::Map<String, Json>) -> bool {
    let Ok(Json::Object(row)) = serde_json::from_slice(row) else {
        return false;
    };
    conditions.iter().all(|(name, wanted)| {
        let found = row.get(name).unwrap_or(&Json::Null);
        match (wanted, found) {
            (Json::Number(a), Json::Number(b)) => a == b || a.as_f64() == b.as_f64(),
            (a, b) => a == b,
        }
    })
}
