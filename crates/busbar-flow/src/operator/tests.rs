//! What every stateful operator promises: the same rows come out whatever the batches are that the rows come in, and
//! wherever it is stopped and restored.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use busbar_catalog::StepSpec;
use busbar_event::Error;
use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::{
    Changes, Operator, Output, Rows, StateChange, StateReader, Step, StepContext, Times, Visit,
    registry,
};

/// State in memory, as of the last snapshot.
#[derive(Default)]
pub(super) struct Memory(Mutex<BTreeMap<Vec<u8>, Bytes>>);

impl Memory {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub fn write(&self, changes: Changes) {
        self.apply(changes.resolve().unwrap());
    }

    pub fn apply(&self, changes: Vec<StateChange>) {
        let mut state = self.0.lock();
        for (key, value) in changes {
            match value {
                Some(value) => state.insert(key.to_vec(), value),
                None => state.remove(&key[..]),
            };
        }
    }
}

impl StateReader for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.0.lock().get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        for (key, value) in self.0.lock().range(prefix.to_vec()..) {
            if !key.starts_with(prefix) {
                break;
            }
            visit(key, value.clone())?;
        }
        Ok(())
    }
}

/// One reading: seconds, meter, power.
pub(super) type Reading = (i64, i64, Option<i64>);

pub(super) const SECOND: i64 = 1_000_000;

pub(super) fn batch(readings: &[Reading]) -> RecordBatch {
    let site = |(_, meter, _): &Reading| Some(["north", "south"][*meter as usize % 2]);
    let sites: ArrayRef = Arc::new(readings.iter().map(site).collect::<StringArray>());
    let meters: ArrayRef = Arc::new(readings.iter().map(|r| Some(r.1)).collect::<Int64Array>());
    let powers = readings.iter().map(|r| r.2.map(|kw| kw as f64));
    let powers: ArrayRef = Arc::new(powers.collect::<Float64Array>());
    let times = readings
        .iter()
        .map(|r| Some(r.0 * SECOND))
        .collect::<TimestampMicrosecondArray>();
    let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
    RecordBatch::try_from_iter_with_nullable([
        ("site", sites, true),
        ("meter", meters, true),
        ("kw", powers, true),
        ("time", times, false),
    ])
    .unwrap()
}

pub(super) fn step(yaml: &str) -> Arc<dyn Step> {
    let spec: StepSpec = serde_saphyr::from_str(yaml).unwrap();
    let schema = batch(&[]).schema();
    let context = StepContext {
        schema: &schema,
        tables: &BTreeMap::new(),
        streams: &|_| None,
        plugins: &BTreeMap::new(),
        services: &BTreeMap::new(),
        has_payloads: false,
        needed: None,
    };
    registry::compile(&spec, &context).unwrap_or_else(|wrong| panic!("{yaml}: {wrong:?}"))
}

/// How a run is disturbed: where batches end, and behind which of them the operator is snapshot, shrunk or restored.
#[derive(Clone, Debug, Default)]
pub(super) struct Cuts {
    pub ends: Vec<usize>,
    pub snapshots: Vec<bool>,
    pub restores: Vec<bool>,
}

/// What came out: rows and late rows, each sorted.
pub(super) type Came = (Vec<String>, Vec<String>);

/// Runs an operator over readings; after a restore what came since the last snapshot is thrown away and the input is read
/// again from there, as a task does after a crash.
fn run(step: &Arc<dyn Step>, readings: &[Reading], lateness: i64, cuts: &Cuts) -> Came {
    let schema = batch(&[]).schema();
    let mut highest = i64::MIN;
    let mut marks: Vec<i64> = Vec::new();
    for reading in readings {
        marks.push(highest.saturating_sub(if highest == i64::MIN {
            0
        } else {
            lateness * SECOND
        }));
        highest = highest.max(reading.0 * SECOND);
    }
    let mark_behind = |row: usize| match marks.get(row) {
        Some(mark) => *mark,
        None if highest == i64::MIN => i64::MIN,
        None => highest - lateness * SECOND,
    };
    let state = Arc::new(Memory::default());
    let mut operator = step.operator(&schema).unwrap();
    operator.restore(Arc::<Memory>::clone(&state)).unwrap();
    let mut ends: Vec<usize> = cuts
        .ends
        .iter()
        .copied()
        .filter(|end| *end < readings.len())
        .collect();
    ends.push(readings.len());
    ends.sort_unstable();
    ends.dedup();
    let (mut rows, mut late) = (Vec::new(), Vec::new());
    // Rows of output and input position at the last snapshot.
    let mut saved = (0, 0, 0);
    let mut restored = 0;
    let (mut from, mut turn) = (0, 0);
    while from < readings.len() {
        let end = *ends.iter().find(|end| **end > from).unwrap();
        let mut out = Output::default();
        feed(operator.as_mut(), readings, from..end, &marks, &mut out);
        operator.on_time(mark_behind(end), &mut out).unwrap();
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
            operator = step.operator(&schema).unwrap();
            operator.restore(Arc::<Memory>::clone(&state)).unwrap();
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

pub(super) fn feed(
    operator: &mut dyn Operator,
    readings: &[Reading],
    range: Range<usize>,
    marks: &[i64],
    out: &mut Output,
) {
    let times: Vec<i64> = readings[range.clone()]
        .iter()
        .map(|r| r.0 * SECOND)
        .collect();
    let rows = Rows {
        batch: batch(&readings[range.clone()]),
        made: super::Made::Same,
        times: Some(Times {
            times: times.into(),
            marks: marks[range].to_vec().into(),
        }),
    };
    futures::executor::block_on(operator.process(rows, out)).unwrap();
}

pub(super) fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("null");
    let cells: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
        .collect();
    let line = |row| {
        cells
            .iter()
            .map(|c| c.value(row).to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    (0..batch.num_rows()).map(line).collect()
}

const STEPS: &[&str] = &[
    "window: { tumble: 10s, by: [site], select: 'site, window_end, count(*) as n, sum(kw) as kw, max(meter) as m' }",
    "window: { tumble: 10s, select: 'window_start, count(*) as n, count(distinct meter) as meters' }",
    "window: { hop: { size: 10s, every: 3s }, by: [meter], select: 'meter, window_end, sum(kw) as kw', having: 'count(*) > 1' }",
    "window: { session: 4s, by: [meter], select: 'meter, window_start, window_end, count(*) as n, sum(kw) as kw' }",
    "window: { session: 3s, select: 'window_start, window_end, count(*) as n' }",
    "sql: select site, window_end, count(*) as n, min(kw) as kw from input where meter <> 3 group by tumble(interval '10 seconds'), site",
    "window: { tumble: 20s, by: [meter % 3], emit: 5s, select: 'meter % 3 as k, window_end, early, sum(kw) as kw' }",
    "dedupe: { by: [meter], within: 5s }",
    "latest: { by: [meter] }",
    "previous: { by: [meter], columns: [kw, time], keep: 7s }",
    "previous: { by: [site], columns: [meter] }",
    "alarm: { by: [meter], when: kw > 50, for: 4s, clear: kw < 30 }",
    "alarm: { by: [meter], when: kw > 50 }",
    "alarm: { by: [site], silent: 3s }",
    "top: { n: 2, order: [kw desc, meter], by: [site], tumble: 10s }",
    "top: { n: 2, ties: true, order: [kw desc], by: [site], tumble: 10s }",
    "pattern: { by: [site], sequence: [{ name: low, when: kw < 30 }, { name: high, when: kw > 60 }], without: kw = 50, within: 6s }",
];

fn readings() -> impl Strategy<Value = Vec<Reading>> {
    // Time goes on by 0 to 3 seconds, and single readings come up to 12 seconds late.
    let one = (
        0_i64..4,
        prop_oneof![4 => Just(0_i64), 1 => 0_i64..13],
        0_i64..6,
        proptest::option::weighted(0.9, 0_i64..100),
    );
    proptest::collection::vec(one, 0..120).prop_map(|steps| {
        let mut now = 1000;
        let mut readings = Vec::new();
        for (forward, behind, meter, kw) in steps {
            now += forward;
            readings.push((now - behind, meter, kw));
        }
        readings
    })
}

pub(super) fn cuts() -> impl Strategy<Value = Cuts> {
    (
        proptest::collection::vec(0_usize..120, 0..20),
        proptest::collection::vec(any::<bool>(), 20),
        proptest::collection::vec(proptest::bool::weighted(0.2), 20),
    )
        .prop_map(|(ends, snapshots, restores)| Cuts {
            ends,
            snapshots,
            restores,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn batches_and_restarts_do_not_show(readings in readings(), lateness in 0_i64..8, cuts in cuts()) {
        for yaml in STEPS {
            let step = step(yaml);
            let whole = run(&step, &readings, lateness, &Cuts::default());
            let disturbed = run(&step, &readings, lateness, &cuts);
            prop_assert_eq!(disturbed, whole, "{}", yaml);
        }
    }

    /// Nothing is late when the lateness covers the disorder; then a window over the stream gives what a query over all
    /// events gives.
    #[test]
    fn windows_give_what_a_query_gives(readings in readings(), cuts in cuts()) {
        let all = batch(&readings);
        for (yaml, query) in [
            (
                "window: { tumble: 10s, by: [site], select: 'site, window_start, count(*) as n, sum(kw) as kw, min(time) as first' }",
                "select site, date_bin(interval '10 seconds', time) as s, count(*), sum(kw), min(time) from input group by site, s",
            ),
            (
                "window: { tumble: 7s, offset: 2s, by: [meter], select: 'meter, window_start, stddev(kw) as s', having: 'count(kw) > 2' }",
                "select meter, date_bin(interval '7 seconds', time, timestamp '1970-01-01T00:00:02Z') as s, stddev(kw) from input group by meter, s having count(kw) > 2",
            ),
        ] {
            let step = step(yaml);
            let (rows, late) = run(&step, &readings, 13, &cuts);
            prop_assert!(late.is_empty());
            let mut query = busbar_sql::BatchQuery::compile(&all.schema(), query).unwrap();
            let mut expected = lines(&query.execute(&all).unwrap());
            expected.sort_unstable();
            let rounded = |rows: Vec<String>| -> Vec<String> { rows.iter().map(|row| rounded(row)).collect() };
            prop_assert_eq!(rounded(rows), rounded(expected), "{}", yaml);
        }
    }

    /// A window in two parts, with the rows spread over tasks in between, gives what one task gives.
    #[test]
    fn a_divided_window_gives_what_a_whole_one_gives(readings in readings(), lateness in 0_i64..8, cuts in cuts()) {
        for yaml in &STEPS[..3] {
            let step = step(yaml);
            let (whole, late) = run(&step, &readings, lateness, &cuts);
            let divided = step.stateful().unwrap().divided.unwrap();
            let mut before = divided.before.operator(&batch(&[]).schema()).unwrap();
            let between = divided.before.schema().unwrap();
            let mut after: Vec<_> = (0..2).map(|_| divided.after.operator(&between).unwrap()).collect();
            let (mut rows, mut late_rows) = (Vec::new(), Vec::new());
            let mut highest = i64::MIN;
            for reading in readings.chunks(7) {
                let mut marks = Vec::new();
                for one in reading {
                    marks.push(if highest == i64::MIN { highest } else { highest - lateness * SECOND });
                    highest = highest.max(one.0 * SECOND);
                }
                let mut out = Output::default();
                feed(before.as_mut(), reading, 0..reading.len(), &marks, &mut out);
                late_rows.extend(out.late.iter().flat_map(|rows| lines(&rows.batch)));
                for part in out.rows {
                    // By key, as the exchange does.
                    for side in 0..2_u32 {
                        let keys: Vec<usize> = divided.keys.iter().map(|k| part.batch.schema().index_of(k).unwrap()).collect();
                        let of = |row: usize| {
                            let text: String = keys.iter().map(|k| lines(&part.batch.project(&[*k]).unwrap())[row].clone()).collect();
                            text.bytes().map(u32::from).sum::<u32>() % 2 == side
                        };
                        let places: Vec<u32> = (0..part.len()).filter(|row| of(*row)).map(|row| row as u32).collect();
                        let part = part.take(&places.into()).unwrap();
                        let mut out = Output::default();
                        futures::executor::block_on(after[side as usize].process(part, &mut out)).unwrap();
                        assert!(out.rows.is_empty());
                    }
                }
                for operator in &mut after {
                    let mut out = Output::default();
                    operator.on_time(highest - lateness * SECOND, &mut out).unwrap();
                    rows.extend(out.rows.iter().flat_map(|rows| lines(&rows.batch)));
                }
            }
            for operator in &mut after {
                let mut out = Output::default();
                operator.flush(&mut out).unwrap();
                rows.extend(out.rows.iter().flat_map(|rows| lines(&rows.batch)));
            }
            rows.sort_unstable();
            late_rows.sort_unstable();
            let rounded = |rows: Vec<String>| -> Vec<String> { rows.iter().map(|row| rounded(row)).collect() };
            prop_assert_eq!(rounded(rows), rounded(whole), "{}", yaml);
            prop_assert_eq!(late_rows, late, "{}", yaml);
        }
    }
}

/// Numbers to nine digits: sums in parts round otherwise.
fn rounded(row: &str) -> String {
    let digits = |cell: &str| match cell.parse::<f64>() {
        Ok(number) if cell.contains('.') => format!("{number:.8e}"),
        _ => cell.to_owned(),
    };
    row.split(' ').map(digits).collect::<Vec<_>>().join(" ")
}

#[test]
fn an_alarm_tells_what_began_and_ended() {
    let step = step("alarm: { by: [meter], when: kw > 90, for: 5s, clear: kw < 80 }");
    // Above for six seconds, then between the limits, then below; and a short excess that tells nothing.
    let readings = [
        (0, 1, Some(95)),
        (3, 1, Some(92)),
        (6, 1, Some(85)),
        (8, 1, Some(70)),
        (10, 1, Some(95)),
        (12, 1, Some(60)),
        (30, 2, Some(10)),
    ];
    let (rows, late) = run(&step, &readings, 0, &Cuts::default());
    assert!(late.is_empty());
    assert_eq!(
        rows,
        [
            "south 1 70.0 1970-01-01T00:00:08Z false 1970-01-01T00:00:08Z",
            "south 1 92.0 1970-01-01T00:00:03Z true 1970-01-01T00:00:05Z",
        ]
    );
}

#[test]
fn silence_is_told_by_the_clock_of_the_others() {
    let step = step("alarm: { by: [meter], silent: 10s }");
    let readings = [
        (0, 1, Some(1)),
        (1, 2, Some(1)),
        (9, 2, Some(1)),
        (15, 2, Some(1)),
        (20, 1, Some(7)),
    ];
    let (rows, _) = run(&step, &readings, 0, &Cuts::default());
    assert_eq!(
        rows,
        [
            "south 1 1.0 1970-01-01T00:00:00Z true 1970-01-01T00:00:10Z",
            "south 1 7.0 1970-01-01T00:00:20Z false 1970-01-01T00:00:20Z",
        ]
    );
}

#[test]
fn times_of_results_lie_within_their_windows() {
    let step = step("window: { tumble: 10s, select: count(*) as n }");
    let mut operator = step.operator(&batch(&[]).schema()).unwrap();
    let mut out = Output::default();
    feed(
        operator.as_mut(),
        &[(3, 1, None)],
        0..1,
        &[i64::MIN],
        &mut out,
    );
    assert_eq!(operator.next_time(), Some(10 * SECOND));
    operator.on_time(10 * SECOND, &mut out).unwrap();
    let times = out.rows[0].times.as_ref().unwrap();
    assert_eq!(&times.times[..], &[10 * SECOND - 1]);
    assert_eq!(
        out.rows[0]
            .batch
            .column(0)
            .as_primitive::<arrow::datatypes::Int64Type>()
            .value(0),
        1
    );
    assert_eq!(operator.next_time(), None);
}

#[test]
fn ties_pass_where_they_are_asked_for() {
    let readings = [
        (0, 1, Some(7)),
        (1, 2, Some(9)),
        (2, 3, Some(7)),
        (3, 4, Some(8)),
        (4, 5, Some(7)),
        (5, 1, Some(8)),
    ];
    let ranked = |step_text: &str| {
        let (rows, _) = run(&step(step_text), &readings, 0, &Cuts::default());
        let columns = rows.iter().map(|row| row.split(' ').collect::<Vec<_>>());
        // Meter, power, rank.
        let mut rows: Vec<String> = columns.map(|c| [c[1], c[2], c[4]].join(" ")).collect();
        rows.sort();
        rows
    };
    let alone = "top: { n: 2, order: [kw desc], tumble: 10s }";
    assert_eq!(ranked(alone), ["2 9.0 1", "4 8.0 2"]);
    let ties = "top: { n: 2, ties: true, order: [kw desc], tumble: 10s }";
    assert_eq!(ranked(ties), ["1 8.0 2", "2 9.0 1", "4 8.0 2"]);
    let more = "top: { n: 4, ties: true, order: [kw desc], tumble: 10s }";
    assert_eq!(
        ranked(more),
        [
            "1 7.0 4", "1 8.0 2", "2 9.0 1", "3 7.0 4", "4 8.0 2", "5 7.0 4"
        ]
    );
}
