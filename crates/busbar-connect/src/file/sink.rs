//! Rows as lines of a file, each exactly once.
//!
//! Beside the file lies a note, `.<name>.position`, with the length of what is written in full and
//! how far each producer has come. A batch is appended and synced, then the note is replaced. What a
//! crash leaves between the two is longer than the note says, and is cut off when the sink opens.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use busbar_event::{Class, Error};
use busbar_flow::{Delivery, Guarantee, Sink, Work, Written};
use serde::{Deserialize, Serialize};

use super::failed;
use crate::limits::FILE_NOTE_BYTES_MAX;

/// Appends to one file.
pub struct FileSink {
    inner: Option<Inner>,
    path: PathBuf,
    csv: bool,
    schema: SchemaRef,
}

struct Inner {
    path: PathBuf,
    file: File,
    note: Note,
    csv: bool,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Note {
    length: u64,
    producers: BTreeMap<String, u64>,
}

impl FileSink {
    pub(super) async fn open(
        path: PathBuf,
        csv: bool,
        schema: SchemaRef,
    ) -> Result<FileSink, Error> {
        let mut sink = FileSink {
            inner: None,
            path,
            csv,
            schema,
        };
        let inner = sink.reopen().await?;
        sink.inner = Some(inner);
        Ok(sink)
    }

    async fn reopen(&self) -> Result<Inner, Error> {
        let (path, csv, schema) = (self.path.clone(), self.csv, self.schema.clone());
        blocking(self.path.clone(), move || Inner::open(path, csv, &schema)).await
    }
}

impl Sink for FileSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(async move {
            // After a failure, and after a call that was dropped while it wrote, the file is opened
            // anew, which cuts off what was not finished.
            let mut inner = match self.inner.take() {
                Some(inner) => inner,
                None => self.reopen().await?,
            };
            let delivery = delivery.clone();
            let inner = blocking(self.path.clone(), move || {
                inner.write(&delivery).map(|()| inner)
            })
            .await?;
            self.inner = Some(inner);
            Ok(Written::default())
        })
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn position<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Option<u64>, Error>> {
        Box::pin(async move {
            if self.inner.is_none() {
                self.inner = Some(self.reopen().await?);
            }
            Ok(self
                .inner
                .as_ref()
                .and_then(|inner| inner.note.producers.get(producer).copied()))
        })
    }
}

impl Inner {
    fn open(path: PathBuf, csv: bool, schema: &SchemaRef) -> Result<Inner, Error> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|why| failed(folder, why))?;
        }
        let note = read_note(&path)?;
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(|why| failed(&path, why))?;
        let length = file.metadata().map_err(|why| failed(&path, why))?.len();
        let note = match note {
            Some(note) if length < note.length => {
                let error = Error::new(Class::Configuration, "connect.file-shrunk");
                return Err(error
                    .with("file", path.display())
                    .with("position", note.length));
            }
            Some(note) => note,
            // A file that was there before the sink is kept and appended to.
            None => Note {
                length,
                producers: BTreeMap::new(),
            },
        };
        let mut inner = Inner {
            path,
            file: file.try_clone().map_err(|why| failed(Path::new(""), why))?,
            note,
            csv,
        };
        file.set_len(inner.note.length)
            .map_err(|why| failed(&inner.path, why))?;
        file.seek(SeekFrom::End(0))
            .map_err(|why| failed(&inner.path, why))?;
        inner.file = file;
        if csv && inner.note.length == 0 {
            let names: Vec<_> = schema
                .fields()
                .iter()
                .map(|field| csv_cell(field.name()))
                .collect();
            inner.append(format!("{}\n", names.join(",")).as_bytes())?;
        }
        Ok(inner)
    }

    fn write(&mut self, delivery: &Delivery) -> Result<(), Error> {
        let mut bytes = Vec::new();
        if self.csv {
            write_csv(delivery, &mut bytes)?;
        } else {
            let payloads = delivery.events.payloads();
            for row in 0..delivery.events.rows() {
                // A line break inside a payload would make two lines of it.
                bytes.extend(
                    payloads
                        .value(row)
                        .iter()
                        .map(|byte| if *byte == b'\n' { b' ' } else { *byte }),
                );
                bytes.push(b'\n');
            }
        }
        let producer = delivery.producer.to_string();
        self.note.producers.insert(producer, delivery.position);
        self.append(&bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path.clone();
        self.file
            .write_all(bytes)
            .and_then(|()| self.file.sync_data())
            .map_err(|why| failed(&path, why))?;
        self.note.length += bytes.len() as u64;
        write_note(&path, &self.note).map_err(|why| failed(&path, why))
    }
}

fn write_csv(delivery: &Delivery, bytes: &mut Vec<u8>) -> Result<(), Error> {
    let strange = |why: arrow::error::ArrowError| {
        Error::new(Class::Permanent, "connect.file-value").caused_by(why)
    };
    let options = FormatOptions::default().with_display_error(false);
    let formatters = delivery
        .rows
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options))
        .collect::<Result<Vec<_>, _>>()
        .map_err(strange)?;
    for row in 0..delivery.rows.num_rows() {
        for (index, formatter) in formatters.iter().enumerate() {
            if index > 0 {
                bytes.push(b',');
            }
            let text = formatter.value(row).try_to_string().map_err(strange)?;
            bytes.extend(csv_cell(&text).as_bytes());
        }
        bytes.push(b'\n');
    }
    Ok(())
}

fn csv_cell(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
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
    fs::rename(&fresh, &target)?;
    File::open(target.parent().unwrap_or(Path::new(".")))?.sync_all()
}

async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|why| {
        Error::new(Class::Transient, "connect.file-failed")
            .with("file", path.display())
            .caused_by(why)
    })?
}
