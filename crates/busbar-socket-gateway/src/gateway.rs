//! Opening, starting and stopping one declared gateway.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use busbar_bus::Bus;
use busbar_catalog::{AddressRange, FrameSpec, GatewaySpec, Transport};
use busbar_event::{Class, Error, Result};
use busbar_gateway::{
    Acceptors, Admissions, Authorizer, Gateway, GatewayAddress, GatewayCounts, Throttle, Workers,
    WorkersOptions, bind_tcp, bind_udp, server_tls,
};
use rustls::ServerConfig;

use crate::counters::SocketCounters;
use crate::framing::Framing;
use crate::limits::{CONNECTIONS_MAX, THREADS_MAX};
use crate::rules::FrameRules;
use crate::sessions::{TcpSessions, TcpShared};
use crate::udp::{UdpOptions, UdpThread};
use crate::udp_losses::UdpLosses;

/// What the settings of a node say of all declared gateways.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Connections of one gateway; at most 50,000 count.
    pub connections_max: usize,
    /// New connections of one gateway in a second.
    pub connections_per_second_max: u32,
    /// Events a second that one connection may send; zero for any number.
    pub publishes_per_second_max: u32,
    /// Largest payload, in bytes.
    pub payload_bytes_max: usize,
}

/// A gateway whose port is open and whose certificates are read, and that does not serve yet. Dropping it closes the
/// port, unless a running gateway holds it too.
pub struct PreparedSocket {
    name: Box<str>,
    spec: GatewaySpec,
    rules: FrameRules,
    allow: Vec<AddressRange>,
    socket: BoundSocket,
    address: SocketAddr,
}

enum BoundSocket {
    Tcp(TcpListener, Option<Arc<ServerConfig>>),
    Udp(UdpSocket),
}

/// A running gateway over TCP or UDP.
pub struct SocketGateway {
    name: Box<str>,
    listen: String,
    scheme: &'static str,
    address: SocketAddr,
    counters: Arc<SocketCounters>,
    serving: Serving,
}

enum Serving {
    Tcp {
        workers: Workers<TcpSessions>,
        admissions: Arc<Admissions>,
        /// Kept so that a new version of the gateway goes on with the same port.
        listener: TcpListener,
    },
    Udp {
        thread: UdpThread,
        losses: UdpLosses,
        socket: UdpSocket,
    },
}

impl SocketGateway {
    /// Opens the port of a gateway and reads its certificates. `folder` is where relative paths begin. A port that
    /// `before`, an earlier version of the same gateway, holds is shared with it. Blocks on the disk and on name
    /// look-ups.
    ///
    /// # Errors
    /// *Configuration*: the address is taken or cannot be used, a certificate cannot be used, or the topic is none.
    pub fn prepare(
        name: &str,
        spec: &GatewaySpec,
        folder: &Path,
        before: Option<&SocketGateway>,
    ) -> Result<PreparedSocket> {
        let rules = FrameRules::new(spec)?;
        let tls = match &spec.tls {
            None => None,
            Some(tls) => {
                let authorities = tls.client_ca.as_ref().map(|ca| folder.join(ca));
                let (cert, key) = (folder.join(&tls.cert), folder.join(&tls.key));
                Some(Arc::new(server_tls(&cert, &key, authorities.as_deref())?))
            }
        };
        let same = before.filter(|before| before.listen == spec.listen);
        let held = same.map(|before| (&before.serving, before.address));
        let (socket, address) = match (spec.protocol, held) {
            (Transport::Tcp, Some((Serving::Tcp { listener, .. }, address))) => {
                let listener = listener.try_clone();
                let listener = listener.map_err(|e| unusable(name, spec, e))?;
                (BoundSocket::Tcp(listener, tls), address)
            }
            (Transport::Udp, Some((Serving::Udp { socket, .. }, address))) => {
                let socket = socket.try_clone();
                let socket = socket.map_err(|e| unusable(name, spec, e))?;
                (BoundSocket::Udp(socket), address)
            }
            (Transport::Tcp, _) => {
                let (listener, address) = bind_tcp(resolve(name, spec)?, &setting(name))?;
                (BoundSocket::Tcp(listener, tls), address)
            }
            (Transport::Udp, _) => {
                let (socket, address) = bind_udp(resolve(name, spec)?, &setting(name))?;
                (BoundSocket::Udp(socket), address)
            }
        };
        Ok(PreparedSocket {
            name: name.into(),
            spec: spec.clone(),
            rules,
            allow: spec
                .allow
                .iter()
                .filter_map(|net| AddressRange::parse(net))
                .collect(),
            socket,
            address,
        })
    }

    /// Serves a gateway whose port is open.
    ///
    /// # Errors
    /// *Transient*: the system starts no more threads.
    pub fn start(
        prepared: PreparedSocket,
        bus: Bus,
        authorizer: Arc<dyn Authorizer>,
        options: &SocketOptions,
    ) -> Result<SocketGateway> {
        let PreparedSocket {
            name,
            spec,
            rules,
            allow,
            socket,
            address,
        } = prepared;
        let counters = Arc::new(SocketCounters::default());
        let frame_bytes_max = usize::try_from(spec.frame_size.as_bytes()).unwrap_or(usize::MAX);
        let frame_bytes_max = frame_bytes_max.min(options.payload_bytes_max);
        let (scheme, serving) = match socket {
            BoundSocket::Tcp(listener, tls) => {
                let kept = listener
                    .try_clone()
                    .map_err(|e| unusable(&name, &spec, e))?;
                let admissions = Arc::new(Admissions::new(
                    options.connections_max.min(CONNECTIONS_MAX),
                    options.connections_per_second_max,
                ));
                let mut acceptors = Acceptors::default();
                let scheme = match tls {
                    None => {
                        acceptors.tcp.push(listener);
                        "tcp"
                    }
                    Some(tls) => {
                        acceptors.tls.push((listener, tls));
                        "tls"
                    }
                };
                let shared = Arc::new(TcpShared {
                    name: name.clone(),
                    framing: Framing::new(spec.frame.as_ref().unwrap_or(&FrameSpec::Line)),
                    rules,
                    frame_bytes_max,
                    login: spec.login.clone(),
                    allow,
                    acknowledge: spec.acknowledge || spec.frame == Some(FrameSpec::Mllp),
                    idle_us: spec.idle.as_micros(),
                    pace_us: match options.publishes_per_second_max {
                        0 => 0,
                        n => (1_000_000 / i64::from(n)).max(1),
                    },
                    admissions: Arc::clone(&admissions),
                    counters: Arc::clone(&counters),
                    log_lines: Throttle::default(),
                });
                let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
                let workers = WorkersOptions {
                    name: "tcp",
                    threads: threads.min(THREADS_MAX),
                    bus,
                    authorizer,
                    admissions: Arc::clone(&admissions),
                    payload_bytes_max: options.payload_bytes_max,
                    store: None,
                };
                let make = move |_, log| TcpSessions::new(log, Arc::clone(&shared));
                let serving = Serving::Tcp {
                    workers: Workers::start(workers, acceptors, make)?,
                    admissions,
                    listener: kept,
                };
                (scheme, serving)
            }
            BoundSocket::Udp(socket) => {
                let kept = socket.try_clone().map_err(|e| unusable(&name, &spec, e))?;
                let udp = UdpOptions {
                    name: name.clone(),
                    framing: spec.frame.as_ref().map(Framing::new),
                    rules,
                    frame_bytes_max,
                    login: spec.login.clone(),
                    allow,
                    payload_bytes_max: options.payload_bytes_max,
                    counters: Arc::clone(&counters),
                    bus,
                    authorizer,
                };
                let serving = Serving::Udp {
                    losses: UdpLosses::of(&kept),
                    thread: UdpThread::start(udp, socket)?,
                    socket: kept,
                };
                ("udp", serving)
            }
        };
        Ok(SocketGateway {
            name,
            listen: spec.listen,
            scheme,
            address,
            counters,
            serving,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl PreparedSocket {
    /// The gateway's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Gateway for SocketGateway {
    fn name(&self) -> &str {
        &self.name
    }

    fn addresses(&self) -> Vec<GatewayAddress> {
        vec![GatewayAddress {
            scheme: self.scheme,
            address: self.address,
        }]
    }

    fn counts(&self) -> GatewayCounts {
        let c = &self.counters;
        let (open, accepted, lost) = match &self.serving {
            Serving::Tcp { admissions, .. } => {
                (admissions.connections() as u64, admissions.accepted(), 0)
            }
            Serving::Udp { losses, .. } => (0, 0, losses.count()),
        };
        GatewayCounts {
            connections: open,
            connections_total: accepted,
            refusals_total: c.closed.load(Relaxed),
            logins_refused_total: c.logins_refused.load(Relaxed),
            events_in_total: c.events.load(Relaxed),
            bytes_in_total: c.bytes.load(Relaxed),
            events_refused_total: c.refused.load(Relaxed),
            events_out_total: 0,
            datagrams_lost_total: lost,
        }
    }

    fn shut_down(&self) {
        match &self.serving {
            Serving::Tcp { workers, .. } => workers.shut_down(),
            Serving::Udp { thread, .. } => thread.shut_down(),
        }
    }
}

/// Where the address of a gateway is written.
fn setting(name: &str) -> String {
    format!("gateways/{name}.yaml (listen)")
}

fn resolve(name: &str, spec: &GatewaySpec) -> Result<SocketAddr> {
    let mut found = spec
        .listen
        .to_socket_addrs()
        .map_err(|e| unusable(name, spec, e))?;
    found.next().ok_or_else(|| {
        Error::new(Class::Configuration, "gateway.listen")
            .with("address", &spec.listen)
            .with("setting", setting(name))
    })
}

fn unusable(name: &str, spec: &GatewaySpec, cause: std::io::Error) -> Error {
    Error::new(Class::Configuration, "gateway.listen")
        .with("address", &spec.listen)
        .with("setting", setting(name))
        .caused_by(cause)
}
