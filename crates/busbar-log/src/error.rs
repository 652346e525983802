//! What can go wrong, and whether trying again helps.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Result of the log's functions.
pub type Result<T, E = LogError> = std::result::Result<T, E>;

/// What a caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Try again later: it heals by itself or when room is made.
    Transient,
    /// Trying the same again cannot help.
    Permanent,
    /// Somebody must change a setting or the machine.
    Configuration,
}

/// An error of the log. Cheap to clone: one failed sync fails every append that waited for it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The disk has no room (left, or above the reserve): nothing was written, readers go on.
    #[error("the disk that holds {} is full", .path.display())]
    Full {
        /// File or folder that could not grow.
        path: PathBuf,
    },
    /// More bytes wait to be committed than the log holds.
    #[error("too much waits to be written: {waiting_bytes} bytes")]
    Busy {
        /// Bytes that wait.
        waiting_bytes: usize,
    },
    /// The operating system refused a call.
    #[error("{} {}: {source}", .operation, .path.display())]
    Io {
        /// What was tried, as a verb phrase: `cannot read`.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// A write or sync of a segment failed. What was acknowledged before is safe; what waited for
    /// it is not acknowledged. A new segment is opened when the disk allows it.
    #[error("writing {} failed, its segment is closed: {source}", .path.display())]
    Failed {
        /// The segment's file.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// Events from `from` up to `resume` cannot be read: the file is damaged there.
    /// A reader that wants to go on continues at `resume`, and knows what it has missed.
    #[error("{} is damaged at byte {position}: {why}; offsets {from} to {resume} cannot be read", .file.display())]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// Byte within the file.
        position: u64,
        /// First offset that cannot be read.
        from: u64,
        /// First offset after it that can.
        resume: u64,
        /// What is wrong, in words.
        why: &'static str,
    },
    /// The offset is older than what retention kept.
    #[error("events before offset {start} have been removed by retention")]
    Trimmed {
        /// First offset that is still there.
        start: u64,
    },
    /// The offset lies beyond what has been committed.
    #[error("offset {offset} is beyond the end, {end}")]
    Beyond {
        /// The offset asked for.
        offset: u64,
        /// The committed end.
        end: u64,
    },
    /// The append breaks a rule and was not written.
    #[error("the append was refused: {why}")]
    Refused {
        /// Which rule.
        why: &'static str,
    },
    /// A name of a partition or store that cannot be a path.
    #[error("'{name}' cannot be a name here: {why}")]
    Name {
        /// The name.
        name: String,
        /// Which rule.
        why: &'static str,
    },
    /// The log, or this partition, has been closed.
    #[error("the log is closed")]
    Closed,
    /// The data folder was written by a newer version of the program.
    #[error("{} has data format {found}; this program reads up to {supported}", .dir.display())]
    Version {
        /// The data folder.
        dir: PathBuf,
        /// Format found there.
        found: String,
        /// Newest format this program knows.
        supported: u32,
    },
    /// Another process uses the data folder.
    #[error("{} is in use by another process{}", .dir.display(), .pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Locked {
        /// The data folder.
        dir: PathBuf,
        /// The other process, where known.
        pid: Option<u32>,
    },
}

impl LogError {
    /// Whether trying again helps.
    pub fn class(&self) -> Class {
        match self {
            LogError::Full { .. } | LogError::Busy { .. } | LogError::Failed { .. } => {
                Class::Transient
            }
            LogError::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::NotADirectory => Class::Configuration,
                _ => Class::Transient,
            },
            LogError::Version { .. } | LogError::Locked { .. } | LogError::Name { .. } => {
                Class::Configuration
            }
            LogError::Damaged { .. }
            | LogError::Trimmed { .. }
            | LogError::Beyond { .. }
            | LogError::Refused { .. }
            | LogError::Closed => Class::Permanent,
        }
    }

    /// The error's key in the catalogue of messages.
    pub fn code(&self) -> &'static str {
        match self {
            LogError::Full { .. } => "log.full",
            LogError::Busy { .. } => "log.busy",
            LogError::Io { .. } => "log.io",
            LogError::Failed { .. } => "log.failed",
            LogError::Damaged { .. } => "log.damaged",
            LogError::Trimmed { .. } => "log.trimmed",
            LogError::Beyond { .. } => "log.beyond",
            LogError::Refused { .. } => "log.refused",
            LogError::Name { .. } => "log.name",
            LogError::Closed => "log.closed",
            LogError::Version { .. } => "log.version",
            LogError::Locked { .. } => "log.locked",
        }
    }

    /// Arguments of the message, by name.
    pub fn args(&self) -> Vec<(&'static str, String)> {
        let path = |p: &Path| p.display().to_string();
        match self {
            LogError::Full { path: p } => vec![("path", path(p))],
            LogError::Busy { waiting_bytes } => vec![("waiting_bytes", waiting_bytes.to_string())],
            LogError::Io {
                operation,
                path: p,
                source,
            } => vec![
                ("operation", (*operation).to_owned()),
                ("path", path(p)),
                ("cause", source.to_string()),
            ],
            LogError::Failed { path: p, source } => {
                vec![("path", path(p)), ("cause", source.to_string())]
            }
            LogError::Damaged {
                file,
                position,
                from,
                resume,
                why,
            } => vec![
                ("file", path(file)),
                ("position", position.to_string()),
                ("from", from.to_string()),
                ("resume", resume.to_string()),
                ("why", (*why).to_owned()),
            ],
            LogError::Trimmed { start } => vec![("start", start.to_string())],
            LogError::Beyond { offset, end } => {
                vec![("offset", offset.to_string()), ("end", end.to_string())]
            }
            LogError::Refused { why } => vec![("why", (*why).to_owned())],
            LogError::Name { name, why } => {
                vec![("name", name.clone()), ("why", (*why).to_owned())]
            }
            LogError::Closed => Vec::new(),
            LogError::Version {
                dir,
                found,
                supported,
            } => vec![
                ("dir", path(dir)),
                ("found", found.clone()),
                ("supported", supported.to_string()),
            ],
            LogError::Locked { dir, pid } => vec![
                ("dir", path(dir)),
                ("pid", pid.map_or_else(|| "?".to_owned(), |p| p.to_string())),
            ],
        }
    }

    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::StorageFull
            || source.kind() == io::ErrorKind::QuotaExceeded
        {
            return LogError::Full { path: path.into() };
        }
        LogError::Io {
            operation,
            path: path.into(),
            source: Arc::new(source),
        }
    }
}

/// A place in a partition's files that cannot be read. It is left where it is (or set aside),
/// never deleted by recovery, and readers get [`LogError::Damaged`] when they come to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in the file it begins.
    pub position: u64,
    /// How long it is.
    pub bytes: u64,
    /// First offset that cannot be read.
    pub from: u64,
    /// First offset after it that can be read.
    pub resume: u64,
    /// What is wrong, in words.
    pub why: &'static str,
}
