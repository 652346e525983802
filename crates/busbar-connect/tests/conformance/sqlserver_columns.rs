//! Captures of SQL Server that take each other's place, and columns that are others than before, with a server that a test
//! scripts.

use std::path::Path;
use std::time::Instant;

use busbar_connector::{Polled, Resume, SourceContext};
use busbar_event::Error;
use serde_json::json;

use crate::captured_peer::captured_peer;
use crate::source_context;
use crate::sqlserver::{connection, followed, open, open_with, payloads};
use crate::world::PATIENCE;

/// The old capture is read up to the place where the new one begins.
#[test]
fn a_second_capture_takes_over_where_it_begins() {
    let (_peer, table, text) = followed(1, "snapshot: false, every: 20ms");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let found = runtime.block_on(async {
        let mut source = open(&text).await.expect("it opens");
        {
            let mut there = table.lock();
            there.commit(&[(2, Some("b"))]);
            there.second = Some(2);
            there.commit(&[(3, Some("c"))]);
            there.commit(&[(3, Some("d"))]);
            there.capture(2);
        }
        let mut found = payloads(source.as_mut(), 1).await.expect("a row");
        // Read again, the table has two captures.
        drop(source);
        let mut resume = Resume::default();
        resume.positions.insert("stream".into(), lsn(2));
        let context = SourceContext {
            resume,
            ..source_context(Path::new("/"))
        };
        let mut source = open_with(&text, context).await.expect("it opens");
        table.lock().capture(0);
        found.extend(payloads(source.as_mut(), 2).await.expect("rows"));
        found
    });
    assert_eq!(
        found[0],
        json!({ "change": "insert", "id": 2, "name": "b" })
    );
    assert_eq!(
        found[1],
        json!({ "change": "insert", "id": 3, "name": "c", "note": "new" })
    );
    assert_eq!(
        found[2]["before"],
        json!({ "id": 3, "name": "c", "note": "new" })
    );
}

/// The position of a place in the log of the stand-in.
fn lsn(transaction: u64) -> u64 {
    0x20 << 38 | transaction << 12 | 1
}

/// The columns change while the table is followed: the event `schema` says so before the first row that has the new ones.
#[test]
fn other_columns_are_told_before_the_first_row_with_them() {
    let (_peer, table, text) = followed(1, "snapshot: false, every: 20ms");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let found = runtime.block_on(async {
        let mut source = open(&text).await.expect("it opens");
        let mut found = Vec::new();
        table.lock().commit(&[(2, Some("b"))]);
        table.lock().capture(0);
        found.extend(payloads(source.as_mut(), 1).await.expect("a row"));
        table.lock().second = Some(2);
        // The source looks for new captures from time to time: rows come from the old one until then.
        for id in 3.. {
            {
                let mut there = table.lock();
                there.commit(&[(id, Some("c"))]);
                there.capture(0);
            }
            found.extend(payloads(source.as_mut(), 1).await.expect("a row"));
            if found.iter().any(|event| event["note"] == "new") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        found
    });
    let at = found.iter().position(|event| event["note"] == "new");
    let at = at.expect("a row of the new capture");
    assert_eq!(found[at - 1]["change"], "schema", "{found:?}");
    let columns = found[at - 1]["columns"].as_array().expect("columns");
    let columns = columns
        .iter()
        .map(|column| column["name"].as_str().unwrap_or_default());
    assert_eq!(columns.collect::<Vec<_>>(), ["id", "name", "note"]);
}

/// Payloads until there are so many, by a source that goes on where the one before it was, and where it is then.
async fn gone_on(text: &str, resume: &mut Resume, count: usize) -> Vec<serde_json::Value> {
    let context = SourceContext {
        resume: resume.clone(),
        ..source_context(Path::new("/"))
    };
    let mut source = open_with(text, context).await.expect("it opens");
    let mut found = Vec::new();
    let mut rests = 0;
    let until = Instant::now() + PATIENCE;
    // What is known beside the rows comes behind them.
    while found.len() < count || rests < 2 {
        assert!(Instant::now() < until, "{found:?}");
        match source.poll().await.expect("it reads") {
            Polled::Batch(polling) => {
                let all = polling.batch.payloads();
                let rows = 0..polling.batch.rows();
                found.extend(rows.map(|row| {
                    serde_json::from_slice::<serde_json::Value>(all.value(row)).expect("JSON")
                }));
                let part = polling.part.to_string();
                let position = polling.position.last().expect("a position");
                resume.positions.insert(part.clone(), position);
                resume.notes.insert(part, polling.note);
            }
            Polled::Idle(wait) => {
                rests += usize::from(found.len() >= count);
                tokio::time::sleep(wait).await;
            }
            Polled::End => panic!("it has ended"),
        }
    }
    found
}

/// The columns change while nothing runs: the event `schema` says so before the first row with them, and only then.
#[test]
fn columns_that_changed_while_nothing_ran_are_told() {
    for by in ["cdc", "tracking"] {
        let (_peer, table, text) = followed(1, &format!("by: {by}, every: 20ms"));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let mut resume = Resume::default();
        let found = runtime.block_on(async {
            let first = gone_on(&text, &mut resume, 1).await;
            assert_eq!(first, [json!({ "change": "read", "id": 1, "name": "a" })]);
            {
                let mut there = table.lock();
                there.wider = true;
                there.second = Some(1);
                there.first_is_gone = true;
                there.commit(&[(2, Some("b"))]);
                there.capture(0);
            }
            // Where it is not committed it comes again.
            let before = resume.clone();
            let found = gone_on(&text, &mut resume, 2).await;
            resume = before;
            assert_eq!(gone_on(&text, &mut resume, 2).await, found, "{by}");
            table.lock().commit(&[(3, Some("c"))]);
            table.lock().capture(0);
            let next = gone_on(&text, &mut resume, 1).await;
            assert_eq!((next.len(), &next[0]["id"]), (1, &json!(3)), "{next:?}");
            found
        });
        assert_eq!(found[0]["change"], "schema", "{by}: {found:?}");
        let columns = found[0]["columns"].as_array().expect("columns").iter();
        let columns = columns.map(|column| column["name"].as_str().unwrap_or_default());
        assert_eq!(columns.collect::<Vec<_>>(), ["id", "name", "note"]);
        assert_eq!(
            (&found[1]["id"], &found[1]["note"]),
            (&json!(2), &json!("new"))
        );
    }
}

/// The old capture is removed as soon as there is a new one: it is looked for at once, and its columns are told.
#[test]
fn a_capture_that_is_removed_gives_way_to_the_new_one() {
    let (_peer, table, text) = followed(1, "snapshot: false, every: 20ms");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let found = runtime.block_on(async {
        let mut source = open(&text).await?;
        table.lock().commit(&[(2, Some("b"))]);
        table.lock().capture(0);
        let mut found = payloads(source.as_mut(), 1).await?;
        {
            let mut there = table.lock();
            there.second = Some(2);
            there.first_is_gone = true;
            there.commit(&[(3, Some("c"))]);
            there.capture(0);
        }
        found.extend(payloads(source.as_mut(), 2).await?);
        Ok::<_, Error>(found)
    });
    let found = found.expect("it goes on in the new one");
    assert_eq!(found[0]["id"], 2);
    assert_eq!(found[1]["change"], "schema", "{found:?}");
    assert_eq!(
        found[2],
        json!({ "change": "insert", "id": 3, "name": "c", "note": "new" })
    );
}

/// Changes between the last position and the beginning of the new capture were in the one that was removed.
#[test]
fn a_capture_that_is_removed_too_early_is_told() {
    let (_peer, table, text) = followed(1, "snapshot: false, every: 20ms");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let error = runtime.block_on(async {
        let mut source = open(&text).await.expect("it opens");
        {
            let mut there = table.lock();
            there.commit(&[(2, Some("b"))]);
            there.commit(&[(3, Some("c"))]);
            there.second = Some(3);
            there.first_is_gone = true;
            there.commit(&[(4, Some("d"))]);
            there.capture(0);
        }
        payloads(source.as_mut(), 1).await.expect_err("one is lost")
    });
    assert_eq!(error.code(), "sqlserver.position-lost");
}

/// The names stay, a type is another one.
#[test]
fn other_types_are_told_before_the_first_row_with_them() {
    let (peer, table) = captured_peer();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    table.lock().commit(&[(1, Some("a"))]);
    table.lock().capture(0);
    table.lock().retyped = true;
    let text = connection(
        peer.port,
        "follow: { tables: [t], snapshot: false, every: 20ms }",
    );
    let found = runtime.block_on(async {
        let mut source = open(&text).await.expect("it opens");
        table.lock().commit(&[(2, Some("b"))]);
        table.lock().capture(0);
        let mut found = payloads(source.as_mut(), 1).await.expect("a row");
        {
            let mut there = table.lock();
            there.second = Some(2);
            there.first_is_gone = true;
            there.commit(&[(3, Some("c"))]);
            there.capture(0);
        }
        found.extend(payloads(source.as_mut(), 2).await.expect("rows"));
        found
    });
    assert_eq!(found[1]["change"], "schema", "{found:?}");
    assert_eq!(found[1]["columns"][1]["type"], "varbinary(8000)");
    assert_eq!(found[2]["name"], "0x63");
}
