//! The session core of one thread: packets in, packets and effects out, time as a parameter.
//!
//! A shell drives it (`open`, `input`, `gone`, `turn`, `tick` and the answers to effects) and carries
//! out what it asks for. Nothing here does input or output, waits, or reads a clock, so tests, the
//! fuzzer and replays drive it without sockets.
//!
//! What it does not know: TCP, TLS, WebSocket, tokio, files.

mod catch_up;
mod connections;
mod deliver;
mod ending;
mod handshake;
mod inbound;
mod journal;
mod leave;
mod memory;
mod subscribe;
mod sys_topics;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use busbar_bus::{Chunk, Status};
use busbar_event::Micros;
use busbar_mqtt::{Packet, Reason, Split, packet_type};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::conn::{Conn, DiskRead, Eviction, Phase};
use crate::group::Group;
use crate::limits::{
    CLOSE_WAIT_US, HELD_BYTES_MAX, OUT_BYTES_LOW_PART, OUT_BYTES_STOP_READING, RETAINED_TASKS_MAX,
    TICK_GAP_US,
};
use crate::registry::Shared;
use crate::state::{Session, SessionId};
use busbar_gateway::ConnId;
use busbar_gateway::event_log::EventLog;
use busbar_gateway::{Admission, ClientOrigin, Identity, OutputBudget};

pub use journal::{group_key, parse_session_key, session_key};

use connections::ConnectionTable;
use deliver::{DeliveryState, PartitionReader};
use journal::Journal;
use leave::Handover;
use sys_topics::SysTopics;

/// What the core asks its worker thread to do.
pub type Effect = busbar_gateway::Effect<Reader, Message>;

/// What a read from disk is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A connection.
    Conn(ConnId),
    /// A shared subscription that reads on from its cursor.
    Group(Arc<str>),
    /// A shared subscription that reads a row which is dealt once more.
    GroupRow(Arc<str>),
}

/// A message from one core to another.
pub enum Message {
    /// Give up a session, which `conn` holds, to the connection of the eviction.
    Evict {
        /// The session.
        session: SessionId,
        /// Who holds it.
        conn: ConnId,
        /// Who wants it.
        eviction: Eviction,
    },
    /// The session that a connection waits for; `None` when it ended.
    Claimed(ConnId, Option<Box<Session>>),
    /// Rows wait in the queue of a shared subscription's member.
    Dealt,
}

/// The session core of one thread.
pub struct Core<S: EventLog> {
    /// The log.
    pub log: S,
    shared: Arc<Shared>,
    number: usize,
    conns: ConnectionTable<S::Ticket>,
    delivery: DeliveryState,
    groups: LocalGroups,
    effects: Vec<Effect>,
    journal: Journal,
    tags: Vec<(String, String)>,
    unflushed: bool,
    tally: Tally,
    waiting: OutputBudget,
    sys: SysTopics,
    handover: Handover<S::Ticket>,
    ticked: Option<Micros>,
}

/// Counts since the last turn.
#[derive(Default)]
struct Tally {
    publishes: u64,
    payload_bytes: u64,
    packets_in: u64,
    bytes_in: u64,
    packets_out: u64,
    bytes_out: u64,
}

/// The shared subscriptions with members on this core.
#[derive(Default)]
struct LocalGroups {
    local: Vec<LocalGroup>,
    /// When their records were journalled last.
    journalled_at: Micros,
}

struct LocalGroup {
    text: Arc<str>,
    group: Arc<Mutex<Group>>,
    members: Vec<ConnId>,
    saved: Vec<u8>,
}

impl<S: EventLog> Core<S> {
    /// Core `number` of those that share `shared`.
    pub fn new(log: S, shared: Arc<Shared>, number: usize) -> Core<S> {
        let mut core = Core {
            log,
            shared,
            number,
            conns: ConnectionTable::default(),
            delivery: DeliveryState::default(),
            groups: LocalGroups::default(),
            effects: Vec::new(),
            journal: Journal::default(),
            tags: Vec::new(),
            unflushed: false,
            tally: Tally::default(),
            waiting: OutputBudget::default(),
            sys: SysTopics::default(),
            handover: Handover::default(),
            ticked: None,
        };
        core.refresh_partitions();
        core
    }

    /// Adds a connection. `paced`: the listener has applied the limit of connections per second, so CONNECT is not
    /// refused for it. Slightly over the limit it is accepted, and refused in CONNACK; far over the limit
    /// the result is `None`.
    pub fn open(&mut self, origin: ClientOrigin, paced: bool, now: Micros) -> Option<ConnId> {
        let admission = self.shared.admissions.open_connection();
        if admission == Admission::Refused {
            self.shared
                .counters
                .refusals
                .fetch_add(1, Ordering::Relaxed);
            if let Some(left_out) = self.shared.ended_connections.admit(now) {
                let peer = origin.address.map(tracing::field::display);
                let most = self.shared.limits.connections_max;
                let setting = "limits.connections";
                let message = "an MQTT connection was refused: there are too many";
                tracing::warn!(peer, most, setting, left_out, "{message}");
            }
            return None;
        }
        let bytes_max = self.shared.limits.packet_bytes_max;
        let surplus = admission == Admission::Surplus;
        let open = |id| Conn {
            surplus,
            skip_rate_limit: paced,
            ..Conn::new(id, origin, bytes_max, now)
        };
        Some(self.conns.add(open))
    }

    /// Takes bytes that a client sent: decodes whole packets and keeps the rest until more arrives.
    pub fn input(&mut self, id: ConnId, mut bytes: &[u8], now: Micros) {
        let Some(conn) = self.conn(id) else { return };
        conn.heard = now;
        self.tally.bytes_in += bytes.len() as u64;
        let Some(conn) = self.conn(id) else { return };
        if !conn.partial.is_empty() {
            let mut partial = std::mem::take(&mut conn.partial);
            while !bytes.is_empty() && self.takes_packets(id) {
                let want = match self.split(id, &partial) {
                    Some(Split::Whole(_)) => 0,
                    Some(Split::Partial(Some(len))) => len - partial.len(),
                    Some(Split::Partial(None)) => 1,
                    None => return,
                };
                let (head, tail) = bytes.split_at(want.min(bytes.len()));
                partial.extend_from_slice(head);
                bytes = tail;
                let used = self.packets(id, &partial, now);
                if used > 0 {
                    self.give_room_back(id);
                }
                if used == partial.len() {
                    partial.clear();
                    break;
                }
                partial.drain(..used);
            }
            if !partial.is_empty() {
                if let Some(conn) = self.conn(id) {
                    partial.extend_from_slice(bytes);
                    conn.partial = partial;
                }
                return;
            }
            // Keep a small buffer for the next packet that arrives in parts.
            if let Some(conn) = self.conn(id)
                && partial.capacity() <= 4096
            {
                conn.partial = partial;
            }
        }
        let used = self.packets(id, bytes, now);
        if let Some(conn) = self.conn(id)
            && !matches!(conn.phase, Phase::Closing)
        {
            conn.partial.extend_from_slice(&bytes[used..]);
        }
    }

    /// Decodes what was kept while the phase did not allow it.
    fn resume_input(&mut self, id: ConnId, now: Micros) {
        let Some(conn) = self.conn(id) else { return };
        if conn.partial.is_empty() {
            return;
        }
        let mut partial = std::mem::take(&mut conn.partial);
        let used = self.packets(id, &partial, now);
        if used > 0 {
            self.give_room_back(id);
        }
        partial.drain(..used);
        if let Some(conn) = self.conn(id)
            && !matches!(conn.phase, Phase::Closing)
        {
            conn.partial = partial;
        }
    }

    /// Continues with connections whose SUBSCRIBE waited for a commit.
    fn subscribe_late(&mut self, now: Micros) {
        for id in std::mem::take(&mut self.conns.subscribing) {
            let Some(conn) = self.conn(id) else { continue };
            conn.waits_for_commit = false;
            self.resume_input(id, now);
        }
    }

    fn takes_packets(&mut self, id: ConnId) -> bool {
        self.conn(id)
            .is_some_and(|c| matches!(c.phase, Phase::Connect | Phase::Live) && !c.waits_for_commit)
    }

    fn split<'a>(&mut self, id: ConnId, bytes: &'a [u8]) -> Option<Split<'a>> {
        let conn = self.conn(id)?;
        match conn.decoder.split(bytes) {
            Ok(split) => Some(split),
            Err(refusal) => {
                self.refuse_bytes(id, refusal, bytes);
                None
            }
        }
    }

    /// Decodes whole packets from the front; returns how many bytes they took.
    fn packets(&mut self, id: ConnId, bytes: &[u8], now: Micros) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let slot = id.slot as usize;
            let Some(conn) = self.conns.slots[slot].as_mut() else {
                return bytes.len();
            };
            match conn.phase {
                Phase::Connect | Phase::Live => {}
                Phase::Closing => return bytes.len(),
                _ => return at,
            }
            let frame = match conn.decoder.split(&bytes[at..]) {
                Ok(Split::Whole(frame)) => frame,
                Ok(Split::Partial(_)) => return at,
                Err(refusal) => {
                    self.refuse_bytes(id, refusal, &bytes[at..]);
                    return bytes.len();
                }
            };
            if frame.header >> 4 == packet_type::SUBSCRIBE
                && (!conn.held.is_empty()
                    || conn
                        .last_ticket
                        .is_some_and(|ticket| self.log.status(ticket) == Status::Pending))
            {
                conn.waits_for_commit = true;
                self.conns.subscribing.push(id);
                return at;
            }
            let done = match conn.decoder.decode(frame) {
                Ok(Packet::Publish(publish)) => self.publish(id, &publish, now),
                Ok(Packet::Ack(ack)) => self.ack(id, ack, now),
                Ok(Packet::Control(control)) => self.control(id, control, now),
                Err(refusal) => Err(refusal),
            };
            self.tally.packets_in += 1;
            if let Err(refusal) = done {
                self.refuse_bytes(id, refusal, &bytes[at..]);
                return bytes.len();
            }
            at += frame.len;
        }
        at
    }

    /// The bytes to write to the socket.
    pub fn output(&self, id: ConnId) -> &[u8] {
        match self.conns.slots.get(id.slot as usize) {
            Some(Some(conn)) if conn.id == id => conn.out.writable(),
            _ => &[],
        }
    }

    /// `n` of these bytes were written.
    pub fn wrote(&mut self, id: ConnId, n: usize) {
        self.tally.bytes_out += n as u64;
        self.waiting.sub(n);
        let low = self.waiting.each_max() / OUT_BYTES_LOW_PART;
        let Some(conn) = self.conn(id) else { return };
        let before = conn.out.len();
        conn.out.wrote(n);
        if before > low && conn.out.len() <= low {
            self.pump(id);
        }
    }

    /// Whether the socket should be read.
    pub fn wants_input(&mut self, id: ConnId, now: Micros) -> bool {
        let writable = self.log.writable();
        self.conn(id).is_some_and(|c| match c.phase {
            Phase::Connect => true,
            Phase::Live => {
                writable
                    && !c.waits_for_commit
                    && c.out.len() < OUT_BYTES_STOP_READING
                    && c.held_bytes < HELD_BYTES_MAX
                    && c.retained.len() < RETAINED_TASKS_MAX
                    && !c.is_ahead(now)
            }
            _ => false,
        }) && self.has_room(id, now)
    }

    /// Whether the socket is to be closed when [`Core::output`] is empty.
    pub fn is_closing(&mut self, id: ConnId) -> bool {
        self.conn(id)
            .is_none_or(|c| matches!(c.phase, Phase::Closing))
    }

    /// Whether the server ended this connection, so that the client may still be sending.
    pub fn was_refused(&mut self, id: ConnId) -> bool {
        self.conn(id).is_some_and(|c| c.refused)
    }

    /// Connections whose tasks have something to do: output, reading again, or closing.
    pub fn take_awake(&mut self) -> Vec<ConnId> {
        self.conns.take_awake()
    }

    /// Takes the effects, to be carried out in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether a turn would find something to do.
    pub fn has_work(&self) -> bool {
        self.unflushed
            || !self.conns.pumping.is_empty()
            || self.journal.is_due()
            || !self.handover.leaving.is_empty()
    }

    /// One turn: flushes publishes, sends acknowledgements of what was committed, delivers new messages and
    /// serves lagging sessions. True when there is more to do at once.
    pub fn turn(&mut self, now: Micros) -> bool {
        if self.delivery.topology != Some(self.log.topology()) {
            self.refresh_partitions();
        }
        self.settle_leaving(now);
        self.count();
        self.log.flush();
        self.unflushed = false;
        self.settle_lost_publishes();
        self.release_acks(now);
        self.subscribe_late(now);
        let mut more = self.deliver_live(now);
        more |= self.pump_all(now);
        more |= self.deal_groups(now);
        self.journal_due(now);
        more
    }

    /// Adds what was counted to the counters of all cores.
    fn count(&mut self) {
        let counted = std::mem::take(&mut self.tally);
        let c = &self.shared.counters;
        for (n, counter) in [
            (counted.publishes, &c.publishes_in),
            (counted.payload_bytes, &c.bytes_in),
            (counted.packets_in, &c.packets_in),
            (counted.bytes_in, &c.wire_bytes_in),
            (counted.packets_out, &c.packets_out),
            (counted.bytes_out, &c.wire_bytes_out),
        ] {
            if n > 0 {
                counter.fetch_add(n, Ordering::Relaxed);
            }
        }
    }

    /// Handles what depends on time: keep-alive, missing CONNECT, delayed wills, expired sessions.
    pub fn tick(&mut self, now: Micros) {
        let wait = self.shared.limits.connect_wait_us;
        let gap = now - self.ticked.replace(now).unwrap_or(now);
        if !(0..=TICK_GAP_US).contains(&gap) {
            // The process did not run, so what clients sent may still be in the sockets.
            for conn in self.conns.slots.iter_mut().flatten() {
                conn.heard += gap;
            }
        }
        let writable = self.log.writable();
        for slot in 0..self.conns.slots.len() {
            let Some(conn) = &mut self.conns.slots[slot] else {
                continue;
            };
            if !writable
                || conn.waits_for_commit
                || conn.waits_for_room
                || conn.held_bytes >= HELD_BYTES_MAX
                || conn.is_ahead(now)
            {
                // Its socket is not read because the disk is behind, or it sent too much: the
                // silence is not the client's.
                conn.heard = now;
                conn.large_since = now;
            }
            let (id, silent) = (conn.id, now - conn.heard);
            match conn.phase {
                Phase::Closing => match conn.close_by {
                    Some(at) if now >= at => {
                        if let Some(conn) = self.conn(id) {
                            conn.out = Default::default();
                        }
                        self.wake(id);
                    }
                    Some(_) => {}
                    None => {
                        if let Some(conn) = self.conn(id) {
                            conn.close_by = Some(now + CLOSE_WAIT_US);
                        }
                    }
                },
                Phase::Live if conn.silence_us > 0 && silent > conn.silence_us => {
                    self.disconnect(id, Reason::KEEP_ALIVE_TIMEOUT, "nothing was heard in time");
                }
                Phase::Live if conn.identity.as_ref().is_some_and(|i| !i.is_current()) => {
                    self.disconnect(id, Reason::NOT_AUTHORIZED, "the login no longer holds");
                }
                Phase::Live if conn.is_too_slow(now) => {
                    self.disconnect(
                        id,
                        Reason::QUOTA_EXCEEDED,
                        "a large packet comes too slowly",
                    );
                }
                Phase::Connect if silent > wait => {
                    self.disconnect(id, Reason::MAXIMUM_CONNECT_TIME, "no CONNECT came");
                }
                _ => {}
            }
        }
        if self.number == 0 {
            self.absent_due(now);
        }
        self.measure_memory();
        self.send_sys(now);
        self.journal.lazy_is_due(now);
        self.journal_groups(now);
    }

    /// A message from another core.
    pub fn message(&mut self, message: Message, now: Micros) {
        self.settle_leaving(now);
        match message {
            Message::Evict {
                session,
                conn,
                eviction,
            } => self.evict(session, conn, eviction, now),
            Message::Claimed(id, session) => self.claimed(id, session, now),
            Message::Dealt => {}
        }
    }

    /// The result of a read from disk: rows, or the offset to continue at when the rows no longer exist.
    pub fn rows_read(
        &mut self,
        reader: Reader,
        partition: u32,
        offset: u64,
        result: Result<Vec<Chunk>, u64>,
    ) {
        match reader {
            Reader::Conn(id) => {
                if let Some(conn) = self.conn(id) {
                    conn.reading = false;
                    conn.cold = Some(DiskRead {
                        partition,
                        offset,
                        result,
                    });
                    self.pump(id);
                }
            }
            Reader::Group(text) => {
                if let Some(group) = self.shared.existing_group(&text) {
                    let round = group.lock().rows_read(&self.log, partition, result);
                    self.after_round(&text, round);
                }
            }
            Reader::GroupRow(text) => {
                if let Some(group) = self.shared.existing_group(&text) {
                    let round = group.lock().row_read(&self.log, partition, offset, result);
                    self.after_round(&text, round);
                }
            }
        }
    }

    /// Disconnects all clients because the server stops.
    pub fn shut_down(&mut self, now: Micros) {
        for slot in 0..self.conns.slots.len() {
            if let Some(id) = self.conns.slots[slot].as_ref().map(|c| c.id) {
                self.disconnect(id, Reason::SERVER_SHUTTING_DOWN, "the server stops");
            }
        }
        self.journal.lazy_now();
        self.journal_groups_now();
        self.turn(now);
    }

    /// Whether this core has to be woken by commits.
    pub fn is_watching(&self) -> bool {
        !self.groups.local.is_empty()
            || !self.conns.acking.is_empty()
            || !self.conns.subscribing.is_empty()
            || self.delivery.readers.iter().flatten().any(|f| f.wanted > 0)
    }

    /// All connections.
    pub fn all_connections(&self) -> Vec<ConnId> {
        self.conns.slots.iter().flatten().map(|c| c.id).collect()
    }

    /// Number of connections.
    pub fn connections(&self) -> usize {
        self.conns.count()
    }

    /// Whether publishes wait for their commit.
    pub fn is_waiting(&self) -> bool {
        !self.conns.acking.is_empty()
    }

    fn conn(&mut self, id: ConnId) -> Option<&mut Conn<S::Ticket>> {
        self.conns.get(id)
    }

    fn wake(&mut self, id: ConnId) {
        self.conns.wake(id);
    }

    fn pump(&mut self, id: ConnId) {
        self.conns.pump(id);
    }

    /// Updates the list of partitions.
    fn refresh_partitions(&mut self) {
        self.delivery.topology = Some(self.log.topology());
        let partitions = self.log.partitions();
        for reader in self.delivery.readers.iter_mut().flatten() {
            if let Some(info) = partitions.iter().find(|p| p.number == reader.info.number) {
                reader.info.captures = info.captures.clone();
            }
        }
        for info in partitions {
            let slot = info.number as usize;
            if self.delivery.readers.len() <= slot {
                self.delivery.readers.resize_with(slot + 1, || None);
            }
            if self.delivery.readers[slot].is_none() {
                // What a new stream already holds was committed before this core looked; sessions
                // that should see it have their own positions.
                let live = match self.delivery.index.is_empty() {
                    true => self.log.end(info.number),
                    false => self.log.start(info.number),
                };
                self.delivery.readers[slot] = Some(PartitionReader::new(info, live));
            }
        }
        self.delivery.index.touch();
        self.count_wanted();
    }

    fn may_receive(identity: &Option<Arc<dyn Identity>>, topic: &str, stream: &str) -> bool {
        identity
            .as_ref()
            .is_some_and(|i| i.may_receive(topic, stream))
    }
}

/// A map from partition names to numbers.
pub(crate) type Numbers = HashMap<Arc<str>, u32, RandomState>;
