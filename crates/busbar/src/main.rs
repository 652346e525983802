//! The command line and the process: parses arguments, runs one command, ends with a code that
//! [`exit`] documents.

// First, because the macros of this module stand in place of the standard library's.
#[macro_use]
mod output;

mod bench;
mod client;
mod commands;
mod complete;
mod exit;
mod help;
mod login;
mod memory;
mod prompt;
mod report;
mod say;
mod trust;
mod unreachable;
mod usage;

use std::process::ExitCode;

use busbar_event::{Class, Error};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use client::NodeArgs;
use commands::{
    apis, apply, audit, check, compare, connections, copy_table, dead_letters, doctor, flows,
    gateways, orchestrations, plugins, process, pull, reference, run, schema, sql, tap, test, top,
    trace, users,
};
use exit::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes an organisation's events in, keeps them, works on them while they move, shows them live.
#[derive(Debug, Parser)]
#[command(name = "busbar", version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
    /// How times are shown to people: utc, local, or relative to now; JSON and CSV always have UTC.
    #[arg(
        long,
        global = true,
        env = "BUSBAR_TIMES",
        value_enum,
        default_value = "utc"
    )]
    times: say::Times,
    #[command(flatten)]
    node: NodeArgs,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 all went well · 1 something was found wrong · 2 usage · \
69 no node there, or its port is taken · 73 the data folder cannot be written · 74 the disk failed · \
75 try again later · 76 a data folder of a newer version · 77 not allowed · 78 a setting or file must be changed";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Check(check::CheckArgs),
    Test(test::TestArgs),
    Apply(apply::ApplyArgs),
    Pull(pull::PullArgs),
    Sql(sql::SqlArgs),
    Tap(tap::TapArgs),
    Top(top::TopArgs),
    Apis(apis::ApisArgs),
    Connections(connections::ConnectionsArgs),
    Compare(compare::CompareArgs),
    CopyTable(copy_table::CopyTableArgs),
    Flows(flows::FlowsArgs),
    Gateways(gateways::GatewaysArgs),
    Orchestrations(orchestrations::OrchestrationsArgs),
    Plugin(plugins::PluginArgs),
    Process(process::ProcessArgs),
    Trace(trace::TraceArgs),
    Replay(flows::ReplayArgs),
    Explain(flows::ExplainArgs),
    DeadLetters(dead_letters::DeadLettersArgs),
    Doctor(doctor::DoctorArgs),
    /// Measure this program on this machine.
    Bench(bench::BenchArgs),
    User(users::UserArgs),
    Token(users::TokenArgs),
    Login(users::LoginArgs),
    /// Forget the stored login, and revoke its token.
    Logout,
    Audit(audit::AuditArgs),
    Schema(schema::SchemaArgs),
    #[command(hide = true)]
    Reference(reference::ReferenceArgs),
    /// Print what a shell needs to complete commands, options and names of a node.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some(busbar_plugin::XML_WORKER) => {
            return busbar_plugin::run_xml_worker(&arguments.next().unwrap_or_default());
        }
        Some(busbar_connect::ODBC_HOST) => return busbar_connect::run_odbc_host(),
        _ => {}
    }
    complete::answer();
    let mut program = help::in_language(Cli::command(), say::language());
    let parsed = program.try_get_matches_from_mut(std::env::args_os());
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage::refuse(&error)),
    };
    if !matches!(cli.command, Command::Run(_) | Command::Bench(_)) {
        restore_pipes();
    }
    say::set_times(cli.times);
    let code = match dispatch(&cli) {
        Ok(()) => exit::OK,
        Err(failure) => {
            failure.print(cli.json);
            failure.code
        }
    };
    output::flush();
    ExitCode::from(code)
}

fn dispatch(cli: &Cli) -> Result<(), Failure> {
    let (node, json) = (&cli.node, cli.json);
    match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args, json),
        Command::Test(args) => test::run(args, json),
        Command::Plugin(args) => plugins::run(args, node, json),
        Command::Process(args) => process::run(args, json),
        Command::Apply(args) => apply::run(args, node, json),
        Command::Pull(args) => pull::run(args, node, json),
        Command::Sql(args) => sql::run(args, node, json),
        Command::Tap(args) => tap::run(args, node, json),
        Command::Top(args) => top::run(args, node, json),
        Command::Apis(args) => apis::run(args, node, json),
        Command::Connections(args) => connections::run(args, node, json),
        Command::Compare(args) => compare::run(args, node, json),
        Command::CopyTable(args) => copy_table::run(args, node, json),
        Command::Flows(args) => flows::run(args, node, json),
        Command::Gateways(args) => gateways::run(args, node, json),
        Command::Orchestrations(args) => orchestrations::run(args, node, json),
        Command::Trace(args) => trace::run(args, node, json),
        Command::Replay(args) => flows::replay(args, node, json),
        Command::Explain(args) => flows::explain(args, node, json),
        Command::DeadLetters(args) => dead_letters::run(args, node, json),
        Command::Doctor(args) => doctor::run(args, json),
        Command::Bench(args) => bench::run(args, json).map_err(|why| {
            Failure::new(
                exit::FOUND,
                Error::new(Class::Transient, "cli.refused").with("text", why),
            )
        }),
        Command::User(args) => users::user(args, node, json),
        Command::Token(args) => users::token(args, node, json),
        Command::Login(args) => users::login(args, node, json),
        Command::Logout => users::logout(node, json),
        Command::Audit(args) => audit::run(args, node, json),
        Command::Schema(args) => schema::run(args, json),
        Command::Reference(args) => reference::run(args, &Cli::command()),
        Command::Completions { shell } => complete::register(*shell),
    }
}

/// `busbar sql … | head` ends quietly when `head` has enough, as other commands do. Rust ignores
/// SIGPIPE, which would make a panic of it. Only for commands that print: a server must survive
/// peers that go away.
fn restore_pipes() {
    // SAFETY: called before this program starts any thread; SIG_DFL is a valid disposition for SIGPIPE.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
