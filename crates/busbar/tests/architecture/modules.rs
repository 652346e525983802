//! Modules do not form cycles, and a type has a name of its own. What does not hold yet is listed; the
//! lists may only get shorter.

use std::collections::{BTreeMap, BTreeSet};

use crate::{root, visit};

/// Modules of one crate that use each other in a circle, as `crate: module, module`. A module is a file or
/// a folder beside `lib.rs`. Whoever breaks a cycle removes its line.
const CYCLES: &[&str] = &[];

/// Names that more than one type has, in all crates together. Whoever gets it lower writes the lower number.
const NAMES_SHARED_MAX: usize = 148;

#[test]
fn modules_do_not_form_cycles() {
    let mut found = Vec::new();
    for (krate, modules) in sources() {
        for cycle in cycles(&uses_between(&modules)) {
            found.push(format!("{krate}: {}", cycle.join(", ")));
        }
    }
    let new: Vec<_> = found
        .iter()
        .filter(|c| !CYCLES.contains(&c.as_str()))
        .collect();
    assert!(
        new.is_empty(),
        "modules that use each other in a circle: {new:#?}"
    );
    let gone: Vec<_> = CYCLES
        .iter()
        .filter(|c| !found.iter().any(|f| f == *c))
        .collect();
    assert!(
        gone.is_empty(),
        "these cycles are broken; take them out of CYCLES: {gone:#?}"
    );
}

#[test]
fn a_name_is_that_of_one_type() {
    let mut homes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for (krate, modules) in sources() {
        for (module, code) in modules {
            for name in types(&code) {
                homes
                    .entry(name.clone())
                    .or_default()
                    .insert(format!("{krate}::{module}"));
                *count.entry(name).or_default() += 1;
            }
        }
    }
    let shared: Vec<String> = count
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .map(|(name, count)| format!("{name}: {count} types, in {:?}", homes[&name]))
        .collect();
    let now = shared.len();
    assert!(
        now <= NAMES_SHARED_MAX,
        "{now} names belong to more than one type, and at most {NAMES_SHARED_MAX} may: {shared:#?}"
    );
    assert_eq!(
        now, NAMES_SHARED_MAX,
        "fewer names are shared; lower NAMES_SHARED_MAX to {now}"
    );
}

/// The code of each crate without tests, comments and texts, by module.
fn sources() -> BTreeMap<String, Vec<(String, String)>> {
    let mut crates: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let folder = root().join("crates");
    visit(&folder, &mut |path| {
        let inner = path.strip_prefix(&folder).expect("a path under crates");
        let mut parts: Vec<&str> = inner
            .iter()
            .map(|part| part.to_str().expect("a name"))
            .collect();
        let Some(file) = parts.pop().and_then(|file| file.strip_suffix(".rs")) else {
            return;
        };
        if parts.get(1) != Some(&"src") || file == "tests" || file.ends_with("_tests") {
            return;
        }
        let module = match (parts.get(2), file) {
            (Some(folder), _) => (*folder).to_owned(),
            (None, "lib" | "main") => String::new(),
            (None, file) => file.to_owned(),
        };
        // As many steps up as lead from this file to the top of its crate.
        let steps = parts.len() - 1 - usize::from(file == "mod");
        let text = std::fs::read_to_string(path).expect("a source file");
        let code = code_of(&text).replace(&"super::".repeat(steps), "crate::");
        let krate = parts[0].to_owned();
        crates.entry(krate).or_default().push((module, code));
    });
    crates
}

/// For each module, those that it names from the top of the crate.
fn uses_between(modules: &[(String, String)]) -> BTreeMap<&str, BTreeSet<&str>> {
    let known: BTreeSet<&str> = modules.iter().map(|(module, _)| module.as_str()).collect();
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, code) in modules {
        for first in first_names(code, "crate::") {
            if let Some(used) = known.get(first.as_str())
                && *used != module
                && !module.is_empty()
            {
                uses.entry(module).or_default().insert(used);
            }
        }
    }
    uses
}

/// The names right behind a prefix: `a` of `crate::a::B`, and `a`, `b` of `crate::{a::B, b}`.
fn first_names(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (place, _) in code.match_indices(prefix) {
        let rest = &code[place + prefix.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(word(rest).to_owned());
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (at, letter) in list.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                letter if begins && !letter.is_whitespace() => {
                    names.insert(word(&list[at..]).to_owned());
                    begins = false;
                }
                _ => {}
            }
        }
    }
    names
}

/// The names of types and traits that code defines.
fn types(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut before = "";
    for text in code
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|w| !w.is_empty())
    {
        if matches!(before, "struct" | "enum" | "trait") {
            names.push(text.to_owned());
        }
        before = text;
    }
    names
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    &text[..end.unwrap_or(text.len())]
}

/// The groups of modules that reach each other, each sorted, without those of one module.
fn cycles(uses: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<Vec<String>> {
    let reach = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut waiting = vec![from.to_owned()];
        while let Some(module) = waiting.pop() {
            for used in uses.get(module.as_str()).into_iter().flatten() {
                if reached.insert((*used).to_owned()) {
                    waiting.push((*used).to_owned());
                }
            }
        }
        reached
    };
    let reached: BTreeMap<&str, BTreeSet<String>> = uses.keys().map(|m| (*m, reach(m))).collect();
    let mut found = BTreeSet::new();
    for (module, from) in &reached {
        if from.contains(*module) {
            let back = |other: &&String| {
                reached
                    .get(other.as_str())
                    .is_some_and(|r| r.contains(*module))
            };
            found.insert(from.iter().filter(back).cloned().collect::<Vec<_>>());
        }
    }
    found.into_iter().collect()
}

/// Code without comments, the insides of texts, and what is compiled for tests only.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_text(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let begin = hashes + 2;
            rest[begin..]
                .find(&end)
                .map_or(rest.len(), |at| begin + at + end.len())
        } else if letter == '"' {
            text_end(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else {
            0
        };
        if skipped == 0 {
            code.push(letter);
            rest = &rest[letter.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    without_tests(&code)
}

/// The number of `#` of a raw text that begins here: `r"…"`, `r#"…"#`.
fn raw_text(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('r')?;
    let hashes = inner.len() - inner.trim_start_matches('#').len();
    inner[hashes..].starts_with('"').then_some(hashes)
}

/// The length of the text in quotes that begins here.
fn text_end(rest: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Code without the blocks that follow `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept += &rest[..at];
        rest = &rest[at..];
        let mut depth = 0;
        let end = rest.char_indices().find(|(_, letter)| match letter {
            '{' => {
                depth += 1;
                false
            }
            '}' => {
                depth -= 1;
                depth == 0
            }
            letter => *letter == ';' && depth == 0,
        });
        rest = end.map_or("", |(at, letter)| &rest[at + letter.len_utf8()..]);
    }
    kept + rest
}

#[test]
fn cycles_are_found_in_code_and_not_in_comments_texts_and_tests() {
    let module = |name: &str, text: &str| (name.to_owned(), code_of(text));
    let modules = [
        module("a", "use crate::{b::{C, d}, e};\n// crate::f\nstruct A;"),
        module("b", "fn b() { crate::a::A }"),
        module(
            "e",
            "const TEXT: &str = \"crate::a \\\" crate::a\"; const RAW: &str = r#\"crate::a\"#;",
        ),
        module(
            "f",
            "#[cfg(test)]\nmod tests { use crate::a; fn t() {} }\nuse crate::e;",
        ),
        module("e", "/* use crate::f; */"),
    ];
    let uses = uses_between(&modules);
    assert_eq!(uses["a"], BTreeSet::from(["b", "e"]));
    assert_eq!(uses["f"], BTreeSet::from(["e"]));
    assert_eq!(cycles(&uses), [["a", "b"]]);
    assert_eq!(types(&modules[0].1), ["A"]);
}
