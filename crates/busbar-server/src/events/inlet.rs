//! The way in: one thread that owns a publisher and takes the events of all HTTP requests, so
//! that many small requests make as large batches as one large request.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use busbar_bus::{Bus, Event, Publisher, Status, Ticket};
use busbar_event::{ARRIVAL, Class, Error, Flags, tags};
use busbar_gateway::Throttle;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::events::parse::Parsed;
use crate::limits::{
    COMMIT_SECONDS_MAX, INLET_BYTES_MAX, INLET_JOBS_PER_TURN_MAX, INLET_QUEUE_MAX,
};

/// Takes events in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Inlet {
    shared: Arc<Shared>,
    thread: Thread,
}

/// The inlet's thread; ends when it is stopped and everything taken in has settled.
pub(crate) struct InletThread {
    shared: Arc<Shared>,
    handle: JoinHandle<()>,
}

struct Shared {
    queue: Mutex<Queue>,
    accepted: AtomicU64,
    rejected: AtomicU64,
    refused: Throttle,
}

/// The thread's name.
const THREAD: &str = "http-publish";

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
    closed: bool,
    /// The thread ended although nobody had stopped it.
    failed: bool,
    /// The next job panics.
    #[cfg(test)]
    panics: bool,
}

impl Queue {
    fn why_closed(&self) -> Error {
        match self.failed {
            true => Error::new(Class::Permanent, "server.thread-ended").with("thread", THREAD),
            false => Error::new(Class::Transient, "server.stopping"),
        }
    }
}

/// Refuses all requests, those that wait included, when the thread ends.
struct CloseQueue(Arc<Shared>);

impl Drop for CloseQueue {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.failed = !queue.closed;
        queue.closed = true;
        queue.bytes = 0;
        // Dropping a job answers it.
        let jobs = std::mem::take(&mut queue.jobs);
        drop(queue);
        drop(jobs);
    }
}

struct Job {
    parsed: Parsed,
    client: Arc<str>,
    reply: oneshot::Sender<Outcome>,
}

/// What became of a request's events.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Events that are committed.
    pub(crate) accepted: usize,
    /// Events that are not, by their place in the request.
    pub(crate) rejected: Vec<(usize, Error)>,
    /// True when one of the accepted events is only in memory, as its stream says.
    pub(crate) memory: bool,
}

impl Inlet {
    /// Starts the thread.
    pub(crate) fn start(bus: &Bus) -> Result<(Inlet, InletThread), Error> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            accepted: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            refused: Throttle::default(),
        });
        let watched = bus.log().supervisor().watch(THREAD);
        let (bus, worker_shared) = (bus.clone(), shared.clone());
        let handle = std::thread::Builder::new()
            .name(THREAD.into())
            .spawn(move || {
                let _closing = CloseQueue(worker_shared.clone());
                let watched = watched;
                Worker::new(&bus, worker_shared).run();
                watched.finish();
            })
            .map_err(|cause| Error::new(Class::Transient, "server.no-thread").caused_by(cause))?;
        let inlet = Inlet {
            shared: shared.clone(),
            thread: handle.thread().clone(),
        };
        Ok((inlet, InletThread { shared, handle }))
    }

    /// Publishes a request's events and waits until they are as durable as their streams say.
    ///
    /// # Errors
    /// When nothing was taken in because too much waits, and when the disk did not answer in time:
    /// then it is not known what became of the events.
    pub(crate) async fn publish(&self, parsed: Parsed, client: Arc<str>) -> Result<Outcome, Error> {
        let (reply, outcome) = oneshot::channel();
        {
            let mut queue = self.shared.queue.lock();
            if queue.closed {
                return Err(queue.why_closed());
            }
            if queue.jobs.len() >= INLET_QUEUE_MAX || queue.bytes >= INLET_BYTES_MAX {
                return Err(Error::new(Class::Transient, "server.inlet-full"));
            }
            queue.bytes += parsed.bytes();
            queue.jobs.push_back(Job {
                parsed,
                client,
                reply,
            });
        }
        self.thread.unpark();
        match tokio::time::timeout(Duration::from_secs(COMMIT_SECONDS_MAX), outcome).await {
            Ok(Ok(outcome)) => Ok(outcome),
            // Whether the events are stored is not known.
            Ok(Err(_)) => Err(self.shared.queue.lock().why_closed()),
            Err(_) => Err(Error::new(Class::Transient, "server.commit-unknown")
                .with("max_seconds", COMMIT_SECONDS_MAX)),
        }
    }

    /// Events accepted and rejected since the start.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (
            self.shared.accepted.load(Ordering::Relaxed),
            self.shared.rejected.load(Ordering::Relaxed),
        )
    }
}

impl InletThread {
    /// Takes nothing more, waits for what was taken.
    pub(crate) fn stop(self) {
        self.shared.queue.lock().closed = true;
        self.handle.thread().unpark();
        // A panic of the thread was printed; there is nothing to do about it when stopping.
        let _ = self.handle.join();
    }
}

struct Worker {
    shared: Arc<Shared>,
    bus: Bus,
    publisher: Publisher,
    pending: VecDeque<Pending>,
}

/// A request whose events are on their way.
struct Pending {
    client: Arc<str>,
    outcome: Outcome,
    /// Index of the first event of each run of events that share a ticket.
    tickets: Vec<(Ticket, Vec<usize>)>,
    reply: oneshot::Sender<Outcome>,
}

impl Worker {
    fn new(bus: &Bus, shared: Arc<Shared>) -> Worker {
        let thread = std::thread::current();
        Worker {
            shared,
            bus: bus.clone(),
            publisher: bus.publisher(Arc::new(move || thread.unpark())),
            pending: VecDeque::new(),
        }
    }

    fn run(mut self) {
        loop {
            self.publisher.settle();
            self.answer();
            let mut idle = true;
            let mut left = INLET_JOBS_PER_TURN_MAX;
            while left > 0 && self.publisher.writable() {
                left -= 1;
                let job = {
                    let mut queue = self.shared.queue.lock();
                    let job = queue.jobs.pop_front();
                    #[cfg(test)]
                    assert!(job.is_none() || !queue.panics, "on purpose");
                    if let Some(job) = &job {
                        queue.bytes -= job.parsed.bytes();
                    }
                    job
                };
                let Some(job) = job else { break };
                idle = false;
                self.take(job);
            }
            self.publisher.flush();
            if !idle {
                continue;
            }
            let queue = self.shared.queue.lock();
            if queue.closed && queue.jobs.is_empty() && self.pending.is_empty() {
                return;
            }
            drop(queue);
            // Woken by a new request and by the commit thread; the bound is for a wake-up that
            // comes between looking and parking, which unpark keeps anyway.
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    fn take(&mut self, job: Job) {
        let Job {
            mut parsed,
            client,
            reply,
        } = job;
        let mut pending = Pending {
            client: client.clone(),
            outcome: Outcome {
                rejected: std::mem::take(&mut parsed.rejected),
                ..Outcome::default()
            },
            tickets: Vec::new(),
            reply,
        };
        let mut memory_of = MemoryOf::default();
        for (view, range) in parsed.events() {
            let mut flags = Flags::default().with_qos(view.qos).with_retain(view.retain);
            let escaped: Vec<_> = parsed
                .tags(range)
                .map(|(name, value)| (tags::escape(name), value))
                .collect();
            let mut tags: Vec<(&str, &str)> = escaped
                .iter()
                .map(|(name, value)| (&**name, *value))
                .collect();
            tags.extend(
                parsed
                    .content_type()
                    .map(|kind| (tags::reserved::CONTENT_TYPE, kind)),
            );
            let reserved = parsed.reserved().iter();
            tags.extend(reserved.map(|(name, value)| (*name, &**value)));
            if tags.iter().any(|(name, _)| name.starts_with('$')) {
                flags = flags.with_reserved_tags(true);
            }
            let event = Event {
                topic: view.topic,
                key: view.key,
                time: view.time.unwrap_or(ARRIVAL),
                client: Some(&client),
                flags,
                tags: &tags,
                payload: view.payload,
            };
            match self.publisher.push(&event) {
                Ok(ticket) => {
                    pending.outcome.memory |= memory_of.topic(&self.bus, view.topic);
                    match pending.tickets.last_mut() {
                        Some((last, indexes)) if *last == ticket => indexes.push(view.index),
                        _ => pending.tickets.push((ticket, vec![view.index])),
                    }
                }
                Err(refused) => pending.outcome.rejected.push((view.index, refused.error())),
            }
        }
        self.pending.push_back(pending);
    }

    /// Answers the requests whose events have all settled. Lanes settle apart from each other, so
    /// a later request may be done before an earlier one.
    fn answer(&mut self) {
        let publisher = &self.publisher;
        let shared = &self.shared;
        let mut at = 0;
        while at < self.pending.len() {
            let pending = &self.pending[at];
            let waits = pending
                .tickets
                .iter()
                .any(|(ticket, _)| publisher.status(*ticket) == Status::Pending);
            if waits {
                at += 1;
                continue;
            }
            let Some(pending) = self.pending.remove(at) else {
                break;
            };
            let mut outcome = pending.outcome;
            for (ticket, indexes) in pending.tickets {
                match publisher.status(ticket) {
                    Status::Failed(failure) => {
                        let refused = indexes.into_iter().map(|index| (index, failure.error()));
                        outcome.rejected.extend(refused);
                    }
                    _ => outcome.accepted += indexes.len(),
                }
            }
            outcome.rejected.sort_by_key(|(index, _)| *index);
            if let Some((_, error)) = outcome.rejected.first()
                && let Some(left_out) = shared.refused.admit(self.bus.clock().now_micros())
            {
                let (events, client) = (outcome.rejected.len(), &*pending.client);
                tracing::warn!(client, events, %error, left_out, "an HTTP publish was refused");
            }
            shared
                .accepted
                .fetch_add(outcome.accepted as u64, Ordering::Relaxed);
            shared
                .rejected
                .fetch_add(outcome.rejected.len() as u64, Ordering::Relaxed);
            // The client may have gone; its events are kept all the same.
            let _ = pending.reply.send(outcome);
        }
    }
}

/// Whether a topic's stream is kept in memory only; remembers the last topic asked for.
#[derive(Default)]
struct MemoryOf {
    topic: String,
    memory: bool,
}

impl MemoryOf {
    fn topic(&mut self, bus: &Bus, topic: &str) -> bool {
        if self.topic != topic || self.topic.is_empty() {
            let spec = bus.home(topic).spec();
            self.memory = spec.durability == busbar_bus::Durability::Memory;
            self.topic.clear();
            self.topic.push_str(topic);
        }
        self.memory
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use busbar_bus::BusOptions;
    use busbar_log::sim::SimDisk;
    use busbar_log::{Log, LogOptions, ManualClock};
    use bytes::Bytes;

    use super::*;
    use crate::events::parse::{Common, Layout};

    #[tokio::test]
    async fn what_is_answered_is_what_the_disk_took() {
        let disk = SimDisk::new(1);
        let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
        let log = Log::open(
            Arc::new(disk.clone()),
            Path::new("/data"),
            LogOptions::default(),
            clock.clone(),
        );
        let options = BusOptions {
            clock: clock.clone(),
            ..BusOptions::default()
        };
        let bus = Bus::open(log.unwrap(), options).unwrap();
        let (inlet, thread) = Inlet::start(&bus).unwrap();
        let publish = async |body: &'static [u8]| {
            let parsed = Parsed::new(Bytes::from_static(body), Layout::Json, Common::default());
            let outcome = inlet.publish(parsed.unwrap(), "test".into()).await;
            let outcome = outcome.unwrap();
            let rejected: Vec<_> = outcome
                .rejected
                .iter()
                .map(|(index, error)| (*index, error.code()))
                .collect();
            (outcome.accepted, rejected)
        };
        let body = br#"[{"topic":"a","payload":1},{"topic":"+"},{"topic":"a","payload":2}]"#;
        let wrong = (1, "event.topic-wildcard");
        assert_eq!(publish(body).await, (2, vec![wrong]));
        assert!(bus.log().refusal().is_none());
        disk.set_capacity(Some(1));
        clock.advance(1_000_000);
        let full = "bus.disk-full";
        assert_eq!(publish(body).await, (0, vec![(0, full), wrong, (2, full)]));
        assert_eq!(bus.log().refusal().unwrap().code(), "log.full");
        disk.set_capacity(None);
        clock.advance(1_000_000);
        assert_eq!(publish(body).await, (2, vec![wrong]));
        assert_eq!(bus.stream("inbox").unwrap().partitions()[0].end(), 4);
        // A disk that fails and one that is full are told apart.
        disk.fail_syncs(1);
        let (accepted, rejected) = publish(body).await;
        assert_eq!((accepted, rejected[0].1), (0, "bus.disk-failed"));
        drop(inlet);
        tokio::task::spawn_blocking(move || thread.stop())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_thread_that_panics_is_named_and_nobody_waits_for_it() {
        let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
        let log = Log::open(
            Arc::new(SimDisk::new(2)),
            Path::new("/data"),
            LogOptions::default(),
            clock.clone(),
        )
        .unwrap();
        let options = BusOptions {
            clock,
            ..BusOptions::default()
        };
        let bus = Bus::open(log.clone(), options).unwrap();
        let (inlet, thread) = Inlet::start(&bus).unwrap();
        let publish = async || {
            let parsed = Parsed::new(
                Bytes::from_static(br#"{"topic":"a","payload":1}"#),
                Layout::Json,
                Common::default(),
            );
            let outcome = inlet.publish(parsed.unwrap(), "test".into()).await;
            outcome.map(|outcome| outcome.accepted)
        };
        assert_eq!(publish().await.unwrap(), 1);
        inlet.shared.queue.lock().panics = true;
        for _ in 0..2 {
            assert_eq!(publish().await.unwrap_err().code(), "server.thread-ended");
        }
        let ended = log.supervisor().ended();
        assert_eq!((&*ended[0].name, ended[0].panicked), (THREAD, true));
        tokio::task::spawn_blocking(move || thread.stop())
            .await
            .unwrap();
    }
}
