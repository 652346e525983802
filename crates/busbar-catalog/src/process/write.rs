//! A flow becomes a document.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use busbar_event::{Class, Error};

use super::read::{REPLY_TO, TEXT_STEPS};
use crate::flow::{FlowSpec, ProcessNames, Start};
use crate::flow_names::is_choice;
use crate::step::{RouteCondition, RouteMatch, StepSpec};

/// The document of a flow.
///
/// # Errors
/// `process.character` when a text holds a character that XML cannot say.
pub fn process_of(name: &str, flow: &FlowSpec) -> Result<String, Error> {
    let ProcessNames {
        ins,
        mediations,
        outs,
    } = ProcessNames::of(flow);
    let mut writer = ProcessWriter {
        flow,
        names: mediations.into_iter(),
        outs,
        before: BTreeMap::new(),
        mediations: Vec::new(),
    };
    let first = writer.chain(&flow.steps, WayEnd::Top, &ins);
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<esbprocess");
    attribute(&mut xml, "name", name);
    if flow.start != Start::Earliest {
        let start = serde_json::to_value(flow.start).unwrap_or_default();
        attribute(&mut xml, "start", start.as_str().unwrap_or_default());
    }
    if !flow.enabled {
        attribute(&mut xml, "enabled", "false");
    }
    xml.push_str(">\n");
    if let Some(description) = &flow.description {
        let _ = writeln!(xml, "  <description>{}</description>", escaped(description));
    }
    let answers = flow
        .to
        .iter()
        .position(|output| output.name.as_deref() == Some(REPLY_TO));
    xml.push_str("  <inendpoints>\n");
    for (label, stream) in ins.iter().zip(&flow.from) {
        xml.push_str("    <inendpoint");
        attribute(&mut xml, "name", label);
        attribute(&mut xml, "stream", stream);
        if let Some(out) = answers {
            attribute(&mut xml, "replyto", &writer.out(out));
        }
        let hops = first.hops(8);
        let _ = write!(
            xml,
            ">\n      <outbounds>\n{hops}      </outbounds>\n    </inendpoint>\n"
        );
    }
    xml.push_str("  </inendpoints>\n  <mediations>\n");
    writer.mediations.iter().for_each(|one| xml.push_str(one));
    xml.push_str("  </mediations>\n  <outendpoints>\n");
    for (at, output) in flow.to.iter().enumerate() {
        let label = writer.out(at);
        xml.push_str("    <outendpoint");
        attribute(&mut xml, "name", &label);
        let written = serde_json::to_value(output).unwrap_or_default();
        for (key, value) in written.as_object().into_iter().flatten() {
            match (key.as_str(), value.as_str()) {
                ("name", Some(name)) => attribute(&mut xml, "known-as", name),
                (key, Some(text)) => attribute(&mut xml, key, text),
                (key, None) => attribute(&mut xml, key, &value.to_string()),
            }
        }
        xml.push_str(">\n");
        xml.push_str(&writer.inbounds(&label));
        xml.push_str("    </outendpoint>\n");
    }
    xml.push_str("  </outendpoints>\n");
    if !flow.tests.is_empty() {
        let tests = serde_json::to_string_pretty(&flow.tests).unwrap_or_default();
        let _ = writeln!(xml, "  <tests>\n{}\n  </tests>", escaped(&tests));
    }
    xml.push_str("</esbprocess>\n");
    let allowed =
        |letter: char| matches!(letter, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
    match xml.chars().all(allowed) {
        true => Ok(xml),
        false => Err(Error::new(Class::Configuration, "process.character")),
    }
}

/// Where a way ends.
#[derive(Clone, Copy)]
enum WayEnd<'a> {
    /// The flow's own way: at every output.
    Top,
    /// A case without `to`.
    Everywhere,
    /// A case with `to`.
    Named(&'a [String]),
}

/// What comes next.
enum NextHops {
    To(Vec<String>),
    Everywhere,
}

impl NextHops {
    /// The elements, so many spaces from the left.
    fn hops(&self, left: usize) -> String {
        let NextHops::To(names) = self else {
            return String::new();
        };
        let hop = |name: &String| format!("{:left$}<nexthop>{}</nexthop>\n", "", escaped(name));
        names.iter().map(hop).collect()
    }

    fn attribute(&self) -> &'static str {
        match self {
            NextHops::To(_) => "",
            NextHops::Everywhere => " to=\"all\"",
        }
    }
}

struct ProcessWriter<'a> {
    flow: &'a FlowSpec,
    /// The names of mediations that are still to be written, in the order of the steps.
    names: std::vec::IntoIter<String>,
    /// The names of out-endpoints.
    outs: Vec<String>,
    /// For each name those that lead to it.
    before: BTreeMap<String, BTreeSet<String>>,
    mediations: Vec<String>,
}

impl ProcessWriter<'_> {
    /// The name of an out-endpoint.
    fn out(&self, at: usize) -> String {
        self.outs.get(at).cloned().unwrap_or_default()
    }

    /// Writes the mediations of steps; what leads to them.
    fn chain(&mut self, steps: &[StepSpec], end: WayEnd<'_>, before: &[String]) -> NextHops {
        let Some((step, rest)) = steps.split_first() else {
            return self.end(end, before);
        };
        let kind = step.kind();
        let label = self.names.next().unwrap_or_default();
        self.note(before, &label);
        // A mediation stands before those that follow it, which are known later.
        let place = self.mediations.len();
        self.mediations.push(String::new());
        let mut xml = String::from("    <mediation");
        attribute(&mut xml, "name", &label);
        attribute(&mut xml, "step", kind);
        let own = [label.clone()];
        let is_end = rest.is_empty() && !matches!(end, WayEnd::Named(_));
        match step {
            StepSpec::Route(route) if is_end && is_choice(self.flow, route) => {
                if route.matching == RouteMatch::All {
                    attribute(&mut xml, "match", "all");
                }
                if let Some(name) = &route.name {
                    attribute(&mut xml, "keep", name);
                }
                xml.push_str(">\n");
                xml.push_str(&self.inbounds(&label));
                xml.push_str("      <outbounds>\n");
                for case in &route.cases {
                    let hops = self.chain(&case.steps, way_end(case.to.as_deref()), &own);
                    way(&mut xml, case.name.as_deref(), Some(&case.when), &hops);
                }
                if let Some(case) = &route.default {
                    let hops = self.chain(&case.steps, way_end(case.to.as_deref()), &own);
                    way(&mut xml, None, None, &hops);
                }
                xml.push_str("      </outbounds>\n    </mediation>\n");
            }
            _ => {
                let written = serde_json::to_value(step).unwrap_or_default();
                let value = &written[kind];
                let config = match (TEXT_STEPS.contains(&kind), value.as_str()) {
                    (true, Some(text)) => text.to_owned(),
                    _ => serde_json::to_string_pretty(value).unwrap_or_default(),
                };
                xml.push_str(">\n");
                xml.push_str(&self.inbounds(&label));
                let hops = self.chain(rest, end, &own);
                let _ = write!(
                    xml,
                    "      <config>{}</config>\n      <outbounds{}>\n{}      </outbounds>\n    </mediation>\n",
                    escaped(&config),
                    hops.attribute(),
                    hops.hops(8)
                );
            }
        }
        self.mediations[place] = xml;
        NextHops::To(own.to_vec())
    }

    fn end(&mut self, end: WayEnd<'_>, before: &[String]) -> NextHops {
        let outputs: Vec<usize> = match end {
            WayEnd::Top | WayEnd::Everywhere => (0..self.flow.to.len()).collect(),
            WayEnd::Named(names) => {
                let place = |name: &String| self.flow.output_named(name);
                names.iter().filter_map(place).collect()
            }
        };
        let labels: Vec<String> = outputs.into_iter().map(|at| self.out(at)).collect();
        labels.iter().for_each(|label| self.note(before, label));
        match end {
            WayEnd::Everywhere => NextHops::Everywhere,
            WayEnd::Top | WayEnd::Named(_) => NextHops::To(labels),
        }
    }

    fn note(&mut self, before: &[String], label: &str) {
        let known = self.before.entry(label.to_owned()).or_default();
        known.extend(before.iter().cloned());
    }

    fn inbounds(&self, label: &str) -> String {
        let before = self.before.get(label).into_iter().flatten();
        let inbound = |name: &String| format!("        <inbound>{}</inbound>\n", escaped(name));
        let all: String = before.map(inbound).collect();
        format!("      <inbounds>\n{all}      </inbounds>\n")
    }
}

fn way_end(to: Option<&[String]>) -> WayEnd<'_> {
    to.map_or(WayEnd::Everywhere, WayEnd::Named)
}

/// One way of a choice.
fn way(xml: &mut String, name: Option<&str>, rule: Option<&RouteCondition>, hops: &NextHops) {
    xml.push_str("        <outbound");
    if let Some(name) = name {
        attribute(xml, "case", name);
    }
    if rule.is_none() {
        attribute(xml, "default", "true");
    }
    xml.push_str(hops.attribute());
    xml.push_str(">\n");
    match rule {
        Some(RouteCondition::Sql(text)) => {
            let _ = writeln!(xml, "          <rule>{}</rule>", escaped(text));
        }
        Some(tests) => {
            let tests = serde_json::to_string(tests).unwrap_or_default();
            let _ = writeln!(
                xml,
                "          <rule tests=\"true\">{}</rule>",
                escaped(&tests)
            );
        }
        None => {}
    }
    xml.push_str(&hops.hops(10));
    xml.push_str("        </outbound>\n");
}

fn attribute(xml: &mut String, name: &str, value: &str) {
    let value = escaped(value)
        .replace('"', "&quot;")
        .replace('\n', "&#10;")
        .replace('\t', "&#9;");
    let _ = write!(xml, " {name}=\"{value}\"");
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\r' => out.push_str("&#13;"),
            _ => out.push(letter),
        }
    }
    out
}
