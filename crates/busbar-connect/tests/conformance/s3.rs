//! What `s3` does beside what all sinks and sources do.

use std::io::{Read as _, Write as _};
use std::path::Path;

use busbar_connector::{Polling, Resume, Sink, Source};
use busbar_event::Class;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::s3_peer::{ListLie, S3Peer};
use crate::sink_context;
use crate::sinks::{by, delivery};
use crate::subjects::numbered;
use crate::world::{PATIENCE, next_batch, source_of, spec};

async fn sink(peer: &S3Peer) -> Box<dyn Sink> {
    let spec = spec(&peer.connection("write: { prefix: 'a/ü/' }"));
    let registry = busbar_connect::registry();
    let connector = registry.get("s3").expect("registered");
    let sink = connector.sink(&spec, sink_context(Path::new("/"))).await;
    sink.expect("it opens")
}

const PRODUCER: &str = "flow:f:in:0:0:to";
const FOLDER: &str = "a/ü/flow/f/in/0/0/to/";

fn key(from: u64, attempt: u32) -> String {
    format!("{FOLDER}{from:020}-{attempt:010}.ndjson")
}

/// Also where one list does not hold all objects, and objects of others stand beside.
#[test]
fn the_last_object_is_found_among_many() {
    let peer = S3Peer::new();
    Runtime::new().expect("a runtime").block_on(async {
        let mut sink = sink(&peer).await;
        peer.store.lock().page = Some(2);
        let mut positions = vec![1, 5, 1_000, u64::MAX];
        while let Some(greatest) = positions.last().copied() {
            peer.store.lock().all.clear();
            let mut from = 0;
            for position in &positions {
                for attempt in 0..3 {
                    peer.put_marked(&key(from, attempt), from);
                }
                peer.put_marked(&key(from, 3), *position);
                from = *position;
            }
            peer.put(&format!("{FOLDER}to/{:020}.ndjson", u64::MAX), "");
            peer.put("a/ü/flow/f/other.ndjson", "");
            let found = sink.position(PRODUCER).await.expect("it answers");
            assert_eq!(found, Some(greatest));
            positions.pop();
        }
        peer.store.lock().all.clear();
        assert_eq!(sink.position(PRODUCER).await.unwrap(), None);
        // A flow that starts often, and writes nothing.
        for _ in 0..5 {
            assert_eq!(sink.position(PRODUCER).await.unwrap(), None);
        }
    });
    let most = peer.requests().len();
    assert!(most < 5 * 160, "{most} requests");
}

#[test]
fn a_delivery_is_one_object_and_is_not_written_twice() {
    let peer = S3Peer::new();
    Runtime::new().expect("a runtime").block_on(async {
        let mut first = sink(&peer).await;
        let payloads = ["{\"n\":\n1}", "plain"];
        let rows = by(delivery("t", &payloads, 7), PRODUCER);
        first.write(&rows).await.expect("written");
        let body = peer.store.lock().all.get(&key(0, 1)).cloned();
        let body = body.expect("an object");
        assert_eq!(String::from_utf8_lossy(&body), "{\"n\": 1}\n\"plain\"\n");
        // The batches of an earlier start may have been others: what is behind the position only is new.
        let mut second = sink(&peer).await;
        let again = by(delivery("t", &["\"plain\""], 6), PRODUCER);
        second.write(&again).await.expect("written");
        second.write(&rows).await.expect("written");
    });
    let keys: Vec<_> = peer.store.lock().all.keys().cloned().collect();
    // Each start has an empty one.
    assert_eq!(keys, [key(0, 0), key(0, 1), key(7, 0)]);
    assert_eq!(peer.lines(), ["{\"n\": 1}", "\"plain\""]);
}

/// The process was killed when its last request was on its way. The next one reads its input in other batches.
#[test]
fn a_request_that_outlives_its_process_adds_no_rows() {
    #[derive(Debug, PartialEq)]
    enum Arrives {
        BeforeTheStart,
        AfterTheStart,
        AfterTheWrite,
        Never,
    }
    use Arrives::*;
    for (before, arrives) in [
        (0, BeforeTheStart),
        (0, AfterTheStart),
        (10, AfterTheStart),
        (0, AfterTheWrite),
        (10, AfterTheWrite),
        (10, Never),
    ] {
        let peer = S3Peer::new();
        Runtime::new().expect("a runtime").block_on(async {
            let mut first = sink(&peer).await;
            if before > 0 {
                let rows = delivery("t", &numbered(0..before), before);
                first.write(&by(rows, PRODUCER)).await.expect("written");
            }
            peer.store.lock().slow = true;
            let rows = by(delivery("t", &numbered(before..20), 20), PRODUCER);
            let failed = first.write(&rows).await.expect_err("no answer");
            assert_eq!(failed.class(), Class::Transient);
            drop(first);
            if arrives == BeforeTheStart {
                peer.let_through();
            }
            peer.store.lock().slow = false;
            let mut second = sink(&peer).await;
            let known = second.position(PRODUCER).await.expect("it answers");
            let expected = match arrives {
                BeforeTheStart => 20,
                _ => before,
            };
            assert_eq!(known.unwrap_or(0), expected);
            if arrives == AfterTheStart {
                peer.let_through();
            }
            let rows = delivery("t", &numbered(expected..30), 30);
            second.write(&by(rows, PRODUCER)).await.expect("written");
            if arrives == AfterTheWrite {
                peer.let_through();
            }
            let rows = delivery("t", &numbered(30..35), 35);
            second.write(&by(rows, PRODUCER)).await.expect("written");
        });
        assert_eq!(peer.lines(), numbered(0..35), "{before} {arrives:?}");
    }
}

/// The answer was lost, or the request arrives with the next one.
#[test]
fn a_delivery_that_comes_again_is_there_once() {
    for arrives in [true, false] {
        let peer = S3Peer::new();
        Runtime::new().expect("a runtime").block_on(async {
            let mut sink = sink(&peer).await;
            peer.store.lock().slow = true;
            let rows = by(delivery("t", &numbered(0..10), 10), PRODUCER);
            sink.write(&rows).await.expect_err("no answer");
            if arrives {
                peer.let_through();
            }
            peer.store.lock().slow = false;
            sink.write(&rows).await.expect("written");
            peer.let_through();
            let rows = by(delivery("t", &numbered(10..20), 20), PRODUCER);
            sink.write(&rows).await.expect("written");
        });
        assert_eq!(peer.lines(), numbered(0..20), "{arrives}");
    }
}

/// A new version of a flow asks how far the one that runs is, and may not come to run.
#[test]
fn who_asks_for_the_position_does_not_stop_who_writes() {
    let peer = S3Peer::new();
    Runtime::new().expect("a runtime").block_on(async {
        let mut first = sink(&peer).await;
        let mut second = sink(&peer).await;
        for from in [0, 10, 20] {
            let rows = delivery("t", &numbered(from..from + 10), from + 10);
            first.write(&by(rows, PRODUCER)).await.expect("written");
            let known = second.position(PRODUCER).await.expect("it answers");
            assert_eq!(known, Some(from + 10));
        }
        let rows = by(delivery("t", &numbered(30..40), 40), PRODUCER);
        second.write(&rows).await.expect("written");
    });
    assert_eq!(peer.lines(), numbered(0..40));
}

#[test]
fn two_writers_of_the_same_objects_are_told() {
    let peer = S3Peer::new();
    Runtime::new().expect("a runtime").block_on(async {
        let mut first = sink(&peer).await;
        let mut second = sink(&peer).await;
        for (sink, position) in [(&mut first, 10), (&mut second, 20)] {
            let rows = by(delivery("t", &numbered(0..1), position), PRODUCER);
            sink.write(&rows).await.expect("written");
        }
        let rows = by(delivery("t", &numbered(1..2), 30), PRODUCER);
        let refused = first.write(&rows).await.expect_err("it is taken");
        assert_eq!(
            (refused.class(), refused.code()),
            (Class::Configuration, "s3.taken")
        );
    });
}

#[test]
fn a_service_or_an_object_that_cannot_keep_rows_once_is_refused() {
    let peer = S3Peer::new();
    let refused = |code: &'static str| {
        let rows = by(delivery("t", &numbered(0..1), 10), PRODUCER);
        Runtime::new().expect("a runtime").block_on(async {
            let refused = sink(&peer).await.write(&rows).await.expect_err(code);
            assert_eq!(
                (refused.class(), refused.code()),
                (Class::Configuration, code)
            );
        });
    };
    peer.store.lock().careless = true;
    refused("s3.no-conditions");
    peer.store.lock().careless = false;
    peer.store.lock().marks.clear();
    refused("s3.no-position");
    assert_eq!(peer.lines(), [""; 0]);
}

/// The search for the last object, and the reading of one after the other, come to an end whatever the service lists.
#[test]
fn lists_that_are_not_what_was_asked_for_are_refused() {
    let peer = S3Peer::new();
    for position in 0..5 {
        peer.put_marked(&key(position, 0), position + 1);
    }
    peer.put("in/1", "{}\n");
    peer.put("in/2", "{}\n");
    peer.put("z", "");
    peer.store.lock().page = Some(2);
    Runtime::new().expect("a runtime").block_on(async {
        for (lie, code) in [
            (ListLie::FromTheStart, "s3.list-order"),
            (ListLie::Descending, "s3.list-order"),
            (ListLie::AnyPrefix, "s3.list-prefix"),
            (ListLie::EmptyAndMore, "s3.list-empty"),
        ] {
            peer.store.lock().list_lie = Some(lie);
            let asked = peer.requests().len();
            let refused = async { sink(&peer).await.position(PRODUCER).await };
            let refused = timeout(PATIENCE, refused).await.expect("an end");
            let refused = refused.expect_err(code);
            assert_eq!(
                (refused.class(), refused.code()),
                (Class::Configuration, code)
            );
            let message = refused.message(busbar_event::Language::En);
            assert!(message.contains(" bucket b "), "{message}");
            let mut reading = source(&peer, Resume::default()).await;
            let refused = loop {
                assert!(peer.requests().len() < asked + 20, "{lie:?}");
                let read = timeout(PATIENCE, next_batch(reading.as_mut())).await;
                match read.expect("an end") {
                    Ok(read) => assert!(read.is_some(), "{lie:?}"),
                    Err(refused) => break refused,
                }
            };
            assert_eq!(refused.code(), code);
            assert!(peer.requests().len() < asked + 20, "{lie:?}");
        }
    });
}

/// Objects are there, each under the name that the next one is to have, and no list has one of them.
#[test]
fn objects_that_no_list_has_are_not_passed_without_end() {
    let peer = S3Peer::new();
    for attempt in 0..300 {
        peer.put_marked(&key(0, attempt), 0);
    }
    peer.store.lock().list_lie = Some(ListLie::Empty);
    let runtime = Runtime::new().expect("a runtime");
    let refused = runtime.block_on(async { sink(&peer).await.position(PRODUCER).await });
    assert_eq!(refused.expect_err("no end").code(), "s3.always-there");
}

async fn source(peer: &S3Peer, resume: Resume) -> Box<dyn Source> {
    source_of(&peer.connection("read: { prefix: in/ }"), resume).await
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
        while let Some(next) = next_batch(reading.as_mut()).await.expect("it is read") {
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
        let first = next_batch(reading.as_mut())
            .await
            .unwrap()
            .expect("a batch");
        assert_eq!(first.batch.rows(), 3);
        peer.put("in/1", &line.repeat(5));
        let failed = next_batch(reading.as_mut())
            .await
            .expect_err("it has changed");
        assert_eq!(
            (failed.class(), failed.code()),
            (Class::Permanent, "s3.changed")
        );
        let next = next_batch(reading.as_mut())
            .await
            .unwrap()
            .expect("a batch");
        assert_eq!(next.batch.payloads().value(0), b"behind");
    });
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

#[test]
fn compressed_objects_are_read_line_by_line() {
    let peer = S3Peer::new();
    let long = "x".repeat(3 << 20);
    let put = |key: &str, body: Vec<u8>| {
        peer.store.lock().all.insert(key.to_owned(), body);
    };
    // Members that follow each other, the first of which ends within a line.
    let members = [
        format!("{long}\n{long}\r\n{}", &long[1..]),
        "y\nlast".to_owned(),
    ];
    put("in/1.gz", members.map(|text| gzip(&text)).concat());
    put("in/2.gz", gzip(&numbered(0..2).join("\n")));
    let whole = gzip(&numbered(0..1_000).join("\n"));
    put("in/3.gz", whole[..whole.len() - 1].to_vec());
    put("in/4.gz", b"plain\n".to_vec());
    put("in/5", b"behind".to_vec());
    Runtime::new().expect("a runtime").block_on(async {
        for again in [true, false] {
            let (mut lengths, mut failed) = (Vec::new(), Vec::new());
            let mut reading = source(&peer, Resume::default()).await;
            loop {
                let next = match next_batch(reading.as_mut()).await {
                    Ok(None) => break,
                    Ok(Some(next)) => next,
                    Err(error) => {
                        assert_eq!(error.class(), Class::Permanent, "{error}");
                        failed.push(error.code());
                        continue;
                    }
                };
                let payloads = next.batch.payloads();
                lengths.extend((0..next.batch.rows()).map(|row| payloads.value(row).len()));
                if again {
                    // A start after each batch goes on behind it.
                    reading = source(&peer, resumed(&next)).await;
                }
            }
            assert_eq!(lengths, [3 << 20, 3 << 20, 3 << 20, 4, 7, 7, 6]);
            assert_eq!(failed, ["s3.gzip", "s3.gzip"]);
        }
    });
}

#[test]
fn a_compressed_line_without_an_end_is_not_kept_in_memory() {
    let peer = S3Peer::new();
    let body = gzip(&"x".repeat(64 << 20));
    assert!(body.len() < 100_000);
    peer.store.lock().all.insert("in/1.gz".to_owned(), body);
    Runtime::new().expect("a runtime").block_on(async {
        let mut reading = source(&peer, Resume::default()).await;
        let refused = next_batch(reading.as_mut()).await.expect_err("too long");
        assert_eq!(refused.code(), "s3.line-long");
    });
}

#[test]
fn deliveries_are_compressed_where_that_is_asked_for() {
    let peer = S3Peer::new();
    let connect = async |more: &str| {
        let spec = spec(&peer.connection(&format!("write: {{ prefix: out/{more} }}")));
        let registry = busbar_connect::registry();
        let connector = registry.get("s3").expect("registered");
        let sink = connector.sink(&spec, sink_context(Path::new("/"))).await;
        sink.expect("it opens")
    };
    Runtime::new().expect("a runtime").block_on(async {
        let mut sink = connect(", compression: gzip").await;
        let rows = delivery("t", &numbered(0..500), 500);
        for _ in 0..2 {
            sink.write(&rows).await.expect("written");
        }
        let mut again = connect(", compression: gzip").await;
        let position = again.position(&rows.producer).await.expect("it answers");
        assert_eq!(position, Some(500));
        let refused = connect("").await.position(&rows.producer).await;
        assert_eq!(
            refused.expect_err("compressed").code(),
            "s3.other-compression"
        );
    });
    let store = peer.store.lock();
    let mut lines = String::new();
    for (key, body) in &store.all {
        assert!(key.ends_with(".ndjson.gz"), "{key}");
        if !body.is_empty() {
            let mut decoder = flate2::read::MultiGzDecoder::new(body.as_slice());
            decoder.read_to_string(&mut lines).expect("gzip");
        }
    }
    assert_eq!(lines.lines().collect::<Vec<_>>(), numbered(0..500));
}
