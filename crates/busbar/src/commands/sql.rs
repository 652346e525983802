//! `busbar sql`: one query, its rows as a table, CSV or JSON.

use serde_json::{Value, json};

use crate::client::NodeArgs;
use crate::exit::Failure;
use crate::say;

/// Ask streams and tables in SQL.
#[derive(Debug, clap::Args)]
pub struct SqlArgs {
    /// The query, such as "select * from inbox limit 10".
    query: String,
    /// Rows to fetch at most.
    #[arg(long, default_value_t = 1_000)]
    limit: u64,
    /// Print comma-separated values.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

/// Runs the query and prints its rows.
pub fn run(args: &SqlArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let answer = node.post(
        "/api/v1/sql",
        &json!({ "sql": args.query, "limit": args.limit }),
    )?;
    let columns: Vec<String> = list(&answer["columns"])
        .iter()
        .map(|column| say::cell(&column["name"]))
        .collect();
    let rows = list(&answer["rows"]);
    if json {
        let objects: Vec<Value> = rows
            .iter()
            .map(|row| {
                columns
                    .iter()
                    .cloned()
                    .zip(list(row).iter().cloned())
                    .collect()
            })
            .collect();
        println!("{}", Value::from(objects));
        return Ok(());
    }
    if args.csv {
        println!(
            "{}",
            columns
                .iter()
                .map(|name| quoted(name))
                .collect::<Vec<_>>()
                .join(",")
        );
        for row in rows {
            let cells: Vec<_> = list(row).iter().map(csv_cell).collect();
            println!("{}", cells.join(","));
        }
        return Ok(());
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| list(row).iter().map(say::cell).collect())
        .collect();
    print!("{}", say::table(&columns, &cells));
    let count = rows.len().to_string();
    let millis = answer["elapsed_ms"]
        .as_f64()
        .map_or(String::new(), |millis| format!("{millis:.0}"));
    let truncated = answer["truncated"] == json!(true);
    let code = if truncated {
        "cli.rows-truncated"
    } else {
        "cli.rows"
    };
    eprintln!(
        "{}",
        say::line(code, &[("count", count), ("millis", millis)])
    );
    if let Some(undecodable) = answer["undecodable"].as_u64().filter(|count| *count > 0) {
        eprintln!(
            "{}",
            say::line("cli.undecodable", &[("count", undecodable.to_string())])
        );
    }
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn csv_cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => quoted(text),
        other => quoted(&other.to_string()),
    }
}

/// Quotes as RFC 4180 asks, only where it must.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) || text.is_empty() {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_keeps_null_and_empty_apart() {
        assert_eq!(csv_cell(&Value::Null), "");
        assert_eq!(csv_cell(&json!("")), "\"\"");
        assert_eq!(csv_cell(&json!("a \"b\", c")), "\"a \"\"b\"\", c\"");
        assert_eq!(csv_cell(&json!(3.25)), "3.25");
    }
}
