//! Which files connections may use: those of the project's folder and of the folders that the operator allows.
//!
//! A path in a project is checked as it is written, because projects can be sent to a node from outside. Where it is
//! opened, links are resolved and what they lead to is checked again.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use busbar_event::{Class, Error};

/// Folders outside the project that connections may use, with everything below them.
#[derive(Clone, Debug, Default)]
pub struct Places {
    allowed: Arc<[PathBuf]>,
}

impl Places {
    /// Allows these folders; their paths are absolute.
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Places {
        Places {
            allowed: folders.into_iter().collect(),
        }
    }

    /// Checks a path as it is written: relative to the project's folder, or in a folder that is allowed, without a way
    /// up.
    ///
    /// # Errors
    /// The code of what is wrong with it.
    pub(crate) fn check(&self, path: &str) -> Result<(), &'static str> {
        let path = Path::new(path);
        let plain = |part| {
            matches!(
                part,
                Component::Normal(_) | Component::CurDir | Component::RootDir
            )
        };
        let is_file = path.file_name().is_some()
            && !path.as_os_str().as_encoded_bytes().contains(&0)
            && path.components().all(plain);
        let inside =
            path.is_relative() || self.allowed.iter().any(|folder| path.starts_with(folder));
        match is_file && inside {
            true => Ok(()),
            false => Err("connect.file-outside"),
        }
    }

    /// A file or folder that exists, with all links resolved. Blocks on the disk.
    ///
    /// # Errors
    /// *Configuration* when it leads out of the project and the allowed folders, and what the file system says.
    pub(crate) fn resolve(&self, project: &Path, path: &Path) -> Result<PathBuf, PathRefused> {
        let found = fs::canonicalize(path)?;
        let folders = std::iter::once(project).chain(self.allowed.iter().map(PathBuf::as_path));
        let mut folders = folders.filter_map(|folder| fs::canonicalize(folder).ok());
        match folders.any(|folder| found.starts_with(folder)) {
            true => Ok(found),
            false => Err(PathRefused::Outside(
                Error::new(Class::Configuration, "connect.file-link")
                    .with("file", path.display())
                    .with("target", found.display()),
            )),
        }
    }

    /// The path of a file that may not exist yet: its folder is created where it is missing, and links are resolved.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// As [`Places::resolve`].
    pub(crate) fn create(&self, project: &Path, path: &Path) -> Result<PathBuf, PathRefused> {
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
            return self.resolve(project, path);
        }
        let folder = path.parent().unwrap_or(project);
        // What is created is below what exists, so that is what must be inside.
        let exists = folder.ancestors().find(|folder| folder.exists());
        self.resolve(project, exists.unwrap_or(project))?;
        fs::create_dir_all(folder)?;
        let folder = self.resolve(project, folder)?;
        Ok(folder.join(path.file_name().unwrap_or_default()))
    }
}

/// Why a path is not used.
pub(crate) enum PathRefused {
    /// It leads outside.
    Outside(Error),
    /// The file system says no.
    Io(io::Error),
}

impl From<io::Error> for PathRefused {
    fn from(why: io::Error) -> PathRefused {
        PathRefused::Io(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside_the_project_and_what_is_allowed() {
        let places = Places::new([PathBuf::from("/data/in")]);
        for path in [
            "in.ndjson",
            "in/*.csv",
            "./in/a",
            "/data/in/a.csv",
            "/data/in/b/*.csv",
        ] {
            assert_eq!(places.check(path), Ok(()), "{path}");
        }
        for path in [
            "",
            "/etc/passwd",
            "/data/inner/a.csv",
            "/data/in/../x",
            "../x",
            "in/../../x",
            "in/..",
            "a\0b",
        ] {
            assert_eq!(places.check(path), Err("connect.file-outside"), "{path}");
        }
        assert!(Places::default().check("/data/in/a.csv").is_err());
    }

    #[test]
    fn links_are_followed_only_inside() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |path: &str| root.path().join(path);
        for folder in ["project/in", "allowed", "secret"] {
            fs::create_dir_all(at(folder)).expect("a folder");
        }
        for file in ["project/in/a", "allowed/b", "secret/c"] {
            fs::write(at(file), file).expect("a file");
        }
        for (link, target) in [
            ("project/in/b", "allowed/b"),
            ("project/in/c", "secret/c"),
            ("allowed/c", "secret/c"),
            ("project/out", "secret"),
        ] {
            std::os::unix::fs::symlink(at(target), at(link)).expect("a link");
        }
        let (project, places) = (at("project"), Places::new([at("allowed")]));
        let read = |path: &str| {
            let found = places.resolve(&project, &at(path)).ok()?;
            fs::read_to_string(found).ok()
        };
        assert_eq!(read("project/in/a").as_deref(), Some("project/in/a"));
        assert_eq!(read("project/in/b").as_deref(), Some("allowed/b"));
        for outside in ["project/in/c", "allowed/c", "project/out/c"] {
            let refused = places.resolve(&project, &at(outside)).err();
            assert!(
                matches!(refused, Some(PathRefused::Outside(_))),
                "{outside}"
            );
        }
        let made = places.create(&project, &at("project/new/deep/x")).ok();
        assert_eq!(
            made.and_then(|path| path.parent().map(Path::exists)),
            Some(true)
        );
        for outside in ["project/out/x", "project/out/new/x", "project/in/c"] {
            let refused = places.create(&project, &at(outside)).err();
            assert!(
                matches!(refused, Some(PathRefused::Outside(_))),
                "{outside}"
            );
        }
        assert!(!at("secret/new").exists(), "nothing is created outside");
    }
}
