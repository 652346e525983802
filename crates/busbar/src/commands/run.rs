//! `busbar run`: runs a project, and deploys what changes in its folder.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use busbar_catalog::{Config, ConfigSource, Diagnostic, FileChange, FolderStamp, Kind, LogFormat};
use busbar_event::{Class, Error};
use busbar_server::{FolderRead, Node, NodeOptions, Redeployed, StartError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use crate::commands::check;
use crate::commands::watch::{read, watch};
use crate::exit::{self, Failure};
use crate::memory::{self, Keeper};
use crate::{output, say};

/// Run a project; what is saved in its folder is deployed at once.
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
    /// Address and port of AMQP, or "off".
    #[arg(long, value_name = "HOST:PORT")]
    amqp_listen: Option<String>,
    /// Do not deploy what is saved while it runs.
    #[arg(long)]
    no_watch: bool,
}

/// Who applied a version that was saved in the project's folder.
const SAVED: &str = "saved";
/// Readings of the folder that may wait to be deployed.
const READINGS_MAX: usize = 1;

/// Runs until it is told to stop.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    output::keep_running();
    // The data folder is made with the folders above it: a mistyped name would become an empty project.
    if !args.dir.is_dir() {
        let error =
            Error::new(Class::Configuration, "catalog.no-project").with("path", args.dir.display());
        return Err(error.into());
    }
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
    // Before the node starts, so that no signal is lost.
    let mut stop = Stop::new()?;
    // The stamp comes first: what changes while the files are read is a change.
    let stamp = FolderStamp::take(&args.dir);
    let read = read(args.dir.clone());
    if let Ok(bundle) = &read
        && let Some(found) = check::empty(&args.dir, bundle)
    {
        check::tell(&[found.warning()], false);
    }
    let settings = Settings::new(&read);
    let data = args.dir.join(&config.data.dir).display().to_string();
    let scheme = match config.http.tls_cert {
        Some(_) => "https",
        None => "http",
    };
    let folder = args.dir.canonicalize().unwrap_or_else(|_| args.dir.clone());
    let options = NodeOptions {
        config,
        folder,
        project: Some(read),
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
    let gateways = node.gateways();
    let mqtt = gateways.iter().filter_map(|(_, at)| match at.scheme {
        "mqtt" => Some(at.address.to_string()),
        "mqtts" => Some(format!("{} (TLS)", at.address)),
        _ => None,
    });
    let ports: Vec<String> = mqtt.collect();
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
    for (name, at) in gateways.into_iter().filter(|(name, _)| name != "mqtt") {
        let at = format!("{}://{}", at.scheme, at.address);
        println!(
            "{}",
            say::line("cli.gateway", &[("name", name), ("address", at)])
        );
    }
    check::tell(&node.started().warnings, false);
    let refused = node.refused();
    if !refused.is_empty() {
        check::tell(&refused, false);
        eprintln!("{}", say::line("cli.started-last", &[]));
    }
    tell_differences(&node.started().differs);

    let (readings, mut changes) = mpsc::channel(READINGS_MAX);
    if !args.no_watch {
        tokio::spawn(watch(args.dir.clone(), stamp, readings));
    }
    let mut settings = settings;
    let mut kept = !refused.is_empty();
    let mut looks = tokio::time::interval(memory::EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.wanted() => break,
            _ = looks.tick() => memory.look(),
            Some(read) = changes.recv() => kept = redeploy(&node, read, &mut settings, kept).await,
        }
    }
    println!("{}", say::line("cli.stopping", &[]));
    node.shutdown().await;
    Ok(())
}

/// Deploys what changed in meaning, or says what is wrong and leaves everything as it runs. `kept` is whether the save
/// before was refused; answers whether this one was.
async fn redeploy(node: &Node, read: FolderRead, settings: &mut Settings, kept: bool) -> bool {
    settings.tell_change(&read);
    match node.save(read, SAVED).await {
        Ok(deployed) => {
            check::tell(&deployed.warnings, false);
            for (flow, why) in &deployed.applied.failed {
                eprintln!("{flow}: {}", why.message(say::language()));
            }
            for notice in deployed.applied.notices.values() {
                eprintln!("{}", notice.message(say::language()));
            }
            tell_changes(&deployed, kept);
            tell_differences(&deployed.differs);
            return false;
        }
        Err(StartError::Project(diagnostics)) => check::tell(&diagnostics, false),
        Err(StartError::Node(error)) => eprintln!("{}", error.message(say::language())),
    }
    eprintln!("{}", say::line("cli.kept-running", &[]));
    true
}

/// Says what was deployed. Who has mended a file that was refused is told so even if nothing had to be deployed.
fn tell_changes(deployed: &Redeployed, kept: bool) {
    let settings = Kind::Config.path("");
    if !deployed.changes.is_empty() {
        let names = deployed.changes.iter().map(|c| c.kind.path(&c.name));
        let names: Vec<_> = names.collect();
        println!(
            "{}",
            say::line("cli.deployed", &[("changes", names.join(", "))])
        );
    } else if deployed.files.iter().any(|file| file.path != settings) {
        println!("{}", say::line("cli.unchanged", &[]));
    } else if kept {
        // Where the complaint was.
        eprintln!("{}", say::line("cli.restored", &[]));
    }
}

/// Says in which files what runs is not what the folder holds, and how to bring the two together.
fn tell_differences(differs: &[FileChange]) {
    if differs.is_empty() {
        return;
    }
    let names: Vec<_> = differs.iter().map(|file| file.path.as_str()).collect();
    let names = [("files", names.join(", "))];
    eprintln!("{}", say::line("cli.differs", &names));
}

/// The text of `busbar.toml` with which the process started.
struct Settings {
    started: Option<String>,
    told: Option<String>,
}

impl Settings {
    fn new(read: &FolderRead) -> Settings {
        let started = Settings::text(read).cloned();
        Settings {
            told: started.clone(),
            started,
        }
    }

    fn text(read: &FolderRead) -> Option<&String> {
        read.as_ref().ok()?.files.get(&Kind::Config.path(""))
    }

    /// Says that other settings than those the process started with take effect with a restart; once for each change.
    fn tell_change(&mut self, read: &FolderRead) {
        let now = Settings::text(read);
        if read.is_err() || now == self.told.as_ref() {
            return;
        }
        self.told = now.cloned();
        let code = match self.told == self.started {
            true => "cli.settings-as-before",
            false => "cli.settings-need-restart",
        };
        println!("{}", say::line(code, &[]));
    }
}

/// Flags win over environment, environment over file.
fn config(args: &RunArgs) -> Result<Config, Failure> {
    let flags = [
        ("--data-dir", "data", "dir", &args.data_dir),
        ("--http-listen", "http", "listen", &args.http_listen),
        ("--mqtt-listen", "mqtt", "listen", &args.mqtt_listen),
        ("--amqp-listen", "amqp", "listen", &args.amqp_listen),
    ];
    let source = ConfigSource {
        file: std::fs::read_to_string(args.dir.join(Kind::Config.path(""))).ok(),
        env: ConfigSource::environment(),
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
        // Colours only on a terminal.
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        // Reporting a failed log line to standard error would panic when that is what failed.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let set = match config.log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    // Fails only on a second call in one process.
    drop(set);
    Ok(())
}

fn refused(diagnostics: &[Diagnostic]) -> Failure {
    check::tell(diagnostics, false);
    check::wrong(exit::CONFIGURATION, diagnostics)
}

/// The two signals that ask a process to stop.
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
