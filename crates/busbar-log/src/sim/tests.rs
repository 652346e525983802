use std::io::IoSlice;
use std::path::Path;

use super::*;

fn write(file: &dyn File, position: u64, bytes: &[u8]) {
    assert_eq!(
        file.write_at(position, &[IoSlice::new(bytes)]).unwrap(),
        bytes.len()
    );
}

#[test]
fn synced_bytes_under_synced_names_survive_and_others_may_not() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..64 {
        let disk = SimDisk::new(seed);
        let dir = Path::new("/d");
        disk.create_dir(dir).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let file = disk.create(Path::new("/d/a")).unwrap();
        disk.sync_dir(dir).unwrap();
        write(&*file, 0, &[1; 5000]);
        file.sync().unwrap();
        write(&*file, 5000, &[2; 20_000]);
        disk.crash();
        assert!(file.len().is_err(), "a handle outlived the crash");
        let seen = disk.contents(Path::new("/d/a")).unwrap();
        assert_eq!(seen[..5000], [1; 5000], "seed {seed}");
        match seen.len() == 25_000 && seen[5000..].iter().all(|b| *b == 2) {
            true => kept += 1,
            false => lost += 1,
        }
    }
    assert!(lost > 10 && kept + lost == 64, "{lost} lost, {kept} kept");
}

#[test]
fn one_seed_is_one_history() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        disk.create_dir(Path::new("/d")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let file = disk.create(Path::new("/d/a")).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        write(&*file, 0, &[7; 50_000]);
        disk.crash();
        disk.contents(Path::new("/d/a")).unwrap()
    };
    assert_eq!(run(3), run(3));
    assert!((0..20).any(|seed| run(seed) != run(seed + 1)));
}

#[test]
fn a_failed_sync_leaves_pages_clean_and_uncertain() {
    let mut lost = 0;
    for seed in 0..32 {
        let disk = SimDisk::new(seed);
        disk.create_dir(Path::new("/d")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let file = disk.create(Path::new("/d/a")).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file.truncate(4096).unwrap();
        file.sync().unwrap();
        write(&*file, 0, &[9; 4096]);
        disk.fail_syncs(1);
        assert!(file.sync().is_err());
        assert_eq!(disk.contents(Path::new("/d/a")).unwrap(), [9; 4096]);
        disk.crash();
        lost += usize::from(disk.contents(Path::new("/d/a")).unwrap() != [9; 4096]);
    }
    assert!(lost > 0, "a failed sync never lost anything");
}

#[test]
fn a_full_disk_takes_a_part_and_then_nothing() {
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new("/d")).unwrap();
    disk.set_capacity(Some(8192));
    let file = disk.create(Path::new("/d/a")).unwrap();
    assert_eq!(file.write_at(0, &[IoSlice::new(&[1; 9000])]).unwrap(), 8192);
    let full = file.write_at(8192, &[IoSlice::new(&[1])]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
}
