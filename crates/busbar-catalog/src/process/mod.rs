//! Processes: a flow in the notation of service buses, as XML.
//!
//! An `esbprocess` has in-endpoints, mediations and out-endpoints, each with a name and the names of those that come next. It
//! says the same as a flow's file: in-endpoints are its streams, mediations its steps, out-endpoints its outputs, and a
//! mediation with several ways out is a `route`. [`flow_of`] and [`process_of`] turn one into the other without loss. A
//! flow keeps the names of endpoints and mediations under `process`; without them an export numbers its parts by their kind.

mod element;
mod hops;
mod read;
#[cfg(test)]
mod tests;
mod write;

use crate::flow::{FlowSpec, OutputSpec, Start, TestSpec};
use crate::step::{RouteCondition, RouteMatch, StepSpec};
use crate::tree::Source;

pub use read::flow_of;
pub use write::process_of;

/// The file of a flow, as YAML.
pub fn flow_file(flow: &FlowSpec) -> String {
    let says_the_same = |text: &String| {
        let read = Source::parse("", text).and_then(|source| source.read::<FlowSpec>());
        read.is_ok_and(|read| read == *flow)
    };
    // JSON is YAML, too, and can say every text.
    let yaml = serde_saphyr::to_string(flow).ok().filter(says_the_same);
    yaml.unwrap_or_else(|| serde_json::to_string_pretty(flow).unwrap_or_default())
}

/// A process as its document says it.
#[derive(Debug)]
struct EsbProcess {
    description: Option<String>,
    start: Start,
    enabled: bool,
    tests: Vec<TestSpec>,
    ins: Vec<InEndpoint>,
    mediations: Vec<Mediation>,
    outs: Vec<OutEndpoint>,
}

/// Where events come in.
#[derive(Debug)]
struct InEndpoint {
    label: Label,
    stream: String,
    next: Vec<Label>,
}

/// What is done with events.
#[derive(Debug)]
struct Mediation {
    label: Label,
    /// Those before it, where the document says so.
    inbounds: Option<Vec<Label>>,
    work: MediationWork,
}

#[derive(Debug)]
enum MediationWork {
    /// A step, and what comes next.
    Step(StepSpec, Onward),
    /// A choice between ways.
    Choice {
        name: Option<String>,
        matching: RouteMatch,
        ways: Vec<ChoiceWay>,
    },
}

/// One way of a choice.
#[derive(Debug)]
struct ChoiceWay {
    name: Option<String>,
    /// None: the events that no other way takes.
    rule: Option<RouteCondition>,
    onward: Onward,
}

/// What comes next.
#[derive(Debug)]
enum Onward {
    /// These, in order; none: events end here.
    To(Vec<Label>),
    /// All out-endpoints.
    Everywhere,
}

/// Where events go out.
#[derive(Debug)]
struct OutEndpoint {
    label: Label,
    inbounds: Option<Vec<Label>>,
    output: OutputSpec,
}

/// A name, and the byte of the document where it is said.
#[derive(Clone, Debug)]
struct Label {
    name: String,
    at: usize,
}
