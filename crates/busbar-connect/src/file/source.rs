//! Publishes new records of the files that match a pattern.

use std::sync::Arc;

use busbar_connector::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_event::{ARRIVAL, BatchBuilder, Class, Error, Flags, Row};
use parking_lot::Mutex;

use super::LineFormat;
use super::lines;
use super::look::{Files, Piece};
use super::messages::{Batches, Hl7FilePart};
use crate::limits::FILE_IDLE;
use crate::places::Places;
use crate::topic::TopicTemplate;

/// Reads every file of a pattern, each at its own position.
pub struct FileSource {
    topic: TopicTemplate,
    context: SourceContext,
    builder: BatchBuilder,
    /// Of files with HL7 messages.
    batches: Option<Batches>,
    /// Used on a blocking thread. Reading changes no position, so that a dropped call loses nothing.
    files: Arc<Mutex<Files>>,
}

impl FileSource {
    pub(super) fn new(
        pattern: &str,
        format: LineFormat,
        topic: TopicTemplate,
        places: Places,
        context: SourceContext,
    ) -> FileSource {
        let files = Files::new(
            &context.project_dir,
            pattern,
            places,
            format,
            &context.resume,
        );
        FileSource {
            topic,
            builder: BatchBuilder::new(),
            batches: (format == LineFormat::Hl7).then(Batches::default),
            files: Arc::new(Mutex::new(files)),
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
            // Only empty lines: continue with the next piece.
            if let Some(polling) = self.publish(&piece) {
                return Ok(Polled::Batch(polling));
            }
        }
    }

    fn publish(&mut self, piece: &Piece) -> Option<Polling> {
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
            if let Some(batches) = &mut self.batches {
                match batches.see(&piece.part, record.bytes) {
                    Hl7FilePart::Event => {}
                    Hl7FilePart::Around => continue,
                    Hl7FilePart::Miscounted(said) => why = Some(("hl7-error", said)),
                }
            }
            if record.cut {
                why = Some(("cut-off", "line too long".to_owned()));
            } else if let Some(columns) = &piece.columns {
                match lines::object(columns, record.bytes) {
                    Ok(object) => json = Some(object),
                    Err(misfit) => why = Some(("csv-error", misfit.to_string())),
                }
            }
            // File and line let the dead letter be traced to its origin.
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
                time: ARRIVAL,
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
        let last = *positions.last()?;
        Some(Polling {
            batch,
            part: Arc::clone(&piece.part),
            position: Position::Rows(positions),
            note: piece.note(last),
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
