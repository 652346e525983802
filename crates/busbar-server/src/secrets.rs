//! Secrets that stand in a project's files: hidden in every answer, put back when what was hidden is sent in again.

use std::collections::BTreeMap;

use busbar_catalog::{Bundle, ConnectionSpec, Diagnostic, Parsed, Project, Value};
use busbar_connector::{Connectors, LiteralSecret};
use busbar_event::{Class, Error};

/// The files of a project, with what may be shown in place of each secret.
pub(crate) fn masked(project: &Project, connectors: &Connectors) -> BTreeMap<String, String> {
    let mut files = project.bundle.files.clone();
    for connection in project.connections.values() {
        let secrets = secrets(&connection.spec, connectors);
        let replacements = secrets.iter().filter_map(|secret| {
            let node = connection.spec.options.at(&secret.path)?;
            let span = whole_scalar(connection.source.text(), node.span.clone());
            Some((span, quoted(&secret.shown)))
        });
        let mut text = replaced(connection.source.text(), replacements.collect());
        // The same text elsewhere in the file, as in a comment or behind an anchor.
        for secret in &secrets {
            if let Some(value) = text_at(&connection.spec, secret)
                && value.len() >= SECRET_BYTES_LEAST
                && value != secret.shown
            {
                text = text.replace(value, &secret.shown);
            }
        }
        files.insert(connection.source.file().to_owned(), text);
    }
    files
}

/// Shorter texts are not looked for outside of their place: they occur by chance.
const SECRET_BYTES_LEAST: usize = 4;

/// A project that was sent in, with the secrets that its sender saw hidden as they are in the project that runs.
///
/// # Errors
/// A hidden value in a place where nothing is known.
pub(crate) fn unmasked(
    sent: Bundle,
    running: &Project,
    connectors: &Connectors,
) -> Result<Bundle, Vec<Diagnostic>> {
    let (project, _) = Project::parse(sent.clone());
    let mut files = sent.files;
    let mut bad = Vec::new();
    for (name, connection) in &project.connections {
        let mut replacements = Vec::new();
        for secret in secrets(&connection.spec, connectors) {
            // Only a value that is hidden shows itself in full.
            if text_at(&connection.spec, &secret) != Some(secret.shown.as_str()) {
                continue;
            }
            let Some(node) = connection.spec.options.at(&secret.path) else {
                continue;
            };
            // A secret is sent to no other server than before, and not as another user.
            let is_there = |known: &&Parsed<ConnectionSpec>| {
                place(&known.spec, connectors) == place(&connection.spec, connectors)
            };
            let own = running.connections.get(name).into_iter();
            let others = running.connections.values();
            let others = others.filter(|known| has_login(&known.spec));
            let mut known = own.chain(others).filter(is_there);
            match known.find_map(|known| written(known, &secret, connectors)) {
                Some(written) => replacements.push((node.span.clone(), written)),
                None => {
                    let error = Error::new(Class::Configuration, "server.hidden-secret");
                    bad.push(connection.spec.options.diagnostic_at(node, error));
                }
            }
        }
        if !replacements.is_empty() {
            let text = replaced(connection.source.text(), replacements);
            files.insert(connection.source.file().to_owned(), text);
        }
    }
    match bad.is_empty() {
        true => Ok(Bundle { files }),
        false => Err(bad),
    }
}

/// Options that say which server gets the secrets of a connection, as which user, and who else could read them on the way.
const PLACE: [&str; 12] = [
    "address",
    "addresses",
    "brokers",
    "class",
    "connection",
    "driver",
    "port",
    "properties",
    "tls",
    "trust_certificate",
    "url",
    "wsdl",
];

/// Where the secrets of a connection go: its kind, its user, the values of [`PLACE`], and the files that say the address.
fn place(spec: &ConnectionSpec, connectors: &Connectors) -> (String, Vec<serde_json::Value>) {
    let mut options = spec.options.to_json();
    // An address with a secret in it is compared without it.
    for secret in secrets(spec, connectors) {
        let mut value = Some(&mut options);
        for key in &secret.path {
            value = value.and_then(|value| value.get_mut(key));
        }
        if let Some(value) = value {
            *value = secret.shown.into();
        }
    }
    let mut place: Vec<_> = PLACE.iter().map(|key| options[*key].clone()).collect();
    place.push(match options["user"].is_object() {
        // The password stands beside the name.
        true => options["user"]["name"].clone(),
        false => options["user"].clone(),
    });
    if options["url"].is_null() && !options["wsdl"].is_null() {
        let files = spec.files.values();
        place.extend(files.map(|text| serde_json::Value::from(text.as_str())));
    }
    (spec.kind.clone(), place)
}

/// Whether a connection says as whom it logs in where: a new one that says the same has the same secrets.
fn has_login(spec: &ConnectionSpec) -> bool {
    let options = spec.options.to_json();
    let places = ["address", "connection", "url"];
    places.iter().any(|key| options[*key].is_string()) && options["user"].is_string()
}

/// A secret of a connection as its file has it, if it is shown as `secret` is.
fn written(
    connection: &Parsed<ConnectionSpec>,
    secret: &LiteralSecret,
    connectors: &Connectors,
) -> Option<String> {
    let known = secrets(&connection.spec, connectors);
    let same = known.iter().find(|known| *known == secret)?;
    let node = connection.spec.options.at(&same.path)?;
    let raw = connection.source.text().get(node.span.clone())?;
    let in_quotes = |quote: char| raw.len() > 1 && raw.starts_with(quote) && raw.ends_with(quote);
    match &node.value {
        // A block of lines, or defined elsewhere, or with characters that end a plain text within braces: written anew.
        Value::Text(text)
            if !in_quotes('"')
                && !in_quotes('\'')
                && (raw != text || raw.contains([',', '[', ']', '{', '}'])) =>
        {
            Some(quoted(text))
        }
        _ => Some(raw.to_owned()),
    }
}

/// The place of a scalar with the `|` or `>` that a block scalar begins with.
fn whole_scalar(text: &str, span: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let before = &text[..span.start];
    let kept = before.trim_end();
    let token = kept.rsplit(char::is_whitespace).next().unwrap_or_default();
    match before[kept.len()..].contains('\n') && token.starts_with(['|', '>']) {
        true => kept.len() - token.len()..span.end,
        false => span,
    }
}

fn secrets(spec: &ConnectionSpec, connectors: &Connectors) -> Vec<LiteralSecret> {
    connectors
        .get(&spec.kind)
        .map(|connector| connector.secrets(spec))
        .unwrap_or_default()
}

fn text_at<'a>(spec: &'a ConnectionSpec, secret: &LiteralSecret) -> Option<&'a str> {
    match &spec.options.at(&secret.path)?.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// A text as a YAML scalar on one line; JSON's strings are such.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A text with some of its ranges replaced.
fn replaced(text: &str, mut by: Vec<(std::ops::Range<usize>, String)>) -> String {
    by.sort_by_key(|(range, _)| range.start);
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (range, with) in by {
        out.push_str(text.get(done..range.start).unwrap_or_default());
        out.push_str(&with);
        done = range.end.max(done);
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use busbar_catalog::Kind;

    use super::*;

    fn project(files: &[(&str, &str)]) -> Project {
        let files = files.iter();
        let files = files.map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        let (project, bad) = Project::parse(Bundle {
            files: files.collect(),
        });
        assert!(bad.is_empty(), "{bad:?}");
        project
    }

    const MQTT: &str = "# was hunter2 once\nmqtt:\n  address: a:1\n  user: u\n  password: hunter2\n  subscribe: [x]\n";
    const HTTP: &str = "http:\n  url: 'https://x/y?token=abcdef'\n  headers:\n    Authorization: |\n      Bearer s3cr3t\n    X-Other: { env: OTHER }\n";

    #[test]
    fn secrets_are_hidden_and_put_back() {
        let connectors = busbar_connect::registry();
        let running = project(&[("connections/m.yaml", MQTT), ("connections/h.yaml", HTTP)]);
        let shown = masked(&running, &connectors);
        for (path, text) in &shown {
            for secret in ["hunter2", "s3cr3t", "abcdef"] {
                assert!(!text.contains(secret), "{path}: {text}");
            }
            assert!(text.contains("(hidden)"), "{path}: {text}");
        }
        assert!(shown["connections/h.yaml"].contains("https://x/y?"));
        assert!(shown["connections/h.yaml"].contains("env: OTHER"));

        // Sent in again with another change, the secrets are what they were.
        let mut sent = shown.clone();
        let changed = shown["connections/m.yaml"].replace("[x]", "[z]");
        sent.insert("connections/m.yaml".into(), changed);
        let whole = unmasked(Bundle { files: sent }, &running, &connectors).unwrap();
        let (whole, _) = Project::parse(whole);
        let option = |name: &str, keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            let node = whole.connections[name].spec.options.at(&keys).unwrap();
            node.to_json()
        };
        assert_eq!(option("m", &["password"]), "hunter2");
        assert_eq!(option("m", &["subscribe"]), serde_json::json!(["z"]));
        assert_eq!(option("h", &["url"]), "https://x/y?token=abcdef");
        assert_eq!(
            option("h", &["headers", "Authorization"]),
            "Bearer s3cr3t\n"
        );

        // A new connection has the secrets of one to the same server as the same user, and of no other.
        let path = "connections/new.yaml".to_owned();
        let sent = BTreeMap::from([(path.clone(), shown["connections/m.yaml"].clone())]);
        let whole = unmasked(Bundle { files: sent }, &running, &connectors).unwrap();
        assert!(whole.files[&path].contains("hunter2"), "{whole:?}");
        let other = shown["connections/m.yaml"].replace("a:1", "b:1");
        let sent = BTreeMap::from([(path, other)]);
        let bad = unmasked(Bundle { files: sent }, &running, &connectors).unwrap_err();
        assert_eq!(bad[0].error().code(), "server.hidden-secret");
        assert_eq!(Kind::Connection.path("new"), bad[0].file());
    }

    #[test]
    fn a_secret_goes_to_no_other_server() {
        let connectors = busbar_connect::registry();
        let tls = MQTT.replace("  user: u", "  tls: {}\n  user: u");
        let running = project(&[("connections/m.yaml", &tls), ("connections/h.yaml", HTTP)]);
        let shown = masked(&running, &connectors);
        for (path, from, to) in [
            ("connections/m.yaml", "address: a:1", "address: b:1"),
            ("connections/m.yaml", "user: u", "user: v"),
            ("connections/m.yaml", "  tls: {}\n", ""),
            ("connections/h.yaml", "https://x/", "https://z/"),
        ] {
            let mut sent = shown.clone();
            let changed = shown[path].replace(from, to);
            assert_ne!(changed, shown[path]);
            sent.insert(path.into(), changed);
            let bad = unmasked(Bundle { files: sent }, &running, &connectors).unwrap_err();
            assert_eq!(bad[0].error().code(), "server.hidden-secret", "{to}");
        }
    }

    #[test]
    fn a_secret_of_a_driver_goes_to_the_same_database_only() {
        const ODBC: &str = "odbc:\n  connection: 'Driver=x;Server=a'\n  user: u\n  password: hunter2\n  properties: { Token: abcdef, Database: d }\n";
        const JDBC: &str =
            "jdbc:\n  driver: d.jar\n  url: 'jdbc:x:a'\n  user: u\n  password: hunter2\n";
        let connectors = busbar_connect::registry();
        for (text, others) in [
            (
                ODBC,
                &[
                    ("Server=a", "Server=b"),
                    ("Database: d", "Server: b"),
                    ("user: u", "user: v"),
                ][..],
            ),
            (
                JDBC,
                &[
                    ("jdbc:x:a", "jdbc:x:b"),
                    ("d.jar", "e.jar"),
                    ("user: u", "user: v"),
                ],
            ),
        ] {
            let running = project(&[("connections/m.yaml", text)]);
            let shown = masked(&running, &connectors)["connections/m.yaml"].clone();
            assert!(
                !shown.contains("hunter2") && !shown.contains("abcdef"),
                "{shown}"
            );
            let sent = |text: String| Bundle {
                files: BTreeMap::from([("connections/new.yaml".to_owned(), text)]),
            };
            let whole = unmasked(sent(shown.clone()), &running, &connectors).unwrap();
            assert_eq!(whole.files["connections/new.yaml"], text);
            for (from, to) in others {
                let changed = shown.replace(from, to);
                assert_ne!(changed, shown);
                let bad = unmasked(sent(changed), &running, &connectors).unwrap_err();
                assert_eq!(bad[0].error().code(), "server.hidden-secret", "{to}");
            }
        }
    }

    #[test]
    fn a_secret_stays_whole_within_braces() {
        let connectors = busbar_connect::registry();
        let running = project(&[("connections/m.yaml", &MQTT.replace("hunter2", "hun,ter2"))]);
        let path = "connections/m.yaml".to_owned();
        let text = "mqtt: { address: 'a:1', user: u, password: (hidden), subscribe: [x] }\n";
        let sent = BTreeMap::from([(path, text.to_owned())]);
        let whole = unmasked(Bundle { files: sent }, &running, &connectors).unwrap();
        let (whole, bad) = Project::parse(whole);
        assert!(bad.is_empty(), "{bad:?}");
        let node = whole.connections["m"].spec.options.at(&["password".into()]);
        assert_eq!(node.unwrap().to_json(), "hun,ter2");
    }
}
