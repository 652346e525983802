use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;

use bytes::Bytes;

use super::*;
use crate::append::Append;
use crate::clock::{ManualClock, SystemClock};
use crate::disk::OsDisk;
use crate::error::Class;
use crate::frame::Frame;
use crate::limits::PAGE_CACHE_BYTES;
use crate::sim::SimDisk;
use crate::testing::{append, commit, open, options, read_all, small};

#[test]
fn frames_come_back_in_order_aligned_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for cache_bytes in [0, 1 << 20] {
        let log = Log::open(Arc::new(OsDisk), dir.path(), small(), Arc::new(SystemClock)).unwrap();
        let options = PartitionOptions {
            cache_bytes,
            ..options()
        };
        let partition = log.partition("streams/meter/0", options).unwrap();
        let first = partition.end();
        let (send, receive) = mpsc::channel();
        for i in 0..200u32 {
            let send = send.clone();
            partition.append(Append {
                producers: vec![(Arc::from("p"), first + u64::from(i) + 1)],
                done: Some(Box::new(move |r| send.send(r).unwrap())),
                ..append(vec![i as u8; 1000 + i as usize], 3)
            });
        }
        for i in 0..200 {
            let landed = receive.recv().unwrap().unwrap();
            assert_eq!(landed.base, first + i * 3);
        }
        assert_eq!(partition.end(), first + 600);
        let frames = read_all(&partition);
        assert_eq!(frames.len() as u64 * 3, partition.end());
        for (i, frame) in frames.iter().enumerate() {
            assert_eq!(frame.base, i as u64 * 3);
            assert_eq!(frame.attributes, 7);
            assert_eq!(frame.body[..], vec![(i % 200) as u8; 1000 + i % 200]);
            if cache_bytes == 0 {
                assert_eq!(frame.body.as_ptr().align_offset(64), 0);
            }
        }
        // The frame that holds an offset, not only one that begins there.
        assert_eq!(partition.read(first + 100, 1).unwrap()[0].base, first + 99);
        assert!(first == 0 || partition.segments().len() > 1);
        assert_eq!(partition.producer_position("p"), Some(first + 200));
        log.shutdown();
        assert!(matches!(
            partition.read(u64::MAX, 1),
            Err(LogError::Beyond { .. })
        ));
    }
}

#[test]
fn the_folder_has_one_user_and_its_version_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let open = || Log::open(Arc::new(OsDisk), dir.path(), small(), clock.clone());
    let log = open().unwrap();
    match open().err().unwrap() {
        e @ LogError::Locked { pid, .. } => {
            assert_eq!(pid, Some(std::process::id()));
            assert_eq!(e.class(), Class::Configuration);
        }
        other => panic!("{other}"),
    }
    log.shutdown();
    std::fs::write(dir.path().join("VERSION"), "busbar-data 99\n").unwrap();
    match open().err().unwrap() {
        LogError::Version { found, .. } => assert_eq!(found, "99"),
        other => panic!("{other}"),
    }
    std::fs::write(dir.path().join("VERSION"), "busbar-data 1\n").unwrap();
    drop(open().unwrap());
    drop(open().unwrap());
}

#[test]
fn names_cannot_leave_the_folder() {
    let (log, _driver) = open(&SimDisk::new(0), &Arc::default());
    for bad in [
        "", "/a", "a//b", "..", "a/../b", ".x", "a\0b", "LOCK", "a b", "a\\b",
    ] {
        let refused = log.partition(bad, options());
        assert!(matches!(refused, Err(LogError::Name { .. })), "{bad:?}");
    }
    log.partition("streams/电表/0", options()).unwrap();
}

#[test]
fn a_repeated_position_is_acknowledged_and_not_written() {
    let disk = SimDisk::new(1);
    let clock = Arc::default();
    let from = |id: &str, position| Append {
        producers: vec![(Arc::from(id), position)],
        ..append(vec![1; 9000], 1)
    };
    {
        let (log, mut driver) = open(&disk, &clock);
        let p = log.partition("p", options()).unwrap();
        assert!(!commit(&mut driver, &p, from("a", 10)).unwrap().duplicate);
        assert!(commit(&mut driver, &p, from("a", 10)).unwrap().duplicate);
        assert!(commit(&mut driver, &p, from("a", 9)).unwrap().duplicate);
        assert!(!commit(&mut driver, &p, from("b", 1)).unwrap().duplicate);
        // Within one group as well.
        p.append(from("a", 11));
        assert!(commit(&mut driver, &p, from("a", 11)).unwrap().duplicate);
        assert_eq!(p.end(), 3);
        // Over several segments that never mention `a` again.
        for i in 2..40 {
            commit(&mut driver, &p, from("b", i)).unwrap();
        }
        assert!(p.segments().len() > 3);
    }
    disk.crash();
    let (log, mut driver) = open(&disk, &clock);
    let p = log.partition("p", options()).unwrap();
    assert!(commit(&mut driver, &p, from("a", 11)).unwrap().duplicate);
    assert_eq!(p.producer_position("a"), Some(11));
    let mixed = Append {
        producers: vec![(Arc::from("a"), 11), (Arc::from("b"), 99)],
        ..append(vec![1], 1)
    };
    let refused = commit(&mut driver, &p, mixed).unwrap_err();
    assert_eq!(refused.class(), Class::Permanent);
}

#[test]
fn positions_that_are_only_recorded_take_no_rows_away() {
    let disk = SimDisk::new(1);
    let clock = Arc::default();
    let from = |positions: &[(&str, u64)]| Append {
        producers: positions
            .iter()
            .map(|(id, at)| (Arc::from(*id), *at))
            .collect(),
        attributes: crate::RECORDS_ONLY,
        ..append(vec![1; 100], 1)
    };
    {
        let (log, mut driver) = open(&disk, &clock);
        let p = log.partition("p", options()).unwrap();
        for positions in [
            [("a", 5), ("b", 1)],
            [("a", 5), ("b", 2)],
            [("a", 4), ("b", 2)],
        ] {
            assert!(!commit(&mut driver, &p, from(&positions)).unwrap().duplicate);
        }
        assert_eq!((p.end(), p.producer_position("a")), (3, Some(5)));
    }
    disk.crash();
    let (log, _driver) = open(&disk, &clock);
    let p = log.partition("p", options()).unwrap();
    assert_eq!(
        (p.end(), p.producer_position("a"), p.producer_position("b")),
        (3, Some(5), Some(2))
    );
}

#[test]
fn a_full_disk_refuses_and_heals() {
    let disk = SimDisk::new(2);
    let clock: Arc<ManualClock> = Arc::default();
    let (log, mut driver) = open(&disk, &clock);
    let p = log.partition("p", options()).unwrap();
    commit(&mut driver, &p, append(vec![1; 10_000], 1)).unwrap();
    disk.set_capacity(Some(200_000));
    let mut taken = 1;
    let full = loop {
        clock.advance(1_000_000);
        match commit(&mut driver, &p, append(vec![2; 10_000], 1)) {
            Ok(_) => taken += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(full, LogError::Full { .. }), "{full}");
    assert_eq!(full.class(), Class::Transient);
    assert!(taken > 5);
    // Readers go on.
    assert_eq!(read_all(&p).len(), taken);
    for _ in 0..3 {
        clock.advance(1_000_000);
        assert!(commit(&mut driver, &p, append(vec![2; 10_000], 1)).is_err());
    }
    disk.set_capacity(None);
    clock.advance(1_000_000);
    commit(&mut driver, &p, append(vec![3; 10_000], 1)).unwrap();
    drop((log, driver));
    disk.crash();
    let (log, _driver) = open(&disk, &clock);
    let p = log.partition("p", options()).unwrap();
    let frames = read_all(&p);
    assert_eq!(frames.len(), taken + 1);
    assert_eq!(frames[taken].body[..], [3; 10_000]);
}

#[test]
fn a_full_disk_in_the_middle_of_a_write_is_taken_back() {
    let disk = SimDisk::new(5);
    let clock: Arc<ManualClock> = Arc::default();
    let (log, mut driver) = open(&disk, &clock);
    let p = log.partition("p", options()).unwrap();
    commit(&mut driver, &p, append(vec![1; 1000], 1)).unwrap();
    // The space was looked at a moment ago, so only the write itself finds out.
    let used = disk
        .contents(Path::new("/data/p/00000000000000000000.log"))
        .unwrap()
        .len();
    disk.set_capacity(Some(20_000));
    let refused = commit(&mut driver, &p, append(vec![2; 30_000], 1)).unwrap_err();
    assert!(matches!(refused, LogError::Full { .. }), "{refused}");
    let now = disk
        .contents(Path::new("/data/p/00000000000000000000.log"))
        .unwrap()
        .len();
    assert_eq!(used, now, "the half written frame was not taken back");
    disk.set_capacity(None);
    clock.advance(1_000_000);
    let landed = commit(&mut driver, &p, append(vec![3; 100], 1)).unwrap();
    assert_eq!(landed.base, 1);
    assert_eq!(p.segments().len(), 1);
}

#[test]
fn a_failed_sync_closes_the_segment_and_what_it_held_is_not_served() {
    for seed in 0..30 {
        let disk = SimDisk::new(seed);
        let clock: Arc<ManualClock> = Arc::default();
        let (log, mut driver) = open(&disk, &clock);
        let p = log.partition("p", options()).unwrap();
        commit(&mut driver, &p, append(vec![1; 1000], 1)).unwrap();
        disk.fail_syncs(1);
        let failed = commit(&mut driver, &p, append(vec![2; 1000], 1)).unwrap_err();
        assert!(matches!(failed, LogError::Failed { .. }), "{failed}");
        assert_eq!(p.end(), 1);
        let syncs = disk.stats().syncs;
        assert!(commit(&mut driver, &p, append(vec![2; 1000], 1)).is_err());
        assert_eq!(
            disk.stats().syncs,
            syncs,
            "the failed file was synced again"
        );
        clock.advance(1_000_000);
        let landed = commit(&mut driver, &p, append(vec![3; 1000], 1)).unwrap();
        assert_eq!(landed.base, 1);
        drop((log, driver));
        disk.crash();
        let (log, _driver) = open(&disk, &clock);
        let p = log.partition("p", options()).unwrap();
        let bodies: Vec<u8> = read_all(&p).iter().map(|f| f.body[0]).collect();
        assert_eq!(bodies, [1, 3], "seed {seed}");
    }
}

#[test]
fn damage_in_the_middle_is_named_and_skipped_knowingly() {
    for (what, sealed) in [("last segment", false), ("sealed segment", true)] {
        let disk = SimDisk::new(3);
        let clock: Arc<ManualClock> = Arc::default();
        let (log, mut driver) = open(&disk, &clock);
        let p = log.partition("p", options()).unwrap();
        for i in 0..10u8 {
            commit(&mut driver, &p, append(vec![i; 1000], 2)).unwrap();
        }
        if sealed {
            p.roll();
            driver.drain();
            commit(&mut driver, &p, append(vec![10; 1000], 2)).unwrap();
        }
        drop((log, driver));
        disk.kill();
        let file = Path::new("/data/p/00000000000000000000.log");
        let at = 64 + 64 + 4 * (64 + 1024) + 64 + 500;
        disk.corrupt(file, at, &[0xff; 8]).unwrap();
        let (log, mut driver) = open(&disk, &clock);
        let p = log.partition("p", options()).unwrap();
        let mut seen = Vec::new();
        let mut offset = p.start();
        let mut gaps = 0;
        while offset < p.end() {
            match p.read(offset, 100_000) {
                Ok(frames) => {
                    seen.extend(frames.iter().map(|f| f.body[0]));
                    offset = frames.last().unwrap().end();
                }
                Err(LogError::Damaged {
                    from,
                    resume,
                    position,
                    file: named,
                    ..
                }) => {
                    assert_eq!((from, resume), (8, 10), "{what}");
                    assert_eq!(position, 64 + 64 + 4 * (64 + 1024));
                    assert_eq!(named, file);
                    offset = resume;
                    gaps += 1;
                }
                Err(e) => panic!("{what}: {e}"),
            }
        }
        let expected: Vec<u8> = (0..if sealed { 11 } else { 10 })
            .filter(|i| *i != 4)
            .collect();
        assert_eq!(seen, expected, "{what}");
        assert_eq!(gaps, 1);
        assert_eq!(p.damage().len(), 1, "{what}");
        // Reading from behind the damage does not meet it.
        assert_eq!(p.read(11, 1).unwrap()[0].body[0], 5);
        // And the partition goes on, at offsets of its own.
        let end = p.end();
        assert_eq!(
            commit(&mut driver, &p, append(vec![9], 1)).unwrap().base,
            end
        );
        assert!(disk.contents(file).is_ok(), "the damaged file is gone");
    }
}

#[test]
fn the_last_frame_is_damage_too_after_a_clean_end() {
    let disk = SimDisk::new(3);
    let clock: Arc<ManualClock> = Arc::default();
    let (log, mut driver) = open(&disk, &clock);
    let p = log.partition("p", options()).unwrap();
    for i in 0..3u8 {
        commit(&mut driver, &p, append(vec![i; 1000], 1)).unwrap();
    }
    log.shutdown();
    driver.drain();
    drop((log, driver, p));
    disk.corrupt(
        Path::new("/data/p/00000000000000000000.log"),
        64 + 64 + 2 * (64 + 1024) + 70,
        &[0xff],
    )
    .unwrap();
    let (log, _driver) = open(&disk, &clock);
    // It would be found when it is read; the start trusts the index.
    let p = log.partition("p", options()).unwrap();
    assert_eq!(p.end(), 3);
    assert_eq!(p.read(0, 100_000).unwrap().len(), 2);
    let damaged = p.read(2, 1).unwrap_err();
    assert!(
        matches!(
            damaged,
            LogError::Damaged {
                from: 2,
                resume: 3,
                ..
            }
        ),
        "{damaged}"
    );
}

#[test]
fn retention_removes_whole_old_segments() {
    let disk = SimDisk::new(4);
    let clock: Arc<ManualClock> = Arc::default();
    let (log, mut driver) = open(&disk, &clock);
    let hour = 3_600_000_000;
    let p = log
        .partition(
            "p",
            PartitionOptions {
                retention_age: Some(Duration::from_secs(7200)),
                ..options()
            },
        )
        .unwrap();
    for i in 0..10u8 {
        clock.advance(hour);
        commit(&mut driver, &p, append(vec![i; 70_000], 1)).unwrap();
    }
    driver.keep();
    driver.drain();
    // What is certainly older than two hours at ten: a segment ends when the next one begins.
    assert_eq!(p.start(), 6);
    assert!(matches!(p.read(1, 1), Err(LogError::Trimmed { start: 6 })));
    assert_eq!(read_all(&p).len(), 4);
    // A stream that has become silent is emptied as well.
    clock.advance(hour);
    driver.keep();
    driver.drain();
    clock.advance(3 * hour);
    driver.keep();
    driver.drain();
    assert_eq!(p.start(), 10);
    p.set_options(PartitionOptions {
        retention_bytes: Some(200_000),
        ..options()
    });
    for i in 0..10u8 {
        commit(&mut driver, &p, append(vec![i; 70_000], 1)).unwrap();
    }
    driver.keep();
    assert!(p.bytes() <= 200_000, "{}", p.bytes());
    let start = p.start();
    drop((log, driver));
    disk.kill();
    let (log, _driver) = open(&disk, &clock);
    assert_eq!(log.partition("p", options()).unwrap().start(), start);
}

#[test]
fn offsets_are_found_by_time() {
    let disk = SimDisk::new(4);
    let (log, mut driver) = open(&disk, &Arc::default());
    let p = log.partition("p", options()).unwrap();
    for i in 0..100 {
        let times = Append {
            min_time: i * 10,
            max_time: i * 10 + 9,
            ..append(vec![1; 3000], 5)
        };
        commit(&mut driver, &p, times).unwrap();
    }
    for i in 0..100 {
        assert_eq!(p.offset_at_time(i * 10 + 3).unwrap(), i as u64 * 5);
    }
    assert_eq!(p.offset_at_time(i64::MIN).unwrap(), 0);
    assert_eq!(p.offset_at_time(5000).unwrap(), 500);
}

#[test]
fn observers_come_before_readers_and_wakers_after() {
    let disk = SimDisk::new(4);
    let (log, mut driver) = open(&disk, &Arc::default());
    let p = log.partition("p", options()).unwrap();
    let (seen, woken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (s, q) = (seen.clone(), p.clone());
    p.observe(Arc::new(move |frame| {
        assert_eq!(q.end(), frame.base);
        s.fetch_add(1, Ordering::SeqCst);
    }));
    let (w, q) = (woken.clone(), p.clone());
    let guard = p.on_commit(Arc::new(move || {
        assert!(q.end() > 0);
        w.fetch_add(1, Ordering::SeqCst);
    }));
    p.observe(Arc::new(|_| {
        panic!("an observer's panic must not end the commits")
    }));
    commit(&mut driver, &p, append(vec![1], 1)).unwrap();
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    drop(guard);
    commit(&mut driver, &p, append(vec![1], 1)).unwrap();
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[test]
fn a_segment_is_rewritten_in_place() {
    let disk = SimDisk::new(4);
    let clock = Arc::default();
    let (log, mut driver) = open(&disk, &clock);
    let p = log.partition("p", options()).unwrap();
    for i in 0..50u8 {
        let from = Append {
            producers: vec![(Arc::from("p"), u64::from(i) + 1)],
            ..append(vec![i; 100], 2)
        };
        commit(&mut driver, &p, from).unwrap();
    }
    p.roll();
    driver.drain();
    commit(&mut driver, &p, append(vec![99; 10], 1)).unwrap();
    let before = read_all(&p);
    let done = p
        .rewrite(0, 1000, &mut |frames| {
            let mut body = Vec::new();
            for frame in frames {
                body.extend_from_slice(&frame.body);
            }
            Some(crate::partition::Merged {
                body: Bytes::from(body),
                attributes: 1,
            })
        })
        .unwrap();
    assert_eq!(done.frames, (50, 5));
    assert!(done.bytes.1 < done.bytes.0);
    let joined = |frames: &[Frame]| {
        frames
            .iter()
            .flat_map(|f| f.body.to_vec())
            .collect::<Vec<_>>()
    };
    let after = read_all(&p);
    assert_eq!(after.len(), 6);
    assert_eq!(joined(&before), joined(&after));
    assert_eq!(after[1].base, 20);
    assert!(
        p.rewrite(100, 1000, &mut |_| None).is_err(),
        "the active segment"
    );
    drop((log, driver, p));
    disk.crash();
    let (log, mut driver) = open(&disk, &clock);
    let p = log.partition("p", options()).unwrap();
    assert_eq!(joined(&read_all(&p)), joined(&before));
    let again = Append {
        producers: vec![(Arc::from("p"), 50)],
        ..append(vec![1], 1)
    };
    assert!(commit(&mut driver, &p, again).unwrap().duplicate);
}

#[test]
fn durability_memory_is_synced_in_the_background() {
    let disk = SimDisk::new(4);
    let clock: Arc<ManualClock> = Arc::default();
    let (log, mut driver) = open(&disk, &clock);
    let p = log
        .partition(
            "p",
            PartitionOptions {
                durability: Durability::Memory,
                ..options()
            },
        )
        .unwrap();
    commit(&mut driver, &p, append(vec![1; 100], 1)).unwrap();
    let before = disk.stats().syncs;
    commit(&mut driver, &p, append(vec![2; 100], 1)).unwrap();
    assert_eq!(disk.stats().syncs, before);
    clock.advance(200_000);
    driver.drain();
    driver.drain();
    assert_eq!(disk.stats().syncs, before + 1);
    drop((log, driver));
    disk.crash();
    let (log, _driver) = open(&disk, &clock);
    assert_eq!(log.partition("p", options()).unwrap().end(), 2);
}

#[test]
fn a_removed_partition_is_gone_and_can_be_made_again() {
    let disk = SimDisk::new(4);
    let (log, mut driver) = open(&disk, &Arc::default());
    let p = log.partition("a/b", options()).unwrap();
    commit(&mut driver, &p, append(vec![1; 100], 1)).unwrap();
    log.remove_partition("a/b").unwrap();
    assert!(matches!(
        commit(&mut driver, &p, append(vec![1], 1)),
        Err(LogError::Closed)
    ));
    let p = log.partition("a/b", options()).unwrap();
    assert_eq!(p.end(), 0);
    commit(&mut driver, &p, append(vec![1; 100], 1)).unwrap();
}

#[test]
fn an_index_does_not_vouch_for_what_was_not_synced() {
    for seed in 0..12 {
        let disk = SimDisk::new(seed);
        let clock: Arc<ManualClock> = Arc::default();
        let (log, mut driver) = open(&disk, &clock);
        let memory = PartitionOptions {
            durability: Durability::Memory,
            segment_bytes: 64 << 20,
            ..options()
        };
        let p = log.partition("p", memory).unwrap();
        commit(&mut driver, &p, append(vec![1; 17 << 19], 1)).unwrap();
        commit(&mut driver, &p, append(vec![2; 17 << 19], 1)).unwrap();
        let synced = seed % 2 == 0;
        if synced {
            clock.advance(200_000);
            // Written between the background sync and the news of it.
            commit(&mut driver, &p, append(vec![3; 20_000], 1)).unwrap();
            driver.drain();
        }
        drop((log, driver, p));
        // If there is an index by now, it survives.
        if let Ok(index) = disk.open(Path::new("/data/p/00000000000000000000.idx"), true) {
            index.sync().unwrap();
            disk.sync_dir(Path::new("/data/p")).unwrap();
        }
        disk.crash();
        let (log, _driver) = open(&disk, &clock);
        let p = log.partition("p", options()).unwrap();
        assert!(!synced || p.end() >= 2, "seed {seed}");
        assert_eq!(p.damage(), [], "seed {seed}");
        assert_eq!(read_all(&p).len() as u64, p.end());
    }
}

#[test]
fn the_page_cache_forgets_what_is_durable_and_far_behind_and_nothing_else() {
    const BODY: usize = 4 << 20;
    let disk = SimDisk::new(1);
    let (log, mut driver) = open(&disk, &Arc::default());
    let options = PartitionOptions {
        segment_bytes: 100 << 20,
        ..options()
    };
    let p = log.partition("p", options).unwrap();
    let written = |n: u64| n * BODY as u64;
    for n in 1..=60 {
        commit(&mut driver, &p, append(vec![1; BODY], 1)).unwrap();
        let stats = disk.stats();
        assert_eq!(stats.forgotten_dirty, 0, "after {n}");
        // Never within the window, which begins anew with a segment, and never far beyond it.
        // (Headers are forgotten too, and not counted as written.)
        let behind = written(n).saturating_sub(stats.forgotten_bytes);
        assert!(
            behind + BODY as u64 > written(n).min(PAGE_CACHE_BYTES),
            "after {n}"
        );
        assert!(behind <= 3 * PAGE_CACHE_BYTES, "after {n}: {behind}");
    }
    assert!(disk.stats().forgotten_bytes >= written(60) - 2 * PAGE_CACHE_BYTES);
    assert_eq!(read_all(&p).len(), 60);
}

#[test]
fn an_append_on_its_way_is_refused_when_its_partition_is_removed() {
    let disk = SimDisk::new(4);
    let (log, mut driver) = open(&disk, &Arc::default());
    let p = log.partition("p", options()).unwrap();
    let q = log.partition("q", options()).unwrap();
    commit(&mut driver, &q, append(vec![1; 100], 1)).unwrap();
    // In one group: both are written and synced when `p` is told, `q` comes after it.
    let removing = log.clone();
    p.append(Append {
        done: Some(Box::new(move |_| removing.remove_partition("q").unwrap())),
        ..append(vec![1; 100], 1)
    });
    let told = commit(&mut driver, &q, append(vec![2; 100], 1));
    assert!(matches!(told, Err(LogError::Closed)), "{told:?}");
    let q = log.partition("q", options()).unwrap();
    assert_eq!((q.end(), q.damage()), (0, vec![]));
}

#[test]
fn a_rewritten_segment_is_read_even_if_its_name_may_not_last() {
    let disk = SimDisk::new(4);
    let (log, mut driver) = open(&disk, &Arc::default());
    let p = log.partition("p", options()).unwrap();
    commit(&mut driver, &p, append(vec![1; 1000], 2)).unwrap();
    p.roll();
    driver.drain();
    commit(&mut driver, &p, append(vec![2; 1000], 1)).unwrap();
    disk.fail_dir_syncs(1);
    assert!(p.rewrite(0, 1000, &mut |_| None).is_err());
    // So many others are read that the file is opened anew.
    for n in 0..crate::limits::FILES_OPEN_MAX {
        let other = log.partition(&format!("o/{n}"), options()).unwrap();
        commit(&mut driver, &other, append(vec![3; 10], 1)).unwrap();
        assert_eq!(other.read(0, 1).unwrap().len(), 1);
    }
    assert_eq!(p.read(0, 1).unwrap()[0].body[0], 1);
    assert_eq!(p.damage(), []);
}

#[test]
fn a_removal_that_is_interrupted_leaves_no_damage_behind() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let (log, mut driver) = open(&disk, &Arc::default());
        let p = log.partition("p", options()).unwrap();
        commit(&mut driver, &p, append(vec![1; 1000], 2)).unwrap();
        p.roll();
        driver.drain();
        commit(&mut driver, &p, append(vec![1; 1000], 2)).unwrap();
        disk.set_faults(crate::sim::Faults {
            name_error: 200_000,
            ..Default::default()
        });
        let _ = log.remove_partition("p");
        disk.set_faults(crate::sim::Faults::default());
        drop((log, driver, p));
        if seed % 2 == 0 {
            disk.crash();
        } else {
            disk.kill();
        }
        let (log, mut driver) = open(&disk, &Arc::default());
        let p = log.partition("p", options()).unwrap();
        assert_eq!(p.damage(), [], "seed {seed}");
        log.remove_partition("p").unwrap();
        let p = log.partition("p", options()).unwrap();
        assert_eq!(commit(&mut driver, &p, append(vec![1], 1)).unwrap().base, 0);
    }
}
