//! A document becomes a process, and a process a flow.

use busbar_event::{Class, Error};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::element::{ProcessDocument, ProcessElement};
use super::hops::Hops;
use super::{
    ChoiceWay, EsbProcess, InEndpoint, Label, Mediation, MediationWork, Onward, OutEndpoint,
};
use crate::diagnostic::Diagnostic;
use crate::flow::{FlowSpec, OutputSpec, Start, TestSpec};
use crate::step::{RouteCondition, RouteMatch, StepSpec};
use crate::tree::Source;

/// The flow that a process says, and the process's name. `file` is the path people know the document by.
///
/// # Errors
/// What is wrong with the document, and where.
pub fn flow_of(file: &str, text: &str) -> Result<(String, FlowSpec), Diagnostic> {
    let document = ProcessDocument { file, text };
    let root = document.root()?;
    if root.name != "esbprocess" {
        let args = [("element", root.name.as_str())];
        return Err(document.wrong(root.span.clone(), "process.root", &args));
    }
    let name = root.needs("name", document)?.to_owned();
    crate::check_name(&name)
        .map_err(|error| Diagnostic::new(file, text, root.span.clone(), error))?;
    let process = process(&root, document)?;
    let end = root.span.clone();
    let flow = Hops::new(&process, document)?.flow(&process, end)?;
    Ok((name, flow))
}

fn process(root: &ProcessElement, document: ProcessDocument<'_>) -> Result<EsbProcess, Diagnostic> {
    root.only(
        &["name", "start", "enabled"],
        &[
            "description",
            "inendpoints",
            "mediations",
            "outendpoints",
            "tests",
        ],
        document,
    )?;
    let parts = |list: &str, part: &'static str| -> Result<Vec<&ProcessElement>, Diagnostic> {
        let Some(list) = root.one(list, document)? else {
            return Ok(Vec::new());
        };
        list.only(&[], &[part], document)?;
        Ok(list.children.iter().collect())
    };
    let ins = parts("inendpoints", "inendpoint")?.into_iter();
    let mediations = parts("mediations", "mediation")?.into_iter();
    let outs = parts("outendpoints", "outendpoint")?.into_iter();
    let ins: Vec<InEndpoint> = ins
        .map(|e| in_endpoint(e, document))
        .collect::<Result<_, _>>()?;
    let outs_read = outs.map(|e| out_endpoint(e, document));
    let mut outs: Vec<OutEndpoint> = outs_read.collect::<Result<_, _>>()?;
    reply_to(root, &mut outs, document)?;
    let start: Option<Start> = match root.attribute("start") {
        None => None,
        Some(start) => {
            let start = serde_json::from_value(start.into());
            Some(start.map_err(|_| document.wrong(root.span.clone(), "process.start", &[]))?)
        }
    };
    Ok(EsbProcess {
        description: match root.one("description", document)? {
            Some(description) => {
                description.only(&[], &[], document)?;
                Some(description.text.clone())
            }
            None => None,
        },
        start: start.unwrap_or_default(),
        enabled: match root.attribute("enabled") {
            None | Some("true") => true,
            Some("false") => false,
            Some(_) => {
                return Err(document.wrong(
                    root.span.clone(),
                    "process.truth",
                    &[("attribute", "enabled")],
                ));
            }
        },
        tests: match root.one("tests", document)? {
            Some(tests) => {
                tests.only(&[], &[], document)?;
                written::<Vec<TestSpec>>(tests, document)?
            }
            None => Vec::new(),
        },
        ins,
        mediations: mediations
            .map(|e| mediation(e, document))
            .collect::<Result<_, _>>()?,
        outs,
    })
}

fn label(element: &ProcessElement, document: ProcessDocument<'_>) -> Result<Label, Diagnostic> {
    let name = element.needs("name", document)?.to_owned();
    let at = element.span.start;
    Ok(Label { name, at })
}

fn in_endpoint(
    element: &ProcessElement,
    document: ProcessDocument<'_>,
) -> Result<InEndpoint, Diagnostic> {
    element.only(&["name", "stream", "replyto"], &["outbounds"], document)?;
    let next = match element.one("outbounds", document)? {
        Some(outbounds) => {
            outbounds.only(&[], &["nexthop"], document)?;
            next_hops(outbounds, document)?
        }
        None => Vec::new(),
    };
    Ok(InEndpoint {
        label: label(element, document)?,
        stream: element.needs("stream", document)?.to_owned(),
        next,
    })
}

/// `replyto` of an in-endpoint names the out-endpoint of its answers, which is the output `replyto` of the flow.
fn reply_to(
    root: &ProcessElement,
    outs: &mut [OutEndpoint],
    document: ProcessDocument<'_>,
) -> Result<(), Diagnostic> {
    let ins = root
        .children
        .iter()
        .filter(|list| list.name == "inendpoints");
    for element in ins.flat_map(|list| &list.children) {
        let Some(name) = element.attribute("replyto") else {
            continue;
        };
        let Some(out) = outs.iter_mut().find(|out| out.label.name == name) else {
            return Err(document.wrong(
                element.span.clone(),
                "process.no-endpoint",
                &[("name", name)],
            ));
        };
        out.output.name = Some(REPLY_TO.to_owned());
    }
    Ok(())
}

/// The output that answers.
pub(super) const REPLY_TO: &str = "replyto";

fn next_hops(
    outbounds: &ProcessElement,
    document: ProcessDocument<'_>,
) -> Result<Vec<Label>, Diagnostic> {
    let hops = outbounds
        .children
        .iter()
        .filter(|child| child.name == "nexthop");
    hops.map(|hop| named(hop, document)).collect()
}

/// An element whose text is a name.
fn named(element: &ProcessElement, document: ProcessDocument<'_>) -> Result<Label, Diagnostic> {
    element.only(&[], &[], document)?;
    match element.text.trim() {
        "" => {
            let args = [("element", element.name.as_str())];
            Err(document.wrong(element.span.clone(), "process.empty", &args))
        }
        name => Ok(Label {
            name: name.to_owned(),
            at: element.span.start,
        }),
    }
}

fn inbounds(
    element: &ProcessElement,
    document: ProcessDocument<'_>,
) -> Result<Option<Vec<Label>>, Diagnostic> {
    let Some(list) = element.one("inbounds", document)? else {
        return Ok(None);
    };
    list.only(&[], &["inbound"], document)?;
    let names = list.children.iter().map(|inbound| named(inbound, document));
    names.collect::<Result<_, _>>().map(Some)
}

fn mediation(
    element: &ProcessElement,
    document: ProcessDocument<'_>,
) -> Result<Mediation, Diagnostic> {
    element.only(
        &["name", "step", "match", "keep"],
        &["inbounds", "config", "outbounds"],
        document,
    )?;
    let kind = element.needs("step", document)?;
    let config = element.one("config", document)?;
    let outbounds = element.one("outbounds", document)?;
    let work = match (kind, config) {
        ("route", None) => choice(element, outbounds, document)?,
        _ => {
            if let Some(name) = ["match", "keep"]
                .into_iter()
                .find(|name| element.attribute(name).is_some())
            {
                let args = [("element", "mediation"), ("attribute", name)];
                return Err(document.wrong(
                    element.span.clone(),
                    "process.unknown-attribute",
                    &args,
                ));
            }
            let step = step(kind, element, config, document)?;
            MediationWork::Step(step, onward(outbounds, &[], document)?)
        }
    };
    Ok(Mediation {
        label: label(element, document)?,
        inbounds: inbounds(element, document)?,
        work,
    })
}

/// What comes next. `besides` are elements that others read.
fn onward(
    outbounds: Option<&ProcessElement>,
    besides: &[&str],
    document: ProcessDocument<'_>,
) -> Result<Onward, Diagnostic> {
    let Some(outbounds) = outbounds else {
        return Ok(Onward::To(Vec::new()));
    };
    let elements = [&["nexthop"], besides].concat();
    outbounds.only(&["to", "case", "default"], &elements, document)?;
    let next = next_hops(outbounds, document)?;
    match outbounds.attribute("to") {
        None => Ok(Onward::To(next)),
        Some("all") if next.is_empty() => Ok(Onward::Everywhere),
        Some(_) => Err(document.wrong(outbounds.span.clone(), "process.to-all", &[])),
    }
}

fn choice(
    element: &ProcessElement,
    outbounds: Option<&ProcessElement>,
    document: ProcessDocument<'_>,
) -> Result<MediationWork, Diagnostic> {
    let ways = match outbounds {
        Some(outbounds) => {
            outbounds.only(&[], &["outbound"], document)?;
            outbounds
                .children
                .iter()
                .map(|way| choice_way(way, document))
                .collect::<Result<_, _>>()?
        }
        None => Vec::new(),
    };
    Ok(MediationWork::Choice {
        name: element.attribute("keep").map(str::to_owned),
        matching: match element.attribute("match") {
            None | Some("first") => RouteMatch::First,
            Some("all") => RouteMatch::All,
            Some(_) => return Err(document.wrong(element.span.clone(), "process.match", &[])),
        },
        ways,
    })
}

fn choice_way(
    element: &ProcessElement,
    document: ProcessDocument<'_>,
) -> Result<ChoiceWay, Diagnostic> {
    let onward = onward(Some(element), &["rule"], document)?;
    let is_default = match element.attribute("default") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            return Err(document.wrong(
                element.span.clone(),
                "process.truth",
                &[("attribute", "default")],
            ));
        }
    };
    let rule = match (element.one("rule", document)?, is_default) {
        (None, true) => None,
        (Some(rule), false) => {
            rule.only(&["tests"], &[], document)?;
            match rule.attribute("tests") {
                Some("true") => Some(written::<RouteCondition>(rule, document)?),
                None | Some("false") => Some(RouteCondition::Sql(rule.text.clone())),
                Some(_) => {
                    return Err(document.wrong(
                        rule.span.clone(),
                        "process.truth",
                        &[("attribute", "tests")],
                    ));
                }
            }
        }
        _ => return Err(document.wrong(element.span.clone(), "process.rule", &[])),
    };
    Ok(ChoiceWay {
        name: element.attribute("case").map(str::to_owned),
        rule,
        onward,
    })
}

/// Kinds of steps whose value is one text.
pub(super) const TEXT_STEPS: [&str; 4] = ["where", "select", "sql", "script"];

fn step(
    kind: &str,
    element: &ProcessElement,
    config: Option<&ProcessElement>,
    document: ProcessDocument<'_>,
) -> Result<StepSpec, Diagnostic> {
    let Some(config) = config else {
        let args = [("element", "mediation"), ("child", "config")];
        return Err(document.wrong(element.span.clone(), "process.misses-element", &args));
    };
    config.only(&[], &[], document)?;
    let value = match TEXT_STEPS.contains(&kind) {
        true => serde_json::to_string(&config.text).unwrap_or_default(),
        false => config.text.trim().to_owned(),
    };
    let key = serde_json::to_string(kind).unwrap_or_default();
    read_yaml(&format!("{key}:\n{}", indented(&value)), config, document)
}

/// What the text of an element says in YAML.
fn written<T: DeserializeOwned>(
    element: &ProcessElement,
    document: ProcessDocument<'_>,
) -> Result<T, Diagnostic> {
    #[derive(Deserialize)]
    struct WrittenValue<T> {
        value: T,
    }
    let text = format!("value:\n{}", indented(&element.text));
    read_yaml::<WrittenValue<T>>(&text, element, document).map(|written| written.value)
}

fn read_yaml<T: DeserializeOwned>(
    text: &str,
    element: &ProcessElement,
    document: ProcessDocument<'_>,
) -> Result<T, Diagnostic> {
    let read = Source::parse(document.file, text).and_then(|source| source.read());
    read.map_err(|wrong| {
        let error = Error::new(Class::Configuration, "process.config")
            .with("element", &element.name)
            .with_error("cause", wrong.error());
        Diagnostic::new(document.file, document.text, element.span.clone(), error)
            .with_help(wrong.help().cloned())
    })
}

fn indented(text: &str) -> String {
    let lines = text.lines().map(|line| format!("  {line}\n"));
    lines.collect()
}

fn out_endpoint(
    element: &ProcessElement,
    document: ProcessDocument<'_>,
) -> Result<OutEndpoint, Diagnostic> {
    let keys = [
        "stream",
        "topic",
        "table",
        "connection",
        "relay",
        "key",
        "change",
        "unchanged",
        "newer",
    ];
    let known = [&["name", "known-as", "retain", "or_equal"], &keys[..]].concat();
    element.only(&known, &["inbounds"], document)?;
    let mut output = serde_json::Map::new();
    for key in keys {
        if let Some(value) = element.attribute(key) {
            output.insert(key.to_owned(), value.into());
        }
    }
    if let Some(name) = element.attribute("known-as") {
        output.insert("name".to_owned(), name.into());
    }
    for truth in ["retain", "or_equal"] {
        match element.attribute(truth) {
            None => {}
            Some("true") => drop(output.insert(truth.to_owned(), true.into())),
            Some("false") => drop(output.insert(truth.to_owned(), false.into())),
            Some(_) => {
                return Err(document.wrong(
                    element.span.clone(),
                    "process.truth",
                    &[("attribute", truth)],
                ));
            }
        }
    }
    let output: Result<OutputSpec, _> = serde_json::from_value(output.into());
    Ok(OutEndpoint {
        label: label(element, document)?,
        inbounds: inbounds(element, document)?,
        output: output
            .map_err(|_| document.wrong(element.span.clone(), "process.out-endpoint", &[]))?,
    })
}
