//! Joins of streams give the same rows whatever the batches are and wherever they are stopped, and those that a query over all
//! events gives.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use busbar_catalog::StepSpec;
use futures::executor::block_on;
use proptest::prelude::*;

use crate::operator::tests::{Came, Cuts, Memory, Reading, SECOND, batch, cuts, lines};
use crate::operator::{Changes, Made, Operator, Output, Rows, Step, StepContext, Times, registry};

/// A reading, and whether it is of the right stream.
type Event = (bool, Reading);

fn step(yaml: &str) -> Arc<dyn Step> {
    let spec: StepSpec = serde_saphyr::from_str(yaml).unwrap();
    let schema = batch(&[]).schema();
    let context = StepContext {
        schema: &schema,
        tables: &BTreeMap::new(),
        streams: &|name| (name == "right").then(|| batch(&[]).schema()),
        plugins: &BTreeMap::new(),
        services: &BTreeMap::new(),
        has_payloads: false,
        needed: None,
    };
    registry::compile(&spec, &context).unwrap_or_else(|wrong| panic!("{yaml}: {wrong:?}"))
}

/// Watermarks of two partitions, one for each side.
struct Clocks {
    /// Before each event, in its own partition.
    marks: Vec<i64>,
    /// Of both together, before each event and behind the last.
    both: Vec<i64>,
}

impl Clocks {
    fn new(events: &[Event], lateness: i64) -> Clocks {
        let mut sides = [i64::MIN; 2];
        let mut clocks = Clocks {
            marks: Vec::new(),
            both: vec![i64::MIN],
        };
        for (is_right, reading) in events {
            let side = &mut sides[usize::from(*is_right)];
            clocks.marks.push(*side);
            *side = (*side).max((reading.0 - lateness) * SECOND);
            clocks.both.push(sides[0].min(sides[1]));
        }
        clocks
    }
}

/// Runs a join over events; after a restore what came since the last snapshot is thrown away and read again.
fn run(step: &Arc<dyn Step>, events: &[Event], lateness: i64, cuts: &Cuts) -> Came {
    let schema = batch(&[]).schema();
    let clocks = Clocks::new(events, lateness);
    let divided = step.stateful().unwrap().divided.unwrap();
    let mut before = [
        divided.before.operator(&schema).unwrap(),
        step.joined().unwrap().before.operator(&schema).unwrap(),
    ];
    let both = divided.before.schema().unwrap();
    let state = Arc::new(Memory::default());
    let start = || {
        let mut operator = divided.after.operator(&both).unwrap();
        operator.restore(Arc::<Memory>::clone(&state)).unwrap();
        operator
    };
    let mut operator = start();
    let mut ends: Vec<usize> = cuts
        .ends
        .iter()
        .copied()
        .filter(|end| *end < events.len())
        .collect();
    ends.push(events.len());
    ends.sort_unstable();
    let (mut rows, mut late) = (Vec::new(), Vec::new());
    let mut saved = (0, 0, 0);
    let (mut restored, mut from, mut turn) = (0, 0, 0);
    while from < events.len() {
        let end = *ends.iter().find(|end| **end > from).unwrap();
        let mut out = Output::default();
        feed(
            &mut before,
            operator.as_mut(),
            events,
            from..end,
            &clocks,
            &mut out,
        );
        if clocks.both[end] > i64::MIN {
            operator.on_time(clocks.both[end], &mut out).unwrap();
        }
        rows.extend(out.rows.iter().flat_map(|rows| lines(&rows.batch)));
        late.extend(out.late.iter().flat_map(|rows| lines(&rows.batch)));
        from = end;
        if cuts.snapshots.get(turn) == Some(&true) {
            let mut changes = Changes::default();
            operator.snapshot(&mut changes).unwrap();
            state.write(changes);
            operator.shrink(usize::MAX);
            saved = (rows.len(), late.len(), from);
        }
        if cuts.restores.get(turn) == Some(&true) && restored < 5 {
            restored += 1;
            operator = start();
            rows.truncate(saved.0);
            late.truncate(saved.1);
            from = saved.2;
        }
        turn += 1;
    }
    let mut out = Output::default();
    operator.flush(&mut out).unwrap();
    rows.extend(out.rows.iter().flat_map(|rows| lines(&rows.batch)));
    rows.sort_unstable();
    late.sort_unstable();
    (rows, late)
}

/// Takes events through the first part of the step, each side by itself, and then to the second, as the stream in between
/// does.
fn feed(
    before: &mut [Box<dyn Operator>; 2],
    after: &mut dyn Operator,
    events: &[Event],
    range: Range<usize>,
    clocks: &Clocks,
    out: &mut Output,
) {
    let mut entered: Vec<Rows> = Vec::new();
    for (side, operator) in before.iter_mut().enumerate() {
        let of_side = range
            .clone()
            .filter(|row| usize::from(events[*row].0) == side);
        let of_side: Vec<usize> = of_side.collect();
        let readings: Vec<Reading> = of_side.iter().map(|row| events[*row].1).collect();
        let times = readings.iter().map(|reading| reading.0 * SECOND);
        let rows = Rows {
            batch: batch(&readings),
            made: Made::Same,
            times: Some(Times {
                times: times.collect(),
                marks: of_side.iter().map(|row| clocks.marks[*row]).collect(),
            }),
        };
        let mut entering = Output::default();
        block_on(operator.process(rows, &mut entering)).unwrap();
        entered.extend(entering.rows);
        out.late.extend(entering.late);
    }
    let Some(first) = entered.first() else { return };
    let batches = entered.iter().map(|rows| &rows.batch);
    let times: Vec<&Times> = entered
        .iter()
        .filter_map(|rows| rows.times.as_ref())
        .collect();
    let rows = Rows {
        batch: concat_batches(first.batch.schema_ref(), batches).unwrap(),
        made: Made::Many,
        times: Some(Times::concat(&times)),
    };
    block_on(after.process(rows, out)).unwrap();
}

/// The events as one relation, with their places and whole seconds.
fn relation(events: &[Event]) -> RecordBatch {
    let readings: Vec<Reading> = events.iter().map(|event| event.1).collect();
    let readings = batch(&readings);
    let sides: ArrayRef = Arc::new(BooleanArray::from_iter(events.iter().map(|e| Some(e.0))));
    let places: ArrayRef = Arc::new(Int64Array::from_iter_values(0..events.len() as i64));
    let seconds = events.iter().map(|event| event.1.0);
    let seconds: ArrayRef = Arc::new(Int64Array::from_iter_values(seconds));
    let names = ["site", "meter", "kw", "time"].into_iter();
    let own = names.zip(readings.columns().iter().cloned());
    let added = [("side", sides), ("id", places), ("s", seconds)];
    RecordBatch::try_from_iter(own.chain(added)).unwrap()
}

const STEPS: &[&str] = &[
    "join: { stream: right, on: meter, within: 5s, columns: [kw as other, time as at] }",
    "join: { stream: right, on: meter, within: 5s, type: left, columns: [kw as other, time as at] }",
    "join: { stream: right, on: [site = site, kw], within: 9s, type: left, columns: [meter as m] }",
    "join: { stream: right, on: meter, as_of: true, columns: [kw as other, time as at] }",
    "join: { stream: right, on: meter, as_of: true, type: left, columns: [kw as other, time as at] }",
    "join: { stream: right, on: [kw], as_of: true, type: left, columns: [meter as m] }",
];

fn events() -> impl Strategy<Value = Vec<Event>> {
    // Time goes on by 0 to 3 seconds, and single readings come up to 12 seconds late.
    let one = (
        0_i64..4,
        prop_oneof![4 => Just(0_i64), 1 => 0_i64..13],
        0_i64..6,
        proptest::option::weighted(0.8, 0_i64..8),
        any::<bool>(),
    );
    proptest::collection::vec(one, 0..120).prop_map(|steps| {
        let mut now = 1000;
        let mut events = Vec::new();
        for (forward, behind, meter, kw, is_right) in steps {
            now += forward;
            events.push((is_right, (now - behind, meter, kw)));
        }
        events
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn batches_and_restarts_do_not_show(events in events(), lateness in 0_i64..8, cuts in cuts()) {
        for yaml in STEPS {
            let step = step(yaml);
            let whole = run(&step, &events, lateness, &Cuts::default());
            let disturbed = run(&step, &events, lateness, &cuts);
            prop_assert_eq!(disturbed, whole, "{}", yaml);
        }
    }

    /// Nothing is late when the lateness covers the disorder; then a join of the streams gives what a query gives.
    #[test]
    fn joins_give_what_a_query_gives(events in events(), cuts in cuts()) {
        let all = relation(&events);
        let near = |kind: &str, on: &str, columns: &str| format!(
            "select l.site, l.meter, l.kw, l.time, {columns} from (select * from input where not side) l \
             {kind} join (select * from input where side) r on {on}"
        );
        let as_of = |kind: &str| format!(
            "select site, meter, kw, time, other, at from (\
             select l.site, l.meter, l.kw, l.time, r.kw as other, r.time as at, \
             row_number() over (partition by l.id order by r.s desc, r.id desc) as n \
             from (select * from input where not side) l {kind} join (select * from input where side) r \
             on l.meter = r.meter and r.s <= l.s) where n = 1"
        );
        let meter = "l.meter = r.meter and abs(l.s - r.s) <= 5";
        for (yaml, query) in [
            (STEPS[0], near("inner", meter, "r.kw as other, r.time as at")),
            (STEPS[1], near("left", meter, "r.kw as other, r.time as at")),
            (STEPS[3], as_of("inner")),
            (STEPS[4], as_of("left")),
        ] {
            let (rows, late) = run(&step(yaml), &events, 13, &cuts);
            prop_assert!(late.is_empty());
            let mut query = busbar_sql::BatchQuery::compile(&all.schema(), &query).unwrap();
            let mut expected = lines(&query.execute(&all).unwrap());
            expected.sort_unstable();
            prop_assert_eq!(rows, expected, "{}", yaml);
        }
    }
}

#[test]
fn state_is_given_up_when_no_row_can_come_to_it_any_more() {
    for yaml in STEPS {
        let step = step(yaml);
        let events: Vec<Event> = (0..4000)
            .map(|i| (i % 2 == 1, (i, i % 4, Some(i % 8))))
            .collect();
        let schema = batch(&[]).schema();
        let divided = step.stateful().unwrap().divided.unwrap();
        let mut before = [
            divided.before.operator(&schema).unwrap(),
            step.joined().unwrap().before.operator(&schema).unwrap(),
        ];
        let state = Arc::new(Memory::default());
        let mut operator = divided
            .after
            .operator(&divided.before.schema().unwrap())
            .unwrap();
        operator.restore(Arc::<Memory>::clone(&state)).unwrap();
        let clocks = Clocks::new(&events, 0);
        let mut most = 0;
        for from in (0..events.len()).step_by(20) {
            let mut out = Output::default();
            let range = from..from + 20;
            feed(
                &mut before,
                operator.as_mut(),
                &events,
                range,
                &clocks,
                &mut out,
            );
            operator.on_time(clocks.both[from + 20], &mut out).unwrap();
            let mut changes = Changes::default();
            operator.snapshot(&mut changes).unwrap();
            state.write(changes);
            most = most.max(state.len());
        }
        assert!(most < 30, "{yaml}: {most} pieces of state");
        assert!(
            operator.memory() < 64 << 10,
            "{yaml}: {} bytes",
            operator.memory()
        );
    }
}

#[test]
fn a_batch_with_too_many_results_changes_nothing() {
    let step = step(STEPS[0]);
    let divided = step.stateful().unwrap().divided.unwrap();
    let schema = batch(&[]).schema();
    let mut left = divided.before.operator(&schema).unwrap();
    let mut right = step.joined().unwrap().before.operator(&schema).unwrap();
    let mut operator = divided
        .after
        .operator(&divided.before.schema().unwrap())
        .unwrap();
    let enter = |operator: &mut dyn Operator, rows: usize| {
        let readings = vec![(0, 1, Some(1)); rows];
        let rows = Rows {
            batch: batch(&readings),
            made: Made::Same,
            times: Some(Times {
                times: vec![0; rows].into(),
                marks: vec![i64::MIN; rows].into(),
            }),
        };
        let mut out = Output::default();
        block_on(operator.process(rows, &mut out)).unwrap();
        out.rows.pop().unwrap()
    };
    let (many, some) = (enter(left.as_mut(), 2000), enter(right.as_mut(), 1000));
    let mut out = Output::default();
    block_on(operator.process(many, &mut out)).unwrap();
    let before = operator.memory();
    let refused = block_on(operator.process(some.clone(), &mut out)).unwrap_err();
    assert_eq!(refused.code(), "flow.join-too-many");
    assert!(out.rows.is_empty());
    assert_eq!(operator.memory(), before);
    let half = UInt32Array::from_iter_values(0..500);
    let half = some
        .clone()
        .with_columns(take_record_batch(&some.batch, &half).unwrap());
    let half = Rows {
        times: some.times.as_ref().map(|times| Times {
            times: times.times.slice(0, 500),
            marks: times.marks.slice(0, 500),
        }),
        ..half
    };
    block_on(operator.process(half, &mut out)).unwrap();
    assert_eq!(out.rows.iter().map(Rows::len).sum::<usize>(), 1_000_000);
}
