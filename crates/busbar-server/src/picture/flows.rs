//! Flows as the API shows them.

use std::collections::BTreeMap;

use busbar_access::Principal;
use busbar_connector::Guarantee;
use busbar_event::{Error, Micros, time};
use busbar_flow::{Counters, Edge, FlowState, FlowStatus, NodeStatus};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::rights;

/// A flow in short. Counts are since the node started.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct FlowSummary {
    /// Its name.
    name: String,
    /// `running`, `retrying`, `waiting` (for a first event to know columns by), `paused`, `disabled` or `stopped`.
    state: &'static str,
    /// The streams it reads.
    from: String,
    /// The tables that its joins look rows up in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tables: Vec<String>,
    /// The version of the project it came with.
    version: u64,
    #[serde(flatten)]
    counts: Counts,
    /// Events that came in the last second.
    rate: f64,
    /// Committed events it has not read yet.
    lag: u64,
    /// The least watermark of its cursors: the greatest event time that all of them have seen, less the lateness of
    /// the stream. None before the first event.
    #[serde(skip_serializing_if = "Option::is_none")]
    watermark: Option<String>,
    /// Seconds from the watermark to the node's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    watermark_age_s: Option<f64>,
    /// Why it does not get on, or the alarm of counts that do not add up.
    #[schema(value_type = Option<crate::problem::Problem>)]
    error: Option<Error>,
    /// What people should know although it runs: its state could not be read, and it went on from a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::problem::Problem>)]
    notice: Option<Error>,
}

impl FlowSummary {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the caller may read every stream and table that the flow reads.
    pub(crate) fn may_be_read_by(&self, caller: &Principal) -> bool {
        rights::may_read_flow(caller, self.from.split(", "), &self.tables)
    }

    /// Whole events a second.
    pub(crate) fn rate(&self) -> u64 {
        self.rate.round() as u64
    }
}

/// What became of events.
#[derive(Clone, Copy, Serialize, utoipa::ToSchema)]
struct Counts {
    /// Events that came.
    #[serde(rename = "in")]
    input: u64,
    /// Events that went on.
    out: u64,
    /// Events that a condition left out.
    filtered: u64,
    /// Events that became dead letters.
    dead: u64,
    /// Events under way.
    held: u64,
    /// Rows that were made beyond those that came: results of queries and windows.
    added: u64,
    /// Events that went into the state of a step, or into a stream between two stages of the flow.
    taken: u64,
    /// Events that came after the window, or whatever else they belong to, had been closed: they are in the stream
    /// `<flow>.late`.
    late: u64,
    /// Rows of a table that a later row with the same key replaced within the same batch; for the flow,
    /// those that nothing else of the flow kept.
    overwritten: u64,
    /// Rows that an output did not write because the row on the other side was changed there, and that change counts; for
    /// the flow, those that every output left so.
    conflicts: u64,
}

/// A flow.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct FlowDetail {
    #[serde(flatten)]
    pub(crate) summary: FlowSummary,
    /// Its inputs, steps and outputs.
    graph: Graph,
    /// The equation `in + added = out + filtered + taken + late + dead + held + overwritten + conflicts`.
    conservation: ConservationView,
    /// Events that retention or damage took before it could read them.
    missed: u64,
    /// When this version began to run.
    started: String,
    /// Its cursors.
    tasks: Vec<TaskView>,
    /// The text of its file; only where one flow is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// Its steps `map` as in its file, by their ids in the graph; only where one flow is asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, Object>)]
    pub(crate) mappings: BTreeMap<String, Box<RawValue>>,
}

impl FlowDetail {
    /// Whether the caller may read every stream that the flow reads.
    pub(crate) fn may_be_read_by(&self, caller: &Principal) -> bool {
        self.summary.may_be_read_by(caller)
    }
}

/// A flow's graph.
#[derive(Clone, Serialize, utoipa::ToSchema)]
struct Graph {
    /// Inputs, steps, outputs.
    nodes: Vec<NodeView>,
    /// What leads where.
    edges: Vec<EdgeView>,
}

/// A node of a flow's graph.
#[derive(Clone, Serialize, utoipa::ToSchema)]
struct NodeView {
    /// Unique in the flow.
    id: String,
    /// `stream`, `where`, `select`, `sql`, `topic`, `table` or `connection`.
    kind: &'static str,
    /// `from`, `step` or `to`.
    role: &'static str,
    /// The stream, the SQL, the topic's template, the table or the connection.
    label: String,
    /// Its name as an endpoint or mediation of a process, where the flow gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(flatten)]
    counts: Counts,
    /// Events that came in the last second.
    rate: f64,
    /// Events that went on in the last second.
    rate_out: f64,
    /// Committed events not read yet.
    lag: u64,
    /// For inputs and outputs: the least watermark of the cursors behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    watermark: Option<String>,
    /// Why it does not get on.
    #[schema(value_type = Option<crate::problem::Problem>)]
    error: Option<Error>,
    /// Tries since it last worked.
    tries: u32,
    /// For outputs: `at-least-once` or `exactly-once` across a crash.
    guarantee: Option<&'static str>,
}

/// From one node to the next.
#[derive(Clone, Serialize, utoipa::ToSchema)]
struct EdgeView {
    /// The node it leaves.
    from: String,
    /// The node it enters.
    to: String,
    /// Behind a `route`: the cases whose events go this way.
    #[serde(skip_serializing_if = "Option::is_none")]
    case: Option<String>,
    /// Events that passed in the last second.
    rate: f64,
    /// The watermark of what has passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    watermark: Option<String>,
}

/// The terms of the equation for the flow as a whole.
#[derive(Clone, Serialize, utoipa::ToSchema)]
struct ConservationView {
    #[serde(flatten)]
    counts: Counts,
    /// What it is off by; anything but 0 is an alarm.
    difference: i64,
    /// True when every event is accounted for.
    balanced: bool,
}

/// A cursor of a flow.
#[derive(Clone, Serialize, utoipa::ToSchema)]
struct TaskView {
    /// The stream it reads.
    stream: String,
    /// The partition.
    partition: u16,
    /// `main`, or the connection whose own cursor this is.
    lane: String,
    /// Every event before this offset is done with.
    position: u64,
    /// Committed events behind it.
    lag: u64,
    /// The greatest time of the events before the position, less the lateness of the stream: an event that is
    /// older comes late.
    #[serde(skip_serializing_if = "Option::is_none")]
    watermark: Option<String>,
    /// The stage of the flow that it runs: 0 reads the streams of the file, each next one the rows of the one before.
    stage: usize,
    /// Behind a stage: the stream and partition whose watermark is the least, so that this cursor waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_back_by: Option<String>,
    /// Its operators that keep state.
    operators: Vec<OperatorView>,
}

/// An operator that keeps state.
#[derive(Clone, Serialize, utoipa::ToSchema)]
struct OperatorView {
    /// The name under which its state is kept.
    name: String,
    /// Bytes of state in memory.
    memory_bytes: usize,
}

/// A flow at a time, in microseconds since 1970.
pub(crate) fn flow_detail(status: FlowStatus, now: Micros) -> FlowDetail {
    let rates: BTreeMap<&str, f64> = status
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node.rate_out))
        .collect();
    // An output with a cursor of its own says how far that is; else it is as far as what it comes from.
    let watermark = |id: &str| {
        let node = status.nodes.iter().find(|node| node.id == id);
        node.and_then(|node| node.watermark_micros)
    };
    let passed = |edge: &Edge| watermark(&edge.to).or_else(|| watermark(&edge.from));
    let edges = status
        .edges
        .iter()
        .map(|edge| EdgeView {
            from: edge.from.clone(),
            to: edge.to.clone(),
            case: edge.case.clone(),
            rate: rates.get(edge.from.as_str()).copied().unwrap_or(0.0),
            watermark: passed(edge).map(time::text),
        })
        .collect();
    let inputs: Vec<&NodeStatus> = status
        .nodes
        .iter()
        .filter(|node| node.role == "from")
        .collect();
    let summary = FlowSummary {
        state: flow_state(status.state),
        from: inputs
            .iter()
            .map(|node| node.label.as_str())
            .collect::<Vec<_>>()
            .join(", "),
        tables: status.tables.clone(),
        version: status.version,
        counts: counts(&status.conservation.counters),
        rate: inputs
            .iter()
            .map(|node| node.rate_in.max(node.rate_out))
            .sum(),
        lag: status.lag,
        watermark: status.watermark_micros.map(time::text),
        watermark_age_s: status
            .watermark_micros
            .map(|at| now.saturating_sub(at) as f64 / 1e6),
        error: status.error.clone(),
        notice: status.notice.clone(),
        name: status.name.clone(),
    };
    FlowDetail {
        summary,
        conservation: ConservationView {
            counts: counts(&status.conservation.counters),
            difference: status.conservation.difference,
            balanced: status.conservation.difference == 0,
        },
        missed: status.missed,
        started: time::text(status.started_micros),
        tasks: status
            .tasks
            .iter()
            .map(|task| TaskView {
                stream: task.stream.clone(),
                partition: task.partition,
                lane: task.lane.clone(),
                position: task.position,
                lag: task.lag,
                watermark: task.watermark_micros.map(time::text),
                stage: task.stage,
                held_back_by: task.held_back_by.clone(),
                operators: task
                    .operators
                    .iter()
                    .map(|operator| OperatorView {
                        name: operator.name.clone(),
                        memory_bytes: operator.memory_bytes,
                    })
                    .collect(),
            })
            .collect(),
        source: None,
        mappings: BTreeMap::new(),
        graph: Graph {
            nodes: status.nodes.into_iter().map(node).collect(),
            edges,
        },
    }
}

fn node(node: NodeStatus) -> NodeView {
    NodeView {
        id: node.id,
        kind: node.kind,
        role: node.role,
        label: node.label,
        name: node.name,
        counts: counts(&node.counters),
        rate: node.rate_in,
        rate_out: node.rate_out,
        lag: node.lag,
        watermark: node.watermark_micros.map(time::text),
        error: node.error,
        tries: node.tries,
        guarantee: node.guarantee.map(guarantee),
    }
}

fn counts(counters: &Counters) -> Counts {
    Counts {
        input: counters.input,
        out: counters.out,
        filtered: counters.filtered,
        dead: counters.dead,
        held: counters.held,
        added: counters.added,
        taken: counters.taken,
        late: counters.late,
        overwritten: counters.overwritten,
        conflicts: counters.conflicts,
    }
}

/// A state as it is written.
pub(crate) fn flow_state(state: FlowState) -> &'static str {
    match state {
        FlowState::Running => "running",
        FlowState::Retrying => "retrying",
        FlowState::Waiting => "waiting",
        FlowState::Paused => "paused",
        FlowState::Disabled => "disabled",
        FlowState::Stopped => "stopped",
    }
}

/// A guarantee as it is written.
pub(super) fn guarantee(guarantee: Guarantee) -> &'static str {
    match guarantee {
        Guarantee::AtLeastOnce => "at-least-once",
        Guarantee::ExactlyOnce => "exactly-once",
    }
}
