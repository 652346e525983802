//! `connections/<name>.yaml`: another system, and how to reach it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};

use busbar_event::{Class, Error};

use crate::diagnostic::Diagnostic;
use crate::tree::{Node, Source, Value};

/// A connection as its file says it: one key names the kind and holds its options.
///
/// ```yaml
/// host: { every: 1s }
/// topic: host/${host}/${subject}
/// ```
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionSpec {
    /// What the connection is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Which connector: `host`, `file`, `http`, `mqtt`, ….
    pub kind: String,
    /// Options, read by the connector.
    pub options: ConnectionOptions,
    /// For sources: the topic of the events, a template over what the connector offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// `false`: the connection is kept but not opened.
    pub enabled: bool,
    /// The files in the connection's folder, `connections/NAME/`, by their paths within it.
    #[serde(skip_serializing_if = "has_no_files", serialize_with = "files_as_map")]
    pub files: Arc<BTreeMap<String, String>>,
}

fn files_as_map<S: Serializer>(
    files: &Arc<BTreeMap<String, String>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    files.as_ref().serialize(serializer)
}

fn has_no_files(files: &Arc<BTreeMap<String, String>>) -> bool {
    files.is_empty()
}

/// The options of a connection, not yet typed: their type belongs to the connector.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    source: Source,
    node: Node,
}

impl ConnectionOptions {
    /// Options that do not come from a project's file.
    ///
    /// # Errors
    /// What is wrong with the text as YAML.
    pub fn from_text(text: &str) -> Result<ConnectionOptions, Diagnostic> {
        let source = Source::parse("connection", text)?;
        Ok(ConnectionOptions {
            node: source.root().clone(),
            source,
        })
    }

    /// The options as the connector's own type.
    ///
    /// # Errors
    /// A diagnostic that points into the connection's file.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Diagnostic> {
        self.source.read_node(&self.node)
    }

    /// The options as they are written.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The option that keys lead to; `None` when it is not there.
    pub fn at(&self, keys: &[String]) -> Option<&Node> {
        keys.iter()
            .try_fold(&self.node, |node, key| node.child(key.as_str().into()))
    }

    /// A diagnostic about a part of an option.
    pub fn diagnostic_at(&self, node: &Node, error: Error) -> Diagnostic {
        Diagnostic::new(
            self.source.file(),
            self.source.text(),
            node.span.clone(),
            error,
        )
    }

    /// The options as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        self.node.to_json()
    }

    /// A diagnostic about one option; about all of them when the key is not there.
    pub fn diagnostic(&self, key: &str, error: Error) -> Diagnostic {
        self.diagnostic_at(self.node.child(key.into()).unwrap_or(&self.node), error)
    }
}

impl Serialize for ConnectionOptions {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.node.serialize(s)
    }
}

const COMMON: [&str; 3] = ["description", "enabled", "topic"];

impl ConnectionSpec {
    /// Reads a connection's file.
    ///
    /// # Errors
    /// No kind, more than one, or a common key of the wrong type.
    pub fn read(source: &Source) -> Result<ConnectionSpec, Diagnostic> {
        let root = source.root();
        let refuse = |span: &std::ops::Range<usize>, code| {
            let error = Error::new(Class::Configuration, code);
            Diagnostic::new(source.file(), source.text(), span.clone(), error)
        };
        let Value::Map(entries) = &root.value else {
            return Err(refuse(&root.span, "catalog.connection-kind"));
        };
        let mut kinds = entries
            .iter()
            .filter(|(k, _)| !COMMON.contains(&k.text.as_str()));
        let Some((key, node)) = kinds.next() else {
            return Err(refuse(&root.span, "catalog.connection-kind"));
        };
        if let Some((second, _)) = kinds.next() {
            return Err(refuse(&second.span, "catalog.connection-kinds"));
        }
        Ok(ConnectionSpec {
            description: common(source, "description")?,
            kind: key.text.clone(),
            options: ConnectionOptions {
                source: source.clone(),
                node: node.clone(),
            },
            topic: common(source, "topic")?,
            enabled: common(source, "enabled")?.unwrap_or(true),
            files: Arc::default(),
        })
    }

    /// A diagnostic that points at the kind's key.
    pub fn diagnostic_at_kind(&self, error: Error) -> Diagnostic {
        self.options
            .source
            .diagnostic_at_key(&[], &self.kind, error)
    }
}

fn common<T: DeserializeOwned>(source: &Source, key: &str) -> Result<Option<T>, Diagnostic> {
    match source.root().child(key.into()) {
        Some(node) => source.read_node::<Option<T>>(node),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_names_the_kind() {
        let read = |text| ConnectionSpec::read(&Source::parse("connections/x.yaml", text).unwrap());
        let spec = read("host: { every: 1s }\ntopic: host/a\n").unwrap();
        assert_eq!(
            (spec.kind.as_str(), spec.topic.as_deref()),
            ("host", Some("host/a"))
        );
        assert_eq!(spec.options.to_json(), serde_json::json!({"every": "1s"}));
        assert_eq!(
            read("topic: a\n").unwrap_err().error().code(),
            "catalog.connection-kind"
        );
        let twice = read("host: {}\nfile: {}\n").unwrap_err();
        assert_eq!(
            (twice.error().code(), twice.word()),
            ("catalog.connection-kinds", "file")
        );
    }

    #[test]
    fn options_are_read_with_places() {
        #[derive(serde::Deserialize, Debug)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)]
        struct Options {
            every: crate::Span,
        }
        let source = Source::parse("connections/x.yaml", "host:\n  evry: 1s\n").unwrap();
        let error = ConnectionSpec::read(&source)
            .unwrap()
            .options
            .read::<Options>()
            .unwrap_err();
        assert_eq!(
            (error.word(), error.error().code()),
            ("evry", "catalog.unknown-key")
        );
        assert_eq!(error.help().unwrap().args()[0].1, "every");
    }
}
