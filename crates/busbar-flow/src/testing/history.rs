//! The tests in flow files once more, over history: their events lie in a log, and a run over all of it must give the rows that
//! the flow gives when they come one after the other.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use busbar_bus::{Bus, BusOptions, StreamSpec};
use busbar_catalog::{FlowSpec, OutputSpec, OutputTarget, Project, TestSpec};
use busbar_connector::Connectors;
use busbar_event::{Batch, Class, Error};
use busbar_log::sim::SimDisk;
use busbar_log::{Clock, Log, LogOptions, ManualClock};
use busbar_table::{StandIn, TableSpec};
use futures::executor::block_on;
use serde_json::Value as Json;

use super::{BEGIN_MICROS, Difference, Report, Stages, feed, objects, plan, report_of, same};
use crate::bounded::{Bounded, BoundedCounts, BoundedInput, BoundedSink};
use crate::compile::{Plan, World};
use crate::task::Tick;

/// The table that the results go to.
const INTO: &str = "history";

/// As [`super::run_tests`], but each test is run twice, with its results going to a table: event by event and to the end of
/// the input, and by a run over the events in a log, as `busbar replay FLOW --into TABLE` does it. What one gives and the other
/// does not is a difference. Tests whose rows depend on when they are computed are left out: those that change a table between
/// events that a join takes the latest rows of. State that does not fit into memory goes to `folder`.
pub fn run_tests_over_history(project: &Project, connectors: &Connectors, folder: &Path) -> Report {
    let mut report = Report::default();
    for (name, flow) in &project.flows {
        for (number, test) in flow.spec.tests.iter().enumerate() {
            if depends_on_when(&flow.spec, test) {
                continue;
            }
            let began = Instant::now();
            let ran = both(project, connectors, name, test, folder);
            report.tests.push(report_of(name, number, test, began, ran));
        }
    }
    report
}

/// Whether a join takes the latest rows of a table that changes after the first event.
fn depends_on_when(spec: &FlowSpec, test: &TestSpec) -> bool {
    let mut joins = spec.joins().map(|(.., join)| join);
    if !joins.any(|join| join.table.is_some() && !join.as_of) {
        return false;
    }
    let mut given = test.given.iter().skip_while(|given| given.table.is_some());
    given.any(|given| given.table.is_some())
}

fn both(
    project: &Project,
    connectors: &Connectors,
    name: &str,
    test: &TestSpec,
    folder: &Path,
) -> Result<Vec<Difference>, Error> {
    let clock = Arc::new(ManualClock::new(BEGIN_MICROS));
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
    let flow = project
        .flows
        .get(name)
        .ok_or_else(|| Error::new(Class::Configuration, "flow.unknown").with("flow", name))?;
    let (mut world, _) = World::of_project(project, connectors, &shared);
    let mut spec = flow.spec.clone();
    spec.lead_everywhere();
    spec.to = vec![OutputSpec {
        name: None,
        target: OutputTarget::Table(INTO.to_owned()),
        key: None,
        retain: false,
        change: None,
    }];
    let into = TableSpec {
        hot: Some(Default::default()),
        ..TableSpec::default()
    };
    let into = Arc::new(StandIn::new(INTO, &into, Arc::clone(&shared))?);
    world.tables.insert(INTO.to_owned(), into);
    let plan = Arc::new(plan(name, &spec, &flow.source, &world, test)?);

    let mut log = TestLog::new(&plan, project, &shared)?;
    let mut stages = Stages::new(&plan, false)?;
    feed(&mut stages, &world, test, &clock, &mut log)?;
    for input in 0..stages.chains.len() {
        let work = stages.chains[input].end();
        stages.take(input, work)?;
    }
    let plain = stages.out.by_output.remove(&0).unwrap_or_default().rows;

    let mut sink = Rows(Vec::new());
    let all = i64::MIN..i64::MAX;
    let run = Bounded::new(Arc::clone(&plan), all, log.inputs(), folder, &mut sink)?;
    block_on(run.run())?;
    Ok(differences(plain, sink.0))
}

/// Rows in any order: streams are read side by side.
fn differences(plain: Vec<Json>, history: Vec<Json>) -> Vec<Difference> {
    let mut left: Vec<(usize, Json)> = history.into_iter().enumerate().collect();
    let mut differences = Vec::new();
    for (at, expected) in plain.into_iter().enumerate() {
        match left.iter().position(|(_, row)| same(&expected, row)) {
            Some(found) => drop(left.remove(found)),
            None => differences.push(Difference::Missing {
                row: at + 1,
                expected,
            }),
        }
    }
    differences.extend(left.into_iter().map(|(at, actual)| Difference::Unexpected {
        row: at + 1,
        actual,
    }));
    differences
}

/// What is told of the events and times that a test gives.
pub(super) trait Heard {
    /// An input is given events.
    ///
    /// # Errors
    /// Where they cannot be kept.
    fn events(&mut self, input: usize, events: &Batch) -> Result<(), Error>;

    /// Time has come to a watermark in an input, without events.
    fn tick(&mut self, input: usize, watermark: i64);
}

impl Heard for () {
    fn events(&mut self, _: usize, _: &Batch) -> Result<(), Error> {
        Ok(())
    }

    fn tick(&mut self, _: usize, _: i64) {}
}

/// The events of a test in streams of one partition, on a disk in memory.
struct TestLog {
    bus: Bus,
    inputs: Vec<BoundedInput>,
}

impl TestLog {
    fn new(plan: &Plan, project: &Project, clock: &Arc<dyn Clock>) -> Result<TestLog, Error> {
        let disk = Arc::new(SimDisk::new(0));
        let log = Log::open(
            disk,
            Path::new("/test"),
            LogOptions::default(),
            Arc::clone(clock),
        );
        let options = BusOptions {
            clock: Arc::clone(clock),
            ..BusOptions::default()
        };
        let bus = Bus::open(log.map_err(busbar_bus::from_log)?, options)?;
        let of_plan = || {
            plan.inputs
                .iter()
                .enumerate()
                .filter(|(_, input)| input.stage == 0)
        };
        let specs = of_plan().filter_map(|(_, input)| {
            let spec = project.streams.get(&input.stream)?.spec.clone();
            let spec = StreamSpec {
                partitions: 1,
                ..spec
            };
            Some((input.stream.clone(), spec))
        });
        bus.apply_streams(&specs.collect())?;
        let mut inputs = Vec::new();
        for (at, input) in of_plan() {
            let stream = bus.stream(&input.stream).ok_or_else(|| {
                let unknown = Error::new(Class::Configuration, "catalog.unknown-stream");
                unknown.with("name", &input.stream)
            })?;
            inputs.push(BoundedInput {
                input: at,
                partition: Arc::clone(&stream.partitions()[0]),
                offsets: 0..0,
                ticks: VecDeque::new(),
            });
        }
        Ok(TestLog { bus, inputs })
    }

    fn inputs(self) -> Vec<BoundedInput> {
        let ended = self.inputs.into_iter().map(|input| BoundedInput {
            offsets: 0..input.partition.end(),
            ..input
        });
        ended.collect()
    }
}

impl Heard for TestLog {
    fn events(&mut self, input: usize, events: &Batch) -> Result<(), Error> {
        let known = self.inputs.iter().find(|known| known.input == input);
        let stream = known.and_then(|known| self.bus.stream(known.partition.stream()));
        match stream {
            Some(stream) => {
                let appended = self.bus.append_to(&stream, events.clone(), None);
                block_on(appended).map(drop)
            }
            None => Ok(()),
        }
    }

    fn tick(&mut self, input: usize, watermark: i64) {
        if let Some(known) = self.inputs.iter_mut().find(|known| known.input == input) {
            known.ticks.push_back(Tick {
                offset: known.partition.end(),
                watermark,
                read: 0,
                event: None,
            });
        }
    }
}

struct Rows(Vec<Json>);

impl BoundedSink for Rows {
    fn write(&mut self, rows: &RecordBatch) -> Result<Vec<Error>, Error> {
        self.0.extend(objects(rows)?);
        Ok(Vec::new())
    }

    fn progress(&mut self, _: &BoundedCounts) -> Result<(), Error> {
        Ok(())
    }
}
