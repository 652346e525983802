//! Publishes what the files of a pattern have that is new.

use std::path::Path;
use std::sync::Arc;

use busbar_event::{BatchBuilder, Class, Error, Flags, Row};
use busbar_flow::{Polled, Polling, Position, Source, SourceContext, Work};
use parking_lot::Mutex;

use super::LineFormat;
use super::lines;
use super::look::{Files, Piece};
use crate::limits::FILE_IDLE;
use crate::topic::TopicTemplate;

/// Reads every file of a pattern, each at its own position.
pub struct FileSource {
    topic: TopicTemplate,
    context: SourceContext,
    builder: BatchBuilder,
    /// Looked at where waiting for a disk holds nobody up. A look changes no position, so that a dropped
    /// call loses nothing.
    files: Arc<Mutex<Files>>,
}

impl FileSource {
    pub(super) fn new(
        pattern: &str,
        format: LineFormat,
        topic: TopicTemplate,
        context: SourceContext,
    ) -> FileSource {
        let csv = format == LineFormat::Csv;
        let path = context.project_dir.join(Path::new(pattern));
        FileSource {
            topic,
            builder: BatchBuilder::new(),
            files: Arc::new(Mutex::new(Files::new(&path, csv, &context.resume))),
            context,
        }
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        loop {
            let files = Arc::clone(&self.files);
            let looked = tokio::task::spawn_blocking(move || files.lock().next()).await;
            let piece = looked.map_err(|why| {
                Error::new(Class::Transient, "connect.file-failed")
                    .with("file", &self.context.name)
                    .caused_by(why)
            })??;
            let Some(piece) = piece else {
                return Ok(Polled::Idle(FILE_IDLE));
            };
            // Nothing but empty lines: on to what follows.
            if let Some(polling) = self.publish(&piece) {
                return Ok(Polled::Batch(polling));
            }
        }
    }

    fn publish(&mut self, piece: &Piece) -> Option<Polling> {
        let time = self.context.clock.now_micros();
        let mut topic = String::new();
        let value = |name: &str| match name {
            "connection" => Some(self.context.name.to_string()),
            _ => Some(piece.name.clone()),
        };
        self.topic.write(value, &mut topic);
        let topic = self.builder.topic_id(&topic);
        let mut positions = Vec::new();
        let mut end = piece.from;
        for record in lines::records(&piece.bytes, piece.kind) {
            let begins = end;
            end = piece.from + record.end as u64;
            if record.bytes.is_empty() {
                continue;
            }
            let (mut json, mut why) = (None, None);
            if record.cut {
                why = Some(("cut-off", "line too long".to_owned()));
            } else if let Some(columns) = &piece.columns {
                match lines::object(columns, record.bytes) {
                    Ok(object) => json = Some(object),
                    Err(misfit) => why = Some(("csv-error", misfit.to_string())),
                }
            }
            // Whoever finds it among the dead letters can find it in the file.
            let mut tags: Vec<(&str, &str)> = Vec::new();
            let line;
            if let Some((tag, why)) = &why {
                tags.push((tag, why));
                tags.push(("file", &piece.name));
                if let Some(number) = self.files.lock().line(piece, begins) {
                    line = number.to_string();
                    tags.push(("line", &line));
                }
            }
            self.builder.push(Row {
                topic,
                key: None,
                time,
                client: None,
                flags: Flags::default().with_qos(1),
                tags: &tags,
                payload: json.as_deref().unwrap_or(record.bytes),
            });
            positions.push(end);
            if self.builder.is_full() {
                break;
            }
        }
        self.files.lock().handed_on(piece, end);
        let batch = self.builder.finish();
        (!positions.is_empty()).then(|| Polling {
            batch,
            part: Arc::clone(&piece.part),
            position: Position::Rows(positions),
        })
    }
}

impl Source for FileSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }

    fn forgotten(&mut self) -> Vec<Arc<str>> {
        self.files.lock().forgotten()
    }
}
