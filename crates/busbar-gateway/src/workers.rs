//! The worker threads of one gateway: starting, handing over connections, stopping.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use busbar_bus::Bus;
use busbar_event::{Class, Error, Result};
use busbar_log::Store;
use parking_lot::Mutex;

use crate::acceptors::{Acceptors, ByteStream, Handshake};
use crate::admission::Admissions;
use crate::authorizer::Authorizer;
use crate::bus_log::BusLog;
use crate::protocol::Protocol;
use crate::worker::{self, Inbound, WorkerInbox};

/// What the worker threads of a gateway have in common.
pub struct WorkersOptions {
    /// Name of the threads; their number is appended.
    pub name: &'static str,
    /// How many; zero for as many as the machine has cores.
    pub threads: usize,
    /// Where events go to and come from.
    pub bus: Bus,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
    /// Bounds on connections.
    pub admissions: Arc<Admissions>,
    /// Largest payload taken, in bytes.
    pub payload_bytes_max: usize,
    /// What [`crate::Effect::Journal`] writes to.
    pub store: Option<Store>,
}

/// The worker threads of a gateway. Dropping them stops them without waiting.
pub struct Workers<S: Protocol> {
    admissions: Arc<Admissions>,
    inboxes: Arc<[Arc<WorkerInbox<S::Message>>]>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    next: AtomicUsize,
}

impl<S: Protocol> Workers<S> {
    /// Starts the threads. `make` makes the sessions of a thread from its number and its log.
    ///
    /// # Errors
    /// *Transient*: the system starts no more threads.
    pub fn start(
        options: WorkersOptions,
        acceptors: Acceptors,
        make: impl Fn(usize, BusLog) -> S + Send + Sync + 'static,
    ) -> Result<Workers<S>> {
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        let workers = Workers {
            admissions: Arc::clone(&options.admissions),
            inboxes: (0..threads).map(|_| Arc::default()).collect(),
            threads: Mutex::default(),
            next: AtomicUsize::new(0),
        };
        let make: Arc<dyn Fn(usize, BusLog) -> S + Send + Sync> = Arc::new(make);
        let mut acceptors = Some(acceptors);
        for number in 0..threads {
            let name = format!("{}-{number}", options.name);
            let seed = worker::Seed {
                name: options.name,
                number,
                bus: options.bus.clone(),
                authorizer: Arc::clone(&options.authorizer),
                admissions: Arc::clone(&options.admissions),
                payload_bytes_max: options.payload_bytes_max,
                inboxes: Arc::clone(&workers.inboxes),
                store: options.store.clone(),
                acceptors: acceptors.take(),
                make: Arc::clone(&make),
                watched: Some(options.bus.log().supervisor().watch(name.clone())),
            };
            let thread = std::thread::Builder::new()
                .name(name)
                .spawn(move || worker::run(seed))
                .map_err(|e| Error::new(Class::Transient, "gateway.thread").caused_by(e))?;
            workers.threads.lock().push(thread);
        }
        Ok(workers)
    }

    /// Serves a byte stream that somebody else accepted.
    pub fn hand_over(&self, stream: Box<dyn ByteStream>, peer: Option<SocketAddr>) {
        self.post(Inbound::ByteStream(stream, peer));
    }

    /// Serves a connection that somebody else accepted, after a handshake.
    pub fn hand_over_after(&self, handshake: Handshake, peer: Option<SocketAddr>) {
        self.post(Inbound::Handshake(handshake, peer));
    }

    /// Says goodbye to all clients, makes what has to be kept durable and waits for the threads.
    pub fn shut_down(&self) {
        self.stop();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a gateway thread had panicked");
            }
        }
    }

    fn post(&self, inbound: Inbound<S::Message>) {
        let mut next = self.next.fetch_add(1, Ordering::Relaxed);
        worker::next_inbox(&self.inboxes, &mut next).post(inbound);
    }

    fn stop(&self) {
        self.admissions.stop();
        for inbox in self.inboxes.iter() {
            inbox.post(Inbound::Stop);
        }
    }
}

impl<S: Protocol> Drop for Workers<S> {
    fn drop(&mut self) {
        self.stop();
    }
}
