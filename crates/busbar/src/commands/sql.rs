//! `busbar sql`: queries, their rows as a table, CSV or JSON.

use std::io::{IsTerminal as _, Read as _};

use busbar_event::{Class, Error};
use serde_json::{Value, json};

use crate::client::NodeArgs;
use crate::exit::{self, Failure};
use crate::prompt::{self, Prompt};
use crate::report::Complaint;
use crate::say;

/// Ask streams and tables in SQL.
///
/// Without a query they are typed at a prompt, each ended by a semicolon, or read from standard input.
#[derive(Debug, clap::Args)]
pub struct SqlArgs {
    /// The query, such as "select * from inbox limit 10".
    query: Option<String>,
    /// Rows to fetch at most.
    #[arg(long, default_value_t = 1_000)]
    limit: u64,
    /// Print comma-separated values.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

/// Queries from standard input are read up to this size; the node takes no longer ones either.
const INPUT_BYTES_MAX: u64 = 16 << 20;

/// Runs the query, or those that are typed or read.
pub fn run(args: &SqlArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    if let Some(query) = &args.query {
        return ask(query, args, node, json);
    }
    if std::io::stdin().is_terminal() {
        return converse(args, node, json);
    }
    let unreadable = || Error::new(Class::Configuration, "cli.unreadable-queries");
    let mut text = String::new();
    let read = std::io::stdin()
        .lock()
        .take(INPUT_BYTES_MAX + 1)
        .read_to_string(&mut text);
    read.map_err(|why| Failure::new(exit::IO, unreadable().caused_by(why)))?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        let error = Error::new(Class::Configuration, "cli.queries-too-long");
        return Err(error.with("bytes_max", INPUT_BYTES_MAX).into());
    }
    let (mut queries, rest) = prompt::split(&text);
    queries.extend(Some(rest).filter(|rest| !rest.is_empty()));
    if queries.is_empty() {
        return Err(Failure::new(
            exit::USAGE,
            Error::new(Class::Configuration, "cli.no-query"),
        ));
    }
    queries
        .into_iter()
        .try_for_each(|query| ask(query, args, node, json))
}

/// Asks and answers until the person has had enough.
fn converse(args: &SqlArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    // Whether anybody is there.
    node.post("/api/v1/sql", &json!({ "sql": "show tables" }))?;
    let mut prompt = Prompt;
    eprintln!("{}", say::line("cli.prompt", &[("node", node.url())]));
    while let Some(queries) = prompt.next()? {
        for query in queries {
            if let Err(failure) = ask(&query, args, node, json) {
                failure.print(json);
                if failure.code == exit::UNAVAILABLE || failure.code == exit::DENIED {
                    return Err(failure.answered());
                }
                break;
            }
        }
    }
    Ok(())
}

/// Runs one query and prints its rows.
fn ask(query: &str, args: &SqlArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let question = json!({ "sql": query, "limit": args.limit });
    let progress = say::waiting(json || args.csv, "cli.asking");
    let answer = node.post("/api/v1/sql", &question);
    progress.finish_and_clear();
    let answer = answer.map_err(|failure| marked(failure, query))?;
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
