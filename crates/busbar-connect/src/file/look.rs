//! Which file has something new, and from where on.
//!
//! A file is known by its inode and a fingerprint of its first line, not by its name: it may be renamed
//! (rotated) while it is read, and an inode may come back as another file. When it is cut and written
//! anew it is another file too, numbered.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use busbar_event::{Class, Error};
use busbar_flow::Resume;

use super::lines::{self, BYTE_ORDER_MARK};
use crate::limits::{
    FILE_BAD_RETRY, FILE_FINGERPRINT_BYTES, FILE_LINE_BYTES_MAX, FILE_READ_BYTES, FILES_MAX,
};

/// The files of a pattern and what is known of each.
pub struct Files {
    folder: PathBuf,
    pattern: String,
    csv: bool,
    resume: Resume,
    /// Part to the end of what was handed on.
    positions: HashMap<Arc<str>, u64>,
    /// Inode to what was seen there.
    seen: HashMap<u64, Seen>,
    /// Files that could not be read, and when to try again.
    bad: HashMap<PathBuf, Instant>,
    /// The name of the file that had something last: others get their turn.
    turn: String,
}

struct Seen {
    fingerprint: u64,
    /// How often it was cut and written anew.
    number: u32,
    part: Arc<str>,
    columns: Option<Arc<[String]>>,
    /// Length and time of the last look, when there was nothing new.
    quiet: Option<(u64, SystemTime)>,
    /// It was shorter than its position, and not yet anything else.
    was_cut: bool,
}

/// What one look brought.
pub struct Piece {
    /// The file's name.
    pub name: String,
    /// The name of its position.
    pub part: Arc<str>,
    /// Columns of a CSV file.
    pub columns: Option<Arc<[String]>>,
    /// Where `bytes` begins in the file.
    pub from: u64,
    /// Begins with a record.
    pub bytes: Vec<u8>,
}

impl Files {
    pub fn new(path: &Path, csv: bool, resume: Resume) -> Files {
        let pattern = path.file_name().unwrap_or_default();
        Files {
            folder: path.parent().map_or_else(PathBuf::new, Path::to_path_buf),
            pattern: pattern.to_string_lossy().into_owned(),
            csv,
            resume,
            positions: HashMap::new(),
            seen: HashMap::new(),
            bad: HashMap::new(),
            turn: String::new(),
        }
    }

    /// Notes that a part was handed on up to a position.
    pub fn handed_on(&mut self, part: &Arc<str>, position: u64) {
        self.positions.insert(Arc::clone(part), position);
    }

    fn position(&self, part: &str) -> u64 {
        let known = self.positions.get(part).copied();
        known.unwrap_or_else(|| self.resume.position(part))
    }

    /// The next records of the first file that has any, beginning behind the one that had some last. Only
    /// [`Files::handed_on`] moves positions: a look whose answer is thrown away is repeated.
    pub fn next(&mut self) -> Result<Option<Piece>, Error> {
        let files = self.list()?;
        let first = files.partition_point(|(name, ..)| *name <= self.turn);
        let now = Instant::now();
        for (name, path, metadata) in files[first..].iter().chain(&files[..first]) {
            if self.bad.get(path).is_some_and(|until| now < *until) {
                continue;
            }
            match self.look(name, path, metadata) {
                Ok(None) => {}
                Ok(piece) => {
                    self.turn.clone_from(name);
                    return Ok(piece);
                }
                Err(why) if why.kind() == io::ErrorKind::NotFound => {}
                Err(why) => {
                    // The others go on.
                    self.bad.insert(path.clone(), now + FILE_BAD_RETRY);
                    return Err(Error::new(Class::Permanent, "connect.file-failed")
                        .with("file", path.display())
                        .caused_by(why));
                }
            }
        }
        Ok(None)
    }

    /// Files whose names match, in the order of their names.
    fn list(&mut self) -> Result<Vec<(String, PathBuf, fs::Metadata)>, Error> {
        // Whatever is wrong with the folder may pass: it is mounted late, or its rights are put right.
        let failed = |why| {
            Error::new(Class::Transient, "connect.file-failed")
                .with("file", self.folder.display())
                .caused_by(why)
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !matches(&self.pattern, &name) {
                continue;
            }
            // Follows links: they are how an operator lets other folders in.
            let Ok(metadata) = fs::metadata(entry.path()) else {
                continue;
            };
            if metadata.is_file() {
                files.push((name, entry.path(), metadata));
            }
            if files.len() > FILES_MAX {
                let error = Error::new(Class::Configuration, "connect.file-too-many");
                return Err(error
                    .with("folder", self.folder.display())
                    .with("most", FILES_MAX));
            }
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        let there: std::collections::HashSet<u64> =
            files.iter().map(|(.., metadata)| metadata.ino()).collect();
        self.seen.retain(|inode, _| there.contains(inode));
        self.bad
            .retain(|bad, _| files.iter().any(|(_, path, _)| path == bad));
        Ok(files)
    }

    fn look(
        &mut self,
        name: &str,
        path: &Path,
        metadata: &fs::Metadata,
    ) -> io::Result<Option<Piece>> {
        let inode = metadata.ino();
        let state = (metadata.len(), metadata.modified()?);
        let known = self.seen.get(&inode);
        if known.is_some_and(|seen| seen.quiet == Some(state)) {
            return Ok(None);
        }
        let position = known.map(|seen| self.position(&seen.part));
        if position.is_some_and(|position| state.0 < position)
            && let Some(seen) = self.seen.get_mut(&inode)
        {
            seen.was_cut = true;
        }
        let mut file = fs::File::open(path)?;
        let mut head = vec![0; FILE_FINGERPRINT_BYTES];
        let filled = read_up_to(&mut file, &mut head)?;
        head.truncate(filled);
        match memchr::memchr(b'\n', &head) {
            Some(end) => head.truncate(end),
            // Its first line is still being written.
            None if head.len() < FILE_FINGERPRINT_BYTES => return Ok(None),
            None => {}
        }
        self.identify(inode, fnv(&head), state.0);
        let Some(seen) = self.seen.get(&inode) else {
            return Ok(None);
        };
        let (part, mut columns) = (Arc::clone(&seen.part), seen.columns.clone());
        let position = self.position(&part);
        if self.csv && columns.is_none() {
            match header(&mut file)? {
                Some(read) => columns = Some(read.into()),
                None => return Ok(None),
            }
        }
        let piece = read(&mut file, position, self.csv)?;
        if let Some(seen) = self.seen.get_mut(&inode) {
            seen.columns.clone_from(&columns);
            seen.quiet = piece.is_none().then_some(state);
        }
        Ok(piece.map(|(from, bytes)| Piece {
            name: name.to_owned(),
            part,
            columns,
            from,
            bytes,
        }))
    }

    /// Finds out whether an inode is the file it was, and under which name its position is kept.
    fn identify(&mut self, inode: u64, fingerprint: u64, length: u64) {
        let known = self.seen.get(&inode);
        let same = known.filter(|seen| seen.fingerprint == fingerprint);
        if same.is_some_and(|seen| !seen.was_cut) {
            return;
        }
        let name = |number: u32| -> Arc<str> {
            match number {
                0 => format!("{inode:x}-{fingerprint:016x}").into(),
                n => format!("{inode:x}-{fingerprint:016x}.{n}").into(),
            }
        };
        let has =
            |part: &str| self.positions.contains_key(part) || self.resume.0.contains_key(part);
        let mut number = same.map_or(0, |seen| seen.number + 1);
        while has(&name(number + 1)) {
            number += 1;
        }
        // Cut while nobody looked.
        if length < self.position(&name(number)) {
            number += 1;
        }
        let seen = Seen {
            fingerprint,
            number,
            part: name(number),
            columns: None,
            quiet: None,
            was_cut: false,
        };
        self.seen.insert(inode, seen);
    }
}

/// The columns, from the first row; none while it is still being written.
fn header(file: &mut fs::File) -> io::Result<Option<Vec<String>>> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = vec![0; FILE_READ_BYTES];
    let filled = read_up_to(file, &mut bytes)?;
    let Some(row) = lines::records(&bytes[..filled], true).next() else {
        return Ok(None);
    };
    if row.cut {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the first line has more than {FILE_LINE_BYTES_MAX} bytes"),
        ));
    }
    let row = row.bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(row.bytes);
    Ok(Some(lines::columns(&String::from_utf8_lossy(row))))
}

/// What there is from `position` on, beginning with a record, if it holds a whole one; and where it
/// begins.
fn read(file: &mut fs::File, position: u64, csv: bool) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut from = position;
    let mut bytes = vec![0; FILE_READ_BYTES];
    if position == 0 {
        file.seek(SeekFrom::Start(0))?;
        let filled = read_up_to(file, &mut bytes)?;
        let skip = match csv {
            // The first row is the header.
            true => lines::records(&bytes[..filled], true)
                .next()
                .map_or(0, |r| r.end),
            false if bytes.starts_with(BYTE_ORDER_MARK) => BYTE_ORDER_MARK.len(),
            false => 0,
        };
        from = skip as u64;
    } else {
        // In the middle of a line that was cut off: its rest is not another one.
        file.seek(SeekFrom::Start(position - 1))?;
        let mut before = [0];
        if read_up_to(file, &mut before)? == 1 && before[0] != b'\n' {
            loop {
                let filled = read_up_to(file, &mut bytes)?;
                if filled == 0 {
                    return Ok(None);
                }
                match memchr::memchr(b'\n', &bytes[..filled]) {
                    Some(end) => {
                        from += end as u64 + 1;
                        break;
                    }
                    None => from += filled as u64,
                }
            }
        }
    }
    file.seek(SeekFrom::Start(from))?;
    let filled = read_up_to(file, &mut bytes)?;
    bytes.truncate(filled);
    let some = lines::records(&bytes, csv).next().is_some();
    Ok(some.then_some((from, bytes)))
}

fn read_up_to(file: &mut fs::File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(filled)
}

/// FNV-1a: enough to tell files apart that nobody made to look alike.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Whether a name matches a pattern in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(first) else {
        return false;
    };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match name.find(piece) {
            Some(at) => name = &name[at + piece.len()..],
            None => return false,
        }
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_text() {
        for (pattern, name, fits) in [
            ("*.csv", "a.csv", true),
            ("*.csv", "a.csv.gz", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "ac", false),
            ("a*a", "a", false),
            ("plain", "plain", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
