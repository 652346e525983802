//! The tests in flow files: events in, rows out, with a clock of their own and no disk.

mod given;
mod history;
mod plugins;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::BinaryArray;
use busbar_catalog::{Expect, ExpectDead, ExpectLetter, FlowSpec, Given, Project, TestSpec};
use busbar_event::format::infer;
use busbar_event::{BatchBuilder, Class, Error, Language};
use busbar_log::{Clock, ManualClock};
use futures::executor::block_on;
use serde::Serialize;
use serde_json::Value as Json;

use crate::chain::{Chain, ChainWork, Computed, Dead};
use crate::compile::{InputPlan, NoPlan, Plan, World, compile};
use crate::exchange;
use crate::limits::{TEST_DIFFERENCES_MAX, TEST_TRIES_MAX};
use crate::outgoing::Outgoing;
use crate::reader::Input;
use crate::services::ServiceLine;
use crate::shape::own_payloads;
use crate::shown::{objects, parsed};
use crate::state::{Checkpoint, MemoryStore, States};
use crate::task::prepare_outputs;
use busbar_connector::Connectors;
use history::Heard;
pub use history::run_tests_over_history;
pub use plugins::test_plugins;

/// What the tests of a project came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// One entry a test, in the order of flows and files.
    pub tests: Vec<TestReport>,
}

/// What one test came to.
#[derive(Clone, Debug, Serialize)]
pub struct TestReport {
    /// The flow, or `plugins/NAME` for a test of a plug-in.
    pub flow: String,
    /// The test's name, or its number from 1.
    pub test: String,
    /// Whether all was as expected.
    pub passed: bool,
    /// What was not.
    pub differences: Vec<Difference>,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// Something that was not as expected.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Difference {
    /// An expected row did not come.
    Missing {
        /// Its number, from 1.
        row: usize,
        /// What was expected.
        expected: Json,
    },
    /// A row came that was not expected.
    Unexpected {
        /// Its number, from 1.
        row: usize,
        /// What came.
        actual: Json,
    },
    /// A row came with another value.
    Different {
        /// Its number, from 1.
        row: usize,
        /// The column.
        column: String,
        /// The value expected.
        expected: Json,
        /// The value that came; null if there is no such column.
        actual: Json,
    },
    /// Another number of events died than expected.
    Dead {
        /// How many were expected to.
        expected: usize,
        /// How many did.
        actual: usize,
        /// Why.
        causes: Vec<String>,
    },
    /// A dead letter that was expected did not come.
    DeadMissing {
        /// What was expected.
        expected: Json,
        /// Those that came and nobody expected: place, code and message.
        causes: Vec<String>,
    },
    /// One output did not get what was expected.
    Output {
        /// The output.
        output: String,
        /// What differs.
        difference: Box<Difference>,
    },
    /// The test could not be run.
    Failed {
        /// Why.
        message: String,
        /// The same in Chinese.
        message_zh: String,
    },
}

impl Report {
    /// Whether every test passed.
    pub fn passed(&self) -> bool {
        self.tests.iter().all(|t| t.passed)
    }
}

impl Difference {
    /// What differs, in a language.
    pub fn text(&self, language: Language) -> String {
        let said = |code: &str, args: &[(&'static str, String)]| {
            busbar_event::messages::text(language, code, args)
        };
        let row_of = |row: &usize| ("row", row.to_string());
        match self {
            Difference::Missing { row, expected } => said(
                "flow.test-missing",
                &[row_of(row), ("expected", expected.to_string())],
            ),
            Difference::Unexpected { row, actual } => said(
                "flow.test-unexpected",
                &[row_of(row), ("actual", actual.to_string())],
            ),
            Difference::Different {
                row,
                column,
                expected,
                actual,
            } => said(
                "flow.test-different",
                &[
                    row_of(row),
                    ("column", column.clone()),
                    ("expected", expected.to_string()),
                    ("actual", actual.to_string()),
                ],
            ),
            Difference::Dead {
                expected,
                actual,
                causes,
            } => {
                let counts = [
                    ("actual", actual.to_string()),
                    ("expected", expected.to_string()),
                ];
                let said = said("flow.test-dead", &counts);
                causes
                    .iter()
                    .fold(said, |said, cause| format!("{said}\n  {cause}"))
            }
            Difference::DeadMissing { expected, causes } => {
                let said = said(
                    "flow.test-dead-missing",
                    &[("expected", expected.to_string())],
                );
                causes
                    .iter()
                    .fold(said, |said, cause| format!("{said}\n  {cause}"))
            }
            Difference::Output { output, difference } => said(
                "flow.test-output",
                &[
                    ("output", output.clone()),
                    ("difference", difference.text(language)),
                ],
            ),
            Difference::Failed {
                message,
                message_zh,
            } => match language {
                Language::En => message.clone(),
                Language::Zh => message_zh.clone(),
            },
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(Language::En))
    }
}

/// Runs the tests of a project's flows, or of one of them. The project must have passed
/// [`crate::check`].
pub fn run_tests(project: &Project, connectors: &Connectors, only: Option<&str>) -> Report {
    tests(project, connectors, only, false)
}

/// As [`run_tests`], with every task thrown away and restored from its state after each batch, as after a crash. For testing
/// steps.
pub fn run_tests_restored(project: &Project, connectors: &Connectors) -> Report {
    tests(project, connectors, None, true)
}

fn tests(project: &Project, connectors: &Connectors, only: Option<&str>, restored: bool) -> Report {
    let clock = || Arc::new(ManualClock::new(BEGIN_MICROS));
    let (mut world, _) = World::of_project(project, connectors, &(clock() as _));
    let mut report = Report::default();
    plugins::start_plugins(project, &mut world, only);
    for (name, flow) in &project.flows {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        for (i, test) in flow.spec.tests.iter().enumerate() {
            let began = Instant::now();
            // The rows that a test puts into tables are there for itself alone.
            let own = flow.spec.read_tables().next().is_some();
            let clock = clock();
            let mut own = own.then(|| World {
                plugins: world.plugins.clone(),
                ..World::of_project(project, connectors, &(Arc::clone(&clock) as _)).0
            });
            let added = own
                .as_mut()
                .map_or(Ok(()), |own| given::add_remote(own, &flow.spec));
            let world = own.as_ref().unwrap_or(&world);
            let compiled = added.and_then(|()| plan(name, &flow.spec, &flow.source, world, test));
            let ran = compiled.and_then(|plan| run(&plan, world, test, &clock, restored));
            report.tests.push(report_of(name, i, test, began, ran));
        }
    }
    report
}

/// What a test came to that has ended.
fn report_of(
    flow: &str,
    number: usize,
    test: &TestSpec,
    began: Instant,
    ran: Result<Vec<Difference>, Error>,
) -> TestReport {
    let differences = ran.unwrap_or_else(|error| {
        vec![Difference::Failed {
            message: error.to_string(),
            message_zh: error.message(Language::Zh),
        }]
    });
    TestReport {
        flow: flow.to_owned(),
        test: test
            .name
            .clone()
            .unwrap_or_else(|| (number + 1).to_string()),
        passed: differences.is_empty(),
        differences,
        micros: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
    }
}

/// The flow's plan; columns that are not declared are inferred from what the test gives.
fn plan(
    name: &str,
    spec: &FlowSpec,
    source: &busbar_catalog::Source,
    world: &World,
    test: &TestSpec,
) -> Result<Plan, Error> {
    let mut world = world.clone();
    for (name, service) in &mut world.services {
        let answers = test.answers.get(name).map_or(&[][..], Vec::as_slice);
        service.line = Some(Arc::new(ServiceLine::canned(name, answers)));
    }
    // A test has one task for each stage.
    for info in world.streams.values_mut() {
        info.partitions = 1;
    }
    for name in spec.read_tables() {
        if let Some(table) = world.tables.get(name) {
            given::evolve(&**table, name, test)?;
        }
    }
    for stream in spec.streams() {
        let Some(info) = world.streams.get_mut(stream) else {
            continue;
        };
        if info.input.is_none() {
            let format = busbar_event::format::FormatSpec::Json(Default::default());
            // Events that do not say which stream they belong to may belong to any.
            let of_stream = |given: &&Given| match (&given.stream, &given.table) {
                (_, Some(_)) => false,
                (named, None) => named.as_ref().is_none_or(|named| named == stream),
            };
            let payloads: Vec<Vec<u8>> = test
                .given
                .iter()
                .filter(of_stream)
                .filter_map(|g| g.payload.as_ref().map(given::payload))
                .collect();
            let sample = BinaryArray::from_iter_values(payloads);
            let columns = infer(&format, &sample)?;
            info.input = Some(Input {
                format,
                columns: Some(columns),
                tags: None,
            });
        }
    }
    compile(name, spec, source, &world).map_err(|none| match none {
        NoPlan::Wrong(wrong) => wrong.first().map_or_else(
            || Error::new(Class::Configuration, "flow.worker"),
            |first| first.error().clone(),
        ),
        NoPlan::Waiting(stream) => {
            Error::new(Class::Configuration, "flow.waiting").with("streams", stream)
        }
    })
}

/// When the clock of a test begins: 2000-01-01T00:00:00Z.
const BEGIN_MICROS: i64 = 946_684_800_000_000;

fn run(
    plan: &Plan,
    world: &World,
    test: &TestSpec,
    clock: &ManualClock,
    restored: bool,
) -> Result<Vec<Difference>, Error> {
    let mut stages = Stages::new(plan, restored)?;
    feed(&mut stages, world, test, clock, &mut ())?;
    Ok(compare(plan, test, &stages.out))
}

/// Takes what a test gives through the stages. `heard` is told of each batch before it is taken on, and of time that passes
/// without events.
fn feed(
    stages: &mut Stages<'_>,
    world: &World,
    test: &TestSpec,
    clock: &ManualClock,
    heard: &mut impl Heard,
) -> Result<(), Error> {
    let plan = stages.plan;
    let mut pending: Vec<(usize, Option<i64>, BatchBuilder)> = Vec::new();
    for given in test.given.iter().map(Some).chain([None]) {
        let event = given.filter(|given| given.advance.is_none() && given.table.is_none());
        if let Some(given) = event {
            let (input, topic) = given::place(plan, world, given)?;
            // Events of one stream that come together are one batch. Where a test says when an event arrives, its time is
            // checked.
            let arrived = given.time.as_deref().map(given::time_micros).transpose()?;
            // The clock is never behind an event: time that has not come yet would hold back whatever waits for it.
            if let Some(arrived) = arrived.filter(|arrived| *arrived > clock.now_micros()) {
                clock.set(arrived);
            }
            let same = |(last, at, _): &(usize, Option<i64>, BatchBuilder)| {
                (*last, *at) == (input, arrived)
            };
            if !pending.last().is_some_and(same) {
                pending.push((input, arrived, BatchBuilder::new()));
            }
            if let Some((.., builder)) = pending.last_mut() {
                given::push(builder, given, &topic, clock)?;
            }
            continue;
        }
        for (input, arrived, mut builder) in pending.drain(..) {
            let mut events = builder.finish();
            let stream = world.streams.get(&plan.inputs[input].stream);
            if let Some(times) = stream.and_then(|stream| stream.times.as_ref()) {
                events = times.apply(events, arrived);
            }
            heard.events(input, &events)?;
            let work = stages.chains[input].read(events)?;
            stages.take(input, work)?;
        }
        let Some(given) = given else { continue };
        if let (Some(table), Some(row)) = (&given.table, &given.payload) {
            given::put(world, table, row)?;
        }
        if let Some(span) = given.advance {
            clock.advance(span.as_micros());
            stages.tick(clock.now_micros(), heard)?;
        }
    }
    Ok(())
}

/// The stages of a flow, each as one task, with nothing between them.
struct Stages<'a> {
    plan: &'a Plan,
    chains: Vec<Chain>,
    states: States,
    /// Tasks are restored after each batch.
    restored: bool,
    out: Outcome,
}

impl<'a> Stages<'a> {
    fn new(plan: &'a Plan, restored: bool) -> Result<Stages<'a>, Error> {
        let states = States::new(Arc::new(MemoryStore::default()));
        let mut chains = Vec::with_capacity(plan.inputs.len());
        for input in 0..plan.inputs.len() {
            chains.push(chain(plan, &states, input)?);
        }
        Ok(Stages {
            plan,
            chains,
            states,
            restored,
            out: Outcome::default(),
        })
    }

    /// Throws a task away and takes up its state.
    fn restore(&mut self, input: usize) -> Result<(), Error> {
        let stream = &self.plan.inputs[input].stream;
        let Some(time) = self.chains[input].time.clone() else {
            return Ok(());
        };
        let state = self.states.task(stream);
        let snapshot = self.chains[input].snapshot(&state)?;
        state.commit(&snapshot, &Checkpoint::default())?;
        let mut chain = chain(self.plan, &self.states, input)?;
        if let Some(restored) = &mut chain.time {
            restored.resume(time.watermark(), &time.producers());
        }
        self.chains[input] = chain;
        Ok(())
    }

    /// Time has come to `now` without events.
    fn tick(&mut self, now: i64, heard: &mut impl Heard) -> Result<(), Error> {
        for input in 0..self.chains.len() {
            let plan = &self.plan.inputs[input];
            if plan.stage == 0 && plan.timed {
                let watermark = now - plan.lateness;
                heard.tick(input, watermark);
                let work = self.chains[input].tick(watermark);
                self.take(input, work)?;
            }
        }
        Ok(())
    }

    /// Takes a batch through the rest of the flow.
    fn take(&mut self, input: usize, mut work: ChainWork) -> Result<(), Error> {
        let chain = &mut self.chains[input];
        let mut tries = 0;
        while let Err(error) = block_on(chain.go_on(&mut work)) {
            tries += 1;
            // A service of a test that says "later" is asked again at once.
            if error.class() != Class::Transient || tries == TEST_TRIES_MAX {
                return Err(error);
            }
        }
        let computed = chain.finish(work)?;
        if self.restored {
            self.restore(input)?;
        }
        self.out.dead.extend(computed.failed());
        let Some((_, exchange)) = &self.plan.inputs[input].exchange else {
            let plan = self.plan;
            let its = |o: &usize| {
                let output = &plan.outputs[*o];
                output.takes == Some(output.of) && plan.inputs[input].shape(output).is_some()
            };
            let file: Vec<usize> = (0..plan.outputs.len()).filter(its).collect();
            return self.out.take(plan, input, &file, &computed);
        };
        let producer = &self.plan.inputs[input].stream;
        let parts = exchange::parts(exchange, &computed, producer, computed.watermark)?;
        let reads = |next: &InputPlan| *next.stream == *exchange.stream;
        let next = self.plan.inputs.iter().position(reads);
        for (next, (_, events)) in next
            .into_iter()
            .flat_map(|n| parts.iter().map(move |p| (n, p)))
        {
            let work = self.chains[next].read(events.clone())?;
            self.take(next, work)?;
        }
        Ok(())
    }
}

/// A task, with the state that there is.
fn chain(plan: &Plan, states: &States, input: usize) -> Result<Chain, Error> {
    let input = &plan.inputs[input];
    let writes = |from: &&InputPlan| {
        let exchange = from.exchange.as_ref();
        exchange.is_some_and(|(_, exchange)| *exchange.stream == *input.stream)
    };
    let before = plan.inputs.iter().filter(writes);
    let before: Vec<Arc<str>> = before.map(|from| from.stream.as_str().into()).collect();
    let mut chain = input.chain(&before)?;
    chain.restore(&states.task(&input.stream))?;
    Ok(chain)
}

/// What one output took: rows of a table, or events with their topics.
#[derive(Default)]
struct Taken {
    rows: Vec<Json>,
    events: Vec<(String, Json)>,
}

/// What came out.
#[derive(Default)]
struct Outcome {
    rows: Vec<Json>,
    /// Topic and payload of the first output that makes events.
    events: Vec<(String, Json)>,
    /// What each output of the file took, by its number.
    by_output: BTreeMap<usize, Taken>,
    dead: Vec<Dead>,
}

impl Outcome {
    fn take(
        &mut self,
        plan: &Plan,
        input: usize,
        outputs: &[usize],
        computed: &Computed,
    ) -> Result<(), Error> {
        let mut first = true;
        let prepared = prepare_outputs(plan, input, outputs, computed)?;
        for (prepared, output) in prepared.iter().zip(outputs) {
            self.dead.extend(prepared.dead.iter().cloned());
            let output = plan.outputs[*output].of;
            let taken = self.by_output.entry(output).or_default();
            match &prepared.outgoing {
                Outgoing::Rows(rows) => taken.rows.extend(objects(rows)?),
                Outgoing::Events(events) | Outgoing::Delivery { events, .. } => {
                    let payloads = events.payloads();
                    for row in 0..events.rows() {
                        let payload = parsed(payloads.value(row));
                        taken.events.push((events.topic(row).to_owned(), payload));
                    }
                }
                Outgoing::Parts(_) => {}
            }
            if let (Outgoing::Events(events), true) = (&prepared.outgoing, first) {
                first = false;
                let payloads = events.payloads();
                for row in 0..events.rows() {
                    let payload = parsed(payloads.value(row));
                    self.events.push((events.topic(row).to_owned(), payload));
                }
            }
        }
        for (number, end) in plan.inputs[input].ends.iter().enumerate() {
            let computed = computed.of_output(number, None)?;
            let mut rows = objects(&computed.rows)?;
            if let Some(payloads) = own_payloads(&computed.rows) {
                // What a step has made is shown by its members, or as text.
                for (row, object) in rows.iter_mut().enumerate() {
                    match (object, parsed(payloads.value(row))) {
                        (Json::Object(object), Json::Object(payload)) => {
                            object.remove("payload");
                            object.extend(payload);
                        }
                        (Json::Object(object), text) => {
                            object.insert("payload".to_owned(), text);
                        }
                        _ => {}
                    }
                }
            }
            if !end.projected {
                // No step named columns: the events' own payloads are what comes out.
                for (row, object) in rows.iter_mut().enumerate() {
                    let event = computed.origin().event(row).unwrap_or(0);
                    let own = computed.events.event(event);
                    if let (Json::Object(object), Json::Object(payload)) =
                        (object, parsed(&own.payload))
                    {
                        object.entry("topic").or_insert_with(|| own.topic.into());
                        for (name, value) in payload {
                            object.entry(name).or_insert(value);
                        }
                    }
                }
            }
            self.rows.extend(rows);
        }
        Ok(())
    }
}

fn compare(plan: &Plan, test: &TestSpec, out: &Outcome) -> Vec<Difference> {
    let mut differences = Vec::new();
    if test.outputs.is_empty() {
        compare_rows(&test.expect, &out.rows, &out.events, &mut differences);
    } else {
        let nothing = Taken::default();
        for (output, spec) in plan.spec.to.iter().enumerate() {
            let taken = out.by_output.get(&output).unwrap_or(&nothing);
            let named = test.outputs.iter();
            let mut named = named.filter(|(name, _)| plan.spec.output_named(name) == Some(output));
            let expected = named.next().map_or(&[][..], |(_, rows)| rows);
            let rows = taken.rows.iter().cloned();
            let payloads = taken.events.iter().map(|(topic, payload)| match payload {
                Json::Object(payload) => {
                    let mut row = payload.clone();
                    row.entry("topic").or_insert_with(|| topic.as_str().into());
                    Json::Object(row)
                }
                other => other.clone(),
            });
            let rows: Vec<Json> = rows.chain(payloads).collect();
            let mut own = Vec::new();
            compare_rows(expected, &rows, &taken.events, &mut own);
            differences.extend(own.into_iter().map(|difference| {
                Difference::Output {
                    output: spec
                        .name
                        .as_deref()
                        .unwrap_or(spec.target_name())
                        .to_owned(),
                    difference: Box::new(difference),
                }
            }));
        }
        for name in test.outputs.keys() {
            if plan.spec.output_named(name).is_none() {
                let error =
                    Error::new(Class::Configuration, "flow.route-output").with("name", name);
                differences.push(Difference::Failed {
                    message: error.to_string(),
                    message_zh: error.message(Language::Zh),
                });
            }
        }
    }
    compare_dead(test, &out.dead, &mut differences);
    differences.truncate(TEST_DIFFERENCES_MAX);
    differences
}

/// Compares rows, or events where all that is expected are events.
fn compare_rows(
    expect: &[Expect],
    rows: &[Json],
    events: &[(String, Json)],
    differences: &mut Vec<Difference>,
) {
    let as_events = expect.iter().all(|e| e.event().is_some()) && !expect.is_empty();
    let actual: Vec<Json> = if as_events && !events.is_empty() {
        events
            .iter()
            .map(|(topic, payload)| serde_json::json!({ "topic": topic, "payload": payload }))
            .collect()
    } else {
        rows.to_vec()
    };
    for (i, expected) in expect.iter().enumerate() {
        match actual.get(i) {
            None => differences.push(Difference::Missing {
                row: i + 1,
                expected: Json::Object(expected.0.clone()),
            }),
            Some(actual) => compare_row(i + 1, expected, actual, differences),
        }
    }
    for (i, actual) in actual.iter().enumerate().skip(expect.len()) {
        differences.push(Difference::Unexpected {
            row: i + 1,
            actual: actual.clone(),
        });
    }
}

fn compare_dead(test: &TestSpec, dead: &[Dead], differences: &mut Vec<Difference>) {
    let told = |dead: &[&Dead]| -> Vec<String> {
        let dead = dead.iter().take(TEST_DIFFERENCES_MAX);
        dead.map(|d| format!("{}: {} [{}]", d.place, d.cause, d.cause.code()))
            .collect()
    };
    let all: Vec<&Dead> = dead.iter().collect();
    let expected = match &test.dead {
        None => 0,
        Some(ExpectDead::Count(count)) => *count,
        Some(ExpectDead::Each(letters)) => {
            let mut left = all.clone();
            for letter in letters {
                match left.iter().position(|dead| fits(letter, dead)) {
                    Some(at) => drop(left.remove(at)),
                    None => differences.push(Difference::DeadMissing {
                        expected: serde_json::to_value(letter).unwrap_or_default(),
                        causes: told(&left),
                    }),
                }
            }
            letters.len()
        }
    };
    if dead.len() != expected {
        differences.push(Difference::Dead {
            expected,
            actual: dead.len(),
            causes: told(&all),
        });
    }
}

fn fits(letter: &ExpectLetter, dead: &Dead) -> bool {
    let is = |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|w| w == has);
    is(&letter.place, &dead.place.to_string())
        && is(&letter.code, dead.cause.code())
        && letter.message.as_ref().is_none_or(|wanted| {
            dead.cause.to_string().contains(wanted)
                || dead.cause.message(Language::Zh).contains(wanted)
        })
}

fn compare_row(row: usize, expected: &Expect, actual: &Json, differences: &mut Vec<Difference>) {
    for (column, wanted) in &expected.0 {
        let got = actual.get(column).cloned().unwrap_or(Json::Null);
        if !same(wanted, &got) {
            differences.push(Difference::Different {
                row,
                column: column.clone(),
                expected: wanted.clone(),
                actual: got,
            });
        }
    }
}

/// How far apart two numbers with a fraction may be, in relation to the larger, and still be the same: 0.1 + 0.2
/// is 0.3.
const SAME_WITHIN: f64 = 1e-9;

fn close(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= SAME_WITHIN * a.abs().max(b.abs())
}

/// Equal as people see it: 90 is 90.0, and an object has at least the fields expected.
fn same(wanted: &Json, got: &Json) -> bool {
    match (wanted, got) {
        (Json::Number(a), Json::Number(b)) => {
            let whole = (a.is_i64() || a.is_u64()) && (b.is_i64() || b.is_u64());
            a == b
                || !whole && matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if close(a, b))
        }
        (Json::Array(a), Json::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Json::Object(a), Json::Object(b)) => a
            .iter()
            .all(|(name, a)| same(a, b.get(name).unwrap_or(&Json::Null))),
        // However many digits the second has.
        (Json::String(a), Json::String(b)) => {
            let times = (busbar_event::time::parse(a), busbar_event::time::parse(b));
            a == b || matches!(times, (Some(a), Some(b)) if a == b)
        }
        (a, b) => a == b,
    }
}
