//! What plug-ins are written in, and how the program of each language is started.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use busbar_event::{Class, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Package;
use crate::xml_worker::XML_WORKER;

mod compile;

pub(crate) use compile::{
    Beams, compile as compile_with, to_beams as beams, to_classes as classes,
};

/// What a plug-in is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PluginLanguage {
    /// JavaScript, within the node.
    Javascript,
    /// Python 3.9 or newer.
    Python,
    /// Java 17 or newer, as source or as a jar.
    Java,
    /// Perl 5.
    Perl,
    /// Scala 3, as source or as a jar.
    Scala,
    /// Erlang/OTP 25 or newer, as source or as `.beam` files.
    Erlang,
    /// Any program that speaks the protocol.
    Command,
    /// A style sheet in XSLT 1.0, which makes a document of each payload.
    Xslt,
    /// An XML Schema, which payloads must fit.
    Xsd,
}

/// How a worker process is started.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// The folder that it starts in: that of the plug-in's files.
    pub folder: PathBuf,
    pub environment: Vec<(&'static str, OsString)>,
    /// Whether the operating system bounds the memory for data. Where a runtime has a bound of its own, it would only
    /// get into its way.
    pub bounds_data: bool,
}

impl PluginLanguage {
    /// All languages.
    pub const ALL: [PluginLanguage; 9] = [
        PluginLanguage::Javascript,
        PluginLanguage::Python,
        PluginLanguage::Java,
        PluginLanguage::Perl,
        PluginLanguage::Scala,
        PluginLanguage::Erlang,
        PluginLanguage::Command,
        PluginLanguage::Xslt,
        PluginLanguage::Xsd,
    ];

    /// The name in files.
    pub fn as_str(self) -> &'static str {
        match self {
            PluginLanguage::Javascript => "javascript",
            PluginLanguage::Python => "python",
            PluginLanguage::Java => "java",
            PluginLanguage::Perl => "perl",
            PluginLanguage::Scala => "scala",
            PluginLanguage::Erlang => "erlang",
            PluginLanguage::Command => "command",
            PluginLanguage::Xslt => "xslt",
            PluginLanguage::Xsd => "xsd",
        }
    }

    /// The file that is run where the plug-in does not say; none for a command.
    pub fn main(self) -> &'static str {
        match self {
            PluginLanguage::Javascript => "main.js",
            PluginLanguage::Python => "main.py",
            PluginLanguage::Java => "Main.java",
            PluginLanguage::Perl => "main.pl",
            PluginLanguage::Scala => "Main.scala",
            PluginLanguage::Erlang => "main.erl",
            PluginLanguage::Command => "",
            PluginLanguage::Xslt => "main.xsl",
            PluginLanguage::Xsd => "main.xsd",
        }
    }

    /// What the language needs beside the plug-in's files: path and text.
    fn kit(self) -> &'static [(&'static str, &'static str)] {
        match self {
            PluginLanguage::Python => &[
                ("busbar.py", include_str!("../sdk/python/busbar.py")),
                (
                    "busbar_arrow.py",
                    include_str!("../sdk/python/busbar_arrow.py"),
                ),
                (
                    "busbar_worker.py",
                    include_str!("../sdk/python/busbar_worker.py"),
                ),
            ],
            PluginLanguage::Perl => &[
                ("Busbar.pm", include_str!("../sdk/perl/Busbar.pm")),
                (
                    "busbar_worker.pl",
                    include_str!("../sdk/perl/busbar_worker.pl"),
                ),
            ],
            PluginLanguage::Java | PluginLanguage::Scala => &[
                (
                    "busbar/Event.java",
                    include_str!("../sdk/java/busbar/Event.java"),
                ),
                (
                    "busbar/Json.java",
                    include_str!("../sdk/java/busbar/Json.java"),
                ),
                (
                    "busbar/Node.java",
                    include_str!("../sdk/java/busbar/Node.java"),
                ),
                (
                    "busbar/Plugin.java",
                    include_str!("../sdk/java/busbar/Plugin.java"),
                ),
                (
                    "busbar/Worker.java",
                    include_str!("../sdk/java/busbar/Worker.java"),
                ),
            ],
            PluginLanguage::Erlang => &[
                ("busbar.erl", include_str!("../sdk/erlang/busbar.erl")),
                (
                    "busbar_json.erl",
                    include_str!("../sdk/erlang/busbar_json.erl"),
                ),
                (
                    "busbar_worker.erl",
                    include_str!("../sdk/erlang/busbar_worker.erl"),
                ),
            ],
            PluginLanguage::Javascript
            | PluginLanguage::Command
            | PluginLanguage::Xslt
            | PluginLanguage::Xsd => &[],
        }
    }
}

/// Writes the files of a plug-in below `root`, compiles what must be compiled, and says how a worker is started. Blocks.
///
/// # Errors
/// `plugin.no-runtime` if the machine lacks the language; what the compiler says; what the disk says.
pub(crate) fn prepare(name: &str, package: &Package, root: &Path) -> Result<Launch, Error> {
    let spec = &package.spec;
    let (folder, kit) = (root.join("files"), root.join("kit"));
    package.write(&folder)?;
    write_kit(spec.language, &kit)?;
    let main = spec.main();
    if spec.language != PluginLanguage::Command && !package.files.contains_key(main) {
        return Err(Error::new(Class::Configuration, "plugin.no-main")
            .with("plugin", name)
            .with("file", main));
    }
    let mut launch = Launch {
        program: PathBuf::new(),
        arguments: Vec::new(),
        folder: folder.clone(),
        environment: Vec::new(),
        bounds_data: true,
    };
    let memory = spec.memory.as_bytes() >> 20;
    match spec.language {
        PluginLanguage::Javascript => {}
        PluginLanguage::Python => {
            launch.program = find("python3", "python3")?;
            launch.arguments = vec!["-B".into(), kit.join("busbar_worker.py").into()];
            launch.environment = vec![("PYTHONPATH", kit.into()), ("PYTHONUNBUFFERED", "1".into())];
        }
        PluginLanguage::Perl => {
            launch.program = find("perl", "perl")?;
            launch.arguments = vec![
                "-I".into(),
                kit.clone().into(),
                kit.join("busbar_worker.pl").into(),
            ];
        }
        PluginLanguage::Java | PluginLanguage::Scala => {
            launch.program = find("java", "openjdk-17-jdk-headless")?;
            let path = compile::to_classes(name, package, root)?;
            let class = Path::new(main).file_stem().unwrap_or_default();
            // The runtime's own memory comes on top of the heap.
            let heap = (memory * 5 / 8).max(8);
            launch.arguments = vec![
                format!("-Xmx{heap}m").into(),
                "-XX:+UseSerialGC".into(),
                "-XX:+ExitOnOutOfMemoryError".into(),
                "-Xshare:auto".into(),
                "-cp".into(),
                path,
                "busbar.Worker".into(),
                if main.ends_with(".jar") {
                    "Main".into()
                } else {
                    class.into()
                },
            ];
            launch.bounds_data = false;
        }
        PluginLanguage::Erlang => {
            launch.program = find("erl", "erlang-base")?;
            let beams = compile::to_beams(name, package, root)?.folder;
            let module = Path::new(main).file_stem().unwrap_or_default();
            launch.arguments = vec![
                "-noshell".into(),
                "-noinput".into(),
                "-pa".into(),
                beams.into(),
                "-s".into(),
                "busbar_worker".into(),
                "start".into(),
                module.into(),
            ];
            launch.bounds_data = false;
        }
        PluginLanguage::Command => {
            let own = folder.join(&spec.command[0]);
            launch.program = match own.is_file() {
                true => executable(own)?,
                false => find(&spec.command[0], &spec.command[0])?,
            };
            launch.arguments = spec.command[1..].iter().map(OsString::from).collect();
        }
        PluginLanguage::Xslt | PluginLanguage::Xsd => {
            // The program that runs, also where its file has been replaced by a newer one.
            launch.program = PathBuf::from("/proc/self/exe");
            launch.arguments = vec![XML_WORKER.into(), spec.language.as_str().into()];
        }
    }
    Ok(launch)
}

pub(crate) fn write_kit(language: PluginLanguage, kit: &Path) -> Result<(), Error> {
    for (name, text) in language.kit() {
        let path = kit.join(name);
        let written = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&path, text));
        written.map_err(|cause| {
            Error::new(Class::Transient, "plugin.write")
                .with("path", path.display())
                .caused_by(cause)
        })?;
    }
    Ok(())
}

/// A program by its name, in the folders of `PATH`.
///
/// # Errors
/// `plugin.no-runtime`, with the package of Debian that has it.
pub(crate) fn find(program: &str, package: &str) -> Result<PathBuf, Error> {
    let is_there = |path: &PathBuf| path.is_file();
    let path = match program.contains('/') {
        true => Some(PathBuf::from(program)).filter(is_there),
        false => std::env::var_os("PATH").and_then(|all| {
            std::env::split_paths(&all)
                .map(|folder| folder.join(program))
                .find(is_there)
        }),
    };
    path.ok_or_else(|| {
        Error::new(Class::Configuration, "plugin.no-runtime")
            .with("program", program)
            .with("package", package)
    })
}

fn executable(path: PathBuf) -> Result<PathBuf, Error> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(&path, mode).map_err(|cause| {
        Error::new(Class::Transient, "plugin.write")
            .with("path", path.display())
            .caused_by(cause)
    })?;
    Ok(path)
}
