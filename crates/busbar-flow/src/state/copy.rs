//! Copies of the state of tasks, beside the database: what a task goes on from when the database cannot be read.
//!
//! A copy is one file, written anew every [`STATE_COPY_EVERY`] while the state changes, synced, and then put in the place of
//! the one before:
//!
//! | bytes | meaning |
//! | --- | --- |
//! | `busbar-state-copy-1\n` | format |
//! | 4, then so many | the task's name |
//! | 4 + 4, then so many each | key and value of a pair, in the order of keys: the first is the checkpoint |
//! | `ff ff ff ff` | the end of the pairs |
//! | 4 | CRC-32C of everything before |
//!
//! Numbers are little-endian. The file's name is a hash of the task's.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use busbar_event::hash::fnv1a;
use busbar_event::{Class, Error};
use bytes::Bytes;

use super::{Checkpoint, StateStore};
use crate::operator::Visit;

const FORMAT: &[u8] = b"busbar-state-copy-1\n";
const END: u32 = u32::MAX;

/// The copies of all tasks, in one folder.
pub(super) struct Copies {
    folder: PathBuf,
}

impl Copies {
    pub fn new(folder: &Path) -> Copies {
        Copies {
            folder: folder.to_owned(),
        }
    }

    fn path(&self, task: &str, ending: &str) -> PathBuf {
        let name = format!("{:016x}.{ending}", fnv1a(task.as_bytes()));
        self.folder.join(name)
    }

    /// Copies what a store holds of `place`, the state of `task`. `keep` is asked before the copy takes the place of the
    /// one before.
    ///
    /// # Errors
    /// What the disk or the store says; then the copy before is still there.
    pub fn write(
        &self,
        task: &str,
        store: &dyn StateStore,
        place: &str,
        keep: impl FnOnce() -> bool,
    ) -> Result<(), Error> {
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let part = self.path(task, "part");
        let mut out = Summed::new(BufWriter::new(File::create(&part).map_err(failed)?));
        out.write_all(FORMAT).map_err(failed)?;
        write_bytes(&mut out, task.as_bytes()).map_err(failed)?;
        store.scan(place, b"", &mut |key, value| {
            let mut pair = || {
                out.write_all(&length(key)?)?;
                out.write_all(&length(&value)?)?;
                out.write_all(key)?;
                out.write_all(&value)
            };
            pair().map_err(failed)
        })?;
        out.write_all(&END.to_le_bytes()).map_err(failed)?;
        let sum = out.sum;
        let mut inner = out.inner;
        inner.write_all(&sum.to_le_bytes()).map_err(failed)?;
        let file = inner.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_data().map_err(failed)?;
        if !keep() {
            return fs::remove_file(&part).map_err(failed);
        }
        fs::rename(&part, self.path(task, "copy")).map_err(failed)?;
        let folder = File::open(&self.folder).map_err(failed)?;
        folder.sync_all().map_err(failed)
    }

    /// The checkpoint of a task's copy, as it says without being read to its end; none if there is no copy.
    ///
    /// # Errors
    /// What the disk says; `flow.state-damaged`.
    pub fn checkpoint(&self, task: &str) -> Result<Option<Checkpoint>, Error> {
        let Some(mut file) = self.open(task)? else {
            return Ok(None);
        };
        let Some((_, value)) = read_pair(&mut file)? else {
            return Err(damaged());
        };
        serde_json::from_slice(&value)
            .map(Some)
            .map_err(|error| damaged().caused_by(error))
    }

    /// Calls `visit` with each pair of a task's copy, once the whole copy is known to be as it was written. False: there
    /// is none.
    ///
    /// # Errors
    /// What the disk says, or `visit`; `flow.state-damaged`.
    pub fn read(&self, task: &str, visit: &mut Visit<'_>) -> Result<bool, Error> {
        if self.open(task)?.is_none() {
            return Ok(false);
        }
        self.verify(task)?;
        let Some(mut file) = self.open(task)? else {
            return Ok(false);
        };
        while let Some((key, value)) = read_pair(&mut file)? {
            visit(&key, value)?;
        }
        Ok(true)
    }

    /// Which state of a task counts: a number that is raised when the task goes back to its copy.
    pub fn turn(&self, task: &str) -> u64 {
        let text = fs::read_to_string(self.path(task, "turn"));
        text.ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Notes that number; it is durable then.
    pub fn set_turn(&self, task: &str, turn: u64) -> Result<(), Error> {
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let part = self.path(task, "turn-part");
        let mut file = File::create(&part).map_err(failed)?;
        file.write_all(turn.to_string().as_bytes())
            .map_err(failed)?;
        file.sync_data().map_err(failed)?;
        fs::rename(&part, self.path(task, "turn")).map_err(failed)?;
        let folder = File::open(&self.folder).map_err(failed)?;
        folder.sync_all().map_err(failed)
    }

    /// Removes the copies of all tasks whose names begin with `prefix`.
    pub fn remove(&self, prefix: &str) -> Result<(), Error> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let is_copy = path.extension().is_some_and(|ending| ending == "copy");
            if is_copy
                && let Ok((name, _)) = File::open(&path)
                    .map(BufReader::new)
                    .map_err(failed)
                    .and_then(header)
                && name.starts_with(prefix.as_bytes())
            {
                fs::remove_file(path.with_extension("turn"))
                    .or_else(absent)
                    .map_err(failed)?;
                fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn open(&self, task: &str) -> Result<Option<BufReader<File>>, Error> {
        let file = match File::open(self.path(task, "copy")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let (name, file) = header(BufReader::new(file))?;
        Ok((name == task.as_bytes()).then_some(file))
    }

    fn verify(&self, task: &str) -> Result<(), Error> {
        let mut file = BufReader::new(File::open(self.path(task, "copy")).map_err(failed)?);
        let length = file.get_ref().metadata().map_err(failed)?.len();
        let mut left = length.checked_sub(4).ok_or_else(damaged)?;
        let (mut sum, mut chunk) = (0, vec![0; 1 << 16]);
        while left > 0 {
            let read = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.read_exact(&mut chunk[..read]).map_err(cut_off)?;
            sum = crc32c::crc32c_append(sum, &chunk[..read]);
            left -= read as u64;
        }
        let mut wanted = [0; 4];
        file.read_exact(&mut wanted).map_err(cut_off)?;
        match u32::from_le_bytes(wanted) == sum {
            true => Ok(()),
            false => Err(damaged()),
        }
    }
}

/// The name at the beginning of a copy, and what follows.
fn header(mut file: BufReader<File>) -> Result<(Vec<u8>, BufReader<File>), Error> {
    let mut format = [0; FORMAT.len()];
    file.read_exact(&mut format).map_err(cut_off)?;
    if format != FORMAT {
        return Err(damaged());
    }
    let length = read_u32(&mut file)?;
    let name = read_bytes(&mut file, length)?;
    Ok((name, file))
}

/// The next pair; none at the end.
fn read_pair(file: &mut BufReader<File>) -> Result<Option<(Vec<u8>, Bytes)>, Error> {
    let key = read_u32(file)?;
    if key == END {
        return Ok(None);
    }
    let value = read_u32(file)?;
    let key = read_bytes(file, key)?;
    Ok(Some((key, read_bytes(file, value)?.into())))
}

fn read_u32(file: &mut impl Read) -> Result<u32, Error> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes).map_err(cut_off)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read_bytes(file: &mut BufReader<File>, length: u32) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = file.take(u64::from(length)).read_to_end(&mut bytes);
    match read.map_err(failed)? == length as usize {
        true => Ok(bytes),
        false => Err(damaged()),
    }
}

fn write_bytes(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&length(bytes)?)?;
    out.write_all(bytes)
}

fn length(bytes: &[u8]) -> io::Result<[u8; 4]> {
    let length = u32::try_from(bytes.len())
        .ok()
        .filter(|length| *length != END);
    let length = length.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(length.to_le_bytes())
}

/// Writes, and sums up what it has written.
struct Summed<W> {
    inner: W,
    sum: u32,
}

impl<W: Write> Summed<W> {
    fn new(inner: W) -> Summed<W> {
        Summed { inner, sum: 0 }
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum = crc32c::crc32c_append(self.sum, &bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn absent(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

fn failed(error: io::Error) -> Error {
    Error::new(Class::Transient, "flow.state-disk").caused_by(error)
}

/// A file that ends too early is damaged.
fn cut_off(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(),
        _ => failed(error),
    }
}

fn damaged() -> Error {
    Error::new(Class::Permanent, "flow.state-damaged")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::MemoryStore;

    fn pairs(copies: &Copies) -> Result<Vec<(Vec<u8>, Bytes)>, Error> {
        let mut found = Vec::new();
        copies.read("f/in/0", &mut |key, value| {
            found.push((key.to_vec(), value));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn a_copy_is_read_as_it_was_written_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let copies = Copies::new(folder.path());
        let store = MemoryStore::default();
        let value = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let checkpoint = r#"{"generation":0,"position":7,"ticks":0,"ticks_read":0,"seen":null,"watermark":null,"producers":{}}"#;
        let changes = vec![
            (Bytes::from_static(b"c"), value(checkpoint)),
            (Bytes::from_static(b"o/w/a"), value("1")),
            (Bytes::from_static(b"o/w/b"), value("")),
        ];
        store.commit("f/in/0~2", changes).unwrap();
        assert_eq!(copies.checkpoint("f/in/0").unwrap(), None);
        copies.write("f/in/0", &store, "f/in/0~2", || true).unwrap();
        assert_eq!(copies.checkpoint("f/in/0").unwrap().unwrap().position, 7);
        let whole = pairs(&copies).unwrap();
        assert_eq!(whole.len(), 3);
        assert_eq!(whole[1], (b"o/w/a".to_vec(), Bytes::from_static(b"1")));
        // One that is not wanted any more leaves the one before.
        store
            .commit("f/in/0~2", vec![(Bytes::from_static(b"o/w/a"), None)])
            .unwrap();
        copies
            .write("f/in/0", &store, "f/in/0~2", || false)
            .unwrap();
        assert_eq!(pairs(&copies).unwrap(), whole);
        // Every byte that is another is found, and so is every end that is missing.
        let path = copies.path("f/in/0", "copy");
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            let found = pairs(&copies);
            assert!(found.is_err() || found.unwrap().is_empty(), "byte {at}");
            fs::write(&path, &good[..at]).unwrap();
            assert!(pairs(&copies).is_err(), "cut at {at}");
        }
        fs::write(&path, &good).unwrap();
        copies.set_turn("f/in/0", 3).unwrap();
        assert_eq!((copies.turn("f/in/0"), copies.turn("f/in/1")), (3, 0));
        copies.remove("g/").unwrap();
        assert_eq!(pairs(&copies).unwrap(), whole);
        copies.remove("f/").unwrap();
        assert_eq!(pairs(&copies).unwrap(), []);
        assert_eq!(copies.turn("f/in/0"), 0);
    }
}
