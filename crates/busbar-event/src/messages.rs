//! The catalogue of texts that people see: one file a language and area, one `code = text` a line.
//!
//! A code's part before its first dot names the area; `{name}` in a text stands for the argument
//! of that name. Lines that begin with `#` are comments.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The languages that every message exists in.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// English.
    #[default]
    En,
    /// Simplified Chinese.
    Zh,
}

impl Language {
    /// Every language there is.
    pub const ALL: [Language; 2] = [Language::En, Language::Zh];

    /// The language that a tag such as `zh-CN`, `zh_CN.UTF-8` or `en` asks for; English if it is
    /// none of ours.
    pub fn from_tag(tag: &str) -> Language {
        match tag.trim().get(..2) {
            Some(head) if head.eq_ignore_ascii_case("zh") => Language::Zh,
            _ => Language::En,
        }
    }
}

/// The text of `code` in `language` with its arguments filled in. A code that no catalogue knows
/// is shown as itself with its arguments, so that nothing is ever hidden.
pub fn text<N: AsRef<str>, V: AsRef<str>>(
    language: Language,
    code: &str,
    args: &[(N, V)],
) -> String {
    let Some(template) = template(language, code) else {
        let mut out = code.to_string();
        for (name, value) in args {
            out.push_str(&format!(" {}={}", name.as_ref(), value.as_ref()));
        }
        return out;
    };
    let mut out = String::with_capacity(template.len() + 32);
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let Some(close) = rest[open..].find('}') else {
            break;
        };
        let name = &rest[open + 1..open + close];
        out.push_str(&rest[..open]);
        match args
            .iter()
            .find(|(candidate, _)| candidate.as_ref() == name)
        {
            Some((_, value)) => out.push_str(value.as_ref()),
            None => out.push_str(&rest[open..=open + close]),
        }
        rest = &rest[open + close + 1..];
    }
    out.push_str(rest);
    out
}

/// The text of `code` before its arguments are filled in.
pub fn template(language: Language, code: &str) -> Option<&'static str> {
    catalogue(language).get(code).copied()
}

/// The code whose English text this is, of those without arguments.
pub fn code_of(text: &str) -> Option<&'static str> {
    let mut known = catalogue(Language::En).iter();
    known
        .find(|(_, known)| **known == text)
        .map(|(code, _)| *code)
}

/// The code of the text for what the operating system reports; none for an error that has words of its own.
pub fn words_of(error: &std::io::Error) -> Option<&'static str> {
    use std::io::ErrorKind as Kind;
    if error.get_ref().is_some() {
        return None;
    }
    Some(match error.kind() {
        Kind::NotFound => "event.io-not-found",
        Kind::PermissionDenied => "event.io-denied",
        Kind::ConnectionRefused => "event.io-refused",
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => "event.io-broken",
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
            "event.io-unreachable"
        }
        Kind::TimedOut => "event.io-timeout",
        Kind::AddrInUse => "event.io-in-use",
        Kind::AddrNotAvailable => "event.io-no-address",
        Kind::AlreadyExists => "event.io-exists",
        Kind::IsADirectory => "event.io-folder",
        Kind::NotADirectory => "event.io-no-folder",
        Kind::UnexpectedEof => "event.io-ends",
        Kind::StorageFull | Kind::QuotaExceeded => "event.io-full",
        Kind::ReadOnlyFilesystem => "event.io-read-only",
        _ => return None,
    })
}

/// A code that the catalogue knows, and the names of the arguments in its text.
pub(crate) fn known(code: &str) -> Option<(&'static str, impl Iterator<Item = &'static str>)> {
    let (code, text) = catalogue(Language::En).get_key_value(code)?;
    let names = text.split('{').skip(1);
    Some((
        *code,
        names.filter_map(|part| part.split_once('}').map(|(name, _)| name)),
    ))
}

/// Every code and text of a language, ordered by code.
pub fn all(language: Language) -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<_> = catalogue(language)
        .iter()
        .map(|(code, text)| (*code, *text))
        .collect();
    all.sort_unstable();
    all
}

macro_rules! areas {
    ($($area:literal),* $(,)?) => {
        /// Area, English file, Chinese file.
        const AREAS: &[(&str, &str, &str)] = &[$((
            $area,
            include_str!(concat!("../messages/en/", $area, ".txt")),
            include_str!(concat!("../messages/zh/", $area, ".txt")),
        )),*];
    };
}

areas![
    "access",
    "bus",
    "cassandra",
    "catalog",
    "cli",
    "clickhouse",
    "connect",
    "database",
    "driver",
    "elastic",
    "event",
    "fhir",
    "flow",
    "gateway",
    "hbase",
    "help",
    "jdbc",
    "kafka",
    "log",
    "mllp",
    "mongodb",
    "mqtt",
    "mysql",
    "odbc",
    "orchestrate",
    "plugin",
    "postgres",
    "process",
    "redis",
    "s3",
    "server",
    "sql",
    "sqlserver",
    "table",
    "xml",
    "xsd",
];

/// The lines of a catalogue file that carry a message.
fn entries(file: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    file.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(code, text)| (code.trim(), text.trim()))
}

fn catalogue(language: Language) -> &'static HashMap<&'static str, &'static str> {
    static EN: LazyLock<HashMap<&'static str, &'static str>> =
        LazyLock::new(|| AREAS.iter().flat_map(|(_, en, _)| entries(en)).collect());
    static ZH: LazyLock<HashMap<&'static str, &'static str>> =
        LazyLock::new(|| AREAS.iter().flat_map(|(_, _, zh)| entries(zh)).collect());
    match language {
        Language::En => &EN,
        Language::Zh => &ZH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::{Path, PathBuf};

    /// Codes of a file with the names of their arguments.
    fn codes(
        area: &str,
        language: &str,
        file: &'static str,
    ) -> BTreeMap<&'static str, BTreeSet<String>> {
        let mut codes = BTreeMap::new();
        for line in file.lines().map(str::trim) {
            assert!(
                line.is_empty() || line.starts_with('#') || line.contains('='),
                "{language}/{area}.txt: not `code = text`: {line}"
            );
        }
        for (code, text) in entries(file) {
            let here = format!("{language}/{area}.txt: {code}");
            assert!(
                code.starts_with(&format!("{area}.")),
                "{here}: not of this area"
            );
            assert!(!text.is_empty(), "{here}: has no text");
            let args = text.split('{').skip(1).map(|part| {
                let (name, _) = part
                    .split_once('}')
                    .unwrap_or_else(|| panic!("{here}: open brace"));
                name.to_string()
            });
            assert!(
                codes.insert(code, args.collect()).is_none(),
                "{here}: twice"
            );
        }
        codes
    }

    #[test]
    fn both_languages_have_the_same_codes_and_arguments() {
        for (area, en, zh) in AREAS {
            let (en, zh) = (codes(area, "en", en), codes(area, "zh", zh));
            let keys =
                |codes: &BTreeMap<&'static str, _>| codes.keys().copied().collect::<Vec<_>>();
            assert_eq!(keys(&en), keys(&zh), "codes of area {area} differ");
            for (code, args) in en {
                assert_eq!(args, zh[code], "arguments of {code} differ");
            }
        }
    }

    #[test]
    fn every_file_of_the_catalogue_is_read() {
        for language in ["en", "zh"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("messages")
                .join(language);
            for file in std::fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                let area = path.file_stem().unwrap().to_str().unwrap().to_string();
                assert!(
                    AREAS.iter().any(|(known, ..)| *known == area),
                    "{path:?} is in no list"
                );
            }
        }
    }

    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    /// The code in the first string literal of a call's arguments, which begin at `rest`.
    fn literal(rest: &str) -> Option<&str> {
        let end = rest.find([')', ';']).unwrap_or(rest.len());
        rest[..end].split('"').nth(1)
    }

    #[test]
    fn every_code_that_is_raised_is_in_the_catalogue() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap()
            .to_path_buf();
        let (mut files, mut seen, mut missing) = (Vec::new(), 0, BTreeSet::new());
        for entry in std::fs::read_dir(crates).unwrap() {
            sources(&entry.unwrap().path().join("src"), &mut files);
        }
        for path in files {
            let source = std::fs::read_to_string(&path).unwrap();
            for (at, call) in source.match_indices(".with_text(") {
                let rest = &source[at + call.len()..];
                let end = rest.find([')', ';']).unwrap_or(rest.len());
                if let Some(code) = rest[..end].split('"').nth(3)
                    && template(Language::En, code).is_none()
                {
                    missing.insert(format!("{code} in {}", path.display()));
                }
            }
            for (at, call) in source.match_indices("Error::new(") {
                let rest = &source[at + call.len()..];
                // Only ours: `io::Error::new`, `LogError::new` and the like are preceded by more.
                let prefix = source[..at].trim_end_matches("busbar_event::");
                if prefix.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                let Some(code) = literal(rest) else { continue };
                let dotted = code.split_once('.').is_some_and(|(area, name)| {
                    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                    area.chars().all(plain) && name.chars().all(|c| plain(c) || c == '.')
                });
                if !dotted {
                    continue;
                }
                seen += 1;
                if template(Language::En, code).is_none() {
                    missing.insert(format!("{code} in {}", path.display()));
                }
            }
        }
        assert!(seen > 10, "the scan finds nothing: {seen}");
        assert!(missing.is_empty(), "codes without a text: {missing:#?}");
    }

    #[test]
    fn fills_in_arguments_and_shows_what_is_unknown() {
        let shown = text(Language::En, "nowhere.at-all", &[("a", "1"), ("b", "2")]);
        assert_eq!(shown, "nowhere.at-all a=1 b=2");
        let shown = text(
            Language::En,
            "event.topic-wildcard",
            &[("topic", "{topic}/+")],
        );
        assert!(shown.contains("{topic}/+"), "{shown}");
        assert_eq!(Language::from_tag("zh_CN.UTF-8"), Language::Zh);
        assert_eq!(Language::from_tag("fr"), Language::En);
        assert_eq!(Language::from_tag("é"), Language::En);
        assert!(
            all(Language::En)
                .iter()
                .any(|(code, _)| *code == "event.topic-wildcard")
        );
    }
}
