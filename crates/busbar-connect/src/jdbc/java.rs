//! The Java program that loads the drivers: found, and compiled where that has not been done before.

use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use busbar_event::{Class, Error};
use parking_lot::Mutex;

use crate::driver::DriverLogin;
use crate::driver::limits::COMPILE_MAX;

/// The sources; the reader and writer of JSON is that of plug-ins.
const SOURCES: [(&str, &str); 6] = [
    (
        "Json.java",
        include_str!("../../../busbar-plugin/sdk/java/busbar/Json.java"),
    ),
    ("JdbcFault.java", include_str!("java/JdbcFault.java")),
    ("JdbcSession.java", include_str!("java/JdbcSession.java")),
    ("JdbcTables.java", include_str!("java/JdbcTables.java")),
    ("JdbcValues.java", include_str!("java/JdbcValues.java")),
    ("JdbcWorker.java", include_str!("java/JdbcWorker.java")),
];

/// What is to be installed where Java is missing.
const PACKAGE: &str = "openjdk-17-jdk-headless";

/// How the worker is started. Blocks: the first time on a machine for a second or two.
///
/// # Errors
/// As [`find`] and [`classes`].
pub fn command(login: &DriverLogin) -> Result<Command, Error> {
    let mebibytes = login.memory >> 20;
    let mut command = Command::new(find("java")?);
    command
        .arg(format!("-Xmx{mebibytes}m"))
        .arg(format!("-XX:MaxDirectMemorySize={}m", mebibytes / 4 + 16))
        .args(["-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"])
        // Its output is for frames.
        .arg("-XX:+DisplayVMOutputToStderr")
        .args(["-Duser.timezone=UTC", "-Dfile.encoding=UTF-8"])
        // Else Derby writes a file into the project's folder.
        .arg("-Dderby.stream.error.field=java.lang.System.err")
        .arg("-cp")
        .arg(classes()?)
        .arg("busbar.JdbcWorker");
    Ok(command)
}

/// A program of Java: in `JAVA_HOME`, or in the `PATH`.
///
/// # Errors
/// *Configuration*: there is none; says what to install.
pub fn find(program: &str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("JAVA_HOME").map(PathBuf::from);
    find_in(program, home, &path)
}

fn find_in(program: &str, home: Option<PathBuf>, path: &OsStr) -> Result<PathBuf, Error> {
    let home = home.map(|home| home.join("bin").join(program));
    let in_path = std::env::split_paths(path).map(|folder| folder.join(program));
    let found = home.into_iter().chain(in_path).find(|path| path.is_file());
    found.ok_or_else(|| {
        Error::new(Class::Configuration, "jdbc.no-java")
            .with("program", program)
            .with("package", PACKAGE)
    })
}

/// The folder with the compiled program. Blocks: the first time on a machine for a second or two.
///
/// # Errors
/// *Configuration*: there is no compiler, or no folder that can be written. *Transient*: the disk is full.
fn classes() -> Result<PathBuf, Error> {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    // One compiler at a time.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock();
    if let Some(made) = MADE.get().filter(|made| made.is_dir()) {
        return Ok(made.clone());
    }
    let home = cache();
    let mut hasher = DefaultHasher::new();
    SOURCES.hash(&mut hasher);
    let version = env!("CARGO_PKG_VERSION");
    let folder = home.join(format!("jdbc-{version}-{:016x}", hasher.finish()));
    if !folder.is_dir() {
        compile(&home, &folder)?;
    }
    let _ = MADE.set(folder.clone());
    Ok(folder)
}

/// A folder of the user's own for what can be made again.
fn cache() -> PathBuf {
    let named = |name: &str| {
        std::env::var_os(name)
            .filter(|folder| Path::new(folder).is_absolute())
            .map(PathBuf::from)
    };
    named("CACHE_DIRECTORY")
        .or_else(|| named("XDG_CACHE_HOME").map(|folder| folder.join("busbar")))
        .or_else(|| {
            named("HOME")
                .filter(|home| home != Path::new("/"))
                .map(|home| home.join(".cache").join("busbar"))
        })
        // Nobody else may have made it: the name is taken once, by this process.
        .unwrap_or_else(|| std::env::temp_dir().join(format!("busbar-{}", std::process::id())))
}

fn compile(home: &Path, folder: &Path) -> Result<(), Error> {
    let compiler = find("javac")?;
    let written = |path: &Path, why: std::io::Error| {
        let class = match why.kind() {
            ErrorKind::StorageFull => Class::Transient,
            _ => Class::Configuration,
        };
        let error = Error::new(class, "jdbc.cache").with("folder", path.display());
        error.caused_by(why)
    };
    let part = home.join(format!("jdbc-{}.part", std::process::id()));
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    let _ = std::fs::remove_dir_all(&part);
    let (sources, classes) = (part.join("sources"), part.join("classes"));
    for made in [&sources, &classes] {
        builder.create(made).map_err(|why| written(made, why))?;
    }
    let mut arguments: Vec<OsString> = vec!["-d".into(), classes.clone().into()];
    arguments.extend(["-encoding", "UTF-8", "-Xlint:none"].map(OsString::from));
    for (name, text) in SOURCES {
        let file = sources.join(name);
        std::fs::write(&file, text).map_err(|why| written(&file, why))?;
        arguments.push(file.into());
    }
    let said = part.join("compiler.txt");
    let output = std::fs::File::create(&said).map_err(|why| written(&said, why))?;
    let errors = output.try_clone().map_err(|why| written(&said, why))?;
    let failed = |why| {
        let error = Error::new(Class::Transient, "driver.not-started");
        error.with("program", compiler.display()).caused_by(why)
    };
    let mut child = Command::new(&compiler)
        .args(&arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(failed)?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break Some(status);
        }
        if began.elapsed() > COMPILE_MAX {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    };
    if !status.is_some_and(|status| status.success()) {
        let said = std::fs::read(&said).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let first = said.lines().next().unwrap_or("-").to_owned();
        let _ = std::fs::remove_dir_all(&part);
        return Err(Error::new(Class::Configuration, "jdbc.compile")
            .with("program", compiler.display())
            .with("said", first));
    }
    let renamed = std::fs::rename(&classes, folder);
    let _ = std::fs::remove_dir_all(&part);
    match renamed {
        // Another process may have been quicker.
        Err(why) if !folder.is_dir() => Err(written(folder, why)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_is_found_or_it_is_said_what_to_install() {
        let folder = tempfile::tempdir().expect("a folder");
        let (home, other) = (folder.path().join("jdk"), folder.path().join("other"));
        for bin in [home.join("bin"), other.clone()] {
            std::fs::create_dir_all(&bin).expect("a folder");
            std::fs::write(bin.join("java"), "").expect("a file");
        }
        let look = |home: Option<&PathBuf>, path: &Path| {
            find_in("java", home.cloned(), path.as_os_str()).ok()
        };
        assert_eq!(look(Some(&home), &other), Some(home.join("bin/java")));
        assert_eq!(look(None, &other), Some(other.join("java")));
        assert_eq!(look(Some(&other), &other), Some(other.join("java")));
        let missing = find_in("java", None, folder.path().as_os_str()).expect_err("none there");
        assert_eq!(missing.class(), Class::Configuration);
        for language in [busbar_event::Language::En, busbar_event::Language::Zh] {
            assert!(missing.message(language).contains(PACKAGE), "{missing}");
        }
    }
}
