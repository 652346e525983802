//! `busbar copy-table`: the files that copy a table to another database and keep it in step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use busbar_catalog::{Bundle, Node, Source, Value as Scalar};
use busbar_connector::HIDDEN;
use busbar_event::{Class, Error};
use serde_json::{Value, json};

use crate::client::NodeArgs;
use crate::commands::pull;
use crate::exit::{self, Failure};
use crate::say;

/// Copy tables to another database and keep them in step: write the files that do it.
///
/// A table is written CONNECTION:TABLE or CONNECTION:SCHEMA.TABLE, several as CONNECTION:A,B, all of a schema as
/// CONNECTION:SCHEMA.*. A second table that is not there is made. The files are
/// written to the project's folder; `busbar apply` sends them to the node, unless it runs that folder.
#[derive(Debug, clap::Args)]
#[command(disable_version_flag = true)]
pub struct CopyTableArgs {
    /// The table to copy, or several.
    from: String,
    /// Where to; a connection alone for a table of the same name, hot:NAME, relational:NAME or wide:NAME for a table of the node.
    to: String,
    /// The project's folder.
    #[arg(long, default_value = ".", value_name = "DIR")]
    project: PathBuf,
    /// What the files are called; by default like the second table. For several tables it stands before the name of each.
    #[arg(long)]
    name: Option<String>,
    /// Bring changes of the second table back to the first, too.
    #[arg(long, requires = "version")]
    both_ways: bool,
    /// The column that grows with each change of a row, a time or a number: with --both-ways, and for tables behind JDBC and
    /// ODBC drivers, which are polled by it.
    #[arg(long, value_name = "COLUMN")]
    version: Option<String>,
    /// Copy the rows of tables behind JDBC and ODBC drivers once, and do not follow them.
    #[arg(long)]
    once: bool,
    /// With --both-ways: the table whose rows stay where both sides have changed them; without it the later change stays.
    #[arg(long, requires = "both_ways", value_parser = ["first", "second"])]
    wins: Option<String>,
    /// Columns that tell rows apart; by default the primary key.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    key: Vec<String>,
    /// Let values be rounded or cut where the second table's columns cannot hold them whole.
    #[arg(long)]
    lossy: bool,
    /// Say what would be written, and write nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Asks the node for the plan, and writes its files.
pub fn run(args: &CopyTableArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let asked = json!({
        "from": args.from, "to": args.to, "name": args.name, "both_ways": args.both_ways,
        "key": args.key, "version": args.version, "once": args.once, "wins": args.wins, "lossy": args.lossy,
    });
    let plan = node.post("/api/v1/copy-table", &asked)?;
    if json {
        println!("{plan}");
    } else {
        tell(&plan, args.dry_run);
    }
    let refusals = plan["refusals"].as_array().map_or(0, Vec::len);
    let wrong = list(&plan["diagnostics"])
        .iter()
        .filter(|diagnostic| diagnostic["severity"] == "error")
        .count();
    if refusals + wrong > 0 {
        let error = Error::new(Class::Configuration, "cli.copy-refused");
        let error = error.with("count", refusals + wrong);
        return Err(Failure::new(exit::FOUND, error).answered());
    }
    if args.dry_run {
        return Ok(());
    }
    // A node that runs the folder would begin at once, before its databases are ready.
    if !list(&plan["statements"]).is_empty() {
        let error = Error::new(Class::Configuration, "cli.copy-statements");
        return Err(Failure::new(exit::FOUND, error).answered());
    }
    let files = files(&plan, node)?;
    let mut files: Vec<_> = with_secrets(&args.project, &plan, files)
        .into_iter()
        .collect();
    // A node that runs the folder may look at any moment: flows come behind what they name.
    files.sort_by_key(|(path, _)| path.starts_with("flows/"));
    // The node may not know yet what stands in the folder.
    let other = files.iter().find(|(path, text)| {
        let path = args.project.join(path);
        path.exists() && std::fs::read(&path).ok().as_deref() != Some(text.as_bytes())
    });
    if let Some((path, _)) = other {
        let error = Error::new(Class::Configuration, "server.copy-exists").with("path", path);
        return Err(Failure::new(exit::FOUND, error));
    }
    let hidden = files.iter().filter(|(_, text)| text.contains(HIDDEN));
    let hidden: Vec<_> = hidden.map(|(path, _)| path.as_str()).collect();
    if !hidden.is_empty() {
        let args = [("files", hidden.join(", "))];
        eprintln!("{}", say::line("cli.pull-hidden", &args));
    }
    for (path, text) in files {
        pull::write(&args.project.join(&path), text.as_bytes())
            .map_err(|why| pull::disk("cli.pull-write", &path, why))?;
    }
    if !json {
        println!(
            "{}",
            say::line(
                "cli.copy-written",
                &[
                    ("from", say::cell(&plan["from"])),
                    ("to", say::cell(&plan["to"]))
                ]
            )
        );
    }
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn tell(plan: &Value, dry_run: bool) {
    let several = list(&plan["flows"]).len() > 1;
    let shown: &[&str] = match several {
        true => &["table", "name", "from", "to", "key"],
        false => &["name", "from", "to", "key"],
    };
    say::list(&plan["columns"], shown, "cli.compare-no-rows");
    for refusal in list(&plan["refusals"]) {
        eprintln!("{}", say::told(refusal));
    }
    for warning in list(&plan["warnings"]) {
        eprintln!("{}", say::told(warning));
    }
    for diagnostic in list(&plan["diagnostics"]) {
        let place = ["file", "line", "column"].map(|member| say::cell(&diagnostic[member]));
        eprintln!("{}: {}", place.join(":"), say::told(diagnostic));
    }
    for needed in list(&plan["statements"]) {
        println!("{}", say::told(&needed["why"]));
        println!("  {}", say::cell(&needed["statement"]));
    }
    for (path, text) in plan["files"].as_object().into_iter().flatten() {
        println!(
            "{}",
            say::line("cli.apply-added", &[("path", path.clone())])
        );
        if dry_run {
            for line in text.as_str().unwrap_or_default().lines() {
                println!("    {line}");
            }
        }
    }
}

/// Paths and texts of a plan. A path decides where this program writes, so each is checked.
fn files(plan: &Value, node: &NodeArgs) -> Result<BTreeMap<String, String>, Failure> {
    let unfit = || {
        let error = Error::new(Class::Permanent, "cli.pull-answer").with("node", node.url());
        Failure::new(exit::UNAVAILABLE, error)
    };
    let mut files = BTreeMap::new();
    for (path, text) in plan["files"].as_object().ok_or_else(unfit)? {
        Bundle::classify(path).map_err(|_| unfit())?;
        if path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(unfit());
        }
        files.insert(path.clone(), text.as_str().ok_or_else(unfit)?.to_owned());
    }
    Ok(files)
}

/// The files with the secrets that stand in the folder's own files. One that is not there stays hidden: the node puts it
/// in when the files are applied.
fn with_secrets(
    project: &Path,
    plan: &Value,
    mut files: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    for (path, connection) in plan["secrets"].as_object().into_iter().flatten() {
        let Some(text) = files.get_mut(path).filter(|text| text.contains(HIDDEN)) else {
            continue;
        };
        let connection = connection.as_str().unwrap_or_default();
        let own = ["yaml", "yml"].into_iter().find_map(|ending| {
            let known = format!("connections/{connection}.{ending}");
            let own = std::fs::read_to_string(project.join(&known)).ok()?;
            Source::parse(&known, &own).ok()
        });
        if let Some(own) = own
            && let Ok(source) = Source::parse(path, text)
        {
            *text = shown_again(&source, &own);
        }
    }
    files
}

/// A file with the texts of another one in the places where they are hidden.
fn shown_again(file: &Source, own: &Source) -> String {
    let mut hidden = Vec::new();
    pair(file.root(), own.root(), &mut hidden);
    hidden.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    let mut text = file.text().to_owned();
    for (span, secret) in hidden {
        text.replace_range(span, &Value::from(secret).to_string());
    }
    text
}

/// Finds what is hidden in a part of a file, and what stands in the same place of another one.
fn pair<'a>(part: &Node, own: &'a Node, found: &mut Vec<(std::ops::Range<usize>, &'a str)>) {
    match (&part.value, &own.value) {
        (Scalar::Text(text), Scalar::Text(own)) if text == HIDDEN => {
            found.push((part.span.clone(), own));
        }
        (Scalar::Map(entries), Scalar::Map(_)) => {
            for (key, value) in entries {
                if let Some(own) = own.child(key.text.as_str().into()) {
                    pair(value, own, found);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_secret_goes_to_its_own_place() {
        let file = "odbc:\n  connection: x\n  password: \"(hidden)\"\n  properties: { Database: d, Token: \"(hidden)\", Other: \"(hidden)\" }\n";
        let own = "odbc:\n  password: 'it''s'\n  properties:\n    Token: a\"b\n  connection: x\n";
        let parse = |text| Source::parse("connections/x.yaml", text).expect("YAML");
        assert_eq!(
            shown_again(&parse(file), &parse(own)),
            "odbc:\n  connection: x\n  password: \"it's\"\n  properties: { Database: d, Token: \"a\\\"b\", Other: \"(hidden)\" }\n"
        );
    }
}
