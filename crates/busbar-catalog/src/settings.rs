//! Reads the settings of the process from `busbar.toml`, environment and flags.
//!
//! Every setting is `[section] key` in the file and `BUSBAR_<SECTION>_<KEY>` in the environment. Flags win over
//! environment, environment over file. Each of the three is read by itself first, so that an error names the file and
//! place, the variable, or the flag.

use busbar_event::{Class, Error, quote};
use toml::de::{DeTable, DeValue};

use crate::bundle::CONFIG_FILE;
use crate::config::{Config, OFF};
use crate::diagnostic::{Diagnostic, has_errors, suggest};
use crate::limits::FILE_BYTES_MAX;
use crate::tree::{Node, Spot, Value};

/// Variables that begin with `BUSBAR_` and are no settings of the process: the command line and the build read them.
pub const CLIENT_VARIABLES: [&str; 8] = [
    "BUSBAR_CA",
    "BUSBAR_COMPLETE",
    "BUSBAR_LANG",
    "BUSBAR_NODE",
    "BUSBAR_PASSWORD",
    "BUSBAR_TOKEN",
    "BUSBAR_TOOLS",
    "BUSBAR_USER",
];

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct ConfigSource {
    /// The text of `busbar.toml`, if there is one.
    pub file: Option<String>,
    /// The process's environment, as [`ConfigSource::environment`] reads it.
    pub env: Vec<(String, String)>,
    /// Flags: what people typed (`--data-dir`), section, key, value.
    pub flags: Vec<(String, &'static str, &'static str, String)>,
}

impl ConfigSource {
    /// The variables of the process's environment whose name begins with `BUSBAR_`. What is not UTF-8 in a value is
    /// replaced, so that the setting is refused by name instead of ending the process.
    pub fn environment() -> Vec<(String, String)> {
        std::env::vars_os()
            .filter_map(|(name, value)| {
                let name = name.into_string().ok()?;
                let value = value.to_string_lossy().into_owned();
                name.starts_with("BUSBAR_").then_some((name, value))
            })
            .collect()
    }
}

impl Config {
    /// Brings file, environment and flags together. The diagnostics beside the settings are warnings.
    ///
    /// # Errors
    /// Every unknown key and every value that does not fit.
    pub fn load(source: &ConfigSource) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
        let mut bad = Vec::new();
        let mut merged = Node {
            span: 0..0,
            value: Value::Map(Vec::new()),
            raw: None,
        };
        if let Some(text) = &source.file {
            match parse_file(text) {
                Ok(node) => merge(&mut merged, node),
                Err(diagnostic) => bad.push(diagnostic),
            }
        }
        for (name, value) in &source.env {
            let Some(rest) = name.strip_prefix("BUSBAR_") else {
                continue;
            };
            if CLIENT_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            if value.trim().is_empty() {
                let error = Error::new(Class::Configuration, "catalog.empty-variable");
                let error = error.with("name", name);
                bad.push(Diagnostic::new(name, "", 0..0, error).warning());
                continue;
            }
            if value.contains(char::REPLACEMENT_CHARACTER) {
                let error = Error::new(Class::Configuration, "catalog.variable-not-text");
                let error = error.with("name", name);
                bad.push(Diagnostic::new(name, "", 0..0, error));
                continue;
            }
            match parse_variable(name, rest, value) {
                Ok(node) => merge(&mut merged, node),
                Err(diagnostic) => bad.push(diagnostic),
            }
        }
        for (flag, section, key, value) in &source.flags {
            match parse_setting(flag, section, key, value) {
                Ok(node) => merge(&mut merged, node),
                Err(diagnostic) => bad.push(diagnostic),
            }
        }
        if has_errors(&bad) {
            return Err(bad);
        }
        let text = source.file.as_deref().unwrap_or_default();
        let config: Config = merged
            .read()
            .map_err(|e| vec![e.diagnostic(CONFIG_FILE, text, &merged)])?;
        config
            .check()
            .map_err(|e| vec![Diagnostic::new(CONFIG_FILE, "", 0..0, e)])?;
        Ok((config, bad))
    }

    /// Checks the text of a `busbar.toml`.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check_file(text: &str) -> Result<(), Diagnostic> {
        parse_file(text).map(|_| ())
    }

    fn check(&self) -> Result<(), Error> {
        let pairs = [
            ("http", &self.http.tls_cert, &self.http.tls_key, false),
            (
                "amqp",
                &self.amqp.tls_cert,
                &self.amqp.tls_key,
                self.amqp.tls_listen != OFF,
            ),
            (
                "mqtt",
                &self.mqtt.tls_cert,
                &self.mqtt.tls_key,
                self.mqtt.tls_listen != OFF,
            ),
        ];
        for (section, cert, key, needed) in pairs {
            if cert.is_some() != key.is_some() || (needed && cert.is_none()) {
                return Err(
                    Error::new(Class::Configuration, "catalog.tls-pair").with("section", section)
                );
            }
        }
        Ok(())
    }
}

fn parse_file(text: &str) -> Result<Node, Diagnostic> {
    let refuse = |span, error| Err(Diagnostic::new(CONFIG_FILE, text, span, error));
    if text.len() > FILE_BYTES_MAX {
        let error = Error::new(Class::Configuration, "catalog.file-too-long")
            .with("bytes", text.len())
            .with("bytes_max", FILE_BYTES_MAX);
        return refuse(0..0, error);
    }
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(e) => {
            let span = e.span().unwrap_or(0..0);
            // The parser tells this apart by its words alone.
            let error = match e.message().contains("duplicate key") {
                true => Error::new(Class::Configuration, "catalog.duplicate-key")
                    .with("name", text.get(span.clone()).unwrap_or_default()),
                false => Error::new(Class::Configuration, "catalog.toml"),
            };
            return refuse(span, error);
        }
    };
    let node = table_node(table.span(), table.get_ref());
    checked(CONFIG_FILE, text, node)
}

/// A part of the settings, if every value in it fits. Every key has a default, so that a part can be read by itself.
fn checked(from: &str, text: &str, node: Node) -> Result<Node, Diagnostic> {
    if let Err(error) = node.read::<Config>() {
        return Err(error.diagnostic(from, text, &node));
    }
    let value = |section: &'static str, key: &'static str| {
        let found = node.child(section.into())?.child(key.into())?;
        let Value::Text(written) = &found.value else {
            let written = found.raw.as_deref().unwrap_or_default();
            return Some((found, written));
        };
        Some((found, written.as_str()))
    };
    for (section, key, port) in [
        ("amqp", "listen", 5672),
        ("amqp", "tls_listen", 5671),
        ("http", "listen", 8080),
        ("mqtt", "listen", 1883),
        ("mqtt", "tls_listen", 8883),
    ] {
        let Some((found, listen)) = value(section, key) else {
            continue;
        };
        if let Err(port) = check_listen(listen, port) {
            let error = Error::new(Class::Configuration, "catalog.listen")
                .with("value", quote(listen))
                .with("port", port);
            return Err(Diagnostic::new(from, text, found.span.clone(), error));
        }
    }
    if let Some((found, dir)) = value("data", "dir")
        && dir.trim().is_empty()
    {
        let error = Error::new(Class::Configuration, "catalog.empty-folder");
        return Err(Diagnostic::new(from, text, found.span.clone(), error));
    }
    Ok(node)
}

/// Whether a text is `off`, or a host and a port. What is refused comes with the port for the message: the one that
/// was most likely meant, or the usual one.
fn check_listen(listen: &str, usual: u16) -> Result<(), u16> {
    if listen == OFF {
        return Ok(());
    }
    let (host, port) = listen.rsplit_once(':').unwrap_or(("", listen));
    match port.parse::<u16>() {
        Ok(port) if host.is_empty() => Err(port),
        Ok(_) => Ok(()),
        Err(_) => Err(usual),
    }
}

fn table_node(span: std::ops::Range<usize>, table: &DeTable<'_>) -> Node {
    let entries = table
        .iter()
        .map(|(key, value)| {
            let spot = Spot {
                text: key.get_ref().to_string(),
                span: key.span(),
            };
            (spot, value_node(value.span(), value.get_ref()))
        })
        .collect();
    Node {
        span,
        value: Value::Map(entries),
        raw: None,
    }
}

fn value_node(span: std::ops::Range<usize>, value: &DeValue<'_>) -> Node {
    let mut raw = None;
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Integer(number) => {
            let digits = number.as_str();
            raw = Some(digits.into());
            // Too large for any setting: as text it is refused with its place.
            i64::from_str_radix(digits, number.radix())
                .map_or_else(|_| Value::Text(digits.to_owned()), Value::Int)
        }
        DeValue::Float(number) => {
            raw = Some(number.as_str().into());
            let text = number.as_str();
            text.parse()
                .map_or_else(|_| Value::Text(text.to_owned()), Value::Float)
        }
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => Value::Seq(
            items
                .iter()
                .map(|i| value_node(i.span(), i.get_ref()))
                .collect(),
        ),
        DeValue::Table(table) => return table_node(span, table),
    };
    Node { span, value, raw }
}

/// `BUSBAR_HTTP_LISTEN` is `[http] listen`: the section has no underscore, the key may have.
fn parse_variable(name: &str, rest: &str, value: &str) -> Result<Node, Diagnostic> {
    let lower = rest.to_ascii_lowercase();
    let (section, key) = lower.split_once('_').unwrap_or((&lower, ""));
    let sections = [
        "amqp", "data", "deploy", "files", "http", "limits", "log", "mqtt",
    ];
    if !sections.contains(&section) || key.is_empty() {
        let error = Error::new(Class::Configuration, "catalog.unknown-variable").with("name", name);
        let known: Vec<String> = sections
            .iter()
            .map(|s| format!("BUSBAR_{}", s.to_ascii_uppercase()))
            .chain(CLIENT_VARIABLES.iter().map(|v| (*v).to_owned()))
            .collect();
        let head = format!("BUSBAR_{}", section.to_ascii_uppercase());
        let help = suggest(name, known.iter().map(String::as_str))
            .or_else(|| suggest(&head, known.iter().map(String::as_str)));
        // Other programs may have variables of this name; a mistyped section is more likely.
        return Err(Diagnostic::new(name, value, 0..value.len(), error)
            .with_help(help)
            .warning());
    }
    parse_setting(name, section, key, value)
}

fn parse_setting(from: &str, section: &str, key: &str, value: &str) -> Result<Node, Diagnostic> {
    let span = 0..value.len();
    let typed = match value.trim() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        text => text
            .parse()
            .map_or_else(|_| Value::Text(value.to_owned()), Value::Int),
    };
    let leaf = Node {
        span: span.clone(),
        value: typed,
        raw: Some(value.into()),
    };
    let wrap = |key: &str, node: Node| Node {
        span: span.clone(),
        value: Value::Map(vec![(
            Spot {
                text: key.to_owned(),
                span: span.clone(),
            },
            node,
        )]),
        raw: None,
    };
    checked(from, value, wrap(section, wrap(key, leaf)))
}

/// Puts the settings of `over` over those of `under`.
fn merge(under: &mut Node, over: Node) {
    match (&mut under.value, over.value) {
        (Value::Map(into), Value::Map(from)) => {
            for (key, node) in from {
                match into.iter_mut().find(|(k, _)| k.text == key.text) {
                    Some((_, old)) => merge(old, node),
                    None => into.push((key, node)),
                }
            }
        }
        (slot, value) => {
            *slot = value;
            under.span = over.span;
            under.raw = over.raw;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn source(file: &str, env: &[(&str, &str)]) -> ConfigSource {
        ConfigSource {
            file: Some(file.to_owned()),
            env: env
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
            flags: Vec::new(),
        }
    }

    #[test]
    fn flags_win_over_environment_and_environment_over_file() {
        let file =
            "[http]\nlisten = \"127.0.0.1:1\"\n[mqtt]\nlisten = \"127.0.0.1:2\"\nws = true\n";
        let env = [
            ("BUSBAR_HTTP_LISTEN", "127.0.0.1:3"),
            ("BUSBAR_MQTT_WS", "false"),
            ("PATH", "/"),
        ];
        let mut source = source(file, &env);
        source
            .flags
            .push(("--data-dir".into(), "data", "dir", "/var/x".into()));
        let (config, warnings) = Config::load(&source).unwrap();
        assert!(warnings.is_empty());
        assert_eq!(config.http.listen, "127.0.0.1:3");
        assert_eq!(config.mqtt.listen, "127.0.0.1:2");
        assert!(!config.mqtt.ws);
        assert_eq!(config.data.dir, PathBuf::from("/var/x"));
        // A number is a fine name of a folder.
        let source = self::source(
            "",
            &[("BUSBAR_DATA_DIR", "5"), ("BUSBAR_LIMITS_CONNECTIONS", "7")],
        );
        let (config, _) = Config::load(&source).unwrap();
        assert_eq!(
            (config.data.dir, config.limits.connections),
            ("5".into(), 7)
        );
    }

    /// A file in which one setting has a value; certificates have the keys they need.
    fn file_with(section: &str, key: &str, value: &str) -> String {
        let mut file = String::new();
        for (name, pair) in [
            ("amqp", true),
            ("data", false),
            ("deploy", false),
            ("files", false),
            ("http", true),
            ("limits", false),
            ("log", false),
            ("mqtt", true),
        ] {
            file.push_str(&format!("[{name}]\n"));
            for other in ["tls_cert", "tls_key"] {
                if pair && (name, other) != (section, key) {
                    file.push_str(&format!("{other} = \"some.pem\"\n"));
                }
            }
            if name == section {
                let plain = value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok();
                let quote = if plain { "" } else { "\"" };
                file.push_str(&format!("{key} = {quote}{value}{quote}\n"));
            }
        }
        file
    }

    #[test]
    fn every_setting_can_come_from_file_environment_and_flag_in_this_order() {
        let schema = crate::schema::schema(crate::Kind::Config);
        let sections = schema["properties"].as_object().unwrap();
        let mut seen = 0;
        for (section, spec) in sections {
            let path = spec["$ref"].as_str().unwrap().trim_start_matches('#');
            for key in schema.pointer(path).unwrap()["properties"]
                .as_object()
                .unwrap()
                .keys()
            {
                let value_of = |source: &ConfigSource| {
                    let (config, _) = Config::load(source).ok()?;
                    Some(serde_json::to_value(config).unwrap()[section][key].clone())
                };
                // Some kinds of values, of which each setting takes one.
                let kinds = [
                    ["17", "18"],
                    ["true", "false"],
                    ["17s", "18s"],
                    ["3MiB", "5MiB"],
                    ["json", "text"],
                    ["127.0.0.1:5", "localhost:6"],
                    ["warn", "refuse"],
                    ["a.pem", "b.pem"],
                ];
                let fitting = kinds.iter().find_map(|[one, other]| {
                    let first = value_of(&source(&file_with(section, key, one), &[]))?;
                    let second = value_of(&source(&file_with(section, key, other), &[]))?;
                    (first != second).then_some((*one, first, *other, second))
                });
                let (one, first, other, second) =
                    fitting.unwrap_or_else(|| panic!("[{section}] {key} takes nothing"));
                let name = format!("BUSBAR_{section}_{key}").to_uppercase();
                let mut source = source(&file_with(section, key, one), &[(&*name, other)]);
                assert_eq!(value_of(&source), Some(second), "{name} over the file");
                let (section, key): (&'static str, &'static str) =
                    (section.clone().leak(), key.clone().leak());
                source
                    .flags
                    .push(("--flag".to_owned(), section, key, one.to_owned()));
                assert_eq!(value_of(&source), Some(first), "a flag over {name}");
                seen += 1;
            }
        }
        assert!(seen >= 30, "{seen} settings");
    }

    #[test]
    fn folders_are_a_list_in_the_file_and_separated_by_colons_elsewhere() {
        let allowed = |file: &str, env: &[(&str, &str)]| {
            let (config, warnings) = Config::load(&source(file, env)).unwrap();
            assert!(warnings.is_empty(), "{warnings:?}");
            config.files.allow
        };
        let two = [PathBuf::from("/data/in"), PathBuf::from("/srv/out")];
        let file = "[files]\nallow = [\"/data/in\", \"/srv/out\"]\n";
        assert_eq!(allowed(file, &[]), two);
        let variable = [("BUSBAR_FILES_ALLOW", "/data/in:/srv/out")];
        assert_eq!(allowed("", &variable), two);
        assert!(allowed("", &[]).is_empty());
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for (listen, port) in [
            ("28080", "28080"),
            (":28080", "28080"),
            ("localhost", "8080"),
            ("localhost:", "8080"),
            ("127.0.0.1:99999", "8080"),
            ("", "8080"),
        ] {
            let file = format!("[http]\nlisten = \"{listen}\"\n");
            let bad = Config::load(&source(&file, &[])).unwrap_err();
            assert_eq!(bad[0].error().code(), "catalog.listen", "{listen}");
            assert_eq!(bad[0].error().args()[1].1, port, "{listen}");
            assert_eq!(bad[0].word(), format!("\"{listen}\""));
        }
        let bad = Config::load(&source("", &[("BUSBAR_MQTT_LISTEN", "1883")])).unwrap_err();
        assert_eq!(bad[0].file(), "BUSBAR_MQTT_LISTEN");
        assert_eq!(bad[0].error().code(), "catalog.listen");
        for good in ["off", "[::1]:0", "localhost:80", "0.0.0.0:1"] {
            let file = format!("[http]\nlisten = \"{good}\"\n");
            assert!(Config::load(&source(&file, &[])).is_ok(), "{good}");
        }
    }

    #[test]
    fn an_empty_variable_is_not_set_and_an_empty_folder_is_refused() {
        let (config, warnings) = Config::load(&source("", &[("BUSBAR_DATA_DIR", "")])).unwrap();
        assert_eq!(config.data.dir, PathBuf::from("data"));
        assert_eq!(warnings[0].error().code(), "catalog.empty-variable");
        let bad = Config::load(&source("[data]\ndir = \"\"\n", &[])).unwrap_err();
        assert_eq!(bad[0].error().code(), "catalog.empty-folder");
        let bad = Config::load(&source("", &[("BUSBAR_DATA_DIR", "a\u{fffd}")])).unwrap_err();
        assert_eq!(bad[0].error().code(), "catalog.variable-not-text");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let bad = |s: &ConfigSource| {
            let bad = Config::load(s).unwrap_err();
            let help = bad[0]
                .help()
                .and_then(|h| h.args().first())
                .map(|a| a.1.clone());
            (
                bad[0].file().to_owned(),
                bad[0].error().code(),
                bad[0].word().to_owned(),
                help,
            )
        };
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(
            bad(&source("[http]\nlisen = \"x\"\n", &[])),
            (
                "busbar.toml".into(),
                "catalog.unknown-key",
                "lisen".into(),
                some("listen")
            )
        );
        let (file, code, word, _) = bad(&source("[limits]\nquery_time = \"5 parsec\"\n", &[]));
        assert_eq!(
            (file.as_str(), code, word.as_str()),
            ("busbar.toml", "catalog.invalid", "\"5 parsec\"")
        );
        let (file, code, ..) = bad(&source("", &[("BUSBAR_MQTT_LISEN", "x")]));
        assert_eq!(
            (file.as_str(), code),
            ("BUSBAR_MQTT_LISEN", "catalog.unknown-key")
        );
        let (_, code, word, _) = bad(&source("a = [", &[]));
        assert_eq!((code, word.len() <= 2), ("catalog.toml", true));
        let (_, code, ..) = bad(&source("[mqtt]\ntls_listen = \"127.0.0.1:8883\"\n", &[]));
        assert_eq!(code, "catalog.tls-pair");
        let (_, warnings) = Config::load(&source("", &[("BUSBAR_HTPP_LISTEN", "x")])).unwrap();
        assert_eq!(warnings[0].error().code(), "catalog.unknown-variable");
    }
}
