//! Plug-ins in compiled form: what a node runs without the sources.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use busbar_event::{Class, Error};

use crate::language::{Beams, classes, compile_with, find, write_kit};
use crate::{NoTables, Package, Plugin, PluginLanguage};

/// Compiles a plug-in into files below `root`, and answers it as it can be deployed. Both forms are started, and the compiled
/// one must pass the tests. Blocks.
///
/// # Errors
/// `plugin.build-none` for a language without compiled form; why the plug-in does not compile, load or pass its tests.
pub fn build_plugin(name: &str, package: &Package, root: &Path) -> Result<Package, Error> {
    let spec = &package.spec;
    let sources: &[&str] = match spec.language {
        PluginLanguage::Javascript => &[".js", ".mjs"],
        PluginLanguage::Python => &[".py"],
        PluginLanguage::Java => &[".java"],
        PluginLanguage::Scala => &[".scala", ".java"],
        PluginLanguage::Erlang => &[".erl"],
        PluginLanguage::Perl
        | PluginLanguage::Command
        | PluginLanguage::Xslt
        | PluginLanguage::Xsd => {
            return Err(Error::new(Class::Configuration, "plugin.build-none")
                .with("plugin", name)
                .with("language", spec.language.as_str()));
        }
    };
    let is_source = |file: &str| sources.iter().any(|ending| file.ends_with(ending));
    if !is_source(spec.main()) {
        return Err(Error::new(Class::Configuration, "plugin.build-compiled")
            .with("plugin", name)
            .with("file", spec.main()));
    }
    let start = |package: &Package, folder: &str| {
        let clock = Arc::new(|| 0);
        Plugin::start(name, package, &root.join(folder), Arc::new(NoTables), clock)
    };
    // What is wrong with the sources is said with their files and lines.
    drop(start(package, "sources")?);
    let folder = root.join("build");
    package.write(&folder.join("files"))?;
    let (main, made) = match spec.language {
        PluginLanguage::Python => python(name, package, &folder.join("files"))?,
        PluginLanguage::Java | PluginLanguage::Scala => jar(name, package, &folder)?,
        PluginLanguage::Erlang => beams(name, package, &folder)?,
        _ => bytecode(name, package)?,
    };
    let kept = package.files.iter().filter(|(file, _)| !is_source(file));
    let mut files: BTreeMap<String, String> =
        kept.map(|(f, text)| (f.clone(), text.clone())).collect();
    files.extend(
        made.into_iter()
            .map(|(file, bytes)| (file, Package::text_of(bytes))),
    );
    let mut built = Package {
        spec: spec.clone(),
        files,
    };
    built.spec.main = Some(main);
    drop(start(&built, "built")?);
    Ok(built)
}

/// The text of a `plugin.yaml` with another file to run; all else stays as it is.
pub fn with_main(yaml: &str, main: &str) -> String {
    let line = format!("main: {main}\n");
    let mut text = String::with_capacity(yaml.len() + line.len());
    let has_main = yaml.lines().any(|line| line.starts_with("main:"));
    for old in yaml.split_inclusive('\n') {
        if old.starts_with("main:") {
            text.push_str(&line);
            continue;
        }
        text.push_str(old);
        if !has_main && old.starts_with("language:") {
            if !old.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&line);
        }
    }
    text
}

/// The file that is run, and all compiled files.
type Built = (String, Vec<(String, Vec<u8>)>);

#[cfg(feature = "javascript")]
fn bytecode(name: &str, package: &Package) -> Result<Built, Error> {
    let bytes = crate::javascript::compile(name, package)?;
    let file = stem(package) + crate::javascript::BYTECODE_ENDING;
    Ok((file.clone(), vec![(file, bytes)]))
}

#[cfg(not(feature = "javascript"))]
fn bytecode(_: &str, _: &Package) -> Result<Built, Error> {
    Err(Error::new(Class::Configuration, "plugin.no-javascript"))
}

/// Bytecode of Python. The names of files in it are those within the plug-in's folder.
fn python(name: &str, package: &Package, files: &Path) -> Result<Built, Error> {
    const COMPILE: &str = "import py_compile, sys\nfor f in sys.argv[1:]:\n    py_compile.compile(f, cfile=f + 'c', dfile=f, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)";
    let own: Vec<&String> = package
        .files
        .keys()
        .filter(|f| f.ends_with(".py"))
        .collect();
    let mut arguments: Vec<OsString> = vec!["-c".into(), COMPILE.into()];
    arguments.extend(own.iter().map(|file| file.into()));
    compile_with(name, &find("python3", "python3")?, &arguments, files)?;
    let mut built = Vec::new();
    for file in own {
        let file = format!("{file}c");
        built.push((file.clone(), read(&files.join(&file))?));
    }
    Ok((format!("{}c", package.spec.main()), built))
}

/// A jar of the plug-in's classes and those of the kit.
fn jar(name: &str, package: &Package, root: &Path) -> Result<Built, Error> {
    if stem(package) != "Main" {
        return Err(Error::new(Class::Configuration, "plugin.build-main")
            .with("plugin", name)
            .with("file", package.spec.main()));
    }
    write_kit(package.spec.language, &root.join("kit"))?;
    classes(name, package, root)?;
    let file = format!("{name}.jar");
    let arguments = ["--create", "--file", &file, "-C", "../classes", "."];
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    let files = root.join("files");
    compile_with(
        name,
        &find("jar", "openjdk-17-jdk-headless")?,
        &arguments,
        &files,
    )?;
    let bytes = read(&files.join(&file))?;
    Ok((file.clone(), vec![(file, bytes)]))
}

/// The `.beam` files of the plug-in and of the kit.
fn beams(name: &str, package: &Package, root: &Path) -> Result<Built, Error> {
    write_kit(package.spec.language, &root.join("kit"))?;
    let Beams { folder, names } = crate::language::beams(name, package, root)?;
    let mut built = Vec::new();
    for file in names {
        let bytes = read(&folder.join(&file))?;
        built.push((file, bytes));
    }
    Ok((stem(package) + ".beam", built))
}

fn stem(package: &Package) -> String {
    let stem = Path::new(package.spec.main()).file_stem();
    stem.unwrap_or_default().to_string_lossy().into_owned()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|cause| {
        Error::new(Class::Transient, "plugin.build-read")
            .with("path", path.display())
            .caused_by(cause)
    })
}

#[cfg(test)]
mod tests {
    use super::with_main;

    #[test]
    fn another_main_leaves_the_rest_of_the_file_alone() {
        let yaml = "# rain\nlanguage: java # 17\ntests: [] # none\n";
        let expected = "# rain\nlanguage: java # 17\nmain: rain.jar\ntests: [] # none\n";
        assert_eq!(with_main(yaml, "rain.jar"), expected);
        assert_eq!(with_main(expected, "rain.jar"), expected);
        assert_eq!(
            with_main("language: python", "main.pyc"),
            "language: python\nmain: main.pyc\n"
        );
        let named = "main: a.py\nlanguage: python\n";
        assert_eq!(with_main(named, "a.pyc"), "main: a.pyc\nlanguage: python\n");
    }
}
