//! The files of a project: path and text, as they are read from a folder or sent to a node.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use busbar_event::{Class, Error};
use serde::{Deserialize, Serialize};

use crate::diagnostic::Diagnostic;
use crate::limits::{FILE_BYTES_MAX, PROJECT_BYTES_MAX, PROJECT_FILES_MAX};
use crate::name::check_name;

/// Paths (with `/`, from the project's folder) and texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bundle {
    /// Path to text.
    pub files: BTreeMap<String, String>,
}

/// What a file of a project is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `busbar.toml`.
    Config,
    /// `streams/<name>.yaml`.
    Stream,
    /// `tables/<name>.yaml`.
    Table,
    /// `connections/<name>.yaml`.
    Connection,
    /// `flows/<name>.yaml`.
    Flow,
}

/// The settings' file.
pub(crate) const CONFIG_FILE: &str = "busbar.toml";

impl Kind {
    /// Every kind that has a folder.
    pub const FOLDERS: [Kind; 4] = [Kind::Stream, Kind::Table, Kind::Connection, Kind::Flow];

    /// The folder of the project that holds resources of this kind.
    pub fn folder(self) -> &'static str {
        match self {
            Kind::Config => "",
            Kind::Stream => "streams",
            Kind::Table => "tables",
            Kind::Connection => "connections",
            Kind::Flow => "flows",
        }
    }

    /// The path of a resource's file.
    pub fn path(self, name: &str) -> String {
        match self {
            Kind::Config => CONFIG_FILE.to_owned(),
            _ => format!("{}/{name}.yaml", self.folder()),
        }
    }
}

/// Folders that have a meaning later; a file in them must not be ignored in silence.
const LATER: [&str; 3] = ["alerts", "dashboards", "plugins"];

impl Bundle {
    /// Reads the files of a project's folder. Other files and folders beside them are none of its business.
    ///
    /// # Errors
    /// A folder that cannot be read, a file that is too long, or too many of them.
    pub fn read(dir: &Path) -> Result<Bundle, Vec<Diagnostic>> {
        let mut reader = Reader {
            bundle: Bundle::default(),
            bytes: 0,
            bad: Vec::new(),
        };
        if !dir.is_dir() {
            let error =
                Error::new(Class::Configuration, "catalog.no-project").with("path", dir.display());
            return Err(vec![Diagnostic::new(
                &dir.display().to_string(),
                "",
                0..0,
                error,
            )]);
        }
        let config = dir.join(CONFIG_FILE);
        if config.exists() {
            reader.file(&config, CONFIG_FILE.to_owned());
        }
        for folder in Kind::FOLDERS.iter().map(|k| k.folder()).chain(LATER) {
            reader.folder(&dir.join(folder), folder);
        }
        if reader.bad.is_empty() {
            Ok(reader.bundle)
        } else {
            Err(reader.bad)
        }
    }

    /// The kind and name a path stands for.
    ///
    /// # Errors
    /// A path that is not part of a project, or whose name is none.
    pub fn classify(path: &str) -> Result<(Kind, &str), Error> {
        let new = |code| Error::new(Class::Configuration, code).with("path", shown(path));
        if path == CONFIG_FILE {
            return Ok((Kind::Config, ""));
        }
        let (folder, file) = path.split_once('/').ok_or_else(|| new("catalog.path"))?;
        if LATER.contains(&folder) {
            return Err(new("catalog.later").with("folder", folder));
        }
        let kind = Kind::FOLDERS
            .into_iter()
            .find(|k| k.folder() == folder)
            .ok_or_else(|| new("catalog.path"))?;
        let name = file
            .strip_suffix(".yaml")
            .or_else(|| file.strip_suffix(".yml"))
            .ok_or_else(|| new("catalog.extension"))?;
        check_name(name)?;
        Ok((kind, name))
    }

    /// Checks count and sizes of a bundle that came from outside.
    ///
    /// # Errors
    /// `catalog.project-too-large`.
    pub fn check_size(&self) -> Result<(), Error> {
        let bytes: usize = self.files.values().map(String::len).sum();
        if self.files.len() > PROJECT_FILES_MAX || bytes > PROJECT_BYTES_MAX {
            return Err(too_large(self.files.len(), bytes));
        }
        Ok(())
    }
}

fn shown(path: &str) -> String {
    path.chars().take(200).collect()
}

fn too_large(files: usize, bytes: usize) -> Error {
    Error::new(Class::Configuration, "catalog.project-too-large")
        .with("files", files)
        .with("bytes", bytes)
        .with("files_max", PROJECT_FILES_MAX)
        .with("bytes_max", PROJECT_BYTES_MAX)
}

/// Whether a file only lies beside the resources: editors and other tools leave files of these names behind
/// while one is being edited, people leave notes.
fn is_beside(name: &str) -> bool {
    const ENDINGS: [&str; 9] = [
        "~", ".swp", ".swx", ".swo", ".tmp", ".bak", ".orig", ".rej", ".md",
    ];
    name.starts_with(['.', '#'])
        || name.contains("___jb_")
        || ENDINGS.iter().any(|ending| name.ends_with(ending))
}

struct Reader {
    bundle: Bundle,
    bytes: usize,
    bad: Vec<Diagnostic>,
}

impl Reader {
    fn refuse(&mut self, path: &str, error: Error) {
        self.bad.push(Diagnostic::new(path, "", 0..0, error));
    }

    fn folder(&mut self, dir: &Path, folder: &str) {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
            Err(e) => {
                let error = Error::new(Class::Configuration, "catalog.unreadable")
                    .with("path", folder)
                    .caused_by(e);
                return self.refuse(folder, error);
            }
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_beside(&name) {
                self.file(&entry.path(), format!("{folder}/{name}"));
            }
        }
    }

    fn file(&mut self, at: &Path, path: String) {
        let text = (|| {
            let meta = std::fs::metadata(at)?;
            if !meta.is_file() {
                // Reading a pipe or a device need never end.
                let what = "it is no file";
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, what));
            }
            let mut text = String::new();
            let bytes = std::fs::File::open(at)?
                .take(FILE_BYTES_MAX as u64 + 1)
                .read_to_string(&mut text)?;
            if bytes > FILE_BYTES_MAX {
                return Ok(Err(Error::new(
                    Class::Configuration,
                    "catalog.file-too-long",
                )
                .with("bytes", meta.len())
                .with("bytes_max", FILE_BYTES_MAX)));
            }
            Ok(Ok(text))
        })();
        match text {
            // Put in place of another, or removed, since the folder was listed: the next look sees it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Ok(Ok(text)) => {
                self.bytes += text.len();
                if self.bundle.files.len() >= PROJECT_FILES_MAX || self.bytes > PROJECT_BYTES_MAX {
                    if self.bad.is_empty() {
                        let error = too_large(self.bundle.files.len() + 1, self.bytes);
                        self.refuse(&path, error);
                    }
                    return;
                }
                self.bundle.files.insert(path, text);
            }
            Ok(Err(error)) => self.refuse(&path, error),
            Err(e) => {
                let error = Error::new(Class::Configuration, "catalog.unreadable")
                    .with("path", &path)
                    .caused_by(e);
                self.refuse(&path, error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_kind_and_a_name_or_refused() {
        assert_eq!(
            Bundle::classify("flows/rain-alarm.yaml").unwrap(),
            (Kind::Flow, "rain-alarm")
        );
        assert_eq!(
            Bundle::classify("streams/a.yml").unwrap(),
            (Kind::Stream, "a")
        );
        for (bad, code) in [
            ("../x.yaml", "catalog.path"),
            ("flows/../x.yaml", "catalog.name"),
            ("flows/a/b.yaml", "catalog.name"),
            ("flows/A.yaml", "catalog.name"),
            ("flows/a.json", "catalog.extension"),
            ("plugins/x.js", "catalog.later"),
            ("etc", "catalog.path"),
        ] {
            assert_eq!(Bundle::classify(bad).unwrap_err().code(), code, "{bad}");
        }
    }

    #[test]
    fn reads_a_folder_and_leaves_the_rest_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("flows")).unwrap();
        std::fs::create_dir_all(dir.path().join("plugins")).unwrap();
        std::fs::create_dir_all(dir.path().join("data/x")).unwrap();
        std::fs::write(dir.path().join("flows/a.yaml"), "x: 1").unwrap();
        for beside in [
            ".a.yaml.swp",
            "#a.yaml#",
            ".#a.yaml",
            "a.yaml~",
            "a.yaml.bak",
            "a.yaml___jb_tmp___",
        ] {
            std::fs::write(dir.path().join("flows").join(beside), "").unwrap();
        }
        // A file that was renamed away since the folder was listed.
        std::os::unix::fs::symlink("nowhere", dir.path().join("flows/gone.yaml")).unwrap();
        std::fs::write(dir.path().join("README.md"), "hi").unwrap();
        let bundle = Bundle::read(dir.path()).unwrap();
        assert_eq!(bundle.files.keys().collect::<Vec<_>>(), ["flows/a.yaml"]);
        std::fs::write(
            dir.path().join("flows/b.yaml"),
            "x".repeat(FILE_BYTES_MAX + 1),
        )
        .unwrap();
        let bad = Bundle::read(dir.path()).unwrap_err();
        assert_eq!(bad[0].error().code(), "catalog.file-too-long");
        assert!(Bundle::read(&dir.path().join("nowhere")).is_err());
        // Neither a text that is none nor a device is read.
        let flow = dir.path().join("flows/b.yaml");
        std::fs::write(&flow, [0xff, 0xfe, b'a']).unwrap();
        assert_eq!(
            Bundle::read(dir.path()).unwrap_err()[0].error().code(),
            "catalog.unreadable"
        );
        std::fs::remove_file(&flow).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &flow).unwrap();
        assert_eq!(
            Bundle::read(dir.path()).unwrap_err()[0].error().code(),
            "catalog.unreadable"
        );
    }
}
