//! What became of every event: `in + added = out + filtered + taken + late + dead + held + overwritten +
//! conflicts`, at each node and for the flow.
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
    /// Rows that were made beyond those that came: results of queries and windows.
    pub added: u64,
    /// Events that went into the state of a step, or into a stream between two stages of a flow.
    pub taken: u64,
    /// Events that came after the window, or whatever else they belong to, had been closed.
    pub late: u64,
    /// Rows of a table that a later row with the same key replaced within the same batch; for the flow,
    /// those that nothing else of the flow kept.
    pub overwritten: u64,
    /// Rows that an output did not write because the row on the other side was changed there, and that change counts; for
    /// the flow, those that every output left so.
    pub conflicts: u64,
}

impl Counters {
    /// What the equation is off by; 0 when every event is accounted for.
    pub fn difference(&self) -> i64 {
        let came = i128::from(self.input) + i128::from(self.added);
        let went = i128::from(self.out)
            + i128::from(self.filtered)
            + i128::from(self.taken)
            + i128::from(self.late)
            + i128::from(self.dead)
            + i128::from(self.held)
            + i128::from(self.overwritten)
            + i128::from(self.conflicts);
        i64::try_from(came - went).unwrap_or(i64::MAX)
    }

    fn settle(&mut self, settled: Settled) {
        let dead = settled.dead.min(settled.rows);
        let overwritten = settled.overwritten.min(settled.rows - dead);
        let conflicts = settled.conflicts.min(settled.rows - dead - overwritten);
        self.held = self.held.saturating_sub(settled.rows);
        self.out += settled.rows - dead - overwritten - conflicts;
        self.dead += dead;
        self.overwritten += overwritten;
        self.conflicts += conflicts;
    }

    fn add(&mut self, delta: &Counters) {
        self.input += delta.input;
        self.out += delta.out;
        self.filtered += delta.filtered;
        self.dead += delta.dead;
        self.held += delta.held;
        self.added += delta.added;
        self.taken += delta.taken;
        self.late += delta.late;
        self.overwritten += delta.overwritten;
        self.conflicts += delta.conflicts;
    }

    fn subtract(&mut self, delta: &Counters) {
        self.input = self.input.saturating_sub(delta.input);
        self.out = self.out.saturating_sub(delta.out);
        self.filtered = self.filtered.saturating_sub(delta.filtered);
        self.dead = self.dead.saturating_sub(delta.dead);
        self.held = self.held.saturating_sub(delta.held);
        self.added = self.added.saturating_sub(delta.added);
        self.taken = self.taken.saturating_sub(delta.taken);
        self.late = self.late.saturating_sub(delta.late);
        self.overwritten = self.overwritten.saturating_sub(delta.overwritten);
        self.conflicts = self.conflicts.saturating_sub(delta.conflicts);
    }
}

/// Rows that were held and are so no longer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settled {
    /// All of them.
    pub rows: u64,
    /// Those of them that became dead letters.
    pub dead: u64,
    /// Those of them that a later row of the same batch replaced.
    pub overwritten: u64,
    /// Those of them that gave way to rows on the other side.
    pub conflicts: u64,
}

/// What a batch changes at some nodes and in the flow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delta {
    /// Node index and counts.
    pub nodes: Vec<(usize, Counters)>,
    /// The flow as a whole.
    pub flow: Counters,
    /// Input events of the batch.
    pub events: u64,
}

/// The counters of a flow that runs.
#[derive(Debug)]
pub(crate) struct Tally(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    nodes: Vec<Node>,
    flow: Counters,
    missed: u64,
    /// Offsets that cursors moved over, less the events counted for them.
    astray: i64,
    last_tick: Option<i64>,
    /// The difference that was last told.
    told: i64,
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
    astray: i64,
}

impl Reading {
    /// What the equation is off by: at the first node that does not add up, for the flow, or between what
    /// cursors moved over and what was counted. 0 when every event is accounted for.
    pub fn difference(&self) -> i64 {
        self.nodes
            .iter()
            .map(|node| node.counters.difference())
            .chain([self.flow.difference(), self.astray])
            .find(|difference| *difference != 0)
            .unwrap_or(0)
    }
}

impl Tally {
    pub fn new(nodes: usize) -> Tally {
        let nodes = vec![Node::default(); nodes];
        Tally(Mutex::new(Inner {
            nodes,
            flow: Counters::default(),
            missed: 0,
            astray: 0,
            last_tick: None,
            told: 0,
        }))
    }

    /// Counters that go on where others are. `same` says for each node which of the others it is.
    pub fn after(before: &Tally, same: &[Option<usize>]) -> Tally {
        let was = before.0.lock();
        let node = |at: &Option<usize>| {
            let known = at.and_then(|at| was.nodes.get(at));
            known.map_or_else(Node::default, |known| Node {
                counters: known.counters,
                ticked: known.counters,
                ..Node::default()
            })
        };
        Tally(Mutex::new(Inner {
            nodes: same.iter().map(node).collect(),
            flow: was.flow,
            missed: was.missed,
            astray: was.astray,
            last_tick: None,
            told: was.told,
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

    /// Moves rows of a node from held to where they went.
    pub fn settle(&self, node: usize, settled: Settled) {
        self.0.lock().nodes[node].counters.settle(settled);
    }

    /// The same for the flow.
    pub fn settle_flow(&self, settled: Settled) {
        self.0.lock().flow.settle(settled);
    }

    /// Rows of the flow that were held went into a stream between two of its stages.
    pub fn settle_taken(&self, rows: u64, dead: u64) {
        let mut inner = self.0.lock();
        let flow = &mut inner.flow;
        flow.held = flow.held.saturating_sub(rows);
        flow.taken += rows - dead.min(rows);
        flow.dead += dead.min(rows);
    }

    pub fn miss(&self, events: u64) {
        self.0.lock().missed += events;
    }

    /// Takes back what was missed where it is read again.
    pub fn found(&self, events: u64) {
        let mut inner = self.0.lock();
        inner.missed = inner.missed.saturating_sub(events);
    }

    /// A cursor moved over so many offsets, and so many events were counted for them.
    pub fn moved(&self, offsets: u64, counted: u64) {
        if offsets != counted {
            let off = i128::from(offsets) - i128::from(counted);
            self.0.lock().astray += i64::try_from(off).unwrap_or(i64::MAX);
        }
    }

    /// Says, or takes back, why a node does not get on.
    pub fn error(&self, node: usize, error: Option<Error>, tries: u32) {
        let mut inner = self.0.lock();
        inner.nodes[node].error = error;
        inner.nodes[node].tries = tries;
    }

    /// Takes the rates; called about once a second. Answers what the equation is off by if it was not off by
    /// as much at the last call.
    pub fn tick(&self, now_micros: i64) -> Option<i64> {
        let difference = self.read().difference();
        let mut inner = self.0.lock();
        let told = std::mem::replace(&mut inner.told, difference);
        let alarm = (difference != 0 && difference != told).then_some(difference);
        let before = inner.last_tick.replace(now_micros);
        let Some(micros) = before.map(|b| now_micros - b).filter(|m| *m > 0) else {
            return alarm;
        };
        let seconds = micros as f64 / 1e6;
        for node in &mut inner.nodes {
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            node.rate_in = rate(node.counters.input, node.ticked.input);
            node.rate_out = rate(node.counters.out, node.ticked.out);
            node.ticked = node.counters;
        }
        alarm
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
            astray: inner.astray,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(input: u64, out: u64, filtered: u64, dead: u64, held: u64) -> Counters {
        Counters {
            input,
            out,
            filtered,
            dead,
            held,
            ..Counters::default()
        }
    }

    #[test]
    fn a_count_that_goes_astray_is_told_wherever_it_is() {
        let good = Delta {
            nodes: vec![
                (0, counters(10, 10, 0, 0, 0)),
                (1, counters(10, 0, 0, 1, 9)),
            ],
            flow: counters(10, 0, 0, 1, 9),
            events: 10,
        };
        let tally = Tally::new(2);
        tally.add(&good);
        tally.moved(10, good.events);
        assert_eq!(tally.read().difference(), 0);
        let settled = |rows, dead| Settled {
            rows,
            dead,
            overwritten: 0,
            conflicts: 0,
        };
        tally.settle(1, settled(9, 2));
        tally.settle_flow(settled(9, 2));
        assert_eq!(tally.read().difference(), 0);
        // An event that a node lost.
        let tally = Tally::new(2);
        let mut bad = good.clone();
        bad.nodes[1].1.held = 8;
        tally.add(&bad);
        assert_eq!(tally.read().difference(), 1);
        // Rows that were replaced or gave way went nowhere.
        let tally = Tally::new(2);
        tally.add(&good);
        let settled_all = Settled {
            rows: 9,
            dead: 2,
            overwritten: 1,
            conflicts: 3,
        };
        tally.settle(1, settled_all);
        tally.settle_flow(settled_all);
        tally.moved(10, good.events);
        let read = tally.read();
        assert_eq!(read.difference(), 0);
        assert_eq!((read.flow.out, read.flow.conflicts), (3, 3));
        // A row that went out twice.
        let tally = Tally::new(2);
        tally.add(&good);
        tally.settle(1, settled(10, 0));
        assert_eq!(tally.read().difference(), -1);
        // One that the flow as a whole forgot.
        let tally = Tally::new(2);
        let mut bad = good.clone();
        bad.flow.dead = 0;
        tally.add(&bad);
        assert_eq!(tally.read().difference(), 1);
        // A cursor that went past an event nobody counted.
        let tally = Tally::new(2);
        tally.add(&good);
        tally.moved(11, good.events);
        assert_eq!(tally.read().difference(), 1);
        // It is told once, and again when it changes.
        let told: Vec<Option<i64>> = (0..3).map(|tick| tally.tick(tick)).collect();
        assert_eq!(told, [Some(1), None, None]);
        tally.moved(12, good.events);
        assert_eq!(tally.tick(3), Some(3));
    }
}
