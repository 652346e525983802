//! Checks a data folder without changing it, and says in people's words what it found.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, Entry};
use crate::error::Damage;
use crate::frame::{FIXED_BYTES, Header, Kind, SegmentHeader, Why};
use crate::index::{Index, load, read_whole};
use crate::log::{LOCK_FILE, VERSION_FILE, parse_version};
use crate::mark::{self, Mark};
use crate::recover::{Known, missing, read_tail};
use crate::scan::{Found, Scan, read_aligned};
use crate::segment::{find_salt, index_path, parse_segment_name};
use crate::store::decode;

/// Folders are looked into this deep.
const DEPTH_MAX: usize = 16;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Note,
    /// The next start puts it right by itself, and nothing acknowledged is lost.
    Warning,
    /// Something that was stored cannot be read.
    Error,
}

/// One thing the doctor found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Key in the catalogue of messages.
    pub code: &'static str,
    /// The file.
    pub file: PathBuf,
    /// Byte within the file.
    pub position: Option<u64>,
    /// Arguments of the message.
    pub args: Vec<(&'static str, String)>,
    /// In English, what it is and what it means.
    pub text: String,
}

/// What the doctor saw.
#[derive(Clone, Debug, Default)]
pub struct DoctorReport {
    /// Partitions and stores looked at.
    pub partitions: usize,
    /// Segments looked at.
    pub segments: usize,
    /// Frames whose checksums are right.
    pub frames: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of segments.
    pub bytes: u64,
    /// What there is to say, in order of files.
    pub findings: Vec<Finding>,
}

impl DoctorReport {
    /// Whether all that was stored can be read.
    pub fn healthy(&self) -> bool {
        self.findings.iter().all(|f| f.severity < Severity::Error)
    }
}

/// Checks every segment, frame, index and store in a data folder; changes nothing.
pub fn doctor(disk: &dyn Disk, dir: &Path) -> DoctorReport {
    doctor_with(disk, dir, &mut |_, _| {})
}

/// As [`doctor`]; tells `progress` which file comes next and how many bytes have been checked.
pub fn doctor_with(
    disk: &dyn Disk,
    dir: &Path,
    progress: &mut dyn FnMut(&Path, u64),
) -> DoctorReport {
    let mut doctor = Doctor {
        disk,
        progress,
        report: DoctorReport::default(),
    };
    doctor.root(dir);
    doctor.report
}

struct Doctor<'a> {
    disk: &'a dyn Disk,
    progress: &'a mut dyn FnMut(&Path, u64),
    report: DoctorReport,
}

impl Doctor<'_> {
    fn root(&mut self, dir: &Path) {
        let version = dir.join(VERSION_FILE);
        match read_whole(self.disk, &version, 1024) {
            Ok(text) => {
                if let Err(error) = parse_version(dir, &text) {
                    self.find(Severity::Error, error.code(), &version, None, error.args());
                    // Its files may mean something else.
                    return;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.find(
                    Severity::Warning,
                    "log.doctor-no-version",
                    &version,
                    None,
                    vec![],
                );
            }
            Err(e) => self.unreadable(&version, &e),
        }
        let lock = dir.join(LOCK_FILE);
        // Taking the lock of a file that is there changes nothing.
        if self.disk.open(&lock, false).is_ok()
            && let Err(e) = self.disk.lock(&lock)
            && e.kind() == io::ErrorKind::WouldBlock
        {
            self.find(Severity::Note, "log.doctor-in-use", &lock, None, vec![]);
        }
        self.folder(dir, dir, 0);
    }

    fn folder(&mut self, root: &Path, dir: &Path, depth: usize) {
        // Before the files are looked at: while a node writes, it must not be ahead of what is seen.
        let noted = mark::load(self.disk, dir);
        let entries = match self.disk.list(dir) {
            Ok(entries) => entries,
            Err(e) => return self.unreadable(dir, &e),
        };
        self.partition(root, dir, &entries, noted);
        for entry in entries.iter().filter(|entry| entry.is_dir) {
            if depth < DEPTH_MAX {
                self.folder(root, &dir.join(&entry.name), depth + 1);
            }
        }
    }

    fn partition(
        &mut self,
        root: &Path,
        dir: &Path,
        entries: &[Entry],
        noted: io::Result<Option<Mark>>,
    ) {
        let mut segments = Vec::new();
        for entry in entries.iter().filter(|entry| !entry.is_dir) {
            let path = dir.join(&entry.name);
            if let Some(base) = parse_segment_name(&entry.name) {
                segments.push((base, path, entry.len));
            } else if entry.name.ends_with(".log.damaged") {
                let args = vec![("bytes", entry.len.to_string())];
                self.find(Severity::Error, "log.doctor-set-aside", &path, None, args);
            } else if entry.name.ends_with(".new") || entry.name.ends_with(".tmp") {
                self.find(Severity::Note, "log.doctor-left-over", &path, None, vec![]);
            }
        }
        let noted = match noted {
            Ok(None) if !segments.is_empty() => {
                let file = mark::path(dir);
                self.find(Severity::Note, "log.doctor-no-mark", &file, None, vec![]);
                None
            }
            Ok(noted) => noted,
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                self.unreadable(&mark::path(dir), &e);
                None
            }
        };
        let mut lost = Vec::new();
        let gone = missing(dir, noted, &segments, &mut lost);
        // One that was set aside is told of as such, and may be removed.
        for lost in lost.iter().filter(|_| noted.is_some_and(|m| m.salt != 0)) {
            let args = vec![
                ("from", lost.from.to_string()),
                ("resume", lost.resume.to_string()),
            ];
            let file = &lost.file;
            self.find(Severity::Error, "log.doctor-missing", file, None, args);
        }
        if segments.is_empty() {
            return;
        }
        self.report.partitions += 1;
        let is_store = dir
            .strip_prefix(root)
            .is_ok_and(|below| below.starts_with("store"));
        for (i, (base, path, len)) in segments.iter().enumerate() {
            (self.progress)(path, self.report.bytes);
            let next = segments.get(i + 1).map(|next| next.0);
            let next = next.or(gone.as_ref().map(|gone| gone.base));
            if let Err(e) = self.segment(*base, path, next, noted, is_store) {
                self.unreadable(path, &e);
            }
            self.report.segments += 1;
            self.report.bytes += len;
        }
    }

    fn segment(
        &mut self,
        base: u64,
        path: &Path,
        next: Option<u64>,
        noted: Option<Mark>,
        is_store: bool,
    ) -> io::Result<()> {
        // In this order, for the same reason.
        let stored = load(self.disk, &index_path(path));
        let file = self.disk.open(path, false)?;
        let len = file.len()?;
        let head = read_aligned(&*file, 0, FIXED_BYTES)?;
        let header = SegmentHeader::decode(&head);
        let salt = match (&header, find_salt(&*file, len)?) {
            (Ok(header), _) => header.salt,
            (Err(_), Some(salt)) => salt,
            (Err(why), None) => {
                let indexed = stored.as_ref().map_or(base, |(index, _)| index.end);
                let marked = noted.filter(|m| m.base == base).map_or(base, |m| m.end);
                let resume = next.unwrap_or(indexed.max(marked).max(base));
                self.damage(path, 0, len, base, resume, why);
                return Ok(());
            }
        };
        if next.is_some() {
            if let Err(why) = &header {
                self.damage(path, 0, FIXED_BYTES as u64, base, base, why);
            }
            match &stored {
                None => self.find(Severity::Note, "log.doctor-no-index", path, None, vec![]),
                Some((index, _)) if index.salt != salt || index.base != base => {
                    let index = index_path(path);
                    self.find(
                        Severity::Note,
                        "log.doctor-stale-index",
                        &index,
                        None,
                        vec![],
                    );
                }
                Some(_) => {}
            }
        }
        let counted = self.frames(path, &*file, salt, base, len, next, is_store)?;
        if next.is_none() {
            let known = Known {
                index: stored.clone(),
                mark: noted.filter(|m| m.base == base),
                until: None,
            };
            self.tail(path, &*file, base, len, known)?;
        }
        if let Some((index, _)) = stored.filter(|(index, _)| index.salt == salt) {
            self.index(path, &index, &counted);
        }
        Ok(())
    }

    /// Counts the good frames of a segment, and reports what is bad before `next`; of the last
    /// segment the tail is judged elsewhere.
    #[allow(clippy::too_many_arguments, reason = "it is one walk over one file")]
    fn frames(
        &mut self,
        path: &Path,
        file: &dyn crate::disk::File,
        salt: u32,
        base: u64,
        len: u64,
        next: Option<u64>,
        is_store: bool,
    ) -> io::Result<Counted> {
        let mut scan = Scan::new(file, salt, FIXED_BYTES as u64, len, true);
        let mut expected = base;
        let mut counted = Counted::default();
        let mut bad: Option<(u64, Why)> = None;
        loop {
            let at = scan.position;
            match scan.next()? {
                Found::Frame(header) if header.kind == Kind::Producers => {}
                // What a failed segment holds beyond the next one's begin was never acknowledged.
                Found::Frame(header) if next.is_some_and(|next| header.base >= next) => break,
                Found::Frame(header) => {
                    if let Some((from, why)) = bad.take() {
                        self.gap(path, from, at, expected, header.base, why, next);
                    } else if header.base != expected {
                        let why = "frames are missing here";
                        self.gap(path, at, at, expected, header.base, why, next);
                    }
                    expected = header.end();
                    counted.end = expected;
                    counted.places.push((header.base, at));
                    self.report.frames += 1;
                    self.report.rows += u64::from(header.count);
                    if is_store {
                        self.changes(path, at, &mut scan, &header)?;
                    }
                }
                Found::Bad(why) => {
                    bad.get_or_insert((at, why));
                    scan.position += FIXED_BYTES as u64;
                    if !scan.resync()? {
                        break;
                    }
                }
                Found::End => break,
            }
        }
        if let Some(next) = next
            && expected < next
        {
            let (at, why) = bad.unwrap_or((len, "the file ends before the last of its events"));
            self.damage(path, at, len - at, expected, next, why);
        }
        Ok(counted)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one sentence")]
    fn gap(
        &mut self,
        path: &Path,
        at: u64,
        until: u64,
        from: u64,
        resume: u64,
        why: Why,
        next: Option<u64>,
    ) {
        if next.is_some() {
            self.damage(path, at, until - at, from, resume, why);
        }
    }

    fn changes(
        &mut self,
        path: &Path,
        at: u64,
        scan: &mut Scan<'_>,
        header: &Header,
    ) -> io::Result<()> {
        if let Ok(body) = scan.body(header)?
            && let Some(why) = decode(&body).find_map(Result::err)
        {
            let args = vec![("why", why.to_owned())];
            self.find(Severity::Error, "log.doctor-store", path, Some(at), args);
        }
        Ok(())
    }

    /// Judges the end of the last segment as the next start will.
    fn tail(
        &mut self,
        path: &Path,
        file: &dyn crate::disk::File,
        base: u64,
        len: u64,
        known: Known,
    ) -> io::Result<()> {
        // All of it, not only what the index does not cover.
        let tail = read_tail(file, path, base, len, known, false)?;
        for found in &tail.damage {
            let Damage {
                from, resume, why, ..
            } = *found;
            self.damage(path, found.position, found.bytes, from, resume, why);
        }
        if let Some((bytes, why)) = tail.torn {
            let args = vec![("bytes", bytes.to_string()), ("why", why.to_owned())];
            let at = Some(tail.index.len);
            self.find(Severity::Warning, "log.doctor-torn-tail", path, at, args);
        }
        Ok(())
    }

    /// Checks that the index leads to frames.
    fn index(&mut self, path: &Path, index: &Index, counted: &Counted) {
        let wrong = index.places.iter().find(|p| {
            counted
                .places
                .binary_search(&(p.offset, p.position))
                .is_err()
        });
        if let Some(place) = wrong {
            let args = vec![("offset", place.offset.to_string())];
            let file = index_path(path);
            self.find(
                Severity::Warning,
                "log.doctor-index",
                &file,
                Some(place.position),
                args,
            );
        }
    }

    fn damage(&mut self, path: &Path, at: u64, bytes: u64, from: u64, resume: u64, why: &str) {
        let args = vec![
            ("bytes", bytes.to_string()),
            ("from", from.to_string()),
            ("resume", resume.to_string()),
            ("why", why.to_owned()),
        ];
        self.find(Severity::Error, "log.doctor-damage", path, Some(at), args);
    }

    fn unreadable(&mut self, path: &Path, e: &io::Error) {
        let args = vec![("cause", e.to_string())];
        self.find(Severity::Error, "log.doctor-unreadable", path, None, args);
    }

    fn find(
        &mut self,
        severity: Severity,
        code: &'static str,
        file: &Path,
        position: Option<u64>,
        mut args: Vec<(&'static str, String)>,
    ) {
        args.push(("file", file.display().to_string()));
        args.push((
            "position",
            position.map_or_else(String::new, |p| p.to_string()),
        ));
        let text = render(code, &args);
        self.report.findings.push(Finding {
            severity,
            code,
            file: file.into(),
            position,
            args,
            text,
        });
    }
}

/// The good frames of a segment: offset and position of each.
#[derive(Default)]
struct Counted {
    places: Vec<(u64, u64)>,
    end: u64,
}

/// The English words of a finding; the catalogue of messages has the same (tested), and Chinese.
pub(crate) fn words(code: &str) -> &'static str {
    match code {
        "log.version" => {
            "{dir} has data format {found}; this program reads up to {supported}. Use the newer program."
        }
        "log.doctor-no-version" => {
            "{file} is missing. It says which format the data has; the next start writes it anew."
        }
        "log.doctor-in-use" => {
            "Another process has the data folder open. What it is writing just now may look torn here and is not."
        }
        "log.doctor-set-aside" => {
            "{file} ({bytes} bytes) was set aside because nothing in it can be read. It is not used; keep it for examination or remove it."
        }
        "log.doctor-left-over" => {
            "{file} was left by a crash while a file was being written anew. The old file is in place; the next start removes this one."
        }
        "log.doctor-missing" => {
            "{file} is missing. It held the newest events, from offset {from} up to {resume}, which cannot be read; the rest is served."
        }
        "log.doctor-no-mark" => {
            "{file} cannot be made out. It says how much of the newest file is known to be on the disk; the next start writes it anew."
        }
        "log.doctor-no-index" => {
            "{file} has no index. It is built anew when it is needed; nothing is lost."
        }
        "log.doctor-stale-index" => {
            "{file} belongs to an older file of the same name. It is ignored and built anew; nothing is lost."
        }
        "log.doctor-index" => {
            "{file} leads to a place (byte {position}, offset {offset}) where no frame begins. Remove it: it is built anew."
        }
        "log.doctor-damage" => {
            "{file} is damaged at byte {position}, for {bytes} bytes: {why}. Events from offset {from} up to {resume} cannot be read; the rest is served, and readers are told of the gap."
        }
        "log.doctor-torn-tail" => {
            "{file} ends with {bytes} bytes from byte {position} that were being written when the machine or the program stopped ({why}). They were never acknowledged; the next start cuts them off."
        }
        "log.doctor-store" => {
            "{file} has a record at byte {position} that is not a change of a store: {why}. The changes in it are not applied."
        }
        "log.doctor-unreadable" => "{file} cannot be read: {cause}",
        _ => "{file}",
    }
}

fn render(code: &str, args: &[(&'static str, String)]) -> String {
    let mut text = words(code).to_owned();
    for (name, value) in args {
        text = text.replace(&format!("{{{name}}}"), value);
    }
    text
}

#[cfg(test)]
mod tests;
