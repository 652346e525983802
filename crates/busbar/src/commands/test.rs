//! `busbar test`: runs the tests in flow files.

use std::path::PathBuf;

use busbar_catalog::has_errors;
use busbar_event::{Class, Error};

use crate::commands::check;
use crate::exit::{self, Failure};
use crate::say;

/// Run the tests in a project's flow files.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// The project's folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Only this flow's tests.
    #[arg(long)]
    flow: Option<String>,
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
    let connectors = check::connectors(&args.dir);
    let report = busbar_flow::run_tests(&project, &connectors, args.flow.as_deref());
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
            for difference in &test.differences {
                for line in difference.text(say::language()).lines() {
                    println!("         {line}");
                }
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
