//! The tests in flow files: what passes, and what a failure says.

use crate::common::project;
use busbar_connector::Connectors;
use busbar_flow::{Difference, check, run_tests};
use serde_json::json;

const IN: (&str, &str) = (
    "streams/rain.yaml",
    "topics: gauge/+/rain\nformat: json\nschema: { site: text, level_mm: int }\n",
);

fn differences(flow: &str) -> Vec<Difference> {
    let project = project(&[IN, ("flows/f.yaml", flow)]);
    let report = run_tests(&project, &Connectors::default(), None);
    assert_eq!(report.tests.len(), 1);
    assert_eq!(report.passed(), report.tests[0].differences.is_empty());
    report.tests[0].differences.clone()
}

const FLOW: &str = "from: rain\nsteps:\n  - where: level_mm >= 50\n  - select: site, level_mm / 10.0 as level_cm\n\
                    to:\n  - topic: alarm/${site}/rain\n";

#[test]
fn rows_and_events_are_compared_as_people_see_them() {
    for test in [
        // As rows: some columns, numbers by value.
        "tests:\n  - given:\n    - { payload: { site: a, level_mm: 60 } }\n    - { advance: 2m }\n    - { payload: { site: b, level_mm: 1 } }\n    expect: [{ site: a, level_cm: 6 }]\n",
        // As events.
        "tests:\n  - given: [{ topic: gauge/g/rain, payload: { site: a, level_mm: 60 } }]\n    expect: [{ topic: alarm/a/rain, payload: { level_cm: 6.0 } }]\n",
        // Dead letters that were expected.
        "tests:\n  - given: [{ payload: 'no json' }, { payload: { level_mm: 99 } }]\n    expect: [{ level_cm: 9.9 }]\n    dead: 2\n",
        "tests:\n  - given: [{ payload: 'no json' }, { payload: { level_mm: 99 } }]\n    expect: [{ level_cm: 9.9 }]\n    dead: [{ place: to:0, code: flow.template-null }, { place: decode }]\n",
        // A column that is not there is null.
        "tests:\n  - given: [{ payload: { site: a, level_mm: 61 } }]\n    expect: [{ level_cm: 6.1, none: null }]\n",
        // As people write numbers.
        "tests:\n  - given: [{ payload: { site: a, level_mm: 63 } }]\n    expect: [{ level_cm: 6.3000000001 }]\n",
        "tests:\n  - given: []\n",
    ] {
        let found = differences(&format!("{FLOW}{test}"));
        assert_eq!(found, [], "{test}");
    }
}

#[test]
fn a_failure_says_what_was_expected_and_what_came() {
    let test = "tests:\n  - name: rain\n    given:\n    - { payload: { site: a, level_mm: 60 } }\n    - { payload: { site: b, level_mm: 70 } }\n    - { payload: '{' }\n    expect: [{ site: x, level_cm: 6 }]\n";
    let found = differences(&format!("{FLOW}{test}"));
    let text: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(text[0], r#"row 1, site: expected "x", got "a""#);
    assert_eq!(
        found[1],
        Difference::Unexpected {
            row: 2,
            actual: json!({ "site": "b", "level_cm": 7.0 })
        }
    );
    assert!(
        text[2].starts_with("dead letters: 1, expected 0\n"),
        "{text:?}"
    );
    let test = "tests:\n  - given: [{ topic: other/topic, payload: {} }]\n";
    let found = differences(&format!("{FLOW}{test}"));
    assert!(matches!(&found[0], Difference::Failed { .. }), "{found:?}");
    let test = "tests:\n  - given: []\n    expect: [{ site: a }]\n";
    let found = differences(&format!("{FLOW}{test}"));
    assert_eq!(
        found,
        [Difference::Missing {
            row: 1,
            expected: json!({ "site": "a" })
        }]
    );
}

#[test]
fn what_passes_through_is_compared_by_its_payload() {
    let flow = "from: rain\nsteps:\n  - where: level_mm >= 50\nto:\n  - topic: copy/${topic}\n\
                tests:\n  - given: [{ topic: gauge/g/rain, payload: { site: a, level_mm: 60, more: [1] } }]\n    expect: [{ site: a, more: [1], topic: gauge/g/rain }]\n";
    assert_eq!(differences(flow), []);
}

#[test]
fn checking_points_into_the_file() {
    let flow = "from: rain\nsteps:\n  - where: >-\n      level_mm >= 50\n      and levelmm < 90\nto:\n  - table: t\n";
    let project = project(&[
        IN,
        ("tables/t.yaml", "hot: {}\nkey: [sit]\n"),
        ("flows/f.yaml", flow),
    ]);
    let bad = check(&project, &Connectors::default());
    assert_eq!(
        (bad.len(), bad[0].word(), bad[0].line_column()),
        (1, "levelmm", (5, 11))
    );
    assert_eq!(bad[0].help().unwrap().args()[0].1, "level_mm");
    let flow = flow.replace("levelmm", "level_mm");
    let project = crate::common::project(&[
        IN,
        ("tables/t.yaml", "hot: {}\nkey: [sit]\n"),
        ("flows/f.yaml", &flow),
    ]);
    let bad = check(&project, &Connectors::default());
    assert_eq!(
        (bad[0].error().code(), bad[0].word()),
        ("flow.table-key", "t")
    );
    assert_eq!(bad[0].help().unwrap().args()[0].1, "site");
}

#[test]
fn dead_letters_that_were_expected_are_told_apart() {
    let test = |dead: &str| {
        let given = "[{ payload: 'no json' }, { payload: { level_mm: 99 } }]";
        let test = format!(
            "tests:\n  - given: {given}\n    expect: [{{ level_cm: 9.9 }}]\n    dead: {dead}\n"
        );
        let found = differences(&format!("{FLOW}{test}"));
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let wrong = test("[{ place: decode }, { place: step:1 }]");
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert_eq!(
        wrong[0],
        "no dead letter came that is {\"place\":\"step:1\"}\n  \
         to:0: the column \"site\" has no value, so there is no topic or key [flow.template-null]"
    );
    let few = test("[{ message: no value }]");
    assert!(
        few[0].starts_with("dead letters: 2, expected 1\n  decode: "),
        "{few:?}"
    );
    assert_eq!(test("[{ message: 没有值 }, {}]"), Vec::<String>::new());
    // Whole numbers are exact, others to nine places.
    let number = |level: &str, expected: &str| {
        let test = format!(
            "tests:\n  - given: [{{ payload: {{ site: a, level_mm: {level} }} }}]\n    expect: [{{ n: {expected} }}]\n"
        );
        let flow = "from: rain\nsteps:\n  - select: site, level_mm as n, 0.1 * level_mm as m\nto:\n  - topic: alarm/${site}/rain\n";
        let flow = match expected.contains('.') {
            true => flow.replace(
                "level_mm as n, 0.1 * level_mm as m",
                "0.1 * level_mm + 0.2 as n",
            ),
            false => flow.to_owned(),
        };
        differences(&format!("{flow}{test}")).len()
    };
    assert_eq!(number("9007199254740993", "9007199254740993"), 0);
    assert_eq!(number("9007199254740993", "9007199254740992"), 1);
    assert_eq!(number("1", "0.3"), 0);
    assert_eq!(number("1", "0.30001"), 1);
}
