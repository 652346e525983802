//! Starting and stopping the gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use busbar_bus::Bus;
use busbar_event::{Class, Error, Result};
use busbar_log::{Change, Store};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::authorizer::Authorizer;
use crate::bus_log::partition_name;
use crate::config::GatewayConfig;
use crate::limits::LISTEN_BACKLOG;
use crate::registry::Shared;
use crate::restore::restore_sessions;
use crate::shell::{self, Acceptors, Inbound, Link, Stream};
use crate::state::Positions;
use crate::stats::Stats;

/// The MQTT gateway.
pub struct Gateway;

/// A running gateway. Dropping it stops it without waiting; [`Handle::shutdown`] waits.
pub struct Handle {
    shared: Arc<Shared>,
    links: Arc<[Arc<Link>]>,
    threads: Vec<JoinHandle<()>>,
    addrs: LocalAddrs,
    next: std::sync::atomic::AtomicUsize,
}

/// Where the gateway listens: the ports that the system gave are here.
#[derive(Clone, Debug, Default)]
pub struct LocalAddrs {
    /// Plain TCP.
    pub tcp: Vec<SocketAddr>,
    /// TLS.
    pub tls: Option<SocketAddr>,
    /// WebSocket.
    pub websocket: Option<SocketAddr>,
}

impl Gateway {
    /// Binds the addresses, restores the sessions and starts the core threads.
    pub fn start(
        bus: Bus,
        authorizer: Arc<dyn Authorizer>,
        config: GatewayConfig,
    ) -> Result<Handle> {
        let store = bus.store("sessions")?;
        let shared = Arc::new(Shared::new(config.limits.clone()));
        let now = bus.clock().now_micros();
        shared.started.store(now, Ordering::Relaxed);
        restore(&shared, &store, &bus, now);
        let mut addrs = LocalAddrs::default();
        let mut acceptors = Acceptors::default();
        for addr in &config.listen {
            let (listener, local) = bind(*addr)?;
            addrs.tcp.push(local);
            acceptors.tcp.push(listener);
        }
        if let Some(tls) = &config.tls {
            let rustls = Arc::new(crate::tls::server_tls(&tls.cert, &tls.key)?);
            let (listener, local) = bind(tls.listen)?;
            addrs.tls = Some(local);
            acceptors.tls = Some((listener, rustls));
        }
        if let Some(addr) = config.websocket {
            let (listener, local) = bind(addr)?;
            addrs.websocket = Some(local);
            acceptors.websocket = Some(listener);
        }
        let cores = match config.cores {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        let links: Arc<[Arc<Link>]> = (0..cores).map(|_| Arc::new(Link::default())).collect();
        let mut threads = Vec::with_capacity(cores);
        let mut acceptors = Some(acceptors);
        for number in 0..cores {
            let seed = shell::Seed {
                number,
                bus: bus.clone(),
                authorizer: Arc::clone(&authorizer),
                shared: Arc::clone(&shared),
                links: Arc::clone(&links),
                store: store.clone(),
                acceptors: acceptors.take(),
                watched: Some(bus.log().supervisor().watch(format!("mqtt-{number}"))),
            };
            let thread = std::thread::Builder::new()
                .name(format!("mqtt-{number}"))
                .spawn(move || shell::run(seed))
                .map_err(|e| Error::new(Class::Transient, "gateway.thread").caused_by(e))?;
            threads.push(thread);
        }
        Ok(Handle {
            shared,
            links,
            threads,
            addrs,
            next: Default::default(),
        })
    }
}

impl Handle {
    /// Where it listens.
    pub fn local_addrs(&self) -> &LocalAddrs {
        &self.addrs
    }

    /// Its counters.
    pub fn stats(&self) -> Stats {
        Stats::of(&self.shared)
    }

    /// Serves a byte stream that somebody else accepted.
    pub fn hand_over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Option<SocketAddr>,
    ) {
        self.post(Inbound::Stream(Box::new(stream), peer));
    }

    /// Serves a WebSocket connection whose HTTP upgrade was answered already (with subprotocol
    /// `mqtt`): `io` is the raw connection after the 101.
    pub fn hand_over_websocket(
        &self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Option<SocketAddr>,
    ) {
        let io: Box<dyn Stream> = Box::new(io);
        self.post(Inbound::WebSocket(io, peer));
    }

    /// Says goodbye to all clients, makes their sessions durable and waits for the threads.
    pub fn shutdown(mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a gateway thread had panicked");
            }
        }
    }

    fn post(&self, inbound: Inbound) {
        let mut next = self.next.fetch_add(1, Ordering::Relaxed);
        shell::next_link(&self.links, &mut next).post(inbound);
    }

    fn stop(&self) {
        self.shared.stop();
        for link in self.links.iter() {
            link.post(Inbound::Stop);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Records read from the store at once.
const RECORDS_PAGE: usize = 1024;

fn restore(shared: &Shared, store: &Store, bus: &Bus, now: i64) {
    let mut ends = Positions::default();
    for stream in bus.streams().iter().filter(|s| !s.is_internal()) {
        for partition in stream.partitions().iter() {
            ends.insert(partition_name(partition), partition.end());
        }
    }
    let mut page = Vec::new().into_iter();
    let mut after: Option<bytes::Bytes> = None;
    let records = std::iter::from_fn(|| {
        if let Some(record) = page.next() {
            return Some(record);
        }
        page = store
            .scan(b"s/", after.as_deref(), RECORDS_PAGE)
            .into_iter();
        after = page.as_slice().last().map(|(key, _)| key.clone());
        page.next()
    });
    let group_record = |text: &str| {
        let key = crate::core::group_key(text);
        store.get(&key).map(|record| record.to_vec())
    };
    let stale = restore_sessions(shared, records, group_record, &ends, now);
    if !stale.is_empty() {
        store.apply(stale.into_iter().map(Change::Delete).collect(), None);
    }
}

fn bind(addr: SocketAddr) -> Result<(std::net::TcpListener, SocketAddr)> {
    let failed = |e: std::io::Error| {
        let code = match e.kind() {
            std::io::ErrorKind::AddrInUse => "gateway.port-in-use",
            _ => "gateway.listen",
        };
        Error::new(Class::Configuration, code)
            .with("address", addr)
            .caused_by(e)
    };
    let open = || {
        let domain = socket2::Domain::for_address(addr);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        let listener: std::net::TcpListener = socket.into();
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    open().map_err(failed)
}
