//! `busbar test`: runs the tests in the files of flows and plug-ins.

use std::path::PathBuf;

use busbar_catalog::has_errors;
use busbar_event::{Class, Error};
use busbar_flow::Difference;
use serde_json::Value;

use crate::commands::check;
use crate::exit::{self, Failure};
use crate::say;

/// Run the tests in the files of a project's flows and plug-ins.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// The project's folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Only this flow's tests.
    #[arg(long)]
    flow: Option<String>,
    /// Only this plug-in's tests.
    #[arg(long, conflicts_with = "flow")]
    plugin: Option<String>,
}

/// Runs the tests and prints what differs.
pub fn run(args: &TestArgs, json: bool) -> Result<(), Failure> {
    let (project, diagnostics) = check::load(&args.dir);
    let Some(project) = project.filter(|_| !has_errors(&diagnostics)) else {
        check::tell(&diagnostics, json);
        return Err(check::wrong(exit::CONFIGURATION, &diagnostics).answered());
    };
    if let Some(flow) = &args.flow
        && !project.flows.contains_key(flow)
    {
        let error = Error::new(Class::Configuration, "cli.no-such-flow").with("flow", flow);
        return Err(Failure::new(exit::CONFIGURATION, error));
    }
    if let Some(plugin) = &args.plugin
        && !project.plugins.contains_key(plugin)
    {
        let error = Error::new(Class::Configuration, "plugin.unknown").with("name", plugin);
        return Err(Failure::new(exit::CONFIGURATION, error));
    }
    let connectors = check::connectors(&args.dir);
    let mut report = match &args.plugin {
        None => busbar_flow::run_tests(&project, &connectors, args.flow.as_deref()),
        Some(_) => busbar_flow::Report::default(),
    };
    if args.flow.is_none() {
        let of_plugins = busbar_flow::test_plugins(&project, args.plugin.as_deref());
        report.tests.extend(of_plugins);
    }
    let failed = report.tests.iter().filter(|test| !test.passed).count();
    if json {
        println!("{}", serde_json::json!({ "tests": report.tests }));
    } else {
        for test in &report.tests {
            let mark = if test.passed {
                "cli.test-passed"
            } else {
                "cli.test-failed"
            };
            println!("{}  {} / {}", say::line(mark, &[]), test.flow, test.test);
            for line in told(&test.differences).lines() {
                println!("         {line}");
            }
        }
        let counts = [
            ("passed", (report.tests.len() - failed).to_string()),
            ("failed", failed.to_string()),
        ];
        println!("{}", say::line("cli.tests", &counts));
    }
    if failed > 0 {
        let error = Error::new(Class::Permanent, "cli.tests-failed").with("count", failed);
        return Err(Failure::new(exit::FOUND, error).answered());
    }
    Ok(())
}

/// What differs: rows as a table, and below it what is not about rows, a line each.
fn told(differences: &[Difference]) -> String {
    let cells: Vec<Option<DifferenceLine>> = differences.iter().map(DifferenceLine::of).collect();
    let rows: Vec<&DifferenceLine> = cells.iter().flatten().collect();
    let mut text = String::new();
    if !rows.is_empty() {
        let head = ["output", "row", "column", "expected", "actual"];
        // Only routes say to which output a row belongs, and only values in which column they are.
        let wanted = [
            rows.iter().any(|cells| !cells.output.is_empty()),
            true,
            rows.iter().any(|cells| !cells.column.is_empty()),
            true,
            true,
        ];
        let kept = |all: [String; 5]| -> Vec<String> {
            let each = all.into_iter().zip(wanted);
            each.filter_map(|(cell, wanted)| wanted.then_some(cell))
                .collect()
        };
        let head = kept(head.map(|name| say::line(&format!("cli.test-head-{name}"), &[])));
        let rows = rows.into_iter().map(|cells| {
            kept([
                cells.output.clone(),
                cells.row.to_string(),
                cells.column.clone(),
                cells.expected.clone(),
                cells.actual.clone(),
            ])
        });
        text.push_str(&say::table(&head, &rows.collect::<Vec<_>>()));
    }
    for (difference, cells) in differences.iter().zip(&cells) {
        if cells.is_none() {
            text.push_str(&difference.text(say::language()));
            text.push('\n');
        }
    }
    text
}

/// A difference between rows, as a line of a table.
struct DifferenceLine {
    output: String,
    row: usize,
    /// Empty where the whole row differs.
    column: String,
    expected: String,
    actual: String,
}

impl DifferenceLine {
    fn of(difference: &Difference) -> Option<DifferenceLine> {
        let no_row = || say::line("cli.test-no-row", &[]);
        let cells = |row: &usize, column: &str, expected: String, actual: String| DifferenceLine {
            output: String::new(),
            row: *row,
            column: column.to_owned(),
            expected,
            actual,
        };
        Some(match difference {
            Difference::Missing { row, expected } => cells(row, "", shown(expected), no_row()),
            Difference::Unexpected { row, actual } => cells(row, "", no_row(), shown(actual)),
            Difference::Different {
                row,
                column,
                expected,
                actual,
            } => cells(row, column, shown(expected), shown(actual)),
            Difference::Output { output, difference } => DifferenceLine {
                output: output.clone(),
                ..DifferenceLine::of(difference)?
            },
            _ => return None,
        })
    }
}

/// A value as JSON, on one line: `"5"` is a text and `5` a number.
fn shown(value: &Value) -> String {
    value.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_that_differ_stand_in_a_table() {
        let differences = [
            Difference::Different {
                row: 1,
                column: "level".to_owned(),
                expected: json!(6.5),
                actual: json!("6.5"),
            },
            Difference::Missing {
                row: 2,
                expected: json!({ "site": "b" }),
            },
            Difference::Dead {
                expected: 0,
                actual: 1,
                causes: vec!["decode: no JSON".to_owned()],
            },
        ];
        assert_eq!(
            told(&differences),
            "row  column  expected      got\n  1  level   6.5           \"6.5\"\n  2          {\"site\":\"b\"}  no row\n\
             dead letters: 1, expected 0\n  decode: no JSON\n"
        );
        let of_output = |difference| Difference::Output {
            output: "b".to_owned(),
            difference: Box::new(difference),
        };
        let rows = [of_output(Difference::Unexpected {
            row: 3,
            actual: json!({ "n": 1 }),
        })];
        assert_eq!(
            told(&rows),
            "output  row  expected  got\nb         3  no row    {\"n\":1}\n"
        );
        assert_eq!(told(&[]), "");
    }
}
