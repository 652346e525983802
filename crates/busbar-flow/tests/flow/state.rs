//! State that cannot be read: the copy of it is used, nothing is lost or repeated, and it is said.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use busbar_flow::{FlowState, ReplayFrom};
use busbar_log::sim::Random;

use crate::common::{PATIENCE, World, rest};
use crate::stateful::{append, apply, check, closing, events, files};

/// Every file below a folder, the largest first.
fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    found
}

fn copies(world: &World) -> usize {
    let files = all_files(&world.folder.path().join("state-copies"));
    let is_copy = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "copy");
    files.iter().filter(is_copy).count()
}

/// A flow that has state and copies of it, and has gone on since.
fn with_state(seed: u64, random: &mut Random) -> (World, Vec<(&'static str, String)>, i64) {
    let world = World::new(seed);
    let files = files(2).to_vec();
    apply(&world, &files);
    let mut next = 0;
    // Two partitions are read, and the windows are in two more.
    let until = Instant::now() + PATIENCE;
    while copies(&world) < 4 {
        assert!(Instant::now() < until, "{} copies", copies(&world));
        let to = next + 100;
        assert!(append(&world, &events(random, next, to), to as u64));
        next = to;
        rest(300);
    }
    for _ in 0..3 {
        let to = next + 500;
        assert!(append(&world, &events(random, next, to), to as u64));
        next = to;
        rest(700);
    }
    (world, files, next)
}

fn damage(seed: u64, power_cut: bool, harm: impl FnOnce(&Path)) -> World {
    let mut random = Random::new(seed);
    let (mut world, files, mut next) = with_state(seed, &mut random);
    world = world.restart_after(power_cut, |folder| harm(&folder.join("state")));
    apply(&world, &files);
    let notice = world
        .flow("f")
        .notice
        .unwrap_or_else(|| panic!("{:#?}", world.flow("f")));
    assert_eq!(notice.code(), "flow.state-fallback", "{notice}");
    for _ in 0..3 {
        let to = next + 300;
        assert!(append(&world, &events(&mut random, next, to), to as u64));
        next = to;
        rest(100);
    }
    assert!(append(&world, &closing(), next as u64 + 1));
    check(&world, seed);
    // What it says is over with the next start.
    world = world.restart(true);
    apply(&world, &files);
    assert!(world.flow("f").notice.is_none());
    check(&world, seed);
    world
}

#[test]
fn a_database_that_is_gone_is_replaced_by_the_copies() {
    damage(51, false, |state| fs::remove_dir_all(state).unwrap());
}

#[test]
fn a_database_with_other_bytes_is_replaced_by_the_copies() {
    let world = damage(52, true, |state| {
        for path in all_files(state) {
            let mut bytes = fs::read(&path).unwrap();
            for byte in &mut bytes {
                *byte ^= 0x55;
            }
            fs::write(path, bytes).unwrap();
        }
    });
    // The old one was put aside, for who wants to look into it.
    assert!(world.folder.path().join("state-damaged-1").exists());
}

#[test]
fn a_database_that_has_lost_its_end_is_replaced_by_the_copies() {
    damage(53, false, |state| {
        for path in all_files(state) {
            if path.extension().is_some_and(|ending| ending == "jnl") {
                let file = fs::OpenOptions::new().write(true).open(path).unwrap();
                file.set_len(0).unwrap();
            }
        }
    });
}

#[test]
fn without_state_and_copies_a_flow_stops_and_a_replay_helps() {
    let mut random = Random::new(54);
    let (mut world, files, next) = with_state(54, &mut random);
    world = world.restart_after(false, |folder| {
        for path in all_files(&folder.join("state")) {
            fs::write(path, b"nothing").unwrap();
        }
        fs::remove_dir_all(folder.join("state-copies")).unwrap();
    });
    let parsed: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
    let applied = world.apply(&parsed);
    assert_eq!(applied.failed["f"].code(), "flow.state-lost");
    assert_eq!(world.flow("f").state, FlowState::Stopped);
    let again = world.flows.replay("f", ReplayFrom::Earliest);
    world.tokio.block_on(again).unwrap();
    assert!(append(&world, &closing(), next as u64 + 1));
    let status = world.settle("f");
    assert_eq!(status.state, FlowState::Running, "{status:#?}");
}

#[test]
fn what_a_flow_has_kept_is_deleted_a_day_after_it_was_taken_out() {
    let mut random = Random::new(55);
    let (world, files, _) = with_state(55, &mut random);
    let parsed: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
    let own = |world: &World| {
        let names = world.bus.streams();
        let names = names.iter().map(|stream| stream.name().to_owned());
        names
            .filter(|name| name.starts_with('_') && name.contains("-f"))
            .count()
    };
    // Between the stages, results, ticks.
    assert_eq!(own(&world), 3);
    world.apply(&parsed[..3]);
    // One that comes back soon goes on where it was.
    world.apply(&parsed);
    assert_eq!(world.settle("f").conservation.difference, 0);
    world.apply(&parsed[..3]);
    rest(11_000);
    assert_eq!((own(&world), copies(&world)), (3, 4));
    let day = 24 * 3600 * 1_000_000;
    world.ahead.store(day, std::sync::atomic::Ordering::Relaxed);
    let until = Instant::now() + PATIENCE;
    while own(&world) + copies(&world) > 0 {
        assert!(
            Instant::now() < until,
            "{} streams, {} copies",
            own(&world),
            copies(&world)
        );
        rest(100);
    }
    // It can be added again, and begins anew.
    world.apply(&parsed);
    assert_eq!(world.settle("f").state, FlowState::Running);
}
