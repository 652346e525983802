//! Checks a data folder without changing it.

use std::path::{Path, PathBuf};

use crate::disk::Disk;

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
    /// Bytes read.
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
pub fn doctor(_disk: &dyn Disk, _dir: &Path) -> DoctorReport {
    todo!()
}
