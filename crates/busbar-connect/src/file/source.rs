//! Lines of files, from where the last committed line ended.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use busbar_event::{BatchBuilder, Class, Error, Flags, Row};
use busbar_flow::{Polled, Polling, Position, Source, SourceContext, Work};

use super::{LineFormat, failed};
use crate::limits::{FILE_IDLE, FILE_LINE_BYTES_MAX, FILE_READ_BYTES, FILES_MAX};
use crate::topic::TopicTemplate;

/// Reads every file of a pattern, in the order of their names, each at its own position.
pub struct FileSource {
    folder: PathBuf,
    pattern: String,
    format: LineFormat,
    topic: TopicTemplate,
    context: SourceContext,
    builder: BatchBuilder,
    /// File name and inode to what is known of it.
    parts: BTreeMap<String, Part>,
    /// Where in the list of files to go on, so that a busy file does not starve the others.
    turn: usize,
}

#[derive(Clone, Default)]
struct Part {
    position: u64,
    /// Columns of a CSV file, from its first line.
    columns: Option<Arc<[String]>>,
}

/// What one look at a file brought.
struct Piece {
    bytes: Vec<u8>,
    columns: Option<Arc<[String]>>,
    /// Where `bytes` begins in the file.
    from: u64,
}

impl FileSource {
    pub(super) fn new(
        pattern: &str,
        format: LineFormat,
        topic: TopicTemplate,
        context: SourceContext,
    ) -> FileSource {
        let path = context.project_dir.join(pattern);
        let pattern = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        FileSource {
            folder: path.parent().map_or_else(PathBuf::new, Path::to_path_buf),
            pattern: pattern.unwrap_or_default(),
            format,
            topic,
            context,
            builder: BatchBuilder::new(),
            parts: BTreeMap::new(),
            turn: 0,
        }
    }

    /// The next lines of the first file that has any. Nothing of `self` changes before the blocking
    /// reads are done, so that a dropped call loses nothing.
    async fn next(&mut self) -> Result<Polled, Error> {
        let (folder, pattern) = (self.folder.clone(), self.pattern.clone());
        let files = blocking(move || list(&folder, &pattern)).await?;
        for step in 0..files.len() {
            let index = (self.turn + step) % files.len();
            let (path, part_name) = files[index].clone();
            let part = self.parts.get(&part_name).cloned().unwrap_or_else(|| Part {
                position: self.context.resume.position(&part_name),
                columns: None,
            });
            let csv = self.format == LineFormat::Csv;
            let position = part.position;
            let (file, columns) = (path.clone(), part.columns.clone());
            let Some(piece) = blocking(move || read(&file, position, csv, columns)).await? else {
                continue;
            };
            self.turn = index + 1;
            let polling = self.publish(&path, &part_name, &piece);
            if let Some(polling) = polling {
                return Ok(Polled::Batch(polling));
            }
        }
        Ok(Polled::Idle(FILE_IDLE))
    }

    fn publish(&mut self, path: &Path, part_name: &str, piece: &Piece) -> Option<Polling> {
        let time = self.context.clock.now_micros();
        let mut topic = String::new();
        let value = |name: &str| match name {
            "connection" => Some(self.context.name.to_string()),
            _ => path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned()),
        };
        self.topic.write(value, &mut topic);
        let mut positions = Vec::new();
        let mut end = piece.from;
        for (line, line_end, cut) in lines(&piece.bytes) {
            end = piece.from + line_end as u64;
            if line.is_empty() {
                continue;
            }
            let json;
            let payload = match (&piece.columns, cut) {
                (Some(columns), false) => {
                    json = csv_object(columns, line);
                    json.as_deref().unwrap_or(line)
                }
                _ => line,
            };
            let tags: &[(&str, &str)] = if cut {
                &[("cut-off", "line too long")]
            } else {
                &[]
            };
            let topic = self.builder.topic_id(&topic);
            let flags = Flags::default().with_qos(1);
            self.builder.push(Row {
                topic,
                key: None,
                time,
                client: None,
                flags,
                tags,
                payload,
            });
            positions.push(end);
        }
        let part = Part {
            position: end,
            columns: piece.columns.clone(),
        };
        self.parts.insert(part_name.to_owned(), part);
        if positions.is_empty() {
            return None;
        }
        let batch = self.builder.finish();
        Some(Polling {
            batch,
            part: part_name.into(),
            position: Position::Rows(positions),
        })
    }
}

impl Source for FileSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|why| {
        Error::new(Class::Transient, "connect.file-failed")
            .with("file", "")
            .caused_by(why)
    })?
}

/// Files of a folder whose names match, with the name of their part: name and inode.
fn list(folder: &Path, pattern: &str) -> Result<Vec<(PathBuf, String)>, Error> {
    let mut files = Vec::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(why) => return Err(failed(folder, why)),
    };
    for entry in entries {
        let entry = entry.map_err(|why| failed(folder, why))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !matches(pattern, &name) {
            continue;
        }
        // Follows links: they are how an operator lets other folders in.
        let Ok(metadata) = fs::metadata(entry.path()) else {
            continue;
        };
        if metadata.is_file() {
            files.push((entry.path(), format!("{name}:{:x}", metadata.ino())));
        }
        if files.len() > FILES_MAX {
            let error = Error::new(Class::Configuration, "connect.file-too-many");
            return Err(error
                .with("folder", folder.display())
                .with("most", FILES_MAX));
        }
    }
    files.sort();
    Ok(files)
}

/// Whole lines from `position` on; none when there is nothing new.
fn read(
    path: &Path,
    position: u64,
    csv: bool,
    columns: Option<Arc<[String]>>,
) -> Result<Option<Piece>, Error> {
    let mut file = fs::File::open(path).map_err(|why| failed(path, why))?;
    let length = file.metadata().map_err(|why| failed(path, why))?.len();
    if length < position {
        let error = Error::new(Class::Permanent, "connect.file-shrunk");
        return Err(error
            .with("file", path.display())
            .with("position", position));
    }
    let columns = match columns {
        Some(columns) => Some(columns),
        None if csv && length > 0 => {
            let mut first = vec![0; FILE_LINE_BYTES_MAX.min(length as usize)];
            file.read_exact(&mut first)
                .map_err(|why| failed(path, why))?;
            let Some(end) = memchr_line(&first) else {
                return Ok(None);
            };
            Some(split_csv(trimmed(&first[..end])).into())
        }
        None => None,
    };
    let mut from = position;
    if csv && from == 0 && columns.is_some() {
        // The first line is the header, not a row.
        let mut first = vec![0; FILE_LINE_BYTES_MAX.min(length as usize)];
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_exact(&mut first))
            .map_err(|why| failed(path, why))?;
        from = memchr_line(&first).map_or(0, |end| end as u64 + 1);
    }
    if length <= from {
        return Ok(None);
    }
    let mut bytes = vec![0; FILE_READ_BYTES.min((length - from) as usize)];
    file.seek(SeekFrom::Start(from))
        .map_err(|why| failed(path, why))?;
    file.read_exact(&mut bytes)
        .map_err(|why| failed(path, why))?;
    match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(last) => bytes.truncate(last + 1),
        // A line that fills the whole piece is cut; one that is still being written waits.
        None if bytes.len() >= FILE_LINE_BYTES_MAX => {}
        None => return Ok(None),
    }
    Ok(Some(Piece {
        bytes,
        columns,
        from,
    }))
}

/// The lines of a piece, where each ends, and whether it is cut off.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (&[u8], usize, bool)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let (line, length, cut) = match memchr_line(rest) {
            Some(end) => (&rest[..end], end + 1, false),
            None => (rest, rest.len(), true),
        };
        at += length;
        Some((trimmed(line), at, cut))
    })
}

fn memchr_line(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// A row of CSV as a JSON object of texts and numbers; `None` when it has other columns than the
/// header, so that it goes on as it is and a flow can say what is wrong with it.
fn csv_object(columns: &[String], line: &[u8]) -> Option<Vec<u8>> {
    let cells = split_csv(line);
    if cells.len() != columns.len() || std::str::from_utf8(line).is_err() {
        return None;
    }
    let object: serde_json::Map<_, _> = columns
        .iter()
        .zip(cells)
        .map(|(column, cell)| {
            let value = match cell.parse::<serde_json::Number>() {
                _ if cell.is_empty() => serde_json::Value::Null,
                Ok(number) => serde_json::Value::Number(number),
                Err(_) => serde_json::Value::String(cell),
            };
            (column.clone(), value)
        })
        .collect();
    serde_json::to_vec(&object).ok()
}

/// Cells of one line, with quotes as RFC 4180 has them (but no line breaks inside).
fn split_csv(line: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(line);
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let cell = cells.last_mut().expect("there is always one cell");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cell.push(c),
        }
    }
    cells
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

    #[test]
    fn csv_rows_become_objects() {
        let columns = ["site".to_owned(), "kw".to_owned(), "note".to_owned()];
        let object = csv_object(&columns, br#"north,3.20,"a ""b"", c""#).expect("an object");
        assert_eq!(
            String::from_utf8_lossy(&object),
            r#"{"kw":3.20,"note":"a \"b\", c","site":"north"}"#.replace("3.20", "3.2")
        );
        assert_eq!(csv_object(&columns, b"too,few"), None);
    }

    #[test]
    fn only_whole_lines_are_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("in");
        fs::write(&path, "one\r\n\ntwo\nthr").expect("a file");
        let piece = read(&path, 0, false, None)
            .expect("readable")
            .expect("lines");
        let taken: Vec<_> = lines(&piece.bytes)
            .map(|(line, end, cut)| (line.to_vec(), end, cut))
            .collect();
        assert_eq!(
            taken,
            [
                (b"one".to_vec(), 5, false),
                (Vec::new(), 6, false),
                (b"two".to_vec(), 10, false)
            ]
        );
        assert!(read(&path, 10, false, None).expect("readable").is_none());
        assert_eq!(
            read(&path, 99, false, None).err().expect("shrunk").code(),
            "connect.file-shrunk"
        );
    }
}
