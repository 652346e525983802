//! The thread of one UDP gateway: datagrams in, events to the log.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;

use busbar_bus::{Bus, Event, Status, Ticket};
use busbar_catalog::{AddressRange, GatewayLogin};
use busbar_event::{ARRIVAL, Class, Error, Flags, Micros, Result};
use busbar_gateway::limits::TICK;
use busbar_gateway::reserved::is_reserved;
use busbar_gateway::{
    Authorizer, BusLog, ClientOrigin, Credentials, EventLog as _, Identity, Throttle,
};
use busbar_log::Watched;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::counters::{EventTally, SocketCounters};
use crate::framing::{Framing, NextFrame};
use crate::limits::{
    DATAGRAMS_PER_TURN, TOPICS_REMEMBERED_MAX, UDP_STOP_WAIT, WATCHED_TICKETS_MAX,
};
use crate::rules::FrameRules;
use crate::sessions::{code_of, is_allowed};
use crate::udp_batch::DatagramBatch;

/// What a UDP gateway is made of.
pub(crate) struct UdpOptions {
    pub name: Box<str>,
    /// How the frames of a datagram are told apart; `None` for one frame.
    pub framing: Option<Framing>,
    pub rules: FrameRules,
    pub frame_bytes_max: usize,
    pub login: Option<GatewayLogin>,
    pub allow: Vec<AddressRange>,
    pub payload_bytes_max: usize,
    pub counters: Arc<SocketCounters>,
    pub bus: Bus,
    pub authorizer: Arc<dyn Authorizer>,
}

/// A running UDP gateway's thread.
pub(crate) struct UdpThread {
    signals: Arc<Signals>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Signals {
    settled: Notify,
    stop: Notify,
}

impl UdpThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// *Transient*: the system starts no more threads, or the socket cannot be used.
    pub fn start(options: UdpOptions, socket: UdpSocket) -> Result<UdpThread> {
        let failed = |cause| Error::new(Class::Transient, "gateway.thread").caused_by(cause);
        let signals = Arc::new(Signals::default());
        let watched = options.bus.log().supervisor().watch("udp");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let of_thread = Arc::clone(&signals);
        let thread = std::thread::Builder::new()
            .name("udp".into())
            .spawn(move || run(options, socket, &of_thread, &runtime, watched))
            .map_err(failed)?;
        Ok(UdpThread {
            signals,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Takes nothing more and waits until what was taken is handed to the log.
    pub fn shut_down(&self) {
        self.signals.stop.notify_one();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of a UDP gateway had panicked");
        }
    }
}

impl Drop for UdpThread {
    fn drop(&mut self) {
        self.signals.stop.notify_one();
    }
}

fn run(
    options: UdpOptions,
    socket: UdpSocket,
    signals: &Arc<Signals>,
    runtime: &tokio::runtime::Runtime,
    watched: Watched,
) {
    runtime.block_on(async {
        let socket = tokio::net::UdpSocket::from_std(socket)
            .and_then(|socket| Ok((DatagramBatch::new(&socket)?, socket)));
        match socket {
            Ok((batch, socket)) => {
                Receiver::new(options, signals)
                    .receive(&socket, batch, signals)
                    .await
            }
            Err(error) => tracing::error!(%error, "a UDP socket could not be used"),
        }
    });
    watched.finish();
}

struct Receiver {
    framing: Option<Framing>,
    options: UdpOptions,
    log: BusLog,
    identity: Option<Arc<dyn Identity>>,
    permissions: HashMap<Box<str>, bool, RandomState>,
    /// Events whose commit is watched, with how many share it.
    tickets: VecDeque<(Ticket, u64)>,
    topic: String,
    client: String,
    peer: String,
    peer_of: Option<std::net::IpAddr>,
    tally: EventTally,
    log_lines: Throttle,
}

impl Receiver {
    fn new(mut options: UdpOptions, signals: &Arc<Signals>) -> Receiver {
        let settled = Arc::clone(signals);
        let log = BusLog::new(
            options.bus.clone(),
            options.payload_bytes_max,
            Arc::new(move || settled.settled.notify_one()),
            Arc::new(|| {}),
        );
        Receiver {
            framing: options.framing.take(),
            options,
            log,
            identity: None,
            permissions: HashMap::default(),
            tickets: VecDeque::new(),
            topic: String::new(),
            client: String::new(),
            peer: String::new(),
            peer_of: None,
            tally: EventTally::default(),
            log_lines: Throttle::default(),
        }
    }

    async fn receive(
        mut self,
        socket: &tokio::net::UdpSocket,
        mut batch: DatagramBatch,
        signals: &Signals,
    ) {
        self.log_in().await;
        let mut tick = tokio::time::interval(TICK);
        loop {
            let writable = self.log.writable();
            let stop = tokio::select! {
                biased;
                () = signals.stop.notified() => true,
                () = signals.settled.notified() => false,
                _ = tick.tick() => {
                    self.tick().await;
                    false
                }
                _ = socket.readable(), if writable => false,
            };
            if writable {
                self.drain(socket, &mut batch);
            }
            self.log.settle();
            self.settle();
            self.log.flush();
            self.tally.flush(&self.options.counters);
            if stop {
                return self.finish(signals).await;
            }
        }
    }

    /// Reads what the socket holds, up to a bound.
    fn drain(&mut self, socket: &tokio::net::UdpSocket, batch: &mut DatagramBatch) {
        let mut taken = 0;
        while taken < DATAGRAMS_PER_TURN {
            match batch.read(socket) {
                Ok(()) => {
                    for (peer, datagram) in batch.datagrams() {
                        self.datagram(datagram, peer);
                        taken += 1;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    // An answer of another program to something that was sent from this socket.
                    tracing::debug!(%error, "a datagram could not be read");
                    taken += 1;
                }
            }
        }
    }

    fn datagram(&mut self, datagram: &[u8], peer: std::net::IpAddr) {
        if !is_allowed(&self.options.allow, Some(peer)) {
            return self.refuse("gateway.address-not-allowed", 1);
        }
        if self.peer_of != Some(peer) {
            self.peer = peer.to_string();
            self.client = format!("{}/{}", self.options.name, self.peer);
            self.peer_of = Some(peer);
        }
        let Some(framing) = self.framing.take() else {
            let frame = datagram.strip_suffix(b"\n").unwrap_or(datagram);
            return match frame.len() {
                0 => self.refuse("gateway.frame-empty", 1),
                n if n > self.options.frame_bytes_max => self.refuse("gateway.frame-too-long", 1),
                _ => self.take(frame),
            };
        };
        self.frames(&framing, datagram);
        self.framing = Some(framing);
    }

    fn frames(&mut self, framing: &Framing, datagram: &[u8]) {
        let mut rest = datagram;
        while !rest.is_empty() {
            match framing.next(rest, 0, self.options.frame_bytes_max) {
                NextFrame::Whole(frame, used) => {
                    if !frame.is_empty() {
                        self.take(frame);
                    }
                    rest = &rest[used..];
                }
                // The end of a datagram ends its last frame, unless its length says that more belongs to it.
                NextFrame::Partial(_) if !matches!(framing, Framing::Length(..)) => {
                    return self.take(rest);
                }
                NextFrame::Partial(_) => return self.refuse("gateway.frame-unfinished", 1),
                NextFrame::Refused(fault) => return self.refuse(fault.code(), 1),
            }
        }
    }

    fn take(&mut self, frame: &[u8]) {
        let Receiver {
            options,
            log,
            identity,
            permissions,
            topic,
            client,
            peer,
            tally,
            tickets,
            ..
        } = self;
        let Some(identity) = identity else {
            return self.refuse("gateway.login-refused", 1);
        };
        let ruled = match options.rules.apply(frame, peer, identity.user(), topic) {
            Ok(ruled) => ruled,
            Err(code) => return self.refuse(code, 1),
        };
        let may = !is_reserved(ruled.topic)
            && (identity.is_unrestricted() || {
                match permissions.get(ruled.topic) {
                    Some(known) => *known,
                    None => {
                        let may = identity.may_publish(ruled.topic, &log.stream_of(ruled.topic));
                        if permissions.len() >= TOPICS_REMEMBERED_MAX {
                            permissions.clear();
                        }
                        permissions.insert(ruled.topic.into(), may);
                        may
                    }
                }
            });
        if !may {
            return self.refuse("gateway.frame-not-allowed", 1);
        }
        let event = Event {
            topic: ruled.topic,
            key: None,
            time: ARRIVAL,
            client: Some(client),
            flags: Flags::default(),
            tags: &[],
            payload: ruled.payload,
        };
        match log.publish(&event, None) {
            Ok(ticket) => {
                tally.events += 1;
                tally.bytes += ruled.payload.len() as u64;
                let room = tickets.len() < WATCHED_TICKETS_MAX;
                match tickets.back_mut() {
                    Some((last, count)) if *last == ticket => *count += 1,
                    _ if room => tickets.push_back((ticket, 1)),
                    _ => {}
                }
            }
            Err(refused) => self.refuse(code_of(refused), 1),
        }
    }

    /// Counts events whose commit failed.
    fn settle(&mut self) {
        while let Some((ticket, count)) = self.tickets.front() {
            let count = *count;
            match self.log.status(*ticket) {
                Status::Pending => return,
                Status::Committed => {}
                Status::Failed(failure) => self.refuse(failure.error().code(), count),
            }
            self.tickets.pop_front();
        }
    }

    fn refuse(&mut self, code: &'static str, count: u64) {
        self.tally.refused += count;
        if let Some(left_out) = self.log_lines.admit(self.now()) {
            let (gateway, peer) = (&*self.options.name, &*self.peer);
            tracing::warn!(gateway, peer, code, left_out, "a datagram was refused");
        }
    }

    fn now(&self) -> Micros {
        self.options.bus.clock().now_micros()
    }

    async fn tick(&mut self) {
        self.log.refresh();
        if self.identity.as_ref().is_none_or(|i| !i.is_current()) {
            self.log_in().await;
        }
    }

    /// Becomes the user whom the gateway's file names, or anybody on a node without users.
    async fn log_in(&mut self) {
        let user = match &self.options.login {
            Some(GatewayLogin::User(user)) => Some(user.as_str().into()),
            _ => None,
        };
        let credentials = Credentials {
            client_id: self.options.name.to_string(),
            username: None,
            password: None,
            origin: ClientOrigin {
                address: None,
                user,
            },
        };
        let authorizer = Arc::clone(&self.options.authorizer);
        let asked = tokio::task::spawn_blocking(move || authorizer.authenticate(&credentials));
        self.permissions.clear();
        let before = self.identity.is_some();
        self.identity = asked.await.ok().and_then(std::result::Result::ok);
        if self.identity.is_none() && before {
            self.options.counters.logins_refused.fetch_add(1, Relaxed);
        }
    }

    /// Waits until what was taken is committed.
    async fn finish(&mut self, signals: &Signals) {
        let deadline = tokio::time::Instant::now() + UDP_STOP_WAIT;
        while !self.tickets.is_empty() {
            let settled = signals.settled.notified();
            if tokio::time::timeout_at(deadline, settled).await.is_err() {
                break;
            }
            self.log.settle();
            self.settle();
            // What was taken while a commit was under way goes with the next.
            self.log.flush();
        }
        self.tally.flush(&self.options.counters);
    }
}
