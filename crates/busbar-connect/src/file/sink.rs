//! Rows as lines of a file, each exactly once.
//!
//! Next to the file is a note, `.<name>.position`, with the length of what is written in full and the position of each
//! producer. A batch is appended and synced, then the note is replaced. What a crash leaves between the two is longer
//! than the note says, and is cut off when the sink opens.
//!
//! Other programs may do anything to the file at any time: before each write its length and identity are compared with
//! the note, bytes are only ever appended (a write at a remembered offset would leave a hole in a file that was
//! truncated), and after each write it is checked that they are where they should be. If not they are taken back, and
//! the write is repeated on the file as it is by then.
//!
//! All sinks of this process that write to one file, of several flows or partitions, share it here.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use arrow::util::display::{ArrayFormatter, FormatOptions};
use busbar_connector::{Delivery, Sink, SinkContext, Work, Written};
use busbar_event::format::{csv_cells, write_csv_cell};
use busbar_event::{Class, Error};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{failed, lines};
use crate::json::json_text;
use crate::limits::{FILE_LINE_BYTES_MAX, FILE_NOTE_BYTES_MAX};
use crate::places::{PathRefused, Places};

/// Appends to one file.
pub struct FileSink {
    target: Arc<Mutex<Target>>,
    path: PathBuf,
    /// The names of the columns, for CSV.
    header: Option<Arc<[String]>>,
}

/// A file and everybody who writes to it.
struct Target {
    /// Without links.
    path: PathBuf,
    /// None before the first write, and after one that failed: opening cuts off what is not finished.
    open: Option<Open>,
}

struct Open {
    file: File,
    note: Note,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Note {
    /// Which file it is about: when it was moved away, another one is begun.
    inode: u64,
    length: u64,
    producers: BTreeMap<String, u64>,
}

/// The files that are written to at the moment.
static TARGETS: Mutex<BTreeMap<PathBuf, Weak<Mutex<Target>>>> = Mutex::new(BTreeMap::new());

impl Target {
    fn at(path: &Path) -> Arc<Mutex<Target>> {
        let mut targets = TARGETS.lock();
        if let Some(target) = targets.get(path).and_then(Weak::upgrade) {
            return target;
        }
        targets.retain(|_, target| target.strong_count() > 0);
        let target = Arc::new(Mutex::new(Target {
            path: path.to_owned(),
            open: None,
        }));
        targets.insert(path.to_owned(), Arc::downgrade(&target));
        target
    }

    /// The open file; opened anew after a failure, and when it was moved away.
    fn open(&mut self, header: Option<&[String]>) -> Result<&mut Open, Error> {
        let there = match fs::metadata(&self.path) {
            Ok(metadata) => Some((metadata.ino(), metadata.len())),
            Err(why) if why.kind() == io::ErrorKind::NotFound => None,
            Err(why) => return Err(failed(&self.path, why)),
        };
        let open = match (self.open.take(), there) {
            (Some(mut open), Some((inode, length)))
                if open.note.inode == inode && length >= open.note.length =>
            {
                if length > open.note.length {
                    open.adopt(&self.path, length)?;
                }
                open
            }
            // Moved away, removed, replaced, or shortened.
            (open, _) => {
                // Its lock on the file ends first.
                drop(open);
                Open::new(&self.path, header)?
            }
        };
        Ok(self.open.insert(open))
    }

    fn write(&mut self, delivery: &Delivery, header: Option<&[String]>) -> Result<Written, Error> {
        let mut bytes = Vec::new();
        let rejected = match header {
            Some(_) => write_csv(delivery, &mut bytes)?,
            None => write_ndjson(delivery, &mut bytes),
        };
        let path = self.path.clone();
        let open = self.open(header)?;
        let producer = delivery.producer.to_string();
        let known = open.note.producers.get(&producer);
        // Written before a crash that came before the writer could note it.
        if known.is_none_or(|known| *known < delivery.position) {
            open.note.producers.insert(producer, delivery.position);
            if let Err(error) = open.append(&path, &bytes) {
                self.open = None;
                return Err(error);
            }
        }
        Ok(Written::of(rejected))
    }
}

impl FileSink {
    /// Opens the file that a connection names, and creates it where it is missing.
    pub(super) async fn open(
        path: &str,
        csv: bool,
        places: Places,
        context: SinkContext,
    ) -> Result<FileSink, Error> {
        let named = context.project_dir.join(path);
        let header = csv.then(|| {
            let fields = context.schema.fields().iter();
            fields
                .map(|field| field.name().clone())
                .collect::<Arc<[_]>>()
        });
        if header.as_ref().is_some_and(|names| names.is_empty()) {
            return Err(Error::new(Class::Configuration, "connect.file-no-columns")
                .with("file", named.display()));
        }
        let shown = named.clone();
        let resolved = tokio::task::spawn_blocking(move || {
            let created = places.create(&context.project_dir, &named);
            created.map_err(|refused| match refused {
                PathRefused::Outside(error) => error,
                PathRefused::Io(why) => failed(&named, why),
            })
        });
        let path = resolved.await.map_err(|why| {
            Error::new(Class::Transient, "connect.file-failed")
                .with("file", shown.display())
                .caused_by(why)
        })??;
        let sink = FileSink {
            target: Target::at(&path),
            path,
            header,
        };
        sink.work(|target, header| target.open(header).map(drop))
            .await?;
        Ok(sink)
    }

    /// Works on the file where waiting for a disk holds nobody up. Goes on to its end when the caller is
    /// dropped; the next one waits for it.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Target, Option<&[String]>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (target, header) = (Arc::clone(&self.target), self.header.clone());
        let done =
            tokio::task::spawn_blocking(move || work(&mut target.lock(), header.as_deref())).await;
        done.map_err(|why| {
            Error::new(Class::Transient, "connect.file-failed")
                .with("file", self.path.display())
                .caused_by(why)
        })?
    }
}

impl Sink for FileSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        let delivery = delivery.clone();
        Box::pin(self.work(move |target, header| target.write(&delivery, header)))
    }

    fn position<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Option<u64>, Error>> {
        let producer = producer.to_owned();
        Box::pin(self.work(move |target, header| {
            let open = target.open(header)?;
            Ok(open.note.producers.get(&producer).copied())
        }))
    }
}

impl Open {
    fn new(path: &Path, header: Option<&[String]>) -> Result<Open, Error> {
        let configuration =
            |code| Error::new(Class::Configuration, code).with("file", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|why| failed(folder, why))?;
            // The path had no links when it was checked; one that was put there since leads elsewhere.
            let found = fs::canonicalize(folder).map_err(|why| failed(folder, why))?;
            if found != folder || fs::symlink_metadata(path).is_ok_and(|it| it.is_symlink()) {
                return Err(configuration("connect.file-became-link"));
            }
        }
        // Opening a pipe would wait for its reader.
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(configuration("connect.file-not-plain"));
        }
        let note = read_note(path)?;
        let failed = |why| failed(path, why);
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            // Most likely a process that is about to end.
            Err(fs::TryLockError::WouldBlock) => {
                let error = Error::new(Class::Transient, "connect.file-in-use");
                return Err(error.with("file", path.display()));
            }
            Err(fs::TryLockError::Error(why)) => return Err(failed(why)),
        }
        let metadata = file.metadata().map_err(failed)?;
        let (inode, length) = (metadata.ino(), metadata.len());
        let mut open = Open {
            file,
            note: Note::default(),
        };
        match note {
            // Who empties a file, or removes it, wants it begun anew; an inode may come back.
            Some(note) if note.inode == inode && length > 0 => {
                if length < note.length {
                    let error = configuration("connect.file-shrunk");
                    return Err(error.with("position", note.length));
                }
                open.file.set_len(note.length).map_err(failed)?;
                open.note = note;
            }
            // A file that is not from here is kept and appended to, on a line of its own.
            note => {
                let producers = note.map(|note| note.producers).unwrap_or_default();
                open.note = Note {
                    inode,
                    length,
                    producers,
                };
                let unfinished = open.last_byte().map_err(failed)?;
                let end: &[u8] = match unfinished {
                    None | Some(b'\n') => b"",
                    Some(_) => b"\n",
                };
                // The note comes first: without one, all that is there counts as written.
                write_note(path, &open.note).map_err(failed)?;
                open.append(path, end)?;
            }
        }
        if let Some(header) = header {
            open.check_header(path, header)?;
        }
        Ok(open)
    }

    fn last_byte(&mut self) -> io::Result<Option<u8>> {
        if self.note.length == 0 {
            return Ok(None);
        }
        let mut last = [0];
        self.file.seek(SeekFrom::Start(self.note.length - 1))?;
        self.file.read_exact(&mut last)?;
        Ok(Some(last[0]))
    }

    /// Writes the first line of a CSV file, or sees that it is the one that would be written.
    fn check_header(&mut self, path: &Path, header: &[String]) -> Result<(), Error> {
        if self.note.length == 0 {
            let mut line = Vec::new();
            for (place, name) in header.iter().enumerate() {
                if place > 0 {
                    line.push(b',');
                }
                write_csv_cell(Some(name), &mut line);
            }
            line.push(b'\n');
            return self.append(path, &line);
        }
        let mut first = Vec::new();
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| {
                let limit = (FILE_LINE_BYTES_MAX as u64).min(self.note.length);
                (&self.file).take(limit).read_to_end(&mut first)
            })
            .map_err(|why| failed(path, why))?;
        let there = lines::records(&first, lines::Kind::Row).next().map(|row| {
            let row = row.bytes;
            let row = row.strip_prefix(lines::BYTE_ORDER_MARK).unwrap_or(row);
            let cells = csv_cells(row).unwrap_or_default();
            cells.into_iter().map(|cell| cell.text).collect::<Vec<_>>()
        });
        match there {
            Some(there) if there == header => Ok(()),
            there => Err(Error::new(Class::Configuration, "connect.file-columns")
                .with("file", path.display())
                .with("there", there.unwrap_or_default().join(", "))
                .with("here", header.join(", "))),
        }
    }

    /// Accepts what another program has appended: it stays, and rows follow on a line of their own.
    fn adopt(&mut self, path: &Path, length: u64) -> Result<(), Error> {
        tracing::warn!(
            file = %path.display(),
            bytes = length - self.note.length,
            "another program has appended to a file that a connection writes; its bytes are kept"
        );
        self.note.length = length;
        match self.last_byte().map_err(|why| failed(path, why))? {
            None | Some(b'\n') => write_note(path, &self.note).map_err(|why| failed(path, why)),
            Some(_) => self.append(path, b"\n"),
        }
    }

    /// Appends bytes, then notes that they are there. After an error none of them is, and the file is to be opened anew.
    fn append(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let before = self.note.length;
        let written = self
            .file
            .write_all(bytes)
            .and_then(|()| self.file.sync_data())
            .and_then(|()| self.file.metadata());
        let metadata = written.map_err(|why| {
            // A full disk takes the beginning of a line. Should this fail too, opening cuts it off.
            let _ = self.file.set_len(before);
            failed(path, why)
        })?;
        let after = before + bytes.len() as u64;
        if metadata.nlink() == 0 || metadata.len() != after {
            // Removed, replaced or changed since it was looked at: what was appended stands at the end.
            if let Some(rest) = metadata.len().checked_sub(bytes.len() as u64) {
                self.file.set_len(rest).map_err(|why| failed(path, why))?;
            }
            return Err(
                Error::new(Class::Transient, "connect.file-changed").with("file", path.display())
            );
        }
        self.note.length = after;
        write_note(path, &self.note).map_err(|why| failed(path, why))
    }
}

/// Payloads, a line each; and those that cannot be one.
fn write_ndjson(delivery: &Delivery, bytes: &mut Vec<u8>) -> Vec<(usize, Error)> {
    let payloads = delivery.events.payloads();
    let mut rejected = Vec::new();
    for row in 0..delivery.events.rows() {
        match json_text(payloads.value(row)) {
            Ok(text) => {
                bytes.extend_from_slice(&text);
                bytes.push(b'\n');
            }
            Err(error) => rejected.push((row, error)),
        }
    }
    rejected
}

/// Rows, a line each; and those with a value that has no text.
fn write_csv(delivery: &Delivery, bytes: &mut Vec<u8>) -> Result<Vec<(usize, Error)>, Error> {
    let strange = |class, why: arrow::error::ArrowError| {
        Error::new(class, "connect.file-value").caused_by(why)
    };
    let options = FormatOptions::default().with_display_error(false);
    let formatters = delivery
        .rows
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|why| strange(Class::Configuration, why))?;
    let mut rejected = Vec::new();
    for row in 0..delivery.rows.num_rows() {
        let cells: Result<Vec<_>, _> = formatters
            .iter()
            .zip(delivery.rows.columns())
            .map(|(formatter, column)| match column.is_null(row) {
                true => Ok(None),
                false => formatter.value(row).try_to_string().map(Some),
            })
            .collect();
        match cells {
            Ok(cells) => {
                for (place, cell) in cells.iter().enumerate() {
                    if place > 0 {
                        bytes.push(b',');
                    }
                    write_csv_cell(cell.as_deref(), bytes);
                }
                bytes.push(b'\n');
            }
            Err(why) => rejected.push((row, strange(Class::Permanent, why))),
        }
    }
    Ok(rejected)
}

fn note_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.position"))
}

fn read_note(path: &Path) -> Result<Option<Note>, Error> {
    let note = note_path(path);
    let file = match File::open(&note) {
        Ok(file) => file,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(failed(&note, why)),
    };
    let mut text = String::new();
    file.take(FILE_NOTE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|why| failed(&note, why))?;
    serde_json::from_str(&text).map(Some).map_err(|why| {
        Error::new(Class::Configuration, "connect.file-note")
            .with("file", note.display())
            .caused_by(why)
    })
}

fn write_note(path: &Path, note: &Note) -> io::Result<()> {
    let target = note_path(path);
    let fresh = target.with_extension("position.new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    file.sync_data()?;
    // A note that could not be written in full is not put in place of the one before.
    fs::rename(&fresh, &target)?;
    File::open(target.parent().unwrap_or(Path::new(".")))?.sync_all()
}
