//! Gives the blocks of removed files back in small pieces.
//!
//! Whoever closes a removed file last gives back all of its blocks in one call. Where the file system tells the disk of free
//! blocks (option `discard`), that takes 40 ms for 64 MB here, in most of which the disk serves nobody else. So fjall's files are
//! held open until fjall has removed them, and are shortened then, step by step.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hashbrown::HashMap;

use crate::limits::{WIDE_REMOVED_BYTES, WIDE_REMOVED_FILES_MAX};

/// Files that fjall has removed or is about to remove.
#[derive(Default)]
pub(super) struct RemovedFiles {
    held: HashMap<PathBuf, File>,
    /// Nobody else has them.
    pub(super) shrinking: Vec<File>,
}

impl RemovedFiles {
    /// Holds a file until it is removed. One that cannot be opened, or one too many, goes as fjall removes it.
    pub fn hold(&mut self, path: &Path) {
        if self.held.contains_key(path) || self.held.len() >= WIDE_REMOVED_FILES_MAX {
            return;
        }
        if let Ok(file) = OpenOptions::new().write(true).open(path) {
            self.held.insert(path.to_owned(), file);
        }
    }

    /// Holds the journals of the database in this folder.
    pub fn hold_journals(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|it| it == "jnl") {
                self.hold(&path);
            }
        }
    }

    /// Looks for files that were removed since. They have no name any more, so nobody can open them again, and fjall has
    /// closed them or never reads them again. Both the count of names and the name are asked for: some file systems count
    /// no names, and a file that is there must never be shortened.
    pub fn look(&mut self) {
        let removed = self.held.extract_if(|path, file| {
            file.metadata().is_ok_and(|about| about.nlink() == 0)
                && matches!(path.try_exists(), Ok(false))
        });
        self.shrinking.extend(removed.map(|(_, file)| file));
    }

    /// Gives back one piece. False when nothing is left.
    pub fn give_back(&mut self) -> bool {
        if let Some(file) = self.shrinking.last() {
            let left = file.metadata().map_or(0, |about| about.len());
            let shorter = left.saturating_sub(WIDE_REMOVED_BYTES);
            if shorter == 0 || file.set_len(shorter).is_err() {
                // Closing it gives back what is left.
                self.shrinking.pop();
            }
        }
        !self.shrinking.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_removed_files_are_shortened() {
        let folder = tempfile::tempdir().unwrap();
        let [kept, removed] = ["1.jnl", "2.jnl"].map(|name| folder.path().join(name));
        for path in [&kept, &removed, &folder.path().join("lock")] {
            File::create(path)
                .unwrap()
                .set_len(5 * WIDE_REMOVED_BYTES / 2)
                .unwrap();
        }
        let mut files = RemovedFiles::default();
        for _ in 0..2 {
            files.hold_journals(folder.path());
            assert_eq!(files.held.len(), 2, "journals alone, and each once");
            files.look();
            assert!(!files.give_back(), "both are there");
        }
        let watched = File::open(&removed).unwrap();
        std::fs::remove_file(&removed).unwrap();
        File::create(&removed).unwrap();
        files.look();
        assert!(!files.give_back(), "there is one of this name");
        std::fs::remove_file(&removed).unwrap();
        files.look();
        let mut lengths = Vec::new();
        while files.give_back() {
            lengths.push(watched.metadata().unwrap().len());
        }
        assert_eq!(
            lengths,
            [3 * WIDE_REMOVED_BYTES / 2, WIDE_REMOVED_BYTES / 2]
        );
        assert_eq!(
            kept.metadata().unwrap().len(),
            5 * WIDE_REMOVED_BYTES / 2,
            "it was not removed"
        );
        assert_eq!(files.held.len(), 1);
    }

    #[test]
    fn so_many_files_are_held() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = RemovedFiles::default();
        for number in 0..=WIDE_REMOVED_FILES_MAX {
            let path = folder.path().join(number.to_string());
            File::create(&path).unwrap();
            files.hold(&path);
            files.hold(&folder.path().join("none"));
        }
        assert_eq!(files.held.len(), WIDE_REMOVED_FILES_MAX);
    }
}
