//! Compilers: source of Java, Scala and Erlang becomes what their machines run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use busbar_event::{Class, Error};

use super::find;
use crate::Package;
use crate::PluginLanguage;
use crate::frame::ScriptFailure;
use crate::limits::{COMPILE_TIMEOUT, COMPILER_OUTPUT_BYTES_MAX};
use crate::log::cut;

/// The class path of a plug-in in Java or Scala, with its sources compiled. A jar has classes and kit already.
pub(crate) fn to_classes(name: &str, package: &Package, root: &Path) -> Result<OsString, Error> {
    let (files, kit, classes) = (root.join("files"), root.join("kit"), root.join("classes"));
    let mut path = vec![classes.clone(), files.clone()];
    let jars = package.files.keys().filter(|file| file.ends_with(".jar"));
    path.extend(jars.map(|jar| files.join(jar)));
    let scala = package.spec.language == PluginLanguage::Scala;
    if scala {
        path.extend(scala_library()?);
    }
    let joined = std::env::join_paths(&path).map_err(|cause| {
        Error::new(Class::Configuration, "plugin.write")
            .with("path", files.display())
            .caused_by(cause)
    })?;
    if package.spec.main().ends_with(".jar") {
        return Ok(joined);
    }
    make_folder(&classes)?;
    let own = |ending: &str| -> Vec<OsString> {
        let files_of = package.files.keys().filter(|file| file.ends_with(ending));
        files_of.map(|file| files.join(file).into()).collect()
    };
    let kit_files = PluginLanguage::Java.kit().iter();
    let kit_files = kit_files.map(|(file, _)| kit.join(file).into());
    let options = |classes: &Path| -> Vec<OsString> {
        ["-d".into(), classes.into(), "-cp".into(), joined.clone()].into()
    };
    let mut arguments = options(&classes);
    arguments.extend(["-encoding".into(), "UTF-8".into(), "-Xlint:none".into()]);
    arguments.extend(kit_files);
    arguments.extend(own(".java"));
    compile(
        name,
        &find("javac", "openjdk-17-jdk-headless")?,
        &arguments,
        &files,
    )?;
    if scala {
        let (program, mut arguments) = scala_compiler()?;
        arguments.extend(options(&classes));
        arguments.extend(own(".scala"));
        compile(name, &program, &arguments, &files)?;
    }
    Ok(joined)
}

/// The `.beam` files of a plug-in in Erlang and of its kit.
pub(crate) struct Beams {
    pub folder: PathBuf,
    pub names: Vec<String>,
}

/// Compiles what is there as source. A plug-in that brings all in compiled form needs no compiler.
pub(crate) fn to_beams(name: &str, package: &Package, root: &Path) -> Result<Beams, Error> {
    let (files, kit, beams) = (root.join("files"), root.join("kit"), root.join("beams"));
    make_folder(&beams)?;
    let mut names = Vec::new();
    for file in package.files.keys().filter(|file| file.ends_with(".beam")) {
        let beam = Path::new(file).file_name().unwrap_or_default();
        let to = beams.join(beam);
        std::fs::copy(files.join(file), &to).map_err(|cause| not_written(&to, cause))?;
        names.push(beam.to_string_lossy().into_owned());
    }
    let kit_files = PluginLanguage::Erlang.kit().iter();
    let mut sources: Vec<PathBuf> = kit_files.map(|(file, _)| kit.join(file)).collect();
    let own = package.files.keys().filter(|file| file.ends_with(".erl"));
    sources.extend(own.map(|file| files.join(file)));
    let beam_of = |source: &PathBuf| {
        let stem = source.file_stem().unwrap_or_default();
        format!("{}.beam", stem.to_string_lossy())
    };
    sources.retain(|source| !names.contains(&beam_of(source)));
    if !sources.is_empty() {
        names.extend(sources.iter().map(beam_of));
        let mut arguments: Vec<OsString> = vec!["-o".into(), beams.clone().into()];
        arguments.extend(sources.into_iter().map(OsString::from));
        compile(name, &find("erlc", "erlang-base")?, &arguments, &files)?;
    }
    Ok(Beams {
        folder: beams,
        names,
    })
}

/// `scalac` of the machine, or the compiler's jars in the folder that `SCALA_HOME` names.
fn scala_compiler() -> Result<(PathBuf, Vec<OsString>), Error> {
    match scala_jars() {
        None => Ok((find("scalac", "scala 3, with SCALA_HOME")?, Vec::new())),
        Some(jars) => {
            let jars = std::env::join_paths(jars).unwrap_or_default();
            let class = "dotty.tools.dotc.Main".into();
            let arguments = vec!["-cp".into(), jars, class, "-usejavacp".into()];
            Ok((find("java", "openjdk-17-jdk-headless")?, arguments))
        }
    }
}

/// The jars that a compiled program in Scala needs.
fn scala_library() -> Result<Vec<PathBuf>, Error> {
    let jars = scala_jars().or_else(|| {
        let scalac = find("scalac", "").ok()?.canonicalize().ok()?;
        jars_of(&scalac.parent()?.parent()?.join("lib"))
    });
    let jars = jars.ok_or_else(|| {
        Error::new(Class::Configuration, "plugin.no-runtime")
            .with("program", "scalac")
            .with("package", "scala 3, with SCALA_HOME")
    })?;
    let is_library = |jar: &PathBuf| {
        let name = jar.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("scala-library") || name.starts_with("scala3-library")
    };
    Ok(jars.into_iter().filter(is_library).collect())
}

fn scala_jars() -> Option<Vec<PathBuf>> {
    jars_of(&PathBuf::from(std::env::var_os("SCALA_HOME")?).join("lib"))
}

fn jars_of(folder: &Path) -> Option<Vec<PathBuf>> {
    let files = std::fs::read_dir(folder).ok()?.flatten();
    let jars = files.map(|file| file.path());
    let jars: Vec<PathBuf> = jars
        .filter(|p| p.extension() == Some("jar".as_ref()))
        .collect();
    (!jars.is_empty()).then_some(jars)
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(|cause| not_written(folder, cause))
}

fn not_written(path: &Path, cause: std::io::Error) -> Error {
    Error::new(Class::Transient, "plugin.write")
        .with("path", path.display())
        .caused_by(cause)
}

/// Runs a compiler; what it says about the first fault is the error.
pub(crate) fn compile(
    name: &str,
    program: &Path,
    arguments: &[OsString],
    files: &Path,
) -> Result<(), Error> {
    let failed = |cause: std::io::Error| {
        Error::new(Class::Transient, "plugin.not-started")
            .with("program", program.display())
            .caused_by(cause)
    };
    let output_file = files.with_file_name("compiler.txt");
    let output = std::fs::File::create(&output_file).map_err(|e| not_written(&output_file, e))?;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(files)
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(failed)?)
        .stderr(output)
        .spawn()
        .map_err(failed)?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if began.elapsed() > COMPILE_TIMEOUT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::new(Class::Configuration, "plugin.compile-timeout")
                .with("plugin", name)
                .with("seconds", COMPILE_TIMEOUT.as_secs()));
        }
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    };
    if status.success() {
        return Ok(());
    }
    let said = std::fs::read(&output_file).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let said = cut(&said, COMPILER_OUTPUT_BYTES_MAX).trim();
    Err(first_fault(said, files).error(Class::Configuration, name))
}

/// The first fault that a compiler names, with file and line where it gives them: `Main.java:3: error: …`,
/// `main.erl:3:5: …`, `-- [E007] … Error: Main.scala:3:5 ---`.
fn first_fault(said: &str, files: &Path) -> ScriptFailure {
    let folder = format!("{}/", files.display());
    for line in said.lines() {
        let line = strip_colours(line).replace(&folder, "");
        let at = [".java:", ".erl:", ".scala:"]
            .into_iter()
            .find_map(|ending| Some(line.find(ending)? + ending.len()));
        let Some(at) = at else { continue };
        let digits: String = line[at..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        let Ok(number) = digits.parse() else { continue };
        let file = line[..at - 1].rsplit([' ', '/']).next().unwrap_or_default();
        let rest = line[at + digits.len()..]
            .trim_start_matches(|c: char| c == ':' || c == ' ' || c == '-' || c.is_ascii_digit());
        let message = match rest.trim_start_matches("error:").trim() {
            // Scala says what is wrong in the lines below.
            "" => said.lines().map(strip_colours).find_map(|line| {
                let text = line.trim_start_matches(['|', ' ']).trim().to_owned();
                let is_text = line.trim_start().starts_with('|') && text.contains(' ');
                is_text.then_some(text)
            }),
            message => Some(message.to_owned()),
        };
        return ScriptFailure {
            message: message.unwrap_or_else(|| said.to_owned()),
            file: Some(file.to_owned()),
            line: Some(number),
        };
    }
    ScriptFailure {
        message: said.to_owned(),
        file: None,
        line: None,
    }
}

fn strip_colours(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => while chars.next().is_some_and(|c| !c.is_ascii_alphabetic()) {},
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_and_line_are_found_in_what_compilers_say() {
        let files = Path::new("/data/p/files");
        for (said, file, line, message) in [
            (
                "/data/p/files/Main.java:3: error: ';' expected\n  int a\n",
                "Main.java",
                3,
                "';' expected",
            ),
            (
                "/data/p/files/main.erl:7:5: syntax error before: '}'\n",
                "main.erl",
                7,
                "syntax error before: '}'",
            ),
            (
                "\u{1b}[31m-- [E007] Type Mismatch Error: /data/p/files/Main.scala:4:12 ----\n4 |  val a: Int = \"x\"\n  |               ^^^\n  |               Found: String\n",
                "Main.scala",
                4,
                "Found: String",
            ),
        ] {
            let fault = first_fault(said, files);
            assert_eq!(
                (fault.file.as_deref(), fault.line, fault.message.as_str()),
                (Some(file), Some(line), message)
            );
        }
        assert_eq!(first_fault("no memory", files).message, "no memory");
    }
}
