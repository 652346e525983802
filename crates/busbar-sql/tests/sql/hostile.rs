//! Questions that are made to hurt. Each gets an answer or a reason, in bounded time and memory, and the
//! engine goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use busbar_sql::{BatchLimits, Engine, QueryLimits};

use crate::common::{PATIENCE, Stored};
use crate::engine::{count, engine_of, engine_over, many, run};

const TIME_MAX: Duration = Duration::from_secs(3);

fn limits() -> QueryLimits {
    QueryLimits {
        memory_bytes_max: 64 << 20,
        time_max: TIME_MAX,
        ..QueryLimits::default()
    }
}

/// What a question comes to: `rows` and their number, or the code of the error.
async fn outcome(engine: &Engine, text: &str) -> String {
    let begun = Instant::now();
    let answer = match engine.query(text).await {
        Ok(mut result) => result.collect().await,
        Err(wrong) => Err(wrong.into_error()),
    };
    let most = TIME_MAX + PATIENCE;
    assert!(begun.elapsed() < most, "{:?} {text:.200}", begun.elapsed());
    match answer {
        Ok(batches) => {
            let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
            format!("rows {rows}")
        }
        Err(error) => {
            assert!(!error.message(busbar_event::Language::Zh).is_empty());
            error.code().to_owned()
        }
    }
}

/// `first`, and then so many steps, each of which asks the one before.
fn chain(first: &str, step: &str, steps: usize, last: &str) -> String {
    let mut text = format!("with a0 as ({first})");
    for number in 1..=steps {
        let step = step.replace("BEFORE", &format!("a{}", number - 1));
        text.push_str(&format!(", a{number} as ({step})"));
    }
    format!("{text} {}", last.replace("BEFORE", &format!("a{steps}")))
}

const MEMORY: [&str; 4] = [
    "sql.memory",
    "sql.result-bytes",
    "sql.value-bytes",
    "sql.row-bytes",
];

/// Peak memory of this process so far.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    kib.expect("a number") * 1024
}

#[test]
fn what_grows_meets_a_bound_and_not_the_end_of_memory() {
    let (engine, _) = engine_of(vec![many(20, 1000)], limits());
    let literal = "y".repeat(8000);
    let columns: Vec<String> = (0..900).map(|n| format!("c as c{n}")).collect();
    let columns = columns.join(", ");
    let doubles = "select s || s || s || s as s from BEFORE";
    let questions = [
        // Each step makes four times as much of what the one before made.
        chain(
            "select repeat(site, 100) as s from s",
            doubles,
            20,
            "select count(*), max(s) from BEFORE",
        ),
        chain(
            "select 'x' as s from s",
            doubles,
            40,
            "select length(s) from BEFORE",
        ),
        chain(
            "select site as s from s",
            "select concat(s, s, s, s, s, s, s, s) as s from BEFORE",
            20,
            "select * from BEFORE",
        ),
        chain(
            "select site as s from s",
            "select concat_ws(s, s, s, s, s, s) as s from BEFORE",
            20,
            "select * from BEFORE",
        ),
        chain(
            "select site as s from s",
            "select encode(s, 'hex') as s from BEFORE",
            40,
            "select max(s) from BEFORE",
        ),
        chain(
            "select site as s from s",
            "select replace(s, 's', s || s || s) as s from BEFORE",
            40,
            "select max(s) from BEFORE",
        ),
        "select lpad(site, 2000000000) from s".to_owned(),
        "select repeat(site, 1000000000) from s".to_owned(),
        "select repeat('x', 3000000) as x ".to_owned()
            + &"union all select repeat('x', 3000001) ".repeat(90),
        // Wide rows in a join, which repeats them.
        "select a.t, b.t from (select repeat(site, 150000) as t from s where level_mm < 5) a, \
         (select repeat(site, 150000) as t from s where level_mm < 5) b"
            .to_owned(),
        "select array_agg(a.site) from s a, s b".to_owned(),
        "select string_agg(a.site, ',') from s a, s b".to_owned(),
        "select sum(a.level_mm) over (partition by a.site order by b.time \
         rows between unbounded preceding and unbounded following) from s a, s b"
            .to_owned(),
    ];
    run(async {
        for text in &questions {
            let found = outcome(&engine, text).await;
            let bounded = MEMORY.contains(&found.as_str()) || found == "sql.time";
            assert!(bounded, "{found}: {text:.300}");
            assert_eq!(count(&engine, "select count(*) from s").await, 20_000);
        }
        // The best of very many, and the first that differ: neither needs all of them at once.
        for text in [
            "select a.time, b.time from s a, s b order by a.level_mm + b.level_mm",
            "select distinct a.time, b.time from s a, s b",
        ] {
            let found = outcome(&engine, text).await;
            let fine = found.starts_with("rows ") || found == "sql.memory" || found == "sql.time";
            assert!(fine, "{found}: {text}");
        }
        // A constant beside each row, 900 times: cut where an answer ends, and never all at once.
        let wide = format!("with a as (select '{literal}' as c) select {columns} from a, s");
        let found = outcome(&engine, &wide).await;
        assert!(
            found.starts_with("rows ") || MEMORY.contains(&found.as_str()),
            "{found}"
        );
    });
    let peak = peak_bytes();
    assert!(peak < 2 << 30, "{} MB", peak >> 20);
}

#[test]
fn what_has_no_end_ends() {
    let (engine, _) = engine_of(vec![many(20, 1000)], limits());
    let naturals = "with recursive n as (select 1 as i union all select i + 1 from n)";
    let expected = [
        ("select count(*) from s a, s b, s c".to_owned(), "sql.time"),
        (
            format!("{naturals} select count(*) from n"),
            "sql.recursive",
        ),
        (
            "select * from generate_series(1, 1000000000)".to_owned(),
            "sql.unknown-relation",
        ),
        (
            "select string_agg(site, ',') over (order by time) from s".to_owned(),
            "sql.growing-window",
        ),
        (
            "select regexp_like(site, '(((a{100}){100}){100}){100}') from s".to_owned(),
            "sql.pattern",
        ),
        // A pattern that backtracking would never finish.
        (
            "select count(*) from s where regexp_like(repeat('a', 3000), '(a*)*(a*)*(a*)*b')"
                .to_owned(),
            "rows 1",
        ),
        (
            format!(
                "select count(*) from s where level_mm in ({})",
                vec!["1234567"; 7000].join(",")
            ),
            "rows 1",
        ),
        (
            format!("select {} from s", vec!["1"; 2000].join(", ")),
            "sql.too-many-columns",
        ),
        (
            format!("select {}1{}", "(".repeat(5000), ")".repeat(5000)),
            "sql.too-nested",
        ),
        (format!("select {}1", "not ".repeat(5000)), "sql.too-nested"),
        (
            format!("select case {} end", "when true then 1 ".repeat(2000)),
            "rows 1",
        ),
    ];
    run(async {
        for (text, wanted) in &expected {
            assert_eq!(outcome(&engine, text).await, *wanted, "{text:.200}");
            assert_eq!(count(&engine, "select count(*) from s").await, 20_000);
        }
        // One pattern for each row takes long, and is given up in the middle of a batch.
        for condition in [
            "regexp_like(site, '((a{60}){60})' || cast(level_mm as text) || '{30}')",
            "site ~ ('((a{60}){60})' || cast(level_mm as text) || '{30}')",
            "site !~* ('((a{60}){60})' || cast(level_mm as text) || '{30}')",
        ] {
            let text = format!("select count(*) from s where {condition}");
            let found = outcome(&engine, &text).await;
            let fine = ["sql.time", "sql.pattern", "rows 1"].contains(&found.as_str());
            assert!(fine, "{found}: {condition}");
        }
    });
}

#[test]
fn the_deepest_plan_fits_the_stack() {
    let (engine, _) = engine_of(vec![many(1, 10)], limits());
    let most = busbar_sql::limits::SELECTS_MAX;
    let deep = |steps| {
        chain(
            "select level_mm as v from s",
            "select v + 1 as v from BEFORE",
            steps,
            "select count(*) from BEFORE",
        )
    };
    let nested = |depth: usize| {
        let mut text = "select level_mm as v from s".to_owned();
        for _ in 0..depth {
            text = format!("select max(v) as v from ({text}) as t");
        }
        text
    };
    let united = |count: usize| vec!["select 1 as v"; count].join(" union all ");
    run(async {
        for text in [deep(most - 2), nested(10), united(most)] {
            let found = outcome(&engine, &text).await;
            assert!(found.starts_with("rows "), "{found}: {text:.100}");
        }
        for text in [deep(most - 1), deep(1000), united(most + 1)] {
            assert_eq!(outcome(&engine, &text).await, "sql.too-many-selects");
        }
        assert_eq!(outcome(&engine, &nested(60)).await, "sql.too-nested");
    });
}

/// A scan that finds nothing has nothing to hand on by which it could notice that nobody waits.
#[test]
fn who_goes_away_stops_the_reading() {
    let stored = Stored {
        partitions: vec![many(2000, 10)],
        pause: Duration::from_millis(2),
        ..Stored::default()
    };
    let (engine, stored) = engine_over(stored, QueryLimits::default());
    let read = || stored.read.load(Ordering::Relaxed);
    run(async {
        let answer = engine
            .query("select level_mm from s where topic = 'none'")
            .await
            .unwrap();
        while read() < 50 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(answer);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let then = read();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(read(), then, "it goes on reading");
        assert!(then < 1000, "{then}");
    });
}

/// `select 1 ...` beside each other: a relation of eight thousand rows in a short text.
fn values(rows: usize) -> String {
    let rows = vec!["(1)"; rows].join(",");
    format!("with v(x) as (values {rows})")
}

/// Memory that this process holds now.
fn held_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    kib.expect("a number") * 1024
}

#[test]
fn joins_of_joins_end_for_want_of_memory_and_give_it_back() {
    let generous = QueryLimits {
        memory_bytes_max: 64 << 20,
        time_max: Duration::from_secs(60),
        ..QueryLimits::default()
    };
    let (engine, _) = engine_of(vec![many(8, 1000)], generous);
    let before = held_bytes();
    run(async {
        for text in [
            format!("{} select count(*) from v a, v b, v c, v d, v e", values(8000)),
            "select count(*) from s a, s b, s c, s d, s e".to_owned(),
            "select a.site from s a, s b, s c, s d, s e where a.level_mm + b.level_mm + c.level_mm \
             + d.level_mm + e.level_mm < 0"
                .to_owned(),
            "select count(*) from s a full join s b on a.level_mm < b.level_mm + 2000 cross join s c \
             cross join s d"
                .to_owned(),
        ] {
            let mut answer = engine.query(&text).await.unwrap();
            assert_eq!(answer.collect().await.unwrap_err().code(), "sql.memory", "{text:.200}");
        }
    });
    let grown = held_bytes().saturating_sub(before);
    assert!(grown < 256 << 20, "{} MB are still held", grown >> 20);
}

/// A condition that is never true returns no rows between which anything could be noticed.
#[test]
fn a_join_that_finds_nothing_notices_the_deadline() {
    let limits = QueryLimits {
        memory_bytes_max: 256 << 20,
        time_max: Duration::from_secs(1),
        ..QueryLimits::default()
    };
    let (engine, _) = engine_of(vec![many(1, 10)], limits);
    let nothing = "select count(*) from (select a.x + b.x as x from v a, v b limit 400000) a \
                   join (select a.x - b.x as x from v a, v b limit 400000) b on a.x < b.x - 10";
    run(async {
        let found = outcome(&engine, &format!("{} {nothing}", values(1000))).await;
        assert_eq!(found, "sql.time");
        assert_eq!(count(&engine, "select count(*) from s").await, 10);
    });
}

#[test]
fn a_step_of_a_flow_is_bounded_for_each_batch() {
    let rows = 8000_i64;
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    let compile = |text: &str, limits| {
        busbar_sql::BatchQuery::compile_within(&batch.schema(), text, limits).unwrap()
    };
    let limits = BatchLimits {
        time_max: Duration::from_secs(3),
        ..BatchLimits::default()
    };
    for text in [
        "select a.n, b.n as m from input a, input b",
        "select count(*) from input a, input b, input c",
        "select a.n from input a, input b, input c where a.n + b.n + c.n < 0",
    ] {
        let mut query = compile(text, limits);
        // Both times: a failed run leaves nothing behind.
        for _ in 0..2 {
            let error = query.execute(&batch).unwrap_err();
            // What counts only needs time.
            let wanted = match text.contains("count") {
                true => "sql.batch-time",
                false => "sql.batch-memory",
            };
            assert_eq!(error.code(), wanted, "{text}");
            assert_eq!(error.class(), busbar_event::Class::Configuration);
            let one = query.execute(&batch.slice(0, 1)).unwrap();
            assert!(one.num_rows() <= 1, "{text}");
        }
    }
    let short = BatchLimits {
        time_max: Duration::from_millis(500),
        ..limits
    };
    // No machine compares 512 thousand million pairs in that time. None of them
    // fits, so the join emits no batch before its end.
    let mut slow = compile(
        "select count(*) from input c \
         join (select a.n + b.n as n from input a, input b) d on c.n < d.n - 100000",
        short,
    );
    assert_eq!(slow.execute(&batch).unwrap_err().code(), "sql.batch-time");
    // The time begins anew with each batch.
    assert_eq!(slow.execute(&batch.slice(0, 10)).unwrap().num_rows(), 1);
}
