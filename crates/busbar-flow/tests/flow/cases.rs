//! Case files: each is a project whose flows have tests. The tests must give the same when every task is thrown away and
//! restored from its state after each batch, and when their events lie in a log and a run over all of it computes the rows.

use std::collections::BTreeMap;
use std::path::Path;

use busbar_catalog::{Bundle, Project};
use busbar_connector::Connectors;
use busbar_flow::{Report, check, run_tests, run_tests_over_history, run_tests_restored};
use serde_json::Value;

fn project(text: &str) -> Project {
    let files: BTreeMap<String, Value> = serde_saphyr::from_str(text).unwrap();
    let files = files
        .into_iter()
        .map(|(path, file)| (path, file.to_string()));
    let (project, bad) = Project::parse(Bundle {
        files: files.collect(),
    });
    assert!(bad.is_empty(), "{bad:?}");
    let bad = check(&project, &Connectors::default());
    assert!(bad.is_empty(), "{bad:?}");
    project
}

fn assert_passed(report: &Report, file: &str) {
    for test in &report.tests {
        let differences = test.differences.iter().map(ToString::to_string);
        let differences: Vec<String> = differences.collect();
        let (flow, test) = (&test.flow, &test.test);
        assert!(
            differences.is_empty(),
            "{file}, {flow}, {test}: {differences:#?}"
        );
    }
}

#[test]
fn cases_give_what_they_say_also_when_restored_and_over_history() {
    let state = tempfile::tempdir().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let (mut cases, mut over_history) = (0, 0);
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let project = project(&std::fs::read_to_string(&path).unwrap());
        let report = run_tests(&project, &Connectors::default(), None);
        assert!(!report.tests.is_empty(), "{name} has no tests");
        assert_passed(&report, &name);
        let restored = run_tests_restored(&project, &Connectors::default());
        assert_passed(&restored, &format!("{name}, restored"));
        let connectors = Connectors::default();
        let history = run_tests_over_history(&project, &connectors, &state.path().join(&name));
        assert_passed(&history, &format!("{name}, over history"));
        cases += report.tests.len();
        over_history += history.tests.len();
    }
    // All but those that change a table from which a join takes the latest rows.
    assert!(cases >= 40, "{cases}");
    assert_eq!(over_history, cases - 1);
}
