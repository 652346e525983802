//! The session core of one thread: packets in, packets and effects out, time as a parameter.
//!
//! A shell feeds it (`open`, `input`, `gone`, `turn`, `tick` and the answers to effects) and carries
//! out what it asks for. Nothing here does input or output, waits, or reads a clock, so tests, the
//! fuzzer and replays drive it without sockets.
//!
//! What it does not know: TCP, TLS, WebSocket, tokio, files.

mod catch_up;
mod deliver;
mod handshake;
mod inbound;
mod journal;
mod leave;
mod memory;
mod subscribe;
mod tell;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use busbar_bus::{Chunk, Status};
use busbar_event::Micros;
use busbar_log::Change;
use busbar_mqtt::{
    Packet, Reason, Refusal, Split, Version, encode, packet_type, version_of_refused_connect,
};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::authorizer::{Credentials, Identity};
use crate::conn::{Cold, Conn, ConnId, Eviction, Phase};
use crate::group::Group;
use crate::index::Index;
use crate::limits::{
    CLOSE_WAIT_US, HELD_BYTES_MAX, OUT_BYTES_LOW_PART, OUT_BYTES_STOP_READING,
    REASON_STRING_BYTES_MAX, RETAINED_TASKS_MAX, TICK_GAP_US,
};
use crate::registry::{Admission, Shared};
use crate::spine::Spine;
use crate::state::Session;

pub use journal::{group_key, parse_session_key, session_key};

use deliver::{Feed, Matched};
use journal::Journal;
use memory::Waiting;

/// What the core asks its shell to do.
pub enum Effect {
    /// Ask the authority, then call [`Core::authenticated`].
    Authenticate(ConnId, Credentials),
    /// Make these changes durable, then call [`Core::journalled`] with the number. Batches are
    /// handed over in order and must become durable in order.
    Journal(u64, Vec<Change>),
    /// Read rows from disk, then call [`Core::thawed`].
    ReadCold(Reader, u32, u64),
    /// Give a message to another core (or to this one).
    Post(usize, Message),
}

/// Who wants a read from disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A connection.
    Conn(ConnId),
    /// A shared subscription.
    Group(Arc<str>),
}

/// From core to core.
pub enum Message {
    /// Give up the session of `client`, which `conn` holds, to the connection of the eviction.
    Evict {
        /// Client identifier.
        client: Arc<str>,
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
pub struct Core<S: Spine> {
    /// The log.
    pub spine: S,
    shared: Arc<Shared>,
    number: usize,
    conns: Vec<Option<Conn<S::Ticket>>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    index: Index,
    feeds: Vec<Option<Feed>>,
    topology: Option<u64>,
    groups: Vec<LocalGroup>,
    effects: Vec<Effect>,
    awake: Vec<ConnId>,
    acking: Vec<ConnId>,
    /// Connections with a SUBSCRIBE that waits for a commit.
    subscribing: Vec<ConnId>,
    pumping: Vec<ConnId>,
    journal: Journal,
    matched: Vec<Option<Rc<Matched>>>,
    tags: Vec<(String, String)>,
    properties: Vec<u8>,
    unflushed: bool,
    tally: Tally,
    waiting: Waiting,
    /// Subscriptions to the topics under `$SYS`.
    sys_subs: usize,
    /// When they were told last.
    sys_told: Micros,
    trailing: Vec<leave::Trailing<S::Ticket>>,
    leaving: Vec<leave::Leaving>,
    stash: Vec<(ConnId, Box<Session>)>,
    orphans: Vec<(ConnId, Option<Eviction>)>,
    ghosts: u32,
    ticked: Option<Micros>,
    group_journal_at: Micros,
}

/// What was counted since the last turn.
#[derive(Default)]
struct Tally {
    publishes: u64,
    payload_bytes: u64,
    packets_in: u64,
    bytes_in: u64,
    packets_out: u64,
    bytes_out: u64,
}

struct LocalGroup {
    text: Arc<str>,
    group: Arc<Mutex<Group>>,
    members: Vec<ConnId>,
    saved: Vec<u8>,
}

impl<S: Spine> Core<S> {
    /// Core `number` of those that share `shared`.
    pub fn new(spine: S, shared: Arc<Shared>, number: usize) -> Core<S> {
        let mut core = Core {
            spine,
            shared,
            number,
            conns: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            index: Index::default(),
            feeds: Vec::new(),
            topology: None,
            groups: Vec::new(),
            effects: Vec::new(),
            awake: Vec::new(),
            acking: Vec::new(),
            subscribing: Vec::new(),
            pumping: Vec::new(),
            journal: Journal::default(),
            matched: Vec::new(),
            tags: Vec::new(),
            properties: Vec::new(),
            unflushed: false,
            tally: Tally::default(),
            waiting: Waiting::default(),
            sys_subs: 0,
            sys_told: 0,
            trailing: Vec::new(),
            leaving: Vec::new(),
            stash: Vec::new(),
            orphans: Vec::new(),
            ghosts: 0,
            ticked: None,
            group_journal_at: 0,
        };
        core.look_around();
        core
    }

    /// A connection arrived. `None`: there are far too many. What is little beyond the bound is let
    /// in to be told so in answer to its CONNECT.
    pub fn open(&mut self, peer: Option<SocketAddr>, now: Micros) -> Option<ConnId> {
        let admission = self.shared.open_connection();
        if admission == Admission::Refused {
            self.shared
                .counters
                .refusals
                .fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.conns.push(None);
                self.generations.push(0);
                (self.conns.len() - 1) as u32
            }
        };
        let generation = &mut self.generations[slot as usize];
        *generation = generation.wrapping_add(1);
        let id = ConnId {
            slot,
            generation: *generation,
        };
        let bytes_max = self.shared.limits.packet_bytes_max;
        let mut conn = Conn::new(id, peer, bytes_max, now);
        conn.surplus = admission == Admission::Surplus;
        self.conns[slot as usize] = Some(conn);
        Some(id)
    }

    /// The rate of connections was seen to already: CONNECT is not refused for it.
    pub fn let_in(&mut self, id: ConnId) {
        if let Some(conn) = self.conn(id) {
            conn.let_in = true;
        }
    }

    /// Bytes arrived. All of them are taken: decoded, or kept until the rest of a packet is there.
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
            // Keep a modest buffer for the next packet that comes in pieces.
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

    /// Goes on with what clients sent where a SUBSCRIBE waited for a commit that is there now.
    fn subscribe_late(&mut self, now: Micros) {
        for id in std::mem::take(&mut self.subscribing) {
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

    /// Decodes whole packets from the front; how many bytes they took.
    fn packets(&mut self, id: ConnId, bytes: &[u8], now: Micros) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let slot = id.slot as usize;
            let Some(conn) = self.conns[slot].as_mut() else {
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
                        .is_some_and(|ticket| self.spine.status(ticket) == Status::Pending))
            {
                conn.waits_for_commit = true;
                self.subscribing.push(id);
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

    fn refuse_bytes(&mut self, id: ConnId, refusal: Refusal, bytes: &[u8]) {
        if let Some(conn) = self.conn(id)
            && matches!(conn.phase, Phase::Connect)
        {
            // The answer to a CONNECT is a CONNACK, in the version the client asked for.
            let is_connect = bytes.first() == Some(&0x10);
            match version_of_refused_connect(bytes).filter(|_| is_connect) {
                Some(version) => {
                    conn.version = version;
                    return self.refuse_connect(id, refusal.reason, refusal.detail);
                }
                None => conn.version = Version::V311,
            }
        }
        self.disconnect(id, refusal.reason, refusal.detail);
    }

    /// Tells the client why, if its version has words for it, and closes. The will goes out.
    fn disconnect(&mut self, id: ConnId, reason: Reason, detail: &str) {
        let live = self.conn(id).is_some_and(|c| c.is_live());
        let Some(conn) = self.conn(id) else { return };
        if matches!(conn.phase, Phase::Closing) {
            return;
        }
        tracing::debug!(?reason, detail, peer = ?conn.peer, "closing an MQTT connection");
        if conn.connack_gate.take().is_some() {
            // It was never told that it is connected: CONNACK says that it is not, no will is sent,
            // and a session that only began is none.
            conn.out.drop_staged();
            conn.said_goodbye = true;
            if conn.began_session
                && let Some(session) = conn.session.as_mut()
            {
                session.expiry_s = 0;
            }
            let reason = match reason.fits_connack() {
                true => reason,
                false => Reason::UNSPECIFIED_ERROR,
            };
            return self.refuse_connect(id, reason, detail);
        }
        let version = conn.version;
        let text = Some(cut(detail)).filter(|t| !t.is_empty());
        if live {
            conn.out.drop_staged();
            let bytes_max = conn.packet_out_max;
            conn.out.append(None, |out| {
                encode::disconnect(version, reason, text, bytes_max, out);
            });
        }
        conn.phase = Phase::Closing;
        conn.refused = true;
        conn.partial = Vec::new();
        self.shared
            .counters
            .refusals
            .fetch_add(1, Ordering::Relaxed);
        self.wake(id);
    }

    fn refuse_connect(&mut self, id: ConnId, reason: Reason, detail: &str) {
        let Some(conn) = self.conn(id) else { return };
        let version = conn.version;
        let text = Some(cut(detail)).filter(|t| !t.is_empty());
        let mut refusal = encode::ConnAck::refusal(reason, text);
        if refusal.packet_len(version) > conn.packet_out_max {
            refusal.reason_string = None;
        }
        if refusal.packet_len(version) <= conn.packet_out_max {
            conn.out.append(None, |out| refusal.encode(version, out));
        }
        conn.phase = Phase::Closing;
        conn.refused = true;
        conn.partial = Vec::new();
        self.shared
            .counters
            .refusals
            .fetch_add(1, Ordering::Relaxed);
        self.wake(id);
    }

    /// What may be written to the socket now.
    pub fn output(&self, id: ConnId) -> &[u8] {
        match self.conns.get(id.slot as usize) {
            Some(Some(conn)) if conn.id == id => conn.out.writable(),
            _ => &[],
        }
    }

    /// `n` bytes of it were written.
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
        let writable = self.spine.writable();
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

    /// Connections whose sockets should look at them: output, a change of appetite, or the end.
    pub fn take_awake(&mut self) -> Vec<ConnId> {
        let awake = std::mem::take(&mut self.awake);
        for id in &awake {
            if let Some(conn) = self.conn(*id) {
                conn.awake = false;
            }
        }
        awake
    }

    /// What is to be done; carry it out in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether a turn would find something to do.
    pub fn has_work(&self) -> bool {
        self.unflushed
            || !self.pumping.is_empty()
            || self.journal.is_due()
            || !self.leaving.is_empty()
    }

    /// One turn: hands publishes to the disk, releases acknowledgements, delivers what was
    /// committed, serves those that lag. True when there is more to do at once.
    pub fn turn(&mut self, now: Micros) -> bool {
        if self.topology != Some(self.spine.topology()) {
            self.look_around();
        }
        self.settle_leaving(now);
        self.count();
        self.spine.flush();
        self.unflushed = false;
        self.settle_trailing();
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

    /// Looks at the clocks: silence, slow starters, wills and sessions whose time has come.
    pub fn tick(&mut self, now: Micros) {
        let wait = self.shared.limits.connect_wait_us;
        let gap = now - self.ticked.replace(now).unwrap_or(now);
        if !(0..=TICK_GAP_US).contains(&gap) {
            // Nobody was listening meanwhile; what clients sent may still wait in their sockets.
            for conn in self.conns.iter_mut().flatten() {
                conn.heard += gap;
            }
        }
        let writable = self.spine.writable();
        for slot in 0..self.conns.len() {
            let Some(conn) = &mut self.conns[slot] else {
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
        self.look_at_memory();
        self.tell_sys(now);
        self.journal.lazy_is_due(now);
        self.journal_groups(now);
    }

    /// A message from another core.
    pub fn message(&mut self, message: Message, now: Micros) {
        self.settle_leaving(now);
        match message {
            Message::Evict {
                client,
                conn,
                eviction,
            } => self.evict(client, conn, eviction, now),
            Message::Claimed(id, session) => self.claimed(id, session, now),
            Message::Dealt => {}
        }
    }

    /// What a read from disk brought: rows, or where to go on when what was there is gone.
    pub fn thawed(
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
                    conn.cold = Some(Cold {
                        partition,
                        offset,
                        result,
                    });
                    self.pump(id);
                }
            }
            Reader::Group(text) => {
                if let Some(group) = self.shared.existing_group(&text) {
                    let round = group.lock().thawed(&self.spine, partition, result);
                    self.after_round(&text, round);
                }
            }
        }
    }

    /// Says goodbye to everybody: the server stops.
    pub fn shut_down(&mut self, now: Micros) {
        for slot in 0..self.conns.len() {
            if let Some(id) = self.conns[slot].as_ref().map(|c| c.id) {
                self.disconnect(id, Reason::SERVER_SHUTTING_DOWN, "the server stops");
            }
        }
        self.journal.lazy_now();
        self.journal_groups_now();
        self.turn(now);
    }

    /// Whether what others commit concerns this core.
    pub fn is_watching(&self) -> bool {
        !self.groups.is_empty()
            || !self.acking.is_empty()
            || !self.subscribing.is_empty()
            || self.feeds.iter().flatten().any(|f| f.wanted > 0)
    }

    /// The connections themselves.
    pub fn all_connections(&self) -> Vec<ConnId> {
        self.conns.iter().flatten().map(|c| c.id).collect()
    }

    /// Connections of this core.
    pub fn connections(&self) -> usize {
        self.conns.len() - self.free.len()
    }

    /// Whether publishes wait for their commit.
    pub fn is_waiting(&self) -> bool {
        !self.acking.is_empty()
    }

    fn conn(&mut self, id: ConnId) -> Option<&mut Conn<S::Ticket>> {
        match self.conns.get_mut(id.slot as usize) {
            Some(Some(conn)) if conn.id == id => Some(conn),
            _ => None,
        }
    }

    fn wake(&mut self, id: ConnId) {
        if let Some(Some(conn)) = self.conns.get_mut(id.slot as usize)
            && !conn.awake
        {
            conn.awake = true;
            self.awake.push(id);
        }
    }

    fn pump(&mut self, id: ConnId) {
        if let Some(Some(conn)) = self.conns.get_mut(id.slot as usize)
            && !conn.pumping
        {
            conn.pumping = true;
            self.pumping.push(id);
        }
    }

    /// Learns which partitions there are.
    fn look_around(&mut self) {
        self.topology = Some(self.spine.topology());
        let partitions = self.spine.partitions();
        for feed in self.feeds.iter_mut().flatten() {
            if let Some(info) = partitions.iter().find(|p| p.number == feed.info.number) {
                feed.info.captures = info.captures.clone();
            }
        }
        for info in partitions {
            let slot = info.number as usize;
            if self.feeds.len() <= slot {
                self.feeds.resize_with(slot + 1, || None);
            }
            if self.feeds[slot].is_none() {
                // What a new stream already holds was committed before this core looked; sessions
                // that should see it have their own positions.
                let live = match self.index.is_empty() {
                    true => self.spine.end(info.number),
                    false => self.spine.start(info.number),
                };
                self.feeds[slot] = Some(Feed::new(info, live));
            }
        }
        self.index.touch();
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

fn cut(text: &str) -> &str {
    match text
        .char_indices()
        .find(|(at, _)| *at >= REASON_STRING_BYTES_MAX)
    {
        Some((at, _)) => &text[..at],
        None => text,
    }
}
