//! What became of every event: `in + added = out + filtered + dead + held`, at each node and for the flow.
//!
//! One lock a batch, not one an event: a batch's counts are put in together, so that whoever looks sees the
//! equation hold at any moment.

use busbar_event::Error;
use parking_lot::Mutex;
use serde::Serialize;

/// Counts of one node, or of a whole flow, since the flow was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Events that came.
    #[serde(rename = "in")]
    pub input: u64,
    /// Events that went on.
    pub out: u64,
    /// Events that a condition, or an aggregate, left out.
    pub filtered: u64,
    /// Events that became dead letters.
    pub dead: u64,
    /// Events under way: computed, and not yet durable where they go.
    pub held: u64,
    /// Rows that a query made beyond those it was given.
    pub added: u64,
}

impl Counters {
    /// What the equation is off by; 0 when every event is accounted for.
    pub fn difference(&self) -> i64 {
        let came = i128::from(self.input) + i128::from(self.added);
        let went = i128::from(self.out)
            + i128::from(self.filtered)
            + i128::from(self.dead)
            + i128::from(self.held);
        i64::try_from(came - went).unwrap_or(i64::MAX)
    }

    fn add(&mut self, delta: &Counters) {
        self.input += delta.input;
        self.out += delta.out;
        self.filtered += delta.filtered;
        self.dead += delta.dead;
        self.held += delta.held;
        self.added += delta.added;
    }

    fn subtract(&mut self, delta: &Counters) {
        self.input = self.input.saturating_sub(delta.input);
        self.out = self.out.saturating_sub(delta.out);
        self.filtered = self.filtered.saturating_sub(delta.filtered);
        self.dead = self.dead.saturating_sub(delta.dead);
        self.held = self.held.saturating_sub(delta.held);
        self.added = self.added.saturating_sub(delta.added);
    }
}

/// What a batch changes at some nodes and in the flow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delta {
    /// Node index and counts.
    pub nodes: Vec<(usize, Counters)>,
    /// The flow as a whole.
    pub flow: Counters,
}

/// The counters of a flow that runs.
#[derive(Debug)]
pub(crate) struct Tally(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    nodes: Vec<Node>,
    flow: Counters,
    missed: u64,
    last_tick: Option<i64>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    counters: Counters,
    ticked: Counters,
    rate_in: f64,
    rate_out: f64,
    error: Option<Error>,
    tries: u32,
}

/// A node's counters at one moment.
#[derive(Clone, Debug)]
pub(crate) struct NodeReading {
    pub counters: Counters,
    pub rate_in: f64,
    pub rate_out: f64,
    pub error: Option<Error>,
    pub tries: u32,
}

/// All counters at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub nodes: Vec<NodeReading>,
    pub flow: Counters,
    pub missed: u64,
}

impl Tally {
    pub fn new(nodes: usize) -> Tally {
        let nodes = vec![Node::default(); nodes];
        Tally(Mutex::new(Inner {
            nodes,
            flow: Counters::default(),
            missed: 0,
            last_tick: None,
        }))
    }

    pub fn add(&self, delta: &Delta) {
        let mut inner = self.0.lock();
        for (node, counts) in &delta.nodes {
            inner.nodes[*node].counters.add(counts);
        }
        inner.flow.add(&delta.flow);
    }

    /// Takes back what was added for a batch that was cut off and will come again.
    pub fn take_back(&self, delta: &Delta) {
        let mut inner = self.0.lock();
        for (node, counts) in &delta.nodes {
            inner.nodes[*node].counters.subtract(counts);
        }
        inner.flow.subtract(&delta.flow);
    }

    /// Moves `rows` of a node from held to out and dead.
    pub fn settle(&self, node: usize, rows: u64, dead: u64) {
        let mut inner = self.0.lock();
        let counters = &mut inner.nodes[node].counters;
        counters.held = counters.held.saturating_sub(rows);
        counters.out += rows - dead.min(rows);
        counters.dead += dead.min(rows);
    }

    /// The same for the flow.
    pub fn settle_flow(&self, rows: u64, dead: u64) {
        let mut inner = self.0.lock();
        let flow = &mut inner.flow;
        flow.held = flow.held.saturating_sub(rows);
        flow.out += rows - dead.min(rows);
        flow.dead += dead.min(rows);
    }

    pub fn miss(&self, events: u64) {
        self.0.lock().missed += events;
    }

    /// Says, or takes back, why a node does not get on.
    pub fn error(&self, node: usize, error: Option<Error>, tries: u32) {
        let mut inner = self.0.lock();
        inner.nodes[node].error = error;
        inner.nodes[node].tries = tries;
    }

    /// Takes the rates; called about once a second.
    pub fn tick(&self, now_micros: i64) {
        let mut inner = self.0.lock();
        let before = inner.last_tick.replace(now_micros);
        let Some(micros) = before.map(|b| now_micros - b).filter(|m| *m > 0) else {
            return;
        };
        let seconds = micros as f64 / 1e6;
        for node in &mut inner.nodes {
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            node.rate_in = rate(node.counters.input, node.ticked.input);
            node.rate_out = rate(node.counters.out, node.ticked.out);
            node.ticked = node.counters;
        }
    }

    pub fn read(&self) -> Reading {
        let inner = self.0.lock();
        let nodes = inner
            .nodes
            .iter()
            .map(|node| NodeReading {
                counters: node.counters,
                rate_in: node.rate_in,
                rate_out: node.rate_out,
                error: node.error.clone(),
                tries: node.tries,
            })
            .collect();
        Reading {
            nodes,
            flow: inner.flow,
            missed: inner.missed,
        }
    }
}
