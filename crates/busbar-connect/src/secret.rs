//! Passwords and tokens in options.

use std::io::Read;
use std::path::Path;

use busbar_catalog::{ConnectionSpec, Diagnostic, Value};
use busbar_connector::{HIDDEN, LiteralSecret};
use busbar_event::{Class, Error, quote};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::SECRET_BYTES_MAX;
use crate::places::{PathRefused, Places};

/// A text; `{ env: NAME }` takes it from the environment and `{ file: PATH }` from a file that holds nothing else, so that
/// it does not stand in the connection's file.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Secret {
    /// The text itself.
    Text(String),
    /// The name of the variable that holds it.
    Env(Env),
    /// The path of the file that holds it.
    File(SecretFile),
}

/// Where the text stands.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Env {
    /// The variable.
    env: String,
}

/// Which file it stands in.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretFile {
    /// The file: inside the project's folder, or in one that `[files] allow` names. A line break at its end does not count.
    file: String,
}

impl Secret {
    /// The text. Blocks on the disk where it stands in a file.
    ///
    /// # Errors
    /// *Configuration*: the variable or the file is not there, or holds no text.
    pub(crate) fn read(&self, project: &Path, places: &Places) -> Result<String, Error> {
        match self {
            Secret::Text(text) => Ok(text.clone()),
            Secret::Env(Env { env }) => std::env::var(env).map_err(|why| {
                let code = match why {
                    std::env::VarError::NotPresent => "connect.no-variable",
                    std::env::VarError::NotUnicode(_) => "connect.variable-not-text",
                };
                Error::new(Class::Configuration, code).with("name", env)
            }),
            Secret::File(SecretFile { file }) => read_file(&project.join(file), project, places),
        }
    }

    /// The file that holds it.
    pub(crate) fn file(&self) -> Option<&str> {
        match self {
            Secret::File(SecretFile { file }) => Some(file),
            Secret::Text(_) | Secret::Env(_) => None,
        }
    }

    /// The text, if it is in the file itself.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Secret::Text(text) => Some(text),
            Secret::Env(_) | Secret::File(_) => None,
        }
    }
}

fn read_file(path: &Path, project: &Path, places: &Places) -> Result<String, Error> {
    let unusable =
        || Error::new(Class::Configuration, "connect.secret-file").with("file", path.display());
    let path = places
        .resolve(project, path)
        .map_err(|refused| match refused {
            PathRefused::Outside(error) => error,
            PathRefused::Io(why) => unusable().caused_by(why),
        })?;
    let mut text = String::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(SECRET_BYTES_MAX).read_to_string(&mut text))
        .map_err(|why| unusable().caused_by(why))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

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

/// The secrets that stand in the file at these places of the options.
pub(crate) fn literals(spec: &ConnectionSpec, places: &[&[&str]]) -> Vec<LiteralSecret> {
    let paths = places.iter().map(|place| {
        let keys = place.iter().map(|key| (*key).to_owned());
        keys.collect::<Vec<_>>()
    });
    let literal = |path: &Vec<String>| {
        let node = spec.options.at(path);
        node.is_some_and(|node| !matches!(node.value, Value::Map(_) | Value::Null))
    };
    let secrets = paths.filter(literal).map(|path| LiteralSecret {
        path,
        shown: HIDDEN.into(),
    });
    secrets.collect()
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
            Secret::File(SecretFile { file }) => write!(f, "{file}"),
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
        let folder = tempfile::tempdir().expect("a folder");
        let read = |secret: Secret| secret.read(folder.path(), &Places::default());
        let missing = read(Secret::Env(Env { env })).unwrap_err();
        assert_eq!(missing.class(), Class::Configuration);
        std::fs::write(folder.path().join("key"), "hunter2\n").expect("a file");
        let file = |file: &str| Secret::File(SecretFile { file: file.into() });
        assert_eq!(read(file("key")).unwrap(), "hunter2");
        assert_eq!(
            read(file("none")).unwrap_err().code(),
            "connect.secret-file"
        );
        assert_eq!(
            read(file("/etc/passwd")).unwrap_err().code(),
            "connect.file-link"
        );
    }
}
