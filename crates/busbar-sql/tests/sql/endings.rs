//! A query whose rows end before they are complete always says so.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use busbar_event::{Class, Error};
use busbar_sql::{Engine, Events, Piece, QueryLimits, Relation, Relations, StreamRelation};

use crate::common::{Known, gauge_columns, json};
use crate::engine::{engine_of, many, run};

/// Events of which reading fails after the first batches.
#[derive(Debug)]
struct Failing {
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Panic,
    Error,
}

impl Events for Failing {
    fn partitions(&self) -> usize {
        1
    }

    fn range(&self, _partition: usize) -> Range<u64> {
        0..1_000_000
    }

    fn offset_at_time(&self, _partition: usize, _time: i64) -> Result<u64, Error> {
        Ok(0)
    }

    fn read(
        &self,
        _partition: usize,
        _range: Range<u64>,
    ) -> Box<dyn Iterator<Item = Result<Piece, Error>> + Send> {
        let how = self.how;
        let good = many(3, 10_000)
            .into_iter()
            .enumerate()
            .map(|(i, batch)| Ok(Piece::Events(i as u64 * batch.rows() as u64, batch)));
        Box::new(good.chain(std::iter::once_with(move || match how {
            How::Panic => panic!("as the test wants it"),
            How::Error => Err(Error::new(Class::Transient, "log.read")),
        })))
    }
}

fn engine(how: How) -> Engine {
    let columns = gauge_columns().schema().expect("a schema");
    let events = Arc::new(Failing { how });
    let relation = Relation::Stream(StreamRelation::new(events, json(), Some(columns)));
    let known = Known(BTreeMap::from([("s".to_owned(), relation)]));
    let limits = QueryLimits {
        rows_max: 1_000_000,
        ..QueryLimits::default()
    };
    Engine::new(Arc::new(known), limits).expect("threads")
}

#[test]
fn a_panic_or_an_error_in_a_scan_is_the_last_item_of_the_result() {
    for (how, code) in [(How::Panic, "sql.panic"), (How::Error, "log.read")] {
        let engine = engine(how);
        run(async {
            for text in [
                "select level_mm from s",
                "select count(level_mm) from s",
                "select site, max(level_mm) from s group by site",
                "select level_mm from s order by level_mm",
                "select a.level_mm from s a join (select 1 as one) b on a.level_mm = b.one",
                "select level_mm from s where level_mm < 0",
            ] {
                let mut answer = engine.query(text).await.expect("it can be planned");
                assert_eq!(answer.collect().await.unwrap_err().code(), code, "{text}");
                assert!(answer.next().await.is_none(), "one error is enough");
            }
        });
    }
}

struct Broken;

impl Relations for Broken {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn relation(&self, _name: &str) -> Result<Option<Relation>, Error> {
        panic!("as the test wants it")
    }
}

#[test]
fn a_panic_while_planning_is_an_error_of_the_query() {
    let engine = Engine::new(Arc::new(Broken), QueryLimits::default()).expect("threads");
    run(async {
        let error = engine.query("select * from s").await.unwrap_err();
        assert_eq!(error.code(), "sql.panic");
        assert!(engine.query("select 1").await.is_ok(), "the engine goes on");
    });
}

#[test]
fn the_end_of_the_time_is_told_to_a_reader_who_comes_late() {
    let limits = QueryLimits {
        time_max: Duration::from_millis(200),
        rows_max: 1_000_000,
        ..QueryLimits::default()
    };
    let (engine, _) = engine_of(vec![many(200, 1000)], limits);
    run(async {
        let mut answer = engine.query("select * from s").await.unwrap();
        // The first batches wait in the channel, which is full.
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(answer.collect().await.unwrap_err().code(), "sql.time");
    });
}

#[test]
fn an_engine_that_goes_away_leaves_no_result_that_looks_complete() {
    let (engine, _) = engine_of(vec![many(200, 1000)], QueryLimits::default());
    run(async {
        let slow = "select count(*) from s a, s b where a.level_mm + b.level_mm > 3";
        let mut answer = engine.query(slow).await.unwrap();
        drop(engine);
        assert!(answer.collect().await.is_err());
    });
}
