//! The sessions of AMQP 0-9-1 and 1.0 on one thread: bytes in, bytes and effects out, time as a parameter.
//!
//! One thread serves all AMQP connections: exchanges, bindings and queues belong to it alone, so nothing is
//! locked and nothing is sent between threads for a message. Nothing here does input or output, waits, or
//! reads a clock.

mod auth;
mod channel;
mod connection;
mod consume;
mod dead;
mod declare;
mod delete;
mod deliver;
mod ending;
mod journal;
mod live;
mod publish;
mod settle;
mod v1;

use std::rc::Rc;
use std::sync::Arc;

use busbar_bus::Chunk;
use busbar_event::Micros;
use busbar_gateway::limits::{OUT_BYTES_LOW_PART, OUT_BYTES_STOP_READING};
use busbar_gateway::{
    Admission, Admissions, ClientOrigin, ConnId, Effect, EventLog, OutputBudget, Throttle,
};
use hashbrown::HashMap;

use crate::codec::frame::{self, PROTOCOL_HEADER, kind};
use crate::codec::{ClientMethod, Framed, RawFrame, encode};
use crate::counters::AmqpCounters;
use crate::fault::AmqpFault;
use crate::graph::{QueueIndex, VirtualHost};
use crate::limits::AmqpLimits;
use crate::marks::Marks;
use crate::message::OwnedTags;
use crate::queue::{AmqpQueue, RowId};
use crate::record::PartitionNames;
use crate::v1::{SASL_HEADER, V1_HEADER};

use channel::Channel;
use connection::{AmqpConn, ConnStage};
use dead::Dying;
use journal::BrokerJournal;

/// What a read from disk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerRead {
    /// Rows that are looked at for the first time.
    Live,
    /// Rows for a queue that is behind, by its index and number.
    Behind(QueueIndex, u64),
    /// A row that a queue delivers, or dead-letters, once more.
    Again(QueueIndex, u64, RowId),
}

/// Effects of the broker. It has one thread, so threads tell each other nothing.
pub type BrokerEffect = Effect<BrokerRead, ()>;

/// The connections, exchanges and queues.
pub struct Broker<S: EventLog> {
    /// The log.
    pub log: S,
    limits: AmqpLimits,
    admissions: Arc<Admissions>,
    counters: Arc<AmqpCounters>,
    conns: Vec<Option<Box<AmqpConn<S::Ticket>>>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    hosts: Vec<VirtualHost>,
    host_of_prefix: HashMap<String, usize>,
    queues: Vec<Option<Box<AmqpQueue>>>,
    free_queues: Vec<QueueIndex>,
    queue_count: usize,
    /// How many of them refuse publishes that they have no room for.
    rejecting: usize,
    /// Queues in which time alone makes something happen.
    timed: Vec<QueueIndex>,
    /// Queues that have something to do.
    active: Vec<QueueIndex>,
    live: Marks,
    live_reads: Vec<u32>,
    names: PartitionNames,
    topology: Option<u64>,
    /// Channels with publishes that are not settled.
    publishing: Vec<(ConnId, u16)>,
    /// Connections whose input waits for their publishes to be settled, or for a row to be read.
    waiting: Vec<ConnId>,
    /// Dead-lettered rows whose copies are not committed yet.
    dying: Vec<Dying<S::Ticket>>,
    /// Publishes to queues that refuse what they have no room for, until they are settled.
    on_the_way: Vec<(S::Ticket, QueueIndex, u64)>,
    journal: BrokerJournal,
    output_budget: OutputBudget,
    /// Bounds what is logged about connections that are ended.
    ended_connections: Throttle,
    effects: Vec<BrokerEffect>,
    awake: Vec<ConnId>,
    next_number: u64,
    next_binding: u64,
    names_seed: foldhash::fast::RandomState,
    journalled_live: Marks,
    reads_left: usize,
    unflushed: bool,
    more: bool,
    stopped_since: Option<Micros>,
    stopping: bool,
    topic: String,
    tags: OwnedTags,
    properties: Vec<u8>,
}

impl<S: EventLog> Broker<S> {
    /// Without connections; the queues are those of `records`.
    pub fn new(
        log: S,
        limits: AmqpLimits,
        admissions: Arc<Admissions>,
        counters: Arc<AmqpCounters>,
        records: impl IntoIterator<Item = (bytes::Bytes, bytes::Bytes)>,
        now: Micros,
    ) -> Broker<S> {
        let mut broker = Broker {
            log,
            limits,
            admissions,
            counters,
            conns: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            hosts: Vec::new(),
            host_of_prefix: HashMap::new(),
            queues: Vec::new(),
            free_queues: Vec::new(),
            queue_count: 0,
            rejecting: 0,
            timed: Vec::new(),
            active: Vec::new(),
            live: Marks::default(),
            live_reads: Vec::new(),
            names: PartitionNames::default(),
            topology: None,
            publishing: Vec::new(),
            waiting: Vec::new(),
            dying: Vec::new(),
            on_the_way: Vec::new(),
            journal: BrokerJournal::default(),
            output_budget: OutputBudget::default(),
            ended_connections: Throttle::default(),
            effects: Vec::new(),
            awake: Vec::new(),
            next_number: 1,
            next_binding: 0,
            names_seed: foldhash::fast::RandomState::default(),
            journalled_live: Marks::default(),
            reads_left: 0,
            unflushed: false,
            more: false,
            stopped_since: None,
            stopping: false,
            topic: String::new(),
            tags: Vec::new(),
            properties: Vec::new(),
        };
        broker.refresh_partitions();
        broker.restore(records, now);
        broker
    }

    /// Adds a connection; `None` refuses it without an answer.
    pub fn open(&mut self, origin: ClientOrigin, paced: bool, now: Micros) -> Option<ConnId> {
        let admission = self.admissions.open_connection();
        if admission == Admission::Refused {
            self.counters.refusals.add(1);
            self.log_surplus(&origin, now);
            return None;
        }
        let surplus = admission == Admission::Surplus
            || self.stopping
            || !(paced || self.admissions.within_rate(now));
        let slot = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.generations.push(0);
            (self.conns.len() - 1) as u32
        });
        let id = ConnId {
            slot,
            generation: self.generations[slot as usize],
        };
        self.conns[slot as usize] = Some(Box::new(AmqpConn::new(id, origin, surplus, now)));
        Some(id)
    }

    #[inline]
    fn conn(&mut self, id: ConnId) -> Option<&mut AmqpConn<S::Ticket>> {
        match self.conns.get_mut(id.slot as usize) {
            Some(Some(conn)) if conn.id == id => Some(conn),
            _ => None,
        }
    }

    #[inline]
    fn channel(&mut self, id: ConnId, number: u16) -> Option<&mut Channel<S::Ticket>> {
        self.conn(id)?.channels.get_mut(&number)
    }

    /// Takes bytes that a client sent: handles whole frames and keeps the rest until more arrives.
    pub fn input(&mut self, id: ConnId, bytes: &[u8], now: Micros) {
        let Some(conn) = self.conn(id) else { return };
        conn.heard = now;
        if conn.partial.is_empty() {
            let used = self.frames(id, bytes, now);
            if let Some(conn) = self.conn(id) {
                conn.partial.extend_from_slice(&bytes[used..]);
            }
            return;
        }
        conn.partial.extend_from_slice(bytes);
        self.resume_input(id, now);
    }

    /// Handles what was kept.
    fn resume_input(&mut self, id: ConnId, now: Micros) {
        let Some(conn) = self.conn(id) else { return };
        if conn.partial.is_empty() {
            return;
        }
        let mut partial = std::mem::take(&mut conn.partial);
        let used = self.frames(id, &partial, now);
        if let Some(conn) = self.conn(id) {
            partial.drain(..used);
            if partial.is_empty() && partial.capacity() > 4096 {
                partial = Vec::new();
            }
            conn.partial = partial;
        }
    }

    /// Handles whole frames from the front; returns how many bytes they took.
    fn frames(&mut self, id: ConnId, bytes: &[u8], now: Micros) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let Some(conn) = self.conn(id) else {
                return bytes.len();
            };
            if conn.stage == ConnStage::Done {
                return bytes.len();
            }
            if conn.stage == ConnStage::Header {
                let after_sasl = conn.v1.is_some();
                let headers: &[&[u8; 8]] = match after_sasl {
                    true => &[V1_HEADER],
                    false => &[PROTOCOL_HEADER, V1_HEADER, SASL_HEADER],
                };
                let begun = &bytes[at..bytes.len().min(at + 8)];
                if !headers.iter().any(|header| header.starts_with(begun)) {
                    self.refuse_header(id, now);
                    return bytes.len();
                }
                if begun.len() < 8 {
                    return at;
                }
                at += 8;
                match begun {
                    begun if begun == V1_HEADER => self.v1_begin(id),
                    begun if begun == SASL_HEADER => self.v1_begin_sasl(id),
                    _ => self.start(id),
                }
                continue;
            }
            if conn.waits {
                return at;
            }
            if conn.v1.is_some() {
                match self.v1_input(id, &bytes[at..], now) {
                    Some(len) => at += len,
                    None => return at,
                }
                continue;
            }
            let (frame, len) = match frame::split(&bytes[at..], conn.frame_bytes_max) {
                Ok(Framed::Whole(frame, len)) => (frame, len),
                Ok(Framed::Partial(_)) => return at,
                Err(fault) => {
                    self.fail(id, 0, fault, now);
                    return bytes.len();
                }
            };
            if frame.kind == kind::METHOD && frame.channel > 0 && self.must_wait(id, frame.payload)
            {
                return at;
            }
            if let Err(fault) = self.frame(id, frame, now) {
                self.fail(id, frame.channel, fault, now);
            }
            at += len;
        }
        at
    }

    fn frame(&mut self, id: ConnId, frame: RawFrame<'_>, now: Micros) -> Result<(), AmqpFault> {
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        if conn.stage == ConnStage::Closing {
            if frame.kind == kind::METHOD && frame.channel == 0 {
                match ClientMethod::decode(frame.payload) {
                    Ok((_, ClientMethod::CloseOk)) => self.finish(id),
                    Ok((_, ClientMethod::Close)) => self.answer_close(id),
                    _ => {}
                }
            }
            return Ok(());
        }
        if frame.kind == kind::HEARTBEAT {
            return match frame.channel {
                0 => Ok(()),
                _ => Err(AmqpFault::frame("a heartbeat on a channel other than 0")),
            };
        }
        if frame.channel == 0 {
            if frame.kind != kind::METHOD {
                return Err(AmqpFault::unexpected_frame("a content on channel 0"));
            }
            let (method_id, method) = ClientMethod::decode(frame.payload)?;
            let done = self.connection_method(id, method, now);
            return done.map_err(|fault| fault.of(method_id));
        }
        if conn.stage != ConnStage::Live {
            return Err(AmqpFault::command_invalid("the connection is not open"));
        }
        if let Some(channel) = conn.channels.get(&frame.channel)
            && channel.closing
        {
            if frame.kind == kind::METHOD {
                match ClientMethod::decode(frame.payload) {
                    Ok((_, ClientMethod::ChannelCloseOk)) => {
                        conn.channels.remove(&frame.channel);
                    }
                    Ok((_, ClientMethod::ChannelClose)) => {
                        conn.channels.remove(&frame.channel);
                        let close_ok = crate::codec::method::id::CHANNEL_CLOSE_OK;
                        self.send(id, |out| encode::bare(close_ok, frame.channel, out));
                    }
                    _ => {}
                }
            }
            return Ok(());
        }
        match frame.kind {
            kind::METHOD => {
                let (method_id, method) = ClientMethod::decode(frame.payload)?;
                let done = self.channel_method(id, frame.channel, method_id, method, now);
                done.map_err(|fault| fault.of(method_id))
            }
            kind::HEADER => self.content_header(id, frame.channel, frame.payload, now),
            _ => self.content_body(id, frame.channel, frame.payload, now),
        }
    }

    /// Appends to the output of a connection.
    fn send(&mut self, id: ConnId, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(conn) = self.conn(id) {
            conn.out.append(None, write);
            self.wake(id);
        }
    }

    /// Appends an answer that may not leave before the changes of this turn are durable, if `durable`.
    fn answer(&mut self, id: ConnId, durable: bool, write: impl FnOnce(&mut Vec<u8>)) {
        let gate = durable.then(|| self.journal.gate_on_next(id));
        if let Some(conn) = self.conn(id) {
            conn.out.append(gate, write);
            self.wake(id);
        }
    }

    #[inline]
    fn wake(&mut self, id: ConnId) {
        if let Some(conn) = self.conn(id)
            && !std::mem::replace(&mut conn.woken, true)
        {
            self.awake.push(id);
        }
    }

    /// The bytes to write to the socket.
    pub fn output(&self, id: ConnId) -> &[u8] {
        match self.conns.get(id.slot as usize) {
            Some(Some(conn)) if conn.id == id => conn.out.writable(),
            _ => &[],
        }
    }

    /// How many bytes wait for the socket of a connection.
    pub fn waiting_bytes(&self, id: ConnId) -> usize {
        match self.conns.get(id.slot as usize) {
            Some(Some(conn)) if conn.id == id => conn.out.len(),
            _ => 0,
        }
    }

    /// `n` of these bytes were written.
    pub fn wrote(&mut self, id: ConnId, n: usize) {
        self.output_budget.sub(n);
        let low = self.output_budget.each_max() / OUT_BYTES_LOW_PART;
        let Some(conn) = self.conn(id) else { return };
        conn.out.wrote(n);
        conn.wrote = true;
        if conn.throttled && conn.out.len() <= low {
            conn.throttled = false;
            self.activate_consumed(id);
        }
    }

    /// Whether the socket should be read.
    pub fn wants_input(&mut self, id: ConnId, _: Micros) -> bool {
        let writable = self.log.writable();
        self.conn(id).is_some_and(|conn| {
            !conn.waits
                && conn.out.len() < OUT_BYTES_STOP_READING
                && (writable || conn.stage != ConnStage::Live)
        })
    }

    /// Whether the socket is to be closed when the output is empty.
    pub fn is_closing(&mut self, id: ConnId) -> bool {
        self.conn(id)
            .is_none_or(|conn| conn.stage == ConnStage::Done)
    }

    /// Whether the client may still be sending when the socket is closed.
    pub fn was_refused(&mut self, id: ConnId) -> bool {
        self.conn(id).is_some_and(|conn| conn.refused)
    }

    /// Connections whose sockets have something to do.
    pub fn take_awake(&mut self) -> Vec<ConnId> {
        let awake = std::mem::take(&mut self.awake);
        for id in &awake {
            if let Some(conn) = self.conn(*id) {
                conn.woken = false;
            }
        }
        awake
    }

    /// What is to be done.
    pub fn take_effects(&mut self) -> Vec<BrokerEffect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether a turn would find something to do.
    pub fn has_work(&self) -> bool {
        self.unflushed || !self.active.is_empty() || self.journal.is_due() || self.more
    }

    /// Whether the thread has to be woken when a partition grows.
    pub fn is_watching(&self) -> bool {
        self.queue_count > 0
    }

    /// Number of connections.
    pub fn connections(&self) -> usize {
        self.conns.len() - self.free.len()
    }

    /// Flushes publishes, confirms what was committed, delivers. True when there is more to do at once.
    pub fn turn(&mut self, now: Micros) -> bool {
        self.more = false;
        self.reads_left = crate::limits::CATCH_UP_READS_PER_TURN;
        self.settle(now);
        self.run_live();
        self.pump_active(now);
        // What was gathered while a batch was on its way goes when that is settled: this turn may be the one.
        self.unflushed = false;
        self.log.flush();
        self.resume_waiting(now);
        self.journal_due(now);
        self.has_work()
    }

    /// Rows were read from disk, or are gone up to the offset at which reading goes on.
    pub fn rows_read(
        &mut self,
        reader: BrokerRead,
        partition: u32,
        offset: u64,
        result: Result<Vec<Chunk>, u64>,
    ) {
        match reader {
            BrokerRead::Live => self.live_read(partition, offset, result),
            BrokerRead::Behind(index, number) => {
                self.behind_read(index, number, partition, offset, result);
            }
            BrokerRead::Again(index, number, row) => self.again_read(index, number, row, result),
        }
    }

    fn queue(&mut self, index: QueueIndex) -> Option<&mut AmqpQueue> {
        self.queues.get_mut(index as usize)?.as_deref_mut()
    }

    /// Has a queue looked at in the next turn.
    fn activate(&mut self, index: QueueIndex) {
        if let Some(Some(queue)) = self.queues.get_mut(index as usize)
            && !std::mem::replace(&mut queue.active, true)
        {
            self.active.push(index);
        }
    }

    /// The queues that a row reaches in a virtual host.
    fn queues_of(
        &mut self,
        host: usize,
        (partition, offset): RowId,
        batch: &busbar_event::Batch,
        row: usize,
    ) -> Rc<[QueueIndex]> {
        live::queues_of(&mut self.hosts[host], (partition, offset), batch, row)
    }
}
