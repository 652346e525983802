//! How the nodes of a flow's graph hang together.

use std::collections::HashMap;

use busbar_catalog::{FlowSpec, StepAt, StepSpec};

use crate::status::{Edge, NodeStatus};

/// Names of cases that one edge shows.
const CASES_SHOWN: usize = 3;

/// Inputs to the first step, step to step, a route to the steps or outputs of its cases, the last steps to the outputs. A
/// stream that a join names leads to its step.
pub(super) fn edges(spec: &FlowSpec, nodes: &[NodeStatus]) -> Vec<Edge> {
    let of = |role: &'static str| nodes.iter().filter(move |n| n.role == role);
    let steps: Vec<&str> = of("step").map(|node| &*node.id).collect();
    let outputs: Vec<&str> = of("to").map(|node| &*node.id).collect();
    let mut graph = EdgeWalk {
        spec,
        all: spec.all_steps(),
        steps,
        outputs,
        edges: Vec::new(),
    };
    let inputs: Vec<&str> = of("from").map(|node| &*node.id).collect();
    let begin = inputs.iter().copied().take(spec.from.len());
    let begin: Vec<EdgeTail<'_>> = begin
        .map(|id| EdgeTail {
            id,
            case: None,
            to: None,
        })
        .collect();
    let ends = graph.walk(None, begin);
    graph.deliver(ends);
    for (step, _, join) in spec.joins() {
        let Some(stream) = &join.stream else { continue };
        let input = spec.streams().position(|known| known == stream);
        let id = input.and_then(|input| inputs.get(input).copied());
        if let (Some(id), Some(step)) = (id, graph.steps.get(step).copied()) {
            graph.add(id, step, None);
        }
    }
    let order: HashMap<&str, usize> = nodes
        .iter()
        .enumerate()
        .map(|(place, node)| (&*node.id, place))
        .collect();
    graph
        .edges
        .sort_by_key(|edge| order.get(edge.from).copied());
    graph.edges.into_iter().map(DrawnEdge::edge).collect()
}

struct EdgeWalk<'a> {
    spec: &'a FlowSpec,
    all: Vec<StepAt<'a>>,
    /// Ids of nodes.
    steps: Vec<&'a str>,
    outputs: Vec<&'a str>,
    edges: Vec<DrawnEdge<'a>>,
}

/// Where rows are before they go on.
#[derive(Clone)]
struct EdgeTail<'a> {
    id: &'a str,
    /// The case they have taken there.
    case: Option<String>,
    /// The outputs that the case names.
    to: Option<&'a [String]>,
}

struct DrawnEdge<'a> {
    from: &'a str,
    to: &'a str,
    cases: Vec<String>,
}

impl DrawnEdge<'_> {
    fn edge(self) -> Edge {
        let more = self.cases.len().saturating_sub(CASES_SHOWN);
        let mut shown: Vec<String> = self.cases.into_iter().take(CASES_SHOWN).collect();
        if more > 0 {
            shown.push(format!("… +{more}"));
        }
        Edge {
            from: self.from.to_owned(),
            to: self.to.to_owned(),
            case: (!shown.is_empty()).then(|| shown.join(", ")),
        }
    }
}

impl<'a> EdgeWalk<'a> {
    fn add(&mut self, from: &'a str, to: &'a str, case: Option<String>) {
        let known = self.edges.iter_mut().rev();
        let mut known = known.filter(|edge| edge.from == from && edge.to == to);
        match known.next() {
            Some(edge) => edge.cases.extend(case),
            None => self.edges.push(DrawnEdge {
                from,
                to,
                cases: case.into_iter().collect(),
            }),
        }
    }

    /// Leads rows through the steps of a case, or of the flow itself.
    fn walk(
        &mut self,
        case: Option<(usize, usize)>,
        begin: Vec<EdgeTail<'a>>,
    ) -> Vec<EdgeTail<'a>> {
        let mut tails = begin;
        let own: Vec<usize> = (0..self.all.len())
            .filter(|i| self.all[*i].case == case)
            .collect();
        for number in own {
            let Some(id) = self.steps.get(number).copied() else {
                return tails;
            };
            for tail in std::mem::take(&mut tails) {
                self.add(tail.id, id, tail.case);
            }
            let StepSpec::Route(route) = self.all[number].spec else {
                let tail = EdgeTail {
                    id,
                    case: None,
                    to: None,
                };
                tails.push(tail);
                continue;
            };
            for (case, way) in route.ways().enumerate() {
                let tail = EdgeTail {
                    id,
                    case: Some(route.case_name(case)),
                    to: way.to,
                };
                match way.steps.is_empty() {
                    true => tails.push(tail),
                    false => {
                        let of_case = self.walk(Some((number, case)), vec![tail]);
                        tails.extend(of_case.into_iter().map(|tail| EdgeTail {
                            to: tail.to.or(way.to),
                            ..tail
                        }));
                    }
                }
            }
        }
        tails
    }

    fn deliver(&mut self, tails: Vec<EdgeTail<'a>>) {
        for tail in tails {
            let named = tail.to.map(|names| {
                let outputs = names.iter().filter_map(|name| self.spec.output_named(name));
                outputs.collect::<Vec<_>>()
            });
            let all = || (0..self.outputs.len()).collect();
            for output in named.unwrap_or_else(all) {
                if let Some(output) = self.outputs.get(output).copied() {
                    self.add(tail.id, output, tail.case.clone());
                }
            }
        }
    }
}
