//! `busbar pull`: writes the files of the project that a node runs into a folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use busbar_catalog::Bundle;
use busbar_connector::HIDDEN;
use busbar_event::{Class, Error};
use busbar_plugin::Package;
use serde_json::json;

use crate::client::NodeArgs;
use crate::exit::{self, Failure};
use crate::say;

/// Write the files of the project that a node runs into a folder.
#[derive(Debug, clap::Args)]
pub struct PullArgs {
    /// The project's folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Delete the files of the folder's project that the node does not run.
    #[arg(long)]
    delete: bool,
}

/// Fetches the files, then writes those that differ.
pub fn run(args: &PullArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let running = running(node)?;
    let local = local(&args.dir)?;
    let pulled = Pulled::new(&running, &local, args.delete);
    if !args.dry_run {
        for (path, text) in &pulled.write {
            let contents = match path.starts_with("plugins/") {
                true => Package::contents_of(text)
                    .map_err(|error| Failure::new(exit::UNAVAILABLE, error))?,
                false => text.clone().into_bytes(),
            };
            write(&args.dir.join(path), &contents)
                .map_err(|why| disk("cli.pull-write", path, why))?;
        }
        for path in &pulled.delete {
            std::fs::remove_file(args.dir.join(path))
                .map_err(|why| disk("cli.pull-delete", path, why))?;
        }
    }
    pulled.tell(&local, args.dry_run, json);
    Ok(())
}

/// Path to text of what the node runs. A path decides where this program writes, so each is checked.
fn running(node: &NodeArgs) -> Result<BTreeMap<String, String>, Failure> {
    let answer = node.get("/api/v1/project")?;
    let unfit = || {
        let error = Error::new(Class::Permanent, "cli.pull-answer").with("node", node.url());
        Failure::new(exit::UNAVAILABLE, error)
    };
    let files = answer["files"].as_object().ok_or_else(unfit)?;
    let mut running = BTreeMap::new();
    for (path, text) in files {
        Bundle::classify(path).map_err(|_| unfit())?;
        if path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(unfit());
        }
        running.insert(path.clone(), text.as_str().ok_or_else(unfit)?.to_owned());
    }
    Ok(running)
}

/// Path to text of the project in the folder; none where there is no folder.
fn local(dir: &Path) -> Result<BTreeMap<String, String>, Failure> {
    if !dir.exists() {
        return Ok(BTreeMap::new());
    }
    let (bundle, _) = Bundle::read(dir).map_err(|refused| {
        super::check::tell(&refused, false);
        super::check::wrong(exit::FOUND, &refused).answered()
    })?;
    Ok(bundle.files)
}

/// What has to change in the folder.
#[derive(Debug, PartialEq, Eq)]
struct Pulled {
    /// Path to text.
    write: BTreeMap<String, String>,
    delete: Vec<String>,
    /// Files that the node does not run and that stay.
    only_here: Vec<String>,
    /// Files to be written with `(hidden)` in place of a secret that the folder does not hold.
    hidden: Vec<String>,
}

impl Pulled {
    fn new(
        running: &BTreeMap<String, String>,
        local: &BTreeMap<String, String>,
        delete: bool,
    ) -> Pulled {
        let mut pulled = Pulled {
            write: BTreeMap::new(),
            delete: Vec::new(),
            only_here: Vec::new(),
            hidden: Vec::new(),
        };
        for (path, text) in running {
            let here = local.get(path).map(String::as_str);
            let text = with_secrets(text, here.unwrap_or_default());
            if here == Some(text.as_str()) {
                continue;
            }
            if text.contains(HIDDEN) {
                pulled.hidden.push(path.clone());
            }
            pulled.write.insert(path.clone(), text);
        }
        let surplus = local.keys().filter(|path| !running.contains_key(*path));
        if delete {
            pulled.delete = surplus.cloned().collect();
        } else {
            pulled.only_here = surplus.cloned().collect();
        }
        pulled
    }

    fn tell(&self, local: &BTreeMap<String, String>, dry_run: bool, json: bool) {
        let changes = || {
            let written = self.write.keys().map(|path| match local.get(path) {
                Some(_) => ("changed", "cli.apply-changed", path),
                None => ("added", "cli.apply-added", path),
            });
            let deleted = self.delete.iter();
            written.chain(deleted.map(|path| ("removed", "cli.apply-removed", path)))
        };
        if json {
            let changes: Vec<_> = changes()
                .map(|(kind, _, path)| json!({ "path": path, "kind": kind }))
                .collect();
            let answer = json!({
                "changes": changes,
                "only_here": self.only_here,
                "hidden": self.hidden,
                "dry_run": dry_run,
            });
            println!("{answer}");
            return;
        }
        for (_, line, path) in changes() {
            println!("{}", say::line(line, &[("path", path.clone())]));
        }
        for (code, paths) in [
            ("cli.pull-only-here", &self.only_here),
            ("cli.pull-hidden", &self.hidden),
        ] {
            if !paths.is_empty() {
                eprintln!("{}", say::line(code, &[("files", paths.join(", "))]));
            }
        }
        let code = match (changes().next(), dry_run) {
            (None, _) => "cli.pull-same",
            (_, true) => "cli.pull-dry",
            _ => return,
        };
        println!("{}", say::line(code, &[]));
    }
}

/// A node's text with the secrets of the local one: a line with `(hidden)` is replaced by the line of the local text that
/// is the same before and after that place, if there is exactly one.
fn with_secrets(text: &str, local: &str) -> String {
    let secret = |line: &str| {
        let (before, after) = line.split_once(HIDDEN)?;
        let mut same = local.split_inclusive('\n').filter(|here| {
            here.len() >= before.len() + after.len()
                && here.starts_with(before)
                && here.ends_with(after)
        });
        same.next().filter(|_| same.next().is_none())
    };
    let lines = text.split_inclusive('\n');
    lines.map(|line| secret(line).unwrap_or(line)).collect()
}

/// Puts a file in the place of the one that is there. A node that runs the folder sees the old text or the new one.
pub(super) fn write(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Files with this ending are not read as part of a project.
    let new = path.with_file_name(format!(".{name}.tmp"));
    std::fs::write(&new, contents)?;
    if let Ok(meta) = std::fs::metadata(path) {
        std::fs::set_permissions(&new, meta.permissions())?;
    }
    std::fs::rename(&new, path)
}

pub(super) fn disk(code: &'static str, path: &str, why: std::io::Error) -> Failure {
    let error = Error::new(Class::Configuration, code).with("path", path);
    Failure::new(exit::IO, error.caused_by(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn only_what_differs_is_written_and_nothing_is_deleted_unasked() {
        let running = files(&[("flows/a.yaml", "1"), ("flows/b.yaml", "2")]);
        let local = files(&[("flows/a.yaml", "1"), ("flows/c.yaml", "3")]);
        let pulled = Pulled::new(&running, &local, false);
        assert_eq!(pulled.write, files(&[("flows/b.yaml", "2")]));
        assert_eq!(pulled.only_here, ["flows/c.yaml"]);
        assert!(pulled.delete.is_empty());
        let pulled = Pulled::new(&running, &local, true);
        assert_eq!(pulled.delete, ["flows/c.yaml"]);
        assert!(pulled.only_here.is_empty());
    }

    #[test]
    fn a_secret_of_the_folder_stays_where_the_node_hides_it() {
        let local = "url: x\npassword: s3cret\n";
        assert_eq!(
            with_secrets("url: y\npassword: (hidden)\n", local),
            "url: y\npassword: s3cret\n"
        );
        // Two lines fit: neither is taken.
        let twice = "  password: a\n  password: b\n";
        assert_eq!(
            with_secrets("  password: (hidden)\n", twice),
            "  password: (hidden)\n"
        );
        let running = files(&[("connections/c.yaml", "password: (hidden)\n")]);
        let pulled = Pulled::new(&running, &files(&[]), false);
        assert_eq!(pulled.hidden, ["connections/c.yaml"]);
        let same = files(&[("connections/c.yaml", "password: s\n")]);
        assert!(Pulled::new(&running, &same, false).write.is_empty());
    }
}
