//! One connection: its output, its acknowledgements in order, and where it is in its life.

use std::collections::VecDeque;
use std::sync::Arc;

use busbar_bus::Chunk;
use busbar_event::Micros;
use busbar_mqtt::control::Connect;
use busbar_mqtt::{AckKind, Decoder, Reason, Version};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::limits::{LARGE_PACKET_BYTES_PER_SECOND_MIN, PACE_AHEAD_US};
use crate::state::Session;
use busbar_gateway::Outbox;
use busbar_gateway::{ClientOrigin, ConnId, Identity};

/// Acknowledgements of consecutive publishes that share a fate.
#[derive(Debug)]
pub struct AckRun<T> {
    /// What they wait for.
    pub state: AckState<T>,
    /// First packet identifier.
    pub first: u16,
    /// How many.
    pub count: u32,
    /// PUBACK or PUBREC.
    pub kind: AckKind,
}

/// What an acknowledgement waits for.
#[derive(Debug, PartialEq)]
pub enum AckState<T> {
    /// A commit.
    Ticket(T),
    /// A held QoS 2 publish: its sequence number.
    Held(u64),
    /// A QoS 2 publish that comes again while the first one is still on its way to the disk: its
    /// packet identifier.
    Doubt(u16),
    /// Nothing.
    Done(Reason),
}

/// A QoS 2 publish of a persistent session that waits until its packet identifier is journalled.
#[derive(Debug)]
pub struct Held {
    /// The journal batch.
    pub gate: u64,
    /// The session's sequence number.
    pub seq: u64,
    /// The event, owned.
    pub event: OwnedEvent,
}

/// An event that had to be kept.
#[derive(Debug, Default)]
pub struct OwnedEvent {
    /// Topic.
    pub topic: String,
    /// Flags.
    pub flags: busbar_event::Flags,
    /// Tags.
    pub tags: Vec<(String, String)>,
    /// Payload.
    pub payload: Vec<u8>,
    /// Time.
    pub time: Micros,
}

impl OwnedEvent {
    /// Bytes it keeps.
    pub fn bytes(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(n, v)| n.len() + v.len()).sum();
        self.topic.len() + self.payload.len() + tags + 64
    }

    /// Lends it as an event of `client`.
    pub fn lend<R>(&self, client: &str, with: impl FnOnce(&busbar_bus::Event<'_>) -> R) -> R {
        let tags: Vec<(&str, &str)> = self
            .tags
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        with(&busbar_bus::Event {
            topic: &self.topic,
            key: None,
            time: self.time,
            client: Some(client),
            flags: self.flags,
            tags: &tags,
            payload: &self.payload,
        })
    }
}

/// Where a connection is in its life.
#[derive(Debug)]
pub enum Phase {
    /// CONNECT is awaited.
    Connect,
    /// The authority is asked.
    Authenticating(Box<Connect>),
    /// The session is fetched from another core; somebody may already want it from us.
    Claiming(Box<Connect>, Option<Eviction>),
    /// Packets flow.
    Live,
    /// To be closed once what is ready is written.
    Closing,
}

/// Another connection wants this one's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Core of the newcomer.
    pub core: usize,
    /// The newcomer.
    pub conn: ConnId,
    /// It starts clean: the session ends.
    pub clean: bool,
}

/// A partition that a session reads at its own pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Partition.
    pub partition: u32,
    /// Next offset.
    pub at: u64,
}

/// What a read from disk brought.
#[derive(Debug)]
pub struct DiskRead {
    /// Partition.
    pub partition: u32,
    /// Offset that was asked for.
    pub offset: u64,
    /// The rows, or where to go on when there are none.
    pub result: Result<Vec<Chunk>, u64>,
}

/// Retained messages still to be sent for a subscription.
#[derive(Debug)]
pub struct RetainedTask {
    /// Slot of the subscription.
    pub sub: u32,
    /// Topic sent last.
    pub after: Option<String>,
}

/// One connection.
pub struct Conn<T> {
    /// Who.
    pub id: ConnId,
    /// From where.
    pub origin: ClientOrigin,
    /// Packets in.
    pub decoder: Decoder,
    /// The version, 3.1.1 until CONNECT says.
    pub version: Version,
    /// Life.
    pub phase: Phase,
    /// Bytes of a packet that has not arrived wholly, or that wait for the phase to change.
    pub partial: Vec<u8>,
    /// Bytes of the large packet that it has begun to send, booked for it; zero for none.
    pub large: usize,
    /// Since when.
    pub large_since: Micros,
    /// There was no room for its large packet when this was looked at last.
    pub waits_for_room: bool,
    /// Bytes out.
    pub out: Outbox,
    /// Acknowledgements in order.
    pub acks: VecDeque<AckRun<T>>,
    /// A listener has counted it in its second already.
    pub skip_rate_limit: bool,
    /// It is one too many.
    pub surplus: bool,
    /// In the core's list of connections with acknowledgements.
    pub acking: bool,
    /// In the core's list of connections to be looked at by their sockets.
    pub awake: bool,
    /// In the core's list of connections that can take more.
    pub pumping: bool,
    /// The session; there from CONNACK on.
    pub session: Option<Box<Session>>,
    /// Who it is.
    pub identity: Option<Arc<dyn Identity>>,
    /// Nothing has to be asked event by event.
    pub unrestricted: bool,
    /// Topics that may, or may not, be published to.
    pub permissions: HashMap<Box<str>, bool, RandomState>,
    /// Microseconds of silence allowed; zero for any.
    pub silence_us: Micros,
    /// When the last packet came, or the connection.
    pub heard: Micros,
    /// QoS 1 and 2 messages the client takes at a time.
    pub window: usize,
    /// Of the session's messages in flight, those sent on this connection that count.
    pub sent: usize,
    /// Largest packet the client takes.
    pub packet_out_max: usize,
    /// The client wants reason strings.
    pub problem_info: bool,
    /// Aliases the client set.
    pub aliases_in: Vec<Option<Box<str>>>,
    /// Aliases we set.
    pub aliases_out: HashMap<Box<str>, u16, RandomState>,
    /// How many of ours the client takes.
    pub aliases_out_max: u16,
    /// Publishes with QoS 1 or 2 not yet done.
    pub receiving: u32,
    /// How many there may be: what CONNACK said to a 5.0 client; 3.1.1 knows no such bound, there
    /// it is the number of packet identifiers.
    pub receive_max: u32,
    /// Microseconds that each publish has to itself; zero when it may make any number.
    pub pace_us: Micros,
    /// When all publishes made so far have had theirs.
    pub paced_until: Micros,
    /// What the last publish waits for.
    pub last_ticket: Option<T>,
    /// A SUBSCRIBE waits until what was published before it is committed, and all that follows waits
    /// behind it: otherwise it would bring those messages as new ones, not as retained.
    pub waits_for_commit: bool,
    /// The topic of the last publish, known to be text.
    pub last_topic: String,
    /// Partitions read at its own pace.
    pub lag: Vec<Lag>,
    /// Rows before these offsets went to this session before.
    pub from: Vec<(u32, u64)>,
    /// QoS 0 rows before these offsets passed while it was away.
    pub qos0_from: Vec<(u32, u64)>,
    /// QoS 1 rows before these offsets may have been sent before the node was killed.
    pub maybe_sent: Vec<(u32, u64)>,
    /// A read from disk is under way.
    pub reading: bool,
    /// What it brought.
    pub cold: Option<DiskRead>,
    /// Packet identifiers to send again, in order.
    pub resend: VecDeque<u16>,
    /// Retained messages to send.
    pub retained: VecDeque<RetainedTask>,
    /// QoS 2 publishes held.
    pub held: VecDeque<Held>,
    /// Their bytes.
    pub held_bytes: usize,
    /// The session must be journalled with the next batch.
    pub must_journal: bool,
    /// The session should be journalled some time.
    pub lazy_journal: bool,
    /// The journal batch that its CONNACK still waits for.
    pub connack_gate: Option<u64>,
    /// Its session began with it.
    pub began_session: bool,
    /// The server ended it and said why.
    pub refused: bool,
    /// The client said goodbye properly: no will.
    pub said_goodbye: bool,
    /// When the end of a closing connection is forced.
    pub close_by: Option<Micros>,
    /// The identifier the server chose for it, until CONNACK said so.
    pub assigned: Option<String>,
}

impl<T> Conn<T> {
    /// A connection of which nothing is known.
    pub fn new(id: ConnId, origin: ClientOrigin, packet_bytes_max: u32, now: Micros) -> Conn<T> {
        Conn {
            id,
            origin,
            decoder: Decoder::new(packet_bytes_max),
            version: Version::V311,
            phase: Phase::Connect,
            partial: Vec::new(),
            large: 0,
            large_since: 0,
            waits_for_room: false,
            out: Outbox::default(),
            acks: VecDeque::new(),
            skip_rate_limit: false,
            surplus: false,
            acking: false,
            awake: false,
            pumping: false,
            session: None,
            identity: None,
            unrestricted: false,
            permissions: HashMap::default(),
            silence_us: 0,
            heard: now,
            window: 0,
            sent: 0,
            packet_out_max: usize::MAX,
            problem_info: true,
            aliases_in: Vec::new(),
            aliases_out: HashMap::default(),
            aliases_out_max: 0,
            receiving: 0,
            receive_max: u32::from(u16::MAX),
            pace_us: 0,
            paced_until: 0,
            last_ticket: None,
            waits_for_commit: false,
            last_topic: String::new(),
            lag: Vec::new(),
            from: Vec::new(),
            qos0_from: Vec::new(),
            maybe_sent: Vec::new(),
            reading: false,
            cold: None,
            resend: VecDeque::new(),
            retained: VecDeque::new(),
            held: VecDeque::new(),
            held_bytes: 0,
            must_journal: false,
            lazy_journal: false,
            connack_gate: None,
            began_session: false,
            refused: false,
            said_goodbye: false,
            close_by: None,
            assigned: None,
        }
    }

    /// Whether it published more than it may, so that it has to wait.
    #[inline]
    pub fn is_ahead(&self, now: Micros) -> bool {
        self.pace_us > 0 && self.paced_until > now + PACE_AHEAD_US
    }

    /// Whether its large packet, which may keep others waiting, comes too slowly.
    pub fn is_too_slow(&self, now: Micros) -> bool {
        let seconds = (now - self.large_since) / 1_000_000;
        self.large > 0 && seconds * LARGE_PACKET_BYTES_PER_SECOND_MIN > self.large as i64
    }

    /// What an acknowledgement may say in words: nothing when the client does not want to hear it
    /// or it would make the packet larger than the client takes.
    pub fn words_for(&self, reason: Reason) -> Option<&'static str> {
        const AROUND_BYTES: usize = 9;
        let text = reason.name();
        (self.problem_info && text.len() + AROUND_BYTES <= self.packet_out_max).then_some(text)
    }

    /// Whether packets flow.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// The session's position in a partition, if it lags there.
    pub fn lag_in(&self, partition: u32) -> Option<u64> {
        self.lag
            .iter()
            .find(|l| l.partition == partition)
            .map(|l| l.at)
    }

    /// Puts an acknowledgement at the end of the queue, joined to its predecessor if it can be.
    #[inline]
    pub fn push_ack(&mut self, state: AckState<T>, id: u16, kind: AckKind)
    where
        T: PartialEq,
    {
        if let Some(last) = self.acks.back_mut()
            && last.kind == kind
            && last.state == state
            && !matches!(state, AckState::Held(_) | AckState::Doubt(_))
            && u32::from(last.first) + last.count == u32::from(id)
        {
            last.count += 1;
            return;
        }
        self.acks.push_back(AckRun {
            state,
            first: id,
            count: 1,
            kind,
        });
    }
}
