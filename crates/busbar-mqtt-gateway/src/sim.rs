//! A node in memory for tests, the fuzzer and replays: a log that commits, fails and forgets its
//! cache when it is told to, a store, a clock that stands still, and cores that share them. No
//! sockets, no threads: the same calls give the same bytes.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::Array as _;
use busbar_bus::{Chunk, Event, Failure, Refused, Status};
use busbar_event::topic::Filter;
use busbar_event::{Batch, BatchBuilder, Flags, Micros, Row};
use busbar_log::Change;
use bytes::Bytes;

use crate::core::{Core, Effect, Reader, group_key};
use crate::limits::Limits;
use crate::registry::Shared;
use crate::restore::restore_sessions;
use crate::state::Positions;
use busbar_gateway::ConnId;
use busbar_gateway::event_log::{EventLog, PartitionInfo, RetainedPage, RetainedRow};
use busbar_gateway::{ClientOrigin, Credentials, Denied, Identity, Open, Reach};

const PARTITION: &str = "inbox/0";

/// What survives a crash: committed rows, retained values, the store.
#[derive(Default)]
pub struct SimLog {
    chunks: Vec<Chunk>,
    end: u64,
    start: u64,
    /// Rows before this offset are not in memory.
    cached_from: u64,
    producers: BTreeMap<String, u64>,
    retained: BTreeMap<String, Batch>,
    store: BTreeMap<Bytes, Bytes>,
    waiting: Vec<Waiting>,
    journal: VecDeque<(usize, u64, Vec<Change>)>,
    next_ticket: u64,
    settled: BTreeMap<u64, bool>,
    /// The disk is full: commits fail.
    pub full: bool,
    /// Commits of events fail; what goes to the store is kept.
    pub broken: bool,
    /// The disk cannot be read: who asks for rows waits until it can.
    pub unreadable: bool,
    /// Reads that wait for that.
    reads: Vec<(usize, Reader, u32, u64)>,
    /// Publishes are refused with this.
    pub refuse: Option<Refused>,
}

struct Waiting {
    ticket: u64,
    producer: Option<(String, u64)>,
    topic: String,
    time: Micros,
    client: Option<String>,
    flags: Flags,
    tags: Vec<(String, String)>,
    payload: Vec<u8>,
}

/// A core's view of the [`SimLog`].
pub struct SimEventLog(Rc<RefCell<SimLog>>);

impl EventLog for SimEventLog {
    type Ticket = u64;

    fn publish(
        &mut self,
        event: &Event<'_>,
        producer: Option<(&Arc<str>, u64)>,
    ) -> Result<u64, Refused> {
        let mut log = self.0.borrow_mut();
        if let Some(refused) = log.refuse {
            return Err(refused);
        }
        if busbar_event::topic::check(event.topic).is_err() {
            return Err(Refused::Topic);
        }
        log.next_ticket += 1;
        let ticket = log.next_ticket;
        log.waiting.push(Waiting {
            ticket,
            producer: producer.map(|(name, at)| (name.to_string(), at)),
            topic: event.topic.to_owned(),
            time: event.time,
            client: event.client.map(str::to_owned),
            flags: event.flags,
            tags: event
                .tags
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
            payload: event.payload.to_vec(),
        });
        Ok(ticket)
    }

    fn flush(&mut self) {}

    fn status(&self, ticket: u64) -> Status {
        match self.0.borrow().settled.get(&ticket) {
            None => Status::Pending,
            Some(true) => Status::Committed,
            Some(false) => Status::Failed(Failure::DiskFull),
        }
    }

    fn writable(&mut self) -> bool {
        true
    }

    fn topology(&self) -> u64 {
        1
    }

    fn partitions(&self) -> Vec<PartitionInfo> {
        vec![PartitionInfo {
            number: 0,
            name: PARTITION.into(),
            stream: "inbox".into(),
            captures: Vec::new(),
        }]
    }

    fn start(&self, _: u32) -> u64 {
        self.0.borrow().start
    }

    fn end(&self, _: u32) -> u64 {
        self.0.borrow().end
    }

    fn read_cached(&self, _: u32, offset: u64, bytes_max: usize) -> Option<Vec<Chunk>> {
        let log = self.0.borrow();
        (offset >= log.cached_from).then(|| log.read(offset, bytes_max))
    }

    fn place(&self, _: &Event<'_>) -> Arc<str> {
        PARTITION.into()
    }

    fn producer_position(&self, _: &str, producer: &str) -> Option<u64> {
        self.0.borrow().producers.get(producer).copied()
    }

    fn stream_of(&self, _: &str) -> Arc<str> {
        "inbox".into()
    }

    fn retained_count(&self) -> usize {
        self.0.borrow().retained.len()
    }

    fn retained(&self, filter: &Filter, after: Option<&str>, limit: usize) -> RetainedPage {
        let log = self.0.borrow();
        let mut found = log
            .retained
            .iter()
            .filter(|(topic, _)| after.is_none_or(|a| topic.as_str() > a) && filter.matches(topic));
        let rows: Vec<RetainedRow> = found
            .by_ref()
            .take(limit)
            .map(|(_, batch)| RetainedRow {
                batch: batch.clone(),
                row: 0,
                stream: "inbox".into(),
            })
            .collect();
        let next = match found.next() {
            Some(_) => rows.last().map(|r| r.batch.topic(r.row).into()),
            None => None,
        };
        RetainedPage { rows, next }
    }
}

impl SimLog {
    fn read(&self, offset: u64, bytes_max: usize) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let mut bytes = 0;
        for chunk in self.chunks.iter().filter(|c| c.end() > offset) {
            let skip = offset.saturating_sub(chunk.base) as usize;
            let rows = chunk.batch.rows() - skip;
            let batch = chunk.batch.slice(skip, rows);
            bytes += rows * 64;
            let base = chunk.base + skip as u64;
            chunks.push(Chunk {
                base,
                batch,
                producers: Arc::clone(&chunk.producers),
            });
            if bytes >= bytes_max {
                break;
            }
        }
        chunks
    }

    /// Makes everything that waits durable, or fails it.
    fn commit(&mut self) -> bool {
        let waiting = std::mem::take(&mut self.waiting);
        let any = !waiting.is_empty();
        if self.full || self.broken {
            self.settled
                .extend(waiting.iter().map(|w| (w.ticket, false)));
            return any;
        }
        let mut builder = BatchBuilder::new();
        for w in &waiting {
            let tags: Vec<(&str, &str)> = w
                .tags
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            let topic = builder.topic_id(&w.topic);
            let client = w.client.as_deref().map(|c| builder.client_id(c));
            let row = Row {
                topic,
                key: None,
                time: w.time,
                client,
                flags: w.flags,
                tags: &tags,
                payload: &w.payload,
            };
            builder.push(row);
            if let Some((name, at)) = &w.producer {
                self.producers.insert(name.clone(), *at);
            }
            self.settled.insert(w.ticket, true);
        }
        if any {
            let batch = builder.finish();
            for (row, w) in waiting.iter().enumerate() {
                if w.flags.retain() {
                    match w.payload.is_empty() {
                        true => self.retained.remove(&w.topic),
                        false => self.retained.insert(w.topic.clone(), batch.slice(row, 1)),
                    };
                }
            }
            let base = self.end;
            self.end += batch.rows() as u64;
            self.chunks.push(Chunk {
                base,
                batch,
                producers: Arc::new([]),
            });
        }
        any
    }

    /// Topics and payloads of all committed rows.
    pub fn rows(&self) -> Vec<(String, Vec<u8>)> {
        let mut rows = Vec::new();
        for chunk in &self.chunks {
            let payloads = chunk.batch.payloads();
            for row in 0..payloads.len() {
                rows.push((
                    chunk.batch.topic(row).to_owned(),
                    payloads.value(row).to_vec(),
                ));
            }
        }
        rows
    }
}

/// A connection of a [`SimNode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SimConn {
    core: usize,
    id: ConnId,
    life: u64,
}

/// What decides who may do what: by client identifier and user name, see [`SimNode`].
pub type Authority = fn(&Credentials) -> Result<Arc<dyn Identity>, Denied>;

/// A node in memory.
pub struct SimNode {
    /// The time, in microseconds.
    pub now: Micros,
    /// The log and the store.
    pub log: Rc<RefCell<SimLog>>,
    /// Who may do what.
    pub authority: Authority,
    limits: Limits,
    shared: Arc<Shared>,
    cores: Vec<Core<SimEventLog>>,
    life: u64,
    next_core: usize,
    /// Whether commits and journal batches are made durable at once.
    pub durable_at_once: bool,
}

impl SimNode {
    /// A node with `cores` cores.
    pub fn new(cores: usize, limits: Limits) -> SimNode {
        let log = Rc::new(RefCell::new(SimLog::default()));
        let mut node = SimNode {
            now: 1_700_000_000_000_000,
            log,
            authority: |_| Ok(Arc::new(Open)),
            shared: Arc::new(Shared::new(limits.clone())),
            limits,
            cores: Vec::new(),
            life: 0,
            next_core: 0,
            durable_at_once: true,
        };
        node.start(cores);
        node
    }

    fn start(&mut self, cores: usize) {
        self.life += 1;
        self.shared = Arc::new(Shared::new(self.limits.clone()));
        let store = self.log.borrow().store.clone();
        let sessions = store
            .iter()
            .filter(|(key, _)| key.starts_with(b"s/"))
            .map(|(key, record)| (key.clone(), record.clone()));
        let group_record = |text: &str| store.get(&group_key(text)).map(|r| r.to_vec());
        let ends = Positions::from_iter([(PARTITION.into(), self.log.borrow().end)]);
        let stale = restore_sessions(&self.shared, sessions, group_record, &ends, self.now);
        for key in stale {
            self.log.borrow_mut().store.remove(&key);
        }
        self.cores = (0..cores)
            .map(|n| {
                Core::new(
                    SimEventLog(Rc::clone(&self.log)),
                    Arc::clone(&self.shared),
                    n,
                )
            })
            .collect();
    }

    /// The power goes: what was not durable is lost. Then the node starts again.
    pub fn crash(&mut self) {
        self.crash_for(0);
    }

    /// As [`SimNode::crash`], but the power stays away for some time.
    pub fn crash_for(&mut self, micros: Micros) {
        self.now += micros;
        let cores = self.cores.len();
        self.cores.clear();
        {
            let mut log = self.log.borrow_mut();
            log.waiting.clear();
            log.journal.clear();
            log.reads.clear();
        }
        self.start(cores);
        self.settle();
    }

    /// The node stops properly and starts again.
    pub fn restart(&mut self) {
        let cores = self.cores.len();
        let now = self.now;
        for core in &mut self.cores {
            core.shut_down(now);
        }
        for core in 0..cores {
            let ids: Vec<ConnId> = self.cores[core].all_connections();
            for id in ids {
                self.cores[core].gone(id, now);
            }
        }
        self.durable_at_once = true;
        self.settle();
        self.start(cores);
        self.settle();
    }

    /// A client connects; cores take turns.
    pub fn open(&mut self) -> SimConn {
        let core = self.next_core % self.cores.len();
        self.next_core += 1;
        let id = match self.cores[core].open(ClientOrigin::default(), false, self.now) {
            Some(id) => id,
            None => ConnId {
                slot: u32::MAX,
                generation: 0,
            },
        };
        SimConn {
            core,
            id,
            life: self.life,
        }
    }

    /// A client's bytes arrive.
    pub fn input(&mut self, conn: SimConn, bytes: &[u8]) {
        if self.is_alive(conn) {
            self.cores[conn.core].input(conn.id, bytes, self.now);
            self.settle();
        }
    }

    /// Takes what was written to a client.
    pub fn output(&mut self, conn: SimConn) -> Vec<u8> {
        if !self.is_alive(conn) {
            return Vec::new();
        }
        let mut all = Vec::new();
        loop {
            let bytes = self.cores[conn.core].output(conn.id).to_vec();
            if bytes.is_empty() {
                return all;
            }
            self.cores[conn.core].wrote(conn.id, bytes.len());
            all.extend(bytes);
            self.settle();
        }
    }

    /// Whether a client's socket would be read.
    pub fn wants_input(&mut self, conn: SimConn) -> bool {
        self.is_alive(conn) && self.cores[conn.core].wants_input(conn.id, self.now)
    }

    /// Whether the server wants to close this connection, or has.
    pub fn is_closed(&mut self, conn: SimConn) -> bool {
        !self.is_alive(conn) || self.cores[conn.core].is_closing(conn.id)
    }

    /// The socket is closed.
    pub fn close(&mut self, conn: SimConn) {
        if self.is_alive(conn) {
            self.cores[conn.core].gone(conn.id, self.now);
            self.settle();
        }
    }

    fn is_alive(&self, conn: SimConn) -> bool {
        conn.life == self.life
    }

    /// Time passes, and the cores look at their clocks every second.
    pub fn advance(&mut self, micros: Micros) {
        let until = self.now + micros;
        while self.now < until {
            self.jump((until - self.now).min(1_000_000));
        }
    }

    /// Time passes at once: the process was halted, or somebody set the clock.
    pub fn jump(&mut self, micros: Micros) {
        self.now += micros;
        for core in &mut self.cores {
            core.tick(self.now);
        }
        self.settle();
    }

    /// What waits becomes durable.
    pub fn commit(&mut self) {
        let before = std::mem::replace(&mut self.durable_at_once, true);
        self.settle();
        self.durable_at_once = before;
    }

    /// What waits now becomes durable, but not what follows from it.
    pub fn step(&mut self) {
        self.make_durable();
        self.settle();
    }

    /// The disk can be read again, and the reads that failed are tried again.
    pub fn read_again(&mut self) {
        self.log.borrow_mut().unreadable = false;
        let reads = std::mem::take(&mut self.log.borrow_mut().reads);
        for (core, reader, partition, offset) in reads {
            self.carry_out(core, Effect::ReadDisk(reader, partition, offset));
        }
        self.settle();
    }

    /// Nothing committed so far is in memory any more.
    pub fn forget_cache(&mut self) {
        let mut log = self.log.borrow_mut();
        log.cached_from = log.end;
    }

    /// Retention takes what was committed so far.
    pub fn trim(&mut self) {
        let mut log = self.log.borrow_mut();
        log.start = log.end;
        log.chunks.clear();
    }

    /// Carries out effects until there are none.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut idle = true;
            for core in 0..self.cores.len() {
                while self.cores[core].turn(self.now) {}
                for effect in self.cores[core].take_effects() {
                    idle = false;
                    self.carry_out(core, effect);
                }
                self.cores[core].take_awake();
            }
            if self.durable_at_once {
                idle &= !self.make_durable();
            }
            if idle {
                return;
            }
        }
        panic!("the cores never come to rest");
    }

    fn make_durable(&mut self) -> bool {
        let mut any = self.log.borrow_mut().commit();
        loop {
            let Some((core, seq, changes)) = self.log.borrow_mut().journal.pop_front() else {
                return any;
            };
            any = true;
            let full = self.log.borrow().full;
            if !full {
                let store = &mut self.log.borrow_mut().store;
                for change in changes {
                    match change {
                        Change::Put(key, value) => store.insert(key, value),
                        Change::Delete(key) => store.remove(&key),
                    };
                }
            }
            self.cores[core].journalled(seq, !full, self.now);
        }
    }

    fn carry_out(&mut self, core: usize, effect: Effect) {
        match effect {
            Effect::Authenticate(id, credentials) => {
                let result = (self.authority)(&credentials);
                self.cores[core].authenticated(id, result, self.now);
            }
            Effect::Journal(seq, changes) => {
                self.log
                    .borrow_mut()
                    .journal
                    .push_back((core, seq, changes));
            }
            Effect::ReadDisk(reader, partition, offset) => {
                if self.log.borrow().unreadable {
                    let read = (core, reader, partition, offset);
                    return self.log.borrow_mut().reads.push(read);
                }
                let start = self.log.borrow().start;
                let result = match offset < start {
                    true => Err(start),
                    false => Ok(self.log.borrow().read(offset, 256)),
                };
                self.cores[core].rows_read(reader, partition, offset, result);
            }
            Effect::Post(to, message) => self.cores[to].message(message, self.now),
        }
    }
}

/// A user who may do everything.
#[derive(Clone, Debug)]
pub struct UserWithAllRights(pub String);

impl Identity for UserWithAllRights {
    fn user(&self) -> &str {
        &self.0
    }

    fn may_publish(&self, _: &str, _: &str) -> bool {
        true
    }

    fn may_subscribe(&self, _: &Filter) -> Reach {
        Reach::All
    }

    fn may_receive(&self, _: &str, _: &str) -> bool {
        true
    }

    fn is_unrestricted(&self) -> bool {
        true
    }
}

/// May publish and receive only below `open/`, half of everything else being asked topic by topic.
#[derive(Clone, Copy, Debug)]
pub struct Narrow;

impl Identity for Narrow {
    fn user(&self) -> &str {
        "narrow"
    }

    fn may_publish(&self, topic: &str, _: &str) -> bool {
        topic.starts_with("open/")
    }

    fn may_subscribe(&self, filter: &Filter) -> Reach {
        match filter.as_str() {
            f if f.starts_with("open/") => Reach::All,
            "#" => Reach::Some,
            _ => Reach::None,
        }
    }

    fn may_receive(&self, topic: &str, _: &str) -> bool {
        topic.starts_with("open/")
    }

    fn is_unrestricted(&self) -> bool {
        false
    }
}
