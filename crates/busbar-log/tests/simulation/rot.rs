//! Files that rot, end too early or vanish while no process has them open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use busbar_log::{Disk, LogError, Partition, crc32c, doctor};

use crate::{NAMES, Open, World, rows_of};

/// What is to be done to a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rot {
    /// A byte changes within a frame.
    Flip,
    /// The file ends within a frame or right before it.
    Cut,
    /// A byte changes in the segment's head or its table of producers: no row is lost.
    Head,
    /// The newest file is gone.
    Gone,
}

/// A frame in a file: path, where the file's first row begins, position, length, base, end.
struct Place {
    path: PathBuf,
    newest: bool,
    rows_at: u64,
    at: u64,
    len: u64,
    base: u64,
    end: u64,
    segment_end: u64,
}

impl World {
    /// The frame that holds an offset, found without the code that is tested.
    fn place(&self, name: &str, offset: u64) -> Option<Place> {
        let dir = Path::new("/data").join(name);
        let mut bases: Vec<u64> = self
            .disk
            .list(&dir)
            .unwrap()
            .iter()
            .filter_map(|entry| entry.name.strip_suffix(".log")?.parse().ok())
            .collect();
        bases.sort_unstable();
        let at = bases
            .partition_point(|base| *base <= offset)
            .checked_sub(1)?;
        let path = dir.join(format!("{:020}.log", bases[at]));
        let bytes = self.disk.contents(&path).unwrap();
        let number = |at: usize, len: usize| {
            let mut raw = [0; 8];
            raw[..len].copy_from_slice(&bytes[at..at + len]);
            u64::from_le_bytes(raw)
        };
        let (mut position, mut rows_at) = (64, 0);
        while position + 64 <= bytes.len() {
            let body = number(position + 16, 4).next_multiple_of(64);
            let head = number(position + 20, 2) * 64;
            let len = head + body;
            let header = bytes.get(position + 8..position + head.max(8) as usize);
            if header.is_none_or(|h| u64::from(crc32c(h)) != number(position + 4, 4)) {
                // Something rotten from before.
                position += 64;
                continue;
            }
            let (base, count) = (number(position + 24, 8), number(position + 32, 4));
            if count > 0 && rows_at == 0 {
                rows_at = position as u64;
            }
            if count > 0 && (base..base + count).contains(&offset) {
                return Some(Place {
                    path,
                    newest: at + 1 == bases.len(),
                    rows_at,
                    at: position as u64,
                    len,
                    base,
                    end: base + count,
                    segment_end: bases.get(at + 1).copied().unwrap_or(u64::MAX),
                });
            }
            position += len as usize;
        }
        None
    }

    /// Lets one file of a partition rot; answers the offsets that may not be read any more.
    fn rot(&mut self, at: usize) -> Option<(Rot, PathBuf, std::ops::Range<u64>)> {
        let offsets: Vec<u64> = self.models[at].fixed.keys().copied().collect();
        // Often what was acknowledged last.
        let pick = match self.random.below(2) {
            0 => offsets.len().checked_sub(1)?,
            _ => self.random.below(offsets.len() as u64) as usize,
        };
        let place = self.place(NAMES[at].0, *offsets.get(pick)?)?;
        let rot = match self.random.below(8) {
            0..4 => Rot::Flip,
            4..6 => Rot::Cut,
            6 => Rot::Head,
            _ if place.newest => Rot::Gone,
            _ => Rot::Flip,
        };
        let flip = |world: &mut World, from: u64, len: u64| {
            let position = from + world.random.below(len);
            let byte = world.disk.contents(&place.path).unwrap()[position as usize];
            let other = byte ^ (1 << world.random.below(8));
            world.disk.corrupt(&place.path, position, &[other]).unwrap();
        };
        let lost = match rot {
            Rot::Flip => {
                flip(self, place.at, place.len);
                place.base..place.end
            }
            Rot::Head => {
                flip(self, 0, place.rows_at);
                0..0
            }
            Rot::Cut => {
                let len = place.at + self.random.below(place.len);
                let file = self.disk.open(&place.path, true).unwrap();
                file.truncate(len).unwrap();
                place.base..place.segment_end
            }
            Rot::Gone => {
                self.disk.remove(&place.path).unwrap();
                let name = place.path.file_stem().unwrap().to_str().unwrap();
                name.parse().unwrap()..u64::MAX
            }
        };
        Some((rot, place.path, lost))
    }

    /// Reads all there is: rows by offset, and the gaps that readers are told of.
    fn survey(&self, partition: &Partition) -> (BTreeMap<u64, u64>, Vec<std::ops::Range<u64>>) {
        let (mut rows, mut gaps) = (BTreeMap::new(), Vec::new());
        let mut offset = partition.start();
        while offset < partition.end() {
            match partition.read(offset, 20_000) {
                Ok(frames) => {
                    for frame in frames {
                        for (i, id) in rows_of(&frame.body).iter().enumerate() {
                            rows.insert(frame.base + i as u64, *id);
                        }
                        offset = frame.end();
                    }
                }
                Err(LogError::Damaged { from, resume, .. }) => {
                    assert!(from <= offset && resume > offset, "seed {}", self.seed);
                    gaps.push(offset..resume);
                    offset = resume;
                }
                Err(e) => panic!("seed {}: {e}", self.seed),
            }
        }
        (rows, gaps)
    }

    /// One life of a process, its kill, and rot before the next start.
    fn life(&mut self, open: Open, at: usize) -> Open {
        let mut open = open;
        for _ in 0..self.random.below(30) {
            match self.random.below(10) {
                0..6 => self.append(&open),
                6..9 => {
                    open.driver.step();
                }
                _ => open.partitions[at].roll(),
            }
            self.hear();
        }
        self.hear();
        self.disk.kill();
        drop(open);
        self.answers.lock().unwrap().clear();
        let seed = self.seed;
        let rotten = self.rot(at);
        if let Some((rot, path, _)) = &rotten {
            let told = doctor(&self.disk, Path::new("/data"));
            assert!(
                // (Of several that are gone only the newest can be named.)
                !told.healthy()
                    && (*rot == Rot::Gone || told.findings.iter().any(|f| f.file == *path)),
                "seed {seed}: {rot:?} of {path:?} is not told: {:#?}",
                told.findings
            );
        }
        let open = self.open();
        let partition = &open.partitions[at];
        let (rows, gaps) = self.survey(partition);
        let model = &mut self.models[at];
        let lost = rotten.as_ref().map_or(0..0, |(.., lost)| lost.clone());
        for (offset, id) in std::mem::take(&mut model.fixed) {
            if lost.contains(&offset) {
                assert!(
                    offset < partition.start() || gaps.iter().any(|gap| gap.contains(&offset)),
                    "seed {seed}: {offset} is lost by {rotten:?} and nobody is told: {gaps:?}"
                );
                assert!(!rows.contains_key(&offset), "seed {seed}: {offset}");
            } else {
                assert_eq!(
                    rows.get(&offset),
                    Some(&id),
                    "seed {seed}: {offset} after {rotten:?} with the gaps {gaps:?}"
                );
            }
        }
        model.fixed = rows;
        // What was lost is not given away again.
        assert!(
            partition.end() >= model.promised,
            "seed {seed}: the end fell from {} to {} after {rotten:?}",
            model.promised,
            partition.end()
        );
        model.promised = partition.end();
        open
    }
}

#[test]
fn rot_is_told_and_costs_only_what_it_hit() {
    let one = std::env::var("BUSBAR_SIM_SEED").ok();
    let seeds = match one.and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..if cfg!(debug_assertions) { 40 } else { 300 },
    };
    for seed in seeds {
        let mut world = World::new(seed);
        // Otherwise the mark may be behind.
        world.powered = true;
        let mut open = world.open();
        for _ in 0..8 {
            let at = world.random.below(2) as usize;
            open = world.life(open, at);
        }
    }
}
