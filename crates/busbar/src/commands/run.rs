//! `busbar run`: runs a project, and takes over what changes in its files.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use busbar_catalog::{Bundle, Config, ConfigSource, Diagnostic, Kind, LogFormat, has_errors};
use busbar_event::{Class, Error};
use busbar_server::{Node, NodeOptions, StartError};
use notify::{RecursiveMode, Watcher as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use crate::commands::check;
use crate::exit::{self, Failure};
use crate::memory::{self, Keeper};
use crate::say;

/// Run a project; what is saved in its folder takes over at once.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The project's folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The data folder; a relative path starts at the project's folder.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Address and port of HTTP, or "off".
    #[arg(long, value_name = "HOST:PORT")]
    http_listen: Option<String>,
    /// Address and port of MQTT, or "off".
    #[arg(long, value_name = "HOST:PORT")]
    mqtt_listen: Option<String>,
    /// Do not deploy what is saved while it runs.
    #[arg(long)]
    no_watch: bool,
}

/// Editors write a file in several steps; this long after the last one the project is read.
const SETTLE: Duration = Duration::from_millis(150);
/// Who applied a version that was saved in the project's folder.
const SAVED: &str = "saved";
/// Changes that may wait to be looked at; more of them say nothing new.
const CHANGES_MAX: usize = 1;

/// Runs until it is told to stop.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let memory = Keeper::new();
    let config = config(args)?;
    say_what_happens(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("busbar")
        .build();
    let runtime = runtime.map_err(|why| {
        Failure::new(
            exit::IO,
            Error::new(Class::Transient, "cli.no-threads").caused_by(why),
        )
    })?;
    runtime.block_on(serve(args, config, memory))
}

async fn serve(args: &RunArgs, config: Config, mut memory: Keeper) -> Result<(), Failure> {
    // Before the node starts, so that nobody's wish to stop is lost.
    let mut stop = Stop::new()?;
    let (project, diagnostics) = check::load(&args.dir);
    let Some(project) = project.filter(|_| !has_errors(&diagnostics)) else {
        return Err(refused(&diagnostics));
    };
    check::tell(&diagnostics, false);
    let data = args.dir.join(&config.data.dir).display().to_string();
    let scheme = match config.http.tls_cert {
        Some(_) => "https",
        None => "http",
    };
    let folder = args.dir.canonicalize().unwrap_or_else(|_| args.dir.clone());
    let options = NodeOptions {
        config,
        folder,
        project: Some(project),
        password_cost: busbar_access::Cost::Standard,
    };
    let node = match Node::start(options).await {
        Ok(node) => node,
        Err(StartError::Project(diagnostics)) => return Err(refused(&diagnostics)),
        Err(StartError::Node(error)) => {
            let code = busbar_server::exit_code(&error);
            return Err(Failure::new(code, error));
        }
    };
    let mqtt = node.mqtt_addresses();
    let mut ports: Vec<String> = mqtt.tcp.iter().map(ToString::to_string).collect();
    ports.extend(mqtt.tls.iter().map(|address| format!("{address} (TLS)")));
    let off = || "off".to_owned();
    let places = [
        (
            "http",
            node.http_address()
                .map_or_else(off, |address| format!("{scheme}://{address}")),
        ),
        (
            "mqtt",
            if ports.is_empty() {
                off()
            } else {
                ports.join(", ")
            },
        ),
        ("data", data),
        ("durability", "fsync".to_owned()),
    ];
    println!("{}", say::line("cli.ready", &places));

    let (changed, mut changes) = mpsc::channel(CHANGES_MAX);
    let _watcher = if args.no_watch {
        None
    } else {
        watch(&args.dir, changed)
    };
    let mut looks = tokio::time::interval(memory::EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.wanted() => break,
            _ = looks.tick() => memory.look(),
            Some(()) = changes.recv() => {
                tokio::time::sleep(SETTLE).await;
                while changes.try_recv().is_ok() {}
                redeploy(&node, &args.dir).await;
            }
        }
    }
    println!("{}", say::line("cli.stopping", &[]));
    node.shutdown().await;
    Ok(())
}

/// Deploys what changed in meaning, or says what is wrong and leaves everything as it runs.
async fn redeploy(node: &Node, dir: &Path) {
    let dir = dir.to_path_buf();
    let Ok(read) = tokio::task::spawn_blocking(move || Bundle::read(&dir)).await else {
        return;
    };
    let applied = node.save(read, SAVED).await;
    match applied {
        Ok(deployed) => {
            check::tell(&deployed.warnings, false);
            for (flow, why) in &deployed.applied.failed {
                eprintln!("{flow}: {}", why.message(say::language()));
            }
            if deployed.changes.is_empty() {
                println!("{}", say::line("cli.unchanged", &[]));
            } else {
                let names: Vec<_> = deployed
                    .changes
                    .iter()
                    .map(|c| c.kind.path(&c.name))
                    .collect();
                println!(
                    "{}",
                    say::line("cli.deployed", &[("changes", names.join(", "))])
                );
            }
        }
        Err(StartError::Project(diagnostics)) => {
            check::tell(&diagnostics, false);
            eprintln!("{}", say::line("cli.kept-running", &[]));
        }
        Err(StartError::Node(error)) => {
            eprintln!("{}", error.message(say::language()));
            eprintln!("{}", say::line("cli.kept-running", &[]));
        }
    }
}

fn watch(dir: &Path, changed: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let data = std::env::var_os("BUSBAR_DATA_DIR").map(PathBuf::from);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let ours = |path: &PathBuf| {
            let kind = path.extension().and_then(|ending| ending.to_str());
            matches!(kind, Some("yaml" | "yml" | "toml"))
                && data.as_ref().is_none_or(|data| !path.starts_with(data))
        };
        let content = !matches!(event.kind, notify::EventKind::Access(_));
        if content && event.paths.iter().any(ours) {
            // A full queue says already that something changed.
            let _ = changed.try_send(());
        }
    });
    let watched = watcher.and_then(|mut watcher| {
        watcher.watch(dir, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    match watched {
        Ok(watcher) => Some(watcher),
        Err(why) => {
            let path = dir.display().to_string();
            eprintln!(
                "{}: {why}",
                say::line("cli.watch-failed", &[("path", path)])
            );
            None
        }
    }
}

/// Flags win over environment, environment over file.
fn config(args: &RunArgs) -> Result<Config, Failure> {
    let flags = [
        ("--data-dir", "data", "dir", &args.data_dir),
        ("--http-listen", "http", "listen", &args.http_listen),
        ("--mqtt-listen", "mqtt", "listen", &args.mqtt_listen),
    ];
    let source = ConfigSource {
        file: std::fs::read_to_string(args.dir.join(Kind::Config.path(""))).ok(),
        env: std::env::vars().collect(),
        flags: flags
            .into_iter()
            .filter_map(|(flag, section, key, value)| {
                value
                    .as_ref()
                    .map(|value| (flag.to_owned(), section, key, value.clone()))
            })
            .collect(),
    };
    match Config::load(&source) {
        Ok((config, warnings)) => {
            check::tell(&warnings, false);
            Ok(config)
        }
        Err(diagnostics) => Err(refused(&diagnostics)),
    }
}

fn say_what_happens(config: &Config) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.log.level).map_err(|why| {
        Error::new(Class::Configuration, "cli.log-level")
            .with("level", &config.log.level)
            .caused_by(why)
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Colours are for eyes; a file or a journal gets plain text.
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr);
    let set = match config.log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    // Only a second call in one process fails, and there is none.
    drop(set);
    Ok(())
}

fn refused(diagnostics: &[Diagnostic]) -> Failure {
    check::tell(diagnostics, false);
    check::wrong(exit::CONFIGURATION, diagnostics)
}

/// The two ways in which a process is asked to stop.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Stop, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|why| {
                Failure::new(
                    exit::IO,
                    Error::new(Class::Transient, "cli.no-threads").caused_by(why),
                )
            })
        };
        Ok(Stop {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn wanted(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
