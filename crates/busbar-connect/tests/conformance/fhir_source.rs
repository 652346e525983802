//! What a source of `fhir` does beside what all sources do.

use busbar_connector::{Polled, Polling, Resume, Source};
use busbar_event::{Class, Error};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::fhir_peer::FhirPeer;
use crate::world::{next_batch, source_of};

async fn source(peer: &FhirPeer, read: &str, resume: Resume) -> Box<dyn Source> {
    let text = format!(
        "fhir: {{ url: '{}', read: {{ settle: 0s, {read} }} }}\n",
        peer.url()
    );
    source_of(&text, resume).await
}

/// What comes until there is nothing new: key, change and version of each event.
async fn all(source: &mut dyn Source) -> Result<Vec<String>, Error> {
    let mut seen = Vec::new();
    while let Some(polling) = next_batch(source).await? {
        seen.extend(shown(&polling));
    }
    Ok(seen)
}

/// The same from where reading was, with a source of its own: the clock of the test's server does not go on by itself.
async fn follow(peer: &FhirPeer, read: &str, resume: &mut Resume) -> Vec<String> {
    let mut reading = source(peer, read, resume.clone()).await;
    let mut seen = Vec::new();
    while let Some(polling) = next_batch(reading.as_mut()).await.expect("it reads") {
        seen.extend(shown(&polling));
        *resume = resumed(&polling);
    }
    seen
}

fn shown(polling: &Polling) -> Vec<String> {
    let events = &polling.batch;
    let rows = (0..events.rows()).map(|row| {
        let tags: Vec<_> = events
            .tags(row)
            .map(|(_, value)| value.to_owned())
            .collect();
        format!("{} {}", events.key(row).unwrap_or("-"), tags.join(" "))
    });
    rows.collect()
}

fn resumed(polling: &Polling) -> Resume {
    let mut resume = Resume::default();
    let position = polling.position.last().expect("a position");
    resume.positions.insert(String::new(), position);
    resume.notes.insert(String::new(), polling.note.clone());
    resume
}

fn set(peer: &FhirPeer, seconds: i64) {
    peer.store.lock().now = Some(seconds);
}

#[test]
fn a_search_goes_on_by_the_clock_of_the_server() {
    let peer = FhirPeer::new();
    for n in 0..25 {
        set(&peer, 100 + n);
        peer.store
            .lock()
            .put(&format!("Patient/p{n}"), Some(json!({ "n": n })));
    }
    // The last one is of a second that is not over.
    Runtime::new().expect("a runtime").block_on(async {
        let mut reading = source(&peer, "types: [Patient]", Resume::default()).await;
        let one = next_batch(reading.as_mut())
            .await
            .unwrap()
            .expect("a batch");
        assert_eq!(one.batch.rows(), 10);
        assert_eq!(one.batch.topic(0), "x/Patient");
        // After a crash only those of the last instant come again.
        let mut resume = resumed(&one);
        let rest = follow(&peer, "types: [Patient]", &mut resume).await;
        assert_eq!((rest.len(), rest[0].as_str()), (15, "p9 read 1"));
        set(&peer, 200);
        peer.store
            .lock()
            .put("Patient/p3", Some(json!({ "n": 33 })));
        set(&peer, 201);
        let next = follow(&peer, "types: [Patient]", &mut resume).await;
        assert_eq!(next, ["p24 read 1", "p3 read 2"]);
        set(&peer, 202);
        let next = follow(&peer, "types: [Patient]", &mut resume).await;
        assert_eq!(next, [""; 0]);
    });
}

/// Many resources have changed within one second, and a page ends in the middle of them.
#[test]
fn resources_of_one_instant_are_not_missed_after_a_restart() {
    let peer = FhirPeer::new();
    set(&peer, 100);
    for n in 0..25 {
        let place = format!("Patient/p{n}");
        peer.store.lock().put(&place, Some(json!({ "n": n })));
    }
    set(&peer, 200);
    Runtime::new().expect("a runtime").block_on(async {
        for pages in 1..=3 {
            let mut reading = source(&peer, "types: [Patient]", Resume::default()).await;
            let (mut seen, mut resume) = (Vec::new(), Resume::default());
            for _ in 0..pages {
                let one = next_batch(reading.as_mut())
                    .await
                    .unwrap()
                    .expect("a batch");
                seen.extend(shown(&one));
                resume = resumed(&one);
            }
            seen.extend(follow(&peer, "types: [Patient]", &mut resume).await);
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), 25, "behind {pages} pages");
        }
    });
}

/// The server counts the rows of a page from the first one it finds, and one that changes is not found any more. Of one instant
/// are all, one more than a page, or one; and the node is killed behind the change, or not.
#[test]
fn no_resource_is_missed_when_another_changes_between_pages() {
    let mut expected: Vec<String> = (0..25).map(|n| format!("p{n} read 1")).collect();
    expected.sort();
    let cases = [25, 11, 1]
        .into_iter()
        .flat_map(|together| (1..12).map(move |polls| (together, polls)))
        .flat_map(|(together, polls)| [(together, polls, false), (together, polls, true)]);
    for (together, polls, mut is_killed) in cases {
        let case = format!("{together} {polls} {is_killed}");
        let peer = FhirPeer::new();
        for n in 0..25 {
            set(&peer, 100 + n / together);
            let place = format!("Patient/p{n}");
            peer.store.lock().put(&place, Some(json!({ "n": n })));
        }
        set(&peer, 200);
        let read = "types: [Patient]";
        let mut seen = Runtime::new().expect("a runtime").block_on(async {
            let mut reading = source(&peer, read, Resume::default()).await;
            let (mut seen, mut polled) = (Vec::new(), 0);
            loop {
                if polled == polls {
                    let changed = Some(json!({ "n": 100 }));
                    peer.store.lock().put("Patient/p3", changed);
                }
                polled += 1;
                match reading.poll().await.expect("it reads") {
                    Polled::Batch(polling) => {
                        seen.extend(shown(&polling));
                        if is_killed && polled > polls {
                            is_killed = false;
                            reading = source(&peer, read, resumed(&polling)).await;
                        }
                    }
                    Polled::Idle(wait) if wait.is_zero() => {}
                    _ => return seen,
                }
            }
        });
        seen.sort();
        if case.ends_with("true") {
            seen.dedup();
        }
        assert_eq!(seen, expected, "{case}");
    }
}

#[test]
fn a_history_brings_every_version_and_deletions_oldest_first() {
    for silent in [false, true] {
        let peer = FhirPeer::new();
        peer.store.lock().silent_deletions = silent;
        peer.store.lock().page = 2;
        for (second, place, is_there) in [
            (10, "a", true),
            (11, "b", true),
            (12, "a", true),
            (13, "b", false),
            (14, "c", true),
        ] {
            set(&peer, second);
            let resource = is_there.then(|| json!({ "s": second }));
            peer.store.lock().put(&format!("Patient/{place}"), resource);
        }
        set(&peer, 20);
        Runtime::new().expect("a runtime").block_on(async {
            let mut reading =
                source(&peer, "types: [Patient], by: history", Resume::default()).await;
            let first = next_batch(reading.as_mut())
                .await
                .unwrap()
                .expect("a batch");
            assert_eq!(
                shown(&first),
                [
                    "a insert 1",
                    "b insert 1",
                    "a update 2",
                    "b delete 2",
                    "c insert 1"
                ]
            );
            let deleted: Value =
                serde_json::from_slice(first.batch.payloads().value(3)).expect("JSON");
            assert_eq!(
                (&deleted["resourceType"], &deleted["id"]),
                (&json!("Patient"), &json!("b"))
            );
            let by = "types: [Patient], by: history";
            let mut resume = resumed(&first);
            assert_eq!(follow(&peer, by, &mut resume).await, [""; 0]);
            set(&peer, 30);
            peer.store.lock().put("Patient/c", None);
            set(&peer, 31);
            assert_eq!(follow(&peer, by, &mut resume).await, ["c delete 2"]);
        });
    }
}

/// What is on the pages behind the first one would be missed without a word.
#[test]
fn a_history_whose_pages_repeat_is_refused() {
    let peer = FhirPeer::new();
    peer.store.lock().page = 2;
    for n in 0..5 {
        set(&peer, 10 + n);
        let place = format!("Patient/p{n}");
        peer.store.lock().put(&place, Some(json!({})));
    }
    set(&peer, 20);
    Runtime::new().expect("a runtime").block_on(async {
        for repeats in [false, true] {
            peer.store.lock().repeats = repeats;
            let by = "types: [Patient], by: history";
            let mut reading = source(&peer, by, Resume::default()).await;
            let read = next_batch(reading.as_mut()).await;
            match repeats {
                false => assert_eq!(shown(&read.unwrap().expect("a batch")).len(), 5),
                true => assert_eq!(read.expect_err("refused").code(), "fhir.pages-repeat"),
            }
        }
    });
}

#[test]
fn a_server_that_ignores_parameters_brings_nothing_twice() {
    let peer = FhirPeer::new();
    peer.store.lock().ignores = true;
    set(&peer, 10);
    peer.store.lock().put("Patient/a", Some(json!({})));
    set(&peer, 20);
    Runtime::new().expect("a runtime").block_on(async {
        for by in ["search", "history"] {
            let read = format!("types: [Patient], by: {by}");
            let mut resume = Resume::default();
            assert_eq!(follow(&peer, &read, &mut resume).await.len(), 1);
            let now = peer.store.lock().now.expect("a time");
            set(&peer, now + 5);
            assert_eq!(follow(&peer, &read, &mut resume).await, [""; 0], "{by}");
        }
        // Nor is anything missed where there are several pages.
        for n in 0..25 {
            let place = format!("Patient/p{n}");
            peer.store.lock().put(&place, Some(json!({})));
            set(&peer, 100 + n);
        }
        set(&peer, 200);
        let mut seen = follow(&peer, "types: [Patient]", &mut Resume::default()).await;
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 26, "{seen:?}");
    });
}

#[test]
fn a_search_that_is_forgotten_is_begun_again() {
    let peer = FhirPeer::new();
    // Of one instant, so that the server's links are followed.
    set(&peer, 100);
    for n in 0..30 {
        peer.store
            .lock()
            .put(&format!("Patient/p{n}"), Some(json!({})));
    }
    set(&peer, 200);
    peer.store.lock().pages_left = Some(1);
    Runtime::new().expect("a runtime").block_on(async {
        let mut reading = source(&peer, "types: [Patient]", Resume::default()).await;
        let mut seen = Vec::new();
        let failed = loop {
            match next_batch(reading.as_mut()).await {
                Ok(polling) => seen.extend(shown(&polling.expect("a batch"))),
                Err(error) => break error,
            }
        };
        assert_eq!(
            (failed.class(), failed.code()),
            (Class::Transient, "fhir.search-expired")
        );
        assert_eq!(seen.len(), 20);
        seen.extend(all(reading.as_mut()).await.unwrap());
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 30);
    });
}

/// The credentials of the connection are for its server.
#[test]
fn links_to_another_server_are_not_followed() {
    for link in [
        "http://127.0.0.1:9/fhir",
        "//127.0.0.1:9/fhir",
        "http://127.0.0.1:1.evil.example/",
    ] {
        let peer = FhirPeer::new();
        for n in 0..20 {
            set(&peer, 100 + n);
            peer.store
                .lock()
                .put(&format!("Patient/p{n}"), Some(json!({})));
        }
        set(&peer, 200);
        peer.store.lock().links_to = Some(link.to_owned());
        Runtime::new().expect("a runtime").block_on(async {
            let mut reading = source(&peer, "types: [Patient]", Resume::default()).await;
            let refused = next_batch(reading.as_mut())
                .await
                .expect_err("it leads elsewhere");
            assert_eq!(
                (refused.class(), refused.code()),
                (Class::Configuration, "fhir.next-elsewhere")
            );
        });
    }
}
