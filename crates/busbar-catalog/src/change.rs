//! Differences between two projects: in meaning, and in text.

use std::collections::{BTreeMap, BTreeSet};

use busbar_plugin::Package;
use serde::Serialize;
use serde_json::Value as Json;

use crate::bundle::{Bundle, Kind};
use crate::project::{Parsed, Project};

/// A resource whose meaning is different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// What happened to it.
    pub change: ChangeKind,
}

/// What happened to a resource or file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its meaning, or its text, is different.
    Changed,
    /// It is gone.
    Removed,
}

/// A file whose text is different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// The file's path.
    pub path: String,
    /// What happened to it.
    pub change: ChangeKind,
    /// The difference in unified form; empty for a file that is no text.
    pub diff: String,
}

/// The resources whose meaning differs. Comments, order of keys, quoting, line breaks in SQL and flow tests
/// are not meaning.
pub fn changes(old: &Project, new: &Project) -> Vec<Change> {
    let mut all = Vec::new();
    compare(Kind::Stream, &old.streams, &new.streams, &mut all);
    compare(Kind::Table, &old.tables, &new.tables, &mut all);
    compare(
        Kind::Connection,
        &old.connections,
        &new.connections,
        &mut all,
    );
    compare(Kind::Gateway, &old.gateways, &new.gateways, &mut all);
    compare(Kind::Flow, &old.flows, &new.flows, &mut all);
    compare(
        Kind::Orchestration,
        &old.orchestrations,
        &new.orchestrations,
        &mut all,
    );
    compare(Kind::Api, &old.apis, &new.apis, &mut all);
    compare(Kind::Plugin, &old.plugins, &new.plugins, &mut all);
    all
}

fn compare<T: Serialize>(
    kind: Kind,
    old: &BTreeMap<String, Parsed<T>>,
    new: &BTreeMap<String, Parsed<T>>,
    all: &mut Vec<Change>,
) {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let change = match (old.get(name), new.get(name)) {
            (None, Some(_)) => ChangeKind::Added,
            (Some(_), None) => ChangeKind::Removed,
            (Some(a), Some(b)) if canonical(kind, &a.spec) != canonical(kind, &b.spec) => {
                ChangeKind::Changed
            }
            _ => continue,
        };
        all.push(Change {
            kind,
            name: name.clone(),
            change,
        });
    }
}

/// The meaning of a resource: its parsed form with defaults filled in, keys sorted, white space in SQL folded, and without
/// descriptions and tests.
pub fn canonical<T: Serialize>(kind: Kind, spec: &T) -> Json {
    // A spec that cannot be serialised is null, and counts as different.
    let mut json = serde_json::to_value(spec).unwrap_or(Json::Null);
    if let Json::Object(map) = &mut json {
        map.remove("description");
        if kind == Kind::Flow {
            map.remove("tests");
            // Where a new flow begins is of no meaning for one that runs.
            map.remove("start");
            if let Some(Json::Array(steps)) = map.get_mut("steps") {
                for text in steps
                    .iter_mut()
                    .filter_map(Json::as_object_mut)
                    .flat_map(|m| m.values_mut())
                {
                    if let Json::String(sql) = text {
                        *sql = fold_sql(sql);
                    }
                }
            }
        }
    }
    sort(&mut json);
    json
}

/// Sorts keys whatever map type `serde_json` was built with.
fn sort(json: &mut Json) {
    match json {
        Json::Object(map) => {
            let mut entries: Vec<(String, Json)> = std::mem::take(map).into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            for (_, value) in &mut entries {
                sort(value);
            }
            map.extend(entries);
        }
        Json::Array(items) => items.iter_mut().for_each(sort),
        _ => {}
    }
}

/// One space for any run of white space and comments outside of quotes.
fn fold_sql(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut chars = sql.chars().peekable();
    let mut gap = false;
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => gap = true,
            '-' if chars.peek() == Some(&'-') => {
                while chars.next_if(|c| *c != '\n').is_some() {}
                gap = true;
            }
            '/' if chars.peek() == Some(&'*') => {
                chars.next();
                let (mut depth, mut last) = (1, ' ');
                // Comments nest; an unclosed one extends to the end.
                for inner in chars.by_ref() {
                    match (last, inner) {
                        ('*', '/') => depth -= 1,
                        ('/', '*') => depth += 1,
                        _ => {
                            last = inner;
                            continue;
                        }
                    }
                    last = ' ';
                    if depth == 0 {
                        break;
                    }
                }
                gap = true;
            }
            c => {
                if gap && !out.is_empty() {
                    out.push(' ');
                }
                gap = false;
                out.push(c);
                if c == '\'' || c == '"' {
                    for inner in chars.by_ref() {
                        out.push(inner);
                        if inner == c {
                            break;
                        }
                    }
                }
            }
        }
    }
    out
}

/// The files whose text differs.
pub fn file_changes(old: &Bundle, new: &Bundle) -> Vec<FileChange> {
    let paths: BTreeSet<&String> = old.files.keys().chain(new.files.keys()).collect();
    paths
        .into_iter()
        .filter_map(|path| {
            let (a, b) = (old.files.get(path), new.files.get(path));
            let change = match (a, b) {
                (None, _) => ChangeKind::Added,
                (_, None) => ChangeKind::Removed,
                (Some(a), Some(b)) if a == b => return None,
                _ => ChangeKind::Changed,
            };
            let empty = String::new();
            let (a, b) = (a.unwrap_or(&empty), b.unwrap_or(&empty));
            let diff = match Package::is_binary(a) || Package::is_binary(b) {
                true => String::new(),
                false => text_diff(path, a, b),
            };
            Some(FileChange {
                path: path.clone(),
                change,
                diff,
            })
        })
        .collect()
}

/// The difference of two texts in unified form.
pub fn text_diff(path: &str, old: &str, new: &str) -> String {
    similar::TextDiff::from_lines(old, new)
        .unified_diff()
        .context_radius(3)
        .header(&format!("a/{path}"), &format!("b/{path}"))
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(flow: &str) -> Project {
        let files = [
            ("streams/a.yaml".to_owned(), "topics: a/#\n".to_owned()),
            ("flows/f.yaml".to_owned(), flow.to_owned()),
        ];
        let (project, bad) = Project::parse(Bundle {
            files: files.into_iter().collect(),
        });
        assert!(bad.is_empty(), "{bad:?}");
        project
    }

    #[test]
    fn only_a_different_meaning_is_a_change() {
        let old =
            project("from: a\nsteps:\n  - where: x > 1 and y = 'a  b'\nto:\n  - topic: b/x\n");
        for same in [
            "# a note\nto: [{topic: b/x}]\nfrom: [a]\nsteps: [{where: \"x > 1 and y = 'a  b'\"}]\n",
            "from: a\nsteps:\n  - where: |\n      x > 1 /* don't /* nest */ or do */\n      and y = 'a  b'\nto:\n  - topic: b/x\n",
            "from: a\r\nsteps:\r\n  - where: x > 1\r\n      and y = 'a  b'\r\nto:\r\n  - topic: b/x\r\n",
            "\u{feff}from: a\nsteps:\n  - where: &where x > 1 and y = 'a  b'\nto:\n  - topic: b/x\n",
            "from: a\nsteps:\n  - where: |\n      x > 1 -- really\n      and y = 'a  b'\nto:\n  - topic: b/x\nenabled: true\ndescription: hi\n",
        ] {
            assert_eq!(changes(&old, &project(same)), [], "{same}");
        }
        for other in [
            "from: a\nsteps:\n  - where: x > 1 /* don't */ and y = 'a b'\nto:\n  - topic: b/x\n",
            "from: a\nsteps:\n  - where: x > 1 and y = 'a b'\nto:\n  - topic: b/x\n",
            "from: a\nsteps:\n  - where: x > 1 and y = 'a  b'\nto:\n  - topic: b/x\n    retain: true\n",
            "from: a\nto:\n  - topic: b/x\n",
        ] {
            let found = changes(&old, &project(other));
            assert_eq!(found.len(), 1, "{other}");
            assert_eq!(
                (found[0].kind, found[0].change),
                (Kind::Flow, ChangeKind::Changed)
            );
        }
    }

    #[test]
    fn texts_are_compared_line_by_line() {
        let bundle = |files: &[(&str, &str)]| Bundle {
            files: files
                .iter()
                .map(|(p, t)| ((*p).to_owned(), (*t).to_owned()))
                .collect(),
        };
        let found = file_changes(
            &bundle(&[("a", "1\n"), ("b", "x\n")]),
            &bundle(&[("b", "y\n"), ("c", "")]),
        );
        let kinds: Vec<_> = found.iter().map(|f| (f.path.as_str(), f.change)).collect();
        assert_eq!(
            kinds,
            [
                ("a", ChangeKind::Removed),
                ("b", ChangeKind::Changed),
                ("c", ChangeKind::Added)
            ]
        );
        assert!(found[1].diff.contains("-x\n+y\n"), "{}", found[1].diff);
    }
}
