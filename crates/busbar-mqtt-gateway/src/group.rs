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

use crate::limits::{CATCH_UP_READ_BYTES, GROUP_QUEUE_ROWS_MAX};
use crate::state::{Fields, Positions, put_bytes, put_count, put_positions};
use busbar_gateway::ConnId;
use busbar_gateway::event_log::{EventLog, PartitionInfo};

/// A shared subscription.
pub struct Group {
    /// `$share/name/filter`.
    pub text: Arc<str>,
    /// What it matches.
    pub filter: Filter,
    /// Protocol that subscribe, connected or not.
    pub sessions: usize,
    members: Vec<Member>,
    next: usize,
    /// Rows to be dealt once more.
    again: VecDeque<Dealt>,
    /// Rows to be dealt once more that have to be read first: partition and offset.
    unread: BTreeSet<(u32, u64)>,
    cursors: Vec<(u32, u64)>,
    outstanding: BTreeSet<(u32, u64)>,
    topology: Option<u64>,
    partitions: Vec<PartitionInfo>,
    start: Positions,
    /// Rows that were dealt before a restart and not done.
    pending: Vec<(Arc<str>, u64)>,
    /// Of those, and of what lies behind the cursors, the rows that sessions hold in flight.
    taken: BTreeSet<(Arc<str>, u64)>,
    /// A read for the cursors is under way.
    reading: bool,
    /// A read for a row that is dealt once more is under way.
    reading_row: bool,
    /// Rows before these offsets may have been sent before the node was killed.
    maybe_sent: Positions,
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
    /// The batch that holds the row.
    pub batch: Batch,
    /// Which row of the batch.
    pub row: usize,
    /// Whether it may have been sent before.
    pub maybe_sent: bool,
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
    /// A read from disk of a row that is dealt once more.
    pub row: Option<(u32, u64)>,
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
            unread: BTreeSet::new(),
            cursors: Vec::new(),
            outstanding: BTreeSet::new(),
            topology: None,
            partitions: Vec::new(),
            start,
            pending: Vec::new(),
            taken: BTreeSet::new(),
            reading: false,
            reading_row: false,
            maybe_sent: Positions::default(),
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

    /// Rows before these offsets may have been sent before the node was killed.
    pub fn set_maybe_sent(&mut self, ends: &Positions) {
        self.maybe_sent.clone_from(ends);
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
        self.unread.insert((partition, offset));
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
    pub fn rows_read<S: EventLog>(
        &mut self,
        log: &S,
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
        let more = self.deal(log);
        round.wake.extend(more.wake);
        round.more |= more.more;
        round.cold = round.cold.or(more.cold);
        round.row = round.row.or(more.row);
        round
    }

    /// What the read of a row that is dealt once more brought: rows, or where those begin that are still
    /// there.
    pub fn row_read<S: EventLog>(
        &mut self,
        log: &S,
        partition: u32,
        offset: u64,
        result: Result<Vec<Chunk>, u64>,
    ) -> Round {
        self.reading_row = false;
        match result {
            Ok(chunks) => self.rows_found(partition, offset, &chunks),
            Err(resume) => self.rows_gone(partition, offset, resume.max(offset + 1)),
        }
        self.deal(log)
    }

    /// Deals what there is to members with room.
    pub fn deal<S: EventLog>(&mut self, log: &S) -> Round {
        let mut round = Round::default();
        if self.topology != Some(log.topology()) {
            self.refresh_partitions(log);
        }
        loop {
            while let Some(dealt) = self.again.pop_front() {
                if let Err(dealt) = self.give(dealt, &mut round) {
                    self.again.push_front(dealt);
                    return round;
                }
            }
            if !self.read_unread(log, &mut round) {
                break;
            }
        }
        for i in 0..self.cursors.len() {
            let (partition, _) = self.cursors[i];
            loop {
                let at = self.cursors[i].1.max(log.start(partition));
                self.cursors[i].1 = at;
                if self.reading || at >= log.end(partition) || !self.has_room() {
                    break;
                }
                match log.read_cached(partition, at, CATCH_UP_READ_BYTES) {
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

    /// Brings rows that are dealt once more into memory. False when there are none, or when the disk has to be
    /// read first.
    fn read_unread<S: EventLog>(&mut self, log: &S, round: &mut Round) -> bool {
        let Some(&(partition, offset)) = self.unread.first() else {
            return false;
        };
        if self.reading_row || !self.has_room() {
            return false;
        }
        let start = log.start(partition);
        if offset < start {
            self.rows_gone(partition, offset, start);
            return true;
        }
        match log.read_cached(partition, offset, 1) {
            Some(chunks) if !chunks.is_empty() => {
                self.rows_found(partition, offset, &chunks);
                true
            }
            _ => {
                self.reading_row = true;
                round.row = Some((partition, offset));
                false
            }
        }
    }

    /// Takes the rows to be dealt once more out of what was read from `offset` on.
    fn rows_found(&mut self, partition: u32, offset: u64, chunks: &[Chunk]) {
        for chunk in chunks {
            let these = (partition, chunk.base)..(partition, chunk.end());
            let found: Vec<(u32, u64)> = self.unread.range(these).copied().collect();
            for at in found {
                self.unread.remove(&at);
                self.again.push_back(Dealt {
                    partition,
                    offset: at.1,
                    batch: chunk.batch.clone(),
                    row: (at.1 - chunk.base) as usize,
                    maybe_sent: self.may_have_been_sent(partition, at.1),
                    declined: Vec::new(),
                });
            }
        }
        if self.unread.contains(&(partition, offset)) {
            self.rows_gone(partition, offset, offset + 1);
        }
    }

    /// Rows to be dealt once more that the log no longer has: they are done, and the log of the node says so.
    fn rows_gone(&mut self, partition: u32, from: u64, resume: u64) {
        let these = (partition, from)..(partition, resume);
        let gone: Vec<(u32, u64)> = self.unread.range(these).copied().collect();
        for (partition, offset) in &gone {
            self.unread.remove(&(*partition, *offset));
            self.done(*partition, *offset);
        }
        tracing::error!(
            subscription = &*self.text,
            partition = self.name_of(partition).map(|name| &**name),
            from,
            resume,
            rows = gone.len(),
            "messages of a shared subscription are no longer in the log and cannot be delivered"
        );
    }

    fn name_of(&self, partition: u32) -> Option<&Arc<str>> {
        let info = self.partitions.iter().find(|p| p.number == partition)?;
        Some(&info.name)
    }

    fn may_have_been_sent(&self, partition: u32, offset: u64) -> bool {
        !self.maybe_sent.is_empty()
            && self
                .name_of(partition)
                .and_then(|name| self.maybe_sent.get(name))
                .is_some_and(|end| offset < *end)
    }

    fn refresh_partitions<S: EventLog>(&mut self, log: &S) {
        self.topology = Some(log.topology());
        self.partitions = log.partitions();
        for info in &self.partitions {
            let overlaps = info.may_match(&self.filter);
            if overlaps && !self.cursors.iter().any(|(n, _)| *n == info.number) {
                let at = self.start.get(&info.name).copied().unwrap_or(0);
                self.cursors.push((info.number, at));
            }
            let (number, unread) = (info.number, &mut self.unread);
            let (taken, outstanding) = (&mut self.taken, &mut self.outstanding);
            self.pending.retain(|(name, offset)| {
                if *name != info.name {
                    return true;
                }
                outstanding.insert((number, *offset));
                if !taken.remove(&(Arc::clone(name), *offset)) {
                    unread.insert((number, *offset));
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
        let name = self.name_of(partition).cloned();
        let maybe_sent = name.as_ref().and_then(|name| self.maybe_sent.get(name));
        let maybe_sent = maybe_sent.copied().unwrap_or(0);
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
                        batch: batch.clone(),
                        row,
                        maybe_sent: offset < maybe_sent,
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
