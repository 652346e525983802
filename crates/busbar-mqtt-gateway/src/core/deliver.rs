//! From the log to clients: a committed frame is looked at once, each distinct topic in it is
//! matched once, and rows are encoded straight into the output buffers.

use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array as _, UInt32Array};
use busbar_bus::Chunk;
use busbar_event::topic::{Filter, Separator};
use busbar_event::{Batch, Flags, Micros};
use busbar_mqtt::property::{Writer, id as property};
use busbar_mqtt::{PublishOut, Version};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::conn::{Conn, Lag};
use crate::limits::{
    LIVE_READ_BYTES, LIVE_ROWS_PER_TURN, MATCH_CACHE_TOPICS_MAX, RETAINED_IN_FLIGHT_BYTES_MAX,
};
use crate::message::{is_expired, write_row_properties};
use crate::state::{InFlight, Source};
use busbar_gateway::ConnId;
use busbar_gateway::Reach;
use busbar_gateway::event_log::{EventLog, PartitionInfo};
use busbar_gateway::index::{Index, SubRef};

use super::Core;
use super::journal::Journal;
use busbar_gateway::OutputBudget;

/// What a core delivers from: its place in each partition, and who subscribes to what.
#[derive(Default)]
pub(super) struct DeliveryState {
    /// Subscriptions of this core.
    pub index: Index,
    /// This core's position in each partition, by the partition's number.
    pub readers: Vec<Option<PartitionReader>>,
    /// The set of partitions that `readers` was made for.
    pub topology: Option<u64>,
    /// Who gets the topics of a frame; kept for its memory.
    pub matched: Vec<Option<Rc<Matched>>>,
    /// Properties of a message; kept for its memory.
    pub properties: Vec<u8>,
}

/// A core's live position in a partition.
pub(super) struct PartitionReader {
    pub info: PartitionInfo,
    /// Next offset to be looked at.
    pub live: u64,
    /// Subscriptions of this core that may match something here.
    pub wanted: usize,
    cache: HashMap<Box<str>, Option<Rc<Matched>>, RandomState>,
    epoch: u64,
}

impl PartitionReader {
    pub fn new(info: PartitionInfo, live: u64) -> PartitionReader {
        PartitionReader {
            info,
            live,
            wanted: 0,
            cache: HashMap::default(),
            epoch: 0,
        }
    }
}

/// Who gets a topic.
pub(super) struct Matched {
    targets: Box<[Target]>,
}

/// What one connection's subscriptions to a topic come to.
pub(super) struct Target {
    conn: u32,
    grant: Grant,
    /// From this offset on the grant holds for every row; before, and for the client's own messages
    /// under no-local, the subscriptions are asked one by one.
    since: u64,
    no_local: bool,
    subs: Box<[u32]>,
}

/// How a row is to be sent.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub qos: u8,
    pub retain_as_published: bool,
    /// Sent from the retained values: the retain flag is set whatever the options say.
    pub retained: bool,
    pub ids: Box<[u32]>,
    /// What stands between the levels of the topic, if not `/`.
    pub separator: Option<Separator>,
}

/// Where a row is.
pub(super) struct RowAt<'a> {
    pub partition: &'a Arc<str>,
    pub offset: u64,
    pub batch: &'a Batch,
    pub row: usize,
    pub payload: &'a [u8],
    /// Whether it may have been sent before the node was killed.
    pub maybe_sent: bool,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// Sent, or to be skipped.
    Done,
    /// The client can take no more for now.
    Full,
}

/// What sending needs besides the connection.
pub(super) struct Sender<'a> {
    pub journal: &'a mut Journal,
    pub properties: &'a mut Vec<u8>,
    pub now: Micros,
    pub waiting: &'a mut OutputBudget,
    pub sent: u64,
    pub sent_bytes: u64,
    pub expired: u64,
    pub too_large: u64,
}

/// What was sent, and what was not.
pub(super) struct Counts {
    sent: u64,
    sent_bytes: u64,
    expired: u64,
    too_large: u64,
}

impl Target {
    /// What `subs` of a connection come to for a topic in a partition.
    pub fn new<T>(
        conn: &Conn<T>,
        subs: impl Iterator<Item = u32>,
        info: &PartitionInfo,
        topic: &str,
    ) -> Option<Target> {
        let session = conn.session.as_ref()?;
        let mut kept = Vec::new();
        let (mut since, mut no_local) = (0, false);
        for slot in subs {
            let Some(Some(sub)) = session.subs.get(slot as usize) else {
                continue;
            };
            let allowed = match sub.reach {
                Reach::All => true,
                Reach::None => false,
                Reach::Some => conn
                    .identity
                    .as_ref()
                    .is_some_and(|i| i.may_receive(topic, &info.stream)),
            };
            if allowed {
                kept.push(slot);
                since = since.max(sub.since.get(&info.name).copied().unwrap_or(0));
                no_local |= sub.options.no_local;
            }
        }
        if kept.is_empty() {
            return None;
        }
        let floors = conn.from.iter().chain(&conn.qos0_from);
        for (partition, at) in floors {
            if *partition == info.number {
                since = since.max(*at);
            }
        }
        let grant = merge(conn, &kept)?;
        Some(Target {
            conn: conn.id.slot,
            grant,
            since,
            no_local,
            subs: kept.into(),
        })
    }

    /// The grant for one row, asking the subscriptions one by one.
    fn grant_slowly<T>(
        &self,
        conn: &Conn<T>,
        info: &PartitionInfo,
        offset: u64,
        batch: &Batch,
        row: usize,
    ) -> Option<Grant> {
        let floor = |list: &[(u32, u64)]| {
            list.iter()
                .find(|(p, _)| *p == info.number)
                .map_or(0, |(_, at)| *at)
        };
        if offset < floor(&conn.from) {
            return None;
        }
        let session = conn.session.as_ref()?;
        let own = batch.client(row) == Some(&*session.client);
        let kept: Vec<u32> = self
            .subs
            .iter()
            .copied()
            .filter(|slot| {
                let Some(Some(sub)) = session.subs.get(*slot as usize) else {
                    return false;
                };
                let since = sub.since.get(&info.name).copied().unwrap_or(0);
                offset >= since && !(own && sub.options.no_local)
            })
            .collect();
        let grant = merge(conn, &kept)?;
        let qos = grant.qos.min(Flags(batch.flags()[row]).qos());
        if qos == 0 && offset < floor(&conn.qos0_from) {
            return None;
        }
        Some(grant)
    }

    /// Sends a row to its connection as far as its subscriptions grant it.
    pub fn offer<T>(
        &self,
        conn: &mut Conn<T>,
        info: &PartitionInfo,
        at: &RowAt<'_>,
        sender: &mut Sender<'_>,
    ) -> Given {
        if at.offset >= self.since && !self.no_local {
            return sender.give(conn, at, &self.grant, None);
        }
        match self.grant_slowly(conn, info, at.offset, at.batch, at.row) {
            Some(grant) => sender.give(conn, at, &grant, None),
            None => Given::Done,
        }
    }
}

fn merge<T>(conn: &Conn<T>, subs: &[u32]) -> Option<Grant> {
    let session = conn.session.as_ref()?;
    let mut grant: Option<Grant> = None;
    let mut ids = Vec::new();
    for slot in subs {
        let Some(Some(sub)) = session.subs.get(*slot as usize) else {
            continue;
        };
        if sub.id > 0 && !ids.contains(&sub.id) {
            ids.push(sub.id);
        }
        let o = &sub.options;
        let g = grant.get_or_insert(Grant {
            qos: 0,
            retain_as_published: false,
            retained: false,
            ids: Box::default(),
            separator: sub.separator(),
        });
        // Where subscriptions differ, the topic is sent as it is.
        let separator = sub.separator();
        g.separator = g.separator.filter(|known| separator == Some(*known));
        g.qos = g.qos.max(o.qos);
        g.retain_as_published |= o.retain_as_published;
    }
    let mut grant = grant?;
    grant.ids = ids.into();
    Some(grant)
}

impl<'a> Sender<'a> {
    /// One that has sent nothing yet.
    pub fn new(
        journal: &'a mut Journal,
        properties: &'a mut Vec<u8>,
        waiting: &'a mut OutputBudget,
        now: Micros,
    ) -> Sender<'a> {
        Sender {
            journal,
            properties,
            waiting,
            now,
            sent: 0,
            sent_bytes: 0,
            expired: 0,
            too_large: 0,
        }
    }

    /// What it did.
    pub fn counts(&self) -> Counts {
        Counts {
            sent: self.sent,
            sent_bytes: self.sent_bytes,
            expired: self.expired,
            too_large: self.too_large,
        }
    }

    /// Sends a row to a connection, if it has room.
    #[inline]
    pub fn give<T>(
        &mut self,
        conn: &mut Conn<T>,
        at: &RowAt<'_>,
        grant: &Grant,
        group: Option<&Arc<str>>,
    ) -> Given {
        let flags = Flags(at.batch.flags()[at.row]);
        let qos = grant.qos.min(flags.qos());
        if conn.out.len() >= self.waiting.each_max() || !conn.resend.is_empty() && !grant.retained {
            return Given::Full;
        }
        if qos > 0 && conn.sent >= conn.window {
            return Given::Full;
        }
        if flags.reserved_tags() && is_expired(at.batch, at.row, self.now) {
            self.expired += 1;
            return Given::Done;
        }
        let Some(session) = conn.session.as_mut() else {
            return Given::Done;
        };
        if qos > 0
            && grant.retained
            && session.own_bytes > 0
            && session.own_bytes + at.payload.len() > RETAINED_IN_FLIGHT_BYTES_MAX
        {
            return Given::Full;
        }
        let packet_id = if qos > 0 { session.take_id() } else { 0 };
        if !self.send(conn, at, grant, qos, packet_id, at.maybe_sent && qos == 1) {
            self.too_large += 1;
            return Given::Done;
        }
        if qos > 0 {
            let source = match grant.retained {
                true => Source::Own(at.batch.take(&UInt32Array::from(vec![at.row as u32]))),
                false => Source::Log(Arc::clone(at.partition), at.offset),
            };
            if let Some(session) = conn.session.as_mut() {
                let order = session.next_order;
                session.next_order += 1;
                let group = group.cloned();
                let flight = InFlight {
                    order,
                    qos,
                    released: false,
                    source,
                    group,
                };
                session.add_in_flight(packet_id, flight);
            }
            conn.sent += 1;
            self.journal.lazily(conn);
        }
        Given::Done
    }

    /// Encodes a PUBLISH into the connection's output; false when it is too large for the client.
    #[inline]
    pub fn send<T>(
        &mut self,
        conn: &mut Conn<T>,
        at: &RowAt<'_>,
        grant: &Grant,
        qos: u8,
        packet_id: u16,
        dup: bool,
    ) -> bool {
        let flags = Flags(at.batch.flags()[at.row]);
        let topic = at.batch.topic(at.row);
        self.properties.clear();
        let v5 = conn.version == Version::V5;
        if v5 && (at.batch.has_tags() || flags.utf8() || !grant.ids.is_empty()) {
            write_row_properties(at.batch, at.row, self.now, self.properties);
            for id in &grant.ids {
                Writer(self.properties).variable(property::SUBSCRIPTION_ID, *id);
            }
        }
        let retain = grant.retained || grant.retain_as_published && flags.retain();
        let spelled = grant.separator.map(|separator| separator.outward(topic));
        // A topic that cannot be written so is sent as it is.
        let spelled = spelled.and_then(Result::ok);
        let whole_topic = spelled.as_deref().unwrap_or(topic).as_bytes();
        let aliased = v5 && conn.aliases_out_max > 0 && spelled.is_none();
        let known = match aliased {
            true => conn.aliases_out.get(topic).copied(),
            false => None,
        };
        // A new alias is said together with the topic, and costs three bytes once.
        let room = usize::from(conn.aliases_out_max) > conn.aliases_out.len();
        let mut new =
            (aliased && room && known.is_none()).then(|| conn.aliases_out.len() as u16 + 1);
        let plain = self.properties.len();
        if let Some(alias) = known.or(new) {
            Writer(self.properties).two(property::TOPIC_ALIAS, alias);
        }
        let mut topic_bytes: &[u8] = if known.is_some() { &[] } else { whole_topic };
        if conn.packet_out_max != usize::MAX {
            let payload = at.payload;
            let fits = |topic, properties: &[u8]| {
                let packet = PublishOut {
                    dup,
                    qos,
                    retain,
                    topic,
                    packet_id,
                    properties,
                    payload,
                };
                packet.packet_len(conn.version) <= conn.packet_out_max
            };
            if !fits(topic_bytes, self.properties) {
                // Which of the two forms is the shorter one depends on the topic.
                if !fits(whole_topic, &self.properties[..plain]) {
                    return false;
                }
                self.properties.truncate(plain);
                topic_bytes = whole_topic;
                new = None;
            }
        }
        if let Some(alias) = new {
            conn.aliases_out.insert(topic.into(), alias);
        }
        let gate = if qos == 2 {
            self.journal.gate(conn)
        } else {
            None
        };
        let packet = PublishOut {
            dup,
            qos,
            retain,
            topic: topic_bytes,
            packet_id,
            properties: self.properties,
            payload: at.payload,
        };
        let version = conn.version;
        let before = conn.out.len();
        conn.out.append(gate, |out| packet.encode(version, out));
        self.waiting.add(conn.out.len() - before);
        self.sent += 1;
        self.sent_bytes += at.payload.len() as u64;
        true
    }
}

impl<S: EventLog> Core<S> {
    /// Delivers what was committed since the last turn. True when there is more.
    pub(super) fn deliver_live(&mut self, now: Micros) -> bool {
        let mut rows = 0;
        for slot in 0..self.delivery.readers.len() {
            let Some(reader) = &mut self.delivery.readers[slot] else {
                continue;
            };
            let partition = reader.info.number;
            while let Some(reader) = &mut self.delivery.readers[slot] {
                let end = self.log.end(partition);
                if reader.live >= end {
                    break;
                }
                if reader.wanted == 0 {
                    reader.live = end;
                    break;
                }
                if rows >= LIVE_ROWS_PER_TURN {
                    return true;
                }
                let Some(chunks) = self
                    .log
                    .read_cached(partition, reader.live, LIVE_READ_BYTES)
                else {
                    // This core slept so long that the rows left the memory: everybody reads on by
                    // itself.
                    self.all_lag(slot);
                    break;
                };
                if chunks.is_empty() {
                    break;
                }
                for chunk in &chunks {
                    self.deliver_chunk(slot, chunk, now);
                    rows += chunk.batch.rows();
                }
            }
        }
        false
    }

    fn deliver_chunk(&mut self, slot: usize, chunk: &Chunk, now: Micros) {
        let Core {
            delivery,
            conns,
            journal,
            waiting,
            ..
        } = self;
        let DeliveryState {
            readers,
            index,
            matched,
            properties,
            ..
        } = delivery;
        let (conns, awake) = (&mut conns.slots, &mut conns.awake);
        let Some(reader) = &mut readers[slot] else {
            return;
        };
        let live = reader.live;
        reader.live = chunk.end().max(live);
        if reader.epoch != index.epoch() {
            reader.epoch = index.epoch();
            reader.cache.clear();
        }
        let batch = &chunk.batch;
        let topics = batch.topic_values();
        matched.clear();
        let mut any = false;
        for i in 0..topics.len() {
            let hit = match_topic(reader, conns, index, topics.value(i));
            any |= hit.is_some();
            matched.push(hit);
        }
        if !any {
            return;
        }
        let payloads = batch.payloads();
        let keys = batch.topic_keys();
        let mut sender = Sender::new(journal, properties, waiting, now);
        let skip = live.saturating_sub(chunk.base) as usize;
        for row in skip..batch.rows() {
            let Some(hit) = &matched[keys[row] as usize] else {
                continue;
            };
            let at = RowAt {
                partition: &reader.info.name,
                offset: chunk.base + row as u64,
                batch,
                row,
                payload: payloads.value(row),
                maybe_sent: false,
            };
            for target in &hit.targets {
                let Some(Some(conn)) = conns.get_mut(target.conn as usize) else {
                    continue;
                };
                if !conn.lag.is_empty() && conn.lag_in(reader.info.number).is_some() {
                    continue;
                }
                if !conn.is_live() {
                    // It is about to go; its session goes on from here.
                    conn.lag.push(Lag {
                        partition: reader.info.number,
                        at: at.offset,
                    });
                    continue;
                }
                match target.offer(conn, &reader.info, &at, &mut sender) {
                    Given::Done => {}
                    Given::Full => {
                        conn.lag.push(Lag {
                            partition: reader.info.number,
                            at: at.offset,
                        });
                    }
                }
                if !conn.awake && !conn.out.is_empty() {
                    conn.awake = true;
                    awake.push(conn.id);
                }
            }
        }
        let counts = sender.counts();
        self.count_out(counts);
    }

    pub(super) fn count_out(&mut self, counts: Counts) {
        use std::sync::atomic::Ordering::Relaxed;
        let counters = &self.shared.counters;
        counters.publishes_out.fetch_add(counts.sent, Relaxed);
        counters.bytes_out.fetch_add(counts.sent_bytes, Relaxed);
        if counts.expired + counts.too_large > 0 {
            counters.expired.fetch_add(counts.expired, Relaxed);
            counters.too_large.fetch_add(counts.too_large, Relaxed);
        }
    }

    fn all_lag(&mut self, slot: usize) {
        let Some(reader) = &mut self.delivery.readers[slot] else {
            return;
        };
        let (partition, at) = (reader.info.number, reader.live);
        reader.live = self.log.end(partition);
        let mut waiting: Vec<ConnId> = Vec::new();
        for conn in self.conns.slots.iter_mut().flatten() {
            if conn.session.is_some() && conn.lag_in(partition).is_none() {
                conn.lag.push(Lag { partition, at });
                waiting.push(conn.id);
            }
        }
        for id in waiting {
            self.pump(id);
        }
    }

    /// Counts anew which partitions the subscriptions of this core may match.
    pub(super) fn count_wanted(&mut self) {
        let (readers, conns) = (&mut self.delivery.readers, &self.conns.slots);
        for reader in readers.iter_mut().flatten() {
            let subs = conns
                .iter()
                .flatten()
                .filter_map(|c| c.session.as_ref())
                .flat_map(|s| s.live_subs());
            let wanted = subs
                .filter(|(_, sub)| sub.share.is_none() && reader.info.may_match(&sub.filter))
                .count();
            reader.wanted = wanted;
        }
    }

    /// Brings partitions that nobody here wanted up to now to their end. Called before the position
    /// of a session is compared with the live one, and never after: what is committed between the
    /// two belongs to the session.
    pub(super) fn freshen(&mut self) {
        for reader in self
            .delivery
            .readers
            .iter_mut()
            .flatten()
            .filter(|f| f.wanted == 0)
        {
            reader.live = reader.live.max(self.log.end(reader.info.number));
        }
    }

    /// A subscription came (`true`) or went.
    pub(super) fn want(&mut self, filter: &Filter, comes: bool) {
        for reader in self.delivery.readers.iter_mut().flatten() {
            if !reader.info.may_match(filter) {
                continue;
            }
            reader.wanted = match comes {
                true => reader.wanted + 1,
                false => reader.wanted.saturating_sub(1),
            };
        }
    }
}

fn match_topic<T>(
    reader: &mut PartitionReader,
    conns: &[Option<Conn<T>>],
    index: &Index,
    topic: &str,
) -> Option<Rc<Matched>> {
    if let Some(known) = reader.cache.get(topic) {
        return known.clone();
    }
    let mut refs: Vec<SubRef> = Vec::new();
    index.matches(topic, &mut refs);
    let mut targets = Vec::new();
    for group in refs.chunk_by(|a, b| a.conn == b.conn) {
        let Some(Some(conn)) = conns.get(group[0].conn as usize) else {
            continue;
        };
        targets.extend(Target::new(
            conn,
            group.iter().map(|r| r.sub),
            &reader.info,
            topic,
        ));
    }
    let matched = (!targets.is_empty()).then(|| {
        Rc::new(Matched {
            targets: targets.into(),
        })
    });
    if reader.cache.len() >= MATCH_CACHE_TOPICS_MAX {
        reader.cache.clear();
    }
    reader.cache.insert(topic.into(), matched.clone());
    matched
}
