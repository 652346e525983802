use std::path::Path;

use super::*;
use crate::clock::ManualClock;
use crate::log::{Driver, Log};
use crate::options::LogOptions;
use crate::sim::{Random, SimDisk};

fn open(disk: &SimDisk) -> (Log, Driver) {
    let options = LogOptions {
        reserve_bytes: 0,
        ..LogOptions::default()
    };
    Log::open_driven(
        Arc::new(disk.clone()),
        Path::new("/data"),
        options,
        Arc::new(ManualClock::default()),
    )
    .unwrap()
}

fn put(key: &str, value: impl Into<Vec<u8>>) -> Change {
    Change::Put(
        Bytes::copy_from_slice(key.as_bytes()),
        Bytes::from(value.into()),
    )
}

#[test]
fn what_was_applied_is_there_after_a_crash() {
    let disk = SimDisk::new(1);
    {
        let (log, mut driver) = open(&disk);
        let store = log.store("sessions").unwrap();
        store.apply(vec![put("a", "1"), put("b", "2"), put("ab", "3")], None);
        assert_eq!(store.get(b"a"), None, "visible before it is durable");
        driver.drain();
        assert_eq!(store.get(b"a").unwrap(), "1");
        store.apply(vec![Change::Delete(Bytes::from("b")), put("a", "4")], None);
        driver.drain();
    }
    disk.crash();
    let (log, _driver) = open(&disk);
    let store = log.store("sessions").unwrap();
    assert_eq!(store.len(), 2);
    assert_eq!(store.get(b"a").unwrap(), "4");
    let keys = |pairs: Vec<(Bytes, Bytes)>| pairs.into_iter().map(|p| p.0).collect::<Vec<_>>();
    assert_eq!(keys(store.scan(b"a", None, 9)), ["a", "ab"]);
    assert_eq!(keys(store.scan(b"a", Some(b"a"), 9)), ["ab"]);
    assert_eq!(keys(store.scan(b"", None, 1)), ["a"]);
    assert!(store.scan(b"z", None, 9).is_empty());
}

#[test]
fn bounds_are_kept_and_nothing_of_a_refused_change_is_applied() {
    let (log, mut driver) = open(&SimDisk::new(1));
    let store = log.store("s").unwrap();
    let long = Bytes::from(vec![0; STORE_KEY_BYTES_MAX + 1]);
    let refused = Arc::new(Mutex::new(None));
    let slot = refused.clone();
    let changes = vec![put("a", "1"), Change::Put(long, Bytes::new())];
    store.apply(changes, Some(Box::new(move |r| *slot.lock() = Some(r))));
    assert!(matches!(
        *refused.lock(),
        Some(Err(LogError::Refused { .. }))
    ));
    driver.drain();
    assert!(store.is_empty());
    log.shutdown();
    driver.drain();
    let slot = refused.clone();
    store.apply(
        vec![put("a", "1")],
        Some(Box::new(move |r| *slot.lock() = Some(r))),
    );
    assert!(matches!(*refused.lock(), Some(Err(LogError::Closed))));
    assert!(store.inner.in_flight.lock().is_empty());
}

#[test]
fn compaction_bounds_the_journal_and_loses_nothing_at_any_crash() {
    for seed in 0..4 {
        let disk = SimDisk::new(seed);
        let mut random = Random::new(seed + 100);
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let (mut log, mut driver) = open(&disk);
        let mut store = log.store("s").unwrap();
        let mut largest = 0;
        // Some are set once and live on in the oldest segment.
        for n in 0..5 {
            let (key, value) = (format!("still-{n}"), vec![n; 100]);
            model.insert(key.clone().into_bytes(), value.clone());
            store.apply(vec![put(&key, value)], None);
        }
        for round in 0..700u32 {
            let mut changes = Vec::new();
            for _ in 0..4 {
                let key = format!("key-{}", random.below(40)).into_bytes();
                if random.below(8) == 0 {
                    model.remove(&key);
                    changes.push(Change::Delete(Bytes::from(key)));
                } else {
                    let value = vec![round as u8; 30_000 + random.below(10_000) as usize];
                    model.insert(key.clone(), value.clone());
                    changes.push(Change::Put(Bytes::from(key), Bytes::from(value)));
                }
            }
            store.apply(changes, None);
            // Moves meet changes of the same keys that are on their way.
            driver.keep();
            driver.drain();
            driver.keep();
            driver.drain();
            largest = largest.max(store.partition().bytes());
            if random.below(60) == 0 {
                drop((store, log, driver));
                disk.crash();
                (log, driver) = open(&disk);
                store = log.store("s").unwrap();
            }
        }
        let all: BTreeMap<Vec<u8>, Vec<u8>> = store
            .scan(b"", None, usize::MAX)
            .into_iter()
            .map(|(k, v)| (k.to_vec(), v.to_vec()))
            .collect();
        assert!(all == model, "seed {seed}");
        assert!(store.partition().start() > 0);
        assert!(largest < 40 << 20, "the journal grew to {largest}");
        assert!(store.inner.in_flight.lock().is_empty());
    }
}

#[test]
fn a_hostile_body_is_refused() {
    for body in [
        &[1u8][..],
        &[1, 255, 255, 255, 255, 255, 255, 255, 255],
        &[3; 9],
        &[9, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let body = Bytes::copy_from_slice(body);
        assert!(decode(&body).any(|change| change.is_err()));
    }
}
