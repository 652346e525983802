//! Protocol at their own pace: what is sent again after a reconnect, retained messages, the log
//! read from where a slow or absent client stopped, and shared subscriptions.

use std::sync::Arc;

use busbar_bus::Chunk;
use busbar_event::{Batch, Flags, Micros};
use busbar_mqtt::ack::encode_ack;
use busbar_mqtt::{Ack, AckKind, Reason};
use hashbrown::HashMap;

use crate::group::Round;
use crate::limits::{CATCH_UP_READ_BYTES, CATCH_UP_READS_PER_TURN, RETAINED_PAGE};
use crate::message::is_expired;
use crate::state::Source;
use crate::sys::is_sys_filter;
use busbar_gateway::ConnId;
use busbar_gateway::Reach;
use busbar_gateway::event_log::EventLog;

use super::deliver::{DeliveryState, Given, Grant, RowAt, Sender, Target};
use super::{Core, Effect, Message, Reader};

/// What a read for a lagging session brought.
enum Read {
    Rows(Vec<Chunk>),
    /// The disk is being read.
    Wait,
    /// What was there is gone; go on from here.
    Moved(u64),
}

/// Why a message in flight is not sent again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dropped {
    /// The log no longer has it.
    Gone,
    /// The user may not receive it now.
    Denied,
    /// It is larger than the client takes.
    TooLarge,
}

/// How a step ended.
#[derive(PartialEq, Eq)]
enum Step {
    /// Nothing left of this kind.
    Finished,
    /// The client or the disk has to come first.
    Blocked,
    /// This turn was long enough.
    Later,
}

impl<S: EventLog> Core<S> {
    /// Serves the connections that asked for more. True when some were not finished.
    pub(super) fn pump_all(&mut self, now: Micros) -> bool {
        let pumping = std::mem::take(&mut self.conns.pumping);
        for id in pumping {
            let Some(conn) = self.conn(id) else { continue };
            conn.pumping = false;
            if !conn.is_live() {
                continue;
            }
            if self.pump_one(id, now) == Step::Later {
                self.pump(id);
            }
            if self.conn(id).is_some_and(|c| !c.out.is_empty()) {
                self.wake(id);
            }
        }
        !self.conns.pumping.is_empty()
    }

    fn pump_one(&mut self, id: ConnId, now: Micros) -> Step {
        let step = self.send_again(id, now);
        if step != Step::Finished {
            return step;
        }
        let step = self.send_retained(id, now);
        if step != Step::Finished {
            return step;
        }
        self.catch_up(id, now)
    }

    /// Sends again what was in flight when the last connection ended.
    fn send_again(&mut self, id: ConnId, now: Micros) -> Step {
        loop {
            let each_max = self.waiting.each_max();
            let Some(conn) = self.conn(id) else {
                return Step::Blocked;
            };
            let Some(&packet_id) = conn.resend.front() else {
                return Step::Finished;
            };
            if conn.out.len() >= each_max {
                return Step::Blocked;
            }
            let flight = conn
                .session
                .as_ref()
                .and_then(|s| s.in_flight.get(&packet_id))
                .cloned();
            let Some(flight) = flight else {
                conn.resend.pop_front();
                continue;
            };
            if flight.released {
                conn.resend.pop_front();
                conn.sent += 1;
                let gate = self.gate(id);
                let Some(conn) = self.conn(id) else {
                    return Step::Blocked;
                };
                let version = conn.version;
                let ack = Ack {
                    kind: AckKind::Pubrel,
                    packet_id,
                    reason: Reason::SUCCESS,
                };
                conn.out
                    .append(gate, |out| encode_ack(version, ack, None, out));
                continue;
            }
            if conn.sent >= conn.window {
                return Step::Blocked;
            }
            let (found, retained) = match &flight.source {
                Source::Own(batch) => (Some((batch.clone(), 0)), true),
                Source::Log(name, offset) => {
                    let Some(partition) = self.number_of(name) else {
                        self.drop_flight(id, packet_id, Dropped::Gone);
                        continue;
                    };
                    match self.read_for(id, partition, *offset, 1) {
                        Read::Wait => return Step::Blocked,
                        Read::Moved(_) => (None, false),
                        Read::Rows(chunks) => (row_at(&chunks, *offset), false),
                    }
                }
            };
            let Some((batch, row)) = found else {
                self.drop_flight(id, packet_id, Dropped::Gone);
                continue;
            };
            let (name, offset) = match &flight.source {
                Source::Log(name, offset) => (Arc::clone(name), *offset),
                Source::Own(_) => ("".into(), 0),
            };
            if !self.may_still_receive(id, batch.topic(row), &name) {
                self.drop_flight(id, packet_id, Dropped::Denied);
                continue;
            }
            let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
                return Step::Blocked;
            };
            conn.resend.pop_front();
            let mut grant = grant_of(conn, batch.topic(row), flight.qos);
            grant.retained = retained;
            let payloads = batch.payloads();
            let at = RowAt {
                partition: &name,
                offset,
                batch: &batch,
                row,
                payload: payloads.value(row),
                maybe_sent: true,
            };
            let mut sender = Sender::new(
                &mut self.journal,
                &mut self.delivery.properties,
                &mut self.waiting,
                now,
            );
            let fits = sender.send(conn, &at, &grant, flight.qos, packet_id, true);
            conn.sent += usize::from(fits);
            sender.too_large += u64::from(!fits);
            let counts = sender.counts();
            self.count_out(counts);
            if !fits {
                self.drop_flight(id, packet_id, Dropped::TooLarge);
            }
        }
    }

    /// Whether the user may receive a message that is sent again, by the rights of now. `partition` is empty for
    /// a retained message.
    fn may_still_receive(&self, id: ConnId, topic: &str, partition: &str) -> bool {
        let Some(Some(conn)) = self.conns.slots.get(id.slot as usize) else {
            return false;
        };
        if conn.unrestricted {
            return true;
        }
        let reader = || {
            self.delivery
                .readers
                .iter()
                .flatten()
                .find(|f| *f.info.name == *partition)
        };
        let stream = match partition {
            "" => Some(self.log.stream_of(topic)),
            _ => reader().map(|reader| Arc::clone(&reader.info.stream)),
        };
        stream.is_some_and(|stream| Self::may_receive(&conn.identity, topic, &stream))
    }

    /// A message in flight that is not sent again.
    fn drop_flight(&mut self, id: ConnId, packet_id: u16, why: Dropped) {
        let Some(conn) = self.conn(id) else { return };
        conn.resend.retain(|p| *p != packet_id);
        let client = conn.session.as_ref().map(|s| Arc::clone(&s.client));
        let flight = conn
            .session
            .as_mut()
            .and_then(|s| s.remove_in_flight(packet_id));
        if let Some(flight) = flight
            && let Source::Log(partition, offset) = &flight.source
        {
            if why == Dropped::Gone {
                tracing::error!(
                    client = client.as_deref(),
                    partition = &**partition,
                    offset,
                    "a message that its client did not acknowledge is no longer in the log and cannot be sent again"
                );
            }
            match (&flight.group, self.number_of(partition)) {
                (Some(text), Some(number)) if why == Dropped::Denied => {
                    if let Some(group) = self.shared.existing_group(text) {
                        group.lock().give_back(number, *offset);
                    }
                    self.wake_group(text);
                }
                (Some(text), _) => self.group_done(text, partition, *offset),
                (None, _) => {}
            }
        }
        self.journal_lazily(id);
    }

    /// Sends retained messages for new subscriptions, a page at a time.
    fn send_retained(&mut self, id: ConnId, now: Micros) -> Step {
        loop {
            let Some(conn) = self.conn(id) else {
                return Step::Blocked;
            };
            let Some(task) = conn.retained.front() else {
                return Step::Finished;
            };
            let (slot, after) = (task.sub, task.after.clone());
            let identity = conn.identity.clone();
            let sub = conn
                .session
                .as_ref()
                .and_then(|s| s.subs.get(slot as usize))
                .cloned();
            let Some(Some(sub)) = sub else {
                conn.retained.pop_front();
                continue;
            };
            let page = match is_sys_filter(&sub.filter) {
                true => self.sys_page(&sub.filter, after.as_deref(), now),
                false => self
                    .log
                    .retained(&sub.filter, after.as_deref(), RETAINED_PAGE),
            };
            let nobody: Arc<str> = "".into();
            let grant = Grant {
                qos: sub.options.qos,
                retain_as_published: true,
                retained: true,
                ids: if sub.id > 0 {
                    Box::new([sub.id])
                } else {
                    Box::default()
                },
                separator: sub.separator(),
            };
            for found in page.rows {
                let topic = found.batch.topic(found.row);
                let allowed = match sub.reach {
                    Reach::All => true,
                    Reach::Some => Self::may_receive(&identity, topic, &found.stream),
                    Reach::None => false,
                };
                let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
                    return Step::Blocked;
                };
                let own = sub.options.no_local
                    && found.batch.client(found.row) == conn.session.as_ref().map(|s| &*s.client);
                if allowed && !own && !is_expired(&found.batch, found.row, now) {
                    let payloads = found.batch.payloads();
                    let at = RowAt {
                        partition: &nobody,
                        offset: 0,
                        batch: &found.batch,
                        row: found.row,
                        payload: payloads.value(found.row),
                        maybe_sent: false,
                    };
                    let mut sender = Sender::new(
                        &mut self.journal,
                        &mut self.delivery.properties,
                        &mut self.waiting,
                        now,
                    );
                    let given = sender.give(conn, &at, &grant, None);
                    let counts = sender.counts();
                    self.count_out(counts);
                    if given == Given::Full {
                        return Step::Blocked;
                    }
                }
                if let Some(task) = self.conn(id).and_then(|c| c.retained.front_mut()) {
                    task.after = Some(topic.to_owned());
                }
            }
            let Some(conn) = self.conn(id) else {
                return Step::Blocked;
            };
            match (page.next, conn.retained.front_mut()) {
                (Some(next), Some(task)) => task.after = Some((*next).to_owned()),
                _ => {
                    conn.retained.pop_front();
                }
            }
        }
    }

    /// Reads on where a session lags.
    fn catch_up(&mut self, id: ConnId, now: Micros) -> Step {
        let mut reads = 0;
        let mut blocked = false;
        let mut at = 0;
        loop {
            let Some(conn) = self.conn(id) else {
                return Step::Blocked;
            };
            let Some(lag) = conn.lag.get(at).copied() else {
                break;
            };
            let Some(live) = self.live_position(lag.partition) else {
                if let Some(conn) = self.conn(id) {
                    conn.lag.swap_remove(at);
                }
                continue;
            };
            if lag.at >= live {
                if let Some(conn) = self.conn(id) {
                    conn.lag.swap_remove(at);
                }
                continue;
            }
            if reads >= CATCH_UP_READS_PER_TURN {
                return Step::Later;
            }
            reads += 1;
            match self.read_for(id, lag.partition, lag.at, CATCH_UP_READ_BYTES) {
                Read::Moved(to) => self.set_lag(id, lag.partition, to.max(lag.at + 1)),
                Read::Wait => {
                    blocked = true;
                    at += 1;
                }
                Read::Rows(chunks) => {
                    if !self.catch_up_chunks(id, lag.partition, lag.at, live, &chunks, now) {
                        blocked = true;
                        at += 1;
                    }
                }
            }
        }
        if blocked {
            Step::Blocked
        } else {
            Step::Finished
        }
    }

    fn catch_up_chunks(
        &mut self,
        id: ConnId,
        partition: u32,
        mut position: u64,
        live: u64,
        chunks: &[Chunk],
        now: Micros,
    ) -> bool {
        let Core {
            delivery,
            conns,
            journal,
            waiting,
            ..
        } = self;
        let DeliveryState {
            readers,
            properties,
            ..
        } = delivery;
        let Some(Some(reader)) = readers.get(partition as usize) else {
            return true;
        };
        let Some(Some(conn)) = conns.slots.get_mut(id.slot as usize) else {
            return false;
        };
        let maybe_sent = conn.maybe_sent.iter().find(|(p, _)| *p == partition);
        let maybe_sent = maybe_sent.map_or(0, |(_, end)| *end);
        let mut sender = Sender::new(journal, properties, waiting, now);
        let mut full = false;
        'chunks: for chunk in chunks {
            let batch = &chunk.batch;
            let topics = batch.topic_values();
            let mut targets: HashMap<i32, Option<Target>> = HashMap::new();
            let payloads = batch.payloads();
            let keys = batch.topic_keys();
            let skip = position.saturating_sub(chunk.base) as usize;
            for (row, &key) in keys.iter().enumerate().skip(skip) {
                let offset = chunk.base + row as u64;
                if offset >= live {
                    break 'chunks;
                }
                let target = targets.entry(key).or_insert_with(|| {
                    let topic = topics.value(key as usize);
                    let session = conn.session.as_ref()?;
                    let subs: Vec<u32> = session
                        .live_subs()
                        .filter(|(_, s)| s.share.is_none() && s.filter.matches(topic))
                        .map(|(slot, _)| slot)
                        .collect();
                    Target::new(conn, subs.into_iter(), &reader.info, topic)
                });
                if let Some(target) = target {
                    let at = RowAt {
                        partition: &reader.info.name,
                        offset,
                        batch,
                        row,
                        payload: payloads.value(row),
                        maybe_sent: offset < maybe_sent,
                    };
                    if target.offer(conn, &reader.info, &at, &mut sender) == Given::Full {
                        full = true;
                        break 'chunks;
                    }
                }
                position = offset + 1;
            }
            position = position.max(chunk.end().min(live));
        }
        let counts = sender.counts();
        self.count_out(counts);
        self.set_lag(id, partition, position);
        !full
    }

    fn set_lag(&mut self, id: ConnId, partition: u32, at: u64) {
        let Some(conn) = self.conn(id) else { return };
        if let Some(lag) = conn.lag.iter_mut().find(|l| l.partition == partition) {
            lag.at = at;
        }
    }

    fn live_position(&self, partition: u32) -> Option<u64> {
        self.delivery
            .readers
            .get(partition as usize)?
            .as_ref()
            .map(|f| f.live)
    }

    pub(super) fn number_of(&self, name: &str) -> Option<u32> {
        self.delivery
            .readers
            .iter()
            .flatten()
            .find(|f| *f.info.name == *name)
            .map(|f| f.info.number)
    }

    fn read_for(&mut self, id: ConnId, partition: u32, offset: u64, bytes_max: usize) -> Read {
        let start = self.log.start(partition);
        if offset < start {
            return Read::Moved(start);
        }
        let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
            return Read::Wait;
        };
        if let Some(cold) = conn
            .cold
            .take_if(|c| c.partition == partition && c.offset == offset)
        {
            return match cold.result {
                Ok(chunks) if chunks.is_empty() => Read::Moved(offset + 1),
                Ok(chunks) => Read::Rows(chunks),
                Err(resume) => Read::Moved(resume),
            };
        }
        match self.log.read_cached(partition, offset, bytes_max) {
            Some(chunks) if !chunks.is_empty() => Read::Rows(chunks),
            _ => {
                if !conn.reading {
                    conn.reading = true;
                    conn.cold = None;
                    self.effects
                        .push(Effect::ReadDisk(Reader::Conn(id), partition, offset));
                }
                Read::Wait
            }
        }
    }

    /// Deals the rows of shared subscriptions and sends those of this core's members.
    pub(super) fn deal_groups(&mut self, now: Micros) -> bool {
        let mut more = false;
        for at in 0..self.groups.local.len() {
            let (text, group) = (
                Arc::clone(&self.groups.local[at].text),
                Arc::clone(&self.groups.local[at].group),
            );
            let round = group.lock().deal(&self.log);
            self.after_round(&text, round);
            for id in self.groups.local[at].members.clone() {
                more |= self.serve_member(id, &text, &group, now);
            }
        }
        more
    }

    fn serve_member(
        &mut self,
        id: ConnId,
        text: &Arc<str>,
        group: &parking_lot::Mutex<crate::group::Group>,
        now: Micros,
    ) -> bool {
        let number = self.number;
        let (mut took, mut declined) = (false, false);
        loop {
            let Some(dealt) = group.lock().front(number, id) else {
                break;
            };
            let Some(Some(reader)) = self.delivery.readers.get(dealt.partition as usize) else {
                break;
            };
            let Some(Some(conn)) = self.conns.slots.get_mut(id.slot as usize) else {
                break;
            };
            let sub = conn.session.as_ref().and_then(|s| {
                let slot = s.by_text.get(text)?;
                s.subs.get(*slot as usize)?.as_ref()
            });
            let Some(sub) = sub else { break };
            let (batch, row) = (&dealt.batch, dealt.row);
            let topic = batch.topic(row);
            if sub.reach != Reach::All
                && !Self::may_receive(&conn.identity, topic, &reader.info.stream)
            {
                group.lock().decline(number, id);
                declined = true;
                continue;
            }
            let grant = Grant {
                qos: sub.options.qos,
                retain_as_published: sub.options.retain_as_published,
                retained: false,
                ids: if sub.id > 0 {
                    Box::new([sub.id])
                } else {
                    Box::default()
                },
                separator: sub.separator(),
            };
            let qos = grant.qos.min(Flags(batch.flags()[row]).qos());
            let payloads = batch.payloads();
            let at = RowAt {
                partition: &reader.info.name,
                offset: dealt.offset,
                batch,
                row,
                payload: payloads.value(row),
                maybe_sent: dealt.maybe_sent,
            };
            let mut sender = Sender::new(
                &mut self.journal,
                &mut self.delivery.properties,
                &mut self.waiting,
                now,
            );
            let sent_before = conn.sent;
            let given = sender.give(conn, &at, &grant, Some(text));
            let done = qos == 0 || conn.sent == sent_before;
            let counts = sender.counts();
            self.count_out(counts);
            let mut group = group.lock();
            if given == Given::Full {
                group.set_full(number, id);
                break;
            }
            group.pop(number, id);
            if done {
                group.done(dealt.partition, dealt.offset);
            }
            took = true;
        }
        if declined {
            self.wake_group(text);
        }
        if took {
            self.wake(id);
        }
        took || declined
    }

    pub(super) fn after_round(&mut self, text: &Arc<str>, round: Round) {
        for core in round.wake {
            if core != self.number {
                self.effects.push(Effect::Post(core, Message::Dealt));
            }
        }
        if let Some((partition, offset)) = round.cold {
            let reader = Reader::Group(Arc::clone(text));
            self.effects
                .push(Effect::ReadDisk(reader, partition, offset));
        }
        if let Some((partition, offset)) = round.row {
            let reader = Reader::GroupRow(Arc::clone(text));
            self.effects
                .push(Effect::ReadDisk(reader, partition, offset));
        }
    }

    /// A row of a shared subscription was acknowledged.
    pub(super) fn group_done(&mut self, text: &Arc<str>, partition: &Arc<str>, offset: u64) {
        if let (Some(group), Some(number)) =
            (self.shared.existing_group(text), self.number_of(partition))
        {
            group.lock().done(number, offset);
        }
    }

    /// Has the members of a group look at what there is for them now.
    pub(super) fn wake_group(&mut self, text: &Arc<str>) {
        let Some(group) = self.shared.existing_group(text) else {
            return;
        };
        let round = group.lock().deal(&self.log);
        self.after_round(text, round);
    }
}

fn row_at(chunks: &[Chunk], offset: u64) -> Option<(Batch, usize)> {
    let chunk = chunks
        .first()
        .filter(|c| c.base <= offset && offset < c.end())?;
    Some((chunk.batch.clone(), (offset - chunk.base) as usize))
}

/// The grant for sending again: the identifiers of the subscriptions that match now.
fn grant_of<T>(conn: &crate::conn::Conn<T>, topic: &str, qos: u8) -> Grant {
    let mut ids = Vec::new();
    let mut retain_as_published = false;
    let mut separators = Vec::new();
    if let Some(session) = &conn.session {
        for (_, sub) in session.live_subs().filter(|(_, s)| s.filter.matches(topic)) {
            retain_as_published |= sub.options.retain_as_published;
            separators.push(sub.separator());
            if sub.id > 0 && !ids.contains(&sub.id) {
                ids.push(sub.id);
            }
        }
    }
    Grant {
        qos,
        retain_as_published,
        retained: false,
        ids: ids.into(),
        separator: match &separators[..] {
            [first, rest @ ..] if rest.iter().all(|other| other == first) => *first,
            _ => None,
        },
    }
}
