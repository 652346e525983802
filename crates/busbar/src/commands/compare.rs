//! `busbar compare`: two tables row by row, and the second one put right by the first.

use busbar_event::{Class, Error};
use serde_json::{Map, Value, json};

use crate::client::NodeArgs;
use crate::exit::{self, Failure};
use crate::say;

/// Compare two tables of unlike systems, and put the second one right.
///
/// A table is written CONNECTION:TABLE or CONNECTION:SCHEMA.TABLE where it is on the other side of a connection, and by its
/// name where it is one of the node.
#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// The first table.
    a: String,
    /// The second table.
    b: String,
    /// Columns that tell rows apart; by default the first table's primary key.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    key: Vec<String>,
    /// Columns to compare; by default all that both tables have.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    columns: Vec<String>,
    /// How a column is called in the second table: ID=pid.
    #[arg(long, value_name = "PAIR", value_delimiter = ',')]
    rename: Vec<String>,
    /// Number of differing keys to list.
    #[arg(long, value_name = "COUNT")]
    listed: Option<usize>,
    /// Show counts and checksums by ranges of keys.
    #[arg(long)]
    ranges: bool,
    /// Write rows of the first table to the second where they differ.
    #[arg(long)]
    repair: bool,
    /// Delete rows that only the second table has, too.
    #[arg(long, requires = "repair")]
    delete: bool,
}

/// Runs `busbar compare`.
pub fn run(args: &CompareArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let mut rename = Map::new();
    for pair in &args.rename {
        let Some((from, to)) = pair.split_once('=') else {
            let error = Error::new(Class::Configuration, "cli.compare-rename").with("text", pair);
            return Err(Failure::new(exit::USAGE, error));
        };
        rename.insert(from.to_owned(), json!(to));
    }
    let asked = json!({
        "a": args.a, "b": args.b, "key": args.key, "columns": args.columns, "rename": rename,
        "listed": args.listed, "repair": args.repair, "delete": args.delete,
    });
    let found = node.post("/api/v1/compare", &asked)?;
    let count = |member: &str| found[member].as_u64().unwrap_or(0);
    if json {
        println!("{found}");
    } else {
        tell(args, &found);
    }
    // What was put right is no difference any more.
    let left = count("different") + count("only_a") + count("only_b");
    let left = left.saturating_sub(count("repaired") + count("deleted"));
    if left == 0 {
        return Ok(());
    }
    let error = Error::new(Class::Permanent, "cli.compare-differs").with("count", left);
    Err(Failure::new(exit::FOUND, error).answered())
}

fn tell(args: &CompareArgs, found: &Value) {
    if args.ranges {
        let columns = ["from", "to", "rows_a", "rows_b", "checksum_a", "checksum_b"];
        say::list(&found["ranges"], &columns, "cli.compare-no-rows");
    }
    if found["keys"]
        .as_array()
        .is_some_and(|keys| !keys.is_empty())
    {
        say::list(
            &found["keys"],
            &["key", "state", "columns"],
            "cli.compare-no-rows",
        );
    }
    let list = |member: &str| {
        let names = found[member].as_array().into_iter().flatten();
        names.map(say::cell).collect::<Vec<_>>().join(", ")
    };
    if found["left_out"]
        .as_array()
        .is_some_and(|names| !names.is_empty())
    {
        let args = [("names", list("left_out")), ("table", args.b.clone())];
        println!("{}", say::line("cli.compare-left-out", &args));
    }
    let members = [
        "rows_a",
        "rows_b",
        "equal",
        "different",
        "only_a",
        "only_b",
        "repaired",
        "deleted",
        "refused",
    ];
    let mut counts: Vec<_> = members
        .map(|member| (member, say::cell(&found[member])))
        .into();
    counts.push(("a", args.a.clone()));
    counts.push(("b", args.b.clone()));
    println!("{}", say::line("cli.compared", &counts));
    if args.repair {
        println!("{}", say::line("cli.compare-repaired", &counts));
    }
    if !found["refusal"].is_null() {
        println!("{}", say::told(&found["refusal"]));
    }
}
