//! Passwords and tokens in options.

use busbar_event::{Class, Error};
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
            Secret::Env(Env { env }) => std::env::var(env).map_err(|_| {
                Error::new(Class::Configuration, "connect.no-variable").with("name", env)
            }),
        }
    }

    /// The text, if it stands in the file.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Secret::Text(text) => Some(text),
            Secret::Env(_) => None,
        }
    }
}

/// Never shows what it holds.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Secret::Text(_) => f.write_str("(hidden)"),
            Secret::Env(Env { env }) => write!(f, "${env}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::Text("hunter2".into());
        assert!(!format!("{secret:?}").contains("hunter2"));
        let env = "BUSBAR_TEST_NO_SUCH".to_owned();
        let missing = Secret::Env(Env { env }).read().unwrap_err();
        assert_eq!(missing.class(), Class::Configuration);
    }
}
