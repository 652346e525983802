//! The TCP connections of one worker thread: bytes in, events to the log, acknowledgements out.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use busbar_bus::{Event, Refused, Status, Ticket};
use busbar_catalog::{AddressRange, GatewayLogin};
use busbar_event::{ARRIVAL, Class, Flags, Micros};
use busbar_gateway::limits::{CLOSE_WAIT_US, OUT_BYTES_STOP_READING, TICK_GAP_US};
use busbar_gateway::reserved::is_reserved;
use busbar_gateway::{
    Admission, Admissions, BusLog, ClientOrigin, ConnId, Credentials, Denied, Effect,
    EventLog as _, Identity, Outbox, Protocol, Slots, Throttle,
};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::counters::{EventTally, SocketCounters};
use crate::framing::{FrameFault, Framing, NextFrame};
use crate::limits::{
    FRAME_WAIT_US, LOGIN_BYTES_MAX, LOGIN_WAIT_US, MESSAGES_UNANSWERED_MAX, TOPICS_REMEMBERED_MAX,
    UNACKNOWLEDGED_MAX,
};
use crate::mllp::{MllpAnswer, MllpAnswers};
use crate::rules::FrameRules;

/// What the threads of a TCP gateway share.
pub(crate) struct TcpShared {
    pub name: Box<str>,
    pub framing: Framing,
    pub rules: FrameRules,
    pub frame_bytes_max: usize,
    pub login: Option<GatewayLogin>,
    pub allow: Vec<AddressRange>,
    pub acknowledge: bool,
    /// Zero for any.
    pub idle_us: Micros,
    /// Microseconds that each event has to itself; zero when a connection may send any number.
    pub pace_us: Micros,
    pub admissions: Arc<Admissions>,
    pub counters: Arc<SocketCounters>,
    /// Bounds what is logged about refused logins and frames.
    pub log_lines: Throttle,
}

/// The connections of one thread.
pub(crate) struct TcpSessions {
    log: BusLog,
    shared: Arc<TcpShared>,
    conns: Slots<TcpConn>,
    awake: Vec<ConnId>,
    acking: Vec<ConnId>,
    effects: Vec<Effect<(), ()>>,
    topic: String,
    /// An answer as a frame; kept for its memory.
    frame: Vec<u8>,
    mllp: MllpAnswers,
    tally: EventTally,
    ticked: Option<Micros>,
}

struct TcpConn {
    phase: TcpPhase,
    /// Address of the client, as `${peer}` shows it.
    peer: Box<str>,
    /// What events say of their sender.
    client: Box<str>,
    origin: ClientOrigin,
    identity: Option<Arc<dyn Identity>>,
    unrestricted: bool,
    permissions: HashMap<Box<str>, bool, RandomState>,
    /// Bytes of a frame that has not come wholly, or that wait for the login.
    partial: Vec<u8>,
    searched: usize,
    partial_since: Micros,
    heard: Micros,
    /// When all events sent so far have had their time.
    paced_until: Micros,
    acks: VecDeque<AnswerRun>,
    unacknowledged: usize,
    out: Outbox,
    awake: bool,
    acking: bool,
    close_by: Option<Micros>,
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TcpPhase {
    /// The first frame is the login.
    Login,
    /// The login is checked.
    Authenticating,
    Live,
    /// To be closed once what is ready is written.
    Closing,
}

/// Consecutive frames with one answer.
struct AnswerRun {
    answer: FrameAnswer,
    count: usize,
    /// How HL7 has the answer; then it is of one frame.
    mllp: Option<MllpAnswer>,
}

#[derive(Clone, Copy, PartialEq)]
enum FrameAnswer {
    /// When this is committed.
    Ticket(Ticket),
    /// At once.
    Refused(&'static str, Class),
}

impl TcpConn {
    /// Puts an answer at the end of the queue.
    fn answer(
        &mut self,
        id: ConnId,
        answer: FrameAnswer,
        mllp: Option<MllpAnswer>,
        acking: &mut Vec<ConnId>,
    ) {
        self.unacknowledged += 1;
        match self.acks.back_mut() {
            Some(last) if last.answer == answer && last.mllp.is_none() && mllp.is_none() => {
                last.count += 1;
            }
            _ => self.acks.push_back(AnswerRun {
                answer,
                count: 1,
                mllp,
            }),
        }
        if !self.acking {
            self.acking = true;
            acking.push(id);
        }
    }
}

impl TcpSessions {
    pub fn new(log: BusLog, shared: Arc<TcpShared>) -> TcpSessions {
        TcpSessions {
            log,
            shared,
            conns: Slots::default(),
            awake: Vec::new(),
            acking: Vec::new(),
            effects: Vec::new(),
            topic: String::new(),
            frame: Vec::new(),
            mllp: MllpAnswers::default(),
            tally: EventTally::default(),
            ticked: None,
        }
    }

    /// Frames of one connection that may wait for their commit.
    fn unanswered_max(&self) -> usize {
        match self.shared.framing {
            Framing::Mllp => MESSAGES_UNANSWERED_MAX,
            _ => UNACKNOWLEDGED_MAX,
        }
    }

    fn wake(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && !conn.awake
        {
            conn.awake = true;
            self.awake.push(id);
        }
    }

    /// Ends a connection because of what the client did. It is told with an `error` frame.
    fn refuse(&mut self, id: ConnId, code: &'static str, now: Micros) {
        let shared = Arc::clone(&self.shared);
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.phase == TcpPhase::Closing {
            return;
        }
        shared.counters.closed.fetch_add(1, Relaxed);
        if let Some(left_out) = shared.log_lines.admit(now) {
            let (gateway, peer) = (&*shared.name, &*conn.peer);
            let too_long = code == FrameFault::TooLong.code() && conn.phase == TcpPhase::Live;
            let most = too_long.then_some(shared.frame_bytes_max);
            let setting = too_long.then_some("frame_size");
            tracing::warn!(
                gateway,
                peer,
                code,
                most,
                setting,
                left_out,
                "a connection was closed"
            );
        }
        conn.phase = TcpPhase::Closing;
        conn.refused = true;
        conn.partial = Vec::new();
        let mllp = match (&shared.framing, is_fault_of_frame(code)) {
            (Framing::Mllp, true) => Some(self.mllp.answer_nothing(now)),
            // Senders of HL7 expect nothing that answers no message.
            (Framing::Mllp, false) => return self.wake(id),
            _ => None,
        };
        let answer = FrameAnswer::Refused(code, Class::Permanent);
        conn.answer(id, answer, mllp, &mut self.acking);
        self.wake(id);
    }

    /// Takes whole frames from the front; returns how many bytes they took.
    fn frames(&mut self, id: ConnId, bytes: &[u8], mut searched: usize, now: Micros) -> usize {
        let shared = Arc::clone(&self.shared);
        let mut at = 0;
        loop {
            let Some(conn) = self.conns.get_mut(id) else {
                return bytes.len();
            };
            let bytes_max = match conn.phase {
                TcpPhase::Login => LOGIN_BYTES_MAX.min(shared.frame_bytes_max.max(256)),
                TcpPhase::Live => shared.frame_bytes_max,
                TcpPhase::Authenticating => return at,
                TcpPhase::Closing => return bytes.len(),
            };
            match shared.framing.next(&bytes[at..], searched, bytes_max) {
                NextFrame::Whole(frame, used) => {
                    at += used;
                    searched = 0;
                    if frame.is_empty() {
                        continue;
                    }
                    conn.heard = now;
                    match conn.phase {
                        TcpPhase::Login => self.login(id, frame),
                        _ => self.take(id, frame, now),
                    }
                }
                NextFrame::Partial(searched) => {
                    conn.searched = searched;
                    return at;
                }
                NextFrame::Refused(fault) => {
                    self.refuse(id, fault.code(), now);
                    return bytes.len();
                }
            }
        }
    }

    /// Asks for the login that the first frame holds: a token, or a name and password.
    fn login(&mut self, id: ConnId, frame: &[u8]) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let text = String::from_utf8_lossy(frame);
        let (username, password) = match text.split_once(':') {
            Some((name, password)) => (Some(name.to_owned()), password),
            None => (None, &*text),
        };
        let credentials = Credentials {
            client_id: conn.client.to_string(),
            username,
            password: Some(password.as_bytes().to_vec()),
            origin: conn.origin.clone(),
        };
        conn.phase = TcpPhase::Authenticating;
        self.effects.push(Effect::Authenticate(id, credentials));
    }

    /// Publishes the event of a frame.
    fn take(&mut self, id: ConnId, frame: &[u8], now: Micros) {
        let TcpSessions {
            log,
            shared,
            conns,
            topic,
            tally,
            acking,
            mllp,
            ..
        } = self;
        let Some(conn) = conns.get_mut(id) else {
            return;
        };
        let mut answered = None;
        let mut unread = None;
        if matches!(shared.framing, Framing::Mllp) {
            let (answer, refused) = mllp.to(frame, now);
            answered = Some(answer);
            unread = refused;
        }
        if shared.pace_us > 0 {
            conn.paced_until = conn.paced_until.max(now) + shared.pace_us;
        }
        let user = conn
            .identity
            .as_ref()
            .map_or("", |identity| identity.user());
        let ruled = shared
            .rules
            .apply(frame, &conn.peer, user, topic)
            .and_then(|ruled| match is_reserved(ruled.topic) {
                true => Err("gateway.frame-not-allowed"),
                false => Ok(ruled),
            });
        let ruled = match unread {
            Some(code) => Err(code),
            None => ruled,
        };
        let result = match ruled {
            Ok(ruled) if conn.unrestricted || may_publish(conn, log, ruled.topic) => {
                let event = Event {
                    topic: ruled.topic,
                    key: None,
                    time: ARRIVAL,
                    client: Some(&conn.client),
                    flags: Flags::default().with_qos(u8::from(shared.acknowledge)),
                    tags: &[],
                    payload: ruled.payload,
                };
                match log.publish(&event, None) {
                    Ok(ticket) => {
                        tally.events += 1;
                        tally.bytes += ruled.payload.len() as u64;
                        FrameAnswer::Ticket(ticket)
                    }
                    Err(refused) => FrameAnswer::Refused(code_of(refused), refused.class()),
                }
            }
            Ok(_) => FrameAnswer::Refused("gateway.frame-not-allowed", Class::Permanent),
            Err(code) => FrameAnswer::Refused(code, Class::Permanent),
        };
        if let FrameAnswer::Refused(code, _) = result {
            tally.refused += 1;
            if let Some(left_out) = shared.log_lines.admit(now) {
                let (gateway, peer) = (&*shared.name, &*conn.peer);
                tracing::warn!(gateway, peer, code, left_out, "a frame was refused");
            }
        }
        if shared.acknowledge {
            conn.answer(id, result, answered, acking);
        }
    }

    /// Answers the frames at the front of a connection's queue whose events have settled. True while more wait.
    fn release(&mut self, id: ConnId) -> bool {
        let TcpSessions {
            log,
            shared,
            conns,
            tally,
            frame,
            ..
        } = self;
        let Some(conn) = conns.get_mut(id) else {
            return false;
        };
        let mut any = false;
        while let Some(run) = conn.acks.front() {
            let refused = match run.answer {
                FrameAnswer::Refused(code, class) => Some((code, class)),
                FrameAnswer::Ticket(ticket) => match log.status(ticket) {
                    Status::Pending => break,
                    Status::Committed => None,
                    Status::Failed(failure) => {
                        tally.refused += run.count as u64;
                        // The disk failed it; the message itself is good.
                        Some((failure.error().code(), Class::Transient))
                    }
                },
            };
            let count = run.count;
            frame.clear();
            match (&run.mllp, refused) {
                (Some(mllp), refused) => mllp.write(refused, &shared.framing, frame),
                (None, None) => shared.framing.write(b"ok", frame),
                (None, Some((code, _))) => {
                    let text = error_text(&shared.framing, code);
                    shared.framing.write(text.as_bytes(), frame);
                }
            }
            conn.out.append(None, |out| {
                out.reserve(count * frame.len());
                for _ in 0..count {
                    out.extend_from_slice(frame);
                }
            });
            conn.unacknowledged -= count;
            conn.acks.pop_front();
            any = true;
        }
        conn.acking = !conn.acks.is_empty();
        let acking = conn.acking;
        if any {
            self.wake(id);
        }
        acking
    }

    /// Takes the frames that were kept while the login was checked.
    fn resume(&mut self, id: ConnId, now: Micros) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let mut partial = std::mem::take(&mut conn.partial);
        let searched = std::mem::take(&mut conn.searched);
        let used = self.frames(id, &partial, searched, now);
        partial.drain(..used);
        if let Some(conn) = self.conns.get_mut(id)
            && conn.phase != TcpPhase::Closing
        {
            conn.partial = partial;
        }
    }
}

/// The text of an `error` frame; shortened where the length before a frame has one byte.
fn error_text(framing: &Framing, code: &str) -> String {
    let mut text = format!("error {code}");
    if matches!(framing, Framing::Length(1, _)) {
        text.truncate(u8::MAX.into());
    }
    text
}

/// Whether a connection ends because of what a frame is.
fn is_fault_of_frame(code: &str) -> bool {
    let faults = [FrameFault::TooLong, FrameFault::Empty, FrameFault::NoBlock];
    faults.iter().any(|fault| fault.code() == code)
}

/// The code of a refusal by the log.
pub(crate) fn code_of(refused: Refused) -> &'static str {
    refused.error().code()
}

fn may_publish(conn: &mut TcpConn, log: &BusLog, topic: &str) -> bool {
    if let Some(known) = conn.permissions.get(topic) {
        return *known;
    }
    let stream = log.stream_of(topic);
    let may = conn
        .identity
        .as_ref()
        .is_some_and(|identity| identity.may_publish(topic, &stream));
    if conn.permissions.len() >= TOPICS_REMEMBERED_MAX {
        conn.permissions.clear();
    }
    conn.permissions.insert(topic.into(), may);
    may
}

/// Whether an address may send.
pub(crate) fn is_allowed(allow: &[AddressRange], address: Option<IpAddr>) -> bool {
    allow.is_empty() || address.is_some_and(|a| allow.iter().any(|net| net.contains(a)))
}

impl Protocol for TcpSessions {
    type Reader = ();
    type Message = ();

    fn log(&mut self) -> &mut BusLog {
        &mut self.log
    }

    fn open(&mut self, mut origin: ClientOrigin, _: bool, now: Micros) -> Option<ConnId> {
        let shared = Arc::clone(&self.shared);
        let address = origin.address.map(|a| a.ip().to_canonical());
        if !is_allowed(&shared.allow, address) {
            shared.counters.closed.fetch_add(1, Relaxed);
            if let Some(left_out) = shared.log_lines.admit(now) {
                let (gateway, peer) = (&*shared.name, address.map(tracing::field::display));
                tracing::warn!(gateway, peer, left_out, "an address that is not allowed");
            }
            return None;
        }
        let admission = shared.admissions.open_connection();
        if admission == Admission::Refused {
            shared.counters.closed.fetch_add(1, Relaxed);
            if let Some(left_out) = shared.log_lines.admit(now) {
                let (gateway, peer) = (&*shared.name, address.map(tracing::field::display));
                tracing::warn!(gateway, peer, left_out, "a connection too many was refused");
            }
            return None;
        }
        let peer = address.map_or_else(|| "unknown".to_owned(), |a| a.to_string());
        let client = format!("{}/{peer}", shared.name);
        let phase = match &shared.login {
            Some(GatewayLogin::Frame) => TcpPhase::Login,
            _ => TcpPhase::Authenticating,
        };
        match &shared.login {
            Some(GatewayLogin::User(user)) => origin.user = Some(user.as_str().into()),
            Some(GatewayLogin::Certificate) => {}
            _ => origin.user = None,
        }
        let credentials = Credentials {
            client_id: client.clone(),
            username: None,
            password: None,
            origin: origin.clone(),
        };
        let id = self.conns.add(TcpConn {
            phase,
            peer: peer.into(),
            client: client.into(),
            origin,
            identity: None,
            unrestricted: false,
            permissions: HashMap::default(),
            partial: Vec::new(),
            searched: 0,
            partial_since: now,
            heard: now,
            paced_until: now,
            acks: VecDeque::new(),
            unacknowledged: 0,
            out: Outbox::default(),
            awake: false,
            acking: false,
            close_by: None,
            refused: false,
        });
        if admission == Admission::Surplus || shared.admissions.is_stopping() {
            self.refuse(id, "gateway.too-many-connections", now);
        } else if phase == TcpPhase::Authenticating {
            self.effects.push(Effect::Authenticate(id, credentials));
        }
        Some(id)
    }

    fn input(&mut self, id: ConnId, bytes: &[u8], now: Micros) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.partial.is_empty() {
            let used = self.frames(id, bytes, 0, now);
            if let Some(conn) = self.conns.get_mut(id)
                && conn.phase != TcpPhase::Closing
                && used < bytes.len()
            {
                conn.partial.extend_from_slice(&bytes[used..]);
                conn.partial_since = now;
            }
            return;
        }
        conn.partial.extend_from_slice(bytes);
        let before = conn.partial.len();
        self.resume(id, now);
        if let Some(conn) = self.conns.get_mut(id)
            && conn.partial.len() < before
        {
            conn.partial_since = now;
            if conn.partial.is_empty() {
                // Idle connections hold no buffer.
                conn.partial = Vec::new();
            }
        }
    }

    fn input_ended(&mut self, id: ConnId, _: Micros) -> bool {
        // The client may wait for its answers.
        if let Some(conn) = self.conns.get_mut(id) {
            if !conn.partial.is_empty() {
                self.tally.refused += 1;
            }
            conn.partial = Vec::new();
            conn.phase = TcpPhase::Closing;
        }
        true
    }

    fn output(&self, id: ConnId) -> &[u8] {
        self.conns.get(id).map_or(&[], |conn| conn.out.writable())
    }

    fn wrote(&mut self, id: ConnId, n: usize) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.out.wrote(n);
        }
    }

    fn wants_input(&mut self, id: ConnId, now: Micros) -> bool {
        let writable = self.log.writable();
        self.conns.get(id).is_some_and(|conn| match conn.phase {
            TcpPhase::Login => true,
            TcpPhase::Live => {
                writable
                    && conn.unacknowledged < self.unanswered_max()
                    && conn.out.len() < OUT_BYTES_STOP_READING
                    && !is_ahead(conn, &self.shared, now)
            }
            TcpPhase::Authenticating | TcpPhase::Closing => false,
        })
    }

    fn is_closing(&mut self, id: ConnId) -> bool {
        self.conns
            .get(id)
            .is_none_or(|conn| conn.phase == TcpPhase::Closing && conn.acks.is_empty())
    }

    fn was_refused(&mut self, id: ConnId) -> bool {
        self.conns.get(id).is_some_and(|conn| conn.refused)
    }

    fn gone(&mut self, id: ConnId, _: Micros) {
        if self.conns.remove(id).is_some() {
            self.shared.admissions.close_connection();
        }
    }

    fn take_awake(&mut self) -> Vec<ConnId> {
        let awake = std::mem::take(&mut self.awake);
        for id in &awake {
            if let Some(conn) = self.conns.get_mut(*id) {
                conn.awake = false;
            }
        }
        awake
    }

    fn take_effects(&mut self) -> Vec<Effect<(), ()>> {
        std::mem::take(&mut self.effects)
    }

    fn has_work(&self) -> bool {
        !self.acking.is_empty()
    }

    fn turn(&mut self, _: Micros) -> bool {
        self.log.flush();
        let mut acking = std::mem::take(&mut self.acking);
        acking.retain(|id| self.release(*id));
        self.acking = acking;
        self.tally.flush(&self.shared.counters);
        false
    }

    fn tick(&mut self, now: Micros) {
        let gap = now - self.ticked.replace(now).unwrap_or(now);
        let halted = !(0..=TICK_GAP_US).contains(&gap);
        let writable = self.log.writable();
        let (shared, mut end) = (Arc::clone(&self.shared), Vec::new());
        for (id, conn) in self.conns.iter_mut() {
            if halted {
                // The process did not run: what clients sent may still be in the sockets.
                conn.heard += gap;
                conn.partial_since += gap;
            }
            conn.out.trim();
            let silent = now - conn.heard;
            match conn.phase {
                TcpPhase::Closing => match conn.close_by {
                    Some(at) if now >= at => {
                        conn.out = Outbox::default();
                        conn.acks.clear();
                        end.push((id, None));
                    }
                    Some(_) => {}
                    None => conn.close_by = Some(now + CLOSE_WAIT_US),
                },
                TcpPhase::Login if silent > LOGIN_WAIT_US => {
                    end.push((id, Some("gateway.login-missing")));
                }
                TcpPhase::Live
                    if !writable || !conn.acks.is_empty() || is_ahead(conn, &shared, now) =>
                {
                    // Its socket is not read, or it waits for an answer: the silence is not the client's.
                    conn.heard = now;
                    conn.partial_since = now;
                }
                TcpPhase::Live if conn.identity.as_ref().is_some_and(|i| !i.is_current()) => {
                    end.push((id, Some("gateway.login-over")));
                }
                TcpPhase::Live if shared.idle_us > 0 && silent > shared.idle_us => {
                    end.push((id, Some("gateway.idle")));
                }
                TcpPhase::Live
                    if !conn.partial.is_empty() && now - conn.partial_since > FRAME_WAIT_US =>
                {
                    end.push((id, Some("gateway.frame-unfinished")));
                }
                _ => {}
            }
        }
        for (id, code) in end {
            match code {
                Some(code) => self.refuse(id, code, now),
                None => self.wake(id),
            }
        }
    }

    fn is_watching(&self) -> bool {
        !self.acking.is_empty()
    }

    fn connections(&self) -> usize {
        self.conns.count()
    }

    fn authenticated(
        &mut self,
        id: ConnId,
        result: Result<Arc<dyn Identity>, Denied>,
        now: Micros,
    ) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.phase != TcpPhase::Authenticating {
            return;
        }
        match result {
            Ok(identity) => {
                conn.unrestricted = identity.is_unrestricted();
                conn.identity = Some(identity);
                conn.phase = TcpPhase::Live;
                conn.heard = now;
                self.wake(id);
                self.resume(id, now);
            }
            Err(denied) => {
                self.shared.counters.logins_refused.fetch_add(1, Relaxed);
                let code = match denied {
                    Denied::NoCredentials | Denied::BadCredentials => "gateway.login-refused",
                    Denied::TryLater => "gateway.login-later",
                    Denied::Failed => "gateway.login-failed",
                };
                self.refuse(id, code, now);
            }
        }
    }

    fn shut_down(&mut self, now: Micros) {
        // What was taken is answered once it is committed; nothing more is read.
        let all: Vec<ConnId> = self.conns.iter_mut().map(|(id, _)| id).collect();
        for id in all {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.phase = TcpPhase::Closing;
                conn.partial = Vec::new();
            }
            self.wake(id);
        }
        self.turn(now);
    }
}

fn is_ahead(conn: &TcpConn, shared: &TcpShared, now: Micros) -> bool {
    shared.pace_us > 0 && conn.paced_until > now + busbar_gateway::limits::PACE_AHEAD_US
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
