//! `file`: lines of files come in as events, rows go out as lines of a file.
//!
//! ```yaml
//! file: { read: "in/*.ndjson" }          # a source
//! topic: plant/${file}/line
//! ```
//! ```yaml
//! file: { write: out/alarms.csv, format: csv }   # a sink
//! ```
//!
//! Paths stay inside the project's folder and the folders that `[files] allow` names; see [`Places`].

mod lines;
mod look;
mod messages;
mod sink;
mod source;

use std::path::Path;

use busbar_catalog::{ConnectionSpec, Diagnostic, INBOX, Project, Template, possible_streams};
use busbar_connector::{
    Connector, Guarantee, Roles, Sink, SinkContext, Source, SourceContext, Work,
};
use busbar_event::format::FormatSpec;
use busbar_event::{Class, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::places::Places;
use crate::topic::TopicTemplate;
use crate::{lacks_sink, lacks_source};
use sink::FileSink;
use source::FileSource;

/// The connector.
pub struct File {
    places: Places,
}

/// Reads lines from files as events, or writes rows as lines of a file.
///
/// Paths are relative to the project's folder and stay inside it. An absolute path is allowed in the folders that
/// `[files] allow` in `busbar.toml` names, and so is what a link leads to.
///
/// As a source: exactly once; it goes on after the last line that is in a stream. A line counts once its line break is
/// there; one of more than 1 MiB is cut off and gets the tag `cut-off`. A file is identified by its inode, the time at
/// which it was created, its first line and the bytes before the position: renamed, it is read on where it was;
/// replaced, or truncated and written anew (also while the node is down), it is read from its beginning. A file that
/// cannot be read is tried again every ten seconds and does not hold up others. The positions of 10,000 files that are
/// gone are kept, in case they come back; beyond, those that have been gone longest are forgotten.
///
/// Each row of CSV becomes a JSON object, so its stream needs `format: json`. Rows may have line breaks inside quotes.
/// When a quote is still open at the end of a file that has not grown for ten seconds, its row ends with its first line,
/// and the lines after it are rows. A row with an open quote, with other columns than the first line, or that is not
/// UTF-8 is published as it is, so that it becomes a dead letter; its tags `csv-error`, `file` and `line` say what and
/// where.
///
/// With `format: hl7` a message goes up to the next MSH, FHS, BHS, BTS or FTS segment; the last one of a file counts once the
/// file has not grown for ten seconds. The segments around batches are left out. Where a BTS segment counts other messages than
/// came since the BHS segment, an FTS segment other batches than came since the FHS segment, or a batch has no BTS segment before
/// the next batch or the end of the file's batches, the segment is published as it is, with the tags `hl7-error`, `file` and
/// `line`, and becomes a dead letter.
///
/// As a sink: exactly once. The file belongs to it: what an unfinished write left is cut off when it is opened again.
/// Its position is kept next to it, in `.NAME.position`. A file that is moved away, removed, replaced or emptied is
/// begun anew; one that was there before is appended to, and so is one to which another program has appended. A file
/// that another program has shortened stops the sink until somebody decides. When another program changes the file in
/// the middle of a write, or the disk is full, the rows are written again, whole. A payload that is text but not JSON is
/// written as a JSON string; one that is not even text becomes a dead letter.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// A file to read, or several by `*` in the last part of the path; makes the connection a source.
    read: Option<String>,
    /// A file to write; makes the connection a sink.
    write: Option<String>,
    /// What a line is.
    #[serde(default)]
    format: LineFormat,
}

/// What a line of a file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum LineFormat {
    /// One JSON document.
    #[default]
    Ndjson,
    /// Comma-separated values; the first line names the columns. A source makes JSON objects of them.
    Csv,
    /// Any text; each line is a payload as it is. Only for sources.
    Lines,
    /// Messages of HL7 version 2, alone or in batches; each message is a payload as it is. Only for sources.
    Hl7,
}

const DEFAULT_TOPIC: &str = "file/${connection}/${file}";
const OFFERED: [&str; 2] = ["connection", "file"];

impl File {
    pub(crate) fn new(places: Places) -> File {
        File { places }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<Options, Diagnostic> {
        let options: Options = spec.options.read()?;
        let refuse = |key: &str, code| {
            spec.options
                .diagnostic(key, Error::new(Class::Configuration, code))
        };
        match (&options.read, &options.write) {
            (Some(path), None) => {
                self.places
                    .check(path)
                    .map_err(|code| refuse("read", code))?;
                let folder = Path::new(path).parent().unwrap_or(Path::new(""));
                if folder.to_string_lossy().contains('*') {
                    return Err(refuse("read", "connect.file-pattern"));
                }
            }
            (None, Some(path)) => {
                self.places
                    .check(path)
                    .map_err(|code| refuse("write", code))?;
                if path.contains('*') {
                    return Err(refuse("write", "connect.file-pattern"));
                }
                if matches!(options.format, LineFormat::Lines | LineFormat::Hl7) {
                    return Err(refuse("format", "connect.file-lines-sink"));
                }
            }
            _ => return Err(refuse("read", "connect.file-read-or-write")),
        }
        Ok(options)
    }
}

impl Connector for File {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let options = self.options(spec)?;
        if options.read.is_some() {
            TopicTemplate::read(spec, DEFAULT_TOPIC, &OFFERED)?;
        }
        Ok(Roles {
            source: options.read.is_some(),
            sink: options.write.is_some(),
            service: false,
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(Options).to_value()
    }

    fn warnings(&self, spec: &ConnectionSpec, project: &Project) -> Vec<Diagnostic> {
        match self.options(spec) {
            Ok(options) if options.read.is_some() => fit(spec, &options, project),
            _ => Vec::new(),
        }
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let topic = TopicTemplate::read(spec, DEFAULT_TOPIC, &OFFERED)?;
            let pattern = options.read.ok_or_else(|| lacks_source(self.kind()))?;
            let (format, places) = (options.format, self.places.clone());
            let source = FileSource::new(&pattern, format, topic, places, context);
            Ok(Box::new(source) as Box<dyn Source>)
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let path = options.write.ok_or_else(|| lacks_sink(self.kind()))?;
            let csv = options.format == LineFormat::Csv;
            let sink = FileSink::open(&path, csv, self.places.clone(), context);
            sink.await.map(|sink| Box::new(sink) as Box<dyn Sink>)
        })
    }
}

/// Warnings about streams that do not fit what a source brings.
fn fit(spec: &ConnectionSpec, options: &Options, project: &Project) -> Vec<Diagnostic> {
    let topic = spec.topic.as_deref().unwrap_or(DEFAULT_TOPIC);
    let Some(pattern) = Template::parse(topic).ok().and_then(|t| t.pattern().ok()) else {
        return Vec::new();
    };
    let warn = |error| spec.diagnostic_at_kind(error).warning();
    let new = |code| Error::new(Class::Configuration, code);
    let streams = possible_streams(project, &pattern);
    if streams.iter().all(|name| name == INBOX) {
        return vec![warn(new("connect.file-inbox").with("topic", topic))];
    }
    let brings = match options.format {
        LineFormat::Csv => "csv",
        LineFormat::Ndjson => "ndjson",
        LineFormat::Lines | LineFormat::Hl7 => return Vec::new(),
    };
    let streams = streams
        .iter()
        .filter_map(|name| Some((name, project.streams.get(name)?)));
    let other = streams.filter(|(_, stream)| {
        !matches!(stream.spec.format, FormatSpec::Json(_) | FormatSpec::Fhir)
    });
    other
        .map(|(name, _)| {
            let error = new("connect.file-format").with("format", brings);
            warn(error.with("stream", name))
        })
        .collect()
}

/// A failure of the file system, with the file's name.
fn failed(path: &Path, why: std::io::Error) -> Error {
    use std::io::ErrorKind;
    let class = match why.kind() {
        ErrorKind::PermissionDenied
        | ErrorKind::IsADirectory
        | ErrorKind::NotADirectory
        | ErrorKind::ReadOnlyFilesystem => Class::Configuration,
        _ => Class::Transient,
    };
    Error::new(class, "connect.file-failed")
        .with("file", path.display())
        .caused_by(why)
}

#[cfg(test)]
mod tests {
    use busbar_catalog::{Bundle, Project};

    use super::*;

    #[test]
    fn streams_that_do_not_fit_a_file_are_warned_about() {
        let warnings = |connection: &str, stream: &str| {
            let files = [
                ("connections/c.yaml".to_owned(), connection.to_owned()),
                ("streams/s.yaml".to_owned(), stream.to_owned()),
            ];
            let (project, bad) = Project::parse(Bundle {
                files: files.into_iter().collect(),
            });
            assert!(bad.is_empty(), "{bad:?}");
            let spec = &project.connections["c"].spec;
            let found = File::new(Places::default()).warnings(spec, &project);
            assert!(!busbar_catalog::has_errors(&found));
            found.iter().map(|w| w.error().code()).collect::<Vec<_>>()
        };
        let csv = "file: { read: a.csv, format: csv }\n";
        let json = "topics: file/#\nformat: json\n";
        assert_eq!(warnings(csv, json), [""; 0]);
        assert_eq!(
            warnings(csv, "topics: file/#\nformat: csv\n"),
            ["connect.file-format"]
        );
        assert_eq!(warnings(csv, "topics: file/#\n"), ["connect.file-format"]);
        assert_eq!(
            warnings(csv, "topics: meter/#\nformat: json\n"),
            ["connect.file-inbox"]
        );
        let topic = format!("{csv}topic: meter/${{file}}\n");
        assert_eq!(warnings(&topic, "topics: meter/#\nformat: json\n"), [""; 0]);
        let lines = "file: { read: a.log, format: lines }\n";
        assert_eq!(warnings(lines, "topics: file/#\n"), [""; 0]);
        assert_eq!(
            warnings("file: { write: a.csv, format: csv }\n", json),
            [""; 0]
        );
    }
}
