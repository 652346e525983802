//! Putting a node together, and taking it apart in order.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use busbar_access::{Access, AccessOptions};
use busbar_bus::{Bus, BusOptions, from_log};
use busbar_catalog::{Config, Project};
use busbar_event::{Class, Error};
use busbar_log::{Clock, Log, LogOptions, OsDisk, SystemClock};
use busbar_table::Tables;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::app::{App, Phase};
use crate::backing::StoreBacking;
use crate::events::inlet::{Inlet, InletThread};
use crate::exit::StartError;
use crate::feed::Feed;
use crate::http::{Port, PortStats, tls};
use crate::{api, assets, guard};

/// What a node is made of.
pub struct NodeOptions {
    /// Settings of the process.
    pub config: Config,
    /// The folder of the project: relative paths of settings begin there.
    pub folder: PathBuf,
    /// The project to run; without one the newest that was applied goes on.
    pub project: Option<Project>,
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
    log: Log,
}

/// What stands for "do not listen".
const OFF: &str = "off";

impl Node {
    /// Starts a node. When this returns its ports listen and its flows run.
    ///
    /// # Errors
    /// One clear reason, with its exit code.
    pub async fn start(options: NodeOptions) -> Result<Node, StartError> {
        let NodeOptions {
            config,
            folder,
            project,
            password_cost,
        } = options;
        let data = folder.join(&config.data.dir);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        check_writable(&data)?;
        let log = Log::open(Arc::new(OsDisk), &data, LogOptions::default(), clock.clone())
            .map_err(from_log)?;
        let bus = Bus::open(
            log.clone(),
            BusOptions {
                in_flight_bytes_max: config.limits.in_flight_size.as_bytes(),
                payload_bytes_max: usize::try_from(config.limits.payload_size.as_bytes())
                    .unwrap_or(usize::MAX)
                    .min(busbar_event::limits::PAYLOAD_BYTES_MAX),
                segment_bytes: config.data.segment_size.as_bytes(),
                cache_bytes: usize::try_from(config.data.cache_size.as_bytes()).unwrap_or(usize::MAX),
                retained_topics_max: config.limits.retained as usize,
                clock: clock.clone(),
                ..BusOptions::default()
            },
        )?;
        let access = Arc::new(Access::open(
            Arc::new(StoreBacking(bus.store("access")?)),
            AccessOptions {
                cost: password_cost,
                ..AccessOptions::default()
            },
        )?);
        let listens = [&config.http.listen, &config.mqtt.listen, &config.mqtt.tls_listen];
        check_addresses(&access, listens)?;
        let tables = Arc::new(Tables::open(data.join("tables"), clock)?);
        if let Some(project) = &project {
            bus.apply_streams(&project.stream_specs())?;
            tables.apply(&project.table_specs())?;
        }
        let port = bind(&config, &folder).await?;
        let (inlet, inlet_thread) = Inlet::start(&bus)?;
        let (stop, stopped) = watch::channel(false);
        let (routes, document) = api::routes();
        let (subscriptions, listeners) = App::semaphores();
        let app = Arc::new(App {
            config,
            data,
            access,
            bus,
            tables,
            inlet,
            feed: Feed::default(),
            answers: guard::Answers::default(),
            delivered: api::Delivered::default(),
            port: Arc::new(PortStats::default()),
            subscriptions,
            listeners,
            stop: stopped.clone(),
            phase: Phase::default(),
            started: Instant::now(),
            openapi: document.to_json().unwrap_or_default().into(),
        });
        let feed = Feed::run(app.clone()).await;
        let http = port.map(|port| {
            let address = port.address;
            let router = router(routes, &app);
            (address, port.serve(router, app.port.clone(), stopped))
        });
        app.phase.work();
        Ok(Node {
            app,
            stop,
            inlet: inlet_thread,
            http,
            feed,
            log,
        })
    }

    /// Where HTTP listens; `None` when it is off.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|(address, _)| *address)
    }

    /// True while the node takes work.
    pub fn is_ready(&self) -> bool {
        self.app.readiness() == "ok"
    }

    /// Stops in order: ports take nothing new, what was taken is committed and answered, flows
    /// write their checkpoints, the log is closed.
    pub async fn shutdown(self) {
        self.app.phase.stop();
        self.stop.send_replace(true);
        if let Some((_, server)) = self.http {
            // A panic in there was printed; the rest must be stopped all the same.
            let _ = server.await;
        }
        let _ = self.feed.await;
        let (inlet, log) = (self.inlet, self.log);
        let stopping = tokio::task::spawn_blocking(move || {
            inlet.stop();
            log.shutdown();
        });
        let _ = stopping.await;
    }
}

fn router(routes: Router<Arc<App>>, app: &Arc<App>) -> Router {
    routes
        .fallback(assets::serve)
        .layer(axum::middleware::from_fn_with_state(app.clone(), guard::guard))
        .with_state(app.clone())
}

async fn bind(config: &Config, folder: &Path) -> Result<Option<Port>, Error> {
    if config.http.listen == OFF {
        return Ok(None);
    }
    let tls = match (&config.http.tls_cert, &config.http.tls_key) {
        (Some(certificates), Some(key)) => Some(tls(&folder.join(certificates), &folder.join(key))?),
        _ => None,
    };
    Port::bind(&config.http.listen, tls).await.map(Some)
}

/// Refuses a data folder that cannot be written before anything else fails because of it.
fn check_writable(data: &Path) -> Result<(), Error> {
    let probe = data.join(".writable");
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

/// Refuses to be reached from elsewhere while nobody needs a login.
fn check_addresses<'a>(
    access: &Access,
    listens: impl IntoIterator<Item = &'a String>,
) -> Result<(), Error> {
    if access.has_users() {
        return Ok(());
    }
    for listen in listens {
        if listen != OFF && !is_loopback(listen) {
            return Err(Error::new(Class::Configuration, "server.needs-users").with("address", listen));
        }
    }
    Ok(())
}

fn is_loopback(listen: &str) -> bool {
    if let Ok(address) = listen.parse::<SocketAddr>() {
        return address.ip().to_canonical().is_loopback();
    }
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    host.eq_ignore_ascii_case("localhost")
        || host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_the_rest() {
        for listen in ["127.0.0.1:8080", "[::1]:0", "localhost:80", "127.9.9.9:1", "[::ffff:127.0.0.1]:1"] {
            assert!(is_loopback(listen), "{listen}");
        }
        for listen in ["0.0.0.0:8080", "[::]:80", "10.0.0.1:1", "example.org:80", ":8080", "localhost.example:1"] {
            assert!(!is_loopback(listen), "{listen}");
        }
    }
}
