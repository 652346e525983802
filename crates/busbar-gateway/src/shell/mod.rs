//! The socket shell of one core thread: a current-thread runtime, one task a connection, and a driver
//! that turns the core when sockets are drained or the log has grown.

mod connection;
mod websocket;

use std::cell::{Cell, RefCell};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::Waker;

use busbar_bus::Bus;
use busbar_event::Micros;
use busbar_log::{Clock, Store, Watched};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::authorizer::Authorizer;
use crate::bus_log::{BusLog, resume_after};
use crate::conn::ConnId;
use crate::core::{Core, Effect, Message, Reader};
use crate::limits::{
    CATCH_UP_READ_BYTES, HANDSHAKE_WAIT, READ_AGAIN_WAIT, READ_BYTES, STOP_WAIT, TICK,
};
use crate::registry::Shared;

use connection::Connection;
use websocket::WebSocket;

/// A byte stream to a client.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How others reach a core thread.
#[derive(Default)]
pub struct Link {
    inbox: Mutex<Vec<Inbound>>,
    notify: Notify,
    watching: AtomicBool,
    /// The core's thread has ended.
    ended: AtomicBool,
}

impl Link {
    /// Puts an item into the inbox of the core and wakes it.
    pub fn post(&self, inbound: Inbound) {
        self.inbox.lock().push(inbound);
        self.notify.notify_one();
    }
}

/// What a core finds in its inbox.
pub enum Inbound {
    /// A connection to a plain listener.
    Tcp(TcpStream),
    /// A connection to the TLS listener.
    Tls(TcpStream, Arc<rustls::ServerConfig>),
    /// A connection to the WebSocket listener.
    Http(TcpStream),
    /// A WebSocket connection after its upgrade.
    WebSocket(Box<dyn Stream>, Option<SocketAddr>),
    /// A byte stream.
    Stream(Box<dyn Stream>, Option<SocketAddr>),
    /// From another core.
    Message(Message),
    /// A journal batch is durable, or not.
    Journalled(u64, bool),
    /// The gateway stops.
    Stop,
}

/// The listeners; core 0 accepts for all.
#[derive(Default)]
pub struct Acceptors {
    pub tcp: Vec<TcpListener>,
    pub tls: Option<(TcpListener, Arc<rustls::ServerConfig>)>,
    pub websocket: Option<TcpListener>,
}

/// What a core thread starts from.
pub struct Seed {
    pub number: usize,
    pub bus: Bus,
    pub authorizer: Arc<dyn Authorizer>,
    pub shared: Arc<Shared>,
    pub links: Arc<[Arc<Link>]>,
    pub store: Store,
    pub acceptors: Option<Acceptors>,
    /// Held while the thread runs.
    pub watched: Option<Watched>,
}

/// What the tasks of one core share.
struct Local {
    core: RefCell<Core<BusLog>>,
    number: usize,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    links: Arc<[Arc<Link>]>,
    authorizer: Arc<dyn Authorizer>,
    store: Store,
    bus: Bus,
    wakers: RefCell<Vec<Option<Waker>>>,
    paused: RefCell<Vec<ConnId>>,
    buffer: RefCell<Vec<u8>>,
    stopping: Cell<bool>,
}

/// Runs a core thread.
pub fn run(mut seed: Seed) {
    let watched = seed.watched.take();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "a gateway thread could not start");
            return;
        }
    };
    LocalSet::new().block_on(&runtime, drive(seed));
    runtime.shutdown_timeout(STOP_WAIT);
    if let Some(watched) = watched {
        watched.finish();
    }
}

async fn drive(seed: Seed) {
    let Seed {
        number,
        bus,
        authorizer,
        shared,
        links,
        store,
        acceptors,
        watched: _,
    } = seed;
    let link = Arc::clone(&links[number]);
    let _ending = LinkEnd(Arc::clone(&link));
    let settled = {
        let link = Arc::clone(&link);
        Arc::new(move || link.notify.notify_one())
    };
    let committed = {
        let link = Arc::clone(&link);
        Arc::new(move || {
            // The commit thread and the core each write first and read then, so one of them sees the
            // write of the other.
            fence(Ordering::SeqCst);
            if link.watching.load(Ordering::Acquire) {
                link.notify.notify_one();
            }
        })
    };
    let log = BusLog::new(
        bus.clone(),
        shared.limits.packet_bytes_max,
        settled,
        committed,
    );
    let local = Rc::new(Local {
        core: RefCell::new(Core::new(log, Arc::clone(&shared), number)),
        number,
        clock: Arc::clone(bus.clock()),
        shared,
        links,
        authorizer,
        store,
        bus,
        wakers: RefCell::default(),
        paused: RefCell::default(),
        buffer: RefCell::new(vec![0; READ_BYTES]),
        stopping: Cell::new(false),
    });
    if let Some(acceptors) = acceptors {
        local.accept(acceptors);
    }
    let mut next_tick = Instant::now();
    let mut seen = u64::MAX;
    loop {
        tokio::select! {
            biased;
            () = link.notify.notified() => {}
            () = tokio::time::sleep_until(next_tick) => {}
        }
        // `tick` is called on time even if there is always more work.
        loop {
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                local.tick(&mut seen);
            }
            local.read_inbox();
            if !local.turn() {
                break;
            }
            tokio::task::yield_now().await;
        }
        if local.stopping.get() {
            break;
        }
    }
    local.stop().await;
}

impl Local {
    fn now(&self) -> Micros {
        self.clock.now_micros()
    }

    /// Handles what depends on time, and updates the list of partitions if it has changed since `seen`.
    fn tick(&self, seen: &mut u64) {
        let mut core = self.core.borrow_mut();
        let epoch = self.bus.route_epoch();
        if *seen != epoch {
            *seen = epoch;
            core.log.refresh();
        }
        core.tick(self.now());
    }

    /// Has the driver turn the core after the tasks that are ready now.
    fn kick(&self) {
        self.links[self.number].notify.notify_one();
    }

    /// One turn of the core and what it asks for. True when there is more to do.
    fn turn(self: &Rc<Self>) -> bool {
        let (more, watching) = {
            let mut core = self.core.borrow_mut();
            if core.is_watching() {
                self.links[self.number]
                    .watching
                    .store(true, Ordering::Release);
                fence(Ordering::SeqCst);
            }
            core.log.settle();
            (core.turn(self.now()), core.is_watching())
        };
        self.links[self.number]
            .watching
            .store(watching, Ordering::Release);
        self.act();
        let paused = std::mem::take(&mut *self.paused.borrow_mut());
        let wakers = self.wakers.borrow();
        for id in paused {
            if let Some(Some(waker)) = wakers.get(id.slot as usize) {
                waker.wake_by_ref();
            }
        }
        more
    }

    /// Carries out what the core asks for, and wakes the sockets that have something to do.
    fn act(self: &Rc<Self>) {
        let (effects, awake) = {
            let mut core = self.core.borrow_mut();
            (core.take_effects(), core.take_awake())
        };
        for effect in effects {
            self.carry_out(effect);
        }
        let wakers = self.wakers.borrow();
        for id in awake {
            if let Some(Some(waker)) = wakers.get(id.slot as usize) {
                waker.wake_by_ref();
            }
        }
    }

    fn carry_out(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Journal(seq, changes) => {
                let link = Arc::clone(&self.links[self.number]);
                self.store.apply(
                    changes,
                    Some(Box::new(move |result| {
                        if let Err(error) = &result {
                            tracing::error!(%error, "sessions could not be journalled");
                        }
                        link.post(Inbound::Journalled(seq, result.is_ok()));
                    })),
                );
            }
            Effect::Post(core, message) => self.links[core].post(Inbound::Message(message)),
            Effect::Authenticate(id, credentials) => {
                if let Some(result) = self.authorizer.at_once(&credentials) {
                    self.core.borrow_mut().authenticated(id, result, self.now());
                    return self.kick();
                }
                let local = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    let authorizer = Arc::clone(&local.authorizer);
                    let asked =
                        tokio::task::spawn_blocking(move || authorizer.authenticate(&credentials));
                    let result = asked
                        .await
                        .unwrap_or(Err(busbar_mqtt::Reason::UNSPECIFIED_ERROR));
                    local
                        .core
                        .borrow_mut()
                        .authenticated(id, result, local.now());
                    local.act();
                    local.kick();
                });
            }
            Effect::ReadDisk(reader, partition, offset) => {
                let local = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    local.read_disk(reader, partition, offset).await;
                });
            }
        }
    }

    async fn read_disk(self: Rc<Self>, reader: Reader, partition: u32, offset: u64) {
        let found = self.core.borrow().log.partition(partition).cloned();
        let result = loop {
            let Some(partition) = found.clone() else {
                break Err(u64::MAX);
            };
            let start = partition.start();
            if start > offset {
                break Err(start);
            }
            let bytes_max = CATCH_UP_READ_BYTES;
            let read = tokio::task::spawn_blocking(move || partition.read(offset, bytes_max)).await;
            match read {
                Ok(Ok(chunks)) => break Ok(chunks),
                Ok(Err(error)) => match resume_after(&error, offset) {
                    Some(resume) => {
                        tracing::error!(%error, offset, resume, "readers go on behind a gap");
                        break Err(resume);
                    }
                    None => tracing::error!(%error, offset, "the log could not be read"),
                },
                Err(stopped) if stopped.is_cancelled() => return,
                Err(error) => tracing::error!(%error, offset, "reading the log panicked"),
            }
            if self.stopping.get() {
                return;
            }
            tokio::time::sleep(READ_AGAIN_WAIT).await;
        };
        self.core
            .borrow_mut()
            .rows_read(reader, partition, offset, result);
        self.act();
        self.kick();
    }

    fn read_inbox(self: &Rc<Self>) {
        let inbox = std::mem::take(&mut *self.links[self.number].inbox.lock());
        for inbound in inbox {
            match inbound {
                Inbound::Tcp(stream) => {
                    if let Some((stream, peer)) = tokio_stream(stream) {
                        self.serve(stream, peer, true);
                    }
                }
                Inbound::Tls(stream, config) => self.serve_tls(stream, config),
                Inbound::Http(stream) => self.serve_http(stream),
                Inbound::WebSocket(io, peer) => {
                    let local = Rc::clone(self);
                    tokio::task::spawn_local(async move {
                        let bytes_max = local.shared.limits.packet_bytes_max;
                        let stream = WebSocket::after_upgrade(io, bytes_max).await;
                        local.serve(stream, peer, false);
                    });
                }
                Inbound::Stream(stream, peer) => self.serve(stream, peer, false),
                Inbound::Message(message) => {
                    self.core.borrow_mut().message(message, self.now());
                    self.act();
                }
                Inbound::Journalled(seq, ok) => {
                    self.core.borrow_mut().journalled(seq, ok, self.now());
                    self.act();
                }
                Inbound::Stop => self.stopping.set(true),
            }
        }
    }

    /// Gives a byte stream a connection of the core and a task. `paced`: our own listener let it
    /// wait until there was a place for it in its second.
    fn serve(
        self: &Rc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        peer: Option<SocketAddr>,
        paced: bool,
    ) {
        let Some(id) = self.core.borrow_mut().open(peer, self.now()) else {
            return;
        };
        if paced {
            self.core.borrow_mut().skip_rate_limit(id);
        }
        let slot = id.slot as usize;
        let mut wakers = self.wakers.borrow_mut();
        if wakers.len() <= slot {
            wakers.resize(slot + 1, None);
        }
        tokio::task::spawn_local(Connection::new(Rc::clone(self), id, stream));
    }

    fn serve_tls(self: &Rc<Self>, stream: TcpStream, config: Arc<rustls::ServerConfig>) {
        let Some((stream, peer)) = tokio_stream(stream) else {
            return;
        };
        let local = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let handshake = TlsAcceptor::from(config).accept(stream);
            match tokio::time::timeout(HANDSHAKE_WAIT, handshake).await {
                Ok(Ok(stream)) => local.serve(stream, peer, true),
                Ok(Err(error)) => tracing::debug!(%error, ?peer, "a TLS handshake failed"),
                Err(_) => tracing::debug!(?peer, "a TLS handshake took too long"),
            }
        });
    }

    fn serve_http(self: &Rc<Self>, stream: TcpStream) {
        let Some((stream, peer)) = tokio_stream(stream) else {
            return;
        };
        let local = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let handshake = WebSocket::accept(stream, local.shared.limits.packet_bytes_max);
            match tokio::time::timeout(HANDSHAKE_WAIT, handshake).await {
                Ok(Ok(stream)) => local.serve(stream, peer, true),
                Ok(Err(error)) => tracing::debug!(%error, ?peer, "a WebSocket handshake failed"),
                Err(_) => tracing::debug!(?peer, "a WebSocket handshake took too long"),
            }
        });
    }

    /// Accepts for all cores, in turn.
    fn accept(self: &Rc<Self>, acceptors: Acceptors) {
        for listener in acceptors.tcp {
            self.accept_from(listener, Inbound::Tcp);
        }
        if let Some((listener, config)) = acceptors.tls {
            self.accept_from(listener, move |s| Inbound::Tls(s, Arc::clone(&config)));
        }
        if let Some(listener) = acceptors.websocket {
            self.accept_from(listener, Inbound::Http);
        }
    }

    fn accept_from(
        self: &Rc<Self>,
        listener: TcpListener,
        wrap: impl Fn(TcpStream) -> Inbound + 'static,
    ) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "a listener could not be used");
                return;
            }
        };
        let local = Rc::clone(self);
        let watched = self.bus.log().supervisor().watch_task("mqtt-accept");
        tokio::task::spawn_local(async move {
            let _watched = watched;
            let mut next = 0;
            while !local.stopping.get() {
                if !local.shared.within_rate(local.now()) {
                    // One too many in this second waits for the next in the listener's queue.
                    tokio::time::sleep(TICK).await;
                    continue;
                }
                match listener
                    .accept()
                    .await
                    .and_then(|(stream, _)| stream.into_std())
                {
                    Ok(stream) => {
                        local.next_link(&mut next).post(wrap(stream));
                    }
                    Err(error) => {
                        // Out of file descriptors, most likely: they come back.
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(TICK).await;
                    }
                }
            }
        });
    }

    /// The core that serves the next connection, one that runs if there is any.
    fn next_link(&self, next: &mut usize) -> &Link {
        next_link(&self.links, next)
    }

    /// Sends the last bytes and writes the last records.
    async fn stop(self: &Rc<Self>) {
        self.core.borrow_mut().shut_down(self.now());
        let until = tokio::time::Instant::now() + STOP_WAIT;
        loop {
            self.read_inbox();
            self.turn();
            let idle = {
                let core = self.core.borrow();
                core.connections() == 0 && !core.has_work()
            };
            if idle || tokio::time::Instant::now() >= until {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        self.turn();
    }
}

/// The link of the next core in turn that runs; any link if none does.
pub fn next_link<'a>(links: &'a [Arc<Link>], next: &mut usize) -> &'a Link {
    for _ in 0..links.len() {
        *next = next.wrapping_add(1);
        let link = &links[*next % links.len()];
        if !link.ended.load(Ordering::Acquire) {
            return link;
        }
    }
    &links[*next % links.len()]
}

/// Marks a link when its core's thread ends, however it does.
struct LinkEnd(Arc<Link>);

impl Drop for LinkEnd {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

fn tokio_stream(stream: TcpStream) -> Option<(tokio::net::TcpStream, Option<SocketAddr>)> {
    let peer = stream.peer_addr().ok();
    let prepared = stream
        .set_nodelay(true)
        .and_then(|()| stream.set_nonblocking(true))
        .and_then(|()| tokio::net::TcpStream::from_std(stream));
    match prepared {
        Ok(stream) => Some((stream, peer)),
        Err(error) => {
            tracing::debug!(%error, "a connection could not be used");
            None
        }
    }
}
