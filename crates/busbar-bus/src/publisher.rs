//! Publishing: one publisher for each thread, and in it one lane for each partition it writes to.
//!
//! A push copies an event's payload once, into the builder of its lane, and does nothing else:
//! where its topic goes is known from the previous event or from a cache, and nothing is
//! locked, allocated or parsed. A flush seals what has gathered, encodes it on this thread (so
//! that encoding overlaps the disk) and hands it to the commit thread. While that is busy the next
//! batch gathers, so batches are as long as the disk is slow, with no setting for it.

use std::{
    cell::Cell,
    hash::BuildHasher,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use busbar_event::{Flags, Micros, Row, limits as event, topic};
use busbar_log::{Appended, LogError};
use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::{
    key::{KeyRule, partition_of},
    lane::{Failure, Lane, Status, Ticket},
    limits::{
        BUDGET_STEP_BYTES, EVENT_OVERHEAD_BYTES, LANE_IN_FLIGHT_MAX, PAYLOAD_BYTES_MAX,
        TOPIC_CACHE_BYTES_MAX, TOPIC_CACHE_MAX,
    },
    refused::Refused,
    routes::Routes,
    shared::Shared,
    stream::{Origin, PartitionId, StreamPartition},
};

/// An event to publish; everything is borrowed from the caller.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Where it belongs.
    pub topic: &'a str,
    /// Its key; `None` lets the stream make one, if it says how.
    pub key: Option<&'a str>,
    /// When it happened; [`ARRIVAL`](busbar_event::ARRIVAL) for when it arrives.
    pub time: Micros,
    /// Who published it.
    pub client: Option<&'a str>,
    /// Quality of service, retain and what the sender says of the payload.
    pub flags: Flags,
    /// Names and values.
    pub tags: &'a [(&'a str, &'a str)],
    /// What it says.
    pub payload: &'a [u8],
}

/// Takes events in on one thread. Tickets tell when they are as durable as their stream says.
///
/// The owner pushes what it has read, calls [`flush`](Publisher::flush) when its sockets are
/// drained, is woken when something settled, then calls [`settle`](Publisher::settle) and asks for
/// its tickets. While [`writable`](Publisher::writable) is false it must stop reading.
pub struct Publisher {
    shared: Arc<Shared>,
    routes: Arc<Routes>,
    route_epoch: u64,
    lanes: Vec<Lane>,
    /// Lane of a partition, by its dense id; `u32::MAX` where there is none yet.
    lane_of: Vec<u32>,
    /// Lanes whose builder is not empty.
    filled: Vec<u32>,
    /// Lanes that had as many batches in flight as they may have.
    choked: Vec<u32>,
    topics: TopicRoutes,
    signal: Arc<Signal>,
    /// Bytes pushed and not yet booked in the shared budget.
    unbooked: u64,
    /// Largest payload taken.
    payload_bytes_max: usize,
    /// The budget was far overrun when it was last looked at.
    overrun: bool,
    /// One thread at a time: moving it is fine, sharing it is not.
    not_sync: PhantomData<Cell<()>>,
}

/// Wakes the owner once for any number of settled batches.
struct Signal {
    wake: Arc<dyn Fn() + Send + Sync>,
    raised: AtomicBool,
    /// Batches settled so far.
    settled: AtomicU64,
    /// Bytes sealed and not settled.
    in_flight: AtomicU64,
}

/// Where the events of a topic go.
struct TopicRoute {
    topic: Box<str>,
    hash: u64,
    partitions: Arc<[Arc<StreamPartition>]>,
    /// There is one partition, so the lane last used is the lane.
    single: bool,
    key: KeySource,
    /// The lane last used and the topic's dictionary id in its builder, valid in that epoch.
    lane: u32,
    id: u32,
    epoch: u64,
}

/// Where the key of an event comes from that has none.
enum KeySource {
    None,
    /// What the topic alone decides.
    Fixed(Box<str>),
    /// The value of this tag.
    Tag(Box<str>),
}

/// Cache of routes by topic, bounded in number and in bytes; cleared when full.
struct TopicRoutes {
    table: HashTable<u32>,
    all: Vec<TopicRoute>,
    bytes: usize,
    last: usize,
    hasher: RandomState,
}

const NO_LANE: u32 = u32::MAX;

impl Publisher {
    pub(crate) fn new(shared: Arc<Shared>, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        let (routes, route_epoch) = shared.routes();
        Self {
            payload_bytes_max: shared.payload_bytes_max(),
            shared,
            routes,
            route_epoch,
            lanes: Vec::new(),
            lane_of: Vec::new(),
            filled: Vec::new(),
            choked: Vec::new(),
            topics: TopicRoutes::new(),
            signal: Arc::new(Signal {
                wake,
                raised: AtomicBool::new(false),
                settled: AtomicU64::new(0),
                in_flight: AtomicU64::new(0),
            }),
            unbooked: 0,
            overrun: false,
            not_sync: PhantomData,
        }
    }

    /// Takes payloads of up to `bytes_max` bytes, whatever the bus takes of others: for protocols that
    /// bound the message as a whole. Never more than
    /// [`PAYLOAD_BYTES_MAX`](crate::limits::PAYLOAD_BYTES_MAX).
    pub fn take_payloads_up_to(&mut self, bytes_max: usize) {
        self.payload_bytes_max = bytes_max.min(PAYLOAD_BYTES_MAX);
    }

    /// Takes an event; its ticket settles some time after a [`flush`](Publisher::flush).
    #[inline]
    pub fn push(&mut self, event: &Event<'_>) -> Result<Ticket, Refused> {
        self.push_with(event, None)
    }

    /// As [`push`](Publisher::push), and the frame that the event lands in carries `position` of
    /// `producer`, so that after a crash [`StreamPartition::producer_position`] tells whether the
    /// event was committed. The position is only recorded: the event is stored whatever it is.
    pub fn push_from(
        &mut self,
        event: &Event<'_>,
        producer: &Arc<str>,
        position: u64,
    ) -> Result<Ticket, Refused> {
        self.push_with(event, Some((producer, position)))
    }

    /// The partition that an event goes to.
    pub fn place(&self, event: &Event<'_>) -> PartitionId {
        let (routes, _) = self.shared.routes();
        let home = routes.home(event.topic);
        let partitions = home.partitions();
        let rule = home.key_rule();
        let key = event
            .key
            .map(str::to_owned)
            .or_else(|| match rule.as_deref()? {
                KeyRule::Tag(name) => {
                    let tag = event.tags.iter().find(|(tag, _)| *tag == name.as_str());
                    tag.map(|(_, value)| (*value).to_owned())
                }
                rule => rule.of_topic(event.topic).ok().flatten(),
            });
        let number = match partitions.len() {
            1 => 0,
            many => partition_of(key.as_deref().unwrap_or(event.topic), many),
        };
        partitions[number].id()
    }

    #[inline(always)]
    fn push_with(
        &mut self,
        event: &Event<'_>,
        producer: Option<(&Arc<str>, u64)>,
    ) -> Result<Ticket, Refused> {
        if self.route_epoch != self.shared.route_epoch() {
            self.reroute();
        }
        self.check(event)?;
        let at = match self.topics.last(event.topic) {
            Some(at) => at,
            None => self.topics.find(event.topic, &self.routes)?,
        };
        let route = &mut self.topics.all[at];
        let key = match event.key {
            Some(key) => Some(key),
            None => match &route.key {
                KeySource::None => None,
                KeySource::Fixed(key) => Some(&**key),
                KeySource::Tag(name) => event
                    .tags
                    .iter()
                    .find(|(tag, _)| *tag == &**name)
                    .map(|(_, value)| *value),
            },
        };
        let lane_at = if route.single && route.lane != NO_LANE {
            route.lane
        } else {
            let partition = match &*route.partitions {
                [one] => one,
                many => &many[partition_of(key.unwrap_or(event.topic), many.len())],
            };
            match self.lane_of.get(partition.id().index()) {
                Some(&lane) if lane != NO_LANE => lane,
                _ => open_lane(&mut self.lanes, &mut self.lane_of, partition),
            }
        };
        let lane = &mut self.lanes[lane_at as usize];
        let mut bytes = event.payload.len() + EVENT_OVERHEAD_BYTES;
        let epoch = lane.builder.epoch();
        if route.lane != lane_at || route.epoch != epoch {
            (route.lane, route.epoch) = (lane_at, epoch);
            route.id = lane.builder.topic_id(event.topic);
            bytes += event.topic.len();
        }
        if let Some(key) = key {
            bytes += key.len();
        }
        for (name, value) in event.tags {
            bytes += name.len() + value.len();
        }
        if lane.builder.is_empty() {
            self.filled.push(lane_at);
        }
        if let Some((producer, position)) = producer {
            lane.remember(producer, position);
        }
        let client = event.client.map(|client| lane.client_id(client));
        lane.builder.push(Row {
            topic: route.id,
            key,
            time: event.time,
            client,
            flags: event.flags,
            tags: event.tags,
            payload: event.payload,
        });
        let ticket = Ticket {
            lane: lane_at,
            seq: lane.next,
        };
        lane.gathered += bytes as u64;
        self.unbooked += bytes as u64;
        if lane.is_full() {
            self.full(lane_at);
        } else if self.unbooked >= BUDGET_STEP_BYTES {
            self.book();
        }
        Ok(ticket)
    }

    /// Seals the batches of lanes that have nothing in flight, and of lanes that are full.
    /// Call it when the sockets are drained and whenever something settled.
    pub fn flush(&mut self) {
        let mut at = 0;
        while let Some(&lane) = self.filled.get(at) {
            let in_flight = self.lanes[lane as usize].in_flight();
            let full = self.lanes[lane as usize].is_full();
            if in_flight == 0 || (full && in_flight < LANE_IN_FLIGHT_MAX) {
                self.filled.swap_remove(at);
                self.seal(lane);
            } else {
                at += 1;
            }
        }
        self.book();
    }

    /// What became of a ticket of this publisher.
    #[inline]
    pub fn status(&self, ticket: Ticket) -> Status {
        match self.lanes.get(ticket.lane as usize) {
            Some(lane) => lane.outcome.status(ticket.seq),
            None => Status::Failed(Failure::Forgotten),
        }
    }

    /// Arms the wake-up again and returns how many batches have settled so far. Call it after a
    /// wake-up and *before* looking at tickets, so that what settles afterwards wakes again.
    pub fn settle(&mut self) -> u64 {
        self.signal.raised.swap(false, Ordering::AcqRel);
        self.committed_epoch()
    }

    /// How many batches have settled so far: while it stays the same no ticket changes.
    #[inline]
    pub fn committed_epoch(&self) -> u64 {
        self.signal.settled.load(Ordering::Acquire)
    }

    /// Whether the owner may read more from its sockets. Once false, ask again after a wake-up.
    pub fn writable(&mut self) -> bool {
        let lanes = &self.lanes;
        self.choked
            .retain(|lane| lanes[*lane as usize].in_flight() >= LANE_IN_FLIGHT_MAX);
        self.choked.is_empty() && self.shared.budget().has_room()
    }

    /// Bytes pushed that have not settled.
    pub fn in_flight_bytes(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.gathered).sum::<u64>()
            + self.signal.in_flight.load(Ordering::Acquire)
    }

    /// Whether anything pushed still waits for a [`flush`](Publisher::flush).
    pub fn has_gathered(&self) -> bool {
        !self.filled.is_empty()
    }

    /// Refuses what no lane could take; nothing here looks at the payload's bytes.
    #[inline]
    fn check(&mut self, event: &Event<'_>) -> Result<(), Refused> {
        if self.overrun {
            self.overrun = self.shared.budget().overrun();
            if self.overrun {
                return Err(Refused::Overloaded);
            }
        }
        if event.payload.len() > self.payload_bytes_max {
            return Err(Refused::PayloadTooLarge);
        }
        if event
            .key
            .is_some_and(|key| key.len() > event::KEY_BYTES_MAX)
        {
            return Err(Refused::KeyTooLong);
        }
        if !event.tags.is_empty() {
            let long = |text: &str| text.len() > event::TAG_BYTES_MAX;
            if event.tags.len() > event::TAGS_MAX
                || event
                    .tags
                    .iter()
                    .any(|(name, value)| long(name) || long(value))
            {
                return Err(Refused::Tags);
            }
        }
        if event.flags.retain()
            && !event.payload.is_empty()
            && !self
                .shared
                .retained()
                .has_room(event.topic, event.payload.len())
        {
            return Err(Refused::RetainedFull);
        }
        Ok(())
    }

    /// A lane has so much that it need not wait; or so much that it must not.
    #[cold]
    fn full(&mut self, at: u32) {
        self.book();
        let lane = &self.lanes[at as usize];
        let in_flight = lane.in_flight();
        let must = lane.builder.rows() >= event::BATCH_ROWS_MAX
            || lane.builder.bytes() >= event::BATCH_BYTES_MAX
            || lane.is_crowded();
        if in_flight < LANE_IN_FLIGHT_MAX || must {
            self.filled.retain(|filled| *filled != at);
            self.seal(at);
        }
        if in_flight + 1 >= LANE_IN_FLIGHT_MAX && !self.choked.contains(&at) {
            self.choked.push(at);
        }
    }

    /// Encodes a lane's batch and hands it to the commit thread.
    fn seal(&mut self, at: u32) {
        self.book();
        let lane = &mut self.lanes[at as usize];
        let (rule, now) = (
            lane.partition.time_rule(),
            lane.partition.steady.now_micros(),
        );
        let batch = lane.time.apply(&rule, lane.builder.finish(), now, true);
        let seq = lane.next;
        lane.next += 1;
        let bytes = std::mem::take(&mut lane.gathered);
        let producers = lane.take_producers();
        let (outcome, signal) = (Arc::clone(&lane.outcome), Arc::clone(&self.signal));
        // Not the whole bus: the commit thread must never be the one to drop that.
        let budget = self.shared.budget_handle();
        signal.in_flight.fetch_add(bytes, Ordering::Relaxed);
        let done = move |result: Result<Appended, LogError>| {
            let result = match result {
                Ok(_) => Ok(()),
                Err(error) => Err(Failure::of(&error)),
            };
            outcome.settle(seq, result);
            budget.release(bytes);
            signal.in_flight.fetch_sub(bytes, Ordering::Release);
            signal.raise();
        };
        lane.partition
            .append(batch, Origin::Many(producers), Box::new(done));
    }

    /// Books what was pushed since the last time.
    fn book(&mut self) {
        if self.unbooked > 0 {
            self.shared
                .budget()
                .book(std::mem::take(&mut self.unbooked));
            self.overrun = self.shared.budget().overrun();
        }
    }

    /// Streams have changed: topics are looked up anew. Lanes stay; what they have gathered goes
    /// where it was meant to go when it was pushed.
    #[cold]
    fn reroute(&mut self) {
        (self.routes, self.route_epoch) = self.shared.routes();
        self.topics.clear();
    }
}

/// What was taken and never flushed is still written.
impl Drop for Publisher {
    fn drop(&mut self) {
        while let Some(lane) = self.filled.pop() {
            self.seal(lane);
        }
    }
}

#[cold]
fn open_lane(lanes: &mut Vec<Lane>, lane_of: &mut Vec<u32>, to: &Arc<StreamPartition>) -> u32 {
    let index = to.id().index();
    if lane_of.len() <= index {
        lane_of.resize(index + 1, NO_LANE);
    }
    let lane = lanes.len() as u32;
    lanes.push(Lane::new(Arc::clone(to)));
    lane_of[index] = lane;
    lane
}

impl Signal {
    fn raise(&self) {
        self.settled.fetch_add(1, Ordering::Release);
        if !self.raised.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
    }
}

impl TopicRoutes {
    fn new() -> TopicRoutes {
        TopicRoutes {
            table: HashTable::new(),
            all: Vec::new(),
            bytes: 0,
            last: 0,
            hasher: RandomState::default(),
        }
    }

    /// The route of the previous event, if this one has the same topic.
    #[inline]
    fn last(&self, topic: &str) -> Option<usize> {
        match self.all.get(self.last) {
            Some(route) if *route.topic == *topic => Some(self.last),
            _ => None,
        }
    }

    #[inline]
    fn find(&mut self, topic: &str, routes: &Routes) -> Result<usize, Refused> {
        let hash = self.hasher.hash_one(topic);
        let all = &self.all;
        let found = self
            .table
            .find(hash, |at| *all[*at as usize].topic == *topic);
        self.last = match found {
            Some(at) => *at as usize,
            None => self.learn(hash, topic, routes)?,
        };
        Ok(self.last)
    }

    #[cold]
    fn learn(&mut self, hash: u64, topic: &str, routes: &Routes) -> Result<usize, Refused> {
        topic::check(topic).map_err(|_| Refused::Topic)?;
        if self.all.len() >= TOPIC_CACHE_MAX || self.bytes + topic.len() > TOPIC_CACHE_BYTES_MAX {
            self.clear();
        }
        let home = routes.home(topic);
        let key = match home.key_rule().as_deref() {
            None => KeySource::None,
            Some(KeyRule::Tag(name)) => KeySource::Tag(name.as_str().into()),
            Some(rule) => match rule.of_topic(topic)? {
                Some(key) => KeySource::Fixed(key.into()),
                None => KeySource::None,
            },
        };
        let partitions = home.partitions();
        let at = self.all.len();
        self.bytes += topic.len();
        self.all.push(TopicRoute {
            topic: topic.into(),
            hash,
            single: partitions.len() == 1,
            partitions,
            key,
            lane: NO_LANE,
            id: 0,
            epoch: 0,
        });
        let all = &self.all;
        self.table
            .insert_unique(hash, at as u32, |at| all[*at as usize].hash);
        Ok(at)
    }

    fn clear(&mut self) {
        self.table.clear();
        self.all.clear();
        self.bytes = 0;
        self.last = 0;
    }
}
