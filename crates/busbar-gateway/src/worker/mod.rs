//! A worker thread of a gateway: a current-thread runtime, one task a connection, and a driver that turns the
//! sessions when sockets are drained or the log has grown.

mod connection;

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

use crate::acceptors::{Acceptors, BeginHandshake, ByteStream, Handshake};
use crate::admission::Admissions;
use crate::authorizer::{Authorizer, ClientOrigin, Denied};
use crate::bus_log::{BusLog, resume_after};
use crate::certificate::common_name;
use crate::connection_id::ConnId;
use crate::limits::{
    CATCH_UP_READ_BYTES, HANDSHAKE_WAIT, READ_AGAIN_WAIT, READ_BYTES, STOP_WAIT, TICK,
};
use crate::protocol::{Effect, Protocol};
use crate::throttle::Throttle;

use connection::Connection;

/// How others reach a worker thread.
pub struct WorkerInbox<M> {
    queue: Mutex<Vec<Inbound<M>>>,
    notify: Notify,
    watching: AtomicBool,
    /// The thread has ended.
    ended: AtomicBool,
}

impl<M> Default for WorkerInbox<M> {
    fn default() -> WorkerInbox<M> {
        WorkerInbox {
            queue: Mutex::default(),
            notify: Notify::new(),
            watching: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }
}

impl<M> WorkerInbox<M> {
    /// Puts an item into the inbox of the thread and wakes it.
    pub fn post(&self, inbound: Inbound<M>) {
        self.queue.lock().push(inbound);
        self.notify.notify_one();
    }
}

/// What a worker thread finds in its inbox.
pub enum Inbound<M> {
    /// A connection to a plain listener.
    Tcp(TcpStream),
    /// A connection to a TLS listener.
    Tls(TcpStream, Arc<rustls::ServerConfig>),
    /// A connection to a listener with a handshake of another kind.
    Other(TcpStream, Arc<BeginHandshake>),
    /// A connection that somebody else accepted and that becomes a byte stream after a handshake.
    Handshake(Handshake, Option<SocketAddr>),
    /// A byte stream.
    ByteStream(Box<dyn ByteStream>, Option<SocketAddr>),
    /// From another thread.
    Message(M),
    /// A journal batch is durable, or not.
    Journalled(u64, bool),
    /// The gateway stops.
    Stop,
}

/// What a worker thread starts from.
pub struct Seed<S: Protocol> {
    pub name: &'static str,
    pub number: usize,
    pub bus: Bus,
    pub authorizer: Arc<dyn Authorizer>,
    pub admissions: Arc<Admissions>,
    pub payload_bytes_max: usize,
    pub inboxes: Arc<[Arc<WorkerInbox<S::Message>>]>,
    pub store: Option<Store>,
    pub acceptors: Option<Acceptors>,
    pub make: Arc<dyn Fn(usize, BusLog) -> S + Send + Sync>,
    /// Held while the thread runs.
    pub watched: Option<Watched>,
}

/// What the tasks of one thread share.
struct Local<S: Protocol> {
    sessions: RefCell<S>,
    name: &'static str,
    number: usize,
    clock: Arc<dyn Clock>,
    admissions: Arc<Admissions>,
    inboxes: Arc<[Arc<WorkerInbox<S::Message>>]>,
    authorizer: Arc<dyn Authorizer>,
    store: Option<Store>,
    bus: Bus,
    wakers: RefCell<Vec<Option<Waker>>>,
    paused: RefCell<Vec<ConnId>>,
    buffer: RefCell<Vec<u8>>,
    stopping: Cell<bool>,
    /// Bounds what is logged about connections that end beneath their protocol.
    broken: Throttle,
}

/// Runs a worker thread.
pub fn run<S: Protocol>(mut seed: Seed<S>) {
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

async fn drive<S: Protocol>(seed: Seed<S>) {
    let Seed {
        name,
        number,
        bus,
        authorizer,
        admissions,
        payload_bytes_max,
        inboxes,
        store,
        acceptors,
        make,
        watched: _,
    } = seed;
    let inbox = Arc::clone(&inboxes[number]);
    let _ending = EndMark(Arc::clone(&inbox));
    let settled = {
        let inbox = Arc::clone(&inbox);
        Arc::new(move || inbox.notify.notify_one())
    };
    let committed = {
        let inbox = Arc::clone(&inbox);
        Arc::new(move || {
            // The commit thread and the core each write first and read then, so one of them sees the
            // write of the other.
            fence(Ordering::SeqCst);
            if inbox.watching.load(Ordering::Acquire) {
                inbox.notify.notify_one();
            }
        })
    };
    let log = BusLog::new(bus.clone(), payload_bytes_max, settled, committed);
    let local = Rc::new(Local {
        sessions: RefCell::new(make(number, log)),
        name,
        number,
        clock: Arc::clone(bus.clock()),
        admissions,
        inboxes,
        authorizer,
        store,
        bus,
        wakers: RefCell::default(),
        paused: RefCell::default(),
        buffer: RefCell::new(vec![0; READ_BYTES]),
        stopping: Cell::new(false),
        broken: Throttle::default(),
    });
    if let Some(acceptors) = acceptors {
        local.accept(acceptors);
    }
    let mut next_tick = Instant::now();
    let mut seen = u64::MAX;
    loop {
        tokio::select! {
            biased;
            () = inbox.notify.notified() => {}
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

impl<S: Protocol> Local<S> {
    fn now(&self) -> Micros {
        self.clock.now_micros()
    }

    /// Handles what depends on time, and updates the list of partitions if it has changed since `seen`.
    fn tick(&self, seen: &mut u64) {
        let mut sessions = self.sessions.borrow_mut();
        let epoch = self.bus.route_epoch();
        if *seen != epoch {
            *seen = epoch;
            sessions.log().refresh();
        }
        sessions.tick(self.now());
    }

    /// Logs why a connection ended beneath its protocol.
    fn log_broken(
        &self,
        address: Option<SocketAddr>,
        error: &std::io::Error,
        message: &'static str,
    ) {
        self.broken
            .log_broken(self.now(), self.name, address, error, message);
    }

    /// Has the driver turn the sessions after the tasks that are ready now.
    fn kick(&self) {
        self.inboxes[self.number].notify.notify_one();
    }

    /// One turn of the sessions and what they ask for. True when there is more to do.
    fn turn(self: &Rc<Self>) -> bool {
        let (more, watching) = {
            let mut sessions = self.sessions.borrow_mut();
            if sessions.is_watching() {
                self.inboxes[self.number]
                    .watching
                    .store(true, Ordering::Release);
                fence(Ordering::SeqCst);
            }
            sessions.log().settle();
            (sessions.turn(self.now()), sessions.is_watching())
        };
        self.inboxes[self.number]
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

    /// Carries out what the sessions ask for, and wakes the sockets that have something to do.
    fn act(self: &Rc<Self>) {
        let (effects, awake) = {
            let mut sessions = self.sessions.borrow_mut();
            (sessions.take_effects(), sessions.take_awake())
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

    fn carry_out(self: &Rc<Self>, effect: Effect<S::Reader, S::Message>) {
        match effect {
            Effect::Journal(seq, changes) => {
                let inbox = Arc::clone(&self.inboxes[self.number]);
                let Some(store) = &self.store else {
                    return inbox.post(Inbound::Journalled(seq, false));
                };
                store.apply(
                    changes,
                    Some(Box::new(move |result| {
                        if let Err(error) = &result {
                            tracing::error!(%error, "sessions could not be journalled");
                        }
                        inbox.post(Inbound::Journalled(seq, result.is_ok()));
                    })),
                );
            }
            Effect::Post(thread, message) => self.inboxes[thread].post(Inbound::Message(message)),
            Effect::Authenticate(id, credentials) => {
                if let Some(result) = self.authorizer.at_once(&credentials) {
                    self.sessions
                        .borrow_mut()
                        .authenticated(id, result, self.now());
                    return self.kick();
                }
                let local = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    let authorizer = Arc::clone(&local.authorizer);
                    let asked =
                        tokio::task::spawn_blocking(move || authorizer.authenticate(&credentials));
                    let result = asked.await.unwrap_or(Err(Denied::Failed));
                    local
                        .sessions
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

    async fn read_disk(self: Rc<Self>, reader: S::Reader, partition: u32, offset: u64) {
        let found = self
            .sessions
            .borrow_mut()
            .log()
            .partition(partition)
            .cloned();
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
        self.sessions
            .borrow_mut()
            .rows_read(reader, partition, offset, result);
        self.act();
        self.kick();
    }

    fn read_inbox(self: &Rc<Self>) {
        let inbox = std::mem::take(&mut *self.inboxes[self.number].queue.lock());
        for inbound in inbox {
            match inbound {
                Inbound::Tcp(stream) => {
                    if let Some((stream, address)) = tokio_stream(stream) {
                        self.serve(stream, address.into(), true);
                    }
                }
                Inbound::Tls(stream, config) => self.serve_tls(stream, config),
                Inbound::Other(stream, begin) => {
                    if let Some((stream, address)) = tokio_stream(stream) {
                        self.serve_after(begin(stream), address, true);
                    }
                }
                Inbound::Handshake(handshake, address) => {
                    self.serve_after(handshake, address, false);
                }
                Inbound::ByteStream(stream, address) => self.serve(stream, address.into(), false),
                Inbound::Message(message) => {
                    self.sessions.borrow_mut().message(message, self.now());
                    self.act();
                }
                Inbound::Journalled(seq, ok) => {
                    self.sessions.borrow_mut().journalled(seq, ok, self.now());
                    self.act();
                }
                Inbound::Stop => self.stopping.set(true),
            }
        }
    }

    /// Gives a byte stream a connection and a task. `paced`: a listener of ours has applied the limit of
    /// connections per second.
    fn serve(
        self: &Rc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        origin: ClientOrigin,
        paced: bool,
    ) {
        let address = origin.address;
        let opened = self.sessions.borrow_mut().open(origin, paced, self.now());
        let Some(id) = opened else { return };
        let slot = id.slot as usize;
        {
            let mut wakers = self.wakers.borrow_mut();
            if wakers.len() <= slot {
                wakers.resize(slot + 1, None);
            }
        }
        self.act();
        tokio::task::spawn_local(Connection::new(Rc::clone(self), id, address, stream));
    }

    fn serve_tls(self: &Rc<Self>, stream: TcpStream, config: Arc<rustls::ServerConfig>) {
        let Some((stream, address)) = tokio_stream(stream) else {
            return;
        };
        let local = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let handshake = TlsAcceptor::from(config).accept(stream);
            match tokio::time::timeout(HANDSHAKE_WAIT, handshake).await {
                Ok(Ok(stream)) => {
                    let certificates = stream.get_ref().1.peer_certificates();
                    let origin = ClientOrigin {
                        address,
                        user: certificates.and_then(|c| common_name(c.first()?)),
                    };
                    local.serve(stream, origin, true);
                }
                Ok(Err(error)) => local.log_broken(address, &error, "a TLS handshake failed"),
                Err(late) => local.log_broken(address, &late.into(), "a TLS handshake failed"),
            }
        });
    }

    fn serve_after(
        self: &Rc<Self>,
        handshake: Handshake,
        address: Option<SocketAddr>,
        paced: bool,
    ) {
        let local = Rc::clone(self);
        tokio::task::spawn_local(async move {
            match tokio::time::timeout(HANDSHAKE_WAIT, handshake).await {
                Ok(Ok(stream)) => local.serve(stream, address.into(), paced),
                Ok(Err(error)) => local.log_broken(address, &error, "a handshake failed"),
                Err(late) => local.log_broken(address, &late.into(), "a handshake failed"),
            }
        });
    }

    /// Accepts for all threads, in turn.
    fn accept(self: &Rc<Self>, acceptors: Acceptors) {
        for listener in acceptors.tcp {
            self.accept_from(listener, Inbound::Tcp);
        }
        for (listener, config) in acceptors.tls {
            self.accept_from(listener, move |s| Inbound::Tls(s, Arc::clone(&config)));
        }
        for (listener, begin) in acceptors.other {
            let begin = Arc::new(begin);
            self.accept_from(listener, move |s| Inbound::Other(s, Arc::clone(&begin)));
        }
    }

    fn accept_from(
        self: &Rc<Self>,
        listener: TcpListener,
        wrap: impl Fn(TcpStream) -> Inbound<S::Message> + 'static,
    ) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "a listener could not be used");
                return;
            }
        };
        let local = Rc::clone(self);
        let watched = self
            .bus
            .log()
            .supervisor()
            .watch_task(format!("{}-accept", self.name));
        tokio::task::spawn_local(async move {
            let _watched = watched;
            let mut next = 0;
            while !local.stopping.get() {
                if !local.admissions.within_rate(local.now()) {
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
                        local.next_inbox(&mut next).post(wrap(stream));
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

    /// The thread that serves the next connection, one that runs if there is any.
    fn next_inbox(&self, next: &mut usize) -> &WorkerInbox<S::Message> {
        next_inbox(&self.inboxes, next)
    }

    /// Sends the last bytes and writes the last records.
    async fn stop(self: &Rc<Self>) {
        self.sessions.borrow_mut().shut_down(self.now());
        let until = tokio::time::Instant::now() + STOP_WAIT;
        loop {
            self.read_inbox();
            self.turn();
            let idle = {
                let sessions = self.sessions.borrow();
                sessions.connections() == 0 && !sessions.has_work()
            };
            if idle || tokio::time::Instant::now() >= until {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        self.turn();
    }
}

/// The inbox of the next thread in turn that runs; any inbox if none does.
pub fn next_inbox<'a, M>(
    inboxes: &'a [Arc<WorkerInbox<M>>],
    next: &mut usize,
) -> &'a WorkerInbox<M> {
    for _ in 0..inboxes.len() {
        *next = next.wrapping_add(1);
        let inbox = &inboxes[*next % inboxes.len()];
        if !inbox.ended.load(Ordering::Acquire) {
            return inbox;
        }
    }
    &inboxes[*next % inboxes.len()]
}

/// Marks an inbox when its thread ends, however it does.
struct EndMark<M>(Arc<WorkerInbox<M>>);

impl<M> Drop for EndMark<M> {
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
