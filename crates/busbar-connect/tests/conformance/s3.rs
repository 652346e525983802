//! What `s3` does beside what all sinks and sources do.

use std::path::Path;
use std::sync::Arc;

use busbar_connector::{Polled, Polling, Resume, Sink, Source, SourceContext};
use busbar_event::{Class, Error};
use tokio::runtime::Runtime;

use crate::s3_peer::S3Peer;
use crate::sink_context;
use crate::sinks::{by, delivery};
use crate::subjects::numbered;
use crate::world::spec;

async fn sink(peer: &S3Peer) -> Box<dyn Sink> {
    let spec = spec(&peer.connection("write: { prefix: 'a/ü/' }"));
    let registry = busbar_connect::registry();
    let connector = registry.get("s3").expect("registered");
    let sink = connector.sink(&spec, sink_context(Path::new("/"))).await;
    sink.expect("it opens")
}

/// Also where one list does not hold all objects, and objects of others stand beside.
#[test]
fn the_greatest_position_is_found_among_many_objects() {
    let peer = S3Peer::new();
    let folder = "a/ü/flow/f/in/";
    peer.store.lock().page = Some(2);
    Runtime::new().expect("a runtime").block_on(async {
        let mut sink = sink(&peer).await;
        assert_eq!(sink.position("flow:f:in").await.unwrap(), None);
        let mut positions = vec![0, 1, 5, 6, 7, 1_000, 1_001, u64::MAX - 1, u64::MAX];
        while let Some(greatest) = positions.last().copied() {
            peer.store.lock().all.clear();
            for position in &positions {
                peer.put(&format!("{folder}{position:020}.ndjson"), "");
            }
            peer.put(&format!("{folder}to/{:020}.ndjson", u64::MAX), "");
            peer.put("a/ü/flow/f/other.ndjson", "");
            let found = sink.position("flow:f:in").await.expect("it answers");
            assert_eq!(found, Some(greatest));
            positions.pop();
        }
    });
    let most = peer.requests().len();
    assert!(most < 9 * 140, "{most} requests");
}

#[test]
fn a_delivery_is_one_object_and_is_not_written_twice() {
    let peer = S3Peer::new();
    let key = "a/ü/flow/f/in/0/00000000000000000007.ndjson";
    Runtime::new().expect("a runtime").block_on(async {
        let mut first = sink(&peer).await;
        let payloads = ["{\"n\":\n1}", "plain"];
        let rows = by(delivery("t", &payloads, 7), "flow:f:in:0");
        first.write(&rows).await.expect("written");
        let body = peer.store.lock().all.get(key).cloned().expect("an object");
        assert_eq!(String::from_utf8_lossy(&body), "{\"n\": 1}\n\"plain\"\n");
        // The batches of an earlier start may have been others: what is behind the position only is new.
        let mut second = sink(&peer).await;
        let again = by(delivery("t", &["\"plain\""], 6), "flow:f:in:0");
        second.write(&again).await.expect("written");
        second.write(&rows).await.expect("written");
    });
    let keys: Vec<_> = peer.store.lock().all.keys().cloned().collect();
    assert_eq!(keys, [key]);
    let puts = peer.requests();
    assert_eq!(
        puts.iter()
            .filter(|request| request.method == "PUT")
            .count(),
        1
    );
}

async fn source(peer: &S3Peer, resume: Resume) -> Box<dyn Source> {
    let spec = spec(&peer.connection("read: { prefix: in/ }"));
    let registry = busbar_connect::registry();
    let connector = registry.get("s3").expect("registered");
    let context = SourceContext {
        name: "x".into(),
        project_dir: Path::new("/").into(),
        clock: Arc::new(busbar_log::SystemClock),
        resume,
    };
    connector.source(&spec, context).await.expect("it opens")
}

/// The next batch, or none where there is nothing new.
async fn batch(source: &mut dyn Source) -> Result<Option<Polling>, Error> {
    match source.poll().await? {
        Polled::Batch(polling) => Ok(Some(polling)),
        _ => Ok(None),
    }
}

fn resumed(polling: &Polling) -> Resume {
    let mut resume = Resume::default();
    let position = polling.position.last().expect("a position");
    resume.positions.insert(String::new(), position);
    resume.notes.insert(String::new(), polling.note.clone());
    resume
}

#[test]
fn objects_are_read_line_by_line_in_the_order_of_their_keys() {
    let peer = S3Peer::new();
    peer.store.lock().page = Some(2);
    let long = "x".repeat(3 << 20);
    peer.put("in/1", &format!("{long}\r\n\n{long}\nlast"));
    peer.put("in/2", "");
    peer.put("in/3", "\n\n");
    peer.put("in/4", &numbered(0..2).join("\n"));
    peer.put("other", "no");
    Runtime::new().expect("a runtime").block_on(async {
        let mut texts = Vec::new();
        let mut reading = source(&peer, Resume::default()).await;
        while let Some(next) = batch(reading.as_mut()).await.expect("it is read") {
            let payloads = next.batch.payloads();
            for row in 0..next.batch.rows() {
                texts.push(String::from_utf8_lossy(payloads.value(row)).into_owned());
            }
            // A start after each batch goes on behind it.
            reading = source(&peer, resumed(&next)).await;
        }
        let lengths: Vec<_> = texts.iter().map(String::len).collect();
        assert_eq!(lengths, [3 << 20, 3 << 20, 4, 7, 7]);
    });
}

/// Lines of the old object and of the new one would be mixed.
#[test]
fn an_object_that_changes_while_it_is_read_is_not_read_on() {
    let peer = S3Peer::new();
    let line = format!("{}\n", "x".repeat(1 << 20));
    peer.put("in/1", &line.repeat(6));
    peer.put("in/2", "behind");
    Runtime::new().expect("a runtime").block_on(async {
        let mut reading = source(&peer, Resume::default()).await;
        let first = batch(reading.as_mut()).await.unwrap().expect("a batch");
        assert_eq!(first.batch.rows(), 3);
        peer.put("in/1", &line.repeat(5));
        let failed = batch(reading.as_mut()).await.expect_err("it has changed");
        assert_eq!(
            (failed.class(), failed.code()),
            (Class::Permanent, "s3.changed")
        );
        let next = batch(reading.as_mut()).await.unwrap().expect("a batch");
        assert_eq!(next.batch.payloads().value(0), b"behind");
    });
}
