//! `busbar plugin`: new plug-ins, compiled ones, those of a node, their logs and earlier versions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use busbar_catalog::{Kind, has_errors};
use busbar_event::{Class, Error};
use busbar_plugin::{Package, PluginLanguage, build_plugin, template, with_main};
use clap_complete::ArgValueCandidates;
use serde_json::json;

use crate::client::{NodeArgs, escape};
use crate::commands::{apply, check};
use crate::exit::{self, Failure};
use crate::{complete, say};

/// Make, compile and list plug-ins, read their logs, roll back their versions.
#[derive(Debug, clap::Args)]
pub struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PluginCommand {
    /// Make a plug-in that works, with a test, in a project's folder.
    New {
        /// The plug-in's name.
        name: String,
        /// The language it is written in.
        #[arg(long, value_parser = languages())]
        language: String,
        /// The project's folder.
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
    /// Compile a plug-in, so that it can be deployed without its sources.
    Build {
        /// The plug-in's name.
        name: String,
        /// The project's folder.
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// The project that gets the compiled plug-in.
        #[arg(long, default_value = "build")]
        into: PathBuf,
    },
    /// List the plug-ins of a node with their counters.
    List,
    /// Show the log of a plug-in.
    Log {
        /// The plug-in.
        #[arg(add = ArgValueCandidates::new(complete::plugins))]
        plugin: String,
        /// Go on showing lines as they are written.
        #[arg(long)]
        follow: bool,
    },
    /// Deploy an earlier version of a plug-in again.
    #[command(disable_version_flag = true)]
    Rollback {
        /// The plug-in.
        #[arg(add = ArgValueCandidates::new(complete::plugins))]
        plugin: String,
        /// The version of the project to take it from.
        version: u64,
    },
}

/// How often a log that is followed is asked for.
const LOOK: Duration = Duration::from_millis(500);

fn languages() -> Vec<&'static str> {
    PluginLanguage::ALL
        .iter()
        .map(|known| known.as_str())
        .collect()
}

/// Runs `busbar plugin`.
pub fn run(args: &PluginArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    match &args.command {
        PluginCommand::New {
            name,
            language,
            dir,
        } => new(name, language, dir, json),
        PluginCommand::Build { name, dir, into } => build(name, dir, into, json),
        PluginCommand::List => {
            let answer = node.get("/api/v1/plugins")?;
            if json {
                println!("{answer}");
                return Ok(());
            }
            let columns = ["name", "language", "state", "given", "made", "failed"];
            say::list(&answer["plugins"], &columns, "cli.no-plugins");
            Ok(())
        }
        PluginCommand::Log { plugin, follow } => log(plugin, *follow, node, json),
        PluginCommand::Rollback { plugin, version } => {
            let path = format!("/api/v1/plugins/{}/rollback", escape(plugin));
            let answer = node.post(&path, &json!({ "version": version }))?;
            if json {
                println!("{answer}");
                return Ok(());
            }
            apply::tell_warnings(&answer);
            let told = [("plugin", plugin.clone()), ("version", version.to_string())];
            println!("{}", say::line("cli.plugin-rolled-back", &told));
            Ok(())
        }
    }
}

fn new(name: &str, language: &str, dir: &std::path::Path, json: bool) -> Result<(), Failure> {
    let refuse = |error| Failure::new(exit::CONFIGURATION, error);
    busbar_catalog::check_name(name).map_err(refuse)?;
    let known = PluginLanguage::ALL
        .iter()
        .find(|known| known.as_str() == language);
    let known = known.ok_or_else(|| {
        refuse(
            Error::new(Class::Configuration, "plugin.language-unknown")
                .with("language", busbar_event::quote(language))
                .with("languages", languages().join(", ")),
        )
    })?;
    let folder = dir.join("plugins").join(name);
    if folder.exists() {
        let error = Error::new(Class::Configuration, "cli.plugin-exists");
        return Err(refuse(error.with("path", folder.display())));
    }
    let mut written = Vec::new();
    for (file, text) in template(*known) {
        let path = folder.join(file);
        let done = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, text));
        done.map_err(|cause| {
            let error = Error::new(Class::Transient, "plugin.write").with("path", path.display());
            Failure::new(exit::IO, error.caused_by(cause))
        })?;
        written.push(path.display().to_string());
    }
    if json {
        println!("{}", json!({ "files": written }));
        return Ok(());
    }
    for path in written {
        println!("{}", say::line("cli.plugin-written", &[("path", path)]));
    }
    println!(
        "{}",
        say::line("cli.plugin-next", &[("plugin", name.to_owned())])
    );
    Ok(())
}

fn build(name: &str, dir: &Path, into: &Path, json: bool) -> Result<(), Failure> {
    let (project, diagnostics) = check::load(dir);
    let Some(project) = project.filter(|_| !has_errors(&diagnostics)) else {
        check::tell(&diagnostics, json);
        return Err(check::wrong(exit::CONFIGURATION, &diagnostics).answered());
    };
    let refuse = |error| Failure::new(exit::CONFIGURATION, error);
    let plugin = project.plugins.get(name).ok_or_else(|| {
        refuse(Error::new(Class::Configuration, "plugin.unknown").with("name", name))
    })?;
    let target = into.join("plugins").join(name);
    let own = dir.join("plugins").join(name);
    let is_own = matches!((target.canonicalize(), own.canonicalize()), (Ok(a), Ok(b)) if a == b);
    let is_build = target.join(Kind::PLUGIN_FILE).is_file() && !is_own;
    if target.exists() && !is_build {
        let error = Error::new(Class::Configuration, "cli.plugin-build-exists");
        return Err(refuse(error.with("path", target.display())));
    }
    let root = std::env::temp_dir().join(format!("busbar-build-{}", std::process::id()));
    let built = build_plugin(name, &plugin.spec, &root);
    let _ = std::fs::remove_dir_all(&root);
    let built = built.map_err(refuse)?;
    let yaml = with_main(plugin.source.text(), built.spec.main());
    let write = || -> std::io::Result<()> {
        if is_build {
            std::fs::remove_dir_all(&target)?;
        }
        std::fs::create_dir_all(&target)?;
        std::fs::write(target.join(Kind::PLUGIN_FILE), yaml)?;
        for (file, text) in &built.files {
            let path = target.join(file);
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            let contents = Package::contents_of(text).map_err(std::io::Error::other)?;
            std::fs::write(path, contents)?;
        }
        Ok(())
    };
    write().map_err(|cause| {
        let error = Error::new(Class::Transient, "plugin.write").with("path", target.display());
        Failure::new(exit::IO, error.caused_by(cause))
    })?;
    if json {
        println!("{}", json!({ "folder": target, "main": built.spec.main() }));
        return Ok(());
    }
    let told = [
        ("plugin", name.to_owned()),
        ("path", target.display().to_string()),
    ];
    println!("{}", say::line("cli.plugin-built", &told));
    Ok(())
}

#[allow(
    clippy::disallowed_methods,
    reason = "the command's own thread, not an async worker"
)]
fn log(plugin: &str, follow: bool, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let mut after = 0;
    loop {
        let path = format!("/api/v1/plugins/{}/log?after={after}", escape(plugin));
        let answer = node.get(&path)?;
        if json && !follow {
            println!("{answer}");
            return Ok(());
        }
        for line in answer["lines"].as_array().into_iter().flatten() {
            after = after.max(line["number"].as_u64().unwrap_or(0));
            let text = |key: &str| line[key].as_str().unwrap_or_default();
            match json {
                true => println!("{line}"),
                false => println!("{} {} {}", text("time"), text("level"), text("text")),
            }
        }
        if !follow {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}
