//! Holds the tree to its own map: arrows between crates go down, heavy dependencies live in one
//! crate, paths that the documents name exist, both languages say the same things.

#![allow(missing_docs)]

#[path = "architecture/modules.rs"]
mod modules;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// From the top of the ladder to its foot; a crate may use those behind it, never those before it.
const LADDER: &[&str] = &[
    "busbar",
    "busbar-fuzz",
    "busbar-server",
    "busbar-amqp",
    "busbar-mqtt-gateway",
    "busbar-socket-gateway",
    "busbar-gateway",
    "busbar-flow",
    "busbar-orchestrate",
    "busbar-connect",
    "busbar-connector",
    "busbar-catalog",
    "busbar-plugin",
    "busbar-sql",
    "busbar-table",
    "busbar-access",
    "busbar-bus",
    "busbar-log",
    "busbar-mqtt",
    "busbar-xml",
    "busbar-change",
    "busbar-kafka",
    "busbar-event",
    "busbar-features",
];

/// Each heavy dependency, and the one crate that may know it.
const HEAVY: &[(&str, &str)] = &[
    ("datafusion-physical-plan", "busbar-sql"),
    ("datafusion-sql", "busbar-sql"),
    ("rusqlite", "busbar-table"),
    ("axum", "busbar-server"),
    ("rmqtt-codec", "busbar-mqtt"),
    ("rquickjs", "busbar-plugin"),
    ("sysinfo", "busbar-connect"),
    ("argon2", "busbar-access"),
    ("clap", "busbar"),
];

/// The crate without code that lists shared features; it may name what lives elsewhere.
const FEATURES: &str = "busbar-features";

/// Files that a person may read whole.
const LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the root of the tree")
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    serde_json::from_slice(&output.stdout).expect("its JSON")
}

fn dependencies() -> BTreeMap<String, Vec<String>> {
    let mut crates = BTreeMap::new();
    for package in metadata()["packages"].as_array().expect("packages") {
        let uses = package["dependencies"].as_array().expect("dependencies");
        let uses = uses
            .iter()
            .filter(|d| d["kind"].is_null())
            .map(text_of("name"))
            .collect();
        crates.insert(text_of("name")(package), uses);
    }
    crates
}

fn text_of(key: &str) -> impl Fn(&Value) -> String {
    move |value| value[key].as_str().expect(key).to_owned()
}

#[test]
fn arrows_between_crates_go_down() {
    let crates = dependencies();
    let rung = |name: &str| LADDER.iter().position(|rung| *rung == name);
    for (name, uses) in &crates {
        let from = rung(name).unwrap_or_else(|| panic!("{name} has no rung on the ladder"));
        for used in uses.iter().filter(|used| used.starts_with("busbar")) {
            let to = rung(used).unwrap_or_else(|| panic!("{used} has no rung on the ladder"));
            assert!(to > from, "{name} uses {used}, which stands above it");
        }
    }
    assert_eq!(crates.len(), LADDER.len(), "a rung without a crate");
}

#[test]
fn each_heavy_dependency_lives_in_one_crate() {
    let crates = dependencies();
    for (heavy, home) in HEAVY {
        let users: Vec<_> = crates
            .iter()
            .filter(|(name, uses)| *name != FEATURES && uses.iter().any(|used| used == heavy))
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(users, [*home], "who uses {heavy}");
    }
}

/// Features that a selection of packages gives to what `busbar-sql` is built of.
fn features(selection: &[&str]) -> BTreeMap<String, String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "-e",
            "normal,build",
            "--prefix",
            "none",
            "-f",
            "{p}\t{f}",
        ])
        .args(selection)
        .current_dir(root())
        .output()
        .expect("cargo tree runs");
    let text = String::from_utf8(output.stdout).expect("its text");
    let lines = text
        .lines()
        .filter_map(|line| line.trim_end_matches(" (*)").split_once('\t'));
    lines
        .filter(|(name, _)| !name.starts_with("busbar"))
        .map(|(n, f)| (n.to_owned(), f.to_owned()))
        .collect()
}

#[test]
fn every_selection_of_packages_shares_one_build_of_datafusion() {
    let alone = features(&[
        "-p",
        "datafusion-physical-optimizer",
        "-p",
        "datafusion-sql",
    ]);
    let whole = features(&["--workspace"]);
    for selection in ["busbar-sql", "busbar-flow", "busbar-server", "busbar"] {
        let part = features(&["-p", selection]);
        for name in alone.keys() {
            assert_eq!(
                part.get(name),
                whole.get(name),
                "{name} in -p {selection}: see {FEATURES}"
            );
        }
    }
}

/// The crates that the program is compiled of, build scripts' and macros' included.
fn crates_compiled() -> Vec<String> {
    let mut crates: Vec<String> =
        features(&["-p", "busbar", "--target", "x86_64-unknown-linux-gnu"])
            .into_keys()
            .map(|name| name.trim_end_matches(" (proc-macro)").to_owned())
            .collect();
    crates.sort_unstable();
    crates.dedup();
    crates
}

#[test]
fn no_more_crates_are_compiled_than_the_documents_say() {
    let text = std::fs::read_to_string(root().join("docs/BUILD.md")).expect("docs/BUILD.md");
    let (before, _) = text
        .split_once(" crates from crates.io")
        .expect("docs/BUILD.md says how many crates from crates.io are compiled");
    let said = before.rsplit([' ', '\n', '*']).next().unwrap_or_default();
    let said: usize = said.parse().expect("the number of crates in docs/BUILD.md");
    let compiled = crates_compiled();
    assert_eq!(
        compiled.len(),
        said,
        "docs/BUILD.md gives another number. More crates need a reason in CHANGELOG.md: {compiled:#?}"
    );
}

#[test]
fn every_dependency_is_used() {
    let mut unused = Vec::new();
    for package in metadata()["packages"].as_array().expect("packages") {
        let name = text_of("name")(package);
        if name == FEATURES {
            continue;
        }
        let manifest = PathBuf::from(text_of("manifest_path")(package));
        let folder = manifest.parent().expect("a folder");
        let source = |folders: &[&str]| {
            let mut text = String::new();
            for inner in folders.iter().map(|inner| folder.join(inner)) {
                if inner.exists() {
                    visit(&inner, &mut |path| {
                        if path.extension().is_some_and(|ending| ending == "rs") {
                            text += &std::fs::read_to_string(path).expect("a source file");
                        }
                    });
                }
            }
            text
        };
        let program = source(&["src", "fuzz_targets"]);
        let all = source(&["src", "fuzz_targets", "tests", "benches", "examples"]);
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let used = text_of("name")(dependency);
            let text = if dependency["kind"].is_null() {
                &program
            } else {
                &all
            };
            if used != FEATURES && !names(text, &used.replace('-', "_")) {
                unused.push(format!("{name} declares {used} and does not use it"));
            }
        }
    }
    assert!(unused.is_empty(), "{unused:#?}");
}

/// Whether code uses a crate: `krate::…`, or `use krate;`.
fn names(code: &str, krate: &str) -> bool {
    code.match_indices(krate).any(|(place, _)| {
        let before = code[..place].chars().next_back();
        let after = &code[place + krate.len()..];
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
            && (after.starts_with("::") || after.starts_with(';') || after.starts_with(" as "))
    })
}

#[test]
fn paths_that_the_documents_name_exist() {
    for document in [
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "README.md",
        "README.zh-CN.md",
        "docs/HOWTO.md",
        "docs/HOWTO.zh-CN.md",
    ] {
        let text = std::fs::read_to_string(root().join(document)).expect(document);
        for quoted in text.split('`').skip(1).step_by(2) {
            let begins = [
                "crates/",
                "web/",
                "examples/",
                "docs/",
                "scripts/",
                "tests/",
                "fuzz/",
            ];
            if begins.iter().any(|begin| quoted.starts_with(begin))
                && !quoted.contains([' ', '<', '*'])
            {
                let built = quoted.starts_with("web/dist");
                assert!(
                    built || root().join(quoted).exists(),
                    "{document} names {quoted}"
                );
            }
        }
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with('#') {
                let file = target.split('#').next().unwrap_or_default();
                let folder = root().join(document);
                let folder = folder.parent().expect("a folder");
                assert!(folder.join(file).exists(), "{document} links to {target}");
            }
        }
    }
}

#[test]
fn pages_in_both_languages_have_the_same_commands() {
    let commands = |name: &str| -> Vec<String> {
        let text = std::fs::read_to_string(root().join(name)).expect(name);
        let blocks = text.split("```").skip(1).step_by(2);
        blocks
            .flat_map(str::lines)
            .filter(|line| !line.trim_start().starts_with('#'))
            .map(|line| {
                line.split(" #")
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .to_owned()
            })
            .collect()
    };
    for page in ["README", "docs/HOWTO"] {
        let english = commands(&format!("{page}.md"));
        assert!(!english.is_empty(), "{page} has no commands");
        assert_eq!(english, commands(&format!("{page}.zh-CN.md")), "{page}");
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    let mut long = Vec::new();
    visit(&root().join("crates"), &mut |path| {
        if path.extension().is_some_and(|ending| ending == "rs") {
            let lines = std::fs::read_to_string(path)
                .expect("a source file")
                .lines()
                .count();
            if lines > LINES_MAX {
                long.push(format!("{} has {lines} lines", path.display()));
            }
        }
    });
    assert!(long.is_empty(), "split by story: {long:#?}");
}

fn visit(folder: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            visit(&path, each);
        } else {
            each(&path);
        }
    }
}
