//! `busbar connections`: the connections of a node, whether the other side answers, and the tables that are there.

use clap_complete::ArgValueCandidates;
use serde_json::{Value, json};

use crate::client::{NodeArgs, escape};
use crate::exit::Failure;
use crate::{complete, say};

/// List connections, test them, and browse the tables of databases.
#[derive(Debug, clap::Args)]
pub struct ConnectionsArgs {
    #[command(subcommand)]
    command: Option<ConnectionsCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum ConnectionsCommand {
    /// List all connections; the same as without a command.
    List,
    /// Ask the other side of a connection whether it answers, and what it is.
    Test {
        /// The connection.
        #[arg(add = ArgValueCandidates::new(complete::connections))]
        connection: String,
    },
    /// Take the snapshot of a followed table anew, while the changes of others go on.
    Snapshot {
        /// The connection.
        #[arg(add = ArgValueCandidates::new(complete::connections))]
        connection: String,
        /// The table, as schema.table.
        table: String,
    },
    /// List the tables of a connection's database.
    Tables {
        /// The connection.
        #[arg(add = ArgValueCandidates::new(complete::connections))]
        connection: String,
        /// Show the columns of the tables, too.
        #[arg(long)]
        columns: bool,
    },
}

/// Runs `busbar connections`.
pub fn run(args: &ConnectionsArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let command = args.command.as_ref().unwrap_or(&ConnectionsCommand::List);
    let path =
        |connection: &str, rest: &str| format!("/api/v1/connections/{}/{rest}", escape(connection));
    let answer = match command {
        ConnectionsCommand::List => node.get("/api/v1/connections")?,
        ConnectionsCommand::Test { connection } => {
            node.post(&path(connection, "test"), &json!({}))?
        }
        ConnectionsCommand::Snapshot { connection, table } => {
            node.post(&path(connection, "snapshot"), &json!({ "table": table }))?
        }
        ConnectionsCommand::Tables { connection, .. } => node.get(&path(connection, "tables"))?,
    };
    if json {
        println!("{answer}");
        return Ok(());
    }
    match command {
        ConnectionsCommand::List => {
            let columns = [
                "name",
                "kind",
                "direction",
                "state",
                "in",
                "out",
                "lag_bytes",
                "lag_events",
            ];
            let connections = Value::Array(with_lag(&answer["connections"]));
            say::list(&connections, &columns, "cli.no-connections");
            let snapshots = with_connection(&answer["connections"], "snapshots");
            if !snapshots.is_empty() {
                let columns = [
                    "connection",
                    "table",
                    "state",
                    "rows",
                    "expected",
                    "counted",
                ];
                println!();
                say::list(&Value::Array(snapshots), &columns, "cli.no-connections");
            }
            for alarm in with_connection(&answer["connections"], "alarms") {
                let text = |member: &str| say::cell(&alarm[member]);
                println!("{}: {}", text("connection"), say::told(&alarm));
            }
        }
        ConnectionsCommand::Snapshot { connection, table } => {
            let args = [("connection", connection.clone()), ("table", table.clone())];
            println!("{}", say::line("cli.snapshot-begins", &args));
        }
        ConnectionsCommand::Test { connection } => {
            let text = |member: &str| say::cell(&answer[member]);
            let args = [
                ("connection", connection.clone()),
                ("server", text("server")),
                ("elapsed_ms", text("elapsed_ms")),
            ];
            println!("{}", say::line("cli.connection-answers", &args));
        }
        ConnectionsCommand::Tables { columns: false, .. } => {
            say::list(
                &answer["tables"],
                &["schema", "name", "rows"],
                "cli.no-tables-there",
            );
        }
        ConnectionsCommand::Tables { columns: true, .. } => {
            say::list(
                &Value::Array(flat(&answer["tables"])),
                &["schema", "table", "name", "type", "key"],
                "cli.no-tables-there",
            );
        }
    }
    Ok(())
}

/// Connections with the events that have not come as one number, where the other side counts them.
fn with_lag(connections: &Value) -> Vec<Value> {
    let connections = connections.as_array().into_iter().flatten();
    connections
        .map(|connection| {
            let mut connection = connection.clone();
            let parts = connection["lag_events"].as_object();
            let counts = parts.into_iter().flat_map(|parts| parts.values());
            let counts: Vec<u64> = counts.filter_map(Value::as_u64).collect();
            connection["lag_events"] = match counts.is_empty() {
                true => Value::Null,
                false => counts.into_iter().sum::<u64>().into(),
            };
            connection
        })
        .collect()
}

/// What all connections have under a name, each with its connection.
fn with_connection(connections: &Value, member: &str) -> Vec<Value> {
    let connections = connections.as_array().into_iter().flatten();
    connections
        .flat_map(|connection| {
            let all = connection[member].as_array().into_iter().flatten();
            all.map(|one| {
                let mut one = one.clone();
                one["connection"] = connection["name"].clone();
                one
            })
        })
        .collect()
}

/// The columns of all tables, each with its table.
fn flat(tables: &Value) -> Vec<Value> {
    let tables = tables.as_array().into_iter().flatten();
    tables
        .flat_map(|table| {
            let columns = table["columns"].as_array().into_iter().flatten();
            columns.map(|column| {
                let mut column = column.clone();
                column["schema"] = table["schema"].clone();
                column["table"] = table["name"].clone();
                column
            })
        })
        .collect()
}
