//! `busbar sql`: queries, with their rows as a table, or complete as CSV or JSON.

use std::collections::HashSet;
use std::io::{BufWriter, IsTerminal as _, Read as _, Write};

use busbar_catalog::Severity;
use busbar_event::{Class, Error};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::client::NodeArgs;
use crate::exit::{self, Failure};
use crate::prompt::{self, Prompt};
use crate::report::Complaint;
use crate::say;

/// Query streams and tables in SQL.
///
/// Without a query, queries are read from a prompt, each ended by a semicolon, or from standard input.
#[derive(Debug, clap::Args)]
pub struct SqlArgs {
    /// The query, such as "select * from inbox limit 10".
    query: Option<String>,
    /// Number of rows at most; when not given, 1000 in a table and all rows with --csv or --json.
    #[arg(long)]
    limit: Option<u64>,
    /// Print comma-separated values.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

/// Bytes of queries from standard input.
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

/// Runs queries from a prompt until the end of input.
fn converse(args: &SqlArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    // Fails early when the node cannot be reached.
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
    let shape = match (json, args.csv) {
        (true, _) => Shape::Json,
        (false, true) => Shape::Csv,
        (false, false) => return show(query, args, node),
    };
    let question = json!({ "sql": query, "limit": args.limit });
    let mut export = Export::new(shape, BufWriter::new(std::io::stdout().lock()));
    let outcome = node
        .lines("/api/v1/sql", &question, |line| export.take(line))
        .and_then(|()| match export.ended {
            true => Ok(()),
            false => {
                let error = Error::new(Class::Transient, "cli.rows-incomplete");
                let error = error.with("node", node.url()).with("count", export.rows);
                Err(Failure::new(exit::UNAVAILABLE, error))
            }
        })
        .and_then(|()| export.finish())
        .map_err(|failure| marked(failure, query));
    match outcome {
        Ok(()) => Ok(()),
        Err(failure) if export.begun => {
            // The rows so far stay an unfinished document, so that no program takes them for all.
            let _ = export.out.flush();
            failure.print(false);
            Err(failure.answered())
        }
        Err(failure) => Err(failure),
    }
}

/// Runs one query and prints its first rows as a table.
fn show(query: &str, args: &SqlArgs, node: &NodeArgs) -> Result<(), Failure> {
    let question = json!({ "sql": query, "limit": args.limit.unwrap_or(TABLE_ROWS) });
    let progress = say::waiting(false, "cli.asking");
    let answer = node.post("/api/v1/sql", &question);
    progress.finish_and_clear();
    let answer = answer.map_err(|failure| marked(failure, query))?;
    let columns: Vec<String> = list(&answer["columns"])
        .iter()
        .map(|column| say::cell(&column["name"]))
        .collect();
    let rows = list(&answer["rows"]);
    let times: Vec<bool> = list(&answer["columns"])
        .iter()
        .map(|column| column["type"] == "time")
        .collect();
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let cells = list(row).iter().zip(&times);
            cells
                .map(|(cell, time)| {
                    if *time {
                        say::time(cell)
                    } else {
                        say::cell(cell)
                    }
                })
                .collect()
        })
        .collect();
    print(&say::table(&columns, &cells))?;
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
    warn_of_left_out(&answer);
    Ok(())
}

/// Rows of a table when the command line does not say.
const TABLE_ROWS: u64 = 1_000;

/// Says on standard error how many events a query left out.
fn warn_of_left_out(answer: &Value) {
    for (name, code) in [
        ("undecodable", "cli.undecodable"),
        ("partial", "cli.partial"),
        ("unreadable", "cli.unreadable"),
    ] {
        if let Some(count) = answer[name].as_u64().filter(|count| *count > 0) {
            eprintln!("{}", say::line(code, &[("count", count.to_string())]));
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(unwritable)
}

fn unwritable(why: std::io::Error) -> Failure {
    let error = Error::new(Class::Permanent, "cli.no-output");
    Failure::new(exit::IO, error.caused_by(why))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Csv,
    Json,
}

/// Writes the lines of an answer as they come. Numbers keep their digits.
struct Export<W> {
    shape: Shape,
    out: W,
    /// The columns' names: quoted for CSV, as members with a colon for JSON.
    names: Vec<String>,
    /// True once something was written.
    begun: bool,
    rows: u64,
    /// True once the line came that ends an answer.
    ended: bool,
}

impl<W: Write> Export<W> {
    fn new(shape: Shape, out: W) -> Export<W> {
        Export {
            shape,
            out,
            names: Vec::new(),
            begun: false,
            rows: 0,
            ended: false,
        }
    }

    /// Takes a line: the columns, a row, the end, or an error.
    fn take(&mut self, line: &str) -> Result<(), Failure> {
        if line.starts_with('[') {
            let cells: Vec<&RawValue> = serde_json::from_str(line).map_err(strange)?;
            return self.row(&cells).map_err(unwritable);
        }
        if line.is_empty() {
            return Ok(());
        }
        let line: Value = serde_json::from_str(line).map_err(strange)?;
        if line["columns"].is_array() {
            return self.head(list(&line["columns"])).map_err(unwritable);
        }
        if line["error"].is_object() {
            return Err(crate::client::refusal(500, &line["error"]));
        }
        let end = &line["end"];
        self.ended = end.is_object();
        if end["truncated"] == json!(true) {
            let count = [("count", self.rows.to_string())];
            eprintln!("{}", say::line("cli.rows-cut", &count));
        }
        warn_of_left_out(end);
        Ok(())
    }

    fn head(&mut self, columns: &[Value]) -> std::io::Result<()> {
        let names = columns.iter().map(|column| match &column["name"] {
            Value::String(name) => name.clone(),
            other => other.to_string(),
        });
        let names: Vec<String> = names.collect();
        self.begun = true;
        match self.shape {
            Shape::Csv => {
                let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
                writeln!(self.out, "{}", names.join(","))
            }
            Shape::Json => {
                let members = distinct(&names).into_iter();
                self.names = members
                    .map(|name| format!("{}:", Value::from(name)))
                    .collect();
                self.out.write_all(b"[")
            }
        }
    }

    fn row(&mut self, cells: &[&RawValue]) -> std::io::Result<()> {
        match self.shape {
            Shape::Csv => {
                for (at, cell) in cells.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(self.out, "{comma}{}", csv_cell(cell.get()))?;
                }
                writeln!(self.out)?;
            }
            Shape::Json => {
                self.out
                    .write_all(if self.rows > 0 { b",\n{" } else { b"{" })?;
                for (at, (name, cell)) in self.names.iter().zip(cells).enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(self.out, "{comma}{name}{}", cell.get())?;
                }
                self.out.write_all(b"}")?;
            }
        }
        self.rows += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        let end: &[u8] = match self.shape {
            Shape::Csv => b"",
            Shape::Json => b"]\n",
        };
        self.out
            .write_all(end)
            .and_then(|()| self.out.flush())
            .map_err(unwritable)
    }
}

/// The names, with a number behind those that occurred before: an object has each member once.
fn distinct(names: &[String]) -> Vec<String> {
    let mut taken: HashSet<String> = names.iter().cloned().collect();
    let mut seen = HashSet::new();
    let distinct = names.iter().map(|name| {
        if seen.insert(name) {
            return name.clone();
        }
        let mut number = 2;
        let mut other = format!("{name}_{number}");
        while !taken.insert(other.clone()) {
            number += 1;
            other = format!("{name}_{number}");
        }
        let told = [("name", name.clone()), ("other", other.clone())];
        eprintln!("{}", say::line("cli.duplicate-column", &told));
        other
    });
    distinct.collect()
}

fn strange(why: serde_json::Error) -> Failure {
    let error = Error::new(Class::Transient, "cli.strange-line");
    Failure::new(exit::UNAVAILABLE, error.caused_by(why))
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
        severity: Severity::Error,
        message: failure.error.message(say::language()),
        code: say::cell(&told["code"]),
        help,
        name: "sql".to_owned(),
        text: query.to_owned(),
        span: start..end,
    }
    .drawn();
    failure.with_report(drawn)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A cell of CSV from its JSON: null is empty, the empty text is `""`.
fn csv_cell(json: &str) -> String {
    if json == "null" {
        return String::new();
    }
    match serde_json::from_str::<String>(json) {
        Ok(text) => quoted(&text),
        Err(_) => quoted(json),
    }
}

/// Quotes a cell as RFC 4180 says, only where it must be.
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
        assert_eq!(csv_cell("null"), "");
        assert_eq!(csv_cell("\"\""), "\"\"");
        assert_eq!(csv_cell(r#""a \"b\", c""#), "\"a \"\"b\"\", c\"");
        assert_eq!(csv_cell("3.250"), "3.250");
        assert_eq!(csv_cell("[1,2]"), "\"[1,2]\"");
    }

    fn exported(shape: Shape, lines: &[&str]) -> (String, bool) {
        let mut export = Export::new(shape, Vec::new());
        for line in lines {
            export.take(line).unwrap();
        }
        let ended = export.ended;
        export.finish().unwrap();
        (String::from_utf8(export.out).unwrap(), ended)
    }

    #[test]
    fn an_export_keeps_digits_and_every_column() {
        let lines = [
            r#"{"columns":[{"name":"id"},{"name":"id"},{"name":"f"}]}"#,
            r#"[18446744073709551615,null,1.0]"#,
            r#"[9007199254740993,"","x"]"#,
            r#"{"end":{"truncated":false,"undecodable":0,"unreadable":0}}"#,
        ];
        let (json, ended) = exported(Shape::Json, &lines);
        assert!(ended);
        assert_eq!(
            json,
            "[{\"id\":18446744073709551615,\"id_2\":null,\"f\":1.0},\n\
             {\"id\":9007199254740993,\"id_2\":\"\",\"f\":\"x\"}]\n"
        );
        let (csv, _) = exported(Shape::Csv, &lines);
        assert_eq!(
            csv,
            "id,id,f\n18446744073709551615,,1.0\n9007199254740993,\"\",x\n"
        );
    }

    #[test]
    fn an_answer_without_its_end_is_incomplete() {
        let (_, ended) = exported(Shape::Csv, &[r#"{"columns":[{"name":"a"}]}"#, "[1]"]);
        assert!(!ended);
        let mut export = Export::new(Shape::Csv, Vec::new());
        let error = r#"{"error":{"class":"permanent","code":"sql.time","message":"too slow"}}"#;
        assert!(export.take(error).is_err());
    }

    #[test]
    fn names_are_made_distinct() {
        let names = ["a", "a", "a_2", "a"].map(str::to_owned);
        assert_eq!(distinct(&names), ["a", "a_3", "a_2", "a_4"]);
    }
}
