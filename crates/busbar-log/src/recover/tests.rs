use std::time::Duration;

use crate::append::Append;
use crate::clock::ManualClock;
use crate::doctor::{Severity, doctor};
use crate::log::{Driver, Log};
use crate::options::{Durability, PartitionOptions};
use crate::partition::Partition;
use crate::sim::{Faults, SimDisk};
use crate::testing::{DIR, append, commit, open as open_log, options, read_all};

use super::*;

const FIRST: &str = "/data/p/00000000000000000000.log";
/// Where the first frame begins when there are no producers: behind the segment's head and table.
const ROWS: u64 = 128;
/// A frame with a body of 1000 bytes.
const FRAME: u64 = 64 + 1024;

fn reopen(disk: &SimDisk, clock: &Arc<ManualClock>) -> (Log, Driver, Partition) {
    let (log, driver) = open_log(disk, clock);
    let p = log.partition("p", options()).unwrap();
    (log, driver, p)
}

/// First bytes of the bodies that can be read, and the gaps: (file, position, from, resume).
type Survey = (Vec<u8>, Vec<(PathBuf, u64, u64, u64)>);

fn survey(p: &Partition) -> Survey {
    let (mut seen, mut gaps) = (Vec::new(), Vec::new());
    let mut offset = p.start();
    while offset < p.end() {
        match p.read(offset, 100_000) {
            Ok(frames) => {
                seen.extend(frames.iter().map(|f| f.body[0]));
                offset = frames.last().unwrap().end();
            }
            Err(LogError::Damaged {
                file,
                position,
                from,
                resume,
                ..
            }) => {
                gaps.push((file, position, from, resume));
                offset = resume;
            }
            Err(e) => panic!("{e}"),
        }
    }
    (seen, gaps)
}

/// Four frames of two rows, acknowledged after a sync each; then the process is killed.
fn killed() -> (SimDisk, Arc<ManualClock>) {
    let disk = SimDisk::new(7);
    let clock: Arc<ManualClock> = Arc::default();
    let (log, mut driver, p) = reopen(&disk, &clock);
    for i in 0..4 {
        commit(&mut driver, &p, append(vec![i; 1000], 2)).unwrap();
    }
    drop((log, driver, p));
    disk.kill();
    (disk, clock)
}

#[test]
fn the_last_acknowledged_frame_is_damage_after_a_kill() {
    let at = ROWS + 3 * FRAME;
    let cut = |disk: &SimDisk, len| {
        let file = disk.open(Path::new(FIRST), true).unwrap();
        file.truncate(len).unwrap();
    };
    type Damaging<'a> = &'a dyn Fn(&SimDisk);
    let ways: [(&str, Damaging<'_>); 6] = [
        ("a byte of its body", &|disk| {
            disk.corrupt(Path::new(FIRST), at + 700, b"!").unwrap();
        }),
        ("a byte of its header", &|disk| {
            disk.corrupt(Path::new(FIRST), at + 20, b"!").unwrap();
        }),
        ("its magic", &|disk| {
            disk.corrupt(Path::new(FIRST), at, b"!").unwrap();
        }),
        ("zeros in its place", &|disk| {
            disk.corrupt(Path::new(FIRST), at, &[0; FRAME as usize])
                .unwrap();
        }),
        ("a cut within it", &|disk| cut(disk, at + 500)),
        ("a cut before it", &|disk| cut(disk, at)),
    ];
    for (what, damage) in ways {
        let (disk, clock) = killed();
        damage(&disk);
        let told = doctor(&disk, Path::new(DIR));
        let [found] = &told.findings[..] else {
            panic!("{what}: {:#?}", told.findings);
        };
        assert_eq!(found.severity, Severity::Error, "{what}");
        assert_eq!(found.file, Path::new(FIRST), "{what}");
        assert_eq!(found.position, Some(at), "{what}");
        assert!(
            found.text.contains("from offset 6 up to 8 "),
            "{what}: {}",
            found.text
        );
        let gap = (PathBuf::from(FIRST), at, 6, 8);
        // At this start and at later ones, whether or not something was appended in between.
        for _ in 0..2 {
            let (_log, _driver, p) = reopen(&disk, &clock);
            let [damage] = &p.damage()[..] else {
                panic!("{what}: {:?}", p.damage());
            };
            assert_eq!((damage.from, damage.resume), (6, 8), "{what}");
            assert_eq!(survey(&p), (vec![0, 1, 2], vec![gap.clone()]), "{what}");
            disk.kill();
        }
        let (log, mut driver, p) = reopen(&disk, &clock);
        let landed = commit(&mut driver, &p, append(vec![9; 1000], 1)).unwrap();
        assert_eq!(landed.base, 8, "{what}: an offset was given away twice");
        drop((log, driver, p));
        disk.crash();
        let (_log, _driver, p) = reopen(&disk, &clock);
        assert_eq!(survey(&p), (vec![0, 1, 2, 9], vec![gap]), "{what}");
    }
}

#[test]
fn a_newest_file_that_is_gone_or_all_bad_keeps_its_offsets() {
    type Damaging<'a> = &'a dyn Fn(&SimDisk, &Path);
    let ways: [(&str, Damaging<'_>); 3] = [
        ("removed", &|disk, file| disk.remove(file).unwrap()),
        ("emptied", &|disk, file| {
            disk.open(file, true).unwrap().truncate(0).unwrap();
        }),
        ("wiped", &|disk, file| {
            let len = disk.contents(file).unwrap().len();
            disk.corrupt(file, 0, &vec![0; len]).unwrap();
        }),
    ];
    for (what, damage) in ways {
        for rolled in [false, true] {
            let disk = SimDisk::new(7);
            let clock: Arc<ManualClock> = Arc::default();
            let (log, mut driver, p) = reopen(&disk, &clock);
            commit(&mut driver, &p, append(vec![1; 1000], 3)).unwrap();
            let mut file = PathBuf::from(FIRST);
            let mut before = vec![];
            if rolled {
                p.roll();
                driver.drain();
                file.set_file_name("00000000000000000003.log");
                before = vec![1];
            }
            commit(&mut driver, &p, append(vec![2; 1000], 5)).unwrap();
            // As after a clean end, where an index knows of it too.
            log.shutdown();
            driver.drain();
            drop((log, driver, p));
            damage(&disk, &file);
            let from = if rolled { 3 } else { 0 };
            let told = doctor(&disk, Path::new(DIR));
            assert!(!told.healthy(), "{what}: {:#?}", told.findings);
            assert!(
                told.findings
                    .iter()
                    .any(|f| f.file == file && f.text.contains("up to 8")),
                "{what}: {:#?}",
                told.findings
            );
            for _ in 0..2 {
                let (_log, _driver, p) = reopen(&disk, &clock);
                assert_eq!(p.end(), 8, "{what}");
                let [damage] = &p.damage()[..] else {
                    panic!("{what}: {:?}", p.damage());
                };
                assert_eq!((damage.from, damage.resume), (from, 8), "{what}");
                assert_eq!(survey(&p).0, before, "{what}");
                disk.kill();
            }
            let (log, mut driver, p) = reopen(&disk, &clock);
            let landed = commit(&mut driver, &p, append(vec![9; 1000], 1)).unwrap();
            assert_eq!(landed.base, 8, "{what}: an offset was given away twice");
            drop((log, driver, p));
            disk.kill();
            let (_log, _driver, p) = reopen(&disk, &clock);
            before.push(9);
            assert_eq!(survey(&p).0, before, "{what}: an acknowledged row is gone");
        }
    }
}

#[test]
fn a_missing_or_damaged_mark_costs_nothing_but_knowledge() {
    for damaged in [false, true] {
        let (disk, clock) = killed();
        let file = mark::path(Path::new("/data/p"));
        if damaged {
            disk.corrupt(&file, 0, &[0xff; 8192]).unwrap();
            let told = doctor(&disk, Path::new(DIR));
            assert!(told.healthy());
            assert_eq!(told.findings[0].code, "log.doctor-no-mark");
        } else {
            disk.remove(&file).unwrap();
            assert_eq!(doctor(&disk, Path::new(DIR)).findings, []);
        }
        let (log, mut driver, p) = reopen(&disk, &clock);
        assert_eq!(survey(&p), (vec![0, 1, 2, 3], vec![]));
        drop((log, p));
        // From the start on it is known again.
        driver.drain();
        disk.kill();
        disk.corrupt(Path::new(FIRST), ROWS + 3 * FRAME + 99, b"!")
            .unwrap();
        let (_log, _driver, p) = reopen(&disk, &clock);
        assert_eq!((p.end(), p.damage().len()), (8, 1));
    }
}

#[test]
fn a_mark_that_cannot_be_written_stops_nobody() {
    let disk = SimDisk::new(7);
    let clock: Arc<ManualClock> = Arc::default();
    let (log, mut driver, p) = reopen(&disk, &clock);
    let q = log.partition("q", options()).unwrap();
    commit(&mut driver, &q, append(vec![0; 1000], 2)).unwrap();
    // Both in one group: when `p` is told, the mark of `q` is written next.
    let failing = disk.clone();
    p.append(Append {
        done: Some(Box::new(move |_| failing.fail_writes(1))),
        ..append(vec![1; 1000], 1)
    });
    commit(&mut driver, &q, append(vec![1; 1000], 2)).unwrap();
    let before = disk.stats().writes;
    commit(&mut driver, &q, append(vec![2; 1000], 2)).unwrap();
    assert_eq!(disk.stats().writes, before + 1, "it was tried again");
    // The next segment tries anew.
    q.roll();
    driver.drain();
    let before = disk.stats().writes;
    commit(&mut driver, &q, append(vec![3; 1000], 2)).unwrap();
    assert_eq!(disk.stats().writes, before + 2, "one write for the mark");
    drop((log, driver, p, q));
    disk.kill();
    let newest = Path::new("/data/q/00000000000000000006.log");
    disk.corrupt(newest, ROWS + 70, b"!").unwrap();
    let (log, _driver) = open_log(&disk, &clock);
    let q = log.partition("q", options()).unwrap();
    assert_eq!((q.end(), q.damage().len()), (8, 1));
    assert_eq!(survey(&q).0, [0, 1, 2]);
}

/// What was read from the page cache after a kill may never have reached the disk: its sync may
/// have failed, and then its pages count as clean.
#[test]
fn what_recovery_serves_lasts_even_if_its_sync_had_failed() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let clock: Arc<ManualClock> = Arc::default();
        let (log, mut driver, p) = reopen(&disk, &clock);
        commit(&mut driver, &p, append(vec![1; 1000], 1)).unwrap();
        disk.fail_syncs(1);
        // Nor can the file be cut back.
        disk.set_faults(Faults {
            name_error: 1_000_000,
            ..Faults::default()
        });
        commit(&mut driver, &p, append(vec![2; 9000], 1)).unwrap_err();
        drop((log, driver, p));
        disk.set_faults(Faults::default());
        disk.kill();
        let (log, driver, p) = reopen(&disk, &clock);
        let served = survey(&p);
        assert_eq!(served, (vec![1, 2], vec![]));
        drop((log, driver, p));
        disk.crash();
        let (_log, _driver, p) = reopen(&disk, &clock);
        assert_eq!(survey(&p), served, "seed {seed}");
    }
}

#[test]
fn a_read_error_at_the_start_changes_nothing() {
    let (disk, clock) = killed();
    let before = disk.contents(Path::new(FIRST)).unwrap();
    let (log, _driver) = open_log(&disk, &clock);
    disk.set_faults(Faults {
        read_error: 1_000_000,
        ..Faults::default()
    });
    let refused = log.partition("p", options()).err().unwrap();
    assert!(matches!(refused, LogError::Io { .. }), "{refused}");
    disk.set_faults(Faults::default());
    assert_eq!(disk.contents(Path::new(FIRST)).unwrap(), before);
    assert_eq!(
        survey(&log.partition("p", options()).unwrap()),
        (vec![0, 1, 2, 3], vec![])
    );
}

/// Rows that a failed segment holds behind the begin of the next one were refused; they must not
/// come up when the next one is gone, nor take away what their producer sends again.
#[test]
fn what_was_refused_does_not_come_up_when_the_next_file_is_gone() {
    let from = |position, n| Append {
        producers: vec![(Arc::from("p"), position)],
        ..append(vec![n; 1000], 1)
    };
    let disk = SimDisk::new(3);
    let clock: Arc<ManualClock> = Arc::default();
    let (log, mut driver, p) = reopen(&disk, &clock);
    commit(&mut driver, &p, from(1, 1)).unwrap();
    disk.fail_syncs(1);
    disk.set_faults(Faults {
        name_error: 1_000_000,
        ..Faults::default()
    });
    commit(&mut driver, &p, from(7, 2)).unwrap_err();
    disk.set_faults(Faults::default());
    clock.advance(1_000_000);
    commit(&mut driver, &p, from(3, 3)).unwrap();
    drop((log, driver, p));
    disk.kill();
    disk.remove(Path::new("/data/p/00000000000000000001.log"))
        .unwrap();
    let (_log, mut driver, p) = reopen(&disk, &clock);
    assert_eq!(survey(&p).0, [1]);
    assert_eq!(p.producer_position("p"), Some(1));
    assert!(!commit(&mut driver, &p, from(7, 4)).unwrap().duplicate);
    assert_eq!(survey(&p).0, [1, 4]);
}

#[test]
fn times_are_found_behind_an_index_that_stops_short() {
    let disk = SimDisk::new(3);
    let clock: Arc<ManualClock> = Arc::default();
    let at = |time| Append {
        min_time: time,
        max_time: time,
        ..append(vec![1; 1000], 1)
    };
    let (log, mut driver, p) = reopen(&disk, &clock);
    commit(&mut driver, &p, at(10)).unwrap();
    log.shutdown();
    driver.drain();
    drop((log, driver, p));
    let (log, mut driver, p) = reopen(&disk, &clock);
    commit(&mut driver, &p, at(20)).unwrap();
    // The segment fails, so no index is written that covers all of it.
    disk.fail_syncs(1);
    commit(&mut driver, &p, at(30)).unwrap_err();
    clock.advance(1_000_000);
    commit(&mut driver, &p, at(40)).unwrap();
    drop((log, driver, p));
    disk.kill();
    let (_log, _driver, p) = reopen(&disk, &clock);
    assert_eq!(p.offset_at_time(15).unwrap(), 1);
    assert_eq!(p.offset_at_time(25).unwrap(), 2);
}

#[test]
fn positions_survive_the_rewrite_of_a_failed_segment() {
    let disk = SimDisk::new(3);
    let clock: Arc<ManualClock> = Arc::default();
    let from = |position| Append {
        producers: vec![(Arc::from("p"), position)],
        ..append(vec![1; 1000], 1)
    };
    let (log, mut driver, p) = reopen(&disk, &clock);
    commit(&mut driver, &p, from(1)).unwrap();
    log.shutdown();
    driver.drain();
    drop((log, driver, p));
    let (log, mut driver, p) = reopen(&disk, &clock);
    commit(&mut driver, &p, from(2)).unwrap();
    disk.fail_syncs(1);
    commit(&mut driver, &p, from(3)).unwrap_err();
    let keep = &mut |_: &[crate::frame::Frame]| None;
    assert_eq!(p.rewrite(0, 10_000, keep).unwrap().frames, (2, 2));
    drop((log, driver, p));
    disk.kill();
    let (_log, _driver, p) = reopen(&disk, &clock);
    assert_eq!(p.producer_position("p"), Some(2));
}

#[test]
fn clocks_that_are_set_back_put_nothing_off() {
    for seed in 0..10 {
        let disk = SimDisk::new(seed);
        let clock = Arc::new(ManualClock::new(10_000_000));
        let (log, mut driver) = open_log(&disk, &clock);
        let memory = PartitionOptions {
            durability: Durability::Memory,
            retention_age: Some(Duration::from_secs(5)),
            ..options()
        };
        let p = log.partition("p", memory).unwrap();
        commit(&mut driver, &p, append(vec![1; 9000], 1)).unwrap();
        clock.set(1_000_000);
        driver.drain();
        clock.advance(200_000);
        driver.drain();
        driver.drain();
        // It has been synced by now. A segment that failed later than now is tried again at once.
        disk.fail_writes(1);
        commit(&mut driver, &p, append(vec![2; 1000], 1)).unwrap_err();
        clock.set(0);
        commit(&mut driver, &p, append(vec![3; 1000], 1)).unwrap();
        // Nothing is too old because time has gone back.
        driver.keep();
        drop((log, driver, p));
        disk.crash();
        let (_log, _driver, p) = reopen(&disk, &clock);
        assert_eq!(p.start(), 0, "seed {seed}");
        let firsts: Vec<u8> = read_all(&p).iter().map(|f| f.body[0]).collect();
        assert_eq!(firsts[0], 1, "seed {seed}");
    }
}

#[test]
fn a_torn_tail_does_not_come_back_behind_new_frames() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let clock: Arc<ManualClock> = Arc::default();
        let (log, mut driver) = open_log(&disk, &clock);
        let memory = PartitionOptions {
            durability: Durability::Memory,
            ..options()
        };
        let p = log.partition("p", memory).unwrap();
        commit(&mut driver, &p, append(vec![1; 1000], 1)).unwrap();
        clock.advance(200_000);
        driver.drain();
        driver.drain();
        // Not synced yet: the first of the two is torn, the second has survived.
        p.append(append(vec![2; 1000], 1));
        commit(&mut driver, &p, append(vec![3; 1000], 1)).unwrap();
        drop((log, driver, p));
        disk.kill();
        let file = Path::new("/data/p/00000000000000000000.log");
        disk.corrupt(file, 128 + 1088 + 100, &[0; 300]).unwrap();
        let (log, mut driver) = open_log(&disk, &clock);
        let p = log.partition("p", options()).unwrap();
        assert_eq!((p.end(), p.damage().len()), (1, 0));
        if seed % 2 == 0 {
            // Of the very size, so that what was left over would fit behind it.
            commit(&mut driver, &p, append(vec![4; 1000], 1)).unwrap();
        }
        let end = p.end();
        drop((log, driver, p));
        disk.crash();
        let (log, _driver) = open_log(&disk, &clock);
        let p = log.partition("p", options()).unwrap();
        assert_eq!(p.end(), end, "seed {seed}");
        let first: Vec<u8> = read_all(&p).iter().map(|f| f.body[0]).collect();
        assert_eq!(first, [1, 4][..end as usize]);
    }
}

/// Without its head nobody knows when a segment was made; that does not make those before it old.
#[test]
fn a_damaged_head_does_not_make_events_old() {
    let hour = 3_600_000_000;
    let disk = SimDisk::new(3);
    let clock = Arc::new(ManualClock::new(1_000 * hour));
    let kept = PartitionOptions {
        retention_age: Some(Duration::from_secs(10 * 3600)),
        ..options()
    };
    let (log, mut driver) = open_log(&disk, &clock);
    let p = log.partition("p", kept.clone()).unwrap();
    for n in 0..4 {
        commit(&mut driver, &p, append(vec![n; 1000], 1)).unwrap();
        clock.advance(hour);
        p.roll();
        driver.drain();
    }
    drop((log, driver, p));
    disk.kill();
    let second = Path::new("/data/p/00000000000000000001.log");
    disk.corrupt(second, 5, b"!").unwrap();
    let (log, mut driver) = open_log(&disk, &clock);
    let p = log.partition("p", kept).unwrap();
    driver.keep();
    assert_eq!(survey(&p).0, [0, 1, 2, 3]);
    // And it does not keep them for ever.
    clock.advance(12 * hour);
    commit(&mut driver, &p, append(vec![4; 1000], 1)).unwrap();
    driver.keep();
    assert!(p.start() >= 3, "{}", p.start());
}

/// The next segment's existence says that all of this one is there, whatever durability it has.
#[test]
fn what_is_sealed_is_durable_under_memory_too() {
    for seed in 0..10 {
        let disk = SimDisk::new(seed);
        let clock: Arc<ManualClock> = Arc::default();
        let (log, mut driver) = open_log(&disk, &clock);
        let memory = PartitionOptions {
            durability: Durability::Memory,
            ..options()
        };
        let p = log.partition("p", memory).unwrap();
        commit(&mut driver, &p, append(vec![1; 20_000], 1)).unwrap();
        p.roll();
        driver.drain();
        drop((log, driver, p));
        disk.crash();
        let (_log, _driver, p) = reopen(&disk, &clock);
        assert_eq!(survey(&p), (vec![1], vec![]), "seed {seed}");
    }
}
