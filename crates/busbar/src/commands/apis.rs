//! `busbar apis`: the APIs of a node.

use clap_complete::ArgValueCandidates;

use crate::client::{NodeArgs, escape};
use crate::exit::Failure;
use crate::{complete, say};

/// List the APIs of a node, and describe them.
#[derive(Debug, clap::Args)]
pub struct ApisArgs {
    #[command(subcommand)]
    command: Option<ApisCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum ApisCommand {
    /// List all APIs that one may call, with their counts; the same as without a command.
    List,
    /// Print the OpenAPI document of an API.
    Describe {
        /// The API.
        #[arg(add = ArgValueCandidates::new(complete::apis))]
        api: String,
    },
}

/// Runs `busbar apis`.
pub fn run(args: &ApisArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    match args.command.as_ref().unwrap_or(&ApisCommand::List) {
        ApisCommand::List => {
            let answer = node.get("/api/v1/apis")?;
            if json {
                println!("{answer}");
                return Ok(());
            }
            let columns = [
                "name",
                "work",
                "path",
                "service",
                "in_flight",
                "answered_total",
                "late_total",
                "refused_total",
                "failed_total",
                "description",
            ];
            say::list(&answer["apis"], &columns, "cli.no-apis");
        }
        ApisCommand::Describe { api } => {
            let document = node.get(&format!("/apis/{}/openapi.json", escape(api)))?;
            match json {
                true => println!("{document}"),
                false => println!("{document:#}"),
            }
        }
    }
    Ok(())
}
