//! A session: what is left of a client when its connection is gone, and its record on disk.
//!
//! | field | form |
//! | --- | --- |
//! | version | u8, 3; version 2 lacks what may have been sent, version 1 the end of the connection too |
//! | expiry | u32 seconds |
//! | end of the connection | i64 microseconds; zero while it is connected |
//! | next packet identifier, QoS 2 sequence | u16, u64 |
//! | subscriptions | u32 count; each: filter, options, identifier, since by partition |
//! | positions | u32 count; each: partition name, u64 |
//! | may have been sent | u32 count; each: partition name, u64 |
//! | in flight | u32 count; each: packet identifier, QoS, state, partition, offset, or its own copy |
//! | received (QoS 2) | u32 count; each: packet identifier, sequence, partition name |
//! | will | u8; then its fields |

use std::sync::Arc;

use busbar_event::topic::{Filter, Separator, spelled};
use busbar_event::{Batch, Micros, hash};
use busbar_mqtt::Reason;
use busbar_mqtt::control::{RetainHandling, SubscribeOptions, Will};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use busbar_gateway::Reach;

/// Position of a partition, by its stable name.
pub type Positions = HashMap<Arc<str>, u64, RandomState>;

/// A subscription.
#[derive(Clone, Debug)]
pub struct Sub {
    /// As the client wrote it, `$share/...` included.
    pub text: Arc<str>,
    /// What it matches.
    pub filter: Filter,
    /// The share name of a shared subscription.
    pub share: Option<Arc<str>>,
    /// Options.
    pub options: SubscribeOptions,
    /// Subscription identifier; zero for none.
    pub id: u32,
    /// What was committed before the subscription, by partition.
    pub since: Positions,
    /// How much of it may be received.
    pub reach: Reach,
}

impl Sub {
    /// What is to stand between the levels of topics that are sent, where the client asked for something else than `/`.
    pub fn separator(&self) -> Option<Separator> {
        spelled(&self.text).0
    }
}

/// A QoS 1 or 2 message on its way to a client.
#[derive(Clone, Debug)]
pub struct InFlight {
    /// Order of sending.
    pub order: u64,
    /// 1 or 2.
    pub qos: u8,
    /// QoS 2: PUBREC came, PUBCOMP is awaited.
    pub released: bool,
    /// Where the message is.
    pub source: Source,
    /// The shared subscription it was dealt from.
    pub group: Option<Arc<str>>,
}

impl InFlight {
    fn own_bytes(&self) -> usize {
        match &self.source {
            Source::Own(batch) => batch.payloads().value_data().len(),
            Source::Log(..) => 0,
        }
    }
}

/// Where a message in flight can be read again.
#[derive(Clone, Debug)]
pub enum Source {
    /// In a partition, at an offset.
    Log(Arc<str>, u64),
    /// Here: a retained message, whose log may have been trimmed.
    Own(Batch),
}

/// A QoS 2 publish whose packet identifier is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The session's sequence number of the publish.
    pub seq: u64,
    /// The partition it went to.
    pub partition: Arc<str>,
    /// Whether it is stored.
    pub stored: Stored,
}

/// What is known of a QoS 2 publish whose packet identifier is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is stored, or on its way on this very connection.
    Yes,
    /// It was on its way when its connection was lost: the log will know, or its core that it failed.
    OnItsWay,
    /// Read from disk: the log knows.
    AskLog,
}

/// Names a session: client identifiers belong to the user who connects with them, so two users may use the
/// same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    /// The user; empty while the node has no users.
    pub user: Arc<str>,
    /// Client identifier.
    pub client: Arc<str>,
}

impl SessionId {
    /// The session of that client identifier from before the node had users.
    pub fn unowned(&self) -> SessionId {
        SessionId {
            user: "".into(),
            client: Arc::clone(&self.client),
        }
    }
}

/// A session.
#[derive(Debug)]
pub struct Session {
    /// The user whom it belongs to; empty while the node has no users.
    pub user: Arc<str>,
    /// Client identifier.
    pub client: Arc<str>,
    /// When it began: part of its record's key, so that the record of a session that ended can be
    /// deleted late, from whatever core, without touching its successor's.
    pub born: Micros,
    /// When its connection ended, while it has none; `None` too when a crash left that open.
    pub ended: Option<Micros>,
    /// Seconds it outlives its connection.
    pub expiry_s: u32,
    /// Subscriptions; slots are stable.
    pub subs: Vec<Option<Sub>>,
    /// Slot of a subscription by its text.
    pub by_text: HashMap<Arc<str>, u32, RandomState>,
    /// Where reading continues, while the session is not connected.
    pub positions: Positions,
    /// QoS 1 messages before these offsets may have been sent before the node was killed: they are sent with
    /// DUP.
    pub maybe_sent: Positions,
    /// Messages on their way to the client, by packet identifier.
    pub in_flight: HashMap<u16, InFlight, RandomState>,
    /// Payload bytes of those that are kept here.
    pub own_bytes: usize,
    /// Order of the next message.
    pub next_order: u64,
    /// Where the search for a free packet identifier starts.
    pub next_id: u16,
    /// QoS 2 publishes not yet released by the client.
    pub received: HashMap<u16, Received, RandomState>,
    /// Sequence of the last QoS 2 publish.
    pub qos2_seq: u64,
    /// The will.
    pub will: Option<Will>,
    /// There is a record of it on disk.
    pub recorded: bool,
    /// Name under which the log remembers its QoS 2 publishes.
    producer: Arc<str>,
}

impl Session {
    /// A new session.
    pub fn new(id: SessionId, born: Micros) -> Session {
        Session {
            producer: producer(&id.user, &id.client),
            user: id.user,
            client: id.client,
            born,
            ended: None,
            expiry_s: 0,
            subs: Vec::new(),
            by_text: HashMap::default(),
            positions: HashMap::default(),
            maybe_sent: HashMap::default(),
            in_flight: HashMap::default(),
            own_bytes: 0,
            next_order: 1,
            next_id: 1,
            received: HashMap::default(),
            qos2_seq: 0,
            will: None,
            recorded: false,
        }
    }

    /// What names it.
    pub fn id(&self) -> SessionId {
        SessionId {
            user: Arc::clone(&self.user),
            client: Arc::clone(&self.client),
        }
    }

    /// Makes it a user's. Its record on disk and its QoS 2 publishes have other names from then on.
    pub fn set_user(&mut self, user: Arc<str>) {
        self.producer = producer(&user, &self.client);
        self.user = user;
    }

    /// Sets where reading continues.
    pub fn set_positions(&mut self, positions: Positions) {
        self.positions = positions;
        let positions = &self.positions;
        self.maybe_sent
            .retain(|name, end| positions.get(name).is_none_or(|at| at < end));
    }

    /// Whether it outlives its connection.
    pub fn is_persistent(&self) -> bool {
        self.expiry_s > 0
    }

    /// The subscriptions that are there.
    pub fn live_subs(&self) -> impl Iterator<Item = (u32, &Sub)> {
        self.subs
            .iter()
            .enumerate()
            .filter_map(|(i, s)| s.as_ref().map(|s| (i as u32, s)))
    }

    /// A message is on its way.
    pub fn add_in_flight(&mut self, packet_id: u16, flight: InFlight) {
        self.own_bytes += flight.own_bytes();
        self.in_flight.insert(packet_id, flight);
    }

    /// A message is no longer on its way.
    pub fn remove_in_flight(&mut self, packet_id: u16) -> Option<InFlight> {
        let flight = self.in_flight.remove(&packet_id)?;
        self.own_bytes = self.own_bytes.saturating_sub(flight.own_bytes());
        Some(flight)
    }

    /// A packet identifier that is not in use; the caller keeps the window below 65,535.
    pub fn take_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = busbar_mqtt::ack::next_packet_id(id);
            if !self.in_flight.contains_key(&id) {
                return id;
            }
        }
    }

    /// Name under which the log remembers this session's QoS 2 publishes.
    pub fn producer(&self) -> &Arc<str> {
        &self.producer
    }

    /// When it ends if it disconnects at `now`; `None` for never.
    pub fn expires_at(&self, now: Micros) -> Option<Micros> {
        match self.expiry_s {
            u32::MAX => None,
            s => Some(now + i64::from(s) * 1_000_000),
        }
    }

    /// When its will is due if it disconnects at `now`, unless the session ends before.
    pub fn will_at(&self, now: Micros) -> Option<Micros> {
        let will = self.will.as_ref()?;
        Some(now + i64::from(will.delay_s) * 1_000_000)
    }

    /// The record.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_as(RECORD_VERSION)
    }

    /// The record in the form of version 2 or later.
    fn encode_as(&self, version: u8) -> Vec<u8> {
        let mut w = Vec::with_capacity(256 + self.in_flight.len() * 24);
        w.push(version);
        w.extend_from_slice(&self.expiry_s.to_be_bytes());
        w.extend_from_slice(&self.ended.unwrap_or(0).to_be_bytes());
        w.extend_from_slice(&self.next_id.to_be_bytes());
        w.extend_from_slice(&self.qos2_seq.to_be_bytes());
        put_count(&mut w, self.by_text.len());
        for (_, sub) in self.live_subs() {
            put_bytes(&mut w, sub.text.as_bytes());
            let o = &sub.options;
            w.push(
                o.qos
                    | u8::from(o.no_local) << 2
                    | u8::from(o.retain_as_published) << 3
                    | (o.retain_handling as u8) << 4,
            );
            w.extend_from_slice(&sub.id.to_be_bytes());
            put_positions(&mut w, &sub.since);
        }
        put_positions(&mut w, &self.positions);
        if version >= 3 {
            put_positions(&mut w, &self.maybe_sent);
        }
        let mut flying: Vec<(&u16, &InFlight)> = self.in_flight.iter().collect();
        flying.sort_unstable_by_key(|(_, f)| f.order);
        put_count(&mut w, flying.len());
        for (id, f) in flying {
            w.extend_from_slice(&id.to_be_bytes());
            w.push(f.qos | u8::from(f.released) << 2);
            put_bytes(&mut w, f.group.as_deref().unwrap_or("").as_bytes());
            match &f.source {
                Source::Log(partition, offset) => {
                    w.push(0);
                    put_bytes(&mut w, partition.as_bytes());
                    w.extend_from_slice(&offset.to_be_bytes());
                }
                Source::Own(batch) => {
                    w.push(1);
                    put_bytes(&mut w, &busbar_event::encode(batch));
                }
            }
        }
        put_count(&mut w, self.received.len());
        for (id, r) in &self.received {
            w.extend_from_slice(&id.to_be_bytes());
            w.extend_from_slice(&r.seq.to_be_bytes());
            put_bytes(&mut w, r.partition.as_bytes());
        }
        encode_will(&mut w, self.will.as_ref());
        w
    }

    /// Reads a record; `None` when it is not one.
    pub fn decode(id: SessionId, born: Micros, record: &[u8]) -> Option<Session> {
        let mut r = Fields(record);
        let version = r.u8()?;
        if !(1..=RECORD_VERSION).contains(&version) {
            return None;
        }
        let mut s = Session::new(id, born);
        s.recorded = true;
        s.expiry_s = r.u32()?;
        if version >= 2 {
            s.ended = Some(r.u64()? as Micros).filter(|at| *at > 0);
        }
        s.next_id = r.u16()?.max(1);
        s.qos2_seq = r.u64()?;
        for _ in 0..r.u32()? {
            let text: Arc<str> = r.text()?.into();
            let bits = r.u8()?;
            let id = r.u32()?;
            let since = r.positions()?;
            let options = SubscribeOptions {
                qos: (bits & 3).min(2),
                no_local: bits & 4 != 0,
                retain_as_published: bits & 8 != 0,
                retain_handling: match bits >> 4 {
                    0 => RetainHandling::Send,
                    1 => RetainHandling::SendIfNew,
                    _ => RetainHandling::DoNotSend,
                },
            };
            let (share, filter) = split_share(&text).ok()?;
            s.by_text.insert(Arc::clone(&text), s.subs.len() as u32);
            s.subs.push(Some(Sub {
                text,
                filter,
                share,
                options,
                id,
                since,
                reach: Reach::All,
            }));
        }
        s.positions = r.positions()?;
        if version >= 3 {
            s.maybe_sent = r.positions()?;
        }
        for order in 0..r.u32()? {
            let id = r.u16()?;
            let bits = r.u8()?;
            let group = Some(r.text()?).filter(|g| !g.is_empty()).map(Arc::from);
            let source = match r.u8()? {
                0 => {
                    let partition = r.text()?.into();
                    Source::Log(partition, r.u64()?)
                }
                _ => {
                    let bytes = bytes::Bytes::copy_from_slice(r.bytes()?);
                    Source::Own(busbar_event::decode(bytes).ok()?)
                }
            };
            let flight = InFlight {
                order: u64::from(order),
                qos: (bits & 3).clamp(1, 2),
                released: bits & 4 != 0,
                source,
                group,
            };
            s.add_in_flight(id, flight);
        }
        s.next_order = s.in_flight.len() as u64 + 1;
        for _ in 0..r.u32()? {
            let id = r.u16()?;
            let seq = r.u64()?;
            let partition = r.text()?.into();
            s.received.insert(
                id,
                Received {
                    seq,
                    partition,
                    stored: Stored::AskLog,
                },
            );
        }
        s.will = decode_will(&mut r)?;
        Some(s)
    }
}

const RECORD_VERSION: u8 = 3;
const PRODUCER_ID_BYTES_MAX: usize = 200;

/// Name under which the log remembers the QoS 2 publishes of a session.
fn producer(user: &str, client: &str) -> Arc<str> {
    // Names of users hold no slash.
    let id = match user.is_empty() {
        true => client.to_owned(),
        false => format!("{user}/{client}"),
    };
    let kind = if user.is_empty() { "mqtt" } else { "mqtt-user" };
    if id.len() <= PRODUCER_ID_BYTES_MAX {
        return format!("{kind}:{id}").into();
    }
    // The log bounds the names of producers; a long identifier is replaced by its hash.
    let hash = id.bytes().fold([hash::FNV1A_START, 7], |[a, b], byte| {
        let a = hash::fnv1a_step(a, byte);
        [
            a,
            (b ^ a).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23),
        ]
    });
    format!("{kind}#{:016x}{:016x}", hash[0], hash[1]).into()
}

/// Splits `$share/name/filter`; fails on what is neither that nor a filter.
pub fn split_share(text: &str) -> Result<(Option<Arc<str>>, Filter), Reason> {
    let parse = |f: &str| Filter::parse(spelled(f).1).map_err(|_| Reason::TOPIC_FILTER_INVALID);
    let Some(rest) = text.strip_prefix("$share/") else {
        return match text == "$share" {
            true => Err(Reason::TOPIC_FILTER_INVALID),
            false => Ok((None, parse(text)?)),
        };
    };
    match rest.split_once('/') {
        Some((name, filter)) if !name.is_empty() && !name.contains(['+', '#']) => {
            Ok((Some(name.into()), parse(filter)?))
        }
        _ => Err(Reason::TOPIC_FILTER_INVALID),
    }
}

/// Appends a count.
pub(crate) fn put_count(w: &mut Vec<u8>, n: usize) {
    w.extend_from_slice(&(n as u32).to_be_bytes());
}

/// Appends bytes behind their length.
pub(crate) fn put_bytes(w: &mut Vec<u8>, bytes: &[u8]) {
    put_count(w, bytes.len());
    w.extend_from_slice(bytes);
}

/// Appends positions by partition name.
pub fn put_positions(w: &mut Vec<u8>, positions: &Positions) {
    put_count(w, positions.len());
    for (name, at) in positions {
        put_bytes(w, name.as_bytes());
        w.extend_from_slice(&at.to_be_bytes());
    }
}

fn encode_will(w: &mut Vec<u8>, will: Option<&Will>) {
    let Some(will) = will else {
        w.push(0);
        return;
    };
    w.push(1);
    put_bytes(w, will.topic.as_bytes());
    put_bytes(w, &will.payload);
    w.push(will.qos | u8::from(will.retain) << 2 | u8::from(will.text_payload) << 3);
    w.extend_from_slice(&will.delay_s.to_be_bytes());
    let mut optional = |bytes: Option<&[u8]>| {
        w.push(u8::from(bytes.is_some()));
        put_bytes(w, bytes.unwrap_or(&[]));
    };
    let expiry = will.expiry_s.map(u32::to_be_bytes);
    optional(expiry.as_ref().map(|e| &e[..]));
    optional(will.content_type.as_deref().map(str::as_bytes));
    optional(will.response_topic.as_deref().map(str::as_bytes));
    optional(will.correlation.as_deref());
    put_count(w, will.user.len());
    for (name, value) in &will.user {
        put_bytes(w, name.as_bytes());
        put_bytes(w, value.as_bytes());
    }
}

fn decode_will(r: &mut Fields<'_>) -> Option<Option<Will>> {
    if r.u8()? == 0 {
        return Some(None);
    }
    let topic = r.text()?.to_owned();
    let payload = r.bytes()?.to_vec();
    let bits = r.u8()?;
    let delay_s = r.u32()?;
    let expiry_s = match r.optional()? {
        Some(e) => Some(u32::from_be_bytes(e.try_into().ok()?)),
        None => None,
    };
    let text = |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8_lossy(b).into_owned());
    let content_type = text(r.optional()?);
    let response_topic = text(r.optional()?);
    let correlation = r.optional()?.map(<[u8]>::to_vec);
    let mut user = Vec::new();
    for _ in 0..r.u32()? {
        user.push((r.text()?.to_owned(), r.text()?.to_owned()));
    }
    Some(Some(Will {
        topic,
        payload,
        qos: (bits & 3).min(2),
        retain: bits & 4 != 0,
        delay_s,
        text_payload: bits & 8 != 0,
        expiry_s,
        content_type,
        response_topic,
        correlation,
        user,
    }))
}

/// Reads the fields of a record; `None` at its end.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(record: &'a [u8]) -> Fields<'a> {
        Fields(record)
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.u32()? as usize;
        self.take(n)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn optional(&mut self) -> Option<Option<&'a [u8]>> {
        let there = self.u8()? == 1;
        let bytes = self.bytes()?;
        Some(there.then_some(bytes))
    }

    pub(crate) fn positions(&mut self) -> Option<Positions> {
        let mut all = HashMap::default();
        for _ in 0..self.u32()? {
            let name = self.text()?.into();
            all.insert(name, self.u64()?);
        }
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_and_a_torn_one_is_refused() {
        let id = SessionId {
            user: "u".into(),
            client: "c".into(),
        };
        let mut s = Session::new(id.clone(), 3);
        s.expiry_s = 60;
        s.maybe_sent.insert("inbox/0".into(), 9);
        s.ended = Some(1_700_000_000_000_000);
        s.positions.insert("inbox/0".into(), 7);
        let text: Arc<str> = "$share/g/a/#".into();
        let (share, filter) = split_share(&text).unwrap();
        s.by_text.insert(Arc::clone(&text), 0);
        s.subs.push(Some(Sub {
            text,
            filter,
            share,
            options: SubscribeOptions {
                qos: 2,
                ..Default::default()
            },
            id: 5,
            since: s.positions.clone(),
            reach: Reach::All,
        }));
        let source = Source::Log("inbox/0".into(), 3);
        s.in_flight.insert(
            9,
            InFlight {
                order: 1,
                qos: 2,
                released: true,
                source,
                group: None,
            },
        );
        s.received.insert(
            4,
            Received {
                seq: 8,
                partition: "inbox/0".into(),
                stored: Stored::Yes,
            },
        );
        s.will = Some(Will {
            topic: "w".into(),
            payload: vec![1],
            qos: 1,
            retain: true,
            delay_s: 3,
            text_payload: true,
            expiry_s: Some(9),
            content_type: None,
            response_topic: Some("r".into()),
            correlation: None,
            user: vec![("a".into(), "b".into())],
        });
        let record = s.encode();
        let got = Session::decode(id.clone(), 3, &record).unwrap();
        assert_eq!(got.encode(), record);
        assert_eq!((got.will, got.ended), (s.will.clone(), s.ended));
        // The second version did not know what may have been sent before a crash, the first one neither when
        // the connection ended.
        s.maybe_sent.clear();
        let mut old = s.encode_as(2);
        let second = Session::decode(id.clone(), 0, &old).unwrap();
        assert_eq!((second.ended, &second.positions), (s.ended, &s.positions));
        old[0] = 1;
        old.drain(5..13);
        let old = Session::decode(id.clone(), 0, &old).unwrap();
        assert_eq!((old.ended, old.expiry_s, old.will), (None, 60, s.will));
        for n in 0..record.len() {
            assert!(Session::decode(id.clone(), 3, &record[..n]).is_none());
        }
    }

    #[test]
    fn a_packet_identifier_in_use_is_not_taken() {
        let id = SessionId {
            user: "".into(),
            client: "c".into(),
        };
        let mut s = Session::new(id, 3);
        let send = |s: &mut Session| {
            let id = s.take_id();
            let flight = InFlight {
                order: 1,
                qos: 1,
                released: false,
                source: Source::Log("inbox/0".into(), 3),
                group: None,
            };
            s.add_in_flight(id, flight);
            id
        };
        assert_eq!((send(&mut s), send(&mut s)), (1, 2));
        s.next_id = u16::MAX;
        assert_eq!((send(&mut s), send(&mut s)), (u16::MAX, 3));
    }

    #[test]
    fn shared_filters() {
        assert!(split_share("$share/g/").is_err());
        assert!(split_share("$share/g").is_err());
        assert!(split_share("$share//a").is_err());
        assert!(split_share("$share/g+/a").is_err());
        assert_eq!(split_share("$share/g/a/#").unwrap().0.as_deref(), Some("g"));
        assert_eq!(split_share("$shared/a").unwrap().0, None);
    }
}
