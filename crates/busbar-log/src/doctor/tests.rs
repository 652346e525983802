use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::append::Append;
use crate::clock::ManualClock;
use crate::error::LogError;
use crate::log::Log;
use crate::options::{LogOptions, PartitionOptions};
use crate::sim::SimDisk;
use crate::store::Change;

const EN: &str = include_str!("../../../busbar-event/messages/en/log.txt");

fn filled(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    let options = LogOptions {
        reserve_bytes: 0,
        ..LogOptions::default()
    };
    let (log, mut driver) = Log::open_driven(
        Arc::new(disk.clone()),
        Path::new("/data"),
        options,
        Arc::new(ManualClock::default()),
    )
    .unwrap();
    let p = log
        .partition("streams/s/0", PartitionOptions::default())
        .unwrap();
    let store = log.store("st").unwrap();
    for i in 0..20u8 {
        p.append(Append {
            body: Bytes::from(vec![i; 1000]),
            count: 2,
            min_time: 0,
            max_time: 0,
            producers: Vec::new(),
            attributes: 0,
            companion: None,
            done: None,
        });
        store.apply(
            vec![Change::Put(Bytes::from(vec![i]), Bytes::from("v"))],
            None,
        );
        driver.drain();
        if i == 9 {
            p.roll();
        }
    }
    log.shutdown();
    driver.drain();
    drop((log, driver, p, store));
    disk
}

const FIRST: &str = "/data/streams/s/0/00000000000000000000.log";
const SECOND: &str = "/data/streams/s/0/00000000000000000020.log";

#[test]
fn a_good_folder_is_healthy_and_is_not_changed() {
    let disk = filled(1);
    let writes = disk.stats().writes;
    let report = doctor(&disk, Path::new("/data"));
    assert_eq!(report.findings, []);
    assert!(report.healthy());
    assert_eq!((report.partitions, report.segments), (2, 3));
    assert_eq!((report.frames, report.rows), (40, 60));
    assert_eq!(disk.stats().writes, writes);
}

#[test]
fn damage_is_named_with_file_byte_and_offsets() {
    let frame = 64 + 1024;
    for (file, base, at) in [(FIRST, 0, 3), (SECOND, 20, 4), (SECOND, 20, 9)] {
        let disk = filled(2);
        let position = 128 + at * frame;
        disk.corrupt(Path::new(file), position + 200, b"!").unwrap();
        let report = doctor(&disk, Path::new("/data"));
        let [found] = &report.findings[..] else {
            panic!("{:#?}", report.findings);
        };
        assert!(!report.healthy());
        assert_eq!(found.code, "log.doctor-damage");
        assert_eq!(
            (found.file.as_path(), found.position),
            (Path::new(file), Some(position))
        );
        let words = format!("from offset {} up to {} ", base + at * 2, base + at * 2 + 2);
        assert!(found.text.contains(&words), "{}", found.text);
        assert!(!found.text.contains('{'), "{}", found.text);
    }
}

#[test]
fn a_torn_tail_is_no_damage() {
    let disk = filled(3);
    let len = disk.contents(Path::new(SECOND)).unwrap().len() as u64;
    let file = disk.open(Path::new(SECOND), true).unwrap();
    file.write_at(len, &[io::IoSlice::new(&[1; 100])]).unwrap();
    let report = doctor(&disk, Path::new("/data"));
    assert!(report.healthy());
    assert_eq!(report.findings[0].code, "log.doctor-torn-tail");
    assert_eq!(report.findings[0].position, Some(len));
}

#[test]
fn every_message_is_in_the_catalogue_word_for_word() {
    for line in EN.lines().filter(|l| l.starts_with("log.doctor")) {
        let (code, text) = line.split_once(" = ").unwrap();
        assert_eq!(words(code), text, "{code}");
    }
    let source = Arc::new(io::Error::other("x"));
    let path = PathBuf::from("f");
    let why = "w";
    for error in [
        LogError::Full { path: path.clone() },
        LogError::Busy { waiting_bytes: 1 },
        LogError::Io {
            operation: "o",
            path: path.clone(),
            source: source.clone(),
        },
        LogError::Failed {
            path: path.clone(),
            source,
        },
        LogError::Damaged {
            file: path.clone(),
            position: 1,
            from: 2,
            resume: 3,
            why,
        },
        LogError::Trimmed { start: 1 },
        LogError::Beyond { offset: 1, end: 1 },
        LogError::Refused { why },
        LogError::Name {
            name: "n".into(),
            why,
        },
        LogError::Closed,
        LogError::Version {
            dir: path.clone(),
            found: "2".into(),
            supported: 1,
        },
        LogError::Locked {
            dir: path,
            pid: None,
        },
    ] {
        let line = EN
            .lines()
            .find_map(|l| l.strip_prefix(&format!("{} = ", error.code())));
        let text = line.unwrap_or_else(|| panic!("{} has no text", error.code()));
        let mut rest = text.to_owned();
        for (name, _) in error.args() {
            assert!(text.contains(&format!("{{{name}}}")), "{text} lacks {name}");
            rest = rest.replace(&format!("{{{name}}}"), "");
        }
        assert!(!rest.contains('{'), "{rest}");
    }
}
