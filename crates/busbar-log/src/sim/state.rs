//! What a simulated disk remembers, and what it forgets at a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::{Faults, Random, SimStats};
use crate::disk::Entry;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

pub(super) type Id = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(Id),
    Dir,
}

#[derive(Default)]
pub(super) struct Inode {
    /// What processes see.
    pub data: Vec<u8>,
    /// What the platter has.
    durable: Vec<u8>,
    /// Pages that differ and are known to.
    dirty: BTreeSet<usize>,
}

/// A change of names that no sync of its folder has made durable yet.
enum NameChange {
    Set(PathBuf, Node),
    Unset(PathBuf),
    Move(PathBuf, PathBuf),
}

pub(super) struct State {
    pub random: Random,
    pub faults: Faults,
    pub failing_syncs: u32,
    pub failing_writes: u32,
    pub failing_dir_syncs: u32,
    pub capacity: Option<u64>,
    pub epoch: u64,
    pub locks: BTreeSet<PathBuf>,
    /// Calls that change something before the process dies.
    pub fuse: Option<u64>,
    dead: bool,
    pub stats: SimStats,
    inodes: BTreeMap<Id, Inode>,
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    pending: Vec<(PathBuf, NameChange)>,
    next_id: Id,
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl State {
    pub fn new(seed: u64) -> State {
        State {
            random: Random::new(seed),
            faults: Faults::default(),
            failing_syncs: 0,
            failing_writes: 0,
            failing_dir_syncs: 0,
            capacity: None,
            epoch: 0,
            locks: BTreeSet::new(),
            fuse: None,
            dead: false,
            stats: SimStats::default(),
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            next_id: 1,
        }
    }

    pub fn file(&self, path: &Path) -> io::Result<Id> {
        match self.names.get(path) {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found()),
        }
    }

    pub fn inode(&self, id: Id) -> &Inode {
        &self.inodes[&id]
    }

    pub fn used(&self) -> u64 {
        let named = self.names.values().filter_map(|n| match n {
            Node::File(id) => Some(self.inodes[id].data.len().next_multiple_of(PAGE) as u64),
            Node::Dir => None,
        });
        named.sum()
    }

    fn fault(&mut self, per_million: u32) -> bool {
        let hit = self.random.chance(per_million);
        self.stats.faults += u64::from(hit);
        hit
    }

    /// Fails if the process has died.
    pub fn alive(&self) -> io::Result<()> {
        match self.dead {
            true => Err(io::Error::other("the process has died")),
            false => Ok(()),
        }
    }

    /// Counts a call that changes something; fails if the process dies at it, or has died.
    pub fn spend(&mut self) -> io::Result<()> {
        self.alive()?;
        match &mut self.fuse {
            Some(0) => self.dead = true,
            Some(left) => *left -= 1,
            None => {}
        }
        self.alive()
    }

    pub fn name_fault(&mut self) -> io::Result<()> {
        self.spend()?;
        if self.fault(self.faults.name_error) {
            return Err(eio());
        }
        Ok(())
    }

    fn change(&mut self, path: &Path, change: NameChange) {
        let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
        apply(&mut self.names, &change);
        self.pending.push((dir, change));
    }

    pub fn create(&mut self, path: &Path) -> io::Result<Id> {
        if self.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let dir = path.parent().unwrap_or(Path::new(""));
        if !matches!(self.names.get(dir), Some(Node::Dir)) {
            return Err(not_found());
        }
        if self.capacity.is_some_and(|c| self.used() >= c) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let id = self.next_id;
        self.next_id += 1;
        self.inodes.insert(id, Inode::default());
        self.change(path, NameChange::Set(path.to_path_buf(), Node::File(id)));
        Ok(id)
    }

    pub fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let mut chain: Vec<&Path> = path
            .ancestors()
            .filter(|p| !p.as_os_str().is_empty())
            .collect();
        chain.reverse();
        for dir in chain {
            match self.names.get(dir) {
                None => {
                    // The root of everything is simply there.
                    if dir.parent().is_none_or(|p| p.as_os_str().is_empty()) {
                        self.names.insert(dir.to_path_buf(), Node::Dir);
                        self.durable_names.insert(dir.to_path_buf(), Node::Dir);
                    } else {
                        self.change(dir, NameChange::Set(dir.to_path_buf(), Node::Dir));
                    }
                }
                Some(Node::Dir) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            }
        }
        Ok(())
    }

    pub fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        if !matches!(self.names.get(dir), Some(Node::Dir)) {
            return Err(not_found());
        }
        let children = self
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir));
        let entry = |(path, node): (&PathBuf, &Node)| Entry {
            name: path
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default(),
            len: match node {
                Node::File(id) => self.inodes[id].data.len() as u64,
                Node::Dir => 0,
            },
            is_dir: *node == Node::Dir,
        };
        Ok(children.map(entry).collect())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if !self.names.contains_key(from) {
            return Err(not_found());
        }
        self.change(to, NameChange::Move(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        if !self.names.contains_key(path) {
            return Err(not_found());
        }
        self.change(path, NameChange::Unset(path.to_path_buf()));
        Ok(())
    }

    pub fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        if !self.list(path)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.remove(path)
    }

    pub fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if self.failing_dir_syncs > 0 {
            self.failing_dir_syncs -= 1;
            self.stats.faults += 1;
            return Err(eio());
        }
        if !matches!(self.names.get(dir), Some(Node::Dir)) {
            return Err(not_found());
        }
        for (of, change) in std::mem::take(&mut self.pending) {
            if of == dir {
                apply(&mut self.durable_names, &change);
            } else {
                self.pending.push((of, change));
            }
        }
        Ok(())
    }

    pub fn write(&mut self, id: Id, position: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.alive()?;
        self.stats.writes += 1;
        let mut all: Vec<u8> = Vec::new();
        for part in parts {
            all.extend_from_slice(part);
        }
        let mut failing = self.spend().is_err();
        if self.failing_writes > 0 {
            self.failing_writes -= 1;
            self.stats.faults += 1;
            failing = true;
        } else if self.fault(self.faults.write_error) {
            failing = true;
        }
        if !all.is_empty() && (failing || self.fault(self.faults.short_write)) {
            let keep = self.random.below(all.len() as u64) as usize;
            all.truncate(keep.max(usize::from(!failing)));
        }
        let position = position as usize;
        if let Some(capacity) = self.capacity {
            let len = self.inodes[&id].data.len();
            let held = len.next_multiple_of(PAGE) as u64;
            let room = capacity.saturating_sub(self.used()) + held;
            if (position + all.len()) as u64 > room {
                all.truncate(room.saturating_sub(position as u64) as usize);
                failing |= all.is_empty() && !parts.iter().all(|p| p.is_empty());
                if all.is_empty() {
                    return Err(io::Error::from_raw_os_error(libc::ENOSPC));
                }
            }
        }
        let inode = self.inodes.get_mut(&id).ok_or_else(not_found)?;
        inode.write(position, &all);
        if failing {
            return Err(eio());
        }
        Ok(all.len())
    }

    pub fn truncate(&mut self, id: Id, len: u64) -> io::Result<()> {
        self.spend()?;
        if self.fault(self.faults.name_error) {
            return Err(eio());
        }
        let inode = self.inodes.get_mut(&id).ok_or_else(not_found)?;
        let (old, len) = (inode.data.len(), len as usize);
        if old == len {
            return Ok(());
        }
        inode.data.resize(len, 0);
        // What is cut off and comes back later must come back as zeros.
        for page in old.min(len) / PAGE..old.max(len).div_ceil(PAGE) {
            inode.dirty.insert(page);
        }
        Ok(())
    }

    pub fn read(&mut self, id: Id, position: u64, into: &mut [u8]) -> io::Result<usize> {
        self.alive()?;
        self.stats.reads += 1;
        if self.fault(self.faults.read_error) {
            return Err(eio());
        }
        let data = &self.inodes[&id].data;
        let from = (position as usize).min(data.len());
        let count = into.len().min(data.len() - from);
        into[..count].copy_from_slice(&data[from..from + count]);
        Ok(count)
    }

    pub fn forget(&mut self, id: Id, from: u64, to: u64) {
        let pages = from as usize / PAGE..(to as usize).div_ceil(PAGE);
        let dirty = self.inode(id).dirty.range(pages).count();
        self.stats.forgotten_bytes += to - from;
        self.stats.forgotten_dirty += dirty as u64;
    }

    pub fn sync(&mut self, id: Id) -> io::Result<()> {
        self.spend()?;
        self.stats.syncs += 1;
        let mut failing = false;
        if self.failing_syncs > 0 {
            self.failing_syncs -= 1;
            self.stats.faults += 1;
            failing = true;
        } else if self.fault(self.faults.sync_error) {
            failing = true;
        }
        let State { inodes, random, .. } = self;
        let inode = inodes.get_mut(&id).ok_or_else(not_found)?;
        if failing {
            inode.lose_power(random);
            // As Linux: the pages are clean now, whether or not they reached the disk.
            return Err(eio());
        }
        inode.write_back();
        Ok(())
    }

    pub fn kill(&mut self) {
        self.epoch += 1;
        self.locks.clear();
        (self.fuse, self.dead) = (None, false);
    }

    pub fn crash(&mut self) {
        self.kill();
        // Names: of each folder's unsynced changes some first part is kept.
        let mut keep: BTreeMap<PathBuf, u64> = BTreeMap::new();
        for (dir, _) in &self.pending {
            *keep.entry(dir.clone()).or_default() += 1;
        }
        for count in keep.values_mut() {
            *count = self.random.below(*count + 1);
        }
        for (dir, change) in std::mem::take(&mut self.pending) {
            if let Some(left) = keep.get_mut(&dir)
                && *left > 0
            {
                *left -= 1;
                apply(&mut self.durable_names, &change);
            }
        }
        // A name whose folder is gone is gone as well.
        let durable = std::mem::take(&mut self.durable_names);
        for (path, node) in &durable {
            let reachable = path.ancestors().skip(1).all(|dir| {
                dir.as_os_str().is_empty() || matches!(durable.get(dir), Some(Node::Dir))
            });
            if reachable {
                self.durable_names.insert(path.clone(), *node);
            }
        }
        self.names.clone_from(&self.durable_names);
        let State { inodes, random, .. } = self;
        for inode in inodes.values_mut() {
            inode.lose_power(random);
            inode.data.clone_from(&inode.durable);
        }
    }

    pub fn corrupt(&mut self, path: &Path, position: u64, bytes: &[u8]) -> io::Result<()> {
        let id = self.file(path)?;
        let inode = self.inodes.get_mut(&id).ok_or_else(not_found)?;
        for copy in [&mut inode.data, &mut inode.durable] {
            let from = (position as usize).min(copy.len());
            let to = (from + bytes.len()).min(copy.len());
            copy[from..to].copy_from_slice(&bytes[..to - from]);
        }
        Ok(())
    }
}

impl Inode {
    fn write(&mut self, position: usize, bytes: &[u8]) {
        let end = position + bytes.len();
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[position..end].copy_from_slice(bytes);
        for page in position / PAGE..end.div_ceil(PAGE) {
            self.dirty.insert(page);
        }
    }

    /// Writes the dirty pages and the length. Pages whose sync failed before count as clean, so they
    /// are not written.
    fn write_back(&mut self) {
        let len = self.data.len();
        self.durable.resize(len, 0);
        for page in std::mem::take(&mut self.dirty) {
            let from = (page * PAGE).min(len);
            let to = (from + PAGE).min(len);
            self.durable[from..to].copy_from_slice(&self.data[from..to]);
        }
    }

    /// Lets chance decide for each dirty page and the length what has reached the disk.
    fn lose_power(&mut self, random: &mut Random) {
        let (old, new) = (self.durable.len(), self.data.len());
        let len = match random.below(3) {
            0 => old,
            1 => new,
            _ => old.min(new) + random.below((old.max(new) - old.min(new)) as u64 + 1) as usize,
        };
        self.durable.resize(len, 0);
        for page in std::mem::take(&mut self.dirty) {
            let from = page * PAGE;
            let to = (from + PAGE).min(len).min(self.data.len());
            if from >= to {
                continue;
            }
            match random.below(4) {
                0 => {}
                1 | 2 => self.durable[from..to].copy_from_slice(&self.data[from..to]),
                _ => {
                    for sector in (from..to).step_by(SECTOR) {
                        let end = (sector + SECTOR).min(to);
                        if random.below(2) == 0 {
                            self.durable[sector..end].copy_from_slice(&self.data[sector..end]);
                        }
                    }
                }
            }
        }
    }
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, change: &NameChange) {
    match change {
        NameChange::Set(path, node) => {
            names.insert(path.clone(), *node);
        }
        NameChange::Unset(path) => {
            names.remove(path);
        }
        NameChange::Move(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}
