//! The engine beyond single cases: bounds, cancelling, what is skipped without being read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::common::*;
use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use busbar_event::Batch;
use busbar_event::format::FieldType;
use busbar_sql::{
    BatchQuery, BoundParameter, Diagnostic, Engine, Predicate, Projection, QueryLimits,
    QueryOptions, Relation, StreamRelation, check_query_with,
};
use proptest::prelude::*;

pub fn many(batches: usize, rows: usize) -> Vec<Batch> {
    (0..batches)
        .map(|batch_number| {
            let payloads: Vec<String> = (0..rows)
                .map(|row| format!(r#"{{"site":"s{}","level_mm":{}}}"#, row % 7, row))
                .collect();
            let events: Vec<Event<'_>> = payloads
                .iter()
                .enumerate()
                .map(|(row, payload)| Event {
                    topic: if batch_number % 2 == 0 {
                        "even/x"
                    } else {
                        "odd/x"
                    },
                    time: NOON + (batch_number * rows + row) as i64,
                    tags: &[],
                    payload,
                })
                .collect();
            batch(&events)
        })
        .collect()
}

pub fn engine_of(partitions: Vec<Vec<Batch>>, limits: QueryLimits) -> (Engine, Arc<Stored>) {
    let stored = Stored {
        partitions,
        ..Stored::default()
    };
    engine_over(stored, limits)
}

pub fn engine_over(stored: Stored, limits: QueryLimits) -> (Engine, Arc<Stored>) {
    let stored = Arc::new(stored);
    let columns = gauge_columns().schema().unwrap();
    let stream = StreamRelation::new(Arc::clone(&stored) as _, json(), Some(columns));
    let known = Known(BTreeMap::from([("s".to_owned(), Relation::Stream(stream))]));
    (Engine::new(Arc::new(known), limits).unwrap(), stored)
}

pub fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

pub async fn count(engine: &Engine, text: &str) -> i64 {
    let batches = engine.query(text).await.unwrap().collect().await.unwrap();
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

#[test]
fn answers_are_cut_and_say_so() {
    let limits = QueryLimits {
        rows_max: 100,
        ..QueryLimits::default()
    };
    let (engine, _) = engine_of(vec![many(10, 50)], limits);
    run(async {
        let mut answer = engine.query("select * from s").await.unwrap();
        let rows: usize = answer
            .collect()
            .await
            .unwrap()
            .iter()
            .map(|b| b.num_rows())
            .sum();
        assert_eq!((rows, answer.truncated()), (100, true));
        let fewer = QueryOptions {
            rows_max: Some(7),
            ..QueryOptions::default()
        };
        let mut answer = engine.query_with("select * from s", fewer).await.unwrap();
        let rows: usize = answer
            .collect()
            .await
            .unwrap()
            .iter()
            .map(|b| b.num_rows())
            .sum();
        assert_eq!((rows, answer.truncated()), (7, true));
        let mut answer = engine.query("select * from s limit 100").await.unwrap();
        let rows: usize = answer
            .collect()
            .await
            .unwrap()
            .iter()
            .map(|b| b.num_rows())
            .sum();
        assert_eq!((rows, answer.truncated()), (100, false));
    });
    let limits = QueryLimits {
        answer_bytes_max: 20_000,
        ..QueryLimits::default()
    };
    let (engine, _) = engine_of(vec![many(100, 100)], limits);
    run(async {
        let mut answer = engine.query("select * from s").await.unwrap();
        let rows: usize = answer
            .collect()
            .await
            .unwrap()
            .iter()
            .map(|b| b.num_rows())
            .sum();
        assert!(rows < 2000 && answer.truncated(), "{rows}");
    });
}

#[test]
fn memory_time_and_turns_are_bounded() {
    let limits = QueryLimits {
        memory_bytes_max: 100_000,
        ..QueryLimits::default()
    };
    let (engine, _) = engine_of(vec![many(20, 1000)], limits);
    run(async {
        let mut answer = engine
            .query("select level_mm, time, count(*) from s group by 1, 2")
            .await
            .unwrap();
        assert_eq!(answer.collect().await.unwrap_err().code(), "sql.memory");
    });
    let limits = QueryLimits {
        time_max: Duration::from_secs(3),
        queries_max: 1,
        ..QueryLimits::default()
    };
    let (engine, _) = engine_of(vec![many(200, 1000)], limits);
    let slow = "select count(*) from s a, s b where a.level_mm + b.level_mm > 3";
    run(async {
        let begun = Instant::now();
        let mut answer = engine.query(slow).await.unwrap();
        assert_eq!(answer.collect().await.unwrap_err().code(), "sql.time");
        assert!(begun.elapsed() < PATIENCE);
        drop(answer);
        // One that is held but not fetched keeps the only turn until its time is over.
        let held = engine.query("select * from s").await.unwrap();
        assert_eq!(count(&engine, "select count(*) from s").await, 200_000);
        drop(held);
    });
    let limits = QueryLimits {
        queries_max: 1,
        ..QueryLimits::default()
    };
    let (engine, _) = engine_of(vec![many(200, 1000)], limits);
    run(async {
        let held = engine.query(slow).await.unwrap();
        let busy = engine.query("select 1").await.unwrap_err();
        assert_eq!(busy.code(), "sql.busy");
        assert_eq!(busy.error().class(), busbar_event::Class::Transient);
        drop(held);
        // Dropped is cancelled: its turn comes back.
        assert_eq!(count(&engine, "select count(*) from s").await, 200_000);
    });
}

#[test]
fn what_is_not_wanted_is_not_read() {
    let (engine, stored) = engine_of(vec![many(100, 1000)], QueryLimits::default());
    let read = |text: &str| {
        stored.read.store(0, Ordering::Relaxed);
        let rows = run(async {
            let mut answer = engine.query(text).await.unwrap();
            answer
                .collect()
                .await
                .unwrap()
                .iter()
                .map(|b| b.num_rows())
                .sum::<usize>()
        });
        (rows, stored.read.load(Ordering::Relaxed))
    };
    let from = "2026-03-01T00:00:00.095000Z";
    assert_eq!(
        read(&format!("select level_mm from s where time >= '{from}'")),
        (5000, 5)
    );
    // All that there is is older.
    assert_eq!(
        read("select level_mm from s where time > now() - interval '5 minutes'"),
        (0, 0)
    );
    assert_eq!(
        read("select level_mm from s where time > timestamp '2026-03-01T00:00:00.097999Z'"),
        (2000, 2)
    );
    let (rows, batches) = read("select level_mm from s limit 3");
    assert_eq!(rows, 3);
    assert!(
        batches < 30,
        "{batches} of 100 batches were read for three events"
    );
    assert_eq!(read("select count(level_mm) from s"), (1, 100));
    let (rows, batches) = read("select level_mm from s");
    assert_eq!(rows, QueryLimits::default().rows_max);
    assert!(
        batches < 30,
        "{batches} of 100 batches were read for an answer of ten"
    );
    // From the end, and no further than needed.
    let (rows, batches) = read("select time, level_mm from s order by time desc limit 10");
    assert_eq!(rows, 10);
    assert!(
        batches < 60,
        "{batches} of 100 batches were read for the ten newest events"
    );
    let newest = "select cast(min(level_mm) as bigint) from (select level_mm from s order by time desc limit 10)";
    assert_eq!(run(count(&engine, newest)), 990);
}

async fn times(engine: &Engine, text: &str) -> Vec<i64> {
    let batches = engine.query(text).await.unwrap().collect().await.unwrap();
    let columns = batches.iter().map(|batch| batch.column(0));
    let times = columns.map(|column| column.as_primitive::<TimestampMicrosecondType>().values());
    times.flat_map(|times| times.to_vec()).collect()
}

#[test]
fn newest_first_leaves_nothing_out() {
    let limits = QueryLimits {
        rows_max: 100_000,
        ..QueryLimits::default()
    };
    let (engine, _) = engine_of(vec![many(50, 1000)], limits.clone());
    let found = run(times(&engine, "select time from s order by time desc"));
    let all: Vec<i64> = (0..50_000).rev().map(|n| NOON + n).collect();
    assert!(found == all, "{} events", found.len());
    // What is newest may stand far in front: clocks differ.
    let late = NOON + MINUTE;
    let event = |time| Event {
        topic: "even/x",
        time,
        tags: &[],
        payload: "{}",
    };
    let mut batches = many(40, 1000);
    batches.insert(0, batch(&[event(late + 1), event(late + 2)]));
    batches.push(batch(&[event(late), event(late), event(late)]));
    let (engine, _) = engine_of(vec![batches], limits);
    let found = run(times(
        &engine,
        "select time from s order by time desc limit 3",
    ));
    assert_eq!(found, [late + 2, late + 1, late]);
}

#[test]
fn a_pattern_of_each_row_is_asked_of_that_row() {
    let (engine, _) = engine_of(vec![many(1, 100)], QueryLimits::default());
    let pattern = "('^s' || cast(level_mm % 3 as text) || '$')";
    let pairs = [
        (format!("regexp_like(site, {pattern})"), "="),
        (format!("site ~ {pattern}"), "="),
        (format!("site !~ {pattern}"), "<>"),
        (format!("upper(site) ~* {pattern}"), "="),
        (format!("upper(site) !~* {pattern}"), "<>"),
    ];
    run(async {
        for (condition, operator) in &pairs {
            let same = format!("({condition}) = (level_mm % 7 {operator} level_mm % 3)");
            let text = format!("select count(*) from s where {same}");
            assert_eq!(count(&engine, &text).await, 100, "{condition}");
        }
    });
}

#[test]
fn an_export_has_all_rows() {
    let limits = QueryLimits {
        rows_max: 100,
        answer_bytes_max: 20_000,
        ..QueryLimits::default()
    };
    let (engine, _) = engine_of(vec![many(100, 100)], limits);
    run(async {
        for (rows_max, rows) in [(None, 10_000), (Some(777), 777)] {
            let all = QueryOptions {
                rows_max,
                all_rows: true,
                ..QueryOptions::default()
            };
            let mut answer = engine.query_with("select * from s", all).await.unwrap();
            let batches = answer.collect().await.unwrap();
            let found: usize = batches.iter().map(|batch| batch.num_rows()).sum();
            assert_eq!((found, answer.truncated()), (rows, rows_max.is_some()));
        }
    });
}

#[test]
fn what_a_caller_may_not_ask_about_is_not_listed() {
    let (engine, _) = engine_of(vec![many(1, 10)], QueryLimits::default());
    let ask = async |text: &str| {
        let nothing = QueryOptions {
            relations: Some(Arc::new(Known::default())),
            ..QueryOptions::default()
        };
        let mut answer = engine.query_with(text, nothing).await?;
        let batches = answer.collect().await.unwrap();
        Ok(batches.iter().map(|batch| batch.num_rows()).sum())
    };
    run(async {
        for list in [
            "show tables",
            "select table_name from information_schema.tables",
            "select column_name from information_schema.columns",
        ] {
            assert!(engine.query(list).await.unwrap().next().await.is_some());
            let found: Result<usize, Diagnostic> = ask(list).await;
            assert_eq!(found.unwrap(), 0, "{list}");
        }
        for text in ["select * from s", "describe s", "explain select 1 from s"] {
            let refused = ask(text).await.unwrap_err();
            assert_eq!(refused.code(), "sql.unknown-relation");
            assert_eq!(refused.suggestion(), None, "{text}");
        }
    });
}

#[test]
fn what_cannot_be_read_is_counted() {
    let stored = Stored {
        partitions: vec![many(1, 10), many(1, 10)],
        missing: 7,
        ..Stored::default()
    };
    let (engine, _) = engine_over(stored, QueryLimits::default());
    run(async {
        let mut answer = engine.query("select count(level_mm) from s").await.unwrap();
        answer.collect().await.unwrap();
        assert_eq!((answer.unreadable(), answer.undecodable()), (14, 0));
    });
}

#[test]
fn partitions_are_read_together() {
    let parts = vec![many(3, 10), many(4, 10), vec![], many(1, 5)];
    let (engine, _) = engine_of(parts, QueryLimits::default());
    assert_eq!(run(count(&engine, "select count(*) from s")), 75);
    assert_eq!(
        run(count(
            &engine,
            "select count(*) from s where topic = 'odd/x'"
        )),
        30
    );
    assert_eq!(
        run(count(
            &engine,
            "select count(level_mm) from s where level_mm = 4"
        )),
        8
    );
}

#[test]
fn dropping_the_engine_ends_its_threads_without_waiting() {
    let (engine, _) = engine_of(vec![many(20, 1000)], QueryLimits::default());
    let slow = "select count(*) from s a, s b where a.level_mm + b.level_mm > 3";
    run(async move {
        let begun = Instant::now();
        let mut answer = engine.query(slow).await.unwrap();
        drop(engine);
        assert!(begun.elapsed() < PATIENCE);
        let _ = tokio::time::timeout(Duration::from_millis(50), answer.next()).await;
    });
}

fn conditions() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        (-3i64..80).prop_map(|n| format!("level_mm > {n}")),
        (0..8).prop_map(|n| format!("site = 's{n}'")),
        Just("flowRate is null".to_owned()),
        Just("not ok".to_owned()),
        Just("ok is not false".to_owned()),
        Just("topic like 'even/%'".to_owned()),
        Just("topic_part(topic, 1) <> 'even'".to_owned()),
        (0i64..80).prop_map(|n| format!("time >= to_timestamp_micros({})", NOON + n)),
        Just("level_mm % 2 = 0 and level_mm + 1 < 30".to_owned()),
        Just("tags['a'] is null".to_owned()),
    ];
    atom.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} and {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} or {b})")),
            inner.prop_map(|a| format!("not ({a})")),
        ]
    })
}

fn payloads() -> impl Strategy<Value = Vec<String>> {
    let field = prop_oneof![
        3 => (0..8, -3i64..80).prop_map(|(s, l)| format!(r#"{{"site":"s{s}","level_mm":{l}}}"#)),
        2 => (any::<bool>(), -3i64..80)
            .prop_map(|(ok, l)| format!(r#"{{"ok":{ok},"level_mm":{l},"flowRate":{l}.5}}"#)),
        1 => Just("{}".to_owned()),
        1 => Just("{".to_owned()),
        1 => Just(r#"{"level_mm":"many"}"#.to_owned()),
    ];
    prop::collection::vec(field, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A flow's `where`, `select` and `sql` over batches, and the same SQL over the stored stream, give the
    /// same rows: one language, live and over history.
    #[test]
    fn live_and_stored_give_the_same(
        condition in conditions(),
        payloads in payloads(),
        cut in 1usize..20,
    ) {
        let batches: Vec<Batch> = payloads
            .chunks(cut)
            .enumerate()
            .map(|(number, chunk)| {
                let events: Vec<Event<'_>> = chunk
                    .iter()
                    .enumerate()
                    .map(|(row, payload)| Event {
                        topic: if row % 3 == 0 { "even/x" } else { "odd/x" },
                        time: NOON + (number * cut + row) as i64,
                        tags: &[],
                        payload,
                    })
                    .collect();
                batch(&events)
            })
            .collect();
        let list = "time, site, level_mm * 2 as twice, \"flowRate\", ok, topic";
        let columns = "select topic, key, time, tags, site, level_mm, \"flowRate\", ok from s order by time";
        let (engine, _) = engine_of(vec![batches], QueryLimits::default());
        let (rows, stored) = run(async {
            let mut all = engine.query(columns).await.unwrap();
            let rows = all.collect().await.unwrap();
            let rows = arrow::compute::concat_batches(&all.schema(), &rows).unwrap();
            // All columns are asked for, so that the same events decode.
            let text = format!(
                "select {list} from (select * from s) where ({condition}) \
                 and (site is null or site is not null) and (ok or not ok or ok is null) \
                 and (level_mm is null or level_mm < 1000) order by time"
            );
            let mut answer = engine.query(&text).await.unwrap();
            let batches = answer.collect().await.unwrap();
            (rows, arrow::compute::concat_batches(&answer.schema(), &batches).unwrap())
        });
        // The step `sql` over one batch, and the same over what is stored.
        let asked = |from: &str| format!(
            "select site, count(*) as n, max(level_mm) as most, min(\"flowRate\") as least, \
             count(distinct topic) as topics from {from} where {condition} \
             group by site order by site nulls first"
        );
        let mut step = BatchQuery::compile(&rows.schema(), &asked("input")).unwrap();
        let step = step.execute(&rows).unwrap();
        let history = run(async {
            let text = asked(&format!("({columns}) as s"));
            let mut answer = engine.query(&text).await.unwrap();
            let batches = answer.collect().await.unwrap();
            arrow::compute::concat_batches(&answer.schema(), &batches).unwrap()
        });
        prop_assert_eq!(
            lines(&names(&step.schema()), &[step]),
            lines(&names(&history.schema()), &[history])
        );
        let predicate = Predicate::compile(&rows.schema(), &condition).unwrap();
        let projection = Projection::compile(&rows.schema(), list).unwrap();
        let live = projection.evaluate(&predicate.filter(&rows).unwrap()).unwrap();
        prop_assert_eq!(
            lines(&names(&live.schema()), &[live]),
            lines(&names(&stored.schema()), &[stored])
        );
    }
}

#[test]
fn functions_that_make_much_of_little_are_bounded() {
    let (engine, _) = engine_of(vec![many(1, 100)], QueryLimits::default());
    run(async {
        for query in [
            "select repeat('x', 1000000000)",
            "select length(repeat(site, 1000000000)) from s",
            "select lpad('x', 2000000000)",
            "select rpad(site, 100000000, '水') from s",
            "select length(replace(repeat('x', 1000000), 'x', repeat('y', 1000000)))",
            "select length(regexp_replace(repeat('x', 1000000), 'x', repeat('y', 1000000), 'g'))",
        ] {
            let begun = Instant::now();
            let answer = match engine.query(query).await {
                Ok(mut result) => result.collect().await.map(drop),
                Err(wrong) => Err(wrong.into_error()),
            };
            assert!(answer.is_err(), "{query} was answered");
            assert!(begun.elapsed() < PATIENCE, "{query}");
        }
        for query in [
            "select repeat(site, 3) from s",
            "select lpad(site, 10, '·'), rpad(site, 10) from s",
            "select replace(site, 's', 'site ') from s",
            "select regexp_replace(site, '[0-9]', 'n', 'g') from s",
        ] {
            let mut result = engine.query(query).await.unwrap();
            let rows: usize = result
                .collect()
                .await
                .unwrap()
                .iter()
                .map(|batch| batch.num_rows())
                .sum();
            assert_eq!(rows, 100, "{query}");
        }
    });
}

fn bound(name: &str, field_type: FieldType, value: Option<&str>) -> BoundParameter {
    BoundParameter {
        name: name.to_owned(),
        field_type,
        value: value.map(str::to_owned),
    }
}

#[test]
fn parameters_are_values_and_never_text() {
    use FieldType::{Bool, Float, Int, Json, Text, Time};
    let (engine, _) = engine_of(vec![many(1, 20)], QueryLimits::default());
    let ask = |text: &str, parameters: Vec<BoundParameter>| {
        let options = QueryOptions {
            parameters,
            ..QueryOptions::default()
        };
        run(async {
            let mut result = engine.query_with(text, options).await?;
            let batches = result.collect().await.unwrap();
            let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
            Ok::<_, Diagnostic>(rows)
        })
    };
    for (text, parameter, rows) in [
        ("site = $p", bound("p", Text, Some("s1")), 3),
        // What would end the text and add a condition finds nothing.
        ("site = $p", bound("p", Text, Some("' or '1' = '1")), 0),
        ("site = $p", bound("p", Text, Some("s1' --")), 0),
        ("site = $p", bound("p", Json, Some("s1")), 3),
        ("site = $p", bound("p", Text, None), 0),
        ("$p is null", bound("p", Time, None), 20),
        ("$p is null", bound("p", Float, None), 20),
        ("$p is null or level_mm < $p", bound("p", Int, Some("5")), 5),
        ("level_mm > $p", bound("p", Int, Some("-1")), 20),
        ("level_mm -$p > 10", bound("p", Int, Some("-1")), 10),
        ("level_mm < $p", bound("p", Float, Some("4.5")), 5),
        ("(level_mm < 2) = $p", bound("p", Bool, Some("true")), 2),
        (
            "time < $p",
            bound("p", Time, Some("2026-03-01T00:00:00.000004Z")),
            4,
        ),
        (
            "exists (select 1 where $p = 's1')",
            bound("p", Text, Some("s1")),
            20,
        ),
    ] {
        let text = format!("select * from s where {text}");
        assert_eq!(ask(&text, vec![parameter]).unwrap(), rows, "{text}");
    }
    let limit = bound("n", Int, Some("7"));
    assert_eq!(
        ask("select * from s limit $n", vec![limit.clone()]).unwrap(),
        7
    );
    let unknown = ask("select $m from s", vec![limit]).unwrap_err();
    assert_eq!(
        (unknown.code(), unknown.span()),
        ("sql.parameter-unknown", 7..9)
    );
    let known = [bound("n", Int, None)];
    assert!(check_query_with("select $n from s", &known).is_ok());
    for (text, parameters, code) in [
        ("select $m from s", &known[..], "sql.parameter-unknown"),
        ("select $m from s", &[], "sql.parameters-none"),
        ("show tables", &known[..], "sql.query-only"),
        ("explain select $n from s", &known[..], "sql.query-only"),
    ] {
        let wrong = check_query_with(text, parameters).unwrap_err();
        assert_eq!(wrong.code(), code, "{text}");
    }
}
