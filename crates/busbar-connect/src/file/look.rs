//! Which file has something new, and from where on.
//!
//! A file is identified by its inode, the time at which it was created (where the file system records it) and a hash of
//! its first line, not by its name: it may be renamed (rotated) while it is read, and an inode may be used again for
//! another file. A file that was truncated and written anew counts as another file, with a number of its own: it is
//! shorter than what was read of it, or the bytes before the position are no longer those that were read there. A hash
//! of these bytes is kept with the position ([`TailMark`]), so that this is noticed after a restart too.
//!
//! Positions of files that are gone are kept, because the files may come back; their number is bounded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use busbar_connector::Resume;
use busbar_event::{Class, Error, hash::fnv1a};

use super::LineFormat;
use super::lines::{self, BYTE_ORDER_MARK, Kind};
use crate::limits::{
    FILE_BAD_RETRY, FILE_FINGERPRINT_BYTES, FILE_LINE_BYTES_MAX, FILE_OPEN_QUOTE_MAX,
    FILE_READ_BYTES, FILE_TAIL_BYTES, FILES_GONE_MAX, FILES_MAX,
};
use crate::places::{PathRefused, Places};

/// The files of a pattern and what is known of each.
pub struct Files {
    project: PathBuf,
    places: Places,
    folder: PathBuf,
    pattern: String,
    format: LineFormat,
    /// Part to how far it was handed on. In order, so that the lives of one file stand together.
    positions: BTreeMap<Arc<str>, Place>,
    /// Inode to what was seen there.
    seen: HashMap<u64, Seen>,
    /// Files that could not be read, and when to try again.
    bad: HashMap<PathBuf, Instant>,
    /// The name of the file that had something last: others get their turn.
    turn: String,
    /// Counts the times that the folder was listed.
    round: u64,
    /// Parts whose positions were forgotten and that nobody was told of yet.
    forgotten: Vec<Arc<str>>,
}

/// How far a part was handed on.
#[derive(Clone, Copy, Default)]
struct Place {
    end: u64,
    /// The bytes before `end`; none where they are not known.
    tail: Option<TailMark>,
    /// The round in which its file was missed first; 0 from an earlier start.
    gone: u64,
}

/// Length and hash of the bytes before a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailMark {
    length: u32,
    hash: u64,
}

impl TailMark {
    /// The tail of two runs of bytes, the second of which ends at a position; none of no bytes.
    fn of(first: &[u8], second: &[u8]) -> Option<TailMark> {
        let second = &second[second.len().saturating_sub(FILE_TAIL_BYTES)..];
        let first = &first[first.len().saturating_sub(FILE_TAIL_BYTES - second.len())..];
        let tail = [first, second].concat();
        (!tail.is_empty()).then(|| TailMark {
            length: tail.len() as u32,
            hash: fnv1a(&tail),
        })
    }

    /// As the note that is kept with a position: the length in four bytes and the hash in eight, big endian.
    fn to_note(self) -> Vec<u8> {
        [&self.length.to_be_bytes()[..], &self.hash.to_be_bytes()].concat()
    }

    /// From a note; none from a note of another version.
    fn from_note(note: &[u8]) -> Option<TailMark> {
        let (length, hash) = note.split_first_chunk()?;
        Some(TailMark {
            length: u32::from_be_bytes(*length).min(FILE_TAIL_BYTES as u32),
            hash: u64::from_be_bytes(hash.try_into().ok()?),
        })
    }

    /// Whether the bytes of a file before a position are these.
    fn precedes(self, file: &mut fs::File, position: u64) -> io::Result<bool> {
        let Some(from) = position.checked_sub(self.length.into()) else {
            return Ok(false);
        };
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = vec![0; self.length as usize];
        let filled = read_up_to(file, &mut bytes)?;
        Ok(fnv1a(&bytes[..filled]) == self.hash)
    }
}

struct Seen {
    identity: Identity,
    /// How often it was cut and written anew.
    number: u32,
    part: Arc<str>,
    columns: Option<Arc<[String]>>,
    /// Length and time of the last look, when there was nothing new.
    quiet: Option<State>,
    /// Since when, and in which state, a row at its end has an open quote.
    open: Option<(Instant, State)>,
    /// Lines before a byte, as far as they were counted.
    counted: (u64, u64),
    /// It is no longer what was read, and not yet anything else.
    was_cut: bool,
}

/// Length and time of the last change.
type State = (u64, SystemTime);

/// What tells two files with one inode apart.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    fingerprint: u64,
    /// Nanoseconds since 1970, where the file system knows.
    born: Option<u128>,
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
    /// The bytes before `from`, as many as a tail has.
    lead: Vec<u8>,
    /// How its records are told apart.
    pub kind: Kind,
    path: PathBuf,
    inode: u64,
}

impl Piece {
    /// The bytes of the piece before a position in its file.
    fn before(&self, position: u64) -> &[u8] {
        let end = usize::try_from(position - self.from).unwrap_or(usize::MAX);
        self.bytes.get(..end).unwrap_or(&self.bytes)
    }

    /// What is kept with a position in the piece, to recognise the place after a restart.
    pub fn note(&self, position: u64) -> Vec<u8> {
        TailMark::of(&self.lead, self.before(position)).map_or_else(Vec::new, TailMark::to_note)
    }
}

impl Files {
    /// The files of a pattern in a project's folder, from where they were read up to the last time.
    pub fn new(
        project: &Path,
        pattern: &str,
        places: Places,
        format: LineFormat,
        resume: &Resume,
    ) -> Files {
        let path = project.join(pattern);
        let pattern = path.file_name().unwrap_or_default();
        let place = |(part, end): (&String, &u64)| {
            let place = Place {
                end: *end,
                tail: TailMark::from_note(resume.note(part)),
                gone: 0,
            };
            (Arc::from(part.as_str()), place)
        };
        Files {
            project: project.to_path_buf(),
            places,
            folder: path.parent().map_or_else(PathBuf::new, Path::to_path_buf),
            pattern: pattern.to_string_lossy().into_owned(),
            format,
            positions: resume.positions.iter().map(place).collect(),
            seen: HashMap::new(),
            bad: HashMap::new(),
            turn: String::new(),
            round: 0,
            forgotten: Vec::new(),
        }
    }

    /// Notes that a piece was handed on up to a position in its file.
    pub fn handed_on(&mut self, piece: &Piece, position: u64) {
        let tail = TailMark::of(&piece.lead, piece.before(position));
        let place = self.positions.entry(Arc::clone(&piece.part)).or_default();
        *place = Place {
            end: position,
            // Of an empty piece nothing new is known.
            tail: tail.or(place.tail),
            gone: 0,
        };
    }

    /// Parts whose positions are kept no longer, each named once.
    pub fn forgotten(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.forgotten)
    }

    /// The number of the line, from 1, that begins at a byte of a piece's file. Counted only when somebody
    /// asks, and on from where it was counted to before; none when the file cannot be read any more.
    pub fn line(&mut self, piece: &Piece, at: u64) -> Option<u64> {
        let seen = self.seen.get_mut(&piece.inode)?;
        let (from, mut lines) = match seen.counted {
            counted if counted.0 <= at => counted,
            _ => (0, 0),
        };
        let mut file = fs::File::open(&piece.path).ok()?;
        if file.metadata().ok()?.ino() != piece.inode {
            return None;
        }
        file.seek(SeekFrom::Start(from)).ok()?;
        let mut rest = file.take(at - from);
        let mut bytes = vec![0; FILE_READ_BYTES.min(usize::try_from(at - from).ok()? + 1)];
        loop {
            match read_up_to(&mut rest, &mut bytes).ok()? {
                0 => break,
                filled => lines += memchr::memchr_iter(b'\n', &bytes[..filled]).count() as u64,
            }
        }
        seen.counted = (at, lines);
        Some(lines + 1)
    }

    fn position(&self, part: &str) -> u64 {
        self.positions.get(part).map_or(0, |place| place.end)
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

    /// Files whose names match, in the order of their names, each with its path without links.
    fn list(&mut self) -> Result<Vec<(String, PathBuf, fs::Metadata)>, Error> {
        // Whatever is wrong with the folder may pass: it is mounted late, or its rights are corrected.
        let failed = |why| {
            Error::new(Class::Transient, "connect.file-failed")
                .with("file", self.folder.display())
                .caused_by(why)
        };
        let folder = self.places.resolve(&self.project, &self.folder);
        let folder = folder.map_err(|refused| match refused {
            PathRefused::Outside(error) => error,
            PathRefused::Io(why) => failed(why),
        })?;
        let mut files = Vec::new();
        let mut outside = None;
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !matches(&self.pattern, &name) {
                continue;
            }
            let Ok(mut metadata) = fs::symlink_metadata(entry.path()) else {
                continue;
            };
            let mut path = entry.path();
            if metadata.is_symlink() {
                path = match self.places.resolve(&self.project, &path) {
                    Ok(path) => path,
                    Err(PathRefused::Outside(error)) => {
                        outside = Some(error);
                        continue;
                    }
                    Err(PathRefused::Io(_)) => continue,
                };
                let Ok(target) = fs::symlink_metadata(&path) else {
                    continue;
                };
                metadata = target;
            }
            if metadata.is_file() {
                files.push((name, path, metadata));
            }
            if files.len() > FILES_MAX {
                let error = Error::new(Class::Configuration, "connect.file-too-many");
                return Err(error
                    .with("folder", self.folder.display())
                    .with("most", FILES_MAX));
            }
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        self.miss(files.iter().map(|(.., metadata)| metadata.ino()).collect());
        self.bad
            .retain(|bad, _| files.iter().any(|(_, path, _)| path == bad) || *bad == self.folder);
        self.tell_outside(outside)?;
        Ok(files)
    }

    /// Reports a link that leads outside, and then leaves it out for a while, so that the other files are read.
    fn tell_outside(&mut self, outside: Option<Error>) -> Result<(), Error> {
        let Some(error) = outside else { return Ok(()) };
        let now = Instant::now();
        if self.bad.get(&self.folder).is_some_and(|until| now < *until) {
            return Ok(());
        }
        self.bad.insert(self.folder.clone(), now + FILE_BAD_RETRY);
        let mut told = Error::new(Class::Permanent, error.code());
        for (name, value) in error.args() {
            told = told.with(name, value);
        }
        Err(told)
    }

    /// Notes which files are gone, now that these inodes are there, and forgets those that have been gone
    /// longest when there are too many.
    fn miss(&mut self, there: HashSet<u64>) {
        self.round += 1;
        let Files {
            positions, seen, ..
        } = self;
        seen.retain(|inode, seen| {
            let stays = there.contains(inode);
            if !stays && let Some(place) = positions.get_mut(&seen.part) {
                place.gone = self.round;
            }
            stays
        });
        if self.positions.len() <= self.seen.len() + FILES_GONE_MAX {
            return;
        }
        let current: HashSet<&str> = self.seen.values().map(|seen| &*seen.part).collect();
        // One that is there and was not looked at yet may be any of those that it has been.
        let unsure = |part: &str| {
            let inode = part.split('-').next().unwrap_or_default();
            u64::from_str_radix(inode, 16)
                .is_ok_and(|inode| there.contains(&inode) && !self.seen.contains_key(&inode))
        };
        let mut gone: Vec<(u64, usize, Arc<str>)> = self
            .positions
            .iter()
            .filter(|(part, _)| !current.contains(&***part) && !unsure(part))
            // Of the lives of one file the longer name is the later one.
            .map(|(part, place)| (place.gone, part.len(), Arc::clone(part)))
            .collect();
        gone.sort_unstable();
        let too_many = gone.len().saturating_sub(FILES_GONE_MAX);
        for (.., part) in gone.drain(..too_many) {
            self.positions.remove(&part);
            self.forgotten.push(part);
        }
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
        // Nobody has gone on writing for so long that nobody will.
        let given_up = known
            .and_then(|seen| seen.open)
            .is_some_and(|(since, at)| at == state && since.elapsed() >= FILE_OPEN_QUOTE_MAX);
        if !given_up && known.is_some_and(|seen| seen.quiet == Some(state)) {
            return Ok(None);
        }
        let place = known
            .and_then(|seen| self.positions.get(&seen.part))
            .copied();
        if place.is_some_and(|place| state.0 < place.end)
            && let Some(seen) = self.seen.get_mut(&inode)
        {
            seen.was_cut = true;
        }
        let mut file = fs::File::open(path)?;
        if file.metadata()?.ino() != inode {
            // Another file, or a link, was put in its place since the folder was listed.
            return Ok(None);
        }
        let mut head = vec![0; FILE_FINGERPRINT_BYTES];
        let filled = read_up_to(&mut file, &mut head)?;
        head.truncate(filled);
        let end = match self.format {
            LineFormat::Hl7 => memchr::memchr2(b'\r', b'\n', &head),
            _ => memchr::memchr(b'\n', &head),
        };
        match end {
            Some(end) => head.truncate(end),
            // Its first line is still being written.
            None if head.len() < FILE_FINGERPRINT_BYTES => return Ok(None),
            None => {}
        }
        if let (Some(place), Some(seen)) = (place, self.seen.get_mut(&inode)) {
            seen.was_cut |= !place.continues(&mut file)?;
        }
        let born = metadata.created().ok();
        let born = born.and_then(|born| born.duration_since(SystemTime::UNIX_EPOCH).ok());
        let identity = Identity {
            fingerprint: fnv1a(&head),
            born: born.map(|born| born.as_nanos()),
        };
        self.identify(inode, identity, &mut file)?;
        let Some(seen) = self.seen.get(&inode) else {
            return Ok(None);
        };
        let (part, mut columns) = (Arc::clone(&seen.part), seen.columns.clone());
        let position = self.position(&part);
        let csv = self.format == LineFormat::Csv;
        let kind = match (self.format, given_up) {
            (LineFormat::Csv, false) => Kind::Row,
            (LineFormat::Csv, true) => Kind::LastRow,
            (LineFormat::Hl7, false) => Kind::Message,
            (LineFormat::Hl7, true) => Kind::LastMessage,
            (LineFormat::Ndjson | LineFormat::Lines, _) => Kind::Line,
        };
        let mut found = Found::Nothing;
        if csv && columns.is_none() {
            match header(&mut file, kind)? {
                Some(read) => columns = Some(read.into()),
                // Its first line is whole, so a quote in it is open.
                None => found = Found::Open,
            }
        }
        if !csv || columns.is_some() {
            found = read(&mut file, position, kind)?;
        }
        if let Some(seen) = self.seen.get_mut(&inode) {
            seen.columns.clone_from(&columns);
            seen.quiet = (!matches!(found, Found::Records(..))).then_some(state);
            seen.open = match (&found, seen.open) {
                (Found::Open, Some((since, at))) if at == state => Some((since, at)),
                (Found::Open, _) => Some((Instant::now(), state)),
                // What follows the row that was given up is as old as it.
                (Found::Records(..), open) if given_up => open,
                _ => None,
            };
        }
        Ok(match found {
            Found::Records(from, bytes) => Some(Piece {
                name: name.to_owned(),
                part,
                columns,
                from,
                lead: lead(&mut file, from)?,
                bytes,
                kind,
                path: path.to_owned(),
                inode,
            }),
            _ => None,
        })
    }

    /// Finds out whether an inode is the file it was, and under which name its position is kept.
    fn identify(&mut self, inode: u64, identity: Identity, file: &mut fs::File) -> io::Result<()> {
        let known = self.seen.get(&inode);
        let same = known.filter(|seen| seen.identity == identity);
        if same.is_some_and(|seen| !seen.was_cut) {
            return Ok(());
        }
        let base = match identity.born {
            Some(born) => format!("{inode:x}-{:016x}-{born:x}", identity.fingerprint),
            None => format!("{inode:x}-{:016x}", identity.fingerprint),
        };
        let name = |number: u32| -> Arc<str> {
            match number {
                0 => base.as_str().into(),
                n => format!("{base}.{n}").into(),
            }
        };
        let lives = format!("{base}.");
        let known_lives = self
            .positions
            .range(Arc::<str>::from(lives.as_str())..)
            .map_while(|(part, _)| part.strip_prefix(&lives))
            .filter_map(|number| number.parse().ok());
        let last = known_lives.max().unwrap_or(0);
        let mut number = same.map_or(0, |seen| seen.number + 1).max(last);
        // Truncated, or written anew in place, while nobody looked.
        if let Some(place) = self.positions.get(&name(number))
            && !place.continues(file)?
        {
            number += 1;
        }
        let seen = Seen {
            identity,
            number,
            part: name(number),
            columns: None,
            quiet: None,
            open: None,
            counted: (0, 0),
            was_cut: false,
        };
        if let Some(before) = self.seen.insert(inode, seen)
            && let Some(place) = self.positions.get_mut(&before.part)
        {
            place.gone = self.round;
        }
        Ok(())
    }
}

impl Place {
    /// Whether a file is still what was read up to here.
    fn continues(&self, file: &mut fs::File) -> io::Result<bool> {
        if file.metadata()?.len() < self.end {
            return Ok(false);
        }
        self.tail
            .map_or(Ok(true), |tail| tail.precedes(file, self.end))
    }
}

/// What a file has behind its position.
enum Found {
    /// No whole record.
    Nothing,
    /// Whole lines, but a row in which a quote is open.
    Open,
    /// Where they begin, and bytes that begin with a whole record.
    Records(u64, Vec<u8>),
}

/// The columns, from the first row; none while it is still being written.
fn header(file: &mut fs::File, kind: Kind) -> io::Result<Option<Vec<String>>> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = vec![0; FILE_READ_BYTES];
    let filled = read_up_to(file, &mut bytes)?;
    let Some(row) = lines::records(&bytes[..filled], kind).next() else {
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
fn read(file: &mut fs::File, position: u64, kind: Kind) -> io::Result<Found> {
    let mut from = position;
    let mut bytes = vec![0; FILE_READ_BYTES];
    if position == 0 {
        file.seek(SeekFrom::Start(0))?;
        let filled = read_up_to(file, &mut bytes)?;
        let skip = match kind {
            // The first row is the header.
            Kind::Row | Kind::LastRow => lines::records(&bytes[..filled], kind)
                .next()
                .map_or(0, |r| r.end),
            _ if bytes.starts_with(BYTE_ORDER_MARK) => BYTE_ORDER_MARK.len(),
            _ => 0,
        };
        from = skip as u64;
    } else {
        // In the middle of a line that was cut off: its rest is not another one.
        file.seek(SeekFrom::Start(position - 1))?;
        let mut before = [0];
        if read_up_to(file, &mut before)? == 1 && !kind.is_break(before[0]) {
            loop {
                let filled = read_up_to(file, &mut bytes)?;
                if filled == 0 {
                    return Ok(Found::Nothing);
                }
                match bytes[..filled].iter().position(|byte| kind.is_break(*byte)) {
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
    let some = lines::records(&bytes, kind).next().is_some();
    Ok(if some {
        Found::Records(from, bytes)
    } else if kind != Kind::Line && bytes.iter().any(|byte| kind.is_break(*byte)) {
        Found::Open
    } else {
        Found::Nothing
    })
}

/// The bytes before a position, as many as a tail has.
fn lead(file: &mut fs::File, position: u64) -> io::Result<Vec<u8>> {
    let length = position.min(FILE_TAIL_BYTES as u64);
    file.seek(SeekFrom::Start(position - length))?;
    let mut bytes = vec![0; length as usize];
    let filled = read_up_to(file, &mut bytes)?;
    bytes.truncate(filled);
    Ok(bytes)
}

fn read_up_to(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
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

    /// What is kept of files that are gone is bounded, and what is there keeps its place.
    #[test]
    fn positions_of_files_that_are_gone_are_forgotten_when_they_are_too_many() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |resume: &Resume| {
            let format = LineFormat::Lines;
            Files::new(folder.path(), "*.log", Places::default(), format, resume)
        };
        let log = folder.path().join("a.log");
        let look = |files: &mut Files| files.next().expect("a look");
        fs::write(&log, "head\n1\n").expect("written");
        let mut files = at(&Resume::default());
        let piece = look(&mut files).expect("a piece");
        let (part, end) = (Arc::clone(&piece.part), piece.bytes.len() as u64);
        files.handed_on(&piece, end);
        assert!(look(&mut files).is_none());

        let more = 50;
        let mut resume = Resume::default();
        resume.positions.insert(part.to_string(), end);
        for number in 0..FILES_GONE_MAX + more {
            resume.positions.insert(format!("{number:x}-00-00"), 5);
        }
        let mut files = at(&resume);
        assert!(look(&mut files).is_none(), "it was handed on before");
        assert!(look(&mut files).is_none());
        let forgotten = files.forgotten();
        assert_eq!(forgotten.len(), more);
        assert!(!forgotten.contains(&part), "it is there");
        assert!(look(&mut files).is_none());
        assert_eq!(files.forgotten().len(), 0, "each is named once");

        // Gone last, it is forgotten last; back again, it is where it was.
        fs::rename(&log, folder.path().join("a.away")).expect("moved");
        assert!(look(&mut files).is_none());
        let forgotten = files.forgotten();
        assert!(forgotten.len() == 1 && !forgotten.contains(&part));
        fs::rename(folder.path().join("a.away"), &log).expect("moved");
        fs::write(folder.path().join("b.log"), "other\n").expect("written");
        let piece = look(&mut files).expect("a piece");
        assert_eq!(piece.name, "b.log");
    }
}
