//! Putting a node together, and taking it apart in order.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use busbar_access::{Access, AccessOptions};
use busbar_bus::{Bus, BusOptions, Retention, from_log};
use busbar_catalog::{Change, Config, Diagnostic, FileChange, History};
use busbar_connect::Places;
use busbar_connector::Databases;
use busbar_event::{Class, Error};
use busbar_flow::{Applied, Runtime, RuntimeOptions};
use busbar_gateway::{AccessAuthorizer, Gateway, GatewayAddress};
use busbar_log::{Clock, Log, LogOptions, OsDisk, Store, Supervisor, SystemClock};
use busbar_socket_gateway::SocketOptions;
use busbar_sql::{Engine, QueryLimits};
use busbar_table::Tables;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::apis::Apis;
use crate::app::{App, PROBE};
use crate::audit::{Action, AuditLog};
use crate::backing::StoreBacking;
use crate::camera::take_pictures;
use crate::deploy::{DeployTarget, Deployed, Deployer, FolderRead};
use crate::events::inlet::{Inlet, InletThread};
use crate::exit::StartError;
use crate::feed::Feed;
use crate::gateways::{self, DeclaredGateways, GatewayContext, Gateways, OFF, is_loopback};
use crate::http::{Port, tls};
use crate::http_state::HttpState;
use crate::lifecycle::{Lifecycle, NodePhase};
use crate::limits::{CONNECTIONS_MAX, DRAIN_SECONDS_MAX, SUBSCRIPTIONS_MAX};
use crate::orchestrations::Orchestrations;
use crate::relations::NodeRelations;
use crate::{api, assets, guard};

/// What a node is made of.
pub struct NodeOptions {
    /// Settings of the process.
    pub config: Config,
    /// The folder of the project: relative paths of settings begin there.
    pub folder: PathBuf,
    /// The files of the project's folder; without them what was accepted last goes on.
    pub project: Option<FolderRead>,
    /// What a password hash costs.
    pub password_cost: busbar_access::Cost,
}

/// A running node.
pub struct Node {
    app: Arc<App>,
    stop: watch::Sender<bool>,
    inlet: InletThread,
    http: Option<(SocketAddr, JoinHandle<()>)>,
    feed: JoinHandle<()>,
    started: Redeployed,
}

impl Node {
    /// Starts a node. When this returns its ports listen and its flows run.
    ///
    /// # Errors
    /// One clear reason, with its exit code.
    pub async fn start(options: NodeOptions) -> Result<Node, StartError> {
        let data = options.folder.join(&options.config.data.dir);
        check_writable(&data)?;
        make_private(&data);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let log = Log::open(
            Arc::new(OsDisk),
            &data,
            LogOptions::default(),
            clock.clone(),
        )
        .map_err(from_log)?;
        let started = Node::assemble(options, data, log.clone(), clock).await;
        if started.is_err() {
            // The next attempt, perhaps in this process, must find the folder unlocked.
            let _ = tokio::task::spawn_blocking(move || log.shutdown()).await;
        }
        started
    }

    async fn assemble(
        options: NodeOptions,
        data: PathBuf,
        log: Log,
        clock: Arc<dyn Clock>,
    ) -> Result<Node, StartError> {
        let NodeOptions {
            config,
            folder,
            project,
            password_cost,
        } = options;
        let bus = Bus::open(log, bus_options(&config, clock.clone()))?;
        let logins = bus.store("access")?;
        check_logins(&logins)?;
        let access = Arc::new(Access::open(
            Arc::new(StoreBacking(logins)),
            AccessOptions {
                cost: password_cost,
                session_idle_seconds: i64::try_from(config.http.session.as_duration().as_secs())
                    .unwrap_or(i64::MAX),
                ..AccessOptions::default()
            },
        )?);
        let listens = gateways::listens(&config);
        check_addresses(&access, listens.into_iter().chain([&*config.http.listen]))?;
        // A port that is taken is found out before anything runs.
        let port = bind(&config, &folder).await?;
        let allowed = config
            .files
            .allow
            .iter()
            .map(|allowed| folder.join(allowed));
        let connectors = busbar_connect::registry_with(&Places::new(allowed));
        let databases = Databases::new(
            connectors.clone(),
            folder.clone().into(),
            bus.clock().clone(),
        )?;
        let tables = Tables::open(data.join("tables"), clock)?
            .with_wide_cache(config.limits.wide_cache.as_bytes())
            .with_journals(bus.log().clone())?
            .with_databases(Arc::new(databases.clone()));
        let tables = Arc::new(tables);
        let relations = NodeRelations {
            bus: bus.clone(),
            tables: tables.clone(),
            databases: databases.clone(),
        };
        let sql = Engine::new(Arc::new(relations.clone()), query_limits(&config))?;
        let runtime = Runtime::open(RuntimeOptions {
            snapshot_every: busbar_flow::limits::SNAPSHOT_EVERY,
            state_bytes_max: bytes(config.limits.state_memory),
            bus: bus.clone(),
            tables: tables.clone(),
            connectors: connectors.clone(),
            databases,
            project_dir: folder.clone().into(),
            state_dir: data.join("state").into(),
            dead_letters: dead_letter_retention(&config),
        })?;
        let audit = Arc::new(AuditLog::open(bus.store("audit")?, bus.clock().clone()));
        let (inlet, inlet_thread) = Inlet::start(&bus)?;
        let (stop, stopped) = watch::channel(false);
        let (routes, document) = api::routes();
        let http = HttpState::new(&config);
        let declared = DeclaredGateways {
            folder: folder.clone(),
            bus: bus.clone(),
            authorizer: Arc::new(AccessAuthorizer::new(access.clone())),
            options: SocketOptions {
                connections_max: config.limits.connections as usize,
                connections_per_second_max: config.limits.connection_rate,
                publishes_per_second_max: config.limits.publish_rate,
                payload_bytes_max: bytes(config.limits.payload_size),
            },
            running: Mutex::default(),
        };
        let gateways = Gateways::new(declared);
        let orchestrations = Arc::new(Orchestrations::new(
            bus.clone(),
            runtime.clone(),
            data.join("orchestrations"),
        ));
        let apis = Arc::new(Apis::new(bus.clone())?);
        let target = DeployTarget {
            apis: Arc::clone(&apis),
            orchestrations: Arc::clone(&orchestrations),
            bus: bus.clone(),
            access: access.clone(),
            connectors: connectors.clone(),
            runtime: runtime.clone(),
            gateways: Arc::clone(&gateways.declared),
            failing_tests: config.deploy.failing_tests,
        };
        let deployer = Deployer::new(History::new(bus.store("catalog")?), target);
        let app = Arc::new(App {
            config,
            data,
            access,
            audit,
            bus,
            tables,
            sql,
            relations,
            connectors,
            runtime,
            orchestrations,
            apis,
            deployer,
            gateways,
            inlet,
            feed: Feed::default(),
            http,
            lifecycle: Lifecycle::new(stopped.clone()),
            openapi: document.to_json().unwrap_or_default().into(),
        });
        let running = Node::run(&app, project, folder).await;
        let started = match running {
            Ok(running) => running,
            Err(error) => {
                app.apis.shut_down();
                app.orchestrations.shut_down().await;
                app.runtime.shutdown().await;
                let stopped = app.clone();
                let _ = tokio::task::spawn_blocking(move || {
                    stopped.gateways.shut_down();
                    inlet_thread.stop();
                })
                .await;
                return Err(error);
            }
        };
        let feed = take_pictures(app.clone()).await;
        let http = port.map(|port| {
            let address = port.address;
            let router = router(routes, &app);
            let connections = (app.config.limits.connections as usize).clamp(1, CONNECTIONS_MAX);
            (
                address,
                port.serve(
                    router,
                    connections,
                    app.http.port.clone(),
                    stopped,
                    app.bus.log().supervisor().watch_task("http-accept"),
                ),
            )
        });
        // Embedded stores have made files of their own meanwhile.
        make_private(&app.data);
        app.lifecycle.enter(NodePhase::Running);
        Ok(Node {
            app,
            stop,
            inlet: inlet_thread,
            http,
            feed,
            started,
        })
    }

    /// Deploys the project, then opens the ports of the gateways: what comes in finds its streams.
    async fn run(
        app: &App,
        project: Option<FolderRead>,
        folder: PathBuf,
    ) -> Result<Redeployed, StartError> {
        let started = app.deployer.start(project, "start").await?;
        let started = Redeployed::new(app, started).await;
        for (flow, error) in &started.applied.failed {
            tracing::error!(flow, %error, "the flow does not start");
        }
        let context = GatewayContext {
            config: &app.config,
            folder,
            bus: app.bus.clone(),
            authorizer: Arc::new(AccessAuthorizer::new(app.access.clone())),
            gateways: &app.gateways,
        };
        app.gateways.start(&context).await?;
        Ok(started)
    }

    /// What the start deployed.
    pub fn started(&self) -> &Redeployed {
        &self.started
    }

    /// What is wrong with the files of the project's folder; empty when they check.
    pub fn refused(&self) -> Vec<Diagnostic> {
        let refused = self.app.deployer.refused();
        refused
            .map(|refused| refused.diagnostics)
            .unwrap_or_default()
    }

    /// Where HTTP listens; `None` when it is off.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|(address, _)| *address)
    }

    /// Where the gateways listen, each with its name.
    pub fn gateways(&self) -> Vec<(String, GatewayAddress)> {
        let running = self.app.gateways.running();
        let named = |gateway: &Arc<dyn Gateway>| {
            let addresses = gateway.addresses().into_iter();
            let name = gateway.name().to_owned();
            addresses
                .map(move |address| (name.clone(), address))
                .collect::<Vec<_>>()
        };
        running.iter().flat_map(named).collect()
    }

    /// Records which threads and tasks of the node have ended although they should run.
    pub fn supervisor(&self) -> &Supervisor {
        self.app.bus.log().supervisor()
    }

    /// True while the node takes work.
    pub fn is_ready(&self) -> bool {
        self.app.readiness() == "ok"
    }

    /// Deploys the files of the project's folder; a resource whose meaning is the same goes on undisturbed. When the
    /// files do not check everything goes on as it was, and the API tells what is wrong with them until they do.
    ///
    /// # Errors
    /// What is wrong with them.
    pub async fn save(&self, read: FolderRead, author: &str) -> Result<Redeployed, StartError> {
        let app = &self.app;
        let deployed = app.deployer.save(read, author).await?;
        if let Some(version) = deployed.version.filter(|_| !deployed.files.is_empty()) {
            let detail = [("note", author.to_owned())];
            app.audit
                .record_own(Action::ProjectApply, version.to_string(), &detail)
                .await;
        }
        Ok(Redeployed::new(app, deployed).await)
    }

    /// Stops in order: ports take nothing new, what was taken is committed and answered, flows
    /// write their checkpoints, the log is closed.
    pub async fn shutdown(self) {
        self.app.lifecycle.enter(NodePhase::Stopping);
        self.stop.send_replace(true);
        if let Some((_, server)) = self.http {
            // A panic in there was printed; the rest must be stopped all the same.
            let _ = server.await;
        }
        // What became of requests no longer counts as their connections do; it ends by itself.
        let all = self
            .app
            .http
            .subscriptions
            .acquire_many(SUBSCRIPTIONS_MAX as u32);
        let limit = Duration::from_secs(DRAIN_SECONDS_MAX);
        let _ = tokio::time::timeout(limit, all).await;
        let _ = self.feed.await;
        let (app, inlet) = (self.app.clone(), self.inlet);
        let _ = tokio::task::spawn_blocking(move || {
            app.gateways.shut_down();
            inlet.stop();
        })
        .await;
        self.app.apis.shut_down();
        self.app.orchestrations.shut_down().await;
        self.app.runtime.shutdown().await;
        let log = self.app.bus.log().clone();
        let _ = tokio::task::spawn_blocking(move || log.shutdown()).await;
    }
}

/// What [`Node::save`] did.
#[derive(Debug)]
pub struct Redeployed {
    /// Warnings of the checks.
    pub warnings: Vec<Diagnostic>,
    /// Resources whose meaning differs from before.
    pub changes: Vec<Change>,
    /// The version that runs now.
    pub version: u64,
    /// What was done to flows and connections.
    pub applied: Applied,
    /// Files whose text differs from before.
    pub files: Vec<FileChange>,
    /// Files in which what runs differs from the project's folder, because something else was accepted over the API
    /// since they were saved.
    pub differs: Vec<FileChange>,
}

impl Redeployed {
    async fn new(app: &App, deployed: Deployed) -> Redeployed {
        let running = app.runtime.project().await.bundle;
        Redeployed {
            warnings: deployed.diagnostics,
            changes: deployed.changes,
            version: deployed.version.unwrap_or_default(),
            applied: deployed.applied.unwrap_or_default(),
            files: deployed.files,
            differs: app.deployer.differences(&running),
        }
    }
}

fn bus_options(config: &Config, clock: Arc<dyn Clock>) -> BusOptions {
    BusOptions {
        in_flight_bytes_max: config.limits.in_flight_size.as_bytes(),
        payload_bytes_max: bytes(config.limits.payload_size)
            .min(busbar_event::limits::PAYLOAD_BYTES_MAX),
        segment_bytes: config.data.segment_size.as_bytes(),
        cache_bytes: bytes(config.data.cache_size),
        retained_topics_max: config.limits.retained as usize,
        clock,
        ..BusOptions::default()
    }
}

/// How long dead letters are kept; a setting of 0 means no bound.
fn dead_letter_retention(config: &Config) -> Retention {
    let (age, size) = (
        config.limits.dead_letter_age,
        config.limits.dead_letter_size,
    );
    Retention {
        age: (age.as_micros() > 0).then_some(age),
        bytes: (size.as_bytes() > 0).then_some(size),
    }
}

fn query_limits(config: &Config) -> QueryLimits {
    QueryLimits {
        rows_max: config.limits.query_rows as usize,
        memory_bytes_max: bytes(config.limits.query_memory),
        time_max: config.limits.query_time.as_duration(),
        ..QueryLimits::default()
    }
}

fn bytes(size: busbar_catalog::Size) -> usize {
    usize::try_from(size.as_bytes()).unwrap_or(usize::MAX)
}

fn router(routes: Router<Arc<App>>, app: &Arc<App>) -> Router {
    routes
        .fallback(assets::serve)
        .layer(axum::middleware::from_fn_with_state(
            app.clone(),
            guard::guard,
        ))
        .with_state(app.clone())
}

async fn bind(config: &Config, folder: &Path) -> Result<Option<Port>, Error> {
    if config.http.listen == OFF {
        return Ok(None);
    }
    let tls = match (&config.http.tls_cert, &config.http.tls_key) {
        (Some(certificates), Some(key)) => {
            Some(tls(&folder.join(certificates), &folder.join(key))?)
        }
        _ => None,
    };
    Port::bind(&config.http.listen, tls).await.map(Some)
}

/// Refuses a data folder that cannot be written before anything else fails because of it.
fn check_writable(data: &Path) -> Result<(), Error> {
    let probe = data.join(PROBE);
    let tried = std::fs::create_dir_all(data)
        .and_then(|()| std::fs::write(&probe, b""))
        .and_then(|()| std::fs::remove_file(&probe));
    match tried {
        Ok(()) => Ok(()),
        // A full disk can still be read from, and heals.
        Err(cause) if cause.kind() == std::io::ErrorKind::StorageFull => Ok(()),
        Err(cause) => Err(Error::new(Class::Configuration, "server.data-unwritable")
            .with("path", data.display())
            .caused_by(cause)),
    }
}

/// Takes the rights of other users of the machine away from the data folder and all that is in it.
fn make_private(data: &Path) {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let mut open = vec![data.to_path_buf()];
    while let Some(path) = open.pop() {
        // A link is not followed: what it points to is not ours.
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        let mode = match meta.is_dir() {
            true => 0o700,
            false if meta.is_file() => 0o600,
            false => continue,
        };
        if meta.mode() & 0o077 != 0 {
            let private = std::fs::Permissions::from_mode(mode);
            if let Err(error) = std::fs::set_permissions(&path, private) {
                tracing::warn!(
                    path = %path.display(), %error,
                    "other users of this machine can read this part of the data folder"
                );
            }
        }
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            open.extend(entries.map(|entry| entry.path()));
        }
    }
}

/// Refuses to guess who may log in: a lost user could leave the node open, a lost removal would let
/// somebody back in.
fn check_logins(logins: &Store) -> Result<(), Error> {
    let Some(damage) = logins.partition().damage().into_iter().next() else {
        return Ok(());
    };
    let folder = damage.file.parent().unwrap_or(&damage.file).to_path_buf();
    Err(Error::new(Class::Permanent, "server.logins-damaged")
        .with("file", damage.file.display())
        .with("position", damage.position)
        .with("folder", folder.display()))
}

/// Refuses to be reached from elsewhere while nobody needs a login.
fn check_addresses<'a>(
    access: &Access,
    listens: impl IntoIterator<Item = &'a str>,
) -> Result<(), Error> {
    if access.has_users() {
        return Ok(());
    }
    for listen in listens {
        if listen != OFF && !is_loopback(listen) {
            return Err(
                Error::new(Class::Configuration, "server.needs-users").with("address", listen)
            );
        }
    }
    Ok(())
}
