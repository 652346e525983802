//! What snapshots cost and promise: they write what has changed, hold the task up for little, and what fails changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use busbar_event::{Class, Error};
use bytes::Bytes;

use super::tests::{Memory, Reading, SECOND, batch, feed, lines, step};
use super::{Changes, Operator, Output, StateReader, Step, Visit};
use crate::limits::{SESSION_FRAGMENTS_MAX, SESSION_PARTS_MAX, WINDOW_MERGE_ROWS};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// An operator and its state.
struct KeptOperator {
    step: Arc<dyn Step>,
    operator: Box<dyn Operator>,
    state: Arc<Memory>,
}

impl KeptOperator {
    fn new(yaml: &str) -> KeptOperator {
        let step = step(yaml);
        let state = Arc::new(Memory::default());
        let operator = restored(&step, &state);
        KeptOperator {
            step,
            operator,
            state,
        }
    }

    fn feed(&mut self, readings: &[Reading]) {
        let marks = vec![i64::MIN; readings.len()];
        let mut out = Output::default();
        let range = 0..readings.len();
        feed(self.operator.as_mut(), readings, range, &marks, &mut out);
    }

    /// Takes a snapshot; answers the bytes of the values that it writes.
    fn snapshot(&mut self) -> usize {
        let mut changes = Changes::default();
        self.operator.snapshot(&mut changes).unwrap();
        let changes = changes.resolve().unwrap();
        let values = changes.iter().flat_map(|(_, value)| value);
        let written = values.map(Bytes::len).sum();
        self.state.apply(changes);
        written
    }

    /// What comes out at the end, of this operator and of one that goes on from the last snapshot.
    fn ends(&mut self) -> [Vec<String>; 2] {
        let mut other = restored(&self.step, &self.state);
        [self.operator.as_mut(), other.as_mut()].map(|operator| {
            let mut out = Output::default();
            operator.flush(&mut out).unwrap();
            let rows = out.rows.iter();
            let mut rows: Vec<String> = rows.flat_map(|rows| lines(&rows.batch)).collect();
            rows.sort_unstable();
            rows
        })
    }
}

fn restored(step: &Arc<dyn Step>, state: &Arc<Memory>) -> Box<dyn Operator> {
    let mut operator = step.operator(&batch(&[]).schema()).unwrap();
    operator.restore(Arc::<Memory>::clone(state)).unwrap();
    operator
}

fn readings(meters: std::ops::Range<i64>) -> Vec<Reading> {
    meters.map(|meter| (1000, meter, Some(1))).collect()
}

/// The lines of so many meters, each counted so often.
fn counted(meters: i64, times: usize) -> Vec<String> {
    let mut lines: Vec<String> = (0..meters).map(|m| format!("{m} {times}")).collect();
    lines.sort_unstable();
    lines
}

/// Tokio whose one thread for blocking work is kept busy until what is answered with it is dropped.
fn busy() -> (tokio::runtime::Runtime, std::sync::mpsc::Sender<()>) {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .build()
        .unwrap();
    let (release, busy) = std::sync::mpsc::channel();
    tokio.spawn_blocking(move || busy.recv());
    (tokio, release)
}

const COUNT: &str = "window: { tumble: 1000s, by: [meter], select: 'meter, count(*) as n' }";

#[test]
fn large_parts_of_a_window_are_merged_beside_the_task() {
    let (tokio, release) = busy();
    let _within = tokio.enter();
    let meters = WINDOW_MERGE_ROWS as i64;
    let mut kept = KeptOperator::new(COUNT);
    for parts in 1..=3 {
        kept.feed(&readings(0..meters));
        // It does not wait for the merge, and the parts are there until that has ended.
        kept.snapshot();
        assert_eq!(kept.state.len(), parts);
    }
    let mut other = restored(&kept.step, &kept.state);
    let mut out = Output::default();
    other.flush(&mut out).unwrap();
    let mut rows: Vec<String> = out.rows.iter().flat_map(|r| lines(&r.batch)).collect();
    rows.sort_unstable();
    assert_eq!(rows, counted(meters, 3));
    drop(release);
    let until = Instant::now() + PATIENCE;
    while kept.state.len() > 1 {
        assert!(Instant::now() < until, "{} parts", kept.state.len());
        kept.snapshot();
        std::thread::yield_now();
    }
    assert_eq!(kept.ends(), [counted(meters, 3), counted(meters, 3)]);
}

#[test]
fn a_window_that_closes_while_its_parts_are_merged_leaves_nothing() {
    let (tokio, release) = busy();
    let _within = tokio.enter();
    let meters = WINDOW_MERGE_ROWS as i64;
    let mut kept = KeptOperator::new(COUNT);
    for _ in 0..2 {
        kept.feed(&readings(0..meters));
        kept.snapshot();
        // The parts are on disk only: the merge reads them there, where they may be gone by then.
        kept.operator.shrink(usize::MAX);
    }
    let mut out = Output::default();
    kept.operator.on_time(2000 * SECOND, &mut out).unwrap();
    assert_eq!(
        out.rows.iter().map(super::Rows::len).sum::<usize>(),
        meters as usize
    );
    kept.snapshot();
    drop(release);
    // The thread has done everything that was begun before this.
    let (done, wait) = std::sync::mpsc::channel();
    tokio.spawn_blocking(move || done.send(()));
    wait.recv_timeout(PATIENCE).unwrap();
    kept.snapshot();
    // Where windows go on.
    assert_eq!(kept.state.len(), 1);
    assert_eq!(kept.ends(), [Vec::<String>::new(), Vec::new()]);
}

#[test]
fn a_snapshot_of_sessions_costs_what_has_changed() {
    let meters = 20_000;
    let rounds = 300;
    let mut kept =
        KeptOperator::new("window: { session: 900s, by: [meter], select: 'meter, count(*) as n' }");
    kept.feed(&readings(0..meters));
    let all = kept.snapshot();
    for round in 0..rounds {
        // Ten that change every time, and ten that change once in a while.
        let seldom = 10 + round % 50 * 10;
        kept.feed(&readings(0..10));
        kept.feed(&readings(seldom..seldom + 10));
        let written = kept.snapshot();
        assert!(
            written < all / 2,
            "round {round} wrote {written} of {all} bytes"
        );
        assert!(
            kept.state.len() <= 2 * (SESSION_PARTS_MAX + 10),
            "{} parts",
            kept.state.len()
        );
    }
    assert!(rounds > 2 * (SESSION_FRAGMENTS_MAX * SESSION_PARTS_MAX / 8) as i64);
    let n = |meter: i64| match meter {
        0..10 => 1 + rounds,
        10..510 => 1 + rounds / 50,
        _ => 1,
    };
    let mut expected: Vec<String> = (0..meters).map(|m| format!("{m} {}", n(m))).collect();
    expected.sort_unstable();
    let [own, other] = kept.ends();
    assert_eq!(own, expected);
    assert_eq!(other, expected);
}

/// A session's fragments are merged in the order in which its rows came, wherever their rows were moved to.
#[test]
fn sessions_keep_the_order_of_their_rows() {
    let mut kept = KeptOperator::new(
        "window: { session: 900s, by: [meter], select: 'meter, array_agg(kw) as kws' }",
    );
    let meters = 3000;
    for round in 0..200_i64 {
        let some: Vec<Reading> = (0..meters)
            .filter(|meter| meter % 200 == round || meter % 7 == 0 && round % 50 == 0)
            .map(|meter| (1000, meter, Some(round)))
            .collect();
        kept.feed(&some);
        kept.snapshot();
        if round % 60 == 59 {
            kept.operator = restored(&kept.step, &kept.state);
        }
    }
    let line = |meter: i64| {
        let rounds = (0..200).filter(|r| meter % 200 == *r || meter % 7 == 0 && r % 50 == 0);
        let kws: Vec<String> = rounds.map(|round| format!("{round}.0")).collect();
        format!("{meter} [{}]", kws.join(", "))
    };
    let mut expected: Vec<String> = (0..meters).map(line).collect();
    expected.sort_unstable();
    let [own, other] = kept.ends();
    assert_eq!(own, expected);
    assert_eq!(other, expected);
}

/// State whose disk fails while it is told to.
struct FailingState {
    state: Arc<Memory>,
    fails: Arc<AtomicBool>,
}

impl StateReader for FailingState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        match self.fails.load(Ordering::Relaxed) {
            true => Err(Error::new(Class::Transient, "flow.state-disk")),
            false => self.state.get(key),
        }
    }

    fn scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        self.state.scan(prefix, visit)
    }
}

#[test]
fn rows_that_could_not_be_looked_up_are_as_if_they_had_not_come() {
    for (yaml, passes) in [
        ("dedupe: { by: [meter], within: 5s }", 1),
        ("latest: { by: [meter] }", 2),
        ("previous: { by: [meter], columns: [kw] }", 2),
        ("alarm: { by: [meter], when: kw > 0 }", 1),
        (
            "pattern: { by: [site], sequence: [{ name: a, when: kw > 0 }, { name: b, when: kw > 0 }], within: 6s }",
            1,
        ),
    ] {
        let mut kept = KeptOperator::new(yaml);
        let fails = Arc::new(AtomicBool::new(false));
        let state = FailingState {
            state: Arc::clone(&kept.state),
            fails: Arc::clone(&fails),
        };
        kept.operator = kept.step.operator(&batch(&[]).schema()).unwrap();
        kept.operator.restore(Arc::new(state)).unwrap();
        kept.feed(&[(1000, 3, Some(1))]);
        kept.snapshot();
        kept.operator.shrink(usize::MAX);
        // The first is new and could be taken in at once; what is known of the second is on disk.
        let rows = || super::Rows {
            batch: batch(&[(1001, 4, Some(1)), (1001, 3, Some(1))]),
            made: super::Made::Same,
            times: Some(super::Times {
                times: vec![1001 * SECOND; 2].into(),
                marks: vec![i64::MIN; 2].into(),
            }),
        };
        let mut out = Output::default();
        fails.store(true, Ordering::Relaxed);
        let failed = futures::executor::block_on(kept.operator.process(rows(), &mut out));
        assert_eq!(failed.unwrap_err().code(), "flow.state-disk", "{yaml}");
        fails.store(false, Ordering::Relaxed);
        futures::executor::block_on(kept.operator.process(rows(), &mut out)).unwrap();
        let came: usize = out.rows.iter().map(super::Rows::len).sum();
        assert_eq!(came, passes, "{yaml}");
        if yaml.starts_with("previous") {
            let shown = lines(&out.rows[0].batch);
            assert!(shown[0].ends_with("null"), "{shown:?}");
        }
    }
}
