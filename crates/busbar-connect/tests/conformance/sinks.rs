//! What every sink must do.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use busbar_connector::deliver;
use busbar_connector::{Delivery, Guarantee, Sink, Written};
use busbar_event::{Batch, Body, Class, Envelope, Error};
use tokio::runtime::Runtime;

use crate::sink_context;
use crate::subjects::{Subject, Taker, numbered, subjects};
use crate::world::{now, spec};

pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, false),
        Field::new("note", DataType::Utf8, true),
    ]))
}

/// Rows whose payloads are given; their columns are a number and the payload as text.
pub fn delivery(topic: &str, payloads: &[impl AsRef<[u8]>], position: u64) -> Delivery {
    let topics = StringArray::from(vec![topic; payloads.len()]);
    let body = BinaryArray::from_iter_values(payloads.iter().map(AsRef::as_ref));
    let envelope = Envelope::new(&topics, vec![now(); payloads.len()]);
    let events = Batch::from_columns(envelope, Body::Payload(body)).expect("a batch");
    let texts = payloads
        .iter()
        .map(|p| String::from_utf8_lossy(p.as_ref()).into_owned());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..payloads.len() as i64)),
        Arc::new(StringArray::from_iter_values(texts)),
    ];
    Delivery {
        events,
        rows: RecordBatch::try_new(schema(), columns).expect("rows"),
        producer: "flow:f:in:0:0:to".into(),
        position,
        first: 0,
        sources: None,
    }
}

pub fn by(mut delivery: Delivery, producer: &str) -> Delivery {
    delivery.producer = producer.into();
    delivery
}

pub async fn open(row: &Subject, connection: &str, folder: &Path) -> Result<Box<dyn Sink>, Error> {
    row.connector()
        .sink(&spec(connection), sink_context(folder))
        .await
}

struct Tried {
    row: Subject,
    taker: Box<dyn Taker>,
    folder: tempfile::TempDir,
    connection: String,
    runtime: Runtime,
}

impl Tried {
    fn open(&self) -> Box<dyn Sink> {
        let opening = open(&self.row, &self.connection, self.folder.path());
        self.runtime.block_on(opening).expect("it opens")
    }
    fn write(&self, sink: &mut Box<dyn Sink>, delivery: &Delivery) -> Result<Written, Error> {
        self.runtime.block_on(sink.write(delivery))
    }
    fn exactly_once(&self) -> bool {
        self.row.connector().guarantee() == Guarantee::ExactlyOnce
    }
}

fn each(test: impl Fn(&mut Tried)) {
    let mut tested = 0;
    for row in subjects() {
        let Some(taker) = row.taker else { continue };
        eprintln!("-- {}", row.kind);
        let folder = tempfile::tempdir().expect("a folder");
        let taker = taker();
        let connection = taker.connection(folder.path());
        test(&mut Tried {
            row,
            taker,
            connection,
            folder,
            runtime: Runtime::new().expect("a runtime"),
        });
        tested += 1;
    }
    assert!(tested >= 3);
}

#[test]
fn what_is_written_is_there_in_order() {
    each(|tried| {
        let mut sink = tried.open();
        for from in (0..1000).step_by(250) {
            let rows = numbered(from..from + 250);
            let written = tried.write(&mut sink, &delivery("rows", &rows, from + 250));
            assert!(written.expect("it is written").rejected.is_empty());
            assert_eq!(
                tried.taker.rows(),
                numbered(0..from + 250),
                "{}",
                tried.row.kind
            );
        }
        tried.runtime.block_on(sink.close()).expect("it closes");
    });
}

#[test]
fn a_row_that_is_refused_holds_no_other_up() {
    each(|tried| {
        let mut sink = tried.open();
        let bad = tried.taker.refuse("poison");
        let mut rows: Vec<Vec<u8>> = numbered(0..20)
            .into_iter()
            .map(String::into_bytes)
            .collect();
        rows[3].clone_from(&bad);
        rows[17].clone_from(&bad);
        let whole = delivery("rows", &rows, 20);
        // A peer that hangs up instead of saying why is asked a few times for each row.
        let mut left = 20;
        let wait = |error| {
            left -= 1;
            std::future::ready(if left > 0 { Ok(()) } else { Err(error) })
        };
        let outcome = tried.runtime.block_on(deliver(sink.as_mut(), &whole, wait));
        let outcome = outcome.expect("the others are written");
        let at: Vec<_> = outcome.rejected.iter().map(|(row, _)| *row).collect();
        assert_eq!(at, [3, 17], "{}", tried.row.kind);
        for (_, why) in &outcome.rejected {
            assert_eq!(why.class(), Class::Permanent, "{why}");
        }
        if tried.exactly_once() {
            // The process died before it noted them: they are named once more.
            drop(sink);
            sink = tried.open();
            let again = tried.write(&mut sink, &whole).expect("it is known");
            let again: Vec<_> = again.rejected.iter().map(|(row, _)| *row).collect();
            assert_eq!(again, [3, 17], "{}", tried.row.kind);
        }
        let good: Vec<_> = numbered(0..20);
        let good: Vec<_> = (0..20)
            .filter(|n| ![3, 17].contains(n))
            .map(|n| good[n].clone())
            .collect();
        let mut there = tried.taker.rows();
        if !tried.exactly_once() {
            // A peer that hung up took its last acknowledgements along.
            let mut seen = std::collections::BTreeSet::new();
            there.retain(|row| seen.insert(row.clone()));
        }
        assert_eq!(there, good, "{}", tried.row.kind);
        // And the next ones go on.
        let more = tried.write(&mut sink, &delivery("rows", &numbered(20..30), 30));
        assert!(more.expect("written").rejected.is_empty());
        assert!(tried.taker.rows().ends_with(&numbered(20..30)));
    });
}

#[test]
fn an_outside_that_is_away_is_tried_again_until_it_is_back() {
    each(|tried| {
        let mut sink = tried.open();
        tried
            .write(&mut sink, &delivery("rows", &numbered(0..10), 10))
            .expect("written");
        tried.taker.go_away();
        let rows = delivery("rows", &numbered(10..20), 20);
        for _ in 0..2 {
            let failed = tried.write(&mut sink, &rows).expect_err("nobody is there");
            assert_eq!(
                failed.class(),
                Class::Transient,
                "{} {failed:?}",
                tried.row.kind
            );
            assert!(!failed.args().is_empty(), "{failed:?} does not say what");
        }
        tried.taker.come_back();
        tried.write(&mut sink, &rows).expect("it is back");
        assert_eq!(tried.taker.rows(), numbered(0..20), "{}", tried.row.kind);
    });
}

#[test]
fn after_a_crash_rows_come_as_often_as_is_promised() {
    each(|tried| {
        let mut sink = tried.open();
        tried
            .write(&mut sink, &delivery("rows", &numbered(0..10), 10))
            .expect("written");
        // Written, and the writer died before it could note it.
        drop(sink);
        let mut sink = tried.open();
        let producer = "flow:f:in:0:0:to";
        let known = tried
            .runtime
            .block_on(sink.position(producer))
            .expect("it answers");
        assert_eq!(
            known,
            tried.exactly_once().then_some(10),
            "{}",
            tried.row.kind
        );
        tried
            .write(&mut sink, &delivery("rows", &numbered(0..10), 10))
            .expect("written");
        tried
            .write(&mut sink, &delivery("rows", &numbered(10..20), 20))
            .expect("written");
        let rows = tried.taker.rows();
        let once = numbered(0..20);
        match tried.exactly_once() {
            true => assert_eq!(rows, once),
            false => assert_eq!(rows, [&once[..10], &once].concat(), "{}", tried.row.kind),
        }
    });
}

/// A flow has a sink of its own for each partition, and several flows may write to one connection.
#[test]
fn several_writers_do_not_disturb_each_other() {
    each(|tried| {
        let mut sinks: Vec<_> = (0..4).map(|_| tried.open()).collect();
        for round in 0..10u64 {
            let writes: Vec<_> = sinks
                .iter_mut()
                .enumerate()
                .map(|(writer, sink)| {
                    let from = writer as u64 * 1000 + round * 10;
                    let rows = delivery("rows", &numbered(from..from + 10), round + 1);
                    let rows = by(rows, &format!("writer-{writer}"));
                    async move { sink.write(&rows).await.map(drop) }
                })
                .collect();
            tried.runtime.block_on(async {
                for written in futures::future::join_all(writes).await {
                    written.unwrap_or_else(|why| panic!("{} {why:?}", tried.row.kind));
                }
            });
        }
        let rows = tried.taker.rows();
        assert_eq!(rows.len(), 400, "{}", tried.row.kind);
        for writer in 0..4u64 {
            let own = numbered(writer * 1000..writer * 1000 + 100);
            let there: Vec<_> = rows
                .iter()
                .filter(|row| own.contains(row))
                .cloned()
                .collect();
            assert_eq!(there, own, "{}", tried.row.kind);
        }
    });
}

/// The future is dropped in the middle, as when a flow is cut off, and the rows come again.
#[test]
fn a_write_that_is_given_up_tears_nothing() {
    each(|tried| {
        let mut sink = tried.open();
        for round in 0..20u64 {
            let rows = delivery("rows", &numbered(round * 100..round * 100 + 100), round + 1);
            tried.runtime.block_on(async {
                let patience = std::time::Duration::from_micros(round * 200);
                let _ = tokio::time::timeout(patience, sink.write(&rows)).await;
                sink.write(&rows).await.expect("written");
            });
        }
        let rows = tried.taker.rows();
        let mut distinct = rows.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), 2000, "{}", tried.row.kind);
        if tried.exactly_once() {
            assert_eq!(rows, numbered(0..2000));
        }
    });
}
