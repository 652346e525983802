//! What runs, for people and programs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_catalog::{OutputTarget, node_names};
use busbar_event::{Class, Error};

use super::edges::edges;
use super::{Flow, Runtime};
use crate::checkpoint::Mark;
use crate::compile::Target;
use crate::counters::Tally;
use crate::status::{
    ConnectionStatus, Conservation, FlowState, FlowStatus, NodeStatus, OperatorStatus, TaskStatus,
};
use crate::task::{Lane, MAIN, lanes};
use busbar_connector::Guarantee;

impl Runtime {
    /// Every flow, in the order of their names.
    pub fn status(&self) -> Vec<FlowStatus> {
        let flows: Vec<Arc<Flow>> = self.inner.flows.read().values().cloned().collect();
        flows.iter().map(|flow| self.flow_status(flow)).collect()
    }

    /// One flow.
    pub fn status_of(&self, name: &str) -> Option<FlowStatus> {
        let flow = self.inner.flows.read().get(name).cloned()?;
        Some(self.flow_status(&flow))
    }

    /// Every connection, in the order of their names.
    pub fn connections(&self) -> Vec<ConnectionStatus> {
        let databases = &self.inner.options.databases;
        let mut writers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for flow in self.inner.flows.read().values() {
            for output in &flow.parsed.spec.to {
                if let OutputTarget::Connection(name) = &output.target {
                    writers
                        .entry(name.clone())
                        .or_default()
                        .push(flow.name.clone());
                }
            }
            for table in flow.parsed.spec.read_tables() {
                let database = databases.find(table).map(|(database, _)| database);
                if let Some(database) = database {
                    let flows = writers.entry(database.name().to_owned()).or_default();
                    if !flows.contains(&flow.name) {
                        flows.push(flow.name.clone());
                    }
                }
            }
            for (_, call) in flow.parsed.spec.calls() {
                let flows = writers.entry(call.connection.clone()).or_default();
                if !flows.contains(&flow.name) {
                    flows.push(flow.name.clone());
                }
            }
        }
        let lines = self.inner.lines.lock();
        let sources = self.inner.sources.lock();
        sources
            .iter()
            .map(|(name, connected)| ConnectionStatus {
                name: name.clone(),
                kind: connected.spec.kind.clone(),
                enabled: connected.spec.enabled,
                roles: connected.roles,
                source: connected.driver.as_ref().map(|driver| driver.status()),
                flows: writers.remove(name).unwrap_or_default(),
                service: lines.get(name).map(|line| line.status()),
                database: databases.get(name).map(|database| database.status()),
            })
            .collect()
    }

    /// What the connector behind a connection promises to those who write to it.
    pub(super) fn guarantee(&self, connection: &str) -> Guarantee {
        let sources = self.inner.sources.lock();
        let kind = sources
            .get(connection)
            .map(|connected| &connected.spec.kind);
        let connector = kind.and_then(|kind| self.inner.options.connectors.get(kind));
        connector.map_or(Guarantee::AtLeastOnce, |c| c.guarantee())
    }

    fn flow_status(&self, flow: &Flow) -> FlowStatus {
        let spec = &flow.parsed.spec;
        let all = spec.all_steps();
        let (from, steps) = (spec.streams().count(), all.len());
        let empty = Tally::new(from + steps + spec.to.len());
        let reading = flow
            .shared
            .as_ref()
            .map_or_else(|| empty.read(), |s| s.tally.read());
        let tasks = self.tasks(flow);
        // The partitions of a cursor together; of several cursors the one that is furthest behind.
        let lag_of = |stream: &str, lane: Option<&str>| -> u64 {
            let mut lanes: BTreeMap<&str, u64> = BTreeMap::new();
            for task in tasks.iter().filter(|t| t.stream == stream) {
                if lane.is_none_or(|lane| task.lane == lane) {
                    *lanes.entry(&task.lane).or_default() += task.lag;
                }
            }
            lanes.into_values().max().unwrap_or(0)
        };
        // What comes next has passed every cursor.
        let watermark_of = |stream: Option<&str>, lane: Option<&str>| -> Option<i64> {
            tasks
                .iter()
                .filter(|task| stream.is_none_or(|stream| task.stream == stream))
                .filter(|task| lane.is_none_or(|lane| task.lane == lane))
                .filter_map(|task| task.watermark_micros)
                .min()
        };
        let mut names = node_names(spec);
        let mut nodes = Vec::with_capacity(reading.nodes.len());
        let mut add = |id: String, kind, role, label: &str, lag, watermark_micros, guarantee| {
            let read = &reading.nodes[nodes.len()];
            nodes.push(NodeStatus {
                name: names.remove(&id),
                id,
                kind,
                role,
                label: label.to_owned(),
                counters: read.counters,
                rate_in: read.rate_in,
                rate_out: read.rate_out,
                lag,
                watermark_micros,
                error: read.error.clone(),
                tries: read.tries,
                guarantee,
            });
        };
        for stream in spec.streams() {
            add(
                format!("from:{stream}"),
                "stream",
                "from",
                stream,
                lag_of(stream, None),
                watermark_of(Some(stream), None),
                None,
            );
        }
        for (i, at) in all.iter().enumerate() {
            add(
                format!("step:{i}"),
                at.spec.kind(),
                "step",
                &at.spec.summary(),
                0,
                None,
                None,
            );
        }
        let all = flow.shared.as_ref().map(|s| {
            let inputs = 0..s.plan.inputs.len();
            inputs.flat_map(|input| lanes(&s.plan, input)).collect()
        });
        let lanes: Vec<Lane> = all.unwrap_or_default();
        for (i, output) in spec.to.iter().enumerate() {
            let plan = flow.shared.as_ref().map(|s| &s.plan.outputs[i]);
            let outputs = flow.shared.as_ref().map(|s| &s.plan.outputs[..]);
            let is_it = |o: &usize| outputs.is_some_and(|outputs| outputs[*o].of == i);
            let lane = lanes.iter().find(|lane| lane.outputs.iter().any(is_it));
            // The flow's own cursor shows at its inputs.
            let lag = match lane.filter(|lane| lane.id != MAIN) {
                Some(lane) => {
                    let streams: BTreeSet<&str> = tasks.iter().map(|t| &*t.stream).collect();
                    streams.iter().map(|s| lag_of(s, Some(&lane.id))).sum()
                }
                None => 0,
            };
            let guarantee = match plan.map(|p| &p.target) {
                Some(Target::Connection(name)) => self.guarantee(name),
                _ => Guarantee::ExactlyOnce,
            };
            let name = output.target_name();
            add(
                format!("to:{i}"),
                output.kind(),
                "to",
                name,
                lag,
                watermark_of(None, lane.map(|lane| &*lane.id)),
                Some(guarantee),
            );
        }
        let trying = nodes.iter().any(|n| n.tries > 0);
        let (mut state, mut error) = match (&flow.idle, &flow.shared) {
            (Some((state, error)), _) => (*state, error.clone()),
            (None, Some(shared)) => shared.state.lock().clone(),
            (None, None) => (FlowState::Stopped, None),
        };
        if state == FlowState::Running && trying {
            state = FlowState::Retrying;
            error = nodes
                .iter()
                .find(|n| n.tries > 0)
                .and_then(|n| n.error.clone());
        }
        if state == FlowState::Waiting && error.is_none() {
            error =
                Some(Error::new(Class::Transient, "flow.waiting").with("streams", spec.reads()));
        }
        let difference = reading.difference();
        let error = error.or_else(|| unaccounted(difference));
        FlowStatus {
            name: flow.name.clone(),
            version: flow.version,
            state,
            error,
            notice: flow.shared.as_ref().and_then(|s| s.notice.lock().clone()),
            tables: spec.read_tables().cloned().collect(),
            edges: edges(spec, &nodes),
            nodes,
            conservation: Conservation {
                counters: reading.flow,
                difference,
            },
            lag: {
                let streams: BTreeSet<&str> = tasks.iter().map(|t| &*t.stream).collect();
                streams.iter().map(|s| lag_of(s, None)).sum()
            },
            watermark_micros: watermark_of(None, None),
            missed: reading.missed,
            started_micros: flow.started_micros,
            tasks,
        }
    }

    fn tasks(&self, flow: &Flow) -> Vec<TaskStatus> {
        let Some(shared) = &flow.shared else {
            return Vec::new();
        };
        let marks = shared.marks.lock().clone();
        let clocks = shared.clocks.lock().clone();
        marks
            .into_iter()
            .map(|(key, Mark { position, seen, .. })| {
                let stream = self.inner.options.bus.stream(&key.stream);
                let lateness = stream.as_ref().and_then(|s| s.spec().lateness);
                let lateness = lateness.map_or(0, |span| span.as_micros());
                let end = stream.and_then(|s| {
                    s.partitions()
                        .iter()
                        .find(|p| p.number() == key.partition)
                        .map(|p| p.end())
                });
                let clock = clocks.get(&key);
                let inputs = &shared.plan.inputs;
                let input = inputs.iter().find(|input| input.stream == key.stream);
                TaskStatus {
                    stage: input.map_or(0, |input| input.stage),
                    held_back_by: clock
                        .and_then(|clock| clock.held_back_by.as_ref())
                        .map(ToString::to_string),
                    operators: clock
                        .iter()
                        .flat_map(|clock| clock.memory.iter())
                        .map(|(name, bytes)| OperatorStatus {
                            name: name.to_string(),
                            memory_bytes: *bytes,
                        })
                        .collect(),
                    stream: key.stream,
                    partition: key.partition,
                    lane: key.lane,
                    position,
                    lag: end.unwrap_or(position).saturating_sub(position),
                    watermark_micros: match clock {
                        Some(clock) => clock.watermark,
                        None => seen.map(|seen| seen.saturating_sub(lateness)),
                    },
                }
            })
            .collect()
    }
}

/// The alarm of a flow whose counts do not add up.
pub(super) fn unaccounted(difference: i64) -> Option<Error> {
    let error = || Error::new(Class::Permanent, "flow.unaccounted").with("events", difference);
    (difference != 0).then(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::{Counters, Delta};

    #[test]
    fn counts_that_do_not_add_up_raise_an_alarm() {
        let tally = Tally::new(1);
        assert!(unaccounted(tally.read().difference()).is_none());
        let lost = Counters {
            input: 3,
            out: 1,
            ..Counters::default()
        };
        tally.add(&Delta {
            nodes: vec![(0, lost)],
            ..Delta::default()
        });
        let alarm = unaccounted(tally.read().difference()).unwrap();
        assert!(
            alarm
                .to_string()
                .starts_with("2 events are not accounted for"),
            "{alarm}"
        );
    }
}
