//! The files of a project: path and text, as they are read from a folder or sent to a node.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use busbar_event::{Class, Error};
use busbar_plugin::Package;
use serde::{Deserialize, Serialize};

use crate::diagnostic::{Diagnostic, Severity, has_errors, suggest};
use crate::limits::{
    DIAGNOSTICS_MAX, FILE_BYTES_MAX, PLUGIN_DEPTH_MAX, PLUGIN_PATH_BYTES_MAX, PROJECT_BYTES_MAX,
    PROJECT_FILES_MAX,
};
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
    /// `gateways/<name>.yaml`.
    Gateway,
    /// `flows/<name>.yaml`.
    Flow,
    /// `orchestrations/<name>.yaml`.
    Orchestration,
    /// `apis/<name>.yaml`.
    Api,
    /// `plugins/<name>/`, with `plugin.yaml` and the files of the program.
    Plugin,
}

/// The settings' file.
pub(crate) const CONFIG_FILE: &str = "busbar.toml";

impl Kind {
    /// Every kind whose folder holds one file for each resource.
    pub const FOLDERS: [Kind; 7] = [
        Kind::Stream,
        Kind::Table,
        Kind::Connection,
        Kind::Gateway,
        Kind::Flow,
        Kind::Orchestration,
        Kind::Api,
    ];

    /// The file in a plug-in's folder that says what it is.
    pub const PLUGIN_FILE: &str = "plugin.yaml";

    /// The folder of the project that holds resources of this kind.
    pub fn folder(self) -> &'static str {
        match self {
            Kind::Config => "",
            Kind::Stream => "streams",
            Kind::Table => "tables",
            Kind::Connection => "connections",
            Kind::Gateway => "gateways",
            Kind::Flow => "flows",
            Kind::Orchestration => "orchestrations",
            Kind::Api => "apis",
            Kind::Plugin => "plugins",
        }
    }

    /// Whether a path is that of a file in the folder of one resource, such as `connections/his/his.wsdl`: it belongs to the
    /// resource and is none itself.
    pub fn is_part(self, path: &str) -> bool {
        match self {
            Kind::Connection => path.matches('/').count() > 1,
            Kind::Plugin => {
                !path.ends_with(&format!("/{}", Kind::PLUGIN_FILE)) || path.matches('/').count() > 2
            }
            _ => false,
        }
    }

    /// The path of a resource's file.
    pub fn path(self, name: &str) -> String {
        match self {
            Kind::Config => CONFIG_FILE.to_owned(),
            Kind::Plugin => format!("plugins/{name}/{}", Kind::PLUGIN_FILE),
            _ => format!("{}/{name}.yaml", self.folder()),
        }
    }
}

/// Folders that have a meaning later; a file in them must not be ignored in silence.
const LATER: [&str; 2] = ["alerts", "dashboards"];

impl Bundle {
    /// Reads the files of a project's folder. The warnings beside them name files in the folders of resources
    /// that are no resources and are ignored, and folders whose names are nearly those of resources; other files and
    /// folders of the project are not looked at.
    ///
    /// # Errors
    /// A folder that cannot be read, a file that is too long, or too many of them.
    pub fn read(dir: &Path) -> Result<(Bundle, Vec<Diagnostic>), Vec<Diagnostic>> {
        let (bundle, mut found) = Bundle::read_partly(dir)?;
        match has_errors(&found) {
            false => Ok((bundle, found)),
            true => {
                found.retain(|found| found.severity() == Severity::Error);
                Err(found)
            }
        }
    }

    /// As [`Bundle::read`], where files that cannot be read are left out: the diagnostics beside the bundle say which
    /// and why.
    ///
    /// # Errors
    /// A folder that cannot be read, or too many files.
    pub fn read_partly(dir: &Path) -> Result<(Bundle, Vec<Diagnostic>), Vec<Diagnostic>> {
        let mut reader = Reader {
            bundle: Bundle::default(),
            bytes: 0,
            ignored: Vec::new(),
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
        reader.misnamed(dir);
        reader.parts(dir, Kind::Connection);
        reader.parts(dir, Kind::Plugin);
        let is_one_file = |found: &Diagnostic| {
            found.error().code() != "catalog.project-too-large"
                && Bundle::classify(found.file()).is_ok()
        };
        if !reader.bad.iter().all(is_one_file) {
            return Err(reader.bad);
        }
        let mut found = reader.bad;
        found.extend(reader.ignored);
        Ok((reader.bundle, found))
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
        if folder == Kind::Plugin.folder() {
            let (name, file) = file.split_once('/').ok_or_else(|| new("catalog.path"))?;
            check_name(name)?;
            if file.len() > PLUGIN_PATH_BYTES_MAX || !file.split('/').all(is_plugin_file) {
                return Err(new("catalog.plugin-path").with("max", PLUGIN_PATH_BYTES_MAX));
            }
            return Ok((Kind::Plugin, name));
        }
        let kind = Kind::FOLDERS
            .into_iter()
            .find(|k| k.folder() == folder)
            .ok_or_else(|| new("catalog.path"))?;
        if kind == Kind::Connection
            && let Some((name, file)) = file.split_once('/')
        {
            check_name(name)?;
            let is_allowed = file.len() <= PLUGIN_PATH_BYTES_MAX
                && file.split('/').all(is_plugin_file)
                && is_connection_file(file);
            return match is_allowed {
                true => Ok((Kind::Connection, name)),
                false => Err(new("catalog.connection-file").with("max", PLUGIN_PATH_BYTES_MAX)),
            };
        }
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

/// What the files of a project's folder look like from outside: names, and for each file which one it is, its length
/// and when it was changed. Two stamps are equal exactly when nobody has touched the files in between, provided that
/// the first was taken after the clock of the file system had moved on from the last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderStamp(Vec<(PathBuf, Option<FileStamp>)>);

/// Device, inode, length, and the times in nanoseconds at which contents and attributes were changed.
type FileStamp = (u64, u64, u64, i128, i128);

impl FolderStamp {
    /// The stamp of a project's folder. Links are followed. Blocks on the disk.
    pub fn take(dir: &Path) -> FolderStamp {
        let mut files = Vec::new();
        let mut add = |path: PathBuf| {
            let stamp = std::fs::metadata(&path).ok().map(|meta| {
                let nanos = |seconds: i64, nanos: i64| {
                    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
                };
                let modified = nanos(meta.mtime(), meta.mtime_nsec());
                let changed = nanos(meta.ctime(), meta.ctime_nsec());
                (meta.dev(), meta.ino(), meta.len(), modified, changed)
            });
            files.push((path, stamp));
        };
        add(dir.join(CONFIG_FILE));
        for folder in Kind::FOLDERS.iter().map(|k| k.folder()).chain(LATER) {
            let folder = dir.join(folder);
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                if !is_beside(&entry.file_name().to_string_lossy()) {
                    add(entry.path());
                }
            }
            // An unreadable folder is told from an empty one.
            add(folder);
        }
        let kinds = [Kind::Connection, Kind::Plugin];
        let mut open: Vec<(PathBuf, usize)> = kinds.map(|k| (dir.join(k.folder()), 0)).into();
        while let Some((folder, depth)) = open.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                if is_plugin_file(&entry.file_name().to_string_lossy()) {
                    let path = entry.path();
                    if path.is_dir() && depth < PLUGIN_DEPTH_MAX {
                        open.push((path, depth + 1));
                    } else {
                        add(path);
                    }
                }
            }
            add(folder);
        }
        files.sort_unstable();
        // Files beside the folders of connections have been found twice.
        files.dedup();
        FolderStamp(files)
    }
}

/// The error for a file that is no UTF-8, with the place where it stops being so.
fn not_text(path: &str, bad: &std::string::FromUtf8Error) -> Error {
    let position = bad.utf8_error().valid_up_to();
    let before = bad.as_bytes()[..position].iter();
    Error::new(Class::Configuration, "catalog.not-text")
        .with("path", path)
        .with("line", before.filter(|byte| **byte == b'\n').count() + 1)
        .with("position", position)
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

/// Whether a file is ignored without a warning: hidden files, notes, and what editors create for a moment while a
/// file is being saved.
fn is_beside(name: &str) -> bool {
    const ENDINGS: [&str; 6] = ["~", ".swp", ".swx", ".swo", ".tmp", ".md"];
    name.starts_with(['.', '#'])
        || name.contains("___jb_")
        || ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Whether a name within a plug-in's folder is that of a file or folder of the plug-in: letters, digits and `. _ - $`, and
/// nothing that a program leaves behind.
fn is_plugin_file(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-$".contains(c);
    !name.is_empty()
        && name.chars().all(is_allowed)
        && !is_beside(name)
        && !["__pycache__", "node_modules"].contains(&name)
}

/// Whether a name within a connection's folder ends as a file of such a folder does.
fn is_connection_file(name: &str) -> bool {
    [".wsdl", ".xsd"]
        .iter()
        .any(|ending| name.ends_with(ending))
}

/// Whether a file of a resource folder is read as a resource.
fn is_resource(name: &str) -> bool {
    name.ends_with(".yaml") || name.ends_with(".yml")
}

struct Reader {
    bundle: Bundle,
    bytes: usize,
    ignored: Vec<Diagnostic>,
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
            let path = format!("{folder}/{name}");
            let is_folder = || entry.path().is_dir();
            if is_beside(&name) || (folder == Kind::Connection.folder() && is_folder()) {
                // Files of a connection are read with their folder.
            } else if is_resource(&name) || LATER.contains(&folder) {
                self.file(&entry.path(), path);
            } else if self.ignored.len() < DIAGNOSTICS_MAX {
                let error = Error::new(Class::Configuration, "catalog.ignored").with("path", &path);
                self.ignored
                    .push(Diagnostic::new(&path, "", 0..0, error).warning());
            }
        }
    }

    /// Warns of folders whose names are nearly those of resources: what is in them does not run.
    fn misnamed(&mut self, dir: &Path) {
        let kinds = Kind::FOLDERS.into_iter().chain([Kind::Plugin]);
        let known: Vec<_> = kinds.map(Kind::folder).collect();
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.path().is_dir());
        let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let names: BTreeSet<String> = names.collect();
        for name in names {
            let help = suggest(&name, known.iter().copied());
            let is_known = known.contains(&&*name) || LATER.contains(&&*name);
            if is_known || help.is_none() || self.ignored.len() >= DIAGNOSTICS_MAX {
                continue;
            }
            let path = format!("{}/", shown(&name));
            let error =
                Error::new(Class::Configuration, "catalog.misnamed-folder").with("path", &path);
            let found = Diagnostic::new(&path, "", 0..0, error).with_help(help);
            self.ignored.push(found.warning());
        }
    }

    /// The folders of resources of a kind, with what is in them.
    fn parts(&mut self, dir: &Path, kind: Kind) {
        let mut open = vec![(dir.join(kind.folder()), kind.folder().to_owned(), 0)];
        while let Some((dir, shown, depth)) = open.pop() {
            let Ok(entries) = std::fs::read_dir(&dir) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = format!("{shown}/{name}");
                if !is_plugin_file(&name) {
                    continue;
                }
                if entry.path().is_dir() {
                    match depth < PLUGIN_DEPTH_MAX {
                        true => open.push((entry.path(), path, depth + 1)),
                        false => {
                            let error = Error::new(Class::Configuration, "catalog.plugin-path")
                                .with("path", &path)
                                .with("max", PLUGIN_PATH_BYTES_MAX);
                            self.refuse(&path, error);
                        }
                    }
                } else if depth > 0 && (kind == Kind::Plugin || is_connection_file(&name)) {
                    self.file(&entry.path(), path);
                } else if depth > 0 && self.ignored.len() < DIAGNOSTICS_MAX {
                    let error = Error::new(Class::Configuration, "catalog.connection-file")
                        .with("path", &path)
                        .with("max", PLUGIN_PATH_BYTES_MAX);
                    self.ignored
                        .push(Diagnostic::new(&path, "", 0..0, error).warning());
                }
            }
        }
    }

    fn file(&mut self, at: &Path, path: String) {
        let text = (|| -> std::io::Result<Result<String, Error>> {
            let meta = std::fs::metadata(at)?;
            if !meta.is_file() {
                // Reading a pipe or a device might never end.
                let error = Error::new(Class::Configuration, "catalog.not-a-file");
                return Ok(Err(error.with("path", &path)));
            }
            let mut contents = Vec::new();
            std::fs::File::open(at)?
                .take(FILE_BYTES_MAX as u64 + 1)
                .read_to_end(&mut contents)?;
            let text = match path.starts_with("plugins/") {
                true => Package::text_of(contents),
                false => match String::from_utf8(contents) {
                    Ok(text) => text,
                    Err(bad) => return Ok(Err(not_text(&path, &bad))),
                },
            };
            if text.len() > FILE_BYTES_MAX {
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
        assert_eq!(
            Bundle::classify("plugins/rain/lib/a.js").unwrap(),
            (Kind::Plugin, "rain")
        );
        assert_eq!(
            Bundle::classify("connections/his/types/a.xsd").unwrap(),
            (Kind::Connection, "his")
        );
        for (bad, code) in [
            ("../x.yaml", "catalog.path"),
            ("flows/../x.yaml", "catalog.name"),
            ("flows/a/b.yaml", "catalog.name"),
            ("flows/A.yaml", "catalog.name"),
            ("flows/a.json", "catalog.extension"),
            ("alerts/x.yaml", "catalog.later"),
            ("plugins/x.js", "catalog.path"),
            ("plugins/x/../y.js", "catalog.plugin-path"),
            ("plugins/x//y.js", "catalog.plugin-path"),
            ("plugins/x/y z.js", "catalog.plugin-path"),
            ("plugins/X/y.js", "catalog.name"),
            ("connections/his/a.txt", "catalog.connection-file"),
            ("connections/his/../a.xsd", "catalog.connection-file"),
            ("connections/His/a.xsd", "catalog.name"),
            ("etc", "catalog.path"),
        ] {
            assert_eq!(Bundle::classify(bad).unwrap_err().code(), code, "{bad}");
        }
    }

    #[test]
    fn files_that_are_no_resources_are_ignored_with_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let flows = dir.path().join("flows");
        std::fs::create_dir_all(flows.join("archive")).unwrap();
        std::fs::write(flows.join("a.yaml"), "x: 1").unwrap();
        let stray = ["Thumbs.db", "a.yaml.bak", "a.yaml.rpmnew", "b.json"];
        for name in stray {
            std::fs::write(flows.join(name), [0xff]).unwrap();
        }
        let (bundle, ignored) = Bundle::read(dir.path()).unwrap();
        assert_eq!(bundle.files.keys().collect::<Vec<_>>(), ["flows/a.yaml"]);
        let mut named: Vec<_> = ignored.iter().map(Diagnostic::file).collect();
        named.sort_unstable();
        let expected = [
            "flows/Thumbs.db",
            "flows/a.yaml.bak",
            "flows/a.yaml.rpmnew",
            "flows/archive",
            "flows/b.json",
        ];
        assert_eq!(named, expected);
        assert!(!crate::has_errors(&ignored));
    }

    #[test]
    fn files_of_a_connection_belong_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("connections/his");
        std::fs::create_dir_all(folder.join("types")).unwrap();
        std::fs::write(folder.with_extension("yaml"), "soap: { wsdl: a.wsdl }\n").unwrap();
        let before = FolderStamp::take(dir.path());
        std::fs::write(folder.join("a.wsdl"), "<a/>").unwrap();
        std::fs::write(folder.join("types/b.xsd"), "<b/>").unwrap();
        std::fs::write(folder.join("notes.txt"), "").unwrap();
        assert_ne!(FolderStamp::take(dir.path()), before);
        let (bundle, ignored) = Bundle::read(dir.path()).unwrap();
        let codes: Vec<_> = ignored.iter().map(|one| one.error().code()).collect();
        assert_eq!(codes, ["catalog.connection-file"]);
        let files = |bundle: &Bundle| {
            let (project, bad) = crate::Project::parse(bundle.clone());
            assert!(bad.is_empty(), "{bad:?}");
            project
        };
        let old = files(&bundle);
        let known: Vec<_> = old.connections["his"].spec.files.keys().collect();
        assert_eq!(known, ["a.wsdl", "types/b.xsd"]);
        // Another text of such a file is another connection.
        let mut other = bundle.clone();
        other
            .files
            .insert("connections/his/a.wsdl".into(), "<c/>".into());
        let changed = crate::changes(&old, &files(&other));
        let changed: Vec<_> = changed.iter().map(|one| (one.kind, &*one.name)).collect();
        assert_eq!(changed, [(Kind::Connection, "his")]);
        // Alone they say nothing.
        other.files.remove("connections/his.yaml");
        let (_, bad) = crate::Project::parse(other);
        let codes: Vec<_> = bad.iter().map(|one| one.error().code()).collect();
        assert_eq!(codes, ["catalog.connection-alone"]);
    }

    #[test]
    fn every_kind_of_change_in_a_folder_changes_its_stamp() {
        use std::fs::{create_dir_all, remove_dir_all, rename, write};
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let project = at("project");
        create_dir_all(at("project/flows")).unwrap();
        create_dir_all(at("aside/flows")).unwrap();
        write(at("project/flows/a.yaml"), "x: 1").unwrap();
        write(at("aside/flows/b.yaml"), "x: 2").unwrap();
        let mut last = FolderStamp::take(&project);
        assert_eq!(FolderStamp::take(&project), last);
        let mut differs = |what: &str| {
            let now = FolderStamp::take(&project);
            assert_ne!(now, last, "{what}");
            last = now;
        };
        write(at("project/flows/a.yaml"), "x: 12").unwrap();
        differs("a file was written");
        rename(at("project/flows"), at("flows")).unwrap();
        differs("a folder was moved out");
        rename(at("aside/flows"), at("project/flows")).unwrap();
        differs("a folder was moved in");
        remove_dir_all(at("project/flows")).unwrap();
        std::os::unix::fs::symlink(at("flows"), at("project/flows")).unwrap();
        differs("a folder became a link");
        create_dir_all(at("other")).unwrap();
        write(at("other/a.yaml"), "x: 12").unwrap();
        std::fs::remove_file(at("project/flows")).unwrap();
        std::os::unix::fs::symlink(at("other"), at("project/flows")).unwrap();
        differs("the link leads elsewhere");
        rename(at("project"), at("gone")).unwrap();
        differs("the project is gone");
    }

    #[test]
    fn a_folder_whose_name_is_nearly_that_of_resources_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["flow", "Streams", "tables", "data", "in", "sql"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        std::fs::write(dir.path().join("flow/a.yaml"), "from: a").unwrap();
        let (bundle, ignored) = Bundle::read(dir.path()).unwrap();
        assert!(bundle.files.is_empty());
        let named: Vec<_> = ignored.iter().map(Diagnostic::file).collect();
        assert_eq!(named, ["Streams/", "flow/"]);
        assert!(ignored.iter().all(|found| found.help().is_some()));
        assert!(!crate::has_errors(&ignored));
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
            "a.yaml.tmp",
            "a.yaml___jb_tmp___",
        ] {
            std::fs::write(dir.path().join("flows").join(beside), "").unwrap();
        }
        // A file that was renamed away since the folder was listed.
        std::os::unix::fs::symlink("nowhere", dir.path().join("flows/gone.yaml")).unwrap();
        std::fs::write(dir.path().join("README.md"), "hi").unwrap();
        let (bundle, ignored) = Bundle::read(dir.path()).unwrap();
        assert!(ignored.is_empty(), "{ignored:?}");
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
            "catalog.not-text"
        );
        std::fs::remove_file(&flow).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &flow).unwrap();
        assert_eq!(
            Bundle::read(dir.path()).unwrap_err()[0].error().code(),
            "catalog.not-a-file"
        );
        // The others are there all the same.
        let (bundle, found) = Bundle::read_partly(dir.path()).unwrap();
        assert_eq!(bundle.files.keys().collect::<Vec<_>>(), ["flows/a.yaml"]);
        assert_eq!(found[0].file(), "flows/b.yaml");
    }

    #[test]
    fn the_files_of_plugins_are_read_with_their_folders() {
        let dir = tempfile::tempdir().unwrap();
        let rain = dir.path().join("plugins/rain");
        std::fs::create_dir_all(rain.join("lib/__pycache__")).unwrap();
        std::fs::write(rain.join("plugin.yaml"), "language: python\n").unwrap();
        std::fs::write(rain.join("lib/a.py"), "a = 1\n").unwrap();
        std::fs::write(rain.join("lib/__pycache__/a.pyc"), [0xff]).unwrap();
        std::fs::write(rain.join("main.jar"), [0xff, 0]).unwrap();
        std::fs::write(rain.join(".main.py.swp"), [0xff]).unwrap();
        std::fs::write(dir.path().join("plugins/README.md"), "hi").unwrap();
        let before = FolderStamp::take(dir.path());
        let (bundle, ignored) = Bundle::read(dir.path()).unwrap();
        assert!(ignored.is_empty(), "{ignored:?}");
        assert_eq!(
            bundle.files.keys().collect::<Vec<_>>(),
            [
                "plugins/rain/lib/a.py",
                "plugins/rain/main.jar",
                "plugins/rain/plugin.yaml"
            ]
        );
        let jar = &bundle.files["plugins/rain/main.jar"];
        assert_eq!(Package::contents_of(jar).unwrap(), [0xff, 0]);
        std::fs::write(rain.join("lib/a.py"), "a = 2\nb = 3\n").unwrap();
        assert_ne!(FolderStamp::take(dir.path()), before);
    }
}
