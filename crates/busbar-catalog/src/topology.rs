//! References between resources: unknown streams, tables and connections, duplicate patterns, and cycles.

use std::collections::{BTreeMap, BTreeSet};

use busbar_event::topic::Filter;
use busbar_event::{Class, Error};

use crate::api::{ApiSpec, ApiWork};
use crate::bundle::Kind;
use crate::diagnostic::{Diagnostic, suggest};
use crate::flow::{FlowSpec, OutputTarget};
use crate::gateway::GatewaySpec;
use crate::limits::KNOWN_NAMES_MAX;
use crate::orchestration::OrchestrationSpec;
use crate::project::{Parsed, Project};
use crate::template::Template;
use crate::tree::{PathItem, Source};

/// The stream that captures topics that no other stream captures.
pub const INBOX: &str = "inbox";

/// Checks how the resources of a project refer to each other.
pub fn check_topology(project: &Project) -> Vec<Diagnostic> {
    let mut bad = Vec::new();
    check_patterns(project, &mut bad);
    // The streams that each flow writes to, for finding cycles.
    let mut edges: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, flow) in &project.flows {
        let targets = check_flow(project, &flow.spec, &flow.source, &mut bad);
        edges.insert(name, targets);
    }
    for connection in project.connections.values() {
        if let Err((span, error)) = connection_topic(connection.spec.topic.as_deref()) {
            bad.push(connection.source.diagnostic(&["topic".into()], span, error));
        }
    }
    for orchestration in project.orchestrations.values() {
        check_orchestration(project, orchestration, &mut bad);
    }
    for api in project.apis.values() {
        check_api(project, api, &mut bad);
    }
    check_ports(project, &mut bad);
    // Which streams capture what a flow sends is not known while one of them could not be read.
    if !project.unread.has(Kind::Stream) {
        check_circles(project, &edges, &mut bad);
    }
    bad
}

/// The streams and connections that an orchestration names exist.
fn check_orchestration(
    project: &Project,
    orchestration: &Parsed<OrchestrationSpec>,
    bad: &mut Vec<Diagnostic>,
) {
    let mut unknown = |path: &[PathItem<'static>], name: &str, kind, known: Vec<&str>| {
        let code = match kind {
            "stream" => "catalog.unknown-stream",
            _ => "catalog.unknown-connection",
        };
        let error = Error::new(Class::Configuration, code).with("name", name);
        let help = way_out(kind, name, &known);
        let found = orchestration.source.diagnostic(path, None, error);
        bad.push(found.with_help(Some(help)));
    };
    for (path, name) in orchestration.spec.streams() {
        if name != INBOX && !project.streams.contains_key(name) {
            let known = project.streams.keys().map(String::as_str).collect();
            unknown(&path, name, "stream", known);
        }
    }
    for (path, name) in orchestration.spec.connections() {
        if !project.connections.contains_key(name) {
            let known = project.connections.keys().map(String::as_str).collect();
            unknown(&path, name, "connection", known);
        }
    }
}

/// What to do about the name of a resource that there is not: the one that was meant, those that there are, or the file
/// that would be it. `kind` is `stream`, `table` or `connection`.
fn way_out(kind: &str, name: &str, known: &[&str]) -> Error {
    suggest(name, known.iter().copied()).unwrap_or_else(|| {
        let help = |code| Error::new(Class::Configuration, code);
        if known.is_empty() {
            help("catalog.none-yet").with("path", format!("{kind}s/{name}.yaml"))
        } else {
            let names: Vec<_> = known.iter().copied().take(KNOWN_NAMES_MAX).collect();
            help("catalog.known-names").with("names", names.join(", "))
        }
    })
}

/// The stream or the orchestration that an API names exists, and its requests are no replies.
fn check_api(project: &Project, api: &Parsed<ApiSpec>, bad: &mut Vec<Diagnostic>) {
    let mut wrong = |path: &[PathItem<'static>], error, help| {
        let found = api.source.diagnostic(path, None, error);
        bad.push(found.with_help(help));
    };
    let new = |code| Error::new(Class::Configuration, code);
    match api.spec.work() {
        Some(ApiWork::Request(request)) => {
            let path = ["request".into(), "reply".into()];
            let name = &request.reply;
            let Some(stream) = project.streams.get(name) else {
                let help = suggest(name, project.streams.keys().map(String::as_str));
                return wrong(
                    &path,
                    new("catalog.unknown-stream").with("name", name),
                    help,
                );
            };
            let captures = |topic: &str| {
                let mut patterns = stream.spec.topics.iter();
                patterns.any(|pattern| pattern.matches(topic))
            };
            if captures(&request.topic) {
                let path = ["request".into(), "topic".into()];
                let error = new("catalog.api-topic").with("stream", name);
                wrong(&path, error.with("topic", &request.topic), None);
            }
            if let Some(topic) = &request.reply_to
                && !captures(topic)
            {
                let path = ["request".into(), "reply_to".into()];
                let error = new("catalog.api-reply-to").with("stream", name);
                wrong(&path, error.with("topic", topic), None);
            }
        }
        Some(ApiWork::Orchestration(name)) if !project.orchestrations.contains_key(name) => {
            let help = suggest(name, project.orchestrations.keys().map(String::as_str));
            let error = new("catalog.unknown-orchestration").with("name", name);
            wrong(&["orchestration".into()], error, help);
        }
        _ => {}
    }
}

/// Two gateways of one protocol cannot listen at one address.
fn check_ports(project: &Project, bad: &mut Vec<Diagnostic>) {
    let mut seen: Vec<(&GatewaySpec, &str)> = Vec::new();
    let enabled = project.gateways.iter().filter(|(_, g)| g.spec.enabled);
    for (name, gateway) in enabled {
        let spec = &gateway.spec;
        let any_port = spec.listen.ends_with(":0");
        let same = |other: &GatewaySpec| {
            (other.protocol, &other.listen) == (spec.protocol, &spec.listen) && !any_port
        };
        if let Some((_, other)) = seen.iter().find(|(other, _)| same(other)) {
            let error = Error::new(Class::Configuration, "catalog.gateway-listen-twice")
                .with("address", &spec.listen)
                .with("other", other);
            bad.push(gateway.source.diagnostic(&["listen".into()], None, error));
        }
        seen.push((spec, name));
    }
}

fn connection_topic(topic: Option<&str>) -> Result<(), (Option<std::ops::Range<usize>>, Error)> {
    let Some(topic) = topic else { return Ok(()) };
    let template = Template::parse(topic).map_err(|(span, e)| (Some(span), e))?;
    template.pattern().map_err(|e| (None, e))?;
    Ok(())
}

fn check_patterns(project: &Project, bad: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, stream) in &project.streams {
        if let Err(error) = stream.spec.check(name) {
            let key = error.code().strip_prefix("bus.").and_then(|code| {
                let mut keys = ["key", "partitions", "time", "topics"].into_iter();
                keys.find(|key| code.starts_with(key))
            });
            bad.push(stream.source.diagnostic_about(key, error));
        }
        if name == INBOX && !stream.spec.topics.is_empty() {
            // The inbox captures the rest; with another pattern some events would belong to no stream.
            let only_rest = stream.spec.topics.iter().all(|t| t.as_str() == "#");
            if !only_rest {
                let error = Error::new(Class::Configuration, "catalog.inbox-pattern");
                bad.push(stream.source.diagnostic(&["topics".into()], None, error));
            }
        }
        for (i, topic) in stream.spec.topics.iter().enumerate() {
            if name != INBOX && topic.as_str() == "#" {
                let error = Error::new(Class::Configuration, "catalog.pattern-inbox");
                bad.push(pattern_place(&stream.source, i, error));
            } else if let Some(other) = seen.insert(topic.as_str(), name) {
                let error = Error::new(Class::Configuration, "catalog.pattern-twice")
                    .with("pattern", topic)
                    .with("other", other);
                bad.push(pattern_place(&stream.source, i, error));
            }
        }
    }
}

fn pattern_place(source: &Source, index: usize, error: Error) -> Diagnostic {
    let key = if source.root().child("topics".into()).is_some() {
        "topics"
    } else {
        "topic"
    };
    source.diagnostic(&[key.into(), index.into()], None, error)
}

fn check_flow(
    project: &Project,
    spec: &FlowSpec,
    source: &Source,
    bad: &mut Vec<Diagnostic>,
) -> BTreeSet<String> {
    let unknown = |kind: &'static str, name: &str, known: Vec<&str>| {
        let code = match kind {
            "stream" => "catalog.unknown-stream",
            "table" => "catalog.unknown-table",
            _ => "catalog.unknown-connection",
        };
        (
            Error::new(Class::Configuration, code).with("name", name),
            Some(way_out(kind, name, &known)),
        )
    };
    let streams = || {
        let mut names: Vec<&str> = project.streams.keys().map(String::as_str).collect();
        names.push(INBOX);
        names
    };
    for (i, name) in spec.from.iter().enumerate() {
        if project.tables.contains_key(name) && !project.streams.contains_key(name) {
            let error = Error::new(Class::Configuration, "flow.from-table").with("table", name);
            bad.push(source.diagnostic(&["from".into(), i.into()], None, error));
        } else if name != INBOX && !project.streams.contains_key(name) {
            let (error, help) = unknown("stream", name, streams());
            let diagnostic = source.diagnostic(&["from".into(), i.into()], None, error);
            bad.push(diagnostic.with_help(help));
        }
    }
    for (_, below, join) in spec.joins() {
        let path = |key: &'static str| [&below[..], &[key.into()]].concat();
        if let Some(name) = &join.stream
            && name != INBOX
            && !project.streams.contains_key(name)
        {
            let (error, help) = unknown("stream", name, streams());
            let diagnostic = source.diagnostic(&path("stream"), None, error);
            bad.push(diagnostic.with_help(help));
        }
        if let Some(name) = &join.table
            && !project.tables.contains_key(name)
        {
            // `pg.public.patient`: whether the database has the table is found out when the flow is deployed.
            let connection = name.split_once('.').map(|(connection, _)| connection);
            let connections = &project.connections;
            let (error, help) = match connection {
                Some(connection) if connections.contains_key(connection) => continue,
                Some(connection) => {
                    let known = connections.keys().map(String::as_str).collect();
                    unknown("connection", connection, known)
                }
                None => {
                    let known = project.tables.keys().map(String::as_str).collect();
                    unknown("table", name, known)
                }
            };
            let diagnostic = source.diagnostic(&path("table"), None, error);
            bad.push(diagnostic.with_help(help));
        }
    }
    for (mut path, call) in spec.calls() {
        if !project.connections.contains_key(&call.connection) {
            let known = project.connections.keys().map(String::as_str).collect();
            let (error, help) = unknown("connection", &call.connection, known);
            path.push("connection".into());
            bad.push(source.diagnostic(&path, None, error).with_help(help));
        }
    }
    for (i, test) in spec.tests.iter().enumerate() {
        let called = || spec.calls().map(|(_, call)| call.connection.as_str());
        let unused = |name: &&String| !called().any(|called| called == name.as_str());
        for name in test.answers.keys().filter(unused) {
            let error = Error::new(Class::Configuration, "catalog.answers-nobody-asks");
            let path = ["tests".into(), i.into(), "answers".into()];
            let diagnostic = source.diagnostic_at_key(&path, name, error.with("name", name));
            bad.push(diagnostic.with_help(suggest(name, called())));
        }
    }
    let mut targets = BTreeSet::new();
    for (i, output) in spec.to.iter().enumerate() {
        let at = |key| [PathItem::Key("to"), PathItem::Index(i), PathItem::Key(key)];
        let mut template = |key: &'static str, text: &str| -> Option<Filter> {
            let parsed = Template::parse(text).map_err(|(span, e)| (Some(span), e));
            let pattern = match (parsed, key) {
                (Ok(t), "topic") => t.pattern().map(Some).map_err(|e| (None, e)),
                (Ok(_), _) => Ok(None),
                (Err(e), _) => Err(e),
            };
            pattern
                .map_err(|(span, error)| bad.push(source.diagnostic(&at(key), span, error)))
                .ok()
                .flatten()
        };
        if let Some(key) = &output.key {
            template("key", key);
        }
        match &output.target {
            OutputTarget::Stream { stream, topic } => {
                if let Some(topic) = topic {
                    template("topic", topic);
                }
                if stream != INBOX && !project.streams.contains_key(stream) {
                    let (error, help) = unknown("stream", stream, streams());
                    bad.push(
                        source
                            .diagnostic(&at("stream"), None, error)
                            .with_help(help),
                    );
                }
                targets.insert(stream.clone());
            }
            OutputTarget::Topic(text) => {
                if let Some(pattern) = template("topic", text) {
                    targets.extend(possible_streams(project, &pattern));
                }
            }
            // Where it leads is known when an event comes: a circle ends when the hops are counted.
            OutputTarget::Relay(_) => {}
            OutputTarget::Table(name) => {
                if !project.tables.contains_key(name) {
                    let known = project.tables.keys().map(String::as_str).collect();
                    let (error, help) = unknown("table", name, known);
                    bad.push(source.diagnostic(&at("table"), None, error).with_help(help));
                }
            }
            OutputTarget::Connection(name) => {
                if !project.connections.contains_key(name) {
                    let known = project.connections.keys().map(String::as_str).collect();
                    let (error, help) = unknown("connection", name, known);
                    bad.push(
                        source
                            .diagnostic(&at("connection"), None, error)
                            .with_help(help),
                    );
                }
            }
        }
    }
    targets
}

/// The streams that can capture a topic of `pattern`: those that overlap it, from the most specific on, up to one that
/// covers the whole pattern.
pub fn possible_streams(project: &Project, pattern: &Filter) -> BTreeSet<String> {
    let mut filters: Vec<(&Filter, &String)> = project
        .streams
        .iter()
        .flat_map(|(name, stream)| stream.spec.topics.iter().map(move |f| (f, name)))
        .filter(|(filter, _)| filter.overlaps(pattern))
        .collect();
    filters.sort_by_key(|(filter, _)| std::cmp::Reverse(filter.specificity()));
    let mut possible = BTreeSet::new();
    for (filter, name) in filters {
        possible.insert(name.clone());
        if covers(filter.as_str(), pattern.as_str()) {
            return possible;
        }
    }
    possible.insert(INBOX.to_owned());
    possible
}

/// Whether `wide` matches every topic that `narrow` matches.
fn covers(wide: &str, narrow: &str) -> bool {
    let (mut wide, mut narrow) = (wide.split('/').peekable(), narrow.split('/').peekable());
    let mut first = true;
    loop {
        match (wide.next(), narrow.next()) {
            (Some("#"), below) => {
                // Wildcards in the first level leave `$…` out; a literal `$…` is then not covered.
                return !(first && below.is_some_and(|n| n.starts_with('$')));
            }
            (None, None) => return true,
            (Some("+"), Some(n)) => {
                if n == "#" || (first && n.starts_with('$')) {
                    return false;
                }
            }
            (Some(w), Some(n)) if w == n => {}
            _ => return false,
        }
        first = false;
    }
}

/// Refuses flows whose output can reach their own input: they would feed themselves forever.
fn check_circles(
    project: &Project,
    edges: &BTreeMap<&str, BTreeSet<String>>,
    bad: &mut Vec<Diagnostic>,
) {
    for (name, flow) in &project.flows {
        // The streams reachable from this flow's outputs, each with the path to it.
        let mut way: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut next: Vec<(String, Vec<String>)> = edges
            .get(name.as_str())
            .into_iter()
            .flatten()
            .map(|stream| (stream.clone(), vec![name.clone(), stream.clone()]))
            .collect();
        while let Some((stream, path)) = next.pop() {
            if way.contains_key(&stream) {
                continue;
            }
            for (other, reader) in &project.flows {
                if reader.spec.streams().any(|read| *read == stream) {
                    for target in edges.get(other.as_str()).into_iter().flatten() {
                        let mut path = path.clone();
                        path.extend([other.clone(), target.clone()]);
                        next.push((target.clone(), path));
                    }
                }
            }
            way.insert(stream, path);
        }
        let from = flow.spec.from.iter().enumerate();
        let from = from.map(|(i, stream)| (vec!["from".into(), i.into()], stream));
        let joined = flow.spec.joins().filter_map(|(_, mut path, join)| {
            path.push("stream".into());
            Some((path, join.stream.as_ref()?))
        });
        for (place, from) in from.chain(joined) {
            let Some(path) = way.get(from) else { continue };
            let mut path = path.clone();
            path.insert(0, from.clone());
            let error = Error::new(Class::Configuration, "catalog.circle")
                .with("flow", name)
                .with("path", path.join(" → "));
            bad.push(flow.source.diagnostic(&place, None, error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Bundle;

    fn check(files: &[(&str, &str)]) -> Vec<(String, String, Option<String>)> {
        let files = files
            .iter()
            .map(|(p, t)| ((*p).to_owned(), (*t).to_owned()))
            .collect();
        let (_, bad) = Project::parse(Bundle { files });
        bad.iter()
            .map(|d| {
                let help = d.help().and_then(|h| h.args().first()).map(|a| a.1.clone());
                (d.error().code().to_owned(), d.word().to_owned(), help)
            })
            .collect()
    }

    #[test]
    fn names_that_are_not_there_are_refused_with_a_suggestion() {
        let bad = check(&[
            ("streams/meter.yaml", "topics: meter/#\n"),
            (
                "flows/a.yaml",
                "from: metre\nto:\n  - stream: inbx\n  - table: t\n",
            ),
        ]);
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(
            bad,
            [
                (
                    "catalog.unknown-stream".into(),
                    "metre".into(),
                    some("meter")
                ),
                (
                    "catalog.unknown-stream".into(),
                    "inbx".into(),
                    some("inbox")
                ),
                (
                    "catalog.unknown-table".into(),
                    "t".into(),
                    some("tables/t.yaml")
                ),
            ]
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_hides_no_mistake_of_others() {
        let bad = check(&[
            ("streams/meter.yaml", "topics: [meter/#\n"),
            ("streams/out.yaml", "topics: out/#\n"),
            ("tables/t.yaml", "key: [a]\nhto: {}\n"),
            (
                "flows/a.yaml",
                "from: meter\nto: [{ stream: outt }, { table: t }]\n",
            ),
            (
                "flows/b.yaml",
                "from: out\nsteps: [{ were: a }]\nto: [{ stream: out }]\n",
            ),
            ("flows/c.yaml", "from: out\nto: [{ table: u }]\n"),
        ]);
        let found: Vec<_> = bad
            .iter()
            .map(|(code, word, _)| (&**code, &**word))
            .collect();
        assert_eq!(
            found,
            [
                ("catalog.unknown-stream", "outt"),
                ("catalog.unknown-step", "were"),
                ("catalog.unknown-table", "u"),
                // At the end of the file.
                ("catalog.yaml-bracket", ""),
                ("catalog.unknown-key", "hto"),
            ]
        );
        assert_eq!(bad[1].2.as_deref(), Some("where"));
    }

    #[test]
    fn what_a_join_names_must_be_there() {
        let with = |join: &str| {
            let flow = format!(
                "from: meter\nsteps: [{{ join: {{ {join} }} }}]\nto: [{{ stream: out }}]\n"
            );
            check(&[
                ("streams/meter.yaml", "topics: meter/#\n"),
                ("streams/out.yaml", "topics: out/#\n"),
                ("tables/sites.yaml", "key: [site]\nhot: {}\n"),
                ("flows/a.yaml", &flow),
            ])
        };
        let wrong = |code: &str, word: &str, help: Option<&str>| {
            let help = help.map(str::to_owned);
            vec![(code.to_owned(), word.to_owned(), help)]
        };
        assert_eq!(with("table: sites, on: site"), []);
        assert_eq!(
            with("table: site, on: site"),
            wrong("catalog.unknown-table", "site", Some("sites"))
        );
        assert_eq!(
            with("stream: outt, on: site, within: 1m"),
            wrong("catalog.unknown-stream", "outt", Some("out"))
        );
        // A stream can be joined with itself, once.
        let itself = "stream: meter, on: site, within: 1m";
        assert_eq!(with(itself), []);
        assert_eq!(
            with(&format!("{itself} }} }}, {{ join: {{ {itself}")),
            wrong("catalog.join-twice", "meter", None)
        );
        assert_eq!(
            with("table: sites, on: []"),
            wrong("catalog.join-on", "[", None)
        );
    }

    #[test]
    fn circles_are_refused_also_through_topics_and_other_flows() {
        let streams = [
            ("streams/a.yaml", "topics: a/#\n"),
            ("streams/b.yaml", "topics: b/+\n"),
            ("streams/c.yaml", "topics: [c/x, c/y/#]\n"),
        ];
        let with = |flows: &[(&'static str, &'static str)]| {
            let mut files = streams.to_vec();
            files.extend_from_slice(flows);
            check(&files)
                .into_iter()
                .map(|(code, word, _)| (code, word))
                .collect::<Vec<_>>()
        };
        let circle = |word: &str| ("catalog.circle".to_owned(), word.to_owned());
        assert_eq!(
            with(&[("flows/f.yaml", "from: a\nto: [{ topic: 'a/${k}' }]\n")]),
            [circle("a")]
        );
        assert_eq!(
            with(&[("flows/f.yaml", "from: a\nto: [{ topic: 'b/${k}' }]\n")]),
            []
        );
        assert_eq!(
            with(&[
                ("flows/f.yaml", "from: [c, a]\nto: [{ topic: 'b/${k}' }]\n"),
                ("flows/g.yaml", "from: b\nto: [{ stream: a }]\n"),
            ]),
            [circle("a"), circle("b")]
        );
        assert_eq!(
            with(&[(
                "flows/f.yaml",
                "from: c\nsteps: [{ join: { stream: b, on: k, within: 1m } }]\nto: [{ topic: 'b/${k}' }]\n"
            )]),
            [circle("b")]
        );
        // `b/+` takes every `b/${k}`; `d/…` lands in the inbox.
        assert_eq!(
            with(&[("flows/f.yaml", "from: inbox\nto: [{ topic: 'b/${k}' }]\n")]),
            []
        );
        assert_eq!(
            with(&[("flows/f.yaml", "from: inbox\nto: [{ topic: 'd/${k}' }]\n")]),
            [circle("inbox")]
        );
    }

    #[test]
    fn an_error_of_a_stream_points_at_the_value_it_is_about() {
        for (text, code, word) in [
            ("topics: a/#\nkey: meter\n", "bus.key-template", "meter"),
            ("topics: a/#\npartitions: 0\n", "bus.partitions-range", "0"),
            (
                "topics: a/#\nformat: json\ntime: at\n",
                "bus.time-schema",
                "at",
            ),
        ] {
            let bad = check(&[("streams/a.yaml", text)]);
            assert_eq!((bad[0].0.as_str(), bad[0].1.as_str()), (code, word));
        }
    }

    #[test]
    fn a_pattern_belongs_to_one_stream() {
        let bad = check(&[
            ("streams/a.yaml", "topics: [x, y/#]\n"),
            ("streams/b.yaml", "topics: y/#\n"),
            ("streams/c.yaml", "topics: '#'\n"),
        ]);
        let codes: Vec<_> = bad.iter().map(|b| (b.0.as_str(), b.1.as_str())).collect();
        assert_eq!(
            codes,
            [
                ("catalog.pattern-twice", "y/#"),
                ("catalog.pattern-inbox", "'#'")
            ]
        );
    }

    #[test]
    fn covering_is_about_every_topic() {
        for (wide, narrow) in [
            ("#", "a/+"),
            ("a/#", "a"),
            ("a/#", "a/+/b"),
            ("a/+", "a/b"),
            ("+/#", "a/#"),
        ] {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("a/+", "a/#"),
            ("a/b", "a/+"),
            ("#", "$sys/a"),
            ("+/a", "$s/a"),
            ("a", "a/#"),
        ] {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
    }
}
