//! Passwords and tokens in options.

use busbar_catalog::{ConnectionSpec, Diagnostic, Value};
use busbar_connector::LiteralSecret;
use busbar_event::{Class, Error, quote};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A text, or `{ env: NAME }` to take it from the environment, so that it stands in no file.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Secret {
    /// The text itself.
    Text(String),
    /// The name of the variable that holds it.
    Env(Env),
}

/// Where the text stands.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Env {
    /// The variable.
    env: String,
}

impl Secret {
    /// The text.
    pub(crate) fn read(&self) -> Result<String, Error> {
        match self {
            Secret::Text(text) => Ok(text.clone()),
            Secret::Env(Env { env }) => std::env::var(env).map_err(|why| {
                let code = match why {
                    std::env::VarError::NotPresent => "connect.no-variable",
                    std::env::VarError::NotUnicode(_) => "connect.variable-not-text",
                };
                Error::new(Class::Configuration, code).with("name", env)
            }),
        }
    }

    /// The text, if it is in the file itself.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Secret::Text(text) => Some(text),
            Secret::Env(_) => None,
        }
    }
}

/// What is shown in the place of a secret.
pub(crate) const HIDDEN: &str = "(hidden)";

/// The first part of a text that looks as if it were replaced by a variable, such as `{{env.TOKEN}}` or `${TOKEN}`.
/// Nothing of the kind is replaced in options, so that it would be sent as it is.
pub(crate) fn placeholder(text: &str) -> Option<&str> {
    let name = |name: &str| {
        let name = name.trim();
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.:- ".contains(&b))
    };
    [("{{", "}}"), ("${", "}")]
        .into_iter()
        .find_map(|(open, close)| {
            text.match_indices(open).find_map(|(at, _)| {
                let inner = &text[at + open.len()..];
                let end = inner.find(close)?;
                let whole = at + open.len() + end + close.len();
                name(&inner[..end]).then(|| &text[at..whole])
            })
        })
}

/// Refuses an option with a placeholder in it.
pub(crate) fn refuse_placeholder(spec: &ConnectionSpec, path: &[&str]) -> Result<(), Diagnostic> {
    let path: Vec<String> = path.iter().map(|key| (*key).to_owned()).collect();
    let Some(node) = spec.options.at(&path) else {
        return Ok(());
    };
    let Value::Text(text) = &node.value else {
        return Ok(());
    };
    match placeholder(text) {
        None => Ok(()),
        Some(found) => {
            let error = Error::new(Class::Configuration, "connect.placeholder");
            let error = error.with("placeholder", quote(found));
            Err(spec.options.diagnostic_at(node, error))
        }
    }
}

/// A warning about each secret that is written in the file.
pub(crate) fn warnings(spec: &ConnectionSpec, secrets: &[LiteralSecret]) -> Vec<Diagnostic> {
    let places = secrets
        .iter()
        .filter_map(|secret| spec.options.at(&secret.path));
    places
        .map(|node| {
            let error = Error::new(Class::Configuration, "connect.literal-secret");
            spec.options.diagnostic_at(node, error).warning()
        })
        .collect()
}

/// Never shows what it holds.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Secret::Text(_) => f.write_str(HIDDEN),
            Secret::Env(Env { env }) => write!(f, "${env}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_and_other_braces_are_not() {
        for (text, found) in [
            ("Bearer {{env.TOKEN}}", Some("{{env.TOKEN}}")),
            ("{{ TOKEN }}", Some("{{ TOKEN }}")),
            ("a${TOKEN}b", Some("${TOKEN}")),
            ("${env:TOKEN}", Some("${env:TOKEN}")),
            ("{\"a\":{\"b\":1}}", None),
            ("pa${}ss", None),
            ("pa$ss{word}", None),
            ("{{", None),
        ] {
            assert_eq!(placeholder(text), found, "{text}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::Text("hunter2".into());
        assert!(!format!("{secret:?}").contains("hunter2"));
        let env = "BUSBAR_TEST_NO_SUCH".to_owned();
        let missing = Secret::Env(Env { env }).read().unwrap_err();
        assert_eq!(missing.class(), Class::Configuration);
    }
}
