//! Plug-ins in tests: started for the flows that are tested, and tested themselves.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use busbar_catalog::{Project, StepSpec};
use busbar_event::{Error, Language};
use busbar_plugin::{NoTables, Package, Plugin, PluginHost, run_plugin_tests};

use super::{BEGIN_MICROS, Difference, TestReport};
use crate::compile::World;
use crate::runtime::TableHost;

/// Runs the tests in the files of a project's plug-ins, or of one of them. Blocks.
pub fn test_plugins(project: &Project, only: Option<&str>) -> Vec<TestReport> {
    let mut reports = Vec::new();
    for (name, plugin) in &project.plugins {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let began = std::time::Instant::now();
        let mut report = |test: String, errors: &[Error]| {
            let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            reports.push(TestReport {
                flow: format!("plugins/{name}"),
                test,
                passed: errors.is_empty(),
                differences: errors.iter().map(failed).collect(),
                micros,
            });
        };
        match load(name, &plugin.spec, Arc::new(NoTables)) {
            Ok(plugin) => {
                for tested in run_plugin_tests(&plugin) {
                    report(tested.test, &tested.differences);
                }
            }
            Err(error) => report("start".to_owned(), &[error]),
        }
    }
    reports
}

/// Starts the plug-ins that flows with tests use, for the world of a test.
pub(super) fn start_plugins(project: &Project, world: &mut World, only: Option<&str>) {
    let tables = world.tables.clone();
    let host: Arc<dyn PluginHost> =
        Arc::new(TableHost(Box::new(move |name| tables.get(name).cloned())));
    for (name, known) in &mut world.plugins {
        let uses = |step: &StepSpec| step.plugin() == Some(name);
        let is_used = project.flows.iter().any(|(flow, parsed)| {
            only.is_none_or(|only| only == flow)
                && !parsed.spec.tests.is_empty()
                && parsed.spec.all_steps().iter().any(|step| uses(step.spec))
        });
        if is_used {
            match load(name, &known.package, Arc::clone(&host)) {
                Ok(plugin) => known.running = Some(Arc::new(plugin)),
                Err(error) => known.failed = Some(error),
            }
        }
    }
}

fn load(name: &str, package: &Package, host: Arc<dyn PluginHost>) -> Result<Plugin, Error> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let root: PathBuf = std::env::temp_dir().join(format!("busbar-plugin-{process}-{number}"));
    let loaded = Plugin::load(name, package, &root, host, Arc::new(|| BEGIN_MICROS));
    if loaded.is_err() {
        let _ = std::fs::remove_dir_all(&root);
    }
    loaded
}

fn failed(error: &Error) -> Difference {
    let text = |language| {
        let message = error.message(language);
        match std::error::Error::source(error) {
            Some(cause) => format!("{message}: {cause}"),
            None => message,
        }
    };
    Difference::Failed {
        message: text(Language::En),
        message_zh: text(Language::Zh),
    }
}
