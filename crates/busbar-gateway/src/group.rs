//! A shared subscription: one cursor for all its members.
//!
//! Whichever core looks first reads what was committed and deals the rows round robin to members
//! with room; the others find theirs in their queues. A row is outstanding until it was written
//! (QoS 0) or acknowledged; rows of members that leave are dealt again.
//!
//! Cursors and outstanding rows are journalled lazily. After a proper restart each row is still
//! delivered once; after a crash some come twice, whatever their QoS, and none is lost.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use arrow::array::Array as _;
use busbar_bus::Chunk;
use busbar_event::Batch;
use busbar_event::topic::Filter;

use crate::conn::ConnId;
use crate::limits::{CATCH_UP_READ_BYTES, GROUP_QUEUE_ROWS_MAX};
use crate::registry::Shared;
use crate::spine::{PartitionInfo, Spine};
use crate::state::{Fields, Positions, Session, Source, put_bytes, put_count, put_positions};

/// A shared subscription.
pub struct Group {
    /// `$share/name/filter`.
    pub text: Arc<str>,
    /// What it matches.
    pub filter: Filter,
    /// Sessions that subscribe, connected or not.
    pub sessions: usize,
    members: Vec<Member>,
    next: usize,
    again: VecDeque<Dealt>,
    cursors: Vec<(u32, u64)>,
    outstanding: BTreeSet<(u32, u64)>,
    topology: Option<u64>,
    partitions: Vec<PartitionInfo>,
    start: Positions,
    /// Rows that were dealt before a restart and not done.
    pending: Vec<(Arc<str>, u64)>,
    /// Of those, and of what lies behind the cursors, the rows that sessions hold in flight.
    taken: BTreeSet<(Arc<str>, u64)>,
    reading: bool,
}

struct Member {
    core: usize,
    conn: ConnId,
    queue: VecDeque<Dealt>,
    full: bool,
}

/// A row dealt to a member.
#[derive(Clone, Debug)]
pub struct Dealt {
    /// Partition.
    pub partition: u32,
    /// Offset.
    pub offset: u64,
    /// The batch and the row in it; `None` when it has to be read again.
    pub row: Option<(Batch, usize)>,
    /// Members that may not receive it: their cores and connections.
    pub declined: Vec<(usize, ConnId)>,
}

/// What a round of dealing asks for.
#[derive(Debug, Default)]
pub struct Round {
    /// Cores whose members were dealt rows.
    pub wake: Vec<usize>,
    /// A read from disk that is needed to go on.
    pub cold: Option<(u32, u64)>,
    /// There is more to deal.
    pub more: bool,
}

impl Group {
    /// A group whose cursors start at `start`; partitions not named there start at their beginning.
    pub fn new(text: Arc<str>, filter: Filter, start: Positions) -> Group {
        Group {
            text,
            filter,
            sessions: 0,
            members: Vec::new(),
            next: 0,
            again: VecDeque::new(),
            cursors: Vec::new(),
            outstanding: BTreeSet::new(),
            topology: None,
            partitions: Vec::new(),
            start,
            pending: Vec::new(),
            taken: BTreeSet::new(),
            reading: false,
        }
    }

    /// A group from its record; `None` when it is not one.
    pub fn decode(text: Arc<str>, filter: Filter, record: &[u8]) -> Option<Group> {
        let mut r = Fields::new(record);
        let start = r.positions()?;
        let mut group = Group::new(text, filter, start);
        for _ in 0..r.u32()? {
            let name = r.text()?.into();
            group.pending.push((name, r.u64()?));
        }
        Some(group)
    }

    /// What is to be known after a restart: the cursors, and the rows that are not done.
    pub fn encode(&self) -> Vec<u8> {
        let name = |number: u32| self.partitions.iter().find(|p| p.number == number);
        let mut cursors = self.start.clone();
        for (number, at) in &self.cursors {
            if let Some(info) = name(*number) {
                cursors.insert(Arc::clone(&info.name), *at);
            }
        }
        let mut rows: Vec<(Arc<str>, u64)> = self.pending.clone();
        for (number, offset) in &self.outstanding {
            if let Some(info) = name(*number) {
                rows.push((Arc::clone(&info.name), *offset));
            }
        }
        let mut record = Vec::new();
        put_positions(&mut record, &cursors);
        put_count(&mut record, rows.len());
        for (name, offset) in rows {
            put_bytes(&mut record, name.as_bytes());
            record.extend_from_slice(&offset.to_be_bytes());
        }
        record
    }

    /// A session that was read from disk holds this row in flight.
    pub fn take(&mut self, partition: &Arc<str>, offset: u64) {
        self.taken.insert((Arc::clone(partition), offset));
    }

    /// A member connects.
    pub fn join(&mut self, core: usize, conn: ConnId) {
        if !self
            .members
            .iter()
            .any(|m| m.core == core && m.conn == conn)
        {
            self.members.push(Member {
                core,
                conn,
                queue: VecDeque::new(),
                full: false,
            });
        }
    }

    /// A member is gone; what waited for it goes to the others.
    pub fn leave(&mut self, core: usize, conn: ConnId) {
        if let Some(at) = self
            .members
            .iter()
            .position(|m| m.core == core && m.conn == conn)
        {
            let member = self.members.swap_remove(at);
            for dealt in member.queue.into_iter().rev() {
                self.again.push_front(dealt);
            }
        }
    }

    /// A row that a member got but did not acknowledge before its session ended.
    pub fn give_back(&mut self, partition: u32, offset: u64) {
        self.again.push_back(Dealt {
            partition,
            offset,
            row: None,
            declined: Vec::new(),
        });
    }

    /// A row is done.
    pub fn done(&mut self, partition: u32, offset: u64) {
        self.outstanding.remove(&(partition, offset));
    }

    /// Members on `core`.
    pub fn has_member(&self, core: usize) -> bool {
        self.members.iter().any(|m| m.core == core)
    }

    /// The next row for a member.
    pub fn front(&mut self, core: usize, conn: ConnId) -> Option<Dealt> {
        let member = self
            .members
            .iter_mut()
            .find(|m| m.core == core && m.conn == conn)?;
        member.full = false;
        member.queue.front().cloned()
    }

    /// The member took its next row.
    pub fn pop(&mut self, core: usize, conn: ConnId) {
        if let Some(m) = self
            .members
            .iter_mut()
            .find(|m| m.core == core && m.conn == conn)
        {
            m.queue.pop_front();
        }
    }

    /// The member may not receive its next row: another one will.
    pub fn decline(&mut self, core: usize, conn: ConnId) {
        let member = self
            .members
            .iter_mut()
            .find(|m| m.core == core && m.conn == conn);
        if let Some(mut dealt) = member.and_then(|m| m.queue.pop_front()) {
            dealt.declined.push((core, conn));
            self.again.push_back(dealt);
        }
    }

    /// The member cannot take more for now.
    pub fn set_full(&mut self, core: usize, conn: ConnId) {
        if let Some(m) = self
            .members
            .iter_mut()
            .find(|m| m.core == core && m.conn == conn)
        {
            m.full = true;
        }
    }

    /// What a read from disk brought.
    pub fn thawed<S: Spine>(
        &mut self,
        spine: &S,
        partition: u32,
        result: Result<Vec<Chunk>, u64>,
    ) -> Round {
        self.reading = false;
        let mut round = Round::default();
        match result {
            Ok(chunks) => {
                self.deal_chunks(partition, &chunks, &mut round);
            }
            Err(resume) => self.set_cursor(partition, resume),
        }
        let more = self.deal(spine);
        round.wake.extend(more.wake);
        round.more |= more.more;
        round.cold = round.cold.or(more.cold);
        round
    }

    /// Deals what there is to members with room.
    pub fn deal<S: Spine>(&mut self, spine: &S) -> Round {
        let mut round = Round::default();
        if self.topology != Some(spine.topology()) {
            self.look_around(spine);
        }
        while let Some(dealt) = self.again.pop_front() {
            if let Err(dealt) = self.give(dealt, &mut round) {
                self.again.push_front(dealt);
                return round;
            }
        }
        for i in 0..self.cursors.len() {
            let (partition, _) = self.cursors[i];
            loop {
                let at = self.cursors[i].1.max(spine.start(partition));
                self.cursors[i].1 = at;
                if self.reading || at >= spine.end(partition) || !self.has_room() {
                    break;
                }
                match spine.read_cached(partition, at, CATCH_UP_READ_BYTES) {
                    None => {
                        self.reading = true;
                        round.cold = Some((partition, at));
                        break;
                    }
                    Some(chunks) if chunks.is_empty() => break,
                    Some(chunks) => {
                        if !self.deal_chunks(partition, &chunks, &mut round) {
                            return round;
                        }
                    }
                }
            }
        }
        round
    }

    fn look_around<S: Spine>(&mut self, spine: &S) {
        self.topology = Some(spine.topology());
        self.partitions = spine.partitions();
        for info in &self.partitions {
            let overlaps = info.may_match(&self.filter);
            if overlaps && !self.cursors.iter().any(|(n, _)| *n == info.number) {
                let at = self.start.get(&info.name).copied().unwrap_or(0);
                self.cursors.push((info.number, at));
            }
            let (number, again) = (info.number, &mut self.again);
            let (taken, outstanding) = (&mut self.taken, &mut self.outstanding);
            self.pending.retain(|(name, offset)| {
                if *name != info.name {
                    return true;
                }
                outstanding.insert((number, *offset));
                if !taken.remove(&(Arc::clone(name), *offset)) {
                    again.push_back(Dealt {
                        partition: number,
                        offset: *offset,
                        row: None,
                        declined: Vec::new(),
                    });
                }
                false
            });
        }
    }

    fn set_cursor(&mut self, partition: u32, at: u64) {
        if let Some(c) = self.cursors.iter_mut().find(|c| c.0 == partition) {
            c.1 = c.1.max(at);
        }
    }

    fn has_room(&self) -> bool {
        self.members.iter().any(Member::has_room)
    }

    /// Deals chunks from the cursor on; false when no member had room any more.
    fn deal_chunks(&mut self, partition: u32, chunks: &[Chunk], round: &mut Round) -> bool {
        let Some(mut at) = self.cursors.iter().find(|c| c.0 == partition).map(|c| c.1) else {
            return true;
        };
        let name = self
            .partitions
            .iter()
            .find(|p| p.number == partition)
            .map(|p| Arc::clone(&p.name));
        for chunk in chunks {
            let batch = &chunk.batch;
            let topics = batch.topic_values();
            let hits: Vec<bool> = (0..topics.len())
                .map(|i| self.filter.matches(topics.value(i)))
                .collect();
            let skip = at.saturating_sub(chunk.base) as usize;
            for row in skip..batch.rows() {
                let offset = chunk.base + row as u64;
                if hits[batch.topic_keys()[row] as usize] {
                    if let Some(name) = &name
                        && !self.taken.is_empty()
                        && self.taken.remove(&(Arc::clone(name), offset))
                    {
                        self.outstanding.insert((partition, offset));
                        continue;
                    }
                    let dealt = Dealt {
                        partition,
                        offset,
                        row: Some((batch.clone(), row)),
                        declined: Vec::new(),
                    };
                    if self.give(dealt, round).is_err() {
                        self.set_cursor(partition, offset);
                        return false;
                    }
                    self.outstanding.insert((partition, offset));
                }
            }
            at = chunk.end().max(at);
            self.set_cursor(partition, at);
        }
        true
    }

    /// Queues a row for a member; it comes back when there is no room. One that none of those who are
    /// here may receive is done.
    fn give(&mut self, dealt: Dealt, round: &mut Round) -> Result<(), Dealt> {
        let mut waits = self.members.is_empty();
        for _ in 0..self.members.len() {
            self.next = (self.next + 1) % self.members.len();
            let member = &mut self.members[self.next];
            if dealt.declined.contains(&(member.core, member.conn)) {
                continue;
            }
            waits = true;
            if member.has_room() {
                if !round.wake.contains(&member.core) {
                    round.wake.push(member.core);
                }
                member.queue.push_back(dealt);
                return Ok(());
            }
        }
        if waits {
            return Err(dealt);
        }
        self.done(dealt.partition, dealt.offset);
        Ok(())
    }
}

impl Member {
    fn has_room(&self) -> bool {
        !self.full && self.queue.len() < GROUP_QUEUE_ROWS_MAX
    }
}

/// Enters the shared subscriptions of a session read from disk, whose client is away. `record` gives
/// a group's own record.
pub fn restore_groups(
    shared: &Shared,
    session: &Session,
    record: impl Fn(&str) -> Option<Vec<u8>>,
) {
    for (_, sub) in session.live_subs().filter(|(_, s)| s.share.is_some()) {
        let group = shared.group(&sub.text, || {
            record(&sub.text)
                .and_then(|r| Group::decode(Arc::clone(&sub.text), sub.filter.clone(), &r))
                .unwrap_or_else(|| {
                    Group::new(Arc::clone(&sub.text), sub.filter.clone(), sub.since.clone())
                })
        });
        let mut group = group.lock();
        group.sessions += 1;
        for flight in session
            .in_flight
            .values()
            .filter(|f| f.group.as_ref() == Some(&sub.text))
        {
            if let Source::Log(partition, offset) = &flight.source {
                group.take(partition, *offset);
            }
        }
    }
}
