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
//! Paths stay inside the project's folder, because projects can be sent to a node from outside; who
//! wants another folder puts a symbolic link there.

mod lines;
mod look;
mod sink;
mod source;

use std::path::{Component, Path};

use busbar_catalog::{ConnectionSpec, Diagnostic};
use busbar_event::{Class, Error};
use busbar_flow::{Connector, Guarantee, Roles, Sink, SinkContext, Source, SourceContext, Work};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::topic::TopicTemplate;
use sink::FileSink;
use source::FileSource;

/// The connector.
pub struct File;

/// Reads lines from files as events, or writes rows as lines of a file.
///
/// As a source: exactly once; it goes on behind the last line that is in a stream. A line counts
/// once its line break is there; one of more than 1 MiB is cut off and gets the tag `cut-off`. A file
/// is known by its inode, the time it was made and its first line: renamed, it is read on where it was;
/// replaced, or cut and written anew, it is read from its beginning. A file that cannot be read is tried
/// again every ten seconds and holds no other up. The positions of 10,000 files that are gone are kept, in
/// case they come back; then those that have been gone longest are forgotten.
///
/// Rows of CSV may have line breaks inside quotes. When a quote is still open at the end of a file that has
/// not grown for ten seconds, its row ends with its first line, and the lines behind it are rows. A row with
/// an open quote, with other columns than the first line, or that is not UTF-8 is published as it is, so
/// that it becomes a dead letter; its tags `csv-error`, `file` and `line` say what and where.
///
/// As a sink: exactly once; it cuts off what an unfinished write left, so the file belongs to it.
/// Beside it lies its position, `.NAME.position`. A file that is moved away or emptied is begun
/// anew; one that was there before is appended to. A payload that is text but not JSON is written as a JSON
/// string; one that is not even text becomes a dead letter.
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
}

const DEFAULT_TOPIC: &str = "file/${connection}/${file}";
const OFFERED: [&str; 2] = ["connection", "file"];

impl File {
    fn options(spec: &ConnectionSpec) -> Result<Options, Diagnostic> {
        let options: Options = spec.options.read()?;
        let refuse = |key: &str, code| {
            spec.options
                .diagnostic(key, Error::new(Class::Configuration, code))
        };
        match (&options.read, &options.write) {
            (Some(path), None) => {
                check_path(path).map_err(|code| refuse("read", code))?;
                let folder = Path::new(path).parent().unwrap_or(Path::new(""));
                if folder.to_string_lossy().contains('*') {
                    return Err(refuse("read", "connect.file-pattern"));
                }
            }
            (None, Some(path)) => {
                check_path(path).map_err(|code| refuse("write", code))?;
                if path.contains('*') {
                    return Err(refuse("write", "connect.file-pattern"));
                }
                if options.format == LineFormat::Lines {
                    return Err(refuse("format", "connect.file-lines-sink"));
                }
            }
            _ => return Err(refuse("read", "connect.file-read-or-write")),
        }
        Ok(options)
    }
}

/// A path inside the project's folder: relative, without a way up.
pub(crate) fn check_path(path: &str) -> Result<(), &'static str> {
    let inside = !path.is_empty()
        && !path.contains('\0')
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        && Path::new(path).file_name().is_some();
    if inside {
        Ok(())
    } else {
        Err("connect.file-outside")
    }
}

impl Connector for File {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let options = File::options(spec)?;
        if options.read.is_some() {
            TopicTemplate::read(spec, DEFAULT_TOPIC, &OFFERED)?;
        }
        Ok(Roles {
            source: options.read.is_some(),
            sink: options.write.is_some(),
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(Options).to_value()
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
            let options = File::options(spec).map_err(|refused| refused.error().clone())?;
            let topic = TopicTemplate::read(spec, DEFAULT_TOPIC, &OFFERED)
                .map_err(|refused| refused.error().clone())?;
            let Some(pattern) = options.read else {
                return Err(
                    Error::new(Class::Configuration, "connect.no-source").with("kind", "file")
                );
            };
            Ok(
                Box::new(FileSource::new(&pattern, options.format, topic, context))
                    as Box<dyn Source>,
            )
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let options = File::options(spec).map_err(|refused| refused.error().clone())?;
            let Some(path) = options.write else {
                return Err(
                    Error::new(Class::Configuration, "connect.no-sink").with("kind", "file")
                );
            };
            let path = context.project_dir.join(path);
            let sink = FileSink::open(path, options.format == LineFormat::Csv, context.schema);
            sink.await.map(|sink| Box::new(sink) as Box<dyn Sink>)
        })
    }
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
    use super::*;

    #[test]
    fn paths_stay_inside_the_project() {
        for path in ["in.ndjson", "in/*.csv", "./in/a"] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
        for path in ["", "/etc/passwd", "../x", "in/../../x", "in/..", "a\0b"] {
            assert_eq!(check_path(path), Err("connect.file-outside"), "{path}");
        }
    }
}
