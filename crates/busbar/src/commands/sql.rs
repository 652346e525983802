//! `busbar sql`: one query, its rows as a table, CSV or JSON.

use serde_json::{Value, json};

use crate::client::NodeArgs;
use crate::exit::Failure;
use crate::report::Complaint;
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
    let question = json!({ "sql": args.query, "limit": args.limit });
    let answer = node
        .post("/api/v1/sql", &question)
        .map_err(|failure| marked(failure, &args.query))?;
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
    for (name, code) in [
        ("undecodable", "cli.undecodable"),
        ("unreadable", "cli.unreadable"),
    ] {
        if let Some(count) = answer[name].as_u64().filter(|count| *count > 0) {
            eprintln!("{}", say::line(code, &[("count", count.to_string())]));
        }
    }
    Ok(())
}

/// Draws the query with a caret under the word, where the node says which word it is.
fn marked(failure: Failure, query: &str) -> Failure {
    let Some(told) = &failure.told else {
        return failure;
    };
    let at = |end: &str| {
        let place = told["span"][end].as_u64()?;
        usize::try_from(place).ok()
    };
    let (Some(start), Some(end)) = (at("start"), at("end")) else {
        return failure;
    };
    let help = told["suggestion"].as_str().map(|word| {
        let name = [("name", word.to_owned())];
        say::line("catalog.did-you-mean", &name)
    });
    let drawn = Complaint {
        message: failure.error.message(say::language()),
        code: say::cell(&told["code"]),
        help,
        name: "sql",
        text: query.to_owned(),
        span: start..end,
    }
    .drawn();
    failure.with_report(drawn)
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
