//! `busbar audit`: who changed what on a node.

use crate::client::{NodeArgs, escape};
use crate::exit::Failure;
use crate::say;

/// Who changed what: users, tokens, projects, flows, dead letters.
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    /// Only changes by this user. (`--user` is the login of this command.)
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Only this action, such as `user.add`, or a group of actions, such as `user`.
    #[arg(long)]
    action: Option<String>,
    /// Only changes of this user, token, flow or version.
    #[arg(long)]
    target: Option<String>,
    /// Most entries to print.
    #[arg(long, default_value_t = ENTRIES)]
    limit: u64,
    /// Entries before this one, by its id.
    #[arg(long, value_name = "ID")]
    before: Option<String>,
}

/// Entries that are printed by default.
const ENTRIES: u64 = 50;

/// Asks the node and prints.
pub fn run(args: &AuditArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let mut path = format!("/api/v1/audit?limit={}", args.limit);
    for (name, value) in [
        ("user", &args.by),
        ("action", &args.action),
        ("target", &args.target),
        ("before", &args.before),
    ] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", escape(value)));
        }
    }
    let answer = node.get(&path)?;
    if json {
        println!("{answer}");
        return Ok(());
    }
    let message = match say::language() {
        busbar_event::Language::Zh => "message_zh",
        busbar_event::Language::En => "message",
    };
    let columns = ["id", "time", "user", "origin", "peer", message];
    say::list(&answer["entries"], &columns, "cli.no-changes");
    if let Some(next) = answer["next"].as_str() {
        println!(
            "{}",
            say::line("cli.more-changes", &[("id", next.to_owned())])
        );
    }
    Ok(())
}
