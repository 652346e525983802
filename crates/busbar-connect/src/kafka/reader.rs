//! Reads partitions in the background: looks at the topics from time to time, finds where each partition begins, and reads
//! from each broker the partitions that it leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use busbar_connector::Resume;
use busbar_event::{Class, Error};
use busbar_kafka::batch::{BatchHead, OpenBatch, next_batch};
use busbar_kafka::message::{
    AbortedTransaction, FetchPartition, FetchRequest, FetchResponse, NamedPartition,
    OffsetsRequest, read_offsets,
};
use busbar_kafka::{Api, KafkaCode};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::failure::{KafkaDoing, refused, unreadable};
use super::limits::{
    FETCH_BYTES, FETCH_PARTITION_BYTES, FETCH_WAIT, METADATA_EVERY, PARTITIONS_MAX, REBALANCE_MAX,
    RECORDS_BYTES_MAX, RETRY_FIRST, RETRY_LAST,
};
use super::link::KafkaLink;
use super::member::{KafkaMember, SharedIdentity};
use super::server::{KafkaServer, address_of};
use super::start::{KeptPlace, ReadStart, TopicPattern, chosen, kept_place, note, part_name};
use super::{KafkaRead, Lost};

/// What the reader has to tell.
pub enum Arrived {
    /// A partition is read from this offset on; `kept` where it is the one that was kept.
    Begins {
        partition: Arc<ReadPartition>,
        offset: i64,
        kept: bool,
    },
    /// Records of a partition.
    Records(FetchedRecords),
    /// Nothing more comes of the partitions until they begin again: whoever waits wants to know when all of it is kept.
    HandsOver(oneshot::Sender<()>),
    /// A broker had nothing.
    Quiet,
    /// Something that people should know, after which it goes on.
    Told(Error),
    /// Why it has ended.
    Failed(Error),
}

/// Records of a partition, compressed as they came; without those of transactions that were given up.
pub struct FetchedRecords {
    pub partition: Arc<ReadPartition>,
    pub batches: Vec<(BatchHead, Bytes)>,
    /// The offset that was asked for; records before it are not meant.
    pub from: i64,
    /// The offset behind them.
    pub next: i64,
    /// The offset behind the last record that may be read.
    pub end: i64,
}

/// A partition that is read.
pub struct ReadPartition {
    pub topic: Arc<str>,
    pub number: i32,
    /// The identifier of its topic.
    pub id: [u8; 16],
    /// The name under which its position is kept.
    pub part: Arc<str>,
    /// The offset behind what was handed on.
    next: AtomicI64,
}

/// Reads, and tells what comes.
pub struct TopicReader {
    server: Arc<KafkaServer>,
    options: KafkaRead,
    patterns: Vec<TopicPattern>,
    start: ReadStart,
    resume: Resume,
    arrived: mpsc::Sender<Arrived>,
    /// The group that shares the partitions out, where this node is a member of one.
    member: Option<KafkaMember>,
    /// The topics that the group was told, with the numbers of their partitions.
    subscribed: BTreeMap<String, usize>,
    /// The partitions that are this member's.
    own: BTreeSet<NamedPartition>,
    /// Partitions that are read, by topic and number.
    known: BTreeMap<(String, i32), Arc<ReadPartition>>,
    /// Topics that were told to be missing.
    missing: BTreeSet<String>,
    /// Partitions that were told to have no leader.
    leaderless: BTreeSet<(String, i32)>,
}

/// How reading from a broker ends.
enum FetchEnd {
    /// The broker does not lead a partition any more.
    Moved,
    Failed(Error),
}

impl From<Error> for FetchEnd {
    fn from(error: Error) -> FetchEnd {
        FetchEnd::Failed(error)
    }
}

impl TopicReader {
    pub fn new(
        server: Arc<KafkaServer>,
        options: KafkaRead,
        resume: Resume,
        member: Option<SharedIdentity>,
        arrived: mpsc::Sender<Arrived>,
    ) -> TopicReader {
        let patterns = options.topics.iter();
        let member = options.group.clone().zip(member);
        let session = options.session.as_duration();
        TopicReader {
            member: member.map(|(group, identity)| {
                KafkaMember::new(Arc::clone(&server), group, session, identity)
            }),
            subscribed: BTreeMap::new(),
            own: BTreeSet::new(),
            patterns: patterns
                .filter_map(|topic| TopicPattern::new(topic))
                .collect(),
            start: ReadStart::parse(&options.start).unwrap_or(ReadStart::Earliest),
            server,
            options,
            resume,
            arrived,
            known: BTreeMap::new(),
            missing: BTreeSet::new(),
            leaderless: BTreeSet::new(),
        }
    }

    /// Reads until it fails or nobody listens.
    pub async fn run(mut self) {
        if let Err(error) = self.read().await {
            if let Some(member) = &self.member {
                member.leave().await;
            }
            // Nobody listens any more otherwise.
            let _ = self.arrived.send(Arrived::Failed(error)).await;
        }
    }

    async fn read(&mut self) -> Result<(), Error> {
        let mut link = self.server.any().await?;
        let named: Option<Vec<String>> = self
            .patterns
            .iter()
            .map(|pattern| match pattern {
                TopicPattern::Name(name) => Some(name.clone()),
                TopicPattern::Parts(_) => None,
            })
            .collect();
        let mut fetching = JoinSet::new();
        let mut plan = BTreeMap::new();
        let mut pause = RETRY_FIRST;
        loop {
            if self.member.is_some() && self.joins(&mut link, named.as_deref()).await? {
                fetching.shutdown().await;
                plan.clear();
                self.join(&mut link).await?;
            }
            let next = self.plan(&mut link, named.as_deref()).await?;
            if next != plan || fetching.is_empty() {
                // What they had asked for and not handed on is asked for again.
                fetching.shutdown().await;
                for (address, partitions) in &next {
                    let partitions = partitions.iter().filter_map(|key| self.known.get(key));
                    let fetcher = Fetcher {
                        server: Arc::clone(&self.server),
                        address: Arc::clone(address),
                        partitions: partitions.cloned().collect(),
                        lost: self.options.lost,
                        arrived: self.arrived.clone(),
                    };
                    fetching.spawn(fetcher.run());
                }
                plan = next;
            }
            let ended = tokio::select! {
                () = tokio::time::sleep(METADATA_EVERY) => None,
                moved = moved(&mut self.member) => {
                    moved?;
                    self.subscribed.clear();
                    continue;
                }
                Some(ended) = fetching.join_next() => Some(ended),
            };
            match ended {
                None => pause = RETRY_FIRST,
                Some(Ok(FetchEnd::Moved)) => {
                    // Who leads now is known in a moment.
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LAST);
                    plan.clear();
                }
                Some(Ok(FetchEnd::Failed(error))) => return Err(error),
                Some(Err(why)) => {
                    let error = Error::new(Class::Transient, "kafka.closed");
                    return Err(error
                        .with("address", self.server.addresses())
                        .caused_by(why));
                }
            }
        }
    }

    /// Whether the group has to be joined: for the first time, because it shares partitions out anew, or because there are others
    /// than it was told.
    async fn joins(
        &mut self,
        link: &mut KafkaLink,
        named: Option<&[String]>,
    ) -> Result<bool, Error> {
        let metadata = self.server.metadata(link, named).await?;
        let (chosen, _) = chosen(&self.patterns, &metadata.topics);
        let there: BTreeMap<String, usize> = chosen
            .into_iter()
            .map(|(name, topic)| (name.to_owned(), topic.partitions.len()))
            .collect();
        let leads = self.member.as_ref().is_some_and(|member| member.leads);
        // Only who shares out has to know how many there are.
        let same = match leads {
            true => there == self.subscribed,
            false => there.keys().eq(self.subscribed.keys()),
        };
        self.subscribed = there;
        Ok(!same)
    }

    /// Hands over what was read, and joins the group, which says what is read next.
    async fn join(&mut self, link: &mut KafkaLink) -> Result<(), Error> {
        if !self.known.is_empty() {
            let (waits, kept) = oneshot::channel();
            self.tell(Arrived::HandsOver(waits)).await;
            let kept = tokio::time::timeout(REBALANCE_MAX, kept).await;
            if !matches!(kept, Ok(Ok(()))) {
                let error = Error::new(Class::Transient, "kafka.group-slow");
                return Err(error.with("seconds", REBALANCE_MAX.as_secs()));
            }
        }
        for partition in std::mem::take(&mut self.known).into_values() {
            let next = partition.next.load(Ordering::Relaxed);
            let part = partition.part.to_string();
            self.resume.notes.insert(part.clone(), note(partition.id));
            self.resume
                .positions
                .insert(part, u64::try_from(next).unwrap_or(0));
        }
        self.own.clear();
        if let Some(member) = &mut self.member
            && !self.subscribed.is_empty()
        {
            let topics: Vec<String> = self.subscribed.keys().cloned().collect();
            self.own = member.join(link, &topics).await?;
        }
        Ok(())
    }

    /// Which broker is asked for which partitions; new ones are begun.
    async fn plan(
        &mut self,
        link: &mut KafkaLink,
        named: Option<&[String]>,
    ) -> Result<BTreeMap<Arc<str>, BTreeSet<(String, i32)>>, Error> {
        let metadata = self.server.metadata(link, named).await?;
        for topic in &metadata.topics {
            let code = topic.code;
            let named = self
                .patterns
                .contains(&TopicPattern::Name(topic.name.clone()));
            if named && code.is_error() && !code.wants_metadata() {
                return Err(self.refused(code, &link.address, &topic.name));
            }
        }
        let (chosen, missing) = chosen(&self.patterns, &metadata.topics);
        for topic in &missing {
            // Where nothing else is read the connection is tried again until it is there.
            let class = match chosen.is_empty() {
                true => Class::Transient,
                false => Class::Permanent,
            };
            if self.missing.insert(topic.clone()) {
                let error = Error::new(class, "kafka.no-topic")
                    .with("topic", topic)
                    .with("address", &link.address);
                match class {
                    Class::Transient => return Err(error),
                    _ => self.tell(Arrived::Told(error)).await,
                }
            }
        }
        self.missing.retain(|topic| missing.contains(topic));
        let mut plan: BTreeMap<Arc<str>, BTreeSet<(String, i32)>> = BTreeMap::new();
        let mut new: BTreeMap<Arc<str>, Vec<Arc<ReadPartition>>> = BTreeMap::new();
        let mut leaderless = BTreeSet::new();
        for (name, topic) in chosen {
            for partition in &topic.partitions {
                let number = partition.partition;
                let mut wanted = self.options.partitions.iter().flatten();
                if self.options.partitions.is_some() && !wanted.any(|wanted| *wanted == number) {
                    continue;
                }
                let key = (name.to_owned(), number);
                if self.member.is_some() && !self.own.contains(&key) {
                    continue;
                }
                let mut brokers = metadata.brokers.iter();
                let Some(leader) = brokers.find(|broker| broker.id == partition.leader) else {
                    leaderless.insert(key);
                    continue;
                };
                let leader = address_of(&leader.host, leader.port);
                match self.known.get(&key) {
                    Some(known) if known.id != topic.id => {
                        return Err(self.made_anew(name));
                    }
                    Some(_) => {}
                    None => {
                        let part = part_name(name, number, self.options.generation);
                        let partition = ReadPartition {
                            topic: name.into(),
                            number,
                            id: topic.id,
                            part: part.into(),
                            next: AtomicI64::new(0),
                        };
                        let new = new.entry(Arc::clone(&leader)).or_default();
                        new.push(Arc::new(partition));
                    }
                }
                plan.entry(leader).or_default().insert(key);
            }
        }
        for (topic, number) in leaderless.difference(&self.leaderless) {
            let error = Error::new(Class::Permanent, "kafka.no-leader")
                .with("topic", topic)
                .with("partition", number);
            self.tell(Arrived::Told(error)).await;
        }
        self.leaderless = leaderless;
        let count: usize = plan.values().map(BTreeSet::len).sum();
        if count > PARTITIONS_MAX {
            let error = Error::new(Class::Configuration, "kafka.too-many");
            return Err(error.with("count", count).with("most", PARTITIONS_MAX));
        }
        let told = self.told(link, new.values().flatten()).await?;
        for (leader, partitions) in new {
            self.begin(&leader, partitions, &told).await?;
        }
        // Those that could not be begun are taken up the next time.
        for partitions in plan.values_mut() {
            partitions.retain(|key| self.known.contains_key(key));
        }
        plan.retain(|_, partitions| !partitions.is_empty());
        Ok(plan)
    }

    /// How far the group knows that new partitions have been read.
    async fn told(
        &self,
        link: &mut KafkaLink,
        partitions: impl Iterator<Item = &Arc<ReadPartition>>,
    ) -> Result<BTreeMap<NamedPartition, i64>, Error> {
        let mut partitions: Vec<(&str, i32)> = partitions
            .map(|partition| (&*partition.topic, partition.number))
            .collect();
        partitions.sort_unstable();
        match &self.member {
            Some(member) if !partitions.is_empty() => member.offsets(link, &partitions).await,
            _ => Ok(BTreeMap::new()),
        }
    }

    /// Finds where new partitions of one broker begin, and tells it.
    async fn begin(
        &mut self,
        leader: &Arc<str>,
        partitions: Vec<Arc<ReadPartition>>,
        told: &BTreeMap<NamedPartition, i64>,
    ) -> Result<(), Error> {
        let mut unread = Vec::new();
        for partition in partitions {
            let told = told.get(&(partition.topic.to_string(), partition.number));
            match kept_place(&self.resume, &partition.part, partition.id) {
                // Others may have read on since; what this node has read, and the group does not know, it does not read again.
                KeptPlace::At(offset) => {
                    let begin = told.map_or(offset, |told| offset.max(*told));
                    self.begins(partition, begin, begin == offset).await;
                }
                KeptPlace::None if told.is_some() => {
                    let begin = told.copied().unwrap_or_default();
                    self.begins(partition, begin, false).await;
                }
                KeptPlace::None => unread.push(partition),
                KeptPlace::OtherTopic => return Err(self.made_anew(&partition.topic)),
            }
        }
        if unread.is_empty() {
            return Ok(());
        }
        let mut link = KafkaLink::open(&self.server, leader).await?;
        unread.sort_by(|a, b| (&a.topic, a.number).cmp(&(&b.topic, b.number)));
        let mut offsets = self.offsets(&mut link, &unread, self.start.asked()).await?;
        if matches!(self.start, ReadStart::Time(_)) {
            // No record is as young as the time: what comes from now on is.
            let late: Vec<_> = offsets.iter().map(|offset| *offset == Some(-1)).collect();
            if late.contains(&true) {
                let ends = self.offsets(&mut link, &unread, OffsetsRequest::LATEST);
                for ((offset, end), late) in offsets.iter_mut().zip(ends.await?).zip(late) {
                    if late {
                        *offset = end;
                    }
                }
            }
        }
        for (partition, offset) in unread.into_iter().zip(offsets) {
            if let Some(offset) = offset {
                self.begins(partition, offset, false).await;
            }
        }
        Ok(())
    }

    async fn begins(&mut self, partition: Arc<ReadPartition>, offset: i64, kept: bool) {
        partition.next.store(offset, Ordering::Relaxed);
        let key = (partition.topic.to_string(), partition.number);
        self.known.insert(key, Arc::clone(&partition));
        self.tell(Arrived::Begins {
            partition,
            offset,
            kept,
        })
        .await;
    }

    /// The offsets of partitions by time; `None` where the leader changes just now.
    async fn offsets(
        &self,
        link: &mut KafkaLink,
        partitions: &[Arc<ReadPartition>],
        time: i64,
    ) -> Result<Vec<Option<i64>>, Error> {
        let asked: Vec<_> = partitions
            .iter()
            .map(|partition| (&*partition.topic, partition.number, time))
            .collect();
        let mut all = vec![None; partitions.len()];
        for (topic, number, offset) in offsets(link, &asked).await? {
            let at = partitions
                .iter()
                .position(|known| *known.topic == topic && known.number == number);
            match (at, offset) {
                (Some(at), Ok(offset)) => all[at] = Some(offset),
                (_, Err(code)) if !code.is_retriable() => {
                    return Err(self.refused(code, &link.address, &topic));
                }
                _ => {}
            }
        }
        Ok(all)
    }

    fn refused(&self, code: KafkaCode, address: &str, topic: &str) -> Error {
        read_refused(&self.server, code, address, topic)
    }

    fn made_anew(&self, topic: &str) -> Error {
        Error::new(Class::Configuration, "kafka.made-anew")
            .with("topic", topic)
            .with("generation", self.options.generation + 1)
    }

    async fn tell(&self, arrived: Arrived) {
        // Nobody listens any more where this fails; the task is about to be ended.
        let _ = self.arrived.send(arrived).await;
    }
}

/// Waits until the group has to be joined again; for ever without one.
async fn moved(member: &mut Option<KafkaMember>) -> Result<(), Error> {
    match member {
        Some(member) => member.moved().await,
        None => std::future::pending().await,
    }
}

/// Topic, partition and its offset.
type PartitionOffset = (String, i32, Result<i64, KafkaCode>);

/// Asks a leader for offsets by time.
async fn offsets(
    link: &mut KafkaLink,
    partitions: &[(&str, i32, i64)],
) -> Result<Vec<PartitionOffset>, Error> {
    let request = OffsetsRequest {
        partitions,
        committed: true,
    };
    let asked = link.call(Api::ListOffsets, |w, version| request.write(w, version));
    let answer = asked.await?;
    let offsets = answer.read(|r, _| read_offsets(r))?;
    let owned = |(topic, number, offset): (&str, i32, _)| (topic.to_owned(), number, offset);
    Ok(offsets.into_iter().map(owned).collect())
}

fn read_refused(server: &KafkaServer, code: KafkaCode, address: &str, topic: &str) -> Error {
    let resource = format!("--topic '{topic}'");
    let doing = KafkaDoing {
        resource: &resource,
        operation: "Read",
        ..server.doing(address)
    };
    refused(code, doing)
}

/// Reads the partitions that one broker leads.
struct Fetcher {
    server: Arc<KafkaServer>,
    address: Arc<str>,
    partitions: Vec<Arc<ReadPartition>>,
    lost: Lost,
    arrived: mpsc::Sender<Arrived>,
}

impl Fetcher {
    async fn run(self) -> FetchEnd {
        match self.fetch().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn fetch(&self) -> Result<std::convert::Infallible, FetchEnd> {
        let mut link = KafkaLink::open(&self.server, &self.address).await?;
        // Ahead of what was handed on while the next answer is under way.
        let next = self.partitions.iter();
        let mut next: Vec<_> = next.map(|p| p.next.load(Ordering::Relaxed)).collect();
        self.ask(&mut link, &next)?;
        loop {
            let answer = link.receive().await?;
            let response = answer.read(FetchResponse::read)?;
            if response.code.is_error() {
                let error = read_refused(&self.server, response.code, &self.address, "*");
                return Err(error.into());
            }
            let mut fetched = Vec::new();
            let mut lost = Vec::new();
            for part in response.partitions {
                let mut known = self.partitions.iter();
                let at = known.position(|known| {
                    *known.topic == *part.topic && known.number == part.partition
                });
                let Some(at) = at else { continue };
                match part.code {
                    KafkaCode::NONE => {}
                    KafkaCode::OFFSET_OUT_OF_RANGE => {
                        lost.push(at);
                        continue;
                    }
                    code if code.wants_metadata() => return Err(FetchEnd::Moved),
                    code => {
                        let error = read_refused(&self.server, code, &self.address, part.topic);
                        return Err(error.into());
                    }
                }
                let from = next[at];
                let records = answer.body.slice(part.records);
                let any = !records.is_empty();
                let (batches, behind) = self.committed(records, part.aborted, from, at)?;
                if any && behind == from {
                    // A batch that does not fit is sent whole, so that this one is cut off for another reason.
                    let error = Error::new(Class::Transient, "kafka.strange")
                        .with("address", &self.address)
                        .with("what", "a partition without a whole record batch");
                    return Err(error.into());
                }
                next[at] = behind;
                fetched.push(FetchedRecords {
                    partition: Arc::clone(&self.partitions[at]),
                    batches,
                    from,
                    next: behind,
                    end: part.end,
                });
            }
            for at in lost {
                next[at] = self.find(&mut link, at, next[at]).await?;
            }
            // The broker looks for the next ones while these are handed on.
            self.ask(&mut link, &next)?;
            if fetched.iter().all(|one| one.next == one.from) {
                self.hand(Arrived::Quiet, None).await?;
            }
            for one in fetched {
                let reached = (Arc::clone(&one.partition), one.next);
                self.hand(Arrived::Records(one), Some(reached)).await?;
            }
        }
    }

    fn ask(&self, link: &mut KafkaLink, next: &[i64]) -> Result<(), Error> {
        let partitions = self.partitions.iter().zip(next);
        let partitions: Vec<_> = partitions
            .map(|(partition, offset)| FetchPartition {
                topic: &partition.topic,
                partition: partition.number,
                offset: *offset,
            })
            .collect();
        let request = FetchRequest {
            wait_millis: FETCH_WAIT.min(self.server.timeout / 2).as_millis() as i32,
            most_bytes: FETCH_BYTES,
            partition_bytes: FETCH_PARTITION_BYTES,
            committed: true,
            partitions: &partitions,
        };
        link.send(Api::Fetch, |w, version| request.write(w, version))
    }

    /// Hands something on, and notes how far that reaches: both or neither when this is dropped.
    async fn hand(
        &self,
        arrived: Arrived,
        reached: Option<(Arc<ReadPartition>, i64)>,
    ) -> Result<(), Error> {
        let room = self.arrived.reserve().await;
        let room = room.map_err(|_| super::failure::closed(&self.address))?;
        room.send(arrived);
        if let Some((partition, next)) = reached {
            partition.next.store(next, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The batches that count, without those of transactions that were given up, and the offset behind all of them.
    fn committed(
        &self,
        mut records: Bytes,
        mut aborted: Vec<AbortedTransaction>,
        from: i64,
        at: usize,
    ) -> Result<(Vec<(BatchHead, Bytes)>, i64), Error> {
        let unreadable = |why, offset| {
            let partition = &self.partitions[at];
            unreadable(&self.address, why)
                .with("topic", &partition.topic)
                .with("partition", partition.number)
                .with("offset", offset)
        };
        aborted.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
        let mut given_up = BTreeSet::new();
        let mut batches = Vec::new();
        let mut next = from;
        while let Some((head, bytes)) =
            next_batch(&mut records).map_err(|why| unreadable(why, next))?
        {
            while let Some(transaction) =
                aborted.pop_if(|transaction| transaction.first_offset <= head.last_offset)
            {
                given_up.insert(transaction.producer_id);
            }
            next = next.max(head.last_offset + 1);
            if head.control {
                let batch = OpenBatch::new(head, bytes, RECORDS_BYTES_MAX);
                let aborts = batch.and_then(OpenBatch::aborts);
                if aborts.map_err(|why| unreadable(why, head.base_offset))? {
                    given_up.remove(&head.producer_id);
                }
            } else if !(head.transactional && given_up.contains(&head.producer_id))
                && head.last_offset >= from
            {
                batches.push((head, bytes));
            }
        }
        Ok((batches, next))
    }

    /// Where to go on with a partition that has no record at the offset that was asked for.
    async fn find(&self, link: &mut KafkaLink, at: usize, asked: i64) -> Result<i64, FetchEnd> {
        let partition = &self.partitions[at];
        let mut found = [0; 2];
        let times = [OffsetsRequest::EARLIEST, OffsetsRequest::LATEST];
        for (place, time) in found.iter_mut().zip(times) {
            let question = [(&*partition.topic, partition.number, time)];
            for (_, _, offset) in offsets(link, &question).await? {
                *place = match offset {
                    Ok(offset) => offset,
                    Err(code) if code.is_retriable() => return Err(FetchEnd::Moved),
                    Err(code) => {
                        let topic = &partition.topic;
                        let error = read_refused(&self.server, code, &self.address, topic);
                        return Err(error.into());
                    }
                };
            }
        }
        let [oldest, end] = found;
        let told = |class, code| {
            Error::new(class, code)
                .with("topic", &partition.topic)
                .with("partition", partition.number)
                .with("position", asked)
                .with("oldest", oldest)
                .with("end", end)
                .with("count", oldest.saturating_sub(asked))
        };
        if asked > end {
            return Err(told(Class::Configuration, "kafka.ahead").into());
        }
        if asked >= oldest {
            // It was there again in the meantime.
            return Ok(asked);
        }
        if self.lost == Lost::Stop {
            return Err(told(Class::Configuration, "kafka.lost").into());
        }
        let error = told(Class::Permanent, "kafka.skipped");
        self.hand(Arrived::Told(error), None).await?;
        let begins = Arrived::Begins {
            partition: Arc::clone(partition),
            offset: oldest,
            kept: false,
        };
        self.hand(begins, Some((Arc::clone(partition), oldest)))
            .await?;
        Ok(oldest)
    }
}
